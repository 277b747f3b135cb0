//! What section 7 asks for and no other test here shows as a whole: errors and push-back of flush steps, hooks, the life-cycle's
//! failures, and bugs that mappers have had.

use super::super::bound::{HOOKS, UNRESUMABLE};
use super::super::error::Errno;
use super::super::held::HANDED_BACK;
use super::super::io::{DeviceId, Op};
use super::super::limits::LowerId;
use super::super::message::{Answer, Reply, Request, SuspendOptions};
use super::super::status::Status;
use super::{RESUME, SUSPEND, clones, completed, for_seeds};
use crate::sim::{Answers, Ask, Cluster, Random};

const DEVICE: DeviceId = DeviceId(0);
const NOFLUSH: SuspendOptions = SuspendOptions {
    noflush: true,
    lockfs: false,
    timeout_ns: None,
};
/// Stands for REQUEUE where a disk has to be told how a clone is to end.
const REQUEUE: Status = Status::Protection;

fn running(cores: u16, seed: u64, ordered: bool, disks: usize, table: &str) -> Cluster {
    let mut cluster = Cluster::new(cores, seed);
    cluster.add_disks(disks);
    cluster.device(0, ordered, table);
    cluster.seen();
    cluster
}

fn errno(answer: Option<Answer>) -> Errno {
    answer.expect("answered").expect_err("refused").errno
}

fn striped(legs: usize) -> String {
    let devices: String = (0..legs).map(|disk| format!(" d{disk} 0")).collect();
    format!("0 {} striped {legs} 8{devices}", legs * 8)
}

/// FL-6, as it is written there.
fn result(ends: &[Status]) -> Status {
    ends.iter()
        .fold(Status::Ok, |stored, end| match (stored, *end) {
            (stored, Status::Ok) => stored,
            (Status::Ok, end) => end,
            (_, Status::NotSupported) => Status::NotSupported,
            (stored, REQUEUE) if stored != Status::NotSupported => REQUEUE,
            (stored, _) => stored,
        })
}

/// Every way in which up to four clones can end, one after another.
fn every_end() -> Vec<Vec<Status>> {
    let ends = [
        Status::Ok,
        Status::IoError,
        Status::Transport,
        REQUEUE,
        Status::NotSupported,
    ];
    let mut all: Vec<Vec<Status>> = vec![Vec::new()];
    let mut longest = all.clone();
    for _ in 0..4 {
        let longer = longest
            .iter()
            .flat_map(|before| ends.map(|end| [before.as_slice(), &[end]].concat()));
        longest = longer.collect();
        all.extend(longest.iter().cloned());
    }
    all.remove(0);
    all
}

fn later(end: Status) -> Answers {
    match end {
        Status::Ok => Answers::Later,
        error => Answers::FailLater(error),
    }
}

/// Has each disk end its next clone so, in the order of the disks.
fn script(cluster: &mut Cluster, ends: &[Status]) {
    for (disk, end) in ends.iter().enumerate() {
        cluster.disk(disk).script = [later(*end)].into();
        cluster.disk(disk).frozen = true;
    }
}

fn release_all(cluster: &mut Cluster, disks: usize) {
    for disk in 0..disks {
        assert!(cluster.release(disk), "a clone on each");
        cluster.disk(disk).frozen = false;
    }
    cluster.settle();
}

