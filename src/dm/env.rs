//! What the mapper needs of the world around it, and nothing else.

use std::sync::Arc;

use super::defect::Defect;
use super::io::{CloneId, CoreId, DeviceId, LowerIo, Payload, Tag};
use super::limits::LowerId;
use super::message::{Answer, Message, Ticket};
use super::status::Status;
use super::table::Limits;
use super::target::Tamper;

/// The largest private buffer, in sectors: a mebibyte, which is the largest buffer of the native engine's pools. A target that tampers
/// with writes has them cut at multiples of it, and no target has larger blocks beneath it than it offers above.
pub const PRIVATE_SECTORS_MAX: u32 = 2048;

/// What became of a submission to a lower channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submit {
    /// Finished at once. The clone id is free again; nothing more is said of it.
    Done(Status),
    /// Under way: [`super::Mapper::complete_clone`] will be called exactly once with the clone id, and never from
    /// within this call (PM-8: no recursion, whatever the depth).
    Pending,
    /// No room now (EAGAIN, ENOMEM, ring full): back-pressure, not an error (PM-15). The mapper keeps the clone and tries again
    /// when [`super::Mapper::retry_busy`] is called, which the engine does once per poll.
    Busy,
}

/// Names a private buffer ([`Env::take_buffer`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferId(pub u32);

/// The engine beneath a mapper on one core: native, SPDK, or simulator. Statically dispatched.
pub trait Env {
    /// The bytes of an I/O.
    type Payload: Payload;
    /// A lower device opened on this core.
    type Channel;

    /// Opens a lower device on this core, when a table is prepared (PM-12); never on the I/O path.
    ///
    /// # Errors
    /// A sentence that says why this core cannot open it (device removed, no memory for its ring).
    fn open(&mut self, lower: LowerId) -> Result<Self::Channel, String>;

    /// As [`Env::open`], for a table that has other ways to go (multipath; OQ-11): a device that could hold I/O back until its connection
    /// is there again fails it at once instead, with [`Status::Transport`].
    ///
    /// # Errors
    /// As [`Env::open`].
    fn open_path(&mut self, lower: LowerId) -> Result<Self::Channel, String> {
        self.open(lower)
    }

    /// Closes a channel that has nothing in flight.
    fn close(&mut self, channel: Self::Channel);

    /// Submits one clone to a lower channel.
    fn submit(
        &mut self,
        channel: &mut Self::Channel,
        io: &LowerIo<Self::Payload>,
        clone: CloneId,
    ) -> Submit;

    /// Completes an original towards its front end, exactly once. Must not call back into the mapper (IO-27): the
    /// front end is told when the mapper has returned.
    fn complete(&mut self, tag: Tag, status: Status);

    /// Sends a message to another core, or to this one; it is handled later, in the order sent.
    fn send(&mut self, core: CoreId, message: Message);

    /// Answers an operator's request; called on the device's home core, once per ticket.
    fn reply(&mut self, ticket: Ticket, answer: Answer);

    /// Tells the front ends of this core that a device's size or limits are others now, or that it is gone; before any
    /// parked I/O is re-issued (LC-16).
    fn changed(&mut self, device: DeviceId);

    /// A buffer that no host knows of, for a clone to be read or written through; `None` when there is no memory for it now. Its bytes can
    /// be anything. Up to [`PRIVATE_SECTORS_MAX`] sectors, so that it is never too large for an engine's buffers. `instead_of` is what the clone's
    /// host has supplied: the simulator knows by it whose the clone is.
    fn take_buffer(
        &mut self,
        sectors: u32,
        instead_of: Self::Payload,
    ) -> Option<(BufferId, Self::Payload)>;

    /// Gives such a buffer back, once: nothing below reads or writes it any more.
    fn give_back(&mut self, buffer: BufferId);

    /// Answers a read with bytes of a private buffer, as many as it wants. False when that takes memory and there is none now.
    fn fill_read(&mut self, read: Self::Payload, from: Self::Payload) -> bool;

    /// Changes one byte of what a private buffer holds or a read has brought, and of nothing else: the device that lent it keeps its own.
    /// False when that takes memory and there is none now, which is never so of a private buffer.
    fn tamper(&mut self, payload: Self::Payload, tamper: Tamper) -> bool;

    /// Something happened to a device that everybody may want to know of: an event of its own, or that it was made, removed,
    /// renamed or given another table (LC-24). Called on its home core.
    fn happened(&mut self) {}

    /// A device is about to get these limits: whether the tables that name it can do with them. Called on its home core. From then until
    /// [`Env::limits_are`], a table that comes to name it must be able to do with both these and the ones before.
    ///
    /// # Errors
    /// Which table cannot, and why.
    fn limits_may_become(&mut self, _device: DeviceId, _limits: &Limits) -> Result<(), String> {
        Ok(())
    }

    /// These are a device's limits from now on: what came of [`Env::limits_may_become`], or those before.
    fn limits_are(&mut self, _device: DeviceId, _limits: &Arc<Limits>) {}

    /// How many cores the engine has; they are numbered from 0.
    fn cores(&self) -> u16;

    /// Nanoseconds since an arbitrary moment on this core, as of the current poll (PM-20).
    fn now_ns(&self) -> u64;

    /// Whether a defect is planted: never, but in the simulator, which shows that it would find it.
    #[inline(always)]
    fn planted(&self, _defect: Defect) -> bool {
        false
    }
}
