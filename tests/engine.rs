//! The native engine as a whole, without any export: real reactors, real mailboxes, a front end that keeps I/O outstanding while an
//! operator changes the devices beneath it.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use polldm::bdev::{Direct, Payload, Registry, Spec};
use polldm::dm::{CoreId, DeviceId, Io, Op, Status, SuspendOptions};
use polldm::engine::{ClientId, Config, Core, DeviceOptions, Engine, FrontEnd, never};
use polldm::reactor::{self, PollMode, Readiness};

const DEPTH: u32 = 32;
const BLOCK_BYTES: usize = 4096;

/// What the test and its front ends share.
#[derive(Default)]
struct Seen {
    completed: AtomicU64,
    failed: AtomicU64,
    /// Of the failed ones, those for want of a path.
    transport: AtomicU64,
    /// Commands that have failed at least once.
    hit: AtomicU64,
    stale: AtomicU64,
    enough: AtomicBool,
}

/// Keeps [`DEPTH`] writes and reads of its own blocks outstanding on one core: each block is written with a new number, read back,
/// and must hold that number. After a failure, begins anew with a write.
struct Driver {
    device: Option<DeviceId>,
    seen: Arc<Seen>,
    commands: Vec<Command>,
    outstanding: u32,
    ready: Vec<u32>,
}

struct Command {
    sector: u64,
    generation: u64,
    reading: bool,
    outstanding: bool,
    hit: bool,
    buffer: Vec<u8>,
}

impl Driver {
    fn submit(&mut self, device: DeviceId, command: u32, core: &mut Core<'_>) {
        let slot = &mut self.commands[command as usize];
        slot.reading = !slot.reading;
        if slot.reading {
            slot.buffer.fill(0);
        } else {
            slot.generation += 1;
            slot.buffer.fill(slot.generation as u8);
        }
        let bytes = NonNull::new(slot.buffer.as_mut_ptr()).unwrap();
        let io = Io {
            tag: core.tag(command),
            op: if slot.reading { Op::Read } else { Op::Write },
            fua: false,
            sector: slot.sector,
            sectors: (BLOCK_BYTES / 512) as u32,
            // SAFETY: the buffer is this command's own, never resized, and left alone until the command has completed.
            payload: unsafe { Payload::new(bytes, BLOCK_BYTES as u32) },
        };
        self.outstanding += 1;
        assert!(!std::mem::replace(&mut slot.outstanding, true));
        if let Some(status) = core.submit(device, io) {
            self.ended(command, status);
        }
    }

    fn ended(&mut self, command: u32, status: Status) {
        let slot = &mut self.commands[command as usize];
        self.outstanding -= 1;
        let outstanding = std::mem::take(&mut slot.outstanding);
        assert!(outstanding, "an I/O completes once");
        self.seen.completed.fetch_add(1, Ordering::Relaxed);
        if status != Status::Ok {
            slot.reading = true;
            let for_want_of_a_path = u64::from(status == Status::Transport);
            let first = u64::from(!std::mem::replace(&mut slot.hit, true));
            self.seen.failed.fetch_add(1, Ordering::Relaxed);
            self.seen
                .transport
                .fetch_add(for_want_of_a_path, Ordering::Relaxed);
            self.seen.hit.fetch_add(first, Ordering::Relaxed);
        } else if slot.reading
            && slot
                .buffer
                .iter()
                .any(|byte| *byte != slot.generation as u8)
        {
            self.seen.stale.fetch_add(1, Ordering::Relaxed);
        }
        self.ready.push(command);
    }
}

