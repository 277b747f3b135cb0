//! How a command ends, and why: status (SAM-5, 5.3) and sense data (SPC-4, 4.5).

use crate::dm;

/// Sense keys (SPC-4, table 48).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Key {
    /// Nothing to report.
    NoSense = 0x0,
    /// The unit cannot be accessed now.
    NotReady = 0x2,
    /// The medium failed.
    MediumError = 0x3,
    /// The device failed.
    HardwareError = 0x4,
    /// The command is wrong.
    IllegalRequest = 0x5,
    /// Something has happened that the initiator must know first.
    UnitAttention = 0x6,
    /// The medium is protected.
    DataProtect = 0x7,
    /// EXTENDED COPY failed.
    CopyAborted = 0xA,
    /// The command was aborted; it may be tried again.
    AbortedCommand = 0xB,
    /// Data compared and found different.
    Miscompare = 0xE,
}

/// An additional sense code and its qualifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code(pub u8, pub u8);

/// Additional sense codes (SPC-4, annex F).
#[allow(missing_docs)]
impl Code {
    pub const NONE: Code = Code(0x00, 0x00);
    pub const OPERATION_IN_PROGRESS: Code = Code(0x00, 0x16);
    pub const PERIPHERAL_WRITE_FAULT: Code = Code(0x03, 0x00);
    pub const INITIALIZING_COMMAND_REQUIRED: Code = Code(0x04, 0x02);
    pub const NOT_READY_CAUSE_NOT_REPORTABLE: Code = Code(0x04, 0x00);
    pub const SANITIZE_IN_PROGRESS: Code = Code(0x04, 0x1B);
    pub const ASYMMETRIC_TRANSITION: Code = Code(0x04, 0x0A);
    pub const ASYMMETRIC_STANDBY: Code = Code(0x04, 0x0B);
    pub const ASYMMETRIC_UNAVAILABLE: Code = Code(0x04, 0x0C);
    pub const COMMUNICATION_TIMEOUT: Code = Code(0x08, 0x01);
    pub const UNREACHABLE_COPY_TARGET: Code = Code(0x08, 0x04);
    pub const THIRD_PARTY_DEVICE_FAILURE: Code = Code(0x0D, 0x01);
    pub const COPY_TARGET_NOT_REACHABLE: Code = Code(0x0D, 0x02);
    pub const INCORRECT_COPY_TARGET_TYPE: Code = Code(0x0D, 0x03);
    pub const UNRECOVERED_READ_ERROR: Code = Code(0x11, 0x00);
    pub const LOGICAL_BLOCK_GUARD_CHECK: Code = Code(0x10, 0x01);
    pub const PARAMETER_LIST_LENGTH_ERROR: Code = Code(0x1A, 0x00);
    pub const MISCOMPARE_DURING_VERIFY: Code = Code(0x1D, 0x00);
    pub const INVALID_OPCODE: Code = Code(0x20, 0x00);
    pub const LBA_OUT_OF_RANGE: Code = Code(0x21, 0x00);
    pub const INVALID_FIELD_IN_CDB: Code = Code(0x24, 0x00);
    pub const LOGICAL_UNIT_NOT_SUPPORTED: Code = Code(0x25, 0x00);
    pub const INVALID_FIELD_IN_PARAMETERS: Code = Code(0x26, 0x00);
    pub const INVALID_RELEASE_OF_PERSISTENT: Code = Code(0x26, 0x04);
    pub const TOO_MANY_TARGET_DESCRIPTORS: Code = Code(0x26, 0x06);
    pub const UNSUPPORTED_TARGET_DESCRIPTOR: Code = Code(0x26, 0x07);
    pub const TOO_MANY_SEGMENT_DESCRIPTORS: Code = Code(0x26, 0x08);
    pub const UNSUPPORTED_SEGMENT_DESCRIPTOR: Code = Code(0x26, 0x09);
    pub const UNEXPECTED_INEXACT_SEGMENT: Code = Code(0x26, 0x0A);
    pub const INLINE_DATA_LENGTH_EXCEEDED: Code = Code(0x26, 0x0B);
    pub const WRITE_PROTECTED: Code = Code(0x27, 0x00);
    pub const SOFTWARE_WRITE_PROTECTED: Code = Code(0x27, 0x02);
    pub const SPACE_ALLOCATION_FAILED: Code = Code(0x27, 0x07);
    pub const POWER_ON: Code = Code(0x29, 0x00);
    pub const BUS_DEVICE_RESET: Code = Code(0x29, 0x03);
    pub const NEXUS_LOSS: Code = Code(0x29, 0x07);
    pub const MODE_PARAMETERS_CHANGED: Code = Code(0x2A, 0x01);
    pub const RESERVATIONS_PREEMPTED: Code = Code(0x2A, 0x03);
    pub const RESERVATIONS_RELEASED: Code = Code(0x2A, 0x04);
    pub const REGISTRATIONS_PREEMPTED: Code = Code(0x2A, 0x05);
    pub const ASYMMETRIC_STATE_CHANGED: Code = Code(0x2A, 0x06);
    pub const CAPACITY_CHANGED: Code = Code(0x2A, 0x09);
    pub const COMMAND_SEQUENCE_ERROR: Code = Code(0x2C, 0x00);
    pub const COMMANDS_CLEARED: Code = Code(0x2F, 0x00);
    pub const SANITIZE_FAILED: Code = Code(0x31, 0x03);
    pub const SAVING_NOT_SUPPORTED: Code = Code(0x39, 0x00);
    pub const MEDIUM_NOT_PRESENT: Code = Code(0x3A, 0x00);
    pub const INQUIRY_DATA_CHANGED: Code = Code(0x3F, 0x03);
    pub const REPORTED_LUNS_CHANGED: Code = Code(0x3F, 0x0E);
    pub const INTERNAL_TARGET_FAILURE: Code = Code(0x44, 0x00);
    pub const DATA_PHASE_ERROR: Code = Code(0x4B, 0x00);
    pub const PROTOCOL_CRC_ERROR: Code = Code(0x47, 0x05);
    pub const UNEXPECTED_UNSOLICITED_DATA: Code = Code(0x0C, 0x0C);
    pub const INVALID_FIELD_IN_INFORMATION_UNIT: Code = Code(0x0E, 0x03);
    pub const INCORRECT_AMOUNT_OF_DATA: Code = Code(0x0C, 0x0D);
    pub const INVALID_MESSAGE: Code = Code(0x49, 0x00);
    pub const INSUFFICIENT_REGISTRATION_RESOURCES: Code = Code(0x55, 0x04);
    pub const REMOVAL_PREVENTED: Code = Code(0x53, 0x02);
    pub const ACCESS_DENIED_NO_RIGHTS: Code = Code(0x20, 0x02);
}

