//! One I/O of the mapper on its way to a remote, and its data.

use crate::dm::{CloneId, LowerIo, Op, Payload as _, Status};
use crate::host::Submission;
use crate::nvme::command::{Command, Completion, DatasetRange};
use crate::reactor::{BufferPool, PoolBuffer};

use crate::bdev::Patience;
use crate::bdev::namespace::{Geometry, Walk, verdict};
use crate::bdev::payload::{Owner, Payload};

/// One I/O under way, or waiting for a connection.
pub(super) struct Request {
    clone: CloneId,
    walk: Walk,
    patience: Patience,
    payload: Payload,
    /// Where data comes from or goes to: the payload's memory, or that of `buffer`.
    bytes: *mut u8,
    /// For a read that is to be lent its data.
    buffer: Option<PoolBuffer>,
    /// Requests are submitted again in the order of this.
    pub(super) serial: u64,
    /// When the present command was submitted.
    pub(super) started_ns: u64,
}

/// What becomes of a request whose command has been answered.
pub(super) enum Next {
    /// There is more of it.
    Again(Request),
    /// It is over.
    Ended(CloneId, Status),
}

impl Request {
    /// `None` when there is no buffer for it now.
    pub(super) fn new(
        io: &LowerIo<Payload>,
        clone: CloneId,
        patience: Patience,
        serial: u64,
        buffers: &BufferPool,
    ) -> Option<Request> {
        let mut request = Request {
            clone,
            walk: Walk::new(io),
            patience,
            payload: Payload::empty(),
            bytes: std::ptr::null_mut(),
            buffer: None,
            serial,
            started_ns: 0,
        };
        if matches!(io.op, Op::Read | Op::Write) {
            request.payload = io.payload;
            match io.payload.as_memory() {
                Some(bytes) => request.bytes = bytes,
                None => {
                    let buffer = buffers.take(io.payload.length() as usize)?;
                    request.bytes = buffer.as_mut_ptr();
                    request.buffer = Some(buffer);
                }
            }
        }
        Some(request)
    }

    pub(super) fn clone_id(&self) -> CloneId {
        self.clone
    }

    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    fn length(&self) -> u32 {
        self.payload.length()
    }

    /// The next command, and what data it carries.
    pub(super) fn command(&mut self, geometry: &Geometry) -> (Command, Submission) {
        let submission = match self.walk.op() {
            Op::Read => Submission::Incoming(self.length()),
            Op::Write => Submission::Outgoing(self.length()),
            Op::Discard => Submission::Outgoing(DatasetRange::SIZE as u32),
            Op::WriteZeroes | Op::Flush | Op::CompareAndWrite | Op::WriteAtomic => Submission::None,
        };
        (self.walk.command(geometry), submission)
    }

    /// Fills in outgoing data.
    #[inline]
    pub(super) fn outgoing(&self, geometry: &Geometry, offset: u32, buffer: &mut [u8]) {
        let offset = offset as usize;
        if self.walk.op() == Op::Discard {
            let range = self.walk.range(geometry);
            buffer.copy_from_slice(&range[offset..offset + buffer.len()]);
            return;
        }
        assert!(
            offset + buffer.len() <= self.length() as usize,
            "data lies within the payload"
        );
        // SAFETY: the payload is valid for reads of its length until the I/O has ended, which is not before its request; the piece lies within, as
        // just asserted, and the send buffer is nobody's payload.
        unsafe {
            buffer
                .as_mut_ptr()
                .copy_from_nonoverlapping(self.bytes.add(offset), buffer.len());
        }
    }

    /// Takes incoming data.
    #[inline]
    pub(super) fn incoming(&mut self, offset: u32, data: &[u8]) {
        let offset = offset as usize;
        assert!(
            self.walk.op() == Op::Read && offset + data.len() <= self.length() as usize,
            "data lies within the payload"
        );
        // SAFETY: the payload (or the buffer, which is at least as large) is valid for writes of its length until the I/O has ended, which is not
        // before its request; the piece lies within, as just asserted, and the receive buffer is nobody's payload.
        unsafe {
            self.bytes
                .add(offset)
                .copy_from_nonoverlapping(data.as_ptr(), data.len());
        }
    }

    /// Its command was answered, after `transferred` bytes of data.
    #[inline]
    pub(super) fn answered(mut self, completion: &Completion, transferred: u32) -> Next {
        let mut status = verdict(completion.status);
        if status.is_ok() {
            // A read or a write that "succeeds" without its data has failed.
            if matches!(self.walk.op(), Op::Read | Op::Write) && transferred != self.length() {
                status = Status::IoError;
            } else if self.walk.goes_on() {
                return Next::Again(self);
            } else {
                self.hand_over();
            }
        }
        Next::Ended(self.clone, status)
    }

    fn hand_over(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            let bytes = buffer.as_mut_ptr();
            // SAFETY: the buffer is the owner, and holds at least the payload's length.
            unsafe { self.payload.lend_bytes(bytes, Owner::Buffer(buffer)) };
        }
    }
}
