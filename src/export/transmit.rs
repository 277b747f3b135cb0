//! What waits to be sent on one connection: headers of our own, and data that lies elsewhere, as one list of iovecs.
//!
//! Headers are written into a ring that belongs to the connection; data is only pointed at. The list is handed to
//! `sendmsg` as it is, so a poll's worth of responses costs one system call and no copy. Bytes leave in the order in which they
//! were queued, so "everything up to here is sent" is one number: what a command holds (a buffer, lent memory, its slot) is released
//! when that number passes its mark.

use std::collections::VecDeque;
use std::ptr::NonNull;

/// Room for what belongs to no command: for NVMe/TCP ICResp (128 bytes) and one C2HTermReq (at most 152), for iSCSI a few PDUs that nobody
/// asked for.
const HEADER_BYTES_EXTRA: usize = 1024;

/// Iovecs of one `sendmsg` (IOV_MAX of Linux).
pub const IOVECS_PER_SEND: usize = 1024;

/// The queue was asked for more than its bound: a mistake in the accounting of slots, answered by closing the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

/// A place in the stream of bytes, and what is free again when it has been passed.
#[derive(Clone, Copy, Debug)]
struct Mark {
    position: u64,
    header_end: usize,
    slot: Option<u16>,
}

/// The output queue of one connection.
pub struct Transmit {
    ring: NonNull<[u8]>,
    /// Where the next header goes, and the oldest byte still needed. Equal only when the ring is empty.
    write: usize,
    read: usize,
    iovecs: Vec<libc::iovec>,
    /// Iovecs before this one are sent.
    first: usize,
    marks: VecDeque<Mark>,
    queued: u64,
    sent: u64,
    overflow: bool,
}

impl Transmit {
    /// A queue for a connection with `slots` commands, each of which has up to `header_bytes` of headers queued at a time.
    pub fn new(slots: usize, header_bytes: usize) -> Self {
        let capacity = 2 * (slots * header_bytes + HEADER_BYTES_EXTRA);
        let ring = Box::leak(vec![0u8; capacity].into_boxed_slice());
        Self {
            ring: NonNull::from(ring),
            write: 0,
            read: 0,
            iovecs: Vec::with_capacity(2 * slots + 8),
            first: 0,
            marks: VecDeque::with_capacity(2 * slots + 8),
            queued: 0,
            sent: 0,
            overflow: false,
        }
    }

    /// Bytes that wait.
    #[inline]
    pub fn pending_bytes(&self) -> u64 {
        self.queued - self.sent
    }

    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queued == self.sent
    }

    /// Whether the ring ran over; the connection is then beyond repair.
    pub fn is_overflow(&self) -> bool {
        self.overflow
    }

    /// Bytes sent so far; tells whether a connection makes progress.
    pub fn sent_bytes(&self) -> u64 {
        self.sent
    }

    /// Whether `size` header bytes can be queued now.
    #[inline]
    pub fn has_room(&self, size: usize) -> bool {
        self.reserve(size).is_some()
    }

    /// Queues `size` header bytes for the caller to fill in, every one of them: at first they are those of some earlier header.
    ///
    /// # Errors
    /// [`Overflow`]; the queue stays marked and sends nothing more.
    #[inline]
    pub fn header(&mut self, size: usize) -> Result<&mut [u8], Overflow> {
        let Some(start) = self.reserve(size) else {
            self.overflow = true;
            return Err(Overflow);
        };
        // SAFETY: `reserve` gave a range within the ring that no queued iovec covers, and the ring is ours alone: the
        // kernel reads it only within `sendmsg`.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(self.ring.cast::<u8>().as_ptr().add(start), size)
        };
        self.write = start + size;
        self.push(bytes.as_ptr(), size);
        Ok(bytes)
    }

    /// Queues data that lies elsewhere.
    ///
    /// # Safety
    /// The memory stays readable until the mark that follows ([`Transmit::mark`]) is reported by [`Transmit::sent`], or
    /// this queue is dropped.
    #[inline]
    pub unsafe fn data(&mut self, bytes: *const u8, size: usize) {
        if size > 0 {
            self.push(bytes, size);
        }
    }

    /// Marks that what was queued so far belongs to `slot`: [`Transmit::sent`] reports it when all of it is sent.
    #[inline]
    pub fn mark(&mut self, slot: Option<u16>) {
        self.marks.push_back(Mark {
            position: self.queued,
            header_end: self.write,
            slot,
        });
    }

    /// What to send next, at most [`IOVECS_PER_SEND`] pieces.
    #[inline]
    pub fn iovecs(&self) -> &[libc::iovec] {
        let rest = &self.iovecs[self.first..];
        &rest[..rest.len().min(IOVECS_PER_SEND)]
    }

    /// Takes note that `count` bytes were sent and calls `release` for every slot whose response is out.
    #[inline]
    pub fn sent(&mut self, count: usize, mut release: impl FnMut(u16)) {
        self.sent += count as u64;
        debug_assert!(self.sent <= self.queued);
        if self.sent == self.queued {
            self.iovecs.clear();
            self.first = 0;
        } else {
            self.advance(count);
        }
        while let Some(mark) = self.marks.front()
            && mark.position <= self.sent
        {
            self.read = mark.header_end;
            if let Some(slot) = mark.slot {
                release(slot);
            }
            self.marks.pop_front();
        }
        if self.sent == self.queued {
            self.read = 0;
            self.write = 0;
        }
    }

    /// Copies what waits. Only for a queue that holds nothing but headers.
    pub fn copy_pending(&self, out: &mut Vec<u8>) {
        for piece in &self.iovecs[self.first..] {
            // SAFETY: what is queued is readable until it is released; see `data`, and `header` for the ring.
            out.extend_from_slice(unsafe {
                std::slice::from_raw_parts(piece.iov_base.cast::<u8>(), piece.iov_len)
            });
        }
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let piece = &mut self.iovecs[self.first];
            if count < piece.iov_len {
                piece.iov_base = piece.iov_base.wrapping_byte_add(count);
                piece.iov_len -= count;
                break;
            }
            count -= piece.iov_len;
            self.first += 1;
        }
        // A host that reads slowly never empties the list: move what is left to the front before it grows without end.
        if self.first > self.iovecs.len() / 2 {
            self.iovecs.drain(..self.first);
            self.first = 0;
        }
    }

    #[inline]
    fn push(&mut self, bytes: *const u8, size: usize) {
        self.queued += size as u64;
        // Headers that follow one another lie side by side, and so do the pieces of one lent block: one iovec for both.
        if let Some(last) = self.iovecs.last_mut() {
            let last_end = last.iov_base.wrapping_byte_add(last.iov_len);
            if std::ptr::eq(last_end.cast::<u8>(), bytes) {
                last.iov_len += size;
                return;
            }
        }
        self.iovecs.push(libc::iovec {
            iov_base: bytes.cast_mut().cast(),
            iov_len: size,
        });
    }

    #[inline]
    fn reserve(&self, size: usize) -> Option<usize> {
        let capacity = self.ring.len();
        if self.write >= self.read {
            if self.write + size <= capacity {
                return Some(self.write);
            }
            // One byte stays free so that a full ring does not look like an empty one.
            return (size < self.read).then_some(0);
        }
        (self.write + size < self.read).then_some(self.write)
    }
}

