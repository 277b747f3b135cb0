//! What a device can do: declared by lower devices, combined for a table (LC-14), shown truthfully to hosts.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use super::io::DeviceId;
use super::status::Status;
use super::table::Limits;

/// A lower device: its number in the engine's list of backing devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LowerId(pub u32);

/// What a lower device declares about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lower {
    /// The device.
    pub id: LowerId,
    /// Its name in the configuration and in table lines.
    pub name: String,
    /// Its size in sectors.
    pub sectors: u64,
    /// Logical block size in bytes: 512 or 4096. Every I/O is a multiple of it.
    pub block_bytes: u32,
    /// Whether a completed write can be lost at a power cut until a flush (FL-21).
    pub volatile_cache: bool,
    /// Whether it can flush that cache. A device with a cache that cannot is answered with EOPNOTSUPP (FL-29).
    pub flush: bool,
    /// Whether a write can carry force-unit-access; if not, the mapper emulates it by a flush (FL-28).
    pub fua: bool,
    /// Whether it takes discards.
    pub discard: bool,
    /// Whether what was discarded reads as zeroes.
    pub discard_zeroes: bool,
    /// Whether it takes write-zeroes.
    pub write_zeroes: bool,
    /// The largest single read or write, in sectors; 0 for no limit.
    pub transfer_sectors_max: u32,
    /// The size and alignment of writes it does best, in bytes; at least the block size.
    pub optimal_write_bytes: u32,
    /// Refuses writes.
    pub read_only: bool,
    /// Keeps it from being taken away.
    pub keep: Keep,
}

impl Lower {
    /// Whether a flush has something to do here: not without a volatile cache.
    ///
    /// # Errors
    /// [`Status::NotSupported`] of a device with a cache that cannot be flushed (FL-29).
    pub fn flushing(&self) -> Result<bool, Status> {
        match (self.volatile_cache, self.flush) {
            (false, _) => Ok(false),
            (true, true) => Ok(true),
            (true, false) => Err(Status::NotSupported),
        }
    }

    /// What a mapped device declares as a lower device: the limits of its live table. It flushes and takes force-unit-access
    /// whatever is beneath it, because its own mapper sees to that (FL-28). It counts as having a volatile cache even when nothing
    /// beneath it has one: its table can be swapped for one that has, while the tables above and their hosts go by what they
    /// were told, and a flush that nobody sends is data lost. A flush too many ends in the mapper.
    pub fn of_device(device: DeviceId, name: &str, limits: &Limits) -> Lower {
        Lower {
            id: LowerId::of_device(device),
            name: name.into(),
            sectors: limits.sectors,
            block_bytes: limits.block_bytes,
            volatile_cache: true,
            flush: true,
            fua: true,
            discard: limits.discard,
            discard_zeroes: limits.discard_zeroes,
            write_zeroes: limits.write_zeroes,
            transfer_sectors_max: 0,
            optimal_write_bytes: limits.optimal_write_bytes,
            read_only: limits.read_only,
            keep: Keep::default(),
        }
    }
}

/// What keeps a lower device from being taken away as long as a table names it: something of the engine's, let go of with the last
/// table that has it. Tables end on reactors, so letting go must be short. Two declarations are equal whatever keeps them.
#[derive(Clone, Default)]
pub struct Keep(pub Option<Arc<dyn Any + Send + Sync>>);

impl PartialEq for Keep {
    fn eq(&self, _: &Keep) -> bool {
        true
    }
}

impl Eq for Keep {}

impl fmt::Debug for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "kept" } else { "not kept" })
    }
}
