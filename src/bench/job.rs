//! One job: a thread that keeps a queue full, or keeps to a schedule, and records how long each I/O took.

use super::backend::{Backend, Data, Done, Kind, Request};
use super::gaps::GapWatch;
use super::options::Options;
use super::pattern::VerifyData;
use super::workload::Workload;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Longest latency that a histogram tells apart, in nanoseconds: an hour. Longer ones count as that.
const LATENCY_MAX_NS: u64 = 3_600_000_000_000;

/// Significant decimal digits of a histogram.
const LATENCY_DIGITS: u8 = 3;

/// How long I/Os outstanding at the end may take before the run is called hung.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// Least time for reading everything back at the end of `--verify`; more with a longer `--time`.
const READ_BACK_MIN: Duration = Duration::from_secs(60);

/// Reading back may take so many times as long as writing did.
const READ_BACK_FACTOR: u32 = 4;

/// Polls without a completion between two looks at the clock.
const IDLE_POLLS_MAX: u32 = 64;

/// How often a job tells how far it is, in nanoseconds.
const PUBLISH_NS: u64 = 50_000_000;

/// What jobs and the main thread tell each other.
#[derive(Debug, Default)]
pub struct Shared {
    /// Set when the run is to end early.
    pub stop: AtomicBool,
    /// I/Os completed so far, all phases; each job adds its own now and then.
    pub completed: AtomicU64,
    /// I/Os failed so far.
    pub failed: AtomicU64,
    /// Jobs that are past their warm-up.
    pub measuring: AtomicU64,
}

/// An empty latency histogram, in nanoseconds.
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, LATENCY_DIGITS)
        .expect("the bounds and digits are constants that the crate accepts")
}

/// What one job measured.
#[derive(Debug)]
pub struct JobResult {
    /// Latencies by [`Kind`]; I/Os that failed are not in.
    pub latency: [Histogram<u64>; 3],
    /// I/Os that ended well within the measured time, by [`Kind`].
    pub counted: [u64; 3],
    /// The measured time.
    pub elapsed: Duration,
    /// Failed I/Os, by the backend's code.
    pub errors: BTreeMap<u32, u64>,
    /// Scheduled I/Os (`--rate`) whose time came but that could not be issued before the end.
    pub unissued: u64,
    /// Processor time in the measured time.
    pub cpu: Option<Duration>,
    /// What `--verify` found.
    pub verify: Option<VerifyData>,
    /// Written places that were not read back for lack of time.
    pub unverified: u64,
}

/// An I/O under way.
#[derive(Clone, Copy)]
struct Slot {
    request: Request,
    /// When it was issued, or was due.
    start: u64,
}

/// Completions of one turn with the same latency, which are recorded at once. I/Os that were submitted together
/// and end together have it in common, so a fast target costs one record for a batch.
struct Alike {
    latency: u64,
    kind: Kind,
    count: u64,
}

/// What a job is at.
#[derive(Clone, Copy)]
enum Stage {
    /// Warms up, then measures.
    Loading,
    /// Waits for what is outstanding.
    Draining {
        /// When it is called hung, in nanoseconds.
        deadline: u64,
    },
    /// Reads what was written.
    ReadingBack {
        /// From which unit on there may be more to read; `None`: there is not.
        unit: Option<u64>,
        /// When there was no time for more, in nanoseconds.
        deadline: u64,
    },
    /// Waits for the last of that.
    DrainingAgain {
        /// As of [`Stage::ReadingBack`].
        unit: Option<u64>,
        /// As of [`Stage::Draining`].
        deadline: u64,
    },
    /// Done.
    Over,
}

/// A job at work: a state machine that goes on a turn at a time, so that a reactor can turn it as well as a thread of its own.
pub struct Job<B, D> {
    backend: B,
    data: D,
    workload: Workload,
    shared: Arc<Shared>,
    /// Looks for gaps around swaps, if anybody wants to know.
    watch: Option<GapWatch>,
    stage: Stage,
    /// When measuring begins.
    record_begin: u64,
    /// Between two scheduled I/Os, and when the next is due: in 1/1024 ns, so that a rate which is no divisor of a second is met, too.
    interval: Option<u64>,
    due: u64,
    cpu_before: Option<Duration>,
    /// How long reading back may take; `None` when nothing is to be read back.
    read_back_time: Option<Duration>,
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// Requests that the backend has not taken yet.
    batch: Vec<Request>,
    done: Vec<Done>,
    alike: Alike,
    now: u64,
    /// Polls without a completion since the clock was looked at.
    idle_polls: u32,
    /// Turns without a completion since the last one.
    idle_turns: u32,
    /// Whether completions count, and until when they count as throughput.
    recording: bool,
    record_end: u64,
    completed: u64,
    published: u64,
    published_at: u64,
    result: JobResult,
}

