//! What a run measured, as text, as JSON, and as a histogram log.

use super::backend::{Backend, Kind};
use super::gaps::SwapReport;
use super::job::{JobResult, latency_histogram};
use super::options::Options;
use super::pattern::Mismatch;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::time::{Duration, SystemTime};

/// A run's figures and its histograms.
#[derive(Debug)]
pub struct Measured {
    /// The figures.
    pub report: Report,
    /// Latencies in nanoseconds, by [`Kind`].
    pub latency: [Histogram<u64>; 3],
    /// I/Os that ended well within the measured time, by [`Kind`].
    pub counted: [u64; 3],
    started: SystemTime,
    warmup: Duration,
}

/// What is reported.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was measured.
    pub target: String,
    /// How.
    pub workload: WorkloadReport,
    /// The measured time, in seconds.
    pub elapsed_s: f64,
    /// Reads and writes together.
    pub total: Figures,
    /// Reads, where there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<Figures>,
    /// Writes, where there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write: Option<Figures>,
    /// Flushes, where there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flush: Option<Figures>,
    /// Whether latencies count from when an I/O was due (`--rate`), and so hide no wait.
    pub corrected: bool,
    /// I/Os that were due but could not be issued before the end: the target is slower than the rate.
    pub unissued: u64,
    /// I/Os that failed.
    pub errors: Errors,
    /// Processors used.
    pub cpu: Cpu,
    /// What `--verify` found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// What swaps cost (`--swap-every`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swaps: Option<SwapReport>,
}

/// The options that shaped the run.
#[derive(Clone, Debug, Serialize)]
pub struct WorkloadReport {
    /// Access pattern.
    pub rw: String,
    /// Percentage of reads.
    pub read_percent: u8,
    /// Bytes per I/O.
    pub bs: u64,
    /// I/Os outstanding per job.
    pub qd: usize,
    /// Jobs.
    pub jobs: usize,
    /// Scheduled I/Os per second.
    pub rate: Option<u64>,
    /// Writes between flushes.
    pub flush_every: Option<u32>,
    /// Seed.
    pub seed: u64,
}

/// Throughput and latency of one kind of I/O.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figures {
    /// I/Os that ended well within the measured time.
    pub ios: u64,
    /// Those per second.
    pub iops: f64,
    /// Bytes per second.
    pub bytes_per_s: f64,
    /// Latency in microseconds.
    pub latency_us: Latency,
}

/// Latency in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90 percent are not above this.
    pub p90: f64,
    /// 99 percent are not above this.
    pub p99: f64,
    /// 99.9 percent are not above this.
    #[serde(rename = "p99.9")]
    pub p999: f64,
    /// 99.99 percent are not above this.
    #[serde(rename = "p99.99")]
    pub p9999: f64,
    /// The longest.
    pub max: f64,
}

/// I/Os that failed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Errors {
    /// How many.
    pub count: u64,
    /// What they were, the most frequent first.
    pub kinds: Vec<ErrorCount>,
}

/// One kind of failure.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorCount {
    /// What the target said.
    pub error: String,
    /// How often.
    pub count: u64,
}

/// Processors used during the measured time; 1.0 is one of them, busy all the time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cpu {
    /// By the jobs.
    pub initiator_cores: Option<f64>,
    /// By the target's process, where that is known.
    pub target_cores: Option<f64>,
}

/// What `--verify` found.
#[derive(Clone, Debug, Serialize)]
pub struct Verify {
    /// Bytes that were compared.
    pub checked_bytes: u64,
    /// Pieces that differed.
    pub mismatches: u64,
    /// Written places that were not read back for lack of time.
    pub unverified: u64,
    /// The first difference.
    pub first: Option<Mismatch>,
}

