//! Task attributes (SAM-5, 8.6): commands that wait for others of their task set.
//!
//! The task set is that of the nexus in a unit (TST 001b). An ORDERED command begins when all older ones have ended, and younger ones begin
//! when it has; HEAD OF QUEUE passes them. While there is no ORDERED command, a SIMPLE one costs the one comparison that finds that out:
//! who is older is told by CmdSN, so nothing is kept of commands that do not wait.
//!
//! On a device whose flush policy is ordered, an ORDERED command is a barrier for all cores as well (dm semantics, section 9, item 2): a write
//! takes the way of one with FUA, anything else at the medium follows an empty barrier.
//!
//! While a task set is at fault (`allegiance`) nobody's turn comes in it.

use std::collections::VecDeque;

use super::command::{Memory, Phase, Standing, Work};
use super::receive::Segment;
use super::session::{Context, Session};
use crate::dm::{DeviceId, Op};
use crate::export::backend::{Backend, Lend};
use crate::iscsi::pdu::{FINAL, Header, is_before, opcode};
use crate::scsi::{Extent, Outcome, Place, Step};

/// ATTR of a command's header (RFC 7143, 11.3.1).
pub(super) const ATTRIBUTE: u8 = 0x07;
const ORDERED: u8 = 2;
pub(super) const HEAD_OF_QUEUE: u8 = 3;
pub(super) const ACA: u8 = 4;

/// The bits of ATTR that neither an untagged nor a SIMPLE command has.
pub(super) const NOT_SIMPLE: u8 = 0x06;

/// Commands that wait for their turn.
#[derive(Default)]
pub struct Line {
    /// ORDERED commands that have not ended, and commands that wait: one whose data is still on its way may be the last of them. Task sets
    /// at fault.
    pub(super) barriers: u32,
    /// The units whose task set is at fault (ACA).
    pub(super) faults: Vec<u16>,
    /// Slots and their CmdSN, in the order in which they came; no more than there are slots.
    waiting: VecDeque<(u16, u32)>,
}

impl Line {
    /// Nobody waits any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

fn is_ordered(header: &Header) -> bool {
    header.opcode() == opcode::COMMAND && header.flags() & ATTRIBUTE == ORDERED
}

/// Whether one request came before another. An immediate one has the number of the next that is not.
fn is_older(a: &Header, b: &Header) -> bool {
    let (number, other) = (a.u32(24), b.u32(24));
    is_before(number, other) || number == other && a.is_immediate() && !b.is_immediate()
}

/// Whether the task is over as far as others of its set are concerned.
pub(super) fn has_ended(phase: Phase) -> bool {
    matches!(
        phase,
        Phase::Free | Phase::Answering | Phase::Responding | Phase::Background
    )
}

impl<L: Lend> Session<L> {
    /// A command that is not SIMPLE, or came while there is an ORDERED one. True when it waits, or has begun here.
    #[cold]
    pub(super) fn line_up<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        segment: Option<&Segment<'_>>,
        cx: &mut Context<'_, B>,
    ) -> bool {
        let header = self.slots.get(index).header;
        let attribute = header.flags() & ATTRIBUTE;
        if attribute == HEAD_OF_QUEUE || attribute == ACA {
            return false;
        }
        self.line.barriers += u32::from(attribute == ORDERED);
        if self.may_begin(index) {
            if attribute == ORDERED {
                self.begin::<true, B>(index, segment, cx);
                return true;
            }
            return false;
        }
        let slot = self.slots.get_mut(index);
        slot.standing = Standing::InLine;
        self.line.waiting.push_back((index, header.u32(24)));
        // What comes unasked for is taken in; the rest is asked for when it is the command's turn.
        let size = header.data_bytes() as u32;
        let unasked = if header.is_final() {
            size
        } else {
            header.u32(20).min(self.parameters.first_burst_bytes)
        };
        slot.data_out = unasked;
        slot.burst_end = unasked;
        slot.memory = Memory::Page(vec![0; unasked as usize]);
        slot.phase = Phase::AwaitsData;
        if let Some(segment) = segment {
            slot.put(segment.bytes);
            slot.received = size;
            if size == unasked {
                slot.phase = Phase::InLine;
            }
        }
        true
    }

