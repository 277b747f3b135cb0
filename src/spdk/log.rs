//! What SPDK says: errors and warnings go to standard error as they come, and the last lines are kept for whoever has to explain why SPDK did
//! not start.

use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_int};
use std::io::Write;
use std::sync::{Mutex, PoisonError};

/// Lines kept: more than SPDK says of one failure.
const LINES_KEPT: usize = 16;

static LINES: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Listens to SPDK from now on.
pub(super) fn listen() {
    // SAFETY: the function takes a line as the shim gives it, on any thread.
    unsafe { spdk_sys::polldm_log_to(Some(line)) };
}

/// The last errors and warnings.
pub(super) fn last_lines() -> Vec<String> {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().cloned().collect()
}

/// Forgets them: what follows is about something else.
pub(super) fn forget() {
    LINES.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

unsafe extern "C" fn line(level: c_int, text: *const c_char) {
    if level > spdk_sys::SPDK_LOG_WARN {
        return;
    }
    // SAFETY: the shim gives a text that ends, and lives until this returns.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    // Nobody to tell when standard error is closed.
    let _ = writeln!(std::io::stderr(), "spdk: {text}");
    let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    if lines.len() == LINES_KEPT {
        lines.pop_front();
    }
    lines.push_back(text.into_owned());
}
