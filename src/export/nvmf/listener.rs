//! Listening sockets: bound by whoever starts the target, accepted from by one core.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// An address that the target cannot listen on.
#[derive(Debug)]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// Why not.
    pub error: io::Error,
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let address = self.address;
        match self.error.kind() {
            io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "cannot listen on {address}: another process does; stop it or choose another port"
                )
            }
            io::ErrorKind::AddrNotAvailable => {
                write!(
                    f,
                    "cannot listen on {address}: no network interface of this machine has that address"
                )
            }
            io::ErrorKind::PermissionDenied => {
                write!(
                    f,
                    "cannot listen on {address}: ports below 1024 need privileges; NVMe/TCP's own is 4420"
                )
            }
            _ => write!(f, "cannot listen on {address}: {}", self.error),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Binds every address, or none.
///
/// # Errors
/// The first address that cannot be had.
pub fn bind(addresses: &[SocketAddr]) -> Result<(Vec<TcpListener>, Vec<SocketAddr>), BindError> {
    let mut listeners = Vec::new();
    let mut bound = Vec::new();
    for &address in addresses {
        let open = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let local = listener.local_addr()?;
            Ok((listener, local))
        };
        let (listener, local) = open().map_err(|error| BindError { address, error })?;
        listeners.push(listener);
        bound.push(local);
    }
    Ok((listeners, bound))
}

/// What a listener had.
pub enum Acceptance {
    /// A connection.
    Accepted(OwnedFd),
    /// No more for now.
    Nothing,
    /// The process or the system has no descriptors or memory left.
    Exhausted,
}

/// The listeners of the core that accepts; none elsewhere.
pub struct Listeners(Vec<TcpListener>);

impl Listeners {
    /// Listeners that do not block.
    pub fn new(listeners: Vec<TcpListener>) -> Self {
        Self(listeners)
    }

    /// Their descriptors, numbered.
    pub fn fds(&self) -> Vec<(usize, RawFd)> {
        self.0.iter().map(AsRawFd::as_raw_fd).enumerate().collect()
    }

    /// Stops listening.
    pub fn close(&mut self) {
        self.0.clear();
    }

    /// The next connection of a listener.
    pub fn accept(&self, index: usize) -> Acceptance {
        let Some(listener) = self.0.get(index) else {
            return Acceptance::Nothing;
        };
        loop {
            match listener.accept() {
                Ok((socket, _)) => return Acceptance::Accepted(socket.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Acceptance::Nothing;
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                        return Acceptance::Exhausted;
                    }
                    // A connection that was gone before it was accepted, or a signal: try the next (accept(2)).
                    Some(
                        libc::EINTR
                        | libc::ECONNABORTED
                        | libc::EPROTO
                        | libc::ENETDOWN
                        | libc::EHOSTUNREACH,
                    ) => {}
                    _ => return Acceptance::Nothing,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_named() {
        let (_listeners, bound) = bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let error = bind(&bound).unwrap_err();
        assert_eq!(error.address, bound[0]);
        assert!(
            error.to_string().contains("another process does"),
            "{error}"
        );
    }

    #[test]
    fn accepting_ends_when_there_is_no_more() {
        let (listeners, bound) = bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let listeners = Listeners::new(listeners);
        assert!(matches!(listeners.accept(0), Acceptance::Nothing));
        assert!(matches!(listeners.accept(1), Acceptance::Nothing));
        let _host = std::net::TcpStream::connect(bound[0]).unwrap();
        assert!(matches!(listeners.accept(0), Acceptance::Accepted(_)));
    }
}
