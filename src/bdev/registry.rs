//! Which backing devices there are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::dm::{DeviceId, Lower, LowerId};

use super::device::{Bdev, Facts};
use super::error::Error;
use super::foreign::Foreign;
use super::{NvmeReport, RemoteReport, Spec};

/// All backing devices of the process. Shared by the control thread and the reactors, which look here when a table is prepared, never
/// per I/O.
///
/// A device can be taken away while tables name it ([`Registry::hot_remove`]). Its name is free at once, because tables and channels go by
/// number: so a disk that was replaced comes in under its old name, and the same table, loaded again, is on the new one. *Turned down:* to keep
/// the name until the last table has let go, which would force a table of errors in between.
#[derive(Default)]
pub struct Registry {
    devices: Mutex<Devices>,
    /// Opens the devices, when they are not the native engine's.
    foreign: Option<Box<dyn Foreign>>,
}

#[derive(Default)]
struct Devices {
    by_name: BTreeMap<String, Arc<Bdev>>,
    /// Names of devices that are being opened.
    opening: BTreeSet<String>,
    /// Taken away, while tables named them or reactors had them open.
    removed: Vec<Arc<Facts>>,
    next_id: u32,
}

impl Devices {
    fn has_name(&self, name: &str) -> bool {
        self.by_name.contains_key(name) || self.opening.contains(name)
    }
}

/// A backing device and who uses it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its kind, as the configuration calls it.
    pub kind: &'static str,
    /// What it can do, as of now.
    pub lower: Lower,
    /// One entry for each table that names it: the mapped device that the table was made for, if it was for one.
    pub tables: Vec<Option<DeviceId>>,
    /// It was taken away; what is left of it goes with the last table.
    pub removed: bool,
    /// How it is doing, for a remote.
    pub remote: Option<RemoteReport>,
    /// What it is, for a namespace of the kernel's.
    pub nvme: Option<NvmeReport>,
}

impl Report {
    fn new(facts: &Facts, removed: bool) -> Report {
        Report {
            kind: facts.kind,
            lower: facts.declare(),
            tables: facts.uses.devices().clone(),
            removed,
            remote: facts.standing.as_ref().map(|standing| standing.report()),
            nvme: facts.nvme.clone(),
        }
    }
}

/// A name, kept for a device that is about to be opened; given back when it is dropped.
pub struct Reserved<'a> {
    registry: &'a Registry,
    name: String,
}

impl Reserved<'_> {
    /// Opens the device and makes it known. May block; for the control thread.
    ///
    /// # Errors
    /// All that opening can run into; then the name is free again.
    pub fn open(self, spec: &Spec) -> Result<Arc<Bdev>, Error> {
        let id = {
            let mut devices = self.registry.devices();
            devices.next_id += 1;
            LowerId(devices.next_id - 1)
        };
        // Without the lock: opening can take its time, and reactors look things up here.
        let bdev = match &self.registry.foreign {
            None => Bdev::open(id, &self.name, spec)?,
            Some(foreign) => Bdev::foreign(foreign.open(id, &self.name, spec)?),
        };
        let bdev = Arc::new(bdev);
        self.registry
            .devices()
            .by_name
            .insert(self.name.clone(), Arc::clone(&bdev));
        Ok(bdev)
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.registry.devices().opening.remove(&self.name);
    }
}

impl Registry {
    /// For an engine that opens its backing devices itself.
    pub fn of_engine(foreign: Box<dyn Foreign>) -> Registry {
        Registry {
            foreign: Some(foreign),
            ..Registry::default()
        }
    }

    fn devices(&self) -> MutexGuard<'_, Devices> {
        self.devices
            .lock()
            .expect("no holder of this lock can panic")
    }

    /// Takes a name for a device that is about to be opened. Does not block.
    ///
    /// # Errors
    /// [`Error::Exists`].
    pub fn reserve(&self, name: &str) -> Result<Reserved<'_>, Error> {
        let mut devices = self.devices();
        if devices.has_name(name) {
            return Err(Error::Exists {
                name: name.to_string(),
            });
        }
        devices.opening.insert(name.to_string());
        Ok(Reserved {
            registry: self,
            name: name.to_string(),
        })
    }

    /// Opens a device and makes it known. May block; for the control thread.
    ///
    /// # Errors
    /// [`Error::Exists`], and all that opening can run into.
    pub fn add(&self, name: &str, spec: Spec) -> Result<Arc<Bdev>, Error> {
        self.reserve(name)?.open(&spec)
    }

    /// Forgets a device that nobody uses; it is closed when the last that was lent of it has come back.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::InUse`] while tables name it or channels are open.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let removed = {
            let mut devices = self.devices();
            let bdev = find(&devices, name)?;
            if !bdev.facts().is_free() {
                let tables = bdev.facts().uses.devices().clone();
                return Err(Error::InUse {
                    name: name.to_string(),
                    tables,
                    channels: bdev.facts().channels.load(Ordering::Relaxed),
                });
            }
            devices.by_name.remove(name)
        };
        // Closing takes its time, so not under the lock.
        drop(removed);
        Ok(())
    }

    /// Takes a device away from under its users, as when a disk is pulled. From now on no channel to it can be opened and no table
    /// can name it, and its name is free; every reactor's [`super::Core::lower_gone`] does the rest, until when the device is to be kept.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn hot_remove(&self, name: &str) -> Result<Arc<Bdev>, Error> {
        let mut devices = self.devices();
        let bdev = find(&devices, name)?.clone();
        devices.by_name.remove(name);
        devices.removed.retain(|facts| !facts.is_free());
        if !bdev.facts().is_free() {
            devices.removed.push(Arc::clone(bdev.facts()));
        }
        Ok(bdev)
    }

    /// What a device can do, for a table of `device` that names it: until that table is gone, the device stays. `None` without such a
    /// device.
    pub fn declare_to(&self, device: Option<DeviceId>, name: &str) -> Option<Lower> {
        // Under the lock, so that the device is not removed between being found and being used.
        let devices = self.devices();
        Some(devices.by_name.get(name)?.facts().declare_to(device))
    }

    /// Whether a device has that name, or is about to.
    pub fn has_name(&self, name: &str) -> bool {
        self.devices().has_name(name)
    }

    /// The device of that name.
    pub fn by_name(&self, name: &str) -> Option<Arc<Bdev>> {
        self.devices().by_name.get(name).cloned()
    }

    /// The device with that number.
    pub fn by_id(&self, id: LowerId) -> Option<Arc<Bdev>> {
        self.devices()
            .by_name
            .values()
            .find(|bdev| bdev.id() == id)
            .cloned()
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<Arc<Bdev>> {
        self.devices().by_name.values().cloned().collect()
    }

    /// All of them and who uses them, by name; then those that were taken away and are still in use, in the order in which they went.
    pub fn report(&self) -> Vec<Report> {
        let mut devices = self.devices();
        devices.removed.retain(|facts| !facts.is_free());
        let present = devices.by_name.values().map(|bdev| (bdev.facts(), false));
        let removed = devices.removed.iter().map(|facts| (facts, true));
        present
            .chain(removed)
            .map(|(facts, removed)| Report::new(facts, removed))
            .collect()
    }
}

fn find<'a>(devices: &'a Devices, name: &str) -> Result<&'a Arc<Bdev>, Error> {
    devices.by_name.get(name).ok_or_else(|| Error::Missing {
        name: name.to_string(),
    })
}
