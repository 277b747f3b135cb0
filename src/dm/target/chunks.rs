//! Chunks dealt out in turn.

/// Chunk c lies on stripe c mod n, at row c div n (6.1). The chunk need not be a power of two.
///
/// Counted in sectors, unless they are [`Chunks::in_blocks`].
#[derive(Clone, Copy, Debug)]
pub struct Chunks {
    length: u64,
    /// log2 of the length, where it is a power of two: a shift costs a tenth of a division.
    length_shift: Option<u32>,
    stripes: u64,
    /// The same for the number of stripes.
    stripes_shift: Option<u32>,
}

impl Chunks {
    /// Of a length that is not 0, over so many stripes.
    pub fn new(length: u64, stripes: u64) -> Chunks {
        let shift = |n: u64| n.is_power_of_two().then(|| n.trailing_zeros());
        Chunks {
            length,
            length_shift: shift(length),
            stripes,
            stripes_shift: shift(stripes),
        }
    }

    /// The same chunks, counted in blocks of 2 to the power of `shift` sectors; `None` if they are not made of such.
    pub fn in_blocks(self, shift: u32) -> Option<Chunks> {
        let whole = self.length.is_multiple_of(1 << shift);
        whole.then(|| Chunks::new(self.length >> shift, self.stripes))
    }

    /// How long one is.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// How many stripes there are.
    pub fn stripes(&self) -> u64 {
        self.stripes
    }

    /// What is left of a chunk from `at` on, at least 1.
    #[inline(always)]
    pub fn left(&self, at: u64) -> u64 {
        match self.length_shift {
            Some(_) => self.length - (at & (self.length - 1)),
            None => self.length - at % self.length,
        }
    }

    /// The stripe of `at`, and how far along that it lies.
    #[inline(always)]
    pub fn locate(&self, at: u64) -> (usize, u64) {
        let (chunk, offset) = match self.length_shift {
            Some(shift) => (at >> shift, at & (self.length - 1)),
            None => (at / self.length, at % self.length),
        };
        let (row, stripe) = match self.stripes_shift {
            Some(shift) => (chunk >> shift, chunk & (self.stripes - 1)),
            None => (chunk / self.stripes, chunk % self.stripes),
        };
        (stripe as usize, row * self.length + offset)
    }

    /// How much of stripe `stripe` lies before `at`: where the stripe's share of a range that starts or ends at `at` starts or ends.
    pub fn before(&self, stripe: usize, at: u64) -> u64 {
        let (of, within) = self.locate(at);
        let row_start = within - within % self.length;
        match stripe.cmp(&of) {
            std::cmp::Ordering::Less => row_start + self.length,
            std::cmp::Ordering::Equal => within,
            std::cmp::Ordering::Greater => row_start,
        }
    }
}
