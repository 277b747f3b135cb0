//! The world beneath a mapper on one reactor of SPDK's: [`Env`] over channels of SPDK's bdevs.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::ptr::{NonNull, null_mut};
use std::rc::Rc;
use std::sync::Arc;

use spdk_sys::{iovec, spdk_bdev_io, spdk_io_channel};

use super::core;
use super::device::Opened;
use super::payload::Payload;
use super::private::PrivateBuffers;
use super::thread::Thread;
use crate::bdev::verdict;
use crate::dm::{
    self, Answer, BufferId, CloneId, CoreId, DeviceId, Env, Limits, LowerId, LowerIo, Op, Status,
    Submit, Tag, Tamper, Ticket,
};
use crate::engine::Planes;
use crate::nvme;

/// Bits of a completion's name for the list of buffers that it holds; beyond, an I/O of several buffers that is cut waits. One bit less than
/// what the channel's 16 and the clone's 32 leave, so that 0 can say "none".
const LISTS_MAX: usize = (1 << 16) - 1;

/// NVMe's flush: its opcode is 0, and SPDK fills in the namespace.
static FLUSH: spdk_sys::spdk_nvme_cmd = {
    const { assert!(nvme::opcode::io::FLUSH == 0) };
    // SAFETY: integers.
    unsafe { std::mem::zeroed() }
};

/// What [`Env`] needs on one reactor. Messages and completions are gathered here while the mapper runs, and delivered when it has
/// returned (IO-27).
pub(super) struct Lower {
    pub planes: Planes,
    /// The mapper's, which is current while the mapper runs.
    thread: Thread,
    pub cores: u16,
    pub now_ns: u64,
    /// There is something in one of the next four.
    pub gathered: bool,
    /// To other cores and to this one, in the order sent.
    pub outbox: Vec<(CoreId, dm::Message)>,
    /// What ended since it was delivered last.
    pub completed: Vec<(Tag, Status)>,
    /// Devices that have other limits, or none.
    pub changed: Vec<DeviceId>,
    /// To operators.
    pub answers: Vec<(Ticket, Answer)>,
    /// By a channel's number. Ways, and what passes, point to them (`passing.rs`), which a `Box` would not allow while it is moved.
    channels: Vec<Option<Rc<Open>>>,
    /// Of I/Os that are below.
    lists: Lists,
    private: PrivateBuffers,
}

/// A channel as the mapper holds it: its number here.
#[derive(Clone, Copy)]
pub(super) struct Channel(u16);

/// A channel that is open.
pub(super) struct Open {
    lower: LowerId,
    device: Arc<Opened>,
    pub descriptor: *mut spdk_sys::spdk_bdev_desc,
    /// Sectors to blocks: a shift to the right.
    pub block_shift: u32,
    /// The mapper's thread.
    thread: Thread,
    /// SPDK's, of that thread; null once it has been given back because the device was taken away.
    channel: Cell<*mut spdk_io_channel>,
    /// The same of other threads of this reactor, for what passes; `None` for one that gets none.
    guests: RefCell<Vec<(Thread, Option<NonNull<spdk_io_channel>>)>>,
    in_flight: Cell<u32>,
    /// The device was taken away (PM-14).
    gone: Cell<bool>,
}

/// The names that a completion carries through SPDK as its argument: the clone, the channel, and the list of buffers with one added.
#[derive(Clone, Copy)]
pub(super) struct Name(u64);

impl Name {
    #[inline(always)]
    fn new(clone: CloneId, channel: u16, list: Option<u16>) -> Name {
        let list = list.map_or(0, |list| u64::from(list) + 1);
        Name(u64::from(clone.0) | u64::from(channel) << 32 | list << 48)
    }

    #[inline(always)]
    fn argument(self) -> *mut c_void {
        std::ptr::without_provenance_mut(self.0 as usize)
    }

    #[inline(always)]
    pub fn of_argument(argument: *mut c_void) -> Name {
        Name(argument.addr() as u64)
    }

