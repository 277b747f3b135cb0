//! A queue that waits for its commands: for set-up, for tests, and wherever speed does not matter.
//!
//! Every call is bounded by the queue's timeout. Commands can be started one by one and awaited in any
//! order, so a test can keep several outstanding, fuse two, or abort one.

use super::connection::wait;
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
struct Submitting<'a>(&'a [u8]);

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
}

impl BlockingQueue {
    /// Wraps a queue; `timeout` bounds every wait.
    pub fn new(queue: Queue, timeout: Duration) -> Self {
        let buffers = (0..queue.depth()).map(|_| Pending::default()).collect();
        Self {
            queue,
            buffers: Buffers(buffers),
            timeout,
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

    /// Starts a command, to be awaited with [`BlockingQueue::finish`]; its identifier.
    ///
    /// # Errors
    ///
    /// As [`Queue::submit`] and [`Queue::poll`]; [`Error::QueueFull`] only when the timeout passed, too.
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
        let deadline = Instant::now() + self.timeout;
        loop {
            match self
                .queue
                .submit(command, submission, &mut Submitting(outgoing))
            {
                Ok(command_id) => {
                    self.buffers.0[usize::from(command_id)] = Pending { data, ended: None };
                    return Ok(command_id);
                }
                Err(Error::QueueFull) if Instant::now() < deadline => {
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
        self.finish_within(command_id, self.timeout)?
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
        let deadline = Instant::now() + timeout;
        loop {
            self.queue.poll(&mut self.buffers)?;
            if let Some(outcome) = self.take(command_id) {
                return Ok(Some(outcome));
            }
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

#[cfg(test)]
mod tests {
    use super::super::peer::{self, DATA_SIZE_MAX, PATIENCE, Peer};
    use super::*;
    use crate::nvme::command::DataPointer;
    use crate::nvme::pdu::{
        Digests, FLAG_LAST, FLAG_SUCCESS, InitializeResponse, Receiver, TermReason, Terminate,
        Transfer,
    };
    use crate::nvme::status::Status;

    const PLAIN: Digests = Digests {
        header: false,
        data: false,
    };
    const BOTH: Digests = Digests {
        header: true,
        data: true,
    };

    fn queue(address: std::net::SocketAddr, digests: Digests) -> BlockingQueue {
        BlockingQueue::new(peer::open_queue(address, digests, 4), PATIENCE)
    }

    fn bytes(size: usize) -> Vec<u8> {
        (0..size)
            .map(|index| (index * 7 + index / 256) as u8)
            .collect()
    }

    /// A write that fits goes in its capsule, with digests and at the controller's alignment.
    #[test]
    fn a_small_write_goes_in_its_capsule() {
        for digests in [PLAIN, BOTH] {
            for alignment in [0, 15] {
                let (address, script) = peer::listen(move |mut peer| {
                    peer.alignment = alignment;
                    peer.initialize();
                    let (command, data) = peer.receive_command();
                    assert_eq!(command.data_pointer(), DataPointer::in_capsule(0, 512));
                    peer.respond(&Completion::new(command.command_id(), Status::SUCCESS));
                    data
                });
                queue(address, digests)
                    .write(1, 8, &bytes(512), 512)
                    .unwrap();
                assert_eq!(script.join().unwrap(), bytes(512));
            }
        }
    }

    /// A larger one is asked for in pieces, each answered by PDUs within MAXH2CDATA, the last one marked.
    #[test]
    fn a_large_write_answers_requests() {
        for digests in [PLAIN, BOTH] {
            let (address, script) = peer::listen(|mut peer| {
                peer.initialize();
                let (command, data) = peer.receive_command();
                assert!(data.is_empty());
                assert_eq!(command.data_pointer(), DataPointer::transport(16384));
                let command_id = command.command_id();
                let mut stored = Vec::new();
                for (tag, offset, size) in [(7, 0, 10_000), (9, 10_000, 6_384)] {
                    peer.request(&Transfer {
                        command_id,
                        tag,
                        offset,
                        size,
                    });
                    let end = offset + size;
                    while (stored.len() as u32) < end {
                        let (transfer, flags, data) = peer.receive_data();
                        assert_eq!((transfer.command_id, transfer.tag), (command_id, tag));
                        assert_eq!(transfer.offset, stored.len() as u32);
                        assert!(transfer.size <= DATA_SIZE_MAX);
                        stored.extend(data);
                        assert_eq!(flags & FLAG_LAST != 0, stored.len() as u32 == end);
                    }
                }
                peer.respond(&Completion::new(command_id, Status::SUCCESS));
                stored
            });
            queue(address, digests)
                .write(1, 0, &bytes(16384), 512)
                .unwrap();
            assert_eq!(script.join().unwrap(), bytes(16384));
        }
    }

    /// Data in several PDUs, ended by a response or by the SUCCESS flag, however TCP cuts it up.
    #[test]
    fn a_read_takes_data_in_pieces() {
        for digests in [PLAIN, BOTH] {
            for success in [false, true] {
                let (address, script) = peer::listen(move |mut peer| {
                    peer.initialize();
                    let (command, _) = peer.receive_command();
                    let command_id = command.command_id();
                    let data = bytes(4096);
                    let flags = if success {
                        FLAG_LAST | FLAG_SUCCESS
                    } else {
                        FLAG_LAST
                    };
                    let mut stream = peer.data_pdu(command_id, 0, &data[..1000], 0);
                    stream.extend(peer.data_pdu(command_id, 1000, &data[1000..], flags));
                    for piece in stream.chunks(997) {
                        peer.send(piece);
                    }
                    if !success {
                        peer.respond(&Completion::new(command_id, Status::SUCCESS));
                    }
                    peer
                });
                let mut queue = queue(address, digests);
                assert_eq!(queue.read(1, 0, 1, 4096).unwrap(), bytes(4096));
                drop(script.join().unwrap());
            }
        }
    }

    /// 3.5: a wrong data digest fails the command as a transient error, and the connection goes on.
    #[test]
    fn a_data_digest_error_fails_one_command() {
        let (address, script) = peer::listen(|mut peer| {
            peer.initialize();
            for broken in [true, false] {
                let (command, _) = peer.receive_command();
                let flags = FLAG_LAST | FLAG_SUCCESS;
                let mut data = peer.data_pdu(command.command_id(), 0, &bytes(512), flags);
                let end = data.len() - 1;
                data[end] ^= u8::from(broken);
                peer.send(&data);
            }
            peer
        });
        let mut queue = queue(
            address,
            Digests {
                header: false,
                data: true,
            },
        );
        let error = queue.read(1, 0, 1, 512).unwrap_err();
        assert!(
            matches!(error, Error::Status { status, .. } if status == Status::TRANSIENT_TRANSPORT_ERROR)
        );
        assert_eq!(queue.read(1, 0, 1, 512).unwrap(), bytes(512));
        drop(script.join().unwrap());
    }

    /// Commands outstanding are bounded by the depth, and end in any order.
    #[test]
    fn commands_end_in_any_order() {
        let (address, script) = peer::listen(|mut peer| {
            peer.initialize();
            let ids: Vec<u16> = (0..4)
                .map(|_| peer.receive_command().0.command_id())
                .collect();
            for &command_id in ids.iter().rev() {
                let completion = Completion {
                    result: 100 + u64::from(command_id),
                    ..Completion::new(command_id, Status::SUCCESS)
                };
                peer.respond(&completion);
            }
            peer
        });
        let mut queue = queue(address, PLAIN);
        let flush = Command::new(io::FLUSH, 1);
        let ids: Vec<u16> = (0..4)
            .map(|_| queue.start(flush, Payload::None).unwrap())
            .collect();
        let full = queue
            .queue_mut()
            .submit(flush, Submission::None, &mut Submitting(&[]));
        assert!(matches!(full, Err(Error::QueueFull)));
        for command_id in ids {
            let outcome = queue.finish(command_id).unwrap();
            assert_eq!(outcome.completion.result, 100 + u64::from(command_id));
        }
        drop(script.join().unwrap());
    }

    /// What a controller says that it must not say, and the H2CTermReq that each deserves.
    #[test]
    fn violations_are_answered_with_the_right_terminate() {
        type Violation = fn(&mut Peer, u16);
        let read_cases: [(&str, Violation, TermReason); 9] = [
            (
                "data of an unknown command",
                |p, id| p.send(&p.data_pdu(id + 1, 0, &[0; 4], 0)),
                TermReason::field(8),
            ),
            (
                "data beyond the queue",
                |p, _| p.send(&p.data_pdu(999, 0, &[0; 4], 0)),
                TermReason::field(8),
            ),
            (
                "SUCCESS without LAST",
                |p, id| p.send(&p.data_pdu(id, 0, &[0; 512], FLAG_SUCCESS)),
                TermReason::field(1),
            ),
            (
                "data past the end",
                |p, id| p.send(&p.data_pdu(id, 4, &[0; 512], 0)),
                TermReason::data_out_of_range(),
            ),
            (
                "a gap",
                |p, id| p.send(&p.data_pdu(id, 4, &[0; 4], 0)),
                TermReason::sequence(),
            ),
            (
                "a second last",
                |p, id| {
                    p.send(&p.data_pdu(id, 0, &[0; 4], FLAG_LAST));
                    p.send(&p.data_pdu(id, 4, &[0; 4], FLAG_LAST));
                },
                TermReason::sequence(),
            ),
            (
                "a request for a read",
                |p, command_id| {
                    p.request(&Transfer {
                        command_id,
                        tag: 0,
                        offset: 0,
                        size: 4,
                    });
                },
                TermReason::sequence(),
            ),
            (
                "a response to nothing",
                |p, id| p.respond(&Completion::new(id + 1, Status::SUCCESS)),
                TermReason::field(20),
            ),
            (
                "a second ICResp",
                |p, _| {
                    let response = InitializeResponse {
                        format_version: 0,
                        controller_alignment: 0,
                        digests: PLAIN,
                        data_size_max: 4096,
                    };
                    p.send(&response.encode());
                },
                TermReason::sequence(),
            ),
        ];
        let write_cases: [(&str, Violation, TermReason); 4] = [
            (
                "two requests at once",
                |p, command_id| {
                    let mut bytes = [0; 48];
                    Transfer {
                        command_id,
                        tag: 0,
                        offset: 0,
                        size: 4,
                    }
                    .encode_ready(&mut bytes, false);
                    Transfer {
                        command_id,
                        tag: 1,
                        offset: 4,
                        size: 4,
                    }
                    .encode_ready(&mut bytes[24..], false);
                    p.send(&bytes);
                },
                TermReason::limit_exceeded(),
            ),
            (
                "a request out of order",
                |p, command_id| {
                    p.request(&Transfer {
                        command_id,
                        tag: 0,
                        offset: 8,
                        size: 4,
                    });
                },
                TermReason::sequence(),
            ),
            (
                "a request for too much",
                |p, command_id| {
                    p.request(&Transfer {
                        command_id,
                        tag: 0,
                        offset: 0,
                        size: 8192,
                    });
                },
                TermReason::field(16),
            ),
            (
                "a request for no whole dword",
                |p, command_id| {
                    p.request(&Transfer {
                        command_id,
                        tag: 0,
                        offset: 0,
                        size: 2,
                    });
                },
                TermReason::field(16),
            ),
        ];
        let cases = read_cases.map(|case| (false, case)).into_iter();
        for (is_write, (name, violate, expected)) in
            cases.chain(write_cases.map(|case| (true, case)))
        {
            let (address, script) = peer::listen(move |mut peer| {
                peer.initialize();
                let (command, _) = peer.receive_command();
                violate(&mut peer, command.command_id());
                peer.receive_terminate()
            });
            let mut queue = queue(address, PLAIN);
            let error = if is_write {
                queue.write(1, 0, &bytes(4096), 512).unwrap_err()
            } else {
                queue.read(1, 0, 1, 512).unwrap_err()
            };
            assert!(
                matches!(error, Error::Protocol(reason) if reason == expected),
                "{name}: {error}"
            );
            assert!(
                matches!(queue.poll(), Err(Error::Closed)),
                "{name}: the queue goes on"
            );
            drop(queue);
            let Terminate { fes, fei } = script.join().unwrap();
            assert_eq!((fes, fei), (expected.fes as u16, expected.fei), "{name}");
        }
    }

    /// A header digest error ends the connection and tells the digest that came.
    #[test]
    fn a_header_digest_error_is_fatal() {
        let (address, script) = peer::listen(|mut peer| {
            peer.initialize();
            let (command, _) = peer.receive_command();
            let mut bytes = [0; 28];
            let completion = Completion::new(command.command_id(), Status::SUCCESS);
            crate::nvme::pdu::encode_response(&mut bytes, &completion, true);
            bytes[24..].copy_from_slice(&[1, 2, 3, 4]);
            peer.send(&bytes);
            peer.receive_terminate()
        });
        let mut queue = queue(address, BOTH);
        let error = queue.flush(1).unwrap_err();
        assert!(
            matches!(error, Error::Protocol(reason) if reason == TermReason::header_digest(0x0403_0201))
        );
        drop(queue);
        assert_eq!(
            script.join().unwrap(),
            Terminate {
                fes: 3,
                fei: 0x0403_0201
            }
        );
    }

    #[test]
    fn the_controllers_terminate_and_its_silence_are_told() {
        let (address, script) = peer::listen(|mut peer| {
            peer.initialize();
            peer.receive_command();
            let mut bytes = [0; 152];
            let reason = TermReason::field(4);
            let size = Terminate::encode(&mut bytes, Receiver::Controller, reason, &[0; 72]);
            peer.send(&bytes[..size]);
            peer
        });
        let error = queue(address, PLAIN).flush(1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the controller terminated the connection: invalid PDU header field at byte 4"
        );
        drop(script.join().unwrap());

        let (address, script) = peer::listen(|mut peer| {
            peer.initialize();
            peer
        });
        let short = Duration::from_millis(20);
        let mut queue = BlockingQueue::new(peer::open_queue(address, PLAIN, 4), short);
        assert!(matches!(queue.flush(1), Err(Error::Timeout { .. })));
        drop(script.join().unwrap());
        assert!(matches!(queue.flush(1), Err(Error::Closed)));
    }

    /// ICResp is checked before anything else is said.
    #[test]
    fn bad_initialize_responses_are_refused() {
        let good = InitializeResponse {
            format_version: 0,
            controller_alignment: 0,
            digests: PLAIN,
            data_size_max: 4096,
        };
        for (response, expected) in [
            (
                InitializeResponse {
                    format_version: 1,
                    ..good
                },
                TermReason::unsupported(8),
            ),
            (
                InitializeResponse {
                    controller_alignment: 32,
                    ..good
                },
                TermReason::field(10),
            ),
            (
                InitializeResponse {
                    digests: BOTH,
                    ..good
                },
                TermReason::field(11),
            ),
            (
                InitializeResponse {
                    data_size_max: 4098,
                    ..good
                },
                TermReason::field(12),
            ),
        ] {
            let (address, script) = peer::listen(move |mut peer| {
                peer.send(&response.encode());
                peer
            });
            let connection =
                super::super::connection::Connection::open(&[address], PATIENCE).unwrap();
            let error = connection.initialize(&peer::options(PLAIN)).unwrap_err();
            assert!(
                matches!(error, Error::Protocol(reason) if reason == expected),
                "{error}"
            );
            drop(script.join().unwrap());
        }
        let (address, script) = peer::listen(move |mut peer| {
            peer.send(&good.encode());
            peer
        });
        let connection = super::super::connection::Connection::open(&[address], PATIENCE).unwrap();
        let error = connection.initialize(&peer::options(BOTH)).unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
        drop(script.join().unwrap());
    }
}
