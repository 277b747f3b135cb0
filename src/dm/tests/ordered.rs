//! The ordered policy: the barrier sequence of 2009 by messages (3.1, 3.2).

use super::super::io::{DeviceId, Op};
use super::super::status::Status;
use super::for_seeds;
use super::{RESUME, SUSPEND};
use super::{clones, completed};
use crate::sim::{Answers, Ask, Cluster, Seen};

const DEVICE: DeviceId = DeviceId(0);

/// Two disks striped, under the ordered policy.
fn ordered(cores: u16, seed: u64) -> Cluster {
    let mut cluster = Cluster::new(cores, seed);
    cluster.add_disks(2);
    cluster.device(0, true, "0 128 striped 2 8 d0 0 d1 0");
    cluster.seen();
    cluster
}

const WRITE: (Op, bool) = (Op::Write, true);
const FLUSH: (Op, bool) = (Op::Flush, false);

/// AT-20: earlier I/O, pre-flush, data, post-flush, completion, later I/O; across all cores, whatever the schedule.
#[test]
fn at_20_the_order_of_a_data_barrier() {
    for_seeds(150, |seed| {
        let mut cluster = ordered(3, seed);
        (0..2).for_each(|disk| {
            cluster.disk(disk).answers = Answers::Mixed {
                inline: 30,
                busy: 20,
            }
        });
        let earlier: Vec<_> = (0..6)
            .map(|n| cluster.submit(n % 3, DEVICE, Ask::fill(u64::from(n) * 7, 3, 1)))
            .collect();
        let barrier = cluster.submit(0, DEVICE, Ask::fill(60, 8, 2).fua());
        let later: Vec<_> = (0..4)
            .map(|n| cluster.submit(0, DEVICE, Ask::read(n * 8, 1)))
            .collect();
        cluster.settle();
        let seen = cluster.seen();
        let at = |wanted: &dyn Fn(&Seen) -> bool| -> Vec<usize> {
            (0..seen.len()).filter(|at| wanted(&seen[*at])).collect()
        };
        let completed_at = |list: &[u32]| {
            at(&|s| matches!(s, Seen::Completed { command, .. } if list.contains(command)))
        };
        let flushed = at(&|s| matches!(s, Seen::Submitted { op: Op::Flush, .. }));
        let flush_ended = at(&|s| matches!(s, Seen::Ended { op: Op::Flush, .. }));
        let data = at(&|s| {
            matches!(
                s,
                Seen::Submitted {
                    op: Op::Write,
                    fua: true,
                    ..
                }
            )
        });
        let reads = at(&|s| matches!(s, Seen::Submitted { op: Op::Read, .. }));
        // AT-21: two flush clones a step.
        assert_eq!(
            (flushed.len(), flush_ended.len(), data.len(), reads.len()),
            (4, 4, 2, 4)
        );
        let earlier_done = completed_at(&earlier);
        assert_eq!(earlier_done.len(), 6);
        // What other cores submitted before the gate closed there counts as earlier.
        assert!(
            earlier_done.iter().all(|e| *e < flushed[0]),
            "drained first"
        );
        assert!(flush_ended[1] < data[0] && data[1] < flushed[2]);
        let done = completed_at(&[barrier])[0];
        assert!(flush_ended[3] < done && done < reads[0], "{seen:?}");
        assert!(
            later
                .iter()
                .all(|command| cluster.status(*command) == Some(Status::Ok))
        );
        cluster.demand_idle();
    });
}

/// AT-30, FL-2: an empty barrier is drain and one flush step; AT-29: its data is cut like any other.
#[test]
fn at_30_the_steps_of_each_kind() {
    let mut cluster = ordered(2, 0);
    let mut clones_of = |ask| {
        assert_eq!(cluster.run(1, DEVICE, ask).0, Status::Ok);
        clones(&cluster)
            .into_iter()
            .map(|(_, op, fua)| (op, fua))
            .collect::<Vec<_>>()
    };
    assert_eq!(clones_of(Ask::flush()), [FLUSH; 2]);
    assert_eq!(
        clones_of(Ask::fill(4, 16, 1).fua()),
        [FLUSH, FLUSH, WRITE, WRITE, WRITE, FLUSH, FLUSH]
    );
    assert_eq!(clones_of(Ask::fill(4, 1, 1)), [(Op::Write, false)]);
    let zeroes = (Op::WriteZeroes, false);
    let clones = clones_of(Ask::range(Op::WriteZeroes, 0, 16).fua());
    assert_eq!(clones, [FLUSH, FLUSH, zeroes, zeroes, FLUSH, FLUSH]);
    let plain = clones_of(Ask::compare_and_write(8, 1, 0, 1));
    assert_eq!(
        plain,
        [(Op::Read, false), (Op::Write, false)],
        "exclusive, but no barrier"
    );
    let barrier = clones_of(Ask::compare_and_write(8, 1, 1, 2).fua());
    assert_eq!(
        barrier,
        [FLUSH, FLUSH, (Op::Read, false), WRITE, FLUSH, FLUSH]
    );
    cluster.demand_idle();
}

