//! Sequences of an ordered device, step by step: disks that answer flushes when they are told to. AT-21 to AT-29, AT-32.

use std::process::Child;

use polldm::host::{BlockingQueue, Payload};
use polldm::nvme::Status;
use polldm::nvme::command::Command;
use polldm::nvme::opcode::io;

use crate::BLOCK;
use crate::fake::{Fake, Seen, State};
use crate::flushes::disks;
use crate::node::{Host, Node, start};

/// The ordered device, which is namespace 2.
const DEVICE: &str = "ordered";

/// Makes the ordered device.
fn create(node: &Node, table: &str) {
    node.create_ordered(DEVICE, table);
    node.export(2, DEVICE);
}

fn swap(node: &Node, table: &str) {
    node.told(&["dm", "swap", DEVICE, "--table", table]);
}

/// Waits until this is so of a disk.
fn until(fake: &Fake, is_so: impl Fn(&State) -> bool) {
    while !is_so(&fake.state()) {
        std::thread::yield_now();
    }
}

fn is_flush(seen: &Seen) -> bool {
    seen.opcode == io::FLUSH
}

/// Writes with FUA one block of its own number.
fn start_fua(queue: &mut BlockingQueue, lba: u64) -> u16 {
    let mut command = Command::block_io(io::WRITE, 2, lba, 1);
    command.set_force_unit_access();
    start(queue, command, Payload::Write(&[lba as u8; BLOCK]))
}

fn start_flush(queue: &mut BlockingQueue, nsid: u32) -> u16 {
    start(queue, Command::new(io::FLUSH, nsid), Payload::None)
}

fn finish(host: &mut Host, command: u16) -> Status {
    let outcome = host.queue.finish(command).expect("an answer");
    outcome.completion.status
}

/// What a disk has been told since the last question: flushes, and the first blocks of writes.
fn told(fake: &Fake) -> Vec<Option<u64>> {
    let seen = fake.state().take_seen();
    let one = |one: &Seen| (!is_flush(one)).then_some(one.lba);
    seen.iter().map(one).collect()
}

/// The blocks of writes, in their order on the disk.
fn blocks(writes: &[Seen]) -> Vec<u64> {
    assert!(
        writes.iter().all(|one| one.opcode == io::WRITE),
        "{writes:?}"
    );
    let blocks = writes
        .iter()
        .flat_map(|one| one.lba..one.lba + u64::from(one.blocks));
    let mut blocks: Vec<u64> = blocks.collect();
    blocks.sort_unstable();
    blocks
}

/// Of [`told`].
const FLUSH: Option<u64> = None;

fn start_suspend(node: &Node, option: &str) -> Child {
    node.start_command(&["dm", "suspend", option, DEVICE])
}

fn must_succeed(command: Child) {
    let output = command.wait_with_output().expect("it was started here");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
}

/// A flush, or a write with FUA, of an ordered device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    RelaxedFlush,
    Flush,
    /// Whose flush before the data fails.
    WriteUnflushed,
    /// Whose flush after the data fails.
    Write,
}

/// A step is as many flushes as the targets ask for, each disk as often as it is one's, where one of them does not let flushes bypass it; it ends with the last.
#[test]
fn at_21_a_step_ends_with_the_last_of_its_flushes() {
    let stripes = "0 1024 striped 2 8 r0 0 r1 0\n1024 512 linear r0 1024";
    let (node, fakes) = disks::<2>("0 2048 linear r0 0");
    create(&node, "0 2048 linear r0 0");
    let mut host = node.host();
    for (table, flushes) in [
        (stripes.into(), [1, 1]),
        (format!("{stripes}\n1536 512 zero"), [2, 1]),
        ("0 1024 zero\n1024 1024 error".into(), [0, 0]),
    ] {
        swap(&node, &table);
        for fake in &fakes {
            let mut state = fake.state();
            state.take_seen();
            state.withholds = is_flush;
        }
        let before = node.counts(DEVICE);
        let flush = start_flush(&mut host.queue, 2);
        for (fake, count) in fakes.iter().zip(flushes) {
            until(fake, |now| now.withheld().len() == count);
        }
        for (fake, count) in fakes.iter().zip(flushes) {
            for left in (0..count).rev() {
                assert_eq!(node.counts(DEVICE).completed, before.completed, "{table}");
                let mut is_first = true;
                fake.state()
                    .let_go(|_| std::mem::take(&mut is_first), Status::SUCCESS);
                assert_eq!(fake.state().withheld().len(), left);
            }
        }
        assert!(finish(&mut host, flush).is_success(), "{table}");
        assert_eq!(fakes.each_ref().map(|fake| told(fake).len()), flushes);
        fakes
            .iter()
            .for_each(|fake| fake.state().withholds = |_| false);
    }
    drop(host);
    node.end();
}

