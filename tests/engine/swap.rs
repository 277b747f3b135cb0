//! Tables that change, and I/O that waits, under load.

use std::sync::atomic::Ordering;
use std::time::Duration;

use polldm::dm::SuspendOptions;
use polldm::engine::{DeviceOptions, never};

use super::driver::{DEPTH, after, drive};
use super::{device, engine, malloc};

/// The device's blocks are swapped between a linear and a striped table over the same bytes, a hundred times, under I/O from four reactors:
/// no error, no stale read. The stripe has one device, so both tables put every block in the same place.
#[test]
fn a_table_is_swapped_under_load_without_an_error() {
    let engine = engine(&[("a", malloc(4))], 4);
    device(&engine, "vol", "0 8192 linear a 0");
    let device = engine.open("vol").unwrap();
    let seen = drive(&engine, device);
    after(&seen, 1000);
    for round in 0..100 {
        let table = if round % 2 == 0 {
            "0 8192 striped 1 16 a 0"
        } else {
            "0 4096 linear a 0\n4096 4096 linear a 4096"
        };
        // Both ways there are.
        if round % 4 < 2 {
            engine.load("vol", table, false).unwrap();
            engine.resume("vol", Default::default()).unwrap();
        } else {
            let noflush = SuspendOptions {
                noflush: true,
                ..SuspendOptions::default()
            };
            engine.swap("vol", table, false, noflush, &never).unwrap();
        }
        after(&seen, 200);
    }
    seen.demand_flawless();
    let stats = engine.stats("vol").unwrap();
    assert!(stats.read.ios > 0 && stats.write.ios > 0);
    assert_eq!(stats.read.errors + stats.write.errors, 0);
    engine.stop(Duration::from_secs(60)).unwrap();
}

/// A suspended device parks I/O; nothing completes until it is resumed, and nothing is lost.
#[test]
fn suspended_io_waits_and_is_not_lost() {
    let engine = engine(&[("a", malloc(4))], 2);
    device(&engine, "vol", "0 8192 linear a 0");
    let device = engine.open("vol").unwrap();
    let seen = drive(&engine, device);
    after(&seen, 1000);
    engine.suspend("vol", Default::default()).unwrap();
    // Every driver parks all it has: when the counters say so, nothing is on its way any more.
    while engine.stats("vol").unwrap().parked < u64::from(2 * DEPTH) {
        std::thread::yield_now();
    }
    let info = engine.info("vol").unwrap();
    assert!(info.info.suspended);
    assert_eq!(info.entry.open_count, 1);
    let before = seen.completed.load(Ordering::Relaxed);
    assert_eq!(engine.stats("vol").unwrap().in_flight, 0);
    assert_eq!(seen.completed.load(Ordering::Relaxed), before);
    engine.resume("vol", Default::default()).unwrap();
    after(&seen, 1000);
    assert_eq!(seen.failed.load(Ordering::Relaxed), 0);
    engine.stop(Duration::from_secs(60)).unwrap();
}

/// I/O that a suspended device may only park for a while fails, on real reactors, in their sleep too.
#[test]
fn parked_io_fails_when_its_time_is_up() {
    let engine = engine(&[("a", malloc(4))], 2);
    let options = DeviceOptions {
        ordered: false,
        parked_limit: Some(Duration::from_millis(20)),
    };
    engine.create_with("vol", "", options).unwrap();
    engine.load("vol", "0 8192 linear a 0", false).unwrap();
    engine.resume("vol", Default::default()).unwrap();
    let device = engine.open("vol").unwrap();
    let seen = drive(&engine, device);
    after(&seen, 1000);
    assert_eq!(seen.failed.load(Ordering::Relaxed), 0);
    engine.suspend("vol", Default::default()).unwrap();
    while seen.failed.load(Ordering::Relaxed) < u64::from(4 * DEPTH) {
        std::thread::yield_now();
    }
    seen.enough.store(true, Ordering::Relaxed);
    engine.resume("vol", Default::default()).unwrap();
    assert_eq!(
        engine.fail_parked("vol").unwrap_err().errno.name(),
        "EINVAL"
    );
    engine.stop(Duration::from_secs(60)).unwrap();
}
