//! Names that follow somebody's rules: device names, NVMe Qualified Names, UUIDs, serial numbers.
//!
//! Each check answers with the sentence that says what is wrong; where it stands is the caller's knowledge.

use std::fmt;

/// Longest device name in bytes (dm-semantics 1.1).
pub const NAME_BYTES_MAX: usize = 127;
/// Longest device UUID in bytes (dm-semantics 1.1).
pub const DEVICE_UUID_BYTES_MAX: usize = 128;
/// Longest NQN in bytes (NVMe Base 2.0, section 4.5).
pub const NQN_BYTES_MAX: usize = 223;
/// The well-known discovery subsystem (NVMe Base 2.0): every target has it, none may define it.
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// The second form of an NQN (NVMe Base 2.0, section 4.5): this, then a UUID.
const UUID_NQN_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";
/// Names in this domain are given out by the standard itself.
const STANDARD_NQN_PREFIX: &str = "nqn.2014-08.org.nvmexpress";
/// Longest label of a domain name (RFC 1035, section 2.3.4).
const DOMAIN_LABEL_BYTES_MAX: usize = 63;

/// A name of a bdev or mapped device: dm-semantics 1.1, and neither white space nor
/// back-slash, which split and quote the words of a table line (LC-9).
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a name cannot be empty".to_owned());
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(format!(
            "this name has {} bytes; a name has at most {NAME_BYTES_MAX}",
            name.len()
        ));
    }
    if matches!(name, "." | ".." | "control") {
        return Err(format!("`{name}` is reserved and cannot be a name"));
    }
    if name.contains('/') {
        return Err("a name cannot contain `/`".to_owned());
    }
    if name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
        return Err("a name cannot contain white space, `\\` or control characters".to_owned());
    }
    Ok(())
}

/// An identifier of a mapped device: free text of at most 128 bytes (dm-semantics 1.1).
pub(super) fn check_device_uuid(uuid: &str) -> Result<(), String> {
    if uuid.len() > DEVICE_UUID_BYTES_MAX {
        return Err(format!(
            "this identifier has {} bytes; it may have {DEVICE_UUID_BYTES_MAX}",
            uuid.len()
        ));
    }
    if uuid.is_empty() || uuid.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(
            "an identifier cannot be empty or contain white space or control characters".to_owned(),
        );
    }
    Ok(())
}

/// An NVMe Qualified Name (NVMe Base 2.0, section 4.5), of a host or a subsystem.
pub(super) fn check_nqn(nqn: &str) -> Result<(), String> {
    if nqn.len() > NQN_BYTES_MAX {
        return Err(format!(
            "this NQN has {} bytes; an NQN has at most {NQN_BYTES_MAX}",
            nqn.len()
        ));
    }
    if let Some(uuid) = nqn.strip_prefix(UUID_NQN_PREFIX) {
        return Uuid::parse(uuid)
            .map(|_| ())
            .ok_or_else(|| "what follows `:uuid:` in this NQN is not a UUID".to_owned());
    }
    let Some(rest) = nqn.strip_prefix("nqn.") else {
        return Err("an NQN begins with `nqn.`".to_owned());
    };
    let Some((date, rest)) = rest
        .split_once('.')
        .filter(|(date, _)| is_year_and_month(date))
    else {
        return Err("the date in this NQN is not a year and month (YYYY-MM)".to_owned());
    };
    let Some((domain, identifier)) = rest.split_once(':') else {
        return Err("this NQN lacks the `:` and the identifier that follow the domain".to_owned());
    };
    if !domain.split('.').all(is_domain_label) {
        return Err("the domain in this NQN is not a domain name, written backwards".to_owned());
    }
    if identifier.is_empty() || identifier.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(
            "the identifier after the `:` of an NQN cannot be empty or contain white space"
                .to_owned(),
        );
    }
    if date == "2014-08" && domain == "org.nvmexpress" {
        return Err(format!(
            "`{STANDARD_NQN_PREFIX}:` belongs to the standard; only its `:uuid:` form is free"
        ));
    }
    Ok(())
}

