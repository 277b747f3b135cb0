//! The iSCSI target of a running node: targets and units come and go, and ways to them change.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{ExportError, Node};
use crate::config::{AluaState, KEEP_ALIVE_MAX, KEEP_ALIVE_MIN, LUN_MAX, Uuid, check_iscsi_name};
use crate::dm::DeviceId;
use crate::export::iscsi::{
    self, Chap, Initiators, LunConfig, PORTALS_MAX, Redirect, TargetChange, TargetConfig,
};
use crate::iscsi::secrets::Secrets;
use crate::scsi::Access;

/// A target that an operator wants.
#[derive(Clone, Debug)]
pub struct NewTarget<'a> {
    /// Its name.
    pub iqn: &'a str,
    /// The initiators that may log in, as in a configuration; all when `None`.
    pub initiators: Option<&'a [String]>,
    /// A file of CHAP secrets, and whether the target has to prove itself as well.
    pub chap: Option<(&'a Path, bool)>,
    /// The portal groups that it is reached through; all when `None`.
    pub groups: Option<&'a [u16]>,
    /// Initiators may change its ALUA states.
    pub explicit_alua: bool,
}

/// What an operator makes of a target; what is `None` stays as it is.
#[derive(Clone, Debug)]
pub struct ChangedTarget<'a> {
    /// Its name.
    pub iqn: &'a str,
    /// The initiators that may log in, as in a configuration; `any` alone for all.
    pub initiators: Option<&'a [String]>,
    /// A file of CHAP secrets, and whether the target has to prove itself as well; or that initiators' names are believed.
    pub chap: Option<Option<(&'a Path, bool)>>,
    /// The portal groups that it is reached through.
    pub groups: Option<&'a [u16]>,
    /// Initiators may change its ALUA states.
    pub explicit_alua: Option<bool>,
    /// Where initiators are sent, and whether for good; or that they are let in.
    pub redirect: Option<Option<(SocketAddr, bool)>>,
}

impl Node {
    fn iscsi_target(&self) -> Result<&iscsi::Export, ExportError> {
        #[cfg(feature = "spdk")]
        if self.spdk_iscsi().is_some() {
            let message = "SPDK's iSCSI targets are those of the configuration: they do not change while it runs";
            return Err(ExportError::Invalid(message.to_owned()));
        }
        self.iscsi().ok_or(ExportError::NoIscsi)
    }

    /// Adds a target without units.
    ///
    /// # Errors
    /// What is wrong with it, or that there is one of this name.
    pub fn add_target(&self, wanted: &NewTarget<'_>) -> Result<(), ExportError> {
        let export = self.iscsi_target()?;
        check_iscsi_name(wanted.iqn).map_err(ExportError::Invalid)?;
        let groups = groups(wanted.groups.unwrap_or(&export.groups()))?;
        let config = TargetConfig {
            iqn: wanted.iqn.to_owned(),
            initiators: initiators(wanted.initiators)?,
            chap: wanted
                .chap
                .map(|(path, mutual)| chap(path, mutual))
                .transpose()?,
            groups: groups.iter().map(|&tag| (tag, Access::Optimized)).collect(),
            explicit_alua: wanted.explicit_alua,
            redirect: None,
            luns: Vec::new(),
        };
        export
            .add_target(&self.engine, &config)
            .map_err(ExportError::Iscsi)
    }

    /// Changes a target. Sessions of initiators that may no longer log in, or not the way they came, end.
    ///
    /// # Errors
    /// What is wrong with it, or that there is no such target.
    pub fn set_target(&self, wanted: &ChangedTarget<'_>) -> Result<(), ExportError> {
        let export = self.iscsi_target()?;
        let initiators = wanted.initiators.map(|list| initiators(Some(list)));
        let chap = wanted
            .chap
            .map(|wanted| wanted.map(|(path, mutual)| chap(path, mutual)).transpose());
        let redirect = wanted.redirect.map(|wanted| {
            wanted
                .map(|(address, is_permanent)| redirect(address, is_permanent))
                .transpose()
        });
        let change = TargetChange {
            initiators: initiators.transpose()?,
            chap: chap.transpose()?,
            groups: wanted.groups.map(groups).transpose()?,
            explicit_alua: wanted.explicit_alua,
            redirect: redirect.transpose()?,
        };
        export
            .set_target(&self.engine, wanted.iqn, &change)
            .map_err(ExportError::Iscsi)
    }

    /// Changes who sees a unit: `any` alone for all. Commands of those that no longer see it are aborted.
    ///
    /// # Errors
    /// What is wrong with the list, or that there is no such unit.
    pub fn set_unit(&self, iqn: &str, lun: u16, seen_by: &[String]) -> Result<(), ExportError> {
        let export = self.iscsi_target()?;
        let initiators = initiators(Some(seen_by))?;
        export
            .set_unit(&self.engine, iqn, lun, initiators)
            .map_err(ExportError::Iscsi)
    }

    /// Listens on one more address of a portal group, which may be new; answers it, with the port that the system chose for port 0.
    ///
    /// # Errors
    /// When the tag is none, or the address cannot be had.
    pub fn add_portal(&self, address: SocketAddr, group: u16) -> Result<SocketAddr, ExportError> {
        let export = self.iscsi_target()?;
        groups(&[group])?;
        export
            .add_portal(&self.engine, address, group)
            .map_err(ExportError::Iscsi)
    }

    /// Listens on an address no longer; connections that came by it stay.
    ///
    /// # Errors
    /// When there is no such portal.
    pub fn remove_portal(&self, address: SocketAddr) -> Result<(), ExportError> {
        self.iscsi_target()?
            .remove_portal(&self.engine, address)
            .map_err(ExportError::Iscsi)
    }

