//! Mapping, splitting, combining: random tables and I/O against the oracle, and the cases that have a name.

use super::super::io::{DeviceId, Op};
use super::super::status::Status;
use super::for_seeds;
use super::oracle::{Oracle, Place, Sector};
use crate::sim::{Answers, Ask, Cluster, DISCARDED, Random, Seen};

const DEVICE: DeviceId = DeviceId(0);

/// What an original must end in.
struct Expected {
    command: u32,
    sector: u64,
    sectors: u32,
    op: Op,
    status: Status,
    /// What a read must find; `None` for sectors that fail.
    found: Vec<Option<[u8; 512]>>,
}

impl Oracle {
    /// What sector `at` of the mapped device reads as; `None` when it fails.
    fn content(&self, at: u64) -> Option<[u8; 512]> {
        match self.sectors[at as usize].place {
            Place::Disk { disk, sector } => Some(self.disks[disk][sector as usize]),
            Place::Zero => Some([0; 512]),
            Place::Error => None,
        }
    }

    fn put(&mut self, at: u64, bytes: [u8; 512]) {
        if let Place::Disk { disk, sector } = self.sectors[at as usize].place {
            self.disks[disk][sector as usize] = bytes;
        }
    }

    /// Does what `ask` asks; how it must end.
    fn apply(&mut self, cluster: &Cluster, ask: &Ask) -> (Status, Vec<Option<[u8; 512]>>) {
        let range = ask.sector..ask.sector + u64::from(ask.sectors);
        let found: Vec<_> = range.clone().map(|at| self.content(at)).collect();
        let failing = found.iter().any(|sector| sector.is_none());
        let of_data = if failing { Status::IoError } else { Status::Ok };
        let sector_of = |bytes: &[u8], at: u64| -> [u8; 512] {
            let from = (at - ask.sector) as usize * 512;
            bytes[from..from + 512].try_into().expect("512 bytes")
        };
        match ask.op {
            Op::Flush => (Status::Ok, Vec::new()),
            Op::Read => (of_data, found),
            Op::Write | Op::WriteAtomic => {
                range.for_each(|at| self.put(at, sector_of(&ask.bytes, at)));
                (of_data, Vec::new())
            }
            Op::CompareAndWrite => {
                let (old, rest) = ask.bytes.split_at(ask.bytes.len() / 3);
                let same = range
                    .clone()
                    .all(|at| self.content(at) == Some(sector_of(old, at)));
                if same {
                    range.for_each(|at| self.put(at, sector_of(rest, at)));
                }
                match (failing, same) {
                    (true, _) => (Status::IoError, Vec::new()),
                    (false, true) => (Status::Ok, Vec::new()),
                    (false, false) => (Status::Miscompare, Vec::new()),
                }
            }
            Op::Discard | Op::WriteZeroes => {
                let fill = if ask.op == Op::Discard { DISCARDED } else { 0 };
                let mut status = Status::Ok;
                for at in range {
                    let of_sector = self.range_status(cluster, ask.op, at);
                    if of_sector == Status::Ok {
                        self.put(at, [fill; 512]);
                    } else if status == Status::Ok {
                        status = of_sector;
                    }
                }
                (status, Vec::new())
            }
        }
    }

    /// Whether a discard or write-zeroes does its work at a sector (TG-1, 6.1).
    fn range_status(&self, cluster: &Cluster, op: Op, at: u64) -> Status {
        let Sector { place, target, .. } = self.sectors[at as usize];
        let able = |disk: &usize| match op {
            Op::Discard => cluster.disk(*disk).lower.discard,
            _ => cluster.disk(*disk).lower.write_zeroes,
        };
        match (place, op) {
            (Place::Zero, Op::Discard) => Status::Ok,
            (Place::Error, Op::Discard) => Status::IoError,
            (Place::Zero | Place::Error, _) => Status::NotSupported,
            _ if self.target_disks[target].iter().all(able) => Status::Ok,
            _ => Status::NotSupported,
        }
    }

    fn random_ask(&self, random: &mut Random) -> Ask {
        let blocks = self.sectors.len() as u64 / self.block;
        let from = random.below(blocks);
        let most = if random.percent(30) {
            blocks
        } else {
            6.min(blocks)
        };
        let length = 1 + random.below(most.min(blocks - from));
        let (sector, sectors) = (from * self.block, (length * self.block) as u32);
        let mut fresh = || -> Vec<u8> {
            (0..sectors)
                .flat_map(|_| [random.bits() as u8; 512])
                .collect()
        };
        let bytes = fresh();
        let ask = match random.below(16) {
            0..5 => Ask::read(sector, sectors),
            5..10 => Ask::write(sector, bytes),
            10 => Ask::flush(),
            11 => Ask::range(Op::Discard, sector, sectors),
            12 | 13 => Ask::range(Op::WriteZeroes, sector, sectors),
            _ => {
                let range = sector..sector + u64::from(sectors);
                let mut old: Vec<u8> = range
                    .flat_map(|at| self.content(at).unwrap_or([7; 512]))
                    .collect();
                if random.percent(30) {
                    let at = random.below(old.len() as u64) as usize;
                    old[at] ^= 1;
                }
                let room = vec![0; bytes.len()];
                Ask {
                    op: Op::CompareAndWrite,
                    fua: false,
                    sector,
                    sectors,
                    bytes: [old, bytes, room].concat(),
                }
            }
        };
        if ask.op != Op::Read && random.percent(20) {
            ask.fua()
        } else {
            ask
        }
    }
}

