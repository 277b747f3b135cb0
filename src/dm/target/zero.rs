//! `zero`: reads find zeroes, writes and discards vanish.

use super::super::io::Op;
use super::super::limits::Lower;
use super::{Arguments, Ask, Builder, Class, Map, Refusal, Remap, Target};

/// Holds nothing and needs no device (6.1).
#[derive(Clone, Debug)]
pub struct Zero;

impl Target for Zero {
    const NAME: &'static str = "zero";
    const FORM: &'static str = "";
    const VERSION: [u32; 3] = [1, 0, 0];
    const CLASS: Class = Class {
        discards_itself: true,
        ..Class::NONE
    };

    fn build(arguments: &mut Arguments<'_>, _builder: &mut Builder<'_>) -> Result<Zero, Refusal> {
        arguments.end()?;
        Ok(Zero)
    }

    #[inline(always)]
    fn remap(&self, _sector: u64) -> Remap {
        Remap::Zero
    }

    fn map(&mut self, _ask: &Ask) -> Map {
        Map::Zero
    }

    fn flushes(&self) -> u32 {
        0
    }

    fn duplicates(&self, op: Op) -> u32 {
        u32::from(op == Op::Discard)
    }

    fn table(&self, _lowers: &[Lower]) -> String {
        String::new()
    }
}
