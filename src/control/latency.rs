//! From the data path's histograms to what is shown: [`Latency`].

use super::schema::{Latency, LatencyBucket};
use crate::dm::Histogram;
use crate::dm::stats::BUCKETS;

impl Latency {
    /// From (upper bound in nanoseconds, count) of every bucket, ascending; the last may have no bound. What fell there is
    /// shown by the bound of the one before: the best that is known.
    pub fn from_buckets(
        buckets: impl IntoIterator<Item = (Option<u64>, u64)>,
        sum_ns: u64,
    ) -> Latency {
        let (mut filled, mut bound) = (Vec::new(), 0);
        for (upper_ns, count) in buckets {
            bound = upper_ns.unwrap_or(bound);
            if count > 0 {
                filled.push(LatencyBucket { upper_ns, count });
            }
        }
        let count = filled.iter().map(|bucket| bucket.count).sum();
        let quantile = |numerator: u64, denominator: u64| {
            let rank =
                (u128::from(count) * u128::from(numerator)).div_ceil(u128::from(denominator));
            let mut seen = 0;
            let reached = filled.iter().find(|bucket| {
                seen += u128::from(bucket.count);
                seen >= rank
            });
            reached.map_or(0, |bucket| bucket.upper_ns.unwrap_or(bound))
        };
        Latency {
            count,
            sum_ns,
            p50_ns: quantile(50, 100),
            p99_ns: quantile(99, 100),
            p999_ns: quantile(999, 1000),
            max_ns: quantile(1, 1),
            buckets: filled,
        }
    }

    /// The mean in nanoseconds; 0 without values.
    pub fn mean_ns(&self) -> u64 {
        self.sum_ns.checked_div(self.count).unwrap_or(0)
    }
}

impl From<&Histogram> for Latency {
    fn from(histogram: &Histogram) -> Latency {
        let bounds = (0..BUCKETS).map(Histogram::bound_ns);
        Latency::from_buckets(
            bounds.zip(histogram.counts().iter().copied()),
            histogram.sum_ns(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_agree_with_the_histogram_they_come_from() {
        let mut histogram = Histogram::default();
        for ns in (1..2000u64).map(|n| n * n * 7) {
            histogram.record(ns);
        }
        let latency = Latency::from(&histogram);
        assert_eq!(latency.count, histogram.count());
        assert_eq!(latency.p50_ns, histogram.quantile_ns(0.5));
        assert_eq!(latency.p99_ns, histogram.quantile_ns(0.99));
        assert_eq!(latency.p999_ns, histogram.quantile_ns(0.999));
        assert_eq!(latency.max_ns, histogram.quantile_ns(1.0));
        assert!(latency.mean_ns() > 0 && latency.buckets.iter().all(|bucket| bucket.count > 0));
    }

    #[test]
    fn nothing_measured_is_zero_everywhere() {
        assert_eq!(Latency::from(&Histogram::default()), Latency::default());
    }

    #[test]
    fn what_has_no_bound_is_shown_by_the_last_one_known() {
        let latency = Latency::from_buckets([(Some(10), 1), (None, 3)], 100);
        assert_eq!((latency.p50_ns, latency.max_ns, latency.count), (10, 10, 4));
        let slow = Latency::from_buckets([(Some(10), 0), (None, 3)], 100);
        assert_eq!((slow.p50_ns, slow.max_ns), (10, 10));
    }
}
