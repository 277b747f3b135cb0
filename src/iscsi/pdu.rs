//! PDUs as bytes (RFC 7143, 11): the basic header segment, and what all PDUs have in common.

/// Bytes of the basic header segment.
pub const HEADER_BYTES: usize = 48;

/// Bytes of a header or data digest.
pub const DIGEST_BYTES: usize = 4;

/// The tag that names nothing.
pub const NO_TAG: u32 = 0xFFFF_FFFF;

/// Most bytes of a data segment before the full feature phase (RFC 7143, 6.1): the default of MaxRecvDataSegmentLength.
pub const LOGIN_BYTES_MAX: usize = 8192;

/// Operation codes (RFC 7143, 11.2.1.2).
#[allow(missing_docs)]
pub mod opcode {
    pub const NOP_OUT: u8 = 0x00;
    pub const COMMAND: u8 = 0x01;
    pub const TASK_MANAGEMENT: u8 = 0x02;
    pub const LOGIN: u8 = 0x03;
    pub const TEXT: u8 = 0x04;
    pub const DATA_OUT: u8 = 0x05;
    pub const LOGOUT: u8 = 0x06;
    pub const SNACK: u8 = 0x10;
    pub const NOP_IN: u8 = 0x20;
    pub const RESPONSE: u8 = 0x21;
    pub const TASK_MANAGEMENT_RESPONSE: u8 = 0x22;
    pub const LOGIN_RESPONSE: u8 = 0x23;
    pub const TEXT_RESPONSE: u8 = 0x24;
    pub const DATA_IN: u8 = 0x25;
    pub const LOGOUT_RESPONSE: u8 = 0x26;
    pub const READY: u8 = 0x31;
    pub const ASYNC: u8 = 0x32;
    pub const REJECT: u8 = 0x3F;
}

/// I of a request: to be carried out at once (RFC 7143, 11.2.1.1).
pub const IMMEDIATE: u8 = 0x40;

/// F: the last PDU of its kind.
pub const FINAL: u8 = 0x80;

/// T of a login PDU: on to the next stage (RFC 7143, 11.12.1).
pub const TRANSIT: u8 = 0x80;

/// C of a login or text PDU: more text follows (RFC 7143, 11.10.2, 11.12.2).
pub const CONTINUES: u8 = 0x40;

/// R of a SCSI command: data comes from the target (RFC 7143, 11.3.1).
pub const READS: u8 = 0x40;

/// W of a SCSI command: data goes to the target (RFC 7143, 11.3.1).
pub const WRITES: u8 = 0x20;

/// O of a response or Data-In: there was more data than expected (RFC 7143, 11.4.1).
pub const OVERFLOW: u8 = 0x04;

/// U of a response or Data-In: there was less (RFC 7143, 11.4.1).
pub const UNDERFLOW: u8 = 0x02;

/// S of a Data-In: it carries the status (RFC 7143, 11.7.3).
pub const STATUS: u8 = 0x01;

/// Why a PDU is rejected (RFC 7143, 11.17.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RejectReason {
    /// Its data digest does not match.
    DataDigest = 0x02,
    /// A SNACK, which error recovery level 0 does not have.
    Snack = 0x03,
    /// It breaks the protocol.
    Protocol = 0x04,
    /// Not supported here.
    NotSupported = 0x05,
    /// More immediate commands than there is room for.
    TooManyImmediate = 0x06,
    /// A field is wrong.
    InvalidField = 0x09,
}

/// A basic header segment that came from an initiator, or goes to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header(pub [u8; HEADER_BYTES]);

impl Header {
    /// A header of a kind, with its flags.
    #[inline]
    pub fn new(opcode: u8, flags: u8) -> Self {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = opcode;
        bytes[1] = flags;
        Self(bytes)
    }

    /// Operation code.
    #[inline]
    pub fn opcode(&self) -> u8 {
        self.0[0] & 0x3F
    }

    /// I: to be carried out at once.
    #[inline]
    pub fn is_immediate(&self) -> bool {
        self.0[0] & IMMEDIATE != 0
    }

    /// The flags in byte 1.
    #[inline]
    pub fn flags(&self) -> u8 {
        self.0[1]
    }

    /// Whether F is set.
    #[inline]
    pub fn is_final(&self) -> bool {
        self.0[1] & FINAL != 0
    }

