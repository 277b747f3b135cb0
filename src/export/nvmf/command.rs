//! The commands of one queue: a table of slots sized when the queue is connected, so that no command allocates.

use std::rc::Rc;

use crate::dm::DeviceId;
use crate::export::chunk::{Chunk, ChunkPool};
use crate::nvme::{Command, Status};
use crate::reactor::PoolBuffer;

/// Where a command is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The slot is free.
    Free,
    /// Waits for a buffer to receive its data into.
    AwaitsBuffer,
    /// Has its data, if any, and waits for a buffer to be carried out with, or for other reads.
    AwaitsRetry,
    /// An R2T is out; its data is under way.
    AwaitsData,
    /// The first of a fused pair whose second has not come, or whose data is not complete.
    AwaitsPartner,
    /// At the device, in one or more I/Os.
    Running,
    /// An Abort that waits for the core of the queue it names.
    AwaitsAbort,
    /// A Get Log Page that waits for every core to publish its totals.
    AwaitsTotals,
    /// An Asynchronous Event Request without an event.
    AwaitsEvent,
    /// Its response is queued.
    Responding,
}

/// What a command's data lies in.
#[derive(Default)]
pub enum Memory {
    /// No data.
    #[default]
    None,
    /// In the capsule, where it was received.
    Chunk(Rc<Chunk>, usize),
    /// In a buffer of its own.
    Buffer(PoolBuffer),
    /// An admin command's answer.
    Page(Vec<u8>),
}

/// One command.
pub struct Slot<L> {
    /// The submission queue entry.
    pub command: Command,
    /// Where it is.
    pub phase: Phase,
    /// How it ends; the first error counts.
    pub status: Status,
    /// Dwords 0 and 1 of the completion.
    pub result: u64,
    /// I/Os at the device.
    pub pending: u32,
    /// Bytes of data that the command moves.
    pub size: u32,
    /// Bytes received so far ([`Phase::AwaitsData`]).
    pub received: u32,
    /// What it counts for in its session's bytes of reads.
    pub read_bytes: u32,
    /// Blocks done so far of a command that is carried out in steps.
    pub progress: u32,
    /// When it arrived.
    pub started_ns: u64,
    /// The device it went to.
    pub device: DeviceId,
    /// Whether it is counted as in flight at its namespace.
    pub counted: bool,
    /// Whether an Abort named it.
    pub aborted: bool,
    /// Whether its identifier was in use when it arrived, and so belongs to another slot.
    pub conflict: bool,
    /// The other half of a fused pair.
    pub partner: Option<u16>,
    /// Its data.
    pub memory: Memory,
    /// What a read's data was lent as.
    pub lend: L,
}

impl<L: Default> Default for Slot<L> {
    fn default() -> Self {
        Self {
            command: Command::default(),
            phase: Phase::Free,
            status: Status::SUCCESS,
            result: 0,
            pending: 0,
            size: 0,
            received: 0,
            read_bytes: 0,
            progress: 0,
            started_ns: 0,
            device: DeviceId(0),
            counted: false,
            aborted: false,
            conflict: false,
            partner: None,
            memory: Memory::None,
            lend: L::default(),
        }
    }
}

impl<L> Slot<L> {
    /// Records how a part of the command ended; the first error counts.
    #[inline]
    pub fn note(&mut self, status: Status) {
        if self.status.is_success() {
            self.status = status;
        }
    }

    /// Lets go of the data. A chunk goes back to its pool.
    #[inline]
    pub fn release_memory(&mut self, chunks: &mut ChunkPool) -> bool {
        match std::mem::take(&mut self.memory) {
            Memory::Chunk(chunk, _) => {
                chunks.give(chunk);
                true
            }
            _ => false,
        }
    }

    /// Where the data lies, for the device to read or write.
    #[inline]
    pub fn pointer(&self) -> *mut u8 {
        match &self.memory {
            Memory::Chunk(chunk, offset) => chunk.pointer(*offset),
            Memory::Buffer(buffer) => buffer.as_mut_ptr(),
            Memory::Page(page) => page.as_ptr().cast_mut(),
            Memory::None => std::ptr::null_mut(),
        }
    }

