//! A front end that keeps I/O outstanding, and knows what it must read.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use polldm::bdev::Payload;
use polldm::dm::{CoreId, DeviceId, Io, Op, Status};
use polldm::engine::{Core, Engine, FrontEnd};
use polldm::reactor::Readiness;

use super::BLOCK_BYTES;

pub const DEPTH: u32 = 32;

/// What the test and its front ends share.
#[derive(Default)]
pub struct Seen {
    pub completed: AtomicU64,
    pub failed: AtomicU64,
    /// Of the failed ones, those for want of a path.
    pub transport: AtomicU64,
    /// Commands that have failed at least once.
    pub hit: AtomicU64,
    pub stale: AtomicU64,
    pub enough: AtomicBool,
}

impl Seen {
    /// Demands that nothing has failed, and that whatever was read was what had been written last.
    pub fn demand_flawless(&self) {
        assert_eq!(self.failed.load(Ordering::Relaxed), 0, "failed");
        assert_eq!(self.stale.load(Ordering::Relaxed), 0, "stale");
    }
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

/// Adds drivers on all cores and waits until each has got going on `device`.
pub fn drive(engine: &Engine, device: DeviceId) -> Arc<Seen> {
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
pub fn after(seen: &Seen, more: u64) {
    let goal = seen.completed.load(Ordering::Relaxed) + more;
    while seen.completed.load(Ordering::Relaxed) < goal {
        std::thread::yield_now();
    }
}
