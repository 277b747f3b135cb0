//! In which order the usable paths of a group take turns.

use super::Slot;

/// The usable paths, first the one whose turn it is. As long as the table has paths in the group, and nearly always under ten: moving
/// a few bytes beats any list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Turns(Vec<Slot>);

impl Turns {
    /// How many paths are usable.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Chooses the path at this place: it goes to the end.
    #[inline]
    pub fn choose(&mut self, place: usize) -> Slot {
        let slot = self.0[place];
        self.0[place..].rotate_left(1);
        slot
    }

    /// Chooses the path that `better` prefers to all others; among equals, the one whose turn is earlier.
    #[inline]
    pub fn choose_best(&mut self, mut better: impl FnMut(Slot, Slot) -> bool) -> Option<Slot> {
        let mut best = 0;
        for place in 1..self.0.len() {
            if better(self.0[place], self.0[best]) {
                best = place;
            }
        }
        (!self.0.is_empty()).then(|| self.choose(best))
    }

    /// A path becomes usable, and is the next.
    pub fn add_first(&mut self, slot: Slot) {
        self.demand_absent(slot);
        self.0.insert(0, slot);
    }

    /// A path becomes usable, and is the last.
    pub fn add_last(&mut self, slot: Slot) {
        self.demand_absent(slot);
        self.0.push(slot);
    }

    /// A usable path is so no more.
    pub fn remove(&mut self, slot: Slot) {
        let place = self.0.iter().position(|other| *other == slot);
        self.0.remove(place.expect("only a usable path fails"));
    }

    fn demand_absent(&self, slot: Slot) {
        assert!(!self.0.contains(&slot), "only a failed path is reinstated");
    }
}
