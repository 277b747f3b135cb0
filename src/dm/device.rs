//! The life-cycle of one device: the state machine on its home core.
//!
//! Operators' requests are served one after another; each is a few rounds of orders to all cores and their
//! acknowledgements. Questions (info, status, table), messages and the cancel of a suspend wait for nothing.
//!
//! ```text
//! create   Attach
//! load     Stage ─ all could ─ Commit        (else Unstage: an earlier inactive table stays, LC-15)
//! clear    Clear
//! remove   [as suspend] Detach
//! ```
//!
//! Suspend, resume and swap are in `suspend.rs`, the swap in one step in `exchange.rs`.

use std::collections::VecDeque;
use std::sync::Arc;

use super::defect::Defect;
use super::env::Env;
use super::error::{Errno, Error};
use super::exchange::Exchange;
use super::io::{CoreId, DeviceId};
use super::message::{
    Answer, Epoch, Event, Info, Message, Order, Reply, Request, SuspendOptions, TargetLine, Ticket,
};
use super::sequence::Sequences;
use super::table::{Limits, Table};
use super::timers::HomeTimer;

/// A device on its home core.
#[derive(Debug)]
pub(super) struct Home {
    pub id: DeviceId,
    /// The request that makes the device has begun; another one is refused.
    created: bool,
    ordered: bool,
    parked_limit_ns: Option<u64>,
    /// An operator has suspended it.
    pub suspended: bool,
    /// How many hold it suspended for other reasons (LC-26).
    pub internal: u32,
    pub live: Option<Arc<Table>>,
    pub inactive: Option<Arc<Table>>,
    /// What the live table can do, or what the one before it could (1.4, step 3).
    pub limits: Option<Arc<Limits>>,
    pub event_nr: u32,
    /// Who waits for another event number than the one they know.
    waiters: Vec<(u32, Ticket)>,
    /// Requests behind the running one, in order. Bounded by the control connections, each of which waits for its answer.
    requests: VecDeque<(Request, Ticket)>,
    pub running: Option<(Phase, Ticket)>,
    pub round: Round,
    epoch: Epoch,
    /// A suspend has begun, or is in force: no sequence step may begin.
    pub held: Option<SuspendOptions>,
    /// The suspend that `held` is about: late news of an earlier one is told apart by it.
    pub suspend_epoch: Epoch,
    pub sequences: Sequences,
    /// The swap in one step that is under way.
    pub exchange: Option<Exchange>,
    /// Timers to be armed when the event has been dealt with: how long from now, and what for.
    timers: Vec<(u64, HomeTimer)>,
}

/// Where the running request stands.
#[derive(Debug)]
pub(super) enum Phase {
    Attaching,
    Staging(Arc<Table>),
    Committing(Arc<Table>),
    Unstaging(Error),
    Clearing,
    /// Waits for the flush that makes everything durable before the gate closes (lockfs).
    Freezing(Then),
    /// Waits for the running sequence's step to end.
    Holding(Then),
    Closing(Then),
    Postsuspending(Then),
    /// The suspend was given up, for this reason.
    Undoing(Error),
    /// The new table cannot stand in for the old one: it is being destroyed, the device stays suspended (1.4, step 3).
    Rejecting(Error),
    Swapping(Arc<Limits>),
    Preresuming,
    /// The new table is live and could not be resumed: the old one is being destroyed, the device stays suspended (1.4, step 5).
    Retiring(Error),
    Resuming,
    /// The table of an exchange is being opened beside the others.
    StagingExchange,
    Exchanging,
    /// The exchange has failed, for this reason: the old table becomes the live one again.
    Reverting(Error),
    /// The targets of the old table are asked.
    PreresumingOld(Error),
    ResumingOld(Error),
    /// How many were failed so far.
    FailingParked(u64),
    Detaching,
}

/// What a suspension is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    Suspend,
    SuspendInternally,
    Swap { open: bool },
    Exchange,
    Remove,
}

/// Counts the acknowledgements of one round.
#[derive(Debug, Default)]
pub(super) struct Round {
    epoch: Epoch,
    left: u16,
    pub refusal: Option<String>,
}

impl Round {
    /// Begins a round of all cores.
    pub fn begin(&mut self, epoch: Epoch, cores: u16) {
        *self = Round {
            epoch,
            left: cores,
            refusal: None,
        };
    }

    /// The round's epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Takes in an acknowledgement; true if it was the round's last.
    fn acknowledged(&mut self, core: CoreId, epoch: Epoch, result: &Result<(), String>) -> bool {
        if epoch != self.epoch || self.left == 0 {
            return false;
        }
        if let Err(reason) = result {
            self.refusal
                .get_or_insert_with(|| format!("core {}: {reason}", core.0));
        }
        self.left -= 1;
        self.left == 0
    }
}