fn overlap(a: &Expected, ask: &Ask) -> bool {
    a.sector < ask.sector + u64::from(ask.sectors) && ask.sector < a.sector + u64::from(a.sectors)
}

/// Waits for everything and compares: statuses, what reads found, and every byte of every lower device.
fn compare(cluster: &mut Cluster, oracle: &Oracle, expected: &mut Vec<Expected>) {
    cluster.settle();
    for Expected {
        command,
        sector,
        sectors,
        op,
        status,
        found,
    } in expected.drain(..)
    {
        let what = format!("{op:?} of {sectors} at {sector} of\n{}", oracle.text);
        let (ended, bytes) = cluster
            .take(command)
            .unwrap_or_else(|| panic!("no end: {what}"));
        assert_eq!(ended, status, "{what}");
        for (at, content) in found.iter().enumerate() {
            if let Some(content) = content {
                assert_eq!(
                    &bytes[at * 512..at * 512 + 512],
                    content,
                    "sector {at} of {what}"
                );
            }
        }
    }
    for (number, contents) in oracle.disks.iter().enumerate() {
        let disk = cluster.disk(number);
        for (at, content) in contents.iter().enumerate() {
            assert_eq!(
                disk.sector(at as u64),
                *content,
                "sector {at} of d{number} of\n{}",
                oracle.text
            );
        }
    }
    cluster.demand_idle();
}

/// AT-73 and most of 2.2: random tables, I/O from three cores, with slots or along ways where it may, lower devices that answer at once, later, or have no room.
#[test]
fn at_73_random_tables_and_io_do_what_the_oracle_does() {
    for_seeds(300, |seed| {
        let mut random = Random::new(seed);
        let mut cluster = Cluster::new(3, seed);
        let mut oracle = Oracle::new(&mut cluster, &mut random);
        cluster.device(0, random.percent(30), &oracle.text);
        cluster.passes = random.percent(50);
        for disk in 0..oracle.disks.len() {
            let (inline, busy) = (random.below(101), random.below(40));
            let mixed = Answers::Mixed { inline, busy };
            cluster.disk(disk).answers = *random.pick(&[Answers::Inline, Answers::Later, mixed]);
        }
        let mut expected: Vec<Expected> = Vec::new();
        for _ in 0..120 {
            let ask = oracle.random_ask(&mut random);
            if expected.iter().any(|e| overlap(e, &ask)) {
                compare(&mut cluster, &oracle, &mut expected);
            }
            let (status, found) = oracle.apply(&cluster, &ask);
            let (sector, sectors, op) = (ask.sector, ask.sectors, ask.op);
            let command = cluster.submit(random.below(3) as u16, DEVICE, ask);
            expected.push(Expected {
                command,
                sector,
                sectors,
                op,
                status,
                found,
            });
            cluster.steps(random.below(4));
        }
        compare(&mut cluster, &oracle, &mut expected);
    });
}

/// IO-6, IO-8: exactly the pieces that the oracle cuts, in ascending order, none empty.
#[test]
fn io_6_reads_are_cut_where_the_oracle_cuts_them() {
    for_seeds(100, |seed| {
        let mut random = Random::new(seed);
        let mut cluster = Cluster::new(1, seed);
        let oracle = Oracle::new(&mut cluster, &mut random);
        cluster.device(0, false, &oracle.text);
        for _ in 0..30 {
            let blocks = oracle.sectors.len() as u64 / oracle.block;
            let from = random.below(blocks);
            let sectors = ((1 + random.below(blocks - from)) * oracle.block) as u32;
            let sector = from * oracle.block;
            cluster.seen();
            cluster.run(0, DEVICE, Ask::read(sector, sectors));
            let submitted: Vec<_> = cluster
                .seen()
                .into_iter()
                .filter_map(|seen| match seen {
                    Seen::Submitted {
                        disk,
                        sector,
                        sectors,
                        ..
                    } => Some((Place::Disk { disk, sector }, sectors)),
                    _ => None,
                })
                .collect();
            let mut pieces = oracle.pieces(sector, sectors);
            pieces.retain(|(place, _)| matches!(place, Place::Disk { .. }));
            assert_eq!(
                submitted, pieces,
                "{sectors} at {sector} of\n{}",
                oracle.text
            );
        }
    });
}

