//! The target's part on one core: its connections in their frame, its copy of the namespaces, and what cores tell each other.

use std::any::Any;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam_channel::Sender;

use super::message::{ConnectionReport, Message, NamespaceReport};
use super::session::{Context, Local, Session, State};
use super::target::{DISCOVERY, SubsystemId, Target, Totals};
use crate::bdev::LendList;
use crate::dm::{DeviceId, Geometry, Status};
use crate::engine::{Core, FrontEnd};
use crate::export::connection::Connection;
use crate::export::frame::Frame;
use crate::export::protocol::{Protocol, Stage};
use crate::export::stats::Kind;
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

    fn is_reached_at(&mut self, local: SocketAddr, _peer: Option<SocketAddr>) {
        self.local_ip = Some(local.ip());
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
            State::Initialize | State::Open => Stage::Open,
            State::Terminating => Stage::Leaving,
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
        self.queue.as_ref().map(|queue| queue.entries as usize)
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
        let was_admin = self.queue.as_ref().is_some_and(|queue| queue.id == 0);
        shared.target.connection_ended(shared.local.core, was_admin);
    }
}

/// The target on one core.
pub struct Worker {
    shared: Shared,
    frame: Frame<Session<LendList>>,
    /// Who waits for this core to be done with a device.
    leaving: Vec<(SubsystemId, DeviceId, Sender<()>)>,
    /// NSIDs that changed and that hosts hear of when every core serves the change.
    untold: Vec<(SubsystemId, Vec<u32>)>,
}

impl Worker {
    /// The part of `target` on a core; `listeners` on the one core that accepts.
    pub fn new(target: Arc<Target>, listeners: Vec<TcpListener>, core: &mut Core<'_>) -> Self {
        let local = Local::new(core.index());
        let mut worker = Self {
            shared: Shared { target, local },
            frame: Frame::new(listeners, core),
            leaving: Vec::new(),
            untold: Vec::new(),
        };
        for subsystem in worker.shared.target.subsystem_ids() {
            let ana = worker.shared.target.ana(subsystem);
            let namespaces = worker.shared.local.namespaces(subsystem);
            namespaces.enforce_ana(ana);
            namespaces.report_ana(ana);
            worker.refresh(subsystem, core);
        }
        worker
    }

    /// Calls `f` for a connection.
    fn with<R>(
        &mut self,
        index: u32,
        core: &mut Core<'_>,
        f: impl FnOnce(&mut Connection<Session<LendList>>, &mut Context<'_, Core<'_>>) -> R,
    ) -> Option<R> {
        let connection = self.frame.get_mut(index)?;
        Some(f(connection, &mut self.shared.context(core)))
    }

    /// Takes a connection in.
    fn admit(&mut self, socket: OwnedFd, core: &mut Core<'_>) {
        if !self.frame.admit(socket, core, Session::new) {
            let shared = &self.shared;
            shared.target.connection_ended(shared.local.core, false);
        }
    }

    fn publish(&mut self) {
        for (index, namespaces) in self.shared.local.namespaces.iter().enumerate() {
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
            self.shared
                .target
                .publish_totals(subsystem, self.shared.local.core, totals);
        }
    }

    /// Sends what sessions had to say to other cores.
    #[inline]
    fn send_out(&mut self, core: &mut Core<'_>) {
        for (to, message) in self.shared.local.outbox.drain(..) {
            core.send(to, Box::new(message));
        }
    }

