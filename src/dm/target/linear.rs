//! `linear <device> <start>`: an area of one lower device, in order.

use super::super::io::Op;
use super::super::limits::Lower;
use super::{Arguments, Builder, ChannelIndex, Class, Map, Share, Target};

/// Sector s of the target is sector `start + s` of the device (6.1).
#[derive(Clone, Debug)]
pub struct Linear {
    channel: ChannelIndex,
    start: u64,
}

impl Target for Linear {
    const NAME: &'static str = "linear";
    const VERSION: [u32; 3] = [1, 0, 0];
    const CLASS: Class = Class {
        wildcard: false,
        flush_bypasses_map: true,
        discards_itself: false,
    };

    fn build(arguments: &mut Arguments<'_>, builder: &mut Builder<'_>) -> Result<Linear, String> {
        let (channel, start) = builder.area(arguments, builder.sectors)?;
        arguments.end()?;
        Ok(Linear { channel, start })
    }

    #[inline(always)]
    fn map(&mut self, _op: Op, sector: u64) -> Map {
        Map::Remapped {
            channel: self.channel,
            sector: self.start + sector,
        }
    }

    fn flushes(&self) -> u32 {
        1
    }

    fn flush(&self, _number: u32) -> ChannelIndex {
        self.channel
    }

    fn duplicates(&self, _op: Op) -> u32 {
        1
    }

    fn share(&self, _number: u32, sector: u64, sectors: u32) -> Option<Share> {
        Some(Share {
            channel: self.channel,
            sector: self.start + sector,
            sectors,
        })
    }

    fn areas(&self, sectors: u64) -> Vec<(ChannelIndex, u64, u64)> {
        vec![(self.channel, self.start, sectors)]
    }

    fn status(&self, _lowers: &[Lower]) -> String {
        String::new()
    }

    fn table(&self, lowers: &[Lower]) -> String {
        format!("{} {}", lowers[self.channel.0 as usize].name, self.start)
    }
}
