//! The receiving half of a session: takes the stream apart into PDUs, where they lie.
//!
//! Data-In is handed to the [`Client`] in place and in whatever pieces the stream brings, so the receive buffer need not hold a whole PDU, and
//! only a partial header is ever moved within it. PDUs without a payload for a command are small, and are awaited as a whole.

use super::error::Error;
use super::session::{Burst, Client, LOGOUT_TAG, Leaving, Sequence, Slot};
use super::status::CommandStatus;
use crate::host::queue::Submission;
use crate::iscsi::pdu::{
    self, DIGEST_BYTES, FINAL, HEADER_BYTES, Header, Layout, NO_TAG, OVERFLOW, STATUS, UNDERFLOW,
    opcode,
};
use crate::iscsi::text::Parameters;
use std::collections::VecDeque;

/// The receive buffer: about 60 reads of 4 KiB, and small enough to stay in the second-level cache between the kernel's copy and the
/// client's look.
const RECEIVE_BYTES: usize = 256 << 10;

/// The longest data segment that is taken (MaxRecvDataSegmentLength). It is not awaited as a whole, so it may be as long as any transfer.
pub const SEGMENT_BYTES_MAX: u32 = 1 << 20;

/// The longest data segment of a PDU that has no payload for a command: sense data, a rejected header.
const CONTROL_BYTES_MAX: usize = 8 << 10;

const _: () = assert!(HEADER_BYTES + 255 * 4 + CONTROL_BYTES_MAX + 64 <= RECEIVE_BYTES);

/// How a command ended.
#[derive(Clone, Copy, Debug)]
pub struct Ending<'a> {
    /// The slot of the command.
    pub slot: u16,
    /// Status and what its sense data says.
    pub status: CommandStatus,
    /// All of the sense data; it is gone after the call.
    pub sense: &'a [u8],
    /// Bytes of data that went over the wire for the command.
    pub transferred: u32,
    /// Bytes that the command had, or took, beyond those that were expected.
    pub overflow: u32,
}

/// What the receiver may change of the sending half.
pub(super) struct Sent<'a> {
    pub(super) slots: &'a mut [Slot],
    pub(super) free: &'a mut Vec<u16>,
    pub(super) bursts: &'a mut VecDeque<Burst>,
    pub(super) ping: &'a mut Option<([u8; 8], u32)>,
    pub(super) sequence: &'a mut Sequence,
    pub(super) leaving: &'a mut Leaving,
}

impl Sent<'_> {
    /// The slot of the command that a PDU is for.
    #[inline]
    fn find(&mut self, header: &Header) -> Result<u16, Error> {
        let tag = header.task_tag();
        let index = tag as u16;
        match self.slots.get(usize::from(index)) {
            Some(slot) if slot.tag == tag && slot.data.is_some() => Ok(index),
            _ => Err(Error::Protocol(
                "a PDU is for no command that is outstanding",
            )),
        }
    }

    /// Takes the status number of a PDU (RFC 7143, 4.2.2.2). One that is missing is lost for good at error recovery level 0.
    #[inline]
    fn number(&mut self, header: &Header) -> Result<(), Error> {
        if header.u32(24) != self.sequence.status {
            return Err(Error::Protocol("a response is missing (StatSN)"));
        }
        self.sequence.status = self.sequence.status.wrapping_add(1);
        Ok(())
    }

    /// Ends the command of a slot.
    #[inline]
    fn finish<C: Client>(&mut self, index: u16, end: &End, sense: &[u8], client: &mut C) {
        let slot = &mut self.slots[usize::from(index)];
        let mut status = end.status(sense);
        if slot.is_corrupt && status.is_good() {
            status = CommandStatus::DATA_DIGEST;
        }
        let mut transferred = slot.done;
        if end.flags & UNDERFLOW != 0
            && let Some(Submission::Outgoing(size)) = slot.data
        {
            transferred = transferred.min(size.saturating_sub(end.residual));
        }
        slot.data = None;
        self.free.push(index);
        client.complete(&Ending {
            slot: index,
            status,
            sense,
            transferred,
            overflow: if end.flags & OVERFLOW != 0 {
                end.residual
            } else {
                0
            },
        });
    }
}

