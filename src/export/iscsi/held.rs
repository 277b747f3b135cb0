//! Requests that have come before their turn (RFC 7143, 4.2.2.1): kept where they were received, and carried out when those before them
//! have come.
//!
//! On the one connection that a session has, an initiator that numbers requests in one order and sends them in another is rare but
//! allowed. A command whose data follows in other PDUs (F is 0) is not kept: its data would come before it.

use std::rc::Rc;

use super::receive::Segment;
use super::session::{Context, Session, WINDOW};
use crate::export::backend::{Backend, Lend};
use crate::export::chunk::{Chunk, ChunkPool};
use crate::iscsi::pdu::{Header, is_before, opcode};

/// Requests of a connection that may be kept. Each may pin a chunk of 128 KiB, so no more than writes that do.
const HELD_MAX: usize = 32;

/// A request that waits for its turn.
pub(super) struct Held {
    header: Header,
    chunk: Rc<Chunk>,
    offset: usize,
    size: usize,
    /// Nothing is done for it when its turn comes: a task management function has taken it.
    is_aborted: bool,
}

impl<L: Lend> Session<L> {
    /// Whether a request is in the window, but not the next.
    #[inline]
    pub(super) fn is_early(&self, header: &Header) -> bool {
        let number = header.u32(24);
        let end = self.expected_sn.wrapping_add(WINDOW);
        !header.is_immediate() && is_before(self.expected_sn, number) && is_before(number, end)
    }

    /// Keeps a request that is early. Any other that was not carried out came before, or is out of the window: it is ignored.
    pub(super) fn hold(&mut self, header: &Header, segment: &Segment<'_>) {
        let is_whole = header.opcode() != opcode::COMMAND || header.is_final();
        let Some(chunk) = segment.chunk.filter(|_| self.is_early(header) && is_whole) else {
            return;
        };
        if self.held.len() == HELD_MAX {
            return;
        }
        self.held.entry(header.u32(24)).or_insert_with(|| Held {
            header: *header,
            chunk: Rc::clone(chunk),
            offset: segment.offset,
            size: segment.bytes.len(),
            is_aborted: false,
        });
    }

    /// A command that waits for its turn is not carried out when that comes; false if there is none of this tag.
    pub(super) fn abort_held(&mut self, tag: u32) -> bool {
        let mut held = self.held.values_mut();
        let found = held
            .find(|held| held.header.opcode() == opcode::COMMAND && held.header.task_tag() == tag);
        match found {
            Some(held) => {
                held.is_aborted = true;
                true
            }
            None => false,
        }
    }

    /// Carries out the requests whose turn it is now. True if there was one.
    pub(super) fn run_held<B: Backend<Lend = L>>(&mut self, cx: &mut Context<'_, B>) -> bool {
        let mut worked = false;
        while self.is_open() && !self.is_blocked() {
            let Some(held) = self.held.remove(&self.expected_sn) else {
                break;
            };
            worked = true;
            if held.is_aborted {
                self.expected_sn = self.expected_sn.wrapping_add(1);
            } else {
                let segment = Segment {
                    chunk: Some(&held.chunk),
                    offset: held.offset,
                    // SAFETY: it was received before it was kept, and is not written again while the chunk is held.
                    bytes: unsafe { held.chunk.bytes(held.offset, held.offset + held.size) },
                };
                self.full_pdu(&held.header, &segment, cx);
            }
            cx.local.chunks.give(held.chunk);
        }
        worked
    }

    /// Lets go of all that waits for its turn.
    pub(super) fn drop_held(&mut self, chunks: &mut ChunkPool) {
        for (_, held) in std::mem::take(&mut self.held) {
            chunks.give(held.chunk);
        }
    }
}
