//! A mapped device as an NVMe controller that polldm emulates (vfio-user), and what is refused where SPDK was built without it, or without RDMA.

use std::fs;
use std::path::PathBuf;

use polldm::spdk::{HAS_RDMA, HAS_VFIO_USER};

use super::process::Served;
use super::programs::{MEMORY_MIB, cpu, program};
use super::{NQN, alone};

/// What polldm takes of hugepages, in mebibytes.
const POLLDM_MIB: u64 = 400;

/// A device whose only export is this.
fn configuration(memory: &str, nvmf: &str, subsystem: &str) -> String {
    format!(
        "\
engine: spdk
spdk: {{ {memory} }}
reactors: {{ count: 1 }}
bdevs:
  - malloc: {{ name: ram0, size: 32MiB, block_size: 4096 }}
devices:
  - {{ name: vol0, table: \"0 65536 linear ram0 0\" }}
exports:
  nvmf:
    {nvmf}
    subsystems:
      - {{ nqn: {NQN}, hosts: any, {subsystem} namespaces: [ {{ nsid: 1, device: vol0 }} ] }}
"
    )
}

/// SPDK's own host finds the device by vfio-user, reads and writes; the directory can be used again after a kill, and after an end.
#[test]
fn a_host_finds_an_emulated_controller() {
    finds_an_emulated_controller("hugepages: off", &["--no-huge"]);
}

/// The same with hugepages on both sides, where this machine has them; the host has to put its own into one file.
#[test]
fn a_host_with_hugepages_finds_an_emulated_controller() {
    let hosts_mib: u64 = MEMORY_MIB.parse().expect("a number");
    if !have_hugepages(POLLDM_MIB + hosts_mib) {
        return;
    }
    finds_an_emulated_controller(&format!("memory: {POLLDM_MIB}MiB"), &["--mem-single-seg"]);
}

/// What polldm shares with a controller that another process emulates is given back when it ends.
#[test]
fn hugepages_that_were_shared_are_given_back() {
    if !HAS_VFIO_USER || !have_hugepages(POLLDM_MIB) {
        return;
    }
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path().join("vol0");
    let vfio_user = format!("vfio_user: {},", place.display());
    let target = configuration("hugepages: off", "listeners: []", &vfio_user);
    let target = Served::start(&target);
    let host = format!(
        "\
engine: spdk
spdk: {{ memory: {POLLDM_MIB}MiB }}
reactors: {{ cores: [{}] }}
bdevs:
  - nvme: {{ name: far, vfio_user: {} }}
devices:
  - {{ name: vol0, table: \"0 65536 linear far 0\" }}
",
        cpu(),
        place.display()
    );
    let host = Served::start(&host);
    let of_host = format!("spdk_pid{}map_", host.id());
    let shared = || -> usize {
        let files = hugetlbfs()
            .into_iter()
            .filter_map(|at| fs::read_dir(at).ok());
        let names = files.flatten().flatten().map(|file| file.file_name());
        let own = names.filter(|name| name.to_string_lossy().starts_with(&of_host));
        own.count()
    };
    assert_ne!(shared(), 0, "it shares them");
    assert_eq!(host.end(), Some(0));
    assert_eq!(shared(), 0, "they are given back");
    assert_eq!(target.end(), Some(0));
}

/// Whether so many mebibytes of hugepages can be had; says so if they cannot.
fn have_hugepages(wanted_mib: u64) -> bool {
    let memory = fs::read_to_string("/proc/meminfo").expect("it is there on Linux");
    let value = |name: &str| -> u64 {
        let mut lines = memory.lines().filter_map(|line| line.strip_prefix(name));
        let words = lines.next().map(str::split_whitespace);
        let number = words.and_then(|mut words| words.next()?.parse().ok());
        number.unwrap_or(0)
    };
    let free_mib = value("HugePages_Free:") * value("Hugepagesize:") / 1024;
    let can_be_had = free_mib >= wanted_mib && !hugetlbfs().is_empty();
    if !can_be_had {
        println!("skipped: it takes {wanted_mib} MiB of hugepages, and a hugetlbfs");
    }
    can_be_had
}

/// Where hugepages are mounted.
fn hugetlbfs() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").expect("it is there on Linux");
    let lines = mounts.lines().filter(|line| line.contains(" hugetlbfs "));
    let places = lines.filter_map(|line| line.split(' ').nth(1));
    places.map(PathBuf::from).collect()
}

fn finds_an_emulated_controller(memory: &str, hosts_memory: &[&str]) {
    if !HAS_VFIO_USER {
        println!("skipped: this SPDK was built without vfio-user");
        return;
    }
    if program("spdk_nvme_perf").is_none() {
        return;
    }
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path().join("vol0");
    let vfio_user = format!("vfio_user: {},", place.display());
    let text = configuration(memory, "listeners: []", &vfio_user);
    let transport = format!("trtype:VFIOUSER traddr:{} subnqn:{NQN}", place.display());
    let mut served = Served::start(&text);
    for round in 0..3 {
        let mut perf = program("spdk_nvme_perf").expect("it was there");
        perf.args(hosts_memory)
            .args(["-s", MEMORY_MIB, "-c", &format!("[{}]", cpu())])
            .args(["-t", "1", "-M", "50", "-w", "randrw", "-q", "16"])
            .args(["-o", "8192", "-r", &transport]);
        let output = perf.output().expect("it can be run");
        let text_of = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = text_of(&output.stdout) + &text_of(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("NSID 1"), "{said}");
        assert!(!said.contains("completed with error"), "{said}");
        served.wait_for(&["stats", "vol0"], |stats| stats.contains("write"));
        let exports = served.told(&["export", "ls"]);
        assert!(exports.contains("vfio-user"), "{exports}");
        match round {
            0 => served.kill(),
            1 => assert_eq!(served.end(), Some(0)),
            _ => break,
        }
        served = Served::start(&text);
    }
    assert_eq!(served.end(), Some(0));
}

/// What SPDK was built without is refused in one sentence, before it is started.
#[test]
fn transports_that_are_not_there() {
    let _alone = alone();
    let vfio_user = configuration("hugepages: off", "listeners: []", "vfio_user: vol0,");
    let rdma = "listeners: []\n    rdma: [ \"127.0.0.1:4420\" ]";
    let rdma = configuration("hugepages: off", rdma, "");
    for (is_there, text, what) in [
        (HAS_VFIO_USER, &vfio_user, "vfio-user"),
        (HAS_RDMA, &rdma, "RDMA"),
    ] {
        let native = text.replace("engine: spdk\n", "engine: native\n");
        let complaints = Served::refused(&native);
        let error = format!("{what} is a transport that only SPDK has");
        assert!(complaints.contains(&error), "{complaints}");
        if !is_there {
            let complaints = Served::refused(text);
            let error = format!("the SPDK that this polldm was built with has no {what}");
            assert!(complaints.contains(&error), "{complaints}");
        }
    }
}
