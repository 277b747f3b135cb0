//! Mode parameters (SPC-4, 7.5; SBC-3, 6.5): MODE SENSE and MODE SELECT.
//!
//! A page is a row of [`PAGES`]: what it says, and which of its bits can be changed. What can be changed is true: with the write cache
//! off every write is through to the medium, D_SENSE gives sense data its other form, SWP protects the unit, and with TAS commands that
//! another initiator aborts are answered.

use super::cdb::{Cdb, opcode};
use super::sense::{Code, Outcome, Sense};
use super::serve::Call;
use super::{Parameters, Plan};
use crate::dm::Geometry;

/// What initiators can set. Nothing is saved: a restart has the defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Modes {
    /// WCE was cleared: every write is through to the medium.
    pub(super) write_cache_off: bool,
    /// D_SENSE.
    pub(super) descriptor_sense: bool,
    /// SWP.
    pub(super) software_write_protect: bool,
    /// TAS.
    pub(super) tells_aborted: bool,
}

/// What mode pages are made from.
struct Current {
    modes: Modes,
    geometry: Geometry,
}

struct Page {
    code: u8,
    /// The page as it is now, without its two bytes of header.
    current: fn(&Current) -> Vec<u8>,
    /// The bits of it that can be changed.
    changeable: fn(&Current) -> Vec<u8>,
    /// Takes over changed bits.
    select: fn(&mut Modes, &[u8]),
}

const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0A;

/// Every page, in ascending order.
const PAGES: &[Page] = &[
    // Read-Write Error Recovery (SBC-3, 6.5.8): AWRE and ARRE, for the devices beneath reallocate by themselves.
    Page {
        code: 0x01,
        current: |_| {
            let mut page = vec![0; 10];
            page[0] = 0xC0;
            page
        },
        changeable: |_| vec![0; 10],
        select: |_, _| {},
    },
    // Disconnect-Reconnect (SPC-4, 7.5.9): all of it is up to iSCSI's own negotiation.
    Page {
        code: 0x02,
        current: |_| vec![0; 14],
        changeable: |_| vec![0; 14],
        select: |_, _| {},
    },
    // Caching (SBC-3, 6.5.6): WCE.
    Page {
        code: CACHING,
        current: |now| {
            let mut page = vec![0; 18];
            let enabled = now.geometry.volatile_cache && !now.modes.write_cache_off;
            page[0] = u8::from(enabled) << 2;
            page
        },
        changeable: |now| {
            let mut page = vec![0; 18];
            page[0] = u8::from(now.geometry.volatile_cache) << 2;
            page
        },
        select: |modes, page| modes.write_cache_off = page[0] & 0x04 == 0,
    },
    // Control (SPC-4, 7.5.8): D_SENSE; SWP; TAS. QERR is 0: when a command fails, others go on. TST is 001b: each nexus has a task set of its
    // own.
    Page {
        code: CONTROL,
        current: |now| {
            let mut page = vec![0; 10];
            page[0] = 0x20 | u8::from(now.modes.descriptor_sense) << 2;
            // SIMPLE commands are carried out in any order (QUEUE ALGORITHM MODIFIER 1).
            page[1] = 0x10;
            page[2] = u8::from(now.modes.software_write_protect) << 3;
            page[3] = u8::from(now.modes.tells_aborted) << 6;
            // No bound for how long a command may be busy.
            page[6..8].fill(0xFF);
            page
        },
        changeable: |_| {
            let mut page = vec![0; 10];
            page[0] = 0x04;
            page[2] = 0x08;
            page[3] = 0x40;
            page
        },
        select: |modes, page| {
            modes.descriptor_sense = page[0] & 0x04 != 0;
            modes.software_write_protect = page[2] & 0x08 != 0;
            modes.tells_aborted = page[3] & 0x40 != 0;
        },
    },
    // Informational Exceptions Control (SPC-4, 7.5.11): nothing is predicted (DEXCPT).
    Page {
        code: 0x1C,
        current: |_| {
            let mut page = vec![0; 10];
            page[0] = 0x08;
            page
        },
        changeable: |_| vec![0; 10],
        select: |_, _| {},
    },
];

