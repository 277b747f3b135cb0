//! The bytes of an I/O in the native engine: memory that the submitter supplies, or memory that the device lends.
//!
//! # Lending
//!
//! Most reads end in a socket, so copying them into a buffer first would be waste. A read whose payload is a [`LendList`]
//! supplies no memory: the device pushes [`Segment`]s that say where the data already is, and that keep it there until they are
//! dropped. Alternative turned down: a payload that owns its segments; it could not be `Copy`, and the mapper would have to
//! carry and combine what it never looks at.

use crate::dm;
use crate::reactor::PoolBuffer;
use std::ptr::NonNull;
use std::rc::Rc;

use super::region::RegionHandle;

/// Zeroes to lend, and to write from. Never written, so all of it is the kernel's one zero page and costs no memory (being in .bss, not
/// even in the binary).
#[repr(align(4096))]
struct Zeroes(std::cell::UnsafeCell<[u8; ZEROES_BYTES]>);

/// The largest transfer in one segment of zeroes.
pub(super) const ZEROES_BYTES: usize = 1 << 20;

// SAFETY: nobody ever writes to it; the cell is there for the linker, which puts what might be written into .bss.
unsafe impl Sync for Zeroes {}

static ZEROES: Zeroes = Zeroes(std::cell::UnsafeCell::new([0; ZEROES_BYTES]));

/// [`ZEROES_BYTES`] zeroes, page-aligned. For reading only.
#[inline]
pub(super) fn zeroes() -> *const u8 {
    ZEROES.0.get().cast()
}

/// Where the bytes of an I/O are, or are to be. Cut by the mapper, read and written by devices.
///
/// The constructors are unsafe because a payload is a promise, made once for the I/O and all its clones: the memory (or the list) is valid,
/// stays where it is, and is left alone by everyone but the devices, until the I/O has completed.
#[derive(Clone, Copy, Debug)]
pub struct Payload {
    place: Place,
    length: u32,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// The submitter's memory.
    Memory(NonNull<u8>),
    /// The list to push to, and where in the original this piece begins.
    Lend(NonNull<LendList>, u32),
}

impl Payload {
    /// `length` bytes at `bytes`: filled by a read, read by a write.
    ///
    /// # Safety
    /// Until the I/O has completed, the memory is valid for reads (and, for a read, for writes) of `length` bytes, does not move, and is
    /// neither written (nor, for a read, read) by anyone else. For a compare-and-write that is all three parts.
    #[inline(always)]
    pub unsafe fn new(bytes: NonNull<u8>, length: u32) -> Payload {
        Payload {
            place: Place::Memory(bytes),
            length,
        }
    }

    /// A read of `length` bytes that supplies no memory: its data is lent through `list`.
    ///
    /// # Safety
    /// Until the I/O has completed, `list` is valid, does not move, and is touched by nobody else.
    #[inline(always)]
    pub unsafe fn lent(list: NonNull<LendList>, length: u32) -> Payload {
        Payload {
            place: Place::Lend(list, 0),
            length,
        }
    }

    /// Bytes.
    #[inline(always)]
    pub fn length(self) -> u32 {
        self.length
    }

    /// The memory; `None` if the data is to be lent.
    #[inline(always)]
    pub fn as_memory(self) -> Option<*mut u8> {
        match self.place {
            Place::Memory(bytes) => Some(bytes.as_ptr()),
            Place::Lend(..) => None,
        }
    }

    /// Answers a lending read with all its bytes, at `bytes`.
    ///
    /// # Safety
    /// `owner` keeps `bytes` valid for reads of this payload's length.
    ///
    /// # Panics
    /// If it is not a lending read.
    #[inline(always)]
    pub(super) unsafe fn lend_bytes(self, bytes: *const u8, owner: Owner) {
        let Place::Lend(mut list, offset) = self.place else {
            panic!("only a lending read can be lent to");
        };
        // SAFETY: the constructor's promise: the list is valid and nobody else's until completion.
        let list = unsafe { list.as_mut() };
        list.push(Segment {
            offset,
            length: self.length,
            bytes,
            owner,
        });
    }
}

impl dm::Payload for Payload {
    #[inline(always)]
    fn empty() -> Payload {
        Payload {
            place: Place::Memory(NonNull::dangling()),
            length: 0,
        }
    }

    #[inline(always)]
    fn slice(self, offset: u32, length: u32) -> Payload {
        let fits = offset
            .checked_add(length)
            .is_some_and(|end| end <= self.length);
        assert!(fits, "a slice lies within its payload");
        let place = match self.place {
            // SAFETY: within the memory that the constructor was promised, as just asserted.
            Place::Memory(bytes) => Place::Memory(unsafe { bytes.add(offset as usize) }),
            Place::Lend(list, before) => Place::Lend(list, before + offset),
        };
        Payload { place, length }
    }

    fn fill_zero(self) {
        match self.place {
            // SAFETY: the constructor's promise: valid for writes until completion.
            Place::Memory(bytes) => unsafe { bytes.write_bytes(0, self.length as usize) },
            Place::Lend(..) => {
                let mut offset = 0;
                while offset < self.length {
                    let length = (self.length - offset).min(ZEROES_BYTES as u32);
                    // SAFETY: the zeroes are static, and at least `length` of them.
                    unsafe {
                        self.slice(offset, length)
                            .lend_bytes(zeroes(), Owner::Static)
                    };
                    offset += length;
                }
            }
        }
    }

