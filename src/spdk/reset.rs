//! A host's reset of a mapped device (AT-78): what waits ends at once, as aborted, on every core; what is below ends by itself, and the reset
//! after it.
//!
//! SPDK keeps new I/O of all hosts away from the device from when it submits the reset until the reset is completed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::core::Inside;
use super::module;
use super::thread::Thread;
use crate::dm::{DeviceId, Status, Tag};

/// How long a reset waits for what is below, in nanoseconds, before it fails: as long as SPDK's own bdevs that share a disk.
const WITHIN_NS: u64 = 15_000_000_000;

/// A reset that is under way.
pub(super) struct Reset {
    device: DeviceId,
    /// The SPDK I/O that it is.
    tag: Tag,
    /// The mapper's thread of the core that it came to, where it is completed.
    thread: Thread,
    until_ns: u64,
    cores_left: AtomicUsize,
    in_vain: AtomicBool,
}

impl Reset {
    pub fn new(
        device: DeviceId,
        tag: Tag,
        thread: Thread,
        cores: usize,
        now_ns: u64,
    ) -> Arc<Reset> {
        Arc::new(Reset {
            device,
            tag,
            thread,
            until_ns: now_ns + WITHIN_NS,
            cores_left: AtomicUsize::new(cores),
            in_vain: AtomicBool::new(false),
        })
    }

    /// Goes on with it on one core; whether it is over there. What is pushed back meanwhile waits again, and is aborted the next time.
    pub fn go_on(&self, inside: &mut Inside) -> bool {
        let left = inside.abort_all(self.device);
        if left > 0 && inside.lower.now_ns < self.until_ns {
            return false;
        }
        if left > 0 {
            self.in_vain.store(true, Ordering::Relaxed);
        }
        // The last core sees what the others have stored.
        if self.cores_left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let status = match self.in_vain.load(Ordering::Relaxed) {
                false => Status::Ok,
                true => Status::IoError,
            };
            let (tag, thread) = (self.tag, self.thread);
            thread.send(move || {
                // SAFETY: the I/O of a reset waits for this, on the system thread that it came to.
                unsafe { module::complete(tag, status, thread) }
            });
        }
        true
    }
}
