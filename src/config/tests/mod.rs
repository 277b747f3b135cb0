//! The configuration as an operator meets it: the files in `conf/`, what good ones mean, what is said about bad ones.

mod hostile;
mod one_bdev;
mod refusals;
mod schema;
mod spdk;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::dm::TableError;

/// A process that is the same on every machine.
fn process() -> Process {
    Process {
        cpus: vec![0, 1, 2, 3, 6],
        user_id: 1000,
        runtime_directory: Some(PathBuf::from("/run/user/1000")),
    }
}

fn read(bytes: impl AsRef<[u8]>) -> Result<Plan, Error> {
    let process = process();
    let surroundings = Surroundings {
        process: &process,
        directory: Some(Path::new("/etc/polldm")),
        engine: None,
    };
    parse_bytes("t.yaml", bytes.as_ref(), &surroundings)
}

/// The names and texts of every example.
fn examples() -> Vec<(PathBuf, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let mut examples: Vec<(PathBuf, String)> = std::fs::read_dir(directory)
        .expect("conf/ is there")
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("an example can be read");
            (path, text)
        })
        .collect();
    examples.sort();
    assert!(examples.len() >= 3, "{examples:?}");
    examples
}

#[test]
fn every_example_is_a_valid_configuration() {
    for (path, _) in examples() {
        let loaded = load(&path);
        if path.ends_with("spdk.yaml") && !cfg!(feature = "spdk") {
            let error = loaded.expect_err("there is no SPDK engine here");
            assert_eq!(error.message(), "this build of polldm has no SPDK engine");
            continue;
        }
        let plan = loaded.unwrap_or_else(|error| panic!("{error}"));
        assert!(
            plan.nvmf.is_some_and(|nvmf| !nvmf.subsystems.is_empty())
                || plan.iscsi.is_some_and(|iscsi| !iscsi.targets.is_empty()),
            "{path:?}"
        );
    }
}

#[test]
fn the_quickstart_needs_nothing_on_disk_and_only_the_loopback() {
    let (_, text) = examples()
        .into_iter()
        .find(|(path, _)| path.ends_with("quickstart.yaml"))
        .expect("the README's first command");
    let plan = read(&text).expect("valid");
    assert!(
        plan.bdevs
            .iter()
            .all(|bdev| matches!(bdev.kind, BdevKind::Malloc { .. }))
    );
    assert_eq!(plan.devices.len(), 2);
    let nvmf = plan.nvmf.expect("an export");
    assert_eq!(nvmf.listeners[0].value.to_string(), "127.0.0.1:4420");
    assert_eq!(nvmf.subsystems[0].namespaces.len(), 2);
}

