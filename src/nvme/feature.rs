//! Feature identifiers and the values of those that polldm knows (NVMe Base 2.0, 5.27.1).

/// Arbitration (01h).
pub const ARBITRATION: u8 = 0x01;
/// Power Management (02h).
pub const POWER_MANAGEMENT: u8 = 0x02;
/// Temperature Threshold (04h).
pub const TEMPERATURE_THRESHOLD: u8 = 0x04;
/// Error Recovery (05h; NVM Command Set 1.0, 4.1.3.2).
pub const ERROR_RECOVERY: u8 = 0x05;
/// Volatile Write Cache (06h).
pub const VOLATILE_WRITE_CACHE: u8 = 0x06;
/// Number of Queues (07h).
pub const NUMBER_OF_QUEUES: u8 = 0x07;
/// Interrupt Coalescing (08h): not for fabrics.
pub const INTERRUPT_COALESCING: u8 = 0x08;
/// Interrupt Vector Configuration (09h): not for fabrics.
pub const INTERRUPT_VECTOR: u8 = 0x09;
/// Write Atomicity Normal (0Ah; NVM Command Set 1.0, 4.1.3.3).
pub const WRITE_ATOMICITY: u8 = 0x0A;
/// Asynchronous Event Configuration (0Bh).
pub const ASYNC_EVENT_CONFIGURATION: u8 = 0x0B;
/// Timestamp (0Eh).
pub const TIMESTAMP: u8 = 0x0E;
/// Keep Alive Timer (0Fh).
pub const KEEP_ALIVE_TIMER: u8 = 0x0F;
/// Host Behavior Support (16h).
pub const HOST_BEHAVIOR: u8 = 0x16;
/// I/O Command Set Profile (19h).
pub const COMMAND_SET_PROFILE: u8 = 0x19;
/// Host Identifier (81h).
pub const HOST_IDENTIFIER: u8 = 0x81;
/// Reservation Notification Mask (82h).
pub const RESERVATION_MASK: u8 = 0x82;
/// Reservation Persistence (83h).
pub const RESERVATION_PERSISTENCE: u8 = 0x83;
/// Namespace Write Protection Config (84h).
pub const WRITE_PROTECTION: u8 = 0x84;

/// What Get Features asks for: bits 10:08 of command dword 10 (NVMe Base 2.0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Select {
    /// The value in force.
    Current,
    /// The value after a reset.
    Default,
    /// The value that was saved.
    Saved,
    /// Whether the feature can be changed and saved: see [`capabilities`].
    Capabilities,
    /// A reserved selector.
    Reserved(u8),
}

impl Select {
    /// From command dword 10 of Get Features.
    pub const fn from_dword10(dword10: u32) -> Self {
        match (dword10 >> 8 & 7) as u8 {
            0 => Self::Current,
            1 => Self::Default,
            2 => Self::Saved,
            3 => Self::Capabilities,
            other => Self::Reserved(other),
        }
    }
}

/// The answer to [`Select::Capabilities`] (NVMe Base 2.0).
pub const fn capabilities(saveable: bool, namespace_specific: bool, changeable: bool) -> u32 {
    saveable as u32 | (namespace_specific as u32) << 1 | (changeable as u32) << 2
}

/// Number of Queues: submission and completion queues asked for or granted (1 to 65,535 each; both
/// halves are 0's based on the wire; NVMe Base 2.0, 5.27.1.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueCounts {
    /// I/O submission queues.
    pub submission: u32,
    /// I/O completion queues.
    pub completion: u32,
}

impl QueueCounts {
    /// From command dword 11 or completion dword 0; 65,536 (FFFFh) is one more than the standard allows.
    pub const fn decode(dword: u32) -> Self {
        Self {
            submission: (dword & 0xFFFF) + 1,
            completion: (dword >> 16) + 1,
        }
    }

    /// As command dword 11 or completion dword 0. Counts are clamped to what the field can say.
    pub fn encode(self) -> u32 {
        let field = |count: u32| count.clamp(1, 0x1_0000) - 1;
        field(self.submission) | field(self.completion) << 16
    }
}

/// Asynchronous Event Configuration: namespace attribute notices (bit 8).
pub const EVENT_NAMESPACE_ATTRIBUTE: u32 = 1 << 8;
/// Asynchronous Event Configuration: firmware activation notices (bit 9).
pub const EVENT_FIRMWARE_ACTIVATION: u32 = 1 << 9;
/// Asynchronous Event Configuration: ANA change notices (bit 11).
pub const EVENT_ANA_CHANGE: u32 = 1 << 11;
/// Asynchronous Event Configuration: discovery log page change notices (bit 31).
pub const EVENT_DISCOVERY_CHANGE: u32 = 1 << 31;

/// What an Asynchronous Event Request tells when it completes (NVMe Base 2.0, 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncEvent {
    /// Event type: 0 error, 1 SMART, 2 notice, 6 I/O command set, 7 vendor.
    pub event_type: u8,
    /// Meaning depends on the type.
    pub information: u8,
    /// The log page to read, which also clears the event.
    pub log_page: u8,
}

impl AsyncEvent {
    /// Notice: a namespace was added, removed or changed; read the changed namespace list.
    pub const NAMESPACE_ATTRIBUTE: Self = Self {
        event_type: 2,
        information: 0x00,
        log_page: 0x04,
    };
    /// Notice: an ANA state changed; read the ANA log page.
    pub const ANA_CHANGE: Self = Self {
        event_type: 2,
        information: 0x03,
        log_page: 0x0C,
    };
    /// Notice: the discovery log page changed.
    pub const DISCOVERY_CHANGE: Self = Self {
        event_type: 2,
        information: 0xF0,
        log_page: 0x70,
    };

    /// From completion dword 0.
    pub const fn decode(dword: u32) -> Self {
        Self {
            event_type: dword as u8 & 7,
            information: (dword >> 8) as u8,
            log_page: (dword >> 16) as u8,
        }
    }

    /// As completion dword 0.
    pub const fn encode(self) -> u32 {
        self.event_type as u32 | (self.information as u32) << 8 | (self.log_page as u32) << 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_counts_are_zeroes_based() {
        assert_eq!(
            QueueCounts {
                submission: 8,
                completion: 4
            }
            .encode(),
            0x0003_0007
        );
        assert_eq!(
            QueueCounts::decode(0x0003_0007),
            QueueCounts {
                submission: 8,
                completion: 4
            }
        );
        assert_eq!(
            QueueCounts {
                submission: 0,
                completion: 1 << 20
            }
            .encode(),
            0xFFFF_0000
        );
    }

    #[test]
    fn events_name_their_log_page() {
        assert_eq!(AsyncEvent::NAMESPACE_ATTRIBUTE.encode(), 0x0004_0002);
        assert_eq!(AsyncEvent::ANA_CHANGE.encode(), 0x000C_0302);
        assert_eq!(AsyncEvent::DISCOVERY_CHANGE.encode(), 0x0070_F002);
        assert_eq!(AsyncEvent::decode(0x000C_0302), AsyncEvent::ANA_CHANGE);
    }

    #[test]
    fn selectors() {
        assert_eq!(Select::from_dword10(0x0000_0006), Select::Current);
        assert_eq!(Select::from_dword10(0x0000_0306), Select::Capabilities);
        assert_eq!(Select::from_dword10(0x0000_0506), Select::Reserved(5));
        assert_eq!(capabilities(false, true, true), 6);
    }
}
