//! noflush push-back, the list of S2 (7.1).

use super::super::{RESUME, SUSPEND, for_seeds};
use super::*;
use crate::sim::Answers;

/// AT-03, AT-06, AT-07: I/O without a path waits in the target; a noflush suspend takes it out, and completes nothing; the resume
/// puts it back.
#[test]
fn at_03_06_07_io_is_queued_pushed_back_and_queued_again() {
    for_seeds(20, |seed| {
        let mut cluster = pathless(3, seed, QUEUEING);
        let commands = submit_all(&mut cluster, 8);
        let count = commands.len() as u64;
        cluster.settle();
        assert_eq!(counts(&cluster), (count, count, 0, 0), "AT-03");
        for round in 1..=3 {
            cluster.done(DEVICE, SUSPEND_NOFLUSH);
            assert!(none_ended(&cluster, &commands), "AT-06");
            assert_eq!(counts(&cluster), (0, 0, count, round * count), "AT-06");
            cluster.done(DEVICE, RESUME);
            cluster.settle();
            assert_eq!(counts(&cluster), (count, count, 0, round * count), "AT-07");
        }
        say(&mut cluster, "reinstate_path d1");
        cluster.settle();
        assert_eq!(ended(&cluster, &commands, Status::Ok), commands.len());
        cluster.demand_idle();
    });
}

/// AT-04: a suspend with flush fails what waits, and succeeds.
#[test]
fn at_04_a_flush_suspend_fails_what_waits() {
    for_seeds(20, |seed| {
        let mut cluster = pathless(3, seed, QUEUEING);
        let commands = submit_all(&mut cluster, 8);
        cluster.settle();
        cluster.done(DEVICE, SUSPEND);
        assert_eq!(ended(&cluster, &commands, Status::IoError), commands.len());
        assert_eq!(counts(&cluster), (0, 0, 0, 0));
        cluster.demand_idle();
    });
}

/// AT-05: the pieces of one original fail once, as a whole.
#[test]
fn at_05_an_original_in_pieces_fails_once() {
    let mut cluster = pathless(1, 1, QUEUEING);
    let command = cluster.submit(0, DEVICE, Ask::fill(0, 64, 1));
    assert_eq!(counts(&cluster), (1, 4, 0, 0), "four pieces of 16 sectors");
    cluster.done(DEVICE, SUSPEND);
    // The cluster demands that it is completed once.
    assert_eq!(cluster.status(command), Some(Status::IoError));
    cluster.demand_idle();
}

/// AT-08a: paths come back while the device is suspended, or after it was resumed.
#[test]
fn at_08a_paths_recover() {
    for_seeds(20, |seed| {
        for while_suspended in [true, false] {
            let mut cluster = pathless(3, seed, QUEUEING);
            let commands = submit_all(&mut cluster, 8);
            cluster.done(DEVICE, SUSPEND_NOFLUSH);
            let order = match while_suspended {
                true => ["reinstate", "resume"],
                false => ["resume", "reinstate"],
            };
            for what in order {
                assert!(none_ended(&cluster, &commands));
                match what {
                    "resume" => cluster.done(DEVICE, RESUME),
                    _ => say(&mut cluster, "reinstate_path d0"),
                }
            }
            cluster.settle();
            assert_eq!(ended(&cluster, &commands, Status::Ok), commands.len());
            assert_eq!(cluster.disk(0).sector(16)[0], 3);
            assert_eq!(cluster.disk(1).sector(16)[0], 0);
            cluster.demand_idle();
        }
    });
}

/// AT-08b: a table with another path is loaded while the device is suspended.
#[test]
fn at_08b_a_new_table_brings_a_path() {
    for_seeds(20, |seed| {
        let mut cluster = pathless(3, seed, QUEUEING);
        let commands = submit_all(&mut cluster, 8);
        cluster.done(DEVICE, SUSPEND_NOFLUSH);
        cluster.switch_to(DEVICE, OTHER);
        cluster.settle();
        assert_eq!(ended(&cluster, &commands, Status::Ok), commands.len());
        assert_eq!(cluster.disk(2).sector(16)[0], 3);
        cluster.demand_idle();
    });
}

