//! Get and Set Features (NVMe Base 2.0, 5.15 and 5.27).

use super::controller::Features;
use super::session::{Context, Session};
use super::target::IO_QUEUES_MAX;
use crate::export::backend::{Backend, Lend};
use crate::nvme::feature::{self, QueueCounts, Select, capabilities};
use crate::nvme::opcode::admin;
use crate::nvme::{Command, NSID_ALL, Status};

/// Features of this controller.
pub const SUPPORTED: &[u8] = &[
    feature::ARBITRATION,
    feature::POWER_MANAGEMENT,
    feature::TEMPERATURE_THRESHOLD,
    feature::ERROR_RECOVERY,
    feature::VOLATILE_WRITE_CACHE,
    feature::NUMBER_OF_QUEUES,
    feature::WRITE_ATOMICITY,
    feature::ASYNC_EVENT_CONFIGURATION,
    feature::KEEP_ALIVE_TIMER,
    feature::HOST_BEHAVIOR,
    feature::COMMAND_SET_PROFILE,
    feature::HOST_IDENTIFIER,
];

/// Features of a discovery controller.
const SUPPORTED_DISCOVERY: &[u8] = &[
    feature::ASYNC_EVENT_CONFIGURATION,
    feature::KEEP_ALIVE_TIMER,
];

/// Set Features: save the value (bit 31 of dword 10).
const SAVE: u32 = 1 << 31;

/// Host identifier: 128 bits (EXHID, bit 0 of dword 11).
const EXTENDED_HOST_ID: u32 = 1;

const HOST_BEHAVIOR_SIZE: usize = 512;

/// Bytes of data that a Get or Set Features moves.
pub fn data_size(command: &Command) -> u32 {
    let is_get = command.opcode() == admin::GET_FEATURES;
    let wants_value = Select::from_dword10(command.dword(10)) != Select::Capabilities;
    match command.dword(10) as u8 {
        feature::HOST_BEHAVIOR if !is_get || wants_value => HOST_BEHAVIOR_SIZE as u32,
        feature::HOST_IDENTIFIER if is_get && wants_value => 16,
        _ => 0,
    }
}

