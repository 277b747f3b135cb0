//! What the target is asked to serve: portals, targets, initiators and logical units.
//!
//! These are plain values; the room above (`config`) makes them from YAML and has checked them.

use std::net::SocketAddr;

use super::chap::Chap;
use crate::dm::DeviceId;

/// Most targets: each costs a table per core.
pub const TARGETS_MAX: usize = 256;

/// Most portals.
pub const PORTALS_MAX: usize = 64;

/// Bytes of an iSCSI name (RFC 7143, 4.2.7.2).
pub const NAME_BYTES_MAX: usize = 223;

/// What is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses to listen on; port 0 lets the system choose. Every target is reached through each.
    pub portals: Vec<SocketAddr>,
    /// What discovery asks of initiators; everyone may discover when `None`.
    pub discovery: Option<Chap>,
    /// The targets.
    pub targets: Vec<TargetConfig>,
}

/// One target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetConfig {
    /// Its name.
    pub iqn: String,
    /// Who may log in.
    pub initiators: Initiators,
    /// How they prove it; their names are believed when `None`.
    pub chap: Option<Chap>,
    /// Its logical units.
    pub luns: Vec<LunConfig>,
}

/// Which initiators may log in to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Initiators {
    /// Every one.
    Any,
    /// Those with one of these names.
    List(Vec<String>),
}

impl Initiators {
    /// Whether an initiator may log in, and is shown the target by discovery.
    pub fn allow(&self, name: &str) -> bool {
        match self {
            Initiators::Any => true,
            Initiators::List(list) => list.iter().any(|allowed| allowed == name),
        }
    }
}

/// One logical unit: a mapped device under a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LunConfig {
    /// Logical unit number.
    pub lun: u16,
    /// The mapped device.
    pub device: DeviceId,
    /// The device's name, for people.
    pub device_name: String,
    /// What initiators know it by; the same after a restart.
    pub uuid: [u8; 16],
}
