//! One session on one connection, polled.
//!
//! Cost per I/O in steady state: a command is encoded straight into the send buffer; one `send` per poll takes all of them; one `recv` per
//! poll brings as many PDUs as there are. No allocation.
//!
//! A write's data goes with its command as far as the target takes that (ImmediateData, FirstBurstLength), and unasked behind it
//! (InitialR2T=No); the rest is sent as the target asks for it.

use super::error::Error;
use super::receive::{Ending, Receive, Sent};
use crate::host::connection::{discard_unsent, wait};
use crate::host::queue::{DEPTH_MAX, Submission};
use crate::host::wire::{self, SendBuffer};
use crate::iscsi::pdu::{
    self, DIGEST_BYTES, FINAL, HEADER_BYTES, Header, IMMEDIATE, NO_TAG, READS, WRITES, is_before,
    opcode,
};
use crate::iscsi::text::Parameters;
use crate::scsi::Cdb;
use std::collections::VecDeque;
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The send buffer: a batch of 64 writes of 4 KiB, or two of the largest data segments.
const SEND_BYTES: usize = 512 << 10;

/// The longest data segment that is sent, however long the target takes: leaves room for two in the send buffer, so that one is filled while
/// the other is on its way.
const SEGMENT_BYTES_MAX: u32 = 128 << 10;

/// What a PDU has around its data: header, two digests, padding.
const AROUND_BYTES: usize = HEADER_BYTES + 2 * DIGEST_BYTES + 3;

const _: () = assert!(2 * (SEGMENT_BYTES_MAX as usize + AROUND_BYTES) <= SEND_BYTES);

/// How often one poll receives before it returns to its caller, when each time the buffer came full.
const RECEIVES_PER_POLL_MAX: usize = 4;

/// What a command waits for, and what waits for it (RFC 7143, 11.3.1; SAM-5, 8.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Attribute {
    /// Nothing that is SIMPLE as well.
    #[default]
    Simple = 1,
    /// All that came before it, and all that comes after it.
    Ordered = 2,
}

/// Bits of a task tag that name its slot; those above tell one command in a slot from the next.
const SLOT_BITS: u32 = 16;

const _: () = assert!(DEPTH_MAX < 1 << SLOT_BITS);

/// The task tag of a logout: no slot has this number.
pub(super) const LOGOUT_TAG: u32 = (1 << SLOT_BITS) - 1;

/// What a session's user does with data and the ends of commands. Calls come from within [`Session::submit`] and [`Session::poll`].
pub trait Client {
    /// Fills `buffer` with the outgoing data of a command, from `offset` on.
    ///
    /// Called once per piece; pieces of a command come in ascending order.
    fn outgoing(&mut self, slot: u16, offset: u32, buffer: &mut [u8]);

    /// Takes incoming data of a command. `data` lies in the receive buffer and is gone after the call.
    ///
    /// Pieces of a command come in ascending order, but may be split anywhere.
    fn incoming(&mut self, slot: u16, offset: u32, data: &[u8]);

    /// A command ended; its slot may be used again by the next [`Session::submit`].
    fn complete(&mut self, ending: &Ending<'_>);
}

/// The state of one slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// Its command's data; `None` in the outer option means that the slot is free.
    pub(super) data: Option<Submission>,
    /// Initiator task tag.
    pub(super) tag: u32,
    /// The unit that the command is for.
    lun: [u8; 8],
    /// Bytes that came, or that were sent unasked or asked for.
    pub(super) done: u32,
    /// DataSN of the next Data-In, or R2TSN of the next R2T.
    pub(super) next_sn: u32,
    /// A data digest did not match.
    pub(super) is_corrupt: bool,
    /// R2Ts that have not been answered as a whole.
    pub(super) ready_count: u32,
}

impl Slot {
    /// A command with no data gone yet.
    #[inline]
    pub(super) fn with(data: Submission, tag: u32) -> Self {
        Self {
            data: Some(data),
            tag,
            ..FREE
        }
    }
}

