//! ORDERED commands over iSCSI to a device whose flush policy is ordered: a barrier for the commands of all sessions, on all cores.

use std::time::Duration;

use polldm::host::iscsi::{BlockingSession, Payload, SessionOptions, command, login};
use polldm::nvme::opcode::io;
use serde_json::Value;

use crate::BLOCK;
use crate::fake::{Fake, Seen};
use crate::node::{Node, bdev};
use crate::statuses::NQN;

/// How long an initiator waits for an answer that has to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// The unit over the ordered device.
const ORDERED: u16 = 1;

fn session(url: &str) -> BlockingSession {
    let mut options = SessionOptions::new().expect("random numbers");
    options.timeout = PATIENCE;
    let address = url.parse().expect("a URL");
    let mut session = BlockingSession::new(login(&address, &options).expect("let in"), PATIENCE);
    for lun in [0, ORDERED] {
        session.settle(lun).expect("ready");
    }
    session
}

/// The cores that sessions are on.
fn cores(node: &Node) -> Vec<u64> {
    let output = node.told(&["iscsi", "sessions", "--json"]);
    let sessions: Value = serde_json::from_str(&output).expect("JSON");
    let sessions = sessions.as_array().expect("a list");
    let mut cores: Vec<u64> = sessions
        .iter()
        .filter_map(|one| one["reactor"].as_u64())
        .collect();
    cores.sort_unstable();
    cores
}

fn cdb(lba: u64, writes: bool) -> polldm::scsi::Cdb {
    if writes {
        command::write(lba, 1, false)
    } else {
        command::read(lba, 1)
    }
}

fn start_write(session: &mut BlockingSession, lba: u64) -> u16 {
    let data = [lba as u8; BLOCK];
    let started = session.start(ORDERED, &cdb(lba, true), Payload::Write(&data));
    started.expect("sent")
}

/// The target has taken in what this session has sent: a later command, to a unit where nothing waits, is answered.
fn is_taken_in(session: &mut BlockingSession) {
    let outcome = session.run(0, &command::test_unit_ready(), Payload::None);
    assert!(outcome.expect("an answer").status.is_good());
}

fn finish(session: &mut BlockingSession, commands: Vec<u16>) {
    for one in commands {
        let outcome = session.finish(one).expect("an answer");
        assert!(outcome.status.is_good(), "{:?}", outcome.status);
    }
}

/// Writes of a session on one core wait for their disk. An ORDERED command of a session on the other comes after them, and two more writes
/// after that. When the disk is there again, the first writes are done before the barrier begins, and the ORDERED command after it; if that
/// is a write, those that came later are done when it is.
#[test]
fn oq_2_an_ordered_command_is_a_barrier_for_both_cores() {
    let fake = Fake::start();
    let (node, url) = Node::start_iscsi(&bdev("r0", fake.address, NQN), "0 2048 zero");
    node.create_ordered(
        "ordered",
        "0 2048 multipath 1 queue_if_no_path 0 1 1 round-robin 0 1 0 r0",
    );
    node.add_lun(ORDERED, "ordered");
    let [mut first, mut second] = [session(&url), session(&url)];
    assert_eq!(cores(&node), [0, 1]);
    for writes in [true, false] {
        node.told(&["dm", "message", "ordered", "0", "fail_path", "r0"]);
        fake.state().take_seen();
        let before: Vec<u16> = (1..5).map(|lba| start_write(&mut second, lba)).collect();
        is_taken_in(&mut second);
        node.until("ordered", |now| now.held == 4);
        let data = [9; BLOCK];
        let payload = if writes {
            Payload::Write(&data)
        } else {
            Payload::Read(BLOCK as u32)
        };
        let barrier = first.start_ordered(ORDERED, &cdb(9, writes), payload);
        let barrier = barrier.expect("sent");
        is_taken_in(&mut first);
        // It waits for the first writes. Each core has answered twice: it has taken what the other had sent it, and its gate is closed.
        node.until("ordered", |now| (now.held, now.parked) == (4, 1));
        let later = [11, 12].map(|lba| start_write(&mut second, lba)).to_vec();
        is_taken_in(&mut second);
        node.until("ordered", |now| (now.held, now.parked) == (4, 3));
        assert!(fake.state().take_seen().is_empty());
        node.told(&["dm", "message", "ordered", "0", "reinstate_path", "r0"]);
        finish(&mut second, before);
        finish(&mut first, vec![barrier]);
        finish(&mut second, later);

        let seen = fake.state().take_seen();
        let place = |is_it: &dyn Fn(&Seen) -> bool| {
            let place = seen.iter().position(is_it);
            place.unwrap_or_else(|| panic!("it has not come: {seen:?}"))
        };
        let write = |lba: u64| place(&|one| one.opcode == io::WRITE && one.lba == lba);
        let flush = place(&|one| one.opcode == io::FLUSH);
        assert!((1..5).all(|lba| write(lba) < flush), "{seen:?}");
        let opcode = if writes { io::WRITE } else { io::READ };
        let own = place(&|one| one.opcode == opcode && one.lba == 9);
        assert!(own > flush, "{seen:?}");
        if writes {
            assert!(write(11) > own && write(12) > own, "{seen:?}");
            assert_eq!(fake.state().durable[9 * BLOCK], 9);
        } else {
            assert!(write(11) > flush && write(12) > flush, "{seen:?}");
        }
    }
    drop((first, second));
    node.end();
}
