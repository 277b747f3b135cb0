//! What every command goes through, whatever it asks for: a slot, its data pointer, its data, and the fused pair.

use std::rc::Rc;

use super::command::{Memory, Phase};
use super::session::{BUFFER_BYTES_MAX, Context, Session, State, TRANSFER_BYTES_MAX};
use crate::export::backend::{Backend, Lend};
use crate::export::chunk::Chunk;
use crate::nvme::command::Fuse;
use crate::nvme::opcode;
use crate::nvme::pdu::{self, Layout};
use crate::nvme::{DataPointer, Status};

/// The part of a capsule that holds data, where it lies.
pub(super) struct Capsule<'a> {
    chunk: &'a Rc<Chunk>,
    offset: usize,
    size: u32,
}

/// What is to happen with a command once it has been checked.
pub(super) enum Plan {
    /// It is answered with this status.
    Fail(Status),
    /// It needs this many bytes from the host before it can be carried out.
    Receive(u32),
    /// It can be carried out at once.
    Execute,
}

impl<L: Lend> Session<L> {
    /// A command capsule (NVMe/TCP Transport 1.0, 3.6.2.6). A slot is free: the caller has seen to that.
    #[inline]
    pub(super) fn command<B: Backend<Lend = L>>(
        &mut self,
        bytes: &[u8],
        layout: &Layout,
        chunk: &Rc<Chunk>,
        start: usize,
        cx: &mut Context<'_, B>,
    ) {
        let command = pdu::decode_command(bytes);
        if let Some(queue) = &mut self.queue {
            queue.head = if queue.head + 1 == queue.entries {
                0
            } else {
                queue.head + 1
            };
        }
        let Some(index) = self.slots.take(command, cx.backend.now_ns()) else {
            return;
        };
        // Until it is known better; no slot is taken and free at once.
        self.slots.get_mut(index).phase = Phase::Running;
        let fused_first = self.fused_first.take();
        if let Some(status) = self.check_command(index, bytes, layout) {
            self.abandon_fused(fused_first, cx);
            self.fail(index, status, cx);
            return;
        }
        let capsule = Capsule {
            chunk,
            offset: start + layout.data_offset as usize,
            size: layout.data_size,
        };
        match command.fuse() {
            Fuse::Normal => self.abandon_fused(fused_first, cx),
            fuse => {
                self.fused(index, fuse, fused_first, &capsule, cx);
                return;
            }
        }
        let plan = self.plan(index, cx);
        self.follow(index, plan, &capsule, cx);
    }

    /// What is wrong with any command of this form, before its operation code matters.
    #[inline]
    fn check_command(&self, index: u16, bytes: &[u8], layout: &Layout) -> Option<Status> {
        let slot = self.slots.get(index);
        if slot.conflict {
            return Some(Status::COMMAND_ID_CONFLICT.do_not_retry());
        }
        // Fabrics has SGLs only (NVMe Base 2.0, 2.2.4; figure 87): 00b would be PRPs and 11b is reserved.
        if !matches!(slot.command.data_transfer_form(), 1 | 2) {
            return Some(Status::INVALID_FIELD.do_not_retry());
        }
        if layout.data_digest {
            let end = (layout.data_offset + layout.data_size) as usize;
            let digest = pdu::digest(&bytes[layout.data_offset as usize..end]);
            if bytes[end..end + pdu::DIGEST_SIZE] != digest.to_le_bytes() {
                return Some(Status::TRANSIENT_TRANSPORT_ERROR);
            }
        }
        None
    }

