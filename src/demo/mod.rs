//! A target and a host in one process, to show what a host sees of a path that fails and a table that is swapped.
//!
//! | file | what is in it |
//! |---|---|
//! | [`target`] | the node, and the same data on both its disks |
//! | [`load`] | the host: one queue's thread |
//! | [`window`] | which I/Os came before, during and after the gap |
//! | [`report`] | what was measured, as text and as JSON |
//!
//! ```text
//! before   verified reads and writes; writes repeat what is there, so both disks stay alike
//! pull     the device's only path is taken away by force: its I/O waits in the multipath target
//! hold     nobody does anything, as when an operator has to be called
//! repair   suspend with noflush: what waits goes back to the core; load a table on the other disk; resume
//! after    verified reads and writes; every write since the pull writes something new
//! read     every block is read and checked
//! ```
//!
//! The disks are two, of memory, that know nothing of each other: what was written to the first alone would be lost with it, as
//! it would be outside a demo. That is why writes repeat what is there as long as the first disk is live.

pub mod load;
pub mod report;
pub mod target;
pub mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use load::{Moment, Queue, QueueResult, Shared};
pub use report::{Report, Step};
use target::{Demo, Geometry, PULLED, REPAIRED};

/// Shortest demo.
pub const TIME_MIN: Duration = Duration::from_millis(200);

/// Longest demo.
pub const TIME_MAX: Duration = Duration::from_secs(3600);

/// The host's queues, each a connection and a thread.
pub const QUEUES: usize = 2;

/// I/Os outstanding on each queue.
pub const DEPTH: usize = 32;

/// How many columns a chart of the whole demo has.
pub const SLICES: u32 = 60;

/// Of so many slices, this many pass before the disk is pulled, and until it is replaced.
const SLICES_BEFORE: u32 = 18;
const SLICES_HELD: u32 = 6;

/// How often the one that directs looks whether the audience wants more, and keeps the connection alive.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The same while it only waits for the queues, and for how long.
const LOOK_SOON: Duration = Duration::from_millis(1);
const QUEUES_WITHIN: Duration = Duration::from_secs(30);

/// How a demo is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long the load runs, reading everything back not included.
    pub time: Duration,
}

/// Whoever watches a demo.
pub trait Audience {
    /// The target runs and both disks hold the same; nothing is measured yet.
    fn introduced(&mut self, target: &Demo, load: Geometry);

    /// Something was done.
    fn done(&mut self, step: &Step);

    /// A slice of the time has passed; I/Os that ended so far.
    fn passed(&mut self, slice: u32, completed: u64);

    /// Whether the demo is to end soon. It still ends in order.
    fn interrupted(&self) -> bool;
}

/// Why there is no report.
#[derive(Debug)]
pub enum Failure {
    /// The audience wanted no more.
    Interrupted,
    /// What went wrong.
    Failed(String),
}

impl From<String> for Failure {
    fn from(reason: String) -> Failure {
        Failure::Failed(reason)
    }
}

/// Runs the demo.
///
/// # Errors
/// When it could not be run to its end. I/O that fails, and data that is wrong, are part of the report.
pub fn run(options: Options, audience: &mut impl Audience) -> Result<Report, Failure> {
    let demo = Demo::start()?;
    let outcome = demo.prepare().map_err(Failure::from).and_then(|geometry| {
        audience.introduced(&demo, geometry);
        perform(&demo, geometry, options, audience)
    });
    let stopped = demo.stop();
    let report = outcome?;
    stopped?;
    Ok(report)
}

