//! Counters and latency histograms of a namespace, one set per core, merged when somebody asks.
//!
//! A histogram has log-spaced buckets, sixteen per power of two, so a value is known within 6.25 % from 1 ns to 2^40 ns (18
//! minutes) at 4.7 KiB, and recording is a shift, an index and an increment.

/// Sub-buckets per power of two, as a power of two.
const SUB_BUCKET_BITS: u32 = 4;
const SUB_BUCKETS: usize = 1 << SUB_BUCKET_BITS;
/// Values from 2^40 ns on share the last bucket.
const VALUE_BITS: u32 = 40;
/// Buckets of a [`Histogram`].
pub const BUCKETS: usize = (VALUE_BITS - SUB_BUCKET_BITS + 1) as usize * SUB_BUCKETS;

/// Latencies in nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: [u64; BUCKETS],
    sum_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], sum_ns: 0 }
    }
}

impl Histogram {
    #[inline]
    fn index(value_ns: u64) -> usize {
        let value = value_ns.min((1 << VALUE_BITS) - 1);
        if value < SUB_BUCKETS as u64 {
            return value as usize;
        }
        let magnitude = value.ilog2();
        let sub_bucket = (value >> (magnitude - SUB_BUCKET_BITS)) as usize - SUB_BUCKETS;
        (magnitude - SUB_BUCKET_BITS + 1) as usize * SUB_BUCKETS + sub_bucket
    }

    /// The largest value that falls into bucket `index`, in nanoseconds.
    pub fn upper_bound_ns(index: usize) -> u64 {
        if index < SUB_BUCKETS {
            return index as u64;
        }
        let shift = (index / SUB_BUCKETS - 1) as u32;
        let sub_bucket = (index % SUB_BUCKETS + SUB_BUCKETS) as u64;
        ((sub_bucket + 1) << shift) - 1
    }

    /// Counts one latency.
    #[inline]
    pub fn record(&mut self, value_ns: u64) {
        self.counts[Self::index(value_ns)] += 1;
        self.sum_ns = self.sum_ns.wrapping_add(value_ns);
    }

    /// Adds another core's counts.
    pub fn merge(&mut self, other: &Histogram) {
        for (count, other) in self.counts.iter_mut().zip(&other.counts) {
            *count += other;
        }
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
    }

    /// How many latencies were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum in nanoseconds.
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// Count of each bucket, for exporters; see [`Histogram::upper_bound_ns`].
    pub fn buckets(&self) -> &[u64] {
        &self.counts
    }

    /// The value that `quantile` (0 to 1) of the latencies do not exceed, in nanoseconds; 0 when nothing was counted.
    pub fn quantile_ns(&self, quantile: f64) -> u64 {
        let rank = (self.count() as f64 * quantile).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Self::upper_bound_ns(index);
            }
        }
        0
    }
}

/// What kind of command is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read, and Compare and Verify, which read.
    Read,
    /// Write, and Compare-and-Write.
    Write,
    /// Flush.
    Flush,
    /// Dataset Management deallocate.
    Discard,
    /// Write Zeroes.
    WriteZeroes,
}

/// Number of [`Kind`]s.
pub const KINDS: usize = 5;

/// Counters of one kind of command.
#[derive(Clone, Debug, Default)]
pub struct KindStats {
    /// Commands that ended well.
    pub commands: u64,
    /// Bytes they moved, or covered.
    pub bytes: u64,
    /// Commands that ended with an error.
    pub errors: u64,
    /// From the command's arrival to its response, in nanoseconds, of those that ended well.
    pub latency: Histogram,
}

/// Counters of one namespace on one core.
#[derive(Clone, Debug, Default)]
pub struct NamespaceStats {
    kinds: [KindStats; KINDS],
}

impl NamespaceStats {
    /// The counters of one kind.
    pub fn kind(&self, kind: Kind) -> &KindStats {
        &self.kinds[kind as usize]
    }

    /// Counts a command.
    #[inline]
    pub fn record(&mut self, kind: Kind, ok: bool, bytes: u64, latency_ns: u64) {
        let stats = &mut self.kinds[kind as usize];
        if ok {
            stats.commands += 1;
            stats.bytes += bytes;
            stats.latency.record(latency_ns);
        } else {
            stats.errors += 1;
        }
    }

    /// Adds another core's.
    pub fn merge(&mut self, other: &NamespaceStats) {
        for (stats, other) in self.kinds.iter_mut().zip(&other.kinds) {
            stats.commands += other.commands;
            stats.bytes += other.bytes;
            stats.errors += other.errors;
            stats.latency.merge(&other.latency);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_of_known_values() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_ns(0.5), 0);
        for value in 1..=1000 {
            histogram.record(value * 1000);
        }
        let median = histogram.quantile_ns(0.5);
        assert!((500_000..=531_250).contains(&median), "{median}");
        assert_eq!((histogram.count(), histogram.sum_ns()), (1000, 500_500_000));
    }

    #[test]
    fn merging_adds() {
        let mut one = NamespaceStats::default();
        one.record(Kind::Read, true, 4096, 10_000);
        let mut other = NamespaceStats::default();
        other.record(Kind::Read, true, 512, 20_000);
        other.record(Kind::Read, false, 512, 0);
        one.merge(&other);
        let read = one.kind(Kind::Read);
        assert_eq!((read.commands, read.bytes, read.errors, read.latency.count()), (2, 4608, 1, 2));
        assert_eq!(one.kind(Kind::Write).commands, 0);
    }

    proptest! {
        #[test]
        fn a_value_lies_in_its_bucket(value in 0u64..1 << 41) {
            let index = Histogram::index(value);
            prop_assert!(index < BUCKETS);
            let clamped = value.min((1 << VALUE_BITS) - 1);
            prop_assert!(clamped <= Histogram::upper_bound_ns(index));
            prop_assert!(index == 0 || clamped > Histogram::upper_bound_ns(index - 1));
            prop_assert!(Histogram::upper_bound_ns(index) <= clamped + clamped / 16);
        }
    }
}
