//! Two targets measured in turn: which is faster, and how sure that is.
//!
//! What a machine gives drifts by more than what two targets differ in, but little from one moment to the next. So both are measured for a short time, one right
//! after the other, many times over, and what counts is the ratio within each round. Its median is told with the interval in which the median of ever more rounds
//! would lie 19 times of 20, by the ranks of a binomial distribution: nothing is assumed of how the ratios are distributed.

use super::options::Options;
use super::report::{Latency, Measured, WorkloadReport, microseconds, thousands};
use serde::Serialize;
use std::fmt::Write as _;

/// Rounds when nothing else is said.
pub const ROUNDS: u32 = 60;

/// Fewest rounds: with one less the interval would have no ends.
pub const ROUNDS_MIN: u32 = 6;

/// Most rounds.
pub const ROUNDS_MAX: u32 = 100_000;

/// Standard deviations to either side that leave 1 of 20 out.
const DEVIATIONS: f64 = 1.96;

/// What two targets gave in turn.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The target, and the one it was measured against.
    pub targets: [Side; 2],
    /// How.
    pub workload: WorkloadReport,
    /// Rounds that count: in each of them both were measured.
    pub rounds: usize,
    /// Rounds in which one of them completed nothing, which have no ratio.
    pub idle_rounds: usize,
    /// The measured time of one target in one round, in seconds.
    pub slice_s: f64,
    /// The target's figures over those of the other.
    pub ratio: Ratios,
}

/// One of the two: medians of its rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// What was measured.
    pub target: String,
    /// Reads and writes per second.
    pub iops: f64,
    /// Median latency in microseconds.
    pub p50_us: f64,
    /// 99 percent of the latencies are not above this many microseconds.
    pub p99_us: f64,
    /// I/Os that failed, in all rounds.
    pub errors: u64,
}

/// Ratios within a round.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ratios {
    /// Of I/Os per second: above 1, the target does more.
    pub iops: Interval,
    /// Of median latencies: below 1, the target answers sooner.
    pub p50: Interval,
    /// Of the 99th percentiles.
    pub p99: Interval,
}

/// A median, and where it lies 19 times of 20.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The median.
    pub median: f64,
    /// The interval's lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// One target in one round.
struct Slice {
    iops: f64,
    latency: Latency,
}

/// Measures both in turn; who comes first changes with each round. `run` measures one of them, 0 or 1, once.
///
/// # Errors
/// The first of `run`; that hardly anything was completed.
pub fn compare(
    options: &Options,
    names: [String; 2],
    mut run: impl FnMut(usize, &Options) -> Result<Measured, String>,
) -> Result<Comparison, String> {
    let rounds = options.rounds();
    let mut slice = options.clone();
    (slice.against, slice.rounds) = (None, None);
    slice.time /= rounds;
    slice.warmup /= rounds;
    let mut slices = [Vec::new(), Vec::new()];
    let mut errors = [0; 2];
    let mut workload = None;
    for round in 0..rounds {
        let first = usize::from(!round.is_multiple_of(2));
        let mut measured = [None, None];
        for side in [first, 1 - first] {
            let report = run(side, &slice)?.report;
            errors[side] += report.errors.count;
            measured[side] = (report.total.ios > 0).then_some(Slice {
                iops: report.total.iops,
                latency: report.total.latency_us,
            });
            workload = Some(report.workload);
        }
        if let [Some(one), Some(other)] = measured {
            slices[0].push(one);
            slices[1].push(other);
        }
    }
    let counted = slices[0].len();
    if counted < ROUNDS_MIN as usize {
        return Err(format!(
            "both completed something in {counted} of {rounds} rounds of {:?}; use fewer --rounds, or more --time",
            slice.time
        ));
    }
    let ratio = |figure: fn(&Slice) -> f64| {
        let both = slices[0].iter().zip(&slices[1]);
        Interval::of(
            both.map(|(one, other)| figure(one) / figure(other))
                .collect(),
        )
    };
    let mut index = 0;
    let targets = names.map(|target| {
        let median = |figure: fn(&Slice) -> f64| {
            Interval::of(slices[index].iter().map(figure).collect()).median
        };
        let side = Side {
            target,
            iops: median(|slice| slice.iops),
            p50_us: median(|slice| slice.latency.p50),
            p99_us: median(|slice| slice.latency.p99),
            errors: errors[index],
        };
        index += 1;
        side
    });
    Ok(Comparison {
        targets,
        workload: workload.expect("there are rounds"),
        rounds: counted,
        idle_rounds: rounds as usize - counted,
        slice_s: slice.time.as_secs_f64(),
        ratio: Ratios {
            iops: ratio(|slice| slice.iops),
            p50: ratio(|slice| slice.latency.p50),
            p99: ratio(|slice| slice.latency.p99),
        },
    })
}

impl Interval {
    /// That of these values, of which there is at least one.
    fn of(mut values: Vec<f64>) -> Interval {
        values.sort_by(f64::total_cmp);
        let count = values.len();
        // The rank from either end beyond which the median lies 1 time of 40, rounded to the outside.
        let rank = (count as f64 - DEVIATIONS * (count as f64).sqrt()) / 2.0;
        let rank = (rank.floor() as usize).clamp(1, count);
        Interval {
            median: (values[(count - 1) / 2] + values[count / 2]) / 2.0,
            low: values[rank - 1],
            high: values[count - rank],
        }
    }
}

impl Comparison {
    /// Whether every I/O succeeded.
    pub fn is_clean(&self) -> bool {
        self.targets.iter().all(|side| side.errors == 0)
    }

