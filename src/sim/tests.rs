//! The simulator as a whole: it finds nothing in the mapper, the same thing twice, and a short way to what is wrong.

use std::sync::Arc;

use super::plan::Plan;
use super::run::Conduct;
use super::{attempt, explore, replay, shrink};
use crate::dm::Defect;

/// A few of the schedules that `tests/run` has a release build do by the ten thousand; each seed on 1 to 4 cores.
#[test]
fn nothing_is_found_in_the_mapper() {
    let summary = explore(0..400, &Conduct::default(), 2, |_| {});
    assert_eq!(summary.failure, None);
    assert_eq!(summary.schedules, 400);
}

#[test]
fn more_cores_than_hosts_do_no_harm() {
    let conduct = Conduct {
        cores: Some(9),
        ..Conduct::default()
    };
    assert_eq!(explore(0..40, &conduct, 2, |_| {}).failure, None);
}

/// A seed is the whole of what happens: however often, on whatever thread.
#[test]
fn the_same_seed_does_the_same() {
    for seed in 0..10 {
        let (first, lines) = replay(seed, &Conduct::default());
        let (second, again) = replay(seed, &Conduct::default());
        assert_eq!(first, second);
        assert!(lines == again, "seed {seed} took two ways");
        let untraced = attempt(&Arc::new(Plan::new(seed)), &Conduct::default());
        assert_eq!(first, untraced, "being watched changes seed {seed}");
    }
}

/// What is shortened fails in the same way, and with far less.
#[test]
fn a_failure_is_made_short_and_can_be_seen_again() {
    let conduct = Conduct {
        defect: Some(Defect::BusyForgotten),
        ..Conduct::default()
    };
    let failure = explore(0..100, &conduct, 2, |_| {})
        .failure
        .expect("planted");
    let plan = Plan::new(failure.seed);
    let shrunk = shrink(&plan, &conduct, &failure);
    let kept = shrunk
        .conduct
        .only
        .as_ref()
        .expect("something was left out");
    assert!(
        kept.len() * 4 <= plan.actions.len(),
        "{} of {} actions are left",
        kept.len(),
        plan.actions.len()
    );
    let (result, lines) = replay(failure.seed, &shrunk.conduct);
    assert_eq!(result, Err(shrunk.failure));
    assert_eq!(lines, shrunk.lines);
}

/// However threads take turns, it is the lowest seed that is told of.
#[test]
fn the_lowest_failing_seed_is_told() {
    let conduct = Conduct {
        defect: Some(Defect::SecondLegNotFlushed),
        ..Conduct::default()
    };
    let alone = explore(0..100, &conduct, 1, |_| {})
        .failure
        .expect("planted");
    let together = explore(0..100, &conduct, 4, |_| {})
        .failure
        .expect("planted");
    assert_eq!(alone, together);
}
