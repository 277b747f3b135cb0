//! A list of parked originals: links in their own slots, so that parking never allocates and is never too small (PM-6).

use super::slab::{NONE, Slab};

/// A first-in-first-out list of slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parked {
    head: u32,
    tail: u32,
    count: u32,
}

/// Where the links of a [`Parked`] list are kept.
pub(super) trait Parking {
    fn follower(&self, slot: u32) -> u32;
    fn link(&mut self, slot: u32, next: u32);
}

impl Default for Parked {
    fn default() -> Parked {
        Parked {
            head: NONE,
            tail: NONE,
            count: 0,
        }
    }
}

impl Parked {
    /// How many are parked.
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Appends a slot.
    pub fn push(&mut self, links: &mut impl Parking, slot: u32) {
        links.link(slot, NONE);
        match self.tail {
            NONE => self.head = slot,
            tail => links.link(tail, slot),
        }
        self.tail = slot;
        self.count += 1;
    }

    /// Takes the first slot.
    pub fn pop(&mut self, links: &mut impl Parking) -> Option<u32> {
        let slot = self.head;
        if slot == NONE {
            return None;
        }
        self.head = links.follower(slot);
        if self.head == NONE {
            self.tail = NONE;
        }
        self.count -= 1;
        Some(slot)
    }

    /// Takes the first slot whose content `wanted` picks, keeping the order of the others.
    pub fn take_where<T>(&mut self, slots: &mut Slab<T>, wanted: impl Fn(&T) -> bool) -> Option<u32>
    where
        Slab<T>: Parking,
    {
        let (mut before, mut slot) = (NONE, self.head);
        while slot != NONE {
            let next = slots.follower(slot);
            if !wanted(&slots[slot]) {
                (before, slot) = (slot, next);
                continue;
            }
            match before {
                NONE => self.head = next,
                _ => slots.link(before, next),
            }
            if next == NONE {
                self.tail = before;
            }
            self.count -= 1;
            return Some(slot);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Link(u32, u32);

    impl Parking for Slab<Link> {
        fn follower(&self, slot: u32) -> u32 {
            self[slot].1
        }
        fn link(&mut self, slot: u32, next: u32) {
            self[slot].1 = next;
        }
    }

    proptest! {
        /// Against a plain vector: pushes, pops and picks in any order.
        #[test]
        fn behaves_as_a_queue(steps in proptest::collection::vec((0u8..3, 0u32..20), 1..60)) {
            let mut slots = Slab::new(4);
            let mut list = Parked::default();
            let mut oracle: Vec<u32> = Vec::new();
            for (step, value) in steps {
                match step {
                    0 => {
                        let slot = slots.insert(Link(value, NONE));
                        list.push(&mut slots, slot);
                        oracle.push(value);
                    }
                    1 => {
                        let popped = list.pop(&mut slots).map(|slot| slots.remove(slot).0);
                        prop_assert_eq!(popped, (!oracle.is_empty()).then(|| oracle.remove(0)));
                    }
                    _ => {
                        let taken = list.take_where(&mut slots, |link| link.0 == value).map(|slot| slots.remove(slot).0);
                        let expected = oracle.iter().position(|v| *v == value).map(|at| oracle.remove(at));
                        prop_assert_eq!(taken, expected);
                    }
                }
                prop_assert_eq!(list.len() as usize, oracle.len());
            }
        }
    }
}
