//! `flakey <device> <start> <up_s> <down_s> [<#feat> feat…]`: a linear area that is unreliable from time to time.
//!
//! It is up for `up_s` seconds and then down for `down_s`, over and over from the moment the table was loaded. While it is down its
//! features say what goes wrong; without any, all I/O fails. Discards, write-zeroes and flushes go as writes do, but carry no byte that
//! could be changed.
//!
//! A read is changed after it has completed, a write on a private copy ([`Map::Tampered`]).

mod features;

use super::super::Status;
use super::super::env::PRIVATE_SECTORS_MAX;
use super::super::io::Op;
use super::super::limits::Lower;
use super::{
    Arguments, Ask, Builder, ChannelIndex, Class, End, Ended, Map, Note, Notice, Refusal, Site,
    Tamper, Target, refuse,
};
use features::{Direction, Features, PROBABILITY_MAX, Writes};

/// Up and down together, in seconds: 136 years, and far from overflowing as nanoseconds.
const PERIOD_S_MAX: u64 = u32::MAX as u64;

/// What random corruption starts from, together with the core's number. Any number does; it is fixed so that a test can be repeated.
const SEED: u64 = 0x706f_6c6c_646d_2121;

/// A read that was submitted while the target was down, and is to be changed.
const CORRUPT: Note = Note(1);

/// Unreliable by the clock (6.1).
#[derive(Clone, Debug)]
pub struct Flakey {
    channel: ChannelIndex,
    start: u64,
    up_s: u64,
    down_s: u64,
    features: Features,
    /// When this copy was bound, on its core's clock: the beginning of the first time that it is up.
    since_ns: u64,
    /// Where the random numbers of this copy have got to.
    random: u64,
}

impl Flakey {
    fn is_down(&self, now_ns: u64) -> bool {
        let elapsed_s = now_ns.saturating_sub(self.since_ns) / 1_000_000_000;
        elapsed_s % (self.up_s + self.down_s) >= self.up_s
    }

    fn remapped(&self, sector: u64, note: Note) -> Map {
        Map::Remapped {
            channel: self.channel,
            sector: self.start + sector,
            note,
        }
    }

    /// What becomes of anything but a read while the target is down; `None` if it passes.
    fn stopped(&self) -> Option<Map> {
        match self.features.writes {
            Writes::Pass => None,
            Writes::Drop => Some(Map::Zero),
            Writes::Fail => Some(Map::Kill),
        }
    }

    /// Whether reads, or writes, may be changed while the target is down.
    fn corrupts(&self, direction: Direction) -> bool {
        let certain = |byte: features::Byte| byte.direction == direction;
        let random = match direction {
            Direction::Read => self.features.random_read,
            Direction::Write => self.features.random_write,
        };
        self.features.byte.is_some_and(certain) || random.is_some()
    }

    /// Which byte of an I/O is changed, if any.
    fn tamper(&mut self, direction: Direction, sectors: u32, flags: u32) -> Option<Tamper> {
        let bytes = sectors * 512;
        let hit = |byte: &features::Byte| {
            byte.direction == direction && byte.flags & flags == byte.flags && byte.nth <= bytes
        };
        if let Some(byte) = self.features.byte.filter(hit) {
            return Some(Tamper {
                offset: byte.nth - 1,
                value: byte.value,
            });
        }
        let probability = match direction {
            Direction::Read => self.features.random_read,
            Direction::Write => self.features.random_write,
        }?;
        if self.below(u64::from(PROBABILITY_MAX)) >= u64::from(probability) {
            return None;
        }
        Some(Tamper {
            offset: self.below(u64::from(bytes)) as u32,
            value: self.below(256) as u8,
        })
    }

    /// A random number below `bound` (xorshift64*): good enough to pick a byte.
    fn below(&mut self, bound: u64) -> u64 {
        let mut x = self.random;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random = x;
        (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % bound
    }
}

impl Target for Flakey {
    const NAME: &'static str = "flakey";
    const FORM: &'static str = "<device> <start> <up_s> <down_s> [<#features> feature…]";
    const VERSION: [u32; 3] = [1, 0, 0];
    const CLASS: Class = Class::NONE;

    fn build(arguments: &mut Arguments<'_>, builder: &mut Builder<'_>) -> Result<Flakey, Refusal> {
        let (channel, start) = builder.area(arguments, builder.sectors)?;
        let up_s = arguments.number("the time it is up, in seconds,", PERIOD_S_MAX)?;
        let down_s = arguments.number("the time it is down, in seconds,", PERIOD_S_MAX)?;
        match up_s + down_s {
            0 => return refuse("it is up for 0 seconds and down for 0: one must be more"),
            1..=PERIOD_S_MAX => {}
            sum => {
                return refuse(format!(
                    "up and down are {sum} seconds together: at most {PERIOD_S_MAX}"
                ));
            }
        }
        let features = Features::parse(arguments)?;
        Ok(Flakey {
            channel,
            start,
            up_s,
            down_s,
            features,
            since_ns: 0,
            random: SEED,
        })
    }

    fn bind(&mut self, site: Site) {
        self.since_ns = site.now_ns;
        self.random = SEED ^ u64::from(site.core.0 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn map(&mut self, ask: &Ask) -> Map {
        let as_it_is = self.remapped(ask.sector, Note::NONE);
        if !self.is_down(ask.now_ns) {
            return as_it_is;
        }
        if ask.op == Op::Read {
            return match (self.features.error_reads, self.corrupts(Direction::Read)) {
                (true, _) => Map::Kill,
                (false, true) => self.remapped(ask.sector, CORRUPT),
                (false, false) => as_it_is,
            };
        }
        if let Some(stopped) = self.stopped() {
            return stopped;
        }
        if ask.op != Op::Write {
            return as_it_is;
        }
        let flags = match ask.fua {
            true => features::FLAG_FUA,
            false => 0,
        };
        match self.tamper(Direction::Write, ask.sectors, flags) {
            Some(tamper) => Map::Tampered {
                channel: self.channel,
                sector: self.start + ask.sector,
                tamper,
            },
            None => as_it_is,
        }
    }

    fn io_sectors_max(&self) -> u32 {
        match self.corrupts(Direction::Write) {
            true => PRIVATE_SECTORS_MAX,
            false => 0,
        }
    }

    fn flushes(&self) -> u32 {
        1
    }

    fn flush(&mut self, ask: &Ask) -> Map {
        let stopped = self.stopped().filter(|_| self.is_down(ask.now_ns));
        stopped.unwrap_or(Map::Remapped {
            channel: self.channel,
            sector: 0,
            note: Note::NONE,
        })
    }

    fn duplicates(&self, _op: Op) -> u32 {
        1
    }

    fn areas(&self, sectors: u64) -> Vec<(ChannelIndex, u64, u64)> {
        vec![(self.channel, self.start, sectors)]
    }

    fn end(&mut self, ended: &Ended, _notice: &mut Option<Notice>) -> End {
        if ended.note == CORRUPT
            && ended.status == Status::Ok
            && let Some(tamper) = self.tamper(Direction::Read, ended.sectors, 0)
        {
            return End::Tampered(tamper);
        }
        End::Done(ended.status)
    }

    fn table(&self, lowers: &[Lower]) -> String {
        format!(
            "{} {} {} {} {}",
            lowers[self.channel.0 as usize].name,
            self.start,
            self.up_s,
            self.down_s,
            self.features.words()
        )
    }
}
