//! The engine as the control plane reaches it: SPDK itself, a core on each of its reactors, and the bdevs of mapped devices.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, RwLock, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, unbounded};
use serde_json::{Value, json};

use super::app::{App, Options};
use super::core::{self, Core, Inside};
use super::device::{Event, Opener};
use super::hangup;
use super::host;
use super::log;
use super::module::{Publication, errno_name};
use super::rpc::Refused;
use super::thread::Thread;
use crate::bdev;
use crate::dm::{self, CoreId, DeviceId, Limits, LowerId, Stats};
use crate::engine::{self, Ended, Engine, Planes};
use crate::reactor::{NotStopped, ReactorStats};

/// How long the removal of a device waits until everybody has let go of its bdev. Whoever has not by then gets errors.
const WITHDRAWN_WITHIN: Duration = Duration::from_secs(5);

/// How often a stop aborts what waits: I/O that is below can be pushed back onto a suspended device.
const ABORTED_EVERY: Duration = Duration::from_millis(50);

/// Between two looks whether a device has its next bdev.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// SPDK's reactors with their mappers.
pub struct World {
    shared: Shared,
    app: Arc<App>,
    /// Written by a stop; read by whoever sends to the threads, which are there as long as it is false.
    stopped: RwLock<bool>,
    published: Arc<Published>,
    cpus: Vec<usize>,
    /// Where SPDK's targets listen.
    listeners: Mutex<hangup::Listeners>,
    exports_iscsi: bool,
}

/// What cores and the control plane share.
#[derive(Clone)]
pub(super) struct Shared {
    pub planes: Planes,
    app_thread: Thread,
    /// By core.
    threads: Arc<OnceLock<Vec<Thread>>>,
    published: Arc<Published>,
}

/// The bdevs of mapped devices.
#[derive(Default)]
struct Published(Mutex<HashMap<DeviceId, Mapped>>);

/// A mapped device, as SPDK is told of it.
struct Mapped {
    name: String,
    /// There once it has had a table.
    bdev: Option<Publication>,
    /// What its table can do, and why SPDK did not take it as a bdev.
    refused: Option<(Arc<Limits>, String)>,
    /// What its next bdev shows, when SPDK has let go of the one with other blocks.
    next: Option<Arc<Limits>>,
}

/// A bdev that is being taken away.
struct Withdrawal {
    /// The device's name.
    name: String,
    /// Disconnected, never sent to, when SPDK has let go of it.
    ended: Receiver<()>,
}

impl World {
    /// Starts SPDK and a core on each of its reactors; once in the life of a process.
    ///
    /// # Errors
    /// What is missing, or SPDK's own last words.
    pub fn start(options: &Options) -> Result<(Arc<World>, Planes), String> {
        let app = Arc::new(App::start(options)?);
        let (sender, events) = unbounded();
        let opener = Opener::new(app.clone(), sender);
        let registry = bdev::Registry::of_engine(Box::new(opener));
        let planes = Planes::new(Arc::new(registry));
        let published = Arc::new(Published::default());
        let shared = Shared {
            planes: planes.clone(),
            app_thread: app.app_thread,
            threads: Arc::default(),
            published: published.clone(),
        };
        let world = Arc::new(World {
            shared,
            app,
            stopped: RwLock::new(false),
            published,
            cpus: options.cpus.clone(),
            listeners: Mutex::default(),
            exports_iscsi: options.iscsi.is_some(),
        });
        world.start_cores()?;
        listen(events, Arc::downgrade(&world))?;
        Ok((world, planes))
    }

    /// The control plane of this engine.
    pub fn engine(self: &Arc<World>, planes: Planes) -> Engine {
        Engine::of_world(planes, self.clone())
    }

