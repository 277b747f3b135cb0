//! Messages between reactors, and who wakes whom.
//!
//! # The mailbox
//!
//! One bounded crossbeam channel per reactor: its ring is allocated at start, so sending allocates nothing. A reactor that finds a
//! mailbox full must not wait (the other one may be waiting for it), so it keeps the message in an outbox of its own
//! and everything for that reactor goes through the outbox until that is empty: the order stays. Threads that are not reactors
//! may wait, and do.
//!
//! # The bell
//!
//! A spinning reactor looks at its mailbox every turn; only one that sleeps must be woken, by its eventfd, which costs a
//! system call. Sender and sleeper settle it between them:
//!
//! ```text
//! sender                                   sleeper
//! 1. push the message                      a. asleep = true
//! 2. fence(SeqCst)                         b. fence(SeqCst)
//! 3. asleep? then asleep = false,          c. mailbox empty? then sleep
//!    and write the eventfd                    else asleep = false, go on
//! ```
//!
//! Of two SeqCst fences one comes first in the total order of such fences. If the sender's (2) is first, what it pushed (1) is
//! visible to the look at (c) and the sleeper stays up. If the sleeper's (b) is first, `asleep` (a) is visible at (3) and the
//! bell rings; should the sleeper not be in the kernel yet, the eventfd stays readable and its wait returns at once. Without the fences
//! both could read the old value (store buffering) and the message would lie there until the next timer.
//! The swap in (3) lets one of several senders ring. A bell that rang for a reactor that was already up costs it one empty look.
//!
//! The same holds for every other flag that a sleeper must not miss (the stop request): set, fence, bell; it looks at (c).

use super::counters::Counters;
use super::epoll::Epoll;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Messages that fit into a mailbox. Eight turns' worth: a reactor that is further behind is busy with more important
/// things, and the outboxes of the others take over. At 64 bytes a message that is 64 KiB per reactor.
const MAILBOX_MESSAGES: usize = 1024;

/// Messages in one outbox. Every message is the step of a sequence of which a reactor runs a bounded number, so this is
/// never reached; if it is, two services send each other messages without end, and memory would be next.
const OUTBOX_MESSAGES_MAX: usize = 1 << 20;

/// Wakes one reactor.
pub(super) struct Bell {
    asleep: Padded<AtomicBool>,
    eventfd: OwnedFd,
}

/// On a cache line (and its prefetched neighbour) of its own.
#[repr(align(128))]
struct Padded<T>(T);

