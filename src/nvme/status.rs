//! Status codes: the upper half of the last word of a completion (NVMe Base 2.0, 3.3.3.2.1).

use std::fmt;

/// The status field of a completion as it lies in bytes 15:14, with the phase bit (bit 0) clear.
///
/// Bits 08:01 are the status code, 11:09 its type, 13:12 the retry delay, 14 "more information in the
/// error log", 15 "do not retry" (NVMe Base 2.0, 3.3.3.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Status(u16);

/// Status code type 0h: generic command status.
pub const TYPE_GENERIC: u8 = 0;
/// Status code type 1h: command specific status.
pub const TYPE_COMMAND: u8 = 1;
/// Status code type 2h: media and data integrity errors.
pub const TYPE_MEDIA: u8 = 2;
/// Status code type 3h: path related status.
pub const TYPE_PATH: u8 = 3;

const DO_NOT_RETRY: u16 = 1 << 15;
const MORE: u16 = 1 << 14;
const CODE_AND_TYPE: u16 = 0x0FFE;

impl Status {
    /// A status of this type (0 to 7) and code, to be retried if the host likes.
    pub const fn new(code_type: u8, code: u8) -> Self {
        Self(((code_type & 7) as u16) << 9 | (code as u16) << 1)
    }

    /// From bytes 15:14 of a completion; the phase bit is dropped.
    #[inline]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits & !1)
    }

    /// Bytes 15:14 of a completion, with the phase bit clear.
    #[inline]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Status code type, 0 to 7.
    pub const fn code_type(self) -> u8 {
        (self.0 >> 9 & 7) as u8
    }

    /// Status code within its type.
    pub const fn code(self) -> u8 {
        (self.0 >> 1) as u8
    }

    /// The same with "do not retry" set.
    pub const fn do_not_retry(self) -> Self {
        Self(self.0 | DO_NOT_RETRY)
    }

    /// Whether "do not retry" is set.
    pub const fn is_do_not_retry(self) -> bool {
        self.0 & DO_NOT_RETRY != 0
    }

    /// The same with "more" set: the error log has an entry for this command.
    pub const fn more(self) -> Self {
        Self(self.0 | MORE)
    }

    /// Whether "more" is set.
    pub const fn is_more(self) -> bool {
        self.0 & MORE != 0
    }

    /// Whether the command succeeded.
    #[inline]
    pub const fn is_success(self) -> bool {
        self.0 & CODE_AND_TYPE == 0
    }

    /// Whether type and code are `other`'s, whatever the remaining bits are.
    pub const fn is(self, other: Status) -> bool {
        self.0 & CODE_AND_TYPE == other.0 & CODE_AND_TYPE
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let retry = if self.is_do_not_retry() {
            ", do not retry"
        } else {
            ""
        };
        let name = self.name().unwrap_or("unknown status");
        write!(
            f,
            "{name} (type {:X}h, code {:02X}h{retry})",
            self.code_type(),
            self.code()
        )
    }
}

macro_rules! statuses {
    ($($name:ident = $code_type:expr, $code:expr, $text:expr;)*) => {
        impl Status {
            $(#[doc = concat!("\"", $text, "\": type ", stringify!($code_type), ", code ", stringify!($code), ".")]
            pub const $name: Status = Status::new($code_type, $code);)*

            /// What the standard calls this status. Command specific codes from 80h on are told by the
            /// command: [`Status::name`] gives the I/O command's meaning, [`fabrics_name`] Connect's.
            pub const fn name(self) -> Option<&'static str> {
                match (self.code_type(), self.code()) {
                    $(($code_type, $code) => Some($text),)*
                    _ => None,
                }
            }
        }

        #[cfg(test)]
        const ALL: &[(Status, u8, u8)] = &[$((Status::$name, $code_type, $code)),*];
    };
}

