//! A swap in one step: done, or undone as a whole, whichever step fails.

use super::super::bound::UNRESUMABLE;
use super::super::error::{Errno, Error};
use super::super::io::DeviceId;
use super::super::message::{Answer, Reply, Request, SuspendOptions};
use super::super::status::Status;
use super::{RESUME, SUSPEND};
use crate::sim::{Answers, Ask, Cluster};

const DEVICE: DeviceId = DeviceId(1);
const OLD: &str = "0 64 linear d0 0";
const INACTIVE: &str = "0 32 linear d0 8";
const NEW: &str = "0 64 linear d1 0";

/// A running device on the disk 0, another table in its inactive slot.
fn loaded(seed: u64) -> Cluster {
    let mut cluster = Cluster::new(2, seed);
    cluster.add_disks(2);
    cluster.device(DEVICE.0, false, OLD);
    let table = cluster.table(INACTIVE);
    cluster.done(DEVICE, Request::Load(table));
    cluster
}

fn swap(cluster: &Cluster, table: &str, timeout_ns: Option<u64>) -> Request {
    Request::Swap {
        table: cluster.table(table),
        open: true,
        suspend: SuspendOptions {
            noflush: true,
            lockfs: false,
            timeout_ns,
        },
    }
}

fn refused(answer: Answer) -> Error {
    answer.expect_err("refused")
}

/// The text of one of the two tables.
fn table(cluster: &mut Cluster, inactive: bool) -> String {
    match cluster.ask(DEVICE, Request::Table { inactive }) {
        Ok(Reply::Lines(lines)) => lines
            .iter()
            .map(|l| format!("{} {} {} {}", l.start, l.sectors, l.target, l.text))
            .collect(),
        other => panic!("{other:?}"),
    }
}

/// Everything is as [`loaded`] left it, and the new table's channels are closed.
fn assert_untouched(cluster: &mut Cluster, suspended: bool) {
    assert_eq!(table(cluster, false), OLD);
    assert_eq!(table(cluster, true), INACTIVE);
    cluster.demand_settled();
    assert_eq!(cluster.info(DEVICE).suspended, suspended);
    assert_eq!(cluster.disk(1).channels, 0, "the new table is closed");
    if !suspended {
        assert_eq!(cluster.run(0, DEVICE, Ask::read(60, 1)).0, Status::Ok);
    }
}

/// What runs is swapped under load: nothing fails, what comes later goes to the new disk, and the slot is empty (LC-13).
#[test]
fn a_swap_replaces_the_live_table_and_empties_the_slot() {
    super::for_seeds(20, |seed| {
        let mut cluster = loaded(seed);
        cluster.disk(0).answers = Answers::Later;
        let before: Vec<_> = (0..8)
            .map(|n| cluster.submit(n % 2, DEVICE, Ask::fill(u64::from(n), 1, 1)))
            .collect();
        let request = swap(&cluster, NEW, None);
        let ticket = cluster.request(DEVICE, request);
        let mut during = Vec::new();
        while cluster.answer(ticket).is_none() {
            during.push(cluster.submit(0, DEVICE, Ask::read(9, 1)));
            assert!(cluster.step());
        }
        cluster.settle();
        for command in before.iter().chain(&during) {
            assert_eq!(cluster.status(*command), Some(Status::Ok));
        }
        assert_eq!(table(&mut cluster, false), NEW);
        let info = cluster.info(DEVICE);
        assert!(!info.suspended && !info.inactive);
        assert_eq!(cluster.disk(0).channels, 0, "both old tables are closed");
        cluster.demand_idle();
    });
}

/// A table that a core cannot open, or that hosts could not follow (LC-16), or of a type that may not follow (LC-12): nothing has
/// happened, and nothing was suspended.
#[test]
fn lc_15_a_table_that_is_refused_changes_nothing() {
    let mut cluster = loaded(1);
    cluster.disk(1).closed_to.insert(1);
    let request = swap(&cluster, NEW, None);
    let error = refused(cluster.ask(DEVICE, request));
    assert_eq!(error.errno, Errno::Enxio);
    assert_untouched(&mut cluster, false);

    cluster.add_disk(64, |lower| lower.block_bytes = 4096);
    cluster.disk(0).answers = Answers::Later;
    cluster.disk(0).frozen = true;
    let stuck = cluster.submit(0, DEVICE, Ask::read(0, 1));
    let request = swap(&cluster, "0 64 linear d2 0", None);
    let error = refused(cluster.ask(DEVICE, request));
    assert_eq!(error.errno, Errno::Einval);
    assert_eq!(
        cluster.status(stuck),
        None,
        "answered without waiting for I/O"
    );
    cluster.disk(0).frozen = false;
    cluster.settle();
    assert_untouched(&mut cluster, false);
}

