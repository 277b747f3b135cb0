//! Defects that the simulator must find, and within how many seeds: a checker that has gone blind shows here.

use super::explore::{Summary, explore};
use super::run::Conduct;
use crate::dm::Defect;

/// Seeds, from 0, within which every planted defect is found. Most need fewer than ten.
pub const SEEDS_MAX: u64 = 10_000;

/// Looks for a planted defect; what was found, or that it was not.
pub fn look_for(defect: Defect, threads: usize) -> Summary {
    let conduct = Conduct {
        defect: Some(defect),
        ..Conduct::default()
    };
    explore(0..SEEDS_MAX, &conduct, threads, |_| {})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each defect that can be planted is found within its bound: a checker that has gone blind shows here.
    #[test]
    fn every_planted_defect_is_found() {
        for defect in Defect::ALL {
            let summary = look_for(*defect, 2);
            assert!(
                summary.failure.is_some(),
                "'{}' was not found in {SEEDS_MAX} seeds",
                defect.name()
            );
        }
    }
}