/// AT-22, AT-25, FL-6, FL-7: in each of the 780 ways the step ends with its last clone, as FL-6 has it, and the original is completed once;
/// one that is to be repeated is repeated with all its clones, and completed after that.
#[test]
fn at_22_25_every_way_in_which_a_step_can_end() {
    HANDED_BACK.set(Some(REQUEUE));
    for ends in every_end() {
        let legs = ends.len();
        let mut cluster = running(1, 1, true, legs, &striped(legs));
        script(&mut cluster, &ends);
        let command = cluster.submit(0, DEVICE, Ask::flush());
        while cluster.deliver(0, 0) {}
        assert_eq!(cluster.status(command), None, "{ends:?}");
        release_all(&mut cluster, legs);
        let expected = result(&ends);
        let repeated = expected == REQUEUE;
        let status = if repeated { Status::Ok } else { expected };
        assert_eq!(cluster.status(command), Some(status), "{ends:?}");
        let seen = cluster.seen();
        let completions = seen
            .iter()
            .filter(|s| matches!(s, crate::sim::Seen::Completed { .. }));
        assert_eq!(completions.count(), 1, "{ends:?}");
        for disk in 0..legs {
            assert_eq!(cluster.disk(disk).flushes, 1 + u64::from(repeated));
        }
        cluster.demand_idle();
    }
    HANDED_BACK.set(None);
}

/// The same of a relaxed flush, where only a noflush suspend allows a push-back: then it is parked, and done again after the resume.
#[test]
fn at_22_25_every_way_in_which_a_relaxed_flush_can_end() {
    HANDED_BACK.set(Some(REQUEUE));
    for ends in every_end() {
        for noflush in [true, false] {
            let legs = ends.len();
            let mut cluster = running(1, 1, false, legs, &striped(legs));
            script(&mut cluster, &ends);
            let command = cluster.submit(0, DEVICE, Ask::flush());
            let options = SuspendOptions { noflush, ..NOFLUSH };
            let suspend = cluster.request(DEVICE, Request::Suspend(options));
            cluster.settle();
            release_all(&mut cluster, legs);
            assert_eq!(cluster.answer(suspend), Some(Ok(Reply::Done)));
            let expected = match result(&ends) {
                REQUEUE if noflush => None,
                // Nobody allowed it (IO-16).
                REQUEUE => Some(Status::IoError),
                status => Some(status),
            };
            assert_eq!(cluster.status(command), expected, "{ends:?} {noflush}");
            cluster.done(DEVICE, RESUME);
            cluster.settle();
            let status = expected.unwrap_or(Status::Ok);
            assert_eq!(cluster.status(command), Some(status), "{ends:?} {noflush}");
            assert_eq!(completed(&cluster), [command]);
            cluster.demand_idle();
        }
    }
    HANDED_BACK.set(None);
}

/// AT-23, FL-12: one clone of a step, before or after the data, asks to be repeated: all of the step is, and nothing else. Meanwhile the
/// barrier is not completed and what is behind it not begun, on any core.
#[test]
fn at_23_requeue_repeats_the_whole_step_and_nothing_else() {
    HANDED_BACK.set(Some(REQUEUE));
    for post in [false, true] {
        for_seeds(20, |seed| {
            let mut cluster = running(3, seed, true, 2, &striped(2));
            let before = match post {
                true => vec![Answers::Inline; 2],
                false => Vec::new(),
            };
            // The data is on the first disk.
            let rest = [Answers::FailLater(REQUEUE), Answers::Later];
            cluster.disk(0).script = [&before[..], &rest[..]].concat().into();
            let rest = [Answers::Later, Answers::Later];
            let skipped = before.len().saturating_sub(1);
            cluster.disk(1).script = [&before[..skipped], &rest[..]].concat().into();
            (0..2).for_each(|disk| cluster.disk(disk).frozen = true);
            let barrier = cluster.submit(0, DEVICE, Ask::fill(0, 1, 3).fua());
            let behind = cluster.submit(0, DEVICE, Ask::read(8, 1));
            cluster.settle();
            let other = cluster.submit(1, DEVICE, Ask::read(8, 1));
            let flushes = 1 + u64::from(post);
            for round in 0..2 {
                let counts = [0, 1].map(|disk| cluster.disk(disk).flushes);
                assert_eq!(counts, [flushes + round; 2], "the whole fan-out");
                let writes = clones(&cluster)
                    .iter()
                    .filter(|(_, op, _)| *op == Op::Write)
                    .count();
                assert_eq!(writes, usize::from(post && round == 0));
                for command in [barrier, behind, other] {
                    assert_eq!(cluster.status(command), None);
                }
                (0..2).for_each(|disk| assert!(cluster.release(disk)));
                if round == 1 {
                    (0..2).for_each(|disk| cluster.disk(disk).frozen = false);
                }
                cluster.settle();
            }
            for command in [barrier, behind, other] {
                assert_eq!(cluster.status(command), Some(Status::Ok));
            }
            assert_eq!(cluster.disk(0).durable(0)[0], 3);
            cluster.demand_idle();
        });
    }
    HANDED_BACK.set(None);
}

