//! What a table as a whole can do, from what its targets and lower devices can (LC-14).

use super::super::io::Op;
use super::super::limits::{AtomicWrites, Lower};
use super::super::target::{Arguments, Emulation, Refusal};
use super::Segment;

/// Block size of a device without any lower device (`zero`, `error`), in bytes.
const BLOCK_BYTES_DEFAULT: u32 = 512;

/// The limits of a mapped device: what a front end shows its hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size in sectors.
    pub sectors: u64,
    /// Logical block size in bytes: the largest of the lower devices', where no target has smaller ones over them.
    pub block_bytes: u32,
    /// What is written as one below, in bytes: the largest block of any device or target. At least the logical block.
    pub physical_bytes: u32,
    /// Some lower device has a volatile write cache, so hosts must flush (FL-21).
    pub volatile_cache: bool,
    /// Every target takes discards (TG-1).
    pub discard: bool,
    /// What was discarded reads as zeroes, wherever it lies: all of it, so not where a target discards whole blocks only that are larger.
    pub discard_zeroes: bool,
    /// Every target takes write-zeroes.
    pub write_zeroes: bool,
    /// Writes of this many bytes, so aligned, are best; at least the physical block.
    pub optimal_write_bytes: u32,
    /// Which writes are done whole or not at all: the table leaves them whole, and every device that they may go to does so.
    pub atomic_writes: AtomicWrites,
    /// The mapped device refuses writes: some lower device does.
    pub read_only: bool,
}

impl Limits {
    /// Combines what targets and lower devices declare.
    pub fn of(segments: &[Segment], lowers: &[Lower]) -> Limits {
        let all = |op| segments.iter().all(|segment| supports(segment, lowers, op));
        let blocks = segments.iter().map(|segment| block_bytes(segment, lowers));
        let block_bytes = blocks.max().unwrap_or(BLOCK_BYTES_DEFAULT);
        let physical = lowers.iter().map(|lower| lower.physical_bytes);
        let underlying = emulations(segments).map(|emulation| emulation.underlying_sectors * 512);
        let physical_bytes = physical.chain(underlying).fold(block_bytes, u32::max);
        let suggested = segments
            .iter()
            .map(|segment| segment.target.optimal_write_bytes());
        let declared = lowers
            .iter()
            .map(|lower| u64::from(lower.optimal_write_bytes));
        let optimal = suggested
            .chain(declared)
            .max()
            .unwrap_or(0)
            .max(u64::from(physical_bytes));
        Limits {
            sectors: segments.last().map_or(0, Segment::end),
            block_bytes,
            physical_bytes,
            volatile_cache: lowers.iter().any(|lower| lower.volatile_cache),
            discard: all(Op::Discard),
            discard_zeroes: all(Op::Discard)
                && lowers.iter().all(|lower| lower.discard_zeroes)
                && emulations(segments).all(Emulation::is_nominal),
            write_zeroes: all(Op::WriteZeroes),
            optimal_write_bytes: u32::try_from(optimal).unwrap_or(block_bytes),
            atomic_writes: atomic_writes(segments, lowers, block_bytes / 512),
            read_only: lowers.iter().any(|lower| lower.read_only),
        }
    }

    /// Sectors in a logical block.
    pub fn block_sectors(&self) -> u32 {
        self.block_bytes / 512
    }

    /// An I/O of whole blocks must never be cut into pieces that are not (LC-14): targets start, end and split at
    /// whole blocks of the device. `words` are those that the target was built from.
    pub(super) fn check_alignment(
        &self,
        segment: &Segment,
        words: &Arguments<'_>,
        lowers: &[Lower],
    ) -> Result<(), Refusal> {
        let block = u64::from(self.block_sectors());
        let whole = |what: &str, sectors: u64| {
            if sectors.is_multiple_of(block) {
                return Ok(());
            }
            let reason = format!(
                "{what} {sectors} is not a multiple of the device's block of {block} sectors"
            );
            let bytes = self.block_bytes;
            let refusal = Refusal::new(reason).at(words.source_of(sectors));
            let coarsest = lowers.iter().find(|lower| lower.block_bytes == bytes);
            Err(match coarsest {
                Some(Lower { name, .. }) => refusal.help(format!(
                    "'{name}' has blocks of {bytes} bytes, and so has the device"
                )),
                None => refusal.help(format!(
                    "a target has blocks of {bytes} bytes, and so has the device"
                )),
            })
        };
        whole("the start", segment.start)?;
        whole("the length", segment.sectors)?;
        whole("the chunk size", u64::from(segment.target.io_sectors_max()))?;
        for (_, start, _) in segment.target.areas(segment.sectors) {
            whole("the start on the lower device", start)?;
        }
        Ok(())
    }
}

/// The targets that have blocks of their own.
fn emulations(segments: &[Segment]) -> impl Iterator<Item = Emulation> {
    segments
        .iter()
        .filter_map(|segment| segment.target.emulation())
}

/// The logical block of one target in bytes: its own, or the largest of its devices'.
fn block_bytes(segment: &Segment, lowers: &[Lower]) -> u32 {
    match segment.target.emulation() {
        Some(emulation) => emulation.block_sectors * 512,
        None => {
            let areas = segment.target.areas(segment.sectors).into_iter();
            let blocks = areas.map(|(channel, ..)| lowers[channel.0 as usize].block_bytes);
            blocks.max().unwrap_or(BLOCK_BYTES_DEFAULT)
        }
    }
}

/// Which writes a table leaves whole and all of its lower devices do whole or not at all.
fn atomic_writes(segments: &[Segment], lowers: &[Lower], block_sectors: u32) -> AtomicWrites {
    let mut all = AtomicWrites::ALL;
    for segment in segments {
        all = all
            .cut_at(segment.start)
            .cut_at(segment.target.io_sectors_max().into());
        for (channel, start, _) in segment.target.areas(segment.sectors) {
            let lower = &lowers[channel.0 as usize];
            let moved = lower.atomic_writes.moved_by(start.abs_diff(segment.start));
            all = all.and(match segment.target.emulation() {
                // Whatever is written of a block, and it may be one that this write has nothing else in, the device writes all of it; so
                // what stays within a block is as whole as that.
                Some(Emulation {
                    underlying_sectors, ..
                }) => match lower.atomic_writes.include(start, underlying_sectors) {
                    true => moved.cut_at(underlying_sectors.into()),
                    false => AtomicWrites::NONE,
                },
                None => moved,
            });
            if lower.transfer_sectors_max > 0 {
                all = all.up_to(lower.transfer_sectors_max);
            }
        }
    }
    if all.boundary_sectors > 0 {
        all = all.up_to(all.boundary_sectors);
    }
    match all.sectors_max / block_sectors * block_sectors {
        0 => AtomicWrites::NONE,
        sectors => all.up_to(sectors),
    }
}

/// Whether one target can do `op`, a discard or write-zeroes: it does so itself, or all its devices can (TG-1).
pub(in crate::dm) fn supports(segment: &Segment, lowers: &[Lower], op: Op) -> bool {
    let target = &segment.target;
    if op == Op::Discard && target.class().discards_itself {
        return true;
    }
    let able = |lower: &Lower| match op {
        Op::Discard => lower.discard,
        _ => lower.write_zeroes,
    };
    target.duplicates(op) > 0
        && target
            .areas(segment.sectors)
            .iter()
            .all(|(channel, ..)| able(&lowers[channel.0 as usize]))
}
