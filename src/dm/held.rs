//! What targets do with clones besides remapping them: hold them, want them back, hand them to the core; and the calls by which
//! a target learns that it should look at them again.

use super::bound::{Bound, Piece};
use super::defect::Defect;
use super::env::Env;
use super::io::{DeviceId, Io, Op, Payload};
use super::limits::LowerId;
use super::mapper::{Mapper, PieceClone, Stage, send_home};
use super::message::{Event, Seen};
use super::parked::Parking;
use super::slab::{NONE, Slab};
use super::status::Status;
use super::target::{AnyTarget, Ask, ChannelIndex, End, Ended, Map, Note, Notice};
use super::timers::Timer;

/// How long a clone waits for memory that it could not have: some turns of a busy reactor. Memory comes back when other I/O ends, which
/// takes tens of microseconds.
pub(super) const MEMORY_RETRY_NS: u64 = 100_000;

#[cfg(test)]
thread_local! {
    /// For tests: a flush clone that ends so below is handed back, as a target may do with it. No target with more than one flush clone
    /// does that, but the rule of FL-6 is about several.
    pub(super) static HANDED_BACK: std::cell::Cell<Option<Status>> = const { std::cell::Cell::new(None) };
}

impl<E: Env> Mapper<E> {
    /// Asks a clone's target where it goes, and does as it says.
    pub(super) fn map_clone(&mut self, env: &mut E, clone: u32, expired: bool) {
        let piece = &self.pieces[clone];
        let original = &self.originals[piece.original];
        let id = original.device;
        let (op, fua) = (original.op_of_stage(), original.io.fua);
        let place = piece.place;
        let ask = Ask {
            op,
            fua,
            sector: piece.sector,
            sectors: piece.sectors,
            number: piece.number,
            now_ns: env.now_ns(),
            expired,
            held_since_ns: piece.held_since_ns,
        };
        let live = self.live(id);
        let target = &mut live.segment(place).target;
        let map = match op {
            Op::Flush => target.flush(&ask),
            Op::Discard | Op::WriteZeroes => target.range(&ask),
            _ => target.map(&ask),
        };
        self.place_clone(env, clone, map);
    }

    /// A read or write of one piece whose target wants more than a remap: it takes a slot for its clone.
    #[cold]
    pub(super) fn keep_whole(
        &mut self,
        env: &mut E,
        id: DeviceId,
        io: Io<E::Payload>,
        piece: Piece,
        map: Map,
    ) {
        self.known(id).flow.in_flight += 1;
        let slot = self.insert(env, id, io, Stage::Data);
        let clone = self.single_piece(slot, piece.place, piece.within, piece.sectors);
        self.place_clone(env, clone, map);
    }

    /// The only clone of an original has ended below, and its target has a say in that.
    #[cold]
    pub(super) fn whole_ended(&mut self, env: &mut E, slot: u32, status: Status) {
        let original = &self.originals[slot];
        let (id, place, sectors) = (original.device, original.place, original.io.sectors);
        let sector = original.io.sector - self.live(id).start(place);
        let original = &self.originals[slot];
        let ended = Ended {
            op: original.io.op,
            sector,
            sectors,
            channel: original.channel,
            note: original.note,
            status,
            started_ns: original.started_ns,
            now_ns: env.now_ns(),
        };
        match self.ask_end(env, id, place, &ended) {
            End::Done(status) => {
                self.originals[slot].status = status;
                self.finish(env, slot);
            }
            end => {
                let clone = self.single_piece(slot, place, sector, sectors);
                self.take_back(env, clone, end);
            }
        }
    }

    fn single_piece(&mut self, slot: u32, place: u32, sector: u64, sectors: u32) -> u32 {
        self.originals[slot].outstanding = 1;
        let clone = PieceClone::new(slot, place, sector, sectors, 0);
        self.pieces.insert(clone)
    }

    /// A lower device has finished one of several clones.
    pub(super) fn complete_piece(&mut self, env: &mut E, clone: u32, status: Status) {
        let piece = &self.pieces[clone];
        if piece.private != NONE {
            return self.private_ended(env, clone, status);
        }
        self.went_below(env, clone, status);
    }

