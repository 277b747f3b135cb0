//! Names: which device is called what, who holds it. One registry per engine, on the control plane; no I/O ever asks it.

use std::collections::BTreeMap;

use super::error::{Errno, Error};
use super::io::DeviceId;

/// Longest name, in bytes (1.1).
pub const NAME_BYTES_MAX: usize = 127;
/// Longest uuid, in bytes (1.1).
pub const UUID_BYTES_MAX: usize = 128;
/// Most devices of one engine: a bound on the per-core table of devices (a pointer each), far above any appliance.
pub const DEVICES_MAX: usize = 65_536;

/// A device's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub id: DeviceId,
    /// Its name.
    pub name: String,
    /// Its uuid; empty if it has none.
    pub uuid: String,
    /// How many hold it open.
    pub open_count: u32,
    /// It is to be removed when the last of them lets go of it (LC-19).
    pub deferred_remove: bool,
    /// It is being removed: it can neither be found nor opened any more (LC-5).
    pub deleting: bool,
}

/// All devices of an engine.
#[derive(Debug, Default)]
pub struct Registry {
    entries: BTreeMap<DeviceId, Entry>,
}

impl Registry {
    /// Takes a name, and a uuid unless it is empty, for a new device.
    ///
    /// # Errors
    /// EINVAL for a bad name or uuid, EBUSY for one in use, ENOMEM when there are too many devices.
    pub fn create(&mut self, name: &str, uuid: &str) -> Result<DeviceId, Error> {
        check_name(name)?;
        check_uuid(uuid)?;
        self.check_free(name)?;
        self.check_uuid_free(uuid)?;
        let free = (0..DEVICES_MAX as u32)
            .map(DeviceId)
            .find(|id| !self.entries.contains_key(id));
        let id = free.ok_or_else(|| {
            Error::new(
                Errno::Enomem,
                format!("there are {DEVICES_MAX} devices already"),
            )
        })?;
        let entry = Entry {
            id,
            name: name.into(),
            uuid: uuid.into(),
            open_count: 0,
            deferred_remove: false,
            deleting: false,
        };
        self.entries.insert(id, entry);
        Ok(id)
    }

    /// The device of a name.
    ///
    /// # Errors
    /// ENXIO when there is none, or it is being removed (LC-5).
    pub fn find(&self, name: &str) -> Result<&Entry, Error> {
        self.entries
            .values()
            .find(|entry| entry.name == name && !entry.deleting)
            .ok_or_else(|| Error::new(Errno::Enxio, format!("there is no device '{name}'")))
    }

    /// The device of a number, if it is not being removed.
    pub fn by_id(&self, id: DeviceId) -> Option<&Entry> {
        self.entries.get(&id).filter(|entry| !entry.deleting)
    }

