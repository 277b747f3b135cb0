//! Operators' verbs on backing devices, and the one space of names that they share with mapped devices: a table line names either.

use super::Engine;
use crate::bdev::{self, NvmeReport, RemoteReport, Spec};
use crate::dm::{DeviceId, Errno, Error, Lower};

/// A backing device as an operator sees it.
#[derive(Clone, Debug)]
pub struct BdevInfo {
    /// Its kind, as the configuration calls it.
    pub kind: &'static str,
    /// What it can do.
    pub lower: Lower,
    /// How many tables name it, live and inactive ones.
    pub tables: u32,
    /// The mapped devices that have these tables, by name.
    pub devices: Vec<String>,
    /// It was taken away from under its tables ([`Engine::remove_bdev`] by force).
    pub removed: bool,
    /// How it is doing, for a remote.
    pub remote: Option<RemoteReport>,
    /// What it is, for a namespace of the kernel's.
    pub nvme: Option<NvmeReport>,
}

impl Engine {
    /// Opens a backing device and makes it known to tables.
    ///
    /// # Errors
    /// EBUSY when a backing or mapped device has the name, or the file is in use; ENXIO when there is no such file; ENOMEM; EINVAL for
    /// what else is wrong with it.
    pub fn add_bdev(&self, name: &str, spec: &Spec) -> Result<(), Error> {
        let reserved = {
            let names = self.names();
            if names.find(name).is_ok() {
                let reason = format!(
                    "'{name}' is the name of a mapped device; bdevs and devices share one space of names, because a table line names either"
                );
                return Err(Error::new(Errno::Ebusy, reason));
            }
            self.bdevs.reserve(name).map_err(refusal)?
        };
        reserved.open(spec).map(drop).map_err(refusal)
    }

    /// Forgets a backing device that no table names. By force, takes it away from under its tables, as when a disk is pulled (PM-14):
    /// when this returns, every core knows; what is submitted to it ends with [`crate::dm::Status::Transport`], what it had in flight ends
    /// as it will, its name is free, and it is closed when nothing of it is in flight.
    ///
    /// # Errors
    /// ENXIO without such a device, EBUSY when tables name it.
    pub fn remove_bdev(&self, name: &str, force: bool) -> Result<(), Error> {
        if !force {
            return self.bdevs.remove(name).map_err(|error| match error {
                bdev::Error::InUse { name, tables, .. } if !tables.is_empty() => {
                    self.in_use(&name, &tables)
                }
                error => refusal(error),
            });
        }
        // Kept until every reactor has let go: the last to let go closes it, and to close can take long.
        let bdev = self.bdevs.hot_remove(name).map_err(refusal)?;
        self.world().lower_gone(bdev.id());
        Ok(())
    }

    /// The backing devices, by name; then those that were taken away and are still named by tables.
    pub fn list_bdevs(&self) -> Vec<BdevInfo> {
        let info = |report: bdev::Report| BdevInfo {
            kind: report.kind,
            tables: report.tables.len() as u32,
            devices: self.users(&report.tables),
            lower: report.lower,
            removed: report.removed,
            remote: report.remote,
            nvme: report.nvme,
        };
        self.bdevs.report().into_iter().map(info).collect()
    }

    /// The names of the mapped devices that have these tables, each once.
    fn users(&self, tables: &[Option<DeviceId>]) -> Vec<String> {
        self.names()
            .list()
            .into_iter()
            .filter(|entry| tables.contains(&Some(entry.id)))
            .map(|entry| entry.name)
            .collect()
    }

    fn in_use(&self, name: &str, tables: &[Option<DeviceId>]) -> Error {
        let by = match self.users(tables) {
            devices if devices.is_empty() => String::new(),
            devices => format!(" by {}", devices.join(", ")),
        };
        let reason = format!(
            "bdev '{name}' is in use{by}: {} table(s) name it; load and resume other tables first, or take it away by force, as a pulled disk",
            tables.len()
        );
        Error::new(Errno::Ebusy, reason)
    }
}

/// Refuses a mapped device the name of a backing device. To be called with the names of mapped devices locked, as [`Engine::add_bdev`]
/// takes a name: so of two that want one name, one gets it.
pub(super) fn check_free_of_bdevs(bdevs: &bdev::Registry, name: &str) -> Result<(), Error> {
    if !bdevs.has_name(name) {
        return Ok(());
    }
    let reason = format!(
        "'{name}' is the name of a bdev; bdevs and devices share one space of names, because a table line names either"
    );
    Err(Error::new(Errno::Ebusy, reason))
}

/// The errno of a refusal by the backing devices.
fn refusal(error: bdev::Error) -> Error {
    use std::io::ErrorKind::{NotFound, OutOfMemory, ResourceBusy};
    let errno = match &error {
        bdev::Error::Exists { .. }
        | bdev::Error::InUse { .. }
        | bdev::Error::Locked { .. }
        | bdev::Error::Held { .. } => Errno::Ebusy,
        bdev::Error::Missing { .. } | bdev::Error::Remote { .. } => Errno::Enxio,
        bdev::Error::Memory { .. } | bdev::Error::NoRing { .. } => Errno::Enomem,
        bdev::Error::File { error, .. } => match error.kind() {
            NotFound => Errno::Enxio,
            ResourceBusy => Errno::Ebusy,
            OutOfMemory => Errno::Enomem,
            _ => Errno::Einval,
        },
        _ => Errno::Einval,
    };
    Error::new(errno, error.to_string())
}
