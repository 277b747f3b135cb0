//! The target's part on one core: its connections in their frame, its copy of the units, and what cores tell each other.

use std::any::Any;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use super::background::Background;
use super::message::{ConnectionReport, Message, UnitReport, Whose};
use super::session::{Context, Local, Session, State, Waiter, Waits};
use super::target::{Target, TargetId};
use super::unit::{LocalUnits, LunSet};
use crate::bdev::LendList;
use crate::dm::{CoreId, DeviceId, Geometry, Status};
use crate::engine::{Core, FrontEnd};
use crate::export::chunk::ChunkPool;
use crate::export::connection::Connection;
use crate::export::frame::{Frame, SessionKey};
use crate::export::protocol::{Protocol, Stage};
use crate::reactor::Readiness;

/// What every connection of a core works with.
pub struct Shared {
    target: Arc<Target>,
    local: Local,
}

impl Shared {
    #[inline]
    fn context<'a, 'b>(&'a mut self, core: &'a mut Core<'b>) -> Context<'a, Core<'b>> {
        Context {
            backend: core,
            local: &mut self.local,
            target: &self.target,
        }
    }
}

impl Protocol for Session<LendList> {
    type Shared = Shared;

    fn is_reached_at(&mut self, local: SocketAddr, peer: Option<SocketAddr>) {
        self.local = Some(local);
        self.peer = peer;
    }

    #[inline]
    fn poll(&mut self, shared: &mut Shared, core: &mut Core<'_>) -> bool {
        Session::poll(self, &mut shared.context(core))
    }

    #[inline]
    fn input(&mut self, shared: &mut Shared, core: &mut Core<'_>) -> Option<[libc::iovec; 2]> {
        Session::input(self, &mut shared.context(core))
    }

    #[inline]
    fn received(&mut self, count: usize, shared: &mut Shared, core: &mut Core<'_>) {
        Session::received(self, count, &mut shared.context(core));
    }

    #[inline]
    fn output(&self) -> &[libc::iovec] {
        Session::output(self)
    }

    #[inline]
    fn has_output(&self) -> bool {
        Session::has_output(self)
    }

    #[inline]
    fn sent(&mut self, count: usize, shared: &mut Shared, core: &mut Core<'_>) {
        Session::sent(self, count, &mut shared.context(core));
    }

    fn kill(&mut self, shared: &mut Shared, core: &mut Core<'_>) {
        Session::kill(self, &mut shared.context(core));
    }

    fn rest(&mut self, shared: &mut Shared) {
        Session::rest(self, &mut shared.local.chunks);
    }

    #[inline]
    fn stage(&self) -> Stage {
        match self.state {
            State::Login(_) | State::Full => Stage::Open,
            State::Leaving => Stage::Leaving,
            State::Dead => Stage::Dead,
        }
    }

    #[inline]
    fn may_receive(&self) -> bool {
        Session::may_receive(self)
    }

    #[inline]
    fn is_starved(&self) -> bool {
        Session::is_starved(self)
    }

    #[inline]
    fn is_farewell_sent(&self) -> bool {
        Session::is_farewell_sent(self)
    }

    #[inline]
    fn is_finished(&self) -> bool {
        Session::is_finished(self)
    }

    fn running(&self) -> usize {
        Session::running(self)
    }

    #[inline]
    fn entries(&self) -> Option<usize> {
        // A session keeps its number of commands to its end, also when it has left its target.
        let is_more = self.member.is_some() || self.slots.count() > 0;
        is_more.then(|| self.slots.count())
    }

    #[inline]
    fn completed(&mut self, slot: u16, status: Status, shared: &mut Shared, core: &mut Core<'_>) {
        Session::completed(self, slot, status, &mut shared.context(core));
    }

    fn ended(&mut self, shared: &mut Shared) {
        if self.is_violated() {
            shared.target.counters.violation();
        }
    }