    /// All devices by name; those that are being removed are left out.
    pub fn list(&self) -> Vec<Entry> {
        let mut entries: Vec<_> = self
            .entries
            .values()
            .filter(|entry| !entry.deleting)
            .cloned()
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    /// A front end takes hold of a device.
    ///
    /// # Errors
    /// As [`Registry::find`].
    pub fn open(&mut self, name: &str) -> Result<DeviceId, Error> {
        let id = self.find(name)?.id;
        self.entry(id).open_count += 1;
        Ok(id)
    }

    /// A front end lets go of a device. Whoever may be the last to do so sees to what is to be removed now
    /// ([`Registry::delete_released`]).
    pub fn close(&mut self, id: DeviceId) {
        let entry = self.entry(id);
        assert!(
            entry.open_count > 0,
            "'{}' is closed more often than opened",
            entry.name
        );
        entry.open_count -= 1;
    }

    /// The next device that was to be removed when it is free (LC-19), and is: no front end holds it, nor, says `is_free`, anything
    /// else. It is marked as being removed, in the same step.
    pub fn delete_released(&mut self, is_free: impl Fn(DeviceId) -> bool) -> Option<DeviceId> {
        let released = |entry: &&mut Entry| {
            entry.deferred_remove && !entry.deleting && entry.open_count == 0 && is_free(entry.id)
        };
        let entry = self.entries.values_mut().find(released)?;
        entry.deleting = true;
        Some(entry.id)
    }

    /// Marks a device as being removed, if nobody holds it: one step, so that nobody can open it in between (LC-18).
    ///
    /// # Errors
    /// ENXIO when there is no such device, EBUSY when a front end holds it.
    pub fn delete(&mut self, name: &str) -> Result<DeviceId, Error> {
        let Entry { id, open_count, .. } = *self.find(name)?;
        if open_count > 0 {
            return Err(Error::new(
                Errno::Ebusy,
                format!("device '{name}' is in use: {open_count} namespace(s) export it"),
            ));
        }
        self.entry(id).deleting = true;
        Ok(id)
    }

    /// As [`Registry::delete`], but of a device that a front end holds, or, as `is_held` says, something else: it is marked to be
    /// removed when it is free (LC-19), and `None` returned.
    ///
    /// # Errors
    /// ENXIO when there is no such device.
    pub fn delete_deferred(
        &mut self,
        name: &str,
        is_held: impl Fn(DeviceId) -> bool,
    ) -> Result<Option<DeviceId>, Error> {
        let Entry { id, open_count, .. } = *self.find(name)?;
        if open_count == 0 && !is_held(id) {
            return self.delete(name).map(Some);
        }
        self.entry(id).deferred_remove = true;
        Ok(None)
    }

    /// Takes that back (LC-19); a success, too, when there is nothing to take back.
    ///
    /// # Errors
    /// ENXIO when there is no such device, EBUSY when it is being removed already.
    pub fn cancel_deferred_remove(&mut self, name: &str) -> Result<(), Error> {
        let entry = self.entries.values_mut().find(|entry| entry.name == name);
        match entry {
            None => Err(Error::new(
                Errno::Enxio,
                format!("there is no device '{name}'"),
            )),
            Some(entry) if entry.deleting => Err(Error::new(
                Errno::Ebusy,
                format!("device '{name}' is being removed: it is too late to cancel that"),
            )),
            Some(entry) => {
                entry.deferred_remove = false;
                Ok(())
            }
        }
    }

    /// Gives a removed device's name, uuid and number back.
    pub fn forget(&mut self, id: DeviceId) {
        self.entries.remove(&id);
    }

    /// Gives a device another name.
    ///
    /// # Errors
    /// ENXIO when there is no device `old`, EBUSY when `new` is taken, EINVAL when it is no name.
    pub fn rename(&mut self, old: &str, new: &str) -> Result<DeviceId, Error> {
        let id = self.find(old)?.id;
        check_name(new)?;
        self.check_free(new)?;
        self.entry(id).name = new.into();
        Ok(id)
    }

    /// Gives a device without a uuid one: once, because it never changes (1.1).
    ///
    /// # Errors
    /// ENXIO when there is no such device, EINVAL for a bad uuid or when the device has one, EBUSY when another device has it.
    pub fn set_uuid(&mut self, name: &str, uuid: &str) -> Result<DeviceId, Error> {
        let entry = self.find(name)?;
        let id = entry.id;
        let wrong = |reason: String| Err(Error::new(Errno::Einval, reason));
        if !entry.uuid.is_empty() {
            return wrong(format!(
                "device '{name}' has the uuid '{}', and a uuid never changes",
                entry.uuid
            ));
        }
        if uuid.is_empty() {
            return wrong("a uuid has at least one byte".into());
        }
        check_uuid(uuid)?;
        self.check_uuid_free(uuid)?;
        self.entry(id).uuid = uuid.into();
        Ok(id)
    }

    fn entry(&mut self, id: DeviceId) -> &mut Entry {
        self.entries
            .get_mut(&id)
            .expect("a device that was found has an entry")
    }

    fn check_uuid_free(&self, uuid: &str) -> Result<(), Error> {
        if !uuid.is_empty() && self.entries.values().any(|entry| entry.uuid == uuid) {
            let reason = format!("a device with uuid '{uuid}' exists");
            return Err(Error::new(Errno::Ebusy, reason));
        }
        Ok(())
    }

    fn check_free(&self, name: &str) -> Result<(), Error> {
        match self.entries.values().find(|entry| entry.name == name) {
            Some(entry) if entry.deleting => Err(Error::new(
                Errno::Ebusy,
                format!("device '{name}' is being removed"),
            )),
            Some(_) => Err(Error::new(
                Errno::Ebusy,
                format!("a device '{name}' exists"),
            )),
            None => Ok(()),
        }
    }
}

/// Whether `name` may name a device (1.1).
///
/// # Errors
/// EINVAL, with the rule that was broken.
pub fn check_name(name: &str) -> Result<(), Error> {
    let wrong = |reason: String| Err(Error::new(Errno::Einval, reason));
    match name {
        "" => wrong("a device needs a name".into()),
        "control" | "." | ".." => wrong(format!("'{name}' cannot be a device's name")),
        _ if name.len() > NAME_BYTES_MAX => wrong(format!(
            "a name has at most {NAME_BYTES_MAX} bytes, not {}",
            name.len()
        )),
        _ if name.contains('/') => wrong(format!("the name '{name}' has a '/' in it")),
        _ if name.chars().any(|c| c.is_control()) => {
            wrong("a name has no control characters".into())
        }
        _ => Ok(()),
    }
}

fn check_uuid(uuid: &str) -> Result<(), Error> {
    if uuid.len() > UUID_BYTES_MAX {
        let reason = format!(
            "a uuid has at most {UUID_BYTES_MAX} bytes, not {}",
            uuid.len()
        );
        return Err(Error::new(Errno::Einval, reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_until_the_device_is_forgotten() {
        let mut registry = Registry::default();
        let a = registry.create("a", "u").unwrap();
        assert_eq!(registry.create("a", "").unwrap_err().errno, Errno::Ebusy);
        assert_eq!(registry.create("b", "u").unwrap_err().errno, Errno::Ebusy);
        assert_eq!(registry.delete("a").unwrap(), a);
        assert_eq!(registry.find("a").unwrap_err().errno, Errno::Enxio);
        assert_eq!(registry.create("a", "").unwrap_err().errno, Errno::Ebusy);
        registry.forget(a);
        assert_eq!(registry.create("a", "u").unwrap(), a);
    }

    #[test]
    fn lc_18_an_open_device_is_not_removed() {
        let mut registry = Registry::default();
        let a = registry.create("a", "").unwrap();
        assert_eq!(registry.open("a").unwrap(), a);
        assert_eq!(registry.delete("a").unwrap_err().errno, Errno::Ebusy);
        registry.close(a);
        assert!(registry.delete("a").is_ok());
        assert_eq!(registry.open("a").unwrap_err().errno, Errno::Enxio);
    }

    /// AT-59: removed at the last close, which nobody can come before; cancelled; too late to cancel once it is being removed.
    #[test]
    fn at_59_deferred_remove() {
        let mut registry = Registry::default();
        let a = registry.create("a", "").unwrap();
        registry.open("a").unwrap();
        registry.open("a").unwrap();
        let free = |_| false;
        assert_eq!(registry.delete_deferred("a", free), Ok(None));
        assert!(registry.find("a").unwrap().deferred_remove);
        registry.close(a);
        assert_eq!(registry.delete_released(|_| true), None);
        assert_eq!(registry.cancel_deferred_remove("a"), Ok(()));
        registry.close(a);
        assert_eq!(registry.delete_released(|_| true), None, "cancelled");
        registry.open("a").unwrap();
        registry.delete_deferred("a", free).unwrap();
        registry.close(a);
        assert_eq!(registry.delete_released(|id| id != a), None, "still held");
        assert_eq!(registry.delete_released(|_| true), Some(a));
        assert_eq!(registry.delete_released(|_| true), None, "once");
        assert_eq!(registry.open("a").unwrap_err().errno, Errno::Enxio);
        let late = registry.cancel_deferred_remove("a").unwrap_err();
        assert_eq!(late.errno, Errno::Ebusy);
        registry.forget(a);
        let gone = registry.cancel_deferred_remove("a").unwrap_err();
        assert_eq!(gone.errno, Errno::Enxio);
        let b = registry.create("b", "").unwrap();
        assert_eq!(registry.delete_deferred("b", |_| true), Ok(None), "held");
        assert_eq!(registry.delete_deferred("b", free), Ok(Some(b)), "at once");
    }

    /// 1.1: a uuid can be given once, and never changes.
    #[test]
    fn a_uuid_is_set_once() {
        let mut registry = Registry::default();
        registry.create("a", "u").unwrap();
        let b = registry.create("b", "").unwrap();
        let errno = |r: Result<DeviceId, Error>| r.unwrap_err().errno;
        assert_eq!(errno(registry.set_uuid("x", "v")), Errno::Enxio);
        assert_eq!(errno(registry.set_uuid("a", "v")), Errno::Einval);
        assert_eq!(errno(registry.set_uuid("b", "u")), Errno::Ebusy);
        for bad in ["", &"v".repeat(129)] {
            assert_eq!(errno(registry.set_uuid("b", bad)), Errno::Einval);
        }
        assert_eq!(registry.set_uuid("b", "v"), Ok(b));
        assert_eq!(errno(registry.set_uuid("b", "w")), Errno::Einval);
    }

    #[test]
    fn rename_follows_the_rules_of_names() {
        let mut registry = Registry::default();
        registry.create("a", "").unwrap();
        registry.create("b", "").unwrap();
        let errno = |r: Result<DeviceId, Error>| r.unwrap_err().errno;
        assert_eq!(errno(registry.rename("x", "y")), Errno::Enxio);
        assert_eq!(errno(registry.rename("a", "b")), Errno::Ebusy);
        for bad in ["", "control", ".", "..", "a/b", "a\nb", &"n".repeat(128)] {
            assert_eq!(errno(registry.rename("a", bad)), Errno::Einval, "{bad:?}");
        }
        registry.rename("a", &"n".repeat(127)).unwrap();
        assert_eq!(registry.list().len(), 2);
    }
}