impl<B: Backend, D: Data> Job<B, D> {
    /// A job with at most as many I/Os outstanding as the options say. Its time begins now.
    pub fn new(
        backend: B,
        data: D,
        workload: Workload,
        shared: Arc<Shared>,
        options: &Options,
    ) -> Self {
        let depth = options.qd;
        let request = Request {
            lba: 0,
            block_count: 0,
            generation: 0,
            tag: 0,
            kind: Kind::Flush,
        };
        let now = backend.now();
        let record_begin = now + options.warmup.as_nanos() as u64;
        let jobs_ns = options.jobs as u64 * 1_000_000_000;
        let read_back_time = READ_BACK_MIN.max(options.time.saturating_mul(READ_BACK_FACTOR));
        Self {
            backend,
            data,
            workload,
            shared,
            watch: None,
            stage: Stage::Loading,
            record_begin,
            interval: options.rate.map(|rate| (jobs_ns << 10) / rate),
            due: now << 10,
            cpu_before: None,
            read_back_time: options.verify.then_some(read_back_time),
            slots: vec![Slot { request, start: 0 }; depth],
            free: (0..depth as u16).rev().collect(),
            batch: Vec::with_capacity(depth),
            done: vec![Done { tag: 0, error: 0 }; depth],
            alike: Alike {
                latency: 0,
                kind: Kind::Read,
                count: 0,
            },
            now,
            idle_polls: 0,
            idle_turns: 0,
            recording: false,
            record_end: record_begin + options.time.as_nanos() as u64,
            completed: 0,
            published: 0,
            published_at: now,
            result: JobResult {
                latency: [
                    latency_histogram(),
                    latency_histogram(),
                    latency_histogram(),
                ],
                counted: [0; 3],
                elapsed: Duration::ZERO,
                errors: BTreeMap::new(),
                unissued: 0,
                cpu: None,
                verify: None,
                unverified: 0,
            },
        }
    }

    /// Looks for gaps around swaps.
    pub fn watch_gaps(&mut self, watch: GapWatch) {
        self.watch = Some(watch);
    }

    /// What it drives.
    pub fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Runs to the end on this thread.
    ///
    /// # Errors
    ///
    /// As [`Job::step`].
    pub fn run(&mut self) -> Result<(), String> {
        while self.step()? {
            if self.idle_turns >= IDLE_POLLS_MAX {
                self.idle_turns = 0;
                // Some 20 us of waiting, longer than a local target takes: maybe it waits for this processor.
                std::thread::yield_now();
            }
        }
        Ok(())
    }

    /// Goes on by a turn; false when there is nothing left to do.
    ///
    /// # Errors
    ///
    /// A sentence for the user when the target was lost or hangs.
    #[inline]
    pub fn step(&mut self) -> Result<bool, String> {
        match self.stage {
            Stage::Loading => {
                if self.now < self.record_end && !self.stopped() {
                    self.load()?;
                } else {
                    self.loaded();
                    self.stage = Stage::Draining {
                        deadline: self.now + DRAIN_MAX.as_nanos() as u64,
                    };
                }
            }
            Stage::Draining { deadline } => {
                if !self.drained(deadline)? {
                    return Ok(true);
                }
                self.recording = false;
                self.stage = match self.read_back_time {
                    None => Stage::Over,
                    Some(time) => Stage::ReadingBack {
                        unit: Some(0),
                        deadline: self.now + time.as_nanos() as u64,
                    },
                };
            }
            Stage::ReadingBack { unit, deadline } => self.read_back(unit, deadline)?,
            Stage::DrainingAgain { unit, deadline } => {
                if !self.drained(deadline)? {
                    return Ok(true);
                }
                self.count_unverified(unit);
                self.stage = Stage::Over;
            }
            Stage::Over => return Ok(false),
        }
        Ok(true)
    }

