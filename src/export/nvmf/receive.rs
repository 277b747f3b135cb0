//! Bytes in: receives into a chunk, cuts it into PDUs, and checks every one of them (NVMe/TCP Transport 1.0, 3.6).
//!
//! A PDU is looked at when it is there as a whole, except for H2CData: its payload goes to the command's buffer as it arrives,
//! and what has not arrived is received there directly, without a copy. What follows a violation is never looked at.

use std::rc::Rc;

use super::command::Phase;
use super::session::{Context, IN_CAPSULE_BYTES, Session, State};
use crate::export::backend::{Backend, Lend};
use crate::export::chunk::{CHUNK_BYTES, Chunk, ChunkPool};
use crate::export::inlet::Inlet;
use crate::nvme::Status;
use crate::nvme::pdu::{
    self, DIGEST_SIZE, FLAG_LAST, InitializeRequest, InitializeResponse, Kind, Layout, TermReason,
    Terminate, Transfer,
};

/// A chunk with less room than this is exchanged for a fresh one: no PDU that must lie in one piece is larger.
const ROOM_BYTES_MIN: usize = 20 * 1024;

const _: () = assert!(
    ROOM_BYTES_MIN > pdu::HEADER_SIZE_MAX + 255 + IN_CAPSULE_BYTES as usize + 2 * DIGEST_SIZE
);

/// A payload less than this is not worth an iovec of its own: it is received into the chunk and copied.
const DIRECT_BYTES_MIN: usize = 2048;

/// H2CData whose payload is under way.
#[derive(Clone, Copy, Debug)]
struct HostData {
    slot: u16,
    /// Where it began in the command's data, and how long it is.
    offset: u32,
    size: u32,
    /// What has not arrived.
    remaining: u32,
    digest: bool,
}

/// The receiving side of a connection.
#[derive(Default)]
pub struct Receive {
    inlet: Inlet,
    data: Option<HostData>,
}

impl Receive {
    /// Whether bytes wait to be looked at.
    #[inline]
    pub fn has_bytes(&self) -> bool {
        self.inlet.has_bytes()
    }

    /// Lets go of the chunk.
    pub fn clear(&mut self, chunks: &mut ChunkPool) {
        self.inlet.clear(chunks);
        self.data = None;
    }

    /// Lets go of the chunk if nothing in it waits.
    pub fn rest(&mut self, chunks: &mut ChunkPool) {
        if self.data.is_none() && !self.has_bytes() {
            self.clear(chunks);
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
        if !self
            .receive
            .inlet
            .prepare(ROOM_BYTES_MIN, &mut cx.local.chunks)
        {
            self.starved = true;
            return None;
        }
        let chunk = self.receive.inlet.chunk.as_ref()?;
        let end = self.receive.inlet.end;
        let room = libc::iovec {
            iov_base: chunk.pointer(end).cast(),
            iov_len: CHUNK_BYTES - end,
        };
        let direct = match self.receive.data {
            Some(data)
                if data.remaining as usize >= DIRECT_BYTES_MIN && !self.receive.has_bytes() =>
            {
                let offset = (data.offset + data.size - data.remaining) as usize;
                let to = self.slots.get(data.slot).pointer().wrapping_add(offset);
                libc::iovec {
                    iov_base: to.cast(),
                    iov_len: data.remaining as usize,
                }
            }
            _ => libc::iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 0,
            },
        };
        Some([direct, room])
    }

    /// Takes note that the socket has put `count` bytes into what [`Session::input`] answered last, and carries out what they ask for.
    #[inline]
    pub fn received<B: Backend<Lend = L>>(&mut self, count: usize, cx: &mut Context<'_, B>) {
        let mut count = count;
        if let Some(data) = &mut self.receive.data
            && data.remaining as usize >= DIRECT_BYTES_MIN
            && self.receive.inlet.start == self.receive.inlet.end
        {
            let direct = count.min(data.remaining as usize);
            data.remaining -= direct as u32;
            count -= direct;
        }
        self.receive.inlet.end += count;
        self.process(cx);
    }

