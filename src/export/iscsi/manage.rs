//! Task management (RFC 7143, 11.5, 11.6; RFC 7144; SAM-5, 7).
//!
//! A function is answered when none of the commands it is about is at a device any more: what is parked ends at once, the rest as soon as
//! its device has it done. Commands of other sessions are on other cores, which are told by message and answer when they are done.

use std::rc::Rc;

use super::allegiance::is_aca;
use super::command::{Phase, Standing, Work};
use super::message::{Message, Whose};
use super::session::{Context, Session, Waiter, Waits};
use super::target::TargetId;
use super::task::not_there;
use super::unit::LunSet;
use crate::dm::{CoreId, Status};
use crate::export::backend::{Backend, Lend};
use crate::export::frame::SessionKey;
use crate::iscsi::pdu::{FINAL, Header, RejectReason, is_before, opcode};
use crate::scsi::sense::{Code, Key};
use crate::scsi::{Access, Lun, NexusId, Outcome};

/// Functions (RFC 7143, 11.5.1).
mod function {
    pub const ABORT_TASK: u8 = 1;
    pub const ABORT_TASK_SET: u8 = 2;
    pub const CLEAR_ACA: u8 = 3;
    pub const CLEAR_TASK_SET: u8 = 4;
    pub const LOGICAL_UNIT_RESET: u8 = 5;
    pub const TARGET_WARM_RESET: u8 = 6;
    pub const TARGET_COLD_RESET: u8 = 7;
    pub const TASK_REASSIGN: u8 = 8;
    // From iSCSIProtocolLevel 2 on (RFC 7144).
    pub const QUERY_TASK: u8 = 9;
    pub const QUERY_TASK_SET: u8 = 10;
    pub const I_T_NEXUS_RESET: u8 = 11;
    pub const QUERY_ASYNCHRONOUS_EVENT: u8 = 12;
}

/// Responses (RFC 7143, 11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Response {
    Complete = 0,
    NoSuchTask = 1,
    NoSuchUnit = 2,
    ReassignNotSupported = 4,
    /// What was asked about is there (RFC 7144).
    Succeeded = 7,
}

/// A function that waits for commands to be gone.
pub struct Management {
    number: u32,
    tag: u32,
    /// Cores that have not answered.
    cores: u16,
    /// All sessions end when it has been answered.
    is_cold: bool,
    /// It is not a function but a command, SET TARGET PORT GROUPS or PREEMPT AND ABORT: its slot.
    pub(super) command: Option<u16>,
}

/// Functions of one session that may wait at a time.
const MANAGEMENTS_MAX: usize = 64;

impl<L: Lend> Session<L> {
    /// Task Management Function Request.
    pub(super) fn manage<B: Backend<Lend = L>>(
        &mut self,
        header: &Header,
        cx: &mut Context<'_, B>,
    ) {
        let Some(target) = self.target() else {
            self.reject(header, RejectReason::Protocol);
            return;
        };
        if self.managements.len() == MANAGEMENTS_MAX {
            self.reject(header, RejectReason::TooManyImmediate);
            return;
        }
        let function = header.flags() & 0x7F;
        let lun = match Lun::decode(header.lun()) {
            Lun::Unit(lun) if self.sees(lun) && cx.local.units.get(target, lun).is_some() => {
                Some(lun)
            }
            _ => None,
        };
        match function {
            function::ABORT_TASK => self.abort_task(header, cx),
            function::CLEAR_ACA => match lun {
                Some(lun) => self.clear_allegiance(header, lun, cx),
                None => self.managed(header.task_tag(), Response::NoSuchUnit),
            },
            function::ABORT_TASK_SET | function::CLEAR_TASK_SET | function::LOGICAL_UNIT_RESET => {
                match lun {
                    Some(lun) => self.abort_unit(header, function, target, lun, cx),
                    None => self.managed(header.task_tag(), Response::NoSuchUnit),
                }
            }
            function::TARGET_WARM_RESET | function::TARGET_COLD_RESET => {
                let is_cold = function == function::TARGET_COLD_RESET;
                let served = cx.local.units.served(target);
                let mut tells = Vec::new();
                for unit in served.iter().flat_map(|served| &served.units) {
                    // A cold reset is as if power had failed (RFC 7143, 11.5.1): nothing is answered.
                    if unit.unit.reset() && !is_cold {
                        tells.push(unit.lun);
                    }
                }
                let tells = tells.into_iter().collect();
                self.abort_everywhere(header, target, None, is_cold, tells, cx);
            }
            function::TASK_REASSIGN => {
                self.managed(header.task_tag(), Response::ReassignNotSupported);
            }
            function::QUERY_TASK..=function::QUERY_ASYNCHRONOUS_EVENT
                if self.parameters.protocol_level >= 2 =>
            {
                self.query(header, function, target, lun, cx);
            }
            _ => self.reject(header, RejectReason::InvalidField),
        }
    }

