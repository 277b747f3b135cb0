//! `malloc`: memory as a device. Done at once; reads are lent the memory itself.

use std::io;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use super::payload::{Access, Owner, Payload};
use crate::dm::{LowerIo, Op, Status, Submit};

/// Discards of at least this much give whole pages back to the system; smaller ones are only zeroed.
const RELEASE_BYTES_MIN: usize = 64 << 10;

/// Page size that [`Memory::zero`] rounds to. Every Linux page is a multiple of it or the release is simply not done.
const PAGE_BYTES: usize = 4096;

/// The memory of a `malloc` bdev: anonymous, zero until written, not reserved, so that size costs nothing until used.
///
/// Several cores copy from and to it at once without a lock, as DMA to a device would: who reads and writes one block at the same
/// time gets either content, or a mix at the granularity of the copy.
#[derive(Debug)]
pub struct Memory {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the memory is only reached through raw copies that make no claim about other cores' accesses; see the type's text.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps `bytes`.
    ///
    /// # Errors
    /// ENOMEM when the address space or the system's commit limit does not have it.
    pub fn map(bytes: u64) -> io::Result<Memory> {
        let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping; nothing else is affected.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).expect("mmap does not map page 0 unasked");
        Ok(Memory { base, bytes })
    }

    /// `length` bytes from `offset`, which the mapper has checked to lie inside.
    #[inline(always)]
    fn at(&self, offset: u64, length: usize) -> NonNull<u8> {
        assert!(offset as usize <= self.bytes && length <= self.bytes - offset as usize);
        // SAFETY: inside the mapping, as asserted.
        unsafe { self.base.add(offset as usize) }
    }

    fn zero(&self, offset: u64, length: usize) {
        let start = self.at(offset, length).as_ptr();
        let into_page = start as usize % PAGE_BYTES;
        let head = if into_page == 0 {
            0
        } else {
            PAGE_BYTES - into_page
        };
        let pages = length.saturating_sub(head) / PAGE_BYTES * PAGE_BYTES;
        // SAFETY: all ranges lie in start..start+length, which is inside the mapping; private anonymous pages read as zeroes after
        // MADV_DONTNEED.
        unsafe {
            let released = pages >= RELEASE_BYTES_MIN
                && libc::madvise(start.add(head).cast(), pages, libc::MADV_DONTNEED) == 0;
            if released {
                start.write_bytes(0, head);
                start
                    .add(head + pages)
                    .write_bytes(0, length - head - pages);
            } else {
                start.write_bytes(0, length);
            }
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and nobody holds a pointer into it: lent segments hold the memory itself.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// One core's hold on the memory: what its lent segments count, so that lending costs no shared atomic (AT-90).
#[derive(Debug)]
pub struct CoreMemory(Arc<Memory>);

/// A `malloc` bdev on one core.
#[derive(Debug)]
pub struct Malloc {
    memory: Rc<CoreMemory>,
}

impl Malloc {
    /// A core's channel to the memory.
    pub fn new(memory: Arc<Memory>) -> Malloc {
        Malloc {
            memory: Rc::new(CoreMemory(memory)),
        }
    }

    /// Does an I/O, at once. A 4 KiB read that is lent costs a count, a write or copied read its copy.
    #[inline(always)]
    pub fn submit(&mut self, io: &LowerIo<Payload>) -> Submit {
        let offset = io.sector * 512;
        let length = io.sectors as usize * 512;
        match io.op {
            Op::Read => {
                let from = self.memory.0.at(offset, length);
                match io.payload.access() {
                    // SAFETY: by the payload's contract it has room; the memory is checked to have as much.
                    Access::Bytes(to) => unsafe { to.copy_from_nonoverlapping(from, length) },
                    Access::Lend => io.payload.lend(from, Owner::Memory(self.memory.clone())),
                }
            }
            Op::Write => {
                let to = self.memory.0.at(offset, length);
                let Access::Bytes(from) = io.payload.access() else {
                    unreachable!("a write has data")
                };
                // SAFETY: as for a read, the other way round.
                unsafe { to.copy_from_nonoverlapping(from, length) };
            }
            Op::Discard | Op::WriteZeroes => self.memory.0.zero(offset, length),
            Op::Flush => {}
            Op::CompareAndWrite => unreachable!("the mapper does it in steps"),
        }
        Submit::Done(Status::Ok)
    }
}
