//! What is kept of a unit's reservations: text that people can read, of which every byte counts.
//!
//! ```text
//! polldm reservations 1
//! unit 30313233343536373839616263646566
//! registration 0x00000000000000ab 1 one 400001370000 iqn.1993-08.org.debian:01:host
//! reservation 5 1 400001370000 iqn.1993-08.org.debian:01:host
//! end 1a2b3c4d
//! ```
//!
//! A registration has its key, the port of the target, whether it was made for every port, and the initiator port: ISID and name. A
//! reservation has its type, and who made it. The last line is a CRC32C of all before it: a key with a changed digit would let in the wrong
//! host, so such a record is refused, not believed. PRGENERATION is not kept, it starts at 0 (SPC-4, 6.15.2).

use std::fmt::{self, Write};
use std::sync::Arc;

use super::super::unit::InitiatorPort;
use super::{Holder, Kind, Persistent, REGISTRATIONS_MAX, Registration, Reservation};

const FIRST_LINE: &str = "polldm reservations 1";

/// Why a record is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for Damage {}

/// The record of reservations; `None` when they are not to be kept, or there are none.
pub(in crate::scsi) fn write(persistent: &Persistent, unit: &[u8; 16]) -> Option<String> {
    if !persistent.is_kept || persistent.registrations.is_empty() {
        return None;
    }
    let mut text = format!("{FIRST_LINE}\nunit {}\n", hexadecimal(unit));
    for registration in &persistent.registrations {
        let ports = if registration.all_ports { "all" } else { "one" };
        text.push_str(&format!(
            "registration {:#018x} {} {ports} {}\n",
            registration.key,
            registration.holder.port,
            initiator(&registration.holder.initiator)
        ));
    }
    if let Some(reservation) = &persistent.reservation {
        text.push_str(&format!(
            "reservation {} {} {}\n",
            reservation.kind as u8,
            reservation.holder.port,
            initiator(&reservation.holder.initiator)
        ));
    }
    let sum = crc32c::crc32c(text.as_bytes());
    text.push_str(&format!("end {sum:08x}\n"));
    Some(text)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// ISID and name. A name is whatever an initiator has said: what is not plain is written as `%` and two digits.
fn initiator(port: &InitiatorPort) -> String {
    let mut text = hexadecimal(&port.port);
    text.push(' ');
    for byte in port.name.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02x}");
        }
    }
    text
}

/// Reads a record of a unit.
///
/// # Errors
/// The first line that is not as it was written.
pub(in crate::scsi) fn read(text: &str, unit: &[u8; 16]) -> Result<Persistent, Damage> {
    let mut persistent = Persistent {
        is_kept: true,
        ..Persistent::default()
    };
    let mut before = 0;
    let mut is_over = false;
    let mut count = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        count = index + 1;
        let damage = |what| Err(Damage { line: count, what });
        let Some(words) = line.strip_suffix('\n') else {
            return damage("it is cut off");
        };
        if is_over {
            return damage("something follows the last line, `end`");
        }
        let (word, rest) = words.split_once(' ').unwrap_or((words, ""));
        match (index, word) {
            (0, _) if words == FIRST_LINE => {}
            (0, _) => return damage("it is not `polldm reservations 1`"),
            (1, "unit") if rest == hexadecimal(unit) => {}
            (1, "unit") => return damage("it is for another unit"),
            (1, _) => return damage("it does not name the unit"),
            (_, "registration") if persistent.reservation.is_none() => {
                let Some(registration) = registration(rest) else {
                    return damage("it is not a registration: KEY PORT one|all ISID NAME");
                };
                let mut known = persistent.registrations.iter();
                if known.any(|known| known.holder == registration.holder) {
                    return damage("the initiator port is registered twice");
                }
                if persistent.registrations.len() == REGISTRATIONS_MAX {
                    return damage("there are more registrations than there can be");
                }
                persistent.registrations.push(registration);
            }
            (_, "reservation") if persistent.reservation.is_none() => {
                let Some(reservation) = reservation(rest) else {
                    return damage("it is not a reservation: TYPE PORT ISID NAME");
                };
                let mut known = persistent.registrations.iter();
                let is_held = known.any(|known| known.holder == reservation.holder);
                if !is_held && !reservation.kind.is_everybodys() {
                    return damage("the holder of the reservation is not registered");
                }
                persistent.reservation = Some(reservation);
            }
            (_, "end") => {
                let sum = crc32c::crc32c(&text.as_bytes()[..before]);
                if rest != format!("{sum:08x}") {
                    return damage("the sum of the lines before it is another: they were changed");
                }
                if persistent.registrations.is_empty() {
                    return damage("there is no registration before it");
                }
                is_over = true;
            }
            _ => return damage("it is none that belongs here"),
        }
        before += line.len();
    }
    if is_over {
        return Ok(persistent);
    }
    Err(Damage {
        line: count + 1,
        what: "the last line, `end`, is missing",
    })
}

fn registration(text: &str) -> Option<Registration> {
    let mut words = text.split(' ');
    let key = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
    let port = words.next()?.parse().ok()?;
    let all_ports = match words.next()? {
        "one" => false,
        "all" => true,
        _ => return None,
    };
    let holder = holder(port, words)?;
    (key != 0).then_some(Registration {
        holder,
        key,
        all_ports,
    })
}

fn reservation(text: &str) -> Option<Reservation> {
    let mut words = text.split(' ');
    let kind: u8 = words.next()?.parse().ok()?;
    let kind = Kind::decode(kind).filter(|known| *known as u8 == kind)?;
    let port = words.next()?.parse().ok()?;
    let holder = holder(port, words)?;
    Some(Reservation { kind, holder })
}

/// The last words of a line: ISID and name.
fn holder<'a>(port: u16, mut words: impl Iterator<Item = &'a str>) -> Option<Holder> {
    let isid = words.next()?;
    let name = words.next()?;
    if isid.len() != 12 || words.next().is_some() {
        return None;
    }
    let value = u64::from_str_radix(isid, 16).ok()?.to_be_bytes();
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
        } else {
            byte
        });
    }
    let initiator = InitiatorPort {
        name: String::from_utf8(bytes).ok()?,
        port: std::array::from_fn(|index| value[index + 2]),
    };
    Some(Holder {
        initiator: Arc::new(initiator),
        port,
    })
}
