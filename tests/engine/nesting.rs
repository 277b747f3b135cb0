//! Front ends that submit from within a completion's callback.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use polldm::bdev::Payload;
use polldm::dm::{CoreId, DeviceId, Io, Op, Status};
use polldm::engine::{Core, FrontEnd};
use polldm::reactor::Readiness;

use super::{BLOCK_BYTES, device, engine, file, malloc};

/// Commands under way at once.
const DEPTH: u32 = 32;

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
        device(&engine, "vol", table);
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
        engine.stop(Duration::from_secs(60)).unwrap();
    }
}
