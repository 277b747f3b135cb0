//! The bound on how long I/O may stay parked while its device is suspended, in virtual time.

use super::super::io::DeviceId;
use super::super::message::{Reply, Request, SuspendOptions};
use super::super::status::Status;
use super::{RESUME, SUSPEND};
use crate::sim::{Answers, Ask, Cluster};

const DEVICE: DeviceId = DeviceId(0);
const LIMIT_NS: u64 = 1_000_000;

fn limited(ordered: bool) -> Cluster {
    let mut cluster = Cluster::new(2, 1);
    cluster.add_disks(1);
    let parked_limit_ns = Some(LIMIT_NS);
    cluster.done(
        DEVICE,
        Request::Create {
            ordered,
            parked_limit_ns,
        },
    );
    cluster.switch_to(DEVICE, "0 64 linear d0 0");
    assert_eq!(cluster.info(DEVICE).parked_limit_ns, Some(LIMIT_NS));
    cluster
}

/// Moves the clock, and lets both cores see it.
fn pass(cluster: &mut Cluster, ns: u64) {
    cluster.shared().now_ns += ns;
    cluster.poll(0);
    cluster.poll(1);
}

/// Each I/O has its own time; what has waited for less goes on waiting, and goes on when the device is resumed.
#[test]
fn parked_io_fails_when_its_time_is_up() {
    let mut cluster = limited(false);
    cluster.done(DEVICE, SUSPEND);
    let first = cluster.submit(0, DEVICE, Ask::read(0, 1));
    let other = cluster.submit(1, DEVICE, Ask::flush());
    pass(&mut cluster, LIMIT_NS / 2);
    let second = cluster.submit(0, DEVICE, Ask::fill(0, 1, 1));
    pass(&mut cluster, LIMIT_NS / 2 - 1);
    assert_eq!(cluster.status(first), None, "a nanosecond is left");
    pass(&mut cluster, 1);
    assert_eq!(cluster.status(first), Some(Status::Timeout));
    assert_eq!(cluster.status(other), Some(Status::Timeout));
    assert_eq!(cluster.status(second), None);
    let stats = cluster.mappers[0].stats(DEVICE).unwrap();
    assert_eq!((stats.parked, stats.read.errors), (1, 1));
    pass(&mut cluster, LIMIT_NS / 2);
    assert_eq!(cluster.status(second), Some(Status::Timeout));
    let third = cluster.submit(0, DEVICE, Ask::read(0, 1));
    cluster.done(DEVICE, RESUME);
    cluster.settle();
    assert_eq!(cluster.status(third), Some(Status::Ok));
    cluster.demand_idle();
}

/// The clock of what a later suspend parks begins then, whatever timer is left of an earlier one.
#[test]
fn every_suspend_has_its_own_clock() {
    let mut cluster = limited(false);
    cluster.done(DEVICE, SUSPEND);
    let first = cluster.submit(0, DEVICE, Ask::read(0, 1));
    pass(&mut cluster, LIMIT_NS / 2);
    cluster.done(DEVICE, RESUME);
    cluster.done(DEVICE, SUSPEND);
    assert_eq!(cluster.status(first), Some(Status::Ok));
    let second = cluster.submit(0, DEVICE, Ask::read(0, 1));
    pass(&mut cluster, LIMIT_NS - 1);
    assert_eq!(cluster.status(second), None);
    pass(&mut cluster, 1);
    assert_eq!(cluster.status(second), Some(Status::Timeout));
}

/// A device that is not suspended may take its time: an ordered flush keeps others waiting for as long as it lasts. When the
/// device is suspended while they wait, their time counts.
#[test]
fn only_a_suspended_device_is_limited() {
    let mut cluster = limited(true);
    cluster.disk(0).answers = Answers::Later;
    cluster.disk(0).frozen = true;
    let flush = cluster.submit(0, DEVICE, Ask::flush());
    while cluster.disk(0).held.is_empty() {
        assert!(cluster.step());
    }
    let behind = cluster.submit(0, DEVICE, Ask::read(0, 1));
    let next = cluster.submit(1, DEVICE, Ask::flush());
    pass(&mut cluster, 10 * LIMIT_NS);
    for command in [flush, behind, next] {
        assert_eq!(cluster.status(command), None);
    }
    let suspend = cluster.request(DEVICE, SUSPEND);
    cluster.settle();
    assert_eq!(cluster.status(behind), None, "the suspend has yet to begin");
    cluster.release(0);
    cluster.disk(0).frozen = false;
    while cluster.answer(suspend).is_none() {
        assert!(cluster.step());
    }
    pass(&mut cluster, LIMIT_NS);
    assert_eq!(cluster.status(flush), Some(Status::Ok));
    for command in [behind, next] {
        assert_eq!(cluster.status(command), Some(Status::Timeout));
    }
    cluster.done(DEVICE, RESUME);
    cluster.settle();
    cluster.demand_idle();
}

/// Without a limit nothing is given up, and `fail-parked` says how many it has failed, over all cores.
#[test]
fn without_a_limit_an_operator_decides() {
    let mut cluster = Cluster::new(2, 1);
    cluster.add_disks(1);
    cluster.device(DEVICE.0, false, "0 64 linear d0 0");
    let noflush = SuspendOptions {
        noflush: true,
        ..SuspendOptions::default()
    };
    cluster.done(DEVICE, Request::Suspend(noflush));
    let parked: Vec<_> = (0..5)
        .map(|n| cluster.submit(n % 2, DEVICE, Ask::read(0, 1)))
        .collect();
    pass(&mut cluster, 1_000_000 * LIMIT_NS);
    assert!(parked.iter().all(|c| cluster.status(*c).is_none()));
    assert_eq!(
        cluster.ask(DEVICE, Request::FailParked),
        Ok(Reply::Count(5))
    );
    assert!(
        parked
            .iter()
            .all(|c| cluster.status(*c) == Some(Status::IoError))
    );
}
