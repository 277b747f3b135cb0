//! A long write zeroes of a device whose table has none, which is written portion by portion: what cuts it. The disk beneath is a remote one that stands still
//! while its device is suspended, so that the first portion is under way for as long as it takes.

use std::thread;

use polldm::host::Payload;
use polldm::nvme::Status;
use polldm::nvme::command::Command;
use polldm::nvme::opcode::io;
use serde_json::{Value, json};

use crate::commands::{abort, connect, status};
use crate::initiator::Initiator;
use crate::passing::ask;
use crate::process::{Served, free_port};
use crate::{NQN, alone, configuration};

/// Of the device: eight portions of the remote disk, and after them a block of the target `zero`, which has no write zeroes.
const ZEROED_BLOCKS: u32 = 16384;
const BLOCK: u32 = 512;

const IQN: &str = "iqn.2026-11.io.polldm:zeroes";

/// The remote disk.
fn far(port: u16) -> Served {
    Served::start(&format!(
        "\
reactors: {{ count: 1 }}
bdevs:
  - malloc: {{ name: ram0, size: 8MiB, block_size: 512 }}
devices:
  - {{ name: disk0, table: \"0 16384 linear ram0 0\" }}
exports:
  nvmf:
    listeners: [ \"127.0.0.1:{port}\" ]
    subsystems:
      - {{ nqn: \"{NQN}-far\", hosts: any, namespaces: [ {{ nsid: 1, device: disk0 }} ] }}
"
    ))
}

/// What `stats` says of a device.
fn stats(served: &Served) -> Value {
    let stats: Value = serde_json::from_str(&served.told(&["stats", "--json"])).expect("JSON");
    stats["devices"][0].clone()
}

fn writes(served: &Served) -> u64 {
    let stats = stats(served);
    let mut operations = stats["operations"].as_array().expect("a list").iter();
    let writes = operations.find(|one| one["operation"] == "write");
    writes.map_or(0, |one| one["ios"].as_u64().expect("a number"))
}

/// Waits until the remote disk has a portion, which it keeps.
fn await_portion(far: &Served) {
    far.wait_for(&["stats", "--json"], |stats| {
        let stats: Value = serde_json::from_str(stats).expect("JSON");
        stats["devices"][0]["parked"] != 0
    });
}

/// A host's Abort is told that it is in time, and the command ends as aborted, after the portion that is under way.
#[test]
fn an_abort_cuts_zeroes_between_portions() {
    let _alone = alone();
    let (far_port, port) = (free_port(), free_port());
    let far = far(far_port);
    let bdev = format!(
        "  - nvme-tcp: {{ name: far, address: \"127.0.0.1:{far_port}\", nqn: \"{NQN}-far\", nsid: 1 }}"
    );
    let table = "0 16384 linear far 0\n      16384 8 zero";
    let served = Served::start(&configuration(port, &bdev, table));
    let (mut controller, mut queue) = connect(port);
    far.told(&["dm", "suspend", "disk0"]);
    let zeroes = Command::block_io(io::WRITE_ZEROES, 1, 0, ZEROED_BLOCKS);
    let zeroes = queue.start(zeroes, Payload::None).expect("sent");
    queue.poll().expect("sent");
    await_portion(&far);
    assert!(abort(&mut controller, zeroes), "in time");
    far.told(&["dm", "resume", "disk0"]);
    let ended = queue.finish(zeroes).expect("ended").completion.status;
    assert!(ended.is(Status::ABORT_REQUESTED), "{ended}");
    assert_eq!(writes(&served), 1, "portions");
    // Another one is none of that.
    queue
        .write_zeroes(1, 0, ZEROED_BLOCKS, false)
        .expect("zeroed");
    assert_eq!(writes(&served), 9, "portions");
    assert_eq!(served.end(), Some(0));
    assert_eq!(far.end(), Some(0));
}

/// A reset of the device, by an initiator that reaches it over iSCSI, cuts the write zeroes of a host that reaches it over NVMe/TCP, which only SPDK's own
/// JSON-RPC lets in there.
#[test]
fn a_reset_cuts_zeroes_between_portions() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("spdk.sock");
    let (far_port, port, iscsi_port) = (free_port(), free_port(), free_port());
    let far = far(far_port);
    let text = format!(
        "\
engine: spdk
spdk: {{ hugepages: off, rpc: {} }}
reactors: {{ count: 1 }}
bdevs:
  - nvme-tcp: {{ name: far, address: \"127.0.0.1:{far_port}\", nqn: \"{NQN}-far\", nsid: 1 }}
devices:
  - name: vol0
    table: |
      0 16384 linear far 0
      16384 8 zero
  - {{ name: vol1, table: \"0 8 zero\" }}
exports:
  iscsi:
    portals: [ \"127.0.0.1:{iscsi_port}\" ]
    targets:
      - {{ iqn: {IQN}, initiators: any, luns: [ {{ lun: 0, device: vol0 }} ] }}
  nvmf:
    listeners: [ \"127.0.0.1:{port}\" ]
    subsystems:
      - {{ nqn: \"{NQN}\", hosts: any, namespaces: [ {{ nsid: 1, device: vol1 }} ] }}
",
        socket.display()
    );
    let served = Served::start(&text);
    let added = json!({ "nqn": NQN, "namespace": { "bdev_name": "vol0", "nsid": 2 } });
    assert_eq!(ask(&socket, "nvmf_subsystem_add_ns", added), 2);
    let mut initiator = Initiator::login(iscsi_port, IQN);
    // The first commands are answered with unit attentions, if with anything.
    while initiator.read(0, 0).0 != 0 {}
    let (_controller, mut queue) = connect(port);
    far.told(&["dm", "suspend", "disk0"]);
    let zeroes = Command::block_io(io::WRITE_ZEROES, 2, 0, ZEROED_BLOCKS);
    let zeroes = queue.start(zeroes, Payload::None).expect("sent");
    queue.poll().expect("sent");
    await_portion(&far);
    let reset = thread::spawn(move || initiator.reset(0));
    // What has nothing below is read until SPDK keeps I/O away, which it does from when the reset begins.
    while status(queue.read(2, u64::from(ZEROED_BLOCKS), 1, BLOCK).map(drop)).is_success() {}
    far.told(&["dm", "resume", "disk0"]);
    let ended = queue.finish(zeroes).expect("ended").completion.status;
    assert!(ended.is(Status::ABORT_REQUESTED), "{ended}");
    assert_eq!(reset.join().expect("answered"), 0, "function complete");
    assert!(writes(&served) < 8, "portions");
    queue
        .write_zeroes(2, 0, ZEROED_BLOCKS, false)
        .expect("zeroed");
    assert_eq!(served.end(), Some(0));
    assert_eq!(far.end(), Some(0));
}
