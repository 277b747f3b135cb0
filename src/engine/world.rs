//! What the control plane needs of reactors, whichever engine they are of.

use std::sync::Arc;
use std::time::Duration;

use super::stack::Stack;
use super::tickets::Tickets;
use crate::bdev;
use crate::dm::{self, Answer, CoreId, DeviceId, Limits, LowerId, Stats, Ticket};
use crate::reactor::{NotStopped, ReactorStats};

/// The reactor has ended and takes nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended;

/// The reactors of an engine, each with a mapper. Called by threads of the control plane, which may block; never for an I/O.
pub trait World: Send + Sync {
    /// How many reactors there are.
    fn cores(&self) -> u16;

    /// Hands a mapper a message, in the order in which one thread sends them.
    ///
    /// # Errors
    /// [`Ended`].
    fn send(&self, core: CoreId, message: dm::Message) -> Result<(), Ended>;

    /// The counts of a device, those of every reactor that knows it.
    fn stats(&self, device: DeviceId) -> Vec<Stats>;

    /// A backing device was taken away (PM-14): when this returns, every reactor knows.
    fn lower_gone(&self, lower: LowerId);

    /// A device was made, or has another name.
    fn named(&self, _device: DeviceId, _name: &str) {}

    /// Nobody finds a device any more and it is about to be removed: takes away what hosts that the control plane does not count reach it by,
    /// and waits until they have let go.
    fn withdraw(&self, _device: DeviceId) {}

    /// What each reactor has spent its time on.
    fn reactor_stats(&self) -> Vec<ReactorStats>;

    /// Lets what is in flight end, and ends the reactors; for the second time, does nothing.
    ///
    /// # Errors
    /// Names the reactors that had not come to rest `within` the time.
    fn stop(&self, within: Duration) -> Result<(), NotStopped>;
}

/// What all reactors and the control plane share; nothing of it is touched by I/O.
#[derive(Clone)]
pub struct Planes {
    pub(super) bdevs: Arc<bdev::Registry>,
    pub(super) stack: Arc<Stack>,
    pub(super) tickets: Arc<Tickets>,
}

/// What a mapper's [`dm::Env`] hands on to the control plane, for every engine the same.
impl Planes {
    /// For the backing devices of an engine, without mapped devices.
    pub fn new(bdevs: Arc<bdev::Registry>) -> Planes {
        Planes {
            bdevs,
            stack: Arc::default(),
            tickets: Arc::default(),
        }
    }

    /// The backing devices.
    pub fn bdevs(&self) -> &bdev::Registry {
        &self.bdevs
    }

    /// Gives an operator an answer ([`dm::Env::reply`]); when the mapper has returned, so that whoever hears that a device is gone finds
    /// free what it used.
    pub fn answer(&self, ticket: Ticket, answer: Answer) {
        self.tickets.answer(ticket, answer);
    }

    /// [`dm::Env::happened`].
    pub fn happened(&self) {
        self.tickets.happened();
    }

    /// [`dm::Env::limits_may_become`].
    ///
    /// # Errors
    /// Which table cannot do with them, and why.
    pub fn limits_may_become(&self, device: DeviceId, limits: &Limits) -> Result<(), String> {
        self.stack.limits_may_become(device, limits)
    }

    /// [`dm::Env::limits_are`].
    pub fn limits_are(&self, device: DeviceId, limits: &Arc<Limits>) {
        self.stack.limits_are(device, limits);
    }
}