impl Home {
    /// A device that is about to be attached to all cores.
    pub fn new(id: DeviceId, ordered: bool, parked_limit_ns: Option<u64>) -> Home {
        Home {
            id,
            created: false,
            ordered,
            parked_limit_ns,
            suspended: false,
            internal: 0,
            live: None,
            inactive: None,
            limits: None,
            event_nr: 0,
            waiters: Vec::new(),
            requests: VecDeque::new(),
            running: None,
            round: Round::default(),
            epoch: Epoch::default(),
            held: None,
            suspend_epoch: Epoch::default(),
            sequences: Sequences::default(),
            exchange: None,
            timers: Vec::new(),
        }
    }

    /// Takes in what a core or an operator says. False when the device is gone and its state can be forgotten.
    pub fn event<E: Env>(&mut self, env: &mut E, event: Event) -> bool {
        match event {
            Event::Sequence(waiting) => self.sequence_wanted(env, waiting),
            Event::FlushDone(end) | Event::DataDone(end) => self.sequence_step_done(env, end),
            Event::FreezeDone { epoch, status } => self.frozen(env, epoch, status),
            // All copies are told, this core's too, in the same place among their orders: so they stay alike, whatever messages
            // and suspends are on their way.
            Event::Notice(seen) => {
                let epoch = self.next_epoch();
                self.broadcast(env, epoch, || Order::Notice(seen));
            }
            Event::Told => self.raise(env),
            Event::Failed(count) => {
                if let Some((Phase::FailingParked(sum), _)) = &mut self.running {
                    *sum += u64::from(count);
                }
            }
            Event::Ack {
                core,
                epoch,
                result,
            } => {
                let late = env.planted(Defect::LateAckAccepted);
                let round_epoch = if late { self.round.epoch() } else { epoch };
                if self.round.acknowledged(core, round_epoch, &result) {
                    return self.round_done(env);
                }
                if self.sequences.round.acknowledged(core, epoch, &result) {
                    self.sequence_drained(env);
                }
            }
            Event::Request(request, ticket) => match self.answer_at_once(env, &request, ticket) {
                Some(Some(answer)) => env.reply(ticket, answer),
                // Somebody else answers: the target, or the event that is waited for.
                Some(None) => {}
                None => {
                    self.requests.push_back((request, ticket));
                    self.next_request(env);
                }
            },
        }
        true
    }

    /// A timer that was asked for has come.
    pub fn timer<E: Env>(&mut self, env: &mut E, timer: HomeTimer) {
        match timer {
            HomeTimer::SuspendTimeout(epoch) => self.suspend_timed_out(env, epoch),
            HomeTimer::RepeatStep(epoch) => self.sequence_repeat(env, epoch),
        }
    }

    /// Has the mapper call [`Home::timer`] after `delay_ns`.
    pub fn arm(&mut self, delay_ns: u64, timer: HomeTimer) {
        self.timers.push((delay_ns, timer));
    }

    /// The timers asked for since the last call.
    pub fn armed(&mut self) -> impl Iterator<Item = (u64, HomeTimer)> {
        self.timers.drain(..)
    }

    /// Raises the event number and answers who waited for that (LC-24).
    pub fn raise<E: Env>(&mut self, env: &mut E) {
        self.event_nr = self.event_nr.wrapping_add(1);
        env.happened();
        let info = self.info();
        for (_, ticket) in self.waiters.drain(..) {
            env.reply(ticket, Ok(Reply::Info(info.clone())));
        }
    }

    /// No I/O passes, for whatever reason.
    pub fn is_suspended(&self) -> bool {
        self.suspended || self.internal > 0
    }

    /// An epoch that no earlier round of this device had.
    pub fn next_epoch(&mut self) -> Epoch {
        self.epoch.0 = self.epoch.0.wrapping_add(1);
        self.epoch
    }

    /// Sends an order to every core; this one gets it like the others, through its mailbox.
    pub fn broadcast<E: Env>(&self, env: &mut E, epoch: Epoch, order: impl Fn() -> Order) {
        for core in 0..env.cores() {
            self.send(env, CoreId(core), epoch, order());
        }
    }

    /// Sends an order to one core.
    pub fn send<E: Env>(&self, env: &mut E, core: CoreId, epoch: Epoch, order: Order) {
        let device = self.id;
        env.send(
            core,
            Message::Order {
                device,
                epoch,
                order,
            },
        );
    }

    /// Begins a round of the running request.
    pub fn begin_round<E: Env>(
        &mut self,
        env: &mut E,
        phase: Phase,
        ticket: Ticket,
        order: impl Fn() -> Order,
    ) {
        self.running = Some((phase, ticket));
        let epoch = self.next_epoch();
        self.round.begin(epoch, env.cores());
        self.broadcast(env, epoch, order);
    }