/// A flush of three disks of which some fail: it ends with the last of them, once, with an error, and no disk is asked again. "Not supported" outranks the rest, the
/// rest is one of those that there were. Likewise the two flushes of a write with FUA on an ordered device: after the first one that fails no data is written.
#[test]
fn at_22_24_25_a_flush_of_disks_that_fail_ends_once() {
    const DISKS: usize = 3;
    const TABLE: &str = "0 512 linear r0 0\n512 1024 linear r1 0\n1536 512 linear r2 0";
    const NOT_SUPPORTED: usize = 2;
    let failures = [
        Status::WRITE_FAULT,
        Status::INTERNAL_ERROR,
        Status::INVALID_FIELD,
    ];
    let (node, fakes) = disks::<DISKS>("0 2048 linear r0 0");
    node.dm("swap", &["--table", TABLE]);
    create(&node, TABLE);
    let mut host = node.host();
    for fake in &fakes {
        fake.state().withholds = is_flush;
    }
    let until_all_flush = || {
        fakes
            .iter()
            .for_each(|fake| until(fake, |now| now.withheld().len() == 1));
    };
    for what in [
        What::RelaxedFlush,
        What::Flush,
        What::WriteUnflushed,
        What::Write,
    ] {
        let device = match what {
            What::RelaxedFlush => "vol",
            _ => DEVICE,
        };
        // What a host is told when one disk fails alone.
        let mut alone = [Status::SUCCESS; DISKS];
        for failing in [1, 2, 4, 3, 5, 6, 7] {
            let fails = |disk: usize| failing >> disk & 1 == 1;
            let case = format!("{what:?} {failing:03b}");
            fakes.iter().for_each(|fake| drop(fake.state().take_seen()));
            let before = node.counts(device);
            let command = match what {
                What::RelaxedFlush => start_flush(&mut host.queue, 1),
                What::Flush => start_flush(&mut host.queue, 2),
                What::WriteUnflushed | What::Write => start_fua(&mut host.queue, 5),
            };
            until_all_flush();
            if what == What::Write {
                for fake in &fakes {
                    fake.state().let_go(|_| true, Status::SUCCESS);
                }
                until(&fakes[0], |now| now.seen.iter().any(|one| one.lba == 5));
                until_all_flush();
            }
            // Another one is the last each time.
            for disk in (0..DISKS).map(|disk| (disk + failing) % DISKS) {
                let now = node.counts(device);
                assert_eq!(now.completed, before.completed, "{case}");
                let status = match fails(disk) {
                    true => failures[disk].do_not_retry(),
                    false => Status::SUCCESS,
                };
                fakes[disk].state().let_go(|_| true, status);
            }
            let status = finish(&mut host, command);
            assert!(!status.is_success(), "{case}");
            match failing {
                1 | 2 | 4 => alone[failing.ilog2() as usize] = status,
                _ if fails(NOT_SUPPORTED) => assert_eq!(status, alone[NOT_SUPPORTED], "{case}"),
                _ => {
                    let is_its = |disk| fails(disk) && alone[disk] == status;
                    assert!((0..DISKS).any(is_its), "{case}: {status}");
                }
            }
            let after = node.until(device, |now| now.completed > before.completed);
            let (completed, errors) = (before.completed + 1, before.errors + 1);
            assert_eq!((after.completed, after.errors), (completed, errors));
            let seen = fakes.each_ref().map(told);
            let of_first = match what {
                What::Write => vec![FLUSH, Some(5), FLUSH],
                _ => vec![FLUSH],
            };
            let of_others = match what {
                What::Write => vec![FLUSH; 2],
                _ => vec![FLUSH],
            };
            assert_eq!(seen, [of_first, of_others.clone(), of_others], "{case}");
        }
    }
    for fake in &fakes {
        fake.state().withholds = |_| false;
    }
    host.queue.flush(2).expect("flushed");
    drop(host);
    node.end();
}

