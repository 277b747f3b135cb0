//! The harness against a target that is known to work: the guest kernel's own nvmet, inside the guest. When this
//! passes and another scenario fails, polldm is to blame and not the guest, the tools or the driver.

use super::Context;
use crate::initiator::{Connection, Endpoint, start_file_system, start_verified_writes};
use crate::iscsi::{DIGESTS, Portal, Session};

/// The exercises that polldm's iSCSI target gets, to a RAM disk in the guest: with CHAP, then with digests.
pub fn kernel_iscsi_target(context: &Context<'_>) -> Result<(), String> {
    let guest = context.guest;
    let portal = Portal {
        address: "127.0.0.1",
        port: 3260,
        own_port: 3260,
        iqn: "iqn.2026-11.io.polldm:self-check".to_owned(),
    };
    let iqn = &portal.iqn;
    guest.run(&format!(
        r"
        set -e
        mkdir -p /sys/kernel/config/target/core/iblock_0/disk /sys/kernel/config/target/iscsi
        cd /sys/kernel/config/target
        echo udev_path=/dev/ram0 >core/iblock_0/disk/control
        echo 1 >core/iblock_0/disk/enable
        mkdir -p iscsi/{iqn}/tpgt_1/lun/lun_0
        ln -s $PWD/core/iblock_0/disk iscsi/{iqn}/tpgt_1/lun/lun_0/port
        cd iscsi/{iqn}/tpgt_1
        mkdir np/127.0.0.1:{port}
        acl=$PWD/acls/iqn.2026-11.io.polldm:guest
        mkdir -p $acl/lun_0
        ln -s $PWD/lun/lun_0 $acl/lun_0/default
        echo 1 >attrib/authentication
        printf guest >$acl/auth/userid
        printf self-check-secret >$acl/auth/password
        echo 1 >enable
        ",
        port = portal.port
    ))?;
    let chap = [
        ("node.session.auth.authmethod", "CHAP"),
        ("node.session.auth.username", "guest"),
        ("node.session.auth.password", "self-check-secret"),
    ];
    let session = Session::open(guest, &portal, &chap)?;
    start_file_system(guest, "ext4", &session.disk(0)?)?.succeed()?;
    session.close()?;

    let session = Session::open(guest, &portal, &[&chap[..], &DIGESTS].concat())?;
    session.demand_digests()?;
    start_verified_writes(guest, &session.disk(0)?, 512)?.succeed()?;
    session.close()?;

    guest.run(&format!(
        r"
        set -e
        cd /sys/kernel/config/target/iscsi/{iqn}/tpgt_1
        echo 0 >enable
        rm acls/*/lun_0/default lun/lun_0/port
        rmdir acls/*/lun_0 acls/* lun/lun_0 np/*
        cd /sys/kernel/config/target
        rmdir iscsi/{iqn}/tpgt_1 iscsi/{iqn} core/iblock_0/disk core/iblock_0
        "
    ))?;
    Ok(())
}

/// The same exercises that polldm gets, over TCP to a RAM disk in the guest.
pub fn kernel_target(context: &Context<'_>) -> Result<(), String> {
    let guest = context.guest;
    let endpoint = Endpoint {
        transport: "tcp",
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
