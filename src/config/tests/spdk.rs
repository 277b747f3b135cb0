//! What only SPDK has, and what each engine cannot do.

use super::read;
use crate::bdev::{NvmeAddress, SpdkSpec};
use crate::config::{BdevKind, parse_bdev};

/// The message and the help of a refused entry of `bdevs:`.
fn refused(entry: &str) -> (String, String) {
    let error = parse_bdev("t", entry, None).expect_err("refused");
    (
        error.message().into(),
        error.help().unwrap_or_default().into(),
    )
}

#[test]
fn a_controller_is_in_one_place() {
    for (entry, message) in [
        (
            "nvme: { name: a }",
            "where the controller is, is not written",
        ),
        (
            "nvme: { name: a, tcp: \"127.0.0.1:4420\", nqn: n, pcie: \"0000:01:00.0\" }",
            "a controller is in one place only",
        ),
        (
            "nvme: { name: a, tcp: \"127.0.0.1:4420\" }",
            "the subsystem of this target is not named",
        ),
        (
            "nvme: { name: a, tcp: \"127.0.0.1:0\", nqn: n }",
            "nobody listens on port 0",
        ),
        (
            "nvme: { name: a, pcie: \"0000:01:00.0\", nqn: n }",
            "`nqn` has a meaning with `tcp` only",
        ),
        (
            "nvme: { name: a, pcie: \"01:00.0\" }",
            "`01:00.0` is no address on the PCI bus",
        ),
        (
            "nvme: { name: a, pcie: \"0000:01.00:0\" }",
            "`0000:01.00:0` is no address on the PCI bus",
        ),
        (
            "nvme: { name: a, pcie: \"0000:01:00.0\", nsid: 0 }",
            "0 is no namespace",
        ),
    ] {
        assert_eq!(refused(entry).0, message, "{entry}");
    }
}

#[test]
fn an_entry_of_spdk_reads_as_it_was_told() {
    for (entry, spec) in [
        (
            "nvme: { name: a, tcp: \"[::1]:4420\", nqn: n, nsid: 7 }",
            SpdkSpec::Nvme {
                at: NvmeAddress::Tcp("[::1]:4420".parse().expect("an address"), "n".into()),
                nsid: 7,
            },
        ),
        (
            "nvme: { name: a, pcie: \"0000:0A:00.0\" }",
            SpdkSpec::Nvme {
                at: NvmeAddress::Pcie("0000:0a:00.0".into()),
                nsid: 1,
            },
        ),
        (
            "nvme: { name: a, vfio_user: /run/x }",
            SpdkSpec::Nvme {
                at: NvmeAddress::VfioUser("/run/x".into()),
                nsid: 1,
            },
        ),
        (
            "spdk-json: { name: a, bdev: Raid0, config: /etc/raid.json }",
            SpdkSpec::Json {
                config: Some("/etc/raid.json".into()),
                bdev: "Raid0".into(),
                volatile_cache: None,
            },
        ),
        (
            "spdk-json: { name: a, bdev: lvs/a, volatile_cache: false }",
            SpdkSpec::Json {
                config: None,
                bdev: "lvs/a".into(),
                volatile_cache: Some(false),
            },
        ),
    ] {
        let plan = parse_bdev("t", entry, None).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(plan.kind, BdevKind::Spdk(spec));
        let told = plan.entry().expect("UTF-8").to_string();
        let again = parse_bdev("t", &told, None).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(again.kind, plan.kind);
    }
}

#[test]
fn the_native_engine_has_no_bdevs_of_spdk() {
    for entry in [
        "spdk-json: { name: a, bdev: b }",
        "nvme: { name: a, pcie: \"0000:01:00.0\" }",
    ] {
        let error = read(format!("bdevs: [ {entry} ]")).expect_err("refused");
        assert_eq!(error.message(), "bdev `a` is of a kind that only SPDK has");
        assert!(
            error
                .help()
                .is_some_and(|help| help.contains("`nvme` with `device`"))
        );
    }
}

