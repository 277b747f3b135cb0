//! What all channels of one reactor share.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::rc::{Rc, Weak};

use crate::dm::{CloneId, LowerId, Status};
use crate::reactor::BufferPool;

use super::channel::Hold;
use super::region::RegionHandle;
use super::remote::{Links, Parts};
use super::ring::{Completions, Ring};
use super::rings::Rings;
use super::{file, passthrough};

/// I/Os that each io_uring of one reactor has under way at once; beyond, [`crate::dm::Submit::Busy`]. Four queues of depth 128 saturate any
/// single disk; a slot costs about 150 bytes here and 200 in the kernel.
const RING_ENTRIES: u32 = 512;

/// Buffers for I/O whose memory is not aligned for direct I/O, and for private buffers ([`crate::dm::Env::take_buffer`]): apart from the front ends' pool, and held only while a lower I/O
/// runs, so that a front end which holds all its own buffers cannot keep its own I/O from ending.
const BOUNCE_BYTES_MAX: usize = 32 << 20;

/// Memory given back to the system in one turn: some ten to hundred microseconds when its pages are present.
const ZERO_PER_TURN_BYTES: u64 = 1 << 20;

/// A large range of a malloc device that is being zeroed, a piece per turn.
pub(super) struct Zeroing {
    pub(super) region: Rc<RegionHandle>,
    /// In bytes: what is left.
    pub(super) offset: u64,
    pub(super) left: u64,
    pub(super) clone: CloneId,
}

/// The backing devices' side of one reactor. To be used on that reactor's thread only.
pub struct Core {
    buffers: BufferPool,
    bounce: BufferPool,
    /// What ended and has not been told yet; as long as what front ends have outstanding, and keeps its room.
    completed: Vec<(CloneId, Status)>,
    zeroing: VecDeque<Zeroing>,
    /// What the channels of this reactor hold, by device; of some the channel is closed already.
    holds: Vec<(LowerId, Weak<Hold>)>,
    links: Links,
    rings: Rings,
}

impl Core {
    /// A core with a buffer pool of at most `buffer_bytes_max` bytes, for front ends and lent reads. Takes neither memory nor descriptors yet.
    pub fn new(buffer_bytes_max: usize) -> Core {
        Core::with_ring_entries(buffer_bytes_max, RING_ENTRIES)
    }

    /// As [`Core::new`], with room for `ring_entries` (a power of two) I/Os in each io_uring at once.
    pub fn with_ring_entries(buffer_bytes_max: usize, ring_entries: u32) -> Core {
        Core {
            buffers: BufferPool::new(buffer_bytes_max),
            bounce: BufferPool::new(BOUNCE_BYTES_MAX),
            completed: Vec::new(),
            zeroing: VecDeque::new(),
            holds: Vec::new(),
            links: Links::default(),
            rings: Rings::new(ring_entries),
        }
    }

    /// The reactor's buffers.
    #[inline]
    pub fn buffers(&self) -> &BufferPool {
        &self.buffers
    }

    /// Buffers for what is held only while a lower I/O runs: what the I/O of a front end waits for must not come out of the pool
    /// that the front end may have emptied.
    #[inline]
    pub(crate) fn bounce(&self) -> &BufferPool {
        &self.bounce
    }

    /// A descriptor that is readable when an I/O to a file or a namespace has ended, or something has come from a remote, for the reactor to watch while it
    /// sleeps: each is given once, as soon as it is there. They stay open as long as this core.
    pub fn unwatched_fd(&mut self) -> Option<RawFd> {
        let fd = self.rings.unwatched_fd();
        fd.or_else(|| self.links.unwatched_fd())
    }

    /// One of these descriptors is readable.
    pub fn ready(&mut self) {
        self.links.look();
    }

    /// When this core wants to be polled though nothing has come; `u64::MAX` for never.
    pub fn due_ns(&self) -> u64 {
        self.links.due_ns()
    }