/// What is left of a burst: data that is to be sent in Data-Out PDUs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Burst {
    /// Slot and task tag of its command, which may have ended before.
    pub(super) slot: u16,
    pub(super) tag: u32,
    /// Target transfer tag; [`NO_TAG`] where nobody asked.
    pub(super) transfer_tag: u32,
    pub(super) offset: u32,
    pub(super) left: u32,
    /// DataSN of the next PDU.
    pub(super) data_sn: u32,
}

const FREE: Slot = Slot {
    data: None,
    tag: NO_TAG,
    lun: [0; 8],
    done: 0,
    next_sn: 0,
    is_corrupt: false,
    ready_count: 0,
};

/// How far a session is from its end in good order (RFC 7143, 11.14, 11.15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// The target has been asked to close it.
    Asked,
    /// What it has answered.
    Answered(u8),
}

/// Sequence numbers of a session (RFC 7143, 4.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// CmdSN of the next command.
    pub command: u32,
    /// MaxCmdSN: the last one that the target takes.
    pub command_max: u32,
    /// StatSN of the next response.
    pub status: u32,
}

impl Sequence {
    /// Takes note of ExpCmdSN and MaxCmdSN (RFC 7143, 4.2.2.1): old ones, which come late, change nothing.
    #[inline]
    pub(super) fn note(&mut self, header: &Header) {
        let (expected, max) = (header.u32(28), header.u32(32));
        if !is_before(max, expected.wrapping_sub(1)) && is_before(self.command_max, max) {
            self.command_max = max;
        }
    }

    /// Whether the target takes another command.
    #[inline]
    fn is_open(&self) -> bool {
        !is_before(self.command_max, self.command)
    }
}

/// One session. Dropping it closes the connection, which ends it; in good order it is ended by [`Session::log_out`].
#[derive(Debug)]
pub struct Session {
    stream: TcpStream,
    parameters: Parameters,
    /// Most data that goes with a command.
    immediate_bytes_max: u32,
    /// Most data that goes unasked, that with the command included.
    unasked_bytes_max: u32,
    slots: Box<[Slot]>,
    /// Free slots; a stack, so that the warmest is used next.
    free: Vec<u16>,
    sequence: Sequence,
    send: SendBuffer,
    receive: Receive,
    /// Bursts to send, in the order they came.
    bursts: VecDeque<Burst>,
    /// LUN and target transfer tag of a NOP-In that is to be answered.
    ping: Option<([u8; 8], u32)>,
    /// Makes task tags differ from those of earlier commands in the same slot.
    generation: u16,
    leaving: Leaving,
    /// What the next commands have.
    attribute: Attribute,
    /// Set when the connection is of no more use.
    is_dead: bool,
}

impl Session {
    /// A session of `depth` (1 to [`DEPTH_MAX`]) commands on a non-blocking socket that is past its login.
    pub fn new(
        stream: TcpStream,
        parameters: Parameters,
        sequence: Sequence,
        depth: usize,
    ) -> Self {
        assert!(
            (1..=DEPTH_MAX).contains(&depth),
            "depth {depth} is not in 1 to {DEPTH_MAX}"
        );
        // FirstBurstLength is never more than MaxBurstLength (RFC 7143, 13.14).
        let first_burst = parameters.first_burst_bytes.min(parameters.burst_bytes);
        let segment = parameters.send_bytes_max.min(SEGMENT_BYTES_MAX);
        let immediate_bytes_max = match parameters.immediate_data {
            true => first_burst.min(segment),
            false => 0,
        };
        let unasked_bytes_max = match parameters.initial_ready {
            true => immediate_bytes_max,
            false => first_burst,
        };
        // What goes unasked, and as many as the target may ask for.
        let bursts_max = depth * (1 + parameters.outstanding_ready as usize);
        Self {
            stream,
            immediate_bytes_max,
            unasked_bytes_max,
            slots: vec![FREE; depth].into(),
            free: (0..depth as u16).rev().collect(),
            sequence,
            send: SendBuffer::new(SEND_BYTES),
            receive: Receive::new(&parameters),
            bursts: VecDeque::with_capacity(bursts_max),
            ping: None,
            generation: 0,
            leaving: Leaving::No,
            attribute: Attribute::default(),
            is_dead: false,
            parameters,
        }
    }

