//! Mapped devices as SPDK bdevs.
//!
//! A device gets its bdev, under its name, when it has a table for the first time, and keeps it until it is removed. FLUSH is always claimed: a
//! table can be swapped for one over a disk with a cache, while hosts go by what they were told. An NVMe-oF host's FUA bit arrives in the I/O's
//! copy of command dword 12, and is honoured; SPDK's own bdevs drop it.
//!
//! A tag of the mapper is the address of the SPDK I/O: its upper half is the client, its lower half the command. No address of user space
//! has the upper halves that the mapper keeps for itself.

use std::cell::UnsafeCell;
use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use spdk_sys::{spdk_bdev, spdk_bdev_fn_table, spdk_bdev_io, spdk_bdev_module, spdk_io_channel};

use super::compare;
use super::core;
use super::passing::{self, Kept, Own};
use super::payload::Payload;
use super::thread::Thread;
use super::zeroes::{self, Zeroing};
use crate::dm::{DeviceId, Io, Limits, Op, Payload as _, Status, Tag};

/// Sectors of 512 bytes in a block, as a shift.
fn block_shift(limits: &Limits) -> u32 {
    (limits.block_bytes / 512).trailing_zeros()
}

/// What SPDK is told that a mapped device is.
pub(super) const PRODUCT: &CStr = c"polldm device";

/// Force unit access, in command dword 12 of NVMe's write (NVM Command Set, section 3.2).
const FUA: u32 = 1 << 30;

/// Whether write zeroes has to be durable when it completes. SPDK's target does not hand on a host's bit, and who set it was promised that.
const WRITE_ZEROES_FUA: bool = true;

/// No device: mappers number them from 0.
const NONE: DeviceId = DeviceId(u32::MAX);

/// What SPDK is told of us, and writes into while it has us.
struct Module(UnsafeCell<spdk_bdev_module>);

// SAFETY: only SPDK touches it once it was added, and sees to its own locking.
unsafe impl Sync for Module {}

static MODULE: Module = {
    // SAFETY: function pointers that may be null, flags, and SPDK's own fields, which it initialises.
    let mut module: spdk_bdev_module = unsafe { std::mem::zeroed() };
    module.name = c"polldm".as_ptr();
    module.module_init = Some(init);
    module.module_fini = Some(zeroes::fini);
    module.get_ctx_size = Some(context_bytes);
    Module(UnsafeCell::new(module))
};

static FUNCTIONS: spdk_bdev_fn_table = {
    // SAFETY: function pointers, all of which may be null.
    let mut functions: spdk_bdev_fn_table = unsafe { std::mem::zeroed() };
    functions.destruct = Some(destruct);
    functions.submit_request = Some(submit_request);
    functions.io_type_supported = Some(io_type_supported);
    functions.get_io_channel = Some(get_io_channel);
    functions
};

/// Makes the module known to SPDK; before SPDK is started, once.
pub(super) fn add() {
    // SAFETY: SPDK is not running yet, and the module is static.
    unsafe { spdk_sys::spdk_bdev_module_list_add(MODULE.0.get()) };
}

unsafe extern "C" fn init() -> c_int {
    zeroes::init()
}

/// How much room SPDK gives us at the end of each of its I/Os: for what is kept of one that passes, or of a write zeroes.
unsafe extern "C" fn context_bytes() -> c_int {
    const BYTES: usize = if size_of::<Kept>() > size_of::<Zeroing>() {
        size_of::<Kept>()
    } else {
        size_of::<Zeroing>()
    };
    // A cache line at the most: SPDK aligns it to one.
    const { assert!(BYTES <= 64 && align_of::<Kept>() <= 64 && align_of::<Zeroing>() <= 64) };
    BYTES as c_int
}

/// The bdev of a mapped device. Lives on the heap from its registration until SPDK lets go of it; only touched on SPDK's own thread, but for
/// what each I/O reads.
#[repr(C)]
pub(super) struct Published {
    /// First, so that its address is that of the whole.
    bdev: UnsafeCell<spdk_bdev>,
    pub device: DeviceId,
    /// Blocks to sectors: a shift to the left.
    pub shift: u32,
    discard: bool,
    read_only: bool,
    /// What is in force takes write zeroes. A hint: I/O may meet another table.
    write_zeroes: AtomicBool,
    /// The number of the device that takes I/O; [`NONE`] once it is being removed, when its own may be another's soon.
    taker: AtomicU32,
    /// How often a host has reset it.
    resets: AtomicU32,
    name: CString,
}

