//! Log pages (NVMe Base 2.0, 5.16.1), encoded into and decoded from slices.

use super::bytes::{
    get_text, get_u16, get_u32, get_u64, get_u128, put_text, put_u16, put_u32, put_u64, put_u128,
};
use super::status::Status;

/// Log page identifiers (NVMe Base 2.0, 5.16.1).
pub mod page {
    /// Supported log pages.
    pub const SUPPORTED: u8 = 0x00;
    /// Error information.
    pub const ERROR: u8 = 0x01;
    /// SMART / health information.
    pub const SMART: u8 = 0x02;
    /// Firmware slot information.
    pub const FIRMWARE_SLOT: u8 = 0x03;
    /// Changed namespace list.
    pub const CHANGED_NAMESPACES: u8 = 0x04;
    /// Commands supported and effects.
    pub const COMMAND_EFFECTS: u8 = 0x05;
    /// Asymmetric namespace access.
    pub const ANA: u8 = 0x0C;
    /// Discovery.
    pub const DISCOVERY: u8 = 0x70;
    /// Reservation notification.
    pub const RESERVATION: u8 = 0x80;
}

/// Size of the supported log pages log in bytes: four for each identifier.
pub const SUPPORTED_SIZE: usize = 1024;

/// Writes the supported log pages log (5.16.1.1): bit 0 of an identifier's dword says that it is supported.
pub fn encode_supported(bytes: &mut [u8; SUPPORTED_SIZE], log_ids: &[u8]) {
    bytes.fill(0);
    for &log_id in log_ids {
        put_u32(bytes, usize::from(log_id) * 4, 1);
    }
}

/// One error information log entry (5.16.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ErrorEntry {
    /// Counts errors from 1; 0 marks an entry that is not in use.
    pub error_count: u64,
    /// Submission queue of the command.
    pub queue_id: u16,
    /// The command's identifier.
    pub command_id: u16,
    /// How it ended.
    pub status: Status,
    /// The offending byte (bits 07:00) and bit (10:08) of the command; FFFFh when no field is at fault.
    pub parameter: u16,
    /// First block that had the error.
    pub lba: u64,
    /// Namespace.
    pub nsid: u32,
    /// Transport type: 3 for TCP.
    pub transport: u8,
}

impl ErrorEntry {
    /// Size of an entry in bytes.
    pub const SIZE: usize = 64;

    /// Into 64 bytes.
    pub fn encode(&self, bytes: &mut [u8]) {
        bytes[..Self::SIZE].fill(0);
        put_u64(bytes, 0, self.error_count);
        put_u16(bytes, 8, self.queue_id);
        put_u16(bytes, 10, self.command_id);
        put_u16(bytes, 12, self.status.bits());
        put_u16(bytes, 14, self.parameter);
        put_u64(bytes, 16, self.lba);
        put_u32(bytes, 24, self.nsid);
        bytes[29] = self.transport;
    }

    /// From 64 bytes.
    pub fn decode(bytes: &[u8]) -> Self {
        Self {
            error_count: get_u64(bytes, 0),
            queue_id: get_u16(bytes, 8),
            command_id: get_u16(bytes, 10),
            status: Status::from_bits(get_u16(bytes, 12)),
            parameter: get_u16(bytes, 14),
            lba: get_u64(bytes, 16),
            nsid: get_u32(bytes, 24),
            transport: bytes[29],
        }
    }
}

/// SMART / health information (5.16.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Smart {
    /// Critical warnings, bit by bit; 0 when all is well.
    pub critical_warning: u8,
    /// Composite temperature in kelvins; 0 when not known.
    pub temperature: u16,
    /// Spare left in percent.
    pub spare: u8,
    /// Spare threshold in percent.
    pub spare_threshold: u8,
    /// Life used in percent.
    pub percentage_used: u8,
    /// Data units (of 1,000 times 512 bytes, rounded up) read by the host.
    pub data_units_read: u128,
    /// Data units written by the host.
    pub data_units_written: u128,
    /// Read and Compare commands.
    pub read_commands: u128,
    /// Write commands.
    pub write_commands: u128,
    /// Minutes with I/O outstanding.
    pub busy_minutes: u128,
    /// Power cycles.
    pub power_cycles: u128,
    /// Hours of operation.
    pub power_on_hours: u128,
    /// Shutdowns without notification.
    pub unsafe_shutdowns: u128,
    /// Media and data integrity errors.
    pub media_errors: u128,
    /// Error log entries over the life of the controller.
    pub error_entries: u128,
}

