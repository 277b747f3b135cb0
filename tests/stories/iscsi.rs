//! What an initiator over iSCSI was promised is on the medium: QEMU's, which is not ours. Said in one line when it is not here.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use crate::BLOCK;
use crate::fake::Fake;
use crate::node::{Node, bdev};
use crate::statuses::NQN;

/// QEMU's iSCSI driver, where Debian has it; its tool loads it by itself.
const DRIVER: &str = "/usr/lib/x86_64-linux-gnu/qemu/block-iscsi.so";

/// Does these commands of `qemu-io`, one after the other, and dies: nothing is flushed that no command has flushed.
fn run(url: &str, commands: &[&str]) {
    let mut initiator = Command::new("timeout");
    initiator.args(["60", "qemu-io", "-f", "raw", "-t", "writeback"]);
    for command in commands.iter().chain(&["sigraise 9"]) {
        initiator.args(["-c", command]);
    }
    let output = initiator.arg(url).output().expect("it can be run");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.signal() == Some(libc::SIGKILL) && !complaints.contains("rror"),
        "{complaints}"
    );
}

/// Each write with FUA and each flush is on the medium beneath when the initiator hears of it, and nothing before that.
#[test]
fn at_63_64_an_iscsi_initiators_flushes_reach_the_medium() {
    if !Path::new(DRIVER).exists() {
        eprintln!("skipped: there is no {DRIVER}: Debian's package qemu-block-extra");
        return;
    }
    let fake = Fake::start();
    let bdevs = bdev("r0", fake.address, NQN);
    let (node, url) =
        Node::start_iscsi(&bdevs, "0 1024 linear r0 0\n      1024 1024 linear r0 1024");
    let durable = |block: usize| {
        let state = fake.state();
        let bytes = &state.durable[block * BLOCK..][..BLOCK];
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a torn block");
        bytes[0]
    };
    for (block, value) in [(0, 1), (127, 2), (128, 3), (0, 4)] {
        let before = durable(block);
        let place = format!("-P {value} {} {BLOCK}", block * BLOCK);
        let write = format!("write {place}");
        run(&url, &[&write]);
        assert_eq!(durable(block), before, "nobody has flushed");
        run(&url, &[&write, "flush"]);
        assert_eq!(durable(block), value);
        let value = value + 100;
        let place = format!("-P {value} {} {BLOCK}", block * BLOCK);
        run(&url, &[&format!("write -f {place}")]);
        assert_eq!(durable(block), value, "with FUA");
    }
    node.end();
}