    /// Changes what discovery asks of initiators: a file of CHAP secrets, and whether the target has to prove itself as well; or nothing.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn set_discovery(&self, wanted: Option<(&Path, bool)>) -> Result<(), ExportError> {
        let export = self.iscsi_target()?;
        let chap = wanted.map(|(path, mutual)| chap(path, mutual));
        export.set_discovery(chap.transpose()?);
        Ok(())
    }

    /// Changes how long an initiator may be silent before it is asked whether it is there, and then before it is gone.
    ///
    /// # Errors
    /// When that is less than a second or more than an hour.
    pub fn set_iscsi_keep_alive(&self, span: Duration) -> Result<(), ExportError> {
        let export = self.iscsi_target()?;
        if !(KEEP_ALIVE_MIN..=KEEP_ALIVE_MAX).contains(&span) {
            let message = "initiators are asked after a span from 1s to 1h";
            return Err(ExportError::Invalid(message.to_owned()));
        }
        export.set_keep_alive(span);
        Ok(())
    }

    /// Removes a target, ends its sessions, and lets go of the devices of its units when their I/O has ended.
    ///
    /// # Errors
    /// When there is no such target.
    pub fn remove_target(&self, iqn: &str) -> Result<(), ExportError> {
        let export = self.iscsi_target()?;
        let (devices, idle) = export
            .remove_target(&self.engine, iqn)
            .map_err(ExportError::Iscsi)?;
        // Disconnected, never sent to, when no core has commands at the devices any more.
        let _ = idle.recv();
        for device in devices {
            self.engine.close(device);
        }
        Ok(())
    }

    /// Serves a device as one more unit of a target; initiators that are logged in are told.
    ///
    /// # Errors
    /// When there is no such device, or the target cannot have it.
    pub fn add_unit(
        &self,
        iqn: &str,
        lun: u16,
        device: &str,
        seen_by: Option<&[String]>,
    ) -> Result<(), ExportError> {
        let export = self.iscsi_target()?;
        if lun > LUN_MAX {
            let message = format!("logical unit numbers go from 0 to {LUN_MAX}");
            return Err(ExportError::Invalid(message));
        }
        let initiators = initiators(seen_by)?;
        let id: DeviceId = self.engine.open(device).map_err(ExportError::Device)?;
        let unit = LunConfig {
            lun,
            device: id,
            device_name: device.to_owned(),
            // What the configuration would derive, so that initiators find the same disk when the unit is written there later.
            uuid: Uuid::derived(iqn, device).0,
            initiators,
        };
        export.add_unit(&self.engine, iqn, &unit).map_err(|error| {
            self.engine.close(id);
            ExportError::Iscsi(error)
        })
    }

    /// Takes a unit away from its initiators and lets go of its device, when the I/O on it has ended.
    ///
    /// # Errors
    /// When there is no such unit.
    pub fn remove_unit(&self, iqn: &str, lun: u16) -> Result<(), ExportError> {
        let export = self.iscsi_target()?;
        let (device, idle) = export
            .remove_unit(&self.engine, iqn, lun)
            .map_err(ExportError::Iscsi)?;
        // Disconnected, never sent to, when no core has commands at the device any more.
        let _ = idle.recv();
        self.engine.close(device);
        Ok(())
    }

    /// Changes the ALUA state of a target in a portal group; initiators that come through it are told.
    ///
    /// # Errors
    /// When there is no such target, or it is not reached through the group.
    pub fn set_alua(&self, iqn: &str, group: u16, state: AluaState) -> Result<(), ExportError> {
        self.iscsi_target()?
            .set_access(&self.engine, iqn, group, state.into())
            .map_err(ExportError::Iscsi)
    }
}

fn initiators(list: Option<&[String]>) -> Result<Initiators, ExportError> {
    match list {
        None => Ok(Initiators::Any),
        Some([word]) if word == "any" => Ok(Initiators::Any),
        Some([]) => {
            let message = "an empty list lets no initiator in; `any` alone is for all of them";
            Err(ExportError::Invalid(message.to_owned()))
        }
        Some(list) => Initiators::parse(list).map_err(ExportError::Invalid),
    }
}

/// The tags of portal groups, in the order that an operator has given.
fn groups(tags: &[u16]) -> Result<Vec<u16>, ExportError> {
    let message = if tags.is_empty() {
        "no initiator could reach a target without a portal group".to_owned()
    } else if tags.contains(&0) {
        "0 is not the tag of a portal group; tags go from 1 to 65535".to_owned()
    } else if tags.len() > PORTALS_MAX {
        format!("a target is reached through at most {PORTALS_MAX} portal groups")
    } else if let Some(twice) = (1..tags.len()).find(|&at| tags[..at].contains(&tags[at])) {
        format!("portal group {} is listed twice", tags[twice])
    } else {
        return Ok(tags.to_vec());
    };
    Err(ExportError::Invalid(message))
}

fn redirect(address: SocketAddr, is_permanent: bool) -> Result<Redirect, ExportError> {
    if address.port() == 0 || address.ip().is_unspecified() {
        let message = format!("initiators cannot connect to {address}");
        return Err(ExportError::Invalid(message));
    }
    Ok(Redirect {
        address,
        is_permanent,
    })
}

fn chap(path: &Path, mutual: bool) -> Result<Chap, ExportError> {
    let secrets = Secrets::read(path).map_err(ExportError::Invalid)?;
    if mutual && secrets.own().is_none() {
        let message =
            "the file has no line `target NAME SECRET` for the target to prove itself with";
        return Err(ExportError::Invalid(message.to_owned()));
    }
    Ok(Chap {
        secrets: Arc::new(secrets),
        mutual,
    })
}
