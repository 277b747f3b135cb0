//! What every command goes through: is there such a unit, does its initiator have to be told something first, is there such a command, may
//! this initiator use it now (SAM-5, 5.3.3 for the order).

use std::sync::Arc;

use super::atomic::Atomic;
use super::catalog::{self, Entry, Needs};
use super::cdb::{Cdb, opcode};
use super::inquiry::{self, Port};
use super::sense::{Code, Key, Outcome, Sense};
use super::unit::{Access, Nexus, Power, Sanitize, Unit, View};
use super::{Extent, Plan, PortGroup, block, report, sanitize};
use crate::dm::Geometry;

/// Most bytes that one command moves to or from the medium: what one buffer holds.
pub const TRANSFER_BYTES_MAX: u32 = 1 << 20;

/// Blocks of one UNMAP: enough that a whole disk takes few commands.
const UNMAP_BLOCKS_MAX: u32 = 1 << 20;

/// Blocks of one WRITE SAME: what its shortest form can name.
const WRITE_SAME_BLOCKS_MAX: u32 = 0xFFFF;

/// Ranges of one UNMAP.
const UNMAP_DESCRIPTORS_MAX: u32 = 256;

/// What a device does best is a physical block up to that size; more is a stripe, unless the device says that it writes so much as one.
const PHYSICAL_BYTES_MAX: u32 = 4096;

/// What a unit can do at once (SBC-3, 6.6.4), in its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// READ, WRITE, VERIFY and the like.
    pub transfer_blocks: u32,
    /// What the device does best.
    pub optimal_blocks: u32,
    /// COMPARE AND WRITE.
    pub compare_and_write_blocks: u32,
    /// WRITE ATOMIC.
    pub atomic: Atomic,
    /// All ranges of UNMAP together.
    pub unmap_blocks: u32,
    /// Ranges of UNMAP.
    pub unmap_descriptors: u32,
    /// What UNMAP is best asked for whole: less of that is left as it is.
    pub unmap_granularity_blocks: u32,
    /// WRITE SAME.
    pub write_same_blocks: u32,
    /// log2 of the blocks that the device writes as one (LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT).
    pub physical_exponent: u8,
}

impl Limits {
    /// The limits of a unit over such a device.
    pub fn of(geometry: &Geometry) -> Self {
        let block_bytes = geometry.block_bytes;
        Self {
            transfer_blocks: TRANSFER_BYTES_MAX / block_bytes,
            optimal_blocks: (geometry.optimal_write_bytes / block_bytes).max(1),
            // A compare-and-write has three times its range in one buffer; the field has a byte.
            compare_and_write_blocks: (TRANSFER_BYTES_MAX / 3 / block_bytes).min(255),
            atomic: Atomic::of(geometry),
            unmap_blocks: UNMAP_BLOCKS_MAX,
            unmap_descriptors: UNMAP_DESCRIPTORS_MAX,
            unmap_granularity_blocks: geometry.physical_bytes / block_bytes,
            write_same_blocks: WRITE_SAME_BLOCKS_MAX,
            physical_exponent: (geometry.optimal_write_bytes.min(PHYSICAL_BYTES_MAX))
                .max(geometry.physical_bytes)
                .div_ceil(block_bytes)
                .ilog2() as u8,
        }
    }
}

/// The target that a command has reached, as far as a unit needs to know of it.
pub trait Directory {
    /// The numbers of its units, in order.
    fn luns(&self) -> Vec<u16>;

    /// A unit of it.
    fn unit(&self, lun: u16) -> Option<(Arc<Unit>, Geometry)>;

    /// Its target port groups and their states, and which of its ports are in them.
    fn groups(&self) -> Vec<PortGroup>;

    /// Whether initiators may change the states of its target port groups.
    fn is_explicit(&self) -> bool;

    /// Its ports, in order.
    fn ports(&self) -> Vec<Port>;
}

