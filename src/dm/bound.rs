//! A table as one core holds it: its own copy of every target, its own channel to every lower device.

use std::sync::Arc;

use super::env::Env;
use super::io::Op;
use super::table::{Segment, Table};
use super::target::{ChannelIndex, Map};

/// A table bound to a core. Nothing in it is shared with another core but the immutable [`Table`].
pub(super) struct Bound<C> {
    /// What was loaded.
    pub table: Arc<Table>,
    /// One channel per distinct lower device, in the table's order.
    pub channels: Vec<C>,
    /// This core's targets.
    places: Vec<Place>,
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
            self.last = self.places.partition_point(|place| place.end <= sector);
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

    /// Marks the channels that a write of a range left unflushed: those with a volatile cache, unless they took
    /// force-unit-access with the write (FL-28). Whether there is any.
    pub fn mark_unflushed(&mut self, sector: u64, sectors: u32, took_fua: bool) -> bool {
        let (mut sector, end) = (sector, sector + u64::from(sectors));
        let mut any = false;
        while sector < end {
            let piece = self.piece(Op::Write, sector, (end - sector) as u32);
            if let Map::Remapped { channel, .. } = piece.map {
                let lower = &self.table.lowers[channel.0 as usize];
                if lower.volatile_cache && !(took_fua && lower.fua) {
                    self.marks[channel.0 as usize] = true;
                    any = true;
                }
            }
            sector += u64::from(piece.sectors);
        }
        any
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
            segment: segment.clone(),
        }
    }
}
