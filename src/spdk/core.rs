//! One reactor of SPDK's: a mapper, who enters it, and what follows when it is left.
//!
//! Everything happens on the system thread of the reactor, so there is no lock; but SPDK's functions call back. A core is *entered* for as long
//! as its mapper runs, and what calls back meanwhile (an I/O that another bdev sends us from within our own submission) is put at the
//! door and dealt with before the core is left. What the mapper has gathered is *delivered* once it has been left: a completion runs
//! whatever a host does with it, the submission of its next I/O included, which enters again.
//!
//! ```text
//! submit_request ┐                     ┌ deferred to the door when entered already
//! clone ended    ├▶ enter ▶ mapper ▶ leave ▶ deliver: changed, completions, answers, messages
//! poller, work   ┘                                          └ nested: left to the outer delivery
//! ```
//!
//! What passes ([`pass`], [`now`]) only looks in while nobody is in, and nothing of SPDK's is called meanwhile.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::{c_int, c_void};
use std::mem;
use std::ptr::{NonNull, null};
use std::sync::Arc;

use spdk_sys::{spdk_bdev_io, spdk_poller};

use super::lower::{Channel, Lower, Name};
use super::module;
use super::passing::{Below, Own, Passed, Plain};
use super::payload::Payload;
use super::reset::Reset;
use super::thread::Thread;
use super::world::Shared;
use crate::dm::{self, CoreId, DeviceId, Env as _, Io, LowerId, Mapper, Stats, Status, Tag};
use crate::reactor::monotonic_ns;

/// Originals that a core has room for before it has to grow: four queues of the NVMe-oF target's default depth.
const OUTSTANDING_AT_START: usize = 512;

thread_local! {
    /// The core of this system thread; null where there is none.
    static CORE: Cell<*const Core> = const { Cell::new(null()) };
}

/// One reactor's part of the engine.
pub(super) struct Core {
    index: CoreId,
    /// The mapper's thread, in whose name it uses SPDK.
    thread: Thread,
    shared: Shared,
    entered: Cell<bool>,
    delivering: Cell<bool>,
    /// Only while `entered` was set by whoever holds it.
    inside: UnsafeCell<Inside>,
    /// What came while the core was entered.
    door: RefCell<Vec<Caller>>,
    poller: Cell<*mut spdk_poller>,
}

/// What only whoever has entered touches.
pub(super) struct Inside {
    pub mapper: Mapper<Lower>,
    pub lower: Lower,
    /// Room for who is let in.
    callers: Vec<Caller>,
    /// Threads of this reactor that have channels to devices, and how many.
    submitters: Vec<(Thread, usize)>,
    /// Resets that wait for what is below here.
    resets: Vec<Arc<Reset>>,
}

/// Who stands at the door.
enum Caller {
    Submit(DeviceId, Io<Payload>),
    CloneEnded(Name, Status),
    /// One that was let through has ended.
    Passed(NonNull<spdk_bdev_io>, Status),
    /// Of a tag, by an I/O; whether it is certain to end as aborted even if it is not parked.
    Abort(DeviceId, Tag, NonNull<spdk_bdev_io>, bool),
    Work(Box<dyn FnOnce(&mut Inside)>),
    /// The poller: what its time has come for.
    Turn,
}

impl Core {
    /// Makes this system thread's core, for the current thread of SPDK's, and polls it from now on.
    pub fn install(shared: Shared, index: CoreId, cores: u16) {
        let thread = Thread::current().expect("cores are made on threads of SPDK's");
        let inside = Inside {
            mapper: Mapper::new(index, OUTSTANDING_AT_START),
            lower: Lower::new(shared.planes.clone(), thread, cores),
            callers: Vec::new(),
            submitters: Vec::new(),
            resets: Vec::new(),
        };
        let core = Box::new(Core {
            index,
            thread,
            shared,
            entered: Cell::new(false),
            delivering: Cell::new(false),
            inside: UnsafeCell::new(inside),
            door: RefCell::default(),
            poller: Cell::new(std::ptr::null_mut()),
        });
        // SAFETY: the function looks its core up by itself; the name is a static text.
        let poller = unsafe {
            spdk_sys::spdk_poller_register_named(
                Some(poll),
                std::ptr::null_mut(),
                0,
                c"polldm".as_ptr(),
            )
        };
        assert!(!poller.is_null(), "SPDK has memory for a poller");
        core.poller.set(poller);
        CORE.set(Box::into_raw(core));
    }

