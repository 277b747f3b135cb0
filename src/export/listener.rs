//! Listening sockets: bound by whoever starts the target, accepted from by one core.

use std::io;
use std::net::{SocketAddr, SocketAddrV6, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

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
                    "cannot listen on {address}: ports below 1024 need privileges"
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
            let listener = match address {
                SocketAddr::V4(_) => TcpListener::bind(address)?,
                SocketAddr::V6(address) => bind_v6(address)?,
            };
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

/// Connections that may wait to be accepted on an IPv6 listener: what the standard library takes as well, and what Linux cuts to
/// `net.core.somaxconn`.
const BACKLOG: libc::c_int = 4096;

/// Listens for IPv6 alone. The standard library's listener on `[::]` takes IPv4 connections too, so that `0.0.0.0` and `[::]` cannot
/// both be had; and whether they can would depend on a setting of the machine (`net.ipv6.bindv6only`).
fn bind_v6(address: SocketAddrV6) -> io::Result<TcpListener> {
    let succeeded = |result: libc::c_int| match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: no pointer is passed.
    let fd = succeeded(unsafe { libc::socket(libc::AF_INET6, kind, 0) })?;
    // SAFETY: the socket was just made, and nobody else has its descriptor.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let options = [
        (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
        // As the standard library does: connections of a target that has just ended do not keep the next from its port.
        (libc::SOL_SOCKET, libc::SO_REUSEADDR),
    ];
    for (level, option) in options {
        let on: libc::c_int = 1;
        let size = size_of_val(&on) as libc::socklen_t;
        // SAFETY: the option's value is the integer pointed to, of the size given.
        succeeded(unsafe { libc::setsockopt(fd, level, option, (&raw const on).cast(), size) })?;
    }
    let name = libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as libc::sa_family_t,
        sin6_port: address.port().to_be(),
        sin6_flowinfo: address.flowinfo(),
        sin6_addr: libc::in6_addr {
            s6_addr: address.ip().octets(),
        },
        sin6_scope_id: address.scope_id(),
    };
    let size = size_of_val(&name) as libc::socklen_t;
    // SAFETY: the address pointed to is whole and of the size given.
    succeeded(unsafe { libc::bind(fd, (&raw const name).cast(), size) })?;
    // SAFETY: no pointer is passed.
    succeeded(unsafe { libc::listen(fd, BACKLOG) })?;
    Ok(socket.into())
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

/// The listeners of the core that accepts; none elsewhere. Each keeps its number; that of one that was closed is free.
pub struct Listeners(Vec<Option<TcpListener>>);

impl Listeners {
    /// Listeners that do not block.
    pub fn new(listeners: Vec<TcpListener>) -> Self {
        Self(listeners.into_iter().map(Some).collect())
    }

    /// One more; its number and descriptor.
    pub fn add(&mut self, listener: TcpListener) -> (usize, RawFd) {
        let fd = listener.as_raw_fd();
        let free = self.0.iter().position(Option::is_none);
        let number = free.unwrap_or_else(|| {
            self.0.push(None);
            self.0.len() - 1
        });
        self.0[number] = Some(listener);
        (number, fd)
    }

    /// The listener on an address: its number, and what closes it when it is dropped.
    pub fn take(&mut self, address: SocketAddr) -> Option<(usize, TcpListener)> {
        let on = |listener: &TcpListener| listener.local_addr().is_ok_and(|local| local == address);
        let mut listeners = self.0.iter_mut().enumerate();
        listeners.find_map(|(number, place)| Some((number, place.take_if(|one| on(one))?)))
    }

    /// Their descriptors, numbered.
    pub fn fds(&self) -> Vec<(usize, RawFd)> {
        let numbered = self.0.iter().enumerate();
        numbered
            .filter_map(|(number, listener)| Some((number, listener.as_ref()?.as_raw_fd())))
            .collect()
    }

    /// Stops listening.
    pub fn close(&mut self) {
        self.0.clear();
    }

    /// The next connection of a listener.
    pub fn accept(&self, index: usize) -> Acceptance {
        let Some(listener) = self.0.get(index).and_then(Option::as_ref) else {
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

    /// The mapped address stands for IPv4, which a socket of both families would take; so `0.0.0.0` and `[::]` go together.
    #[test]
    fn ipv6_listeners_leave_ipv4_alone() {
        let mapped = "[::ffff:127.0.0.1]:0".parse().unwrap();
        assert_eq!(bind(&[mapped]).unwrap_err().address, mapped);
        match bind(&["[::1]:0".parse().unwrap()]) {
            Ok((listeners, bound)) => {
                assert!(bound[0].is_ipv6() && bound[0].port() != 0);
                let listeners = Listeners::new(listeners);
                assert!(matches!(listeners.accept(0), Acceptance::Nothing));
                let _host = std::net::TcpStream::connect(bound[0]).unwrap();
                assert!(matches!(listeners.accept(0), Acceptance::Accepted(_)));
                assert_eq!(
                    bind(&bound).unwrap_err().error.kind(),
                    io::ErrorKind::AddrInUse
                );
            }
            // A machine without IPv6.
            Err(error) => assert!(
                matches!(
                    error.error.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
                ),
                "{error}"
            ),
        }
    }

    #[test]
    fn listeners_come_and_go() {
        // Where nobody else takes a port that is free for a moment.
        let any = "127.77.0.1:0".parse().unwrap();
        let (listeners, bound) = bind(&[any, any, any]).unwrap();
        let mut listeners = Listeners::new(listeners);
        assert!(listeners.take(any).is_none(), "no listener has port 0");
        let (number, taken) = listeners.take(bound[1]).unwrap();
        assert_eq!(number, 1);
        drop(taken);
        assert!(listeners.take(bound[1]).is_none());
        let numbers = |listeners: &Listeners| -> Vec<usize> {
            listeners
                .fds()
                .into_iter()
                .map(|(number, _)| number)
                .collect()
        };
        assert_eq!(numbers(&listeners), [0, 2]);
        assert!(matches!(listeners.accept(1), Acceptance::Nothing));
        // The address can be had again, under the number that is free; the next has one of its own.
        let (again, _) = bind(&[bound[1], any]).unwrap();
        for (listener, expected) in again.into_iter().zip([1, 3]) {
            assert_eq!(listeners.add(listener).0, expected);
        }
        assert_eq!(numbers(&listeners), [0, 1, 2, 3]);
        let _host = std::net::TcpStream::connect(bound[1]).unwrap();
        assert!(matches!(listeners.accept(1), Acceptance::Accepted(_)));
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
