//! Per-reactor pools of aligned buffers.
//!
//! Five sizes, each four times the one before: 4 KiB, 16 KiB, 64 KiB, 256 KiB, 1 MiB; every buffer is aligned to 4096 bytes, as direct I/O
//! wants it. Two tiers:
//!
//! - *shelves*: per size, the buffers that were just returned, last in, first out: they are still in the CPU's cache. Taking and
//!   returning is a push and a pop, 4.9 ns for both, and is all there is in steady state.
//! - *chunks* of 1 MiB, got one at a time when there is need ([`ChunkSource`]) and never more than the configured total, and split in four (and
//!   four again) as a buddy allocator does. When memory runs out the shelves are emptied and the quarters joined
//!   again, so that a burst of small buffers does not make large ones unobtainable for ever.
//!
//! Alternative turned down: a free list per size and nothing else. It is simpler, but what a size has mapped once is lost to the others, and the
//! total has to be configured per size.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;

/// Alignment of every buffer in bytes: what direct I/O asks for on any device.
pub const BUFFER_ALIGNMENT: usize = 4096;

/// The largest buffer, in bytes.
pub const BUFFER_BYTES_MAX: usize = 1 << 20;

/// Sizes: `BUFFER_ALIGNMENT << (2 * size)`.
const SIZES: usize = 5;

/// Buffers on one shelf: what a burst of a reactor's deepest queue (1024) returns goes to the chunks beyond this.
const SHELF_BUFFERS: usize = 256;

/// Blocks in a chunk, all sizes counted: 1 + 4 + 16 + 64 + 256. Block 0 is the whole chunk; the quarters of block `b` are `4b + 1 .. 4b + 5`.
const BLOCKS_PER_CHUNK: usize = 341;

const _: () = assert!(BUFFER_ALIGNMENT << (2 * (SIZES - 1)) == BUFFER_BYTES_MAX);

const NONE: u32 = u32::MAX;

/// The size class of the smallest buffer that holds `length` bytes.
#[inline]
fn size_for(length: usize) -> Option<usize> {
    if length > BUFFER_BYTES_MAX {
        return None;
    }
    let pages = length.div_ceil(BUFFER_ALIGNMENT).max(1);
    Some((usize::BITS - (pages - 1).leading_zeros()).div_ceil(2) as usize)
}

#[inline]
fn bytes_of(size: usize) -> usize {
    BUFFER_ALIGNMENT << (2 * size)
}

/// Where the memory of a pool comes from.
#[derive(Clone, Copy, Debug)]
pub struct ChunkSource {
    get: fn() -> Option<NonNull<u8>>,
    give_back: unsafe fn(NonNull<u8>),
}

impl ChunkSource {
    /// Ordinary memory, of the kernel.
    const MAPPED: ChunkSource = ChunkSource {
        get: map,
        give_back: unmap,
    };

    /// A source of its own. `get` may have none; `give_back` is called once for each chunk, on the thread of its pool.
    ///
    /// # Safety
    /// A chunk is [`BUFFER_BYTES_MAX`] initialised bytes, aligned to [`BUFFER_ALIGNMENT`], which are nobody else's until they are given back. `give_back`
    /// is sound for whatever `get` has returned.
    pub const unsafe fn new(
        get: fn() -> Option<NonNull<u8>>,
        give_back: unsafe fn(NonNull<u8>),
    ) -> ChunkSource {
        ChunkSource { get, give_back }
    }
}

fn map() -> Option<NonNull<u8>> {
    // SAFETY: an anonymous mapping at an address of the kernel's choice; the result is checked.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            BUFFER_BYTES_MAX,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return None;
    }
    NonNull::new(base.cast())
}

/// # Safety
/// `base` was mapped by [`map`], and nobody uses it any more.
unsafe fn unmap(base: NonNull<u8>) {
    // SAFETY: the caller's promise: mapped with this length.
    unsafe { libc::munmap(base.as_ptr().cast(), BUFFER_BYTES_MAX) };
}

