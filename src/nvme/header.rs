//! The common header of NVMe/TCP PDUs and its strict decoder (NVMe/TCP Transport 1.0, 3.6.2.1).
//!
//! Public as part of [`super::pdu`].

use super::bytes::get_u32;
use super::command::{COMMAND_SIZE, COMPLETION_SIZE};

/// Size of the common header (CH) in bytes (3.6.2.1).
pub const COMMON_HEADER_SIZE: usize = 8;
/// Size of a digest in bytes (3.3.1.1).
pub const DIGEST_SIZE: usize = 4;
/// Size of ICReq and ICResp: the PDU is all header (3.6.2.2, 3.6.2.3).
pub const INITIALIZE_SIZE: usize = 128;
/// Header size of H2CTermReq and C2HTermReq (3.6.2.4, 3.6.2.5).
pub const TERMINATE_HEADER_SIZE: usize = 24;
/// Largest TermReq: its header and up to 128 bytes of the header that was in error.
pub const TERMINATE_SIZE_MAX: usize = TERMINATE_HEADER_SIZE + INITIALIZE_SIZE;
/// Header size of CapsuleCmd (3.6.2.6).
pub const COMMAND_HEADER_SIZE: usize = COMMON_HEADER_SIZE + COMMAND_SIZE;
/// Header size of CapsuleResp (3.6.2.7).
pub const RESPONSE_HEADER_SIZE: usize = COMMON_HEADER_SIZE + COMPLETION_SIZE;
/// Header size of H2CData, C2HData and R2T (3.6.2.8 to 3.6.2.10).
pub const DATA_HEADER_SIZE: usize = 24;
/// Largest header of any PDU.
pub const HEADER_SIZE_MAX: usize = INITIALIZE_SIZE;
/// Smallest MAXH2CDATA that a controller should offer, in bytes (3.6.2.3).
pub const DATA_SIZE_MAX_LEAST: u32 = 4096;
/// Largest value of HPDA and CPDA: data is then aligned to 128 bytes (3.6.2.2, 3.6.2.3).
pub const ALIGNMENT_MAX: u8 = 31;

const _: () = assert!(COMMAND_HEADER_SIZE == 72 && RESPONSE_HEADER_SIZE == 24);
const _: () = assert!(TERMINATE_SIZE_MAX == 152);

/// Flag: a header digest follows the header (HDGSTF).
pub const FLAG_HEADER_DIGEST: u8 = 1 << 0;
/// Flag: a data digest follows the data (DDGSTF).
pub const FLAG_DATA_DIGEST: u8 = 1 << 1;
/// Flag: last data PDU of this command (C2HData) or of this R2T (H2CData).
pub const FLAG_LAST: u8 = 1 << 2;
/// Flag: the command succeeded and no CapsuleResp follows; only with [`FLAG_LAST`] (C2HData).
pub const FLAG_SUCCESS: u8 = 1 << 3;

/// PDU types (3.3, figure 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Initialize Connection Request, host to controller.
    InitializeRequest = 0x00,
    /// Initialize Connection Response, controller to host.
    InitializeResponse = 0x01,
    /// Host to Controller Terminate Connection Request.
    HostTerminate = 0x02,
    /// Controller to Host Terminate Connection Request.
    ControllerTerminate = 0x03,
    /// Command Capsule, host to controller.
    Command = 0x04,
    /// Response Capsule, controller to host.
    Response = 0x05,
    /// Host to Controller Data Transfer.
    HostData = 0x06,
    /// Controller to Host Data Transfer.
    ControllerData = 0x07,
    /// Ready to Transfer, controller to host.
    ReadyToTransfer = 0x09,
}

impl Kind {
    /// From the type byte; `None` when reserved.
    #[inline]
    pub const fn decode(byte: u8) -> Option<Self> {
        Some(match byte {
            0x00 => Self::InitializeRequest,
            0x01 => Self::InitializeResponse,
            0x02 => Self::HostTerminate,
            0x03 => Self::ControllerTerminate,
            0x04 => Self::Command,
            0x05 => Self::Response,
            0x06 => Self::HostData,
            0x07 => Self::ControllerData,
            0x09 => Self::ReadyToTransfer,
            _ => return None,
        })
    }

