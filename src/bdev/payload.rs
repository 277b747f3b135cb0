//! The bytes of an I/O in the native engine: memory that the submitter supplies, or memory that the device lends.
//!
//! # Lending
//!
//! Most reads end in a socket, so copying them into a buffer first would be waste. A read whose payload is a [`LendList`]
//! supplies no memory: the device pushes [`Segment`]s that say where the data already is, and that keep it there until they are
//! dropped. Alternative turned down: a payload that owns its segments; it could not be `Copy`, and the mapper would have to
//! carry and combine what it never looks at.

use crate::dm;
use crate::reactor::{BufferPool, PoolBuffer};
use std::ptr::NonNull;
use std::rc::Rc;

use super::SECTOR_BYTES;
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

    /// Changes one byte of what a read has brought, and of nothing else: the part around a byte that a device has lent from its own memory
    /// is replaced by a copy. False if there is no buffer for that in `buffers` now.
    ///
    /// # Panics
    /// If the read has not brought that byte.
    pub(crate) fn tamper(self, offset: u32, value: u8, buffers: &BufferPool) -> bool {
        assert!(offset < self.length, "a byte of the payload is changed");
        match self.place {
            Place::Memory(bytes) => {
                // SAFETY: the constructor's promise: valid for writes until completion, and the byte lies within, as just asserted.
                unsafe { bytes.add(offset as usize).write(value) };
                true
            }
            Place::Lend(mut list, before) => {
                // SAFETY: the constructor's promise: the list is valid and nobody else's until completion.
                let list = unsafe { list.as_mut() };
                list.tamper(before + offset, value, buffers)
            }
        }
    }

    /// Answers a read with the bytes of `from`, which is memory and as long: they are copied to the submitter's memory, or to a buffer that is
    /// lent. False if there is none in `buffers` now.
    ///
    /// # Panics
    /// If the lengths differ, or `from` is a lending read.
    pub(crate) fn fill(self, from: Payload, buffers: &BufferPool) -> bool {
        match self.place {
            Place::Memory(_) => {
                dm::Payload::copy_from(self, from);
                true
            }
            Place::Lend(..) => {
                let Some(buffer) = buffers.take(self.length as usize) else {
                    return false;
                };
                let bytes = NonNull::new(buffer.as_mut_ptr()).expect("a buffer has an address");
                // SAFETY: a new buffer of that length, which nobody else has.
                let copy = unsafe { Payload::new(bytes, self.length) };
                dm::Payload::copy_from(copy, from);
                // SAFETY: the buffer's owner is lent with it.
                unsafe { self.lend_bytes(buffer.as_mut_ptr(), Owner::Buffer(buffer)) };
                true
            }
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

    fn copy_from(self, written: Payload) {
        assert_eq!(self.length, written.length, "copies as much as there is");
        let (Some(target), Some(source)) = (self.as_memory(), written.as_memory()) else {
            panic!("a write, and a private buffer, are memory");
        };
        // SAFETY: the constructor's promise, for both: valid for their length until completion, and two I/Os never share memory.
        unsafe { target.copy_from_nonoverlapping(source, self.length as usize) };
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
    /// It is what is left around a part that was replaced.
    Shared(Rc<Owner>),
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

    /// Replaces the sector around a byte by a copy in which the byte is another; false if there is no buffer for it. A segment that is
    /// a buffer of the reactor already is nobody else's, but is copied as well: this is for tests, and one way is enough.
    #[cold]
    fn tamper(&mut self, offset: u32, value: u8, buffers: &BufferPool) -> bool {
        let holds =
            |segment: &Segment| (segment.offset..segment.offset + segment.length).contains(&offset);
        let index = self
            .segments
            .iter()
            .position(holds)
            .expect("a read that ended well was lent whole");
        let Some(mut copy) = buffers.take(SECTOR_BYTES as usize) else {
            return false;
        };
        let segment = self.segments.swap_remove(index);
        let within = offset - segment.offset;
        let start = within - within % SECTOR_BYTES as u32;
        let length = (SECTOR_BYTES as u32).min(segment.length - start);
        // SAFETY: within the segment, whose owner keeps it readable; nobody else has the new buffer.
        unsafe {
            let source = segment.bytes.add(start as usize);
            copy.as_mut_ptr()
                .copy_from_nonoverlapping(source, length as usize);
        }
        copy[(within - start) as usize] = value;
        let end = start + length;
        let owner = Rc::new(segment.owner);
        for (from, to) in [(0, start), (end, segment.length)] {
            if from < to {
                self.segments.push(Segment {
                    offset: segment.offset + from,
                    length: to - from,
                    // SAFETY: within the segment.
                    bytes: unsafe { segment.bytes.add(from as usize) },
                    owner: Owner::Shared(Rc::clone(&owner)),
                });
            }
        }
        self.segments.push(Segment {
            offset: segment.offset + start,
            length,
            bytes: copy.as_mut_ptr(),
            owner: Owner::Buffer(copy),
        });
        true
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

    /// One byte of what a device has lent is changed: the reader sees it, the device does not, and the rest is as it was.
    #[test]
    fn a_lent_byte_is_changed_for_the_reader_only() {
        let pool = BufferPool::new(1 << 20);
        let device: Vec<u8> = (0..4096u32).map(|n| (n % 251) as u8).collect();
        let mut list = LendList::default();
        // SAFETY: `list` outlives the payload and is not touched before the last use of it.
        let lent = unsafe { Payload::lent(NonNull::from(&mut list), 8192) };
        for half in [0, 4096] {
            // SAFETY: `device` outlives what is lent.
            unsafe {
                lent.slice(half, 4096)
                    .lend_bytes(device.as_ptr(), Owner::Static)
            };
        }
        let mut expected = [device.clone(), device.clone()].concat();
        let second = lent.slice(4096, 4096);
        for (offset, value) in [(0, 255), (4095, 254), (1024, 253), (1025, 252)] {
            assert!(second.tamper(offset, value, &pool));
            expected[4096 + offset as usize] = value;
        }
        let none = BufferPool::new(0);
        assert!(!second.tamper(7, 9, &none), "no memory, no change");
        list.sort();
        assert!(list.covers(8192));
        let mut read = Vec::new();
        for segment in list.segments() {
            // SAFETY: valid as long as the segment.
            let bytes =
                unsafe { std::slice::from_raw_parts(segment.as_ptr(), segment.length as usize) };
            read.extend_from_slice(bytes);
        }
        assert_eq!(read, expected);
        assert!(
            device
                .iter()
                .zip(0u32..)
                .all(|(byte, n)| *byte == (n % 251) as u8)
        );
        list.clear();
        assert_eq!(pool.bytes_taken(), 0);
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
