//! What section 7 asks of suspends and push-back and needs a target that waits for paths: outcomes, races, whole originals.

use super::super::super::io::Op;
use super::super::{RESUME, clones, completed, for_seeds};
use super::*;
use crate::sim::{Answers, Random, Seen};

/// Each core's copy of the noflush flag.
fn flags(cluster: &Cluster) -> Vec<bool> {
    let flag = |mapper: &crate::dm::Mapper<_>| mapper.device(DEVICE).is_some_and(|d| d.noflush);
    cluster.mappers.iter().map(flag).collect()
}

/// Both disks keep what they are given until a test releases it.
fn hold_back(cluster: &mut Cluster) {
    for disk in 0..2 {
        cluster.disk(disk).answers = Answers::Later;
        cluster.disk(disk).frozen = true;
    }
}

fn fail_both_paths(cluster: &mut Cluster) {
    say(cluster, "fail_path d0");
    say(cluster, "fail_path d1");
}

/// Per core one write that the first disk keeps, and eight originals that no path is left for.
fn below_and_waiting(cluster: &mut Cluster) -> (Vec<u32>, Vec<u32>) {
    hold_back(cluster);
    let cores = cluster.mappers.len() as u16;
    let below = (0..cores)
        .map(|core| cluster.submit(core, DEVICE, Ask::fill(40 + u64::from(core), 1, 9)))
        .collect();
    fail_both_paths(cluster);
    let waiting = submit_all(cluster, 8);
    (below, waiting)
}

fn errno(answer: Option<Answer>) -> &'static str {
    let error = answer.expect("answered").expect_err("refused");
    error.errno.name()
}

/// AT-11: a step after presuspend fails. In a noflush suspend that is the drain, whose time is up: the flag falls, what was pushed back is
/// mapped again, here to a path that came back meanwhile; the suspend says why, and the device runs.
#[test]
fn at_11_a_step_that_fails_gives_back_what_was_pushed_back() {
    for_seeds(40, |seed| {
        let mut cluster = running(3, seed, QUEUEING);
        let (below, waiting) = below_and_waiting(&mut cluster);
        let suspend = cluster.request(
            DEVICE,
            Request::Suspend(SuspendOptions {
                timeout_ns: Some(1_000_000),
                ..NOFLUSH
            }),
        );
        deliver_all(&mut cluster);
        assert_eq!(counts(&cluster), (3, 0, 24, 24), "pushed back");
        cluster.disk(1).answers = Answers::Inline;
        say(&mut cluster, "reinstate_path d1");
        assert!(none_ended(&cluster, &waiting));
        cluster.settle();
        assert_eq!(errno(cluster.answer(suspend)), "ETIMEDOUT");
        assert_eq!(flags(&cluster), [false; 3]);
        assert!(!cluster.info(DEVICE).suspended);
        assert_eq!(ended(&cluster, &waiting, Status::Ok), 24);
        assert_eq!(cluster.disk(1).sector(16)[0], 3, "on the path of now");
        assert!(none_ended(&cluster, &below));
        cluster.disk(0).frozen = false;
        cluster.settle();
        assert_eq!(ended(&cluster, &below, Status::Ok), 3);
        cluster.demand_idle();
    });
}

/// AT-11 without noflush: the flush that lockfs asks for fails. Nothing was pushed back, and all goes on.
#[test]
fn at_11_a_failed_freeze_lets_the_device_run() {
    for_seeds(20, |seed| {
        let mut cluster = running(2, seed, "0 64 linear d0 0");
        cluster.disk(0).flushes_failing = 1000;
        let suspend = cluster.request(
            DEVICE,
            Request::Suspend(SuspendOptions {
                lockfs: true,
                ..SuspendOptions::default()
            }),
        );
        cluster.steps(seed % 4);
        let commands = submit_all(&mut cluster, 4);
        cluster.settle();
        assert_eq!(errno(cluster.answer(suspend)), "EIO");
        assert!(!cluster.info(DEVICE).suspended);
        assert_eq!(ended(&cluster, &commands, Status::Ok), commands.len());
        cluster.demand_idle();
    });
}

