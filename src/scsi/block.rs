//! READ and WRITE, in all their lengths (SBC-3, 5.8 to 5.11, 5.31 to 5.34), and PRE-FETCH.

use super::cdb::{Cdb, opcode as op};
use super::sense::{Code, Key, Outcome, Sense};
use super::serve::{self, Call, Limits, Seat, TRANSFER_BYTES_MAX};
use super::unit::View;
use super::{Extent, Plan, job};

/// What READ and WRITE look like in their first bytes: protection, DPO, FUA.
const PROTECT: u8 = 0xE0;
const FUA: u8 = 0x08;

/// A read or write that nothing stands in the way of; `None` for everything else, which takes the long way.
#[inline]
pub(super) fn fast(seat: &Seat<'_>, view: &View, cdb: &Cdb) -> Option<Plan> {
    let geometry = &seat.geometry;
    let (reads, has_flags) = match cdb.opcode() {
        op::READ_10 | op::READ_16 | op::READ_12 => (true, true),
        op::WRITE_10 | op::WRITE_16 | op::WRITE_12 => (false, true),
        op::READ_6 => (true, false),
        op::WRITE_6 => (false, false),
        _ => return None,
    };
    let may = if reads { view.may_read } else { view.may_write };
    if !may || !reads && geometry.read_only {
        return None;
    }
    if has_flags && cdb.byte(1) & PROTECT != 0 {
        return None;
    }
    let (lba, count) = cdb.range();
    if u64::from(count) * u64::from(geometry.block_bytes) > u64::from(TRANSFER_BYTES_MAX) {
        return None;
    }
    let extent = serve::extent(geometry, lba, count).ok()?;
    let fua = has_flags && cdb.byte(1) & FUA != 0;
    Some(if reads {
        read_plan(extent)
    } else if seat.offered < extent.sectors.saturating_mul(512) {
        return None;
    } else {
        write_plan(extent, fua || view.write_through)
    })
}

#[inline]
fn read_plan(extent: Extent) -> Plan {
    if extent.sectors == 0 {
        return Plan::End(Outcome::Good);
    }
    Plan::Read(extent)
}

#[inline]
fn write_plan(extent: Extent, fua: bool) -> Plan {
    if extent.sectors == 0 {
        return Plan::End(Outcome::Good);
    }
    Plan::Write { extent, fua }
}

/// The range of a command that moves its blocks: no protection information, and no more than fits one transfer (SBC-3, 6.6.4, MAXIMUM TRANSFER LENGTH).
pub(super) fn range(call: &Call<'_>) -> Result<(u64, u32, Extent), Outcome> {
    let cdb = &call.cdb;
    if Cdb::length(cdb.opcode()) != 6 {
        check_protect(cdb)?;
    }
    let (lba, count) = cdb.range();
    let extent = call.extent(lba, count)?;
    if count > Limits::of(&call.geometry).transfer_blocks {
        let at = match Cdb::length(cdb.opcode()) {
            10 => 7,
            12 => 6,
            _ => 10,
        };
        return Err(Sense::invalid_field(at, None).into());
    }
    Ok((lba, count, extent))
}

/// There is no protection information that RDPROTECT, WRPROTECT or VRPROTECT could be about.
pub(super) fn check_protect(cdb: &Cdb) -> Result<(), Outcome> {
    if cdb.byte(1) & PROTECT != 0 {
        return Err(Sense::invalid_field(1, Some(7)).into());
    }
    Ok(())
}

/// Whether FUA is set, or the write cache is off.
pub(super) fn is_through(call: &Call<'_>) -> bool {
    let flagged = Cdb::length(call.cdb.opcode()) != 6 && call.cdb.byte(1) & FUA != 0;
    flagged || call.unit.lock().modes.write_cache_off
}

/// READ(6), READ(10), READ(12), READ(16).
///
/// FUA asks for data from the medium, or for what is in the cache to be written first: a device beneath that has both never tells
/// them apart, so there is nothing to do. DPO is a hint.
pub(super) fn read(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    Ok(read_plan(range(call)?.2))
}

/// WRITE(6), WRITE(10), WRITE(12), WRITE(16).
pub(super) fn write(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let extent = range(call)?.2;
    let fua = is_through(call);
    if call.offered < extent.sectors * 512 {
        return job::short_write(call, extent, fua, None);
    }
    Ok(write_plan(extent, fua))
}

/// PRE-FETCH(10), PRE-FETCH(16) (SBC-3, 5.6): there is no cache of our own that could be filled, which GOOD says; CONDITION MET would say
/// that all of it fits.
pub(super) fn pre_fetch(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let (lba, count) = call.cdb.range();
    call.extent(lba, count)?;
    Ok(Plan::End(Outcome::Good))
}

/// Where blocks compared unequal: MISCOMPARE with the offset (SBC-3, 5.3).
pub(super) fn miscompare(offset: usize) -> Outcome {
    Sense::new(Key::Miscompare, Code::MISCOMPARE_DURING_VERIFY)
        .with_information(offset as u64)
        .into()
}
