//! NVMe/TCP protocol data units (NVMe/TCP Transport 1.0, 3.6).
//!
//! A receiver hands the first eight bytes of a PDU to [`decode_header`], which checks everything the
//! common header says against what was negotiated and answers where digests and data lie, or with the
//! reason for the TermReq that has to follow. Only then are the PDU's own fields decoded: they are at
//! fixed places, so those decoders cannot fail.

use super::bytes::{get_u16, get_u32, put_u16, put_u32};
use super::command::{COMMAND_SIZE, COMPLETION_SIZE, Command, Completion};

/// Size of the common header (CH) in bytes (3.6.1).
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
/// Smallest MAXH2CDATA that a controller may offer, in bytes (3.6.2.3).
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

/// PDU types (3.6.1, figure 22).
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

    /// Whether digests apply: not to PDUs that set up or tear down the connection (3.3.1).
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
}

/// Which end of the connection reads a PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// The target.
    Controller,
    /// The initiator.
    Host,
}

/// Fatal Error Status of a TermReq (3.6.2.4 figure 27, 3.6.2.5 figure 28).
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

/// Checks the common header of a PDU: type, flags, HLEN, PDO and PLEN (3.6.1), strictly.
///
/// `bytes` holds at least [`COMMON_HEADER_SIZE`] bytes. Reserved flag bits are not looked at: a receiver
/// shall ignore reserved fields (NVMe Base 2.0, 1.5.1). Sequence (ICReq first, and so on) is the caller's.
///
/// # Errors
///
/// The TermReq to send. More data than the limits allow is [`FatalError::LimitExceeded`] for data PDUs
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
    if u32::from(bytes[2]) != header_size {
        return Err(TermReason::field(OFFSET_HEADER_SIZE));
    }
    let header_digest = kind.may_have_digest() && rules.header_digest;
    if header_digest != (flags & FLAG_HEADER_DIGEST != 0) {
        return Err(TermReason::field(OFFSET_FLAGS));
    }
    let total_size = get_u32(bytes, 4);
    let head_size = header_size + if header_digest { DIGEST_SIZE as u32 } else { 0 };
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
    if !matches!(kind, Kind::Command | Kind::HostData | Kind::ControllerData) {
        return Err(TermReason::field(OFFSET_TOTAL_SIZE));
    }
    if rules.data_digest != (flags & FLAG_DATA_DIGEST != 0) {
        return Err(TermReason::field(OFFSET_FLAGS));
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

/// Writes a common header for `kind`; `data_offset` is 0 and `total_size` the header's when there is no data.
#[inline]
pub fn encode_common(bytes: &mut [u8], kind: Kind, flags: u8, data_offset: u8, total_size: u32) {
    bytes[0] = kind as u8;
    bytes[1] = flags;
    bytes[2] = kind.header_size() as u8;
    bytes[3] = data_offset;
    put_u32(bytes, 4, total_size);
}

/// The CRC32C of `bytes`, as header and data digests carry it (3.3.1.1, RFC 3385).
#[inline]
pub fn digest(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// Continues a digest over the next piece of the same data; begin with 0.
#[inline]
pub fn digest_append(digest: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(digest, bytes)
}

/// Writes the digest of the first `header_size` bytes behind them.
#[inline]
pub fn put_header_digest(bytes: &mut [u8], header_size: usize) {
    let value = digest(&bytes[..header_size]);
    put_u32(bytes, header_size, value);
}

/// Checks the digest that follows the first `header_size` bytes.
///
/// # Errors
///
/// The header digest error with the digest that was received.
#[inline]
pub fn check_header_digest(bytes: &[u8], header_size: usize) -> Result<(), TermReason> {
    let received = get_u32(bytes, header_size);
    if received == digest(&bytes[..header_size]) {
        Ok(())
    } else {
        Err(TermReason::header_digest(received))
    }
}

/// Digest options as ICReq and ICResp carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Digests {
    /// Header digest enabled.
    pub header: bool,
    /// Data digest enabled.
    pub data: bool,
}

impl Digests {
    /// From the DGST byte; reserved bits are ignored.
    pub const fn decode(byte: u8) -> Self {
        Self {
            header: byte & 1 != 0,
            data: byte & 2 != 0,
        }
    }

    /// As the DGST byte.
    pub const fn encode(self) -> u8 {
        self.header as u8 | (self.data as u8) << 1
    }
}

/// ICReq (3.6.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitializeRequest {
    /// PDU format version; 0 is the only one.
    pub format_version: u16,
    /// HPDA, 0 to 31.
    pub host_alignment: u8,
    /// Digests the host wants.
    pub digests: Digests,
    /// MAXR2T: most R2Ts outstanding per command, 1 to 2^32 (0's based on the wire).
    pub ready_to_transfer_max: u64,
}

