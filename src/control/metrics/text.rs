//! Prometheus' text format, version 0.0.4: families of samples, each with its help and type.

use std::fmt::Write;

use crate::control::schema::{
    DeviceInfo, IscsiEvents, IscsiStats, Latency, NvmfEvents, NvmfStats, OperationStats,
    StatsResult,
};

/// Bounds of the latency buckets in nanoseconds: doublings of 5.12 us up to 1.34 s, with one more between two up to 1.8 ms,
/// where devices of today are. Each is a bucket bound of [`crate::dm::Histogram`] too, so nothing is attributed wrongly.
const BOUNDS_NS: [u64; 28] = bounds();
/// Doublings from the first bound to the last.
const DOUBLINGS: usize = 19;
/// The first of them that have one more bound between two.
const FINE_DOUBLINGS: usize = 9;

const fn bounds() -> [u64; 28] {
    let mut bounds = [0; 28];
    let (mut doubling, mut index) = (0, 0);
    while doubling < DOUBLINGS {
        bounds[index] = 5_120 << doubling;
        index += 1;
        if doubling < FINE_DOUBLINGS {
            bounds[index] = 7_168 << doubling;
            index += 1;
        }
        doubling += 1;
    }
    assert!(index == bounds.len());
    bounds
}

/// What a family's samples are.
#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A text that grows family by family.
#[derive(Default)]
struct Exposition {
    text: String,
}

impl Exposition {
    fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
            .collect();
        if labels.is_empty() {
            self.line(format_args!("{name} {value}"));
        } else {
            self.line(format_args!("{name}{{{}}} {value}", labels.join(",")));
        }
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], latency: &Latency) {
        let bucket = format!("{name}_bucket");
        let mut source = latency.buckets.iter().peekable();
        let mut count = 0;
        for bound in BOUNDS_NS {
            while let Some(next) =
                source.next_if(|next| next.upper_ns.is_some_and(|upper| upper <= bound))
            {
                count += next.count;
            }
            let le = seconds(bound);
            self.sample(&bucket, &[labels, &[("le", &le)]].concat(), count);
        }
        self.sample(
            &bucket,
            &[labels, &[("le", "+Inf")]].concat(),
            latency.count,
        );
        self.sample(&format!("{name}_sum"), labels, seconds(latency.sum_ns));
        self.sample(&format!("{name}_count"), labels, latency.count);
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{line}");
    }
}

/// Nanoseconds as seconds, exactly.
fn seconds(ns: u64) -> String {
    let text = format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// Operations of one device, namespace or unit, with its labels.
struct Operations<'a> {
    labels: Vec<(&'a str, &'a str)>,
    operations: &'a [OperationStats],
}

