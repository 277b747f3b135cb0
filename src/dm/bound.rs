//! A table as one core holds it: its own copy of every target, its own channel to every lower device.

use std::rc::Rc;
use std::sync::Arc;

use super::env::Env;
use super::io::{CoreId, Io, Op};
use super::lane::{Lane, Leg, Legs, Span, Way};
use super::limits::Lower;
use super::message::Epoch;
use super::parked::Parked;
use super::stacked::Channel;
use super::table::{Limits, Segment, Table, supports};
use super::target::{AnyTarget, Ask, ChannelIndex, Map, Remap, Share, Site};

/// A table bound to a core. Nothing in it is shared with another core but the immutable [`Table`].
pub(super) struct Bound<C> {
    /// What was loaded.
    pub table: Arc<Table>,
    /// The round that staged it: its name among the tables that the device has had, the same on every core.
    pub serial: Epoch,
    /// Which hook the targets were called with last.
    hooks: Hooks,
    /// The device's limits with this table: its own, unless it took over those of the table before it (1.4, step 3).
    pub limits: Arc<Limits>,
    /// One channel per distinct lower device, in the table's order.
    pub channels: Vec<Channel<C>>,
    /// This core's targets.
    places: Vec<Place>,
    /// The sector after the last of each place: what a search looks at, eight to a cache line.
    ends: Vec<u64>,
    /// The place of the last I/O: most neighbours in time are neighbours in space.
    last: usize,
    /// Where the last I/O went straight on.
    stretch: Stretch,
    /// Room to mark channels while a fan-out is put together; all false between fan-outs.
    marks: Vec<bool>,
}

/// Where the targets' hooks stand. They are strictly paired: presuspend, then undo, or postsuspend and, after preresumes of
/// which the last succeeded, resume (SU-9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hooks {
    /// Not run yet, or suspended.
    Resting,
    /// All targets have agreed to be resumed.
    Preresumed,
    /// I/O flows.
    Running,
    /// Being suspended.
    Presuspended,
}

#[cfg(test)]
thread_local! {
    /// For tests: targets of this type refuse to be resumed.
    pub(super) static UNRESUMABLE: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
    /// For tests: how often tables on this thread's cores were presuspended, undone, postsuspended, preresumed and resumed.
    pub(super) static HOOKS: std::cell::Cell<[u64; 5]> = const { std::cell::Cell::new([0; 5]) };
}

#[cfg(test)]
fn count_hook(which: usize) {
    let mut counts = HOOKS.get();
    counts[which] += 1;
    HOOKS.set(counts);
}

/// Sectors of the table that follow one another on one lower device.
#[derive(Clone, Copy, Debug, Default)]
struct Stretch {
    span: Span,
    /// The place in the table.
    place: u32,
    /// Where it lies.
    channel: ChannelIndex,
    /// Where it begins there.
    below: u64,
}

/// One target in its place, with the numbers the I/O path needs beside it.
pub(super) struct Place {
    start: u64,
    end: u64,
    /// A piece never crosses a multiple of this; 0 for no such bound (IO-6).
    split: u64,
    /// `split - 1` where that is a power of two, so that a mask stands for a division.
    split_mask: Option<u64>,
    /// A piece is a part of one such block, or whole ones only ([`super::target::Emulation`]), in sectors; 0 for no such rule. With it go a
    /// `split` and no mask, so that the way of other targets is as short as without it.
    block: u32,
    /// The most a piece may have: the smallest limit of the lower devices.
    sectors_max: u32,
    /// The target and its lower devices take discards (TG-1), and none was refused (IO-29).
    discard: bool,
    /// They take write-zeroes, and none was refused.
    write_zeroes: bool,
    /// Some device beneath has a volatile cache.
    volatile_cache: bool,
    /// A write that carried force-unit-access may still have to be flushed: some device beneath has a volatile cache and takes
    /// no FUA (FL-28).
    flush_after_fua: bool,
    /// What the target holds, oldest first.
    held: Parked,
    /// The target's timer that is armed, `u64::MAX` for none.
    due_ns: u64,
    segment: Segment,
}

