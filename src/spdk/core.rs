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

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::{c_int, c_void};
use std::mem;
use std::ptr::{NonNull, null};

use spdk_sys::{spdk_bdev_io, spdk_poller};

use super::lower::{Lower, Name};
use super::module;
use super::payload::Payload;
use super::thread::Thread;
use super::world::Shared;
use crate::dm::{self, CoreId, DeviceId, Io, LowerId, Mapper, Stats, Status, Tag};
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
    /// Room for what is being delivered, and for who is let in.
    delivering: Vec<(Tag, Status)>,
    callers: Vec<Caller>,
}

/// Who stands at the door.
enum Caller {
    Submit(DeviceId, Io<Payload>),
    CloneEnded(Name, Status),
    Abort(DeviceId, Tag, NonNull<spdk_bdev_io>),
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
            lower: Lower::new(shared.planes.clone(), cores),
            delivering: Vec::new(),
            callers: Vec::new(),
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

    /// Takes this system thread's core down: nothing is open below any more. The current thread of SPDK's ends.
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
        Thread::exit_current();
    }

    /// Lets a caller in, now or before whoever is in leaves; then delivers.
    #[inline(always)]
    fn call(&self, caller: Caller) {
        if self.entered.replace(true) {
            self.door.borrow_mut().push(caller);
            return;
        }
        let before = Thread::current();
        let as_another = before != Some(self.thread);
        if as_another {
            // SAFETY: both are polled by this system thread: `before` is being polled now, and ours never leaves it.
            unsafe { Thread::set_current(Some(self.thread)) };
        }
        // SAFETY: `entered` was not set, and is until this is done with: there is no other reference.
        let inside = unsafe { &mut *self.inside.get() };
        inside.admit(caller);
        while !self.door.borrow().is_empty() {
            mem::swap(&mut *self.door.borrow_mut(), &mut inside.callers);
            let mut callers = mem::take(&mut inside.callers);
            for caller in callers.drain(..) {
                inside.admit(caller);
            }
            inside.callers = callers;
        }
        self.entered.set(false);
        self.deliver();
        if as_another {
            // SAFETY: it was the current one.
            unsafe { Thread::set_current(before) };
        }
    }

    /// Delivers what the mapper has gathered, until there is nothing more. Within a delivery it is left to that.
    #[inline(always)]
    fn deliver(&self) {
        if self.delivering.replace(true) {
            return;
        }
        loop {
            // SAFETY: nobody is in, and this reference ends before anything is called that may enter.
            let inside = unsafe { &mut *self.inside.get() };
            if !inside.lower.has_gathered() {
                break;
            }
            // Sizes first, so that hosts hear of a new one before I/O that was parked for it ends (LC-16).
            if !inside.lower.changed.is_empty() {
                self.deliver_changes(inside);
            }
            let spare = mem::take(&mut inside.delivering);
            let mut completed = mem::replace(&mut inside.lower.completed, spare);
            for (tag, status) in completed.drain(..) {
                // SAFETY: the mapper gives each tag back once, and tags are made of I/Os that wait for this.
                unsafe { module::complete(tag, status) };
            }
            // SAFETY: as above.
            let inside = unsafe { &mut *self.inside.get() };
            inside.delivering = completed;
            for (ticket, answer) in inside.lower.answers.drain(..) {
                inside.lower.planes.answer(ticket, answer);
            }
            for (core, message) in inside.lower.outbox.drain(..) {
                self.shared.send(core, message);
            }
        }
        self.delivering.set(false);
    }

    #[cold]
    fn deliver_changes(&self, inside: &mut Inside) {
        for device in mem::take(&mut inside.lower.changed) {
            // Every core hears of it; one of them tells SPDK.
            if dm::mapper::home(device, inside.lower.cores) == self.index {
                let limits = inside.mapper.limits(device).cloned();
                self.shared.changed(device, limits);
            }
        }
    }
}

impl Inside {
    #[inline(always)]
    fn admit(&mut self, caller: Caller) {
        let Inside { mapper, lower, .. } = self;
        match caller {
            Caller::Submit(device, io) => {
                let tag = io.tag;
                if let Some(status) = mapper.submit(lower, device, io) {
                    lower.completed.push((tag, status));
                }
            }
            Caller::CloneEnded(name, status) => {
                lower.ended(name);
                mapper.complete_clone(lower, name.clone_id(), status);
            }
            Caller::Abort(device, tag, abort) => {
                let status = match mapper.abort(lower, device, tag) {
                    true => Status::Ok,
                    // It is under way and ends by itself (PM-13).
                    false => Status::IoError,
                };
                lower.completed.push((module::tag_of(abort), status));
            }
            Caller::Work(work) => work(self),
            Caller::Turn => self.turn(),
        }
    }

    /// A backing device was taken away: first its channels, so that nothing more is submitted to it.
    pub fn lower_gone(&mut self, lower: LowerId) {
        self.lower.lower_gone(lower);
        self.mapper.lower_gone(&mut self.lower, lower);
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
    }
}

/// This system thread's core, if it has one.
#[inline(always)]
fn here<'a>() -> Option<&'a Core> {
    // SAFETY: made by `install`, and there until `remove`, which nothing that runs in a call of the core's leads to.
    unsafe { CORE.get().as_ref() }
}

/// Submits an original. False when this system thread has no core.
#[inline(always)]
pub(super) fn submit(device: DeviceId, io: Io<Payload>) -> bool {
    let Some(core) = here() else {
        return false;
    };
    core.call(Caller::Submit(device, io));
    true
}

/// Aborts an original if it is parked, and completes `abort` with whether it was.
pub(super) fn abort(device: DeviceId, tag: Tag, abort: NonNull<spdk_bdev_io>) -> bool {
    let Some(core) = here() else {
        return false;
    };
    core.call(Caller::Abort(device, tag, abort));
    true
}

/// A clone has ended below.
#[inline(always)]
pub(super) fn clone_ended(name: Name, status: Status) {
    let core = here().expect("clones end on the thread that submitted them");
    core.call(Caller::CloneEnded(name, status));
}

/// Runs `work` in this system thread's core.
pub(super) fn enter(work: impl FnOnce(&mut Inside) + 'static) {
    if let Some(core) = here() {
        core.call(Caller::Work(Box::new(work)));
    }
}

unsafe extern "C" fn poll(_: *mut c_void) -> c_int {
    let Some(core) = here() else {
        return 0;
    };
    core.call(Caller::Turn);
    // Idle as far as the reactor's statistics go: what is busy are the pollers of the devices.
    0
}
