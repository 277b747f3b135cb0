//! The iSCSI target's verbs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use polldm::host::iscsi;
use polldm::iscsi::secrets::Secrets;

use super::Served;

/// Who may log in, who sees what, where, and how it is proved: changed while an initiator is logged in, and what is wrong is said.
#[test]
fn an_iscsi_target_changes_while_it_serves() {
    const IQN: &str = "iqn.2026-11.io.polldm:changing";
    const NAME: &str = "iqn.2026-11.io.polldm:host";
    let target = format!(
        "exports: {{ iscsi: {{ portals: [ \"127.0.0.1:0\" ], targets: [ {{ iqn: \"{IQN}\", initiators: any, luns: [ {{ lun: 0, device: vol0 }} ] }} ] }} }}"
    );
    let served = Served::start(&target);
    let address = served
        .announced
        .iter()
        .find_map(|line| line.strip_prefix("iscsi: "))
        .unwrap()
        .to_owned();
    let login = |address: &str, secrets: Option<&str>| {
        let address = iscsi::Address::new(address.parse().unwrap(), IQN, 0);
        let mut options = iscsi::SessionOptions::new().unwrap();
        options.initiator = NAME.into();
        options.proof = secrets.map(|text| {
            let secrets = Secrets::parse(text).unwrap();
            Arc::new(iscsi::login::Proof::of(&secrets).unwrap())
        });
        iscsi::login(&address, &options)
    };
    let refusal = |address: &str| login(address, None).err().unwrap().to_string();
    let set = |change: &[&str]| served.told(&[&["iscsi", "set-target", IQN], change].concat());
    let patience = Duration::from_secs(60);
    let mut session = iscsi::BlockingSession::new(login(&address, None).unwrap(), patience);
    session.settle(0).unwrap();

    // Counters of the session, as text, JSON and for Prometheus.
    session.read(0, 0, 8, 4096).unwrap();
    let stats = served.told(&["stats", "--json"]);
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    let counted = &stats["sessions"][0];
    assert_eq!(
        (&counted["iqn"], &counted["initiator"]),
        (&IQN.into(), &NAME.into())
    );
    let read = &counted["operations"][0];
    assert_eq!(
        (&read["operation"], &read["bytes"]),
        (&"read".into(), &32_768.into())
    );
    assert_eq!(read["latency"]["count"], read["ios"]);
    assert!(served.told(&["stats"]).contains(NAME));

    // One more way, which ends; who came by it stays.
    let added = served.told(&["iscsi", "add-portal", "127.0.0.1:0", "--portal-group", "1"]);
    let added = added.trim();
    assert_ne!(added, address);
    assert!(served.told(&["iscsi", "ls"]).contains(added));
    let mut other = iscsi::BlockingSession::new(login(added, None).unwrap(), patience);
    other.settle(0).unwrap();
    served.told(&["iscsi", "remove-portal", added]);
    assert!(!served.told(&["iscsi", "ls"]).contains(added));
    assert!(refusal(added).contains("connecting"), "{}", refusal(added));
    other.read(0, 0, 1, 4096).unwrap();
    drop(other);

    // A way of its own, in a group that was not there: nobody is let in before the target is said to be reached so.
    let second = served.told(&["iscsi", "add-portal", "127.0.0.1:0", "--portal-group", "7"]);
    let second = second.trim();
    assert!(
        served
            .told(&["iscsi", "ls"])
            .contains(&format!("{second} (group 7)"))
    );
    assert!(refusal(second).contains("there is no target of this name"));
    set(&[
        "--portal-group",
        "1",
        "--portal-group",
        "7",
        "--explicit-alua",
    ]);
    let ls = served.told(&["iscsi", "ls"]);
    assert!(ls.contains("portal group 7: optimized"), "{ls}");
    assert!(ls.contains("initiators may change these states"), "{ls}");
    served.told(&["iscsi", "alua", IQN, "--portal-group", "7", "non-optimized"]);
    let mut other = iscsi::BlockingSession::new(login(second, None).unwrap(), patience);
    other.settle(0).unwrap();
    session.settle(0).unwrap();
    // It goes, and who came by it; with its last portal the group is no more.
    set(&["--portal-group", "1", "--no-explicit-alua"]);
    other.read(0, 0, 1, 4096).unwrap_err();
    assert!(refusal(second).contains("there is no target of this name"));
    session.settle(0).unwrap();
    served.told(&["iscsi", "remove-portal", second]);
    let ls = served.told(&["iscsi", "ls"]);
    assert!(
        !ls.contains("group 7") && !ls.contains("may change"),
        "{ls}"
    );

    // Sent elsewhere, where they are let in, and let in here again.
    let reached = |address: &str| {
        let mut session = iscsi::BlockingSession::new(login(address, None).unwrap(), patience);
        let peer = session.session().stream().peer_addr().unwrap();
        session.log_out().unwrap();
        peer.to_string()
    };
    let elsewhere = served.told(&["iscsi", "add-portal", "127.0.0.1:0", "--portal-group", "1"]);
    for permanent in [&[][..], &["--permanent"]] {
        set(&[&["--redirect", elsewhere.trim()], permanent].concat());
        assert_eq!(reached(&address), elsewhere.trim());
    }
    set(&["--no-redirect"]);
    assert_eq!(reached(&address), address);

    // A proof, which those who are in need not give; the file is read again when it has changed.
    let secrets = served.directory.path().join("secrets");
    let path = secrets.to_str().unwrap();
    for secret in [
        "initiator host first-secret-of-host",
        "initiator host other-secret-of-host",
    ] {
        fs::write(&secrets, secret).unwrap();
        fs::set_permissions(&secrets, PermissionsExt::from_mode(0o600)).unwrap();
        set(&["--auth", "chap", "--secrets", path]);
        assert!(refusal(&address).contains("proof"), "{}", refusal(&address));
        drop(login(&address, Some(secret)).unwrap());
    }
    assert!(
        served
            .told(&["iscsi", "ls"])
            .contains("authentication: chap")
    );
    session.read(0, 0, 1, 4096).unwrap();
    served.told(&[
        "iscsi",
        "set-discovery",
        "--auth",
        "chap",
        "--secrets",
        path,
    ]);
    assert!(
        served
            .told(&["iscsi", "ls"])
            .contains("\ndiscovery: chap\n")
    );
    served.told(&["iscsi", "set-discovery", "--auth", "none"]);
    assert!(!served.told(&["iscsi", "ls"]).contains("discovery"));
    set(&["--auth", "none"]);
    drop(login(&address, None).unwrap());

    // The unit is hidden, and shown again.
    let lun = |who: &str| {
        served.told(&["iscsi", "set-lun", IQN, "--lun", "0", "--initiator", who]);
    };
    lun("iqn.2026-11.io.polldm:other");
    let gone = session.read(0, 0, 1, 4096).unwrap_err().to_string();
    assert!(gone.contains("25h/00h"), "{gone}");
    lun("any");
    session.settle(0).unwrap();
    session.read(0, 0, 1, 4096).unwrap();

    // Those who may no longer log in go.
    set(&[
        "--initiator",
        "192.0.2.0/24",
        "--initiator",
        "iqn.2026-11.io.polldm:other",
    ]);
    session.read(0, 0, 1, 4096).unwrap_err();
    assert!(
        refusal(&address).contains("may not use the target"),
        "{}",
        refusal(&address)
    );
    set(&["--initiator", "any"]);
    drop(login(&address, None).unwrap());
    served.told(&["iscsi", "keep-alive", "1h"]);

    let iscsi = |words: &[&str], said: &str| {
        let refused = served.ask(&[&["iscsi"], words].concat());
        assert!(!refused.status.success(), "{words:?}");
        let error = String::from_utf8(refused.stderr).unwrap();
        assert!(error.contains(said), "{words:?}: {error}");
    };
    iscsi(&["set-target", IQN], "required");
    iscsi(
        &["set-target", "iqn.2026-11.io.polldm:none", "--no-redirect"],
        "there is no target",
    );
    iscsi(
        &["set-target", IQN, "--auth", "chap"],
        "CHAP needs a file of secrets",
    );
    iscsi(
        &[
            "set-target",
            IQN,
            "--auth",
            "mutual-chap",
            "--secrets",
            path,
        ],
        "no line `target",
    );
    iscsi(
        &["set-target", IQN, "--redirect", "0.0.0.0:3260"],
        "cannot connect to 0.0.0.0:3260",
    );
    iscsi(
        &["set-target", IQN, "--initiator", "host7"],
        "is no IP address",
    );
    iscsi(
        &["set-lun", IQN, "--lun", "9", "--initiator", "any"],
        "has no unit 9",
    );
    iscsi(
        &["add-portal", &address, "--portal-group", "1"],
        "another process does",
    );
    iscsi(
        &["add-portal", "127.0.0.1:0", "--portal-group", "0"],
        "tags go from 1 to 65535",
    );
    iscsi(
        &["set-target", IQN, "--portal-group", "7"],
        "there is no portal group 7",
    );
    iscsi(
        &[
            "set-target",
            IQN,
            "--portal-group",
            "1",
            "--portal-group",
            "1",
        ],
        "portal group 1 is listed twice",
    );
    let new = "iqn.2026-11.io.polldm:new";
    iscsi(
        &["add-target", new, "--portal-group", "7"],
        "there is no portal group 7",
    );
    iscsi(&["set-discovery"], "--auth");
    iscsi(
        &["set-discovery", "--auth", "mutual-chap"],
        "CHAP needs a file of secrets",
    );
    iscsi(
        &["set-discovery", "--auth", "none", "--secrets", path],
        "without authentication there are no secrets",
    );
    iscsi(
        &["set-discovery", "--auth", "chap", "--secrets", "/none"],
        "`/none` cannot be read",
    );
    iscsi(&["remove-portal", added], "there is no portal");
    iscsi(&["keep-alive", "10ms"], "from 1s to 1h");
    // Without any portal no target can be added.
    for portal in [&address, elsewhere.trim()] {
        served.told(&["iscsi", "remove-portal", portal]);
    }
    iscsi(&["add-target", new], "no initiator could reach a target");
    served.signal(libc::SIGTERM);
    assert_eq!(served.end().0, Some(0));
}