#[test]
fn what_is_left_out_has_its_default() {
    let plan = read(
        "bdevs:
  - malloc: { name: m, size: 1MiB }
  - file: { name: f, path: disk.img }
devices: [ { name: d, table: 0 8 linear f 0 } ]
exports: { nvmf: { listeners: [ '[::1]:0', '[::1]:0' ], subsystems: [
  { nqn: 'nqn.2026-11.io:x', hosts: any, namespaces: [ { nsid: 7, device: d } ] } ] } }",
    )
    .expect("valid");
    assert_eq!(plan.reactors.cpus, [0, 1, 2, 3, 6]);
    let spin = Duration::from_micros(100);
    assert_eq!(plan.reactors.poll, PollPlan::Adaptive { spin });
    assert_eq!(plan.control_socket, Path::new("/run/user/1000/polldm.sock"));
    assert_eq!(plan.metrics, None);
    assert_eq!(plan.bdev("m").and_then(BdevPlan::sectors), Some(2048));
    assert_eq!(plan.bdevs[0].block_size, 512);
    assert_eq!(
        plan.bdevs[0].kind,
        BdevKind::Malloc {
            volatile_cache: false,
            atomic_writes: false,
        }
    );
    let BdevKind::File(file) = &plan.bdevs[1].kind else {
        panic!("{:?}", plan.bdevs[1]);
    };
    assert_eq!(
        file.path.value,
        Path::new("/etc/polldm/disk.img"),
        "relative to the file"
    );
    assert_eq!((file.direct, file.read_only), (Direct::Auto, false));
    assert_eq!(plan.bdevs[1].sectors(), None);
    let device = &plan.devices[0];
    assert_eq!(
        (device.flush, device.read_only),
        (FlushPolicy::Relaxed, false)
    );
    assert_eq!((device.sectors, device.block_size), (8, 512));
    assert_eq!(device.parked_limit, None);
    let nvmf = plan.nvmf.expect("an export");
    let subsystem = &nvmf.subsystems[0];
    assert_eq!(subsystem.model, "polldm");
    assert_eq!(subsystem.serial.len(), 16);
    assert_eq!(subsystem.hosts, HostsPlan::Any);
    assert_eq!(subsystem.ana, AnaState::Optimized);
    assert_eq!(nvmf.listeners.len(), 2, "port 0 may be asked for twice");
    assert_eq!(subsystem.namespaces[0].nsid, 7);
    assert_eq!(
        subsystem.namespaces[0].uuid,
        Uuid::derived("nqn.2026-11.io:x", "d")
    );
}

#[test]
fn a_subsystem_starts_in_the_ana_state_that_is_written() {
    let plan = read(
        "exports: { nvmf: { listeners: [ '127.0.0.1:0' ], subsystems: [
  { nqn: 'nqn.2026-11.io:x', hosts: any, ana: non-optimized, namespaces: [] },
  { nqn: 'nqn.2026-11.io:y', hosts: any, ana: persistent-loss, namespaces: [] } ] } }",
    );
    let nvmf = plan.expect("valid").nvmf.expect("an export");
    let states = nvmf.subsystems.iter().map(|subsystem| subsystem.ana);
    assert_eq!(
        states.collect::<Vec<_>>(),
        [AnaState::NonOptimized, AnaState::PersistentLoss]
    );
}

#[test]
fn parked_io_may_have_a_time_limit() {
    let limit = |text: &str| {
        read(format!(
            "devices: [ {{ name: d, parked_limit: {text}, table: 0 8 zero }} ]"
        ))
    };
    assert_eq!(
        limit("30s").expect("valid").devices[0].parked_limit,
        Some(Duration::from_secs(30))
    );
    for (text, why) in [("30", "no unit"), ("soon", "not a span"), ("0s", "no use")] {
        let error = limit(text).expect_err(text).to_string();
        assert!(error.contains(why), "{error}");
        assert!(error.contains("t.yaml:1:37"), "{error}");
    }
}

#[test]
fn what_the_plan_allows_the_target_allows() {
    use crate::export::nvmf::config as target;
    assert_eq!(LISTENERS_MAX, target::LISTENERS_MAX);
    assert_eq!(SUBSYSTEMS_MAX, target::SUBSYSTEMS_MAX);
    assert_eq!(NSID_MAX, target::NAMESPACES_MAX);
    let subsystem =
        |index| format!("{{ nqn: 'nqn.2026-11.io:{index}', hosts: any, namespaces: [] }}");
    let with = |count: usize| {
        let subsystems: Vec<String> = (0..count).map(subsystem).collect();
        let subsystems = subsystems.join(",\n");
        read(format!(
            "exports: {{ nvmf: {{ listeners: [ '127.0.0.1:0' ], subsystems: [\n{subsystems} ] }} }}"
        ))
    };
    let most = with(SUBSYSTEMS_MAX)
        .expect("valid")
        .nvmf
        .expect("an export");
    assert_eq!(most.subsystems.len(), SUBSYSTEMS_MAX);
    let error = with(SUBSYSTEMS_MAX + 1).expect_err("one too many");
    assert_eq!(error.message(), "too many subsystems");
    assert_eq!(error.position().map(|(line, _)| line), Some(258));
}

