//! Target `flakey` (6.1): what goes wrong while it is down, byte by byte, and that private copies come back.

use proptest::prelude::*;

use super::super::env::PRIVATE_SECTORS_MAX;
use super::super::io::{DeviceId, Op};
use super::super::message::{Request, SuspendOptions};
use super::super::status::Status;
use super::super::table::Table;
use super::{RESUME, clones, for_seeds};
use crate::sim::{Answers, Ask, Cluster};

const DEVICE: DeviceId = DeviceId(0);
const SECOND: u64 = 1_000_000_000;

/// Always down, with these features.
fn down(features: &str) -> String {
    format!("0 32 flakey d0 16 0 1 {features}")
}

fn running(cores: u16, seed: u64, table: &str) -> Cluster {
    let mut cluster = Cluster::new(cores, seed);
    cluster.add_disks(2);
    cluster.device(0, false, table);
    cluster.seen();
    cluster
}

/// Bytes that differ from their neighbours.
fn pattern(sectors: u32) -> Vec<u8> {
    (0..sectors * 512).map(|n| (n % 253) as u8).collect()
}

/// What the disk holds where the target begins.
fn on_disk(cluster: &Cluster, sectors: u64) -> Vec<u8> {
    let disk = cluster.disk(0);
    (16..16 + sectors).flat_map(|at| disk.sector(at)).collect()
}

/// Up for 2 seconds, down for 3, over and over from the moment the table was loaded, whatever was done in between.
#[test]
fn it_is_up_and_down_by_the_clock() {
    let mut cluster = Cluster::new(2, 1);
    cluster.add_disks(2);
    let loaded_ns = cluster.shared().now_ns;
    cluster.device(0, false, "0 32 flakey d0 0 2 3");
    for (at_ms, up) in [
        (1_990, true),
        (2_010, false),
        (4_990, false),
        (5_010, true),
        (6_990, true),
        (7_010, false),
        (9_990, false),
        (5_000_001_000, true),
        (5_000_002_500, false),
    ] {
        cluster.shared().now_ns = loaded_ns + at_ms * 1_000_000;
        for core in 0..2 {
            for ask in [
                Ask::read(0, 1),
                Ask::fill(0, 1, 1),
                Ask::flush(),
                Ask::range(Op::Discard, 0, 1),
                Ask::range(Op::WriteZeroes, 0, 1),
            ] {
                let (op, ended) = (ask.op, cluster.run(core, DEVICE, ask).0);
                let expected = if up { Status::Ok } else { Status::IoError };
                assert_eq!(ended, expected, "{op:?} at {at_ms} ms");
            }
        }
    }
    for (table, status) in [
        ("0 32 flakey d0 0 1 0", Status::Ok),
        ("0 32 flakey d0 0 0 1", Status::IoError),
    ] {
        cluster.switch_to(DEVICE, table);
        for _ in 0..5 {
            cluster.shared().now_ns += 700_000_000;
            assert_eq!(cluster.run(0, DEVICE, Ask::read(0, 1)).0, status, "{table}");
        }
    }
    cluster.demand_idle();
}

/// What each feature does to each kind of I/O while it is down: whether it succeeds, and whether it gets as far as the disk.
#[test]
fn each_feature_stops_what_it_says() {
    let (ok, fails) = (Status::Ok, Status::IoError);
    let read = |features: &'static str, read, reads, write, writes| {
        (features, (read, reads), (write, writes))
    };
    for (features, of_read, of_write) in [
        read("", fails, false, fails, false),
        read("0", fails, false, fails, false),
        read("1 error_reads", fails, false, ok, true),
        read("1 drop_writes", ok, true, ok, false),
        read("1 error_writes", ok, true, fails, false),
        read("2 error_reads drop_writes", fails, false, ok, false),
        read("2 error_writes error_reads", fails, false, fails, false),
        read("5 corrupt_bio_byte 1 r 0 0", ok, true, ok, true),
        read("5 corrupt_bio_byte 1 w 0 0", ok, true, ok, true),
        read(
            "6 error_reads corrupt_bio_byte 1 w 0 0",
            fails,
            false,
            ok,
            true,
        ),
        read("3 drop_writes random_read_corrupt 5", ok, true, ok, false),
        read("2 random_write_corrupt 0", ok, true, ok, true),
    ] {
        let mut cluster = running(1, 1, &down(features));
        for (ask, (status, reaches)) in [
            (Ask::read(0, 1), of_read),
            (Ask::fill(0, 1, 1), of_write),
            (Ask::fill(0, 1, 1).fua(), of_write),
            (Ask::flush(), of_write),
            (Ask::range(Op::Discard, 0, 4), of_write),
            (Ask::range(Op::WriteZeroes, 0, 4), of_write),
        ] {
            let op = ask.op;
            assert_eq!(cluster.run(0, DEVICE, ask).0, status, "{features}: {op:?}");
            assert_eq!(
                clones(&cluster).len(),
                usize::from(reaches),
                "{features}: {op:?}"
            );
        }
        cluster.demand_idle();
    }
}

