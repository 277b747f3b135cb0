//! Mapped devices on mapped devices: what they hold of each other, and their verbs, with I/O on real reactors.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use polldm::dm::{Op, Status, SuspendOptions};
use polldm::engine::{Engine, never};

use super::driver::{DEPTH, after, drive};
use super::errands::Errands;
use super::{BLOCK_BYTES, device, engine, file, malloc};

const NOFLUSH: SuspendOptions = SuspendOptions {
    noflush: true,
    lockfs: false,
    timeout_ns: None,
};

/// Lets I/O end before the gate closes, and does not flush.
const PLAIN: SuspendOptions = SuspendOptions {
    noflush: false,
    ..NOFLUSH
};

/// Three levels over `a` and `b`: `top` is linear, `middle` a stripe over the halves of `base`, which is a bdev each.
fn three_levels(engine: &Engine) {
    device(engine, "base", "0 4096 linear a 0\n4096 4096 linear b 0");
    device(engine, "middle", "0 8192 striped 2 64 base 0 base 4096");
    device(engine, "top", "0 8192 linear middle 0");
}

fn stop(engine: &Engine) {
    engine.stop(Duration::from_secs(60)).unwrap();
}

fn refusal<T: std::fmt::Debug>(result: Result<T, polldm::dm::Error>) -> (&'static str, String) {
    let error = result.unwrap_err();
    (error.errno.name(), error.reason)
}

fn suspended(engine: &Engine) -> Vec<&'static str> {
    let names = ["top", "middle", "base", "deep"];
    let is = |name: &&str| engine.info(name).is_ok_and(|device| device.info.suspended);
    names.into_iter().filter(is).collect()
}

fn parked(engine: &Engine, name: &str) -> u64 {
    engine.stats(name).unwrap().parked
}

/// AT-70: every byte passes three levels and back, on every core; a flush of the top is one of each level, and of each disk.
#[test]
fn at_70_data_and_flushes_pass_three_levels() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(&[("a", malloc(4)), ("b", file(&folder, 4))], 2);
    three_levels(&engine);
    // What lies beneath, seen past the stack.
    device(&engine, "seen", "0 64 linear a 0\n64 64 linear b 0");
    let seen = engine.open("seen").unwrap();
    let mut errands = Errands::on(engine, "top");
    let top = errands.device;
    let bytes: Vec<u8> = (0..32 * BLOCK_BYTES).map(|n| (n / 512) as u8).collect();
    let (status, _) = errands.run(0, Op::Write, bytes.clone());
    assert_eq!(status, Status::Ok);
    let (status, found) = errands.run(1, Op::Read, vec![0; bytes.len()]);
    assert!(status == Status::Ok && found == bytes);
    // In chunks of 64 sectors: the first is on `a`, the second on `b`.
    errands.device = seen;
    let (_, found) = errands.run(0, Op::Read, vec![0; 128 * 512]);
    assert!(found == bytes[..128 * 512]);

    errands.device = top;
    let flushes = |engine: &Engine| {
        ["top", "middle", "base"].map(|name| engine.stats(name).unwrap().flush.ios)
    };
    assert_eq!(flushes(&errands.engine), [0; 3]);
    assert_eq!(errands.run(1, Op::Flush, Vec::new()).0, Status::Ok);
    assert_eq!(flushes(&errands.engine), [1; 3]);

    let driven = drive(&errands.engine, top);
    after(&driven, 20_000);
    assert_eq!(driven.failed.load(Ordering::Relaxed), 0);
    assert_eq!(driven.stale.load(Ordering::Relaxed), 0);
    stop(&errands.engine);
}