    /// Takes this system thread's core down: nothing is open below any more. SPDK's thread stays: other cores may still send to it.
    pub fn remove() {
        let core = CORE.replace(null());
        if core.is_null() {
            return;
        }
        // SAFETY: made of a box by `install`; nobody else of this system thread has it any more.
        let core = unsafe { Box::from_raw(core.cast_mut()) };
        let mut poller = core.poller.get();
        // SAFETY: registered on this thread by `install`.
        unsafe { spdk_sys::spdk_poller_unregister(&mut poller) };
    }

    /// Lets a caller in, now or before whoever is in leaves; then delivers. `current` is SPDK's current thread.
    #[inline(always)]
    fn call(&self, current: Thread, caller: Caller) {
        match self.entered.replace(true) {
            true => self.door.borrow_mut().push(caller),
            false => {
                self.inside(current).admit(caller);
                self.leave(current);
            }
        }
    }

    /// What is inside, for whoever has just set `entered`, until [`Core::leave`]. Callers know SPDK's current thread: to ask for it
    /// costs as much as a good part of the mapper.
    #[inline(always)]
    #[expect(
        clippy::mut_from_ref,
        reason = "`entered` sees to it that there is one at a time"
    )]
    fn inside(&self, current: Thread) -> &mut Inside {
        debug_assert!(self.entered.get() && Thread::current() == Some(current));
        if current != self.thread {
            // SAFETY: both are polled by this system thread: `current` is being polled now, and ours never leaves it.
            unsafe { self.thread.set_current() };
        }
        // SAFETY: `entered` was not set before, and is until this is done with: there is no other reference.
        unsafe { &mut *self.inside.get() }
    }

    /// Gets the current thread a channel of its own to what is beneath a channel of the mapper's, so that its next I/O may pass.
    #[cold]
    fn make_passage(&self, current: Thread, channel: Channel) {
        // SAFETY: nobody is in: callers see to it.
        let inside = unsafe { &mut *self.inside.get() };
        let Some(descriptor) = inside.lower.lacks_passage(channel, current) else {
            return;
        };
        self.entered.set(true);
        // SAFETY: open as long as the mapper has its channel, which it cannot give back while this core is entered.
        let got = unsafe { spdk_sys::spdk_bdev_get_io_channel(descriptor) };
        let inside = self.inside(current);
        inside
            .lower
            .make_passage(channel, current, NonNull::new(got));
        self.leave(current);
    }

    /// Lets in who came meanwhile, leaves, and delivers.
    #[inline(always)]
    fn leave(&self, current: Thread) {
        // SAFETY: as in `inside`, whose reference is done with.
        let inside = unsafe { &mut *self.inside.get() };
        if !self.door.borrow().is_empty() {
            self.admit_from_the_door(inside);
        }
        self.entered.set(false);
        if inside.lower.gathered {
            self.deliver();
        }
        if current != self.thread {
            // SAFETY: it was the current one.
            unsafe { current.set_current() };
        }
    }

    #[cold]
    fn admit_from_the_door(&self, inside: &mut Inside) {
        while !self.door.borrow().is_empty() {
            mem::swap(&mut *self.door.borrow_mut(), &mut inside.callers);
            let mut callers = mem::take(&mut inside.callers);
            for caller in callers.drain(..) {
                inside.admit(caller);
            }
            inside.callers = callers;
        }
    }

    /// Delivers what the mapper has gathered, until there is nothing more. Within a delivery it is left to that.
    #[inline(always)]
    fn deliver(&self) {
        if self.delivering.replace(true) {
            return;
        }
        let mut delivered = 0;
        loop {
            // SAFETY: nobody is in, and this reference ends before anything is called that may enter.
            let lower = unsafe { &mut (*self.inside.get()).lower };
            // Sizes first, so that hosts hear of a new one before I/O that was parked for it ends (LC-16).
            if !lower.changed.is_empty() {
                self.deliver_changes();
            } else if let Some(&(tag, status)) = lower.completed.get(delivered) {
                delivered += 1;
                // SAFETY: the mapper gives each tag back once, and tags are made of I/Os that wait for this.
                unsafe { module::complete(tag, status, self.thread) };
            } else {
                break;
            }
        }
        // SAFETY: as above; what is called now enters nobody.
        let lower = unsafe { &mut (*self.inside.get()).lower };
        lower.completed.clear();
        for (ticket, answer) in lower.answers.drain(..) {
            lower.planes.answer(ticket, answer);
        }
        for (core, message) in lower.outbox.drain(..) {
            self.shared.send(core, message);
        }
        lower.gathered = false;
        self.delivering.set(false);
    }

    #[cold]
    fn deliver_changes(&self) {
        // SAFETY: nobody is in, and nobody is let in here.
        let Inside { mapper, lower, .. } = unsafe { &mut *self.inside.get() };
        for device in lower.changed.drain(..) {
            // Every core hears of it; one of them tells SPDK.
            if dm::mapper::home(device, lower.cores) == self.index {
                let limits = mapper.limits(device).cloned();
                self.shared.changed(device, limits);
            }
        }
    }
}

