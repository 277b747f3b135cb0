//! `zero`: reads find zeroes, writes and discards vanish.

use super::super::io::Op;
use super::super::limits::Lower;
use super::{Arguments, Builder, ChannelIndex, Class, Map, Share, Target};

/// Holds nothing and needs no device (6.1).
#[derive(Clone, Debug)]
pub struct Zero;

impl Target for Zero {
    const NAME: &'static str = "zero";
    const VERSION: [u32; 3] = [1, 0, 0];
    const CLASS: Class = Class {
        wildcard: false,
        flush_bypasses_map: false,
        discards_itself: true,
    };

    fn build(arguments: &mut Arguments<'_>, _builder: &mut Builder<'_>) -> Result<Zero, String> {
        arguments.end()?;
        Ok(Zero)
    }

    fn map(&mut self, _op: Op, _sector: u64) -> Map {
        Map::Zero
    }

    fn flushes(&self) -> u32 {
        0
    }

    fn flush(&self, number: u32) -> ChannelIndex {
        unreachable!("zero takes no flush, and was asked for number {number}")
    }

    fn duplicates(&self, op: Op) -> u32 {
        u32::from(op == Op::Discard)
    }

    fn share(&self, _number: u32, _sector: u64, _sectors: u32) -> Option<Share> {
        None
    }

    fn areas(&self, _sectors: u64) -> Vec<(ChannelIndex, u64, u64)> {
        Vec::new()
    }

    fn status(&self, _lowers: &[Lower]) -> String {
        String::new()
    }

    fn table(&self, _lowers: &[Lower]) -> String {
        String::new()
    }
}