/// The highest stack there may be, every level of which cuts what comes from above: it fits a reactor's call stack, and one more level is
/// refused.
#[test]
fn the_highest_stack_carries_io() {
    let engine = engine(&[("a", malloc(4))], 1);
    device(&engine, "v1", "0 4096 linear a 0\n4096 4096 linear a 4096");
    for level in 2..=16u64 {
        let (name, below) = (format!("v{level}"), format!("v{}", level - 1));
        let cut = level * 8;
        let table = format!(
            "0 {cut} linear {below} 0\n{cut} {} striped 2 8 {below} {cut} {below} 4096",
            8192 - 2 * cut
        );
        device(&engine, &name, &table);
    }
    engine.create("v17", "", false).unwrap();
    let (_, reason) = refusal(engine.load("v17", "0 8 linear v16 0", false));
    assert!(reason.contains("a stack of 17 mapped devices"), "{reason}");
    let errands = Errands::on(engine, "v16");
    for round in 0..3 {
        let bytes: Vec<u8> = (0..2048 * 512).map(|n| (n / 512) as u8 ^ round).collect();
        let (status, _) = errands.run(0, Op::Write, bytes.clone());
        assert_eq!(status, Status::Ok);
        let (status, found) = errands.run(0, Op::Read, vec![0; bytes.len()]);
        assert!(status == Status::Ok && found == bytes);
        assert_eq!(errands.run(0, Op::Flush, Vec::new()).0, Status::Ok);
    }
    stop(&errands.engine);
}

/// A level in the middle is swapped, in one step and in two, under I/O through the top: no error, no stale read.
#[test]
fn at_70_the_middle_is_swapped_under_load_without_an_error() {
    let engine = engine(&[("a", malloc(4)), ("b", malloc(4))], 2);
    three_levels(&engine);
    let seen = drive(&engine, engine.open("top").unwrap());
    after(&seen, 1000);
    // The same places, in other words.
    let pieces: String = (0..128)
        .map(|n| format!("{} 64 linear base {}\n", n * 64, n % 2 * 4096 + n / 2 * 64))
        .collect();
    for round in 0..20 {
        let table = match round % 2 {
            0 => &pieces,
            _ => "0 8192 striped 2 64 base 0 base 4096",
        };
        if round % 4 < 2 {
            engine.load("middle", table, false).unwrap();
            engine.resume("middle", Default::default()).unwrap();
        } else {
            engine
                .swap("middle", table, false, NOFLUSH, &never)
                .unwrap();
        }
        after(&seen, 200);
    }
    seen.demand_flawless();
    stop(&engine);
}

/// The lowest level parks what comes from above, is given another table meanwhile, and returns everything.
#[test]
fn a_suspended_base_parks_what_comes_from_the_top() {
    let engine = engine(&[("a", malloc(4)), ("b", malloc(4))], 2);
    three_levels(&engine);
    let seen = drive(&engine, engine.open("top").unwrap());
    after(&seen, 1000);
    engine.suspend("base", NOFLUSH).unwrap();
    let all = u64::from(2 * DEPTH);
    while parked(&engine, "base") < all {
        thread::yield_now();
    }
    for name in ["top", "middle"] {
        let stats = engine.stats(name).unwrap();
        assert_eq!((stats.in_flight, stats.parked), (all, 0), "{name}");
    }
    let table = "0 4096 striped 1 8 a 0\n4096 4096 linear b 0";
    engine.load("base", table, false).unwrap();
    engine.resume("base", Default::default()).unwrap();
    after(&seen, 1000);
    seen.demand_flawless();
    stop(&engine);
}

/// AT-70: a multipath two levels down loses its only path under load and gets another table alone, without an error seen from the top.
#[test]
fn at_70_a_multipath_beneath_is_given_another_path() {
    let engine = engine(&[("a", malloc(4))], 2);
    let table = "0 8192 multipath 1 queue_if_no_path 0 1 1 service-time 0 1 0 a";
    device(&engine, "base", table);
    device(&engine, "middle", "0 8192 linear base 0");
    device(&engine, "top", "0 8192 linear middle 0");
    let seen = drive(&engine, engine.open("top").unwrap());
    for _ in 0..5 {
        after(&seen, 1000);
        let words = ["fail_path", "a"].map(str::to_owned).into();
        engine.message("base", 0, words).unwrap();
        while engine.stats("base").unwrap().held < u64::from(2 * DEPTH) {
            thread::yield_now();
        }
        engine.swap("base", table, false, NOFLUSH, &never).unwrap();
    }
    after(&seen, 1000);
    seen.demand_flawless();
    stop(&engine);
}

