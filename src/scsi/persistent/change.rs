//! PERSISTENT RESERVE OUT (SPC-4, 6.16): what a command comes to, and that it is so.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::job::Action;
use super::super::sense::{Code, Outcome, Sense};
use super::super::serve::{Call, Seat};
use super::super::unit::{InitiatorPort, Nexus, NexusId, NexusState, State, Unit};
use super::super::{Cdb, Parameters, Plan};
use super::transport;
use super::{Holder, Kind, Persistent, REGISTRATIONS_MAX, Registration, Reservation, record};

/// Bytes of a parameter list: TransportIDs of some dozen initiators.
const LIST_BYTES_MAX: u32 = 8192;

/// Bytes of the list without TransportIDs (SPC-4, table 205).
const LIST_BYTES: usize = 24;

/// Byte 20 of the list, byte 17 of that of REGISTER AND MOVE: keep over a loss of power.
const APTPL: u8 = 0x01;

/// Service actions of PERSISTENT RESERVE OUT.
mod action {
    pub const REGISTER: u8 = 0;
    pub const RESERVE: u8 = 1;
    pub const RELEASE: u8 = 2;
    pub const CLEAR: u8 = 3;
    pub const PREEMPT: u8 = 4;
    pub const PREEMPT_AND_ABORT: u8 = 5;
    pub const REGISTER_AND_IGNORE: u8 = 6;
    pub const REGISTER_AND_MOVE: u8 = 7;
}

/// A PERSISTENT RESERVE OUT, with all that it takes to carry it out on any thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    nexus: Nexus,
    cdb: Cdb,
    list: Vec<u8>,
    /// The ports of the target.
    ports: Vec<u16>,
}

/// What a command comes to, before it is so.
#[derive(Debug)]
pub struct Draft {
    persistent: Persistent,
    /// Who has to be told what.
    told: Vec<(Holder, Code)>,
    /// Whose commands are to be aborted.
    ended: Vec<Holder>,
}

/// Who is logged in.
type Nexuses = BTreeMap<NexusId, NexusState>;

