//! SCSI commands: from their header to their outcome (RFC 7143, 11.3, 11.4).

use super::command::{Memory, Phase, Standing, Work};
use super::guide::Guide;
use super::line::NOT_SIMPLE;
use super::receive::Segment;
use super::session::{Context, READ_BYTES_MAX, Session};
use crate::dm::{Op, Status};
use crate::export::backend::{Backend, Lend, Request};
use crate::export::stats::Kind;
use crate::iscsi::pdu::{Header, NO_TAG, READS, WRITES};
use crate::iscsi::text::Parameters;
use crate::scsi::cdb::opcode;
use crate::scsi::sense::{Code, Key};
use crate::scsi::{self, Action, Cdb, Extent, Lun, Outcome, Place, Plan, Seat, Sense, Step, View};

/// What a job does on end while its device has everything done at once: a few hundred kilobytes each, so less than a millisecond in all.
const ACTIONS_PER_TURN: usize = 8;

impl<L: Lend> Session<L> {
    /// A SCSI command that has a slot. `segment` is its immediate data; `None` when that comes piece by piece.
    #[inline]
    pub(super) fn command<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        segment: Option<&Segment<'_>>,
        cx: &mut Context<'_, B>,
    ) {
        let header = self.slots.get(index).header;
        let size = header.data_bytes() as u32;
        // The one comparison for what is SIMPLE, while nothing is ORDERED and no task set at fault.
        let is_special = u32::from(header.flags() & NOT_SIMPLE) | self.line.barriers != 0;
        if is_special && let Some(outcome) = self.turns_away(index) {
            self.fail(index, outcome, cx);
            return;
        }
        if let Some(sense) = check(&header, size, &self.parameters) {
            self.fail(index, sense.into(), cx);
            return;
        }
        if is_special && self.line_up(index, segment, cx) {
            return;
        }
        self.begin::<false, B>(index, segment, cx);
    }

    /// A command whose turn it is.
    #[inline]
    pub(super) fn begin<const ORDERED: bool, B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        segment: Option<&Segment<'_>>,
        cx: &mut Context<'_, B>,
    ) {
        let header = self.slots.get(index).header;
        let plan = self.plan(index, cx);
        let (reads, writes) = (header.flags() & READS != 0, header.flags() & WRITES != 0);
        let length = header.u32(20);
        let slot = self.slots.get_mut(index);
        let (wanted, work) = match plan {
            Plan::End(outcome) => {
                slot.outcome = outcome;
                self.answer(index, cx);
                return;
            }
            Plan::Answer(data) => {
                slot.wanted = data.len() as u32;
                slot.data_in = if reads { slot.wanted.min(length) } else { 0 };
                slot.memory = Memory::Page(data);
                self.answer(index, cx);
                return;
            }
            Plan::Read(extent) => {
                slot.wanted = extent.sectors * 512;
                slot.data_in = if reads { slot.wanted.min(length) } else { 0 };
                if slot.data_in == 0 {
                    self.answer(index, cx);
                    return;
                }
                slot.work = Work::Read(extent);
                if ORDERED {
                    self.fence(index, cx);
                }
                self.execute(index, cx);
                return;
            }
            Plan::Write { extent, fua } => (extent.sectors * 512, Work::Write(extent, fua)),
            Plan::Job(job) => (job.data_bytes, Work::Job(job)),
        };
        slot.wanted = match &work {
            Work::Job(job) => wanted.max(job.named_bytes),
            _ => wanted,
        };
        slot.work = work;
        if ORDERED {
            self.fence(index, cx);
        }
        let slot = self.slots.get_mut(index);
        if wanted == 0 {
            self.execute(index, cx);
            return;
        }
        if !writes || length < wanted {
            // Less than the command needs: nothing of it is carried out (SPC-4, INVALID FIELD IN COMMAND INFORMATION UNIT).
            let sense = Sense::illegal(Code::INVALID_FIELD_IN_INFORMATION_UNIT);
            slot.outcome = sense.into();
            self.answer(index, cx);
            return;
        }
        slot.data_out = wanted;
        self.gather(index, segment, cx);
    }

    /// Checks and plans a command.
    #[inline]
    pub(super) fn plan<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        cx: &mut Context<'_, B>,
    ) -> Plan {
        let header = &self.slots.get(index).header;
        let member = self.member.as_ref();
        let cdb = Cdb(std::array::from_fn(|at| header.0[32 + at]));
        let Some((guide, nexus, port)) = Guide::of(member, &cx.local.units) else {
            return Plan::End(Outcome::Busy);
        };
        let lun = match Lun::decode(header.lun()) {
            Lun::Unit(lun) => lun,
            other => return scsi::serve_nothing(&guide, other == Lun::ReportLuns, cdb),
        };
        let Some(local) = guide.local(lun) else {
            return scsi::serve_nothing(&guide, false, cdb);
        };
        let Some(geometry) = local.geometry else {
            return Plan::End(not_ready());
        };
        let seat = Seat {
            unit: &local.unit,
            nexus,
            port: &port.port,
            geometry,
            access: port.access,
            offered: offered(header),
            directory: &guide,
        };
        if self.views.len() <= usize::from(lun) {
            self.views.resize(usize::from(lun) + 1, View::default());
        }
        scsi::serve(&seat, &mut self.views[usize::from(lun)], cdb)
    }

    /// A command needs data from the initiator: takes what came with it, and asks for the rest when what may come unasked is here.
    fn gather<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        segment: Option<&Segment<'_>>,
        cx: &mut Context<'_, B>,
    ) {
        let slot = self.slots.get_mut(index);
        let (size, is_final) = (slot.header.data_bytes() as u32, slot.header.is_final());
        let length = slot.header.u32(20);
        let data_out = slot.data_out;
        slot.transfer_tag = NO_TAG;
        slot.burst_end = if is_final {
            size
        } else {
            length.min(self.parameters.first_burst_bytes)
        };
        let Some(segment) = segment else {
            // It is received into its memory.
            self.take_memory(index, cx);
            self.slots.get_mut(index).phase = Phase::AwaitsData;
            return;
        };
        slot.received = size;
        if is_final && size >= data_out {
            slot.memory = segment.memory();
            self.execute(index, cx);
            return;
        }
        if is_final && size == 0 {
            self.await_buffer(index);
            self.serve_waiting(cx);
            return;
        }
        self.take_memory(index, cx);
        let slot = self.slots.get_mut(index);
        slot.put(segment.bytes);
        // When all that may come unasked for is here, nothing more of it does.
        if is_final || size >= slot.burst_end && size < data_out {
            self.ask_for_rest(index, cx);
        } else {
            slot.phase = Phase::AwaitsData;
        }
    }

    /// A data segment has arrived as a whole.
    pub(super) fn data_arrived<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        size: u32,
        is_final: bool,
        cx: &mut Context<'_, B>,
    ) {
        let slot = self.slots.get_mut(index);
        // Immediate data has no DataSN.
        if slot.received > 0 || slot.transfer_tag != NO_TAG || slot.header.data_bytes() == 0 {
            slot.data_sn = slot.data_sn.wrapping_add(1);
        }
        slot.received += size;
        let is_solicited = slot.transfer_tag != NO_TAG;
        let complete = slot.received == slot.burst_end;
        if is_final && is_solicited && !complete {
            let sense = Sense::new(Key::AbortedCommand, Code::INCORRECT_AMOUNT_OF_DATA);
            self.fail(index, sense.into(), cx);
            return;
        }
        if !is_final && !complete {
            return;
        }
        match slot.standing {
            Standing::InLine => slot.phase = Phase::InLine,
            Standing::Blocked => slot.phase = Phase::Blocked,
            _ => self.go_on(index, cx),
        }
    }

    /// A command whose data has come, or as much of it as was asked for.
    pub(super) fn go_on<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        let slot = self.slots.get(index);
        if slot.received >= slot.data_out {
            self.execute(index, cx);
        } else {
            self.ask_for_rest(index, cx);
        }
    }

    /// Asks for more of a command's data, once there is a buffer for all of it.
    fn ask_for_rest<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        if matches!(self.slots.get(index).memory, Memory::Page(_)) {
            self.await_buffer(index);
            self.serve_waiting(cx);
        } else {
            self.ask(index);
        }
    }

    /// Asks for the next bursts of a command's data, for which there is a buffer, and awaits the first of those that have been asked for.
    /// All but the last are of one length, so what is outstanding says which R2T is answered now.
    pub(super) fn ask(&mut self, index: u16) {
        let burst_bytes = self.parameters.burst_bytes;
        let outstanding_max = self.parameters.outstanding_ready;
        let slot = self.slots.get_mut(index);
        if slot.transfer_tag == NO_TAG {
            slot.asked_end = slot.received;
        }
        let mut outstanding = (slot.asked_end - slot.received).div_ceil(burst_bytes);
        while self.slots.get(index).asked_end < self.slots.get(index).data_out {
            // More than one only while there is room: what waits for some is bounded by one R2T of each command.
            if outstanding == outstanding_max || outstanding > 0 && !self.control.is_empty() {
                break;
            }
            self.put_ready(index, burst_bytes);
            outstanding += 1;
        }
        let slot = self.slots.get_mut(index);
        let answered_now = slot.transfers.wrapping_sub(outstanding as u16 - 1);
        slot.phase = Phase::AwaitsData;
        slot.transfer_tag = transfer_tag(index, answered_now);
        slot.data_sn = 0;
        slot.burst_end = slot.asked_end.min(slot.received + burst_bytes);
    }

    /// Carries out a command whose data, if any, is there.
    #[inline]
    pub(super) fn execute<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        if !self.execute_with_memory(index, cx) {
            self.await_buffer(index);
        }
    }

    /// False when it lacks memory to work with.
    #[inline]
    pub(super) fn execute_with_memory<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        cx: &mut Context<'_, B>,
    ) -> bool {
        match &self.slots.get(index).work {
            Work::Read(extent) => {
                let extent = *extent;
                let size = extent.sectors * 512;
                // Whatever its size: a large one would wait for ever behind small ones.
                if self.read_bytes > READ_BYTES_MAX {
                    return false;
                }
                // What a device lends can change until it is sent, a copy cannot.
                let is_copied = self.parameters.data_digest;
                if is_copied && !self.take_buffer(index, size as usize, cx) {
                    return false;
                }
                self.slots.get_mut(index).read_bytes = size;
                self.read_bytes += u64::from(size);
                if is_copied {
                    self.start(index);
                    self.submit_one(index, Op::Read, extent, false, cx);
                } else {
                    self.start(index);
                    self.submit_read(index, extent, cx);
                }
            }
            Work::Write(extent, fua) => {
                let (extent, fua) = (*extent, *fua);
                self.unpin(index, cx);
                self.start(index);
                self.submit_one(index, Op::Write, extent, fua, cx);
            }
            Work::Job(job) => {
                let (scratch, in_background) = (job.scratch_bytes as usize, job.in_background);
                if scratch > 0 && self.slots.get(index).scratch.is_none() {
                    let Some(buffer) = self.pool_buffer(index, scratch, cx) else {
                        return false;
                    };
                    self.slots.get_mut(index).scratch = Some(buffer);
                }
                self.start(index);
                if in_background {
                    self.answer_early(index);
                }
                self.run_job(index, cx);
            }
            Work::Behind(_) => self.submit_fence(index, cx),
            Work::None | Work::Left(_) => self.answer(index, cx),
        }
        true
    }

    /// A command goes to its device.
    #[inline]
    pub(super) fn start(&mut self, index: u16) {
        self.running += 1;
        let slot = self.slots.get_mut(index);
        slot.phase = Phase::Running;
        slot.counted = true;
        slot.pending = 1;
        if matches!(slot.memory, Memory::Chunk(..)) {
            self.pinned += 1;
        }
    }

    /// A command is back from its device, but not done.
    pub(super) fn unstart(&mut self, index: u16) {
        self.running -= 1;
        if matches!(self.slots.get(index).memory, Memory::Chunk(..)) {
            self.pinned -= 1;
        }
    }

    /// An I/O to a unit; `None` when that is gone or has become too small for it.
    #[inline]
    fn request<B>(
        &self,
        index: u16,
        lun: u16,
        op: Op,
        extent: Extent,
        fua: bool,
        cx: &Context<'_, B>,
    ) -> Option<Request> {
        let unit = cx.local.units.get(self.target()?, lun)?;
        let end = extent.sector + u64::from(extent.sectors);
        if unit.geometry.is_none_or(|geometry| end > geometry.sectors) {
            return None;
        }
        Some(Request {
            device: unit.device,
            command: self.tag(index),
            op,
            fua,
            sector: extent.sector,
            sectors: extent.sectors,
        })
    }

    #[inline]
    fn submit_read<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        extent: Extent,
        cx: &mut Context<'_, B>,
    ) {
        let lun = self.slots.get(index).lun;
        let Some(request) = self.request(index, lun, Op::Read, extent, false, cx) else {
            self.completed(index, Status::IoError, cx);
            return;
        };
        let lend = &raw mut self.slots.get_mut(index).lend;
        // SAFETY: slots lie in a boxed slice that lives as long as anything is pending in it, and `lend` is left alone meanwhile.
        if let Some(status) = unsafe { cx.backend.submit_read(&request, lend) } {
            self.completed(index, status, cx);
        }
    }

    /// The one I/O of a read or write, with the slot's own memory.
    #[inline]
    fn submit_one<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        op: Op,
        extent: Extent,
        fua: bool,
        cx: &mut Context<'_, B>,
    ) {
        let lun = self.slots.get(index).lun;
        let Some(request) = self.request(index, lun, op, extent, fua, cx) else {
            self.completed(index, Status::IoError, cx);
            return;
        };
        let bytes = self.slots.get(index).pointer();
        // SAFETY: the slot holds its chunk or buffer until the command is concluded, and it is as long as the extent: `gather` and
        // `execute_with_memory` saw to that.
        if let Some(status) = unsafe { cx.backend.submit(&request, bytes) } {
            self.completed(index, status, cx);
        }
    }

    /// Steps of a job, until one of them has to be waited for or others have to have their turn. One count of `pending` is held while they
    /// are submitted.
    fn run_job<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        for _ in 0..ACTIONS_PER_TURN {
            let is_over = self.slots.get(index).standing.is_over();
            let action = if self.is_dead() || is_over {
                // Nobody waits for the rest.
                Action::End(Outcome::Good)
            } else {
                self.step_job(index, cx)
            };
            let steps = match action {
                Action::Submit(steps) => steps,
                Action::End(outcome) => {
                    self.slots.get_mut(index).outcome = outcome;
                    self.conclude(index, cx);
                    return;
                }
                Action::Preempt(ended) => {
                    self.slots.get_mut(index).pending = 1;
                    self.kept(index, Ok(ended), cx);
                    return;
                }
                Action::Leave(overwrite) => {
                    self.leave_behind(index, overwrite, cx);
                    return;
                }
                Action::SetAccess(states) => {
                    self.set_access(index, &states, cx);
                    return;
                }
                Action::Keep(request) => {
                    self.keep(index, *request, cx);
                    return;
                }
            };
            self.slots.get_mut(index).pending = steps.len() as u32 + 1;
            for step in &steps {
                let status = self.submit_step(index, step, cx);
                if let Some(status) = status {
                    let slot = self.slots.get_mut(index);
                    slot.note(status);
                    slot.pending -= 1;
                }
            }
            let slot = self.slots.get_mut(index);
            slot.pending -= 1;
            if slot.pending > 0 {
                return;
            }
        }
        self.yielded.push_back(index);
    }

    /// Goes on with the job that has let others have their turn longest; false when there is none.
    pub(super) fn run_yielded<B: Backend<Lend = L>>(&mut self, cx: &mut Context<'_, B>) -> bool {
        let next = self.yielded.pop_front();
        if let Some(index) = next {
            self.run_job(index, cx);
        }
        next.is_some()
    }

    pub(super) fn submit_step<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        step: &Step,
        cx: &mut Context<'_, B>,
    ) -> Option<Status> {
        let lun = step.lun.unwrap_or(self.slots.get(index).lun);
        let Some(request) = self.request(index, lun, step.op, step.extent, step.fua, cx) else {
            return Some(Status::IoError);
        };
        let slot = self.slots.get(index);
        let size = request.sectors as usize * 512;
        let bytes = match step.place {
            Place::Nothing => std::ptr::null_mut(),
            Place::Data(at) => {
                assert!(
                    at + size <= slot.data_out as usize,
                    "a job's data ends there"
                );
                slot.pointer().wrapping_add(at)
            }
            Place::Scratch(at) => {
                let scratch = slot.scratch.as_ref()?;
                let times = if step.op == Op::CompareAndWrite { 3 } else { 1 };
                assert!(
                    at + times * size <= scratch.capacity(),
                    "work memory ends there"
                );
                scratch.as_mut_ptr().wrapping_add(at)
            }
        };
        // SAFETY: data and work memory are the slot's until the command is concluded, and as long as the step needs: asserted above.
        unsafe { cx.backend.submit(&request, bytes) }
    }

    /// Asks a job what is next.
    fn step_job<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) -> Action {
        let Self { slots, member, .. } = self;
        let Some((guide, nexus, port)) = Guide::of(member.as_ref(), &cx.local.units) else {
            return Action::End(Outcome::Busy);
        };
        let slot = slots.get_mut(index);
        let Some(local) = guide.local(slot.lun) else {
            return Action::End(not_there());
        };
        let Some(geometry) = local.geometry else {
            return Action::End(not_ready());
        };
        let Work::Job(mut job) = std::mem::take(&mut slot.work) else {
            return Action::End(Outcome::Good);
        };
        let cdb = Cdb(std::array::from_fn(|at| slot.header.0[32 + at]));
        let mut scratch = slot.scratch.take();
        let size = job.scratch_bytes as usize;
        let mut work = scsi::Work {
            seat: Seat {
                unit: &local.unit,
                nexus,
                port: &port.port,
                geometry,
                access: port.access,
                offered: offered(&slot.header),
                directory: &guide,
            },
            data: slot.bytes(slot.data_out as usize),
            scratch: scratch
                .as_mut()
                .map_or(&mut [], |scratch| &mut scratch[..size]),
            status: slot.status,
        };
        let action = job.step(cdb, &mut work);
        slot.status = Status::Ok;
        slot.scratch = scratch;
        slot.work = Work::Job(job);
        action
    }

    /// A device has finished an I/O of a command.
    #[inline]
    pub fn completed<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        status: Status,
        cx: &mut Context<'_, B>,
    ) {
        let slot = self.slots.get_mut(index);
        debug_assert!(slot.pending > 0);
        slot.note(status);
        slot.pending -= 1;
        if slot.pending > 0 {
            return;
        }
        match slot.work {
            Work::Job(_) => self.run_job(index, cx),
            Work::Behind(_) => {
                let work = std::mem::take(&mut self.slots.get_mut(index).work);
                if let Work::Behind(work) = work {
                    self.fence_ended(index, *work, cx);
                }
            }
            _ => {
                let reads = matches!(slot.work, Work::Read(_));
                slot.outcome = Outcome::of(slot.status, reads);
                self.conclude(index, cx);
            }
        }
    }

    /// A command is back from its device.
    #[inline]
    pub(super) fn conclude<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        self.running -= 1;
        let slot = self.slots.get_mut(index);
        // Nothing of it is at a device any more.
        slot.mourners.clear();
        if matches!(slot.memory, Memory::Chunk(..)) {
            self.pinned -= 1;
        }
        let is_apart = slot.standing != Standing::Plain || slot.phase == Phase::Background;
        if is_apart || self.is_silent() {
            self.conclude_apart(index, cx);
            return;
        }
        self.count(index, cx);
        self.answer(index, cx);
    }

    /// A command is back from its device, and is not answered, or not now.
    #[cold]
    fn conclude_apart<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        let slot = self.slots.get(index);
        if slot.standing == Standing::Blocked && !self.is_silent() {
            // A read is counted when it is answered.
            if !matches!(slot.work, Work::Read(_)) {
                self.count(index, cx);
            }
            self.withhold(index, cx);
            return;
        }
        let is_told = slot.standing == Standing::Cancelled && !self.is_silent();
        if is_told {
            self.slots.get_mut(index).outcome = Outcome::TaskAborted;
        }
        self.count(index, cx);
        if is_told {
            self.answer(index, cx);
        } else {
            self.discard(index, cx);
        }
    }

    /// Counts a command that is back.
    #[inline]
    fn count<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        let Some(target) = self.target() else { return };
        let slot = self.slots.get(index);
        let Some(unit) = cx.local.units.get_mut(target, slot.lun) else {
            return;
        };
        let kind = match &slot.work {
            Work::Read(_) => Kind::Read,
            Work::Write(..) => Kind::Write,
            Work::Job(job) if job.writes() => Kind::Write,
            _ => match slot.header.0[32] {
                opcode::UNMAP => Kind::Discard,
                opcode::SYNCHRONIZE_CACHE_10 | opcode::SYNCHRONIZE_CACHE_16 => Kind::Flush,
                _ => Kind::Read,
            },
        };
        let latency = cx.backend.now_ns().saturating_sub(slot.started_ns);
        let is_good = slot.outcome.is_good();
        for stats in [&mut unit.stats, &mut self.stats] {
            stats.record(kind, is_good, slot.wanted / 512, latency);
        }
    }

    /// A command ends with an error before it has gone to its device.
    pub(super) fn fail<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        outcome: Outcome,
        cx: &mut Context<'_, B>,
    ) {
        let slot = self.slots.get_mut(index);
        slot.outcome = outcome;
        if slot.standing == Standing::Blocked {
            slot.work = Work::None;
            self.withhold(index, cx);
            return;
        }
        self.answer(index, cx);
    }

    /// A command has its outcome: the answer takes its turn.
    #[inline]
    pub(super) fn answer<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        let slot = self.slots.get_mut(index);
        if slot.phase == Phase::AwaitsData {
            self.receive.forget(index);
        }
        let slot = self.slots.get_mut(index);
        slot.phase = Phase::Answering;
        if !slot.outcome.is_good() {
            self.answer_failed(index, cx);
            return;
        }
        self.queue(index, cx);
    }

    /// The same for a command that has failed.
    #[cold]
    fn answer_failed<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        let slot = self.slots.get_mut(index);
        slot.data_in = 0;
        let is_check = matches!(slot.outcome, Outcome::Check(_));
        self.queue(index, cx);
        if is_check {
            self.checked(index, cx);
        }
    }

    /// The answer takes its turn to be queued.
    #[inline]
    fn queue<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        let slot = self.slots.get_mut(index);
        if slot.data_in == 0 {
            // Data that came with the command is not needed any more; a buffer may serve the next one.
            self.buffer_bytes -= slot.release_memory(&mut cx.local.chunks);
            slot.lend.release();
        }
        self.answers.push_back(index);
        self.pump();
    }

    /// Aborts the I/O of a command, if it is parked; otherwise it ends by itself.
    pub(super) fn abort_io<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        let Some(target) = self.target() else { return };
        if matches!(self.slots.get(index).work, Work::Left(_)) {
            // What it waits for goes on, and its end is no longer this command's.
            self.slots.get_mut(index).work = Work::None;
            self.conclude(index, cx);
            return;
        }
        let slot = self.slots.get(index);
        for lun in std::iter::once(&slot.lun).chain(slot.work.others()) {
            if let Some(unit) = cx.local.units.get(target, *lun) {
                cx.backend.abort(unit.device, self.tag(index));
            }
        }
    }
}

