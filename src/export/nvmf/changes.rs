//! Changes that an operator makes to a running target. Each either happens as a whole or answers why not; the caller then tells every core.

use std::net::SocketAddr;

use super::config::{
    Config, ConfigError, Hosts, NamespaceConfig, SUBSYSTEMS_MAX, SubsystemConfig, validate_nqn,
};
use super::registry::{Subsystem, make_namespace};
use super::target::{SessionKey, SubsystemId, Target};
use crate::dm::DeviceId;
use crate::nvme::log::AnaState;

impl Target {
    /// Adds a namespace. The caller then tells every core.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn add_namespace(
        &self,
        nqn: &str,
        config: &NamespaceConfig,
    ) -> Result<SubsystemId, ConfigError> {
        config.validate(nqn)?;
        let mut state = self.lock();
        let (id, subsystem) = state.find_configured(nqn)?;
        if subsystem.namespaces.contains_key(&config.nsid) {
            return Err(ConfigError::DuplicateNsid {
                nqn: nqn.to_string(),
                nsid: config.nsid,
            });
        }
        subsystem
            .namespaces
            .insert(config.nsid, make_namespace(nqn, config));
        Ok(id)
    }

    /// Removes a namespace. The caller then tells every core.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn remove_namespace(
        &self,
        nqn: &str,
        nsid: u32,
    ) -> Result<(SubsystemId, DeviceId), ConfigError> {
        let mut state = self.lock();
        let (id, subsystem) = state.find_configured(nqn)?;
        let unknown = || ConfigError::UnknownNamespace {
            nqn: nqn.to_string(),
            nsid,
        };
        let namespace = subsystem.namespaces.remove(&nsid).ok_or_else(unknown)?;
        Ok((id, namespace.device))
    }

    /// Adds a subsystem. The caller then tells every core.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn add_subsystem(&self, config: &SubsystemConfig) -> Result<SubsystemId, ConfigError> {
        let alone = Config {
            listeners: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            subsystems: vec![config.clone()],
            discovery_nqn: None,
        };
        alone.validate()?;
        let mut state = self.lock();
        if state.find(&config.nqn).is_some() {
            return Err(ConfigError::DuplicateNqn(config.nqn.clone()));
        }
        let count = state.subsystems.iter().flatten().count();
        if count > SUBSYSTEMS_MAX {
            return Err(ConfigError::TooManySubsystems(count));
        }
        state.subsystems.push(Some(Subsystem::new(config)));
        state.generation += 1;
        Ok(SubsystemId(state.subsystems.len() as u32 - 1))
    }

    /// Removes a subsystem; answers the connections that have to go. The caller then tells every core.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn remove_subsystem(
        &self,
        nqn: &str,
    ) -> Result<(SubsystemId, Vec<SessionKey>), ConfigError> {
        let mut state = self.lock();
        let (id, _) = state.find_configured(nqn)?;
        let removed = state.subsystems[id.0 as usize].take();
        state.generation += 1;
        Ok((
            id,
            removed
                .map(|subsystem| subsystem.sessions(|_| true))
                .unwrap_or_default(),
        ))
    }

    /// Changes the ANA state; `None` when it is that already. The caller then ends the connections that are answered, and tells every core.
    ///
    /// They are all connections when the state was persistent loss: a controller never leaves that (NVMe Base 2.0, 8.1.3.4), so hosts come
    /// back with a new one.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn set_ana(
        &self,
        nqn: &str,
        ana: AnaState,
    ) -> Result<Option<(SubsystemId, Vec<SessionKey>)>, ConfigError> {
        let mut state = self.lock();
        let (id, subsystem) = state.find_configured(nqn)?;
        let old = std::mem::replace(&mut subsystem.ana, ana);
        if old == ana {
            return Ok(None);
        }
        let gone = subsystem.sessions(|_| old == AnaState::PersistentLoss);
        Ok(Some((id, gone)))
    }

    /// Changes who may connect; answers the connections of hosts that no longer may. The caller then tells every core.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn set_hosts(&self, nqn: &str, hosts: Hosts) -> Result<Vec<SessionKey>, ConfigError> {
        if let Hosts::List(list) = &hosts {
            list.iter().try_for_each(|host| validate_nqn(host))?;
        }
        let mut state = self.lock();
        let (_, subsystem) = state.find_configured(nqn)?;
        subsystem.hosts = hosts;
        let gone = subsystem.sessions(|controller| !subsystem.hosts.allow(&controller.host_nqn));
        state.generation += 1;
        Ok(gone)
    }
}
