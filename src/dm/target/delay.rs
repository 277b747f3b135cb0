//! `delay <device> <start> <ms> [<device> <start> <ms> [<device> <start> <ms>]]`: linear areas, reached late.
//!
//! The first three words are for reads, the next for writes, discards and write-zeroes, the last for flushes; what is left out is as
//! the one before it. A suspend lets everything go at once, and nothing is delayed until the resume (4.2, SU-16).
//!
//! A flush goes to every device that is named, whichever of the three it is named for (FL-22). The kernel's delay sends it to the
//! device named for flushes and nowhere else, so that with two devices it loses the flush of what it has written.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use super::super::io::Op;
use super::super::limits::Lower;
use super::{
    Arguments, Ask, Builder, ChannelIndex, Class, Map, Note, Refusal, Site, Target, refuse,
};

/// The longest delay: a day. Longer than any host waits, so enough to hold I/O by hand; as nanoseconds it is far from overflowing.
const DELAY_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// What is delayed alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
}

impl Kind {
    fn of(op: Op) -> Kind {
        match op {
            Op::Read => Kind::Read,
            Op::Flush => Kind::Flush,
            Op::Write | Op::Discard | Op::WriteZeroes | Op::CompareAndWrite | Op::WriteAtomic => {
                Kind::Write
            }
        }
    }
}

/// Where one kind of I/O goes, and how late.
#[derive(Clone, Copy, Debug)]
struct Way {
    channel: ChannelIndex,
    start: u64,
    delay_ms: u64,
}

/// How many clones one core holds of each kind.
type Counts = [AtomicU32; 3];

/// Delays I/O by its kind (6.1).
#[derive(Clone, Debug)]
pub struct Delay {
    /// For reads, writes, flushes.
    ways: [Way; 3],
    /// How many of them the table line names: 1, 2 or 3.
    named: usize,
    /// The distinct devices, in the order they were named: one flush clone each.
    devices: Vec<ChannelIndex>,
    /// Nothing is delayed: the device is being suspended.
    suspending: bool,
    /// The copy's core.
    core: usize,
    /// What this copy holds of each kind.
    held: [u32; 3],
    /// What each core holds, for the INFO text. Each core writes its own entry only, with plain stores and no more often than it
    /// holds or lets go of a clone; whoever asks for the text reads all. *Turned down:* notices, which would be a message per I/O.
    shared: Arc<OnceLock<Vec<Counts>>>,
}

impl Delay {
    fn ask(&mut self, ask: &Ask, channel: ChannelIndex) -> Map {
        let kind = Kind::of(ask.op) as usize;
        let Way {
            start, delay_ms, ..
        } = self.ways[kind];
        let delay_ns = match self.suspending {
            true => 0,
            false => delay_ms * 1_000_000,
        };
        let waited_ns = match ask.held_since_ns {
            Some(since_ns) => ask.now_ns.saturating_sub(since_ns),
            None => 0,
        };
        if waited_ns < delay_ns {
            if ask.held_since_ns.is_none() {
                self.count(kind, 1);
            }
            return Map::Hold {
                for_ns: delay_ns - waited_ns,
            };
        }
        if ask.held_since_ns.is_some() {
            self.count(kind, -1);
        }
        Map::Remapped {
            channel,
            sector: match ask.op {
                Op::Flush => 0,
                _ => start + ask.sector,
            },
            note: Note::NONE,
        }
    }

    fn count(&mut self, kind: usize, change: i32) {
        let held = &mut self.held[kind];
        *held = held
            .checked_add_signed(change)
            .expect("held once, let go once");
        if let Some(counts) = self.shared.get() {
            counts[self.core][kind].store(*held, Ordering::Relaxed);
        }
    }
}

impl Target for Delay {
    const NAME: &'static str = "delay";
    const FORM: &'static str =
        "<device> <start> <ms> [<device> <start> <ms> [<device> <start> <ms>]]";
    const VERSION: [u32; 3] = [1, 0, 0];
    const CLASS: Class = Class::NONE;

    fn build(arguments: &mut Arguments<'_>, builder: &mut Builder<'_>) -> Result<Delay, Refusal> {
        let words = arguments.left();
        if ![3, 6, 9].contains(&words) {
            return refuse(format!(
                "device, start and milliseconds are needed, once for all I/O, twice for reads and the rest, or three times for \
                 reads, writes and flushes: 3, 6 or 9 words, not {words}"
            ));
        }
        let named = words / 3;
        let mut ways = Vec::with_capacity(3);
        let mut devices = Vec::with_capacity(3);
        for _ in 0..named {
            let (channel, start) = builder.area(arguments, builder.sectors)?;
            let delay_ms = arguments.number("the delay in milliseconds", DELAY_MS_MAX)?;
            ways.push(Way {
                channel,
                start,
                delay_ms,
            });
            if !devices.contains(&channel) {
                devices.push(channel);
            }
        }
        let way = |kind: Kind| ways[(kind as usize).min(named - 1)];
        Ok(Delay {
            ways: [way(Kind::Read), way(Kind::Write), way(Kind::Flush)],
            named,
            devices,
            suspending: false,
            core: 0,
            held: [0; 3],
            shared: Arc::default(),
        })
    }

    fn bind(&mut self, site: Site) {
        self.core = usize::from(site.core.0);
        let none = || (0..site.cores).map(|_| Counts::default()).collect();
        self.shared.get_or_init(none);
    }

    fn map(&mut self, ask: &Ask) -> Map {
        self.ask(ask, self.ways[Kind::of(ask.op) as usize].channel)
    }

    fn flushes(&self) -> u32 {
        self.devices.len() as u32
    }

    fn flush(&mut self, ask: &Ask) -> Map {
        self.ask(ask, self.devices[ask.number as usize])
    }

    fn duplicates(&self, _op: Op) -> u32 {
        1
    }

    fn areas(&self, sectors: u64) -> Vec<(ChannelIndex, u64, u64)> {
        let ways = self.ways[..self.named].iter();
        ways.map(|way| (way.channel, way.start, sectors)).collect()
    }

    fn given_up(&mut self, op: Op) {
        self.count(Kind::of(op) as usize, -1);
    }

    fn presuspend(&mut self, _noflush: bool) {
        self.suspending = true;
    }

    fn presuspend_undo(&mut self) {
        self.suspending = false;
    }

    fn resume(&mut self) {
        self.suspending = false;
    }

    /// Clones held on all cores: reads, writes, flushes (a flush counts once per device).
    fn status(&self, _lowers: &[Lower]) -> String {
        let cores = self.shared.get().map_or(&[][..], Vec::as_slice);
        let sum = |kind: Kind| -> u64 {
            let of_core =
                |counts: &Counts| u64::from(counts[kind as usize].load(Ordering::Relaxed));
            cores.iter().map(of_core).sum()
        };
        let (reads, writes) = (sum(Kind::Read), sum(Kind::Write));
        format!("{reads} {writes} {}", sum(Kind::Flush))
    }

    fn table(&self, lowers: &[Lower]) -> String {
        let word = |way: &Way| {
            let name = &lowers[way.channel.0 as usize].name;
            format!("{name} {} {}", way.start, way.delay_ms)
        };
        let words: Vec<_> = self.ways[..self.named].iter().map(word).collect();
        words.join(" ")
    }
}