/// A device on core 0 of a one-core world, over `disks` disks of 64 sectors.
fn small(disks: usize, table: &str) -> Cluster {
    let mut cluster = Cluster::new(1, 0);
    cluster.add_disks(disks);
    cluster.device(0, false, table);
    cluster
}

/// IO-5, AT-74: beyond the end, in whole, in part, and by overflow.
#[test]
fn at_74_io_beyond_the_end_fails() {
    let mut cluster = small(1, "0 16 linear d0 0");
    for (sector, sectors) in [
        (16, 1),
        (15, 2),
        (0, 17),
        (u64::MAX, 1),
        (u64::MAX - 1, 2),
        (3, 0),
    ] {
        for op in [
            Op::Read,
            Op::Write,
            Op::Discard,
            Op::WriteZeroes,
            Op::CompareAndWrite,
        ] {
            for fua in [false, true] {
                let ask = Ask {
                    op,
                    fua,
                    sector,
                    sectors,
                    bytes: Vec::new(),
                };
                assert_eq!(
                    cluster.run(0, DEVICE, ask).0,
                    Status::IoError,
                    "{op:?} {sector}+{sectors}"
                );
            }
        }
    }
    assert_eq!(cluster.run(0, DEVICE, Ask::read(15, 1)).0, Status::Ok);
    assert_eq!(
        cluster.run(0, DeviceId(7), Ask::read(0, 1)).0,
        Status::IoError,
        "no such device"
    );
}

/// IO-9: each stripe gets its contiguous share; one whose share is empty gets nothing and the discard succeeds.
#[test]
fn io_9_a_discard_goes_to_each_stripe_once() {
    let mut cluster = small(3, "0 72 striped 3 8 d0 0 d1 0 d2 0");
    cluster.seen();
    assert_eq!(
        cluster.run(0, DEVICE, Ask::range(Op::Discard, 4, 40)).0,
        Status::Ok
    );
    let shares: Vec<_> = cluster
        .seen()
        .into_iter()
        .filter_map(|seen| match seen {
            Seen::Submitted {
                disk,
                sector,
                sectors,
                ..
            } => Some((disk, sector, sectors)),
            _ => None,
        })
        .collect();
    // 4..8 and 24..32 on stripe 0; 8..16 and 32..40; 16..24 and 40..44.
    assert_eq!(shares, [(0, 4, 12), (1, 0, 16), (2, 0, 12)]);
    cluster.seen();
    assert_eq!(
        cluster.run(0, DEVICE, Ask::range(Op::Discard, 9, 3)).0,
        Status::Ok
    );
    assert_eq!(cluster.disk(1).sector(1)[0], DISCARDED);
    assert_eq!(
        cluster
            .seen()
            .iter()
            .filter(|s| matches!(s, Seen::Submitted { .. }))
            .count(),
        1
    );
}

/// TG-1: what a lower device does not take is answered here, and never reaches it.
#[test]
fn tg_1_operations_a_lower_device_lacks_are_not_supported() {
    let mut cluster = Cluster::new(1, 0);
    cluster.add_disk(64, |lower| {
        (lower.discard, lower.write_zeroes) = (false, false)
    });
    cluster.add_disk(64, |_| {});
    cluster.device(
        0,
        false,
        "0 8 linear d1 0\n8 16 striped 2 8 d1 8 d0 0\n24 8 linear d1 24",
    );
    for op in [Op::Discard, Op::WriteZeroes] {
        cluster.seen();
        assert_eq!(
            cluster.run(0, DEVICE, Ask::range(op, 0, 32)).0,
            Status::NotSupported
        );
        let seen = cluster.seen();
        let disks = seen.iter().filter_map(|s| match s {
            Seen::Submitted { disk, sector, .. } => Some((*disk, *sector)),
            _ => None,
        });
        let disks: Vec<_> = disks.collect();
        assert_eq!(
            disks,
            [(1, 0), (1, 24)],
            "the targets that can do {op:?} have done it"
        );
    }
}

/// IO-15: the first error in time counts, whichever piece it is of.
#[test]
fn io_15_the_first_error_counts() {
    let table = "0 8 linear d0 0\n8 8 linear d1 0\n16 8 linear d2 0";
    for (order, status) in [
        ([0, 1, 2], Status::Medium),
        ([1, 0, 2], Status::Transport),
        ([2, 1, 0], Status::Transport),
    ] {
        let mut cluster = small(3, table);
        cluster.disk(0).answers = Answers::FailLater(Status::Medium);
        cluster.disk(1).answers = Answers::FailLater(Status::Transport);
        cluster.disk(2).answers = Answers::Later;
        let command = cluster.submit(0, DEVICE, Ask::fill(0, 24, 1));
        for disk in order {
            assert_eq!(
                cluster.status(command),
                None,
                "not before all pieces have ended (IO-8)"
            );
            assert!(cluster.release(disk));
        }
        assert_eq!(cluster.status(command), Some(status), "{order:?}");
        assert_eq!(
            cluster.disk(2).sector(0)[0],
            1,
            "the other pieces are written"
        );
    }
}