impl Place {
    /// How much of `sectors` from `sector` one clone may carry (IO-6).
    #[inline(always)]
    fn room(&self, sector: u64, sectors: u32) -> u32 {
        let within = sector - self.start;
        let mut room = self.end - sector;
        if self.split != 0 {
            let into = match self.split_mask {
                Some(mask) => within & mask,
                None if self.block != 0 => return self.room_in_blocks(within, room, sectors),
                None => within % self.split,
            };
            room = room.min(self.split - into);
        }
        room.min(u64::from(sectors.min(self.sectors_max))) as u32
    }

    /// The same where a piece is a part of one block, or whole blocks only.
    #[cold]
    fn room_in_blocks(&self, within: u64, room: u64, sectors: u32) -> u32 {
        let block = self.block;
        let room = room.min(self.split - within % self.split);
        let sectors = room.min(u64::from(sectors)) as u32;
        let into = (within % u64::from(block)) as u32;
        if into != 0 || sectors < block {
            return sectors.min(block - into);
        }
        let most = sectors.min(self.sectors_max);
        most - most % block
    }

    /// What of it may be read and written, in pieces of which size.
    #[inline(always)]
    fn span(&self, limits: &Limits) -> Span {
        Span {
            start: self.start,
            length: limits.sectors.min(self.end) - self.start,
            most: u64::from(self.sectors_max),
        }
    }

    /// Where a read or write of the sector `within` goes, if the target merely computes that.
    #[inline(always)]
    pub fn remap(&self, within: u64) -> Remap {
        self.segment.target.remap(within)
    }
}

/// Where a read or write goes.
pub(super) enum Found {
    /// As one piece, there.
    Whole(Piece, Remap),
    /// As several.
    Pieces,
    /// Nowhere: it is outside of the table, or a write to what can only be read.
    Outside,
}

/// One piece of a read or write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// The place in the table.
    pub place: u32,
    /// Its first sector, from the target's start.
    pub within: u64,
    /// Sectors of the piece.
    pub sectors: u32,
}

impl<C> Bound<C> {
    /// Opens every lower device of a table on this core.
    ///
    /// # Errors
    /// The sentence of the first device that cannot be opened; those opened before are closed again.
    pub fn open<E: Env<Channel = C>>(
        table: Arc<Table>,
        serial: Epoch,
        core: CoreId,
        env: &mut E,
    ) -> Result<Bound<C>, String> {
        let mut channels = Vec::with_capacity(table.lowers.len());
        let mut classes = table.segments.iter().map(|segment| segment.target.class());
        let fails_over = classes.any(|class| class.fails_over);
        for lower in &table.lowers {
            match Channel::open(lower.id, fails_over, env) {
                Ok(channel) => channels.push(channel),
                Err(reason) => {
                    channels
                        .into_iter()
                        .for_each(|channel: Channel<C>| channel.close(env));
                    return Err(format!("'{}' cannot be opened: {reason}", lower.name));
                }
            }
        }
        let site = Site {
            core,
            cores: env.cores(),
            now_ns: env.now_ns(),
        };
        let places = table
            .segments
            .iter()
            .map(|segment| Place::new(segment, &table, site))
            .collect();
        let marks = vec![false; channels.len()];
        Ok(Bound {
            limits: table.limits.clone(),
            stretch: Stretch::default(),
            ends: table.segments.iter().map(Segment::end).collect(),
            table,
            serial,
            hooks: Hooks::Resting,
            channels,
            places,
            last: 0,
            marks,
        })
    }

    /// Closes every channel.
    pub fn close<E: Env<Channel = C>>(self, env: &mut E) {
        self.channels
            .into_iter()
            .for_each(|channel| channel.close(env));
    }