/// What a PDU says about the end of its command.
#[derive(Clone, Copy, Debug)]
struct End {
    /// Response code; 0 when the command was carried out at all (RFC 7143, 11.4.3).
    response: u8,
    status: u8,
    flags: u8,
    residual: u32,
}

impl End {
    #[inline]
    fn of(header: &Header, response: u8) -> Self {
        Self {
            response,
            status: header.0[3],
            flags: header.flags(),
            residual: header.u32(44),
        }
    }

    #[inline]
    fn status(&self, sense: &[u8]) -> CommandStatus {
        match self.response {
            0 => CommandStatus::new(self.status, sense),
            _ => CommandStatus::TARGET_FAILURE,
        }
    }
}

/// The data of the Data-In PDU that is being received.
#[derive(Clone, Copy, Debug)]
struct Body {
    slot: u16,
    /// Where the next byte goes, from the start of the command's data.
    offset: u32,
    /// Bytes still to come.
    left: u32,
    /// What follows the data: padding, and a digest where one is due.
    tail: usize,
    /// Digest of what came; `None` without one.
    digest: Option<u32>,
    /// With the status of the command.
    end: Option<End>,
}

/// How far a step got.
struct Step {
    /// Bytes consumed.
    size: usize,
    /// Whether a command ended.
    ended: bool,
    /// Whether more bytes have to come before anything else can be done.
    waits: bool,
}

impl Step {
    const WAIT: Step = Step {
        size: 0,
        ended: false,
        waits: true,
    };
}

/// Receive buffer and parser.
#[derive(Debug)]
pub struct Receive {
    buffer: Box<[u8]>,
    /// Bytes of a partial header or tail at the start of the buffer.
    kept: usize,
    header_digest: bool,
    data_digest: bool,
    /// The largest burst that the target may ask for.
    burst_bytes: u32,
    /// The most R2Ts of a command that may wait to be answered.
    outstanding_ready: u32,
    body: Option<Body>,
}

impl Receive {
    pub(super) fn new(parameters: &Parameters) -> Self {
        Self {
            buffer: vec![0; RECEIVE_BYTES].into(),
            kept: 0,
            header_digest: parameters.header_digest,
            data_digest: parameters.data_digest,
            burst_bytes: parameters.burst_bytes,
            outstanding_ready: parameters.outstanding_ready,
            body: None,
        }
    }

    /// Where the next bytes are to be received.
    #[inline]
    pub(super) fn space(&mut self) -> &mut [u8] {
        &mut self.buffer[self.kept..]
    }

