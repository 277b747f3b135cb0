//! Atomic writes (IO-21): seen and left behind whole or not at all, where a table leaves them whole; refused where it does not.

use super::super::defect::Defect;
use super::super::io::{DeviceId, Op};
use super::super::limits::{AtomicWrites, Lower};
use super::super::message::{Request, SuspendOptions};
use super::super::status::Status;
use super::{RESUME, clones, for_seeds};
use crate::sim::{Answers, Ask, Cluster, Random};

const DEVICE: DeviceId = DeviceId(0);

const STRIPED: &str = "0 128 striped 2 16 d0 0 d1 0";

/// Two stripes of chunks of 16 sectors, on disks that take 3 at a time.
fn cluster(cores: u16, seed: u64, ordered: bool) -> Cluster {
    let mut cluster = Cluster::new(cores, seed);
    for _ in 0..2 {
        cluster.add_disk(64, |lower| {
            lower.fua = seed.is_multiple_of(2);
            lower.transfer_sectors_max = 3;
        });
    }
    cluster.device(0, ordered, STRIPED);
    cluster.seen();
    cluster
}

fn answer_at_random(cluster: &Cluster, random: &mut Random) {
    for disk in 0..2 {
        let (inline, busy) = (random.below(60), random.below(30));
        cluster.disk(disk).answers = Answers::Mixed { inline, busy };
    }
}

/// The byte that is in all of them.
fn only(bytes: &[u8]) -> Option<u8> {
    let first = bytes[0];
    bytes.iter().all(|byte| *byte == first).then_some(first)
}

/// Reads and atomic writes from every core, the reads cut in the middle of what is written, and tables swapped meanwhile. Whether a read
/// has found a part of a write.
fn is_torn_by_a_read(seed: u64, defect: Option<Defect>) -> bool {
    let mut random = Random::new(seed);
    let mut cluster = cluster(3, seed, seed.is_multiple_of(3));
    cluster.shared().defect = defect;
    answer_at_random(&cluster, &mut random);
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    for round in 0..200 {
        let core = random.below(3) as u16;
        if random.percent(60) {
            reads.push(cluster.submit(core, DEVICE, Ask::read(0, 6)));
        } else {
            let ask = Ask::atomic(2, 3, round as u8);
            let ask = if random.percent(30) { ask.fua() } else { ask };
            writes.push(cluster.submit(core, DEVICE, ask));
        }
        if random.percent(2) {
            let table = cluster.table(STRIPED);
            cluster.request(DEVICE, Request::Load(table));
            cluster.request(DEVICE, RESUME);
        }
        cluster.steps(random.below(8));
    }
    cluster.settle();
    cluster.demand_idle();
    for write in writes {
        assert_eq!(cluster.status(write), Some(Status::Ok));
    }
    let torn = |read| {
        let (status, bytes) = cluster.take(read).expect("an end");
        assert_eq!(status, Status::Ok);
        only(&bytes[2 * 512..5 * 512]).is_none()
    };
    reads.into_iter().any(torn)
}

/// An atomic write and another that is cut in the middle of it. Whether neither has the last word in every sector that both write.
fn is_torn_by_a_write(seed: u64, defect: Option<Defect>) -> bool {
    let mut random = Random::new(seed);
    let mut cluster = cluster(3, seed, seed.is_multiple_of(3));
    cluster.shared().defect = defect;
    (0..2).for_each(|disk| cluster.disk(disk).answers = Answers::Later);
    let mut asks = vec![(0, Ask::atomic(2, 3, 1)), (1, Ask::fill(0, 6, 2))];
    if random.percent(50) {
        asks.reverse();
    }
    for (core, ask) in asks {
        cluster.submit(core, DEVICE, ask);
        cluster.steps(random.below(12));
    }
    cluster.settle();
    let (_, bytes) = cluster.run(2, DEVICE, Ask::read(0, 6));
    cluster.demand_idle();
    !matches!(only(&bytes[2 * 512..5 * 512]), Some(1 | 2))
}

#[test]
fn io_21_no_io_of_any_core_meets_a_part_of_an_atomic_write() {
    for_seeds(60, |seed| assert!(!is_torn_by_a_read(seed, None)));
    for_seeds(200, |seed| assert!(!is_torn_by_a_write(seed, None)));
}

/// What the test above looks for is there to be found.
#[test]
fn without_the_device_to_itself_it_is_torn() {
    let defect = Some(Defect::AtomicWithoutSequence);
    assert!((0..60).any(|seed| is_torn_by_a_read(seed, defect)));
    assert!((0..200).any(|seed| is_torn_by_a_write(seed, defect)));
}

