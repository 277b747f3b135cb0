//! Random tables, and where each of their sectors lies: computed here on its own, so that the mapper is not asked about itself.

use std::fmt::Write as _;

use super::Random;

/// A table's text, and the place of each of its sectors.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The table.
    pub text: String,
    /// By sector of the mapped device: which disk, and which sector there.
    pub places: Vec<(usize, u64)>,
}

/// Blocks beneath `ebs` targets, in sectors.
const UNDERLYING: [u64; 2] = [2, 4];

/// Chunk sizes of striped targets, in sectors: powers of two and others (IO-6).
const CHUNKS: [u64; 5] = [1, 2, 3, 4, 6];

impl Layout {
    /// A table of `sectors` sectors over some of `disks`, each of which has room for all of them three times: an `ebs` begins at
    /// a whole block. With `late`, areas are now
    /// and then reached by `delay`; with `blocks`, by `ebs`.
    pub fn random(
        random: &mut Random,
        sectors: u64,
        disks: &[usize],
        late: bool,
        blocks: bool,
    ) -> Layout {
        let mut layout = Layout {
            text: String::new(),
            places: Vec::with_capacity(sectors as usize),
        };
        let mut used = vec![0; disks.len()];
        while (layout.places.len() as u64) < sectors {
            let left = sectors - layout.places.len() as u64;
            let most = if random.percent(40) {
                left
            } else {
                1 + random.below(left)
            };
            if disks.len() > 1 && random.percent(45) {
                layout.striped(random, most, disks, &mut used);
            } else {
                let disk = random.below(disks.len() as u64) as usize;
                let underlying = *random.pick(&UNDERLYING);
                let emulates = blocks && most >= underlying && random.percent(60);
                let (start, most) = match emulates {
                    true => (
                        used[disk].next_multiple_of(underlying),
                        most - most % underlying,
                    ),
                    false => (used[disk], most),
                };
                used[disk] = start + most;
                let at = sectors - left;
                let area = format!("d{} {start}", disks[disk]);
                let _ = match late && random.percent(60) {
                    _ if emulates => writeln!(layout.text, "{at} {most} ebs {area} 1 {underlying}"),
                    true => {
                        let [read, write, flush] = [(); 3].map(|()| random.below(4));
                        writeln!(
                            layout.text,
                            "{at} {most} delay {area} {read} {area} {write} {area} {flush}"
                        )
                    }
                    false => writeln!(layout.text, "{at} {most} linear {area}"),
                };
                layout
                    .places
                    .extend((0..most).map(|at| (disks[disk], start + at)));
            }
        }
        layout
    }

    /// Adds a striped target of at most `most` sectors, if a whole row fits.
    fn striped(&mut self, random: &mut Random, most: u64, disks: &[usize], used: &mut [u64]) {
        let legs = 2 + random.below(disks.len() as u64 - 1) as usize;
        let chunk = *random.pick(&CHUNKS);
        let rows = most / (chunk * legs as u64);
        if rows == 0 {
            return;
        }
        let first = random.below(disks.len() as u64) as usize;
        let mut areas = String::new();
        let start = self.places.len() as u64;
        let leg = |number: usize| (first + number) % disks.len();
        for number in 0..legs {
            let _ = write!(areas, " d{} {}", disks[leg(number)], used[leg(number)]);
        }
        for row in 0..rows {
            for number in 0..legs {
                let from = used[leg(number)] + row * chunk;
                self.places
                    .extend((0..chunk).map(|at| (disks[leg(number)], from + at)));
            }
        }
        (0..legs).for_each(|number| used[leg(number)] += rows * chunk);
        let sectors = rows * chunk * legs as u64;
        let _ = writeln!(self.text, "{start} {sectors} striped {legs} {chunk}{areas}");
    }
}
