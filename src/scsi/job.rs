//! Commands that take several steps: what they submit next, when what they submitted last has ended.
//!
//! A job does no I/O. Whoever carries it gives it the initiator's data and a piece of work memory, submits the steps that it asks for, and
//! asks again when all of them have ended; so every job is the same few calls for an export, for tests and for the fuzzer.

use super::block::{self, is_through, miscompare, range};
use super::cdb::{Cdb, opcode as op};
use super::sanitize::Overwrite;
use super::sense::{Code, Key, Outcome, Sense};
use super::serve::{self, Call, Limits, Seat};
use super::{Extent, Parameters, Plan, copy, mode, persistent, port_groups, sanitize};
use crate::dm::{Op, Status};

/// Work memory for what is read to be compared: a few transfers of a device at once.
const VERIFY_BYTES: u32 = 256 * 1024;

/// Work memory for a pattern that is written again and again.
const PATTERN_BYTES: u32 = 64 * 1024;

/// Writes of a pattern at once.
const PATTERN_WRITES: usize = 8;

/// Sectors of one I/O without data: 512 GiB, a multiple of any block size.
const SECTORS_MAX: u32 = 1 << 30;

/// How often ORWRITE reads and tries to write, when others write in between.
const ATTEMPTS: u32 = 64;

/// Where the data of a step lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It has none.
    Nothing,
    /// In what the initiator sent, from this byte.
    Data(usize),
    /// In the work memory, from this byte.
    Scratch(usize),
}

/// One I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Another unit of the same target, by number; `None` for the one that the command is for.
    pub lun: Option<u16>,
    /// What.
    pub op: Op,
    /// Where.
    pub extent: Extent,
    /// Durable when it ends.
    pub fua: bool,
    /// With which data.
    pub place: Place,
}

/// What is to be done for a job now.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Submit all of these, and ask again when they have ended. At least one.
    Submit(Vec<Step>),
    /// The command has ended.
    End(Outcome),
    /// This goes on by itself, whatever becomes of the command, which has done its part.
    Leave(Box<Overwrite>),
    /// Hand this to whoever keeps the unit's reservations; the command ends with what he answers.
    Keep(Box<persistent::Request>),
    /// It has done its part (PREEMPT AND ABORT); the command ends when nothing that these initiators have in the unit is at the medium any more.
    Preempt(Vec<super::NexusId>),
    /// Change the states of these target port groups; the command ends when all go by them.
    SetAccess(Vec<(u16, super::Access)>),
}

/// What a job works with.
pub struct Work<'a> {
    /// Where the command came in.
    pub seat: Seat<'a>,
    /// What the initiator sent.
    pub data: &'a [u8],
    /// The work memory.
    pub scratch: &'a mut [u8],
    /// How the steps have ended: the first error, if any.
    pub status: Status,
}

#[derive(Debug)]
enum Kind {
    Parameters(Parameters),
    /// A flush, or an atomic write: one step.
    Once(Op),
    Unmap,
    /// WRITE SAME; `unmap` allows it to deallocate.
    WriteSame {
        unmap: bool,
        zeroes: bool,
    },
    CompareAndWrite,
    /// VERIFY, and what comes after the write of WRITE AND VERIFY. `block`: all blocks are compared with one.
    Verify {
        writes: bool,
        compares: bool,
        block: bool,
    },
    OrWrite,
    /// SANITIZE, OVERWRITE.
    Sanitize,
    /// EXTENDED COPY.
    Copy(Box<copy::CopyJob>),
    /// A write of less than it names: whole blocks, and the beginning of one more. Then verified, if it says how.
    Short {
        block_sectors: u32,
        tail_bytes: usize,
        verify: Option<bool>,
    },
}

