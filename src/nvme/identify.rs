//! Identify data structures (NVMe Base 2.0, 5.17; NVM Command Set 1.0, 4.1.5), as builders that write a
//! 4,096-byte page, and as views that an initiator reads one through.

use super::bytes::{
    get_array, get_text, get_u16, get_u32, get_u64, put_text, put_u16, put_u32, put_u64, put_u128,
};

/// Size of every Identify data structure in bytes.
pub const PAGE_SIZE: usize = 4096;

/// One Identify data structure.
pub type Page = [u8; PAGE_SIZE];

/// Controller or Namespace Structure values (NVMe Base 2.0, 5.17.2).
pub mod structure {
    /// Identify Namespace, NVM command set.
    pub const NAMESPACE: u8 = 0x00;
    /// Identify Controller.
    pub const CONTROLLER: u8 = 0x01;
    /// Active namespace identifiers, greater than the command's.
    pub const ACTIVE_NAMESPACES: u8 = 0x02;
    /// Namespace identification descriptors.
    pub const NAMESPACE_DESCRIPTORS: u8 = 0x03;
    /// NVM set list.
    pub const NVM_SETS: u8 = 0x04;
    /// I/O command set specific Identify Namespace.
    pub const COMMAND_SET_NAMESPACE: u8 = 0x05;
    /// I/O command set specific Identify Controller.
    pub const COMMAND_SET_CONTROLLER: u8 = 0x06;
    /// Active namespace identifiers of one I/O command set.
    pub const COMMAND_SET_ACTIVE_NAMESPACES: u8 = 0x07;
    /// I/O command set independent Identify Namespace.
    pub const INDEPENDENT_NAMESPACE: u8 = 0x08;
    /// Allocated namespace identifiers.
    pub const ALLOCATED_NAMESPACES: u8 = 0x10;
    /// Identify Namespace of an allocated namespace.
    pub const ALLOCATED_NAMESPACE: u8 = 0x11;
    /// Controllers that a namespace is attached to.
    pub const ATTACHED_CONTROLLERS: u8 = 0x12;
    /// Controllers of the subsystem.
    pub const CONTROLLERS: u8 = 0x13;
    /// Allocated namespace identifiers of one I/O command set.
    pub const COMMAND_SET_ALLOCATED_NAMESPACES: u8 = 0x1A;
    /// I/O command set specific Identify Namespace of an allocated namespace.
    pub const COMMAND_SET_ALLOCATED_NAMESPACE: u8 = 0x1B;
    /// I/O command set combinations.
    pub const COMMAND_SETS: u8 = 0x1C;
}

/// Command Set Identifier of the NVM command set.
pub const COMMAND_SET_NVM: u8 = 0x00;

/// CMIC bits: more than one port, more than one controller, ANA reporting.
pub mod sharing {
    /// The subsystem may have more than one port.
    pub const PORTS: u8 = 1 << 0;
    /// The subsystem may have more than one controller.
    pub const CONTROLLERS: u8 = 1 << 1;
    /// ANA is reported.
    pub const ANA: u8 = 1 << 3;
}

/// ONCS bits: optional NVM commands.
pub mod optional_io {
    /// Compare.
    pub const COMPARE: u16 = 1 << 0;
    /// Write Uncorrectable.
    pub const WRITE_UNCORRECTABLE: u16 = 1 << 1;
    /// Dataset Management.
    pub const DATASET_MANAGEMENT: u16 = 1 << 2;
    /// Write Zeroes.
    pub const WRITE_ZEROES: u16 = 1 << 3;
    /// Save and select fields of Set and Get Features.
    pub const FEATURE_SELECT: u16 = 1 << 4;
    /// Reservations.
    pub const RESERVATIONS: u16 = 1 << 5;
    /// Timestamp.
    pub const TIMESTAMP: u16 = 1 << 6;
    /// Verify.
    pub const VERIFY: u16 = 1 << 7;
    /// Copy.
    pub const COPY: u16 = 1 << 8;
}

