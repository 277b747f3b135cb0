//! What a front end is: one export's part on one reactor.

use std::any::Any;

use super::core::Core;
use crate::dm::{DeviceId, Status};
use crate::reactor::Readiness;

/// A front end's number on every core: it is what completions and messages are addressed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientId(pub u32);

/// One export's (or load generator's) part on one core. Called a few times per turn of the reactor, never per I/O, so a
/// `dyn` call costs nothing here.
///
/// Every method must return soon; what takes long is cut into turns.
pub trait FrontEnd {
    /// One turn. True if anything was done.
    fn poll(&mut self, core: &mut Core<'_>) -> bool;

    /// I/Os that this front end submitted have ended: (its own command number, how), in the order they ended. All that have ended
    /// since the last call come in one.
    fn completed(&mut self, done: &[(u32, Status)], core: &mut Core<'_>);

    /// A descriptor that was watched with `token` is ready.
    fn ready(&mut self, token: u32, readiness: Readiness, core: &mut Core<'_>);

    /// A timer that was set with `token` is due.
    fn timer(&mut self, token: u32, core: &mut Core<'_>);

    /// Another core's part of the same front end, or the control plane, says something.
    fn message(&mut self, message: Box<dyn Any + Send>, core: &mut Core<'_>);

    /// A device's size or limits are others now, or it came or went; called before any of its parked I/O is re-issued
    /// (LC-16).
    fn device_changed(&mut self, device: DeviceId, core: &mut Core<'_>);

    /// The reactor is about to sleep; false if there is work after all that no descriptor, timer or message would announce.
    fn before_sleep(&mut self, core: &mut Core<'_>) -> bool;

    /// Begin to stop: accept nothing new, let what is in flight end.
    fn stop(&mut self, core: &mut Core<'_>);

    /// Whether nothing is left to end.
    fn stopped(&self) -> bool;
}