    fn begin_either<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        segment: Option<&Segment<'_>>,
        cx: &mut Context<'_, B>,
    ) {
        if is_ordered(&self.slots.get(index).header) {
            self.begin::<true, B>(index, segment, cx);
        } else {
            self.begin::<false, B>(index, segment, cx);
        }
    }

    /// Whether everything that a command has to wait for has ended.
    fn may_begin(&self, index: u16) -> bool {
        let own = &self.slots.get(index).header;
        let waits_for_all = is_ordered(own);
        !self.slots.taken().any(|other| {
            let other = self.slots.get(other);
            let header = &other.header;
            header.opcode() == opcode::COMMAND
                && header.lun() == own.lun()
                && (waits_for_all || is_ordered(header))
                && is_older(header, own)
                && !has_ended(other.phase)
        })
    }

    /// Lets commands begin whose turn it is. True if there was one.
    pub(super) fn advance<B: Backend<Lend = L>>(&mut self, cx: &mut Context<'_, B>) -> bool {
        let before = self.line.waiting.len();
        // Units whose next command waits: so do all that came after it.
        let mut blocked: Vec<[u8; 8]> = Vec::new();
        for _ in 0..before {
            let Some((index, number)) = self.line.waiting.pop_front() else {
                break;
            };
            let slot = self.slots.get(index);
            if slot.standing != Standing::InLine
                || slot.header.u32(24) != number
                || has_ended(slot.phase)
            {
                // It was aborted, or refused, and the slot may be another's.
                continue;
            }
            let lun = slot.header.lun();
            let is_here = slot.phase == Phase::InLine && !self.line.faults.contains(&slot.lun);
            if blocked.contains(&lun) || !is_here || !self.may_begin(index) {
                blocked.push(lun);
                self.line.waiting.push_back((index, number));
                continue;
            }
            self.take_turn(index, cx);
        }
        let unfinished = self.slots.taken().filter(|&index| {
            let slot = self.slots.get(index);
            is_ordered(&slot.header) && !has_ended(slot.phase)
        });
        let line = &self.line;
        let barriers = unfinished.count() + line.waiting.len() + line.faults.len();
        self.line.barriers = barriers as u32;
        self.line.waiting.len() < before
    }

    /// It is a command's turn: as if all that has come of its data had come with it.
    fn take_turn<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        let slot = self.slots.get_mut(index);
        slot.standing = Standing::Plain;
        slot.phase = Phase::Running;
        let received = std::mem::take(&mut slot.received) as usize;
        slot.header.put_data_bytes(received);
        slot.header.0[1] |= FINAL;
        let memory = std::mem::take(&mut slot.memory);
        let bytes = match &memory {
            Memory::Page(page) => &page[..received],
            _ => &[],
        };
        let segment = Segment {
            chunk: None,
            offset: 0,
            bytes,
        };
        self.begin_either(index, Some(&segment), cx);
    }

    /// The mapped device that a command is for.
    fn device<B>(&self, index: u16, cx: &Context<'_, B>) -> Option<DeviceId> {
        let lun = self.slots.get(index).lun;
        Some(cx.local.units.get(self.target()?, lun)?.device)
    }

    /// An ORDERED command to a device whose flush policy is ordered: a barrier for the commands of all.
    pub(super) fn fence<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        let device = self.device(index, cx);
        if !device.is_some_and(|device| cx.backend.is_ordered(device)) {
            return;
        }
        let slot = self.slots.get_mut(index);
        slot.work = match std::mem::take(&mut slot.work) {
            Work::Write(extent, _) => Work::Write(extent, true),
            work => Work::Behind(Box::new(work)),
        };
    }

    /// The empty barrier before a command.
    pub(super) fn submit_fence<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        cx: &mut Context<'_, B>,
    ) {
        self.start(index);
        let fence = Step {
            lun: None,
            op: Op::Flush,
            extent: Extent {
                sector: 0,
                sectors: 0,
            },
            fua: false,
            place: Place::Nothing,
        };
        if let Some(status) = self.submit_step(index, &fence, cx) {
            self.completed(index, status, cx);
        }
    }

    /// The barrier before a command has ended.
    pub(super) fn fence_ended<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        work: Work,
        cx: &mut Context<'_, B>,
    ) {
        let slot = self.slots.get_mut(index);
        slot.work = work;
        if !slot.status.is_ok() || slot.standing.is_over() || self.is_dead() {
            let slot = self.slots.get_mut(index);
            slot.outcome = Outcome::of(slot.status, false);
            self.conclude(index, cx);
            return;
        }
        self.unstart(index);
        let slot = self.slots.get_mut(index);
        if slot.standing == Standing::Blocked {
            slot.phase = Phase::Blocked;
            return;
        }
        self.execute(index, cx);
    }
}