/// IO-11: a piece can end before the next is submitted, and one that cannot is no obstacle to the others.
#[test]
fn io_11_pieces_do_not_wait_for_each_other() {
    let mut cluster = small(2, "0 64 striped 2 4 d0 0 d1 0");
    cluster.disk(0).answers = Answers::Busy;
    let command = cluster.submit(0, DEVICE, Ask::fill(0, 64, 9));
    assert_eq!(cluster.mappers[0].busy(), 8);
    assert_eq!(
        cluster.disk(1).sector(31)[0],
        9,
        "all pieces of the other device are done"
    );
    cluster.poll(0);
    assert_eq!(
        (cluster.mappers[0].busy(), cluster.status(command)),
        (8, None),
        "tried once each, and kept"
    );
    cluster.disk(0).answers = Answers::Inline;
    cluster.poll(0);
    assert_eq!(cluster.status(command), Some(Status::Ok));
    cluster.demand_idle();
}

/// PM-15: a lower device without room is tried again in the order the clones came, and no original fails.
#[test]
fn at_44_pm_15_busy_is_back_pressure() {
    let mut cluster = small(1, "0 64 linear d0 0");
    cluster.disk(0).answers = Answers::Busy;
    let commands: Vec<_> = (0..6)
        .map(|at| cluster.submit(0, DEVICE, Ask::fill(at, 1, 1 + at as u8)))
        .collect();
    cluster.seen();
    cluster.disk(0).script = [Answers::Inline, Answers::Inline, Answers::Busy].into();
    cluster.poll(0);
    assert_eq!(cluster.mappers[0].busy(), 4);
    cluster.disk(0).answers = Answers::Inline;
    cluster.poll(0);
    let order = cluster.seen().into_iter().filter_map(|seen| match seen {
        Seen::Completed { command, .. } => Some(command),
        _ => None,
    });
    assert_eq!(order.collect::<Vec<_>>(), commands);
    assert_eq!(
        cluster.mappers[0].stats(DEVICE).unwrap().busy,
        6,
        "counted when they came, not at every attempt"
    );
}

/// A read, write or flush of a lower device that fails: status unchanged, at once and later, whole and cut.
#[test]
fn statuses_of_lower_devices_reach_the_host_unchanged() {
    use Status::*;
    for status in [
        NotSupported,
        Timeout,
        NoSpace,
        Transport,
        Target,
        ReservationConflict,
        Medium,
        Protection,
        IoError,
    ] {
        for answers in [Answers::Fail(status), Answers::FailLater(status)] {
            let mut cluster = small(1, "0 16 striped 2 8 d0 0 d0 8");
            cluster.disk(0).answers = answers;
            for ask in [
                Ask::read(0, 1),
                Ask::fill(1, 2, 1),
                Ask::fill(1, 2, 1).fua(),
                Ask::read(4, 8),
                Ask::flush(),
                Ask::range(Op::Discard, 2, 8),
                Ask::range(Op::WriteZeroes, 2, 8),
                Ask::compare_and_write(3, 1, 0, 1),
            ] {
                let what = format!("{ask:?}");
                assert_eq!(cluster.run(0, DEVICE, ask).0, status, "{what}");
            }
            cluster.demand_idle();
        }
    }
}

/// The counters: what completed, what failed, what was moved.
#[test]
fn counters_count_each_original_once() {
    let mut cluster = small(2, "0 32 striped 2 4 d0 0 d1 0");
    cluster.disk(1).bad.insert(0);
    cluster.run(0, DEVICE, Ask::fill(0, 4, 1));
    cluster.run(0, DEVICE, Ask::fill(0, 8, 1));
    cluster.run(0, DEVICE, Ask::read(8, 24));
    cluster.run(0, DEVICE, Ask::flush());
    cluster.run(0, DEVICE, Ask::range(Op::Discard, 16, 8));
    let stats = cluster.mappers[0].stats(DEVICE).unwrap();
    let of = |c: &super::super::stats::Counters| (c.ios, c.errors, c.sectors, c.latency.count());
    assert_eq!(of(&stats.write), (2, 1, 4, 2));
    assert_eq!(of(&stats.read), (1, 0, 24, 1));
    assert_eq!(of(&stats.flush), (1, 0, 0, 1));
    assert_eq!(of(&stats.discard), (1, 0, 8, 1));
    assert_eq!((stats.in_flight, stats.parked), (0, 0));
}