/// Where a command has come in: its nexus, the unit, and the target around it.
#[derive(Clone, Copy)]
pub struct Seat<'a> {
    /// The unit.
    pub unit: &'a Unit,
    /// Who sent the command.
    pub nexus: &'a Nexus,
    /// Through which port.
    pub port: &'a Port,
    /// What the device beneath is like.
    pub geometry: Geometry,
    /// How the unit is reached through this port.
    pub access: Access,
    /// Bytes that the initiator means to send with the command.
    pub offered: u32,
    /// The target.
    pub directory: &'a dyn Directory,
}

/// A command and where it has come in.
pub(super) struct Call<'a> {
    pub(super) cdb: Cdb,
    pub(super) unit: &'a Unit,
    pub(super) nexus: &'a Nexus,
    pub(super) port: &'a Port,
    pub(super) geometry: Geometry,
    pub(super) offered: u32,
    pub(super) directory: &'a dyn Directory,
}

impl<'a> Seat<'a> {
    pub(super) fn call(&self, cdb: Cdb) -> Call<'a> {
        Call {
            cdb,
            unit: self.unit,
            nexus: self.nexus,
            port: self.port,
            geometry: self.geometry,
            offered: self.offered,
            directory: self.directory,
        }
    }
}

impl Call<'_> {
    /// log2 of sectors per block.
    pub(super) fn shift(&self) -> u32 {
        (self.geometry.block_bytes / 512).trailing_zeros()
    }

    /// Blocks of the unit.
    pub(super) fn blocks(&self) -> u64 {
        self.geometry.sectors >> self.shift()
    }

    /// A range of blocks, which must lie in the unit (SBC-3, 4.5).
    pub(super) fn extent(&self, lba: u64, count: u32) -> Result<Extent, Outcome> {
        extent(&self.geometry, lba, count)
    }
}

/// A range of blocks in sectors; it must lie in the unit, also when it is empty (SBC-3, 5.8: LBA OUT OF RANGE).
#[inline]
pub(super) fn extent(geometry: &Geometry, lba: u64, count: u32) -> Result<Extent, Outcome> {
    let shift = (geometry.block_bytes / 512).trailing_zeros();
    let blocks = geometry.sectors >> shift;
    let end = lba.checked_add(u64::from(count));
    if end.is_none_or(|end| end > blocks) || lba > blocks {
        let first_beyond = lba.max(blocks);
        return Err(Sense::illegal(Code::LBA_OUT_OF_RANGE)
            .with_information(first_beyond)
            .into());
    }
    // More than 2 TiB at once, which only blocks of 4 KiB can name.
    let sectors =
        u32::try_from(u64::from(count) << shift).map_err(|_| Sense::invalid_field(10, None))?;
    Ok(Extent {
        sector: lba << shift,
        sectors,
    })
}

/// Plans a command to a unit. `view` is what its session last knew of the unit.
///
/// A command for which the initiator offers less data than it asks to write is carried out as far as the data goes, where that
/// means something: WRITE and WRITE AND VERIFY. The others are the caller's to refuse.
#[inline]
pub fn serve(seat: &Seat<'_>, view: &mut View, cdb: Cdb) -> Plan {
    seat.unit.refresh(view, seat.nexus);
    if seat.access as u8 <= Access::NonOptimized as u8
        && let Some(plan) = block::fast(seat, view, &cdb)
    {
        return plan;
    }
    match slow(seat, cdb) {
        Ok(plan) => plan,
        Err(outcome) => Plan::End(outcome),
    }
}

fn slow(seat: &Seat<'_>, cdb: Cdb) -> Result<Plan, Outcome> {
    let entry = catalog::find(&cdb);
    let tells_attention = !matches!(
        cdb.opcode(),
        opcode::INQUIRY | opcode::REPORT_LUNS | opcode::REQUEST_SENSE
    );
    // SAM-5, 5.14.5.
    if tells_attention && let Some(sense) = seat.unit.take_attention(seat.nexus.id) {
        return Err(sense.into());
    }
    let entry = entry?;
    may_use(seat, entry, &cdb)?;
    (entry.run)(&mut seat.call(cdb))
}

