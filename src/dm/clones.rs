//! Originals with several clones: reads and writes that cross a boundary, discards, write-zeroes, flushes; and the stages of
//! those that take more than one round.

use super::env::Env;
use super::io::{CloneId, Io, LowerIo, Op, Payload};
use super::mapper::{Mapper, Original, PieceClone, Stage};
use super::slab::NONE;
use super::status::Status;
use super::target::{ChannelIndex, Map};

impl<E: Env> Mapper<E> {
    /// Cuts a read or write into pieces and issues them in ascending order, without waiting for one another (IO-8, IO-11).
    pub(super) fn issue_pieces(&mut self, env: &mut E, slot: u32, stage: Stage) {
        let original = &mut self.originals[slot];
        original.stage = stage;
        let id = original.device;
        let io = original.data_of_stage();
        self.hold(slot);
        let mut done = 0;
        while done < io.sectors {
            let live = self
                .known(id)
                .live
                .as_mut()
                .expect("an admitted original has a table");
            let piece = live.piece(io.op, io.sector + u64::from(done), io.sectors - done);
            debug_assert!(piece.sectors > 0, "no empty pieces (IO-8)");
            let payload = io.payload.slice(done * 512, piece.sectors * 512);
            match piece.map {
                Map::Remapped { channel, sector } => {
                    let fua = io.fua && live.table.lowers[channel.0 as usize].fua;
                    let lower = LowerIo {
                        op: io.op,
                        fua,
                        sector,
                        sectors: piece.sectors,
                        payload,
                    };
                    self.issue(env, slot, piece.place, channel, lower);
                }
                Map::Zero if io.op == Op::Read => payload.fill_zero(),
                Map::Zero => {}
                Map::Kill => self.originals[slot].failed(Status::IoError),
            }
            done += piece.sectors;
        }
        self.release(env, slot);
    }

