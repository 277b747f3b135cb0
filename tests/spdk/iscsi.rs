//! SPDK's iSCSI target over mapped devices, to initiators that are not ours: libiscsi's tools, and QEMU's driver.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::alone;
use crate::initiator::Initiator;
use crate::process::{Served, free_port};

const IQN: &str = "iqn.2026-11.io.polldm:spdk";

/// What a target named on its own lets in.
const KNOWN_HOST: &str = "iqn.2026-11.io.polldm:host";

/// Whether the initiators are here; says which are not.
fn have_initiators() -> bool {
    let mut missing = Vec::new();
    for (program, package) in [("iscsi-ls", "libiscsi-bin"), ("qemu-img", "qemu-utils")] {
        if Command::new(program).arg("--version").output().is_err() {
            missing.push(package);
        }
    }
    let formats = Command::new("qemu-img").arg("--help").output();
    let formats = formats.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    // A driver of its own package, which QEMU loads by name.
    let driver = Path::new("/usr/lib/x86_64-linux-gnu/qemu/block-iscsi.so");
    if !driver.exists() && formats.is_ok_and(|formats| !formats.contains("iscsi")) {
        missing.push("qemu-block-extra");
    }
    if missing.is_empty() {
        return true;
    }
    // Past the test harness, which would keep it to itself.
    let _ = writeln!(
        std::io::stderr(),
        "skipped: Debian packages are missing: {}",
        missing.join(" ")
    );
    false
}

