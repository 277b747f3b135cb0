//! Every command that is carried out, once: what its CDB looks like, what it needs, and who does it.
//!
//! REPORT SUPPORTED OPERATION CODES tells initiators what stands here, so it cannot claim anything else.

use super::atomic::Atomic;
use super::cdb::{Cdb, opcode as op};
use super::sense::{Code, Outcome, Sense};
use super::serve::Call;
use super::{
    Plan, atomic, block, copy, inquiry, job, mode, opcodes, persistent, port_groups, report,
    reserve, sanitize,
};

/// What a command needs of its unit: which reservations are in its way (SPC-4, table 66; SBC-3, table 12), and whether it has to be ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing: always carried out.
    Nothing,
    /// The medium, but none of its data: any registration or reservation lets it pass.
    Ready,
    /// The right to read.
    Read,
    /// The right to write.
    Write,
    /// The same, though it changes no block: what was written before the unit was protected has to become durable.
    Flush,
    /// The right to write, though not the medium: it changes how the unit works.
    Change,
    /// The same for a command that changes the ways to the unit, and comes by any of them.
    Ways,
    /// RESERVE.
    Reserve,
    /// RELEASE.
    Release,
    /// PERSISTENT RESERVE: it looks after that itself.
    Persistent,
}

/// A command.
pub(super) struct Entry {
    pub(super) opcode: u8,
    /// The service action and the byte that it is in.
    pub(super) service: Option<u8>,
    /// Bytes of the CDB and which of its bits are looked at (CDB USAGE DATA; SPC-4, 6.35.3).
    pub(super) usage: &'static [u8],
    pub(super) needs: Needs,
    /// Carried out while SANITIZE runs (SBC-3, 4.11.2).
    pub(super) while_sanitizing: bool,
    /// Asks or sets without the medium: carried out by a way in standby, and by a stopped unit.
    pub(super) without_medium: bool,
    pub(super) run: fn(&mut Call<'_>) -> Result<Plan, Outcome>,
}

impl Entry {
    /// Commands whose form decides: to allow removal, to start, to release what one does not hold, is in nobody's way.
    pub(super) fn is_harmless(&self, cdb: &Cdb) -> bool {
        match self.opcode {
            op::PREVENT_ALLOW => cdb.byte(4) & 3 == 0,
            op::START_STOP_UNIT => cdb.bit(4, 0) && cdb.byte(4) >> 4 == 0,
            _ => false,
        }
    }

    /// Whether the unit has it: SET TARGET PORT GROUPS is there where initiators may change states, WRITE ATOMIC where the device beneath
    /// writes more than a block atomically.
    pub(super) fn is_there(&self, call: &Call<'_>) -> bool {
        match self.opcode {
            op::WRITE_ATOMIC_16 => Atomic::of(&call.geometry).is_offered(),
            _ => self.needs != Needs::Ways || call.directory.is_explicit(),
        }
    }