    fn buried(&mut self, shared: &mut Shared) {
        self.leave(&shared.target, &mut shared.local.outbox);
        shared.target.connection_ended(shared.local.core);
    }
}

/// The target on one core.
pub struct Worker {
    shared: Shared,
    frame: Frame<Session<LendList>>,
}

impl Worker {
    /// The part of `target` on a core; `listeners` on the one core that accepts.
    pub fn new(target: Arc<Target>, listeners: Vec<TcpListener>, core: &mut Core<'_>) -> Self {
        let geometry = |device| core.limits(device).map(|limits| Geometry::of(limits));
        let local = Local {
            core: core.index(),
            chunks: ChunkPool::default(),
            units: LocalUnits::new(&target, geometry),
            outbox: Vec::new(),
            waiters: Vec::new(),
            background: Background::default(),
        };
        Self {
            shared: Shared { target, local },
            frame: Frame::new(listeners, core),
        }
    }

    /// Takes a connection in.
    fn admit(&mut self, socket: OwnedFd, core: &mut Core<'_>) {
        if !self.frame.admit(socket, core, Session::new) {
            let shared = &self.shared;
            shared.target.connection_ended(shared.local.core);
        }
    }

    /// Spreads the connections that a listener has over the cores.
    fn accept(&mut self, listener: usize, core: &mut Core<'_>) {
        for socket in self.frame.accept(listener, core) {
            let Some(to) = self.shared.target.choose_core() else {
                continue;
            };
            if to == self.shared.local.core {
                self.admit(socket, core);
            } else {
                core.send(to, Box::new(Message::Accepted(socket)));
            }
        }
    }

    /// Calls `f` for a connection that is still there.
    fn with(
        &mut self,
        key: SessionKey,
        core: &mut Core<'_>,
        f: impl FnOnce(&mut Session<LendList>, &mut Context<'_, Core<'_>>),
    ) {
        let Some(index) = self.frame.find(key) else {
            return;
        };
        if let Some(connection) = self.frame.get_mut(index) {
            f(&mut connection.session, &mut self.shared.context(core));
        }
        self.frame.activate(index);
    }

    fn handle(&mut self, message: Message, core: &mut Core<'_>) {
        match message {
            Message::Accepted(socket) => self.admit(socket, core),
            Message::Listen(listener) => self.frame.listen(listener, core),
            Message::CloseListener { address, done } => {
                self.frame.close_listener(address, core);
                drop(done);
            }
            Message::Close(key) => {
                if let Some(index) = self.frame.find(key) {
                    self.frame.end(index, &mut self.shared, core);
                }
            }
            Message::Retry(key) => {
                self.with(key, core, |session, cx| session.login_again(cx));
            }
            Message::Abort {
                target,
                lun,
                whose,
                tells,
                from,
            } => self.abort(target, lun, whose, &tells, from, core),
            Message::Changed(target, who) => self.change(target, who, core),
            Message::Aborted(key, number) => {
                self.with(key, core, |session, cx| session.abort_answered(number, cx));
                self.frame.settle(key.index, &mut self.shared);
            }
            Message::Kept(key, slot, answer) => {
                self.with(key, core, |session, cx| session.kept(slot, answer, cx));
                // It may have been the last that a connection waited for that is over.
                self.frame.settle(key.index, &mut self.shared);
            }
            Message::Drain { target, lun, from } => self.drain(target, lun, from),
            Message::Drained(number) => self.shared.local.background.drained(number),
            Message::Left(key, slot, number, outcome) => {
                self.with(key, core, |session, cx| {
                    session.left_ended(slot, number, outcome, cx);
                });
                self.frame.settle(key.index, &mut self.shared);
            }
            Message::Report(reply) => {
                // Whoever asked may have gone.
                let _ = reply.send(self.unit_reports());
            }
            Message::Connections(reply) => {
                let _ = reply.send(self.connection_reports());
            }
        }
    }

