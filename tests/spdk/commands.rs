//! Each kind of I/O that SPDK's NVMe-oF target makes of a host's commands, through a mapped device.

use std::time::Duration;

use polldm::host::{Address, BlockingQueue, Controller, Error, HostIdentity, HostOptions, Payload};
use polldm::nvme::command::Command;
use polldm::nvme::opcode::{admin, io};
use polldm::nvme::{Completion, Status};

use crate::process::{Served, free_port};
use crate::{NQN, alone, configuration};

const BLOCK: u32 = 4096;
const NSID: u32 = 1;

/// Far longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(60);

/// A device that crosses from one malloc bdev into another after 16 blocks, and an I/O queue to it.
fn start() -> (Served, Controller, BlockingQueue) {
    let port = free_port();
    let bdevs = "  - malloc: { name: ram0, size: 64KiB, block_size: 4096, volatile_cache: true }
  - malloc: { name: ram1, size: 16MiB, block_size: 4096, volatile_cache: true }";
    let table = "0 128 linear ram0 0\n      128 32640 linear ram1 0";
    let served = Served::start(&configuration(port, bdevs, table));
    let (controller, queue) = connect(port);
    (served, controller, queue)
}

/// An I/O queue to the device of a node.
pub fn connect(port: u16) -> (Controller, BlockingQueue) {
    let address = Address::new(([127, 0, 0, 1], port).into(), NQN);
    let mut options = HostOptions::new(HostIdentity::named("nqn.2026-11.io.polldm:host"));
    options.connection.timeout = PATIENCE;
    let mut controller = Controller::connect(&address, &options).expect("a controller");
    assert_eq!(controller.set_queue_count(1).expect("queues"), 1);
    let queue = controller.connect_io_queue(1, 16).expect("a queue");
    (controller, queue)
}

fn fill(byte: u8, blocks: u32) -> Vec<u8> {
    vec![byte; (blocks * BLOCK) as usize]
}

/// What blocks are filled with, one byte for each.
fn fillings(queue: &mut BlockingQueue, lba: u64, blocks: u32) -> Vec<u8> {
    let bytes = queue.read(NSID, lba, blocks, BLOCK).expect("read");
    let filling = |block: &[u8]| {
        assert!(block.iter().all(|byte| *byte == block[0]), "filled evenly");
        block[0]
    };
    bytes.chunks(BLOCK as usize).map(filling).collect()
}

/// The status that a command ended with, and not the connection.
pub fn status(result: Result<(), Error>) -> Status {
    match result {
        Ok(()) => Status::SUCCESS,
        Err(Error::Status { status, .. }) => status,
        Err(error) => panic!("{error}"),
    }
}

/// Aborts a command of the I/O queue; whether it is aborted.
pub fn abort(controller: &mut Controller, command: u16) -> bool {
    let mut abort = Command::new(admin::ABORT, 0);
    abort.set_dword(10, 1 | u32::from(command) << 16);
    let outcome = controller.admin().run(abort, Payload::None);
    let completion = outcome.expect("answered").completion;
    assert!(completion.status.is_success());
    completion.result & 1 == 0
}

