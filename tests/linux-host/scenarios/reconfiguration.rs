//! Changes to a device while a host uses it.

use super::Context;
use crate::initiator::{
    ENDLESS_WRITERS, await_progress, start_endless_writes, start_verified_writes,
};
use crate::target::{Backing, Front, SECTORS_PER_MIB, Volume};

/// A bigger table, then a smaller one: the host sees each size by itself (a namespace-attribute event and a rescan),
/// over the connection that it has, and the new part holds data.
pub fn resize(context: &Context<'_>) -> Result<(), String> {
    let volume = Volume::new("grows", Backing::Malloc, 4096, 64).on_bdev_of(160);
    // SPDK lets no bdev shrink that somebody has open.
    let last = if cfg!(feature = "spdk") { 160 } else { 64 };
    let tables = [96, 160, last].map(|mib| (mib, volume.linear_table(mib)));
    let mut target = context.target("resize", &[volume])?;
    let connection = context.connect(&target, "")?;
    let device = connection.device(1)?;
    // A reconnect would find the new size too, and prove nothing.
    context.guest.run("dmesg -c >/dev/null")?;
    for (mib, table) in &tables {
        target.swap_table("grows", table)?;
        context.guest.run(&format!(
            r"
            await 60 size_is {device} {}
            yes {mib} | dd of=/tmp/block bs=4096 count=1 iflag=fullblock status=none
            dd if=/tmp/block of={device} bs=4096 seek={last} oflag=direct conv=notrunc,fsync status=none
            dd if={device} of=/tmp/read bs=4096 skip={last} count=1 iflag=direct status=none
            cmp /tmp/block /tmp/read || fail 'the last block is wrong'
            ",
            mib * SECTORS_PER_MIB,
            last = mib * 256 - 1,
        ))?;
    }
    let log = context.guest.run("dmesg")?;
    if log.contains("reconnect") || log.contains("connection lost") {
        return Err(format!("the host had to reconnect:\n{log}"));
    }
    connection.close()?;
    target.terminate()
}

/// A namespace is added and taken away, three times, while fio uses another one over the same connection: the host sees
/// both by itself, and fio notices nothing.
pub fn namespaces_come_and_go(context: &Context<'_>) -> Result<(), String> {
    let volume = Volume::new("stays", Backing::Malloc, 4096, 128).on_bdev_of(160);
    let guest = context.guest;
    let mut target = context.target("namespaces", &[volume])?;
    let connection = context.connect(&target, "")?;
    let writes = start_verified_writes(guest, &connection.device(1)?, 4096)?;
    let behind = format!(
        "0 {} linear stays-bdev {}",
        32 * SECTORS_PER_MIB,
        128 * SECTORS_PER_MIB
    );
    target.command(&["dm", "create", "comes", "--table", &behind])?;
    for _ in 0..3 {
        target.command(&[
            "export",
            "add-ns",
            &target.nqn,
            "--nsid",
            "7",
            "--device",
            "comes",
        ])?;
        let device = connection.device(7)?;
        guest.run(&format!(
            r"
            set -e
            size_is {device} {}
            dd if=/dev/urandom of=/tmp/data bs=1M count=8 status=none
            dd if=/tmp/data of={device} bs=1M oflag=direct conv=notrunc,fsync status=none
            dd if={device} of=/tmp/read bs=1M count=8 iflag=direct status=none
            cmp /tmp/data /tmp/read || fail 'the new namespace returned something else'
            ",
            32 * SECTORS_PER_MIB,
        ))?;
        target.command(&["export", "remove-ns", &target.nqn, "--nsid", "7"])?;
        guest.run(&format!(
            "gone() {{ ! find_device {} 7; }}\nawait 60 gone >/dev/null",
            target.nqn
        ))?;
    }
    target.command(&["dm", "remove", "comes"])?;
    writes.succeed()?;
    connection.close()?;
    target.terminate()
}

/// Table swaps for as long as fio runs: the same data, one time as one line and one time as three. Each swap suspends and
/// resumes the device. No I/O may fail, and every block must verify.
pub fn table_swaps_under_load(context: &Context<'_>) -> Result<(), String> {
    let volume = Volume::new("swapped", Backing::Malloc, 4096, 128);
    let whole = volume.linear_table(128);
    let in_three = "0 65536 linear swapped-bdev 0\n\
                    65536 131072 linear swapped-bdev 65536\n\
                    196608 65536 linear swapped-bdev 196608";
    let mut target = context.target("swaps", &[volume])?;
    let connection = context.connect(&target, "")?;
    let device = connection.device(1)?;
    let mut writes = start_verified_writes(context.guest, &device, 4096)?;
    let mut swaps = 0;
    while !writes.is_finished()? {
        target.swap_table("swapped", if swaps % 2 == 0 { in_three } else { &whole })?;
        swaps += 1;
    }
    writes.succeed()?;
    // fio takes seconds, a swap a few milliseconds.
    if swaps < 10 {
        return Err(format!("only {swaps} tables were swapped while fio ran"));
    }
    connection.close()?;
    target.terminate()
}

/// Swaps in one step between all targets that can stand for one another, while a host writes and verifies. One of them delays I/O by more time than
/// the host has: a swap away from it does not wait, and completes what it held (AT-71).
pub fn swaps_between_targets(context: &Context<'_>, front: Front) -> Result<(), String> {
    let volume = Volume::new("disk", Backing::Malloc, 4096, 64);
    let linear = volume.linear_table(64);
    let mut target = context.target_by(front, "between-targets", &[volume])?;
    let attached = front.attach(context.guest, &target)?;
    let writes = start_endless_writes(context.guest, &attached.disk(0)?)?;
    let swap = |table: &str| target.command(&["dm", "swap", "disk", "--table", table]);
    let await_progress =
        |table: &str| await_progress(&target, "disk").map_err(|e| format!("on {table}: {e}"));
    for table in [
        "0 131072 striped 1 64 disk-bdev 0",
        "0 131072 delay disk-bdev 0 5",
        "0 131072 flakey disk-bdev 0 3600 1",
        "0 131072 delay disk-bdev 0 1 disk-bdev 0 2 disk-bdev 0 3",
        "0 65536 flakey disk-bdev 0 3600 1\n65536 8 linear disk-bdev 65536\n65544 65528 delay disk-bdev 65544 3",
    ] {
        swap(table)?;
        await_progress(table)?;
        swap("0 131072 delay disk-bdev 0 3600000")?;
        let what = "I/O to be delayed";
        let before = target.await_counts("disk", what, |now| now.held == ENDLESS_WRITERS)?;
        swap(&linear)?;
        let after = target.counts("disk")?;
        if after.completed < before.completed + ENDLESS_WRITERS {
            return Err(format!(
                "not all delayed I/O was completed: {before:?}, then {after:?}"
            ));
        }
        await_progress(&linear)?;
    }
    if target.counts("disk")?.errors > 0 {
        return Err("I/O has failed".into());
    }
    writes.stop()?;
    attached.close()?;
    target.terminate()
}