impl InitializeRequest {
    /// Offset of PFV in the header, for [`TermReason::unsupported`].
    pub const OFFSET_FORMAT_VERSION: u32 = 8;
    /// Offset of HPDA in the header, for [`TermReason::field`].
    pub const OFFSET_ALIGNMENT: u32 = 10;

    /// From [`INITIALIZE_SIZE`] bytes.
    pub fn decode(bytes: &[u8]) -> Self {
        Self {
            format_version: get_u16(bytes, 8),
            host_alignment: bytes[10],
            digests: Digests::decode(bytes[11]),
            ready_to_transfer_max: u64::from(get_u32(bytes, 12)) + 1,
        }
    }

    /// The whole PDU.
    pub fn encode(&self) -> [u8; INITIALIZE_SIZE] {
        let mut bytes = [0; INITIALIZE_SIZE];
        encode_common(
            &mut bytes,
            Kind::InitializeRequest,
            0,
            0,
            INITIALIZE_SIZE as u32,
        );
        put_u16(&mut bytes, 8, self.format_version);
        bytes[10] = self.host_alignment;
        bytes[11] = self.digests.encode();
        put_u32(
            &mut bytes,
            12,
            (self.ready_to_transfer_max.clamp(1, 1 << 32) - 1) as u32,
        );
        bytes
    }
}

/// ICResp (3.6.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitializeResponse {
    /// PDU format version; 0 is the only one.
    pub format_version: u16,
    /// CPDA, 0 to 31.
    pub controller_alignment: u8,
    /// Digests in force: none that the host did not ask for.
    pub digests: Digests,
    /// MAXH2CDATA: most data in one H2CData, in bytes; a multiple of 4, at least 4,096.
    pub data_size_max: u32,
}

impl InitializeResponse {
    /// From [`INITIALIZE_SIZE`] bytes.
    pub fn decode(bytes: &[u8]) -> Self {
        Self {
            format_version: get_u16(bytes, 8),
            controller_alignment: bytes[10],
            digests: Digests::decode(bytes[11]),
            data_size_max: get_u32(bytes, 12),
        }
    }

    /// The whole PDU.
    pub fn encode(&self) -> [u8; INITIALIZE_SIZE] {
        let mut bytes = [0; INITIALIZE_SIZE];
        encode_common(
            &mut bytes,
            Kind::InitializeResponse,
            0,
            0,
            INITIALIZE_SIZE as u32,
        );
        put_u16(&mut bytes, 8, self.format_version);
        bytes[10] = self.controller_alignment;
        bytes[11] = self.digests.encode();
        put_u32(&mut bytes, 12, self.data_size_max);
        bytes
    }
}

/// H2CTermReq or C2HTermReq (3.6.2.4, 3.6.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminate {
    /// FES as it came; [`FatalError::decode`] names it.
    pub fes: u16,
    /// FEI.
    pub fei: u32,
}

impl Terminate {
    /// From a TermReq's header.
    pub fn decode(bytes: &[u8]) -> Self {
        Self {
            fes: get_u16(bytes, 8),
            fei: get_u32(bytes, 10),
        }
    }

    /// Writes a TermReq that `sender` sends for `reason`; `offending` is the header in error, of which up to
    /// 128 bytes are echoed. Returns the size of the PDU.
    pub fn encode(
        bytes: &mut [u8; TERMINATE_SIZE_MAX],
        sender: Receiver,
        reason: TermReason,
        offending: &[u8],
    ) -> usize {
        let kind = match sender {
            Receiver::Controller => Kind::ControllerTerminate,
            Receiver::Host => Kind::HostTerminate,
        };
        let echoed = &offending[..offending.len().min(INITIALIZE_SIZE)];
        let total_size = TERMINATE_HEADER_SIZE + echoed.len();
        bytes.fill(0);
        encode_common(bytes, kind, 0, 0, total_size as u32);
        put_u16(bytes, 8, reason.fes as u16);
        put_u32(bytes, 10, reason.fei);
        bytes[TERMINATE_HEADER_SIZE..total_size].copy_from_slice(echoed);
        total_size
    }
}