/// PERSISTENT RESERVE OUT: asks for its parameter list.
pub fn out(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let length = call.cdb.u32(5);
    if length < LIST_BYTES as u32 || length > LIST_BYTES_MAX {
        return Err(Sense::illegal(Code::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    Ok(Plan::parameters(length, Parameters::PersistentReserveOut))
}

/// The parameter list of PERSISTENT RESERVE OUT has come.
pub fn carry_out(seat: &Seat<'_>, cdb: Cdb, list: &[u8]) -> Action {
    let groups = seat.directory.groups();
    let request = Request {
        nexus: seat.nexus.clone(),
        cdb,
        list: list.to_vec(),
        ports: groups.into_iter().flat_map(|group| group.ports).collect(),
    };
    if seat.unit.keeps() {
        return Action::Keep(Box::new(request));
    }
    let mut state = seat.unit.lock();
    let draft = match Draft::of(&state, false, &request) {
        Ok(draft) => draft,
        Err(outcome) => return Action::End(outcome),
    };
    let ended = draft.adopt(&mut state);
    seat.unit.changed(&mut state);
    drop(state);
    if ended.is_empty() {
        Action::End(Outcome::Good)
    } else {
        Action::Preempt(ended)
    }
}

impl Unit {
    /// What a command comes to. Whoever keeps the unit's records has to carry out one after the other, or they would undo each other.
    ///
    /// # Errors
    /// How the command ends.
    pub fn draft(&self, request: &Request) -> Result<Draft, Outcome> {
        Draft::of(&self.lock(), self.keeps(), request)
    }

    /// Makes a draft so; answers whose commands are to be aborted.
    pub fn adopt(&self, draft: Draft) -> Vec<NexusId> {
        let mut state = self.lock();
        let ended = draft.adopt(&mut state);
        self.changed(&mut state);
        ended
    }

    /// The record of the unit's reservations as they are; `None` when there is nothing to keep.
    pub fn record(&self) -> Option<String> {
        record::write(&self.lock().persistent, &self.identity.uuid)
    }
}

impl Draft {
    fn of(state: &State, keeps: bool, request: &Request) -> Result<Self, Outcome> {
        let mut draft = Self {
            persistent: state.persistent.clone(),
            told: Vec::new(),
            ended: Vec::new(),
        };
        draft.carry_out(&state.nexuses, keeps, request)?;
        Ok(draft)
    }

    /// The record of the reservations as they will be; `None` when there will be nothing to keep.
    pub fn record(&self, unit: &Unit) -> Option<String> {
        record::write(&self.persistent, &unit.identity.uuid)
    }

    fn adopt(self, state: &mut State) -> Vec<NexusId> {
        state.persistent = self.persistent;
        for (holder, code) in &self.told {
            let nexuses = state.nexuses.values_mut();
            for nexus in nexuses.filter(|nexus| holder.is(&nexus.nexus)) {
                nexus.attend(*code);
            }
        }
        let nexuses = state.nexuses.values().map(|nexus| &nexus.nexus);
        let ended = nexuses.filter(|nexus| self.ended.iter().any(|holder| holder.is(nexus)));
        ended.map(|nexus| nexus.id).collect()
    }

    fn carry_out(
        &mut self,
        nexuses: &Nexuses,
        keeps: bool,
        request: &Request,
    ) -> Result<(), Outcome> {
        let list = &request.list[..];
        let short = || Outcome::from(Sense::illegal(Code::PARAMETER_LIST_LENGTH_ERROR));
        if list.len() < LIST_BYTES {
            return Err(short());
        }
        let service = request.cdb.byte(1) & 0x1F;
        let is_move = service == action::REGISTER_AND_MOVE;
        let is_register = matches!(service, action::REGISTER | action::REGISTER_AND_IGNORE);
        // What the others have there is ignored (SPC-4, 6.16.3).
        let at = if is_move { 17 } else { 20 };
        let is_kept = list[at] & APTPL != 0;
        if (is_move || is_register) && is_kept && !keeps {
            return Err(Sense::invalid_parameter(at as u16).into());
        }
        let asked = Asked {
            nexus: &request.nexus,
            cdb: &request.cdb,
            key: eight(list, 0),
            new_key: eight(list, 8),
            all_ports: !is_move && list[20] & 0x04 != 0,
            others: !is_move && list[20] & 0x08 != 0,
            rest: &list[LIST_BYTES..],
        };
        if !is_move && !asked.others && !asked.rest.is_empty() {
            return Err(short());
        }
        if asked.others && service != action::REGISTER {
            return Err(Sense::invalid_parameter(20).into());
        }
        match service {
            action::REGISTER | action::REGISTER_AND_IGNORE => {
                register(self, nexuses, &request.ports, &asked)?;
            }
            action::RESERVE => reserve(self, &asked)?,
            action::RELEASE => release(self, &asked)?,
            action::CLEAR => clear(self, &asked)?,
            action::PREEMPT | action::PREEMPT_AND_ABORT => preempt(self, &asked)?,
            action::REGISTER_AND_MOVE => register_and_move(self, &request.ports, &asked, list)?,
            _ => return Err(Sense::invalid_field(1, Some(4)).into()),
        }
        if is_move || is_register {
            // The last that was said holds for all registrations of the unit (SPC-4, 5.13.5).
            self.persistent.is_kept = is_kept;
        }
        Ok(())
    }

    /// Tells every registrant but one.
    fn tell_registrants(&mut self, but: &Nexus, code: Code) {
        let registrations = self.persistent.registrations.iter();
        let others = registrations.filter(|registration| !registration.holder.is(but));
        self.told
            .extend(others.map(|registration| (registration.holder.clone(), code)));
    }

    /// The registration of a nexus, whose key must be the one given.
    fn registered(&self, asked: &Asked<'_>) -> Result<usize, Outcome> {
        let index = self.persistent.registration(asked.nexus);
        index
            .filter(|&index| self.persistent.registrations[index].key == asked.key)
            .ok_or(Outcome::ReservationConflict)
    }

    fn count_generation(&mut self) {
        self.persistent.generation = self.persistent.generation.wrapping_add(1);
    }
}

/// What PERSISTENT RESERVE OUT asks for.
struct Asked<'a> {
    nexus: &'a Nexus,
    cdb: &'a Cdb,
    key: u64,
    new_key: u64,
    all_ports: bool,
    others: bool,
    rest: &'a [u8],
}

fn eight(list: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|index| list[at + index]))
}

