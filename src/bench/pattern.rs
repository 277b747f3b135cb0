//! Where I/Os go, and the contents that `--verify` writes and expects.

use super::backend::{Data, Request};

/// A small, fast generator of pseudo-random numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator with this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    #[inline]
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number below `bound`, which is not 0. The bias of the multiplication is below 2^-20 for any
    /// bound that counts I/Os of a device.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }
}

/// The golden ratio in 64 bits; odd, so multiples of it visit every number.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Scatters the bits of a number.
#[inline]
const fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}

/// Bytes shown of either side of a mismatch.
const SHOWN: usize = 16;

/// The first byte that was not what it had to be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Mismatch {
    /// The block.
    pub lba: u64,
    /// The byte within the block.
    pub byte: u32,
    /// What it had to be from there on, in hexadecimal.
    pub expected: String,
    /// What it was.
    pub found: String,
    /// The write that had to be found, counted from 1 by the job that wrote it.
    pub generation: u32,
    /// What the block says of itself, where it holds a pattern of this run.
    pub holds: Option<String>,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            lba,
            byte,
            expected,
            found,
            generation,
            holds,
        } = self;
        write!(
            f,
            "LBA {lba}, byte {byte}: expected {expected} (write {generation} of its job), found {found}"
        )?;
        match holds {
            Some(holds) => write!(f, "; the block holds {holds}"),
            None => Ok(()),
        }
    }
}

/// Pattern of `--verify`. Each block begins with its LBA and its generation, the rest is pseudo-random and
/// different for every block and generation:
///
/// | bytes | contents |
/// |---|---|
/// | 0 to 7 | LBA |
/// | 8 to 15 | generation (upper half), check of LBA and generation (lower half) |
/// | from 16 | words `base + n * STEP`, with `base` from seed, LBA and generation |
#[derive(Debug)]
pub struct VerifyData {
    seed: u64,
    block_size: u32,
    /// Bytes that were checked.
    pub checked_bytes: u64,
    /// I/Os with a mismatch are not counted one by one: bytes are checked in pieces. Pieces with one.
    pub mismatches: u64,
    /// The first of them.
    pub first: Option<Mismatch>,
}

impl VerifyData {
    /// Patterns of this seed.
    pub const fn new(seed: u64, block_size: u32) -> Self {
        Self {
            seed,
            block_size,
            checked_bytes: 0,
            mismatches: 0,
            first: None,
        }
    }

    /// The number all words of a block start from.
    #[inline]
    const fn base(&self, lba: u64, generation: u32) -> u64 {
        mix(self.seed ^ mix(lba.wrapping_add(STEP)) ^ (generation as u64).wrapping_mul(STEP))
    }

    /// The word at index `word` of a block.
    #[inline]
    fn word(base: u64, lba: u64, generation: u32, word: u32) -> u64 {
        match word {
            0 => lba,
            1 => u64::from(generation) << 32 | base >> 32,
            _ => base.wrapping_add(u64::from(word).wrapping_mul(STEP)),
        }
    }

    /// Calls `visit` for every word, or part of a word, of the piece of `size` bytes at `offset`: block, word
    /// within it, the word's bytes, and which of them lie where in the piece.
    #[inline]
    fn pieces(
        &self,
        request: &Request,
        offset: u32,
        size: usize,
        mut visit: impl FnMut(u64, u32, &[u8], usize) -> bool,
    ) {
        let mut at = 0;
        while at < size {
            let position = offset as usize + at;
            let lba = request.lba + position as u64 / u64::from(self.block_size);
            let within = position as u32 % self.block_size;
            let base = self.base(lba, request.generation);
            let block_end = at + (self.block_size - within) as usize;
            let mut word = within / 8;
            let mut skip = (within % 8) as usize;
            while at < block_end.min(size) {
                let bytes = Self::word(base, lba, request.generation, word).to_le_bytes();
                let count = (8 - skip).min(size - at);
                if !visit(lba, word * 8 + skip as u32, &bytes[skip..skip + count], at) {
                    return;
                }
                at += count;
                word += 1;
                skip = 0;
            }
        }
    }