    /// The place of a sector, which lies inside the table (IO-5), and its number.
    #[inline(always)]
    fn place(&mut self, sector: u64) -> (u32, &Place) {
        let mut place = &self.places[self.last];
        if sector < place.start || sector >= place.end {
            self.last = self.ends.partition_point(|end| *end <= sector);
            place = &self.places[self.last];
        }
        (self.last as u32, place)
    }

    /// Whether a read or write may be admitted: it lies within the table (IO-5), and is no write to what can only be read.
    #[inline(always)]
    fn takes(&self, op: Op, sector: u64, sectors: u32) -> bool {
        let limits = &self.limits;
        sectors != 0
            && (!limits.read_only || op != Op::Write)
            && sector < limits.sectors
            && u64::from(sectors) <= limits.sectors - sector
    }

    /// The next piece of a read or write, as much of `sectors` from `sector` as one clone may carry (IO-6), and its place.
    #[inline(always)]
    pub fn piece(&mut self, sector: u64, sectors: u32) -> (Piece, &Place) {
        let (number, place) = self.place(sector);
        let piece = Piece {
            place: number,
            within: sector - place.start,
            sectors: place.room(sector, sectors),
        };
        (piece, place)
    }

    /// Finds out where a read or write goes, as far as that can be told without asking its target in full.
    #[inline(always)]
    pub fn find(&mut self, op: Op, sector: u64, sectors: u32) -> Found {
        let Stretch {
            span,
            place,
            channel,
            below,
        } = &self.stretch;
        if let Some(along) = span.along(sector, u64::from(sectors)) {
            let piece = Piece {
                place: *place,
                within: along,
                sectors,
            };
            return Found::Whole(piece, Remap::To(*channel, below + along));
        }
        self.look_up(op, sector, sectors)
    }

    /// The same, without what is remembered. Out of line, and out of the way: inlined, it would cost those that need none of it their registers.
    #[cold]
    #[inline(never)]
    fn look_up(&mut self, op: Op, sector: u64, sectors: u32) -> Found {
        self.find_anew(op, sector, sectors)
    }

    /// As [`Bound::find`], for those who know already that it is not where the last I/O went straight on.
    #[inline(always)]
    pub fn find_anew(&mut self, op: Op, sector: u64, sectors: u32) -> Found {
        if !self.takes(op, sector, sectors) {
            return Found::Outside;
        }
        let (piece, place) = self.piece(sector, sectors);
        if piece.sectors != sectors {
            return Found::Pieces;
        }
        let (remap, straight) = (place.remap(piece.within), place.segment.target.straight());
        if let Some((channel, below)) = straight {
            self.remember(piece.place, channel, below);
        }
        Found::Whole(piece, remap)
    }

    /// The way that the reads and writes of a place go; what the engine finds at the end of each leg is `to` of the channel. `None` if its target does more than
    /// compute where they go, or if `to` is.
    pub fn way<L>(
        &self,
        place: u32,
        lane: &Rc<Lane>,
        to: impl Fn(&C) -> Option<L>,
    ) -> Option<Way<L>> {
        let place = &self.places[place as usize];
        let target = &place.segment.target;
        if self.limits.read_only {
            return None;
        }
        let leg = |channel: ChannelIndex, start| {
            let Channel::Lower(below) = &self.channels[channel.0 as usize] else {
                return None;
            };
            to(below).map(|to| Leg { start, to })
        };
        let legs = match (target.straight(), target.chunks()) {
            (Some((channel, start)), _) => Legs::Straight(leg(channel, start)?),
            (None, Some(chunks)) => {
                let areas = target.areas(place.segment.sectors).into_iter();
                let legs = areas.map(|(channel, start, _)| leg(channel, start));
                Legs::Dealt(chunks, legs.collect::<Option<_>>()?)
            }
            (None, None) => return None,
        };
        Some(Way::new(lane, place.span(&self.limits), legs))
    }