    /// Starts waiting requests until one takes a round. What an operator wants of a device that is suspended internally waits until
    /// that has ended (1.2, column I), and lets pass what does not.
    pub fn next_request<E: Env>(&mut self, env: &mut E) {
        while self.running.is_none() {
            let internal = self.internal > 0;
            let waits = |request: &Request| {
                internal
                    && matches!(
                        request,
                        Request::Suspend(_)
                            | Request::Resume { .. }
                            | Request::Unsuspend
                            | Request::Swap { .. }
                    )
            };
            let Some(index) = self.requests.iter().position(|(r, _)| !waits(r)) else {
                return;
            };
            let (request, ticket) = self.requests.remove(index).expect("found above");
            if let Some(answer) = self.start(env, request, ticket) {
                env.reply(ticket, answer);
            }
        }
    }

    /// Starts one request: the answer, or nothing while its round is under way.
    fn start<E: Env>(&mut self, env: &mut E, request: Request, ticket: Ticket) -> Option<Answer> {
        let done = Some(Ok(Reply::Done));
        match request {
            Request::Create { .. } if self.created => {
                let reason = "a device of this number exists";
                return Some(Err(Error::new(Errno::Ebusy, reason)));
            }
            Request::Create {
                ordered,
                parked_limit_ns,
            } => {
                self.created = true;
                self.begin_round(env, Phase::Attaching, ticket, || Order::Attach {
                    ordered,
                    parked_limit_ns,
                });
            }
            Request::Load(table) => {
                if let Err(error) = self.may_replace(&table) {
                    return Some(Err(error));
                }
                if let Err(error) = self.check_with_those_above(env, &table) {
                    return Some(Err(error));
                }
                let staged = table.clone();
                self.begin_round(env, Phase::Staging(table), ticket, || {
                    Order::Stage(staged.clone())
                });
            }
            Request::Clear if self.inactive.is_none() => return done,
            Request::Clear => self.begin_round(env, Phase::Clearing, ticket, || Order::Clear),
            Request::Suspend(options) => return self.start_suspend(env, options, ticket),
            Request::Resume { open, suspend } => {
                return self.start_resume(env, open, suspend, ticket);
            }
            Request::Unsuspend => return self.start_unsuspend(env, ticket),
            Request::Swap {
                table,
                open,
                suspend,
            } => return self.start_exchange(env, table, open, suspend, ticket),
            Request::SuspendInternally => return self.start_internal_suspend(env, ticket),
            Request::ResumeInternally => return self.start_internal_resume(env, ticket),
            Request::FailParked if !self.is_suspended() => {
                let reason =
                    "the device is not suspended, so nothing is parked for long; suspend it first";
                return Some(Err(Error::new(Errno::Einval, reason)));
            }
            Request::FailParked => {
                self.begin_round(env, Phase::FailingParked(0), ticket, || Order::FailParked);
            }
            Request::Remove => self.start_remove(env, ticket),
            Request::Renamed => {
                self.raise(env);
                return done;
            }
            Request::Info
            | Request::Status
            | Request::Table { .. }
            | Request::Message { .. }
            | Request::Wait { .. }
            | Request::GiveUp(_)
            | Request::Cancel => unreachable!("answered at once"),
        }
        None
    }

    /// LC-12: a table of an immutable type is replaced only by one of the same type, or by one with a wildcard.
    pub fn may_replace(&self, new: &Table) -> Result<(), Error> {
        let immutable = |table: &Table| {
            let first = &table.segments[0].target;
            first.class().immutable.then(|| first.name())
        };
        match self.live.as_deref().and_then(immutable) {
            Some(name) if new.segments[0].target.name() != name && !new.has_wildcard() => {
                let reason = format!(
                    "the live table is of type '{name}', which only the same type or 'error' can replace"
                );
                Err(Error::new(Errno::Einval, reason))
            }
            _ => Ok(()),
        }
    }

    /// Every core has acknowledged. False when the device is gone.
    fn round_done<E: Env>(&mut self, env: &mut E) -> bool {
        let (phase, ticket) = self.running.take().expect("a round belongs to a request");
        let refusal = self.round.refusal.take();
        let answer = match phase {
            Phase::Attaching => {
                env.happened();
                Ok(Reply::Done)
            }
            Phase::FailingParked(count) => Ok(Reply::Count(count)),
            Phase::Staging(table) => {
                match refusal {
                    None => {
                        self.begin_round(env, Phase::Committing(table), ticket, || Order::Commit)
                    }
                    Some(reason) => {
                        let error = Error::new(Errno::Enxio, reason);
                        self.begin_round(env, Phase::Unstaging(error), ticket, || Order::Unstage);
                    }
                }
                return true;
            }
            Phase::Committing(table) => {
                self.inactive = Some(table);
                Ok(Reply::Done)
            }
            Phase::Unstaging(error) => Err(error),
            Phase::Clearing => {
                self.inactive = None;
                Ok(Reply::Done)
            }
            Phase::Detaching => {
                env.happened();
                env.reply(ticket, Ok(Reply::Done));
                let gone = Error::new(Errno::Enxio, "the device was removed meanwhile");
                let waiting = self.requests.drain(..).map(|(_, ticket)| ticket);
                waiting
                    .chain(self.waiters.drain(..).map(|(_, ticket)| ticket))
                    .for_each(|ticket| env.reply(ticket, Err(gone.clone())));
                return false;
            }
            phase => match self.suspend_round_done(env, phase, refusal, ticket) {
                Some(answer) => answer,
                None => return true,
            },
        };
        env.reply(ticket, answer);
        self.next_request(env);
        true
    }

