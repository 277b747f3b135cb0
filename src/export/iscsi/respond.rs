//! Bytes out: Data-In, R2T, responses, and what nobody asked for (RFC 7143, 11.4, 11.7, 11.8, 11.17).
//!
//! Answers are queued in the order in which commands ended, as far as there is room for their headers; what is left waits for the socket.
//! Sequence numbers are given when a PDU is queued, so they are in the order of the stream.

use super::command::{Memory, Phase, Reply};
use super::session::{Session, WINDOW};
use super::task::transfer_tag;
use crate::export::backend::Lend;
use crate::iscsi::pdu::{
    self, DIGEST_BYTES, FINAL, HEADER_BYTES, Header, NO_TAG, OVERFLOW, RejectReason, STATUS,
    UNDERFLOW, opcode,
};
use crate::scsi::Outcome;
use crate::scsi::sense::SENSE_BYTES_MAX;

/// Bytes of headers and digests that one PDU takes, without its data.
const PDU_BYTES_MAX: usize = HEADER_BYTES + 2 * DIGEST_BYTES + 4;

/// Bytes of a SCSI Response with sense data.
const RESPONSE_BYTES_MAX: usize = PDU_BYTES_MAX + 2 + SENSE_BYTES_MAX;

/// Whether a PDU takes a status sequence number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Numbered {
    /// It does.
    Status,
    /// It tells which is next.
    Next,
    /// It has none.
    No,
}

impl<L: Lend> Session<L> {
    /// Sets the sequence numbers of a PDU that is about to be queued.
    #[inline]
    fn number(&mut self, header: &mut Header, numbered: Numbered) {
        if numbered != Numbered::No {
            header.put(24, self.stat_sn);
        }
        if numbered == Numbered::Status {
            self.stat_sn = self.stat_sn.wrapping_add(1);
        }
        header.put(28, self.expected_sn);
        header.put(32, self.max_command_sn());
    }

    /// MaxCmdSN: how far the initiator may go (RFC 7143, 4.2.2.1).
    #[inline]
    fn max_command_sn(&self) -> u32 {
        let room = WINDOW - self.unanswered.min(WINDOW);
        self.expected_sn.wrapping_add(room).wrapping_sub(1)
    }

    /// Queues a header, and its digest.
    #[inline]
    fn put_header(&mut self, header: &Header) {
        let has_digest = self.parameters.header_digest && self.slots.count() > 0;
        let size = HEADER_BYTES + usize::from(has_digest) * DIGEST_BYTES;
        if let Ok(bytes) = self.transmit.header(size) {
            bytes[..HEADER_BYTES].copy_from_slice(&header.0);
            if has_digest {
                bytes[HEADER_BYTES..].copy_from_slice(&pdu::digest(&[&header.0]));
            }
        }
    }

    /// Queues what follows data: padding, and the digest of data and padding.
    #[inline]
    fn put_tail(&mut self, data: &[u8]) {
        let padding = pdu::padding(data.len());
        let has_digest = self.parameters.data_digest && self.slots.count() > 0 && !data.is_empty();
        let size = padding + usize::from(has_digest) * DIGEST_BYTES;
        if size > 0
            && let Ok(bytes) = self.transmit.header(size)
        {
            bytes[..padding].fill(0);
            if has_digest {
                let zeroes = [0; 3];
                bytes[padding..].copy_from_slice(&pdu::digest(&[data, &zeroes[..padding]]));
            }
        }
    }

    /// Queues a PDU with data of its own, at once or when there is room; the data is small.
    pub(super) fn put_control(&mut self, header: Header, data: Vec<u8>) {
        self.control.push_back((header, data));
        self.pump();
    }

    /// Queues as many answers as there is room for.
    #[inline]
    pub(super) fn pump(&mut self) {
        while let Some((header, data)) = self.control.front() {
            if !self.transmit.has_room(PDU_BYTES_MAX + data.len()) {
                return;
            }
            let (mut header, data) = (*header, data.len());
            let numbered = match header.opcode() {
                opcode::READY => Numbered::Next,
                // A NOP-In that asks for an answer takes no number (RFC 7143, 11.19.2).
                opcode::NOP_IN if header.task_tag() == NO_TAG => Numbered::Next,
                _ => Numbered::Status,
            };
            header.put_data_bytes(data);
            self.number(&mut header, numbered);
            self.put_header(&header);
            if let Some((_, data)) = self.control.pop_front()
                && !data.is_empty()
            {
                if let Ok(bytes) = self.transmit.header(data.len()) {
                    bytes.copy_from_slice(&data);
                }
                self.put_tail(&data);
            }
            self.transmit.mark(None);
        }
        while let Some(&index) = self.answers.front() {
            if !self.emit(index) {
                return;
            }
            self.answers.pop_front();
        }
    }

