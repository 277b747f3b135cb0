//! Suspend, resume and swap of one device, on its home core (sections 4 and 1.4).
//!
//! ```text
//! suspend  Presuspend ─ [Freeze] ─ [running sequence step ends] ─ Close ─ all drained ─ Postsuspend ─ suspended
//!               └───────────┴──────── cancel, time-out ────────────┴── Undo ─ running
//! resume   Preresume ─ all could ─ Resume
//! swap     [suspend, if it runs] Swap ─ all could be resumed ─ Resume      (else Retire: the new table is live, still suspended)
//! ```
//!
//! Until the Postsuspend orders are sent a suspend can be given up, in every phase; each core then undoes its part before it opens
//! its gate (SU-8). After that it has succeeded, whatever a late cancel says (R2).

use std::sync::Arc;

use super::device::{Home, Phase, Then};
use super::env::Env;
use super::error::{Errno, Error};
use super::mapper::home;
use super::message::{Answer, Epoch, Gate, Order, Reply, SuspendOptions, Ticket};
use super::status::Status;
use super::table::{Limits, Table};
use super::timers::HomeTimer;

/// What an internal suspend asks for (LC-26).
const INTERNAL: SuspendOptions = SuspendOptions {
    noflush: true,
    lockfs: false,
    timeout_ns: None,
};

impl Home {
    pub(super) fn start_suspend<E: Env>(
        &mut self,
        env: &mut E,
        options: SuspendOptions,
        ticket: Ticket,
    ) -> Option<Answer> {
        // LC-4: suspending what is suspended is a success that does nothing.
        if self.suspended {
            return Some(Ok(Reply::Done));
        }
        self.suspend(env, Then::Suspend, options, ticket);
        None
    }

    pub(super) fn start_internal_suspend<E: Env>(
        &mut self,
        env: &mut E,
        ticket: Ticket,
    ) -> Option<Answer> {
        if self.is_suspended() {
            self.internal += 1;
            return Some(Ok(Reply::Done));
        }
        self.suspend(env, Then::SuspendInternally, INTERNAL, ticket);
        None
    }

    pub(super) fn start_internal_resume<E: Env>(
        &mut self,
        env: &mut E,
        ticket: Ticket,
    ) -> Option<Answer> {
        if self.internal == 0 {
            let reason = "the device is not suspended internally";
            return Some(Err(Error::new(Errno::Einval, reason)));
        }
        self.internal -= 1;
        if self.is_suspended() {
            return Some(Ok(Reply::Done));
        }
        self.begin_round(env, Phase::Preresuming, ticket, || Order::Preresume);
        None
    }

    pub(super) fn start_resume<E: Env>(
        &mut self,
        env: &mut E,
        open: bool,
        suspend: SuspendOptions,
        ticket: Ticket,
    ) -> Option<Answer> {
        if self.inactive.is_some() {
            match self.suspended {
                true => self.swap(env, open, ticket),
                false => self.suspend(env, Then::Swap { open }, suspend, ticket),
            }
        } else if !self.suspended {
            return Some(Ok(Reply::Done));
        } else if self.live.is_none() {
            let reason = "there is no table to resume: load one first";
            return Some(Err(Error::new(Errno::Einval, reason)));
        } else {
            self.begin_round(env, Phase::Preresuming, ticket, || Order::Preresume);
        }
        None
    }

    pub(super) fn start_unsuspend<E: Env>(
        &mut self,
        env: &mut E,
        ticket: Ticket,
    ) -> Option<Answer> {
        if !self.suspended {
            return Some(Ok(Reply::Done));
        }
        self.begin_round(env, Phase::Preresuming, ticket, || Order::Preresume);
        None
    }

    /// Refuses a table that those above the device could not do with when it became live. They may be others by then, so this is
    /// asked again; but it is better said now than when the device is suspended.
    pub(super) fn check_with_those_above<E: Env>(
        &mut self,
        env: &mut E,
        new: &Table,
    ) -> Result<(), Error> {
        let Some(old) = self.limits.clone() else {
            return Ok(());
        };
        let agreed = self.agreed_limits(env, new, false);
        env.limits_are(self.id, &old);
        match agreed {
            Ok(_) => Ok(()),
            Err(reason) => Err(Error::new(Errno::Einval, reason)),
        }
    }

    /// What the device will be able to do when `new` is live, agreed upon with those above; [`Env::limits_are`] is to follow.
    ///
    /// # Errors
    /// Why hosts, or those above, could not follow (LC-16).
    pub(super) fn agreed_limits<E: Env>(
        &self,
        env: &mut E,
        new: &Table,
        open: bool,
    ) -> Result<Arc<Limits>, String> {
        let limits = limits_after(self.limits.as_deref(), new, open)?;
        // Nothing can be above a device that has never had a table.
        if self.limits.is_some() {
            env.limits_may_become(self.id, &limits)?;
        }
        Ok(limits)
    }

