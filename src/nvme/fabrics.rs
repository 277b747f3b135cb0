//! Fabrics commands and controller properties (NVMe Base 2.0, 6 and 3.1.3).

use super::bytes::{
    get_array, get_text, get_u16, get_u32, get_u64, put_text, put_u16, put_u32, put_u64,
};
use super::command::Command;
use super::opcode;
use super::status::Status;

/// Size of the data of a Connect command in bytes (6.3).
pub const CONNECT_DATA_SIZE: usize = 1024;

/// The controller identifier of a Connect that asks the target to choose (dynamic controller model).
pub const CONTROLLER_ID_DYNAMIC: u16 = 0xFFFF;

/// Offset of the controller identifier in the data of Connect, for [`invalid_parameter`].
pub const DATA_OFFSET_CONTROLLER_ID: u16 = 16;
/// Offset of the host identifier in the data of Connect.
pub const DATA_OFFSET_HOST_ID: u16 = 0;
/// Offset of the subsystem NQN in the data of Connect.
pub const DATA_OFFSET_SUBSYSTEM_NQN: u16 = 256;
/// Offset of the host NQN in the data of Connect.
pub const DATA_OFFSET_HOST_NQN: u16 = 512;
/// Offset of the queue identifier in a Connect command, for [`invalid_parameter`].
pub const COMMAND_OFFSET_QUEUE_ID: u16 = 42;
/// Offset of the queue size in a Connect command.
pub const COMMAND_OFFSET_QUEUE_SIZE: u16 = 44;

/// The result of a Connect that fails with "connect invalid parameters": which field, in the command or
/// in its data (6.3).
pub const fn invalid_parameter(offset: u16, in_data: bool) -> u64 {
    offset as u64 | (in_data as u64) << 16
}

/// The fields of a Connect command (6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Record format; 0 is the only one.
    pub record_format: u16,
    /// 0 is the admin queue.
    pub queue_id: u16,
    /// Submission queue entries minus one.
    pub queue_size: u16,
    /// Attributes: bits 1:0 priority class, bit 2 no flow control, bit 3 queues deleted one by one.
    pub attributes: u8,
    /// Keep alive timeout in milliseconds; 0 for none. Admin queue only.
    pub keep_alive_ms: u32,
}

impl Connect {
    /// Attribute: submission queue flow control is off.
    pub const ATTRIBUTE_NO_FLOW_CONTROL: u8 = 1 << 2;

    /// From a command that is a Connect.
    pub fn decode(command: &Command) -> Self {
        let bytes = &command.0;
        Self {
            record_format: get_u16(bytes, 40),
            queue_id: get_u16(bytes, 42),
            queue_size: get_u16(bytes, 44),
            attributes: bytes[46],
            keep_alive_ms: get_u32(bytes, 48),
        }
    }

    /// The command, without its data pointer.
    pub fn encode(&self) -> Command {
        let mut command = fabrics_command(opcode::fabrics::CONNECT);
        put_u16(&mut command.0, 40, self.record_format);
        put_u16(&mut command.0, 42, self.queue_id);
        put_u16(&mut command.0, 44, self.queue_size);
        command.0[46] = self.attributes;
        put_u32(&mut command.0, 48, self.keep_alive_ms);
        command
    }
}

/// A fabrics command of this type with all else zero.
pub fn fabrics_command(fabrics_type: u8) -> Command {
    let mut command = Command::new(opcode::FABRICS, 0);
    command.0[4] = fabrics_type;
    command
}

/// The data of a Connect command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectData<'a> {
    /// Host identifier.
    pub host_id: [u8; 16],
    /// Controller asked for; [`CONTROLLER_ID_DYNAMIC`] on the admin queue of a dynamic controller.
    pub controller_id: u16,
    /// Subsystem NQN.
    pub subsystem_nqn: &'a str,
    /// Host NQN. Empty from hosts that give themselves no name (`spdk_nvme_perf` unless told): no list of hosts has it, but
    /// a subsystem for any host need not refuse them.
    pub host_nqn: &'a str,
}

