//! One I/O at a time, and targets that do something to it.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use polldm::bdev::Payload;
use polldm::dm::{CoreId, DeviceId, Io, Op, Status};
use polldm::engine::{ClientId, Core, Engine, FrontEnd};
use polldm::reactor::Readiness;

use super::{BLOCK_BYTES, device, engine, malloc};

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

/// An engine of two reactors with a device on which I/O is done one at a time.
pub struct Errands {
    pub engine: Engine,
    pub device: DeviceId,
    client: ClientId,
}

impl Errands {
    /// The device has this table, over 4 MiB of memory called `a`.
    fn new(table: &str) -> Errands {
        let engine = engine(&[("a", malloc(4))], 2);
        device(&engine, "vol", table);
        Errands::on(engine, "vol")
    }

    /// On a device of this name.
    pub fn on(engine: Engine, name: &str) -> Errands {
        let device = engine.open(name).unwrap();
        let client = engine.add_front_end(|_client, _core| Box::new(Once::default()));
        Errands {
            engine,
            device,
            client,
        }
    }

    /// Does one I/O on a core and waits for its end.
    pub fn run(&self, core: u16, op: Op, bytes: Vec<u8>) -> (Status, Vec<u8>) {
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
    engine.stop(Duration::from_secs(60)).unwrap();
}

/// On real buffers: what is written is changed on the way, the writer's bytes are not; what is read is changed for the reader.
#[test]
fn bytes_are_corrupted_below_the_host() {
    let flakey = "0 8192 flakey a 0 0 1 10 corrupt_bio_byte 5000 w 2 0 corrupt_bio_byte 1 r 0 0";
    let Errands { engine, .. } = Errands::new("0 8192 zero");
    let error = engine.load("vol", flakey, false).unwrap_err().to_string();
    assert!(error.contains("corrupt_bio_byte is there twice"), "{error}");
    engine.stop(Duration::from_secs(60)).unwrap();

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
    engine.stop(Duration::from_secs(60)).unwrap();
}
