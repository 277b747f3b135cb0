//! What all cores of the target know together: subsystems, their namespaces and controllers.
//!
//! One mutex, taken on the control path only: Connect and disconnect, reset, discovery, changes by the operator, and a few admin commands. No
//! I/O command ever takes it (AT-90): what an I/O needs is in its core's own copy ([`super::namespace::LocalNamespaces`]), which a message
//! refreshes. Everything done under the lock is a look-up or an insertion; nothing waits while holding it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use super::config::{Config, ConfigError, Hosts, SubsystemConfig};
use super::namespace::{Namespace, uuid_from_names};
use super::registry::{Controller, State, Subsystem};

pub use super::registry::{format_uuid, uuid_of_namespace};
use crate::dm::CoreId;
use crate::nvme::log::AnaState;

/// I/O queues of one controller: as many as a host with 128 CPUs makes.
pub const IO_QUEUES_MAX: u16 = 128;

/// Controllers of one subsystem, one per host and path.
pub const CONTROLLERS_MAX: usize = 1024;

/// Connections of the whole target: 8 hosts with 128 queues and as many small ones. Each costs a descriptor and, once connected, the slots
/// of its queue.
pub const CONNECTIONS_MAX: u32 = 4096;

/// A subsystem's place in the target's list; 0 is the discovery subsystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubsystemId(pub u32);

/// The discovery subsystem, which has controllers but no namespaces.
pub const DISCOVERY: SubsystemId = SubsystemId(0);

pub use crate::export::frame::SessionKey;

/// What never changes about a subsystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its NQN.
    pub nqn: String,
    /// Serial number.
    pub serial: String,
    /// Model number.
    pub model: String,
}

/// Why a Connect is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such subsystem.
    SubsystemNqn,
    /// The host is not on the list.
    Host,
    /// No such controller, or it is another host's by its NQN.
    ControllerId,
    /// The host NQN is not that of the controller.
    HostNqn,
    /// The host identifier is not that of the controller.
    HostId,
    /// The queue identifier is out of range or in use.
    QueueId,
    /// The controller is not enabled.
    NotEnabled,
    /// The subsystem has all the controllers it can have.
    Busy,
}

/// A controller that a Connect made.
#[derive(Clone, Debug)]
pub struct Admission {
    /// Its subsystem.
    pub subsystem: SubsystemId,
    /// Its identifier.
    pub controller_id: u16,
    /// What the subsystem is called.
    pub identity: Arc<Identity>,
}

/// A line of the discovery log: a subsystem that a host may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovered {
    /// Its NQN.
    pub nqn: String,
    /// Whether it is the discovery subsystem itself.
    pub is_discovery: bool,
}

/// A connection's part in [`ControllerSnapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerSnapshot {
    /// The subsystem's NQN.
    pub subsystem_nqn: String,
    /// CNTLID.
    pub controller_id: u16,
    /// The host's NQN.
    pub host_nqn: String,
    /// The host's identifier.
    pub host_id: [u8; 16],
    /// Whether the host has enabled it.
    pub enabled: bool,
    /// The core of its admin queue.
    pub core: CoreId,
    /// Its I/O queues and their cores.
    pub queues: Vec<(u16, CoreId)>,
}

/// A subsystem at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsystemSnapshot {
    /// Its NQN.
    pub nqn: String,
    /// Who may connect.
    pub hosts: Hosts,
    /// Its ANA state.
    pub ana: AnaState,
    /// Its namespaces, by NSID.
    pub namespaces: Vec<Arc<Namespace>>,
}

/// Counters of the target as a whole. Written on the control path only.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections refused because there were too many.
    pub refused: AtomicU64,
    /// Connections that were ended for a violation of the protocol.
    pub violations: AtomicU64,
    /// Controllers whose keep-alive timer expired.
    pub keep_alive_expired: AtomicU64,
}