    /// What a lower device was to do for one of several clones is done, or has failed.
    pub(super) fn went_below(&mut self, env: &mut E, clone: u32, status: Status) {
        let piece = &self.pieces[clone];
        let untold = status == Status::Ok && piece.note == Note::NONE;
        let done = untold || piece.place == NONE;
        #[cfg(test)]
        if HANDED_BACK.get() == Some(status) {
            let original = &self.originals[self.pieces[clone].original];
            if original.op_of_stage() == Op::Flush {
                let repeat_ns = u64::from(original.for_home);
                return self.hand_back(env, clone, repeat_ns);
            }
        }
        match done {
            true => self.piece_ended(env, clone, status),
            false => self.tell_target(env, clone, status),
        }
    }

    /// A target has a say in the end of one of several clones.
    #[inline(never)]
    fn tell_target(&mut self, env: &mut E, clone: u32, status: Status) {
        match self.ask_piece_end(env, clone, status) {
            End::Done(status) => self.piece_ended(env, clone, status),
            end => self.take_back(env, clone, end),
        }
    }

    pub(super) fn ask_piece_end(&mut self, env: &mut E, clone: u32, status: Status) -> End {
        let piece = self.pieces[clone];
        let original = &self.originals[piece.original];
        let id = original.device;
        let ended = Ended {
            op: original.op_of_stage(),
            sector: piece.sector,
            sectors: piece.sectors,
            channel: piece.channel,
            note: piece.note,
            status,
            started_ns: piece.started_ns,
            now_ns: env.now_ns(),
        };
        self.ask_end(env, id, piece.place, &ended)
    }

    fn ask_end(&mut self, env: &mut E, id: DeviceId, place: u32, ended: &Ended) -> End {
        let mut notice = None;
        let target = &mut self.live(id).segment(place).target;
        let end = target.end(ended, &mut notice);
        self.after_call(env, id, place, notice);
        end
    }

    fn place_clone(&mut self, env: &mut E, clone: u32, map: Map) {
        if env.planted(Defect::EndedTwice) && matches!(map, Map::Kill | Map::PushBack) {
            self.end_again(env, clone);
        }
        match map {
            Map::Remapped {
                channel,
                sector,
                note,
            } => {
                let sectors = self.pieces[clone].sectors;
                self.send_below(env, clone, channel, sector, sectors, note);
            }
            Map::Tampered {
                channel,
                sector,
                tamper,
            } => self.send_tampered(env, clone, channel, sector, tamper),
            Map::Part(part) => self.send_part(env, clone, part),
            Map::Share(share) => {
                self.send_below(
                    env,
                    clone,
                    share.channel,
                    share.sector,
                    share.sectors,
                    Note::NONE,
                );
            }
            Map::Zero => {
                self.fill_zero(clone);
                self.piece_ended(env, clone, Status::Ok);
            }
            Map::Kill => self.piece_ended(env, clone, Status::IoError),
            Map::Hold { for_ns } => self.hold_clone(env, clone, for_ns),
            Map::Retry { delay_ns } => self.retry_clone(env, clone, delay_ns),
            Map::PushBack => self.hand_back(env, clone, 0),
        }
    }

    /// A planted defect: the target is told again of an end that it has been told of.
    #[cold]
    fn end_again(&mut self, env: &mut E, clone: u32) {
        if self.pieces[clone].note != Note::NONE {
            self.ask_piece_end(env, clone, Status::IoError);
        }
    }

    fn take_back(&mut self, env: &mut E, clone: u32, end: End) {
        match end {
            End::Done(status) => self.piece_ended(env, clone, status),
            End::Tampered(tamper) => {
                let payload = self.payload_of(clone);
                match env.tamper(payload, tamper) {
                    true => self.piece_ended(env, clone, Status::Ok),
                    false => self.retry_clone(env, clone, MEMORY_RETRY_NS),
                }
            }
            End::Hold { for_ns } => self.hold_clone(env, clone, for_ns),
            End::Retry { delay_ns } => self.retry_clone(env, clone, delay_ns),
            End::PushBack => self.hand_back(env, clone, 0),
        }
    }

    /// The target keeps a clone, which forgets where it has been (MP-6).
    fn hold_clone(&mut self, env: &mut E, clone: u32, for_ns: u64) {
        // A moment later than now, so that a target that goes on holding cannot keep a poll from ending.
        let now_ns = env.now_ns();
        let until_ns = now_ns.saturating_add(for_ns.max(1));
        let piece = &mut self.pieces[clone];
        piece.held_since_ns.get_or_insert(now_ns);
        piece.held_until_ns = Some(until_ns);
        if !env.planted(Defect::EndedTwice) {
            piece.note = Note::NONE;
        }
        let PieceClone {
            original, place, ..
        } = *piece;
        let id = self.originals[original].device;
        let pieces = &mut self.pieces;
        let device = self.devices[id.0 as usize]
            .as_deref_mut()
            .expect("a device outlives its originals");
        device.held += 1;
        let live = device
            .live
            .as_mut()
            .expect("an admitted original has a table");
        live.held(place).push(pieces, clone);
        if until_ns != u64::MAX {
            self.timers.arm(until_ns, Timer::Clone(clone));
        }
        self.after_call(env, id, place, None);
    }

