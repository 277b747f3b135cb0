//! Target `delay` (6.1): when I/O goes on, in which order, and what suspends, aborts and operators make of it.

use proptest::prelude::*;

use super::super::error::Errno;
use super::super::io::{DeviceId, Op};
use super::super::message::{Reply, Request, SuspendOptions};
use super::super::status::Status;
use super::super::table::Table;
use super::{RESUME, SUSPEND, clones, completed, for_seeds};
use crate::sim::{Answers, Ask, Cluster};

const DEVICE: DeviceId = DeviceId(0);
const MS: u64 = 1_000_000;

fn running(cores: u16, seed: u64, ordered: bool, table: &str) -> Cluster {
    let mut cluster = Cluster::new(cores, seed);
    cluster.add_disks(3);
    cluster.device(0, ordered, table);
    cluster.settle();
    cluster.seen();
    cluster
}

fn now_ns(cluster: &Cluster) -> u64 {
    cluster.shared().now_ns
}

/// Submits one I/O, and how long it takes.
fn time_of(cluster: &mut Cluster, ask: Ask) -> u64 {
    let before = now_ns(cluster);
    assert_eq!(cluster.run(0, DEVICE, ask).0, Status::Ok);
    now_ns(cluster) - before
}

fn info(cluster: &mut Cluster) -> String {
    match cluster.ask(DEVICE, Request::Status) {
        Ok(Reply::Lines(lines)) => lines[0].text.clone(),
        other => panic!("{other:?}"),
    }
}

/// Each kind of I/O waits for its own time, and one without a delay for none. Steps cost 100 ns each, so a time is the delay and a little.
#[test]
fn each_kind_waits_for_its_own_time() {
    let table = "0 64 delay d0 0 10 d1 0 20 d2 0 30";
    let mut cluster = running(1, 1, false, table);
    for (ask, ms) in [
        (Ask::read(0, 8), 10),
        (Ask::fill(0, 8, 1), 20),
        (Ask::fill(0, 8, 1).fua(), 20),
        (Ask::range(Op::Discard, 0, 64), 20),
        (Ask::range(Op::WriteZeroes, 3, 8), 20),
        (Ask::flush(), 30),
    ] {
        let what = format!("{:?}", ask.op);
        let taken = time_of(&mut cluster, ask);
        assert!(
            (ms * MS..ms * MS + MS).contains(&taken),
            "{what}: {taken} ns"
        );
    }
    for (table, ask) in [
        ("0 64 delay d0 0 0", Ask::read(0, 8)),
        ("0 64 delay d0 0 0 d1 0 10", Ask::read(0, 8)),
        ("0 64 delay d0 0 10 d1 0 0", Ask::fill(0, 8, 1)),
        ("0 64 delay d0 0 10 d1 0 10 d2 0 0", Ask::flush()),
    ] {
        cluster.switch_to(DEVICE, table);
        let command = cluster.submit(0, DEVICE, ask);
        assert_eq!(
            cluster.status(command),
            Some(Status::Ok),
            "{table}: at once"
        );
    }
}

/// Reads, writes and flushes find their devices; a flush reaches every device that is named (FL-22), each once, late.
#[test]
fn fl_22_a_flush_reaches_every_device_that_is_named() {
    let mut cluster = running(1, 1, false, "0 32 delay d0 0 1 d1 8 2 d2 16 3");
    cluster.run(0, DEVICE, Ask::fill(4, 1, 7));
    assert_eq!(cluster.disk(1).sector(12)[0], 7);
    cluster.disk(0).power_cut();
    cluster.run(0, DEVICE, Ask::flush());
    cluster.disk(1).power_cut();
    assert_eq!(
        cluster.disk(1).sector(12)[0],
        7,
        "durable where it was written"
    );
    let flushes = |cluster: &Cluster| -> Vec<usize> {
        let flush = |clone: (usize, Op, bool)| (clone.1 == Op::Flush).then_some(clone.0);
        clones(cluster).into_iter().filter_map(flush).collect()
    };
    assert_eq!(flushes(&cluster), [0, 1, 2]);
    for (table, devices) in [
        ("0 32 delay d0 0 1", vec![0]),
        ("0 32 delay d0 0 1 d0 32 2", vec![0]),
        ("0 32 delay d1 0 1 d0 0 1 d1 0 1", vec![1, 0]),
    ] {
        cluster.switch_to(DEVICE, table);
        cluster.seen();
        cluster.run(0, DEVICE, Ask::flush());
        assert_eq!(flushes(&cluster), devices, "{table}");
    }
    // What a device without force-unit-access took of a FUA write is flushed as well, and that waits its time too (FL-28).
    let weak = cluster.add_disk(64, |lower| lower.fua = false);
    cluster.switch_to(DEVICE, &format!("0 32 delay d0 0 1 d{weak} 0 2 d0 0 40"));
    let taken = time_of(&mut cluster, Ask::fill(1, 1, 9).fua());
    assert!(taken >= 42 * MS, "{taken}");
    assert_eq!(cluster.disk(weak).durable(1)[0], 9);
}

