//! Tables: built from their text against the backing and mapped devices of now, loaded, cleared.

use std::sync::Arc;

use super::Engine;
use crate::bdev;
use crate::dm::target::{Refusal, Resolve};
use crate::dm::{self, DeviceId, Errno, Error, Lower, Request, Table};

impl Engine {
    /// Loads a table into a device's inactive slot.
    ///
    /// # Errors
    /// ENXIO without such a device, or when a lower device cannot be opened; EINVAL for the table.
    pub fn load(&self, name: &str, text: &str, read_only: bool) -> Result<(), Error> {
        let table = self.table_from(name, text, read_only)?;
        self.load_table(name, table)
    }

    /// Loads a table that was built before ([`Engine::parse_table`]).
    ///
    /// # Errors
    /// ENXIO without such a device, or when a lower device cannot be opened; EINVAL when the live table, or a device whose table
    /// names this one, is in the way.
    pub fn load_table(&self, name: &str, table: Arc<Table>) -> Result<(), Error> {
        let loaded = self.request_by_name(name, Request::Load(table)).map(drop);
        self.remove_released();
        loaded
    }

    /// Empties a device's inactive slot.
    ///
    /// # Errors
    /// ENXIO without such a device.
    pub fn clear(&self, name: &str) -> Result<(), Error> {
        self.request_by_name(name, Request::Clear)?;
        self.remove_released();
        Ok(())
    }

    /// Builds a table for a device from its text. As long as the table exists, the devices that it names cannot be removed, backing
    /// ones but by force. `read_only` makes one that refuses writes.
    ///
    /// # Errors
    /// The line and the reason.
    pub fn parse_table(
        &self,
        device: DeviceId,
        text: &str,
        read_only: bool,
    ) -> Result<Arc<Table>, dm::TableError> {
        let beneath = Beneath {
            engine: self,
            device,
        };
        let table = Table::parse(text, &beneath)?;
        for lower in &table.lowers {
            self.stack.set_reach(lower, table.reach(lower.id));
        }
        Ok(finished(table, read_only))
    }

    /// The same, for a device by name.
    pub(super) fn table_from(
        &self,
        name: &str,
        text: &str,
        read_only: bool,
    ) -> Result<Arc<Table>, Error> {
        let device = self.names().find(name)?.id;
        self.parse_table(device, text, read_only)
            .map_err(|error| Error::new(Errno::Einval, error.to_string()))
    }
}

/// What may be beneath a device: the backing and mapped devices of now.
struct Beneath<'a> {
    engine: &'a Engine,
    device: DeviceId,
}

impl Resolve for Beneath<'_> {
    fn resolve(&self, name: &str) -> Result<Lower, Refusal> {
        let engine = self.engine;
        // Locked until the lower device is held, so that it is not removed before.
        let names = engine.names();
        if let Some(lower) = engine.bdevs.declare_to(Some(self.device), name) {
            return Ok(lower);
        }
        let declared = match names.find(name) {
            Ok(entry) => engine.stack.declare_to(self.device, entry.id),
            Err(_) => Err(format!(
                "there is no bdev '{name}', and no mapped device of that name"
            )),
        };
        declared.map_err(Refusal::new)
    }
}

/// Builds a table from its text, against the backing devices of now, for no device. As long as it exists, these cannot be removed but
/// by force. `read_only` makes one that refuses writes.
///
/// # Errors
/// The line and the reason.
pub fn parse_table(
    bdevs: &bdev::Registry,
    text: &str,
    read_only: bool,
) -> Result<Arc<Table>, dm::TableError> {
    let resolve = |name: &str| bdevs.declare_to(None, name);
    Ok(finished(Table::parse(text, &resolve)?, read_only))
}

fn finished(table: Table, read_only: bool) -> Arc<Table> {
    Arc::new(if read_only { table.read_only() } else { table })
}
