//! The buffers of commands: who gets one, who waits, and who keeps its data where it was received.

use super::allegiance::is_aca;
use super::command::{Memory, Phase, Standing, Work};
use super::session::{BUFFER_BYTES_MAX, Context, Session};
use crate::export::backend::{Backend, Lend};
use crate::reactor::PoolBuffer;

/// Writes of a connection whose data stays in its receive chunk while a device works on them. Each may pin a chunk of 128 KiB, so further
/// ones are copied to buffers of their own.
const PINNED_MAX: usize = 32;

/// Bytes of buffers that a command with the attribute ACA may have when all others are taken, data and work memory: they may be taken by
/// commands that wait for it.
const ACA_BYTES_MAX: usize = 2 << 20;

impl<L: Lend> Session<L> {
    /// A command waits for a buffer to receive its data into, or to be carried out with.
    pub(super) fn await_buffer(&mut self, index: u16) {
        self.slots.get_mut(index).phase = Phase::AwaitsBuffer;
        self.waiting.push_back(index);
    }

    /// Hands out buffers in the order in which commands came for them. Reads wait for others to be sent, and nobody else waits for reads.
    pub(super) fn serve_waiting<B: Backend<Lend = L>>(&mut self, cx: &mut Context<'_, B>) -> bool {
        let before = self.waiting.len();
        let (mut reads_wait, mut others_wait) = (false, false);
        let mut aca_waits;
        for _ in 0..before {
            let Some(index) = self.waiting.pop_front() else {
                break;
            };
            let slot = self.slots.get(index);
            if slot.standing == Standing::Blocked {
                self.waiting.push_back(index);
                continue;
            }
            let waits = match slot.work {
                // It is not behind those that may wait for it.
                _ if is_aca(&slot.header) => {
                    aca_waits = false;
                    &mut aca_waits
                }
                Work::Read(_) => &mut reads_wait,
                _ => &mut others_wait,
            };
            if *waits {
                // Not before those that came first.
            } else if slot.received >= slot.data_out {
                // Its data is there, what it lacks is memory to work with.
                *waits = !self.execute_with_memory(index, cx);
            } else if self.take_buffer(index, slot.data_out as usize, cx) {
                self.ask(index);
            } else {
                *waits = true;
            }
            if *waits {
                self.waiting.push_back(index);
            }
        }
        self.waiting.len() < before
    }

    /// A buffer of `size` bytes from the pool, for a command.
    pub(super) fn pool_buffer<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        size: usize,
        cx: &mut Context<'_, B>,
    ) -> Option<PoolBuffer> {
        let more = if is_aca(&self.slots.get(index).header) {
            ACA_BYTES_MAX
        } else {
            0
        };
        if self.buffer_bytes + size > BUFFER_BYTES_MAX + more {
            return None;
        }
        let buffer = cx.backend.buffer(size);
        match &buffer {
            Some(buffer) => self.buffer_bytes += buffer.capacity(),
            None => self.starved = true,
        }
        buffer
    }

    /// Puts a buffer of `size` bytes in a slot, with what has been received so far; and what its job works with. Both or none: no command has
    /// one and waits for another, or all could wait for ever.
    pub(super) fn take_buffer<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        size: usize,
        cx: &mut Context<'_, B>,
    ) -> bool {
        let scratch_bytes = self.slots.get(index).work.scratch_bytes();
        let Some(buffer) = self.pool_buffer(index, size, cx) else {
            return false;
        };
        let mut scratch = None;
        if scratch_bytes > 0 {
            scratch = self.pool_buffer(index, scratch_bytes, cx);
            if scratch.is_none() {
                self.buffer_bytes -= buffer.capacity();
                return false;
            }
        }
        let slot = self.slots.get_mut(index);
        let before = std::mem::replace(&mut slot.memory, Memory::Buffer(buffer));
        if let Memory::Page(received) = before {
            slot.put(&received);
        }
        slot.scratch = scratch;
        true
    }

    /// The same for data that is under way already and cannot wait: without a buffer, what may come unasked for goes to the heap. That is
    /// bounded by the window and FirstBurstLength.
    pub(super) fn take_memory<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        cx: &mut Context<'_, B>,
    ) {
        let slot = self.slots.get(index);
        let (all, unasked) = (slot.data_out, slot.burst_end.min(slot.data_out));
        if !self.take_buffer(index, all as usize, cx) {
            self.slots.get_mut(index).memory = Memory::Page(vec![0; unasked as usize]);
        }
    }

    /// Copies immediate data to a buffer when too many chunks are pinned; without one it stays where it is, which is correct.
    #[inline]
    pub(super) fn unpin<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        if self.pinned < PINNED_MAX {
            return;
        }
        let size = self.slots.get(index).data_out as usize;
        let Some(mut buffer) = self.pool_buffer(index, size, cx) else {
            return;
        };
        let slot = self.slots.get_mut(index);
        if matches!(slot.memory, Memory::Chunk(..)) {
            buffer[..size].copy_from_slice(slot.bytes(size));
            slot.release_memory(&mut cx.local.chunks);
            slot.memory = Memory::Buffer(buffer);
        } else {
            self.buffer_bytes -= buffer.capacity();
        }
    }
}