/// An iSCSI name (RFC 7143, section 4.2.7), of a target or an initiator.
pub fn check_iscsi_name(name: &str) -> Result<(), String> {
    if name.len() > NQN_BYTES_MAX {
        return Err(format!(
            "this name has {} bytes; an iSCSI name has at most {NQN_BYTES_MAX}",
            name.len()
        ));
    }
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | ':');
    if let Some(wrong) = name.chars().find(|&c| !allowed(c)) {
        return Err(format!(
            "{wrong:?} cannot be in an iSCSI name: letters, digits, `-`, `.` and `:` can"
        ));
    }
    let is_number = |digits: &str, sizes: &[usize]| {
        sizes.contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    };
    if let Some(digits) = name.strip_prefix("eui.") {
        let good = is_number(digits, &[16]);
        return good
            .then_some(())
            .ok_or_else(|| "`eui.` is followed by 16 hexadecimal digits".to_owned());
    }
    if let Some(digits) = name.strip_prefix("naa.") {
        let good = is_number(digits, &[16, 32]);
        return good
            .then_some(())
            .ok_or_else(|| "`naa.` is followed by 16 or 32 hexadecimal digits".to_owned());
    }
    let Some(rest) = name.strip_prefix("iqn.") else {
        return Err("an iSCSI name begins with `iqn.`, `eui.` or `naa.`".to_owned());
    };
    let Some((_, rest)) = rest
        .split_once('.')
        .filter(|(date, _)| is_year_and_month(date))
    else {
        return Err("the date in this name is not a year and month (YYYY-MM)".to_owned());
    };
    let (domain, identifier) = rest.split_once(':').unwrap_or((rest, "-"));
    if !domain.split('.').all(is_domain_label) {
        return Err("the domain in this name is not a domain name, written backwards".to_owned());
    }
    if identifier.is_empty() {
        return Err("nothing follows the `:` of this name".to_owned());
    }
    Ok(())
}

fn is_year_and_month(date: &str) -> bool {
    let bytes = date.as_bytes();
    let digits = |range: std::ops::Range<usize>| bytes[range].iter().all(u8::is_ascii_digit);
    bytes.len() == 7
        && bytes[4] == b'-'
        && digits(0..4)
        && digits(5..7)
        && ("01"..="12").contains(&&date[5..7])
}

fn is_domain_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    !bytes.is_empty()
        && bytes.len() <= DOMAIN_LABEL_BYTES_MAX
        && bytes.iter().all(inner)
        && bytes[0] != b'-'
        && bytes[bytes.len() - 1] != b'-'
}

/// A field of Identify Controller that holds printable ASCII (NVMe Base 2.0, section 1.4.2: 20h to 7Eh).
pub(super) fn check_ascii_field(what: &str, text: &str, bytes_max: usize) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err(format!("a {what} number cannot be empty"));
    }
    if text.len() > bytes_max {
        return Err(format!(
            "this {what} number has {} bytes; the field holds {bytes_max}",
            text.len()
        ));
    }
    if !text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
        return Err(format!("a {what} number is printable ASCII only"));
    }
    Ok(())
}