    /// Aborts commands of this core's sessions with a target.
    fn abort(
        &mut self,
        target: TargetId,
        lun: Option<u16>,
        whose: Whose,
        tells: &LunSet,
        from: Option<(SessionKey, u32)>,
        core: &mut Core<'_>,
    ) {
        let token = Rc::new(());
        for index in 0..self.frame.places() {
            let Some(connection) = self.frame.get_mut(index) else {
                continue;
            };
            let session = &mut connection.session;
            let member = session.member.as_ref();
            let concerned =
                member
                    .and_then(|member| member.nexus.as_ref())
                    .is_some_and(|(id, nexus)| {
                        *id == target
                            && (whose == Whose::Everybodys || whose == Whose::Of(nexus.id))
                    });
            if concerned {
                let cx = &mut self.shared.context(core);
                let asks = from.map(|(key, _)| key);
                session.ended_by(asks, lun, whose, tells, &token, cx);
                self.frame.activate(index);
            }
        }
        if let Some((who, number)) = from {
            let who = Waits::Session(who, number);
            self.shared.local.waiters.push(Waiter { token, who });
        }
    }

    /// Waits for the commands that this core's sessions have accepted for a unit.
    fn drain(&mut self, target: TargetId, lun: u16, (core, number): (CoreId, u32)) {
        let token = Rc::new(());
        for index in 0..self.frame.places() {
            if let Some(connection) = self.frame.get_mut(index)
                && connection.session.target() == Some(target)
            {
                connection.session.share_with(lun, &token);
            }
        }
        let who = Waits::Background(core, number);
        self.shared.local.waiters.push(Waiter { token, who });
    }

    /// A target is another, or gone: ends what units that are gone have, and tells its sessions.
    fn change(&mut self, target: TargetId, who: Waits, core: &mut Core<'_>) {
        let now = self.shared.target.get(target);
        let units = &self.shared.local.units;
        let gone: LunSet = units.gone(target, now.as_deref()).into_iter().collect();
        let before = units.served(target).cloned();
        let token = Rc::new(());
        let sessions: Vec<u32> = (0..self.frame.places())
            .filter(|&index| {
                let connection = self.frame.get_mut(index);
                connection.is_some_and(|connection| connection.session.target() == Some(target))
            })
            .collect();
        // While this core still knows their devices.
        for &index in &sessions {
            if let Some(connection) = self.frame.get_mut(index) {
                let cx = &mut self.shared.context(core);
                connection
                    .session
                    .give_up_units(&gone, now.as_deref(), &token, cx);
            }
        }
        let Local {
            units, background, ..
        } = &mut self.shared.local;
        background.abort(target, &gone, &token, units, core);
        let geometry = |device| core.limits(device).map(|limits| Geometry::of(limits));
        units.replace(target, now.clone(), geometry);
        for index in sessions {
            if let Some(connection) = self.frame.get_mut(index) {
                let session = &mut connection.session;
                match &now {
                    Some(served) => session.target_changed(before.as_deref(), served),
                    None => session.target_removed(),
                }
                self.frame.activate(index);
            }
        }
        self.shared.local.waiters.push(Waiter { token, who });
    }

    /// Answers those whose commands are gone, and sends what sessions had to say to other cores.
    fn send_out(&mut self, core: &mut Core<'_>) {
        // What is for this core may lead to more.
        loop {
            let local = &mut self.shared.local;
            let outbox = &mut local.outbox;
            local.waiters.retain(|waiter| {
                let waits = Rc::strong_count(&waiter.token) > 1;
                if !waits {
                    outbox.extend(waiter.answer());
                }
                waits
            });
            if local.outbox.is_empty() {
                return;
            }
            for (to, message) in std::mem::take(&mut local.outbox) {
                if to == self.shared.local.core {
                    self.handle(message, core);
                } else {
                    core.send(to, Box::new(message));
                }
            }
        }
    }