    /// LC-18: the targets are suspended, not the hosts' I/O: nobody holds the device.
    pub(super) fn start_remove<E: Env>(&mut self, env: &mut E, ticket: Ticket) {
        match self.is_suspended() {
            true => self.detach(env, ticket),
            false => self.suspend(env, Then::Remove, SuspendOptions::default(), ticket),
        }
    }

    pub(super) fn suspend<E: Env>(
        &mut self,
        env: &mut E,
        then: Then,
        options: SuspendOptions,
        ticket: Ticket,
    ) {
        self.held = Some(options);
        let noflush = options.noflush;
        let epoch = self.next_epoch();
        self.broadcast(env, epoch, || Order::Presuspend { noflush });
        if let Some(timeout_ns) = options.timeout_ns {
            self.arm(timeout_ns, HomeTimer::SuspendTimeout(epoch));
        }
        self.suspend_epoch = epoch;
        // noflush overrides lockfs: what a freeze writes would be pushed back and never return (4.1 step 3).
        if options.lockfs && !noflush && self.live.is_some() {
            self.running = Some((Phase::Freezing(then), ticket));
            let core = home(self.id, env.cores());
            return self.send(env, core, epoch, Order::Freeze);
        }
        self.hold(env, then, ticket);
    }

    /// The flush of a freeze has ended.
    pub(super) fn frozen<E: Env>(&mut self, env: &mut E, epoch: Epoch, status: Status) {
        if epoch != self.suspend_epoch {
            return;
        }
        match self.running.take() {
            Some((Phase::Freezing(then), ticket)) if status.is_ok() => self.hold(env, then, ticket),
            Some((Phase::Freezing(_), ticket)) => {
                let reason = format!(
                    "the device could not be flushed before its suspension ({status:?}); \
                     ask for nolockfs or noflush if that does not matter"
                );
                self.undo(env, Error::new(Errno::Eio, reason), ticket);
            }
            other => self.running = other,
        }
    }

    /// Waits for the coordinator, then closes the gates.
    fn hold<E: Env>(&mut self, env: &mut E, then: Then, ticket: Ticket) {
        self.running = Some((Phase::Holding(then), ticket));
        if !self.sequence_in_step(env) {
            self.sequence_stopped(env);
        }
    }

    /// The coordinator has come to rest, as a suspend asked.
    pub(super) fn sequence_stopped<E: Env>(&mut self, env: &mut E) {
        match self.running.take() {
            Some((Phase::Holding(then), ticket)) => {
                self.begin_round(env, Phase::Closing(then), ticket, || {
                    Order::Close(Gate::Suspend)
                });
            }
            other => self.running = other,
        }
    }

    /// Gives up the suspend that is under way (PM-11): in any phase before its success was decided.
    ///
    /// # Errors
    /// EINVAL when there is none.
    pub(super) fn cancel<E: Env>(&mut self, env: &mut E, why: Error) -> Answer {
        match self.running.take() {
            Some((Phase::Freezing(then) | Phase::Holding(then) | Phase::Closing(then), ticket))
                if !matches!(then, Then::Remove | Then::SuspendInternally) =>
            {
                self.undo(env, why, ticket);
                Ok(Reply::Done)
            }
            other => {
                self.running = other;
                let reason = "there is no suspend under way that could be cancelled";
                Err(Error::new(Errno::Einval, reason))
            }
        }
    }

    pub(super) fn suspend_timed_out<E: Env>(&mut self, env: &mut E, epoch: Epoch) {
        if epoch == self.suspend_epoch {
            let reason = "I/O was still in flight when the time was up; the device runs on";
            // A suspend that has ended meanwhile has nothing to cancel.
            let _ = self.cancel(env, Error::new(Errno::Etimedout, reason));
        }
    }

    fn undo<E: Env>(&mut self, env: &mut E, why: Error, ticket: Ticket) {
        self.held = None;
        self.begin_round(env, Phase::Undoing(why), ticket, || Order::Undo);
        // After the orders to undo, so that targets are what they were when a step runs through them.
        self.sequence_release(env);
    }

    /// Step 3 of 1.4: the limits of the new table decide whether it may stand in for the old one.
    fn swap<E: Env>(&mut self, env: &mut E, open: bool, ticket: Ticket) {
        let new = self.inactive.as_ref().expect("only called with one");
        match self.agreed_limits(env, new, open) {
            Ok(limits) => {
                let phase = Phase::Swapping(limits.clone());
                self.begin_round(env, phase, ticket, || Order::Swap(limits.clone()));
            }
            Err(why) => {
                let reason = format!(
                    "{why}. The new table was destroyed; the device is suspended on the live one"
                );
                let error = Error::new(Errno::Einval, reason);
                self.begin_round(env, Phase::Rejecting(error), ticket, || Order::Clear);
            }
        }
    }

