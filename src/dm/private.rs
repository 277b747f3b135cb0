//! Clones that go through a buffer of the mapper's own, which no host knows of: a write that its target tampers with, and a read or write of a
//! part of a block that is larger below.
//!
//! ```text
//! a part, read       fetch the block into the buffer ─ answer the read from it
//! a part, written    fetch the block into the buffer ─ change the part ─ store the block, with the original's force-unit-access
//! tampered with      change a byte of a copy ─ store
//! ```
//!
//! A clone is below from its first step to its last, as any other: a suspend waits for it, a device that is taken away fails the step that is
//! under way, and a lower device without room has the step tried again. A step that fails is the clone's end.

use super::defect::Defect;
use super::env::{BufferId, Env, PRIVATE_SECTORS_MAX};
use super::held::MEMORY_RETRY_NS;
use super::io::{CloneId, LowerIo, Op, Payload};
use super::mapper::Mapper;
use super::slab::NONE;
use super::status::Status;
use super::target::{ChannelIndex, Note, Part, Tamper};

/// The buffer that a clone goes through, while it does.
pub(super) struct Private<P> {
    buffer: BufferId,
    /// All of it.
    bytes: P,
    /// What is below.
    step: Step,
}

/// What a lower device is doing with a private buffer.
#[derive(Clone, Copy)]
enum Step {
    /// It reads the block that this is a part of.
    Fetch(Part),
    /// It writes what the buffer holds.
    Store,
}

impl<E: Env> Mapper<E> {
    /// Sends a read or write of a part of a block below.
    #[cold]
    pub(super) fn send_part(&mut self, env: &mut E, clone: u32, part: Part) {
        assert!(part.sectors <= PRIVATE_SECTORS_MAX, "its target knows");
        let payload = self.payload_of(clone);
        let Some((buffer, bytes)) = env.take_buffer(part.sectors, payload) else {
            return self.part_unsent(env, clone, &part);
        };
        self.through(env, clone, part.channel, part.note, buffer, bytes);
        let private = self.pieces[clone].private;
        self.private[private].step = Step::Fetch(part);
        let io = LowerIo {
            op: Op::Read,
            fua: false,
            sector: part.sector,
            sectors: part.sectors,
            payload: bytes,
        };
        let id = self.originals[self.pieces[clone].original].device;
        self.submit_clone(env, id, part.channel, CloneId(clone), io);
    }

    /// Sends a write below from a private copy with one byte changed.
    #[cold]
    pub(super) fn send_tampered(
        &mut self,
        env: &mut E,
        clone: u32,
        channel: ChannelIndex,
        sector: u64,
        tamper: Tamper,
    ) {
        let piece = &self.pieces[clone];
        let (sectors, original) = (piece.sectors, &self.originals[piece.original]);
        assert_eq!(
            original.op_of_stage(),
            Op::Write,
            "only writes are tampered with here"
        );
        assert!(sectors <= PRIVATE_SECTORS_MAX, "its target has it cut");
        let payload = self.payload_of(clone);
        let Some((buffer, bytes)) = env.take_buffer(sectors, payload) else {
            return self.retry_clone(env, clone, MEMORY_RETRY_NS);
        };
        bytes.copy_from(payload);
        let tampered = env.tamper(bytes, tamper);
        assert!(tampered, "a private buffer takes no more memory");
        self.through(env, clone, channel, Note::NONE, buffer, bytes);
        self.store(env, clone, sector, sectors, bytes);
    }

    /// A clone goes through a private buffer from now on.
    fn through(
        &mut self,
        env: &mut E,
        clone: u32,
        channel: ChannelIndex,
        note: Note,
        buffer: BufferId,
        bytes: E::Payload,
    ) {
        let private = self.private.insert(Private {
            buffer,
            bytes,
            step: Step::Store,
        });
        let piece = &mut self.pieces[clone];
        assert_eq!(piece.private, NONE, "one buffer at a time");
        (piece.channel, piece.note, piece.private) = (channel, note, private);
        piece.started_ns = env.now_ns();
        piece.held_since_ns = None;
    }

    /// Writes what a private buffer holds.
    fn store(&mut self, env: &mut E, clone: u32, sector: u64, sectors: u32, bytes: E::Payload) {
        let piece = &self.pieces[clone];
        let (channel, original) = (piece.channel, &self.originals[piece.original]);
        let (id, whole, fua) = (original.device, original.io.op, original.io.fua);
        let live = self.live(id);
        let io = LowerIo {
            op: live.op_below(channel, whole, Op::Write),
            fua: fua && live.lower(channel).fua,
            sector,
            sectors,
            payload: bytes,
        };
        self.submit_clone(env, id, channel, CloneId(clone), io);
    }

    /// A lower device has done one step of a clone that goes through a private buffer.
    #[cold]
    pub(super) fn private_ended(&mut self, env: &mut E, clone: u32, status: Status) {
        let piece = &self.pieces[clone];
        let (index, sectors) = (piece.private, piece.sectors);
        let Private {
            buffer,
            bytes,
            step,
        } = self.private[index];
        let mut unanswered = None;
        if let (Step::Fetch(part), Status::Ok) = (step, status) {
            let found = bytes.slice(part.before * 512, sectors * 512);
            let op = self.originals[piece.original].op_of_stage();
            let payload = self.payload_of(clone);
            if op == Op::Write {
                found.copy_from(payload);
                if env.planted(Defect::BlockLetGoEarly) {
                    self.ask_piece_end(env, clone, Status::Ok);
                    self.pieces[clone].note = Note::NONE;
                }
                self.private[index].step = Step::Store;
                return self.store(env, clone, part.sector, part.sectors, bytes);
            }
            if !env.fill_read(payload, found) {
                unanswered = Some(part);
            }
        }
        // Whatever the target makes of its end: nothing below uses the buffer any more.
        self.private.discard(index);
        self.pieces[clone].private = NONE;
        env.give_back(buffer);
        match unanswered {
            Some(part) => self.part_unsent(env, clone, &part),
            None => self.went_below(env, clone, status),
        }
    }

    /// There is no memory to go on with a part of a block: all of it is done again later.
    fn part_unsent(&mut self, env: &mut E, clone: u32, part: &Part) {
        let piece = &self.pieces[clone];
        let (place, id) = (piece.place, self.originals[piece.original].device);
        self.live(id).segment(place).target.unsent(part);
        self.after_call(env, id, place, None);
        self.retry_clone(env, clone, MEMORY_RETRY_NS);
    }
}