/// One block of a chunk, at any level.
#[derive(Clone, Copy)]
struct Block {
    /// In its size's list of free blocks.
    next: u32,
    previous: u32,
    free: bool,
}

/// The memory, and which parts of it are free.
struct Chunks {
    source: ChunkSource,
    bases: Vec<NonNull<u8>>,
    chunks_max: usize,
    /// [`BLOCKS_PER_CHUNK`] per chunk, in the order of `bases`.
    blocks: Vec<Block>,
    /// Per size: the first free block.
    free: [u32; SIZES],
}

impl Chunks {
    fn grow(&mut self) -> bool {
        if self.bases.len() == self.chunks_max {
            return false;
        }
        let Some(base) = (self.source.get)() else {
            return false;
        };
        debug_assert!(base.addr().get().is_multiple_of(BUFFER_ALIGNMENT));
        let first = self.blocks.len() as u32;
        self.bases.push(base);
        self.blocks.extend(std::iter::repeat_n(
            Block {
                next: NONE,
                previous: NONE,
                free: false,
            },
            BLOCKS_PER_CHUNK,
        ));
        self.link(first, SIZES - 1);
        true
    }

    fn link(&mut self, block: u32, size: usize) {
        let next = self.free[size];
        self.blocks[block as usize] = Block {
            next,
            previous: NONE,
            free: true,
        };
        if next != NONE {
            self.blocks[next as usize].previous = block;
        }
        self.free[size] = block;
    }

    fn unlink(&mut self, block: u32, size: usize) {
        let Block {
            next,
            previous,
            free,
        } = self.blocks[block as usize];
        debug_assert!(free);
        self.blocks[block as usize].free = false;
        if next != NONE {
            self.blocks[next as usize].previous = previous;
        }
        match previous {
            NONE => self.free[size] = next,
            previous => self.blocks[previous as usize].next = next,
        }
    }

    /// A free block of that size, split off a larger one or of a new chunk.
    fn take(&mut self, size: usize) -> Option<u32> {
        loop {
            let found = (size..SIZES).find(|&size| self.free[size] != NONE);
            let Some(mut level) = found else {
                if self.grow() {
                    continue;
                }
                return None;
            };
            let mut block = self.free[level];
            self.unlink(block, level);
            while level > size {
                let (chunk, index) = split_index(block);
                let first = chunk + 4 * index + 1;
                level -= 1;
                for quarter in 1..4 {
                    self.link(first + quarter, level);
                }
                block = first;
            }
            return Some(block);
        }
    }

    /// Takes a block back, and joins quarters as long as all four are free.
    fn give(&mut self, mut block: u32, mut size: usize) {
        loop {
            assert!(!self.blocks[block as usize].free, "returned twice");
            self.link(block, size);
            let (chunk, index) = split_index(block);
            if index == 0 {
                return;
            }
            let parent = (index - 1) / 4;
            let quarters = (1..5).map(|quarter| chunk + 4 * parent + quarter);
            if !quarters
                .clone()
                .all(|quarter| self.blocks[quarter as usize].free)
            {
                return;
            }
            for quarter in quarters {
                self.unlink(quarter, size);
            }
            block = chunk + parent;
            size += 1;
        }
    }

    fn address(&self, block: u32, size: usize) -> NonNull<u8> {
        let chunk = block as usize / BLOCKS_PER_CHUNK;
        let index = block as usize % BLOCKS_PER_CHUNK;
        // Blocks of a size follow each other; the first is behind all the larger ones: (4^level - 1) / 3 of them.
        let level = SIZES - 1 - size;
        let first = ((1 << (2 * level)) - 1) / 3;
        let offset = (index - first) * bytes_of(size);
        // SAFETY: `offset` is within the chunk: the block's index is below `first + 4^level`, and 4^level blocks of this size make up
        // the chunk.
        unsafe { self.bases[chunk].add(offset) }
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        for base in &self.bases {
            // SAFETY: got of this source; every buffer is gone, because each holds a reference to the pool.
            unsafe { (self.source.give_back)(*base) };
        }
    }
}

