//! Stops that do not come to their end, because a bdev beneath keeps what it was given, and what processes that were killed have left.

use std::fs::{self, File};
use std::path::Path;

use polldm::host::Payload;
use polldm::nvme::command::Command;
use polldm::nvme::opcode::io;
use serde_json::{Value, json};

use crate::alone;
use crate::commands::connect;
use crate::flushes::{bdev, method, written};
use crate::process::{Served, free_port};

/// A node with a read beneath that never ends: SPDK's bdev `error` keeps it. What it says goes to a file.
fn with_a_read_that_is_kept(then: impl FnOnce(Served, &Path)) {
    let directory = tempfile::tempdir().expect("a directory");
    let malloc = json!({ "name": "ram", "num_blocks": 4096, "block_size": 4096 });
    let keep = json!({ "name": "EE_ram", "io_type": "read", "error_type": "pending", "num": 1 });
    let entries = [
        method("bdev_malloc_create", malloc),
        method("bdev_error_create", json!({ "base_name": "ram" })),
        method("bdev_error_inject_error", keep),
    ];
    let config = written(directory.path(), &entries);
    let port = free_port();
    let bdev = bdev("EE_ram", &config);
    let text = crate::configuration(port, &bdev, "0 32768 linear disk 0");
    let said = directory.path().join("said");
    let file = File::create(&said).expect("a file");
    let served = Served::start_saying(&text, file.into());
    let (_controller, mut queue) = connect(port);
    let read = Command::block_io(io::READ, 1, 0, 1);
    queue.start(read, Payload::Read(4096)).expect("sent");
    queue.poll().expect("sent");
    served.wait_for(&["stats", "--json"], |stats| {
        let stats: Value = serde_json::from_str(stats).expect("JSON");
        stats["devices"][0]["in_flight"] == 1
    });
    then(served, &said);
}

/// A stop is given up after its time: the process says so by its exit code and what it was that did not end, and does not end by a signal.
#[test]
fn a_stop_that_is_given_up_has_an_exit_code() {
    let _alone = alone();
    with_a_read_that_is_kept(|served, said| {
        assert_eq!(served.end(), Some(1));
        let said = fs::read_to_string(said).expect("text");
        let why = "polldm: SPDK has not let go of device 'vol0'; I/Os of hosts below, in all: 1\n";
        assert!(said.contains(why), "{said}");
    });
}

/// So does one that is told a second time to end.
#[test]
fn a_second_signal_ends_it_at_once() {
    let _alone = alone();
    with_a_read_that_is_kept(|served, _| assert_eq!(served.end_at_once(), Some(1)));
}

/// What a killed process has left among the temporary files the next one removes; what one that runs has there, it leaves alone.
#[test]
fn what_a_killed_process_leaves_is_removed() {
    let _alone = alone();
    let start = || {
        let port = free_port();
        let bdevs = "  - malloc: { name: ram0, size: 16MiB }";
        Served::start(&crate::configuration(port, bdevs, "0 32768 linear ram0 0"))
    };
    let directory = |served: &Served| {
        let directory = std::env::temp_dir().join(format!("polldm-spdk-{}", served.id()));
        assert!(directory.join("spdk.sock").exists());
        directory
    };
    let mut killed = start();
    let left = directory(&killed);
    killed.kill();
    assert!(left.exists());
    let next = start();
    assert!(!left.exists());
    let own = directory(&next);
    assert_eq!(next.end(), Some(0));
    assert!(!own.exists());
}
