//! Devices that go while somebody uses them (PM-14).

use std::ptr::NonNull;
use std::sync::Arc;

use super::tests::{Bench, POOL_BYTES, file_spec};
use super::*;
use crate::dm::{DeviceId, LowerId, Op, Payload as _, Status, Submit};

const BYTES: u64 = 1 << 20;

fn malloc() -> Spec {
    Spec::Malloc {
        bytes: BYTES,
        block_bytes: 512,
        volatile_cache: false,
        atomic_writes: false,
    }
}

fn null() -> Spec {
    Spec::Null {
        bytes: BYTES,
        block_bytes: 512,
    }
}

/// What a submission answers at once.
fn submit(bench: &mut Bench, op: Op) -> Submit {
    let mut memory = [0u8; 512];
    let (sectors, payload) = match op {
        // SAFETY: the memory outlives the I/O, because it ends at once: the caller asserts that.
        Op::Read | Op::Write => (1, unsafe {
            Payload::new(NonNull::from(&mut memory).cast(), 512)
        }),
        Op::Flush => (0, Payload::empty()),
        _ => (1, Payload::empty()),
    };
    let io = crate::dm::LowerIo {
        op,
        fua: false,
        sector: 0,
        sectors,
        payload,
    };
    let answer = bench
        .channel
        .submit(&mut bench.core, &io, crate::dm::CloneId(u32::MAX));
    assert_ne!(answer, Submit::Pending, "{op:?}");
    answer
}

fn remove(registry: &Registry, bench: &mut Bench, name: &str) -> LowerId {
    let id = registry.hot_remove(name).expect("it is there").id();
    bench.core.lower_gone(id);
    id
}

/// Every kind, every operation: an error of the path at once, on all channels of the core, and on no other device's.
#[test]
fn what_is_submitted_to_a_device_that_went_ends_with_transport() {
    let folder = tempfile::tempdir().expect("folder");
    let file = file_spec(&folder.path().join("disk"), BYTES, 512, Direct::Auto);
    for spec in [null(), malloc(), file] {
        let registry = Registry::default();
        let bdev = registry.add("disk", spec).expect("open");
        let other = registry.add("other", malloc()).expect("open");
        let mut bench = Bench::new(&bdev, Core::new(POOL_BYTES));
        let other = other.channel(&mut bench.core).expect("channel");
        let second = bdev.channel(&mut bench.core).expect("channel");
        assert_eq!(bench.write(0, &[1; 512], 0, false), Status::Ok);
        drop(bdev);
        let id = remove(&registry, &mut bench, "disk");
        assert!(registry.by_id(id).is_none(), "no table can open it");
        let gone = Submit::Done(Status::Transport);
        for op in [
            Op::Read,
            Op::Write,
            Op::Flush,
            Op::Discard,
            Op::WriteZeroes,
            Op::CompareAndWrite,
        ] {
            assert_eq!(submit(&mut bench, op), gone, "{op:?}");
        }
        bench.channel = second;
        assert_eq!(submit(&mut bench, Op::Flush), gone);
        bench.channel = other;
        assert_eq!(submit(&mut bench, Op::Flush), Submit::Done(Status::Ok));
    }
}

/// With I/O gathered, with the kernel, and done but not told: each ends once, well or for want of a device.
#[test]
fn what_is_in_flight_when_a_device_goes_ends_once() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("disk");
    for polls in 0..4 {
        let registry = Registry::default();
        let spec = file_spec(&path, BYTES, 4096, Direct::Auto);
        let bdev = registry.add("disk", spec).expect("open");
        let mut bench = Bench::new(&bdev, Core::new(POOL_BYTES));
        let mut lists: Vec<LendList> = (0..64).map(|_| LendList::default()).collect();
        let clones: Vec<u32> = lists
            .iter_mut()
            .zip(0..)
            .map(|(list, number)| {
                // SAFETY: each list is used by one I/O, and outlives it.
                let payload = unsafe { Payload::lent(NonNull::from(list), 4096) };
                bench.start(Op::Read, false, number * 8, 8, payload)
            })
            .collect();
        (0..polls).for_each(|_| bench.poll());
        drop(bdev);
        remove(&registry, &mut bench, "disk");
        for (clone, list) in clones.into_iter().zip(&lists) {
            match bench.wait(clone) {
                Status::Ok => assert!(list.covers(4096)),
                status => assert_eq!(status, Status::Transport),
            }
        }
        assert!(bench.core.before_sleep() && bench.ended.is_empty());
    }
}

/// A read that the kernel has done in part is not carried on with: the file that was cut would fail it otherwise.
#[test]
fn no_second_step_is_taken_on_a_device_that_went() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("disk");
    let registry = Registry::default();
    let spec = file_spec(&path, 8192, 512, Direct::Off);
    let bdev = registry.add("disk", spec).expect("open");
    let mut bench = Bench::new(&bdev, Core::new(POOL_BYTES));
    let cut = std::fs::OpenOptions::new().write(true).open(&path);
    cut.expect("open").set_len(4096).expect("cut");
    for (goes, expected) in [(false, Status::IoError), (true, Status::Transport)] {
        let mut memory = vec![0u8; 8192];
        // SAFETY: `memory` outlives the I/O.
        let payload = unsafe { Payload::new(NonNull::from(&mut memory[..]).cast(), 8192) };
        let read = bench.start(Op::Read, false, 0, 16, payload);
        if goes {
            remove(&registry, &mut bench, "disk");
        }
        assert_eq!(bench.wait(read), expected);
    }
}