impl Smart {
    /// Size of the page in bytes.
    pub const SIZE: usize = 512;

    /// The data units of `bytes` bytes: thousands of 512, rounded up.
    pub const fn data_units(bytes: u64) -> u128 {
        bytes.div_ceil(512_000) as u128
    }

    /// Into 512 bytes.
    pub fn encode(&self, bytes: &mut [u8]) {
        bytes[..Self::SIZE].fill(0);
        bytes[0] = self.critical_warning;
        put_u16(bytes, 1, self.temperature);
        bytes[3] = self.spare;
        bytes[4] = self.spare_threshold;
        bytes[5] = self.percentage_used;
        put_u128(bytes, 32, self.data_units_read);
        put_u128(bytes, 48, self.data_units_written);
        put_u128(bytes, 64, self.read_commands);
        put_u128(bytes, 80, self.write_commands);
        put_u128(bytes, 96, self.busy_minutes);
        put_u128(bytes, 112, self.power_cycles);
        put_u128(bytes, 128, self.power_on_hours);
        put_u128(bytes, 144, self.unsafe_shutdowns);
        put_u128(bytes, 160, self.media_errors);
        put_u128(bytes, 176, self.error_entries);
    }

    /// From 512 bytes.
    pub fn decode(bytes: &[u8]) -> Self {
        Self {
            critical_warning: bytes[0],
            temperature: get_u16(bytes, 1),
            spare: bytes[3],
            spare_threshold: bytes[4],
            percentage_used: bytes[5],
            data_units_read: get_u128(bytes, 32),
            data_units_written: get_u128(bytes, 48),
            read_commands: get_u128(bytes, 64),
            write_commands: get_u128(bytes, 80),
            busy_minutes: get_u128(bytes, 96),
            power_cycles: get_u128(bytes, 112),
            power_on_hours: get_u128(bytes, 128),
            unsafe_shutdowns: get_u128(bytes, 144),
            media_errors: get_u128(bytes, 160),
            error_entries: get_u128(bytes, 176),
        }
    }
}

/// Size of the firmware slot page in bytes.
pub const FIRMWARE_SLOT_SIZE: usize = 512;

/// Writes the firmware slot page (5.16.1.4): slot 1 is active and holds `revision`.
pub fn encode_firmware_slot(bytes: &mut [u8; FIRMWARE_SLOT_SIZE], revision: &str) {
    bytes.fill(0);
    bytes[0] = 1;
    put_text(bytes, 8, 8, revision, b' ');
}

/// Size of the changed namespace list in bytes.
pub const CHANGED_NAMESPACES_SIZE: usize = 4096;

/// Writes the changed namespace list (5.16.1.5); more than 1,024 namespaces become the one entry FFFFFFFFh.
/// `nsids` ascend.
pub fn encode_changed_namespaces(bytes: &mut [u8; CHANGED_NAMESPACES_SIZE], nsids: &[u32]) {
    bytes.fill(0);
    if nsids.len() > CHANGED_NAMESPACES_SIZE / 4 {
        put_u32(bytes, 0, super::NSID_ALL);
        return;
    }
    for (index, &nsid) in nsids.iter().enumerate() {
        put_u32(bytes, index * 4, nsid);
    }
}

