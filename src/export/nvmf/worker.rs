//! The target's part on one core: its connections, polled in turn, and its copy of the namespaces.

use std::any::Any;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam_channel::Sender;

use super::connection::{Connection, Turn};
use super::listener::{Acceptance, Listeners};
use super::message::{ConnectionReport, Message, NamespaceReport};
use super::namespace::Geometry;
use super::session::{Context, Local, Session};
use super::stats::Kind;
use super::target::{DISCOVERY, SessionKey, SubsystemId, Target, Totals};
use crate::bdev::LendList;
use crate::dm::{CoreId, DeviceId, Status};
use crate::engine::{Core, FrontEnd};
use crate::reactor::{Interest, Readiness};

/// Tokens from here on are listeners; below are connections.
const LISTENER_TOKEN: u32 = 1 << 31;

/// The timer for what takes seconds: time-outs.
const TICK_TOKEN: u32 = 0;
/// The timer after which accepting is tried again.
const ACCEPT_TOKEN: u32 = 1;

/// Time between ticks, in nanoseconds. Four wake-ups a second, and only while there are connections.
const TICK_NS: u64 = 250_000_000;

/// How long accepting rests when the process has no descriptors left, in nanoseconds.
const ACCEPT_PAUSE_NS: u64 = 100_000_000;

/// How long hosts have to take what they are still owed when the target stops, in nanoseconds.
const STOP_NS: u64 = 2_000_000_000;

/// Connections accepted before the core does something else: epoll reports a listener for as long as it has more.
const ACCEPTS_PER_CALL: usize = 64;

/// Most connections of one core: what is left of a command's tag when its slot is named.
const CONNECTIONS_PER_CORE_MAX: usize = 1 << (31 - super::session::TAG_SLOT_BITS);

/// A place for a connection.
#[derive(Default)]
struct Place {
    generation: u32,
    connection: Option<Box<Connection>>,
}

/// The target on one core.
pub struct Worker {
    target: Arc<Target>,
    local: Local,
    listeners: Listeners,
    places: Vec<Place>,
    free: Vec<u32>,
    /// Connections to poll; the others are left to epoll.
    active: Vec<u32>,
    /// Entries of all queues here, for which the core has room.
    reserved: usize,
    ticking: bool,
    /// When connections are ended whatever they still have to do; set when the target stops.
    stop_deadline_ns: Option<u64>,
    /// Who waits for this core to be done with a device.
    leaving: Vec<(SubsystemId, DeviceId, Sender<()>)>,
}

impl Worker {
    /// The part of `target` on a core; `listeners` on the one core that accepts.
    pub fn new(target: Arc<Target>, listeners: Vec<TcpListener>, core: &mut Core<'_>) -> Self {
        let mut worker = Self {
            local: Local::new(core.index()),
            listeners: Listeners::new(listeners),
            places: Vec::new(),
            free: Vec::new(),
            active: Vec::new(),
            reserved: 0,
            ticking: false,
            stop_deadline_ns: None,
            leaving: Vec::new(),
            target,
        };
        for subsystem in worker.target.subsystem_ids() {
            let ana = worker.target.ana(subsystem);
            let namespaces = worker.local.namespaces(subsystem);
            namespaces.enforce_ana(ana);
            namespaces.report_ana(ana);
            worker.refresh(subsystem, core);
        }
        worker.watch_listeners(core);
        worker
    }

    fn watch_listeners(&mut self, core: &mut Core<'_>) {
        if self.stop_deadline_ns.is_some() {
            return;
        }
        for (index, fd) in self.listeners.fds() {
            // A listener that cannot be watched is tried again like one without descriptors.
            if core
                .watch(fd, Interest::READ, LISTENER_TOKEN + index as u32)
                .is_err()
            {
                core.set_timer(core.now_ns() + ACCEPT_PAUSE_NS, ACCEPT_TOKEN);
            }
        }
    }

    /// Calls `f` for a connection, and afterwards sends what it had to say to other cores.
    fn with<R>(
        &mut self,
        index: u32,
        core: &mut Core<'_>,
        f: impl FnOnce(&mut Connection, &mut Context<'_, Core<'_>>) -> R,
    ) -> Option<R> {
        let connection = self
            .places
            .get_mut(index as usize)?
            .connection
            .as_deref_mut()?;
        let mut cx = Context {
            backend: core,
            local: &mut self.local,
            target: &self.target,
        };
        Some(f(connection, &mut cx))
    }

