//! Auto contingent allegiance (SAM-5, 5.9): what follows a command that failed waits until its initiator has seen to that.
//!
//! A command with NACA that ends with CHECK CONDITION puts its task set at fault. Each nexus has a task set of its own in a unit (TST
//! 001b), so that concerns this session alone, and no other core has to hear of it.
//!
//! | in a task set at fault (QERR 00b) | |
//! |---|---|
//! | commands that were there | are blocked: what is at the device goes on to its end, nothing further begins, none is answered |
//! | a new command | ACA ACTIVE |
//! | a new command with the attribute ACA | is carried out, one at a time. If it fails, the fault is over, or with NACA a new one |
//!
//! Blocked are those that are there when the fault begins, so a command that simply runs pays nothing for this: [`Standing`] is looked at
//! where it has always been.
//!
//! A read that comes back while it is blocked gives back what it has read, and reads again when it may be answered: so commands that are
//! blocked keep no memory from those that are not.

use super::command::{Phase, Standing, Work};
use super::line::{ACA, ATTRIBUTE, HEAD_OF_QUEUE, has_ended};
use super::session::{Context, Session};
use crate::dm::Status;
use crate::export::backend::{Backend, Lend};
use crate::iscsi::pdu::{Header, opcode};
use crate::scsi::sense::Code;
use crate::scsi::{Cdb, Outcome, Sense};

/// Whether a request is a command with the attribute ACA.
pub(super) fn is_aca(header: &Header) -> bool {
    header.opcode() == opcode::COMMAND && header.flags() & ATTRIBUTE == ACA
}

impl<L: Lend> Session<L> {
    /// Whether the task set of a unit is at fault.
    pub(super) fn is_at_fault(&self, lun: u16) -> bool {
        self.line.faults.contains(&lun)
    }

    /// How a new command ends that has no place in its task set (SAM-5, 5.9.3, 8.6.5). This goes before all else that may be wrong with
    /// it (SAM-5, 5.3.3).
    #[cold]
    pub(super) fn turns_away(&self, index: u16) -> Option<Outcome> {
        let slot = self.slots.get(index);
        if self.is_at_fault(slot.lun) {
            let is_alone = !self.slots.taken().any(|other| {
                let task = self.slots.get(other);
                other != index
                    && task.lun == slot.lun
                    && is_aca(&task.header)
                    && !has_ended(task.phase)
            });
            return (!is_aca(&slot.header) || !is_alone).then_some(Outcome::AcaActive);
        }
        // ACA without a fault, and what is no attribute.
        let is_known = slot.header.flags() & ATTRIBUTE <= HEAD_OF_QUEUE;
        (!is_known).then(|| Sense::illegal(Code::INVALID_MESSAGE).into())
    }

    /// A command has ended with CHECK CONDITION: its task set may be at fault now, or no longer.
    pub(super) fn checked<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        let slot = self.slots.get(index);
        let (lun, header) = (slot.lun, slot.header);
        let cdb = Cdb(std::array::from_fn(|at| header.0[32 + at]));
        let has_naca = cdb.naca().is_some();
        if self.is_at_fault(lun) {
            // With NACA one fault is over and another begins: what was blocked stays so.
            if is_aca(&header) && !has_naca {
                self.end_fault(lun, cx);
            }
            return;
        }
        let unit = self.target().and_then(|id| cx.local.units.get(id, lun));
        if !has_naca || unit.is_none() || !self.sees(lun) {
            return;
        }
        self.line.faults.push(lun);
        self.line.barriers += 1;
        let taken: Vec<u16> = self.slots.taken().collect();
        for other in taken {
            let slot = self.slots.get_mut(other);
            let is_task = slot.header.opcode() == opcode::COMMAND && !has_ended(slot.phase);
            if is_task && slot.lun == lun && slot.standing == Standing::Plain {
                slot.standing = Standing::Blocked;
            }
        }
    }

    /// A blocked command has its outcome, which its initiator is not told yet.
    pub(super) fn withhold<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        if self.slots.get(index).phase == Phase::AwaitsData {
            self.receive.forget(index);
        }
        let slot = self.slots.get_mut(index);
        slot.phase = Phase::Blocked;
        if matches!(slot.work, Work::Read(_)) {
            slot.status = Status::Ok;
            slot.outcome = Outcome::Good;
        } else {
            slot.work = Work::None;
        }
        self.buffer_bytes -= slot.release_memory(&mut cx.local.chunks);
        slot.lend.release();
        self.read_bytes -= u64::from(std::mem::take(&mut slot.read_bytes));
    }

    /// The task set of a unit is not at fault any more: its commands go on, the oldest first, until one of them puts it at fault again.
    pub(super) fn end_fault<B: Backend<Lend = L>>(&mut self, lun: u16, cx: &mut Context<'_, B>) {
        self.forget_faults(|fault| fault == lun);
        let blocked = self.slots.taken().filter(|&index| {
            let slot = self.slots.get(index);
            slot.lun == lun && slot.standing == Standing::Blocked
        });
        let mut blocked: Vec<u16> = blocked.collect();
        let expected = self.expected_sn;
        blocked.sort_by_key(|&index| {
            let number = self.slots.get(index).header.u32(24);
            number.wrapping_sub(expected).cast_signed()
        });
        for index in blocked {
            if self.is_at_fault(lun) {
                return;
            }
            self.resume(index, cx);
        }
    }

    /// A command is blocked no longer.
    fn resume<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        let slot = self.slots.get_mut(index);
        slot.standing = Standing::Plain;
        if slot.phase != Phase::Blocked {
            // Its I/O or its data is under way, or it waits for a buffer.
            return;
        }
        if matches!(slot.work, Work::None) {
            self.answer(index, cx);
        } else {
            self.go_on(index, cx);
        }
    }

    /// Task sets are not at fault any more, and have no commands that were blocked.
    pub(super) fn forget_faults(&mut self, is_over: impl Fn(u16) -> bool) {
        let before = self.line.faults.len();
        self.line.faults.retain(|&lun| !is_over(lun));
        self.line.barriers -= (before - self.line.faults.len()) as u32;
    }
}
