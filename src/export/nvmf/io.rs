//! I/O commands of the NVM command set (NVM Command Set 1.0, 3; Flush: NVMe Base 2.0, 7.1).

use super::command::{Memory, Phase, Slot};
use super::config::NAMESPACES_MAX;
use super::namespace::LocalNamespace;
use super::queue::Plan;
use super::session::{Context, READ_BYTES_MAX, Session, TRANSFER_BYTES_MAX};
use crate::dm::{self, DeviceId, Op};
use crate::export::backend::{Backend, Lend, Request};
use crate::export::stats::Kind;
use crate::nvme::command::DatasetRange;
use crate::nvme::opcode::io;
use crate::nvme::{NSID_ALL, Status};

/// Largest fused Compare and Write (ACWU, NACWU): three times this fits a pool buffer with room to spare.
pub const COMPARE_AND_WRITE_BYTES_MAX: u32 = 64 * 1024;

const _: () = assert!(3 * COMPARE_AND_WRITE_BYTES_MAX as usize <= crate::reactor::BUFFER_BYTES_MAX);

/// Sectors of one I/O without data (discard, write zeroes): 512 GiB, a multiple of any block size. Longer ranges are cut.
const SECTORS_MAX: u32 = 1 << 30;

/// Writes of a connection whose data stays in its receive chunk while a device works on them. Each may pin a chunk of 128 KiB, so
/// further ones are copied to buffers of their own.
const PINNED_MAX: usize = 32;

/// Zeroes to write where a device cannot write zeroes itself.
#[repr(align(4096))]
struct Zeroes([u8; ZEROES_BYTES]);
const ZEROES_BYTES: usize = 64 * 1024;
static ZEROES: Zeroes = Zeroes([0; ZEROES_BYTES]);

/// What a host is told of how a device ended an I/O (dm-semantics, section 0; MP-13 the other way round).
pub fn status_of(status: dm::Status, code: u8) -> Status {
    match status {
        dm::Status::Ok => Status::SUCCESS,
        dm::Status::NotSupported => Status::INVALID_OPCODE.do_not_retry(),
        dm::Status::NoSpace => Status::CAPACITY_EXCEEDED.do_not_retry(),
        dm::Status::Transport => Status::INTERNAL_PATH_ERROR,
        dm::Status::Target => Status::INTERNAL_ERROR.do_not_retry(),
        dm::Status::ReservationConflict => Status::RESERVATION_CONFLICT.do_not_retry(),
        dm::Status::Medium if matches!(code, io::READ | io::COMPARE | io::VERIFY) => {
            Status::UNRECOVERED_READ_ERROR.do_not_retry()
        }
        dm::Status::Medium => Status::WRITE_FAULT.do_not_retry(),
        dm::Status::Protection => Status::GUARD_CHECK_ERROR.do_not_retry(),
        dm::Status::Miscompare => Status::COMPARE_FAILURE.do_not_retry(),
        dm::Status::Aborted => Status::ABORT_REQUESTED,
        // The host may try again: the next attempt may meet a table that works.
        dm::Status::Timeout | dm::Status::IoError => Status::INTERNAL_ERROR,
    }
}

/// A range of blocks as the device knows it.
#[derive(Clone, Copy)]
struct Extent {
    device: DeviceId,
    sector: u64,
    sectors: u32,
}

