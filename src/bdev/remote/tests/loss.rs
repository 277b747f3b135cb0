//! Connections that end, and what becomes of what was on them.

use super::*;
use crate::nvme::identify::NamespaceIdentity;
use crate::nvme::opcode::io;

/// Writes that are under way when the connection ends, and those that come meanwhile, are done on the next one, each once and in order; nothing of the
/// old one is left to be sent by then.
#[test]
fn what_was_under_way_is_submitted_again_in_its_order() {
    let fake = Fake::start();
    let bdev = open(spec(fake.address)).expect("open");
    let mut bench = bench(&bdev, Patience::Holds);
    assert_eq!(flush(&mut bench), Status::Ok);
    fake.state().mute = true;
    let mut writes: Vec<u32> = (0..100)
        .map(|value| start_write(&mut bench, value % 10, value as u8))
        .collect();
    // The flush, and as many writes as its queue takes: nothing is on its way any more.
    until(&mut bench, |_| fake.state().seen.len() == 1 + 63);
    fake.state().closed = true;
    fake.cut();
    until_state(&mut bench, &bdev, RemoteState::Connecting);
    until(&mut bench, |_| report(&bdev).failed_attempts > 0);
    writes.extend((100..120).map(|value| start_write(&mut bench, value % 10, value as u8)));
    assert!(bench.ended.is_empty(), "hosts wait");
    let mut state = fake.state();
    state.take_seen();
    (state.mute, state.closed) = (false, false);
    drop(state);
    for write in writes {
        assert_eq!(bench.wait(write), Status::Ok);
    }
    let state = fake.state();
    let lbas: Vec<u64> = state.seen.iter().map(|seen| seen.lba).collect();
    let expected: Vec<u64> = (0..120).map(|value| value % 10).collect();
    assert_eq!(lbas, expected, "each once, in order");
    for block in 0..10 {
        assert_eq!(state.memory[block * BLOCK], 110 + block as u8);
    }
    drop(state);
    let report = report(&bdev);
    assert_eq!((report.losses, report.state), (1, RemoteState::Live));
}

/// Whoever has other ways to go is told at once: of what was under way, and of what comes while there is no connection. Then it is as before.
#[test]
fn who_has_other_ways_is_told_at_once() {
    let fake = Fake::start();
    let bdev = open(spec(fake.address)).expect("open");
    let mut bench = bench(&bdev, Patience::FailsFast);
    assert_eq!(flush(&mut bench), Status::Ok);
    fake.state().mute = true;
    let writes: Vec<u32> = (0..100)
        .map(|block| start_write(&mut bench, block, 1))
        .collect();
    fake.state().closed = true;
    fake.cut();
    for write in writes {
        assert_eq!(bench.wait(write), Status::Transport);
    }
    assert_eq!(flush(&mut bench), Status::Transport);
    // This reactor knows before the keeper does.
    until_state(&mut bench, &bdev, RemoteState::Connecting);
    let mut state = fake.state();
    (state.mute, state.closed) = (false, false);
    drop(state);
    until_state(&mut bench, &bdev, RemoteState::Live);
    // Whoever knows that it is live finds it so, though this reactor has not turned since.
    assert_eq!(flush(&mut bench), Status::Ok);
}

/// A command that is not answered in time ends its connection, and goes on the next.
#[test]
fn a_command_that_is_not_answered_ends_its_connection() {
    let fake = Fake::start();
    let bdev = open(RemoteSpec {
        io_timeout: Duration::from_secs(1),
        ..spec(fake.address)
    })
    .expect("open");
    let mut patient = bench(&bdev, Patience::Holds);
    let mut impatient = bench(&bdev, Patience::FailsFast);
    assert_eq!(flush(&mut patient), Status::Ok);
    until(&mut impatient, |bench| flush(bench) == Status::Ok);
    fake.state().mute = true;
    let write = start_write(&mut patient, 0, 7);
    until(&mut patient, |_| report(&bdev).timeouts > 0);
    // The association is over for everybody.
    until(&mut impatient, |_| report(&bdev).losses > 0);
    fake.state().mute = false;
    assert_eq!(patient.wait(write), Status::Ok);
    until(&mut impatient, |bench| flush(bench) == Status::Ok);
    let error = report(&bdev).last_error.expect("there was one");
    assert!(error.contains("was not answered within 1s"), "{error}");
}

/// A controller that answers no Keep Alive is given up, though nothing else is asked of it.
#[test]
fn an_unanswered_keep_alive_ends_the_association() {
    let fake = Fake::start();
    let bdev = open(RemoteSpec {
        keep_alive: Duration::from_millis(300),
        ..spec(fake.address)
    })
    .expect("open");
    let mut bench = bench(&bdev, Patience::Holds);
    until(&mut bench, |_| fake.state().keep_alives > 2);
    fake.state().mute = true;
    until(&mut bench, |_| report(&bdev).losses > 0);
    let error = report(&bdev).last_error.expect("there was one");
    assert!(error.contains("Keep Alive"), "{error}");
    fake.state().mute = false;
    assert_eq!(flush(&mut bench), Status::Ok);
}

