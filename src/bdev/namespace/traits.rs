//! What a namespace and its controller say of themselves, as limits and abilities of a backing device.

use crate::bdev::SECTOR_BYTES;
use crate::dm::{AtomicWrites, Lower};
use crate::nvme::bytes::get_u16;
use crate::nvme::identify::{
    self, CACHE_PRESENT, NAMESPACE_WRITE_PROTECTED, NvmLimits, namespace_feature, optional_io,
};

/// The most blocks of a Read, Write or Write Zeroes: NLB has 16 bits.
const COMMAND_BLOCKS_MAX: u64 = 1 << 16;

/// What whoever makes commands must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bdev) struct Geometry {
    pub(in crate::bdev) nsid: u32,
    /// A sector number shifted right by this is a block number: 0 or 3.
    pub(in crate::bdev) block_shift: u32,
    /// The largest Write Zeroes, in sectors; whole blocks.
    pub(in crate::bdev) zeroes_sectors_max: u32,
    /// The largest range of a Dataset Management, in sectors; whole blocks.
    pub(in crate::bdev) discard_sectors_max: u32,
}

/// Limits that are not in the structures of the controller and the namespace.
pub(in crate::bdev) struct Limits {
    /// The largest read or write, in bytes.
    pub(in crate::bdev) transfer_bytes_max: u64,
    /// Those of commands without data transfer, where the controller tells them.
    pub(in crate::bdev) nvm: Option<NvmLimits>,
    /// Pages, the unit of these, have 2^this bytes.
    pub(in crate::bdev) page_shift: u32,
}

/// What a namespace is as a backing device.
#[derive(Clone, Debug)]
pub(in crate::bdev) struct Traits {
    pub(in crate::bdev) geometry: Geometry,
    pub(in crate::bdev) sectors: u64,
    pub(in crate::bdev) volatile_cache: bool,
    pub(in crate::bdev) discard: bool,
    pub(in crate::bdev) write_zeroes: bool,
    pub(in crate::bdev) read_only: bool,
    /// The largest read or write, in sectors.
    pub(in crate::bdev) transfer_sectors_max: u32,
    /// What writes should be multiples of, in bytes.
    pub(in crate::bdev) optimal_write_bytes: u32,
    /// Which writes are atomic through a power failure.
    pub(in crate::bdev) atomic_writes: AtomicWrites,
}

impl Traits {
    /// Of namespace `nsid`, whose Identify structure is `page`.
    ///
    /// # Errors
    /// As [`size`].
    pub(in crate::bdev) fn new(
        nsid: u32,
        page: &identify::Page,
        controller: &identify::Controller,
        limits: &Limits,
    ) -> Result<Traits, String> {
        let (sectors, block_shift) = size(nsid, page)?;
        let namespace = identify::Namespace::decode(page);
        let block_bytes = SECTOR_BYTES << block_shift;
        let whole_blocks = |bytes: u64| {
            let blocks = (bytes / block_bytes).clamp(1, COMMAND_BLOCKS_MAX);
            (blocks << block_shift) as u32
        };
        let zeroes_bytes_max = match limits.nvm {
            Some(NvmLimits {
                write_zeroes: 0, ..
            }) => u64::MAX,
            Some(nvm) => 1u64
                .checked_shl(limits.page_shift + u32::from(nvm.write_zeroes))
                .unwrap_or(u64::MAX),
            // Nothing is known: as with data.
            None => limits.transfer_bytes_max,
        };
        let nvm = limits.nvm.unwrap_or_default();
        let or_none = |limit: u64| if limit == 0 { u64::MAX } else { limit };
        let discard_blocks = or_none(nvm.dataset_range_size.into()).min(or_none(nvm.dataset_size));
        let discard_blocks_max = u64::from(u32::MAX) >> block_shift;
        let can = |bit: u16| controller.optional_io & bit != 0;
        let granularity = match namespace.features & namespace_feature::OPTIMAL_PERFORMANCE {
            0 => 1,
            _ => u64::from(namespace.write_granularity) + 1,
        };
        Ok(Traits {
            geometry: Geometry {
                nsid,
                block_shift,
                zeroes_sectors_max: whole_blocks(zeroes_bytes_max),
                discard_sectors_max: (discard_blocks.clamp(1, discard_blocks_max) << block_shift)
                    as u32,
            },
            sectors,
            volatile_cache: controller.write_cache & CACHE_PRESENT != 0,
            discard: can(optional_io::DATASET_MANAGEMENT),
            write_zeroes: can(optional_io::WRITE_ZEROES),
            read_only: namespace.attributes & NAMESPACE_WRITE_PROTECTED != 0,
            transfer_sectors_max: whole_blocks(limits.transfer_bytes_max),
            optimal_write_bytes: u32::try_from(granularity * block_bytes)
                .unwrap_or(block_bytes as u32),
            atomic_writes: atomic_writes(&namespace, controller, block_shift),
        })
    }