impl<'a> ConnectData<'a> {
    /// From [`CONNECT_DATA_SIZE`] bytes.
    ///
    /// # Errors
    ///
    /// "Connect invalid parameters" with the result that names the field, where an NQN is not terminated,
    /// not UTF-8 or too long.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, (Status, u64)> {
        let nqn = |offset: u16, size_min: usize| {
            let field = &bytes[usize::from(offset)..usize::from(offset) + 256];
            let size = field.iter().position(|&byte| byte == 0);
            size.filter(|size| (size_min..=super::NQN_SIZE_MAX).contains(size))
                .and_then(|size| get_text(field, 0, size))
                .ok_or((
                    Status::CONNECT_INVALID_PARAMETERS.do_not_retry(),
                    invalid_parameter(offset, true),
                ))
        };
        Ok(Self {
            host_id: get_array(bytes, 0),
            controller_id: get_u16(bytes, 16),
            subsystem_nqn: nqn(DATA_OFFSET_SUBSYSTEM_NQN, 1)?,
            host_nqn: nqn(DATA_OFFSET_HOST_NQN, 0)?,
        })
    }

    /// The 1,024 bytes; NQNs longer than 255 bytes are cut.
    pub fn encode(&self) -> [u8; CONNECT_DATA_SIZE] {
        let mut bytes = [0; CONNECT_DATA_SIZE];
        bytes[..16].copy_from_slice(&self.host_id);
        put_u16(&mut bytes, 16, self.controller_id);
        put_text(
            &mut bytes,
            usize::from(DATA_OFFSET_SUBSYSTEM_NQN),
            255,
            self.subsystem_nqn,
            0,
        );
        put_text(
            &mut bytes,
            usize::from(DATA_OFFSET_HOST_NQN),
            255,
            self.host_nqn,
            0,
        );
        bytes
    }
}

/// Size of a property as Property Get and Set name it (bits 02:00 of ATTRIB).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropertySize {
    /// Four bytes.
    Four,
    /// Eight bytes.
    Eight,
}

/// A Property Get or Property Set (6.5, 6.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PropertyAccess {
    /// Size; `None` when the size code is reserved.
    pub size: Option<PropertySize>,
    /// Offset of the property: see [`property`].
    pub offset: u32,
    /// Value to set; for a Get zero.
    pub value: u64,
}

impl PropertyAccess {
    /// From a command that is a Property Get or Set.
    pub fn decode(command: &Command) -> Self {
        let size = match command.0[40] & 7 {
            0 => Some(PropertySize::Four),
            1 => Some(PropertySize::Eight),
            _ => None,
        };
        Self {
            size,
            offset: get_u32(&command.0, 44),
            value: get_u64(&command.0, 48),
        }
    }

    /// A Property Get.
    pub fn get(offset: u32, size: PropertySize) -> Command {
        Self::command(opcode::fabrics::PROPERTY_GET, offset, size, 0)
    }

    /// A Property Set.
    pub fn set(offset: u32, size: PropertySize, value: u64) -> Command {
        Self::command(opcode::fabrics::PROPERTY_SET, offset, size, value)
    }

    fn command(fabrics_type: u8, offset: u32, size: PropertySize, value: u64) -> Command {
        let mut command = fabrics_command(fabrics_type);
        command.0[40] = u8::from(size == PropertySize::Eight);
        put_u32(&mut command.0, 44, offset);
        put_u64(&mut command.0, 48, value);
        command
    }
}

/// Offsets of controller properties (NVMe Base 2.0, 3.1.3).
pub mod property {
    /// Controller Capabilities, 8 bytes.
    pub const CAPABILITIES: u32 = 0x00;
    /// Version, 4 bytes.
    pub const VERSION: u32 = 0x08;
    /// Controller Configuration, 4 bytes.
    pub const CONFIGURATION: u32 = 0x14;
    /// Controller Status, 4 bytes.
    pub const STATUS: u32 = 0x1C;
    /// NVM Subsystem Reset, 4 bytes.
    pub const SUBSYSTEM_RESET: u32 = 0x20;
    /// Controller Ready Timeouts, 4 bytes.
    pub const READY_TIMEOUTS: u32 = 0x68;
}

