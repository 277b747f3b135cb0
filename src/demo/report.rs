//! What a demo measured, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::load::QueueResult;
use super::target::Geometry;
use super::{DEPTH, Options, QUEUES, Waiting};
use crate::bench::job::latency_histogram;
use crate::bench::pattern::Mismatch;
use crate::bench::report::{ErrorCount, Errors, Latency, microseconds, thousands};

/// Something that was done to the target.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// When it was begun, in seconds since the load began.
    pub at_s: f64,
    /// What.
    pub what: String,
    /// How long it took, in microseconds.
    pub took_us: f64,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The load.
    pub load: Load,
    /// What was done, in order.
    pub steps: Vec<Step>,
    /// How many I/Os the outage caught.
    pub waiting: Waiting,
    /// What the host saw of it.
    pub gap: Gap,
    /// Its I/Os.
    pub phases: PhaseReports,
    /// Those that failed.
    pub errors: Errors,
    /// What was compared.
    pub verify: Verify,
}

/// The load.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Load {
    /// How long it was to run, in seconds.
    pub time_s: f64,
    /// Queues.
    pub queues: usize,
    /// I/Os outstanding on each.
    pub queue_depth: usize,
    /// Bytes per I/O.
    pub io_bytes: u32,
    /// Percentage of reads.
    pub read_percent: u8,
}

/// The time without an answer.
#[derive(Clone, Debug, Serialize)]
pub struct Gap {
    /// Of each queue, in microseconds.
    pub queues_us: Vec<f64>,
    /// The longest of them.
    pub longest_us: f64,
    /// What the operator took of it, from the pull to the suspend, in microseconds.
    pub operator_us: f64,
    /// The rest: the pull itself, suspend, load, resume, and the first answer.
    pub rest_us: f64,
}

/// A queue's I/Os, by phase.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PhaseReports {
    /// Ended before the gap.
    pub before: PhaseReport,
    /// Outstanding in the gap.
    pub during: PhaseReport,
    /// Submitted after the gap.
    pub after: PhaseReport,
}

/// The I/Os of one phase.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PhaseReport {
    /// That ended well.
    pub ios: u64,
    /// Of them per second of the phase.
    pub iops: f64,
    /// From submission to answer.
    pub latency_us: Latency,
}

/// What was compared.
#[derive(Clone, Debug, Serialize)]
pub struct Verify {
    /// Bytes.
    pub checked_bytes: u64,
    /// Pieces that differed.
    pub mismatches: u64,
    /// The first difference.
    pub first: Option<Mismatch>,
}

