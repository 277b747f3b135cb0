//! Reads and writes that pass: what the mapper has to know of them again is kept in the SPDK I/O itself, they are submitted in the name of the thread that
//! they came from, and answered from there. Neither a slot of the mapper's nor a change of SPDK's current thread is in their way.
//!
//! These are the reads and writes that are one piece for a target that only computes where it goes (`dm::Mapper::pass`). All others, and these
//! when they fail, go by the mapper's slots (`core.rs`).

use std::ffi::c_void;
use std::ptr::NonNull;

use spdk_sys::spdk_bdev_io;

use super::core;
use super::lower::{Channel, failure};
use super::module::{self, Published};
use super::payload::Payload;
use super::thread::Thread;
use crate::dm::{DeviceId, Io, Op, Passing};

/// What is kept in the room that SPDK gives a module at the end of each of its I/Os.
#[derive(Clone, Copy)]
pub(super) struct Kept {
    pub passing: Passing,
    pub channel: Channel,
}

/// # Safety
/// `io` is of one of our bdevs.
#[inline(always)]
unsafe fn kept(io: *mut spdk_bdev_io) -> *mut Kept {
    // SAFETY: the room is there: SPDK was told of its size, and aligns it.
    unsafe { (&raw mut (*io).driver_ctx).cast() }
}

/// An I/O that was let through, and is not completed.
pub(super) struct Passed {
    pub io: NonNull<spdk_bdev_io>,
    pub device: DeviceId,
    pub op: Op,
    pub sectors: u32,
    pub kept: Kept,
}

impl Passed {
    /// # Safety
    /// The I/O was let through, and is not completed.
    #[inline(always)]
    pub unsafe fn of(io: NonNull<spdk_bdev_io>) -> Passed {
        // SAFETY: the caller's promise: it is there, of one of our bdevs, and was written to when it was let through.
        unsafe {
            let published = Published::of(io.as_ptr());
            let op = match u32::from((*io.as_ptr()).type_) {
                spdk_sys::SPDK_BDEV_IO_TYPE_READ => Op::Read,
                _ => Op::Write,
            };
            Passed {
                io,
                device: published.device,
                op,
                sectors: ((*io.as_ptr()).u.bdev.num_blocks << published.shift) as u32,
                kept: kept(io.as_ptr()).read(),
            }
        }
    }

    /// The original that it is.
    pub fn original(&self) -> Io<Payload> {
        // SAFETY: as for `of`, which has made this.
        let (published, params) =
            unsafe { (Published::of(self.io.as_ptr()), &(*self.io.as_ptr()).u.bdev) };
        module::original(published, self.io, params, self.op, false)
            .expect("its length was looked at when it came")
    }
}

/// Lets a read, or a write without force-unit-access, through. False if it has to be submitted to the mapper.
///
/// # Safety
/// `io` was submitted to us in the name of `current`, which is SPDK's current thread, has its buffers, and is not completed.
#[inline(always)]
pub(super) unsafe fn pass(current: Thread, io: *mut spdk_bdev_io, op: Op) -> bool {
    // SAFETY: the caller's promise.
    let (published, params) = unsafe { (Published::of(io), &(*io).u.bdev) };
    let Ok(sectors) = u32::try_from(params.num_blocks << published.shift) else {
        return false;
    };
    let (device, sector) = (published.taker(), params.offset_blocks << published.shift);
    let Some((below, sector, to_keep)) = core::pass(current, device, op, sector, sectors) else {
        return false;
    };
    // SAFETY: the I/O is ours, and so is its room.
    unsafe { kept(io).write(to_keep) };
    let offset = sector >> below.block_shift;
    let blocks = u64::from(sectors) >> below.block_shift;
    let (buffers, argument) = (params.iovs, io.cast::<c_void>());
    let (descriptor, channel) = (below.descriptor, below.channel);
    // SAFETY: the descriptor is open, and so is the channel, which is of the current thread; the range was checked against the table, and SPDK checks
    // it against the bdev; the buffers are the host's until the I/O completes.
    let result = unsafe {
        match (op, params.iovcnt) {
            (Op::Read, 1) => spdk_sys::spdk_bdev_read_blocks(
                descriptor,
                channel,
                (*buffers).iov_base,
                offset,
                blocks,
                Some(ended),
                argument,
            ),
            (_, 1) => spdk_sys::spdk_bdev_write_blocks(
                descriptor,
                channel,
                (*buffers).iov_base,
                offset,
                blocks,
                Some(ended),
                argument,
            ),
            (_, count) => {
                let submit = match op {
                    Op::Read => spdk_sys::spdk_bdev_readv_blocks,
                    _ => spdk_sys::spdk_bdev_writev_blocks,
                };
                submit(
                    descriptor,
                    channel,
                    buffers,
                    count,
                    offset,
                    blocks,
                    Some(ended),
                    argument,
                )
            }
        }
    };
    if result != 0 {
        // No room, or something that the mapper knows what to make of. What was kept is read again, so that it is nowhere else meanwhile.
        // SAFETY: as above.
        core::turned_back(device, unsafe { kept(io).read() });
    }
    result == 0
}

/// SPDK has finished what was let through; on the thread that submitted it.
unsafe extern "C" fn ended(below: *mut spdk_bdev_io, success: bool, argument: *mut c_void) {
    // SAFETY: the I/O below has completed, and is freed once; the argument is the I/O that was let through, which waits for this.
    unsafe {
        let io = NonNull::new_unchecked(argument.cast::<spdk_bdev_io>());
        if !success {
            let status = failure(below);
            spdk_sys::spdk_bdev_free_io(below);
            return core::stopped(io, status);
        }
        spdk_sys::spdk_bdev_free_io(below);
        if core::passed(Passed::of(io)) {
            spdk_sys::spdk_bdev_io_complete(io.as_ptr(), spdk_sys::SPDK_BDEV_IO_STATUS_SUCCESS);
        }
    }
}