    /// ABORT TASK: one command of this session.
    fn abort_task<B: Backend<Lend = L>>(&mut self, header: &Header, cx: &mut Context<'_, B>) {
        let token = Rc::new(());
        if let Some(index) = self.slots.find(header.u32(20)) {
            if self.slots.get(index).header.lun() != header.lun() {
                self.managed(header.task_tag(), Response::NoSuchTask);
                return;
            }
            self.abort_slot(index, false, &token, cx);
        } else {
            // A command that has not come, though it could have, counts as aborted; one that was answered is not there (11.6.1).
            let referenced = header.u32(32);
            if self.abort_held(header.u32(20)) {
                self.managed(header.task_tag(), Response::Complete);
                return;
            }
            let is_next = referenced == self.expected_sn && !header.is_immediate();
            let is_future =
                is_before(self.expected_sn, referenced) && is_before(referenced, header.u32(24));
            if !is_next && !is_future {
                self.managed(header.task_tag(), Response::NoSuchTask);
                return;
            }
        }
        self.await_gone(header, token, 1, false, cx);
    }

    /// CLEAR ACA (SAM-5, 7.4): complete also when there is nothing to clear. It ends the command that was sent meanwhile.
    fn clear_allegiance<B: Backend<Lend = L>>(
        &mut self,
        header: &Header,
        lun: u16,
        cx: &mut Context<'_, B>,
    ) {
        let token = Rc::new(());
        if self.is_at_fault(lun) {
            let is_aca = |&index: &u16| is_aca(&self.slots.get(index).header);
            let commands: Vec<u16> = self.tasks(Some(lun)).filter(is_aca).collect();
            for index in commands {
                self.abort_slot(index, false, &token, cx);
            }
            self.end_fault(lun, cx);
        }
        self.await_gone(header, token, 1, false, cx);
    }

    /// What RFC 7144 adds.
    fn query<B: Backend<Lend = L>>(
        &mut self,
        header: &Header,
        function: u8,
        target: TargetId,
        lun: Option<u16>,
        cx: &mut Context<'_, B>,
    ) {
        let tag = header.task_tag();
        if function == function::I_T_NEXUS_RESET {
            self.reset_nexus(header, target, cx);
            return;
        }
        let Some(lun) = lun else {
            self.managed(tag, Response::NoSuchUnit);
            return;
        };
        let is_there = match function {
            function::QUERY_TASK => {
                let found = self.slots.find(header.u32(20));
                found.is_some_and(|index| self.slots.get(index).header.lun() == header.lun())
            }
            function::QUERY_TASK_SET => self.tasks(Some(lun)).next().is_some(),
            _ => {
                self.query_event(tag, target, lun, cx);
                return;
            }
        };
        let response = if is_there {
            Response::Succeeded
        } else {
            Response::Complete
        };
        self.managed(tag, response);
    }

    /// QUERY ASYNCHRONOUS EVENT: the unit attention that the next command would be told (SAM-5, 7.10).
    fn query_event<B: Backend<Lend = L>>(
        &mut self,
        tag: u32,
        target: TargetId,
        lun: u16,
        cx: &mut Context<'_, B>,
    ) {
        let member = self.member.as_ref();
        let nexus = member.and_then(|member| member.nexus.as_ref());
        let unit = cx.local.units.get(target, lun);
        let waits = nexus.zip(unit).and_then(|((_, nexus), unit)| {
            let (code, is_only) = unit.unit.attention(nexus.id)?;
            let depth = if is_only { 1 } else { 2 };
            Some([depth << 4 | Key::UnitAttention as u8, code.0, code.1])
        });
        match waits {
            Some(event) => self.answer_management(tag, Response::Succeeded, event),
            None => self.managed(tag, Response::Complete),
        }
    }

