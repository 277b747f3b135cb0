//! The bytes of an I/O on this engine: the buffers of an SPDK I/O, which the mapper cuts.

use std::ptr::NonNull;

use spdk_sys::iovec;

use crate::dm;

/// A part of what a list of buffers holds. Valid until the I/O that it is of has been completed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload {
    buffers: NonNull<iovec>,
    count: u32,
    /// Where the part begins, in bytes from the first buffer's first.
    offset: u32,
    length: u32,
}

impl Payload {
    /// `length` bytes in `count` buffers.
    ///
    /// # Safety
    /// Until the I/O has completed, `buffers` points to `count` buffers that together have at least `length` bytes, which stay where they are and
    /// are nobody else's.
    #[inline(always)]
    pub unsafe fn new(buffers: NonNull<iovec>, count: u32, length: u32) -> Payload {
        Payload {
            buffers,
            count,
            offset: 0,
            length,
        }
    }

    /// Where the bytes are, if they are in one place.
    #[inline(always)]
    pub fn contiguous(self) -> Option<*mut u8> {
        // SAFETY: the constructor's promise: there is a first buffer, as every payload with bytes has.
        let first = unsafe { self.buffers.as_ref() };
        if u64::from(self.offset) + u64::from(self.length) <= first.iov_len as u64 {
            // SAFETY: within the first buffer, as just compared.
            return Some(unsafe { first.iov_base.cast::<u8>().add(self.offset as usize) });
        }
        let mut pieces = self.pieces();
        let only = pieces.next()?;
        pieces.next().is_none().then_some(only.iov_base.cast())
    }

    /// The part as buffers of its own.
    pub fn pieces(self) -> impl Iterator<Item = iovec> {
        let mut skip = self.offset as usize;
        let mut left = self.length as usize;
        (0..self.count as usize).filter_map(move |index| {
            // SAFETY: the constructor's promise: `count` buffers.
            let buffer = unsafe { self.buffers.add(index).read() };
            let skipped = skip.min(buffer.iov_len);
            skip -= skipped;
            let length = left.min(buffer.iov_len - skipped);
            left -= length;
            (length > 0).then(|| iovec {
                // SAFETY: within the buffer, as just computed.
                iov_base: unsafe { buffer.iov_base.cast::<u8>().add(skipped) }.cast(),
                iov_len: length,
            })
        })
    }

    /// Changes one byte.
    pub fn tamper(self, offset: u32, value: u8) {
        assert!(offset < self.length, "a byte of the payload is changed");
        let byte = dm::Payload::slice(self, offset, 1);
        let at = byte.contiguous().expect("one byte is in one place");
        // SAFETY: the constructor's promise: ours until the I/O completes.
        unsafe { at.write(value) };
    }
}

impl dm::Payload for Payload {
    fn empty() -> Payload {
        Payload {
            buffers: NonNull::dangling(),
            count: 0,
            offset: 0,
            length: 0,
        }
    }

    #[inline(always)]
    fn slice(self, offset: u32, length: u32) -> Payload {
        let fits = offset
            .checked_add(length)
            .is_some_and(|end| end <= self.length);
        assert!(fits, "a slice lies within its payload");
        Payload {
            offset: self.offset + offset,
            length,
            ..self
        }
    }

    fn fill_zero(self) {
        for piece in self.pieces() {
            // SAFETY: the constructor's promise: ours until the I/O completes.
            unsafe { piece.iov_base.cast::<u8>().write_bytes(0, piece.iov_len) };
        }
    }

    fn copy_from(self, written: Payload) {
        assert_eq!(self.length, written.length, "copies as much as there is");
        let mut done = 0;
        for from in written.pieces() {
            let mut source = from.iov_base.cast::<u8>();
            for to in dm::Payload::slice(self, done, from.iov_len as u32).pieces() {
                // SAFETY: the constructor's promise, for both: valid for their length until completion, and two I/Os never share
                // memory; the pieces of the slice are as long together as `from` is.
                unsafe {
                    source.copy_to_nonoverlapping(to.iov_base.cast(), to.iov_len);
                    source = source.add(to.iov_len);
                }
            }
            done += from.iov_len as u32;
        }
    }

    fn equals(self, other: Payload) -> bool {
        assert_eq!(self.length, other.length, "compares payloads of one length");
        let bytes = |payload: Payload| {
            payload.pieces().flat_map(|piece| {
                // SAFETY: the constructor's promise; nobody writes there now.
                let bytes = unsafe {
                    std::slice::from_raw_parts(piece.iov_base.cast::<u8>(), piece.iov_len)
                };
                bytes.iter()
            })
        };
        bytes(self).eq(bytes(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dm::Payload as _;

    /// Three buffers of 5, 3 and 8 bytes: every part of them is what the same part of their bytes in a row is.
    #[test]
    fn every_part_of_three_buffers() {
        let mut bytes: Vec<u8> = (0..16).collect();
        let base = bytes.as_mut_ptr();
        let mut buffers = [(0, 5), (5, 3), (8, 8)].map(|(start, length)| iovec {
            // SAFETY: within `bytes`.
            iov_base: unsafe { base.add(start) }.cast(),
            iov_len: length,
        });
        // SAFETY: both outlive the payload, which nobody else uses.
        let whole = unsafe { Payload::new(NonNull::from(&mut buffers).cast(), 3, 16) };
        for start in 0..16u32 {
            for length in 1..=16 - start {
                let part = whole.slice(start, length);
                let mut copy = vec![0u8; length as usize];
                let halves = copy
                    .chunks_mut(length.div_ceil(2) as usize)
                    .map(|half| iovec {
                        iov_base: half.as_mut_ptr().cast(),
                        iov_len: half.len(),
                    });
                let mut halves: Vec<iovec> = halves.collect();
                let (first, count) = (NonNull::from(&mut halves[0]), halves.len() as u32);
                // SAFETY: `copy` and `halves` outlive the payload.
                unsafe { Payload::new(first, count, length) }.copy_from(part);
                let expected: Vec<u8> = (start as u8..(start + length) as u8).collect();
                assert_eq!(copy, expected);
                let ends = [5, 8, 16];
                let end_of = |byte: u32| ends.iter().position(|end| byte < *end);
                let together = end_of(start) == end_of(start + length - 1);
                assert_eq!(part.contiguous().is_some(), together, "{start} {length}");
            }
        }
        assert!(whole.slice(3, 4).equals(whole.slice(3, 4)));
        assert!(!whole.slice(3, 4).equals(whole.slice(4, 4)));
        whole.slice(4, 6).fill_zero();
        whole.slice(8, 8).tamper(7, 99);
        assert_eq!(bytes[3..11], [3, 0, 0, 0, 0, 0, 0, 10]);
        assert_eq!(bytes[15], 99);
    }
}
