//! Originals with several clones: reads and writes that cross a boundary, discards, write-zeroes, flushes; and the stages of
//! those that take more than one round. What a target keeps, or wants back, is in `held.rs`.

use super::defect::Defect;
use super::env::Env;
use super::io::{CloneId, DeviceId, Io, LowerIo, Op, Payload};
use super::mapper::{Mapper, Original, PieceClone, Stage};
use super::slab::NONE;
use super::status::Status;
use super::target::{ChannelIndex, Note, Remap};

impl<E: Env> Mapper<E> {
    /// Cuts a read or write into pieces and issues them in ascending order, without waiting for one another (IO-8, IO-11).
    pub(super) fn issue_pieces(&mut self, env: &mut E, slot: u32, stage: Stage) {
        let original = &mut self.originals[slot];
        original.stage = stage;
        let (id, op, payload) = (
            original.device,
            original.op_of_stage(),
            original.payload_of_stage(),
        );
        let Io {
            sector,
            sectors,
            fua,
            ..
        } = original.io;
        self.hold(slot);
        let mut done = 0;
        while done < sectors {
            let live = self.live(id);
            let (piece, place) = live.piece(sector + u64::from(done), sectors - done);
            debug_assert!(piece.sectors > 0, "no empty pieces (IO-8)");
            if let Remap::To(channel, sector) = place.remap(piece.within) {
                let misplaced = env.planted(Defect::PiecesMisplaced);
                let offset = if misplaced { 0 } else { done };
                let io = LowerIo {
                    op,
                    fua: fua && op == Op::Write && live.lower(channel).fua,
                    sector,
                    sectors: piece.sectors,
                    payload: payload.slice(offset * 512, piece.sectors * 512),
                };
                let clone = PieceClone {
                    channel,
                    ..PieceClone::new(slot, piece.place, piece.within, piece.sectors, 0)
                };
                self.send_clone(env, id, clone, io);
            } else {
                self.issue(env, slot, piece.place, piece.within, piece.sectors, 0);
            }
            done += piece.sectors;
        }
        self.release(env, slot);
    }

    /// Issues an atomic write: one clone, since its table does not cut it.
    pub(super) fn issue_whole(&mut self, env: &mut E, slot: u32) {
        let original = &mut self.originals[slot];
        original.stage = Stage::Data;
        let (id, sector, sectors) = (original.device, original.io.sector, original.io.sectors);
        self.hold(slot);
        let (piece, _) = self.live(id).piece(sector, sectors);
        assert_eq!(piece.sectors, sectors, "checked by the table's limits");
        self.issue(env, slot, piece.place, piece.within, sectors, 0);
        self.release(env, slot);
    }

    /// Sends a discard or write-zeroes to every target of its range, each as often as the target asks (IO-9).
    pub(super) fn fan_out_range(&mut self, env: &mut E, slot: u32) {
        let original = &mut self.originals[slot];
        original.stage = Stage::FanOut;
        let id = original.device;
        let Io {
            op,
            sector,
            sectors,
            ..
        } = original.io;
        self.hold(slot);
        let mut done = 0;
        while done < sectors {
            let live = self.live(id);
            let (place, within, count) = live.span(sector + u64::from(done), sectors - done);
            done += count;
            if !live.supports(place, op) {
                self.originals[slot].failed(Status::NotSupported);
                continue;
            }
            for number in 0..live.segment(place).target.duplicates(op) {
                self.issue(env, slot, place, within, count, number);
            }
        }
        self.release(env, slot);
    }

    /// Flushes everything beneath the table, all clones at once: one per distinct lower device where every target lets
    /// that stand for its own (FL-20), else as many per target as it asks for (FL-16, FL-22).
    pub(super) fn fan_out_flush(&mut self, env: &mut E, slot: u32) {
        let original = &mut self.originals[slot];
        original.stage = Stage::FanOut;
        let id = original.device;
        self.hold(slot);
        let live = self.live(id);
        if live.table.flush_bypasses_map {
            for channel in 0..live.table.lowers.len() as u32 {
                if channel > 0 && env.planted(Defect::SecondLegNotFlushed) {
                    break;
                }
                self.flush_lower(env, slot, ChannelIndex(channel));
            }
        } else {
            for place in 0..live.places() {
                self.flush_target(env, slot, place);
            }
        }
        self.release(env, slot);
    }

