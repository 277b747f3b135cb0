//! How an original ends on its core: answered, parked again, or as a step that the home core waits for.

use super::defect::Defect;
use super::env::Env;
use super::io::{DeviceId, Io, Op};
use super::mapper::{FREEZE, INTERNAL, Mapper, Stage, acknowledge, send_home};
use super::message::{Epoch, Event, StepEnd};
use super::status::Status;
use super::timers::Timer;

impl<E: Env> Mapper<E> {
    /// The last clone of an original has ended.
    #[inline(never)]
    pub(super) fn finish(&mut self, env: &mut E, slot: u32) {
        self.conclude(env, slot, self.originals[slot].status);
    }

    /// The same, in line for the most frequent I/O, whose status is known: gives the slot and the in-flight count back, then completes (IO-25).
    #[inline(always)]
    pub(super) fn conclude(&mut self, env: &mut E, slot: u32, status: Status) {
        let original = &self.originals[slot];
        let (id, started_ns) = (original.device, original.started_ns);
        let Io {
            tag, op, sectors, ..
        } = original.io;
        if original.for_home || original.handed_back {
            return self.finish_specially(env, slot);
        }
        self.originals.discard(slot);
        let latency_ns = env.now_ns().saturating_sub(started_ns);
        let left = u32::from(env.planted(Defect::DrainedEarly));
        let device = self.known(id);
        device.flow.stats.of(op).done(sectors, status, latency_ns);
        if device.leave(left) {
            self.drained(env, id);
        }
        self.answer(env, tag, status);
    }

    /// The end of an original that was handed back, or that the home core waits for.
    #[cold]
    fn finish_specially(&mut self, env: &mut E, slot: u32) {
        let original = &mut self.originals[slot];
        let (id, tag, status) = (original.device, original.io.tag, original.status);
        // FL-6: of a flush, "not supported" outranks a push-back, which outranks everything else.
        let requeue = original.handed_back
            && !(original.io.op == Op::Flush && status == Status::NotSupported);
        let (repeat_ns, for_home) = (original.repeat_ns, original.for_home);
        original.handed_back = false;
        let noflush = self.known(id).noflush;
        let end = match requeue {
            false => StepEnd::Done(status),
            true if noflush || repeat_ns > 0 => StepEnd::Requeue {
                delay_ns: repeat_ns,
            },
            // Nobody allowed it: no suspend, one with flush, or one that was given up (IO-16).
            true => StepEnd::Done(Status::IoError),
        };
        match (tag.client, end) {
            (INTERNAL, _) => {
                self.originals.discard(slot);
                self.leave(env, id);
                // By message, so that sequences that follow one another never nest, however many wait (AT-28).
                send_home(env, id, Event::FlushDone(end));
            }
            (FREEZE, _) => {
                self.originals.discard(slot);
                self.leave(env, id);
                let status = match end {
                    StepEnd::Done(status) => status,
                    StepEnd::Requeue { .. } => Status::IoError,
                };
                let epoch = Epoch(tag.command);
                send_home(env, id, Event::FreezeDone { epoch, status });
            }
            _ if for_home => self.data_step_ended(env, slot, end),
            (_, StepEnd::Requeue { .. }) => self.push_back(env, slot),
            (_, StepEnd::Done(status)) => {
                self.originals[slot].status = status;
                self.finish(env, slot);
            }
        }
    }

    /// Puts an original on the push-back ring, and only then counts it out: whoever sees the core drained finds it there (IO-18).
    fn push_back(&mut self, env: &mut E, slot: u32) {
        let original = &mut self.originals[slot];
        original.begin_again(Stage::Parked);
        original.parked_ns = env.now_ns();
        let id = original.device;
        if env.planted(Defect::PushedBackLate) {
            self.leave(env, id);
            return self.timers.arm(env.now_ns() + 1, Timer::PushBack(slot));
        }
        self.list_pushed_back(slot);
        self.leave(env, id);
    }

    pub(super) fn list_pushed_back(&mut self, slot: u32) {
        let id = self.originals[slot].device;
        let Some(Some(device)) = self.devices.get_mut(id.0 as usize) else {
            unreachable!("a device outlives its originals")
        };
        device.pushed_back.push(&mut self.originals, slot);
        device.flow.stats.pushed_back += 1;
        self.limit_parked(id);
    }

    /// The front end is answered when the whole sequence has ended (FL-7); until then the slot is the original's.
    #[cold]
    fn data_step_ended(&mut self, env: &mut E, slot: u32, end: StepEnd) {
        let original = &mut self.originals[slot];
        original.for_home = false;
        original.begin_again(Stage::Sequenced);
        let id = original.device;
        self.known(id).sequenced += 1;
        self.leave(env, id);
        send_home(env, id, Event::DataDone(end));
    }

    /// Counts one original out, and tells the home core if that was what it waited for (IO-18, PM-2).
    fn leave(&mut self, env: &mut E, id: DeviceId) {
        let left = u32::from(env.planted(Defect::DrainedEarly));
        if self.known(id).leave(left) {
            self.drained(env, id);
        }
    }

    /// The last original that a round waits for is out.
    #[cold]
    pub(super) fn drained(&mut self, env: &mut E, id: DeviceId) {
        let core = self.core;
        if let Some(epoch) = self.known(id).flow.lane.drain(None) {
            acknowledge(env, core, id, epoch, Ok(()));
        }
    }
}
