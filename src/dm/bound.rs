//! A table as one core holds it: its own copy of every target, its own channel to every lower device.

use std::sync::Arc;

use super::env::Env;
use super::io::Op;
use super::table::{Limits, Segment, Table, supports};
use super::target::{ChannelIndex, Map};

/// A table bound to a core. Nothing in it is shared with another core but the immutable [`Table`].
pub(super) struct Bound<C> {
    /// What was loaded.
    pub table: Arc<Table>,
    /// The device's limits with this table: its own, unless it took over those of the table before it (1.4, step 3).
    pub limits: Arc<Limits>,
    /// One channel per distinct lower device, in the table's order.
    pub channels: Vec<C>,
    /// This core's targets.
    places: Vec<Place>,
    /// The sector after the last of each place: what a search looks at, eight to a cache line.
    ends: Vec<u64>,
    /// The place of the last I/O: most neighbours in time are neighbours in space.
    last: usize,
    /// Room to mark channels while a fan-out is put together; all false between fan-outs.
    marks: Vec<bool>,
}

/// One target in its place, with the numbers the I/O path needs beside it.
struct Place {
    start: u64,
    end: u64,
    /// A piece never crosses a multiple of this; 0 for no such bound (IO-6).
    split: u64,
    /// `split - 1` where that is a power of two, so that a mask stands for a division.
    split_mask: Option<u64>,
    /// The most a piece may have: the smallest limit of the lower devices.
    sectors_max: u32,
    /// The target and its lower devices take discards (TG-1).
    discard: bool,
    /// They take write-zeroes.
    write_zeroes: bool,
    segment: Segment,
}

/// One piece of a read or write, mapped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// The place in the table.
    pub place: u32,
    /// Sectors of the piece.
    pub sectors: u32,
    /// Where it goes.
    pub map: Map,
}

impl<C> Bound<C> {
    /// Opens every lower device of a table on this core.
    ///
    /// # Errors
    /// The sentence of the first device that cannot be opened; those opened before are closed again.
    pub fn open<E: Env<Channel = C>>(table: Arc<Table>, env: &mut E) -> Result<Bound<C>, String> {
        let mut channels = Vec::with_capacity(table.lowers.len());
        for lower in &table.lowers {
            match env.open(lower.id) {
                Ok(channel) => channels.push(channel),
                Err(reason) => {
                    channels.into_iter().for_each(|channel| env.close(channel));
                    return Err(format!("'{}' cannot be opened: {reason}", lower.name));
                }
            }
        }
        let places = table
            .segments
            .iter()
            .map(|segment| Place::new(segment, &table))
            .collect();
        let marks = vec![false; channels.len()];
        Ok(Bound {
            limits: table.limits.clone(),
            ends: table.segments.iter().map(Segment::end).collect(),
            table,
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
            .for_each(|channel| env.close(channel));
    }

    /// The place of a sector, which lies inside the table (IO-5).
    #[inline(always)]
    fn place(&mut self, sector: u64) -> usize {
        let place = &self.places[self.last];
        if sector < place.start || sector >= place.end {
            self.last = self.ends.partition_point(|end| *end <= sector);
        }
        self.last
    }

    /// The next piece of a read or write: as much of `sectors` from `sector` as one clone may carry (IO-6), mapped.
    #[inline(always)]
    pub fn piece(&mut self, op: Op, sector: u64, sectors: u32) -> Piece {
        let index = self.place(sector);
        let place = &mut self.places[index];
        let within = sector - place.start;
        let mut room = place.end - sector;
        if place.split != 0 {
            let into = match place.split_mask {
                Some(mask) => within & mask,
                None => within % place.split,
            };
            room = room.min(place.split - into);
        }
        let sectors = room.min(u64::from(sectors.min(place.sectors_max))) as u32;
        Piece {
            place: index as u32,
            sectors,
            map: place.segment.target.map(op, within),
        }
    }

    /// The part of a range that lies in one target: (place, sector within the target, sectors).
    pub fn span(&mut self, sector: u64, sectors: u32) -> (u32, u64, u32) {
        let index = self.place(sector);
        let place = &self.places[index];
        let room = (place.end - sector).min(u64::from(sectors)) as u32;
        (index as u32, sector - place.start, room)
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

    /// The target at a place.
    pub fn segment(&mut self, place: u32) -> &mut Segment {
        &mut self.places[place as usize].segment
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

    /// Marks the channels that a write of a range left unflushed: those with a volatile cache that did not take
    /// force-unit-access with the write (FL-28). Whether there is any.
    pub fn mark_written(&mut self, sector: u64, sectors: u32) -> bool {
        let (mut sector, end) = (sector, sector + u64::from(sectors));
        let mut any = false;
        while sector < end {
            let piece = self.piece(Op::Write, sector, (end - sector) as u32);
            if let Map::Remapped { channel, .. } = piece.map {
                let took_fua = self.table.lowers[channel.0 as usize].fua;
                any |= !took_fua && self.mark(channel);
            }
            sector += u64::from(piece.sectors);
        }
        any
    }

    /// The same for a write-zeroes, which carries no force-unit-access below. Goes by the targets' shares, not by pieces:
    /// the range may be millions of chunks.
    pub fn mark_zeroed(&mut self, sector: u64, sectors: u32) -> bool {
        let (mut done, mut any) = (0, false);
        while done < sectors {
            let (place, within, count) = self.span(sector + u64::from(done), sectors - done);
            for number in 0..self.segment(place).target.duplicates(Op::WriteZeroes) {
                if let Some(share) = self.segment(place).target.share(number, within, count) {
                    any |= self.mark(share.channel);
                }
            }
            done += count;
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
    fn new(segment: &Segment, table: &Table) -> Place {
        let block = table.limits.block_sectors();
        let of_lowers = segment.target.areas(segment.sectors).into_iter();
        let smallest = of_lowers
            .map(|(channel, ..)| table.lowers[channel.0 as usize].transfer_sectors_max)
            .filter(|sectors| *sectors > 0)
            .min();
        let split = u64::from(segment.target.io_sectors_max());
        Place {
            start: segment.start,
            end: segment.end(),
            split,
            split_mask: split.is_power_of_two().then(|| split - 1),
            // Whole blocks, so that no piece is unaligned for its target (LC-14).
            sectors_max: smallest.map_or(u32::MAX, |sectors| (sectors / block).max(1) * block),
            discard: supports(segment, &table.lowers, Op::Discard),
            write_zeroes: supports(segment, &table.lowers, Op::WriteZeroes),
            segment: segment.clone(),
        }
    }
}