// NVMe Base 2.0, 3.3.3.2.1; NVM Command Set 1.0, 3.1.2.
statuses! {
    SUCCESS = 0, 0x00, "success";
    INVALID_OPCODE = 0, 0x01, "invalid command opcode";
    INVALID_FIELD = 0, 0x02, "invalid field in command";
    COMMAND_ID_CONFLICT = 0, 0x03, "command id conflict";
    DATA_TRANSFER_ERROR = 0, 0x04, "data transfer error";
    ABORTED_POWER_LOSS = 0, 0x05, "commands aborted due to power loss notification";
    INTERNAL_ERROR = 0, 0x06, "internal error";
    ABORT_REQUESTED = 0, 0x07, "command abort requested";
    ABORTED_QUEUE_DELETION = 0, 0x08, "command aborted due to queue deletion";
    ABORTED_FAILED_FUSED = 0, 0x09, "command aborted due to failed fused command";
    ABORTED_MISSING_FUSED = 0, 0x0A, "command aborted due to missing fused command";
    INVALID_NAMESPACE = 0, 0x0B, "invalid namespace or format";
    COMMAND_SEQUENCE_ERROR = 0, 0x0C, "command sequence error";
    INVALID_SGL_SEGMENT = 0, 0x0D, "invalid SGL segment descriptor";
    INVALID_SGL_COUNT = 0, 0x0E, "invalid number of SGL descriptors";
    DATA_SGL_LENGTH_INVALID = 0, 0x0F, "data SGL length invalid";
    METADATA_SGL_LENGTH_INVALID = 0, 0x10, "metadata SGL length invalid";
    SGL_TYPE_INVALID = 0, 0x11, "SGL descriptor type invalid";
    ATOMIC_WRITE_UNIT_EXCEEDED = 0, 0x14, "atomic write unit exceeded";
    OPERATION_DENIED = 0, 0x15, "operation denied";
    SGL_OFFSET_INVALID = 0, 0x16, "SGL offset invalid";
    HOST_ID_INCONSISTENT = 0, 0x18, "host identifier inconsistent format";
    KEEP_ALIVE_EXPIRED = 0, 0x19, "keep alive timer expired";
    KEEP_ALIVE_INVALID = 0, 0x1A, "keep alive timeout invalid";
    ABORTED_PREEMPT = 0, 0x1B, "command aborted due to preempt and abort";
    SANITIZE_FAILED = 0, 0x1C, "sanitize failed";
    SANITIZE_IN_PROGRESS = 0, 0x1D, "sanitize in progress";
    SGL_GRANULARITY_INVALID = 0, 0x1E, "SGL data block granularity invalid";
    NAMESPACE_WRITE_PROTECTED = 0, 0x20, "namespace is write protected";
    COMMAND_INTERRUPTED = 0, 0x21, "command interrupted";
    TRANSIENT_TRANSPORT_ERROR = 0, 0x22, "transient transport error";
    LBA_OUT_OF_RANGE = 0, 0x80, "LBA out of range";
    CAPACITY_EXCEEDED = 0, 0x81, "capacity exceeded";
    NAMESPACE_NOT_READY = 0, 0x82, "namespace not ready";
    RESERVATION_CONFLICT = 0, 0x83, "reservation conflict";
    FORMAT_IN_PROGRESS = 0, 0x84, "format in progress";

    COMPLETION_QUEUE_INVALID = 1, 0x00, "completion queue invalid";
    INVALID_QUEUE_ID = 1, 0x01, "invalid queue identifier";
    INVALID_QUEUE_SIZE = 1, 0x02, "invalid queue size";
    ABORT_LIMIT_EXCEEDED = 1, 0x03, "abort command limit exceeded";
    ASYNC_EVENT_LIMIT_EXCEEDED = 1, 0x05, "asynchronous event request limit exceeded";
    INVALID_FIRMWARE_SLOT = 1, 0x06, "invalid firmware slot";
    INVALID_FIRMWARE_IMAGE = 1, 0x07, "invalid firmware image";
    INVALID_INTERRUPT_VECTOR = 1, 0x08, "invalid interrupt vector";
    INVALID_LOG_PAGE = 1, 0x09, "invalid log page";
    INVALID_FORMAT = 1, 0x0A, "invalid format";
    INVALID_QUEUE_DELETION = 1, 0x0C, "invalid queue deletion";
    FEATURE_NOT_SAVEABLE = 1, 0x0D, "feature identifier not saveable";
    FEATURE_NOT_CHANGEABLE = 1, 0x0E, "feature not changeable";
    FEATURE_NOT_NAMESPACE_SPECIFIC = 1, 0x0F, "feature not namespace specific";
    NAMESPACE_INSUFFICIENT_CAPACITY = 1, 0x15, "namespace insufficient capacity";
    NAMESPACE_ID_UNAVAILABLE = 1, 0x16, "namespace identifier unavailable";
    NAMESPACE_ALREADY_ATTACHED = 1, 0x18, "namespace already attached";
    NAMESPACE_IS_PRIVATE = 1, 0x19, "namespace is private";
    NAMESPACE_NOT_ATTACHED = 1, 0x1A, "namespace not attached";
    THIN_PROVISIONING_NOT_SUPPORTED = 1, 0x1B, "thin provisioning not supported";
    CONTROLLER_LIST_INVALID = 1, 0x1C, "controller list invalid";
    INVALID_CONTROLLER_ID = 1, 0x1F, "invalid controller identifier";
    COMMAND_SET_NOT_SUPPORTED = 1, 0x29, "I/O command set not supported";
    COMMAND_SET_NOT_ENABLED = 1, 0x2A, "I/O command set not enabled";
    COMMAND_SET_COMBINATION_REJECTED = 1, 0x2B, "I/O command set combination rejected";
    INVALID_COMMAND_SET = 1, 0x2C, "invalid I/O command set";
    CONFLICTING_ATTRIBUTES = 1, 0x80, "conflicting attributes";
    INVALID_PROTECTION_INFORMATION = 1, 0x81, "invalid protection information";
    WRITE_TO_READ_ONLY_RANGE = 1, 0x82, "attempted write to read only range";
    COMMAND_SIZE_LIMIT_EXCEEDED = 1, 0x83, "command size limit exceeded";

    WRITE_FAULT = 2, 0x80, "write fault";
    UNRECOVERED_READ_ERROR = 2, 0x81, "unrecovered read error";
    GUARD_CHECK_ERROR = 2, 0x82, "end-to-end guard check error";
    APPLICATION_TAG_CHECK_ERROR = 2, 0x83, "end-to-end application tag check error";
    REFERENCE_TAG_CHECK_ERROR = 2, 0x84, "end-to-end reference tag check error";
    COMPARE_FAILURE = 2, 0x85, "compare failure";
    ACCESS_DENIED = 2, 0x86, "access denied";
    DEALLOCATED_OR_UNWRITTEN = 2, 0x87, "deallocated or unwritten logical block";

    INTERNAL_PATH_ERROR = 3, 0x00, "internal path error";
    ANA_PERSISTENT_LOSS = 3, 0x01, "asymmetric access persistent loss";
    ANA_INACCESSIBLE = 3, 0x02, "asymmetric access inaccessible";
    ANA_TRANSITION = 3, 0x03, "asymmetric access transition";
    CONTROLLER_PATHING_ERROR = 3, 0x60, "controller pathing error";
    HOST_PATHING_ERROR = 3, 0x70, "host pathing error";
    ABORTED_BY_HOST = 3, 0x71, "command aborted by host";
}

