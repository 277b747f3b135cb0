//! The commands of one connection: a table of slots, so that no command allocates.

use std::rc::Rc;

use super::tags::Tags;
use crate::dm;
use crate::export::chunk::{Chunk, ChunkPool};
use crate::iscsi::pdu::{Header, NO_TAG};
use crate::reactor::PoolBuffer;
use crate::scsi::{Extent, Job, Lun, Outcome};

/// The unit of a command that is for none: no unit has this number.
const NO_LUN: u16 = u16::MAX;

/// Where a command is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The slot is free.
    Free,
    /// Waits for a buffer to receive its data into, or to be carried out with.
    AwaitsBuffer,
    /// Its data is under way: unasked for, or asked for by an R2T.
    AwaitsData,
    /// Waits for others of its task set to end.
    InLine,
    /// Waits until its task set is not at fault any more: with its outcome if it has no work left, otherwise for its next step.
    Blocked,
    /// At the device, in one or more I/Os.
    Running,
    /// Its answer is known, and waits for its turn to be queued.
    Answering,
    /// Its answer is queued.
    Responding,
    /// It was answered before it was done (IMMED), and is carried out in the background.
    Background,
}

/// What sets a command apart from those that are simply carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing does.
    Plain,
    /// It waits for others of its task set, with its data or for it.
    InLine,
    /// Its task set is at fault (ACA): what of it is at the device goes on, nothing else does, and it is not answered.
    Blocked,
    /// It is not answered: a task management function has taken it.
    Aborted,
    /// Another initiator has ended it, and it is answered with that.
    Cancelled,
}

impl Standing {
    /// Whether nobody waits for what it does.
    pub fn is_over(self) -> bool {
        matches!(self, Standing::Aborted | Standing::Cancelled)
    }
}

/// What a command's data lies in.
#[derive(Default)]
pub enum Memory {
    /// No data.
    #[default]
    None,
    /// Where it was received.
    Chunk(Rc<Chunk>, usize),
    /// A buffer of its own.
    Buffer(PoolBuffer),
    /// Parameter data, or data that came unasked for when the pool had no buffer for it, or before its command's turn.
    Page(Vec<u8>),
}

/// What a command does once its data is there.
#[derive(Debug, Default)]
pub enum Work {
    /// Nothing more.
    #[default]
    None,
    /// A read that goes to the initiator.
    Read(Extent),
    /// A write of what came from the initiator.
    Write(Extent, bool),
    /// Several steps.
    Job(Box<Job>),
    /// It waits for what goes on by itself, under this number.
    Left(u32),
    /// A barrier of the whole device, then this.
    Behind(Box<Work>),
}

impl Work {
    /// The units that it is about besides the one that the command is for.
    pub fn others(&self) -> &[u16] {
        match self {
            Work::Job(job) => job.others(),
            Work::Behind(work) => work.others(),
            _ => &[],
        }
    }

    /// Bytes of memory to work with besides its data.
    pub fn scratch_bytes(&self) -> usize {
        match self {
            Work::Job(job) => job.scratch_bytes as usize,
            Work::Behind(work) => work.scratch_bytes(),
            _ => 0,
        }
    }
}

/// What kind of answer a slot has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Reply {
    /// Data-In and SCSI Response.
    #[default]
    Scsi,
    /// NOP-In with the initiator's own data.
    Nop,
}

/// One command.
pub struct Slot<L> {
    /// Its header.
    pub header: Header,
    /// Where it is.
    pub phase: Phase,
    /// What it does.
    pub work: Work,
    /// How it is answered.
    pub reply: Reply,
    /// The unit it is for.
    pub lun: u16,
    /// How it ends.
    pub outcome: Outcome,
    /// How its I/Os end; the first error counts.
    pub status: dm::Status,
    /// I/Os at the device.
    pub pending: u32,
    /// Bytes that the command moves in all, as SCSI has it; the residual is counted from that.
    pub wanted: u32,
    /// Bytes of data from the initiator.
    pub data_out: u32,
    /// Bytes received so far.
    pub received: u32,
    /// Where what is under way now ends: the end of the burst, or of what may come unasked.
    pub burst_end: u32,
    /// Where what has been asked for ends: that of the last R2T.
    pub asked_end: u32,
    /// The next DataSN, and R2TSN.
    pub data_sn: u32,
    /// R2Ts so far.
    pub ready_sn: u32,
    /// The tag of the R2T that is answered now; [`NO_TAG`] for unsolicited data.
    pub transfer_tag: u32,
    /// R2Ts of this slot, those of earlier commands included, so that no tag is that of another R2T that may still be answered.
    pub transfers: u16,
    /// Bytes of data to the initiator, and how many of them are queued.
    pub data_in: u32,
    /// Bytes of it that are queued.
    pub emitted: u32,
    /// What it counts for in its session's bytes of reads.
    pub read_bytes: u32,
    /// When it arrived.
    pub started_ns: u64,
    /// It counts in the window of commands.
    pub in_window: bool,
    /// It is counted as in flight.
    pub counted: bool,
    /// What sets it apart.
    pub standing: Standing,
    /// What waits for it to be gone.
    pub mourners: Vec<Rc<()>>,
    /// Its data.
    pub memory: Memory,
    /// Its work memory.
    pub scratch: Option<PoolBuffer>,
    /// What a read's data was lent as.
    pub lend: L,
}

