//! The bytes of an I/O on the native engine: a pointer and a length, or, for a read, a request to be lent memory.

use std::ptr::NonNull;
use std::rc::Rc;

use super::malloc::CoreMemory;
use crate::dm;
use crate::reactor::PoolBuffer;

/// Where an I/O's data lies, or is to be left. Copied freely; owns nothing.
///
/// Contract of whoever submits an I/O with it: the memory (or the [`LendList`]) stays where it is, is as long as the I/O
/// needs, and is touched by nobody else until the I/O has completed. The constructors that could break this are `unsafe`.
#[derive(Clone, Copy, Debug)]
pub struct Payload {
    place: Place,
    length: u32,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Bytes(NonNull<u8>),
    /// Leave segments here; this payload starts `offset` bytes into the original.
    Lend {
        list: NonNull<LendList>,
        offset: u32,
    },
}

/// How a lower device gets at a payload.
#[derive(Clone, Copy, Debug)]
pub enum Access {
    /// Copy from or to this memory.
    Bytes(NonNull<u8>),
    /// A read without a buffer: lend memory ([`Payload::lend`]).
    Lend,
}

impl Payload {
    /// `length` bytes at `bytes`.
    ///
    /// # Safety
    /// The contract of [`Payload`].
    pub unsafe fn new(bytes: NonNull<u8>, length: u32) -> Payload {
        Payload {
            place: Place::Bytes(bytes),
            length,
        }
    }

    /// A read of `length` bytes into memory that the lower devices lend through `list`, which is empty.
    ///
    /// # Safety
    /// The contract of [`Payload`], for the list.
    pub unsafe fn lent(list: NonNull<LendList>, length: u32) -> Payload {
        Payload {
            place: Place::Lend { list, offset: 0 },
            length,
        }
    }

    /// Bytes of it.
    pub fn length(self) -> u32 {
        self.length
    }

    /// How to get at it.
    #[inline(always)]
    pub fn access(self) -> Access {
        match self.place {
            Place::Bytes(bytes) => Access::Bytes(bytes),
            Place::Lend { .. } => Access::Lend,
        }
    }

    /// Lends `self.length()` bytes at `bytes`, which `owner` keeps alive, for a payload whose access is [`Access::Lend`].
    #[inline(always)]
    pub fn lend(self, bytes: NonNull<u8>, owner: Owner) {
        let Place::Lend { mut list, offset } = self.place else {
            unreachable!("only a read without a buffer is lent memory")
        };
        // SAFETY: by the contract of `Payload::lent` the list is there, and nobody else touches it until the I/O has completed.
        unsafe { list.as_mut() }.segments.push(Segment {
            offset,
            length: self.length,
            bytes,
            owner,
        });
    }
}

impl dm::Payload for Payload {
    fn empty() -> Payload {
        Payload {
            place: Place::Bytes(NonNull::dangling()),
            length: 0,
        }
    }

    #[inline(always)]
    fn slice(self, offset: u32, length: u32) -> Payload {
        debug_assert!(
            offset
                .checked_add(length)
                .is_some_and(|end| end <= self.length)
        );
        let place = match self.place {
            // SAFETY: within the payload's memory, as asserted.
            Place::Bytes(bytes) => Place::Bytes(unsafe { bytes.add(offset as usize) }),
            Place::Lend {
                list,
                offset: so_far,
            } => Place::Lend {
                list,
                offset: so_far + offset,
            },
        };
        Payload { place, length }
    }

    fn fill_zero(self) {
        match self.access() {
            // SAFETY: by the contract, `length` writable bytes.
            Access::Bytes(bytes) => unsafe { bytes.write_bytes(0, self.length as usize) },
            Access::Lend => lend_zeroes(self),
        }
    }

    fn equals(self, other: Payload) -> bool {
        match (self.access(), other.access()) {
            (Access::Bytes(a), Access::Bytes(b)) => {
                // SAFETY: by the contract, both are readable and not being written.
                let (a, b) = unsafe {
                    (
                        std::slice::from_raw_parts(a.as_ptr(), self.length as usize),
                        std::slice::from_raw_parts(b.as_ptr(), other.length as usize),
                    )
                };
                a == b
            }
            _ => unreachable!("what is compared lies in the submitter's memory"),
        }
    }
}

/// Memory that lower devices lent for one read. One per command slot of a front end, used again and again, so that its room is
/// allocated once.
#[derive(Debug, Default)]
pub struct LendList {
    segments: Vec<Segment>,
}

/// A piece of lent memory.
#[derive(Debug)]
pub struct Segment {
    /// Where it belongs in the read, in bytes.
    pub offset: u32,
    /// Bytes of it.
    pub length: u32,
    bytes: NonNull<u8>,
    #[expect(dead_code, reason = "held for its drop")]
    owner: Owner,
}

/// What keeps a [`Segment`]'s memory alive: a count that only this core touches, or nothing where it never goes away.
#[derive(Debug)]
pub enum Owner {
    /// Memory that lives as long as the process.
    Static,
    /// The memory of a `malloc` bdev: it may be removed while its memory is on its way to a host.
    Memory(Rc<CoreMemory>),
    /// A buffer of this core's pool.
    Pool(PoolBuffer),
}

impl Segment {
    /// Where it is. Readable for as long as the segment lives; other cores may write to it meanwhile, as DMA would.
    pub fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }
}

impl LendList {
    /// The segments in the order of the read. Pieces of a read end in any order.
    pub fn sort(&mut self) -> &[Segment] {
        if !self.segments.is_sorted_by_key(|segment| segment.offset) {
            self.segments.sort_unstable_by_key(|segment| segment.offset);
        }
        &self.segments
    }

    /// The segments, in the order they were lent.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Gives everything back, keeping the list's own room.
    pub fn clear(&mut self) {
        self.segments.clear();
    }
}

/// Zeroes to lend: as much as one segment takes at a time.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Lends zeroes for all of a read.
pub(super) fn lend_zeroes(payload: Payload) {
    let mut done = 0;
    while done < payload.length {
        let length = (payload.length - done).min(ZEROES.len() as u32);
        let bytes = NonNull::from(&ZEROES).cast();
        dm::Payload::slice(payload, done, length).lend(bytes, Owner::Static);
        done += length;
    }
}
