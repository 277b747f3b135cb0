//! Fabrics commands: Connect, Property Get and Set, Disconnect (NVMe Base 2.0, 6).

use super::controller::{AdminState, CAPABILITIES};
use super::message::Message;
use super::queue::Plan;
use super::session::{Context, IN_CAPSULE_BYTES, QUEUE_ENTRIES_MAX, Queue, Session, State};
use super::target::{DISCOVERY, Refusal};
use crate::export::backend::{Backend, Lend};
use crate::nvme::fabrics::{
    COMMAND_OFFSET_QUEUE_ID, COMMAND_OFFSET_QUEUE_SIZE, CONNECT_DATA_SIZE, CONTROLLER_ID_DYNAMIC,
    Configuration, Connect, ConnectData, DATA_OFFSET_CONTROLLER_ID, DATA_OFFSET_HOST_ID,
    DATA_OFFSET_HOST_NQN, DATA_OFFSET_SUBSYSTEM_NQN, PropertyAccess, PropertySize,
    invalid_parameter, property,
};
use crate::nvme::opcode::fabrics;
use crate::nvme::{Status, VERSION_2_0};

/// Fewest entries of an admin queue that a host may ask for. The standard wants 32 (NVMe Base 2.0, 6.3, SQSIZE); a smaller
/// one works as well here.
const QUEUE_ENTRIES_MIN: u32 = 2;

/// CC.CSS: NVM command set, all supported command sets, admin only.
const COMMAND_SETS: [u8; 3] = [0, 6, 7];

/// Entry sizes that CC has to name before I/O queues are connected (IOSQES, IOCQES as powers of two).
const ENTRY_SIZES: (u8, u8) = (6, 4);

impl Refusal {
    /// The status and result of the Connect (NVMe Base 2.0, figures 96 and 382).
    fn answer(self) -> (Status, u64) {
        let parameter = |offset, in_data| {
            (
                Status::CONNECT_INVALID_PARAMETERS.do_not_retry(),
                invalid_parameter(offset, in_data),
            )
        };
        match self {
            Refusal::SubsystemNqn => parameter(DATA_OFFSET_SUBSYSTEM_NQN, true),
            Refusal::ControllerId => parameter(DATA_OFFSET_CONTROLLER_ID, true),
            Refusal::HostNqn => parameter(DATA_OFFSET_HOST_NQN, true),
            Refusal::HostId => parameter(DATA_OFFSET_HOST_ID, true),
            Refusal::QueueId => parameter(COMMAND_OFFSET_QUEUE_ID, false),
            Refusal::Host => (Status::CONNECT_INVALID_HOST.do_not_retry(), 0),
            Refusal::NotEnabled => (Status::COMMAND_SEQUENCE_ERROR.do_not_retry(), 0),
            Refusal::Busy => (Status::CONNECT_CONTROLLER_BUSY, 0),
        }
    }
}

impl<L: Lend> Session<L> {
    /// Checks a fabrics command.
    pub(super) fn plan_fabrics(&self, index: u16) -> Plan {
        let kind = self.slots.get(index).command.fabrics_type();
        match (kind, &self.queue) {
            (fabrics::CONNECT, None) => Plan::Receive(CONNECT_DATA_SIZE as u32),
            // A queue is connected once (NVMe Base 2.0, 6.3).
            (fabrics::CONNECT, Some(_)) | (_, None) => {
                Plan::Fail(Status::COMMAND_SEQUENCE_ERROR.do_not_retry())
            }
            (fabrics::PROPERTY_GET | fabrics::PROPERTY_SET, Some(queue)) if queue.id == 0 => {
                Plan::Execute
            }
            (fabrics::DISCONNECT, Some(queue)) if queue.id == 0 => {
                Plan::Fail(Status::DISCONNECT_INVALID_QUEUE_TYPE.do_not_retry())
            }
            (fabrics::DISCONNECT, Some(_)) => Plan::Execute,
            _ => Plan::Fail(Status::INVALID_OPCODE.do_not_retry()),
        }
    }