/// Commands supported and effects (5.16.1.6): bits of a command's dword.
pub mod effect {
    /// The command is supported.
    pub const SUPPORTED: u32 = 1 << 0;
    /// It may change the contents of logical blocks.
    pub const CHANGES_BLOCKS: u32 = 1 << 1;
    /// It may change the capability of a namespace.
    pub const CHANGES_NAMESPACE: u32 = 1 << 2;
    /// It may change which namespaces there are.
    pub const CHANGES_INVENTORY: u32 = 1 << 3;
    /// It may change the capability of the controller.
    pub const CHANGES_CONTROLLER: u32 = 1 << 4;
}

/// Size of the commands supported and effects page in bytes.
pub const COMMAND_EFFECTS_SIZE: usize = 4096;

/// Writes the commands supported and effects page from pairs of operation code and effects.
pub fn encode_command_effects(
    bytes: &mut [u8; COMMAND_EFFECTS_SIZE],
    admin: &[(u8, u32)],
    io: &[(u8, u32)],
) {
    bytes.fill(0);
    for &(opcode, effects) in admin {
        put_u32(bytes, usize::from(opcode) * 4, effects);
    }
    for &(opcode, effects) in io {
        put_u32(bytes, 1024 + usize::from(opcode) * 4, effects);
    }
}

/// ANA states (5.16.1.13, 8.1.3): how a controller stands to the namespaces of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum AnaState {
    /// Optimized.
    #[default]
    Optimized = 0x1,
    /// Works, but another path is better.
    NonOptimized = 0x2,
    /// Does not work at the moment.
    Inaccessible = 0x3,
    /// Will not work again.
    PersistentLoss = 0x4,
    /// On its way to another state.
    Change = 0xF,
}

impl AnaState {
    /// What commands that need a namespace in this state end with; `None` where they are carried out (8.1.3.3 to 8.1.3.5, 8.1.5).
    pub const fn refusal(self) -> Option<Status> {
        match self {
            Self::Optimized | Self::NonOptimized => None,
            Self::Inaccessible => Some(Status::ANA_INACCESSIBLE),
            Self::PersistentLoss => Some(Status::ANA_PERSISTENT_LOSS),
            Self::Change => Some(Status::ANA_TRANSITION),
        }
    }

    /// Whether Identify Namespace has no capacity in use to tell in this state: NUSE and NVMCAP are 0 (8.1.3.3, 8.1.3.4).
    pub const fn hides_capacity(self) -> bool {
        matches!(self, Self::Inaccessible | Self::PersistentLoss)
    }

    /// Whether hosts are notified when it is entered: of every state but the passing one (8.1.4).
    pub const fn is_notified(self) -> bool {
        !matches!(self, Self::Change)
    }
}

/// Size of the header of the ANA page in bytes.
pub const ANA_HEADER_SIZE: usize = 16;
/// Size of an ANA group descriptor without its namespace identifiers.
pub const ANA_GROUP_SIZE: usize = 32;

/// Get Log Page's log specific field for ANA: descriptors come without namespace identifiers (RGO).
pub const ANA_GROUPS_ONLY: u8 = 1;

/// Writes the header of the ANA page.
pub fn encode_ana_header(bytes: &mut [u8], change_count: u64, group_count: u16) {
    bytes[..ANA_HEADER_SIZE].fill(0);
    put_u64(bytes, 0, change_count);
    put_u16(bytes, 8, group_count);
}

/// Writes one ANA group descriptor with these namespaces; the size of what was written.
pub fn encode_ana_group(
    bytes: &mut [u8],
    group: u32,
    change_count: u64,
    state: AnaState,
    nsids: &[u32],
) -> usize {
    bytes[..ANA_GROUP_SIZE].fill(0);
    put_u32(bytes, 0, group);
    put_u32(bytes, 4, nsids.len() as u32);
    put_u64(bytes, 8, change_count);
    bytes[16] = state as u8;
    for (index, &nsid) in nsids.iter().enumerate() {
        put_u32(bytes, ANA_GROUP_SIZE + index * 4, nsid);
    }
    ANA_GROUP_SIZE + nsids.len() * 4
}

/// Size of the discovery log page's header, and of each of its entries, in bytes (5.16.1.23).
pub const DISCOVERY_ENTRY_SIZE: usize = 1024;

