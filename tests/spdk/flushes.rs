//! What a flush reaches, over bdevs that a configuration of SPDK's own makes. SPDK's bdev `error` beneath fails the flushes that it is sent, which shows
//! that they were.

use std::path::{Path, PathBuf};

use polldm::host::Payload;
use polldm::nvme::Status;
use polldm::nvme::command::Command;
use polldm::nvme::opcode::io;
use serde_json::{Value, json};

use crate::commands::{connect, status};
use crate::process::{Served, free_port};
use crate::{NQN, alone, can_switch_flushes_on, configuration};

/// Force unit access, in command dword 12 of a write of one block.
const FUA: u32 = 1 << 30;

/// A file in SPDK's form with these methods.
pub fn written(directory: &Path, entries: &[Value]) -> PathBuf {
    let file = directory.join("config.json");
    let text = json!({ "subsystems": [ { "subsystem": "bdev", "config": entries } ] });
    std::fs::write(&file, text.to_string()).expect("written");
    file
}

/// A bdev of SPDK's, as a configuration names it.
pub fn bdev(in_spdk: &str, config: &Path) -> String {
    format!(
        "  - spdk-json: {{ name: disk, bdev: {in_spdk}, config: \"{}\" }}",
        config.display()
    )
}

pub fn method(method: &str, params: Value) -> Value {
    json!({ "method": method, "params": params })
}

/// A file's disk of 64 MiB, by SPDK's aio.
fn aio(directory: &Path, name: &str) -> Value {
    let file = directory.join(name);
    let disk = std::fs::File::create(&file).expect("a file");
    disk.set_len(64 << 20).expect("room");
    method(
        "bdev_aio_create",
        json!({ "name": name, "filename": file, "block_size": 4096 }),
    )
}

/// The bdev `EE_…` over a bdev, which fails the next `count` flushes.
fn failing_flushes(base: &str, count: u32) -> [Value; 2] {
    let inject = json!({ "name": format!("EE_{base}"), "io_type": "flush", "error_type": "failure", "num": count });
    [
        method("bdev_error_create", json!({ "base_name": base })),
        method("bdev_error_inject_error", inject),
    ]
}

/// A RAID of SPDK's says that it has no cache, and hands flushes on: to both legs, whose disks have one.
#[test]
fn a_flush_reaches_the_legs_of_a_raid() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let mut entries = Vec::new();
    for leg in ["leg0", "leg1"] {
        entries.push(aio(directory.path(), leg));
        entries.extend(failing_flushes(leg, 1));
    }
    entries.push(method(
        "bdev_raid_create",
        json!({ "name": "Raid", "raid_level": "raid0", "strip_size_kb": 64, "base_bdevs": [ "EE_leg0", "EE_leg1" ] }),
    ));
    let config = written(directory.path(), &entries);
    let port = free_port();
    let text = configuration(port, &bdev("Raid", &config), "0 32768 linear disk 0");
    let served = Served::start(&text);
    let (_controller, mut queue) = connect(port);
    queue.flush(1).expect_err("a leg failed it");
    queue.flush(1).expect("flushed");
    assert_eq!(served.end(), Some(0));
}

/// A logical volume of SPDK's, `store/volume`.
fn logical_volume(directory: &Path) -> [Value; 3] {
    [
        aio(directory, "leg0"),
        method(
            "bdev_lvol_create_lvstore",
            json!({ "bdev_name": "leg0", "lvs_name": "store" }),
        ),
        method(
            "bdev_lvol_create",
            json!({ "lvol_name": "volume", "size_in_mib": 8, "lvs_name": "store" }),
        ),
    ]
}

/// A logical volume of SPDK's has no flush, and says nothing of the caches beneath it: what they hold cannot be promised, but on an operator's word.
#[test]
fn a_flush_of_what_cannot_flush_is_not_supported() {
    let _alone = alone();
    let port = free_port();
    for (word, is_flushed) in [("", false), (", volatile_cache: false", true)] {
        let directory = tempfile::tempdir().expect("a directory");
        let config = written(directory.path(), &logical_volume(directory.path()));
        let bdev = bdev("store/volume", &config).replace(" }", &format!("{word} }}"));
        let served = Served::start(&configuration(port, &bdev, "0 8192 linear disk 0"));
        let (_controller, mut queue) = connect(port);
        let flushed = status(queue.flush(1));
        assert_eq!(flushed.is_success(), is_flushed, "{flushed}");
        assert_eq!(flushed.is(Status::INVALID_OPCODE), !is_flushed, "{flushed}");
        if is_flushed {
            served.told(&["dm", "suspend", "vol0"]);
            served.told(&["dm", "resume", "vol0"]);
        }
        assert_eq!(served.end(), Some(0));
    }
}

/// An operator's word that cannot be true, or cannot be kept.
#[test]
fn a_word_about_caches_that_the_bdev_contradicts_is_refused() {
    let _alone = alone();
    for (in_spdk, word, reason) in [
        (
            "plain",
            false,
            "bdev 'plain' takes flushes, and is sent them",
        ),
        (
            "store/volume",
            true,
            "bdev 'store/volume' takes no flush, so nothing that is in the cache beneath it",
        ),
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        let mut entries = logical_volume(directory.path()).to_vec();
        entries.push(aio(directory.path(), "plain"));
        let config = written(directory.path(), &entries);
        let word = format!(", volatile_cache: {word} }}");
        let bdev = bdev(in_spdk, &config).replace(" }", &word);
        let text = configuration(free_port(), &bdev, "0 8192 linear disk 0");
        let said = Served::refused(&text);
        assert!(said.contains(reason), "{said}");
    }
}

