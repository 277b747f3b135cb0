//! A device of a configuration of the SPDK engine under the load generator, on SPDK's reactors: a queue on each, whose I/O goes through SPDK's
//! bdev layer as that of its targets does. Any bdev of SPDK's that the configuration makes can be measured in the same way, for comparison.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use crossbeam_channel::{Sender, bounded};

use super::{Node, spdk};
use crate::bdev::SpdkSpec;
use crate::bench::job::{Job, JobResult, Shared};
use crate::bench::pattern::VerifyData;
use crate::bench::workload::{Region, Workload};
use crate::bench::{Backend, Data, Done, Geometry, Kind, Measured, NoData, Options, Request};
use crate::config::{BdevKind, Error, Plan};
use crate::reactor::monotonic_ns;
use crate::spdk::{Act, Host, World};

/// The largest I/O of a load, in bytes.
const TRANSFER_BYTES_MAX: u64 = 1 << 20;

/// Most I/Os outstanding per queue.
const DEPTH_MAX: usize = 4096;

/// What a [`Done`] says of an I/O that failed.
const FAILED: u32 = 1;

/// A running engine, whose bdevs are measured.
pub struct Loaded {
    node: Node,
    world: Arc<World>,
}

impl Loaded {
    /// Starts the bdevs and devices of a plan, without its exports.
    ///
    /// # Errors
    /// What could not be opened, at its place in the configuration.
    pub fn open(plan: &Plan) -> Result<Loaded, Error> {
        let plan = Plan {
            nvmf: None,
            iscsi: None,
            ..plan.clone()
        };
        let (node, world) = spdk::start(&plan)?;
        Ok(Loaded { node, world })
    }

    /// Runs the load on a bdev, by its name in SPDK ([`in_spdk`]), with one queue on each reactor.
    ///
    /// # Errors
    /// A sentence for the user: an option that does not fit, a target that hangs.
    pub fn run(&self, bdev: &str, options: &Options) -> Result<Measured, String> {
        let started = SystemTime::now();
        let mut options = options.clone();
        options.jobs = self.world.reactors();
        let geometry = self.geometry(bdev)?;
        let load = Load {
            bdev: bdev.to_owned(),
            units: options.fit(&geometry)?,
            block_bytes: geometry.block_size,
            shared: Arc::default(),
            options,
        };
        let results = match load.options.verify {
            true => self.run_queues(
                &load,
                |load| VerifyData::new(load.options.seed, load.block_bytes),
                |result, data| result.verify = Some(data),
            ),
            false => self.run_queues(&load, |_| NoData, |_, NoData| {}),
        };
        Ok(Measured::new::<HostBackend>(
            &load.options,
            results?,
            None,
            started,
        ))
    }

    fn geometry(&self, bdev: &str) -> Result<Geometry, String> {
        let name = bdev.to_owned();
        let host = self.world.on_app_thread(move || {
            Host::open(&name, 0, 0).map(|host| (host.block_bytes(), host.blocks()))
        });
        let (block_size, block_count) = host.ok_or("SPDK has ended")??;
        Ok(Geometry {
            block_size,
            block_count,
            transfer_size_max: Some(TRANSFER_BYTES_MAX),
            depth_max: DEPTH_MAX,
            jobs_max: usize::from(u16::MAX),
        })
    }

    fn run_queues<D: Data + 'static>(
        &self,
        load: &Load,
        data: fn(&Load) -> D,
        conclude: fn(&mut JobResult, D),
    ) -> Result<Vec<JobResult>, String> {
        let (sender, results) = bounded(load.options.jobs);
        let own = load.clone();
        self.world.on_reactors(move |index| {
            let mut queue = Some(Queue::begin(&own, index, data, sender.clone()));
            Box::new(move || {
                let goes_on = queue.as_mut().is_some_and(Queue::turn);
                if !goes_on && let Some(queue) = queue.take() {
                    queue.end(conclude);
                }
                goes_on
            })
        })?;
        (0..load.options.jobs)
            .map(|_| {
                results
                    .recv()
                    .unwrap_or_else(|_| Err("a reactor ended before its queue".into()))
            })
            .collect()
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // Its queues are over, or hang; either way nobody waits for it any more.
        let _ = self.node.stop();
    }
}