/// A command in several steps.
#[derive(Debug)]
pub struct Job {
    /// Bytes that the initiator has to send first.
    pub data_bytes: u32,
    /// Bytes that its CDB names; more than `data_bytes` when the initiator offers less. 0 when both are the same.
    pub named_bytes: u32,
    /// Bytes of work memory that it needs.
    pub scratch_bytes: u32,
    /// The initiator is answered at once, and not again (IMMED).
    pub in_background: bool,
    cdb: Cdb,
    kind: Kind,
    extent: Extent,
    fua: bool,
    /// Sectors done; other jobs count their steps.
    progress: u32,
    /// What is under way, in sectors.
    under_way: u32,
    attempts: u32,
}

impl Job {
    fn new(call: &Call<'_>, kind: Kind, extent: Extent) -> Self {
        Self {
            cdb: call.cdb,
            extent,
            ..Self::blank(kind)
        }
    }

    fn blank(kind: Kind) -> Self {
        Self {
            data_bytes: 0,
            named_bytes: 0,
            scratch_bytes: 0,
            in_background: false,
            cdb: Cdb::default(),
            kind,
            extent: Extent {
                sector: 0,
                sectors: 0,
            },
            fua: false,
            progress: 0,
            under_way: 0,
            attempts: 0,
        }
    }

    pub(super) fn parameters(length: u32, parameters: Parameters) -> Self {
        Self {
            data_bytes: length,
            ..Self::blank(Kind::Parameters(parameters))
        }
    }

    /// EXTENDED COPY with a parameter list of so many bytes.
    pub(super) fn copy(length: u32) -> Self {
        Self {
            data_bytes: length,
            scratch_bytes: copy::PIECE_BYTES,
            ..Self::blank(Kind::Copy(Box::default()))
        }
    }

    /// SANITIZE with a parameter list of so many bytes.
    pub(super) fn sanitize(length: u32) -> Self {
        Self {
            data_bytes: length,
            scratch_bytes: sanitize::PATTERN_BYTES,
            ..Self::blank(Kind::Sanitize)
        }
    }

    /// WRITE ATOMIC of a range that may be written so.
    pub(super) fn write_atomic(
        call: &Call<'_>,
        extent: Extent,
        fua: bool,
    ) -> Result<Plan, Outcome> {
        let mut job = Self::new(call, Kind::Once(Op::WriteAtomic), extent);
        job.fua = fua;
        job.data_bytes = extent.sectors * 512;
        job.plan()
    }

    fn plan(self) -> Result<Plan, Outcome> {
        Ok(Plan::Job(Box::new(self)))
    }

    /// A plan that is carried out only with as much data as the CDB names: an initiator that offers more means other blocks.
    fn exact_plan(self, offered: u32) -> Result<Plan, Outcome> {
        if offered > self.data_bytes {
            return Err(Sense::illegal(Code::INVALID_FIELD_IN_INFORMATION_UNIT).into());
        }
        self.plan()
    }

    /// Whether it writes to the medium what the initiator sent; for counters.
    pub fn writes(&self) -> bool {
        matches!(
            self.kind,
            Kind::CompareAndWrite
                | Kind::OrWrite
                | Kind::Once(Op::WriteAtomic)
                | Kind::WriteSame { .. }
                | Kind::Verify { writes: true, .. }
                | Kind::Short { .. }
        )
    }

    /// The units that it works on besides the one that it is for: what is aborted there ends it.
    pub fn others(&self) -> &[u16] {
        match &self.kind {
            Kind::Copy(copy) => copy.units(),
            _ => &[],
        }
    }

    /// What it is about to do, at first and whenever its steps have ended.
    pub fn step(&mut self, cdb: Cdb, work: &mut Work<'_>) -> Action {
        self.cdb = cdb;
        match self.kind {
            Kind::Sanitize => {
                return match Overwrite::begin(&cdb, work) {
                    Ok(overwrite) => Action::Leave(Box::new(overwrite)),
                    Err(outcome) => Action::End(outcome),
                };
            }
            Kind::Parameters(Parameters::PersistentReserveOut) => {
                return persistent::carry_out(&work.seat, cdb, work.data);
            }
            Kind::Parameters(Parameters::SetTargetPortGroups) => {
                return port_groups::carry_out(&work.seat, work.data);
            }
            _ => {}
        }
        match self.next(work) {
            Ok(steps) if steps.is_empty() => Action::End(Outcome::Good),
            Ok(steps) => Action::Submit(steps),
            Err(outcome) => Action::End(outcome),
        }
    }

