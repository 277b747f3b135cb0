//! Identify (NVMe Base 2.0, 5.17; NVM Command Set 1.0, 4.1.5): what hosts are told of controller and namespaces, all of it derived
//! from what the devices declare.

use super::config::NAMESPACES_MAX;
use super::controller::{ABORTS_MAX, ASYNC_EVENTS_MAX, ERROR_ENTRIES_MAX};
use super::io::COMPARE_AND_WRITE_BYTES_MAX;
use super::namespace::LocalNamespace;
use super::session::{Context, IN_CAPSULE_BYTES, QUEUE_ENTRIES_MAX, Session, TRANSFER_PAGES_LOG2};
use crate::export::backend::{Backend, Lend};
use crate::nvme::feature::{EVENT_ANA_CHANGE, EVENT_DISCOVERY_CHANGE, EVENT_NAMESPACE_ATTRIBUTE};
use crate::nvme::identify::{
    self, COMMAND_SET_NVM, Controller, DEALLOCATED_READS_ZERO, NAMESPACE_SHARED,
    NAMESPACE_WRITE_PROTECTED, Namespace, NamespaceIdentity, NvmLimits, PAGE_SIZE, Page,
    WRITE_ZEROES_DEALLOCATES, controller_type, log_attribute, namespace_feature, optional_io,
    sgl_support, sharing, structure,
};
use crate::nvme::{Command, NSID_ALL, Status, VERSION_2_0};

/// The one ANA group, which holds every namespace: each is reached through every controller alike, in the state that the operator sets.
pub const ANA_GROUP: u32 = 1;

/// ANATT: for how many seconds an operator may leave a subsystem in the state "change", and hosts try again at least. Linux resets its
/// controllers after twice that.
const ANA_TRANSITION_SECONDS: u8 = 60;

/// ANACAP: reports all five states (bits 4:0), and group identifiers of namespaces never change (bit 6).
const ANA_CAPABILITIES: u8 = 0x1F | 1 << 6;

/// CMIC and NMIC tell the truth of a target that any number of hosts may connect to.
const SHARING: u8 = sharing::PORTS | sharing::CONTROLLERS | sharing::ANA;

/// FRMW: one slot, read only.
const FIRMWARE_UPDATES: u8 = 1 | 1 << 1;

/// KAS: granularity of the keep alive timer in 100 ms.
const KEEP_ALIVE_GRANULARITY: u16 = 10;

/// SGLS bit 18: a data SGL may be longer than the transfer.
const SGL_MAY_BE_LONGER: u32 = 1 << 18;

/// FR: the firmware revision, at most 8 characters.
pub const FIRMWARE: &str = env!("CARGO_PKG_VERSION");

/// Size of a response capsule (IORCSZ).
const RESPONSE_CAPSULE_BYTES: u32 = 16;

impl<L: Lend> Session<L> {
    /// The data structure that an Identify asks for.
    pub(super) fn identify<B: Backend<Lend = L>>(
        &self,
        command: &Command,
        cx: &mut Context<'_, B>,
    ) -> Result<Vec<u8>, Status> {
        let mut page = [0; PAGE_SIZE];
        self.fill(command, &mut page, cx)?;
        Ok(page.to_vec())
    }

