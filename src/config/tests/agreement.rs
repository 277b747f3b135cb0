//! The plan's checks of tables and the device mapper's own parser come to the same verdict, where sizes are known.

use proptest::prelude::*;

use super::read;
use crate::config::BdevPlan;
use crate::dm::limits::{Lower, LowerId};
use crate::dm::table::Table;

fn lower(index: usize, bdev: &BdevPlan) -> Lower {
    Lower {
        id: LowerId(u32::try_from(index).expect("few bdevs")),
        name: bdev.name.value.clone(),
        sectors: bdev.sectors().expect("sizes are known here"),
        block_bytes: bdev.block_size,
        volatile_cache: false,
        flush: true,
        fua: true,
        discard: true,
        discard_zeroes: false,
        write_zeroes: true,
        transfer_sectors_max: 0,
        optimal_write_bytes: bdev.block_size,
        read_only: false,
        keep: Default::default(),
    }
}

const BDEVS: &str = "bdevs:
  - null: { name: a, size: 32KiB }
  - null: { name: b, size: 32KiB, block_size: 4096 }
";

/// A line after the one that ends at `start`; now and then it starts somewhere else.
fn line() -> impl Strategy<Value = (u64, u64, String)> {
    let offset = prop::sample::select(vec![0u64, 1, 8, 16, 56, 64]);
    let bdev = prop::sample::select(vec!["a", "b", "c"]);
    let area = (bdev.clone(), offset).prop_map(|(bdev, offset)| format!("{bdev} {offset}"));
    let target = prop_oneof![
        Just("zero".to_owned()),
        Just("error".to_owned()),
        area.clone().prop_map(|area| format!("linear {area}")),
        (
            0..4u64,
            prop::sample::select(vec![0u64, 4, 8]),
            prop::collection::vec(area.clone(), 0..4)
        )
            .prop_map(|(stripes, chunk, areas)| format!(
                "striped {stripes} {chunk} {}",
                areas.join(" ")
            )),
        prop::collection::vec(
            (area.clone(), prop::sample::select(vec!["0", "5", "x"])),
            0..5
        )
        .prop_map(|ways| {
            let ways: Vec<_> = ways
                .iter()
                .map(|(area, ms)| format!("{area} {ms}"))
                .collect();
            format!("delay {}", ways.join(" "))
        }),
        (
            area.clone(),
            prop::sample::select(vec![
                "0 0",
                "1 0",
                "0 1 0",
                "1",
                "1 1 1 drop_writes",
                "1 1 2 drop_writes",
                "1 1 5 corrupt_bio_byte 1 r 0 0",
            ])
        )
            .prop_map(|(area, rest)| format!("flakey {area} {rest}")),
        (0..3u64, prop::collection::vec(bdev, 1..3)).prop_map(|(groups, bdevs)| format!(
            "multipath 0 0 {groups} {groups} round-robin 0 {} 0 {}",
            bdevs.len(),
            bdevs.join(" ")
        )),
        Just("multipath 1 queue_if_no_path 0 0 0".to_owned()),
    ];
    let skip = prop::sample::select(vec![0u64, 0, 0, 0, 0, 0, 1]);
    let length = prop::sample::select(vec![0u64, 1, 8, 8, 16, 16, 24, 32, 64]);
    (skip, length, target)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn the_plan_and_the_mapper_agree(lines in prop::collection::vec(line(), 1..4)) {
        let mut start = 0;
        let mut table = String::new();
        for (skip, length, target) in lines {
            table += &format!("      {} {length} {target}\n", start + skip);
            start += skip + length;
        }
        let plan = read(format!("{BDEVS}devices:\n  - name: d\n    table: |\n{table}"));
        let bdevs = read(BDEVS).expect("valid").bdevs;
        let resolve = |name: &str| {
            let index = bdevs.iter().position(|bdev| bdev.name.value == name)?;
            Some(lower(index, &bdevs[index]))
        };
        match (plan, Table::parse(&table, &resolve)) {
            (Ok(plan), Ok(parsed)) => {
                prop_assert_eq!(plan.devices[0].sectors, parsed.limits.sectors);
                prop_assert_eq!(plan.devices[0].block_size, parsed.limits.block_bytes);
            }
            (Err(_), Err(_)) => {}
            (plan, parsed) => prop_assert!(false, "{:?}\n{:?}\n{}", plan.map(drop), parsed.map(drop), table),
        }
    }
}
