//! The lane of a device on one core: all of the mapper that the reads and writes touch which an engine keeps itself, as long as nothing changes.
//!
//! Whoever submits keeps a [`Way`]: where one place of the table leads. It is good until the gate closes, for whatever could lead elsewhere happens behind a closed
//! gate, or until a lower device is taken away, and has to be asked for anew then ([`super::Mapper::pass`]).

use std::cell::Cell;
use std::rc::Rc;

use super::io::Op;
use super::message::Epoch;
use super::stats::{Stats, Tally};
use super::target::Chunks;

/// What a core counts of a device's reads and writes that the engine keeps.
#[derive(Default)]
// What each of them touches lies together.
#[repr(C)]
pub struct Lane {
    /// Which ways are good: those of this edition.
    edition: Cell<u64>,
    /// Originals of the device that were admitted, with a slot or without: numbers them as they arrive.
    arrivals: Cell<u64>,
    /// The round whose close order waits for what is under way.
    draining: Cell<Option<Epoch>>,
    /// Those under way.
    passing: Cell<u32>,
    read: Tally,
    write: Tally,
}

/// What the mapper has to know again of a read or write that the engine keeps.
#[derive(Clone, Copy, Debug)]
pub struct Passing {
    pub(super) started_ns: u64,
    pub(super) arrival: u64,
}

impl Lane {
    /// Counts a read or write in. It leaves in one of three ways: [`Lane::leave`], [`Lane::turn_back`] or [`super::Mapper::stopped`].
    #[inline(always)]
    pub fn enter(&self, now_ns: u64) -> Passing {
        self.passing.set(self.passing.get() + 1);
        Passing {
            started_ns: now_ns,
            arrival: self.arrive(),
        }
    }

    /// Counts one out that went well. Where [`Lane::is_draining`], [`super::Mapper::left`] has to follow.
    #[inline(always)]
    pub fn leave(&self, op: Op, sectors: u32, passing: &Passing, now_ns: u64) {
        let tally = match op {
            Op::Read => &self.read,
            _ => &self.write,
        };
        tally.done(sectors, now_ns.saturating_sub(passing.started_ns));
        self.give_up();
    }

    /// Whether a round waits for what is under way.
    #[inline(always)]
    pub fn is_draining(&self) -> bool {
        self.draining.get().is_some()
    }

    /// Counts one out that was not submitted after all: whoever has it submits it to the mapper ([`super::Mapper::submit`]).
    #[cold]
    pub fn turn_back(&self) {
        self.give_up();
        self.arrivals.set(self.arrivals.get() - 1);
    }

    /// Counts one out.
    #[inline(always)]
    pub(super) fn give_up(&self) {
        self.passing.set(self.passing.get() - 1);
    }

    /// The number of an original that has arrived.
    #[inline(always)]
    pub(super) fn arrive(&self) -> u64 {
        let arrival = self.arrivals.get() + 1;
        self.arrivals.set(arrival);
        arrival
    }

    /// Those under way.
    #[inline(always)]
    pub(super) fn passing(&self) -> u32 {
        self.passing.get()
    }

    /// Has a round wait for what is under way, or none; the one that did.
    pub(super) fn drain(&self, round: Option<Epoch>) -> Option<Epoch> {
        self.draining.replace(round)
    }

    /// No way that was found so far is good any more.
    pub(super) fn close(&self) {
        self.edition.set(self.edition.get() + 1);
    }

    /// Adds what was counted here.
    pub(super) fn add_to(&self, stats: &mut Stats) {
        self.read.add_to(&mut stats.read);
        self.write.add_to(&mut stats.write);
    }
}

/// Sectors of a table that follow one another, and what a read or write of them may have; in sectors, or in blocks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    /// Where it begins in the table.
    pub start: u64,
    /// How long it is; 0 for none.
    pub length: u64,
    /// The most that a read or write may have; 0 for none.
    pub most: u64,
}

impl Span {
    /// How far along a read or write begins that lies in it.
    #[inline(always)]
    pub fn along(&self, start: u64, length: u64) -> Option<u64> {
        let along = start.wrapping_sub(self.start);
        let inside = along < self.length
            && length <= self.length - along
            && length.wrapping_sub(1) < self.most;
        inside.then_some(along)
    }
}

/// Where the reads and writes of a span go: what is left of a place in the table, and of all that is asked on the way through it, for a target that only
/// computes where they go.
///
/// `L` is what the engine wants to find at the end of each leg: its own channel to a lower device.
pub struct Way<L> {
    lane: Rc<Lane>,
    edition: u64,
    span: Span,
    legs: Legs<L>,
}

/// Where the sectors of a span lie.
pub(super) enum Legs<L> {
    /// One after another.
    Straight(Leg<L>),
    /// Dealt out.
    Dealt(Chunks, Box<[Leg<L>]>),
}

/// One area of a lower device.
pub(super) struct Leg<L> {
    /// Where it begins there.
    pub start: u64,
    pub to: L,
}

