//! `error`: every I/O fails. Stands in for a device that is gone; may replace any table.

use super::super::io::Op;
use super::super::limits::Lower;
use super::{Arguments, Builder, ChannelIndex, Class, Map, Share, Target};

/// Fails everything but a flush, of which it takes none (6.1).
#[derive(Clone, Debug)]
pub struct Error;

impl Target for Error {
    const NAME: &'static str = "error";
    const VERSION: [u32; 3] = [1, 0, 0];
    const CLASS: Class = Class {
        wildcard: true,
        flush_bypasses_map: false,
        discards_itself: true,
    };

    fn build(arguments: &mut Arguments<'_>, _builder: &mut Builder<'_>) -> Result<Error, String> {
        arguments.end()?;
        Ok(Error)
    }

    fn map(&mut self, _op: Op, _sector: u64) -> Map {
        Map::Kill
    }

    fn flushes(&self) -> u32 {
        0
    }

    fn flush(&self, number: u32) -> ChannelIndex {
        unreachable!("error takes no flush, and was asked for number {number}")
    }

    fn duplicates(&self, op: Op) -> u32 {
        // A discard fails with an error rather than "not supported", so it does get a clone, which map() kills.
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
