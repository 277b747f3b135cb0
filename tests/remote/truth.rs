//! What a remote is told of what hosts ask for: flushes, sizes, discards.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use polldm::bdev::Payload;
use polldm::dm::{CoreId, DeviceId, Io, Op, Status};
use polldm::engine::{Core, Engine, FrontEnd};
use polldm::reactor::Readiness;

use super::processes::Remote;
use super::{add, device, engine, spec, stop, until};

/// Does what it is told to, one I/O after the other.
struct Teller {
    device: DeviceId,
    ended: Arc<Mutex<Vec<Status>>>,
    waiting: Arc<AtomicU64>,
    memory: Vec<u8>,
}

/// One I/O that a teller is told to do.
struct Do {
    op: Op,
    fua: bool,
    sector: u64,
    sectors: u32,
}

impl FrontEnd for Teller {
    fn poll(&mut self, _core: &mut Core<'_>) -> bool {
        false
    }
    fn completed(&mut self, done: &[(u32, Status)], _core: &mut Core<'_>) {
        let mut ended = self.ended.lock().unwrap();
        ended.extend(done.iter().map(|(_, status)| *status));
        self.waiting.fetch_sub(done.len() as u64, Ordering::Relaxed);
    }
    fn ready(&mut self, _token: u32, _readiness: Readiness, _core: &mut Core<'_>) {}
    fn timer(&mut self, _token: u32, _core: &mut Core<'_>) {}
    fn message(&mut self, message: Box<dyn Any + Send>, core: &mut Core<'_>) {
        let one = *message.downcast::<Do>().unwrap();
        let length = match one.op {
            Op::Write => one.sectors * 512,
            _ => 0,
        };
        let bytes = NonNull::new(self.memory.as_mut_ptr()).unwrap();
        let io = Io {
            tag: core.tag(0),
            op: one.op,
            fua: one.fua,
            sector: one.sector,
            sectors: one.sectors,
            // SAFETY: the memory is this front end's own and large enough; nobody touches it while its one I/O is under way.
            payload: unsafe { Payload::new(bytes, length) },
        };
        if let Some(status) = core.submit(self.device, io) {
            self.ended.lock().unwrap().push(status);
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
    fn device_changed(&mut self, _device: DeviceId, _core: &mut Core<'_>) {}
    fn before_sleep(&mut self, _core: &mut Core<'_>) -> bool {
        true
    }
    fn stop(&mut self, _core: &mut Core<'_>) {}
    fn stopped(&self) -> bool {
        true
    }
}

/// Does these one after the other; how they ended.
fn run(engine: &Engine, device: DeviceId, all: Vec<Do>) -> Vec<Status> {
    let ended = Arc::new(Mutex::new(Vec::new()));
    let waiting = Arc::new(AtomicU64::new(0));
    let (shared, counted) = (Arc::clone(&ended), Arc::clone(&waiting));
    let client = engine.add_front_end(move |_, _| {
        Box::new(Teller {
            device,
            ended: Arc::clone(&shared),
            waiting: Arc::clone(&counted),
            memory: vec![7; 1 << 20],
        })
    });
    for one in all {
        waiting.fetch_add(1, Ordering::Relaxed);
        engine.tell(CoreId(0), client, Box::new(one));
        until(|| waiting.load(Ordering::Relaxed) == 0);
    }
    std::mem::take(&mut ended.lock().unwrap())
}

/// I/Os of a kind that the remote's device has had.
fn count(remote: &Remote, operation: &str) -> u64 {
    let stats: serde_json::Value =
        serde_json::from_str(&remote.told(&["stats", "--json"])).unwrap();
    let operations = stats["devices"][0]["operations"].as_array().unwrap();
    let one = operations.iter().find(|one| one["operation"] == operation);
    one.unwrap()["ios"].as_u64().unwrap()
}

/// Every flush of a host reaches the remote, once; so do writes, discards and write-zeroes. (That FUA does is seen on the wire:
/// `bdev/remote/tests`.)
#[test]
fn flushes_reach_the_remote() {
    let remote = Remote::with_memory();
    let engine = engine(1);
    add(&engine, "r0", spec(&remote));
    let device = device(&engine, "vol", "0 16384 linear r0 0");
    let one = |op, sector, sectors| Do {
        op,
        fua: false,
        sector,
        sectors,
    };
    let flush = || one(Op::Flush, 0, 0);
    let ended = run(
        &engine,
        device,
        vec![
            one(Op::Write, 0, 8),
            flush(),
            flush(),
            one(Op::Discard, 0, 8192),
            one(Op::WriteZeroes, 8192, 8192),
            flush(),
            one(Op::Write, 4096, 2048),
            Do {
                fua: true,
                ..one(Op::Write, 8, 8)
            },
        ],
    );
    assert_eq!(ended, [Status::Ok; 8]);
    assert_eq!(count(&remote, "flush"), 3);
    // The count is of discards and write-zeroes.
    assert_eq!(count(&remote, "discard"), 2);
    // A mebibyte is more than the remote takes at once, and is cut.
    assert!(count(&remote, "write") > 4);
    stop(&engine);
}

/// The namespace grows at the remote: the bdev has the new size, and a table that uses it can be loaded.
#[test]
fn the_size_of_a_namespace_is_followed() {
    let remote = Remote::with_memory();
    remote.told(&["dm", "load", "vol", "--table", "0 8192 linear disk 0"]);
    remote.told(&["dm", "resume", "vol"]);
    let engine = engine(1);
    add(&engine, "r0", spec(&remote));
    let sectors = || engine.list_bdevs()[0].lower.sectors;
    assert_eq!(sectors(), 8192);
    device(&engine, "vol", "0 8192 linear r0 0");
    for size in [16384, 4096, 16384] {
        let table = format!("0 {size} linear disk 0");
        remote.told(&["dm", "load", "vol", "--table", &table]);
        remote.told(&["dm", "resume", "vol"]);
        until(|| sectors() == size);
    }
    engine.load("vol", "0 16384 linear r0 0", false).unwrap();
    engine.resume("vol", Default::default()).unwrap();
    stop(&engine);
}
