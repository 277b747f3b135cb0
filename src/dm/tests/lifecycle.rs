//! The life-cycle of a device: table 1.2, for the operations that are built.

use super::super::error::Errno;
use super::super::io::{DeviceId, Op};
use super::super::message::SuspendOptions;
use super::super::message::{Answer, Reply, Request, TargetLine};
use super::super::status::Status;
use super::{RESUME, SUSPEND};
use crate::sim::{Answers, Ask, Cluster, Seen};

const DEVICE: DeviceId = DeviceId(1);

/// Two cores, two disks of 64 sectors, and an empty device whose home is core 1.
fn empty() -> Cluster {
    let mut cluster = Cluster::new(2, 7);
    cluster.add_disks(2);
    cluster.done(
        DEVICE,
        Request::Create {
            ordered: false,
            parked_limit_ns: None,
        },
    );
    cluster
}

fn running(table: &str) -> Cluster {
    let mut cluster = empty();
    cluster.switch_to(DEVICE, table);
    cluster
}

fn errno(answer: Answer) -> Errno {
    answer.expect_err("refused").errno
}

fn load(cluster: &mut Cluster, table: &str) -> Answer {
    let table = cluster.table(table);
    cluster.ask(DEVICE, Request::Load(table))
}

fn lines(answer: Answer) -> Vec<String> {
    let line = |l: TargetLine| format!("{} {} {} {}", l.start, l.sectors, l.target, l.text);
    match answer {
        Ok(Reply::Lines(lines)) => lines.into_iter().map(line).collect(),
        other => panic!("{other:?}"),
    }
}

fn channels(cluster: &Cluster) -> (u32, u32) {
    let of = |disk| cluster.disk(disk).channels;
    (of(0), of(1))
}

/// LC-1, AT-74: no table, no I/O; not even parked on a suspended device.
#[test]
fn at_74_lc_1_a_device_without_a_table_fails_io_at_once() {
    let mut cluster = empty();
    for _ in 0..2 {
        for ask in [Ask::read(0, 1), Ask::flush(), Ask::fill(0, 1, 1).fua()] {
            let command = cluster.submit(0, DEVICE, ask);
            assert_eq!(cluster.status(command), Some(Status::IoError), "at once");
        }
        let info = cluster.info(DEVICE);
        assert_eq!((info.live, info.sectors, info.targets), (false, 0, 0));
        cluster.done(DEVICE, SUSPEND);
    }
    assert!(cluster.info(DEVICE).suspended);
    load(&mut cluster, "0 8 zero").unwrap();
    let command = cluster.submit(0, DEVICE, Ask::read(0, 1));
    assert_eq!(
        cluster.status(command),
        Some(Status::IoError),
        "an inactive table is not for I/O"
    );
    cluster.done(DEVICE, RESUME);
    assert_eq!(cluster.run(0, DEVICE, Ask::read(0, 1)).0, Status::Ok);
}

/// Table 1.2, column E: what an empty device answers.
#[test]
fn at_54_an_empty_device() {
    let mut cluster = empty();
    cluster.done(DEVICE, Request::Clear);
    cluster.done(DEVICE, RESUME);
    assert!(!cluster.info(DEVICE).suspended);
    assert_eq!(lines(cluster.ask(DEVICE, Request::Status)), [""; 0]);
    assert_eq!(
        lines(cluster.ask(DEVICE, Request::Table { inactive: true })),
        [""; 0]
    );
    // AT-54: suspend before the first load is fine, resume without a table is not.
    cluster.done(DEVICE, SUSPEND);
    assert_eq!(errno(cluster.ask(DEVICE, RESUME)), Errno::Einval);
    assert!(cluster.info(DEVICE).suspended);
    load(&mut cluster, "0 8 zero").unwrap();
    cluster.done(DEVICE, RESUME);
    let info = cluster.info(DEVICE);
    assert_eq!(
        (info.suspended, info.live, info.inactive, info.sectors),
        (false, true, false, 8)
    );
    cluster.done(DEVICE, Request::Remove);
}

