//! Which I/O comes next: places, reads and writes, flushes; and what `--verify` knows of each place.

use super::backend::{Kind, Request};
use super::options::Options;
use super::pattern::Random;

/// How often a random place is drawn anew because an I/O is under way there (`--verify` alone).
const DRAWS_MAX: usize = 16;

/// The part of a target that one job uses, in I/O units of `--bs` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First unit.
    pub first: u64,
    /// Units; not 0.
    pub count: u64,
}

impl Region {
    /// The region of job `job`: the whole for random places, else a share of its own. With `--verify` a
    /// share too, so that nobody else writes what a job expects to read.
    pub fn of_job(options: &Options, units: u64, job: usize) -> Self {
        if options.rw.is_random() && !options.verify {
            return Self {
                first: 0,
                count: units,
            };
        }
        let share = units / options.jobs as u64;
        Self {
            first: share * job as u64,
            count: share,
        }
    }
}

/// What is known of a place: the number of the last write, 0 when unknown; and whether an I/O is under way.
#[derive(Clone, Copy, Debug)]
struct Place(u32);

impl Place {
    const BUSY: u32 = 1 << 31;

    const fn is_busy(self) -> bool {
        self.0 & Self::BUSY != 0
    }

    const fn generation(self) -> u32 {
        self.0 & !Self::BUSY
    }
}

/// The sequence of one job's I/Os.
#[derive(Debug)]
pub struct Workload {
    region: Region,
    unit_blocks: u32,
    random: Random,
    is_random: bool,
    /// A read when the upper half of a random number is below this: percent of 2^32.
    read_below: u64,
    position: u64,
    flush_every: Option<u32>,
    writes_since_flush: u32,
    /// One entry per unit of the region with `--verify`, else empty.
    places: Vec<Place>,
    generation: u32,
    /// Writes repeat what their place holds.
    repeats: bool,
}

impl Workload {
    /// The I/Os of job `job` on `region`, in units of `unit_blocks` blocks.
    pub fn new(options: &Options, region: Region, unit_blocks: u32, job: usize) -> Self {
        let places = if options.verify {
            region.count as usize
        } else {
            0
        };
        Self {
            region,
            unit_blocks,
            random: Random::new(options.seed.wrapping_add((job as u64) << 32)),
            is_random: options.rw.is_random(),
            read_below: u64::from(options.read_percent()) * (1 << 32) / 100,
            position: 0,
            flush_every: options.flush_every,
            writes_since_flush: 0,
            places: vec![Place(0); places],
            generation: 0,
            repeats: false,
        }
    }

    /// The same on a region whose every place holds write 1 already. Until [`Workload::renew`], writes repeat what their
    /// place holds.
    pub fn prepared(mut self) -> Self {
        self.places.fill(Place(1));
        self.generation = 1;
        self.repeats = true;
        self
    }

    /// From now on every write writes something new.
    pub fn renew(&mut self) {
        self.repeats = false;
    }

    /// The next I/O; `None` when every place that was drawn has one under way.
    #[inline]
    pub fn next(&mut self, tag: u16) -> Option<Request> {
        if self
            .flush_every
            .is_some_and(|every| self.writes_since_flush >= every)
        {
            self.writes_since_flush = 0;
            return Some(Request {
                lba: 0,
                block_count: 0,
                generation: 0,
                tag,
                kind: Kind::Flush,
            });
        }
        let unit = self.draw()?;
        let is_read = match self.read_below {
            0 => false,
            0x1_0000_0000 => true,
            below => self.random.draw() >> 32 < below,
        };
        let kind = if is_read { Kind::Read } else { Kind::Write };
        if kind == Kind::Write {
            self.writes_since_flush = self.writes_since_flush.saturating_add(1);
        }
        Some(self.request(unit, tag, kind))
    }

    /// A free place, by the pattern.
    #[inline]
    fn draw(&mut self) -> Option<u64> {
        if !self.is_random {
            let unit = self.position;
            if self.is_busy(unit) {
                return None;
            }
            self.position = if unit + 1 == self.region.count {
                0
            } else {
                unit + 1
            };
            return Some(unit);
        }
        for _ in 0..DRAWS_MAX {
            let unit = self.random.below(self.region.count);
            if !self.is_busy(unit) {
                return Some(unit);
            }
        }
        None
    }

    #[inline]
    fn is_busy(&self, unit: u64) -> bool {
        !self.places.is_empty() && self.places[unit as usize].is_busy()
    }

    /// The request for a place, which is busy from now on.
    #[inline]
    fn request(&mut self, unit: u64, tag: u16, kind: Kind) -> Request {
        let mut generation = 0;
        if let Some(place) = self.places.get_mut(unit as usize) {
            if kind == Kind::Write && self.repeats {
                // What a failed write has left behind is not known; write 1 is as good as any.
                generation = place.generation().max(1);
            } else if kind == Kind::Write {
                // 31 bits, without 0: after two billion writes numbers come again, which does no harm.
                self.generation = if self.generation == Place::BUSY - 1 {
                    1
                } else {
                    self.generation + 1
                };
                generation = self.generation;
            } else {
                generation = place.generation();
            }
            place.0 |= Place::BUSY;
        }
        let lba = (self.region.first + unit) * u64::from(self.unit_blocks);
        Request {
            lba,
            block_count: self.unit_blocks,
            generation,
            tag,
            kind,
        }
    }