    /// I_T NEXUS RESET (SAM-5, 7.6): as if the session had ended and begun again, for every unit.
    fn reset_nexus<B: Backend<Lend = L>>(
        &mut self,
        header: &Header,
        target: TargetId,
        cx: &mut Context<'_, B>,
    ) {
        let token = Rc::new(());
        self.abort_where(None, &LunSet::default(), &token, cx);
        self.forget_faults(|_| true);
        let member = self.member.as_ref();
        let nexus = member.and_then(|member| member.nexus.as_ref());
        let served = cx.local.units.served(target);
        let units = served.iter().flat_map(|served| &served.units);
        if let Some((_, nexus)) = nexus {
            for unit in units.filter(|unit| unit.unit.knows(nexus.id)) {
                unit.unit.leave(nexus.id);
                unit.unit.join(nexus, Code::NEXUS_LOSS);
            }
        }
        self.await_gone(header, token, 1, false, cx);
    }

    /// ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET.
    fn abort_unit<B: Backend<Lend = L>>(
        &mut self,
        header: &Header,
        function: u8,
        target: TargetId,
        lun: u16,
        cx: &mut Context<'_, B>,
    ) {
        // The task set is the nexus's own (TST 001b), so to clear it is no more than to abort it.
        if function != function::LOGICAL_UNIT_RESET {
            let token = Rc::new(());
            self.abort_where(Some(lun), &LunSet::default(), &token, cx);
            self.await_gone(header, token, 1, false, cx);
            return;
        }
        let unit = cx.local.units.get(target, lun);
        let tells = unit.filter(|unit| unit.unit.reset()).map(|_| lun);
        let tells = tells.into_iter().collect();
        self.abort_everywhere(header, target, Some(lun), false, tells, cx);
    }

    /// Commands of all sessions, on all cores.
    fn abort_everywhere<B: Backend<Lend = L>>(
        &mut self,
        header: &Header,
        target: TargetId,
        lun: Option<u16>,
        is_cold: bool,
        tells: LunSet,
        cx: &mut Context<'_, B>,
    ) {
        let number = self.new_management(header, cx.target.cores(), is_cold);
        for core in 0..cx.target.cores() {
            let message = Message::Abort {
                target,
                lun,
                whose: Whose::Everybodys,
                tells,
                from: Some((self.key, number)),
            };
            cx.local.outbox.push((CoreId(core), message));
        }
    }