/// What a wrong byte is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The CDB.
    Cdb,
    /// The parameter list.
    Parameters,
    /// The segment descriptor of an EXTENDED COPY at which it has stopped.
    Segment,
}

/// Which byte of a CDB or parameter list is wrong (SPC-4, 4.5.2.4.2, 4.5.2.4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// What the byte is in.
    pub holder: Holder,
    /// The byte.
    pub byte: u16,
    /// The most significant bit of the field; `None` for all of the byte.
    pub bit: Option<u8>,
}

/// How one of the two units of an EXTENDED COPY has refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The unit that was written to; otherwise the one that was read from.
    pub by_destination: bool,
    /// Its status code.
    pub status: u8,
    /// Its sense key and code.
    pub sense: (Key, Code),
}

/// Where an EXTENDED COPY has stopped (SPC-4, 5.18.7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Number of the segment descriptor.
    pub segment: u16,
    /// Who has refused to go on, if it was one of the units.
    pub refusal: Option<Refusal>,
}

/// Sense data before it has a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: Key,
    /// Additional sense code.
    pub code: Code,
    /// The INFORMATION field: a logical block address, the offset of a miscompare, or what of a copy is left.
    pub information: Option<u64>,
    /// What is wrong.
    pub field: Option<Field>,
    /// How far something that is going on has come, in 65,536ths.
    pub progress: Option<u16>,
    /// Where a copy has stopped.
    pub stop: Option<Stop>,
}

