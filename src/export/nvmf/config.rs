//! What the target is asked to serve: listeners, subsystems, hosts and namespaces.
//!
//! These are plain values. The room above (`config`) makes them from YAML; [`Config::validate`] says what the standard
//! would not allow, in words that name the subsystem and what would be right.

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;

use crate::dm::DeviceId;
use crate::nvme::log::AnaState;
use crate::nvme::{DISCOVERY_NQN, NQN_SIZE_MAX};

/// Most namespaces of one subsystem, and the largest NSID (field NN of Identify Controller). Namespaces lie in a table
/// indexed by NSID on every core, so the bound is what keeps a typing error (`nsid: 4000000000`) from costing memory.
pub const NAMESPACES_MAX: u32 = 1024;

/// Most subsystems of one target: each costs a table per core and an entry per listener in the discovery log page.
pub const SUBSYSTEMS_MAX: usize = 256;

/// Most listeners of one target (the port identifier of a discovery log entry counts them).
pub const LISTENERS_MAX: usize = 64;

/// What the target serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses to listen on, IPv4 or IPv6; port 0 lets the system choose. Every subsystem is reachable through each.
    pub listeners: Vec<SocketAddr>,
    /// The subsystems.
    pub subsystems: Vec<SubsystemConfig>,
    /// The unique NQN of the discovery service, which answers to the well-known one as well (NVMe Base 2.0, 3.1.2.3);
    /// `None` for a name made from the subsystems'.
    pub discovery_nqn: Option<String>,
}

/// One NVM subsystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsystemConfig {
    /// Its NQN, at most 223 bytes.
    pub nqn: String,
    /// Serial number, at most 20 printable ASCII characters; `None` for one made from the NQN.
    pub serial: Option<String>,
    /// Model number, at most 40 printable ASCII characters; `None` for "polldm".
    pub model: Option<String>,
    /// Who may connect.
    pub hosts: Hosts,
    /// The ANA state it starts in.
    pub ana: AnaState,
    /// What is in it.
    pub namespaces: Vec<NamespaceConfig>,
}

/// Which hosts may connect to a subsystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// Every host.
    Any,
    /// Hosts with one of these NQNs.
    List(Vec<String>),
}

impl Hosts {
    /// Whether a host may connect (and is shown the subsystem by discovery).
    pub fn allow(&self, host_nqn: &str) -> bool {
        match self {
            Hosts::Any => true,
            Hosts::List(list) => list.iter().any(|allowed| allowed == host_nqn),
        }
    }
}

/// One namespace: a mapped device under a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceConfig {
    /// Namespace identifier, 1 to [`NAMESPACES_MAX`].
    pub nsid: u32,
    /// The mapped device.
    pub device: DeviceId,
    /// The device's name, for people and for the UUID that is made from it.
    pub device_name: String,
    /// The namespace's UUID; `None` for one made from NQN, NSID and device name, which stays the same over restarts.
    pub uuid: Option<[u8; 16]>,
}

