//! What a service may ask of its reactor.

use super::clock::monotonic_ns;
use super::epoll::{Epoll, Interest};
use super::mailbox::{Mailbox, Remote};
use super::timers::{TimerId, Timers};
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

/// A reactor, as its service sees it.
pub struct Context<M> {
    pub(super) core: usize,
    pub(super) now_ns: u64,
    pub(super) mailbox: Mailbox<M>,
    pub(super) timers: Timers,
    pub(super) epoll: Epoll,
}

impl<M> Context<M> {
    pub(super) fn new(core: usize, mailbox: Mailbox<M>) -> io::Result<Context<M>> {
        let epoll = mailbox.directory().epoll(core)?;
        Ok(Context {
            core,
            now_ns: monotonic_ns(),
            mailbox,
            timers: Timers::default(),
            epoll,
        })
    }

    /// This reactor, counted from 0. Not the number of a CPU.
    #[inline]
    pub fn core(&self) -> usize {
        self.core
    }

    /// How many reactors there are.
    #[inline]
    pub fn cores(&self) -> usize {
        self.mailbox.directory().cores()
    }

    /// [`monotonic_ns`] as of the beginning of this turn.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Reads the clock now, for whoever measures within a turn; [`Context::now_ns`] is this from here on.
    #[inline]
    pub fn refresh_now_ns(&mut self) -> u64 {
        self.now_ns = monotonic_ns();
        self.now_ns
    }

    /// Sends a message to a reactor, or to this one. Handled in a later turn, in the order sent between any two reactors. Never
    /// waits and never fails: a full mailbox is made up for by an outbox here, and a reactor that has ended needs no message.
    ///
    /// # Panics
    /// If there is no such core.
    #[inline]
    pub fn send(&mut self, core: usize, message: M) {
        self.mailbox.send(core, message);
    }

    /// A handle for threads that are not reactors.
    pub fn remote(&self) -> Remote<M> {
        Remote::new(Arc::clone(self.mailbox.directory()))
    }

    /// Calls [`super::Service::timer`] with `token` in the first turn at or after `at_ns`.
    pub fn set_timer(&mut self, at_ns: u64, token: u64) -> TimerId {
        self.timers.set(at_ns, token)
    }

    /// Takes a timer back. False if it has come due or been cancelled.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.timers.cancel(timer)
    }

    /// Calls [`super::Service::ready`] with `token` whenever `fd` is ready for `interest`. The descriptor must stay open until
    /// [`Context::unwatch`].
    ///
    /// # Errors
    /// The kernel's: EPERM for a regular file, EEXIST if it is watched already, ENOSPC, ENOMEM.
    ///
    /// # Panics
    /// If `token` is `u64::MAX`, which the reactor keeps for itself.
    pub fn watch(&mut self, fd: RawFd, interest: Interest, token: u64) -> io::Result<()> {
        self.epoll.watch(fd, interest, token)
    }

    /// Changes what a watched descriptor is watched for.
    ///
    /// # Errors
    /// ENOENT if it is not watched.
    ///
    /// # Panics
    /// As [`Context::watch`].
    pub fn rewatch(&mut self, fd: RawFd, interest: Interest, token: u64) -> io::Result<()> {
        self.epoll.rewatch(fd, interest, token)
    }

    /// Ends a watch, before the descriptor is closed. Nothing with this token is delivered any more, not even what
    /// was found in this turn already.
    ///
    /// # Errors
    /// ENOENT if it is not watched.
    pub fn unwatch(&mut self, fd: RawFd, token: u64) -> io::Result<()> {
        self.epoll.unwatch(fd, token)
    }
}
