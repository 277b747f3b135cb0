//! Get Log Page (NVMe Base 2.0, 5.16): the pages, and the discovery log (5.16.1.23).

use std::net::IpAddr;

use super::controller::{AdminState, ERROR_ENTRIES_MAX, Event};
use super::identify::{ANA_GROUP, FIRMWARE};
use super::session::{Context, QUEUE_ENTRIES_MAX, Session};
use super::target::{SubsystemId, Target};
use crate::export::backend::{Backend, Lend};
use crate::nvme::bytes::put_u32;
use crate::nvme::log::{
    self, ANA_GROUP_SIZE, ANA_GROUPS_ONLY, ANA_HEADER_SIZE, AnaState, COMMAND_EFFECTS_SIZE,
    DISCOVERY_ENTRY_SIZE, DiscoveryEntry, ErrorEntry, FIRMWARE_SLOT_SIZE, Smart, TRANSPORT_TCP,
    address_family, discovery_subtype, effect, page,
};
use crate::nvme::opcode::{admin, fabrics, io};
use crate::nvme::{Command, NSID_ALL, Status};

/// Feature Identifiers Supported and Effects (5.16.1.18).
const PAGE_FEATURES: u8 = 0x12;
/// NVMe-MI Commands Supported and Effects (5.16.1.19): there are none.
const PAGE_MANAGEMENT: u8 = 0x13;

/// Pages of an I/O controller.
const PAGES: [u8; 9] = [
    page::SUPPORTED,
    page::ERROR,
    page::SMART,
    page::FIRMWARE_SLOT,
    page::CHANGED_NAMESPACES,
    page::COMMAND_EFFECTS,
    page::ANA,
    PAGE_FEATURES,
    PAGE_MANAGEMENT,
];

/// Pages of a discovery controller.
const PAGES_DISCOVERY: [u8; 3] = [page::SUPPORTED, page::ERROR, page::DISCOVERY];

const EFFECTS_ADMIN: [(u8, u32); 7] = [
    (admin::GET_LOG_PAGE, effect::SUPPORTED),
    (admin::IDENTIFY, effect::SUPPORTED),
    (admin::ABORT, effect::SUPPORTED),
    (admin::SET_FEATURES, effect::SUPPORTED),
    (admin::GET_FEATURES, effect::SUPPORTED),
    (admin::ASYNC_EVENT_REQUEST, effect::SUPPORTED),
    (admin::KEEP_ALIVE, effect::SUPPORTED),
];

const EFFECTS_IO: [(u8, u32); 7] = [
    (io::FLUSH, effect::SUPPORTED),
    (io::WRITE, effect::SUPPORTED | effect::CHANGES_BLOCKS),
    (io::READ, effect::SUPPORTED),
    (io::COMPARE, effect::SUPPORTED),
    (io::WRITE_ZEROES, effect::SUPPORTED | effect::CHANGES_BLOCKS),
    (
        io::DATASET_MANAGEMENT,
        effect::SUPPORTED | effect::CHANGES_BLOCKS,
    ),
    (io::VERIFY, effect::SUPPORTED),
];

/// Transport requirements of a discovery entry (TREQ): flow control may be left off. Of a secure channel nothing is said: "not
/// required" would be as true, but nvme-cli has no name for the two together and shows them as unrecognized.
const REQUIREMENTS: u8 = log::FLOW_CONTROL_OPTIONAL;

/// What the admin queue of a discovered controller takes (ASQSZ).
const ADMIN_QUEUE_ENTRIES: u16 = 32;

/// Composite temperature in kelvins: software has none, and a plausible value keeps monitoring tools quiet.
const TEMPERATURE: u16 = 310;

const _: () = assert!(ADMIN_QUEUE_ENTRIES as u32 <= QUEUE_ENTRIES_MAX && fabrics::CONNECT == 1);

