//! Compare-and-write: atomic against everything else on the device, never done twice (IO-21, AT-77).

use super::super::io::{DeviceId, Op};
use super::super::message::Request;
use super::super::status::Status;
use super::RESUME;
use super::clones;
use super::for_seeds;
use crate::sim::{Answers, Ask, Cluster, Random};

const DEVICE: DeviceId = DeviceId(0);

fn cluster(cores: u16, seed: u64, ordered: bool) -> Cluster {
    let mut cluster = Cluster::new(cores, seed);
    cluster.add_disk(64, |lower| lower.fua = seed.is_multiple_of(2));
    cluster.add_disk(64, |_| {});
    cluster.device(0, ordered, "0 64 striped 2 4 d0 0 d1 0");
    cluster.seen();
    cluster
}

/// Equal: written. Different: a miscompare, nothing written. Across pieces, with and without FUA.
#[test]
fn compare_and_write_compares_and_writes() {
    for ordered in [false, true] {
        for fua in [false, true] {
            let mut cluster = cluster(2, 1, ordered);
            let ask = |old, new| {
                let ask = Ask::compare_and_write(2, 8, old, new);
                if fua { ask.fua() } else { ask }
            };
            assert_eq!(cluster.run(1, DEVICE, ask(0, 5)).0, Status::Ok);
            assert_eq!(cluster.run(0, DEVICE, ask(0, 6)).0, Status::Miscompare);
            assert_eq!(cluster.run(0, DEVICE, ask(5, 7)).0, Status::Ok);
            let (_, bytes) = cluster.run(0, DEVICE, Ask::read(0, 12));
            let found: Vec<_> = bytes.chunks(512).map(|sector| sector[0]).collect();
            assert_eq!(found, [0, 0, 7, 7, 7, 7, 7, 7, 7, 7, 0, 0]);
            if fua {
                assert_eq!(cluster.disk(0).durable(2)[0], 7);
                assert_eq!(cluster.disk(1).durable(0)[0], 7);
            }
            cluster.demand_idle();
        }
    }
}

/// Counters incremented by compare-and-write from every core, while others write elsewhere: no increment is lost or
/// done twice, whatever is swapped beneath meanwhile.
#[test]
fn at_77_increments_by_compare_and_write_are_exact() {
    for_seeds(60, |seed| {
        let mut random = Random::new(seed);
        let mut cluster = cluster(3, seed, seed % 3 == 0);
        for disk in 0..2 {
            let (inline, busy) = (random.below(60), random.below(30));
            cluster.disk(disk).answers = Answers::Mixed { inline, busy };
        }
        let mut counters = [0u8; 3];
        // Per core: the attempt under way, as (command, counter, value it expects).
        let mut attempts: [Option<(u32, usize, u8)>; 3] = [None; 3];
        let mut others = Vec::new();
        for _ in 0..600 {
            let core = random.below(3) as usize;
            match attempts[core] {
                None => {
                    let counter = random.below(3) as usize;
                    let old = counters[counter].wrapping_sub(random.below(2) as u8);
                    // Sectors 2 to 5: half on either disk.
                    let ask =
                        Ask::compare_and_write(2 + 8 * counter as u64, 4, old, old.wrapping_add(1));
                    let command = cluster.submit(core as u16, DEVICE, ask);
                    attempts[core] = Some((command, counter, old));
                }
                Some((command, counter, old)) => {
                    if let Some((status, _)) = cluster.take(command) {
                        attempts[core] = None;
                        match status {
                            Status::Ok => {
                                assert_eq!(
                                    counters[counter], old,
                                    "only the right value is replaced"
                                );
                                counters[counter] += 1;
                            }
                            other => assert_eq!(other, Status::Miscompare),
                        }
                    }
                }
            }
            if random.percent(20) {
                others.push(cluster.submit(core as u16, DEVICE, Ask::fill(40 + core as u64, 1, 1)));
            }
            if random.percent(2) {
                let table = cluster.table("0 64 striped 2 4 d0 0 d1 0");
                cluster.request(DEVICE, Request::Load(table));
                cluster.request(DEVICE, RESUME);
            }
            cluster.steps(random.below(8));
        }
        cluster.settle();
        for (command, counter, old) in attempts.into_iter().flatten() {
            if cluster.take(command).expect("an end").0 == Status::Ok {
                assert_eq!(counters[counter], old);
                counters[counter] += 1;
            }
        }
        assert!(
            others
                .iter()
                .all(|command| cluster.status(*command) == Some(Status::Ok))
        );
        for (counter, value) in counters.iter().enumerate() {
            let (_, bytes) = cluster.run(0, DEVICE, Ask::read(2 + 8 * counter as u64, 4));
            assert!(bytes.iter().all(|byte| byte == value), "counter {counter}");
        }
        cluster.demand_idle();
    });
}

/// A plain write from another core to the same place lands before the compare or after the write, never in between.
#[test]
fn at_77_no_write_comes_between_compare_and_write() {
    for_seeds(200, |seed| {
        let mut cluster = cluster(3, seed, false);
        (0..2).for_each(|disk| cluster.disk(disk).answers = Answers::Later);
        let mut random = Random::new(seed);
        let swap = cluster.submit(0, DEVICE, Ask::compare_and_write(0, 8, 0, 1));
        cluster.steps(random.below(12));
        let write = cluster.submit(1, DEVICE, Ask::fill(0, 8, 2));
        cluster.settle();
        assert_eq!(cluster.status(write), Some(Status::Ok));
        let (_, bytes) = cluster.run(2, DEVICE, Ask::read(0, 8));
        // After a write in between, the compare-and-write would have the last word although what it compared was gone.
        let written_first = cluster.status(swap) == Some(Status::Miscompare);
        assert!(
            bytes.iter().all(|byte| *byte == 2),
            "{written_first} {:?}",
            &bytes[..1]
        );
    });
}

/// Lower errors end it; nothing is written after a failed read.
#[test]
fn a_failed_compare_writes_nothing() {
    let mut cluster = cluster(2, 0, false);
    cluster.disk(1).bad.insert(0);
    let ask = Ask::compare_and_write(0, 8, 0, 1);
    assert_eq!(cluster.run(0, DEVICE, ask).0, Status::Medium);
    assert!(clones(&cluster).iter().all(|(_, op, _)| *op == Op::Read));
    assert_eq!(cluster.disk(0).sector(0)[0], 0);
    cluster.demand_idle();
}
