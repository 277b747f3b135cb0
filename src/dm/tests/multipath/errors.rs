//! Paths that work and paths that fail (5.4, 5.6).

use super::super::super::io::Op;
use super::super::super::limits::LowerId;
use super::super::{RESUME, SUSPEND, for_seeds};
use super::*;
use crate::sim::{Answers, Seen};

/// AT-01: with valid paths everything succeeds, and every path is used.
#[test]
fn at_01_reads_and_writes_succeed() {
    for_seeds(20, |seed| {
        let mut cluster = running(3, seed, QUEUEING);
        (0..2).for_each(|disk| {
            cluster.disk(disk).answers = Answers::Mixed {
                inline: 30,
                busy: 20,
            }
        });
        let commands = submit_all(&mut cluster, 16);
        cluster.settle();
        assert_eq!(ended(&cluster, &commands, Status::Ok), commands.len());
        let seen = cluster.seen();
        for path in 0..2 {
            let used = |seen: &&Seen| matches!(seen, Seen::Submitted { disk, .. } if *disk == path);
            assert!(seen.iter().filter(used).count() > 8, "path {path}");
        }
        demand_zero_counters(&cluster);
        cluster.demand_idle();
    });
    // Sector s of the device is sector s of the path, for pieces too.
    let mut cluster = running(1, 1, OTHER);
    let bytes: Vec<u8> = (0..40 * 512).map(|n| (n / 512) as u8).collect();
    assert_eq!(
        cluster.run(0, DEVICE, Ask::write(11, bytes.clone())).0,
        Status::Ok
    );
    assert_eq!(
        cluster.run(0, DEVICE, Ask::read(11, 40)),
        (Status::Ok, bytes)
    );
    assert_eq!(cluster.disk(2).sector(50)[0], 39);
}

/// AT-02: without a path and without queueing everything fails.
#[test]
fn at_02_without_a_path_io_fails() {
    let mut cluster = pathless(2, 1, FAILING);
    for core in 0..2 {
        for ask in [
            Ask::read(0, 1),
            Ask::fill(0, 1, 1),
            Ask::fill(0, 40, 1),
            Ask::fill(0, 1, 1).fua(),
            Ask::flush(),
            Ask::range(Op::Discard, 0, 64),
            Ask::range(Op::WriteZeroes, 0, 64),
            Ask::compare_and_write(0, 1, 0, 1),
        ] {
            let op = ask.op;
            assert_eq!(cluster.run(core, DEVICE, ask).0, Status::IoError, "{op:?}");
        }
    }
    assert!(
        !cluster
            .seen()
            .iter()
            .any(|seen| matches!(seen, Seen::Submitted { .. }))
    );
    cluster.demand_idle();
}

/// AT-46: a group that no I/O has used yet takes the first, on every core, without anything else having to happen.
#[test]
fn at_46_the_first_io_needs_no_activation() {
    let text = "0 64 multipath 1 queue_if_no_path 0 2 2 round-robin 0 1 0 d0 round-robin 0 1 0 d1";
    for core in 0..3 {
        let mut cluster = running(3, 1, text);
        assert_eq!(cluster.run(core, DEVICE, Ask::fill(0, 1, 1)).0, Status::Ok);
        assert_eq!(cluster.disk(1).sector(0)[0], 1);
        say(&mut cluster, "switch_group 1");
        assert_eq!(cluster.run(core, DEVICE, Ask::fill(0, 1, 2)).0, Status::Ok);
        assert_eq!(cluster.disk(0).sector(0)[0], 2);
        assert!(
            info(&mut cluster).starts_with("2 0 0 0 2 1 A "),
            "whichever core used it"
        );
    }
}

/// AT-47, MP-14: a path without room is no path that failed; it is asked again once a turn, and has its I/O in the end.
#[test]
fn at_47_a_full_queue_fails_no_path() {
    let mut cluster = running(1, 1, QUEUEING);
    (0..2).for_each(|disk| cluster.disk(disk).answers = Answers::Busy);
    let commands = submit_all(&mut cluster, 8);
    for turn in 1..10 {
        cluster.poll(0);
        assert_eq!(cluster.mappers[0].busy(), 8, "turn {turn}");
    }
    assert!(info(&mut cluster).ends_with(" d0 A 0 4 d1 A 0 4"));
    (0..2).for_each(|disk| cluster.disk(disk).answers = Answers::Inline);
    cluster.settle();
    assert_eq!(ended(&cluster, &commands, Status::Ok), 8);
    demand_zero_counters(&cluster);
}

