//! Target `ebs` (6.2): small blocks over larger ones, byte by byte, and no write lost between two to one block.

use super::super::defect::Defect;
use super::super::error::Errno;
use super::super::io::{DeviceId, Op};
use super::super::limits::{AtomicWrites, Lower, LowerId};
use super::super::message::{Reply, Request, SuspendOptions};
use super::super::status::Status;
use super::super::table::Table;
use super::{RESUME, clones, for_seeds};
use crate::sim::{Answers, Ask, Cluster, Random, Seen};

const DEVICE: DeviceId = DeviceId(0);
/// Blocks of one sector over disks whose blocks have eight; the first block of the disk is not the target's.
const TABLE: &str = "0 64 ebs d0 8 1";
const NOFLUSH: SuspendOptions = SuspendOptions {
    noflush: true,
    lockfs: false,
    timeout_ns: None,
};

/// A disk with blocks of eight sectors.
fn add_disk(cluster: &mut Cluster, sectors: u64, change: impl FnOnce(&mut Lower)) {
    cluster.add_disk(sectors, |lower| {
        (lower.block_bytes, lower.physical_bytes) = (4096, 4096);
        change(lower);
    });
}

fn running(cores: u16, seed: u64, table: &str) -> Cluster {
    let mut cluster = Cluster::new(cores, seed);
    for _ in 0..2 {
        add_disk(&mut cluster, 1024, |_| {});
    }
    cluster.device(0, false, table);
    cluster.seen();
    cluster
}

/// What lower devices were asked since the last look: operation, first sector, sectors.
fn asked(cluster: &Cluster) -> Vec<(Op, u64, u32)> {
    let submitted = |seen| match seen {
        Seen::Submitted {
            op,
            sector,
            sectors,
            ..
        } => Some((op, sector, sectors)),
        _ => None,
    };
    cluster.seen().into_iter().filter_map(submitted).collect()
}

/// Sectors that differ from each other and from those of other rounds.
fn pattern(round: u64, sectors: u32) -> Vec<u8> {
    let byte = |n: u32| (round * 31 + u64::from(n / 512) * 7 + u64::from(n % 251)) as u8;
    (0..sectors * 512).map(byte).collect()
}

/// What a read or write of a range does below, by the blocks that it touches, counted one by one: of a part the block is read, and
/// written if it is a write; whole blocks next to each other are one, up to `most` of them, and never across a multiple of 64 of the target's.
fn expected(op: Op, sector: u64, sectors: u32, block: u64, most: u64) -> Vec<(Op, u64, u32)> {
    let (mut at, end) = (sector, sector + u64::from(sectors));
    let mut all = Vec::new();
    let mut whole: Option<(u64, u64)> = None;
    while at < end {
        let (first, after) = (at / block * block, at / block * block + block);
        let is_whole = at == first && after <= end;
        match &mut whole {
            Some((_, count)) if is_whole && *count < most && !first.is_multiple_of(64 * block) => {
                *count += 1;
            }
            _ => {
                if let Some((start, count)) = whole.take() {
                    all.push((op, start, (count * block) as u32));
                }
                if is_whole {
                    whole = Some((first, 1));
                } else {
                    all.push((Op::Read, first, block as u32));
                    if op == Op::Write {
                        all.push((Op::Write, first, block as u32));
                    }
                }
            }
        }
        at = after.min(end);
    }
    if let Some((start, count)) = whole {
        all.push((op, start, (count * block) as u32));
    }
    all
}

