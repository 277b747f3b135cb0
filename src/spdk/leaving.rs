//! The end of the process while SPDK still runs: when a stop is given up, or a second signal wants no more waiting. A destructor of SPDK's library takes away the
//! memory that its reactors are polling, and the process would end by SIGSEGV instead of with its exit code. So then it leaves without destructors.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether SPDK's reactors may be polling.
static RUNS: AtomicBool = AtomicBool::new(false);

/// SPDK is about to be started, which is done once in the life of a process.
pub(super) fn begins() {
    RUNS.store(true, Ordering::Release);
    // SAFETY: a function of the expected type, which takes nothing. What is registered last is called first, and destructors of libraries come after all.
    let registered = unsafe { spdk_sys::on_exit(Some(leave), null_mut()) };
    assert_eq!(registered, 0, "there is memory to note what an exit does");
}

/// SPDK has ended.
pub(super) fn has_ended() {
    RUNS.store(false, Ordering::Release);
}

/// The process exits with `code`. Rust has written out by now what it had to write.
unsafe extern "C" fn leave(code: c_int, _: *mut c_void) {
    if RUNS.load(Ordering::Acquire) {
        // SAFETY: ends the process, whatever its threads are doing.
        unsafe { libc::_exit(code) };
    }
}