/// A bdev that was published, as its owner on SPDK's own thread keeps it.
#[derive(Clone, Copy)]
pub(super) struct Publication(NonNull<Published>);

// SAFETY: an address; what it points to is used on SPDK's own thread only.
unsafe impl Send for Publication {}

impl Published {
    /// That of an I/O's bdev.
    ///
    /// # Safety
    /// `io` was submitted to one of our bdevs, and is not completed.
    #[inline(always)]
    pub unsafe fn of<'a>(io: *mut spdk_bdev_io) -> &'a Published {
        // SAFETY: the caller's promise: a bdev is there as long as there is I/O for it, and is the first of a `Published`.
        unsafe { &*(*io).bdev.cast() }
    }

    /// The device that takes what is submitted: one that no mapper knows once it is being removed. Told to reactors without order: what they
    /// have begun by then ends before the removal goes on.
    #[inline(always)]
    pub fn taker(&self) -> DeviceId {
        DeviceId(self.taker.load(Ordering::Relaxed))
    }

    pub fn is_withdrawn(&self) -> bool {
        self.taker() == NONE
    }

    /// How often a host has reset it. Without order: a reset goes on by messages to all reactors, and one that has had its message knows of it.
    pub fn resets(&self) -> u32 {
        self.resets.load(Ordering::Relaxed)
    }
}

impl Publication {
    /// Registers the bdev of a device; on SPDK's own thread.
    ///
    /// # Errors
    /// SPDK's errno: EEXIST when another bdev has the name.
    pub fn new(device: DeviceId, name: &str, limits: &Limits) -> Result<Publication, i32> {
        let name = CString::new(name).map_err(|_| libc::EINVAL)?;
        // SAFETY: integers, pointers and SPDK's own fields, for all of which zeroes are what SPDK's modules begin with.
        let bdev: spdk_bdev = unsafe { std::mem::zeroed() };
        let published = Box::leak(Box::new(Published {
            bdev: UnsafeCell::new(bdev),
            device,
            shift: block_shift(limits),
            discard: limits.discard,
            read_only: limits.read_only,
            write_zeroes: AtomicBool::new(limits.write_zeroes),
            taker: AtomicU32::new(device.0),
            resets: AtomicU32::new(0),
            name,
        }));
        let address: *mut c_void = (&raw mut *published).cast();
        let bdev = published.bdev.get_mut();
        bdev.ctxt = address;
        bdev.name = published.name.as_ptr().cast_mut();
        bdev.product_name = PRODUCT.as_ptr().cast_mut();
        bdev.write_cache = 1;
        bdev.blocklen = limits.block_bytes;
        // SPDK's target promises hosts that so much is written whole or not at all when the power fails.
        bdev.phys_blocklen = limits.block_bytes;
        bdev.blockcnt = limits.sectors >> published.shift;
        bdev.write_unit_size = 1;
        // SPDK splits what is longer than the mapper, which counts sectors in 32 bits, can be told of.
        let blocks_max = 1 << (31 - published.shift);
        bdev.max_unmap = blocks_max;
        bdev.max_unmap_segments = 1;
        bdev.max_write_zeroes = blocks_max;
        bdev.module = MODULE.0.get();
        bdev.fn_table = &raw const FUNCTIONS;
        let bdev: *mut spdk_bdev = address.cast();
        // SAFETY: the device is an address that is nobody else's until it is unregistered; its name is copied; the bdev is filled in and stays
        // where it is until SPDK destructs it.
        let result = unsafe {
            spdk_sys::spdk_io_device_register(
                address,
                Some(channel_made),
                Some(channel_gone),
                size_of::<Own>() as u32,
                published.name.as_ptr(),
            );
            spdk_sys::spdk_bdev_register(bdev)
        };
        if result != 0 {
            // SAFETY: registered above; `freed` gets it when nobody has a channel any more.
            unsafe { spdk_sys::spdk_io_device_unregister(address, Some(freed)) };
            return Err(-result);
        }
        Ok(Publication(NonNull::from(published)))
    }

