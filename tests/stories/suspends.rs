//! Suspends that fail, are cancelled, or find I/O that waits: AT-11, AT-12, AT-15, AT-16, AT-43, AT-52, and what a host sees of AT-57, AT-71 and AT-78.

use std::process::Child;

use polldm::host::Payload;
use polldm::nvme::Status;
use polldm::nvme::command::Command;
use polldm::nvme::opcode::io;

use crate::fake::Fake;
use crate::flushes::disks;
use crate::load::Load;
use crate::lost_paths::{Paths, multipath};
use crate::node::Host;
use crate::statuses::{FIRST_WAY, two_ways};
use crate::ways::until_connected;
use crate::{BLOCK, BLOCK_SECTORS};

/// I/Os of a kind at once.
pub const EACH: u64 = 8;

/// Starts a write of one block of `value`.
pub fn start_write(host: &mut Host, lba: u64, value: u8) -> u16 {
    let command = Command::block_io(io::WRITE, 1, lba, 1);
    let data = vec![value; BLOCK];
    host.start(command, Payload::Write(&data))
}

pub fn start_writes(host: &mut Host, first: u64, value: u8) -> Vec<u16> {
    (first..first + EACH)
        .map(|lba| start_write(host, lba, value))
        .collect()
}

/// Waits for the end of commands, which must be a success or must not.
pub fn finish(host: &mut Host, commands: Vec<u16>, succeeds: bool) {
    for command in commands {
        let outcome = host.queue.finish(command).expect("an answer");
        let status = outcome.completion.status;
        assert_eq!(status.is_success(), succeeds, "{status}");
    }
}

/// Blocks hold this value.
pub fn demand(host: &mut Host, first: u64, value: u8) {
    for lba in first..first + EACH {
        let read = host.queue.read(1, lba, 1, BLOCK as u32).expect("read");
        assert!(read.iter().all(|byte| *byte == value), "block {lba}");
    }
}

/// Flushes that a relay's device has had.
fn flushes(paths: &Paths) -> u64 {
    let stats: serde_json::Value =
        serde_json::from_str(&paths.ways[0].told(&["stats", "--json"])).expect("JSON");
    let operations = stats["devices"][0]["operations"]
        .as_array()
        .expect("a list");
    let flush = operations.iter().find(|one| one["operation"] == "flush");
    flush.expect("it is counted")["ios"]
        .as_u64()
        .expect("a number")
}

/// A suspend that is to flush the device cannot without a way: it is refused, the device runs, and I/O waits for a way again.
#[test]
fn at_11_a_suspend_that_cannot_flush_is_undone() {
    let mut paths = Paths::start();
    let node = paths.node(&multipath(true, &["r0"]));
    let mut host = node.host();
    let written = start_writes(&mut host, 0, 1);
    finish(&mut host, written, true);
    paths.ways[0].kill();
    let waiting = start_writes(&mut host, 0, 2);
    node.until("vol", |now| now.held == EACH);
    let refused = node.refused(&["dm", "suspend", "vol"]);
    assert!(refused.contains("(EIO)"), "{refused}");
    // The presuspend has failed what waited (AT-04).
    finish(&mut host, waiting, false);
    assert_eq!(node.info("vol", "suspended"), "Active");
    let waiting = start_writes(&mut host, 0, 3);
    node.until("vol", |now| now.held == EACH);
    paths.ways[0].restart();
    until_connected(&paths.ways[0]);
    node.reinstate("r0");
    finish(&mut host, waiting, true);
    demand(&mut host, 0, 3);
    drop(host);
    node.end();
}

/// A suspend with noflush cannot end, because a remote that stands still holds I/O; it is cancelled when other I/O was pushed back already. That waits for a way again,
/// nothing fails, and all of it succeeds in the end.
#[test]
fn at_12_a_cancelled_suspend_costs_a_host_nothing() {
    let paths = Paths::start();
    let node = paths.node(&multipath(true, &["r0"]));
    let mut host = node.host();
    let written = start_writes(&mut host, 0, 1);
    finish(&mut host, written, true);
    paths.ways[0].freeze();
    let beneath = start_writes(&mut host, 0, 2);
    node.until("vol", |now| now.in_flight == EACH);
    node.say(&["fail_path", "r0"]);
    let waiting = start_writes(&mut host, EACH, 2);
    let before = node.until("vol", |now| now.held == EACH);

    let suspend = node.start_command(&["dm", "suspend", "--noflush", "vol"]);
    node.until("vol", |now| {
        (now.held, now.parked, now.in_flight) == (0, EACH, EACH)
    });
    node.dm("cancel", &[]);
    let suspend = suspend.wait_with_output().expect("it was started here");
    assert!(!suspend.status.success());
    let after = node.until("vol", |now| {
        (now.held, now.parked, now.in_flight) == (EACH, 0, 2 * EACH)
    });
    assert_eq!(after.completed, before.completed);
    assert_eq!(node.info("vol", "suspended"), "Active");
    assert!(node.dm("table", &[]).contains("queue_if_no_path"));

    paths.ways[0].thaw();
    finish(&mut host, beneath, true);
    node.say(&["reinstate_path", "r0"]);
    finish(&mut host, waiting, true);
    demand(&mut host, 0, 2);
    demand(&mut host, EACH, 2);
    drop(host);
    node.end();
}