/// LPA bits: log page attributes.
pub mod log_attribute {
    /// SMART per namespace.
    pub const SMART_PER_NAMESPACE: u8 = 1 << 0;
    /// Commands supported and effects log.
    pub const COMMAND_EFFECTS: u8 = 1 << 1;
    /// Extended data: 32-bit dword counts and offsets.
    pub const EXTENDED_DATA: u8 = 1 << 2;
    /// Supported log pages log (00h).
    pub const SUPPORTED_PAGES: u8 = 1 << 5;
}

/// SGLS bits: SGL support.
pub mod sgl_support {
    /// SGLs without alignment needs.
    pub const SUPPORTED: u32 = 1 << 0;
    /// The address of a data block may be an offset in the capsule; required of NVMe/TCP.
    pub const OFFSET: u32 = 1 << 20;
    /// Transport SGL data block; required of NVMe/TCP.
    pub const TRANSPORT: u32 = 1 << 21;
}

/// VWC: a volatile write cache is present.
pub const CACHE_PRESENT: u8 = 1 << 0;
/// VWC bits 2:1: Flush accepts the broadcast namespace identifier.
pub const CACHE_FLUSH_ALL: u8 = 3 << 1;
/// FUSES: Compare and Write may be fused.
pub const FUSED_COMPARE_AND_WRITE: u16 = 1 << 0;
/// CTRATT: 128-bit host identifiers.
pub const ATTRIBUTE_HOST_ID_128: u32 = 1 << 0;

/// CNTRLTYPE values.
pub mod controller_type {
    /// I/O controller.
    pub const IO: u8 = 1;
    /// Discovery controller.
    pub const DISCOVERY: u8 = 2;
    /// Administrative controller.
    pub const ADMINISTRATIVE: u8 = 3;
}

/// Identify Controller (NVMe Base 2.0, 5.17.2). Fields left at their default are written as zero;
/// units and bases are those of the wire unless the field says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Controller {
    /// VID: PCI vendor, 0 without PCI.
    pub vendor_id: u16,
    /// SN, at most 20 bytes of ASCII.
    pub serial: String,
    /// MN, at most 40 bytes of ASCII.
    pub model: String,
    /// FR, at most 8 bytes of ASCII.
    pub firmware: String,
    /// RAB: 2^this commands per arbitration burst.
    pub arbitration_burst: u8,
    /// IEEE OUI, least significant byte first.
    pub oui: [u8; 3],
    /// CMIC: see [`sharing`].
    pub sharing: u8,
    /// MDTS: largest transfer is 2^this pages of CAP.MPSMIN; 0 for no limit.
    pub transfer_size_max: u8,
    /// CNTLID.
    pub controller_id: u16,
    /// VER.
    pub version: u32,
    /// OAES: events that can be reported, as in the asynchronous event configuration feature.
    pub async_events: u32,
    /// CTRATT.
    pub attributes: u32,
    /// CNTRLTYPE: see [`controller_type`].
    pub controller_type: u8,
    /// CRDT1 to CRDT3: command retry delays in 100 ms.
    pub retry_delays: [u16; 3],
    /// OACS: optional admin commands.
    pub optional_admin: u16,
    /// ACL: abort commands outstanding, minus one.
    pub abort_limit: u8,
    /// AERL: event requests outstanding, minus one.
    pub async_event_limit: u8,
    /// FRMW: bit 0 slot 1 read only, bits 3:1 number of slots, bit 4 activation without reset.
    pub firmware_updates: u8,
    /// LPA: see [`log_attribute`].
    pub log_attributes: u8,
    /// ELPE: error log entries, minus one.
    pub error_log_entries: u8,
    /// WCTEMP in kelvins.
    pub warning_temperature: u16,
    /// CCTEMP in kelvins.
    pub critical_temperature: u16,
    /// KAS: granularity of the keep alive timer in 100 ms; 0 when keep alive is not supported.
    pub keep_alive_granularity: u16,
    /// ANATT in seconds.
    pub ana_transition_seconds: u8,
    /// ANACAP: bits 4:0 states reported (optimized, non-optimized, inaccessible, persistent loss, change),
    /// bit 6 group ids of namespaces do not change while attached, bit 7 non-zero group ids can be had.
    pub ana_capabilities: u8,
    /// ANAGRPMAX.
    pub ana_group_max: u32,
    /// NANAGRPID.
    pub ana_group_count: u32,
    /// MAXCMD: most outstanding commands per queue.
    pub outstanding_max: u16,
    /// NN: largest namespace identifier.
    pub namespace_max: u32,
    /// MNAN: most namespaces at a time; at most NN, and required with ANA.
    pub namespace_count_max: u32,
    /// ONCS: see [`optional_io`].
    pub optional_io: u16,
    /// FUSES.
    pub fused: u16,
    /// FNA: format attributes.
    pub format_attributes: u8,
    /// VWC.
    pub write_cache: u8,
    /// AWUN: blocks written atomically, minus one.
    pub atomic_write: u16,
    /// AWUPF: blocks written atomically through a power failure, minus one.
    pub atomic_write_power_fail: u16,
    /// ACWU: blocks of an atomic compare and write, minus one.
    pub atomic_compare_write: u16,
    /// SGLS.
    pub sgl_support: u32,
    /// SUBNQN.
    pub subsystem_nqn: String,
    /// IOCCSZ: size of a command capsule of an I/O queue in bytes: 64 plus in-capsule data.
    pub command_capsule_size: u32,
    /// IORCSZ: size of a response capsule of an I/O queue in bytes.
    pub response_capsule_size: u32,
    /// ICDOFF: where in-capsule data begins, in 16 bytes; 0 for NVMe/TCP.
    pub capsule_data_offset: u16,
    /// FCATT bit 0: the controller model is static.
    pub static_controllers: bool,
    /// MSDBD: most SGL descriptors in a capsule; 1 for NVMe/TCP.
    pub sgl_descriptors_max: u8,
    /// OFCS bit 0: Disconnect is supported.
    pub disconnect: bool,
    /// DCTYPE: 0 not reported, 1 direct discovery controller, 2 central.
    pub discovery_type: u8,
}