/// AT-12 (b): one piece was handed back while the flag was up, the other ends after the cancel: the decision is made then, and is an I/O error.
#[test]
fn at_12_b_what_is_decided_after_the_cancel_is_an_error() {
    for_seeds(20, |seed| {
        let mut cluster = running(2, seed, QUEUEING);
        hold_back(&mut cluster);
        let command = cluster.submit(0, DEVICE, Ask::fill(0, 32, 1));
        fail_both_paths(&mut cluster);
        let suspend = cluster.request(DEVICE, SUSPEND_NOFLUSH);
        cluster.settle();
        cluster.disk(0).fail_held(Status::Transport);
        cluster.release(0);
        let cancel = cluster.request(DEVICE, Request::Cancel);
        cluster.settle();
        assert_eq!(cluster.answer(cancel), Some(Ok(Reply::Done)));
        assert_eq!(errno(cluster.answer(suspend)), "EINTR");
        assert_eq!(cluster.status(command), None);
        cluster.release(1);
        cluster.settle();
        assert_eq!(cluster.status(command), Some(Status::IoError));
        assert_eq!(completed(&cluster), [command], "once");
        demand_zero_counters(&cluster);
        cluster.demand_idle();
    });
}

/// AT-13, SU-4: the flag is up on each core from its presuspend hook to the end of the drain, so targets may push back all the while;
/// and down on all when the suspend is answered, however it ended.
#[test]
fn at_13_the_flag_is_up_from_presuspend_to_the_end_of_the_drain() {
    for_seeds(30, |seed| {
        for outcome in ["success", "time-out", "cancel"] {
            let mut cluster = running(3, seed, QUEUEING);
            let (below, waiting) = below_and_waiting(&mut cluster);
            assert_eq!(flags(&cluster), [false; 3]);
            let timeout_ns = (outcome == "time-out").then_some(1_000_000);
            let options = SuspendOptions {
                timeout_ns,
                ..NOFLUSH
            };
            let suspend = cluster.request(DEVICE, Request::Suspend(options));
            deliver_all(&mut cluster);
            // Two of three cores have drained when these two have ended.
            for left in [3, 2, 1] {
                assert_eq!(flags(&cluster), [true; 3], "{left} are below");
                assert_eq!(counts(&cluster).0, left);
                if left > 1 {
                    cluster.release(0);
                    deliver_all(&mut cluster);
                }
            }
            match outcome {
                "success" => assert!(cluster.release(0)),
                "cancel" => {
                    cluster.request(DEVICE, Request::Cancel);
                }
                _ => {}
            }
            let answer = loop {
                match cluster.answer(suspend) {
                    Some(answer) => break answer,
                    None => assert!(cluster.step()),
                }
            };
            assert_eq!(answer.is_ok(), outcome == "success");
            assert_eq!(flags(&cluster), [false; 3], "{outcome}");
            assert!(none_ended(&cluster, &waiting), "{outcome}");
            cluster.disk(0).frozen = false;
            if outcome == "success" {
                cluster.done(DEVICE, RESUME);
            }
            say(&mut cluster, "reinstate_path d0");
            cluster.settle();
            let all = [below, waiting].concat();
            assert_eq!(ended(&cluster, &all, Status::Ok), all.len());
            cluster.demand_idle();
        }
    });
}

/// AT-15: lockfs asks for a flush before the gate closes; with noflush there is none, for it might be pushed back and never return.
#[test]
fn at_15_noflush_overrides_lockfs() {
    for (noflush, flushes) in [(false, 1), (true, 0)] {
        let mut cluster = running(3, 1, QUEUEING);
        cluster.run(1, DEVICE, Ask::fill(0, 1, 1));
        let options = SuspendOptions {
            noflush,
            lockfs: true,
            timeout_ns: None,
        };
        cluster.done(DEVICE, Request::Suspend(options));
        let flushed: u64 = [0, 1].map(|disk| cluster.disk(disk).flushes).iter().sum();
        assert_eq!(flushed, flushes, "noflush {noflush}");
    }
    // Where no flush could succeed, only the one with noflush does.
    for (noflush, succeeds) in [(false, false), (true, true)] {
        let mut cluster = pathless(3, 1, QUEUEING);
        let options = SuspendOptions {
            noflush,
            lockfs: true,
            timeout_ns: None,
        };
        let answer = cluster.ask(DEVICE, Request::Suspend(options));
        assert_eq!(answer.is_ok(), succeeds);
    }
}

