//! What is wrong with a remote is said in one sentence: when a configuration is started, and by `bdev add`.

use super::processes::{NQN, Remote};

/// Where nobody listens, nor comes to: a port of another address than servers and clients are given without asking for one.
const NOBODY: &str = "127.77.0.3:1";

/// Every wrong word, by `bdev add` at a server, and in a configuration of its own.
#[test]
fn what_cannot_be_connected_is_refused_in_one_sentence() {
    let remote = Remote::with_memory();
    let front = Remote::with_memory();
    let address = remote.address.to_string();
    let other = "nqn.2026-11.io.polldm:other";
    for (address, nqn, nsid, words) in [
        (NOBODY, NQN, "1", "Connection refused"),
        (&address, other, "1", "the target has no subsystem"),
        (
            &address,
            NQN,
            "7",
            "there is no namespace 7; the subsystem has 1",
        ),
        ("no.such.host.invalid:4420", NQN, "1", "resolving"),
    ] {
        let output = front.ask(&[
            "bdev",
            "add",
            "nvme-tcp",
            "name=r0",
            &format!("address={address}"),
            &format!("nqn={nqn}"),
            &format!("nsid={nsid}"),
        ]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(words) && said.contains("(ENXIO)"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");

        let entry = format!(
            "{{ nvme-tcp: {{ name: r0, address: \"{address}\", nqn: \"{nqn}\", nsid: {nsid} }} }}"
        );
        let said = refused_at_start(&entry);
        assert!(said.contains(words), "{said}");
        assert!(said.contains("polldm.yaml:1:"), "{said}");
    }
    let list = front.told(&["bdev", "ls"]);
    assert!(!list.contains("r0"), "{list}");
}

/// What `polldm serve` has against a configuration with this bdev.
fn refused_at_start(entry: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("polldm.yaml");
    std::fs::write(&file, format!("bdevs: [ {entry} ]\n")).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_polldm"))
        .arg("serve")
        .arg(&file)
        .output()
        .unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}

/// A remote is added while running, used, and removed again; `bdev ls` says how it is.
#[test]
fn a_remotes_life_from_the_command_line() {
    let remote = Remote::with_memory();
    let front = Remote::with_memory();
    let address = format!("address={}", remote.address);
    let nqn = format!("nqn={NQN}");
    front.told(&[
        "bdev",
        "add",
        "nvme-tcp",
        "name=r0",
        &address,
        &nqn,
        "keep_alive=10s",
    ]);
    front.told(&["dm", "create", "far", "--table", "0 16384 linear r0 0"]);
    let list = front.told(&["bdev", "ls"]);
    let place = format!("nvme-tcp://{}/{NQN}?nsid=1", remote.address);
    assert!(list.contains("nvme-tcp  8 MiB"), "{list}");
    assert!(list.contains(&place) && list.contains("live"), "{list}");
    let busy = front.ask(&["bdev", "remove", "r0"]);
    assert_eq!(busy.status.code(), Some(1));
    front.told(&["dm", "remove", "far"]);
    front.told(&["bdev", "remove", "r0"]);
    assert!(!front.told(&["bdev", "ls"]).contains("r0"));
}