/// Bytes of parameter data that MODE SELECT takes: every page, with room to spare.
const SELECT_BYTES_MAX: u32 = 512;

/// MODE SENSE(6) and MODE SENSE(10) (SPC-4, 6.13, 6.14).
pub(super) fn sense(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let cdb = call.cdb;
    let is_short = cdb.opcode() == opcode::MODE_SENSE_6;
    let (control, code, subpage) = (cdb.byte(2) >> 6, cdb.byte(2) & 0x3F, cdb.byte(3));
    let no_descriptor = cdb.bit(1, 3);
    let long_lba = !is_short && cdb.bit(1, 4);
    if control == 3 {
        return Err(Sense::illegal(Code::SAVING_NOT_SUPPORTED).into());
    }
    let all = code == 0x3F;
    // Subpages there are none; FFh asks for a page with all of them.
    if subpage != 0 && subpage != 0xFF {
        return Err(Sense::invalid_field(3, None).into());
    }
    let now = Current {
        modes: call.unit.lock().modes,
        geometry: call.geometry,
    };
    // Defaults are what the page would say if nobody had ever set anything.
    let default = Current {
        modes: Modes::default(),
        geometry: now.geometry,
    };
    let mut pages = Vec::new();
    for page in PAGES.iter().filter(|page| all || page.code == code) {
        let body = match control {
            0 => (page.current)(&now),
            1 => (page.changeable)(&now),
            _ => (page.current)(&default),
        };
        pages.extend_from_slice(&[page.code, body.len() as u8]);
        pages.extend_from_slice(&body);
    }
    if pages.is_empty() {
        return Err(Sense::invalid_field(2, Some(5)).into());
    }
    let descriptor = if no_descriptor {
        Vec::new()
    } else {
        block_descriptor(&now.geometry, long_lba)
    };
    // WP and DPOFUA (SBC-3, 6.5.1).
    let protected = now.geometry.read_only || now.modes.software_write_protect;
    let specific = u8::from(protected) << 7 | 0x10;
    let mut data;
    let length;
    if is_short {
        data = vec![0, 0, specific, descriptor.len() as u8];
        length = u32::from(cdb.byte(4));
    } else {
        data = vec![
            0,
            0,
            0,
            specific,
            u8::from(long_lba && !no_descriptor),
            0,
            0,
            0,
        ];
        data[6..8].copy_from_slice(&(descriptor.len() as u16).to_be_bytes());
        length = u32::from(cdb.u16(7));
    }
    data.extend_from_slice(&descriptor);
    data.extend_from_slice(&pages);
    if is_short {
        data[0] = (data.len() - 1) as u8;
    } else {
        let size = (data.len() - 2) as u16;
        data[..2].copy_from_slice(&size.to_be_bytes());
    }
    Ok(Plan::answer(data, length))
}

/// The one block descriptor (SBC-3, 6.5.2).
fn block_descriptor(geometry: &Geometry, long_lba: bool) -> Vec<u8> {
    let blocks = geometry.sectors / u64::from(geometry.block_bytes / 512);
    let block_bytes = geometry.block_bytes.to_be_bytes();
    if long_lba {
        let mut descriptor = vec![0; 16];
        descriptor[..8].copy_from_slice(&blocks.to_be_bytes());
        descriptor[12..].copy_from_slice(&block_bytes);
        descriptor
    } else {
        let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
        let mut descriptor = vec![0; 8];
        descriptor[..4].copy_from_slice(&blocks.to_be_bytes());
        descriptor[5..].copy_from_slice(&block_bytes[1..]);
        descriptor
    }
}