    fn equals(self, other: Payload) -> bool {
        assert_eq!(self.length, other.length, "compares payloads of one length");
        match (self.as_memory(), other.as_memory()) {
            (Some(one), Some(two)) => {
                // SAFETY: the constructor's promise, for both; neither is being written now.
                let (one, two) = unsafe {
                    (
                        std::slice::from_raw_parts(one, self.length as usize),
                        std::slice::from_raw_parts(two, self.length as usize),
                    )
                };
                one == two
            }
            _ => panic!("a compare-and-write supplies memory (dm::Op::CompareAndWrite)"),
        }
    }
}

/// What keeps a segment's memory there.
#[derive(Debug)]
pub enum Owner {
    /// It is static.
    Static,
    /// It is part of a malloc device, which outlives its removal until all that was lent has come back. Counted per reactor, so no
    /// reactor waits for another's cache line.
    Region(Rc<RegionHandle>),
    /// It is a buffer of this reactor's pool.
    Buffer(PoolBuffer),
}

/// A piece of lent data. For reading only: what a malloc device lends is the device.
#[derive(Debug)]
pub struct Segment {
    /// Where in the original I/O it begins, in bytes.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
    bytes: *const u8,
    owner: Owner,
}

impl Segment {
    /// The data: valid until the segment is dropped. What a malloc device lends can change under the reader, as host memory can under DMA;
    /// who needs it to hold still (digests) copies it.
    #[inline]
    pub fn as_ptr(&self) -> *const u8 {
        self.bytes
    }

    /// Who keeps it there.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }
}

/// The data of a lending read: one list per command slot of a front end, used again and again, so that in steady state it does not
/// allocate.
#[derive(Debug, Default)]
pub struct LendList {
    segments: Vec<Segment>,
}

impl LendList {
    /// An empty list with room for `segments`; it grows when a read is split further.
    pub fn with_capacity(segments: usize) -> LendList {
        LendList {
            segments: Vec::with_capacity(segments),
        }
    }

    /// Adds a segment. What it overlaps goes: a read that was pushed back and issued again is read whole, and what the
    /// first attempt left here is out of date.
    #[inline(always)]
    fn push(&mut self, segment: Segment) {
        if !self.segments.is_empty() {
            let (start, end) = (segment.offset, segment.offset + segment.length);
            self.segments
                .retain(|old| old.offset + old.length <= start || end <= old.offset);
        }
        self.segments.push(segment);
    }

    /// The segments in order of offset; clones complete in any order.
    pub fn sort(&mut self) -> &[Segment] {
        // Nearly always one segment, or sorted already.
        if !self.segments.is_sorted_by_key(|segment| segment.offset) {
            self.segments.sort_unstable_by_key(|segment| segment.offset);
        }
        &self.segments
    }

    /// What has been lent, in the order it was lent, or sorted last.
    #[inline]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether the segments, sorted, are all of `length` bytes without a gap: what a read that ended well leaves.
    pub fn covers(&self, length: u32) -> bool {
        let mut end = 0;
        for segment in &self.segments {
            if segment.offset != end {
                return false;
            }
            end += segment.length;
        }
        end == length
    }

    /// Gives everything back; keeps its room.
    #[inline]
    pub fn clear(&mut self) {
        self.segments.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dm::Payload as _;

    #[test]
    fn slices_of_memory_and_of_a_lent_read() {
        let mut bytes = [1u8; 64];
        // SAFETY: `bytes` outlives the payload.
        let memory = unsafe { Payload::new(NonNull::from(&mut bytes).cast(), 64) };
        memory.slice(16, 32).slice(8, 8).fill_zero();
        assert_eq!(&bytes[24..32], &[0; 8]);
        assert_eq!(bytes.iter().filter(|&&byte| byte == 0).count(), 8);

        let mut list = LendList::default();
        let total = 3 * ZEROES_BYTES as u32;
        // SAFETY: `list` outlives the payload and is not touched before the last use of it.
        let lent = unsafe { Payload::lent(NonNull::from(&mut list), total) };
        lent.slice(512, total - 512).fill_zero();
        lent.slice(0, 512).fill_zero();
        list.sort();
        assert!(list.covers(total) && !list.covers(total - 1));
        assert_eq!(list.segments()[1].offset, 512);
    }

    #[test]
    fn what_is_read_again_replaces_what_was_read_before() {
        let mut list = LendList::default();
        // SAFETY: `list` outlives the payload and is not touched before the last use of it.
        let lent = unsafe { Payload::lent(NonNull::from(&mut list), 4096) };
        lent.fill_zero();
        lent.slice(0, 1024).fill_zero();
        lent.slice(1024, 3072).fill_zero();
        assert!(list.covers(4096));
        assert_eq!(list.segments().len(), 2);
    }

    #[test]
    #[should_panic(expected = "a slice lies within its payload")]
    fn a_slice_beyond_the_end_is_refused() {
        // SAFETY: never read or written.
        let _ = unsafe { Payload::new(NonNull::dangling(), 512) }.slice(u32::MAX, 512);
    }

    #[test]
    fn equality_is_of_bytes() {
        let (mut one, mut two) = ([7u8; 512], [7u8; 512]);
        let pair = |one: &mut [u8; 512], two: &mut [u8; 512]| {
            // SAFETY: both outlive the comparison.
            unsafe {
                Payload::new(NonNull::from(one).cast(), 512)
                    .equals(Payload::new(NonNull::from(two).cast(), 512))
            }
        };
        assert!(pair(&mut one, &mut two));
        two[511] = 8;
        assert!(!pair(&mut one, &mut two));
    }
}