    pub(in crate::bdev) fn block_bytes(&self) -> u32 {
        (SECTOR_BYTES as u32) << self.geometry.block_shift
    }

    /// Puts what was found into what a device declares.
    pub(in crate::bdev) fn declare(&self, lower: Lower) -> Lower {
        Lower {
            sectors: self.sectors,
            block_bytes: self.block_bytes(),
            physical_bytes: self.block_bytes(),
            volatile_cache: self.volatile_cache,
            discard: self.discard,
            // A controller may leave undone what Dataset Management advises it to do.
            discard_zeroes: false,
            write_zeroes: self.write_zeroes,
            transfer_sectors_max: self.transfer_sectors_max,
            optimal_write_bytes: self.optimal_write_bytes,
            atomic_writes: self.atomic_writes,
            read_only: self.read_only,
            ..lower
        }
    }
}

/// Which writes of a namespace are atomic through a power failure (NVM Command Set 1.0, 2.1.4.2): those of NAWUPF, or AWUPF, that cross no
/// boundary. Boundaries that do not begin at block 0, or are no power of two apart, are more than a table can reckon with: none is.
fn atomic_writes(
    namespace: &identify::Namespace,
    controller: &identify::Controller,
    block_shift: u32,
) -> AtomicWrites {
    let has_own = namespace.features & namespace_feature::ATOMICITY != 0;
    let last = match namespace.atomic_write_power_fail {
        own if has_own && own > 0 => own,
        _ => controller.atomic_write_power_fail,
    };
    let all = AtomicWrites::ALL.up_to((u32::from(last) + 1) << block_shift);
    let boundary = u32::from(namespace.atomic_boundary_power_fail) + 1;
    match (boundary, namespace.atomic_boundary_offset) {
        (1, _) => all,
        (boundary, 0) if boundary.is_power_of_two() => {
            all.cut_at(u64::from(boundary) << block_shift)
        }
        _ => AtomicWrites::NONE,
    }
}

/// The size of a namespace in sectors, and the shift from sectors to its blocks.
///
/// # Errors
/// A sentence for the operator: blocks or metadata that polldm does not support.
pub(in crate::bdev) fn size(nsid: u32, page: &identify::Page) -> Result<(u64, u32), String> {
    let namespace = identify::Namespace::decode(page);
    let metadata_bytes = get_u16(&page[..], 128 + 4 * format_in_use(page));
    if metadata_bytes != 0 {
        return Err(format!(
            "namespace {nsid} has {metadata_bytes} bytes of metadata for each block, which polldm does not support; format it without"
        ));
    }
    let block_shift = match namespace.block_shift {
        9 => 0,
        12 => 3,
        shift => {
            return Err(format!(
                "namespace {nsid} has blocks of 2^{shift} bytes; 512 and 4096 are supported"
            ));
        }
    };
    let sectors = namespace
        .size
        .checked_mul(1 << block_shift)
        .filter(|sectors| *sectors <= i64::MAX as u64 / SECTOR_BYTES);
    let sectors =
        sectors.ok_or_else(|| format!("namespace {nsid} is larger than can be addressed"))?;
    Ok((sectors, block_shift))
}

