//! What the target is asked to serve: portals, targets, initiators and logical units.
//!
//! These are plain values; the room above (`config`) makes them from YAML and has checked them.

use std::net::SocketAddr;
use std::time::Duration;

use super::chap::Chap;
use super::initiators::Initiators;
use crate::dm::DeviceId;
use crate::scsi::Access;

/// Most targets: each costs a table per core.
pub const TARGETS_MAX: usize = 256;

/// Most portals, and so most portal groups; a target is reached through no more of them.
pub const PORTALS_MAX: usize = 64;

/// What is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where it listens, at least one.
    pub groups: Vec<PortalGroup>,
    /// An initiator that has said nothing for so long is asked whether it is there, and is gone when it does not answer for as long.
    pub keep_alive: Duration,
    /// What discovery asks of initiators; everyone may discover when `None`.
    pub discovery: Option<Chap>,
    /// The targets.
    pub targets: Vec<TargetConfig>,
}

/// Portals that belong together: to an initiator, one way to a target (RFC 7143, 4.1.1.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortalGroup {
    /// Its tag, from 1.
    pub tag: u16,
    /// Addresses to listen on; port 0 lets the system choose.
    pub portals: Vec<SocketAddr>,
}

/// Another address that initiators are sent to (RFC 7143, 11.13.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Where to.
    pub address: SocketAddr,
    /// For good, or for this time.
    pub is_permanent: bool,
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
    /// The portal groups that it is reached through, and how well.
    pub groups: Vec<(u16, Access)>,
    /// Initiators may change how well (SET TARGET PORT GROUPS).
    pub explicit_alua: bool,
    /// Where initiators are sent instead, if they do not come there.
    pub redirect: Option<Redirect>,
    /// Its logical units.
    pub luns: Vec<LunConfig>,
}

/// What an operator makes of a target that runs; what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetChange {
    /// Who may log in.
    pub initiators: Option<Initiators>,
    /// How they prove it.
    pub chap: Option<Option<Chap>>,
    /// The portal groups that it is reached through.
    pub groups: Option<Vec<u16>>,
    /// Initiators may change how well.
    pub explicit_alua: Option<bool>,
    /// Where initiators are sent instead.
    pub redirect: Option<Option<Redirect>>,
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
    /// The initiators that see it.
    pub initiators: Initiators,
}
