//! The file device on one reactor: what each operation is to io_uring, step by step.

use std::os::fd::AsRawFd;
use std::rc::Rc;

use io_uring::{cqueue, opcode, squeue, types};

use crate::dm::{CloneId, LowerIo, Op, Payload as _, Status, Submit};
use crate::reactor::{BUFFER_BYTES_MAX, PoolBuffer};

use super::SECTOR_BYTES;
use super::core::Core;
use super::errno::status_of;
use super::handle::Handle;
use super::open::OpenFile;
use super::payload::{Owner, Payload, ZEROES_BYTES, zeroes};
use super::ring::{self, Next};

/// The largest read or write: what the largest buffer holds.
pub(super) const TRANSFER_BYTES_MAX: usize = BUFFER_BYTES_MAX;

/// One reactor's hold on an open file.
pub(super) type FileHandle = Handle<OpenFile>;

/// Submits one I/O. It reaches the kernel with the rest of the turn's ([`Core::submit_gathered`]).
pub(super) fn submit(
    core: &mut Core,
    file: Rc<FileHandle>,
    io: &LowerIo<Payload>,
    clone: CloneId,
) -> Submit {
    let (ring, buffers, bounce) = core.files_and_buffers();
    if !ring.has_room() {
        return Submit::Busy;
    }
    let mut request = Request {
        file: Rc::clone(&file),
        clone,
        step: Step::Sync,
        fua: io.fua,
        offset: io.sector * SECTOR_BYTES,
        left: u64::from(io.sectors) * SECTOR_BYTES,
        bytes: std::ptr::null_mut(),
        payload: Payload::empty(),
        buffer: None,
    };
    match io.op {
        Op::Read | Op::Write => {
            let length = io.payload.length() as usize;
            if length > TRANSFER_BYTES_MAX {
                return Submit::Done(Status::IoError);
            }
            request.payload = io.payload;
            request.step = if io.op == Op::Read {
                Step::Read
            } else {
                Step::Write
            };
            match io.payload.as_memory() {
                Some(bytes) if file.takes_memory(bytes) => request.bytes = bytes,
                Some(bytes) => {
                    let Some(buffer) = bounce.take(length) else {
                        return Submit::Busy;
                    };
                    if io.op == Op::Write {
                        // SAFETY: the payload is valid for reads of its length; the buffer holds as much, and is nobody else's.
                        unsafe { buffer.as_mut_ptr().copy_from_nonoverlapping(bytes, length) };
                    }
                    request.hold(buffer);
                }
                None if io.op == Op::Read => {
                    let Some(buffer) = buffers.take(length) else {
                        return Submit::Busy;
                    };
                    request.hold(buffer);
                }
                None => return Submit::Done(Status::IoError),
            }
        }
        Op::Flush => {
            if file.has_lost_writes() {
                return Submit::Done(Status::IoError);
            }
        }
        Op::Discard => request.step = Step::PunchHole,
        Op::WriteZeroes => {
            request.step = match file.zeroes_ranges() {
                true => Step::ZeroRange,
                false => Step::WriteZeroes,
            }
        }
        Op::CompareAndWrite | Op::WriteAtomic => return Submit::Done(Status::NotSupported),
    }
    ring.start(request);
    Submit::Pending
}

/// What a request is doing.
///
/// ```text
/// read         Read…                       (… : goes on after a short transfer)
/// write        Write…                      with RWF_DSYNC for FUA
/// flush        Sync
/// discard      PunchHole
/// write-zeroes ZeroRange [Sync if FUA]     or, where the file system cannot:
///              WriteZeroes…                with RWF_DSYNC for FUA
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Read,
    Write,
    Sync,
    PunchHole,
    ZeroRange,
    WriteZeroes,
}

/// One I/O under way.
pub(super) struct Request {
    file: Rc<FileHandle>,
    clone: CloneId,
    step: Step,
    fua: bool,
    /// In the file: where what is left begins, and how many bytes it is.
    offset: u64,
    left: u64,
    /// In memory: where what is left begins. Within the payload, or within `buffer`.
    bytes: *mut u8,
    payload: Payload,
    /// Bounces a payload that is not aligned, or will be lent.
    buffer: Option<PoolBuffer>,
}

