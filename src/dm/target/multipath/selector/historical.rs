//! `historical-service-time`: the path that would be done with the I/O first, judged by how long its last ones took.

use std::cmp::Ordering;
use std::fmt::Write;

use super::super::super::{Arguments, Refusal};
use super::turns::Turns;
use super::{Policy, REPEAT_COUNT, Slot, repeat_count};

/// Bits after the binary point of weights and averages.
const FRACTION_BITS: u32 = 10;
/// One, as a fixed-point number.
const ONE: u64 = 1 << FRACTION_BITS;
/// The base weight, when the table names none: 0.95.
const BASE_WEIGHT_DEFAULT: u64 = 972;
/// log2 of the nanoseconds of one bucket: 16.8 ms.
const BUCKET_BITS: u32 = 24;
/// How many buckets have a weight: service times of about a second and more replace the average.
const BUCKETS: usize = 64;

/// Keeps an exponential moving average of each path's service time on this core, and compares averages times queue lengths.
///
/// What was slow weighs more than what was quick: the past counts (base weight)^(n+1) after an I/O whose service took n buckets.
#[derive(Clone, Debug, PartialEq)]
pub struct Historical {
    turns: Turns,
    paths: Vec<Path>,
    base_weight: u64,
    /// Paths count as different only if the one's average is more than this many times the other's.
    threshold_multiplier: u64,
    /// How much the past counts, by bucket of the newest service time.
    weights: [u16; BUCKETS],
}

#[derive(Clone, Debug, PartialEq)]
struct Path {
    /// Nanoseconds, fixed point.
    average: u64,
    outstanding: u64,
    last_finish_ns: u64,
    /// The average is not to be trusted after this: the path has not been used when its turn had come.
    stale_after_ns: u64,
}

impl Path {
    /// Whether an I/O is better off on the one path than on the other: `Less` when on `self`.
    fn compare(&self, other: &Path, threshold_multiplier: u64, now_ns: u64) -> Ordering {
        let fewer = self.outstanding.cmp(&other.outstanding);
        let low = self.average.min(other.average);
        let high = self.average.max(other.average);
        if u128::from(high) <= u128::from(low) * u128::from(threshold_multiplier) {
            return fewer;
        }
        let stale = |path: &Path| now_ns > path.stale_after_ns;
        match (self.outstanding == 0, other.outstanding == 0) {
            (true, true) => return self.stale_after_ns.cmp(&other.stale_after_ns),
            (true, false) if stale(self) => return Ordering::Less,
            (false, true) if stale(other) => return Ordering::Greater,
            _ => {}
        }
        let time = |path: &Path| u128::from(1 + path.outstanding) * u128::from(path.average);
        let winner = time(self).cmp(&time(other));
        let limited = match winner {
            Ordering::Less => stale(self),
            Ordering::Greater => stale(other),
            Ordering::Equal => true,
        };
        if limited { fewer } else { winner }
    }
}

/// weight^(n+1) for each bucket n, rounded to the nearest; the last is 0.
fn weights(base_weight: u64) -> [u16; BUCKETS] {
    let mut weights = [0; BUCKETS];
    let mut power = base_weight;
    for weight in &mut weights[..BUCKETS - 1] {
        *weight = power as u16;
        power = (power * base_weight + ONE / 2) >> FRACTION_BITS;
    }
    weights
}

impl Policy for Historical {
    const NAME: &'static str = "historical-service-time";
    const INFO_WORDS: usize = 3;
    const TABLE_WORDS: usize = 1;

    fn build(arguments: &mut Arguments<'_>) -> Result<Historical, Refusal> {
        let mut optional = |what: &str, max: u64, default: u64| match arguments.left() {
            0 => Ok(default),
            _ => arguments.number(what, max),
        };
        let base_weight = optional("the base weight", ONE - 1, BASE_WEIGHT_DEFAULT)?;
        let threshold_multiplier = optional("the threshold multiplier", u64::from(u32::MAX), 0)?;
        Ok(Historical {
            turns: Turns::default(),
            paths: Vec::new(),
            base_weight,
            threshold_multiplier,
            weights: weights(base_weight),
        })
    }

    fn add(&mut self, arguments: &mut Arguments<'_>) -> Result<(), Refusal> {
        repeat_count(arguments)?;
        self.turns.add_last(Slot(self.paths.len() as u16));
        self.paths.push(Path {
            average: ONE,
            outstanding: 0,
            last_finish_ns: 0,
            stale_after_ns: 0,
        });
        Ok(())
    }

    #[inline]
    fn select(&mut self, _bytes: u64, now_ns: u64) -> Option<Slot> {
        let (paths, threshold) = (&self.paths, self.threshold_multiplier);
        self.turns.choose_best(|a, b| {
            let (a, b) = (&paths[usize::from(a.0)], &paths[usize::from(b.0)]);
            a.compare(b, threshold, now_ns) == Ordering::Less
        })
    }

    #[inline]
    fn start(&mut self, slot: Slot, _bytes: u64) {
        self.paths[usize::from(slot.0)].outstanding += 1;
    }

    fn end(&mut self, slot: Slot, _bytes: u64, started_ns: u64, now_ns: u64) {
        let usable = self.turns.count() as u64;
        let path = &mut self.paths[usize::from(slot.0)];
        path.outstanding = path
            .outstanding
            .checked_sub(1)
            .expect("started before (MP-6)");
        // Service began when the path had finished the one before, if that was later: waiting is the queue's fault, not the path's.
        let service_ns = now_ns.saturating_sub(started_ns.max(path.last_finish_ns));
        let bucket = usize::try_from(service_ns >> BUCKET_BITS).unwrap_or(BUCKETS);
        let past = u64::from(self.weights[bucket.min(BUCKETS - 1)]);
        let sum = u128::from(path.average) * u128::from(past)
            + (u128::from(service_ns) << FRACTION_BITS) * u128::from(ONE - past);
        let rounded = (sum + u128::from(ONE / 2)) >> FRACTION_BITS;
        path.average = u64::try_from(rounded).unwrap_or(u64::MAX);
        path.last_finish_ns = now_ns;
        let around_ns = usable.saturating_mul(path.average >> FRACTION_BITS);
        path.stale_after_ns = now_ns.saturating_add(around_ns);
    }

    fn fail(&mut self, slot: Slot) {
        self.turns.remove(slot);
    }

    fn reinstate(&mut self, slot: Slot) {
        self.turns.add_last(slot);
    }

    fn group(&self) -> Vec<u64> {
        vec![self.base_weight, self.threshold_multiplier]
    }

    fn info(&self, slot: Slot, text: &mut String) {
        let path = &self.paths[usize::from(slot.0)];
        let _ = write!(
            text,
            " {} {} {}",
            path.average, path.outstanding, path.stale_after_ns
        );
    }

    fn table(&self, _slot: Slot, text: &mut String) {
        text.push_str(REPEAT_COUNT);
    }
}