/// Two devices on a target for everybody, the first also on one for a host that is named.
fn configuration(port: u16) -> String {
    format!(
        "\
engine: spdk
spdk: {{ hugepages: off }}
reactors: {{ count: 1 }}
bdevs:
  - malloc: {{ name: ram0, size: 16MiB, volatile_cache: true }}
  - malloc: {{ name: ram1, size: 16MiB, block_size: 4096 }}
devices:
  - {{ name: vol0, table: \"0 32768 linear ram0 0\" }}
  - {{ name: vol1, table: \"0 32768 linear ram1 0\" }}
exports:
  iscsi:
    portals: [ \"127.0.0.1:{port}\" ]
    targets:
      - iqn: {IQN}
        initiators: any
        luns: [ {{ lun: 0, device: vol0 }}, {{ lun: 5, device: vol1 }} ]
      - iqn: {IQN}-named
        initiators: [ \"{KNOWN_HOST}\" ]
        luns: [ {{ lun: 0, device: vol0 }} ]
"
    )
}

fn url(port: u16, lun: u16) -> String {
    format!("iscsi://127.0.0.1:{port}/{IQN}/{lun}")
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new("timeout")
        .args(["60", program])
        .args(arguments)
        .output()
        .expect("it can be run")
}

fn succeeds(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {text}{complaints}");
    text
}

/// A disk's worth of bytes that no other seed gives.
fn image(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        // An LCG with the constants of Knuth's MMIX; its upper half is random enough.
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 32) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// Writes a whole unit and reads it back by another process, both QEMU's.
fn fill_and_compare(directory: &Path, url: &str, bytes: &[u8]) {
    let (image, back) = (directory.join("image"), directory.join("back"));
    fs::write(&image, bytes).expect("written");
    let (image, back) = (
        image.to_str().expect("UTF-8"),
        back.to_str().expect("UTF-8"),
    );
    succeeds(
        "qemu-img",
        &["convert", "-n", "-f", "raw", "-O", "raw", image, url],
    );
    succeeds(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "raw", url, back],
    );
    let read = fs::read(back).expect("read");
    assert!(read[..] == *bytes, "what was written is read");
}

/// Discovery, units of both block sizes, who may log in, and what operators see.
#[test]
fn initiators_find_write_and_read_units() {
    let _alone = alone();
    if !have_initiators() {
        return;
    }
    let port = free_port();
    let served = Served::start(&configuration(port));
    let found = succeeds("iscsi-ls", &["-s", &format!("iscsi://127.0.0.1:{port}")]);
    assert!(
        found.contains(&format!("Target:{IQN} Portal:127.0.0.1:{port},1")),
        "{found}"
    );
    assert!(
        found.contains("Lun:0 ") && found.contains("Lun:5 "),
        "{found}"
    );
    assert!(!found.contains("-named"), "not for everybody: {found}");

    let directory = tempfile::tempdir().expect("a directory");
    for lun in [0, 5] {
        fill_and_compare(
            directory.path(),
            &url(port, lun),
            &image(7 + u64::from(lun), 16 << 20),
        );
    }
    let named = format!("iscsi://127.0.0.1:{port}/{IQN}-named/0");
    assert!(
        !run("iscsi-inq", &[&named]).status.success(),
        "a host without a name there"
    );
    let inquiry = succeeds("iscsi-inq", &["-i", KNOWN_HOST, &named]);
    assert!(inquiry.contains("Product:polldm device"), "{inquiry}");

    let exports = served.told(&["export", "ls"]);
    assert!(
        exports.contains(&format!("iSCSI on 127.0.0.1:{port}")),
        "{exports}"
    );
    assert!(exports.contains("unit 5: vol1"), "{exports}");
    assert!(
        exports.contains(&format!("initiators: {KNOWN_HOST}")),
        "{exports}"
    );
    assert_eq!(served.end(), Some(0));
}

/// AT-1 and AT-11 over iSCSI: a table is swapped again and again while QEMU fills the unit and reads it back; it sees no error.
#[test]
fn tables_are_swapped_under_an_initiator() {
    let _alone = alone();
    if !have_initiators() {
        return;
    }
    let port = free_port();
    let served = Served::start(&configuration(port));
    let is_over = AtomicBool::new(false);
    let swaps = std::thread::scope(|scope| {
        scope.spawn(|| {
            let directory = tempfile::tempdir().expect("a directory");
            // Told whatever happens: whoever swaps would otherwise do so for ever.
            let over = Over(&is_over);
            for seed in 0..4 {
                fill_and_compare(directory.path(), &url(port, 0), &image(seed, 16 << 20));
            }
            drop(over);
        });
        let mut swaps = 0;
        while !is_over.load(Ordering::Relaxed) {
            // The same places on the disk, by another target.
            let table = match swaps % 2 {
                0 => "0 32768 striped 1 8 ram0 0",
                _ => "0 32768 linear ram0 0",
            };
            served.told(&["dm", "swap", "vol0", "--table", table]);
            swaps += 1;
        }
        swaps
    });
    assert!(swaps > 3, "{swaps} swaps");
    assert_eq!(served.end(), Some(0));
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// polldm is stopped and started while QEMU writes: the initiator loses its connection and not its disk, so it waits and goes on.
#[test]
fn an_initiator_outlives_restarts() {
    let _alone = alone();
    if !have_initiators() {
        return;
    }
    let port = free_port();
    let directory = tempfile::tempdir().expect("a directory");
    let place = |name: &str| directory.path().join(name).display().to_string();
    let text = configuration(port).replace(
        "malloc: { name: ram0, size: 16MiB, volatile_cache: true }",
        &format!(
            "file: {{ name: ram0, path: \"{}\", size: 16MiB }}",
            place("disk")
        ),
    );
    let bytes = image(3, 16 << 20);
    fs::write(place("image"), &bytes).expect("written");
    let is_over = AtomicBool::new(false);
    let served = Served::start(&text);
    let (served, restarts) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let _over = Over(&is_over);
            let (image, url) = (place("image"), url(port, 0));
            // Four megabytes a second.
            succeeds(
                "qemu-img",
                &[
                    "convert", "-n", "-r", "4M", "-f", "raw", "-O", "raw", &image, &url,
                ],
            );
        });
        let (mut served, mut restarts) = (served, 0);
        let is_over = || is_over.load(Ordering::Relaxed);
        while restarts < 4 && !is_over() {
            let goes_on = |stats: &str| is_over() || stats.contains("write");
            served.wait_for(&["stats", "vol0"], goes_on);
            assert_eq!(served.end(), Some(0));
            served = Served::start(&text);
            restarts += 1;
        }
        (served, restarts)
    });
    assert!(restarts > 0, "it was over before");
    assert_eq!(served.end(), Some(0));
    assert!(
        fs::read(place("disk")).expect("read") == bytes,
        "all is there"
    );
}

/// A device that is exported cannot be removed; one whose disk was pulled answers with an error, and the unit beside it goes on.
#[test]
fn a_disk_is_pulled_beneath_a_unit() {
    let _alone = alone();
    if !have_initiators() {
        return;
    }
    let port = free_port();
    let served = Served::start(&configuration(port));
    let refused = served.refuses(&["dm", "remove", "vol0"]);
    assert!(refused.contains("in use"), "{refused}");
    served.told(&["bdev", "remove", "--force", "ram0"]);
    let read = |lun| {
        run(
            "qemu-io",
            &["-f", "raw", "-c", "read 0 64k", &url(port, lun)],
        )
    };
    assert!(!read(0).status.success(), "its disk is gone");
    assert!(read(5).status.success(), "its own is there");
    assert_eq!(served.end(), Some(0));
}

/// What SPDK's iSCSI target cannot do, and a port that another has, are told before anything starts.
#[test]
fn what_cannot_be_exported_is_refused() {
    let _alone = alone();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken_port = taken.local_addr().expect("bound").port();
    let port = free_port();
    for (text, error) in [
        (
            configuration(taken_port),
            format!("cannot listen on 127.0.0.1:{taken_port}"),
        ),
        (
            configuration(port).replace("lun: 0", "lun: 1"),
            "SPDK's iSCSI target has no targets without a unit 0".into(),
        ),
        (
            configuration(0),
            "SPDK does not say which port it was given for port 0".into(),
        ),
    ] {
        let complaints = Served::refused(&text);
        assert!(complaints.contains(&error), "{complaints}");
        assert!(complaints.contains("polldm.yaml:"), "{complaints}");
    }
}

/// CHAP, one-way and mutual, from the same file of secrets as the native engine's; and what of such a file SPDK cannot do.
#[test]
fn initiators_prove_who_they_are() {
    let _alone = alone();
    if !have_initiators() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
        path.display().to_string()
    };
    let with = |secrets: &str, mutual: bool| {
        let chap = format!("chap: {{ secrets: {secrets}, mutual: {mutual} }}\n        luns:");
        configuration(port).replacen("luns:", &chap, 1)
    };
    let secrets = file(
        "secrets",
        "initiator host7 secret-of-host7\ntarget polldm secret-of-target\n",
    );
    let as_host7 = |secret: &str| {
        let url = format!("iscsi://host7%{secret}@127.0.0.1:{port}/{IQN}/0");
        let mut command = Command::new("timeout");
        command.args(["60", "iscsi-inq", &url]);
        command
    };
    let lets_in = |command: &mut Command| command.output().expect("it runs").status.success();
    let proved = |command: &mut Command, secret: &str| {
        lets_in(
            command
                .env("LIBISCSI_CHAP_TARGET_USERNAME", "polldm")
                .env("LIBISCSI_CHAP_TARGET_PASSWORD", secret),
        )
    };

    let served = Served::start(&with(&secrets, false));
    assert!(lets_in(&mut as_host7("secret-of-host7")));
    assert!(!lets_in(&mut as_host7("secret-of-host8")));
    assert!(!run("iscsi-inq", &[&url(port, 0)]).status.success());
    let exports = served.told(&["export", "ls"]);
    assert!(exports.to_lowercase().contains("chap"), "{exports}");
    assert!(!exports.contains("secret-of"), "{exports}");
    assert_eq!(served.end(), Some(0));

    let served = Served::start(&with(&secrets, true));
    assert!(proved(&mut as_host7("secret-of-host7"), "secret-of-target"));
    assert!(!proved(
        &mut as_host7("secret-of-host7"),
        "secret-of-nobody"
    ));
    assert!(!lets_in(&mut as_host7("secret-of-host7")));
    assert_eq!(served.end(), Some(0));

    for (text, error) in [
        (
            format!("initiator host7 secret-of-host7 {KNOWN_HOST}\n"),
            "SPDK's iSCSI target has no secrets for one initiator only",
        ),
        (
            "initiator host7 0xfffefdfcfbfaf9f8f7f6f5f4\n".into(),
            "SPDK's iSCSI target has no secrets that are not text",
        ),
    ] {
        let complaints = Served::refused(&with(&file("other", &text), false));
        assert!(complaints.contains(error), "{complaints}");
        assert!(complaints.contains("polldm.yaml:"), "{complaints}");
    }
}

/// AT-78 on this engine: a LOGICAL UNIT RESET ends what is parked in a suspended device, and is answered; the device works when it is resumed.
#[test]
fn at_78_a_reset_ends_what_is_parked() {
    let _alone = alone();
    let port = free_port();
    let served = Served::start(&configuration(port));
    let mut initiator = Initiator::login(port, IQN);
    let parked = |count: u32| {
        let line = format!("vol0            0  {count:6}     0 ");
        move |stats: &str| stats.contains(&line)
    };
    // The first commands are answered with unit attentions, if with anything.
    while initiator.read(0, 0).0 != 0 {}
    served.told(&["dm", "suspend", "vol0"]);
    for block in 0..3 {
        initiator.send_read(0, block);
    }
    served.wait_for(&["stats", "vol0"], parked(3));
    assert_eq!(initiator.reset(0), 0, "function complete");
    served.wait_for(&["stats", "vol0"], parked(0));
    served.told(&["dm", "resume", "vol0"]);
    assert_eq!(initiator.read(0, 0).0, 0, "good");
    assert_eq!(served.end(), Some(0));
}

/// COMPARE AND WRITE, which SPDK does by a lock on the range: what is not there is not replaced, before and after a swap.
#[test]
fn compare_and_write_compares() {
    let _alone = alone();
    let port = free_port();
    let served = Served::start(&configuration(port));
    let mut initiator = Initiator::login(port, IQN);
    while initiator.read(0, 9).0 != 0 {}
    let fill = |byte| [byte; 512];
    const GOOD: (u8, u8) = (0, 0);
    const MISCOMPARE: (u8, u8) = (2, 0xe);
    assert_eq!(initiator.compare_and_write(0, 9, &fill(0), &fill(1)), GOOD);
    assert_eq!(
        initiator.compare_and_write(0, 9, &fill(0), &fill(2)),
        MISCOMPARE
    );
    served.told(&[
        "dm",
        "swap",
        "vol0",
        "--table",
        "0 32768 striped 1 8 ram0 0",
    ]);
    assert_eq!(
        initiator.compare_and_write(0, 9, &fill(2), &fill(3)),
        MISCOMPARE
    );
    assert_eq!(initiator.compare_and_write(0, 9, &fill(1), &fill(4)), GOOD);
    assert_eq!(initiator.read(0, 9), (0, fill(4).to_vec()));
    assert_eq!(served.end(), Some(0));
}

/// A stop does not wait for what a suspended device has parked, whoever is connected.
#[test]
fn a_stop_ends_what_is_parked() {
    let _alone = alone();
    let port = free_port();
    let served = Served::start(&configuration(port));
    let mut initiator = Initiator::login(port, IQN);
    served.told(&["dm", "suspend", "vol0"]);
    initiator.send_read(0, 0);
    served.wait_for(&["stats", "vol0"], |stats| {
        stats.contains("vol0            0       1")
    });
    assert_eq!(served.end(), Some(0));
}