    /// A lack of resources: held for a while; in a noflush suspend handed back instead (OQ-1, PM-9), and in a flush step of a sequence
    /// too, because a step is repeated as a whole (FL-12).
    pub(super) fn retry_clone(&mut self, env: &mut E, clone: u32, delay_ns: u64) {
        let original = &self.originals[self.pieces[clone].original];
        let flush_step = original.for_home && original.io.op == Op::Flush;
        let noflush = self.known(original.device).noflush;
        match (noflush, flush_step) {
            (true, _) => self.hand_back(env, clone, 0),
            (false, true) => self.hand_back(env, clone, delay_ns.max(1)),
            (false, false) => self.hold_clone(env, clone, delay_ns),
        }
    }

    /// A clone goes back to the core; the whole original follows when its other clones have ended (IO-21).
    fn hand_back(&mut self, env: &mut E, clone: u32, repeat_ns: u64) {
        let piece = self.pieces.remove(clone);
        assert_eq!(piece.private, NONE, "given back before");
        let slot = piece.original;
        let original = &mut self.originals[slot];
        original.handed_back = true;
        original.repeat_ns = original.repeat_ns.max(repeat_ns);
        self.release(env, slot);
    }

    /// Takes a clone off its target's list.
    fn let_go(&mut self, clone: u32) {
        let piece = &mut self.pieces[clone];
        piece.held_until_ns = None;
        let (slot, place) = (piece.original, piece.place);
        let id = self.originals[slot].device;
        let pieces = &mut self.pieces;
        let device = self.devices[id.0 as usize]
            .as_deref_mut()
            .expect("a device outlives its originals");
        device.held -= 1;
        let live = device
            .live
            .as_mut()
            .expect("an admitted original has a table");
        let taken = live.held(place).take(pieces, clone);
        assert!(taken, "a held clone is on its target's list");
    }

    /// Asks a target again for everything that it holds, in the order it came.
    fn kick(&mut self, env: &mut E, id: DeviceId, place: u32) {
        let mut held = std::mem::take(self.live(id).held(place));
        while let Some(clone) = held.pop(&mut self.pieces) {
            self.known(id).held -= 1;
            self.pieces[clone].held_until_ns = None;
            self.map_clone(env, clone, false);
        }
    }

    /// The same for all targets of a live table, if there is one, in table order.
    pub(super) fn kick_all(&mut self, env: &mut E, id: DeviceId) {
        let live = self.device(id).and_then(|device| device.live.as_ref());
        for place in 0..live.map_or(0, |live| live.places()) {
            self.target_changed(env, id, place);
        }
    }

    /// A call has changed a target: its timer may be another, and what it holds may go on.
    pub(super) fn target_changed(&mut self, env: &mut E, id: DeviceId, place: u32) {
        self.after_call(env, id, place, None);
        self.kick(env, id, place);
    }

    pub(super) fn after_call(
        &mut self,
        env: &mut E,
        id: DeviceId,
        place: u32,
        notice: Option<Notice>,
    ) {
        let live = self.live(id);
        if let Some(due_ns) = live.new_due_ns(place) {
            self.timers.arm(due_ns, Timer::Target(id, place));
        }
        if let Some(notice) = notice {
            let table = self.live(id).serial;
            let seen = Seen {
                table,
                place,
                notice,
            };
            send_home(env, id, Event::Notice(seen));
        }
    }

    /// A lower device was taken away (PM-14): every target of a live table that uses it is told, and ways through that table end.
    pub fn lower_gone(&mut self, env: &mut E, lower: LowerId) {
        for index in 0..self.devices.len() {
            let id = DeviceId(index as u32);
            let Some(live) = self.device(id).and_then(|device| device.live.as_ref()) else {
                continue;
            };
            let Some(channel) = live.table.lowers.iter().position(|l| l.id == lower) else {
                continue;
            };
            let channel = ChannelIndex(channel as u32);
            self.close_ways(id);
            self.call_targets(env, id, |target, notice| target.lower_gone(channel, notice));
        }
    }

