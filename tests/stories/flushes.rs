//! Which flushes remote disks get, and when: AT-30, AT-40, AT-61 to AT-63, AT-65.

use polldm::host::Payload;
use polldm::nvme::Status;
use polldm::nvme::command::Command;
use polldm::nvme::opcode::io;

use crate::fake::Fake;
use crate::node::{Host, Node, bdev};
use crate::statuses::{FIRST_WAY, NQN, two_ways};
use crate::{BLOCK, BLOCK_SECTORS};

/// Flushes that a fake has had since the last question.
fn flushes(fake: &Fake) -> usize {
    let seen = fake.state().take_seen();
    seen.iter().filter(|one| one.opcode == io::FLUSH).count()
}

fn write(host: &mut Host, lba: u64, value: u8, fua: bool) -> Status {
    let mut command = Command::block_io(io::WRITE, 1, lba, 1);
    if fua {
        command.set_force_unit_access();
    }
    let data = [value; BLOCK];
    let outcome = host.queue.run(command, Payload::Write(&data));
    outcome.expect("an answer").completion.status
}

/// What a power cut would leave of a block: a value, if all of it is one.
fn durable(fake: &Fake, lba: u64) -> Option<u8> {
    let state = fake.state();
    let block = &state.durable[lba as usize * BLOCK..][..BLOCK];
    block
        .iter()
        .all(|byte| *byte == block[0])
        .then_some(block[0])
}

/// Disks `r0`, `r1` … of which tables are made.
pub fn disks<const N: usize>(table: &str) -> (Node, [Fake; N]) {
    let fakes: [Fake; N] = std::array::from_fn(|_| Fake::start());
    let mut bdevs = String::new();
    for (index, fake) in fakes.iter().enumerate() {
        // Disks, not ways to one.
        fake.state().identity.uuid = Some([7 + index as u8; 16]);
        bdevs += &bdev(&format!("r{index}"), fake.address, NQN);
    }
    (Node::start(&bdevs, table), fakes)
}

/// Ten lines on one disk are one flush of it; what lies on two disks is a flush of each; what is on none is flushed without one (AT-30).
#[test]
fn at_30_61_62_each_disk_is_flushed_once() {
    let (node, fakes) = disks::<2>("0 2048 linear r0 0");
    let mut host = node.host();
    let lines = |disks: [&str; 10]| -> String {
        let line = |(index, disk)| format!("{} 200 linear {disk} {}\n", index * 200, index * 200);
        disks.into_iter().enumerate().map(line).collect()
    };
    let mut two = ["r0"; 10];
    two[7] = "r1";
    for (table, right) in [
        (lines(["r0"; 10]), [1, 0]),
        (lines(two), [1, 1]),
        ("0 2048 striped 2 8 r0 0 r1 0".into(), [1, 1]),
        ("0 1024 zero\n1024 1024 error".into(), [0, 0]),
    ] {
        node.dm("swap", &["--table", &table]);
        for fake in &fakes {
            fake.state().take_seen();
        }
        host.queue.flush(1).expect("flushed");
        assert_eq!([flushes(&fakes[0]), flushes(&fakes[1])], right, "{table}");
    }
    drop(host);
    node.end();
}

/// A write with FUA is on the medium when it completes, and one without is not: nobody flushes for nothing.
#[test]
fn at_63_a_hosts_fua_write_is_durable_when_it_completes() {
    let (node, fakes) = disks::<2>("0 2048 linear r0 0");
    let mut host = node.host();
    let half = 1024 / BLOCK_SECTORS;
    for (table, disk, lba, below) in [
        ("0 2048 linear r0 0", 0, 5, 5),
        ("0 1024 linear r0 0\n1024 1024 linear r1 0", 1, half + 5, 5),
        ("0 2048 striped 2 8 r0 0 r1 0", 1, 11, 5),
        ("0 2048 multipath 0 0 1 1 round-robin 0 1 0 r1", 1, 5, 5),
    ] {
        node.dm("swap", &["--table", table]);
        for value in [1, 2, 3] {
            let before = durable(&fakes[disk], below);
            assert!(write(&mut host, lba, 100 + value, false).is_success());
            assert_eq!(durable(&fakes[disk], below), before, "{table}");
            assert!(write(&mut host, lba, value, true).is_success());
            assert_eq!(durable(&fakes[disk], below), Some(value), "{table}");
        }
    }
    // Where it is a flush beneath that makes it so, it has failed when that has.
    fakes[1].state().fails_flushes = Some((0, Status::WRITE_FAULT.do_not_retry()));
    fakes[1].state().take_seen();
    let told = write(&mut host, 5, 9, true);
    let seen = fakes[1].state().take_seen();
    let as_a_bit = seen.iter().any(|one| one.fua);
    assert_eq!(told.is_success(), as_a_bit, "{told}: {seen:?}");
    drop(host);
    node.end();
}

