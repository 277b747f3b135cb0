//! The receiving half of a queue: takes the stream apart into PDUs, where they lie.
//!
//! Data is handed to the [`Client`] in place and in whatever pieces the stream brings, so the receive
//! buffer need not hold a whole PDU, and only a partial header is ever moved within it.

use super::connection::Negotiated;
use super::error::Error;
use super::queue::{Client, Request, Slot, Submission};
use crate::nvme::bytes::get_u32;
use crate::nvme::command::Completion;
use crate::nvme::pdu::{
    self, COMMON_HEADER_SIZE, DIGEST_SIZE, FLAG_LAST, FLAG_SUCCESS, INITIALIZE_SIZE, Kind, Layout,
    Receiver, Rules, TERMINATE_HEADER_SIZE, TermReason, Terminate, Transfer,
};
use crate::nvme::status::Status;
use std::collections::VecDeque;

/// The receive buffer: about 60 reads of 4 KiB, and small enough to stay in the second-level cache
/// between the kernel's copy and the client's look.
const RECEIVE_SIZE: usize = 256 << 10;

/// What the receiver may change of the sending half.
pub(super) struct Sent<'a> {
    pub(super) slots: &'a mut [Slot],
    pub(super) free: &'a mut Vec<u16>,
    pub(super) requests: &'a mut VecDeque<u16>,
}

/// The data of the C2HData PDU that is being received.
#[derive(Clone, Copy, Debug)]
struct Body {
    command_id: u16,
    /// Where the next byte goes, from the start of the command's data.
    offset: u32,
    /// Bytes still to come.
    left: u32,
    /// Digest of what came.
    digest: u32,
    flags: u8,
}

/// Receive buffer and parser.
#[derive(Debug)]
pub struct Receive {
    buffer: Box<[u8]>,
    /// Bytes of a partial header or digest at the start of the buffer.
    kept: usize,
    rules: Rules,
    body: Option<Body>,
    /// The header being processed, for a TermReq.
    header: [u8; INITIALIZE_SIZE],
    header_size: usize,
}

impl Receive {
    pub(super) fn new(negotiated: &Negotiated) -> Self {
        Self {
            buffer: vec![0; RECEIVE_SIZE].into(),
            kept: 0,
            rules: Rules {
                receiver: Receiver::Host,
                header_digest: negotiated.digests.header,
                data_digest: negotiated.digests.data,
                alignment: negotiated.host_alignment,
                capsule_data_size_max: 0,
                // The command's own size is the limit, and is checked against every PDU.
                data_size_max: u32::MAX,
            },
            body: None,
            header: [0; INITIALIZE_SIZE],
            header_size: 0,
        }
    }

    /// Another size of the buffer, which is empty.
    #[cfg(test)]
    pub(super) fn set_size(&mut self, size: usize) {
        self.buffer = vec![0; size].into();
    }

    /// Where the next bytes are to be received.
    #[inline]
    pub(super) fn space(&mut self) -> &mut [u8] {
        &mut self.buffer[self.kept..]
    }

    /// The header that was being processed when [`Receive::parse`] failed.
    pub(super) fn header(&self) -> &[u8] {
        &self.header[..self.header_size]
    }

    /// Takes `size` bytes that were received into [`Receive::space`]; the number of commands that ended.
    #[inline]
    pub(super) fn parse<C: Client>(
        &mut self,
        size: usize,
        sent: &mut Sent<'_>,
        client: &mut C,
    ) -> Result<usize, Error> {
        let end = self.kept + size;
        let mut at = 0;
        let mut completed = 0;
        // Each turn consumes a header or the rest of a body, so the loop is bounded by `end`.
        loop {
            let bytes = &self.buffer[at..end];
            match &mut self.body {
                Some(body) => {
                    let taken = take_body(body, bytes, self.rules.data_digest, sent, client);
                    at += taken.size;
                    if !taken.ended {
                        break;
                    }
                    completed += usize::from(end_body(*body, sent, client));
                    self.body = None;
                }
                None => {
                    if bytes.len() < COMMON_HEADER_SIZE {
                        break;
                    }
                    let step = self.take_header(at, end, sent, client)?;
                    if step.size == 0 {
                        break;
                    }
                    at += step.size;
                    completed += usize::from(step.ended);
                }
            }
        }
        self.kept = end - at;
        self.buffer.copy_within(at..end, 0);
        Ok(completed)
    }