/// FLBAS: which of the LBA formats is in use (NVM Command Set 1.0, 4.1.5.1).
fn format_in_use(page: &identify::Page) -> usize {
    usize::from(page[26] & 0xF | page[26] >> 1 & 0x30)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::bytes::put_u16;

    fn page(size: u64, block_shift: u8) -> identify::Page {
        let mut page = [0; identify::PAGE_SIZE];
        identify::Namespace {
            size,
            capacity: size,
            block_shift,
            ..Default::default()
        }
        .encode(&mut page);
        page
    }

    fn controller(optional_io: u16, write_cache: u8) -> identify::Controller {
        identify::Controller {
            optional_io,
            write_cache,
            ..Default::default()
        }
    }

    fn limits(transfer_bytes_max: u64, nvm: Option<NvmLimits>) -> Limits {
        Limits {
            transfer_bytes_max,
            nvm,
            page_shift: 12,
        }
    }

    #[test]
    fn blocks_are_counted_in_sectors() {
        let nvm = NvmLimits {
            write_zeroes: 3,
            dataset_range_size: 16,
            dataset_size: 24,
            ..Default::default()
        };
        let all = optional_io::DATASET_MANAGEMENT | optional_io::WRITE_ZEROES;
        let controller = controller(all, CACHE_PRESENT);
        let limits = limits(500_000, Some(nvm));
        let found = Traits::new(7, &page(1000, 12), &controller, &limits).expect("supported");
        assert_eq!((found.sectors, found.block_bytes()), (8000, 4096));
        assert!(found.volatile_cache && found.discard && found.write_zeroes && !found.read_only);
        assert_eq!(
            found.geometry,
            Geometry {
                nsid: 7,
                block_shift: 3,
                zeroes_sectors_max: 64,
                discard_sectors_max: 128
            }
        );
        assert_eq!(found.transfer_sectors_max, 976, "122 whole blocks");
        assert_eq!(found.optimal_write_bytes, 4096);
    }

    /// Without limits a command is as large as its fields, or as data where nothing is known.
    #[test]
    fn what_is_not_told_is_not_guessed_too_large() {
        let of = |nvm| {
            let limits = limits(128 << 10, nvm);
            Traits::new(1, &page(1 << 30, 9), &controller(0, 0), &limits).expect("supported")
        };
        let told = of(Some(NvmLimits::default())).geometry;
        assert_eq!(told.zeroes_sectors_max, 1 << 16);
        assert_eq!(told.discard_sectors_max, u32::MAX);
        let untold = of(None);
        assert_eq!(untold.geometry.zeroes_sectors_max, 256);
        assert!(!untold.discard && !untold.write_zeroes && !untold.volatile_cache);
    }

    /// Atomic through a power failure: the namespace's own unit where it has one, else the controller's, up to the boundaries.
    #[test]
    fn atomic_writes_are_those_that_no_power_failure_tears() {
        let of = |features, own, boundary, offset| {
            let mut page = [0; identify::PAGE_SIZE];
            identify::Namespace {
                size: 8,
                block_shift: 12,
                features,
                atomic_write: 255,
                atomic_write_power_fail: own,
                atomic_boundary_power_fail: boundary,
                atomic_boundary_offset: offset,
                ..Default::default()
            }
            .encode(&mut page);
            let controller = identify::Controller {
                atomic_write: 127,
                atomic_write_power_fail: 3,
                ..Default::default()
            };
            let traits = Traits::new(1, &page, &controller, &limits(128 << 10, None));
            traits.expect("supported").atomic_writes
        };
        let atomic = |sectors_max, boundary_sectors| AtomicWrites {
            sectors_max,
            boundary_sectors,
        };
        let own = namespace_feature::ATOMICITY;
        assert_eq!(of(0, 7, 0, 0), atomic(32, 0), "NAWUPF does not hold");
        assert_eq!(of(own, 7, 0, 0), atomic(64, 0));
        assert_eq!(of(own, 0, 0, 0), atomic(32, 0), "as the controller's");
        assert_eq!(of(own, 7, 15, 0), atomic(64, 128));
        assert_eq!(of(own, 7, 14, 0), AtomicWrites::NONE);
        assert_eq!(of(own, 7, 15, 8), AtomicWrites::NONE);
    }

    #[test]
    fn formats_that_are_refused() {
        let refusal = |page: &identify::Page| size(3, page).expect_err("refused");
        assert_eq!(
            refusal(&page(8, 13)),
            "namespace 3 has blocks of 2^13 bytes; 512 and 4096 are supported"
        );
        assert_eq!(
            refusal(&page(u64::MAX / 8, 12)),
            "namespace 3 is larger than can be addressed"
        );
        // Format 17 is in use: bits 3:0 of FLBAS have 1, bits 6:5 have 1.
        let mut with_metadata = page(8, 9);
        with_metadata[26] = 0x21;
        with_metadata[128 + 17 * 4 + 2] = 9;
        assert_eq!(size(3, &with_metadata), Ok((8, 0)));
        put_u16(&mut with_metadata, 128 + 17 * 4, 8);
        assert_eq!(
            refusal(&with_metadata),
            "namespace 3 has 8 bytes of metadata for each block, which polldm does not support; format it without"
        );
    }
}