impl<L: Lend> Session<L> {
    #[inline]
    fn namespace<'a, B: Backend<Lend = L>>(
        &self,
        nsid: u32,
        cx: &'a mut Context<'_, B>,
    ) -> Result<&'a mut LocalNamespace, Status> {
        let subsystem = self
            .queue
            .as_ref()
            .ok_or(Status::COMMAND_SEQUENCE_ERROR)?
            .subsystem;
        match cx.local.namespaces(subsystem).get_mut(nsid) {
            Some(namespace) if namespace.is_active() => Ok(namespace),
            // An NSID that could be, but is not active (NVMe Base 2.0, 3.2.1.4).
            _ if (1..=NAMESPACES_MAX).contains(&nsid) => Err(Status::INVALID_FIELD.do_not_retry()),
            _ => Err(Status::INVALID_NAMESPACE.do_not_retry()),
        }
    }

    /// The namespace of a command that arrives. Its ANA state is looked at here and nowhere later, so what has begun ends as it would have.
    #[inline]
    fn accessible<'a, B: Backend<Lend = L>>(
        &self,
        nsid: u32,
        cx: &'a mut Context<'_, B>,
    ) -> Result<&'a mut LocalNamespace, Status> {
        let namespace = self.namespace(nsid, cx)?;
        match namespace.ana.refusal() {
            None => Ok(namespace),
            Some(status) => Err(status),
        }
    }

    /// Checks namespace and range of a command, and fills in its device and size. `writes`: refused by a read-only device.
    #[inline]
    fn check_range<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        bytes_max: u64,
        writes: bool,
        cx: &mut Context<'_, B>,
    ) -> Result<u64, Status> {
        let command = self.slots.get(index).command;
        let namespace = self.accessible(command.nsid(), cx)?;
        let bytes = u64::from(command.block_count()) << (namespace.block_shift + 9);
        if bytes > bytes_max {
            // More than MDTS, or VSL (NVMe Base 2.0, figure 275, MDTS).
            return Err(Status::INVALID_FIELD.do_not_retry());
        }
        let end = command.lba().checked_add(u64::from(command.block_count()));
        if end.is_none_or(|end| end > namespace.blocks) {
            return Err(Status::LBA_OUT_OF_RANGE.do_not_retry());
        }
        if writes
            && namespace
                .geometry
                .is_some_and(|geometry| geometry.read_only)
        {
            return Err(Status::NAMESPACE_WRITE_PROTECTED.do_not_retry());
        }
        let device = namespace.namespace.device;
        self.slots.get_mut(index).device = device;
        Ok(bytes)
    }

    /// Checks an I/O command.
    #[inline]
    pub(super) fn plan_io<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        cx: &mut Context<'_, B>,
    ) -> Plan {
        match self.try_plan_io(index, cx) {
            Ok(plan) => plan,
            Err(status) => Plan::Fail(status),
        }
    }

    #[inline]
    fn try_plan_io<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        cx: &mut Context<'_, B>,
    ) -> Result<Plan, Status> {
        let command = self.slots.get(index).command;
        let transfer_max = u64::from(TRANSFER_BYTES_MAX);
        match command.opcode() {
            io::READ => {
                let bytes = self.check_range(index, transfer_max, false, cx)? as u32;
                self.check_read_pointer(index, bytes)?;
                self.slots.get_mut(index).size = bytes;
                Ok(Plan::Execute)
            }
            io::WRITE => Ok(Plan::Receive(
                self.check_range(index, transfer_max, true, cx)? as u32,
            )),
            io::COMPARE => Ok(Plan::Receive(
                self.check_range(index, transfer_max, false, cx)? as u32,
            )),
            io::VERIFY => {
                let bytes = self.check_range(index, transfer_max, false, cx)? as u32;
                self.slots.get_mut(index).size = bytes;
                Ok(Plan::Execute)
            }
            io::WRITE_ZEROES => {
                self.check_range(index, u64::MAX, true, cx)?;
                Ok(Plan::Execute)
            }
            io::DATASET_MANAGEMENT => {
                let namespace = self.accessible(command.nsid(), cx)?;
                let device = namespace.namespace.device;
                if namespace
                    .geometry
                    .is_some_and(|geometry| geometry.read_only)
                {
                    return Err(Status::NAMESPACE_WRITE_PROTECTED.do_not_retry());
                }
                self.slots.get_mut(index).device = device;
                Ok(Plan::Receive(
                    command.range_count() * DatasetRange::SIZE as u32,
                ))
            }
            io::FLUSH if command.nsid() == NSID_ALL => {
                let queue = self.queue.as_ref().ok_or(Status::COMMAND_SEQUENCE_ERROR)?;
                match cx.local.namespaces(queue.subsystem).ana_refusal() {
                    None => Ok(Plan::Execute),
                    Some(status) => Err(status),
                }
            }
            io::FLUSH => {
                let device = self.accessible(command.nsid(), cx)?.namespace.device;
                self.slots.get_mut(index).device = device;
                Ok(Plan::Execute)
            }
            _ => Err(Status::INVALID_OPCODE.do_not_retry()),
        }
    }

    /// The range of a checked command in sectors. Its namespace may have gone since: then `None`.
    #[inline]
    fn extent<B: Backend<Lend = L>>(&self, index: u16, cx: &mut Context<'_, B>) -> Option<Extent> {
        let slot = self.slots.get(index);
        let namespace = self.namespace(slot.command.nsid(), cx).ok()?;
        let shift = namespace.block_shift;
        if namespace.namespace.device != slot.device {
            return None;
        }
        let lba = slot.command.lba();
        let count = slot.command.block_count();
        // A device that shrank while the data was on its way.
        if lba + u64::from(count) > namespace.blocks {
            return None;
        }
        Some(Extent {
            device: slot.device,
            sector: lba << shift,
            sectors: count << shift,
        })
    }

    /// Carries out a checked I/O command whose data, if any, is there.
    #[inline]
    pub(super) fn execute_io<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        let command = self.slots.get(index).command;
        match command.opcode() {
            io::READ if self.may_read() && self.waiting_reads.is_empty() => {
                self.begin_read(index, cx);
            }
            io::READ => {
                self.slots.get_mut(index).phase = Phase::AwaitsRetry;
                self.waiting_reads.push_back(index);
            }
            io::FLUSH => self.flush(index, cx),
            io::DATASET_MANAGEMENT => self.deallocate(index, cx),
            io::WRITE_ZEROES => self.write_zeroes(index, cx),
            code => {
                let Some(extent) = self.extent(index, cx) else {
                    self.fail(index, Status::LBA_OUT_OF_RANGE.do_not_retry(), cx);
                    return;
                };
                if code == io::WRITE {
                    self.write(index, extent, cx);
                } else {
                    // Compare, Verify.
                    self.read(index, extent, cx);
                }
            }
        }
    }

    /// Whether one more read may begin ([`READ_BYTES_MAX`]).
    #[inline]
    fn may_read(&self) -> bool {
        self.read_bytes <= READ_BYTES_MAX
    }

    /// Begins a read that the bound on reads lets pass.
    #[inline]
    fn begin_read<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        let slot = self.slots.get_mut(index);
        slot.read_bytes = slot.size;
        self.read_bytes += u64::from(slot.size);
        if self.digests.data {
            if !self.read_to_buffer(index, cx) {
                self.slots.get_mut(index).phase = Phase::AwaitsRetry;
                self.waiting.push_back(index);
            }
        } else if let Some(extent) = self.extent(index, cx) {
            self.read(index, extent, cx);
        } else {
            self.fail(index, Status::LBA_OUT_OF_RANGE.do_not_retry(), cx);
        }
    }

    /// Begins reads that waited until the bound lets them pass. True if there were any.
    pub(super) fn serve_waiting_reads<B: Backend<Lend = L>>(
        &mut self,
        cx: &mut Context<'_, B>,
    ) -> bool {
        let mut worked = false;
        while self.may_read()
            && let Some(index) = self.waiting_reads.pop_front()
        {
            self.begin_read(index, cx);
            worked = true;
        }
        worked
    }

    fn request(&self, index: u16, op: Op, extent: Extent, fua: bool) -> Request {
        Request {
            device: extent.device,
            command: self.tag(index),
            op,
            fua,
            sector: extent.sector,
            sectors: extent.sectors,
        }
    }

    /// A command goes to its device.
    #[inline]
    fn start<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        self.running += 1;
        let slot = self.slots.get_mut(index);
        slot.phase = Phase::Running;
        slot.pending = 1;
        let nsid = slot.command.nsid();
        let subsystem = self.queue.as_ref().map(|queue| queue.subsystem);
        if let Some(namespace) =
            subsystem.and_then(|subsystem| cx.local.namespaces(subsystem).get_mut(nsid))
        {
            namespace.in_flight += 1;
            slot.counted = true;
        }
    }

    #[inline]
    fn read<B: Backend<Lend = L>>(&mut self, index: u16, extent: Extent, cx: &mut Context<'_, B>) {
        self.start(index, cx);
        let request = self.request(index, Op::Read, extent, false);
        let lend = &raw mut self.slots.get_mut(index).lend;
        // SAFETY: slots lie in a boxed slice that lives as long as anything is pending in it, and `lend` is left alone meanwhile.
        if let Some(status) = unsafe { cx.backend.submit_read(&request, lend) } {
            self.completed(index, status, cx);
        }
    }

    /// A read whose data will be digested: what a device lends can change until it is sent, a copy cannot. False without a
    /// buffer.
    fn read_to_buffer<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        cx: &mut Context<'_, B>,
    ) -> bool {
        let size = self.slots.get(index).size as usize;
        let Some(extent) = self.extent(index, cx) else {
            self.fail(index, Status::LBA_OUT_OF_RANGE.do_not_retry(), cx);
            return true;
        };
        if !self.take_buffer(index, size, cx) {
            return false;
        }
        self.start(index, cx);
        let request = self.request(index, Op::Read, extent, false);
        let bytes = self.slots.get(index).pointer();
        // SAFETY: the buffer holds `size` bytes and belongs to the slot until the response is sent.
        if let Some(status) = unsafe { cx.backend.submit(&request, bytes) } {
            self.completed(index, status, cx);
        }
        true
    }

    /// Tries again what waited for a buffer with all else ready.
    pub(super) fn retry<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        cx: &mut Context<'_, B>,
    ) -> bool {
        match self.slots.get(index).partner {
            Some(partner) => self.try_compare_and_write(index, partner, cx),
            None => self.read_to_buffer(index, cx),
        }
    }

    #[inline]
    fn write<B: Backend<Lend = L>>(&mut self, index: u16, extent: Extent, cx: &mut Context<'_, B>) {
        let fua = self.slots.get(index).command.is_force_unit_access();
        let in_chunk = matches!(self.slots.get(index).memory, Memory::Chunk(..));
        if in_chunk && self.pinned >= PINNED_MAX {
            self.move_to_buffer(index, cx);
        }
        self.start(index, cx);
        let request = self.request(index, Op::Write, extent, fua);
        let slot = self.slots.get(index);
        let bytes = slot.pointer();
        if matches!(slot.memory, Memory::Chunk(..)) {
            self.pinned += 1;
        }
        // SAFETY: the slot holds its chunk or buffer until the command is concluded, and `locate` checked its length.
        if let Some(status) = unsafe { cx.backend.submit(&request, bytes) } {
            self.completed(index, status, cx);
        }
    }

    /// Copies in-capsule data to a buffer, if there is one; if not it stays where it is, which is correct but holds a chunk.
    fn move_to_buffer<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        let size = self.slots.get(index).size as usize;
        let old = std::mem::take(&mut self.slots.get_mut(index).memory);
        let Memory::Chunk(chunk, offset) = old else {
            self.slots.get_mut(index).memory = old;
            return;
        };
        if self.take_buffer(index, size, cx)
            && let Memory::Buffer(buffer) = &mut self.slots.get_mut(index).memory
        {
            // SAFETY: received, and held until `give` below.
            buffer[..size].copy_from_slice(unsafe { chunk.bytes(offset, offset + size) });
            cx.local.chunks.give(chunk);
        } else {
            self.slots.get_mut(index).memory = Memory::Chunk(chunk, offset);
        }
    }

    /// Submits one of several I/Os of a command without data. The caller holds one count of `pending` itself.
    fn submit_part<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        request: &Request,
        bytes: *mut u8,
        cx: &mut Context<'_, B>,
    ) {
        self.slots.get_mut(index).pending += 1;
        // SAFETY: operations without data, or a write from the zeroes, which are static and as long as the write.
        if let Some(status) = unsafe { cx.backend.submit(request, bytes) } {
            self.completed(index, status, cx);
        }
    }

    /// Flush of a namespace, or of all with the broadcast NSID (NVMe Base 2.0, 7.1; VWC bits 2:1 = 11b).
    fn flush<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        let nsid = self.slots.get(index).command.nsid();
        self.start(index, cx);
        let devices: Vec<DeviceId> = match &self.queue {
            Some(queue) if nsid == NSID_ALL => {
                let namespaces = cx.local.namespaces(queue.subsystem);
                namespaces
                    .active()
                    .map(|namespace| namespace.namespace.device)
                    .collect()
            }
            _ => Vec::new(),
        };
        if nsid != NSID_ALL {
            let device = self.slots.get(index).device;
            self.submit_flush(index, device, cx);
        }
        for device in devices {
            self.submit_flush(index, device, cx);
        }
        self.completed(index, dm::Status::Ok, cx);
    }

    fn submit_flush<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        device: DeviceId,
        cx: &mut Context<'_, B>,
    ) {
        let extent = Extent {
            device,
            sector: 0,
            sectors: 0,
        };
        let request = self.request(index, Op::Flush, extent, false);
        self.submit_part(index, &request, std::ptr::null_mut(), cx);
    }

    /// Dataset Management (NVM Command Set 1.0, 3.2.3): deallocates; other attributes are hints that need no action.
    fn deallocate<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        let slot = self.slots.get(index);
        let (nsid, device) = (slot.command.nsid(), slot.device);
        let deallocate = slot.command.is_dataset_deallocate();
        let Ok(namespace) = self.namespace(nsid, cx) else {
            self.fail(index, Status::INVALID_FIELD.do_not_retry(), cx);
            return;
        };
        let (shift, blocks) = (namespace.block_shift, namespace.blocks);
        let supported = namespace.geometry.is_some_and(|geometry| geometry.discard);
        let count = self.slots.get(index).command.range_count() as usize;
        let ranges: [DatasetRange; 256] = {
            let bytes = self.slots.get(index).bytes();
            std::array::from_fn(|range| match bytes.get(range * DatasetRange::SIZE..) {
                Some(bytes) if range < count && bytes.len() >= DatasetRange::SIZE => {
                    DatasetRange::decode(bytes)
                }
                _ => DatasetRange {
                    context: 0,
                    block_count: 0,
                    lba: 0,
                },
            })
        };
        // All or nothing: no range is deallocated when one of them is wrong.
        for range in &ranges[..count] {
            let end = range.lba.checked_add(u64::from(range.block_count));
            if end.is_none_or(|end| end > blocks) {
                self.fail(index, Status::LBA_OUT_OF_RANGE.do_not_retry(), cx);
                return;
            }
        }
        self.start(index, cx);
        // A device that cannot deallocate need not: the command is a hint (3.2.3.2.1).
        if deallocate && supported {
            for range in &ranges[..count] {
                let sectors = u64::from(range.block_count) << shift;
                self.submit_cut(
                    index,
                    Op::Discard,
                    device,
                    range.lba << shift,
                    sectors,
                    false,
                    cx,
                );
            }
        }
        self.completed(index, dm::Status::Ok, cx);
    }

    #[allow(clippy::too_many_arguments)]
    fn submit_cut<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        op: Op,
        device: DeviceId,
        sector: u64,
        sectors: u64,
        fua: bool,
        cx: &mut Context<'_, B>,
    ) {
        let (mut sector, end) = (sector, sector + sectors);
        while sector < end {
            let part = (end - sector).min(u64::from(SECTORS_MAX)) as u32;
            let extent = Extent {
                device,
                sector,
                sectors: part,
            };
            let request = self.request(index, op, extent, fua);
            self.submit_part(index, &request, std::ptr::null_mut(), cx);
            sector += u64::from(part);
        }
    }

    /// Write Zeroes (NVM Command Set 1.0, 3.2.8). With DEAC, on a device where that reads as zeroes, the blocks are discarded
    /// (DLFEAT); not with FUA, which a discard does not know.
    fn write_zeroes<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        let Some(extent) = self.extent(index, cx) else {
            self.fail(index, Status::LBA_OUT_OF_RANGE.do_not_retry(), cx);
            return;
        };
        let command = self.slots.get(index).command;
        let fua = command.is_force_unit_access();
        let geometry = self.namespace(command.nsid(), cx);
        let op = match geometry.ok().and_then(|namespace| namespace.geometry) {
            Some(geometry) if geometry.discard_zeroes && command.is_deallocate() && !fua => {
                Some(Op::Discard)
            }
            Some(geometry) if geometry.write_zeroes => Some(Op::WriteZeroes),
            _ => None,
        };
        self.start(index, cx);
        if let Some(op) = op {
            let (sector, sectors) = (extent.sector, u64::from(extent.sectors));
            self.submit_cut(index, op, extent.device, sector, sectors, fua, cx);
            self.completed(index, dm::Status::Ok, cx);
        } else {
            self.slots.get_mut(index).pending = 0;
            self.write_zeroes_step(index, cx);
        }
    }

    /// Writes the next zeroes of a device that cannot do it by itself.
    fn write_zeroes_step<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        loop {
            let slot = self.slots.get(index);
            let extent = self.extent(index, cx);
            let is_done = extent.is_some_and(|extent| slot.progress >= extent.sectors);
            let may_go_on = slot.status.is_success() && !is_done && self.is_open();
            let Some(extent) = extent.filter(|_| may_go_on) else {
                if !is_done {
                    // The connection ended, or the device shrank, half way; an abort has said so before.
                    self.slots.get_mut(index).note(Status::INTERNAL_ERROR);
                }
                self.conclude(index, cx);
                return;
            };
            let sectors = (extent.sectors - slot.progress).min((ZEROES_BYTES / 512) as u32);
            let part = Extent {
                device: extent.device,
                sector: extent.sector + u64::from(slot.progress),
                sectors,
            };
            let request = self.request(index, Op::Write, part, slot.command.is_force_unit_access());
            let slot = self.slots.get_mut(index);
            slot.progress += sectors;
            slot.pending = 1;
            let bytes = ZEROES.0.as_ptr().cast_mut();
            // SAFETY: the zeroes are static, only read by a write, and at least as long as the part.
            match unsafe { cx.backend.submit(&request, bytes) } {
                Some(status) => {
                    let slot = self.slots.get_mut(index);
                    slot.pending = 0;
                    slot.note(status_of(status, io::WRITE_ZEROES));
                }
                None => return,
            }
        }
    }

    /// Has a write zeroes that is written portion by portion end with the one that is under way. False if this command is none.
    pub(super) fn cut_write_zeroes(&mut self, index: u16) -> bool {
        let slot = self.slots.get_mut(index);
        let is_in_portions = slot.progress > 0;
        if is_in_portions {
            slot.note(Status::ABORT_REQUESTED);
        }
        is_in_portions
    }

    /// Both halves of a Compare and Write are there; waits if there is no buffer.
    pub(super) fn compare_and_write<B: Backend<Lend = L>>(
        &mut self,
        first: u16,
        second: u16,
        cx: &mut Context<'_, B>,
    ) {
        if !self.try_compare_and_write(first, second, cx) {
            self.slots.get_mut(first).phase = Phase::AwaitsRetry;
            self.waiting.push_back(first);
        }
    }

    /// Carries out a Compare and Write as one [`Op::CompareAndWrite`]. False without a buffer.
    fn try_compare_and_write<B: Backend<Lend = L>>(
        &mut self,
        first: u16,
        second: u16,
        cx: &mut Context<'_, B>,
    ) -> bool {
        let Some(extent) = self.extent(first, cx) else {
            self.slots
                .get_mut(first)
                .note(Status::LBA_OUT_OF_RANGE.do_not_retry());
            self.fail_fused(first, second, cx);
            return true;
        };
        let size = self.slots.get(first).size as usize;
        let Some(mut buffer) = cx.backend.buffer(3 * size) else {
            self.starved = true;
            return false;
        };
        buffer[..size].copy_from_slice(self.slots.get(first).bytes());
        buffer[size..2 * size].copy_from_slice(self.slots.get(second).bytes());
        self.drop_memory(first, cx);
        self.drop_memory(second, cx);
        self.buffer_bytes += buffer.capacity();
        self.slots.get_mut(first).memory = Memory::Buffer(buffer);
        self.start(first, cx);
        let command = self.slots.get(second).command;
        let request = self.request(
            first,
            Op::CompareAndWrite,
            extent,
            command.is_force_unit_access(),
        );
        let bytes = self.slots.get(first).pointer();
        // SAFETY: the buffer holds three times the range and belongs to the slot until the command is concluded.
        if let Some(status) = unsafe { cx.backend.submit(&request, bytes) } {
            self.completed(first, status, cx);
        }
        true
    }

    /// A device has finished an I/O of a command.
    #[inline]
    pub fn completed<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        status: dm::Status,
        cx: &mut Context<'_, B>,
    ) {
        let slot = self.slots.get_mut(index);
        debug_assert!(slot.pending > 0);
        slot.pending -= 1;
        if !status.is_ok() {
            slot.note(status_of(status, slot.command.opcode()));
        }
        if slot.pending > 0 {
            return;
        }
        let code = slot.command.opcode();
        if code == io::WRITE_ZEROES {
            // The table was swapped for one that has none, or what is beneath refuses it (IO-29).
            let refusals = [dm::Status::NotSupported, dm::Status::Target];
            let was_whole = slot.progress == 0;
            let is_refused = was_whole
                && refusals
                    .map(|one| status_of(one, code))
                    .contains(&slot.status);
            if is_refused {
                slot.status = Status::SUCCESS;
            }
            if is_refused || !was_whole {
                self.write_zeroes_step(index, cx);
                return;
            }
        }
        self.conclude(index, cx);
    }

    /// A command is back from its device.
    #[inline]
    fn conclude<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        self.running -= 1;
        let slot = self.slots.get_mut(index);
        if matches!(slot.memory, Memory::Chunk(..)) && slot.command.opcode() == io::WRITE {
            self.pinned -= 1;
        }
        let code = slot.command.opcode();
        if code == io::COMPARE
            && slot.partner.is_none()
            && slot.status.is_success()
            && !is_equal(slot)
        {
            slot.note(Status::COMPARE_FAILURE.do_not_retry());
        }
        self.count(index, cx);
        let slot = self.slots.get(index);
        if let Some(second) = slot.partner {
            self.conclude_fused(index, second, cx);
        } else if code == io::READ && slot.status.is_success() {
            if matches!(slot.memory, Memory::Buffer(_)) {
                self.respond_with_memory(index, cx);
            } else {
                self.respond_with_lent(index, cx);
            }
        } else {
            self.respond(index, cx);
        }
    }

    fn conclude_fused<B: Backend<Lend = L>>(
        &mut self,
        first: u16,
        second: u16,
        cx: &mut Context<'_, B>,
    ) {
        if self.slots.get(first).status.is_success() {
            for index in [first, second] {
                self.slots.get_mut(index).partner = None;
                self.respond(index, cx);
            }
        } else {
            self.fail_fused(first, second, cx);
        }
    }

    /// Counts a command that is back.
    #[inline]
    fn count<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        let now_ns = cx.backend.now_ns();
        let slot = self.slots.get(index);
        let Some(queue) = self.queue.as_ref().filter(|_| slot.counted) else {
            return;
        };
        let nsid = slot.command.nsid();
        let namespaces = cx.local.namespaces(queue.subsystem);
        if let Some(namespace) = namespaces.get_mut(nsid) {
            let code = slot.command.opcode();
            let kind = match code {
                io::READ | io::COMPARE | io::VERIFY if slot.partner.is_none() => Kind::Read,
                io::FLUSH => Kind::Flush,
                io::DATASET_MANAGEMENT => Kind::Discard,
                io::WRITE_ZEROES => Kind::WriteZeroes,
                _ => Kind::Write,
            };
            let latency = now_ns.saturating_sub(slot.started_ns);
            namespace
                .stats
                .record(kind, slot.status.is_success(), slot.size / 512, latency);
        }
        namespaces.finished(nsid, slot.device);
    }
}

/// Whether what a device lent equals the data that came with a Compare.
fn is_equal<L: Lend>(slot: &mut Slot<L>) -> bool {
    let mut lend = std::mem::take(&mut slot.lend);
    let mut rest = slot.bytes();
    let mut equal = true;
    lend.pieces(|bytes, size| {
        let (head, tail) = rest.split_at(size.min(rest.len()));
        // SAFETY: lent until [`Lend::release`], which comes with the response. Another core may write the blocks meanwhile, as with any
        // device: then either answer is right.
        let lent = unsafe { std::slice::from_raw_parts(bytes, size) };
        equal &= head == lent;
        rest = tail;
    });
    equal &= rest.is_empty();
    slot.lend = lend;
    equal
}