    fn unit_reports(&self) -> Vec<UnitReport> {
        let shared = &self.shared;
        let mut all = Vec::new();
        for (id, served) in shared.local.units.targets() {
            for unit in &served.units {
                if let Some(local) = shared.local.units.get(id, unit.lun) {
                    all.push(UnitReport {
                        iqn: served.iqn.clone(),
                        lun: unit.lun,
                        device_name: unit.device_name.clone(),
                        stats: (*local.stats).clone(),
                    });
                }
            }
        }
        all
    }

    fn connection_reports(&self) -> Vec<ConnectionReport> {
        let shared = &self.shared;
        let report = |connection: &Connection<Session<LendList>>| {
            let session = &connection.session;
            let member = session.member.as_ref();
            let target = member.and_then(|member| member.nexus.as_ref());
            ConnectionReport {
                core: shared.local.core.0,
                peer: connection
                    .peer()
                    .map(|peer| peer.to_string())
                    .unwrap_or_default(),
                iqn: target
                    .and_then(|(id, _)| Some(shared.local.units.served(*id)?.iqn.clone()))
                    .unwrap_or_default(),
                initiator: member
                    .map(|member| member.initiator.clone())
                    .unwrap_or_default(),
                session: member.map_or(0, |member| member.session),
                outstanding: session.outstanding(),
                stats: (*session.stats).clone(),
                digests: session.digests(),
            }
        };
        self.frame.connections().map(report).collect()
    }
}

impl FrontEnd for Worker {
    fn poll(&mut self, core: &mut Core<'_>) -> bool {
        let mut worked = self.frame.poll(&mut self.shared, core);
        let Local {
            units,
            background,
            outbox,
            ..
        } = &mut self.shared.local;
        worked |= background.poll(units, core, outbox);
        let local = &self.shared.local;
        if !local.outbox.is_empty() || !local.waiters.is_empty() {
            self.send_out(core);
        }
        worked
    }

    fn completed(&mut self, done: &[(u32, Status)], core: &mut Core<'_>) {
        self.frame.completed(done, &mut self.shared, core);
        let background = &mut self.shared.local.background;
        if !background.is_empty() {
            for &(tag, status) in done {
                background.completed(tag, status);
            }
        }
    }

    fn ready(&mut self, token: u32, readiness: Readiness, core: &mut Core<'_>) {
        if let Some(listener) = self.frame.ready(token, readiness) {
            self.accept(listener, core);
        }
    }

    fn timer(&mut self, token: u32, core: &mut Core<'_>) {
        let keep_alive_ns = self.shared.target.keep_alive_ns();
        let is_lost = |session: &mut Session<LendList>, _: &mut Shared, core: &mut Core<'_>| {
            session.is_lost(core.now_ns(), keep_alive_ns)
        };
        self.frame.timer(token, &mut self.shared, core, is_lost);
        self.send_out(core);
    }

    fn message(&mut self, message: Box<dyn Any + Send>, core: &mut Core<'_>) {
        if let Ok(message) = message.downcast::<Message>() {
            self.handle(*message, core);
            self.send_out(core);
        }
    }

    fn device_changed(&mut self, device: DeviceId, core: &mut Core<'_>) {
        let geometry = core.limits(device).map(|limits| Geometry::of(limits));
        let Shared { target, local } = &mut self.shared;
        local.device_changed(target, device, geometry);
    }

    fn before_sleep(&mut self, core: &mut Core<'_>) -> bool {
        let may_sleep = self.frame.before_sleep(&mut self.shared);
        self.send_out(core);
        may_sleep && !self.shared.local.background.is_busy()
    }

    fn stop(&mut self, core: &mut Core<'_>) {
        for index in 0..self.frame.places() {
            if let Some(connection) = self.frame.get_mut(index) {
                connection.session.announce_end();
            }
        }
        self.shared.local.background.stop();
        self.frame.stop(core);
    }

    fn stopped(&self) -> bool {
        self.frame.stopped() && self.shared.local.background.is_empty()
    }
}
