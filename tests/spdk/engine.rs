//! More of the engine than one reactor over malloc bdevs: two reactors, a remote of the native engine's kind, and bdevs that SPDK makes from
//! a configuration of its own.

use std::fs;
use std::io::Write;

use crate::commands::connect;
use crate::process::{Load, Served, free_port, polldm};
use crate::{NQN, alone, configuration, is_clean, target};

/// Two reactors, whose mappers swap a device's tables together while hosts of both write, over a remote disk that the native engine's kind of
/// bdev names. A stop ends what both have parked.
#[test]
fn two_reactors_over_a_remote_swap_under_load() {
    let _alone = alone();
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        // Past the test harness, which would keep it to itself.
        let _ = writeln!(std::io::stderr(), "skipped: there is one CPU only");
        return;
    }
    let (far_port, port) = (free_port(), free_port());
    let far = format!(
        "\
reactors: {{ count: 1 }}
bdevs:
  - malloc: {{ name: ram0, size: 16MiB, block_size: 4096 }}
devices:
  - {{ name: disk0, table: \"0 32768 linear ram0 0\" }}
exports:
  nvmf:
    listeners: [ \"127.0.0.1:{far_port}\" ]
    subsystems:
      - {{ nqn: \"{NQN}-far\", hosts: any, namespaces: [ {{ nsid: 1, device: disk0 }} ] }}
"
    );
    let far = Served::start(&far);
    let bdev = format!(
        "  - nvme-tcp: {{ name: far, address: \"127.0.0.1:{far_port}\", nqn: \"{NQN}-far\", nsid: 1 }}"
    );
    let text = configuration(port, &bdev, "0 32768 linear far 0").replace("count: 1", "count: 2");
    let served = Served::start(&text);
    let load = |time, verify: &[&str]| {
        let target = target(port);
        let mut arguments = vec!["bench", &target, "--rw", "randrw", "--jobs", "4", "--time"];
        arguments.push(time);
        arguments.extend(verify);
        Load::start(&arguments)
    };
    let verified = load("4s", &["--verify", "--flush-every", "64"]);
    let mut swaps = 0;
    while !verified.has_ended() {
        let table = match swaps % 2 {
            0 => "0 32768 striped 1 8 far 0",
            _ => "0 32768 linear far 0",
        };
        served.told(&["dm", "swap", "vol0", "--table", table]);
        swaps += 1;
    }
    let report = verified.end();
    assert!(is_clean(&report), "{report}");
    assert!(swaps > 3, "{swaps} swaps");

    // It would go on for long; the stop ends it.
    let parked = load("60s", &[]);
    served.wait_for(&["stats", "vol0"], |stats| {
        !stats.contains("vol0            0 ")
    });
    served.told(&["dm", "suspend", "vol0"]);
    assert_eq!(served.end(), Some(0));
    let complaints = parked.fails();
    assert!(complaints.contains("closed"), "{complaints}");
    assert_eq!(far.end(), Some(0));
}

/// A bdev that polldm has no kind for is made by SPDK's own methods, and maps as any other.
#[test]
fn a_raid_of_spdk_is_mapped() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("raid.json");
    fs::write(
        &config,
        r#"{ "subsystems": [ { "subsystem": "bdev", "config": [
            { "method": "bdev_malloc_create", "params": { "name": "leg0", "num_blocks": 4096, "block_size": 4096 } },
            { "method": "bdev_malloc_create", "params": { "name": "leg1", "num_blocks": 4096, "block_size": 4096 } },
            { "method": "bdev_raid_create",
              "params": { "name": "Raid0", "raid_level": "raid0", "strip_size_kb": 64, "base_bdevs": [ "leg0", "leg1" ] } }
        ] } ] }"#,
    )
    .expect("written");
    let port = free_port();
    let bdev = format!(
        "  - spdk-json: {{ name: pair, bdev: Raid0, config: \"{}\" }}",
        config.display()
    );
    let served = Served::start(&configuration(port, &bdev, "0 65536 linear pair 0"));
    let report = polldm(&[
        "bench",
        &target(port),
        "--rw",
        "randrw",
        "--time",
        "1s",
        "--verify",
    ]);
    assert!(is_clean(&report), "{report}");
    assert_eq!(served.end(), Some(0));
}

/// SPDK's modules look for what is theirs at what a configuration of SPDK's own makes, and at nothing else: a disk whose contents are a store of logical
/// volumes gives these when it is named so, and is a disk when it is not.
#[test]
fn only_what_a_configuration_makes_is_examined() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let disk = directory.path().join("disk");
    let file = fs::File::create(&disk).expect("a file");
    file.set_len(64 << 20).expect("room");
    let store = serde_json::json!([
        { "method": "bdev_lvol_create_lvstore", "params": { "bdev_name": "disk", "lvs_name": "store" } },
        { "method": "bdev_lvol_create", "params": { "lvol_name": "volume", "size_in_mib": 16, "lvs_name": "store" } }
    ]);
    let aio = serde_json::json!({
        "method": "bdev_aio_create", "params": { "name": "disk", "filename": disk, "block_size": 4096 }
    });
    for (name, more) in [("made", store), ("found", serde_json::json!([]))] {
        let mut entries = vec![aio.clone()];
        entries.extend(more.as_array().expect("a list").iter().cloned());
        let config = directory.path().join(name);
        let text =
            serde_json::json!({ "subsystems": [ { "subsystem": "bdev", "config": entries } ] });
        fs::write(&config, text.to_string()).expect("written");
        let bdev = format!(
            "  - spdk-json: {{ name: volume, bdev: store/volume, config: \"{}\" }}",
            config.display()
        );
        let text = configuration(free_port(), &bdev, "0 32768 linear volume 0");
        assert_eq!(Served::start(&text).end(), Some(0), "{name}");
    }
    let bdev = format!(
        "  - file: {{ name: disk, path: {}, block_size: 4096 }}",
        disk.display()
    );
    let text = configuration(free_port(), &bdev, "0 32768 linear disk 0");
    assert_eq!(Served::start(&text).end(), Some(0));
}

/// A host unmaps 2 TiB at once, which are more sectors than the mapper counts in one I/O.
#[test]
fn two_tebibytes_are_unmapped_at_once() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let (disk, config) = (
        directory.path().join("disk"),
        directory.path().join("config"),
    );
    let file = fs::File::create(&disk).expect("a file");
    file.set_len(3 << 40).expect("a file with a hole");
    let aio = serde_json::json!({ "name": "disk", "filename": disk, "block_size": 4096, "fallocate": true });
    let method = serde_json::json!([ { "method": "bdev_aio_create", "params": aio } ]);
    let text = serde_json::json!({ "subsystems": [ { "subsystem": "bdev", "config": method } ] });
    fs::write(&config, text.to_string()).expect("written");
    let bdev = format!(
        "  - spdk-json: {{ name: large, bdev: disk, config: \"{}\" }}",
        config.display()
    );
    let port = free_port();
    let text = configuration(port, &bdev, "0 6442450944 linear large 0");
    let served = Served::start(&text);
    let (_controller, mut queue) = connect(port);
    queue.deallocate(1, &[(0, 1 << 29)]).expect("unmapped");
    assert_eq!(served.end(), Some(0));
}
