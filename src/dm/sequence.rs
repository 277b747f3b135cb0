//! The coordinator: I/O that needs the device to itself, one sequence at a time, on the device's home core.
//!
//! An ordered flush is the 2009 sequence (3.1, 3.2) by messages; a compare-and-write takes the same way without the flushes.
//!
//! ```text
//!        close gates        all drained     flush done      data done       flush done
//! Idle ──────────▶ Closing ──────────▶ PreFlush ────▶ Data ────▶ PostFlush ────▶ finish
//!                                        (each step only if the sequence has it)   │
//!   ▲        open gates, when nothing waits or SEQUENCES_IN_ROW_MAX have run       │
//!   └──────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A suspend holds the coordinator: the step that runs ends, the position is kept in `paused`, and resume goes on from there
//! on the new table, before anything that was parked (PM-21). A sequence whose gates were only closing begins anew instead, after a
//! suspend that was given up too: what came before it may just have been pushed back, and must still come before it.
//!
//! A step that ends in REQUEUE is repeated as a whole and alone (FL-11, FL-12): at once after a resume if a noflush suspend pushed it
//! back, otherwise after the delay that its target asked for.

use std::collections::VecDeque;

use super::defect::Defect;
use super::device::{Home, Round};
use super::env::Env;
use super::mapper::home;
use super::message::{Epoch, Gate, Order, StepEnd, Steps, Waiting};
use super::status::Status;
use super::timers::HomeTimer;

/// Sequences that may follow one another before the gates open for ordinary I/O (PM-19): enough that a burst of flushes
/// from many queues is served in one closing, few enough that readers wait for at most this many.
const SEQUENCES_IN_ROW_MAX: u32 = 8;

/// The sequences of one device.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    waiting: VecDeque<Waiting>,
    /// What the running sequence serves: one original, or several empty flushes that came before it began (FL-30).
    serving: Vec<Waiting>,
    step: Step,
    /// Where a hold stopped the running sequence.
    paused: Option<Step>,
    /// The running step waits to be repeated.
    repeating: bool,
    /// How the running sequence has gone so far.
    status: Option<Status>,
    in_row: u32,
    pub round: Round,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Idle,
    Closing,
    PreFlush,
    Data,
    PostFlush,
    Finish,
}

impl Steps {
    /// The step after `step`; `Closing` for the first.
    fn after(self, step: Step) -> Step {
        match (self, step) {
            (Steps::Flush | Steps::FlushDataFlush, Step::Closing) => Step::PreFlush,
            (Steps::Data, Step::Closing) | (Steps::FlushDataFlush, Step::PreFlush) => Step::Data,
            (Steps::FlushDataFlush, Step::Data) => Step::PostFlush,
            _ => Step::Finish,
        }
    }
}

impl Home {
    /// An original asks for its sequence.
    pub(super) fn sequence_wanted<E: Env>(&mut self, env: &mut E, waiting: Waiting) {
        self.sequences.waiting.push_back(waiting);
        self.sequence_begin(env);
    }

    /// Begins with what waits, if nothing runs and nobody holds the coordinator.
    pub(super) fn sequence_begin<E: Env>(&mut self, env: &mut E) {
        let sequences = &mut self.sequences;
        let held = self.held.is_some() && !env.planted(Defect::SequenceWhileHeld);
        if held || sequences.step != Step::Idle || sequences.waiting.is_empty() {
            return;
        }
        sequences.step = Step::Closing;
        sequences.in_row = 0;
        let epoch = self.next_epoch();
        self.sequences.round.begin(epoch, env.cores());
        self.broadcast(env, epoch, || Order::Close(Gate::Sequence));
    }

    /// Every core has closed its gate and drained.
    pub(super) fn sequence_drained<E: Env>(&mut self, env: &mut E) {
        if self.held.is_some() {
            return self.sequence_rest(env);
        }
        self.sequence_take();
        self.sequence_go_on(env, Step::Closing);
    }

    /// The running step ended.
    pub(super) fn sequence_step_done<E: Env>(&mut self, env: &mut E, end: StepEnd) {
        let step = self.sequences.step;
        assert!(
            matches!(step, Step::PreFlush | Step::Data | Step::PostFlush),
            "no step runs in {step:?}"
        );
        match (end, self.held) {
            (StepEnd::Done(Status::Ok), _) => self.sequence_go_on(env, step),
            _ if step == Step::PreFlush && env.planted(Defect::PreFlushErrorIgnored) => {
                self.sequence_go_on(env, step);
            }
            (StepEnd::Done(status), _) => self.sequence_fail(env, status),
            (StepEnd::Requeue { .. }, Some(held)) if held.noflush => {
                let data = step == Step::PostFlush && env.planted(Defect::DataRepeated);
                self.sequences.paused = Some(if data { Step::Data } else { step });
                self.sequence_stopped(env);
            }
            // A suspend with flush leaves nothing to be repeated (section 9, item 13).
            (StepEnd::Requeue { .. }, Some(_)) => self.sequence_fail(env, Status::IoError),
            (StepEnd::Requeue { delay_ns }, None) => {
                self.sequences.repeating = true;
                let epoch = self.sequences.round.epoch();
                self.arm(delay_ns, HomeTimer::RepeatStep(epoch));
            }
        }
    }

