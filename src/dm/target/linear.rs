//! `linear <device> <start>`: an area of one lower device, in order.

use super::super::io::Op;
use super::super::limits::Lower;
use super::{Arguments, Ask, Builder, ChannelIndex, Class, Map, Note, Refusal, Target};

/// Sector s of the target is sector `start + s` of the device (6.1).
#[derive(Clone, Debug)]
pub struct Linear {
    channel: ChannelIndex,
    start: u64,
}

impl Target for Linear {
    const NAME: &'static str = "linear";
    const FORM: &'static str = "<device> <start>";
    const VERSION: [u32; 3] = [1, 0, 0];
    const CLASS: Class = Class {
        flush_bypasses_map: true,
        ..Class::NONE
    };

    fn build(arguments: &mut Arguments<'_>, builder: &mut Builder<'_>) -> Result<Linear, Refusal> {
        let (channel, start) = builder.area(arguments, builder.sectors)?;
        arguments.end()?;
        Ok(Linear { channel, start })
    }

    #[inline(always)]
    fn straight(&self) -> Option<(ChannelIndex, u64)> {
        Some((self.channel, self.start))
    }

    fn map(&mut self, ask: &Ask) -> Map {
        Map::Remapped {
            channel: self.channel,
            sector: self.start + ask.sector,
            note: Note::NONE,
        }
    }

    fn flushes(&self) -> u32 {
        1
    }

    fn flush(&mut self, ask: &Ask) -> Map {
        self.map(ask)
    }

    fn duplicates(&self, _op: Op) -> u32 {
        1
    }

    fn range(&mut self, ask: &Ask) -> Map {
        self.map(ask)
    }

    fn areas(&self, sectors: u64) -> Vec<(ChannelIndex, u64, u64)> {
        vec![(self.channel, self.start, sectors)]
    }

    fn table(&self, lowers: &[Lower]) -> String {
        format!("{} {}", lowers[self.channel.0 as usize].name, self.start)
    }
}
