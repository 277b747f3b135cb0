//! What cannot be: each is one clear error before anything is served, and nothing is left running.

use std::fs;

use crate::alone;
use crate::process::Served;

/// A configuration of the SPDK engine with one device, in which `engine` stands for the engine's part.
fn configuration(engine: &str, bdev: &str) -> String {
    format!(
        "\
{engine}
bdevs:
  - {bdev}
devices:
  - {{ name: vol0, table: \"0 8 linear a 0\" }}
"
    )
}

const NULL: &str = "null: { name: a, size: 1MiB }";
const WITHOUT_HUGEPAGES: &str = "engine: spdk\nspdk: { hugepages: off }\nreactors: { count: 1 }";

#[test]
fn what_the_machine_has_not() {
    let _alone = alone();
    for (engine, bdev, error) in [
        (
            "engine: spdk\nspdk: { memory: 1TiB }",
            NULL,
            "SPDK needs 1048576 MiB of hugepages and ",
        ),
        (
            "engine: spdk\nspdk: { hugepages: off }\nreactors: { cores: [1023] }",
            NULL,
            "CPU 1023 is not one this process may run on",
        ),
        (
            WITHOUT_HUGEPAGES,
            "malloc: { name: a, size: 1TiB }",
            "SPDK's bdev_malloc_create says: Cannot allocate memory; `spdk: { memory: … }` says how much SPDK has",
        ),
        (
            "engine: spdk\nspdk: { hugepages: off, rpc: /nonexistent/spdk.sock }\nreactors: { count: 1 }",
            NULL,
            // SPDK's own words, without which nobody would know.
            "Unable to start RPC service at /nonexistent/spdk.sock",
        ),
    ] {
        let complaints = Served::refused(&configuration(engine, bdev));
        assert!(complaints.contains(error), "{complaints}");
    }
}

/// A kind of bdev that only the other engine has, or a key that it does not obey.
#[test]
fn what_the_other_engine_has() {
    let _alone = alone();
    for (engine, bdev, error) in [
        (
            "engine: native",
            "spdk-json: { name: a, bdev: b }",
            "bdev `a` is of a kind that only SPDK has",
        ),
        (
            "engine: native",
            "nvme: { name: a, tcp: \"127.0.0.1:4420\", nqn: nqn.2026-11.io.polldm:x }",
            "bdev `a` is of a kind that only SPDK has",
        ),
        (
            WITHOUT_HUGEPAGES,
            "file: { name: a, path: /nonexistent, direct: off }",
            "`direct: off` is the native engine's",
        ),
    ] {
        let complaints = Served::refused(&configuration(engine, bdev));
        assert!(complaints.contains(error), "{complaints}");
        assert!(complaints.contains("polldm.yaml:"), "{complaints}");
    }
}

/// A device on the PCI bus that the kernel has, or nobody: of those that are here, whatever they are.
#[test]
fn a_pci_device_without_a_user_space_driver() {
    let _alone = alone();
    let devices = fs::read_dir("/sys/bus/pci/devices").into_iter().flatten();
    let unbound = devices.flatten().find(|device| {
        let driver = fs::read_link(device.path().join("driver")).unwrap_or_default();
        let driver = driver
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        !driver.contains("vfio") && !driver.contains("uio")
    });
    let Some(device) = unbound else {
        // A machine without a PCI bus has no device that could be bound wrongly.
        return;
    };
    let address = device.file_name().to_string_lossy().into_owned();
    let bdev = format!("nvme: {{ name: a, pcie: \"{address}\" }}");
    let complaints = Served::refused(&configuration(WITHOUT_HUGEPAGES, &bdev));
    let error = format!("SPDK cannot have the PCI device {address}: ");
    assert!(complaints.contains(&error), "{complaints}");
    assert!(complaints.contains("vfio-pci"), "{complaints}");
}

/// A second SPDK on the CPU of the first does not start, and says in SPDK's words why.
#[test]
fn a_cpu_that_another_spdk_has() {
    let _alone = alone();
    let first = Served::start(&configuration(WITHOUT_HUGEPAGES, NULL));
    let complaints = Served::refused(&configuration(WITHOUT_HUGEPAGES, NULL));
    assert!(complaints.contains("SPDK did not start"), "{complaints}");
    assert!(complaints.contains("has claimed it"), "{complaints}");
    assert_eq!(first.end(), Some(0));
}