    fn fill<B: Backend<Lend = L>>(
        &self,
        command: &Command,
        page: &mut Page,
        cx: &mut Context<'_, B>,
    ) -> Result<(), Status> {
        let Some(queue) = &self.queue else {
            return Err(Status::COMMAND_SEQUENCE_ERROR);
        };
        let is_discovery = self.admin.as_ref().is_some_and(|state| state.is_discovery);
        let kind = command.identify_structure();
        if is_discovery && kind != structure::CONTROLLER {
            return Err(Status::INVALID_FIELD.do_not_retry());
        }
        if is_command_set_specific(kind) && command.identify_command_set() != COMMAND_SET_NVM {
            return Err(Status::INVALID_COMMAND_SET.do_not_retry());
        }
        let nsid = command.nsid();
        let subsystem = queue.subsystem;
        match kind {
            structure::CONTROLLER => self.controller(is_discovery, cx).encode(page),
            // The broadcast value asks for what all namespaces have in common; here that is nothing but the formats, which differ.
            structure::NAMESPACE if nsid == NSID_ALL => {
                return Err(Status::INVALID_NAMESPACE.do_not_retry());
            }
            // An inactive namespace is a page of zeroes (NVM Command Set 1.0, 4.1.5.1).
            structure::NAMESPACE | structure::ALLOCATED_NAMESPACE => {
                if let Some(namespace) = self.identified(nsid, cx)? {
                    describe(namespace).encode(page);
                }
            }
            structure::INDEPENDENT_NAMESPACE => {
                if let Some(namespace) = self.identified(nsid, cx)? {
                    describe(namespace).encode_independent(page);
                }
            }
            structure::COMMAND_SET_NAMESPACE | structure::COMMAND_SET_ALLOCATED_NAMESPACE => {
                if self.identified(nsid, cx)?.is_some() {
                    identify::encode_nvm_namespace(page);
                }
            }
            structure::COMMAND_SET_CONTROLLER => {
                NvmLimits {
                    verify: TRANSFER_PAGES_LOG2,
                    ..NvmLimits::default()
                }
                .encode(page);
            }
            structure::ACTIVE_NAMESPACES | structure::COMMAND_SET_ACTIVE_NAMESPACES => {
                check_list_start(nsid)?;
                let active = cx
                    .local
                    .namespaces(subsystem)
                    .active()
                    .map(|one| one.namespace.nsid);
                identify::encode_namespace_list(page, active, nsid);
            }
            structure::ALLOCATED_NAMESPACES | structure::COMMAND_SET_ALLOCATED_NAMESPACES => {
                check_list_start(nsid)?;
                let all = cx
                    .local
                    .namespaces(subsystem)
                    .iter()
                    .map(|one| one.namespace.nsid);
                identify::encode_namespace_list(page, all, nsid);
            }
            structure::NAMESPACE_DESCRIPTORS => {
                let namespace = self
                    .identified(nsid, cx)?
                    .ok_or(Status::INVALID_NAMESPACE.do_not_retry())?;
                let uuid = Some(namespace.namespace.uuid);
                let command_set = Some(COMMAND_SET_NVM);
                NamespaceIdentity {
                    uuid,
                    command_set,
                    ..NamespaceIdentity::default()
                }
                .encode(page);
            }
            structure::ATTACHED_CONTROLLERS | structure::CONTROLLERS => {
                if kind == structure::ATTACHED_CONTROLLERS && self.identified(nsid, cx)?.is_none() {
                    return Err(Status::INVALID_FIELD.do_not_retry());
                }
                let first = command.identify_controller_id();
                identify::encode_controller_list(
                    page,
                    cx.target.controller_ids(subsystem, first),
                    first,
                );
            }
            structure::COMMAND_SETS => {
                // FFFFh stands for the controller that answers (NVMe Base 2.0, 5.17.2.21).
                let controller = command.identify_controller_id();
                if controller != 0xFFFF && controller != queue.controller_id {
                    return Err(Status::INVALID_FIELD.do_not_retry());
                }
                identify::encode_command_sets(page);
            }
            _ => return Err(Status::INVALID_FIELD.do_not_retry()),
        }
        Ok(())
    }

    /// The active namespace of this NSID; `None` for one that is not active.
    fn identified<'a, B: Backend<Lend = L>>(
        &self,
        nsid: u32,
        cx: &'a mut Context<'_, B>,
    ) -> Result<Option<&'a LocalNamespace>, Status> {
        if !(1..=NAMESPACES_MAX).contains(&nsid) {
            return Err(Status::INVALID_NAMESPACE.do_not_retry());
        }
        let Some(queue) = &self.queue else {
            return Ok(None);
        };
        Ok(cx
            .local
            .namespaces(queue.subsystem)
            .get(nsid)
            .filter(|namespace| namespace.is_active()))
    }

    /// Identify Controller.
    fn controller<B: Backend<Lend = L>>(
        &self,
        is_discovery: bool,
        cx: &mut Context<'_, B>,
    ) -> Controller {
        let Some(queue) = &self.queue else {
            return Controller::default();
        };
        let identity = &queue.identity;
        let common = Controller {
            serial: identity.serial.clone(),
            model: identity.model.clone(),
            firmware: FIRMWARE.to_string(),
            transfer_size_max: TRANSFER_PAGES_LOG2,
            controller_id: queue.controller_id,
            version: VERSION_2_0,
            attributes: identify::ATTRIBUTE_HOST_ID_128,
            async_event_limit: (ASYNC_EVENTS_MAX - 1) as u8,
            error_log_entries: (ERROR_ENTRIES_MAX - 1) as u8,
            keep_alive_granularity: KEEP_ALIVE_GRANULARITY,
            outstanding_max: QUEUE_ENTRIES_MAX as u16,
            sgl_support: sgl_support::SUPPORTED
                | sgl_support::OFFSET
                | sgl_support::TRANSPORT
                | SGL_MAY_BE_LONGER,
            subsystem_nqn: identity.nqn.clone(),
            command_capsule_size: 64 + IN_CAPSULE_BYTES,
            response_capsule_size: RESPONSE_CAPSULE_BYTES,
            sgl_descriptors_max: 1,
            disconnect: true,
            ..Controller::default()
        };
        if is_discovery {
            return Controller {
                controller_type: controller_type::DISCOVERY,
                async_events: EVENT_DISCOVERY_CHANGE,
                log_attributes: log_attribute::EXTENDED_DATA,
                // A direct discovery controller: it tells of its own subsystems only.
                discovery_type: 1,
                ..common
            };
        }
        let mut volatile_cache = false;
        for namespace in cx.local.namespaces(queue.subsystem).active() {
            volatile_cache |= namespace
                .geometry
                .is_some_and(|geometry| geometry.volatile_cache);
        }
        let present = if volatile_cache {
            identify::CACHE_PRESENT
        } else {
            0
        };
        Controller {
            controller_type: controller_type::IO,
            arbitration_burst: 0,
            sharing: SHARING,
            async_events: EVENT_NAMESPACE_ATTRIBUTE | EVENT_ANA_CHANGE,
            abort_limit: (ABORTS_MAX - 1) as u8,
            firmware_updates: FIRMWARE_UPDATES,
            log_attributes: log_attribute::COMMAND_EFFECTS
                | log_attribute::EXTENDED_DATA
                | log_attribute::SUPPORTED_PAGES,
            ana_transition_seconds: ANA_TRANSITION_SECONDS,
            ana_capabilities: ANA_CAPABILITIES,
            ana_group_max: ANA_GROUP,
            ana_group_count: 1,
            namespace_max: NAMESPACES_MAX,
            namespace_count_max: NAMESPACES_MAX,
            optional_io: optional_io::COMPARE
                | optional_io::DATASET_MANAGEMENT
                | optional_io::WRITE_ZEROES
                | optional_io::FEATURE_SELECT
                | optional_io::VERIFY,
            fused: identify::FUSED_COMPARE_AND_WRITE,
            write_cache: present | identify::CACHE_FLUSH_ALL,
            // One block is written atomically (AWUN, AWUPF are 0's based).
            atomic_write: 0,
            atomic_write_power_fail: 0,
            // Blocks of 4 KiB, the largest there are; NACWU says more of a namespace with smaller ones.
            atomic_compare_write: (COMPARE_AND_WRITE_BYTES_MAX / 4096 - 1) as u16,
            ..common
        }
    }
}