/// A device that is not there, or no more, is ENXIO for everything (LC-5).
#[test]
fn lc_5_a_removed_device_is_not_found() {
    let mut cluster = running("0 8 linear d0 0");
    cluster.done(DEVICE, Request::Remove);
    let table = cluster.table("0 8 zero");
    for request in [
        Request::Load(table),
        Request::Clear,
        SUSPEND,
        RESUME,
        Request::Remove,
        Request::Renamed,
        Request::Info,
        Request::Status,
        Request::Table { inactive: false },
    ] {
        let what = format!("{request:?}");
        assert_eq!(errno(cluster.ask(DEVICE, request)), Errno::Enxio, "{what}");
    }
    assert_eq!(cluster.run(0, DEVICE, Ask::read(0, 1)).0, Status::IoError);
    assert_eq!(channels(&cluster), (0, 0));
    // The number can be given away again.
    cluster.device(DEVICE.0, true, "0 8 linear d0 0");
    assert!(cluster.info(DEVICE).ordered);
}

/// Creating what exists is refused, and changes nothing.
#[test]
fn a_device_is_created_once() {
    let mut cluster = running("0 8 linear d0 0");
    let answer = cluster.ask(
        DEVICE,
        Request::Create {
            ordered: true,
            parked_limit_ns: None,
        },
    );
    assert_eq!(errno(answer), Errno::Ebusy);
    assert!(!cluster.info(DEVICE).ordered);
    assert_eq!(cluster.run(0, DEVICE, Ask::read(0, 1)).0, Status::Ok);
    let first = cluster.request(
        DeviceId(5),
        Request::Create {
            ordered: false,
            parked_limit_ns: None,
        },
    );
    let second = cluster.request(
        DeviceId(5),
        Request::Create {
            ordered: false,
            parked_limit_ns: None,
        },
    );
    cluster.settle();
    assert_eq!(cluster.answer(first), Some(Ok(Reply::Done)));
    assert_eq!(errno(cluster.answer(second).unwrap()), Errno::Ebusy);
}

/// LC-22, LC-23: what a device tells of itself, in every state.
#[test]
fn lc_22_info_table_and_status() {
    let live = "0 16 striped 2 4 d0 0 d1 8\n16 8 linear d1 0";
    let mut cluster = running(live);
    load(&mut cluster, "0 8 linear d0 4\n8 2 zero").unwrap();
    let info = cluster.info(DEVICE);
    assert_eq!(
        (info.suspended, info.live, info.inactive),
        (false, true, true)
    );
    assert_eq!((info.targets, info.sectors, info.read_only), (2, 24, false));
    assert_eq!(info.lowers, ["d0", "d1"]);
    let table =
        |cluster: &mut Cluster, inactive| lines(cluster.ask(DEVICE, Request::Table { inactive }));
    assert_eq!(table(&mut cluster, false).join("\n"), live);
    assert_eq!(table(&mut cluster, true), ["0 8 linear d0 4", "8 2 zero "]);
    let status = lines(cluster.ask(DEVICE, Request::Status));
    assert_eq!(status, ["0 16 striped 2 d0 d1 1 AA", "16 8 linear "]);
    cluster.done(DEVICE, Request::Clear);
    assert_eq!(table(&mut cluster, true), [""; 0]);
    assert!(!cluster.info(DEVICE).inactive);
}

/// Questions are answered while an operation waits for I/O (LC-3).
#[test]
fn lc_3_questions_do_not_wait() {
    let mut cluster = running("0 8 linear d0 0");
    cluster.disk(0).answers = Answers::Later;
    cluster.disk(0).frozen = true;
    cluster.submit(0, DEVICE, Ask::read(0, 1));
    let suspend = cluster.request(DEVICE, SUSPEND);
    let clear = cluster.request(DEVICE, Request::Clear);
    cluster.settle();
    assert!(!cluster.info(DEVICE).suspended);
    assert_eq!(lines(cluster.ask(DEVICE, Request::Status)).len(), 1);
    assert_eq!(cluster.answer(suspend), None);
    assert_eq!(
        cluster.answer(clear),
        None,
        "operations are one after another (LC-6)"
    );
    cluster.release(0);
    cluster.settle();
    assert_eq!(cluster.answer(suspend), Some(Ok(Reply::Done)));
    assert_eq!(cluster.answer(clear), Some(Ok(Reply::Done)));
}