/// The file is closed, and its lock free, as soon as nothing is in flight, while the channel that a table has is still open: so the same disk can
/// come in again, under its name.
#[test]
fn a_file_that_went_is_closed_while_its_channel_is_open() {
    let folder = tempfile::tempdir().expect("folder");
    let spec = file_spec(&folder.path().join("disk"), BYTES, 512, Direct::Auto);
    let registry = Registry::default();
    let bdev = registry.add("disk", spec.clone()).expect("open");
    let old = bdev.id();
    let mut bench = Bench::new(&bdev, Core::new(POOL_BYTES));
    assert_eq!(bench.write(0, &[7; 512], 0, false), Status::Ok);
    let flush = bench.start(Op::Flush, false, 0, 0, Payload::empty());
    drop(bdev);
    remove(&registry, &mut bench, "disk");
    assert_eq!(bench.wait(flush), Status::Ok);
    let again = registry.add("disk", spec).expect("it is not locked");
    assert_ne!(again.id(), old);
    assert_eq!(
        submit(&mut bench, Op::Flush),
        Submit::Done(Status::Transport)
    );
    let mut new = Bench::new(&again, Core::new(POOL_BYTES));
    assert_eq!(new.read(0, 1, 0), vec![7; 512]);
    let report = registry.report();
    let shown: Vec<_> = report
        .iter()
        .map(|one| (one.lower.id, one.removed))
        .collect();
    assert_eq!(shown, [(again.id(), false), (old, true)]);
    drop(bench);
    assert_eq!(registry.report().len(), 1);
}

#[test]
fn what_a_device_lent_stays_readable_when_it_goes() {
    let registry = Registry::default();
    let bdev = registry.add("ram", malloc()).expect("open");
    let mut bench = Bench::new(&bdev, Core::new(POOL_BYTES));
    assert_eq!(bench.write(8, &[7; 512], 0, false), Status::Ok);
    let mut list = LendList::default();
    // SAFETY: `list` outlives the I/O.
    let payload = unsafe { Payload::lent(NonNull::from(&mut list), 512) };
    assert_eq!(bench.run(Op::Read, false, 8, 1, payload), Status::Ok);
    drop(bdev);
    remove(&registry, &mut bench, "ram");
    // The lent segment keeps the memory, not the device.
    assert_eq!(
        submit(&mut bench, Op::Flush),
        Submit::Done(Status::Transport)
    );
    drop(bench);
    // SAFETY: the segment is still there.
    let bytes = unsafe { std::slice::from_raw_parts(list.segments()[0].as_ptr(), 512) };
    assert_eq!(bytes, &[7; 512]);
}

#[test]
fn a_large_zeroing_is_given_up_when_the_device_goes() {
    let registry = Registry::default();
    let bdev = registry.add("ram", malloc()).expect("open");
    let stays = registry.add("stays", malloc()).expect("open");
    let mut bench = Bench::new(&bdev, Core::new(POOL_BYTES));
    let zeroing =
        |bench: &mut Bench| bench.start(Op::WriteZeroes, false, 0, 2048, Payload::empty());
    let gone = [zeroing(&mut bench), zeroing(&mut bench)];
    let stays = stays.channel(&mut bench.core).expect("channel");
    let _open = std::mem::replace(&mut bench.channel, stays);
    let done = zeroing(&mut bench);
    let id = registry.hot_remove("ram").expect("it is there").id();
    bench.core.lower_gone(id);
    for clone in gone {
        assert_eq!(bench.wait(clone), Status::Transport);
    }
    assert_eq!(bench.wait(done), Status::Ok);
}

#[test]
fn tables_keep_a_device_and_a_forced_removal_does_not_ask_them() {
    let registry = Registry::default();
    registry.add("ram", malloc()).expect("open");
    assert!(registry.declare_to(None, "rom").is_none());
    let one = registry.declare_to(Some(DeviceId(3)), "ram");
    let two = registry.declare_to(None, "ram");
    let copy = one.clone();
    assert!(
        one.is_some() && one == two,
        "who keeps it makes no difference"
    );
    drop(one);
    match registry.remove("ram") {
        Err(Error::InUse { tables, .. }) => assert_eq!(tables, [Some(DeviceId(3)), None]),
        other => panic!("tables name it: {other:?}"),
    }
    drop(copy);
    assert_eq!(registry.report()[0].tables, [None]);
    registry.hot_remove("ram").expect("it is there");
    assert!(matches!(
        registry.hot_remove("ram"),
        Err(Error::Missing { .. })
    ));
    let report = registry.report();
    assert!(report.len() == 1 && report[0].removed && report[0].tables == [None]);
    drop(two);
    assert!(registry.report().is_empty());
}

#[test]
fn a_name_is_taken_while_its_device_is_opened() {
    let registry = Registry::default();
    let reserved = registry.reserve("ram").expect("free");
    assert!(registry.has_name("ram") && registry.by_name("ram").is_none());
    assert!(matches!(
        registry.add("ram", malloc()),
        Err(Error::Exists { .. })
    ));
    drop(reserved);
    let bad = Spec::Null {
        bytes: 1000,
        block_bytes: 512,
    };
    assert!(matches!(registry.add("ram", bad), Err(Error::Size { .. })));
    assert!(!registry.has_name("ram"), "what failed gives it back");
    let bdev: Arc<Bdev> = registry.add("ram", malloc()).expect("open");
    assert_eq!(bdev.name(), "ram");
}