    #[inline]
    fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    /// A turn of the load.
    #[inline]
    fn load(&mut self) -> Result<(), String> {
        if !self.recording && self.now >= self.record_begin {
            self.recording = true;
            self.shared.measuring.fetch_add(1, Ordering::Relaxed);
            self.cpu_before = super::cores::thread_time();
        }
        match self.interval {
            None => self.fill_queue(),
            Some(interval) => self.issue_due(interval),
        }
        self.turn()
    }

    /// The load is over.
    #[cold]
    fn loaded(&mut self) {
        // Set aside for all of the measured time, it has measured nothing; but nobody may wait for it to begin.
        if !self.recording {
            self.shared.measuring.fetch_add(1, Ordering::Relaxed);
        }
        if let (Some(before), Some(after)) = (self.cpu_before, super::cores::thread_time()) {
            self.result.cpu = Some(after.saturating_sub(before));
        }
        let end = self.record_end;
        self.result.elapsed =
            Duration::from_nanos(self.now.min(end).saturating_sub(self.record_begin));
        if let Some(interval) = self.interval {
            self.result.unissued = (end << 10).saturating_sub(self.due) / interval;
        }
    }

    /// Closed loop: as many I/Os as the queue takes.
    #[inline]
    fn fill_queue(&mut self) {
        while let Some(&tag) = self.free.last() {
            let Some(request) = self.workload.next(tag) else {
                break;
            };
            self.issue(request, self.now);
        }
    }

    /// Open loop: the I/Os whose time has come, which count from that time (coordinated omission).
    #[inline]
    fn issue_due(&mut self, interval: u64) {
        while self.due >> 10 <= self.now {
            let Some(&tag) = self.free.last() else { break };
            let Some(request) = self.workload.next(tag) else {
                break;
            };
            self.issue(request, self.due >> 10);
            self.due += interval;
        }
        // With nothing due the clock has to be looked at anew each turn.
        self.idle_polls = IDLE_POLLS_MAX;
    }

    #[inline]
    fn issue(&mut self, request: Request, start: u64) {
        self.free.pop();
        self.slots[usize::from(request.tag)] = Slot { request, start };
        self.batch.push(request);
    }

    /// Submits what waits, collects what is done, and reads the clock when there is a reason to.
    #[inline]
    fn turn(&mut self) -> Result<(), String> {
        if !self.batch.is_empty() {
            let taken = self.backend.submit(&self.batch, &mut self.data)?;
            if taken == self.batch.len() {
                self.batch.clear();
            } else {
                self.batch.drain(..taken);
            }
        }
        let count = self.backend.poll(&mut self.done, &mut self.data)?;
        if count == 0 {
            self.idle_polls += 1;
            if self.idle_polls >= IDLE_POLLS_MAX {
                self.look_at_clock();
            }
            self.idle_turns = self.idle_turns.wrapping_add(1);
            return Ok(());
        }
        self.idle_turns = 0;
        self.look_at_clock();
        if let Some(watch) = &mut self.watch {
            watch.answered(self.now);
        }
        for index in 0..count {
            self.complete(self.done[index]);
        }
        self.record_alike();
        Ok(())
    }

    #[inline]
    fn look_at_clock(&mut self) {
        self.now = self.backend.now();
        self.idle_polls = 0;
        if self.now - self.published_at >= PUBLISH_NS {
            self.publish();
        }
    }

    #[cold]
    fn publish(&mut self) {
        self.shared
            .completed
            .fetch_add(self.completed - self.published, Ordering::Relaxed);
        self.published = self.completed;
        self.published_at = self.now;
    }

    #[inline]
    fn complete(&mut self, done: Done) {
        let Slot { request, start } = self.slots[usize::from(done.tag)];
        self.completed += 1;
        if done.error != 0 {
            self.fail(done.error);
        } else if self.recording {
            let latency = self.now.saturating_sub(start).max(1);
            if (latency, request.kind) != (self.alike.latency, self.alike.kind) {
                self.record_alike();
                self.alike = Alike {
                    latency,
                    kind: request.kind,
                    count: 0,
                };
            }
            self.alike.count += 1;
        }
        self.workload.release(&request, done.error == 0);
        self.free.push(done.tag);
    }