    /// Takes `size` bytes that were received into [`Receive::space`]; the number of commands that ended.
    ///
    /// # Errors
    ///
    /// What ends the session.
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
        // Each turn consumes a PDU or a part of a body, so the loop is bounded by `end`.
        loop {
            let bytes = &self.buffer[at..end];
            let step = match &mut self.body {
                Some(body) => {
                    let step = take_body(body, bytes, sent, client);
                    if !step.waits {
                        self.body = None;
                    }
                    step
                }
                None => self.take_pdu(at, end, sent, client)?,
            };
            at += step.size;
            completed += usize::from(step.ended);
            if step.waits {
                break;
            }
        }
        self.kept = end - at;
        self.buffer.copy_within(at..end, 0);
        Ok(completed)
    }

    /// Processes the PDU at `at`: of a Data-In the header, of others all.
    #[inline]
    fn take_pdu<C: Client>(
        &mut self,
        at: usize,
        end: usize,
        sent: &mut Sent<'_>,
        client: &mut C,
    ) -> Result<Step, Error> {
        let bytes = &self.buffer[at..end];
        let Some(first) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(Step::WAIT);
        };
        let header = Header(*first);
        let layout = Layout::of(&header, self.header_digest, self.data_digest);
        if bytes.len() < layout.head {
            return Ok(Step::WAIT);
        }
        if self.header_digest {
            let covered = layout.head - DIGEST_BYTES;
            if pdu::digest(&[&bytes[..covered]]) != bytes[covered..layout.head] {
                return Err(Error::Protocol("a header digest does not match"));
            }
        }
        if header.opcode() == opcode::DATA_IN {
            sent.sequence.note(&header);
            self.body = Some(start_body(&header, &layout, sent)?);
            return Ok(Step {
                size: layout.head,
                ended: false,
                waits: false,
            });
        }
        if layout.data > CONTROL_BYTES_MAX {
            return Err(Error::Protocol(
                "a PDU is longer than its kind has reason to be",
            ));
        }
        if bytes.len() < layout.total() {
            return Ok(Step::WAIT);
        }
        let data = &bytes[layout.head..layout.head + layout.data];
        if layout.data_digest {
            let covered = layout.total() - DIGEST_BYTES;
            if pdu::digest(&[&bytes[layout.head..covered]]) != bytes[covered..layout.total()] {
                return Err(Error::Protocol(
                    "the data digest of a response does not match",
                ));
            }
        }
        sent.sequence.note(&header);
        let ended = match header.opcode() {
            opcode::RESPONSE => {
                take_response(&header, data, sent, client)?;
                true
            }
            opcode::READY => {
                self.take_ready(&header, sent)?;
                false
            }
            opcode::NOP_IN => {
                take_nop(&header, sent)?;
                false
            }
            opcode::ASYNC => {
                sent.number(&header)?;
                take_async(&header)?;
                false
            }
            opcode::LOGOUT_RESPONSE
                if *sent.leaving == Leaving::Asked && header.task_tag() == LOGOUT_TAG =>
            {
                sent.number(&header)?;
                *sent.leaving = Leaving::Answered(header.0[2]);
                false
            }
            opcode::REJECT => {
                return Err(Error::Rejected {
                    reason: header.0[2],
                    opcode: data.first().map(|first| first & 0x3F),
                });
            }
            _ => return Err(Error::Protocol("a PDU that nothing asked for")),
        };
        Ok(Step {
            size: layout.total(),
            ended,
            waits: false,
        })
    }

    /// Notes an R2T (RFC 7143, 11.8); the sending half answers it.
    fn take_ready(&self, header: &Header, sent: &mut Sent<'_>) -> Result<(), Error> {
        let index = sent.find(header)?;
        let slot = &mut sent.slots[usize::from(index)];
        let Some(Submission::Outgoing(size)) = slot.data else {
            return Err(Error::Protocol("an R2T for a command that writes nothing"));
        };
        let (offset, wanted) = (header.u32(40), header.u32(44));
        if header.transfer_tag() == NO_TAG {
            return Err(Error::Protocol("an R2T without a transfer tag"));
        }
        if slot.ready_count == self.outstanding_ready {
            return Err(Error::Protocol(
                "more R2Ts wait to be answered than was agreed on",
            ));
        }
        if header.u32(36) != slot.next_sn || offset != slot.done {
            return Err(Error::Protocol("an R2T out of its order"));
        }
        if wanted == 0 || wanted > size - slot.done || wanted > self.burst_bytes {
            return Err(Error::Protocol(
                "an R2T asks for more than there is, or than was agreed on",
            ));
        }
        slot.done += wanted;
        slot.next_sn = slot.next_sn.wrapping_add(1);
        slot.ready_count += 1;
        sent.bursts.push_back(Burst {
            slot: index,
            tag: slot.tag,
            transfer_tag: header.transfer_tag(),
            offset,
            left: wanted,
            data_sn: 0,
        });
        Ok(())
    }
}