/// A host's write with FUA is flushed, and so is write zeroes; an unmap that comes after is not, though SPDK gives it the same I/O, in which the bit
/// of the write still is.
#[test]
fn fua_is_of_the_write_that_has_it() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let malloc = json!({ "name": "ram", "num_blocks": 4096, "block_size": 4096 });
    let mut entries = vec![method("bdev_malloc_create", malloc)];
    entries.extend(failing_flushes("ram", 1000));
    let config = written(directory.path(), &entries);
    let port = free_port();
    let text = configuration(port, &bdev("EE_ram", &config), "0 32768 linear disk 0");
    let served = Served::start(&text);
    let (_controller, mut queue) = connect(port);
    let block = vec![1; 4096];
    queue.write(1, 0, &block, 4096).expect("written");
    for _ in 0..4 {
        let mut write = Command::block_io(io::WRITE, 1, 0, 1);
        write.set_dword(12, FUA);
        let id = queue.start(write, Payload::Write(&block)).expect("sent");
        let ended = queue.finish(id).expect("ended").completion.status;
        assert!(!ended.is_success(), "its flush failed");
        queue.deallocate(1, &[(8, 8)]).expect("unmapped");
    }
    let zeroed = status(queue.write_zeroes(1, 0, 1, false));
    assert!(!zeroed.is_success(), "its flush failed");
    assert_eq!(served.end(), Some(0));
}

/// A remote disk with a cache, and what attaches it as `farn1`.
fn remote() -> (Served, Value) {
    let port = free_port();
    let far = configuration(
        port,
        "  - malloc: { name: ram0, size: 16MiB, volatile_cache: true }",
        "0 32768 linear ram0 0",
    );
    let far = Served::start(&far.replace("engine: spdk\nspdk: { hugepages: off }\n", ""));
    let attach = json!({
        "name": "far", "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1",
        "trsvcid": port.to_string(), "subnqn": NQN
    });
    (far, method("bdev_nvme_attach_controller", attach))
}

/// A flush of a RAID over a remote disk reaches the remote, or is not answered with success: not every SPDK sends it.
#[test]
fn a_flush_of_a_raid_over_a_remote_reaches_it_or_is_refused() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let (far, attach) = remote();
    let raid = method(
        "bdev_raid_create",
        json!({ "name": "Raid", "raid_level": "concat", "strip_size_kb": 64, "base_bdevs": [ "farn1" ] }),
    );
    let config = written(directory.path(), &[attach, raid]);
    let text = configuration(port, &bdev("Raid", &config), "0 16384 linear disk 0");
    let served = Served::start(&text);
    let before = flushes(&far);
    let (_controller, mut queue) = connect(port);
    let flushed = status(queue.flush(1));
    assert_eq!(flushed.is_success(), flushes(&far) > before, "{flushed}");
    assert_eq!(flushed.is_success(), can_switch_flushes_on(), "{flushed}");
    assert_eq!(served.end(), Some(0));
    assert_eq!(far.end(), Some(0));
}

/// NVMe bdevs flush whatever a saved configuration says: one with a controller, which the remote counts the flushes of.
#[test]
fn a_saved_configuration_does_not_switch_flushes_off() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let (far, attach) = remote();
    let options = method("bdev_nvme_set_options", json!({ "enable_flush": false }));
    for entries in [vec![options, attach.clone()], vec![attach]] {
        if entries.len() > 1 && !can_switch_flushes_on() {
            continue;
        }
        let config = written(directory.path(), &entries);
        let text = configuration(port, &bdev("farn1", &config), "0 32768 linear disk 0");
        let served = Served::start(&text);
        let before = flushes(&far);
        let (_controller, mut queue) = connect(port);
        queue.flush(1).expect("flushed");
        assert!(flushes(&far) > before, "it reached the remote");
        assert_eq!(served.end(), Some(0));
    }
    assert_eq!(far.end(), Some(0));
}

/// How many flushes the device of a node has had.
fn flushes(served: &Served) -> u64 {
    let stats: Value = serde_json::from_str(&served.told(&["stats", "--json"])).expect("JSON");
    let operations = stats["devices"][0]["operations"].as_array();
    let mut operations = operations.expect("a list").iter();
    let flushes = operations.find(|one| one["operation"] == "flush");
    flushes.map_or(0, |one| one["ios"].as_u64().expect("a number"))
}

/// A flush has nothing to do on what is only read, and so does not keep a device from being suspended.
#[test]
fn a_read_only_file_is_suspended_and_flushed() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("disk");
    let disk = std::fs::File::create(&file).expect("a file");
    disk.set_len(16 << 20).expect("room");
    let port = free_port();
    let bdev = format!(
        "  - file: {{ name: disk, path: {}, read_only: true }}",
        file.display()
    );
    let text = configuration(port, &bdev, "0 32768 linear disk 0");
    let text = text.replace("name: vol0", "name: vol0\n    read_only: true");
    let served = Served::start(&text);
    let (_controller, mut queue) = connect(port);
    queue.flush(1).expect("flushed");
    served.told(&["dm", "suspend", "vol0"]);
    served.told(&["dm", "resume", "vol0"]);
    assert_eq!(served.end(), Some(0));
}
