//! Suspend with flush and resume (section 4): what parks, what drains, in which order it goes on.

use super::super::error::Errno;
use super::super::io::DeviceId;
use super::super::message::{Reply, Request};
use super::super::status::Status;
use super::completed;
use super::for_seeds;
use super::{RESUME, SUSPEND};
use crate::sim::{Answers, Ask, Cluster};

const DEVICE: DeviceId = DeviceId(0);

fn running(cores: u16, seed: u64, ordered: bool) -> Cluster {
    let mut cluster = Cluster::new(cores, seed);
    cluster.add_disks(2);
    cluster.device(0, ordered, "0 64 linear d0 0");
    cluster.seen();
    cluster
}

/// SU-1, SU-2: suspend ends when the last I/O below has, and not before; new I/O is parked on every core meanwhile.
#[test]
fn su_1_suspend_parks_and_drains() {
    let mut cluster = running(3, 1, false);
    cluster.disk(0).answers = Answers::Later;
    cluster.disk(0).frozen = true;
    let below: Vec<_> = (0..3)
        .map(|core| cluster.submit(core, DEVICE, Ask::fill(u64::from(core), 1, 1)))
        .collect();
    let suspend = cluster.request(DEVICE, SUSPEND);
    cluster.settle();
    let parked: Vec<_> = (0..3)
        .map(|core| cluster.submit(core, DEVICE, Ask::fill(8, 1, core as u8)))
        .collect();
    for at in 0..3 {
        assert_eq!(cluster.answer(suspend), None, "{at} of 3 have ended");
        cluster.release(0);
        cluster.settle();
    }
    assert_eq!(cluster.answer(suspend), Some(Ok(Reply::Done)));
    assert!(
        below
            .iter()
            .all(|command| cluster.status(*command) == Some(Status::Ok))
    );
    assert!(
        parked
            .iter()
            .all(|command| cluster.status(*command).is_none())
    );
    assert!(cluster.disk(0).held.is_empty());
    for mapper in &cluster.mappers {
        let stats = mapper.stats(DEVICE).unwrap();
        assert_eq!((stats.in_flight, stats.parked), (0, 1));
    }
    cluster.disk(0).frozen = false;
    cluster.done(DEVICE, RESUME);
    cluster.settle();
    assert!(
        parked
            .iter()
            .all(|command| cluster.status(*command) == Some(Status::Ok))
    );
    cluster.demand_idle();
}

/// AT-91: an idle device is suspended by two round trips per core, however much is parked: the hooks that follow the drain
/// must not run anywhere before it has ended everywhere, because until then it can be cancelled.
#[test]
fn at_91_suspend_of_an_idle_device_is_two_rounds() {
    let mut cluster = running(4, 1, false);
    let before = cluster.shared().messages;
    cluster.done(DEVICE, SUSPEND);
    // Presuspend, close, its acknowledgement, postsuspend, its acknowledgement.
    assert_eq!(cluster.shared().messages - before, 5 * 4);
}

/// AT-91: nor does it depend on how much is parked: here behind a barrier whose step the suspend interrupts.
#[test]
fn at_91_what_is_parked_does_not_prolong_a_suspend() {
    let messages = |parked: u64| {
        let mut cluster = running(4, 1, true);
        cluster.disk(0).answers = Answers::Later;
        cluster.disk(0).frozen = true;
        cluster.submit(0, DEVICE, Ask::fill(0, 1, 1).fua());
        for n in 0..parked {
            cluster.submit(0, DEVICE, Ask::fill(n % 64, 1, 1));
        }
        cluster.settle();
        let before = cluster.shared().messages;
        let suspend = cluster.request(DEVICE, SUSPEND);
        cluster.settle();
        cluster.release(0);
        cluster.settle();
        assert_eq!(cluster.answer(suspend), Some(Ok(Reply::Done)));
        assert_eq!(
            cluster.mappers[0].stats(DEVICE).unwrap().parked,
            1 + parked,
            "all of it still is"
        );
        cluster.shared().messages - before
    };
    let alone = messages(0);
    assert_eq!(alone, 5 * 4 + 1, "and the step's end");
    assert_eq!(messages(10_000), alone);
}

/// SU-2: what waits for room in a lower device is in flight, and is waited for.
#[test]
fn suspend_waits_for_what_was_busy() {
    let mut cluster = running(1, 1, false);
    cluster.disk(0).answers = Answers::Busy;
    let command = cluster.submit(0, DEVICE, Ask::fill(0, 1, 1));
    let suspend = cluster.request(DEVICE, SUSPEND);
    while cluster.deliver(1, 0) || cluster.deliver(0, 0) {}
    cluster.poll(0);
    assert_eq!(
        (cluster.answer(suspend), cluster.mappers[0].busy()),
        (None, 1)
    );
    cluster.disk(0).answers = Answers::Inline;
    cluster.settle();
    assert_eq!(cluster.status(command), Some(Status::Ok));
    assert_eq!(cluster.answer(suspend), Some(Ok(Reply::Done)));
}

