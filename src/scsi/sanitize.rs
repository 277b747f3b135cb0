//! SANITIZE (SBC-3, 4.11, 5.31): OVERWRITE, and EXIT FAILURE MODE.
//!
//! An overwrite is not ended by what ends its command: aborts, resets and the end of the session. So the command, a [`super::Job`], only reads the
//! parameter list, and leaves an [`Overwrite`] to whoever carries it, which goes on by itself.
//!
//! *Turned down:* BLOCK ERASE. Nothing beneath a mapped device says that what was unmapped is gone, only that it reads as zeroes.
//! CRYPTOGRAPHIC ERASE: there are no keys.

use super::cdb::Cdb;
use super::job::{Action, Job, Place, Step, Work};
use super::sense::{Code, Key, Outcome, Sense};
use super::serve::Call;
use super::unit::{Sanitize, Unit};
use super::{Extent, Plan};
use crate::dm::{Geometry, Op, Status};

/// Work memory: blocks of the pattern.
pub(super) const PATTERN_BYTES: u32 = 64 * 1024;

/// Writes of it at once.
const WRITES: usize = 8;

/// Bytes before the pattern in a parameter list.
const HEADER_BYTES: u32 = 4;

/// An overwrite of a whole unit that goes on by itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Overwrite {
    /// The command is answered now (IMMED); otherwise when this has ended.
    pub answers_at_once: bool,
    /// Whether EXIT FAILURE MODE may end a failure (AUSE).
    unrestricted: bool,
    /// How the unit was before: what has failed earlier stays so if this does not begin.
    before: Option<Sanitize>,
    /// One block.
    pattern: Vec<u8>,
    /// Every second pass writes the complement.
    inverts: bool,
    passes: u16,
    /// The pass that is under way, from 0.
    pass: u16,
    /// Sectors of the unit; one whose size becomes another cannot be said to be overwritten.
    sectors: u64,
    done: u64,
    under_way: u64,
    is_flushing: bool,
}

/// Reserved bits of the CDB (SBC-3, 5.31.1).
fn check(cdb: &Cdb) -> Result<(), Outcome> {
    if cdb.bit(1, 6) {
        return Err(Sense::invalid_field(1, Some(6)).into());
    }
    match (2..7).find(|&at| cdb.byte(at) != 0) {
        Some(at) => Err(Sense::invalid_field(at as u16, None).into()),
        None => Ok(()),
    }
}

/// SANITIZE, OVERWRITE (SBC-3, 5.31.2.2).
pub(super) fn overwrite(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    check(&call.cdb)?;
    let length = u32::from(call.cdb.u16(7));
    if length <= HEADER_BYTES || length > HEADER_BYTES + call.geometry.block_bytes {
        return Err(Sense::invalid_field(7, None).into());
    }
    Ok(Plan::Job(Box::new(Job::sanitize(length))))
}

/// SANITIZE, EXIT FAILURE MODE (SBC-3, 5.31.2.5).
pub(super) fn exit_failure_mode(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    check(&call.cdb)?;
    if call.cdb.u16(7) != 0 {
        return Err(Sense::invalid_field(7, None).into());
    }
    let mut state = call.unit.lock();
    match state.sanitize {
        // One was begun since the command was let in.
        Some(Sanitize::Running(progress)) => Err(in_progress(progress)),
        Some(Sanitize::Failed {
            unrestricted: false,
        }) => Err(Sense::invalid_field(1, Some(4)).into()),
        _ => {
            state.sanitize = None;
            call.unit.changed(&mut state);
            Ok(Plan::End(Outcome::Good))
        }
    }
}

/// It has come so far.
pub(super) fn in_progress(progress: u16) -> Outcome {
    let sense = Sense::new(Key::NotReady, Code::SANITIZE_IN_PROGRESS);
    sense.with_progress(progress).into()
}