/// Every range of three blocks, and ranges around the stretch of 64 blocks that pieces are cut at: what is read and written below, and
/// what is there afterwards. With a block of the device's and one that is larger, with and without a limit to what the device transfers.
#[test]
fn every_alignment_reads_and_writes_what_it_must() {
    for (table, block, transfer_max) in [
        ("0 1008 ebs d0 16 1", 8, 0),
        ("0 1008 ebs d0 16 1", 8, 20),
        ("0 1008 ebs d0 16 1 16", 16, 0),
        ("0 1008 ebs d0 16 2 16", 16, 31),
        ("0 1008 ebs d0 16 8 8", 8, 0),
    ] {
        let mut cluster = Cluster::new(1, 1);
        add_disk(&mut cluster, 1024, |lower| {
            lower.transfer_sectors_max = transfer_max;
        });
        cluster.device(0, false, table);
        let unit = u64::from(cluster.mappers[0].limits(DEVICE).unwrap().block_sectors());
        let most = match transfer_max {
            0 => u64::MAX,
            max => u64::from(max) / block,
        };
        let near = (0..3 * block).flat_map(|from| (from + 1..=3 * block).map(move |to| (from, to)));
        let far = [(500, 530), (512, 1008), (511, 513), (505, 1003), (0, 1008)];
        let aligned = |(from, to): &(u64, u64)| from % unit == 0 && to % unit == 0;
        let on_disk = |cluster: &Cluster| -> Vec<u8> {
            let disk = cluster.disk(0);
            (16..1024).flat_map(|at| disk.sector(at)).collect()
        };
        let mut model = vec![0; 1008 * 512];
        for (round, (from, to)) in near.chain(far).filter(aligned).enumerate() {
            let sectors = (to - from) as u32;
            let below = |op| {
                let all = expected(op, from, sectors, block, most).into_iter();
                all.map(|(op, sector, sectors)| (op, sector + 16, sectors))
                    .collect::<Vec<_>>()
            };
            let bytes = pattern(round as u64, sectors);
            model[from as usize * 512..to as usize * 512].copy_from_slice(&bytes);
            cluster.seen();
            let ended = cluster.run(0, DEVICE, Ask::write(from, bytes.clone())).0;
            assert_eq!(ended, Status::Ok);
            assert_eq!(asked(&cluster), below(Op::Write), "{table}: {from}..{to}");
            let read = cluster.run(0, DEVICE, Ask::read(from, sectors));
            assert!(read == (Status::Ok, bytes), "{table}: {from}..{to}");
            assert_eq!(asked(&cluster), below(Op::Read), "{table}: {from}..{to}");
            if from == 0 {
                assert!(on_disk(&cluster) == model, "{table}: {from}..{to}");
            }
        }
        assert!(on_disk(&cluster) == model, "{table}");
        cluster.demand_idle();
    }
}

/// Reads and writes of all lengths by every core, no two under way to one sector but as many as will to one block, with everything
/// that may happen meanwhile. Whether some read has found other bytes than a model of sectors.
fn loses_a_write(seed: u64, defect: Option<Defect>) -> bool {
    const SECTORS: u64 = 48;
    let mut random = Random::new(seed);
    let mut cluster = running(3, seed, "0 48 ebs d0 16 1");
    cluster.shared().defect = defect;
    let (inline, busy) = (random.below(50), random.below(30));
    cluster.disk(0).answers = Answers::Mixed { inline, busy };
    cluster.shared().buffers_max = *random.pick(&[1, 2, 100]);
    let mut model = vec![0; SECTORS as usize * 512];
    // Command, core, range, and what a read is to find.
    let mut under_way: Vec<(u32, u64, u64, Option<Vec<u8>>)> = Vec::new();
    let mut swaps = Vec::new();
    let mut wrong = false;
    for round in 0..400u64 {
        let from = random.below(SECTORS);
        let most = *random.pick(&[1, 4, 20]);
        let to = (from + 1 + random.below(most)).min(SECTORS);
        if under_way
            .iter()
            .all(|(_, start, end, _)| to <= *start || *end <= from)
        {
            let range = from as usize * 512..to as usize * 512;
            let core = random.below(3) as u16;
            let (ask, finds) = match random.percent(30) {
                true => (
                    Ask::read(from, (to - from) as u32),
                    Some(model[range].to_vec()),
                ),
                false => {
                    let bytes = pattern(round, (to - from) as u32);
                    model[range].copy_from_slice(&bytes);
                    let ask = Ask::write(from, bytes);
                    (if random.percent(20) { ask.fua() } else { ask }, None)
                }
            };
            let command = cluster.submit(core, DEVICE, ask);
            under_way.push((command, from, to, finds));
        }
        if random.percent(3) {
            cluster.shared().read_refusals = 2;
        }
        if random.percent(2) {
            let table = *random.pick(&["0 48 ebs d0 16 1", "0 48 ebs d0 16 1 16"]);
            let table = cluster.table(table);
            let suspend = NOFLUSH;
            swaps.push(cluster.request(
                DEVICE,
                Request::Swap {
                    table,
                    open: true,
                    suspend,
                },
            ));
        }
        cluster.steps(random.below(12));
        under_way.retain(|(command, _, _, finds)| match cluster.take(*command) {
            Some((status, bytes)) => {
                assert_eq!(status, Status::Ok);
                wrong |= finds.as_ref().is_some_and(|finds| *finds != bytes);
                false
            }
            None => true,
        });
    }
    cluster.settle();
    for (command, ..) in under_way {
        assert_eq!(cluster.take(command).expect("it ends").0, Status::Ok);
    }
    for swap in swaps {
        cluster.answer(swap).expect("it was answered").ok();
    }
    let (_, bytes) = cluster.run(0, DEVICE, Ask::read(0, SECTORS as u32));
    cluster.demand_idle();
    wrong || bytes != model
}