impl FrontEnd for Driver {
    fn poll(&mut self, core: &mut Core<'_>) -> bool {
        let Some(device) = self.device else {
            return false;
        };
        if self.seen.enough.load(Ordering::Relaxed) {
            return false;
        }
        for command in std::mem::take(&mut self.ready) {
            self.submit(device, command, core);
        }
        true
    }
    fn completed(&mut self, done: &[(u32, Status)], _core: &mut Core<'_>) {
        done.iter()
            .for_each(|(command, status)| self.ended(*command, *status));
    }
    fn ready(&mut self, _token: u32, _readiness: Readiness, _core: &mut Core<'_>) {}
    fn timer(&mut self, _token: u32, _core: &mut Core<'_>) {}
    fn message(&mut self, message: Box<dyn Any + Send>, _core: &mut Core<'_>) {
        self.device = Some(*message.downcast::<DeviceId>().unwrap());
    }
    fn device_changed(&mut self, _device: DeviceId, _core: &mut Core<'_>) {}
    fn before_sleep(&mut self, _core: &mut Core<'_>) -> bool {
        true
    }
    fn stop(&mut self, _core: &mut Core<'_>) {
        self.seen.enough.store(true, Ordering::Relaxed);
    }
    fn stopped(&self) -> bool {
        self.outstanding == 0
    }
}

fn engine(bdevs: &[(&str, Spec)], reactors: usize) -> Engine {
    let registry = Arc::new(Registry::default());
    for (name, spec) in bdevs {
        registry.add(name, spec.clone()).unwrap();
    }
    let cpus = reactor::available_cpus().unwrap();
    let cpus = (0..reactors)
        .map(|index| cpus[index % cpus.len()])
        .collect();
    let poll = PollMode::Adaptive {
        spin: Duration::from_micros(20),
    };
    let config = Config {
        reactors: reactor::Config { cpus, poll },
        buffer_bytes_max: 16 << 20,
    };
    Engine::start(&config, registry).unwrap()
}

fn malloc(megabytes: u64) -> Spec {
    Spec::Malloc {
        bytes: megabytes << 20,
        block_bytes: 4096,
        volatile_cache: false,
    }
}

fn file(folder: &tempfile::TempDir, megabytes: u64) -> Spec {
    Spec::File {
        path: folder.path().join("disk"),
        bytes: Some(megabytes << 20),
        block_bytes: 4096,
        direct: Direct::Auto,
        read_only: false,
    }
}

/// Adds drivers on all cores and waits until each has got going on `device`.
fn drive(engine: &Engine, device: DeviceId) -> Arc<Seen> {
    let seen = Arc::new(Seen::default());
    let shared = seen.clone();
    let client = engine.add_front_end(move |_client, core| {
        let first = u64::from(core.index().0) * u64::from(DEPTH);
        let commands = (0..u64::from(DEPTH)).map(|n| Command {
            sector: (first + n) * 8,
            generation: 0,
            reading: true,
            outstanding: false,
            hit: false,
            buffer: vec![0; BLOCK_BYTES],
        });
        Box::new(Driver {
            device: None,
            seen: shared.clone(),
            commands: commands.collect(),
            outstanding: 0,
            ready: (0..DEPTH).collect(),
        })
    });
    for core in 0..engine.cores() {
        engine.tell(CoreId(core), client, Box::new(device));
    }
    seen
}

/// Waits, by the event itself, until this many more I/Os have completed.
fn after(seen: &Seen, more: u64) {
    let goal = seen.completed.load(Ordering::Relaxed) + more;
    while seen.completed.load(Ordering::Relaxed) < goal {
        std::thread::yield_now();
    }
}

/// The device's blocks are swapped between a linear and a striped table over the same bytes, a hundred times, under I/O from four reactors:
/// no error, no stale read. The stripe has one device, so both tables put every block in the same place.
#[test]
fn a_table_is_swapped_under_load_without_an_error() {
    let engine = engine(&[("a", malloc(4))], 4);
    engine.create("vol", "", false).unwrap();
    engine.load("vol", "0 8192 linear a 0", false).unwrap();
    engine.resume("vol", Default::default()).unwrap();
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
    assert_eq!(seen.failed.load(Ordering::Relaxed), 0);
    assert_eq!(seen.stale.load(Ordering::Relaxed), 0);
    let stats = engine.stats("vol").unwrap();
    assert!(stats.read.ios > 0 && stats.write.ios > 0);
    assert_eq!(stats.read.errors + stats.write.errors, 0);
    engine.stop(Duration::from_secs(10)).unwrap();
}

/// A suspended device parks I/O; nothing completes until it is resumed, and nothing is lost.
#[test]
fn suspended_io_waits_and_is_not_lost() {
    let engine = engine(&[("a", malloc(4))], 2);
    engine.create("vol", "", false).unwrap();
    engine.load("vol", "0 8192 linear a 0", false).unwrap();
    engine.resume("vol", Default::default()).unwrap();
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
    engine.stop(Duration::from_secs(10)).unwrap();
}

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
    engine.stop(Duration::from_secs(10)).unwrap();
}

/// A disk is pulled under I/O from four reactors: every I/O ends once, well or for want of a path. It comes in again under its name, the
/// same table is loaded once more, and all is well. The file's lock shows that it was closed though the old table was still there.
#[test]
fn pm_14_a_disk_is_pulled_under_load_and_plugged_in_again() {
    let folder = tempfile::tempdir().unwrap();
    for disk in [malloc(4), file(&folder, 4)] {
        let engine = engine(&[("a", disk.clone())], 4);
        engine.create("vol", "", false).unwrap();
        engine.load("vol", "0 8192 linear a 0", false).unwrap();
        engine.resume("vol", Default::default()).unwrap();
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
        engine.stop(Duration::from_secs(10)).unwrap();
    }
}

/// What is parked when a disk is pulled stays parked: after the same disk was plugged in again, nobody has seen an error.
#[test]
fn pm_14_parked_io_outlives_the_disk_it_was_meant_for() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(&[("a", file(&folder, 4))], 2);
    engine.create("vol", "", false).unwrap();
    engine.load("vol", "0 8192 linear a 0", false).unwrap();
    engine.resume("vol", Default::default()).unwrap();
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
    assert_eq!(seen.failed.load(Ordering::Relaxed), 0);
    assert_eq!(seen.stale.load(Ordering::Relaxed), 0);
    engine.stop(Duration::from_secs(10)).unwrap();
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
    engine.stop(Duration::from_secs(10)).unwrap();
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
    engine.stop(Duration::from_secs(10)).unwrap();
}

/// What [`Once`] is told to do, and where to say how it ended and with which bytes.
struct Errand {
    device: DeviceId,
    op: Op,
    bytes: Vec<u8>,
    done: Sender<(Status, Vec<u8>)>,
}

/// Does one I/O at sector 0 when it is told to, and nothing in between: never keeps its reactor awake.
#[derive(Default)]
struct Once {
    errand: Option<Errand>,
}

impl Once {
    fn ended(&mut self, status: Status) {
        let Errand { done, bytes, .. } = self.errand.take().expect("one at a time");
        // A test that has failed does not listen any more.
        let _ = done.send((status, bytes));
    }
}

impl FrontEnd for Once {
    fn poll(&mut self, _core: &mut Core<'_>) -> bool {
        false
    }
    fn completed(&mut self, done: &[(u32, Status)], _core: &mut Core<'_>) {
        done.iter().for_each(|(_, status)| self.ended(*status));
    }
    fn ready(&mut self, _token: u32, _readiness: Readiness, _core: &mut Core<'_>) {}
    fn timer(&mut self, _token: u32, _core: &mut Core<'_>) {}
    fn message(&mut self, message: Box<dyn Any + Send>, core: &mut Core<'_>) {
        let errand = self.errand.insert(*message.downcast().unwrap());
        let bytes = NonNull::new(errand.bytes.as_mut_ptr()).unwrap();
        let io = Io {
            tag: core.tag(0),
            op: errand.op,
            fua: false,
            sector: 0,
            sectors: (errand.bytes.len() / 512) as u32,
            // SAFETY: the vector is kept, and its bytes left alone, until the command has completed.
            payload: unsafe { Payload::new(bytes, errand.bytes.len() as u32) },
        };
        if let Some(status) = core.submit(errand.device, io) {
            self.ended(status);
        }
    }
    fn device_changed(&mut self, _device: DeviceId, _core: &mut Core<'_>) {}
    fn before_sleep(&mut self, _core: &mut Core<'_>) -> bool {
        true
    }
    fn stop(&mut self, _core: &mut Core<'_>) {}
    fn stopped(&self) -> bool {
        self.errand.is_none()
    }
}

/// An engine of two reactors with one device, on which I/O is done one at a time.
struct Errands {
    engine: Engine,
    device: DeviceId,
    client: ClientId,
}

impl Errands {
    /// The device has this table, over 4 MiB of memory called `a`.
    fn new(table: &str) -> Errands {
        let engine = engine(&[("a", malloc(4))], 2);
        engine.create("vol", "", false).unwrap();
        engine.load("vol", table, false).unwrap();
        engine.resume("vol", Default::default()).unwrap();
        let device = engine.open("vol").unwrap();
        let client = engine.add_front_end(|_client, _core| Box::new(Once::default()));
        Errands {
            engine,
            device,
            client,
        }
    }

    /// Does one I/O on a core and waits for its end.
    fn run(&self, core: u16, op: Op, bytes: Vec<u8>) -> (Status, Vec<u8>) {
        let (done, end) = channel();
        let errand = Errand {
            device: self.device,
            op,
            bytes,
            done,
        };
        self.engine
            .tell(CoreId(core), self.client, Box::new(errand));
        // Only so that a reactor that sleeps on fails the test rather than hangs it.
        end.recv_timeout(Duration::from_secs(100))
            .expect("it ends by itself")
    }
}

/// A delay is far longer than a reactor spins: each I/O ends although its reactor sleeps and nothing but the mapper's own timer wakes it.
#[test]
fn a_delayed_io_ends_on_a_sleeping_reactor() {
    let errands = Errands::new("0 8192 delay a 0 30");
    let engine = &errands.engine;
    let sleeps = || -> Vec<u64> {
        let stats = engine.reactor_stats();
        stats.iter().map(|reactor| reactor.sleeps).collect()
    };
    let before = sleeps();
    for round in 0..6 {
        for core in 0..2 {
            let bytes = vec![round; BLOCK_BYTES];
            assert_eq!(errands.run(core, Op::Write, bytes).0, Status::Ok);
            let (status, bytes) = errands.run(core, Op::Read, vec![0; BLOCK_BYTES]);
            assert_eq!((status, bytes), (Status::Ok, vec![round; BLOCK_BYTES]));
        }
    }
    let slept = before
        .iter()
        .zip(sleeps())
        .all(|(before, after)| *before < after);
    assert!(slept, "or this test shows nothing");
    assert_eq!(engine.status("vol").unwrap()[0].text, "0 0 0");
    engine.stop(Duration::from_secs(10)).unwrap();
}

/// On real buffers: what is written is changed on the way, the writer's bytes are not; what is read is changed for the reader.
#[test]
fn bytes_are_corrupted_below_the_host() {
    let flakey = "0 8192 flakey a 0 0 1 10 corrupt_bio_byte 5000 w 2 0 corrupt_bio_byte 1 r 0 0";
    let Errands { engine, .. } = Errands::new("0 8192 zero");
    let error = engine.load("vol", flakey, false).unwrap_err().to_string();
    assert!(error.contains("corrupt_bio_byte is there twice"), "{error}");
    engine.stop(Duration::from_secs(10)).unwrap();

    let errands = Errands::new("0 8192 flakey a 0 0 1 5 corrupt_bio_byte 5000 w 2 0");
    let engine = &errands.engine;
    let bytes = vec![1; 2 * BLOCK_BYTES];
    for core in 0..2 {
        let ended = errands.run(core, Op::Write, bytes.clone());
        assert_eq!(ended, (Status::Ok, bytes.clone()));
    }
    let mut expected = bytes;
    expected[4999] = 2;
    let read = || vec![0; 2 * BLOCK_BYTES];
    let found = errands.run(1, Op::Read, read());
    assert_eq!(found, (Status::Ok, expected.clone()));
    let table = "0 8192 flakey a 0 0 1 5 corrupt_bio_byte 8192 r 3 0";
    engine.load("vol", table, false).unwrap();
    engine.resume("vol", Default::default()).unwrap();
    expected[8191] = 3;
    let found = errands.run(0, Op::Read, read());
    assert_eq!(found, (Status::Ok, expected));
    engine.stop(Duration::from_secs(10)).unwrap();
}

/// AT-59: a device that is held goes with its last holder, unless that was taken back; its name is free then.
#[test]
fn at_59_a_deferred_remove_waits_for_the_last_close() {
    let engine = engine(&[("a", malloc(4))], 2);
    engine.create("vol", "", false).unwrap();
    engine.load("vol", "0 8192 linear a 0", false).unwrap();
    engine.resume("vol", Default::default()).unwrap();
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
    engine.stop(Duration::from_secs(10)).unwrap();
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
    engine.stop(Duration::from_secs(10)).unwrap();
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
    engine.stop(Duration::from_secs(10)).unwrap();
}

/// A device whose creation comes to nothing leaves its name to the next.
#[test]
fn a_refused_create_gives_the_name_back() {
    let engine = engine(&[], 1);
    engine.stop(Duration::from_secs(10)).unwrap();
    for _ in 0..2 {
        let refused = engine.create("vol", "u", false).unwrap_err();
        assert_eq!(refused.errno.name(), "ENXIO");
    }
    assert!(engine.list().is_empty());
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
    engine.stop(Duration::from_secs(10)).unwrap();
}

/// Submits from within the callback that tells it of a completion, on the same device, so often.
struct Chain {
    device: Option<DeviceId>,
    /// Per command: its bytes, and how many I/Os it still has to do.
    commands: Vec<(Vec<u8>, u32)>,
    outstanding: u32,
    done: Sender<()>,
}

impl Chain {
    fn go_on(&mut self, command: u32, core: &mut Core<'_>) {
        let device = self.device.expect("told before");
        let (bytes, left) = &mut self.commands[command as usize];
        while *left > 0 {
            *left -= 1;
            let start = NonNull::new(bytes.as_mut_ptr()).unwrap();
            let io = Io {
                tag: core.tag(command),
                op: if *left % 2 == 0 { Op::Write } else { Op::Read },
                fua: false,
                sector: u64::from(command) * 8,
                sectors: 8,
                // SAFETY: the vector is this command's own, and left alone until the command has completed.
                payload: unsafe { Payload::new(start, BLOCK_BYTES as u32) },
            };
            match core.submit(device, io) {
                Some(status) => assert_eq!(status, Status::Ok),
                None => return self.outstanding += 1,
            }
        }
        if self.commands.iter().all(|(_, left)| *left == 0) && self.outstanding == 0 {
            let _ = self.done.send(());
        }
    }
}

impl FrontEnd for Chain {
    fn poll(&mut self, _core: &mut Core<'_>) -> bool {
        false
    }
    fn completed(&mut self, done: &[(u32, Status)], core: &mut Core<'_>) {
        for (command, status) in done {
            assert_eq!(*status, Status::Ok);
            self.outstanding -= 1;
            self.go_on(*command, core);
        }
    }
    fn ready(&mut self, _token: u32, _readiness: Readiness, _core: &mut Core<'_>) {}
    fn timer(&mut self, _token: u32, _core: &mut Core<'_>) {}
    fn message(&mut self, message: Box<dyn Any + Send>, core: &mut Core<'_>) {
        self.device = Some(*message.downcast().unwrap());
        (0..self.commands.len() as u32).for_each(|command| self.go_on(command, core));
    }
    fn device_changed(&mut self, _device: DeviceId, _core: &mut Core<'_>) {}
    fn before_sleep(&mut self, _core: &mut Core<'_>) -> bool {
        true
    }
    fn stop(&mut self, _core: &mut Core<'_>) {}
    fn stopped(&self) -> bool {
        self.outstanding == 0
    }
}

/// AT-56, IO-27: a completion's callback submits the next I/O to the same device, 32 at a time, thousands of times, to devices that answer
/// at once (malloc), later (a file), either (a stripe over both), and from the mapper's timers (delay): nothing nests, nothing stands still.
#[test]
fn at_56_completions_submit_again() {
    let folder = tempfile::tempdir().unwrap();
    let bdevs = [("a", malloc(4)), ("b", file(&folder, 4))];
    for (table, each) in [
        ("0 8192 linear a 0", 20_000),
        ("0 8192 linear b 0", 1_000),
        ("0 8192 striped 2 8 a 0 b 0", 1_000),
        ("0 8192 delay a 0 1", 20),
    ] {
        let engine = engine(&bdevs, 2);
        engine.create("vol", "", false).unwrap();
        engine.load("vol", table, false).unwrap();
        engine.resume("vol", Default::default()).unwrap();
        let device = engine.open("vol").unwrap();
        let (done, end) = channel();
        let client = engine.add_front_end(move |_client, _core| {
            Box::new(Chain {
                device: None,
                commands: vec![(vec![7; BLOCK_BYTES], each); DEPTH as usize],
                outstanding: 0,
                done: done.clone(),
            })
        });
        for core in 0..2 {
            engine.tell(CoreId(core), client, Box::new(device));
        }
        for _ in 0..2 {
            // Only so that a chain that stands still fails the test rather than hangs it.
            let ended = end.recv_timeout(Duration::from_secs(100));
            ended.unwrap_or_else(|_| panic!("{table}: the chain has broken"));
        }
        engine.stop(Duration::from_secs(10)).unwrap();
    }
}
