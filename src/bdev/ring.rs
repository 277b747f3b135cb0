//! One io_uring of a reactor, for requests of one kind.
//!
//! Submissions are gathered while the reactor turns and handed over with one system call; completions are read from shared memory. Each
//! request has at most one entry in the ring at a time and there are as many entries as requests, so the submission queue is never full
//! when there is a request, and the completion queue (twice as long) never overflows.
//!
//! A ring that polls asks the device for completions, with a system call each turn while a request is under way; its descriptor says nothing,
//! so its reactor does not sleep meanwhile.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::squeue::EntryMarker as _;
use io_uring::{IoUring, cqueue, squeue};

use crate::dm::{CloneId, Status};

/// Who finds out that a request has been completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completions {
    /// The device interrupts.
    Interrupts,
    /// The ring polls the device.
    Polled,
}

/// One I/O under way.
pub(super) trait Request {
    /// The size of entries in the submission queue.
    type Submission: squeue::EntryMarker;
    /// The size of entries in the completion queue.
    type Completion: cqueue::EntryMarker;

    fn clone_id(&self) -> CloneId;

    /// Whether its device was taken away: then the kernel is asked for nothing more.
    fn is_gone(&self) -> bool;

    /// The entry of the present step. What it points to stays valid until the request has ended.
    fn entry(&mut self) -> Self::Submission;

    /// The present step's entry has completed with `result`.
    fn completed(&mut self, result: i32) -> Next;
}

/// What becomes of a request.
pub(super) enum Next {
    /// Another entry at once: more to transfer, or another step.
    Again,
    /// The same entry at the next poll: the kernel had no room.
    Later,
    /// It is over.
    Ended(Status),
}

pub(super) struct Ring<R: Request> {
    io_uring: IoUring<R::Submission, R::Completion>,
    requests: Box<[Option<R>]>,
    /// Indexes into `requests`.
    free: Vec<u32>,
    /// Entries written since the last system call.
    gathered: usize,
    /// Requests that the kernel had no room for; tried again at the next poll.
    later: Vec<u32>,
    completions: Completions,
    /// Whether [`Ring::unwatched_fd`] has given the descriptor out.
    watched: bool,
}

impl<R: Request> Ring<R> {
    /// # Errors
    /// EPERM or ENOSYS where io_uring is forbidden or unknown; EINVAL where it is too old for entries of this size; ENOMEM.
    pub(super) fn new(entries: u32, completions: Completions) -> io::Result<Ring<R>> {
        let builder = || {
            let mut builder = IoUring::<R::Submission, R::Completion>::builder();
            if completions == Completions::Polled {
                builder.setup_iopoll();
            }
            builder
        };
        // The first choice spares the interrupt that delivers a completion (5.19, 6.0); the second is known everywhere.
        let io_uring = builder()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_single_issuer()
            .build(entries)
            .or_else(|error| match error.raw_os_error() {
                Some(libc::EINVAL) => builder().build(entries),
                _ => Err(error),
            })?;
        Ok(Ring {
            io_uring,
            requests: (0..entries).map(|_| None).collect(),
            free: (0..entries).rev().collect(),
            gathered: 0,
            later: Vec::with_capacity(entries as usize),
            completions,
            watched: false,
        })
    }

    /// A descriptor that is readable when something has completed; given once.
    pub(super) fn unwatched_fd(&mut self) -> Option<RawFd> {
        if self.watched || self.completions == Completions::Polled {
            return None;
        }
        self.watched = true;
        Some(self.io_uring.as_raw_fd())
    }

    /// Whether there is room for a request.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Takes a request; [`Ring::has_room`] must have said so.
    #[inline]
    pub(super) fn start(&mut self, request: R) {
        let index = self
            .free
            .pop()
            .expect("the caller has asked whether there is room");
        self.requests[index as usize] = Some(request);
        self.gather(index);
    }

