//! SPDK's own programs as hosts of a mapped device: what they find, read, write and verify over NVMe/TCP.

use std::path::{Path, PathBuf};
use std::process::Command;

use polldm::reactor::available_cpus;

use super::process::{Served, free_port};
use super::programs::{MEMORY_MIB, cpu, program};
use super::{NQN, alone, can_switch_flushes_on, configuration};

/// Runs a program to its end, which must be a success: what it says.
fn run(mut command: Command) -> String {
    let output = command.output().expect("it can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// The target as SPDK's programs name it.
fn transport(port: u16) -> String {
    format!("trtype:TCP adrfam:IPv4 traddr:127.0.0.1 trsvcid:{port} subnqn:{NQN}")
}

/// A device with blocks of 512 bytes, of two bdevs, one with a cache.
fn serve(port: u16) -> Served {
    let bdevs = "  - malloc: { name: ram0, size: 32MiB, block_size: 512, volatile_cache: true }
  - malloc: { name: ram1, size: 32MiB, block_size: 512 }";
    let table = "0 65536 linear ram0 0\n      65536 65536 linear ram1 0";
    Served::start(&configuration(port, bdevs, table))
}

/// I/Os of a kind that the device has had; none of any kind has failed.
fn count(served: &Served, operation: &str) -> u64 {
    let stats: serde_json::Value =
        serde_json::from_str(&served.told(&["stats", "--json"])).expect("JSON");
    let operations = stats["devices"][0]["operations"]
        .as_array()
        .expect("a list");
    assert!(operations.iter().all(|one| one["errors"] == 0), "{stats}");
    let one = operations.iter().find(|one| one["operation"] == operation);
    one.expect("it is counted")["ios"]
        .as_u64()
        .expect("a number")
}

/// What a host is told of the device is true: its size and blocks, that it has a cache and can flush, and no promise of atomic writes that nothing beneath keeps.
#[test]
fn spdk_nvme_identify_is_told_the_truth() {
    let Some(mut identify) = program("spdk_nvme_identify") else {
        return;
    };
    let mut usage = program("spdk_nvme_identify").expect("it is there");
    let usage = usage.arg("-h").output().expect("it can be run");
    let usage = [usage.stdout, usage.stderr].concat();
    if !String::from_utf8_lossy(&usage).contains("--no-huge") {
        println!("skipped: this spdk_nvme_identify wants hugepages");
        return;
    }
    let _alone = alone();
    let port = free_port();
    let served = serve(port);
    identify.args(["--no-huge", "-s", MEMORY_MIB, "-r", &transport(port)]);
    let text = run(identify);
    let said = |key: &str, value: &str| {
        let lines = text.lines().filter_map(|line| line.trim().split_once(':'));
        let values: Vec<&str> = lines
            .filter(|(left, _)| *left == key)
            .map(|(_, right)| right.trim())
            .collect();
        let is_so = !values.is_empty() && values.iter().all(|found| found.starts_with(value));
        assert!(is_so, "{key}: {value} is expected, in {text}");
    };
    said("Subsystem NQN", NQN);
    said("Volatile Write Cache", "Present");
    said("Flush", "Supported");
    said("Size (in LBAs)", "131072");
    said("Current LBA Format", "LBA Format #00");
    said("LBA Format #00", "Data Size:   512");
    said("Atomic Write Unit (PFail)", "1");
    assert_eq!(served.end(), Some(0));
}

/// Reads, writes and both, small and large, few and many at once.
#[test]
fn spdk_nvme_perf_has_no_error() {
    let _alone = alone();
    let port = free_port();
    let served = serve(port);
    for (workload, depth, bytes) in [
        ("randread", "32", "4096"),
        ("randwrite", "128", "512"),
        ("randrw", "16", "65536"),
        ("rw", "4", "1048576"),
    ] {
        let Some(mut perf) = program("spdk_nvme_perf") else {
            return;
        };
        perf.args(["--no-huge", "-s", MEMORY_MIB, "-c", &format!("[{}]", cpu())])
            .args([
                "-t", "1", "-M", "50", "-w", workload, "-q", depth, "-o", bytes,
            ])
            .args(["-r", &transport(port)]);
        let text = run(perf);
        assert!(!text.contains("completed with error"), "{workload}: {text}");
        assert!(text.contains("NSID 1"), "{workload}: {text}");
    }
    assert!(count(&served, "read") > 0 && count(&served, "write") > 0);
    assert_eq!(served.end(), Some(0));
}

/// SPDK's NVMe bdev over the device, as a file in SPDK's form.
fn attach(directory: &Path, port: u16) -> PathBuf {
    let options = match can_switch_flushes_on() {
        true => serde_json::json!({ "enable_flush": true }),
        false => serde_json::json!({}),
    };
    let config = serde_json::json!({ "subsystems": [ { "subsystem": "bdev", "config": [
        { "method": "bdev_nvme_set_options", "params": options },
        { "method": "bdev_nvme_attach_controller", "params": {
            "name": "mapped", "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1",
            "trsvcid": port.to_string(), "subnqn": NQN
        } }
    ] } ] });
    let file = directory.join("attach.json");
    std::fs::write(&file, config.to_string()).expect("a file");
    file
}

/// The options of a program that is an application of SPDK's.
fn application(command: &mut Command, config: &Path) {
    command
        .args(["--no-huge", "-s", MEMORY_MIB, "--no-pci"])
        .args(["--disable-cpumask-locks", "--silence-noticelog", "--json"])
        .arg(config);
}

/// What was written is read, from an NVMe bdev over the device; the other kinds of I/O end well, too.
#[test]
fn bdevperf_verifies() {
    let _alone = alone();
    let port = free_port();
    let served = serve(port);
    let directory = tempfile::tempdir().expect("a directory");
    let config = attach(directory.path(), port);
    for (workload, depth, bytes) in [
        ("verify", "32", "4096"),
        ("verify", "8", "65536"),
        ("unmap", "4", "4096"),
        ("write_zeroes", "4", "65536"),
        ("flush", "4", "4096"),
    ] {
        let Some(mut bdevperf) = program("bdevperf") else {
            return;
        };
        application(&mut bdevperf, &config);
        bdevperf
            .args(["-m", &format!("[{}]", cpu())])
            .args(["-t", "1", "-w", workload, "-q", depth, "-o", bytes]);
        let text = run(bdevperf);
        assert!(text.contains(&format!("workload: {workload}")), "{text}");
    }
    assert!(count(&served, "discard") > 0);
    assert!(count(&served, "flush") > 0 || !can_switch_flushes_on());
    assert_eq!(served.end(), Some(0));
}

/// SPDK's tests of a bdev, on an NVMe bdev over the device: boundaries, vectors, compare-and-write, passthrough, reset.
#[test]
fn bdevio_passes() {
    let Some(mut bdevio) = program("bdevio") else {
        return;
    };
    let _alone = alone();
    let port = free_port();
    let served = serve(port);
    let directory = tempfile::tempdir().expect("a directory");
    application(&mut bdevio, &attach(directory.path(), port));
    // It polls on three CPUs, or on one that is said to be three.
    if available_cpus().expect("CPUs").len() < 3 {
        let cpu = cpu();
        bdevio.args(["--lcores", &format!("0@{cpu},1@{cpu},2@{cpu}")]);
    }
    let output = bdevio.output().expect("it can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    if text.contains("lcore map and core mask can't be set simultaneously") {
        println!("skipped: this bdevio wants three CPUs");
        return;
    }
    assert!(output.status.success(), "{text}");
    assert!(
        !text.contains("FAILED") && text.contains("...passed"),
        "{text}"
    );
    assert_eq!(served.end(), Some(0));
}