/// Why a configuration, or a change at run time, is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// Nothing to listen on.
    NoListener,
    /// More listeners than [`LISTENERS_MAX`].
    TooManyListeners(usize),
    /// The same address and port twice.
    DuplicateListener(SocketAddr),
    /// More subsystems than [`SUBSYSTEMS_MAX`].
    TooManySubsystems(usize),
    /// Two subsystems of one name.
    DuplicateNqn(String),
    /// A name that is no NQN.
    InvalidNqn {
        /// The name.
        nqn: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A serial or model number that the standard does not allow.
    InvalidText {
        /// The subsystem.
        nqn: String,
        /// "serial" or "model".
        field: &'static str,
        /// Most characters.
        size_max: usize,
    },
    /// An NSID out of range.
    InvalidNsid {
        /// The subsystem.
        nqn: String,
        /// The NSID.
        nsid: u32,
    },
    /// An NSID that is taken.
    DuplicateNsid {
        /// The subsystem.
        nqn: String,
        /// The NSID.
        nsid: u32,
    },
    /// A change that names no subsystem of the target.
    UnknownSubsystem(String),
    /// A change that names no namespace of the subsystem.
    UnknownNamespace {
        /// The subsystem.
        nqn: String,
        /// The NSID.
        nsid: u32,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoListener => write!(
                f,
                "no listener: name at least one address, such as 127.0.0.1:4420"
            ),
            Self::TooManyListeners(count) => {
                write!(f, "{count} listeners: at most {LISTENERS_MAX} are allowed")
            }
            Self::DuplicateListener(address) => {
                write!(f, "listener {address} is there twice: once is enough")
            }
            Self::TooManySubsystems(count) => write!(
                f,
                "{count} subsystems: at most {SUBSYSTEMS_MAX} are allowed"
            ),
            Self::DuplicateNqn(nqn) => write!(
                f,
                "two subsystems are called {nqn}: each needs an NQN of its own"
            ),
            Self::InvalidNqn { nqn, reason } => write!(
                f,
                "{nqn:?} is not an NQN: {reason}; an NQN looks like nqn.2026-11.io.polldm:name or nqn.2014-08.org.nvmexpress:uuid:…"
            ),
            Self::InvalidText {
                nqn,
                field,
                size_max,
            } => {
                write!(
                    f,
                    "{field} of {nqn}: 1 to {size_max} printable ASCII characters are allowed"
                )
            }
            Self::InvalidNsid { nqn, nsid } => {
                write!(
                    f,
                    "namespace {nsid} of {nqn}: an NSID is a number from 1 to {NAMESPACES_MAX}"
                )
            }
            Self::DuplicateNsid { nqn, nsid } => write!(
                f,
                "namespace {nsid} of {nqn} is there already: choose another NSID"
            ),
            Self::UnknownSubsystem(nqn) => write!(f, "there is no subsystem {nqn}"),
            Self::UnknownNamespace { nqn, nsid } => {
                write!(f, "there is no namespace {nsid} in {nqn}")
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Checks everything that can be known without opening a port.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.listeners.is_empty() {
            return Err(ConfigError::NoListener);
        }
        if self.listeners.len() > LISTENERS_MAX {
            return Err(ConfigError::TooManyListeners(self.listeners.len()));
        }
        let mut addresses = HashSet::new();
        for address in &self.listeners {
            if address.port() != 0 && !addresses.insert(address) {
                return Err(ConfigError::DuplicateListener(*address));
            }
        }
        if self.subsystems.len() > SUBSYSTEMS_MAX {
            return Err(ConfigError::TooManySubsystems(self.subsystems.len()));
        }
        if let Some(nqn) = &self.discovery_nqn {
            validate_nqn(nqn)?;
        }
        let mut names = HashSet::new();
        for subsystem in &self.subsystems {
            subsystem.validate()?;
            let taken = self.discovery_nqn.as_ref() == Some(&subsystem.nqn);
            if taken || !names.insert(&subsystem.nqn) {
                return Err(ConfigError::DuplicateNqn(subsystem.nqn.clone()));
            }
        }
        Ok(())
    }
}

impl SubsystemConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        validate_nqn(&self.nqn)?;
        if self.nqn == DISCOVERY_NQN {
            let reason = "that name belongs to the discovery service";
            return Err(ConfigError::InvalidNqn {
                nqn: self.nqn.clone(),
                reason,
            });
        }
        for (field, text, size_max) in [("serial", &self.serial, 20), ("model", &self.model, 40)] {
            if let Some(text) = text
                && (text.is_empty()
                    || text.len() > size_max
                    || !text.bytes().all(|byte| (0x20..0x7F).contains(&byte)))
            {
                return Err(ConfigError::InvalidText {
                    nqn: self.nqn.clone(),
                    field,
                    size_max,
                });
            }
        }
        if let Hosts::List(list) = &self.hosts {
            for host in list {
                validate_nqn(host)?;
            }
        }
        let mut nsids = HashSet::new();
        for namespace in &self.namespaces {
            namespace.validate(&self.nqn)?;
            if !nsids.insert(namespace.nsid) {
                return Err(ConfigError::DuplicateNsid {
                    nqn: self.nqn.clone(),
                    nsid: namespace.nsid,
                });
            }
        }
        Ok(())
    }
}

impl NamespaceConfig {
    /// Checks the NSID.
    pub(super) fn validate(&self, nqn: &str) -> Result<(), ConfigError> {
        if self.nsid == 0 || self.nsid > NAMESPACES_MAX {
            return Err(ConfigError::InvalidNsid {
                nqn: nqn.to_string(),
                nsid: self.nsid,
            });
        }
        Ok(())
    }
}