/// AT-70: levels are suspended and resumed in every order under load; whoever suspends a level above one that is suspended waits until
/// that one is resumed, and nobody waits for ever.
#[test]
fn at_70_levels_are_suspended_in_any_order() {
    let engine = engine(&[("a", malloc(4)), ("b", malloc(4))], 2);
    three_levels(&engine);
    let seen = drive(&engine, engine.open("top").unwrap());
    for order in [
        ["top", "middle", "base"],
        ["top", "base", "middle"],
        ["middle", "top", "base"],
        ["middle", "base", "top"],
        ["base", "top", "middle"],
        ["base", "middle", "top"],
    ] {
        after(&seen, 1000);
        thread::scope(|scope| {
            for name in order {
                let engine = &engine;
                scope.spawn(move || engine.suspend(name, PLAIN).unwrap());
            }
            // One after the other comes to rest, the lowest ones are let run again, the next ones can come to rest.
            for name in ["base", "middle", "top"] {
                while !engine.info(name).unwrap().info.suspended {
                    thread::yield_now();
                }
                engine.resume(name, Default::default()).unwrap();
            }
        });
        assert_eq!(suspended(&engine), Vec::<&str>::new(), "{order:?}");
    }
    after(&seen, 1000);
    seen.demand_flawless();
    stop(&engine);
}

/// A device stays, under its name, as long as a live or an inactive table names it, and not longer.
#[test]
fn a_device_beneath_is_held() {
    let engine = engine(&[("a", malloc(4))], 2);
    device(&engine, "base", "0 8192 linear a 0");
    let open = || engine.info("base").unwrap().entry.open_count;
    for round in 0..20 {
        engine.create("top", "", false).unwrap();
        assert_eq!(open(), 0);
        engine
            .load("top", "0 8 linear base 0\n8 8 linear base 64", false)
            .unwrap();
        assert_eq!(open(), 1);
        let (errno, reason) = refusal(engine.remove("base"));
        assert_eq!(
            (errno, reason.as_str()),
            ("EBUSY", "device 'base' is in use: tables of top name it")
        );
        engine.clear("top").unwrap();
        assert_eq!(open(), 0);
        engine.load("top", "0 16 linear base 0", false).unwrap();
        engine.resume("top", Default::default()).unwrap();
        engine.load("top", "0 16 linear base 16", false).unwrap();
        // Opened once, whatever number of tables (LC-10).
        assert_eq!(open(), 1);
        assert_eq!(engine.info("top").unwrap().info.lowers, ["base"]);
        let (errno, reason) = refusal(engine.rename("base", "new"));
        assert_eq!(errno, "EBUSY", "{reason}");
        assert!(reason.contains("those of top"), "{reason}");
        engine.rename("top", "upper").unwrap();
        let (_, reason) = refusal(engine.remove("base"));
        assert!(reason.contains("tables of upper"), "{reason}");
        engine.load("upper", "0 16 zero", false).unwrap();
        assert_eq!(open(), 1);
        engine.resume("upper", Default::default()).unwrap();
        assert_eq!(open(), 0);
        engine
            .swap("upper", "0 16 linear base 0", false, NOFLUSH, &never)
            .unwrap();
        let listed = engine.list();
        assert_eq!(listed[0].open_count, 1);
        match round % 2 {
            0 => engine.remove("upper").unwrap(),
            _ => {
                // A table that was refused lets go at once, too.
                refusal(engine.load("upper", "0 8 linear base 0\n9 8 zero", false));
                engine
                    .swap("upper", "0 16 zero", false, NOFLUSH, &never)
                    .unwrap();
                engine.remove("upper").unwrap();
            }
        }
        assert_eq!(open(), 0);
    }
    engine.rename("base", "free").unwrap();
    engine.remove("free").unwrap();
    stop(&engine);
}

/// LC-19, LC-20: a device that is to go when it is free goes with the last table that names it, as do those beneath it; all together go
/// in whatever order they have to.
#[test]
fn lc_20_a_stack_is_removed_from_the_top() {
    let engine = engine(&[("a", malloc(4)), ("b", malloc(4))], 2);
    let names = || -> Vec<String> { engine.list().into_iter().map(|entry| entry.name).collect() };
    three_levels(&engine);
    assert_eq!(engine.remove_deferred("base"), Ok(false));
    assert_eq!(engine.remove_deferred("middle"), Ok(false));
    assert_eq!(names().len(), 3);
    engine
        .swap("top", "0 8192 zero", false, NOFLUSH, &never)
        .unwrap();
    assert_eq!(names(), ["top"]);
    engine.remove("top").unwrap();

    three_levels(&engine);
    let top = engine.open("top").unwrap();
    assert_eq!(
        engine.remove_all(false).unwrap().kept,
        ["base", "middle", "top"]
    );
    let all = engine.remove_all(true).unwrap();
    assert_eq!(all.deferred, ["base", "middle", "top"]);
    engine.close(top);
    assert!(names().is_empty());

    for deferred in [false, true] {
        three_levels(&engine);
        let all = engine.remove_all(deferred).unwrap();
        assert_eq!(all.removed, ["top", "middle", "base"]);
        assert!(all.kept.is_empty() && all.deferred.is_empty() && names().is_empty());
    }
    stop(&engine);
}