/// Reservations, readiness, write protection, and the state of the way that the command came.
pub(super) fn may_use(seat: &Seat<'_>, entry: &Entry, cdb: &Cdb) -> Result<(), Outcome> {
    let state = seat.unit.lock();
    // RESERVE(6), RESERVE(10) (SPC-2, 5.5.1).
    let is_foreign = state
        .reserved_by
        .is_some_and(|holder| holder != seat.nexus.id);
    let always = matches!(entry.needs, Needs::Nothing | Needs::Release);
    if is_foreign && !always && !entry.is_harmless(cdb) {
        return Err(Outcome::ReservationConflict);
    }
    let (reads, writes) = state.persistent.allows(seat.nexus);
    let allowed = match entry.needs {
        Needs::Read => reads,
        Needs::Write | Needs::Flush | Needs::Change | Needs::Ways => {
            writes || entry.is_harmless(cdb)
        }
        Needs::Reserve => state.persistent.may_reserve(seat.nexus),
        Needs::Nothing | Needs::Ready | Needs::Release | Needs::Persistent => true,
    };
    if !allowed {
        return Err(Outcome::ReservationConflict);
    }
    let is_medium = matches!(
        entry.needs,
        Needs::Read | Needs::Write | Needs::Flush | Needs::Ready
    );
    // Implicit and explicit states (SPC-4, 5.15.2.4). READ CAPACITY is left to the target: a host that first comes by a standby way takes
    // a disk whose size it cannot ask for one of no blocks.
    if is_medium || entry.needs == Needs::Change {
        let code = match seat.access {
            Access::Optimized | Access::NonOptimized => None,
            Access::Standby if entry.without_medium => None,
            Access::Standby => Some(Code::ASYMMETRIC_STANDBY),
            Access::Unavailable => Some(Code::ASYMMETRIC_UNAVAILABLE),
        };
        if let Some(code) = code {
            return Err(Sense::new(Key::NotReady, code).into());
        }
    }
    // SANITIZE (SBC-3, 4.11.2): nothing that uses the medium, until it is done.
    match state.sanitize {
        Some(Sanitize::Running(progress)) if !entry.while_sanitizing => {
            return Err(sanitize::in_progress(progress));
        }
        Some(Sanitize::Failed { .. }) if !entry.while_sanitizing && !entry.is_sanitize(cdb) => {
            return Err(Sense::new(Key::MediumError, Code::SANITIZE_FAILED).into());
        }
        _ => {}
    }
    if is_medium && !entry.without_medium && state.power == Power::Stopped {
        return Err(Sense::new(Key::NotReady, Code::INITIALIZING_COMMAND_REQUIRED).into());
    }
    if entry.needs == Needs::Write && state.modes.software_write_protect {
        return Err(Sense::new(Key::DataProtect, Code::SOFTWARE_WRITE_PROTECTED).into());
    }
    if entry.needs == Needs::Write && seat.geometry.read_only {
        return Err(Sense::new(Key::DataProtect, Code::WRITE_PROTECTED).into());
    }
    Ok(())
}

/// Plans a command to a LUN that has no unit (SPC-4, 6.6, 6.33, 6.39; SAM-5, 5.12): `well_known` is the unit REPORT LUNS.
pub fn serve_nothing(directory: &dyn Directory, well_known: bool, cdb: Cdb) -> Plan {
    if well_known && let Some(control) = cdb.naca() {
        // It is never at fault (NORMACA 0).
        return Plan::End(Sense::invalid_field(control as u16, Some(2)).into());
    }
    let planned = match cdb.opcode() {
        opcode::INQUIRY if well_known => inquiry::well_known(&cdb),
        opcode::INQUIRY => inquiry::nothing(&cdb),
        opcode::REPORT_LUNS => report::luns(&cdb, directory),
        opcode::TEST_UNIT_READY if well_known => Ok(Plan::End(Outcome::Good)),
        opcode::REQUEST_SENSE => {
            let code = if well_known {
                Sense::new(Key::NoSense, Code::NONE)
            } else {
                Sense::illegal(Code::LOGICAL_UNIT_NOT_SUPPORTED)
            };
            Ok(report::sense_data(&cdb, &code))
        }
        _ if well_known => Err(Sense::illegal(Code::INVALID_OPCODE).into()),
        _ => Err(Sense::illegal(Code::LOGICAL_UNIT_NOT_SUPPORTED).into()),
    };
    planned.unwrap_or_else(Plan::End)
}