/// It is one write below, with force-unit-access or a flush after it.
#[test]
fn an_atomic_write_is_one_write() {
    for (seed, ordered) in [(0, false), (1, false), (0, true), (1, true)] {
        let mut cluster = cluster(2, seed, ordered);
        let ask = Ask::atomic(18, 3, 7);
        assert_eq!(cluster.run(1, DEVICE, ask.clone()).0, Status::Ok);
        assert_eq!(clones(&cluster), [(1, Op::Write, false)]);
        assert_eq!(cluster.run(1, DEVICE, ask.fua()).0, Status::Ok);
        let forced = seed == 0;
        let sent = clones(&cluster);
        let writes = sent.iter().filter(|(_, op, _)| *op == Op::Write);
        assert_eq!(writes.collect::<Vec<_>>(), [&(1, Op::Write, forced)]);
        assert_eq!(only(&cluster.disk(1).durable(4)), Some(7));
        cluster.demand_idle();
    }
}

/// What a table would cut, or what its devices tear, is refused before anything is done.
#[test]
fn what_would_not_be_whole_is_refused() {
    let mut cluster = cluster(2, 0, false);
    for (sector, sectors, status) in [
        (13, 3, Status::Ok),
        (14, 3, Status::NotSupported),
        (0, 4, Status::NotSupported),
        (127, 2, Status::IoError),
        (0, 0, Status::IoError),
    ] {
        let ended = cluster.run(1, DEVICE, Ask::atomic(sector, sectors, 1)).0;
        assert_eq!(ended, status, "{sectors} at {sector}");
    }
    assert_eq!(clones(&cluster).len(), 1);
    cluster.add_disk(64, |lower| lower.atomic_writes = AtomicWrites::NONE);
    cluster.switch_to(DEVICE, "0 128 striped 2 16 d0 0 d2 0");
    let ended = cluster.run(1, DEVICE, Ask::atomic(0, 1, 1)).0;
    assert_eq!(ended, Status::NotSupported);
    cluster.demand_idle();
}

/// An atomic write that waits while the table is swapped is done by the table of then, once, or refused by it.
#[test]
fn a_swap_decides_anew_about_what_waits() {
    for (table, status) in [
        ("0 128 striped 2 16 d1 0 d0 0", Status::Ok),
        ("0 3 zero\n3 125 zero", Status::NotSupported),
        ("0 128 striped 2 2 d0 0 d1 0", Status::NotSupported),
        ("0 128 error", Status::IoError),
    ] {
        let mut cluster = cluster(2, 0, false);
        let noflush = Request::Suspend(SuspendOptions {
            noflush: true,
            lockfs: false,
            timeout_ns: None,
        });
        cluster.done(DEVICE, noflush);
        let write = cluster.submit(1, DEVICE, Ask::atomic(2, 3, 9));
        cluster.switch_to(DEVICE, table);
        cluster.settle();
        assert_eq!(cluster.status(write), Some(status), "{table}");
        let count = usize::from(status == Status::Ok);
        assert_eq!(clones(&cluster).len(), count, "{table}");
        cluster.demand_idle();
    }
}

/// A device beneath a device is asked to write as one, too: readers of it see no part either, and it refuses what its table of now would
/// cut, whatever the device above was told of the table before.
#[test]
fn a_device_beneath_keeps_it_whole_as_well() {
    const TOP: DeviceId = DeviceId(1);
    for_seeds(60, |seed| {
        let mut cluster = cluster(3, seed, seed % 2 == 0);
        let limits = cluster.mappers[0].limits(DEVICE).expect("it has a table");
        let lower = Lower::of_device(DEVICE, "bottom", limits);
        cluster.add_lower(lower);
        cluster.device(TOP.0, seed % 3 == 0, "0 112 linear bottom 16");
        let mut random = Random::new(seed);
        answer_at_random(&cluster, &mut random);
        let mut reads = Vec::new();
        for round in 0..60 {
            cluster.submit(round % 3, TOP, Ask::atomic(2, 3, round as u8));
            cluster.steps(random.below(8));
            reads.push(cluster.submit((round + 1) % 3, DEVICE, Ask::read(16, 6)));
            cluster.steps(random.below(8));
        }
        cluster.settle();
        for read in reads {
            let (status, bytes) = cluster.take(read).expect("an end");
            assert_eq!(status, Status::Ok);
            assert!(only(&bytes[2 * 512..5 * 512]).is_some());
        }
        cluster.switch_to(DEVICE, "0 128 striped 2 2 d0 0 d1 0");
        let ended = cluster.run(0, TOP, Ask::atomic(2, 3, 1)).0;
        assert_eq!(ended, Status::NotSupported);
        cluster.demand_idle();
    });
}
