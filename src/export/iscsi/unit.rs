//! Targets and logical units as one core has them: what is served, the device's geometry as bound now, and this core's counters.

use std::sync::Arc;

use super::target::{Served, ServedUnit, Target, TargetId};
use crate::dm::{DeviceId, Geometry};
use crate::export::stats::CommandStats;
use crate::scsi::sense::Code;
use crate::scsi::{Atomic, Unit};

/// The numbers that units can have: LUNs of a byte.
pub const LUNS: std::ops::Range<u16> = 0..256;

/// Some of a target's units, by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LunSet([u64; LUNS.end as usize / 64]);

impl LunSet {
    /// Whether a unit is among them.
    #[inline]
    pub fn has(&self, lun: u16) -> bool {
        let word = self.0.get(usize::from(lun / 64));
        word.is_some_and(|word| word >> (lun % 64) & 1 != 0)
    }
}

impl FromIterator<u16> for LunSet {
    fn from_iter<I: IntoIterator<Item = u16>>(luns: I) -> Self {
        let mut set = Self::default();
        for lun in luns {
            if let Some(word) = set.0.get_mut(usize::from(lun / 64)) {
                *word |= 1 << (lun % 64);
            }
        }
        set
    }
}

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
    fn new(unit: &ServedUnit, geometry: Option<Geometry>) -> Self {
        let mut local = Self {
            device: unit.device,
            unit: Arc::clone(&unit.unit),
            geometry: None,
            stats: Box::default(),
        };
        local.set_geometry(geometry);
        local
    }

    /// Takes over a new geometry; what initiators have to be told of it: that the size is another (SBC-3, 4.7.1), that what INQUIRY says of
    /// atomic writes is.
    pub fn set_geometry(&mut self, geometry: Option<Geometry>) -> [Option<Code>; 2] {
        let now =
            geometry.filter(|geometry| geometry.sectors >= u64::from(geometry.block_bytes / 512));
        let before = std::mem::replace(&mut self.geometry, now);
        let (Some(before), Some(now)) = (before, now) else {
            return [None; 2];
        };
        let size = |geometry: &Geometry| (geometry.sectors, geometry.block_bytes);
        let resized = size(&before) != size(&now);
        let writes_otherwise = Atomic::of(&before) != Atomic::of(&now);
        [
            resized.then_some(Code::CAPACITY_CHANGED),
            writes_otherwise.then_some(Code::INQUIRY_DATA_CHANGED),
        ]
    }
}

/// A target on one core.
struct LocalTarget {
    served: Arc<Served>,
    /// By LUN.
    units: Vec<Option<LocalUnit>>,
}

/// The targets and their units, by number.
#[derive(Default)]
pub struct LocalUnits {
    targets: Vec<Option<LocalTarget>>,
}

impl LocalUnits {
    /// The units of a target on this core; `geometry` is asked about every device.
    pub fn new(target: &Target, mut geometry: impl FnMut(DeviceId) -> Option<Geometry>) -> Self {
        let mut units = Self::default();
        for (id, served) in target.targets() {
            units.replace(id, Some(served), &mut geometry);
        }
        units
    }

    /// Takes over a target as it is now; `None` when it is gone. Units that stay keep their counters; `geometry` is asked about the others.
    pub fn replace(
        &mut self,
        target: TargetId,
        served: Option<Arc<Served>>,
        mut geometry: impl FnMut(DeviceId) -> Option<Geometry>,
    ) {
        let index = target.0 as usize;
        if self.targets.len() <= index {
            self.targets.resize_with(index + 1, || None);
        }
        let before = self.targets[index].take();
        let Some(served) = served else { return };
        let mut before = before.map(|before| before.units).unwrap_or_default();
        let size = served
            .units
            .last()
            .map_or(0, |unit| usize::from(unit.lun) + 1);
        let mut units: Vec<Option<LocalUnit>> = Vec::new();
        units.resize_with(size, || None);
        for unit in &served.units {
            let index = usize::from(unit.lun);
            let stays = before
                .get_mut(index)
                .and_then(Option::take)
                .filter(|local| Arc::ptr_eq(&local.unit, &unit.unit));
            units[index] =
                Some(stays.unwrap_or_else(|| LocalUnit::new(unit, geometry(unit.device))));
        }
        self.targets[index] = Some(LocalTarget { served, units });
    }

    /// Units of a target that another state of it no longer has.
    pub fn gone(&self, target: TargetId, now: Option<&Served>) -> Vec<u16> {
        let Some(before) = self.served(target) else {
            return Vec::new();
        };
        let stays = |unit: &ServedUnit| {
            now.is_some_and(|now| {
                let mut units = now.units.iter();
                units.any(|other| Arc::ptr_eq(&other.unit, &unit.unit))
            })
        };
        let units = before.units.iter();
        units
            .filter(|unit| !stays(unit))
            .map(|unit| unit.lun)
            .collect()
    }

    /// A target.
    #[inline]
    pub fn served(&self, target: TargetId) -> Option<&Arc<Served>> {
        let target = self.targets.get(target.0 as usize)?.as_ref()?;
        Some(&target.served)
    }

    /// All targets, in order.
    pub fn targets(&self) -> impl Iterator<Item = (TargetId, &Arc<Served>)> {
        let numbered = self.targets.iter().enumerate();
        numbered
            .filter_map(|(index, target)| Some((TargetId(index as u32), &target.as_ref()?.served)))
    }

    /// The target of this name. Names are compared in lower case (RFC 3722).
    pub fn find(&self, iqn: &str) -> Option<TargetId> {
        self.targets()
            .find(|(_, target)| target.iqn.eq_ignore_ascii_case(iqn))
            .map(|(id, _)| id)
    }

    /// A unit.
    #[inline]
    pub fn get_mut(&mut self, target: TargetId, lun: u16) -> Option<&mut LocalUnit> {
        let target = self.targets.get_mut(target.0 as usize)?.as_mut()?;
        target.units.get_mut(usize::from(lun))?.as_mut()
    }

    /// A unit.
    #[inline]
    pub fn get(&self, target: TargetId, lun: u16) -> Option<&LocalUnit> {
        let target = self.targets.get(target.0 as usize)?.as_ref()?;
        target.units.get(usize::from(lun))?.as_ref()
    }

    /// All units over a device.
    pub fn of_device(&mut self, device: DeviceId) -> impl Iterator<Item = &mut LocalUnit> {
        let targets = self.targets.iter_mut().flatten();
        let all = targets.flat_map(|target| target.units.iter_mut().flatten());
        all.filter(move |unit| unit.device == device)
    }
}