/// What waits fails when its time is over, and what comes then at once; attempts go on, and end with `ctrl_loss_timeout` (PM-14).
#[test]
fn pm_14_waiting_ends_and_so_do_attempts() {
    let fake = Fake::start();
    let bdev = open(RemoteSpec {
        fast_io_fail_timeout: Some(Duration::from_millis(30)),
        ctrl_loss_timeout: Duration::from_millis(300),
        ..spec(fake.address)
    })
    .expect("open");
    let mut bench = bench(&bdev, Patience::Holds);
    assert_eq!(flush(&mut bench), Status::Ok);
    fake.state().closed = true;
    fake.cut();
    until(&mut bench, |_| report(&bdev).state != RemoteState::Live);
    let write = start_write(&mut bench, 0, 7);
    assert_eq!(bench.wait(write), Status::Transport);
    assert_eq!(flush(&mut bench), Status::Transport);
    until_state(&mut bench, &bdev, RemoteState::Lost);
    fake.state().closed = false;
    assert_eq!(flush(&mut bench), Status::Transport);
    // A reactor that comes now is told the same.
    let mut other = super::bench(&bdev, Patience::Holds);
    assert_eq!(flush(&mut other), Status::Transport);
}

/// Another disk at the old address is not taken for the one that was there; nor is one that hosts would have to flush without knowing.
#[test]
fn another_disk_is_not_taken_for_the_one_that_was_lost() {
    type Change = fn(&mut fake::State);
    let changes: [(Change, Change, &str); 4] = [
        (
            |state| {
                state.identity = NamespaceIdentity {
                    uuid: Some([8; 16]),
                    ..state.identity
                }
            },
            |state| {
                state.identity = NamespaceIdentity {
                    uuid: Some([7; 16]),
                    ..state.identity
                }
            },
            "another disk",
        ),
        (
            |state| state.block_shift = 9,
            |state| state.block_shift = 12,
            "block size",
        ),
        (
            |state| state.volatile_cache = true,
            |state| state.volatile_cache = false,
            "volatile cache",
        ),
        (
            |state| state.atomic_write_power_fail = 0,
            |state| state.atomic_write_power_fail = 2,
            "less atomically",
        ),
    ];
    let fake = Fake::start();
    fake.state().volatile_cache = false;
    let bdev = open(spec(fake.address)).expect("open");
    let mut bench = bench(&bdev, Patience::Holds);
    assert_eq!(flush(&mut bench), Status::Ok);
    for (change, back, words) in changes {
        change(&mut fake.state());
        fake.cut();
        until(&mut bench, |_| {
            report(&bdev)
                .last_error
                .is_some_and(|error| error.contains(words))
        });
        assert_eq!(report(&bdev).state, RemoteState::Connecting);
        let write = start_write(&mut bench, 0, 7);
        fake.state().take_seen();
        back(&mut fake.state());
        assert_eq!(bench.wait(write), Status::Ok);
        assert_eq!(fake.state().take_seen().len(), 1);
    }
}

/// What hosts were told when the device was opened is what counts: a cache that went may come back.
#[test]
fn a_cache_that_hosts_know_of_may_go_and_come_back() {
    let fake = Fake::start();
    let bdev = open(spec(fake.address)).expect("open");
    let mut bench = bench(&bdev, Patience::Holds);
    for (connects, volatile_cache) in [(2, false), (3, true)] {
        assert_eq!(flush(&mut bench), Status::Ok);
        fake.state().volatile_cache = volatile_cache;
        fake.cut();
        until(&mut bench, |_| report(&bdev).connects == connects);
    }
    assert_eq!(flush(&mut bench), Status::Ok);
    assert!(bdev.declare().volatile_cache);
}

/// The namespace changes its size: the device follows, and says no to what lies beyond.
#[test]
fn the_size_follows_the_namespace() {
    let fake = Fake::start();
    let bdev = open(spec(fake.address)).expect("open");
    let mut bench = bench(&bdev, Patience::Holds);
    for blocks in [128, 64, 256] {
        until(&mut bench, |_| fake.state().waits_for_event());
        fake.state().blocks = blocks;
        fake.announce_change();
        until(&mut bench, |_| bdev.declare().sectors == blocks * 8);
        let write = start_write(&mut bench, blocks - 1, 1);
        assert_eq!(bench.wait(write), Status::Ok);
        let beyond = start_write(&mut bench, blocks, 1);
        assert_eq!(bench.wait(beyond), Status::IoError);
    }
    assert_eq!(report(&bdev).losses, 0);
}

/// A device that is taken away ends what was under way and what waited, and what comes; its connection is closed (PM-14).
#[test]
fn pm_14_a_remote_that_is_taken_away_ends_everything_at_once() {
    let fake = Fake::start();
    let registry = Registry::default();
    let remote = Spec::NvmeTcp(Box::new(spec(fake.address)));
    let bdev = registry.add("r0", remote).expect("open");
    let mut bench = bench(&bdev, Patience::Holds);
    assert_eq!(flush(&mut bench), Status::Ok);
    fake.state().mute = true;
    let writes: Vec<u32> = (0..100)
        .map(|block| start_write(&mut bench, block, 1))
        .collect();
    until(&mut bench, |_| fake.state().seen.len() > 10);
    let id = registry.hot_remove("r0").expect("it is there").id();
    bench.core.lower_gone(id);
    for write in writes {
        assert_eq!(bench.wait(write), Status::Transport);
    }
    assert_eq!(flush(&mut bench), Status::Transport);
    assert!(bench.core.before_sleep());
    let facts = Arc::downgrade(bdev.facts());
    drop((bench, bdev));
    drop(registry);
    // Nothing keeps the keeper, which keeps the facts.
    while facts.strong_count() > 0 {
        thread::yield_now();
    }
    let seen = fake.state().take_seen();
    assert!(seen.iter().skip(1).all(|seen| seen.opcode == io::WRITE));
}
