//! What the target says unasked (RFC 7143, 11.9): which units there are now, how they are reached, and that it goes.

use std::rc::Rc;

use super::session::{Context, Session, State};
use super::target::{Served, ServedUnit, TargetPort};
use super::unit::{LUNS, LunSet};
use crate::export::backend::{Backend, Lend};
use crate::iscsi::pdu::{FINAL, Header, NO_TAG, opcode};
use crate::scsi::sense::{Code, SENSE_BYTES_MAX};
use crate::scsi::{Altered, Sense, View};

/// Events (RFC 7143, 11.9.1).
mod event {
    pub const SCSI: u8 = 0;
    pub const ALL_CONNECTIONS_DROPPED: u8 = 3;
}

/// Seconds that an initiator waits before it comes again after the target has gone: its own default (DefaultTime2Wait, RFC 7143, 13.15).
const TIME_TO_WAIT: u16 = 2;

impl<L: Lend> Session<L> {
    /// Asynchronous Message.
    fn announce(&mut self, event: u8, parameters: [u16; 3], sense: Option<Sense>) {
        let mut header = Header::new(opcode::ASYNC, FINAL);
        header.put(16, NO_TAG);
        header.0[36] = event;
        for (index, parameter) in parameters.into_iter().enumerate() {
            header.put_u16(38 + 2 * index, parameter);
        }
        let data = sense.map_or_else(Vec::new, |sense| {
            let mut bytes = [0; SENSE_BYTES_MAX];
            let size = sense.encode(&mut bytes, false);
            [&(size as u16).to_be_bytes(), &bytes[..size]].concat()
        });
        self.put_control(header, data);
    }

    /// The target stops: whoever is logged in may come again.
    pub fn announce_end(&mut self) {
        if matches!(self.state, State::Full) {
            self.announce(event::ALL_CONNECTIONS_DROPPED, [0, TIME_TO_WAIT, 0], None);
        }
    }

    /// The session's target is another than it was `before`, on its core.
    pub fn target_changed(&mut self, before: Option<&Served>, now: &Served) {
        if !self.is_open() {
            return;
        }
        if !self.may_stay(now) {
            self.target_removed();
            return;
        }
        self.units_changed(now);
        if let Some(before) = before {
            self.access_changed(before, now);
        }
    }

    /// Whether its initiator may log in to what the target is now, by the way it came.
    fn may_stay(&self, now: &Served) -> bool {
        let member = self.member.as_ref();
        member.is_none_or(|member| {
            let address = self.peer.map(|peer| peer.ip());
            let nexus = member.nexus.as_ref();
            now.initiators.allow(&member.initiator, address)
                && nexus.is_none_or(|(_, nexus)| now.port(nexus.port).is_some())
        })
    }

    /// The session's target has been removed, or is no longer for its initiator, or not by this way.
    pub fn target_removed(&mut self) {
        if self.is_open() {
            self.announce_end();
            self.state = State::Leaving;
        }
    }

    /// The units that the initiator sees of its target have become others. Those that it no longer sees it leaves, those that are new it
    /// joins, and it is told (SPC-4, 6.33; SAM-5, 5.14).
    fn units_changed(&mut self, served: &Served) {
        let address = self.peer.map(|peer| peer.ip());
        let Some(member) = &mut self.member else {
            return;
        };
        let Some((_, nexus)) = &member.nexus else {
            return;
        };
        let seen = served.luns_for(&member.initiator, address);
        let before = std::mem::replace(&mut member.luns, seen);
        let lost = |unit: &&ServedUnit| before.has(unit.lun) && !seen.has(unit.lun);
        for unit in served.units.iter().filter(lost) {
            unit.unit.leave(nexus.id);
        }
        let mut units: Vec<_> = served.units.iter().collect();
        units.retain(|unit| seen.has(unit.lun));
        // A number may name another unit than it did.
        let is_new = |unit: &&ServedUnit| !unit.unit.knows(nexus.id);
        if before == seen && !units.iter().copied().any(|unit| is_new(&unit)) {
            return;
        }
        for unit in units {
            if is_new(&unit) {
                unit.unit.join(nexus, Code::POWER_ON);
                if let Some(view) = self.views.get_mut(usize::from(unit.lun)) {
                    *view = View::default();
                }
            }
            unit.unit.attend_one(nexus.id, Code::REPORTED_LUNS_CHANGED);
        }
        if matches!(self.state, State::Full) {
            let sense = Sense::attention(Code::REPORTED_LUNS_CHANGED);
            self.announce(event::SCSI, [0; 3], Some(sense));
        }
    }

    /// A way to the target may be another now, or new, or gone, or for initiators to change; those that come by others are told as well, because
    /// they may want to change over (SPC-4, 5.15.2.3). Who has made it so knows.
    fn access_changed(&mut self, before: &Served, served: &Served) {
        let Some((_, nexus)) = self
            .member
            .as_ref()
            .and_then(|member| member.nexus.as_ref())
        else {
            return;
        };
        let is_other = |port: &TargetPort| {
            !before.ports.contains(port) && port.altered != Altered::ByInitiator(nexus.id)
        };
        let is_gone = |port: &TargetPort| served.port(port.port.number).is_none();
        let mut news = Vec::new();
        if served.ports.iter().any(is_other) || before.ports.iter().any(is_gone) {
            news.push(Code::ASYMMETRIC_STATE_CHANGED);
        }
        if before.explicit_alua != served.explicit_alua {
            // The field TPGS.
            news.push(Code::INQUIRY_DATA_CHANGED);
        }
        for unit in &served.units {
            for code in &news {
                unit.unit.attend_one(nexus.id, *code);
            }
        }
    }

    /// The session's target becomes another: ends the commands to units that are gone, or that the initiator no longer sees. `token` is shared
    /// with those that are still at a device.
    pub(super) fn give_up_units<B: Backend<Lend = L>>(
        &mut self,
        gone: &LunSet,
        now: Option<&Served>,
        token: &Rc<()>,
        cx: &mut Context<'_, B>,
    ) {
        let address = self.peer.map(|peer| peer.ip());
        let (Some(member), Some(now)) = (&self.member, now) else {
            self.abort_units(gone, token, cx);
            return;
        };
        let stays = if self.may_stay(now) {
            now.luns_for(&member.initiator, address)
        } else {
            LunSet::default()
        };
        let before = member.luns;
        let lost = |&lun: &u16| gone.has(lun) || before.has(lun) && !stays.has(lun);
        let lost = LUNS.filter(lost).collect();
        self.abort_units(&lost, token, cx);
    }

    /// Ends the commands to some units.
    fn abort_units<B: Backend<Lend = L>>(
        &mut self,
        luns: &LunSet,
        token: &Rc<()>,
        cx: &mut Context<'_, B>,
    ) {
        let slots: Vec<u16> = self.slots.taken().collect();
        for index in slots {
            let slot = self.slots.get(index);
            if slot.header.opcode() != opcode::COMMAND {
                continue;
            }
            if luns.has(slot.lun) {
                self.end_for_good(index, token, cx);
            } else if slot.work.others().iter().any(|&lun| luns.has(lun)) {
                self.abort_elsewhere(index, token, cx);
            }
        }
        self.forget_faults(|lun| luns.has(lun));
    }
}
