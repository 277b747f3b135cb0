//! What is exported is the device that was named, whatever it was called before and whatever else SPDK has by that name.

use std::fs;

use crate::process::{Served, free_port};
use crate::{NQN, alone, configuration};

const TABLE: &str = "0 2048 linear ram1 0";

/// A node with a device that is exported, and room for others.
fn start() -> Served {
    let bdevs = "  - malloc: { name: ram0, size: 16MiB }\n  - malloc: { name: ram1, size: 16MiB }";
    Served::start(&configuration(free_port(), bdevs, "0 32768 linear ram0 0"))
}

/// A device whose bdev has a name that another device has by now is exported under its own; that other one has no bdev until it is renamed.
#[test]
fn a_name_that_was_given_away_exports_its_new_owner_or_nothing() {
    let _alone = alone();
    let served = start();
    served.told(&["dm", "create", "first", "--table", TABLE]);
    served.told(&["dm", "rename", "first", "second"]);
    served.told(&[
        "dm",
        "create",
        "first",
        "--table",
        "0 4096 linear ram1 4096",
    ]);
    let add = |nsid, device| ["export", "add-ns", NQN, "--nsid", nsid, "--device", device];
    let refused = served.refuses(&add("2", "first"));
    assert!(refused.contains("another bdev of this name"), "{refused}");
    served.told(&["dm", "rename", "first", "third"]);
    served.told(&add("2", "third"));
    served.told(&add("3", "second"));
    let exports: serde_json::Value =
        serde_json::from_str(&served.told(&["export", "ls", "--json"])).expect("JSON");
    assert_eq!(
        exports["nvmf"]["subsystems"][0]["namespaces"]
            .as_array()
            .map(Vec::len),
        Some(3),
        "{exports}"
    );
    assert_eq!(served.end(), Some(0));
}

/// Two namespaces have two UUIDs, also when the one's device had the name before that the other's has now.
#[test]
fn no_two_namespaces_have_one_uuid() {
    let _alone = alone();
    let served = start();
    served.told(&["dm", "rename", "vol0", "first"]);
    served.told(&["dm", "create", "second", "--table", TABLE]);
    served.told(&["dm", "rename", "second", "vol0"]);
    served.told(&["export", "add-ns", NQN, "--nsid", "2", "--device", "vol0"]);
    let exports: serde_json::Value =
        serde_json::from_str(&served.told(&["export", "ls", "--json"])).expect("JSON");
    let namespaces = &exports["nvmf"]["subsystems"][0]["namespaces"];
    assert_eq!(namespaces[1]["device"], "vol0", "{exports}");
    assert_ne!(namespaces[0]["uuid"], namespaces[1]["uuid"], "{exports}");
    assert_eq!(served.end(), Some(0));
}

/// A device that nobody holds goes over to other blocks, and can be exported with them.
#[test]
fn a_device_with_other_blocks_is_exported() {
    let _alone = alone();
    let served = start();
    let other = [
        "bdev",
        "add",
        "malloc",
        "name=ram2",
        "size=16MiB",
        "block_size=4096",
    ];
    served.told(&other);
    served.told(&["dm", "create", "vol1", "--table", TABLE]);
    let swap = ["dm", "swap", "vol1", "--table", "0 4096 linear ram2 0"];
    served.told(&swap);
    served.told(&["export", "add-ns", NQN, "--nsid", "2", "--device", "vol1"]);
    assert_eq!(served.end(), Some(0));
}

/// A namespace is taken away from the device that it is of: renamed since it was added, while another has its name of then.
#[test]
fn a_renamed_device_is_shown_and_let_go_of() {
    let _alone = alone();
    let served = start();
    served.told(&["dm", "create", "old", "--table", TABLE]);
    let add = ["export", "add-ns", NQN, "--nsid", "2", "--device", "old"];
    served.told(&add);
    served.told(&["dm", "rename", "old", "new"]);
    served.told(&["dm", "create", "old", "--table", "0 4096 linear ram1 4096"]);
    let exports = served.told(&["export", "ls"]);
    assert!(exports.contains("namespace 2: new"), "{exports}");
    served.told(&["export", "remove-ns", NQN, "--nsid", "2"]);
    let again = served.refuses(&["export", "remove-ns", NQN, "--nsid", "2"]);
    assert!(again.contains("there is no namespace 2"), "{again}");
    served.told(&["dm", "remove", "new"]);
    served.told(&["dm", "remove", "old"]);
    assert_eq!(served.end(), Some(0));
}

/// A device that has the name of a bdev of SPDK's own is refused, and that bdev is not exported past the mapper in its place.
#[test]
fn a_bdev_of_spdk_is_not_exported_for_a_device_of_its_name() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("raw.json");
    fs::write(
        &config,
        r#"{ "subsystems": [ { "subsystem": "bdev", "config": [
            { "method": "bdev_malloc_create", "params": { "name": "vol0", "num_blocks": 32768, "block_size": 512 } }
        ] } ] }"#,
    )
    .expect("written");
    let bdev = format!(
        "  - spdk-json: {{ name: raw, bdev: vol0, config: \"{}\" }}",
        config.display()
    );
    let text = configuration(free_port(), &bdev, "0 2048 linear raw 0");
    let complaints = Served::refused(&text);
    assert!(
        complaints.contains("another bdev of this name"),
        "{complaints}"
    );
}