/// A suspend finds the first flush of a barrier at a disk that does not answer. With noflush or without, it waits for that and for nothing else: the barrier's data is not
/// written while suspended, and the barrier behind it not begun. The resume goes on with the data, on the new table.
#[test]
fn at_26_27_a_suspend_waits_for_the_step_that_runs() {
    // A suspend lets go what a delay holds: by that it is known to have begun.
    const TABLE: &str = "0 1024 linear r0 0\n1024 1024 delay r1 1024 0 r1 1024 0 r1 1024 3600000";
    let (node, fakes) = disks::<2>("0 2048 zero");
    create(&node, TABLE);
    let mut host = node.host();
    for (option, lba) in [("--noflush", 10), ("--nolockfs", 20)] {
        swap(&node, TABLE);
        fakes.iter().for_each(|fake| drop(fake.state().take_seen()));
        fakes[0].state().withholds = is_flush;
        let first = start_fua(&mut host.queue, lba);
        until(&fakes[0], |now| now.withheld().len() == 1);
        let second = start_fua(&mut host.queue, lba + 1);
        node.until(DEVICE, |now| (now.held, now.parked) == (1, 2));

        let mut suspend = start_suspend(&node, option);
        until(&fakes[1], |now| now.seen.len() == 1);
        let ended = suspend.try_wait().expect("it was started here");
        assert_eq!(ended, None, "{option}: a step is under way");
        {
            let mut state = fakes[0].state();
            state.withholds = |_| false;
            state.let_go(|_| true, Status::SUCCESS);
        }
        must_succeed(suspend);
        let now = node.counts(DEVICE);
        assert_eq!((now.in_flight, now.held, now.parked), (0, 0, 2), "{option}");
        assert_eq!(fakes.each_ref().map(told), [[FLUSH], [FLUSH]], "{option}");

        node.told(&["dm", "load", DEVICE, "--table", "0 2048 linear r1 0"]);
        node.told(&["dm", "resume", DEVICE]);
        for command in [first, second] {
            assert!(finish(&mut host, command).is_success(), "{option}");
        }
        let rest = [Some(lba), FLUSH, FLUSH, Some(lba + 1), FLUSH];
        let seen = fakes.each_ref().map(told);
        assert_eq!(seen, [vec![], rest.to_vec()], "{option}");
        for lba in [lba, lba + 1] {
            assert_eq!(fakes[1].state().durable[lba as usize * BLOCK], lba as u8);
        }
    }
    drop(host);
    node.end();
}

/// A suspend finds a barrier's flush, before or after its data, at a disk that does not answer; then the only way to that disk fails. With noflush the barrier is told
/// nothing: the resume repeats this flush, and nothing that came before it, by the new table's way. Without noflush it has failed. The barrier behind it is served in
/// either case, after the resume.
#[test]
fn at_23_26_27_a_suspend_takes_back_a_step_without_a_path() {
    let by =
        |path: &str| format!("0 2048 multipath 1 queue_if_no_path 0 1 1 round-robin 0 1 0 {path}");
    let (node, fakes) = disks::<2>("0 2048 zero");
    create(&node, &by("r0"));
    let mut host = node.host();
    for (number, (after_data, noflush)) in
        [(false, true), (true, true), (false, false), (true, false)]
            .into_iter()
            .enumerate()
    {
        let case = format!("after the data: {after_data}, noflush: {noflush}");
        let lba = 10 * (number as u64 + 1);
        swap(&node, &by("r0"));
        fakes.iter().for_each(|fake| drop(fake.state().take_seen()));
        fakes[0].state().withholds = is_flush;
        let first = start_fua(&mut host.queue, lba);
        let until_it_flushes = || until(&fakes[0], |now| now.withheld().len() == 1);
        until_it_flushes();
        if after_data {
            fakes[0].state().let_go(|_| true, Status::SUCCESS);
            until(&fakes[0], |now| now.seen.len() == 3);
            until_it_flushes();
        }
        let second = start_fua(&mut host.queue, lba + 1);
        node.until(DEVICE, |now| (now.in_flight, now.parked) == (1, 2));

        let option = if noflush { "--noflush" } else { "--nolockfs" };
        let suspend = start_suspend(&node, option);
        {
            let mut state = fakes[0].state();
            state.withholds = |_| false;
            state.let_go(|_| true, Status::INTERNAL_PATH_ERROR.do_not_retry());
        }
        must_succeed(suspend);
        if !noflush {
            assert!(!finish(&mut host, first).is_success(), "{case}");
        }
        let now = node.counts(DEVICE);
        let parked = if noflush { 2 } else { 1 };
        let places = (now.in_flight, now.held, now.parked);
        assert_eq!(places, (0, 0, parked), "{case}");

        node.told(&["dm", "load", DEVICE, "--table", &by("r1")]);
        node.told(&["dm", "resume", DEVICE]);
        if noflush {
            assert!(finish(&mut host, first).is_success(), "{case}");
        }
        assert!(finish(&mut host, second).is_success(), "{case}");
        let whole = |lba: u64| [FLUSH, Some(lba), FLUSH];
        let (before, own) = match after_data {
            false => (vec![FLUSH], whole(lba).to_vec()),
            true => (whole(lba).to_vec(), vec![FLUSH]),
        };
        let own = if noflush { own } else { Vec::new() };
        let after = [own, whole(lba + 1).to_vec()].concat();
        assert_eq!(fakes.each_ref().map(told), [before, after], "{case}");
    }
    drop(host);
    node.end();
}

