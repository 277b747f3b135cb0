//! What front ends tell their hosts of a mapped device.

use super::limits::AtomicWrites;
use super::table::Limits;

/// What a mapped device is like, as bound now; a copy that the I/O path can look at without a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// Logical block size in bytes: a power of two, at least 512.
    pub block_bytes: u32,
    /// What is written as one below, in bytes: at least the block size.
    pub physical_bytes: u32,
    /// Whether a completed write can be lost until a flush.
    pub volatile_cache: bool,
    /// Whether it takes discards.
    pub discard: bool,
    /// Whether what was discarded reads as zeroes.
    pub discard_zeroes: bool,
    /// Whether it takes write-zeroes.
    pub write_zeroes: bool,
    /// The size and alignment of writes that it does best, in bytes.
    pub optimal_write_bytes: u32,
    /// Which writes it does whole or not at all.
    pub atomic_writes: AtomicWrites,
    /// Refuses writes.
    pub read_only: bool,
}

impl Geometry {
    /// What hosts are told of a device with these limits.
    pub fn of(limits: &Limits) -> Self {
        Self {
            sectors: limits.sectors,
            block_bytes: limits.block_bytes,
            physical_bytes: limits.physical_bytes,
            volatile_cache: limits.volatile_cache,
            discard: limits.discard,
            discard_zeroes: limits.discard_zeroes,
            write_zeroes: limits.write_zeroes,
            optimal_write_bytes: limits.optimal_write_bytes,
            atomic_writes: limits.atomic_writes,
            read_only: limits.read_only,
        }
    }
}
