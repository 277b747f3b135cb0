//! I/O that waits and is given up: by its host (PM-13), by an operator (OQ-9), with its device (LC-21), or because it has
//! waited for as long as it may.

use super::defect::Defect;
use super::env::Env;
use super::io::{DeviceId, Tag};
use super::mapper::{Mapper, Original, STACKED, Stage, send_home};
use super::message::{Event, Gate};
use super::status::Status;
use super::timers::Timer;

impl<E: Env> Mapper<E> {
    /// Completes a parked original with [`Status::Aborted`], if `tag` names one on this core (PM-13): one that a closed gate
    /// holds up, that waits for its sequence, or whose clones a target holds. False when it is not parked: it will complete by
    /// itself.
    pub fn abort(&mut self, env: &mut E, id: DeviceId, tag: Tag) -> bool {
        let named = |original: &Original<E::Payload>| {
            (original.device, original.io.tag) == (id, tag) && !original.aborted
        };
        let slot = self
            .originals
            .iter()
            .find_map(|(slot, original)| named(original).then_some(slot));
        slot.is_some_and(|slot| self.abort_slot(env, slot))
    }

    /// Aborts everything that waits of what this core's front ends have submitted to the device, oldest first: a reset (AT-78). How many
    /// of their originals are left: those are below and end by themselves. What a noflush suspend pushes back later waits again, so
    /// whoever waits for none to be left asks again.
    pub fn abort_all(&mut self, env: &mut E, id: DeviceId) -> usize {
        let mut slots: Vec<(u64, u32)> = self
            .unanswered(id)
            .map(|(slot, original)| (original.arrival, slot))
            .collect();
        slots.sort_unstable();
        for (_, slot) in slots {
            self.abort_slot(env, slot);
        }
        let passing = self
            .device(id)
            .map_or(0, |device| device.flow.lane.passing());
        self.unanswered(id).count() + passing as usize
    }

    /// What front ends have submitted to the device, and have no answer to: neither the mapper's own flushes nor what the devices above
    /// it have sent.
    fn unanswered(&self, id: DeviceId) -> impl Iterator<Item = (u32, &Original<E::Payload>)> {
        let originals = self.originals.iter();
        originals.filter(move |(_, original)| {
            original.device == id && original.io.tag.client < STACKED && !original.aborted
        })
    }

    /// [`Mapper::abort`] of the original in a slot.
    fn abort_slot(&mut self, env: &mut E, slot: u32) -> bool {
        let original = &self.originals[slot];
        let (id, tag) = (original.device, original.io.tag);
        match original.stage {
            Stage::Parked if env.planted(Defect::AbortedStaysParked) => {
                env.complete(tag, Status::Aborted);
                true
            }
            Stage::Parked => {
                self.unlist(id, slot);
                self.originals.discard(slot);
                self.answer(env, tag, Status::Aborted);
                true
            }
            // Its sequence still takes its turn, without the data step: other originals may share it, and the gates are opened by
            // its end.
            Stage::Sequenced => {
                self.originals[slot].aborted = true;
                self.answer(env, tag, Status::Aborted);
                true
            }
            _ => {
                let below = self.abort_stacked(env, slot);
                self.abort_held(env, slot) || below
            }
        }
    }

    /// Completes what the suspended device has parked, oldest first.
    pub(super) fn fail_parked(&mut self, env: &mut E, id: DeviceId) {
        let count = self.end_parked(env, id, Status::IoError);
        send_home(env, id, Event::Failed(count));
        let device = self.known(id);
        (device.older, device.deferred) = Default::default();
        assert_eq!(device.pushed_back.len(), 0, "merged when the suspend ended");
    }

    /// Answers every original of the device that a gate holds up, or that waits for its sequence: the first give their slots back,
    /// the others keep theirs until the home core has named them once more. How many those were.
    pub(super) fn end_parked(&mut self, env: &mut E, id: DeviceId, status: Status) -> u32 {
        let mut slots = self.waiting(id, u64::MAX);
        slots.sort_unstable_by_key(|slot| self.originals[*slot].arrival);
        let count = slots.len() as u32;
        for slot in slots {
            self.end_parked_one(env, slot, status);
        }
        count
    }

