//! Reads and writes that pass: what the mapper has to know of them again is kept in the SPDK I/O itself, they are submitted in the name of the thread that
//! they came from, and answered from there. Neither a slot of the mapper's nor a change of SPDK's current thread is in their way; nor is the mapper itself, where
//! the channel that they come by knows theirs (`dm/lane.rs`).
//!
//! These are the reads and writes that are one piece for a target that only computes where it goes (`dm::Mapper::pass`). All others, and these
//! when they fail, go by the mapper's slots (`core.rs`).

use std::ffi::c_void;
use std::ptr::NonNull;

use spdk_sys::{spdk_bdev_desc, spdk_bdev_io, spdk_io_channel};

use super::core;
use super::lower::{Channel, Lower, Open, failure};
use super::module::{self, Published};
use super::thread::Thread;
use crate::dm::{self, DeviceId, Env as _, Lane, Mapper, Op, Passing, Status, Way};

/// How many I/Os that go another way than the one known are looked up before theirs is kept instead: where I/O is spread over a table of many lines the next one goes another way
/// again, and to keep each cost more than it saved (docs/performance.md).
const LOOKED_UP_PER_WAY: u8 = 64;

/// What is kept in a channel of ours, for the thread that it is of: only touched on that.
pub(super) struct Own {
    pub thread: Thread,
    known: Option<Known>,
    /// How many I/Os are to be looked up before the next way is kept.
    to_look_up: u8,
}

/// The way that I/O of a channel goes without being looked up.
struct Known {
    /// In blocks.
    way: Way<End>,
    /// Blocks to sectors, above and below: a shift to the left.
    shift: u32,
}

/// What a way leads to, as long as it is good: then the mapper has it open. Afterwards nothing is kept by it.
struct End {
    open: NonNull<Open>,
    /// The one of the thread that the way is of.
    channel: NonNull<spdk_io_channel>,
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

/// Where an I/O that was counted in is to be submitted.
#[derive(Clone, Copy)]
pub(super) struct Below {
    descriptor: *mut spdk_bdev_desc,
    channel: NonNull<spdk_io_channel>,
    block: u64,
    blocks: u64,
}

impl Own {
    pub fn new(thread: Thread) -> Own {
        Own {
            thread,
            known: None,
            to_look_up: 0,
        }
    }

    /// Counts an I/O in that goes another way than the one known. `None` if the thread has no channel to what it leads to (yet).
    pub fn by(
        &mut self,
        passage: &dm::Passage<Channel>,
        lower: &Lower,
        io: &Plain,
    ) -> Option<Below> {
        let open = lower.at(*passage.channel);
        let channel = open.passage(self.thread)?;
        match self.to_look_up.checked_sub(1) {
            Some(left) => self.to_look_up = left,
            None => self.know(passage, lower, io.shift),
        }
        let Plain { op, sectors, .. } = *io;
        // SAFETY: `Plain` is of an I/O that was submitted to us, and is not completed.
        unsafe { enter(io.io, open, passage.lane, op, sectors, lower.now_ns) };
        Some(Below {
            descriptor: open.descriptor,
            channel,
            block: passage.sector >> open.block_shift,
            blocks: u64::from(sectors) >> open.block_shift,
        })
    }

