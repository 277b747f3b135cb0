//! What the protocol needs of the world beneath it: a few verbs, statically dispatched, so that the same code runs over the
//! engine and over a few bytes of memory in tests and under the fuzzer.

use crate::dm::{DeviceId, Geometry, Op, Status};
use crate::reactor::PoolBuffer;

/// One I/O for a device.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The device.
    pub device: DeviceId,
    /// Names the command when it completes.
    pub command: u32,
    /// What to do.
    pub op: Op,
    /// Durable at completion.
    pub fua: bool,
    /// First sector.
    pub sector: u64,
    /// Sectors; 0 for a flush only.
    pub sectors: u32,
}

/// Where a device leaves the data of a read: memory that it lends, or buffers that it filled. Empty at first.
pub trait Lend: Default {
    /// The pieces that were lent by a read that ended well, in order; together as long as the read.
    fn pieces(&mut self, each: impl FnMut(*const u8, usize));

    /// Gives back what was lent.
    fn release(&mut self);
}

/// The world beneath the protocol, on one core.
pub trait Backend {
    /// How devices lend.
    type Lend: Lend;

    /// Submits an I/O whose data, if it has any, lies at `bytes`: one pointer for a write, room for a read, and for
    /// [`Op::CompareAndWrite`] three times the range (`dm::Op`). `Some` when it finished at once; otherwise its completion comes
    /// later, never from within this call.
    ///
    /// # Safety
    /// The memory is as long as the operation needs, and stays put and untouched until the I/O has completed.
    unsafe fn submit(&mut self, request: &Request, bytes: *mut u8) -> Option<Status>;

    /// Submits a read whose data the device lends.
    ///
    /// # Safety
    /// `lend` stays where it is and is not touched until the I/O has completed.
    unsafe fn submit_read(&mut self, request: &Request, lend: *mut Self::Lend) -> Option<Status>;

    /// Aborts an I/O that is parked at the device; its completion follows with [`Status::Aborted`]. False if it is not parked.
    fn abort(&mut self, device: DeviceId, command: u32) -> bool;

    /// Nanoseconds on this core's clock, as of this poll.
    fn now_ns(&self) -> u64;

    /// A buffer of at least `bytes`; `None` when there is none now.
    fn buffer(&mut self, bytes: usize) -> Option<PoolBuffer>;

    /// Whether a device's flush policy is the ordered one: its flushes, and writes with FUA, are barriers for all cores.
    fn is_ordered(&self, device: DeviceId) -> bool;

    /// What a device is like now; `None` without a table.
    fn geometry(&self, device: DeviceId) -> Option<Geometry>;
}