/// A block's chunk (its first block) and its index there.
#[inline]
fn split_index(block: u32) -> (u32, u32) {
    let index = block % BLOCKS_PER_CHUNK as u32;
    (block - index, index)
}

#[derive(Clone, Copy)]
struct Piece {
    address: NonNull<u8>,
    block: u32,
}

struct Inner {
    shelves: [Vec<Piece>; SIZES],
    chunks: Chunks,
    bytes_taken: usize,
}

/// Buffers of one reactor: a handle, cheap to clone. Not `Send`; neither are its buffers.
#[derive(Clone)]
pub struct BufferPool {
    inner: Rc<RefCell<Inner>>,
}

impl BufferPool {
    /// A pool that maps at most `bytes_max`, rounded down to whole mebibytes. Nothing is mapped yet.
    pub fn new(bytes_max: usize) -> BufferPool {
        BufferPool::of(ChunkSource::MAPPED, bytes_max)
    }

    /// The same, of memory from another source.
    pub fn of(source: ChunkSource, bytes_max: usize) -> BufferPool {
        BufferPool {
            inner: Rc::new(RefCell::new(Inner {
                shelves: std::array::from_fn(|_| Vec::with_capacity(SHELF_BUFFERS)),
                chunks: Chunks {
                    source,
                    bases: Vec::new(),
                    chunks_max: (bytes_max / BUFFER_BYTES_MAX)
                        .min(u32::MAX as usize / BLOCKS_PER_CHUNK),
                    blocks: Vec::new(),
                    free: [NONE; SIZES],
                },
                bytes_taken: 0,
            })),
        }
    }

    /// A buffer of at least `length` bytes, with whatever was in it before. `None` if there is none now, which is back-pressure: try again
    /// when one has been returned. Never for `length` above [`BUFFER_BYTES_MAX`].
    #[inline]
    pub fn take(&self, length: usize) -> Option<PoolBuffer> {
        let size = size_for(length)?;
        let mut inner = self.inner.borrow_mut();
        let piece = match inner.shelves[size].pop() {
            Some(piece) => piece,
            None => inner.fetch(size)?,
        };
        inner.bytes_taken += bytes_of(size);
        drop(inner);
        Some(PoolBuffer {
            piece,
            size: size as u8,
            pool: self.clone(),
        })
    }

    /// Bytes of buffers that are out.
    pub fn bytes_taken(&self) -> usize {
        self.inner.borrow().bytes_taken
    }

    /// Bytes mapped. They stay mapped for the life of the pool.
    pub fn bytes_mapped(&self) -> usize {
        self.inner.borrow().chunks.bases.len() * BUFFER_BYTES_MAX
    }
}

impl Inner {
    #[cold]
    fn fetch(&mut self, size: usize) -> Option<Piece> {
        let block = match self.chunks.take(size) {
            Some(block) => block,
            None => {
                self.clear_shelves();
                self.chunks.take(size)?
            }
        };
        Some(Piece {
            address: self.chunks.address(block, size),
            block,
        })
    }

    fn clear_shelves(&mut self) {
        for size in 0..SIZES {
            while let Some(piece) = self.shelves[size].pop() {
                self.chunks.give(piece.block, size);
            }
        }
    }
}

/// A buffer; goes back to its pool when dropped.
pub struct PoolBuffer {
    piece: Piece,
    size: u8,
    pool: BufferPool,
}

impl PoolBuffer {
    /// Where it is. Aligned to [`BUFFER_ALIGNMENT`]; stays there until the buffer is dropped, however the handle is moved.
    #[inline]
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.piece.address.as_ptr()
    }

    /// Bytes of it: at least what was asked for.
    #[inline]
    pub fn capacity(&self) -> usize {
        bytes_of(self.size as usize)
    }
}

impl std::fmt::Debug for PoolBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolBuffer")
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

