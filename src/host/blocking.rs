//! A queue that waits for its commands: for set-up, for tests, and wherever speed does not matter.
//!
//! Every call is bounded by the queue's timeout. Commands can be started one by one and awaited in any
//! order, so a test can keep several outstanding, fuse two, or abort one.

use super::connection::{due, wait};
use super::error::Error;
use super::queue::{Client, Queue, Submission};
use crate::nvme::command::{Command, Completion, DatasetRange, Fuse};
use crate::nvme::opcode::io;
use std::time::{Duration, Instant};

/// The data of one command.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// No data.
    None,
    /// So many bytes from the controller.
    Read(u32),
    /// These bytes to the controller.
    Write(&'a [u8]),
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The completion.
    pub completion: Completion,
    /// What came as data; as long as was asked for, with zeroes where nothing came.
    pub data: Vec<u8>,
    /// Bytes that went over the wire as data.
    pub transferred: u32,
}

/// One command's buffer and, once it ended, its completion.
#[derive(Debug, Default)]
struct Pending {
    data: Vec<u8>,
    ended: Option<(Completion, u32)>,
}

/// The buffers of all commands, by command identifier.
#[derive(Debug)]
struct Buffers(Vec<Pending>);

impl Client for Buffers {
    fn outgoing(&mut self, command_id: u16, offset: u32, buffer: &mut [u8]) {
        let offset = offset as usize;
        buffer
            .copy_from_slice(&self.0[usize::from(command_id)].data[offset..offset + buffer.len()]);
    }

    fn incoming(&mut self, command_id: u16, offset: u32, data: &[u8]) {
        let offset = offset as usize;
        self.0[usize::from(command_id)].data[offset..offset + data.len()].copy_from_slice(data);
    }

    fn complete(&mut self, completion: &Completion, transferred: u32) {
        self.0[usize::from(completion.command_id)].ended = Some((*completion, transferred));
    }
}

/// Outgoing data of the command that is being submitted, whose identifier is not known before.
pub(super) struct Submitting<'a>(pub(super) &'a [u8]);

impl Client for Submitting<'_> {
    fn outgoing(&mut self, _: u16, offset: u32, buffer: &mut [u8]) {
        let offset = offset as usize;
        buffer.copy_from_slice(&self.0[offset..offset + buffer.len()]);
    }

    fn incoming(&mut self, _: u16, _: u32, _: &[u8]) {
        unreachable!("submitting receives nothing");
    }

    fn complete(&mut self, _: &Completion, _: u32) {
        unreachable!("submitting completes nothing");
    }
}

/// A [`Queue`] with a buffer per command and a deadline for each.
#[derive(Debug)]
pub struct BlockingQueue {
    queue: Queue,
    buffers: Buffers,
    timeout: Duration,
    deadline: Option<Instant>,
}

impl BlockingQueue {
    /// Wraps a queue; `timeout` bounds every wait.
    pub fn new(queue: Queue, timeout: Duration) -> Self {
        let buffers = (0..queue.depth()).map(|_| Pending::default()).collect();
        Self {
            queue,
            buffers: Buffers(buffers),
            timeout,
            deadline: None,
        }
    }

    /// The queue itself. Commands that were started here have to be awaited here first.
    pub fn into_queue(self) -> Queue {
        self.queue
    }