    /// Records the completions that were put off. All of them ended at this look at the clock.
    #[inline]
    fn record_alike(&mut self) {
        let Alike {
            latency,
            kind,
            count,
        } = self.alike;
        if count == 0 {
            return;
        }
        self.result.latency[kind as usize].saturating_record_n(latency, count);
        if self.now <= self.record_end {
            self.result.counted[kind as usize] += count;
        }
        self.alike.count = 0;
    }

    #[cold]
    fn fail(&mut self, code: u32) {
        *self.result.errors.entry(code).or_insert(0) += 1;
        self.shared.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// A turn of waiting for everything outstanding; whether there is nothing any more.
    fn drained(&mut self, deadline: u64) -> Result<bool, String> {
        if self.free.len() < self.slots.len() {
            self.turn()?;
        }
        if self.free.len() == self.slots.len() {
            return Ok(true);
        }
        if self.now < deadline {
            return Ok(false);
        }
        Err(format!(
            "{} I/Os did not come back within {} s",
            self.slots.len() - self.free.len(),
            DRAIN_MAX.as_secs()
        ))
    }

    /// A turn of reading back every place that was written, in order, within a bounded time.
    fn read_back(&mut self, unit: Option<u64>, deadline: u64) -> Result<(), String> {
        let mut unit = unit;
        if unit.is_none() || self.now >= deadline || self.stopped() {
            self.stage = Stage::DrainingAgain {
                unit,
                deadline: self.now + DRAIN_MAX.as_nanos() as u64,
            };
            return Ok(());
        }
        while let (Some(from), Some(&tag)) = (unit, self.free.last()) {
            unit = match self.workload.next_written(from, tag) {
                Some((request, after)) => {
                    self.issue(request, self.now);
                    Some(after)
                }
                None => None,
            };
        }
        self.stage = Stage::ReadingBack { unit, deadline };
        self.turn()
    }

    fn count_unverified(&mut self, mut unit: Option<u64>) {
        while let Some((_, after)) = unit.and_then(|next| self.workload.next_written(next, 0)) {
            self.result.unverified += 1;
            unit = Some(after);
        }
    }

    /// What was measured.
    pub fn finish(mut self) -> (JobResult, D) {
        self.publish();
        self.backend.end();
        (self.result, self.data)
    }
}

#[cfg(test)]
mod tests {
    use super::super::backend::{NoData, Target};
    use super::super::testing::{Fault, MemoryBackend, MemoryTarget, options};
    use super::super::workload::Region;
    use super::*;

    /// What comes back with the last turn of the time for it has come back.
    #[test]
    fn the_last_turn_counts() {
        let seat = MemoryTarget::new(64, Fault::None).seat(0, 1).unwrap();
        let backend = MemoryBackend::open(seat).unwrap();
        let options = options(|options| options.qd = 1);
        let region = Region {
            first: 0,
            count: 64,
        };
        let workload = Workload::new(&options, region, 1, 0);
        let mut job = Job::new(backend, NoData, workload, Arc::default(), &options);
        job.fill_queue();
        assert_eq!(job.drained(0), Ok(true));
    }

    /// A job whose time passes in one turn, as when the scheduler sets it aside, is past its warm-up all the same, and counts once.
    #[test]
    fn a_job_that_measures_nothing_is_waited_for_by_nobody() {
        for stall in [Duration::ZERO, Duration::from_secs(2)] {
            let seat = MemoryTarget::new(64, Fault::Stall(stall)).seat(0, 1);
            let backend = MemoryBackend::open(seat.unwrap()).unwrap();
            let options = options(|options| {
                options.warmup = Duration::from_millis(5);
                options.time = Duration::from_millis(10);
            });
            let region = Region {
                first: 0,
                count: 64,
            };
            let workload = Workload::new(&options, region, 1, 0);
            let shared = Arc::new(Shared::default());
            let mut job = Job::new(backend, NoData, workload, Arc::clone(&shared), &options);
            job.run().unwrap();
            assert_eq!(shared.measuring.load(Ordering::Relaxed), 1);
            let counted = job.finish().0.counted[Kind::Read as usize];
            assert_eq!(counted > 0, stall.is_zero());
        }
    }
}