    fn published(&self) -> &Published {
        // SAFETY: it lives until it was unregistered, which takes the publication from its owner.
        unsafe { self.0.as_ref() }
    }

    /// Its name in SPDK, which it keeps.
    pub fn name(&self) -> String {
        let name = &self.published().name;
        name.to_string_lossy().into_owned()
    }

    /// Takes over other limits, and tells SPDK of another size; on SPDK's own thread. False when hosts could not follow: the block size is another.
    pub fn resize(&self, limits: &Limits) -> bool {
        let published = self.published();
        if block_shift(limits) != published.shift {
            return false;
        }
        let takes = limits.write_zeroes;
        published.write_zeroes.store(takes, Ordering::Relaxed);
        let blocks = limits.sectors >> published.shift;
        // SAFETY: a registered bdev, on SPDK's own thread.
        unsafe {
            let bdev = published.bdev.get();
            if (*bdev).blockcnt != blocks {
                spdk_sys::spdk_bdev_notify_blockcnt_change(bdev, blocks);
            }
        }
        true
    }

    /// Gives the bdev another name beside its own: SPDK's hosts may have it open under that; on SPDK's own thread.
    pub fn also_named(&self, name: &str) {
        let Ok(name) = CString::new(name) else { return };
        // SAFETY: a registered bdev, on SPDK's own thread; the names are copied.
        unsafe {
            let bdev = self.published().bdev.get();
            spdk_sys::spdk_bdev_alias_del_all(bdev);
            if *name != *self.published().name {
                spdk_sys::spdk_bdev_alias_add(bdev, name.as_ptr());
            }
        }
    }

    /// Refuses all I/O from now on and unregisters the bdev; on SPDK's own thread, as is `then`, when everybody has let go of it.
    pub fn withdraw(self, then: impl FnOnce() + 'static) {
        let then: Box<Then> = Box::new(Box::new(then));
        self.published().taker.store(NONE.0, Ordering::Relaxed);
        let context = Box::into_raw(then).cast::<c_void>();
        // SAFETY: registered, and unregistered once: this takes the publication.
        unsafe {
            spdk_sys::spdk_bdev_unregister(
                self.published().bdev.get(),
                Some(unregistered),
                context,
            );
        }
    }
}

/// What follows when a bdev is gone.
type Then = Box<dyn FnOnce()>;

unsafe extern "C" fn unregistered(context: *mut c_void, _: c_int) {
    // SAFETY: made by `withdraw`, for this one call.
    let then = unsafe { Box::from_raw(context.cast::<Then>()) };
    then();
}

unsafe extern "C" fn destruct(context: *mut c_void) -> c_int {
    // SAFETY: registered by `publish` under this address. SPDK has no channel and no name of the bdev any more when it calls this.
    unsafe { spdk_sys::spdk_io_device_unregister(context, Some(freed)) };
    0
}

unsafe extern "C" fn freed(context: *mut c_void) {
    // SAFETY: a leaked box; SPDK has let go of both the bdev and the device.
    drop(unsafe { Box::from_raw(context.cast::<Published>()) });
}

unsafe extern "C" fn channel_made(_: *mut c_void, own: *mut c_void) -> c_int {
    let Some(thread) = Thread::current() else {
        return -libc::EINVAL;
    };
    // SAFETY: SPDK gives a channel as much memory of its own as was asked for, behind a structure that ends where ours may begin, as is asserted below.
    unsafe { own.cast::<Own>().write(Own::new(thread)) };
    core::submits(true);
    0
}

/// What a channel of ours keeps.
///
/// # Safety
/// `channel` is open, and of one of our devices.
#[inline(always)]
unsafe fn own_of(channel: *mut spdk_io_channel) -> *mut Own {
    const OFFSET: usize = spdk_sys::SPDK_IO_CHANNEL_STRUCT_SIZE as usize;
    // What SPDK allocates is aligned for any of C's fundamental types.
    const { assert!(OFFSET.is_multiple_of(align_of::<Own>()) && align_of::<Own>() <= 8) };
    // SAFETY: the caller's promise: written by `channel_made`, to the memory of its own that follows the channel.
    unsafe { channel.byte_add(OFFSET).cast() }
}

