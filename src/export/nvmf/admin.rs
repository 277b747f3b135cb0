//! Admin commands (NVMe Base 2.0, 5): what each queue may be asked, Abort, events, and the answers that are pages.

use super::command::{Memory, Phase, Slot};
use super::controller::{ABORTS_MAX, ASYNC_EVENTS_MAX, Event};
use super::message::Message;
use super::queue::Plan;
use super::session::{Context, Session, TRANSFER_BYTES_MAX};
use super::target::SessionKey;
use crate::dm::CoreId;
use crate::export::backend::{Backend, Lend};
use crate::nvme::Status;
use crate::nvme::identify::PAGE_SIZE;
use crate::nvme::log::{ErrorEntry, TRANSPORT_TCP, page};
use crate::nvme::opcode::admin;

impl<L: Lend> Session<L> {
    /// Checks an admin command.
    pub(super) fn plan_admin(&mut self, index: u16) -> Plan {
        let command = self.slots.get(index).command;
        let Some(state) = &self.admin else {
            return Plan::Fail(Status::COMMAND_SEQUENCE_ERROR.do_not_retry());
        };
        // Before CC.EN only fabrics commands are carried out (NVMe Base 2.0, 3.5.1).
        if !state.is_ready() {
            return Plan::Fail(Status::COMMAND_SEQUENCE_ERROR.do_not_retry());
        }
        let read_size = match command.opcode() {
            admin::IDENTIFY => PAGE_SIZE as u64,
            admin::GET_LOG_PAGE => command.log_size(),
            admin::GET_FEATURES => u64::from(super::features::data_size(&command)),
            admin::SET_FEATURES => match super::features::data_size(&command) {
                0 => return Plan::Execute,
                size => return Plan::Receive(size),
            },
            admin::KEEP_ALIVE | admin::ASYNC_EVENT_REQUEST => return Plan::Execute,
            admin::ABORT if !state.is_discovery => return Plan::Execute,
            _ => return Plan::Fail(Status::INVALID_OPCODE.do_not_retry()),
        };
        if read_size > u64::from(TRANSFER_BYTES_MAX) {
            return Plan::Fail(Status::INVALID_FIELD.do_not_retry());
        }
        if read_size > 0
            && let Err(status) = self.check_read_pointer(index, read_size as u32)
        {
            return Plan::Fail(status);
        }
        Plan::Execute
    }