    /// Sends a discard or write-zeroes to every target of its range, each as often as the target asks (IO-9).
    pub(super) fn fan_out_range(&mut self, env: &mut E, slot: u32) {
        let original = &mut self.originals[slot];
        original.stage = Stage::FanOut;
        let (
            id,
            Io {
                op,
                sector,
                sectors,
                payload,
                ..
            },
        ) = (original.device, original.io);
        self.hold(slot);
        let mut done = 0;
        while done < sectors {
            let live = self
                .known(id)
                .live
                .as_mut()
                .expect("an admitted original has a table");
            let (place, within, count) = live.span(sector + u64::from(done), sectors - done);
            done += count;
            if !live.supports(place, op) {
                self.originals[slot].failed(Status::NotSupported);
                continue;
            }
            let target = &mut live.segment(place).target;
            let duplicates = target.duplicates(op);
            match target.map(op, within) {
                Map::Kill => self.originals[slot].failed(Status::IoError),
                Map::Zero => {}
                Map::Remapped { .. } => {
                    for number in 0..duplicates {
                        let live = self.known(id).live.as_mut().expect("held above");
                        let Some(share) = live.segment(place).target.share(number, within, count)
                        else {
                            continue;
                        };
                        let lower = LowerIo {
                            op,
                            fua: false,
                            sector: share.sector,
                            sectors: share.sectors,
                            payload,
                        };
                        self.issue(env, slot, place, share.channel, lower);
                    }
                }
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
        let live = self
            .known(id)
            .live
            .as_mut()
            .expect("an admitted original has a table");
        if live.table.flush_bypasses_map {
            for channel in 0..live.table.lowers.len() as u32 {
                self.flush_lower(env, slot, NONE, ChannelIndex(channel));
            }
        } else {
            for place in 0..live.places() {
                let live = self.known(id).live.as_mut().expect("held above");
                for number in 0..live.segment(place).target.flushes() {
                    let live = self.known(id).live.as_mut().expect("held above");
                    let channel = live.segment(place).target.flush(number);
                    self.flush_lower(env, slot, place, channel);
                }
            }
        }
        self.release(env, slot);
    }

    /// Flushes the lower devices that were marked: the emulation of force-unit-access (FL-28).
    fn flush_marked(&mut self, env: &mut E, slot: u32) {
        let original = &mut self.originals[slot];
        original.stage = Stage::PostFlush;
        let id = original.device;
        self.hold(slot);
        let channels = self
            .known(id)
            .live
            .as_ref()
            .map_or(0, |live| live.channels.len());
        for channel in 0..channels as u32 {
            let live = self
                .known(id)
                .live
                .as_mut()
                .expect("an admitted original has a table");
            if live.unmark(ChannelIndex(channel)) {
                self.flush_lower(env, slot, NONE, ChannelIndex(channel));
            }
        }
        self.release(env, slot);
    }

    /// One flush clone. A device without a volatile cache has nothing to do; one with a cache that cannot flush it says so
    /// (FL-29).
    fn flush_lower(&mut self, env: &mut E, slot: u32, place: u32, channel: ChannelIndex) {
        let original = &self.originals[slot];
        let (id, payload) = (original.device, original.io.payload);
        let live = self
            .known(id)
            .live
            .as_ref()
            .expect("an admitted original has a table");
        let lower = &live.table.lowers[channel.0 as usize];
        if !lower.volatile_cache {
            return;
        }
        if !lower.flush {
            return self.originals[slot].failed(Status::NotSupported);
        }
        let io = LowerIo {
            op: Op::Flush,
            fua: false,
            sector: 0,
            sectors: 0,
            payload,
        };
        self.issue(env, slot, place, channel, io);
    }

    fn issue(
        &mut self,
        env: &mut E,
        slot: u32,
        place: u32,
        channel: ChannelIndex,
        io: LowerIo<E::Payload>,
    ) {
        let original = &mut self.originals[slot];
        original.outstanding += 1;
        let id = original.device;
        let clone = self.pieces.insert(PieceClone {
            original: slot,
            place,
            channel,
        });
        self.submit_clone(env, id, channel, CloneId(clone), io);
    }

    /// Keeps a stage from ending while its clones are still being issued.
    fn hold(&mut self, slot: u32) {
        debug_assert_eq!(self.originals[slot].outstanding, 0);
        self.originals[slot].outstanding = 1;
    }

    fn release(&mut self, env: &mut E, slot: u32) {
        let original = &mut self.originals[slot];
        original.outstanding -= 1;
        if original.outstanding == 0 {
            self.stage_ended(env, slot);
        }
    }

    /// A lower device has finished one of several clones.
    pub(super) fn complete_piece(&mut self, env: &mut E, clone: CloneId, status: Status) {
        let PieceClone {
            original: slot,
            place,
            channel,
        } = self.pieces.remove(clone.0);
        if status != Status::Ok {
            let original = &mut self.originals[slot];
            original.failed(status);
            let id = original.device;
            if place != NONE {
                self.target_failed(env, id, place, channel, status);
            }
        }
        self.release(env, slot);
    }

    /// All clones of a stage have ended: the next stage, or the end.
    fn stage_ended(&mut self, env: &mut E, slot: u32) {
        let original = &mut self.originals[slot];
        let (id, io, stage) = (original.device, original.io, original.stage);
        if original.status != Status::Ok {
            return self.finish(env, slot);
        }
        match stage {
            Stage::Compare => {
                let bytes = io.sectors * 512;
                let found = io.payload.slice(2 * bytes, bytes);
                if found.equals(io.payload.slice(0, bytes)) {
                    return self.issue_pieces(env, slot, Stage::Data);
                }
                original.status = Status::Miscompare;
            }
            Stage::Data | Stage::FanOut if io.fua => {
                let device = self.known(id);
                // An ordered device's sequence flushes everything afterwards anyway.
                let live = device.live.as_mut().filter(|_| !device.ordered);
                let unflushed = live.is_some_and(|live| match io.op {
                    Op::Write | Op::CompareAndWrite => live.mark_written(io.sector, io.sectors),
                    Op::WriteZeroes => live.mark_zeroed(io.sector, io.sectors),
                    // What a discard leaves behind is nobody's data: there is nothing to make durable.
                    Op::Read | Op::Flush | Op::Discard => false,
                });
                if unflushed {
                    return self.flush_marked(env, slot);
                }
            }
            Stage::Data | Stage::FanOut | Stage::PostFlush => {}
            Stage::Parked | Stage::Sequenced => unreachable!("a parked original has no clones"),
        }
        self.finish(env, slot);
    }
}

impl<P: Payload> Original<P> {
    /// Takes in a clone's error: the first one counts (IO-15), but a flush that a device cannot do outranks any other
    /// error of the same flush (FL-6).
    fn failed(&mut self, status: Status) {
        let flushing = self.io.op == Op::Flush || self.stage == Stage::PostFlush;
        if self.status == Status::Ok || (flushing && status == Status::NotSupported) {
            self.status = status;
        }
    }

    /// The read or write that the present stage consists of: for a compare-and-write, one of its two halves.
    fn data_of_stage(&self) -> Io<P> {
        let io = self.io;
        if io.op != Op::CompareAndWrite {
            return io;
        }
        let bytes = io.sectors * 512;
        match self.stage {
            Stage::Compare => Io {
                op: Op::Read,
                fua: false,
                payload: io.payload.slice(2 * bytes, bytes),
                ..io
            },
            _ => Io {
                op: Op::Write,
                payload: io.payload.slice(bytes, bytes),
                ..io
            },
        }
    }
}