    /// Answers one of these. Whoever calls takes it off the list that it is on.
    fn end_parked_one(&mut self, env: &mut E, slot: u32, status: Status) {
        let original = &mut self.originals[slot];
        let id = original.device;
        let (tag, op, sectors) = (original.io.tag, original.io.op, original.io.sectors);
        let latency_ns = env.now_ns().saturating_sub(original.started_ns);
        match original.stage {
            Stage::Sequenced => original.aborted = true,
            _ => self.originals.discard(slot),
        }
        let counters = self.known(id).flow.stats.of(op);
        counters.done(sectors, status, latency_ns);
        self.answer(env, tag, status);
    }

    /// The originals that a gate of the device holds up, or that wait for their sequence, and have not been answered: those that do
    /// so since `since_ns` or longer.
    fn waiting(&self, id: DeviceId, since_ns: u64) -> Vec<u32> {
        let waits = |original: &Original<E::Payload>| {
            original.device == id
                && original.parked_ns <= since_ns
                && match original.stage {
                    Stage::Parked => true,
                    Stage::Sequenced => !original.aborted,
                    _ => false,
                }
        };
        self.originals
            .iter()
            .filter_map(|(slot, original)| waits(original).then_some(slot))
            .collect()
    }

    /// Sees to it that what is parked while the device is suspended does not stay so for longer than it may: one timer per
    /// device and core, for the oldest, so that parking costs nothing more once it is armed.
    pub(super) fn limit_parked(&mut self, id: DeviceId) {
        let device = self.known(id);
        let Some(limit_ns) = device.parked_limit_ns else {
            return;
        };
        let suspended = device.gate & Gate::Suspend as u8 != 0;
        if !suspended || device.parked_due_ns.is_some() {
            return;
        }
        let waiting = self.waiting(id, u64::MAX).into_iter();
        let oldest = waiting.map(|slot| self.originals[slot].parked_ns).min();
        if let Some(parked_ns) = oldest {
            let due_ns = parked_ns.saturating_add(limit_ns);
            self.known(id).parked_due_ns = Some(due_ns);
            self.timers.arm(due_ns, Timer::Parked(id));
        }
    }

    /// The time of the oldest is up, unless it has gone on meanwhile: fails everything that has waited for too long.
    pub(super) fn expire_parked(&mut self, env: &mut E, id: DeviceId, due_ns: u64) {
        let now_ns = env.now_ns();
        let Some(device) = self.device_mut(id) else {
            return;
        };
        let (Some(limit_ns), true) = (device.parked_limit_ns, device.parked_due_ns == Some(due_ns))
        else {
            return;
        };
        device.parked_due_ns = None;
        if device.gate & Gate::Suspend as u8 == 0 {
            return;
        }
        let mut slots = self.waiting(id, now_ns.saturating_sub(limit_ns));
        slots.sort_unstable_by_key(|slot| self.originals[*slot].arrival);
        for slot in slots {
            self.unlist(id, slot);
            self.end_parked_one(env, slot, Status::Timeout);
        }
        self.limit_parked(id);
    }

    /// Takes a parked original off the list that it is on; one that waits for its sequence is on none.
    fn unlist(&mut self, id: DeviceId, slot: u32) {
        if self.originals[slot].stage != Stage::Parked {
            return;
        }
        let originals = &mut self.originals;
        let device = self.devices[id.0 as usize]
            .as_deref_mut()
            .expect("a device outlives its originals");
        let lists = [
            &mut device.pushed_back,
            &mut device.older,
            &mut device.deferred,
        ];
        let taken = lists.into_iter().any(|list| list.take(originals, slot));
        assert!(taken, "a parked original is on a list");
    }
}
