//! Tables against the rules of 1.3, and texts that re-load.

use proptest::prelude::*;

use super::super::limits::{AtomicWrites, LowerId};
use super::super::target::{Ask, ChannelIndex, Map, Note};
use super::*;

/// A lower device `name` of `sectors`, with everything it could have.
pub(crate) fn lower(id: u32, name: &str, sectors: u64, block_bytes: u32) -> Lower {
    Lower {
        id: LowerId(id),
        name: name.into(),
        sectors,
        block_bytes,
        physical_bytes: block_bytes,
        volatile_cache: true,
        flush: true,
        fua: true,
        discard: true,
        discard_zeroes: false,
        write_zeroes: true,
        transfer_sectors_max: 0,
        optimal_write_bytes: block_bytes,
        atomic_writes: AtomicWrites::NONE,
        read_only: false,
        keep: Default::default(),
    }
}

fn resolve(name: &str) -> Option<Lower> {
    match name {
        "a" => Some(lower(0, "a", 1000, 512)),
        "b" => Some(lower(1, "b", 2000, 512)),
        "big" => Some(lower(2, "big", 8000, 4096)),
        _ => None,
    }
}

fn refused(text: &str) -> String {
    Table::parse(text, &resolve).expect_err(text).to_string()
}

#[test]
fn at_83_bad_tables_are_refused_with_line_and_reason() {
    for (text, reason) in [
        ("", "table: no target"),
        (
            "8 8 zero",
            "table line 1: a gap in the table: the target starts at sector 8, but must start at 0",
        ),
        ("0 8 zero\n4 8 zero", "table line 2: an overlap"),
        ("0 8 zero\n16 8 zero", "table line 2: a gap"),
        ("0 0 zero", "table line 1: the target has a length of 0"),
        ("0 18446744073709551615 zero", "past the largest device"),
        (
            "0 8 mirror a 0",
            "unknown target type 'mirror'; there are delay, ebs, error, flakey, linear, multipath, striped, zero",
        ),
        ("0 8 linear", "linear: the device is missing"),
        ("0 8 linear x 0", "linear: there is no bdev 'x'"),
        (
            "0 8 linear a",
            "linear: the start sector on the device is missing",
        ),
        ("0 8 linear a 0 1", "linear: '1' is one word too many"),
        ("0 8 linear a -1", "'-1' is not a decimal number"),
        ("0 8 linear a 99999999999999999999999", "too large"),
        (
            "0 1001 linear a 0",
            "sectors 0 to 1001 do not fit on 'a', which has 1000",
        ),
        ("0 8 linear a 993", "do not fit"),
        ("0 8 linear a 36028797018963967", "do not fit"),
        ("0 8 zero 1", "zero: '1' is one word too many"),
        ("0 8 striped 0 8", "the number of stripes is 0"),
        ("0 8 striped 2 0 a 0 b 0", "the chunk size is 0"),
        (
            "0 10 striped 2 4 a 0 b 0",
            "does not divide into 2 stripes of whole chunks of 4: 8 would",
        ),
        (
            "0 16 striped 2 4 a 0 b",
            "2 stripes need 2 pairs of device and start, and 3 words follow",
        ),
        ("0 16 striped 2 4 a 0 b 0 a 0", "6 words follow"),
        (
            "0 12 linear big 0",
            "the length 12 is not a multiple of the device's block of 8",
        ),
        (
            "0 8 linear big 4",
            "start 4 on 'big' is not a multiple of its block of 8",
        ),
        (
            "0 8 linear big 0\n8 8 linear a 4",
            "table line 2: the start on the lower device 4 is not a multiple",
        ),
        (
            "0 16 striped 2 4 big 0 big 8",
            "the chunk size 4 is not a multiple",
        ),
    ] {
        let message = refused(text);
        assert!(
            message.contains(reason),
            "{text:?}: {message:?} does not say {reason:?}"
        );
    }
}