/// Ten thousand barriers that wait for a resume are carried out one after the other, whether what is beneath answers at once or later: none is begun within the end of
/// another, for which no stack would do.
#[test]
fn at_28_ten_thousand_of_a_hosts_barriers_do_not_nest() {
    const QUEUES: u64 = 80;
    const EACH: u64 = 126;
    const _: () = assert!(QUEUES * EACH > 10_000);
    const SECTORS: u64 = 16384;
    let node = Node::start(
        "  - malloc: { name: m0, size: 8MiB, block_size: 512, volatile_cache: true }\n",
        "0 16384 zero",
    );
    create(&node, "0 16384 zero");
    let (_controller, mut queues) = node.queues(QUEUES as u16, EACH as usize);
    for table in ["0 16384 zero", "0 16384 linear m0 0"] {
        swap(&node, table);
        node.told(&["dm", "suspend", DEVICE]);
        let before = node.counts(DEVICE);
        let mut under_way = Vec::new();
        for (index, queue) in queues.iter_mut().enumerate() {
            for number in 0..EACH {
                let lba = (index as u64 * EACH + number) % SECTORS;
                let mut command = Command::block_io(io::WRITE, 2, lba, 1);
                command.set_force_unit_access();
                let command = start(queue, command, Payload::Write(&[lba as u8; 512]));
                under_way.push((index, command));
            }
        }
        node.until(DEVICE, |now| now.parked == QUEUES * EACH);
        node.told(&["dm", "resume", DEVICE]);
        for (index, command) in under_way {
            let outcome = queues[index].finish(command).expect("an answer");
            assert!(outcome.completion.status.is_success(), "{table}");
        }
        let after = node.until(DEVICE, |now| now.in_flight == 0);
        assert_eq!(after.completed, before.completed + QUEUES * EACH, "{table}");
        assert_eq!((after.errors, after.parked), (0, 0), "{table}");
    }
    drop(queues);
    node.end();
}