    fn find(&self, key: SessionKey) -> Option<u32> {
        let place = self.places.get(key.index as usize)?;
        (place.generation == key.generation && place.connection.is_some()).then_some(key.index)
    }

    /// Takes a connection in.
    fn admit(&mut self, socket: OwnedFd, core: &mut Core<'_>) {
        if self.stop_deadline_ns.is_some()
            || self.places.len() - self.free.len() >= CONNECTIONS_PER_CORE_MAX
        {
            self.target.connection_ended(self.local.core, false);
            return;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() as u32 - 1
        });
        let place = &mut self.places[index as usize];
        let key = SessionKey {
            core: self.local.core,
            index,
            generation: place.generation,
        };
        let connection = Connection::new(Session::new(key), socket, core.now_ns());
        let watched = connection.and_then(|connection| {
            // Edge-triggered: a polled connection needs no events, a silent one needs one to be polled again.
            core.watch(
                connection.fd(),
                Interest::READ | Interest::WRITE | Interest::EDGE,
                index,
            )?;
            Ok(connection)
        });
        match watched {
            Ok(connection) => {
                place.connection = Some(Box::new(connection));
                self.activate(index);
                self.tick(core);
            }
            Err(_) => {
                self.free.push(index);
                self.target.connection_ended(self.local.core, false);
            }
        }
    }

    fn activate(&mut self, index: u32) {
        if let Some(connection) = self.places[index as usize].connection.as_deref_mut()
            && !connection.is_active
            && !connection.is_ended
        {
            connection.is_active = true;
            self.active.push(index);
        }
    }

    /// One turn of a connection, and what follows from it. False when it need not be polled any more.
    #[inline]
    fn turn(&mut self, index: u32, core: &mut Core<'_>) -> (bool, bool) {
        let Some(turn) = self.with(index, core, |connection, cx| connection.turn(cx)) else {
            return (false, false);
        };
        match turn {
            Turn::Worked => {
                self.announce(index, core);
                (true, true)
            }
            Turn::Idle => {
                let now_ns = core.now_ns();
                let rests = self
                    .with(index, core, |connection, cx| {
                        let rests = connection.can_rest() && connection.is_cold(now_ns);
                        if rests {
                            connection.session.rest(&mut cx.local.chunks);
                            connection.is_active = false;
                        }
                        rests
                    })
                    .unwrap_or(true);
                (false, !rests)
            }
            Turn::Gone => {
                self.end(index, core);
                (true, false)
            }
        }
    }

    /// A connection has become a queue: makes room for its commands.
    #[inline]
    fn announce(&mut self, index: u32, core: &mut Core<'_>) {
        let Some(connection) = self.places[index as usize].connection.as_deref_mut() else {
            return;
        };
        if connection.is_announced {
            return;
        }
        if let Some(queue) = &connection.session.queue {
            connection.is_announced = true;
            self.reserved += queue.entries as usize;
            core.reserve(self.reserved);
        }
    }

    /// Ends a connection. It stays in its place until its last command is back.
    fn end(&mut self, index: u32, core: &mut Core<'_>) {
        let ended = self.with(index, core, |connection, cx| {
            if std::mem::replace(&mut connection.is_ended, true) {
                return None;
            }
            connection.is_active = false;
            connection.session.kill(cx);
            connection.shut();
            if connection.session.is_violated() {
                cx.target.counters.violation();
            }
            Some((connection.fd(), connection.session.is_finished()))
        });
        let Some(Some((fd, is_finished))) = ended else {
            return;
        };
        // It was watched when it was admitted, and is unwatched once, here.
        let _ = core.unwatch(fd, index);
        self.active.retain(|&active| active != index);
        if is_finished {
            self.bury(index);
        }
    }

    /// Frees the place of a connection that is over.
    fn bury(&mut self, index: u32) {
        let place = &mut self.places[index as usize];
        let Some(connection) = place.connection.take() else {
            return;
        };
        place.generation = place.generation.wrapping_add(1);
        self.free.push(index);
        let queue = connection.session.queue.as_ref();
        if let Some(queue) = queue.filter(|_| connection.is_announced) {
            self.reserved -= queue.entries as usize;
        }
        self.target
            .connection_ended(self.local.core, queue.is_some_and(|queue| queue.id == 0));
    }

    /// Makes sure that time is looked after.
    fn tick(&mut self, core: &mut Core<'_>) {
        if !self.ticking && self.places.len() > self.free.len() {
            self.ticking = true;
            core.set_timer(core.now_ns() + TICK_NS, TICK_TOKEN);
        }
    }

    /// Ends what is overdue.
    fn ticked(&mut self, core: &mut Core<'_>) {
        self.ticking = false;
        let now_ns = core.now_ns();
        for index in 0..self.places.len() as u32 {
            let Some(connection) = self.places[index as usize].connection.as_deref() else {
                continue;
            };
            if connection.is_ended {
                continue;
            }
            let is_expired = connection.session.is_expired(now_ns);
            if is_expired {
                self.target.counters.expiry();
            }
            if is_expired || connection.is_overdue(now_ns) {
                self.end(index, core);
            }
        }
        self.send_out(core);
        self.tick(core);
    }

    fn publish(&mut self) {
        for (index, namespaces) in self.local.namespaces.iter().enumerate() {
            let mut totals = Totals::default();
            for stats in namespaces.stats() {
                let (read, write) = (stats.kind(Kind::Read), stats.kind(Kind::Write));
                totals.reads += read.ios;
                totals.writes += write.ios;
                totals.read_bytes += read.sectors * 512;
                totals.write_bytes += write.sectors * 512;
                totals.errors += read.errors + write.errors;
            }
            let subsystem = SubsystemId(index as u32);
            self.target
                .publish_totals(subsystem, self.local.core, totals);
        }
    }

    /// Sends what sessions had to say to other cores.
    #[inline]
    fn send_out(&mut self, core: &mut Core<'_>) {
        for (to, message) in self.local.outbox.drain(..) {
            core.send(to, Box::new(message));
        }
    }

    /// Takes over a subsystem's namespaces as they are now, and tells its hosts.
    fn refresh(&mut self, subsystem: SubsystemId, core: &mut Core<'_>) {
        let list = self.target.namespaces(subsystem);
        let geometry = |device| core.limits(device).map(|limits| Geometry::of(limits));
        let changed = self.local.namespaces(subsystem).replace(&list, geometry);
        self.tell_changed(subsystem, &changed, core);
    }

    fn tell_changed(&mut self, subsystem: SubsystemId, nsids: &[u32], core: &mut Core<'_>) {
        if !nsids.is_empty() {
            self.tell_controllers(subsystem, core, |session, cx| {
                session.namespaces_changed(nsids, cx);
            });
        }
    }

    /// Calls `tell` for every admin queue of a subsystem.
    fn tell_controllers(
        &mut self,
        subsystem: SubsystemId,
        core: &mut Core<'_>,
        tell: impl Fn(&mut Session<LendList>, &mut Context<'_, Core<'_>>),
    ) {
        for index in 0..self.places.len() as u32 {
            let told = self.with(index, core, |connection, cx| {
                let session = &mut connection.session;
                let concerned = session
                    .queue
                    .as_ref()
                    .is_some_and(|queue| queue.subsystem == subsystem);
                if concerned && session.admin.is_some() {
                    tell(session, cx);
                }
                concerned
            });
            if told == Some(true) {
                self.activate(index);
            }
        }
    }

    /// Lets go of those who wait for a device that this core is done with.
    fn answer_leaving(&mut self) {
        let local = &mut self.local;
        self.leaving
            .retain(|(subsystem, device, _)| local.namespaces(*subsystem).is_leaving(*device));
    }

    fn handle(&mut self, message: Message, core: &mut Core<'_>) {
        match message {
            Message::Accepted(socket) => self.admit(socket, core),
            Message::Close(key) => {
                if let Some(index) = self.find(key) {
                    self.end(index, core);
                }
            }
            Message::Abort {
                queue,
                command_id,
                admin,
                slot,
            } => {
                let index = self.find(queue);
                let found = index
                    .and_then(|index| {
                        self.activate(index);
                        self.with(index, core, |connection, cx| {
                            connection.session.abort_command(command_id, cx)
                        })
                    })
                    .unwrap_or(false);
                core.send(
                    admin.core,
                    Box::new(Message::Aborted { admin, slot, found }),
                );
            }
            Message::Aborted { admin, slot, found } => {
                if let Some(index) = self.find(admin) {
                    self.with(index, core, |connection, cx| {
                        connection.session.abort_answered(slot, found, cx)
                    });
                    self.activate(index);
                }
            }
            Message::Publish { admin, slot } => {
                self.publish();
                core.send(admin.core, Box::new(Message::Published { admin, slot }));
            }
            Message::Published { admin, slot } => {
                if let Some(index) = self.find(admin) {
                    self.with(index, core, |connection, cx| {
                        connection.session.totals_published(slot, cx);
                    });
                    self.activate(index);
                }
            }
            Message::Namespaces {
                subsystem,
                removed,
                done,
            } => {
                self.refresh(subsystem, core);
                if let Some(device) = removed {
                    self.leaving.push((subsystem, device, done));
                    self.answer_leaving();
                }
            }
            Message::AnaEnforced {
                subsystem,
                state,
                done,
            } => {
                self.local.namespaces(subsystem).enforce_ana(state);
                drop(done);
            }
            Message::AnaReported { subsystem, state } => {
                let changed = self.local.namespaces(subsystem).report_ana(state);
                if changed && state.is_notified() {
                    self.tell_controllers(subsystem, core, |session, cx| session.ana_changed(cx));
                }
            }
            Message::DiscoveryChanged => {
                for index in 0..self.places.len() as u32 {
                    self.with(index, core, |connection, cx| {
                        connection.session.discovery_changed(cx)
                    });
                    self.activate(index);
                }
            }
            Message::Report(reply) => {
                // Whoever asked may have gone.
                let _ = reply.send(self.namespace_reports());
            }
            Message::Connections(reply) => {
                let _ = reply.send(self.connection_reports());
            }
        }
    }

    fn namespace_reports(&self) -> Vec<NamespaceReport> {
        let mut all = Vec::new();
        for (index, namespaces) in self.local.namespaces.iter().enumerate() {
            let subsystem = SubsystemId(index as u32);
            let Some(nqn) = self
                .target
                .nqn(subsystem)
                .filter(|_| subsystem != DISCOVERY)
            else {
                continue;
            };
            for namespace in namespaces.iter() {
                all.push(NamespaceReport {
                    subsystem_nqn: nqn.clone(),
                    nsid: namespace.namespace.nsid,
                    device_name: namespace.namespace.device_name.clone(),
                    stats: (*namespace.stats).clone(),
                });
            }
        }
        all
    }

    fn connection_reports(&self) -> Vec<ConnectionReport> {
        let connections = self
            .places
            .iter()
            .filter_map(|place| place.connection.as_deref());
        let report = |connection: &Connection| {
            let session = &connection.session;
            let queue = session.queue.as_ref();
            ConnectionReport {
                core: self.local.core.0,
                peer: connection
                    .peer()
                    .map(|peer| peer.to_string())
                    .unwrap_or_default(),
                subsystem_nqn: queue
                    .map(|queue| queue.identity.nqn.clone())
                    .unwrap_or_default(),
                controller_id: queue.map_or(0, |queue| queue.controller_id),
                queue_id: queue.map(|queue| queue.id),
                queue_size: queue.map_or(0, |queue| queue.entries),
                outstanding: session.outstanding(),
                digests: session.digests(),
            }
        };
        connections.map(report).collect()
    }

    /// Accepts what a listener has and spreads it over the cores.
    fn accept(&mut self, listener: usize, core: &mut Core<'_>) {
        for _ in 0..ACCEPTS_PER_CALL {
            match self.listeners.accept(listener) {
                Acceptance::Accepted(socket) => {
                    let Some(to) = self.target.choose_core() else {
                        continue;
                    };
                    if to == self.local.core {
                        self.admit(socket, core);
                    } else {
                        core.send(to, Box::new(Message::Accepted(socket)));
                    }
                }
                Acceptance::Nothing => return,
                Acceptance::Exhausted => {
                    // Level-triggered, so it would be reported without end.
                    for (index, fd) in self.listeners.fds() {
                        let _ = core.unwatch(fd, LISTENER_TOKEN + index as u32);
                    }
                    core.set_timer(core.now_ns() + ACCEPT_PAUSE_NS, ACCEPT_TOKEN);
                    return;
                }
            }
        }
    }
}