    /// What the login has come to.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Most commands outstanding that the session has room for; the target may take fewer.
    pub fn depth(&self) -> usize {
        self.slots.len()
    }

    /// How many more commands the target takes now.
    pub fn window(&self) -> u32 {
        let room = self
            .sequence
            .command_max
            .wrapping_sub(self.sequence.command);
        if self.sequence.is_open() { room + 1 } else { 0 }
    }

    /// Commands outstanding.
    #[inline]
    pub fn outstanding(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Sees to it that the next command gets a free slot for which this holds; false when there is none.
    pub fn choose(&mut self, may_be: impl Fn(u16) -> bool) -> bool {
        let Some(found) = self.free.iter().rposition(|&slot| may_be(slot)) else {
            return false;
        };
        let next = self.free.len() - 1;
        self.free.swap(found, next);
        true
    }

    /// The attribute of the commands that are submitted from now on.
    pub fn set_attribute(&mut self, attribute: Attribute) {
        self.attribute = attribute;
    }

    /// The socket, to wait on it.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether bytes wait to be sent.
    #[inline]
    pub fn has_unsent(&self) -> bool {
        !self.send.is_empty() || !self.bursts.is_empty() || self.ping.is_some()
    }

    /// Encodes a command into the send buffer; the next [`Session::poll`] sends it. The slot that it has until it ends.
    ///
    /// # Errors
    ///
    /// [`Error::QueueFull`] when there is no slot, no room, or the target takes no more; [`Error::Closed`] after an error.
    #[inline]
    pub fn submit<C: Client>(
        &mut self,
        lun: [u8; 8],
        cdb: &Cdb,
        data: Submission,
        client: &mut C,
    ) -> Result<u16, Error> {
        if self.is_dead {
            return Err(Error::Closed);
        }
        let (expected, flags) = match data {
            Submission::None => (0, 0),
            Submission::Incoming(size) => (size, READS),
            Submission::Outgoing(size) => (size, WRITES),
        };
        let outgoing = if flags == WRITES { expected } else { 0 };
        let immediate = outgoing.min(self.immediate_bytes_max);
        let unasked = outgoing.min(self.unasked_bytes_max);
        if !self.sequence.is_open() || !self.send.reserve(AROUND_BYTES + immediate as usize) {
            return Err(Error::QueueFull);
        }
        let Some(slot) = self.free.pop() else {
            return Err(Error::QueueFull);
        };
        self.generation = self.generation.wrapping_add(1);
        let tag = u32::from(self.generation) << SLOT_BITS | u32::from(slot);
        // F: no data follows unasked (RFC 7143, 11.3.1).
        let last = if unasked == immediate { FINAL } else { 0 };
        let mut header = Header::new(opcode::COMMAND, last | flags | self.attribute as u8);
        header.put_data_bytes(immediate as usize);
        header.put_lun(lun);
        header.put(16, tag);
        header.put(20, expected);
        header.put(24, self.sequence.command);
        header.put(28, self.sequence.status);
        header.0[32..].copy_from_slice(&cdb.0);
        self.sequence.command = self.sequence.command.wrapping_add(1);
        self.slots[usize::from(slot)] = Slot {
            lun,
            done: unasked,
            ..Slot::with(data, tag)
        };
        self.put_header(&header);
        if immediate > 0 {
            self.put_data(slot, 0, immediate, client);
        }
        if unasked > immediate {
            self.bursts.push_back(Burst {
                slot,
                tag,
                transfer_tag: NO_TAG,
                offset: immediate,
                left: unasked - immediate,
                data_sn: 0,
            });
        }
        Ok(slot)
    }

    /// Sends what waits, receives what is there, answers R2Ts. The number of commands that ended.
    ///
    /// # Errors
    ///
    /// Everything that ends the connection; commands outstanding are then lost.
    #[inline]
    pub fn poll<C: Client>(&mut self, client: &mut C) -> Result<usize, Error> {
        if self.is_dead {
            return Err(Error::Closed);
        }
        let result = self.poll_inner(client);
        self.is_dead = result.is_err();
        result
    }

    fn poll_inner<C: Client>(&mut self, client: &mut C) -> Result<usize, Error> {
        self.send_all(client)?;
        let mut completed = 0;
        for _ in 0..RECEIVES_PER_POLL_MAX {
            let space = self.receive.space();
            let space_size = space.len();
            let size = wire::receive(&self.stream, space)?;
            if size == 0 {
                break;
            }
            let mut sent = Sent {
                slots: &mut self.slots,
                free: &mut self.free,
                bursts: &mut self.bursts,
                ping: &mut self.ping,
                sequence: &mut self.sequence,
                leaving: &mut self.leaving,
            };
            completed += self.receive.parse(size, &mut sent, client)?;
            if size < space_size {
                break;
            }
        }
        if !self.bursts.is_empty() || self.ping.is_some() {
            self.send_all(client)?;
        }
        Ok(completed)
    }

    /// Ends the session in good order: waits for commands that are outstanding, then asks the target to close it and waits for its answer, all
    /// within `timeout`. Whatever comes of it, the session is of no more use.
    ///
    /// # Errors
    ///
    /// As [`Session::poll`], [`Error::Timeout`], and [`Error::Protocol`] when the target does not close it.
    pub fn log_out<C: Client>(&mut self, timeout: Duration, client: &mut C) -> Result<(), Error> {
        let result = self.leave(timeout, client);
        self.is_dead = true;
        result
    }

    fn leave<C: Client>(&mut self, timeout: Duration, client: &mut C) -> Result<(), Error> {
        let deadline = Instant::now() + timeout;
        loop {
            let polled = self.poll(client);
            // Before the error: a target that has answered may be gone already.
            match self.leaving {
                Leaving::Answered(0) => return Ok(()),
                Leaving::Answered(_) => {
                    return Err(Error::Protocol("it does not close a session when asked to"));
                }
                Leaving::No | Leaving::Asked => polled?,
            };
            if Instant::now() >= deadline {
                return Err(Error::Timeout {
                    what: "a logout".into(),
                    after: timeout,
                });
            }
            let is_idle = self.outstanding() == 0 && self.leaving == Leaving::No;
            if is_idle && self.send.reserve(AROUND_BYTES) {
                self.ask_to_close();
                self.leaving = Leaving::Asked;
            }
            wait(&self.stream, self.has_unsent(), deadline);
        }
    }

    /// Logout Request: close the session (RFC 7143, 11.14). Immediate, so that it takes no CmdSN.
    fn ask_to_close(&mut self) {
        const CLOSE_SESSION: u8 = 0;
        let mut header = Header::new(opcode::LOGOUT | IMMEDIATE, FINAL | CLOSE_SESSION);
        header.put(16, LOGOUT_TAG);
        header.put(24, self.sequence.command);
        header.put(28, self.sequence.status);
        self.put_header(&header);
    }

    /// Closes the connection at once: what the kernel has not sent yet is never sent.
    pub fn abort(self) {
        discard_unsent(&self.stream);
    }

    /// Answers what the target has asked for, and sends what waits.
    #[inline]
    fn send_all<C: Client>(&mut self, client: &mut C) -> Result<(), Error> {
        if self.ping.is_some() {
            self.answer_ping();
        }
        self.send_bursts(client);
        Ok(self.send.flush(&self.stream)?)
    }

    /// NOP-Out for a NOP-In that asks for one (RFC 7143, 11.18): immediate, so that it takes no CmdSN.
    fn answer_ping(&mut self) {
        if self.leaving != Leaving::No {
            self.ping = None;
            return;
        }
        if !self.send.reserve(AROUND_BYTES) {
            return;
        }
        if let Some((lun, transfer_tag)) = self.ping.take() {
            let mut header = Header::new(opcode::NOP_OUT | IMMEDIATE, FINAL);
            header.put_lun(lun);
            header.put(16, NO_TAG);
            header.put(20, transfer_tag);
            header.put(24, self.sequence.command);
            header.put(28, self.sequence.status);
            self.put_header(&header);
        }
    }

    /// Appends a header, and its digest where in use.
    #[inline]
    fn put_header(&mut self, header: &Header) {
        self.send.put(&header.0);
        if self.parameters.header_digest {
            self.send.put(&pdu::digest(&[&header.0]));
        }
    }

    /// Appends data to the PDU whose header is in the send buffer: its padding and, where in use, its digest, too.
    #[inline]
    fn put_data<C: Client>(&mut self, slot: u16, offset: u32, size: u32, client: &mut C) {
        let size = size as usize;
        let padded = size + pdu::padding(size);
        let buffer = &mut self.send.room()[..padded];
        client.outgoing(slot, offset, &mut buffer[..size]);
        buffer[size..].fill(0);
        let digest = self
            .parameters
            .data_digest
            .then(|| pdu::digest(&[&*buffer]));
        self.send.extend(padded);
        if let Some(digest) = digest {
            self.send.put(&digest);
        }
    }

    /// Encodes Data-Out PDUs (RFC 7143, 11.7), in the order in which the bursts came, as far as the send buffer has room.
    fn send_bursts<C: Client>(&mut self, client: &mut C) {
        while let Some(&burst) = self.bursts.front() {
            let index = burst.slot;
            let slot = &mut self.slots[usize::from(index)];
            if slot.tag != burst.tag || slot.data.is_none() {
                self.bursts.pop_front();
                continue;
            }
            let segment = self.parameters.send_bytes_max.min(SEGMENT_BYTES_MAX);
            let size = burst.left.min(segment);
            if !self.send.reserve(AROUND_BYTES + size as usize) {
                return;
            }
            let left = burst.left - size;
            if left == 0 {
                self.bursts.pop_front();
                slot.ready_count -= u32::from(burst.transfer_tag != NO_TAG);
            } else if let Some(rest) = self.bursts.front_mut() {
                rest.offset += size;
                rest.left = left;
                rest.data_sn = burst.data_sn.wrapping_add(1);
            }
            let flags = if left == 0 { FINAL } else { 0 };
            let mut header = Header::new(opcode::DATA_OUT, flags);
            header.put_data_bytes(size as usize);
            header.put_lun(slot.lun);
            header.put(16, slot.tag);
            header.put(20, burst.transfer_tag);
            header.put(28, self.sequence.status);
            header.put(36, burst.data_sn);
            header.put(40, burst.offset);
            self.put_header(&header);
            self.put_data(index, burst.offset, size, client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7143, 4.2.2.1: the window moves forward only, across the end of the numbers, and what contradicts itself is ignored.
    #[test]
    fn the_window_moves_forward_only() {
        let mut sequence = Sequence {
            command: 0xFFFF_FFFE,
            command_max: 0xFFFF_FFFE,
            status: 1,
        };
        let mut said = |expected: u32, max: u32| {
            let mut header = Header::new(opcode::NOP_IN, FINAL);
            header.put(28, expected);
            header.put(32, max);
            sequence.note(&header);
            sequence.command_max
        };
        assert_eq!(said(0xFFFF_FFFE, 3), 3);
        assert_eq!(said(0xFFFF_FFFE, 0xFFFF_FFFF), 3);
        assert_eq!(said(10, 4), 3);
        assert_eq!(said(5, 4), 4);
        assert!(sequence.is_open());
        sequence.command = 5;
        assert!(!sequence.is_open());
    }
}