/// Read, write, flush, write zeroes, unmap, compare, and the fused compare and write; across the border of two bdevs.
#[test]
fn a_host_has_every_command_carried_out() {
    let _alone = alone();
    let (served, _controller, mut queue) = start();
    queue.write(NSID, 14, &fill(1, 4), BLOCK).expect("written");
    assert_eq!(fillings(&mut queue, 13, 6), [0, 1, 1, 1, 1, 0]);
    queue.flush(NSID).expect("flushed");

    queue.compare(NSID, 14, &fill(1, 4), BLOCK).expect("equal");
    let mut other = fill(1, 4);
    other[3 * BLOCK as usize] = 2;
    let unequal = status(queue.compare(NSID, 14, &other, BLOCK));
    assert!(unequal.is(Status::COMPARE_FAILURE), "{unequal}");

    queue.write_zeroes(NSID, 15, 2, false).expect("zeroed");
    assert_eq!(fillings(&mut queue, 14, 4), [1, 0, 0, 1]);

    // One range at a time: SPDK's target passes by all but the first, and says so (DMRL). What malloc has unmapped reads as zeroes.
    for lba in [14, 17] {
        queue.deallocate(NSID, &[(lba, 1)]).expect("unmapped");
    }
    assert_eq!(fillings(&mut queue, 14, 4), [0, 0, 0, 0]);

    let mut compare_and_write = |old: u8, new: u8| -> (Completion, Completion) {
        let (old, new) = (fill(old, 1), fill(new, 1));
        let ended = queue.compare_and_write(NSID, 20, &old, &new, BLOCK);
        ended.expect("both end")
    };
    let (compare, write) = compare_and_write(0, 5);
    assert!(compare.status.is_success() && write.status.is_success());
    let (compare, write) = compare_and_write(0, 6);
    assert!(
        compare.status.is(Status::COMPARE_FAILURE),
        "{}",
        compare.status
    );
    assert!(!write.status.is_success(), "nothing is written");
    assert_eq!(fillings(&mut queue, 20, 1), [5]);

    // A vendor's, which neither SPDK's target nor a mapped device knows. No Verify: after one 24.09 stops no more (docs/spdk.md).
    let unknown = Command::new(0x80, NSID);
    let unknown = queue.start(unknown, Payload::None).expect("sent");
    let unknown = queue.finish(unknown).expect("ended").completion.status;
    assert!(unknown.is(Status::INVALID_OPCODE), "{unknown}");
    let beyond = status(queue.write(NSID, 1 << 20, &fill(1, 1), BLOCK));
    assert!(beyond.is(Status::LBA_OUT_OF_RANGE), "{beyond}");
    assert_eq!(served.end(), Some(0));
}

/// A namespace is taken away from a suspended device: what is parked there ends with an error, and the device is let go of.
#[test]
fn a_namespace_of_a_suspended_device_is_removed() {
    let _alone = alone();
    let (served, _controller, mut queue) = start();
    served.told(&["dm", "suspend", "vol0"]);
    let read = Command::block_io(io::READ, NSID, 0, 1);
    let parked = queue.start(read, Payload::Read(BLOCK)).expect("sent");
    queue.poll().expect("sent");
    served.wait_for(&["stats", "vol0"], |stats| {
        stats.contains("vol0            0       1")
    });
    served.told(&["export", "remove-ns", NQN, "--nsid", "1"]);
    let ended = queue.finish(parked).expect("ended").completion.status;
    assert!(!ended.is_success(), "{ended}");
    served.told(&["dm", "resume", "vol0"]);
    served.told(&["dm", "remove", "vol0"]);
    assert_eq!(served.end(), Some(0));
}

/// AT-78 on this engine: a host's Abort ends one parked command; the one beside it waits for the resume.
#[test]
fn at_78_an_abort_ends_one_parked_command() {
    let _alone = alone();
    let (served, mut controller, mut queue) = start();
    queue.write(NSID, 0, &fill(7, 1), BLOCK).expect("written");
    served.told(&["dm", "suspend", "vol0"]);
    let read = Command::block_io(io::READ, NSID, 0, 1);
    let first = queue.start(read, Payload::Read(BLOCK)).expect("sent");
    let second = queue.start(read, Payload::Read(BLOCK)).expect("sent");
    queue.poll().expect("sent");
    served.wait_for(&["stats", "vol0"], |stats| {
        stats.contains("vol0            0       2")
    });
    assert!(abort(&mut controller, first));
    let aborted = queue.finish(first).expect("ended").completion.status;
    assert!(aborted.is(Status::ABORT_REQUESTED), "{aborted}");
    served.told(&["dm", "resume", "vol0"]);
    let outcome = queue.finish(second).expect("ended");
    assert!(outcome.completion.status.is_success());
    assert_eq!(outcome.data, fill(7, 1));
    assert_eq!(served.end(), Some(0));
}
