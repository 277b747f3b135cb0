//! How NVMe controllers beneath are attached: the parameters of SPDK's method.

use std::net::ToSocketAddrs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bdev::{Error, NvmeAddress, RemoteSpec};

/// Seconds after which SPDK tries again to reach an NVMe controller that it has lost.
const RECONNECT_DELAY_SECONDS: u32 = 1;

/// Seconds after which I/O to a controller that is lost fails, so that another path can be taken; until then it waits for the controller.
const FAIL_FAST_SECONDS: u32 = 2;

/// The parameters that attach an NVMe controller. One that is lost is tried again for ever; its I/O fails before, as a path does.
pub(super) fn attach(name: &str, at: &NvmeAddress) -> Value {
    let mut params = match at {
        NvmeAddress::Tcp(address, nqn) => json!({
            "trtype": "TCP",
            "adrfam": if address.is_ipv4() { "IPv4" } else { "IPv6" },
            "traddr": address.ip().to_string(),
            "trsvcid": address.port().to_string(),
            "subnqn": nqn,
        }),
        NvmeAddress::Pcie(address) => json!({ "trtype": "PCIe", "traddr": address }),
        NvmeAddress::VfioUser(directory) => json!({ "trtype": "VFIOUSER", "traddr": directory }),
    };
    params["name"] = name.into();
    if !matches!(at, NvmeAddress::Pcie(_)) {
        params["ctrlr_loss_timeout_sec"] = (-1).into();
        params["reconnect_delay_sec"] = RECONNECT_DELAY_SECONDS.into();
        params["fast_io_fail_timeout_sec"] = FAIL_FAST_SECONDS.into();
    }
    params
}

/// The same for a remote of the native engine's kind, whose times count in whole seconds here, of at least one.
///
/// # Errors
/// Its host has a name that is not known here.
pub(super) fn attach_remote(name: &str, remote: &RemoteSpec) -> Result<Value, Error> {
    let (host, port) = (remote.address.host.as_str(), remote.address.port);
    let found = (host, port).to_socket_addrs().map(|mut found| found.next());
    let address = found.ok().flatten().ok_or_else(|| Error::Remote {
        address: format!("{host}:{port}"),
        reason: "the name of the host is not known here".into(),
    })?;
    let seconds = |span: Duration| span.as_secs().max(1);
    let lost = seconds(remote.ctrl_loss_timeout);
    let fails = remote
        .fast_io_fail_timeout
        .map_or(u64::from(FAIL_FAST_SECONDS), seconds);
    let delay = seconds(remote.reconnect_delay).min(fails).min(lost);
    let mut params = attach(name, &NvmeAddress::Tcp(address, remote.address.nqn.clone()));
    params["ctrlr_loss_timeout_sec"] = lost.into();
    params["reconnect_delay_sec"] = delay.into();
    params["fast_io_fail_timeout_sec"] = fails.min(lost).into();
    params["hdgst"] = remote.header_digest.into();
    params["ddgst"] = remote.data_digest.into();
    if let Some(nqn) = &remote.host_nqn {
        params["hostnqn"] = nqn.clone().into();
    }
    Ok(params)
}
