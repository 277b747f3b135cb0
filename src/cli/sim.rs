//! `polldm sim`: is there an order of events in which the mapper does something wrong?

use clap::Args;

use super::{Failure, NoSocket, print};
use crate::sim::run::Conduct;
use crate::sim::{explore, plan::Plan, shrink};

/// Simulate
#[derive(Debug, Args)]
pub(super) struct Sim {
    /// How many seeds
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first
    #[arg(long, default_value_t = 0)]
    first_seed: u64,
    #[command(flatten)]
    _no_socket: NoSocket,
}

/// Runs it.
pub(super) fn run(sim: &Sim) -> Result<(), Failure> {
    let conduct = Conduct::default();
    let summary = explore(
        sim.first_seed..sim.first_seed + sim.seeds,
        &conduct,
        2,
        |_| {},
    );
    let mut text = format!(
        "{} schedules in {:?}: {:.0}/s, {} steps, {} originals\n",
        summary.schedules,
        summary.elapsed,
        summary.schedules as f64 / summary.elapsed.as_secs_f64(),
        summary.tally.steps,
        summary.tally.originals
    );
    if let Some(failure) = summary.failure {
        let plan = Plan::new(failure.seed);
        let shrunk = shrink(&plan, &conduct, &failure);
        text += &format!(
            "seed {}: {}\n{}\n{}\n{:?} after {}\n",
            failure.seed,
            failure.reason,
            shrunk.lines.join("\n"),
            shrunk.failure.reason,
            shrunk.conduct,
            shrunk.attempts
        );
    }
    print(&text)
}