impl Drop for Transmit {
    fn drop(&mut self) {
        // SAFETY: the ring came from `Box::leak` in `new` and is given back once, here.
        drop(unsafe { Box::from_raw(self.ring.as_ptr()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Takes up to `count` bytes, as a socket would.
    fn take(transmit: &mut Transmit, count: usize, out: &mut Vec<u8>) -> Vec<u16> {
        let mut left = count;
        for piece in transmit.iovecs() {
            let size = piece.iov_len.min(left);
            // SAFETY: the tests queue only static data and headers.
            out.extend_from_slice(unsafe {
                std::slice::from_raw_parts(piece.iov_base.cast::<u8>(), size)
            });
            left -= size;
        }
        let mut released = Vec::new();
        transmit.sent(count - left, |slot| released.push(slot));
        released
    }

    #[test]
    fn adjacent_headers_are_one_iovec() {
        let mut transmit = Transmit::new(4, 256);
        transmit.header(8).unwrap().fill(1);
        transmit.mark(Some(0));
        transmit.header(8).unwrap().fill(2);
        transmit.mark(Some(1));
        assert_eq!(transmit.iovecs().len(), 1);
        let mut out = Vec::new();
        assert_eq!(take(&mut transmit, 8, &mut out), vec![0]);
        assert_eq!(take(&mut transmit, 7, &mut out), Vec::<u16>::new());
        assert_eq!(take(&mut transmit, 100, &mut out), vec![1]);
        assert_eq!(out, [[1u8; 8], [2u8; 8]].concat());
        assert!(transmit.is_empty());
    }

    #[test]
    fn a_ring_that_runs_over_says_so() {
        let mut transmit = Transmit::new(1, 256);
        while transmit.header(64).is_ok() {}
        assert!(transmit.is_overflow());
    }

    proptest! {
        /// Whatever is queued comes out byte for byte, and slots in order, however the socket takes it.
        #[test]
        fn bytes_come_out_in_order(steps in proptest::collection::vec((0usize..3, 1usize..200), 1..400)) {
            static DATA: [u8; 256] = { let mut d = [0; 256]; let mut i = 0; while i < 256 { d[i] = i as u8; i += 1; } d };
            let mut transmit = Transmit::new(16, 256);
            let (mut expected, mut out, mut marked, mut released) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            let mut slot = 0u16;
            for (kind, size) in steps {
                match kind {
                    0 if marked.len() - released.len() < 16 => {
                        let size = size.min(100);
                        transmit.header(size).unwrap().fill(slot as u8);
                        expected.extend(std::iter::repeat_n(slot as u8, size));
                        // SAFETY: static data.
                        unsafe { transmit.data(DATA.as_ptr(), size) };
                        expected.extend_from_slice(&DATA[..size]);
                        transmit.mark(Some(slot));
                        marked.push(slot);
                        slot = slot.wrapping_add(1);
                    }
                    _ => released.extend(take(&mut transmit, size, &mut out)),
                }
            }
            while !transmit.is_empty() {
                released.extend(take(&mut transmit, 4096, &mut out));
            }
            prop_assert_eq!(out, expected);
            prop_assert_eq!(released, marked);
        }
    }
}
