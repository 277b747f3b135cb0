//! AT-63, AT-64: what was promised durable is there after a power cut, at any moment, under either policy.

use std::collections::BTreeMap;

use super::super::io::{DeviceId, Op};
use super::super::message::Request;
use super::super::status::Status;
use super::RESUME;
use super::for_seeds;
use crate::sim::{Answers, Ask, Cluster, Random};

const DEVICE: DeviceId = DeviceId(0);
const SECTORS: u64 = 96;

/// The promises that completions have made to hosts.
struct Promises {
    /// The number of the last write of each sector that has completed.
    completed: Vec<u64>,
    /// The least number that must survive.
    durable: Vec<u64>,
    /// What was completed when a flush, still under way, was submitted.
    flushes: BTreeMap<u32, Vec<u64>>,
    /// Writes under way: command to (sector, sectors, number, FUA).
    writes: BTreeMap<u32, (u64, u64, u64, bool)>,
    last: u64,
}

impl Promises {
    fn take_ends(&mut self, cluster: &mut Cluster) {
        let writes: Vec<_> = self.writes.keys().copied().collect();
        for command in writes {
            let Some((status, _)) = cluster.take(command) else {
                continue;
            };
            assert_eq!(status, Status::Ok);
            let (sector, sectors, number, fua) = self.writes.remove(&command).expect("a key");
            for at in sector as usize..(sector + sectors) as usize {
                self.completed[at] = self.completed[at].max(number);
                if fua {
                    self.durable[at] = self.durable[at].max(number);
                }
            }
        }
        let flushes: Vec<_> = self.flushes.keys().copied().collect();
        for command in flushes {
            let Some((status, _)) = cluster.take(command) else {
                continue;
            };
            assert_eq!(status, Status::Ok);
            let covered = self.flushes.remove(&command).expect("a key");
            for (durable, covered) in self.durable.iter_mut().zip(covered) {
                *durable = (*durable).max(covered);
            }
        }
    }

    /// Demands that every sector's durable content is at least as new as promised.
    fn check(&self, cluster: &Cluster, home: impl Fn(u64) -> (usize, u64)) {
        for (at, promised) in self.durable.iter().enumerate() {
            let (disk, sector) = home(at as u64);
            let found = u64::from_le_bytes(
                cluster.disk(disk).durable(sector)[..8]
                    .try_into()
                    .expect("8 bytes"),
            );
            assert!(
                found >= *promised,
                "sector {at}: write {promised} was promised, {found} survives"
            );
        }
    }
}

/// The table, and where it puts each sector.
const TABLE: &str = "0 64 striped 2 4 d0 0 d1 0\n64 32 linear d2 0";

fn home(at: u64) -> (usize, u64) {
    match at {
        0..64 => ((at / 4 % 2) as usize, at / 8 * 4 + at % 4),
        _ => (2, at - 64),
    }
}

fn run(seed: u64, ordered: bool) {
    let mut random = Random::new(seed);
    let mut cluster = Cluster::new(3, seed);
    for _ in 0..3 {
        let fua = random.percent(50);
        let disk = cluster.add_disk(64, |lower| lower.fua = fua);
        let (inline, busy) = (random.below(60), random.below(30));
        cluster.disk(disk).answers = Answers::Mixed { inline, busy };
    }
    cluster.device(0, ordered, TABLE);
    let sectors = SECTORS as usize;
    let mut promises = Promises {
        completed: vec![0; sectors],
        durable: vec![0; sectors],
        flushes: BTreeMap::new(),
        writes: BTreeMap::new(),
        last: 0,
    };
    for _ in 0..150 {
        let core = random.below(3) as u16;
        let sector = random.below(SECTORS);
        let length = 1 + random.below(12.min(SECTORS - sector));
        let busy = promises
            .writes
            .values()
            .any(|(at, n, ..)| *at < sector + length && sector < at + n);
        match random.below(20) {
            0..4 => {
                let covered = promises.completed.clone();
                let command = cluster.submit(core, DEVICE, Ask::flush());
                promises.flushes.insert(command, covered);
            }
            // The same table again: what is parked, or in the middle of its sequence, goes on with the new one.
            4 => {
                let table = cluster.table(TABLE);
                cluster.request(DEVICE, Request::Load(table));
                cluster.request(DEVICE, RESUME);
            }
            _ if busy => {}
            pick => {
                promises.last += 1;
                let mut bytes = vec![0u8; length as usize * 512];
                bytes
                    .chunks_mut(512)
                    .for_each(|chunk| chunk[..8].copy_from_slice(&promises.last.to_le_bytes()));
                let ask = Ask::write(sector, bytes);
                let fua = pick < 10;
                let ask = if fua { ask.fua() } else { ask };
                let command = cluster.submit(core, DEVICE, ask);
                promises
                    .writes
                    .insert(command, (sector, length, promises.last, fua));
            }
        }
        for _ in 0..random.below(12) {
            cluster.step();
            promises.take_ends(&mut cluster);
            promises.check(&cluster, home);
        }
    }
    cluster.settle();
    promises.take_ends(&mut cluster);
    promises.check(&cluster, home);
    assert!(
        promises.writes.is_empty() && promises.flushes.is_empty(),
        "all have ended"
    );
    cluster.demand_idle();
}