impl Bell {
    fn new() -> io::Result<Bell> {
        // SAFETY: takes no pointers; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Bell {
            asleep: Padded(AtomicBool::new(false)),
            // SAFETY: `fd` was just created and belongs to nobody else.
            eventfd: unsafe { OwnedFd::from_raw_fd(fd) },
        })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }

    /// Steps 2 and 3: call after what the sleeper must see has been written.
    #[inline]
    pub(super) fn ring_if_asleep(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.0.load(Ordering::Relaxed) && self.asleep.0.swap(false, Ordering::Relaxed) {
            self.ring();
        }
    }

    #[cold]
    fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // A full eventfd (EAGAIN) is readable, which is all that is wanted; the write can fail in no other way.
        // SAFETY: `one` is valid for reads of its eight bytes.
        unsafe { libc::write(self.fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Steps a and b. `c` is the caller's, and so is [`Bell::awake`] afterwards.
    pub(super) fn going_to_sleep(&self) {
        self.asleep.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(super) fn awake(&self) {
        self.asleep.0.store(false, Ordering::Relaxed);
    }

    /// Makes the eventfd unreadable again.
    pub(super) fn silence(&self) {
        let mut count = [0u8; 8];
        // Nothing to read (EAGAIN) is as good.
        // SAFETY: `count` is valid for writes of its eight bytes.
        unsafe { libc::read(self.fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

struct Address<M> {
    sender: Sender<M>,
    bell: Bell,
    counters: Counters,
}

/// Where every reactor can be reached: shared by all of them and by every [`Remote`].
pub(super) struct Directory<M> {
    addresses: Box<[Address<M>]>,
}

/// A directory, and the receiving end of each of its mailboxes.
type Post<M> = (Arc<Directory<M>>, Vec<Receiver<M>>);

impl<M> Directory<M> {
    pub(super) fn new(cores: usize) -> io::Result<Post<M>> {
        let mut receivers = Vec::with_capacity(cores);
        let mut addresses = Vec::with_capacity(cores);
        for _ in 0..cores {
            let (sender, receiver) = bounded(MAILBOX_MESSAGES);
            receivers.push(receiver);
            addresses.push(Address {
                sender,
                bell: Bell::new()?,
                counters: Counters::default(),
            });
        }
        let addresses = addresses.into_boxed_slice();
        Ok((Arc::new(Directory { addresses }), receivers))
    }

    pub(super) fn cores(&self) -> usize {
        self.addresses.len()
    }

    pub(super) fn bell(&self, core: usize) -> &Bell {
        &self.addresses[core].bell
    }

    #[inline]
    pub(super) fn counters(&self, core: usize) -> &Counters {
        &self.addresses[core].counters
    }

    pub(super) fn ring_all(&self) {
        for address in &self.addresses {
            address.bell.ring_if_asleep();
        }
    }

    pub(super) fn epoll(&self, core: usize) -> io::Result<Epoll> {
        Epoll::new(self.bell(core).fd())
    }
}

/// One reactor's side of the post.
pub(super) struct Mailbox<M> {
    core: usize,
    directory: Arc<Directory<M>>,
    receiver: Receiver<M>,
    /// Per core: what did not fit into its mailbox. For this core itself: everything, which saves the atomics.
    outboxes: Box<[VecDeque<M>]>,
    /// Messages in all the outboxes, this core's own included.
    waiting: usize,
}

impl<M> Mailbox<M> {
    pub(super) fn new(
        core: usize,
        directory: Arc<Directory<M>>,
        receiver: Receiver<M>,
    ) -> Mailbox<M> {
        let mut outboxes: Vec<VecDeque<M>> =
            (0..directory.cores()).map(|_| VecDeque::new()).collect();
        outboxes[core].reserve(MAILBOX_MESSAGES);
        Mailbox {
            core,
            directory,
            receiver,
            outboxes: outboxes.into_boxed_slice(),
            waiting: 0,
        }
    }

    pub(super) fn directory(&self) -> &Arc<Directory<M>> {
        &self.directory
    }

    #[inline]
    pub(super) fn send(&mut self, core: usize, message: M) {
        if core == self.core || !self.outboxes[core].is_empty() {
            return self.keep(core, message);
        }
        let address = &self.directory.addresses[core];
        match address.sender.try_send(message) {
            Ok(()) => address.bell.ring_if_asleep(),
            Err(TrySendError::Full(message)) => {
                self.directory.counters(self.core).overflowed();
                self.keep(core, message);
            }
            // That reactor has ended: so has everything the message could be about.
            Err(TrySendError::Disconnected(_)) => {}
        }
    }

    fn keep(&mut self, core: usize, message: M) {
        let outbox = &mut self.outboxes[core];
        assert!(
            outbox.len() < OUTBOX_MESSAGES_MAX,
            "reactor {}: {OUTBOX_MESSAGES_MAX} messages wait for reactor {core}: a message storm",
            self.core,
        );
        outbox.push_back(message);
        self.waiting += 1;
    }

    /// How many messages of this core to itself there are.
    #[inline]
    pub(super) fn own_len(&self) -> usize {
        self.outboxes[self.core].len()
    }

    #[inline]
    pub(super) fn take_own(&mut self) -> Option<M> {
        let message = self.outboxes[self.core].pop_front()?;
        self.waiting -= 1;
        Some(message)
    }

    #[inline]
    pub(super) fn take(&mut self) -> Option<M> {
        // The directory holds a sender, so the only error there can be is "empty".
        self.receiver.try_recv().ok()
    }

    /// Moves what waits into the mailboxes that have room now. True if anything moved.
    #[inline]
    pub(super) fn deliver(&mut self) -> bool {
        if self.waiting == self.own_len() {
            return false;
        }
        self.deliver_waiting()
    }

    #[cold]
    fn deliver_waiting(&mut self) -> bool {
        let before = self.waiting;
        for core in 0..self.outboxes.len() {
            if core == self.core {
                continue;
            }
            let address = &self.directory.addresses[core];
            let mut moved = false;
            while let Some(message) = self.outboxes[core].pop_front() {
                match address.sender.try_send(message) {
                    Ok(()) => moved = true,
                    Err(TrySendError::Full(message)) => {
                        self.outboxes[core].push_front(message);
                        break;
                    }
                    Err(TrySendError::Disconnected(_)) => {}
                }
                self.waiting -= 1;
            }
            if moved {
                address.bell.ring_if_asleep();
            }
        }
        self.waiting != before
    }

    /// Step c: nothing has come in, and nothing waits to go out.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting == 0 && self.receiver.is_empty()
    }
}

/// Reaches the reactors from any other thread. Cheap to clone.
///
/// Not for use on a reactor, which would wait for itself: there it is [`super::Context::send`].
pub struct Remote<M> {
    directory: Arc<Directory<M>>,
}

impl<M> Clone for Remote<M> {
    fn clone(&self) -> Remote<M> {
        Remote {
            directory: Arc::clone(&self.directory),
        }
    }
}

/// The reactor has ended; the message comes back.
#[derive(Debug, PartialEq, Eq)]
pub struct SendError<M>(pub M);

impl<M> Remote<M> {
    pub(super) fn new(directory: Arc<Directory<M>>) -> Remote<M> {
        Remote { directory }
    }

    /// Sends a message; in order with everything this thread has sent to that core. Waits while the mailbox is full, which a reactor
    /// empties within some turns.
    ///
    /// A service that wants to be handed closures has a boxed `FnOnce` among its messages.
    ///
    /// # Errors
    /// The reactor has ended.
    ///
    /// # Panics
    /// If there is no such core.
    pub fn send(&self, core: usize, message: M) -> Result<(), SendError<M>> {
        let address = &self.directory.addresses[core];
        address
            .sender
            .send(message)
            .map_err(|error| SendError(error.into_inner()))?;
        address.bell.ring_if_asleep();
        Ok(())
    }

    /// How many reactors there are; they are numbered from 0.
    pub fn cores(&self) -> usize {
        self.directory.cores()
    }

    /// The counters of every reactor, by core.
    pub fn stats(&self) -> Vec<super::ReactorStats> {
        self.directory
            .addresses
            .iter()
            .map(|address| address.counters.read())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More messages than fit: they arrive all the same, in order, once the receiver makes room.
    #[test]
    fn a_full_mailbox_overflows_in_order() {
        let (directory, receivers) = Directory::<usize>::new(2).expect("directory");
        let mut boxes: Vec<_> = receivers
            .into_iter()
            .enumerate()
            .map(|(core, receiver)| Mailbox::new(core, Arc::clone(&directory), receiver))
            .collect();
        let total = 3 * MAILBOX_MESSAGES;
        for number in 0..total {
            boxes[0].send(1, number);
        }
        assert!(!boxes[0].is_idle());
        assert_eq!(directory.counters(0).read().overflowed, 1);
        let mut seen = Vec::new();
        while seen.len() < total {
            while let Some(number) = boxes[1].take() {
                seen.push(number);
            }
            boxes[0].deliver();
        }
        assert_eq!(seen, (0..total).collect::<Vec<_>>());
        assert!(boxes[0].is_idle() && boxes[1].is_idle());
    }

    #[test]
    fn the_bell_is_rung_for_a_sleeper_only_and_once() {
        let (directory, _receivers) = Directory::<()>::new(1).expect("directory");
        let bell = directory.bell(0);
        let rung = || {
            let mut count = [0u8; 8];
            // SAFETY: `count` is valid for writes of its eight bytes.
            let got = unsafe { libc::read(bell.fd(), count.as_mut_ptr().cast(), 8) };
            (got == 8).then(|| u64::from_ne_bytes(count))
        };
        bell.ring_if_asleep();
        assert_eq!(rung(), None);
        bell.going_to_sleep();
        bell.ring_if_asleep();
        bell.ring_if_asleep();
        assert_eq!(rung(), Some(1));
        bell.awake();
    }

    #[test]
    fn a_message_to_a_reactor_that_ended_comes_back_to_a_remote() {
        let (directory, receivers) = Directory::<u8>::new(1).expect("directory");
        drop(receivers);
        assert_eq!(Remote::new(directory).send(0, 7), Err(SendError(7)));
    }
}
