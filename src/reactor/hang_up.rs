//! Whether somebody is still at the other end of a socket.

use std::os::fd::{AsFd, AsRawFd};

/// Whether the peer of a stream socket has gone: closed it, not merely sent all it had to send. Does not wait, and reads nothing.
pub fn hung_up(socket: &impl AsFd) -> bool {
    let mut watched = libc::pollfd {
        fd: socket.as_fd().as_raw_fd(),
        // A hang-up is told in any case.
        events: 0,
        revents: 0,
    };
    // SAFETY: one valid entry, for the length of the call; the descriptor is open as long as it is borrowed.
    let ready = unsafe { libc::poll(&mut watched, 1, 0) };
    ready == 1 && watched.revents & (libc::POLLHUP | libc::POLLERR) != 0
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_peer_that_has_only_ended_its_requests_is_there() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        assert!(!hung_up(&ours));
        theirs.write_all(b"unread").unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        assert!(!hung_up(&ours), "it waits for the answer");
        ours.shutdown(Shutdown::Read).unwrap();
        assert!(!hung_up(&ours));
        drop(theirs);
        assert!(hung_up(&ours));
    }
}