/// LC-10: no device beneath itself, whether by live or by inactive tables; and nothing on what is not there.
#[test]
fn lc_10_loops_and_empty_devices_are_refused() {
    let engine = engine(&[("a", malloc(4)), ("b", malloc(4))], 2);
    three_levels(&engine);
    engine.create("new", "", false).unwrap();
    engine.load("new", "0 8 linear a 0", false).unwrap();
    for (name, table, says) in [
        ("top", "0 8 linear top 0", "itself: top on top"),
        (
            "base",
            "0 8 linear top 0",
            "itself: base on top on middle on base",
        ),
        (
            "base",
            "0 8 zero\n8 8 striped 1 8 middle 0",
            "itself: base on middle on base",
        ),
        (
            "top",
            "0 8 linear new 0",
            "'new' has no live table; load one and resume it first",
        ),
        (
            "top",
            "0 8 linear nix 0",
            "there is no bdev 'nix', and no mapped device of that name",
        ),
        (
            "top",
            "0 8 linear middle 8192",
            "do not fit on 'middle', which has 8192",
        ),
    ] {
        let (errno, reason) = refusal(engine.load(name, table, false));
        assert_eq!(errno, "EINVAL", "{reason}");
        assert!(reason.contains(says), "{reason}");
        let (errno, reason) = refusal(engine.swap(name, table, false, NOFLUSH, &never));
        assert_eq!(errno, "EINVAL", "{reason}");
        assert!(!engine.info(name).unwrap().info.inactive);
    }
    // By an inactive table, until that is gone.
    engine.resume("new", Default::default()).unwrap();
    engine.load("new", "0 8 linear top 0", false).unwrap();
    let (_, reason) = refusal(engine.load("base", "0 8 linear new 0", false));
    assert!(
        reason.contains("base on new on top on middle on base"),
        "{reason}"
    );
    engine.clear("new").unwrap();
    engine
        .load("base", "0 8192 linear new 0", false)
        .unwrap_err();
    engine
        .load("middle", "0 8 linear new 0", false)
        .unwrap_err();
    engine.load("top", "0 8192 zero", false).unwrap();
    engine.resume("top", Default::default()).unwrap();
    engine.load("middle", "0 8 linear new 0", false).unwrap();
    stop(&engine);
}

/// Of two tables that would close a loop, and of a table and the removal of what it names, one is refused, whoever comes first.
#[test]
fn loads_and_removals_that_cross_are_decided_one_way() {
    let engine = engine(&[("a", malloc(4))], 2);
    device(&engine, "top", "0 8 linear a 0");
    for _ in 0..50 {
        device(&engine, "base", "0 8 linear a 0");
        thread::scope(|scope| {
            let one = scope.spawn(|| engine.load("top", "0 8 linear base 0", false));
            let other = scope.spawn(|| engine.load("base", "0 8 linear top 0", false));
            let loaded = [one, other].map(|load| load.join().unwrap().is_ok());
            assert_eq!(loaded.iter().filter(|ok| **ok).count(), 1);
        });
        engine.clear("top").unwrap();
        engine.clear("base").unwrap();
        thread::scope(|scope| {
            let load = scope.spawn(|| engine.load("top", "0 8 linear base 0", false));
            let removed = scope.spawn(|| engine.remove("base"));
            let ended = (
                load.join().unwrap().is_ok(),
                removed.join().unwrap().is_ok(),
            );
            assert!(ended.0 != ended.1, "{ended:?}");
            if ended.0 {
                engine.clear("top").unwrap();
                engine.remove("base").unwrap();
            }
        });
    }
    stop(&engine);
}

