//! Submission and completion queue entries (NVMe Base 2.0, 3.3.3).

use super::bytes::{get_array, get_u16, get_u32, get_u64, put_u16, put_u32, put_u64};
use super::opcode;
use super::status::Status;

/// Size of a submission queue entry in bytes.
pub const COMMAND_SIZE: usize = 64;

/// Size of a completion queue entry in bytes.
pub const COMPLETION_SIZE: usize = 16;

/// Whether a command is one half of a fused operation (bits 09:08 of command dword 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fuse {
    /// A command on its own.
    Normal,
    /// The first of two.
    First,
    /// The second of two.
    Second,
    /// 11b, which the standard reserves.
    Reserved,
}

/// A submission queue entry, kept as the 64 bytes it is; accessors read fields where they lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Command(pub [u8; COMMAND_SIZE]);

impl Default for Command {
    fn default() -> Self {
        Self([0; COMMAND_SIZE])
    }
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Command")
            .field("opcode", &format_args!("{:02X}h", self.opcode()))
            .field("command_id", &self.command_id())
            .field("nsid", &self.nsid())
            .field("data", &self.data_pointer())
            .field("dword10", &format_args!("{:08X}h", self.dword(10)))
            .field("dword11", &format_args!("{:08X}h", self.dword(11)))
            .field("dword12", &format_args!("{:08X}h", self.dword(12)))
            .finish()
    }
}

/// Force Unit Access: bit 30 of command dword 12 of Read, Write, Compare, Write Zeroes, Verify.
const FORCE_UNIT_ACCESS: u32 = 1 << 30;
/// Limited Retry: bit 31 of command dword 12.
const LIMITED_RETRY: u32 = 1 << 31;
/// Deallocate: bit 25 of command dword 12 of Write Zeroes.
const DEALLOCATE: u32 = 1 << 25;
/// Protection information action and checks: bits 29:26 of command dword 12.
const PROTECTION: u32 = 0xF << 26;

impl Command {
    /// A command with this operation code and namespace, whose other fields are zero and whose data
    /// pointer is an SGL (the only form fabrics has; NVMe Base 2.0, 2.2.4).
    pub fn new(opcode: u8, nsid: u32) -> Self {
        let mut command = Self::default();
        command.0[0] = opcode;
        command.0[1] = 0x40;
        put_u32(&mut command.0, 4, nsid);
        command
    }

    /// A read, write, compare or verify of `block_count` (1 to 65,536) blocks from `lba`.
    pub fn block_io(opcode: u8, nsid: u32, lba: u64, block_count: u32) -> Self {
        let mut command = Self::new(opcode, nsid);
        command.set_range(lba, block_count);
        command
    }

