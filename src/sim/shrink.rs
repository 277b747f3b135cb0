//! A shorter way to the same failure: fewer cores, fewer actions, another schedule.

use std::sync::Arc;

use super::explore::{Failure, attempt_traced};
use super::plan::Plan;
use super::run::Conduct;

/// Runs that shrinking may take: a second or two, and enough that more hardly shorten anything.
const ATTEMPTS_MAX: u64 = 3_000;
/// Schedules tried for each way of leaving something out: what is left out also shifts when the rest happens.
const SCHEDULES_EACH: u64 = 12;
/// Schedules tried at the end, for the one that takes the fewest steps.
const SCHEDULES_LAST: u64 = 200;

/// A failure made short.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// How to see it again.
    pub conduct: Conduct,
    /// What was found.
    pub failure: Failure,
    /// What happened, line by line.
    pub lines: Vec<String>,
    /// Runs that it took.
    pub attempts: u64,
}

/// Shortens a failure as far as it can. What is found in the end is of the same kind as what was found first.
pub fn shrink(plan: &Plan, conduct: &Conduct, failure: &Failure) -> Shrunk {
    let plan = Arc::new(plan.clone());
    let (result, lines) = attempt_traced(&plan, conduct);
    let mut shrinking = Shrinking {
        kind: kind(&failure.reason),
        best: Shrunk {
            conduct: conduct.clone(),
            failure: result.err().unwrap_or_else(|| failure.clone()),
            lines,
            attempts: 1,
        },
        plan,
    };
    shrinking.fewer_cores();
    shrinking.fewer_actions();
    shrinking.fewer_steps();
    shrinking.best
}

struct Shrinking {
    plan: Arc<Plan>,
    kind: String,
    best: Shrunk,
}

impl Shrinking {
    /// Whether the failure is also seen this way, which is then the best so far.
    fn fails(&mut self, conduct: &Conduct) -> bool {
        if self.best.attempts >= ATTEMPTS_MAX {
            return false;
        }
        self.best.attempts += 1;
        let (Err(failure), lines) = attempt_traced(&self.plan, conduct) else {
            return false;
        };
        if kind(&failure.reason) != self.kind {
            return false;
        }
        let attempts = self.best.attempts;
        self.best = Shrunk {
            conduct: conduct.clone(),
            failure,
            lines,
            attempts,
        };
        true
    }

    /// The same, on any of several schedules: the present one first.
    fn fails_somehow(&mut self, conduct: &Conduct) -> bool {
        self.fails(conduct)
            || (0..SCHEDULES_EACH).any(|schedule| {
                self.fails(&Conduct {
                    schedule: Some(schedule),
                    ..conduct.clone()
                })
            })
    }

    fn fewer_cores(&mut self) {
        let most = self.best.conduct.cores.unwrap_or(self.plan.cores);
        for cores in 1..most {
            let conduct = Conduct {
                cores: Some(cores),
                ..self.best.conduct.clone()
            };
            if self.fails_somehow(&conduct) {
                return;
            }
        }
    }

    /// Leaves out ever smaller runs of actions, until none can be spared.
    fn fewer_actions(&mut self) {
        let all = (0..self.plan.actions.len()).collect();
        let mut kept: Vec<usize> = self.best.conduct.only.clone().unwrap_or(all);
        let mut length = kept.len() / 2;
        while length > 0 {
            let mut from = 0;
            let mut any = false;
            while from < kept.len() {
                let to = (from + length).min(kept.len());
                let only = [&kept[..from], &kept[to..]].concat();
                let conduct = Conduct {
                    only: Some(only.clone()),
                    ..self.best.conduct.clone()
                };
                if self.fails_somehow(&conduct) {
                    kept = only;
                    any = true;
                } else {
                    from = to;
                }
            }
            // As long as single actions can be spared, others may become spare.
            if !any || length > 1 {
                length /= 2;
            }
        }
    }

    fn fewer_steps(&mut self) {
        let best = self.best.clone();
        let mut shortest = best.clone();
        for schedule in 0..SCHEDULES_LAST {
            let conduct = Conduct {
                schedule: Some(schedule),
                ..best.conduct.clone()
            };
            if self.fails(&conduct) && self.best.lines.len() < shortest.lines.len() {
                shortest = self.best.clone();
            }
        }
        let attempts = self.best.attempts;
        self.best = Shrunk {
            attempts,
            ..shortest
        };
    }
}

/// What kind of failure a reason tells of: its words, without the numbers.
fn kind(reason: &str) -> String {
    let line = reason.lines().next().unwrap_or_default();
    line.chars()
        .filter(|c| !c.is_ascii_digit())
        .take(60)
        .collect()
}
