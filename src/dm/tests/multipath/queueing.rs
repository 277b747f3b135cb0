//! `queue_if_no_path` across messages, suspends, table reads and time (5.5, 5.7, MP-4).

use super::super::super::limits::LowerId;
use super::super::{RESUME, SUSPEND, for_seeds};
use super::*;
use crate::sim::Answers;

const SECOND: u64 = 1_000_000_000;
const TIMED: &str = "0 64 multipath 3 queue_if_no_path queue_if_no_path_timeout_secs 5 0 1 1 queue-length 0 2 0 d0 d1";

/// AT-66: `fail_if_no_path` fails all that is parked; after `queue_if_no_path` new I/O parks again.
#[test]
fn at_66_parked_io_fails_when_queueing_goes_off() {
    for_seeds(20, |seed| {
        let mut cluster = pathless(3, seed, QUEUEING);
        let parked = submit_all(&mut cluster, 8);
        say(&mut cluster, "fail_if_no_path");
        cluster.settle();
        assert_eq!(ended(&cluster, &parked, Status::IoError), parked.len());
        say(&mut cluster, "queue_if_no_path");
        cluster.settle();
        let parked = submit_all(&mut cluster, 8);
        cluster.settle();
        assert!(none_ended(&cluster, &parked));
        say(&mut cluster, "reinstate_path d0");
        cluster.settle();
        assert_eq!(ended(&cluster, &parked, Status::Ok), parked.len());
        demand_zero_counters(&cluster);
        cluster.demand_idle();
    });
}

/// MP-8: what is parked goes on in the order it came.
#[test]
fn mp_8_parked_io_goes_on_in_its_order() {
    let mut cluster = pathless(1, 1, QUEUEING);
    let commands: Vec<_> = (0..20u8)
        .map(|n| cluster.submit(0, DEVICE, Ask::fill(0, 1, n)))
        .collect();
    cluster.seen();
    say(&mut cluster, "reinstate_path d1");
    cluster.settle();
    assert_eq!(super::super::completed(&cluster), commands);
    assert_eq!(cluster.disk(1).sector(0)[0], 19);
}

/// AT-67: queueing outlives suspends of every kind and outcome, and a table read at any time shows it.
#[test]
fn at_67_queueing_survives() {
    let waits = |cluster: &mut Cluster, after: &str| {
        assert!(
            table(cluster).starts_with("1 queue_if_no_path 0 1 1 "),
            "{after}"
        );
        let commands = submit_all(cluster, 1);
        cluster.settle();
        assert!(none_ended(cluster, &commands), "{after}");
        commands
    };
    let mut cluster = pathless(2, 1, QUEUEING);
    for (request, what) in [(SUSPEND, "flush"), (SUSPEND_NOFLUSH, "noflush")] {
        cluster.done(DEVICE, request);
        assert!(
            table(&mut cluster).starts_with("1 queue_if_no_path "),
            "{what}, suspended"
        );
        cluster.done(DEVICE, RESUME);
        waits(&mut cluster, what);
    }
    // Cancelled: something below keeps the suspend from ending.
    for noflush in [false, true] {
        let mut cluster = running(2, 1, QUEUEING);
        cluster.disk(0).answers = Answers::Later;
        cluster.disk(0).frozen = true;
        let below = cluster.submit(1, DEVICE, Ask::fill(0, 1, 1));
        say(&mut cluster, "fail_path d0");
        say(&mut cluster, "fail_path d1");
        let options = SuspendOptions {
            noflush,
            timeout_ns: Some(SECOND),
            ..NOFLUSH
        };
        let answer = cluster.ask(DEVICE, Request::Suspend(options));
        assert_eq!(answer.expect_err("timed out").errno.name(), "ETIMEDOUT");
        let commands = waits(&mut cluster, "cancelled");
        cluster.disk(0).frozen = false;
        say(&mut cluster, "reinstate_path d1");
        cluster.settle();
        assert_eq!(ended(&cluster, &commands, Status::Ok), commands.len());
        assert_eq!(cluster.status(below), Some(Status::Ok));
    }
    // The freeze fails: the flush that lockfs asks for has no path.
    let mut cluster = pathless(2, 1, QUEUEING);
    let lockfs = SuspendOptions {
        noflush: false,
        lockfs: true,
        timeout_ns: None,
    };
    let answer = cluster.ask(DEVICE, Request::Suspend(lockfs));
    assert_eq!(answer.expect_err("no flush").errno.name(), "EIO");
    waits(&mut cluster, "freeze failed");
}

/// AT-68: the timer fires once for all cores, and what is parked on any of them fails.
#[test]
fn at_68_the_timer_ends_the_wait() {
    for_seeds(20, |seed| {
        let mut cluster = pathless(3, seed, TIMED);
        let start = cluster.shared().now_ns;
        let before = cluster.info(DEVICE).event_nr;
        let parked = submit_all(&mut cluster, 4);
        cluster.settle();
        assert_eq!(ended(&cluster, &parked, Status::IoError), parked.len());
        let waited = cluster.shared().now_ns - start;
        assert!((4 * SECOND..6 * SECOND).contains(&waited), "{waited} ns");
        assert_eq!(cluster.info(DEVICE).event_nr, before + 1);
        assert!(table(&mut cluster).starts_with("2 queue_if_no_path_timeout_secs 5 "));
        cluster.demand_idle();
    });
}