    /// Flushes what a write with force-unit-access left in caches that take none (FL-28): the lower devices that were
    /// marked, and all of a target that chooses among its devices itself.
    fn flush_after_fua(&mut self, env: &mut E, slot: u32) {
        let original = &mut self.originals[slot];
        original.stage = Stage::PostFlush;
        let (id, io) = (original.device, original.io);
        self.hold(slot);
        for channel in 0..self.live(id).channels.len() as u32 {
            if self.live(id).unmark(ChannelIndex(channel)) {
                self.flush_lower(env, slot, ChannelIndex(channel));
            }
        }
        let mut next = 0;
        while let Some(place) = self.live(id).flush_through(next, &io) {
            self.flush_target(env, slot, place);
            next = place + 1;
        }
        self.release(env, slot);
    }

    /// All flush clones of one target.
    fn flush_target(&mut self, env: &mut E, slot: u32, place: u32) {
        let id = self.originals[slot].device;
        for number in 0..self.live(id).segment(place).target.flushes() {
            self.issue(env, slot, place, 0, 0, number);
        }
    }

    /// One flush clone that belongs to no target, to a device that has something to flush.
    fn flush_lower(&mut self, env: &mut E, slot: u32, channel: ChannelIndex) {
        let original = &self.originals[slot];
        let (id, payload) = (original.device, original.io.payload);
        match self.live(id).lower(channel).flushing() {
            Ok(true) => {}
            Ok(false) => return,
            Err(status) => return self.originals[slot].failed(status),
        }
        let io = LowerIo {
            op: Op::Flush,
            fua: false,
            sector: 0,
            sectors: 0,
            payload,
        };
        let clone = PieceClone {
            channel,
            ..PieceClone::new(slot, NONE, 0, 0, 0)
        };
        self.send_clone(env, id, clone, io);
    }

    /// One clone more, to be sent by its target.
    fn issue(
        &mut self,
        env: &mut E,
        slot: u32,
        place: u32,
        sector: u64,
        sectors: u32,
        number: u32,
    ) {
        self.originals[slot].outstanding += 1;
        let clone = PieceClone::new(slot, place, sector, sectors, number);
        let clone = self.pieces.insert(clone);
        self.map_clone(env, clone, false);
    }

    /// One clone more, which has a place to go.
    #[inline(always)]
    fn send_clone(
        &mut self,
        env: &mut E,
        id: DeviceId,
        clone: PieceClone,
        io: LowerIo<E::Payload>,
    ) {
        self.originals[clone.original].outstanding += 1;
        let channel = clone.channel;
        let clone = self.pieces.insert(clone);
        self.submit_clone(env, id, channel, CloneId(clone), io);
    }

    /// Sends a clone to a lower device. A flush finds nothing to do at a device without a volatile cache; one with a cache that
    /// cannot flush it says so (FL-29).
    pub(super) fn send_below(
        &mut self,
        env: &mut E,
        clone: u32,
        channel: ChannelIndex,
        sector: u64,
        sectors: u32,
        note: Note,
    ) {
        let piece = &mut self.pieces[clone];
        (piece.channel, piece.note) = (channel, note);
        piece.held_since_ns = None;
        if note != Note::NONE {
            piece.started_ns = env.now_ns();
        }
        let (slot, place, within) = (piece.original, piece.place, piece.sector);
        let original = &self.originals[slot];
        let (id, op) = (original.device, original.op_of_stage());
        let live = self.live(id);
        let start = live.start(place);
        let (fua, flushing) = (live.lower(channel).fua, live.lower(channel).flushing());
        let original = &self.originals[slot];
        let payload = match (op, flushing) {
            (Op::Read | Op::Write, _) => {
                let mut offset = (start + within - original.io.sector) as u32;
                if env.planted(Defect::PiecesMisplaced) {
                    offset = 0;
                }
                let payload = original.payload_of_stage();
                payload.slice(offset * 512, sectors * 512)
            }
            (Op::Flush, Ok(false)) => return self.complete_piece(env, clone, Status::Ok),
            (Op::Flush, Err(status)) => return self.complete_piece(env, clone, status),
            _ => original.io.payload,
        };
        let (whole, forced) = (original.io.op, original.io.fua);
        let io = LowerIo {
            op: self.live(id).op_below(channel, whole, op),
            fua: fua && op == Op::Write && forced,
            sector,
            sectors,
            payload,
        };
        self.submit_clone(env, id, channel, CloneId(clone), io);
    }

    /// Keeps a stage from ending while its clones are still being issued.
    fn hold(&mut self, slot: u32) {
        debug_assert_eq!(self.originals[slot].outstanding, 0);
        self.originals[slot].outstanding = 1;
    }

    /// One clone less, or the issuing of clones has ended.
    pub(super) fn release(&mut self, env: &mut E, slot: u32) {
        let original = &mut self.originals[slot];
        original.outstanding -= 1;
        if original.outstanding == 0 {
            self.stage_ended(env, slot);
        }
    }