    /// Queues the answer of a slot, or what there is room for. True when it is queued as a whole.
    #[inline]
    fn emit(&mut self, index: u16) -> bool {
        if self.slots.get(index).reply == Reply::Nop {
            return self.emit_nop(index);
        }
        while self.slots.get(index).emitted < self.slots.get(index).data_in {
            if !self.transmit.has_room(PDU_BYTES_MAX) {
                return false;
            }
            if self.emit_data(index) {
                self.responded(index);
                return true;
            }
        }
        if !self.transmit.has_room(RESPONSE_BYTES_MAX) {
            return false;
        }
        self.emit_response(index);
        self.responded(index);
        true
    }

    /// The answer of a slot is queued: its tag is free, and the slot is when it has been sent.
    #[inline]
    fn responded(&mut self, index: u16) {
        self.slots.forget_tag(index);
        self.slots.get_mut(index).phase = Phase::Responding;
        self.transmit.mark(Some(index));
    }

    /// A command leaves the window, before its response says how far that goes.
    #[inline]
    fn release_window(&mut self, index: u16) {
        if std::mem::take(&mut self.slots.get_mut(index).in_window) {
            self.unanswered -= 1;
        }
    }

    /// One Data-In (RFC 7143, 11.7). True if it carries the status as well.
    #[inline]
    fn emit_data(&mut self, index: u16) -> bool {
        let parameters = &self.parameters;
        let slot = self.slots.get(index);
        let burst_left = parameters.burst_bytes - slot.emitted % parameters.burst_bytes;
        let left = slot.data_in - slot.emitted;
        let size = left.min(parameters.send_bytes_max).min(burst_left);
        let is_last = size == left;
        let with_status = is_last && slot.outcome == Outcome::Good;
        let mut flags = 0;
        if is_last || size == burst_left {
            flags |= FINAL;
        }
        let mut header = Header::new(opcode::DATA_IN, flags);
        header.put(16, slot.header.task_tag());
        header.put(20, NO_TAG);
        header.put(36, slot.data_sn);
        header.put(40, slot.emitted);
        header.put_data_bytes(size as usize);
        let (residual, residual_flags) = residual(slot.wanted, slot.header.u32(20));
        let offset = slot.emitted as usize;
        let slot = self.slots.get_mut(index);
        slot.data_sn = slot.data_sn.wrapping_add(1);
        slot.emitted += size;
        if with_status {
            header.0[1] |= STATUS | residual_flags;
            header.put(44, residual);
            self.release_window(index);
        }
        let numbered = if with_status {
            Numbered::Status
        } else {
            Numbered::No
        };
        self.number(&mut header, numbered);
        self.put_header(&header);
        self.put_slot_data(index, offset, size as usize);
        with_status
    }

    /// Points the socket at a part of what a slot has for the initiator.
    #[inline]
    fn put_slot_data(&mut self, index: u16, offset: usize, size: usize) {
        let slot = self.slots.get_mut(index);
        if matches!(slot.memory, Memory::None) {
            let transmit = &mut self.transmit;
            let (mut skip, mut left) = (offset, size);
            slot.lend.pieces(|bytes, piece| {
                let from = skip.min(piece);
                let count = (piece - from).min(left);
                skip -= from;
                left -= count;
                // SAFETY: what is lent stays readable until [`Lend::release`], which is called when this command's mark is passed
                // (`Session::sent`) or when the session ends and nothing is sent any more.
                unsafe { transmit.data(bytes.wrapping_add(from), count) };
            });
            debug_assert_eq!(left, 0);
            // Blocks need no padding; lent data is not digested.
            if pdu::padding(size) > 0 {
                self.put_tail(&[0; 3][..size % 4]);
            }
            return;
        }
        let pointer = slot.pointer().wrapping_add(offset);
        // SAFETY: the slot's memory stays until its mark is passed or the session ends, as above.
        unsafe { self.transmit.data(pointer, size) };
        // SAFETY: within the slot's memory, which nothing writes once the command has its outcome.
        let data = unsafe { std::slice::from_raw_parts(pointer, size) };
        self.put_tail(data);
    }

