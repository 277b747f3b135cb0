//! The mapper as a whole, on several cores, against what the semantics say. Tests are named by the ids they show.

mod exclusive;
mod flush;
mod fuzz;
mod lifecycle;
mod mapping;
mod oracle;
mod ordered;
mod power_cut;
mod suspend;

use super::io::Op;
use super::testing::{Cluster, Seen};

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
