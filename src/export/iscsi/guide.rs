//! The target as the units of one session see it: which of them there are for its initiator, and how they are reached.

use std::cell::RefCell;
use std::sync::Arc;

use super::message::{Message, Whose};
use super::session::Member;
use super::target::{Target, TargetId, TargetPort};
use super::unit::{LocalUnit, LocalUnits, LunSet};
use crate::dm::{CoreId, Geometry};
use crate::scsi::{Directory, Nexus, NexusId, Port, PortGroup, Unit};

/// A target from one session on one core.
pub(super) struct Guide<'a> {
    id: TargetId,
    units: &'a LocalUnits,
    /// The units that the initiator sees.
    seen: LunSet,
    /// Commands that have to be aborted for a PREEMPT AND ABORT.
    aborts: RefCell<Vec<(u16, NexusId)>>,
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
            aborts: RefCell::default(),
        };
        Some((guide, nexus, port))
    }

    /// A unit, if the initiator sees it.
    #[inline]
    pub(super) fn local(&self, lun: u16) -> Option<&'a LocalUnit> {
        let unit = self.units.get(self.id, lun);
        unit.filter(|_| self.seen.has(lun))
    }

    /// Sends every abort to the core where its nexus is.
    #[inline]
    pub(super) fn send_aborts(self, target: &Target, outbox: &mut Vec<(CoreId, Message)>) {
        let aborts = self.aborts.into_inner();
        if aborts.is_empty() {
            return;
        }
        let places = target.nexuses_of(self.id);
        for (lun, nexus) in aborts {
            let message = Message::Abort {
                target: self.id,
                lun: Some(lun),
                whose: Whose::Of(nexus),
                from: None,
            };
            if let Some((_, key)) = places.iter().find(|(of, _)| *of == nexus) {
                outbox.push((key.core, message));
            }
        }
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

    fn abort(&self, lun: u16, nexuses: &[NexusId]) {
        let mut aborts = self.aborts.borrow_mut();
        aborts.extend(nexuses.iter().map(|&nexus| (lun, nexus)));
    }
}