impl Report {
    /// Puts together what the queues saw.
    ///
    /// # Errors
    /// When a queue saw no gap: its load ended too early.
    pub(super) fn new(
        options: Options,
        geometry: Geometry,
        steps: Vec<Step>,
        waiting: Waiting,
        queues: Vec<QueueResult>,
    ) -> Result<Report, String> {
        let mut all = [(); 3].map(|()| (latency_histogram(), 0.0));
        let mut queues_us = Vec::new();
        let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
        let mut verify = Verify {
            checked_bytes: 0,
            mismatches: 0,
            first: None,
        };
        for queue in queues {
            let phases = queue.phases;
            let gap = phases
                .gap
                .ok_or("a queue had no answer since the disk was pulled: the time was too short")?;
            queues_us.push(microseconds_of(gap.end - gap.start));
            let load = phases.load;
            let parts = [
                (phases.before, gap.start - load.start),
                (phases.during, gap.end - gap.start),
                (phases.after, load.end - gap.end),
            ];
            for ((sum, iops), (histogram, ns)) in all.iter_mut().zip(parts) {
                sum.add(&histogram)
                    .expect("all histograms have the same bounds");
                *iops += histogram.len() as f64 * 1e9 / ns.max(1) as f64;
            }
            for (error, count) in queue.errors {
                *kinds.entry(error).or_insert(0) += count;
            }
            verify.checked_bytes += queue.verified.checked_bytes;
            verify.mismatches += queue.verified.mismatches;
            verify.first = verify.first.take().or(queue.verified.first);
        }
        let [before, during, after] = all.map(|(histogram, iops)| phase(&histogram, iops));
        let longest_us = queues_us.iter().copied().fold(0.0, f64::max);
        let operator_us = operator_us(&steps).clamp(0.0, longest_us);
        let mut kinds: Vec<ErrorCount> = kinds
            .into_iter()
            .map(|(error, count)| ErrorCount { error, count })
            .collect();
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.count));
        Ok(Report {
            load: Load {
                time_s: options.time.as_secs_f64(),
                queues: QUEUES,
                queue_depth: DEPTH,
                io_bytes: geometry.io_bytes,
                read_percent: geometry.read_percent,
            },
            steps,
            waiting,
            gap: Gap {
                queues_us,
                longest_us,
                operator_us,
                rest_us: longest_us - operator_us,
            },
            phases: PhaseReports {
                before,
                during,
                after,
            },
            errors: Errors {
                count: kinds.iter().map(|kind| kind.count).sum(),
                kinds,
            },
            verify,
        })
    }

    /// Whether no I/O failed and all that was read is what had been written.
    pub fn is_clean(&self) -> bool {
        self.errors.count == 0 && self.verify.mismatches == 0
    }

    /// As JSON, on several lines.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report has only strings for keys")
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::from("What the host saw:\n\n");
        let columns = ["I/Os", "IOPS", "p50", "p99", "p99.9", "max"];
        let _ = write!(text, "{:<10}", "us");
        for column in columns {
            let _ = write!(text, "{column:>12}");
        }
        text.push('\n');
        let PhaseReports {
            before,
            during,
            after,
        } = &self.phases;
        for (name, phase) in [("before", before), ("during", during), ("after", after)] {
            let Latency {
                p50,
                p99,
                p999,
                max,
                ..
            } = phase.latency_us;
            let iops = thousands(phase.iops.round() as u64);
            let _ = write!(text, "{name:<10}{:>12}{iops:>12}", thousands(phase.ios));
            for value in [p50, p99, p999, max] {
                let _ = write!(text, "{:>12}", microseconds(value));
            }
            text.push('\n');
        }
        let Gap {
            longest_us,
            operator_us,
            rest_us,
            ..
        } = self.gap;
        let _ = writeln!(
            text,
            "\ngap       {}, of which {} went by until the operator began",
            time(longest_us),
            time(operator_us),
        );
        let _ = writeln!(
            text,
            "          and {} from there to the first answer",
            time(rest_us)
        );
        let _ = writeln!(
            text,
            "waited    {} I/Os for a path, then {} parked in the core",
            self.waiting.for_path, self.waiting.parked
        );
        let _ = writeln!(text, "errors    {}", thousands(self.errors.count));
        for ErrorCount { error, count } in &self.errors.kinds {
            let _ = writeln!(text, "          {} x {error}", thousands(*count));
        }
        let _ = writeln!(
            text,
            "verified  {} MiB, every block at least once at the end: {} differ",
            thousands(self.verify.checked_bytes >> 20),
            thousands(self.verify.mismatches)
        );
        if let Some(first) = &self.verify.first {
            let _ = writeln!(text, "          first: {first}");
        }
        text
    }
}

fn phase(histogram: &Histogram<u64>, iops: f64) -> PhaseReport {
    PhaseReport {
        ios: histogram.len(),
        iops,
        latency_us: Latency::of(histogram),
    }
}

/// From the end of the first step, the pull, to the beginning of the next.
fn operator_us(steps: &[Step]) -> f64 {
    match steps {
        [pull, next, ..] => (next.at_s - pull.at_s) * 1e6 - pull.took_us,
        _ => 0.0,
    }
}

fn microseconds_of(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

/// A time in the unit that suits it.
pub fn time(us: f64) -> String {
    match us {
        _ if us < 1e3 => format!("{us:.0} us"),
        _ if us < 1e6 => format!("{:.2} ms", us / 1e3),
        _ => format!("{:.3} s", us / 1e6),
    }
}
