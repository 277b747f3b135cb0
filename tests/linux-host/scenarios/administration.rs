//! What nvme-cli and the kernel ask of a controller beside I/O: discovery, identify, logs, features, reset.

use serde_json::Value;

use super::Context;
use crate::initiator::{Endpoint, await_progress, start_endless_writes};
use crate::target::{Backing, Volume};

const MIB: u64 = 1 << 20;

/// How often the controller is reset while fio writes.
const RESETS: usize = 6;

/// The discovery log names the subsystem with its port; a subsystem that does not exist is refused at once.
pub fn discovery(context: &Context<'_>) -> Result<(), String> {
    let mut target = context.target(
        "discovery",
        &[Volume::new("disk", Backing::Malloc, 4096, 16)],
    )?;
    let endpoint = Endpoint::of(&target);
    let log = context.guest.run(&format!(
        "nvme discover {} --output-format=json",
        endpoint.transport()
    ))?;
    let log: Value = serde_json::from_str(&log)
        .map_err(|e| format!("nvme discover does not print JSON: {e}\n{log}"))?;
    let records = log["records"]
        .as_array()
        .ok_or(format!("the discovery log has no records: {log}"))?;
    let mut ports = Vec::new();
    for record in records
        .iter()
        .filter(|record| record["subnqn"] == target.nqn.as_str())
    {
        expect("subtype", &record["subtype"], &"nvme subsystem".into())?;
        expect("trtype", &record["trtype"], &"tcp".into())?;
        expect("adrfam", &record["adrfam"], &"ipv4".into())?;
        expect("traddr", &record["traddr"], &"127.0.0.1".into())?;
        ports.push(number("trsvcid", &record["trsvcid"])?);
    }
    ports.sort_unstable();
    let mut right = target.ports.map(u64::from);
    right.sort_unstable();
    if ports != right {
        return Err(format!(
            "the discovery log has the ports {ports:?}; right would be {right:?}: {log}"
        ));
    }

    let (status, output) = context
        .guest
        .start(&format!(
            "nvme connect {} --nqn=nqn.2026-11.io.polldm:nobody",
            endpoint.transport()
        ))?
        .finish()?;
    if status == 0 {
        return Err(format!(
            "a subsystem that does not exist could be connected to: {output}"
        ));
    }
    // The refusal has not hurt the target.
    context.connect(&target, "")?.close()?;
    target.terminate()
}

