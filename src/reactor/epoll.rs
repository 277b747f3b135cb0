//! Readiness of file descriptors: epoll, and the eventfd that wakes a sleeping reactor.

use std::io;
use std::ops::BitOr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// The token of a reactor's own eventfd. Refused by [`Epoll::watch`].
const TOKEN_BELL: u64 = u64::MAX;

/// At most this many ready descriptors are taken by one look, so that a thousand sockets do not starve the rest of a turn. The
/// kernel hands them out in rotation, so none is starved either.
const EVENTS_PER_LOOK: usize = 64;

/// What a descriptor is watched for. Errors and hang-ups are always reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest(u32);

impl Interest {
    /// Nothing but errors and hang-ups.
    pub const NONE: Interest = Interest(0);
    /// Something to read, or the peer has closed its side.
    pub const READ: Interest = Interest((libc::EPOLLIN | libc::EPOLLRDHUP) as u32);
    /// Room to write.
    pub const WRITE: Interest = Interest(libc::EPOLLOUT as u32);
    /// Report once per change instead of at every look (edge-triggered): for whoever reads until EAGAIN, or polls the
    /// descriptor anyway and only needs to hear of it in sleep.
    pub const EDGE: Interest = Interest(libc::EPOLLET as u32);
}

impl BitOr for Interest {
    type Output = Interest;
    fn bitor(self, other: Interest) -> Interest {
        Interest(self.0 | other.0)
    }
}

/// What a descriptor is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness(u32);

impl Readiness {
    /// Reading will not block: data, end of file, or an error to be fetched.
    pub fn readable(self) -> bool {
        let bits = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR;
        self.0 & bits as u32 != 0
    }

    /// Writing will not block: room, or an error to be fetched.
    pub fn writable(self) -> bool {
        let bits = libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR;
        self.0 & bits as u32 != 0
    }

    /// The connection is gone in both directions, or has an error.
    pub fn failed(self) -> bool {
        self.0 & (libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0
    }
}

pub(crate) struct Epoll {
    fd: OwnedFd,
    events: [libc::epoll_event; EVENTS_PER_LOOK],
    /// Of `events`, those taken by the last look.
    filled: usize,
    next: usize,
    /// Watched descriptors, the bell not counted.
    watched: usize,
    /// Whether the kernel has epoll_pwait2 (5.11); without, sleeps are rounded up to a millisecond.
    nanoseconds: bool,
}

impl Epoll {
    /// An epoll set that already watches `bell`.
    pub(crate) fn new(bell: RawFd) -> io::Result<Epoll> {
        // SAFETY: takes no pointers; the result is checked.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just created and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let epoll = Epoll {
            fd,
            events: [libc::epoll_event { events: 0, u64: 0 }; EVENTS_PER_LOOK],
            filled: 0,
            next: 0,
            watched: 0,
            nanoseconds: true,
        };
        epoll.control(libc::EPOLL_CTL_ADD, bell, Interest::READ, TOKEN_BELL)?;
        Ok(epoll)
    }