/// IO-4, SU-13: what was parked on a core goes on in the order it came, before what comes later.
#[test]
fn su_13_parked_io_keeps_its_order() {
    for_seeds(20, |seed| {
        let mut cluster = running(2, seed, false);
        cluster.done(DEVICE, SUSPEND);
        let parked: Vec<_> = (0..40)
            .map(|n| cluster.submit(0, DEVICE, Ask::fill(n, 1, 1)))
            .collect();
        let other: Vec<_> = (0..40)
            .map(|n| cluster.submit(1, DEVICE, Ask::read(n, 1)))
            .collect();
        let resume = cluster.request(DEVICE, RESUME);
        let mut later = Vec::new();
        while cluster.answer(resume).is_none() {
            later.push(cluster.submit(0, DEVICE, Ask::read(0, 1)));
            assert!(cluster.step());
        }
        cluster.settle();
        let order = completed(&cluster);
        let of = |list: &[u32]| -> Vec<u32> {
            order.iter().copied().filter(|c| list.contains(c)).collect()
        };
        assert_eq!(of(&other), other);
        let all = [parked, later].concat();
        assert_eq!(of(&all), all);
    });
}

/// A device of one core whose disk answers at once, suspended, with 100 reads parked; their numbers.
fn hundred_parked() -> (Cluster, Vec<u32>) {
    let mut cluster = running(1, 0, false);
    cluster.disk(0).answers = Answers::Inline;
    cluster.done(DEVICE, SUSPEND);
    let parked = (0..100).map(|_| cluster.submit(0, DEVICE, Ask::read(0, 1)));
    let parked = parked.collect();
    cluster.seen();
    (cluster, parked)
}

/// SU-13: what is parked goes on in portions. The first are answered while the last still wait, what is new waits behind all of them, and
/// a host that sends one more for each answer does not keep the list from becoming empty.
#[test]
fn su_13_a_long_list_goes_on_in_portions() {
    let (mut cluster, mut sent) = hundred_parked();
    let (mut order, mut portions) = (Vec::new(), Vec::new());
    cluster.done(DEVICE, RESUME);
    loop {
        let answers = completed(&cluster);
        portions.push(answers.len());
        sent.extend(
            answers
                .iter()
                .map(|_| cluster.submit(0, DEVICE, Ask::read(0, 1))),
        );
        order.extend(answers);
        if !cluster.step() {
            break;
        }
    }
    order.extend(completed(&cluster));
    assert_eq!(portions, [4, 8, 16, 32, 64, 100]);
    assert_eq!(order, sent);
    cluster.demand_idle();
}

/// SU-13, SU-15: a suspend between two portions leaves the rest parked, in order; the next resume goes on with it.
#[test]
fn su_15_a_second_suspend_between_portions_leaves_the_rest_in_order() {
    let (mut cluster, sent) = hundred_parked();
    cluster.done(DEVICE, RESUME);
    assert!(cluster.step());
    let mut order = completed(&cluster);
    assert_eq!(order.len(), 4 + 8);
    cluster.done(DEVICE, SUSPEND);
    cluster.settle();
    order.extend(completed(&cluster));
    assert!(order.len() < sent.len(), "a part of them waits again");
    cluster.done(DEVICE, RESUME);
    cluster.settle();
    order.extend(completed(&cluster));
    assert_eq!(order, sent);
    cluster.demand_idle();
}

/// SU-15: a suspend that comes while sequences hold up the re-issue leaves the rest parked, in order.
#[test]
fn su_15_a_second_suspend_leaves_the_rest_in_order() {
    for_seeds(40, |seed| {
        let mut cluster = running(2, seed, true);
        cluster.done(DEVICE, SUSPEND);
        let fill = |n: u8| Ask::fill(0, 1, n);
        // Every third is a barrier, behind which the others wait.
        let commands: Vec<_> = (0..30u8)
            .map(|n| cluster.submit(0, DEVICE, if n % 3 == 0 { fill(n).fua() } else { fill(n) }))
            .collect();
        let resume = cluster.request(DEVICE, RESUME);
        cluster.steps(seed);
        cluster.done(DEVICE, SUSPEND);
        assert!(cluster.answer(resume).is_some());
        cluster.settle();
        let before = completed(&cluster);
        assert_eq!(
            before,
            commands[..before.len()],
            "in order, and nothing since"
        );
        cluster.done(DEVICE, RESUME);
        cluster.settle();
        assert_eq!(completed(&cluster), commands[before.len()..]);
        assert_eq!(cluster.disk(0).sector(0)[0], 29);
        cluster.demand_idle();
    });
}