/// CAP (NVMe Base 2.0, 3.1.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// MQES: entries of the largest queue, 2 to 65,536 (0's based on the wire).
    pub queue_entries_max: u32,
    /// CQR: queues are contiguous; required of fabrics.
    pub contiguous_queues: bool,
    /// TO: the longest a change of CC.EN takes, in 500 ms.
    pub timeout_half_seconds: u8,
    /// CSS: bit 0 NVM command set, bit 6 command sets by Identify (CNS 1Ch), bit 7 none.
    pub command_sets: u8,
    /// MPSMIN and MPSMAX: page size is 2^(12 + this).
    pub page_size_min: u8,
    /// See `page_size_min`.
    pub page_size_max: u8,
    /// CRMS bits 1:0: controller ready modes; bit 0 "ready with media".
    pub ready_modes: u8,
}

impl Capabilities {
    /// CSS bit: NVM command set.
    pub const COMMAND_SET_NVM: u8 = 1 << 0;
    /// CSS bit: one or more command sets, told by Identify.
    pub const COMMAND_SET_BY_IDENTIFY: u8 = 1 << 6;

    /// From the property.
    pub const fn decode(bits: u64) -> Self {
        Self {
            queue_entries_max: (bits & 0xFFFF) as u32 + 1,
            contiguous_queues: bits >> 16 & 1 != 0,
            timeout_half_seconds: (bits >> 24) as u8,
            command_sets: (bits >> 37) as u8,
            page_size_min: (bits >> 48 & 0xF) as u8,
            page_size_max: (bits >> 52 & 0xF) as u8,
            ready_modes: (bits >> 59 & 3) as u8,
        }
    }

    /// As the property.
    pub const fn encode(self) -> u64 {
        (self.queue_entries_max as u64 - 1) & 0xFFFF
            | (self.contiguous_queues as u64) << 16
            | (self.timeout_half_seconds as u64) << 24
            | (self.command_sets as u64) << 37
            | (self.page_size_min as u64 & 0xF) << 48
            | (self.page_size_max as u64 & 0xF) << 52
            | (self.ready_modes as u64 & 3) << 59
    }
}

/// CC (NVMe Base 2.0, 3.1.3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Configuration(pub u32);

impl Configuration {
    /// What an initiator writes to enable: 64-byte submission and 16-byte completion entries, NVM
    /// command set, 4 KiB pages.
    pub const ENABLE: Self = Self(1 | 6 << 16 | 4 << 20);

    /// EN.
    pub const fn is_enabled(self) -> bool {
        self.0 & 1 != 0
    }

    /// CSS: 000b NVM, 110b all supported, 111b admin only.
    pub const fn command_set(self) -> u8 {
        (self.0 >> 4 & 7) as u8
    }

    /// MPS: page size is 2^(12 + this).
    pub const fn page_size(self) -> u8 {
        (self.0 >> 7 & 0xF) as u8
    }

    /// AMS: arbitration mechanism.
    pub const fn arbitration(self) -> u8 {
        (self.0 >> 11 & 7) as u8
    }

    /// SHN: 00b none, 01b normal shutdown, 10b abrupt shutdown.
    pub const fn shutdown(self) -> u8 {
        (self.0 >> 14 & 3) as u8
    }

    /// IOSQES: submission entry size is 2^this.
    pub const fn submission_entry_size(self) -> u8 {
        (self.0 >> 16 & 0xF) as u8
    }

    /// IOCQES: completion entry size is 2^this.
    pub const fn completion_entry_size(self) -> u8 {
        (self.0 >> 20 & 0xF) as u8
    }

    /// The same with this shutdown notification.
    pub const fn with_shutdown(self, shutdown: u8) -> Self {
        Self(self.0 & !(3 << 14) | (shutdown as u32 & 3) << 14)
    }
}

/// CSTS (NVMe Base 2.0, 3.1.3.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ControllerStatus {
    /// RDY.
    pub ready: bool,
    /// CFS: fatal; the host is to reset the controller.
    pub fatal: bool,
    /// SHST: 00b normal operation, 01b shutting down, 10b shut down.
    pub shutdown: u8,
}

impl ControllerStatus {
    /// SHST: shutdown complete.
    pub const SHUTDOWN_COMPLETE: u8 = 2;

    /// From the property.
    pub const fn decode(bits: u32) -> Self {
        Self {
            ready: bits & 1 != 0,
            fatal: bits & 2 != 0,
            shutdown: (bits >> 2 & 3) as u8,
        }
    }