/// Checks the header of a Data-In against its command (RFC 7143, 11.7).
#[inline]
fn start_body(header: &Header, layout: &Layout, sent: &mut Sent<'_>) -> Result<Body, Error> {
    let size = layout.data as u32;
    if size > SEGMENT_BYTES_MAX {
        return Err(Error::Protocol(
            "a data segment is longer than was agreed on",
        ));
    }
    let has_status = header.flags() & STATUS != 0;
    if has_status && header.flags() & FINAL == 0 {
        return Err(Error::Protocol(
            "a Data-In has a status, but is not the last",
        ));
    }
    let index = sent.find(header)?;
    let slot = &mut sent.slots[usize::from(index)];
    let Some(Submission::Incoming(expected)) = slot.data else {
        return Err(Error::Protocol(
            "data came for a command that reads nothing",
        ));
    };
    // DataPDUInOrder and DataSequenceInOrder are Yes.
    if header.u32(36) != slot.next_sn || header.u32(40) != slot.done {
        return Err(Error::Protocol("data came out of its order"));
    }
    if size > expected - slot.done {
        return Err(Error::Protocol("more data came than was asked for"));
    }
    let body = Body {
        slot: index,
        offset: slot.done,
        left: size,
        tail: layout.tail,
        digest: layout.data_digest.then_some(0),
        end: has_status.then(|| End::of(header, 0)),
    };
    slot.next_sn = slot.next_sn.wrapping_add(1);
    slot.done += size;
    if has_status {
        sent.number(header)?;
    }
    Ok(body)
}

/// Hands on what is there of a body; it is over when what follows it came too.
#[inline]
fn take_body<C: Client>(
    body: &mut Body,
    bytes: &[u8],
    sent: &mut Sent<'_>,
    client: &mut C,
) -> Step {
    let size = (body.left as usize).min(bytes.len());
    if size > 0 {
        let data = &bytes[..size];
        if let Some(digest) = &mut body.digest {
            *digest = crc32c::crc32c_append(*digest, data);
        }
        client.incoming(body.slot, body.offset, data);
        body.offset += size as u32;
        body.left -= size as u32;
    }
    let rest = &bytes[size..];
    if body.left > 0 || rest.len() < body.tail {
        return Step {
            size,
            ended: false,
            waits: true,
        };
    }
    if let Some(digest) = body.digest {
        let (padding, said) = rest[..body.tail].split_at(body.tail - DIGEST_BYTES);
        if crc32c::crc32c_append(digest, padding).to_le_bytes() != *said {
            sent.slots[usize::from(body.slot)].is_corrupt = true;
        }
    }
    if let Some(end) = &body.end {
        sent.finish(body.slot, end, &[], client);
    }
    Step {
        size: size + body.tail,
        ended: body.end.is_some(),
        waits: false,
    }
}

/// SCSI Response (RFC 7143, 11.4).
fn take_response<C: Client>(
    header: &Header,
    data: &[u8],
    sent: &mut Sent<'_>,
    client: &mut C,
) -> Result<(), Error> {
    sent.number(header)?;
    let index = sent.find(header)?;
    let sense = match data.split_first_chunk::<2>() {
        None if data.is_empty() => &[][..],
        Some((&size, sense)) => sense
            .get(..usize::from(u16::from_be_bytes(size)))
            .ok_or(Error::Protocol("sense data is longer than its PDU"))?,
        None => return Err(Error::Protocol("sense data without its length")),
    };
    sent.finish(index, &End::of(header, header.0[2]), sense, client);
    Ok(())
}

/// NOP-In (RFC 7143, 11.19): an answer, of which there can be none, as nothing is asked; or a question.
fn take_nop(header: &Header, sent: &mut Sent<'_>) -> Result<(), Error> {
    if header.task_tag() != NO_TAG {
        return Err(Error::Protocol("a NOP-In that nothing asked for"));
    }
    if header.transfer_tag() == NO_TAG {
        // It only says how far the window goes.
        return Ok(());
    }
    // A target has one question open at a time; of two the later is enough to show that somebody is here.
    *sent.ping = Some((header.lun(), header.transfer_tag()));
    Ok(())
}