unsafe extern "C" fn channel_gone(_: *mut c_void, own: *mut c_void) {
    // SAFETY: written by `channel_made`, and used by nobody any more.
    unsafe { own.cast::<Own>().drop_in_place() };
    core::submits(false);
}

unsafe extern "C" fn get_io_channel(context: *mut c_void) -> *mut spdk_io_channel {
    // SAFETY: the address that the device was registered under.
    unsafe { spdk_sys::spdk_get_io_channel(context) }
}

unsafe extern "C" fn io_type_supported(
    context: *mut c_void,
    kind: spdk_sys::spdk_bdev_io_type,
) -> bool {
    // SAFETY: SPDK asks only of registered bdevs.
    let published = unsafe { &*context.cast::<Published>() };
    match kind {
        spdk_sys::SPDK_BDEV_IO_TYPE_READ
        | spdk_sys::SPDK_BDEV_IO_TYPE_FLUSH
        | spdk_sys::SPDK_BDEV_IO_TYPE_RESET
        | spdk_sys::SPDK_BDEV_IO_TYPE_ABORT => true,
        spdk_sys::SPDK_BDEV_IO_TYPE_WRITE | spdk_sys::SPDK_BDEV_IO_TYPE_WRITE_ZEROES => {
            !published.read_only
        }
        spdk_sys::SPDK_BDEV_IO_TYPE_UNMAP => published.discard && !published.read_only,
        // SPDK reads and compares, of a bdev that cannot.
        spdk_sys::SPDK_BDEV_IO_TYPE_COMPARE => !compare::spdk_tells(),
        _ => false,
    }
}

/// The tag of an I/O.
#[inline(always)]
pub(super) fn tag_of(io: NonNull<spdk_bdev_io>) -> Tag {
    let address = io.as_ptr().expose_provenance() as u64;
    Tag {
        client: (address >> 32) as u32,
        command: address as u32,
    }
}

unsafe extern "C" fn submit_request(channel: *mut spdk_io_channel, io: *mut spdk_bdev_io) {
    // SAFETY: SPDK submits an I/O, which is ours until we complete it, of a bdev that we registered.
    unsafe {
        let kind = u32::from((*io).type_);
        if kind == spdk_sys::SPDK_BDEV_IO_TYPE_READ && lacks_buffer(io) {
            return get_buffer(io);
        }
        submit(channel, io);
    }
}

/// # Safety
/// `io` is a read that was submitted, and comes without memory to read into.
#[cold]
unsafe fn get_buffer(io: *mut spdk_bdev_io) {
    // SAFETY: the caller's promise.
    unsafe {
        let params = &(*io).u.bdev;
        let length = params.num_blocks * u64::from((*(*io).bdev).blocklen);
        spdk_sys::spdk_bdev_io_get_buf(io, Some(got_buffer), length);
    }
}

/// Whether a read comes without memory to read into.
///
/// # Safety
/// `io` is a read that was submitted.
#[inline(always)]
unsafe fn lacks_buffer(io: *mut spdk_bdev_io) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let params = &(*io).u.bdev;
        params.iovs.is_null() || (*params.iovs).iov_base.is_null()
    }
}

unsafe extern "C" fn got_buffer(
    channel: *mut spdk_io_channel,
    io: *mut spdk_bdev_io,
    success: bool,
) {
    // SAFETY: an I/O of ours, which now has a buffer or never will.
    unsafe {
        match success {
            true => submit(channel, io),
            false => conclude(io, Status::IoError),
        }
    }
}

/// # Safety
/// `io` was submitted to us on `channel`, has its buffers, and is not completed.
#[inline(always)]
unsafe fn submit(channel: *mut spdk_io_channel, io: *mut spdk_bdev_io) {
    // SAFETY: the caller's promise; SPDK submits in the name of the channel's thread. What may pass is a read, or a write without FUA.
    unsafe {
        let own = own_of(channel);
        match u32::from((*io).type_) {
            spdk_sys::SPDK_BDEV_IO_TYPE_READ => passing::submit(own, io, Op::Read),
            spdk_sys::SPDK_BDEV_IO_TYPE_WRITE if !has_fua(io) => {
                passing::submit(own, io, Op::Write);
            }
            _ => submit_to_mapper((*own).thread, io),
        }
    }
}

