//! The chunk that a connection receives into, and what of it has not been looked at.

use std::rc::Rc;

use super::chunk::{CHUNK_BYTES, Chunk, ChunkPool};

/// A connection's place to receive.
#[derive(Default)]
pub struct Inlet {
    /// The chunk; none while the connection is silent.
    pub chunk: Option<Rc<Chunk>>,
    /// Received and not looked at: from `start` to `end` of the chunk.
    pub start: usize,
    /// Where the next bytes go.
    pub end: usize,
}

impl Inlet {
    /// Whether bytes wait to be looked at.
    #[inline]
    pub fn has_bytes(&self) -> bool {
        self.start < self.end
    }

    /// Lets go of the chunk.
    pub fn clear(&mut self, chunks: &mut ChunkPool) {
        if let Some(chunk) = self.chunk.take() {
            chunks.give(chunk);
        }
        self.start = 0;
        self.end = 0;
    }

    /// Makes sure that there is a chunk with room for `room` bytes more. False when there is none to be had now.
    #[inline]
    pub fn prepare(&mut self, room: usize, chunks: &mut ChunkPool) -> bool {
        if let Some(chunk) = &self.chunk {
            let shared = Rc::strong_count(chunk) > 1;
            if self.start == self.end && !shared {
                self.start = 0;
                self.end = 0;
            }
            if CHUNK_BYTES - self.end >= room {
                return true;
            }
        }
        let Some(fresh) = chunks.take() else {
            return false;
        };
        if let Some(old) = self.chunk.replace(fresh) {
            let size = self.end - self.start;
            let (from, to) = (
                old.pointer(self.start),
                self.chunk.as_ref().map(|chunk| chunk.pointer(0)),
            );
            if let Some(to) = to {
                // SAFETY: both ranges lie within their chunks (`size` is at most a chunk), which are distinct; the fresh one
                // is nobody else's.
                unsafe { std::ptr::copy_nonoverlapping(from, to, size) };
            }
            chunks.give(old);
            self.end = size;
        } else {
            self.end = 0;
        }
        self.start = 0;
        true
    }
}