impl FrontEnd for Worker {
    fn poll(&mut self, core: &mut Core<'_>) -> bool {
        let mut worked = false;
        let mut position = 0;
        while position < self.active.len() {
            let index = self.active[position];
            let (did, stays) = self.turn(index, core);
            worked |= did;
            if stays {
                position += 1;
            } else if self.active.get(position) == Some(&index) {
                self.active.swap_remove(position);
            }
        }
        if !self.local.outbox.is_empty() {
            self.send_out(core);
        }
        if self.stop_deadline_ns.is_some() {
            worked |= self.wind_up(core);
        }
        worked
    }

    fn completed(&mut self, done: &[(u32, Status)], core: &mut Core<'_>) {
        for &(tag, status) in done {
            let (index, slot) = Session::<LendList>::split_tag(tag);
            let finished = self.with(index, core, |connection, cx| {
                connection.session.completed(slot, status, cx);
                connection.session.is_finished()
            });
            match finished {
                // An ended connection whose last command this was.
                Some(true) => self.bury(index),
                Some(false) => self.activate(index),
                None => {}
            }
        }
        if !self.leaving.is_empty() {
            self.answer_leaving();
        }
    }

    fn ready(&mut self, token: u32, readiness: Readiness, core: &mut Core<'_>) {
        if token >= LISTENER_TOKEN {
            self.accept((token - LISTENER_TOKEN) as usize, core);
            return;
        }
        let place = self.places.get_mut(token as usize);
        let Some(connection) = place.and_then(|place| place.connection.as_deref_mut()) else {
            return;
        };
        connection.is_ready(readiness.readable(), readiness.writable());
        self.activate(token);
    }