    /// The queue itself.
    pub fn queue_mut(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// How long a wait may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How long a wait may take from now on, and what no wait goes beyond, if there is such a time.
    pub(super) fn set_limits(&mut self, timeout: Duration, deadline: Option<Instant>) {
        self.timeout = timeout;
        self.deadline = deadline;
    }

    /// When a wait that begins now ends.
    pub(super) fn due(&self) -> Instant {
        due(self.timeout, self.deadline)
    }

    /// Starts a command, to be awaited with [`BlockingQueue::finish`]; its identifier, which is no other command's until then.
    ///
    /// # Errors
    ///
    /// As [`Queue::submit`] and [`Queue::poll`]; [`Error::QueueFull`] only when the timeout passed, too, or every command has ended and none was awaited.
    pub fn start(&mut self, command: Command, payload: Payload<'_>) -> Result<u16, Error> {
        let (submission, data, outgoing) = match payload {
            Payload::None => (Submission::None, Vec::new(), &[][..]),
            Payload::Read(size) => (Submission::Incoming(size), vec![0; size as usize], &[][..]),
            Payload::Write(bytes) => (
                Submission::Outgoing(bytes.len() as u32),
                bytes.to_vec(),
                bytes,
            ),
        };
        let deadline = self.due();
        loop {
            let is_free = |command_id: u16| self.buffers.0[usize::from(command_id)].ended.is_none();
            let submitted = match self.queue.choose(is_free) {
                true => self
                    .queue
                    .submit(command, submission, &mut Submitting(outgoing)),
                false => Err(Error::QueueFull),
            };
            // What has ended already makes no room by being waited for.
            let may_wait = self.queue.outstanding() > 0 && Instant::now() < deadline;
            match submitted {
                Ok(command_id) => {
                    self.buffers.0[usize::from(command_id)] = Pending { data, ended: None };
                    return Ok(command_id);
                }
                Err(Error::QueueFull) if may_wait => {
                    wait(self.queue.stream(), true, deadline);
                    self.queue.poll(&mut self.buffers)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends and receives once, without waiting.
    ///
    /// # Errors
    ///
    /// As [`Queue::poll`].
    pub fn poll(&mut self) -> Result<(), Error> {
        self.queue.poll(&mut self.buffers).map(|_| ())
    }

    /// How a started command ended, if it did.
    pub fn take(&mut self, command_id: u16) -> Option<Outcome> {
        let pending = &mut self.buffers.0[usize::from(command_id)];
        let (completion, transferred) = pending.ended.take()?;
        Some(Outcome {
            completion,
            data: std::mem::take(&mut pending.data),
            transferred,
        })
    }

    /// Waits for a started command.
    ///
    /// # Errors
    ///
    /// As [`Queue::poll`], and [`Error::Timeout`]. A status is not an error.
    pub fn finish(&mut self, command_id: u16) -> Result<Outcome, Error> {
        self.finish_by(command_id, self.due())?
            .ok_or_else(|| Error::Timeout {
                what: format!("command {command_id}"),
                after: self.timeout,
            })
    }

    /// Waits for a started command for at most `timeout`; `None` when it did not end in that time.
    ///
    /// # Errors
    ///
    /// As [`Queue::poll`].
    pub fn finish_within(
        &mut self,
        command_id: u16,
        timeout: Duration,
    ) -> Result<Option<Outcome>, Error> {
        self.finish_by(command_id, Instant::now() + timeout)
    }

    fn finish_by(&mut self, command_id: u16, deadline: Instant) -> Result<Option<Outcome>, Error> {
        loop {
            // Before the poll, and before its error: what has ended has, also when the controller is gone since.
            if let Some(outcome) = self.take(command_id) {
                return Ok(Some(outcome));
            }
            let polled = self.queue.poll(&mut self.buffers);
            if let Some(outcome) = self.take(command_id) {
                return Ok(Some(outcome));
            }
            polled?;
            if Instant::now() >= deadline {
                return Ok(None);
            }
            wait(self.queue.stream(), self.queue.has_unsent(), deadline);
        }
    }

    /// Runs one command to its end.
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::start`] and [`BlockingQueue::finish`]. A status is not an error.
    pub fn run(&mut self, command: Command, payload: Payload<'_>) -> Result<Outcome, Error> {
        let command_id = self.start(command, payload)?;
        self.finish(command_id)
    }

    /// Runs one command that has to succeed; `what` names it in the error.
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::run`], and [`Error::Status`].
    pub fn expect(
        &mut self,
        what: &str,
        command: Command,
        payload: Payload<'_>,
    ) -> Result<Outcome, Error> {
        let outcome = self.run(command, payload)?;
        let Completion { status, result, .. } = outcome.completion;
        if status.is_success() {
            return Ok(outcome);
        }
        Err(Error::Status {
            what: what.to_owned(),
            status,
            result,
        })
    }

    /// Reads `block_count` blocks of `block_size` bytes.
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::expect`]; so for all that follow.
    pub fn read(
        &mut self,
        nsid: u32,
        lba: u64,
        block_count: u32,
        block_size: u32,
    ) -> Result<Vec<u8>, Error> {
        let command = Command::block_io(io::READ, nsid, lba, block_count);
        Ok(self
            .expect("Read", command, Payload::Read(block_count * block_size))?
            .data)
    }

    /// Writes `data`, whole blocks of `block_size` bytes.
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::expect`].
    pub fn write(
        &mut self,
        nsid: u32,
        lba: u64,
        data: &[u8],
        block_size: u32,
    ) -> Result<(), Error> {
        let command = Command::block_io(io::WRITE, nsid, lba, data.len() as u32 / block_size);
        self.expect("Write", command, Payload::Write(data))
            .map(|_| ())
    }

    /// Compares `data` with what is stored. A difference is [`Error::Status`] with "compare failure".
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::expect`].
    pub fn compare(
        &mut self,
        nsid: u32,
        lba: u64,
        data: &[u8],
        block_size: u32,
    ) -> Result<(), Error> {
        let command = Command::block_io(io::COMPARE, nsid, lba, data.len() as u32 / block_size);
        self.expect("Compare", command, Payload::Write(data))
            .map(|_| ())
    }

    /// Fused compare and write: writes `new` where `old` is stored. The completions of both commands.
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::run`]; a difference is a status, not an error.
    pub fn compare_and_write(
        &mut self,
        nsid: u32,
        lba: u64,
        old: &[u8],
        new: &[u8],
        block_size: u32,
    ) -> Result<(Completion, Completion), Error> {
        let mut compare = Command::block_io(io::COMPARE, nsid, lba, old.len() as u32 / block_size);
        compare.set_fuse(Fuse::First);
        let mut write = Command::block_io(io::WRITE, nsid, lba, new.len() as u32 / block_size);
        write.set_fuse(Fuse::Second);
        let first = self.start(compare, Payload::Write(old))?;
        let second = self.start(write, Payload::Write(new))?;
        Ok((
            self.finish(first)?.completion,
            self.finish(second)?.completion,
        ))
    }

    /// Flushes a namespace, or all with [`crate::nvme::NSID_ALL`].
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::expect`].
    pub fn flush(&mut self, nsid: u32) -> Result<(), Error> {
        self.expect("Flush", Command::new(io::FLUSH, nsid), Payload::None)
            .map(|_| ())
    }

    /// Writes zeroes, and deallocates where asked to.
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::expect`].
    pub fn write_zeroes(
        &mut self,
        nsid: u32,
        lba: u64,
        block_count: u32,
        deallocate: bool,
    ) -> Result<(), Error> {
        let mut command = Command::block_io(io::WRITE_ZEROES, nsid, lba, block_count);
        if deallocate {
            command.set_deallocate();
        }
        self.expect("Write Zeroes", command, Payload::None)
            .map(|_| ())
    }

    /// Checks that blocks can be read.
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::expect`].
    pub fn verify(&mut self, nsid: u32, lba: u64, block_count: u32) -> Result<(), Error> {
        let command = Command::block_io(io::VERIFY, nsid, lba, block_count);
        self.expect("Verify", command, Payload::None).map(|_| ())
    }

    /// Deallocates ranges of first block and number of blocks: 1 to 256 of them.
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::expect`]; [`Error::Unsupported`] for another number of ranges.
    pub fn deallocate(&mut self, nsid: u32, ranges: &[(u64, u32)]) -> Result<(), Error> {
        if !(1..=256).contains(&ranges.len()) {
            return Err(Error::Unsupported(format!(
                "a Dataset Management command has 1 to 256 ranges, not {}",
                ranges.len()
            )));
        }
        let mut bytes = vec![0; ranges.len() * DatasetRange::SIZE];
        for (&(lba, block_count), bytes) in ranges.iter().zip(bytes.chunks_mut(DatasetRange::SIZE))
        {
            DatasetRange {
                context: 0,
                block_count,
                lba,
            }
            .encode(bytes);
        }
        let mut command = Command::new(io::DATASET_MANAGEMENT, nsid);
        command.set_dword(10, ranges.len() as u32 - 1);
        command.set_dword(11, 1 << 2);
        self.expect("Dataset Management", command, Payload::Write(&bytes))
            .map(|_| ())
    }
}
