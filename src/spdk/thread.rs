//! `spdk_thread`s, and work sent to them.

use std::ffi::{CString, c_void};
use std::ptr::NonNull;

use crossbeam_channel::bounded;

/// A thread of SPDK's, which is polled by a reactor. Stays valid until it exits, which is up to whoever made it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Thread(NonNull<spdk_sys::spdk_thread>);

// SAFETY: the address is only a name here; the one function that is called with it from other threads, spdk_thread_send_msg, is made for that.
unsafe impl Send for Thread {}
// SAFETY: as above.
unsafe impl Sync for Thread {}

impl Thread {
    /// The thread that SPDK's own management runs on; there is one while SPDK runs.
    pub fn app() -> Option<Thread> {
        // SAFETY: takes nothing and reads one variable.
        NonNull::new(unsafe { spdk_sys::spdk_thread_get_app_thread() }).map(Thread)
    }

    /// The thread that is polled on this system thread now.
    #[inline(always)]
    pub fn current() -> Option<Thread> {
        // SAFETY: takes nothing and reads one thread-local variable.
        NonNull::new(unsafe { spdk_sys::spdk_get_thread() }).map(Thread)
    }

    /// Makes this the current thread on this system thread, until whoever polls sets another.
    ///
    /// # Safety
    /// It is polled by this very system thread and no other, so that what is done in its name does not run beside it.
    #[inline(always)]
    pub unsafe fn set_current(self) {
        // SAFETY: writes one thread-local variable; what it means is the caller's promise.
        unsafe { spdk_sys::spdk_set_thread(self.0.as_ptr()) };
    }

    /// A new thread that only the reactor of `cpu` polls. To be called on a thread of SPDK's.
    pub fn create(name: &str, cpu: usize) -> Option<Thread> {
        let name = CString::new(name).ok()?;
        // SAFETY: a cpuset is a set of bits without invariants, for which zeroes are valid.
        let mut cpus: spdk_sys::spdk_cpuset = unsafe { std::mem::zeroed() };
        // SAFETY: both read their arguments only, and keep copies; SPDK runs, which the caller's being on its thread shows.
        let thread = unsafe {
            spdk_sys::spdk_cpuset_set_cpu(&mut cpus, u32::try_from(cpu).ok()?, true);
            spdk_sys::spdk_thread_create(name.as_ptr(), &cpus)
        };
        NonNull::new(thread).map(Thread)
    }

    /// The thread that submitted an I/O, and hears of its end.
    ///
    /// # Safety
    /// `io` is an I/O that was submitted and has not been freed.
    #[inline(always)]
    pub unsafe fn of_io(io: *mut spdk_sys::spdk_bdev_io) -> Thread {
        // SAFETY: the caller's promise: such an I/O has a channel, and a channel has a thread.
        Thread(unsafe { NonNull::new_unchecked(spdk_sys::spdk_bdev_io_get_thread(io)) })
    }

    /// Runs `work` on this thread, after what one sender has sent before. From any system thread, as long as this thread has not exited.
    pub fn send(self, work: impl FnOnce() + Send + 'static) {
        // A box of a box: one pointer that carries a vtable.
        let work: Box<Box<dyn FnOnce() + Send>> = Box::new(Box::new(work));
        let context = Box::into_raw(work).cast::<c_void>();
        // SAFETY: `run` takes back what `context` is, once; the thread has not exited, as the caller sees to.
        let result = unsafe { spdk_sys::spdk_thread_send_msg(self.0.as_ptr(), Some(run), context) };
        // Its pool has a quarter of a million messages, and one of the mapper's that is lost would leave a device suspended for ever.
        assert_eq!(result, 0, "SPDK takes a message");
    }

    /// Runs `work` on this thread and waits for what it returns; `None` when the thread went away first. Not to be called on a thread of
    /// SPDK's.
    pub fn call<R: Send + 'static>(self, work: impl FnOnce() -> R + Send + 'static) -> Option<R> {
        let (sender, receiver) = bounded(1);
        self.send(move || {
            let _ = sender.send(work());
        });
        receiver.recv().ok()
    }

    /// Ends the current thread, once it has neither channels nor pollers.
    pub fn exit_current() {
        if let Some(thread) = Thread::current() {
            // SAFETY: called on that thread, as it must be.
            unsafe { spdk_sys::spdk_thread_exit(thread.0.as_ptr()) };
        }
    }
}

unsafe extern "C" fn run(context: *mut c_void) {
    // SAFETY: `Thread::send` made it of such a box, for this one call.
    let work = unsafe { Box::from_raw(context.cast::<Box<dyn FnOnce() + Send>>()) };
    work();
}
