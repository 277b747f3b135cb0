//! The payloads of tests: extents of buffers in an arena of the thread, so that a payload is `Copy` and still has bytes.

use std::cell::RefCell;

use crate::dm::Payload;

#[derive(Default)]
struct Arena {
    buffers: Vec<Vec<u8>>,
    free: Vec<u32>,
}

thread_local! {
    /// One per thread, as is one test: payloads must reach their bytes without carrying a reference.
    static ARENA: RefCell<Arena> = RefCell::default();
}

/// `length` bytes from `offset` of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes {
    buffer: u32,
    offset: u32,
    length: u32,
}

/// What a payload of no bytes names.
const NO_BUFFER: u32 = u32::MAX;

impl Bytes {
    /// A new buffer with these bytes.
    pub fn new(bytes: Vec<u8>) -> Bytes {
        let length = bytes.len() as u32;
        let buffer = ARENA.with_borrow_mut(|arena| match arena.free.pop() {
            Some(buffer) => {
                arena.buffers[buffer as usize] = bytes;
                buffer
            }
            None => {
                arena.buffers.push(bytes);
                arena.buffers.len() as u32 - 1
            }
        });
        Bytes {
            buffer,
            offset: 0,
            length,
        }
    }

    /// Gives back every buffer of this thread, of which nobody wants the bytes any more.
    #[cfg(test)]
    pub fn take_all() {
        ARENA.take();
    }

    /// Gives the buffer back; its bytes.
    pub fn take(self) -> Vec<u8> {
        if self.buffer == NO_BUFFER {
            return Vec::new();
        }
        ARENA.with_borrow_mut(|arena| {
            arena.free.push(self.buffer);
            std::mem::take(&mut arena.buffers[self.buffer as usize])
        })
    }

    /// A copy of the bytes.
    pub fn get(self) -> Vec<u8> {
        self.with(|bytes| bytes.to_vec())
    }

    /// How many bytes.
    pub fn count(self) -> usize {
        self.length as usize
    }

    /// The number of the buffer that the bytes are part of; `None` for no bytes at all.
    pub fn buffer(self) -> Option<u32> {
        (self.buffer != NO_BUFFER).then_some(self.buffer)
    }

    /// Does something with the bytes.
    pub fn with<R>(self, act: impl FnOnce(&mut [u8]) -> R) -> R {
        if self.buffer == NO_BUFFER {
            return act(&mut []);
        }
        ARENA.with_borrow_mut(|arena| {
            let from = self.offset as usize;
            act(&mut arena.buffers[self.buffer as usize][from..from + self.length as usize])
        })
    }
}

impl Payload for Bytes {
    fn empty() -> Bytes {
        Bytes {
            buffer: NO_BUFFER,
            offset: 0,
            length: 0,
        }
    }

    fn slice(self, offset: u32, length: u32) -> Bytes {
        assert!(
            offset + length <= self.length,
            "a slice of {length} at {offset} of {self:?}"
        );
        Bytes {
            offset: self.offset + offset,
            length,
            ..self
        }
    }

    fn fill_zero(self) {
        self.with(|bytes| bytes.fill(0));
    }

    fn copy_from(self, written: Bytes) {
        let written = written.get();
        self.with(|bytes| bytes.copy_from_slice(&written));
    }

    fn equals(self, other: Bytes) -> bool {
        let other = other.get();
        self.with(|bytes| bytes == other)
    }
}