    /// The data that came with the command.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        let size = self.size as usize;
        match &self.memory {
            // SAFETY: the range was received before the command was accepted and is not written again while the chunk is held.
            Memory::Chunk(chunk, offset) => unsafe { chunk.bytes(*offset, *offset + size) },
            Memory::Buffer(buffer) => &buffer[..size.min(buffer.len())],
            Memory::Page(page) => &page[..size.min(page.len())],
            Memory::None => &[],
        }
    }
}

/// The slots of a queue.
pub struct Slots<L> {
    slots: Box<[Slot<L>]>,
    free: Vec<u16>,
    /// One bit per command identifier in use: what makes a conflict cheap to find. 8 KiB, of which a host that reuses its identifiers
    /// touches little.
    identifiers: Box<[u64; 1024]>,
}

impl<L: Default> Slots<L> {
    /// `count` free slots.
    pub fn new(count: u16) -> Self {
        Self {
            slots: (0..count).map(|_| Slot::default()).collect(),
            free: (0..count).rev().collect(),
            identifiers: Box::new([0; 1024]),
        }
    }

    /// Whether none is free.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Whether all are free.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// A free slot for a command; [`Slot::conflict`] tells whether its identifier is in use already. `None` when all are taken.
    #[inline]
    pub fn take(&mut self, command: Command, now_ns: u64) -> Option<u16> {
        let index = self.free.pop()?;
        let slot = &mut self.slots[usize::from(index)];
        debug_assert_eq!(slot.phase, Phase::Free);
        slot.command = command;
        slot.status = Status::SUCCESS;
        slot.result = 0;
        slot.pending = 0;
        slot.size = 0;
        slot.received = 0;
        slot.progress = 0;
        slot.started_ns = now_ns;
        slot.counted = false;
        slot.aborted = false;
        slot.partner = None;
        let id = command.command_id();
        let (word, bit) = (usize::from(id / 64), 1 << (id % 64));
        slot.conflict = self.identifiers[word] & bit != 0;
        self.identifiers[word] |= bit;
        Some(index)
    }

    /// Frees a slot.
    #[inline]
    pub fn give(&mut self, index: u16) {
        let slot = &mut self.slots[usize::from(index)];
        debug_assert_ne!(slot.phase, Phase::Free);
        slot.phase = Phase::Free;
        if !slot.conflict {
            let id = slot.command.command_id();
            self.identifiers[usize::from(id / 64)] &= !(1 << (id % 64));
        }
        self.free.push(index);
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

    /// A slot by a number that came from outside.
    #[inline]
    pub fn try_get(&self, index: u16) -> Option<&Slot<L>> {
        self.slots.get(usize::from(index))
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

    /// The command with this identifier that has not been answered yet.
    pub fn find(&self, command_id: u16) -> Option<u16> {
        self.taken().find(|&index| {
            let slot = self.get(index);
            slot.command.command_id() == command_id && slot.phase != Phase::Responding
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_run_out_and_identifiers_conflict() {
        let mut slots: Slots<()> = Slots::new(2);
        let mut command = Command::new(2, 1);
        command.set_command_id(0xFFFF);
        let first = slots.take(command, 0).unwrap();
        slots.get_mut(first).phase = Phase::Running;
        assert!(!slots.get(first).conflict);
        let second = slots.take(command, 0).unwrap();
        slots.get_mut(second).phase = Phase::Responding;
        assert!(slots.get(second).conflict && slots.is_full() && slots.take(command, 0).is_none());
        slots.give(second);
        assert_eq!(slots.find(0xFFFF), Some(first));
        slots.give(first);
        assert!(slots.is_empty());
        let third = slots.take(command, 0).unwrap();
        assert!(!slots.get(third).conflict);
    }
}