/// AT-52: a suspend that does not end in time, or that nobody wants any more, leaves both slots as they were.
#[test]
fn at_52_a_suspend_that_fails_changes_nothing() {
    for given_up in [false, true] {
        let mut cluster = loaded(2);
        cluster.disk(0).answers = Answers::Later;
        cluster.disk(0).frozen = true;
        let stuck = cluster.submit(0, DEVICE, Ask::read(0, 1));
        let timeout_ns = (!given_up).then_some(1_000_000);
        let request = swap(&cluster, NEW, timeout_ns);
        let ticket = cluster.request(DEVICE, request);
        if given_up {
            cluster.settle();
            cluster.done(DEVICE, Request::GiveUp(ticket));
        }
        cluster.settle();
        let error = refused(cluster.answer(ticket).unwrap());
        let errno = if given_up {
            Errno::Eintr
        } else {
            Errno::Etimedout
        };
        assert_eq!(error.errno, errno);
        cluster.disk(0).frozen = false;
        cluster.settle();
        assert_eq!(cluster.status(stuck), Some(Status::Ok));
        assert_untouched(&mut cluster, false);
    }
}

/// Whoever gives up while the table is only being opened is spared the suspend.
#[test]
fn a_swap_can_be_given_up_from_the_beginning() {
    super::for_seeds(20, |seed| {
        let mut cluster = loaded(seed);
        let request = swap(&cluster, NEW, None);
        let ticket = cluster.request(DEVICE, request);
        cluster.deliver(2, 1);
        cluster.done(DEVICE, Request::GiveUp(ticket));
        cluster.settle();
        assert_eq!(refused(cluster.answer(ticket).unwrap()).errno, Errno::Eintr);
        assert_untouched(&mut cluster, false);
    });
}

/// A new table that cannot be resumed gives the old one its place back; a device that was suspended stays so.
#[test]
fn a_table_that_cannot_be_resumed_gives_its_place_back() {
    for suspended in [false, true] {
        let mut cluster = loaded(3);
        if suspended {
            cluster.done(DEVICE, SUSPEND);
        }
        UNRESUMABLE.set(Some("striped"));
        let request = swap(&cluster, "0 64 striped 1 8 d1 0", None);
        let ticket = cluster.request(DEVICE, request);
        cluster.settle();
        UNRESUMABLE.set(None);
        let error = refused(cluster.answer(ticket).unwrap());
        assert_eq!(error.errno, Errno::Eagain);
        assert!(error.reason.contains("is live again"), "{error}");
        assert_untouched(&mut cluster, suspended);
        cluster.done(DEVICE, RESUME);
        assert_eq!(table(&mut cluster, false), INACTIVE, "loaded all the while");
    }
}

/// If the old one cannot be resumed either, the device is suspended on it, and the answer says both.
#[test]
fn when_neither_can_be_resumed_the_device_is_suspended_on_the_old_one() {
    let mut cluster = loaded(4);
    UNRESUMABLE.set(Some("linear"));
    let request = swap(&cluster, NEW, None);
    let answer = cluster.ask(DEVICE, request);
    UNRESUMABLE.set(None);
    let error = refused(answer);
    assert!(error.reason.contains("either"), "{error}");
    assert_untouched(&mut cluster, true);
    let parked = cluster.submit(0, DEVICE, Ask::read(0, 1));
    cluster.done(DEVICE, Request::Clear);
    cluster.done(DEVICE, RESUME);
    cluster.settle();
    assert_eq!(cluster.status(parked), Some(Status::Ok));
}

/// A device without a table gets its first one; and goes back to none when that cannot be resumed.
#[test]
fn an_empty_device_is_swapped_too() {
    let mut cluster = Cluster::new(2, 5);
    cluster.add_disks(2);
    cluster.done(
        DEVICE,
        Request::Create {
            ordered: false,
            parked_limit_ns: None,
        },
    );
    UNRESUMABLE.set(Some("linear"));
    let request = swap(&cluster, NEW, None);
    let answer = cluster.ask(DEVICE, request);
    UNRESUMABLE.set(None);
    assert_eq!(refused(answer).errno, Errno::Eagain);
    let info = cluster.info(DEVICE);
    assert!(!info.live && !info.suspended && info.sectors == 0);
    let request = swap(&cluster, NEW, None);
    cluster.done(DEVICE, request);
    assert_eq!(cluster.run(0, DEVICE, Ask::read(60, 1)).0, Status::Ok);
}

/// A request that waits behind another, and a wait for an event, can be given up; what runs already is not disturbed by it.
#[test]
fn what_waits_can_be_given_up() {
    let mut cluster = loaded(6);
    cluster.disk(0).answers = Answers::Later;
    cluster.disk(0).frozen = true;
    let stuck = cluster.submit(0, DEVICE, Ask::read(0, 1));
    let first = cluster.request(DEVICE, SUSPEND);
    let second = cluster.request(DEVICE, RESUME);
    let event = cluster.request(DEVICE, Request::Wait { event_nr: 0 });
    cluster.settle();
    cluster.done(DEVICE, Request::GiveUp(second));
    cluster.done(DEVICE, Request::GiveUp(event));
    for ticket in [second, event] {
        let error = refused(cluster.answer(ticket).unwrap());
        assert_eq!(error.errno, Errno::Eintr);
    }
    assert_eq!(cluster.answer(first), None, "goes on");
    cluster.disk(0).frozen = false;
    cluster.settle();
    assert_eq!(cluster.answer(first), Some(Ok(Reply::Done)));
    assert_eq!(cluster.status(stuck), Some(Status::Ok));
    assert!(cluster.info(DEVICE).suspended);
}