/// Asynchronous message (RFC 7143, 11.9): what is about units is told by unit attentions, too, and what is the vendor's own is not known.
fn take_async(header: &Header) -> Result<(), Error> {
    let ended = match header.0[36] {
        0 | 248..=255 => return Ok(()),
        1 => "the target asks for a logout",
        2 => "the target ends the connection",
        3 => "the target ends every connection of the session",
        4 => "the target wants to negotiate anew",
        5 => "the target has ended every command of the unit",
        _ => return Err(Error::Protocol("an asynchronous message that is not known")),
    };
    Err(Error::Ended(ended))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::pdu::padding;
    use proptest::prelude::*;

    /// Keeps what a session's client sees.
    #[derive(Default)]
    struct Seen {
        data: Vec<Vec<u8>>,
        ended: Vec<(u16, CommandStatus, u32)>,
    }

    impl Client for Seen {
        fn outgoing(&mut self, _: u16, _: u32, _: &mut [u8]) {
            panic!("nothing is sent here");
        }

        fn incoming(&mut self, slot: u16, offset: u32, data: &[u8]) {
            let stored = &mut self.data[usize::from(slot)];
            assert_eq!(stored.len(), offset as usize, "a gap");
            stored.extend_from_slice(data);
        }

        fn complete(&mut self, ending: &Ending<'_>) {
            let Ending {
                slot,
                status,
                transferred,
                ..
            } = *ending;
            self.ended.push((slot, status, transferred));
        }
    }

    /// The receiving half of a session with commands outstanding.
    struct Half {
        receive: Receive,
        slots: Vec<Slot>,
        free: Vec<u16>,
        bursts: VecDeque<Burst>,
        ping: Option<([u8; 8], u32)>,
        sequence: Sequence,
        leaving: Leaving,
    }

    impl Half {
        fn new(header_digest: bool, data_digest: bool, commands: &[Submission]) -> Self {
            let parameters = Parameters {
                header_digest,
                data_digest,
                ..Parameters::default()
            };
            let slot = |(index, &data): (usize, &Submission)| Slot::with(data, index as u32);
            Self {
                receive: Receive::new(&parameters),
                slots: commands.iter().enumerate().map(slot).collect(),
                free: Vec::new(),
                bursts: VecDeque::new(),
                ping: None,
                sequence: Sequence {
                    command: 9,
                    command_max: 9,
                    status: 0,
                },
                leaving: Leaving::No,
            }
        }

        fn take(&mut self, bytes: &[u8], seen: &mut Seen) -> Result<usize, Error> {
            self.receive.space()[..bytes.len()].copy_from_slice(bytes);
            let mut sent = Sent {
                slots: &mut self.slots,
                free: &mut self.free,
                bursts: &mut self.bursts,
                ping: &mut self.ping,
                sequence: &mut self.sequence,
                leaving: &mut self.leaving,
            };
            self.receive.parse(bytes.len(), &mut sent, seen)
        }
    }

    proptest! {
        /// However the stream is cut: every byte of every read arrives once, in order, and each read ends once.
        #[test]
        fn any_cut_brings_the_same_data(
            reads in proptest::collection::vec((1usize..2400, 1usize..4, any::<bool>()), 1..8),
            cuts in proptest::collection::vec(1usize..700, 1..40),
            header_digest: bool, data_digest: bool,
        ) {
            let content = |index: usize, size: usize| -> Vec<u8> {
                (0..size).map(|byte| (byte + index) as u8).collect()
            };
            let commands: Vec<Submission> =
                reads.iter().map(|read| Submission::Incoming(read.0 as u32)).collect();
            let mut stream = Vec::new();
            let mut put = |mut header: Header, tag: usize, status_sn: usize, data: &[u8]| {
                header.put(16, tag as u32);
                header.put(24, status_sn as u32);
                header.put_data_bytes(data.len());
                stream.extend_from_slice(&header.0);
                if header_digest {
                    stream.extend_from_slice(&pdu::digest(&[&header.0]));
                }
                let padded = [data, &[0; 3][..padding(data.len())]].concat();
                stream.extend_from_slice(&padded);
                if data_digest && !data.is_empty() {
                    stream.extend_from_slice(&pdu::digest(&[&padded]));
                }
            };
            for (tag, &(size, pieces, with_status)) in reads.iter().enumerate() {
                let data = content(tag, size);
                let piece = size.div_ceil(pieces);
                for (index, chunk) in data.chunks(piece).enumerate() {
                    let is_last = index * piece + chunk.len() == size;
                    let flags = if is_last && with_status { FINAL | STATUS } else { 0 };
                    let mut header = Header::new(opcode::DATA_IN, flags);
                    header.put(36, index as u32);
                    header.put(40, (index * piece) as u32);
                    put(header, tag, tag, chunk);
                }
                if !with_status {
                    put(Header::new(opcode::RESPONSE, FINAL), tag, tag, &[]);
                }
            }
            let mut half = Half::new(header_digest, data_digest, &commands);
            let mut seen = Seen { data: vec![Vec::new(); reads.len()], ended: Vec::new() };
            let mut rest = &stream[..];
            let mut completed = 0;
            for &cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                completed += half.take(piece, &mut seen).unwrap();
                rest = after;
            }
            prop_assert_eq!(completed, reads.len());
            for (tag, &(size, ..)) in reads.iter().enumerate() {
                prop_assert_eq!(&seen.data[tag], &content(tag, size));
                let ended = (tag as u16, CommandStatus::GOOD, size as u32);
                prop_assert_eq!(seen.ended[tag], ended);
            }
        }

        /// Whatever a target sends: an error or progress, never a panic, and no data beyond a command's.
        #[test]
        fn any_bytes_are_survived(
            pdus in proptest::collection::vec(
                (0usize..8, any::<u8>(), 0u32..4, any::<[u8; 3]>(), 0usize..80, 0u32..3), 1..20,
            ),
            header_digest: bool, data_digest: bool,
        ) {
            const OPCODES: [u8; 8] = [0x21, 0x25, 0x25, 0x31, 0x20, 0x32, 0x3F, 0x26];
            let commands = [
                Submission::Incoming(4096), Submission::Incoming(64), Submission::Outgoing(4096),
            ];
            let mut half = Half::new(header_digest, data_digest, &commands);
            let mut seen = Seen { data: vec![Vec::new(); 3], ended: Vec::new() };
            for (kind, flags, tag, fields, size, status_sn) in pdus {
                let mut header = Header::new(OPCODES[kind], flags);
                header.0[2] = fields[0] & 1;
                header.0[36] = fields[1] & 7;
                header.0[39] = fields[1] & 1;
                header.0[43] = fields[2];
                header.put(16, if tag == 3 { NO_TAG } else { tag });
                header.put(24, status_sn);
                header.put(44, u32::from(fields[2]));
                header.put_data_bytes(size);
                let mut bytes = header.0.to_vec();
                if header_digest {
                    bytes.extend(pdu::digest(&[&header.0]));
                }
                bytes.extend(vec![fields[0]; size + padding(size)]);
                if data_digest && size > 0 {
                    bytes.extend([0; 4]);
                }
                if half.take(&bytes, &mut seen).is_err() {
                    break;
                }
            }
            for (stored, size) in seen.data.iter().zip([4096, 64, 0]) {
                prop_assert!(stored.len() <= size);
            }
            prop_assert!(seen.ended.len() <= 3 && half.free.len() == seen.ended.len());
        }
    }
}