    /// The next steps; none when the command has done what it was asked.
    fn next(&mut self, work: &mut Work<'_>) -> Result<Vec<Step>, Outcome> {
        if let Kind::Copy(copy) = &mut self.kind {
            return copy.next(work);
        }
        let first = self.progress == 0 && self.under_way == 0 && self.attempts == 0;
        let expected = matches!(
            self.kind,
            Kind::CompareAndWrite | Kind::OrWrite | Kind::Short { .. }
        );
        let is_fine = work.status.is_ok() || expected && work.status == Status::Miscompare;
        if !is_fine {
            let reads = matches!(self.kind, Kind::Verify { writes: false, .. });
            return Err(Outcome::of(work.status, reads));
        }
        match self.kind {
            Kind::Parameters(_) => {
                let call = work.seat.call(self.cdb);
                mode::selected(&call, &self.cdb, work.data)?;
                Ok(Vec::new())
            }
            Kind::Once(op) if first => {
                self.under_way = 1;
                let has_data = op == Op::WriteAtomic;
                let place = if has_data {
                    Place::Data(0)
                } else {
                    Place::Nothing
                };
                Ok(vec![self.whole(op, place)])
            }
            Kind::Unmap if first => {
                self.under_way = 1;
                unmap_steps(work)
            }
            Kind::Once(_) | Kind::Unmap | Kind::Copy(_) | Kind::Sanitize => Ok(Vec::new()),
            Kind::WriteSame { unmap, zeroes } => self.write_same(unmap, zeroes, work),
            Kind::CompareAndWrite => self.compare_and_write(first, work),
            Kind::Verify {
                writes,
                compares,
                block,
            } => self.verify(writes, compares, block, work),
            Kind::OrWrite => self.or_write(work),
            Kind::Short {
                block_sectors,
                tail_bytes,
                verify,
            } => self.short(block_sectors, tail_bytes, verify, work),
        }
    }

    /// One step over the whole range.
    fn whole(&self, op: Op, place: Place) -> Step {
        Step {
            lun: None,
            op,
            extent: self.extent,
            fua: self.fua,
            place,
        }
    }

    /// A step over a part of the range, from `progress`.
    fn part(&self, op: Op, offset: u32, sectors: u32, place: Place) -> Step {
        Step {
            lun: None,
            op,
            extent: Extent {
                sector: self.extent.sector + u64::from(offset),
                sectors,
            },
            fua: self.fua,
            place,
        }
    }

    fn write_same(
        &mut self,
        unmap: bool,
        zeroes: bool,
        work: &mut Work<'_>,
    ) -> Result<Vec<Step>, Outcome> {
        self.progress += std::mem::take(&mut self.under_way);
        if self.progress == self.extent.sectors {
            return Ok(Vec::new());
        }
        let geometry = work.seat.geometry;
        let is_zero = zeroes || work.data.iter().all(|&byte| byte == 0);
        // Blocks that read as zeroes are what was asked for, deallocated or not (SBC-3, 5.42, table 84).
        let op = if is_zero && unmap && geometry.discard && geometry.discard_zeroes {
            Some(Op::Discard)
        } else if is_zero && geometry.write_zeroes {
            Some(Op::WriteZeroes)
        } else {
            None
        };
        if let Some(op) = op {
            self.under_way = self.extent.sectors;
            let mut steps = Vec::new();
            let mut at = 0;
            while at < self.extent.sectors {
                let sectors = (self.extent.sectors - at).min(SECTORS_MAX);
                steps.push(self.part(op, at, sectors, Place::Nothing));
                at += sectors;
            }
            return Ok(steps);
        }
        if self.progress == 0 {
            fill(work.scratch, if zeroes { &[] } else { work.data });
        }
        let piece = (work.scratch.len() / 512) as u32;
        let mut steps = Vec::new();
        while steps.len() < PATTERN_WRITES {
            let at = self.progress + self.under_way;
            let sectors = (self.extent.sectors - at).min(piece);
            if sectors == 0 {
                break;
            }
            steps.push(self.part(Op::Write, at, sectors, Place::Scratch(0)));
            self.under_way += sectors;
        }
        Ok(steps)
    }