    #[inline(always)]
    pub fn clone_id(self) -> CloneId {
        CloneId(self.0 as u32)
    }

    #[inline(always)]
    fn channel(self) -> u16 {
        (self.0 >> 32) as u16
    }

    #[inline(always)]
    fn list(self) -> Option<u16> {
        ((self.0 >> 48) as u16).checked_sub(1)
    }
}

impl Lower {
    pub fn new(planes: Planes, thread: Thread, cores: u16) -> Lower {
        Lower {
            planes,
            thread,
            cores,
            now_ns: crate::reactor::monotonic_ns(),
            gathered: false,
            outbox: Vec::new(),
            completed: Vec::new(),
            changed: Vec::new(),
            answers: Vec::new(),
            channels: Vec::new(),
            lists: Lists::default(),
            private: PrivateBuffers::new(),
        }
    }

    /// An I/O below has ended: what it held is free.
    #[inline(always)]
    pub fn ended(&mut self, name: Name) {
        if let Some(list) = name.list() {
            self.lists.give_back(list);
        }
        self.at(Channel(name.channel())).ended();
    }

    /// What a channel of the mapper's is.
    #[inline(always)]
    pub fn at(&self, channel: Channel) -> &Rc<Open> {
        self.channels[usize::from(channel.0)]
            .as_ref()
            .expect("the mapper has it open")
    }

    /// What a thread that has none yet may get itself a channel of; [`Lower::make_passage`] has to follow.
    pub fn lacks_passage(
        &self,
        channel: Channel,
        thread: Thread,
    ) -> Option<*mut spdk_sys::spdk_bdev_desc> {
        let mappers = usize::from(self.cores);
        let open = self.at(channel);
        let mut guests = open.guests.borrow_mut();
        if open.gone.get() || guests.iter().any(|(guest, _)| *guest == thread) {
            return None;
        }
        let queues = open.device.queues();
        if queues.is_some_and(|queues| !queues.admits(thread, mappers)) {
            guests.push((thread, None));
            return None;
        }
        Some(open.descriptor)
    }

    /// A thread has got itself a channel, or SPDK had no memory for one.
    pub fn make_passage(
        &self,
        channel: Channel,
        thread: Thread,
        below: Option<NonNull<spdk_io_channel>>,
    ) {
        let open = self.at(channel);
        if let (None, Some(queues)) = (below, open.device.queues()) {
            queues.leaves(thread);
        }
        open.guests.borrow_mut().push((thread, below));
    }

    /// A thread has nothing more to submit: its channels are given back.
    pub fn thread_leaves(&self, thread: Thread) {
        for open in self.channels.iter().flatten() {
            open.give_back_to_guests(|guest| guest == thread);
        }
    }

    /// A device was taken away: nothing more goes there; the channels go when what is in flight has ended, as SPDK will have it.
    pub fn lower_gone(&self, lower: LowerId) {
        for open in self.channels.iter().flatten() {
            if open.lower == lower {
                open.gone.set(true);
                if open.in_flight.get() == 0 {
                    open.give_back();
                }
            }
        }
    }
}

/// Lists of buffers, by number: those of parts that are in several places.
#[derive(Default)]
struct Lists {
    all: Vec<Vec<iovec>>,
    free: Vec<u16>,
}

impl Lists {
    /// A list of a payload's buffers; `None` when too many are out.
    #[cold]
    fn take(&mut self, payload: Payload) -> Option<u16> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.all.len() < LISTS_MAX => {
                self.all.push(Vec::new());
                (self.all.len() - 1) as u16
            }
            None => return None,
        };
        let list = &mut self.all[usize::from(index)];
        list.clear();
        list.extend(payload.pieces());
        Some(index)
    }

    #[cold]
    fn give_back(&mut self, list: u16) {
        self.free.push(list);
    }
}

