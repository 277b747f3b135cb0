//! Bytes out: C2HData, R2T and CapsuleResp (NVMe/TCP Transport 1.0, 3.6.2.7, 3.6.2.9, 3.6.2.10).

use super::command::Phase;
use super::session::{Context, Session};
use crate::export::backend::{Backend, Lend};
use crate::nvme::pdu::{
    self, DATA_HEADER_SIZE, DIGEST_SIZE, Digests, FLAG_LAST, FLAG_SUCCESS, Kind,
    RESPONSE_HEADER_SIZE, Transfer,
};
use crate::nvme::{Completion, Status};

/// A CapsuleResp with its digest.
const CAPSULE_RESPONSE_SIZE_MAX: usize = RESPONSE_HEADER_SIZE + DIGEST_SIZE;

impl<L: Lend> Session<L> {
    /// Answers a command that moves no data to the host, or that failed.
    pub(super) fn respond<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        if self.is_silent() {
            self.discard(index, cx);
            return;
        }
        // Data that came with the command is not needed any more; a buffer may serve the next one.
        self.drop_memory(index, cx);
        self.slots.get_mut(index).lend.release();
        self.put_response(index);
    }

    /// Answers a read that ended well with what the device lent.
    #[inline]
    pub(super) fn respond_with_lent<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        cx: &mut Context<'_, B>,
    ) {
        if self.is_silent() {
            self.discard(index, cx);
            return;
        }
        let size = self.slots.get(index).size;
        let success = self.put_data_header(index, size);
        let slot = self.slots.get_mut(index);
        let transmit = &mut self.transmit;
        let mut total = 0;
        slot.lend.pieces(|bytes, piece_size| {
            total += piece_size;
            // SAFETY: what is lent stays readable until [`Lend::release`], which is called when this command's mark is passed (`Session::sent`)
            // or when the session ends and nothing is sent any more.
            unsafe { transmit.data(bytes, piece_size) };
        });
        debug_assert_eq!(total, size as usize);
        if success {
            self.slots.get_mut(index).phase = Phase::Responding;
            self.transmit.mark(Some(index));
        } else {
            self.put_response(index);
        }
    }

    /// Answers a command with data that lies in the slot's own memory.
    pub(super) fn respond_with_memory<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        cx: &mut Context<'_, B>,
    ) {
        if self.is_silent() {
            self.discard(index, cx);
            return;
        }
        let size = self.slots.get(index).size;
        if size == 0 {
            self.respond(index, cx);
            return;
        }
        let success = self.put_data_header(index, size);
        let slot = self.slots.get(index);
        let digest = self.digests.data.then(|| pdu::digest(slot.bytes()));
        // SAFETY: the slot's memory stays until its mark is passed or the session ends, as above.
        unsafe { self.transmit.data(slot.pointer(), size as usize) };
        if let Some(digest) = digest
            && let Ok(bytes) = self.transmit.header(DIGEST_SIZE)
        {
            bytes.copy_from_slice(&digest.to_le_bytes());
        }
        if success {
            self.slots.get_mut(index).phase = Phase::Responding;
            self.transmit.mark(Some(index));
        } else {
            self.put_response(index);
        }
    }

    /// The header of a C2HData that carries all of a command's data. True if it also says that the command succeeded, which it may only
    /// without flow control and without a result.
    #[inline]
    fn put_data_header(&mut self, index: u16, size: u32) -> bool {
        let slot = self.slots.get(index);
        let flow_control = self.queue.as_ref().is_none_or(|queue| queue.flow_control);
        let success = !flow_control && slot.result == 0;
        let flags = if success {
            FLAG_LAST | FLAG_SUCCESS
        } else {
            FLAG_LAST
        };
        let transfer = Transfer {
            command_id: slot.command.command_id(),
            tag: 0,
            offset: 0,
            size,
        };
        let header_size =
            pdu::data_offset(DATA_HEADER_SIZE, self.digests.header, self.host_alignment);
        if let Ok(bytes) = self.transmit.header(header_size) {
            // The padding that HPDA asks for.
            bytes[DATA_HEADER_SIZE..].fill(0);
            transfer.encode_data(
                bytes,
                Kind::ControllerData,
                flags,
                self.digests,
                self.host_alignment,
            );
        }
        success
    }

    /// CapsuleResp, and the mark that frees the slot.
    #[inline]
    fn put_response(&mut self, index: u16) {
        let slot = self.slots.get_mut(index);
        slot.phase = Phase::Responding;
        let queue_head = match &self.queue {
            Some(queue) if queue.flow_control => queue.head as u16,
            // Reserved without flow control; FFFFh in the answer to Connect says that it is off (NVMe Base 2.0, 6.3).
            Some(_) => 0xFFFF,
            None => 0,
        };
        let completion = Completion {
            result: slot.result,
            queue_head,
            queue_id: 0,
            command_id: slot.command.command_id(),
            status: slot.status,
        };
        let size = CAPSULE_RESPONSE_SIZE_MAX - if self.digests.header { 0 } else { DIGEST_SIZE };
        if let Ok(bytes) = self.transmit.header(size) {
            pdu::encode_response(bytes, &completion, self.digests.header);
        }
        self.transmit.mark(Some(index));
    }

    /// R2T for all of a command's data, which has a buffer now.
    pub(super) fn put_ready(&mut self, index: u16) {
        let slot = self.slots.get_mut(index);
        slot.phase = Phase::AwaitsData;
        let transfer = Transfer {
            command_id: slot.command.command_id(),
            tag: index,
            offset: 0,
            size: slot.size,
        };
        let digests = Digests {
            header: self.digests.header,
            data: false,
        };
        if let Ok(bytes) =
            self.transmit
                .header(pdu::data_offset(DATA_HEADER_SIZE, digests.header, 0))
        {
            transfer.encode_ready(bytes, digests.header);
        }
        self.transmit.mark(None);
    }

    /// Answers with an error.
    pub(super) fn fail<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        status: Status,
        cx: &mut Context<'_, B>,
    ) {
        self.slots.get_mut(index).status = status;
        self.respond(index, cx);
    }
}
