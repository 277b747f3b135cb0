//! What goes on by itself after its command has done its part: SANITIZE, which neither aborts, resets nor the end of its session end
//! (SBC-3, 4.11.2).
//!
//! It stays on the core that its command came to. Before it writes, every core answers that no command which was accepted before it is at
//! a device any more: none of their writes comes after it.

use std::rc::Rc;
use std::sync::Arc;

use super::command::{Phase, Standing, Work};
use super::message::Message;
use super::session::{Context, Session};
use super::target::TargetId;
use super::unit::{LocalUnits, LunSet};
use crate::dm::{CoreId, DeviceId, Status};
use crate::export::backend::{Backend, Lend, Request};
use crate::export::frame::SessionKey;
use crate::iscsi::pdu::opcode;
use crate::reactor::PoolBuffer;
use crate::scsi::{Action, Outcome, Overwrite, Place, Step, Unit};

/// Most of them on one core.
const ENTRIES_MAX: usize = 64;

/// Tags from here on are ours; below are connections (`frame::tag`).
const TAG: u32 = 1 << 31;

/// The command that waits for an end: its session and slot.
pub type Waiting = (SessionKey, u16);

struct Entry {
    number: u32,
    target: TargetId,
    lun: u16,
    unit: Arc<Unit>,
    overwrite: Box<Overwrite>,
    scratch: PoolBuffer,
    command: Option<Waiting>,
    /// Cores that have not answered yet.
    cores: u16,
    /// I/Os at the device.
    pending: u32,
    status: Status,
    /// Shared with those who wait until it is gone because its unit is removed: nothing more is submitted then.
    mourners: Vec<Rc<()>>,
}

/// All of them on one core.
#[derive(Default)]
pub struct Background {
    entries: Vec<Option<Entry>>,
    /// How many have begun: makes a late answer to an earlier one known.
    count: u32,
    is_stopping: bool,
}

/// What begins.
pub struct Begun {
    /// The unit.
    pub place: (TargetId, u16, Arc<Unit>),
    /// What is done to it.
    pub overwrite: Box<Overwrite>,
    /// Its work memory.
    pub scratch: PoolBuffer,
    /// The command that waits for it, if it is not answered at once.
    pub command: Option<Waiting>,
}

impl Background {
    /// Takes something in, and answers its number. `outbox` gets the question to every core. `None` when there is no room: it has not
    /// begun then.
    pub fn begin(
        &mut self,
        begun: Begun,
        cores: u16,
        core: CoreId,
        outbox: &mut Vec<(CoreId, Message)>,
    ) -> Option<u32> {
        let (target, lun, unit) = begun.place;
        let free = self.entries.iter().position(Option::is_none);
        if self.is_stopping || free.is_none() && self.entries.len() == ENTRIES_MAX {
            begun.overwrite.give_up(&unit);
            return None;
        }
        self.count = self.count.wrapping_add(1);
        let entry = Some(Entry {
            number: self.count,
            target,
            lun,
            unit,
            overwrite: begun.overwrite,
            scratch: begun.scratch,
            command: begun.command,
            cores,
            pending: 0,
            status: Status::Ok,
            mourners: Vec::new(),
        });
        match free {
            Some(index) => self.entries[index] = entry,
            None => self.entries.push(entry),
        }
        for to in 0..cores {
            let message = Message::Drain {
                target,
                lun,
                from: (core, self.count),
            };
            outbox.push((CoreId(to), message));
        }
        Some(self.count)
    }

    /// A core has answered: nothing accepted before is at a device there.
    pub fn drained(&mut self, number: u32) {
        let mut entries = self.entries.iter_mut().flatten();
        if let Some(entry) = entries.find(|entry| entry.number == number) {
            entry.cores -= 1;
        }
    }

    /// An I/O has ended. Tags that are not ours are ignored.
    pub fn completed(&mut self, tag: u32, status: Status) {
        let index = tag.checked_sub(TAG).map(|index| index as usize);
        let entry = index.and_then(|index| self.entries.get_mut(index)?.as_mut());
        if let Some(entry) = entry {
            entry.pending -= 1;
            if entry.status.is_ok() {
                entry.status = status;
            }
        }
    }

    /// Units of a target go: what is done to them ends when its device has done with it.
    pub fn abort<B: Backend>(
        &mut self,
        target: TargetId,
        luns: &LunSet,
        token: &Rc<()>,
        units: &LocalUnits,
        backend: &mut B,
    ) {
        for (index, entry) in self.entries.iter_mut().enumerate() {
            let Some(entry) = entry else { continue };
            if entry.target == target && luns.has(entry.lun) {
                entry.mourners.push(Rc::clone(token));
                if let Some(unit) = units.get(target, entry.lun) {
                    backend.abort(unit.device, TAG | index as u32);
                }
            }
        }
    }

    /// The target stops: what is at a device ends, and no more follows.
    pub fn stop(&mut self) {
        self.is_stopping = true;
    }

    /// Whether there is anything that would go on without being told.
    pub fn is_busy(&self) -> bool {
        let mut entries = self.entries.iter().flatten();
        entries.any(|entry| entry.cores == 0 && entry.pending == 0)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.entries.iter().all(Option::is_none)
    }

