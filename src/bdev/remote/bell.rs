//! Wakes whoever sleeps on a descriptor: a pair of sockets, because a byte in one needs no `unsafe`.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

pub(super) struct Bell {
    ringer: UnixStream,
    heard: UnixStream,
}

impl Bell {
    /// # Errors
    /// Without descriptors to be had.
    pub(super) fn new() -> io::Result<Bell> {
        let (ringer, heard) = UnixStream::pair()?;
        ringer.set_nonblocking(true)?;
        heard.set_nonblocking(true)?;
        Ok(Bell { ringer, heard })
    }

    /// Makes [`Bell::fd`] readable.
    pub(super) fn ring(&self) {
        // The only failure is that it is full of rings that nobody has heard yet.
        let _ = (&self.ringer).write(&[1]);
    }

    /// Takes all rings so far. Who looks for what it was rung for, looks after this.
    pub(super) fn silence(&self) {
        let mut rings = [0; 64];
        while (&self.heard).read(&mut rings).is_ok_and(|count| count > 0) {}
    }

    /// Sleeps until it is rung, or until `deadline`.
    pub(super) fn wait(&self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut ring = [0];
        // A timeout of zero would be one without end. It blocks because it is told to for this once.
        if !left.is_zero() && self.heard.set_read_timeout(Some(left)).is_ok() {
            let blocking = self.heard.set_nonblocking(false);
            let _ = blocking.and_then(|()| (&self.heard).read(&mut ring));
            let _ = self.heard.set_nonblocking(true);
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.heard.as_fd()
    }
}
