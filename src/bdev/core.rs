//! What all channels of one reactor share: its buffers, and what has ended.

use std::os::fd::RawFd;

use crate::dm::{CloneId, Status};
use crate::reactor::BufferPool;

/// One reactor's side of the backing devices.
pub struct Core {
    buffers: BufferPool,
    /// Clones that ended since the last poll.
    pub(super) ended: Vec<(CloneId, Status)>,
}

impl Core {
    /// A reactor's side, with I/O buffers of at most `buffer_bytes_max`.
    pub fn new(buffer_bytes_max: usize) -> Core {
        Core {
            buffers: BufferPool::new(buffer_bytes_max),
            ended: Vec::new(),
        }
    }

    /// The reactor's I/O buffers.
    pub fn buffers(&self) -> &BufferPool {
        &self.buffers
    }

    /// Adds what has ended to `ended`.
    #[inline(always)]
    pub fn poll(&mut self, ended: &mut Vec<(CloneId, Status)>) {
        ended.append(&mut self.ended);
    }

    /// Submits to the kernel what was gathered since the last time, in one system call.
    pub fn submit_gathered(&mut self) {}

    /// Whether the reactor may sleep: nothing has ended, nothing waits to be submitted.
    pub fn before_sleep(&mut self) -> bool {
        self.ended.is_empty()
    }

    /// A descriptor that has to be watched from now on for completions to end a sleep; given out once.
    pub fn unwatched_fd(&mut self) -> Option<RawFd> {
        None
    }
}