    /// A clone of several has come to its end.
    #[inline(always)]
    pub(super) fn piece_ended(&mut self, env: &mut E, clone: u32, status: Status) {
        let piece = &self.pieces[clone];
        assert_eq!(piece.private, NONE, "given back before");
        let (slot, place) = (piece.original, piece.place);
        self.pieces.discard(clone);
        if status != Status::Ok {
            self.piece_failed(env, slot, place, status);
        }
        self.release(env, slot);
    }

    /// An error of a clone of several. What a target's device has refused once it is not asked again (IO-29).
    #[cold]
    fn piece_failed(&mut self, env: &mut E, slot: u32, place: u32, status: Status) {
        let original = &self.originals[slot];
        let (id, op) = (original.device, original.op_of_stage());
        let dropped = (original.io.op == Op::Flush && env.planted(Defect::FlushErrorDropped))
            || (original.status != Status::Ok && env.planted(Defect::FirstFlushErrorWins));
        if matches!(status, Status::NotSupported | Status::Target)
            && matches!(op, Op::Discard | Op::WriteZeroes)
        {
            self.live(id).refused(place, op);
        }
        if !dropped {
            self.originals[slot].failed(status);
        }
    }

    /// All clones of a stage have ended: the next stage, or the end.
    fn stage_ended(&mut self, env: &mut E, slot: u32) {
        let original = &mut self.originals[slot];
        let (id, io, stage) = (original.device, original.io, original.stage);
        if original.status != Status::Ok && env.planted(Defect::CompletedTwice) {
            env.complete(io.tag, original.status);
        }
        if original.status != Status::Ok || original.handed_back {
            return self.finish(env, slot);
        }
        match stage {
            Stage::Compare => {
                let bytes = io.sectors * 512;
                let found = io.payload.slice(2 * bytes, bytes);
                if found.equals(io.payload.slice(0, bytes)) {
                    original.compared = true;
                    return self.issue_pieces(env, slot, Stage::Data);
                }
                original.status = Status::Miscompare;
            }
            Stage::Data | Stage::FanOut if io.fua => {
                let device = self.known(id);
                // An ordered device's sequence flushes everything afterwards anyway.
                let live = device.live.as_mut().filter(|_| !device.ordered);
                if live.is_some_and(|live| live.mark_unflushed(&io))
                    && !env.planted(Defect::FuaNotEmulated)
                {
                    return self.flush_after_fua(env, slot);
                }
            }
            Stage::Data | Stage::FanOut | Stage::PostFlush => {}
            Stage::Parked | Stage::Sequenced => unreachable!("a parked original has no clones"),
        }
        self.finish(env, slot);
    }
}

impl PieceClone {
    /// A clone that has gone nowhere yet.
    #[inline(always)]
    pub(super) fn new(
        original: u32,
        place: u32,
        sector: u64,
        sectors: u32,
        number: u32,
    ) -> PieceClone {
        PieceClone {
            original,
            place,
            sector,
            sectors,
            number,
            channel: ChannelIndex(0),
            note: Note::NONE,
            started_ns: 0,
            held_until_ns: None,
            held_since_ns: None,
            private: NONE,
            next: NONE,
        }
    }
}

impl<P: Payload> Original<P> {
    /// Takes in a clone's error: the first one counts (IO-15), but a flush that a device cannot do outranks any other
    /// error of the same flush (FL-6).
    pub(super) fn failed(&mut self, status: Status) {
        let flushing = self.io.op == Op::Flush || self.stage == Stage::PostFlush;
        if self.status == Status::Ok || (flushing && status == Status::NotSupported) {
            self.status = status;
        }
    }

    /// What the clones of the present stage do.
    #[inline(always)]
    pub(super) fn op_of_stage(&self) -> Op {
        match (self.stage, self.io.op) {
            (Stage::PostFlush, _) => Op::Flush,
            (Stage::Compare, _) => Op::Read,
            (_, Op::CompareAndWrite | Op::WriteAtomic) => Op::Write,
            (_, op) => op,
        }
    }

    /// The bytes that they read or write: of a compare-and-write, one of its three parts.
    #[inline(always)]
    pub(super) fn payload_of_stage(&self) -> P {
        let part = |index: u32| {
            let bytes = self.io.sectors * 512;
            self.io.payload.slice(index * bytes, bytes)
        };
        match (self.stage, self.io.op) {
            (Stage::Compare, _) => part(2),
            (_, Op::CompareAndWrite) => part(1),
            _ => self.io.payload,
        }
    }
}