/// AT-26 with noflush: a flush clone is parked for want of a path; the suspend takes it out, which ends the step, and leaves the sequence
/// there. After the resume that step is done on the new table, and none before it again.
#[test]
fn at_26_noflush_abandons_the_step_and_the_new_table_repeats_it() {
    const WRITE: (usize, Op, bool) = (2, Op::Write, true);
    const FLUSH: (usize, Op, bool) = (2, Op::Flush, false);
    for (post, expected) in [(false, vec![FLUSH, WRITE, FLUSH]), (true, vec![FLUSH])] {
        for_seeds(20, |seed| {
            let mut cluster = running_with(3, seed, true, QUEUEING);
            say(&mut cluster, "fail_path d1");
            if post {
                let script = [
                    Answers::Inline,
                    Answers::Inline,
                    Answers::FailLater(Status::Transport),
                ];
                cluster.disk(0).script = script.into();
            } else {
                say(&mut cluster, "fail_path d0");
            }
            let barrier = cluster.submit(1, DEVICE, Ask::fill(0, 1, 7).fua());
            let behind = cluster.submit(1, DEVICE, Ask::fill(1, 1, 7));
            cluster.settle();
            assert_eq!(counts(&cluster).1, 1, "a flush clone is parked");
            cluster.seen();
            cluster.done(DEVICE, SUSPEND_NOFLUSH);
            cluster.settle();
            let (in_flight, held, parked, _) = counts(&cluster);
            assert_eq!((in_flight, held, parked), (0, 0, 2));
            assert_eq!(clones(&cluster), [], "none in flight, none started");
            assert!(none_ended(&cluster, &[barrier, behind]));
            cluster.switch_to(DEVICE, OTHER);
            cluster.settle();
            let mut all = clones(&cluster);
            assert_eq!(all.pop(), Some((2, Op::Write, false)), "what was behind");
            assert_eq!(all, expected);
            assert_eq!(ended(&cluster, &[barrier, behind], Status::Ok), 2);
            cluster.demand_idle();
        });
    }
}

/// AT-20, PM-21: a barrier waits for an earlier write, which a noflush suspend pushes back: for the drain it is gone, but it has not been done.
/// Whether the suspend ends well or is given up at any moment, the write comes before the barrier. (Found by the simulator.)
#[test]
fn at_20_what_was_pushed_back_still_comes_before_the_barrier() {
    for_seeds(200, |seed| {
        let mut cluster = running_with(3, seed, true, QUEUEING);
        fail_both_paths(&mut cluster);
        let core = (seed % 3) as u16;
        let before = cluster.submit(core, DEVICE, Ask::fill(0, 1, 1));
        let barrier = cluster.submit(core, DEVICE, Ask::fill(0, 1, 2).fua());
        let behind = cluster.submit(core, DEVICE, Ask::fill(0, 1, 3));
        cluster.steps(seed / 3 % 8);
        let suspend = cluster.request(DEVICE, SUSPEND_NOFLUSH);
        cluster.steps(seed / 5 % 13);
        cluster.request(DEVICE, Request::Cancel);
        cluster.settle();
        if cluster.answer(suspend).expect("answered").is_ok() {
            cluster.done(DEVICE, RESUME);
        }
        cluster.seen();
        say(&mut cluster, "reinstate_path d0");
        cluster.settle();
        let ops: Vec<_> = clones(&cluster)
            .into_iter()
            .map(|(_, op, fua)| (op, fua))
            .collect();
        let (write, flush) = ((Op::Write, false), (Op::Flush, false));
        assert_eq!(ops, [write, flush, (Op::Write, true), flush, write]);
        assert_eq!(ended(&cluster, &[before, barrier, behind], Status::Ok), 3);
        assert_eq!(cluster.disk(0).sector(0)[0], 3);
        cluster.demand_idle();
    });
}

