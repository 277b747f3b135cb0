//! A device in memory in place of the engine: what the protocols' own tests and fuzzers work on. Nothing here is used by a running target.

use super::backend::{Backend, Lend, Request};
use crate::dm::{AtomicWrites, DeviceId, Geometry, Op, Status};
use crate::reactor::{BufferPool, PoolBuffer};

/// Blocks of the device, of 512 bytes each.
pub const BLOCKS: u64 = 256;

/// The device is there as 0 and as 1.
pub const DEVICES: u32 = 2;

/// Bytes of all the receive and pool buffers of a harness.
const POOL_BYTES: usize = 16 << 20;

/// An I/O that the backend keeps until it is told to finish it.
struct Held {
    request: Request,
    bytes: *mut u8,
    lend: *mut Pieces,
}

/// What the device lent.
#[derive(Default)]
pub struct Pieces(Vec<(*const u8, usize)>);

impl Lend for Pieces {
    fn pieces(&mut self, mut each: impl FnMut(*const u8, usize)) {
        for &(bytes, size) in &self.0 {
            each(bytes, size);
        }
    }

    fn release(&mut self) {
        self.0.clear();
    }
}

/// One device in memory, under [`DEVICES`] numbers.
pub struct MemoryBackend {
    /// What it holds.
    pub bytes: Box<[u8]>,
    /// What it claims to be.
    pub geometry: Option<Geometry>,
    /// Whether its flush policy is the ordered one; nothing here acts on it.
    pub ordered: bool,
    /// Keep I/O until [`MemoryBackend::finish`].
    pub hold: bool,
    /// What is kept is parked, and can be aborted; otherwise it is below.
    pub parks: bool,
    /// How the next I/Os end.
    pub status: Status,
    /// I/Os seen so far.
    pub requests: Vec<Request>,
    /// The clock.
    pub now_ns: u64,
    /// Buffers.
    pub pool: BufferPool,
    held: Vec<Held>,
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryBackend {
    /// A device full of zeroes.
    pub fn new() -> Self {
        let size = BLOCKS as usize * 512;
        Self {
            bytes: vec![0; size].into_boxed_slice(),
            geometry: Some(Geometry {
                sectors: BLOCKS,
                block_bytes: 512,
                physical_bytes: 512,
                volatile_cache: true,
                discard: true,
                discard_zeroes: true,
                write_zeroes: true,
                optimal_write_bytes: 4096,
                atomic_writes: AtomicWrites::NONE,
                read_only: false,
            }),
            ordered: false,
            hold: false,
            parks: true,
            status: Status::Ok,
            requests: Vec::new(),
            now_ns: 1,
            pool: BufferPool::new(POOL_BYTES),
            held: Vec::new(),
        }
    }

    /// Finishes what is kept: which command, and how it ended.
    pub fn finish(&mut self) -> Vec<(u32, Status)> {
        let held = std::mem::take(&mut self.held);
        let ended = held.iter().map(|held| {
            let status = self.carry_out(held);
            (held.request.command, status)
        });
        ended.collect()
    }

    /// I/Os that are kept.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    fn range(&self, request: &Request) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(request.sector).ok()?.checked_mul(512)?;
        let end = start.checked_add(request.sectors as usize * 512)?;
        (end <= self.bytes.len()).then_some(start..end)
    }

    fn carry_out(&mut self, held: &Held) -> Status {
        let Some(range) = self.range(&held.request) else {
            return Status::IoError;
        };
        if !self.status.is_ok() {
            return self.status;
        }
        let size = range.len();
        let at = held.bytes;
        // SAFETY: whoever submitted promised memory of the length that the operation needs (`Backend::submit`), or a place for what is
        // lent (`Backend::submit_read`), until completion.
        unsafe {
            match held.request.op {
                Op::Read if held.lend.is_null() => {
                    std::ptr::copy(self.bytes[range].as_ptr(), at, size)
                }
                Op::Read => {
                    // Two pieces where that is possible, as a striped device would lend them.
                    let (first, second) = self.bytes[range].split_at(size / 2 / 512 * 512);
                    (*held.lend).0.push((first.as_ptr(), first.len()));
                    (*held.lend).0.push((second.as_ptr(), second.len()));
                }
                Op::Write | Op::WriteAtomic => {
                    self.bytes[range].copy_from_slice(std::slice::from_raw_parts(at, size))
                }
                Op::WriteZeroes | Op::Discard => self.bytes[range].fill(0),
                Op::Flush => {}
                Op::CompareAndWrite => {
                    let all = std::slice::from_raw_parts_mut(at, 3 * size);
                    all[2 * size..].copy_from_slice(&self.bytes[range.clone()]);
                    if self.bytes[range.clone()] != all[..size] {
                        return Status::Miscompare;
                    }
                    self.bytes[range].copy_from_slice(&all[size..2 * size]);
                }
            }
        }
        Status::Ok
    }

    fn take(&mut self, held: Held) -> Option<Status> {
        self.requests.push(held.request);
        if self.hold {
            self.held.push(held);
            return None;
        }
        Some(self.carry_out(&held))
    }
}

impl Backend for MemoryBackend {
    type Lend = Pieces;

    unsafe fn submit(&mut self, request: &Request, bytes: *mut u8) -> Option<Status> {
        self.take(Held {
            request: *request,
            bytes,
            lend: std::ptr::null_mut(),
        })
    }

    unsafe fn submit_read(&mut self, request: &Request, lend: *mut Self::Lend) -> Option<Status> {
        self.take(Held {
            request: *request,
            bytes: std::ptr::null_mut(),
            lend,
        })
    }

    fn abort(&mut self, _device: DeviceId, command: u32) -> bool {
        // It is finished, as aborted, with the rest.
        self.parks && self.held.iter().any(|held| held.request.command == command)
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn buffer(&mut self, bytes: usize) -> Option<PoolBuffer> {
        self.pool.take(bytes)
    }

    fn is_ordered(&self, _device: DeviceId) -> bool {
        self.ordered
    }

    fn geometry(&self, device: DeviceId) -> Option<Geometry> {
        self.geometry.filter(|_| device.0 < DEVICES)
    }
}