impl<L: Lend> Session<L> {
    /// The part of a log page that a command asks for.
    pub(super) fn log_page<B: Backend<Lend = L>>(
        &mut self,
        command: &Command,
        cx: &mut Context<'_, B>,
    ) -> Result<Vec<u8>, Status> {
        let (Some(queue), Some(state)) = (&self.queue, &mut self.admin) else {
            return Err(Status::COMMAND_SEQUENCE_ERROR);
        };
        let (id, offset) = (command.log_id(), command.log_offset());
        if !offset.is_multiple_of(4) || command.is_log_offset_index() {
            return Err(Status::INVALID_FIELD.do_not_retry());
        }
        let supported = if state.is_discovery {
            &PAGES_DISCOVERY[..]
        } else {
            &PAGES[..]
        };
        if !supported.contains(&id) {
            return Err(Status::INVALID_LOG_PAGE.do_not_retry());
        }
        let subsystem = queue.subsystem;
        let retain = command.is_retain_event();
        let page = match id {
            page::SUPPORTED => {
                let mut bytes = [0; log::SUPPORTED_SIZE];
                log::encode_supported(&mut bytes, supported);
                bytes.to_vec()
            }
            page::ERROR => error_page(state),
            page::SMART => {
                // Only the controller as a whole (LPA bit 0 is clear).
                if !matches!(command.nsid(), 0 | NSID_ALL) {
                    return Err(Status::INVALID_FIELD.do_not_retry());
                }
                smart_page(state, subsystem, cx)
            }
            page::FIRMWARE_SLOT => {
                let mut bytes = [0; FIRMWARE_SLOT_SIZE];
                log::encode_firmware_slot(&mut bytes, FIRMWARE);
                bytes.to_vec()
            }
            page::CHANGED_NAMESPACES => {
                let mut bytes = [0; log::CHANGED_NAMESPACES_SIZE];
                let nsids: Vec<u32> = state.changed_namespaces.iter().copied().collect();
                log::encode_changed_namespaces(&mut bytes, &nsids);
                if !retain {
                    state.changed_namespaces.clear();
                    state.events.acknowledge(Event::Namespace);
                }
                bytes.to_vec()
            }
            page::COMMAND_EFFECTS => {
                let mut bytes = [0; COMMAND_EFFECTS_SIZE];
                log::encode_command_effects(&mut bytes, &EFFECTS_ADMIN, &EFFECTS_IO);
                bytes.to_vec()
            }
            page::ANA => {
                let namespaces = cx.local.namespaces(subsystem);
                let active = namespaces.active();
                let nsids: Vec<u32> = active.map(|namespace| namespace.namespace.nsid).collect();
                let (ana, changes) = namespaces.ana_report();
                let changes = changes.wrapping_sub(state.ana_changes_before);
                if !retain {
                    state.events.acknowledge(Event::Ana);
                }
                let groups_only = command.log_specific() & ANA_GROUPS_ONLY != 0;
                ana_page(ana, changes, &nsids, groups_only)
            }
            PAGE_FEATURES => features_page(),
            PAGE_MANAGEMENT => vec![0; 1024],
            _ => {
                if !retain {
                    state.events.acknowledge(Event::Discovery);
                }
                discovery_page(cx.target, &state.host_nqn, self.local_ip)
            }
        };
        cut(&page, offset, command.log_size())
    }
}

/// The part of a page that was asked for; what lies behind its end is zero.
fn cut(page: &[u8], offset: u64, size: u64) -> Result<Vec<u8>, Status> {
    let start = usize::try_from(offset)
        .ok()
        .filter(|&start| start <= page.len());
    let Some(start) = start else {
        return Err(Status::INVALID_FIELD.do_not_retry());
    };
    let mut part = vec![0; size as usize];
    let count = part.len().min(page.len() - start);
    part[..count].copy_from_slice(&page[start..start + count]);
    Ok(part)
}

fn error_page(state: &AdminState) -> Vec<u8> {
    let mut bytes = vec![0; ERROR_ENTRIES_MAX * ErrorEntry::SIZE];
    for (entry, bytes) in state
        .errors
        .iter()
        .zip(bytes.chunks_exact_mut(ErrorEntry::SIZE))
    {
        entry.encode(bytes);
    }
    bytes
}

fn smart_page<B: Backend>(
    state: &AdminState,
    subsystem: SubsystemId,
    cx: &mut Context<'_, B>,
) -> Vec<u8> {
    let totals = cx.target.totals(subsystem);
    let hours = cx.backend.now_ns().saturating_sub(state.created_ns) / 3_600_000_000_000;
    let smart = Smart {
        temperature: TEMPERATURE,
        spare: 100,
        spare_threshold: 10,
        data_units_read: Smart::data_units(totals.read_bytes),
        data_units_written: Smart::data_units(totals.write_bytes),
        read_commands: u128::from(totals.reads),
        write_commands: u128::from(totals.writes),
        power_cycles: 1,
        power_on_hours: u128::from(hours),
        media_errors: u128::from(totals.errors),
        error_entries: u128::from(state.error_count),
        ..Smart::default()
    };
    let mut bytes = vec![0; Smart::SIZE];
    smart.encode(&mut bytes);
    bytes
}