    fn call_targets(
        &mut self,
        env: &mut E,
        id: DeviceId,
        call: impl Fn(&mut AnyTarget, &mut Option<Notice>),
    ) {
        for place in 0..self.live(id).places() {
            self.call_target(env, id, place, &call);
        }
    }

    fn call_target(
        &mut self,
        env: &mut E,
        id: DeviceId,
        place: u32,
        call: impl Fn(&mut AnyTarget, &mut Option<Notice>),
    ) {
        let mut notice = None;
        call(&mut self.live(id).segment(place).target, &mut notice);
        self.after_call(env, id, place, notice);
        self.kick(env, id, place);
    }

    /// Does what has become due.
    pub(super) fn expire(&mut self, env: &mut E) {
        let now_ns = env.now_ns();
        while let Some((due_ns, timer)) = self.timers.pop(now_ns) {
            match timer {
                Timer::Clone(clone) => {
                    let piece = self.pieces.get(clone);
                    if piece.is_some_and(|piece| piece.held_until_ns == Some(due_ns)) {
                        self.let_go(clone);
                        self.map_clone(env, clone, true);
                    }
                }
                Timer::Target(id, place) => {
                    let live = self.device_mut(id).and_then(|device| device.live.as_mut());
                    if live.is_some_and(|live| live.is_due(place, due_ns)) {
                        self.call_target(env, id, place, |target, notice| {
                            target.timer(now_ns, notice)
                        });
                    }
                }
                Timer::PushBack(slot) => self.list_pushed_back(slot),
                Timer::Parked(id) => self.expire_parked(env, id, due_ns),
                Timer::Home(id, timer) => {
                    if let Some(Some(home)) = self.homes.get_mut(id.0 as usize) {
                        home.timer(env, timer);
                        self.arm_home(env, id);
                    }
                }
            }
        }
    }

    /// Arms what a device's home has asked for.
    pub(super) fn arm_home(&mut self, env: &E, id: DeviceId) {
        if let Some(Some(home)) = self.homes.get_mut(id.0 as usize) {
            for (delay_ns, timer) in home.armed() {
                let due_ns = env.now_ns().saturating_add(delay_ns.max(1));
                self.timers.arm(due_ns, Timer::Home(id, timer));
            }
        }
    }

    /// Ends every clone of an original that a target holds, as aborted; false when it holds none. What is below ends by itself, and
    /// the original with the last of it (PM-13).
    pub(super) fn abort_held(&mut self, env: &mut E, slot: u32) -> bool {
        let held = |piece: &PieceClone| piece.original == slot && piece.held_until_ns.is_some();
        let clones: Vec<u32> = self
            .pieces
            .iter()
            .filter_map(|(clone, piece)| held(piece).then_some(clone))
            .collect();
        for clone in &clones {
            self.let_go(*clone);
            let place = self.pieces[*clone].place;
            let original = &self.originals[slot];
            let (id, op) = (original.device, original.op_of_stage());
            self.live(id).segment(place).target.given_up(op);
            self.after_call(env, id, place, None);
            self.piece_ended(env, *clone, Status::Aborted);
        }
        !clones.is_empty()
    }

    fn fill_zero(&mut self, clone: u32) {
        let original = &self.originals[self.pieces[clone].original];
        if original.op_of_stage() == Op::Read {
            self.payload_of(clone).fill_zero();
        }
    }

    /// The part of its original's payload that a clone reads or writes.
    pub(super) fn payload_of(&mut self, clone: u32) -> E::Payload {
        let piece = self.pieces[clone];
        let original = &self.originals[piece.original];
        let (id, from) = (original.device, original.io.sector);
        let start = self.live(id).start(piece.place);
        let offset = (start + piece.sector - from) as u32;
        let payload = self.originals[piece.original].payload_of_stage();
        payload.slice(offset * 512, piece.sectors * 512)
    }

    /// The live table of a device that has admitted an original, or been told so.
    pub(super) fn live(&mut self, id: DeviceId) -> &mut Bound<E::Channel> {
        self.known(id)
            .live
            .as_mut()
            .expect("a table stays while its clones are in flight")
    }
}

impl Parking for Slab<PieceClone> {
    fn follower(&self, slot: u32) -> u32 {
        self[slot].next
    }
    fn link(&mut self, slot: u32, next: u32) {
        self[slot].next = next;
    }
}