/// AT-21: Σ over the targets where one of them does not let flushes bypass it; AT-30: nothing at all for `zero`.
#[test]
fn at_21_the_number_of_clones() {
    let mut cluster = ordered(2, 0);
    for (table, count) in [
        ("0 32 striped 2 8 d0 0 d1 0\n32 8 linear d0 32", 2),
        (
            "0 32 striped 2 8 d0 0 d1 0\n32 8 linear d0 32\n40 8 zero",
            3,
        ),
        ("0 8 zero\n8 8 error", 0),
    ] {
        cluster.switch_to(DEVICE, table);
        cluster.seen();
        assert_eq!(cluster.run(1, DEVICE, Ask::flush()).0, Status::Ok);
        assert_eq!(clones(&cluster), clones_expected(count), "{table}");
    }
}

fn clones_expected(count: usize) -> Vec<(usize, Op, bool)> {
    let disks: &[usize] = if count == 3 { &[0, 1, 0] } else { &[0, 1] };
    disks
        .iter()
        .take(count)
        .map(|disk| (*disk, FLUSH.0, FLUSH.1))
        .collect()
}

/// AT-22 (as far as there is no push-back), AT-24, AT-25, AT-40: the step ends with its last clone, exactly that error
/// reaches the host, once; after a failed pre-flush the data is not written (FL-27, OQ-6).
#[test]
fn at_24_at_40_a_failed_step_fails_the_barrier() {
    use Status::{IoError, NotSupported, Ok, Transport};
    let later = |status| match status {
        Ok => Answers::Later,
        error => Answers::FailLater(error),
    };
    for (pre, data, post, status) in [
        ([IoError, Transport], Ok, [Ok, Ok], IoError),
        ([Ok, NotSupported], Ok, [Ok, Ok], NotSupported),
        ([IoError, NotSupported], Ok, [Ok, Ok], NotSupported),
        ([Ok, Ok], Status::Medium, [Ok, Ok], Status::Medium),
        // The data is on the first disk, so its flush is released after the other's.
        ([Ok, Ok], Ok, [IoError, Transport], Transport),
        ([Ok, Ok], Ok, [Ok, Ok], Ok),
    ] {
        let mut cluster = ordered(2, 5);
        (0..2).for_each(|disk| cluster.disk(disk).frozen = true);
        cluster.disk(0).script = [later(pre[0]), later(data), later(post[0])].into();
        cluster.disk(1).script = [later(pre[1]), later(post[1])].into();
        let barrier = cluster.submit(1, DEVICE, Ask::fill(0, 1, 3).fua());
        let behind = cluster.submit(1, DEVICE, Ask::read(8, 1));
        for _ in 0..4 {
            for disk in 0..2 {
                cluster.settle();
                cluster.release(disk);
            }
        }
        cluster.settle();
        assert_eq!(cluster.status(barrier), Some(status));
        assert_eq!(cluster.status(behind), Some(Status::Ok));
        let written = clones(&cluster).iter().any(|(_, op, _)| *op == Op::Write);
        assert_eq!(written, pre == [Ok, Ok], "no data after a failed pre-flush");
        cluster.demand_idle();
    }
}