impl<L: Lend> Session<L> {
    /// Get Features: a result, and for some a page.
    pub(super) fn get_features<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        cx: &mut Context<'_, B>,
    ) -> Result<Option<Vec<u8>>, Status> {
        let command = self.slots.get(index).command;
        let id = self.check_feature(&command)?;
        self.check_ana(id, false, cx)?;
        let Some(state) = &self.admin else {
            return Err(Status::COMMAND_SEQUENCE_ERROR);
        };
        let defaults = Features::default();
        let features = match Select::from_dword10(command.dword(10)) {
            Select::Current => &state.features,
            // Nothing is saveable, so the saved value is the default (5.15, figure 190).
            Select::Default | Select::Saved => &defaults,
            Select::Capabilities => {
                let changeable = !matches!(
                    id,
                    feature::VOLATILE_WRITE_CACHE
                        | feature::HOST_IDENTIFIER
                        | feature::POWER_MANAGEMENT
                );
                self.slots.get_mut(index).result =
                    u64::from(capabilities(false, false, changeable));
                return Ok(None);
            }
            Select::Reserved(_) => return Err(Status::INVALID_FIELD.do_not_retry()),
        };
        let current = std::ptr::eq(features, &state.features);
        let mut page = None;
        let result = match id {
            feature::ARBITRATION => features.arbitration,
            feature::POWER_MANAGEMENT => features.power_management,
            feature::TEMPERATURE_THRESHOLD => features.temperature_threshold,
            feature::ERROR_RECOVERY => features.error_recovery,
            feature::VOLATILE_WRITE_CACHE => {
                let Some(queue) = &self.queue else {
                    return Err(Status::COMMAND_SEQUENCE_ERROR);
                };
                let mut active = cx.local.namespaces(queue.subsystem).active();
                let cached = active
                    .any(|namespace| namespace.geometry.is_some_and(|one| one.volatile_cache));
                // Only there when the controller has a cache (VWC; 5.27.1.4).
                if !cached {
                    return Err(Status::INVALID_FIELD.do_not_retry());
                }
                1
            }
            feature::NUMBER_OF_QUEUES => features.queue_counts,
            feature::WRITE_ATOMICITY => features.write_atomicity,
            feature::ASYNC_EVENT_CONFIGURATION if current => state.events.configuration,
            feature::KEEP_ALIVE_TIMER if current => state.keep_alive_ms,
            feature::HOST_BEHAVIOR => {
                page = Some(features.host_behavior.to_vec());
                0
            }
            feature::HOST_IDENTIFIER => {
                // Fabrics has 128-bit identifiers only (5.27.1.25).
                if command.dword(11) & EXTENDED_HOST_ID == 0 {
                    return Err(Status::INVALID_FIELD.do_not_retry());
                }
                page = Some(state.host_id.to_vec());
                0
            }
            // Command set profile: the one combination, index 0. Others: their default is 0.
            _ => 0,
        };
        self.slots.get_mut(index).result = u64::from(result);
        Ok(page)
    }

    /// Set Features.
    pub(super) fn set_features<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        cx: &mut Context<'_, B>,
    ) -> Result<(), Status> {
        let command = self.slots.get(index).command;
        let id = self.check_feature(&command)?;
        if command.dword(10) & SAVE != 0 {
            return Err(Status::FEATURE_NOT_SAVEABLE.do_not_retry());
        }
        self.check_ana(id, command.nsid() == NSID_ALL, cx)?;
        let value = command.dword(11);
        let now_ns = cx.backend.now_ns();
        let (Some(state), Some(queue)) = (&mut self.admin, &self.queue) else {
            return Err(Status::COMMAND_SEQUENCE_ERROR);
        };
        let invalid = Err(Status::INVALID_FIELD.do_not_retry());
        match id {
            feature::ARBITRATION => state.features.arbitration = value,
            // There is one power state.
            feature::POWER_MANAGEMENT if value & 0x1F != 0 => return invalid,
            feature::POWER_MANAGEMENT => {}
            feature::TEMPERATURE_THRESHOLD => state.features.temperature_threshold = value,
            // Deallocated or unwritten logical block error is not supported (DULBE, bit 16).
            feature::ERROR_RECOVERY if value & 1 << 16 != 0 => return invalid,
            feature::ERROR_RECOVERY => state.features.error_recovery = value,
            feature::WRITE_ATOMICITY => state.features.write_atomicity = value & 1,
            feature::NUMBER_OF_QUEUES => {
                let wanted = QueueCounts::decode(value);
                // FFFFh asks for one more than there can be (5.27.1.5).
                if wanted.submission > 0xFFFF || wanted.completion > 0xFFFF {
                    return invalid;
                }
                if cx.target.queue_count(queue.subsystem, queue.controller_id) > 0 {
                    return Err(Status::COMMAND_SEQUENCE_ERROR.do_not_retry());
                }
                let granted = wanted
                    .submission
                    .min(wanted.completion)
                    .min(u32::from(IO_QUEUES_MAX));
                let counts = QueueCounts {
                    submission: granted,
                    completion: granted,
                }
                .encode();
                state.features.queue_counts = counts;
                cx.target
                    .set_queue_limit(queue.subsystem, queue.controller_id, granted as u16);
                self.slots.get_mut(index).result = u64::from(counts);
            }
            feature::ASYNC_EVENT_CONFIGURATION => state.events.configuration = value,
            feature::KEEP_ALIVE_TIMER => {
                state.keep_alive_ms = value;
                state.alive_at_ns = now_ns;
            }
            feature::HOST_BEHAVIOR => {
                let bytes = self.slots.get(index).bytes();
                if let Ok(bytes) = bytes.try_into() {
                    *state.features.host_behavior = bytes;
                }
            }
            feature::COMMAND_SET_PROFILE if value & 0x1FF != 0 => {
                return Err(Status::COMMAND_SET_COMBINATION_REJECTED.do_not_retry());
            }
            feature::COMMAND_SET_PROFILE => {}
            // Connect told the host identifier, and no other can be set (5.27.1.25). The cache cannot be turned off.
            feature::HOST_IDENTIFIER => return Err(Status::COMMAND_SEQUENCE_ERROR.do_not_retry()),
            _ => return Err(Status::FEATURE_NOT_CHANGEABLE.do_not_retry()),
        }
        Ok(())
    }

    /// Features that the ANA state makes unavailable: error recovery (NVM Command Set 1.0, 5.1), and setting any for all namespaces (NVMe Base
    /// 2.0, 8.1.5). A Set Features that names no namespace is of the controller alone, in persistent loss too: without Number of Queues no
    /// host could connect and learn the state.
    fn check_ana<B: Backend<Lend = L>>(
        &self,
        id: u8,
        for_all_namespaces: bool,
        cx: &mut Context<'_, B>,
    ) -> Result<(), Status> {
        let of_command_set = id == feature::ERROR_RECOVERY;
        let queue = self.queue.as_ref();
        match queue.filter(|_| of_command_set || for_all_namespaces) {
            Some(queue) => match cx.local.namespaces(queue.subsystem).ana_refusal() {
                Some(status) => Err(status),
                None => Ok(()),
            },
            None => Ok(()),
        }
    }

    fn check_feature(&self, command: &Command) -> Result<u8, Status> {
        let id = command.dword(10) as u8;
        let is_discovery = self.admin.as_ref().is_some_and(|state| state.is_discovery);
        let supported = if is_discovery {
            SUPPORTED_DISCOVERY
        } else {
            SUPPORTED
        };
        if !supported.contains(&id) {
            return Err(Status::INVALID_FIELD.do_not_retry());
        }
        // All are of the controller, none of a namespace.
        if !matches!(command.nsid(), 0 | NSID_ALL) {
            return Err(Status::FEATURE_NOT_NAMESPACE_SPECIFIC.do_not_retry());
        }
        Ok(id)
    }
}
