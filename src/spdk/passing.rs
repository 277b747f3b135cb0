//! Reads and writes that pass: what the mapper has to know of them again is kept in the SPDK I/O itself, they are submitted in the name of the thread that
//! they came from, and answered from there. Neither a slot of the mapper's nor a change of SPDK's current thread is in their way; nor is the mapper itself, where
//! the channel that they come by knows theirs (`dm/lane.rs`).
//!
//! These are the reads and writes that are one piece for a target that only computes where it goes (`dm::Mapper::pass`). All others, and these
//! when they fail, go by the mapper's slots (`core.rs`).

use std::ffi::c_void;
use std::ptr::NonNull;
use std::rc::Rc;

use spdk_sys::{spdk_bdev_desc, spdk_bdev_io, spdk_io_channel};

use super::core;
use super::lower::{Lower, Open, failure};
use super::module::{self, Published};
use super::thread::Thread;
use crate::dm::{self, DeviceId, Env as _, Lane, Mapper, Op, Passing, Status, Way};

/// What is kept in a channel of ours, for the thread that it is of: only touched on that.
pub(super) struct Own {
    pub thread: Thread,
    known: Option<Known>,
}

/// The way that I/O of a channel took last.
struct Known {
    /// In blocks.
    way: Way,
    /// Where it leads.
    open: Rc<Open>,
    /// Blocks to sectors, above and below: a shift to the left.
    shift: u32,
}

/// What is kept in the room that SPDK gives a module at the end of each of its I/Os.
#[derive(Clone, Copy)]
pub(super) struct Kept {
    passing: Passing,
    /// Where the I/O is counted in.
    lane: NonNull<Lane>,
    /// Where it was submitted, and is counted in as well.
    open: NonNull<Open>,
    sectors: u32,
    op: Op,
}

/// Where an I/O that passes is to be submitted.
pub(super) struct Passage {
    descriptor: *mut spdk_bdev_desc,
    channel: NonNull<spdk_io_channel>,
    below: Below,
    kept: Kept,
}

/// What an I/O is there.
struct Below {
    op: Op,
    block: u64,
    blocks: u64,
    /// How many sectors that is.
    sectors: u32,
}

impl Own {
    pub fn new(thread: Thread) -> Own {
        Own {
            thread,
            known: None,
        }
    }

    /// Counts an I/O in that goes the way that was taken last.
    #[inline(always)]
    fn along(&self, op: Op, block: u64, blocks: u64, now_ns: u64) -> Option<Passage> {
        let Known { way, open, shift } = self.known.as_ref()?;
        let below = Below {
            op,
            block: way.leads(block, blocks)?,
            blocks,
            sectors: (blocks << shift) as u32,
        };
        self.enter(open, way.lane(), below, now_ns)
    }

    /// Counts an I/O in that goes another way, which others may take from now on. `None` if the thread has no channel to what it leads to (yet).
    #[inline(always)]
    pub fn by(
        &mut self,
        passage: &dm::Passage<impl Copy>,
        open: &Rc<Open>,
        now_ns: u64,
        io: &Plain,
    ) -> Option<Passage> {
        if !open.admits(self.thread) {
            return None;
        }
        let below = Below {
            op: io.op,
            block: passage.sector >> open.block_shift,
            blocks: u64::from(io.sectors) >> open.block_shift,
            sectors: io.sectors,
        };
        let entered = self.enter(open, passage.lane, below, now_ns);
        if let Some(way) = passage.way() {
            self.know(way, open, io.shift);
        }
        entered
    }

    #[inline(always)]
    fn enter(
        &self,
        open: &Rc<Open>,
        lane: &Rc<Lane>,
        below: Below,
        now_ns: u64,
    ) -> Option<Passage> {
        Some(Passage {
            descriptor: open.descriptor,
            channel: open.passage(self.thread)?,
            kept: Kept {
                passing: lane.enter(now_ns),
                lane: NonNull::from(&**lane),
                open: NonNull::from(&**open),
                sectors: below.sectors,
                op: below.op,
            },
            below,
        })
    }

    /// Has I/O that comes next go the same way. Where blocks are of two sizes each is looked for.
    #[cold]
    fn know(&mut self, way: Way, open: &Rc<Open>, shift: u32) {
        let way = way.in_blocks(shift).filter(|_| open.block_shift == shift);
        self.known = way.map(|way| Known {
            way,
            open: open.clone(),
            shift,
        });
    }
}