impl Controller {
    /// Writes the structure; what is not named above is zero.
    pub fn encode(&self, page: &mut Page) {
        page.fill(0);
        put_u16(page, 0, self.vendor_id);
        put_u16(page, 2, self.vendor_id);
        put_text(page, 4, 20, &self.serial, b' ');
        put_text(page, 24, 40, &self.model, b' ');
        put_text(page, 64, 8, &self.firmware, b' ');
        page[72] = self.arbitration_burst;
        page[73..76].copy_from_slice(&self.oui);
        page[76] = self.sharing;
        page[77] = self.transfer_size_max;
        put_u16(page, 78, self.controller_id);
        put_u32(page, 80, self.version);
        put_u32(page, 92, self.async_events);
        put_u32(page, 96, self.attributes);
        page[111] = self.controller_type;
        for (index, delay) in self.retry_delays.into_iter().enumerate() {
            put_u16(page, 128 + index * 2, delay);
        }
        put_u16(page, 256, self.optional_admin);
        page[258] = self.abort_limit;
        page[259] = self.async_event_limit;
        page[260] = self.firmware_updates;
        page[261] = self.log_attributes;
        page[262] = self.error_log_entries;
        put_u16(page, 266, self.warning_temperature);
        put_u16(page, 268, self.critical_temperature);
        put_u16(page, 320, self.keep_alive_granularity);
        page[342] = self.ana_transition_seconds;
        page[343] = self.ana_capabilities;
        put_u32(page, 344, self.ana_group_max);
        put_u32(page, 348, self.ana_group_count);
        // SQES and CQES: largest and required entry sizes, 64 and 16 bytes.
        page[512] = 0x66;
        page[513] = 0x44;
        put_u16(page, 514, self.outstanding_max);
        put_u32(page, 516, self.namespace_max);
        put_u16(page, 520, self.optional_io);
        put_u16(page, 522, self.fused);
        page[524] = self.format_attributes;
        page[525] = self.write_cache;
        put_u16(page, 526, self.atomic_write);
        put_u16(page, 528, self.atomic_write_power_fail);
        put_u16(page, 532, self.atomic_compare_write);
        put_u32(page, 536, self.sgl_support);
        put_u32(page, 540, self.namespace_count_max);
        put_text(page, 768, 256, &self.subsystem_nqn, 0);
        put_u32(page, 1792, self.command_capsule_size / 16);
        put_u32(page, 1796, self.response_capsule_size / 16);
        put_u16(page, 1800, self.capsule_data_offset);
        page[1802] = u8::from(self.static_controllers);
        page[1803] = self.sgl_descriptors_max;
        put_u16(page, 1804, u16::from(self.disconnect));
        page[1806] = self.discovery_type;
    }