impl<L> Leg<L> {
    fn in_blocks(self, shift: u32) -> Option<Leg<L>> {
        let start = in_blocks(self.start, shift)?;
        Some(Leg { start, ..self })
    }
}

/// How many blocks of 2 to the power of `shift` sectors that is; `None` if they are not whole ones.
fn in_blocks(sectors: u64, shift: u32) -> Option<u64> {
    sectors.is_multiple_of(1 << shift).then(|| sectors >> shift)
}

impl<L> Way<L> {
    pub(super) fn new(lane: &Rc<Lane>, span: Span, legs: Legs<L>) -> Way<L> {
        Way {
            lane: lane.clone(),
            edition: lane.edition.get(),
            span,
            legs,
        }
    }

    /// The same, for those who count in blocks of 2 to the power of `shift` sectors, above and below. `None` if something of it does not begin with one.
    pub fn in_blocks(self, shift: u32) -> Option<Way<L>> {
        let Span {
            start,
            length,
            most,
        } = self.span;
        let legs = match self.legs {
            Legs::Straight(leg) => Legs::Straight(leg.in_blocks(shift)?),
            Legs::Dealt(chunks, legs) => {
                let legs = legs.into_iter().map(|leg| leg.in_blocks(shift));
                Legs::Dealt(chunks.in_blocks(shift)?, legs.collect::<Option<_>>()?)
            }
        };
        let span = Span {
            start: in_blocks(start, shift)?,
            length: length >> shift,
            most: most >> shift,
        };
        Some(Way { span, legs, ..self })
    }

    /// Where a read or write goes, and where it begins there, counted as the way is: in sectors unless it was [`Way::in_blocks`]. `None` if it does not go this way,
    /// or if the way is not good any more.
    #[inline(always)]
    pub fn leads(&self, start: u64, length: u64) -> Option<(&L, u64)> {
        let along = self.span.along(start, length)?;
        if self.edition != self.lane.edition.get() {
            return None;
        }
        let (leg, within) = match &self.legs {
            Legs::Straight(leg) => (leg, along),
            Legs::Dealt(chunks, _) if length > chunks.left(along) => return None,
            Legs::Dealt(chunks, legs) => {
                let (leg, within) = chunks.locate(along);
                (&legs[leg], within)
            }
        };
        Some((&leg.to, leg.start + within))
    }

    /// Whose it is.
    #[inline(always)]
    pub fn lane(&self) -> &Rc<Lane> {
        &self.lane
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4 chunks of 16 sectors from sector 64 on, over areas of two devices, of which reads and writes have at most 8 sectors.
    fn dealt(first: u64, second: u64) -> Way<char> {
        let span = Span {
            start: 64,
            length: 64,
            most: 8,
        };
        let legs = [(first, 'a'), (second, 'b')].map(|(start, to)| Leg { start, to });
        let legs = Legs::Dealt(Chunks::new(16, 2), Box::new(legs));
        Way::new(&Rc::default(), span, legs)
    }

    #[test]
    fn a_way_leads_to_one_chunk() {
        let way = dealt(1000, 2000);
        let leads = |start, length| way.leads(start, length).map(|(to, at)| (*to, at));
        assert_eq!(leads(64, 8), Some(('a', 1000)));
        assert_eq!(leads(72, 8), Some(('a', 1008)));
        assert_eq!(leads(80, 1), Some(('b', 2000)));
        assert_eq!(leads(96, 8), Some(('a', 1016)));
        assert_eq!(leads(127, 1), Some(('b', 2031)));
        // Before it, behind it, across its end, across a chunk's, too long, of nothing.
        for (start, length) in [(63, 1), (128, 1), (124, 8), (73, 8), (64, 9), (64, 0)] {
            assert_eq!(leads(start, length), None, "{length} at {start}");
        }
    }

    #[test]
    fn in_blocks_a_way_leads_where_it_led_in_sectors() {
        let sectors = dealt(1000, 2000);
        let blocks = dealt(1000, 2000)
            .in_blocks(3)
            .expect("all are of 8 sectors");
        for block in 0..20 {
            let led = sectors.leads(block * 8, 8);
            assert_eq!(
                blocks.leads(block, 1),
                led.map(|(to, sector)| (to, sector / 8))
            );
        }
        assert!(dealt(1000, 2004).in_blocks(3).is_none(), "an area");
        assert!(dealt(1024, 2048).in_blocks(5).is_none(), "a chunk");
        let straight = |start, below| {
            let span = Span {
                start,
                length: 64,
                most: 8,
            };
            let leg = Leg {
                start: below,
                to: (),
            };
            Way::new(&Rc::default(), span, Legs::Straight(leg)).in_blocks(3)
        };
        assert!(straight(64, 80).is_some());
        assert!(straight(63, 80).is_none() && straight(64, 81).is_none());
    }

    #[test]
    fn a_way_ends_when_its_lane_is_closed() {
        let way = dealt(0, 0);
        assert!(way.leads(64, 1).is_some());
        way.lane().close();
        assert!(way.leads(64, 1).is_none());
    }
}
