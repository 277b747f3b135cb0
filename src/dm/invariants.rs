//! What must hold of a mapper between any two calls, for whoever drives it step by step.

use super::env::Env;
use super::mapper::{Mapper, Stage};
use super::message::Gate;

impl<E: Env> Mapper<E> {
    /// Panics if a count does not agree with what it counts, or if something is parked behind an open gate. Looks at every
    /// slot: for the simulator and for tests, not for the I/O path.
    pub fn assert_invariants(&self) {
        let (mut parked, mut sequenced, mut started) = (0, 0, 0);
        for (_, original) in self.originals.iter() {
            match original.stage {
                Stage::Parked => parked += 1,
                Stage::Sequenced => sequenced += 1,
                Stage::Data | Stage::Compare | Stage::PostFlush | Stage::FanOut => started += 1,
            }
        }
        let (mut deferred, mut waiting, mut in_flight, mut held) = (0, 0, 0, 0);
        for device in self.devices.iter().flatten() {
            let held_up = device.deferred.len() == 0 || device.gate != 0;
            assert!(held_up, "an original is parked behind an open gate");
            let held_up = device.older.len() == 0 || device.gate & !(Gate::OwnSequence as u8) != 0;
            assert!(held_up, "a pushed back original waits for nothing");
            let allowed = device.pushed_back.len() == 0 || device.noflush;
            assert!(
                allowed,
                "an original is pushed back without a noflush suspend (IO-16)"
            );
            let suspending = device
                .live
                .as_ref()
                .is_none_or(|live| live.is_presuspended());
            assert!(
                suspending || !device.noflush,
                "the noflush flag is up, and no suspend is under way (SU-4)"
            );
            deferred += device.deferred.len() + device.older.len() + device.pushed_back.len();
            held += device.held;
            waiting += device.sequenced;
            in_flight += device.flow.in_flight;
        }
        assert_eq!(deferred, parked, "the deferred lists and what is parked");
        assert_eq!(waiting, sequenced, "what waits for a sequence");
        let pieces = self.pieces.iter();
        let kept = pieces.filter(|(_, piece)| piece.held_until_ns.is_some());
        assert_eq!(held as usize, kept.count(), "what targets hold");
        assert_eq!(
            in_flight, started,
            "the in-flight counts and what is in flight (AT-50)"
        );
    }

    /// Panics if anything is left: an original, a clone, a count, a drain that was not answered.
    pub fn assert_idle(&self) {
        assert_eq!(self.originals.used(), 0, "an original is left");
        assert_eq!(self.pieces.used(), 0, "a clone is left");
        assert_eq!(self.private.used(), 0, "a private buffer is left");
        assert_eq!(self.busy(), 0, "a busy clone is left");
        assert!(self.ended_below.is_empty(), "an end that nobody was told");
        for device in self.devices.iter().flatten() {
            assert_eq!(device.flow.under_way(), 0, "in flight");
            assert_eq!(device.sequenced, 0, "waiting for a sequence");
            let lists = [&device.deferred, &device.older, &device.pushed_back];
            assert!(lists.iter().all(|list| list.len() == 0), "parked");
            assert_eq!(device.held, 0, "held by a target");
            assert!(!device.flow.lane.is_draining(), "draining");
        }
    }
}
