//! What all cores share: targets, their units, and who is logged in.
//!
//! Behind one mutex that logins, logouts and task management take, never a read or write.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::chap::Chap;
use super::config::{Config, LunConfig, Redirect, TargetConfig};
use super::initiators::Initiators;
use super::keeper::Records;
use super::resize::Resizes;
use super::unit::LunSet;
use crate::dm::{CoreId, DeviceId};
use crate::export::frame::SessionKey;
use crate::scsi::unit::Identity;
use crate::scsi::{Access, Altered, InitiatorPort, Nexus, NexusId, Port, Unit};

/// Connections of the whole target.
const CONNECTIONS_MAX: u32 = 4096;

/// A target's number; also its place in every core's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetId(pub u32);

/// A logical unit and the device beneath it; the same on every core.
#[derive(Clone)]
pub struct ServedUnit {
    /// Its number.
    pub lun: u16,
    /// The mapped device.
    pub device: DeviceId,
    /// The device's name.
    pub device_name: String,
    /// The initiators that see it.
    pub initiators: Initiators,
    /// What its initiators share.
    pub unit: Arc<Unit>,
}

/// How a target is reached through one portal group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetPort {
    /// The port.
    pub port: Port,
    /// How well.
    pub access: Access,
    /// Who has made that so.
    pub altered: Altered,
}

impl TargetPort {
    /// The port of a target in a portal group.
    pub(super) fn new(iqn: &str, tag: u16, access: Access) -> Self {
        Self {
            port: Port {
                number: tag,
                group: tag,
                name: format!("{iqn},t,0x{tag:04x}"),
            },
            access,
            altered: Altered::Never,
        }
    }
}

/// A target at one moment: a change makes another, with the units that stay.
#[derive(Clone)]
pub struct Served {
    /// Its name.
    pub iqn: String,
    /// Who may log in.
    pub initiators: Initiators,
    /// How they prove it.
    pub chap: Option<Chap>,
    /// Its ports: one for each portal group that it is reached through.
    pub ports: Vec<TargetPort>,
    /// Initiators may change how well it is reached.
    pub explicit_alua: bool,
    /// Where initiators are sent instead.
    pub redirect: Option<Redirect>,
    /// Its units, in order of LUN.
    pub units: Vec<ServedUnit>,
}

impl Served {
    pub(super) fn new(config: &TargetConfig, records: Option<&Records>) -> Result<Self, String> {
        let port = |&(tag, access): &(u16, Access)| TargetPort::new(&config.iqn, tag, access);
        let units = config.luns.iter();
        let units = units.map(|lun| ServedUnit::new(&config.iqn, lun, records));
        Ok(Self {
            iqn: config.iqn.clone(),
            initiators: config.initiators.clone(),
            chap: config.chap.clone(),
            ports: config.groups.iter().map(port).collect(),
            explicit_alua: config.explicit_alua,
            redirect: config.redirect.clone(),
            units: units.collect::<Result<_, _>>()?,
        })
    }

    /// The port of a portal group.
    #[inline]
    pub fn port(&self, group: u16) -> Option<&TargetPort> {
        self.ports.iter().find(|port| port.port.number == group)
    }

    /// The units that an initiator sees.
    pub fn luns_for(&self, initiator: &str, address: Option<IpAddr>) -> LunSet {
        let seen = self.units.iter();
        seen.filter(|unit| unit.initiators.allow(initiator, address))
            .map(|unit| unit.lun)
            .collect()
    }
}

impl ServedUnit {
    /// A unit, with the reservations that were kept of it.
    pub(super) fn new(
        iqn: &str,
        lun: &LunConfig,
        records: Option<&Records>,
    ) -> Result<Self, String> {
        let identity = Identity {
            target: iqn.to_owned(),
            lun: lun.lun,
            uuid: lun.uuid,
            vendor: "POLLDM".into(),
            product: "mapped device".into(),
            serial: lun.uuid.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        let unit = match records {
            Some(records) => records.unit(identity)?,
            None => Unit::new(identity),
        };
        Ok(Self {
            lun: lun.lun,
            device: lun.device,
            device_name: lun.device_name.clone(),
            initiators: lun.initiators.clone(),
            unit: Arc::new(unit),
        })
    }
}

/// A session.
#[derive(Clone, Debug)]
struct Member {
    target: TargetId,
    port: u16,
    initiator: Arc<InitiatorPort>,
    nexus: NexusId,
    key: SessionKey,
    /// It has been told to go.
    is_leaving: bool,
    /// Logins that go on when it has.
    waiting: Vec<SessionKey>,
}

#[derive(Default)]
pub(super) struct State {
    /// By their numbers, which are never used again.
    pub(super) targets: Vec<Option<Arc<Served>>>,
    /// By TSIH.
    members: BTreeMap<u16, Member>,
    last_session: u16,
}

/// An address that the target listens on, or did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Portal {
    pub(super) address: SocketAddr,
    /// The tag of its group.
    pub(super) group: u16,
    /// It listens. One that no longer does still tells of the connections it had.
    pub(super) is_open: bool,
}