    /// Has I/O that comes next and stays in this place, whose target goes straight on, look nothing else up. What can only be read, or is cut, is
    /// looked up each time.
    #[inline(always)]
    fn remember(&mut self, number: u32, channel: ChannelIndex, below: u64) {
        let place = &self.places[number as usize];
        if self.limits.read_only || place.split != 0 {
            return;
        }
        self.stretch = Stretch {
            span: place.span(&self.limits),
            place: number,
            channel,
            below,
        };
    }

    /// What is known of a lower device.
    #[inline(always)]
    pub fn lower(&self, channel: ChannelIndex) -> &Lower {
        &self.table.lowers[channel.0 as usize]
    }

    /// What is asked of a channel for a clone that does `op`, of an original that is to do `whole`: a mapped device beneath writes as one
    /// what is to be written as one, or says that it cannot.
    pub fn op_below(&self, channel: ChannelIndex, whole: Op, op: Op) -> Op {
        match (whole, op, &self.channels[channel.0 as usize]) {
            (Op::WriteAtomic, Op::Write, Channel::Device(_)) => Op::WriteAtomic,
            _ => op,
        }
    }

    /// Where the target's own sectors begin in the table.
    pub fn start(&self, place: u32) -> u64 {
        self.places[place as usize].start
    }

    /// What the target at a place holds.
    pub fn held(&mut self, place: u32) -> &mut Parked {
        &mut self.places[place as usize].held
    }

    /// When the target at a place wants its timer, if that is sooner than, or other than, what is armed.
    pub fn new_due_ns(&mut self, place: u32) -> Option<u64> {
        let place = &mut self.places[place as usize];
        let due_ns = place.segment.target.due_ns();
        let changed = due_ns != std::mem::replace(&mut place.due_ns, due_ns);
        (changed && due_ns != u64::MAX).then_some(due_ns)
    }

    /// Whether the timer that has come is the one that the target at a place waits for. A late one of an earlier table is not.
    pub fn is_due(&mut self, place: u32, due_ns: u64) -> bool {
        match self.places.get_mut(place as usize) {
            Some(place) if place.due_ns == due_ns => {
                place.due_ns = u64::MAX;
                place.segment.target.due_ns() == due_ns
            }
            _ => false,
        }
    }

    /// The place of the target at a sector, if the table reaches that far.
    pub fn place_at(&mut self, sector: u64) -> Option<u32> {
        (sector < self.table.limits.sectors).then(|| self.place(sector).0)
    }

    /// The part of a range that lies in one target: (place, sector within the target, sectors).
    pub fn span(&mut self, sector: u64, sectors: u32) -> (u32, u64, u32) {
        let (number, place) = self.place(sector);
        let room = (place.end - sector).min(u64::from(sectors)) as u32;
        (number, sector - place.start, room)
    }

    /// Whether the target at a place, and its lower devices, take a discard or write-zeroes (TG-1).
    pub fn supports(&self, place: u32, op: Op) -> bool {
        let place = &self.places[place as usize];
        match op {
            Op::Discard => place.discard,
            Op::WriteZeroes => place.write_zeroes,
            _ => true,
        }
    }

    /// A lower device has refused an operation that it was said to take: the place does not send it another one as long as the
    /// table lives, so that a host that goes on asking costs nothing below (IO-29).
    pub fn refused(&mut self, place: u32, op: Op) {
        let place = &mut self.places[place as usize];
        match op {
            Op::Discard => place.discard = false,
            Op::WriteZeroes => place.write_zeroes = false,
            _ => {}
        }
    }

    /// The target at a place.
    pub fn segment(&mut self, place: u32) -> &mut Segment {
        &mut self.places[place as usize].segment
    }

    /// Calls every target's presuspend hook, in table order (4.1 step 2).
    pub fn presuspend(&mut self, noflush: bool) {
        self.pass(Hooks::Running, Hooks::Presuspended);
        #[cfg(test)]
        count_hook(0);
        self.targets().for_each(|target| target.presuspend(noflush));
    }

