//! One I/O of the mapper as NVMe commands, one at a time.
//!
//! ```text
//! read, write      Read, Write with FUA; never above MDTS, which the mapper splits at
//! flush            Flush of the namespace
//! discard          Dataset Management, deallocate, one range…     (… : again until the whole range is done)
//! write-zeroes     Write Zeroes with FUA…
//! ```

use crate::dm::{CloneId, LowerIo, Op, Payload as _, Status};
use crate::host::Submission;
use crate::nvme::command::{Command, Completion, DatasetRange};
use crate::nvme::opcode::io;
use crate::reactor::{BufferPool, PoolBuffer};

use super::attach::Geometry;
use super::verdict::verdict;
use crate::bdev::Patience;
use crate::bdev::payload::{Owner, Payload};

/// Dataset Management: deallocate (bit 2 of command dword 11).
const DEALLOCATE: u32 = 1 << 2;

/// One I/O under way, or waiting for a connection.
pub(super) struct Request {
    clone: CloneId,
    op: Op,
    fua: bool,
    patience: Patience,
    /// Where what is left begins, and how many sectors it is.
    sector: u64,
    left: u32,
    /// What the present command does of it.
    sectors: u32,
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
            op: io.op,
            fua: io.fua,
            patience,
            sector: io.sector,
            left: io.sectors,
            sectors: 0,
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
        let Geometry {
            nsid, block_shift, ..
        } = *geometry;
        let ranged = |opcode: u8, sector: u64, sectors: u32| {
            Command::block_io(opcode, nsid, sector >> block_shift, sectors >> block_shift)
        };
        let (mut command, submission) = match self.op {
            Op::Read => (
                ranged(io::READ, self.sector, self.left),
                Submission::Incoming(self.length()),
            ),
            Op::Write => (
                ranged(io::WRITE, self.sector, self.left),
                Submission::Outgoing(self.length()),
            ),
            Op::WriteZeroes => {
                self.sectors = self.left.min(geometry.zeroes_sectors_max);
                let command = ranged(io::WRITE_ZEROES, self.sector, self.sectors);
                (command, Submission::None)
            }
            Op::Discard => {
                self.sectors = self.left.min(geometry.discard_sectors_max);
                let mut command = Command::new(io::DATASET_MANAGEMENT, nsid);
                // Dword 10 is the number of ranges, minus one.
                command.set_dword(11, DEALLOCATE);
                (command, Submission::Outgoing(DatasetRange::SIZE as u32))
            }
            Op::Flush | Op::CompareAndWrite => (Command::new(io::FLUSH, nsid), Submission::None),
        };
        if self.fua && matches!(self.op, Op::Write | Op::WriteZeroes) {
            command.set_force_unit_access();
        }
        (command, submission)
    }

    /// Fills in outgoing data.
    #[inline]
    pub(super) fn outgoing(&self, geometry: &Geometry, offset: u32, buffer: &mut [u8]) {
        let offset = offset as usize;
        if self.op == Op::Discard {
            let mut range = [0; DatasetRange::SIZE];
            DatasetRange {
                context: 0,
                block_count: self.sectors >> geometry.block_shift,
                lba: self.sector >> geometry.block_shift,
            }
            .encode(&mut range);
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
            self.op == Op::Read && offset + data.len() <= self.length() as usize,
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
            match self.op {
                // A read that "succeeds" without its data has failed.
                Op::Read if transferred != self.length() => status = Status::IoError,
                Op::Read => self.hand_over(),
                Op::Discard | Op::WriteZeroes => {
                    self.sector += u64::from(self.sectors);
                    self.left -= self.sectors;
                    if self.left > 0 {
                        return Next::Again(self);
                    }
                }
                Op::Write | Op::Flush | Op::CompareAndWrite => {}
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