/// A swap under load: I/O from every core, all the time; each write is on the table that was live when it was admitted or
/// re-issued, hosts see no error, and the old table's device gets nothing once the swap is answered.
#[test]
fn swap_under_load_is_invisible() {
    for_seeds(60, |seed| {
        let mut cluster = running(3, seed, seed % 2 == 0);
        (0..2).for_each(|disk| {
            cluster.disk(disk).answers = Answers::Mixed {
                inline: 20,
                busy: 10,
            }
        });
        let mut commands = Vec::new();
        let table = cluster.table("0 64 linear d1 0");
        cluster.request(DEVICE, Request::Load(table));
        let resume = cluster.request(DEVICE, RESUME);
        let mut answered = false;
        for n in 0..200u64 {
            let ask = match n % 7 {
                0 => Ask::flush(),
                1 => Ask::fill(n % 64, 1, 1).fua(),
                2 => Ask::read(0, 64),
                _ => Ask::fill(n % 64, 1, 1),
            };
            commands.push(cluster.submit((n % 3) as u16, DEVICE, ask));
            cluster.steps(n % 4);
            if answered {
                assert!(
                    cluster.disk(0).held.is_empty(),
                    "nothing is on the old table"
                );
                assert_eq!(cluster.disk(0).channels, 0);
            }
            answered |= cluster.answer(resume).is_some();
        }
        cluster.settle();
        assert!(answered || cluster.answer(resume).is_some());
        assert!(
            commands
                .iter()
                .all(|command| cluster.status(*command) == Some(Status::Ok))
        );
        cluster.demand_idle();
    });
}

/// AT-78, PM-13: a host gives up a parked command: it ends once, at once, as aborted, and what is behind it stays in order.
#[test]
fn at_78_parked_io_can_be_aborted() {
    let mut cluster = running(2, 1, false);
    cluster.disk(0).answers = Answers::Later;
    let below = cluster.submit(0, DEVICE, Ask::fill(0, 1, 1));
    assert!(
        !cluster.abort(0, DEVICE, below),
        "not parked: it ends by itself"
    );
    cluster.settle();
    cluster.disk(0).answers = Answers::Inline;
    cluster.done(DEVICE, SUSPEND);
    let parked: Vec<_> = (0..4)
        .map(|n| cluster.submit(0, DEVICE, Ask::fill(n, 1, 2)))
        .collect();
    cluster.seen();
    for at in [3, 0] {
        assert!(cluster.abort(0, DEVICE, parked[at]));
        assert_eq!(cluster.status(parked[at]), Some(Status::Aborted));
        assert!(!cluster.abort(0, DEVICE, parked[at]), "once");
    }
    assert!(!cluster.abort(1, DEVICE, parked[1]), "it is another core's");
    assert!(
        !cluster.abort(0, DeviceId(9), parked[1]),
        "it is another device's"
    );
    cluster.done(DEVICE, RESUME);
    cluster.settle();
    assert_eq!(
        completed(&cluster),
        [parked[3], parked[0], parked[1], parked[2]]
    );
    assert_eq!(
        cluster.disk(0).sector(0)[0],
        1,
        "the aborted write was not done"
    );
    cluster.demand_idle();
}

/// PM-13: also one that waits for its sequence on a suspended device, where it would wait for as long as it is suspended.
#[test]
fn at_78_a_command_that_waits_for_its_sequence_can_be_aborted() {
    for_seeds(60, |seed| {
        let mut cluster = running(2, seed, true);
        cluster.disk(0).answers = Answers::Later;
        let first = cluster.submit(0, DEVICE, Ask::fill(0, 1, 1).fua());
        let second = cluster.submit(1, DEVICE, Ask::compare_and_write(1, 1, 0, 1));
        let behind = cluster.submit(0, DEVICE, Ask::fill(2, 1, 1));
        cluster.steps(seed % 30);
        cluster.done(DEVICE, SUSPEND);
        cluster.settle();
        for (core, command) in [(0, first), (1, second)] {
            let waits = cluster.status(command).is_none();
            assert_eq!(
                cluster.abort(core, DEVICE, command),
                waits,
                "what is not done is parked"
            );
            if waits {
                assert_eq!(cluster.status(command), Some(Status::Aborted));
            }
            assert!(!cluster.abort(core, DEVICE, command), "once");
        }
        cluster.done(DEVICE, RESUME);
        cluster.settle();
        assert_eq!(
            cluster.status(behind),
            Some(Status::Ok),
            "what was behind goes on"
        );
        assert_eq!(cluster.run(1, DEVICE, Ask::flush()).0, Status::Ok);
        assert_eq!(
            cluster.run(0, DEVICE, Ask::compare_and_write(2, 1, 1, 2)).0,
            Status::Ok
        );
        cluster.demand_idle();
    });
}

