//! The native engine's reactors, as the control plane reaches them.

use std::any::Any;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::bounded;

use super::world::{Ended, Planes, World};
use super::{ClientId, Config, Message, Reactor, patience};
use crate::dm::{self, CoreId, DeviceId, LowerId, Stats};
use crate::reactor::{Context, Handle, NotStopped, ReactorStats, Reactors, Remote, StartError};

/// Reaches a front end on every core, from any thread that is not a reactor's.
pub struct Teller {
    remote: Remote<Message>,
    client: ClientId,
}

impl Teller {
    /// Says something to the front end on one core.
    pub fn tell(&self, core: CoreId, message: Box<dyn Any + Send>) {
        let client = self.client;
        // A reactor that has ended needs to hear nothing more.
        let _ = self
            .remote
            .send(usize::from(core.0), Message::FrontEnd { client, message });
    }
}

/// Running reactors.
pub(super) struct Native {
    /// Taken by whoever stops the reactors.
    handle: Mutex<Option<Handle<Message>>>,
    remote: Remote<Message>,
}

impl Native {
    pub fn start(config: &Config, planes: Planes) -> Result<Native, StartError> {
        let buffer_bytes_max = config.buffer_bytes_max;
        let handle = Reactors::start(&config.reactors, move |_core, context| {
            Ok(Reactor::new(context, planes.clone(), buffer_bytes_max))
        })?;
        let remote = handle.remote();
        Ok(Native {
            handle: Mutex::new(Some(handle)),
            remote,
        })
    }

    /// Says something to a front end on one core.
    pub fn tell(&self, core: CoreId, client: ClientId, message: Box<dyn Any + Send>) {
        self.teller(client).tell(core, message);
    }

    /// What reaches a front end from threads without an engine at hand.
    pub fn teller(&self, client: ClientId) -> Teller {
        let remote = self.remote.clone();
        Teller { remote, client }
    }

    /// Runs `f` on a reactor and waits for what it returns; `None` when the reactor has ended.
    pub fn call<R: Send + 'static>(
        &self,
        core: CoreId,
        f: impl FnOnce(&mut Reactor, &mut Context<Message>) -> R + Send + 'static,
    ) -> Option<R> {
        let (sender, receiver) = bounded(1);
        let call = Box::new(
            move |reactor: &mut Reactor, context: &mut Context<Message>| {
                let _ = sender.send(f(reactor, context));
            },
        );
        self.remote
            .send(usize::from(core.0), Message::Call(call))
            .ok()?;
        patience::receive(&receiver)
    }
}

impl World for Native {
    fn cores(&self) -> u16 {
        self.remote.cores() as u16
    }

    fn send(&self, core: CoreId, message: dm::Message) -> Result<(), Ended> {
        self.remote
            .send(usize::from(core.0), Message::Dm(message))
            .map_err(|_| Ended)
    }

    fn stats(&self, device: DeviceId) -> Vec<Stats> {
        (0..self.cores())
            .filter_map(|core| self.call(CoreId(core), move |reactor, _| reactor.stats(device))?)
            .collect()
    }

    fn lower_gone(&self, lower: LowerId) {
        for core in 0..self.cores() {
            // A reactor that has ended has nothing open.
            let _ = self
                .remote
                .send(usize::from(core), Message::LowerGone(lower));
        }
        // Messages are handled in the order sent, so whoever answers this has handled that.
        for core in 0..self.cores() {
            self.call(CoreId(core), |_, _| ());
        }
    }

    fn reactor_stats(&self) -> Vec<ReactorStats> {
        self.remote.stats()
    }

    fn stop(&self, within: Duration) -> Result<(), NotStopped> {
        let handle = self
            .handle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        handle.map_or(Ok(()), |handle| handle.stop(within))
    }
}