    /// Has I/O that comes next go the same way, if the thread has a channel to each of its ends. Where blocks are of two sizes each is looked up.
    #[cold]
    fn know(&mut self, passage: &dm::Passage<Channel>, lower: &Lower, shift: u32) {
        self.to_look_up = LOOKED_UP_PER_WAY;
        let way = passage.way(|channel| {
            let open = lower.at(*channel);
            (open.block_shift == shift).then_some(())?;
            Some(End {
                open: NonNull::from(&**open),
                channel: open.passage(self.thread)?,
            })
        });
        let way = way.and_then(|way| way.in_blocks(shift));
        self.known = way.map(|way| Known { way, shift });
    }
}

/// Counts an I/O in.
///
/// # Safety
/// `io` was submitted to one of our bdevs, and is not completed.
#[inline(always)]
unsafe fn enter(
    io: *mut spdk_bdev_io,
    open: &Open,
    lane: &Lane,
    op: Op,
    sectors: u32,
    now_ns: u64,
) {
    open.began();
    // SAFETY: the caller's promise.
    unsafe {
        kept(io).write(Kept {
            passing: lane.enter(now_ns),
            lane: NonNull::from(lane),
            open: NonNull::from(open),
            sectors,
            op,
        });
    }
}

/// A read, or a write without force-unit-access, in sectors.
pub(super) struct Plain {
    io: *mut spdk_bdev_io,
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
            io,
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

/// Submits a read, or a write without force-unit-access: below, along the way that is known, or by one that has to be looked up.
///
/// # Safety
/// `io` was submitted to us on the open channel that keeps `own`, whose thread is SPDK's current one, has its buffers, and is not completed.
#[inline(always)]
pub(super) unsafe fn submit(own: *mut Own, io: *mut spdk_bdev_io, op: Op) {
    // SAFETY: the caller's promise; nobody else has `own` in hand, and it is let go before anything is called that may submit. What a way leads to is open as
    // long as it leads anywhere.
    unsafe {
        let params = &(*io).u.bdev;
        if let Some(now_ns) = core::now()
            && let Some(Known { way, shift }) = &(*own).known
            && let Some((end, block)) = way.leads(params.offset_blocks, params.num_blocks)
        {
            let (open, blocks) = (end.open.as_ref(), params.num_blocks);
            enter(io, open, way.lane(), op, (blocks << shift) as u32, now_ns);
            let below = Below {
                descriptor: open.descriptor,
                channel: end.channel,
                block,
                blocks,
            };
            return send(io, op, below);
        }
        look_and_submit(own, io, op);
    }
}

/// # Safety
/// As for [`submit`].
#[inline(never)]
unsafe fn look_and_submit(own: *mut Own, io: *mut spdk_bdev_io, op: Op) {
    // SAFETY: as in `submit`.
    unsafe {
        match Plain::of(io, op).and_then(|plain| core::pass(&mut *own, &plain)) {
            Some(below) => send(io, op, below),
            None => module::submit_to_mapper((*own).thread, io),
        }
    }
}

/// Submits what was counted in.
///
/// # Safety
/// As for [`submit`]; `below` is where it is to go.
#[inline(always)]
unsafe fn send(io: *mut spdk_bdev_io, op: Op, below: Below) {
    let Below {
        descriptor,
        channel,
        block,
        blocks,
    } = below;
    let (channel, argument) = (channel.as_ptr(), io.cast::<c_void>());
    // SAFETY: the I/O is ours; the descriptor is open, and so is the channel, which is of the current thread; the range was checked against
    // the table, and SPDK checks it against the bdev; the buffers are the host's until the I/O completes.
    unsafe {
        let (buffers, count) = ((*io).u.bdev.iovs, (*io).u.bdev.iovcnt);
        if count != 1 {
            return send_list(io, op, descriptor, channel, block, blocks);
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

/// Submits what was counted in and has several buffers, or none.
///
/// # Safety
/// As for [`send`].
#[inline(never)]
unsafe fn send_list(
    io: *mut spdk_bdev_io,
    op: Op,
    descriptor: *mut spdk_bdev_desc,
    channel: *mut spdk_io_channel,
    block: u64,
    blocks: u64,
) {
    // SAFETY: as in `send`.
    unsafe {
        let params = &(*io).u.bdev;
        let submit = match op {
            Op::Read => spdk_sys::spdk_bdev_readv_blocks,
            _ => spdk_sys::spdk_bdev_writev_blocks,
        };
        let result = submit(
            descriptor,
            channel,
            params.iovs,
            params.iovcnt,
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
    // SAFETY: the I/O below has completed, and is freed once; the argument is the I/O that was let through, which waits for this. Whoever hears of its end may
    // have the channel of the one below given back: SPDK takes channels apart by a message, which comes after this.
    unsafe {
        let io = NonNull::new_unchecked(argument.cast::<spdk_bdev_io>());
        if !success {
            return failed(below, io);
        }
        let kept = &*kept(io.as_ptr());
        match core::now() {
            Some(now_ns) if !kept.lane().is_draining() && !kept.open().is_gone() => {
                kept.leave(now_ns);
                spdk_sys::spdk_bdev_io_complete(io.as_ptr(), spdk_sys::SPDK_BDEV_IO_STATUS_SUCCESS);
                // Last, as SPDK's own modules do it: first would be slower by 1.5 % of all (docs/performance.md).
                spdk_sys::spdk_bdev_free_io(below);
            }
            _ => {
                spdk_sys::spdk_bdev_free_io(below);
                core::ended(io, Status::Ok);
            }
        }
    }
}