    /// HLEN: size of the header in bytes, without its digest.
    #[inline]
    pub const fn header_size(self) -> usize {
        match self {
            Self::InitializeRequest | Self::InitializeResponse => INITIALIZE_SIZE,
            Self::Command => COMMAND_HEADER_SIZE,
            Self::Response => RESPONSE_HEADER_SIZE,
            Self::HostTerminate | Self::ControllerTerminate => TERMINATE_HEADER_SIZE,
            Self::HostData | Self::ControllerData | Self::ReadyToTransfer => DATA_HEADER_SIZE,
        }
    }

    /// Who receives PDUs of this type.
    #[inline]
    pub const fn receiver(self) -> Receiver {
        match self {
            Self::InitializeRequest | Self::HostTerminate | Self::Command | Self::HostData => {
                Receiver::Controller
            }
            _ => Receiver::Host,
        }
    }

    /// Whether digests apply: not to PDUs that set up or tear down the connection (3.3.1.1).
    #[inline]
    const fn may_have_digest(self) -> bool {
        !matches!(
            self,
            Self::InitializeRequest
                | Self::InitializeResponse
                | Self::HostTerminate
                | Self::ControllerTerminate
        )
    }

    /// Whether data may follow the header, to be taken into a command's buffer.
    #[inline]
    const fn may_carry_data(self) -> bool {
        matches!(self, Self::Command | Self::HostData | Self::ControllerData)
    }
}

/// Which end of the connection reads a PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// The target.
    Controller,
    /// The initiator.
    Host,
}

/// Fatal Error Status of a TermReq (3.6.2.4 figure 22, 3.6.2.5 figure 23).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum FatalError {
    /// A field of a header is wrong; the information is its offset in bytes.
    InvalidHeaderField = 0x01,
    /// A PDU came that could not come now.
    SequenceError = 0x02,
    /// The header digest does not match; the information is the digest that was received.
    HeaderDigestError = 0x03,
    /// Data outside of what was asked for or announced.
    DataOutOfRange = 0x04,
    /// H2CTermReq: more R2Ts than MAXR2T allows. C2HTermReq: more data than MAXH2CDATA allows.
    LimitExceeded = 0x05,
    /// A parameter that this end does not support; the information is its offset in bytes.
    UnsupportedParameter = 0x06,
}

impl FatalError {
    /// From the FES field; `None` when reserved.
    pub const fn decode(code: u16) -> Option<Self> {
        Some(match code {
            1 => Self::InvalidHeaderField,
            2 => Self::SequenceError,
            3 => Self::HeaderDigestError,
            4 => Self::DataOutOfRange,
            5 => Self::LimitExceeded,
            6 => Self::UnsupportedParameter,
            _ => return None,
        })
    }
}

/// Why a connection has to be terminated: FES and FEI of the TermReq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermReason {
    /// Fatal Error Status.
    pub fes: FatalError,
    /// Fatal Error Information: a field's offset in the header, a digest, or zero.
    pub fei: u32,
}

impl TermReason {
    /// The header field at this byte offset is wrong.
    pub const fn field(offset: u32) -> Self {
        Self {
            fes: FatalError::InvalidHeaderField,
            fei: offset,
        }
    }

    /// The parameter at this byte offset of the header is not supported.
    pub const fn unsupported(offset: u32) -> Self {
        Self {
            fes: FatalError::UnsupportedParameter,
            fei: offset,
        }
    }

    /// The PDU could not come now.
    pub const fn sequence() -> Self {
        Self {
            fes: FatalError::SequenceError,
            fei: 0,
        }
    }

    /// The header digest that was received does not match.
    pub const fn header_digest(received: u32) -> Self {
        Self {
            fes: FatalError::HeaderDigestError,
            fei: received,
        }
    }