/// A stripe that failed shows as D, whichever core saw it, and raises an event; "not supported" does not count (6.1).
#[test]
fn status_tells_of_failed_stripes() {
    for core in 0..2 {
        let mut cluster = running("0 16 striped 2 4 d0 0 d1 0");
        let before = cluster.info(DEVICE).event_nr;
        cluster.disk(1).script = [
            Answers::Fail(Status::NotSupported),
            Answers::Fail(Status::Medium),
        ]
        .into();
        cluster.run(core, DEVICE, Ask::read(4, 1));
        cluster.settle();
        assert_eq!(
            lines(cluster.ask(DEVICE, Request::Status)),
            ["0 16 striped 2 d0 d1 1 AA"]
        );
        cluster.run(core, DEVICE, Ask::read(4, 1));
        cluster.settle();
        assert_eq!(
            lines(cluster.ask(DEVICE, Request::Status)),
            ["0 16 striped 2 d0 d1 1 AD"]
        );
        assert_eq!(cluster.info(DEVICE).event_nr, before + 1, "seen by {core}");
        cluster.done(DEVICE, Request::Renamed);
        assert_eq!(cluster.info(DEVICE).event_nr, before + 2, "LC-24");
    }
}

/// LC-13: a new load replaces the inactive table; what it had opened is closed. LC-10: opened once per core.
#[test]
fn lc_13_a_load_replaces_the_inactive_table() {
    let mut cluster = running("0 8 linear d0 0\n8 8 linear d0 32");
    assert_eq!(channels(&cluster), (2, 0), "once on each of two cores");
    load(&mut cluster, "0 8 linear d1 0").unwrap();
    assert_eq!(channels(&cluster), (2, 2));
    load(&mut cluster, "0 8 linear d1 8").unwrap();
    assert_eq!(channels(&cluster), (2, 2));
    assert_eq!(
        lines(cluster.ask(DEVICE, Request::Table { inactive: true })),
        ["0 8 linear d1 8"]
    );
    cluster.done(DEVICE, RESUME);
    assert_eq!(
        channels(&cluster),
        (0, 2),
        "the old table is destroyed after the resume (1.4, step 6)"
    );
    cluster.done(DEVICE, Request::Remove);
    assert_eq!(channels(&cluster), (0, 0));
}

/// LC-15, PM-12: one core cannot open a device: ENXIO with the reason, the earlier inactive table stays, nothing leaks.
#[test]
fn lc_15_a_failed_load_leaves_everything_as_it_was() {
    let mut cluster = running("0 8 linear d0 0");
    load(&mut cluster, "0 8 linear d0 16").unwrap();
    cluster.disk(1).closed_to.insert(1);
    let error = load(&mut cluster, "0 8 linear d0 0\n8 8 linear d1 0").unwrap_err();
    assert_eq!(error.errno, Errno::Enxio);
    assert_eq!(
        error.reason,
        "core 1: 'd1' cannot be opened: no room for its ring"
    );
    assert_eq!(channels(&cluster), (4, 0));
    assert_eq!(
        lines(cluster.ask(DEVICE, Request::Table { inactive: true })),
        ["0 8 linear d0 16"]
    );
    assert_eq!(cluster.run(0, DEVICE, Ask::fill(0, 1, 3)).0, Status::Ok);
    assert_eq!(cluster.disk(0).sector(0)[0], 3, "on the live table");
    cluster.done(DEVICE, RESUME);
    assert_eq!(channels(&cluster), (2, 0));
}

/// LC-4: suspend of a suspended device and resume of a running one do nothing, successfully.
#[test]
fn lc_4_suspend_and_resume_are_idempotent() {
    let mut cluster = running("0 8 linear d0 0");
    cluster.done(DEVICE, RESUME);
    cluster.done(DEVICE, SUSPEND);
    cluster.done(DEVICE, SUSPEND);
    assert!(cluster.info(DEVICE).suspended);
    cluster.done(DEVICE, RESUME);
    assert!(!cluster.info(DEVICE).suspended);
    assert_eq!(cluster.run(1, DEVICE, Ask::read(0, 1)).0, Status::Ok);
}