/// AT-68: a path that comes back in time stops it, on every core.
#[test]
fn at_68_a_path_in_time_stops_the_timer() {
    for_seeds(20, |seed| {
        let mut cluster = pathless(3, seed, TIMED);
        let parked = submit_all(&mut cluster, 4);
        (0..3).for_each(|core| cluster.poll(core));
        cluster.shared().now_ns += 4 * SECOND;
        say(&mut cluster, "reinstate_path d0");
        cluster.settle();
        assert_eq!(ended(&cluster, &parked, Status::Ok), parked.len());
        cluster.shared().now_ns += 100 * SECOND;
        cluster.settle();
        assert!(table(&mut cluster).starts_with("3 queue_if_no_path "));
    });
}

/// AT-68, MP-4: a table that has no path from the start.
#[test]
fn at_68_the_timer_runs_in_a_table_without_paths() {
    let mut cluster = running(
        2,
        1,
        "0 64 multipath 3 queue_if_no_path queue_if_no_path_timeout_secs 5 0 0 0",
    );
    let parked = submit_all(&mut cluster, 2);
    assert!(none_ended(&cluster, &parked));
    cluster.settle();
    assert_eq!(ended(&cluster, &parked, Status::IoError), parked.len());
}

/// AT-69: a table without paths takes the place of one with paths, keeps its limits, parks I/O, and gives it to a later one.
#[test]
fn at_69_a_table_without_paths_parks_io() {
    for_seeds(20, |seed| {
        let mut cluster = Cluster::new(3, seed);
        for _ in 0..2 {
            cluster.add_disk(64, |lower| lower.block_bytes = 4096);
        }
        let one =
            |disk| format!("0 64 multipath 1 queue_if_no_path 0 1 1 queue-length 0 1 0 d{disk}");
        cluster.device(0, false, &one(0));
        let before = cluster.mappers[0]
            .limits(DEVICE)
            .expect("a live table")
            .clone();
        cluster.switch_to(DEVICE, "0 64 multipath 1 queue_if_no_path 0 0 0");
        let after = cluster.mappers[0]
            .limits(DEVICE)
            .expect("a live table")
            .clone();
        assert_eq!(
            (after.block_bytes, after.volatile_cache),
            (before.block_bytes, before.volatile_cache)
        );
        assert_eq!((after.discard, after.write_zeroes), (true, true));
        let mut commands = Vec::new();
        for core in 0..3 {
            commands.push(cluster.submit(core, DEVICE, Ask::fill(8 * u64::from(core), 8, 7)));
            commands.push(cluster.submit(core, DEVICE, Ask::flush()));
            commands.push(cluster.submit(
                core,
                DEVICE,
                Ask::range(super::super::super::io::Op::Discard, 32, 8),
            ));
            commands.push(cluster.submit(core, DEVICE, Ask::fill(40, 8, 1).fua()));
        }
        cluster.settle();
        assert!(none_ended(&cluster, &commands));
        let table = cluster.table(&one(1));
        cluster.done(DEVICE, Request::Load(table));
        cluster.done(
            DEVICE,
            Request::Resume {
                open: true,
                suspend: NOFLUSH,
            },
        );
        cluster.settle();
        assert_eq!(ended(&cluster, &commands, Status::Ok), commands.len());
        assert_eq!(cluster.disk(1).sector(23)[0], 7);
        cluster.demand_idle();
    });
}

/// PM-13: a host gives up what waits in the target.
#[test]
fn at_78_what_the_target_holds_can_be_aborted() {
    let mut cluster = pathless(1, 1, QUEUEING);
    let commands = submit_all(&mut cluster, 3);
    assert!(cluster.abort(0, DEVICE, commands[1]));
    assert_eq!(cluster.status(commands[1]), Some(Status::Aborted));
    say(&mut cluster, "reinstate_path d0");
    cluster.settle();
    assert_eq!(ended(&cluster, &commands, Status::Ok), 2);
    demand_zero_counters(&cluster);
    cluster.demand_idle();
}

/// A message or a path's failure that crosses the removal of its device is answered, or forgotten; nothing breaks.
#[test]
fn messages_and_notices_cross_a_removal() {
    for_seeds(200, |seed| {
        let mut cluster = running(3, seed, QUEUEING);
        cluster.disk(0).answers = Answers::FailLater(Status::Transport);
        let commands = submit_all(&mut cluster, 2);
        let remove = cluster.request(DEVICE, Request::Remove);
        cluster.steps(seed % 40);
        let words = vec!["fail_path".into(), "d0".into()];
        let message = cluster.request(DEVICE, Request::Message { sector: 0, words });
        cluster.take_away(LowerId(1));
        cluster.settle();
        assert_eq!(cluster.answer(remove), Some(Ok(Reply::Done)));
        assert!(cluster.answer(message).is_some());
        let ended = |command: &u32| cluster.status(*command).is_some();
        assert!(commands.iter().all(ended));
        cluster.demand_idle();
    });
}
