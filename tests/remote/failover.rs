//! Several remotes that lead to one disk: two relays, processes that have their device from a third. The third has one reactor, so that it
//! does what it was told in the order in which it hears it, whichever relay was killed meanwhile.

use std::sync::atomic::Ordering;

use polldm::bdev::RemoteState;
use polldm::dm::SuspendOptions;
use polldm::engine::{Engine, never};

use super::driver::{DEPTH, Seen, after, drive};
use super::processes::Remote;
use super::{SECTORS, add, device, engine, report, spec, stop, until, until_state};

/// The disk, and two ways to it.
struct Paths {
    _disk: Remote,
    ways: [Remote; 2],
}

impl Paths {
    fn start() -> Paths {
        let disk = Remote::with_memory();
        let ways = [Remote::relay(&disk), Remote::relay(&disk)];
        Paths { _disk: disk, ways }
    }

    /// An engine that knows both ways, as `r0` and `r1`.
    fn engine(&self, reactors: usize) -> Engine {
        let engine = engine(reactors);
        add(&engine, "r0", spec(&self.ways[0]));
        add(&engine, "r1", spec(&self.ways[1]));
        engine
    }
}

const NOFLUSH: SuspendOptions = SuspendOptions {
    noflush: true,
    lockfs: false,
    timeout_ns: None,
};

/// A table over these paths, which waits for want of one if it `queues`.
fn multipath(queues: bool, paths: &[&str]) -> String {
    let feature = if queues { "1 queue_if_no_path" } else { "0" };
    let paths: Vec<String> = paths.iter().map(|path| format!("{path} 1")).collect();
    format!(
        "0 {SECTORS} multipath {feature} 0 1 1 round-robin 0 {} 1 {}",
        paths.len(),
        paths.join(" ")
    )
}

impl Paths {
    /// A way comes back, with a connection that is not the one that was lost.
    fn restart(&mut self, way: usize, engine: &Engine) {
        let name = ["r0", "r1"][way];
        until_state(engine, name, RemoteState::Connecting);
        self.ways[way].restart();
        until_state(engine, name, RemoteState::Live);
    }
}

/// Reinstates a path until I/O runs on it: a reactor that has heard of its loss only now fails it once more.
fn bring_back(engine: &Engine, path: &str, seen: &Seen) {
    loop {
        say(engine, &format!("reinstate_path {path}"));
        let enough = seen.completed.load(Ordering::Relaxed) + 300;
        loop {
            if seen.completed.load(Ordering::Relaxed) >= enough {
                return;
            }
            if has_failed(engine, path) {
                break;
            }
        }
    }
}

fn say(engine: &Engine, words: &str) {
    let words = words.split(' ').map(str::to_owned).collect();
    engine.message("vol", 0, words).unwrap();
}

/// Whether a path has failed, as its multipath says.
fn has_failed(engine: &Engine, path: &str) -> bool {
    let status = engine.status("vol").unwrap();
    status[0].text.contains(&format!("{path} F"))
}

/// A way is lost under I/O, and the other one carries on; it comes back, is reinstated, and the other one is lost. Nobody sees an error.
#[test]
fn at_01_mp_9_mp_10_a_multipath_goes_the_other_way() {
    let mut paths = Paths::start();
    let engine = paths.engine(2);
    let device = device(&engine, "vol", &multipath(false, &["r0", "r1"]));
    let seen = drive(&engine, device);
    for (way, name) in [(0, "r0"), (1, "r1"), (0, "r0")] {
        after(&seen, 300);
        paths.ways[way].kill();
        until(|| has_failed(&engine, name));
        after(&seen, 300);
        paths.restart(way, &engine);
        until(|| {
            say(&engine, &format!("reinstate_path {name}"));
            after(&seen, 300);
            !has_failed(&engine, name)
        });
    }
    after(&seen, 300);
    seen.demand_flawless();
    assert!(report(&engine, "r0").losses >= 2 && report(&engine, "r1").losses >= 1);
    stop(&engine);
}

/// Without queueing the host asked for errors (OQ-3), and gets them when the last way is lost: IOERR, not the path's own error.
#[test]
fn at_02_without_a_way_left_io_fails() {
    let mut paths = Paths::start();
    let engine = paths.engine(2);
    let device = device(&engine, "vol", &multipath(false, &["r0"]));
    let seen = drive(&engine, device);
    after(&seen, 300);
    seen.demand_flawless();
    paths.ways[0].kill();
    until(|| seen.hit.load(Ordering::Relaxed) == u64::from(2 * DEPTH));
    assert_eq!(seen.transport.load(Ordering::Relaxed), 0);
    paths.restart(0, &engine);
    until(|| {
        say(&engine, "reinstate_path r0");
        let failed = seen.failed.load(Ordering::Relaxed);
        after(&seen, 1000);
        seen.failed.load(Ordering::Relaxed) == failed
    });
    assert_eq!(seen.stale.load(Ordering::Relaxed), 0);
    stop(&engine);
}

