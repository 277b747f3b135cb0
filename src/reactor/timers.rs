//! Timers of one reactor: a binary heap that knows where each timer is, so that cancelling one is exact.
//!
//! Front ends set and cancel far more timers than ever come due (keep-alives, deadlines), so cancelled ones must not stay behind in the
//! heap. A hierarchical wheel would make both O(1), at the price of rounding and of a tick; with some thousands of timers the heap's twelve
//! steps cost less than a tick would.

/// At most this many timers on one reactor: 128 per connection for 8192 connections. More is a leak, and said so.
const TIMERS_MAX: usize = 1 << 20;

/// Names a timer that was set and has neither come due nor been cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId {
    slot: u32,
    generation: u32,
}

#[derive(Clone, Copy)]
struct Slot {
    /// Counts the uses of the slot, so that a stale [`TimerId`] is recognised.
    generation: u32,
    /// Where in the heap; meaningless while free.
    position: u32,
    token: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    at_ns: u64,
    /// Timers of the same moment come due in the order they were set.
    sequence: u64,
    slot: u32,
}

impl Entry {
    fn key(&self) -> (u64, u64) {
        (self.at_ns, self.sequence)
    }
}

#[derive(Default)]
pub(super) struct Timers {
    heap: Vec<Entry>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    sequence: u64,
}

impl Timers {
    pub(super) fn set(&mut self, at_ns: u64, token: u64) -> TimerId {
        let position = self.heap.len() as u32;
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                assert!(
                    self.slots.len() < TIMERS_MAX,
                    "more than {TIMERS_MAX} timers on one reactor: a timer leak"
                );
                self.slots.push(Slot {
                    generation: 0,
                    position: 0,
                    token: 0,
                });
                (self.slots.len() - 1) as u32
            }
        };
        let generation = {
            let entry = &mut self.slots[slot as usize];
            entry.position = position;
            entry.token = token;
            entry.generation
        };
        self.heap.push(Entry {
            at_ns,
            sequence: self.sequence,
            slot,
        });
        self.sequence += 1;
        self.up(position as usize);
        TimerId { slot, generation }
    }

    /// False if it came due or was cancelled before.
    pub(super) fn cancel(&mut self, id: TimerId) -> bool {
        match self.slots.get(id.slot as usize) {
            Some(slot) if slot.generation == id.generation => {
                let position = slot.position as usize;
                self.remove(position);
                true
            }
            _ => false,
        }
    }

    /// Takes the earliest timer that is due.
    #[inline]
    pub(super) fn due(&mut self, now_ns: u64) -> Option<u64> {
        if self.heap.first()?.at_ns > now_ns {
            return None;
        }
        let token = self.slots[self.heap[0].slot as usize].token;
        self.remove(0);
        Some(token)
    }

    #[inline]
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.heap.first().map(|entry| entry.at_ns)
    }

    fn remove(&mut self, position: usize) {
        let slot = self.heap[position].slot;
        debug_assert_eq!(self.slots[slot as usize].position as usize, position);
        // A slot's generation wraps after 2^32 uses; a TimerId held that long unused is not a case.
        self.slots[slot as usize].generation = self.slots[slot as usize].generation.wrapping_add(1);
        self.free.push(slot);
        self.heap.swap_remove(position);
        if position < self.heap.len() {
            self.note(position);
            self.up(position);
            self.down(position);
        }
    }

    fn note(&mut self, position: usize) {
        let slot = self.heap[position].slot;
        self.slots[slot as usize].position = position as u32;
    }

    fn up(&mut self, mut position: usize) {
        while position > 0 {
            let parent = (position - 1) / 2;
            if self.heap[parent].key() <= self.heap[position].key() {
                break;
            }
            self.swap(parent, position);
            position = parent;
        }
    }

    fn down(&mut self, mut position: usize) {
        loop {
            let left = 2 * position + 1;
            let Some(entry) = self.heap.get(left) else {
                break;
            };
            let right = left + 1;
            let child = match self.heap.get(right) {
                Some(other) if other.key() < entry.key() => right,
                _ => left,
            };
            if self.heap[position].key() <= self.heap[child].key() {
                break;
            }
            self.swap(position, child);
            position = child;
        }
    }

    fn swap(&mut self, one: usize, two: usize) {
        self.heap.swap(one, two);
        self.note(one);
        self.note(two);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Any sequence of set, cancel and "time passes" gives what a sorted list gives.
    #[derive(Clone, Debug)]
    enum Step {
        Set(u64),
        Cancel(usize),
        Advance(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u64..100).prop_map(Step::Set),
            any::<usize>().prop_map(Step::Cancel),
            (0u64..30).prop_map(Step::Advance),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_a_sorted_list(steps in prop::collection::vec(step(), 0..200)) {
            let mut timers = Timers::default();
            // The oracle: (at, token), kept in order of setting; tokens count up.
            let mut oracle: Vec<(u64, u64)> = Vec::new();
            let mut ids: Vec<TimerId> = Vec::new();
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Set(delay) => {
                        let token = ids.len() as u64;
                        ids.push(timers.set(now + delay, token));
                        oracle.push((now + delay, token));
                    }
                    Step::Cancel(which) if !ids.is_empty() => {
                        let token = which % ids.len();
                        let live = oracle.iter().position(|timer| timer.1 == token as u64);
                        prop_assert_eq!(timers.cancel(ids[token]), live.is_some());
                        live.map(|index| oracle.remove(index));
                    }
                    Step::Cancel(_) => {}
                    Step::Advance(by) => {
                        now += by;
                        while let Some(token) = timers.due(now) {
                            let expected = *oracle.iter().min().expect("oracle holds it too");
                            prop_assert!(expected.0 <= now);
                            prop_assert_eq!(token, expected.1);
                            oracle.retain(|timer| *timer != expected);
                        }
                        prop_assert!(oracle.iter().all(|timer| timer.0 > now));
                    }
                }
                prop_assert_eq!(timers.next_ns(), oracle.iter().map(|timer| timer.0).min());
            }
        }
    }

    #[test]
    fn slots_are_used_again_and_stale_ids_do_nothing() {
        let mut timers = Timers::default();
        let first = timers.set(1, 7);
        assert_eq!(timers.due(1), Some(7));
        let second = timers.set(2, 8);
        assert_eq!(timers.slots.len(), 1);
        assert!(!timers.cancel(first));
        assert_eq!(timers.next_ns(), Some(2));
        assert!(timers.cancel(second));
        assert_eq!(timers.next_ns(), None);
    }
}
