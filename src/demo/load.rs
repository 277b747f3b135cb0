//! The host: one queue's thread, which keeps its queue full, checks all it reads, and knows when its I/Os began and ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::DEPTH;
use super::target::Geometry;
use super::window::{Phases, Span};
use crate::bench::nvme_tcp::{NvmeTcpBackend, Seat};
use crate::bench::options::Options;
use crate::bench::pattern::VerifyData;
use crate::bench::workload::{Region, Workload};
use crate::bench::{Backend as _, Done, Request};

/// How long nothing may come back, once the load is over, before the target is called hung.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Turns without a completion after which the thread lets others have its processor: on a small machine it waits for them.
const IDLE_TURNS: u32 = 64;

/// How far the demo is; only ever goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Moment {
    /// The load runs.
    Before,
    /// The disk is about to be pulled.
    Pulling,
    /// It is gone: whatever is written from now on goes to the other disk.
    Pulled,
    /// The device runs on the other disk.
    Resumed,
    /// The load is over: drain, and read everything back.
    End,
    /// Leave everything as it is.
    GivenUp,
}

/// What the host's threads and the one that directs them tell each other.
#[derive(Debug, Default)]
pub struct Shared {
    moment: AtomicU8,
    /// I/Os that ended so far, on all queues.
    pub completed: AtomicU64,
    /// Queues that have had an answer.
    pub begun: AtomicUsize,
    /// Queues that have had an answer to what they submitted after the gap.
    pub recovered: AtomicUsize,
}

impl Shared {
    /// Goes on to a moment.
    pub fn reach(&self, moment: Moment) {
        self.moment.store(moment as u8, Ordering::Release);
    }

    fn has_reached(&self, moment: Moment) -> bool {
        self.moment.load(Ordering::Acquire) >= moment as u8
    }
}

/// What one queue saw.
#[derive(Debug)]
pub struct QueueResult {
    /// Its I/Os, by phase.
    pub phases: Phases,
    /// I/Os that failed, by what the target said.
    pub errors: BTreeMap<String, u64>,
    /// What was compared, and what differed.
    pub verified: VerifyData,
}

/// One queue.
pub struct Queue {
    seat: Option<Seat>,
    workload: Workload,
    data: VerifyData,
    shared: Arc<Shared>,
    /// By tag.
    slots: Vec<(Request, u64)>,
    free: Vec<u16>,
    batch: Vec<Request>,
    done: Vec<Done>,
    idle_turns: u32,
    now: u64,
    /// When something came back last.
    answered: u64,
    begun: bool,
    recovered: bool,
    phases: Phases,
    errors: BTreeMap<u32, u64>,
}

impl Queue {
    /// A queue of the host with a share of the device of its own, on disks that are prepared.
    ///
    /// # Errors
    /// When the device is too small.
    pub fn new(
        seat: Seat,
        options: &Options,
        geometry: Geometry,
        index: usize,
        shared: Arc<Shared>,
    ) -> Result<Queue, String> {
        let region = Region::of_job(options, geometry.places, index);
        if region.count <= DEPTH as u64 {
            return Err(format!("{} places are too few", region.count));
        }
        let request = Request {
            lba: 0,
            block_count: 0,
            generation: 0,
            tag: 0,
            kind: crate::bench::Kind::Flush,
        };
        Ok(Queue {
            seat: Some(seat),
            workload: Workload::new(options, region, 1, index).prepared(),
            data: VerifyData::new(options.seed, geometry.io_bytes),
            shared,
            slots: vec![(request, 0); DEPTH],
            free: (0..DEPTH as u16).rev().collect(),
            batch: Vec::with_capacity(DEPTH),
            done: vec![Done { tag: 0, error: 0 }; DEPTH],
            idle_turns: 0,
            now: 0,
            answered: 0,
            begun: false,
            recovered: false,
            phases: Phases::default(),
            errors: BTreeMap::new(),
        })
    }