/// AT-09, AT-10: the suspend is part of the resume with the new table; originals in pieces succeed too, with the right data, once.
#[test]
fn at_09_10_a_swap_with_noflush_loses_nothing() {
    for_seeds(40, |seed| {
        let mut cluster = pathless(3, seed, QUEUEING);
        let mut commands = submit_all(&mut cluster, 4);
        let bytes: Vec<u8> = (0..40 * 512).map(|n| (n / 512) as u8 + 100).collect();
        commands.push(cluster.submit(1, DEVICE, Ask::write(24, bytes.clone())));
        commands.push(cluster.submit(2, DEVICE, Ask::flush()));
        cluster.steps(seed % 5);
        let table = cluster.table(OTHER);
        cluster.done(DEVICE, Request::Load(table));
        let resume = cluster.request(
            DEVICE,
            Request::Resume {
                open: true,
                suspend: NOFLUSH,
            },
        );
        for n in 0..10 {
            cluster.steps(n);
            commands.push(cluster.submit((n % 3) as u16, DEVICE, Ask::read(n, 1)));
        }
        cluster.settle();
        assert_eq!(cluster.answer(resume), Some(Ok(Reply::Done)));
        assert_eq!(ended(&cluster, &commands, Status::Ok), commands.len());
        assert_eq!(
            cluster.run(0, DEVICE, Ask::read(24, 40)),
            (Status::Ok, bytes)
        );
        assert_eq!(cluster.disk(2).flushes, 1);
        cluster.demand_idle();
    });
}

/// The same without noflush: what waits fails, for that is what the operator asked for.
#[test]
fn a_swap_with_flush_fails_what_waits() {
    let mut cluster = pathless(2, 1, QUEUEING);
    let commands = submit_all(&mut cluster, 4);
    cluster.switch_to(DEVICE, OTHER);
    assert_eq!(ended(&cluster, &commands, Status::IoError), commands.len());
}

/// AT-12, AT-13, SU-8: a noflush suspend is cancelled while some I/O was pushed back and other is held below. What was pushed back is
/// queued again, and what fails below after the cancel is queued as well, for the flag has fallen and queueing is on.
#[test]
fn at_12_13_a_cancelled_suspend_gives_everything_back() {
    for_seeds(60, |seed| {
        let mut cluster = running(3, seed, QUEUEING);
        cluster.disk(0).frozen = true;
        (0..2).for_each(|disk| cluster.disk(disk).answers = Answers::Later);
        let below: Vec<_> = (0..3)
            .map(|core| cluster.submit(core, DEVICE, Ask::fill(40, 1, 1)))
            .collect();
        say(&mut cluster, "fail_path d0");
        say(&mut cluster, "fail_path d1");
        let waiting = submit_all(&mut cluster, 4);
        cluster.settle();
        assert_eq!(counts(&cluster), (15, 12, 0, 0));
        let suspend = cluster.request(DEVICE, SUSPEND_NOFLUSH);
        cluster.settle();
        assert_eq!(cluster.answer(suspend), None, "I/O is below");
        assert_eq!(counts(&cluster), (3, 0, 12, 12));
        // The flag is up on this core until the cancel has reached it.
        if seed % 3 == 0 {
            cluster.disk(0).fail_held(Status::Transport);
            cluster.release(0);
            assert_eq!(counts(&cluster), (2, 0, 13, 13));
        }
        let cancel = cluster.request(DEVICE, Request::Cancel);
        assert!(
            cluster.deliver(3, 0),
            "decided, before the last I/O ends (R2)"
        );
        cluster.steps(seed % 6);
        cluster.disk(0).fail_held(Status::Transport);
        cluster.disk(0).frozen = false;
        cluster.settle();
        assert_eq!(cluster.answer(cancel), Some(Ok(Reply::Done)));
        let answer = cluster.answer(suspend).expect("answered");
        assert_eq!(answer.expect_err("cancelled").errno.name(), "EINTR");
        assert!(none_ended(&cluster, &below) && none_ended(&cluster, &waiting));
        let (in_flight, held, parked, _) = counts(&cluster);
        assert_eq!((in_flight, held, parked), (15, 15, 0));
        say(&mut cluster, "reinstate_path d1");
        cluster.settle();
        assert_eq!(ended(&cluster, &[below, waiting].concat(), Status::Ok), 15);
        demand_zero_counters(&cluster);
        cluster.demand_idle();
    });
}