    /// SANITIZE itself, which is the way out of a failed one.
    pub(super) fn is_sanitize(&self, cdb: &Cdb) -> bool {
        cdb.opcode() == op::SANITIZE
    }
}

const fn command(
    usage: &'static [u8],
    needs: Needs,
    run: fn(&mut Call<'_>) -> Result<Plan, Outcome>,
) -> Entry {
    Entry {
        opcode: usage[0],
        service: None,
        usage,
        needs,
        while_sanitizing: false,
        without_medium: false,
        run,
    }
}

const fn action(
    usage: &'static [u8],
    needs: Needs,
    run: fn(&mut Call<'_>) -> Result<Plan, Outcome>,
) -> Entry {
    let mut entry = command(usage, needs, run);
    entry.service = Some(usage[1] & 0x1F);
    entry
}

const fn anytime(mut entry: Entry) -> Entry {
    entry.while_sanitizing = true;
    entry
}

const fn without_medium(mut entry: Entry) -> Entry {
    entry.without_medium = true;
    entry
}

use Needs::{Change, Flush, Nothing, Persistent, Read, Ready, Release, Reserve, Ways, Write};

/// A logical block address in a CDB of 10 or 12 bytes is four bytes long, in one of 16 eight.
#[rustfmt::skip]
pub(super) const CATALOG: &[Entry] = &[
    command(&[op::TEST_UNIT_READY, 0, 0, 0, 0, 0], Ready, report::ready),
    anytime(command(&[op::REQUEST_SENSE, 1, 0, 0, 0xFF, 0], Nothing, report::request_sense)),
    command(&[op::READ_6, 0x1F, 0xFF, 0xFF, 0xFF, 0], Read, block::read),
    command(&[op::WRITE_6, 0x1F, 0xFF, 0xFF, 0xFF, 0], Write, block::write),
    anytime(command(&[op::INQUIRY, 1, 0xFF, 0xFF, 0xFF, 0], Nothing, inquiry::inquiry)),
    without_medium(command(&[op::MODE_SELECT_6, 0x11, 0, 0, 0xFF, 0], Change, mode::select)),
    command(&[op::RESERVE_6, 0, 0, 0, 0, 0], Reserve, reserve::reserve),
    command(&[op::RELEASE_6, 0, 0, 0, 0, 0], Release, reserve::release),
    without_medium(command(&[op::MODE_SENSE_6, 0x08, 0xFF, 0xFF, 0xFF, 0], Read, mode::sense)),
    command(&[op::START_STOP_UNIT, 1, 0, 0x0F, 0xF7, 0], Change, report::start_stop),
    command(&[op::PREVENT_ALLOW, 0, 0, 0, 3, 0], Change, report::prevent_allow),
    without_medium(command(&[op::READ_CAPACITY_10, 0, 0, 0, 0, 0, 0, 0, 0, 0], Ready, report::capacity_10)),
    command(&[op::READ_10, 0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF, 0], Read, block::read),
    command(&[op::WRITE_10, 0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF, 0], Write, block::write),
    command(&[op::WRITE_AND_VERIFY_10, 0x16, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF, 0], Write, job::write_and_verify),
    command(&[op::VERIFY_10, 0x16, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF, 0], Read, job::verify),
    command(&[op::PRE_FETCH_10, 0x02, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF, 0], Read, block::pre_fetch),
    command(&[op::SYNCHRONIZE_CACHE_10, 0x02, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF, 0],
        Flush, job::synchronize_cache),
    command(&[op::READ_DEFECT_DATA_10, 0, 0x1F, 0, 0, 0, 0, 0xFF, 0xFF, 0], Read, report::defects),
    command(&[op::WRITE_SAME_10, 0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF, 0], Write, job::write_same),
    command(&[op::UNMAP, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0], Write, job::unmap),
    action(&[op::SANITIZE, 0xA1, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0], Write, sanitize::overwrite),
    action(&[op::SANITIZE, 0x1F, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0], Change, sanitize::exit_failure_mode),
    anytime(command(&[op::LOG_SENSE, 0, 0xFF, 0xFF, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0], Nothing, report::log_sense)),
    without_medium(command(&[op::MODE_SELECT_10, 0x11, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0], Change, mode::select)),
    command(&[op::RESERVE_10, 0, 0, 0, 0, 0, 0, 0, 0, 0], Reserve, reserve::reserve),
    command(&[op::RELEASE_10, 0, 0, 0, 0, 0, 0, 0, 0, 0], Release, reserve::release),
    without_medium(command(&[op::MODE_SENSE_10, 0x18, 0xFF, 0xFF, 0, 0, 0, 0xFF, 0xFF, 0], Read, mode::sense)),
    anytime(action(&[op::PERSISTENT_RESERVE_IN, 0x00, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0],
        Persistent, persistent::read_keys)),
    anytime(action(&[op::PERSISTENT_RESERVE_IN, 0x01, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0],
        Persistent, persistent::read_reservation)),
    anytime(action(&[op::PERSISTENT_RESERVE_IN, 0x02, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0],
        Persistent, persistent::report_capabilities)),
    anytime(action(&[op::PERSISTENT_RESERVE_IN, 0x03, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0],
        Persistent, persistent::read_full_status)),
    action(&[op::PERSISTENT_RESERVE_OUT, 0x00, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0], Persistent, persistent::out),
    action(&[op::PERSISTENT_RESERVE_OUT, 0x01, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0], Persistent, persistent::out),
    action(&[op::PERSISTENT_RESERVE_OUT, 0x02, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0], Persistent, persistent::out),
    action(&[op::PERSISTENT_RESERVE_OUT, 0x03, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0], Persistent, persistent::out),
    action(&[op::PERSISTENT_RESERVE_OUT, 0x04, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0], Persistent, persistent::out),
    action(&[op::PERSISTENT_RESERVE_OUT, 0x05, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0], Persistent, persistent::out),
    action(&[op::PERSISTENT_RESERVE_OUT, 0x06, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0], Persistent, persistent::out),
    action(&[op::PERSISTENT_RESERVE_OUT, 0x07, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0], Persistent, persistent::out),
    action(&[op::EXTENDED_COPY, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0], Change, copy::extended_copy),
    action(&[op::RECEIVE_COPY_RESULTS, 0x00, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Change, copy::status),
    action(&[op::RECEIVE_COPY_RESULTS, 0x03, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Change, copy::operating_parameters),
    action(&[op::RECEIVE_COPY_RESULTS, 0x04, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Change, copy::failed_segment_details),
    command(&[op::READ_16, 0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Read, block::read),
    command(&[op::COMPARE_AND_WRITE, 0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0xFF, 0, 0],
        Write, job::compare_and_write),
    command(&[op::WRITE_16, 0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Write, block::write),
    command(&[op::ORWRITE_16, 0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Write, job::or_write),
    command(&[op::WRITE_AND_VERIFY_16, 0x16, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Write, job::write_and_verify),
    command(&[op::VERIFY_16, 0x16, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Read, job::verify),
    command(&[op::PRE_FETCH_16, 0x02, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Read, block::pre_fetch),
    command(&[op::SYNCHRONIZE_CACHE_16, 0x02, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Flush, job::synchronize_cache),
    command(&[op::WRITE_SAME_16, 0x09, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Write, job::write_same),
    command(&[op::WRITE_ATOMIC_16, 0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Write, atomic::write_atomic),
    without_medium(action(&[op::SERVICE_ACTION_IN_16, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Ready, report::capacity_16)),
    action(&[op::SERVICE_ACTION_IN_16, 0x12, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Read, report::block_status),
    anytime(command(&[op::REPORT_LUNS, 0, 0xFF, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Nothing, report::luns_asked)),
    anytime(action(&[op::MAINTENANCE_IN, 0x0A, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Nothing, port_groups::report)),
    anytime(action(&[op::MAINTENANCE_IN, 0x0C, 0x87, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Nothing, opcodes::commands)),
    anytime(action(&[op::MAINTENANCE_IN, 0x0D, 0x80, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Nothing, opcodes::task_management)),
    action(&[op::MAINTENANCE_OUT, 0x0A, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0], Ways, port_groups::set),
    command(&[op::READ_12, 0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0], Read, block::read),
    command(&[op::WRITE_12, 0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0], Write, block::write),
    command(&[op::WRITE_AND_VERIFY_12, 0x16, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Write, job::write_and_verify),
    command(&[op::VERIFY_12, 0x16, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0], Read, job::verify),
    command(&[op::READ_DEFECT_DATA_12, 0x1F, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0], Read, report::defects),
];

/// The entry of a command.
pub(super) fn find(cdb: &Cdb) -> Result<&'static Entry, Sense> {
    let mut has_opcode = false;
    for entry in CATALOG {
        if entry.opcode == cdb.opcode() {
            has_opcode = true;
            if entry
                .service
                .is_none_or(|service| service == cdb.byte(1) & 0x1F)
            {
                return Ok(entry);
            }
        }
    }
    if has_opcode {
        // The operation code is known, the service action is not (SPC-4, 4.3.4.1).
        return Err(Sense::invalid_field(1, Some(4)));
    }
    Err(Sense::illegal(Code::INVALID_OPCODE))
}
