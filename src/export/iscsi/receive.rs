//! Bytes in: receives into a chunk, cuts it into PDUs, and checks every one of them (RFC 7143, 11).
//!
//! A PDU is looked at when it is there as a whole, except for data that goes to the medium: its payload goes to the command's buffer as it
//! arrives, and what has not arrived is received there directly, without a copy.

use std::rc::Rc;

use super::command::{Memory, Phase};
use super::keys::RECEIVE_BYTES_MAX;
use super::session::{Context, Session, State, WINDOW};
use crate::export::backend::{Backend, Lend};
use crate::export::chunk::{CHUNK_BYTES, Chunk, ChunkPool};
use crate::export::inlet::Inlet;
use crate::iscsi::pdu::{
    self, DIGEST_BYTES, HEADER_BYTES, Header, Layout, NO_TAG, RejectReason, opcode,
};
use crate::scsi::Sense;
use crate::scsi::sense::{Code, Key};

/// A chunk with less room than this is exchanged for a fresh one.
const ROOM_BYTES_MIN: usize = 20 * 1024;

/// Immediate data of more than this goes to a buffer as it arrives; less is carried out from where it was received.
const IN_CHUNK_BYTES_MAX: usize = 16 * 1024;

/// A payload less than this is not worth an iovec of its own: it is received into the chunk and copied.
const DIRECT_BYTES_MIN: usize = 2048;

// A PDU that has to lie in one piece does so in a fresh chunk.
const _: () = assert!(CHUNK_BYTES > RECEIVE_BYTES_MAX as usize + HEADER_BYTES + 255 * 4 + 64);

/// Data that is under way.
#[derive(Clone, Copy, Debug)]
struct Incoming {
    /// The header of its PDU.
    header: Header,
    /// Whose it is; `None` when nobody wants it.
    slot: Option<u16>,
    /// Where the next byte goes in the command's data.
    at: u32,
    /// Bytes that go there, and bytes after them that nobody wants.
    keep: u32,
    skip: u32,
    /// Bytes after the data.
    tail: usize,
    /// The digest so far, if there is one.
    digest: Option<u32>,
    /// Bytes of the PDU's data, and whether it is the last of its sequence.
    size: u32,
    is_final: bool,
}

/// The receiving side of a connection.
#[derive(Default)]
pub struct Receive {
    pub(super) inlet: Inlet,
    incoming: Option<Incoming>,
    /// Bytes that the PDU at the start needs to be looked at.
    needed: usize,
}

/// The data segment of a PDU that lies in a chunk as a whole.
pub(super) struct Segment<'a> {
    /// `None` when it was copied from where it was received.
    pub(super) chunk: Option<&'a Rc<Chunk>>,
    pub(super) offset: usize,
    pub(super) bytes: &'a [u8],
}

impl Segment<'_> {
    /// The data, for as long as a command needs it.
    pub(super) fn memory(&self) -> Memory {
        match self.chunk {
            Some(chunk) => Memory::Chunk(Rc::clone(chunk), self.offset),
            None => Memory::Page(self.bytes.to_vec()),
        }
    }
}

impl Receive {
    /// Lets go of the chunk.
    pub fn clear(&mut self, chunks: &mut ChunkPool) {
        self.inlet.clear(chunks);
        self.incoming = None;
    }

    /// Lets go of the chunk if nothing in it waits.
    pub fn rest(&mut self, chunks: &mut ChunkPool) {
        if self.incoming.is_none() && !self.inlet.has_bytes() {
            self.clear(chunks);
        }
    }

    /// A command is gone: the rest of its data is nobody's.
    pub fn forget(&mut self, slot: u16) {
        if let Some(incoming) = &mut self.incoming
            && incoming.slot == Some(slot)
        {
            incoming.slot = None;
            incoming.skip += std::mem::take(&mut incoming.keep);
            incoming.digest = None;
        }
    }
}