/// REGISTER, REGISTER AND IGNORE EXISTING KEY (SPC-4, 5.13.7).
fn register(
    draft: &mut Draft,
    nexuses: &Nexuses,
    target_ports: &[u16],
    asked: &Asked<'_>,
) -> Result<(), Outcome> {
    let nexus = asked.nexus;
    let existing = draft.persistent.registration(nexus);
    if asked.cdb.byte(1) & 0x1F == action::REGISTER {
        let key = existing.map_or(0, |index| draft.persistent.registrations[index].key);
        if asked.key != key {
            return Err(Outcome::ReservationConflict);
        }
        // SPEC_I_PT is for a first registration only.
        if existing.is_some() && asked.others {
            return Err(Sense::invalid_parameter(20).into());
        }
    }
    if asked.new_key == 0 {
        if let Some(index) = existing {
            unregister(draft, nexus, index);
            draft.count_generation();
        }
        return Ok(());
    }
    let mut initiators = vec![Arc::clone(&nexus.initiator)];
    if asked.others {
        initiators.extend(listed(nexuses, asked.rest)?);
    }
    let ports = if asked.all_ports {
        target_ports
    } else {
        &[nexus.port][..]
    };
    let wanted = initiators.iter().flat_map(|initiator| {
        ports.iter().map(move |&port| Holder {
            initiator: Arc::clone(initiator),
            port,
        })
    });
    let wanted: Vec<Holder> = wanted.collect();
    let registrations = &mut draft.persistent.registrations;
    if wanted.len() > REGISTRATIONS_MAX {
        return Err(no_room());
    }
    for holder in wanted {
        let is_full = registrations.len() == REGISTRATIONS_MAX;
        let known = registrations
            .iter_mut()
            .find(|registration| registration.holder == holder);
        match known {
            // Others who are registered have said with which key.
            Some(registration) if registration.holder.initiator != nexus.initiator => {}
            Some(registration) => registration.key = asked.new_key,
            None if is_full => return Err(no_room()),
            None => registrations.push(Registration {
                holder,
                key: asked.new_key,
                all_ports: asked.all_ports,
            }),
        }
    }
    draft.count_generation();
    Ok(())
}

/// There are as many registrations as there can be.
fn no_room() -> Outcome {
    Sense::illegal(Code::INSUFFICIENT_REGISTRATION_RESOURCES).into()
}

/// The initiator ports that SPEC_I_PT lists; a name alone stands for those of its ports that are here.
fn listed(nexuses: &Nexuses, rest: &[u8]) -> Result<Vec<Arc<InitiatorPort>>, Outcome> {
    let wrong = |at: usize| Outcome::from(Sense::invalid_parameter((LIST_BYTES + at) as u16));
    let size = rest.first_chunk::<4>().ok_or_else(|| wrong(0))?;
    let size = u32::from_be_bytes(*size) as usize;
    let list = rest.get(4..).filter(|list| list.len() == size);
    let list = list.ok_or_else(|| Sense::illegal(Code::PARAMETER_LIST_LENGTH_ERROR))?;
    let mut ports = Vec::new();
    let mut at = 0;
    while at < list.len() {
        let (name, port, size) = transport::decode(&list[at..]).ok_or_else(|| wrong(4 + at))?;
        match port {
            Some(port) => ports.push(Arc::new(InitiatorPort { name, port })),
            None => {
                let of = nexuses
                    .values()
                    .filter(|nexus| nexus.nexus.initiator.name == name);
                ports.extend(of.map(|nexus| Arc::clone(&nexus.nexus.initiator)));
            }
        }
        at += size;
    }
    Ok(ports)
}

