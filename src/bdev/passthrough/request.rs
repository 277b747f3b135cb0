//! One I/O through the driver: its command, its data, what becomes of it.

use std::os::fd::AsRawFd;
use std::rc::Rc;

use io_uring::{cqueue, opcode, squeue, types};

use crate::bdev::Patience;
use crate::bdev::core::Core;
use crate::bdev::errno::status_of;
use crate::bdev::handle::Handle;
use crate::bdev::namespace::{Walk, verdict};
use crate::bdev::payload::{Owner, Payload};
use crate::bdev::ring::{self, Next};
use crate::dm::{CloneId, LowerIo, Op, Payload as _, Status, Submit};
use crate::nvme;
use crate::nvme::command::DatasetRange;
use crate::reactor::PoolBuffer;

use super::abi;
use super::open::Namespace;

/// How often a command is sent again that has failed and need not have. What the driver itself does with commands of the block layer; ours
/// it never repeats.
const RETRIES_MAX: u8 = 5;

/// How often a command is sent again for which the kernel has not found the memory. Half of such attempts fail, at most.
const UNMAPPED_MAX: u8 = 200;

/// How a command is answered that the driver has given up, when not with EINTR: by the controller, whose queue it has deleted or which it has
/// told to abort what took too long, or by itself.
const GIVEN_UP: [nvme::Status; 3] = [
    nvme::Status::ABORT_REQUESTED,
    nvme::Status::ABORTED_QUEUE_DELETION,
    nvme::Status::ABORTED_BY_HOST,
];

/// One reactor's hold on a namespace.
pub(in crate::bdev) type NamespaceHandle = Handle<Namespace>;

