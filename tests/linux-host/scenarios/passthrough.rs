//! polldm in the guest, on the guest's NVMe disks through the kernel's passthrough device (docs/nvme.md). The host is the guest's own kernel, over the loopback.

use super::Context;
use crate::guest::Guest;
use crate::initiator::{ENDLESS_WRITERS, start_endless_writes, start_verified_writes};
use crate::inside::{Inside, Plan};

/// A table of 128 MiB, the first half of the disks' medium.
const SECTORS: u32 = 262_144;

/// Completions after which I/O is taken to run again: more than were outstanding.
const PROGRESS: u64 = 4 * ENDLESS_WRITERS;

/// How the driver hears of completions.
#[derive(Clone, Copy)]
enum Completions {
    Interrupts,
    Polled,
}

impl Completions {
    /// As `polldm bdev ls` has it.
    fn name(self) -> &'static str {
        match self {
            Completions::Interrupts => "interrupts",
            Completions::Polled => "polled",
        }
    }
}

/// Whether the guest's kernel is one that polldm polls with (docs/nvme.md).
fn polls(guest: &Guest) -> Result<bool, String> {
    let release = guest.run("uname -r")?;
    let mut numbers = release
        .split('.')
        .map_while(|word| word.parse::<u32>().ok());
    Ok((numbers.next(), numbers.next()) >= (Some(6), Some(5)))
}

/// Takes a disk off the bus and puts it back, with a driver that is told to have queues to poll, or not to.
fn replug(guest: &Guest, serial: &str, completions: Completions) -> Result<(), String> {
    let queues = match completions {
        Completions::Interrupts => 0,
        Completions::Polled => 1,
    };
    guest
        .run(&format!(
            "pull_disk {serial}
             echo {queues} >/sys/module/nvme/parameters/poll_queues
             put_disks_back
             generic {serial}"
        ))
        .map(drop)
}

/// The name of a disk's generic device, as in ng0n1.
fn generic(guest: &Guest, serial: &str) -> Result<String, String> {
    let name = guest.run(&format!("generic {serial}"))?;
    Ok(name.trim().to_owned())
}

/// The controller of a generic device.
fn controller(generic: &str) -> String {
    let numbers = generic.trim_start_matches("ng");
    format!("nvme{}", numbers.split('n').next().unwrap_or_default())
}

fn bdev(guest: &Guest, serial: &str) -> Result<String, String> {
    let generic = generic(guest, serial)?;
    Ok(format!(
        "nvme: {{ name: {serial}, device: /dev/{generic} }}"
    ))
}

/// The completions of `vol0`, and how many of them were errors.
pub(super) fn completed(inside: &Inside<'_>) -> Result<(u64, u64), String> {
    let output = inside.command("stats vol0 --json")?;
    let stats: serde_json::Value =
        serde_json::from_str(&output).map_err(|e| format!("stats is no JSON: {e}\n{output}"))?;
    let operations = &stats["devices"][0]["operations"];
    let operations = operations
        .as_array()
        .ok_or_else(|| format!("the statistics lack operations: {output}"))?;
    let sum = |key: &str| operations.iter().filter_map(|one| one[key].as_u64()).sum();
    Ok((sum("ios"), sum("errors")))
}

pub(super) fn await_progress(inside: &Inside<'_>) -> Result<(), String> {
    let enough = completed(inside)?.0 + PROGRESS;
    crate::wait::wait_until(crate::guest::JOB_LIMIT, || {
        Ok(completed(inside)?.0 >= enough)
    })
    .map_err(|e| format!("waiting for I/O to run: {e}"))
}