    /// The whole demo, on a thread of its own.
    ///
    /// # Errors
    /// When the target is lost, or hangs.
    pub fn run(mut self) -> Result<QueueResult, String> {
        let seat = self.seat.take().expect("a queue runs once");
        let mut backend = NvmeTcpBackend::open(seat)?;
        self.now = backend.now();
        self.phases.begin(self.now);
        let mut renewed = false;
        while !self.shared.has_reached(Moment::End) {
            if !renewed && self.shared.has_reached(Moment::Pulled) {
                self.workload.renew();
                renewed = true;
            }
            while let Some(&tag) = self.free.last() {
                let Some(request) = self.workload.next(tag) else {
                    break;
                };
                self.issue(request);
            }
            self.turn(&mut backend)?;
        }
        self.phases.end(self.now);
        if !self.shared.has_reached(Moment::GivenUp) {
            self.answered = self.now;
            self.drain(&mut backend)?;
            self.read_back(&mut backend)?;
        }
        Ok(QueueResult {
            phases: self.phases,
            errors: self
                .errors
                .into_iter()
                .map(|(code, count)| (NvmeTcpBackend::error_text(code), count))
                .collect(),
            verified: self.data,
        })
    }

    fn issue(&mut self, request: Request) {
        self.free.pop();
        self.slots[usize::from(request.tag)] = (request, self.now);
        self.batch.push(request);
    }

    /// Submits what waits and collects what has ended.
    fn turn(&mut self, backend: &mut NvmeTcpBackend) -> Result<(), String> {
        if !self.batch.is_empty() {
            let taken = backend.submit(&self.batch, &mut self.data)?;
            self.batch.drain(..taken);
        }
        let count = backend.poll(&mut self.done, &mut self.data)?;
        self.now = backend.now();
        if count == 0 {
            self.idle_turns += 1;
            if self.idle_turns >= IDLE_TURNS {
                std::thread::yield_now();
            }
            return Ok(());
        }
        self.idle_turns = 0;
        self.answered = self.now;
        // Looked at before what has ended is told: what ends after the resume was seen is beyond the gap.
        let resumed = self.shared.has_reached(Moment::Resumed);
        if self.shared.has_reached(Moment::Pulling) {
            self.phases.watch();
        }
        for done in &self.done[..count] {
            let (request, start) = self.slots[usize::from(done.tag)];
            match done.error {
                0 => self.phases.ended(Span {
                    start,
                    end: self.now,
                }),
                code => *self.errors.entry(code).or_insert(0) += 1,
            }
            self.workload.release(&request, done.error == 0);
            self.free.push(done.tag);
        }
        if resumed {
            self.phases.settle();
        }
        self.shared
            .completed
            .fetch_add(count as u64, Ordering::Relaxed);
        tell_once(&mut self.begun, true, &self.shared.begun);
        let recovered = !self.phases.after.is_empty();
        tell_once(&mut self.recovered, recovered, &self.shared.recovered);
        Ok(())
    }

    /// A turn at the end, when all that is outstanding has to come back.
    fn turn_at_the_end(&mut self, backend: &mut NvmeTcpBackend) -> Result<(), String> {
        self.turn(backend)?;
        if self.now - self.answered < ANSWER_WITHIN.as_nanos() as u64 {
            return Ok(());
        }
        Err(format!(
            "{} I/Os did not come back within {} s",
            DEPTH - self.free.len(),
            ANSWER_WITHIN.as_secs()
        ))
    }

    fn drain(&mut self, backend: &mut NvmeTcpBackend) -> Result<(), String> {
        while self.free.len() < DEPTH {
            self.turn_at_the_end(backend)?;
        }
        Ok(())
    }

    /// Reads and checks every place.
    fn read_back(&mut self, backend: &mut NvmeTcpBackend) -> Result<(), String> {
        let mut unit = Some(0);
        while let Some(from) = unit {
            let mut from = from;
            while let Some(&tag) = self.free.last() {
                let next = self.workload.next_written(from, tag);
                unit = next.map(|(_, after)| after);
                let Some((request, after)) = next else { break };
                from = after;
                self.issue(request);
            }
            self.turn_at_the_end(backend)?;
        }
        self.drain(backend)
    }
}

/// Counts a queue when something is so for the first time.
fn tell_once(told: &mut bool, is_so: bool, count: &AtomicUsize) {
    if is_so && !*told {
        *told = true;
        count.fetch_add(1, Ordering::Relaxed);
    }
}