/// Waits for the end of an operator's command; whether it was obeyed.
fn succeeds(command: Child) -> bool {
    let ended = command.wait_with_output().expect("it was started here");
    ended.status.success()
}

/// A cancel and the loss of a path race a suspend with noflush, which writes keep from ending. It is cancelled, or has ended and the device is resumed: either way each write is done
/// by the other path, with no other help.
#[test]
fn at_43_what_races_a_cancel_is_issued_again() {
    let mut fake = Fake::start();
    let node = two_ways(&mut fake, FIRST_WAY);
    let mut host = node.host();
    for value in 1..=10 {
        node.dm("swap", &["--table", FIRST_WAY]);
        fake.state().withholds = |seen| seen.opcode == io::WRITE;
        let writes = start_writes(&mut host, 0, value);
        while fake.state().withheld().len() < EACH as usize {
            std::thread::yield_now();
        }
        fake.state().withholds = |_| false;
        let suspend = node.start_command(&["dm", "suspend", "--noflush", "vol"]);
        let cancel = node.start_command(&["dm", "cancel", "vol"]);
        for half in [0..EACH / 2, EACH / 2..EACH] {
            let path_error = Status::INTERNAL_PATH_ERROR.do_not_retry();
            (fake.state()).let_go(|one| half.contains(&one.lba), path_error);
            // The other processes get on, or do not.
            node.counts("vol");
        }
        let [suspended, cancelled] = [suspend, cancel].map(succeeds);
        assert_eq!(suspended, !cancelled, "all of it, or nothing");
        if suspended {
            node.dm("resume", &[]);
        }
        finish(&mut host, writes, true);
        demand(&mut host, 0, value);
        let now = node.counts("vol");
        assert_eq!((now.in_flight, now.held, now.parked), (0, 0, 0));
    }
    drop(host);
    node.end();
}

/// The suspend that a resume with another table implies fails, because the disk does not flush, or is cancelled: the device runs on the table it had, the other is still
/// loaded, and the next resume takes it.
#[test]
fn at_52_a_resume_that_cannot_suspend_changes_nothing() {
    let (node, fakes) = disks::<2>("0 2048 linear r0 0");
    let mut host = node.host();
    let state = || node.info("vol", "suspended,tables_loaded");
    for is_cancelled in [false, true] {
        node.dm("load", &["--table", "0 2048 linear r1 0"]);
        if is_cancelled {
            fakes[0].state().withholds = |seen| seen.opcode == io::WRITE;
            let write = start_write(&mut host, 0, 1);
            while fakes[0].state().withheld().len() == 0 {
                std::thread::yield_now();
            }
            let resume = node.start_command(&["dm", "resume", "vol"]);
            // Refused until the suspend has begun.
            while !succeeds(node.start_command(&["dm", "cancel", "vol"])) {}
            assert!(!succeeds(resume));
            fakes[0].state().withholds = |_| false;
            fakes[0].state().let_go(|_| true, Status::SUCCESS);
            finish(&mut host, vec![write], true);
        } else {
            fakes[0].state().fails_flushes = Some((0, Status::WRITE_FAULT.do_not_retry()));
            let refused = node.refused(&["dm", "resume", "vol"]);
            assert!(refused.contains("(EIO)"), "{refused}");
            fakes[0].state().fails_flushes = None;
        }
        assert_eq!(state(), "Active Both");
        fakes.iter().for_each(|fake| drop(fake.state().take_seen()));
        for (served, then) in [(0, "Active Both"), (1, "Active Live")] {
            if served == 1 {
                node.dm("resume", &[]);
            }
            assert_eq!(state(), then);
            fakes[served].state().take_seen();
            let write = start_write(&mut host, 0, 2);
            finish(&mut host, vec![write], true);
            assert_eq!(fakes[served].state().take_seen().len(), 1);
        }
        node.dm("swap", &["--table", "0 2048 linear r0 0"]);
    }
    drop(host);
    node.end();
}