/// The four families that devices, namespaces and units have in common.
fn operations(out: &mut Exposition, prefix: &str, what: &str, all: &[Operations<'_>]) {
    type Count = fn(&OperationStats) -> u64;
    let counters: [(&str, &str, Count); 3] = [
        ("ios_total", "Completed I/Os", |one| one.ios),
        ("errors_total", "I/Os completed with an error", |one| {
            one.errors
        }),
        (
            "bytes_total",
            "Bytes of I/Os completed without an error",
            |one| one.bytes,
        ),
    ];
    for (suffix, help, count) in counters {
        let name = format!("polldm_{prefix}_{suffix}");
        out.family(
            &name,
            Kind::Counter,
            &format!("{help}, per {what} and operation."),
        );
        for Operations { labels, operations } in all {
            for one in *operations {
                out.sample(
                    &name,
                    &[labels, &[("operation", one.operation.as_str())][..]].concat(),
                    count(one),
                );
            }
        }
    }
    let name = format!("polldm_{prefix}_latency_seconds");
    out.family(
        &name,
        Kind::Histogram,
        &format!("Time from submission to completion, per {what} and operation."),
    );
    for Operations { labels, operations } in all {
        for one in *operations {
            out.histogram(
                &name,
                &[labels, &[("operation", one.operation.as_str())][..]].concat(),
                &one.latency,
            );
        }
    }
}

fn nvmf(out: &mut Exposition, connections: u64, events: NvmfEvents) {
    let name = "polldm_nvmf_connections";
    out.family(name, Kind::Gauge, "Connections of the NVMe/TCP target.");
    out.sample(name, &[], connections);
    for (name, help, count) in [
        (
            "polldm_nvmf_accepted_total",
            "Connections accepted.",
            events.accepted,
        ),
        (
            "polldm_nvmf_refused_total",
            "Connections refused because there were too many.",
            events.refused,
        ),
        (
            "polldm_nvmf_violations_total",
            "Connections ended because the host broke the protocol.",
            events.violations,
        ),
        (
            "polldm_nvmf_keep_alive_expired_total",
            "Controllers lost to their keep-alive timer.",
            events.keep_alive_expired,
        ),
    ] {
        out.family(name, Kind::Counter, help);
        out.sample(name, &[], count);
    }
}

fn iscsi(out: &mut Exposition, connections: u64, events: IscsiEvents) {
    let name = "polldm_iscsi_connections";
    out.family(name, Kind::Gauge, "Connections of the iSCSI target.");
    out.sample(name, &[], connections);
    for (name, help, count) in [
        (
            "polldm_iscsi_accepted_total",
            "Connections accepted.",
            events.accepted,
        ),
        (
            "polldm_iscsi_refused_total",
            "Connections refused because there were too many.",
            events.refused,
        ),
        (
            "polldm_iscsi_violations_total",
            "Connections ended because the initiator broke the protocol.",
            events.violations,
        ),
        (
            "polldm_iscsi_logins_refused_total",
            "Logins refused.",
            events.logins_refused,
        ),
    ] {
        out.family(name, Kind::Counter, help);
        out.sample(name, &[], count);
    }
}

/// The whole text.
pub fn exposition(infos: &[DeviceInfo], stats: &StatsResult) -> String {
    let mut out = Exposition::default();
    out.family(
        "polldm_build_info",
        Kind::Gauge,
        "Always 1; the label tells which polldm this is.",
    );
    out.sample(
        "polldm_build_info",
        &[("version", env!("CARGO_PKG_VERSION"))],
        1,
    );

    let devices = stats.devices.iter().map(|device| Operations {
        labels: vec![("device", device.name.as_str())],
        operations: &device.operations,
    });
    operations(
        &mut out,
        "device",
        "mapped device",
        &devices.collect::<Vec<_>>(),
    );
    let nsids: Vec<String> = stats
        .namespaces
        .iter()
        .map(|namespace| namespace.nsid.to_string())
        .collect();
    let namespaces = stats
        .namespaces
        .iter()
        .zip(&nsids)
        .map(|(namespace, nsid)| Operations {
            labels: vec![
                ("nqn", namespace.nqn.as_str()),
                ("nsid", nsid.as_str()),
                ("device", namespace.device.as_str()),
            ],
            operations: &namespace.operations,
        });
    operations(
        &mut out,
        "namespace",
        "namespace",
        &namespaces.collect::<Vec<_>>(),
    );

    let luns: Vec<String> = stats
        .units
        .iter()
        .map(|unit| unit.lun.to_string())
        .collect();
    let units = stats.units.iter().zip(&luns).map(|(unit, lun)| Operations {
        labels: vec![
            ("iqn", unit.iqn.as_str()),
            ("lun", lun.as_str()),
            ("device", unit.device.as_str()),
        ],
        operations: &unit.operations,
    });
    operations(&mut out, "unit", "logical unit", &units.collect::<Vec<_>>());

    let numbers: Vec<String> = stats
        .sessions
        .iter()
        .map(|one| one.session.to_string())
        .collect();
    let sessions = stats.sessions.iter().zip(&numbers);
    let sessions = sessions.map(|(one, session)| Operations {
        labels: vec![
            ("iqn", one.iqn.as_str()),
            ("initiator", one.initiator.as_str()),
            ("session", session.as_str()),
        ],
        operations: &one.operations,
    });
    operations(
        &mut out,
        "session",
        "iSCSI session",
        &sessions.collect::<Vec<_>>(),
    );

    let name = "polldm_device_in_flight";
    out.family(
        name,
        Kind::Gauge,
        "I/Os admitted and not completed yet, per mapped device.",
    );
    stats
        .devices
        .iter()
        .for_each(|device| out.sample(name, &[("device", &device.name)], device.in_flight));
    let name = "polldm_device_parked";
    out.family(
        name,
        Kind::Gauge,
        "I/Os that wait for the device to be resumed or for a flush to end.",
    );
    stats
        .devices
        .iter()
        .for_each(|device| out.sample(name, &[("device", &device.name)], device.parked));
    let name = "polldm_device_backpressure_total";
    out.family(
        name,
        Kind::Counter,
        "Pieces of I/O that a backing device had no room for when they came.",
    );
    stats
        .devices
        .iter()
        .for_each(|device| out.sample(name, &[("device", &device.name)], device.busy));
    let name = "polldm_device_held";
    out.family(
        name,
        Kind::Gauge,
        "Pieces of I/O that targets hold back, until a path or a resource is there.",
    );
    stats
        .devices
        .iter()
        .for_each(|device| out.sample(name, &[("device", &device.name)], device.held));
    let name = "polldm_device_pushed_back_total";
    out.family(
        name,
        Kind::Counter,
        "I/Os that a suspend with noflush kept for later.",
    );
    stats
        .devices
        .iter()
        .for_each(|device| out.sample(name, &[("device", &device.name)], device.pushed_back));
    let name = "polldm_device_suspended";
    out.family(name, Kind::Gauge, "1 while the mapped device is suspended.");
    infos
        .iter()
        .for_each(|info| out.sample(name, &[("device", &info.name)], u8::from(info.suspended)));
    let name = "polldm_device_size_bytes";
    out.family(name, Kind::Gauge, "Size of the mapped device.");
    infos.iter().for_each(|info| {
        out.sample(
            name,
            &[("device", &info.name)],
            u128::from(info.sectors) * 512,
        )
    });

    type Nanoseconds = fn(&crate::control::schema::ReactorStats) -> u64;
    let times: [(&str, &str, Nanoseconds); 2] = [
        (
            "polldm_reactor_busy_seconds_total",
            "Time in turns in which something was done.",
            |one| one.busy_ns,
        ),
        (
            "polldm_reactor_sleep_seconds_total",
            "Time asleep; what is neither was spent polling.",
            |one| one.asleep_ns,
        ),
    ];
    for (name, help, time) in times {
        out.family(name, Kind::Counter, help);
        for one in &stats.reactors {
            out.sample(
                name,
                &[("reactor", &one.reactor.to_string())],
                seconds(time(one)),
            );
        }
    }
    if let Some(NvmfStats {
        connections,
        events,
    }) = stats.nvmf
    {
        nvmf(&mut out, connections, events);
    }
    if let Some(IscsiStats {
        connections,
        events,
    }) = stats.iscsi
    {
        iscsi(&mut out, connections, events);
    }
    out.text
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};
    use std::sync::Arc;

    use super::*;
    use crate::control::Service;
    use crate::control::fake::Fake;
    use crate::control::schema::LatencyBucket;

    /// One sample, taken apart as a scraper does.
    #[derive(Debug)]
    struct Sample {
        name: String,
        labels: BTreeMap<String, String>,
        value: f64,
    }

    fn is_name(name: &str) -> bool {
        let first = name.chars().next().is_some_and(|c| c.is_ascii_lowercase());
        first
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    }

    fn sample(line: &str) -> Sample {
        let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
        assert!(is_name(name), "{line}");
        let mut labels = BTreeMap::new();
        let mut rest = rest.strip_prefix('{').unwrap_or(rest);
        while !rest.starts_with(' ') {
            let (label, after) = rest.split_once("=\"").unwrap();
            assert!(is_name(label), "{line}");
            let mut value = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next().unwrap() {
                    (_, '\\') => value.push(match chars.next().unwrap().1 {
                        'n' => '\n',
                        c @ ('\\' | '"') => c,
                        other => panic!("{other} in {line}"),
                    }),
                    (at, '"') => break at,
                    (_, c) => value.push(c),
                }
            };
            assert!(
                labels.insert(label.to_owned(), value).is_none(),
                "twice the same label: {line}"
            );
            rest = &after[end + 1..];
            rest = rest
                .strip_prefix(',')
                .or_else(|| rest.strip_prefix('}'))
                .unwrap();
        }
        Sample {
            name: name.to_owned(),
            labels,
            value: rest.trim_start().parse().unwrap(),
        }
    }

    /// Checks a text line by line; its samples.
    fn check(text: &str) -> Vec<Sample> {
        let mut samples: Vec<Sample> = Vec::new();
        let mut families = HashSet::new();
        let mut family = (String::new(), String::new());
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                assert!(
                    is_name(name) && help.ends_with('.') && families.insert(name.to_owned()),
                    "{line}"
                );
                let (named, kind) = lines
                    .next()
                    .unwrap()
                    .strip_prefix("# TYPE ")
                    .unwrap()
                    .split_once(' ')
                    .unwrap();
                assert_eq!(named, name);
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                family = (name.to_owned(), kind.to_owned());
                continue;
            }
            let sample = sample(line);
            let suffix = sample
                .name
                .strip_prefix(&family.0)
                .unwrap_or_else(|| panic!("{line} outside its family"));
            let allowed: &[&str] = if family.1 == "histogram" {
                &["_bucket", "_sum", "_count"]
            } else {
                &[""]
            };
            assert!(allowed.contains(&suffix), "{line}");
            assert!(sample.value >= 0.0, "{line}");
            let same = |other: &&Sample| other.name == sample.name && other.labels == sample.labels;
            assert!(
                !samples.iter().any(|other| same(&other)),
                "twice the same series: {line}"
            );
            samples.push(sample);
        }
        assert!(text.ends_with('\n'));
        samples
    }

    fn find<'a>(samples: &'a [Sample], name: &str, labels: &[(&str, &str)]) -> Vec<&'a Sample> {
        let matches = |sample: &&Sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(label, value)| sample.labels.get(*label).is_some_and(|v| v == value))
        };
        samples.iter().filter(matches).collect()
    }

    #[test]
    fn every_line_is_valid_and_the_figures_are_those_of_the_node() {
        let text = Service::new(Arc::new(Fake::with_devices()))
            .metrics()
            .unwrap();
        let samples = check(&text);
        let read = [("device", "vol0"), ("operation", "read")];
        assert_eq!(
            find(&samples, "polldm_device_ios_total", &read)[0].value,
            5.0
        );
        assert_eq!(
            find(&samples, "polldm_device_bytes_total", &read)[0].value,
            16384.0
        );
        assert_eq!(
            find(&samples, "polldm_device_size_bytes", &[("device", "vol0")])[0].value,
            1_073_741_824.0
        );
        assert_eq!(find(&samples, "polldm_nvmf_connections", &[])[0].value, 2.0);
        assert_eq!(
            find(&samples, "polldm_nvmf_violations_total", &[])[0].value,
            2.0
        );
        assert_eq!(
            find(
                &samples,
                "polldm_reactor_busy_seconds_total",
                &[("reactor", "0")]
            )[0]
            .value,
            2.5
        );
        let namespace = [
            ("nsid", "1"),
            ("nqn", "nqn.2026-11.io.polldm:quickstart"),
            ("operation", "read"),
        ];
        assert_eq!(
            find(
                &samples,
                "polldm_namespace_latency_seconds_count",
                &namespace
            )[0]
            .value,
            10.0
        );
        let unit = [
            ("lun", "0"),
            ("iqn", "iqn.2026-11.io.polldm:disks"),
            ("operation", "read"),
        ];
        assert_eq!(
            find(&samples, "polldm_unit_ios_total", &unit)[0].value,
            10.0
        );
        assert_eq!(
            find(&samples, "polldm_iscsi_connections", &[])[0].value,
            1.0
        );
        let sum = find(&samples, "polldm_device_latency_seconds_sum", &read)[0].value;
        assert_eq!(sum, 0.002_053);
        let buckets = find(&samples, "polldm_device_latency_seconds_bucket", &read);
        assert_eq!(buckets.len(), BOUNDS_NS.len() + 1);
        assert!(
            buckets
                .windows(2)
                .all(|pair| pair[0].value <= pair[1].value),
            "buckets are cumulative"
        );
        let at = |le: &str| {
            find(
                &samples,
                "polldm_device_latency_seconds_bucket",
                &[read[0], read[1], ("le", le)],
            )[0]
            .value
        };
        // 4 us, 9 us, twice 20 us, 2 ms.
        assert_eq!(
            [
                at("0.00000512"),
                at("0.00001024"),
                at("0.00002048"),
                at("0.00262144"),
                at("+Inf")
            ],
            [1.0, 2.0, 4.0, 5.0, 5.0]
        );
    }

    #[test]
    fn hostile_names_are_escaped() {
        let mut stats = StatsResult::default();
        let name = "a\"b\\c\nd}";
        stats.devices.push(crate::control::schema::DeviceStats {
            name: name.into(),
            operations: Vec::new(),
            in_flight: 1,
            parked: 0,
            busy: 0,
            pushed_back: 0,
            held: 0,
        });
        let samples = check(&exposition(&[], &stats));
        assert_eq!(
            find(&samples, "polldm_device_in_flight", &[("device", name)]).len(),
            1
        );
    }

    #[test]
    fn bounds_fit_5_us_to_1_s_and_are_the_data_paths_own() {
        assert!((5_000..6_000).contains(&BOUNDS_NS[0]) && BOUNDS_NS[27] >= 1_000_000_000);
        let own: HashSet<u64> = (0..crate::dm::stats::BUCKETS)
            .filter_map(crate::dm::Histogram::bound_ns)
            .collect();
        assert!(BOUNDS_NS.iter().all(|bound| own.contains(bound)));
        assert!(BOUNDS_NS.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn what_has_no_bound_counts_in_infinity_only() {
        let mut latency = Latency {
            count: 3,
            ..Latency::default()
        };
        latency.buckets = vec![
            LatencyBucket {
                upper_ns: Some(1 << 40),
                count: 1,
            },
            LatencyBucket {
                upper_ns: None,
                count: 2,
            },
        ];
        let mut out = Exposition::default();
        out.family("polldm_x_seconds", Kind::Histogram, "X.");
        out.histogram("polldm_x_seconds", &[], &latency);
        let samples = check(&out.text);
        assert_eq!(
            samples.iter().filter(|sample| sample.value == 3.0).count(),
            2
        );
        assert_eq!(
            (
                seconds(0).as_str(),
                seconds(1).as_str(),
                seconds(10_000_000_000).as_str()
            ),
            ("0", "0.000000001", "10")
        );
    }
}