    /// SET TARGET PORT GROUPS: answered when every core goes by the new states.
    pub(super) fn set_access<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        states: &[(u16, Access)],
        cx: &mut Context<'_, B>,
    ) {
        self.slots.get_mut(index).pending = 1;
        let member = self.member.as_ref();
        let Some((target, nexus)) = member.and_then(|member| member.nexus.as_ref()) else {
            self.kept(index, Err(Outcome::Busy), cx);
            return;
        };
        let target = *target;
        if self.managements.len() == MANAGEMENTS_MAX {
            self.kept(index, Err(Outcome::Busy), cx);
            return;
        }
        if !cx.target.set_states(target, states, nexus.id) {
            self.kept(index, Ok(Vec::new()), cx);
            return;
        }
        let header = self.slots.get(index).header;
        let number = self.new_management(&header, cx.target.cores(), false);
        if let Some(management) = self.managements.last_mut() {
            management.command = Some(index);
        }
        for core in 0..cx.target.cores() {
            let who = Waits::Session(self.key, number);
            let message = Message::Changed(target, who);
            cx.local.outbox.push((CoreId(core), message));
        }
    }

    /// PREEMPT AND ABORT: ends the commands that these initiators have in the unit of ours, which is answered when none of them is at a device
    /// any more: whoever fences a host off relies on that. False when none of them is logged in.
    pub(super) fn preempt<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        ended: &[NexusId],
        cx: &mut Context<'_, B>,
    ) -> bool {
        let member = self.member.as_ref();
        let Some((target, own)) = member.and_then(|member| member.nexus.as_ref()) else {
            return false;
        };
        let (target, own) = (*target, own.id);
        let mut nexuses = cx.target.nexuses_of(target);
        nexuses.retain(|(nexus, _)| ended.contains(nexus) && *nexus != own);
        let ends_own = ended.contains(&own);
        if nexuses.is_empty() && !ends_own {
            return false;
        }
        let slot = self.slots.get_mut(index);
        slot.pending = 1;
        let (header, lun) = (slot.header, slot.lun);
        let cores = nexuses.len() as u16 + u16::from(ends_own);
        let number = self.new_management(&header, cores, false);
        if let Some(management) = self.managements.last_mut() {
            management.command = Some(index);
        }
        let unit = cx.local.units.get(target, lun);
        let tells = unit.filter(|unit| unit.unit.tells_aborted()).map(|_| lun);
        let tells = tells.into_iter().collect();
        for (nexus, key) in nexuses {
            let message = Message::Abort {
                target,
                lun: Some(lun),
                whose: Whose::Of(nexus),
                tells,
                from: Some((self.key, number)),
            };
            cx.local.outbox.push((key.core, message));
        }
        if ends_own {
            // The command itself is not one of those that it ends.
            let token = Rc::new(());
            let others: Vec<u16> = self
                .tasks(Some(lun))
                .filter(|&task| task != index)
                .collect();
            for task in others {
                self.abort_slot(task, false, &token, cx);
            }
            self.forget_faults(|fault| fault == lun);
            let who = Waits::Session(self.key, number);
            cx.local.waiters.push(Waiter { token, who });
        }
        true
    }

    fn new_management(&mut self, header: &Header, cores: u16, is_cold: bool) -> u32 {
        self.management_number = self.management_number.wrapping_add(1);
        self.managements.push(Management {
            number: self.management_number,
            tag: header.task_tag(),
            cores,
            is_cold,
            command: None,
        });
        self.management_number
    }

    /// The function is answered when nobody else has the token any more.
    fn await_gone<B: Backend<Lend = L>>(
        &mut self,
        header: &Header,
        token: Rc<()>,
        cores: u16,
        is_cold: bool,
        cx: &mut Context<'_, B>,
    ) {
        if Rc::strong_count(&token) == 1 {
            self.managed(header.task_tag(), Response::Complete);
            return;
        }
        let number = self.new_management(header, cores, is_cold);
        let who = Waits::Session(self.key, number);
        cx.local.waiters.push(Waiter { token, who });
    }

    /// Commands of this session that have no answer yet, or whose answer is not sent: those to one unit, or all.
    fn tasks(&self, lun: Option<u16>) -> impl Iterator<Item = u16> + '_ {
        self.slots.taken().filter(move |&index| {
            let slot = self.slots.get(index);
            slot.header.opcode() == opcode::COMMAND && lun.is_none_or(|lun| slot.lun == lun)
        })
    }

    /// A reset or PREEMPT AND ABORT, of the session that `asks`, ends commands of this one, and the fault that they may be in (SAM-5, 5.9.5).
    /// Where `tells` has the unit, they are answered if it was another session (SAM-5, 5.6); where not, PREEMPT AND ABORT leaves a unit
    /// attention, as a reset has done already.
    pub fn ended_by<B: Backend<Lend = L>>(
        &mut self,
        asks: Option<SessionKey>,
        lun: Option<u16>,
        whose: Whose,
        tells: &LunSet,
        token: &Rc<()>,
        cx: &mut Context<'_, B>,
    ) {
        // After a farewell nothing is said.
        let is_untold = asks == Some(self.key) || self.is_silent();
        let nobody = LunSet::default();
        let tells = if is_untold { &nobody } else { tells };
        let has_ended = self.abort_where(lun, tells, token, cx);
        self.forget_faults(|fault| lun.is_none_or(|lun| lun == fault));
        if let (Whose::Of(nexus), Some(lun)) = (whose, lun)
            && has_ended
            && !tells.has(lun)
            && let Some(unit) = self.target().and_then(|id| cx.local.units.get(id, lun))
        {
            unit.unit.attend_one(nexus, Code::COMMANDS_CLEARED);
        }
    }

    /// Aborts commands of this session: those to one unit, or all; true if there was one. Those to units that `tells` has are answered.
    fn abort_where<B: Backend<Lend = L>>(
        &mut self,
        lun: Option<u16>,
        tells: &LunSet,
        token: &Rc<()>,
        cx: &mut Context<'_, B>,
    ) -> bool {
        let concerned: Vec<(u16, bool)> = self
            .slots
            .taken()
            .filter_map(|index| {
                let slot = self.slots.get(index);
                let is_for = lun.is_none_or(|lun| slot.lun == lun);
                let is_about = is_for || lun.is_some_and(|lun| slot.work.others().contains(&lun));
                let is_command = slot.header.opcode() == opcode::COMMAND;
                (is_command && is_about).then_some((index, is_for))
            })
            .collect();
        let mut has_ended = false;
        for (index, is_for) in concerned {
            if is_for {
                let is_told = tells.has(self.slots.get(index).lun);
                has_ended |= self.abort_slot(index, is_told, token, cx);
            } else {
                self.abort_elsewhere(index, token, cx);
            }
        }
        has_ended
    }

    /// Ends a command that is for a unit which is not concerned, but works on one that is: its initiator is told.
    pub(super) fn abort_elsewhere<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        token: &Rc<()>,
        cx: &mut Context<'_, B>,
    ) {
        let slot = self.slots.get_mut(index);
        if slot.phase == Phase::Running {
            slot.note(Status::Aborted);
            slot.mourners.push(Rc::clone(token));
            self.abort_io(index, cx);
        }
    }

    /// Ends a command to a unit that goes, with an answer: no task management function has asked for its end. What is carried out in the
    /// background is given up as well.
    pub(super) fn end_for_good<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        token: &Rc<()>,
        cx: &mut Context<'_, B>,
    ) {
        let slot = self.slots.get_mut(index);
        if slot.standing == Standing::Blocked {
            slot.standing = Standing::Plain;
        }
        match slot.phase {
            Phase::Free | Phase::Answering | Phase::Responding => {}
            Phase::Blocked => {
                if !matches!(slot.work, Work::None) {
                    slot.outcome = not_there();
                }
                self.answer(index, cx);
            }
            Phase::Running | Phase::Background => {
                let slot = self.slots.get_mut(index);
                slot.mourners.push(Rc::clone(token));
                // Of one that waits for what goes on by itself: that is not done. All others end as their I/O does.
                slot.outcome = not_there();
                self.abort_io(index, cx);
            }
            Phase::AwaitsBuffer | Phase::AwaitsData | Phase::InLine => {
                self.waiting.retain(|&waiting| waiting != index);
                self.fail(index, not_there(), cx);
            }
        }
    }

    /// Aborts a command wherever it is; false when it is over already, as one is whose answer is queued. `is_told` says whether its initiator
    /// has to hear of it, because it was another who asked.
    fn abort_slot<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        is_told: bool,
        token: &Rc<()>,
        cx: &mut Context<'_, B>,
    ) -> bool {
        let slot = self.slots.get_mut(index);
        match slot.phase {
            Phase::Free | Phase::Responding | Phase::Background => return false,
            Phase::Running => {
                slot.mourners.push(Rc::clone(token));
                if !is_told {
                    slot.standing = Standing::Aborted;
                    if std::mem::take(&mut slot.in_window) {
                        self.unanswered -= 1;
                    }
                    self.slots.forget_tag(index);
                } else if slot.standing != Standing::Aborted {
                    slot.standing = Standing::Cancelled;
                }
                self.abort_io(index, cx);
            }
            Phase::AwaitsBuffer | Phase::AwaitsData | Phase::InLine | Phase::Blocked => {
                slot.standing = Standing::Plain;
                self.waiting.retain(|&waiting| waiting != index);
                if is_told {
                    self.fail(index, Outcome::TaskAborted, cx);
                } else {
                    self.discard(index, cx);
                }
            }
            Phase::Answering => {
                // What of it is queued is sent; the rest is not.
                if is_told || slot.emitted > 0 {
                    return false;
                }
                self.answers.retain(|&answering| answering != index);
                self.discard(index, cx);
            }
        }
        true
    }

    /// A core has answered: its commands are gone.
    pub fn abort_answered<B: Backend<Lend = L>>(&mut self, number: u32, cx: &mut Context<'_, B>) {
        let of = |management: &Management| management.number == number;
        let Some(position) = self.managements.iter().position(of) else {
            return;
        };
        let management = &mut self.managements[position];
        management.cores -= 1;
        if management.cores > 0 {
            return;
        }
        let management = self.managements.remove(position);
        if let Some(index) = management.command {
            self.kept(index, Ok(Vec::new()), cx);
            return;
        }
        self.managed(management.tag, Response::Complete);
        if management.is_cold
            && let Some(target) = self.target()
        {
            // RFC 7143, 11.5.1: all connections of the target end.
            for key in cx.target.sessions_of(target) {
                if key == self.key {
                    self.state = super::session::State::Leaving;
                } else {
                    cx.local.outbox.push((key.core, Message::Close(key)));
                }
            }
        }
    }

    /// Task Management Function Response.
    fn managed(&mut self, tag: u32, response: Response) {
        self.answer_management(tag, response, [0; 3]);
    }

    /// The same with additional response information (RFC 7144, 7.2).
    fn answer_management(&mut self, tag: u32, response: Response, more: [u8; 3]) {
        if self.is_silent() {
            return;
        }
        let mut header = Header::new(opcode::TASK_MANAGEMENT_RESPONSE, FINAL);
        header.0[2] = response as u8;
        header.0[8..11].copy_from_slice(&more);
        header.put(16, tag);
        self.put_control(header, Vec::new());
    }
}