/// AT-29: a barrier's data is cut into pieces and tried on another path like any other, between its two flush steps.
#[test]
fn at_29_the_data_of_a_barrier_is_cut_and_retried() {
    for_seeds(20, |seed| {
        let text = "0 64 multipath 0 0 2 1 round-robin 0 1 0 d0 round-robin 0 1 0 d1";
        let mut cluster = running_with(2, seed, true, text);
        cluster.disk(0).script = [
            Answers::Inline,
            Answers::Later,
            Answers::FailLater(Status::Transport),
            Answers::FailLater(Status::Transport),
        ]
        .into();
        let bytes: Vec<u8> = (0..40 * 512).map(|n| (n / 512) as u8 + 1).collect();
        let barrier = Ask::write(3, bytes.clone()).fua();
        assert_eq!(cluster.run(1, DEVICE, barrier).0, Status::Ok);
        let seen = clones(&cluster);
        assert_eq!(seen.first(), Some(&(0, Op::Flush, false)));
        assert_eq!(seen.last(), Some(&(1, Op::Flush, false)));
        let data = &seen[1..seen.len() - 1];
        assert!(data.iter().all(|(_, op, fua)| *op == Op::Write && *fua));
        let on = |path: usize| data.iter().filter(|(disk, ..)| *disk == path).count();
        assert_eq!(
            (on(0), on(1)),
            (3, 2),
            "three pieces, two of them once more"
        );
        for (at, byte) in (3..43u64).zip(1..) {
            let disk = usize::from(at >= 19);
            assert_eq!(cluster.disk(disk).sector(at)[0], byte, "sector {at}");
        }
        cluster.demand_idle();
    });
}

/// AT-41: two pieces, here four, of one original are handed back: it is pushed back once, and each of its sectors is issued once again.
#[test]
fn at_41_each_sector_of_a_pushed_back_original_is_issued_once() {
    for_seeds(20, |seed| {
        let mut cluster = pathless(2, seed, QUEUEING);
        let bytes: Vec<u8> = (0..64 * 512).map(|n| (n / 512) as u8 + 1).collect();
        let command = cluster.submit(1, DEVICE, Ask::write(0, bytes.clone()));
        assert_eq!(counts(&cluster), (1, 4, 0, 0), "four pieces");
        cluster.done(DEVICE, SUSPEND_NOFLUSH);
        assert_eq!(counts(&cluster), (0, 0, 1, 1), "one original");
        say(&mut cluster, "reinstate_path d1");
        cluster.seen();
        cluster.done(DEVICE, RESUME);
        cluster.settle();
        let mut issued = Vec::new();
        for seen in cluster.seen() {
            if let Seen::Submitted {
                sector, sectors, ..
            } = seen
            {
                issued.extend(sector..sector + u64::from(sectors));
            }
        }
        issued.sort_unstable();
        assert_eq!(issued, Vec::from_iter(0..64));
        assert_eq!(cluster.status(command), Some(Status::Ok));
        let found = cluster.run(0, DEVICE, Ask::read(0, 64));
        assert_eq!(found, (Status::Ok, bytes));
        cluster.demand_idle();
    });
}

/// AT-42: one piece is done, the other pushed back: the original completes when it was issued again and not before, after a number of
/// suspends too.
#[test]
fn at_42_an_original_completes_after_the_piece_that_was_pushed_back() {
    for_seeds(20, |seed| {
        let mut cluster = running(2, seed, QUEUEING);
        hold_back(&mut cluster);
        let command = cluster.submit(0, DEVICE, Ask::fill(0, 32, 1));
        fail_both_paths(&mut cluster);
        for round in 1..=3 {
            let suspend = cluster.request(DEVICE, SUSPEND_NOFLUSH);
            cluster.settle();
            if round == 1 {
                cluster.disk(1).fail_held(Status::Transport);
                cluster.release(0);
                cluster.release(1);
                cluster.settle();
            }
            assert_eq!(cluster.answer(suspend), Some(Ok(Reply::Done)));
            assert_eq!(cluster.status(command), None);
            assert_eq!(counts(&cluster), (0, 0, 1, round));
            cluster.done(DEVICE, RESUME);
            cluster.settle();
            assert_eq!(counts(&cluster), (1, 2, 0, round), "waits for a path again");
        }
        cluster.disk(0).answers = Answers::Inline;
        say(&mut cluster, "reinstate_path d0");
        cluster.settle();
        assert_eq!(cluster.status(command), Some(Status::Ok));
        let disk = cluster.disk(0);
        assert_eq!((disk.sector(0)[0], disk.sector(31)[0]), (1, 1));
        drop(disk);
        cluster.demand_idle();
    });
}