/// Writes the header of the discovery log page.
pub fn encode_discovery_header(bytes: &mut [u8], generation: u64, entry_count: u64) {
    bytes[..DISCOVERY_ENTRY_SIZE].fill(0);
    put_u64(bytes, 0, generation);
    put_u64(bytes, 8, entry_count);
}

/// Generation counter and number of entries from the header of a discovery log page.
pub fn decode_discovery_header(bytes: &[u8]) -> (u64, u64) {
    (get_u64(bytes, 0), get_u64(bytes, 8))
}

/// Address families of a discovery log entry.
pub mod address_family {
    /// IPv4.
    pub const IPV4: u8 = 1;
    /// IPv6.
    pub const IPV6: u8 = 2;
}

/// What a discovery log entry stands for.
pub mod discovery_subtype {
    /// Another discovery service.
    pub const REFERRAL: u8 = 1;
    /// An NVM subsystem.
    pub const NVM: u8 = 2;
    /// The discovery service that answers.
    pub const CURRENT: u8 = 3;
}

/// Transport type of NVMe/TCP.
pub const TRANSPORT_TCP: u8 = 3;
/// TREQ: submission queue flow control can be disabled (bit 2).
pub const FLOW_CONTROL_OPTIONAL: u8 = 1 << 2;
/// EFLAGS: every port of this discovery service returns the same entries (bit 0).
pub const DUPLICATE_RETURNED: u16 = 1 << 0;
/// EFLAGS: explicit persistent connections are supported (bit 1).
pub const PERSISTENT_CONNECTION: u16 = 1 << 1;

/// One discovery log entry for NVMe/TCP (NVMe Base 2.0, 5.16.1.23; NVMe/TCP Transport 1.0, 3.1.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryEntry {
    /// Transport type: [`TRANSPORT_TCP`].
    pub transport: u8,
    /// See [`address_family`].
    pub address_family: u8,
    /// See [`discovery_subtype`].
    pub subtype: u8,
    /// TREQ.
    pub requirements: u8,
    /// Port of the subsystem.
    pub port_id: u16,
    /// Controller; FFFFh for the dynamic model.
    pub controller_id: u16,
    /// Largest admin queue, at least 32.
    pub admin_queue_size: u16,
    /// EFLAGS.
    pub flags: u16,
    /// TRSVCID: the TCP port in decimal.
    pub service: String,
    /// NQN of the subsystem.
    pub subsystem_nqn: String,
    /// TRADDR.
    pub address: String,
}

impl DiscoveryEntry {
    /// Into 1,024 bytes; the transport specific address says that there is no security (SECTYPE 0).
    pub fn encode(&self, bytes: &mut [u8]) {
        bytes[..DISCOVERY_ENTRY_SIZE].fill(0);
        bytes[0] = self.transport;
        bytes[1] = self.address_family;
        bytes[2] = self.subtype;
        bytes[3] = self.requirements;
        put_u16(bytes, 4, self.port_id);
        put_u16(bytes, 6, self.controller_id);
        put_u16(bytes, 8, self.admin_queue_size);
        put_u16(bytes, 10, self.flags);
        put_text(bytes, 32, 32, &self.service, b' ');
        put_text(bytes, 256, 256, &self.subsystem_nqn, 0);
        put_text(bytes, 512, 256, &self.address, b' ');
    }

