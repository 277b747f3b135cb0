//! Text keys as bytes (RFC 7143, 6.1), and what a login comes to by them (13).

use std::fmt::Write;

/// Bytes of a key's name (RFC 7143, 6.1).
const NAME_BYTES_MAX: usize = 63;

/// The largest length that a key can have (RFC 7143, 13).
pub const NUMBER_MAX: u32 = (1 << 24) - 1;

/// What is in force on a connection (RFC 7143, 13), at first the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// CRC32C over headers.
    pub header_digest: bool,
    /// CRC32C over data.
    pub data_digest: bool,
    /// MaxRecvDataSegmentLength of the other side.
    pub send_bytes_max: u32,
    /// InitialR2T: nothing goes unasked for but immediate data.
    pub initial_ready: bool,
    /// ImmediateData.
    pub immediate_data: bool,
    /// MaxBurstLength.
    pub burst_bytes: u32,
    /// FirstBurstLength.
    pub first_burst_bytes: u32,
    /// MaxOutstandingR2T.
    pub outstanding_ready: u32,
    /// iSCSIProtocolLevel: from 2 on there are the task management functions of RFC 7144.
    pub protocol_level: u32,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            send_bytes_max: 8192,
            initial_ready: true,
            immediate_data: true,
            burst_bytes: 262_144,
            first_burst_bytes: 65_536,
            outstanding_ready: 1,
            protocol_level: 1,
        }
    }
}

/// Text that breaks the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation;

/// Adds a key and its value to a text.
pub fn say(text: &mut String, name: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = write!(text, "{name}={value}\0");
}

/// Cuts text into its keys and values (RFC 7143, 6.1).
///
/// # Errors
/// Bytes that are not UTF-8, a pair without `=`, a name that is none.
pub fn pairs(text: &[u8]) -> Result<Vec<(&str, &str)>, Violation> {
    let text = std::str::from_utf8(text).map_err(|_| Violation)?;
    let mut all = Vec::new();
    for pair in text.split('\0').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or(Violation)?;
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(Violation);
        }
        all.push((name, value));
    }
    Ok(all)
}

/// A value that is Yes or No.
pub fn parse_flag(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

/// A number in decimal or, after 0x, hexadecimal form (RFC 7143, 6.1).
pub fn parse_number(value: &str) -> Option<u32> {
    let hexadecimal = value.strip_prefix("0x").or(value.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None if value.starts_with('+') => None,
        None => value.parse().ok(),
    }
}
