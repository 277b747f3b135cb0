//! `queue-length`: the path with the fewest I/Os in flight.

use std::fmt::Write;

use super::super::super::{Arguments, Refusal};
use super::turns::Turns;
use super::{Policy, REPEAT_COUNT, Slot, repeat_count};

/// Counts what this core has in flight on each path; of equals, the least recently chosen is taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueLength {
    turns: Turns,
    in_flight: Vec<u64>,
}

impl Policy for QueueLength {
    const NAME: &'static str = "queue-length";
    const INFO_WORDS: usize = 1;
    const TABLE_WORDS: usize = 1;

    fn build(_arguments: &mut Arguments<'_>) -> Result<QueueLength, Refusal> {
        Ok(QueueLength::default())
    }

    fn add(&mut self, arguments: &mut Arguments<'_>) -> Result<(), Refusal> {
        repeat_count(arguments)?;
        self.turns.add_last(Slot(self.in_flight.len() as u16));
        self.in_flight.push(0);
        Ok(())
    }

    #[inline]
    fn select(&mut self, _bytes: u64, _now_ns: u64) -> Option<Slot> {
        let in_flight = &self.in_flight;
        self.turns
            .choose_best(|a, b| in_flight[usize::from(a.0)] < in_flight[usize::from(b.0)])
    }

    #[inline]
    fn start(&mut self, slot: Slot, _bytes: u64) {
        self.in_flight[usize::from(slot.0)] += 1;
    }

    #[inline]
    fn end(&mut self, slot: Slot, _bytes: u64, _started_ns: u64, _now_ns: u64) {
        let in_flight = &mut self.in_flight[usize::from(slot.0)];
        *in_flight = in_flight.checked_sub(1).expect("started before (MP-6)");
    }

    fn fail(&mut self, slot: Slot) {
        self.turns.remove(slot);
    }

    fn reinstate(&mut self, slot: Slot) {
        self.turns.add_last(slot);
    }

    fn info(&self, slot: Slot, text: &mut String) {
        let _ = write!(text, " {}", self.in_flight[usize::from(slot.0)]);
    }

    fn table(&self, _slot: Slot, text: &mut String) {
        text.push_str(REPEAT_COUNT);
    }
}