impl Measured {
    /// Merges what jobs measured.
    pub fn new<B: Backend>(
        options: &Options,
        results: Vec<JobResult>,
        target_cores: Option<f64>,
        started: SystemTime,
    ) -> Self {
        let mut latency = [
            latency_histogram(),
            latency_histogram(),
            latency_histogram(),
        ];
        let mut counted = [0; 3];
        let mut codes: BTreeMap<u32, u64> = BTreeMap::new();
        let mut elapsed = Duration::ZERO;
        let mut initiator = Some(Duration::ZERO);
        let mut unissued = 0;
        let mut verify: Option<Verify> = None;
        for result in results {
            for kind in 0..3 {
                latency[kind]
                    .add(&result.latency[kind])
                    .expect("all histograms have the same bounds");
                counted[kind] += result.counted[kind];
            }
            for (code, count) in result.errors {
                *codes.entry(code).or_insert(0) += count;
            }
            elapsed = elapsed.max(result.elapsed);
            initiator = initiator.zip(result.cpu).map(|(sum, one)| sum + one);
            unissued += result.unissued;
            if let Some(data) = result.verify {
                let sum = verify.get_or_insert(Verify {
                    checked_bytes: 0,
                    mismatches: 0,
                    unverified: 0,
                    first: None,
                });
                sum.checked_bytes += data.checked_bytes;
                sum.mismatches += data.mismatches;
                sum.unverified += result.unverified;
                sum.first = sum.first.take().or(data.first);
            }
        }
        let seconds = elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        let [reads, writes, flushes] = &latency;
        let mut both = reads.clone();
        both.add(writes)
            .expect("all histograms have the same bounds");
        let figures = |histogram: &Histogram<u64>, ios: u64, bytes_per_io: u64| Figures {
            ios,
            iops: ios as f64 / seconds,
            bytes_per_s: (ios * bytes_per_io) as f64 / seconds,
            latency_us: Latency::of(histogram),
        };
        let of_kind = |kind: Kind, histogram: &Histogram<u64>| {
            let bytes_per_io = if kind == Kind::Flush { 0 } else { options.bs };
            (!histogram.is_empty())
                .then(|| figures(histogram, counted[kind as usize], bytes_per_io))
        };
        let mut kinds: Vec<ErrorCount> = codes
            .into_iter()
            .map(|(code, count)| ErrorCount {
                error: B::error_text(code),
                count,
            })
            .collect();
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.count));
        let report = Report {
            target: options.target.to_string(),
            workload: WorkloadReport {
                rw: options.rw.name().to_owned(),
                read_percent: options.read_percent(),
                bs: options.bs,
                qd: options.qd,
                jobs: options.jobs,
                rate: options.rate,
                flush_every: options.flush_every,
                seed: options.seed,
            },
            elapsed_s: elapsed.as_secs_f64(),
            total: figures(&both, counted[0] + counted[1], options.bs),
            read: of_kind(Kind::Read, reads),
            write: of_kind(Kind::Write, writes),
            flush: of_kind(Kind::Flush, flushes),
            corrected: options.rate.is_some(),
            unissued,
            errors: Errors {
                count: kinds.iter().map(|kind| kind.count).sum(),
                kinds,
            },
            cpu: Cpu {
                initiator_cores: initiator.map(|time| time.as_secs_f64() / seconds),
                target_cores,
            },
            verify,
            swaps: None,
        };
        Self {
            report,
            latency,
            counted,
            started,
            warmup: options.warmup,
        }
    }

    /// Writes the histograms of all kinds as an HdrHistogram V2 log: one interval, a tag per kind, values in
    /// nanoseconds, maxima in milliseconds.
    ///
    /// # Errors
    ///
    /// What the writer says.
    pub fn write_histogram_log(&self, writer: &mut impl io::Write) -> io::Result<()> {
        const NANOSECONDS_PER_MILLISECOND: f64 = 1e6;
        let mut serializer = V2DeflateSerializer::new();
        let mut builder = IntervalLogWriterBuilder::new();
        let mut log = builder
            .add_comment(&format!("polldm bench: {}", self.report.headline()))
            .with_start_time(self.started)
            .with_base_time(self.started)
            .with_max_value_divisor(NANOSECONDS_PER_MILLISECOND)
            .begin_log_with(writer, &mut serializer)?;
        let duration = Duration::from_secs_f64(self.report.elapsed_s);
        for (kind, histogram) in Kind::ALL.into_iter().zip(&self.latency) {
            if histogram.is_empty() {
                continue;
            }
            log.write_histogram(histogram, self.warmup, duration, Tag::new(kind.name()))
                .map_err(|error| io::Error::other(format!("{error:?}")))?;
        }
        Ok(())
    }
}

impl Latency {
    /// The figures of a histogram of nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            mean: histogram.mean() / 1000.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: histogram.max() as f64 / 1000.0,
        }
    }
}

