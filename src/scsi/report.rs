//! Commands that ask about a unit or set how it is, without its data: REPORT LUNS, READ CAPACITY, START STOP UNIT and their like.

use super::cdb::{Cdb, opcode as op};
use super::sense::{Code, Key, Outcome, SENSE_BYTES_MAX, Sense};
use super::serve::{Call, Directory, Limits};
use super::unit::{Power, Sanitize};
use super::{Plan, lun};

/// TEST UNIT READY (SPC-4, 6.47): whoever gets here is.
pub(super) fn ready(_call: &mut Call<'_>) -> Result<Plan, Outcome> {
    Ok(Plan::End(Outcome::Good))
}

/// REQUEST SENSE (SPC-4, 6.39): a unit attention that waits, how far SANITIZE is, or that there is nothing to say.
pub(super) fn request_sense(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let attention = call.unit.take_attention(call.nexus.id);
    let sense = attention.unwrap_or_else(|| match call.unit.sanitize() {
        Some(Sanitize::Running(progress)) => {
            Sense::new(Key::NotReady, Code::SANITIZE_IN_PROGRESS).with_progress(progress)
        }
        Some(Sanitize::Failed { .. }) => Sense::new(Key::MediumError, Code::SANITIZE_FAILED),
        None if call.unit.lock().power == Power::Stopped => {
            Sense::new(Key::NotReady, Code::INITIALIZING_COMMAND_REQUIRED)
        }
        None => Sense::new(Key::NoSense, Code::NONE),
    });
    Ok(sense_data(&call.cdb, &sense))
}

/// Sense data as an answer.
pub(super) fn sense_data(cdb: &Cdb, sense: &Sense) -> Plan {
    let mut bytes = [0; SENSE_BYTES_MAX];
    let size = sense.encode(&mut bytes, cdb.bit(1, 0));
    Plan::answer(bytes[..size].to_vec(), u32::from(cdb.byte(4)))
}

/// REPORT LUNS to a unit: who has asked need not be told any more, by any of its units, that there are others now (SPC-4, 6.33).
pub(super) fn luns_asked(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let plan = luns(&call.cdb, call.directory)?;
    for lun in call.directory.luns() {
        if let Some((unit, _)) = call.directory.unit(lun) {
            unit.forget_attention(call.nexus.id, Code::REPORTED_LUNS_CHANGED);
        }
    }
    Ok(plan)
}

/// REPORT LUNS (SPC-4, 6.33).
pub(super) fn luns(cdb: &Cdb, directory: &dyn Directory) -> Result<Plan, Outcome> {
    let length = cdb.u32(6);
    let mut luns: Vec<[u8; 8]> = Vec::new();
    let units = || directory.luns().into_iter().map(lun::Lun::encode);
    match cdb.byte(2) {
        0x00 => luns.extend(units()),
        0x01 => luns.push(lun::REPORT_LUNS),
        0x02 => {
            luns.extend(units());
            luns.push(lun::REPORT_LUNS);
        }
        _ => return Err(Sense::invalid_field(2, None).into()),
    }
    if length < 16 {
        return Err(Sense::invalid_field(6, None).into());
    }
    let mut data = ((luns.len() * 8) as u32).to_be_bytes().to_vec();
    data.extend_from_slice(&[0; 4]);
    data.extend_from_slice(&luns.concat());
    Ok(Plan::answer(data, length))
}

/// READ CAPACITY(10) (SBC-3, 5.15).
pub(super) fn capacity_10(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    // Without PMI, which is obsolete, there must be no address.
    if call.cdb.u32(2) != 0 || call.cdb.bit(8, 0) {
        return Err(Sense::invalid_field(2, None).into());
    }
    let last = u32::try_from(call.blocks() - 1).unwrap_or(u32::MAX);
    let mut data = last.to_be_bytes().to_vec();
    data.extend_from_slice(&call.geometry.block_bytes.to_be_bytes());
    Ok(Plan::Answer(data))
}