    /// From 1,024 bytes; text that is not UTF-8 becomes empty.
    pub fn decode(bytes: &[u8]) -> Self {
        let text = |offset, size| get_text(bytes, offset, size).unwrap_or_default().to_owned();
        Self {
            transport: bytes[0],
            address_family: bytes[1],
            subtype: bytes[2],
            requirements: bytes[3],
            port_id: get_u16(bytes, 4),
            controller_id: get_u16(bytes, 6),
            admin_queue_size: get_u16(bytes, 8),
            flags: get_u16(bytes, 10),
            service: text(32, 32),
            subsystem_nqn: text(256, 256),
            address: text(512, 256),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discovery_entry_lies_where_the_standard_puts_it() {
        let entry = DiscoveryEntry {
            transport: TRANSPORT_TCP,
            address_family: address_family::IPV4,
            subtype: discovery_subtype::NVM,
            requirements: FLOW_CONTROL_OPTIONAL,
            port_id: 1,
            controller_id: 0xFFFF,
            admin_queue_size: 128,
            flags: DUPLICATE_RETURNED,
            service: "4420".into(),
            subsystem_nqn: "nqn.2026-11.io.polldm:a".into(),
            address: "127.0.0.1".into(),
        };
        let mut bytes = [0xFF; DISCOVERY_ENTRY_SIZE];
        entry.encode(&mut bytes);
        assert_eq!(bytes[..12], [3, 1, 2, 4, 1, 0, 0xFF, 0xFF, 128, 0, 1, 0]);
        assert_eq!(&bytes[32..38], b"4420  ");
        assert_eq!(&bytes[512..521], b"127.0.0.1");
        assert_eq!(DiscoveryEntry::decode(&bytes), entry);
        encode_discovery_header(&mut bytes, 7, 2);
        assert_eq!(decode_discovery_header(&bytes), (7, 2));
    }

    #[test]
    fn error_entry_and_smart_come_back() {
        let entry = ErrorEntry {
            error_count: 9,
            queue_id: 1,
            command_id: 2,
            status: Status::LBA_OUT_OF_RANGE,
            parameter: 0x28,
            lba: 77,
            nsid: 1,
            transport: TRANSPORT_TCP,
        };
        let mut bytes = [0xFF; ErrorEntry::SIZE];
        entry.encode(&mut bytes);
        assert_eq!(bytes[8..16], [1, 0, 2, 0, 0, 1, 0x28, 0]);
        assert_eq!(ErrorEntry::decode(&bytes), entry);

        let smart = Smart {
            temperature: 300,
            read_commands: 5,
            error_entries: 6,
            ..Smart::default()
        };
        let mut bytes = [0xFF; Smart::SIZE];
        smart.encode(&mut bytes);
        assert_eq!((bytes[1], bytes[2], bytes[64], bytes[176]), (44, 1, 5, 6));
        assert_eq!(Smart::decode(&bytes), smart);
        assert_eq!(
            (
                Smart::data_units(0),
                Smart::data_units(1),
                Smart::data_units(512_001)
            ),
            (0, 1, 2)
        );
    }

    #[test]
    fn lists_and_tables() {
        let mut bytes = [0xFF; 4096];
        encode_changed_namespaces(&mut bytes, &[1, 0x0203]);
        assert_eq!(bytes[..12], [1, 0, 0, 0, 3, 2, 0, 0, 0, 0, 0, 0]);
        encode_changed_namespaces(&mut bytes, &[5; 1025]);
        assert_eq!(bytes[..8], [0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]);
        encode_command_effects(&mut bytes, &[(0x06, effect::SUPPORTED)], &[(0x01, 3)]);
        assert_eq!((bytes[24], bytes[1024 + 4], bytes[0]), (1, 3, 0));
        let mut supported = [0; SUPPORTED_SIZE];
        encode_supported(&mut supported, &[page::DISCOVERY]);
        assert_eq!((supported[0x70 * 4], supported[0]), (1, 0));
        let mut slot = [0xFF; FIRMWARE_SLOT_SIZE];
        encode_firmware_slot(&mut slot, "0.1");
        assert_eq!(slot[..17], *b"\x01\0\0\0\0\0\0\x000.1     \0");
    }

    #[test]
    fn ana_page() {
        let mut bytes = [0xFF; 64];
        encode_ana_header(&mut bytes, 3, 1);
        assert_eq!(
            bytes[..16],
            [3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
        );
        let size = encode_ana_group(&mut bytes[16..], 1, 3, AnaState::Inaccessible, &[1, 9]);
        assert_eq!(size, 40);
        assert_eq!(
            bytes[16..40],
            [
                1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0
            ]
        );
        assert_eq!(bytes[48..56], [1, 0, 0, 0, 9, 0, 0, 0]);
    }
}
