//! `polldm stats`: counters and latencies.

use clap::Args;

use super::columns::{Column, Layout, bytes, duration, render};
use super::{Connection, Failure, print, print_json};
use crate::control::schema::{OperationStats, Stats, StatsParams, StatsResult};

const EXAMPLES: &str = "\
Examples:
  polldm stats
  polldm stats vol0
  watch -n 1 polldm stats
  polldm stats --json | jq '.devices[0].operations[0].latency.p99_ns'

Counters are since the start and never go back. Latencies are read off
histograms: up to 25 % too high for devices, 6 % for namespaces, never too
low. A device's count from submission to completion, with the time it was
parked; a namespace's from the arrival of a command to its response. Time is
read once per turn of a reactor: what begins and ends in one turn took 0 ns.
With 'metrics: { listen: … }' in the configuration, Prometheus gets the same.";

/// Counters and latencies of devices, namespaces, units, sessions and reactors
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct StatsCommand {
    /// Only this device, and the namespaces and units that export it
    device: Option<String>,
    /// Print the answer as JSON, with the histograms' buckets
    #[arg(long)]
    json: bool,
}

/// Runs `polldm stats`.
pub(super) fn run(command: StatsCommand, connection: &Connection) -> Result<(), Failure> {
    let result = connection.open()?.call::<Stats>(&StatsParams {
        device: command.device,
    })?;
    if command.json {
        print_json(&result)
    } else {
        print(&text(&result))
    }
}

/// The columns that devices, namespaces and units have in common.
const OPERATION_COLUMNS: [Column; 9] = [
    Column::left("OPERATION"),
    Column::right("IOS"),
    Column::right("ERRORS"),
    Column::right("DATA"),
    Column::right("MEAN"),
    Column::right("P50"),
    Column::right("P99"),
    Column::right("P99.9"),
    Column::right("MAX"),
];

/// Rows of a device, namespace or unit: one for each operation that ever happened; one that says so if there was none.
fn rows(key: &[String], operations: &[OperationStats]) -> Vec<Vec<String>> {
    let row = |one: &OperationStats| {
        let latency = &one.latency;
        let times = [
            latency.mean_ns(),
            latency.p50_ns,
            latency.p99_ns,
            latency.p999_ns,
            latency.max_ns,
        ];
        let times = times.map(|ns| {
            if latency.count == 0 {
                "-".to_owned()
            } else {
                duration(ns)
            }
        });
        let counts = [
            one.operation.clone(),
            one.ios.to_string(),
            one.errors.to_string(),
            bytes(one.bytes),
        ];
        key.iter().cloned().chain(counts).chain(times).collect()
    };
    let happened: Vec<_> = operations
        .iter()
        .filter(|one| one.ios > 0 || one.errors > 0)
        .map(row)
        .collect();
    if happened.is_empty() {
        let nothing = ["-", "0", "0", "0 B", "-", "-", "-", "-", "-"].map(str::to_owned);
        return vec![key.iter().cloned().chain(nothing).collect()];
    }
    happened
}