/// The command in a CapsuleCmd's header.
#[inline]
pub fn decode_command(bytes: &[u8]) -> Command {
    Command::decode(&bytes[COMMON_HEADER_SIZE..COMMAND_HEADER_SIZE])
}

/// Writes a CapsuleCmd's header, with its digest where `digests` say so, for `data_size` bytes of
/// in-capsule data (which, and whose digest, the caller appends at the returned offset).
///
/// `bytes` must hold the header, its digest and the padding of `alignment` (CPDA).
#[inline]
pub fn encode_command(
    bytes: &mut [u8],
    command: &Command,
    digests: Digests,
    alignment: u8,
    data_size: u32,
) -> usize {
    let offset = encode_with_data(
        bytes,
        Kind::Command,
        0,
        COMMAND_HEADER_SIZE,
        digests,
        alignment,
        data_size,
    );
    bytes[COMMON_HEADER_SIZE..COMMAND_HEADER_SIZE].copy_from_slice(&command.0);
    finish_header(bytes, COMMAND_HEADER_SIZE, digests, offset)
}

/// The completion in a CapsuleResp.
#[inline]
pub fn decode_response(bytes: &[u8]) -> Completion {
    Completion::decode(&bytes[COMMON_HEADER_SIZE..RESPONSE_HEADER_SIZE])
}

/// Writes a CapsuleResp, with its header digest where in use. Returns its size: 24 or 28.
#[inline]
pub fn encode_response(bytes: &mut [u8], completion: &Completion, header_digest: bool) -> usize {
    let digests = Digests {
        header: header_digest,
        data: false,
    };
    let offset = encode_with_data(
        bytes,
        Kind::Response,
        0,
        RESPONSE_HEADER_SIZE,
        digests,
        0,
        0,
    );
    completion.encode(&mut bytes[COMMON_HEADER_SIZE..RESPONSE_HEADER_SIZE]);
    finish_header(bytes, RESPONSE_HEADER_SIZE, digests, offset)
}

/// The fields of H2CData, C2HData and R2T, which lie at the same places (3.6.2.8 to 3.6.2.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// CCCID: the command this belongs to.
    pub command_id: u16,
    /// TTAG: the transfer tag of an R2T and of the data that answers it; reserved in C2HData.
    pub tag: u16,
    /// DATAO or R2TO: offset in the command's data, in bytes.
    pub offset: u32,
    /// DATAL or R2TL: size in bytes.
    pub size: u32,
}

impl Transfer {
    /// Offset of CCCID in the header, for [`TermReason::field`].
    pub const OFFSET_COMMAND_ID: u32 = 8;
    /// Offset of TTAG in the header, for [`TermReason::field`].
    pub const OFFSET_TAG: u32 = 10;
    /// Offset of DATAO or R2TO in the header, for [`TermReason::field`].
    pub const OFFSET_OFFSET: u32 = 12;
    /// Offset of DATAL or R2TL in the header, for [`TermReason::field`].
    pub const OFFSET_SIZE: u32 = 16;