/// AT-32, FL-1: barriers from several cores at once: one sequence at a time, all complete.
#[test]
fn at_32_one_sequence_at_a_time() {
    for_seeds(100, |seed| {
        let mut cluster = ordered(4, seed);
        (0..2).for_each(|disk| {
            cluster.disk(disk).answers = Answers::Mixed {
                inline: 30,
                busy: 10,
            }
        });
        let barriers: Vec<_> = (0..12)
            .map(|n| cluster.submit(n % 4, DEVICE, Ask::fill(u64::from(n) * 8, 1, 1).fua()))
            .collect();
        cluster.settle();
        assert!(
            barriers
                .iter()
                .all(|command| cluster.status(*command) == Some(Status::Ok))
        );
        let ops: Vec<_> = clones(&cluster).into_iter().map(|(_, op, _)| op).collect();
        let one = [Op::Flush, Op::Flush, Op::Write, Op::Flush, Op::Flush];
        assert_eq!(ops, one.repeat(12));
        cluster.demand_idle();
    });
}

/// AT-28: 10^4 barriers, answered from within the submission or later, nest nowhere: the stack of a small thread suffices.
#[test]
fn at_28_ten_thousand_barriers_do_not_nest() {
    for answers in [Answers::Inline, Answers::Later] {
        let many = std::thread::Builder::new()
            .stack_size(256 << 10)
            .spawn(move || {
                let mut cluster = ordered(2, 0);
                (0..2).for_each(|disk| cluster.disk(disk).answers = answers);
                let ask = |n: u32| {
                    if n.is_multiple_of(2) {
                        Ask::flush()
                    } else {
                        Ask::fill(0, 1, 1).fua()
                    }
                };
                let commands: Vec<_> = (0..10_000)
                    .map(|n| cluster.submit((n % 2) as u16, DEVICE, ask(n / 2)))
                    .collect();
                cluster.settle();
                assert!(
                    commands
                        .iter()
                        .all(|command| cluster.status(*command) == Some(Status::Ok))
                );
                cluster.demand_idle();
            });
        many.expect("a thread").join().expect("no overflow");
    }
}

/// AT-28 without a gate: 10^4 originals parked behind a suspend and re-issued inline do not nest either.
#[test]
fn at_28_ten_thousand_parked_do_not_nest() {
    let many = std::thread::Builder::new().stack_size(256 << 10).spawn(|| {
        let mut cluster = Cluster::new(1, 0);
        cluster.add_disk(64, |_| {});
        cluster.device(0, false, "0 64 linear d0 0");
        cluster.done(DEVICE, SUSPEND);
        for _ in 0..10_000 {
            cluster.submit(0, DEVICE, Ask::flush());
        }
        cluster.done(DEVICE, RESUME);
        cluster.settle();
        assert_eq!(completed(&cluster).len(), 10_000);
        cluster.demand_idle();
    });
    many.expect("a thread").join().expect("no overflow");
}

/// FL-30: empty flushes of several cores that wait when a fan-out begins are served by that one; one that comes after it
/// was issued needs another.
#[test]
fn fl_30_waiting_flushes_are_merged_never_with_one_already_issued() {
    let mut cluster = ordered(4, 3);
    (0..2).for_each(|disk| {
        cluster.disk(disk).answers = Answers::Later;
        cluster.disk(disk).frozen = true;
    });
    let write = cluster.submit(0, DEVICE, Ask::fill(0, 1, 1));
    let first: Vec<_> = (0..3)
        .map(|core| cluster.submit(core, DEVICE, Ask::flush()))
        .collect();
    cluster.settle();
    assert_eq!(cluster.disk(0).flushes, 0, "the write is not done");
    cluster.release(0);
    cluster.settle();
    assert_eq!(cluster.disk(0).flushes, 1);
    let late = cluster.submit(3, DEVICE, Ask::flush());
    cluster.settle();
    for disk in 0..2 {
        cluster.release(disk);
    }
    cluster.settle();
    assert!(
        first
            .iter()
            .all(|command| cluster.status(*command) == Some(Status::Ok))
    );
    assert_eq!(
        (cluster.status(write), cluster.status(late)),
        (Some(Status::Ok), None)
    );
    (0..2).for_each(|disk| assert_eq!(cluster.disk(disk).flushes, 2));
    (0..2).for_each(|disk| cluster.disk(disk).frozen = false);
    cluster.settle();
    assert_eq!(cluster.status(late), Some(Status::Ok));
    cluster.demand_idle();
}