#[test]
fn memory_is_whole_hugepages() {
    let plan = read("spdk: { memory: 1GiB, hugepages: off }").expect("valid");
    assert_eq!(
        (plan.spdk.memory_mib, plan.spdk.hugepages),
        (Some(1024), false)
    );
    for memory in ["1MiB", "3MiB", "2097153", "16EiB"] {
        read(format!("spdk: {{ memory: {memory} }}")).expect_err(memory);
    }
}

#[cfg(feature = "spdk")]
#[test]
fn what_spdk_cannot_do() {
    let export = "exports: { nvmf: { listeners: [\"127.0.0.1:0\"], subsystems: [] } }";
    let iscsi = |portal, target| {
        format!(
            "exports: {{ iscsi: {{ portals: [\"{portal}\"], targets: [ {target} ] }} }}\n\
             bdevs: [ null: {{ name: n, size: 1MiB }} ]\n\
             devices: [ {{ name: v, table: \"0 8 linear n 0\" }} ]"
        )
    };
    let no_unit_0 = "{ iqn: iqn.2026-11.a:b, initiators: any, luns: [ { lun: 1, device: v } ] }";
    let unit_0 = no_unit_0.replace("lun: 1", "lun: 0");
    let target = |key, unit| {
        format!(
            "{{ iqn: iqn.2026-11.a:b, initiators: any, {key} luns: [ {{ lun: 0, device: v, {unit} }} ] }}"
        )
    };
    let names: Vec<String> = (0..257).map(|n| format!("iqn.2026-11.a:{n}")).collect();
    let many = format!(
        "{{ iqn: iqn.2026-11.a:b, initiators: [{}], luns: [ {{ lun: 0, device: v }} ] }}",
        names.join(", ")
    );
    for (text, message) in [
        (
            "reactors: { cores: [0], count: 2 }",
            "SPDK has one reactor per CPU, and there are more reactors than CPUs",
        ),
        (
            "bdevs: [ file: { name: a, path: /x, direct: off } ]",
            "`direct: off` is the native engine's: SPDK's aio always goes past the page cache",
        ),
        (
            "bdevs: [ nvme: { name: a, device: /dev/ng0n1 } ]",
            "`device` of `nvme` is the native engine's: it is a namespace that the kernel drives",
        ),
        (
            export,
            "SPDK does not say which port it was given for port 0",
        ),
        (
            &iscsi("127.0.0.1:0", ""),
            "SPDK does not say which port it was given for port 0",
        ),
        (
            &iscsi("127.0.0.1:3260", no_unit_0),
            "SPDK's iSCSI target has no targets without a unit 0",
        ),
        (
            &iscsi("127.0.0.1:3260", &unit_0).replace(
                "exports: {",
                "exports: { nvmf: { listeners: [ \"127.0.0.1:4420\" ], subsystems: [ { nqn: nqn.2026-11.a:b, hosts: any, namespaces: [ { nsid: 1, device: v } ] } ] },",
            ),
            "SPDK cannot export `v` over NVMe-oF and over iSCSI at once",
        ),
        (
            &iscsi("127.0.0.1:3260", &many),
            "SPDK's iSCSI target takes at most 256 names of initiators",
        ),
        (
            &iscsi(
                "127.0.0.1:3260",
                &target("redirect: { address: \"192.0.2.8:3260\" },", ""),
            ),
            "polldm redirects no initiators on the SPDK engine",
        ),
        (
            &iscsi(
                "127.0.0.1:3260",
                &target("portal_groups: [ { tag: 1, alua: standby } ],", ""),
            ),
            "SPDK's iSCSI target has one ALUA state, optimized",
        ),
        (
            &iscsi(
                "127.0.0.1:3260",
                &target("", "initiators: [ 192.0.2.0/24 ]"),
            ),
            "SPDK's iSCSI target shows a target's units to all that may log in",
        ),
        (
            &iscsi(
                "127.0.0.1:3260",
                "{ iqn: iqn.2026-11.a:b, initiators: [ 'iqn.2026-11.a:*' ], luns: [ { lun: 0, device: v } ] }",
            ),
            "SPDK's iSCSI target has no rules such as `iqn.2026-11.a:*`",
        ),
    ] {
        read(text).unwrap_or_else(|error| panic!("the native engine can: {error}"));
        let error = read(format!("engine: spdk\n{text}")).expect_err(message);
        assert_eq!(error.message(), message);
    }
}