/// AT-48, MP-12: what another path cannot help with goes to the host as it is, and fails no path.
#[test]
fn at_48_errors_of_the_device_go_to_the_host() {
    let mut cluster = running(1, 1, QUEUEING);
    for status in [
        Status::ReservationConflict,
        Status::Medium,
        Status::NotSupported,
        Status::NoSpace,
        Status::Target,
        Status::Protection,
    ] {
        for answer in [Answers::Fail(status), Answers::FailLater(status)] {
            (0..2).for_each(|disk| cluster.disk(disk).answers = answer);
            assert_eq!(cluster.run(0, DEVICE, Ask::read(0, 1)).0, status);
            assert_eq!(cluster.run(0, DEVICE, Ask::flush()).0, status);
        }
    }
    assert!(info(&mut cluster).ends_with(" d0 A 0 0 d1 A 0 0"));
}

/// AT-49: the last path fails, and nothing waits: the status is that of 5.4, not the path's.
#[test]
fn at_49_the_last_path_fails() {
    for answer in [
        Answers::Fail(Status::Timeout),
        Answers::FailLater(Status::Transport),
    ] {
        let mut cluster = running(2, 1, FAILING);
        let before = cluster.info(DEVICE).event_nr;
        (0..2).for_each(|disk| cluster.disk(disk).answers = answer);
        assert_eq!(cluster.run(1, DEVICE, Ask::read(0, 1)).0, Status::IoError);
        cluster.settle();
        assert!(info(&mut cluster).ends_with(" d0 F 1 0 d1 F 1 0"));
        assert_eq!(
            cluster.info(DEVICE).event_nr,
            before + 2,
            "an event per path"
        );
        // Other cores know by now, and do not try.
        cluster.seen();
        assert_eq!(cluster.run(0, DEVICE, Ask::read(0, 1)).0, Status::IoError);
        assert!(
            !cluster
                .seen()
                .iter()
                .any(|seen| matches!(seen, Seen::Submitted { .. }))
        );
    }
}

/// An error on one path sends the I/O another way, without the host noticing; also on the home core itself an event is raised.
#[test]
fn io_goes_another_way() {
    for_seeds(40, |seed| {
        let mut cluster = running(3, seed, FAILING);
        let before = cluster.info(DEVICE).event_nr;
        cluster.disk(0).answers = match seed % 2 {
            0 => Answers::Fail(Status::Transport),
            _ => Answers::FailLater(Status::Transport),
        };
        cluster.disk(1).answers = Answers::Mixed {
            inline: 30,
            busy: 20,
        };
        let mut commands = submit_all(&mut cluster, 8);
        commands.push(cluster.submit((seed % 3) as u16, DEVICE, Ask::fill(3, 60, 9)));
        commands.push(cluster.submit((seed % 3) as u16, DEVICE, Ask::flush()));
        cluster.settle();
        assert_eq!(ended(&cluster, &commands, Status::Ok), commands.len());
        assert!(info(&mut cluster).ends_with(" d0 F 1 0 d1 A 0 0"));
        assert_eq!(cluster.info(DEVICE).event_nr, before + 1);
        demand_zero_counters(&cluster);
        cluster.demand_idle();
    });
}

/// AT-65, FL-24: a flush that failed on one path counts as done when another path has done it, and not before.
#[test]
fn at_65_a_flush_is_done_on_another_path() {
    for fua in [false, true] {
        let text = "0 64 multipath 0 0 2 1 round-robin 0 1 0 d0 round-robin 0 1 0 d1";
        let mut cluster = Cluster::new(1, 1);
        for _ in 0..2 {
            cluster.add_disk(64, |lower| lower.fua = false);
        }
        cluster.device(0, false, text);
        // A write that is emulated as write and flush, or a flush of its own.
        let ask = match fua {
            true => Ask::fill(0, 1, 1).fua(),
            false => Ask::flush(),
        };
        if fua {
            cluster.disk(0).script.push_back(Answers::Inline);
        }
        cluster
            .disk(0)
            .script
            .push_back(Answers::FailLater(Status::Transport));
        cluster.disk(1).answers = Answers::Later;
        cluster.disk(1).frozen = true;
        let command = cluster.submit(0, DEVICE, ask);
        cluster.settle();
        assert_eq!(cluster.disk(0).flushes, 1);
        assert_eq!(cluster.disk(1).flushes, 1);
        assert_eq!(
            cluster.status(command),
            None,
            "the flush is still on its way"
        );
        cluster.release(1);
        assert_eq!(cluster.status(command), Some(Status::Ok));
        cluster.demand_idle();
    }
}

