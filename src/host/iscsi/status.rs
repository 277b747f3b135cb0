//! How a command ends: status (SAM-5, 5.3) and sense data (SPC-4, 4.5), in 32 bits.

use crate::scsi::sense::{Code, Key};
use std::fmt;

/// A status and, with CHECK CONDITION, what its sense data says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandStatus(u32);

impl CommandStatus {
    /// The command did what it was asked.
    pub const GOOD: Self = Self(0x00);

    /// Our own word: data came whose digest does not match. Statuses of SCSI are even numbers.
    pub const DATA_DIGEST: Self = Self(0x01);

    /// Our own word: the target could not carry the command out (response 01h; RFC 7143, 11.4.3).
    pub const TARGET_FAILURE: Self = Self(0x03);

    /// Our own word: the command ended well, but without all of its data.
    pub const SHORT: Self = Self(0x05);

    /// A status, and the sense data that came with it.
    pub fn new(status: u8, sense: &[u8]) -> Self {
        // Fixed format, current and deferred; descriptor format, current and deferred (SPC-4, table 26).
        let place = match sense.first().map(|first| first & 0x7F) {
            Some(0x70 | 0x71) => [2, 12, 13],
            Some(0x72 | 0x73) => [1, 2, 3],
            _ => return Self(u32::from(status)),
        };
        let [key, code, qualifier] = place.map(|at| sense.get(at).copied().unwrap_or(0));
        Self(u32::from_be_bytes([qualifier, code, key & 0x0F, status]))
    }

    /// As a number, and back from it.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// See [`CommandStatus::bits`].
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The status code.
    pub fn status(self) -> u8 {
        self.0.to_be_bytes()[3]
    }

    /// Whether the command did what it was asked.
    #[inline]
    pub fn is_good(self) -> bool {
        self == Self::GOOD
    }

    /// Whether the sense data has this key and code.
    pub fn is(self, key: Key, code: Code) -> bool {
        self.key() == key as u8 && self.code() == code
    }

    /// Whether something has happened that the unit tells before it carries out a command.
    pub fn is_attention(self) -> bool {
        self.key() == Key::UnitAttention as u8
    }

    /// Sense key.
    pub fn key(self) -> u8 {
        self.0.to_be_bytes()[2]
    }

    /// Additional sense code and qualifier.
    pub fn code(self) -> Code {
        let [qualifier, code, ..] = self.0.to_be_bytes();
        Code(code, qualifier)
    }
}

impl fmt::Display for CommandStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (self.status(), *self) {
            (_, Self::DATA_DIGEST) => "a data digest does not match",
            (_, Self::TARGET_FAILURE) => "the target could not carry it out",
            (_, Self::SHORT) => "less data than was asked for",
            (0x00, _) => "GOOD",
            (0x02, _) => "CHECK CONDITION",
            (0x04, _) => "CONDITION MET",
            (0x08, _) => "BUSY",
            (0x18, _) => "RESERVATION CONFLICT",
            (0x28, _) => "TASK SET FULL",
            (0x30, _) => "ACA ACTIVE",
            (0x40, _) => "TASK ABORTED",
            (status, _) => return write!(f, "status {status:02X}h"),
        };
        f.write_str(name)?;
        if self.status() != 0x02 {
            return Ok(());
        }
        let Code(code, qualifier) = self.code();
        match key_name(self.key()) {
            Some(key) => write!(f, ", {key}")?,
            None => write!(f, ", sense key {:X}h", self.key())?,
        }
        write!(f, ", {code:02X}h/{qualifier:02X}h")?;
        match code_name(self.code()) {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}