    fn start_cores(&self) -> Result<(), String> {
        let own = self.cpus.clone();
        let threads = self.app.app_thread.call(move || {
            let names = own.iter().enumerate();
            names
                .map(|(core, cpu)| Thread::create(&format!("polldm_{core}"), *cpu))
                .collect::<Option<Vec<Thread>>>()
        });
        let threads = threads
            .flatten()
            .ok_or("SPDK could not make a thread for each reactor")?;
        let cores = threads.len() as u16;
        for (index, thread) in threads.iter().enumerate() {
            let shared = self.shared.clone();
            thread
                .call(move || Core::install(shared, CoreId(index as u16), cores))
                .ok_or("a reactor of SPDK's has ended")?;
        }
        self.shared
            .threads
            .set(threads)
            .map_err(|_| "cores are started once".to_owned())
    }

    /// How many reactors there are.
    pub fn reactors(&self) -> usize {
        self.shared.threads().len()
    }

    /// Runs `work` on SPDK's own thread and waits for what it returns; `None` when SPDK has ended.
    pub fn on_app_thread<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Option<R> {
        self.app.app_thread.call(work)
    }

    /// Makes something on each reactor, on a thread of SPDK's of its own, and turns it there until it says that it is over. `make` is given the
    /// reactor's number.
    ///
    /// # Errors
    /// SPDK has no memory for a thread.
    pub fn on_reactors<F>(&self, make: F) -> Result<(), String>
    where
        F: Fn(usize) -> Box<dyn FnMut() -> bool> + Clone + Send + 'static,
    {
        let cpus = self.cpus.clone();
        let threads = self.app.app_thread.call(move || {
            cpus.iter()
                .enumerate()
                .map(|(core, cpu)| Thread::create(&format!("polldm_load_{core}"), *cpu))
                .collect::<Option<Vec<Thread>>>()
        });
        let threads = threads.flatten().ok_or("SPDK has no memory for a thread")?;
        for (core, thread) in threads.into_iter().enumerate() {
            let make = make.clone();
            thread.send(move || host::turn(make(core)));
        }
        Ok(())
    }

    /// Calls a method of SPDK's JSON-RPC.
    pub(super) fn rpc(&self, method: &str, params: Value) -> Result<Value, Refused> {
        self.app.rpc.call(method, params)
    }

    /// The name in SPDK of a device's own bdev. Not the device's: it may have been renamed, and its name may be another's there.
    ///
    /// # Errors
    /// It has none: it never had a table, or SPDK has a bdev of that name already.
    pub(super) fn bdev_name(&self, device: DeviceId) -> Result<String, String> {
        let deadline = Instant::now() + WITHDRAWN_WITHIN;
        loop {
            let published = self.published.clone();
            // After whatever the thread was told of the device before.
            let told = self.on_app_thread(move || {
                (published.is_changing(device), published.bdev_name(device))
            });
            match told {
                Some((true, _)) if Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
                Some((_, name)) => return name,
                None => return Err("the engine is stopping".into()),
            }
        }
    }

    /// What a device is called now.
    pub(super) fn device_name(&self, device: DeviceId) -> Option<String> {
        let devices = self.published.lock();
        devices.get(&device).map(|mapped| mapped.name.clone())
    }

    /// Notes where hosts connect, who are hung up on when the engine stops.
    pub(super) fn listens(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
        let mut listeners = self
            .listeners
            .lock()
            .expect("no holder of this lock can panic");
        listeners.addresses.extend(addresses);
    }

    /// The same of a socket in the file system.
    pub(super) fn listens_in(&self, socket: PathBuf) {
        let mut listeners = self
            .listeners
            .lock()
            .expect("no holder of this lock can panic");
        listeners.sockets.push(socket);
    }

    fn hang_up(&self) {
        let listeners = self
            .listeners
            .lock()
            .expect("no holder of this lock can panic");
        hangup::hang_up(&listeners);
    }

