//! Hanging up on hosts, before anything is taken away from them: SPDK's targets offer no way to do so. What they would do instead is
//! to tell a host first that its disk is gone, which is an I/O error, and of iSCSI to wait half a minute for it to log out. A host that
//! only loses its connection waits, and finds its disk again after a restart.

use std::fs;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// Where hosts connect.
#[derive(Default)]
pub(super) struct Listeners {
    /// Over TCP.
    pub addresses: Vec<SocketAddr>,
    /// By UNIX sockets, as those of vfio-user are.
    pub sockets: Vec<PathBuf>,
}

/// Shuts down every socket of this process whose own address is one of `listeners`: those that listen, and their connections. Their
/// owners see that they have ended, and close them.
pub(super) fn hang_up(listeners: &Listeners) {
    // Without /proc hosts hear of it in the way that SPDK has.
    let Ok(files) = fs::read_dir("/proc/self/fd") else {
        return;
    };
    for file in files.flatten() {
        // Nothing but sockets is opened again, not for a moment: a process that closes a file loses its locks on it, as are SPDK's on CPUs and
        // PCI devices.
        let is_socket = fs::read_link(file.path())
            .is_ok_and(|target| target.as_os_str().as_bytes().starts_with(b"socket:["));
        if !is_socket {
            continue;
        }
        let number = file.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(file) = number.and_then(owned) else {
            continue;
        };
        let socket = TcpStream::from(file);
        if let Ok(own) = socket.local_addr() {
            let addresses = &listeners.addresses;
            if addresses.iter().any(|listener| reaches(*listener, own)) {
                // One that its host has closed meanwhile is no loss.
                let _ = socket.shutdown(Shutdown::Both);
            }
            continue;
        }
        let socket = UnixStream::from(OwnedFd::from(socket));
        if let Ok(own) = socket.local_addr()
            && let Some(path) = own.as_pathname()
            && listeners.sockets.iter().any(|listener| listener == path)
        {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// A handle of our own to what an open file is.
fn owned(number: RawFd) -> Option<OwnedFd> {
    if number < 0 {
        return None;
    }
    // SAFETY: only borrowed to be duplicated, which says so if nothing is open under this number any more. If something else is by then, its
    // own address decides as well.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    borrowed.try_clone_to_owned().ok()
}

/// Whether a socket of this address is a listener's, or was accepted by it.
fn reaches(listener: SocketAddr, own: SocketAddr) -> bool {
    listener.port() == own.port() && (listener.ip().is_unspecified() || listener.ip() == own.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixListener;

    /// Of two listeners with a connection each, one is hung up on.
    #[test]
    fn whoever_listens_elsewhere_is_left_alone() {
        let pair = || {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("bound");
            let host = TcpStream::connect(address).expect("connected");
            let (accepted, _) = listener.accept().expect("accepted");
            (listener, address, host, accepted)
        };
        let (listener, address, mut host, _accepted) = pair();
        let (other, _, other_host, _other_accepted) = pair();
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("cntrl");
        let unix = UnixListener::bind(&path).expect("a socket");
        let mut near = UnixStream::connect(&path).expect("connected");
        let (_near_accepted, _) = unix.accept().expect("accepted");
        hang_up(&Listeners {
            addresses: vec![address],
            sockets: vec![path],
        });
        assert_eq!(near.read(&mut [0]).expect("no error"), 0, "the end");
        assert_eq!(host.read(&mut [0]).expect("no error"), 0, "the end");
        assert!(TcpStream::connect(address).is_err(), "nobody listens");
        drop(listener);
        other_host.set_nonblocking(true).expect("set");
        let waits = (&other_host).read(&mut [0]).expect_err("nothing has come");
        assert_eq!(waits.kind(), std::io::ErrorKind::WouldBlock);
        TcpStream::connect(other.local_addr().expect("bound")).expect("still listens");
    }

    /// A process's locks on its files stay, as those by which SPDK takes CPUs for itself. A lock of an open file's own would be refused beside one.
    #[test]
    fn locks_are_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lock");
        let file = fs::File::create(&path).expect("a file");
        let other = fs::File::options().write(true).open(&path);
        let other = other.expect("the same file");
        // SAFETY: integers, of which zeroes say "all of the file".
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = libc::F_WRLCK as libc::c_short;
        // SAFETY: an open file, and a lock that the call only reads.
        let locked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &lock) };
        assert_eq!(locked, 0);
        hang_up(&Listeners::default());
        // SAFETY: as above; the call writes what is in the way into the lock.
        let asked = unsafe { libc::fcntl(other.as_raw_fd(), libc::F_OFD_GETLK, &mut lock) };
        assert_eq!(asked, 0);
        assert_eq!(lock.l_type, libc::F_WRLCK as libc::c_short, "still locked");
    }
}