    /// Processes the header at `at`, where it is there in full; size 0 when it is not.
    #[inline]
    fn take_header<C: Client>(
        &mut self,
        at: usize,
        end: usize,
        sent: &mut Sent<'_>,
        client: &mut C,
    ) -> Result<Step, Error> {
        let bytes = &self.buffer[at..end];
        let result = match pdu::decode_header(bytes, &self.rules) {
            Ok(layout) if bytes.len() < layout.head_size() => {
                return Ok(Step {
                    size: 0,
                    ended: false,
                });
            }
            Ok(layout) => take_pdu(&layout, bytes, sent, client, &mut self.body),
            // A TermReq that breaks the rules is not answered (3.5).
            Err(_) if Kind::decode(bytes[0]) == Some(Kind::ControllerTerminate) => {
                return Err(Error::Closed);
            }
            Err(reason) => Err(Error::Protocol(reason)),
        };
        if result.is_err() {
            let announced = usize::from(bytes[2]).clamp(COMMON_HEADER_SIZE, INITIALIZE_SIZE);
            self.header_size = announced.min(bytes.len());
            self.header[..self.header_size].copy_from_slice(&bytes[..self.header_size]);
        }
        result
    }
}

/// How far a step got.
struct Step {
    /// Bytes consumed.
    size: usize,
    /// Whether the body, or with a header a command, ended.
    ended: bool,
}

/// Processes a PDU whose header is there.
#[inline]
fn take_pdu<C: Client>(
    layout: &Layout,
    bytes: &[u8],
    sent: &mut Sent<'_>,
    client: &mut C,
    body: &mut Option<Body>,
) -> Result<Step, Error> {
    let protocol = Error::Protocol;
    if layout.header_digest {
        pdu::check_header_digest(bytes, layout.header_size as usize).map_err(protocol)?;
    }
    let size = layout.head_size();
    match layout.kind {
        Kind::ControllerData => {
            *body = Some(start_body(layout, bytes, sent).map_err(protocol)?);
            Ok(Step { size, ended: false })
        }
        Kind::Response => {
            let completion = pdu::decode_response(bytes);
            finish(completion, sent, client).map_err(protocol)?;
            Ok(Step { size, ended: true })
        }
        Kind::ReadyToTransfer => {
            take_request(&Transfer::decode(bytes), sent).map_err(protocol)?;
            Ok(Step { size, ended: false })
        }
        Kind::ControllerTerminate if bytes.len() >= TERMINATE_HEADER_SIZE => {
            Err(Error::Terminated(Terminate::decode(bytes)))
        }
        // ICResp has its place before the first command.
        _ => Err(Error::Protocol(TermReason::sequence())),
    }
}

/// Checks a C2HData header against its command (3.3.2.1).
#[inline]
fn start_body(layout: &Layout, bytes: &[u8], sent: &mut Sent<'_>) -> Result<Body, TermReason> {
    let transfer = Transfer::decode(bytes);
    let last = layout.flags & FLAG_LAST != 0;
    if layout.flags & FLAG_SUCCESS != 0 && !last {
        return Err(TermReason::field(1));
    }
    let slot = sent
        .slots
        .get_mut(usize::from(transfer.command_id))
        .ok_or(TermReason::field(Transfer::OFFSET_COMMAND_ID))?;
    let size = match slot.data {
        None => return Err(TermReason::field(Transfer::OFFSET_COMMAND_ID)),
        Some(Submission::Incoming(size)) => size,
        Some(_) => return Err(TermReason::sequence()),
    };
    transfer.check(layout)?;
    if slot.last {
        return Err(TermReason::sequence());
    }
    if transfer
        .offset
        .checked_add(transfer.size)
        .is_none_or(|end| end > size)
    {
        return Err(TermReason::data_out_of_range());
    }
    if transfer.offset != slot.done {
        return Err(TermReason::sequence());
    }
    slot.done += transfer.size;
    slot.last = last;
    Ok(Body {
        command_id: transfer.command_id,
        offset: transfer.offset,
        left: transfer.size,
        digest: 0,
        flags: layout.flags,
    })
}

/// Hands on what is there of a body; ended when its digest, where in use, came too.
#[inline]
fn take_body<C: Client>(
    body: &mut Body,
    bytes: &[u8],
    has_digest: bool,
    sent: &mut Sent<'_>,
    client: &mut C,
) -> Step {
    let mut size = (body.left as usize).min(bytes.len());
    if size > 0 {
        let data = &bytes[..size];
        if has_digest {
            body.digest = pdu::digest_append(body.digest, data);
        }
        client.incoming(body.command_id, body.offset, data);
        body.offset += size as u32;
        body.left -= size as u32;
    }
    if body.left > 0 {
        return Step { size, ended: false };
    }
    if has_digest {
        if bytes.len() - size < DIGEST_SIZE {
            return Step { size, ended: false };
        }
        if get_u32(bytes, size) != body.digest {
            sent.slots[usize::from(body.command_id)].corrupt = true;
        }
        size += DIGEST_SIZE;
    }
    Step { size, ended: true }
}