impl WorkloadReport {
    /// All of it in one line.
    pub fn headline(&self) -> String {
        let WorkloadReport {
            rw,
            read_percent,
            bs,
            qd,
            jobs,
            rate,
            flush_every,
            ..
        } = self;
        let mut line = rw.clone();
        if rw == "randrw" {
            let _ = write!(line, " ({read_percent} % reads)");
        }
        let jobs_word = if *jobs == 1 { "job" } else { "jobs" };
        let _ = write!(
            line,
            ", {}, {jobs} {jobs_word} at queue depth {qd}",
            size(*bs)
        );
        if let Some(rate) = rate {
            let _ = write!(line, ", {} I/Os per second scheduled", thousands(*rate));
        }
        if let Some(every) = flush_every {
            let _ = write!(line, ", a flush after every {every} writes");
        }
        line
    }
}

impl Report {
    /// Whether every I/O succeeded, everything written was read back, and nothing differed.
    pub fn is_clean(&self) -> bool {
        let verified = self
            .verify
            .as_ref()
            .is_none_or(|verify| verify.mismatches == 0 && verify.unverified == 0);
        self.errors.count == 0 && verified
    }

    /// The workload in one line, and how long it took.
    pub fn headline(&self) -> String {
        format!("{}, {:.1} s", self.workload.headline(), self.elapsed_s)
    }

    /// The report as JSON, on several lines.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report has only strings for keys")
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n{}\n\n", self.target, self.headline());
        let mut rows: Vec<(&str, &Figures)> = Vec::new();
        let kinds = [
            ("read", &self.read),
            ("write", &self.write),
            ("flush", &self.flush),
        ];
        if self.read.is_some() && self.write.is_some() {
            rows.push(("total", &self.total));
        }
        rows.extend(
            kinds
                .iter()
                .filter_map(|(name, figures)| Some((*name, figures.as_ref()?))),
        );
        if rows.is_empty() {
            rows.push(("total", &self.total));
        }
        let _ = writeln!(text, "{:<8}{:>14}{:>16}", "", "IOPS", "bandwidth");
        for (name, figures) in &rows {
            let iops = thousands(figures.iops.round() as u64);
            let _ = writeln!(
                text,
                "{name:<8}{iops:>14}{:>16}",
                bandwidth(figures.bytes_per_s)
            );
        }
        let columns = ["mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"];
        let _ = write!(text, "\n{:<8}", "us");
        for column in columns {
            let _ = write!(text, "{column:>11}");
        }
        text.push('\n');
        for (name, figures) in &rows {
            append_latency(&mut text, name, &figures.latency_us);
        }
        if self.corrected {
            text.push_str("Latency counts from when each I/O was due.\n");
        }
        if let Some(swaps) = &self.swaps {
            append_swaps(&mut text, swaps);
        }
        self.append_state(&mut text);
        text.truncate(text.trim_end().len());
        text
    }

    /// Errors, processors, what was verified.
    fn append_state(&self, text: &mut String) {
        let _ = writeln!(text, "\nerrors  {}", thousands(self.errors.count));
        for ErrorCount { error, count } in &self.errors.kinds {
            let _ = writeln!(text, "        {} x {error}", thousands(*count));
        }
        if self.unissued > 0 {
            let unissued = thousands(self.unissued);
            let _ = writeln!(
                text,
                "late    {unissued} I/Os were due but not issued: the rate is too high"
            );
        }
        let cores =
            |cores: Option<f64>| cores.map_or("unknown".to_owned(), |cores| format!("{cores:.2}"));
        let Cpu {
            initiator_cores,
            target_cores,
        } = self.cpu;
        let _ = writeln!(
            text,
            "CPUs    {} for the load, {} for the target",
            cores(initiator_cores),
            cores(target_cores)
        );
        if let Some(verify) = &self.verify {
            let checked = size_rounded(verify.checked_bytes as f64);
            let _ = writeln!(
                text,
                "verify  {checked} checked, {} mismatches",
                thousands(verify.mismatches)
            );
            if let Some(first) = &verify.first {
                let _ = writeln!(text, "        first: {first}");
            }
            if verify.unverified > 0 {
                let unverified = thousands(verify.unverified);
                let _ = writeln!(
                    text,
                    "        {unverified} places were not read back for lack of time"
                );
            }
        }
    }
}