/// The data of a barrier lies on two disks: it is cut, between two flushes of both. When its only path is lost with a part of it done, a suspend with noflush takes it back
/// as one: the resume writes all of it again, by the new table's path, but flushes before it no second time.
#[test]
fn at_29_the_data_of_a_barrier_is_cut_and_taken_back() {
    const FIRST: u64 = 8;
    const BLOCKS: u64 = 16;
    let by =
        |path: &str| format!("0 2048 multipath 1 queue_if_no_path 0 1 1 round-robin 0 1 0 {path}");
    let (node, fakes) = disks::<2>("0 2048 linear r0 0");
    create(&node, "0 2048 linear r0 0");
    let mut host = node.host();
    let start = |host: &mut Host, value: u8| {
        let mut command = Command::block_io(io::WRITE, 2, FIRST, BLOCKS as u32);
        command.set_force_unit_access();
        let data = vec![value; BLOCKS as usize * BLOCK];
        host.start(command, Payload::Write(&data))
    };
    // Blocks that a disk has been told to write between its first flush and its last; nothing else is told.
    let between_flushes = |seen: &[Seen]| -> Vec<u64> {
        let (first, rest) = seen.split_first().expect("it was flushed");
        let (last, writes) = rest.split_last().expect("it was flushed twice");
        assert!(is_flush(first) && is_flush(last), "{seen:?}");
        blocks(writes)
    };
    swap(&node, "0 128 linear r0 0\n128 1920 linear r1 128");
    let written = start(&mut host, 1);
    assert!(finish(&mut host, written).is_success());
    let seen = fakes.each_ref().map(|fake| fake.state().take_seen());
    assert!(between_flushes(&seen[0]).into_iter().eq(FIRST..16));
    assert!(between_flushes(&seen[1]).into_iter().eq(16..FIRST + BLOCKS));

    swap(&node, &by("r0"));
    fakes.iter().for_each(|fake| drop(fake.state().take_seen()));
    fakes[0].state().withholds = |seen| seen.opcode == io::WRITE;
    let written = start(&mut host, 2);
    while fakes[0].state().withheld().len() < 2 {
        // The target asks for what does not fit a capsule.
        host.queue.poll().expect("the connection lasts");
    }
    let suspend = start_suspend(&node, "--noflush");
    {
        let mut state = fakes[0].state();
        state.withholds = |_| false;
        state.let_go(|one| one.lba == FIRST, Status::SUCCESS);
        state.let_go(|_| true, Status::INTERNAL_PATH_ERROR.do_not_retry());
    }
    must_succeed(suspend);
    let now = node.counts(DEVICE);
    assert_eq!((now.in_flight, now.held, now.parked), (0, 0, 1));
    node.told(&["dm", "load", DEVICE, "--table", &by("r1")]);
    node.told(&["dm", "resume", DEVICE]);
    assert!(finish(&mut host, written).is_success());
    let seen = fakes.each_ref().map(|fake| fake.state().take_seen());
    assert!(is_flush(&seen[0][0]) && !seen[0][1..].iter().any(is_flush));
    let (flush, writes) = seen[1].split_last().expect("it was flushed");
    assert!(is_flush(flush), "{seen:?}");
    assert!(
        blocks(writes).into_iter().eq(FIRST..FIRST + BLOCKS),
        "{seen:?}"
    );
    let bytes = FIRST as usize * BLOCK..(FIRST + BLOCKS) as usize * BLOCK;
    let durable = fakes[1].state().durable[bytes].to_vec();
    assert!(durable.iter().all(|byte| *byte == 2));
    drop(host);
    node.end();
}

/// Flushes and writes with FUA of two queues, which are on two cores where there are two: one step of one of them is at the disk at any time, the others wait, and each
/// ends once. Each write is between two flushes of its own.
#[test]
fn at_32_sequences_of_several_queues_take_turns() {
    const EACH: u64 = 6;
    let (node, [fake]) = disks::<1>("0 2048 zero");
    create(&node, "0 2048 linear r0 0");
    let (_controller, mut queues) = node.queues(2, EACH as usize);
    fake.state().withholds = |_| true;
    let mut under_way = Vec::new();
    for number in 0..EACH {
        for (index, queue) in queues.iter_mut().enumerate() {
            let command = match number % 2 {
                0 => start_fua(queue, 10 * index as u64 + number),
                _ => start_flush(queue, 2),
            };
            under_way.push((index, command));
        }
    }
    while !under_way.is_empty() {
        for queue in &mut queues {
            queue.poll().expect("the connection lasts");
        }
        under_way.retain(|(index, command)| {
            let outcome = queues[*index].take(*command);
            if let Some(outcome) = &outcome {
                let status = outcome.completion.status;
                assert!(status.is_success(), "{status}");
            }
            outcome.is_none()
        });
        if fake.state().withheld().len() == 0 {
            std::thread::yield_now();
            continue;
        }
        // When each core has answered twice, whatever it was told before has been done.
        node.counts(DEVICE);
        node.counts(DEVICE);
        let mut state = fake.state();
        assert_eq!(state.withheld().len(), 1);
        state.let_go(|_| true, Status::SUCCESS);
    }
    let seen = told(&fake);
    let is_flushed = |three: &[Option<u64>]| three[0] == FLUSH && three[2] == FLUSH;
    let places = seen.windows(3).filter(|three| three[1] != FLUSH);
    let writes: Vec<_> = places.inspect(|three| assert!(is_flushed(three))).collect();
    let flushes = seen.len() - writes.len();
    assert_eq!(writes.len() as u64, EACH, "{seen:?}");
    // Flushes that wait together are one.
    assert!(
        (2 * EACH + 1..=3 * EACH).contains(&(flushes as u64)),
        "{seen:?}"
    );
    let now = node.counts(DEVICE);
    assert_eq!((now.in_flight, now.parked), (0, 0));
    assert_eq!((now.completed, now.errors), (2 * EACH, 0));
    drop(queues);
    node.end();
}
