//! A shorter way to the same failure: fewer cores, fewer actions, another schedule.

use std::sync::Arc;

use super::explore::{Failure, attempt, attempt_traced};
use super::plan::Plan;
use super::run::Conduct;

/// Runs that shrinking may take: seconds, and enough that more hardly shorten anything.
const ATTEMPTS_MAX: u64 = 10_000;
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
    let mut shrinking = Shrinking {
        kind: kind(&failure.reason),
        conduct: conduct.clone(),
        attempts: 0,
        plan: Arc::new(plan.clone()),
    };
    shrinking.fewer_cores();
    shrinking.fewer_actions();
    shrinking.fewer_steps(failure)
}

struct Shrinking {
    plan: Arc<Plan>,
    kind: String,
    /// The shortest so far.
    conduct: Conduct,
    attempts: u64,
}

impl Shrinking {
    /// Whether the failure is also seen this way, which is then the shortest so far.
    fn fails(&mut self, conduct: &Conduct) -> bool {
        if self.attempts >= ATTEMPTS_MAX {
            return false;
        }
        self.attempts += 1;
        let same = |failure: Failure| kind(&failure.reason) == self.kind;
        let fails = attempt(&self.plan, conduct).is_err_and(same);
        if fails {
            self.conduct = conduct.clone();
        }
        fails
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
        let most = self.conduct.cores.unwrap_or(self.plan.cores);
        for cores in 1..most {
            let conduct = Conduct {
                cores: Some(cores),
                ..self.conduct.clone()
            };
            if self.fails_somehow(&conduct) {
                return;
            }
        }
    }

    /// Leaves out ever smaller runs of actions, until none can be spared.
    fn fewer_actions(&mut self) {
        let all = (0..self.plan.actions.len()).collect();
        let mut kept: Vec<usize> = self.conduct.only.clone().unwrap_or(all);
        let mut length = kept.len() / 2;
        while length > 0 {
            let mut from = 0;
            let mut any = false;
            while from < kept.len() {
                let to = (from + length).min(kept.len());
                let only = [&kept[..from], &kept[to..]].concat();
                let conduct = Conduct {
                    only: Some(only.clone()),
                    ..self.conduct.clone()
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

    /// The schedule that takes the fewest steps, with its trace.
    fn fewer_steps(mut self, failure: &Failure) -> Shrunk {
        let conduct = self.conduct.clone();
        let mut shortest: Option<Shrunk> = None;
        let others = (0..SCHEDULES_LAST).map(Some);
        for schedule in std::iter::once(conduct.schedule).chain(others) {
            let conduct = Conduct {
                schedule,
                ..conduct.clone()
            };
            self.attempts += 1;
            let (result, lines) = attempt_traced(&self.plan, &conduct);
            let shorter = shortest
                .as_ref()
                .is_none_or(|known| lines.len() < known.lines.len());
            if let Err(failure) = result
                && shorter
                && kind(&failure.reason) == self.kind
            {
                shortest = Some(Shrunk {
                    conduct,
                    failure,
                    lines,
                    attempts: 0,
                });
            }
        }
        let shortest = shortest.unwrap_or_else(|| Shrunk {
            conduct,
            failure: failure.clone(),
            lines: Vec::new(),
            attempts: 0,
        });
        Shrunk {
            attempts: self.attempts,
            ..shortest
        }
    }
}

/// What kind of failure a reason tells of: its first words, up to the colon behind which the particulars stand, without numbers.
fn kind(reason: &str) -> String {
    let words = reason
        .strip_prefix("assertion `left == right` failed: ")
        .unwrap_or(reason);
    let words = words.lines().next().unwrap_or_default();
    let words = words.split(':').next().unwrap_or_default();
    words.chars().filter(|c| !c.is_ascii_digit()).collect()
}
