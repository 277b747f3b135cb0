//! The lane of a device on one core: all of the mapper that the reads and writes touch which an engine keeps itself, as long as nothing changes.
//!
//! Whoever submits keeps a [`Way`]: where one stretch of the table leads. It is good until the gate closes, for whatever could lead elsewhere happens behind a closed
//! gate, and has to be asked for anew then ([`super::Mapper::pass`]).

use std::cell::Cell;
use std::rc::Rc;

use super::io::Op;
use super::message::Epoch;
use super::stats::{Stats, Tally};
use super::target::ChannelIndex;

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

/// Sectors of a table that follow one another on one lower device: what is left of a place, and of all that is asked on the way through it, for
/// reads and writes that go straight on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stretch {
    pub span: Span,
    /// The place in the table.
    pub place: u32,
    /// Where it lies.
    pub channel: ChannelIndex,
}

/// Where it is, above and below; in sectors, or in blocks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    /// Where it begins in the table.
    pub start: u64,
    /// How long it is; 0 for none.
    pub length: u64,
    /// The most that a read or write may have; 0 for none.
    pub most: u64,
    /// Where it begins below.
    pub below: u64,
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

/// Where the reads and writes of one stretch go, to one channel of the device's.
pub struct Way {
    lane: Rc<Lane>,
    edition: u64,
    span: Span,
}

impl Way {
    pub(super) fn new(lane: &Rc<Lane>, span: Span) -> Way {
        Way {
            lane: lane.clone(),
            edition: lane.edition.get(),
            span,
        }
    }

    /// The same, for those who count in blocks of 2 to the power of `shift` sectors, above and below. `None` if it does not begin with one.
    pub fn in_blocks(mut self, shift: u32) -> Option<Way> {
        let Span {
            start,
            length,
            most,
            below,
        } = &mut self.span;
        if (*start | *below) & ((1 << shift) - 1) != 0 {
            return None;
        }
        [start, length, most, below]
            .into_iter()
            .for_each(|count| *count >>= shift);
        Some(self)
    }

    /// Where a read or write begins below, counted as the way is: in sectors unless it was [`Way::in_blocks`]. `None` if it does not go this way,
    /// or if the way is not good any more.
    #[inline(always)]
    pub fn leads(&self, start: u64, length: u64) -> Option<u64> {
        let along = self.span.along(start, length)?;
        (self.edition == self.lane.edition.get()).then_some(self.span.below + along)
    }

    /// Whose it is.
    #[inline(always)]
    pub fn lane(&self) -> &Rc<Lane> {
        &self.lane
    }
}
