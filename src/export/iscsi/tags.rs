//! Which task of a connection has a tag: found at once, however many there may be.

use crate::iscsi::pdu::NO_TAG;

/// The end of a chain.
const NONE: u16 = u16::MAX;

/// A task's place in its chain.
#[derive(Clone, Copy)]
struct Task {
    tag: u32,
    next: u16,
}

/// The tags of the tasks in a connection's slots: chains of slots whose tags hash alike. An initiator that chooses its tags so that they
/// all do is served as slowly as if they were searched one by one, and nobody else is.
pub struct Tags {
    /// The first slot of each chain; their number is a power of two.
    heads: Box<[u16]>,
    tasks: Box<[Task]>,
}

impl Tags {
    /// No tags, of `slots` slots.
    pub fn new(slots: u16) -> Self {
        let task = Task {
            tag: NO_TAG,
            next: NONE,
        };
        Self {
            heads: vec![NONE; usize::from(slots).next_power_of_two().max(2)].into(),
            tasks: vec![task; usize::from(slots)].into(),
        }
    }

    /// The chain of a tag: the upper bits of its product with 2³² over the golden ratio, by which tags that follow one another are spread evenly.
    #[inline]
    fn chain(&self, tag: u32) -> usize {
        (tag.wrapping_mul(0x9E37_79B1) >> (32 - self.heads.len().ilog2())) as usize
    }

    /// The slot of the task with a tag; [`NO_TAG`] is nobody's.
    #[inline]
    pub fn find(&self, tag: u32) -> Option<u16> {
        if tag == NO_TAG {
            return None;
        }
        let mut at = self.heads[self.chain(tag)];
        while at != NONE {
            let task = self.tasks[usize::from(at)];
            if task.tag == tag {
                return Some(at);
            }
            at = task.next;
        }
        None
    }

    /// Gives the task in a slot that has none a tag.
    #[inline]
    pub fn set(&mut self, slot: u16, tag: u32) {
        debug_assert_eq!(self.tasks[usize::from(slot)].tag, NO_TAG);
        if tag == NO_TAG {
            return;
        }
        let head = &mut self.heads[self.chain(tag)];
        let next = std::mem::replace(head, slot);
        self.tasks[usize::from(slot)] = Task { tag, next };
    }

    /// The task in a slot has its tag no longer, if it had one.
    #[inline]
    pub fn clear(&mut self, slot: u16) {
        let Task { tag, next } = self.tasks[usize::from(slot)];
        if tag == NO_TAG {
            return;
        }
        self.tasks[usize::from(slot)].tag = NO_TAG;
        let chain = self.chain(tag);
        if self.heads[chain] == slot {
            self.heads[chain] = next;
            return;
        }
        let mut at = usize::from(self.heads[chain]);
        while self.tasks[at].next != slot {
            at = usize::from(self.tasks[at].next);
        }
        self.tasks[at].next = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every tag is found where it was set, and no other, also when there are many in one chain.
        #[test]
        fn tags_are_found(steps in proptest::collection::vec((0u16..40, 0u32..100), 1..400)) {
            let mut tags = Tags::new(40);
            let mut model = [NO_TAG; 40];
            for (slot, number) in steps {
                // Far apart, so that some share one of the 64 chains.
                let tag = number.wrapping_mul(0x85EB_CA6B);
                let own = &mut model[usize::from(slot)];
                if *own != NO_TAG {
                    tags.clear(slot);
                    *own = NO_TAG;
                } else if tags.find(tag).is_none() {
                    tags.set(slot, tag);
                    *own = tag;
                }
                for (slot, tag) in model.iter().enumerate() {
                    prop_assert_eq!(tags.find(*tag), (*tag != NO_TAG).then_some(slot as u16));
                }
            }
        }
    }

    #[test]
    fn no_tag_is_nobodys() {
        let mut tags = Tags::new(2);
        tags.set(0, NO_TAG);
        assert_eq!(tags.find(NO_TAG), None);
        tags.clear(0);
        tags.set(0, 7);
        assert_eq!((tags.find(7), tags.find(8)), (Some(0), None));
    }
}