/// Zeroes are on the medium when a write-zeroes with FUA completes, of whatever length, although a part of the device, `zero`, takes none and they are written instead: also when it was
/// parked, and it is the next table that has that part.
#[test]
fn at_63_zeroes_are_durable_whatever_the_table() {
    const WHOLE: &str = "0 2048 linear r0 0\n2048 2048 linear r1 0";
    const IN_PART: &str = "0 2048 linear r0 0\n2048 2040 linear r1 0\n4088 8 zero";
    const BLOCKS: u32 = 512;
    let (node, fakes) = disks::<2>("0 2048 linear r0 0");
    node.dm("swap", &["--table", WHOLE]);
    let mut host = node.host();
    for (now, next) in [(WHOLE, None), (IN_PART, None), (WHOLE, Some(IN_PART))] {
        node.dm("swap", &["--table", now]);
        for fake in &fakes {
            let mut state = fake.state();
            state.memory.fill(7);
            state.durable.fill(7);
            state.take_seen();
        }
        if next.is_some() {
            node.dm("suspend", &["--noflush"]);
        }
        let mut zeroes = Command::block_io(io::WRITE_ZEROES, 1, 0, BLOCKS);
        zeroes.set_force_unit_access();
        let zeroes = host.start(zeroes, Payload::None);
        if let Some(next) = next {
            node.until("vol", |now| now.parked == 1);
            node.dm("load", &["--table", next]);
            node.dm("resume", &[]);
        }
        let outcome = host.queue.finish(zeroes).expect("an answer");
        let status = outcome.completion.status;
        assert!(status.is_success(), "{now}, {next:?}: {status}");
        let is_in_part = [Some(now), next].contains(&Some(IN_PART));
        for (fake, blocks) in fakes.iter().zip([256, 256 - usize::from(is_in_part)]) {
            let mut state = fake.state();
            let (zeroed, rest) = state.durable.split_at(blocks * BLOCK);
            let right = zeroed.iter().all(|byte| *byte == 0) && rest.iter().all(|byte| *byte == 7);
            assert!(right, "{now}, {next:?}");
            let seen = state.take_seen();
            let writes = seen.iter().any(|one| one.opcode == io::WRITE);
            assert_eq!(writes, is_in_part, "{seen:?}");
        }
    }
    let errors = node.counts("vol").errors;
    assert!(errors <= 1, "{errors}: what was parked was refused once");
    drop(host);
    node.end();
}

/// On an ordered device a write with FUA is: what came before, a flush, the data, a flush. A flush before it that fails fails the write, and no data is written (AT-40).
#[test]
fn at_20_40_a_barrier_on_an_ordered_device() {
    let fake = Fake::start();
    let node = Node::start(&bdev("r0", fake.address, NQN), "0 2048 zero");
    node.create_ordered("ordered", "0 2048 linear r0 0");
    node.export(2, "ordered");
    let mut host = node.host();
    let start = |host: &mut Host, lba, fua| {
        let mut command = Command::block_io(io::WRITE, 2, lba, 1);
        if fua {
            command.set_force_unit_access();
        }
        host.start(command, Payload::Write(&[7; BLOCK]))
    };
    let commands: Vec<u16> = (0..9).map(|lba| start(&mut host, lba, lba == 4)).collect();
    for command in commands {
        let outcome = host.queue.finish(command).expect("an answer");
        assert!(outcome.completion.status.is_success());
    }
    let seen = fake.state().take_seen();
    let place = |lba| {
        let mut all = seen.iter();
        let found = all.position(|one| one.opcode == io::WRITE && one.lba == lba);
        found.expect("it was written")
    };
    let barrier = place(4);
    let is_flush = |index: usize| seen[index].opcode == io::FLUSH;
    assert!(is_flush(barrier - 1) && is_flush(barrier + 1), "{seen:?}");
    assert!((0..4).all(|lba| place(lba) < barrier), "{seen:?}");
    assert!((5..9).all(|lba| place(lba) > barrier), "{seen:?}");

    fake.state().fails_flushes = Some((0, Status::WRITE_FAULT.do_not_retry()));
    let command = start(&mut host, 11, true);
    let outcome = host.queue.finish(command).expect("an answer");
    assert!(!outcome.completion.status.is_success());
    let seen = fake.state().take_seen();
    assert!(seen.iter().all(|one| one.opcode == io::FLUSH), "{seen:?}");
    drop(host);
    node.end();
}

/// A flush that fails on one way is done when the other way has done it, and only then is the host told.
#[test]
fn at_65_a_hosts_flush_is_done_the_other_way() {
    let mut fake = Fake::start();
    let node = two_ways(&mut fake, FIRST_WAY);
    let mut host = node.host();
    assert!(write(&mut host, 3, 1, false).is_success());
    assert_eq!(durable(&fake, 3), Some(0));
    fake.state().fails_flushes = Some((0, Status::INTERNAL_PATH_ERROR.do_not_retry()));
    fake.state().take_seen();
    host.queue.flush(1).expect("flushed");
    assert_eq!(durable(&fake, 3), Some(1));
    let seen = fake.state().take_seen();
    let connections: Vec<usize> = seen.iter().map(|one| one.connection).collect();
    assert!(
        connections.len() == 2 && connections[0] != connections[1],
        "{seen:?}"
    );
    node.until_failed("r0");
    drop(host);
    node.end();
}