/// Submits one I/O. It reaches the kernel with the rest of the turn's ([`Core::submit_gathered`]).
pub(in crate::bdev) fn submit(
    core: &mut Core,
    namespace: Rc<NamespaceHandle>,
    io: &LowerIo<Payload>,
    clone: CloneId,
    patience: Patience,
) -> Submit {
    let (ring, buffers, bounce) = core.commands_and_buffers(namespace.completions());
    if !ring.has_room() {
        return Submit::Busy;
    }
    let mut request = Request {
        clone,
        patience,
        retries: 0,
        unmapped: 0,
        walk: Walk::new(io),
        bytes: std::ptr::null_mut(),
        payload: Payload::empty(),
        buffer: None,
        namespace,
    };
    match io.op {
        Op::Read | Op::Write => {
            let length = io.payload.length() as usize;
            if length as u64 > request.namespace.transfer_bytes_max() {
                return Submit::Done(Status::IoError);
            }
            request.payload = io.payload;
            match io.payload.as_memory() {
                Some(bytes) if request.namespace.takes_memory(bytes) => request.bytes = bytes,
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
        Op::Discard => {
            let Some(buffer) = bounce.take(DatasetRange::SIZE) else {
                return Submit::Busy;
            };
            request.hold(buffer);
        }
        Op::Flush | Op::WriteZeroes => {}
        Op::CompareAndWrite | Op::WriteAtomic => return Submit::Done(Status::NotSupported),
    }
    ring.start(request);
    Submit::Pending
}

/// One I/O under way.
pub(in crate::bdev) struct Request {
    clone: CloneId,
    patience: Patience,
    /// Times that its present command was sent again.
    retries: u8,
    /// Times that the kernel has not found the memory.
    unmapped: u8,
    walk: Walk,
    /// Where data comes from or goes to: the payload's memory, or that of `buffer`.
    bytes: *mut u8,
    payload: Payload,
    /// Holds the range of a discard; bounces a payload that is not aligned, or will be lent.
    buffer: Option<PoolBuffer>,
    namespace: Rc<NamespaceHandle>,
}

impl ring::Request for Request {
    type Submission = squeue::Entry128;
    type Completion = cqueue::Entry32;

    fn clone_id(&self) -> CloneId {
        self.clone
    }

    fn is_gone(&self) -> bool {
        self.namespace.is_gone()
    }

    fn entry(&mut self) -> squeue::Entry128 {
        let geometry = self.namespace.geometry();
        let command = self.walk.command(geometry);
        let length = match self.walk.op() {
            Op::Discard => {
                let range = self.walk.range(geometry);
                // SAFETY: the buffer holds at least a range, and nothing of it is with the kernel now.
                unsafe {
                    self.bytes
                        .copy_from_nonoverlapping(range.as_ptr(), range.len());
                }
                DatasetRange::SIZE as u32
            }
            _ => self.payload.length(),
        };
        let fd = types::Fd(self.namespace.fd().as_raw_fd());
        opcode::UringCmd80::new(fd, abi::URING_CMD_IO)
            .cmd(abi::encode(&command, self.bytes as u64, length))
            .build()
    }

    /// `result`: a negative errno of the kernel, or the status that the controller has answered with.
    fn completed(&mut self, result: i32) -> Next {
        if result < 0 {
            return self.failed(-result);
        }
        let answer = abi::status(result);
        let status = verdict(answer);
        if !status.is_ok() {
            return match self.may_go_again(answer) {
                true => self.again_or(status),
                false => Next::Ended(status),
            };
        }
        if self.walk.goes_on() {
            self.retries = 0;
            return Next::Again;
        }
        if self.walk.op() == Op::Read {
            self.hand_over();
        }
        Next::Ended(Status::Ok)
    }
}

impl Request {
    fn hold(&mut self, buffer: PoolBuffer) {
        self.bytes = buffer.as_mut_ptr();
        self.buffer = Some(buffer);
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

    /// Whether a command that was answered so may be sent again. A flush that the device itself has failed may not: the next could succeed without what this
    /// one has lost.
    fn may_go_again(&self, answer: nvme::Status) -> bool {
        let given_up = || GIVEN_UP.iter().any(|status| answer.is(*status));
        !answer.is_do_not_retry() && (self.walk.op() != Op::Flush || given_up())
    }

    /// The command has failed, and may succeed when it is sent again. Whoever has other ways to go is told at once (as the kernel's device
    /// mapper is, which asks for that); for anybody else it is sent again.
    #[cold]
    fn again_or(&mut self, status: Status) -> Next {
        if self.patience == Patience::FailsFast || self.retries == RETRIES_MAX {
            return Next::Ended(status);
        }
        self.retries += 1;
        Next::Later
    }

    #[cold]
    fn failed(&mut self, errno: i32) -> Next {
        match errno {
            // Back-pressure of the driver, not an error of the I/O (PM-15).
            libc::EAGAIN | libc::ENOMEM | libc::EBUSY | libc::ENOBUFS => Next::Later,
            // The memory is there. But a worker of the kernel's, which gets what has to wait (during a reset, say), may have been made in the middle of an
            // interrupt; kernels that know x32 programs then take it for one of those, and cut the address to 32 bits (seen with 6.1 and 6.12).
            // Programs are loaded above 4 GiB, so nothing is found there.
            libc::EFAULT if self.unmapped < UNMAPPED_MAX => {
                self.unmapped += 1;
                Next::Later
            }
            // The driver has reset the controller, or is letting go of it: the command can no longer be carried out. After a reset the next
            // attempt waits in the kernel for the end of that; when the device is gone it is answered otherwise.
            libc::EINTR => self.again_or(Status::Transport),
            // A namespace of several controllers, none of which can be used.
            libc::EINVAL if self.namespace.is_multipath() => Next::Ended(Status::Transport),
            errno => Next::Ended(status_of(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bdev::handle::Shared;
    use crate::bdev::passthrough::open::tests::namespace;
    use crate::bdev::payload::LendList;
    use crate::bdev::ring::{Completions, Request as _, Ring};
    use crate::reactor::BufferPool;
    use std::ptr::NonNull;

    fn handle() -> Rc<NamespaceHandle> {
        Rc::new(Shared::new(namespace(false)).handle())
    }

    fn request(
        namespace: &Rc<NamespaceHandle>,
        op: Op,
        sectors: u32,
        patience: Patience,
    ) -> Request {
        let io = LowerIo {
            op,
            fua: false,
            sector: 0,
            sectors,
            payload: Payload::empty(),
        };
        Request {
            clone: CloneId(0),
            patience,
            retries: 0,
            unmapped: 0,
            walk: Walk::new(&io),
            bytes: std::ptr::null_mut(),
            payload: Payload::empty(),
            buffer: None,
            namespace: Rc::clone(namespace),
        }
    }

    fn ended(next: Next) -> Option<Status> {
        match next {
            Next::Ended(status) => Some(status),
            Next::Again | Next::Later => None,
        }
    }

    #[test]
    fn no_room_in_the_kernel_is_tried_again() {
        let namespace = handle();
        for errno in [libc::EAGAIN, libc::ENOMEM, libc::EBUSY, libc::ENOBUFS] {
            let mut request = request(&namespace, Op::Write, 8, Patience::FailsFast);
            assert!(matches!(request.completed(-errno), Next::Later), "{errno}");
        }
    }

    /// A device that goes is a failed path (PM-14).
    #[test]
    fn pm_14_a_device_that_goes_is_a_failed_path() {
        let namespace = handle();
        for errno in [libc::ENODEV, libc::ENXIO] {
            for patience in [Patience::Holds, Patience::FailsFast] {
                let next = request(&namespace, Op::Read, 8, patience).completed(-errno);
                assert_eq!(ended(next), Some(Status::Transport), "{errno}");
            }
        }
    }

    /// What a reset of the controller has cost, and whatever the controller does not forbid to retry, is sent again, as the driver does for its block
    /// device, and not for ever; a multipath is told at once.
    #[test]
    fn what_may_be_retried_is_sent_again() {
        let namespace = handle();
        for (result, status) in [
            (-libc::EINTR, Status::Transport),
            (0x0008, Status::Transport),
            (0x0280, Status::Medium),
        ] {
            let mut patient = request(&namespace, Op::Write, 8, Patience::Holds);
            for _ in 0..RETRIES_MAX {
                assert!(matches!(patient.completed(result), Next::Later));
            }
            assert_eq!(ended(patient.completed(result)), Some(status));
            let mut impatient = request(&namespace, Op::Write, 8, Patience::FailsFast);
            assert_eq!(ended(impatient.completed(result)), Some(status));
        }
    }

    /// The same flush is not tried until it succeeds: only one that the device has not carried out is sent again.
    #[test]
    fn a_flush_that_the_device_has_failed_is_told() {
        let namespace = handle();
        for (result, again) in [(0x0280, false), (0x0006, false), (0x0008, true)] {
            let mut flush = request(&namespace, Op::Flush, 0, Patience::Holds);
            let next = flush.completed(result);
            assert_eq!(matches!(next, Next::Later), again, "{result:04X}h");
        }
    }

    /// Memory that the kernel does not find costs no path and no error, and no loop without end.
    #[test]
    fn memory_that_the_kernel_does_not_find_is_offered_again() {
        let namespace = handle();
        let mut write = request(&namespace, Op::Write, 8, Patience::FailsFast);
        for _ in 0..UNMAPPED_MAX {
            assert!(matches!(write.completed(-libc::EFAULT), Next::Later));
        }
        assert_eq!(ended(write.completed(-libc::EFAULT)), Some(Status::IoError));
    }

    #[test]
    fn a_head_without_a_path_is_a_failed_path() {
        for (multipath, status) in [(true, Status::Transport), (false, Status::IoError)] {
            let namespace = Rc::new(Shared::new(namespace(multipath)).handle());
            let next = request(&namespace, Op::Flush, 0, Patience::Holds).completed(-libc::EINVAL);
            assert_eq!(ended(next), Some(status));
        }
    }

    /// MP-13 by way of the driver: its result has the status one bit lower than a completion.
    #[test]
    fn mp_13_what_the_controller_answers() {
        let namespace = handle();
        for (result, status) in [
            (0x0000, Status::Ok),
            (0x4081, Status::NoSpace),
            (0x0370, Status::Transport),
            (0x4281, Status::Medium),
            (0x4083, Status::ReservationConflict),
            (0x4001, Status::NotSupported),
        ] {
            let next = request(&namespace, Op::Flush, 0, Patience::FailsFast).completed(result);
            assert_eq!(ended(next), Some(status), "{result:04X}h");
        }
    }

    /// A discard that is larger than a range may be goes on until it is done; a piece that fails ends it.
    #[test]
    fn a_discard_goes_range_by_range() {
        let namespace = handle();
        let sectors = namespace.geometry().discard_sectors_max * 2;
        let pool = BufferPool::new(1 << 20);
        for second in [0x0000, 0x4002] {
            let mut discard = request(&namespace, Op::Discard, sectors, Patience::Holds);
            discard.hold(pool.take(DatasetRange::SIZE).expect("room"));
            discard.entry();
            let range = discard.buffer.as_ref().expect("held")[..DatasetRange::SIZE].to_vec();
            assert!(matches!(discard.completed(0), Next::Again));
            discard.entry();
            let next_range = &discard.buffer.as_ref().expect("held")[..DatasetRange::SIZE];
            assert_ne!(range, next_range);
            let expected = verdict(abi::status(second));
            assert_eq!(ended(discard.completed(second)), Some(expected));
        }
    }

    /// Entries of twice the size, through a ring: each request ends once, as a kernel ends a command for a device that takes none.
    #[test]
    fn commands_go_through_a_ring_of_their_own() {
        let namespace = handle();
        let mut ring = Ring::new(4, Completions::Interrupts).expect("a ring");
        let mut ended = Vec::new();
        for turn in 0..3 {
            let mut clones = Vec::new();
            while ring.has_room() {
                let clone = CloneId(turn * 4 + clones.len() as u32);
                clones.push(clone);
                ring.start(Request {
                    clone,
                    ..request(&namespace, Op::Flush, 0, Patience::Holds)
                });
            }
            ended.clear();
            while ended.len() < clones.len() {
                ring.poll(&mut ended);
            }
            ended.sort_by_key(|(clone, _)| clone.0);
            let expected = clones.iter().map(|clone| (*clone, Status::NotSupported));
            assert!(ended.iter().copied().eq(expected), "{ended:?}");
        }
    }

    /// Only a read that has succeeded lends its buffer.
    #[test]
    fn a_read_lends_what_it_brought() {
        let namespace = handle();
        let pool = BufferPool::new(1 << 20);
        for (result, lent) in [(0, 1), (0x4281, 0)] {
            let mut list = LendList::default();
            let mut read = request(&namespace, Op::Read, 8, Patience::Holds);
            // SAFETY: the list outlives the request.
            read.payload = unsafe { Payload::lent(NonNull::from(&mut list), 4096) };
            read.hold(pool.take(4096).expect("room"));
            assert!(matches!(read.completed(result), Next::Ended(_)));
            drop(read);
            assert_eq!(list.segments().len(), lent);
        }
    }
}
