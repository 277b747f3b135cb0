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
    /// What it writes as one, in bytes: at least the logical block.
    pub physical_bytes: u32,
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
    /// Which writes it does whole or not at all.
    pub atomic_writes: AtomicWrites,
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
            physical_bytes: limits.physical_bytes,
            volatile_cache: true,
            flush: true,
            fua: true,
            discard: limits.discard,
            discard_zeroes: limits.discard_zeroes,
            write_zeroes: limits.write_zeroes,
            transfer_sectors_max: 0,
            optimal_write_bytes: limits.optimal_write_bytes,
            atomic_writes: limits.atomic_writes,
            read_only: limits.read_only,
            keep: Keep::default(),
        }
    }
}

/// Which writes a device does whole or not at all, even if its power is cut, or it fails, while it writes. What reads find
/// meanwhile is the mapper's affair ([`super::io::Op::WriteAtomic`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtomicWrites {
    /// The longest, in sectors; 0 for none at all.
    pub sectors_max: u32,
    /// They cross no multiple of this many sectors: a power of two, or 0 for no such boundary.
    pub boundary_sectors: u32,
}

impl AtomicWrites {
    /// No write.
    pub const NONE: AtomicWrites = AtomicWrites {
        sectors_max: 0,
        boundary_sectors: 0,
    };

    /// Every write.
    pub const ALL: AtomicWrites = AtomicWrites {
        sectors_max: u32::MAX,
        boundary_sectors: 0,
    };

    /// Whether a write of `sectors`, at least one, from `sector` is among them.
    pub fn include(self, sector: u64, sectors: u32) -> bool {
        let block = |sector: u64| sector.checked_div(u64::from(self.boundary_sectors));
        let last = sector + u64::from(sectors) - 1;
        sectors <= self.sectors_max && block(sector) == block(last)
    }

    /// Those that are among `other`, too.
    pub fn and(self, other: AtomicWrites) -> AtomicWrites {
        let boundaries = [self.boundary_sectors, other.boundary_sectors].into_iter();
        AtomicWrites {
            sectors_max: self.sectors_max.min(other.sectors_max),
            // The multiples of the smaller power of two are those of the larger one as well.
            boundary_sectors: boundaries.filter(|sectors| *sectors > 0).min().unwrap_or(0),
        }
    }

    /// Those of no more than so many sectors.
    pub fn up_to(self, sectors: u32) -> AtomicWrites {
        AtomicWrites {
            sectors_max: self.sectors_max.min(sectors),
            ..self
        }
    }

    /// Those that are left when a table cuts writes at a sector and its multiples; 0 is where every device begins.
    pub fn cut_at(self, sector: u64) -> AtomicWrites {
        if sector == 0 {
            return self;
        }
        let boundary_sectors = 1 << sector.trailing_zeros().min(31);
        self.and(AtomicWrites {
            boundary_sectors,
            ..AtomicWrites::ALL
        })
    }

    /// The same writes where every sector has a number that is greater, or smaller, by `sectors`.
    pub fn moved_by(self, sectors: u64) -> AtomicWrites {
        match self.boundary_sectors {
            0 => self,
            _ => self.cut_at(sectors),
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