    /// Reads the structure; text that is not UTF-8 becomes empty.
    pub fn decode(page: &Page) -> Self {
        let text = |offset, size| get_text(page, offset, size).unwrap_or_default().to_owned();
        Self {
            vendor_id: get_u16(page, 0),
            serial: text(4, 20),
            model: text(24, 40),
            firmware: text(64, 8),
            arbitration_burst: page[72],
            oui: get_array(page, 73),
            sharing: page[76],
            transfer_size_max: page[77],
            controller_id: get_u16(page, 78),
            version: get_u32(page, 80),
            async_events: get_u32(page, 92),
            attributes: get_u32(page, 96),
            controller_type: page[111],
            retry_delays: [get_u16(page, 128), get_u16(page, 130), get_u16(page, 132)],
            optional_admin: get_u16(page, 256),
            abort_limit: page[258],
            async_event_limit: page[259],
            firmware_updates: page[260],
            log_attributes: page[261],
            error_log_entries: page[262],
            warning_temperature: get_u16(page, 266),
            critical_temperature: get_u16(page, 268),
            keep_alive_granularity: get_u16(page, 320),
            ana_transition_seconds: page[342],
            ana_capabilities: page[343],
            ana_group_max: get_u32(page, 344),
            ana_group_count: get_u32(page, 348),
            outstanding_max: get_u16(page, 514),
            namespace_max: get_u32(page, 516),
            namespace_count_max: get_u32(page, 540),
            optional_io: get_u16(page, 520),
            fused: get_u16(page, 522),
            format_attributes: page[524],
            write_cache: page[525],
            atomic_write: get_u16(page, 526),
            atomic_write_power_fail: get_u16(page, 528),
            atomic_compare_write: get_u16(page, 532),
            sgl_support: get_u32(page, 536),
            subsystem_nqn: text(768, 256),
            command_capsule_size: get_u32(page, 1792).saturating_mul(16),
            response_capsule_size: get_u32(page, 1796).saturating_mul(16),
            capsule_data_offset: get_u16(page, 1800),
            static_controllers: page[1802] & 1 != 0,
            sgl_descriptors_max: page[1803],
            disconnect: page[1804] & 1 != 0,
            discovery_type: page[1806],
        }
    }
}

/// NSFEAT bits.
pub mod namespace_feature {
    /// Thin provisioning.
    pub const THIN: u8 = 1 << 0;
    /// NAWUN, NAWUPF and NACWU hold.
    pub const ATOMICITY: u8 = 1 << 1;
    /// Reading a deallocated block may be an error.
    pub const DEALLOCATED_ERROR: u8 = 1 << 2;
    /// NGUID and EUI64 are never reused.
    pub const IDENTIFIER_NEVER_REUSED: u8 = 1 << 3;
    /// NPWG, NPWA, NPDG, NPDA and NOWS hold.
    pub const OPTIMAL_PERFORMANCE: u8 = 1 << 4;
}

/// DLFEAT: deallocated blocks read as zeroes.
pub const DEALLOCATED_READS_ZERO: u8 = 1;
/// DLFEAT: Write Zeroes honours its deallocate bit.
pub const WRITE_ZEROES_DEALLOCATES: u8 = 1 << 3;
/// NMIC: the namespace may be attached to more than one controller.
pub const NAMESPACE_SHARED: u8 = 1;
/// NSATTR: the namespace is write protected.
pub const NAMESPACE_WRITE_PROTECTED: u8 = 1;
/// NSTAT: the namespace is ready.
pub const NAMESPACE_READY: u8 = 1;

