//! Write zeroes that a table, or what is beneath it, does not take: SPDK tells hosts of the command for every bdev that can be written, once and for
//! all, while a table can be swapped for one without. So the mapper is asked, and where it says that it cannot, zeroes are written, portion by
//! portion, and flushed at the end.
//!
//! Each portion is an original of the mapper's, with the tag of the whole: it is parked, pushed back, aborted and ended like any other write. A host's
//! abort or reset meets the portion that is under way, and no further one begins.

use std::ffi::c_int;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering};

use spdk_sys::{iovec, spdk_bdev_io};

use super::core;
use super::module::{self, Published};
use super::payload::Payload;
use super::thread::Thread;
use crate::dm::{Io, Op, Payload as _, Status};

/// Sectors that are written at a time: 1 MiB.
const PORTION: u32 = 2048;

/// The zeroes of a portion, in memory that any device can read; null while SPDK is down.
static ZEROES: AtomicPtr<u8> = AtomicPtr::new(null_mut());

/// What is kept of a write zeroes in the room that SPDK gives a module in each of its I/Os.
pub(super) struct Zeroing {
    step: Step,
    /// A host has aborted it.
    is_aborted: bool,
    /// How often the device had been reset when it came ([`Published::resets`]): once there are more, it is aborted as well.
    resets: u32,
    /// [`ZEROES`], as the mapper is told of it.
    buffer: iovec,
}

/// What the mapper was given last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// All of it, to be done below.
    Whole,
    /// The portion that ends so many sectors from the first.
    Portion(u32),
    Flush,
}

impl Step {
    /// What comes after this one has ended so, of so many sectors; or how it has all ended. What is cut goes on with nothing.
    fn next(self, ended: Status, sectors: u32, is_cut: bool) -> Result<Step, Status> {
        match (self, ended) {
            (Step::Portion(_), _) if is_cut => Err(Status::Aborted),
            (Step::Whole, Status::NotSupported | Status::Target) if is_cut => Err(Status::Aborted),
            // Either is a refusal (IO-29).
            (Step::Whole, Status::NotSupported | Status::Target) => {
                Ok(Step::Portion(PORTION.min(sectors)))
            }
            (Step::Portion(end), Status::Ok) if end < sectors => {
                Ok(Step::Portion(end + PORTION.min(sectors - end)))
            }
            (Step::Portion(_), Status::Ok) => Ok(Step::Flush),
            (_, ended) => Err(ended),
        }
    }
}

/// Gets the zeroes when SPDK begins; SPDK's errno.
pub(super) fn init() -> c_int {
    // SAFETY: SPDK's memory is there when it initialises its modules; a page is what any device's DMA asks for.
    let zeroes = unsafe { spdk_sys::spdk_dma_zmalloc(PORTION as usize * 512, 4096, null_mut()) };
    ZEROES.store(zeroes.cast(), Ordering::Relaxed);
    if zeroes.is_null() { -libc::ENOMEM } else { 0 }
}

/// Gives them back when SPDK ends.
pub(super) unsafe extern "C" fn fini() {
    let zeroes = ZEROES.swap(null_mut(), Ordering::Relaxed);
    // SAFETY: from `init`, and freed once; no I/O is left when SPDK ends its modules.
    unsafe { spdk_sys::spdk_dma_free(zeroes.cast()) };
}

/// Notes that the mapper is given a write zeroes.
///
/// # Safety
/// `io` is one of ours that was just submitted.
pub(super) unsafe fn begin(io: *mut spdk_bdev_io) {
    // SAFETY: the caller's promise; the room is there, and nobody else's.
    unsafe {
        room(io).write(Zeroing {
            step: Step::Whole,
            is_aborted: false,
            resets: Published::of(io).resets(),
            buffer: iovec {
                iov_base: ZEROES.load(Ordering::Relaxed).cast(),
                iov_len: PORTION as usize * 512,
            },
        });
    }
}

/// Cuts an I/O that a host aborts, if it is a write zeroes. True if that ends it as aborted: it is being written, and its portion that is under way is the
/// last.
///
/// # Safety
/// `io` is one of ours that is not completed; this is the system thread that it was submitted on.
pub(super) unsafe fn abort(io: NonNull<spdk_bdev_io>) -> bool {
    // SAFETY: the caller's promise; `begin` has written the room of a write zeroes.
    unsafe {
        if u32::from((*io.as_ptr()).type_) != spdk_sys::SPDK_BDEV_IO_TYPE_WRITE_ZEROES {
            return false;
        }
        let room = &mut *room(io.as_ptr());
        room.is_aborted = true;
        matches!(room.step, Step::Portion(_))
    }
}