#[test]
fn no_write_is_lost_between_two_to_one_block() {
    for_seeds(100, |seed| assert!(!loses_a_write(seed, None)));
}

/// What the test above looks for is there to be found.
#[test]
fn without_taking_blocks_writes_are_lost() {
    let defect = Some(Defect::BlockLetGoEarly);
    assert!((0..10).any(|seed| loses_a_write(seed, defect)));
}

/// A write to a block that another core is writing a part of goes on when that has ended, whole block or part; one to the next block
/// does not wait. A write that waits can be given up, and those of one core go in the order they came.
#[test]
fn writes_to_one_block_wait_for_each_other() {
    let mut cluster = running(2, 1, TABLE);
    cluster.disk(0).answers = Answers::Later;
    cluster.disk(0).frozen = true;
    let part = cluster.submit(0, DEVICE, Ask::fill(3, 1, 1));
    cluster.steps(20);
    let waiting = [
        cluster.submit(1, DEVICE, Ask::fill(0, 8, 2)),
        cluster.submit(0, DEVICE, Ask::fill(4, 1, 3)),
        cluster.submit(0, DEVICE, Ask::fill(4, 1, 4)),
    ];
    let given_up = cluster.submit(1, DEVICE, Ask::fill(0, 1, 5));
    let next = cluster.submit(1, DEVICE, Ask::fill(8, 8, 6));
    let read = cluster.submit(1, DEVICE, Ask::read(3, 1));
    cluster.steps(100);
    let first = (Op::Read, 8, 8);
    assert_eq!(asked(&cluster), [first, (Op::Write, 16, 8), first]);
    assert!(cluster.abort(1, DEVICE, given_up), "it waits");
    assert_eq!(cluster.status(given_up), Some(Status::Aborted));
    assert!(!cluster.abort(0, DEVICE, part), "it is below");
    cluster.disk(0).frozen = false;
    cluster.settle();
    for command in [part, next, read].into_iter().chain(waiting) {
        assert_eq!(cluster.status(command), Some(Status::Ok));
    }
    let status = match cluster.ask(DEVICE, Request::Status) {
        Ok(Reply::Lines(lines)) => lines[0].text.clone(),
        other => panic!("{other:?}"),
    };
    assert!(status.starts_with("1 3 "), "{status}");
    cluster.demand_idle();
}

/// A write of one core that waits for another of the same core goes on without waiting for a time.
#[test]
fn a_write_goes_on_as_soon_as_its_block_is_free() {
    let mut cluster = running(1, 1, TABLE);
    cluster.disk(0).answers = Answers::Later;
    let began_ns = cluster.shared().now_ns;
    let submit = |round| cluster.submit(0, DEVICE, Ask::fill(round, 1, 1));
    let commands: Vec<u32> = (0..8).map(submit).collect();
    while commands
        .iter()
        .any(|command| cluster.status(*command).is_none())
    {
        assert!(cluster.step());
    }
    let took_ns = cluster.shared().now_ns - began_ns;
    assert!(took_ns < 50_000, "{took_ns}");
    cluster.demand_idle();
}

