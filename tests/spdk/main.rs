//! The SPDK engine as its users run it: `polldm serve` on SPDK's reactors, hosts over NVMe/TCP, remote disks that go away. In builds with the
//! feature `spdk`, which is where SPDK is installed; needs neither hugepages nor an NVMe device.
//!
//! SPDK takes a CPU for itself and can be started once in a process, so every test starts processes, one test at a time.

#![cfg(feature = "spdk")]

mod commands;
mod engine;
mod exports;
mod flushes;
mod initiator;
mod iscsi;
mod passing;
#[allow(dead_code, reason = "tests/stories uses the rest")]
mod process;
mod programs;
mod refusals;
mod stops;
mod tools;
mod vfio_user;
mod zeroes;

use std::sync::Mutex;

use process::{Served, free_port, polldm};

/// SPDK locks the CPUs that it polls on: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

const NQN: &str = "nqn.2026-11.io.polldm:spdk";

/// A configuration of the SPDK engine without hugepages, whose device `vol0` hosts reach at `port`.
fn configuration(port: u16, bdevs: &str, table: &str) -> String {
    format!(
        "\
engine: spdk
spdk: {{ hugepages: off }}
reactors: {{ count: 1 }}
bdevs:
{bdevs}
devices:
  - name: vol0
    table: |
      {table}
exports:
  nvmf:
    listeners: [ \"127.0.0.1:{port}\" ]
    subsystems:
      - nqn: {NQN}
        hosts: any
        namespaces: [ {{ nsid: 1, device: vol0 }} ]
"
    )
}

/// Whether NVMe bdevs of this SPDK send flushes when they are told to; says so if they do not.
fn can_switch_flushes_on() -> bool {
    if !spdk_sys::HAS_NVME_FLUSH {
        println!("left out: NVMe bdevs of this SPDK have no `enable_flush`");
    }
    spdk_sys::HAS_NVME_FLUSH
}

/// The target of a load.
fn target(port: u16) -> String {
    format!("nvme-tcp://127.0.0.1:{port}/{NQN}")
}

/// What a load reports when nothing failed and everything that was read had been written.
fn is_clean(report: &str) -> bool {
    report.contains("errors  0\n") && report.contains(", 0 mismatches")
}

/// A device that crosses from one bdev into another: what is written is read, flushes end, and it ends when it is told to.
#[test]
fn a_host_writes_reads_and_flushes() {
    let _alone = alone();
    let port = free_port();
    let bdevs = "  - malloc: { name: ram0, size: 16MiB, block_size: 4096, volatile_cache: true }
  - malloc: { name: ram1, size: 16MiB, block_size: 4096 }";
    let table = "0 32768 linear ram0 0\n      32768 32768 linear ram1 0";
    let served = Served::start(&configuration(port, bdevs, table));
    // Of 28 KiB, so that some cross from one bdev into the other.
    let report = polldm(&[
        "bench",
        &target(port),
        "--rw",
        "randrw",
        "--bs",
        "28k",
        "--time",
        "2s",
        "--verify",
        "--flush-every",
        "16",
    ]);
    assert!(is_clean(&report), "{report}");
    let stats = served.told(&["stats", "vol0"]);
    assert!(stats.contains("flush"), "{stats}");
    let exports = served.told(&["export", "ls"]);
    assert!(exports.contains("namespace 1: vol0"), "{exports}");
    assert_eq!(served.end(), Some(0));
}

/// AT-1 and AT-11 on this engine: a table is swapped again and again under a verified load; hosts see no error.
#[test]
fn tables_are_swapped_under_load() {
    let _alone = alone();
    let port = free_port();
    let bdevs = "  - malloc: { name: ram0, size: 32MiB, block_size: 4096 }";
    let table = "0 65536 linear ram0 0";
    let served = Served::start(&configuration(port, bdevs, table));
    let load = process::Load::start(&[
        "bench",
        &target(port),
        "--rw",
        "randrw",
        "--time",
        "4s",
        "--verify",
    ]);
    let mut swaps = 0;
    while !load.has_ended() {
        let table = match swaps % 2 {
            0 => "0 65536 striped 1 8 ram0 0",
            _ => "0 65536 linear ram0 0",
        };
        served.told(&["dm", "swap", "vol0", "--table", table]);
        swaps += 1;
    }
    let report = load.end();
    assert!(is_clean(&report), "{report}");
    assert!(swaps > 3, "{swaps} swaps");
    assert_eq!(served.end(), Some(0));
}

/// A remote disk's only path is pulled, by killing its target; another target of the same disk comes in and the table is swapped to it,
/// noflush. The host sees latency and no error, and reads what it wrote.
#[test]
fn a_path_is_pulled_and_replaced_under_load() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let disk = directory.path().join("disk.img");
    let remote = |port: u16| {
        format!(
            "\
reactors: {{ count: 1 }}
bdevs:
  - file: {{ name: disk, path: {}, size: 32MiB, block_size: 4096 }}
devices:
  - name: disk0
    table: 0 65536 linear disk 0
exports:
  nvmf:
    listeners: [ \"127.0.0.1:{port}\" ]
    subsystems:
      - nqn: nqn.2026-11.io.polldm:remote{port}
        hosts: any
        namespaces: [ {{ nsid: 1, device: disk0 }} ]
",
            disk.display()
        )
    };
    let (first, second, port) = (free_port(), free_port(), free_port());
    let mut near = Served::start(&remote(first));
    let bdevs = format!(
        "  - nvme: {{ name: first, tcp: \"127.0.0.1:{first}\", nqn: nqn.2026-11.io.polldm:remote{first} }}"
    );
    let paths =
        |path: &str| format!("0 65536 multipath 1 queue_if_no_path 0 1 1 round-robin 0 1 0 {path}");
    let served = Served::start(&configuration(port, &bdevs, &paths("first")));
    let bdev = served.told(&["bdev", "ls"]);
    assert!(bdev.contains("nvme"), "{bdev}");
    let load = process::Load::start(&[
        "bench",
        &target(port),
        "--rw",
        "randrw",
        "--time",
        "8s",
        "--verify",
        "--flush-every",
        "64",
    ]);
    // It has begun once the remote disk was written to.
    served.wait_for(&["stats", "vol0"], |stats| stats.contains("write"));
    near.kill();
    // The path has failed when the multipath says so: `F`, in its status.
    served.wait_for(&["dm", "status", "vol0"], |status| status.contains(" F "));
    let far = Served::start(&remote(second));
    served.told(&[
        "bdev",
        "add",
        "nvme",
        "name=second",
        &format!("tcp=127.0.0.1:{second}"),
        &format!("nqn=nqn.2026-11.io.polldm:remote{second}"),
    ]);
    served.told(&["dm", "swap", "vol0", "--table", &paths("second")]);
    let report = load.end();
    assert!(is_clean(&report), "{report}");
    served.told(&["bdev", "remove", "first"]);
    assert_eq!(served.end(), Some(0));
    assert_eq!(far.end(), Some(0));
}

/// What is wrong is said once, where it is written, before anything is served.
#[test]
fn bad_input_is_one_clear_error() {
    let _alone = alone();
    let port = free_port();
    let table = "0 8 linear a 0";
    for (bdev, error) in [
        (
            "spdk-json: { name: a, bdev: Raid0 }",
            "SPDK has no bdev 'Raid0'",
        ),
        (
            "nvme: { name: a, pcie: \"ffff:ff:1f.7\" }",
            "there is no PCI device ffff:ff:1f.7",
        ),
        (
            "spdk-json: { name: a, bdev: x, config: /nonexistent/x.json }",
            "/nonexistent/x.json: cannot be read",
        ),
    ] {
        let text = configuration(port, &format!("  - {bdev}"), table);
        let complaints = Served::refused(&text);
        assert!(complaints.contains(error), "{complaints}");
        assert!(complaints.contains("polldm.yaml:"), "{complaints}");
    }
}
