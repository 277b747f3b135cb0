//! `iscsi.*`: targets and units that come and go.

use super::backend::Service;
use super::schema::{
    AddLunParams, AddTargetParams, Done, IscsiAddLun, IscsiAddTarget, IscsiRemoveLun,
    IscsiRemoveTarget, IscsiSetAlua, RemoveLunParams, RemoveTargetParams, Serve, SetAluaParams,
    UnitStats,
};
use crate::dm::Error;

/// What an operator asks and changes of the iSCSI target.
pub trait IscsiTargets {
    /// Counters of all units, all reactors added up.
    fn unit_stats(&self) -> Vec<UnitStats>;

    /// Adds a target without units.
    ///
    /// # Errors
    /// EINVAL for what is wrong with it, EBUSY when there is one of this name, ENXIO without an iSCSI target.
    fn add_target(&self, params: &AddTargetParams) -> Result<(), Error>;

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
