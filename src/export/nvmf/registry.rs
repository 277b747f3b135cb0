//! Subsystems and controllers as [`super::target`] keeps them, behind its lock.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::config::{ConfigError, Hosts, NamespaceConfig, SubsystemConfig};
use super::namespace::{Namespace, uuid_from_names};
use super::target::{CONTROLLERS_MAX, DISCOVERY, Identity, SessionKey, SubsystemId};
use crate::nvme::DISCOVERY_NQN;
use crate::nvme::log::AnaState;

/// The largest controller identifier that may be given out (NVMe Base 2.0, 3.1.3.1: FFF0h to FFFFh are reserved).
pub(super) const CONTROLLER_ID_MAX: u16 = 0xFFEF;

/// A controller, as far as others than its own admin queue need to know.
#[derive(Clone, Debug)]
pub(super) struct Controller {
    pub(super) host_nqn: String,
    pub(super) host_id: [u8; 16],
    pub(super) admin: SessionKey,
    pub(super) enabled: bool,
    pub(super) queue_limit: u16,
    pub(super) queues: BTreeMap<u16, SessionKey>,
}

pub(super) struct Subsystem {
    pub(super) identity: Arc<Identity>,
    pub(super) hosts: Hosts,
    pub(super) ana: AnaState,
    pub(super) namespaces: BTreeMap<u32, Arc<Namespace>>,
    pub(super) controllers: BTreeMap<u16, Controller>,
    pub(super) next_controller_id: u16,
}

pub(super) struct State {
    /// By [`SubsystemId`]; `None` where one was removed. Numbers are never used again.
    pub(super) subsystems: Vec<Option<Subsystem>>,
    /// Counts changes of the discovery log page (GENCTR).
    pub(super) generation: u64,
}

impl State {
    pub(super) fn get_mut(&mut self, id: SubsystemId) -> Option<&mut Subsystem> {
        self.subsystems.get_mut(id.0 as usize)?.as_mut()
    }

    pub(super) fn controller(
        &mut self,
        id: SubsystemId,
        controller_id: u16,
    ) -> Option<&mut Controller> {
        self.get_mut(id)?.controllers.get_mut(&controller_id)
    }

    /// The subsystem of this name; the well-known discovery NQN stands for the discovery subsystem.
    pub(super) fn find(&mut self, nqn: &str) -> Option<(SubsystemId, &mut Subsystem)> {
        let matches = |(index, subsystem): &(usize, &mut Option<Subsystem>)| {
            let named = subsystem
                .as_ref()
                .is_some_and(|subsystem| subsystem.identity.nqn == nqn);
            named || (*index == 0 && nqn == DISCOVERY_NQN)
        };
        let (index, subsystem) = self.subsystems.iter_mut().enumerate().find(matches)?;
        Some((SubsystemId(index as u32), subsystem.as_mut()?))
    }

    /// The same for changes by the operator, who cannot change the discovery subsystem.
    pub(super) fn find_configured(
        &mut self,
        nqn: &str,
    ) -> Result<(SubsystemId, &mut Subsystem), ConfigError> {
        let found = self.find(nqn).filter(|(id, _)| *id != DISCOVERY);
        found.ok_or_else(|| ConfigError::UnknownSubsystem(nqn.to_string()))
    }
}

impl Subsystem {
    pub(super) fn new(config: &SubsystemConfig) -> Self {
        let uuid = uuid_from_names(&[&config.nqn]);
        let serial: String = uuid
            .iter()
            .take(10)
            .map(|byte| format!("{byte:02X}"))
            .collect();
        let identity = Identity {
            nqn: config.nqn.clone(),
            serial: config.serial.clone().unwrap_or(serial),
            model: config.model.clone().unwrap_or_else(|| "polldm".to_string()),
        };
        let namespaces = config
            .namespaces
            .iter()
            .map(|one| (one.nsid, make_namespace(&config.nqn, one)));
        Self {
            identity: Arc::new(identity),
            hosts: config.hosts.clone(),
            ana: config.ana,
            namespaces: namespaces.collect(),
            controllers: BTreeMap::new(),
            next_controller_id: 1,
        }
    }

    /// A free controller identifier. They are given out in turn, so that one that was just given up is used again as late as can be:
    /// a host that still holds it is then told apart.
    pub(super) fn new_controller_id(&mut self) -> Option<u16> {
        if self.controllers.len() >= CONTROLLERS_MAX {
            return None;
        }
        // One of any CONTROLLERS_MAX + 1 identifiers in a row is free.
        for _ in 0..=CONTROLLERS_MAX {
            let id = self.next_controller_id;
            self.next_controller_id = if id == CONTROLLER_ID_MAX { 1 } else { id + 1 };
            if !self.controllers.contains_key(&id) {
                return Some(id);
            }
        }
        None
    }

    pub(super) fn sessions(&self, mut which: impl FnMut(&Controller) -> bool) -> Vec<SessionKey> {
        let chosen = self
            .controllers
            .values()
            .filter(|controller| which(controller));
        chosen
            .flat_map(|controller| {
                controller
                    .queues
                    .values()
                    .copied()
                    .chain([controller.admin])
            })
            .collect()
    }
}

pub(super) fn make_namespace(nqn: &str, config: &NamespaceConfig) -> Arc<Namespace> {
    let made = || uuid_of_namespace(nqn, config.nsid, &config.device_name);
    Arc::new(Namespace {
        nsid: config.nsid,
        device: config.device,
        device_name: config.device_name.clone(),
        uuid: config.uuid.unwrap_or_else(made),
    })
}

/// The UUID of a namespace that was given none, which stays the same over restarts.
pub fn uuid_of_namespace(nqn: &str, nsid: u32, device: &str) -> [u8; 16] {
    uuid_from_names(&[nqn, &nsid.to_string(), device])
}

/// A UUID as people write it.
pub fn format_uuid(uuid: &[u8; 16]) -> String {
    let hex = |range: std::ops::Range<usize>| {
        uuid[range]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    format!(
        "{}-{}-{}-{}-{}",
        hex(0..4),
        hex(4..6),
        hex(6..8),
        hex(8..10),
        hex(10..16)
    )
}