/// The end of each step of a part: an error is the write's own, with nothing written after a read that failed; a device that is taken away
/// in between fails it; and in each case the block is free again.
#[test]
fn a_step_that_fails_is_the_end() {
    let mut cluster = running(2, 1, TABLE);
    cluster.disk(0).bad.insert(9);
    assert_eq!(cluster.run(0, DEVICE, Ask::fill(3, 1, 1)).0, Status::Medium);
    assert_eq!(asked(&cluster), [(Op::Read, 8, 8)]);
    assert_eq!(cluster.run(0, DEVICE, Ask::read(3, 1)).0, Status::Medium);
    cluster.disk(0).bad.clear();
    cluster.disk(0).script = [Answers::Later, Answers::FailLater(Status::NoSpace)].into();
    assert_eq!(
        cluster.run(1, DEVICE, Ask::fill(3, 1, 1)).0,
        Status::NoSpace
    );
    assert_eq!(cluster.run(0, DEVICE, Ask::fill(3, 1, 1)).0, Status::Ok);
    cluster.disk(0).answers = Answers::Later;
    cluster.disk(0).frozen = true;
    let write = cluster.submit(0, DEVICE, Ask::fill(5, 1, 2));
    cluster.finish(0, 0);
    let waiting = cluster.submit(1, DEVICE, Ask::fill(6, 1, 2));
    assert!(asked(&cluster).ends_with(&[(Op::Write, 8, 8)]));
    let mut random = Random::new(1);
    cluster.disk(0).plug(false, &mut random);
    cluster.take_away(LowerId(0));
    cluster.disk(0).frozen = false;
    cluster.settle();
    assert_eq!(cluster.status(write), Some(Status::Transport));
    assert_eq!(cluster.status(waiting), Some(Status::Transport));
    cluster.disk(0).plug(true, &mut random);
    assert_eq!(cluster.run(1, DEVICE, Ask::fill(3, 8, 1)).0, Status::Ok);
    cluster.demand_idle();
}

/// Flushes and force-unit-access are the device's: a part that was forced survives a power cut with its neighbours, on a device that takes
/// force-unit-access and on one that has to be flushed.
#[test]
fn what_is_forced_is_durable_with_its_neighbours() {
    for fua in [true, false] {
        let mut cluster = Cluster::new(2, 1);
        add_disk(&mut cluster, 1024, |lower| lower.fua = fua);
        cluster.device(0, false, TABLE);
        assert_eq!(cluster.run(0, DEVICE, Ask::fill(0, 64, 1)).0, Status::Ok);
        assert_eq!(cluster.run(0, DEVICE, Ask::flush()).0, Status::Ok);
        cluster.seen();
        let ended = cluster.run(1, DEVICE, Ask::fill(3, 14, 2).fua()).0;
        assert_eq!(ended, Status::Ok);
        let flush = (0, Op::Flush, false);
        let sent = clones(&cluster);
        assert_eq!(sent.contains(&flush), !fua);
        let writes = sent.iter().filter(|(_, op, _)| *op == Op::Write);
        assert!(writes.clone().all(|(.., forced)| *forced == fua));
        assert_eq!(writes.count(), 3);
        assert_eq!(cluster.run(1, DEVICE, Ask::fill(20, 1, 3)).0, Status::Ok);
        cluster.disk(0).power_cut();
        let found: Vec<u8> = (8..40).map(|at| cluster.disk(0).sector(at)[0]).collect();
        let filled = |range: std::ops::Range<usize>, byte| found[range].iter().all(|b| *b == byte);
        assert!(filled(0..3, 1) && filled(3..17, 2) && filled(17..32, 1));
        cluster.demand_idle();
    }
}

/// A discard reaches the whole blocks of its range; write-zeroes are not supported, so that whoever asks writes zeroes.
#[test]
fn only_whole_blocks_are_discarded() {
    let mut cluster = running(1, 1, TABLE);
    for (sector, sectors, shares) in [
        (0, 8, &[(Op::Discard, 8, 8)][..]),
        (1, 8, &[]),
        (1, 15, &[(Op::Discard, 16, 8)]),
        (3, 42, &[(Op::Discard, 16, 32)]),
        (7, 1, &[]),
    ] {
        let ended = cluster
            .run(0, DEVICE, Ask::range(Op::Discard, sector, sectors))
            .0;
        assert_eq!(ended, Status::Ok);
        assert_eq!(asked(&cluster), shares);
    }
    let zeroes = cluster.run(0, DEVICE, Ask::range(Op::WriteZeroes, 0, 8)).0;
    assert_eq!(zeroes, Status::NotSupported);
    cluster.demand_idle();
}