macro_rules! fabrics_statuses {
    ($($name:ident = $code:expr, $text:expr;)*) => {
        impl Status {
            $(#[doc = concat!("Fabrics: \"", $text, "\": type 1, code ", stringify!($code), ".")]
            pub const $name: Status = Status::new(TYPE_COMMAND, $code);)*
        }

        /// What the standard calls a status that answers a fabrics command, whose command specific
        /// codes share their numbers with those of I/O commands.
        pub const fn fabrics_name(status: Status) -> Option<&'static str> {
            match (status.code_type(), status.code()) {
                $((TYPE_COMMAND, $code) => Some($text),)*
                _ => status.name(),
            }
        }
    };
}

// NVMe Base 2.0, 3.3.3.2.1 (fabrics command specific).
fabrics_statuses! {
    CONNECT_INCOMPATIBLE_FORMAT = 0x80, "incompatible format";
    CONNECT_CONTROLLER_BUSY = 0x81, "controller busy";
    CONNECT_INVALID_PARAMETERS = 0x82, "connect invalid parameters";
    CONNECT_RESTART_DISCOVERY = 0x83, "connect restart discovery";
    CONNECT_INVALID_HOST = 0x84, "connect invalid host";
    DISCONNECT_INVALID_QUEUE_TYPE = 0x85, "invalid queue type";
    DISCOVER_RESTART = 0x90, "discover restart";
    AUTHENTICATION_REQUIRED = 0x91, "authentication required";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_lie_where_the_standard_puts_them() {
        assert_eq!(Status::INVALID_FIELD.do_not_retry().bits(), 0x8004);
        assert_eq!(Status::COMPARE_FAILURE.bits(), 0x050A);
        assert_eq!(Status::ANA_INACCESSIBLE.bits(), 0x0604);
        assert_eq!(
            Status::CONNECT_INVALID_PARAMETERS.do_not_retry().bits(),
            0x8304
        );
        assert_eq!(Status::INVALID_FIELD.more().bits(), 0x4004);
        assert_eq!(Status::from_bits(0x0001), Status::SUCCESS);
    }

    #[test]
    fn every_status_keeps_type_and_code_and_has_a_name() {
        for &(status, code_type, code) in ALL {
            assert_eq!((status.code_type(), status.code()), (code_type, code));
            assert_eq!(status.is_success(), code_type == 0 && code == 0);
            assert!(status.name().is_some());
            assert!(status.do_not_retry().is(status));
            assert!(status.do_not_retry().is_do_not_retry() && !status.is_do_not_retry());
        }
        assert_eq!(Status::new(7, 0xFF).name(), None);
        assert_eq!(
            fabrics_name(Status::CONNECT_INVALID_HOST),
            Some("connect invalid host")
        );
        assert_eq!(
            fabrics_name(Status::INVALID_FIELD),
            Status::INVALID_FIELD.name()
        );
    }

    #[test]
    fn text_says_name_numbers_and_retry() {
        let text = Status::LBA_OUT_OF_RANGE.do_not_retry().to_string();
        assert_eq!(text, "LBA out of range (type 0h, code 80h, do not retry)");
    }
}