/// Identify Namespace of the NVM command set, with one LBA format and no metadata (NVM Command Set 1.0,
/// 4.1.5.1), and the fields of the command set independent form (NVMe Base 2.0, 5.17.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// NSZE in blocks.
    pub size: u64,
    /// NCAP in blocks.
    pub capacity: u64,
    /// NUSE in blocks.
    pub used: u64,
    /// NSFEAT: see [`namespace_feature`].
    pub features: u8,
    /// NMIC.
    pub sharing: u8,
    /// RESCAP: reservation capabilities.
    pub reservations: u8,
    /// DLFEAT.
    pub deallocate: u8,
    /// NAWUN: blocks, minus one.
    pub atomic_write: u16,
    /// NAWUPF: blocks, minus one.
    pub atomic_write_power_fail: u16,
    /// NACWU: blocks, minus one.
    pub atomic_compare_write: u16,
    /// NABO: the block of the first atomic boundary.
    pub atomic_boundary_offset: u16,
    /// NABSPF: blocks between the boundaries that no write crosses which is to be atomic through a power failure, minus one; 0 when there
    /// are none.
    pub atomic_boundary_power_fail: u16,
    /// NOIOB: blocks that an I/O better not crosses a multiple of; 0 when there is no such boundary.
    pub optimal_boundary: u16,
    /// NVMCAP in bytes.
    pub capacity_bytes: u128,
    /// NPWG: preferred write granularity in blocks, minus one.
    pub write_granularity: u16,
    /// NPWA: preferred write alignment in blocks, minus one.
    pub write_alignment: u16,
    /// NPDG: preferred deallocate granularity in blocks, minus one.
    pub deallocate_granularity: u16,
    /// NPDA: preferred deallocate alignment in blocks, minus one.
    pub deallocate_alignment: u16,
    /// NOWS: optimal write size in blocks, minus one.
    pub optimal_write_size: u16,
    /// ANAGRPID.
    pub ana_group: u32,
    /// NSATTR.
    pub attributes: u8,
    /// NGUID, most significant byte first.
    pub nguid: [u8; 16],
    /// EUI64, most significant byte first.
    pub eui64: [u8; 8],
    /// LBADS of format 0: block size is 2^this bytes.
    pub block_shift: u8,
}

impl Namespace {
    /// Writes CNS 00h (and 11h).
    pub fn encode(&self, page: &mut Page) {
        page.fill(0);
        put_u64(page, 0, self.size);
        put_u64(page, 8, self.capacity);
        put_u64(page, 16, self.used);
        page[24] = self.features;
        page[30] = self.sharing;
        page[31] = self.reservations;
        page[33] = self.deallocate;
        put_u16(page, 34, self.atomic_write);
        put_u16(page, 36, self.atomic_write_power_fail);
        put_u16(page, 38, self.atomic_compare_write);
        put_u16(page, 42, self.atomic_boundary_offset);
        put_u16(page, 44, self.atomic_boundary_power_fail);
        put_u16(page, 46, self.optimal_boundary);
        put_u128(page, 48, self.capacity_bytes);
        put_u16(page, 64, self.write_granularity);
        put_u16(page, 66, self.write_alignment);
        put_u16(page, 68, self.deallocate_granularity);
        put_u16(page, 70, self.deallocate_alignment);
        put_u16(page, 72, self.optimal_write_size);
        put_u32(page, 92, self.ana_group);
        page[99] = self.attributes;
        page[104..120].copy_from_slice(&self.nguid);
        page[120..128].copy_from_slice(&self.eui64);
        page[130] = self.block_shift;
    }

    /// Reads CNS 00h; the block size is that of the format in use (FLBAS).
    pub fn decode(page: &Page) -> Self {
        let format = usize::from(page[26] & 0xF | page[26] >> 1 & 0x30);
        Self {
            size: get_u64(page, 0),
            capacity: get_u64(page, 8),
            used: get_u64(page, 16),
            features: page[24],
            sharing: page[30],
            reservations: page[31],
            deallocate: page[33],
            atomic_write: get_u16(page, 34),
            atomic_write_power_fail: get_u16(page, 36),
            atomic_compare_write: get_u16(page, 38),
            atomic_boundary_offset: get_u16(page, 42),
            atomic_boundary_power_fail: get_u16(page, 44),
            optimal_boundary: get_u16(page, 46),
            capacity_bytes: u128::from_le_bytes(get_array(page, 48)),
            write_granularity: get_u16(page, 64),
            write_alignment: get_u16(page, 66),
            deallocate_granularity: get_u16(page, 68),
            deallocate_alignment: get_u16(page, 70),
            optimal_write_size: get_u16(page, 72),
            ana_group: get_u32(page, 92),
            attributes: page[99],
            nguid: get_array(page, 104),
            eui64: get_array(page, 120),
            block_shift: page[128 + format * 4 + 2],
        }
    }

