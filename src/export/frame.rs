//! The poll loop of an export on one core: its listeners, its connections in their places, and which of them have something to do.
//!
//! What the protocol of these connections is, the frame does not know: [`Protocol`] says it. A worker of an export holds a frame, what
//! its sessions share, and answers messages.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::connection::{Connection, Turn};
use super::listener::{Acceptance, Listeners};
use super::protocol::Protocol;
use crate::dm::{CoreId, Status};
use crate::engine::Core;
use crate::reactor::{Interest, Readiness};

/// The core that accepts.
pub const ACCEPTING_CORE: CoreId = CoreId(0);

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

/// Bits of a command's tag that name its slot; the others name the connection's place.
pub const TAG_SLOT_BITS: u32 = 11;

/// Most connections of one core: what is left of a command's tag when its slot is named.
const CONNECTIONS_PER_CORE_MAX: usize = 1 << (31 - TAG_SLOT_BITS);

/// What a device knows a command by.
#[inline]
pub fn tag(place: u32, slot: u16) -> u32 {
    place << TAG_SLOT_BITS | u32::from(slot)
}

/// Place and slot of a completion's tag.
#[inline]
pub fn split_tag(tag: u32) -> (u32, u16) {
    (
        tag >> TAG_SLOT_BITS,
        (tag & ((1 << TAG_SLOT_BITS) - 1)) as u16,
    )
}

/// Where a connection is: what other cores name it by. A key of one that is gone names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// Its core.
    pub core: CoreId,
    /// Its place there.
    pub index: u32,
    /// How often the place was used before.
    pub generation: u32,
}

/// A place for a connection.
struct Place<P> {
    generation: u32,
    connection: Option<Box<Connection<P>>>,
}

/// An export's listeners and connections on one core.
pub struct Frame<P> {
    core: CoreId,
    listeners: Listeners,
    places: Vec<Place<P>>,
    free: Vec<u32>,
    /// Connections to poll; the others are left to epoll.
    active: Vec<u32>,
    /// Commands of all connections here, for which the core has room.
    reserved: usize,
    ticking: bool,
    /// A timer is set for listeners that are not watched now.
    accepting_paused: bool,
    /// When connections are ended whatever they still have to do; set when the target stops.
    stop_deadline_ns: Option<u64>,
}

impl<P: Protocol> Frame<P> {
    /// No connections yet; `listeners` on the one core that accepts.
    pub fn new(listeners: Vec<TcpListener>, core: &mut Core<'_>) -> Self {
        let mut frame = Self {
            core: core.index(),
            listeners: Listeners::new(listeners),
            places: Vec::new(),
            free: Vec::new(),
            active: Vec::new(),
            reserved: 0,
            ticking: false,
            accepting_paused: false,
            stop_deadline_ns: None,
        };
        frame.watch_listeners(core);
        frame
    }

    fn watch_listeners(&mut self, core: &mut Core<'_>) {
        if self.stop_deadline_ns.is_some() {
            return;
        }
        for (index, fd) in self.listeners.fds() {
            self.watch_listener(index, fd, core);
        }
    }

    fn watch_listener(&mut self, index: usize, fd: RawFd, core: &mut Core<'_>) {
        match core.watch(fd, Interest::READ, LISTENER_TOKEN + index as u32) {
            Ok(()) => {}
            // It is watched already.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            // Like one without descriptors.
            Err(_) => self.pause_accepting(core),
        }
    }

    /// Listeners are watched again in a while.
    fn pause_accepting(&mut self, core: &mut Core<'_>) {
        if !std::mem::replace(&mut self.accepting_paused, true) {
            core.set_timer(core.now_ns() + ACCEPT_PAUSE_NS, ACCEPT_TOKEN);
        }
    }

    /// Accepts from one more listener.
    pub fn listen(&mut self, listener: TcpListener, core: &mut Core<'_>) {
        if self.stop_deadline_ns.is_none() {
            let (index, fd) = self.listeners.add(listener);
            self.watch_listener(index, fd, core);
        }
    }

    /// Closes the listener on an address; its connections stay.
    pub fn close_listener(&mut self, address: SocketAddr, core: &mut Core<'_>) {
        if let Some((index, listener)) = self.listeners.take(address) {
            let _ = core.unwatch(listener.as_raw_fd(), LISTENER_TOKEN + index as u32);
        }
    }

    /// Places that have been used, taken or not.
    pub fn places(&self) -> u32 {
        self.places.len() as u32
    }