/// What arrived first goes on first, also when it all arrived in the same moment and slots were handed out in another order.
#[test]
fn io_4_delayed_io_goes_on_in_the_order_it_came() {
    let mut cluster = running(1, 1, false, "0 64 delay d0 0 5");
    for round in 0..4 {
        let commands: Vec<_> = (0..8)
            .map(|n| cluster.submit(0, DEVICE, Ask::fill(n, 1, round)))
            .collect();
        cluster.settle();
        assert_eq!(completed(&cluster), commands, "round {round}");
    }
    cluster.demand_idle();
}

/// AT-71: neither kind of suspend waits for a delay: all that is delayed goes on and is done (nothing is pushed back), and nothing is
/// delayed until the resume.
#[test]
fn at_71_delay_of_10_s_suspends_at_once() {
    for_seeds(20, |seed| {
        for noflush in [false, true] {
            let mut cluster = running(2, seed, false, "0 64 delay d0 0 10000");
            cluster.disk(0).answers = Answers::Mixed {
                inline: 40,
                busy: 20,
            };
            let asks = [
                Ask::read(0, 8),
                Ask::fill(8, 8, 1),
                Ask::range(Op::Discard, 16, 8),
                Ask::flush(),
            ];
            let before = now_ns(&cluster);
            let mut commands = Vec::new();
            for core in 0..2 {
                commands.extend(asks.clone().map(|ask| cluster.submit(core, DEVICE, ask)));
            }
            assert_eq!(info(&mut cluster), "2 4 2", "held on both cores");
            let options = SuspendOptions {
                noflush,
                ..SuspendOptions::default()
            };
            cluster.done(DEVICE, Request::Suspend(options));
            assert!(now_ns(&cluster) - before < 1000 * MS, "at once");
            for command in commands {
                assert_eq!(cluster.status(command), Some(Status::Ok));
            }
            assert_eq!(info(&mut cluster), "0 0 0");
            cluster.done(DEVICE, RESUME);
            let taken = time_of(&mut cluster, Ask::read(0, 1));
            assert!(
                taken >= 10_000 * MS,
                "resume: delays again, but took {taken} ns"
            );
            cluster.settle();
            cluster.demand_idle();
        }
    });
}

/// SU-16: I/O that arrives after the hook and before the gate closes is not delayed.
#[test]
fn su_16_nothing_is_delayed_once_the_hook_has_run() {
    let mut cluster = running(1, 1, false, "0 64 delay d0 0 10000");
    let suspend = cluster.request(DEVICE, SUSPEND);
    assert!(cluster.deliver(1, 0), "the request");
    assert!(cluster.deliver(0, 0), "the order that runs the hook");
    let command = cluster.submit(0, DEVICE, Ask::fill(0, 1, 1));
    assert_eq!(cluster.status(command), Some(Status::Ok));
    cluster.settle();
    assert_eq!(cluster.answer(suspend), Some(Ok(Reply::Done)));
}

