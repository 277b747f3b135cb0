//! Backing devices that come and go beneath mapped ones.

use std::sync::atomic::Ordering;
use std::time::Duration;

use polldm::bdev::{Direct, Spec};

use super::driver::{DEPTH, after, drive};
use super::{device, engine, file, malloc};

/// A disk is pulled under I/O from four reactors: every I/O ends once, well or for want of a path. It comes in again under its name, the
/// same table is loaded once more, and all is well. The file's lock shows that it was closed though the old table was still there.
#[test]
fn pm_14_a_disk_is_pulled_under_load_and_plugged_in_again() {
    let folder = tempfile::tempdir().unwrap();
    for disk in [malloc(4), file(&folder, 4)] {
        let engine = engine(&[("a", disk.clone())], 4);
        device(&engine, "vol", "0 8192 linear a 0");
        let device = engine.open("vol").unwrap();
        let seen = drive(&engine, device);
        after(&seen, 1000);
        let refused = engine.remove_bdev("a", false).unwrap_err();
        assert_eq!(refused.errno.name(), "EBUSY");
        assert!(
            refused.reason.contains("in use by vol: 1 table"),
            "{refused}"
        );
        after(&seen, 1000);
        assert_eq!(seen.failed.load(Ordering::Relaxed), 0);

        engine.remove_bdev("a", true).unwrap();
        while seen.hit.load(Ordering::Relaxed) < u64::from(4 * DEPTH) {
            std::thread::yield_now();
        }
        let info = &engine.list_bdevs()[0];
        assert!(info.removed && info.tables == 1 && info.devices == ["vol"]);
        // No table can be made over what is not there.
        let refused = engine.load("vol", "0 8192 linear a 0", false).unwrap_err();
        assert!(refused.reason.contains("there is no bdev 'a'"), "{refused}");

        engine.add_bdev("a", &disk).unwrap();
        engine.load("vol", "0 8192 linear a 0", false).unwrap();
        engine.resume("vol", Default::default()).unwrap();
        let failed = seen.failed.load(Ordering::Relaxed);
        after(&seen, 4000);
        assert_eq!(seen.failed.load(Ordering::Relaxed), failed);
        assert_eq!(seen.transport.load(Ordering::Relaxed), failed);
        assert_eq!(seen.stale.load(Ordering::Relaxed), 0);
        let bdevs = engine.list_bdevs();
        assert!(bdevs.len() == 1 && !bdevs[0].removed && bdevs[0].tables == 1);
        engine.stop(Duration::from_secs(60)).unwrap();
    }
}

/// What is parked when a disk is pulled stays parked: after the same disk was plugged in again, nobody has seen an error.
#[test]
fn pm_14_parked_io_outlives_the_disk_it_was_meant_for() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(&[("a", file(&folder, 4))], 2);
    device(&engine, "vol", "0 8192 linear a 0");
    let device = engine.open("vol").unwrap();
    let seen = drive(&engine, device);
    after(&seen, 1000);
    engine.suspend("vol", Default::default()).unwrap();
    while engine.stats("vol").unwrap().parked < u64::from(2 * DEPTH) {
        std::thread::yield_now();
    }
    engine.remove_bdev("a", true).unwrap();
    assert_eq!(engine.stats("vol").unwrap().parked, u64::from(2 * DEPTH));
    engine.add_bdev("a", &file(&folder, 4)).unwrap();
    engine.load("vol", "0 8192 linear a 0", false).unwrap();
    engine.resume("vol", Default::default()).unwrap();
    after(&seen, 1000);
    seen.demand_flawless();
    engine.stop(Duration::from_secs(60)).unwrap();
}

/// A backing device stays as long as a live or an inactive table names it, and not longer: when an operator hears that the last such table
/// is gone, it is free.
#[test]
fn a_bdev_is_in_use_while_a_table_names_it() {
    let engine = engine(&[("a", malloc(4)), ("b", malloc(4))], 2);
    let in_use = |name: &str| match engine.remove_bdev(name, false) {
        Ok(()) => {
            engine.add_bdev(name, &malloc(4)).unwrap();
            false
        }
        Err(error) => {
            assert_eq!(error.errno.name(), "EBUSY");
            true
        }
    };
    let tables = |index: usize| engine.list_bdevs()[index].tables;
    for _ in 0..100 {
        engine.create("vol", "", false).unwrap();
        engine
            .load("vol", "0 8 linear a 0\n8 8 linear a 8", false)
            .unwrap();
        assert!(in_use("a") && !in_use("b") && tables(0) == 1);
        engine.load("vol", "0 16 linear b 0", false).unwrap();
        assert!(!in_use("a") && in_use("b"));
        engine.clear("vol").unwrap();
        assert!(!in_use("b"));
        engine.load("vol", "0 16 linear a 0", false).unwrap();
        engine.resume("vol", Default::default()).unwrap();
        engine.load("vol", "0 16 linear a 16", false).unwrap();
        assert!(in_use("a") && tables(0) == 2);
        engine.load("vol", "0 16 linear b 0", false).unwrap();
        engine.resume("vol", Default::default()).unwrap();
        assert!(!in_use("a") && in_use("b"));
        engine.remove("vol").unwrap();
        assert!(!in_use("b"));
    }
    engine.stop(Duration::from_secs(60)).unwrap();
}

/// A table line names a bdev or a mapped device, so one name is never both; and what an operator gets wrong is said with its errno.
#[test]
fn bdevs_and_devices_share_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(&[("a", malloc(4))], 1);
    engine.create("vol", "", false).unwrap();
    let refused = |result: Result<(), polldm::dm::Error>| {
        let error = result.unwrap_err();
        (error.errno.name(), error.reason)
    };
    for (errno, words, result) in [
        (
            "EBUSY",
            "the name of a bdev",
            engine.create("a", "", false).map(drop),
        ),
        ("EBUSY", "the name of a bdev", engine.rename("vol", "a")),
        (
            "EBUSY",
            "the name of a mapped device",
            engine.add_bdev("vol", &malloc(4)),
        ),
        ("EBUSY", "exists already", engine.add_bdev("a", &malloc(4))),
        (
            "EINVAL",
            "multiple of the block size",
            engine.add_bdev(
                "b",
                &Spec::Null {
                    bytes: 1000,
                    block_bytes: 512,
                },
            ),
        ),
        ("ENXIO", "no bdev named", engine.remove_bdev("b", false)),
        ("ENXIO", "no bdev named", engine.remove_bdev("b", true)),
    ] {
        let (name, reason) = refused(result);
        assert_eq!(name, errno, "{reason}");
        assert!(reason.contains(words), "{reason}");
    }
    let missing = Spec::File {
        path: folder.path().join("missing"),
        bytes: None,
        block_bytes: 512,
        direct: Direct::Auto,
        read_only: false,
    };
    assert_eq!(refused(engine.add_bdev("b", &missing)).0, "ENXIO");
    engine.add_bdev("b", &file(&folder, 1)).unwrap();
    engine.remove_bdev("a", false).unwrap();
    engine.rename("vol", "a").unwrap();
    assert_eq!(engine.list_bdevs().len(), 1);
    engine.stop(Duration::from_secs(60)).unwrap();
}
