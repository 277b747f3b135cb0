//! A session that waits for its commands: for set-up, for tests, and wherever speed does not matter.
//!
//! Every call is bounded by the session's timeout. Commands can be started one by one and awaited in any order. A CDB is sent as it is, so
//! whatever a unit may be asked can be asked; the answer has all of the sense data.

use super::command;
use super::error::Error;
use super::receive::Ending;
use super::session::{Attribute, Client, Session};
use super::status::CommandStatus;
use crate::host::blocking::Payload;
use crate::host::connection::wait;
use crate::host::queue::Submission;
use crate::scsi::sense::{Code, Key};
use crate::scsi::{Cdb, Lun};
use std::time::{Duration, Instant};

/// Most unit attentions that a unit may have to tell, one by one, before it does anything else.
const ATTENTIONS_MAX: usize = 16;

/// Bytes of READ CAPACITY (16) data (SBC-3, 5.19).
const CAPACITY_BYTES: u32 = 32;

/// Vital product data: block limits (SBC-3, 6.6.4).
const BLOCK_LIMITS: u8 = 0xB0;

/// Bytes of it.
const BLOCK_LIMITS_BYTES: u16 = 64;

/// Bytes of standard INQUIRY data that every unit has (SPC-4, 6.6.2).
const INQUIRY_BYTES: u16 = 36;

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Status and what its sense data says.
    pub status: CommandStatus,
    /// All of the sense data.
    pub sense: Vec<u8>,
    /// What came as data; as long as was asked for, with zeroes where nothing came.
    pub data: Vec<u8>,
    /// Bytes that went over the wire as data.
    pub transferred: u32,
    /// Bytes that the command had, or took, beyond those that were expected.
    pub overflow: u32,
}

/// One command's buffer and, once it ended, how.
#[derive(Debug, Default)]
struct Pending {
    data: Vec<u8>,
    ended: Option<Outcome>,
}

/// The buffers of all commands, by slot.
#[derive(Debug)]
struct Buffers(Vec<Pending>);

impl Client for Buffers {
    fn outgoing(&mut self, slot: u16, offset: u32, buffer: &mut [u8]) {
        let data = &self.0[usize::from(slot)].data[offset as usize..];
        buffer.copy_from_slice(&data[..buffer.len()]);
    }

    fn incoming(&mut self, slot: u16, offset: u32, data: &[u8]) {
        let buffer = &mut self.0[usize::from(slot)].data[offset as usize..];
        buffer[..data.len()].copy_from_slice(data);
    }

    fn complete(&mut self, ending: &Ending<'_>) {
        let pending = &mut self.0[usize::from(ending.slot)];
        pending.ended = Some(Outcome {
            status: ending.status,
            sense: ending.sense.to_vec(),
            data: std::mem::take(&mut pending.data),
            transferred: ending.transferred,
            overflow: ending.overflow,
        });
    }
}

/// Outgoing data of the command that is being submitted, whose slot is not known before.
struct Submitting<'a>(&'a [u8]);

impl Client for Submitting<'_> {
    fn outgoing(&mut self, _: u16, offset: u32, buffer: &mut [u8]) {
        let offset = offset as usize;
        buffer.copy_from_slice(&self.0[offset..offset + buffer.len()]);
    }

    fn incoming(&mut self, _: u16, _: u32, _: &[u8]) {
        unreachable!("submitting receives nothing");
    }

    fn complete(&mut self, _: &Ending<'_>) {
        unreachable!("submitting completes nothing");
    }
}

/// How large a unit is, and in what it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Blocks there are.
    pub block_count: u64,
    /// Bytes in a block.
    pub block_size: u32,
}

/// A [`Session`] with a buffer per command and a deadline for each.
#[derive(Debug)]
pub struct BlockingSession {
    session: Session,
    buffers: Buffers,
    timeout: Duration,
}

impl BlockingSession {
    /// Wraps a session; `timeout` bounds every wait.
    pub fn new(session: Session, timeout: Duration) -> Self {
        let buffers = (0..session.depth()).map(|_| Pending::default()).collect();
        Self {
            session,
            buffers: Buffers(buffers),
            timeout,
        }
    }

    /// The session itself. Commands that were started here have to be awaited here first.
    pub fn into_session(self) -> Session {
        self.session
    }

    /// The session itself.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Ends the session in good order; it is of no more use then, whatever comes of it.
    ///
    /// # Errors
    ///
    /// As [`Session::log_out`].
    pub fn log_out(&mut self) -> Result<(), Error> {
        self.session.log_out(self.timeout, &mut self.buffers)
    }