    /// From the first 64 bytes of `bytes`.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Self {
        Self(get_array(bytes, 0))
    }

    /// Operation code.
    #[inline]
    pub fn opcode(&self) -> u8 {
        self.0[0]
    }

    /// Fused operation.
    #[inline]
    pub fn fuse(&self) -> Fuse {
        match self.0[1] & 3 {
            0 => Fuse::Normal,
            1 => Fuse::First,
            2 => Fuse::Second,
            _ => Fuse::Reserved,
        }
    }

    /// Sets the fused operation field.
    pub fn set_fuse(&mut self, fuse: Fuse) {
        let bits = match fuse {
            Fuse::Normal => 0,
            Fuse::First => 1,
            Fuse::Second => 2,
            Fuse::Reserved => 3,
        };
        self.0[1] = self.0[1] & !3 | bits;
    }

    /// PRP or SGL for Data Transfer: 0 PRP, 1 SGL with a metadata buffer, 2 SGL with a metadata SGL.
    /// Fabrics allows 1 and 2 (NVMe Base 2.0, 3.3.3.1).
    #[inline]
    pub fn data_transfer_form(&self) -> u8 {
        self.0[1] >> 6
    }

    /// Sets the PRP or SGL field (0 to 3).
    pub fn set_data_transfer_form(&mut self, form: u8) {
        self.0[1] = self.0[1] & 0x3F | form << 6;
    }

    /// Command identifier.
    #[inline]
    pub fn command_id(&self) -> u16 {
        get_u16(&self.0, 2)
    }

    /// Sets the command identifier.
    #[inline]
    pub fn set_command_id(&mut self, command_id: u16) {
        put_u16(&mut self.0, 2, command_id);
    }

    /// Namespace identifier.
    #[inline]
    pub fn nsid(&self) -> u32 {
        get_u32(&self.0, 4)
    }

    /// Sets the namespace identifier.
    pub fn set_nsid(&mut self, nsid: u32) {
        put_u32(&mut self.0, 4, nsid);
    }

    /// Fabrics command type, where the operation code is [`opcode::FABRICS`].
    #[inline]
    pub fn fabrics_type(&self) -> u8 {
        self.0[4]
    }

    /// Metadata pointer.
    pub fn metadata_pointer(&self) -> u64 {
        get_u64(&self.0, 16)
    }

    /// SGL descriptor 1, the only one an NVMe/TCP command carries.
    #[inline]
    pub fn data_pointer(&self) -> DataPointer {
        DataPointer::decode(&self.0[24..40])
    }

    /// Sets SGL descriptor 1.
    #[inline]
    pub fn set_data_pointer(&mut self, pointer: DataPointer) {
        pointer.encode(&mut self.0[24..40]);
    }

    /// Command dword `index` (0 to 15).
    #[inline]
    pub fn dword(&self, index: usize) -> u32 {
        get_u32(&self.0, index * 4)
    }

    /// Sets command dword `index` (0 to 15).
    #[inline]
    pub fn set_dword(&mut self, index: usize, value: u32) {
        put_u32(&mut self.0, index * 4, value);
    }

    /// First logical block: command dwords 10 and 11.
    #[inline]
    pub fn lba(&self) -> u64 {
        get_u64(&self.0, 40)
    }

    /// Number of logical blocks, 1 to 65,536: bits 15:00 of command dword 12 plus one.
    #[inline]
    pub fn block_count(&self) -> u32 {
        u32::from(get_u16(&self.0, 48)) + 1
    }

    /// Sets first block and number of blocks (1 to 65,536).
    #[inline]
    pub fn set_range(&mut self, lba: u64, block_count: u32) {
        debug_assert!((1..=0x1_0000).contains(&block_count));
        put_u64(&mut self.0, 40, lba);
        put_u16(&mut self.0, 48, (block_count - 1) as u16);
    }

    /// Whether Force Unit Access is set.
    #[inline]
    pub fn is_force_unit_access(&self) -> bool {
        self.dword(12) & FORCE_UNIT_ACCESS != 0
    }

    /// Sets Force Unit Access.
    pub fn set_force_unit_access(&mut self) {
        self.set_dword(12, self.dword(12) | FORCE_UNIT_ACCESS);
    }

    /// Whether Limited Retry is set.
    pub fn is_limited_retry(&self) -> bool {
        self.dword(12) & LIMITED_RETRY != 0
    }

    /// Sets Limited Retry.
    pub fn set_limited_retry(&mut self) {
        self.set_dword(12, self.dword(12) | LIMITED_RETRY);
    }

    /// Whether a Write Zeroes asks that its blocks be deallocated.
    pub fn is_deallocate(&self) -> bool {
        self.dword(12) & DEALLOCATE != 0
    }

    /// Sets Write Zeroes' deallocate bit.
    pub fn set_deallocate(&mut self) {
        self.set_dword(12, self.dword(12) | DEALLOCATE);
    }

    /// Whether any protection information action or check is asked for (bits 29:26 of dword 12).
    pub fn is_protection(&self) -> bool {
        self.dword(12) & PROTECTION != 0
    }

    /// Dataset Management: number of ranges, 1 to 256 (NVM Command Set 1.0, 3.2.3).
    pub fn range_count(&self) -> u32 {
        (self.dword(10) & 0xFF) + 1
    }

    /// Dataset Management: whether the ranges are to be deallocated (bit 2 of dword 11).
    pub fn is_dataset_deallocate(&self) -> bool {
        self.dword(11) & 1 << 2 != 0
    }

    /// Identify: controller or namespace structure (NVMe Base 2.0, 5.17.1).
    pub fn identify_structure(&self) -> u8 {
        self.0[40]
    }

    /// Identify: controller identifier (bits 31:16 of dword 10).
    pub fn identify_controller_id(&self) -> u16 {
        get_u16(&self.0, 42)
    }

    /// Identify: command set identifier (bits 31:24 of dword 11).
    pub fn identify_command_set(&self) -> u8 {
        self.0[47]
    }

    /// Get Log Page: log identifier (NVMe Base 2.0, 5.16).
    pub fn log_id(&self) -> u8 {
        self.0[40]
    }

    /// Get Log Page: log specific field (bits 14:08 of dword 10).
    pub fn log_specific(&self) -> u8 {
        self.0[41] & 0x7F
    }

    /// Get Log Page: retain asynchronous event (bit 15 of dword 10).
    pub fn is_retain_event(&self) -> bool {
        self.0[41] & 0x80 != 0
    }

    /// Get Log Page: bytes asked for (NUMDU and NUMDL, a 0's based count of dwords).
    pub fn log_size(&self) -> u64 {
        let dwords = u64::from(get_u16(&self.0, 42)) | u64::from(get_u16(&self.0, 44)) << 16;
        (dwords + 1) * 4
    }

    /// Get Log Page: offset in bytes (dwords 12 and 13).
    pub fn log_offset(&self) -> u64 {
        get_u64(&self.0, 48)
    }

    /// Get Log Page: whether the offset is an index of a list of structures (bit 23 of dword 14).
    pub fn is_log_offset_index(&self) -> bool {
        self.dword(14) & 1 << 23 != 0
    }

    /// A Get Log Page of `size` bytes (a multiple of 4) from `offset`.
    pub fn get_log_page(nsid: u32, log_id: u8, size: u32, offset: u64) -> Self {
        debug_assert!(size >= 4 && size.is_multiple_of(4));
        let mut command = Self::new(opcode::admin::GET_LOG_PAGE, nsid);
        let dwords = size / 4 - 1;
        command.set_dword(10, u32::from(log_id) | dwords << 16);
        command.set_dword(11, dwords >> 16);
        put_u64(&mut command.0, 48, offset);
        command
    }

    /// An Identify for this structure.
    pub fn identify(structure: u8, nsid: u32) -> Self {
        let mut command = Self::new(opcode::admin::IDENTIFY, nsid);
        command.set_dword(10, u32::from(structure));
        command
    }

    /// Get and Set Features: feature identifier.
    pub fn feature_id(&self) -> u8 {
        self.0[40]
    }

    /// Set Features: whether the value is to be saved (bit 31 of dword 10).
    pub fn is_feature_save(&self) -> bool {
        self.0[43] & 0x80 != 0
    }

    /// Abort: the submission queue and the command identifier to abort (NVMe Base 2.0, 5.1).
    pub fn abort_target(&self) -> (u16, u16) {
        (get_u16(&self.0, 40), get_u16(&self.0, 42))
    }
}