/// Structures whose command names a command set (CSI).
fn is_command_set_specific(kind: u8) -> bool {
    matches!(
        kind,
        structure::COMMAND_SET_NAMESPACE
            | structure::COMMAND_SET_CONTROLLER
            | structure::COMMAND_SET_ACTIVE_NAMESPACES
            | structure::COMMAND_SET_ALLOCATED_NAMESPACES
            | structure::COMMAND_SET_ALLOCATED_NAMESPACE
    )
}

/// A namespace list starts behind an NSID; the last two values are no NSIDs (NVMe Base 2.0, 5.17.2.2).
fn check_list_start(nsid: u32) -> Result<(), Status> {
    if nsid >= NSID_ALL - 1 {
        Err(Status::INVALID_NAMESPACE.do_not_retry())
    } else {
        Ok(())
    }
}

/// Identify Namespace of an active namespace.
fn describe(namespace: &LocalNamespace) -> Namespace {
    let Some(geometry) = namespace.geometry else {
        return Namespace::default();
    };
    let block_bytes = geometry.block_bytes;
    let blocks = |bytes: u32| (bytes / block_bytes).clamp(1, 0xFFFF) as u16;
    let optimal = blocks(geometry.optimal_write_bytes) - 1;
    // NUSE and NVMCAP are cleared where the ANA state says so; nobody is told of that but by the ANA change (NVM Command Set 1.0, 2.1.1).
    let used = if namespace.ana.hides_capacity() {
        0
    } else {
        namespace.blocks
    };
    Namespace {
        size: namespace.blocks,
        capacity: namespace.blocks,
        used,
        features: namespace_feature::ATOMICITY | namespace_feature::OPTIMAL_PERFORMANCE,
        sharing: NAMESPACE_SHARED,
        // Where what was discarded may read as anything, nothing is promised, and Write Zeroes does not deallocate (DLFEAT 0).
        deallocate: if geometry.discard_zeroes {
            DEALLOCATED_READS_ZERO | WRITE_ZEROES_DEALLOCATES
        } else {
            0
        },
        atomic_write: 0,
        atomic_write_power_fail: 0,
        atomic_compare_write: blocks(COMPARE_AND_WRITE_BYTES_MAX) - 1,
        capacity_bytes: u128::from(used) * u128::from(block_bytes),
        write_granularity: optimal,
        write_alignment: optimal,
        deallocate_granularity: optimal,
        deallocate_alignment: optimal,
        optimal_write_size: optimal,
        ana_group: ANA_GROUP,
        attributes: if geometry.read_only {
            NAMESPACE_WRITE_PROTECTED
        } else {
            0
        },
        block_shift: block_bytes.trailing_zeros() as u8,
        ..Namespace::default()
    }
}