    /// COMPARE AND WRITE (SBC-3, 5.3): as one, by the mapper.
    fn compare_and_write(
        &mut self,
        first: bool,
        work: &mut Work<'_>,
    ) -> Result<Vec<Step>, Outcome> {
        let size = self.extent.sectors as usize * 512;
        if first {
            self.attempts = 1;
            work.scratch[..2 * size].copy_from_slice(&work.data[..2 * size]);
            return Ok(vec![self.whole(Op::CompareAndWrite, Place::Scratch(0))]);
        }
        if work.status == Status::Miscompare {
            let found = &work.scratch[2 * size..3 * size];
            let differs = found
                .iter()
                .zip(work.data)
                .position(|(found, wanted)| found != wanted);
            return Err(miscompare(differs.unwrap_or(0)));
        }
        Ok(Vec::new())
    }

    /// ORWRITE (SBC-3, 5.5): reads, and writes only if nobody else has written since; if somebody has, once more.
    fn or_write(&mut self, work: &mut Work<'_>) -> Result<Vec<Step>, Outcome> {
        let size = self.extent.sectors as usize * 512;
        if self.under_way == 2 {
            if work.status.is_ok() {
                return Ok(Vec::new());
            }
            self.under_way = 0;
        }
        if self.under_way == 0 {
            if self.attempts == ATTEMPTS {
                return Err(Sense::new(Key::AbortedCommand, Code::NONE).into());
            }
            self.attempts += 1;
            self.under_way = 1;
            let mut read = self.whole(Op::Read, Place::Scratch(0));
            read.fua = false;
            return Ok(vec![read]);
        }
        self.under_way = 2;
        let (old, rest) = work.scratch.split_at_mut(size);
        for ((new, &old), &data) in rest.iter_mut().zip(old.iter()).zip(work.data) {
            *new = old | data;
        }
        Ok(vec![self.whole(Op::CompareAndWrite, Place::Scratch(0))])
    }

    /// Whole blocks as they are; of the last one only the beginning, which must not undo what others write to the rest of it meanwhile.
    fn short(
        &mut self,
        block_sectors: u32,
        tail_bytes: usize,
        verify: Option<bool>,
        work: &mut Work<'_>,
    ) -> Result<Vec<Step>, Outcome> {
        if self.progress == 0 {
            self.progress = 1;
            if self.extent.sectors > 0 {
                return Ok(vec![self.whole(Op::Write, Place::Data(0))]);
            }
        }
        let size = block_sectors as usize * 512;
        let at = self.extent.sectors;
        let is_written = self.under_way == 2 && work.status.is_ok();
        if tail_bytes > 0 && !is_written {
            if self.under_way != 1 {
                if self.attempts == ATTEMPTS {
                    return Err(Sense::new(Key::AbortedCommand, Code::NONE).into());
                }
                self.attempts += 1;
                self.under_way = 1;
                let mut read = self.part(Op::Read, at, block_sectors, Place::Scratch(0));
                read.fua = false;
                return Ok(vec![read]);
            }
            self.under_way = 2;
            let (old, new) = work.scratch.split_at_mut(size);
            new[..size].copy_from_slice(old);
            let from = at as usize * 512;
            new[..tail_bytes].copy_from_slice(&work.data[from..from + tail_bytes]);
            let place = Place::Scratch(0);
            return Ok(vec![self.part(
                Op::CompareAndWrite,
                at,
                block_sectors,
                place,
            )]);
        }
        let Some(compares) = verify else {
            return Ok(Vec::new());
        };
        self.kind = Kind::Verify {
            writes: false,
            compares,
            block: false,
        };
        (self.progress, self.under_way) = (0, 0);
        self.verify(false, compares, false, work)
    }