    /// Writes CNS 08h: what does not depend on the I/O command set.
    pub fn encode_independent(&self, page: &mut Page) {
        page.fill(0);
        page[0] = self.features & namespace_feature::IDENTIFIER_NEVER_REUSED;
        page[1] = self.sharing;
        page[2] = self.reservations;
        put_u32(page, 4, self.ana_group);
        page[8] = self.attributes;
        page[14] = NAMESPACE_READY;
    }
}

/// Writes CNS 05h (and 1Bh) of the NVM command set: without protection information it is all zero
/// (NVM Command Set 1.0, 4.1.5).
pub fn encode_nvm_namespace(page: &mut Page) {
    page.fill(0);
}

/// Limits of commands without data transfer: CNS 06h of the NVM command set (NVM Command Set 1.0, 4.1.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NvmLimits {
    /// VSL: largest Verify is 2^this pages; 0 for no limit.
    pub verify: u8,
    /// WZSL: largest Write Zeroes is 2^this pages; 0 for no limit.
    pub write_zeroes: u8,
    /// WUSL: largest Write Uncorrectable is 2^this pages; 0 for no limit.
    pub write_uncorrectable: u8,
    /// DMRL: most ranges of a Dataset Management; 0 for no limit.
    pub dataset_ranges: u8,
    /// DMRSL: most blocks in one range; 0 for no limit.
    pub dataset_range_size: u32,
    /// DMSL: most blocks in all ranges; 0 for no limit.
    pub dataset_size: u64,
}

impl NvmLimits {
    /// Writes CNS 06h.
    pub fn encode(&self, page: &mut Page) {
        page.fill(0);
        page[0] = self.verify;
        page[1] = self.write_zeroes;
        page[2] = self.write_uncorrectable;
        page[3] = self.dataset_ranges;
        put_u32(page, 4, self.dataset_range_size);
        put_u64(page, 8, self.dataset_size);
    }

    /// Reads CNS 06h.
    pub fn decode(page: &Page) -> Self {
        Self {
            verify: page[0],
            write_zeroes: page[1],
            write_uncorrectable: page[2],
            dataset_ranges: page[3],
            dataset_range_size: get_u32(page, 4),
            dataset_size: get_u64(page, 8),
        }
    }
}

/// Most identifiers in a namespace list (CNS 02h, 07h, 10h, 1Ah).
pub const NAMESPACE_LIST_MAX: usize = PAGE_SIZE / 4;

/// Writes a namespace list: ascending identifiers greater than `after`, as many as fit.
/// `nsids` must ascend.
pub fn encode_namespace_list(page: &mut Page, nsids: impl IntoIterator<Item = u32>, after: u32) {
    page.fill(0);
    let listed = nsids
        .into_iter()
        .filter(|&nsid| nsid > after)
        .take(NAMESPACE_LIST_MAX);
    for (index, nsid) in listed.enumerate() {
        put_u32(page, index * 4, nsid);
    }
}

/// The identifiers of a namespace list, up to its first zero.
pub fn decode_namespace_list(page: &Page) -> impl Iterator<Item = u32> + '_ {
    (0..NAMESPACE_LIST_MAX)
        .map(|index| get_u32(page, index * 4))
        .take_while(|&nsid| nsid != 0)
}

/// Most identifiers in a controller list (CNS 12h, 13h).
pub const CONTROLLER_LIST_MAX: usize = PAGE_SIZE / 2 - 1;

/// Writes a controller list: ascending identifiers from `first` on, as many as fit.
/// `controller_ids` must ascend.
pub fn encode_controller_list(
    page: &mut Page,
    controller_ids: impl IntoIterator<Item = u16>,
    first: u16,
) {
    page.fill(0);
    let listed = controller_ids
        .into_iter()
        .filter(|&id| id >= first)
        .take(CONTROLLER_LIST_MAX);
    let mut count = 0;
    for id in listed {
        count += 1;
        put_u16(page, usize::from(count) * 2, id);
    }
    put_u16(page, 0, count);
}