/// PM-19: with barriers waiting on every core all the time, ordinary I/O gets through after at most eight sequences.
#[test]
fn pm_19_barriers_do_not_starve_reads() {
    // More barriers than may follow one another; a core has at most one that waits.
    let cores = 16;
    let mut cluster = ordered(cores, 9);
    let barrier =
        |cluster: &mut Cluster, core| cluster.submit(core, DEVICE, Ask::fill(0, 1, 1).fua());
    let mut waiting: Vec<u32> = (0..cores - 1)
        .map(|core| barrier(&mut cluster, core))
        .collect();
    // A reader on a core without barriers of its own.
    let (mut read, mut reads, mut served_most) = (None, 0, 0);
    for _ in 0..60_000 {
        let command = *read.get_or_insert_with(|| {
            cluster.seen();
            cluster.submit(cores - 1, DEVICE, Ask::read(0, 1))
        });
        if cluster.take(command).is_some() {
            let served = clones(&cluster)
                .into_iter()
                .filter(|(_, op, _)| *op == Op::Write);
            served_most = served_most.max(served.count());
            (read, reads) = (None, reads + 1);
        }
        for (core, slot) in waiting.iter_mut().enumerate() {
            if cluster.take(*slot).is_some() {
                *slot = barrier(&mut cluster, core as u16);
            }
        }
        assert!(cluster.step());
    }
    assert_eq!(served_most, 8, "barriers served while a read waited");
    assert!(reads > 50, "{reads}");
}

/// AT-93: on any number of cores, closing and opening cost two messages per core each, a step two in all; and one asks, one answers.
#[test]
fn at_93_the_messages_of_a_sequence() {
    for cores in [1, 2, 4, 8, 16] {
        for (steps, ask) in [
            (1, Ask::flush()),
            (3, Ask::fill(0, 1, 1).fua()),
            (1, Ask::compare_and_write(0, 1, 1, 2)),
        ] {
            let mut cluster = ordered(cores, u64::from(cores));
            cluster.run(0, DEVICE, Ask::fill(0, 1, 1));
            let before = cluster.shared().messages;
            let submitter = cores / 2;
            assert_eq!(cluster.run(submitter, DEVICE, ask).0, Status::Ok);
            cluster.settle();
            let sent = cluster.shared().messages - before;
            let (close, open) = (2 * u64::from(cores), 2 * u64::from(cores));
            let (asks, answers) = (1, 1);
            assert_eq!(
                sent,
                asks + close + 2 * steps + answers + open,
                "{cores} cores"
            );
        }
    }
}

/// Prints the table of docs/performance.md: what one sequence costs in the simulated cluster, by cores.
#[test]
#[ignore = "prints; run it with --release --ignored --nocapture"]
fn at_93_cost_per_sequence() {
    const SEQUENCES: u32 = 2_000;
    for (name, fua, each) in [("flush", false, 4), ("write with FUA", true, 8)] {
        for cores in [1, 2, 4, 8, 16] {
            let mut cluster = ordered(cores, u64::from(cores));
            let (mut steps, before) = (0, cluster.shared().messages);
            let start = std::time::Instant::now();
            for n in 0..SEQUENCES {
                let ask = if fua {
                    Ask::fill(0, 1, 1).fua()
                } else {
                    Ask::flush()
                };
                let core = (n % u32::from(cores)) as u16;
                cluster.submit(core, DEVICE, ask);
                while cluster.step() {
                    steps += 1;
                }
                cluster.seen();
            }
            let nanoseconds = start.elapsed().as_nanos() / u128::from(SEQUENCES);
            let messages = (cluster.shared().messages - before) / u64::from(SEQUENCES);
            assert_eq!(messages, 4 * u64::from(cores) + each);
            println!(
                "| {name} | {cores} | {messages} | {} | {nanoseconds} |",
                steps / SEQUENCES
            );
        }
    }
}

/// AT-93: nobody looks at another core's counters to see whether it has drained: while a core waits for its last I/O, nothing is sent and
/// nobody has anything to poll.
#[test]
fn at_93_a_drain_is_waited_for_without_polling() {
    let mut cluster = ordered(4, 1);
    cluster.disk(0).answers = Answers::Later;
    cluster.disk(0).frozen = true;
    cluster.submit(3, DEVICE, Ask::fill(0, 1, 1));
    let flush = cluster.submit(1, DEVICE, Ask::flush());
    cluster.settle();
    let before = cluster.shared().messages;
    let now_ns = cluster.shared().now_ns;
    assert!(cluster.mappers.iter().all(|m| !m.wants_poll(now_ns)));
    assert!(
        !cluster.step(),
        "nothing can happen but the end of that I/O"
    );
    cluster.release(0);
    let drained = cluster.shared().messages - before;
    assert_eq!(drained, 1, "one acknowledgement");
    cluster.disk(0).frozen = false;
    cluster.settle();
    assert_eq!(cluster.status(flush), Some(Status::Ok));
}