    fn gather(&mut self, index: u32) {
        let mut entry = self.request(index).entry();
        entry.set_user_data(u64::from(index));
        // SAFETY: what the entry points to stays valid until the request completes: its own buffer, the payload (by its constructor's
        // promise), static zeroes; the descriptor is kept open by the request.
        let pushed = unsafe { self.io_uring.submission().push(&entry) };
        pushed.expect("one entry per request at most, and as many entries as requests");
        self.gathered += 1;
    }

    #[inline]
    pub(super) fn submit_gathered(&mut self) {
        if self.gathered > 0 {
            self.submit();
        }
    }

    fn submit(&mut self) {
        match self.io_uring.submit() {
            Ok(count) => self.gathered = self.gathered.saturating_sub(count),
            Err(error) => match error.raw_os_error() {
                // No memory now, or a signal: the entries stay in the queue for the next turn.
                Some(libc::EAGAIN | libc::EBUSY | libc::EINTR | libc::ENOMEM) => {}
                _ => panic!("io_uring_enter: {error}"),
            },
        }
    }

    #[inline]
    pub(super) fn poll(&mut self, ended: &mut Vec<(CloneId, Status)>) {
        if self.free.len() < self.requests.len() {
            self.poll_busy(ended);
        }
    }

    fn poll_busy(&mut self, ended: &mut Vec<(CloneId, Status)>) {
        for position in 0..self.later.len() {
            let index = self.later[position];
            match self.request(index).is_gone() {
                true => self.end(index, Status::Transport, ended),
                false => self.gather(index),
            }
        }
        self.later.clear();
        // With cooperative task running, the kernel asks for a system call when it has completions to write.
        let polls = self.completions == Completions::Polled;
        if polls || self.gathered > 0 || self.io_uring.submission().taskrun() {
            self.submit();
        }
        // As many as there are now at most: what is resubmitted below can complete only after the next system call.
        while let Some(entry) = self.next_completion() {
            let index = entry.0;
            let request = self.request(index);
            match request.completed(entry.1) {
                Next::Ended(status) => self.end(index, status, ended),
                // Its device was taken away meanwhile.
                _ if request.is_gone() => self.end(index, Status::Transport, ended),
                Next::Again => self.gather(index),
                Next::Later => self.later.push(index),
            }
        }
    }

    fn request(&mut self, index: u32) -> &mut R {
        self.requests[index as usize]
            .as_mut()
            .expect("a request in use")
    }

    fn end(&mut self, index: u32, status: Status, ended: &mut Vec<(CloneId, Status)>) {
        ended.push((self.request(index).clone_id(), status));
        self.requests[index as usize] = None;
        self.free.push(index);
    }

    #[inline]
    fn next_completion(&mut self) -> Option<(u32, i32)> {
        let entry: cqueue::Entry = self.io_uring.completion().next()?.into();
        Some((entry.user_data() as u32, entry.result()))
    }

    /// Whether everything is with the kernel, which will say when there is something to look at.
    pub(super) fn may_sleep(&mut self) -> bool {
        if self.completions == Completions::Polled {
            return self.free.len() == self.requests.len();
        }
        self.gathered == 0
            && self.later.is_empty()
            && !self.io_uring.submission().taskrun()
            && self.io_uring.completion().is_empty()
    }
}

#[cfg(test)]
impl<R: Request> Ring<R> {
    /// Takes a request as one that the kernel had no room for.
    pub(super) fn start_later(&mut self, request: R) {
        let index = self.free.pop().expect("there is room");
        self.requests[index as usize] = Some(request);
        self.later.push(index);
    }
}

impl<R: Request> Drop for Ring<R> {
    /// The kernel may still be writing into payloads and buffers: they must not be freed before it is done.
    fn drop(&mut self) {
        let mut ended = Vec::new();
        loop {
            self.poll(&mut ended);
            if self.free.len() == self.requests.len() {
                return;
            }
            self.submit_gathered();
            // An error means that this round did not wait.
            let _ = self.io_uring.submit_and_wait(1);
        }
    }
}
