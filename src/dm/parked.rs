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

    /// Takes a slot out, keeping the order of the others; false when it is not on the list. From the front it costs nothing, from
    /// further back a walk.
    pub fn take<T>(&mut self, slots: &mut Slab<T>, wanted: u32) -> bool
    where
        Slab<T>: Parking,
    {
        let (mut before, mut slot) = (NONE, self.head);
        while slot != NONE {
            let next = slots.follower(slot);
            if slot != wanted {
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
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Link(u32);

    impl Parking for Slab<Link> {
        fn follower(&self, slot: u32) -> u32 {
            self[slot].0
        }
        fn link(&mut self, slot: u32, next: u32) {
            self[slot].0 = next;
        }
    }

    proptest! {
        /// Against a plain vector of slots: pushes, pops and picks in any order.
        #[test]
        fn behaves_as_a_queue(steps in proptest::collection::vec((0u8..3, 0usize..20), 1..60)) {
            let mut slots = Slab::new(4);
            let mut list = Parked::default();
            let mut oracle: Vec<u32> = Vec::new();
            for (step, index) in steps {
                match step {
                    0 => {
                        let slot = slots.insert(Link(NONE));
                        list.push(&mut slots, slot);
                        oracle.push(slot);
                    }
                    1 => {
                        let popped = list.pop(&mut slots);
                        prop_assert_eq!(popped, (!oracle.is_empty()).then(|| oracle.remove(0)));
                        popped.into_iter().for_each(|slot| slots.discard(slot));
                    }
                    _ if index < oracle.len() => {
                        let slot = oracle.remove(index);
                        prop_assert!(list.take(&mut slots, slot));
                        prop_assert!(!list.take(&mut slots, slot));
                        slots.discard(slot);
                    }
                    _ => {}
                }
                prop_assert_eq!(list.len() as usize, oracle.len());
            }
        }
    }
}