    /// One turn: the next steps of each whose last ones have ended. Commands that waited for an end are told by `outbox`.
    pub fn poll<B: Backend>(
        &mut self,
        units: &LocalUnits,
        backend: &mut B,
        outbox: &mut Vec<(CoreId, Message)>,
    ) -> bool {
        let mut worked = false;
        for index in 0..self.entries.len() {
            let Some(entry) = &mut self.entries[index] else {
                continue;
            };
            if entry.pending > 0 {
                if self.is_stopping
                    && let Some(unit) = units.get(entry.target, entry.lun)
                {
                    // A device that is suspended would keep it.
                    backend.abort(unit.device, TAG | index as u32);
                }
                continue;
            }
            if entry.cores > 0 && !self.is_stopping {
                continue;
            }
            worked = true;
            let is_over = self.is_stopping || !entry.mourners.is_empty();
            let end = if is_over {
                Some(entry.overwrite.fail(&entry.unit))
            } else {
                entry.run(TAG | index as u32, units, backend)
            };
            if let Some(outcome) = end {
                if let Some((key, slot)) = entry.command {
                    outbox.push((key.core, Message::Left(key, slot, entry.number, outcome)));
                }
                self.entries[index] = None;
            }
        }
        worked
    }
}

impl Entry {
    /// Submits the next steps; answers how it ended if it has.
    fn run<B: Backend>(
        &mut self,
        tag: u32,
        units: &LocalUnits,
        backend: &mut B,
    ) -> Option<Outcome> {
        let local = units.get(self.target, self.lun);
        let local = local.filter(|local| Arc::ptr_eq(&local.unit, &self.unit));
        let geometry = local.and_then(|local| local.geometry.as_ref());
        let status = std::mem::replace(&mut self.status, Status::Ok);
        let action = self
            .overwrite
            .step(&self.unit, geometry, &mut self.scratch, status);
        let steps = match action {
            Action::Submit(steps) => steps,
            Action::End(outcome) => return Some(outcome),
            Action::Leave(_) | Action::Keep(_) | Action::Preempt(_) | Action::SetAccess(_) => {
                unreachable!("an overwrite only reads and writes its unit")
            }
        };
        let device = local?.device;
        self.pending = steps.len() as u32;
        for step in &steps {
            if let Some(status) = self.submit(step, device, tag, backend) {
                self.pending -= 1;
                if self.status.is_ok() {
                    self.status = status;
                }
            }
        }
        None
    }

    fn submit<B: Backend>(
        &self,
        step: &Step,
        device: DeviceId,
        command: u32,
        backend: &mut B,
    ) -> Option<Status> {
        let size = step.extent.sectors as usize * 512;
        let bytes = match step.place {
            Place::Scratch(at) => {
                assert!(
                    at + size <= self.scratch.capacity(),
                    "work memory ends there"
                );
                self.scratch.as_mut_ptr().wrapping_add(at)
            }
            _ => std::ptr::null_mut(),
        };
        let request = Request {
            device,
            command,
            op: step.op,
            fua: step.fua,
            sector: step.extent.sector,
            sectors: step.extent.sectors,
        };
        // SAFETY: the work memory is the entry's, which stays until nothing of it is pending, and as long as the step needs: asserted above.
        unsafe { backend.submit(&request, bytes) }
    }
}

impl<L: Lend> Session<L> {
    /// A command has done its part; what it leaves goes on by itself, and the command waits for that unless it is answered at once.
    pub(super) fn leave_behind<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        overwrite: Box<Overwrite>,
        cx: &mut Context<'_, B>,
    ) {
        let waits = !overwrite.answers_at_once;
        let slot = self.slots.get_mut(index);
        let lun = slot.lun;
        let scratch = slot.scratch.take();
        self.buffer_bytes -= scratch.as_ref().map_or(0, PoolBuffer::capacity);
        let local = &mut *cx.local;
        let number = self.target().and_then(|target| {
            let begun = Begun {
                place: (target, lun, Arc::clone(&local.units.get(target, lun)?.unit)),
                overwrite,
                scratch: scratch?,
                command: waits.then_some((self.key, index)),
            };
            let cores = cx.target.cores();
            local
                .background
                .begin(begun, cores, local.core, &mut local.outbox)
        });
        let slot = self.slots.get_mut(index);
        match number {
            Some(number) if waits => {
                slot.work = Work::Left(number);
                return;
            }
            Some(_) => slot.outcome = Outcome::Good,
            None => slot.outcome = Outcome::Busy,
        }
        self.conclude(index, cx);
    }

    /// What a command waited for has ended. The command may have been aborted meanwhile, and its slot be another's.
    pub fn left_ended<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        number: u32,
        outcome: Outcome,
        cx: &mut Context<'_, B>,
    ) {
        let slot = self.slots.get_mut(index);
        if matches!(slot.work, Work::Left(own) if own == number) {
            slot.outcome = outcome;
            self.conclude(index, cx);
        }
    }

    /// Shares `token` with all commands to a unit that could still change it.
    pub fn share_with(&mut self, lun: u16, token: &Rc<()>) {
        let taken: Vec<u16> = self.slots.taken().collect();
        for index in taken {
            let slot = self.slots.get_mut(index);
            let is_about = slot.lun == lun || slot.work.others().contains(&lun);
            // What waits in line is looked at once more when its turn comes.
            let is_over = matches!(slot.phase, Phase::Answering | Phase::Responding)
                || slot.phase == Phase::Blocked && matches!(slot.work, Work::None)
                || matches!(slot.work, Work::Left(_))
                || slot.standing == Standing::InLine;
            if slot.header.opcode() == opcode::COMMAND && is_about && !is_over {
                slot.mourners.push(Rc::clone(token));
            }
        }
    }
}