fn key_name(key: u8) -> Option<&'static str> {
    const NAMES: [(Key, &str); 10] = [
        (Key::NoSense, "NO SENSE"),
        (Key::NotReady, "NOT READY"),
        (Key::MediumError, "MEDIUM ERROR"),
        (Key::HardwareError, "HARDWARE ERROR"),
        (Key::IllegalRequest, "ILLEGAL REQUEST"),
        (Key::UnitAttention, "UNIT ATTENTION"),
        (Key::DataProtect, "DATA PROTECT"),
        (Key::CopyAborted, "COPY ABORTED"),
        (Key::AbortedCommand, "ABORTED COMMAND"),
        (Key::Miscompare, "MISCOMPARE"),
    ];
    let known = NAMES.iter().find(|(known, _)| *known as u8 == key);
    known.map(|(_, name)| *name)
}

/// Codes that reads, writes and flushes end with (SPC-4, annex F).
fn code_name(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::PERIPHERAL_WRITE_FAULT => "PERIPHERAL DEVICE WRITE FAULT",
        Code::UNRECOVERED_READ_ERROR => "UNRECOVERED READ ERROR",
        Code::COMMUNICATION_TIMEOUT => "LOGICAL UNIT COMMUNICATION TIME-OUT",
        Code::INVALID_OPCODE => "INVALID COMMAND OPERATION CODE",
        Code::LBA_OUT_OF_RANGE => "LOGICAL BLOCK ADDRESS OUT OF RANGE",
        Code::INVALID_FIELD_IN_CDB => "INVALID FIELD IN CDB",
        Code::LOGICAL_UNIT_NOT_SUPPORTED => "LOGICAL UNIT NOT SUPPORTED",
        Code::WRITE_PROTECTED => "WRITE PROTECTED",
        Code::SOFTWARE_WRITE_PROTECTED => "LOGICAL UNIT SOFTWARE WRITE PROTECTED",
        Code::SPACE_ALLOCATION_FAILED => "SPACE ALLOCATION FAILED WRITE PROTECT",
        Code::CAPACITY_CHANGED => "CAPACITY DATA HAS CHANGED",
        Code::REPORTED_LUNS_CHANGED => "REPORTED LUNS DATA HAS CHANGED",
        Code::ASYMMETRIC_STANDBY => "TARGET PORT IN STANDBY STATE",
        Code::ASYMMETRIC_UNAVAILABLE => "TARGET PORT IN UNAVAILABLE STATE",
        Code::INTERNAL_TARGET_FAILURE => "INTERNAL TARGET FAILURE",
        Code::PROTOCOL_CRC_ERROR => "PROTOCOL SERVICE CRC ERROR",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::Sense;
    use crate::scsi::sense::SENSE_BYTES_MAX;

    /// What our device server writes is read in both formats, and named.
    #[test]
    fn sense_data_is_read_in_both_formats() {
        let sense = Sense::illegal(Code::LBA_OUT_OF_RANGE);
        for descriptor in [false, true] {
            let mut bytes = [0; SENSE_BYTES_MAX];
            let size = sense.encode(&mut bytes, descriptor);
            let status = CommandStatus::new(0x02, &bytes[..size]);
            assert!(status.is(Key::IllegalRequest, Code::LBA_OUT_OF_RANGE));
            assert!(!status.is_good() && !status.is_attention());
            assert_eq!(CommandStatus::from_bits(status.bits()), status);
            let text =
                "CHECK CONDITION, ILLEGAL REQUEST, 21h/00h (LOGICAL BLOCK ADDRESS OUT OF RANGE)";
            assert_eq!(status.to_string(), text);
        }
    }

    #[test]
    fn what_is_short_or_unknown_is_shown_as_it_is() {
        assert!(CommandStatus::new(0, &[]).is_good());
        assert_eq!(
            CommandStatus::new(0x02, &[0x70]).to_string(),
            "CHECK CONDITION, NO SENSE, 00h/00h"
        );
        let vendors = CommandStatus::new(0x02, &[0x72, 0x0F, 0x81, 0x02]);
        assert_eq!(
            vendors.to_string(),
            "CHECK CONDITION, sense key Fh, 81h/02h"
        );
        assert_eq!(
            CommandStatus::new(0x18, &[]).to_string(),
            "RESERVATION CONFLICT"
        );
        assert_eq!(CommandStatus::new(0x22, &[]).to_string(), "status 22h");
    }
}
