//! What a discovery service offers.

use super::address::Address;
use super::controller::Controller;
use super::error::Error;
use super::identity::HostOptions;
use crate::nvme::DISCOVERY_NQN;
use crate::nvme::log::{self, DISCOVERY_ENTRY_SIZE, DiscoveryEntry};

/// The most entries of a discovery log page that are read; a page that claims more is cut.
const DISCOVERY_ENTRIES_MAX: u64 = 1024;

/// How often a discovery log page is read anew because it changed while it was read.
const DISCOVERY_ATTEMPTS_MAX: usize = 5;

/// The entries of a discovery service, read until its generation counter holds still.
///
/// # Errors
///
/// Any [`Error`].
pub fn discover(address: &Address, options: &HostOptions) -> Result<Vec<DiscoveryEntry>, Error> {
    let address = Address {
        nqn: DISCOVERY_NQN.to_owned(),
        nsid: None,
        ..address.clone()
    };
    let options = HostOptions {
        keep_alive_ms: 0,
        ..options.clone()
    };
    let mut controller = Controller::connect(&address, &options)?;
    for _ in 0..DISCOVERY_ATTEMPTS_MAX {
        let header = controller.log_page(log::page::DISCOVERY, 0, DISCOVERY_ENTRY_SIZE as u32)?;
        let (generation, count) = log::decode_discovery_header(&header);
        let size = (count.min(DISCOVERY_ENTRIES_MAX) as u32 + 1) * DISCOVERY_ENTRY_SIZE as u32;
        let bytes = controller.log_page(log::page::DISCOVERY, 0, size)?;
        let header = controller.log_page(log::page::DISCOVERY, 0, DISCOVERY_ENTRY_SIZE as u32)?;
        if log::decode_discovery_header(&header).0 == generation {
            let entries = bytes[DISCOVERY_ENTRY_SIZE..].chunks_exact(DISCOVERY_ENTRY_SIZE);
            return Ok(entries.map(DiscoveryEntry::decode).collect());
        }
    }
    Err(Error::Unsupported(format!(
        "the discovery log page changed {DISCOVERY_ATTEMPTS_MAX} times while it was read"
    )))
}