/// A suspend flushes what is beneath, once; one with noflush does not, whatever else it was told.
#[test]
fn at_15_a_remote_hears_no_flush_of_a_noflush_suspend() {
    let paths = Paths::start();
    let node = paths.node(&multipath(true, &["r0"]));
    let mut host = node.host();
    let written = start_writes(&mut host, 0, 1);
    finish(&mut host, written, true);
    let before = flushes(&paths);
    node.dm("suspend", &["--noflush"]);
    node.dm("resume", &[]);
    assert_eq!(flushes(&paths), before);
    node.dm("suspend", &[]);
    node.dm("resume", &[]);
    assert_eq!(flushes(&paths), before + 1);
    drop(host);
    node.end();
}

/// What was pushed back goes before what came while the device was suspended: of two writes to a block the later one stays.
#[test]
fn at_16_the_later_write_to_a_block_stays() {
    let paths = Paths::start();
    let node = paths.node(&multipath(true, &["r0"]));
    let mut host = node.host();
    for round in 0..20 {
        let values = [3 * round + 1, 3 * round + 2, 3 * round + 3];
        node.say(&["fail_path", "r0"]);
        let held = start_writes(&mut host, 0, values[0]);
        node.until("vol", |now| now.held == EACH);
        node.dm("suspend", &["--noflush"]);
        let first = start_writes(&mut host, 0, values[1]);
        let second = start_writes(&mut host, 0, values[2]);
        node.until("vol", |now| now.parked == 3 * EACH);
        node.say(&["reinstate_path", "r0"]);
        node.dm("resume", &[]);
        for writes in [held, first, second] {
            finish(&mut host, writes, true);
        }
        demand(&mut host, 0, values[2]);
    }
    drop(host);
    node.end();
}

/// The device shrinks and grows while I/O is parked: what lies in it succeeds, what lies beyond its end fails, a parked flush ends.
#[test]
fn at_57_a_device_changes_its_size_with_io_parked() {
    let paths = Paths::start();
    let node = paths.node("0 16384 linear r0 0");
    let mut host = node.host();
    node.dm("suspend", &[]);
    let inside = start_writes(&mut host, 0, 1);
    let beyond = start_writes(&mut host, 16384 / BLOCK_SECTORS - EACH, 1);
    let flush = host.start(Command::new(io::FLUSH, 1), Payload::None);
    node.until("vol", |now| now.parked == 2 * EACH + 1);
    node.dm("load", &["--table", "0 8192 linear r0 0"]);
    node.dm("resume", &[]);
    finish(&mut host, inside, true);
    finish(&mut host, beyond, false);
    finish(&mut host, vec![flush], true);
    node.dm("load", &["--table", "0 16384 linear r0 0"]);
    node.dm("resume", &[]);
    let again = start_writes(&mut host, 16384 / BLOCK_SECTORS - EACH, 2);
    finish(&mut host, again, true);
    demand(&mut host, 0, 1);
    drop(host);
    node.end();
}

/// A delay of an hour holds up no suspend, of either kind, and no swap.
#[test]
fn at_71_a_delay_holds_up_nothing() {
    let paths = Paths::start();
    let node = paths.node("0 16384 linear r0 0");
    let mut host = node.host();
    for options in [&["--noflush"][..], &["--nolockfs"]] {
        node.dm("swap", &["--table", "0 16384 delay r0 0 3600000"]);
        let writes = start_writes(&mut host, 0, 1);
        node.until("vol", |now| now.held == EACH);
        node.dm("suspend", options);
        node.dm("load", &["--table", "0 16384 linear r0 0"]);
        node.dm("resume", &[]);
        finish(&mut host, writes, true);
    }
    drop(host);
    node.end();
}

/// A host goes away while its I/O waits, in the target or in the core: that ends, and the next host finds a device at work. SPDK's target lets a connection's I/O end by
/// itself: there it is gone when the device runs again.
#[test]
fn at_78_a_host_goes_away_with_io_parked() {
    let paths = Paths::start();
    let node = paths.node(&multipath(true, &["r0"]));
    for is_suspended in [false, true] {
        node.say(&["fail_path", "r0"]);
        let mut host = node.host();
        start_writes(&mut host, 0, 1);
        node.until("vol", |now| now.held == EACH);
        if is_suspended {
            node.dm("suspend", &["--noflush"]);
            node.until("vol", |now| now.parked == EACH);
        }
        drop(host);
        let until_nothing_is_left = || {
            node.until("vol", |now| {
                (now.held, now.parked, now.in_flight) == (0, 0, 0)
            })
        };
        if cfg!(not(feature = "spdk")) {
            until_nothing_is_left();
        }
        if is_suspended {
            node.dm("resume", &[]);
        }
        node.say(&["reinstate_path", "r0"]);
        until_nothing_is_left();
        let load = Load::start(&node);
        load.after(300);
        load.demand_flawless();
        load.stop();
    }
    node.end();
}