    /// Checks a command by its queue and operation code.
    #[inline]
    fn plan<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) -> Plan {
        let command = self.slots.get(index).command;
        match &self.queue {
            Some(queue) if queue.id != 0 && command.opcode() != opcode::FABRICS => {
                self.plan_io(index, cx)
            }
            _ if command.opcode() == opcode::FABRICS => self.plan_fabrics(index),
            Some(_) => self.plan_admin(index),
            // Connect comes first (NVMe Base 2.0, 3.3.2.2).
            None => Plan::Fail(Status::COMMAND_SEQUENCE_ERROR.do_not_retry()),
        }
    }

    /// Does what was planned.
    #[inline]
    fn follow<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        plan: Plan,
        capsule: &Capsule<'_>,
        cx: &mut Context<'_, B>,
    ) {
        match plan {
            Plan::Execute => self.execute(index, cx),
            Plan::Fail(status) => self.fail(index, status, cx),
            Plan::Receive(size) => match self.locate(index, size, capsule) {
                Ok(true) => self.data_complete(index, cx),
                Ok(false) => self.await_buffer(index, cx),
                Err(status) => self.fail(index, status, cx),
            },
        }
    }

    /// Finds `size` bytes of a command's data: true when they came in the capsule, false when they have to be asked for. The
    /// SGL may describe more than the command needs (SGLS bit 18), never less.
    ///
    /// NVMe/TCP Transport 1.0, 3.3.2 and figure 6: the two forms of SGL descriptor that a command may have.
    #[inline]
    fn locate(&mut self, index: u16, size: u32, capsule: &Capsule<'_>) -> Result<bool, Status> {
        let slot = self.slots.get_mut(index);
        slot.size = size;
        let pointer = slot.command.data_pointer();
        check_pointer(&pointer, size)?;
        if pointer.identifier == DataPointer::TRANSPORT {
            return Ok(false);
        }
        let end = pointer.address.checked_add(u64::from(pointer.size));
        if end.is_none_or(|end| end > u64::from(capsule.size)) {
            return Err(Status::SGL_OFFSET_INVALID.do_not_retry());
        }
        slot.memory = Memory::Chunk(
            Rc::clone(capsule.chunk),
            capsule.offset + pointer.address as usize,
        );
        Ok(true)
    }

    /// Checks the data pointer of a command that sends `size` bytes to the host: they always go in C2HData.
    #[inline]
    pub(super) fn check_read_pointer(&self, index: u16, size: u32) -> Result<(), Status> {
        let pointer = self.slots.get(index).command.data_pointer();
        check_pointer(&pointer, size)?;
        if pointer.identifier != DataPointer::TRANSPORT {
            return Err(Status::SGL_TYPE_INVALID.do_not_retry());
        }
        Ok(())
    }

    /// Gives a command a buffer and asks the host for its data, or has it wait for a buffer.
    fn await_buffer<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        self.slots.get_mut(index).phase = Phase::AwaitsBuffer;
        if !self.waiting.is_empty() || !self.give_buffer(index, cx) {
            self.waiting.push_back(index);
        }
    }

    /// True when the command has its buffer and its R2T is queued, or it no longer needs one.
    fn give_buffer<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) -> bool {
        if self.slots.get(index).aborted {
            self.fail(index, Status::ABORT_REQUESTED, cx);
            return true;
        }
        let size = self.slots.get(index).size as usize;
        debug_assert!(size <= TRANSFER_BYTES_MAX as usize);
        if self.take_buffer(index, size, cx) {
            self.put_ready(index);
            return true;
        }
        false
    }

    /// Puts a buffer of `size` bytes in a slot.
    pub(super) fn take_buffer<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        size: usize,
        cx: &mut Context<'_, B>,
    ) -> bool {
        if self.buffer_bytes + size > BUFFER_BYTES_MAX {
            return false;
        }
        let Some(buffer) = cx.backend.buffer(size) else {
            self.starved = true;
            return false;
        };
        self.drop_memory(index, cx);
        self.buffer_bytes += buffer.capacity();
        self.slots.get_mut(index).memory = Memory::Buffer(buffer);
        true
    }

    /// Lets go of a slot's data.
    #[inline]
    pub(super) fn drop_memory<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        cx: &mut Context<'_, B>,
    ) {
        let slot = self.slots.get_mut(index);
        if let Memory::Buffer(buffer) = &slot.memory {
            self.buffer_bytes -= buffer.capacity();
        }
        slot.release_memory(&mut cx.local.chunks);
    }

    /// Hands out buffers in the order in which commands came for them.
    pub(super) fn serve_waiting<B: Backend<Lend = L>>(&mut self, cx: &mut Context<'_, B>) -> bool {
        let mut worked = false;
        while let Some(&index) = self.waiting.front() {
            let served = match self.slots.get(index).phase {
                Phase::AwaitsBuffer => self.give_buffer(index, cx),
                _ => self.retry(index, cx),
            };
            if !served {
                break;
            }
            self.waiting.pop_front();
            worked = true;
        }
        worked
    }

    /// All of a command's data has come.
    pub(super) fn data_complete<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        cx: &mut Context<'_, B>,
    ) {
        let slot = self.slots.get_mut(index);
        slot.phase = Phase::Running;
        if slot.aborted {
            slot.note(Status::ABORT_REQUESTED);
        }
        if let Some(partner) = slot.partner {
            self.fused_ready(index, partner, cx);
        } else if self.slots.get(index).status.is_success() {
            self.execute(index, cx);
        } else {
            self.respond(index, cx);
        }
    }

    /// Carries out a command whose data is there.
    #[inline]
    fn execute<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        if self.slots.get(index).command.opcode() == opcode::FABRICS {
            self.execute_fabrics(index, cx);
            return;
        }
        match &self.queue {
            Some(queue) if queue.id != 0 => self.execute_io(index, cx),
            _ => self.execute_admin(index, cx),
        }
    }

    /// One half of a fused operation (NVM Command Set 1.0, 2.1.2; NVMe Base 2.0, 3.4.2): the two are adjacent in the submission queue, the first
    /// is Compare, the second Write, and both name the same blocks.
    fn fused<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        fuse: Fuse,
        first: Option<u16>,
        capsule: &Capsule<'_>,
        cx: &mut Context<'_, B>,
    ) {
        let is_io = self.queue.as_ref().is_some_and(|queue| queue.id != 0);
        let code = self.slots.get(index).command.opcode();
        match (fuse, first) {
            (Fuse::First, first) => {
                self.abandon_fused(first, cx);
                if !is_io || code != opcode::io::COMPARE {
                    self.fail(index, Status::INVALID_FIELD.do_not_retry(), cx);
                    return;
                }
                // Its own index stands for a partner that has not come.
                self.slots.get_mut(index).partner = Some(index);
                self.fused_first = Some(index);
                let plan = self.plan(index, cx);
                self.follow_fused(index, plan, capsule, cx);
            }
            (Fuse::Second, Some(first)) => {
                let (one, other) = (self.slots.get(first).command, self.slots.get(index).command);
                let same_range = (one.nsid(), one.lba(), one.block_count())
                    == (other.nsid(), other.lba(), other.block_count());
                self.slots.get_mut(first).partner = Some(index);
                self.slots.get_mut(index).partner = Some(first);
                if code != opcode::io::WRITE || !same_range {
                    self.slots
                        .get_mut(first)
                        .note(Status::INVALID_FIELD.do_not_retry());
                    self.slots
                        .get_mut(index)
                        .note(Status::INVALID_FIELD.do_not_retry());
                }
                let plan = self.plan(index, cx);
                self.follow_fused(index, plan, capsule, cx);
            }
            (Fuse::Second, None) => self.fail(index, Status::ABORTED_MISSING_FUSED, cx),
            (_, first) => {
                self.abandon_fused(first, cx);
                self.fail(index, Status::INVALID_FIELD.do_not_retry(), cx);
            }
        }
    }

    /// As [`Session::follow`], for a half that is only carried out together with its partner.
    fn follow_fused<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        plan: Plan,
        capsule: &Capsule<'_>,
        cx: &mut Context<'_, B>,
    ) {
        let located = match plan {
            Plan::Receive(size) if size > super::io::COMPARE_AND_WRITE_BYTES_MAX => {
                Err(Status::ATOMIC_WRITE_UNIT_EXCEEDED.do_not_retry())
            }
            Plan::Receive(size) if self.slots.get(index).status.is_success() => {
                self.locate(index, size, capsule)
            }
            Plan::Fail(status) => Err(status),
            _ => Ok(true),
        };
        match located {
            Ok(false) => self.await_buffer(index, cx),
            Ok(true) => self.data_complete(index, cx),
            Err(status) => {
                self.slots.get_mut(index).note(status);
                self.data_complete(index, cx);
            }
        }
    }

    /// A half of a fused pair has its data, or has failed. When both are so far, the pair is carried out.
    fn fused_ready<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        partner: u16,
        cx: &mut Context<'_, B>,
    ) {
        self.slots.get_mut(index).phase = Phase::AwaitsPartner;
        if partner == index || self.slots.get(partner).phase != Phase::AwaitsPartner {
            return;
        }
        let is_first = self.slots.get(index).command.fuse() == Fuse::First;
        let (first, second) = if is_first {
            (index, partner)
        } else {
            (partner, index)
        };
        let statuses = (self.slots.get(first).status, self.slots.get(second).status);
        if statuses.0.is_success() && statuses.1.is_success() {
            self.compare_and_write(first, second, cx);
        } else {
            self.fail_fused(first, second, cx);
        }
    }

    /// Answers both halves of a pair of which at least one failed: the other was aborted for it.
    pub(super) fn fail_fused<B: Backend<Lend = L>>(
        &mut self,
        first: u16,
        second: u16,
        cx: &mut Context<'_, B>,
    ) {
        for index in [first, second] {
            let slot = self.slots.get_mut(index);
            slot.partner = None;
            slot.note(Status::ABORTED_FAILED_FUSED);
            self.respond(index, cx);
        }
    }

    /// The command after the first of a fused pair was not its second.
    fn abandon_fused<B: Backend<Lend = L>>(&mut self, first: Option<u16>, cx: &mut Context<'_, B>) {
        let Some(first) = first else { return };
        let slot = self.slots.get_mut(first);
        slot.partner = None;
        slot.note(Status::ABORTED_MISSING_FUSED);
        // Data that is still under way is taken first: the R2T is out.
        if slot.phase == Phase::AwaitsPartner {
            self.respond(first, cx);
        } else if slot.phase == Phase::AwaitsBuffer {
            self.waiting.retain(|&waiting| waiting != first);
            self.respond(first, cx);
        }
    }

    /// Whether this connection may still carry out commands.
    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open
    }
}

/// Checks form and length of the one SGL descriptor that a command has.
#[inline]
fn check_pointer(pointer: &DataPointer, size: u32) -> Result<(), Status> {
    match pointer.identifier {
        DataPointer::TRANSPORT | DataPointer::IN_CAPSULE => {}
        _ => return Err(Status::SGL_TYPE_INVALID.do_not_retry()),
    }
    if pointer.size < size {
        return Err(Status::DATA_SGL_LENGTH_INVALID.do_not_retry());
    }
    Ok(())
}
