//! NVMe/TCP protocol data units (NVMe/TCP Transport 1.0, 3.6.2).
//!
//! A receiver hands the first eight bytes of a PDU to [`decode_header`], which checks everything the
//! common header says against what was negotiated and answers where digests and data lie, or with the
//! reason for the TermReq that has to follow. Only then are the PDU's own fields decoded: they are at
//! fixed places, so those decoders cannot fail.

use super::bytes::{get_u16, get_u32, put_u16, put_u32};
use super::command::{Command, Completion};

pub use super::header::{
    ALIGNMENT_MAX, COMMAND_HEADER_SIZE, COMMON_HEADER_SIZE, DATA_HEADER_SIZE, DATA_SIZE_MAX_LEAST,
    DIGEST_SIZE, FLAG_DATA_DIGEST, FLAG_HEADER_DIGEST, FLAG_LAST, FLAG_SUCCESS, FatalError,
    HEADER_SIZE_MAX, INITIALIZE_SIZE, Kind, Layout, RESPONSE_HEADER_SIZE, Receiver, Rules,
    TERMINATE_HEADER_SIZE, TERMINATE_SIZE_MAX, TermReason, data_offset, decode_header,
};

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

    /// Checks what a data PDU's fields have to obey whatever the command: the offset is a multiple of four
    /// bytes, the size too, and the size is that of the data in the PDU (3.6.2.8, 3.6.2.9).
    ///
    /// # Errors
    ///
    /// The TermReq that names the field.
    #[inline]
    pub const fn check(&self, layout: &Layout) -> Result<(), TermReason> {
        if !self.offset.is_multiple_of(4) {
            return Err(TermReason::field(Self::OFFSET_OFFSET));
        }
        if self.size != layout.data_size || !self.size.is_multiple_of(4) {
            return Err(TermReason::field(Self::OFFSET_SIZE));
        }
        Ok(())
    }

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
        let mut two = good;
        two[1] = FLAG_DATA_DIGEST;
        two[2] = 71;
        assert_eq!(
            decode_header(&two, &rules),
            Err(TermReason::field(1)),
            "the first of two"
        );
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
                let head = layout.header_size + if layout.header_digest { 4 } else { 0 };
                prop_assert!(layout.data_offset >= head);
                prop_assert!(layout.data_size <= rules.data_size_max);
            }
        }
    }
}