/// A dropped write leaves what was there before, and the flush after it makes nothing durable.
#[test]
fn dropped_writes_leave_no_trace() {
    let mut cluster = running(1, 1, "0 32 flakey d0 16 1 1 1 drop_writes");
    let up = cluster.shared().now_ns;
    assert_eq!(cluster.run(0, DEVICE, Ask::fill(0, 2, 1)).0, Status::Ok);
    cluster.shared().now_ns = up + SECOND + SECOND / 2;
    assert_eq!(cluster.run(0, DEVICE, Ask::fill(0, 2, 2)).0, Status::Ok);
    assert_eq!(cluster.run(0, DEVICE, Ask::flush()).0, Status::Ok);
    assert_eq!(cluster.run(0, DEVICE, Ask::read(0, 2)).1, [1; 1024]);
    cluster.disk(0).power_cut();
    assert_eq!(cluster.run(0, DEVICE, Ask::read(0, 2)).1, [0; 1024]);
}

/// The nth byte of every read is another, the rest is as it was, and so is the disk. A read too short for the byte is untouched. Also when
/// there is no memory to change it at first: it is read again.
#[test]
fn a_read_is_corrupted_in_one_byte() {
    for answers in [Answers::Inline, Answers::Later] {
        for refusals in [0, 3] {
            let mut cluster = running(1, 1, "0 32 linear d0 16");
            cluster.run(0, DEVICE, Ask::write(0, pattern(4)));
            cluster.switch_to(DEVICE, &down("5 corrupt_bio_byte 700 r 255 0"));
            cluster.disk(0).answers = answers;
            cluster.shared().read_refusals = refusals;
            let mut expected = pattern(4);
            expected[699] = 255;
            assert_eq!(
                cluster.run(0, DEVICE, Ask::read(0, 4)),
                (Status::Ok, expected)
            );
            assert_eq!(
                clones(&cluster).len(),
                2 + refusals as usize,
                "written, read, read again"
            );
            let short = cluster.run(0, DEVICE, Ask::read(1, 1)).1;
            assert_eq!(short, pattern(4)[512..1024], "not 700 bytes");
            assert_eq!(on_disk(&cluster, 4), pattern(4));
            cluster.disk(0).answers = Answers::Fail(Status::Medium);
            assert_eq!(cluster.run(0, DEVICE, Ask::read(0, 4)).0, Status::Medium);
            cluster.demand_idle();
        }
    }
}

/// The nth byte of every write reaches the disk as another; the host's own bytes are left alone. Writes to another direction's flags pass.
#[test]
fn a_write_is_corrupted_on_a_private_copy() {
    for answers in [Answers::Inline, Answers::Later] {
        let mut cluster = running(1, 1, &down("5 corrupt_bio_byte 513 w 9 0"));
        cluster.disk(0).answers = answers;
        let host = cluster.run(0, DEVICE, Ask::write(0, pattern(4)));
        assert_eq!(host, (Status::Ok, pattern(4)), "the host's memory");
        let mut expected = pattern(4);
        expected[512] = 9;
        assert_eq!(on_disk(&cluster, 4), expected);
        assert_eq!(
            cluster.run(0, DEVICE, Ask::read(0, 4)),
            (Status::Ok, expected)
        );
        cluster.run(0, DEVICE, Ask::write(0, pattern(1)));
        assert_eq!(on_disk(&cluster, 1), pattern(1), "not 513 bytes");
        assert_eq!(cluster.shared().buffers_taken, 1);
        cluster.demand_idle();
        let fua = Ask::write(0, pattern(2)).fua();
        cluster.run(0, DEVICE, fua.clone());
        assert_eq!(
            cluster.disk(0).durable(17)[0],
            9,
            "a changed write keeps its FUA"
        );

        cluster.switch_to(DEVICE, &down("5 corrupt_bio_byte 1 w 77 131072"));
        cluster.run(0, DEVICE, Ask::write(0, pattern(2)));
        assert_eq!(on_disk(&cluster, 2), pattern(2), "no force-unit-access");
        cluster.run(0, DEVICE, fua);
        assert_eq!(on_disk(&cluster, 1)[0], 77);
        cluster.demand_idle();
    }
}