/// AT-44, PM-15: all I/O here is polled, so a lower device without room is asked again each turn for as long as that lasts: no original fails
/// for it, none is forgotten, none is completed twice; pieces and flushes too.
#[test]
fn at_44_what_finds_no_room_is_tried_until_it_does() {
    for_seeds(20, |seed| {
        let mut cluster = running(2, seed, seed % 2 == 0, 2, &striped(2));
        (0..2).for_each(|disk| cluster.disk(disk).answers = Answers::Busy);
        let asks = [
            Ask::fill(0, 1, 1),
            Ask::fill(4, 12, 2),
            Ask::read(2, 14),
            Ask::fill(9, 1, 3).fua(),
            Ask::flush(),
            Ask::range(Op::Discard, 0, 16),
            Ask::compare_and_write(3, 1, 9, 9),
        ];
        let commands: Vec<_> = asks
            .into_iter()
            .enumerate()
            .map(|(n, ask)| cluster.submit(n as u16 % 2, DEVICE, ask))
            .collect();
        for _ in 0..50 {
            (0..2).for_each(|core| cluster.poll(core));
            cluster.steps(3);
        }
        assert!(commands.iter().all(|c| cluster.status(*c).is_none()));
        for disk in 0..2 {
            cluster.disk(disk).answers = Answers::Mixed {
                inline: 20,
                busy: 60,
            };
        }
        cluster.settle();
        for command in &commands {
            let status = cluster.status(*command).expect("ends");
            assert!(matches!(status, Status::Ok | Status::Miscompare));
        }
        assert_eq!(completed(&cluster).len(), commands.len());
        cluster.demand_idle();
    });
}

/// AT-50, SU-9: 10^4 random suspends of all kinds, internal ones, cancels, time-outs, flushes before a suspend that fail, targets that cannot be
/// resumed: on every core each presuspend has been followed by an undo or a postsuspend, and each of the latter by a resume. That they
/// alternate is asserted where they are called.
#[test]
fn at_50_hooks_are_paired() {
    HOOKS.set([0; 5]);
    let cores = 3;
    let table = "0 32 linear d0 0\n32 8 striped 1 8 d1 0";
    let mut cluster = running(cores, 5, false, 2, table);
    let (mut random, mut refusals) = (Random::new(5), 0);
    let mut tickets = Vec::new();
    for _ in 0..10_000 {
        let options = SuspendOptions {
            noflush: random.percent(40),
            lockfs: random.percent(40),
            timeout_ns: random.percent(30).then(|| 100 * random.below(40)),
        };
        let request = match random.below(12) {
            0..4 => Request::Suspend(options),
            4..7 => RESUME,
            7 => Request::SuspendInternally,
            8 | 9 => Request::ResumeInternally,
            _ => Request::Cancel,
        };
        tickets.push(cluster.request(DEVICE, request));
        match random.below(20) {
            0 => UNRESUMABLE.set(Some("striped")),
            1..3 => UNRESUMABLE.set(None),
            3 => cluster.disk(0).answers = Answers::FailLater(Status::Medium),
            4..6 => cluster.disk(0).answers = Answers::Later,
            _ => {}
        }
        let core = random.below(u64::from(cores)) as u16;
        cluster.submit(core, DEVICE, Ask::fill(random.below(40), 1, 1));
        cluster.steps(random.below(30));
        cluster.mappers.iter().for_each(|m| m.assert_invariants());
        tickets.retain(|ticket| match cluster.answer(*ticket) {
            None => true,
            Some(answer) => {
                refusals += u32::from(answer.is_err());
                false
            }
        });
    }
    UNRESUMABLE.set(None);
    cluster.settle();
    while cluster.ask(DEVICE, Request::ResumeInternally).is_ok() {}
    cluster.settle();
    cluster.done(DEVICE, RESUME);
    cluster.settle();
    cluster.demand_idle();
    let [presuspends, undos, postsuspends, preresumes, resumes] = HOOKS.get();
    assert_eq!(presuspends, undos + postsuspends);
    let first = u64::from(cores);
    assert_eq!(resumes, postsuspends + first);
    assert!(preresumes >= resumes);
    assert!(
        refusals > 100 && undos > 300 && postsuspends > 1000,
        "{refusals} {undos} {postsuspends}: enough of each"
    );
}