impl Inside {
    fn admit(&mut self, caller: Caller) {
        let Inside { mapper, lower, .. } = self;
        match caller {
            Caller::Submit(device, io) => {
                let tag = io.tag;
                if let Some(status) = mapper.submit(lower, device, io) {
                    lower.complete(tag, status);
                }
            }
            Caller::CloneEnded(name, status) => self.clone_ended(name, status),
            Caller::Passed(io, status) => {
                // SAFETY: it was let through, waits for this, and is not completed.
                unsafe { Passed::of(io) }.end(mapper, lower, status);
            }
            Caller::Abort(device, tag, abort, is_cut) => {
                let status = match mapper.abort(lower, device, tag) || is_cut {
                    true => Status::Ok,
                    // It is under way and ends by itself (PM-13).
                    false => Status::IoError,
                };
                lower.complete(module::tag_of(abort), status);
            }
            Caller::Work(work) => work(self),
            Caller::Turn => self.turn(),
        }
    }

    #[inline(always)]
    fn clone_ended(&mut self, name: Name, status: Status) {
        let Inside { mapper, lower, .. } = self;
        lower.ended(name);
        mapper.complete_clone(lower, name.clone_id(), status);
    }

    /// A thread of this reactor has one more channel to a device, or one less; without any it needs none to what is beneath.
    pub fn submits(&mut self, thread: Thread, more: bool) {
        let known = self.submitters.iter().position(|(of, _)| *of == thread);
        match (known, more) {
            (None, true) => self.submitters.push((thread, 1)),
            (Some(index), true) => self.submitters[index].1 += 1,
            (Some(index), false) => {
                self.submitters[index].1 -= 1;
                if self.submitters[index].1 == 0 {
                    self.submitters.swap_remove(index);
                    self.lower.thread_leaves(thread);
                }
            }
            (None, false) => {}
        }
    }

    /// A backing device was taken away: first its channels, so that nothing more is submitted to it.
    pub fn lower_gone(&mut self, lower: LowerId) {
        self.lower.lower_gone(lower);
        self.mapper.lower_gone(&mut self.lower, lower);
    }

    /// Aborts what waits at a device on this core; how many I/Os of its hosts are left, which are below.
    pub fn abort_all(&mut self, device: DeviceId) -> usize {
        self.mapper.abort_all(&mut self.lower, device)
    }

    /// Begins a reset on this core.
    fn reset(&mut self, reset: Arc<Reset>) {
        if !reset.go_on(self) {
            self.resets.push(reset);
        }
    }

    #[cold]
    fn go_on_with_resets(&mut self) {
        let mut resets = mem::take(&mut self.resets);
        resets.retain(|reset| !reset.go_on(self));
        self.resets = resets;
    }

    /// The bdev of a device takes no more I/O: what knew its way asks again, and is refused.
    pub fn close_ways(&self, device: DeviceId) {
        self.mapper.close_ways(device);
    }

    /// Counts of a device on this core.
    pub fn stats(&self, device: DeviceId) -> Option<Stats> {
        self.mapper.stats(device)
    }

    fn turn(&mut self) {
        self.lower.now_ns = monotonic_ns();
        if self.mapper.wants_poll(self.lower.now_ns) {
            self.mapper.poll(&mut self.lower);
        }
        if !self.resets.is_empty() {
            self.go_on_with_resets();
        }
    }
}

/// This system thread's core, if it has one.
#[inline(always)]
fn here<'a>() -> Option<&'a Core> {
    // SAFETY: made by `install`, and there until `remove`, which nothing that runs in a call of the core's leads to.
    unsafe { CORE.get().as_ref() }
}