/// Ends a body; whether its command ended with it (SUCCESS flag).
#[inline]
fn end_body<C: Client>(body: Body, sent: &mut Sent<'_>, client: &mut C) -> bool {
    if body.flags & FLAG_SUCCESS == 0 {
        return false;
    }
    finish(
        Completion::new(body.command_id, Status::SUCCESS),
        sent,
        client,
    )
    .is_ok()
}

/// Ends a command.
#[inline]
fn finish<C: Client>(
    mut completion: Completion,
    sent: &mut Sent<'_>,
    client: &mut C,
) -> Result<(), TermReason> {
    // A response has no field of its own for the identifier in the PDU: byte 12 of the completion.
    const OFFSET_COMMAND_ID: u32 = COMMON_HEADER_SIZE as u32 + 12;
    let command_id = completion.command_id;
    let slot = sent
        .slots
        .get_mut(usize::from(command_id))
        .filter(|slot| slot.data.is_some())
        .ok_or(TermReason::field(OFFSET_COMMAND_ID))?;
    // 3.5: a data digest error fails a command that would have succeeded. So does one that "succeeds" before it was given the data that it asked for.
    if (slot.corrupt || slot.requested.is_some()) && completion.status.is_success() {
        completion.status = Status::TRANSIENT_TRANSPORT_ERROR;
    }
    slot.data = None;
    slot.requested = None;
    let transferred = slot.done;
    sent.free.push(command_id);
    client.complete(&completion, transferred);
    Ok(())
}