    /// Bytes of additional header segments.
    #[inline]
    pub fn additional_bytes(&self) -> usize {
        usize::from(self.0[4]) * 4
    }

    /// Bytes of the data segment, without padding.
    #[inline]
    pub fn data_bytes(&self) -> usize {
        usize::from(self.0[5]) << 16 | usize::from(self.0[6]) << 8 | usize::from(self.0[7])
    }

    /// Four bytes.
    #[inline]
    pub fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    /// Two bytes.
    pub fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    /// LUN.
    #[inline]
    pub fn lun(&self) -> [u8; 8] {
        std::array::from_fn(|index| self.0[8 + index])
    }

    /// Initiator task tag.
    #[inline]
    pub fn task_tag(&self) -> u32 {
        self.u32(16)
    }

    /// Target transfer tag.
    #[inline]
    pub fn transfer_tag(&self) -> u32 {
        self.u32(20)
    }

    /// Sets four bytes.
    #[inline]
    pub fn put(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    /// Sets two bytes.
    pub fn put_u16(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }

    /// Sets LUN.
    pub fn put_lun(&mut self, lun: [u8; 8]) {
        self.0[8..16].copy_from_slice(&lun);
    }

    /// Sets the length of the data segment.
    #[inline]
    pub fn put_data_bytes(&mut self, size: usize) {
        debug_assert!(size < 1 << 24);
        self.0[5..8].copy_from_slice(&(size as u32).to_be_bytes()[1..]);
    }
}

/// How a PDU lies in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes before the data segment: headers and their digest.
    pub head: usize,
    /// Bytes of the data segment.
    pub data: usize,
    /// Bytes that follow it: padding to a multiple of four, and the digest.
    pub tail: usize,
    /// Whether the tail ends in a digest.
    pub data_digest: bool,
}

impl Layout {
    /// The layout of a PDU on a connection with these digests (RFC 7143, 11.2.1).
    #[inline]
    pub fn of(header: &Header, header_digest: bool, data_digest: bool) -> Self {
        let data = header.data_bytes();
        let data_digest = data_digest && data > 0;
        Self {
            head: HEADER_BYTES
                + header.additional_bytes()
                + usize::from(header_digest) * DIGEST_BYTES,
            data,
            tail: padding(data) + usize::from(data_digest) * DIGEST_BYTES,
            data_digest,
        }
    }

    /// All of it.
    #[inline]
    pub fn total(&self) -> usize {
        self.head + self.data + self.tail
    }
}

/// Bytes that fill up a data segment.
#[inline]
pub fn padding(bytes: usize) -> usize {
    bytes.wrapping_neg() & 3
}

/// CRC32C as it is sent (RFC 7143, 13.1): least significant byte first.
#[inline]
pub fn digest(parts: &[&[u8]]) -> [u8; DIGEST_BYTES] {
    let mut sum = 0;
    for part in parts {
        sum = crc32c::crc32c_append(sum, part);
    }
    sum.to_le_bytes()
}

/// Whether `a` comes before `b` (RFC 1982; RFC 7143, 4.2.2.1).
#[inline]
pub fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7143, 13.1 and RFC 3720, B.4: the digests of known bytes.
    #[test]
    fn digests_of_the_standards_examples() {
        assert_eq!(digest(&[&[0; 32]]), [0xAA, 0x36, 0x91, 0x8A]);
        assert_eq!(
            digest(&[&[0xFF; 16], &[0xFF; 16]]),
            [0x43, 0xAB, 0xA8, 0x62]
        );
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(digest(&[&rising]), [0x4E, 0x79, 0xDD, 0x46]);
    }

    #[test]
    fn serial_numbers_wrap() {
        assert!(is_before(1, 2) && !is_before(2, 1) && !is_before(2, 2));
        assert!(is_before(0xFFFF_FFFF, 0) && !is_before(0, 0xFFFF_FFFF));
    }

    #[test]
    fn a_layout_counts_padding_and_digests() {
        let mut header = Header::new(opcode::NOP_OUT, FINAL);
        header.put_data_bytes(5);
        header.0[4] = 2;
        let layout = Layout::of(&header, true, true);
        assert_eq!((layout.head, layout.data, layout.tail), (60, 5, 7));
        header.put_data_bytes(0);
        assert_eq!(Layout::of(&header, false, true).tail, 0);
    }
}