/// AT-51, 4.3: the second target cannot be resumed: an error, the device stays suspended, I/O stays parked, and the next resume works. With a
/// new table that one is live.
#[test]
fn at_51_a_target_that_cannot_be_resumed() {
    const BOTH: &str = "0 32 linear d0 0\n32 32 striped 1 8 d1 0";
    for swap in [false, true] {
        let first = if swap { "0 64 linear d0 0" } else { BOTH };
        let mut cluster = running(2, 1, false, 2, first);
        cluster.done(DEVICE, SUSPEND);
        let parked: Vec<_> = (0..4)
            .map(|n| cluster.submit(n % 2, DEVICE, Ask::fill(40, 1, 7)))
            .collect();
        if swap {
            let table = cluster.table(BOTH);
            cluster.done(DEVICE, Request::Load(table));
        }
        for _ in 0..2 {
            UNRESUMABLE.set(Some("striped"));
            let answer = cluster.ask(DEVICE, RESUME);
            UNRESUMABLE.set(None);
            assert_eq!(errno(Some(answer)), Errno::Eagain);
            cluster.settle();
            let info = cluster.info(DEVICE);
            assert_eq!(
                (info.suspended, info.live, info.inactive),
                (true, true, false)
            );
            assert_eq!(info.targets, 2, "the new table, if there is one");
            assert!(parked.iter().all(|c| cluster.status(*c).is_none()));
        }
        cluster.done(DEVICE, RESUME);
        cluster.settle();
        assert!(
            parked
                .iter()
                .all(|c| cluster.status(*c) == Some(Status::Ok))
        );
        assert_eq!(cluster.disk(1).sector(8)[0], 7);
        assert_eq!(cluster.disk(0).sector(40)[0], 0);
        cluster.demand_idle();
    }
}

/// AT-52, 1.4 step 2: the suspend that a resume with a new table implies fails, in each way in which it can: the inactive table is still
/// loaded, the device runs on the old one, and the next resume swaps.
#[test]
fn at_52_the_suspend_within_a_resume_fails() {
    for way in ["time-out", "cancel", "freeze"] {
        let mut cluster = running(2, 1, false, 2, "0 64 linear d0 0");
        let table = cluster.table("0 64 linear d1 0");
        cluster.done(DEVICE, Request::Load(table));
        cluster.disk(0).answers = Answers::Later;
        cluster.disk(0).frozen = way != "freeze";
        if way == "freeze" {
            cluster.disk(0).answers = Answers::FailLater(Status::Medium);
        }
        let below = cluster.submit(1, DEVICE, Ask::fill(1, 1, 1));
        let suspend = SuspendOptions {
            noflush: false,
            lockfs: way == "freeze",
            timeout_ns: (way == "time-out").then_some(1_000_000),
        };
        let resume = cluster.request(
            DEVICE,
            Request::Resume {
                open: true,
                suspend,
            },
        );
        cluster.settle();
        if way == "cancel" {
            assert_eq!(cluster.answer(resume), None);
            cluster.done(DEVICE, Request::Cancel);
            cluster.settle();
        }
        let expected = match way {
            "time-out" => Errno::Etimedout,
            "cancel" => Errno::Eintr,
            _ => Errno::Eio,
        };
        assert_eq!(errno(cluster.answer(resume)), expected);
        let info = cluster.info(DEVICE);
        assert_eq!(
            (info.suspended, info.live, info.inactive),
            (false, true, true)
        );
        assert_eq!(info.lowers, ["d0"]);
        (cluster.disk(0).frozen, cluster.disk(0).answers) = (false, Answers::Inline);
        assert_eq!(cluster.run(0, DEVICE, Ask::fill(0, 1, 4)).0, Status::Ok);
        assert_eq!(cluster.disk(0).sector(0)[0], 4);
        cluster.settle();
        assert!(cluster.status(below).is_some());
        cluster.done(DEVICE, RESUME);
        assert_eq!(cluster.run(0, DEVICE, Ask::fill(0, 1, 5)).0, Status::Ok);
        assert_eq!(cluster.disk(1).sector(0)[0], 5);
        cluster.demand_idle();
    }
}

