//! Persistent reservations (SPC-4, 5.13, 6.15, 6.16): who is registered with a unit, and who has reserved it.
//!
//! They belong to initiator ports, not to sessions, and outlive both. Nothing is kept over a restart of the target yet: PTPL_C says so,
//! and APTPL is refused.

use std::sync::Arc;

use super::sense::{Code, Outcome, Sense};
use super::serve::{Call, Seat};
use super::unit::{InitiatorPort, Nexus, NexusId, State};
use super::{Parameters, Plan};

/// Registrations of one unit.
const REGISTRATIONS_MAX: usize = 1024;

/// Bytes of a parameter list: TransportIDs of some dozen initiators.
const LIST_BYTES_MAX: u32 = 8192;

/// Bytes of the list without TransportIDs (SPC-4, table 205).
const LIST_BYTES: usize = 24;

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
#[derive(Debug, Default)]
pub(super) struct Persistent {
    generation: u32,
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

fn answer(call: &Call<'_>, generation: u32, body: &[u8]) -> Plan {
    let mut data = generation.to_be_bytes().to_vec();
    data.extend_from_slice(&(body.len() as u32).to_be_bytes());
    data.extend_from_slice(body);
    Plan::answer(data, u32::from(call.cdb.u16(7)))
}

/// READ KEYS (SPC-4, 6.15.2).
pub(super) fn read_keys(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let state = call.unit.lock();
    let persistent = &state.persistent;
    let keys: Vec<u8> = persistent
        .registrations
        .iter()
        .flat_map(|registration| registration.key.to_be_bytes())
        .collect();
    Ok(answer(call, persistent.generation, &keys))
}

/// READ RESERVATION (SPC-4, 6.15.3).
pub(super) fn read_reservation(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let state = call.unit.lock();
    let persistent = &state.persistent;
    let mut body = Vec::new();
    if let Some(reservation) = &persistent.reservation {
        body.extend_from_slice(&persistent.holder_key(reservation).to_be_bytes());
        body.extend_from_slice(&[0, 0, 0, 0, 0, reservation.kind as u8, 0, 0]);
    }
    Ok(answer(call, persistent.generation, &body))
}

/// REPORT CAPABILITIES (SPC-4, 6.15.4).
pub(super) fn report_capabilities(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    // SIP_C and ATP_C: SPEC_I_PT and ALL_TG_PT are carried out. TMV: the types that follow are all there are. Exclusive Access lets TEST
    // UNIT READY pass (ALLOW COMMANDS 001b).
    let data = vec![0, 8, 0x0C, 0x80 | 0x10, 0xEA, 0x01, 0, 0];
    Ok(Plan::answer(data, u32::from(call.cdb.u16(7))))
}

/// READ FULL STATUS (SPC-4, 6.15.5).
pub(super) fn read_full_status(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let state = call.unit.lock();
    let persistent = &state.persistent;
    let mut body = Vec::new();
    for registration in &persistent.registrations {
        let holds = persistent.is_holder(registration);
        let kind = persistent
            .reservation
            .as_ref()
            .map_or(0, |reservation| reservation.kind as u8);
        let transport = transport_id(&registration.holder.initiator);
        body.extend_from_slice(&registration.key.to_be_bytes());
        body.extend_from_slice(&[0; 4]);
        body.push(u8::from(registration.all_ports) << 1 | u8::from(holds));
        body.push(if holds { kind } else { 0 });
        body.extend_from_slice(&[0; 4]);
        body.extend_from_slice(&registration.holder.port.to_be_bytes());
        body.extend_from_slice(&(transport.len() as u32).to_be_bytes());
        body.extend_from_slice(&transport);
    }
    Ok(answer(call, persistent.generation, &body))
}

/// The TransportID of an iSCSI initiator port (SPC-4, 7.6.4.6).
fn transport_id(port: &InitiatorPort) -> Vec<u8> {
    let session: String = port.port.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut name = format!("{},i,0x{session}", port.name).into_bytes();
    name.push(0);
    name.resize(name.len().next_multiple_of(4).max(20), 0);
    let mut bytes = vec![0x45, 0];
    bytes.extend_from_slice(&(name.len() as u16).to_be_bytes());
    bytes.extend_from_slice(&name);
    bytes
}

/// Reads a TransportID; answers the port, or only the name of a form that names a device, and how long it is.
fn decode_transport_id(bytes: &[u8]) -> Option<(String, Option<[u8; 6]>, usize)> {
    let header = bytes.get(..4)?;
    let (form, protocol) = (header[0] >> 6, header[0] & 0x0F);
    let size = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let text = bytes.get(4..4 + size)?;
    if protocol != 5 || size < 20 || size % 4 != 0 {
        return None;
    }
    let end = text.iter().position(|&byte| byte == 0)?;
    let text = std::str::from_utf8(&text[..end]).ok()?;
    let (name, port) = match form {
        0 => (text, None),
        1 => {
            let (name, session) = text.split_once(",i,0x")?;
            let value = u64::from_str_radix(session, 16).ok()?;
            if session.len() != 12 {
                return None;
            }
            let bytes = value.to_be_bytes();
            (name, Some(std::array::from_fn(|index| bytes[index + 2])))
        }
        _ => return None,
    };
    Some((name.to_owned(), port, 4 + size))
}

/// PERSISTENT RESERVE OUT: asks for its parameter list.
pub(super) fn out(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let length = call.cdb.u32(5);
    if length < LIST_BYTES as u32 || length > LIST_BYTES_MAX {
        return Err(Sense::illegal(Code::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    Ok(Plan::parameters(length, Parameters::PersistentReserveOut))
}

/// What PERSISTENT RESERVE OUT asks for.
struct Asked<'a> {
    key: u64,
    new_key: u64,
    all_ports: bool,
    others: bool,
    rest: &'a [u8],
}

/// The parameter list of PERSISTENT RESERVE OUT has come.
pub(super) fn carry_out(seat: &Seat<'_>, call: &Call<'_>, list: &[u8]) -> Result<(), Outcome> {
    let service = call.cdb.byte(1) & 0x1F;
    let short = || Outcome::from(Sense::illegal(Code::PARAMETER_LIST_LENGTH_ERROR));
    if list.len() < LIST_BYTES {
        return Err(short());
    }
    let eight = |at: usize| u64::from_be_bytes(std::array::from_fn(|index| list[at + index]));
    let mut state = call.unit.lock();
    let result = if service == action::REGISTER_AND_MOVE {
        register_and_move(&mut state, call.nexus, list)
    } else {
        // APTPL: nothing is kept over a restart.
        if list[20] & 0x01 != 0 {
            return Err(Sense::invalid_parameter(20).into());
        }
        let asked = Asked {
            key: eight(0),
            new_key: eight(8),
            all_ports: list[20] & 0x04 != 0,
            others: list[20] & 0x08 != 0,
            rest: &list[LIST_BYTES..],
        };
        if !asked.others && !asked.rest.is_empty() {
            return Err(short());
        }
        if asked.others && service != action::REGISTER {
            return Err(Sense::invalid_parameter(20).into());
        }
        match service {
            action::REGISTER | action::REGISTER_AND_IGNORE => {
                register(&mut state, seat, &asked, service)
            }
            action::RESERVE => reserve(&mut state, call, &asked),
            action::RELEASE => release(&mut state, call, &asked),
            action::CLEAR => clear(&mut state, call.nexus, &asked),
            action::PREEMPT | action::PREEMPT_AND_ABORT => preempt(&mut state, seat, call, &asked),
            _ => Err(Sense::invalid_field(1, Some(4)).into()),
        }
    };
    call.unit.changed(&mut state);
    result
}

/// Nexuses of the present that a registration is about.
fn nexuses_of(state: &State, holder: &Holder) -> Vec<NexusId> {
    let of = state.nexuses.values();
    of.filter(|nexus| holder.is(&nexus.nexus))
        .map(|nexus| nexus.nexus.id)
        .collect()
}

fn attend(state: &mut State, holder: &Holder, code: Code) {
    for id in nexuses_of(state, holder) {
        if let Some(nexus) = state.nexuses.get_mut(&id) {
            nexus.attend(code);
        }
    }
}

/// Tells every registrant but one.
fn attend_registrants(state: &mut State, but: &Nexus, code: Code) {
    let holders: Vec<Holder> = state
        .persistent
        .registrations
        .iter()
        .filter(|registration| !registration.holder.is(but))
        .map(|registration| registration.holder.clone())
        .collect();
    for holder in holders {
        attend(state, &holder, code);
    }
}

/// The registration of the nexus, whose key must be the one given.
fn registered(state: &State, nexus: &Nexus, key: u64) -> Result<usize, Outcome> {
    let index = state.persistent.registration(nexus);
    index
        .filter(|&index| state.persistent.registrations[index].key == key)
        .ok_or(Outcome::ReservationConflict)
}

/// REGISTER, REGISTER AND IGNORE EXISTING KEY (SPC-4, 5.13.7).
fn register(
    state: &mut State,
    seat: &Seat<'_>,
    asked: &Asked<'_>,
    service: u8,
) -> Result<(), Outcome> {
    let nexus = seat.nexus;
    let existing = state.persistent.registration(nexus);
    if service == action::REGISTER {
        let key = existing.map_or(0, |index| state.persistent.registrations[index].key);
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
            unregister(state, nexus, index);
            state.persistent.generation = state.persistent.generation.wrapping_add(1);
        }
        return Ok(());
    }
    let mut initiators = vec![Arc::clone(&nexus.initiator)];
    if asked.others {
        initiators.extend(listed(state, asked.rest)?);
    }
    let ports: Vec<u16> = if asked.all_ports {
        let groups = seat.directory.groups();
        groups.into_iter().flat_map(|(_, _, ports)| ports).collect()
    } else {
        vec![nexus.port]
    };
    let wanted = initiators.iter().flat_map(|initiator| {
        ports.iter().map(move |&port| Holder {
            initiator: Arc::clone(initiator),
            port,
        })
    });
    let wanted: Vec<Holder> = wanted.collect();
    let registrations = &mut state.persistent.registrations;
    if registrations.len() + wanted.len() > REGISTRATIONS_MAX {
        let code = Code::INSUFFICIENT_REGISTRATION_RESOURCES;
        return Err(Sense::illegal(code).into());
    }
    for holder in wanted {
        let known = registrations
            .iter_mut()
            .find(|registration| registration.holder == holder);
        match known {
            Some(registration) => registration.key = asked.new_key,
            None => registrations.push(Registration {
                holder,
                key: asked.new_key,
                all_ports: asked.all_ports,
            }),
        }
    }
    state.persistent.generation = state.persistent.generation.wrapping_add(1);
    Ok(())
}

/// The initiator ports that SPEC_I_PT lists; a name alone stands for those of its ports that are here.
fn listed(state: &State, rest: &[u8]) -> Result<Vec<Arc<InitiatorPort>>, Outcome> {
    let wrong = |at: usize| Outcome::from(Sense::invalid_parameter((LIST_BYTES + at) as u16));
    let size = rest.first_chunk::<4>().ok_or_else(|| wrong(0))?;
    let size = u32::from_be_bytes(*size) as usize;
    let list = rest.get(4..).filter(|list| list.len() == size);
    let list = list.ok_or_else(|| Sense::illegal(Code::PARAMETER_LIST_LENGTH_ERROR))?;
    let mut ports = Vec::new();
    let mut at = 0;
    while at < list.len() {
        let (name, port, size) = decode_transport_id(&list[at..]).ok_or_else(|| wrong(4 + at))?;
        match port {
            Some(port) => ports.push(Arc::new(InitiatorPort { name, port })),
            None => {
                let nexuses = state.nexuses.values();
                let of = nexuses.filter(|nexus| nexus.nexus.initiator.name == name);
                ports.extend(of.map(|nexus| Arc::clone(&nexus.nexus.initiator)));
            }
        }
        at += size;
    }
    Ok(ports)
}

/// A registration goes, and with it a reservation that nobody else holds (SPC-4, 5.13.11.2.3).
fn unregister(state: &mut State, by: &Nexus, index: usize) {
    let gone = state.persistent.registrations.remove(index);
    let Some(reservation) = &state.persistent.reservation else {
        return;
    };
    let kind = reservation.kind;
    let ends = if kind.is_everybodys() {
        state.persistent.registrations.is_empty()
    } else {
        reservation.holder == gone.holder
    };
    if ends {
        state.persistent.reservation = None;
        if kind.lets_registrants() {
            attend_registrants(state, by, Code::RESERVATIONS_RELEASED);
        }
    }
}

/// Scope and type of a CDB: only whole units can be reserved.
fn kind(call: &Call<'_>) -> Result<Kind, Outcome> {
    let byte = call.cdb.byte(2);
    if byte >> 4 != 0 {
        return Err(Sense::invalid_field(2, Some(7)).into());
    }
    Kind::decode(byte).ok_or_else(|| Sense::invalid_field(2, Some(3)).into())
}

/// RESERVE (SPC-4, 5.13.9).
fn reserve(state: &mut State, call: &Call<'_>, asked: &Asked<'_>) -> Result<(), Outcome> {
    registered(state, call.nexus, asked.key)?;
    let kind = kind(call)?;
    match &state.persistent.reservation {
        Some(reservation) if state.persistent.holds(call.nexus) && reservation.kind == kind => {
            Ok(())
        }
        Some(_) => Err(Outcome::ReservationConflict),
        None => {
            let holder = Holder::of(call.nexus);
            state.persistent.reservation = Some(Reservation { kind, holder });
            Ok(())
        }
    }
}

/// RELEASE (SPC-4, 5.13.11.2.2).
fn release(state: &mut State, call: &Call<'_>, asked: &Asked<'_>) -> Result<(), Outcome> {
    registered(state, call.nexus, asked.key)?;
    if !state.persistent.holds(call.nexus) {
        return Ok(());
    }
    let asked_kind = kind(call);
    let held = state.persistent.reservation.as_ref().map(|held| held.kind);
    let Some(held) = held else { return Ok(()) };
    if asked_kind != Ok(held) {
        return Err(Sense::illegal(Code::INVALID_RELEASE_OF_PERSISTENT).into());
    }
    state.persistent.reservation = None;
    if held.lets_registrants() {
        attend_registrants(state, call.nexus, Code::RESERVATIONS_RELEASED);
    }
    Ok(())
}

/// CLEAR (SPC-4, 5.13.11.2.6).
fn clear(state: &mut State, nexus: &Nexus, asked: &Asked<'_>) -> Result<(), Outcome> {
    registered(state, nexus, asked.key)?;
    attend_registrants(state, nexus, Code::RESERVATIONS_PREEMPTED);
    state.persistent.registrations.clear();
    state.persistent.reservation = None;
    state.persistent.generation = state.persistent.generation.wrapping_add(1);
    Ok(())
}

/// PREEMPT, PREEMPT AND ABORT (SPC-4, 5.13.11.2.4, 5.13.11.2.5).
fn preempt(
    state: &mut State,
    seat: &Seat<'_>,
    call: &Call<'_>,
    asked: &Asked<'_>,
) -> Result<(), Outcome> {
    let nexus = call.nexus;
    registered(state, nexus, asked.key)?;
    let reservation = state.persistent.reservation.clone();
    let everybodys = reservation
        .as_ref()
        .is_some_and(|reservation| reservation.kind.is_everybodys());
    let takes_over = match &reservation {
        Some(_) if everybodys => asked.new_key == 0,
        Some(reservation) => state.persistent.holder_key(reservation) == asked.new_key,
        None => false,
    };
    if asked.new_key == 0 && !takes_over {
        return Err(Sense::invalid_parameter(8).into());
    }
    let kind = if takes_over { Some(kind(call)?) } else { None };
    let all = takes_over && everybodys;
    // One's own registration stays when the reservation is taken over, also from oneself.
    let (gone, stays): (Vec<_>, Vec<_>) = std::mem::take(&mut state.persistent.registrations)
        .into_iter()
        .partition(|registration| {
            let named = all || registration.key == asked.new_key;
            named && !(registration.holder.is(nexus) && takes_over)
        });
    state.persistent.registrations = stays;
    if gone.is_empty() && !takes_over {
        return Err(Outcome::ReservationConflict);
    }
    if let Some(kind) = kind {
        let changes = reservation.is_some_and(|before| before.kind != kind);
        let holder = Holder::of(nexus);
        state.persistent.reservation = Some(Reservation { kind, holder });
        if changes {
            attend_registrants(state, nexus, Code::RESERVATIONS_RELEASED);
        }
    } else if everybodys && state.persistent.registrations.is_empty() {
        state.persistent.reservation = None;
    }
    let mut ended = Vec::new();
    for registration in gone.iter().filter(|gone| !gone.holder.is(nexus)) {
        ended.extend(nexuses_of(state, &registration.holder));
        attend(state, &registration.holder, Code::REGISTRATIONS_PREEMPTED);
    }
    state.persistent.generation = state.persistent.generation.wrapping_add(1);
    if call.cdb.byte(1) & 0x1F == action::PREEMPT_AND_ABORT {
        seat.directory.abort(call.unit.identity.lun, &ended);
    }
    Ok(())
}

/// REGISTER AND MOVE (SPC-4, 5.13.8): the holder gives its reservation to another port.
fn register_and_move(state: &mut State, nexus: &Nexus, list: &[u8]) -> Result<(), Outcome> {
    let eight = |at: usize| u64::from_be_bytes(std::array::from_fn(|index| list[at + index]));
    let (key, new_key) = (eight(0), eight(8));
    let unregisters = list[17] & 0x02 != 0;
    if list[17] & 0x01 != 0 {
        return Err(Sense::invalid_parameter(17).into());
    }
    let port = u16::from_be_bytes([list[18], list[19]]);
    let size = u32::from_be_bytes([list[20], list[21], list[22], list[23]]) as usize;
    let index = registered(state, nexus, key)?;
    let Some(reservation) = &state.persistent.reservation else {
        return Err(Outcome::ReservationConflict);
    };
    if !state.persistent.holds(nexus) || reservation.kind.is_everybodys() {
        return Err(Outcome::ReservationConflict);
    }
    if new_key == 0 {
        return Err(Sense::invalid_parameter(8).into());
    }
    let rest = &list[LIST_BYTES..];
    if rest.len() != size {
        return Err(Sense::illegal(Code::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    let wrong = || Outcome::from(Sense::invalid_parameter(LIST_BYTES as u16));
    let (name, session, _) = decode_transport_id(rest).ok_or_else(wrong)?;
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
    let known = state
        .persistent
        .registrations
        .iter()
        .position(|registration| registration.holder == to);
    match known {
        Some(known) => state.persistent.registrations[known].key = new_key,
        None => state.persistent.registrations.push(Registration {
            holder: to.clone(),
            key: new_key,
            all_ports: false,
        }),
    }
    state.persistent.reservation = Some(Reservation { kind, holder: to });
    if unregisters {
        state.persistent.registrations.remove(index);
    }
    state.persistent.generation = state.persistent.generation.wrapping_add(1);
    Ok(())
}
