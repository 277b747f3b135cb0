//! The memory of a malloc device.

use super::error::Error;
use super::handle::Handle;
use std::ptr::NonNull;

/// Address space kept for growth: a device can become this many times as large without moving. Address space is plenty (128 TiB) and costs
/// nothing; moving would pull the memory from under what has been lent.
const GROWTH_FACTOR: usize = 8;

/// And at least this much.
const GROWTH_BYTES_MIN: usize = 64 << 30;

/// Memory shared by all reactors, read and written by them at once as a disk's would be by DMA.
///
/// Only raw pointers reach into it, never references. Two I/Os that race for the same bytes leave some mixture there, which is what
/// hosts get of any disk (PM-8 and NVMe's AWUN speak of single commands only); what they cannot do is reach outside.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    reserved_bytes: usize,
}

// SAFETY: plain memory at a fixed address; the type gives out nothing but raw pointers, whose users answer for what they do.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Reads as zeroes. Pages are taken from the system when they are first written.
    pub(super) fn new(bytes: u64) -> Result<Region, Error> {
        let fail = |error| Error::Memory { bytes, error };
        let wanted = usize::try_from(bytes)
            .ok()
            .filter(|&wanted| wanted <= isize::MAX as usize)
            .ok_or_else(|| fail(std::io::Error::from_raw_os_error(libc::ENOMEM)))?;
        let roomy = wanted.saturating_mul(GROWTH_FACTOR).max(GROWTH_BYTES_MIN);
        // With little address space (ulimit -v, overcommit_memory=2) there is no growing, but there is a device.
        let map = |length: usize| {
            // SAFETY: an anonymous mapping at an address of the kernel's choice; the result is checked.
            let base = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    length,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                    -1,
                    0,
                )
            };
            if base == libc::MAP_FAILED {
                return None;
            }
            // Huge pages where the system has them on request: random 4 KiB reads and writes then miss the TLB no more, which is worth
            // 10 to 15 % of what the target can do (docs/performance.md). A system without them says no, and nothing is lost.
            // SAFETY: advice on the mapping that was just made.
            unsafe { libc::madvise(base, length, libc::MADV_HUGEPAGE) };
            NonNull::new(base.cast::<u8>()).map(|base| Region {
                base,
                reserved_bytes: length,
            })
        };
        map(roomy)
            .or_else(|| map(wanted))
            .ok_or_else(|| fail(std::io::Error::last_os_error()))
    }

    /// Where byte `offset` is.
    ///
    /// # Panics
    /// If the range is not within the region.
    #[inline(always)]
    pub(super) fn at(&self, offset: u64, length: usize) -> *mut u8 {
        let end = (offset as usize).checked_add(length);
        assert!(
            end.is_some_and(|end| end <= self.reserved_bytes),
            "an I/O lies within its device"
        );
        // SAFETY: within the mapping, as just asserted.
        unsafe { self.base.add(offset as usize).as_ptr() }
    }

    pub(super) fn reserved_bytes(&self) -> u64 {
        self.reserved_bytes as u64
    }

    /// Zeroes a range; whole pages go back to the system, so that a discard frees memory.
    pub(super) fn zero(&self, offset: u64, length: usize) {
        const PAGE: usize = 4096;
        let start = self.at(offset, length) as usize;
        let end = start + length;
        let (first, last) = (start.next_multiple_of(PAGE), end & !(PAGE - 1));
        let fill = |from: usize, to: usize| {
            // SAFETY: part of the range, which is within the mapping; racing I/O is the type's contract.
            unsafe { (from as *mut u8).write_bytes(0, to - from) }
        };
        if first >= last {
            return fill(start, end);
        }
        fill(start, first);
        fill(last, end);
        // SAFETY: whole pages of our own anonymous mapping, which read as zeroes afterwards; what was lent stays mapped.
        let result = unsafe {
            libc::madvise(
                first as *mut libc::c_void,
                last - first,
                libc::MADV_DONTNEED,
            )
        };
        if result != 0 {
            // Locked memory (mlockall) cannot be given back.
            fill(first, last);
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped with this length, and nobody has a pointer into it: channels and lent segments hold a handle.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.reserved_bytes) };
    }
}

/// One reactor's hold on a [`Region`].
pub type RegionHandle = Handle<Region>;