impl<L: Default> Default for Slot<L> {
    fn default() -> Self {
        Self {
            header: Header::new(0, 0),
            phase: Phase::Free,
            work: Work::None,
            reply: Reply::Scsi,
            lun: 0,
            outcome: Outcome::Good,
            status: dm::Status::Ok,
            pending: 0,
            wanted: 0,
            data_out: 0,
            received: 0,
            burst_end: 0,
            asked_end: 0,
            data_sn: 0,
            ready_sn: 0,
            transfer_tag: NO_TAG,
            transfers: 0,
            data_in: 0,
            emitted: 0,
            read_bytes: 0,
            started_ns: 0,
            in_window: false,
            counted: false,
            standing: Standing::Plain,
            mourners: Vec::new(),
            memory: Memory::None,
            scratch: None,
            lend: L::default(),
        }
    }
}

impl<L> Slot<L> {
    /// Where the data lies.
    #[inline]
    pub fn pointer(&self) -> *mut u8 {
        match &self.memory {
            Memory::Chunk(chunk, offset) => chunk.pointer(*offset),
            Memory::Buffer(buffer) => buffer.as_mut_ptr(),
            Memory::Page(page) => page.as_ptr().cast_mut(),
            Memory::None => std::ptr::null_mut(),
        }
    }

    /// The first `size` bytes of the data.
    #[inline]
    pub fn bytes(&self, size: usize) -> &[u8] {
        match &self.memory {
            // SAFETY: the range was received before the command was accepted and is not written again while the chunk is held.
            Memory::Chunk(chunk, offset) => unsafe { chunk.bytes(*offset, *offset + size) },
            Memory::Buffer(buffer) => &buffer[..size.min(buffer.len())],
            Memory::Page(page) => &page[..size.min(page.len())],
            Memory::None => &[],
        }
    }

    /// Copies the beginning of the data to where it is to lie.
    pub fn put(&mut self, bytes: &[u8]) {
        let size = bytes.len().min(self.data_out as usize);
        match &mut self.memory {
            Memory::Buffer(buffer) => buffer[..size].copy_from_slice(&bytes[..size]),
            Memory::Page(page) => page[..size].copy_from_slice(&bytes[..size]),
            Memory::None | Memory::Chunk(..) => {}
        }
    }

    /// Takes note of how one of its I/Os ended.
    #[inline]
    pub fn note(&mut self, status: dm::Status) {
        if self.status.is_ok() {
            self.status = status;
        }
    }

    /// Lets go of the data; a chunk goes back to its pool. Answers the bytes of pool buffers given back.
    #[inline]
    pub fn release_memory(&mut self, chunks: &mut ChunkPool) -> usize {
        let scratch = self.scratch.take().map_or(0, |buffer| buffer.capacity());
        scratch
            + match std::mem::take(&mut self.memory) {
                Memory::Chunk(chunk, _) => {
                    chunks.give(chunk);
                    0
                }
                Memory::Buffer(buffer) => buffer.capacity(),
                _ => 0,
            }
    }
}

/// The slots of a connection.
pub struct Slots<L> {
    slots: Box<[Slot<L>]>,
    free: Vec<u16>,
    /// The tags of tasks whose answers are not queued yet.
    tags: Tags,
}

impl<L: Default> Slots<L> {
    /// `count` free slots.
    pub fn new(count: u16) -> Self {
        Self {
            slots: (0..count).map(|_| Slot::default()).collect(),
            free: (0..count).rev().collect(),
            tags: Tags::new(count),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// Whether none is free.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// A free slot for a task; `None` when all are taken.
    #[inline]
    pub fn take(&mut self, header: Header, now_ns: u64) -> Option<u16> {
        let index = self.free.pop()?;
        let slot = &mut self.slots[usize::from(index)];
        debug_assert_eq!(slot.phase, Phase::Free);
        slot.header = header;
        slot.lun = match Lun::decode(header.lun()) {
            Lun::Unit(lun) => lun,
            _ => NO_LUN,
        };
        slot.phase = Phase::Running;
        slot.work = Work::None;
        slot.reply = Reply::Scsi;
        slot.outcome = Outcome::Good;
        slot.status = dm::Status::Ok;
        slot.pending = 0;
        slot.wanted = 0;
        slot.data_out = 0;
        slot.received = 0;
        slot.burst_end = 0;
        slot.asked_end = 0;
        slot.data_sn = 0;
        slot.ready_sn = 0;
        slot.transfer_tag = NO_TAG;
        slot.data_in = 0;
        slot.emitted = 0;
        slot.started_ns = now_ns;
        slot.in_window = false;
        slot.counted = false;
        slot.standing = Standing::Plain;
        self.tags.set(index, header.task_tag());
        Some(index)
    }

    /// Frees a slot.
    #[inline]
    pub fn give(&mut self, index: u16) {
        let slot = &mut self.slots[usize::from(index)];
        debug_assert_ne!(slot.phase, Phase::Free);
        slot.phase = Phase::Free;
        slot.work = Work::None;
        slot.mourners.clear();
        self.tags.clear(index);
        self.free.push(index);
    }

    /// The task of a slot is over for its initiator: its tag may be used again.
    #[inline]
    pub fn forget_tag(&mut self, index: u16) {
        self.tags.clear(index);
    }

    /// A slot.
    #[inline]
    pub fn get(&self, index: u16) -> &Slot<L> {
        &self.slots[usize::from(index)]
    }

    /// A slot.
    #[inline]
    pub fn get_mut(&mut self, index: u16) -> &mut Slot<L> {
        &mut self.slots[usize::from(index)]
    }

    /// Slots that are taken.
    pub fn taken(&self) -> impl Iterator<Item = u16> + '_ {
        let taken = self
            .slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.phase != Phase::Free);
        taken.map(|(index, _)| index as u16)
    }

    /// The task with this tag that has not been answered yet.
    #[inline]
    pub fn find(&self, tag: u32) -> Option<u16> {
        self.tags.find(tag)
    }
}
