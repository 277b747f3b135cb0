//! Who a host is, and how it connects.

use super::connection::ConnectionOptions;
use super::error::Error;

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
        let digits: String = uuid.chars().filter(|&c| c != '-').collect();
        let number = u128::from_str_radix(&digits, 16)
            .map_err(|_| Error::Address(format!("{SOURCE} holds no UUID: \"{uuid}\"")))?;
        Ok(Self {
            nqn: format!("nqn.2014-08.org.nvmexpress:uuid:{uuid}"),
            id: number.to_be_bytes(),
        })
    }
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
    }
}
