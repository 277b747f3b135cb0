//! Which blocks are being written, told to all cores.

use std::sync::atomic::{AtomicU64, Ordering};

/// Blocks that one word has bits for, so the most that are taken at once.
pub const BLOCKS_MAX: u32 = u64::BITS;

/// Most words of a table, as a power of two: 32 KiB. With 128 writes under way, which is a deep queue, one more meets another's word by
/// chance in 3 of 100 cases, and its bit in fewer.
const WORDS_BITS_MAX: u32 = 12;

/// The blocks that are taken, a bit each. Stretches of [`BLOCKS_MAX`] blocks share words, so a block may seem to be taken that is not; never the
/// other way round.
///
/// Taking is acquiring, letting go is releasing: what the one before did, its write below above all, is done for whoever takes the block next,
/// on whatever core.
#[derive(Debug)]
pub struct Blocks {
    words: Box<[AtomicU64]>,
}

impl Blocks {
    /// For a target of so many blocks, of which none is taken.
    pub fn new(blocks: u64) -> Blocks {
        let stretches = blocks.div_ceil(u64::from(BLOCKS_MAX));
        let words = stretches.clamp(2, 1 << WORDS_BITS_MAX).next_power_of_two();
        Blocks {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Takes `count` blocks from `first`, which one word has bits for; all of them or none. Never waits. Whether they were free.
    pub fn take(&self, first: u64, count: u32) -> bool {
        let (word, bits) = self.bits(first, count);
        let mut taken = word.load(Ordering::Relaxed);
        while taken & bits == 0 {
            let all = taken | bits;
            match word.compare_exchange_weak(taken, all, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => taken = now,
            }
        }
        false
    }

    /// Lets go of blocks that were taken so.
    ///
    /// # Panics
    /// If they are not taken: whoever let go of them has let others write over what is being written.
    pub fn let_go(&self, first: u64, count: u32) {
        let (word, bits) = self.bits(first, count);
        let taken = word.fetch_and(!bits, Ordering::Release);
        assert_eq!(taken & bits, bits, "{count} blocks from {first} were taken");
    }

    fn bits(&self, first: u64, count: u32) -> (&AtomicU64, u64) {
        let (stretch, before) = (first / u64::from(BLOCKS_MAX), first % u64::from(BLOCKS_MAX));
        assert!(
            count > 0 && before + u64::from(count) <= u64::from(BLOCKS_MAX),
            "{count} blocks from {first} have one word"
        );
        // Fibonacci hashing: streams that keep a distance of a power of two, as those of several jobs do, do not meet in one word.
        let hash = stretch.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let word = hash >> (u64::BITS - self.words.len().ilog2());
        let bits = (u64::MAX >> (BLOCKS_MAX - count)) << before;
        (&self.words[word as usize], bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_not_taken_again() {
        let blocks = Blocks::new(1000);
        assert!(blocks.take(0, 64), "a whole word");
        assert!(!blocks.take(0, 1) && !blocks.take(63, 1) && !blocks.take(3, 5));
        blocks.let_go(0, 64);
        assert!(blocks.take(3, 5) && blocks.take(0, 3) && blocks.take(8, 56));
        assert!(!blocks.take(2, 2), "one of them is free, the other is not");
        blocks.let_go(3, 5);
        assert!(!blocks.take(2, 2) && blocks.take(3, 5));
    }

    #[test]
    #[should_panic(expected = "1 blocks from 7 were taken")]
    fn what_is_not_taken_cannot_be_let_go() {
        Blocks::new(10).let_go(7, 1);
    }

    #[test]
    #[should_panic(expected = "2 blocks from 63 have one word")]
    fn what_has_two_words_is_not_taken() {
        Blocks::new(1000).take(63, 2);
    }

    /// Threads that add one to a number each has to take first, and that is no atomic one in effect: it is loaded and stored.
    #[test]
    fn threads_exclude_each_other() {
        let blocks = Blocks::new(1 << 20);
        let sums: Vec<AtomicU64> = (0..3).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let (blocks, sums) = (&blocks, &sums);
                scope.spawn(move || {
                    for round in 0..20_000 {
                        let which = (thread + round) % 3;
                        let first = which as u64 * 4097;
                        while !blocks.take(first, 2) {
                            std::thread::yield_now();
                        }
                        let sum = sums[which].load(Ordering::Relaxed);
                        sums[which].store(sum + 1, Ordering::Relaxed);
                        blocks.let_go(first, 2);
                    }
                });
            }
        });
        let total: u64 = sums.iter().map(|sum| sum.load(Ordering::Relaxed)).sum();
        assert_eq!(total, 60_000);
    }
}
