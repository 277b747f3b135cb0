//! Logical units as one core has them: the device's geometry as bound now, and this core's counters.

use std::sync::Arc;

use super::target::{Target, TargetId};
use crate::dm::{DeviceId, Geometry};
use crate::export::stats::CommandStats;
use crate::scsi::Unit;

/// A unit on one core.
pub struct LocalUnit {
    /// The mapped device.
    pub device: DeviceId,
    /// What its initiators share.
    pub unit: Arc<Unit>,
    /// The device's geometry; `None` while it has no table or no blocks.
    pub geometry: Option<Geometry>,
    /// Counters of this core.
    pub stats: Box<CommandStats>,
}

impl LocalUnit {
    /// Takes over a new geometry; true if the unit's size is another now.
    pub fn set_geometry(&mut self, geometry: Option<Geometry>) -> bool {
        let geometry =
            geometry.filter(|geometry| geometry.sectors >= u64::from(geometry.block_bytes / 512));
        let size = |geometry: &Geometry| (geometry.sectors, geometry.block_bytes);
        let changed = match (&self.geometry, &geometry) {
            (Some(before), Some(now)) => size(before) != size(now),
            _ => false,
        };
        self.geometry = geometry;
        changed
    }
}

/// The units of every target, by target and LUN.
#[derive(Default)]
pub struct LocalUnits {
    tables: Vec<Vec<Option<LocalUnit>>>,
}

impl LocalUnits {
    /// The units of a target on this core; `geometry` is asked about every device.
    pub fn new(target: &Target, geometry: impl Fn(DeviceId) -> Option<Geometry>) -> Self {
        let table = |units: &[super::target::ServedUnit]| {
            let size = units.last().map_or(0, |unit| usize::from(unit.lun) + 1);
            let mut table: Vec<Option<LocalUnit>> = Vec::new();
            table.resize_with(size, || None);
            for unit in units {
                let mut local = LocalUnit {
                    device: unit.device,
                    unit: Arc::clone(&unit.unit),
                    geometry: None,
                    stats: Box::default(),
                };
                local.set_geometry(geometry(unit.device));
                table[usize::from(unit.lun)] = Some(local);
            }
            table
        };
        let tables = target.targets().map(|(_, served)| table(&served.units));
        Self {
            tables: tables.collect(),
        }
    }

    /// A unit.
    #[inline]
    pub fn get_mut(&mut self, target: TargetId, lun: u16) -> Option<&mut LocalUnit> {
        self.tables
            .get_mut(target.0 as usize)?
            .get_mut(usize::from(lun))?
            .as_mut()
    }

    /// A unit.
    #[inline]
    pub fn get(&self, target: TargetId, lun: u16) -> Option<&LocalUnit> {
        self.tables
            .get(target.0 as usize)?
            .get(usize::from(lun))?
            .as_ref()
    }

    /// All units over a device.
    pub fn of_device(&mut self, device: DeviceId) -> impl Iterator<Item = &mut LocalUnit> {
        let all = self.tables.iter_mut().flatten().flatten();
        all.filter(move |unit| unit.device == device)
    }
}
