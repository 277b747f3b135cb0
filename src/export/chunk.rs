//! Receive chunks: what `recv` writes into, and what in-capsule writes are submitted from without a copy.
//!
//! A chunk is shared by the connection that receives into it and by every command whose data lies in it; it returns to the core's
//! pool when the last of them lets go. Sharing is counted by `Rc`: a chunk never leaves its core.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::rc::Rc;

/// Size of a chunk: fifteen 8 KiB in-capsule writes per receive, or the headers of 1,800 reads; small enough that a handful in use stay in the
/// second-level cache.
pub const CHUNK_BYTES: usize = 128 * 1024;

/// Most chunks of one core (64 MiB). When they are all in use, connections wait to receive: back-pressure by TCP's own window.
pub const CHUNKS_MAX: usize = 512;

/// Chunks that are kept for the next receive; the rest goes back to the system after a burst.
const CHUNKS_KEPT: usize = 16;

const ALIGNMENT: usize = 4096;

/// Memory of one chunk. What lies before a connection's fill mark is read only; what lies behind it is written by
/// that connection alone.
pub struct Chunk {
    memory: NonNull<u8>,
}

impl Chunk {
    fn layout() -> Layout {
        Layout::from_size_align(CHUNK_BYTES, ALIGNMENT).expect("constants make a valid layout")
    }

    fn new() -> Self {
        // SAFETY: the layout has a size other than zero.
        let memory = unsafe { alloc(Self::layout()) };
        let Some(memory) = NonNull::new(memory) else {
            handle_alloc_error(Self::layout())
        };
        // SAFETY: freshly allocated, CHUNK_BYTES long. Cleared once, so that no read, however wrong, sees stale memory of the process.
        unsafe { memory.write_bytes(0, CHUNK_BYTES) };
        Self { memory }
    }

    /// Where byte `offset` lies.
    #[inline]
    pub fn pointer(&self, offset: usize) -> *mut u8 {
        assert!(offset <= CHUNK_BYTES);
        // SAFETY: within the allocation or one past its end.
        unsafe { self.memory.as_ptr().add(offset) }
    }

    /// The bytes from `start` to `end`.
    ///
    /// # Safety
    /// They were received, and nothing writes them while the slice lives: they lie before the fill mark of the connection
    /// that receives into this chunk.
    #[inline]
    pub unsafe fn bytes(&self, start: usize, end: usize) -> &[u8] {
        assert!(start <= end && end <= CHUNK_BYTES);
        // SAFETY: within the allocation, initialised since `new`; not written meanwhile by the caller's promise.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(start), end - start) }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { dealloc(self.memory.as_ptr(), Self::layout()) };
    }
}

/// The chunks of one core.
#[derive(Default)]
pub struct ChunkPool {
    free: Vec<Rc<Chunk>>,
    count: usize,
}

impl ChunkPool {
    /// A chunk that nobody else holds; `None` when all [`CHUNKS_MAX`] are in use.
    #[inline]
    pub fn take(&mut self) -> Option<Rc<Chunk>> {
        if let Some(chunk) = self.free.pop() {
            return Some(chunk);
        }
        if self.count == CHUNKS_MAX {
            return None;
        }
        self.count += 1;
        Some(Rc::new(Chunk::new()))
    }

    /// Lets go of a chunk. Who holds one must give it back here, never drop it.
    #[inline]
    pub fn give(&mut self, chunk: Rc<Chunk>) {
        if Rc::strong_count(&chunk) > 1 {
            return;
        }
        if self.free.len() < CHUNKS_KEPT {
            self.free.push(chunk);
        } else {
            self.count -= 1;
        }
    }

    /// Chunks in use.
    pub fn in_use(&self) -> usize {
        self.count - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_returns_when_the_last_holder_lets_go() {
        let mut pool = ChunkPool::default();
        let first = pool.take().unwrap();
        let second = Rc::clone(&first);
        pool.give(first);
        assert_eq!(pool.in_use(), 1);
        pool.give(second);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn the_pool_has_an_end_and_shrinks_after_a_burst() {
        let mut pool = ChunkPool::default();
        let all: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(all.len(), CHUNKS_MAX);
        for chunk in all {
            pool.give(chunk);
        }
        assert_eq!((pool.in_use(), pool.count), (0, CHUNKS_KEPT));
    }
}