/// AT-54, LC-1, SU-11: a device without a table is suspended before, while and after its first table is loaded; a resume before that is
/// refused. I/O meanwhile fails and is not parked; then all is well.
#[test]
fn at_54_suspend_around_the_first_load() {
    for_seeds(60, |seed| {
        let mut random = Random::new(seed);
        let mut cluster = Cluster::new(3, seed);
        cluster.add_disks(1);
        let create = Request::Create {
            ordered: seed % 2 == 0,
            parked_limit_ns: None,
        };
        cluster.done(DEVICE, create);
        let table = cluster.table("0 64 linear d0 0");
        let mut requests = vec![SUSPEND, Request::Load(table)];
        if seed % 4 > 1 {
            requests.reverse();
        }
        let mut tickets = Vec::new();
        let mut commands = Vec::new();
        for request in requests {
            tickets.push(cluster.request(DEVICE, request));
            commands.push(cluster.submit(0, DEVICE, Ask::fill(0, 1, 1)));
            cluster.steps(random.below(12));
            commands.push(cluster.submit(1, DEVICE, Ask::flush()));
        }
        cluster.settle();
        for ticket in tickets {
            assert_eq!(cluster.answer(ticket), Some(Ok(Reply::Done)));
        }
        for command in commands {
            assert_eq!(cluster.status(command), Some(Status::IoError), "LC-1");
        }
        let info = cluster.info(DEVICE);
        assert_eq!(
            (info.suspended, info.live, info.inactive),
            (true, false, true)
        );
        cluster.done(DEVICE, Request::Clear);
        let answer = cluster.ask(DEVICE, RESUME);
        assert_eq!(errno(Some(answer)), Errno::Einval, "nothing to resume");
        assert!(cluster.info(DEVICE).suspended);
        cluster.switch_to(DEVICE, "0 64 linear d0 0");
        assert_eq!(cluster.run(2, DEVICE, Ask::fill(0, 1, 1)).0, Status::Ok);
        cluster.demand_idle();
    });
}