/// This reactor's time, in nanoseconds, if what passes may look in: there is a core, and nobody is in.
#[inline(always)]
pub(super) fn now() -> Option<u64> {
    let core = here().filter(|core| !core.entered.get())?;
    // SAFETY: nobody is in.
    Some(unsafe { (*core.inside.get()).lower.now_ns })
}

/// Lets a read, or a write without force-unit-access, through, if it may pass (`passing.rs`), in the name of the thread of `own`, which is SPDK's current
/// one. It is in flight from now on.
#[inline(always)]
pub(super) fn pass(own: &mut Own, io: &Plain) -> Option<Below> {
    let core = here().filter(|core| !core.entered.get())?;
    // SAFETY: nobody is in, and nothing is called that enters before this is done with.
    let Inside { mapper, lower, .. } = unsafe { &mut *core.inside.get() };
    let passage = mapper.pass(lower, io.device, io.op, io.sector, io.sectors)?;
    let channel = *passage.channel;
    let found = own.by(&passage, lower, io);
    if found.is_none() {
        core.make_passage(own.thread, channel);
    }
    found
}

/// What was let through has ended below, on the thread that it is of: badly, or while somebody waits for it.
#[cold]
pub(super) fn ended(io: NonNull<spdk_bdev_io>, status: Status) {
    let core = here().expect("I/O ends on the thread that submitted it");
    let current = Thread::current().expect("I/O is of a thread");
    core.call(current, Caller::Passed(io, status));
}

/// Submits an original, with SPDK's current thread; how it ended, if it has. Whoever submitted it then completes it, within the submission,
/// where SPDK sees that a host's answer to it is not one more submission within this one, and so on.
///
/// # Errors
/// This system thread has no core.
#[inline(always)]
pub(super) fn submit(
    current: Thread,
    device: DeviceId,
    io: Io<Payload>,
) -> Result<Option<Status>, NoCore> {
    let core = here().ok_or(NoCore)?;
    if core.entered.replace(true) {
        core.door.borrow_mut().push(Caller::Submit(device, io));
        return Ok(None);
    }
    let Inside { mapper, lower, .. } = core.inside(current);
    let ended = mapper.submit(lower, device, io);
    core.leave(current);
    Ok(ended)
}

/// I/O came in on a system thread that is no reactor's.
pub(super) struct NoCore;

/// Aborts an original if it is parked, and completes `abort` with whether it was, or is cut where it is (`zeroes.rs`).
pub(super) fn abort(
    device: DeviceId,
    tag: Tag,
    abort: NonNull<spdk_bdev_io>,
    is_cut: bool,
) -> bool {
    let (Some(core), Some(current)) = (here(), Thread::current()) else {
        return false;
    };
    core.call(current, Caller::Abort(device, tag, abort, is_cut));
    true
}

/// Resets a device, on every core; completes `reset` with whether it could. False when this system thread has no core.
pub(super) fn reset(device: DeviceId, reset: NonNull<spdk_bdev_io>) -> bool {
    let Some(core) = here() else {
        return false;
    };
    let Core { shared, thread, .. } = core;
    let tag = module::tag_of(reset);
    let reset = Reset::new(device, tag, *thread, shared.cores(), monotonic_ns());
    shared.in_all(move |inside| inside.reset(reset));
    true
}

/// A clone has ended below.
#[inline(always)]
pub(super) fn clone_ended(name: Name, status: Status) {
    let core = here().expect("clones end on the thread that submitted them");
    if core.entered.replace(true) {
        core.door
            .borrow_mut()
            .push(Caller::CloneEnded(name, status));
        return;
    }
    core.inside(core.thread).clone_ended(name, status);
    core.leave(core.thread);
}

/// The current thread has one more channel to a device, or one less.
pub(super) fn submits(more: bool) {
    if let Some(current) = Thread::current() {
        enter(move |inside| inside.submits(current, more));
    }
}

/// Runs `work` in this system thread's core.
pub(super) fn enter(work: impl FnOnce(&mut Inside) + 'static) {
    if let (Some(core), Some(current)) = (here(), Thread::current()) {
        core.call(current, Caller::Work(Box::new(work)));
    }
}

unsafe extern "C" fn poll(_: *mut c_void) -> c_int {
    let Some(core) = here() else {
        return 0;
    };
    core.call(core.thread, Caller::Turn);
    // Idle as far as the reactor's statistics go: what is busy are the pollers of the devices.
    0
}
