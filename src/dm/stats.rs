//! Counters and latency histograms of one device on one core; the control plane adds the cores up.

use std::cell::Cell;

use super::io::Op;
use super::status::Status;

/// Buckets per doubling: 4, so a bucket's bounds are within 25 % of each other.
const STEPS: u32 = 4;
/// Everything below 2^10 ns (1 us) is one bucket: finer than the clock of a poll.
const FIRST_POWER: u32 = 10;
/// The last bounded doubling ends at 2^34 ns (17 s); what takes longer falls into one last bucket.
const LAST_POWER: u32 = 34;
/// Number of buckets of a [`Histogram`].
pub const BUCKETS: usize = ((LAST_POWER - FIRST_POWER) * STEPS) as usize + 2;

/// A log-linear histogram of nanoseconds: fixed size, so that counting is one addition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS],
    sum_ns: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            counts: [0; BUCKETS],
            sum_ns: 0,
        }
    }
}

impl Histogram {
    /// Counts one value.
    #[inline(always)]
    pub fn record(&mut self, ns: u64) {
        self.counts[Histogram::bucket(ns)] += 1;
        self.sum_ns = self.sum_ns.wrapping_add(ns);
    }

    /// The bucket of a value.
    #[inline(always)]
    fn bucket(ns: u64) -> usize {
        // The power of two, and the bits after the first, which are the steps above it: no case to tell from another.
        let position = |ns: u64| {
            let power = ns.ilog2();
            power * STEPS + (ns >> (power - STEPS.trailing_zeros())) as u32
        };
        let below_first = (1 << FIRST_POWER) - 1;
        let bucket = (position(ns.max(below_first)) - position(below_first)) as usize;
        bucket.min(BUCKETS - 1)
    }

    /// The exclusive upper bound of a bucket in nanoseconds; `None` for the last.
    pub fn bound_ns(bucket: usize) -> Option<u64> {
        if bucket == 0 {
            return Some(1 << FIRST_POWER);
        }
        if bucket >= BUCKETS - 1 {
            return None;
        }
        let index = bucket as u32 - 1;
        let power = FIRST_POWER + index / STEPS;
        let step = u64::from(index % STEPS) + 1;
        Some((1 << power) + (step << (power - STEPS.trailing_zeros())))
    }

    /// The counts, one per bucket.
    pub fn counts(&self) -> &[u64; BUCKETS] {
        &self.counts
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum in nanoseconds.
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// Adds another histogram's counts.
    pub fn add(&mut self, other: &Histogram) {
        self.counts
            .iter_mut()
            .zip(other.counts)
            .for_each(|(count, more)| *count += more);
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
    }

    /// The upper bound, in nanoseconds, of the bucket below which `fraction` of the values lie; 0 when there are none.
    pub fn quantile_ns(&self, fraction: f64) -> u64 {
        let rank = (self.count() as f64 * fraction).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank && seen > 0 {
                return Histogram::bound_ns(bucket).unwrap_or(1 << LAST_POWER);
            }
        }
        0
    }
}

/// What is counted for one kind of I/O.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Originals completed.
    pub ios: u64,
    /// Those that completed with an error.
    pub errors: u64,
    /// Sectors of those that completed without one.
    pub sectors: u64,
    /// From submission to completion, as of the polls they were seen in.
    pub latency: Histogram,
}

impl Counters {
    /// Counts one that has ended.
    #[inline(always)]
    pub fn done(&mut self, sectors: u32, status: Status, latency_ns: u64) {
        self.ios += 1;
        if status.is_ok() {
            self.sectors += u64::from(sectors);
        } else {
            self.errors += 1;
        }
        self.latency.record(latency_ns);
    }

    /// Adds another core's counts.
    pub fn add(&mut self, other: &Counters) {
        self.ios += other.ios;
        self.errors += other.errors;
        self.sectors += other.sectors;
        self.latency.add(&other.latency);
    }
}

/// The same of I/O that went well, which whoever holds it counts.
pub(super) struct Tally {
    sectors: Cell<u64>,
    sum_ns: Cell<u64>,
    counts: [Cell<u64>; BUCKETS],
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            sectors: Cell::new(0),
            sum_ns: Cell::new(0),
            counts: [const { Cell::new(0) }; BUCKETS],
        }
    }
}

impl Tally {
    /// Counts one that has ended.
    #[inline(always)]
    pub fn done(&self, sectors: u32, latency_ns: u64) {
        let count = &self.counts[Histogram::bucket(latency_ns)];
        count.set(count.get() + 1);
        self.sum_ns.set(self.sum_ns.get().wrapping_add(latency_ns));
        self.sectors.set(self.sectors.get() + u64::from(sectors));
    }

    /// Adds what was counted.
    pub fn add_to(&self, counters: &mut Counters) {
        let counted = Histogram {
            counts: self.counts.each_ref().map(Cell::get),
            sum_ns: self.sum_ns.get(),
        };
        counters.ios += counted.count();
        counters.sectors += self.sectors.get();
        counters.latency.add(&counted);
    }
}

/// Everything that is counted for a device on one core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Reads.
    pub read: Counters,
    /// Writes, compare-and-writes among them.
    pub write: Counters,
    /// Flushes.
    pub flush: Counters,
    /// Discards and write-zeroes.
    pub discard: Counters,
    /// Originals admitted and not completed yet; a gauge.
    pub in_flight: u64,
    /// Originals that wait for a gate to open; a gauge.
    pub parked: u64,
    /// Clones that a lower device had no room for when they came.
    pub busy: u64,
    /// Originals that were pushed back by a noflush suspend.
    pub pushed_back: u64,
    /// Clones that targets hold; a gauge.
    pub held: u64,
}

impl Stats {
    /// The counters of a kind of I/O.
    #[inline(always)]
    pub(super) fn of(&mut self, op: Op) -> &mut Counters {
        match op {
            Op::Read => &mut self.read,
            Op::Write | Op::CompareAndWrite | Op::WriteAtomic => &mut self.write,
            Op::Flush => &mut self.flush,
            Op::Discard | Op::WriteZeroes => &mut self.discard,
        }
    }

    /// Adds another core's counts.
    pub fn add(&mut self, other: &Stats) {
        let pairs = [
            (&mut self.read, &other.read),
            (&mut self.write, &other.write),
            (&mut self.flush, &other.flush),
            (&mut self.discard, &other.discard),
        ];
        pairs.into_iter().for_each(|(to, from)| to.add(from));
        self.in_flight += other.in_flight;
        self.parked += other.parked;
        self.busy += other.busy;
        self.pushed_back += other.pushed_back;
        self.held += other.held;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_value_lies_within_the_bounds_of_its_bucket(bits in 0u32..64, ns in any::<u64>()) {
            let ns = ns >> bits;
            let bucket = Histogram::bucket(ns);
            prop_assert!(Histogram::bound_ns(bucket).is_none_or(|bound| ns < bound));
            if bucket > 0 {
                prop_assert!(ns >= Histogram::bound_ns(bucket - 1).unwrap());
            }
        }
    }

    #[test]
    fn quantiles_are_bucket_bounds() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_ns(0.5), 0);
        (0..99).for_each(|_| histogram.record(5_000));
        histogram.record(5_000_000);
        assert!((5_000..=6_144).contains(&histogram.quantile_ns(0.5)));
        assert!((5_000_000..=6_300_000).contains(&histogram.quantile_ns(1.0)));
        assert_eq!(
            (histogram.count(), histogram.sum_ns()),
            (100, 99 * 5_000 + 5_000_000)
        );
    }
}
