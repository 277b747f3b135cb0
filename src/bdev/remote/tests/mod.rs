//! Remotes against a scripted controller.

use std::net::SocketAddr;
use std::time::Duration;

use super::RemoteSpec;
use crate::host::Address;

/// A remote at this address, which nothing times out at.
pub(super) fn spec(address: SocketAddr) -> RemoteSpec {
    RemoteSpec {
        address: Address::new(address, "nqn.2026-11.io.polldm:scripted"),
        nsid: 1,
        host_nqn: Some("nqn.2026-11.io.polldm:host".into()),
        header_digest: false,
        data_digest: false,
        keep_alive: Duration::from_secs(3600),
        reconnect_delay: Duration::from_millis(100),
        ctrl_loss_timeout: Duration::from_secs(3600),
        fast_io_fail_timeout: None,
        io_timeout: Duration::from_secs(3600),
    }
}