impl ring::Request for Request {
    type Submission = squeue::Entry;
    type Completion = cqueue::Entry;

    fn clone_id(&self) -> CloneId {
        self.clone
    }

    fn is_gone(&self) -> bool {
        self.file.is_gone()
    }

    fn entry(&mut self) -> squeue::Entry {
        let fd = types::Fd(self.file.fd().as_raw_fd());
        let flags = if self.fua { libc::RWF_DSYNC } else { 0 };
        match self.step {
            Step::Read => opcode::Read::new(fd, self.bytes, self.left as u32)
                .offset(self.offset)
                .build(),
            Step::Write => opcode::Write::new(fd, self.bytes, self.left as u32)
                .offset(self.offset)
                .rw_flags(flags)
                .build(),
            Step::WriteZeroes => {
                let length = self.left.min(ZEROES_BYTES as u64) as u32;
                opcode::Write::new(fd, zeroes(), length)
                    .offset(self.offset)
                    .rw_flags(flags)
                    .build()
            }
            Step::Sync => opcode::Fsync::new(fd)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
            Step::PunchHole => opcode::Fallocate::new(fd, self.left)
                .offset(self.offset)
                .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
            Step::ZeroRange => opcode::Fallocate::new(fd, self.left)
                .offset(self.offset)
                .mode(libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
        }
    }

    /// `result`: bytes, or a negative errno.
    fn completed(&mut self, result: i32) -> Next {
        if result < 0 {
            return self.failed(-result);
        }
        match self.step {
            Step::Read | Step::Write | Step::WriteZeroes => self.transferred(result as u64),
            Step::ZeroRange if self.fua => {
                self.step = Step::Sync;
                Next::Again
            }
            // Two syncs at once, from two reactors: the kernel told only one of them that data is lost.
            Step::Sync if self.file.has_lost_writes() => Next::Ended(Status::IoError),
            Step::ZeroRange | Step::PunchHole | Step::Sync => Next::Ended(Status::Ok),
        }
    }
}

impl Request {
    fn hold(&mut self, buffer: PoolBuffer) {
        self.bytes = buffer.as_mut_ptr();
        self.buffer = Some(buffer);
    }

    fn transferred(&mut self, bytes: u64) -> Next {
        // Nothing at all is the end of a file that somebody cut under us; to go on would be to go on for ever.
        if bytes == 0 || bytes > self.left {
            return Next::Ended(Status::IoError);
        }
        self.offset += bytes;
        self.left -= bytes;
        if self.left > 0 {
            if self.step != Step::WriteZeroes {
                // SAFETY: fewer bytes than were left from here to the end of the payload or buffer.
                self.bytes = unsafe { self.bytes.add(bytes as usize) };
            }
            return Next::Again;
        }
        if self.step == Step::Read {
            self.hand_over();
        }
        Next::Ended(Status::Ok)
    }

    /// The data of a read goes from the buffer, if there is one, to where it is wanted.
    fn hand_over(&mut self) {
        let Some(buffer) = self.buffer.take() else {
            return;
        };
        let source = buffer.as_mut_ptr();
        match self.payload.as_memory() {
            // SAFETY: the payload is valid for writes of its length until completion, which comes after this; the buffer holds as much.
            Some(target) => unsafe {
                target.copy_from_nonoverlapping(source, self.payload.length() as usize);
            },
            // SAFETY: the buffer is the owner, and holds at least the payload's length.
            None => unsafe { self.payload.lend_bytes(source, Owner::Buffer(buffer)) },
        }
    }