/// Identify, log pages and features answer, and their contents agree with the devices beneath and with each other.
pub fn identify_and_logs(context: &Context<'_>) -> Result<(), String> {
    let guest = context.guest;
    let mut target = context.target(
        "administration",
        &[
            Volume::new("memory", Backing::Malloc, 512, 64),
            Volume::new("file", Backing::File, 4096, 32),
        ],
    )?;
    let connection = context.connect(&target, "")?;
    let controller = connection.controller()?;
    let (first, second) = (connection.device(1)?, connection.device(2)?);
    let json = |command: &str| -> Result<Value, String> {
        let output = guest.run(&format!("nvme {command} --output-format=json"))?;
        serde_json::from_str(&output)
            .map_err(|e| format!("nvme {command} does not print JSON: {e}\n{output}"))
    };

    let id = json(&format!("id-ctrl {controller}"))?;
    expect("subnqn", &id["subnqn"], &target.nqn.as_str().into())?;
    expect("sqes", &id["sqes"], &0x66.into())?;
    expect("cqes", &id["cqes"], &0x44.into())?;
    at_least("nn", &id["nn"], 2)?;
    at_least("kas", &id["kas"], 1)?;
    at_least("maxcmd", &id["maxcmd"], 128)?;
    // NVMe 2.0, and the in-capsule data that hosts get: at least 8 KiB beside the 64-byte command, in 16-byte units.
    at_least("ver", &id["ver"], 0x2_0000)?;
    at_least("ioccsz", &id["ioccsz"], (64 + 8192) / 16)?;
    // Compare, Dataset Management, Write Zeroes; namespace attribute notices.
    has_bits("oncs", &id["oncs"], 0b0000_1101)?;
    has_bits("oaes", &id["oaes"], 1 << 8)?;

    for (device, block_size, mib) in [(&first, 512, 64), (&second, 4096, 32)] {
        let id = json(&format!("id-ns {device}"))?;
        let blocks = mib * MIB / block_size;
        expect("nsze", &id["nsze"], &blocks.into())?;
        expect("ncap", &id["ncap"], &blocks.into())?;
        let format = id["flbas"].as_u64().unwrap_or(u64::MAX) & 0xf;
        let format = &id["lbafs"][usize::try_from(format).unwrap_or(usize::MAX)];
        expect(
            "the LBA format's ds",
            &format["ds"],
            &block_size.ilog2().into(),
        )?;
        expect("the LBA format's ms", &format["ms"], &0.into())?;
    }
    let namespaces = json(&format!("list-ns {controller}"))?;
    expect(
        "list-ns",
        &namespaces["nsid_list"],
        &serde_json::json!([{ "nsid": 1 }, { "nsid": 2 }]),
    )?;

    // The kernel has taken over what the controller says of its cache, and the controller's own word is the same.
    let cache = guest.run(&format!(
        "cat /sys/block/{}/queue/write_cache",
        second.trim_start_matches("/dev/")
    ))?;
    let has_cache = id["vwc"].as_u64().unwrap_or_default() & 1 == 1;
    let said = if has_cache {
        "write back"
    } else {
        "write through"
    };
    expect(
        "the kernel's idea of the write cache",
        &cache.trim().into(),
        &said.into(),
    )?;

    // The SMART log counts what the host does: 64 commands of 1 MiB.
    let before = json(&format!("smart-log {controller}"))?;
    guest.run(&format!(
        "dd if=/dev/zero of={first} bs=1M count=32 oflag=direct status=none"
    ))?;
    guest.run(&format!(
        "dd if={first} of=/dev/null bs=1M count=32 iflag=direct status=none"
    ))?;
    let after = json(&format!("smart-log {controller}"))?;
    // A data unit is 1,000 blocks of 512 bytes, rounded up.
    for (counter, growth) in [
        ("data_units_written", 65),
        ("data_units_read", 65),
        ("host_write_commands", 32),
        ("host_read_commands", 32),
    ] {
        let (before, after) = (
            number(counter, &before[counter])?,
            number(counter, &after[counter])?,
        );
        if after < before + growth {
            return Err(format!(
                "{counter} went from {before} to {after} over 32 MiB; at least {growth} more are right"
            ));
        }
    }
    expect("critical_warning", &after["critical_warning"], &0.into())?;

    for command in [
        "error-log",
        "fw-log",
        "effects-log",
        "changed-ns-list-log",
        // The properties of a fabrics controller: CAP, VS, CC and CSTS.
        "get-property --offset=0x0",
        "get-property --offset=0x8",
        "get-property --offset=0x14",
        "get-property --offset=0x1c",
        "get-feature --feature-id=0x01",
        "get-feature --feature-id=0x06",
        "get-feature --feature-id=0x07",
        "get-feature --feature-id=0x0b",
        "get-feature --feature-id=0x0f",
        "set-feature --feature-id=0x0f --value=0x2710",
    ] {
        let (verb, options) = command.split_once(' ').unwrap_or((command, ""));
        guest.run(&format!("nvme {verb} {controller} {options}"))?;
    }
    let descriptors = guest.run(&format!("nvme ns-descs {first}"))?;
    if !descriptors.contains("nguid") && !descriptors.contains("uuid") {
        return Err(format!("the namespace has no identifier: {descriptors}"));
    }
    // What does not exist is refused, and harms nothing.
    for command in [
        "get-feature --feature-id=0x7f",
        "get-log --log-id=0x7f --log-len=64",
        "admin-passthru --opcode=0x7f",
    ] {
        let (verb, options) = command.split_once(' ').unwrap_or((command, ""));
        let (status, output) = guest
            .start(&format!("nvme {verb} {controller} {options}"))?
            .finish()?;
        if status == 0 {
            return Err(format!("nvme {command} succeeded: {output}"));
        }
    }
    guest.run(&format!(
        "nvme flush {first} && nvme id-ctrl {controller} >/dev/null"
    ))?;
    connection.close()?;
    target.terminate()
}

/// `nvme reset` while fio writes and verifies: the host sends again what was in flight, and every byte is right.
pub fn reset_under_load(context: &Context<'_>) -> Result<(), String> {
    let mut target = context.target(
        "reset",
        &[Volume::new("memory", Backing::Malloc, 4096, 128)],
    )?;
    let connection = context.connect(&target, "")?;
    let controller = connection.controller()?;
    let writes = start_endless_writes(context.guest, &connection.device(1)?)?;
    for _ in 0..RESETS {
        await_progress(&target, "memory")?;
        context.guest.run(&format!("nvme reset {controller}"))?;
        connection.await_state("live")?;
    }
    await_progress(&target, "memory")?;
    writes.stop()?;
    connection.close()?;
    target.terminate()
}

fn expect(what: &str, found: &Value, right: &Value) -> Result<(), String> {
    if found == right {
        Ok(())
    } else {
        Err(format!("{what} is {found}; right would be {right}"))
    }
}

/// nvme-cli prints 128-bit counters as numbers or as strings, by version.
fn number(what: &str, value: &Value) -> Result<u64, String> {
    value
        .as_u64()
        .or_else(|| {
            value
                .as_str()
                .and_then(|text| text.replace(',', "").parse().ok())
        })
        .ok_or(format!("{what} is {value}, not a number"))
}

fn at_least(what: &str, value: &Value, least: u64) -> Result<(), String> {
    let found = number(what, value)?;
    if found >= least {
        Ok(())
    } else {
        Err(format!("{what} is {found}; at least {least} is right"))
    }
}

fn has_bits(what: &str, value: &Value, bits: u64) -> Result<(), String> {
    let found = number(what, value)?;
    if found & bits == bits {
        Ok(())
    } else {
        Err(format!(
            "{what} is {found:#b}; the bits {bits:#b} must be set"
        ))
    }
}
