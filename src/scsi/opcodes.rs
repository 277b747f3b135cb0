//! REPORT SUPPORTED OPERATION CODES and REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4, 6.35, 6.36).

use super::Plan;
use super::catalog::{CATALOG, Entry};
use super::cdb::{Cdb, NACA};
use super::sense::{Outcome, Sense};
use super::serve::Call;

/// A command timeouts descriptor that says nothing: no command here has a time.
const NO_TIMEOUTS: [u8; 12] = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// REPORT SUPPORTED OPERATION CODES.
pub(super) fn commands(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let cdb = &call.cdb;
    let timeouts = cdb.bit(2, 7);
    let (code, service) = (cdb.byte(3), cdb.u16(4));
    let data = match cdb.byte(2) & 0x07 {
        0 => all(call, timeouts),
        // A command without service actions.
        1 => {
            let mut of = there(call).filter(|entry| entry.opcode == code);
            let entry = of.next();
            if entry.is_some_and(|entry| entry.service.is_some()) {
                return Err(Sense::invalid_field(2, Some(2)).into());
            }
            one(entry, timeouts)
        }
        // One with.
        2 => {
            let mut of = there(call).filter(|entry| entry.opcode == code);
            if of.clone().any(|entry| entry.service.is_none()) {
                return Err(Sense::invalid_field(2, Some(2)).into());
            }
            let of_service = |entry: &&Entry| entry.service.map(u16::from) == Some(service);
            one(of.find(of_service), timeouts)
        }
        // Either.
        3 => {
            let mut of = there(call).filter(|entry| entry.opcode == code);
            let of_service = |entry: &&Entry| {
                entry
                    .service
                    .map_or(service == 0, |own| u16::from(own) == service)
            };
            one(of.find(of_service), timeouts)
        }
        _ => return Err(Sense::invalid_field(2, Some(2)).into()),
    };
    Ok(Plan::answer(data, cdb.u32(6)))
}

/// The commands that the target has.
fn there<'a>(call: &'a Call<'_>) -> impl Iterator<Item = &'static Entry> + Clone + 'a {
    CATALOG.iter().filter(|entry| entry.is_there(call))
}

fn all(call: &Call<'_>, timeouts: bool) -> Vec<u8> {
    let mut data = vec![0; 4];
    for entry in there(call) {
        let service = u16::from(entry.service.unwrap_or(0));
        let flags = u8::from(timeouts) << 1 | u8::from(entry.service.is_some());
        data.extend_from_slice(&[entry.opcode, 0]);
        data.extend_from_slice(&service.to_be_bytes());
        data.extend_from_slice(&[0, flags]);
        data.extend_from_slice(&(entry.usage.len() as u16).to_be_bytes());
        if timeouts {
            data.extend_from_slice(&NO_TIMEOUTS);
        }
    }
    let size = (data.len() - 4) as u32;
    data[..4].copy_from_slice(&size.to_be_bytes());
    data
}

fn one(entry: Option<&Entry>, timeouts: bool) -> Vec<u8> {
    let Some(entry) = entry else {
        // SUPPORT 001b: not supported.
        return vec![0, 1, 0, 0];
    };
    let mut data = vec![0, u8::from(timeouts) << 7 | 3];
    data.extend_from_slice(&(entry.usage.len() as u16).to_be_bytes());
    data.extend_from_slice(entry.usage);
    if let Some(control) = Cdb::control(entry.opcode) {
        data[4 + control] |= NACA;
    }
    if timeouts {
        data.extend_from_slice(&NO_TIMEOUTS);
    }
    data
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS: ABORT TASK, ABORT TASK SET, CLEAR ACA, CLEAR TASK SET, LOGICAL UNIT RESET, QUERY TASK, TARGET RESET;
/// QUERY ASYNCHRONOUS EVENT, QUERY TASK SET, I_T NEXUS RESET.
pub(super) fn task_management(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let mut data = vec![0xFE, 0x07, 0, 0];
    if call.cdb.bit(2, 7) {
        data[3] = 12;
        data.extend_from_slice(&[0; 12]);
    }
    Ok(Plan::answer(data, call.cdb.u32(6)))
}