#[test]
fn reactors_share_cpus_in_turn_when_there_are_more_of_them() {
    let plan = read("reactors: { cores: '1-2', count: 5, poll: busy }").expect("valid");
    assert_eq!(plan.reactors.cpus, [1, 2, 1, 2, 1]);
    assert_eq!(plan.reactors.poll, PollPlan::Busy);
    let plan = read("reactors: { cores: [6, 0], count: 1 }").expect("valid");
    assert_eq!(plan.reactors.cpus, [6]);
}

#[test]
fn a_table_takes_the_largest_block_size_of_its_bdevs() {
    let plan = read(
        "bdevs: [ { null: { name: a, size: 1GiB } }, { null: { name: b, size: 1GiB, block_size: 4KiB } } ]
devices: [ { name: d, table: \"0 8 linear a 24\\n8 16 striped 1 8 b 16\\n\" } ]",
    )
    .expect("valid");
    assert_eq!(
        (plan.devices[0].block_size, plan.devices[0].sectors),
        (4096, 24)
    );
}

#[test]
fn lc_10_devices_come_after_those_that_their_tables_name() {
    let plan = read(
        "bdevs: [ { file: { name: a, path: p, block_size: 4KiB } } ]
devices:
  - { name: top, table: 0 16 striped 2 8 left 0 right 0, read_only: true }
  - { name: alone, table: 0 1 zero }
  - { name: right, table: 0 8 linear base 8 }
  - { name: left, table: 0 8 linear base 0, read_only: true }
  - { name: base, table: 0 16 linear a 0 }
exports: { nvmf: { listeners: [ '[::1]:0' ], subsystems: [
  { nqn: 'nqn.2026-11.io:x', hosts: any, namespaces: [ { nsid: 1, device: alone }, { nsid: 2, device: top } ] } ] } }",
    )
    .expect("valid");
    let names: Vec<_> = plan.devices.iter().map(|d| d.name.value.as_str()).collect();
    assert_eq!(names, ["base", "left", "right", "top", "alone"]);
    let blocks: Vec<_> = plan.devices.iter().map(|d| d.block_size).collect();
    assert_eq!(blocks, [4096, 4096, 4096, 4096, 512]);
    let namespaces = &plan.nvmf.expect("an export").subsystems[0].namespaces;
    assert_eq!((namespaces[0].device, namespaces[1].device), (4, 3));
}

#[test]
fn devices_are_stacked_up_to_a_limit_in_whatever_order_they_are_written() {
    const DEPTH_MAX: usize = 16;
    let stack = |depth: usize, upwards: bool| {
        let device = |level: usize| match level {
            1 => "{ name: d1, table: 0 8 zero }".to_string(),
            _ => format!("{{ name: d{level}, table: 0 8 linear d{} 0 }}", level - 1),
        };
        let mut devices: Vec<_> = (1..=depth).map(device).collect();
        if !upwards {
            devices.reverse();
        }
        read(format!("devices:\n- {}", devices.join("\n- ")))
    };
    for upwards in [true, false] {
        let plan = stack(DEPTH_MAX, upwards).expect("as deep as can be");
        assert_eq!(plan.devices[DEPTH_MAX - 1].name.value, "d16");
        let error = stack(DEPTH_MAX + 1, upwards).expect_err("too deep");
        assert!(error.message().contains("too many devices"), "{error}");
        assert_eq!(error.help(), Some("at most 16 can be on top of each other"));
    }
    assert!(stack(100_000, false).is_err());
}

#[test]
fn a_later_error_is_shown_at_the_place_the_plan_kept() {
    let text = "bdevs: [ { malloc: { name: a, size: 1MiB } } ]
devices:
  - name: d
    table: |
      # comment

      0 8 linear a 0
";
    let plan = read(text).expect("valid");
    let error = |line, bytes, help: Option<&str>| TableError {
        line,
        target: None,
        bytes,
        reason: "not today".into(),
        help: help.map(Into::into),
    };
    let words = plan.table_error(&plan.devices[0], error(3, Some(4..10), Some("tomorrow")));
    assert_eq!(
        words.to_string(),
        "error: not today\n --> t.yaml:7:11\n  |\n7 |       0 8 linear a 0\n  |           ^^^^^^\n  |\n  = help: tomorrow"
    );
    let missing = plan.table_error(&plan.devices[0], error(3, Some(14..14), None));
    assert_eq!(
        missing.to_string(),
        "error: not today\n --> t.yaml:7:21\n  |\n7 |       0 8 linear a 0\n  |                     ^"
    );
    let whole_table = plan.table_error(&plan.devices[0], error(0, None, None));
    assert_eq!(whole_table.position(), Some((5, 7)));
    let bdev = plan.error_at(plan.bdevs[0].name.span, "in use", None);
    assert_eq!(
        (bdev.position(), bdev.message(), bdev.help()),
        (Some((1, 28)), "in use", None)
    );
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_shift_nothing() {
    let error = read("\u{feff}bdevs: []\r\ndevices:\r\n  - name: d\r\n    table: |\r\n      0 8 zero\r\n      9 8 zero\r\n")
        .expect_err("a gap");
    assert_eq!(error.position(), Some((6, 7)), "{error}");
    assert_eq!(
        read("\u{feff}bdevz: []").expect_err("a slip").position(),
        Some((1, 1))
    );
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let missing = load(&directory.path().join("none.yaml")).expect_err("not there");
    assert!(
        missing
            .message()
            .starts_with("cannot read the configuration: No such file"),
        "{missing}"
    );
    assert!(missing.to_string().contains("none.yaml"), "{missing}");
    assert_eq!(missing.position(), None);
    let is_directory = load(directory.path()).expect_err("a directory");
    assert!(
        is_directory.message().contains("directory"),
        "{is_directory}"
    );
    let endless = load(Path::new("/dev/zero")).expect_err("has no end");
    assert_eq!(endless.message(), "the configuration is larger than 4MiB");
}

/// Secrets are found beside the configuration, for each target and for discovery; the file is the node's to read.
#[test]
fn iscsi_secrets_are_beside_the_configuration() {
    let text = |chap: &str, discovery: &str| {
        format!(
            "bdevs: [ {{ malloc: {{ name: m, size: 1MiB }} }} ]
devices: [ {{ name: d, table: 0 8 linear m 0 }} ]
exports: {{ iscsi: {{ portals: [ '[::1]:0' ], {discovery} targets: [
  {{ iqn: 'iqn.2026-11.io:x', initiators: any, {chap} luns: [ {{ lun: 0, device: d }} ] }} ] }} }}"
        )
    };
    let plan = |chap, discovery| read(text(chap, discovery)).expect("valid").iscsi;
    let iscsi = plan("", "").expect("an export");
    assert_eq!((&iscsi.discovery, &iscsi.targets[0].chap), (&None, &None));
    let iscsi = plan(
        "chap: { secrets: secrets/chap, mutual: true },",
        "discovery: { chap: { secrets: /chap } },",
    );
    let iscsi = iscsi.expect("an export");
    let discovery = iscsi.discovery.expect("asks");
    assert_eq!(discovery.secrets.value, Path::new("/chap"));
    assert!(!discovery.mutual);
    let target = iscsi.targets[0].chap.as_ref().expect("asks");
    assert_eq!(target.secrets.value, Path::new("/etc/polldm/secrets/chap"));
    assert!(target.mutual);
    assert!(read(text("chap: { mutual: true },", "")).is_err());
}

/// Portal groups, units for some, redirection: what is written is meant, and what cannot be is refused.
#[test]
fn iscsi_ways_in_and_who_takes_them() {
    let text = |export: &str, target: &str, unit: &str| {
        format!(
            "bdevs: [ {{ malloc: {{ name: m, size: 1MiB }} }} ]
devices: [ {{ name: d, table: 0 8 linear m 0 }} ]
exports: {{ iscsi: {{ {export} targets: [
  {{ iqn: 'iqn.2026-11.io:x', initiators: [ '192.0.2.0/24', 'iqn.*:*@2001:db8::/32' ], {target}
     luns: [ {{ lun: 0, device: d, {unit} }} ] }} ] }} }}"
        )
    };
    const TWO: &str =
        "portals: [ '127.0.0.1:0' ], portal_groups: [ { tag: 7, portals: [ '127.0.0.1:0' ] } ],";
    let plan = |export, target, unit| read(text(export, target, unit)).map(|plan| plan.iscsi);
    let iscsi = plan(TWO, "", "").expect("valid").expect("an export");
    assert_eq!(iscsi.tags, [1, 7]);
    assert_eq!(iscsi.keep_alive, Duration::from_secs(15));
    let target = &iscsi.targets[0];
    let optimized = AluaState::Optimized;
    assert_eq!(target.groups, [(1, optimized), (7, optimized)]);
    assert_eq!(target.redirect, None);
    assert_eq!(target.luns[0].initiators, HostsPlan::Any);
    let target = "portal_groups: [ { tag: 7, alua: standby } ], redirect: { address: '192.0.2.8:3260', permanent: true },";
    let alone = "keep_alive: 1min, portal_groups: [ { tag: 7, portals: [ '127.0.0.1:0' ] } ],";
    let iscsi = plan(alone, target, "initiators: [ 192.0.2.7 ]")
        .expect("valid")
        .expect("an export");
    assert_eq!(iscsi.keep_alive, Duration::from_secs(60));
    let target = &iscsi.targets[0];
    assert_eq!(target.groups, [(7, AluaState::Standby)]);
    let address = "192.0.2.8:3260".parse().expect("an address");
    assert_eq!(target.redirect, Some((address, true)));
    assert_eq!(
        target.luns[0].initiators,
        HostsPlan::List(vec!["192.0.2.7".into()])
    );
    for (export, target, unit, message) in [
        (
            "",
            "",
            "",
            "`iscsi` has neither `portals` nor `portal_groups`",
        ),
        (
            "portals: [],",
            "",
            "",
            "no initiator could reach this target",
        ),
        (
            "portals: [ '127.0.0.1:0' ], portal_groups: [ { tag: 1, portals: [ '127.0.0.1:0' ] } ],",
            "",
            "",
            "a second portal group 1",
        ),
        (
            "portal_groups: [ { tag: 0, portals: [ '127.0.0.1:0' ] } ],",
            "",
            "",
            "0 is not the tag of a portal group",
        ),
        (
            "portal_groups: [ { tag: 2, portals: [] } ],",
            "",
            "",
            "a portal group without an address",
        ),
        (
            TWO,
            "portal_groups: [ { tag: 2 } ],",
            "",
            "there is no portal group 2",
        ),
        (
            TWO,
            "portal_groups: [ { tag: 7 }, { tag: 7 } ],",
            "",
            "portal group 7 is listed twice",
        ),
        (
            TWO,
            "portal_groups: [],",
            "",
            "no initiator could reach this target",
        ),
        (
            TWO,
            "redirect: { address: '0.0.0.0:3260' },",
            "",
            "initiators cannot connect to this",
        ),
        (
            TWO,
            "",
            "initiators: [ '192.0.2.7/24' ]",
            "the address has bits beyond the first 24; the network is 192.0.2.0/24",
        ),
        (
            "portals: [ '127.0.0.1:0' ], keep_alive: 10ms,",
            "",
            "",
            "initiators cannot be asked in such a rhythm",
        ),
    ] {
        let error = plan(export, target, unit).expect_err(message);
        assert_eq!(error.message(), message);
    }
}