/// AT-43, IO-19, R1: completions that push back race a cancel, in every order that a seed makes of it. Whatever was decided, nothing is left
/// where only another event would wake it.
#[test]
fn at_43_nothing_sleeps_after_a_cancel() {
    for_seeds(300, race);
}

/// AT-17: the 10^6 races that it asks for.
#[test]
#[ignore = "minutes; run it with --release after a change of suspend or push-back"]
fn at_17_a_million_races() {
    for_seeds(1_000_000, race);
}

/// One race of a noflush suspend, its cancel, and the completions of what is below.
fn race(seed: u64) {
    let mut random = Random::new(seed);
    let mut cluster = running(3, seed, QUEUEING);
    hold_back(&mut cluster);
    let whole = submit_all(&mut cluster, 2);
    let pieces: Vec<u32> = (0..3)
        .map(|core| cluster.submit(core, DEVICE, Ask::fill(24, 40, 1)))
        .collect();
    fail_both_paths(&mut cluster);
    let waiting = submit_all(&mut cluster, 2);
    let suspend = cluster.request(DEVICE, SUSPEND_NOFLUSH);
    cluster.steps(random.below(12));
    let cancel = cluster.request(DEVICE, Request::Cancel);
    for disk in [0, 1, 0, 1] {
        cluster.disk(disk).fail_held(Status::Transport);
        for _ in 0..random.below(9) {
            cluster.release(disk);
            cluster.steps(random.below(3));
        }
    }
    (0..2).for_each(|disk| cluster.disk(disk).frozen = false);
    cluster.settle();
    let cancelled = cluster.answer(cancel).expect("answered").is_ok();
    let suspended = cluster.answer(suspend).expect("answered").is_ok();
    assert_eq!(cancelled, !suspended, "all of it, or nothing (R2)");
    if suspended {
        cluster.done(DEVICE, RESUME);
        cluster.settle();
    }
    assert_eq!(
        counts(&cluster).2,
        0,
        "nothing is parked on a running device"
    );
    say(&mut cluster, "reinstate_path d0");
    cluster.settle();
    let all = [whole, waiting].concat();
    assert_eq!(ended(&cluster, &all, Status::Ok), all.len());
    let well = ended(&cluster, &pieces, Status::Ok);
    let failed = ended(&cluster, &pieces, Status::IoError);
    assert_eq!(well + failed, pieces.len());
    assert!(failed == 0 || cancelled, "only a cancel explains an error");
    demand_zero_counters(&cluster);
    cluster.demand_idle();
}

/// AT-58, LC-21: a device goes with I/O that was pushed back, with some that came later, and with some that waits for its sequence: each
/// ends once, aborted, and nothing of the device is left. The cluster demands that nothing is completed twice.
#[test]
fn at_58_remove_ends_what_is_parked() {
    for_seeds(20, |seed| {
        for suspended in [true, false] {
            for ordered in [true, false] {
                let mut cluster = running_with(3, seed, ordered, QUEUEING);
                fail_both_paths(&mut cluster);
                let mut commands = submit_all(&mut cluster, 4);
                commands.push(cluster.submit(1, DEVICE, Ask::compare_and_write(0, 1, 0, 1)));
                commands.push(cluster.submit(2, DEVICE, Ask::fill(0, 1, 1).fua()));
                cluster.steps(seed % 10);
                if suspended {
                    cluster.done(DEVICE, SUSPEND_NOFLUSH);
                    commands.extend(submit_all(&mut cluster, 2));
                    assert!(none_ended(&cluster, &commands));
                }
                cluster.done(DEVICE, Request::Remove);
                cluster.settle();
                let aborted = ended(&cluster, &commands, Status::Aborted);
                let failed = ended(&cluster, &commands, Status::IoError);
                assert_eq!(aborted + failed, commands.len());
                // What a target of a running device holds fails as in a suspend with flush.
                assert!(!suspended || failed == 0, "{failed} have failed");
                assert_eq!([0, 1].map(|disk| cluster.disk(disk).channels), [0, 0]);
                cluster.demand_idle();
            }
        }
    });
}

