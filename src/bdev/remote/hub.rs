//! How reactors and the keeper of a remote speak to each other; and the remote, as its [`crate::bdev::Bdev`] holds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::host::Queue;

use super::attach::{Found, attach};
use super::bell::Bell;
use super::keeper::Keeper;
use super::standing::Standing;
use super::{CONNECT_TIMEOUT, RemoteSpec};
use crate::bdev::device::Facts;
use crate::bdev::error::Error;
use crate::bdev::namespace::Geometry;

/// A link, to the keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Seat(pub(super) u32);

/// An association with the controller: each time that it is connected is one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Association(pub(super) u64);

/// A connected I/O queue, and to what.
pub(super) struct Connected {
    pub(super) association: Association,
    pub(super) queue: Queue,
    pub(super) geometry: Geometry,
}

/// From a link to the keeper. There are as many under way as links come and go, and one for each loss that a link sees.
pub(super) enum Order {
    /// A link wants a connection.
    Take(Seat, Mailbox),
    /// A link ends; its connection, with nothing under way on it, may serve another.
    Leave(Seat, Option<Box<Connected>>),
    /// A link has closed its connection, because of this.
    Lost(Association, String),
    /// The device is gone.
    Stop,
}

/// From the keeper to a link; at most one of each kind for each association.
pub(super) enum Mail {
    /// Here is a connection.
    Up(Box<Connected>),
    /// There is no connection any more.
    Down,
    /// What was kept until there is one is to fail, and so is what comes.
    GiveUp,
}

/// Where a link gets its mail.
pub(super) struct Mailbox {
    pub(super) mail: Sender<Mail>,
    /// Of the link's reactor.
    pub(super) bell: Arc<Bell>,
}

impl Mailbox {
    /// A link that is gone needs no mail.
    pub(super) fn send(&self, mail: Mail) {
        let _ = self.mail.send(mail);
        self.bell.ring();
    }
}

/// What links share.
pub(super) struct Hub {
    orders: Sender<Order>,
    bell: Bell,
    pub(super) standing: Arc<Standing>,
    pub(super) io_timeout: Duration,
    seats: AtomicU32,
    queues_max: u32,
}

impl Hub {
    pub(super) fn send(&self, order: Order) {
        // A keeper that has ended has nothing to keep.
        let _ = self.orders.send(order);
        self.bell.ring();
    }

    pub(super) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// A seat for one more link; `Err` with how many there can be.
    pub(super) fn take_seat(&self) -> Result<Seat, u32> {
        let taken = self.standing.queues.fetch_add(1, Ordering::Relaxed);
        if taken >= self.queues_max {
            self.give_seat_back();
            return Err(self.queues_max);
        }
        Ok(Seat(self.seats.fetch_add(1, Ordering::Relaxed)))
    }

    pub(super) fn give_seat_back(&self) {
        self.standing.queues.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A remote as its device holds it. Dropped, it lets the keeper end.
pub struct Remote {
    pub(super) hub: Arc<Hub>,
}

/// A remote that is connected and has no keeper yet.
pub struct Opened {
    spec: RemoteSpec,
    controller: crate::host::Controller,
    found: Found,
}

impl Remote {
    /// Connects, for the first time. Blocks; for the control thread.
    ///
    /// # Errors
    /// [`Error::Remote`].
    pub fn open(spec: &RemoteSpec) -> Result<Opened, Error> {
        let (mut controller, found) =
            attach(spec, Duration::MAX).map_err(|reason| Error::Remote {
                address: spec.address.to_string(),
                reason,
            })?;
        controller.lift_deadline(CONNECT_TIMEOUT);
        Ok(Opened {
            spec: spec.clone(),
            controller,
            found,
        })
    }
}

impl Opened {
    /// What was found there: block size, sectors, and the rest of what a device declares.
    pub fn declare(&self, lower: crate::dm::Lower) -> crate::dm::Lower {
        self.found.traits.declare(lower)
    }

    /// How it is doing, for its [`Facts`].
    pub fn standing(&self) -> Arc<Standing> {
        Arc::new(Standing::new(&self.spec))
    }

    /// Gives it its keeper, which changes the size in `facts` when the namespace's changes.
    ///
    /// # Errors
    /// [`Error::Remote`] when the system has no thread, or no descriptors, left.
    pub fn keep(self, facts: &Arc<Facts>, standing: Arc<Standing>) -> Result<Remote, Error> {
        let address = self.spec.address.to_string();
        let failed = |error: std::io::Error| Error::Remote {
            address,
            reason: format!("the system has no room for one more connection: {error}"),
        };
        let (orders, received): (Sender<Order>, Receiver<Order>) = unbounded();
        let bell = match Bell::new() {
            Ok(bell) => bell,
            Err(error) => return Err(failed(error)),
        };
        let hub = Arc::new(Hub {
            orders,
            bell,
            standing,
            io_timeout: self.spec.io_timeout,
            seats: AtomicU32::new(0),
            queues_max: self.found.queues_max.into(),
        });
        let keeper = Keeper::new(
            self.spec,
            Arc::clone(&hub),
            received,
            Arc::clone(facts),
            (self.controller, self.found),
            Instant::now(),
        );
        thread::Builder::new()
            .name("nvme-tcp".to_owned())
            .spawn(move || keeper.run())
            .map_err(failed)?;
        Ok(Remote { hub })
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.hub.send(Order::Stop);
    }
}