    /// Reads the range piece by piece; compares it with what the initiator sent, or with that one block.
    fn verify(
        &mut self,
        writes: bool,
        compares: bool,
        block: bool,
        work: &mut Work<'_>,
    ) -> Result<Vec<Step>, Outcome> {
        if writes && self.attempts == 0 {
            self.attempts = 1;
            return Ok(vec![self.whole(Op::Write, Place::Data(0))]);
        }
        if self.under_way > 0 {
            let done = std::mem::take(&mut self.under_way);
            let read = &work.scratch[..done as usize * 512];
            let from = self.progress as usize * 512;
            if compares {
                let differs = if block {
                    let wanted = work.data.iter().cycle();
                    read.iter()
                        .zip(wanted)
                        .position(|(read, wanted)| read != wanted)
                } else {
                    let wanted = &work.data[from..from + read.len()];
                    read.iter()
                        .zip(wanted)
                        .position(|(read, wanted)| read != wanted)
                };
                if let Some(differs) = differs {
                    return Err(miscompare(from + differs));
                }
            }
            self.progress += done;
        }
        let sectors = (self.extent.sectors - self.progress).min((work.scratch.len() / 512) as u32);
        if sectors == 0 {
            return Ok(Vec::new());
        }
        self.under_way = sectors;
        let mut read = self.part(Op::Read, self.progress, sectors, Place::Scratch(0));
        read.fua = false;
        Ok(vec![read])
    }
}

/// Fills work memory with copies of a block, or with zeroes.
fn fill(scratch: &mut [u8], block: &[u8]) {
    if block.is_empty() {
        scratch.fill(0);
        return;
    }
    for piece in scratch.chunks_mut(block.len()) {
        piece.copy_from_slice(&block[..piece.len()]);
    }
}

/// A range that may be longer than a transfer.
fn long_range(call: &Call<'_>) -> Result<(u64, u32, Extent), Outcome> {
    let (lba, count) = call.cdb.range();
    let extent = call.extent(lba, count)?;
    Ok((lba, count, extent))
}

/// SYNCHRONIZE CACHE(10), SYNCHRONIZE CACHE(16) (SBC-3, 5.26): the whole cache is flushed, whatever the range.
pub(super) fn synchronize_cache(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    long_range(call)?;
    let whole = Extent {
        sector: 0,
        sectors: 0,
    };
    let mut job = Job::new(call, Kind::Once(Op::Flush), whole);
    job.in_background = call.cdb.bit(1, 1);
    job.plan()
}

