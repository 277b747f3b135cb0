//! Which tables name a device: what stands between it and its removal.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::dm::DeviceId;

/// The tables that name one device, by the mapped device they were made for; `None` for a table that no device has.
#[derive(Debug, Default)]
pub(super) struct Uses(Mutex<Vec<Option<DeviceId>>>);

impl Uses {
    /// Notes one more table.
    pub(super) fn begin(self: &Arc<Self>, device: Option<DeviceId>) -> Use {
        self.devices().push(device);
        Use {
            uses: Arc::clone(self),
            device,
        }
    }

    /// One entry for each table.
    pub(super) fn devices(&self) -> MutexGuard<'_, Vec<Option<DeviceId>>> {
        self.0.lock().expect("no holder of this lock can panic")
    }
}

/// Held by a table ([`crate::dm::limits::Keep`]). Tables end on reactors: dropping it takes a lock that is never held for longer than a
/// walk over as many numbers as there are tables on one device.
#[derive(Debug)]
pub(super) struct Use {
    uses: Arc<Uses>,
    device: Option<DeviceId>,
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut devices = self.uses.devices();
        let position = devices.iter().position(|device| *device == self.device);
        devices.swap_remove(position.expect("it was noted when it began"));
    }
}