    /// The comparison as JSON, on several lines.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a comparison has only strings for keys")
    }

    /// The comparison for people.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{}, in turn: {} rounds of {:.0} ms for each\n\n{:<4}{:>12}{:>11}{:>11}{:>9}  target\n",
            self.workload.headline(),
            thousands(self.rounds as u64),
            self.slice_s * 1000.0,
            "",
            "IOPS",
            "p50 us",
            "p99 us",
            "errors"
        );
        for (name, side) in ["A", "B"].iter().zip(&self.targets) {
            let _ = writeln!(
                text,
                "{name:<4}{:>12}{:>11}{:>11}{:>9}  {}",
                thousands(side.iops.round() as u64),
                microseconds(side.p50_us),
                microseconds(side.p99_us),
                thousands(side.errors),
                side.target
            );
        }
        let _ = writeln!(text, "\nA / B     median   19 times of 20");
        let Ratios { iops, p50, p99 } = self.ratio;
        for (name, ratio, better) in [
            ("IOPS", iops, ["B does more", "A does more"]),
            ("p50", p50, ["A answers sooner", "B answers sooner"]),
            ("p99", p99, ["A answers sooner", "B answers sooner"]),
        ] {
            let Interval { median, low, high } = ratio;
            let verdict = match (low, high) {
                (_, high) if high < 1.0 => better[0],
                (low, _) if low > 1.0 => better[1],
                _ => "no difference is shown",
            };
            let _ = writeln!(
                text,
                "{name:<8}{median:>8.3}   {low:.3} to {high:.3}   {verdict}"
            );
        }
        if self.idle_rounds > 0 {
            let _ = writeln!(
                text,
                "\nnot counted, because one of the two completed nothing: {} of {} rounds",
                thousands(self.idle_rounds as u64),
                thousands((self.rounds + self.idle_rounds) as u64)
            );
        }
        text.truncate(text.trim_end().len());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::run::run;
    use super::super::testing::{Fault, MemoryTarget, options};
    use super::*;
    use std::time::Duration;

    fn names() -> [String; 2] {
        ["one".into(), "other".into()]
    }

    /// The ends of the interval are the ranks of the table that statisticians print, or one outside of it.
    #[test]
    fn intervals_go_by_rank() {
        let of = |count: u32| Interval::of((1..=count).map(f64::from).collect());
        for (count, low, high) in [(6, 1.0, 6.0), (20, 5.0, 16.0), (100, 40.0, 61.0)] {
            let median = f64::from(count + 1) / 2.0;
            assert_eq!(of(count), Interval { median, low, high }, "{count}");
        }
        assert_eq!(of(7).median, 4.0);
    }

    /// Both run in every round, the other one first every second time, each for its part of the time.
    #[test]
    fn they_take_turns() {
        let mut order = Vec::new();
        let options = options(|options| {
            options.time = Duration::from_millis(60);
            options.against = Some("dm:test.yaml#vol1".parse().unwrap());
            options.rounds = Some(6);
        });
        let mut targets = [(); 2].map(|()| MemoryTarget::new(256, Fault::None));
        let comparison = compare(&options, names(), |side, slice| {
            assert_eq!(slice.time, Duration::from_millis(10));
            assert_eq!(slice.against, None);
            order.push(side);
            run(&mut targets[side], slice)
        });
        let comparison = comparison.expect("measured");
        assert_eq!(order, [0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0]);
        assert!(comparison.is_clean());
        let text = comparison.text();
        assert!(
            text.contains("in turn: 6 rounds of 10 ms for each"),
            "{text}"
        );
        assert!(
            text.contains("  one\n") && text.contains("  other\n"),
            "{text}"
        );
    }

    /// Where one of them completes nothing there is no ratio; where that is the rule there is no comparison.
    #[test]
    fn a_round_without_an_answer_does_not_count() {
        let options = options(|options| {
            options.time = Duration::from_millis(70);
            options.rounds = Some(7);
        });
        let mut target = MemoryTarget::new(256, Fault::None);
        let mut runs = 0;
        let comparison = compare(&options, names(), |_, slice| {
            runs += 1;
            let mut measured = run(&mut target, slice)?;
            if runs == 3 {
                measured.report.total.ios = 0;
            }
            Ok(measured)
        });
        let comparison = comparison.expect("measured");
        assert_eq!((comparison.rounds, comparison.idle_rounds), (6, 1));
        let told = "not counted, because one of the two completed nothing: 1 of 7 rounds";
        assert!(comparison.text().ends_with(told), "{}", comparison.text());
        let error = compare(&options, names(), |_, slice| {
            let mut measured = run(&mut target, slice)?;
            measured.report.total.ios = 0;
            Ok(measured)
        });
        assert_eq!(
            error.expect_err("nothing was completed"),
            "both completed something in 0 of 7 rounds of 10ms; use fewer --rounds, or more --time"
        );
    }

    /// One that is far slower is told to be; so are I/Os that fail.
    #[test]
    fn the_slower_one_is_found() {
        let options = options(|options| {
            options.time = Duration::from_millis(60);
            options.rounds = Some(6);
        });
        let mut slow = MemoryTarget::new(256, Fault::Stall(Duration::from_millis(8)));
        let mut failing = MemoryTarget::new(256, Fault::Fail);
        let comparison = compare(&options, names(), |side, slice| match side {
            0 => run(&mut slow, slice),
            _ => run(&mut failing, slice),
        });
        let comparison = comparison.expect("measured");
        assert!(!comparison.is_clean());
        assert!(comparison.targets[1].errors > 0);
        assert!(comparison.ratio.iops.high < 1.0, "{comparison:?}");
        assert!(comparison.text().contains("B does more"));
    }
}
