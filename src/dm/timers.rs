//! What a core has to do later: a heap of moments on the core's own clock (PM-20).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::io::DeviceId;
use super::message::Epoch;

/// What a moment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A target's clone has been held long enough.
    Clone(u32),
    /// A target of the live table asked for it.
    Target(DeviceId, u32),
    /// What a suspended device has parked may have waited for as long as it is allowed to.
    Parked(DeviceId),
    /// Only of a planted defect, which puts a pushed-back original on its list too late.
    PushBack(u32),
    /// The device's home asked for it.
    Home(DeviceId, HomeTimer),
}

/// What a device's home waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum HomeTimer {
    /// The suspend of this epoch has taken too long.
    SuspendTimeout(Epoch),
    /// The flush step of the sequence of this epoch is to be repeated (FL-12).
    RepeatStep(Epoch),
}

/// The moments of one core. Nothing is ever taken out before it is due: who armed a timer that has become pointless sees so
/// when it comes.
#[derive(Debug)]
pub(super) struct Timers {
    /// By moment, and of one moment in the order they were armed, so that what was delayed together goes on in the order it came.
    heap: BinaryHeap<Reverse<(u64, u64, Timer)>>,
    armed: u64,
}

impl Timers {
    /// No timers, with room for `count`.
    pub fn new(count: usize) -> Timers {
        Timers {
            heap: BinaryHeap::with_capacity(count),
            armed: 0,
        }
    }

    /// Makes room for `count` in all.
    pub fn reserve(&mut self, count: usize) {
        self.heap.reserve(count.saturating_sub(self.heap.len()));
    }

    /// Adds a moment.
    pub fn arm(&mut self, due_ns: u64, timer: Timer) {
        self.armed += 1;
        self.heap.push(Reverse((due_ns, self.armed, timer)));
    }

    /// The next moment.
    pub fn due_ns(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((due_ns, ..))| *due_ns)
    }

    /// Takes the next timer if its moment has come.
    pub fn pop(&mut self, now_ns: u64) -> Option<(u64, Timer)> {
        match self.heap.peek() {
            Some(Reverse((due_ns, ..))) if *due_ns <= now_ns => self
                .heap
                .pop()
                .map(|Reverse((due_ns, _, timer))| (due_ns, timer)),
            _ => None,
        }
    }
}