    /// Data outside of what was asked for or announced.
    pub const fn data_out_of_range() -> Self {
        Self {
            fes: FatalError::DataOutOfRange,
            fei: 0,
        }
    }

    /// MAXH2CDATA or MAXR2T was exceeded.
    pub const fn limit_exceeded() -> Self {
        Self {
            fes: FatalError::LimitExceeded,
            fei: 0,
        }
    }
}

impl std::fmt::Display for TermReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = self.fei;
        match self.fes {
            FatalError::InvalidHeaderField => write!(f, "invalid PDU header field at byte {at}"),
            FatalError::SequenceError => f.write_str("PDU sequence error"),
            FatalError::HeaderDigestError => write!(f, "header digest error (received {at:08X}h)"),
            FatalError::DataOutOfRange => f.write_str("data transfer out of range"),
            FatalError::LimitExceeded => f.write_str("data transfer or R2T limit exceeded"),
            FatalError::UnsupportedParameter => write!(f, "unsupported parameter at byte {at}"),
        }
    }
}

/// Where FEI points for the fields of the common header.
const OFFSET_TYPE: u32 = 0;
const OFFSET_FLAGS: u32 = 1;
const OFFSET_HEADER_SIZE: u32 = 2;
const OFFSET_DATA_OFFSET: u32 = 3;
const OFFSET_TOTAL_SIZE: u32 = 4;

/// What was negotiated, as far as it decides how the receiver reads a PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Which end reads.
    pub receiver: Receiver,
    /// Header digests are in use.
    pub header_digest: bool,
    /// Data digests are in use.
    pub data_digest: bool,
    /// The alignment the receiver asked for (CPDA at the controller, HPDA at the host), 0 to 31: data
    /// begins at a multiple of four times this plus four bytes.
    pub alignment: u8,
    /// Most in-capsule data in bytes (controller); unused at the host.
    pub capsule_data_size_max: u32,
    /// Most data in one data PDU in bytes: MAXH2CDATA at the controller, the largest transfer at the host.
    pub data_size_max: u32,
}

impl Rules {
    /// The digest flags that a PDU with data has to carry.
    #[inline]
    const fn digest_flags(&self) -> u8 {
        (self.header_digest as u8 * FLAG_HEADER_DIGEST)
            | (self.data_digest as u8 * FLAG_DATA_DIGEST)
    }
}

/// Where the parts of one PDU lie, all in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// PDU type.
    pub kind: Kind,
    /// The flags as they came: [`FLAG_LAST`], [`FLAG_SUCCESS`] and the digest flags.
    pub flags: u8,
    /// Size of the header without its digest, which, where present, follows at this offset.
    pub header_size: u32,
    /// Whether a header digest is there.
    pub header_digest: bool,
    /// Where data begins; the end of the PDU when there is none.
    pub data_offset: u32,
    /// Size of the data without its digest, which, where present, follows the data.
    pub data_size: u32,
    /// Whether a data digest is there.
    pub data_digest: bool,
    /// Size of the whole PDU (PLEN).
    pub total_size: u32,
}

impl Layout {
    /// What must have arrived before the PDU's own fields can be decoded: header, digest and padding up to the data.
    #[inline]
    pub const fn head_size(&self) -> usize {
        self.data_offset as usize
    }
}