impl Open {
    /// SPDK's channel of a thread of this reactor, for I/O that passes; good as long as the device is not taken away (then ways end) and the thread has channels to
    /// mapped devices. `None` if the device was taken away, or if the thread has no channel to it (yet).
    pub fn passage(&self, thread: Thread) -> Option<NonNull<spdk_io_channel>> {
        let guests = self.guests.borrow();
        let (_, channel) = guests.iter().find(|(guest, _)| *guest == thread)?;
        channel.filter(|_| !self.gone.get())
    }

    /// One more I/O is in flight.
    #[inline(always)]
    pub fn began(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    /// Whether the device was taken away.
    #[inline(always)]
    pub fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// An I/O has ended, or was not submitted after all.
    #[inline(always)]
    pub fn ended(&self) {
        let left = self.in_flight.get() - 1;
        self.in_flight.set(left);
        if left == 0 && self.gone.get() {
            self.give_back();
        }
    }

    /// Gives the channels back, that of the mapper's thread last.
    #[cold]
    fn give_back(&self) {
        self.give_back_to_guests(|_| true);
        if let Some(channel) = NonNull::new(self.channel.replace(null_mut())) {
            // SAFETY: got by the mapper's thread, has nothing in flight, and is given back once.
            unsafe { put(self.thread, channel) };
            self.device.release();
        }
    }

    fn give_back_to_guests(&self, whose: impl Fn(Thread) -> bool) {
        let queues = self.device.queues();
        self.guests.borrow_mut().retain(|(guest, channel)| {
            let gone = whose(*guest);
            if let (true, Some(channel)) = (gone, channel) {
                // SAFETY: got by the guest, has nothing in flight, and is given back once.
                unsafe { put(*guest, *channel) };
                if let Some(queues) = queues {
                    queues.leaves(*guest);
                }
            }
            !gone
        });
    }
}

/// Gives a channel back in the name of the thread that it is of.
///
/// # Safety
/// `channel` was got by `thread`, a thread of this reactor, has nothing in flight, and is given back once.
unsafe fn put(thread: Thread, channel: NonNull<spdk_io_channel>) {
    let current = Thread::current();
    // SAFETY: the caller's promise; all threads of a reactor are polled by this system thread and no other. The rest happens by message.
    unsafe {
        thread.set_current();
        spdk_sys::spdk_put_io_channel(channel.as_ptr());
        if let Some(current) = current {
            current.set_current();
        }
    }
}

/// SPDK has finished a clone; on the mapper's thread of the reactor that submitted it.
unsafe extern "C" fn ended(io: *mut spdk_bdev_io, success: bool, argument: *mut c_void) {
    let status = match success {
        true => Status::Ok,
        // SAFETY: the I/O has completed and is not freed yet.
        false => unsafe { failure(io) },
    };
    // SAFETY: as SPDK will have it: once, when its completion has been told.
    unsafe { spdk_sys::spdk_bdev_free_io(io) };
    core::clone_ended(Name::of_argument(argument), status);
}

/// How an I/O that failed has failed.
///
/// # Safety
/// `io` has completed and is not freed.
#[cold]
pub(super) unsafe fn failure(io: *mut spdk_bdev_io) -> Status {
    let (mut result, mut kind, mut code): (u32, c_int, c_int) = (0, 0, 0);
    // SAFETY: the caller's promise; the pointers are to variables of ours.
    let own = unsafe {
        spdk_sys::spdk_bdev_io_get_nvme_status(io, &mut result, &mut kind, &mut code);
        (*io).internal.status
    };
    // An NVMe bdev that has lost its controller completes without a status of NVMe's; so does any bdev that is going away.
    if c_int::from(own) == spdk_sys::SPDK_BDEV_IO_STATUS_ABORTED {
        return Status::Transport;
    }
    // SPDK has a status of NVMe's for whatever else has failed.
    let status = nvme::Status::new(kind as u8, code as u8);
    match status.is(nvme::Status::COMPARE_FAILURE) {
        true => Status::Miscompare,
        false => verdict(status),
    }
}

impl Env for Lower {
    type Payload = Payload;
    type Channel = Channel;