    /// Adds everything that has ended since the last call to `ended`. Without a channel to a file or a namespace this makes no system call; with one,
    /// only if there is something to submit, or something under way that is polled.
    #[inline]
    pub fn poll(&mut self, ended: &mut Vec<(CloneId, Status)>) {
        ended.append(&mut self.completed);
        if !self.zeroing.is_empty() {
            self.zero_some(ended);
        }
        self.rings.poll(ended);
        self.links.poll(ended);
    }

    /// Hands what was submitted since the last call to the kernel, with one system call for all files, two for all namespaces and one for each remote
    /// if there is anything. To be called once per turn, after the front ends.
    #[inline]
    pub fn submit_gathered(&mut self) {
        self.rings.submit_gathered();
        self.links.send(&mut self.completed);
    }

    /// Whether the reactor may sleep: everything has been handed to the kernel, which will make the descriptor readable.
    pub fn before_sleep(&mut self) -> bool {
        self.submit_gathered();
        self.links.may_sleep(&mut self.completed)
            && self.completed.is_empty()
            && self.zeroing.is_empty()
            && self.rings.may_sleep()
    }

    #[inline(always)]
    pub(super) fn complete_later(&mut self, clone: CloneId, status: Status) {
        self.completed.push((clone, status));
    }

    pub(super) fn zero_later(&mut self, zeroing: Zeroing) {
        self.zeroing.push_back(zeroing);
    }

    #[cold]
    fn zero_some(&mut self, ended: &mut Vec<(CloneId, Status)>) {
        let Some(zeroing) = self.zeroing.front_mut() else {
            return;
        };
        if zeroing.region.is_gone() {
            ended.push((zeroing.clone, Status::Transport));
            self.zeroing.pop_front();
            return;
        }
        let bytes = zeroing.left.min(ZERO_PER_TURN_BYTES);
        zeroing.region.zero(zeroing.offset, bytes as usize);
        zeroing.offset += bytes;
        zeroing.left -= bytes;
        if zeroing.left == 0 {
            ended.push((zeroing.clone, Status::Ok));
            self.zeroing.pop_front();
        }
    }

    /// A device was taken away ([`super::Registry::hot_remove`]): from here on, channels of this reactor to it end everything with
    /// [`Status::Transport`], and so does what has not reached the kernel yet. What the kernel has, ends as it will: it may still be
    /// writing into the payload, and nothing can make it stop for sure; what a remote has, ends now, because its connection is closed.
    /// Then the reactor has nothing open of the device any more.
    pub fn lower_gone(&mut self, lower: LowerId) {
        self.links.gone(lower, &mut self.completed);
        self.holds.retain(|(id, hold)| match hold.upgrade() {
            Some(hold) if *id == lower => {
                hold.release();
                false
            }
            hold => hold.is_some(),
        });
    }

    /// Takes note of what a channel holds, for [`Core::lower_gone`].
    pub(super) fn note_hold(&mut self, lower: LowerId, hold: &Rc<Hold>) {
        self.holds.retain(|(_, hold)| hold.strong_count() > 0);
        self.holds.push((lower, Rc::downgrade(hold)));
    }

    /// The remotes of this reactor.
    pub(super) fn links(&mut self) -> &mut Links {
        &mut self.links
    }

    /// What an I/O to a remote needs besides its link.
    #[inline]
    pub(super) fn parts(&mut self) -> Parts<'_> {
        Parts {
            buffers: &self.buffers,
            now_ns: self.links.now_ns(),
            ended: &mut self.completed,
        }
    }

    /// The io_urings, for a channel that is being opened.
    pub(super) fn rings(&mut self) -> &mut Rings {
        &mut self.rings
    }

    /// The ring of files and both pools, for a channel that made sure of the ring when it was opened.
    #[inline]
    pub(super) fn files_and_buffers(
        &mut self,
    ) -> (&mut Ring<file::Request>, &BufferPool, &BufferPool) {
        (self.rings.files(), &self.buffers, &self.bounce)
    }

    /// The same for NVMe commands that complete in this way.
    #[inline]
    pub(super) fn commands_and_buffers(
        &mut self,
        completions: Completions,
    ) -> (&mut Ring<passthrough::Request>, &BufferPool, &BufferPool) {
        (
            self.rings.commands(completions),
            &self.buffers,
            &self.bounce,
        )
    }
}