/// Whether a write has to be durable when it completes. SPDK fills in command dword 12 of writes from a list of buffers, as its targets submit them;
/// in one from a single buffer, for which it makes the list itself, in the I/O, is what the I/O before had left there.
///
/// # Safety
/// `io` is a write that was submitted to us, and is not completed.
#[inline(always)]
unsafe fn has_fua(io: *mut spdk_bdev_io) -> bool {
    // SAFETY: the caller's promise; the dword is an integer, whatever the command.
    unsafe {
        let params = &(*io).u.bdev;
        params.nvme_cdw12.raw & FUA != 0 && !std::ptr::eq(params.iovs, &raw const (*io).iov)
    }
}

/// # Safety
/// `io` was submitted to us in the name of `current`, has its buffers, and is not completed.
#[inline(never)]
pub(super) unsafe fn submit_to_mapper(current: Thread, io: *mut spdk_bdev_io) {
    // SAFETY: the caller's promise: the I/O is there, and so is its bdev, which is one of ours.
    let (io, published, params, kind) = unsafe {
        let (params, kind) = (&(*io).u.bdev, u32::from((*io).type_));
        (NonNull::new_unchecked(io), Published::of(io), params, kind)
    };
    let op = match kind {
        spdk_sys::SPDK_BDEV_IO_TYPE_READ => Ok(Op::Read),
        spdk_sys::SPDK_BDEV_IO_TYPE_WRITE => Ok(Op::Write),
        spdk_sys::SPDK_BDEV_IO_TYPE_FLUSH => Ok(Op::Flush),
        spdk_sys::SPDK_BDEV_IO_TYPE_UNMAP => Ok(Op::Discard),
        spdk_sys::SPDK_BDEV_IO_TYPE_WRITE_ZEROES => {
            // SAFETY: it was just submitted to us.
            unsafe { zeroes::begin(io.as_ptr()) };
            match published.write_zeroes.load(Ordering::Relaxed) {
                true => Ok(Op::WriteZeroes),
                false => Err(Status::NotSupported),
            }
        }
        spdk_sys::SPDK_BDEV_IO_TYPE_COMPARE => {
            // SAFETY: it was just submitted to us.
            match unsafe { compare::begin(current, published, io) } {
                Some(read) => Err(read),
                None => return,
            }
        }
        spdk_sys::SPDK_BDEV_IO_TYPE_ABORT => {
            // SAFETY: an abort names the I/O that it is about, which waits for the abort.
            let aborted = unsafe { NonNull::new((*io.as_ptr()).u.abort.bio_to_abort) };
            let is_told = aborted.is_some_and(|aborted| {
                // SAFETY: as above; SPDK aborts in the name of the channel that the I/O is of.
                let is_cut = unsafe { zeroes::abort(aborted) };
                core::abort(published.device, tag_of(aborted), io, is_cut)
            });
            match is_told {
                true => return,
                false => Err(Status::IoError),
            }
        }
        spdk_sys::SPDK_BDEV_IO_TYPE_RESET => {
            published.resets.fetch_add(1, Ordering::Relaxed);
            // One that is withdrawn may have given its number to another device.
            match !published.is_withdrawn() && core::reset(published.device, io) {
                true => return,
                false => Err(Status::IoError),
            }
        }
        _ => Err(Status::NotSupported),
    };
    let status = match op {
        _ if published.is_withdrawn() => Status::IoError,
        Ok(op) => {
            let fua = match op {
                // SAFETY: a write of ours, which is not completed.
                Op::Write => unsafe { has_fua(io.as_ptr()) },
                Op::WriteZeroes => WRITE_ZEROES_FUA,
                _ => false,
            };
            let ended = match original(published, io, params, op, fua) {
                // No system thread of a reactor's has no core.
                Some(io) => {
                    core::submit(current, published.device, io).unwrap_or(Some(Status::IoError))
                }
                None => Some(Status::IoError),
            };
            match ended {
                Some(status) => status,
                None => return,
            }
        }
        Err(status) => status,
    };
    // SAFETY: ours, and not completed: nobody has taken it. Its thread is the current one.
    unsafe { conclude(io.as_ptr(), status) };
}