/// The tag of an R2T of a slot; never [`NO_TAG`], as no slot has that number.
pub(super) fn transfer_tag(index: u16, number: u16) -> u32 {
    u32::from(number) << 16 | u32::from(index)
}

/// Bytes that the initiator means to send.
#[inline]
fn offered(header: &Header) -> u32 {
    if header.flags() & WRITES != 0 {
        header.u32(20)
    } else {
        0
    }
}

/// What is wrong with any command of this form.
#[inline]
fn check(header: &Header, size: u32, parameters: &Parameters) -> Option<Sense> {
    let flags = header.flags();
    if header.0[4] != 0 || flags & (READS | WRITES) == READS | WRITES {
        // CDBs of more than 16 bytes, and commands that move data both ways: there are none.
        return Some(Sense::illegal(Code::INVALID_OPCODE));
    }
    let aborted = |code| Some(Sense::new(Key::AbortedCommand, code));
    // RFC 7143, 13.10, 13.11, 13.14.
    if size > 0 && !parameters.immediate_data || !header.is_final() && parameters.initial_ready {
        return aborted(Code::UNEXPECTED_UNSOLICITED_DATA);
    }
    if size > header.u32(20) || size > parameters.first_burst_bytes {
        return aborted(Code::INCORRECT_AMOUNT_OF_DATA);
    }
    None
}

/// The unit is not there any more, or no longer for this initiator.
pub(super) fn not_there() -> Outcome {
    Sense::illegal(Code::LOGICAL_UNIT_NOT_SUPPORTED).into()
}

/// The device beneath a unit has no table.
fn not_ready() -> Outcome {
    Sense::new(Key::NotReady, Code::NOT_READY_CAUSE_NOT_REPORTABLE).into()
}
