//! A disk with less room than its hosts ask for, and what a multipath's selectors count and choose: AT-44 to AT-47.

use polldm::host::Payload;
use polldm::nvme::Status;
use polldm::nvme::command::Command;
use polldm::nvme::opcode::io;

use crate::BLOCK;
use crate::fake::Fake;
use crate::flushes::disks;
use crate::node::{Host, Node, start};
use crate::statuses::two_ways;
use crate::suspends::{finish, start_write};

/// More writes than a disk's queue takes: the rest waits for its turn, no path has failed for it, and each is done once.
#[test]
fn at_44_47_what_finds_no_room_is_done_in_turn() {
    const QUEUES: u64 = 2;
    const EACH: u64 = 120;
    /// What the controller says that a queue takes: one less than its entries.
    const ROOM: usize = 63;
    const TABLE: &str = "0 2048 multipath 1 queue_if_no_path 0 1 1 queue-length 0 1 1 r0 1";
    let (node, [fake]) = disks::<1>(TABLE);
    let (_controller, mut queues) = node.queues(QUEUES as u16, EACH as usize);
    fake.state().withholds = |_| true;
    let mut under_way = Vec::new();
    for (index, queue) in queues.iter_mut().enumerate() {
        for lba in (0..EACH).map(|number| index as u64 * EACH + number) {
            let command = Command::block_io(io::WRITE, 1, lba, 1);
            let command = start(queue, command, Payload::Write(&[lba as u8; BLOCK]));
            under_way.push((index, command));
        }
    }
    node.until("vol", |now| now.in_flight == QUEUES * EACH);
    while fake.state().withheld().len() < ROOM {
        std::thread::yield_now();
    }
    while !under_way.is_empty() {
        {
            let mut state = fake.state();
            for connection in state.withheld().map(|one| one.connection) {
                let same = state.withheld().filter(|one| one.connection == connection);
                assert!(same.count() <= ROOM);
            }
            state.let_go(|_| true, Status::SUCCESS);
        }
        for queue in &mut queues {
            queue.poll().expect("the connection lasts");
        }
        under_way.retain(|(index, command)| {
            let outcome = queues[*index].take(*command);
            if let Some(outcome) = &outcome {
                assert!(outcome.completion.status.is_success());
            }
            outcome.is_none()
        });
    }
    let seen = fake.state().take_seen();
    let mut written: Vec<u64> = seen.iter().map(|one| one.lba).collect();
    written.sort_unstable();
    assert!(written.into_iter().eq(0..QUEUES * EACH));
    let now = node.until("vol", |now| now.in_flight == 0);
    assert_eq!((now.completed, now.errors), (QUEUES * EACH, 0));
    let status = node.dm("status", &[]);
    assert!(
        status.contains(" r0 A 0 0"),
        "it has never failed: {status}"
    );
    drop(queues);
    node.end();
}

/// What the selector counts for both paths of `vol`.
fn counted(node: &Node) -> [u64; 2] {
    let status = node.dm("status", &[]);
    ["r0 ", "r1 "].map(|path| {
        let (_, of_path) = status.split_once(path).expect("it is one of its paths");
        // After its state and how often it has failed.
        let count = of_path.split_whitespace().nth(2);
        let count = count.expect("the selector shows something");
        count.parse().expect("a number")
    })
}

/// I/O fails on both paths, waits, is pushed back, goes down again, and its connections are cut: when all of it is over, nothing is counted as under way.
#[test]
fn at_45_selectors_count_nothing_at_idle() {
    const EACH: u64 = 8;
    let mut fake = Fake::start();
    let node = two_ways(&mut fake, "0 2048 linear r0 0");
    // On both cores, where there are two: the status is the home core's.
    let (_controller, mut queues) = node.queues(2, EACH as usize);
    for selector in ["queue-length", "service-time"] {
        let table = format!("0 2048 multipath 1 queue_if_no_path 0 1 1 {selector} 0 2 1 r0 1 r1 1");
        node.dm("swap", &["--table", &table]);
        let until_withheld = || {
            while fake.state().withheld().len() < 2 * EACH as usize {
                std::thread::yield_now();
            }
        };
        let reinstate = || {
            for path in ["r0", "r1"] {
                node.say(&["reinstate_path", path]);
            }
        };
        fake.state().withholds = |seen| seen.opcode == io::WRITE;
        let mut under_way = Vec::new();
        for (index, queue) in queues.iter_mut().enumerate() {
            for lba in 0..EACH {
                let lba = index as u64 * EACH + lba;
                let command = Command::block_io(io::WRITE, 1, lba, 1);
                let command = start(queue, command, Payload::Write(&[lba as u8; BLOCK]));
                under_way.push((index, command));
            }
        }
        until_withheld();
        assert_ne!(counted(&node), [0, 0], "{selector}");
        let path_error = Status::INTERNAL_PATH_ERROR.do_not_retry();
        // Each on one path and then on the other.
        while node.counts("vol").held < 2 * EACH {
            fake.state().let_go(|_| true, path_error);
        }
        assert_eq!(counted(&node), [0, 0], "{selector}");
        node.dm("suspend", &["--noflush"]);
        reinstate();
        node.dm("resume", &[]);
        until_withheld();
        {
            let mut state = fake.state();
            state.withholds = |_| false;
            state.cut_if(|_| true);
            state.let_go(|_| true, Status::SUCCESS);
        }
        // A path may be told before it is there again.
        while node.counts("vol").in_flight > 0 {
            if node.dm("status", &[]).matches(" F ").count() == 2 {
                reinstate();
            }
        }
        for (index, command) in under_way {
            let outcome = queues[index].finish(command).expect("an answer");
            assert!(outcome.completion.status.is_success());
        }
        assert_eq!(counted(&node), [0, 0], "{selector}");
    }
    drop(queues);
    node.end();
}

/// The first I/O of a group that has had none is served, whatever made the group the one to use.
#[test]
fn at_46_the_first_io_of_a_group_is_served() {
    const GROUPS: &str =
        "0 2048 multipath 1 queue_if_no_path 0 2 1 round-robin 0 1 0 r0 round-robin 0 1 0 r1";
    let (node, fakes) = disks::<2>("0 2048 linear r0 0");
    let mut host = node.host();
    let until_served = |host: &mut Host, write: u16, by: usize| {
        finish(host, vec![write], true);
        let seen = fakes.each_ref().map(|fake| fake.state().take_seen().len());
        assert_eq!(seen[by], 1);
        assert_eq!(seen[1 - by], 0);
    };
    for (message, serving) in [
        (&[][..], 0),
        (&["switch_group", "2"], 1),
        (&["disable_group", "1"], 1),
        (&["fail_path", "r0"], 1),
    ] {
        node.dm("swap", &["--table", GROUPS]);
        if !message.is_empty() {
            node.say(message);
        }
        let write = start_write(&mut host, 0, 1);
        until_served(&mut host, write, serving);
    }
    for (path, serving) in [("r0", 0), ("r1", 1)] {
        node.dm("swap", &["--table", GROUPS]);
        node.say(&["fail_path", "r0"]);
        node.say(&["fail_path", "r1"]);
        let write = start_write(&mut host, 0, 1);
        node.until("vol", |now| now.held == 1);
        node.say(&["reinstate_path", path]);
        until_served(&mut host, write, serving);
    }
    drop(host);
    node.end();
}