    /// From the header of a data PDU or R2T.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Self {
        Self {
            command_id: get_u16(bytes, 8),
            tag: get_u16(bytes, 10),
            offset: get_u32(bytes, 12),
            size: get_u32(bytes, 16),
        }
    }

    #[inline]
    fn encode_fields(&self, bytes: &mut [u8]) {
        put_u16(bytes, 8, self.command_id);
        put_u16(bytes, 10, self.tag);
        put_u32(bytes, 12, self.offset);
        put_u32(bytes, 16, self.size);
        put_u32(bytes, 20, 0);
    }

    /// Writes the header of a data PDU (`kind` is [`Kind::HostData`] or [`Kind::ControllerData`]), with
    /// `flags` of [`FLAG_LAST`] and [`FLAG_SUCCESS`], its digest and the padding. Returns where the data goes.
    ///
    /// `bytes` must hold [`data_offset`] of a 24-byte header; the data digest is the caller's to append.
    #[inline]
    pub fn encode_data(
        &self,
        bytes: &mut [u8],
        kind: Kind,
        flags: u8,
        digests: Digests,
        alignment: u8,
    ) -> usize {
        debug_assert!(matches!(kind, Kind::HostData | Kind::ControllerData));
        let offset = encode_with_data(
            bytes,
            kind,
            flags,
            DATA_HEADER_SIZE,
            digests,
            alignment,
            self.size,
        );
        self.encode_fields(bytes);
        finish_header(bytes, DATA_HEADER_SIZE, digests, offset)
    }

    /// Writes an R2T, with its header digest where in use. Returns its size: 24 or 28.
    #[inline]
    pub fn encode_ready(&self, bytes: &mut [u8], header_digest: bool) -> usize {
        let digests = Digests {
            header: header_digest,
            data: false,
        };
        let offset = encode_with_data(
            bytes,
            Kind::ReadyToTransfer,
            0,
            DATA_HEADER_SIZE,
            digests,
            0,
            0,
        );
        self.encode_fields(bytes);
        finish_header(bytes, DATA_HEADER_SIZE, digests, offset)
    }
}

/// Writes the common header of a PDU that may have digests; where its data, or the PDU, ends up.
#[inline]
fn encode_with_data(
    bytes: &mut [u8],
    kind: Kind,
    flags: u8,
    header_size: usize,
    digests: Digests,
    alignment: u8,
    data_size: u32,
) -> usize {
    let mut flags = flags;
    if digests.header {
        flags |= FLAG_HEADER_DIGEST;
    }
    if data_size == 0 {
        let total_size = data_offset(header_size, digests.header, 0);
        encode_common(bytes, kind, flags, 0, total_size as u32);
        return total_size;
    }
    let offset = data_offset(header_size, digests.header, alignment);
    let mut total_size = offset as u32 + data_size;
    if digests.data {
        flags |= FLAG_DATA_DIGEST;
        total_size += DIGEST_SIZE as u32;
    }
    encode_common(bytes, kind, flags, offset as u8, total_size);
    offset
}