/// LC-16: nothing is taken away that a table above uses; what else changes beneath, the table above learns when it is loaded again.
#[test]
fn lc_16_a_device_beneath_keeps_what_is_used_of_it() {
    let small = polldm::bdev::Spec::Malloc {
        bytes: 4 << 20,
        block_bytes: 512,
        volatile_cache: false,
        atomic_writes: false,
    };
    let engine = engine(&[("a", malloc(4)), ("b", small)], 2);
    device(&engine, "base", "0 4096 linear a 0");
    device(&engine, "top", "0 1024 linear base 1024");
    let live = |name| engine.info(name).unwrap().info;
    for (table, says) in [
        (
            "0 2040 linear a 0",
            "a table of 'top' uses 'base' up to sector 2048",
        ),
        ("0 2040 zero", "the new table has 2040 sectors"),
        (
            "0 4096 linear b 0",
            "blocks of 512 bytes and the live one of 4096",
        ),
    ] {
        for (errno, reason) in [
            refusal(engine.load("base", table, false)),
            refusal(engine.swap("base", table, false, NOFLUSH, &never)),
        ] {
            assert_eq!(errno, "EINVAL", "{reason}");
            assert!(reason.contains(says), "{reason}");
        }
        assert!(!live("base").inactive && !live("base").suspended);
    }
    // What is not used may go; what is new is there for the next table.
    engine
        .swap("base", "0 2048 linear a 0", false, NOFLUSH, &never)
        .unwrap();
    let (_, reason) = refusal(engine.load("top", "0 2049 linear base 0", false));
    assert!(reason.contains("which has 2048"), "{reason}");
    engine.load("base", "0 8192 linear a 0", false).unwrap();
    engine.resume("base", Default::default()).unwrap();
    assert_eq!(live("top").sectors, 1024);
    engine.load("top", "0 8192 linear base 0", false).unwrap();

    // A smaller table that could be loaded cannot be resumed any more when a table has come to use the end meanwhile.
    engine.clear("top").unwrap();
    engine.load("base", "0 2048 linear a 0", false).unwrap();
    engine
        .swap("top", "0 8192 linear base 0", false, NOFLUSH, &never)
        .unwrap();
    let (errno, reason) = refusal(engine.resume("base", Default::default()));
    assert_eq!(errno, "EINVAL");
    assert!(reason.contains("up to sector 8192"), "{reason}");
    assert!(reason.contains("suspended on the live one"), "{reason}");
    engine.resume("base", Default::default()).unwrap();
    assert_eq!(live("base").sectors, 8192);
    stop(&engine);
}

/// A stack is suspended from the top down and resumed from the bottom up, under load: everything parks at the top, nothing in between; each
/// level that has another table loaded runs on that.
#[test]
fn a_stack_is_suspended_and_resumed_as_one() {
    let engine = engine(&[("a", malloc(4)), ("b", malloc(4))], 2);
    three_levels(&engine);
    let seen = drive(&engine, engine.open("top").unwrap());
    for options in [SuspendOptions::default(), NOFLUSH, PLAIN] {
        let lockfs = !options.noflush;
        after(&seen, 1000);
        engine
            .suspend_stack("top", SuspendOptions { lockfs, ..options }, &never)
            .unwrap();
        assert_eq!(suspended(&engine), ["top", "middle", "base"]);
        while parked(&engine, "top") < u64::from(2 * DEPTH) {
            thread::yield_now();
        }
        for name in ["middle", "base"] {
            let stats = engine.stats(name).unwrap();
            assert_eq!((stats.in_flight, stats.parked), (0, 0), "{name}");
        }
        engine
            .load(
                "base",
                "0 4096 striped 1 8 a 0\n4096 4096 linear b 0",
                false,
            )
            .unwrap();
        engine
            .load(
                "top",
                "0 4096 linear middle 0\n4096 4096 linear middle 4096",
                false,
            )
            .unwrap();
        engine
            .resume_stack("top", Default::default(), &never)
            .unwrap();
        assert_eq!(suspended(&engine), Vec::<&str>::new());
        assert_eq!(engine.table("top", false).unwrap().len(), 2);
    }
    // A part of it.
    engine.suspend_stack("middle", PLAIN, &never).unwrap();
    assert_eq!(suspended(&engine), ["middle", "base"]);
    engine
        .resume_stack("top", Default::default(), &never)
        .unwrap();
    assert_eq!(suspended(&engine), Vec::<&str>::new());
    after(&seen, 1000);
    seen.demand_flawless();
    stop(&engine);
}

