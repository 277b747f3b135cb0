//! Operators' verbs: what is refused, removed, waited for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use polldm::engine::never;

use super::{device, engine, malloc};

/// An operator's mistakes are refused with the errno of the semantics and change nothing.
#[test]
fn mistakes_are_refused() {
    let engine = engine(&[("a", malloc(4))], 2);
    assert_eq!(engine.info("nix").unwrap_err().errno.name(), "ENXIO");
    assert_eq!(
        engine.create("a/b", "", false).unwrap_err().errno.name(),
        "EINVAL"
    );
    engine.create("vol", "", false).unwrap();
    assert_eq!(
        engine.create("vol", "", false).unwrap_err().errno.name(),
        "EBUSY"
    );
    engine.suspend("vol", Default::default()).unwrap();
    assert_eq!(
        engine
            .resume("vol", Default::default())
            .unwrap_err()
            .errno
            .name(),
        "EINVAL"
    );
    assert_eq!(
        engine
            .load("vol", "0 9000 linear a 0", false)
            .unwrap_err()
            .errno
            .name(),
        "EINVAL"
    );
    assert!(!engine.info("vol").unwrap().info.inactive);
    engine.load("vol", "0 8192 linear a 0", false).unwrap();
    engine.resume("vol", Default::default()).unwrap();
    engine.open("vol").unwrap();
    assert_eq!(engine.remove("vol").unwrap_err().errno.name(), "EBUSY");
    assert_eq!(engine.rename("vol", "").unwrap_err().errno.name(), "EINVAL");
    engine.rename("vol", "new").unwrap();
    assert_eq!(engine.info("new").unwrap().info.event_nr, 1);
    let lines = engine.table("new", false).unwrap();
    assert_eq!(
        (lines.len(), lines[0].target, lines[0].text.as_str()),
        (1, "linear", "a 0")
    );
    engine.close(engine.open("new").unwrap());
    engine.stop(Duration::from_secs(60)).unwrap();
}

/// AT-59: a device that is held goes with its last holder, unless that was taken back; its name is free then.
#[test]
fn at_59_a_deferred_remove_waits_for_the_last_close() {
    let engine = engine(&[("a", malloc(4))], 2);
    device(&engine, "vol", "0 8192 linear a 0");
    let device = engine.open("vol").unwrap();
    assert_eq!(engine.remove_deferred("vol"), Ok(false));
    assert!(engine.info("vol").unwrap().entry.deferred_remove);
    let cancel = || engine.message("vol", 0, vec!["@cancel_deferred_remove".into()]);
    assert_eq!(cancel(), Ok(None));
    engine.close(device);
    assert!(engine.info("vol").is_ok(), "taken back in time");
    engine.open("vol").unwrap();
    engine.remove_deferred("vol").unwrap();
    for words in [vec!["@dance"], vec!["@cancel_deferred_remove", "now"]] {
        let words = words.into_iter().map(str::to_owned).collect();
        let refused = engine.message("vol", 0, words).unwrap_err();
        assert_eq!(refused.errno.name(), "EINVAL");
    }
    engine.close(device);
    assert_eq!(engine.info("vol").unwrap_err().errno.name(), "ENXIO");
    assert_eq!(cancel().unwrap_err().errno.name(), "ENXIO");
    assert_eq!(engine.create("vol", "", false), Ok(device), "free again");
    assert_eq!(engine.remove_deferred("vol"), Ok(true), "nobody holds it");
    engine.stop(Duration::from_secs(60)).unwrap();
}

/// LC-20: what is held stays, or goes later.
#[test]
fn lc_20_remove_all() {
    let engine = engine(&[], 2);
    for name in ["a", "b", "c"] {
        engine.create(name, "", false).unwrap();
    }
    let b = engine.open("b").unwrap();
    let all = engine.remove_all(false).unwrap();
    assert_eq!(
        (all.removed, all.kept),
        (vec!["a".into(), "c".into()], vec!["b".into()])
    );
    assert_eq!(engine.remove_all(true).unwrap().deferred, ["b"]);
    engine.close(b);
    assert!(engine.list().is_empty());
    engine.stop(Duration::from_secs(60)).unwrap();
}

/// AT-82, LC-24: a wait ends with an event, even one that gives the device another name; with its removal; and when whoever waits
/// has had enough. The global counter counts all of that.
#[test]
fn at_82_waits_and_the_counter_of_events() {
    let engine = engine(&[], 2);
    let events = || engine.events();
    assert_eq!(events(), 0);
    engine.create("vol", "", false).unwrap();
    assert_eq!(events(), 1);
    let at_once = engine.wait("vol", Some(u32::MAX), &never).unwrap();
    assert_eq!(at_once.device.info.event_nr, 0);
    // Met when the waiter has looked whether it is given up: by then it has found the device by its name.
    let begun = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let found = AtomicBool::new(false);
            engine.wait("vol", Some(0), &|| {
                if !found.swap(true, Ordering::Relaxed) {
                    begun.wait();
                }
                false
            })
        });
        begun.wait();
        engine.rename("vol", "new").unwrap();
        let event = waiter.join().unwrap().unwrap();
        assert_eq!(event.device.entry.name, "new");
        assert_eq!(event.device.info.event_nr, 1);
    });
    assert_eq!(events(), 2);
    engine.set_uuid("new", "u").unwrap();
    engine.load("new", "0 8 zero", false).unwrap();
    assert_eq!(events(), 3, "loading a table is no event");
    engine.resume("new", Default::default()).unwrap();
    assert_eq!(events(), 4);
    let refused = engine.wait("new", None, &|| true);
    assert_eq!(refused.unwrap_err().errno.name(), "EINTR");
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| engine.wait("new", Some(2), &never));
        engine.remove("new").unwrap();
        assert_eq!(waiter.join().unwrap().unwrap_err().errno.name(), "ENXIO");
    });
    assert_eq!(events(), 5);
    engine.stop(Duration::from_secs(60)).unwrap();
}

/// A device whose creation comes to nothing leaves its name to the next.
#[test]
fn a_refused_create_gives_the_name_back() {
    let engine = engine(&[], 1);
    engine.stop(Duration::from_secs(60)).unwrap();
    for _ in 0..2 {
        let refused = engine.create("vol", "u", false).unwrap_err();
        assert_eq!(refused.errno.name(), "ENXIO");
    }
    assert!(engine.list().is_empty());
}