#[test]
fn lc_10_a_device_named_twice_is_opened_once() {
    let table = Table::parse(
        "0 8 linear a 0\n8 8 linear a 8\n16 16 striped 2 8 b 0 a 16",
        &resolve,
    )
    .unwrap();
    assert_eq!(
        table
            .lowers
            .iter()
            .map(|lower| lower.name.as_str())
            .collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert_eq!(table.limits.sectors, 32);
}

#[test]
fn at_61_62_flush_clones_are_per_device_with_bypass_and_the_sum_without() {
    let ten: String = (0..10)
        .map(|i| format!("{} 8 linear a {}\n", i * 8, i * 8))
        .collect();
    assert_eq!(Table::parse(&ten, &resolve).unwrap().flush_clones(), 1);
    let mixed = format!("{ten}80 8 zero\n");
    assert_eq!(Table::parse(&mixed, &resolve).unwrap().flush_clones(), 10);
    assert_eq!(
        Table::parse("0 16 striped 2 8 a 0 b 0", &resolve)
            .unwrap()
            .flush_clones(),
        2
    );
    assert_eq!(
        Table::parse("0 16 error", &resolve).unwrap().flush_clones(),
        0
    );
}

#[test]
fn limits_are_those_of_the_weakest_device() {
    let table = Table::parse("0 8 linear big 0\n8 8 linear a 0", &resolve).unwrap();
    assert_eq!(table.limits.block_bytes, 4096);
    assert!(table.supports(Op::Discard) && table.supports(Op::WriteZeroes));
    let table = Table::parse("0 8 zero", &resolve).unwrap();
    assert!(table.limits.discard && !table.limits.write_zeroes && !table.limits.volatile_cache);
    let weak = |_: &str| {
        Some(Lower {
            discard: false,
            ..lower(0, "a", 1000, 512)
        })
    };
    assert!(
        !Table::parse("0 8 zero\n8 8 linear a 0", &weak)
            .unwrap()
            .limits
            .discard
    );
}

/// Which writes a table leaves whole: those that cross neither the end of a target nor a chunk, nor what is a boundary beneath, as far as
/// it lies on one above.
#[test]
fn atomic_writes_are_those_that_nothing_cuts() {
    let of = |text: &str, sectors_max: u32, boundary_sectors: u32, transfer_sectors_max: u32| {
        let resolve = |name: &str| {
            let lower = resolve(name)?;
            let atomic_writes = AtomicWrites {
                sectors_max,
                boundary_sectors,
            };
            Some(match name {
                "b" => Lower {
                    atomic_writes: AtomicWrites::ALL,
                    ..lower
                },
                _ => Lower {
                    atomic_writes,
                    transfer_sectors_max,
                    ..lower
                },
            })
        };
        let atomic = Table::parse(text, &resolve).unwrap().limits.atomic_writes;
        (atomic.sectors_max, atomic.boundary_sectors)
    };
    const ANY: u32 = u32::MAX;
    for (text, expected) in [
        ("0 960 linear a 0", (ANY, 0)),
        ("0 960 linear a 7", (ANY, 0)),
        ("0 960 zero", (ANY, 0)),
        ("0 960 error", (ANY, 0)),
        ("0 960 delay a 0 1", (ANY, 0)),
        ("0 960 flakey a 0 1 1", (ANY, 0)),
        ("0 960 multipath 0 0 1 1 round-robin 0 1 0 a", (ANY, 0)),
        ("0 96 linear a 0\n96 32 linear a 96", (32, 32)),
        ("0 96 linear a 0\n96 5 zero\n101 3 error", (1, 1)),
        ("0 960 striped 2 16 a 0 b 3", (16, 16)),
        ("0 960 striped 2 12 a 0 b 0", (4, 4)),
        ("0 8 zero\n8 960 striped 2 16 a 0 b 0", (8, 8)),
    ] {
        assert_eq!(of(text, ANY, 0, 0), expected, "{text}");
    }
    for (text, expected) in [
        ("0 960 linear a 0", (64, 128)),
        ("0 960 linear a 32", (32, 32)),
        ("0 128 linear b 0\n128 512 linear a 0", (64, 128)),
        ("0 960 striped 2 16 a 0 b 0", (16, 16)),
        ("0 960 striped 2 16 a 4 b 0", (4, 4)),
    ] {
        assert_eq!(of(text, 64, 128, 0), expected, "{text}");
    }
    let whole = "0 960 linear a 0";
    assert_eq!(of("0 960 linear a 5", 24, 0, 0), (24, 0));
    assert_eq!(of(whole, 24, 0, 20), (20, 0), "cut by what it takes");
    assert_eq!(of(whole, 0, 0, 0), (0, 0));
    assert_eq!(of("0 960 striped 2 16 a 0 b 0", 0, 0, 0), (0, 0));
    assert_eq!(of("0 960 linear big 0", 12, 0, 0), (8, 0), "whole blocks");
    assert_eq!(of("0 960 linear big 0", 7, 0, 0), (0, 0));
}

/// Every sector that `striped` maps, against dealing out chunks one by one.
#[test]
fn striped_maps_every_sector_as_dealing_out_chunks_does() {
    for (count, chunk) in [(1u64, 8u64), (2, 8), (3, 8), (3, 5), (5, 7)] {
        let sectors = count * chunk * 4;
        let devices = " a 0".repeat(count as usize);
        let text = format!("0 {sectors} striped {count} {chunk}{devices}");
        let mut table = Table::parse(&text, &resolve).unwrap();
        let target = &mut table.segments[0].target;
        let mut filled = vec![0u64; count as usize];
        for sector in 0..sectors {
            let stripe = (sector / chunk % count) as usize;
            let expected = Map::Remapped {
                channel: ChannelIndex(0),
                sector: filled[stripe],
                note: Note::NONE,
            };
            let ask = Ask::of(Op::Read, sector, 1, 0);
            assert_eq!(target.map(&ask), expected, "{text} at {sector}");
            filled[stripe] += 1;
        }
    }
}

proptest! {
    /// AT-81: the TABLE text of a table re-loads to the same table.
    #[test]
    fn at_81_table_texts_reload(lines in proptest::collection::vec(0usize..4, 1..8), chunk in 1u64..9) {
        let mut start = 0;
        let mut text = String::new();
        for kind in lines {
            let (sectors, rest) = match kind {
                0 => (8, "linear a 16".to_string()),
                1 => (chunk * 6, format!("striped 3 {chunk} a 1 b 2 a 100")),
                2 => (5, "error".to_string()),
                _ => (7, "zero".to_string()),
            };
            text.push_str(&format!("{start} {sectors} {rest}\n"));
            start += sectors;
        }
        let table = Table::parse(&text, &resolve).unwrap();
        let again: String = table
            .segments
            .iter()
            .map(|s| format!("{} {} {} {}\n", s.start, s.sectors, s.target.name(), s.target.table(&table.lowers)))
            .collect();
        let table_again = Table::parse(&again, &resolve).unwrap();
        prop_assert_eq!(format!("{table:?}"), format!("{table_again:?}"));
    }

    /// A discard's shares cover exactly the sectors that mapping them one by one touches.
    #[test]
    fn striped_shares_are_the_sectors_mapped(count in 1u64..5, chunk in 1u64..9, from in 0u64..60, length in 1u64..60) {
        let sectors = count * chunk * 30;
        let from = from.min(sectors - 1);
        let length = length.min(sectors - from);
        let starts: String = (0..count).map(|i| format!(" b {}", i * chunk * 30)).collect();
        let resolve = |_: &str| Some(lower(0, "b", 100_000, 512));
        let mut table = Table::parse(&format!("0 {sectors} striped {count} {chunk}{starts}"), &resolve).unwrap();
        let target = &mut table.segments[0].target;
        let mut expected: Vec<u64> = (from..from + length)
            .map(|sector| match target.map(&Ask::of(Op::Write, sector, 1, 0)) {
                Map::Remapped { sector, .. } => sector,
                other => panic!("{other:?}"),
            })
            .collect();
        expected.sort_unstable();
        let mut covered: Vec<u64> = (0..target.duplicates(Op::Discard))
            .filter_map(|number| {
                let ask = Ask::of(Op::Discard, from, length as u32, 0);
                match target.range(&Ask { number, ..ask }) {
                    Map::Share(share) => Some(share),
                    Map::Zero => None,
                    other => panic!("{other:?}"),
                }
            })
            .flat_map(|share| share.sector..share.sector + u64::from(share.sectors))
            .collect();
        covered.sort_unstable();
        prop_assert_eq!(covered, expected);
    }

    /// Whatever is refused is refused at a place that is there: whole words, or the end of the line.
    #[test]
    fn lc_11_no_text_panics(
        text in "[0-9a-zé \\n\\\\#]{0,80}",
        words in "(0 (8|16) (linear|striped|delay|flakey|multipath|zero|error)( (0|1|2|8|a|b|big|é|round-robin|queue-length|queue_mode|io-affinity|drop_writes|\\\\ )){0,14}\n?){1,3}",
    ) {
        for text in [text, words] {
            let Err(error) = Table::parse(&text, &resolve) else { continue };
            prop_assert_eq!(error.line == 0, error.bytes.is_none());
            let Some(bytes) = error.bytes.clone() else { continue };
            let line = text.lines().nth(error.line - 1).expect("a line of the text");
            let place = line.get(bytes.clone()).expect("a part of the line");
            prop_assert!(!place.is_empty() || line[bytes.end..].trim().is_empty(), "{:?}", error);
            prop_assert!(place.is_empty() || line[bytes.end..].starts_with(char::is_whitespace) || bytes.end == line.len());
        }
    }
}