/// AT-78: the reset of a suspended device ends what its hosts have parked on a core, or have waiting for a sequence, once and at once. What is
/// below ends by itself, and what other cores have parked stays.
#[test]
fn at_78_a_reset_ends_all_that_waits_and_does_not_hang() {
    for_seeds(60, |seed| {
        let mut cluster = running(2, seed, true);
        cluster.disk(0).answers = Answers::Later;
        let below = cluster.submit(0, DEVICE, Ask::fill(0, 1, 1));
        assert_eq!(cluster.abort_all(0, DEVICE), 1, "it ends by itself");
        assert_eq!(cluster.status(below), None);
        let mut commands = vec![
            cluster.submit(0, DEVICE, Ask::fill(1, 1, 2).fua()),
            cluster.submit(0, DEVICE, Ask::compare_and_write(2, 1, 0, 3)),
        ];
        cluster.steps(seed % 30);
        cluster.done(DEVICE, SUSPEND);
        commands.extend((3..7).map(|n| cluster.submit(0, DEVICE, Ask::fill(n, 1, 4))));
        let elsewhere = cluster.submit(1, DEVICE, Ask::fill(7, 1, 5));
        cluster.settle();
        cluster.seen();
        assert_eq!(
            cluster.abort_all(0, DEVICE),
            0,
            "nothing is below a suspended device"
        );
        let ended = completed(&cluster);
        assert!(
            ended.len() >= 4 && ended.is_sorted(),
            "oldest first: {ended:?}"
        );
        for command in ended {
            assert_eq!(cluster.status(command), Some(Status::Aborted));
        }
        for command in commands {
            assert!(cluster.status(command).is_some(), "#{command} waits on");
        }
        assert_eq!(cluster.abort_all(0, DEVICE), 0, "once");
        assert_eq!(cluster.status(elsewhere), None);
        cluster.done(DEVICE, RESUME);
        cluster.settle();
        assert_eq!(cluster.status(elsewhere), Some(Status::Ok));
        assert_eq!(cluster.run(0, DEVICE, Ask::flush()).0, Status::Ok);
        cluster.demand_idle();
    });
}

/// PM-11: a suspend that is given up while it still waits for a sequence takes nothing from the sequence, which is itself waiting
/// for the device to drain.
#[test]
fn pm_11_a_cancelled_suspend_leaves_a_draining_sequence_alone() {
    let mut cluster = running(2, 1, false);
    cluster.disk(0).answers = Answers::Later;
    cluster.disk(0).frozen = true;
    let write = cluster.submit(1, DEVICE, Ask::fill(0, 1, 1));
    let compare = cluster.submit(0, DEVICE, Ask::compare_and_write(8, 1, 0, 2));
    cluster.settle();
    let suspend = cluster.request(DEVICE, SUSPEND);
    cluster.settle();
    assert_eq!(cluster.answer(suspend), None);
    cluster.done(DEVICE, Request::Cancel);
    cluster.disk(0).frozen = false;
    cluster.settle();
    assert_eq!(
        cluster
            .answer(suspend)
            .map(|answer| answer.map_err(|error| error.errno)),
        Some(Err(Errno::Eintr))
    );
    assert_eq!(cluster.status(write), Some(Status::Ok));
    assert_eq!(cluster.status(compare), Some(Status::Ok));
    cluster.demand_idle();
}

/// 1.4 step 2: a swap into a device that has no table yet can be given up as any other.
#[test]
fn the_first_swap_can_be_cancelled() {
    let mut cluster = Cluster::new(2, 1);
    cluster.add_disks(1);
    cluster.done(
        DEVICE,
        Request::Create {
            ordered: false,
            parked_limit_ns: None,
        },
    );
    let table = cluster.table("0 64 linear d0 0");
    cluster.done(DEVICE, Request::Load(table));
    let resume = cluster.request(DEVICE, RESUME);
    let cancel = cluster.request(DEVICE, Request::Cancel);
    cluster.settle();
    assert_eq!(cluster.answer(cancel), Some(Ok(Reply::Done)));
    let answer = cluster.answer(resume).expect("it was given up");
    assert_eq!(answer.map_err(|error| error.errno), Err(Errno::Eintr));
    let info = cluster.info(DEVICE);
    assert_eq!(
        (info.live, info.inactive, info.suspended),
        (false, true, false)
    );
    cluster.done(DEVICE, RESUME);
    assert_eq!(cluster.run(1, DEVICE, Ask::fill(0, 1, 1)).0, Status::Ok);
}