/// A UUID (RFC 9562), in the order of its text, which is also the order of NVMe's namespace UUID.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// Reads the usual form, 8-4-4-4-12 hexadecimal digits. The nil UUID is none: in NVMe it means "no UUID".
    pub fn parse(text: &str) -> Option<Self> {
        const HYPHENS: [usize; 4] = [8, 13, 18, 23];
        let bytes = text.as_bytes();
        if bytes.len() != 36 || HYPHENS.iter().any(|&at| bytes[at] != b'-') {
            return None;
        }
        let mut digits = bytes
            .iter()
            .enumerate()
            .filter(|(at, _)| !HYPHENS.contains(at))
            .map(|(_, digit)| char::from(*digit).to_digit(16));
        let mut uuid = [0u8; 16];
        for byte in &mut uuid {
            let (high, low) = (digits.next()??, digits.next()??);
            *byte = u8::try_from(high << 4 | low).ok()?;
        }
        (uuid != [0; 16]).then_some(Self(uuid))
    }

    /// A UUID of version 8 (RFC 9562, section 5.8) that depends on nothing but the two names, so that a host finds
    /// the same namespace after a restart. The NQN is part of it because a Linux host refuses a second
    /// namespace with the same UUID, even in another subsystem.
    pub fn derived(nqn: &str, device: &str) -> Self {
        let hash = fnv1a_128(nqn.bytes().chain([0]).chain(device.bytes()));
        let mut uuid = hash.to_be_bytes();
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        Self(uuid)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A serial number that depends on nothing but the NQN: 16 hexadecimal digits.
pub(super) fn derived_serial(nqn: &str) -> String {
    let hash = fnv1a_128(nqn.bytes());
    format!("{:016X}", (hash >> 64) as u64 ^ hash as u64)
}

/// FNV-1a with 128 bits: no secret is kept by it, only accidents are avoided, and it will give the same tomorrow.
fn fnv1a_128(bytes: impl Iterator<Item = u8>) -> u128 {
    const OFFSET_BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.fold(OFFSET_BASIS, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(PRIME)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_follow_dm_semantics() {
        for good in ["a", "vol0", "vg-lv", "ü", &"x".repeat(127)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "control",
            "a/b",
            "a b",
            "a\\b",
            "a\u{7}",
            &"x".repeat(128),
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nqns_follow_the_standard() {
        let longest = format!("nqn.2014-08.com.example:{}", "x".repeat(NQN_BYTES_MAX - 24));
        for good in [
            "nqn.2026-11.io.polldm:quickstart",
            "nqn.2014-08.com.example:nvme:nvm-subsystem-sn-d78432",
            "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            longest.as_str(),
        ] {
            assert_eq!(check_nqn(good), Ok(()), "{good}");
        }
        let too_long = format!("{longest}x");
        for bad in [
            "",
            "iqn.2026-11.io.polldm:x",
            "nqn.2026-13.io.polldm:x",
            "nqn.2026-00.io.polldm:x",
            "nqn.202é-1.io.polldm:x",
            "nqn.26-11.io.polldm:x",
            "nqn.2026-11.io.polldm",
            "nqn.2026-11.io.polldm:",
            "nqn.2026-11.io..polldm:x",
            "nqn.2026-11.-io.polldm:x",
            "nqn.2026-11.:x",
            "nqn.2026-11.io.polldm:a b",
            DISCOVERY_NQN,
            "nqn.2014-08.org.nvmexpress:other",
            "nqn.2014-08.org.nvmexpress:uuid:f81d4fae",
            too_long.as_str(),
        ] {
            assert!(check_nqn(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn uuids_read_what_they_show() {
        let text = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6";
        assert_eq!(
            Uuid::parse(text).map(|uuid| uuid.to_string()).as_deref(),
            Some(text)
        );
        for bad in [
            "",
            "f81d4fae7dec11d0a76500a0c91e6bf6",
            "f81d4fae-7dec-11d0-a765-00a0c91e6bfg",
            "é81d4fae-7dec-11d0-a765-00a0c91e6bf",
            "00000000-0000-0000-0000-000000000000",
        ] {
            assert_eq!(Uuid::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn derived_identities_never_change() {
        // These are on hosts' disks (/dev/disk/by-id): a change here renames every namespace that has no `uuid`.
        assert_eq!(
            Uuid::derived("nqn.2026-11.io.polldm:quickstart", "vol0").to_string(),
            "bef95f82-f173-8b54-ac13-7a17b8934eab"
        );
        assert_eq!(
            derived_serial("nqn.2026-11.io.polldm:quickstart"),
            "AC51B7ED52439E59"
        );
    }

    #[test]
    fn the_hash_is_fnv1a() {
        // The test vector of the empty string and of "a", from the description of FNV.
        assert_eq!(fnv1a_128("".bytes()), 0x6c62272e07bb014262b821756295c58d);
        assert_eq!(fnv1a_128("a".bytes()), 0xd228cb696f1a8caf78912b704e4a8964);
    }
}
