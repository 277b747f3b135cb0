//! Mapped devices that go, now or when the last that holds them lets go: front ends, and devices whose tables name them.

use super::Engine;
use crate::dm::{DeviceId, Errno, Error, Request};

/// What became of the devices when all were to be removed, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Those that are gone.
    pub removed: Vec<String>,
    /// Those that go when nothing holds them any more.
    pub deferred: Vec<String>,
    /// Those that stay, because they are in use.
    pub kept: Vec<String>,
}

impl Engine {
    /// Removes a device that nobody holds.
    ///
    /// # Errors
    /// ENXIO without such a device, EBUSY when it is in use.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        self.remove_free(name)?;
        self.remove_released();
        Ok(())
    }

    /// Removes a device now, or, when it is in use, as soon as nothing holds it any more (LC-19). Whether it is gone.
    ///
    /// # Errors
    /// ENXIO without such a device.
    pub fn remove_deferred(&self, name: &str) -> Result<bool, Error> {
        let gone = self.remove_free_or_mark(name);
        self.remove_released();
        gone
    }

    /// Removes all devices that nobody holds; the others stay, or go later (LC-20).
    ///
    /// # Errors
    /// When a device that nobody holds cannot be removed.
    pub fn remove_all(&self, deferred: bool) -> Result<Removed, Error> {
        let mut all = Removed::default();
        loop {
            let before = all.removed.len();
            (all.deferred, all.kept) = (Vec::new(), Vec::new());
            for entry in self.list() {
                let name = entry.name;
                let gone = match deferred {
                    true => self.remove_free_or_mark(&name),
                    false => self.remove_free(&name).map(|()| true),
                };
                match gone {
                    Ok(true) => all.removed.push(name),
                    Ok(false) => all.deferred.push(name),
                    Err(error) if error.errno == Errno::Ebusy => all.kept.push(name),
                    // Somebody else was quicker.
                    Err(error) if error.errno == Errno::Enxio => {}
                    Err(error) => return Err(error),
                }
            }
            // What is gone may have held others.
            if all.removed.len() == before {
                self.remove_released();
                return Ok(all);
            }
        }
    }

    /// Lets go of a device. The last to do so removes a device that is waiting for that (LC-19), so this may wait for the
    /// reactors: not to be called on one.
    pub fn close(&self, device: DeviceId) {
        self.names().close(device);
        self.remove_released();
    }

    /// Removes the devices that are to go as soon as nothing holds them, and are held by nothing now. To be called when a front end or
    /// a table may have let go of one; a device that goes lets go of those beneath.
    pub(super) fn remove_released(&self) {
        loop {
            let free = |id| self.stack.user_count(id) == 0;
            let released = self.names().delete_released(free);
            let Some(id) = released else {
                return;
            };
            // Only an engine that is stopping refuses, and then everything goes.
            let _ = self.remove_deleted(id);
        }
    }

    /// Removes a device that nothing holds. What it held may be free then.
    fn remove_free(&self, name: &str) -> Result<(), Error> {
        let id = {
            let mut names = self.names();
            let users = self.stack.users(names.find(name)?.id);
            if !users.is_empty() {
                let reason = format!(
                    "device '{name}' is in use: tables of {} name it",
                    users.join(", ")
                );
                return Err(Error::new(Errno::Ebusy, reason));
            }
            names.delete(name)?
        };
        self.remove_deleted(id)
    }

    /// The same, or marks a device that is held to be removed when it is free. Whether it is gone.
    fn remove_free_or_mark(&self, name: &str) -> Result<bool, Error> {
        let is_held = |id| self.stack.user_count(id) > 0;
        let id = self.names().delete_deferred(name, is_held)?;
        match id {
            Some(id) => self.remove_deleted(id).map(|()| true),
            None => Ok(false),
        }
    }

    /// Removes a device that nobody can find any more.
    fn remove_deleted(&self, id: DeviceId) -> Result<(), Error> {
        self.world().withdraw(id);
        let removed = self.request(id, Request::Remove).map(drop);
        self.forget(id);
        removed
    }
}
