//! The thread that keeps a remote: its admin queue, connecting and connecting again. It may block; nobody waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::host::{Controller, Error};
use crate::nvme::feature::AsyncEvent;
use crate::nvme::{NSID_ALL, log};

use super::attach::{self, Found, attach};
use super::hub::{Association, Connected, Hub, Mail, Mailbox, Order, Seat};
use super::life::{Life, Step};
use super::standing::Standing;
use super::{CONNECT_TIMEOUT, RemoteSpec};
use crate::bdev::device::Facts;

/// The longest sleep: there is no reason to wake up, but a clock that is asked for `never` cannot be set.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// Events that are dealt with before links are heard again, however fast a controller tells them.
const EVENTS_PER_TURN: usize = 16;

pub(super) struct Keeper {
    spec: RemoteSpec,
    hub: Arc<Hub>,
    orders: Receiver<Order>,
    facts: Arc<Facts>,
    began: Instant,
    life: Life,
    association: Association,
    controller: Option<Controller>,
    /// What hosts were told of it, when it was opened.
    told: Found,
    /// What it is now.
    found: Found,
    seats: BTreeMap<Seat, Mailbox>,
    /// Connections without a link, of the present association. A table that goes leaves them here for the next one: so there are never more than
    /// there were ever links at once.
    idle: Vec<Connected>,
    /// I/O queues of the present association.
    queues: u16,
    /// I/O is not kept any more.
    given_up: bool,
}

impl Keeper {
    pub(super) fn new(
        spec: RemoteSpec,
        hub: Arc<Hub>,
        orders: Receiver<Order>,
        facts: Arc<Facts>,
        (controller, found): (Controller, Found),
        now: Instant,
    ) -> Keeper {
        let life = Life::new(&spec, Duration::ZERO);
        Keeper {
            spec,
            hub,
            orders,
            facts,
            began: now,
            life,
            association: Association(0),
            controller: Some(controller),
            told: found.clone(),
            found,
            seats: BTreeMap::new(),
            idle: Vec::new(),
            queues: 0,
            given_up: false,
        }
    }

    /// Until the device is gone.
    pub(super) fn run(mut self) {
        loop {
            self.hub.bell().silence();
            while let Ok(order) = self.orders.try_recv() {
                if let Order::Stop = order {
                    self.stop();
                    return;
                }
                self.order(order);
            }
            if let Err(error) = self.tend() {
                self.lost(&error.to_string());
            }
            match self.life.step(self.now()) {
                Step::Attach => self.attach(),
                Step::FailHeld => self.give_up(),
                Step::GiveUp => {
                    self.hub.standing.set_state(self.life.state());
                    self.give_up();
                }
                Step::Wait(until) => self.sleep(until),
            }
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Take(seat, mailbox) => {
                if self.controller.is_some() {
                    self.seats.insert(seat, mailbox);
                    self.connect(seat);
                    return;
                }
                mailbox.send(Mail::Down);
                if self.given_up {
                    mailbox.send(Mail::GiveUp);
                }
                self.seats.insert(seat, mailbox);
            }
            Order::Leave(seat, connected) => {
                self.seats.remove(&seat);
                let present = self.controller.is_some();
                let association = self.association;
                let kept = connected.filter(|one| present && one.association == association);
                self.idle.extend(kept.map(|one| *one));
            }
            Order::Lost(association, reason) => {
                if self.controller.is_some() && association == self.association {
                    self.lost(&reason);
                }
            }
            Order::Stop => unreachable!("the caller has seen to it"),
        }
    }

    /// Gets a link a connection; without one to be had, the association is of no use.
    fn connect(&mut self, seat: Seat) {
        if let Err(error) = self.try_connect(seat) {
            self.lost(&error);
        }
    }

    fn try_connect(&mut self, seat: Seat) -> Result<(), String> {
        let connected = match self.idle.pop() {
            Some(connected) => connected,
            None => self.new_queue()?,
        };
        if let Some(mailbox) = self.seats.get(&seat) {
            mailbox.send(Mail::Up(Box::new(connected)));
        }
        Ok(())
    }

    fn new_queue(&mut self) -> Result<Connected, String> {
        let controller = self.controller.as_ref().ok_or("there is no connection")?;
        let queue_id = self.queues + 1;
        let queue = controller
            .connect_io_queue(queue_id, self.found.depth)
            .map_err(|error| format!("I/O queue {queue_id}: {error}"))?;
        self.queues = queue_id;
        Ok(Connected {
            association: self.association,
            queue: queue.into_queue(),
            geometry: self.found.traits.geometry,
        })
    }