/// AT-26, AT-27: a suspend in the middle of a sequence lets the running step end and nothing else begin; the sequence goes
/// on where it was, on the new table, before anything parked.
#[test]
fn at_26_suspend_freezes_a_sequence_and_resume_continues_it() {
    for_seeds(150, |seed| {
        let mut cluster = ordered(3, seed);
        cluster.add_disk(128, |_| {});
        (0..3).for_each(|disk| cluster.disk(disk).answers = Answers::Later);
        let first = cluster.submit(0, DEVICE, Ask::fill(0, 16, 1).fua());
        let behind = cluster.submit(0, DEVICE, Ask::fill(0, 16, 2));
        let second = cluster.submit(1, DEVICE, Ask::flush());
        let third = cluster.submit(2, DEVICE, Ask::fill(16, 1, 3).fua());
        cluster.steps(seed % 50);
        cluster.done(DEVICE, SUSPEND);
        cluster.settle();
        let before = clones(&cluster);
        let held: usize = (0..3).map(|disk| cluster.disk(disk).held.len()).sum();
        assert_eq!(
            held, 0,
            "suspended: nothing is in flight, and nothing was started since"
        );
        let written = before
            .iter()
            .filter(|(_, op, fua)| *op == Op::Write && *fua)
            .count();
        let flushed = before.iter().filter(|(_, op, _)| *op == Op::Flush).count();
        assert_eq!(flushed % 2, 0, "whole steps only");
        cluster.switch_to(DEVICE, "0 128 linear d2 0");
        cluster.settle();
        let after = clones(&cluster);
        assert!(
            after.iter().all(|(disk, ..)| *disk == 2),
            "on the new table: {after:?}"
        );
        for command in [first, behind, second, third] {
            assert_eq!(cluster.status(command), Some(Status::Ok));
        }
        // The first barrier wrote its data once: two pieces before, or one after.
        let first_before = before
            .iter()
            .filter(|(disk, op, fua)| (*op, *fua) == (Op::Write, true) && *disk == 1)
            .count();
        assert!(first_before <= 1, "{written}");
        let again = after
            .iter()
            .filter(|(_, op, fua)| (*op, *fua) == (Op::Write, true))
            .count();
        let third_before = written - 2 * first_before;
        assert_eq!(
            first_before + third_before + again,
            2,
            "each data step ran once: {before:?} {after:?}"
        );
        cluster.demand_idle();
    });
}

/// AT-27, PM-21: a suspend waits for the step that runs, not for the sequence: no data after the pre-flush, no second barrier.
/// Resume goes on with the data, and does not flush again before it.
#[test]
fn at_27_a_suspend_waits_for_one_step_only() {
    let mut cluster = ordered(2, 4);
    (0..2).for_each(|disk| {
        cluster.disk(disk).answers = Answers::Later;
        cluster.disk(disk).frozen = true;
    });
    let first = cluster.submit(0, DEVICE, Ask::fill(0, 1, 1).fua());
    cluster.settle();
    let second = cluster.submit(1, DEVICE, Ask::fill(1, 1, 1).fua());
    let suspend = cluster.request(DEVICE, SUSPEND);
    cluster.settle();
    assert_eq!(cluster.answer(suspend), None, "the step is not over");
    for disk in 0..2 {
        cluster.release(disk);
    }
    cluster.settle();
    assert!(cluster.answer(suspend).is_some(), "the step is over");
    let flush = |disk| (disk, FLUSH.0, FLUSH.1);
    assert_eq!(clones(&cluster), [flush(0), flush(1)]);
    (0..2).for_each(|disk| cluster.disk(disk).frozen = false);
    cluster.done(DEVICE, RESUME);
    cluster.settle();
    for command in [first, second] {
        assert_eq!(cluster.status(command), Some(Status::Ok));
    }
    let ops: Vec<_> = clones(&cluster).into_iter().map(|(_, op, _)| op).collect();
    let (write, flush) = (Op::Write, Op::Flush);
    let rest = [write, flush, flush, flush, flush, write, flush, flush];
    assert_eq!(ops, rest);
    cluster.demand_idle();
}