    /// Runs `work` in every core and waits for what each returns; in none once stopped.
    fn in_cores<R: Send + 'static>(
        &self,
        work: impl Fn(&mut Inside) -> R + Clone + Send + 'static,
    ) -> Vec<R> {
        let stopped = self
            .stopped
            .read()
            .expect("no holder of this lock can panic");
        if *stopped {
            return Vec::new();
        }
        let (sender, receiver) = bounded(self.shared.cores());
        self.shared.in_all(move |inside| {
            let _ = sender.send(work(inside));
        });
        receiver.into_iter().collect()
    }

    /// Takes a backing device away that has gone by itself, as an operator would by force (PM-14).
    fn lower_has_gone(&self, id: LowerId) {
        let bdevs = self.shared.planes.bdevs();
        let Some(bdev) = bdevs.by_id(id) else {
            return;
        };
        if let Ok(bdev) = bdevs.hot_remove(bdev.name()) {
            engine::World::lower_gone(self, bdev.id());
        }
    }

    /// All that is to be done before SPDK can be ended: hosts first, then what is beneath them.
    ///
    /// # Errors
    /// What had not ended by the deadline.
    fn take_down(&self, deadline: Instant) -> Result<(), String> {
        let devices: Vec<DeviceId> = self.published.lock().keys().copied().collect();
        self.hang_up();
        if self.exports_iscsi {
            self.await_disconnected(&devices, deadline);
        }
        let withdrawals: Vec<_> = devices
            .iter()
            .filter_map(|device| self.withdrawal(*device))
            .collect();
        for Withdrawal { name, ended } in withdrawals {
            loop {
                // Whoever was just being let in.
                self.hang_up();
                let below = self.abort_all(&devices);
                let error = ended.recv_timeout(ABORTED_EVERY).unwrap_err();
                if !error.is_timeout() {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(format!(
                        "SPDK has not let go of device '{name}'; I/Os of hosts below, in all: {below}{}",
                        self.connections()
                    ));
                }
            }
        }
        let bdevs = self.shared.planes.bdevs();
        for bdev in bdevs.list() {
            self.lower_has_gone(bdev.id());
        }
        Ok(())
    }

    /// The same as [`World::rpc`], of a method that waits for the I/O of a device: what is parked there is aborted until it returns.
    pub(super) fn rpc_aborting(
        &self,
        device: DeviceId,
        method: &str,
        params: Value,
    ) -> Result<Value, Refused> {
        let (sender, ended) = bounded(1);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let _ = sender.send(self.rpc(method, params));
            });
            loop {
                match ended.recv_timeout(ABORTED_EVERY) {
                    Ok(answer) => return answer,
                    Err(_) => {
                        self.abort_all(&[device]);
                    }
                }
            }
        })
    }

    /// Aborts what waits at devices: nobody will resume what is suspended, and SPDK's targets would wait for what it has parked. How many I/Os of
    /// hosts are left, which are below.
    fn abort_all(&self, devices: &[DeviceId]) -> usize {
        let devices = devices.to_vec();
        let below = self.in_cores(move |inside| {
            let below = devices.iter().map(|device| inside.abort_all(*device));
            below.sum::<usize>()
        });
        below.into_iter().sum()
    }

    /// What SPDK's iSCSI target says of its connections, for somebody who wonders why they are there.
    fn connections(&self) -> String {
        if !self.exports_iscsi {
            return String::new();
        }
        match self.rpc("iscsi_get_connections", json!({})) {
            Ok(connections) => format!("; iSCSI connections: {connections}"),
            Err(refused) => format!("; iSCSI connections: {refused}"),
        }
    }

    /// Waits until SPDK's iSCSI target has let go of those who were hung up on: a unit that goes while a connection does is sent to that
    /// connection when it is gone, which ends the process. A connection that has left the list lets go of its units within milliseconds.
    fn await_disconnected(&self, devices: &[DeviceId], deadline: Instant) {
        let mut empty_in_a_row = 0;
        while empty_in_a_row < 2 && Instant::now() < deadline {
            self.abort_all(devices);
            let Ok(connections) = self.rpc("iscsi_get_connections", json!({})) else {
                return;
            };
            empty_in_a_row = match connections.as_array().is_some_and(Vec::is_empty) {
                true => empty_in_a_row + 1,
                false => 0,
            };
            std::thread::sleep(ABORTED_EVERY);
            self.hang_up();
        }
    }

    /// Begins to take away the bdev of a device.
    fn withdrawal(&self, device: DeviceId) -> Option<Withdrawal> {
        let Mapped { name, bdev, .. } = self.published.lock().remove(&device)?;
        let bdev = bdev?;
        let (sender, ended) = bounded(1);
        let begun = self.shared.app_thread.call(move || {
            bdev.withdraw(move || drop(sender));
        });
        self.shared.in_all(move |inside| inside.close_ways(device));
        begun.map(|()| Withdrawal { name, ended })
    }
}