    /// Takes that back.
    pub fn presuspend_undo(&mut self) {
        self.pass(Hooks::Presuspended, Hooks::Running);
        #[cfg(test)]
        count_hook(1);
        self.targets().for_each(AnyTarget::presuspend_undo);
    }

    /// Calls every target's postsuspend hook, in table order (4.1 step 12a).
    pub fn postsuspend(&mut self) {
        self.pass(Hooks::Presuspended, Hooks::Resting);
        #[cfg(test)]
        count_hook(2);
        self.targets().for_each(AnyTarget::postsuspend);
    }

    /// For a device that goes: calls the postsuspend hooks unless they have been (SU-10).
    pub fn postsuspend_if_due(&mut self) {
        if self.hooks == Hooks::Presuspended {
            self.postsuspend();
        }
    }

    /// Asks every target, in table order, whether it can be resumed (4.3 step 2). The first that cannot ends it; those asked
    /// before get no undo.
    pub fn preresume(&mut self) -> Result<(), String> {
        let names = self.table.clone();
        for (target, segment) in self.targets().zip(&names.segments) {
            #[cfg(test)]
            if UNRESUMABLE.get() == Some(target.name()) {
                return Err(format!("'{}' is not to be resumed", target.name()));
            }
            target.preresume().map_err(|reason| {
                format!("'{}' at sector {}: {reason}", target.name(), segment.start)
            })?;
        }
        #[cfg(test)]
        count_hook(3);
        // A core that could is asked again when another one could not.
        if self.hooks != Hooks::Preresumed {
            self.pass(Hooks::Resting, Hooks::Preresumed);
        }
        Ok(())
    }

    /// Calls every target's resume hook, in table order (4.3 step 3).
    pub fn resume(&mut self) {
        self.pass(Hooks::Preresumed, Hooks::Running);
        #[cfg(test)]
        count_hook(4);
        self.targets().for_each(AnyTarget::resume);
    }

    /// Whether the targets are being suspended.
    pub fn is_presuspended(&self) -> bool {
        self.hooks == Hooks::Presuspended
    }

    fn pass(&mut self, from: Hooks, to: Hooks) {
        assert_eq!(self.hooks, from, "hooks are paired (SU-9): {to:?} follows");
        self.hooks = to;
    }

    fn targets(&mut self) -> impl Iterator<Item = &mut AnyTarget> {
        self.places
            .iter_mut()
            .map(|place| &mut place.segment.target)
    }