fn text(result: &StatsResult) -> String {
    let columns = [&[Column::left("DEVICE")][..], &OPERATION_COLUMNS].concat();
    let devices: Vec<_> = result
        .devices
        .iter()
        .flat_map(|device| rows(std::slice::from_ref(&device.name), &device.operations))
        .collect();
    let mut parts = vec![render(&columns, &devices, Layout::OURS)];
    let columns = [
        Column::left("DEVICE"),
        Column::right("IN FLIGHT"),
        Column::right("PARKED"),
        Column::right("HELD"),
        Column::right("BACK-PRESSURE"),
        Column::right("PUSHED BACK"),
    ];
    let gauges = result.devices.iter().map(|device| {
        vec![
            device.name.clone(),
            device.in_flight.to_string(),
            device.parked.to_string(),
            device.held.to_string(),
            device.busy.to_string(),
            device.pushed_back.to_string(),
        ]
    });
    parts.push(render(&columns, &gauges.collect::<Vec<_>>(), Layout::OURS));
    if !result.namespaces.is_empty() {
        let columns = [
            &[Column::left("SUBSYSTEM"), Column::right("NSID")][..],
            &OPERATION_COLUMNS,
        ]
        .concat();
        let namespaces = result
            .namespaces
            .iter()
            .flat_map(|one| rows(&[one.nqn.clone(), one.nsid.to_string()], &one.operations));
        parts.push(render(
            &columns,
            &namespaces.collect::<Vec<_>>(),
            Layout::OURS,
        ));
    }
    if !result.units.is_empty() {
        let columns = [
            &[Column::left("TARGET"), Column::right("LUN")][..],
            &OPERATION_COLUMNS,
        ]
        .concat();
        let units = result
            .units
            .iter()
            .flat_map(|one| rows(&[one.iqn.clone(), one.lun.to_string()], &one.operations));
        parts.push(render(&columns, &units.collect::<Vec<_>>(), Layout::OURS));
    }
    if !result.sessions.is_empty() {
        let columns = [
            &[
                Column::left("TARGET"),
                Column::left("INITIATOR"),
                Column::right("SESSION"),
            ][..],
            &OPERATION_COLUMNS,
        ]
        .concat();
        let sessions = result.sessions.iter().flat_map(|one| {
            let of = [
                one.iqn.clone(),
                one.initiator.clone(),
                one.session.to_string(),
            ];
            rows(&of, &one.operations)
        });
        parts.push(render(
            &columns,
            &sessions.collect::<Vec<_>>(),
            Layout::OURS,
        ));
    }
    let columns = [
        Column::right("REACTOR"),
        Column::right("BUSY"),
        Column::right("POLLING"),
        Column::right("ASLEEP"),
    ];
    let reactors = result.reactors.iter().map(|reactor| {
        let polling = reactor
            .elapsed_ns
            .saturating_sub(reactor.busy_ns)
            .saturating_sub(reactor.asleep_ns);
        let shares = [reactor.busy_ns, polling, reactor.asleep_ns].map(|ns| {
            format!(
                "{:.1} %",
                100.0 * ns as f64 / reactor.elapsed_ns.max(1) as f64
            )
        });
        [reactor.reactor.to_string()]
            .into_iter()
            .chain(shares)
            .collect()
    });
    parts.push(render(
        &columns,
        &reactors.collect::<Vec<_>>(),
        Layout::OURS,
    ));
    parts.join("\n")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::control::Service;
    use crate::control::fake::Fake;

    #[test]
    fn the_whole_summary() {
        let stats = Service::new(Arc::new(Fake::with_devices()))
            .stats(Some("vol0"))
            .unwrap();
        let expected = "\
DEVICE  OPERATION  IOS  ERRORS    DATA    MEAN      P50      P99    P99.9      MAX
vol0    read         5       1  16 KiB  411 us  20.5 us  2.10 ms  2.10 ms  2.10 ms

DEVICE  IN FLIGHT  PARKED  HELD  BACK-PRESSURE  PUSHED BACK
vol0            3       1     2              0            7

SUBSYSTEM                         NSID  OPERATION  IOS  ERRORS    DATA   MEAN      P50      P99    P99.9      MAX
nqn.2026-11.io.polldm:quickstart     1  read        10       0  40 KiB  10 us  8.19 us  20.5 us  20.5 us  20.5 us

TARGET                       LUN  OPERATION  IOS  ERRORS    DATA   MEAN      P50      P99    P99.9      MAX
iqn.2026-11.io.polldm:disks    0  read        10       0  40 KiB  10 us  8.19 us  20.5 us  20.5 us  20.5 us

REACTOR    BUSY  POLLING  ASLEEP
      0  25.0 %    5.0 %  70.0 %
";
        assert_eq!(text(&stats), expected);
    }

    #[test]
    fn a_device_that_did_nothing_has_a_row_all_the_same() {
        let rows = rows(&["vol9".into()], &[]);
        assert_eq!(
            (rows.len(), rows[0].len()),
            (1, 1 + OPERATION_COLUMNS.len())
        );
    }
}