/// MODE SELECT(6) and MODE SELECT(10) (SPC-4, 6.11, 6.12): asks for the parameter list.
pub(super) fn select(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let cdb = call.cdb;
    // Nothing can be saved (SP), and pages are in the standard's format (PF).
    if cdb.bit(1, 0) {
        return Err(Sense::invalid_field(1, Some(0)).into());
    }
    if !cdb.bit(1, 4) {
        return Err(Sense::invalid_field(1, Some(4)).into());
    }
    let length = match cdb.opcode() {
        opcode::MODE_SELECT_6 => u32::from(cdb.byte(4)),
        _ => u32::from(cdb.u16(7)),
    };
    if length > SELECT_BYTES_MAX {
        return Err(Sense::illegal(Code::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    Ok(Plan::parameters(length, Parameters::ModeSelect))
}

/// The parameter list of MODE SELECT has come: all of it holds, or nothing of it.
pub(super) fn selected(call: &Call<'_>, cdb: &Cdb, list: &[u8]) -> Result<(), Outcome> {
    if list.is_empty() {
        return Ok(());
    }
    let is_short = cdb.opcode() == opcode::MODE_SELECT_6;
    let header = if is_short { 4 } else { 8 };
    let wrong_length = || Outcome::from(Sense::illegal(Code::PARAMETER_LIST_LENGTH_ERROR));
    if list.len() < header {
        return Err(wrong_length());
    }
    let descriptors = if is_short {
        usize::from(list[3])
    } else {
        usize::from(u16::from_be_bytes([list[6], list[7]]))
    };
    if descriptors != 0 {
        let long_lba = !is_short && list[4] & 1 != 0;
        let expected = block_descriptor(&call.geometry, long_lba);
        let given = list
            .get(header..header + descriptors)
            .ok_or_else(wrong_length)?;
        check_descriptor(given, &expected, header)?;
    }
    let mut state = call.unit.lock();
    let mut modes = state.modes;
    let mut at = header + descriptors;
    while at < list.len() {
        at = select_page(call, list, at, &mut modes)?;
    }
    if modes != state.modes {
        state.modes = modes;
        // The others are told (SPC-4, 6.11).
        state.attend_others(Some(call.nexus.id), Code::MODE_PARAMETERS_CHANGED);
        call.unit.changed(&mut state);
    }
    Ok(())
}

/// The size of the unit and of its blocks can be repeated, but not changed (SBC-3, 6.5.2).
fn check_descriptor(given: &[u8], expected: &[u8], at: usize) -> Result<(), Outcome> {
    let blocks = if expected.len() == 8 { 0..4 } else { 0..8 };
    let same_size = given.len() == expected.len()
        && (given[blocks.clone()] == expected[blocks.clone()]
            || given[blocks].iter().all(|&byte| byte == 0));
    let tail = expected.len() - 3;
    if !same_size || given[tail..] != expected[tail..] {
        return Err(Sense::invalid_parameter(at as u16).into());
    }
    Ok(())
}

/// One page of the list; answers where the next one is.
fn select_page(
    call: &Call<'_>,
    list: &[u8],
    at: usize,
    modes: &mut Modes,
) -> Result<usize, Outcome> {
    let wrong_length = || Outcome::from(Sense::illegal(Code::PARAMETER_LIST_LENGTH_ERROR));
    let wrong = |byte: usize| Outcome::from(Sense::invalid_parameter(byte as u16));
    let &[first, size] = list.get(at..at + 2).ok_or_else(wrong_length)? else {
        return Err(wrong_length());
    };
    // SPF: there are no subpages.
    if first & 0x40 != 0 {
        return Err(wrong(at));
    }
    let page = PAGES.iter().find(|page| page.code == first & 0x3F);
    let page = page.ok_or_else(|| wrong(at))?;
    let now = Current {
        modes: *modes,
        geometry: call.geometry,
    };
    let current = (page.current)(&now);
    if usize::from(size) != current.len() {
        return Err(wrong(at + 1));
    }
    let body = at + 2..at + 2 + current.len();
    let given = list.get(body.clone()).ok_or_else(wrong_length)?;
    let changeable = (page.changeable)(&now);
    for (index, &byte) in given.iter().enumerate() {
        if (byte ^ current[index]) & !changeable[index] != 0 {
            return Err(wrong(body.start + index));
        }
    }
    if given != current {
        (page.select)(modes, given);
    }
    Ok(body.end)
}