    /// Carries out every complete PDU, until room runs out. True if anything was done.
    pub(super) fn process<B: Backend<Lend = L>>(&mut self, cx: &mut Context<'_, B>) -> bool {
        let Some(chunk) = self.receive.inlet.chunk.clone() else {
            return false;
        };
        let mut worked = false;
        while matches!(self.state, State::Initialize | State::Open) && self.step(&chunk, cx) {
            worked = true;
        }
        cx.local.chunks.give(chunk);
        if !matches!(self.state, State::Initialize | State::Open) {
            self.receive.clear(&mut cx.local.chunks);
        } else if self
            .receive
            .inlet
            .chunk
            .as_ref()
            .is_some_and(|chunk| Rc::strong_count(chunk) == 1)
        {
            // Nothing in it is needed: the next connection to receive finds it in the cache. One that commands still hold is
            // filled up first.
            self.receive.rest(&mut cx.local.chunks);
        }
        worked
    }

    /// One PDU, or one piece of H2CData. False when more bytes, or room, are needed first.
    #[inline]
    fn step<B: Backend<Lend = L>>(&mut self, chunk: &Rc<Chunk>, cx: &mut Context<'_, B>) -> bool {
        let (start, end) = (self.receive.inlet.start, self.receive.inlet.end);
        // SAFETY: received, and the connection writes only behind `end`.
        let bytes = unsafe { chunk.bytes(start, end) };
        if self.receive.data.is_some() {
            return self.step_host_data(bytes, cx);
        }
        if bytes.len() < pdu::COMMON_HEADER_SIZE {
            return false;
        }
        let layout = match self.check_header(bytes) {
            Ok(layout) => layout,
            Err(_) if bytes[0] == Kind::HostTerminate as u8 => {
                // A TermReq is never answered with one (3.5), however wrong it is.
                self.kill(cx);
                return false;
            }
            Err(reason) => {
                self.violate(reason, bytes);
                return false;
            }
        };
        let needed = if layout.kind == Kind::HostData {
            layout.head_size()
        } else {
            layout.total_size as usize
        };
        if bytes.len() < needed {
            return false;
        }
        if layout.header_digest
            && let Err(reason) = pdu::check_header_digest(bytes, layout.header_size as usize)
        {
            self.violate(reason, bytes);
            return false;
        }
        match layout.kind {
            Kind::Command => {
                if self.is_blocked() {
                    return false;
                }
                self.receive.inlet.start += needed;
                self.command(bytes, &layout, chunk, start, cx);
            }
            Kind::HostData => {
                if let Err(reason) = self.begin_host_data(bytes, &layout) {
                    self.violate(reason, bytes);
                    return false;
                }
                self.receive.inlet.start += needed;
            }
            Kind::InitializeRequest => match self.initialize(bytes) {
                Ok(()) => self.receive.inlet.start += needed,
                Err(reason) => {
                    self.violate(reason, bytes);
                    return false;
                }
            },
            _ => {
                // H2CTermReq: the host has found a mistake of ours, and what it says is for logs only.
                debug_assert_eq!(layout.kind, Kind::HostTerminate);
                self.kill(cx);
                return false;
            }
        }
        true
    }

    /// Checks sequence (3.2: ICReq comes first, and once) and common header.
    #[inline]
    fn check_header(&self, bytes: &[u8]) -> Result<Layout, TermReason> {
        let is_initialize = bytes[0] == Kind::InitializeRequest as u8;
        if is_initialize != (self.state == State::Initialize)
            && let Some(kind) = Kind::decode(bytes[0])
            && kind.receiver() == self.rules.receiver
        {
            return Err(TermReason::sequence());
        }
        pdu::decode_header(bytes, &self.rules)
    }

    /// ICReq (3.6.2.2).
    fn initialize(&mut self, bytes: &[u8]) -> Result<(), TermReason> {
        let request = InitializeRequest::decode(bytes);
        if request.format_version != 0 {
            return Err(TermReason::unsupported(
                InitializeRequest::OFFSET_FORMAT_VERSION,
            ));
        }
        if request.host_alignment > pdu::ALIGNMENT_MAX {
            return Err(TermReason::field(InitializeRequest::OFFSET_ALIGNMENT));
        }
        self.host_alignment = request.host_alignment;
        self.digests = request.digests;
        self.rules.header_digest = request.digests.header;
        self.rules.data_digest = request.digests.data;
        let response = InitializeResponse {
            format_version: 0,
            controller_alignment: 0,
            digests: request.digests,
            data_size_max: self.rules.data_size_max,
        };
        self.state = State::Open;
        if let Ok(header) = self.transmit.header(pdu::INITIALIZE_SIZE) {
            header.copy_from_slice(&response.encode());
        }
        self.transmit.mark(None);
        Ok(())
    }