/// Bytes of sense data in fixed format, without what a copy adds to it.
const FIXED_BYTES: usize = 18;

/// Most bytes of sense data.
pub const SENSE_BYTES_MAX: usize = 64;

impl Refusal {
    /// Status, and sense data in fixed format if there is any; answers how long both are.
    fn encode(&self, bytes: &mut [u8]) -> usize {
        bytes[0] = self.status;
        let (key, code) = self.sense;
        if key == Key::NoSense {
            return 1;
        }
        bytes[1] = 0x70;
        bytes[3] = key as u8;
        bytes[8] = 10;
        bytes[13] = code.0;
        bytes[14] = code.1;
        1 + FIXED_BYTES
    }
}

impl Sense {
    /// Key and code.
    pub const fn new(key: Key, code: Code) -> Self {
        Self {
            key,
            code,
            information: None,
            field: None,
            progress: None,
            stop: None,
        }
    }

    /// A wrong command.
    pub const fn illegal(code: Code) -> Self {
        Self::new(Key::IllegalRequest, code)
    }

    /// Something that an initiator has to be told first.
    pub const fn attention(code: Code) -> Self {
        Self::new(Key::UnitAttention, code)
    }

    /// INVALID FIELD IN CDB that says where.
    pub const fn invalid_field(byte: u16, bit: Option<u8>) -> Self {
        let mut sense = Self::illegal(Code::INVALID_FIELD_IN_CDB);
        sense.field = Some(Field {
            holder: Holder::Cdb,
            byte,
            bit,
        });
        sense
    }

    /// INVALID FIELD IN PARAMETER LIST that says where.
    pub const fn invalid_parameter(byte: u16) -> Self {
        let mut sense = Self::illegal(Code::INVALID_FIELD_IN_PARAMETERS);
        sense.field = Some(Field {
            holder: Holder::Parameters,
            byte,
            bit: None,
        });
        sense
    }

    /// With the INFORMATION field.
    pub const fn with_information(mut self, information: u64) -> Self {
        self.information = Some(information);
        self
    }

    /// With a progress indication.
    pub const fn with_progress(mut self, progress: u16) -> Self {
        self.progress = Some(progress);
        self
    }

    /// With the place at which a copy has stopped.
    pub const fn with_stop(mut self, stop: Stop) -> Self {
        self.stop = Some(stop);
        self
    }

    /// With the byte of that segment descriptor that is wrong.
    pub const fn with_segment_field(mut self, byte: u16) -> Self {
        self.field = Some(Field {
            holder: Holder::Segment,
            byte,
            bit: None,
        });
        self
    }

    /// The three bytes of the SENSE KEY SPECIFIC field, if there is something to say.
    fn specific(&self) -> Option<[u8; 3]> {
        if let Some(field) = self.field {
            // C/D of a field pointer; SD of a segment pointer.
            let holder = match field.holder {
                Holder::Cdb => 0x40,
                Holder::Parameters => 0,
                Holder::Segment => 0x20,
            };
            let bit = field.bit.map_or(0, |bit| 0x08 | bit & 0x07);
            let [high, low] = field.byte.to_be_bytes();
            return Some([0x80 | holder | bit, high, low]);
        }
        let [high, low] = self.progress?.to_be_bytes();
        Some([0x80, high, low])
    }

    /// Writes it in fixed format (SPC-4, 4.5.3), or in descriptor format (4.5.2); answers how long it is.
    pub fn encode(&self, bytes: &mut [u8; SENSE_BYTES_MAX], descriptor: bool) -> usize {
        bytes.fill(0);
        if descriptor {
            self.encode_descriptors(bytes)
        } else {
            self.encode_fixed(bytes)
        }
    }

