//! One I/O: what a front end asks of a mapped device, and what a mapped device asks of a lower one.

/// A mapped device, as the data path names it: its slot on every core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(pub u32);

/// A core of the engine, counted from 0: one reactor. Not the number of a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CoreId(pub u16);

/// What to do. The unit of position and length is the 512-byte sector, whatever the device's block size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Op {
    /// Read into the payload.
    Read,
    /// Write the payload. Durable at completion only with [`Io::fua`].
    Write,
    /// Make every write that completed before this was submitted durable. Has neither position, length nor payload.
    Flush,
    /// The range is no longer needed; what it reads as afterwards is up to the lower device. No payload.
    Discard,
    /// The range reads as zeroes afterwards. No payload.
    WriteZeroes,
    /// Compare and, if equal, write, as one: atomic against every other I/O of the device and never executed twice
    /// (IO-21, AT-77). The payload is three times the range: what to compare with, what to write, room to read into.
    CompareAndWrite,
    /// Write the payload as one: every other I/O of the device finds all of it or nothing, and so does whoever looks after a
    /// power cut. Only where the device says so ([`super::limits::AtomicWrites`]); [`super::Status::NotSupported`] elsewhere.
    WriteAtomic,
}

/// What a front end gets back with a completion: which of its queues, and which command there. The mapper only carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    /// The front end on this core (a number that the engine gave it).
    pub client: u32,
    /// The front end's own number for the command.
    pub command: u32,
}

/// The bytes of an I/O, which the mapper cuts but never looks at. The engine says what it really is (a pointer, an iovec, a
/// simulated extent).
pub trait Payload: Copy {
    /// No bytes: what a flush carries.
    fn empty() -> Self;
    /// The part of `length` bytes that starts `offset` bytes in.
    fn slice(self, offset: u32, length: u32) -> Self;
    /// Fills a read's payload with zeroes (target `zero`).
    fn fill_zero(self);
    /// Copies what a write carries into a private buffer of the same length ([`super::Env::take_buffer`]).
    fn copy_from(self, written: Self);
    /// Whether two payloads of the same length hold the same bytes (compare-and-write).
    fn equals(self, other: Self) -> bool;
}

/// An original: one I/O as a mapped device receives it.
#[derive(Clone, Copy, Debug)]
pub struct Io<P> {
    /// Names the command to whoever submitted it.
    pub tag: Tag,
    /// What to do.
    pub op: Op,
    /// With everything that writes but a discard: durable when it completes (force unit access).
    pub fua: bool,
    /// First sector.
    pub sector: u64,
    /// Sectors; 0 for a flush only.
    pub sectors: u32,
    /// The data; ignored by operations without any.
    pub payload: P,
}

/// What a lower device is asked to do: one clone, at a position of that device.
#[derive(Clone, Copy, Debug)]
pub struct LowerIo<P> {
    /// What to do; of an engine's device never [`Op::CompareAndWrite`] or [`Op::WriteAtomic`], which the mapper does in steps, with
    /// reads and writes.
    pub op: Op,
    /// Durable at completion. Only set for a lower device that declared FUA ([`super::limits::Lower::fua`]).
    pub fua: bool,
    /// First sector on the lower device.
    pub sector: u64,
    /// Sectors.
    pub sectors: u32,
    /// The data.
    pub payload: P,
}

/// How a lower channel names a clone when it completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloneId(pub u32);
