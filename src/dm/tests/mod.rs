//! The mapper as a whole, on several cores, against what the semantics say. Tests are named by the ids they show.

mod acceptance;
mod atomic;
mod delay;
mod ebs;
mod exchange;
mod exclusive;
mod flakey;
mod flush;
mod fuzz;
mod lifecycle;
mod mapping;
mod multipath;
mod oracle;
mod ordered;
mod parked_limit;
mod power_cut;
mod stacked;
mod suspend;

use super::io::Op;
use super::message::{Request, SuspendOptions};
use crate::sim::{Bytes, Cluster, Seen};

/// The clones that lower devices took since the last look: (device, operation, force-unit-access).
fn clones(cluster: &Cluster) -> Vec<(usize, Op, bool)> {
    let submitted = |seen| match seen {
        Seen::Submitted { disk, op, fua, .. } => Some((disk, op, fua)),
        _ => None,
    };
    cluster.seen().into_iter().filter_map(submitted).collect()
}

/// The originals completed since the last look, in order.
fn completed(cluster: &Cluster) -> Vec<u32> {
    let completed = |seen| match seen {
        Seen::Completed { command, .. } => Some(command),
        _ => None,
    };
    cluster.seen().into_iter().filter_map(completed).collect()
}

/// Runs `test` for seeds 0 to `count`, or for the one that `POLLDM_SEED` names; a failure tells its seed.
fn for_seeds(count: u64, test: impl Fn(u64)) {
    let only = std::env::var("POLLDM_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seeds = only.map_or(0..count, |seed| seed..seed + 1);
    for seed in seeds {
        let guard = Told(seed);
        test(seed);
        Bytes::take_all();
        std::mem::forget(guard);
    }
}

/// Dropped only while a test unwinds.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        eprintln!("replay with POLLDM_SEED={}", self.0);
    }
}

/// A suspend with flush and nothing else.
const SUSPEND: Request = Request::Suspend(SuspendOptions {
    noflush: false,
    lockfs: false,
    timeout_ns: None,
});

/// A resume of a device that hosts hold.
const RESUME: Request = Request::Resume {
    open: true,
    suspend: SuspendOptions {
        noflush: false,
        lockfs: false,
        timeout_ns: None,
    },
};
