//! The harness against a target that is known to work: the guest kernel's own nvmet, inside the guest. When this
//! passes and another scenario fails, polldm is to blame and not the guest, the tools or the driver.

use super::Context;
use crate::initiator::{Connection, Endpoint, start_file_system, start_verified_writes};

/// The same exercises that polldm gets, over TCP to a RAM disk in the guest.
pub fn kernel_target(context: &Context<'_>) -> Result<(), String> {
    let guest = context.guest;
    let endpoint = Endpoint {
        address: "127.0.0.1",
        port: 4420,
        nqn: "nqn.2026-11.io.polldm:self-check".to_owned(),
    };
    let nqn = &endpoint.nqn;
    guest.run(&format!(
        r"
        set -e
        cd /sys/kernel/config/nvmet
        mkdir subsystems/{nqn} ports/1
        echo 1 >subsystems/{nqn}/attr_allow_any_host
        for nsid in 1 2; do
            mkdir subsystems/{nqn}/namespaces/$nsid
            echo /dev/ram$((nsid - 1)) >subsystems/{nqn}/namespaces/$nsid/device_path
            echo 1 >subsystems/{nqn}/namespaces/$nsid/enable
        done
        echo tcp >ports/1/addr_trtype
        echo ipv4 >ports/1/addr_adrfam
        echo 127.0.0.1 >ports/1/addr_traddr
        echo {port} >ports/1/addr_trsvcid
        ln -s $PWD/subsystems/{nqn} ports/1/subsystems/
        ",
        port = endpoint.port
    ))?;

    let connection = Connection::open(guest, &endpoint, "")?;
    let (first, second) = (connection.device(1)?, connection.device(2)?);
    let ext4 = start_file_system(guest, "ext4", &first)?;
    let xfs = start_file_system(guest, "xfs", &second)?;
    ext4.succeed()?;
    xfs.succeed()?;
    connection.close()?;

    let connection = Connection::open(guest, &endpoint, "--hdr-digest --data-digest")?;
    start_verified_writes(guest, &connection.device(1)?, 512)?.succeed()?;
    connection.close()?;

    // The RAM disks give their memory back for the scenarios that follow.
    guest.run(&format!(
        r"
        set -e
        cd /sys/kernel/config/nvmet
        rm ports/1/subsystems/{nqn}
        rmdir subsystems/{nqn}/namespaces/* subsystems/{nqn} ports/1
        rmmod brd
        "
    ))?;
    Ok(())
}