/// An I/O as the mapper takes it; `None` for one that is larger than any front end's transfer, which SPDK bounds by its buffers.
#[inline(always)]
pub(super) fn original(
    published: &Published,
    io: NonNull<spdk_bdev_io>,
    params: &spdk_sys::spdk_bdev_io_block_params,
    op: Op,
    fua: bool,
) -> Option<Io<Payload>> {
    let (sector, sectors) = match op {
        Op::Flush => (0, 0),
        _ => (
            params.offset_blocks << published.shift,
            u32::try_from(params.num_blocks << published.shift).ok()?,
        ),
    };
    let payload = match (op, NonNull::new(params.iovs)) {
        (Op::Read | Op::Write, Some(buffers)) => {
            let length = sectors.checked_mul(512)?;
            // SAFETY: SPDK's: the buffers of an I/O hold its blocks until it completes.
            unsafe { Payload::new(buffers, params.iovcnt as u32, length) }
        }
        _ => Payload::empty(),
    };
    Some(Io {
        tag: tag_of(io),
        op,
        fua,
        sector,
        sectors,
        payload,
    })
}

/// Completes the I/O of a tag, whatever thread it is of; `current` is SPDK's current one.
///
/// # Safety
/// The tag is that of an I/O that was submitted to us and is not completed; this is the system thread that it was submitted on.
#[inline(always)]
pub(super) unsafe fn complete(tag: Tag, status: Status, current: Thread) {
    let address = u64::from(tag.client) << 32 | u64::from(tag.command);
    let io: *mut spdk_bdev_io = std::ptr::with_exposed_provenance_mut(address as usize);
    // SAFETY: the caller's promise. The I/O's thread is one of this reactor's, whose system thread this is.
    unsafe {
        let thread = Thread::of_io(io);
        if thread == current {
            return conclude(io, status);
        }
        thread.set_current();
        conclude(io, status);
        current.set_current();
    }
}

/// Completes an I/O, unless it is a write zeroes that goes on.
///
/// # Safety
/// As for [`complete`]; the current thread of SPDK's is that of the I/O.
#[inline(always)]
unsafe fn conclude(io: *mut spdk_bdev_io, status: Status) {
    // SAFETY: the caller's promise.
    unsafe {
        let status = match u32::from((*io).type_) {
            spdk_sys::SPDK_BDEV_IO_TYPE_WRITE_ZEROES => {
                match zeroes::go_on(NonNull::new_unchecked(io), status) {
                    Some(status) => status,
                    None => return,
                }
            }
            spdk_sys::SPDK_BDEV_IO_TYPE_COMPARE => compare::end(io, status),
            _ => status,
        };
        match status {
            Status::Ok => {
                spdk_sys::spdk_bdev_io_complete(io, spdk_sys::SPDK_BDEV_IO_STATUS_SUCCESS);
            }
            status => fail(io, status),
        }
    }
}

/// Completes an I/O with the status that an NVMe host is to see; SPDK makes SCSI's of it.
///
/// # Safety
/// As for [`complete`].
#[cold]
unsafe fn fail(io: *mut spdk_bdev_io, status: Status) {
    // Generic command status 0, media and data integrity 2, path related 3 (NVMe Base, Figure 101 and following).
    let (kind, code) = match status {
        Status::NotSupported => (0, 0x01),
        Status::NoSpace => (0, 0x81),
        Status::ReservationConflict => (0, 0x83),
        Status::Aborted => (0, 0x07),
        // SAFETY: the caller's promise.
        Status::Medium if u32::from(unsafe { (*io).type_ }) == spdk_sys::SPDK_BDEV_IO_TYPE_READ => {
            (2, 0x81)
        }
        Status::Medium => (2, 0x80),
        Status::Protection => (2, 0x82),
        Status::Miscompare => (2, 0x85),
        Status::Transport => (3, 0x00),
        Status::Ok | Status::Target | Status::Timeout | Status::IoError => (0, 0x06),
    };
    // SAFETY: the caller's promise.
    unsafe { spdk_sys::spdk_bdev_io_complete_nvme_status(io, 0, kind, code) };
}

/// A name for errors.
pub(super) fn errno_name(errno: i32) -> String {
    // SAFETY: a text that libc keeps; copied at once.
    let text = unsafe { CStr::from_ptr(libc::strerror(errno)) };
    text.to_string_lossy().into_owned()
}
