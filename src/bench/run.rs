//! A whole run: jobs on their threads, the main thread that tends the target and shows progress.

use super::against::compare;
use super::backend::{Backend, NoData, Target};
use super::cores;
use super::job::{Job, JobResult, Shared};
use super::options::Options;
use super::pattern::VerifyData;
use super::report::Measured;
use super::workload::{Region, Workload};
use std::io::{IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant, SystemTime};

/// How often the main thread looks after the target and the progress line.
const TICK: Duration = Duration::from_millis(100);

/// How often the progress line is written anew.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Runs the load and measures it.
///
/// # Errors
///
/// A sentence for the user: an option that does not fit, a target that was lost, a run that hangs. I/Os that
/// fail, and mismatches, are no errors here but part of what was measured.
pub fn run<T: Target>(target: &mut T, options: &Options) -> Result<Measured, String> {
    options.validate()?;
    let geometry = target.geometry();
    let units = options.fit(&geometry)?;
    let started = SystemTime::now();
    let shared = Arc::new(Shared::default());
    let barrier = Barrier::new(options.jobs);
    let mut seats = Vec::with_capacity(options.jobs);
    for job in 0..options.jobs {
        seats.push(target.seat(job, options.qd)?);
    }
    let unit_blocks = (options.bs / u64::from(geometry.block_size)) as u32;
    let (results, cpu) = std::thread::scope(|scope| {
        let (sender, receiver) = channel();
        for (job, seat) in seats.into_iter().enumerate() {
            let region = Region::of_job(options, units, job);
            let setting = Setting {
                options,
                shared: &shared,
                barrier: &barrier,
                job,
                region,
                unit_blocks,
                block_size: geometry.block_size,
            };
            let sender: Sender<Result<JobResult, String>> = sender.clone();
            scope.spawn(move || {
                let result = setting.work::<T::Backend>(seat);
                if result.is_err() {
                    setting.shared.stop.store(true, Ordering::Relaxed);
                }
                // The receiver outlives the scope's threads; a failed send has nobody to tell.
                let _ = sender.send(result);
            });
        }
        drop(sender);
        supervise(target, options, &shared, &receiver)
    });
    let results = results?;
    target.end();
    Ok(Measured::new::<T::Backend>(options, results, cpu, started))
}

/// What a job's thread needs to begin.
struct Setting<'a> {
    options: &'a Options,
    shared: &'a Arc<Shared>,
    barrier: &'a Barrier,
    job: usize,
    region: Region,
    unit_blocks: u32,
    block_size: u32,
}

impl Setting<'_> {
    /// The job, from pinning to its result.
    fn work<B: Backend>(&self, seat: B::Seat) -> Result<JobResult, String> {
        let backend = self.pin().and_then(|()| B::open(seat));
        // Whoever failed waits, too, so that the others are not kept waiting for it.
        self.barrier.wait();
        let backend = backend?;
        let options = self.options;
        let workload = Workload::new(options, self.region, self.unit_blocks, self.job);
        let shared = Arc::clone(self.shared);
        if options.verify {
            // The same seed for all jobs: a block written by another job is then told by name.
            let data = VerifyData::new(options.seed, self.block_size);
            let mut job = Job::new(backend, data, workload, shared, options);
            job.run()?;
            let (mut result, data) = job.finish();
            result.verify = Some(data);
            Ok(result)
        } else {
            let mut job = Job::new(backend, NoData, workload, shared, options);
            job.run()?;
            Ok(job.finish().0)
        }
    }

    fn pin(&self) -> Result<(), String> {
        match &self.options.cores {
            Some(cores::List(list)) => cores::pin(list[self.job % list.len()]),
            None => Ok(()),
        }
    }
}