/// READ CAPACITY(16) (SBC-3, 5.16).
pub(super) fn capacity_16(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let mut data = vec![0; 32];
    data[..8].copy_from_slice(&(call.blocks() - 1).to_be_bytes());
    data[8..12].copy_from_slice(&call.geometry.block_bytes.to_be_bytes());
    data[13] = Limits::of(&call.geometry).physical_exponent;
    // LBPME, LBPRZ.
    let geometry = &call.geometry;
    data[14] = u8::from(geometry.discard) << 7
        | u8::from(geometry.discard && geometry.discard_zeroes) << 6;
    Ok(Plan::answer(data, call.cdb.u32(10)))
}

/// GET LBA STATUS (SBC-3, 5.4): a device beneath does not tell what of it was deallocated, and what is not known to be is mapped.
pub(super) fn block_status(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let lba = call.cdb.u64(2);
    let blocks = call.blocks();
    if lba >= blocks {
        return Err(Sense::illegal(Code::LBA_OUT_OF_RANGE).into());
    }
    let count = u32::try_from(blocks - lba).unwrap_or(u32::MAX);
    let mut data = vec![0; 24];
    data[3] = 20;
    data[8..16].copy_from_slice(&lba.to_be_bytes());
    data[16..20].copy_from_slice(&count.to_be_bytes());
    Ok(Plan::answer(data, call.cdb.u32(10)))
}

/// READ DEFECT DATA(10), READ DEFECT DATA(12) (SBC-3, 5.17): there are no defects.
pub(super) fn defects(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let cdb = &call.cdb;
    if cdb.opcode() == op::READ_DEFECT_DATA_10 {
        let asked = cdb.byte(2) & 0x1F;
        return Ok(Plan::answer(vec![0, asked, 0, 0], u32::from(cdb.u16(7))));
    }
    let asked = cdb.byte(1) & 0x1F;
    Ok(Plan::answer(vec![0, asked, 0, 0, 0, 0, 0, 0], cdb.u32(6)))
}

/// START STOP UNIT (SBC-3, 5.25): a stopped unit answers nothing about its medium until it is started. What it has cached is written by
/// those who want it kept.
pub(super) fn start_stop(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let byte = call.cdb.byte(4);
    let (condition, eject, start) = (byte >> 4, byte & 0x02 != 0, byte & 0x01 != 0);
    // A medium that cannot be taken out is neither loaded nor ejected; and there are no power conditions.
    if condition != 0 {
        return Err(Sense::invalid_field(4, Some(7)).into());
    }
    if eject {
        return Err(Sense::invalid_field(4, Some(1)).into());
    }
    let power = if start { Power::Active } else { Power::Stopped };
    let mut state = call.unit.lock();
    if state.power != power {
        state.power = power;
        call.unit.changed(&mut state);
    }
    Ok(Plan::End(Outcome::Good))
}

/// PREVENT ALLOW MEDIUM REMOVAL (SPC-4, 6.17): remembered for each nexus, though the medium cannot be removed.
pub(super) fn prevent_allow(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let prevents = call.cdb.byte(4) & 0x03 != 0;
    let mut state = call.unit.lock();
    if let Some(nexus) = state.nexuses.get_mut(&call.nexus.id) {
        nexus.prevents_removal = prevents;
    }
    Ok(Plan::End(Outcome::Good))
}

/// LOG SENSE (SPC-4, 6.7): the list of pages, and that nothing is exceptional.
pub(super) fn log_sense(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let cdb = &call.cdb;
    let (page, subpage) = (cdb.byte(2) & 0x3F, cdb.byte(3));
    if subpage != 0 {
        return Err(Sense::invalid_field(3, None).into());
    }
    let body: Vec<u8> = match page {
        0x00 => vec![0x00, 0x2F],
        // Informational Exceptions (7.3.8): none; the temperature is not known.
        0x2F => vec![0, 0, 0x03, 4, 0, 0, 0xFF, 0],
        _ => return Err(Sense::invalid_field(2, Some(5)).into()),
    };
    let mut data = vec![page, 0];
    data.extend_from_slice(&(body.len() as u16).to_be_bytes());
    data.extend_from_slice(&body);
    Ok(Plan::answer(data, u32::from(cdb.u16(7))))
}