    /// Lets targets and I/O run. A sequence that was interrupted goes on before anything that was parked, because its gates are
    /// still closed (PM-21); one that had not begun its first step begins anew, behind what was pushed back.
    fn resume<E: Env>(&mut self, env: &mut E, ticket: Ticket) {
        self.let_run(env, Phase::Resuming, ticket);
    }

    /// The same, in a phase of the caller's.
    pub(super) fn let_run<E: Env>(&mut self, env: &mut E, phase: Phase, ticket: Ticket) {
        self.held = None;
        self.begin_round(env, phase, ticket, || Order::Resume);
        self.sequence_release(env);
    }

    fn detach<E: Env>(&mut self, env: &mut E, ticket: Ticket) {
        self.sequence_drop();
        self.begin_round(env, Phase::Detaching, ticket, || Order::Detach);
    }

    /// Every core has acknowledged a round of a suspend or resume: the answer, if that was the last one.
    pub(super) fn suspend_round_done<E: Env>(
        &mut self,
        env: &mut E,
        phase: Phase,
        refusal: Option<String>,
        ticket: Ticket,
    ) -> Option<Answer> {
        let refused = |reason: String| Error::new(Errno::Eagain, reason);
        match phase {
            Phase::Closing(Then::Remove) => self.detach(env, ticket),
            Phase::Closing(then) => {
                // Before the hooks, so that targets and messages see a suspended device (4.1 step 9).
                match then {
                    Then::SuspendInternally => self.internal = 1,
                    _ => self.suspended = true,
                }
                self.begin_round(env, Phase::Postsuspending(then), ticket, || {
                    Order::Postsuspend
                });
            }
            Phase::Postsuspending(Then::Swap { open }) => self.swap(env, open, ticket),
            Phase::Postsuspending(Then::Exchange) => self.exchange_tables(env, ticket),
            Phase::Postsuspending(_) => return Some(Ok(Reply::Done)),
            Phase::Undoing(why) if self.exchange.is_some() => {
                self.forget_exchange(env);
                self.begin_round(env, Phase::Unstaging(why), ticket, || Order::Unstage);
            }
            Phase::Undoing(why) => return Some(Err(why)),
            Phase::Rejecting(error) => {
                self.inactive = None;
                return Some(Err(error));
            }
            Phase::Swapping(limits) => {
                self.live = self.inactive.take();
                env.limits_are(self.id, &limits);
                self.limits = Some(limits);
                env.happened();
                match refusal {
                    None => self.resume(env, ticket),
                    Some(reason) => {
                        let phase = Phase::Retiring(refused(format!(
                            "{reason}. The new table is live; the device is suspended"
                        )));
                        self.begin_round(env, phase, ticket, || Order::Retire);
                    }
                }
            }
            Phase::Preresuming => match refusal {
                None => self.resume(env, ticket),
                Some(reason) => {
                    // After an internal suspend that leaves the device suspended by the operator (LC-26).
                    self.suspended = true;
                    return Some(Err(refused(format!("{reason}. The device is suspended"))));
                }
            },
            Phase::Retiring(error) => return Some(Err(error)),
            Phase::Resuming => {
                self.suspended = false;
                if self.exchange.is_some() {
                    return self.exchanged(env, ticket);
                }
                return Some(Ok(Reply::Done));
            }
            phase => return self.exchange_round_done(env, phase, refusal, ticket),
        }
        None
    }
}

/// The limits of a device whose table `new` replaces one that left it with `old`. A table without lower devices keeps the old
/// ones, so that `error` may stand in for any table and hosts see the same device (1.4 step 3, LC-12).
///
/// # Errors
/// Why the hosts of a device that is `open` could not follow (LC-16).
fn limits_after(old: Option<&Limits>, new: &Table, open: bool) -> Result<Arc<Limits>, String> {
    let own = &new.limits;
    let Some(old) = old else {
        return Ok(own.clone());
    };
    let (block, sectors) = (old.block_bytes, own.sectors);
    if new.lowers.is_empty() && sectors.is_multiple_of(u64::from(old.block_sectors())) {
        return Ok(Arc::new(Limits {
            sectors,
            // Whether it takes writes is the table's own affair (1.4, step 4).
            read_only: own.read_only,
            // As it is which writes it would leave whole.
            atomic_writes: old.atomic_writes.and(own.atomic_writes),
            ..old.clone()
        }));
    }
    if open && new.lowers.is_empty() {
        return Err(format!(
            "the new table has {sectors} sectors, which are not whole blocks of the {block} bytes that hosts know"
        ));
    }
    if open && own.block_bytes != block {
        return Err(format!(
            "the new table has blocks of {} bytes and the live one of {block}; hosts that use the device cannot follow that",
            own.block_bytes
        ));
    }
    Ok(own.clone())
}
