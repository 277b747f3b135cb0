//! EXTENDED COPY(LID1), block device to block device, and RECEIVE COPY RESULTS (SPC-4, 5.18, 6.4 to 6.5, 6.18 to 6.21).
//!
//! Every unit is a copy manager for the units of its target that the initiator sees, itself among them. A copy is a [`super::Job`] whose steps
//! name other units. Before each piece it asks what READ (16) and WRITE (16) of the same initiator would be asked: are the units there, large
//! enough, ready, free of other initiators' reservations and of write protection.
//!
//! All segments and all that is said of the units is read before anything is copied; what makes no sense ends the command with ILLEGAL REQUEST
//! and nothing is written. What goes wrong with a segment ends it with COPY ABORTED, and those before it stay copied (5.18.7.3).

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use super::cdb::{Cdb, opcode as op};
use super::job::{Job, Place, Step, Work};
use super::sense::{Code, Key, Outcome, Refusal, SENSE_BYTES_MAX, Sense, Stop};
use super::serve::{self, Call, Directory, Seat};
use super::unit::Unit;
use super::{Extent, Plan, catalog, inquiry};
use crate::dm::Op;

/// What is read and written at once: a multiple of any block size, and little enough that many copies fit the buffers of a connection.
pub(super) const PIECE_BYTES: u32 = 256 * 1024;

/// Most units of one copy.
const CSCDS_MAX: u16 = 16;

/// Most segments of one copy.
const SEGMENTS_MAX: u16 = 64;

/// An identification descriptor, and bytes of any descriptor of a copy source or destination (SPC-4, 6.4.4.1, 6.4.4.4).
const IDENTIFICATION: u8 = 0xE4;
const CSCD_BYTES: usize = 32;
/// Most bytes of the name in it.
const NAME_BYTES_MAX: usize = 20;

/// From block device to block device, and bytes of that segment descriptor (6.4.5.4).
const BLOCK_TO_BLOCK: u8 = 0x02;
const SEGMENT_BYTES: usize = 28;

/// Bytes before the descriptors.
const HEADER_BYTES: usize = 16;

/// Most bytes of all descriptors together.
const DESCRIPTORS_BYTES_MAX: u32 =
    CSCDS_MAX as u32 * CSCD_BYTES as u32 + SEGMENTS_MAX as u32 * SEGMENT_BYTES as u32;

/// Copies of one nexus and unit that there are results of: a list identifier has a byte.
const COPIES_MAX: u8 = u8::MAX;

/// What RECEIVE COPY RESULTS tells of a copy.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    segments: AtomicU16,
    bytes: AtomicU64,
    end: OnceLock<Outcome>,
    /// Held by the copy: one that was aborted is gone without having said how it ended.
    alive: Weak<()>,
}

impl Ledger {
    fn is_running(&self) -> bool {
        self.end.get().is_none() && self.alive.strong_count() > 0
    }
}

/// A copy source or destination.
#[derive(Debug)]
struct Cscd {
    /// The unit and its number; `None` when there is none of that name for this initiator.
    unit: Option<(u16, Arc<Unit>)>,
    is_disk: bool,
    block_bytes: u32,
}

/// What is to be copied from where to where, in blocks.
#[derive(Clone, Copy, Debug)]
struct Segment {
    source: u16,
    destination: u16,
    /// The number of blocks counts those of the destination (DC).
    by_destination: bool,
    blocks: u16,
    source_lba: u64,
    destination_lba: u64,
}

/// A segment that is being copied, in sectors.
#[derive(Debug)]
struct Move {
    sectors: u32,
    done: u32,
    /// From its end to its beginning, because the destination overlaps what comes later of the source.
    backward: bool,
    /// Sectors that are read or written now.
    piece: u32,
    is_writing: bool,
}

/// EXTENDED COPY.
#[derive(Debug, Default)]
pub(super) struct CopyJob {
    cscds: Vec<Cscd>,
    segments: Vec<Segment>,
    luns: Vec<u16>,
    ledger: Option<Arc<Ledger>>,
    alive: Arc<()>,
    /// The list identifier that is forgotten at the end (LIST ID USAGE 10b).
    forgotten: Option<u8>,
    /// Segments done.
    current: usize,
    moving: Option<Move>,
}