/// A registration goes, and with it a reservation that nobody else holds (SPC-4, 5.13.11.2.3).
fn unregister(draft: &mut Draft, by: &Nexus, index: usize) {
    let gone = draft.persistent.registrations.remove(index);
    let Some(reservation) = &draft.persistent.reservation else {
        return;
    };
    let kind = reservation.kind;
    let ends = if kind.is_everybodys() {
        draft.persistent.registrations.is_empty()
    } else {
        reservation.holder == gone.holder
    };
    if ends {
        draft.persistent.reservation = None;
        if kind.lets_registrants() {
            draft.tell_registrants(by, Code::RESERVATIONS_RELEASED);
        }
    }
}

/// Scope and type of a CDB: only whole units can be reserved.
fn kind(asked: &Asked<'_>) -> Result<Kind, Outcome> {
    let byte = asked.cdb.byte(2);
    if byte >> 4 != 0 {
        return Err(Sense::invalid_field(2, Some(7)).into());
    }
    Kind::decode(byte).ok_or_else(|| Sense::invalid_field(2, Some(3)).into())
}

/// RESERVE (SPC-4, 5.13.9).
fn reserve(draft: &mut Draft, asked: &Asked<'_>) -> Result<(), Outcome> {
    draft.registered(asked)?;
    let kind = kind(asked)?;
    match &draft.persistent.reservation {
        Some(reservation) if draft.persistent.holds(asked.nexus) && reservation.kind == kind => {
            Ok(())
        }
        Some(_) => Err(Outcome::ReservationConflict),
        None => {
            let holder = Holder::of(asked.nexus);
            draft.persistent.reservation = Some(Reservation { kind, holder });
            Ok(())
        }
    }
}

/// RELEASE (SPC-4, 5.13.11.2.2).
fn release(draft: &mut Draft, asked: &Asked<'_>) -> Result<(), Outcome> {
    draft.registered(asked)?;
    if !draft.persistent.holds(asked.nexus) {
        return Ok(());
    }
    let asked_kind = kind(asked);
    let held = draft.persistent.reservation.as_ref().map(|held| held.kind);
    let Some(held) = held else { return Ok(()) };
    if asked_kind != Ok(held) {
        return Err(Sense::illegal(Code::INVALID_RELEASE_OF_PERSISTENT).into());
    }
    draft.persistent.reservation = None;
    if held.lets_registrants() {
        draft.tell_registrants(asked.nexus, Code::RESERVATIONS_RELEASED);
    }
    Ok(())
}

/// CLEAR (SPC-4, 5.13.11.2.6).
fn clear(draft: &mut Draft, asked: &Asked<'_>) -> Result<(), Outcome> {
    draft.registered(asked)?;
    draft.tell_registrants(asked.nexus, Code::RESERVATIONS_PREEMPTED);
    draft.persistent.registrations.clear();
    draft.persistent.reservation = None;
    draft.count_generation();
    Ok(())
}