    /// SCSI Response (RFC 7143, 11.4).
    fn emit_response(&mut self, index: u16) {
        let slot = self.slots.get(index);
        let outcome = slot.outcome;
        // Of a command that failed nothing was moved, as far as the initiator needs to know.
        let wanted = if slot.outcome.is_good() || slot.wanted > slot.header.u32(20) {
            slot.wanted
        } else {
            0
        };
        let (residual, flags) = residual(wanted, slot.header.u32(20));
        let mut header = Header::new(opcode::RESPONSE, FINAL | flags);
        header.0[3] = outcome.code();
        header.put(16, slot.header.task_tag());
        // ExpDataSN: what came from here, Data-In PDUs or R2Ts (11.4.8).
        let sent = if slot.data_out > 0 {
            slot.ready_sn
        } else {
            slot.data_sn
        };
        header.put(36, sent);
        header.put(44, residual);
        let mut sense = [0; SENSE_BYTES_MAX];
        let size = match outcome {
            Outcome::Check(check) => {
                let descriptor = self
                    .views
                    .get(usize::from(slot.lun))
                    .is_some_and(|view| view.descriptor_sense);
                check.encode(&mut sense, descriptor)
            }
            _ => 0,
        };
        self.release_window(index);
        let total = if size > 0 { size + 2 } else { 0 };
        header.put_data_bytes(total);
        self.number(&mut header, Numbered::Status);
        self.put_header(&header);
        if total > 0 {
            let mut data = [0; SENSE_BYTES_MAX + 2];
            data[..2].copy_from_slice(&(size as u16).to_be_bytes());
            data[2..total].copy_from_slice(&sense[..size]);
            if let Ok(bytes) = self.transmit.header(total) {
                bytes.copy_from_slice(&data[..total]);
            }
            self.put_tail(&data[..total]);
        }
    }

    /// A command that goes on in the background is answered now (IMMED).
    pub(super) fn answer_early(&mut self, index: u16) {
        let mut header = Header::new(opcode::RESPONSE, FINAL);
        let slot = self.slots.get_mut(index);
        slot.phase = Phase::Background;
        let (residual, flags) = residual(0, slot.header.u32(20));
        header.0[1] |= flags;
        header.put(16, slot.header.task_tag());
        header.put(44, residual);
        self.release_window(index);
        self.slots.forget_tag(index);
        self.put_control(header, Vec::new());
    }

    /// NOP-In with what the initiator sent (RFC 7143, 11.19).
    fn emit_nop(&mut self, index: u16) -> bool {
        if !self.transmit.has_room(PDU_BYTES_MAX) {
            return false;
        }
        let slot = self.slots.get(index);
        let size = slot.data_in as usize;
        let mut header = Header::new(opcode::NOP_IN, FINAL);
        header.put_lun(slot.header.lun());
        header.put(16, slot.header.task_tag());
        header.put(20, NO_TAG);
        header.put_data_bytes(size);
        self.number(&mut header, Numbered::Status);
        self.put_header(&header);
        if size > 0 {
            self.put_slot_data(index, 0, size);
        }
        self.responded(index);
        true
    }

    /// R2T for the burst of a command that follows what has been asked for (RFC 7143, 11.8).
    pub(super) fn put_ready(&mut self, index: u16, burst_bytes: u32) {
        let slot = self.slots.get_mut(index);
        let size = burst_bytes.min(slot.data_out - slot.asked_end);
        slot.transfers = slot.transfers.wrapping_add(1);
        let mut header = Header::new(opcode::READY, FINAL);
        header.put_lun(slot.header.lun());
        header.put(16, slot.header.task_tag());
        header.put(20, transfer_tag(index, slot.transfers));
        header.put(36, slot.ready_sn);
        header.put(40, slot.asked_end);
        header.put(44, size);
        slot.ready_sn = slot.ready_sn.wrapping_add(1);
        slot.asked_end += size;
        self.put_control(header, Vec::new());
    }

    /// Reject, with the header that was wrong (RFC 7143, 11.17).
    pub(super) fn reject(&mut self, offending: &Header, reason: RejectReason) {
        let mut header = Header::new(opcode::REJECT, FINAL);
        header.0[2] = reason as u8;
        header.put(16, NO_TAG);
        self.put_control(header, offending.0.to_vec());
    }
}

/// How far what a command moves is from what the initiator expected, and the flag that says so.
#[inline]
fn residual(wanted: u32, expected: u32) -> (u32, u8) {
    match wanted.cmp(&expected) {
        std::cmp::Ordering::Equal => (0, 0),
        std::cmp::Ordering::Greater => (wanted - expected, OVERFLOW),
        std::cmp::Ordering::Less => (expected - wanted, UNDERFLOW),
    }
}