    fn encode_fixed(&self, bytes: &mut [u8; SENSE_BYTES_MAX]) -> usize {
        bytes[0] = 0x70;
        bytes[2] = self.key as u8;
        bytes[7] = 10;
        bytes[12] = self.code.0;
        bytes[13] = self.code.1;
        if let Some(information) = self.information.and_then(|value| u32::try_from(value).ok()) {
            bytes[0] |= 0x80;
            bytes[3..7].copy_from_slice(&information.to_be_bytes());
        }
        if let Some(specific) = self.specific() {
            bytes[15..18].copy_from_slice(&specific);
        }
        let Some(stop) = self.stop else {
            return FIXED_BYTES;
        };
        bytes[10..12].copy_from_slice(&stop.segment.to_be_bytes());
        let Some(refusal) = stop.refusal else {
            return FIXED_BYTES;
        };
        // COMMAND-SPECIFIC INFORMATION says where the status and the sense data of the source, or of the destination, begin.
        bytes[8 + usize::from(refusal.by_destination)] = FIXED_BYTES as u8;
        let end = FIXED_BYTES + refusal.encode(&mut bytes[FIXED_BYTES..]);
        bytes[7] = (end - 8) as u8;
        end
    }

    fn encode_descriptors(&self, bytes: &mut [u8; SENSE_BYTES_MAX]) -> usize {
        bytes[0] = 0x72;
        bytes[1] = self.key as u8;
        bytes[2] = self.code.0;
        bytes[3] = self.code.1;
        let mut end = 8;
        if let Some(information) = self.information {
            bytes[end..end + 4].copy_from_slice(&[0x00, 0x0A, 0x80, 0x00]);
            bytes[end + 4..end + 12].copy_from_slice(&information.to_be_bytes());
            end += 12;
        }
        if let Some(stop) = self.stop {
            bytes[end..end + 2].copy_from_slice(&[0x01, 0x0A]);
            bytes[end + 10..end + 12].copy_from_slice(&stop.segment.to_be_bytes());
            end += 12;
        }
        if let Some(specific) = self.specific() {
            bytes[end..end + 2].copy_from_slice(&[0x02, 0x06]);
            bytes[end + 4..end + 7].copy_from_slice(&specific);
            end += 8;
        }
        if let Some(refusal) = self.stop.and_then(|stop| stop.refusal) {
            // Forwarded sense data (SPC-4, 4.5.2.7): of the copy source, or of the copy destination.
            let size = refusal.encode(&mut bytes[end + 3..]);
            bytes[end] = 0x0C;
            bytes[end + 1] = (size + 1) as u8;
            bytes[end + 2] = 1 + u8::from(refusal.by_destination);
            end += 3 + size;
        }
        bytes[7] = (end - 8) as u8;
        end
    }
}

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Good,
    /// CHECK CONDITION, with the reason.
    Check(Sense),
    /// PRE-FETCH: all of it fits.
    ConditionMet,
    /// Try again later.
    Busy,
    /// Another initiator holds a reservation.
    ReservationConflict,
    /// Its task set is at fault, and the command is not the one that may be carried out meanwhile.
    AcaActive,
    /// Another initiator has ended it.
    TaskAborted,
}

impl Outcome {
    /// The status code (SAM-5, table 44).
    pub fn code(self) -> u8 {
        match self {
            Outcome::Good => 0x00,
            Outcome::Check(_) => 0x02,
            Outcome::ConditionMet => 0x04,
            Outcome::Busy => 0x08,
            Outcome::ReservationConflict => 0x18,
            Outcome::AcaActive => 0x30,
            Outcome::TaskAborted => 0x40,
        }
    }

    /// Whether it did what it was asked.
    pub fn is_good(self) -> bool {
        matches!(self, Outcome::Good | Outcome::ConditionMet)
    }

