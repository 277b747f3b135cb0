//! REPORT TARGET PORT GROUPS and SET TARGET PORT GROUPS (SPC-4, 5.15, 6.37, 6.45).

use super::job::Action;
use super::sense::{Code, Outcome, Sense};
use super::serve::{Call, Seat};
use super::unit::{Access, NexusId};
use super::{Parameters, Plan};

/// Bytes of a parameter list: every portal group that there can be, more than once.
const LIST_BYTES_MAX: u32 = 4096;

/// Who has changed the state of a group last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Altered {
    /// Nobody: it is as configured.
    #[default]
    Never,
    /// An operator.
    ByOperator,
    /// An initiator, by SET TARGET PORT GROUPS.
    ByInitiator(NexusId),
}

/// A target port group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortGroup {
    /// Its number.
    pub tag: u16,
    /// How units are reached through it.
    pub access: Access,
    /// Who has made that so.
    pub altered: Altered,
    /// The ports in it.
    pub ports: Vec<u16>,
}

/// REPORT TARGET PORT GROUPS.
pub(super) fn report(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let mut body = Vec::new();
    for group in call.directory.groups() {
        let status = match group.altered {
            Altered::Never => 0,
            Altered::ByInitiator(_) => 1,
            Altered::ByOperator => 2,
        };
        // Supported states: unavailable, standby, active/non-optimized, active/optimized.
        body.extend_from_slice(&[group.access as u8, 0x0F]);
        body.extend_from_slice(&group.tag.to_be_bytes());
        body.extend_from_slice(&[0, status, 0, group.ports.len() as u8]);
        for port in group.ports {
            body.extend_from_slice(&[0, 0]);
            body.extend_from_slice(&port.to_be_bytes());
        }
    }
    let mut data = (body.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(&body);
    Ok(Plan::answer(data, call.cdb.u32(6)))
}

/// SET TARGET PORT GROUPS: asks for its parameter list, where initiators may change states.
pub(super) fn set(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    if !call.directory.is_explicit() {
        return Err(Sense::illegal(Code::INVALID_OPCODE).into());
    }
    let length = call.cdb.u32(6);
    if length == 0 {
        return Ok(Plan::End(Outcome::Good));
    }
    if length < 4 || !length.is_multiple_of(4) || length > LIST_BYTES_MAX {
        return Err(Sense::illegal(Code::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    Ok(Plan::parameters(length, Parameters::SetTargetPortGroups))
}

/// The parameter list of SET TARGET PORT GROUPS has come: all of it holds, or nothing of it.
pub(super) fn carry_out(seat: &Seat<'_>, list: &[u8]) -> Action {
    let known = seat.directory.groups();
    let mut states = Vec::new();
    for (index, descriptor) in list.chunks_exact(4).enumerate().skip(1) {
        let wrong = |byte: usize| {
            let sense = Sense::invalid_parameter((4 * index + byte) as u16);
            Action::End(sense.into())
        };
        let access = match descriptor[0] & 0x0F {
            0x0 => Access::Optimized,
            0x1 => Access::NonOptimized,
            0x2 => Access::Standby,
            0x3 => Access::Unavailable,
            _ => return wrong(0),
        };
        let tag = u16::from_be_bytes([descriptor[2], descriptor[3]]);
        let is_known = known.iter().any(|group| group.tag == tag);
        let is_twice = states.iter().any(|(other, _)| *other == tag);
        if !is_known || is_twice {
            return wrong(2);
        }
        states.push((tag, access));
    }
    Action::SetAccess(states)
}