/// AT-79, PM-14: a device is taken away with I/O in flight on it, while a suspend runs: nothing is lost, and I/O goes another way, or
/// waits, or is pushed back.
#[test]
fn at_79_hot_remove_of_a_path() {
    for_seeds(60, |seed| {
        let mut cluster = running(3, seed, QUEUEING);
        let before = cluster.info(DEVICE).event_nr;
        (0..2).for_each(|disk| cluster.disk(disk).answers = Answers::Later);
        let mut commands = submit_all(&mut cluster, 4);
        let suspend = (seed % 3 > 0).then(|| {
            let request = if seed % 3 == 1 {
                SUSPEND_NOFLUSH
            } else {
                SUSPEND
            };
            cluster.request(DEVICE, request)
        });
        cluster.steps(seed % 7);
        // What is in flight there fails, and so does whatever comes later.
        cluster.disk(0).fail_held(Status::Transport);
        cluster.disk(0).answers = Answers::Fail(Status::Transport);
        cluster.take_away(LowerId(0));
        commands.extend(submit_all(&mut cluster, 2));
        cluster.settle();
        if let Some(suspend) = suspend {
            assert_eq!(cluster.answer(suspend), Some(Ok(Reply::Done)));
            cluster.done(DEVICE, RESUME);
            cluster.settle();
        }
        assert_eq!(ended(&cluster, &commands, Status::Ok), commands.len());
        assert!(info(&mut cluster).ends_with(" d0 F 1 0 d1 A 0 0"));
        assert_eq!(cluster.info(DEVICE).event_nr, before + 1);
        let Err(error) = tell(&mut cluster, "reinstate_path d0") else {
            panic!("it is gone")
        };
        assert!(error.reason.contains("was taken away"), "{error}");
        cluster.demand_idle();
    });
}

/// AT-79, the last path: what is parked waits for a table that has another one.
#[test]
fn at_79_hot_remove_of_the_last_path() {
    for_seeds(20, |seed| {
        let mut cluster = running(
            2,
            seed,
            "0 64 multipath 1 queue_if_no_path 0 1 1 queue-length 0 1 0 d0",
        );
        cluster.disk(0).answers = Answers::Later;
        let commands = submit_all(&mut cluster, 4);
        cluster.steps(seed % 4);
        cluster.disk(0).fail_held(Status::Transport);
        cluster.disk(0).answers = Answers::Fail(Status::Transport);
        cluster.take_away(LowerId(0));
        let late = submit_all(&mut cluster, 2);
        cluster.settle();
        assert!(none_ended(&cluster, &late));
        let table = cluster.table(OTHER);
        cluster.done(DEVICE, Request::Load(table));
        cluster.done(
            DEVICE,
            Request::Resume {
                open: true,
                suspend: NOFLUSH,
            },
        );
        cluster.settle();
        let all = [commands, late].concat();
        assert_eq!(ended(&cluster, &all, Status::Ok), all.len());
        cluster.demand_idle();
    });
}

/// AT-84: a suspended multipath takes only what changes paths; an unknown path is refused at any time.
#[test]
fn at_84_messages_while_suspended() {
    let mut cluster = running(2, 1, QUEUEING);
    let errno = |answer: Answer| answer.expect_err("refused").errno.name();
    assert_eq!(errno(tell(&mut cluster, "fail_path d9")), "EINVAL");
    assert_eq!(errno(tell(&mut cluster, "switch_group 2")), "EINVAL");
    cluster.done(DEVICE, SUSPEND);
    for text in [
        "queue_if_no_path",
        "fail_if_no_path",
        "switch_group 1",
        "disable_group 1",
        "enable_group 1",
    ] {
        assert_eq!(errno(tell(&mut cluster, text)), "EBUSY", "{text}");
    }
    say(&mut cluster, "fail_path d0");
    assert_eq!(errno(tell(&mut cluster, "reinstate_path d9")), "EINVAL");
    assert!(info(&mut cluster).ends_with(" d0 F 1 0 d1 A 0 0"));
    say(&mut cluster, "reinstate_path d0");
    cluster.done(DEVICE, RESUME);
    say(&mut cluster, "switch_group 1");
}