impl Counters {
    /// The value of one of them.
    pub fn get(&self, counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// A connection was ended for a violation.
    pub fn violation(&self) {
        self.violations.fetch_add(1, Ordering::Relaxed);
    }

    /// A keep-alive timer expired.
    pub fn expiry(&self) {
        self.keep_alive_expired.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a subsystem has done for its hosts, for the SMART log: published by each core when one is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Read commands, and Compare and Verify.
    pub reads: u64,
    /// Write commands.
    pub writes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads and writes that failed.
    pub errors: u64,
}

/// What all cores share.
pub struct Target {
    state: Mutex<State>,
    /// How busy each core is: see [`Target::choose_core`].
    pub(super) loads: Vec<AtomicU32>,
    connections: AtomicU32,
    addresses: OnceLock<Vec<SocketAddr>>,
    totals: Mutex<BTreeMap<(SubsystemId, CoreId), Totals>>,
    /// Counters.
    pub counters: Counters,
}

/// What a connection weighs in [`Target::choose_core`] before it is known what it is, and when it is an I/O queue.
const WEIGHT_QUEUE: u32 = 256;
/// What an admin queue weighs: next to nothing, so that it does not push an I/O queue off a core.
const WEIGHT_ADMIN: u32 = 1;

impl Target {
    /// A target for an engine with `cores` cores.
    ///
    /// # Errors
    /// As [`Config::validate`].
    pub fn new(config: &Config, cores: u16) -> Result<Self, ConfigError> {
        config.validate()?;
        let discovery_nqn = config.discovery_nqn.clone().unwrap_or_else(|| {
            let mut names: Vec<&str> = config
                .subsystems
                .iter()
                .map(|subsystem| subsystem.nqn.as_str())
                .collect();
            names.push("discovery");
            format!(
                "nqn.2014-08.org.nvmexpress:uuid:{}",
                format_uuid(&uuid_from_names(&names))
            )
        });
        let discovery = SubsystemConfig {
            nqn: discovery_nqn,
            serial: None,
            model: None,
            hosts: Hosts::Any,
            ana: AnaState::Optimized,
            namespaces: Vec::new(),
        };
        let subsystems = std::iter::once(&discovery)
            .chain(&config.subsystems)
            .map(|config| Some(Subsystem::new(config)))
            .collect();
        Ok(Self {
            state: Mutex::new(State {
                subsystems,
                generation: 1,
            }),
            loads: (0..cores).map(|_| AtomicU32::new(0)).collect(),
            connections: AtomicU32::new(0),
            addresses: OnceLock::new(),
            totals: Mutex::default(),
            counters: Counters::default(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic brings the process down, so a poisoned lock is only ever seen by tests; the state is valid between statements.
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Tells where the target listens, once it does.
    pub fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        // A second call could only repeat the first.
        let _ = self.addresses.set(addresses);
    }

    /// Where the target listens; empty until it does.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.addresses.get().map_or(&[], Vec::as_slice)
    }

    /// How many cores there are.
    pub fn cores(&self) -> u16 {
        self.loads.len() as u16
    }

    /// The core for a new connection: the one with the least to do. It is charged as an I/O queue until [`Target::is_admin`]
    /// corrects it, so that connections that arrive together spread.
    ///
    /// `None` when there are [`CONNECTIONS_MAX`] connections already.
    pub fn choose_core(&self) -> Option<CoreId> {
        if self.connections.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let load = |index: &usize| self.loads[*index].load(Ordering::Relaxed);
        let core = (0..self.loads.len()).min_by_key(load).unwrap_or(0);
        self.loads[core].fetch_add(WEIGHT_QUEUE, Ordering::Relaxed);
        Some(CoreId(core as u16))
    }

    /// A connection turned out to be an admin queue.
    pub fn is_admin(&self, core: CoreId) {
        self.loads[usize::from(core.0)].fetch_sub(WEIGHT_QUEUE - WEIGHT_ADMIN, Ordering::Relaxed);
    }

    /// A connection ended.
    pub fn connection_ended(&self, core: CoreId, was_admin: bool) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
        let weight = if was_admin {
            WEIGHT_ADMIN
        } else {
            WEIGHT_QUEUE
        };
        self.loads[usize::from(core.0)].fetch_sub(weight, Ordering::Relaxed);
    }

    /// Connect to an admin queue: makes a controller (dynamic controller model; NVMe Base 2.0, 3.1.1).
    ///
    /// # Errors
    /// Why not.
    pub fn connect_admin(
        &self,
        subsystem_nqn: &str,
        host_nqn: &str,
        host_id: [u8; 16],
        admin: SessionKey,
    ) -> Result<Admission, Refusal> {
        let mut state = self.lock();
        let (id, subsystem) = state.find(subsystem_nqn).ok_or(Refusal::SubsystemNqn)?;
        if !subsystem.hosts.allow(host_nqn) {
            return Err(Refusal::Host);
        }
        let controller_id = subsystem.new_controller_id().ok_or(Refusal::Busy)?;
        let host_nqn = host_nqn.to_string();
        let queues = BTreeMap::new();
        let queue_limit = if id == DISCOVERY { 0 } else { IO_QUEUES_MAX };
        let controller = Controller {
            host_nqn,
            host_id,
            admin,
            enabled: false,
            queue_limit,
            queues,
        };
        subsystem.controllers.insert(controller_id, controller);
        Ok(Admission {
            subsystem: id,
            controller_id,
            identity: Arc::clone(&subsystem.identity),
        })
    }

    /// Connect to an I/O queue of a controller that is there (NVMe Base 2.0, 6.3).
    ///
    /// # Errors
    /// Why not.
    pub fn connect_io(
        &self,
        subsystem_nqn: &str,
        host_nqn: &str,
        host_id: [u8; 16],
        controller_id: u16,
        queue_id: u16,
        session: SessionKey,
    ) -> Result<Admission, Refusal> {
        let mut state = self.lock();
        let (id, subsystem) = state.find(subsystem_nqn).ok_or(Refusal::SubsystemNqn)?;
        if !subsystem.hosts.allow(host_nqn) {
            return Err(Refusal::Host);
        }
        let identity = Arc::clone(&subsystem.identity);
        let controller = subsystem
            .controllers
            .get_mut(&controller_id)
            .ok_or(Refusal::ControllerId)?;
        if controller.host_nqn != host_nqn {
            return Err(Refusal::HostNqn);
        }
        if controller.host_id != host_id {
            return Err(Refusal::HostId);
        }
        if id == DISCOVERY || queue_id == 0 || queue_id > controller.queue_limit {
            return Err(Refusal::QueueId);
        }
        if !controller.enabled {
            return Err(Refusal::NotEnabled);
        }
        if controller.queues.contains_key(&queue_id) {
            return Err(Refusal::QueueId);
        }
        controller.queues.insert(queue_id, session);
        Ok(Admission {
            subsystem: id,
            controller_id,
            identity,
        })
    }

    /// An I/O queue is gone.
    pub fn disconnect_io(
        &self,
        subsystem: SubsystemId,
        controller_id: u16,
        queue_id: u16,
        session: SessionKey,
    ) {
        let mut state = self.lock();
        if let Some(controller) = state.controller(subsystem, controller_id)
            && controller.queues.get(&queue_id) == Some(&session)
        {
            controller.queues.remove(&queue_id);
        }
    }

    /// A controller is gone; answers its I/O queues, which have to go too.
    pub fn remove_controller(
        &self,
        subsystem: SubsystemId,
        controller_id: u16,
        admin: SessionKey,
    ) -> Vec<SessionKey> {
        let mut state = self.lock();
        let Some(subsystem) = state.get_mut(subsystem) else {
            return Vec::new();
        };
        match subsystem.controllers.get(&controller_id) {
            Some(controller) if controller.admin == admin => {
                let controller = subsystem.controllers.remove(&controller_id);
                controller
                    .map(|controller| controller.queues.into_values().collect())
                    .unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    /// CC.EN changed; answers the I/O queues that have to go when it was cleared.
    pub fn set_enabled(
        &self,
        subsystem: SubsystemId,
        controller_id: u16,
        enabled: bool,
    ) -> Vec<SessionKey> {
        let mut state = self.lock();
        let Some(controller) = state.controller(subsystem, controller_id) else {
            return Vec::new();
        };
        controller.enabled = enabled;
        if enabled {
            Vec::new()
        } else {
            controller.queues.values().copied().collect()
        }
    }

    /// Number of Queues was set: Connects beyond are refused.
    pub fn set_queue_limit(&self, subsystem: SubsystemId, controller_id: u16, limit: u16) {
        if let Some(controller) = self.lock().controller(subsystem, controller_id) {
            controller.queue_limit = limit;
        }
    }

    /// How many I/O queues a controller has now.
    pub fn queue_count(&self, subsystem: SubsystemId, controller_id: u16) -> usize {
        self.lock()
            .controller(subsystem, controller_id)
            .map_or(0, |controller| controller.queues.len())
    }

    /// Where an I/O queue of a controller is.
    pub fn find_queue(
        &self,
        subsystem: SubsystemId,
        controller_id: u16,
        queue_id: u16,
    ) -> Option<SessionKey> {
        self.lock()
            .controller(subsystem, controller_id)?
            .queues
            .get(&queue_id)
            .copied()
    }

    /// Controllers of a subsystem from `first` on, in order.
    pub fn controller_ids(&self, subsystem: SubsystemId, first: u16) -> Vec<u16> {
        let mut state = self.lock();
        let subsystem = state.get_mut(subsystem);
        subsystem.map_or_else(Vec::new, |subsystem| {
            subsystem
                .controllers
                .range(first..)
                .map(|(&controller_id, _)| controller_id)
                .collect()
        })
    }

    /// What discovery shows a host, and the generation of it.
    pub fn discover(&self, host_nqn: &str) -> (u64, Vec<Discovered>) {
        let state = self.lock();
        let visible = state
            .subsystems
            .iter()
            .enumerate()
            .filter_map(|(index, subsystem)| {
                let subsystem = subsystem
                    .as_ref()
                    .filter(|subsystem| subsystem.hosts.allow(host_nqn))?;
                Some(Discovered {
                    nqn: subsystem.identity.nqn.clone(),
                    is_discovery: index == 0,
                })
            });
        (state.generation, visible.collect())
    }

    /// The subsystems there are.
    pub fn subsystem_ids(&self) -> Vec<SubsystemId> {
        let state = self.lock();
        let present = state
            .subsystems
            .iter()
            .enumerate()
            .filter(|(_, subsystem)| subsystem.is_some());
        present
            .map(|(index, _)| SubsystemId(index as u32))
            .collect()
    }

    /// The namespaces of a subsystem, in order of NSID.
    pub fn namespaces(&self, subsystem: SubsystemId) -> Vec<Arc<Namespace>> {
        let mut state = self.lock();
        state.get_mut(subsystem).map_or_else(Vec::new, |subsystem| {
            subsystem.namespaces.values().cloned().collect()
        })
    }

    /// The ANA state of a subsystem; that of one that is gone does not matter.
    pub fn ana(&self, subsystem: SubsystemId) -> AnaState {
        let mut state = self.lock();
        state
            .get_mut(subsystem)
            .map_or(AnaState::Optimized, |subsystem| subsystem.ana)
    }

    /// NQN of a subsystem.
    pub fn nqn(&self, subsystem: SubsystemId) -> Option<String> {
        self.lock()
            .get_mut(subsystem)
            .map(|subsystem| subsystem.identity.nqn.clone())
    }

    /// A core tells what it has done for a subsystem so far.
    pub fn publish_totals(&self, subsystem: SubsystemId, core: CoreId, totals: Totals) {
        let mut all = self
            .totals
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        all.insert((subsystem, core), totals);
    }

    /// What all cores have done for a subsystem.
    pub fn totals(&self, subsystem: SubsystemId) -> Totals {
        let all = self
            .totals
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut sum = Totals::default();
        for (_, totals) in all.iter().filter(|((of, _), _)| *of == subsystem) {
            sum.reads += totals.reads;
            sum.writes += totals.writes;
            sum.read_bytes += totals.read_bytes;
            sum.write_bytes += totals.write_bytes;
            sum.errors += totals.errors;
        }
        sum
    }

    /// Every subsystem that hosts can use: what it is, who may connect, what is in it.
    pub fn subsystems(&self) -> Vec<SubsystemSnapshot> {
        let state = self.lock();
        let of = |subsystem: &Subsystem| SubsystemSnapshot {
            nqn: subsystem.identity.nqn.clone(),
            hosts: subsystem.hosts.clone(),
            ana: subsystem.ana,
            namespaces: subsystem.namespaces.values().cloned().collect(),
        };
        // The first one is the discovery subsystem.
        state.subsystems.iter().skip(1).flatten().map(of).collect()
    }

    /// Every controller there is.
    pub fn snapshot(&self) -> Vec<ControllerSnapshot> {
        let state = self.lock();
        let mut all = Vec::new();
        for subsystem in state.subsystems.iter().flatten() {
            for (&controller_id, controller) in &subsystem.controllers {
                all.push(ControllerSnapshot {
                    subsystem_nqn: subsystem.identity.nqn.clone(),
                    controller_id,
                    host_nqn: controller.host_nqn.clone(),
                    host_id: controller.host_id,
                    enabled: controller.enabled,
                    core: controller.admin.core,
                    queues: controller
                        .queues
                        .iter()
                        .map(|(&queue, session)| (queue, session.core))
                        .collect(),
                });
            }
        }
        all
    }
}