    /// Carries out a fabrics command.
    pub(super) fn execute_fabrics<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        cx: &mut Context<'_, B>,
    ) {
        match self.slots.get(index).command.fabrics_type() {
            fabrics::CONNECT => self.connect(index, cx),
            fabrics::PROPERTY_GET => self.property_get(index, cx),
            fabrics::PROPERTY_SET => self.property_set(index, cx),
            _ => {
                // Disconnect (6.4): what was submitted before is completed by the controller or not at all; the answer is the last
                // thing sent.
                let record_format = self.slots.get(index).command.dword(10) as u16;
                if record_format != 0 {
                    self.fail(
                        index,
                        Status::CONNECT_INCOMPATIBLE_FORMAT.do_not_retry(),
                        cx,
                    );
                } else {
                    self.respond(index, cx);
                    self.state = State::Terminating;
                }
            }
        }
    }

    /// Connect (6.3).
    fn connect<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        if self.queue.is_some() {
            // Two were under way at once, and the other one came first.
            self.fail(index, Status::COMMAND_SEQUENCE_ERROR.do_not_retry(), cx);
            return;
        }
        match self.try_connect(index, cx) {
            Ok((queue, admin)) => {
                let (entries, controller_id) = (queue.entries, queue.controller_id);
                self.queue = Some(queue);
                self.admin = admin;
                if self.admin.is_none() {
                    self.rules.capsule_data_size_max = IN_CAPSULE_BYTES;
                } else {
                    cx.target.is_admin(cx.local.core);
                }
                let index = self.resize(entries, index, cx);
                self.slots.get_mut(index).result = u64::from(controller_id);
                self.respond(index, cx);
            }
            Err((status, result)) => {
                self.slots.get_mut(index).result = result;
                self.fail(index, status, cx);
            }
        }
    }

    #[allow(clippy::type_complexity)]
    fn try_connect<B: Backend<Lend = L>>(
        &self,
        index: u16,
        cx: &mut Context<'_, B>,
    ) -> Result<(Queue, Option<Box<AdminState>>), (Status, u64)> {
        let slot = self.slots.get(index);
        let request = Connect::decode(&slot.command);
        let invalid = |offset, in_data| {
            Err((
                Status::CONNECT_INVALID_PARAMETERS.do_not_retry(),
                invalid_parameter(offset, in_data),
            ))
        };
        if request.record_format != 0 {
            return Err((Status::CONNECT_INCOMPATIBLE_FORMAT.do_not_retry(), 0));
        }
        let data = ConnectData::decode(slot.bytes())?;
        let entries = u32::from(request.queue_size) + 1;
        if !(QUEUE_ENTRIES_MIN..=QUEUE_ENTRIES_MAX).contains(&entries) {
            return invalid(COMMAND_OFFSET_QUEUE_SIZE, false);
        }
        if data.host_id == [0; 16] {
            return invalid(DATA_OFFSET_HOST_ID, true);
        }
        let (nqn, host, host_id) = (data.subsystem_nqn, data.host_nqn, data.host_id);
        let admission = if request.queue_id == 0 {
            if data.controller_id != CONTROLLER_ID_DYNAMIC {
                return invalid(DATA_OFFSET_CONTROLLER_ID, true);
            }
            cx.target.connect_admin(nqn, host, host_id, self.key)
        } else {
            cx.target.connect_io(
                nqn,
                host,
                host_id,
                data.controller_id,
                request.queue_id,
                self.key,
            )
        };
        let admission = admission.map_err(Refusal::answer)?;
        let now_ns = cx.backend.now_ns();
        let admin = (request.queue_id == 0).then(|| {
            Box::new(AdminState::new(
                admission.subsystem,
                host,
                host_id,
                request.keep_alive_ms,
                now_ns,
            ))
        });
        let queue = Queue {
            id: request.queue_id,
            entries,
            // The Connect itself was the first entry.
            head: 1,
            flow_control: request.attributes & Connect::ATTRIBUTE_NO_FLOW_CONTROL == 0,
            subsystem: admission.subsystem,
            controller_id: admission.controller_id,
            identity: admission.identity,
        };
        Ok((queue, admin))
    }

    /// Property Get (6.5).
    fn property_get<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        let access = PropertyAccess::decode(&self.slots.get(index).command);
        let (Some(admin), Some(queue)) = (&self.admin, &self.queue) else {
            return;
        };
        let value = match (access.offset, access.size) {
            (property::CAPABILITIES, Some(PropertySize::Eight)) => CAPABILITIES.encode(),
            (property::VERSION, Some(PropertySize::Four)) => u64::from(VERSION_2_0),
            (property::CONFIGURATION, Some(PropertySize::Four)) => u64::from(admin.configuration.0),
            (property::STATUS, Some(PropertySize::Four)) => {
                let queues = cx.target.queue_count(queue.subsystem, queue.controller_id);
                u64::from(admin.status(queues).encode())
            }
            // CRTO: ready with media within CRWMT, in 500 ms.
            (property::READY_TIMEOUTS, Some(PropertySize::Four)) => {
                u64::from(CAPABILITIES.timeout_half_seconds)
            }
            _ => {
                self.fail(index, Status::INVALID_FIELD.do_not_retry(), cx);
                return;
            }
        };
        self.slots.get_mut(index).result = value;
        self.respond(index, cx);
    }

    /// Property Set (6.6). CC is the only property that a host may write.
    fn property_set<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        let access = PropertyAccess::decode(&self.slots.get(index).command);
        if access.offset != property::CONFIGURATION || access.size != Some(PropertySize::Four) {
            self.fail(index, Status::INVALID_FIELD.do_not_retry(), cx);
            return;
        }
        let value = Configuration(access.value as u32);
        match self.configure(value, cx) {
            Ok(()) => self.respond(index, cx),
            Err(status) => self.fail(index, status, cx),
        }
    }

    /// CC was written (NVMe Base 2.0, 3.1.3.5, 3.5 and 3.6).
    fn configure<B: Backend<Lend = L>>(
        &mut self,
        value: Configuration,
        cx: &mut Context<'_, B>,
    ) -> Result<(), Status> {
        let (Some(admin), Some(queue)) = (&mut self.admin, &self.queue) else {
            return Ok(());
        };
        let old = admin.configuration;
        let (subsystem, controller_id) = (queue.subsystem, queue.controller_id);
        let enables = value.is_enabled() && !old.is_enabled();
        if enables
            && (!COMMAND_SETS.contains(&value.command_set())
                || value.page_size() != 0
                || value.arbitration() != 0)
        {
            return Err(Status::INVALID_FIELD.do_not_retry());
        }
        admin.configuration = value;
        let disables = old.is_enabled() && !value.is_enabled();
        let shuts_down = value.shutdown() != 0 && !admin.is_shutting_down;
        if enables {
            admin.is_shutting_down = false;
            // The change counts of the ANA log page start anew with a controller level reset (5.16.1.13).
            admin.ana_changes_before = cx.local.namespaces(subsystem).ana_report().1;
            let sizes = (value.submission_entry_size(), value.completion_entry_size());
            if subsystem != DISCOVERY && sizes != ENTRY_SIZES {
                // Then no I/O queue can be connected, and nothing else is affected.
                cx.target.set_queue_limit(subsystem, controller_id, 0);
            }
            cx.target.set_enabled(subsystem, controller_id, true);
        }
        if shuts_down {
            admin.is_shutting_down = true;
        }
        if disables {
            // A controller level reset puts everything back to its start (3.7.2).
            admin.is_shutting_down = false;
            admin.features = Default::default();
            admin.changed_namespaces.clear();
            cx.target
                .set_queue_limit(subsystem, controller_id, super::target::IO_QUEUES_MAX);
        }
        if disables || shuts_down {
            for session in cx.target.set_enabled(subsystem, controller_id, false) {
                cx.local
                    .outbox
                    .push((session.core, Message::Close(session)));
            }
            self.abort_event_requests(cx);
        }
        Ok(())
    }
}