/// Notes an R2T (3.3.2.2); it is answered by the sending half.
fn take_request(transfer: &Transfer, sent: &mut Sent<'_>) -> Result<(), TermReason> {
    let slot = sent
        .slots
        .get_mut(usize::from(transfer.command_id))
        .ok_or(TermReason::field(Transfer::OFFSET_COMMAND_ID))?;
    let size = match slot.data {
        None => return Err(TermReason::field(Transfer::OFFSET_COMMAND_ID)),
        Some(Submission::Outgoing(size)) => size,
        Some(_) => return Err(TermReason::sequence()),
    };
    if !transfer.offset.is_multiple_of(4) {
        return Err(TermReason::field(Transfer::OFFSET_OFFSET));
    }
    if transfer.size == 0 || !transfer.size.is_multiple_of(4) {
        return Err(TermReason::field(Transfer::OFFSET_SIZE));
    }
    if slot.requested.is_some() {
        return Err(TermReason::limit_exceeded());
    }
    if transfer.offset != slot.done {
        return Err(TermReason::sequence());
    }
    if transfer.size > size - slot.done {
        return Err(TermReason::field(Transfer::OFFSET_SIZE));
    }
    slot.done += transfer.size;
    slot.requested = Some(Request {
        tag: transfer.tag,
        offset: transfer.offset,
        size: transfer.size,
    });
    sent.requests.push_back(transfer.command_id);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::pdu::Digests;
    use proptest::prelude::*;

    /// Keeps what a queue's client sees.
    #[derive(Default)]
    struct Seen {
        data: Vec<Vec<u8>>,
        ended: Vec<(u16, Status, u32)>,
    }

    impl Client for Seen {
        fn outgoing(&mut self, _: u16, _: u32, _: &mut [u8]) {
            panic!("nothing is sent here");
        }

        fn incoming(&mut self, command_id: u16, offset: u32, data: &[u8]) {
            let stored = &mut self.data[usize::from(command_id)];
            assert_eq!(stored.len(), offset as usize, "a gap");
            stored.extend_from_slice(data);
        }

        fn complete(&mut self, completion: &Completion, transferred: u32) {
            self.ended
                .push((completion.command_id, completion.status, transferred));
        }
    }

    struct Host {
        receive: Receive,
        slots: Vec<Slot>,
        free: Vec<u16>,
        requests: VecDeque<u16>,
    }

    impl Host {
        /// A host with a read outstanding for each of `sizes`.
        fn new(digests: Digests, sizes: &[u32]) -> Self {
            let negotiated = Negotiated {
                digests,
                controller_alignment: 0,
                host_alignment: 0,
                data_size_max: 4096,
            };
            let slot = |&size: &u32| Slot {
                data: Some(Submission::Incoming(size)),
                done: 0,
                last: false,
                corrupt: false,
                requested: None,
            };
            Self {
                receive: Receive::new(&negotiated),
                slots: sizes.iter().map(slot).collect(),
                free: Vec::new(),
                requests: VecDeque::new(),
            }
        }

        fn take(&mut self, bytes: &[u8], seen: &mut Seen) -> Result<usize, Error> {
            self.receive.space()[..bytes.len()].copy_from_slice(bytes);
            let mut sent = Sent {
                slots: &mut self.slots,
                free: &mut self.free,
                requests: &mut self.requests,
            };
            self.receive.parse(bytes.len(), &mut sent, seen)
        }
    }

    proptest! {
        /// However the stream is cut: every byte of every read arrives once, in order, and each read ends once.
        #[test]
        fn any_cut_brings_the_same_data(
            reads in proptest::collection::vec((1u32..600, 1u32..4, any::<bool>()), 1..8),
            cuts in proptest::collection::vec(1usize..700, 1..40),
            header: bool, data: bool,
        ) {
            let digests = Digests { header, data };
            let sizes: Vec<u32> = reads.iter().map(|read| read.0 * 4).collect();
            let mut stream = Vec::new();
            for (command_id, &(dwords, pieces, success)) in reads.iter().enumerate() {
                let piece = dwords.div_ceil(pieces) * 4;
                let content: Vec<u8> = (0..dwords * 4).map(|byte| (byte as usize + command_id) as u8).collect();
                for (index, chunk) in content.chunks(piece as usize).enumerate() {
                    let offset = index as u32 * piece;
                    let mut flags = 0;
                    if offset + chunk.len() as u32 == dwords * 4 {
                        flags = FLAG_LAST | if success { FLAG_SUCCESS } else { 0 };
                    }
                    let transfer = Transfer {
                        command_id: command_id as u16, tag: 0, offset, size: chunk.len() as u32,
                    };
                    let mut head = [0; 32];
                    let size = transfer.encode_data(&mut head, Kind::ControllerData, flags, digests, 0);
                    stream.extend_from_slice(&head[..size]);
                    stream.extend_from_slice(chunk);
                    if data {
                        stream.extend_from_slice(&pdu::digest(chunk).to_le_bytes());
                    }
                }
                if !success {
                    let mut response = [0; 28];
                    let completion = Completion::new(command_id as u16, Status::SUCCESS);
                    let size = pdu::encode_response(&mut response, &completion, header);
                    stream.extend_from_slice(&response[..size]);
                }
            }
            let mut host = Host::new(digests, &sizes);
            let mut seen = Seen { data: vec![Vec::new(); reads.len()], ended: Vec::new() };
            let mut rest = &stream[..];
            let mut completed = 0;
            for &cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                completed += host.take(piece, &mut seen).unwrap();
                rest = after;
            }
            prop_assert_eq!(completed, reads.len());
            for (command_id, &size) in sizes.iter().enumerate() {
                let expected: Vec<u8> = (0..size).map(|byte| (byte as usize + command_id) as u8).collect();
                prop_assert_eq!(&seen.data[command_id], &expected);
                prop_assert_eq!(seen.ended[command_id], (command_id as u16, Status::SUCCESS, size));
            }
        }

        /// Whatever a controller sends: an error or progress, never a panic, and no data beyond a command's.
        #[test]
        fn any_bytes_are_survived(
            pieces in proptest::collection::vec(
                (0u8..12, any::<u8>(), 0u32..64, any::<[u8; 16]>(), 0usize..64), 1..20,
            ),
        ) {
            let mut host = Host::new(Digests::default(), &[4096, 64, 4]);
            let mut seen = Seen { data: vec![Vec::new(); 3], ended: Vec::new() };
            for (kind, flags, size, mut fields, extra) in pieces {
                let header = Kind::decode(kind).map_or(24, Kind::header_size);
                fields[0] &= 3;
                fields[1] = 0;
                fields[6..8].fill(0);
                let mut bytes = vec![kind, flags & !3, header as u8, 24, header as u8 + size as u8, 0, 0, 0];
                bytes.extend_from_slice(&fields);
                bytes.resize(24 + extra, 0);
                if host.take(&bytes, &mut seen).is_err() {
                    break;
                }
            }
            for (stored, size) in seen.data.iter().zip([4096, 64, 4]) {
                prop_assert!(stored.len() <= size);
            }
        }
    }
}