    /// Notes that an I/O ended; what a failed write left behind is not known.
    #[inline]
    pub fn release(&mut self, request: &Request, succeeded: bool) {
        if self.places.is_empty() || request.kind == Kind::Flush {
            return;
        }
        let unit = request.lba / u64::from(self.unit_blocks) - self.region.first;
        let place = &mut self.places[unit as usize];
        debug_assert!(place.is_busy());
        place.0 = match request.kind {
            Kind::Write if succeeded => request.generation,
            Kind::Write => 0,
            _ => place.generation(),
        };
    }

    /// The read of the first place from `unit` on that this run has written, and the unit after it.
    pub fn next_written(&mut self, unit: u64, tag: u16) -> Option<(Request, u64)> {
        let rest = self.places.get(unit as usize..)?;
        let found = unit + rest.iter().position(|place| place.generation() != 0)? as u64;
        Some((self.request(found, tag, Kind::Read), found + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::Pattern;
    use super::super::testing::options;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sequential_jobs_have_regions_of_their_own_and_wrap() {
        let options = options(|o| {
            o.rw = Pattern::Read;
            o.jobs = 3;
        });
        let regions: Vec<Region> = (0..3)
            .map(|job| Region::of_job(&options, 10, job))
            .collect();
        assert_eq!(regions[2], Region { first: 6, count: 3 });
        let mut workload = Workload::new(&options, regions[2], 8, 2);
        let lbas: Vec<u64> = (0..4).map(|_| workload.next(0).unwrap().lba).collect();
        assert_eq!(lbas, [48, 56, 64, 48]);
    }

    #[test]
    fn a_flush_comes_after_so_many_writes() {
        let options = options(|o| {
            o.rw = Pattern::RandWrite;
            o.flush_every = Some(2);
        });
        let mut workload = Workload::new(&options, Region { first: 0, count: 9 }, 1, 0);
        let kinds: Vec<Kind> = (0..6).map(|_| workload.next(0).unwrap().kind).collect();
        assert_eq!(
            kinds,
            [
                Kind::Write,
                Kind::Write,
                Kind::Flush,
                Kind::Write,
                Kind::Write,
                Kind::Flush
            ]
        );
    }

    #[test]
    fn the_mix_is_what_was_asked_for() {
        for (percent, expected) in [(0, 0..=0), (30, 2700..=3300), (100, 10_000..=10_000)] {
            let options = options(|o| {
                o.rw = Pattern::RandRw;
                o.rwmixread = Some(percent);
            });
            let mut workload = Workload::new(
                &options,
                Region {
                    first: 0,
                    count: 1000,
                },
                1,
                0,
            );
            let reads = (0..10_000)
                .filter(|_| workload.next(0).unwrap().kind == Kind::Read)
                .count();
            assert!(expected.contains(&reads), "{percent} percent: {reads}");
        }
    }

    /// A failed write makes a place unknown; reads expect the last write that succeeded.
    #[test]
    fn places_remember_their_last_write() {
        let options = options(|o| {
            o.rw = Pattern::Write;
            o.verify = true;
        });
        let mut workload = Workload::new(&options, Region { first: 0, count: 2 }, 1, 0);
        let first = workload.next(0).unwrap();
        let second = workload.next(1).unwrap();
        assert_eq!((first.generation, second.generation), (1, 2));
        assert_eq!(workload.next(2), None, "both places are busy");
        workload.release(&first, true);
        workload.release(&second, false);
        let (read, next) = workload.next_written(0, 3).unwrap();
        assert_eq!(
            (read.lba, read.generation, read.kind, next),
            (0, 1, Kind::Read, 1)
        );
        assert_eq!(
            workload.next_written(1, 4),
            None,
            "the failed write's place is unknown"
        );
    }

    /// On a prepared region reads are checked from the first on, and writes change nothing until they are told to.
    #[test]
    fn a_prepared_region_is_repeated_until_it_is_renewed() {
        let options = options(|o| {
            o.rw = Pattern::Write;
            o.verify = true;
        });
        let region = Region { first: 0, count: 2 };
        let mut workload = Workload::new(&options, region, 1, 0).prepared();
        let (read, _) = workload.next_written(0, 0).unwrap();
        assert_eq!((read.lba, read.generation), (0, 1));
        workload.release(&read, true);
        let repeated = workload.next(1).unwrap();
        assert_eq!((repeated.lba, repeated.generation), (0, 1));
        workload.release(&repeated, true);
        workload.renew();
        let renewed = workload.next(2).unwrap();
        assert_eq!((renewed.lba, renewed.generation), (1, 2));
        workload.release(&renewed, true);
        let (read, _) = workload.next_written(1, 3).unwrap();
        assert_eq!((read.lba, read.generation), (1, 2));
    }

    proptest! {
        /// Whatever the order of completions: no place ever has two I/Os under way.
        #[test]
        fn no_place_is_used_twice_at_once(seed: u64, choices in proptest::collection::vec(any::<u8>(), 1..400)) {
            let options = options(|o| {
                o.rw = Pattern::RandRw;
                o.verify = true;
                o.seed = seed;
            });
            let mut workload = Workload::new(&options, Region { first: 5, count: 20 }, 2, 0);
            let mut under_way: Vec<Request> = Vec::new();
            for choice in choices {
                if choice & 1 == 0 {
                    if let Some(request) = workload.next(0) {
                        prop_assert!((10..50).contains(&request.lba));
                        prop_assert!(under_way.iter().all(|other| other.lba != request.lba));
                        under_way.push(request);
                    }
                } else if !under_way.is_empty() {
                    let request = under_way.swap_remove(usize::from(choice >> 1) % under_way.len());
                    workload.release(&request, choice & 2 != 0);
                }
            }
        }
    }
}
