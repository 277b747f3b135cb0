//! A target in memory for this room's tests, with the faults that a load generator has to notice.

use super::backend::{Backend, Data, Done, Geometry, Kind, Request, Target};
use super::options::{Options, Pattern};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Options as the command line's defaults have them, changed.
pub fn options(change: impl FnOnce(&mut Options)) -> Options {
    let mut options = Options {
        target: "dm:test.yaml#vol0".parse().unwrap(),
        rw: Pattern::RandRead,
        rwmixread: None,
        bs: 512,
        qd: 8,
        jobs: 1,
        time: Duration::from_secs(1),
        warmup: Duration::ZERO,
        rate: None,
        verify: false,
        flush_every: None,
        size: None,
        against: None,
        rounds: None,
        swap_every: None,
        seed: 1,
        cores: None,
        header_digest: false,
        data_digest: false,
        initiator: None,
        secrets: None,
        json: false,
        hgrm: None,
        plot: None,
    };
    change(&mut options);
    options
}

/// What a target does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Claims writes of LBA 9, from the second on, that it did not do.
    LoseWrite,
    /// Puts writes in the place of LBA 9 that were meant for LBA 10.
    MisdirectWrite,
    /// Flips a bit of what is read of LBA 9.
    FlipBit,
    /// Fails every third I/O.
    Fail,
    /// Is gone after a while.
    Vanish,
    /// Cannot be opened by the second job.
    RefuseOpen,
    /// Takes this long for one I/O.
    Stall(Duration),
}

/// What a poll of [`MemoryBackend`] takes.
const POLL_NS: u64 = 1_000;

pub struct MemoryTarget {
    blocks: Arc<Mutex<Vec<u8>>>,
    fault: Fault,
}

impl MemoryTarget {
    pub fn new(block_count: usize, fault: Fault) -> Self {
        Self {
            blocks: Arc::new(Mutex::new(vec![0; block_count * 512])),
            fault,
        }
    }
}

pub struct Seat {
    blocks: Arc<Mutex<Vec<u8>>>,
    fault: Fault,
    job: usize,
}

pub struct MemoryBackend {
    blocks: Arc<Mutex<Vec<u8>>>,
    fault: Fault,
    waiting: Vec<Request>,
    served: u64,
    /// Virtual nanoseconds: every poll takes [`POLL_NS`], so that a run is the same on any machine.
    clock: u64,
}

impl Target for MemoryTarget {
    type Backend = MemoryBackend;

    fn geometry(&self) -> Geometry {
        let block_count = self.blocks.lock().unwrap().len() as u64 / 512;
        Geometry {
            block_size: 512,
            block_count,
            transfer_size_max: None,
            depth_max: 64,
            jobs_max: 4,
        }
    }

    fn seat(&mut self, job: usize, _depth: usize) -> Result<Seat, String> {
        Ok(Seat {
            blocks: Arc::clone(&self.blocks),
            fault: self.fault,
            job,
        })
    }

    fn tend(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn target_cpu(&mut self) -> Option<Duration> {
        None
    }
}

impl MemoryBackend {
    fn serve<D: Data>(&mut self, request: &Request, data: &mut D) -> u32 {
        self.served += 1;
        if self.fault == Fault::Fail && self.served.is_multiple_of(3) {
            return 7;
        }
        if let Fault::Stall(time) = self.fault
            && self.served == 10
        {
            self.clock += time.as_nanos() as u64;
        }
        let start = request.lba as usize * 512;
        let size = request.block_count as usize * 512;
        let second = request.generation > 60 && request.lba == 9;
        match request.kind {
            Kind::Write if second && self.fault == Fault::LoseWrite => {}
            Kind::Write if request.lba == 10 && self.fault == Fault::MisdirectWrite => {
                let mut buffer = vec![0; size];
                data.fill(request, 0, &mut buffer);
                self.blocks.lock().unwrap()[start - 512..start - 512 + size]
                    .copy_from_slice(&buffer);
            }
            Kind::Write => data.fill(
                request,
                0,
                &mut self.blocks.lock().unwrap()[start..start + size],
            ),
            Kind::Read => {
                let mut buffer = self.blocks.lock().unwrap()[start..start + size].to_vec();
                if request.lba == 9 && self.fault == Fault::FlipBit {
                    buffer[100] ^= 1;
                }
                data.check(request, 0, &buffer);
            }
            Kind::Flush => {}
        }
        0
    }
}

impl Backend for MemoryBackend {
    type Seat = Seat;

    fn open(seat: Seat) -> Result<Self, String> {
        let Seat { blocks, fault, job } = seat;
        if fault == Fault::RefuseOpen && job == 1 {
            return Err("no seat".into());
        }
        Ok(Self {
            blocks,
            fault,
            waiting: Vec::new(),
            served: 0,
            clock: 0,
        })
    }

    fn submit<D: Data>(&mut self, requests: &[Request], _: &mut D) -> Result<usize, String> {
        // Takes half of a batch, so that the caller's handling of the rest is tested, too.
        let taken = requests.len().div_ceil(2);
        self.waiting.extend_from_slice(&requests[..taken]);
        Ok(taken)
    }

    fn poll<D: Data>(&mut self, done: &mut [Done], data: &mut D) -> Result<usize, String> {
        if self.fault == Fault::Vanish && self.served > 100 {
            return Err("the target is gone".into());
        }
        self.clock += POLL_NS;
        let waiting = std::mem::take(&mut self.waiting);
        for (request, done) in waiting.iter().rev().zip(done.iter_mut()) {
            *done = Done {
                tag: request.tag,
                error: self.serve(request, data),
            };
        }
        Ok(waiting.len())
    }

    fn now(&self) -> u64 {
        self.clock
    }

    fn error_text(code: u32) -> String {
        format!("code {code}")
    }
}