    /// What the admin queue wants.
    fn tend(&mut self) -> Result<(), Error> {
        let Some(controller) = &mut self.controller else {
            return Ok(());
        };
        controller.tend()?;
        for _ in 0..EVENTS_PER_TURN {
            let Some(event) = controller.poll_event()? else {
                break;
            };
            if event == AsyncEvent::NAMESPACE_ATTRIBUTE {
                // To read the page is to be told of the next change. What it lists does not matter: only one namespace does.
                let page = log::page::CHANGED_NAMESPACES;
                controller.log_page(page, NSID_ALL, log::CHANGED_NAMESPACES_SIZE as u32)?;
                match attach::size_now(self.spec.nsid, controller) {
                    Ok((sectors, block_shift))
                        if block_shift == self.found.traits.geometry.block_shift =>
                    {
                        self.found.traits.sectors = sectors;
                        self.facts.sectors.store(sectors, Ordering::Relaxed);
                    }
                    Ok(_) => {
                        let reason = "the namespace has blocks of another size now".to_owned();
                        return Err(Error::Unsupported(reason));
                    }
                    Err(reason) => return Err(Error::Unsupported(reason)),
                }
            }
            controller.arm_event()?;
        }
        Ok(())
    }

    /// The association is over: every link closes its connection.
    fn lost(&mut self, reason: &str) {
        let standing = &self.hub.standing;
        standing.set_error(reason.to_owned());
        Standing::count(&standing.losses);
        self.controller = None;
        self.idle.clear();
        for mailbox in self.seats.values() {
            mailbox.send(Mail::Down);
        }
        self.life.lost(self.now());
        standing.set_state(self.life.state());
    }

    fn give_up(&mut self) {
        self.given_up = true;
        for mailbox in self.seats.values() {
            mailbox.send(Mail::GiveUp);
        }
    }

    /// One attempt.
    fn attach(&mut self) {
        let attempt = attach(&self.spec, self.life.room(self.now()));
        let attached = attempt.and_then(|(controller, found)| {
            found.check_same(&self.told)?;
            if usize::from(found.queues_max) < self.seats.len() {
                return Err(format!(
                    "the controller grants {} I/O queues, and {} reactors use it",
                    found.queues_max,
                    self.seats.len()
                ));
            }
            Ok((controller, found))
        });
        let connected = attached.and_then(|(controller, found)| {
            self.controller = Some(controller);
            self.found = found;
            self.association = Association(self.association.0 + 1);
            self.queues = 0;
            // All of them before any link is told: a controller without queues to be had is not connected, and its time goes on.
            let count = self.seats.len();
            (0..count)
                .map(|_| self.new_queue())
                .collect::<Result<Vec<Connected>, String>>()
        });
        let standing = Arc::clone(&self.hub.standing);
        match connected {
            Ok(queues) => {
                if let Some(controller) = &mut self.controller {
                    controller.lift_deadline(CONNECT_TIMEOUT);
                }
                let sectors = self.found.traits.sectors;
                self.facts.sectors.store(sectors, Ordering::Relaxed);
                self.given_up = false;
                self.life.attached(self.now());
                Standing::count(&standing.connects);
                for (mailbox, queue) in self.seats.values().zip(queues) {
                    mailbox.send(Mail::Up(Box::new(queue)));
                }
                // Last: a path that is reinstated because its remote is live must find it so on every reactor.
                standing.set_state(self.life.state());
            }
            Err(reason) => {
                self.controller = None;
                Standing::count(&standing.failed_attempts);
                standing.set_error(reason);
                self.life.refused(self.now());
            }
        }
    }

    fn sleep(&mut self, until: Option<Duration>) {
        let until = until.map_or(SLEEP_MAX, |until| until.saturating_sub(self.now()));
        let until = Instant::now() + until.min(SLEEP_MAX);
        match &mut self.controller {
            Some(controller) => controller.sleep(self.hub.bell().fd(), until),
            None => self.hub.bell().wait(until),
        }
    }

    /// The controller is told that it is not needed any more. Its answer does not matter, and is not waited for without end.
    fn stop(&mut self) {
        self.idle.clear();
        if let Some(controller) = self.controller.take() {
            let _ = controller.shutdown();
        }
    }
}