fn perform(
    demo: &Demo,
    geometry: Geometry,
    options: Options,
    audience: &mut impl Audience,
) -> Result<Report, Failure> {
    let shared = Arc::new(Shared::default());
    let mut host = demo.connect()?;
    let mut queues = Vec::with_capacity(QUEUES);
    for index in 0..QUEUES {
        queues.push(host.queue(index, geometry, Arc::clone(&shared))?);
    }
    std::thread::scope(|scope| {
        let spawn = |queue: Queue| scope.spawn(move || queue.run());
        let running: Vec<_> = queues.into_iter().map(spawn).collect();
        let mut director = Director {
            demo,
            shared: &shared,
            audience,
            begun: Instant::now(),
            slice: options.time / SLICES,
            slices: 0,
            steps: Vec::new(),
        };
        let directed = director.direct(&mut || host.tend());
        let steps = director.steps;
        shared.reach(match directed {
            Ok(_) => Moment::End,
            Err(_) => Moment::GivenUp,
        });
        // Reading back may take longer than the target waits for a sign of life; a queue that loses it says so itself.
        while running.iter().any(|thread| !thread.is_finished()) && host.tend().is_ok() {
            std::thread::sleep(LOOK_SOON);
        }
        let results: Vec<Result<QueueResult, String>> = running
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err("a queue's thread panicked".into()))
            })
            .collect();
        // A queue that lost the target knows best why nothing went on.
        let results = results.into_iter().collect::<Result<Vec<_>, String>>()?;
        let waiting = directed?;
        Ok(Report::new(options, geometry, steps, waiting, results)?)
    })
}

/// How many I/Os the outage caught.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Waiting {
    /// Waited for a path in the multipath target, just before the suspend.
    pub for_path: u64,
    /// Were parked in the core, once the device was suspended.
    pub parked: u64,
}

/// Plays the operator.
struct Director<'a, A> {
    demo: &'a Demo,
    shared: &'a Shared,
    audience: &'a mut A,
    begun: Instant,
    slice: Duration,
    slices: u32,
    steps: Vec<Step>,
}

impl<A: Audience> Director<'_, A> {
    fn direct(&mut self, tend: &mut dyn FnMut() -> Result<(), String>) -> Result<Waiting, Failure> {
        self.pause(SLICES_BEFORE, tend)?;
        self.until_all(|shared| &shared.begun, tend)?;
        if self.audience.interrupted() {
            return Err(Failure::Interrupted);
        }
        self.shared.reach(Moment::Pulling);
        self.step(
            &format!("{PULLED} is pulled: the device has no path"),
            Demo::pull,
        )?;
        self.shared.reach(Moment::Pulled);
        // An interruption only cuts the pauses short from here on: what waits has to be let go in any case.
        self.pause(SLICES_HELD, tend)?;
        let for_path = self.demo.stats()?.held;
        self.step("suspended, without flushing", Demo::suspend)?;
        let parked = self.demo.stats()?.parked;
        self.step(&format!("a table on {REPAIRED} is loaded"), Demo::load)?;
        self.step("resumed", Demo::resume)?;
        self.shared.reach(Moment::Resumed);
        self.pause(SLICES - SLICES_BEFORE - SLICES_HELD, tend)?;
        self.until_all(|shared| &shared.recovered, tend)?;
        if self.audience.interrupted() {
            return Err(Failure::Interrupted);
        }
        Ok(Waiting { for_path, parked })
    }

    fn step(
        &mut self,
        what: &str,
        act: impl FnOnce(&Demo) -> Result<(), String>,
    ) -> Result<(), String> {
        let at = self.begun.elapsed();
        act(self.demo)?;
        let took = self.begun.elapsed() - at;
        let step = Step {
            at_s: at.as_secs_f64(),
            what: what.to_owned(),
            took_us: took.as_secs_f64() * 1e6,
        };
        self.audience.done(&step);
        self.steps.push(step);
        Ok(())
    }

    /// Waits until all queues are so far: on a busy machine a thread may have had no turn in all the time of a phase. One that never gets
    /// there is told in the report.
    fn until_all(
        &mut self,
        so_far: fn(&Shared) -> &AtomicUsize,
        tend: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<(), String> {
        let deadline = Instant::now() + QUEUES_WITHIN;
        while so_far(self.shared).load(Ordering::Relaxed) < QUEUES
            && Instant::now() < deadline
            && !self.audience.interrupted()
        {
            std::thread::sleep(LOOK_SOON);
            tend()?;
        }
        Ok(())
    }

    /// Lets so many slices of time pass, or fewer when the audience wants no more.
    fn pause(
        &mut self,
        slices: u32,
        tend: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<(), String> {
        for _ in 0..slices {
            if self.audience.interrupted() {
                return Ok(());
            }
            let until = self.begun + self.slice * (self.slices + 1);
            while !self.audience.interrupted() {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                std::thread::sleep(left.min(LOOK_EVERY));
                tend()?;
            }
            self.audience
                .passed(self.slices, self.shared.completed.load(Ordering::Relaxed));
            self.slices += 1;
        }
        Ok(())
    }
}
