//! One NVMe queue on one TCP connection, polled.
//!
//! Cost per I/O in steady state: a capsule is encoded straight into the send buffer; one `send` per
//! poll takes all of them; one `recv` per poll brings as many PDUs as there are. No allocation.

use super::connection::Negotiated;
use super::error::Error;
use super::receive::{Receive, Sent};
use super::wire::{self, SendBuffer};
use crate::nvme::command::{Command, Completion, DataPointer};
use crate::nvme::pdu::{
    self, COMMAND_HEADER_SIZE, DATA_HEADER_SIZE, DIGEST_SIZE, FLAG_LAST, HEADER_SIZE_MAX, Kind,
    Receiver, TERMINATE_SIZE_MAX, TermReason, Terminate, Transfer,
};
use std::io::Write;
use std::net::TcpStream;

/// Most commands outstanding on one queue, of which the standard's 16-bit identifiers would allow more:
/// what the largest queue depth of a benchmark asks for.
pub const DEPTH_MAX: usize = 1024;

/// The send buffer: a batch of 64 writes of 4 KiB in their capsules, or two of the largest data PDUs.
const SEND_SIZE: usize = 512 << 10;

/// The largest H2CData payload this host sends, however large MAXH2CDATA is: leaves room for two in the
/// send buffer, so that one is filled while the other is on its way.
const DATA_PDU_SIZE_MAX: u32 = 128 << 10;

/// The most that precedes the data of any PDU: header, digest, and padding to at most 128 bytes.
const HEAD_SIZE_MAX: usize = 2 * HEADER_SIZE_MAX;

const _: () = assert!(2 * (DATA_PDU_SIZE_MAX as usize + HEAD_SIZE_MAX + DIGEST_SIZE) <= SEND_SIZE);

/// How often one poll receives before it returns to its caller, when each time the buffer came full.
const RECEIVES_PER_POLL_MAX: usize = 4;

/// What a queue's user does with data and completions. Calls come from within [`Queue::submit`] and
/// [`Queue::poll`].
pub trait Client {
    /// Fills `buffer` with the outgoing data of a command, from `offset` on.
    ///
    /// Called once per piece; pieces of a command come in ascending order.
    fn outgoing(&mut self, command_id: u16, offset: u32, buffer: &mut [u8]);

    /// Takes incoming data of a command. `data` lies in the receive buffer and is gone after the call.
    ///
    /// Pieces of a command come in ascending order, but may be split anywhere.
    fn incoming(&mut self, command_id: u16, offset: u32, data: &[u8]);

    /// A command ended; its identifier may be used again by the next [`Queue::submit`].
    ///
    /// `transferred` is the number of bytes that came in or went out as data.
    fn complete(&mut self, completion: &Completion, transferred: u32);
}

/// A command's data, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submission {
    /// No data.
    None,
    /// So many bytes from the controller.
    Incoming(u32),
    /// So many bytes to the controller.
    Outgoing(u32),
}

/// The state of one command identifier.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// Its data; `None` in the outer option means that the identifier is free.
    pub(super) data: Option<Submission>,
    /// Bytes that came, or that R2Ts have asked for.
    pub(super) done: u32,
    /// A C2HData with LAST_PDU came.
    pub(super) last: bool,
    /// A data digest did not match.
    pub(super) corrupt: bool,
    /// An R2T that is not answered in full yet; one at a time (MAXR2T is 1).
    pub(super) requested: Option<Request>,
}

/// What is left of an R2T.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) tag: u16,
    pub(super) offset: u32,
    pub(super) size: u32,
}

const FREE: Slot = Slot {
    data: None,
    done: 0,
    last: false,
    corrupt: false,
    requested: None,
};

/// One queue. Dropping it closes the connection.
#[derive(Debug)]
pub struct Queue {
    stream: TcpStream,
    negotiated: Negotiated,
    /// Most data in a capsule, in bytes.
    capsule_data_size_max: u32,
    slots: Box<[Slot]>,
    /// Free command identifiers; a stack, so that the warmest slot is used next.
    free: Vec<u16>,
    send: SendBuffer,
    receive: Receive,
    /// Commands with an R2T to answer, in the order they came; at most one entry per slot.
    requests: std::collections::VecDeque<u16>,
    /// The last poll ended before it had received all there was.
    has_unread: bool,
    /// Set when the connection is of no more use.
    dead: bool,
}