/// AT-73: a write across targets, and one across the largest copy, is cut; each piece is corrupted on its own and at its own place.
#[test]
fn at_73_each_piece_is_corrupted_on_its_own() {
    let mut cluster = Cluster::new(1, 1);
    let sectors = u64::from(PRIVATE_SECTORS_MAX) * 2 + 64;
    cluster.add_disk(sectors, |_| {});
    let rest = sectors - 32;
    let features = "0 1 5 corrupt_bio_byte 3 w 254 0";
    let table = format!("0 24 linear d0 0\n24 {rest} flakey d0 32 {features}");
    cluster.device(0, false, &table);
    let start = PRIVATE_SECTORS_MAX as usize + 4;
    let bytes = pattern(40);
    cluster.run(0, DEVICE, Ask::write(start as u64, bytes.clone()));
    // The target begins at 24, so that a multiple of the largest copy from there lies 20 sectors into the write.
    let mut expected = bytes;
    (expected[2], expected[20 * 512 + 2]) = (254, 254);
    let found: Vec<u8> = {
        let disk = cluster.disk(0);
        let at = start as u64 + 8;
        (at..at + 40).flat_map(|at| disk.sector(at)).collect()
    };
    assert_eq!(found, expected);
    cluster.run(0, DEVICE, Ask::write(20, pattern(8)));
    let found = [20, 32].map(|at| cluster.disk(0).sector(at)[2]);
    assert_eq!(
        found,
        [pattern(1)[2], 254],
        "only the second piece is its own"
    );
    cluster.demand_idle();
}

/// Without memory for a copy a write waits, also on a noflush suspend: then it is pushed back and goes to the next table, whole.
#[test]
fn a_write_waits_for_memory() {
    let mut cluster = running(1, 1, &down("5 corrupt_bio_byte 1 w 9 0"));
    cluster.shared().buffers_max = 1;
    cluster.disk(0).answers = Answers::Later;
    cluster.disk(0).frozen = true;
    let commands: Vec<_> = (0..3)
        .map(|n| cluster.submit(0, DEVICE, Ask::fill(n, 1, 1)))
        .collect();
    cluster.steps(100);
    assert_eq!(cluster.disk(0).held.len(), 1, "one copy, one write below");
    cluster.disk(0).frozen = false;
    cluster.settle();
    for command in commands {
        assert_eq!(cluster.status(command), Some(Status::Ok));
    }
    assert_eq!(
        on_disk(&cluster, 3)
            .iter()
            .filter(|byte| **byte == 9)
            .count(),
        3
    );
    cluster.demand_idle();

    cluster.shared().buffers_max = 0;
    let aborted = cluster.submit(0, DEVICE, Ask::fill(0, 1, 5));
    let waiting = cluster.submit(0, DEVICE, Ask::fill(1, 1, 5));
    assert!(cluster.abort(0, DEVICE, aborted), "it waits");
    let noflush = SuspendOptions {
        noflush: true,
        ..SuspendOptions::default()
    };
    cluster.done(DEVICE, Request::Suspend(noflush));
    cluster.settle();
    assert_eq!(cluster.status(waiting), None, "pushed back");
    assert_eq!(cluster.shared().buffers.len(), 0);
    cluster.switch_to(DEVICE, "0 32 linear d1 0");
    cluster.settle();
    assert_eq!(cluster.status(aborted), Some(Status::Aborted));
    assert_eq!(cluster.status(waiting), Some(Status::Ok));
    assert_eq!(cluster.disk(1).sector(1), [5; 512]);
    cluster.demand_idle();
}

