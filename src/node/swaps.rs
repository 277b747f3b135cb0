//! A device of a configuration under the load generator while its table is swapped, over and over: how long do its hosts wait?
//!
//! As in a node that serves, everything runs on the reactors of the configuration, gates and tables change by messages between them, and the
//! swaps come from a thread of their own. Only the network is missing: each reactor has a queue of the load generator as its front end,
//! whose time without an answer is therefore the mapper's and the engine's alone.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::build;
use super::measure::{self, Command};
use crate::bdev::Payload;
use crate::bench::gaps::{GapWatch, Gaps, Windows};
use crate::bench::job::{Job, JobResult, Shared};
use crate::bench::pattern::VerifyData;
use crate::bench::workload::{Region, Workload};
use crate::bench::{Backend, Data, Done, Measured, NoData, Options, Request};
use crate::config::{Error, Plan};
use crate::dm::{DeviceId, Io, Limits, Status, SuspendOptions, Tag};
use crate::engine::{Core, Engine, FrontEnd, never};
use crate::reactor::{BUFFER_BYTES_MAX, BufferPool, Readiness, monotonic_ns};

/// How long reactors may take to come to rest when everything is over.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// How often it is looked whether the load is past its warm-up.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A running engine with the devices of a configuration, one of which is measured.
pub struct Swapped {
    engine: Engine,
    name: String,
    table: String,
    read_only: bool,
    limits: Arc<Limits>,
}

impl Swapped {
    /// Starts the reactors, bdevs and devices of a plan, without its exports; `name` is the device to be measured.
    ///
    /// # Errors
    /// What could not be opened, at its place in the configuration; or that there is no such device.
    pub fn open(plan: &Plan, name: &str) -> Result<Swapped, Error> {
        build::native_only(plan)?;
        let device = measure::device_of(plan, name)?;
        let engine = build::engine(plan)?;
        let limits =
            build::devices(plan, &engine).and_then(|()| build::limits(plan, device, &engine));
        let limits = limits.inspect_err(|_| {
            // Nothing is in flight yet.
            let _ = engine.stop(STOP_WITHIN);
        })?;
        Ok(Swapped {
            engine,
            name: name.to_owned(),
            table: device.table.value.clone(),
            read_only: device.read_only,
            limits,
        })
    }

    /// Runs the load, swaps the table every `options.swap_every`, and measures both.
    ///
    /// # Errors
    /// A sentence for the user: an option that does not fit, a swap that was refused, a target that hangs.
    pub fn run(&self, options: &Options) -> Result<Measured, String> {
        let every = options
            .swap_every
            .ok_or("--swap-every: says how often to swap")?;
        let started = SystemTime::now();
        let mut options = options.clone();
        options.jobs = usize::from(self.engine.cores());
        let geometry = measure::geometry(&self.limits);
        let units = options.fit(&geometry)?;
        let device = self
            .engine
            .open(&self.name)
            .map_err(|error| error.to_string())?;
        let (results, received) = bounded(options.jobs);
        let load = Arc::new(Load {
            device,
            units,
            block_bytes: geometry.block_size,
            shared: Arc::new(Shared::default()),
            windows: Windows::new(options.jobs),
            results,
            go: AtomicBool::new(false),
            options,
        });
        if load.options.verify {
            let data = |load: &Load| VerifyData::new(load.options.seed, load.block_bytes);
            self.add_queues(&load, data, |result, data| result.verify = Some(data));
        } else {
            self.add_queues(&load, |_| NoData, |_, NoData| {});
        }
        load.go.store(true, Ordering::Release);
        let swapped = self.swap_over_and_over(&load, every);
        if swapped.is_err() {
            load.shared.stop.store(true, Ordering::Relaxed);
        }
        let collected = collect(&load, &received);
        self.engine.close(device);
        // A queue that lost its target knows best why a swap came to nothing.
        let (results, gaps) = (collected?, swapped?);
        let mut measured = Measured::new::<CoreBackend>(&load.options, results, None, started);
        measured.report.swaps = Some(gaps.report(every));
        Ok(measured)
    }

