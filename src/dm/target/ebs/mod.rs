//! `ebs <device> <start> <emulated> [<underlying>]`: blocks of `emulated` sectors over a device whose blocks are larger ("512e").
//!
//! Whole underlying blocks go straight through, as `linear` has it. A part of one goes through a private buffer ([`Map::Part`]): to read it, the
//! block is read; to write it, the block is read, changed and written, and only then is the write complete. There is no cache of ours, so flushes and
//! force-unit-access are the device's own, and a power cut finds in every block what was there before or after a write, as far as
//! the device writes one of its blocks as one. A device that tears its blocks can lose the neighbours of what is written: that is so of every disk with
//! 512e, and why [`Emulation`] limits atomic writes to what the device itself promises of a whole block.
//!
//! # Two writes to one block
//!
//! A part that is being written must not meet another write to the same block, on any core: what that wrote after the block was read would be
//! written over, though its host was told that it is done. So every write takes its blocks first ([`Blocks`], shared by all copies of the target),
//! and lets go of them when it has ended below, well or not. A write whose blocks are taken waits: the copy asks again when one of its own has
//! ended, and every [`RETRY_NS`] for those of other cores. Nobody waits for a block who has one: a piece takes its blocks at
//! once or not at all, and the pieces of one write are independent.
//! Nothing orders the cores among each other; one that finds a block taken each time it asks is a matter of chance, and asks on.
//!
//! Reads take nothing: they find a block before or after a write. Neither do discards, which go to the device as the whole blocks in their range: a discard
//! meets a part that is being written only if its host has both under way for the same sectors. The rest of such a block may then read as it did before
//! both, and that is why a discard is not said to leave zeroes ([`crate::dm::Limits::discard_zeroes`]); the sectors at the ends of its range, which
//! are no whole block, stay as they are anyway. *Turned down:* discards that take blocks. A discard may be as long as the device, and parts would
//! wait for as long as it takes.
//!
//! *Turned down:* the mapper's sequences (IO-21), which stop all I/O on all cores for each part; a lock per block, which is memory per block; cores that own
//! blocks, to which others would have to hand their writes. The price of the words is two atomic operations per write, of reads nothing.

mod blocks;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::super::env::PRIVATE_SECTORS_MAX;
use super::super::io::Op;
use super::super::limits::Lower;
use super::{
    Arguments, Ask, Builder, ChannelIndex, Class, Emulation, End, Ended, Map, Note, Notice, Part,
    Refusal, Share, Site, Target, refuse,
};
use blocks::{BLOCKS_MAX, Blocks};

/// How long a write waits for a block before it asks again, if no write of the same core ends: about what a fast device takes to write one.
const RETRY_NS: u64 = 50_000;

/// Sizes that may be emulated, in sectors.
const EMULATED: [u64; 4] = [1, 2, 4, 8];

/// The clone has taken its blocks.
const TAKEN: Note = Note(1);

/// Smaller blocks over larger ones (6.2).
#[derive(Clone, Debug)]
pub struct Ebs {
    channel: ChannelIndex,
    start: u64,
    emulated: u32,
    underlying: u32,
    /// The table line says so.
    underlying_named: bool,
    /// This copy holds writes whose blocks were taken.
    waiting: bool,
    /// When it asks again for them; `u64::MAX` if there are none.
    due_ns: u64,
    /// The copy's core.
    core: usize,
    shared: Arc<Shared>,
}

/// What all copies share.
#[derive(Debug)]
struct Shared {
    blocks: Blocks,
    /// What each core counts; it writes its own entry only, with plain stores, and whoever asks for the text reads all.
    counts: OnceLock<Vec<Counts>>,
}

/// Parts of blocks that were read, those that were written, and how often a write found a block taken.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Counts([AtomicU64; 3]);

