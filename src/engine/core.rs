//! What a front end sees of its reactor.

use std::any::Any;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::front_end::ClientId;
use super::lower::Lower;
use super::service::Message;
use crate::bdev::Payload;
use crate::dm::{CoreId, DeviceId, Io, Limits, Mapper, Stats, Status, Tag};
use crate::reactor::{BufferPool, Context, Interest, TimerId};

/// One core of the engine, lent to a front end for the length of a call.
pub struct Core<'a> {
    pub(super) mapper: &'a mut Mapper<Lower>,
    pub(super) lower: &'a mut Lower,
    pub(super) context: &'a mut Context<Message>,
    pub(super) client: ClientId,
}

impl Core<'_> {
    /// Submits an I/O to a mapped device. `Some` when it ended at once; otherwise
    /// [`super::FrontEnd::completed`] is told `command`, exactly once. `io.tag` must be what [`Core::tag`] gives.
    #[inline(always)]
    pub fn submit(&mut self, device: DeviceId, io: Io<Payload>) -> Option<Status> {
        debug_assert_eq!(io.tag.client, self.client.0);
        self.mapper.submit(self.lower, device, io)
    }

    /// The tag of this front end's command `command`.
    #[inline(always)]
    pub fn tag(&self, command: u32) -> Tag {
        Tag {
            client: self.client.0,
            command,
        }
    }

    /// Aborts an I/O that is parked; its completion follows with [`Status::Aborted`]. False when it is not parked: it will end
    /// by itself (PM-13).
    pub fn abort(&mut self, device: DeviceId, command: u32) -> bool {
        let tag = self.tag(command);
        self.mapper.abort(self.lower, device, tag)
    }

    /// What a device can do, as of this core; `None` without a live table.
    pub fn limits(&self, device: DeviceId) -> Option<&Arc<Limits>> {
        self.mapper.limits(device)
    }

    /// Whether a device's flush policy is the ordered one.
    pub fn is_ordered(&self, device: DeviceId) -> bool {
        self.mapper.is_ordered(device)
    }

    /// This core's counts of a device.
    pub fn stats(&self, device: DeviceId) -> Option<Stats> {
        self.mapper.stats(device)
    }

    /// Announces that this front end may have up to `outstanding` I/Os on this core, so that none of them will have to allocate.
    pub fn reserve(&mut self, outstanding: usize) {
        let reserved = &mut self.lower.reserved;
        let index = self.client.0 as usize;
        if reserved.len() <= index {
            reserved.resize(index + 1, 0);
        }
        reserved[index] = outstanding;
        self.mapper.reserve(reserved.iter().sum());
    }

    /// Nanoseconds on this core's clock, as of this turn.
    #[inline(always)]
    pub fn now_ns(&self) -> u64 {
        self.context.now_ns()
    }

    /// This core.
    pub fn index(&self) -> CoreId {
        CoreId(self.context.core() as u16)
    }

    /// How many cores there are.
    pub fn cores(&self) -> u16 {
        self.context.cores() as u16
    }

    /// This core's buffers.
    pub fn buffers(&self) -> &BufferPool {
        self.lower.bdevs.buffers()
    }

    /// Sends a message to this front end's part on another core.
    pub fn send(&mut self, core: CoreId, message: Box<dyn Any + Send>) {
        let client = self.client;
        self.context
            .send(usize::from(core.0), Message::FrontEnd { client, message });
    }

    /// Watches a descriptor: [`super::FrontEnd::ready`] is called with `token`.
    ///
    /// # Errors
    /// As [`Context::watch`].
    pub fn watch(&mut self, fd: RawFd, interest: Interest, token: u32) -> io::Result<()> {
        self.context.watch(fd, interest, self.address(token))
    }

    /// Changes what a descriptor is watched for.
    ///
    /// # Errors
    /// As [`Context::rewatch`].
    pub fn rewatch(&mut self, fd: RawFd, interest: Interest, token: u32) -> io::Result<()> {
        self.context.rewatch(fd, interest, self.address(token))
    }

    /// Ends a watch, before the descriptor is closed.
    ///
    /// # Errors
    /// As [`Context::unwatch`].
    pub fn unwatch(&mut self, fd: RawFd, token: u32) -> io::Result<()> {
        self.context.unwatch(fd, self.address(token))
    }

    /// Calls [`super::FrontEnd::timer`] with `token` at or after `at_ns`.
    pub fn set_timer(&mut self, at_ns: u64, token: u32) -> TimerId {
        self.context.set_timer(at_ns, self.address(token))
    }

    /// Takes a timer back; false if it is due already.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.context.cancel_timer(timer)
    }

    /// A reactor's token that names this front end and its own token.
    fn address(&self, token: u32) -> u64 {
        u64::from(self.client.0) << 32 | u64::from(token)
    }
}