    /// Describes the first difference of a piece.
    #[cold]
    fn mismatch(&self, request: &Request, offset: u32, data: &[u8]) -> Mismatch {
        let mut expected = vec![0; data.len()];
        self.pieces(request, offset, data.len(), |_, _, bytes, at| {
            expected[at..at + bytes.len()].copy_from_slice(bytes);
            true
        });
        let at = expected
            .iter()
            .zip(data)
            .position(|(one, other)| one != other)
            .unwrap_or(0);
        let hex = |bytes: &[u8]| {
            bytes[at..]
                .iter()
                .take(SHOWN)
                .map(|byte| format!("{byte:02x}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        let position = offset as usize + at;
        let within = position % self.block_size as usize;
        let header = at
            .checked_sub(within)
            .and_then(|start| data.get(start..start + 16));
        Mismatch {
            lba: request.lba + position as u64 / u64::from(self.block_size),
            byte: within as u32,
            expected: hex(&expected),
            found: hex(data),
            generation: request.generation,
            holds: header.and_then(|header| self.describe(header)),
        }
    }

    /// What the first 16 bytes of a block say, if they are of this run.
    fn describe(&self, header: &[u8]) -> Option<String> {
        let lba = crate::nvme::bytes::get_u64(header, 0);
        let second = crate::nvme::bytes::get_u64(header, 8);
        let generation = (second >> 32) as u32;
        if header.iter().all(|&byte| byte == 0) {
            return Some("zeroes".into());
        }
        (second == Self::word(self.base(lba, generation), lba, generation, 1))
            .then(|| format!("write {generation} of LBA {lba}"))
    }
}

impl Data for VerifyData {
    const NEEDED: bool = true;

    fn fill(&mut self, request: &Request, offset: u32, buffer: &mut [u8]) {
        let size = buffer.len();
        self.pieces(request, offset, size, |_, _, bytes, at| {
            buffer[at..at + bytes.len()].copy_from_slice(bytes);
            true
        });
    }

    fn check(&mut self, request: &Request, offset: u32, data: &[u8]) {
        // Nothing is known of a place that this run has not written.
        if request.generation == 0 {
            return;
        }
        self.checked_bytes += data.len() as u64;
        let mut equal = true;
        self.pieces(request, offset, data.len(), |_, _, bytes, at| {
            equal = data[at..at + bytes.len()] == *bytes;
            equal
        });
        if !equal {
            self.mismatches += 1;
            if self.first.is_none() {
                self.first = Some(self.mismatch(request, offset, data));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::backend::Kind;
    use super::*;
    use proptest::prelude::*;

    fn request(lba: u64, block_count: u32, generation: u32) -> Request {
        Request {
            lba,
            block_count,
            generation,
            tag: 0,
            kind: Kind::Write,
        }
    }

    fn filled(lba: u64, block_count: u32, generation: u32) -> Vec<u8> {
        let mut buffer = vec![0; block_count as usize * 512];
        VerifyData::new(9, 512).fill(&request(lba, block_count, generation), 0, &mut buffer);
        buffer
    }

    #[test]
    fn a_mismatch_tells_where_and_what() {
        let mut data = VerifyData::new(9, 512);
        let mut buffer = filled(100, 2, 3);
        data.check(&request(100, 2, 3), 0, &buffer);
        assert_eq!((data.mismatches, data.checked_bytes), (0, 1024));
        buffer[512 + 20] ^= 0xFF;
        data.check(&request(100, 2, 3), 0, &buffer);
        let first = data.first.clone().unwrap();
        assert_eq!((first.lba, first.byte, first.generation), (101, 20, 3));
        assert_ne!(first.expected[..2], first.found[..2]);
        assert_eq!(first.expected[2..], first.found[2..]);
        assert_eq!(first.holds.as_deref(), Some("write 3 of LBA 101"));
    }

    /// The three faults storage is prone to: a lost write, a misplaced one, and zeroes.
    #[test]
    fn a_mismatch_says_what_the_block_holds() {
        for (found, holds) in [
            (filled(7, 1, 1), Some("write 1 of LBA 7")),
            (filled(8, 1, 2), Some("write 2 of LBA 8")),
            (vec![0; 512], Some("zeroes")),
            (vec![0xAA; 512], None),
        ] {
            let mut data = VerifyData::new(9, 512);
            data.check(&request(7, 1, 2), 0, &found);
            assert_eq!(data.first.unwrap().holds.as_deref(), holds);
        }
    }

    #[test]
    fn a_place_never_written_is_not_checked() {
        let mut data = VerifyData::new(9, 512);
        data.check(&request(7, 1, 0), 0, &[0xAA; 512]);
        assert_eq!((data.mismatches, data.checked_bytes), (0, 0));
    }

    proptest! {
        /// Data is the same whether it is filled and checked at once or in pieces cut anywhere.
        #[test]
        fn pieces_make_the_whole(
            lba: u32, generation in 1u32.., cuts in proptest::collection::vec(1usize..300, 1..40),
        ) {
            let whole = filled(u64::from(lba), 4, generation);
            let request = request(u64::from(lba), 4, generation);
            let mut data = VerifyData::new(9, 512);
            let mut at = 0;
            for cut in cuts {
                let mut piece = vec![0; cut.min(whole.len() - at)];
                data.fill(&request, at as u32, &mut piece);
                prop_assert_eq!(&piece[..], &whole[at..at + piece.len()]);
                data.check(&request, at as u32, &piece);
                at += piece.len();
            }
            prop_assert_eq!(data.mismatches, 0);
        }

        #[test]
        fn random_numbers_stay_below(seed: u64, bound in 1u64..) {
            let mut random = Random::new(seed);
            for _ in 0..100 {
                prop_assert!(random.below(bound) < bound);
            }
        }
    }
}