/// Counters of one sector each in one block, incremented by compare-and-write from every core while others write their neighbours: none is
/// lost or done twice. Likewise atomic writes, which stay within a block.
#[test]
fn compare_and_write_and_atomic_writes_are_exact() {
    for_seeds(40, |seed| {
        let mut random = Random::new(seed);
        let mut cluster = running(3, seed, TABLE);
        let (inline, busy) = (random.below(60), random.below(30));
        cluster.disk(0).answers = Answers::Mixed { inline, busy };
        let mut others = Vec::new();
        for value in 0..20 {
            let core = random.below(3) as u16;
            let swap = cluster.submit(core, DEVICE, Ask::compare_and_write(6, 3, value, value + 1));
            let other = (core + 1) % 3;
            others.push(cluster.submit(other, DEVICE, Ask::fill(1, 5, value)));
            others.push(cluster.submit(other, DEVICE, Ask::atomic(9, 7, value)));
            let stale = cluster.submit(other, DEVICE, Ask::compare_and_write(6, 3, 200, 1));
            cluster.settle();
            assert_eq!(cluster.status(swap), Some(Status::Ok));
            assert_eq!(cluster.status(stale), Some(Status::Miscompare));
            let (_, bytes) = cluster.run(core, DEVICE, Ask::read(0, 17));
            let found: Vec<u8> = bytes.chunks(512).map(|sector| sector[0]).collect();
            assert_eq!(found[6..9], [value + 1; 3]);
            assert_eq!(found[1..6], [value; 5]);
            assert_eq!(found[9..16], [value; 7]);
            assert_eq!((found[0], found[16]), (0, 0));
        }
        let across = cluster.run(0, DEVICE, Ask::atomic(7, 2, 1)).0;
        assert_eq!(across, Status::NotSupported, "it is two writes below");
        for command in others {
            assert_eq!(cluster.status(command), Some(Status::Ok));
        }
        cluster.demand_idle();
    });
}

/// What waits for a block or for memory is pushed back or ends, and what is between its read and its write ends, however the device is
/// suspended, its table swapped, the host impatient, the disk full, failing or gone for a while: each once.
#[test]
fn every_write_ends_once_whatever_happens() {
    for_seeds(80, |seed| {
        let mut cluster = running(2, seed, TABLE);
        let mut random = Random::new(seed);
        cluster.shared().buffers_max = seed as usize % 4;
        let mut commands = Vec::new();
        for n in 0..150u64 {
            cluster.disk(0).answers = match n % 5 {
                0 => Answers::FailLater(Status::Medium),
                1 => Answers::Busy,
                _ => Answers::Mixed {
                    inline: 30,
                    busy: 30,
                },
            };
            let core = (n % 2) as u16;
            let sector = random.below(16);
            let ask = match n % 9 {
                0 => Ask::read(sector, 4),
                1 => Ask::compare_and_write(sector, 1, 0, 1),
                2 => Ask::range(Op::Discard, sector, 9),
                3 => Ask::fill(sector, 12, 7).fua(),
                4 => Ask::flush(),
                _ => Ask::fill(sector, 1 + n as u32 % 3, n as u8),
            };
            commands.push(cluster.submit(core, DEVICE, ask));
            cluster.steps(n % 6);
            match (n * 7 + seed) % 40 {
                0 | 1 => {
                    let noflush = n % 2 == 0;
                    let options = SuspendOptions { noflush, ..NOFLUSH };
                    cluster.request(DEVICE, Request::Suspend(options));
                }
                2..5 => {
                    cluster.request(DEVICE, RESUME);
                }
                5..9 => {
                    let command = commands[commands.len() / 2];
                    let of = (commands.len() / 2 % 2) as u16;
                    cluster.abort(of, DEVICE, command);
                }
                9 => {
                    let present = cluster.disk(0).gone;
                    cluster.disk(0).plug(present, &mut random);
                }
                10 => {
                    cluster.abort_all(core, DEVICE);
                }
                _ => {}
            }
        }
        cluster.disk(0).plug(true, &mut random);
        cluster.disk(0).answers = Answers::Later;
        cluster.shared().buffers_max = 1;
        cluster.request(DEVICE, RESUME);
        cluster.settle();
        for command in commands {
            assert!(cluster.status(command).is_some(), "{command} has ended");
        }
        // Every block is free.
        assert_eq!(cluster.run(0, DEVICE, Ask::fill(0, 64, 1)).0, Status::Ok);
        cluster.demand_idle();
    });
}