    /// Takes over a subsystem's namespaces as they are now; the NSIDs whose hosts see a change.
    fn refresh(&mut self, subsystem: SubsystemId, core: &mut Core<'_>) -> Vec<u32> {
        let list = self.shared.target.namespaces(subsystem);
        let geometry = |device| core.limits(device).map(|limits| Geometry::of(limits));
        self.shared
            .local
            .namespaces(subsystem)
            .replace(&list, geometry)
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
        for index in 0..self.frame.places() {
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
                self.frame.activate(index);
            }
        }
    }

    /// Lets go of those who wait for a device that this core is done with.
    fn answer_leaving(&mut self) {
        let local = &mut self.shared.local;
        self.leaving
            .retain(|(subsystem, device, _)| local.namespaces(*subsystem).is_leaving(*device));
    }

    fn handle(&mut self, message: Message, core: &mut Core<'_>) {
        match message {
            Message::Accepted(socket) => self.admit(socket, core),
            Message::Close(key) => {
                if let Some(index) = self.frame.find(key) {
                    self.frame.end(index, &mut self.shared, core);
                }
            }
            Message::Abort {
                queue,
                command_id,
                admin,
                slot,
            } => {
                let index = self.frame.find(queue);
                let found = index
                    .and_then(|index| {
                        self.frame.activate(index);
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
                if let Some(index) = self.frame.find(admin) {
                    self.with(index, core, |connection, cx| {
                        connection.session.abort_answered(slot, found, cx)
                    });
                    self.frame.activate(index);
                }
            }
            Message::Publish { admin, slot } => {
                self.publish();
                core.send(admin.core, Box::new(Message::Published { admin, slot }));
            }
            Message::Published { admin, slot } => {
                if let Some(index) = self.frame.find(admin) {
                    self.with(index, core, |connection, cx| {
                        connection.session.totals_published(slot, cx);
                    });
                    self.frame.activate(index);
                }
            }
            Message::Namespaces {
                subsystem,
                removed,
                served,
                left,
            } => {
                let changed = self.refresh(subsystem, core);
                self.untold.push((subsystem, changed));
                drop(served);
                if let Some(device) = removed {
                    self.leaving.push((subsystem, device, left));
                    self.answer_leaving();
                }
            }
            Message::NamespacesReported { subsystem } => {
                let untold = self.untold.extract_if(.., |(of, _)| *of == subsystem);
                let changed: Vec<u32> = untold.flat_map(|(_, nsids)| nsids).collect();
                self.tell_changed(subsystem, &changed, core);
            }
            Message::AnaEnforced {
                subsystem,
                state,
                done,
            } => {
                self.shared.local.namespaces(subsystem).enforce_ana(state);
                drop(done);
            }
            Message::AnaReported { subsystem, state } => {
                let changed = self.shared.local.namespaces(subsystem).report_ana(state);
                if changed && state.is_notified() {
                    self.tell_controllers(subsystem, core, |session, cx| session.ana_changed(cx));
                }
            }
            Message::DiscoveryChanged => {
                for index in 0..self.frame.places() {
                    self.with(index, core, |connection, cx| {
                        connection.session.discovery_changed(cx)
                    });
                    self.frame.activate(index);
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
        for (index, namespaces) in self.shared.local.namespaces.iter().enumerate() {
            let subsystem = SubsystemId(index as u32);
            let Some(nqn) = self
                .shared
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
        let report = |connection: &Connection<_>| {
            let connection: &Connection<Session<LendList>> = connection;
            let session = &connection.session;
            let queue = session.queue.as_ref();
            ConnectionReport {
                core: self.shared.local.core.0,
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
        self.frame.connections().map(report).collect()
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
}

impl FrontEnd for Worker {
    fn poll(&mut self, core: &mut Core<'_>) -> bool {
        let worked = self.frame.poll(&mut self.shared, core);
        if !self.shared.local.outbox.is_empty() {
            self.send_out(core);
        }
        worked
    }

    fn completed(&mut self, done: &[(u32, Status)], core: &mut Core<'_>) {
        self.frame.completed(done, &mut self.shared, core);
        if !self.leaving.is_empty() {
            self.answer_leaving();
        }
    }

    fn ready(&mut self, token: u32, readiness: Readiness, core: &mut Core<'_>) {
        if let Some(listener) = self.frame.ready(token, readiness) {
            self.accept(listener, core);
        }
    }

    fn timer(&mut self, token: u32, core: &mut Core<'_>) {
        self.frame
            .timer(token, &mut self.shared, core, |session, shared, core| {
                let is_expired = session.is_expired(core.now_ns());
                if is_expired {
                    shared.target.counters.expiry();
                }
                is_expired
            });
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
        for index in 0..self.shared.local.namespaces.len() {
            let changed = self.shared.local.namespaces[index].device_changed(device, geometry);
            self.tell_changed(SubsystemId(index as u32), &changed, core);
        }
    }

    fn before_sleep(&mut self, core: &mut Core<'_>) -> bool {
        let may_sleep = self.frame.before_sleep(&mut self.shared);
        self.send_out(core);
        may_sleep
    }

    fn stop(&mut self, core: &mut Core<'_>) {
        self.frame.stop(core);
    }

    fn stopped(&self) -> bool {
        self.frame.stopped()
    }
}
