//! TransportIDs: initiator ports in parameter data (SPC-4, 7.6.4).

use super::super::unit::InitiatorPort;
use crate::iscsi::NAME_BYTES_MAX;

/// The TransportID of an iSCSI initiator port (SPC-4, 7.6.4.6).
pub fn encode(port: &InitiatorPort) -> Vec<u8> {
    let session: String = port.port.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut name = format!("{},i,0x{session}", port.name).into_bytes();
    name.push(0);
    name.resize(name.len().next_multiple_of(4).max(20), 0);
    let mut bytes = vec![0x45, 0];
    bytes.extend_from_slice(&(name.len() as u16).to_be_bytes());
    bytes.extend_from_slice(&name);
    bytes
}

/// Reads a TransportID; answers the port, or only the name of a form that names a device, and how long it is. A name that no initiator
/// can log in with is none: what is registered is kept, and has to fit the record.
pub fn decode(bytes: &[u8]) -> Option<(String, Option<[u8; 6]>, usize)> {
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
    let is_possible = !name.is_empty() && name.len() <= NAME_BYTES_MAX;
    is_possible.then(|| (name.to_owned(), port, 4 + size))
}