/// With interrupts, and with polled completion where the guest's kernel can do it: what a host writes is read back, its flushes, discards and write-zeroes reach the disk as commands of those
/// names (QEMU's own trace of the disk), its FUA is the bit of the command that the driver is given (the kernel's trace), and a reset of the controller under load
/// costs no I/O.
pub fn carries_commands(context: &Context<'_>) -> Result<(), String> {
    let guest = context.guest;
    let ways = match polls(guest)? {
        true => &[Completions::Interrupts, Completions::Polled][..],
        false => &[Completions::Interrupts],
    };
    for completions in ways {
        replug(guest, "one", *completions)?;
        let table = format!("0 {SECTORS} linear one 0");
        let bdevs = [bdev(guest, "one")?];
        let plan = Plan::native("passthrough", &bdevs, &table);
        let inside = Inside::start(guest, context.binary, &plan)?;
        let listed = inside.command("bdev ls")?;
        for word in [completions.name(), "volatile", "flush,fua,discard,zeroes"] {
            if !listed.contains(word) {
                return Err(format!("`bdev ls` should have `{word}`:\n{listed}"));
            }
        }
        let connection = inside.connect()?;
        let device = connection.device(1)?;
        start_verified_writes(guest, &device, 512)?.succeed()?;
        carries_each(guest, &device)?;

        let writes = start_endless_writes(guest, &device)?;
        for _ in 0..2 {
            await_progress(&inside)?;
            let name = controller(&generic(guest, "one")?);
            guest.run(&format!("echo 1 >/sys/class/nvme/{name}/reset_controller"))?;
        }
        await_progress(&inside)?;
        writes.stop()?;
        let errors = completed(&inside)?.1;
        if errors != 0 {
            return Err(format!("resets of the controller have cost {errors} I/Os"));
        }
        connection.close()?;
        inside.terminate()?;
    }
    Ok(())
}

/// A host's flushes, discards, write-zeroes and FUA over iSCSI reach the disk as over NVMe/TCP (AT-63).
pub fn carries_iscsi(context: &Context<'_>) -> Result<(), String> {
    let guest = context.guest;
    let table = format!("0 {SECTORS} linear one 0");
    let bdevs = [bdev(guest, "one")?];
    let plan = Plan::native("iscsi", &bdevs, &table);
    let inside = Inside::start(guest, context.binary, &plan)?;
    let session = inside.log_in()?;
    carries_each(guest, &session.disk(0)?)?;
    session.close()?;
    inside.terminate()
}

/// One of each, and what the disk is given of it.
fn carries_each(guest: &Guest, device: &str) -> Result<(), String> {
    reach_the_disk(guest, device)?;
    let name = controller(&generic(guest, "one")?);
    let traced = guest.run(&format!(
        r"
        cd /sys/kernel/tracing
        [ -e trace ] || mount -t tracefs tracefs .
        cd /sys/kernel/tracing
        for flags in direct direct,dsync; do
            echo >trace
            echo 1 >events/nvme/nvme_setup_cmd/enable
            dd if=/dev/zero of={device} bs=4096 count=1 seek=7 oflag=$flags conv=notrunc status=none
            echo 0 >events/nvme/nvme_setup_cmd/enable
            grep '{name}:.*nvme_cmd_write ' trace | sed 's/.*\(ctrl=[^,]*\).*/'$flags' \1/'
        done
        "
    ))?;
    if traced != "direct ctrl=0x0\ndirect,dsync ctrl=0x4000\n" {
        return Err(format!(
            "a write without, and one with FUA should be given to the driver as that: {traced}"
        ));
    }
    Ok(())
}

/// A flush, a discard and a write-zeroes of a host are commands of those names to the disk, as QEMU counts them.
pub(super) fn reach_the_disk(guest: &Guest, device: &str) -> Result<(), String> {
    let flush = ["pci_nvme_flush_ns"];
    let deallocate = ["pci_nvme_dsm"];
    let zeroes = ["pci_nvme_write", "ZEROES"];
    for (what, words, script) in [
        (
            "flush",
            &flush[..],
            format!("dd if=/dev/null of={device} conv=notrunc,fsync status=none"),
        ),
        (
            "discard",
            &deallocate[..],
            format!("blkdiscard -f --offset 1048576 --length 2097152 {device}"),
        ),
        (
            "write-zeroes",
            &zeroes[..],
            format!(
                r"
                set -e
                dd if=/dev/urandom of=/tmp/pattern bs=1M count=16 status=none
                dd if=/tmp/pattern of={device} bs=1M oflag=direct status=none
                blkdiscard -f --zeroout --offset 3149824 --length 6299648 {device}
                dd if={device} of=/tmp/read bs=1M count=16 iflag=direct status=none
                dd if=/dev/zero of=/tmp/pattern bs=4096 seek=769 count=1538 conv=notrunc status=none
                cmp /tmp/pattern /tmp/read || fail 'wrong contents'
                rm /tmp/pattern /tmp/read
                "
            ),
        ),
    ] {
        let before = guest.disk_commands(words)?;
        guest.run(&script)?;
        if guest.disk_commands(words)? == before {
            return Err(format!("a {what} of the host has not reached the disk"));
        }
    }
    Ok(())
}

