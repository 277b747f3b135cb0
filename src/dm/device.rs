//! The life-cycle of one device: the state machine on its home core.
//!
//! Operators' requests are served one after another; each is a few rounds of orders to all cores and their
//! acknowledgements. Questions (info, status, table) are answered at once from what is known here and wait for nothing.
//!
//! ```text
//! create   Attach
//! load     Stage ─ all could ─ Commit        (else Unstage: an earlier inactive table stays, LC-15)
//! clear    Clear
//! suspend  [running sequence step ends] Close ─ all drained ─ suspended
//! resume   [as suspend, if it runs and a table is to be swapped in] Swap, Open
//! remove   [as suspend] Detach
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use super::env::Env;
use super::error::{Errno, Error};
use super::io::{CoreId, DeviceId};
use super::message::{
    Answer, Epoch, Event, Gate, Info, Message, Order, Reply, Request, TargetLine, Ticket,
};
use super::sequence::Sequences;
use super::table::{Limits, Table};

/// A device on its home core.
#[derive(Debug)]
pub(super) struct Home {
    pub id: DeviceId,
    /// The request that makes the device has begun; another one is refused.
    created: bool,
    ordered: bool,
    suspended: bool,
    live: Option<Arc<Table>>,
    inactive: Option<Arc<Table>>,
    /// What the live table can do, or what the one before it could (1.4, step 3).
    limits: Option<Arc<Limits>>,
    event_nr: u32,
    /// Requests behind the running one, in order. Bounded by the control connections, each of which waits for its answer.
    requests: VecDeque<(Request, Ticket)>,
    running: Option<(Phase, Ticket)>,
    round: Round,
    epoch: Epoch,
    /// A suspend has begun, or is in force: no sequence step may begin.
    pub held: bool,
    pub sequences: Sequences,
}

/// Where the running request stands.
#[derive(Debug)]
enum Phase {
    Attaching,
    Staging(Arc<Table>),
    Committing(Arc<Table>),
    Unstaging(Error),
    Clearing,
    /// Waits for the running sequence's step to end.
    Holding(Then),
    Closing(Then),
    /// The new table cannot stand in for the old one: it is being destroyed, the device stays suspended (1.4, step 3).
    Rejecting(Error),
    Swapping(Arc<Limits>),
    Opening,
    Detaching,
}

/// What a suspension is for.
#[derive(Clone, Copy, Debug)]
enum Then {
    Suspend,
    Swap { open: bool },
    Remove,
}

/// Counts the acknowledgements of one round.
#[derive(Debug, Default)]
pub(super) struct Round {
    epoch: Epoch,
    left: u16,
    refusal: Option<String>,
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
    pub fn new(id: DeviceId, ordered: bool) -> Home {
        Home {
            id,
            created: false,
            ordered,
            suspended: false,
            live: None,
            inactive: None,
            limits: None,
            event_nr: 0,
            requests: VecDeque::new(),
            running: None,
            round: Round::default(),
            epoch: Epoch::default(),
            held: false,
            sequences: Sequences::default(),
        }
    }

    /// Takes in what a core or an operator says. False when the device is gone and its state can be forgotten.
    pub fn event<E: Env>(&mut self, env: &mut E, event: Event) -> bool {
        match event {
            Event::Sequence(waiting) => self.sequence_wanted(env, waiting),
            Event::FlushDone(status) | Event::DataDone(status) => {
                self.sequence_step_done(env, status)
            }
            Event::TargetFailed { .. } => self.event_nr = self.event_nr.wrapping_add(1),
            Event::Ack {
                core,
                epoch,
                result,
            } => {
                if self.round.acknowledged(core, epoch, &result) {
                    return self.round_done(env);
                }
                if self.sequences.round.acknowledged(core, epoch, &result) {
                    self.sequence_drained(env);
                }
            }
            Event::Request(request, ticket) => match self.answer_at_once(&request) {
                Some(answer) => env.reply(ticket, answer),
                None => {
                    self.requests.push_back((request, ticket));
                    self.next_request(env);
                }
            },
        }
        true
    }

    /// An epoch that no earlier round of this device had.
    pub fn next_epoch(&mut self) -> Epoch {
        self.epoch.0 = self.epoch.0.wrapping_add(1);
        self.epoch
    }

    /// Sends an order to every core; this one gets it like the others, through its mailbox.
    pub fn broadcast<E: Env>(&self, env: &mut E, epoch: Epoch, order: impl Fn() -> Order) {
        for core in 0..env.cores() {
            env.send(
                CoreId(core),
                Message::Order {
                    device: self.id,
                    epoch,
                    order: order(),
                },
            );
        }
    }

    /// The coordinator has come to rest, as a suspend asked.
    pub fn sequence_stopped<E: Env>(&mut self, env: &mut E) {
        if let Some((Phase::Holding(then), ticket)) = self.running.take() {
            self.begin_round(env, Phase::Closing(then), ticket, || {
                Order::Close(Gate::Suspend)
            });
        }
    }