/// AT-13: after a suspend that succeeded, no flag is left: what has no path after the resume waits, and is not pushed back.
#[test]
fn at_13_no_flag_is_left_after_a_suspend() {
    for request in [SUSPEND_NOFLUSH, SUSPEND] {
        let mut cluster = pathless(2, 1, QUEUEING);
        cluster.done(DEVICE, request);
        cluster.done(DEVICE, RESUME);
        let commands = submit_all(&mut cluster, 2);
        cluster.settle();
        assert_eq!(counts(&cluster), (4, 4, 0, 0));
        say(&mut cluster, "fail_if_no_path");
        cluster.settle();
        assert_eq!(ended(&cluster, &commands, Status::IoError), 4);
    }
}

/// AT-14: one piece ends with an error of the device, the other is pushed back: in a noflush suspend the original is parked, in
/// either order, and done again as a whole. In a suspend with flush it fails.
#[test]
fn at_14_push_back_outranks_errors_of_other_pieces() {
    for noflush in [true, false] {
        for error_first in [true, false] {
            let mut cluster = running(
                1,
                1,
                "0 64 multipath 1 queue_if_no_path 0 1 1 round-robin 0 2 0 d0 d1",
            );
            (0..2).for_each(|disk| {
                cluster.disk(disk).answers = Answers::Later;
                cluster.disk(disk).frozen = true;
            });
            let command = cluster.submit(0, DEVICE, Ask::fill(0, 32, 1));
            say(&mut cluster, "fail_path d0");
            say(&mut cluster, "fail_path d1");
            let request = if noflush { SUSPEND_NOFLUSH } else { SUSPEND };
            let suspend = cluster.request(DEVICE, request);
            cluster.settle();
            cluster.disk(0).fail_held(Status::Medium);
            cluster.disk(1).fail_held(Status::Transport);
            let order = if error_first { [0, 1] } else { [1, 0] };
            for disk in order {
                assert!(cluster.release(disk));
            }
            cluster.settle();
            assert_eq!(cluster.answer(suspend), Some(Ok(Reply::Done)));
            if noflush {
                assert_eq!(cluster.status(command), None);
                assert_eq!(counts(&cluster), (0, 0, 1, 1));
                cluster.disk(1).answers = Answers::Inline;
                say(&mut cluster, "reinstate_path d1");
                cluster.done(DEVICE, RESUME);
                cluster.settle();
                assert_eq!(cluster.status(command), Some(Status::Ok));
                assert_eq!(cluster.disk(1).sector(0)[0], 1);
                assert_eq!(cluster.disk(1).sector(31)[0], 1);
            } else {
                let first = if error_first {
                    Status::Medium
                } else {
                    Status::IoError
                };
                assert_eq!(cluster.status(command), Some(first));
            }
            cluster.demand_idle();
        }
    }
}

/// AT-16 with a target that pushes back: what came first goes first, though its clones were handed back from several lists.
#[test]
fn at_16_pushed_back_io_keeps_its_order() {
    for_seeds(20, |seed| {
        let mut cluster = pathless(2, seed, QUEUEING);
        let mut commands: Vec<_> = (0..10u8)
            .map(|n| cluster.submit(0, DEVICE, Ask::fill(0, 1, n)))
            .collect();
        let suspend = cluster.request(DEVICE, SUSPEND_NOFLUSH);
        cluster.steps(seed % 9);
        commands.extend((10..20u8).map(|n| cluster.submit(0, DEVICE, Ask::fill(0, 1, n))));
        cluster.settle();
        assert_eq!(cluster.answer(suspend), Some(Ok(Reply::Done)));
        commands.extend((20..30u8).map(|n| cluster.submit(0, DEVICE, Ask::fill(0, 1, n))));
        say(&mut cluster, "reinstate_path d0");
        cluster.seen();
        cluster.done(DEVICE, RESUME);
        cluster.settle();
        assert_eq!(super::super::completed(&cluster), commands);
        assert_eq!(cluster.disk(0).sector(0)[0], 29);
    });
}