/// AT-63, FL-28: a write with FUA is there after a power cut that comes as soon as it has completed, whether the devices beneath take FUA, have
/// to be flushed for it, or have no cache; in pieces, and as write-zeroes and compare-and-write too.
#[test]
fn at_63_a_write_with_fua_is_durable_when_it_completes() {
    for_seeds(40, |seed| {
        for ordered in [false, true] {
            for (fua, volatile_cache) in [(true, true), (false, true), (false, false)] {
                let mut cluster = Cluster::new(3, seed);
                for _ in 0..3 {
                    let disk = cluster.add_disk(64, |lower| {
                        (lower.fua, lower.volatile_cache) = (fua, volatile_cache);
                    });
                    let (inline, busy) = (30, 20);
                    cluster.disk(disk).answers = Answers::Mixed { inline, busy };
                }
                cluster.device(0, ordered, TABLE);
                let old = vec![8; 20 * 512];
                cluster.run(0, DEVICE, Ask::write(58, old).fua());
                let zeroes = Ask::range(Op::WriteZeroes, 0, 40).fua();
                let swap = Ask::compare_and_write(60, 6, 8, 9);
                let asks = [
                    (Ask::fill(3, 70, 5).fua(), 3..73, 5),
                    (zeroes, 0..40, 0),
                    (Ask::fill(60, 6, 8).fua(), 60..66, 8),
                    (swap.fua(), 60..66, 9),
                ];
                for (at, (ask, range, byte)) in asks.into_iter().enumerate() {
                    let core = (at as u64 + seed) % 3;
                    let (status, _) = cluster.run(core as u16, DEVICE, ask);
                    assert_eq!(status, Status::Ok);
                    for at in range {
                        let (disk, sector) = home(at);
                        let kept = cluster.disk(disk).durable(sector);
                        let lost = volatile_cache && kept != [byte; 512];
                        assert!(!lost, "sector {at}: {} survives", kept[0]);
                    }
                }
            }
        }
    });
}

/// AT-64 with hosts that flush across cores, splits, table swaps and back-pressure.
#[test]
fn at_64_nothing_promised_is_lost_relaxed() {
    for_seeds(60, |seed| run(seed, false));
}

/// The same for the ordered policy.
#[test]
fn at_64_nothing_promised_is_lost_ordered() {
    for_seeds(60, |seed| run(seed, true));
}

/// The model of a disk does lose what nobody flushed: without that, the tests above could not fail.
#[test]
fn an_unflushed_write_is_lost() {
    let mut cluster = Cluster::new(1, 0);
    cluster.add_disk(8, |_| {});
    cluster.device(0, false, "0 8 linear d0 0");
    cluster.run(0, DEVICE, Ask::fill(0, 2, 1));
    cluster.run(0, DEVICE, Ask::flush());
    cluster.run(0, DEVICE, Ask::fill(1, 2, 2));
    cluster.disk(0).power_cut();
    let (_, bytes) = cluster.run(0, DEVICE, Ask::read(0, 3));
    assert_eq!((bytes[0], bytes[512], bytes[1024]), (1, 1, 0));
    // A flush covers what had completed when it was submitted, not what completed meanwhile.
    cluster.disk(0).answers = Answers::Later;
    let flush = cluster.submit(0, DEVICE, Ask::flush());
    cluster.disk(0).answers = Answers::Inline;
    cluster.run(0, DEVICE, Ask::fill(4, 1, 3));
    cluster.settle();
    assert_eq!(cluster.status(flush), Some(Status::Ok));
    assert_eq!(cluster.disk(0).durable(4)[0], 0);
    assert_eq!(cluster.disk(0).lower.id.0, 0);
    let discard = Ask::range(Op::Discard, 0, 1).fua();
    assert_eq!(cluster.run(0, DEVICE, discard).0, Status::Ok);
}