    fn open(&mut self, lower: LowerId) -> Result<Channel, String> {
        // First of all: whatever follows has to be given back if it is refused.
        let free = self.channels.iter().position(Option::is_none);
        let index = free.unwrap_or(self.channels.len());
        let number = u16::try_from(index).map_err(|_| "too many channels are open")?;
        let bdev = self
            .planes
            .bdevs()
            .by_id(lower)
            .ok_or("the bdev was removed")?;
        let device = Opened::of(&bdev).ok_or("the bdev is of another engine")?;
        let reactors = usize::from(self.cores);
        if let Some(queues) = device.queues().filter(|queues| queues.granted() < reactors) {
            return Err(format!(
                "its NVMe controller grants {} I/O queue{}, and each of the {reactors} reactors needs one",
                queues.granted(),
                if queues.granted() == 1 { "" } else { "s" },
            ));
        }
        let descriptor = device.hold().ok_or("the bdev was removed")?;
        // SAFETY: the descriptor is open as long as the device is held; this is the mapper's thread.
        let channel = unsafe { spdk_sys::spdk_bdev_get_io_channel(descriptor) };
        if channel.is_null() {
            device.release();
            return Err("SPDK has no memory for a channel to it".into());
        }
        let open = Rc::new(Open {
            lower,
            block_shift: device.block_shift(),
            device,
            descriptor,
            thread: self.thread,
            channel: Cell::new(channel),
            guests: RefCell::default(),
            in_flight: Cell::default(),
            gone: Cell::default(),
        });
        match free {
            Some(index) => self.channels[index] = Some(open),
            None => self.channels.push(Some(open)),
        }
        Ok(Channel(number))
    }

    fn close(&mut self, channel: Channel) {
        let open = self.channels[usize::from(channel.0)]
            .take()
            .expect("a channel is closed once");
        debug_assert_eq!(open.in_flight.get(), 0);
        open.give_back();
    }