/// SU-8: a suspend that was given up leaves a target that delays again. Removal and a swap do not wait for a delay either.
#[test]
fn su_8_a_cancelled_suspend_delays_again_and_a_swap_does_not_wait() {
    let mut cluster = running(2, 1, false, "0 64 delay d0 0 10000");
    cluster.disk(0).answers = Answers::Later;
    cluster.disk(0).frozen = true;
    let below = cluster.submit(1, DEVICE, Ask::fill(0, 1, 1));
    let suspend = cluster.request(DEVICE, SUSPEND);
    cluster.steps(20);
    cluster.done(DEVICE, Request::Cancel);
    cluster.settle();
    assert!(
        cluster
            .answer(suspend)
            .is_some_and(|answer| answer.is_err())
    );
    let delayed = cluster.submit(1, DEVICE, Ask::fill(1, 1, 1));
    assert_eq!(info(&mut cluster), "0 1 0");
    cluster.disk(0).frozen = false;
    let before = now_ns(&cluster);
    cluster.switch_to(DEVICE, "0 64 delay d1 0 10000");
    assert!(now_ns(&cluster) - before < 1000 * MS);
    for command in [below, delayed] {
        assert_eq!(cluster.status(command), Some(Status::Ok));
    }
    let delayed = cluster.submit(0, DEVICE, Ask::fill(1, 1, 1));
    cluster.done(DEVICE, Request::Remove);
    assert!(now_ns(&cluster) - before < 1000 * MS);
    assert_eq!(cluster.status(delayed), Some(Status::Ok));
    cluster.demand_idle();
}

/// A call that changes nothing (a message, which the target takes none of) neither lets a clone go nor makes it wait longer, and it is
/// counted once.
#[test]
fn being_asked_again_is_not_waiting_again() {
    let mut cluster = running(1, 1, false, "0 64 delay d0 0 10");
    let before = now_ns(&cluster);
    let command = cluster.submit(0, DEVICE, Ask::fill(0, 1, 1));
    for _ in 0..3 {
        cluster.shared().now_ns += 3 * MS;
        let words = vec!["faster".to_string()];
        let answer = cluster.ask(DEVICE, Request::Message { sector: 0, words });
        assert_eq!(answer.map_err(|error| error.errno), Err(Errno::Einval));
        assert_eq!(info(&mut cluster), "0 1 0");
    }
    assert_eq!(cluster.status(command), None);
    while cluster.status(command).is_none() {
        assert!(cluster.step());
    }
    assert!(now_ns(&cluster) - before < 11 * MS);
    cluster.settle();
    assert_eq!(info(&mut cluster), "0 0 0");
    cluster.demand_idle();
}

/// PM-13: a delayed command is parked: it can be aborted, is not done, and is no longer counted; its neighbours go on.
#[test]
fn at_78_a_delayed_command_can_be_aborted() {
    let mut cluster = running(2, 1, false, "0 64 delay d0 0 10");
    let commands: Vec<_> = (0..3)
        .map(|n| cluster.submit(1, DEVICE, Ask::fill(n, 1, 1)))
        .collect();
    let flush = cluster.submit(1, DEVICE, Ask::flush());
    assert_eq!(info(&mut cluster), "0 3 1");
    assert!(!cluster.abort(0, DEVICE, commands[1]), "another core's");
    for command in [commands[1], flush] {
        assert!(cluster.abort(1, DEVICE, command));
        assert_eq!(cluster.status(command), Some(Status::Aborted));
        assert!(!cluster.abort(1, DEVICE, command), "once");
    }
    assert_eq!(info(&mut cluster), "0 2 0");
    cluster.settle();
    assert_eq!(
        completed(&cluster),
        [commands[1], flush, commands[0], commands[2]]
    );
    assert_eq!(cluster.disk(0).sector(1)[0], 0, "not done");
    assert_eq!(info(&mut cluster), "0 0 0");
    cluster.demand_idle();
}

/// An original with one piece delayed ends with its last piece; aborted, it ends when what is below has.
#[test]
fn a_split_original_waits_for_its_delayed_piece() {
    let table = "0 16 linear d0 0\n16 16 delay d1 0 10\n32 16 linear d2 0";
    let mut cluster = running(1, 1, false, table);
    let bytes: Vec<u8> = (0..48 * 512u32).map(|n| (n / 512) as u8).collect();
    assert!(time_of(&mut cluster, Ask::write(0, bytes.clone())) >= 10 * MS);
    let (status, read) = cluster.run(0, DEVICE, Ask::read(0, 48));
    assert_eq!((status, read), (Status::Ok, bytes));
    cluster.disk(2).answers = Answers::Later;
    cluster.disk(2).frozen = true;
    let command = cluster.submit(0, DEVICE, Ask::fill(15, 18, 0xff));
    assert!(cluster.abort(0, DEVICE, command));
    assert_eq!(cluster.status(command), None, "one piece is below");
    assert!(!cluster.abort(0, DEVICE, command), "nothing more is parked");
    cluster.release(2);
    assert_eq!(cluster.status(command), Some(Status::Aborted));
    assert_eq!(
        cluster.disk(1).sector(0)[0],
        16,
        "the delayed piece was not done"
    );
    cluster.settle();
    cluster.demand_idle();
}