/// AT-55, R5: whatever else touches a suspended device's queues, nothing of it is dispatched: room for more queues, polls, time, a lower device
/// that goes, messages, notices, another load, another suspend.
#[test]
fn at_55_nothing_else_restarts_a_suspended_device() {
    for ordered in [false, true] {
        let mut cluster = running(3, 1, ordered, 2, "0 64 linear d0 0");
        cluster.done(DEVICE, SUSPEND);
        let asks = [
            Ask::fill(0, 1, 1),
            Ask::flush(),
            Ask::fill(1, 1, 1).fua(),
            Ask::compare_and_write(2, 1, 0, 1),
        ];
        let commands: Vec<_> = (0..12)
            .map(|n| cluster.submit(n % 3, DEVICE, asks[usize::from(n / 3)].clone()))
            .collect();
        cluster.settle();
        cluster.seen();
        for round in 0..5 {
            cluster
                .mappers
                .iter_mut()
                .for_each(|m| m.reserve(1 << (8 + round)));
            (0..3).for_each(|core| cluster.poll(core));
            cluster.shared().now_ns += 1_000_000_000;
            cluster.take_away(LowerId(1));
            let words = vec!["anything".to_owned()];
            let _ = cluster.ask(DEVICE, Request::Message { sector: 0, words });
            let table = cluster.table("0 64 linear d0 0");
            cluster.done(DEVICE, Request::Load(table));
            cluster.done(DEVICE, Request::Clear);
            cluster.done(DEVICE, SUSPEND);
            cluster.done(DEVICE, Request::SuspendInternally);
            cluster.done(DEVICE, Request::ResumeInternally);
            assert!(cluster.ask(DEVICE, Request::Cancel).is_err());
            cluster.settle();
            assert_eq!(clones(&cluster), [], "round {round}");
            assert!(commands.iter().all(|c| cluster.status(*c).is_none()));
        }
        cluster.done(DEVICE, RESUME);
        cluster.settle();
        for command in commands {
            let status = cluster.status(command).expect("ends");
            assert!(matches!(status, Status::Ok | Status::Miscompare));
        }
        cluster.demand_idle();
    }
}

/// AT-58, LC-21: removed while it is suspended, under everything that hosts can have parked: each is aborted once, oldest first per core.
#[test]
fn at_58_remove_of_a_suspended_device_aborts_what_is_parked() {
    for ordered in [false, true] {
        let mut cluster = running(2, 1, ordered, 2, "0 64 linear d0 0");
        cluster.done(DEVICE, SUSPEND);
        let asks = [
            Ask::read(0, 8),
            Ask::flush(),
            Ask::fill(1, 1, 1).fua(),
            Ask::compare_and_write(2, 1, 0, 1),
            Ask::range(Op::Discard, 8, 8),
        ];
        let mut commands = Vec::new();
        for core in 0..2 {
            commands.extend(asks.clone().map(|ask| cluster.submit(core, DEVICE, ask)));
        }
        let table = cluster.table("0 64 linear d1 0");
        cluster.done(DEVICE, Request::Load(table));
        cluster.seen();
        cluster.done(DEVICE, Request::Remove);
        assert_eq!(clones(&cluster), [], "no I/O for it");
        for command in &commands {
            assert_eq!(cluster.status(*command), Some(Status::Aborted));
        }
        assert_eq!([0, 1].map(|disk| cluster.disk(disk).channels), [0, 0]);
        cluster.demand_idle();
        // Its hosts still have it open, and find out.
        assert_eq!(cluster.run(1, DEVICE, Ask::read(0, 1)).0, Status::IoError);
    }
}

/// AT-76, R8, IO-8: an original's pieces are issued in one pass, so a gate that closes when some of them have found no room catches no
/// remainder: all of it goes where the old table says. What came after the gate goes where the new one says, all of it.
#[test]
fn at_76_no_original_is_spread_over_two_tables() {
    for_seeds(40, |seed| {
        let mut cluster = Cluster::new(2, seed);
        cluster.add_disks(4);
        cluster.device(0, false, "0 64 striped 2 8 d0 0 d1 0");
        cluster.disk(1).answers = Answers::Busy;
        cluster.disk(0).answers = Answers::Later;
        let before = cluster.submit(1, DEVICE, Ask::fill(4, 40, 1));
        let table = cluster.table("0 64 striped 2 8 d2 0 d3 0");
        cluster.done(DEVICE, Request::Load(table));
        let resume = cluster.request(DEVICE, RESUME);
        let mut after = None;
        for n in 0..100 {
            cluster.steps(1);
            let gate = cluster.mappers[1].device(DEVICE).unwrap().gate;
            if gate != 0 && after.is_none() {
                after = Some(cluster.submit(1, DEVICE, Ask::fill(4, 40, 2)));
            }
            assert_eq!(cluster.answer(resume), None, "step {n}: waits for room");
        }
        cluster.disk(1).answers = Answers::Mixed {
            inline: 20,
            busy: 50,
        };
        cluster.settle();
        assert_eq!(cluster.answer(resume), Some(Ok(Reply::Done)));
        let after = after.expect("the gate has closed");
        for command in [before, after] {
            assert_eq!(cluster.status(command), Some(Status::Ok));
        }
        for at in 4..44u64 {
            let (leg, sector) = ((at / 8 % 2) as usize, at / 16 * 8 + at % 8);
            assert_eq!(cluster.disk(leg).sector(sector)[0], 1, "sector {at}");
            assert_eq!(cluster.disk(leg + 2).sector(sector)[0], 2, "sector {at}");
        }
        cluster.demand_idle();
    });
}

