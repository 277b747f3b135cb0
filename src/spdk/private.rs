//! Private buffers of one reactor ([`crate::dm::Env::take_buffer`]), in memory that devices can read and write: a pool as the native engine's, whose chunks
//! are SPDK's. What has been got stays the pool's, so that in steady state nothing is allocated.

use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};

use spdk_sys::iovec;

use super::payload::Payload;
use crate::dm::BufferId;
use crate::dm::PRIVATE_SECTORS_MAX;
use crate::reactor::{BUFFER_ALIGNMENT, BUFFER_BYTES_MAX, BufferPool, ChunkSource, PoolBuffer};

/// Memory of one reactor's private buffers at the most, as on the native engine; beyond, their I/O waits and is tried again.
const BYTES_MAX: usize = 32 << 20;

const _: () = assert!(PRIVATE_SECTORS_MAX as usize * 512 <= BUFFER_BYTES_MAX);

/// SPDK's memory.
const SPDK: ChunkSource = {
    // SAFETY: as many bytes as a chunk has, aligned and full of zeroes; spdk_dma_free takes back what spdk_dma_zmalloc gave, once.
    unsafe { ChunkSource::new(get, give_back) }
};

fn get() -> Option<NonNull<u8>> {
    // SAFETY: takes numbers; null when there is no memory.
    let chunk =
        unsafe { spdk_sys::spdk_dma_zmalloc(BUFFER_BYTES_MAX, BUFFER_ALIGNMENT, null_mut()) };
    NonNull::new(chunk.cast())
}

/// # Safety
/// `chunk` is of [`get`], and nobody uses it any more.
unsafe fn give_back(chunk: NonNull<u8>) {
    // SAFETY: the caller's promise.
    unsafe { spdk_sys::spdk_dma_free(chunk.as_ptr().cast::<c_void>()) };
}

/// The private buffers of one reactor.
pub(super) struct PrivateBuffers {
    pool: BufferPool,
    /// By number; as many as were ever out at once, which the pool bounds.
    all: Vec<Private>,
    /// Numbers that are not out.
    free: Vec<u32>,
}

struct Private {
    /// While it is out.
    buffer: Option<PoolBuffer>,
    /// What a payload points to; on the heap, so that it stays where it is.
    place: Box<iovec>,
}

impl PrivateBuffers {
    /// None yet.
    pub fn new() -> PrivateBuffers {
        PrivateBuffers::of(SPDK)
    }

    fn of(source: ChunkSource) -> PrivateBuffers {
        PrivateBuffers {
            pool: BufferPool::of(source, BYTES_MAX),
            all: Vec::new(),
            free: Vec::new(),
        }
    }

    /// One of so many sectors; `None` when there is no memory now.
    pub fn take(&mut self, sectors: u32) -> Option<(BufferId, Payload)> {
        let bytes = sectors as usize * 512;
        let buffer = self.pool.take(bytes)?;
        let number = self.free.pop().unwrap_or_else(|| {
            let place = Box::new(iovec {
                iov_base: null_mut(),
                iov_len: 0,
            });
            self.all.push(Private {
                buffer: None,
                place,
            });
            (self.all.len() - 1) as u32
        });
        let private = &mut self.all[number as usize];
        *private.place = iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: bytes,
        };
        private.buffer = Some(buffer);
        // SAFETY: both stay where they are, and the buffer is left to the mapper, until it is given back, when nothing below uses it.
        let payload = unsafe { Payload::new(NonNull::from(&mut *private.place), 1, bytes as u32) };
        Some((BufferId(number), payload))
    }

    /// Takes one back.
    pub fn give_back(&mut self, buffer: BufferId) {
        let taken = self.all[buffer.0 as usize].buffer.take();
        assert!(taken.is_some(), "{buffer:?} is given back once");
        self.free.push(buffer.0);
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::cell::Cell;

    use super::*;
    use crate::dm::Payload as _;

    const LAYOUT: Layout = match Layout::from_size_align(BUFFER_BYTES_MAX, BUFFER_ALIGNMENT) {
        Ok(layout) => layout,
        Err(_) => panic!("a size and an alignment"),
    };

    thread_local! {
        /// Chunks that were got, and that were given back.
        static COUNTS: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    }

    fn get() -> Option<NonNull<u8>> {
        COUNTS.set((COUNTS.get().0 + 1, COUNTS.get().1));
        // SAFETY: of a size.
        NonNull::new(unsafe { alloc_zeroed(LAYOUT) })
    }

    unsafe fn give_back(chunk: NonNull<u8>) {
        COUNTS.set((COUNTS.get().0, COUNTS.get().1 + 1));
        // SAFETY: the caller's promise: of `get`.
        unsafe { dealloc(chunk.as_ptr(), LAYOUT) };
    }

    /// However often buffers are taken and given back, their memory is got once, of which there is so much at the most, and given back at the end.
    #[test]
    fn memory_is_got_once() {
        // SAFETY: as many zeroes as a chunk has, aligned, which `dealloc` takes back.
        let mut private = PrivateBuffers::of(unsafe { ChunkSource::new(get, give_back) });
        for round in 0..1000 {
            let first = private.take(8).expect("room");
            let second = private.take(8).expect("room");
            assert_ne!(first.1.contiguous(), second.1.contiguous());
            first.1.fill_zero();
            let (one, other) = match round % 2 {
                0 => (first.0, second.0),
                _ => (second.0, first.0),
            };
            private.give_back(one);
            private.give_back(other);
        }
        assert_eq!(COUNTS.get(), (1, 0));
        assert_eq!(private.all.len(), 2);
        let largest: Vec<_> = std::iter::from_fn(|| private.take(PRIVATE_SECTORS_MAX)).collect();
        assert_eq!(largest.len() * BUFFER_BYTES_MAX, BYTES_MAX);
        for (buffer, _) in largest {
            private.give_back(buffer);
        }
        drop(private);
        let chunks = BYTES_MAX / BUFFER_BYTES_MAX;
        assert_eq!(COUNTS.get(), (chunks, chunks));
    }
}
