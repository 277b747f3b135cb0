//! Who a host is, and how it connects.

use super::connection::ConnectionOptions;
use super::error::Error;
use std::sync::OnceLock;

/// Who this host says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostIdentity {
    /// Host NQN.
    pub nqn: String,
    /// Host identifier; not zero.
    pub id: [u8; 16],
}

impl HostIdentity {
    /// An identity of this process alone.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the kernel gives no UUID.
    pub fn random() -> Result<Self, Error> {
        const SOURCE: &str = "/proc/sys/kernel/random/uuid";
        let text =
            std::fs::read_to_string(SOURCE).map_err(Error::io(format!("reading {SOURCE}")))?;
        let uuid = text.trim();
        let id = parse_uuid(uuid)
            .ok_or_else(|| Error::Address(format!("{SOURCE} holds no UUID: \"{uuid}\"")))?;
        Ok(Self {
            nqn: format!("{UUID_PREFIX}{uuid}"),
            id,
        })
    }

    /// The host of this NQN. Its identifier is the UUID in the name, or is derived from the name: the same name is always the same host, which is
    /// what controllers ask of the two.
    pub fn named(nqn: &str) -> Self {
        let id = nqn.strip_prefix(UUID_PREFIX).and_then(parse_uuid);
        Self {
            id: id.unwrap_or_else(|| fingerprint(nqn.as_bytes())),
            nqn: nqn.to_owned(),
        }
    }

    /// Who this machine is to its controllers: the name that nvme-cli gave it, if it did; otherwise one that lasts as long as this process.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the kernel gives no UUID.
    pub fn of_machine() -> Result<Self, Error> {
        /// Where nvme-cli keeps it.
        const SOURCE: &str = "/etc/nvme/hostnqn";
        static OF_PROCESS: OnceLock<HostIdentity> = OnceLock::new();
        if let Ok(text) = std::fs::read_to_string(SOURCE)
            && text.trim().starts_with("nqn.")
        {
            return Ok(Self::named(text.trim()));
        }
        if let Some(identity) = OF_PROCESS.get() {
            return Ok(identity.clone());
        }
        let identity = Self::random()?;
        Ok(OF_PROCESS.get_or_init(|| identity).clone())
    }
}

/// What an NQN made of a UUID begins with (NVMe Base 2.0, 4.5).
const UUID_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";

/// The bytes of a UUID in its usual form.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|&c| c != '-').collect();
    let whole = digits.len() == 32 && digits.chars().all(|c| c.is_ascii_hexdigit());
    let number = u128::from_str_radix(&digits, 16).ok().filter(|_| whole)?;
    Some(number.to_be_bytes())
}

/// FNV-1a of 128 bits: spreads names over identifiers, and is never zero in practice, which a host identifier must not be.
fn fingerprint(bytes: &[u8]) -> [u8; 16] {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = bytes.iter().fold(OFFSET, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(PRIME)
    });
    hash.max(1).to_be_bytes()
}

/// How to connect to a controller.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// Who connects.
    pub identity: HostIdentity,
    /// Digests, alignment, timeout.
    pub connection: ConnectionOptions,
    /// Keep alive timeout in milliseconds; 0 for none.
    pub keep_alive_ms: u32,
    /// Asks that submission queue flow control be off, which lets the controller spare the response to
    /// a read (NVMe/TCP Transport 1.0, 3.3.2.1).
    pub no_flow_control: bool,
}

impl HostOptions {
    /// Options for this identity: no digests, 5 s for everything, keep alive after 15 s, no flow control.
    pub fn new(identity: HostIdentity) -> Self {
        Self {
            identity,
            connection: ConnectionOptions::default(),
            keep_alive_ms: 15_000,
            no_flow_control: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_identities_differ() {
        let (one, two) = (
            HostIdentity::random().unwrap(),
            HostIdentity::random().unwrap(),
        );
        assert_ne!(one.id, two.id);
        assert!(one.nqn.starts_with("nqn.2014-08.org.nvmexpress:uuid:"));
        assert_eq!(
            HostIdentity::named(&one.nqn),
            one,
            "its UUID is in its name"
        );
    }

    #[test]
    fn a_named_host_is_the_same_host_every_time() {
        let named = HostIdentity::named("nqn.2026-11.io.polldm:front");
        assert_eq!(HostIdentity::named("nqn.2026-11.io.polldm:front"), named);
        assert_ne!(
            HostIdentity::named("nqn.2026-11.io.polldm:back").id,
            named.id
        );
        assert_ne!(named.id, [0; 16]);
        let machine = HostIdentity::of_machine().unwrap();
        assert_eq!(HostIdentity::of_machine().unwrap(), machine);
    }
}