    fn add_queues<D: Data + 'static>(
        &self,
        load: &Arc<Load>,
        data: fn(&Load) -> D,
        conclude: fn(&mut JobResult, D),
    ) {
        let load = Arc::clone(load);
        self.engine.add_front_end(move |_, core| {
            core.reserve(load.options.qd);
            Box::new(Queue {
                load: Arc::clone(&load),
                data,
                conclude,
                job: None,
                over: false,
            })
        });
    }

    fn swap_over_and_over(&self, load: &Load, every: Duration) -> Result<Gaps, String> {
        let mut gaps = Gaps::default();
        while load.shared.measuring.load(Ordering::Relaxed) < load.options.jobs as u64 {
            if load.shared.stop.load(Ordering::Relaxed) {
                return Ok(gaps);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let begun = Instant::now();
        let mut next = begun;
        while next - begun < load.options.time {
            sleep_until(next);
            let mut verb = Duration::ZERO;
            let queues = load.windows.during(|| {
                let asked = Instant::now();
                self.swap()?;
                verb = asked.elapsed();
                Ok(())
            })?;
            let Some(queues) = queues else { break };
            gaps.swap(&queues, verb);
            sleep_until(next + every / 2);
            let idle = || {
                std::thread::sleep(verb);
                Ok(())
            };
            let Some(queues) = load.windows.during(idle)? else {
                break;
            };
            gaps.idle(&queues);
            next += every;
        }
        Ok(gaps)
    }

    /// One swap, as `polldm dm swap` asks for it.
    fn swap(&self) -> Result<(), String> {
        let suspend = SuspendOptions {
            noflush: true,
            ..SuspendOptions::default()
        };
        self.engine
            .swap(&self.name, &self.table, self.read_only, suspend, &never)
            .map_err(|error| format!("swapping the table of {}: {error}", self.name))
    }
}

impl Drop for Swapped {
    fn drop(&mut self) {
        // Its queues are over, or hang; either way nobody waits for it any more.
        let _ = self.engine.stop(STOP_WITHIN);
    }
}

fn sleep_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}

/// What every queue measured.
fn collect(
    load: &Load,
    received: &Receiver<Result<JobResult, String>>,
) -> Result<Vec<JobResult>, String> {
    (0..load.options.jobs)
        .map(|_| {
            let result = received.recv();
            result.unwrap_or_else(|_| Err("a reactor ended before its queue".into()))
        })
        .collect()
}

/// What all queues have in common.
struct Load {
    device: DeviceId,
    options: Options,
    units: u64,
    block_bytes: u32,
    shared: Arc<Shared>,
    windows: Arc<Windows>,
    results: Sender<Result<JobResult, String>>,
    /// All queues are there: begin.
    go: AtomicBool,
}

/// One reactor's queue of the load generator.
struct Queue<D> {
    load: Arc<Load>,
    data: fn(&Load) -> D,
    conclude: fn(&mut JobResult, D),
    /// From when it has begun until it is over.
    job: Option<Job<CoreBackend, D>>,
    over: bool,
}

impl<D: Data> Queue<D> {
    fn begin(&self, core: &Core<'_>) -> Job<CoreBackend, D> {
        let Load {
            options,
            units,
            block_bytes,
            shared,
            windows,
            ..
        } = &*self.load;
        let index = usize::from(core.index().0);
        let region = Region::of_job(options, *units, index);
        let unit_blocks = (options.bs / u64::from(*block_bytes)) as u32;
        let workload = Workload::new(options, region, unit_blocks, index);
        let backend = CoreBackend::new(*block_bytes, options.qd, core.tag(0));
        let watch = GapWatch::new(Arc::clone(windows), index, backend.now());
        let data = (self.data)(&self.load);
        let mut job = Job::new(backend, data, workload, Arc::clone(shared), options);
        job.watch_gaps(watch);
        job
    }

    /// A turn of the job: it issues, what it issued is submitted, and it collects what has ended. False when it is over.
    fn turn(&mut self, core: &mut Core<'_>) -> Result<bool, String> {
        let device = self.load.device;
        let Some(job) = &mut self.job else {
            return Ok(false);
        };
        if !job.step()? {
            return Ok(false);
        }
        let CoreBackend { issued, done, .. } = job.backend_mut();
        for io in issued.drain(..) {
            let command = io.tag.command;
            if let Some(status) = core.submit(device, io) {
                done.push(measure::done(command, status));
            }
        }
        job.step()
    }

    fn end(&mut self, outcome: Result<(), String>) {
        self.over = true;
        if outcome.is_err() {
            self.load.shared.stop.store(true, Ordering::Relaxed);
        }
        // A job that hangs keeps what its I/O points to, until its reactor has ended.
        let result = outcome.map(|()| {
            let job = self.job.take().expect("it has begun");
            let (mut result, data) = job.finish();
            (self.conclude)(&mut result, data);
            result
        });
        // There is room for every queue's; whoever waits for them may have given up.
        let _ = self.load.results.try_send(result);
    }
}