fn append_latency(text: &mut String, name: &str, latency: &Latency) {
    let Latency {
        mean,
        p50,
        p90,
        p99,
        p999,
        p9999,
        max,
    } = *latency;
    let _ = write!(text, "{name:<8}");
    for value in [mean, p50, p90, p99, p999, p9999, max] {
        let _ = write!(text, "{:>11}", microseconds(value));
    }
    text.push('\n');
}

fn append_swaps(text: &mut String, swaps: &SwapReport) {
    let SwapReport {
        count, every_ms, ..
    } = swaps;
    let _ = writeln!(
        text,
        "\n{} swaps, one every {every_ms} ms; longest time without an answer around each, and \
         around as many moments without one:",
        thousands(*count)
    );
    for (name, latency) in [
        ("gap", &swaps.gap_us),
        (" idle", &swaps.idle_gap_us),
        ("queue", &swaps.queue_gap_us),
        (" idle", &swaps.idle_queue_gap_us),
        ("verb", &swaps.verb_us),
    ] {
        append_latency(text, name, latency);
    }
}

/// A number with commas.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Microseconds with as many decimals as say something.
pub(crate) fn microseconds(value: f64) -> String {
    match value {
        _ if value < 10.0 => format!("{value:.2}"),
        _ if value < 100.0 => format!("{value:.1}"),
        _ => thousands(value.round() as u64),
    }
}

/// Bytes in the largest unit that divides them.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in UNITS {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} B")
}

/// Bytes in a unit that leaves one to four digits before the point.
fn size_rounded(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = if unit == 0 || value >= 100.0 { 0 } else { 2 };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// Bytes per second.
pub(super) fn bandwidth(bytes_per_s: f64) -> String {
    format!("{}/s", size_rounded(bytes_per_s))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Fault, MemoryTarget, options};
    use super::*;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    #[test]
    fn numbers_are_readable() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(size(4096), "4 KiB");
        assert_eq!(size(513), "513 B");
        assert_eq!(bandwidth(5e9), "4.66 GiB/s");
        assert_eq!(bandwidth(100.0), "100 B/s");
        assert_eq!(microseconds(7.126), "7.13");
        assert_eq!(microseconds(12_345.6), "12,346");
    }

    fn measured() -> Measured {
        let mut target = MemoryTarget::new(64, Fault::None);
        let options = options(|o| o.time = Duration::from_millis(20));
        super::super::run::run(&mut target, &options).unwrap()
    }

    /// JSON says what the text says, under the names that are documented.
    #[test]
    fn json_has_the_documented_names() {
        let measured = measured();
        let json: serde_json::Value = serde_json::from_str(&measured.report.json()).unwrap();
        assert_eq!(json["workload"]["rw"], "randread");
        assert_eq!(json["errors"]["count"], 0);
        assert!(json["total"]["iops"].as_f64().unwrap() > 0.0);
        for name in ["mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"] {
            assert!(
                json["read"]["latency_us"][name].as_f64().unwrap() > 0.0,
                "{name}"
            );
        }
        assert!(json.get("write").is_none());
        let text = measured.report.text();
        for part in [
            "randread, 512 B, 1 job at queue depth 8",
            "IOPS",
            "p99.99",
            "errors  0",
            "CPUs",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }

    /// The log is read back by the crate that other tools agree with, and holds the same histogram.
    #[test]
    fn the_histogram_log_comes_back() {
        let measured = measured();
        let mut bytes = Vec::new();
        measured.write_histogram_log(&mut bytes).unwrap();
        let entry = IntervalLogIterator::new(&bytes)
            .find_map(|entry| match entry.unwrap() {
                LogEntry::Interval(interval) => Some(interval),
                _ => None,
            })
            .unwrap();
        assert_eq!(entry.tag().unwrap().as_str(), "read");
        let decoded = decode_base64(entry.encoded_histogram());
        let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut &decoded[..]).unwrap();
        assert_eq!(histogram.len(), measured.latency[0].len());
    }

    /// The few lines of base64 that the test needs.
    fn decode_base64(text: &str) -> Vec<u8> {
        let value = |c: u8| match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        let digits = text.bytes().filter(|&c| c != b'=').map(value);
        let bits: Vec<u8> = digits
            .flat_map(|digit| (0..6).rev().map(move |bit| digit >> bit & 1))
            .collect();
        bits.chunks_exact(8)
            .map(|byte| byte.iter().fold(0, |sum, bit| (sum << 1) | bit))
            .collect()
    }
}