/// LC-16, AT-53: another block size under an open front end is refused; the old table stays live, the device suspended.
#[test]
fn at_53_lc_16_the_block_size_of_an_open_device_stays() {
    let mut cluster = running("0 64 linear d0 0");
    cluster.disk(1).lower.block_bytes = 4096;
    load(&mut cluster, "0 64 linear d1 0").unwrap();
    let error = cluster.ask(DEVICE, RESUME).unwrap_err();
    assert_eq!(error.errno, Errno::Einval);
    let info = cluster.info(DEVICE);
    assert_eq!(
        (info.suspended, info.live, info.inactive),
        (true, true, false)
    );
    assert_eq!(channels(&cluster), (2, 0), "the new table was destroyed");
    let parked = cluster.submit(0, DEVICE, Ask::fill(1, 1, 9));
    cluster.done(DEVICE, RESUME);
    assert_eq!(cluster.status(parked), Some(Status::Ok));
    assert_eq!(cluster.disk(0).sector(1)[0], 9);
    // Nobody holds it: then it may change.
    load(&mut cluster, "0 64 linear d1 0").unwrap();
    cluster.done(
        DEVICE,
        Request::Resume {
            open: false,
            suspend: SuspendOptions::default(),
        },
    );
    assert_eq!(cluster.mappers[0].limits(DEVICE).unwrap().block_bytes, 4096);
}

/// 1.4 step 3, LC-12: a table without devices takes over the limits of the one before it, so `error` and `zero` may stand
/// in for any table under an open front end, and what has the old block size may come back.
#[test]
fn a_table_without_devices_keeps_the_limits() {
    let mut cluster = empty();
    cluster.disk(0).lower.block_bytes = 4096;
    cluster.switch_to(DEVICE, "0 64 linear d0 0");
    let before = cluster.mappers[0].limits(DEVICE).unwrap().clone();
    cluster.seen();
    cluster.switch_to(DEVICE, "0 64 error");
    assert_eq!(cluster.mappers[0].limits(DEVICE), Some(&before));
    assert!(
        !cluster
            .seen()
            .iter()
            .any(|seen| matches!(seen, Seen::Changed { .. })),
        "nothing changed for hosts"
    );
    assert_eq!(cluster.run(0, DEVICE, Ask::read(0, 8)).0, Status::IoError);
    // Once more without devices: still the limits of the first.
    cluster.switch_to(DEVICE, "0 128 zero");
    let limits = cluster.mappers[1].limits(DEVICE).unwrap().clone();
    assert_eq!((limits.block_bytes, limits.sectors), (4096, 128));
    assert!(
        cluster
            .seen()
            .iter()
            .any(|seen| matches!(seen, Seen::Changed { .. })),
        "another size"
    );
    // A size that is not whole blocks, or a table with other blocks, cannot stand in.
    load(&mut cluster, "0 60 zero").unwrap();
    assert_eq!(errno(cluster.ask(DEVICE, RESUME)), Errno::Einval);
    load(&mut cluster, "0 64 linear d1 0").unwrap();
    assert_eq!(errno(cluster.ask(DEVICE, RESUME)), Errno::Einval);
    cluster.switch_to(DEVICE, "0 64 linear d0 0");
    assert_eq!(cluster.mappers[0].limits(DEVICE), Some(&before));
}

/// 1.4 step 4: a table over a read-only device refuses whatever would change it, on every path; a table after it decides
/// for itself, also one without devices.
#[test]
fn a_read_only_table_refuses_changes() {
    let mut cluster = empty();
    cluster.disk(0).lower.read_only = true;
    cluster.switch_to(DEVICE, "0 64 linear d0 0");
    assert!(cluster.info(DEVICE).read_only);
    let changes = [
        Ask::fill(0, 1, 1),
        Ask::fill(0, 1, 1).fua(),
        Ask::range(Op::Discard, 0, 1),
        Ask::range(Op::WriteZeroes, 0, 1),
        Ask::compare_and_write(0, 1, 0, 1),
    ];
    cluster.seen();
    for ask in changes.clone() {
        let what = format!("{ask:?}");
        assert_eq!(cluster.run(0, DEVICE, ask).0, Status::IoError, "{what}");
    }
    let seen = cluster.seen();
    assert!(
        !seen.iter().any(|s| matches!(s, Seen::Submitted { .. })),
        "{seen:?}"
    );
    assert_eq!(cluster.run(0, DEVICE, Ask::read(0, 64)).0, Status::Ok);
    assert_eq!(cluster.run(0, DEVICE, Ask::flush()).0, Status::Ok);
    cluster.switch_to(DEVICE, "0 64 zero");
    assert!(!cluster.info(DEVICE).read_only);
    assert_eq!(cluster.run(0, DEVICE, Ask::fill(0, 1, 1)).0, Status::Ok);
    assert_eq!(
        cluster.run(0, DEVICE, Ask::fill(0, 1, 1).fua()).0,
        Status::Ok
    );
    // What was parked for a writable table is judged by the one that is live when it is re-issued (IO-22).
    cluster.done(DEVICE, SUSPEND);
    let parked = cluster.submit(0, DEVICE, Ask::fill(0, 1, 1));
    cluster.switch_to(DEVICE, "0 64 linear d0 0");
    cluster.settle();
    assert_eq!(cluster.status(parked), Some(Status::IoError));
}

