//! A random table, spelled out sector by sector: slow, and too simple to be wrong in the same way as the mapper.

use crate::sim::{Cluster, Random};

/// Sectors of each disk that areas are dealt from; the eight behind them are the first target's.
const AREA_SECTORS: u64 = 512;

/// Where one sector of the mapped device lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Disk { disk: usize, sector: u64 },
    Zero,
    Error,
}

/// One sector of the mapped device.
#[derive(Clone, Copy, Debug)]
pub struct Sector {
    pub place: Place,
    /// A piece must begin here: a target or a chunk starts.
    cut: bool,
    /// The most sectors a piece here may have.
    most: u32,
    /// The number of its target.
    pub target: usize,
}

/// A table, and what its disks must hold.
pub struct Oracle {
    pub text: String,
    pub sectors: Vec<Sector>,
    /// The disks of each target.
    pub target_disks: Vec<Vec<usize>>,
    /// Sectors in a block of the mapped device.
    pub block: u64,
    pub disks: Vec<Vec<[u8; 512]>>,
    maxima: Vec<u32>,
}

impl Oracle {
    /// A random table over one to three new disks of the cluster. No sector of a disk is mapped twice.
    pub fn new(cluster: &mut Cluster, random: &mut Random) -> Oracle {
        let block = *random.pick(&[1u64, 1, 8]);
        let count = 1 + random.below(3) as usize;
        let mut maxima = Vec::new();
        for disk in 0..count {
            let most = *random.pick(&[0, 0, 8, 24, 40]);
            // The device's block is the largest of its disks'; the first has it, the others may.
            let own_block = if disk == 0 || random.percent(50) {
                block
            } else {
                1
            };
            let (discard, zeroes) = (random.percent(80), random.percent(80));
            let (fua, cache) = (random.percent(50), random.percent(70));
            cluster.add_disk(AREA_SECTORS + 8, |lower| {
                lower.block_bytes = own_block as u32 * 512;
                lower.transfer_sectors_max = most;
                (lower.discard, lower.write_zeroes) = (discard, zeroes);
                (lower.fua, lower.volatile_cache) = (fua, cache);
            });
            maxima.push(most);
        }
        let mut oracle = Oracle {
            text: String::new(),
            sectors: Vec::new(),
            target_disks: Vec::new(),
            block,
            disks: vec![vec![[0; 512]; AREA_SECTORS as usize + 8]; count],
            maxima,
        };
        oracle.linear(0, AREA_SECTORS, 8);
        let mut free = vec![0u64; count];
        for _ in 0..random.below(6) {
            oracle.random_target(random, &mut free);
        }
        oracle
    }

    fn random_target(&mut self, random: &mut Random, free: &mut [u64]) {
        let block = self.block;
        let mut area = |random: &mut Random, sectors: u64| {
            let disk = random.below(free.len() as u64) as usize;
            let start = free[disk] + block * random.below(3);
            free[disk] = start + sectors;
            (free[disk] <= AREA_SECTORS).then_some((disk, start))
        };
        let few = block * (1 + random.below(12));
        match random.below(6) {
            0 => self.without_disk("zero", Place::Zero, few),
            1 => self.without_disk("error", Place::Error, few),
            2 | 3 => {
                if let Some((disk, start)) = area(random, few) {
                    self.linear(disk, start, few);
                }
            }
            _ => {
                let chunk = block * (1 + random.below(6));
                let (rows, stripes) = (1 + random.below(4), 1 + random.below(4));
                let areas = (0..stripes).map(|_| area(random, chunk * rows));
                if let Some(areas) = areas.collect::<Option<Vec<_>>>() {
                    self.striped(chunk, rows, &areas);
                }
            }
        }
    }

    fn line(&mut self, sectors: u64, rest: &str, disks: Vec<usize>) {
        self.text += &format!("{} {sectors} {rest}\n", self.sectors.len());
        self.target_disks.push(disks);
    }

    fn sector(&mut self, place: Place, cut: bool) {
        let target = self.target_disks.len() - 1;
        let limits = self.target_disks[target].iter().map(|d| self.maxima[*d]);
        let most = limits.filter(|most| *most > 0).min().unwrap_or(u32::MAX);
        self.sectors.push(Sector {
            place,
            cut,
            most,
            target,
        });
    }

    fn without_disk(&mut self, name: &str, place: Place, sectors: u64) {
        self.line(sectors, name, Vec::new());
        (0..sectors).for_each(|at| self.sector(place, at == 0));
    }

    fn linear(&mut self, disk: usize, start: u64, sectors: u64) {
        self.line(sectors, &format!("linear d{disk} {start}"), vec![disk]);
        for at in 0..sectors {
            let sector = start + at;
            self.sector(Place::Disk { disk, sector }, at == 0);
        }
    }

    fn striped(&mut self, chunk: u64, rows: u64, areas: &[(usize, u64)]) {
        let list: String = areas.iter().map(|(d, at)| format!(" d{d} {at}")).collect();
        let stripes = areas.len() as u64;
        let disks = areas.iter().map(|(disk, _)| *disk).collect();
        self.line(
            chunk * rows * stripes,
            &format!("striped {stripes} {chunk}{list}"),
            disks,
        );
        for row in 0..rows {
            for (disk, start) in areas {
                for at in 0..chunk {
                    let place = Place::Disk {
                        disk: *disk,
                        sector: start + row * chunk + at,
                    };
                    self.sector(place, at == 0);
                }
            }
        }
    }

    /// The pieces of a read or write, in order: where each one's first sector lies, and its sectors (IO-6).
    pub fn pieces(&self, sector: u64, sectors: u32) -> Vec<(Place, u32)> {
        let mut pieces: Vec<(Place, u32)> = Vec::new();
        for at in &self.sectors[sector as usize..][..sectors as usize] {
            match pieces.last_mut() {
                Some((_, length)) if !at.cut && *length < at.most => *length += 1,
                _ => pieces.push((at.place, 1)),
            }
        }
        pieces
    }
}