    fn control(&self, verb: i32, fd: RawFd, interest: Interest, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest.0,
            u64: token,
        };
        // SAFETY: `event` is valid for the call; a wrong `fd` is answered with an error.
        let result = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), verb, fd, &mut event) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    pub(crate) fn watch(&mut self, fd: RawFd, interest: Interest, token: u64) -> io::Result<()> {
        assert_ne!(token, TOKEN_BELL, "this token is the reactor's own");
        self.control(libc::EPOLL_CTL_ADD, fd, interest, token)?;
        self.watched += 1;
        Ok(())
    }

    pub(crate) fn rewatch(&mut self, fd: RawFd, interest: Interest, token: u64) -> io::Result<()> {
        assert_ne!(token, TOKEN_BELL, "this token is the reactor's own");
        self.control(libc::EPOLL_CTL_MOD, fd, interest, token)
    }

    pub(crate) fn unwatch(&mut self, fd: RawFd, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, Interest::NONE, token)?;
        self.watched -= 1;
        // What the last look found and was not delivered yet must not reach whoever gets the token next.
        let mut kept = self.next;
        for index in self.next..self.filled {
            if self.events[index].u64 != token {
                self.events[kept] = self.events[index];
                kept += 1;
            }
        }
        self.filled = kept;
        Ok(())
    }

    #[inline]
    pub(crate) fn watched(&self) -> usize {
        self.watched
    }

    /// Its own descriptor, which can be watched in turn: it is readable while there is something to look at.
    pub(crate) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Looks for ready descriptors; waits for one at most `timeout` (`None`: for ever).
    pub(crate) fn look(&mut self, timeout: Option<Duration>) {
        debug_assert_eq!(self.next, self.filled, "the last look is delivered first");
        self.next = 0;
        let count = self.wait(timeout);
        // EINTR is a look that found nothing. Nothing else can happen to a valid set, and if it did, the
        // service would hang in silence.
        self.filled = match usize::try_from(count) {
            Ok(count) => count,
            Err(_) => {
                let error = io::Error::last_os_error();
                assert_eq!(error.raw_os_error(), Some(libc::EINTR), "epoll: {error}");
                0
            }
        };
    }

    fn wait(&mut self, timeout: Option<Duration>) -> i32 {
        let set = self.fd.as_raw_fd();
        let room = EVENTS_PER_LOOK as i32;
        if self.nanoseconds && timeout.is_some_and(|timeout| !timeout.is_zero()) {
            let timeout = timeout.unwrap_or_default();
            let wait = libc::timespec {
                tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(timeout.subsec_nanos()),
            };
            // SAFETY: `events` has room for `room` entries, `wait` lives through the call, and no signal mask is given.
            let count = unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    set,
                    self.events.as_mut_ptr(),
                    room,
                    &raw const wait,
                    std::ptr::null::<libc::sigset_t>(),
                    0usize,
                )
            };
            if count >= 0 || !is_unknown_call(&io::Error::last_os_error()) {
                return count as i32;
            }
            self.nanoseconds = false;
        }
        let milliseconds = match timeout {
            None => -1,
            Some(timeout) => {
                i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
            }
        };
        // SAFETY: `events` has room for `room` entries.
        unsafe { libc::epoll_wait(set, self.events.as_mut_ptr(), room, milliseconds) }
    }

    /// The next ready descriptor of the last look.
    pub(crate) fn next(&mut self) -> Option<Ready> {
        if self.next == self.filled {
            return None;
        }
        let event = self.events[self.next];
        self.next += 1;
        Some(match event.u64 {
            TOKEN_BELL => Ready::Bell,
            token => Ready::Watched(token, Readiness(event.events)),
        })
    }
}

/// Whether an error says that the kernel does not know the call, or that a container's filter, which does not know it either, forbids it.
fn is_unknown_call(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}

/// What a look found.
pub(crate) enum Ready {
    /// Somebody rang the reactor's own eventfd.
    Bell,
    /// A descriptor of the service.
    Watched(u64, Readiness),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    fn bell() -> OwnedFd {
        // SAFETY: takes no pointers; the descriptor is new and belongs to nobody else.
        unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) }
    }

    #[test]
    fn readiness_arrives_with_its_token_until_unwatched() {
        let bell = bell();
        let mut epoll = Epoll::new(bell.as_raw_fd()).expect("epoll");
        let (mut near, far) = UnixStream::pair().expect("pair");
        epoll
            .watch(far.as_raw_fd(), Interest::READ, 5)
            .expect("watch");
        assert_eq!(epoll.watched(), 1);
        epoll.look(Some(Duration::ZERO));
        assert!(epoll.next().is_none());
        near.write_all(b"x").expect("write");
        epoll.look(None);
        match epoll.next() {
            Some(Ready::Watched(5, readiness)) => {
                assert!(readiness.readable() && !readiness.writable() && !readiness.failed());
            }
            _ => panic!("the stream is readable"),
        }
        // Found by the look, but unwatched before it was delivered.
        epoll.look(None);
        epoll.unwatch(far.as_raw_fd(), 5).expect("unwatch");
        assert!(epoll.next().is_none());
        assert_eq!(epoll.watched(), 0);
    }

    /// What some container runtimes answer to calls that are newer than they are must not end a reactor; a set that is broken must.
    #[test]
    fn a_call_that_a_container_forbids_is_one_that_is_not_there() {
        for (code, unknown) in [
            (libc::ENOSYS, true),
            (libc::EPERM, true),
            (libc::EINTR, false),
            (libc::EBADF, false),
        ] {
            let error = io::Error::from_raw_os_error(code);
            assert_eq!(is_unknown_call(&error), unknown, "{error}");
        }
    }

    #[test]
    fn an_edge_is_reported_once() {
        let bell = bell();
        let mut epoll = Epoll::new(bell.as_raw_fd()).expect("epoll");
        let (mut near, far) = UnixStream::pair().expect("pair");
        epoll
            .watch(far.as_raw_fd(), Interest::READ | Interest::EDGE, 5)
            .expect("watch");
        near.write_all(b"x").expect("write");
        epoll.look(None);
        assert!(matches!(epoll.next(), Some(Ready::Watched(5, _))));
        epoll.look(Some(Duration::ZERO));
        assert!(epoll.next().is_none());
    }
}