impl Ebs {
    /// The blocks that sectors are in, or are: the first, and how many.
    fn blocks(&self, sector: u64, sectors: u32) -> (u64, u32) {
        let block = u64::from(self.underlying);
        let (first, end) = (
            sector / block,
            (sector + u64::from(sectors)).div_ceil(block),
        );
        (first, (end - first) as u32)
    }

    fn let_go(&self, sector: u64, sectors: u32) {
        let (first, count) = self.blocks(sector, sectors);
        self.shared.blocks.let_go(first, count);
    }

    fn count(&self, which: usize) {
        if let Some(counts) = self.shared.counts.get() {
            let count = &counts[self.core].0[which];
            count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }
}

impl Target for Ebs {
    const NAME: &'static str = "ebs";
    const FORM: &'static str = "<device> <start> <emulated> [<underlying>]";
    const VERSION: [u32; 3] = [1, 0, 0];
    /// Flushes pass through it, although it would do without: what goes by the class looks for devices by asking `map`, which takes blocks here.
    const CLASS: Class = Class::NONE;

    fn build(arguments: &mut Arguments<'_>, builder: &mut Builder<'_>) -> Result<Ebs, Refusal> {
        let (channel, start) = builder.area(arguments, builder.sectors)?;
        let start_word = arguments.last();
        let Lower {
            ref name,
            block_bytes,
            transfer_sectors_max,
            ..
        } = builder.lowers()[channel.0 as usize];
        let own = u64::from(block_bytes / 512);
        let emulated = arguments.number("the emulated block in sectors", u32::MAX.into())?;
        if !EMULATED.contains(&emulated) {
            return refuse(format!(
                "an emulated block of {emulated} sectors is none of 1, 2, 4 and 8"
            ));
        }
        let underlying_named = arguments.left() > 0;
        let underlying = match underlying_named {
            true => arguments.number("the underlying block in sectors", u32::MAX.into())?,
            false => own,
        };
        let block = "an underlying block of";
        if !underlying.is_power_of_two() || underlying > u64::from(PRIVATE_SECTORS_MAX) {
            return refuse(format!(
                "{block} {underlying} sectors is no power of two of at most {PRIVATE_SECTORS_MAX}"
            ));
        }
        if underlying < own {
            return refuse(format!(
                "{block} {underlying} sectors is smaller than the {own} of '{name}'"
            ));
        }
        if underlying < emulated {
            return refuse(format!(
                "{block} {underlying} sectors is smaller than the {emulated} that are emulated"
            ));
        }
        if (1..underlying).contains(&u64::from(transfer_sectors_max)) {
            return refuse(format!(
                "{block} {underlying} sectors is more than '{name}' transfers at once, which is {transfer_sectors_max}"
            ));
        }
        for (what, sectors, word) in [
            ("start", start, start_word),
            ("length", builder.sectors, Arguments::LENGTH),
        ] {
            if sectors % underlying != 0 {
                let reason = format!(
                    "the {what} {sectors} is not a multiple of the underlying block of {underlying} sectors"
                );
                return Err(Refusal::new(reason).at(word));
            }
        }
        arguments.end()?;
        Ok(Ebs {
            channel,
            start,
            emulated: emulated as u32,
            underlying: underlying as u32,
            underlying_named,
            waiting: false,
            due_ns: u64::MAX,
            core: 0,
            shared: Arc::new(Shared {
                blocks: Blocks::new(builder.sectors / underlying),
                counts: OnceLock::new(),
            }),
        })
    }

    fn bind(&mut self, site: Site) {
        self.core = usize::from(site.core.0);
        let none = || (0..site.cores).map(|_| Counts::default()).collect();
        self.shared.counts.get_or_init(none);
    }

