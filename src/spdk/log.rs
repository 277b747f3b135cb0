//! What SPDK says: errors and warnings go to standard error as they come, and the last lines are kept for whoever has to explain why SPDK did
//! not start.

use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_int};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A line that is kept is not told again for so long: to reach a target that is gone SPDK tries every second, and says so in eight lines.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Lines kept: more than SPDK says of one failure.
const LINES_KEPT: usize = 16;

/// Each with when it was told.
static LINES: Mutex<VecDeque<(String, Instant)>> = Mutex::new(VecDeque::new());

/// Whether lines are kept only.
static HELD: AtomicBool = AtomicBool::new(false);

/// Listens to SPDK from now on: it hands its log to what its options name only when DPDK runs, and what it says before is why DPDK does not.
pub(super) fn listen() {
    // SAFETY: the functions take a line as SPDK and the shim give it, on any thread; SPDK is not running yet.
    unsafe {
        spdk_sys::polldm_log_to(Some(line));
        spdk_sys::spdk_log_open(Some(spdk_sys::polldm_log));
    }
}

/// The last errors and warnings.
pub(super) fn last_lines() -> Vec<String> {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().map(|(line, _)| line.clone()).collect()
}

/// Forgets them: what follows is about something else.
pub(super) fn forget() {
    LINES.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// Tells nobody from now on: SPDK ends, and what it says of that is of interest only if it does not.
pub(super) fn hold() {
    forget();
    HELD.store(true, Ordering::Relaxed);
}

unsafe extern "C" fn line(level: c_int, text: *const c_char) {
    if level > spdk_sys::SPDK_LOG_WARN {
        return;
    }
    // SAFETY: the shim gives a text that ends, and lives until this returns.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    lines.retain(|(_, told)| told.elapsed() < TOLD_AGAIN_AFTER);
    if lines.iter().any(|(line, _)| *line == text) {
        return;
    }
    if !HELD.load(Ordering::Relaxed) {
        // Nobody to tell when standard error is closed.
        let _ = writeln!(std::io::stderr(), "spdk: {text}");
    }
    if lines.len() == LINES_KEPT {
        lines.pop_front();
    }
    lines.push_back((text.into_owned(), Instant::now()));
}