impl Shared {
    fn threads(&self) -> &[Thread] {
        self.threads.get().map_or(&[], Vec::as_slice)
    }

    /// How many cores there are.
    pub fn cores(&self) -> usize {
        self.threads().len()
    }

    /// Runs `work` in every core.
    pub fn in_all(&self, work: impl FnOnce(&mut Inside) + Clone + Send + 'static) {
        for thread in self.threads() {
            let work = work.clone();
            thread.send(move || core::enter(work));
        }
    }

    /// Hands a core's mapper a message.
    pub fn send(&self, core: CoreId, message: dm::Message) {
        self.threads()[usize::from(core.0)].send(move || {
            core::enter(move |inside| inside.mapper.message(&mut inside.lower, message));
        });
    }

    /// A device has other limits, or none: SPDK is told of what it can show. On the device's home core.
    pub fn changed(&self, device: DeviceId, limits: Option<Arc<Limits>>) {
        let Some(limits) = limits else { return };
        let published = self.published.clone();
        self.app_thread
            .send(move || published.show(device, &limits));
    }
}

impl Published {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<DeviceId, Mapped>> {
        self.0.lock().expect("no holder of this lock can panic")
    }

    /// The name in SPDK of a device's own bdev, or why it has none.
    fn bdev_name(&self, device: DeviceId) -> Result<String, String> {
        let devices = self.lock();
        let mapped = devices.get(&device).ok_or("the device was removed")?;
        match (&mapped.bdev, &mapped.refused) {
            (Some(bdev), _) => Ok(bdev.name()),
            (None, Some((_, reason))) => Err(reason.clone()),
            (None, None) => Err(format!(
                "device '{}' has no table yet, and so no bdev",
                mapped.name
            )),
        }
    }

    /// Whether a device waits for SPDK to let go of its bdev before it gets its next.
    fn is_changing(&self, device: DeviceId) -> bool {
        let devices = self.lock();
        devices
            .get(&device)
            .is_some_and(|mapped| mapped.next.is_some())
    }

    /// Gives a device its next bdev: SPDK has let go of the one that has its name. On SPDK's own thread.
    fn show_next(self: &Arc<Self>, device: DeviceId) {
        // None when the device was removed meanwhile.
        let mapped = self
            .lock()
            .get_mut(&device)
            .and_then(|mapped| mapped.next.take());
        if let Some(limits) = mapped {
            self.show(device, &limits);
        }
    }

    /// Gives a device its bdev under its new name, if SPDK did not take it under the old one. On SPDK's own thread.
    fn show_renamed(self: &Arc<Self>, device: DeviceId) {
        let mut devices = self.lock();
        let mapped = devices.get_mut(&device);
        if let Some((limits, _)) = mapped.and_then(|mapped| mapped.refused.take()) {
            drop(devices);
            self.show(device, &limits);
        }
    }

    /// Gives a device its bdev, or its bdev another size. On SPDK's own thread.
    fn show(self: &Arc<Self>, device: DeviceId, limits: &Arc<Limits>) {
        let mut devices = self.lock();
        let Some(mapped) = devices.get_mut(&device) else {
            return;
        };
        if let Some(next) = &mut mapped.next {
            *next = limits.clone();
            return;
        }
        if let Some(bdev) = mapped.bdev {
            if bdev.resize(limits) {
                return;
            }
            // Nobody holds it: the mapper does not let the block size change under hosts (LC-16).
            mapped.bdev = None;
            mapped.next = Some(limits.clone());
            drop(devices);
            let published = self.clone();
            bdev.withdraw(move || published.show_next(device));
            return;
        }
        mapped.refused = None;
        match Publication::new(device, &mapped.name, limits) {
            Ok(bdev) => mapped.bdev = Some(bdev),
            Err(errno) => {
                let reason = match errno {
                    libc::EEXIST => "SPDK has another bdev of this name; rename the device".into(),
                    errno => errno_name(errno),
                };
                let refused = format!(
                    "SPDK does not take device '{}' as a bdev: {reason}",
                    mapped.name
                );
                eprintln!("polldm: {refused}");
                mapped.refused = Some((limits.clone(), refused));
            }
        }
    }
}