/// AT-64 across paths: a write was done on one path, its flush fails there and is done on the other, while tables are swapped: nothing
/// that was promised is lost. (Random worlds of this kind are the simulator's.)
#[test]
fn at_64_a_flush_that_fails_over_keeps_its_promise() {
    for_seeds(40, |seed| {
        for ordered in [false, true] {
            let mut cluster = Cluster::new(3, seed);
            (0..2).for_each(|_| {
                cluster.add_disk(64, |lower| lower.fua = false);
            });
            {
                let disks = &mut cluster.shared().disks;
                let (first, second) = disks.split_at_mut(1);
                second[0].share(&first[0]);
            }
            cluster.device(0, ordered, QUEUEING);
            for core in 0..3 {
                let write = Ask::fill(u64::from(core) * 20, 20, core as u8 + 1);
                assert_eq!(cluster.run(core, DEVICE, write).0, Status::Ok);
            }
            let fails = Answers::FailLater(Status::Transport);
            cluster.disk(0).answers = fails;
            cluster.disk(1).answers = Answers::Later;
            let flush = cluster.submit((seed % 3) as u16, DEVICE, Ask::flush());
            cluster.steps(seed % 8);
            let table = cluster.table(QUEUEING);
            cluster.done(DEVICE, Request::Load(table));
            let suspend = NOFLUSH;
            cluster.done(
                DEVICE,
                Request::Resume {
                    open: true,
                    suspend,
                },
            );
            cluster.settle();
            assert_eq!(cluster.status(flush), Some(Status::Ok));
            cluster.disk(1).power_cut();
            for at in 0..60 {
                assert_eq!(cluster.disk(0).sector(at)[0], at as u8 / 20 + 1, "{at}");
            }
        }
    });
}

/// AT-77, IO-21: a compare-and-write that waits for a path, before it compared or before it wrote, is pushed back and goes on: it compares once
/// and writes once, and finds what it would have found.
#[test]
fn at_77_a_pushed_back_compare_and_write_runs_once() {
    for compared in [false, true] {
        for_seeds(20, |seed| {
            let mut cluster = running(3, seed, QUEUEING);
            cluster.run(0, DEVICE, Ask::fill(5, 1, 3));
            say(&mut cluster, "fail_path d1");
            if compared {
                let fails = Answers::FailLater(Status::Transport);
                cluster.disk(0).script = [Answers::Inline, fails].into();
            } else {
                say(&mut cluster, "fail_path d0");
            }
            cluster.seen();
            let command = cluster.submit(1, DEVICE, Ask::compare_and_write(5, 1, 3, 4));
            cluster.settle();
            assert_eq!(counts(&cluster).1, 1, "its clone waits for a path");
            for _ in 0..2 {
                cluster.done(DEVICE, SUSPEND_NOFLUSH);
                assert!(none_ended(&cluster, &[command]));
                cluster.done(DEVICE, RESUME);
                cluster.settle();
            }
            say(&mut cluster, "reinstate_path d0");
            cluster.settle();
            assert_eq!(cluster.status(command), Some(Status::Ok));
            let count = |wanted: Op, all: &[Seen]| {
                let ended = |seen: &&Seen| matches!(seen, Seen::Ended { op, status: Status::Ok, .. } if *op == wanted);
                all.iter().filter(ended).count()
            };
            let seen = cluster.seen();
            assert_eq!((count(Op::Read, &seen), count(Op::Write, &seen)), (1, 1));
            assert_eq!(cluster.disk(0).sector(5)[0], 4);
            cluster.demand_idle();
        });
    }
}
