//! Changes that an operator makes to a running target. Each either happens as a whole or answers why not; the caller then tells every core.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::config::{LunConfig, PORTALS_MAX, TARGETS_MAX, TargetChange, TargetConfig};
use super::initiators::Initiators;
use super::target::{Served, ServedUnit, State, Target, TargetId, TargetPort};
use crate::dm::DeviceId;
use crate::scsi::{Access, Altered, NexusId};

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// There is no target of this name.
    UnknownTarget(String),
    /// The target has no unit of this number.
    UnknownUnit(String, u16),
    /// The target is not reached through a portal group of this tag.
    UnknownGroup(String, u16),
    /// There is no portal group of this tag.
    NoGroup(u16),
    /// Nothing listens on this address.
    UnknownPortal(SocketAddr),
    /// There is a target of this name already.
    TargetExists(String),
    /// The target has a unit of this number already.
    UnitExists(String, u16),
    /// The device is a unit of the target already.
    DeviceExists(String, u16),
    /// There are as many targets as there can be.
    TooManyTargets,
    /// There are as many portals as there can be.
    TooManyPortals,
    /// The address cannot be listened on: why.
    Bind(String),
    /// What was kept of a unit cannot be read.
    Damaged(String),
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownTarget(iqn) => write!(f, "there is no target `{iqn}`"),
            Self::UnknownUnit(iqn, lun) => write!(f, "`{iqn}` has no unit {lun}"),
            Self::UnknownGroup(iqn, tag) => {
                write!(f, "`{iqn}` is not reached through a portal group {tag}")
            }
            Self::NoGroup(tag) => write!(
                f,
                "there is no portal group {tag}; the first portal with this tag makes one"
            ),
            Self::UnknownPortal(address) => write!(f, "there is no portal {address}"),
            Self::TargetExists(iqn) => write!(f, "there is a target `{iqn}` already"),
            Self::UnitExists(iqn, lun) => write!(f, "`{iqn}` has a unit {lun} already"),
            Self::DeviceExists(iqn, lun) => {
                write!(
                    f,
                    "the device is unit {lun} of `{iqn}` already; an initiator would take two units for two disks"
                )
            }
            Self::Damaged(why) | Self::Bind(why) => f.write_str(why),
            Self::TooManyTargets => write!(f, "there can be {TARGETS_MAX} targets"),
            Self::TooManyPortals => write!(f, "there can be {PORTALS_MAX} portals"),
        }
    }
}

impl std::error::Error for ChangeError {}

impl State {
    /// A target by its name, to be changed.
    fn find(&mut self, iqn: &str) -> Result<(TargetId, &mut Arc<Served>), ChangeError> {
        let targets = self.targets.iter_mut().enumerate();
        targets
            .filter_map(|(index, target)| Some((TargetId(index as u32), target.as_mut()?)))
            .find(|(_, target)| target.iqn.eq_ignore_ascii_case(iqn))
            .ok_or_else(|| ChangeError::UnknownTarget(iqn.to_owned()))
    }
}

impl Served {
    /// Where a unit is among the units.
    fn place_of(&self, lun: u16) -> Result<usize, ChangeError> {
        let mut units = self.units.iter();
        units
            .position(|unit| unit.lun == lun)
            .ok_or_else(|| ChangeError::UnknownUnit(self.iqn.clone(), lun))
    }

    fn set_access(&mut self, group: u16, access: Access, altered: Altered) {
        let mut ports = self.ports.iter_mut();
        if let Some(port) = ports.find(|port| port.port.number == group) {
            port.access = access;
            port.altered = altered;
        }
    }
}