    #[cold]
    fn failed(&mut self, errno: i32) -> Next {
        let writes = matches!(self.step, Step::Write | Step::WriteZeroes);
        // What makes the kernel write the page cache back, and tell of all of it, not only of this I/O's data.
        let writes_back = self.step == Step::Sync || (writes && self.fua && !self.file.is_direct());
        match errno {
            // No back-pressure where it may be the kernel's one report that data was not written back: the next sync would succeed.
            libc::ENOMEM | libc::EBUSY | libc::ENOBUFS if writes_back => {}
            // Back-pressure of the file system or the block layer, not an error of the I/O (PM-15).
            libc::EAGAIN | libc::EINTR | libc::ENOMEM | libc::EBUSY | libc::ENOBUFS => {
                return Next::Later;
            }
            libc::EOPNOTSUPP | libc::ENOSYS if self.step == Step::ZeroRange => {
                self.file.note_cannot_zero_ranges();
                self.step = Step::WriteZeroes;
                return Next::Again;
            }
            _ => {}
        }
        if writes_back {
            self.file.note_lost_writes();
        }
        Next::Ended(status_of(errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bdev::Direct;
    use crate::bdev::handle::Shared;
    use crate::bdev::ring::{Completions, Request as _, Ring};

    /// An I/O as it is when the kernel answers, on a file that goes through the page cache.
    fn request(file: &Rc<FileHandle>, step: Step, fua: bool) -> Request {
        Request {
            file: Rc::clone(file),
            clone: CloneId(0),
            step,
            fua,
            offset: 0,
            left: 4096,
            bytes: std::ptr::null_mut(),
            payload: Payload::empty(),
            buffer: None,
        }
    }

    fn file() -> (tempfile::TempDir, Rc<FileHandle>) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("disk");
        let file = OpenFile::open(&path, Some(4096), 512, Direct::Off, false).expect("opens");
        (directory, Rc::new(Shared::new(file).handle()))
    }

    fn ended(next: Next) -> Option<Status> {
        match next {
            Next::Ended(status) => Some(status),
            Next::Again | Next::Later => None,
        }
    }

    #[test]
    fn no_room_in_the_kernel_is_tried_again() {
        let (_directory, file) = file();
        for (step, fua) in [(Step::Read, false), (Step::Write, false)] {
            for errno in [libc::EAGAIN, libc::EINTR, libc::ENOMEM] {
                let next = request(&file, step, fua).completed(-errno);
                assert!(matches!(next, Next::Later), "{step:?} {errno}");
            }
        }
        let interrupted = request(&file, Step::Sync, false).completed(-libc::EINTR);
        assert!(matches!(interrupted, Next::Later));
        assert!(!file.has_lost_writes());
    }

    /// The kernel reports a failed write-back once. Whatever its reason, and whether a flush or a write with FUA was told, no flush
    /// succeeds from then on, those under way included.
    #[test]
    fn lost_writes_are_not_forgotten() {
        for (step, fua) in [
            (Step::Sync, false),
            (Step::Write, true),
            (Step::WriteZeroes, true),
        ] {
            for errno in [libc::EIO, libc::ENOMEM, libc::ENOSPC] {
                let (_directory, file) = file();
                let mut under_way = request(&file, Step::Sync, false);
                let next = request(&file, step, fua).completed(-errno);
                assert_eq!(ended(next), Some(status_of(errno)), "{step:?} {errno}");
                assert!(file.has_lost_writes(), "{step:?} {errno}");
                assert_eq!(ended(under_way.completed(0)), Some(Status::IoError));
            }
        }
    }

    /// What the kernel had no room for is not tried again on a device that was taken away; the sync of the other file is.
    #[test]
    fn what_waits_for_the_kernel_ends_when_its_device_goes() {
        let mut ring = Ring::new(4, Completions::Interrupts).expect("a ring");
        let ((_one, gone), (_two, stays)) = (file(), file());
        for (file, clone) in [(&gone, 1), (&stays, 2)] {
            let clone = CloneId(clone);
            ring.start_later(Request {
                clone,
                ..request(file, Step::Sync, false)
            });
        }
        gone.set_gone();
        let mut ended = Vec::new();
        ring.poll(&mut ended);
        // The other sync may have come back by then.
        assert_eq!(ended[0], (CloneId(1), Status::Transport));
        while ended.len() < 2 {
            ring.poll(&mut ended);
        }
        assert_eq!(ended[1], (CloneId(2), Status::Ok));
    }

    /// A write that fails is its own host's affair: nothing that was completed is lost.
    #[test]
    fn a_failed_write_loses_nothing_else() {
        let (_directory, file) = file();
        let next = request(&file, Step::Write, false).completed(-libc::EIO);
        assert_eq!(ended(next), Some(Status::IoError));
        assert!(!file.has_lost_writes());
        let flush = request(&file, Step::Sync, false).completed(0);
        assert_eq!(ended(flush), Some(Status::Ok));
    }
}