/// What identifies a namespace everywhere: CNS 03h (NVMe Base 2.0, 5.17.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceIdentity {
    /// NGUID, where the namespace has one.
    pub nguid: Option<[u8; 16]>,
    /// EUI64, where the namespace has one.
    pub eui64: Option<[u8; 8]>,
    /// UUID, where the namespace has one.
    pub uuid: Option<[u8; 16]>,
    /// Command set identifier, where told.
    pub command_set: Option<u8>,
}

impl NamespaceIdentity {
    const TYPE_EUI64: u8 = 1;
    const TYPE_NGUID: u8 = 2;
    const TYPE_UUID: u8 = 3;
    const TYPE_COMMAND_SET: u8 = 4;

    /// Writes the descriptors.
    pub fn encode(&self, page: &mut Page) {
        page.fill(0);
        let mut offset = 0;
        let mut put = |kind: u8, value: &[u8]| {
            page[offset] = kind;
            page[offset + 1] = value.len() as u8;
            page[offset + 4..offset + 4 + value.len()].copy_from_slice(value);
            offset += 4 + value.len();
        };
        if let Some(eui64) = &self.eui64 {
            put(Self::TYPE_EUI64, eui64);
        }
        if let Some(nguid) = &self.nguid {
            put(Self::TYPE_NGUID, nguid);
        }
        if let Some(uuid) = &self.uuid {
            put(Self::TYPE_UUID, uuid);
        }
        if let Some(command_set) = self.command_set {
            put(Self::TYPE_COMMAND_SET, &[command_set]);
        }
    }

    /// Reads the descriptors; those of other types, or of a wrong length, are passed over.
    pub fn decode(page: &Page) -> Self {
        let mut identity = Self::default();
        let mut offset = 0;
        while offset + 4 <= PAGE_SIZE && page[offset + 1] != 0 {
            let size = usize::from(page[offset + 1]);
            let Some(value) = page.get(offset + 4..offset + 4 + size) else {
                break;
            };
            match page[offset] {
                Self::TYPE_EUI64 => identity.eui64 = value.try_into().ok(),
                Self::TYPE_NGUID => identity.nguid = value.try_into().ok(),
                Self::TYPE_UUID => identity.uuid = value.try_into().ok(),
                Self::TYPE_COMMAND_SET => identity.command_set = value.first().copied(),
                _ => {}
            }
            offset += 4 + size;
        }
        identity
    }
}