/// One SGL descriptor (NVMe Base 2.0, 4.1.2). NVMe/TCP knows two: data inside the command capsule and
/// data that the transport moves in PDUs (NVMe/TCP Transport 1.0, 3.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataPointer {
    /// Address, or for in-capsule data the offset from the start of the capsule's data.
    pub address: u64,
    /// Length in bytes.
    pub size: u32,
    /// Descriptor type (upper half) and sub type (lower half).
    pub identifier: u8,
}

impl DataPointer {
    /// SGL Data Block with an offset: data is in the capsule.
    pub const IN_CAPSULE: u8 = 0x01;
    /// Transport SGL Data Block, transport specific: data goes in data PDUs.
    pub const TRANSPORT: u8 = 0x5A;

    /// Data of `size` bytes in the capsule, `offset` bytes into its data.
    pub const fn in_capsule(offset: u64, size: u32) -> Self {
        Self {
            address: offset,
            size,
            identifier: Self::IN_CAPSULE,
        }
    }

    /// Data of `size` bytes that the transport moves.
    pub const fn transport(size: u32) -> Self {
        Self {
            address: 0,
            size,
            identifier: Self::TRANSPORT,
        }
    }

    /// From 16 bytes.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Self {
        Self {
            address: get_u64(bytes, 0),
            size: get_u32(bytes, 8),
            identifier: bytes[15],
        }
    }

    /// Into 16 bytes.
    #[inline]
    pub fn encode(&self, bytes: &mut [u8]) {
        put_u64(bytes, 0, self.address);
        put_u32(bytes, 8, self.size);
        bytes[12..15].fill(0);
        bytes[15] = self.identifier;
    }

    /// Descriptor type: 0h data block, 1h bit bucket, 2h segment, 3h last segment, 4h keyed, 5h transport.
    pub const fn descriptor_type(&self) -> u8 {
        self.identifier >> 4
    }

    /// Descriptor sub type: 0h address, 1h offset, Ah to Fh transport specific.
    pub const fn descriptor_subtype(&self) -> u8 {
        self.identifier & 0xF
    }
}