impl Overwrite {
    /// Reads the parameter list of a command. From now on the unit refuses all that uses its medium.
    pub(super) fn begin(cdb: &Cdb, work: &Work<'_>) -> Result<Self, Outcome> {
        let list = work.data;
        let geometry = &work.seat.geometry;
        let block_bytes = geometry.block_bytes as usize;
        // TEST is vendor specific: no test is known.
        if list[0] & 0x60 != 0 || list[0] & 0x1F == 0 {
            return Err(Sense::invalid_parameter(0).into());
        }
        let size = usize::from(u16::from_be_bytes([list[2], list[3]]));
        let pattern = &list[HEADER_BYTES as usize..];
        if size == 0 || size > block_bytes || size > pattern.len() {
            return Err(Sense::invalid_parameter(2).into());
        }
        let unrestricted = cdb.bit(1, 5);
        let unit = work.seat.unit;
        let mut state = unit.lock();
        match state.sanitize {
            Some(Sanitize::Running(progress)) => return Err(in_progress(progress)),
            // What has failed in restricted mode is not left by an unrestricted one.
            Some(Sanitize::Failed {
                unrestricted: false,
            }) if unrestricted => {
                return Err(Sense::invalid_field(1, Some(5)).into());
            }
            _ => {}
        }
        let before = state.sanitize.replace(Sanitize::Running(0));
        unit.changed(&mut state);
        Ok(Self {
            answers_at_once: cdb.bit(1, 7),
            unrestricted,
            before,
            pattern: pattern[..size]
                .iter()
                .copied()
                .cycle()
                .take(block_bytes)
                .collect(),
            inverts: list[0] & 0x80 != 0,
            passes: u16::from(list[0] & 0x1F),
            pass: 0,
            sectors: geometry.sectors,
            done: 0,
            under_way: 0,
            is_flushing: false,
        })
    }

    /// What it is about to do, at first and whenever its steps have ended. `geometry` is the unit's as it is now.
    pub fn step(
        &mut self,
        unit: &Unit,
        geometry: Option<&Geometry>,
        scratch: &mut [u8],
        status: Status,
    ) -> Action {
        let is_as_it_was = geometry.is_some_and(|geometry| {
            let block_bytes = geometry.block_bytes as usize;
            geometry.sectors == self.sectors && block_bytes == self.pattern.len()
        });
        if !status.is_ok() || !is_as_it_was {
            return Action::End(self.fail(unit));
        }
        self.done += std::mem::take(&mut self.under_way);
        if std::mem::take(&mut self.is_flushing) {
            self.pass += 1;
            self.done = 0;
            if self.pass == self.passes {
                unit.set_sanitize(None);
                return Action::End(Outcome::Good);
            }
        }
        if self.done == 0 {
            let complement = if self.inverts && self.pass % 2 == 1 {
                0xFF
            } else {
                0
            };
            let pattern = self.pattern.iter().cycle();
            for (byte, pattern) in scratch.iter_mut().zip(pattern) {
                *byte = pattern ^ complement;
            }
        }
        self.report(unit);
        Action::Submit(self.steps(scratch.len() as u64 / 512))
    }

    /// Writes of the pattern; at the end of each pass a flush, so that none of them stays in a cache.
    fn steps(&mut self, piece: u64) -> Vec<Step> {
        let mut steps = Vec::new();
        while steps.len() < WRITES {
            let at = self.done + self.under_way;
            let sectors = piece.min(self.sectors - at);
            if sectors == 0 {
                break;
            }
            steps.push(step(Op::Write, at, sectors as u32, Place::Scratch(0)));
            self.under_way += sectors;
        }
        if steps.is_empty() {
            self.is_flushing = true;
            steps.push(step(Op::Flush, 0, 0, Place::Nothing));
        }
        steps
    }

    /// Tells how far it is, not more often than anybody would ask: whoever uses the unit takes a look then.
    fn report(&self, unit: &Unit) {
        let all = u128::from(self.sectors) * u128::from(self.passes);
        let done = u128::from(self.sectors) * u128::from(self.pass) + u128::from(self.done);
        let progress = (done * 65536 / all).min(0xFFFF) as u16 & 0xFF00;
        if unit.sanitize() != Some(Sanitize::Running(progress)) {
            unit.set_sanitize(Some(Sanitize::Running(progress)));
        }
    }

    /// It cannot go on: nobody knows what is on the medium. Answers how its command ends.
    pub fn fail(&self, unit: &Unit) -> Outcome {
        unit.set_sanitize(Some(Sanitize::Failed {
            unrestricted: self.unrestricted,
        }));
        Sense::new(Key::MediumError, Code::SANITIZE_FAILED).into()
    }

    /// It has not begun and will not.
    pub fn give_up(&self, unit: &Unit) {
        unit.set_sanitize(self.before);
    }
}

fn step(op: Op, sector: u64, sectors: u32, place: Place) -> Step {
    Step {
        lun: None,
        op,
        extent: Extent { sector, sectors },
        fua: false,
        place,
    }
}