    /// What a device's answer to an I/O is in SCSI; `reads` tells which of two errors of the medium it is.
    pub fn of(status: dm::Status, reads: bool) -> Outcome {
        let (key, code) = match status {
            dm::Status::Ok => return Outcome::Good,
            dm::Status::ReservationConflict => return Outcome::ReservationConflict,
            dm::Status::NotSupported => (Key::IllegalRequest, Code::INVALID_OPCODE),
            dm::Status::NoSpace => (Key::DataProtect, Code::SPACE_ALLOCATION_FAILED),
            dm::Status::Medium if reads => (Key::MediumError, Code::UNRECOVERED_READ_ERROR),
            dm::Status::Medium => (Key::MediumError, Code::PERIPHERAL_WRITE_FAULT),
            dm::Status::Protection => (Key::AbortedCommand, Code::LOGICAL_BLOCK_GUARD_CHECK),
            dm::Status::Miscompare => (Key::Miscompare, Code::MISCOMPARE_DURING_VERIFY),
            dm::Status::Timeout | dm::Status::Transport => {
                (Key::AbortedCommand, Code::COMMUNICATION_TIMEOUT)
            }
            dm::Status::Aborted => (Key::AbortedCommand, Code::NONE),
            dm::Status::Target | dm::Status::IoError => {
                (Key::HardwareError, Code::INTERNAL_TARGET_FAILURE)
            }
        };
        Outcome::Check(Sense::new(key, code))
    }
}

impl From<Sense> for Outcome {
    fn from(sense: Sense) -> Self {
        Outcome::Check(sense)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SPC-4, 4.5.3: the fields of both formats are where the standard has them.
    #[test]
    fn both_formats_say_the_same() {
        let sense = Sense::invalid_field(2, Some(7)).with_information(0x1234);
        let mut bytes = [0; SENSE_BYTES_MAX];
        let size = sense.encode(&mut bytes, false);
        assert_eq!(size, 18);
        assert_eq!(&bytes[..8], [0xF0, 0, 5, 0, 0, 0x12, 0x34, 10]);
        assert_eq!(&bytes[12..18], [0x24, 0, 0, 0xCF, 0, 2]);
        let size = sense.encode(&mut bytes, true);
        assert_eq!(&bytes[..8], [0x72, 5, 0x24, 0, 0, 0, 0, 20]);
        assert_eq!(
            &bytes[8..20],
            [0, 10, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34]
        );
        assert_eq!(&bytes[20..size], [2, 6, 0, 0, 0xCF, 0, 2, 0]);
    }

    /// SPC-4, 5.18.7.3: where a copy stopped and what the unit that refused has said is told in both formats.
    #[test]
    fn a_copy_tells_who_refused() {
        let refusal = Refusal {
            by_destination: true,
            status: 2,
            sense: (Key::DataProtect, Code::WRITE_PROTECTED),
        };
        let stop = Stop {
            segment: 3,
            refusal: Some(refusal),
        };
        let sense = Sense::new(Key::CopyAborted, Code::THIRD_PARTY_DEVICE_FAILURE)
            .with_information(77)
            .with_segment_field(20)
            .with_stop(stop);
        let mut bytes = [0; SENSE_BYTES_MAX];
        let size = sense.encode(&mut bytes, false);
        assert_eq!((size, bytes[7]), (37, 29));
        assert_eq!(bytes[8..12], [0, 18, 0, 3]);
        assert_eq!(bytes[15..18], [0xA0, 0, 20]);
        assert_eq!(bytes[18..22], [2, 0x70, 0, 7]);
        assert_eq!(bytes[31..33], [0x27, 0]);
        let size = sense.encode(&mut bytes, true);
        assert_eq!((size, bytes[7]), (62, 54));
        assert_eq!(bytes[20..32], [1, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
        assert_eq!(bytes[32..40], [2, 6, 0, 0, 0xA0, 0, 20, 0]);
        assert_eq!(bytes[40..46], [0x0C, 20, 2, 2, 0x70, 0]);
    }

    /// A value that 32 bits do not hold is left out of the fixed format (SPC-4, 4.5.3, VALID).
    #[test]
    fn information_that_does_not_fit_is_not_claimed() {
        let sense = Sense::illegal(Code::LBA_OUT_OF_RANGE).with_information(1 << 40);
        let mut bytes = [0; SENSE_BYTES_MAX];
        sense.encode(&mut bytes, false);
        assert_eq!(bytes[0], 0x70);
    }
}