/// A completion queue entry (NVMe Base 2.0, 3.3.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Completion {
    /// Dwords 0 and 1: command specific result.
    pub result: u64,
    /// How far the submission queue was consumed; reserved where flow control is disabled.
    pub queue_head: u16,
    /// Submission queue; reserved in fabrics.
    pub queue_id: u16,
    /// The command this completes.
    pub command_id: u16,
    /// How it ended.
    pub status: Status,
}

impl Completion {
    /// A completion with this status and no result.
    #[inline]
    pub const fn new(command_id: u16, status: Status) -> Self {
        Self {
            result: 0,
            queue_head: 0,
            queue_id: 0,
            command_id,
            status,
        }
    }

    /// From 16 bytes.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Self {
        Self {
            result: get_u64(bytes, 0),
            queue_head: get_u16(bytes, 8),
            queue_id: get_u16(bytes, 10),
            command_id: get_u16(bytes, 12),
            status: Status::from_bits(get_u16(bytes, 14)),
        }
    }

    /// Into 16 bytes, with the phase bit clear (fabrics has none).
    #[inline]
    pub fn encode(&self, bytes: &mut [u8]) {
        put_u64(bytes, 0, self.result);
        put_u16(bytes, 8, self.queue_head);
        put_u16(bytes, 10, self.queue_id);
        put_u16(bytes, 12, self.command_id);
        put_u16(bytes, 14, self.status.bits());
    }
}

/// One range of a Dataset Management command: 16 bytes (NVM Command Set 1.0, 3.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatasetRange {
    /// Hints that polldm does not use.
    pub context: u32,
    /// Number of logical blocks; not 0's based.
    pub block_count: u32,
    /// First logical block.
    pub lba: u64,
}

impl DatasetRange {
    /// Size of a range in bytes.
    pub const SIZE: usize = 16;

    /// From 16 bytes.
    pub fn decode(bytes: &[u8]) -> Self {
        Self {
            context: get_u32(bytes, 0),
            block_count: get_u32(bytes, 4),
            lba: get_u64(bytes, 8),
        }
    }