/// The mapper has ended what it was given last of a write zeroes: goes on. How all of it has ended, if it has.
///
/// # Safety
/// As for [`module::complete`]; SPDK's current thread is that of the I/O.
#[cold]
pub(super) unsafe fn go_on(io: NonNull<spdk_bdev_io>, mut ended: Status) -> Option<Status> {
    // SAFETY: the caller's promise; `begin` has written the room.
    let (published, params, room, current) = unsafe {
        (
            Published::of(io.as_ptr()),
            &(*io.as_ptr()).u.bdev,
            &mut *room(io.as_ptr()),
            Thread::of_io(io.as_ptr()),
        )
    };
    // As many as fit: the bdev has said what it takes.
    let sectors = (params.num_blocks << published.shift) as u32;
    loop {
        let is_cut = room.is_aborted || room.resets != published.resets();
        room.step = match room.step.next(ended, sectors, is_cut) {
            Ok(_) if published.is_withdrawn() => return Some(Status::IoError),
            Ok(step) => step,
            Err(status) => return Some(status),
        };
        let part = match room.step {
            Step::Portion(end) => {
                let first = (end - 1) / PORTION * PORTION;
                let buffer = NonNull::from(&mut room.buffer);
                // SAFETY: as many zeroes as a portion has; nobody writes to what is to be written.
                let payload = unsafe { Payload::new(buffer, 1, (end - first) * 512) };
                let start = params.offset_blocks << published.shift;
                (Op::Write, start + u64::from(first), end - first, payload)
            }
            _ => (Op::Flush, 0, 0, Payload::empty()),
        };
        let (op, sector, sectors, payload) = part;
        let part = Io {
            tag: module::tag_of(io),
            op,
            fua: false,
            sector,
            sectors,
            payload,
        };
        // Without a core it is answered at once, by this.
        let answer = core::submit(current, published.device, part);
        ended = answer.unwrap_or(Some(Status::IoError))?;
    }
}

/// # Safety
/// `io` is of one of our bdevs.
unsafe fn room(io: *mut spdk_bdev_io) -> *mut Zeroing {
    // SAFETY: the room is there: SPDK was told of its size, and aligns it.
    unsafe { (&raw mut (*io).driver_ctx).cast() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is refused whole is written in portions, the last a shorter one, and flushed; what fails ends it.
    #[test]
    fn each_portion_follows_the_one_before() {
        let sectors = 2 * PORTION + 8;
        let mut step = Step::Whole;
        let mut ended = Status::Target;
        for then in [PORTION, 2 * PORTION, sectors].map(Step::Portion) {
            step = step.next(ended, sectors, false).expect("it goes on");
            assert_eq!(step, then);
            let failed = step.next(Status::IoError, sectors, false);
            assert_eq!(failed, Err(Status::IoError));
            ended = Status::Ok;
        }
        step = step.next(ended, sectors, false).expect("it goes on");
        assert_eq!(step, Step::Flush);
        for last in [Status::Ok, Status::NotSupported] {
            assert_eq!(step.next(last, sectors, false), Err(last));
        }
        let whole = Step::Whole.next(Status::Ok, sectors, false);
        assert_eq!(whole, Err(Status::Ok));
    }

    /// What is cut begins nothing more, however what is under way ends; what was the last step is what it is.
    #[test]
    fn nothing_follows_what_is_cut() {
        let sectors = 2 * PORTION;
        for ended in [Status::Ok, Status::NotSupported, Status::IoError] {
            for portion in [PORTION, sectors].map(Step::Portion) {
                assert_eq!(portion.next(ended, sectors, true), Err(Status::Aborted));
            }
            assert_eq!(Step::Flush.next(ended, sectors, true), Err(ended));
        }
        for refused in [Status::NotSupported, Status::Target] {
            let whole = Step::Whole.next(refused, sectors, true);
            assert_eq!(whole, Err(Status::Aborted));
        }
        for ended in [Status::Ok, Status::IoError] {
            assert_eq!(Step::Whole.next(ended, sectors, true), Err(ended));
        }
    }
}
