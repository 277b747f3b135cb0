//! `round-robin`: one path after the other.

use super::super::super::{Arguments, Refusal};
use super::turns::Turns;
use super::{Policy, REPEAT_COUNT, Slot, repeat_count};

/// The path whose turn it is goes to the end; one that is reinstated is the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoundRobin {
    turns: Turns,
    paths: u16,
}

impl Policy for RoundRobin {
    const NAME: &'static str = "round-robin";
    const INFO_WORDS: usize = 0;
    const TABLE_WORDS: usize = 1;

    fn build(_arguments: &mut Arguments<'_>) -> Result<RoundRobin, Refusal> {
        Ok(RoundRobin::default())
    }

    fn add(&mut self, arguments: &mut Arguments<'_>) -> Result<(), Refusal> {
        repeat_count(arguments)?;
        self.turns.add_last(Slot(self.paths));
        self.paths += 1;
        Ok(())
    }

    #[inline]
    fn select(&mut self, _bytes: u64, _now_ns: u64) -> Option<Slot> {
        (self.turns.count() > 0).then(|| self.turns.choose(0))
    }

    fn fail(&mut self, slot: Slot) {
        self.turns.remove(slot);
    }

    fn reinstate(&mut self, slot: Slot) {
        self.turns.add_first(slot);
    }

    fn table(&self, _slot: Slot, text: &mut String) {
        text.push_str(REPEAT_COUNT);
    }
}