    fn timer(&mut self, token: u32, core: &mut Core<'_>) {
        if token == ACCEPT_TOKEN {
            self.watch_listeners(core);
        } else {
            self.ticked(core);
        }
    }

    fn message(&mut self, message: Box<dyn Any + Send>, core: &mut Core<'_>) {
        if let Ok(message) = message.downcast::<Message>() {
            self.handle(*message, core);
            self.send_out(core);
        }
    }

    fn device_changed(&mut self, device: DeviceId, core: &mut Core<'_>) {
        let geometry = core.limits(device).map(|limits| Geometry::of(limits));
        for index in 0..self.local.namespaces.len() {
            let changed = self.local.namespaces[index].device_changed(device, geometry);
            self.tell_changed(SubsystemId(index as u32), &changed, core);
        }
    }

    fn before_sleep(&mut self, core: &mut Core<'_>) -> bool {
        let local = &mut self.local;
        let places = &mut self.places;
        let mut may_sleep = true;
        self.active.retain(|&index| {
            let Some(connection) = places[index as usize].connection.as_deref_mut() else {
                return false;
            };
            if connection.can_rest() {
                connection.is_active = false;
                connection.session.rest(&mut local.chunks);
                return false;
            }
            may_sleep = false;
            true
        });
        self.send_out(core);
        may_sleep
    }