    /// The connection in a place.
    #[inline]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut Connection<P>> {
        self.places
            .get_mut(index as usize)?
            .connection
            .as_deref_mut()
    }

    /// All connections.
    pub fn connections(&self) -> impl Iterator<Item = &Connection<P>> {
        self.places
            .iter()
            .filter_map(|place| place.connection.as_deref())
    }

    /// The place of a connection that is still there.
    pub fn find(&self, key: SessionKey) -> Option<u32> {
        let place = self.places.get(key.index as usize)?;
        (place.generation == key.generation && place.connection.is_some()).then_some(key.index)
    }

    /// Takes a connection in. False when that cannot be: the target is stopping, has too many connections, or the socket cannot be
    /// set up.
    pub fn admit(
        &mut self,
        socket: OwnedFd,
        core: &mut Core<'_>,
        make: impl FnOnce(SessionKey) -> P,
    ) -> bool {
        if self.stop_deadline_ns.is_some()
            || self.places.len() - self.free.len() >= CONNECTIONS_PER_CORE_MAX
        {
            return false;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place {
                generation: 0,
                connection: None,
            });
            self.places.len() as u32 - 1
        });
        let place = &mut self.places[index as usize];
        let key = SessionKey {
            core: self.core,
            index,
            generation: place.generation,
        };
        let connection = Connection::new(make(key), socket, core.now_ns());
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
                true
            }
            Err(_) => {
                self.free.push(index);
                false
            }
        }
    }

    /// Has a connection polled: something has happened to it.
    pub fn activate(&mut self, index: u32) {
        if let Some(connection) = self.places[index as usize].connection.as_deref_mut()
            && !connection.is_active
            && !connection.is_ended
        {
            connection.is_active = true;
            self.active.push(index);
        }
    }

    /// One turn of every connection that has something to do.
    pub fn poll(&mut self, shared: &mut P::Shared, core: &mut Core<'_>) -> bool {
        let mut worked = false;
        let mut position = 0;
        while position < self.active.len() {
            let index = self.active[position];
            let (did, stays) = self.turn(index, shared, core);
            worked |= did;
            if stays {
                position += 1;
            } else if self.active.get(position) == Some(&index) {
                self.active.swap_remove(position);
            }
        }
        if self.stop_deadline_ns.is_some() {
            worked |= self.wind_up(shared, core);
        }
        worked
    }

    /// One turn of a connection, and what follows from it: whether anything was done, and whether it need be polled any more.
    #[inline]
    fn turn(&mut self, index: u32, shared: &mut P::Shared, core: &mut Core<'_>) -> (bool, bool) {
        let Some(connection) = self.get_mut(index) else {
            return (false, false);
        };
        match connection.turn(shared, core) {
            Turn::Worked => {
                self.announce(index, core);
                (true, true)
            }
            Turn::Idle => {
                let rests = connection.can_rest() && connection.is_cold(core.now_ns());
                if rests {
                    connection.session.rest(shared);
                    connection.is_active = false;
                }
                (false, !rests)
            }
            Turn::Gone => {
                self.end(index, shared, core);
                (true, false)
            }
        }
    }

    /// A connection has become more than a socket: makes room for its commands.
    #[inline]
    fn announce(&mut self, index: u32, core: &mut Core<'_>) {
        let Some(connection) = self.get_mut(index) else {
            return;
        };
        if connection.is_announced {
            return;
        }
        if let Some(entries) = connection.session.entries() {
            connection.is_announced = true;
            self.reserved += entries;
            core.reserve(self.reserved);
        }
    }

    /// Ends a connection. It stays in its place until its last command is back.
    pub fn end(&mut self, index: u32, shared: &mut P::Shared, core: &mut Core<'_>) {
        let Some(connection) = self.get_mut(index) else {
            return;
        };
        if std::mem::replace(&mut connection.is_ended, true) {
            return;
        }
        connection.is_active = false;
        connection.session.kill(shared, core);
        connection.shut();
        connection.session.ended(shared);
        let is_finished = connection.session.is_finished();
        // It was watched when it was admitted, and is unwatched once, here.
        let _ = core.unwatch(connection.fd(), index);
        self.active.retain(|&active| active != index);
        if is_finished {
            self.bury(index, shared);
        }
    }

    /// Frees the place of a connection that is over.
    fn bury(&mut self, index: u32, shared: &mut P::Shared) {
        let place = &mut self.places[index as usize];
        let Some(mut connection) = place.connection.take() else {
            return;
        };
        place.generation = place.generation.wrapping_add(1);
        self.free.push(index);
        if connection.is_announced {
            self.reserved -= connection.session.entries().unwrap_or(0);
        }
        connection.session.buried(shared);
    }

    /// I/Os have ended.
    pub fn completed(
        &mut self,
        done: &[(u32, Status)],
        shared: &mut P::Shared,
        core: &mut Core<'_>,
    ) {
        for &(tag, status) in done {
            let (index, slot) = split_tag(tag);
            let Some(connection) = self.get_mut(index) else {
                continue;
            };
            connection.session.completed(slot, status, shared, core);
            self.settle(index, shared);
        }
    }

    /// A command of a connection has ended: the connection goes on, or is gone if it was the last of one that has ended.
    pub fn settle(&mut self, index: u32, shared: &mut P::Shared) {
        let Some(connection) = self.get_mut(index) else {
            return;
        };
        if connection.session.is_finished() && connection.is_ended {
            self.bury(index, shared);
        } else {
            self.activate(index);
        }
    }

    /// A descriptor is ready; true when it is a listener with connections to [`Frame::accept`].
    pub fn ready(&mut self, token: u32, readiness: Readiness) -> Option<usize> {
        if token >= LISTENER_TOKEN {
            return Some((token - LISTENER_TOKEN) as usize);
        }
        if let Some(connection) = self.get_mut(token) {
            connection.is_ready(readiness.readable(), readiness.writable());
            self.activate(token);
        }
        None
    }

    /// The next connections of a listener, not too many at once.
    pub fn accept(&mut self, listener: usize, core: &mut Core<'_>) -> Vec<OwnedFd> {
        let mut accepted = Vec::new();
        while accepted.len() < ACCEPTS_PER_CALL {
            match self.listeners.accept(listener) {
                Acceptance::Accepted(socket) => accepted.push(socket),
                Acceptance::Nothing => break,
                Acceptance::Exhausted => {
                    // Level-triggered, so it would be reported without end.
                    for (index, fd) in self.listeners.fds() {
                        let _ = core.unwatch(fd, LISTENER_TOKEN + index as u32);
                    }
                    self.pause_accepting(core);
                    break;
                }
            }
        }
        accepted
    }

    /// Makes sure that time is looked after.
    fn tick(&mut self, core: &mut Core<'_>) {
        if !self.ticking && self.places.len() > self.free.len() {
            self.ticking = true;
            core.set_timer(core.now_ns() + TICK_NS, TICK_TOKEN);
        }
    }

    /// A timer is due: ends what is overdue, and what `is_expired` says has lost its right to be here.
    pub fn timer(
        &mut self,
        token: u32,
        shared: &mut P::Shared,
        core: &mut Core<'_>,
        mut is_expired: impl FnMut(&mut P, &mut P::Shared, &mut Core<'_>) -> bool,
    ) {
        if token == ACCEPT_TOKEN {
            self.accepting_paused = false;
            self.watch_listeners(core);
            return;
        }
        self.ticking = false;
        let now_ns = core.now_ns();
        for index in 0..self.places() {
            let Some(connection) = self.get_mut(index) else {
                continue;
            };
            if connection.is_ended {
                continue;
            }
            let expired = is_expired(&mut connection.session, shared, core);
            if expired || connection.is_overdue(now_ns) {
                self.end(index, shared, core);
            } else if connection.session.has_output() {
                self.activate(index);
            }
        }
        self.tick(core);
    }

    /// The reactor is about to sleep; false if there is work after all.
    pub fn before_sleep(&mut self, shared: &mut P::Shared) -> bool {
        let places = &mut self.places;
        let mut may_sleep = true;
        self.active.retain(|&index| {
            let Some(connection) = places[index as usize].connection.as_deref_mut() else {
                return false;
            };
            if connection.can_rest() {
                connection.is_active = false;
                connection.session.rest(shared);
                return false;
            }
            may_sleep = false;
            true
        });
        may_sleep
    }

    /// Begins to stop: accepts nothing new, lets what is in flight end.
    pub fn stop(&mut self, core: &mut Core<'_>) {
        self.stop_deadline_ns = Some(core.now_ns() + STOP_NS);
        // Sleep must not outlast the deadline.
        core.set_timer(core.now_ns() + STOP_NS, TICK_TOKEN);
        for (index, fd) in self.listeners.fds() {
            let _ = core.unwatch(fd, LISTENER_TOKEN + index as u32);
        }
        self.listeners.close();
        for index in 0..self.places() {
            if let Some(connection) = self.get_mut(index) {
                connection.is_stopping = true;
            }
            self.activate(index);
        }
    }

    /// Whether it was stopped and nothing is left.
    pub fn stopped(&self) -> bool {
        self.stop_deadline_ns.is_some() && self.places.len() == self.free.len()
    }

    /// Stopping: ends connections that have nothing at devices and nothing left to say, and all of them when [`STOP_NS`] is over.
    fn wind_up(&mut self, shared: &mut P::Shared, core: &mut Core<'_>) -> bool {
        let mut worked = false;
        let is_late = self
            .stop_deadline_ns
            .is_some_and(|deadline_ns| core.now_ns() >= deadline_ns);
        for index in 0..self.places() {
            let Some(connection) = self.get_mut(index) else {
                continue;
            };
            let session = &connection.session;
            let is_done = is_late || session.running() == 0 && !session.has_output();
            if is_done && !connection.is_ended {
                self.end(index, shared, core);
                worked = true;
            }
        }
        worked
    }
}