/// A read, or a write without force-unit-access, in sectors.
pub(super) struct Plain {
    pub device: DeviceId,
    pub op: Op,
    pub sector: u64,
    pub sectors: u32,
    /// Blocks to sectors: a shift to the left.
    shift: u32,
}

impl Plain {
    /// `None` for one that is larger than the mapper can be told of.
    ///
    /// # Safety
    /// `io` was submitted to one of our bdevs, and is not completed.
    #[inline(always)]
    unsafe fn of(io: *mut spdk_bdev_io, op: Op) -> Option<Plain> {
        // SAFETY: the caller's promise.
        let (published, params) = unsafe { (Published::of(io), &(*io).u.bdev) };
        let shift = published.shift;
        Some(Plain {
            device: published.taker(),
            op,
            sector: params.offset_blocks << shift,
            sectors: u32::try_from(params.num_blocks << shift).ok()?,
            shift,
        })
    }
}

/// # Safety
/// `io` is of one of our bdevs.
#[inline(always)]
unsafe fn kept(io: *mut spdk_bdev_io) -> *mut Kept {
    // SAFETY: the room is there: SPDK was told of its size, and aligns it.
    unsafe { (&raw mut (*io).driver_ctx).cast() }
}

impl Kept {
    #[inline(always)]
    fn open(&self) -> &Open {
        // SAFETY: what counts the I/O is not let go before it is counted out.
        unsafe { self.open.as_ref() }
    }

    #[inline(always)]
    fn lane(&self) -> &Lane {
        // SAFETY: as above.
        unsafe { self.lane.as_ref() }
    }

    /// Counts the I/O out, which went well.
    #[inline(always)]
    fn leave(&self, now_ns: u64) {
        self.open().ended();
        self.lane()
            .leave(self.op, self.sectors, &self.passing, now_ns);
    }
}

/// An I/O that was let through, and is not completed.
pub(super) struct Passed {
    io: NonNull<spdk_bdev_io>,
    kept: Kept,
}

impl Passed {
    /// # Safety
    /// The I/O was let through, and is not completed.
    pub unsafe fn of(io: NonNull<spdk_bdev_io>) -> Passed {
        // SAFETY: the caller's promise: it is there, of one of our bdevs, and was written to when it was let through.
        let kept = unsafe { kept(io.as_ptr()).read() };
        Passed { io, kept }
    }

    /// Tells the mapper how it ended, with nobody else in.
    pub fn end(&self, mapper: &mut Mapper<Lower>, lower: &mut Lower, status: Status) {
        // SAFETY: as for `of`, which has made this.
        let published = unsafe { Published::of(self.io.as_ptr()) };
        let device = published.device;
        if status.is_ok() {
            self.kept.leave(lower.now_ns);
            if self.kept.lane().is_draining() {
                mapper.left(lower, device);
            }
            return lower.complete(module::tag_of(self.io), status);
        }
        self.kept.open().ended();
        // SAFETY: as above.
        let params = unsafe { &(*self.io.as_ptr()).u.bdev };
        let original = module::original(published, self.io, params, self.kept.op, false)
            .expect("its length was looked at when it came");
        mapper.stopped(lower, device, original, &self.kept.passing, status);
    }
}

/// Submits a read, or a write without force-unit-access: below, along the way that I/O took last, or by one that has to be looked for.
///
/// # Safety
/// `io` was submitted to us on the open channel that keeps `own`, whose thread is SPDK's current one, has its buffers, and is not completed.
#[inline(always)]
pub(super) unsafe fn submit(own: *mut Own, io: *mut spdk_bdev_io, op: Op) {
    // SAFETY: the caller's promise; nobody else has `own` in hand, and it is let go before anything is called that may submit.
    unsafe {
        let (params, own_now) = (&(*io).u.bdev, &*own);
        let passage = core::now()
            .and_then(|now_ns| own_now.along(op, params.offset_blocks, params.num_blocks, now_ns));
        match passage {
            Some(passage) => send(io, passage),
            None => look_and_submit(own, io, op),
        }
    }
}

/// # Safety
/// As for [`submit`].
#[inline(never)]
unsafe fn look_and_submit(own: *mut Own, io: *mut spdk_bdev_io, op: Op) {
    // SAFETY: as in `submit`.
    unsafe {
        let passage = Plain::of(io, op).and_then(|plain| core::pass(&mut *own, &plain));
        match passage {
            Some(passage) => send(io, passage),
            None => module::submit_to_mapper((*own).thread, io),
        }
    }
}