    #[inline(always)]
    fn submit(&mut self, channel: &mut Channel, io: &LowerIo<Payload>, clone: CloneId) -> Submit {
        let number = channel.0;
        let open = self.channels[usize::from(number)]
            .as_ref()
            .expect("the mapper has it open");
        if open.gone.get() {
            return Submit::Done(Status::Transport);
        }
        let (descriptor, to) = (open.descriptor, open.channel.get());
        let offset = io.sector >> open.block_shift;
        let blocks = u64::from(io.sectors) >> open.block_shift;
        let moves = matches!(io.op, Op::Read | Op::Write);
        let place = if moves { io.payload.contiguous() } else { None };
        let list = match place {
            None if moves => match self.lists.take(io.payload) {
                Some(list) => Some(list),
                None => return Submit::Busy,
            },
            _ => None,
        };
        let name = Name::new(clone, number, list);
        let argument = name.argument();
        // SAFETY: the descriptor and its channel are open, on this thread; the range was checked against the table, and SPDK checks it against
        // the bdev; the buffers are the host's until the original completes, and a list stays where it is until the clone has ended.
        let result = unsafe {
            match (io.op, place) {
                (Op::Read, Some(bytes)) => spdk_sys::spdk_bdev_read_blocks(
                    descriptor,
                    to,
                    bytes.cast(),
                    offset,
                    blocks,
                    Some(ended),
                    argument,
                ),
                (Op::Write, Some(bytes)) => spdk_sys::spdk_bdev_write_blocks(
                    descriptor,
                    to,
                    bytes.cast(),
                    offset,
                    blocks,
                    Some(ended),
                    argument,
                ),
                (Op::Read | Op::Write, None) => {
                    let list = list.expect("taken above");
                    let buffers = &mut self.lists.all[usize::from(list)];
                    let submit = match io.op {
                        Op::Read => spdk_sys::spdk_bdev_readv_blocks,
                        _ => spdk_sys::spdk_bdev_writev_blocks,
                    };
                    submit(
                        descriptor,
                        to,
                        buffers.as_mut_ptr(),
                        buffers.len() as c_int,
                        offset,
                        blocks,
                        Some(ended),
                        argument,
                    )
                }
                (Op::Flush, _) if open.device.flushes_by_command() => {
                    spdk_sys::spdk_bdev_nvme_io_passthru(
                        descriptor,
                        to,
                        &FLUSH,
                        null_mut(),
                        0,
                        Some(ended),
                        argument,
                    )
                }
                (Op::Flush, _) => spdk_sys::spdk_bdev_flush_blocks(
                    descriptor,
                    to,
                    0,
                    open_blocks(descriptor),
                    Some(ended),
                    argument,
                ),
                (Op::Discard, _) => spdk_sys::spdk_bdev_unmap_blocks(
                    descriptor,
                    to,
                    offset,
                    blocks,
                    Some(ended),
                    argument,
                ),
                (Op::WriteZeroes, _) => spdk_sys::spdk_bdev_write_zeroes_blocks(
                    descriptor,
                    to,
                    offset,
                    blocks,
                    Some(ended),
                    argument,
                ),
                (Op::CompareAndWrite | Op::WriteAtomic, _) => {
                    unreachable!("the mapper does it in steps")
                }
            }
        };
        if result == 0 {
            open.began();
            return Submit::Pending;
        }
        if let Some(list) = list {
            self.lists.give_back(list);
        }
        Submit::Done(match -result {
            // Tried again in each of the reactor's turns, which never sleep (PM-15).
            libc::ENOMEM => return Submit::Busy,
            libc::ENOTSUP => Status::NotSupported,
            libc::EBADF => Status::Target,
            _ => Status::IoError,
        })
    }

    #[inline(always)]
    fn complete(&mut self, tag: Tag, status: Status) {
        self.completed.push((tag, status));
        self.gathered = true;
    }

    fn send(&mut self, core: CoreId, message: dm::Message) {
        self.outbox.push((core, message));
        self.gathered = true;
    }

    fn reply(&mut self, ticket: Ticket, answer: Answer) {
        self.answers.push((ticket, answer));
        self.gathered = true;
    }

    fn changed(&mut self, device: DeviceId) {
        self.changed.push(device);
        self.gathered = true;
    }

    fn take_buffer(&mut self, sectors: u32, _: Payload) -> Option<(BufferId, Payload)> {
        self.private.take(sectors)
    }

    fn give_back(&mut self, buffer: BufferId) {
        self.private.give_back(buffer);
    }

    fn fill_read(&mut self, read: Payload, from: Payload) -> bool {
        dm::Payload::copy_from(read, from);
        true
    }

    #[cold]
    fn tamper(&mut self, payload: Payload, tamper: Tamper) -> bool {
        payload.tamper(tamper.offset, tamper.value);
        true
    }

    fn happened(&mut self) {
        self.planes.happened();
    }

    fn limits_may_become(&mut self, device: DeviceId, limits: &Limits) -> Result<(), String> {
        self.planes.limits_may_become(device, limits)
    }

    fn limits_are(&mut self, device: DeviceId, limits: &Arc<Limits>) {
        self.planes.limits_are(device, limits);
    }

    fn cores(&self) -> u16 {
        self.cores
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        self.now_ns
    }
}

/// How many blocks the bdev of an open descriptor has.
///
/// # Safety
/// The descriptor is open.
unsafe fn open_blocks(descriptor: *mut spdk_sys::spdk_bdev_desc) -> u64 {
    // SAFETY: the caller's promise; a bdev is there as long as a descriptor of it is open.
    unsafe { spdk_sys::spdk_bdev_get_num_blocks(spdk_sys::spdk_bdev_desc_get_bdev(descriptor)) }
}