/// The ANA log page (5.16.1.13): the one group, if there is a namespace in it.
fn ana_page(state: AnaState, changes: u64, nsids: &[u32], groups_only: bool) -> Vec<u8> {
    let listed = if groups_only { &[] } else { nsids };
    let mut bytes = vec![0; ANA_HEADER_SIZE + ANA_GROUP_SIZE + listed.len() * 4];
    if nsids.is_empty() {
        log::encode_ana_header(&mut bytes, changes, 0);
        return bytes;
    }
    log::encode_ana_header(&mut bytes, changes, 1);
    let group = &mut bytes[ANA_HEADER_SIZE..];
    // The group's count goes with the page's, but starts at 1: 0 would mean that it is not counted.
    log::encode_ana_group(
        group,
        ANA_GROUP,
        changes.wrapping_add(1).max(1),
        state,
        listed,
    );
    bytes
}

fn features_page() -> Vec<u8> {
    /// FSUPP, and the scope "controller" (bit 21 of FIS).
    const SUPPORTED_CONTROLLER: u32 = 1 | 1 << 21;
    let mut bytes = vec![0; 1024];
    for &feature in super::features::SUPPORTED {
        put_u32(&mut bytes, usize::from(feature) * 4, SUPPORTED_CONTROLLER);
    }
    bytes
}

/// The discovery log page of a host: one entry per subsystem it may see and address the target listens on.
fn discovery_page(target: &Target, host_nqn: &str, reached: Option<IpAddr>) -> Vec<u8> {
    let (generation, subsystems) = target.discover(host_nqn);
    let addresses = target.addresses();
    let count = subsystems.len() * addresses.len();
    let mut bytes = vec![0; (count + 1) * DISCOVERY_ENTRY_SIZE];
    log::encode_discovery_header(&mut bytes, generation, count as u64);
    let mut entries = bytes.chunks_exact_mut(DISCOVERY_ENTRY_SIZE).skip(1);
    for subsystem in &subsystems {
        for (port, address) in addresses.iter().enumerate() {
            let Some(bytes) = entries.next() else { break };
            // A listener that takes any address is told as the one that this host has reached.
            let ip = Some(address.ip())
                .filter(|ip| !ip.is_unspecified())
                .or(reached)
                .unwrap_or(address.ip());
            let family = if ip.is_ipv4() {
                address_family::IPV4
            } else {
                address_family::IPV6
            };
            let entry = DiscoveryEntry {
                transport: TRANSPORT_TCP,
                address_family: family,
                subtype: if subsystem.is_discovery {
                    discovery_subtype::CURRENT
                } else {
                    discovery_subtype::NVM
                },
                requirements: REQUIREMENTS,
                port_id: port as u16 + 1,
                controller_id: crate::nvme::fabrics::CONTROLLER_ID_DYNAMIC,
                admin_queue_size: ADMIN_QUEUE_ENTRIES,
                flags: if subsystem.is_discovery {
                    log::DUPLICATE_RETURNED | log::PERSISTENT_CONNECTION
                } else {
                    0
                },
                service: address.port().to_string(),
                subsystem_nqn: subsystem.nqn.clone(),
                address: ip.to_string(),
            };
            entry.encode(bytes);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_cut_and_padded() {
        let page = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(cut(&page, 4, 8).unwrap(), vec![5, 6, 7, 8, 0, 0, 0, 0]);
        assert_eq!(cut(&page, 8, 4).unwrap(), vec![0; 4]);
        assert_eq!(cut(&page, 12, 4), Err(Status::INVALID_FIELD.do_not_retry()));
        assert_eq!(
            cut(&page, u64::MAX - 3, 4),
            Err(Status::INVALID_FIELD.do_not_retry())
        );
    }

    #[test]
    fn the_ana_page_lists_namespaces_unless_told_not_to() {
        let page = ana_page(AnaState::Inaccessible, 4, &[1, 5], false);
        assert_eq!(page.len(), 16 + 32 + 8);
        assert_eq!((page[0], page[8], page[16 + 8]), (4, 1, 5));
        assert_eq!(page[16 + 16], AnaState::Inaccessible as u8);
        let groups_only = ana_page(AnaState::Optimized, 0, &[1, 5], true);
        assert_eq!(
            (groups_only.len(), groups_only[8], groups_only[16 + 16]),
            (48, 1, 1)
        );
        assert_eq!(
            (groups_only[0], groups_only[16 + 4], groups_only[16 + 8]),
            (0, 0, 1)
        );
        // A group without a namespace is none of this controller's.
        assert_eq!(
            ana_page(AnaState::Optimized, 2, &[], false)[..10],
            [2, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        );
    }
}