/// Copies come back exactly once however writes end below: at once, later, after having waited for room, with an error; under suspends
/// of both kinds, resumes and aborts.
#[test]
fn copies_come_back_however_writes_end() {
    for_seeds(60, |seed| {
        let table =
            "0 32 flakey d0 16 0 1 4 random_write_corrupt 700000000 random_read_corrupt 300000000";
        let mut cluster = running(2, seed, table);
        cluster.shared().buffers_max = 1 + seed as usize % 4;
        let mut commands = Vec::new();
        for n in 0..120u64 {
            cluster.disk(0).answers = match n % 5 {
                0 => Answers::FailLater(Status::Medium),
                1 => Answers::Fail(Status::Medium),
                2 => Answers::Busy,
                _ => Answers::Mixed {
                    inline: 30,
                    busy: 30,
                },
            };
            let core = (n % 2) as u16;
            let ask = match n % 7 {
                0 => Ask::read(n % 16, 4),
                1 => Ask::compare_and_write(n % 16, 1, 0, 1),
                _ => Ask::fill(n % 16, 4, n as u8),
            };
            commands.push(cluster.submit(core, DEVICE, ask));
            cluster.steps(n % 6);
            let out = cluster.shared().buffers.len();
            assert!(out <= cluster.shared().buffers_max);
            match (n * 7 + seed) % 40 {
                0 | 1 => {
                    let options = SuspendOptions {
                        noflush: n % 2 == 0,
                        ..SuspendOptions::default()
                    };
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
                _ => {}
            }
        }
        cluster.disk(0).answers = Answers::Later;
        cluster.request(DEVICE, RESUME);
        cluster.settle();
        for command in commands {
            assert!(
                cluster.status(command).is_some(),
                "command {command} has ended"
            );
        }
        assert!(cluster.shared().buffers_taken > 0);
        cluster.demand_idle();
    });
}

/// Random corruption changes one byte at most, does so in about as many cases as asked, and is the same in every run.
#[test]
fn random_corruption_can_be_repeated() {
    let run = |probability: u32| {
        let mut cluster = running(
            1,
            1,
            &down(&format!("2 random_write_corrupt {probability}")),
        );
        let written = pattern(4);
        let mut changed = Vec::new();
        for n in 0..200usize {
            cluster.run(0, DEVICE, Ask::write(0, written.clone()));
            let bytes = on_disk(&cluster, 4);
            let differ: Vec<_> = (0..bytes.len())
                .filter(|at| bytes[*at] != written[*at])
                .collect();
            assert!(differ.len() <= 1, "{differ:?}");
            changed.extend(differ.iter().map(|at| (n, *at, bytes[*at])));
        }
        cluster.demand_idle();
        changed
    };
    assert!(run(0).is_empty());
    // One in 256 changes a byte into itself.
    assert!((190..=200).contains(&run(1_000_000_000).len()));
    let some = run(300_000_000);
    assert!((30..=90).contains(&some.len()), "{}", some.len());
    assert_eq!(some, run(300_000_000));
    let mut cluster = running(1, 1, &down("2 random_read_corrupt 1000000000"));
    let reads = (0..50).filter(|_| {
        let bytes = cluster.run(0, DEVICE, Ask::read(0, 4)).1;
        let differ = bytes.iter().filter(|byte| **byte != 0).count();
        assert!(differ <= 1);
        differ == 1
    });
    assert!(reads.count() > 40);
}

fn resolve(name: &str) -> Option<crate::dm::Lower> {
    let mut cluster = Cluster::new(1, 0);
    cluster.add_disk(5000, |_| {});
    (name == "d0").then(|| cluster.disk(0).lower.clone())
}

#[test]
fn at_83_bad_lines_are_refused_with_a_reason() {
    for (words, reason) in [
        ("", "the device is missing"),
        ("d0 0 1", "the time it is down, in seconds, is missing"),
        ("d0 0 0 0", "up for 0 seconds and down for 0"),
        (
            "d0 0 4294967295 1",
            "4294967296 seconds together: at most 4294967295",
        ),
        ("d0 0 1 1s", "in seconds, '1s' is not a decimal number"),
        (
            "d0 0 1 1 drop_writes",
            "the number of feature words 'drop_writes' is not",
        ),
        (
            "d0 0 1 1 2 drop_writes",
            "2 feature words are announced, and 1 follow",
        ),
        (
            "d0 0 1 1 1 drop_writes x",
            "1 feature words are announced, and 2 follow",
        ),
        (
            "d0 0 1 1 1 drop_reads",
            "there is no feature 'drop_reads'; there are error_reads",
        ),
        (
            "d0 0 1 1 2 drop_writes drop_writes",
            "the feature drop_writes is there twice",
        ),
        (
            "d0 0 1 1 2 error_reads error_reads",
            "the feature error_reads is there twice",
        ),
        (
            "d0 0 1 1 2 drop_writes error_writes",
            "drop_writes and error_writes exclude each other",
        ),
        (
            "d0 0 1 1 2 error_writes drop_writes",
            "drop_writes and error_writes exclude each other",
        ),
        (
            "d0 0 1 1 6 drop_writes corrupt_bio_byte 1 w 0 0",
            "drop_writes and corrupt_bio_byte … w exclude",
        ),
        (
            "d0 0 1 1 6 error_writes corrupt_bio_byte 1 w 0 0",
            "error_writes and corrupt_bio_byte … w exclude",
        ),
        (
            "d0 0 1 1 3 error_writes random_write_corrupt 1",
            "error_writes and random_write_corrupt exclude",
        ),
        (
            "d0 0 1 1 3 error_reads random_read_corrupt 1",
            "error_reads and random_read_corrupt exclude",
        ),
        (
            "d0 0 1 1 6 error_reads corrupt_bio_byte 1 r 0 0",
            "error_reads and corrupt_bio_byte … r exclude",
        ),
        (
            "d0 0 1 1 7 random_read_corrupt 1 corrupt_bio_byte 1 r 0 0",
            "corrupt_bio_byte … r and random_read_corrupt",
        ),
        (
            "d0 0 1 1 5 corrupt_bio_byte 0 r 0 0",
            "the byte to corrupt is 0; the first is 1",
        ),
        (
            "d0 0 1 1 5 corrupt_bio_byte 1 x 0 0",
            "the direction 'x' is neither r (reads) nor w (writes)",
        ),
        (
            "d0 0 1 1 5 corrupt_bio_byte 1 r 256 0",
            "'256' is too large: at most 255",
        ),
        (
            "d0 0 1 1 5 corrupt_bio_byte 1 w 0 32",
            "the flags 32 are on no I/O here",
        ),
        (
            "d0 0 1 1 5 corrupt_bio_byte 1 r 0 131072",
            "the flags 131072 are on no I/O here",
        ),
        ("d0 0 1 1 4 corrupt_bio_byte 1 r 0", "the flags is missing"),
        (
            "d0 0 1 1 2 random_read_corrupt 1000000001",
            "too large: at most 1000000000",
        ),
    ] {
        let error = Table::parse(&format!("0 8 flakey {words}"), &resolve).expect_err(words);
        let text = error.to_string();
        assert!(text.contains(reason), "{words}: {text}");
    }
}

proptest! {
    /// AT-81, LC-23: whatever is accepted is told in a text that loads the same again, in any order of features.
    #[test]
    fn at_81_table_texts_reload(
        times in (0u32..5, 1u32..1_000_000, 0u64..4000),
        features in proptest::collection::vec(0usize..6, 0..5),
        numbers in (1u32..u32::MAX, any::<bool>(), any::<u8>(), 0u32..=1_000_000_000),
    ) {
        let (nth, writes, value, probability) = numbers;
        let direction = if writes { "w" } else { "r" };
        let words: Vec<String> = features
            .iter()
            .map(|feature| match feature {
                0 => "error_reads".to_string(),
                1 => "drop_writes".to_string(),
                2 => "error_writes".to_string(),
                3 => format!("corrupt_bio_byte {nth} {direction} {value} 0"),
                4 => format!("random_read_corrupt {probability}"),
                _ => format!("random_write_corrupt {probability}"),
            })
            .collect();
        let words = words.join(" ");
        let count = words.split_whitespace().count();
        let (up, down, start) = times;
        let line = format!("0 8 flakey d0 {start} {up} {down} {count} {words}");
        if let Ok(table) = Table::parse(&line, &resolve) {
            let text = table.segments[0].target.table(&table.lowers);
            let again = Table::parse(&format!("0 8 flakey {text}"), &resolve).unwrap();
            prop_assert_eq!(format!("{table:?}"), format!("{again:?}"));
            prop_assert_eq!(again.segments[0].target.table(&again.lowers), text);
        }
    }
}
