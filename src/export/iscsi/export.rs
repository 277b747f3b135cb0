//! The target as the node sees it: started, asked about.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::changes::ChangeError;
use super::chap::Chap;
use super::config::{Config, LunConfig, PORTALS_MAX, Redirect, TargetChange, TargetConfig};
use super::initiators::Initiators;
use super::keeper::Records;
use super::message::{ConnectionReport, Message, UnitReport};
use super::session::Waits;
use super::store::Store;
use super::target::{Target, TargetId};
use super::worker::Worker;
use crate::dm::{CoreId, DeviceId};
use crate::engine::{ClientId, Engine};
use crate::export::frame::ACCEPTING_CORE;
use crate::export::listener::{self, BindError};
use crate::scsi::Access;

/// How long a question to a core may take before the answer goes without it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A target and what it serves.
#[derive(Clone, Debug)]
pub struct TargetSnapshot {
    /// Its name.
    pub iqn: String,
    /// Who may log in.
    pub initiators: Initiators,
    /// Whether initiators have to prove who they are; true when the target has to as well.
    pub chap: Option<bool>,
    /// The portal groups that it is reached through, and how well.
    pub ports: Vec<(u16, Access)>,
    /// Initiators may change how well.
    pub explicit_alua: bool,
    /// Where initiators are sent instead.
    pub redirect: Option<Redirect>,
    /// Its units.
    pub luns: Vec<LunSnapshot>,
}

/// A logical unit.
#[derive(Clone, Debug)]
pub struct LunSnapshot {
    /// Its number.
    pub lun: u16,
    /// The device's name.
    pub device: String,
    /// The initiators that see it.
    pub initiators: Initiators,
    /// Its serial number.
    pub serial: String,
}

/// The target and its connections at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Where it listens, each with the tag of its portal group.
    pub addresses: Vec<(SocketAddr, u16)>,
    /// Whether initiators have to prove who they are for discovery; true when the target has to as well.
    pub discovery: Option<bool>,
    /// Targets, in the order of the configuration.
    pub targets: Vec<TargetSnapshot>,
    /// Connections, in order of core.
    pub connections: Vec<ConnectionReport>,
    /// Connections accepted so far.
    pub accepted: u64,
    /// Connections refused because there were too many.
    pub refused: u64,
    /// Connections ended for a violation of the protocol.
    pub violations: u64,
    /// Logins refused.
    pub logins_refused: u64,
}

/// Why a target was not started.
#[derive(Debug)]
pub enum StartError {
    /// An address that it cannot listen on.
    Bind(BindError),
    /// What was kept of a unit cannot be read, or nothing can be kept.
    Records(String),
}

impl From<BindError> for StartError {
    fn from(error: BindError) -> Self {
        Self::Bind(error)
    }
}

/// A running target.
pub struct Export {
    target: Arc<Target>,
    keeper: Option<JoinHandle<()>>,
    client: ClientId,
    cores: u16,
}

impl Export {
    /// Binds all portals and adds the target to every core of the engine. With a `store`, reservations outlive it.
    ///
    /// # Errors
    /// The address that cannot be had, or the record that cannot be read. Nothing has been started then.
    pub fn start(
        engine: &Engine,
        config: &Config,
        store: Option<Store>,
    ) -> Result<Self, StartError> {
        let (records, keeper) = store.map(Records::new).unzip();
        let target = Target::new(config, engine.cores(), records);
        let target = target.map_err(StartError::Records)?;
        let groups = config.groups.iter();
        let portals: Vec<(SocketAddr, u16)> = groups
            .flat_map(|group| group.portals.iter().map(|portal| (*portal, group.tag)))
            .collect();
        let addresses: Vec<SocketAddr> = portals.iter().map(|(portal, _)| *portal).collect();
        let (listeners, bound) = listener::bind(&addresses)?;
        for (address, (_, tag)) in bound.into_iter().zip(&portals) {
            target.listens(address, *tag);
        }
        let (tellers, teller) = bounded(1);
        let keeper = keeper.map(|keeper| keeper.start(teller)).transpose();
        let keeper = keeper.map_err(|error| {
            StartError::Records(format!("cannot start the thread that keeps them: {error}"))
        })?;
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
        if keeper.is_some() {
            // It waits for just that.
            let _ = tellers.send(engine.teller(client));
        }
        Ok(Self {
            target,
            keeper,
            client,
            cores: engine.cores(),
        })
    }

