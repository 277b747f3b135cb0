//! open-iscsi on a real kernel, as the initiator of polldm's iSCSI target.

use super::Context;
use crate::initiator::{
    ENDLESS_WRITERS, start_endless_writes, start_file_system, start_verified_writes,
};
use crate::iscsi::{DIGESTS, Portal, Session};
use crate::target::{Backing, CHAP, Front, SECTORS_PER_MIB, Volume};

/// ext4 on 512-byte blocks and xfs on 4096-byte blocks, at the same time; then, in a session with digests, fio writes to the second and
/// compares every block. (512-byte blocks have digests where CHAP is.)
pub fn disks(context: &Context<'_>) -> Result<(), String> {
    let guest = context.guest;
    let volumes = [
        Volume::new("small", Backing::Malloc, 512, 256),
        Volume::new("big", Backing::File, 4096, 512),
    ];
    let mut target = context.target_by(Front::Iscsi, "iscsi-disks", &volumes)?;
    let portal = Portal::of(&target);
    let session = Session::open(guest, &portal, &[])?;
    let ext4 = start_file_system(guest, "ext4", &session.disk(0)?)?;
    let xfs = start_file_system(guest, "xfs", &session.disk(1)?)?;
    ext4.succeed()?;
    xfs.succeed()?;
    session.close()?;

    let session = Session::open(guest, &portal, &DIGESTS)?;
    session.demand_digests()?;
    start_verified_writes(guest, &session.disk(1)?, 4096)?.succeed()?;
    session.close()?;
    target.terminate()
}

/// CHAP in both directions: a file system with it; without it, or with another secret on either side, there is no session.
pub fn chap(context: &Context<'_>) -> Result<(), String> {
    let guest = context.guest;
    let volume = Volume::new("proven", Backing::Malloc, 512, 256);
    let mut target = context.target_by(Front::Iscsi, "iscsi-chap", &[volume])?;
    let portal = Portal::with_chap(&target);
    let [(user, secret), (own, proof)] = CHAP;
    let settings = |secret, proof| {
        [
            ("node.session.auth.authmethod", "CHAP"),
            ("node.session.auth.username", user),
            ("node.session.auth.password", secret),
            ("node.session.auth.username_in", own),
            ("node.session.auth.password_in", proof),
        ]
    };
    for (secret, proof) in [("secret-of-another", proof), (secret, "secret-of-another")] {
        if Session::open(guest, &portal, &settings(secret, proof)).is_ok() {
            return Err("a wrong secret was good enough".to_owned());
        }
    }
    if Session::open(guest, &portal, &[("node.session.auth.authmethod", "None")]).is_ok() {
        return Err("no proof was asked for".to_owned());
    }
    let settings = settings(secret, proof);
    let session = Session::open(guest, &portal, &[&settings[..], &DIGESTS].concat())?;
    start_file_system(guest, "ext4", &session.disk(0)?)?.succeed()?;
    session.close()?;
    target.terminate()
}

/// A bigger table, then a smaller one: the next command is told (CAPACITY DATA HAS CHANGED), and a rescan finds the size, in the session
/// that there is.
pub fn resize(context: &Context<'_>) -> Result<(), String> {
    let guest = context.guest;
    let volume = Volume::new("grows", Backing::Malloc, 4096, 64).on_bdev_of(160);
    // SPDK lets no bdev shrink that somebody has open.
    let sizes: &[u64] = match cfg!(feature = "spdk") {
        true => &[96, 160],
        false => &[96, 160, 64],
    };
    let tables: Vec<(u64, String)> = (sizes.iter())
        .map(|mib| (*mib, volume.linear_table(*mib)))
        .collect();
    let mut target = context.target_by(Front::Iscsi, "iscsi-resize", &[volume])?;
    let session = Session::open(guest, &Portal::of(&target), &[])?;
    let disk = session.disk(0)?;
    for (mib, table) in &tables {
        guest.run("dmesg -c >/dev/null")?;
        target.swap_table("grows", table)?;
        guest.run(&format!(
            r"
            set -e
            dd if={disk} of=/dev/null bs=4096 count=1 iflag=direct status=none
            dmesg | grep -q 'Capacity data has changed' || fail the kernel was not told: $(dmesg)
            echo 1 >/sys/block/{name}/device/rescan
            await 60 size_is {disk} {sectors}
            ",
            name = disk.trim_start_matches("/dev/"),
            sectors = mib * SECTORS_PER_MIB,
        ))?;
    }
    session.close()?;
    target.terminate()
}

/// fio writes and compares while the target is stopped with SIGTERM and started again, twice: the kernel logs in again, and no I/O fails.
pub fn restart(context: &Context<'_>) -> Result<(), String> {
    let guest = context.guest;
    let volume = Volume::new("disk", Backing::File, 4096, 128);
    let mut target = context.target_by(Front::Iscsi, "iscsi-restart", &[volume])?;
    let session = Session::open(guest, &Portal::of(&target), &[])?;
    let writes = start_endless_writes(guest, &session.disk(0)?)?;
    let progress = "I/O to be completed";
    for _ in 0..2 {
        target.await_counts("disk", progress, |now| {
            now.completed >= 20 * ENDLESS_WRITERS
        })?;
        target.terminate()?;
        target.serve()?;
    }
    target.await_counts("disk", progress, |now| {
        now.completed >= 20 * ENDLESS_WRITERS
    })?;
    writes.stop()?;
    session.close()?;
    target.terminate()
}
