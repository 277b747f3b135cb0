//! What a reactor spent its time on.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one reactor. Written by it alone, read by anyone: a plain load and store per change, no read-modify-write, and
/// on cache lines of their own so that a reader disturbs nothing else.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Counters {
    turns: AtomicU64,
    turns_busy: AtomicU64,
    busy_ns: AtomicU64,
    asleep_ns: AtomicU64,
    sleeps: AtomicU64,
    messages: AtomicU64,
    overflowed: AtomicU64,
    started_ns: AtomicU64,
}

/// A reading of one reactor's counters. Since the reactor started; never reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReactorStats {
    /// Turns of the loop.
    pub turns: u64,
    /// Turns in which something was done.
    pub turns_busy: u64,
    /// Nanoseconds spent in turns in which something was done.
    pub busy_ns: u64,
    /// Nanoseconds asleep in the kernel. What is neither busy nor asleep was spent spinning.
    pub asleep_ns: u64,
    /// Times it went to sleep.
    pub sleeps: u64,
    /// Messages handled.
    pub messages: u64,
    /// Messages that it could not put into another reactor's full mailbox at once.
    pub overflowed: u64,
    /// When it started ([`super::monotonic_ns`]).
    pub started_ns: u64,
}

#[inline]
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(amount),
        Ordering::Relaxed,
    );
}

impl Counters {
    pub(super) fn started(&self, now_ns: u64) {
        self.started_ns.store(now_ns, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn turn(&self, busy: bool, elapsed_ns: u64) {
        add(&self.turns, 1);
        if busy {
            add(&self.turns_busy, 1);
            add(&self.busy_ns, elapsed_ns);
        }
    }

    #[inline]
    pub(super) fn messages(&self, count: u64) {
        add(&self.messages, count);
    }

    pub(super) fn overflowed(&self) {
        add(&self.overflowed, 1);
    }

    /// Before the sleep, so that a reader who sees a sleeping reactor sees its sleep counted.
    pub(super) fn sleeps(&self) {
        add(&self.sleeps, 1);
    }

    pub(super) fn slept(&self, elapsed_ns: u64) {
        add(&self.asleep_ns, elapsed_ns);
    }

    pub(super) fn read(&self) -> ReactorStats {
        ReactorStats {
            turns: self.turns.load(Ordering::Relaxed),
            turns_busy: self.turns_busy.load(Ordering::Relaxed),
            busy_ns: self.busy_ns.load(Ordering::Relaxed),
            asleep_ns: self.asleep_ns.load(Ordering::Relaxed),
            sleeps: self.sleeps.load(Ordering::Relaxed),
            messages: self.messages.load(Ordering::Relaxed),
            overflowed: self.overflowed.load(Ordering::Relaxed),
            started_ns: self.started_ns.load(Ordering::Relaxed),
        }
    }
}