    /// Questions and messages never wait behind an operation (LC-3): `None` for what does; `Some(None)` when the answer comes
    /// from elsewhere.
    fn answer_at_once<E: Env>(
        &mut self,
        env: &mut E,
        request: &Request,
        ticket: Ticket,
    ) -> Option<Option<Answer>> {
        let answer = match request {
            Request::Info => Ok(Reply::Info(self.info())),
            // Of the live table, the home core's copy of the targets tells (`orders.rs`).
            Request::Table { .. } => {
                let lines = self.inactive.as_ref().map_or_else(Vec::new, |table| {
                    let segments = table.segments.iter();
                    segments
                        .map(|s| TargetLine::new(s, s.target.table(&table.lowers)))
                        .collect()
                });
                Ok(Reply::Lines(lines))
            }
            Request::Message { sector, words } => match self.check_message(*sector, words) {
                Ok(()) => {
                    let (sector, suspended) = (*sector, self.is_suspended());
                    let words: Arc<[String]> = words.as_slice().into();
                    let epoch = self.next_epoch();
                    self.broadcast(env, epoch, || Order::Message {
                        sector,
                        words: words.clone(),
                        suspended,
                        ticket,
                    });
                    return Some(None);
                }
                Err(error) => Err(error),
            },
            Request::Wait { event_nr } if *event_nr == self.event_nr => {
                self.waiters.push((*event_nr, ticket));
                return Some(None);
            }
            Request::Wait { .. } => Ok(Reply::Info(self.info())),
            Request::Cancel => self.cancel(env, Error::new(Errno::Eintr, "cancelled")),
            Request::GiveUp(of) => {
                self.give_up(env, *of);
                Ok(Reply::Done)
            }
            _ => return None,
        };
        Some(Some(answer))
    }

    /// Nobody wants what was given this ticket any more.
    fn give_up<E: Env>(&mut self, env: &mut E, of: Ticket) {
        let why = Error::new(Errno::Eintr, "whoever asked has given it up");
        let running = self.running.as_ref();
        if running.is_some_and(|(_, ticket)| *ticket == of) {
            if let Some(exchange) = &mut self.exchange {
                exchange.given_up = true;
            }
            // What is past giving up ends by itself.
            let _ = self.cancel(env, why);
        } else if let Some(index) = self.requests.iter().position(|(_, ticket)| *ticket == of) {
            self.requests.remove(index);
            env.reply(of, Err(why));
        } else if let Some(index) = self.waiters.iter().position(|(_, ticket)| *ticket == of) {
            self.waiters.swap_remove(index);
            env.reply(of, Err(why));
        }
    }

    fn check_message(&self, sector: u64, words: &[String]) -> Result<(), Error> {
        let wrong = |reason: String| Err(Error::new(Errno::Einval, reason));
        let Some(live) = &self.live else {
            return wrong("there is no live table whose target could take a message".into());
        };
        if words.is_empty() {
            return wrong("the message has no words".into());
        }
        let end = live.limits.sectors;
        if sector >= end {
            return wrong(format!(
                "sector {sector} is beyond the end of the device, which has {end} sectors"
            ));
        }
        Ok(())
    }

    fn info(&self) -> Info {
        let live = self.live.as_deref();
        Info {
            suspended: self.suspended,
            suspended_internally: self.internal > 0,
            live: live.is_some(),
            inactive: self.inactive.is_some(),
            targets: live.map_or(0, |table| table.segments.len() as u32),
            event_nr: self.event_nr,
            sectors: self.limits.as_ref().map_or(0, |limits| limits.sectors),
            read_only: self.limits.as_ref().is_some_and(|limits| limits.read_only),
            ordered: self.ordered,
            parked_limit_ns: self.parked_limit_ns,
            lowers: live.map_or_else(Vec::new, |table| {
                table
                    .lowers
                    .iter()
                    .map(|lower| lower.name.clone())
                    .collect()
            }),
        }
    }
}
