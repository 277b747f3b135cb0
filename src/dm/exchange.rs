//! Another live table in one step, or nothing: load, suspend, swap and resume as one request, undone as a whole (1.2, 1.4).
//!
//! ```text
//! Stage ─ all could ─ [suspend, if it runs] ─ Exchange ─ all could be resumed ─ Resume ─ [Clear] ─ done
//!   │ refused               │ given up            │ refused
//!   └─────── Unstage ───────┴── Undo              └─ Revert ─ [Preresume ─ Resume, if it ran] ─ refused
//! ```
//!
//! The new table never enters the inactive slot: it is exchanged for the live one from where it was staged, so whatever was loaded
//! before is still loaded when the swap fails. When it succeeds, the slot is emptied, as a load and a resume would have left it
//! (LC-13). Whether hosts can follow is decided before anything is suspended (LC-16): while the request runs, nothing else
//! changes the live table.

use std::sync::Arc;

use super::device::{Home, Phase, Then};
use super::env::Env;
use super::error::{Errno, Error};
use super::message::{Answer, Order, Reply, SuspendOptions, Ticket};
use super::table::{Limits, Table};

/// A swap in one step, on its way.
#[derive(Debug)]
pub(super) struct Exchange {
    table: Arc<Table>,
    limits: Arc<Limits>,
    suspend: SuspendOptions,
    /// The device was suspended before: that is how a failure leaves it.
    was_suspended: bool,
    /// Whoever asked does not want it any more.
    pub given_up: bool,
}

impl Home {
    pub(super) fn start_exchange<E: Env>(
        &mut self,
        env: &mut E,
        table: Arc<Table>,
        open: bool,
        suspend: SuspendOptions,
        ticket: Ticket,
    ) -> Option<Answer> {
        if let Err(error) = self.may_replace(&table) {
            return Some(Err(error));
        }
        let limits = match self.agreed_limits(env, &table, open) {
            Ok(limits) => limits,
            Err(reason) => return Some(Err(Error::new(Errno::Einval, reason))),
        };
        let staged = table.clone();
        self.exchange = Some(Exchange {
            table,
            limits,
            suspend,
            was_suspended: self.suspended,
            given_up: false,
        });
        self.begin_round(env, Phase::StagingExchange, ticket, || {
            Order::Stage(staged.clone())
        });
        None
    }

    /// The device is suspended, and every core has the table staged.
    pub(super) fn exchange_tables<E: Env>(&mut self, env: &mut E, ticket: Ticket) {
        let limits = self.exchanging().limits.clone();
        self.begin_round(env, Phase::Exchanging, ticket, || {
            Order::Exchange(limits.clone())
        });
    }

    /// Every core has acknowledged a round of an exchange: the answer, if that was the last one.
    pub(super) fn exchange_round_done<E: Env>(
        &mut self,
        env: &mut E,
        phase: Phase,
        refusal: Option<String>,
        ticket: Ticket,
    ) -> Option<Answer> {
        match (phase, refusal) {
            (Phase::StagingExchange, Some(reason)) => {
                self.unstage(env, Error::new(Errno::Enxio, reason), ticket);
            }
            (Phase::StagingExchange, None) => {
                let Exchange {
                    suspend,
                    was_suspended,
                    given_up,
                    ..
                } = *self.exchanging();
                match (given_up, was_suspended) {
                    (true, _) => {
                        let reason = "whoever asked has given it up";
                        self.unstage(env, Error::new(Errno::Eintr, reason), ticket);
                    }
                    (_, true) => self.exchange_tables(env, ticket),
                    (_, false) => self.suspend(env, Then::Exchange, suspend, ticket),
                }
            }
            (Phase::Exchanging, None) => {
                let Exchange { table, limits, .. } = self.exchanging();
                let (table, limits) = (table.clone(), limits.clone());
                env.limits_are(self.id, &limits);
                (self.live, self.limits) = (Some(table), Some(limits));
                env.happened();
                self.let_run(env, Phase::Resuming, ticket);
            }
            (Phase::Exchanging, Some(reason)) => {
                let reason = format!("{reason}. The table before is live again");
                let error = Error::new(Errno::Eagain, reason);
                self.begin_round(env, Phase::Reverting(error), ticket, || Order::Revert);
            }
            (Phase::Reverting(error), _) if self.exchanging().was_suspended => {
                self.forget_exchange(env);
                return Some(Err(error));
            }
            (Phase::Reverting(error), _) => {
                self.begin_round(env, Phase::PreresumingOld(error), ticket, || {
                    Order::Preresume
                });
            }
            (Phase::PreresumingOld(error), None) => {
                self.let_run(env, Phase::ResumingOld(error), ticket);
            }
            (Phase::PreresumingOld(mut error), Some(reason)) => {
                self.forget_exchange(env);
                error.reason.push_str(&format!(
                    ", but cannot be resumed either: {reason}. The device is suspended"
                ));
                return Some(Err(error));
            }
            (Phase::ResumingOld(error), _) => {
                self.forget_exchange(env);
                self.suspended = false;
                return Some(Err(error));
            }
            (phase, _) => unreachable!("{phase:?} has no round of an exchange"),
        }
        None
    }

    /// The device runs on the new table. The answer, unless the inactive slot has to be emptied first.
    pub(super) fn exchanged<E: Env>(&mut self, env: &mut E, ticket: Ticket) -> Option<Answer> {
        self.exchange = None;
        if self.inactive.is_none() {
            return Some(Ok(Reply::Done));
        }
        self.begin_round(env, Phase::Clearing, ticket, || Order::Clear);
        None
    }

    /// Nothing has been touched yet: closes the new table again.
    fn unstage<E: Env>(&mut self, env: &mut E, error: Error, ticket: Ticket) {
        self.forget_exchange(env);
        self.begin_round(env, Phase::Unstaging(error), ticket, || Order::Unstage);
    }

    /// The exchange has failed: what the device can do stays what it was.
    pub(super) fn forget_exchange<E: Env>(&mut self, env: &mut E) {
        self.exchange = None;
        if let Some(limits) = &self.limits {
            env.limits_are(self.id, limits);
        }
    }

    fn exchanging(&self) -> &Exchange {
        self.exchange
            .as_ref()
            .expect("kept until the request is answered")
    }
}