    /// This core's targets, in order.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.places.iter().map(|place| &place.segment)
    }

    /// How many targets there are.
    pub fn places(&self) -> u32 {
        self.places.len() as u32
    }

    /// Takes a channel's mark away; whether it had one.
    pub fn unmark(&mut self, channel: ChannelIndex) -> bool {
        std::mem::take(&mut self.marks[channel.0 as usize])
    }

    /// Marks the channels that a write with force-unit-access left unflushed (FL-28); whether there is anything to flush, these or
    /// [`Bound::flush_through`].
    pub fn mark_unflushed<P>(&mut self, io: &Io<P>) -> bool {
        let marked = match io.op {
            Op::Write | Op::CompareAndWrite | Op::WriteAtomic => {
                self.mark_written(io.sector, io.sectors)
            }
            Op::WriteZeroes => self.mark_zeroed(io.sector, io.sectors),
            // What a discard leaves behind is nobody's data: there is nothing to make durable.
            Op::Read | Op::Flush | Op::Discard => return false,
        };
        marked || self.flush_through(0, io).is_some()
    }

    /// The next place from `place` on that such a write has to be flushed through as a whole: its target chooses among its
    /// devices itself, so nobody else knows which of them took the write (FL-24).
    pub fn flush_through<P>(&mut self, place: u32, io: &Io<P>) -> Option<u32> {
        let end = io.sector + u64::from(io.sectors);
        let first = place.max(self.place(io.sector).0);
        (first..self.places()).find(|index| {
            let place = &self.places[*index as usize];
            let left = match io.op {
                Op::WriteZeroes => place.volatile_cache,
                _ => place.flush_after_fua,
            };
            place.start < end && left && !place.segment.target.class().flush_bypasses_map
        })
    }

    /// Marks the channels that a write of a range left unflushed: those with a volatile cache that did not take
    /// force-unit-access with the write (FL-28). Whether there is any. Only of targets that always map alike.
    fn mark_written(&mut self, sector: u64, sectors: u32) -> bool {
        let (mut sector, end) = (sector, sector + u64::from(sectors));
        let mut any = false;
        while sector < end {
            let (piece, _) = self.piece(sector, (end - sector) as u32);
            let place = &mut self.places[piece.place as usize];
            if place.segment.target.class().flush_bypasses_map && place.flush_after_fua {
                let ask = Ask::of(Op::Write, piece.within, piece.sectors, 0);
                if let Map::Remapped { channel, .. } = place.segment.target.map(&ask) {
                    let took_fua = self.table.lowers[channel.0 as usize].fua;
                    any |= !took_fua && self.mark(channel);
                }
            }
            sector += u64::from(piece.sectors);
        }
        any
    }

    /// The same for a write-zeroes, which carries no force-unit-access below. Goes by the targets' shares, not by pieces:
    /// the range may be millions of chunks.
    fn mark_zeroed(&mut self, sector: u64, sectors: u32) -> bool {
        let (mut done, mut any) = (0, false);
        while done < sectors {
            let (place, within, count) = self.span(sector + u64::from(done), sectors - done);
            done += count;
            let target = &mut self.places[place as usize].segment.target;
            if !target.class().flush_bypasses_map {
                continue;
            }
            for number in 0..target.duplicates(Op::WriteZeroes) {
                let ask = Ask {
                    number,
                    ..Ask::of(Op::WriteZeroes, within, count, 0)
                };
                let target = &mut self.places[place as usize].segment.target;
                match target.range(&ask) {
                    Map::Remapped { channel, .. } | Map::Share(Share { channel, .. }) => {
                        any |= self.mark(channel);
                    }
                    _ => {}
                }
            }
        }
        any
    }

    /// Marks a channel if it has a volatile cache; whether it has.
    fn mark(&mut self, channel: ChannelIndex) -> bool {
        let volatile = self.table.lowers[channel.0 as usize].volatile_cache;
        self.marks[channel.0 as usize] |= volatile;
        volatile
    }
}

impl Place {
    fn new(segment: &Segment, table: &Table, site: Site) -> Place {
        let block = table.limits.block_sectors();
        let areas = segment.target.areas(segment.sectors);
        let lowers = || {
            areas
                .iter()
                .map(|(channel, ..)| &table.lowers[channel.0 as usize])
        };
        let smallest = lowers()
            .map(|lower| lower.transfer_sectors_max)
            .filter(|sectors| *sectors > 0)
            .min();
        let split = u64::from(segment.target.io_sectors_max());
        let emulation = segment.target.emulation();
        // Whole blocks, so that no piece is unaligned for its target (LC-14).
        let granule = emulation.map_or(block, |emulation| emulation.underlying_sectors);
        let mut segment = segment.clone();
        segment.target.bind(site);
        Place {
            start: segment.start,
            end: segment.end(),
            split,
            split_mask: (split.is_power_of_two() && emulation.is_none()).then(|| split - 1),
            block: emulation.map_or(0, |emulation| emulation.underlying_sectors),
            sectors_max: smallest.map_or(u32::MAX, |sectors| (sectors / granule).max(1) * granule),
            discard: supports(&segment, &table.lowers, Op::Discard),
            write_zeroes: supports(&segment, &table.lowers, Op::WriteZeroes),
            volatile_cache: lowers().any(|lower| lower.volatile_cache),
            flush_after_fua: lowers().any(|lower| lower.volatile_cache && !lower.fua),
            held: Parked::default(),
            due_ns: u64::MAX,
            segment,
        }
    }
}