    /// As the property.
    pub const fn encode(self) -> u32 {
        self.ready as u32 | (self.fatal as u32) << 1 | (self.shutdown as u32 & 3) << 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_fields_lie_where_the_standard_puts_them() {
        let connect = Connect {
            record_format: 0,
            queue_id: 3,
            queue_size: 127,
            attributes: Connect::ATTRIBUTE_NO_FLOW_CONTROL,
            keep_alive_ms: 5000,
        };
        let command = connect.encode();
        assert_eq!((command.opcode(), command.fabrics_type()), (0x7F, 0x01));
        assert_eq!(
            command.0[40..52],
            [0, 0, 3, 0, 127, 0, 4, 0, 0x88, 0x13, 0, 0]
        );
        assert_eq!(Connect::decode(&command), connect);
    }

    #[test]
    fn connect_data_comes_back_and_bad_names_are_refused() {
        let data = ConnectData {
            host_id: *b"0123456789abcdef",
            controller_id: CONTROLLER_ID_DYNAMIC,
            subsystem_nqn: "nqn.2026-11.io.polldm:a",
            host_nqn: "nqn.2026-11.io.polldm:host",
        };
        let bytes = data.encode();
        assert_eq!(&bytes[256..260], b"nqn.");
        assert_eq!(&bytes[16..18], &[0xFF, 0xFF]);
        assert_eq!(ConnectData::decode(&bytes), Ok(data));
        let refused = |offset: u64| {
            Err((
                Status::CONNECT_INVALID_PARAMETERS.do_not_retry(),
                offset | 1 << 16,
            ))
        };
        let mut unterminated = bytes;
        unterminated[256..512].fill(b'a');
        assert_eq!(ConnectData::decode(&unterminated), refused(256));
        let mut not_text = bytes;
        not_text[512] = 0xFF;
        assert_eq!(ConnectData::decode(&not_text), refused(512));
        let mut empty = bytes;
        empty[256] = 0;
        assert_eq!(ConnectData::decode(&empty), refused(256));
        let mut nameless = bytes;
        nameless[512] = 0;
        assert_eq!(
            ConnectData::decode(&nameless).map(|data| data.host_nqn),
            Ok("")
        );
    }

    #[test]
    fn property_access() {
        let command = PropertyAccess::set(property::CONFIGURATION, PropertySize::Four, 0x46_0001);
        assert_eq!(
            command.0[40..56],
            [0, 0, 0, 0, 0x14, 0, 0, 0, 1, 0, 0x46, 0, 0, 0, 0, 0]
        );
        let access = PropertyAccess::decode(&PropertyAccess::get(
            property::CAPABILITIES,
            PropertySize::Eight,
        ));
        assert_eq!(
            access,
            PropertyAccess {
                size: Some(PropertySize::Eight),
                offset: 0,
                value: 0
            }
        );
        let mut reserved = command;
        reserved.0[40] = 2;
        assert_eq!(PropertyAccess::decode(&reserved).size, None);
    }

    #[test]
    fn properties() {
        let capabilities = Capabilities {
            queue_entries_max: 1024,
            contiguous_queues: true,
            timeout_half_seconds: 15,
            command_sets: Capabilities::COMMAND_SET_NVM | Capabilities::COMMAND_SET_BY_IDENTIFY,
            page_size_min: 0,
            page_size_max: 0,
            ready_modes: 1,
        };
        assert_eq!(capabilities.encode(), 0x0800_0820_0F01_03FF);
        assert_eq!(Capabilities::decode(capabilities.encode()), capabilities);
        assert_eq!(Configuration::ENABLE.0, 0x0046_0001);
        assert_eq!(Configuration::ENABLE.submission_entry_size(), 6);
        assert_eq!(Configuration::ENABLE.completion_entry_size(), 4);
        assert_eq!(Configuration::ENABLE.with_shutdown(1).shutdown(), 1);
        let status = ControllerStatus {
            ready: true,
            fatal: false,
            shutdown: 2,
        };
        assert_eq!(status.encode(), 0b1001);
        assert_eq!(ControllerStatus::decode(0b1001), status);
    }
}