/// All I/O of both drivers waits in the target.
fn until_queued(engine: &Engine) {
    until(|| engine.stats("vol").unwrap().held == u64::from(2 * DEPTH));
}

/// With queueing, I/O whose way is lost waits in the target; a suspend with flush fails it.
#[test]
fn at_03_04_a_lost_way_makes_io_wait_and_a_flush_suspend_fails_it() {
    let mut paths = Paths::start();
    let engine = paths.engine(2);
    let device = device(&engine, "vol", &multipath(true, &["r0"]));
    let seen = drive(&engine, device);
    after(&seen, 300);
    paths.ways[0].kill();
    until_queued(&engine);
    seen.demand_flawless();
    engine.suspend("vol", Default::default()).unwrap();
    assert_eq!(
        seen.failed.load(Ordering::Relaxed),
        u64::from(2 * DEPTH),
        "each failed once"
    );
    assert_eq!(seen.transport.load(Ordering::Relaxed), 0);
    paths.restart(0, &engine);
    say(&engine, "reinstate_path r0");
    engine.resume("vol", Default::default()).unwrap();
    bring_back(&engine, "r0", &seen);
    assert_eq!(seen.failed.load(Ordering::Relaxed), u64::from(2 * DEPTH));
    assert_eq!(seen.stale.load(Ordering::Relaxed), 0);
    stop(&engine);
}

/// What waits for a lost way is pushed back by a suspend with noflush, waits again when resumed without a way, and succeeds when the way comes back,
/// reinstated while suspended or after the resume.
#[test]
fn at_06_07_08a_what_waits_is_pushed_back_and_outlives_the_loss() {
    let mut paths = Paths::start();
    let engine = paths.engine(2);
    let device = device(&engine, "vol", &multipath(true, &["r0"]));
    let seen = drive(&engine, device);
    for reinstated_while_suspended in [false, true] {
        after(&seen, 300);
        paths.ways[0].kill();
        until_queued(&engine);
        for _ in 0..2 {
            engine.suspend("vol", NOFLUSH).unwrap();
            let stats = engine.stats("vol").unwrap();
            assert_eq!((stats.held, stats.parked), (0, u64::from(2 * DEPTH)));
            engine.resume("vol", NOFLUSH).unwrap();
            until_queued(&engine);
        }
        paths.restart(0, &engine);
        if reinstated_while_suspended {
            engine.suspend("vol", NOFLUSH).unwrap();
        }
        say(&engine, "reinstate_path r0");
        if reinstated_while_suspended {
            engine.resume("vol", NOFLUSH).unwrap();
        }
        bring_back(&engine, "r0", &seen);
        seen.demand_flawless();
    }
    stop(&engine);
}

/// The lost way is replaced by another: by a table that is loaded while suspended, and by one that is loaded before, with the suspend that a
/// resume implies.
#[test]
fn at_08b_at_09_a_new_table_brings_a_way() {
    let mut paths = Paths::start();
    let engine = paths.engine(2);
    let device = device(&engine, "vol", &multipath(true, &["r0"]));
    let seen = drive(&engine, device);
    after(&seen, 300);

    paths.ways[0].kill();
    until_queued(&engine);
    engine.suspend("vol", NOFLUSH).unwrap();
    engine
        .load("vol", &multipath(true, &["r1"]), false)
        .unwrap();
    engine.resume("vol", NOFLUSH).unwrap();
    after(&seen, 300);
    seen.demand_flawless();

    paths.restart(0, &engine);
    paths.ways[1].kill();
    until_queued(&engine);
    engine
        .load("vol", &multipath(true, &["r0"]), false)
        .unwrap();
    engine.resume("vol", NOFLUSH).unwrap();
    after(&seen, 300);
    seen.demand_flawless();
    stop(&engine);
}

/// A linear device moves from one remote to another under I/O and back, a hundred times, each time with new connections or with those of the
/// table before the last.
#[test]
fn a_swap_from_one_remote_to_another_loses_nothing() {
    let paths = Paths::start();
    let engine = paths.engine(2);
    let device = device(&engine, "vol", &format!("0 {SECTORS} linear r0 0"));
    let seen = drive(&engine, device);
    for round in 0..100 {
        let table = format!("0 {SECTORS} linear r{} 0", (round + 1) % 2);
        engine.swap("vol", &table, false, NOFLUSH, &never).unwrap();
        after(&seen, 20);
    }
    seen.demand_flawless();
    for name in ["r0", "r1"] {
        let report = report(&engine, name);
        assert_eq!((report.connects, report.losses), (1, 0), "{report:?}");
    }
    stop(&engine);
}
