//! Signals that end a server: SIGTERM and SIGINT, taken by whoever waits for them and by nobody else.
//!
//! Blocked on the main thread before any other is started, so that every thread inherits the mask, they interrupt no system call
//! and run no handler anywhere; sigwait(3) takes them one after another.

use std::io;
use std::mem::MaybeUninit;

/// The two signals, blocked in this thread and in all that it starts from now on.
pub(super) struct EndSignals {
    set: libc::sigset_t,
}

impl EndSignals {
    /// Blocks them. To be called before any thread is started.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn block() -> io::Result<EndSignals> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set it is given, the other two are given that set; pthread_sigmask changes the
        // mask of this thread only and is told not to return the old one. Both signals exist on Linux.
        let set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
            libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
            let set = set.assume_init();
            match libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) {
                0 => set,
                error => return Err(io::Error::from_raw_os_error(error)),
            }
        };
        Ok(EndSignals { set })
    }

    /// Waits for the next of them; its name.
    pub fn wait(&self) -> &'static str {
        let mut signal = 0;
        // SAFETY: the set is initialised and the number is written to a variable that outlives the call. sigwait fails only
        // for a set with no signal of the system's in it, which this one is not.
        let result = unsafe { libc::sigwait(&raw const self.set, &raw mut signal) };
        assert_eq!(result, 0, "sigwait knows these signals");
        if signal == libc::SIGTERM {
            "SIGTERM"
        } else {
            "SIGINT"
        }
    }
}
