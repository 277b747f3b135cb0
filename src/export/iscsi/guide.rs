//! The target as the units of one session see it: which of them there are for its initiator, and how they are reached.

use std::sync::Arc;

use super::session::Member;
use super::target::{TargetId, TargetPort};
use super::unit::{LocalUnit, LocalUnits, LunSet};
use crate::dm::Geometry;
use crate::scsi::{Directory, Nexus, Port, PortGroup, Unit};

/// A target from one session on one core.
pub(super) struct Guide<'a> {
    id: TargetId,
    units: &'a LocalUnits,
    /// The units that the initiator sees.
    seen: LunSet,
}

impl<'a> Guide<'a> {
    /// The target of a session, with its nexus and the port that it has come through; `None` when it has none, or none any more.
    #[inline]
    pub(super) fn of<'b>(
        member: Option<&'b Member>,
        units: &'a LocalUnits,
    ) -> Option<(Self, &'b Nexus, &'a TargetPort)> {
        let member = member?;
        let (id, nexus) = member.nexus.as_ref()?;
        let port = units.served(*id)?.port(nexus.port)?;
        let guide = Self {
            id: *id,
            units,
            seen: member.luns,
        };
        Some((guide, nexus, port))
    }

    /// A unit, if the initiator sees it.
    #[inline]
    pub(super) fn local(&self, lun: u16) -> Option<&'a LocalUnit> {
        let unit = self.units.get(self.id, lun);
        unit.filter(|_| self.seen.has(lun))
    }
}

impl Directory for Guide<'_> {
    fn luns(&self) -> Vec<u16> {
        let served = self.units.served(self.id);
        let units = served.iter().flat_map(|served| &served.units);
        units
            .map(|unit| unit.lun)
            .filter(|&lun| self.seen.has(lun))
            .collect()
    }

    fn unit(&self, lun: u16) -> Option<(Arc<Unit>, Geometry)> {
        let local = self.local(lun)?;
        Some((Arc::clone(&local.unit), local.geometry?))
    }

    fn groups(&self) -> Vec<PortGroup> {
        let served = self.units.served(self.id);
        let ports = served.iter().flat_map(|served| &served.ports);
        let group = |port: &TargetPort| PortGroup {
            tag: port.port.group,
            access: port.access,
            altered: port.altered,
            ports: vec![port.port.number],
        };
        ports.map(group).collect()
    }

    fn is_explicit(&self) -> bool {
        let served = self.units.served(self.id);
        served.is_some_and(|served| served.explicit_alua)
    }

    fn ports(&self) -> Vec<Port> {
        let served = self.units.served(self.id);
        let ports = served.iter().flat_map(|served| &served.ports);
        ports.map(|port| port.port.clone()).collect()
    }
}