/// Waits for all jobs; their results, and the processors the target used while they measured.
fn supervise<T: Target>(
    target: &mut T,
    options: &Options,
    shared: &Shared,
    receiver: &Receiver<Result<JobResult, String>>,
) -> (Result<Vec<JobResult>, String>, Option<f64>) {
    let mut progress = Progress::new(options);
    let mut results = Vec::with_capacity(options.jobs);
    let mut failure = None;
    let mut cpu = TargetCpu::default();
    loop {
        match receiver.recv_timeout(TICK) {
            Ok(Ok(result)) => results.push(result),
            Ok(Err(error)) => failure = failure.or(Some(error)),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                if let Err(error) = target.tend() {
                    failure = failure.or(Some(error));
                    shared.stop.store(true, Ordering::Relaxed);
                }
                cpu.sample(
                    target,
                    shared.measuring.load(Ordering::Relaxed) == options.jobs as u64,
                    options.time,
                );
                progress.show(shared);
            }
        }
    }
    progress.clear();
    match failure {
        Some(error) => (Err(error), None),
        None => (Ok(results), cpu.cores()),
    }
}

/// The target's processor time between two moments within the measured time.
#[derive(Default)]
struct TargetCpu {
    first: Option<(Instant, Duration)>,
    last: Option<(Instant, Duration)>,
}

impl TargetCpu {
    fn sample<T: Target>(&mut self, target: &mut T, measuring: bool, time: Duration) {
        if !measuring {
            return;
        }
        // Later ones would count the drain, or reading back.
        if self.first.is_some_and(|(since, _)| since.elapsed() > time) {
            return;
        }
        let Some(used) = target.target_cpu() else {
            return;
        };
        let sample = (Instant::now(), used);
        self.first.get_or_insert(sample);
        self.last = Some(sample);
    }

    fn cores(&self) -> Option<f64> {
        let ((since, before), (until, after)) = (self.first?, self.last?);
        let elapsed = until.duration_since(since).as_secs_f64();
        (elapsed > 0.0).then(|| after.saturating_sub(before).as_secs_f64() / elapsed)
    }
}

/// The line that says how far the run is; on a terminal only.
struct Progress {
    shown: bool,
    enabled: bool,
    since: Instant,
    last: Instant,
    last_completed: u64,
    whole: Duration,
    bytes: u64,
}

impl Progress {
    fn new(options: &Options) -> Self {
        let now = Instant::now();
        Self {
            shown: false,
            enabled: std::io::stderr().is_terminal(),
            since: now,
            last: now,
            last_completed: 0,
            whole: options.warmup + options.time,
            bytes: options.bs,
        }
    }

    fn show(&mut self, shared: &Shared) {
        let elapsed = self.last.elapsed();
        if !self.enabled || elapsed < PROGRESS_EVERY {
            return;
        }
        let completed = shared.completed.load(Ordering::Relaxed);
        let iops = (completed - self.last_completed) as f64 / elapsed.as_secs_f64();
        let failed = shared.failed.load(Ordering::Relaxed);
        let passed = self.since.elapsed();
        let phase = if passed > self.whole {
            "finishing".to_owned()
        } else {
            format!("{} of {} s", passed.as_secs(), self.whole.as_secs())
        };
        let rate = super::report::bandwidth(iops * self.bytes as f64);
        let iops = super::report::thousands(iops as u64);
        // The line is a courtesy: a terminal that is gone must not end the run.
        let _ = write!(
            std::io::stderr(),
            "\r\x1b[K{phase}  {iops} IOPS  {rate}  {failed} errors"
        );
        self.shown = true;
        self.last = Instant::now();
        self.last_completed = completed;
    }