/// Whose disk it is: what is no generic device, what is taken and what is mounted is refused with a sentence, and a disk that polldm has cannot be mounted.
pub fn claims_its_disk(context: &Context<'_>) -> Result<(), String> {
    let guest = context.guest;
    let table = format!("0 {SECTORS} linear one 0");
    let bdevs = [bdev(guest, "one")?];
    let plan = Plan::native("claims", &bdevs, &table);
    let inside = Inside::start(guest, context.binary, &plan)?;
    let (first, second) = (generic(guest, "one")?, generic(guest, "two")?);
    let block = |generic: &str| {
        let name = guest.run(&format!("block_of {generic}"))?;
        Ok::<_, String>(name.trim().to_owned())
    };
    let (first_block, second_block) = (block(&first)?, block(&second)?);
    let add = |node: &str| format!("bdev add nvme name=x device=/dev/{node}");
    inside.refuses(
        &add(&first_block),
        &format!("it is a block device; its namespace's generic device is /dev/{first}"),
    )?;
    let generic_only = "it is not the generic device of an NVMe namespace";
    inside.refuses(&add(&controller(&first)), generic_only)?;
    inside.refuses(&add("null"), generic_only)?;
    inside.refuses(&add("ng99n1"), "No such file")?;
    inside.refuses(&add(&first), "is locked")?;
    guest.run(&format!(
        "! mount -t ext4 /dev/{first_block} /mnt 2>/tmp/said || fail 'it was mounted'
         grep -qi busy /tmp/said || fail $(cat /tmp/said)"
    ))?;
    // Both disks are one medium; nobody else has it meanwhile.
    guest.run(&format!(
        "make_file_system ext4 /dev/{second_block} /mnt/mounted"
    ))?;
    inside.refuses(&add(&second), "is mounted or in use")?;
    guest.run("umount /mnt/mounted")?;
    inside.command(&add(&second))?;
    inside.command("bdev remove x")?;
    inside.terminate()?;
    // Let go of when it ends.
    guest
        .run(&format!(
            "mount -t ext4 /dev/{first_block} /mnt && umount /mnt"
        ))
        .map(drop)
}

/// A multipath over both disks, which lead to one medium: one with interrupts, one that is polled where the kernel can do it. One is pulled under load, comes back and is added
/// again, and then the other is pulled: the host has no error, and reads what it wrote (PM-14).
pub fn survives_a_pulled_disk(context: &Context<'_>) -> Result<(), String> {
    let guest = context.guest;
    replug(guest, "one", Completions::Interrupts)?;
    replug(guest, "two", Completions::Polled)?;
    let table = format!("0 {SECTORS} multipath 0 0 1 1 round-robin 0 2 0 one two");
    let bdevs = [bdev(guest, "one")?, bdev(guest, "two")?];
    let plan = Plan::native("pulled", &bdevs, &table);
    let inside = Inside::start(guest, context.binary, &plan)?;
    let connection = inside.connect()?;
    let device = connection.device(1)?;
    let writes = start_endless_writes(guest, &device)?;
    await_progress(&inside)?;

    guest.run("pull_disk two")?;
    await_failed(&inside, "two")?;
    await_progress(&inside)?;

    guest.run("put_disks_back")?;
    // Under another name: polldm still has what was there.
    let back = generic(guest, "two")?;
    inside.command("bdev remove --force two")?;
    inside.command(&format!("bdev add nvme name=two device=/dev/{back}"))?;
    inside.command(&format!("dm swap vol0 --table '{table}'"))?;
    await_progress(&inside)?;

    guest.run("pull_disk one")?;
    await_failed(&inside, "one")?;
    await_progress(&inside)?;

    writes.stop()?;
    let errors = completed(&inside)?.1;
    if errors != 0 {
        return Err(format!("the pulled disks have cost the host {errors} I/Os"));
    }
    connection.close()?;
    inside.terminate()?;
    guest.run("put_disks_back; generic one").map(drop)
}

/// Waits until the multipath has found out that a path has failed.
pub(super) fn await_failed(inside: &Inside<'_>, path: &str) -> Result<(), String> {
    let failed = format!(" {path} F ");
    let mut status = String::new();
    let waited = crate::wait::wait_until(crate::guest::JOB_LIMIT, || {
        status = inside.command("dm status vol0")?;
        Ok(status.contains(&failed))
    });
    waited.map_err(|e| format!("waiting for path {path} to fail: {e}\n{status}"))
}