    /// Into 16 bytes.
    pub fn encode(&self, bytes: &mut [u8]) {
        put_u32(bytes, 0, self.context);
        put_u32(bytes, 4, self.block_count);
        put_u64(bytes, 8, self.lba);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A write of 8 blocks as a Linux host would put it in a capsule, written down by hand.
    #[test]
    fn a_known_write() {
        let mut command = Command::block_io(opcode::io::WRITE, 1, 0x0102_0304_0506, 8);
        command.set_command_id(0x1234);
        command.set_force_unit_access();
        command.set_data_pointer(DataPointer::in_capsule(0, 4096));
        let mut expected = [0u8; 64];
        expected[..8].copy_from_slice(&[0x01, 0x40, 0x34, 0x12, 1, 0, 0, 0]);
        expected[32..40].copy_from_slice(&[0x00, 0x10, 0, 0, 0, 0, 0, 0x01]);
        expected[40..52].copy_from_slice(&[6, 5, 4, 3, 2, 1, 0, 0, 7, 0, 0, 0x40]);
        assert_eq!(command.0, expected);
        assert!(command.is_force_unit_access() && !command.is_limited_retry());
        assert_eq!(
            (command.lba(), command.block_count()),
            (0x0102_0304_0506, 8)
        );
        assert_eq!(command.data_transfer_form(), 1);
    }

    #[test]
    fn flags_of_dword_12() {
        let mut command = Command::block_io(opcode::io::WRITE_ZEROES, 1, 0, 1);
        command.set_deallocate();
        command.set_limited_retry();
        assert_eq!(command.dword(12), 1 << 31 | 1 << 25);
        assert!(command.is_deallocate() && command.is_limited_retry() && !command.is_protection());
        command.set_dword(12, 1 << 29);
        assert!(command.is_protection());
    }

    #[test]
    fn get_log_page_counts_dwords() {
        let command = Command::get_log_page(NSID, 0x70, 1024, 2048);
        assert_eq!(command.dword(10), 0x00FF_0070);
        assert_eq!(command.log_size(), 1024);
        assert_eq!(command.log_offset(), 2048);
        let large = Command::get_log_page(NSID, 2, 0x10_0000, 0);
        assert_eq!(large.log_size(), 0x10_0000);
        let mut retain = command;
        retain.set_dword(10, command.dword(10) | 1 << 15 | 1 << 8);
        assert!(retain.is_retain_event() && !command.is_retain_event());
        assert_eq!((retain.log_id(), retain.log_specific()), (0x70, 1));
    }

    const NSID: u32 = super::super::NSID_ALL;

    #[test]
    fn transport_descriptor_has_type_5_and_subtype_a() {
        let pointer = DataPointer::transport(4096);
        assert_eq!(
            (pointer.descriptor_type(), pointer.descriptor_subtype()),
            (5, 0xA)
        );
        let mut bytes = [0xFF; 16];
        pointer.encode(&mut bytes);
        assert_eq!(
            bytes,
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0x5A]
        );
    }

    #[test]
    fn a_known_completion() {
        let mut bytes = [0; 16];
        let completion = Completion {
            result: 0x0102,
            queue_head: 5,
            queue_id: 0,
            command_id: 0x0A0B,
            status: Status::LBA_OUT_OF_RANGE.do_not_retry(),
        };
        completion.encode(&mut bytes);
        assert_eq!(
            bytes,
            [2, 1, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0x0B, 0x0A, 0x00, 0x81]
        );
    }

    proptest! {
        #[test]
        fn completions_come_back(result: u64, queue_head: u16, queue_id: u16, command_id: u16, bits: u16) {
            let completion = Completion { result, queue_head, queue_id, command_id, status: Status::from_bits(bits) };
            let mut bytes = [0xAA; 16];
            completion.encode(&mut bytes);
            prop_assert_eq!(Completion::decode(&bytes), completion);
        }

        #[test]
        fn descriptors_and_ranges_come_back(address: u64, size: u32, identifier: u8) {
            let pointer = DataPointer { address, size, identifier };
            let mut command = Command::new(0, 0);
            command.set_data_pointer(pointer);
            prop_assert_eq!(command.data_pointer(), pointer);
            let range = DatasetRange { context: size, block_count: !size, lba: address };
            let mut bytes = [0; 16];
            range.encode(&mut bytes);
            prop_assert_eq!(DatasetRange::decode(&bytes), range);
        }

        #[test]
        fn block_ranges_come_back(lba: u64, block_count in 1u32..=0x1_0000) {
            let command = Command::block_io(opcode::io::READ, 9, lba, block_count);
            prop_assert_eq!((command.lba(), command.block_count(), command.nsid()), (lba, block_count, 9));
            prop_assert_eq!(Command::decode(&command.0), command);
        }
    }
}