    fn map(&mut self, ask: &Ask) -> Map {
        let block = u64::from(self.underlying);
        let before = ask.sector % block;
        let is_whole = before == 0 && u64::from(ask.sectors) % block == 0;
        let mut note = Note::NONE;
        if ask.op != Op::Read {
            let (first, count) = self.blocks(ask.sector, ask.sectors);
            if !self.shared.blocks.take(first, count) {
                self.count(2);
                self.waiting = true;
                self.due_ns = self.due_ns.min(ask.now_ns.saturating_add(RETRY_NS));
                return Map::Hold { for_ns: u64::MAX };
            }
            note = TAKEN;
        }
        let sector = self.start + ask.sector - before;
        if is_whole {
            return Map::Remapped {
                channel: self.channel,
                sector,
                note,
            };
        }
        self.count(usize::from(ask.op != Op::Read));
        Map::Part(Part {
            channel: self.channel,
            sector,
            sectors: self.underlying,
            before: before as u32,
            note,
        })
    }

    /// So that one word has the bits of all blocks of a piece.
    fn io_sectors_max(&self) -> u32 {
        self.underlying * BLOCKS_MAX
    }

    fn emulation(&self) -> Option<Emulation> {
        Some(Emulation {
            block_sectors: self.emulated,
            underlying_sectors: self.underlying,
        })
    }

    fn flushes(&self) -> u32 {
        1
    }

    fn flush(&mut self, _ask: &Ask) -> Map {
        Map::Remapped {
            channel: self.channel,
            sector: 0,
            note: Note::NONE,
        }
    }

    /// Zeroes would have to be written in part; whoever wants them writes them.
    fn duplicates(&self, op: Op) -> u32 {
        u32::from(op == Op::Discard)
    }

    /// The whole blocks of a discard.
    fn range(&mut self, ask: &Ask) -> Map {
        let block = u64::from(self.underlying);
        let first = ask.sector.next_multiple_of(block);
        let end = ask.sector + u64::from(ask.sectors);
        let end = end - end % block;
        if first >= end {
            return Map::Zero;
        }
        Map::Share(Share {
            channel: self.channel,
            sector: self.start + first,
            sectors: (end - first) as u32,
        })
    }

    fn areas(&self, sectors: u64) -> Vec<(ChannelIndex, u64, u64)> {
        vec![(self.channel, self.start, sectors)]
    }

    fn optimal_write_bytes(&self) -> u64 {
        u64::from(self.underlying) * 512
    }

    fn end(&mut self, ended: &Ended, _notice: &mut Option<Notice>) -> End {
        if ended.note == TAKEN {
            self.let_go(ended.sector, ended.sectors);
            if self.waiting {
                self.due_ns = ended.now_ns;
            }
        }
        End::Done(ended.status)
    }

    /// Who waits for the block asks again soon enough, and not at once: this clone would be asked, too, and there is still no memory.
    fn unsent(&mut self, part: &Part) {
        if part.note == TAKEN {
            self.let_go(part.sector - self.start, part.sectors);
        }
    }

    fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// All that wait are asked about after this; those whose blocks are still taken say so again.
    fn timer(&mut self, _now_ns: u64, _notice: &mut Option<Notice>) {
        self.waiting = false;
        self.due_ns = u64::MAX;
    }

    /// Parts of blocks that were read, parts that were written, and how often a write had to wait for a block; of all cores, since the table
    /// was loaded.
    fn status(&self, _lowers: &[Lower]) -> String {
        let cores = self.shared.counts.get().map_or(&[][..], Vec::as_slice);
        let [read, written, waited] = [0, 1, 2].map(|which: usize| -> u64 {
            let of_core = |counts: &Counts| counts.0[which].load(Ordering::Relaxed);
            cores.iter().map(of_core).sum()
        });
        format!("{read} {written} {waited}")
    }

    fn table(&self, lowers: &[Lower]) -> String {
        let name = &lowers[self.channel.0 as usize].name;
        let (start, emulated) = (self.start, self.emulated);
        match self.underlying_named {
            true => format!("{name} {start} {emulated} {}", self.underlying),
            false => format!("{name} {start} {emulated}"),
        }
    }
}