    fn stop(&mut self, core: &mut Core<'_>) {
        self.stop_deadline_ns = Some(core.now_ns() + STOP_NS);
        // Sleep must not outlast the deadline.
        core.set_timer(core.now_ns() + STOP_NS, TICK_TOKEN);
        for (index, fd) in self.listeners.fds() {
            let _ = core.unwatch(fd, LISTENER_TOKEN + index as u32);
        }
        self.listeners.close();
        for index in 0..self.places.len() as u32 {
            if let Some(connection) = self.places[index as usize].connection.as_deref_mut() {
                connection.is_stopping = true;
            }
            self.activate(index);
        }
    }

    fn stopped(&self) -> bool {
        self.stop_deadline_ns.is_some() && self.places.len() == self.free.len()
    }
}

impl Worker {
    /// Stopping: ends connections that have nothing at devices and nothing left to say, and all of them when [`STOP_NS`] is over.
    fn wind_up(&mut self, core: &mut Core<'_>) -> bool {
        let mut worked = false;
        let is_late = self
            .stop_deadline_ns
            .is_some_and(|deadline_ns| core.now_ns() >= deadline_ns);
        for index in 0..self.places.len() as u32 {
            let Some(connection) = self.places[index as usize].connection.as_deref() else {
                continue;
            };
            let session = &connection.session;
            let is_done = is_late || session.running() == 0 && !session.has_output();
            if is_done && !connection.is_ended {
                self.end(index, core);
                worked = true;
            }
        }
        self.send_out(core);
        worked
    }
}

/// The core that accepts.
pub const ACCEPTING_CORE: CoreId = CoreId(0);
