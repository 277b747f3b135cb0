//! A host that keeps I/O outstanding, and knows what it must read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use polldm::host::{BlockingQueue, Controller, Error, Outcome, Payload};
use polldm::nvme::command::Command;
use polldm::nvme::opcode::io;
use polldm::nvme::status::TYPE_PATH;

use crate::BLOCK;
use crate::node::Node;

/// Queues, on connections of their own.
const QUEUES: u64 = 2;

/// Commands on each, each to a block of its own.
const DEPTH: u64 = 16;

/// How long a queue's thread waits for an answer before it looks whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Far longer than any step takes.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Seen {
    completed: AtomicU64,
    failed: AtomicU64,
    /// Of the failed ones, those with a path related status.
    of_paths: AtomicU64,
    stale: AtomicU64,
    enough: AtomicBool,
}

/// Writes and reads to each of its blocks in turn: what was written last is what must be read.
pub struct Load {
    seen: Arc<Seen>,
    threads: Vec<JoinHandle<Result<(), Error>>>,
    _controller: Controller,
}

impl Load {
    /// Starts it on namespace 1.
    pub fn start(node: &Node) -> Load {
        let (controller, queues) = node.queues(QUEUES as u16, DEPTH as usize);
        let seen = Arc::new(Seen::default());
        let threads = queues.into_iter().zip(0..).map(|(queue, index)| {
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || drive(queue, index * DEPTH, &seen))
        });
        Load {
            threads: threads.collect(),
            seen,
            _controller: controller,
        }
    }

    /// How many commands are outstanding whenever nothing completes.
    pub fn outstanding(&self) -> u64 {
        QUEUES * DEPTH
    }

    pub fn completed(&self) -> u64 {
        let ended = self.threads.iter().any(JoinHandle::is_finished);
        assert!(!ended, "the host has lost its connection");
        self.seen.completed.load(Ordering::Relaxed)
    }

    /// Commands that have failed; none of them with the status of a path.
    pub fn failed(&self) -> u64 {
        assert_eq!(self.seen.of_paths.load(Ordering::Relaxed), 0);
        self.seen.failed.load(Ordering::Relaxed)
    }

    /// Waits until so many more commands have completed.
    pub fn after(&self, more: u64) {
        let enough = self.completed() + more;
        self.until(|| self.completed() >= enough);
    }

    /// Waits until so many commands have failed in all.
    pub fn until_failed(&self, count: u64) {
        self.until(|| self.failed() >= count);
    }

    fn until(&self, is_so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < PATIENCE, "I/O does not get on");
            std::thread::yield_now();
        }
    }

    /// Nothing has failed, and what was read is what had been written last.
    pub fn demand_flawless(&self) {
        assert_eq!(self.failed(), 0, "failed");
        self.demand_right();
    }

    /// Whatever was read is what had been written last.
    pub fn demand_right(&self) {
        assert_eq!(self.seen.stale.load(Ordering::Relaxed), 0, "stale");
    }

    /// Ends it when all that is outstanding has ended.
    pub fn stop(self) {
        self.seen.enough.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let ended = thread.join().expect("it does not panic");
            ended.expect("the connection lasts");
        }
    }
}

/// A block, and the command that is under way to it.
struct Slot {
    lba: u64,
    generation: u64,
    reading: bool,
    command: Option<u16>,
}

fn drive(mut queue: BlockingQueue, first: u64, seen: &Seen) -> Result<(), Error> {
    let mut slots: Vec<Slot> = (first..first + DEPTH)
        .map(|lba| Slot {
            lba,
            generation: 0,
            reading: true,
            command: None,
        })
        .collect();
    loop {
        if !seen.enough.load(Ordering::Relaxed) {
            for slot in slots.iter_mut().filter(|slot| slot.command.is_none()) {
                slot.start(&mut queue)?;
            }
        }
        let Some(command) = slots.iter().find_map(|slot| slot.command) else {
            return Ok(());
        };
        // Whichever ends, all are looked at.
        let outcome = queue.finish_within(command, Duration::ZERO)?;
        let mut ended = 0;
        if let Some(outcome) = outcome {
            let slot = slots.iter_mut().find(|slot| slot.command == Some(command));
            slot.expect("it is one of them").end(&outcome, seen);
            ended += 1;
        }
        for slot in &mut slots {
            if let Some(outcome) = slot.command.and_then(|command| queue.take(command)) {
                slot.end(&outcome, seen);
                ended += 1;
            }
        }
        if ended == 0 {
            wait_readable(&mut queue);
        }
    }
}

/// Waits until the target says something, for a time.
fn wait_readable(queue: &mut BlockingQueue) {
    use std::os::fd::AsRawFd;
    let mut entry = libc::pollfd {
        fd: queue.queue_mut().stream().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry, which lives across the call. An error is as good as an event: the queue is looked at next.
    unsafe { libc::poll(&mut entry, 1, LOOK_EVERY.as_millis() as i32) };
}

impl Slot {
    fn start(&mut self, queue: &mut BlockingQueue) -> Result<(), Error> {
        self.reading = !self.reading;
        let (opcode, bytes) = match self.reading {
            true => (io::READ, Vec::new()),
            false => {
                self.generation += 1;
                (io::WRITE, vec![self.generation as u8; BLOCK])
            }
        };
        let payload = match self.reading {
            true => Payload::Read(BLOCK as u32),
            false => Payload::Write(&bytes),
        };
        let command = Command::block_io(opcode, 1, self.lba, 1);
        self.command = Some(queue.start(command, payload)?);
        Ok(())
    }

    /// After a failure it begins anew with a write.
    fn end(&mut self, outcome: &Outcome, seen: &Seen) {
        self.command = None;
        let status = outcome.completion.status;
        if !status.is_success() {
            self.reading = true;
            seen.failed.fetch_add(1, Ordering::Relaxed);
            let of_path = u64::from(status.code_type() == TYPE_PATH);
            seen.of_paths.fetch_add(of_path, Ordering::Relaxed);
        } else if self.reading {
            let is_right = |byte: &u8| *byte == self.generation as u8;
            let stale = u64::from(!outcome.data.iter().all(is_right));
            seen.stale.fetch_add(stale, Ordering::Relaxed);
        }
        seen.completed.fetch_add(1, Ordering::Relaxed);
    }
}