/// UNMAP (SBC-3, 5.28).
pub(super) fn unmap(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    if !call.geometry.discard {
        return Err(Sense::illegal(Code::INVALID_OPCODE).into());
    }
    // Nothing can be anchored.
    if call.cdb.bit(1, 0) {
        return Err(Sense::invalid_field(1, Some(0)).into());
    }
    let length = u32::from(call.cdb.u16(7));
    if length == 0 {
        return Ok(Plan::End(Outcome::Good));
    }
    if length < 8 {
        return Err(Sense::illegal(Code::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    let none = Extent {
        sector: 0,
        sectors: 0,
    };
    let mut job = Job::new(call, Kind::Unmap, none);
    job.data_bytes = length;
    job.plan()
}

/// The ranges of an UNMAP parameter list (SBC-3, 5.28.2): all of them hold, or none is unmapped.
fn unmap_steps(work: &Work<'_>) -> Result<Vec<Step>, Outcome> {
    let geometry = &work.seat.geometry;
    let limits = Limits::of(geometry);
    let list = work.data;
    if list.len() < 8 {
        return Err(Sense::illegal(Code::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    let size = usize::from(u16::from_be_bytes([list[2], list[3]]));
    // Descriptors that are cut off are ignored, as is what follows the length.
    let descriptors = &list[8..];
    let descriptors = &descriptors[..size.min(descriptors.len())];
    let mut steps = Vec::new();
    let mut blocks = 0u64;
    for (index, descriptor) in descriptors.chunks_exact(16).enumerate() {
        if index as u32 == limits.unmap_descriptors {
            return Err(Sense::invalid_parameter(2).into());
        }
        let eight: [u8; 8] = std::array::from_fn(|at| descriptor[at]);
        let four: [u8; 4] = std::array::from_fn(|at| descriptor[8 + at]);
        let count = u32::from_be_bytes(four);
        blocks += u64::from(count);
        if blocks > u64::from(limits.unmap_blocks) {
            return Err(Sense::invalid_parameter((8 + index * 16) as u16).into());
        }
        let extent = serve::extent(geometry, u64::from_be_bytes(eight), count)?;
        let mut at = 0;
        while at < extent.sectors {
            let sectors = (extent.sectors - at).min(SECTORS_MAX);
            steps.push(Step {
                lun: None,
                op: Op::Discard,
                extent: Extent {
                    sector: extent.sector + u64::from(at),
                    sectors,
                },
                fua: false,
                place: Place::Nothing,
            });
            at += sectors;
        }
    }
    Ok(steps)
}

/// WRITE SAME(10), WRITE SAME(16) (SBC-3, 5.42, 5.43).
pub(super) fn write_same(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let cdb = call.cdb;
    block::check_protect(&cdb)?;
    let (anchor, unmap) = (cdb.bit(1, 4), cdb.bit(1, 3));
    let no_data = cdb.opcode() == op::WRITE_SAME_16 && cdb.bit(1, 0);
    // ANC_SUP is 0: blocks cannot be anchored. Nor can they be unmapped where a device cannot.
    if anchor {
        return Err(Sense::invalid_field(1, Some(4)).into());
    }
    if unmap && !call.geometry.discard {
        return Err(Sense::invalid_field(1, Some(3)).into());
    }
    let at = if cdb.opcode() == op::WRITE_SAME_16 {
        10
    } else {
        7
    };
    let (_, count) = cdb.range();
    // WSNZ is 1.
    if count == 0 {
        return Err(Sense::invalid_field(at, None).into());
    }
    let extent = long_range(call)?.2;
    if count > Limits::of(&call.geometry).write_same_blocks {
        return Err(Sense::invalid_field(at, None).into());
    }
    let kind = Kind::WriteSame {
        unmap,
        zeroes: no_data,
    };
    let mut job = Job::new(call, kind, extent);
    job.fua = call.unit.lock().modes.write_cache_off;
    job.data_bytes = if no_data {
        0
    } else {
        call.geometry.block_bytes
    };
    job.scratch_bytes = PATTERN_BYTES.min(extent.sectors.saturating_mul(512));
    job.exact_plan(call.offered)
}

/// COMPARE AND WRITE (SBC-3, 5.3).
pub(super) fn compare_and_write(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let cdb = call.cdb;
    block::check_protect(&cdb)?;
    let count = u32::from(cdb.byte(13));
    let extent = call.extent(cdb.u64(2), count)?;
    if count > Limits::of(&call.geometry).compare_and_write_blocks {
        return Err(Sense::invalid_field(13, None).into());
    }
    if count == 0 {
        // The field has a byte. An initiator that sends data with a count of none means 256 blocks, and must not be told that they
        // were compared.
        if call.offered > 0 {
            return Err(Sense::invalid_field(13, None).into());
        }
        return Ok(Plan::End(Outcome::Good));
    }
    let mut job = Job::new(call, Kind::CompareAndWrite, extent);
    job.fua = is_through(call);
    job.data_bytes = 2 * extent.sectors * 512;
    job.scratch_bytes = 3 * extent.sectors * 512;
    job.exact_plan(call.offered)
}

/// ORWRITE(16) (SBC-3, 5.5).
pub(super) fn or_write(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let (_, count, extent) = range(call)?;
    if count == 0 {
        return Ok(Plan::End(Outcome::Good));
    }
    // It is carried out by compare-and-write, whose three parts have to fit the work memory.
    if extent.sectors > serve::TRANSFER_BYTES_MAX / 3 / 512 {
        return Err(Sense::invalid_field(10, None).into());
    }
    let mut job = Job::new(call, Kind::OrWrite, extent);
    job.fua = is_through(call);
    job.data_bytes = extent.sectors * 512;
    job.scratch_bytes = 3 * extent.sectors * 512;
    job.plan()
}

/// VERIFY(10), VERIFY(12), VERIFY(16) (SBC-3, 5.29).
pub(super) fn verify(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let cdb = call.cdb;
    block::check_protect(&cdb)?;
    let check = cdb.byte(1) >> 1 & 3;
    let (_, count, extent) = match check {
        0 | 3 => long_range(call)?,
        1 => range(call)?,
        _ => return Err(Sense::invalid_field(1, Some(2)).into()),
    };
    if count == 0 {
        return Ok(Plan::End(Outcome::Good));
    }
    let kind = Kind::Verify {
        writes: false,
        compares: check != 0,
        block: check == 3,
    };
    let mut job = Job::new(call, kind, extent);
    job.data_bytes = match check {
        0 => 0,
        1 => extent.sectors * 512,
        _ => call.geometry.block_bytes,
    };
    job.scratch_bytes = VERIFY_BYTES.min(extent.sectors.saturating_mul(512));
    job.plan()
}

/// WRITE AND VERIFY(10), WRITE AND VERIFY(12), WRITE AND VERIFY(16) (SBC-3, 5.35).
pub(super) fn write_and_verify(call: &mut Call<'_>) -> Result<Plan, Outcome> {
    let check = call.cdb.byte(1) >> 1 & 3;
    if check > 1 {
        return Err(Sense::invalid_field(1, Some(2)).into());
    }
    let (_, count, extent) = range(call)?;
    if count == 0 {
        return Ok(Plan::End(Outcome::Good));
    }
    if call.offered < extent.sectors * 512 {
        return short_write(call, extent, true, Some(check == 1));
    }
    let kind = Kind::Verify {
        writes: true,
        compares: check == 1,
        block: false,
    };
    let mut job = Job::new(call, kind, extent);
    // What is verified is the medium.
    job.fua = true;
    job.data_bytes = extent.sectors * 512;
    job.scratch_bytes = VERIFY_BYTES.min(extent.sectors * 512);
    job.plan()
}

/// A WRITE, or WRITE AND VERIFY, for which the initiator offers less data than it names: what it offers is written, and nothing else.
pub(super) fn short_write(
    call: &Call<'_>,
    extent: Extent,
    fua: bool,
    verify: Option<bool>,
) -> Result<Plan, Outcome> {
    let block_sectors = call.geometry.block_bytes / 512;
    let whole = call.offered / call.geometry.block_bytes * block_sectors;
    let kind = Kind::Short {
        block_sectors,
        tail_bytes: (call.offered % call.geometry.block_bytes) as usize,
        verify,
    };
    let mut job = Job::new(
        call,
        kind,
        Extent {
            sector: extent.sector,
            sectors: whole,
        },
    );
    job.fua = fua;
    job.data_bytes = call.offered;
    job.named_bytes = extent.sectors * 512;
    let compare_and_write = 3 * call.geometry.block_bytes;
    job.scratch_bytes = VERIFY_BYTES.min(whole * 512).max(compare_and_write);
    job.plan()
}