/// Checks the form of an NQN (NVMe Base 2.0, 4.5): `nqn.yyyy-mm.` and a reversed domain name.
///
/// # Errors
/// What is wrong with it.
pub fn validate_nqn(nqn: &str) -> Result<(), ConfigError> {
    let wrong = |reason| {
        Err(ConfigError::InvalidNqn {
            nqn: nqn.to_string(),
            reason,
        })
    };
    if nqn.len() > NQN_SIZE_MAX {
        return wrong("it is longer than 223 bytes");
    }
    if nqn.bytes().any(|byte| byte <= b' ' || byte == 0x7F) {
        return wrong("it has a blank or control character in it");
    }
    let Some(rest) = nqn.strip_prefix("nqn.") else {
        return wrong("it does not start with \"nqn.\"");
    };
    let date = rest.as_bytes();
    let digits = |range: std::ops::Range<usize>| date[range].iter().all(u8::is_ascii_digit);
    if date.len() < 9 || !digits(0..4) || date[4] != b'-' || !digits(5..7) || date[7] != b'.' {
        return wrong(
            "after \"nqn.\" comes a date and a reversed domain name, as in \"2026-11.io.example\"",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subsystem(nqn: &str) -> SubsystemConfig {
        SubsystemConfig {
            nqn: nqn.to_string(),
            serial: None,
            model: None,
            hosts: Hosts::Any,
            ana: AnaState::Optimized,
            namespaces: Vec::new(),
        }
    }

    fn config(subsystems: Vec<SubsystemConfig>) -> Config {
        Config {
            listeners: vec!["127.0.0.1:0".parse().unwrap()],
            subsystems,
            discovery_nqn: None,
        }
    }

    fn namespace(nsid: u32) -> NamespaceConfig {
        NamespaceConfig {
            nsid,
            device: DeviceId(0),
            device_name: "vol0".into(),
            uuid: None,
        }
    }

    #[test]
    fn a_good_configuration_passes() {
        let mut good = subsystem("nqn.2026-11.io.polldm:a");
        good.namespaces = vec![namespace(1), namespace(NAMESPACES_MAX)];
        good.serial = Some("S1".into());
        good.hosts = Hosts::List(vec!["nqn.2014-08.org.nvmexpress:uuid:1b4e28ba".into()]);
        assert_eq!(
            config(vec![good, subsystem("nqn.2026-11.io.polldm:b")]).validate(),
            Ok(())
        );
    }

    #[test]
    fn each_mistake_has_its_error() {
        let nqn = "nqn.2026-11.io.polldm:a";
        let mut empty = config(vec![]);
        empty.listeners.clear();
        assert_eq!(empty.validate(), Err(ConfigError::NoListener));
        let mut twice = config(vec![]);
        twice.listeners = vec!["127.0.0.1:4420".parse().unwrap(); 2];
        assert!(matches!(
            twice.validate(),
            Err(ConfigError::DuplicateListener(_))
        ));
        let duplicate = config(vec![subsystem(nqn), subsystem(nqn)]);
        assert_eq!(
            duplicate.validate(),
            Err(ConfigError::DuplicateNqn(nqn.into()))
        );
        for name in [
            "",
            "nqn.",
            "nqn.2026-11.",
            "iqn.2026-11.io.x:y",
            "nqn.202611.io.x",
            "nqn.2026-11.io x",
        ] {
            assert!(
                matches!(validate_nqn(name), Err(ConfigError::InvalidNqn { .. })),
                "{name}"
            );
        }
        assert!(validate_nqn(&format!("nqn.2026-11.io.{}", "x".repeat(300))).is_err());
        assert!(config(vec![subsystem(DISCOVERY_NQN)]).validate().is_err());
        for nsid in [0, NAMESPACES_MAX + 1, u32::MAX] {
            let mut wrong = subsystem(nqn);
            wrong.namespaces = vec![namespace(nsid)];
            assert!(matches!(
                config(vec![wrong]).validate(),
                Err(ConfigError::InvalidNsid { .. })
            ));
        }
        let mut wrong = subsystem(nqn);
        wrong.namespaces = vec![namespace(3), namespace(3)];
        assert!(matches!(
            config(vec![wrong]).validate(),
            Err(ConfigError::DuplicateNsid { nsid: 3, .. })
        ));
        let mut wrong = subsystem(nqn);
        wrong.serial = Some("x".repeat(21));
        assert!(matches!(
            config(vec![wrong]).validate(),
            Err(ConfigError::InvalidText {
                field: "serial",
                ..
            })
        ));
    }

    #[test]
    fn a_host_list_lets_in_who_is_on_it() {
        let hosts = Hosts::List(vec!["nqn.2026-11.io.polldm:host".into()]);
        assert!(
            hosts.allow("nqn.2026-11.io.polldm:host")
                && !hosts.allow("nqn.2026-11.io.polldm:other")
        );
        assert!(Hosts::Any.allow("nqn.2026-11.io.polldm:other"));
    }
}
