//! WRITE ATOMIC (SBC-4, "Atomic writes"): which blocks are written whole or not at all, and seen so.

use super::Plan;
use super::block::{check_protect, is_through};
use super::job::Job;
use super::sense::{Code, Outcome, Sense};
use super::serve::{Call, Limits, TRANSFER_BYTES_MAX};
use crate::dm::Geometry;

/// Where a device has boundaries, the one length that is offered, in bytes, or less: what databases write at once. An initiator cannot be
/// told that shorter writes are atomic as long as they cross no boundary, so it is the alignment and the granularity as well; without the
/// latter Linux offers its programs nothing.
const UNIT_BYTES: u32 = 16 << 10;

/// Which writes are offered, in blocks of the unit, as its Block Limits page says (SBC-4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Atomic {
    /// The longest; 0 where the command is not offered. One block would be no more than what any WRITE promises.
    pub blocks_max: u32,
    /// They begin at a multiple of this, and their length is one; 0 for no such need.
    pub alignment: u32,
}

impl Atomic {
    /// Those of a unit over such a device.
    pub fn of(geometry: &Geometry) -> Atomic {
        let block_bytes = geometry.block_bytes;
        let writes = geometry.atomic_writes;
        let blocks = |sectors: u32| sectors / (block_bytes / 512);
        let blocks_max = blocks(writes.sectors_max).min(TRANSFER_BYTES_MAX / block_bytes);
        match blocks(writes.boundary_sectors) {
            _ if blocks_max < 2 => Atomic::default(),
            0 => Atomic {
                blocks_max,
                alignment: 0,
            },
            boundary => match boundary
                .min(blocks_max)
                .min(UNIT_BYTES / block_bytes)
                .ilog2()
            {
                0 => Atomic::default(),
                shift => Atomic {
                    blocks_max: 1 << shift,
                    alignment: 1 << shift,
                },
            },
        }
    }

    /// Whether there are any.
    pub(super) fn is_offered(self) -> bool {
        self.blocks_max > 0
    }
}

/// WRITE ATOMIC(16). With an ATOMIC BOUNDARY its blocks may be written as several atomic writes; they are written as one, whose parts
/// then are so as well.
pub(super) fn write_atomic(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let atomic = Limits::of(&call.geometry).atomic;
    if !atomic.is_offered() {
        return Err(Sense::illegal(Code::INVALID_OPCODE).into());
    }
    let cdb = call.cdb;
    check_protect(&cdb)?;
    let (lba, boundary, count) = (cdb.u64(2), u32::from(cdb.u16(10)), u32::from(cdb.u16(12)));
    let extent = call.extent(lba, count)?;
    let alignment = u64::from(atomic.alignment.max(1));
    let wrong = if count > atomic.blocks_max || !u64::from(count).is_multiple_of(alignment) {
        Some(12)
    } else if boundary > atomic.blocks_max {
        Some(10)
    } else if !lba.is_multiple_of(alignment) {
        Some(2)
    } else {
        None
    };
    if let Some(byte) = wrong {
        return Err(Sense::invalid_field(byte, None).into());
    }
    if count == 0 {
        return Ok(Plan::End(Outcome::Good));
    }
    Job::write_atomic(call, extent, is_through(call))
}
