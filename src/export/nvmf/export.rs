//! The target as the node sees it: started, changed at run time, asked about.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::config::{Config, ConfigError, Hosts, NamespaceConfig, SubsystemConfig};
use super::message::{ConnectionReport, Message, NamespaceReport};
use super::target::{ControllerSnapshot, SessionKey, SubsystemId, SubsystemSnapshot, Target};
use super::worker::Worker;
use crate::dm::{CoreId, DeviceId};
use crate::engine::{ClientId, Engine};
use crate::export::frame::ACCEPTING_CORE;
use crate::export::listener::{self, BindError};
use crate::nvme::log::AnaState;

/// How long a question to a core may take before the answer goes without it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the target did not start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration.
    Config(ConfigError),
    /// An address.
    Bind(BindError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Bind(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

/// The target, its connections and controllers at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// Connections, in order of core.
    pub connections: Vec<ConnectionReport>,
    /// The subsystems, in the order they were made.
    pub subsystems: Vec<SubsystemSnapshot>,
    /// Controllers, in order of subsystem.
    pub controllers: Vec<ControllerSnapshot>,
    /// Connections accepted so far.
    pub accepted: u64,
    /// Connections refused because there were too many.
    pub refused: u64,
    /// Connections ended for a violation of the protocol.
    pub violations: u64,
    /// Controllers whose keep alive timer expired.
    pub keep_alive_expired: u64,
}

/// A running target.
pub struct Export {
    target: Arc<Target>,
    client: ClientId,
    cores: u16,
    /// Held by a change of namespaces or of ANA state until every core has it, so that two changes at once do not meet in different orders, and hosts
    /// are not told of the one because the other is complete.
    change: Mutex<()>,
}

impl Export {
    /// Binds all listeners and adds the target to every core of the engine.
    ///
    /// # Errors
    /// What is wrong with the configuration, or the address that cannot be had. Nothing has been started then.
    pub fn start(engine: &Engine, config: &Config) -> Result<Self, StartError> {
        let target = Target::new(config, engine.cores()).map_err(StartError::Config)?;
        let (listeners, addresses) = listener::bind(&config.listeners).map_err(StartError::Bind)?;
        target.set_addresses(addresses);
        let target = Arc::new(target);
        let listeners = Mutex::new(Some(listeners));
        let shared = Arc::clone(&target);
        let client = engine.add_front_end(move |_, core| {
            let listeners = if core.index() == ACCEPTING_CORE {
                listeners
                    .lock()
                    .map(|mut listeners| listeners.take())
                    .unwrap_or_default()
                    .unwrap_or_default()
            } else {
                Vec::new()
            };
            Box::new(Worker::new(Arc::clone(&shared), listeners, core))
        });
        Ok(Self {
            target,
            client,
            cores: engine.cores(),
            change: Mutex::default(),
        })
    }

    /// Where the target listens; with port 0 in the configuration, what the system chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.target.addresses()
    }

    /// Adds a namespace; hosts are told at once.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn add_namespace(
        &self,
        engine: &Engine,
        nqn: &str,
        config: &NamespaceConfig,
    ) -> Result<(), ConfigError> {
        let _changing = self.lock_change();
        let subsystem = self.target.add_namespace(nqn, config)?;
        self.namespaces_changed(engine, subsystem, None);
        Ok(())
    }

    /// Removes a namespace; hosts are told at once. The receiver is disconnected when no core has commands at the device
    /// any more: then it may be removed.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn remove_namespace(
        &self,
        engine: &Engine,
        nqn: &str,
        nsid: u32,
    ) -> Result<(DeviceId, Receiver<()>), ConfigError> {
        let _changing = self.lock_change();
        let (subsystem, device) = self.target.remove_namespace(nqn, nsid)?;
        Ok((
            device,
            self.namespaces_changed(engine, subsystem, Some(device)),
        ))
    }

    /// Adds a subsystem; discovery controllers tell their hosts.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn add_subsystem(
        &self,
        engine: &Engine,
        config: &SubsystemConfig,
    ) -> Result<(), ConfigError> {
        let _changing = self.lock_change();
        let subsystem = self.target.add_subsystem(config)?;
        // Before any host finds a namespace in it.
        self.ana_changed(engine, subsystem, config.ana);
        self.namespaces_changed(engine, subsystem, None);
        self.discovery_changed(engine, &[]);
        Ok(())
    }

    /// Removes a subsystem and closes its connections; discovery controllers tell their hosts.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn remove_subsystem(&self, engine: &Engine, nqn: &str) -> Result<(), ConfigError> {
        let _changing = self.lock_change();
        let (subsystem, sessions) = self.target.remove_subsystem(nqn)?;
        self.namespaces_changed(engine, subsystem, None);
        self.discovery_changed(engine, &sessions);
        Ok(())
    }

    /// Changes who may connect to a subsystem and closes connections of hosts that no longer may.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn set_hosts(&self, engine: &Engine, nqn: &str, hosts: Hosts) -> Result<(), ConfigError> {
        let sessions = self.target.set_hosts(nqn, hosts)?;
        self.discovery_changed(engine, &sessions);
        Ok(())
    }

    /// Changes the ANA state of a subsystem. I/O that arrives afterwards is judged by it, I/O that is executing ends as it would have; then
    /// hosts are told. Out of persistent loss, connections are closed: hosts have to connect anew.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn set_ana(&self, engine: &Engine, nqn: &str, ana: AnaState) -> Result<(), ConfigError> {
        let _changing = self.lock_change();
        if let Some((subsystem, sessions)) = self.target.set_ana(nqn, ana)? {
            self.close(engine, &sessions);
            self.ana_changed(engine, subsystem, ana);
        }
        Ok(())
    }

    /// Connections and controllers.
    pub fn snapshot(&self, engine: &Engine) -> Snapshot {
        let counters = &self.target.counters;
        Snapshot {
            addresses: self.addresses().to_vec(),
            connections: self.ask(engine, Message::Connections),
            subsystems: self.target.subsystems(),
            controllers: self.target.snapshot(),
            accepted: counters.get(&counters.accepted),
            refused: counters.get(&counters.refused),
            violations: counters.get(&counters.violations),
            keep_alive_expired: counters.get(&counters.keep_alive_expired),
        }
    }

    /// Counters and latencies of every namespace, all cores added up, in order of subsystem and NSID.
    pub fn stats(&self, engine: &Engine) -> Vec<NamespaceReport> {
        let mut merged: BTreeMap<(String, u32), NamespaceReport> = BTreeMap::new();
        for report in self.ask(engine, Message::Report) {
            let key = (report.subsystem_nqn.clone(), report.nsid);
            match merged.get_mut(&key) {
                Some(sum) => sum.stats.merge(&report.stats),
                None => {
                    merged.insert(key, report);
                }
            }
        }
        merged.into_values().collect()
    }

    /// Asks every core and gathers what they answer. A core that does not answer in time is left out: it is stopping.
    fn ask<T>(&self, engine: &Engine, question: impl Fn(Sender<Vec<T>>) -> Message) -> Vec<T> {
        let (sender, receiver) = bounded(usize::from(self.cores));
        self.tell_all(engine, || question(sender.clone()));
        drop(sender);
        let mut all = Vec::new();
        for _ in 0..self.cores {
            match receiver.recv_timeout(ANSWER_TIMEOUT) {
                Ok(part) => all.extend(part),
                Err(_) => break,
            }
        }
        all
    }

    fn tell_all(&self, engine: &Engine, message: impl Fn() -> Message) {
        for core in 0..self.cores {
            engine.tell(CoreId(core), self.client, Box::new(message()));
        }
    }

    /// In two steps: a new namespace is served on every core before the first of them tells a host of it. The receiver is disconnected
    /// when no core has commands at the removed device.
    fn namespaces_changed(
        &self,
        engine: &Engine,
        subsystem: SubsystemId,
        removed: Option<DeviceId>,
    ) -> Receiver<()> {
        let (served, all_serve) = bounded::<()>(0);
        let (left, all_left) = bounded(0);
        self.tell_all(engine, || Message::Namespaces {
            subsystem,
            removed,
            served: served.clone(),
            left: left.clone(),
        });
        drop(served);
        await_all(&all_serve);
        self.tell_all(engine, || Message::NamespacesReported { subsystem });
        all_left
    }

    fn lock_change(&self) -> MutexGuard<'_, ()> {
        // It guards an order of messages, not a value that could be left half-changed.
        self.change
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// In two steps: what hosts are told holds on every core before the first of them hears it.
    fn ana_changed(&self, engine: &Engine, subsystem: SubsystemId, state: AnaState) {
        let (done, all_enforce) = bounded::<()>(0);
        self.tell_all(engine, || Message::AnaEnforced {
            subsystem,
            state,
            done: done.clone(),
        });
        drop(done);
        await_all(&all_enforce);
        self.tell_all(engine, || Message::AnaReported { subsystem, state });
    }

    fn close(&self, engine: &Engine, sessions: &[SessionKey]) {
        for &session in sessions {
            engine.tell(session.core, self.client, Box::new(Message::Close(session)));
        }
    }

    fn discovery_changed(&self, engine: &Engine, ended: &[SessionKey]) {
        self.close(engine, ended);
        self.tell_all(engine, || Message::DiscoveryChanged);
    }
}

/// Waits until every core has dropped its sender, which nobody sends by. A core that takes longer is stopping.
fn await_all(senders: &Receiver<()>) {
    let _ = senders.recv_timeout(ANSWER_TIMEOUT);
}