    /// The header of H2CData (3.6.2.8): it must answer an R2T, in order and within what the R2T asked for.
    fn begin_host_data(&mut self, bytes: &[u8], layout: &Layout) -> Result<(), TermReason> {
        let transfer = Transfer::decode(bytes);
        let slot = self
            .slots
            .try_get(transfer.tag)
            .filter(|slot| slot.phase == Phase::AwaitsData);
        let Some(slot) = slot else {
            return Err(TermReason::field(Transfer::OFFSET_TAG));
        };
        if slot.command.command_id() != transfer.command_id {
            return Err(TermReason::field(Transfer::OFFSET_COMMAND_ID));
        }
        transfer.check(layout)?;
        // Pieces come in order (3.3.2.1.1), and all of the command's data was asked for by one R2T.
        if transfer.offset != slot.received || transfer.size > slot.size - slot.received {
            return Err(TermReason::data_out_of_range());
        }
        let is_complete = transfer.size == slot.size - slot.received;
        if layout.flags & FLAG_LAST != 0 && !is_complete {
            return Err(TermReason::sequence());
        }
        self.receive.data = Some(HostData {
            slot: transfer.tag,
            offset: transfer.offset,
            size: transfer.size,
            remaining: transfer.size,
            digest: layout.data_digest,
        });
        Ok(())
    }

    /// Payload of H2CData.
    fn step_host_data<B: Backend<Lend = L>>(
        &mut self,
        bytes: &[u8],
        cx: &mut Context<'_, B>,
    ) -> bool {
        let Some(data) = &mut self.receive.data else {
            return false;
        };
        let count = bytes.len().min(data.remaining as usize);
        let slot = self.slots.get_mut(data.slot);
        if count > 0 {
            let offset = (data.offset + data.size - data.remaining) as usize;
            // SAFETY: the buffer is `slot.size` bytes or more and `begin_host_data` keeps offset and size within that; a buffer
            // is never part of a chunk.
            unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), slot.pointer().add(offset), count)
            };
            data.remaining -= count as u32;
            self.receive.inlet.start += count;
        }
        if data.remaining > 0 {
            return false;
        }
        if data.digest {
            let Some(digest) = bytes[count..].first_chunk::<DIGEST_SIZE>() else {
                return false;
            };
            let received = &slot.bytes()[data.offset as usize..(data.offset + data.size) as usize];
            if pdu::digest(received) != u32::from_le_bytes(*digest) {
                // Not fatal (3.3.1.1): the command fails when its data is complete.
                slot.note(Status::TRANSIENT_TRANSPORT_ERROR);
            }
            self.receive.inlet.start += DIGEST_SIZE;
        }
        slot.received += data.size;
        let (index, is_complete) = (data.slot, slot.received == slot.size);
        self.receive.data = None;
        if is_complete {
            self.data_complete(index, cx);
        }
        true
    }

    /// Answers a violation with C2HTermReq (3.6.2.5) and stops reading.
    pub(super) fn violate(&mut self, reason: TermReason, offending: &[u8]) {
        let mut bytes = [0; pdu::TERMINATE_SIZE_MAX];
        // Only the header is echoed; the type tells how long that is, where it is one.
        let header_size =
            Kind::decode(offending[0]).map_or(pdu::COMMON_HEADER_SIZE, Kind::header_size);
        let echoed = &offending[..offending.len().min(header_size)];
        let size = Terminate::encode(&mut bytes, self.rules.receiver, reason, echoed);
        if let Ok(header) = self.transmit.header(size) {
            header.copy_from_slice(&bytes[..size]);
        }
        self.transmit.mark(None);
        self.state = State::Terminating;
        self.violated = true;
    }
}