/// The name in SPDK of a device of a plan, or of a bdev.
///
/// # Errors
/// That there is no such device.
pub fn in_spdk(plan: &Plan, name: &str) -> Result<String, Error> {
    if let Some(bdev) = plan.bdev(name) {
        return Ok(match &bdev.kind {
            BdevKind::Spdk(SpdkSpec::Nvme { nsid, .. }) => format!("{name}n{nsid}"),
            BdevKind::NvmeTcp(remote) => format!("{name}n{}", remote.nsid),
            BdevKind::Spdk(SpdkSpec::Json { bdev, .. }) => bdev.clone(),
            _ => name.to_owned(),
        });
    }
    super::measure::device_of(plan, name).map(|device| device.name.value.clone())
}

/// What all queues have in common.
#[derive(Clone)]
struct Load {
    bdev: String,
    options: Options,
    units: u64,
    block_bytes: u32,
    shared: Arc<Shared>,
}

/// One reactor's queue of the load generator.
struct Queue<D> {
    job: Result<Job<HostBackend, D>, String>,
    shared: Arc<Shared>,
    results: Sender<Result<JobResult, String>>,
}

impl<D: Data> Queue<D> {
    fn begin(
        load: &Load,
        index: usize,
        data: fn(&Load) -> D,
        results: Sender<Result<JobResult, String>>,
    ) -> Queue<D> {
        let options = &load.options;
        let region = Region::of_job(options, load.units, index);
        let unit_blocks = (options.bs / u64::from(load.block_bytes)) as u32;
        let workload = Workload::new(options, region, unit_blocks, index);
        let host = Host::open(&load.bdev, options.qd as u16, options.bs as usize);
        let job = host.map(|host| {
            let backend = HostBackend {
                requests: vec![EMPTY; options.qd],
                host,
            };
            Job::new(
                backend,
                data(load),
                workload,
                Arc::clone(&load.shared),
                options,
            )
        });
        Queue {
            job,
            shared: Arc::clone(&load.shared),
            results,
        }
    }

    /// False when it is over.
    fn turn(&mut self) -> bool {
        let Ok(job) = &mut self.job else { return false };
        match job.step() {
            Ok(goes_on) => goes_on,
            Err(error) => {
                // What its I/O points to is kept until the process has ended.
                std::mem::forget(std::mem::replace(&mut self.job, Err(error)));
                false
            }
        }
    }

    fn end(self, conclude: fn(&mut JobResult, D)) {
        if self.job.is_err() {
            self.shared.stop.store(true, Ordering::Relaxed);
        }
        let result = self.job.map(|job| {
            let (mut result, data) = job.finish();
            conclude(&mut result, data);
            result
        });
        // There is room for every queue's; whoever waits for them may have given up.
        let _ = self.results.try_send(result);
    }
}

const EMPTY: Request = Request {
    lba: 0,
    block_count: 0,
    generation: 0,
    tag: 0,
    kind: Kind::Read,
};

/// A job's way to a bdev.
struct HostBackend {
    host: Host,
    /// By tag.
    requests: Vec<Request>,
}

impl Backend for HostBackend {
    type Seat = std::convert::Infallible;

    fn open(seat: Self::Seat) -> Result<HostBackend, String> {
        match seat {}
    }

    #[inline]
    fn submit<D: Data>(&mut self, requests: &[Request], data: &mut D) -> Result<usize, String> {
        for (taken, request) in requests.iter().enumerate() {
            let act = match request.kind {
                Kind::Read => Act::Read,
                Kind::Write => Act::Write,
                Kind::Flush => Act::Flush,
            };
            if D::NEEDED {
                self.requests[usize::from(request.tag)] = *request;
                if request.kind == Kind::Write {
                    let bytes = (request.block_count * self.host.block_bytes()) as usize;
                    data.fill(request, 0, &mut self.host.memory(request.tag)[..bytes]);
                }
            }
            let (lba, count) = (request.lba, request.block_count);
            if !self.host.submit(request.tag, act, lba, count)? {
                return Ok(taken);
            }
        }
        Ok(requests.len())
    }

    #[inline]
    fn poll<D: Data>(&mut self, done: &mut [Done], data: &mut D) -> Result<usize, String> {
        let mut count = 0;
        self.host.ended(&mut |tag, well| {
            done[count] = Done {
                tag,
                error: if well { 0 } else { FAILED },
            };
            count += 1;
        });
        if D::NEEDED {
            for ended in done[..count].iter().filter(|ended| ended.error == 0) {
                let request = self.requests[usize::from(ended.tag)];
                if request.kind == Kind::Read {
                    let bytes = (request.block_count * self.host.block_bytes()) as usize;
                    data.check(&request, 0, &self.host.memory(ended.tag)[..bytes]);
                }
            }
        }
        Ok(count)
    }

    fn now(&self) -> u64 {
        monotonic_ns()
    }

    fn error_text(_: u32) -> String {
        "I/O error".into()
    }
}
