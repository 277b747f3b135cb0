//! What one reactor of the native engine holds: a mapper, its lower channels and its front ends; and the handle by which the control
//! plane speaks to reactors, whichever engine they are of.
//!
//! ```text
//! one turn of a reactor:  lower completions → mapper → front ends' completions → front ends' polls → gathered submissions
//! ```

mod bdevs;
mod core;
mod front_end;
mod lower;
mod native;
mod patience;
mod remove;
mod service;
mod solo;
mod stack;
mod tables;
mod tickets;
mod together;
mod verbs;
mod world;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crossbeam_channel::Receiver;

use crate::bdev;
use crate::dm::registry::Entry;
use crate::dm::{
    self, CoreId, DeviceId, Errno, Error, Event, Info, Registry, Reply, Request, Stats, TargetLine,
    Ticket,
};
use crate::reactor::{self, NotStopped, ReactorStats, StartError};

pub use bdevs::BdevInfo;
pub use core::Core;
pub use front_end::{ClientId, FrontEnd};
pub use native::Teller;
pub use remove::Removed;
pub use service::{Message, Reactor};
pub use solo::Solo;
pub use tables::parse_table;
pub use verbs::{Event as DeviceEvent, GivenUp, never};
pub use world::{Ended, Planes, World};

use bdevs::check_free_of_bdevs;
use native::Native;
use stack::Stack;
use tickets::Tickets;

/// How the native engine is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// The CPUs, one reactor each, and how they poll.
    pub reactors: reactor::Config,
    /// The most that the I/O buffers of one reactor may take, in bytes; mapped only as needed.
    pub buffer_bytes_max: usize,
}

/// A running engine. Operators' verbs block the calling thread until they are done; reactors never wait for it.
pub struct Engine {
    reactors: Reactors,
    bdevs: Arc<bdev::Registry>,
    names: Mutex<Registry>,
    stack: Arc<Stack>,
    tickets: Arc<Tickets>,
    clients: AtomicU32,
}

/// What is chosen when a device is made, and stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceOptions {
    /// The flush policy: ordered rather than relaxed.
    pub ordered: bool,
    /// How long I/O may stay parked while the device is suspended, before it fails; for ever when left out.
    pub parked_limit: Option<Duration>,
}

/// A device as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its names and how many hold it: front ends, and devices whose tables name it.
    pub entry: Entry,
    /// Its state.
    pub info: Info,
}

/// The reactors of an engine.
enum Reactors {
    Native(Native),
    /// Another engine's, which has front ends of its own.
    Foreign(Arc<dyn World>),
}

impl Engine {
    /// Starts the native engine's reactors.
    ///
    /// # Errors
    /// When a thread cannot be started or pinned.
    pub fn start(config: &Config, bdevs: Arc<bdev::Registry>) -> Result<Engine, StartError> {
        let planes = Planes::new(bdevs);
        let native = Native::start(config, planes.clone())?;
        Ok(Engine::over(planes, Reactors::Native(native)))
    }

    /// The control plane of another engine's reactors, which were given the same `planes`.
    pub fn of_world(planes: Planes, world: Arc<dyn World>) -> Engine {
        Engine::over(planes, Reactors::Foreign(world))
    }

    fn over(planes: Planes, reactors: Reactors) -> Engine {
        Engine {
            reactors,
            bdevs: planes.bdevs,
            names: Mutex::default(),
            stack: planes.stack,
            tickets: planes.tickets,
            clients: AtomicU32::new(0),
        }
    }

    fn world(&self) -> &dyn World {
        match &self.reactors {
            Reactors::Native(native) => native,
            Reactors::Foreign(world) => &**world,
        }
    }

    /// The native reactors, for what only they have.
    fn native(&self) -> &Native {
        match &self.reactors {
            Reactors::Native(native) => native,
            Reactors::Foreign(_) => panic!("front ends are the native engine's"),
        }
    }

    /// How many reactors there are.
    pub fn cores(&self) -> u16 {
        self.world().cores()
    }