/// Without memory a part waits; a noflush suspend pushes it back, and another table does it.
#[test]
fn a_part_waits_for_memory() {
    let mut cluster = running(1, 1, TABLE);
    cluster.shared().buffers_max = 0;
    let aborted = cluster.submit(0, DEVICE, Ask::fill(1, 1, 1));
    let write = cluster.submit(0, DEVICE, Ask::fill(2, 1, 2));
    let read = cluster.submit(0, DEVICE, Ask::read(2, 1));
    assert_eq!(cluster.run(0, DEVICE, Ask::fill(0, 8, 3)).0, Status::Ok);
    assert!(cluster.abort(0, DEVICE, aborted), "it waits");
    cluster.done(DEVICE, Request::Suspend(NOFLUSH));
    assert_eq!(cluster.status(write), None, "pushed back");
    cluster.shared().buffers_max = 1;
    cluster.switch_to(DEVICE, "0 64 ebs d1 8 1");
    cluster.settle();
    assert_eq!(cluster.status(aborted), Some(Status::Aborted));
    assert_eq!(cluster.status(write), Some(Status::Ok));
    assert_eq!(cluster.status(read), Some(Status::Ok));
    assert_eq!(cluster.disk(1).sector(10), [2; 512]);
    cluster.demand_idle();
}

/// LC-16: hosts were told a block size, so a table with another one does not come in while they hold the device. Another `ebs` does.
#[test]
fn lc_16_only_tables_with_the_same_blocks_follow() {
    let mut cluster = running(2, 1, TABLE);
    for (table, errno) in [
        ("0 64 linear d0 8", Some(Errno::Einval)),
        ("0 64 ebs d0 8 2", Some(Errno::Einval)),
        ("0 64 ebs d1 8 1", None),
        ("0 64 ebs d1 0 1 16", None),
    ] {
        let request = Request::Swap {
            table: cluster.table(table),
            open: true,
            suspend: NOFLUSH,
        };
        let answer = cluster.ask(DEVICE, request);
        assert_eq!(answer.err().map(|error| error.errno), errno, "{table}");
        assert_eq!(cluster.run(0, DEVICE, Ask::fill(3, 1, 1)).0, Status::Ok);
    }
    let mut cluster = running(2, 1, "0 64 linear d0 8");
    let request = Request::Swap {
        table: cluster.table(TABLE),
        open: true,
        suspend: NOFLUSH,
    };
    let error = cluster.ask(DEVICE, request).expect_err("smaller blocks");
    assert_eq!(error.errno, Errno::Einval);
    cluster.demand_idle();
}

/// Over a mapped device, which is asked for whole blocks, and beneath one.
#[test]
fn it_stacks() {
    for_seeds(20, |seed| {
        let mut cluster = Cluster::new(2, seed);
        add_disk(&mut cluster, 1024, |_| {});
        for (number, name, table) in [
            (0, "bottom", "0 512 linear d0 64"),
            (1, "middle", "0 504 ebs bottom 8 1"),
            (2, "top", "0 500 striped 2 2 middle 0 middle 250"),
        ] {
            cluster.device(number, false, table);
            let limits = cluster.mappers[0].limits(DeviceId(number)).unwrap().clone();
            cluster.add_lower(Lower::of_device(DeviceId(number), name, &limits));
            let logical = if number == 0 { 4096 } else { 512 };
            assert_eq!((limits.block_bytes, limits.physical_bytes), (logical, 4096));
        }
        cluster.disk(0).answers = Answers::Mixed {
            inline: 30,
            busy: 20,
        };
        let bytes = pattern(seed, 41);
        let write = Ask::write(3 + seed, bytes.clone());
        let top = DeviceId(2);
        assert_eq!(cluster.run(1, top, write).0, Status::Ok);
        let read = cluster.run(0, top, Ask::read(3 + seed, 41));
        assert!(read == (Status::Ok, bytes));
        cluster.settle();
        cluster.demand_idle();
    });
}

