//! Persistent reservations (SPC-4, 5.13, 6.15, 6.16): who is registered with a unit, and who has reserved it.
//!
//! They belong to initiator ports, not to sessions, and outlive both. They outlive the target as well where somebody keeps records
//! ([`Unit::keeping`]) and an initiator asks for it (APTPL; 5.13.5): such a unit's commands are handed to whoever keeps
//! ([`super::Action::Keep`]), one after the other. He asks what a command would come to ([`Unit::draft`]), writes the record of that, and
//! only then makes it so ([`Unit::adopt`]). *Turned down:* to change the unit first and take it back when the record cannot be written;
//! others would have seen what never was.
//!
//! | file | what is in it |
//! |---|---|
//! | `ask` | PERSISTENT RESERVE IN |
//! | `change` | PERSISTENT RESERVE OUT |
//! | `transport` | names of initiator ports in parameter data |
//! | [`record`] | what is kept, as text |

mod ask;
mod change;
pub mod record;
mod transport;

use std::sync::Arc;

use super::unit::{InitiatorPort, Nexus};

pub(super) use ask::{read_full_status, read_keys, read_reservation, report_capabilities};
pub use change::{Draft, Request};
pub(super) use change::{carry_out, out};

#[cfg(doc)]
use super::Unit;

/// Registrations of one unit.
const REGISTRATIONS_MAX: usize = 1024;

/// Types of reservation (SPC-4, table 202).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    WriteExclusive = 1,
    ExclusiveAccess = 3,
    WriteExclusiveRegistrants = 5,
    ExclusiveAccessRegistrants = 6,
    WriteExclusiveAll = 7,
    ExclusiveAccessAll = 8,
}

impl Kind {
    fn decode(byte: u8) -> Option<Self> {
        Some(match byte & 0x0F {
            1 => Kind::WriteExclusive,
            3 => Kind::ExclusiveAccess,
            5 => Kind::WriteExclusiveRegistrants,
            6 => Kind::ExclusiveAccessRegistrants,
            7 => Kind::WriteExclusiveAll,
            8 => Kind::ExclusiveAccessAll,
            _ => return None,
        })
    }

    /// Every registrant holds the reservation.
    fn is_everybodys(self) -> bool {
        matches!(self, Kind::WriteExclusiveAll | Kind::ExclusiveAccessAll)
    }

    /// Registrants may do what the holder may.
    fn lets_registrants(self) -> bool {
        self.is_everybodys()
            || matches!(
                self,
                Kind::WriteExclusiveRegistrants | Kind::ExclusiveAccessRegistrants
            )
    }

    /// Everybody may read.
    fn lets_read(self) -> bool {
        matches!(
            self,
            Kind::WriteExclusive | Kind::WriteExclusiveRegistrants | Kind::WriteExclusiveAll
        )
    }
}

/// An I_T nexus by the names of its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    initiator: Arc<InitiatorPort>,
    port: u16,
}

impl Holder {
    fn of(nexus: &Nexus) -> Self {
        Self {
            initiator: Arc::clone(&nexus.initiator),
            port: nexus.port,
        }
    }

    fn is(&self, nexus: &Nexus) -> bool {
        self.port == nexus.port && self.initiator == nexus.initiator
    }
}

#[derive(Clone, Debug)]
struct Registration {
    holder: Holder,
    key: u64,
    /// It was made for every port (ALL_TG_PT).
    all_ports: bool,
}

#[derive(Clone, Debug)]
struct Reservation {
    kind: Kind,
    /// Who made it; of one that is everybody's, nobody in particular.
    holder: Holder,
}

/// The persistent reservations of a unit.
#[derive(Clone, Debug, Default)]
pub(super) struct Persistent {
    generation: u32,
    /// They outlive the target (APTPL).
    is_kept: bool,
    registrations: Vec<Registration>,
    reservation: Option<Reservation>,
}

impl Persistent {
    fn registration(&self, nexus: &Nexus) -> Option<usize> {
        self.registrations
            .iter()
            .position(|registration| registration.holder.is(nexus))
    }

    /// Whether a nexus holds the reservation.
    fn holds(&self, nexus: &Nexus) -> bool {
        self.reservation.as_ref().is_some_and(|reservation| {
            if reservation.kind.is_everybodys() {
                self.registration(nexus).is_some()
            } else {
                reservation.holder.is(nexus)
            }
        })
    }

    /// Whether a nexus may read, and write (SPC-4, table 66).
    pub(super) fn allows(&self, nexus: &Nexus) -> (bool, bool) {
        let Some(reservation) = &self.reservation else {
            return (true, true);
        };
        let all = self.holds(nexus)
            || reservation.kind.lets_registrants() && self.registration(nexus).is_some();
        (all || reservation.kind.lets_read(), all)
    }

    /// Whether RESERVE may be carried out: not on a unit with registrations (SPC-4, 5.13.3).
    pub(super) fn may_reserve(&self, _nexus: &Nexus) -> bool {
        self.registrations.is_empty()
    }

    /// The key of the reservation's holder; 0 for one that is everybody's.
    fn holder_key(&self, reservation: &Reservation) -> u64 {
        if reservation.kind.is_everybodys() {
            return 0;
        }
        self.registrations
            .iter()
            .find(|registration| registration.holder == reservation.holder)
            .map_or(0, |registration| registration.key)
    }

    fn is_holder(&self, registration: &Registration) -> bool {
        self.reservation.as_ref().is_some_and(|reservation| {
            reservation.kind.is_everybodys() || reservation.holder == registration.holder
        })
    }
}