    fn clear(&self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// Runs, writes the files that were asked for, and writes the report to `output`. Whether all went well: no I/O failed, and
/// nothing was read that had not been written.
///
/// # Errors
///
/// Those of `run`, and a file that cannot be written.
pub fn execute(
    options: &Options,
    output: &mut impl Write,
    run: impl FnOnce() -> Result<Measured, String>,
) -> Result<bool, String> {
    // A file that cannot be written is better known before the run than after it.
    let hgrm = create(options.hgrm.as_deref())?;
    let plot = create(options.plot.as_deref())?;
    let measured = run()?;
    if let Some(mut file) = hgrm {
        measured
            .write_histogram_log(&mut file)
            .map_err(|error| format!("--hgrm: {error}"))?;
    }
    if let Some(mut file) = plot {
        let svg = super::plot::percentiles(&measured);
        file.write_all(svg.as_bytes())
            .map_err(|error| format!("--plot: {error}"))?;
    }
    let text = match options.json {
        true => measured.report.json(),
        false => measured.report.text(),
    };
    write_report(output, &text)?;
    Ok(measured.report.is_clean())
}

/// Measures two targets in turn ([`compare`]) and writes what came of it to `output`. Whether no I/O failed.
///
/// # Errors
///
/// As [`compare`].
pub fn execute_in_turn(
    options: &Options,
    output: &mut impl Write,
    names: [String; 2],
    run: impl FnMut(usize, &Options) -> Result<Measured, String>,
) -> Result<bool, String> {
    let comparison = compare(options, names, run)?;
    let text = match options.json {
        true => comparison.json(),
        false => comparison.text(),
    };
    write_report(output, &text)?;
    Ok(comparison.is_clean())
}

fn write_report(output: &mut impl Write, text: &str) -> Result<(), String> {
    writeln!(output, "{text}").map_err(|error| format!("writing the report: {error}"))
}

fn create(path: Option<&std::path::Path>) -> Result<Option<std::fs::File>, String> {
    path.map(|path| {
        std::fs::File::create(path).map_err(|error| format!("{}: {error}", path.display()))
    })
    .transpose()
}

#[cfg(test)]
mod tests {
    use super::super::backend::Kind;
    use super::super::options::Pattern;
    use super::super::testing::{Fault, MemoryTarget, options};
    use super::*;

    fn short(change: impl FnOnce(&mut Options)) -> Options {
        options(|o| {
            o.time = Duration::from_millis(50);
            o.warmup = Duration::from_millis(5);
            change(o);
        })
    }

    /// Every pattern runs, counts what it should, and ends.
    #[test]
    fn every_pattern_counts_its_kinds() {
        for (pattern, reads, writes) in [
            (Pattern::Read, true, false),
            (Pattern::Write, false, true),
            (Pattern::RandRead, true, false),
            (Pattern::RandWrite, false, true),
            (Pattern::RandRw, true, true),
        ] {
            let mut target = MemoryTarget::new(256, Fault::None);
            let options = short(|o| {
                o.rw = pattern;
                o.jobs = 2;
                o.qd = 4;
            });
            let measured = run(&mut target, &options).unwrap();
            let counted = measured.counted;
            assert_eq!(counted[Kind::Read as usize] > 0, reads, "{pattern:?}");
            assert_eq!(counted[Kind::Write as usize] > 0, writes, "{pattern:?}");
            assert!(measured.report.is_clean());
            assert_eq!(measured.report.total.ios, counted[0] + counted[1]);
        }
    }

    #[test]
    fn flushes_are_counted_apart() {
        let mut target = MemoryTarget::new(256, Fault::None);
        let options = short(|o| {
            o.rw = Pattern::Write;
            o.flush_every = Some(8);
        });
        let measured = run(&mut target, &options).unwrap();
        let [_, writes, flushes] = measured.counted;
        assert!(flushes > 0);
        assert!(
            writes.abs_diff(flushes * 8) <= 16 + options.qd as u64,
            "{writes} {flushes}"
        );
    }

    #[test]
    fn verify_reads_everything_back() {
        for pattern in [Pattern::Write, Pattern::RandWrite, Pattern::RandRw] {
            let mut target = MemoryTarget::new(256, Fault::None);
            let options = short(|o| {
                o.rw = pattern;
                o.verify = true;
                o.jobs = 2;
                o.qd = 4;
            });
            let report = run(&mut target, &options).unwrap().report;
            let verify = report.verify.clone().unwrap();
            assert!(verify.checked_bytes >= 256 * 512, "{pattern:?}: {verify:?}");
            assert_eq!((verify.mismatches, verify.unverified), (0, 0));
            assert!(report.is_clean());
        }
    }

    /// What storage does wrong, and that it is found: a lost write, a misdirected one, a flipped bit.
    #[test]
    fn verify_finds_what_is_wrong() {
        for (fault, part) in [
            (Fault::LoseWrite, "LBA 9, byte 8"),
            (Fault::MisdirectWrite, "LBA 10, byte 0"),
            (Fault::FlipBit, "LBA 9, byte 100"),
        ] {
            let mut target = MemoryTarget::new(64, fault);
            let options = short(|o| {
                o.rw = Pattern::Write;
                o.verify = true;
            });
            let report = run(&mut target, &options).unwrap().report;
            let first = report.verify.clone().unwrap().first.unwrap().to_string();
            assert!(first.contains(part), "{fault:?}: {first}");
            assert!(!report.is_clean());
            assert!(report.text().contains(&first));
        }
    }

    #[test]
    fn failed_ios_are_counted_and_named() {
        let mut target = MemoryTarget::new(64, Fault::Fail);
        let report = run(&mut target, &short(|_| {})).unwrap().report;
        assert!(report.errors.count > 0);
        assert_eq!(report.errors.kinds[0].error, "code 7");
        assert!(!report.is_clean());
    }

    #[test]
    fn a_lost_target_and_a_wrong_option_end_the_run() {
        let mut target = MemoryTarget::new(64, Fault::Vanish);
        assert_eq!(
            run(&mut target, &short(|_| {})).unwrap_err(),
            "the target is gone"
        );
        let mut target = MemoryTarget::new(64, Fault::RefuseOpen);
        assert_eq!(
            run(&mut target, &short(|o| o.jobs = 3)).unwrap_err(),
            "no seat"
        );
        let mut target = MemoryTarget::new(64, Fault::None);
        assert!(
            run(&mut target, &short(|o| o.bs = 100))
                .unwrap_err()
                .contains("--bs 100")
        );
    }

    /// The schedule is kept, and a target that stalls once is charged with every I/O that was due meanwhile.
    #[test]
    fn an_open_loop_charges_a_stall_to_all_that_were_due() {
        let mut target = MemoryTarget::new(64, Fault::Stall(Duration::from_millis(50)));
        let options = short(|o| {
            o.rate = Some(20_000);
            o.qd = 1;
            o.time = Duration::from_millis(100);
            o.warmup = Duration::ZERO;
        });
        let stalled = run(&mut target, &options).unwrap();
        let latency = &stalled.latency[Kind::Read as usize];
        // 100 ms at 20,000 per second; 50 ms of them were due while nothing was answered, and catching up
        // at one per microsecond takes another millisecond. A closed loop would have seen one slow I/O.
        assert!(
            (1_999..=2_001).contains(&latency.len()),
            "{}",
            latency.len()
        );
        let slow = latency.count_between(2_000_000, u64::MAX);
        assert!((950..=1_000).contains(&slow), "{slow}");
        assert!(stalled.report.corrected);
    }

    #[test]
    fn files_are_written_and_refused_early() {
        let folder = tempfile::tempdir().unwrap();
        let options = short(|o| {
            o.hgrm = Some(folder.path().join("a.hlog"));
            o.plot = Some(folder.path().join("a.svg"));
            o.json = true;
        });
        let mut target = MemoryTarget::new(64, Fault::None);
        let mut output = Vec::new();
        assert_eq!(
            execute(&options, &mut output, || run(&mut target, &options)),
            Ok(true)
        );
        assert!(output.starts_with(b"{\n"));
        let log = std::fs::read_to_string(folder.path().join("a.hlog")).unwrap();
        assert!(log.contains("Tag=read,"), "{log}");
        assert!(
            std::fs::read_to_string(folder.path().join("a.svg"))
                .unwrap()
                .starts_with("<svg")
        );
        let options = short(|o| o.plot = Some(folder.path().join("none/a.svg")));
        let error = execute(&options, &mut output, || run(&mut target, &options)).unwrap_err();
        assert!(error.contains("none/a.svg"), "{error}");
    }
}