impl Queue {
    /// A queue of `depth` (1 to [`DEPTH_MAX`]) commands on a connection that is past ICResp.
    pub fn new(
        stream: TcpStream,
        negotiated: Negotiated,
        depth: usize,
        capsule_data_size_max: u32,
    ) -> Self {
        assert!(
            (1..=DEPTH_MAX).contains(&depth),
            "depth {depth} is not in 1 to {DEPTH_MAX}"
        );
        Self {
            stream,
            negotiated,
            capsule_data_size_max: capsule_data_size_max.min(DATA_PDU_SIZE_MAX),
            slots: vec![FREE; depth].into(),
            free: (0..depth as u16).rev().collect(),
            send: SendBuffer::new(SEND_SIZE),
            receive: Receive::new(&negotiated),
            requests: std::collections::VecDeque::with_capacity(depth),
            has_unread: false,
            dead: false,
        }
    }

    /// Most commands outstanding.
    pub fn depth(&self) -> usize {
        self.slots.len()
    }

    /// Commands outstanding.
    #[inline]
    pub fn outstanding(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Sees to it that the next command gets a free identifier for which this holds; false when there is none.
    pub fn choose(&mut self, may_be: impl Fn(u16) -> bool) -> bool {
        let Some(found) = self.free.iter().rposition(|&command_id| may_be(command_id)) else {
            return false;
        };
        let next = self.free.len() - 1;
        self.free.swap(found, next);
        true
    }

    /// Sets how much data a capsule may carry, once Identify Controller told (IOCCSZ).
    pub fn set_capsule_data_size_max(&mut self, size: u32) {
        self.capsule_data_size_max = size.min(DATA_PDU_SIZE_MAX);
    }

    /// The socket, to wait on it.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether bytes wait to be sent.
    #[inline]
    pub fn has_unsent(&self) -> bool {
        !self.send.is_empty() || !self.requests.is_empty()
    }

    /// Whether there may be more to receive, of which the socket will not tell anew.
    #[inline]
    pub fn has_unread(&self) -> bool {
        self.has_unread
    }

    /// Whether another poll does something though nothing happens on the socket meanwhile: there is more to receive, or the socket has taken
    /// everything so far and there is more to send.
    pub fn may_go_on(&self) -> bool {
        self.has_unread || self.send.is_empty() && !self.requests.is_empty()
    }

    /// Encodes a command into the send buffer; the next [`Queue::poll`] sends it. Command identifier and
    /// data pointer are set here. Outgoing data goes into the capsule where it fits.
    ///
    /// # Errors
    ///
    /// [`Error::QueueFull`] when there is no identifier or no room; [`Error::Closed`] after an error.
    #[inline]
    pub fn submit<C: Client>(
        &mut self,
        mut command: Command,
        data: Submission,
        client: &mut C,
    ) -> Result<u16, Error> {
        if self.dead {
            return Err(Error::Closed);
        }
        let capsule_size = match data {
            Submission::Outgoing(size) if size <= self.capsule_data_size_max => size,
            _ => 0,
        };
        if !self
            .send
            .reserve(HEAD_SIZE_MAX + capsule_size as usize + DIGEST_SIZE)
        {
            return Err(Error::QueueFull);
        }
        let Some(command_id) = self.free.pop() else {
            return Err(Error::QueueFull);
        };
        command.set_command_id(command_id);
        command.set_data_pointer(match data {
            Submission::None => DataPointer::transport(0),
            Submission::Outgoing(size) if capsule_size != 0 => DataPointer::in_capsule(0, size),
            Submission::Incoming(size) | Submission::Outgoing(size) => DataPointer::transport(size),
        });
        self.slots[usize::from(command_id)] = Slot {
            data: Some(data),
            done: capsule_size,
            ..FREE
        };
        let Negotiated {
            digests,
            controller_alignment,
            ..
        } = self.negotiated;
        let buffer = self.send.room();
        let head = pdu::encode_command(
            buffer,
            &command,
            digests,
            controller_alignment,
            capsule_size,
        );
        self.send.extend(head);
        if capsule_size != 0 {
            self.put_data(command_id, 0, capsule_size, client);
        }
        debug_assert!(head >= COMMAND_HEADER_SIZE);
        Ok(command_id)
    }

    /// Sends what waits, without receiving; what it cannot send now the next call sends.
    ///
    /// # Errors
    ///
    /// As [`Queue::poll`].
    #[inline]
    pub fn send<C: Client>(&mut self, client: &mut C) -> Result<(), Error> {
        if self.dead {
            return Err(Error::Closed);
        }
        self.answer_requests(client);
        let result = self.send.flush(&self.stream);
        self.dead = result.is_err();
        result
    }

    /// Closes the connection at once: what the kernel has not sent yet is never sent. A connection that is merely dropped goes on sending
    /// behind its owner's back, so a write on it could reach the controller after one that was sent another way since.
    pub fn abort(self) {
        super::connection::discard_unsent(&self.stream);
    }

    /// Sends what waits, receives what is there, answers R2Ts. The number of commands that ended.
    ///
    /// # Errors
    ///
    /// Everything that ends the connection; commands outstanding are then lost.
    #[inline]
    pub fn poll<C: Client>(&mut self, client: &mut C) -> Result<usize, Error> {
        if self.dead {
            return Err(Error::Closed);
        }
        let result = self.poll_inner(client);
        if result.is_err() {
            self.dead = true;
        }
        result
    }

    fn poll_inner<C: Client>(&mut self, client: &mut C) -> Result<usize, Error> {
        self.answer_requests(client);
        self.send.flush(&self.stream)?;
        let mut completed = 0;
        self.has_unread = true;
        for _ in 0..RECEIVES_PER_POLL_MAX {
            let space = self.receive.space();
            let space_size = space.len();
            let size = wire::receive(&self.stream, space)?;
            if size > 0 {
                completed += self.parse(size, client)?;
            }
            if size < space_size {
                self.has_unread = false;
                break;
            }
        }
        if !self.requests.is_empty() {
            self.answer_requests(client);
            self.send.flush(&self.stream)?;
        }
        Ok(completed)
    }

    /// Takes `size` new bytes of the receive buffer apart.
    fn parse<C: Client>(&mut self, size: usize, client: &mut C) -> Result<usize, Error> {
        let mut sent = Sent {
            slots: &mut self.slots,
            free: &mut self.free,
            requests: &mut self.requests,
        };
        match self.receive.parse(size, &mut sent, client) {
            Ok(completed) => Ok(completed),
            Err(Error::Protocol(reason)) => {
                self.terminate(reason);
                Err(Error::Protocol(reason))
            }
            Err(error) => Err(error),
        }
    }

    /// Appends data, and its digest where in use, to the PDU whose head is in the send buffer.
    #[inline]
    fn put_data<C: Client>(&mut self, command_id: u16, offset: u32, size: u32, client: &mut C) {
        let buffer = &mut self.send.room()[..size as usize];
        client.outgoing(command_id, offset, buffer);
        let digest = self.negotiated.digests.data.then(|| pdu::digest(buffer));
        self.send.extend(size as usize);
        if let Some(digest) = digest {
            self.send.put(&digest.to_le_bytes());
        }
    }

    /// Encodes H2CData PDUs for R2Ts, in the order they came, as far as the send buffer has room.
    fn answer_requests<C: Client>(&mut self, client: &mut C) {
        while let Some(&command_id) = self.requests.front() {
            let slot = &mut self.slots[usize::from(command_id)];
            let Some(request) = slot.requested else {
                self.requests.pop_front();
                continue;
            };
            let size = request
                .size
                .min(self.negotiated.data_size_max)
                .min(DATA_PDU_SIZE_MAX);
            if !self
                .send
                .reserve(HEAD_SIZE_MAX + size as usize + DIGEST_SIZE)
            {
                return;
            }
            let left = request.size - size;
            let slot = &mut self.slots[usize::from(command_id)];
            slot.requested = (left > 0).then_some(Request {
                offset: request.offset + size,
                size: left,
                ..request
            });
            let transfer = Transfer {
                command_id,
                tag: request.tag,
                offset: request.offset,
                size,
            };
            let flags = if left == 0 { FLAG_LAST } else { 0 };
            let Negotiated {
                digests,
                controller_alignment,
                ..
            } = self.negotiated;
            let buffer = self.send.room();
            let head =
                transfer.encode_data(buffer, Kind::HostData, flags, digests, controller_alignment);
            debug_assert!(head >= DATA_HEADER_SIZE);
            self.send.extend(head);
            self.put_data(command_id, request.offset, size, client);
        }
    }

    /// Has it receive so many bytes at a time.
    #[cfg(test)]
    pub(super) fn set_receive_size(&mut self, size: usize) {
        self.receive.set_size(size);
    }

    /// Sends H2CTermReq as far as the socket takes it; nothing follows.
    fn terminate(&mut self, reason: TermReason) {
        let mut bytes = [0; TERMINATE_SIZE_MAX];
        let size = Terminate::encode(&mut bytes, Receiver::Host, reason, self.receive.header());
        // Behind half a PDU a TermReq could not be told apart; then closing has to do.
        if self.send.is_empty() {
            let _ = (&self.stream).write(&bytes[..size]);
        }
    }
}