fn resolve(name: &str) -> Option<Lower> {
    let lower = |block_bytes| crate::dm::table::tests::lower(0, name, 8000, block_bytes);
    match name {
        "small" => Some(lower(512)),
        "big" => Some(Lower {
            discard_zeroes: true,
            atomic_writes: AtomicWrites {
                sectors_max: 64,
                boundary_sectors: 0,
            },
            ..lower(4096)
        }),
        "torn" => Some(lower(4096)),
        "short" => Some(Lower {
            transfer_sectors_max: 16,
            ..lower(4096)
        }),
        _ => None,
    }
}

/// LC-14: what the table tells of itself, and texts that re-load (LC-23).
#[test]
fn lc_14_limits_of_emulated_blocks() {
    for (text, block, physical, whole) in [
        ("0 80 ebs big 8 1", 512, 4096, (8, 8)),
        ("0 80 ebs big 8 8", 4096, 4096, (8, 8)),
        ("0 96 ebs big 0 4 32", 2048, 16384, (32, 32)),
        ("0 96 ebs torn 0 1", 512, 4096, (0, 0)),
        ("0 96 ebs small 0 1 8", 512, 4096, (0, 0)),
        ("0 96 ebs small 0 1", 512, 512, (0, 0)),
        ("0 8 ebs big 0 1\n8 8 linear big 8", 4096, 4096, (8, 8)),
        ("0 4 zero\n4 8 ebs big 0 1", 512, 4096, (4, 4)),
    ] {
        let table = Table::parse(text, &resolve).expect(text);
        let limits = &table.limits;
        assert_eq!(
            (limits.block_bytes, limits.physical_bytes),
            (block, physical),
            "{text}"
        );
        assert_eq!(
            u64::from(limits.optimal_write_bytes),
            u64::from(physical),
            "{text}"
        );
        let AtomicWrites {
            sectors_max,
            boundary_sectors,
        } = limits.atomic_writes;
        let told = (
            sectors_max,
            if sectors_max > 0 { boundary_sectors } else { 0 },
        );
        assert_eq!(told, whole, "{text}");
        let nominal = text.ends_with("big 8 8");
        assert_eq!(limits.discard_zeroes, nominal, "{text}");
        assert!(limits.discard && !limits.write_zeroes, "{text}");
        for (line, segment) in text.lines().zip(&table.segments) {
            let words = segment.target.table(&table.lowers);
            assert!(line.ends_with(words.as_str()), "{line}: {words}");
        }
    }
}

#[test]
fn tables_that_cannot_be_are_refused() {
    for (text, reason) in [
        (
            "0 80 ebs big",
            "ebs: the start sector on the device is missing",
        ),
        (
            "0 80 ebs big 0",
            "ebs: the emulated block in sectors is missing",
        ),
        (
            "0 80 ebs big 0 3",
            "an emulated block of 3 sectors is none of 1, 2, 4 and 8",
        ),
        ("0 80 ebs big 0 0", "an emulated block of 0 sectors"),
        ("0 80 ebs big 0 16", "an emulated block of 16 sectors"),
        (
            "0 80 ebs big 0 1 4",
            "an underlying block of 4 sectors is smaller than the 8 of 'big'",
        ),
        (
            "0 80 ebs small 0 4 2",
            "2 sectors is smaller than the 4 that are emulated",
        ),
        (
            "0 80 ebs small 0 8",
            "1 sectors is smaller than the 8 that are emulated",
        ),
        (
            "0 80 ebs big 0 1 24",
            "24 sectors is no power of two of at most 2048",
        ),
        (
            "0 80 ebs big 0 1 4096",
            "4096 sectors is no power of two of at most 2048",
        ),
        (
            "0 96 ebs short 0 1 32",
            "32 sectors is more than 'short' transfers at once, which is 16",
        ),
        (
            "0 80 ebs big 8 1 16",
            "the start 8 is not a multiple of the underlying block of 16 sectors",
        ),
        (
            "0 80 ebs big 3 1",
            "start 3 on 'big' is not a multiple of its block of 8 sectors",
        ),
        (
            "0 84 ebs big 0 1",
            "the length 84 is not a multiple of the underlying block of 8 sectors",
        ),
        ("0 80 ebs big 0 1 8 8", "'8' is one word too many"),
        (
            "0 2 zero\n2 8 ebs big 0 4",
            "the length 2 is not a multiple of the device's block of 4 sectors; a target has blocks of 2048 bytes",
        ),
    ] {
        let error = Table::parse(text, &resolve).expect_err(text).to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
}