impl<D: Data + 'static> FrontEnd for Queue<D> {
    fn poll(&mut self, core: &mut Core<'_>) -> bool {
        if self.over || !self.load.go.load(Ordering::Acquire) {
            return !self.over;
        }
        if self.job.is_none() {
            self.job = Some(self.begin(core));
        }
        match self.turn(core) {
            Ok(true) => {}
            Ok(false) => self.end(Ok(())),
            Err(error) => self.end(Err(error)),
        }
        true
    }

    fn completed(&mut self, done: &[(u32, Status)], _: &mut Core<'_>) {
        if let Some(job) = &mut self.job {
            let ended = done
                .iter()
                .map(|&(command, status)| measure::done(command, status));
            job.backend_mut().done.extend(ended);
        }
    }

    fn ready(&mut self, _: u32, _: Readiness, _: &mut Core<'_>) {}

    fn timer(&mut self, _: u32, _: &mut Core<'_>) {}

    fn message(&mut self, _: Box<dyn Any + Send>, _: &mut Core<'_>) {}

    fn device_changed(&mut self, _: DeviceId, _: &mut Core<'_>) {}

    fn before_sleep(&mut self, _: &mut Core<'_>) -> bool {
        self.over
    }

    fn stop(&mut self, _: &mut Core<'_>) {
        self.load.shared.stop.store(true, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.over
    }
}

/// What a job issues to its reactor, and what that has answered.
struct CoreBackend {
    block_bytes: u32,
    /// The front end's; the command is filled in.
    tag: Tag,
    buffers: BufferPool,
    commands: Vec<Command>,
    /// Not submitted yet.
    issued: Vec<Io<Payload>>,
    /// Not collected yet.
    done: Vec<Done>,
}

impl CoreBackend {
    fn new(block_bytes: u32, depth: usize, tag: Tag) -> CoreBackend {
        CoreBackend {
            block_bytes,
            tag,
            buffers: BufferPool::new(depth * BUFFER_BYTES_MAX),
            commands: (0..depth).map(|_| Command::default()).collect(),
            issued: Vec::with_capacity(depth),
            done: Vec::with_capacity(depth),
        }
    }
}

impl Backend for CoreBackend {
    type Seat = std::convert::Infallible;

    fn open(seat: Self::Seat) -> Result<CoreBackend, String> {
        match seat {}
    }

    #[inline]
    fn submit<D: Data>(&mut self, requests: &[Request], data: &mut D) -> Result<usize, String> {
        for request in requests {
            let length = request.block_count * self.block_bytes;
            let command = &mut self.commands[usize::from(request.tag)];
            command.request = *request;
            let payload = command.payload(length, &self.buffers, data)?;
            self.issued.push(Io {
                tag: Tag {
                    command: u32::from(request.tag),
                    ..self.tag
                },
                op: measure::op(request.kind),
                fua: false,
                sector: request.lba * u64::from(self.block_bytes / 512),
                sectors: length / 512,
                payload,
            });
        }
        Ok(requests.len())
    }

    #[inline]
    fn poll<D: Data>(&mut self, out: &mut [Done], data: &mut D) -> Result<usize, String> {
        let count = self.done.len();
        for (ended, out) in self.done.drain(..).zip(out) {
            self.commands[usize::from(ended.tag)].ended(ended.error == 0, data);
            *out = ended;
        }
        Ok(count)
    }

    fn now(&self) -> u64 {
        monotonic_ns()
    }

    fn error_text(code: u32) -> String {
        measure::error_text(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::options::Pattern;
    use crate::config::parse;

    const PLAN: &str = "
reactors: { count: 2, poll: busy }
bdevs:
  - malloc: { name: ram0, size: 8MiB, block_size: 4096 }
devices:
  - { name: vol0, table: '0 16384 linear ram0 0' }
  - { name: lost, table: '0 16384 error' }
";

    fn run(device: &str, change: impl FnOnce(&mut Options)) -> Result<Measured, String> {
        let plan = parse("test", PLAN).unwrap();
        let target = format!("dm:test#{device}").parse().unwrap();
        let mut options = Options {
            time: Duration::from_millis(100),
            warmup: Duration::from_millis(5),
            swap_every: Some(Duration::from_millis(10)),
            ..Options::with_defaults(&target)
        };
        change(&mut options);
        Swapped::open(&plan, device).unwrap().run(&options)
    }

    /// Verified reads and writes from two reactors while the table is swapped: no error, nothing lost, a gap for each swap and each
    /// moment without one.
    #[test]
    fn swaps_under_verified_load() {
        // On a machine that gives the thread which swaps no turn in that time, longer.
        let (report, swaps) = (0..8)
            .find_map(|attempt| {
                let measured = run("vol0", |options| {
                    options.time *= 1 << attempt;
                    options.rw = Pattern::RandRw;
                    options.verify = true;
                });
                let report = measured.unwrap().report;
                assert!(report.is_clean(), "{report:?}");
                let swaps = report.swaps.unwrap();
                assert!(swaps.count <= 10 << attempt, "{swaps:?}");
                let both = swaps.gap_us.p50 > 0.0 && swaps.idle_gap_us.p50 > 0.0;
                both.then_some((report, swaps))
            })
            .expect("a swap, and a moment without one, in 12.8 s");
        assert_eq!(report.workload.jobs, 2);
        assert!(swaps.gap_us.max >= swaps.queue_gap_us.max, "{swaps:?}");
        assert!(report.text().contains("swaps, one every 10 ms"));
    }

    #[test]
    fn failed_ios_are_counted() {
        let report = run("lost", |_| {}).unwrap().report;
        assert!(report.errors.count > 0);
        assert_eq!(report.errors.kinds[0].error, "IoError");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let error = run("vol0", |options| options.bs = 100).unwrap_err();
        assert!(error.contains("--bs 100"), "{error}");
        let plan = parse("test", PLAN).unwrap();
        let error = Swapped::open(&plan, "vol9").err().unwrap().to_string();
        assert!(error.contains("no device 'vol9'"), "{error}");
    }
}