impl<L: Lend> Session<L> {
    /// Where the socket may put what it has: up to two pieces. `None` when nothing may be received now.
    #[inline]
    pub fn input<B: Backend<Lend = L>>(
        &mut self,
        cx: &mut Context<'_, B>,
    ) -> Option<[libc::iovec; 2]> {
        if !self.may_receive() {
            return None;
        }
        let waiting = self.receive.inlet.end - self.receive.inlet.start;
        let room = ROOM_BYTES_MIN.max(self.receive.needed.saturating_sub(waiting));
        if !self.receive.inlet.prepare(room, &mut cx.local.chunks) {
            self.starved = true;
            return None;
        }
        let chunk = self.receive.inlet.chunk.as_ref()?;
        let end = self.receive.inlet.end;
        let room = libc::iovec {
            iov_base: chunk.pointer(end).cast(),
            iov_len: CHUNK_BYTES - end,
        };
        let direct = match self.direct() {
            Some((slot, incoming)) => libc::iovec {
                iov_base: self
                    .slots
                    .get(slot)
                    .pointer()
                    .wrapping_add(incoming.at as usize)
                    .cast(),
                iov_len: incoming.keep as usize,
            },
            None => libc::iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 0,
            },
        };
        Some([direct, room])
    }

    /// Data that is received where it belongs, without a copy.
    #[inline]
    fn direct(&self) -> Option<(u16, Incoming)> {
        let incoming = self.receive.incoming?;
        let slot = incoming.slot?;
        let worth = incoming.keep as usize >= DIRECT_BYTES_MIN && !self.receive.inlet.has_bytes();
        worth.then_some((slot, incoming))
    }

    /// Takes note that the socket has put `count` bytes into what [`Session::input`] answered last, and carries out what they ask for.
    #[inline]
    pub fn received<B: Backend<Lend = L>>(&mut self, count: usize, cx: &mut Context<'_, B>) {
        let mut count = count;
        if let Some((slot, mut incoming)) = self.direct() {
            let direct = count.min(incoming.keep as usize);
            if let Some(sum) = incoming.digest {
                let end = incoming.at as usize + direct;
                let bytes = &self.slots.get(slot).bytes(end)[incoming.at as usize..];
                incoming.digest = Some(crc32c::crc32c_append(sum, bytes));
            }
            incoming.at += direct as u32;
            incoming.keep -= direct as u32;
            self.receive.incoming = Some(incoming);
            count -= direct;
        }
        self.receive.inlet.end += count;
        self.watch.has_heard = true;
        self.process(cx);
    }

    /// Carries out every complete PDU, until room runs out. True if anything was done.
    pub(super) fn process<B: Backend<Lend = L>>(&mut self, cx: &mut Context<'_, B>) -> bool {
        let Some(chunk) = self.receive.inlet.chunk.clone() else {
            return false;
        };
        let mut worked = false;
        while self.is_open() && self.step(&chunk, cx) {
            worked = true;
            if !self.held.is_empty() {
                self.run_held(cx);
            }
        }
        cx.local.chunks.give(chunk);
        if !self.is_open() {
            self.receive.clear(&mut cx.local.chunks);
        } else if self
            .receive
            .inlet
            .chunk
            .as_ref()
            .is_some_and(|chunk| Rc::strong_count(chunk) == 1)
        {
            self.receive.rest(&mut cx.local.chunks);
        }
        worked
    }

    /// One PDU, or one piece of data. False when more bytes, or room, are needed first.
    #[inline]
    fn step<B: Backend<Lend = L>>(&mut self, chunk: &Rc<Chunk>, cx: &mut Context<'_, B>) -> bool {
        let (start, end) = (self.receive.inlet.start, self.receive.inlet.end);
        // SAFETY: received, and the connection writes only behind `end`.
        let bytes = unsafe { chunk.bytes(start, end) };
        if self.receive.incoming.is_some() {
            return self.step_data(bytes, cx);
        }
        let Some(first) = bytes.first_chunk::<HEADER_BYTES>() else {
            self.receive.needed = HEADER_BYTES;
            return false;
        };
        let header = Header(*first);
        let in_login = matches!(&self.state, State::Login(_));
        if let State::Login(login) = &self.state
            && login.is_waiting()
        {
            return false;
        }
        let parameters = &self.parameters;
        let digests = (
            parameters.header_digest && !in_login,
            parameters.data_digest && !in_login,
        );
        let layout = Layout::of(&header, digests.0, digests.1);
        let size_max = if in_login {
            pdu::LOGIN_BYTES_MAX
        } else {
            RECEIVE_BYTES_MAX as usize
        };
        if layout.data > size_max {
            self.refuse_pdu(&header, in_login);
            return false;
        }
        let streams = !in_login
            && (header.opcode() == opcode::DATA_OUT
                || header.opcode() == opcode::COMMAND
                    && layout.data > IN_CHUNK_BYTES_MAX
                    && !self.is_early(&header));
        let needed = if streams { layout.head } else { layout.total() };
        if bytes.len() < needed {
            self.receive.needed = needed;
            return false;
        }
        if digests.0 {
            let covered = layout.head - DIGEST_BYTES;
            if pdu::digest(&[&bytes[..covered]]) != bytes[covered..layout.head] {
                // What the header says cannot be believed, not even where the next one is (RFC 7143, 7.7).
                self.violate();
                return false;
            }
        }
        if self.takes_slot(&header) && self.is_blocked() && !in_login {
            return false;
        }
        self.receive.inlet.start += needed;
        self.receive.needed = HEADER_BYTES;
        if streams {
            self.begin_data(&header, &layout, cx);
            return true;
        }
        let data = &bytes[layout.head..layout.head + layout.data];
        if layout.data_digest {
            let covered = &bytes[layout.head..layout.total() - DIGEST_BYTES];
            if pdu::digest(&[covered]) != bytes[layout.total() - DIGEST_BYTES..layout.total()] {
                self.data_digest_failed(&header, cx);
                return true;
            }
        }
        let segment = Segment {
            chunk: Some(chunk),
            offset: start + layout.head,
            bytes: data,
        };
        if in_login {
            self.login_pdu(&header, segment.bytes, cx);
        } else {
            self.full_pdu(&header, &segment, cx);
        }
        true
    }

    /// Whether a PDU is answered from a slot.
    #[inline]
    fn takes_slot(&self, header: &Header) -> bool {
        matches!(
            header.opcode(),
            opcode::COMMAND | opcode::TEXT | opcode::NOP_OUT
        )
    }

    /// A data segment longer than was agreed on.
    fn refuse_pdu(&mut self, header: &Header, in_login: bool) {
        if !in_login {
            self.reject(header, RejectReason::Protocol);
        }
        self.violate();
    }

    /// A PDU of the full feature phase.
    #[inline]
    pub(super) fn full_pdu<B: Backend<Lend = L>>(
        &mut self,
        header: &Header,
        segment: &Segment<'_>,
        cx: &mut Context<'_, B>,
    ) {
        match header.opcode() {
            opcode::COMMAND => {
                if let Some(index) = self.admit(header, cx) {
                    self.command(index, Some(segment), cx);
                } else {
                    self.hold(header, segment);
                }
            }
            opcode::TASK_MANAGEMENT => {
                if self.is_in_order(header) {
                    self.manage(header, cx);
                } else {
                    self.hold(header, segment);
                }
            }
            opcode::NOP_OUT => self.nop_out(header, segment, cx),
            opcode::TEXT => {
                if self.is_in_order(header) {
                    self.text(header, segment.bytes, cx);
                } else {
                    self.hold(header, segment);
                }
            }
            opcode::LOGOUT => {
                if self.is_in_order(header) {
                    self.logout(header);
                } else {
                    self.hold(header, segment);
                }
            }
            opcode::SNACK => self.reject(header, RejectReason::Snack),
            // A second login on a connection, or something that no initiator sends (RFC 7143, 7.8).
            _ => {
                self.reject(header, RejectReason::Protocol);
                self.violate();
            }
        }
    }

    /// Whether a request comes in its turn, and counts it (RFC 7143, 4.2.2.1). One that is out of the window, or came before, is ignored
    /// without a word; one that is early is kept.
    pub(super) fn is_in_order(&mut self, header: &Header) -> bool {
        if header.is_immediate() {
            return true;
        }
        if header.u32(24) != self.expected_sn {
            return false;
        }
        self.expected_sn = self.expected_sn.wrapping_add(1);
        true
    }

    /// A command comes in its turn: gives it a slot.
    #[inline]
    fn admit<B: Backend<Lend = L>>(
        &mut self,
        header: &Header,
        cx: &mut Context<'_, B>,
    ) -> Option<u16> {
        let counts = !header.is_immediate();
        if counts && (header.u32(24) != self.expected_sn || self.unanswered >= WINDOW) {
            return None;
        }
        // A tag names one task at a time (RFC 7143, 11.2.1.8).
        if header.task_tag() == NO_TAG || self.slots.find(header.task_tag()).is_some() {
            self.reject(header, RejectReason::InvalidField);
            self.violate();
            return None;
        }
        if self.target().is_none() {
            // A discovery session has no commands (RFC 7143, 4.3).
            self.reject(header, RejectReason::Protocol);
            return None;
        }
        let index = self.slots.take(*header, cx.backend.now_ns())?;
        if counts {
            self.expected_sn = self.expected_sn.wrapping_add(1);
            self.unanswered += 1;
            self.slots.get_mut(index).in_window = true;
        }
        Some(index)
    }

    /// The header of data that is not looked at as a whole.
    fn begin_data<B: Backend<Lend = L>>(
        &mut self,
        header: &Header,
        layout: &Layout,
        cx: &mut Context<'_, B>,
    ) {
        let size = layout.data as u32;
        let mut incoming = Incoming {
            header: *header,
            slot: None,
            at: 0,
            keep: 0,
            skip: size,
            tail: layout.tail,
            digest: None,
            size,
            is_final: header.is_final(),
        };
        let slot = if header.opcode() == opcode::COMMAND {
            self.admit(header, cx).filter(|&index| {
                self.command(index, None, cx);
                self.slots.get(index).phase == Phase::AwaitsData
            })
        } else {
            self.data_out(header, size, cx)
        };
        if let Some(index) = slot {
            let slot = self.slots.get(index);
            incoming.slot = Some(index);
            incoming.at = slot.received;
            incoming.keep = slot.data_out.saturating_sub(slot.received).min(size);
            incoming.skip = size - incoming.keep;
            incoming.digest = layout.data_digest.then_some(0);
        }
        self.receive.incoming = Some(incoming);
    }

    /// Checks the header of a Data-Out PDU (RFC 7143, 11.7); answers whose it is. Data of a task that has ended is nobody's.
    fn data_out<B: Backend<Lend = L>>(
        &mut self,
        header: &Header,
        size: u32,
        cx: &mut Context<'_, B>,
    ) -> Option<u16> {
        let index = self.slots.find(header.task_tag())?;
        let slot = self.slots.get(index);
        let unexpected = slot.phase != Phase::AwaitsData
            || header.transfer_tag() != slot.transfer_tag
            || size == 0 && !header.is_final();
        let (data_sn, offset) = (header.u32(36), header.u32(40));
        let in_order = data_sn == slot.data_sn && offset == slot.received;
        let fits = slot
            .received
            .checked_add(size)
            .is_some_and(|end| end <= slot.burst_end);
        let code = if unexpected && header.transfer_tag() == NO_TAG {
            Code::UNEXPECTED_UNSOLICITED_DATA
        } else if unexpected || !in_order || !fits {
            Code::INCORRECT_AMOUNT_OF_DATA
        } else {
            return Some(index);
        };
        // RFC 7143, 11.4.7.2: the task ends; at error recovery level 0 nothing is asked for again.
        if slot.phase == Phase::AwaitsData {
            self.fail(index, Sense::new(Key::AbortedCommand, code).into(), cx);
        }
        None
    }

    /// Payload of a command or Data-Out.
    fn step_data<B: Backend<Lend = L>>(&mut self, bytes: &[u8], cx: &mut Context<'_, B>) -> bool {
        let Some(mut incoming) = self.receive.incoming else {
            return false;
        };
        let mut used = 0;
        if let Some(slot) = incoming.slot
            && incoming.keep > 0
        {
            let count = bytes.len().min(incoming.keep as usize);
            let to = self.slots.get(slot).pointer();
            // SAFETY: there is memory for `data_out` bytes, or for `burst_end` if that is less; `begin_data` keeps `at + keep` within both, and
            // the memory is never part of a chunk.
            unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.add(incoming.at as usize), count);
            }
            incoming.at += count as u32;
            incoming.keep -= count as u32;
            used += count;
        }
        let skipped = (bytes.len() - used).min(incoming.skip as usize);
        let skipped = if incoming.keep == 0 { skipped } else { 0 };
        incoming.skip -= skipped as u32;
        used += skipped;
        if let Some(sum) = incoming.digest {
            incoming.digest = Some(crc32c::crc32c_append(sum, &bytes[..used]));
        }
        self.receive.inlet.start += used;
        self.receive.incoming = Some(incoming);
        let rest = &bytes[used..];
        if incoming.keep > 0 || incoming.skip > 0 || rest.len() < incoming.tail {
            self.receive.needed = incoming.tail;
            return false;
        }
        self.receive.inlet.start += incoming.tail;
        self.receive.incoming = None;
        let Some(index) = incoming.slot else {
            return true;
        };
        if let Some(sum) = incoming.digest {
            let (padding, digest) = rest[..incoming.tail].split_at(incoming.tail - DIGEST_BYTES);
            if crc32c::crc32c_append(sum, padding).to_le_bytes() != *digest {
                self.data_digest_failed(&incoming.header, cx);
                return true;
            }
        }
        self.data_arrived(index, incoming.size, incoming.is_final, cx);
        true
    }

    /// A data segment is not what was sent: the PDU is rejected, and a command it belongs to fails (RFC 7143, 7.7).
    fn data_digest_failed<B: Backend<Lend = L>>(
        &mut self,
        header: &Header,
        cx: &mut Context<'_, B>,
    ) {
        self.reject(header, RejectReason::DataDigest);
        let is_command = header.opcode() == opcode::COMMAND;
        let index = match self.slots.find(header.task_tag()) {
            None if is_command => self.admit(header, cx),
            found => found.filter(|&index| self.slots.get(index).phase == Phase::AwaitsData),
        };
        if let Some(index) = index {
            let sense = Sense::new(Key::AbortedCommand, Code::PROTOCOL_CRC_ERROR);
            self.fail(index, sense.into(), cx);
        } else if !header.is_immediate() && !is_command {
            self.is_in_order(header);
        }
    }
}