/// Writes CNS 1Ch: one combination, the NVM command set alone (NVMe Base 2.0, 5.17.2).
pub fn encode_command_sets(page: &mut Page) {
    page.fill(0);
    put_u64(page, 0, 1 << COMMAND_SET_NVM);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn controller() -> Controller {
        Controller {
            serial: "S1".into(),
            model: "polldm".into(),
            firmware: "0.1".into(),
            transfer_size_max: 5,
            controller_id: 0x1234,
            version: super::super::VERSION_2_0,
            controller_type: controller_type::IO,
            keep_alive_granularity: 1,
            outstanding_max: 128,
            namespace_max: 1024,
            optional_io: optional_io::COMPARE | optional_io::WRITE_ZEROES,
            write_cache: CACHE_PRESENT | CACHE_FLUSH_ALL,
            sgl_support: sgl_support::SUPPORTED | sgl_support::OFFSET | sgl_support::TRANSPORT,
            subsystem_nqn: "nqn.2026-11.io.polldm:a".into(),
            command_capsule_size: 64 + 8192,
            response_capsule_size: 16,
            sgl_descriptors_max: 1,
            disconnect: true,
            ..Controller::default()
        }
    }

    #[test]
    fn controller_fields_lie_where_the_standard_puts_them() {
        let mut page = [0xFF; PAGE_SIZE];
        controller().encode(&mut page);
        assert_eq!(&page[4..24], b"S1                  ");
        assert_eq!(page[77], 5);
        assert_eq!(page[78..84], [0x34, 0x12, 0, 0, 2, 0]);
        assert_eq!(page[512..516], [0x66, 0x44, 128, 0]);
        assert_eq!(page[516..520], [0, 4, 0, 0]);
        assert_eq!(page[520..522], [0x09, 0]);
        assert_eq!(page[525], 7);
        assert_eq!(page[536..540], [1, 0, 0x30, 0]);
        assert_eq!(page[768..772], *b"nqn.");
        assert_eq!(page[1792..1804], [4, 2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(page[1804], 1);
        assert_eq!(Controller::decode(&page), controller());
    }

    #[test]
    fn namespace_fields_lie_where_the_standard_puts_them() {
        let namespace = Namespace {
            size: 0x0102,
            capacity: 0x0102,
            used: 1,
            features: namespace_feature::OPTIMAL_PERFORMANCE,
            nguid: *b"0123456789abcdef",
            ana_group: 7,
            block_shift: 12,
            ..Namespace::default()
        };
        let mut page = [0xFF; PAGE_SIZE];
        namespace.encode(&mut page);
        assert_eq!(page[..8], [2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(page[24], 0x10);
        assert_eq!(page[92], 7);
        assert_eq!(&page[104..120], b"0123456789abcdef");
        assert_eq!(page[128..132], [0, 0, 12, 0]);
        assert_eq!(Namespace::decode(&page), namespace);
        namespace.encode_independent(&mut page);
        assert_eq!((page[4], page[14]), (7, 1));
    }

    #[test]
    fn lists_hold_what_fits() {
        let mut page = [0; PAGE_SIZE];
        encode_namespace_list(&mut page, 1..=5000, 10);
        let nsids: Vec<u32> = decode_namespace_list(&page).collect();
        assert_eq!(nsids.len(), NAMESPACE_LIST_MAX);
        assert_eq!((nsids[0], nsids[1023]), (11, 1034));
        encode_namespace_list(&mut page, [1, 2, 3], 2);
        assert_eq!(decode_namespace_list(&page).collect::<Vec<_>>(), [3]);
        encode_controller_list(&mut page, [1, 2, 0x0301], 2);
        assert_eq!(page[..8], [2, 0, 2, 0, 1, 3, 0, 0]);
        encode_controller_list(&mut page, 0..=0xFFEF, 0);
        assert_eq!(get_u16(&page, 0) as usize, CONTROLLER_LIST_MAX);
    }

    #[test]
    fn identity_descriptors() {
        let identity = NamespaceIdentity {
            nguid: Some([1; 16]),
            eui64: None,
            uuid: Some([2; 16]),
            command_set: Some(COMMAND_SET_NVM),
        };
        let mut page = [0xFF; PAGE_SIZE];
        identity.encode(&mut page);
        assert_eq!(page[..5], [2, 16, 0, 0, 1]);
        assert_eq!(page[20..25], [3, 16, 0, 0, 2]);
        assert_eq!(page[40..46], [4, 1, 0, 0, 0, 0]);
        assert_eq!(NamespaceIdentity::decode(&page), identity);
    }

    #[test]
    fn limits_and_command_sets() {
        let limits = NvmLimits {
            write_zeroes: 8,
            dataset_ranges: 255,
            dataset_range_size: 9,
            ..Default::default()
        };
        let mut page = [0xFF; PAGE_SIZE];
        limits.encode(&mut page);
        assert_eq!(page[..5], [0, 8, 0, 255, 9]);
        assert_eq!(NvmLimits::decode(&page), limits);
        encode_command_sets(&mut page);
        assert_eq!(page[..9], [1, 0, 0, 0, 0, 0, 0, 0, 0]);
        encode_nvm_namespace(&mut page);
        assert_eq!(page, [0; PAGE_SIZE]);
    }

    proptest! {
        /// An initiator reads whatever a target sends.
        #[test]
        fn decoders_take_any_page(bytes in proptest::collection::vec(any::<u8>(), PAGE_SIZE)) {
            let page: Page = bytes.try_into().unwrap();
            Controller::decode(&page);
            Namespace::decode(&page);
            NamespaceIdentity::decode(&page);
        }
    }
}