/// On an ordered device each flush of a sequence is delayed, what comes behind it waits, and a suspend gets through all of it at once.
#[test]
fn a_delayed_flush_in_an_ordered_sequence() {
    for_seeds(30, |seed| {
        let mut cluster = running(2, seed, true, "0 64 delay d0 0 0 d0 0 0 d0 0 10000");
        let before = now_ns(&cluster);
        let barrier = cluster.submit(1, DEVICE, Ask::fill(0, 1, 1).fua());
        let behind = cluster.submit(1, DEVICE, Ask::fill(0, 1, 2));
        cluster.settle();
        assert_eq!(completed(&cluster), [barrier, behind]);
        let taken = now_ns(&cluster) - before;
        assert!(
            taken >= 20_000 * MS,
            "a flush before and one after: {taken}"
        );
        assert_eq!(cluster.disk(0).durable(0)[0], 1);
        assert_eq!(cluster.disk(0).sector(0)[0], 2);

        let barrier = cluster.submit(1, DEVICE, Ask::fill(1, 1, 1).fua());
        let flush = cluster.submit(0, DEVICE, Ask::flush());
        cluster.steps(seed);
        let before = now_ns(&cluster);
        cluster.done(DEVICE, SUSPEND);
        assert!(now_ns(&cluster) - before < 1000 * MS, "at once");
        cluster.done(DEVICE, RESUME);
        cluster.settle();
        for command in [barrier, flush] {
            assert_eq!(cluster.status(command), Some(Status::Ok));
        }
        cluster.demand_idle();
    });
}

fn resolve(name: &str) -> Option<crate::dm::Lower> {
    let number: u32 = name.strip_prefix('d')?.parse().ok()?;
    let mut cluster = Cluster::new(1, 0);
    (0..=number.min(3)).for_each(|_| {
        cluster.add_disk(1000, |_| {});
    });
    (number <= 3).then(|| cluster.disk(number as usize).lower.clone())
}

#[test]
fn at_83_bad_lines_are_refused_with_a_reason() {
    for (words, reason) in [
        ("", "3, 6 or 9 words, not 0"),
        ("d0 0", "3, 6 or 9 words, not 2"),
        ("d0 0 1 d1", "3, 6 or 9 words, not 4"),
        ("d0 0 1 d1 0 1 d2 0 1 d3", "3, 6 or 9 words, not 10"),
        ("d9 0 1", "there is no bdev 'd9'"),
        (
            "d0 x 1",
            "the start sector on the device 'x' is not a decimal number",
        ),
        ("d0 993 1", "do not fit on 'd0'"),
        ("d0 0 1 d1 993 1", "do not fit on 'd1'"),
        (
            "d0 0 -1",
            "the delay in milliseconds '-1' is not a decimal number",
        ),
        ("d0 0 1ms", "the delay in milliseconds '1ms' is not"),
        ("d0 0 86400001", "'86400001' is too large: at most 86400000"),
    ] {
        let error = Table::parse(&format!("0 8 delay {words}"), &resolve).expect_err(words);
        let text = error.to_string();
        assert!(text.contains(reason), "{words}: {text}");
    }
}

proptest! {
    /// AT-81, LC-23.
    #[test]
    fn at_81_table_texts_reload(ways in proptest::collection::vec((0u8..4, 0u64..900, 0u64..=86_400_000), 1..4)) {
        let words: Vec<_> = ways.iter().map(|(disk, start, ms)| format!("d{disk} {start} {ms}")).collect();
        let text = format!("0 100 delay {}", words.join(" "));
        let table = Table::parse(&text, &resolve).unwrap();
        let target = &table.segments[0].target;
        prop_assert_eq!(target.table(&table.lowers), words.join(" "));
        let again = format!("0 100 delay {}", target.table(&table.lowers));
        let again = Table::parse(&again, &resolve).unwrap();
        prop_assert_eq!(format!("{table:?}"), format!("{again:?}"));
    }
}
