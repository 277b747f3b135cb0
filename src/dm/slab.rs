//! Slots for what is in flight: taken and given back in O(1), pre-sized, so that an I/O allocates nothing.

/// A vector of slots with a free list through it.
///
/// Front ends announce how much they may have outstanding ([`Slab::reserve`]); beyond that it still grows rather than
/// fail an I/O (IO-3), which shows as an allocation in the counter that tests watch.
#[derive(Debug)]
pub struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: u32,
    used: u32,
}

#[derive(Debug)]
enum Slot<T> {
    Free { next: u32 },
    Used(T),
}

/// A slot whose number is known before it is filled.
pub struct Vacant<'a, T> {
    /// The slot's number.
    pub index: u32,
    slot: &'a mut Slot<T>,
    next: u32,
    free: &'a mut u32,
    used: &'a mut u32,
}

impl<T> Vacant<'_, T> {
    /// Takes the slot; its number.
    #[inline(always)]
    pub fn fill(self, value: T) -> u32 {
        *self.slot = Slot::Used(value);
        *self.free = self.next;
        *self.used += 1;
        self.index
    }
}

/// No slot.
pub const NONE: u32 = u32::MAX;

impl<T> Slab<T> {
    /// A slab with `slots` free ones.
    pub fn new(slots: usize) -> Slab<T> {
        let mut slab = Slab {
            slots: Vec::new(),
            free: NONE,
            used: 0,
        };
        slab.grow(slots.max(1));
        slab
    }

    /// Makes sure that at least `slots` slots exist.
    pub fn reserve(&mut self, slots: usize) {
        let more = slots.saturating_sub(self.slots.len());
        if more > 0 {
            self.grow(more);
        }
    }

    #[cold]
    fn grow(&mut self, more: usize) {
        let first = self.slots.len() as u32;
        assert!(
            self.slots.len() + more < 1 << 31,
            "a slot's number has 31 bits"
        );
        self.slots.extend((0..more as u32).map(|i| Slot::Free {
            next: first + i + 1,
        }));
        if let Some(Slot::Free { next }) = self.slots.last_mut() {
            *next = self.free;
        }
        self.free = first;
    }

    /// A free slot, which is taken when it is filled; left alone, it stays free.
    #[inline(always)]
    pub fn vacant(&mut self) -> Vacant<'_, T> {
        if self.free == NONE {
            self.grow(self.slots.len());
        }
        let index = self.free;
        let slot = &mut self.slots[index as usize];
        let Slot::Free { next } = *slot else {
            unreachable!("slot {index} is on the free list but in use")
        };
        Vacant {
            index,
            slot,
            next,
            free: &mut self.free,
            used: &mut self.used,
        }
    }

    /// Fills a free slot; its number.
    #[inline(always)]
    pub fn insert(&mut self, value: T) -> u32 {
        self.vacant().fill(value)
    }

    /// Empties a slot. Panics if it is not in use: a completion that comes twice must not go on.
    #[inline(always)]
    pub fn remove(&mut self, index: u32) -> T {
        let slot = std::mem::replace(
            &mut self.slots[index as usize],
            Slot::Free { next: self.free },
        );
        let Slot::Used(value) = slot else {
            panic!("slot {index} was completed twice")
        };
        self.free = index;
        self.used -= 1;
        value
    }

    /// Empties a slot whose content is of no more use; panics as [`Slab::remove`] does. Spares moving the content out.
    #[inline(always)]
    pub fn discard(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        assert!(
            matches!(slot, Slot::Used(_)),
            "slot {index} was completed twice"
        );
        *slot = Slot::Free { next: self.free };
        self.free = index;
        self.used -= 1;
    }

    /// A slot's content, if it is in use.
    pub fn get(&self, index: u32) -> Option<&T> {
        match self.slots.get(index as usize) {
            Some(Slot::Used(value)) => Some(value),
            _ => None,
        }
    }

    /// How many slots are in use.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// All slots in use, with their numbers, in the order of the numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| match slot {
                Slot::Used(value) => Some((index as u32, value)),
                Slot::Free { .. } => None,
            })
    }
}

#[cold]
#[inline(never)]
fn not_in_use(index: u32) -> ! {
    panic!("slot {index} is not in use")
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;
    #[inline(always)]
    fn index(&self, index: u32) -> &T {
        match &self.slots[index as usize] {
            Slot::Used(value) => value,
            Slot::Free { .. } => not_in_use(index),
        }
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    #[inline(always)]
    fn index_mut(&mut self, index: u32) -> &mut T {
        match &mut self.slots[index as usize] {
            Slot::Used(value) => value,
            Slot::Free { .. } => not_in_use(index),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_reused_and_grow_when_all_are_taken() {
        let mut slab = Slab::new(2);
        let a = slab.insert('a');
        let b = slab.insert('b');
        let c = slab.insert('c');
        assert_eq!((slab[a], slab[b], slab[c], slab.used()), ('a', 'b', 'c', 3));
        assert_eq!(slab.remove(b), 'b');
        assert_eq!(slab.vacant().index, b, "one left alone stays free");
        assert_eq!(slab.insert('d'), b);
        assert_eq!(slab.iter().map(|(_, v)| *v).collect::<String>(), "adc");
    }

    #[test]
    #[should_panic(expected = "completed twice")]
    fn a_slot_cannot_be_emptied_twice() {
        let mut slab = Slab::new(1);
        let a = slab.insert(());
        slab.remove(a);
        slab.remove(a);
    }
}