    /// Where the target listens; with port 0 in the configuration, what the system chose.
    pub fn addresses(&self) -> Vec<(SocketAddr, u16)> {
        self.target.addresses()
    }

    /// Adds a target.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn add_target(&self, engine: &Engine, config: &TargetConfig) -> Result<(), ChangeError> {
        let id = self.target.add_target(config)?;
        self.changed(engine, id);
        Ok(())
    }

    /// Removes a target and ends its sessions; answers the devices of its units. The receiver is disconnected when no core has commands at
    /// them any more: then they may be let go of.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn remove_target(
        &self,
        engine: &Engine,
        iqn: &str,
    ) -> Result<(Vec<DeviceId>, Receiver<()>), ChangeError> {
        let (id, devices) = self.target.remove_target(iqn)?;
        Ok((devices, self.changed(engine, id)))
    }

    /// Changes who may log in to a target, how they prove it, which ways lead there, and where they are sent. Sessions of initiators that may no
    /// longer log in, or not the way they came, end; the others go on, whatever they would have to prove now. Returns when no core has commands of
    /// the former any more.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn set_target(
        &self,
        engine: &Engine,
        iqn: &str,
        change: &TargetChange,
    ) -> Result<(), ChangeError> {
        let id = self.target.set_target(iqn, change)?;
        await_all(&self.changed(engine, id));
        Ok(())
    }

    /// Changes who sees a unit. Initiators are told; commands of those that no longer see it are aborted. Returns when no core has any of them.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn set_unit(
        &self,
        engine: &Engine,
        iqn: &str,
        lun: u16,
        initiators: Initiators,
    ) -> Result<(), ChangeError> {
        let id = self.target.set_unit(iqn, lun, initiators)?;
        await_all(&self.changed(engine, id));
        Ok(())
    }

    /// Listens on one more address of a portal group, which may be new; answers it, with the port that the system chose for port 0.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn add_portal(
        &self,
        engine: &Engine,
        address: SocketAddr,
        group: u16,
    ) -> Result<SocketAddr, ChangeError> {
        if self.addresses().len() >= PORTALS_MAX {
            return Err(ChangeError::TooManyPortals);
        }
        let bound = listener::bind(&[address]);
        let (listeners, bound) = bound.map_err(|error| ChangeError::Bind(error.to_string()))?;
        for (listener, &address) in listeners.into_iter().zip(&bound) {
            // Before anybody can come by it.
            self.target.listens(address, group);
            let message = Message::Listen(listener);
            engine.tell(ACCEPTING_CORE, self.client, Box::new(message));
        }
        Ok(bound[0])
    }

    /// Listens on an address no longer. Connections that came by it stay.
    ///
    /// # Errors
    /// When there is no such portal.
    pub fn remove_portal(&self, engine: &Engine, address: SocketAddr) -> Result<(), ChangeError> {
        self.target.close_portal(address)?;
        let (done, closed) = bounded(0);
        let message = Message::CloseListener { address, done };
        engine.tell(ACCEPTING_CORE, self.client, Box::new(message));
        await_all(&closed);
        Ok(())
    }

    /// Changes what discovery asks of initiators, from the next login on.
    pub fn set_discovery(&self, chap: Option<Chap>) {
        self.target.set_discovery(chap);
    }

    /// Changes how long an initiator may be silent before it is asked whether it is there, and then before it is gone.
    pub fn set_keep_alive(&self, keep_alive: Duration) {
        self.target.set_keep_alive(keep_alive);
    }

    /// Adds a unit; initiators that see it are told.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn add_unit(&self, engine: &Engine, iqn: &str, lun: &LunConfig) -> Result<(), ChangeError> {
        let id = self.target.add_unit(iqn, lun)?;
        self.changed(engine, id);
        Ok(())
    }

    /// Removes a unit, ends its commands and tells its initiators. The device may be let go of when the receiver is disconnected.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn remove_unit(
        &self,
        engine: &Engine,
        iqn: &str,
        lun: u16,
    ) -> Result<(DeviceId, Receiver<()>), ChangeError> {
        let (id, device) = self.target.remove_unit(iqn, lun)?;
        Ok((device, self.changed(engine, id)))
    }

    /// Changes how well a target is reached through a portal group, and tells the initiators that come through it.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn set_access(
        &self,
        engine: &Engine,
        iqn: &str,
        group: u16,
        access: Access,
    ) -> Result<(), ChangeError> {
        if let Some(id) = self.target.set_access(iqn, group, access)? {
            await_all(&self.changed(engine, id));
        }
        Ok(())
    }

    /// The tags of the portal groups there are.
    pub fn groups(&self) -> Vec<u16> {
        self.target.groups()
    }

    /// Tells every core that a target is another.
    fn changed(&self, engine: &Engine, target: TargetId) -> Receiver<()> {
        let (sender, receiver) = bounded(0);
        for core in 0..self.cores {
            let message = Message::Changed(target, Waits::Operator(sender.clone()));
            engine.tell(CoreId(core), self.client, Box::new(message));
        }
        receiver
    }

    /// Targets and connections.
    pub fn snapshot(&self, engine: &Engine) -> Snapshot {
        let counters = &self.target.counters;
        let targets = self.target.targets().into_iter();
        let targets = targets.map(|(_, served)| TargetSnapshot {
            iqn: served.iqn.clone(),
            initiators: served.initiators.clone(),
            chap: served.chap.as_ref().map(|chap| chap.mutual),
            ports: served
                .ports
                .iter()
                .map(|port| (port.port.group, port.access))
                .collect(),
            explicit_alua: served.explicit_alua,
            redirect: served.redirect.clone(),
            luns: served
                .units
                .iter()
                .map(|unit| LunSnapshot {
                    lun: unit.lun,
                    device: unit.device_name.clone(),
                    initiators: unit.initiators.clone(),
                    serial: unit.unit.identity.serial.clone(),
                })
                .collect(),
        });
        Snapshot {
            addresses: self.addresses(),
            discovery: self.target.discovery().map(|chap| chap.mutual),
            targets: targets.collect(),
            connections: self.ask(engine, Message::Connections),
            accepted: counters.accepted.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            violations: counters.violations.load(Ordering::Relaxed),
            logins_refused: counters.logins_refused.load(Ordering::Relaxed),
        }
    }

    /// Counters and latencies of every unit, all cores added up, in order of target and LUN.
    pub fn stats(&self, engine: &Engine) -> Vec<UnitReport> {
        let mut merged: BTreeMap<(String, u16), UnitReport> = BTreeMap::new();
        for report in self.ask(engine, Message::Report) {
            let key = (report.iqn.clone(), report.lun);
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
        for core in 0..self.cores {
            let question = question(sender.clone());
            engine.tell(CoreId(core), self.client, Box::new(question));
        }
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
}

/// Waits until every core has dropped its sender, which nobody sends by.
fn await_all(senders: &Receiver<()>) {
    let _ = senders.recv();
}

impl Drop for Export {
    fn drop(&mut self) {
        if let Some(records) = self.target.records() {
            records.close();
        }
        // What it has been handed is on the medium before the directory may be somebody else's.
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}