    /// The time to repeat a step has come.
    pub(super) fn sequence_repeat<E: Env>(&mut self, env: &mut E, epoch: Epoch) {
        if epoch == self.sequences.round.epoch() && std::mem::take(&mut self.sequences.repeating) {
            let step = self.sequences.step;
            self.sequence_run(env, step);
        }
    }

    /// Nothing after a failed step: data is not written over a cache that could not be flushed (FL-27, OQ-6).
    fn sequence_fail<E: Env>(&mut self, env: &mut E, status: Status) {
        self.sequences.status = Some(status);
        self.sequence_run(env, Step::Finish);
    }

    /// Lets the coordinator go on after a hold: with the interrupted sequence first.
    pub(super) fn sequence_release<E: Env>(&mut self, env: &mut E) {
        match self.sequences.paused.take() {
            Some(step) => self.sequence_run(env, step),
            // The suspend that was given up may have had pushed back what the drain waited for: it has been counted out, and is
            // not done. So it goes first, and the gates close behind it anew.
            None if self.sequences.step == Step::Closing
                && !env.planted(Defect::DrainNotRepeated) =>
            {
                self.sequences.step = Step::Idle;
                let epoch = self.next_epoch();
                self.broadcast(env, epoch, || Order::Open(Gate::Sequence));
                self.sequence_begin(env);
            }
            None => self.sequence_begin(env),
        }
    }

    /// Whether a step runs that a suspend has to wait for. One that only waits to be repeated does not.
    pub(super) fn sequence_in_step<E: Env>(&mut self, env: &mut E) -> bool {
        if std::mem::take(&mut self.sequences.repeating) {
            self.sequence_step_done(env, StepEnd::Requeue { delay_ns: 0 });
        }
        self.sequences.step != Step::Idle && self.sequences.paused.is_none()
    }

    /// Forgets everything: the device goes, and the cores abort what waits there.
    pub(super) fn sequence_drop(&mut self) {
        self.sequences = Sequences::default();
    }

    /// Takes the next original, and with an empty flush all empty flushes that wait right behind it (FL-30).
    fn sequence_take(&mut self) {
        let Sequences {
            waiting,
            serving,
            status,
            ..
        } = &mut self.sequences;
        serving.clear();
        *status = None;
        while let Some(next) = waiting.front() {
            let merges = next.steps == Steps::Flush
                && serving.iter().all(|first| first.steps == Steps::Flush);
            if !serving.is_empty() && !merges {
                break;
            }
            serving.extend(waiting.pop_front());
        }
    }

    fn sequence_go_on<E: Env>(&mut self, env: &mut E, ended: Step) {
        let mut next = self.sequences.serving[0].steps.after(ended);
        if next == Step::PostFlush && env.planted(Defect::PostFlushSkipped) {
            next = Step::Finish;
        }
        if self.held.is_some() && next != Step::Finish {
            self.sequences.paused = Some(next);
            return self.sequence_stopped(env);
        }
        self.sequence_run(env, next);
    }

    fn sequence_run<E: Env>(&mut self, env: &mut E, step: Step) {
        self.sequences.step = step;
        if step == Step::PostFlush && env.planted(Defect::GateOpenedEarly) {
            self.broadcast(env, self.sequences.round.epoch(), || {
                Order::Open(Gate::Sequence)
            });
        }
        match step {
            Step::PreFlush | Step::PostFlush => {
                // This core issues it: a flush covers the device, whichever core sends it (PM-17).
                let core = home(self.id, env.cores());
                self.send(env, core, self.sequences.round.epoch(), Order::Flush);
            }
            Step::Data => {
                let Waiting { core, original, .. } = self.sequences.serving[0];
                let epoch = self.sequences.round.epoch();
                self.send(env, core, epoch, Order::RunData { original });
            }
            Step::Finish => self.sequence_finish(env),
            Step::Idle | Step::Closing => unreachable!("{step:?} is not run"),
        }
    }

    fn sequence_finish<E: Env>(&mut self, env: &mut E) {
        let epoch = self.sequences.round.epoch();
        let status = self.sequences.status.unwrap_or(Status::Ok);
        for Waiting { core, original, .. } in &self.sequences.serving {
            let original = *original;
            self.send(env, *core, epoch, Order::Finish { original, status });
        }
        self.sequences.serving.clear();
        self.sequences.in_row += 1;
        let more =
            !self.sequences.waiting.is_empty() && self.sequences.in_row < SEQUENCES_IN_ROW_MAX;
        if more && self.held.is_none() {
            self.sequence_take();
            return self.sequence_go_on(env, Step::Closing);
        }
        self.sequence_rest(env);
    }

    /// Comes to rest and opens the gates; goes on with what waits unless a suspend holds the coordinator.
    fn sequence_rest<E: Env>(&mut self, env: &mut E) {
        self.sequences.step = Step::Idle;
        if self.held.is_some() {
            // The suspend closes its own gate before this one opens, so nothing slips through in between.
            self.sequence_stopped(env);
        }
        let epoch = self.next_epoch();
        self.broadcast(env, epoch, || Order::Open(Gate::Sequence));
        self.sequence_begin(env);
    }
}