/// PREEMPT, PREEMPT AND ABORT (SPC-4, 5.13.11.2.4, 5.13.11.2.5).
fn preempt(draft: &mut Draft, asked: &Asked<'_>) -> Result<(), Outcome> {
    let nexus = asked.nexus;
    draft.registered(asked)?;
    let reservation = draft.persistent.reservation.clone();
    let everybodys = reservation
        .as_ref()
        .is_some_and(|reservation| reservation.kind.is_everybodys());
    let takes_over = match &reservation {
        Some(_) if everybodys => asked.new_key == 0,
        Some(reservation) => draft.persistent.holder_key(reservation) == asked.new_key,
        None => false,
    };
    if asked.new_key == 0 && !takes_over {
        return Err(Sense::invalid_parameter(8).into());
    }
    let kind = if takes_over { Some(kind(asked)?) } else { None };
    let all = takes_over && everybodys;
    // One's own registration stays when the reservation is taken over, also from oneself.
    let (gone, stays): (Vec<_>, Vec<_>) = std::mem::take(&mut draft.persistent.registrations)
        .into_iter()
        .partition(|registration| {
            let named = all || registration.key == asked.new_key;
            named && !(registration.holder.is(nexus) && takes_over)
        });
    draft.persistent.registrations = stays;
    if gone.is_empty() && !takes_over {
        return Err(Outcome::ReservationConflict);
    }
    if let Some(kind) = kind {
        let changes = reservation.is_some_and(|before| before.kind != kind);
        let holder = Holder::of(nexus);
        draft.persistent.reservation = Some(Reservation { kind, holder });
        if changes {
            draft.tell_registrants(nexus, Code::RESERVATIONS_RELEASED);
        }
    } else if everybodys && draft.persistent.registrations.is_empty() {
        draft.persistent.reservation = None;
    }
    let aborts = asked.cdb.byte(1) & 0x1F == action::PREEMPT_AND_ABORT;
    for registration in gone {
        if aborts {
            draft.ended.push(registration.holder.clone());
        }
        if registration.holder.is(nexus) {
            continue;
        }
        let told = (registration.holder, Code::REGISTRATIONS_PREEMPTED);
        draft.told.push(told);
    }
    draft.count_generation();
    Ok(())
}

/// REGISTER AND MOVE (SPC-4, 5.13.8): the holder gives its reservation to another port.
fn register_and_move(
    draft: &mut Draft,
    target_ports: &[u16],
    asked: &Asked<'_>,
    list: &[u8],
) -> Result<(), Outcome> {
    let (nexus, new_key) = (asked.nexus, asked.new_key);
    let unregisters = list[17] & 0x02 != 0;
    let port = u16::from_be_bytes([list[18], list[19]]);
    let size = u32::from_be_bytes([list[20], list[21], list[22], list[23]]) as usize;
    let index = draft.registered(asked)?;
    let Some(reservation) = &draft.persistent.reservation else {
        return Err(Outcome::ReservationConflict);
    };
    if !draft.persistent.holds(nexus) || reservation.kind.is_everybodys() {
        return Err(Outcome::ReservationConflict);
    }
    if new_key == 0 {
        return Err(Sense::invalid_parameter(8).into());
    }
    if !target_ports.contains(&port) {
        return Err(Sense::invalid_parameter(18).into());
    }
    if asked.rest.len() != size {
        return Err(Sense::illegal(Code::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    let wrong = || Outcome::from(Sense::invalid_parameter(LIST_BYTES as u16));
    let (name, session, _) = transport::decode(asked.rest).ok_or_else(wrong)?;
    let session = session.ok_or_else(wrong)?;
    let initiator = Arc::new(InitiatorPort {
        name,
        port: session,
    });
    let to = Holder { initiator, port };
    if to.is(nexus) {
        return Err(wrong());
    }
    let kind = reservation.kind;
    let registrations = &draft.persistent.registrations;
    let is_full = registrations.len() == REGISTRATIONS_MAX && !unregisters;
    let known = registrations
        .iter()
        .position(|registration| registration.holder == to);
    match known {
        Some(known) => draft.persistent.registrations[known].key = new_key,
        None if is_full => return Err(no_room()),
        None => draft.persistent.registrations.push(Registration {
            holder: to.clone(),
            key: new_key,
            all_ports: false,
        }),
    }
    draft.persistent.reservation = Some(Reservation { kind, holder: to });
    if unregisters {
        draft.persistent.registrations.remove(index);
    }
    draft.count_generation();
    Ok(())
}