/// AT-80, IO-29: a lower device refuses a discard, or write-zeroes, that it was said to take. The host is told; whoever asks again is answered
/// here and costs nothing below; other operations, and other targets, are as they were. A new table asks anew.
#[test]
fn at_80_a_refused_operation_is_not_tried_again() {
    for (op, other) in [
        (Op::Discard, Op::WriteZeroes),
        (Op::WriteZeroes, Op::Discard),
    ] {
        for refusal in [Status::Target, Status::NotSupported] {
            for later in [false, true] {
                let table = "0 32 linear d0 0\n32 32 linear d1 0";
                let mut cluster = running(1, 1, false, 2, table);
                let fail = match later {
                    true => Answers::FailLater(refusal),
                    false => Answers::Fail(refusal),
                };
                cluster.disk(0).answers = fail;
                let (status, _) = cluster.run(0, DEVICE, Ask::range(op, 0, 8));
                assert_eq!(status, refusal, "the first is told as it is");
                cluster.seen();
                for _ in 0..100 {
                    let (status, _) = cluster.run(0, DEVICE, Ask::range(op, 8, 8));
                    assert_eq!(status, Status::NotSupported);
                }
                assert_eq!(clones(&cluster), [], "no storm");
                cluster.disk(0).answers = Answers::Inline;
                for ask in [
                    Ask::range(other, 0, 8),
                    Ask::fill(0, 1, 1),
                    Ask::range(op, 40, 8),
                ] {
                    assert_eq!(cluster.run(0, DEVICE, ask).0, Status::Ok);
                }
                cluster.switch_to(DEVICE, table);
                assert_eq!(cluster.run(0, DEVICE, Ask::range(op, 0, 8)).0, Status::Ok);
                cluster.demand_idle();
            }
        }
    }
}

/// AT-82, LC-24: the number of events wraps around. Whoever waits with the last number before is told of the event, and whoever knows another
/// number is answered at once, whether that is smaller or larger.
#[test]
fn at_82_the_number_of_events_wraps_around() {
    let mut cluster = running(2, 1, false, 1, "0 64 linear d0 0");
    let home = cluster.mappers[0].homes[0].as_mut().expect("its home");
    home.event_nr = u32::MAX;
    let wait = |event_nr| Request::Wait { event_nr };
    let waiting = cluster.request(DEVICE, wait(u32::MAX));
    cluster.settle();
    assert_eq!(cluster.answer(waiting), None);
    cluster.done(DEVICE, Request::Renamed);
    let number = |answer: Answer| match answer {
        Ok(Reply::Info(info)) => info.event_nr,
        other => panic!("{other:?}"),
    };
    assert_eq!(number(cluster.answer(waiting).expect("told")), 0);
    for known in [u32::MAX, 1, 77] {
        assert_eq!(number(cluster.ask(DEVICE, wait(known))), 0);
    }
    let waiting = cluster.request(DEVICE, wait(0));
    cluster.settle();
    assert_eq!(cluster.answer(waiting), None);
}
