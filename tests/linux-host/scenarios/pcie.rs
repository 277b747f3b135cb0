//! The SPDK engine in the guest, on the guest's NVMe disks by their PCI addresses (docs/spdk.md): vfio, behind an emulated IOMMU, and hugepages. The host is the guest's
//! own kernel, over the loopback.

use super::Context;
use super::passthrough::{await_failed, await_progress, completed, reach_the_disk};
use crate::guest::Guest;
use crate::initiator::{start_endless_writes, start_verified_writes};
use crate::inside::{Inside, Plan};

/// A table of 128 MiB, the first half of the disks' medium.
const SECTORS: u32 = 262_144;

/// Hugepages of 2 MiB: what SPDK takes at the least.
const HUGEPAGES: u32 = 288;

/// The PCI address of a disk that the kernel drives.
fn address(guest: &Guest, serial: &str) -> Result<String, String> {
    let address = guest.run(&format!("pci_of {serial}"))?;
    Ok(address.trim().to_owned())
}

fn give_to(guest: &Guest, driver: &str, address: &str) -> Result<(), String> {
    guest.run(&format!("give_to {driver} {address}")).map(drop)
}

fn bdev(name: &str, address: &str) -> String {
    format!("nvme: {{ name: {name}, pcie: \"{address}\" }}")
}

/// A disk that the kernel drives is refused, with the command that would mend that. Given to vfio, it keeps what a host writes, and its flushes, discards, write-zeroes
/// and FUA reach it; given back to the kernel, it holds what the host has written through polldm.
pub fn drives_a_disk(context: &Context<'_>) -> Result<(), String> {
    let guest = context.guest;
    guest.run(&format!("hugepages {HUGEPAGES}"))?;
    let address = address(guest, "one")?;
    let table = format!("0 {SECTORS} linear one 0");
    let plan = Plan::spdk("pcie", &[bdev("one", &address)], &table);

    let said = Inside::refusal(guest, context.binary, &plan)?;
    for words in [
        format!("SPDK cannot have the PCI device {address}: the kernel has it, by its driver nvme"),
        format!("driverctl set-override {address} vfio-pci"),
    ] {
        if !said.contains(&words) {
            return Err(format!("the refusal should say `{words}`:\n{said}"));
        }
    }

    give_to(guest, "vfio-pci", &address)?;
    let inside = Inside::start(guest, context.binary, &plan)?;
    let connection = inside.connect()?;
    let device = connection.device(1)?;
    start_verified_writes(guest, &device, 512)?.succeed()?;
    reach_the_disk(guest, &device)?;
    let flushes = || guest.disk_commands(&["pci_nvme_flush_ns"]);
    let before = flushes()?;
    guest.run(&format!(
        "dd if=/dev/zero of={device} bs=4096 count=1 oflag=direct,dsync conv=notrunc status=none"
    ))?;
    if flushes()? == before {
        return Err("a write with FUA has been answered without a flush of the disk".into());
    }
    let written = guest.run(&format!(
        "dd if=/dev/urandom of={device} bs=1M count=8 oflag=direct conv=notrunc,fsync status=none
         dd if={device} bs=1M count=8 iflag=direct status=none | sha256sum"
    ))?;
    connection.close()?;
    inside.terminate()?;

    give_to(guest, "nvme", &address)?;
    let found = guest.run(
        "generic=$(generic one) || fail 'the kernel does not find the disk again'
         dd if=/dev/$(block_of $generic) bs=1M count=8 iflag=direct status=none | sha256sum",
    )?;
    if found != written {
        return Err(format!(
            "the host has read {written}, and the kernel finds {found}"
        ));
    }
    guest.run("hugepages 0").map(drop)
}

/// A multipath over both disks, which lead to one medium. One is taken off the bus under load: a path failure, and no error of the host. It comes back, is added again, and
/// has all of the I/O; the host reads what it wrote (AT-79).
pub fn survives_a_pulled_disk(context: &Context<'_>) -> Result<(), String> {
    let guest = context.guest;
    guest.run(&format!("hugepages {HUGEPAGES}"))?;
    let addresses = [address(guest, "one")?, address(guest, "two")?];
    let [first, second] = &addresses;
    let table = format!("0 {SECTORS} multipath 0 0 1 1 round-robin 0 2 0 one two");
    let bdevs = [bdev("one", first), bdev("two", second)];
    let plan = Plan::spdk("pcie-pulled", &bdevs, &table);
    for address in &addresses {
        give_to(guest, "vfio-pci", address)?;
    }
    let inside = Inside::start(guest, context.binary, &plan)?;
    let connection = inside.connect()?;
    let writes = start_endless_writes(guest, &connection.device(1)?)?;
    await_progress(&inside)?;

    // The kernel asks whoever has the disk to let go of it, and waits for that.
    let pulled = guest.start(&format!("echo 1 >/sys/bus/pci/devices/{second}/remove"))?;
    await_failed(&inside, "two")?;
    pulled.succeed()?;
    await_progress(&inside)?;
    let listed = inside.command("bdev ls")?;
    let is_removed = |line: &str| line.starts_with("two ") && line.contains("removed");
    if !listed.lines().any(is_removed) {
        return Err(format!("a disk that is gone should be removed:\n{listed}"));
    }

    guest.run("put_disks_back; generic two >/dev/null")?;
    give_to(guest, "vfio-pci", second)?;
    inside.command(&format!("bdev add nvme name=two pcie={second}"))?;
    inside.command(&format!("dm swap vol0 --table '{table}'"))?;
    await_progress(&inside)?;

    // The disk that has come back has all of the I/O.
    inside.command("dm message vol0 0 fail_path one")?;
    await_progress(&inside)?;

    writes.stop()?;
    let errors = completed(&inside)?.1;
    if errors != 0 {
        return Err(format!("the pulled disks have cost the host {errors} I/Os"));
    }
    connection.close()?;
    inside.terminate()?;
    for address in &addresses {
        give_to(guest, "nvme", address)?;
    }
    guest.run("hugepages 0").map(drop)
}