    fn begin_round<E: Env>(
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

    /// Starts waiting requests until one takes a round.
    fn next_request<E: Env>(&mut self, env: &mut E) {
        while self.running.is_none() {
            let Some((request, ticket)) = self.requests.pop_front() else {
                return;
            };
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
            Request::Create { ordered } => {
                self.created = true;
                self.begin_round(env, Phase::Attaching, ticket, || Order::Attach { ordered });
            }
            Request::Load(table) => {
                let staged = table.clone();
                self.begin_round(env, Phase::Staging(table), ticket, || {
                    Order::Stage(staged.clone())
                });
            }
            Request::Clear if self.inactive.is_none() => return done,
            Request::Clear => self.begin_round(env, Phase::Clearing, ticket, || Order::Clear),
            // LC-4: suspending what is suspended is a success that does nothing.
            Request::Suspend if self.suspended => return done,
            Request::Suspend => self.suspend(env, Then::Suspend, ticket),
            Request::Resume { open } if self.inactive.is_some() && self.suspended => {
                self.swap(env, open, ticket);
            }
            Request::Resume { open } if self.inactive.is_some() => {
                self.suspend(env, Then::Swap { open }, ticket);
            }
            Request::Resume { .. } if !self.suspended => return done,
            Request::Resume { .. } if self.live.is_none() => {
                let reason = "there is no table to resume: load one first";
                return Some(Err(Error::new(Errno::Einval, reason)));
            }
            Request::Resume { .. } => self.open(env, ticket),
            Request::Remove => self.suspend(env, Then::Remove, ticket),
            Request::Renamed => {
                self.event_nr = self.event_nr.wrapping_add(1);
                return done;
            }
            Request::Info | Request::Status | Request::Table { .. } => {
                unreachable!("answered at once")
            }
        }
        None
    }

    fn suspend<E: Env>(&mut self, env: &mut E, then: Then, ticket: Ticket) {
        self.held = true;
        self.running = Some((Phase::Holding(then), ticket));
        if !self.sequence_in_step() {
            self.sequence_stopped(env);
        }
    }

    /// Step 3 of 1.4: the limits of the new table decide whether it may stand in for the old one.
    fn swap<E: Env>(&mut self, env: &mut E, open: bool, ticket: Ticket) {
        let new = self.inactive.as_ref().expect("only called with one");
        match limits_after(self.limits.as_deref(), new, open) {
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

    fn open<E: Env>(&mut self, env: &mut E, ticket: Ticket) {
        self.held = false;
        // A sequence that was interrupted, or that waits, closes its gate before this one opens (PM-21).
        self.sequence_release(env);
        self.begin_round(env, Phase::Opening, ticket, || Order::Open(Gate::Suspend));
    }

    /// Every core has acknowledged. False when the device is gone.
    fn round_done<E: Env>(&mut self, env: &mut E) -> bool {
        let (phase, ticket) = self.running.take().expect("a round belongs to a request");
        let refusal = self.round.refusal.take();
        let answer = match phase {
            Phase::Attaching => Ok(Reply::Done),
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
            Phase::Holding(_) => unreachable!("a hold is not a round"),
            Phase::Closing(Then::Suspend) => {
                self.suspended = true;
                Ok(Reply::Done)
            }
            Phase::Closing(Then::Swap { open }) => {
                self.suspended = true;
                self.swap(env, open, ticket);
                return true;
            }
            Phase::Closing(Then::Remove) => {
                self.sequence_drop();
                self.begin_round(env, Phase::Detaching, ticket, || Order::Detach);
                return true;
            }
            Phase::Rejecting(error) => {
                self.inactive = None;
                Err(error)
            }
            Phase::Swapping(limits) => {
                self.live = self.inactive.take();
                self.limits = Some(limits);
                self.open(env, ticket);
                return true;
            }
            Phase::Opening => {
                self.suspended = false;
                Ok(Reply::Done)
            }
            Phase::Detaching => {
                env.reply(ticket, Ok(Reply::Done));
                let gone = Error::new(Errno::Enxio, "the device was removed meanwhile");
                self.requests
                    .drain(..)
                    .for_each(|(_, ticket)| env.reply(ticket, Err(gone.clone())));
                return false;
            }
        };
        env.reply(ticket, answer);
        self.next_request(env);
        true
    }

    /// Questions never wait behind an operation (LC-3).
    fn answer_at_once(&self, request: &Request) -> Option<Answer> {
        match request {
            Request::Info => Some(Ok(Reply::Info(self.info()))),
            Request::Table { inactive } => {
                let table = if *inactive {
                    &self.inactive
                } else {
                    &self.live
                };
                let lines = table.as_ref().map_or_else(Vec::new, |table| {
                    let lowers = &table.lowers;
                    table
                        .segments
                        .iter()
                        .map(|s| TargetLine::new(s, s.target.table(lowers)))
                        .collect()
                });
                Some(Ok(Reply::Lines(lines)))
            }
            _ => None,
        }
    }

    fn info(&self) -> Info {
        let live = self.live.as_deref();
        Info {
            suspended: self.suspended,
            live: live.is_some(),
            inactive: self.inactive.is_some(),
            targets: live.map_or(0, |table| table.segments.len() as u32),
            event_nr: self.event_nr,
            sectors: self.limits.as_ref().map_or(0, |limits| limits.sectors),
            read_only: self.limits.as_ref().is_some_and(|limits| limits.read_only),
            ordered: self.ordered,
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
