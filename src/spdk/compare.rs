//! A host's compare, where SPDK does not tell hosts that one has found a difference: 24.09 does it by a read of its own, and answers "internal error".
//! There a mapped device takes compares itself: what is on it is read to memory of ours, and compared when the mapper has ended the read.

use std::ptr::{NonNull, null_mut};
use std::sync::OnceLock;

use spdk_sys::{iovec, spdk_bdev_io};

use super::core;
use super::module::{self, Published};
use super::passing::Kept;
use super::payload::Payload;
use super::thread::Thread;
use crate::dm::{Op, Payload as _, Status};
use crate::nvme;

/// A page, which is what any device's DMA asks for.
const ALIGNMENT: usize = 4096;

/// Whether SPDK makes NVMe's status of a difference that it has found itself. It is asked, not concluded from its version.
pub(super) fn spdk_tells() -> bool {
    static TELLS: OnceLock<bool> = OnceLock::new();
    *TELLS.get_or_init(|| {
        // SAFETY: integers, and pointers that may be null.
        let mut io: spdk_bdev_io = unsafe { std::mem::zeroed() };
        io.internal.status = spdk_sys::SPDK_BDEV_IO_STATUS_MISCOMPARE as i8;
        let (mut result, mut kind, mut code) = (0, 0, 0);
        // SAFETY: it only looks at the I/O's kind and status.
        unsafe { spdk_sys::spdk_bdev_io_get_nvme_status(&io, &mut result, &mut kind, &mut code) };
        nvme::Status::new(kind as u8, code as u8).is(nvme::Status::COMPARE_FAILURE)
    })
}

/// Has the mapper read what a host's data is to be compared with. How the read has ended, if it has; [`end`] has to follow when it does.
///
/// # Safety
/// `io` is a compare that was just submitted to us in the name of `current`.
pub(super) unsafe fn begin(
    current: Thread,
    published: &Published,
    io: NonNull<spdk_bdev_io>,
) -> Option<Status> {
    // SAFETY: the caller's promise.
    let params = unsafe { &(*io.as_ptr()).u.bdev };
    let bytes = (params.num_blocks << published.shift) * 512;
    // SAFETY: the room is there, and nobody else's.
    let (room, memory) = unsafe {
        let memory = spdk_sys::spdk_dma_malloc(bytes as usize, ALIGNMENT, null_mut());
        let room = room(io.as_ptr());
        room.write(iovec {
            iov_base: memory,
            iov_len: bytes as usize,
        });
        (NonNull::new_unchecked(room), memory)
    };
    let read = module::original(published, io, params, Op::Read, false);
    let (Some(mut read), false) = (read, memory.is_null() || published.is_withdrawn()) else {
        return Some(Status::IoError);
    };
    // SAFETY: what is read to stays until `end`. It is as long as the read, which is one that the mapper can be told of.
    read.payload = unsafe { Payload::new(room, 1, bytes as u32) };
    // No system thread of a reactor's has no core.
    core::submit(current, published.device, read).unwrap_or(Some(Status::IoError))
}

/// How a compare has ended, whose read has ended so.
///
/// # Safety
/// `io` is a compare that [`begin`] was called for, and is not completed.
#[cold]
pub(super) unsafe fn end(io: *mut spdk_bdev_io, read: Status) -> Status {
    // SAFETY: the caller's promise; nothing reads to the memory any more. What the host has sent is as long as what was read.
    unsafe {
        let room = room(io);
        let bytes = (*room).iov_len as u32;
        let params = &(*io).u.bdev;
        let status = match (read, NonNull::new(params.iovs)) {
            (Status::Ok, Some(buffers)) => {
                let found = Payload::new(NonNull::new_unchecked(room), 1, bytes);
                match found.equals(Payload::new(buffers, params.iovcnt as u32, bytes)) {
                    true => Status::Ok,
                    false => Status::Miscompare,
                }
            }
            (Status::Ok, None) => Status::IoError,
            (read, _) => read,
        };
        spdk_sys::spdk_dma_free((*room).iov_base);
        status
    }
}

/// Where we keep the memory of a compare.
///
/// # Safety
/// `io` is of one of our bdevs.
unsafe fn room(io: *mut spdk_bdev_io) -> *mut iovec {
    const { assert!(size_of::<iovec>() <= size_of::<Kept>()) };
    // SAFETY: the room is there: SPDK was told of its size, and aligns it.
    unsafe { (&raw mut (*io).driver_ctx).cast() }
}