/// One end of a segment as it is now.
struct End {
    lun: u16,
    extent: Extent,
    /// Writes have to be through to the medium.
    fua: bool,
}

/// Big-endian fields of parameter lists.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) << 16 | u32::from(u16_at(bytes, at + 2))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}

/// EXTENDED COPY(LID1) (SPC-4, 6.4).
pub(super) fn extended_copy(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let length = call.cdb.u32(10);
    if length == 0 {
        return Ok(Plan::End(Outcome::Good));
    }
    if (length as usize) < HEADER_BYTES || length > HEADER_BYTES as u32 + DESCRIPTORS_BYTES_MAX {
        return Err(Sense::illegal(Code::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    Ok(Plan::Job(Box::new(Job::copy(length))))
}

impl CopyJob {
    /// The units that it works on.
    pub(super) fn units(&self) -> &[u16] {
        &self.luns
    }

    /// The next steps; none when all is copied.
    pub(super) fn next(&mut self, work: &mut Work<'_>) -> Result<Vec<Step>, Outcome> {
        if self.ledger.is_none() {
            self.begin(work)?;
        }
        let next = self.go_on(work);
        let end = match &next {
            Ok(steps) if !steps.is_empty() => return next,
            Ok(_) => Outcome::Good,
            Err(outcome) => *outcome,
        };
        self.end(&work.seat, end);
        next
    }

    /// Reads the parameter list and enters the copy among those of the nexus.
    fn begin(&mut self, work: &Work<'_>) -> Result<(), Outcome> {
        let list = work.data;
        let (identifier, usage) = (list[0], list[1] >> 3 & 3);
        // 01b is reserved; 11b is a copy without an identifier, of which there are no results.
        if usage == 1 {
            return Err(Sense::invalid_parameter(1).into());
        }
        if usage == 3 && identifier != 0 {
            return Err(Sense::invalid_parameter(0).into());
        }
        let (cscds, segments) = descriptors(list)?;
        self.cscds = cscds
            .chunks_exact(CSCD_BYTES)
            .enumerate()
            .map(|(index, descriptor)| cscd(index, descriptor, work.seat.directory))
            .collect::<Result<_, _>>()?;
        self.segments = read_segments(segments, HEADER_BYTES + cscds.len())?;
        let ledger = Arc::new(Ledger {
            alive: Arc::downgrade(&self.alive),
            ..Ledger::default()
        });
        if usage != 3 {
            let mut state = work.seat.unit.lock();
            if let Some(nexus) = state.nexuses.get_mut(&work.seat.nexus.id) {
                let copies = &mut nexus.copies;
                if copies
                    .get(&identifier)
                    .is_some_and(|copy| copy.is_running())
                {
                    return Err(Sense::illegal(Code::OPERATION_IN_PROGRESS).into());
                }
                copies.insert(identifier, Arc::clone(&ledger));
            }
        }
        self.forgotten = (usage == 2).then_some(identifier);
        self.ledger = Some(ledger);
        let luns = self.cscds.iter().filter_map(|cscd| cscd.unit.as_ref());
        self.luns = luns.map(|(lun, _)| *lun).collect();
        Ok(())
    }

    /// The copy has ended: RECEIVE COPY RESULTS says how, or knows no more of it.
    fn end(&mut self, seat: &Seat<'_>, outcome: Outcome) {
        let Some(ledger) = &self.ledger else { return };
        // It ends once: nothing is submitted after that.
        let _ = ledger.end.set(outcome);
        let Some(identifier) = self.forgotten else {
            return;
        };
        let mut state = seat.unit.lock();
        if let Some(nexus) = state.nexuses.get_mut(&seat.nexus.id) {
            let is_own = |other: &Arc<Ledger>| Arc::ptr_eq(other, ledger);
            if nexus.copies.get(&identifier).is_some_and(is_own) {
                nexus.copies.remove(&identifier);
            }
        }
    }

    /// The next piece, read and then written, of this segment or of the next that has any.
    fn go_on(&mut self, work: &Work<'_>) -> Result<Vec<Step>, Outcome> {
        let is_writing = self.moving.as_ref().is_some_and(|moving| moving.is_writing);
        if !work.status.is_ok() {
            let outcome = Outcome::of(work.status, !is_writing);
            return Err(self.refused(is_writing, outcome));
        }
        if let Some(moving) = &mut self.moving {
            moving.is_writing = !is_writing;
            if is_writing {
                moving.done += moving.piece;
                if let Some(ledger) = &self.ledger {
                    let bytes = u64::from(moving.piece) * 512;
                    ledger.bytes.fetch_add(bytes, Ordering::Relaxed);
                }
            }
        }
        while let Some(segment) = self.segments.get(self.current).copied() {
            let (source, destination) = self.ends(&segment, work)?;
            let moving = self
                .moving
                .get_or_insert_with(|| Move::between(&source, &destination));
            let left = moving.sectors - moving.done;
            if left > 0 {
                let (op, end) = if moving.is_writing {
                    (Op::Write, destination)
                } else {
                    moving.piece = left.min((work.scratch.len() / 512) as u32);
                    (Op::Read, source)
                };
                return Ok(vec![moving.step(op, &end)]);
            }
            self.moving = None;
            self.current += 1;
            if let Some(ledger) = &self.ledger {
                ledger.segments.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(Vec::new())
    }

    /// Source and destination of a segment, if they can be read and written now.
    fn ends(&self, segment: &Segment, work: &Work<'_>) -> Result<(End, End), Outcome> {
        let [source, destination] = [segment.source, segment.destination].map(|number| {
            let cscd = self.cscds.get(usize::from(number));
            cscd.ok_or_else(|| self.stopped(Code::UNREACHABLE_COPY_TARGET, None, None))
        });
        let (source, destination) = (source?, destination?);
        // What would be a part of a block at either end is neither kept nor padded.
        let counted = if segment.by_destination {
            destination
        } else {
            source
        };
        let bytes = u64::from(segment.blocks) * u64::from(counted.block_bytes);
        let is_whole = |cscd: &Cscd| bytes.is_multiple_of(u64::from(cscd.block_bytes));
        if !is_whole(source) || !is_whole(destination) {
            return Err(self.stopped(Code::UNEXPECTED_INEXACT_SEGMENT, Some(8), None));
        }
        Ok((
            self.end_of(source, segment.source_lba, bytes, false, work)?,
            self.end_of(destination, segment.destination_lba, bytes, true, work)?,
        ))
    }

    /// One end of the present segment.
    fn end_of(
        &self,
        cscd: &Cscd,
        lba: u64,
        bytes: u64,
        is_destination: bool,
        work: &Work<'_>,
    ) -> Result<End, Outcome> {
        if !cscd.is_disk {
            return Err(self.stopped(Code::INCORRECT_COPY_TARGET_TYPE, None, None));
        }
        // It may have gone, and another come in its place, since the copy began.
        let found = cscd.unit.as_ref().and_then(|(lun, unit)| {
            let (now, geometry) = work.seat.directory.unit(*lun)?;
            let is_same = Arc::ptr_eq(&now, unit) && geometry.block_bytes == cscd.block_bytes;
            is_same.then_some((*lun, unit, geometry))
        });
        let (lun, unit, geometry) =
            found.ok_or_else(|| self.stopped(Code::COPY_TARGET_NOT_REACHABLE, None, None))?;
        let seat = Seat {
            unit,
            geometry,
            ..work.seat
        };
        let mut cdb = Cdb::default();
        cdb.0[0] = if is_destination {
            op::WRITE_16
        } else {
            op::READ_16
        };
        catalog::find(&cdb)
            .map_err(Outcome::from)
            .and_then(|entry| serve::may_use(&seat, entry, &cdb))
            .map_err(|outcome| self.refused(is_destination, outcome))?;
        let field = if is_destination { 20 } else { 12 };
        let blocks = bytes / u64::from(cscd.block_bytes);
        let extent = serve::extent(&geometry, lba, u32::try_from(blocks).unwrap_or(u32::MAX))
            .map_err(|_| self.stopped(Code::NONE, Some(field), None))?;
        let fua = is_destination && unit.lock().modes.write_cache_off;
        Ok(End { lun, extent, fua })
    }

    /// The present segment cannot be copied, or not to its end; `field` is the byte of its descriptor that is wrong.
    fn stopped(&self, code: Code, field: Option<u16>, refusal: Option<Refusal>) -> Outcome {
        let stop = Stop {
            segment: self.current as u16,
            refusal,
        };
        let mut sense = Sense::new(Key::CopyAborted, code).with_stop(stop);
        if let Some(field) = field {
            sense = sense.with_segment_field(field);
        }
        // INFORMATION is what is left, in blocks of the destination.
        let segment = self.segments.get(self.current);
        let destination =
            segment.and_then(|segment| self.cscds.get(usize::from(segment.destination)));
        if let (Some(moving), Some(destination)) = (&self.moving, destination) {
            let left = u64::from(moving.sectors - moving.done) * 512;
            sense = sense.with_information(left / u64::from(destination.block_bytes));
        }
        sense.into()
    }

    /// One of the two units of the present segment refuses.
    fn refused(&self, by_destination: bool, outcome: Outcome) -> Outcome {
        let refusal = Refusal {
            by_destination,
            status: outcome.code(),
            sense: match outcome {
                Outcome::Check(sense) => (sense.key, sense.code),
                _ => (Key::NoSense, Code::NONE),
            },
        };
        self.stopped(Code::THIRD_PARTY_DEVICE_FAILURE, None, Some(refusal))
    }
}

impl Move {
    fn between(source: &End, destination: &End) -> Self {
        let (from, to) = (source.extent.sector, destination.extent.sector);
        let sectors = source.extent.sectors;
        let is_within = to > from && to < from + u64::from(sectors);
        Self {
            sectors,
            done: 0,
            backward: source.lun == destination.lun && is_within,
            piece: 0,
            is_writing: false,
        }
    }

    fn step(&self, op: Op, end: &End) -> Step {
        let offset = if self.backward {
            self.sectors - self.done - self.piece
        } else {
            self.done
        };
        Step {
            lun: Some(end.lun),
            op,
            extent: Extent {
                sector: end.extent.sector + u64::from(offset),
                sectors: self.piece,
            },
            fua: end.fua,
            place: Place::Scratch(0),
        }
    }
}

/// The two lists of descriptors of a parameter list (SPC-4, 6.4.3).
fn descriptors(list: &[u8]) -> Result<(&[u8], &[u8]), Outcome> {
    let (cscds, segments) = (u32::from(u16_at(list, 2)), u32_at(list, 8));
    let is_cut = u64::from(cscds) + u64::from(segments) > (list.len() - HEADER_BYTES) as u64;
    if is_cut || cscds + segments > DESCRIPTORS_BYTES_MAX {
        return Err(Sense::illegal(Code::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    if u32_at(list, 12) > 0 {
        return Err(Sense::illegal(Code::INLINE_DATA_LENGTH_EXCEEDED).into());
    }
    if !(cscds as usize).is_multiple_of(CSCD_BYTES) {
        return Err(Sense::invalid_parameter(2).into());
    }
    if cscds as usize / CSCD_BYTES > usize::from(CSCDS_MAX) {
        return Err(Sense::illegal(Code::TOO_MANY_TARGET_DESCRIPTORS).into());
    }
    let (cscds, rest) = list[HEADER_BYTES..].split_at(cscds as usize);
    Ok((cscds, &rest[..segments as usize]))
}

/// Reads an identification descriptor and finds its unit (SPC-4, 6.4.4.4). LU ID TYPE and NUL are obsolete there and ignored.
fn cscd(index: usize, bytes: &[u8], directory: &dyn Directory) -> Result<Cscd, Outcome> {
    let at = |byte: usize| (HEADER_BYTES + index * CSCD_BYTES + byte) as u16;
    if bytes[0] != IDENTIFICATION {
        return Err(Sense::illegal(Code::UNSUPPORTED_TARGET_DESCRIPTOR).into());
    }
    let size = usize::from(bytes[7]);
    if size > NAME_BYTES_MAX {
        return Err(Sense::invalid_parameter(at(7)).into());
    }
    // Code set, association and type, and the name, as VPD page 83h has them.
    let mut name = vec![bytes[4] & 0x0F, bytes[5] & 0x3F, 0, bytes[7]];
    name.extend_from_slice(&bytes[8..8 + size]);
    let mut units = directory
        .luns()
        .into_iter()
        .filter_map(|lun| Some((lun, directory.unit(lun)?)));
    let found = units.find(|(_, (unit, _))| inquiry::names(&unit.identity).contains(&name));
    let block_bytes = u32_at(bytes, 28) & 0x00FF_FFFF;
    let is_disk = bytes[1] & 0x1F == 0;
    if let Some((_, (_, geometry))) = &found
        && is_disk
        && geometry.block_bytes != block_bytes
    {
        return Err(Sense::invalid_parameter(at(29)).into());
    }
    Ok(Cscd {
        unit: found.map(|(lun, (unit, _))| (lun, unit)),
        is_disk,
        block_bytes: block_bytes.max(1),
    })
}

/// Reads the segment descriptors, which begin at byte `at` of the parameter list.
fn read_segments(mut rest: &[u8], mut at: usize) -> Result<Vec<Segment>, Outcome> {
    let mut segments = Vec::new();
    while !rest.is_empty() {
        if segments.len() == usize::from(SEGMENTS_MAX) {
            return Err(Sense::illegal(Code::TOO_MANY_SEGMENT_DESCRIPTORS).into());
        }
        if rest[0] != BLOCK_TO_BLOCK {
            return Err(Sense::illegal(Code::UNSUPPORTED_SEGMENT_DESCRIPTOR).into());
        }
        // The list ends within a descriptor, or the descriptor is longer or shorter than its type.
        if rest.len() < SEGMENT_BYTES {
            return Err(Sense::invalid_parameter(8).into());
        }
        if usize::from(u16_at(rest, 2)) != SEGMENT_BYTES - 4 {
            return Err(Sense::invalid_parameter((at + 2) as u16).into());
        }
        segments.push(Segment {
            source: u16_at(rest, 4),
            destination: u16_at(rest, 6),
            by_destination: rest[1] & 0x02 != 0,
            blocks: u16_at(rest, 10),
            source_lba: u64_at(rest, 12),
            destination_lba: u64_at(rest, 20),
        });
        rest = &rest[SEGMENT_BYTES..];
        at += SEGMENT_BYTES;
    }
    Ok(segments)
}

/// The copy of a list identifier that a RECEIVE COPY RESULTS asks for.
fn ledger(call: &Call<'_>) -> Result<Arc<Ledger>, Outcome> {
    let state = call.unit.lock();
    let nexus = state.nexuses.get(&call.nexus.id);
    let copy = nexus.and_then(|nexus| nexus.copies.get(&call.cdb.byte(2)));
    Ok(Arc::clone(copy.ok_or(Sense::invalid_field(2, None))?))
}

/// COPY STATUS(LID1) (SPC-4, 6.18).
pub(super) fn status(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let ledger = ledger(call)?;
    let status = match ledger.end.get() {
        None if ledger.is_running() => 0,
        Some(outcome) if outcome.is_good() => 1,
        _ => 2,
    };
    // In bytes as long as their number fits, otherwise in KiB.
    let bytes = ledger.bytes.load(Ordering::Relaxed);
    let (units, count) = u32::try_from(bytes).map_or((1, (bytes >> 10) as u32), |bytes| (0, bytes));
    let mut data = vec![0, 0, 0, 8, status];
    data.extend_from_slice(&ledger.segments.load(Ordering::Relaxed).to_be_bytes());
    data.push(units);
    data.extend_from_slice(&count.to_be_bytes());
    Ok(Plan::answer(data, call.cdb.u32(10)))
}

/// FAILED SEGMENT DETAILS (SPC-4, 6.20): the status and sense data of a copy that has failed.
pub(super) fn failed_segment_details(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let ledger = ledger(call)?;
    let Some(outcome) = ledger.end.get() else {
        return Err(Sense::invalid_field(2, None).into());
    };
    let mut data = vec![0; 4];
    if !outcome.is_good() {
        let mut bytes = [0; SENSE_BYTES_MAX];
        let descriptor = call.unit.lock().modes.descriptor_sense;
        let size = match outcome {
            Outcome::Check(sense) => sense.encode(&mut bytes, descriptor),
            _ => 0,
        };
        data.resize(60, 0);
        data[56] = outcome.code();
        data[58..60].copy_from_slice(&(size as u16).to_be_bytes());
        data.extend_from_slice(&bytes[..size]);
        let available = (data.len() - 4) as u32;
        data[..4].copy_from_slice(&available.to_be_bytes());
    }
    Ok(Plan::answer(data, call.cdb.u32(10)))
}

/// Most bytes of one segment: what its field can name.
fn segment_bytes_max(call: &Call<'_>) -> u32 {
    u32::from(u16::MAX) * call.geometry.block_bytes
}

/// RECEIVE COPY OPERATING PARAMETERS (SPC-4, 6.19): no inline data, no held data, no streams.
pub(super) fn operating_parameters(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let mut data = vec![0; 44];
    // SNLID: copies without a list identifier.
    data[4] = 0x01;
    data[8..10].copy_from_slice(&CSCDS_MAX.to_be_bytes());
    data[10..12].copy_from_slice(&SEGMENTS_MAX.to_be_bytes());
    data[12..16].copy_from_slice(&DESCRIPTORS_BYTES_MAX.to_be_bytes());
    data[16..20].copy_from_slice(&segment_bytes_max(call).to_be_bytes());
    data[34..36].copy_from_slice(&u16::from(COPIES_MAX).to_be_bytes());
    data[36] = COPIES_MAX;
    data[37] = call.geometry.block_bytes.trailing_zeros() as u8;
    data[43] = 2;
    data.extend_from_slice(&[BLOCK_TO_BLOCK, IDENTIFICATION]);
    let available = (data.len() - 4) as u32;
    data[..4].copy_from_slice(&available.to_be_bytes());
    Ok(Plan::answer(data, call.cdb.u32(10)))
}

/// Third-party Copy (SPC-4, 7.8.17): the descriptors that every copy manager has.
pub(super) fn vital_product_data(call: &Call<'_>) -> Vec<u8> {
    let mut commands = Vec::new();
    for code in [op::EXTENDED_COPY, op::RECEIVE_COPY_RESULTS] {
        let of = catalog::CATALOG.iter().filter(|entry| entry.opcode == code);
        let actions: Vec<u8> = of.filter_map(|entry| entry.service).collect();
        commands.extend_from_slice(&[code, actions.len() as u8]);
        commands.extend_from_slice(&actions);
    }
    commands.insert(0, commands.len() as u8);
    let mut parameters = vec![0; 28];
    parameters[4..6].copy_from_slice(&CSCDS_MAX.to_be_bytes());
    parameters[6..8].copy_from_slice(&SEGMENTS_MAX.to_be_bytes());
    parameters[8..12].copy_from_slice(&DESCRIPTORS_BYTES_MAX.to_be_bytes());
    let mut general = vec![0; 32];
    general[..4].copy_from_slice(&u32::from(COPIES_MAX).to_be_bytes());
    general[4..8].copy_from_slice(&u32::from(COPIES_MAX).to_be_bytes());
    general[8..12].copy_from_slice(&segment_bytes_max(call).to_be_bytes());
    general[12] = call.geometry.block_bytes.trailing_zeros() as u8;
    let mut body = Vec::new();
    let mut put = |kind: u16, mut descriptor: Vec<u8>| {
        descriptor.resize(descriptor.len().next_multiple_of(4), 0);
        body.extend_from_slice(&kind.to_be_bytes());
        body.extend_from_slice(&(descriptor.len() as u16).to_be_bytes());
        body.extend_from_slice(&descriptor);
    };
    put(0x0001, commands);
    put(0x0004, parameters);
    put(0x0008, vec![2, BLOCK_TO_BLOCK, IDENTIFICATION]);
    // No CSCD identifiers but those of the descriptors.
    put(0x000C, vec![0, 0]);
    put(0x8001, general);
    body
}

const _: () = assert!(PIECE_BYTES.is_power_of_two() && PIECE_BYTES <= serve::TRANSFER_BYTES_MAX);