impl Target {
    /// Adds a target.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn add_target(&self, config: &TargetConfig) -> Result<TargetId, ChangeError> {
        // Before the lock, which reactors take as well: records are read from files.
        let served = Served::new(config, self.records()).map_err(ChangeError::Damaged)?;
        let mut state = self.lock();
        if state.find(&config.iqn).is_ok() {
            return Err(ChangeError::TargetExists(config.iqn.clone()));
        }
        if state.targets.iter().flatten().count() == TARGETS_MAX {
            return Err(ChangeError::TooManyTargets);
        }
        let known = self.groups();
        if let Some((tag, _)) = config.groups.iter().find(|(tag, _)| !known.contains(tag)) {
            return Err(ChangeError::NoGroup(*tag));
        }
        state.targets.push(Some(Arc::new(served)));
        Ok(TargetId(state.targets.len() as u32 - 1))
    }

    /// Removes a target; answers the devices of its units.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn remove_target(&self, iqn: &str) -> Result<(TargetId, Vec<DeviceId>), ChangeError> {
        let mut state = self.lock();
        let (id, served) = state.find(iqn)?;
        let devices = served.units.iter().map(|unit| unit.device).collect();
        state.targets[id.0 as usize] = None;
        Ok((id, devices))
    }

    /// Changes who may log in to a target, how they prove it, which ways lead there, and where they are sent. By a way that is new it is reached
    /// as well as can be; one that was there stays as it is.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn set_target(&self, iqn: &str, change: &TargetChange) -> Result<TargetId, ChangeError> {
        let mut state = self.lock();
        let (id, served) = state.find(iqn)?;
        let known = self.groups();
        let is_unknown = |tag: &&u16| !known.contains(tag) && served.port(**tag).is_none();
        if let Some(tag) = change.groups.iter().flatten().find(is_unknown) {
            return Err(ChangeError::NoGroup(*tag));
        }
        let served = Arc::make_mut(served);
        let TargetChange {
            initiators,
            chap,
            groups,
            explicit_alua,
            redirect,
        } = change.clone();
        if let Some(initiators) = initiators {
            served.initiators = initiators;
        }
        if let Some(chap) = chap {
            served.chap = chap;
        }
        if let Some(groups) = groups {
            let port = |&tag: &u16| {
                let known = served.port(tag).cloned();
                known.unwrap_or_else(|| TargetPort::new(&served.iqn, tag, Access::Optimized))
            };
            served.ports = groups.iter().map(port).collect();
        }
        if let Some(explicit_alua) = explicit_alua {
            served.explicit_alua = explicit_alua;
        }
        if let Some(redirect) = redirect {
            served.redirect = redirect;
        }
        Ok(id)
    }

    /// Changes who sees a unit.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn set_unit(
        &self,
        iqn: &str,
        lun: u16,
        initiators: Initiators,
    ) -> Result<TargetId, ChangeError> {
        let mut state = self.lock();
        let (id, served) = state.find(iqn)?;
        let place = served.place_of(lun)?;
        Arc::make_mut(served).units[place].initiators = initiators;
        Ok(id)
    }

    /// A portal no longer listens; connections that it had stay, and so does the way of the targets that are reached through its group.
    ///
    /// # Errors
    /// When there is no such portal.
    pub fn close_portal(&self, address: SocketAddr) -> Result<(), ChangeError> {
        let mut portals = self.portals();
        let mut open = portals.iter_mut().filter(|portal| portal.is_open);
        let portal = open.find(|portal| portal.address == address);
        portal
            .map(|portal| portal.is_open = false)
            .ok_or(ChangeError::UnknownPortal(address))
    }

    /// Adds a unit to a target.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn add_unit(&self, iqn: &str, lun: &LunConfig) -> Result<TargetId, ChangeError> {
        let iqn = self.lock().find(iqn)?.1.iqn.clone();
        let unit = ServedUnit::new(&iqn, lun, self.records()).map_err(ChangeError::Damaged)?;
        let mut state = self.lock();
        let (id, served) = state.find(&iqn)?;
        for unit in &served.units {
            if unit.lun == lun.lun {
                return Err(ChangeError::UnitExists(iqn, lun.lun));
            }
            if unit.device == lun.device {
                return Err(ChangeError::DeviceExists(iqn, unit.lun));
            }
        }
        let served = Arc::make_mut(served);
        served.units.push(unit);
        served.units.sort_by_key(|unit| unit.lun);
        Ok(id)
    }

    /// Removes a unit from a target; answers its device.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn remove_unit(&self, iqn: &str, lun: u16) -> Result<(TargetId, DeviceId), ChangeError> {
        let mut state = self.lock();
        let (id, served) = state.find(iqn)?;
        let place = served.place_of(lun)?;
        let unit = Arc::make_mut(served).units.remove(place);
        Ok((id, unit.device))
    }

    /// Changes how well a target is reached through a portal group; `None` when it is so already.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn set_access(
        &self,
        iqn: &str,
        group: u16,
        access: Access,
    ) -> Result<Option<TargetId>, ChangeError> {
        let mut state = self.lock();
        let (id, served) = state.find(iqn)?;
        let known = served.port(group).map(|port| port.access);
        let known = known.ok_or_else(|| ChangeError::UnknownGroup(iqn.to_owned(), group))?;
        if known == access {
            return Ok(None);
        }
        Arc::make_mut(served).set_access(group, access, Altered::ByOperator);
        Ok(Some(id))
    }

    /// The same for an initiator, and for several groups at once; false when there is nothing to change.
    pub(super) fn set_states(
        &self,
        target: TargetId,
        states: &[(u16, Access)],
        nexus: NexusId,
    ) -> bool {
        let mut state = self.lock();
        let served = state.targets.get_mut(target.0 as usize);
        let Some(served) = served.and_then(Option::as_mut) else {
            return false;
        };
        let differs = |&&(group, access): &&(u16, Access)| {
            let port = served.port(group);
            port.is_some_and(|port| port.access != access)
        };
        let changes: Vec<(u16, Access)> = states.iter().filter(differs).copied().collect();
        for &(group, access) in &changes {
            Arc::make_mut(served).set_access(group, access, Altered::ByInitiator(nexus));
        }
        !changes.is_empty()
    }
}