    /// Carries out an admin command.
    pub(super) fn execute_admin<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        cx: &mut Context<'_, B>,
    ) {
        let now_ns = cx.backend.now_ns();
        if let Some(state) = &mut self.admin {
            // Any sign of life will do, not only Keep Alive: that can but prolong a connection that works.
            state.alive_at_ns = now_ns;
        }
        let command = self.slots.get(index).command;
        let answer = match command.opcode() {
            admin::IDENTIFY => self.identify(&command, cx).map(Some),
            admin::GET_LOG_PAGE if command.log_id() == page::SMART && !self.is_discovery() => {
                self.gather_totals(index, cx);
                return;
            }
            admin::GET_LOG_PAGE => self.log_page(&command, cx).map(Some),
            admin::GET_FEATURES => self.get_features(index, cx),
            admin::SET_FEATURES => self.set_features(index, cx).map(|()| None),
            admin::ASYNC_EVENT_REQUEST => match self.event_request(index) {
                Ok(()) => {
                    self.report_events(cx);
                    return;
                }
                Err(status) => Err(status),
            },
            admin::ABORT => match self.abort(index, cx) {
                Ok(true) => return,
                Ok(false) => Ok(None),
                Err(status) => Err(status),
            },
            _ => Ok(None),
        };
        self.answer(index, answer, cx);
        self.report_events(cx);
    }

    /// Answers with a page, without, or with an error that goes into the error log.
    fn answer<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        answer: Result<Option<Vec<u8>>, Status>,
        cx: &mut Context<'_, B>,
    ) {
        match answer {
            Ok(Some(page)) => {
                self.drop_memory(index, cx);
                let slot = self.slots.get_mut(index);
                slot.size = page.len() as u32;
                slot.memory = Memory::Page(page);
                self.respond_with_memory(index, cx);
            }
            Ok(None) => self.respond(index, cx),
            Err(status) => {
                self.record_error(index, status);
                self.fail(index, status, cx);
            }
        }
    }

    fn is_discovery(&self) -> bool {
        self.admin.as_ref().is_some_and(|state| state.is_discovery)
    }

    /// Has every core publish what it has counted; the SMART log is answered when all have.
    fn gather_totals<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        let cores = cx.target.cores();
        let slot = self.slots.get_mut(index);
        slot.phase = Phase::AwaitsTotals;
        slot.pending = u32::from(cores);
        for core in 0..cores {
            let message = Message::Publish {
                admin: self.key,
                slot: index,
            };
            cx.local.outbox.push((CoreId(core), message));
        }
    }

    /// A core has published its totals.
    pub fn totals_published<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        let waits = |slot: &Slot<L>| slot.phase == Phase::AwaitsTotals;
        if !self.slots.try_get(index).is_some_and(waits) {
            return;
        }
        let slot = self.slots.get_mut(index);
        slot.pending -= 1;
        if slot.pending == 0 {
            let command = slot.command;
            let answer = self.log_page(&command, cx).map(Some);
            self.answer(index, answer, cx);
        }
    }

    fn record_error(&mut self, index: u16, status: Status) {
        let command = self.slots.get(index).command;
        let Some(state) = &mut self.admin else { return };
        let entry = ErrorEntry {
            command_id: command.command_id(),
            nsid: command.nsid(),
            parameter: 0xFFFF,
            transport: TRANSPORT_TCP,
            ..ErrorEntry::default()
        };
        state.record_error(entry, status);
    }

    /// Abort (5.1). True when the answer has to come from another core.
    fn abort<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        cx: &mut Context<'_, B>,
    ) -> Result<bool, Status> {
        let (Some(state), Some(queue)) = (&mut self.admin, &self.queue) else {
            return Ok(false);
        };
        let dword = self.slots.get(index).command.dword(10);
        let (queue_id, command_id) = (dword as u16, (dword >> 16) as u16);
        // Bit 0 of the result: the command was not aborted.
        self.slots.get_mut(index).result = 1;
        if queue_id == 0 {
            let found = self.abort_command(command_id, cx);
            self.slots.get_mut(index).result = u64::from(!found);
            return Ok(false);
        }
        let Some(session) = cx
            .target
            .find_queue(queue.subsystem, queue.controller_id, queue_id)
        else {
            return Ok(false);
        };
        if state.aborts == ABORTS_MAX {
            return Err(Status::ABORT_LIMIT_EXCEEDED);
        }
        state.aborts += 1;
        self.slots.get_mut(index).phase = Phase::AwaitsAbort;
        let message = Message::Abort {
            queue: session,
            command_id,
            admin: self.key,
            slot: index,
        };
        cx.local.outbox.push((session.core, message));
        Ok(true)
    }

    /// The core of an I/O queue has looked for a command.
    pub fn abort_answered<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        found: bool,
        cx: &mut Context<'_, B>,
    ) {
        let waits = self
            .slots
            .try_get(index)
            .is_some_and(|slot| slot.phase == Phase::AwaitsAbort);
        if !waits {
            return;
        }
        if let Some(state) = &mut self.admin {
            state.aborts -= 1;
        }
        self.slots.get_mut(index).result = u64::from(!found);
        self.respond(index, cx);
    }

    /// Looks for a command of this queue and aborts it. True if it was found in time: it then ends with "command abort
    /// requested", now or as soon as its data has come.
    pub fn abort_command<B: Backend<Lend = L>>(
        &mut self,
        command_id: u16,
        cx: &mut Context<'_, B>,
    ) -> bool {
        let Some(index) = self.slots.find(command_id) else {
            return false;
        };
        // A fused pair is carried out as its first, and what ends that ends both.
        let index = match self.slots.get(index).partner {
            Some(first)
                if matches!(
                    self.slots.get(first).phase,
                    Phase::Running | Phase::AwaitsRetry
                ) =>
            {
                first
            }
            _ => index,
        };
        match self.slots.get(index).phase {
            Phase::AwaitsBuffer | Phase::AwaitsRetry => {
                self.waiting.retain(|&waiting| waiting != index);
                self.waiting_reads.retain(|&waiting| waiting != index);
                self.slots.get_mut(index).note(Status::ABORT_REQUESTED);
                match self.slots.get(index).partner {
                    // The pair fails when both halves have come.
                    Some(partner) if partner == index => {
                        self.slots.get_mut(index).phase = Phase::AwaitsPartner
                    }
                    Some(partner) if self.slots.get(partner).phase == Phase::AwaitsPartner => {
                        self.fail_fused(index, partner, cx);
                    }
                    Some(_) => self.slots.get_mut(index).phase = Phase::AwaitsPartner,
                    None => self.respond(index, cx),
                }
                true
            }
            Phase::AwaitsData | Phase::AwaitsPartner => {
                // The R2T is out, so the host will send the data: the slot waits for that and then fails.
                self.slots.get_mut(index).aborted = true;
                self.slots.get_mut(index).note(Status::ABORT_REQUESTED);
                true
            }
            Phase::Running => {
                let device = self.slots.get(index).device;
                let tag = self.tag(index);
                let is_below = self.slots.get(index).pending > 0;
                (is_below && cx.backend.abort(device, tag)) || self.cut_write_zeroes(index)
            }
            Phase::AwaitsEvent => {
                if let Some(state) = &mut self.admin {
                    state.events.requests.retain(|&request| request != index);
                }
                self.fail(index, Status::ABORT_REQUESTED, cx);
                true
            }
            Phase::AwaitsAbort | Phase::AwaitsTotals | Phase::Responding | Phase::Free => false,
        }
    }

    /// Asynchronous Event Request (5.2).
    fn event_request(&mut self, index: u16) -> Result<(), Status> {
        let Some(state) = &mut self.admin else {
            return Err(Status::COMMAND_SEQUENCE_ERROR);
        };
        if state.events.requests.len() == ASYNC_EVENTS_MAX {
            return Err(Status::ASYNC_EVENT_LIMIT_EXCEEDED.do_not_retry());
        }
        state.events.requests.push_back(index);
        self.slots.get_mut(index).phase = Phase::AwaitsEvent;
        Ok(())
    }

    /// Answers event requests with what has happened.
    pub(super) fn report_events<B: Backend<Lend = L>>(&mut self, cx: &mut Context<'_, B>) {
        while let Some((index, event)) = self.admin.as_mut().and_then(|state| state.events.next()) {
            self.slots.get_mut(index).result = u64::from(event.notice().encode());
            self.respond(index, cx);
        }
    }

    /// A reset or shutdown: event requests are aborted, and nothing is left to report.
    pub(super) fn abort_event_requests<B: Backend<Lend = L>>(&mut self, cx: &mut Context<'_, B>) {
        let Some(state) = &mut self.admin else { return };
        state.events.reset();
        for index in std::mem::take(&mut state.events.requests) {
            self.fail(index, Status::ABORTED_QUEUE_DELETION, cx);
        }
    }

    /// Namespaces of this controller's subsystem came, went or changed.
    pub fn namespaces_changed<B: Backend<Lend = L>>(
        &mut self,
        nsids: &[u32],
        cx: &mut Context<'_, B>,
    ) {
        let Some(state) = &mut self.admin else { return };
        if nsids.is_empty() || !state.is_ready() {
            return;
        }
        state.changed_namespaces.extend(nsids);
        state.events.raise(Event::Namespace);
        self.report_events(cx);
    }

    /// The ANA state of this controller's subsystem changed.
    pub fn ana_changed<B: Backend<Lend = L>>(&mut self, cx: &mut Context<'_, B>) {
        if let Some(state) = self.admin.as_mut().filter(|state| state.is_ready()) {
            state.events.raise(Event::Ana);
            self.report_events(cx);
        }
    }

    /// The discovery log page changed.
    pub fn discovery_changed<B: Backend<Lend = L>>(&mut self, cx: &mut Context<'_, B>) {
        if let Some(state) = self.admin.as_mut().filter(|state| state.is_discovery) {
            state.events.raise(Event::Discovery);
            self.report_events(cx);
        }
    }

    /// Whether the keep alive timer of this controller has expired.
    pub fn is_expired(&self, now_ns: u64) -> bool {
        self.admin
            .as_ref()
            .is_some_and(|state| state.is_expired(now_ns))
    }

    /// Where this connection is.
    pub fn key(&self) -> SessionKey {
        self.key
    }
}