/// LC-18, LC-21, AT-58: remove, running or suspended: I/O below ends by itself, what is parked is aborted, each once.
#[test]
fn at_58_lc_21_remove_completes_parked_io_once() {
    let mut cluster = running("0 8 linear d0 0");
    cluster.disk(0).answers = Answers::Later;
    cluster.disk(0).frozen = true;
    let below = cluster.submit(1, DEVICE, Ask::read(0, 1));
    let remove = cluster.request(DEVICE, Request::Remove);
    let late = cluster.request(DEVICE, SUSPEND);
    cluster.settle();
    let parked: Vec<_> = (0..2)
        .map(|core| cluster.submit(core, DEVICE, Ask::read(0, 1)))
        .collect();
    assert_eq!(cluster.answer(remove), None);
    cluster.release(0);
    cluster.settle();
    assert_eq!(cluster.answer(remove), Some(Ok(Reply::Done)));
    assert_eq!(errno(cluster.answer(late).unwrap()), Errno::Enxio);
    assert_eq!(cluster.status(below), Some(Status::Ok));
    assert!(
        parked
            .iter()
            .all(|command| cluster.status(*command) == Some(Status::Aborted))
    );
    assert_eq!(channels(&cluster), (0, 0));
    cluster.demand_idle();
}

/// The same for I/O in the middle of sequences: running, waiting, and behind them.
#[test]
fn lc_21_remove_aborts_sequences() {
    for steps in 0..60 {
        let mut cluster = Cluster::new(2, steps);
        let disk = cluster.add_disk(64, |_| {});
        cluster.device(DEVICE.0, true, "0 64 linear d0 0");
        cluster.disk(disk).answers = Answers::Later;
        let asks = [
            Ask::flush(),
            Ask::fill(0, 1, 1).fua(),
            Ask::read(0, 1),
            Ask::compare_and_write(1, 1, 0, 1),
        ];
        let commands: Vec<_> = (0..8)
            .map(|n| cluster.submit(n % 2, DEVICE, asks[n as usize / 2].clone()))
            .collect();
        cluster.steps(steps);
        cluster.done(DEVICE, Request::Remove);
        cluster.settle();
        for command in commands {
            let status = cluster.status(command);
            assert!(
                matches!(
                    status,
                    Some(Status::Ok | Status::Aborted | Status::Miscompare)
                ),
                "{status:?}"
            );
        }
        assert_eq!(cluster.disk(disk).channels, 0);
        cluster.demand_idle();
    }
}

/// LC-17, AT-57: a resume with another size announces it before parked I/O is re-issued; what lies beyond the new end
/// fails, a parked flush does not.
#[test]
fn at_57_resize_while_io_is_parked() {
    let mut cluster = running("0 16 linear d0 0");
    cluster.done(DEVICE, SUSPEND);
    let inside = cluster.submit(0, DEVICE, Ask::fill(0, 1, 1));
    let beyond = cluster.submit(0, DEVICE, Ask::fill(8, 1, 1));
    let across = cluster.submit(1, DEVICE, Ask::read(7, 2));
    let flush = cluster.submit(1, DEVICE, Ask::flush());
    cluster.seen();
    cluster.switch_to(DEVICE, "0 8 linear d1 0");
    cluster.settle();
    let ends: Vec<_> = [inside, beyond, across, flush]
        .iter()
        .map(|c| cluster.status(*c).unwrap())
        .collect();
    assert_eq!(
        ends,
        [Status::Ok, Status::IoError, Status::IoError, Status::Ok]
    );
    let seen = cluster.seen();
    let first = seen
        .iter()
        .position(|s| matches!(s, Seen::Submitted { .. } | Seen::Completed { .. }));
    let changes = seen[..first.unwrap()]
        .iter()
        .filter(|s| matches!(s, Seen::Changed { .. }));
    assert_eq!(changes.count(), 2, "both cores were told first: {seen:?}");
    assert_eq!(cluster.disk(1).sector(0)[0], 1);
    let discard = Ask::range(Op::Discard, 0, 9);
    assert_eq!(cluster.run(0, DEVICE, discard).0, Status::IoError);
}