/// Submits what passes.
///
/// # Safety
/// As for [`submit`]; it was counted in as the passage says.
#[inline(always)]
unsafe fn send(io: *mut spdk_bdev_io, passage: Passage) {
    let Passage {
        descriptor,
        channel,
        below: Below {
            op, block, blocks, ..
        },
        kept: to_keep,
    } = passage;
    let (channel, argument) = (channel.as_ptr(), io.cast::<c_void>());
    // SAFETY: the I/O is ours, and so is its room; the descriptor is open, and so is the channel, which is of the current thread; the range was checked against
    // the table, and SPDK checks it against the bdev; the buffers are the host's until the I/O completes.
    unsafe {
        kept(io).write(to_keep);
        let (buffers, count) = ((*io).u.bdev.iovs, (*io).u.bdev.iovcnt);
        if count != 1 {
            return send_list(io, descriptor, channel, block, blocks);
        }
        let result = match op {
            Op::Read => spdk_sys::spdk_bdev_read_blocks(
                descriptor,
                channel,
                (*buffers).iov_base,
                block,
                blocks,
                Some(ended),
                argument,
            ),
            _ => spdk_sys::spdk_bdev_write_blocks(
                descriptor,
                channel,
                (*buffers).iov_base,
                block,
                blocks,
                Some(ended),
                argument,
            ),
        };
        if result != 0 {
            turn_back(io);
        }
    }
}

/// Submits what passes and has several buffers, or none.
///
/// # Safety
/// As for [`send`].
#[inline(never)]
unsafe fn send_list(
    io: *mut spdk_bdev_io,
    descriptor: *mut spdk_bdev_desc,
    channel: *mut spdk_io_channel,
    block: u64,
    blocks: u64,
) {
    // SAFETY: as in `send`.
    unsafe {
        let submit = match (*kept(io)).op {
            Op::Read => spdk_sys::spdk_bdev_readv_blocks,
            _ => spdk_sys::spdk_bdev_writev_blocks,
        };
        let (buffers, count) = ((*io).u.bdev.iovs, (*io).u.bdev.iovcnt);
        let result = submit(
            descriptor,
            channel,
            buffers,
            count,
            block,
            blocks,
            Some(ended),
            io.cast(),
        );
        if result != 0 {
            turn_back(io);
        }
    }
}

/// What was let through had no room below, or meets something that the mapper knows what to make of: it never was here, and the mapper gets it.
///
/// # Safety
/// The I/O was let through, on SPDK's current thread, and is not below.
#[cold]
unsafe fn turn_back(io: *mut spdk_bdev_io) {
    // SAFETY: the caller's promise.
    unsafe {
        let kept = kept(io).read();
        kept.open().ended();
        kept.lane().turn_back();
        module::submit_to_mapper(Thread::of_io(io), io);
    }
}

/// What was let through has failed.
///
/// # Safety
/// `below` has completed, and is not freed; `io` waits for it.
#[cold]
unsafe fn failed(below: *mut spdk_bdev_io, io: NonNull<spdk_bdev_io>) {
    // SAFETY: the caller's promise.
    unsafe {
        let status = failure(below);
        spdk_sys::spdk_bdev_free_io(below);
        core::ended(io, status);
    }
}

/// SPDK has finished what was let through; on the thread that submitted it.
unsafe extern "C" fn ended(below: *mut spdk_bdev_io, success: bool, argument: *mut c_void) {
    // SAFETY: the I/O below has completed, and is freed once; the argument is the I/O that was let through, which waits for this.
    unsafe {
        let io = NonNull::new_unchecked(argument.cast::<spdk_bdev_io>());
        if !success {
            return failed(below, io);
        }
        spdk_sys::spdk_bdev_free_io(below);
        let kept = &*kept(io.as_ptr());
        match core::now() {
            Some(now_ns) if !kept.lane().is_draining() && !kept.open().is_gone() => {
                kept.leave(now_ns);
                spdk_sys::spdk_bdev_io_complete(io.as_ptr(), spdk_sys::SPDK_BDEV_IO_STATUS_SUCCESS);
            }
            _ => core::ended(io, Status::Ok),
        }
    }
}