impl Deref for PoolBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the chunk is valid for `capacity` initialised bytes while the pool lives, and nobody else has
        // this block.
        unsafe { std::slice::from_raw_parts(self.as_mut_ptr(), self.capacity()) }
    }
}

impl DerefMut for PoolBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.capacity()) }
    }
}

impl Drop for PoolBuffer {
    #[inline]
    fn drop(&mut self) {
        let size = self.size as usize;
        let mut inner = self.pool.inner.borrow_mut();
        inner.bytes_taken -= bytes_of(size);
        if inner.shelves[size].len() < SHELF_BUFFERS {
            inner.shelves[size].push(self.piece);
        } else {
            inner.chunks.give(self.piece.block, size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_smallest_size_that_holds_it() {
        for (length, size) in [
            (0, 0),
            (1, 0),
            (4096, 0),
            (4097, 1),
            (16384, 1),
            (16385, 2),
            (65536, 2),
            (65537, 3),
            (262_144, 3),
            (262_145, 4),
            (1 << 20, 4),
        ] {
            assert_eq!(size_for(length), Some(size), "{length}");
        }
        assert_eq!(size_for((1 << 20) + 1), None);
    }

    /// What small buffers had split is there again for a large one, once they are back.
    #[test]
    fn memory_moves_between_sizes() {
        let pool = BufferPool::new(1 << 20);
        let small: Vec<_> = (0..256).map(|_| pool.take(4096).expect("room")).collect();
        assert!(pool.take(1).is_none());
        assert!(pool.take(1 << 20).is_none());
        drop(small);
        let large = pool.take(1 << 20).expect("joined again");
        assert!(pool.take(1).is_none());
        drop(large);
        assert_eq!(pool.bytes_taken(), 0);
        assert_eq!(pool.bytes_mapped(), 1 << 20);
    }

    proptest! {
        /// Any order of taking and returning: buffers are aligned, large enough, never overlap, never exceed the total, and all come back.
        #[test]
        fn buffers_do_not_overlap(steps in prop::collection::vec((0usize..3, 0usize..(1 << 20) + 2, any::<usize>()), 1..300)) {
            let total = 3 << 20;
            let pool = BufferPool::new(total);
            let mut out: Vec<(PoolBuffer, u8)> = Vec::new();
            for (number, (kind, length, which)) in steps.into_iter().enumerate() {
                if kind == 0 && !out.is_empty() {
                    let (buffer, mark) = out.swap_remove(which % out.len());
                    // Nobody wrote into it meanwhile.
                    prop_assert_eq!(buffer[0], mark);
                    prop_assert_eq!(buffer[buffer.capacity() - 1], mark);
                    continue;
                }
                // Mostly small ones.
                let length = if kind == 1 { length >> 6 } else { length };
                let Some(mut buffer) = pool.take(length) else {
                    prop_assert!(length > BUFFER_BYTES_MAX || pool.bytes_taken() > 0);
                    continue;
                };
                prop_assert!(buffer.capacity() >= length);
                prop_assert_eq!(buffer.as_mut_ptr() as usize % BUFFER_ALIGNMENT, 0);
                let mark = number as u8;
                let last = buffer.capacity() - 1;
                buffer[0] = mark;
                buffer[last] = mark;
                let start = buffer.as_mut_ptr() as usize;
                for (other, _) in &out {
                    let other_start = other.as_mut_ptr() as usize;
                    prop_assert!(start + buffer.capacity() <= other_start || other_start + other.capacity() <= start);
                }
                out.push((buffer, mark));
                prop_assert!(pool.bytes_taken() <= pool.bytes_mapped());
                prop_assert!(pool.bytes_mapped() <= total);
            }
            drop(out);
            prop_assert_eq!(pool.bytes_taken(), 0);
            // All of it can be joined again.
            let whole: Vec<_> = (0..3).map(|_| pool.take(1 << 20)).collect();
            prop_assert!(whole.iter().all(Option::is_some));
        }
    }
}
