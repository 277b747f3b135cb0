//! Connections that are lost and come back beneath a device that has no other way to go.

use std::sync::atomic::Ordering;
use std::time::Duration;

use polldm::bdev::{RemoteSpec, RemoteState, Spec};

use super::driver::{DEPTH, after, drive};
use super::processes::Remote;
use super::{add, device, engine, report, spec, stop, until, until_state, until_well};

/// Verified I/O from two reactors, with and without digests.
#[test]
fn at_01_a_remote_is_read_and_written() {
    let remote = Remote::with_memory();
    for digests in [false, true] {
        let engine = engine(2);
        let spec = RemoteSpec {
            header_digest: digests,
            data_digest: digests,
            ..spec(&remote)
        };
        add(&engine, "r0", spec);
        let lower = &engine.list_bdevs()[0].lower;
        assert_eq!((lower.sectors, lower.block_bytes), (16384, 4096));
        assert!(lower.volatile_cache && lower.flush && lower.fua);
        let device = device(&engine, "vol", "0 16384 linear r0 0");
        let seen = drive(&engine, device);
        after(&seen, 2000);
        seen.demand_flawless();
        let report = report(&engine, "r0");
        assert_eq!(
            (report.state, report.queues, report.connects, report.losses),
            (RemoteState::Live, 2, 1, 0)
        );
        stop(&engine);
    }
}

/// The remote is killed three times under I/O and started again: its hosts have to wait, and see nothing else.
#[test]
fn a_remote_that_is_killed_and_started_again_costs_time_only() {
    let mut remote = Remote::with_file();
    let engine = engine(2);
    add(&engine, "r0", spec(&remote));
    let device = device(&engine, "vol", "0 16384 linear r0 0");
    let seen = drive(&engine, device);
    for losses in 1..=3 {
        after(&seen, 500);
        remote.kill();
        until_state(&engine, "r0", RemoteState::Connecting);
        remote.restart();
        until_state(&engine, "r0", RemoteState::Live);
        after(&seen, 500);
        assert!(report(&engine, "r0").losses >= losses);
    }
    seen.demand_flawless();
    stop(&engine);
}

/// A remote that stands still keeps its connections, and says nothing. Commands are not waited for longer than `io_timeout`; meanwhile reactors have time for
/// everything else. When it goes on, so does the I/O.
#[test]
fn a_remote_that_stands_still_stalls_no_reactor() {
    let remote = Remote::with_file();
    let engine = engine(1);
    let spec = RemoteSpec {
        io_timeout: Duration::from_secs(1),
        ..spec(&remote)
    };
    add(&engine, "r0", spec);
    let ram = Spec::Malloc {
        bytes: 8 << 20,
        block_bytes: 4096,
        volatile_cache: false,
        atomic_writes: false,
    };
    engine.add_bdev("ram", &ram).unwrap();
    let far = device(&engine, "far", "0 16384 linear r0 0");
    let near = device(&engine, "near", "0 16384 linear ram 0");
    let (far, near) = (drive(&engine, far), drive(&engine, near));
    after(&far, 500);
    remote.freeze();
    // A timeout that is counted may be of before, on a busy machine; the connection is gone for good only now.
    until_state(&engine, "r0", RemoteState::Connecting);
    assert!(report(&engine, "r0").timeouts >= 1);
    after(&near, 1000);
    assert_eq!(report(&engine, "r0").state, RemoteState::Connecting);
    remote.thaw();
    after(&far, 500);
    far.demand_flawless();
    near.demand_flawless();
    stop(&engine);
}

/// What waits for a remote fails after `fast_io_fail_timeout`, as for want of a path, and what comes after that at once; a connection mends it.
#[test]
fn io_waits_for_a_lost_remote_for_a_time() {
    let mut remote = Remote::with_memory();
    let engine = engine(2);
    let spec = RemoteSpec {
        fast_io_fail_timeout: Some(Duration::from_millis(100)),
        ..spec(&remote)
    };
    add(&engine, "r0", spec);
    let device = device(&engine, "vol", "0 16384 linear r0 0");
    let seen = drive(&engine, device);
    after(&seen, 500);
    seen.demand_flawless();
    remote.kill();
    until(|| seen.hit.load(Ordering::Relaxed) == u64::from(2 * DEPTH));
    until_state(&engine, "r0", RemoteState::Connecting);
    remote.restart();
    until_state(&engine, "r0", RemoteState::Live);
    until_well(&seen);
    let failed = seen.failed.load(Ordering::Relaxed);
    assert_eq!(seen.transport.load(Ordering::Relaxed), failed);
    stop(&engine);
}

/// After `ctrl_loss_timeout` nothing is tried any more (PM-14). Removed and added again, with its table loaded again, it is back.
#[test]
fn pm_14_a_remote_that_was_given_up_comes_back_by_hand() {
    let mut remote = Remote::with_memory();
    let engine = engine(2);
    let once = RemoteSpec {
        ctrl_loss_timeout: Duration::from_millis(100),
        ..spec(&remote)
    };
    add(&engine, "r0", once);
    let device = device(&engine, "vol", "0 16384 linear r0 0");
    let seen = drive(&engine, device);
    after(&seen, 500);
    remote.kill();
    until_state(&engine, "r0", RemoteState::Lost);
    until(|| seen.hit.load(Ordering::Relaxed) == u64::from(2 * DEPTH));
    remote.restart();
    let attempts = report(&engine, "r0").failed_attempts;
    after(&seen, 10_000);
    assert_eq!(report(&engine, "r0").state, RemoteState::Lost);
    assert_eq!(report(&engine, "r0").failed_attempts, attempts);

    engine.remove_bdev("r0", true).unwrap();
    add(&engine, "r0", spec(&remote));
    engine.load("vol", "0 16384 linear r0 0", false).unwrap();
    engine.resume("vol", Default::default()).unwrap();
    let failed = seen.failed.load(Ordering::Relaxed);
    after(&seen, 1000);
    assert_eq!(seen.failed.load(Ordering::Relaxed), failed);
    assert_eq!(seen.transport.load(Ordering::Relaxed), failed);
    assert_eq!(seen.stale.load(Ordering::Relaxed), 0);
    stop(&engine);
}

/// A remote is pulled under I/O: everything ends, and its reactors let go of their connections.
#[test]
fn pm_14_a_remote_is_pulled_under_load() {
    let remote = Remote::with_memory();
    let engine = engine(2);
    add(&engine, "r0", spec(&remote));
    let device = device(&engine, "vol", "0 16384 linear r0 0");
    let seen = drive(&engine, device);
    after(&seen, 500);
    // With commands under way that are not answered.
    remote.freeze();
    engine.remove_bdev("r0", true).unwrap();
    until(|| seen.hit.load(Ordering::Relaxed) == u64::from(2 * DEPTH));
    remote.thaw();
    let bdevs = engine.list_bdevs();
    assert!(bdevs[0].removed && bdevs[0].remote.as_ref().unwrap().queues == 0);
    add(&engine, "r0", spec(&remote));
    engine.load("vol", "0 16384 linear r0 0", false).unwrap();
    engine.resume("vol", Default::default()).unwrap();
    let failed = seen.failed.load(Ordering::Relaxed);
    after(&seen, 1000);
    assert_eq!(seen.failed.load(Ordering::Relaxed), failed);
    assert_eq!(seen.stale.load(Ordering::Relaxed), 0);
    stop(&engine);
}
