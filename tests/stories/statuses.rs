//! What a host is told when a remote disk fails, and which of it is a path's fault: AT-24, AT-48, AT-49.

use polldm::host::{Error, Outcome, Payload};
use polldm::nvme::Status;
use polldm::nvme::command::Command;
use polldm::nvme::opcode::io;

use crate::BLOCK;
use crate::fake::Fake;
use crate::node::{Host, Node, bdev};

/// The subsystem of a fake controller.
pub const NQN: &str = "nqn.2026-11.io.polldm:scripted";

/// A fake's size in sectors.
pub const SECTORS: u64 = 2048;

/// A polldm that reaches a fake by two ways, `r0` and `r1`.
pub fn two_ways(fake: &mut Fake, table: &str) -> Node {
    let other = fake.another_way();
    Node::start(
        &(bdev("r0", fake.address, NQN) + &bdev("r1", other, NQN)),
        table,
    )
}

/// A multipath whose I/O goes by `r0` unless that has failed.
pub const FIRST_WAY: &str =
    "0 2048 multipath 1 queue_if_no_path 0 2 1 round-robin 0 1 0 r0 round-robin 0 1 0 r1";

/// Runs a read, write or flush of the first block.
fn run(host: &mut Host, opcode: u8) -> Result<Outcome, Error> {
    let data = [7; BLOCK];
    match opcode {
        io::READ => host.queue.run(
            Command::block_io(opcode, 1, 0, 1),
            Payload::Read(BLOCK as u32),
        ),
        io::WRITE => host
            .queue
            .run(Command::block_io(opcode, 1, 0, 1), Payload::Write(&data)),
        _ => host.queue.run(Command::new(opcode, 1), Payload::None),
    }
}

fn status(host: &mut Host, opcode: u8) -> Status {
    run(host, opcode).expect("an answer").completion.status
}

/// Errors that another path cannot help with are the host's, as they are, and no path fails for them.
#[test]
fn at_48_errors_of_the_disk_are_the_hosts() {
    let mut fake = Fake::start();
    let node = two_ways(&mut fake, FIRST_WAY);
    let mut host = node.host();
    assert!(status(&mut host, io::WRITE).is_success());
    for (opcode, below) in [
        (io::READ, Status::UNRECOVERED_READ_ERROR),
        (io::WRITE, Status::WRITE_FAULT),
        (io::WRITE, Status::RESERVATION_CONFLICT),
        (io::WRITE, Status::CAPACITY_EXCEEDED),
    ] {
        fake.state().fails = Some(below.do_not_retry());
        fake.state().take_seen();
        let told = status(&mut host, opcode);
        assert!(told.is(below), "{told} for {below}");
        let seen = fake.state().take_seen();
        assert_eq!(seen.len(), 1, "{below}: {seen:?}");
        fake.state().fails = None;
        assert!(status(&mut host, opcode).is_success());
        let paths = node.dm("status", &[]);
        assert!(!paths.contains(" F "), "{below}: {paths}");
    }
    drop(host);
    node.end();
}

/// Errors that may be a path's go the other way; when that ends so as well and nothing waits, the host sees one error, which is not a path's.
#[test]
fn at_49_the_last_path_fails_a_host() {
    for below in [
        Status::INTERNAL_ERROR,
        Status::TRANSIENT_TRANSPORT_ERROR,
        Status::ANA_INACCESSIBLE,
        Status::INTERNAL_PATH_ERROR,
    ] {
        let mut fake = Fake::start();
        let table = FIRST_WAY.replace("1 queue_if_no_path", "0");
        let node = two_ways(&mut fake, &table);
        let mut host = node.host();
        assert!(status(&mut host, io::WRITE).is_success());
        fake.state().fails = Some(below.do_not_retry());
        let told = status(&mut host, io::READ);
        assert!(told.is(Status::INTERNAL_ERROR), "{told} for {below}");
        // The home core, whose copy `dm status` shows, hears of it after the host's core.
        node.until_failed("r0");
        node.until_failed("r1");
        drop(host);
        node.end();
    }
}

/// A flush that fails below has failed for the host, once.
#[test]
fn at_24_a_failed_flush_is_the_hosts() {
    let fake = Fake::start();
    let node = Node::start(&bdev("r0", fake.address, NQN), "0 2048 linear r0 0");
    let mut host = node.host();
    assert!(status(&mut host, io::FLUSH).is_success());
    fake.state().fails_flushes = Some((0, Status::WRITE_FAULT.do_not_retry()));
    fake.state().take_seen();
    assert!(!status(&mut host, io::FLUSH).is_success());
    assert_eq!(fake.state().take_seen().len(), 1);
    fake.state().fails_flushes = None;
    assert!(status(&mut host, io::FLUSH).is_success());
    drop(host);
    node.end();
}