    /// Starts a command for a unit, to be awaited with [`BlockingSession::finish`]; its slot, which is no other command's until then.
    ///
    /// # Errors
    ///
    /// As [`Session::submit`] and [`Session::poll`]; [`Error::QueueFull`] only when the timeout passed, too, or every command has ended and
    /// none was awaited.
    pub fn start(&mut self, lun: u16, cdb: &Cdb, payload: Payload<'_>) -> Result<u16, Error> {
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
            let is_free = |slot: u16| self.buffers.0[usize::from(slot)].ended.is_none();
            let submitted = match self.session.choose(is_free) {
                true => {
                    let client = &mut Submitting(outgoing);
                    self.session
                        .submit(Lun::encode(lun), cdb, submission, client)
                }
                false => Err(Error::QueueFull),
            };
            // What has ended already makes no room by being waited for.
            let may_wait = self.session.outstanding() > 0 && Instant::now() < deadline;
            match submitted {
                Ok(slot) => {
                    self.buffers.0[usize::from(slot)] = Pending { data, ended: None };
                    return Ok(slot);
                }
                Err(Error::QueueFull) if may_wait => {
                    wait(self.session.stream(), true, deadline);
                    self.poll()?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The same for one that is ORDERED: it is carried out when those before it have ended, and those after it when it has.
    ///
    /// # Errors
    ///
    /// As [`BlockingSession::start`].
    pub fn start_ordered(
        &mut self,
        lun: u16,
        cdb: &Cdb,
        payload: Payload<'_>,
    ) -> Result<u16, Error> {
        self.session.set_attribute(Attribute::Ordered);
        let started = self.start(lun, cdb, payload);
        self.session.set_attribute(Attribute::Simple);
        started
    }

    /// Sends and receives once, without waiting.
    ///
    /// # Errors
    ///
    /// As [`Session::poll`].
    pub fn poll(&mut self) -> Result<(), Error> {
        self.session.poll(&mut self.buffers).map(|_| ())
    }

    /// Waits for a started command.
    ///
    /// # Errors
    ///
    /// As [`Session::poll`], and [`Error::Timeout`]. A status is not an error.
    pub fn finish(&mut self, slot: u16) -> Result<Outcome, Error> {
        let deadline = Instant::now() + self.timeout;
        loop {
            // Before the poll, and before its error: what has ended has, also when the target is gone since.
            if let Some(outcome) = self.buffers.0[usize::from(slot)].ended.take() {
                return Ok(outcome);
            }
            if Instant::now() >= deadline {
                return Err(Error::Timeout {
                    what: "a command".into(),
                    after: self.timeout,
                });
            }
            let polled = self.poll();
            if self.buffers.0[usize::from(slot)].ended.is_none() {
                polled?;
                wait(self.session.stream(), self.session.has_unsent(), deadline);
            }
        }
    }

    /// Runs one command to its end.
    ///
    /// # Errors
    ///
    /// As [`BlockingSession::start`] and [`BlockingSession::finish`]. A status is not an error.
    pub fn run(&mut self, lun: u16, cdb: &Cdb, payload: Payload<'_>) -> Result<Outcome, Error> {
        let slot = self.start(lun, cdb, payload)?;
        self.finish(slot)
    }

    /// Runs one command that has to succeed; `what` names it in the error.
    ///
    /// # Errors
    ///
    /// As [`BlockingSession::run`], and [`Error::Command`].
    pub fn expect(
        &mut self,
        what: &'static str,
        lun: u16,
        cdb: &Cdb,
        payload: Payload<'_>,
    ) -> Result<Outcome, Error> {
        let outcome = self.run(lun, cdb, payload)?;
        match outcome.status {
            CommandStatus::GOOD => Ok(outcome),
            status => Err(Error::Command { what, status }),
        }
    }

    /// Makes sure that there is a disk, and hears what its unit has to tell: until TEST UNIT READY is well.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] when there is no such unit or it is no disk; as [`BlockingSession::expect`].
    pub fn settle(&mut self, lun: u16) -> Result<(), Error> {
        let none =
            || Error::Unsupported(format!("the target has no unit {lun} for this initiator"));
        let cdb = command::inquiry(None, INQUIRY_BYTES);
        let payload = Payload::Read(u32::from(INQUIRY_BYTES));
        let outcome = self.run(lun, &cdb, payload)?;
        if outcome
            .status
            .is(Key::IllegalRequest, Code::LOGICAL_UNIT_NOT_SUPPORTED)
        {
            return Err(none());
        }
        // Peripheral qualifier and device type (SPC-4, 6.6.2).
        match (outcome.status, outcome.data[0]) {
            (CommandStatus::GOOD, 0) => {}
            (CommandStatus::GOOD, 0x60..) => return Err(none()),
            (CommandStatus::GOOD, kind) => {
                return Err(Error::Unsupported(format!(
                    "unit {lun} is no disk (peripheral device type {:02X}h)",
                    kind & 0x1F
                )));
            }
            (status, _) => {
                let what = "INQUIRY";
                return Err(Error::Command { what, status });
            }
        }
        let mut told = 0;
        loop {
            let outcome = self.run(lun, &command::test_unit_ready(), Payload::None)?;
            match outcome.status {
                CommandStatus::GOOD => return Ok(()),
                status if status.is_attention() && told < ATTENTIONS_MAX => told += 1,
                status => {
                    let what = "TEST UNIT READY";
                    return Err(Error::Command { what, status });
                }
            }
        }
    }

    /// How large a unit is (READ CAPACITY (16)).
    ///
    /// # Errors
    ///
    /// As [`BlockingSession::expect`], and [`Error::Unsupported`] when it cannot be so.
    pub fn capacity(&mut self, lun: u16) -> Result<Capacity, Error> {
        let cdb = command::read_capacity(CAPACITY_BYTES);
        let payload = Payload::Read(CAPACITY_BYTES);
        let data = self.expect("READ CAPACITY (16)", lun, &cdb, payload)?.data;
        let last = u64::from_be_bytes(std::array::from_fn(|index| data[index]));
        let block_size = u32::from_be_bytes(std::array::from_fn(|index| data[8 + index]));
        if block_size < 512 || !block_size.is_power_of_two() || last == u64::MAX {
            return Err(Error::Unsupported(format!(
                "unit {lun} says that its last block is {last}, of {block_size} bytes; blocks have 512 bytes or a larger power of two"
            )));
        }
        Ok(Capacity {
            block_count: last + 1,
            block_size,
        })
    }

    /// Most blocks that a unit transfers at once; `None` when it does not say.
    ///
    /// # Errors
    ///
    /// As [`BlockingSession::run`].
    pub fn transfer_blocks_max(&mut self, lun: u16) -> Result<Option<u32>, Error> {
        let cdb = command::inquiry(Some(BLOCK_LIMITS), BLOCK_LIMITS_BYTES);
        let payload = Payload::Read(u32::from(BLOCK_LIMITS_BYTES));
        let outcome = self.run(lun, &cdb, payload)?;
        let data = &outcome.data;
        if !outcome.status.is_good() || data[1] != BLOCK_LIMITS {
            return Ok(None);
        }
        let limit = u32::from_be_bytes(std::array::from_fn(|index| data[8 + index]));
        Ok((limit > 0).then_some(limit))
    }

    /// Reads `block_count` blocks of `block_size` bytes.
    ///
    /// # Errors
    ///
    /// As [`BlockingSession::expect`]; so for all that follow.
    pub fn read(
        &mut self,
        lun: u16,
        lba: u64,
        block_count: u32,
        block_size: u32,
    ) -> Result<Vec<u8>, Error> {
        let cdb = command::read(lba, block_count);
        let payload = Payload::Read(block_count * block_size);
        Ok(self.expect("READ", lun, &cdb, payload)?.data)
    }

    /// Writes `data`, whole blocks of `block_size` bytes; durable when it returns where `fua` is set.
    ///
    /// # Errors
    ///
    /// As [`BlockingSession::expect`].
    pub fn write(
        &mut self,
        lun: u16,
        lba: u64,
        data: &[u8],
        block_size: u32,
        fua: bool,
    ) -> Result<(), Error> {
        let cdb = command::write(lba, data.len() as u32 / block_size, fua);
        let payload = Payload::Write(data);
        self.expect("WRITE", lun, &cdb, payload).map(|_| ())
    }

    /// Makes everything that was written durable.
    ///
    /// # Errors
    ///
    /// As [`BlockingSession::expect`].
    pub fn flush(&mut self, lun: u16) -> Result<(), Error> {
        let cdb = command::synchronize_cache();
        self.expect("SYNCHRONIZE CACHE", lun, &cdb, Payload::None)
            .map(|_| ())
    }
}
