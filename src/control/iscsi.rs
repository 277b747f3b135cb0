//! `iscsi.*`: targets and units that come and go.

use super::backend::Service;
use super::schema::{
    AddLunParams, AddPortalParams, AddTargetParams, Done, IscsiAddLun, IscsiAddPortal,
    IscsiAddTarget, IscsiRemoveLun, IscsiRemovePortal, IscsiRemoveTarget, IscsiSetAlua,
    IscsiSetDiscovery, IscsiSetKeepAlive, IscsiSetLun, IscsiSetTarget, PortalResult,
    RemoveLunParams, RemovePortalParams, RemoveTargetParams, Serve, SessionStats, SetAluaParams,
    SetDiscoveryParams, SetKeepAliveParams, SetLunParams, SetTargetParams, UnitStats,
};
use crate::dm::Error;

/// What an operator asks and changes of the iSCSI target.
pub trait IscsiTargets {
    /// Counters of all units, all reactors added up.
    fn unit_stats(&self) -> Vec<UnitStats>;

    /// Counters of all sessions that are logged in.
    fn session_stats(&self) -> Vec<SessionStats>;

    /// Adds a target without units.
    ///
    /// # Errors
    /// EINVAL for what is wrong with it, EBUSY when there is one of this name, ENXIO without an iSCSI target.
    fn add_target(&self, params: &AddTargetParams) -> Result<(), Error>;

    /// Changes a target.
    ///
    /// # Errors
    /// ENXIO without such a target or portal group, EINVAL for what is wrong with the change.
    fn set_target(&self, params: &SetTargetParams) -> Result<(), Error>;

    /// Removes a target and ends its sessions; answers when no I/O of them is in flight.
    ///
    /// # Errors
    /// ENXIO without such a target.
    fn remove_target(&self, params: &RemoveTargetParams) -> Result<(), Error>;

    /// Adds a unit to a target.
    ///
    /// # Errors
    /// ENXIO without such a target or device, EBUSY when the number or the device is taken, EINVAL for a bad number or rule.
    fn add_lun(&self, params: &AddLunParams) -> Result<(), Error>;

    /// Changes who sees a unit; answers when no I/O of those that no longer do is in flight.
    ///
    /// # Errors
    /// ENXIO without such a target or unit, EINVAL for a bad rule.
    fn set_lun(&self, params: &SetLunParams) -> Result<(), Error>;

    /// Takes a unit away; answers when no I/O of it is in flight.
    ///
    /// # Errors
    /// ENXIO without such a target or unit.
    fn remove_lun(&self, params: &RemoveLunParams) -> Result<(), Error>;

    /// Changes the ALUA state of a target in a portal group.
    ///
    /// # Errors
    /// ENXIO without such a target or group.
    fn set_alua(&self, params: &SetAluaParams) -> Result<(), Error>;

    /// Listens on one more address; answers it with its port.
    ///
    /// # Errors
    /// EINVAL for a tag that is none, for an address that is none or cannot be had.
    fn add_portal(&self, params: &AddPortalParams) -> Result<String, Error>;

    /// Listens on an address no longer.
    ///
    /// # Errors
    /// ENXIO without such a portal, EINVAL for an address that is none.
    fn remove_portal(&self, params: &RemovePortalParams) -> Result<(), Error>;

    /// Changes what discovery asks of initiators.
    ///
    /// # Errors
    /// EINVAL for what is wrong with the secrets, ENXIO without an iSCSI target.
    fn set_discovery(&self, params: &SetDiscoveryParams) -> Result<(), Error>;

    /// Changes how long initiators may be silent.
    ///
    /// # Errors
    /// EINVAL for less than a second and for more than an hour.
    fn set_keep_alive(&self, params: &SetKeepAliveParams) -> Result<(), Error>;
}

impl Serve<IscsiAddTarget> for Service {
    fn serve(&self, params: AddTargetParams) -> Result<Done, Error> {
        self.backend.add_target(&params).map(|()| Done {})
    }
}

impl Serve<IscsiRemoveTarget> for Service {
    fn serve(&self, params: RemoveTargetParams) -> Result<Done, Error> {
        self.backend.remove_target(&params).map(|()| Done {})
    }
}

impl Serve<IscsiAddLun> for Service {
    fn serve(&self, params: AddLunParams) -> Result<Done, Error> {
        self.backend.add_lun(&params).map(|()| Done {})
    }
}

impl Serve<IscsiRemoveLun> for Service {
    fn serve(&self, params: RemoveLunParams) -> Result<Done, Error> {
        self.backend.remove_lun(&params).map(|()| Done {})
    }
}

impl Serve<IscsiSetAlua> for Service {
    fn serve(&self, params: SetAluaParams) -> Result<Done, Error> {
        self.backend.set_alua(&params).map(|()| Done {})
    }
}

impl Serve<IscsiSetTarget> for Service {
    fn serve(&self, params: SetTargetParams) -> Result<Done, Error> {
        self.backend.set_target(&params).map(|()| Done {})
    }
}

impl Serve<IscsiSetLun> for Service {
    fn serve(&self, params: SetLunParams) -> Result<Done, Error> {
        self.backend.set_lun(&params).map(|()| Done {})
    }
}

impl Serve<IscsiRemovePortal> for Service {
    fn serve(&self, params: RemovePortalParams) -> Result<Done, Error> {
        self.backend.remove_portal(&params).map(|()| Done {})
    }
}

impl Serve<IscsiSetDiscovery> for Service {
    fn serve(&self, params: SetDiscoveryParams) -> Result<Done, Error> {
        self.backend.set_discovery(&params).map(|()| Done {})
    }
}

impl Serve<IscsiSetKeepAlive> for Service {
    fn serve(&self, params: SetKeepAliveParams) -> Result<Done, Error> {
        self.backend.set_keep_alive(&params).map(|()| Done {})
    }
}

impl Serve<IscsiAddPortal> for Service {
    fn serve(&self, params: AddPortalParams) -> Result<PortalResult, Error> {
        let address = self.backend.add_portal(&params)?;
        Ok(PortalResult { address })
    }
}