/// Two ways down to one device, of different length: it is suspended after all that sits on it.
#[test]
fn a_device_with_two_ways_down_to_it_is_suspended_last() {
    let engine = engine(&[("a", malloc(4)), ("b", malloc(4))], 2);
    device(&engine, "base", "0 4096 linear a 0\n4096 4096 linear b 0");
    device(&engine, "middle", "0 4096 linear base 0");
    device(
        &engine,
        "top",
        "0 4096 linear base 4096\n4096 4096 linear middle 0",
    );
    let seen = drive(&engine, engine.open("top").unwrap());
    for _ in 0..10 {
        after(&seen, 500);
        engine
            .suspend_stack("top", Default::default(), &never)
            .unwrap();
        assert_eq!(parked(&engine, "base") + parked(&engine, "middle"), 0);
        engine
            .resume_stack("top", Default::default(), &never)
            .unwrap();
    }
    assert_eq!(seen.failed.load(Ordering::Relaxed), 0);
    stop(&engine);
}

/// When one level cannot be suspended, those above it run again; when one cannot be resumed, those beneath it are suspended again.
#[test]
fn an_operation_on_a_stack_that_fails_is_undone() {
    let engine = engine(&[("a", malloc(4)), ("b", malloc(4))], 2);
    device(&engine, "deep", "0 8192 linear a 0");
    device(&engine, "base", "0 8192 linear deep 0");
    device(&engine, "middle", "0 8192 linear base 0");
    device(&engine, "top", "0 8192 linear middle 0");
    // I/O of `base` alone, which cannot end.
    engine.suspend("deep", PLAIN).unwrap();
    let seen = drive(&engine, engine.open("base").unwrap());
    while parked(&engine, "deep") < u64::from(2 * DEPTH) {
        thread::yield_now();
    }
    thread::scope(|scope| {
        let suspend = scope.spawn(|| engine.suspend_stack("top", PLAIN, &never));
        // Refused until it is under way.
        while engine.cancel("base").is_err() {
            thread::yield_now();
        }
        let (errno, reason) = refusal(suspend.join().unwrap());
        let says = "'base' could not be suspended: cancelled; middle, top run again";
        assert_eq!((errno, reason.as_str()), ("EINTR", says));
    });
    assert_eq!(suspended(&engine), ["deep"], "as before");
    // Whoever asks has had enough; or the time for all of them is up.
    let at_base = || suspended(&engine).contains(&"middle");
    let (errno, _) = refusal(engine.suspend_stack("top", PLAIN, &at_base));
    assert_eq!((errno, suspended(&engine)), ("EINTR", vec!["deep"]));
    let soon = SuspendOptions {
        timeout_ns: Some(1),
        ..PLAIN
    };
    let (errno, _) = refusal(engine.suspend_stack("top", soon, &never));
    assert_eq!((errno, suspended(&engine)), ("ETIMEDOUT", vec!["deep"]));
    engine.resume("deep", Default::default()).unwrap();
    after(&seen, 1000);

    // `top` has come to use what a table that waits in `middle` has not.
    engine
        .swap("top", "0 8 linear middle 0", false, NOFLUSH, &never)
        .unwrap();
    engine.load("middle", "0 8 linear base 0", false).unwrap();
    engine
        .swap("top", "0 8192 linear middle 0", false, NOFLUSH, &never)
        .unwrap();
    engine.suspend_stack("top", PLAIN, &never).unwrap();
    let (errno, reason) = refusal(engine.resume_stack("top", Default::default(), &never));
    assert_eq!(errno, "EINVAL");
    assert!(
        reason.starts_with("'middle' could not be resumed: the new table has 8 sectors"),
        "{reason}"
    );
    assert!(
        reason.ends_with("; base, deep are suspended again"),
        "{reason}"
    );
    assert_eq!(suspended(&engine), ["top", "middle", "base", "deep"]);
    engine
        .resume_stack("top", Default::default(), &never)
        .unwrap();
    assert_eq!(suspended(&engine), Vec::<&str>::new());
    after(&seen, 1000);
    assert_eq!(seen.failed.load(Ordering::Relaxed), 0);
    let (errno, _) = refusal(engine.suspend_stack("nix", PLAIN, &never));
    assert_eq!(errno, "ENXIO");
    stop(&engine);
}