/// Appends the header digest and zeroes the padding up to `end`, which it returns.
#[inline]
fn finish_header(bytes: &mut [u8], header_size: usize, digests: Digests, end: usize) -> usize {
    let mut filled = header_size;
    if digests.header {
        put_header_digest(bytes, header_size);
        filled += DIGEST_SIZE;
    }
    bytes[filled..end].fill(0);
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::command::DataPointer;
    use crate::nvme::opcode;
    use crate::nvme::status::Status;
    use proptest::prelude::*;

    const PLAIN: Digests = Digests {
        header: false,
        data: false,
    };
    const BOTH: Digests = Digests {
        header: true,
        data: true,
    };

    fn rules(receiver: Receiver, digests: Digests) -> Rules {
        Rules {
            receiver,
            header_digest: digests.header,
            data_digest: digests.data,
            alignment: 0,
            capsule_data_size_max: 8192,
            data_size_max: 131_072,
        }
    }

    /// The ICReq that a Linux host sends: no alignment, no digests, one R2T.
    #[test]
    fn a_known_initialize_request() {
        let request = InitializeRequest {
            format_version: 0,
            host_alignment: 0,
            digests: PLAIN,
            ready_to_transfer_max: 1,
        };
        let bytes = request.encode();
        let mut expected = [0; 128];
        expected[2] = 128;
        expected[4] = 128;
        assert_eq!(bytes, expected);
        let layout = decode_header(&bytes, &rules(Receiver::Controller, PLAIN)).unwrap();
        assert_eq!(
            (layout.kind, layout.total_size),
            (Kind::InitializeRequest, 128)
        );
        assert_eq!(InitializeRequest::decode(&bytes), request);
    }

    #[test]
    fn a_known_initialize_response() {
        let response = InitializeResponse {
            format_version: 0,
            controller_alignment: 3,
            digests: BOTH,
            data_size_max: 131_072,
        };
        let bytes = response.encode();
        assert_eq!(
            bytes[..16],
            [1, 0, 128, 0, 128, 0, 0, 0, 0, 0, 3, 3, 0, 0, 2, 0]
        );
        assert_eq!(InitializeResponse::decode(&bytes), response);
    }

    #[test]
    fn a_known_response_with_digest() {
        let mut bytes = [0; 28];
        let completion = Completion::new(5, Status::SUCCESS);
        assert_eq!(encode_response(&mut bytes, &completion, true), 28);
        assert_eq!(bytes[..8], [5, 1, 24, 0, 28, 0, 0, 0]);
        assert_eq!(check_header_digest(&bytes, 24), Ok(()));
        bytes[9] ^= 1;
        assert!(matches!(
            check_header_digest(&bytes, 24),
            Err(TermReason {
                fes: FatalError::HeaderDigestError,
                ..
            })
        ));
    }

    /// RFC 3720, B.4: the CRC of 32 zero bytes is AA 36 91 8A on the wire.
    #[test]
    fn digest_of_known_bytes() {
        assert_eq!(digest(&[0; 32]).to_le_bytes(), [0xAA, 0x36, 0x91, 0x8A]);
        assert_eq!(digest_append(digest(&[0; 10]), &[0; 22]), digest(&[0; 32]));
    }

    #[test]
    fn terminate_echoes_the_header_in_error() {
        let mut bytes = [0xFF; TERMINATE_SIZE_MAX];
        let reason = TermReason::field(0x010203);
        let size = Terminate::encode(&mut bytes, Receiver::Controller, reason, &[7; 200]);
        assert_eq!(size, 152);
        assert_eq!(
            bytes[..16],
            [3, 0, 24, 0, 152, 0, 0, 0, 1, 0, 3, 2, 1, 0, 0, 0]
        );
        assert_eq!(bytes[24..152], [7; 128]);
        let layout = decode_header(&bytes, &rules(Receiver::Host, BOTH)).unwrap();
        assert_eq!((layout.data_offset, layout.data_size), (24, 128));
        assert_eq!(
            Terminate::decode(&bytes),
            Terminate {
                fes: 1,
                fei: 0x010203
            }
        );
        assert_eq!(FatalError::decode(1), Some(FatalError::InvalidHeaderField));
        assert_eq!(FatalError::decode(7), None);
    }

    /// Each field of a good command capsule broken in turn, and the TermReq that each deserves.
    #[test]
    fn every_header_field_is_checked() {
        let mut good = [0; 128];
        let mut command = Command::block_io(opcode::io::WRITE, 1, 0, 1);
        command.set_data_pointer(DataPointer::in_capsule(0, 512));
        assert_eq!(encode_command(&mut good, &command, PLAIN, 0, 512), 72);
        let rules = rules(Receiver::Controller, PLAIN);
        let layout = decode_header(&good, &rules).unwrap();
        assert_eq!(
            (layout.data_offset, layout.data_size, layout.total_size),
            (72, 512, 584)
        );
        assert_eq!(decode_command(&good), command);
        let broken = |offset: usize, value: u8| {
            let mut bytes = good;
            bytes[offset] = value;
            decode_header(&bytes, &rules).unwrap_err()
        };
        assert_eq!(broken(0, 0x0A), TermReason::field(0), "a reserved type");
        assert_eq!(
            broken(0, 0x07),
            TermReason::field(0),
            "a type for the other end"
        );
        assert_eq!(broken(1, FLAG_HEADER_DIGEST), TermReason::field(1));
        assert_eq!(broken(1, FLAG_DATA_DIGEST), TermReason::field(1));
        assert_eq!(broken(2, 71), TermReason::field(2));
        assert_eq!(
            broken(3, 71),
            TermReason::field(3),
            "data inside the header"
        );
        assert_eq!(broken(3, 74), TermReason::field(3), "data not aligned");
        let sized = |size: u32| {
            let mut bytes = good;
            put_u32(&mut bytes, 4, size);
            decode_header(&bytes, &rules)
        };
        assert_eq!(sized(71), Err(TermReason::field(4)));
        assert_eq!(sized(72).map(|layout| layout.data_size), Ok(0));
        assert_eq!(sized(72 + 8192).map(|layout| layout.data_size), Ok(8192));
        assert_eq!(sized(72 + 8193), Err(TermReason::field(4)));
        assert_eq!(sized(u32::MAX), Err(TermReason::field(4)));
    }

    #[test]
    fn data_limits_and_empty_data() {
        let transfer = Transfer {
            command_id: 1,
            tag: 2,
            offset: 0,
            size: 131_076,
        };
        let mut bytes = [0; 24];
        transfer.encode_data(&mut bytes, Kind::HostData, FLAG_LAST, PLAIN, 0);
        let rules = rules(Receiver::Controller, PLAIN);
        assert_eq!(
            decode_header(&bytes, &rules),
            Err(TermReason::limit_exceeded())
        );
        put_u32(&mut bytes, 4, 24);
        assert_eq!(decode_header(&bytes, &rules), Err(TermReason::field(4)));
    }

    #[test]
    fn a_known_ready_to_transfer() {
        let transfer = Transfer {
            command_id: 0x0201,
            tag: 0x0403,
            offset: 8,
            size: 4096,
        };
        let mut bytes = [0xFF; 28];
        assert_eq!(transfer.encode_ready(&mut bytes, false), 24);
        assert_eq!(
            bytes[..24],
            [
                9, 0, 24, 0, 24, 0, 0, 0, 1, 2, 3, 4, 8, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0
            ]
        );
        let layout = decode_header(&bytes, &rules(Receiver::Host, PLAIN)).unwrap();
        assert_eq!((layout.kind, layout.data_size), (Kind::ReadyToTransfer, 0));
        assert_eq!(Transfer::decode(&bytes), transfer);
    }

    proptest! {
        /// Whatever the digests and the alignment: what is encoded is decoded, and data lies where both say.
        #[test]
        fn data_pdus_come_back(
            command_id: u16, tag: u16, offset: u32, size in 1u32..=131_072,
            header: bool, data: bool, alignment in 0u8..=ALIGNMENT_MAX, last: bool, to_host: bool,
        ) {
            let digests = Digests { header, data };
            let transfer = Transfer { command_id, tag, offset, size };
            let (kind, receiver) = if to_host {
                (Kind::ControllerData, Receiver::Host)
            } else {
                (Kind::HostData, Receiver::Controller)
            };
            let flags = if last { FLAG_LAST } else { 0 };
            let mut bytes = [0xAA; 256];
            let at = transfer.encode_data(&mut bytes, kind, flags, digests, alignment);
            prop_assert_eq!(at, data_offset(DATA_HEADER_SIZE, header, alignment));
            let layout = decode_header(&bytes, &Rules { alignment, ..rules(receiver, digests) }).unwrap();
            prop_assert_eq!(layout.data_offset as usize, at);
            prop_assert_eq!(layout.data_size, size);
            prop_assert_eq!(layout.total_size, at as u32 + size + if data { 4 } else { 0 });
            prop_assert_eq!(layout.flags & FLAG_LAST, flags);
            prop_assert_eq!((layout.header_digest, layout.data_digest), (header, data));
            prop_assert_eq!(Transfer::decode(&bytes), transfer);
            if header {
                prop_assert_eq!(check_header_digest(&bytes, DATA_HEADER_SIZE), Ok(()));
            }
        }

        /// Any eight bytes are either refused or laid out within their own total size and the limits.
        #[test]
        fn any_header_is_refused_or_consistent(
            bytes: [u8; 8], kind in 0u8..12, exact: bool,
            header: bool, data: bool, alignment in 0u8..=ALIGNMENT_MAX, host: bool,
        ) {
            let mut bytes = bytes;
            bytes[0] = kind;
            if let Some(kind) = Kind::decode(kind).filter(|_| exact) {
                bytes[2] = kind.header_size() as u8;
                bytes[6..].fill(0);
            }
            let receiver = if host { Receiver::Host } else { Receiver::Controller };
            let rules = Rules { alignment, ..rules(receiver, Digests { header, data }) };
            if let Ok(layout) = decode_header(&bytes, &rules) {
                prop_assert_eq!(layout.kind.receiver(), receiver);
                prop_assert_eq!(layout.header_size as usize, layout.kind.header_size());
                let digests = if layout.data_digest { 4 } else { 0 };
                prop_assert_eq!(layout.data_offset + layout.data_size + digests, layout.total_size);
                prop_assert!(layout.data_offset >= layout.header_size + if layout.header_digest { 4 } else { 0 });
                prop_assert!(layout.data_size <= rules.data_size_max);
            }
        }
    }
}
