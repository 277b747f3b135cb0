//! A mapped device as an NVMe controller that polldm emulates (vfio-user), and what is refused where SPDK was built without it, or without RDMA.

use polldm::spdk::{HAS_RDMA, HAS_VFIO_USER};

use super::process::Served;
use super::programs::{MEMORY_MIB, cpu, program};
use super::{NQN, alone};

/// A device whose only export is this.
fn configuration(nvmf: &str, subsystem: &str) -> String {
    format!(
        "\
engine: spdk
spdk: {{ hugepages: off }}
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
    let text = configuration("listeners: []", &vfio_user);
    let transport = format!("trtype:VFIOUSER traddr:{} subnqn:{NQN}", place.display());
    let mut served = Served::start(&text);
    for round in 0..3 {
        let mut perf = program("spdk_nvme_perf").expect("it was there");
        perf.args(["--no-huge", "-s", MEMORY_MIB, "-c", &format!("[{}]", cpu())])
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
    let vfio_user = configuration("listeners: []", "vfio_user: vol0,");
    let rdma = configuration("listeners: []\n    rdma: [ \"127.0.0.1:4420\" ]", "");
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