    /// The backing devices.
    pub fn bdevs(&self) -> &Arc<bdev::Registry> {
        &self.bdevs
    }

    /// What each reactor has spent its time on.
    pub fn reactor_stats(&self) -> Vec<ReactorStats> {
        self.world().reactor_stats()
    }

    /// Lets the front ends finish what is in flight and ends the reactors; for the second time, does nothing. By reference,
    /// because a verb that waits for I/O may still have hold of the engine: it ends with the reactors, or is left behind.
    ///
    /// # Errors
    /// Names the reactors that had not come to rest `within` the time.
    pub fn stop(&self, within: Duration) -> Result<(), NotStopped> {
        self.world().stop(within)
    }

    /// Adds a front end to every core; `make` builds its part there, on the reactor's thread.
    ///
    /// # Panics
    /// On another engine than the native one.
    pub fn add_front_end<F>(&self, make: F) -> ClientId
    where
        F: Fn(ClientId, &mut Core<'_>) -> Box<dyn FrontEnd> + Send + Sync + 'static,
    {
        let client = ClientId(self.clients.fetch_add(1, Ordering::Relaxed));
        let make = Arc::new(make);
        for core in 0..self.cores() {
            let make = make.clone();
            self.native().call(CoreId(core), move |reactor, context| {
                let front_end = {
                    let Reactor { mapper, lower, .. } = reactor;
                    make(
                        client,
                        &mut Core {
                            mapper,
                            lower,
                            context,
                            client,
                        },
                    )
                };
                reactor.add_front_end(client, front_end);
            });
        }
        client
    }

    /// Says something to a front end on one core.
    ///
    /// # Panics
    /// On another engine than the native one.
    pub fn tell(&self, core: CoreId, client: ClientId, message: Box<dyn std::any::Any + Send>) {
        self.native().tell(core, client, message);
    }

    /// What reaches a front end from a thread that has no engine at hand.
    ///
    /// # Panics
    /// On another engine than the native one.
    pub fn teller(&self, client: ClientId) -> Teller {
        self.native().teller(client)
    }

    /// Makes a device without a table.
    ///
    /// # Errors
    /// EINVAL, EBUSY, ENOMEM: [`Registry::create`]; EBUSY, too, for the name of a backing device.
    pub fn create(&self, name: &str, uuid: &str, ordered: bool) -> Result<DeviceId, Error> {
        let options = DeviceOptions {
            ordered,
            parked_limit: None,
        };
        self.create_with(name, uuid, options)
    }

    /// The same, with every choice there is.
    ///
    /// # Errors
    /// As [`Engine::create`].
    pub fn create_with(
        &self,
        name: &str,
        uuid: &str,
        options: DeviceOptions,
    ) -> Result<DeviceId, Error> {
        let id = {
            let mut names = self.names();
            check_free_of_bdevs(&self.bdevs, name)?;
            let id = names.create(name, uuid)?;
            self.stack.create(id, name);
            id
        };
        self.world().named(id, name);
        let request = Request::Create {
            ordered: options.ordered,
            parked_limit_ns: options.parked_limit.map(nanoseconds),
        };
        match self.request(id, request) {
            Ok(_) => Ok(id),
            Err(error) => {
                // The name must not stay taken by a device that is not there.
                self.forget(id);
                Err(error)
            }
        }
    }

    /// Gives a device another name. Not one that tables name: they would have to be loaded with the name it has then (LC-23).
    ///
    /// # Errors
    /// ENXIO, EBUSY, EINVAL: [`Registry::rename`]; EBUSY, too, for the name of a backing device, or when tables name the device.
    pub fn rename(&self, old: &str, new: &str) -> Result<(), Error> {
        let id = {
            let mut names = self.names();
            check_free_of_bdevs(&self.bdevs, new)?;
            let users = self.stack.users(names.find(old)?.id);
            if !users.is_empty() {
                let reason = format!(
                    "device '{old}' has to keep its name while tables name it: those of {}",
                    users.join(", ")
                );
                return Err(Error::new(Errno::Ebusy, reason));
            }
            let id = names.rename(old, new)?;
            self.stack.rename(id, new);
            id
        };
        self.world().named(id, new);
        self.request(id, Request::Renamed).map(drop)
    }

    /// Names and state of a device.
    ///
    /// # Errors
    /// ENXIO without such a device.
    pub fn info(&self, name: &str) -> Result<DeviceInfo, Error> {
        let entry = self.counted(self.names().find(name)?.clone());
        let info = self.info_of(entry.id)?;
        Ok(DeviceInfo { entry, info })
    }

    /// An entry that counts not only front ends among those that hold the device, but also devices whose tables name it: each once,
    /// as they open it once (LC-10).
    fn counted(&self, mut entry: Entry) -> Entry {
        entry.open_count += self.stack.user_count(entry.id);
        entry
    }

    fn info_of(&self, id: DeviceId) -> Result<Info, Error> {
        match self.request(id, Request::Info)? {
            Reply::Info(info) => Ok(info),
            other => unreachable!("{other:?} does not answer a question for info"),
        }
    }

    /// All devices, by name.
    pub fn list(&self) -> Vec<Entry> {
        let entries = self.names().list();
        entries
            .into_iter()
            .map(|entry| self.counted(entry))
            .collect()
    }

    /// What each target of a device's live table says of itself.
    ///
    /// # Errors
    /// ENXIO without such a device.
    pub fn status(&self, name: &str) -> Result<Vec<TargetLine>, Error> {
        self.lines(name, Request::Status)
    }

    /// A device's table, as it could be loaded again.
    ///
    /// # Errors
    /// ENXIO without such a device.
    pub fn table(&self, name: &str, inactive: bool) -> Result<Vec<TargetLine>, Error> {
        self.lines(name, Request::Table { inactive })
    }

    /// The counts of a device, all cores added up.
    ///
    /// # Errors
    /// ENXIO without such a device.
    pub fn stats(&self, name: &str) -> Result<Stats, Error> {
        let id = self.names().find(name)?.id;
        let mut sum = Stats::default();
        for stats in self.world().stats(id) {
            sum.add(&stats);
        }
        Ok(sum)
    }

    /// Takes hold of a device for a front end: it cannot be removed until [`Engine::close`].
    ///
    /// # Errors
    /// ENXIO without such a device.
    pub fn open(&self, name: &str) -> Result<DeviceId, Error> {
        self.names().open(name)
    }

    fn lines(&self, name: &str, request: Request) -> Result<Vec<TargetLine>, Error> {
        match self.request_by_name(name, request)? {
            Reply::Lines(lines) => Ok(lines),
            other => unreachable!("{other:?} does not answer a question for lines"),
        }
    }

    fn request_by_name(&self, name: &str, request: Request) -> Result<Reply, Error> {
        let id = self.names().find(name)?.id;
        self.request(id, request)
    }

    /// Sends a request to a device's home core and waits for the answer.
    fn request(&self, device: DeviceId, request: Request) -> dm::Answer {
        let (_, answer) = self.send_request(device, request)?;
        patience::receive(&answer).unwrap_or_else(|| Err(stopping()))
    }

    fn send_request(
        &self,
        device: DeviceId,
        request: Request,
    ) -> Result<(Ticket, Receiver<dm::Answer>), Error> {
        let (ticket, answer) = self.tickets.issue();
        let core = dm::mapper::home(device, self.cores());
        let message = dm::Message::Event {
            device,
            event: Event::Request(request, ticket),
        };
        self.world()
            .send(core, message)
            .map_err(|Ended| stopping())?;
        Ok((ticket, answer))
    }

    /// Gives a device's names and number back, which it has no more use for.
    fn forget(&self, id: DeviceId) {
        let mut names = self.names();
        self.stack.forget(id);
        names.forget(id);
    }

    fn names(&self) -> MutexGuard<'_, Registry> {
        self.names.lock().expect("no holder of this lock can panic")
    }
}

fn stopping() -> Error {
    Error::new(Errno::Enxio, "the engine is stopping")
}

/// A span of time as the mapper has it; 584 years stand for longer ones.
fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