/// Checks the common header of a PDU: type, flags, HLEN, PDO and PLEN (3.6.2.1), strictly.
///
/// `bytes` holds at least [`COMMON_HEADER_SIZE`] bytes. Reserved flag bits are not looked at: a receiver
/// shall ignore reserved fields (NVMe Base 2.0, 1.5.1). Sequence (ICReq first, and so on) is the caller's.
/// Where several fields are wrong, FEI tells the one that comes first (3.6.2.4).
///
/// # Errors
///
/// The TermReq to send; except where the PDU is itself a TermReq, which is never answered: the connection
/// is closed at once (3.5). More data than the limits allow is [`FatalError::LimitExceeded`] for data PDUs
/// and an invalid PLEN for capsules.
#[inline]
pub fn decode_header(bytes: &[u8], rules: &Rules) -> Result<Layout, TermReason> {
    let Some(kind) = Kind::decode(bytes[0]) else {
        return Err(TermReason::field(OFFSET_TYPE));
    };
    if kind.receiver() != rules.receiver {
        return Err(TermReason::field(OFFSET_TYPE));
    }
    let flags = bytes[1];
    let header_size = kind.header_size() as u32;
    let header_digest = kind.may_have_digest() && rules.header_digest;
    let head_size = header_size + if header_digest { DIGEST_SIZE as u32 } else { 0 };
    let total_size = get_u32(bytes, 4);
    let carries_data = kind.may_carry_data() && total_size > head_size;
    if kind.may_have_digest() {
        let expected = if carries_data {
            FLAG_HEADER_DIGEST | FLAG_DATA_DIGEST
        } else {
            FLAG_HEADER_DIGEST
        };
        if (flags ^ rules.digest_flags()) & expected != 0 {
            return Err(TermReason::field(OFFSET_FLAGS));
        }
    }
    if u32::from(bytes[2]) != header_size {
        return Err(TermReason::field(OFFSET_HEADER_SIZE));
    }
    if total_size < head_size {
        return Err(TermReason::field(OFFSET_TOTAL_SIZE));
    }
    let mut layout = Layout {
        kind,
        flags,
        header_size,
        header_digest,
        data_offset: total_size,
        data_size: 0,
        data_digest: false,
        total_size,
    };
    let size_max = match kind {
        Kind::HostData | Kind::ControllerData => rules.data_size_max,
        Kind::Command => rules.capsule_data_size_max,
        Kind::HostTerminate | Kind::ControllerTerminate => {
            if total_size as usize > TERMINATE_SIZE_MAX {
                return Err(TermReason::field(OFFSET_TOTAL_SIZE));
            }
            layout.data_offset = header_size;
            layout.data_size = total_size - header_size;
            return Ok(layout);
        }
        _ => 0,
    };
    if total_size == head_size {
        // Only a command may come without data; PDO is then reserved.
        return match kind {
            Kind::HostData | Kind::ControllerData => Err(TermReason::field(OFFSET_TOTAL_SIZE)),
            _ => Ok(layout),
        };
    }
    if !carries_data {
        return Err(TermReason::field(OFFSET_TOTAL_SIZE));
    }
    let data_offset = u32::from(bytes[3]);
    let alignment = (u32::from(rules.alignment) + 1) * 4;
    if data_offset < head_size || !data_offset.is_multiple_of(alignment) {
        return Err(TermReason::field(OFFSET_DATA_OFFSET));
    }
    let digest_size = if rules.data_digest {
        DIGEST_SIZE as u32
    } else {
        0
    };
    // At least one byte of data, or the padding and the digest would stand for nothing.
    if total_size <= data_offset + digest_size {
        return Err(TermReason::field(OFFSET_TOTAL_SIZE));
    }
    let data_size = total_size - data_offset - digest_size;
    if data_size > size_max {
        return Err(match kind {
            Kind::Command => TermReason::field(OFFSET_TOTAL_SIZE),
            _ => TermReason::limit_exceeded(),
        });
    }
    layout.data_offset = data_offset;
    layout.data_size = data_size;
    layout.data_digest = rules.data_digest;
    Ok(layout)
}

/// Where data begins that follows a header of `header_size` bytes: after the digest, at the alignment
/// that the receiver of the data asked for (HPDA or CPDA, 0 to 31).
#[inline]
pub const fn data_offset(header_size: usize, header_digest: bool, alignment: u8) -> usize {
    let end = header_size + if header_digest { DIGEST_SIZE } else { 0 };
    end.next_multiple_of((alignment as usize + 1) * 4)
}