/// What a login comes to.
#[derive(Debug)]
pub enum Admission {
    /// It is in.
    Admitted {
        /// The session's number (TSIH).
        session: u16,
        /// The nexus.
        nexus: Nexus,
        /// A session of the same name was there before.
        is_reinstated: bool,
    },
    /// An older session of the same name has to go first; a message says when it has. The connection is to be told to close, if it
    /// has not been.
    Wait(Option<SessionKey>),
    /// There are no numbers left.
    Full,
}

/// Counts of what happens rarely.
#[derive(Default)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections refused because there were too many.
    pub refused: AtomicU64,
    /// Connections ended for a violation of the protocol.
    pub violations: AtomicU64,
    /// Logins refused.
    pub logins_refused: AtomicU64,
}

impl Counters {
    /// A connection ended for a violation of the protocol.
    pub fn violation(&self) {
        self.violations.fetch_add(1, Ordering::Relaxed);
    }

    /// A login was refused.
    pub fn refuse_login(&self) {
        self.logins_refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// What all cores share.
pub struct Target {
    discovery: Mutex<Option<Chap>>,
    keep_alive_ns: AtomicU64,
    portals: Mutex<Vec<Portal>>,
    records: Option<Records>,
    resizes: Resizes,
    state: Mutex<State>,
    connections: AtomicU32,
    loads: Vec<AtomicU32>,
    next_nexus: AtomicU64,
    /// Counts.
    pub counters: Counters,
}

impl Target {
    /// The target of a configuration on this many cores. Reservations outlive it if there are records of them.
    ///
    /// # Errors
    /// A record that cannot be read: file and line.
    pub fn new(config: &Config, cores: u16, records: Option<Records>) -> Result<Self, String> {
        let targets = config.targets.iter();
        let targets = targets.map(|target| {
            let served = Served::new(target, records.as_ref())?;
            Ok(Some(Arc::new(served)))
        });
        let targets = targets.collect::<Result<_, String>>()?;
        Ok(Self {
            discovery: Mutex::new(config.discovery.clone()),
            keep_alive_ns: AtomicU64::new(nanoseconds(config.keep_alive)),
            portals: Mutex::default(),
            state: Mutex::new(State {
                targets,
                ..State::default()
            }),
            records,
            resizes: Resizes::default(),
            connections: AtomicU32::new(0),
            loads: (0..cores).map(|_| AtomicU32::new(0)).collect(),
            next_nexus: AtomicU64::new(1),
            counters: Counters::default(),
        })
    }

    /// Where reservations are kept that outlive the target.
    pub(super) fn records(&self) -> Option<&Records> {
        self.records.as_ref()
    }

    /// Devices that not all cores know alike.
    pub(super) fn resizes(&self) -> &Resizes {
        &self.resizes
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic brings the process down, so a poisoned lock is only ever seen by tests; the state is valid between statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn portals(&self) -> MutexGuard<'_, Vec<Portal>> {
        // As above.
        self.portals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long an initiator may be silent before it is asked, and then before it is gone; in nanoseconds.
    pub fn keep_alive_ns(&self) -> u64 {
        self.keep_alive_ns.load(Ordering::Relaxed)
    }

    /// Changes that.
    pub fn set_keep_alive(&self, keep_alive: Duration) {
        self.keep_alive_ns
            .store(nanoseconds(keep_alive), Ordering::Relaxed);
    }

    /// Tells of an address that the target listens on, and the tag of its portal group.
    pub fn listens(&self, address: SocketAddr, group: u16) {
        let mut portals = self.portals();
        portals.retain(|portal| portal.address != address);
        portals.push(Portal {
            address,
            group,
            is_open: true,
        });
    }

    /// Where the target listens, each with the tag of its portal group; empty until it does.
    pub fn addresses(&self) -> Vec<(SocketAddr, u16)> {
        let portals = self.portals();
        let open = portals.iter().filter(|portal| portal.is_open);
        open.map(|portal| (portal.address, portal.group)).collect()
    }

    /// The portal group of the address that an initiator has reached.
    pub fn group_at(&self, local: Option<SocketAddr>) -> u16 {
        let reached = |portal: &&Portal| {
            let portal = portal.address;
            local.is_some_and(|local| {
                let any = portal.ip().is_unspecified() && portal.is_ipv4() == local.is_ipv4();
                portal.port() == local.port() && (any || portal.ip() == local.ip())
            })
        };
        let portals = self.portals();
        // A socket that no longer knows where it was reached is one that is closing.
        let portal = portals.iter().find(reached).or(portals.first());
        portal.map_or(0, |portal| portal.group)
    }

    /// All targets, in order.
    pub fn targets(&self) -> Vec<(TargetId, Arc<Served>)> {
        let state = self.lock();
        let numbered = state.targets.iter().enumerate();
        let there = numbered.filter_map(|(index, target)| Some((index, target.clone()?)));
        there
            .map(|(index, target)| (TargetId(index as u32), target))
            .collect()
    }

    /// A target, as it is now.
    pub fn get(&self, id: TargetId) -> Option<Arc<Served>> {
        self.lock().targets.get(id.0 as usize).cloned().flatten()
    }

    /// What an initiator has to prove itself by for discovery.
    pub fn discovery(&self) -> Option<Chap> {
        self.discovery_lock().clone()
    }

    /// Changes that, for logins that have not come so far yet.
    pub fn set_discovery(&self, chap: Option<Chap>) {
        *self.discovery_lock() = chap;
    }

    fn discovery_lock(&self) -> MutexGuard<'_, Option<Chap>> {
        // As above.
        self.discovery
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// How many cores there are.
    pub fn cores(&self) -> u16 {
        self.loads.len() as u16
    }

    /// The core for a new connection: the one with the fewest. `None` when there are too many already.
    pub fn choose_core(&self) -> Option<CoreId> {
        if self.connections.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let load = |index: &usize| self.loads[*index].load(Ordering::Relaxed);
        let core = (0..self.loads.len()).min_by_key(load).unwrap_or(0);
        self.loads[core].fetch_add(1, Ordering::Relaxed);
        Some(CoreId(core as u16))
    }

    /// A connection ended.
    pub fn connection_ended(&self, core: CoreId) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
        self.loads[usize::from(core.0)].fetch_sub(1, Ordering::Relaxed);
    }

    /// A normal session begins. One of the same initiator port is reinstated: the old one ends first (RFC 7143, 6.3.5).
    pub fn admit(
        &self,
        target: TargetId,
        initiator: &Arc<InitiatorPort>,
        port: u16,
        key: SessionKey,
        was_waiting: bool,
    ) -> Admission {
        let mut state = self.lock();
        let older = state.members.values_mut().find(|member| {
            (member.target, member.port) == (target, port) && member.initiator == *initiator
        });
        if let Some(older) = older {
            if !older.waiting.contains(&key) {
                older.waiting.push(key);
            }
            let tell = !std::mem::replace(&mut older.is_leaving, true);
            return Admission::Wait(tell.then_some(older.key));
        }
        let Some(session) = state.new_session() else {
            return Admission::Full;
        };
        let nexus = Nexus {
            id: NexusId(self.next_nexus.fetch_add(1, Ordering::Relaxed)),
            initiator: Arc::clone(initiator),
            port,
        };
        state.members.insert(
            session,
            Member {
                target,
                port,
                initiator: Arc::clone(initiator),
                nexus: nexus.id,
                key,
                is_leaving: false,
                waiting: Vec::new(),
            },
        );
        Admission::Admitted {
            session,
            nexus,
            is_reinstated: was_waiting,
        }
    }

    /// Whether there is such a session of this initiator port.
    pub fn has_session(&self, session: u16, initiator: &InitiatorPort) -> bool {
        self.lock()
            .members
            .get(&session)
            .is_some_and(|member| *member.initiator == *initiator)
    }

    /// A session has ended; answers the logins that waited for it.
    pub fn leave(&self, session: u16) -> Vec<SessionKey> {
        let member = self.lock().members.remove(&session);
        member.map_or_else(Vec::new, |member| member.waiting)
    }

    /// A connection is gone that waited for an older session to go.
    pub fn stop_waiting(&self, key: SessionKey) {
        for member in self.lock().members.values_mut() {
            member.waiting.retain(|waiting| *waiting != key);
        }
    }

    /// The connections of all sessions of a target.
    pub fn sessions_of(&self, target: TargetId) -> Vec<SessionKey> {
        let state = self.lock();
        let of = state
            .members
            .values()
            .filter(|member| member.target == target);
        of.map(|member| member.key).collect()
    }

    /// Which nexus is where.
    pub fn nexuses_of(&self, target: TargetId) -> Vec<(NexusId, SessionKey)> {
        let state = self.lock();
        let of = state
            .members
            .values()
            .filter(|member| member.target == target);
        of.map(|member| (member.nexus, member.key)).collect()
    }

    /// The tags of the portal groups there are: those of the addresses that it listens on.
    pub fn groups(&self) -> Vec<u16> {
        let mut tags = Vec::new();
        for (_, tag) in self.addresses() {
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        tags
    }
}

fn nanoseconds(time: Duration) -> u64 {
    // Twice this is still a number.
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2)
}

impl State {
    /// A number that no session has, never 0.
    fn new_session(&mut self) -> Option<u16> {
        for _ in 0..u16::MAX {
            self.last_session = self.last_session.checked_add(1).unwrap_or(1);
            if !self.members.contains_key(&self.last_session) {
                return Some(self.last_session);
            }
        }
        None
    }
}