impl engine::World for World {
    fn cores(&self) -> u16 {
        self.shared.threads().len() as u16
    }

    fn send(&self, core: CoreId, message: dm::Message) -> Result<(), Ended> {
        let stopped = self
            .stopped
            .read()
            .expect("no holder of this lock can panic");
        if *stopped {
            return Err(Ended);
        }
        self.shared.send(core, message);
        Ok(())
    }

    fn stats(&self, device: DeviceId) -> Vec<Stats> {
        let stats = self.in_cores(move |inside| inside.stats(device));
        stats.into_iter().flatten().collect()
    }

    fn lower_gone(&self, lower: LowerId) {
        self.in_cores(move |inside| inside.lower_gone(lower));
    }

    fn named(&self, device: DeviceId, name: &str) {
        let mut devices = self.published.lock();
        let mapped = devices.entry(device).or_insert_with(|| Mapped {
            name: name.into(),
            bdev: None,
            refused: None,
            next: None,
        });
        mapped.name = name.into();
        // Sent while it is locked: a removal takes the bdev from here first, so what it sends comes later.
        let app_thread = self.shared.app_thread;
        if let Some(bdev) = mapped.bdev {
            let name = name.to_owned();
            app_thread.send(move || bdev.also_named(&name));
        } else if mapped.refused.is_some() {
            let published = self.published.clone();
            app_thread.send(move || published.show_renamed(device));
        }
    }

    fn withdraw(&self, device: DeviceId) {
        let stopped = self
            .stopped
            .read()
            .expect("no holder of this lock can panic");
        if *stopped {
            return;
        }
        if let Some(withdrawal) = self.withdrawal(device) {
            let _ = withdrawal.ended.recv_timeout(WITHDRAWN_WITHIN);
        }
    }

    fn reactor_stats(&self) -> Vec<ReactorStats> {
        // SPDK counts for itself: spdk_top shows what its reactors are busy with.
        Vec::new()
    }

    fn stop(&self, within: Duration) -> Result<(), NotStopped> {
        let deadline = Instant::now() + within;
        let not_stopped = |why: String| {
            eprintln!("polldm: {why}");
            for line in log::last_lines() {
                eprintln!("spdk: {line}");
            }
            NotStopped {
                unfinished: (0..self.shared.threads().len()).collect(),
                stuck: Vec::new(),
            }
        };
        if *self
            .stopped
            .read()
            .expect("no holder of this lock can panic")
        {
            return Ok(());
        }
        log::hold();
        self.take_down(deadline).map_err(not_stopped)?;
        let mut stopped = self
            .stopped
            .write()
            .expect("no holder of this lock can panic");
        for thread in self.shared.threads() {
            thread.call(Core::remove);
        }
        // Only now: until then a core may have sent to another.
        for thread in self.shared.threads() {
            thread.call(Thread::exit_current);
        }
        *stopped = true;
        self.app.stop().map_err(not_stopped)
    }
}

/// Does what has to be done about what bdevs do by themselves, on a thread that may wait.
fn listen(events: Receiver<Event>, world: Weak<World>) -> Result<(), String> {
    std::thread::Builder::new()
        .name("spdk-events".into())
        .spawn(move || {
            for event in events {
                let Some(world) = world.upgrade() else { return };
                match event {
                    Event::Removed(id) => world.lower_has_gone(id),
                    Event::Resized(id, sectors) => {
                        if let Some(bdev) = world.shared.planes.bdevs().by_id(id) {
                            bdev.note_sectors(sectors);
                        }
                    }
                }
            }
        })
        .map(drop)
        .map_err(|error| format!("no thread for SPDK's events: {error}"))
}
