//! `polldm` as its users run it: a process that serves, others that ask it, and signals.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

mod iscsi;

const POLLDM: &str = env!("CARGO_BIN_EXE_polldm");

/// A configuration with one reactor, two bdevs and one device; `{…}` are filled in.
fn configuration(directory: &Path, more: &str) -> PathBuf {
    let text = format!(
        "\
reactors: {{ count: 1 }}
control: {{ socket: {}/control.sock }}
{more}
bdevs:
  - malloc: {{ name: ram0, size: 64MiB, block_size: 4096 }}
  - null: {{ name: null0, size: 1TiB }}
devices:
  - name: vol0
    table: |
      0 65536 linear ram0 0
      65536 65536 zero
",
        directory.display()
    );
    let file = directory.join("polldm.yaml");
    fs::write(&file, text).unwrap();
    file
}

/// A serving process; it is killed when dropped.
struct Served {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// What it said before it was ready.
    announced: Vec<String>,
    directory: tempfile::TempDir,
}

impl Served {
    fn start(more: &str) -> Served {
        let directory = tempfile::tempdir().unwrap();
        configuration(directory.path(), more);
        Served::start_in(directory)
    }

    /// Starts on the configuration that is in `directory`.
    fn start_in(directory: tempfile::TempDir) -> Served {
        let mut child = Command::new(POLLDM)
            .arg("serve")
            .arg(directory.path().join("polldm.yaml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut announced = Vec::new();
        loop {
            let mut line = String::new();
            let read = stdout.read_line(&mut line).unwrap();
            assert!(read > 0, "it ended before it was ready: {announced:?}");
            let ready = line.starts_with("ready after ");
            announced.push(line.trim_end().to_owned());
            if ready {
                break;
            }
        }
        Served {
            child,
            stdout,
            announced,
            directory,
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    fn ask(&self, words: &[&str]) -> Output {
        Command::new(POLLDM)
            .arg("--socket")
            .arg(self.socket())
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn told(&self, words: &[&str]) -> String {
        let output = self.ask(words);
        assert!(
            output.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn refused(&self, words: &[&str], code: i32) -> String {
        let output = self.ask(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}");
        assert!(output.stdout.is_empty(), "{words:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn signal(&self, signal: i32) {
        // SAFETY: no memory is involved; the child has not been waited for, so the number is still its own.
        let sent = unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(sent, 0);
    }

    /// Waits for its end: exit code, and what it still said on standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        let mut complaints = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut complaints)
            .unwrap();
        let status = self.child.wait().unwrap();
        assert!(!self.socket().exists(), "the socket is left behind");
        (status.code(), complaints)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // After `end` there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_devices_life_from_the_command_line() {
    let served = Served::start("");
    assert_eq!(
        served.announced[0],
        format!("control: {}", served.socket().display())
    );
    assert_eq!(
        served.told(&["dm", "table"]),
        "vol0: 0 65536 linear ram0 0\nvol0: 65536 65536 zero\n"
    );

    served.told(&[
        "dm",
        "create",
        "vol1",
        "--table",
        "0 2048 linear null0 0",
        "-u",
        "u1",
    ]);
    served.told(&[
        "dm",
        "load",
        "vol1",
        "--table",
        "0 4096 striped 2 8 null0 0 null0 8192",
    ]);
    assert!(
        served
            .told(&["dm", "info", "vol1"])
            .contains("Tables present:    LIVE & INACTIVE\n")
    );
    assert_eq!(
        served.told(&["dm", "table", "vol1"]),
        "0 2048 linear null0 0\n"
    );
    assert_eq!(
        served.told(&["dm", "table", "--inactive", "vol1"]),
        "0 4096 striped 2 8 null0 0 null0 8192\n"
    );
    served.told(&["dm", "suspend", "vol0", "vol1"]);
    let columns = [
        "dm",
        "info",
        "-c",
        "--noheadings",
        "--separator",
        ":",
        "-o",
        "name,attr,uuid",
    ];
    assert_eq!(served.told(&columns), "vol0:L-sw:\nvol1:LIsw:u1\n");
    served.told(&["dm", "resume", "vol1", "vol0"]);
    assert_eq!(
        served.told(&["dm", "table", "vol1"]),
        "0 4096 striped 2 8 null0 0 null0 8192\n"
    );
    served.told(&["dm", "rename", "vol1", "fast"]);

    let refusal = served.refused(&["dm", "remove", "nope", "fast", "neither"], 1);
    assert_eq!(
        refusal,
        "polldm: there is no device 'nope' (ENXIO)\npolldm: there is no device 'neither' (ENXIO)\n"
    );
    assert_eq!(served.told(&["dm", "ls"]), "vol0\t(0:0)\n");

    let file = served.directory.path().join("table");
    fs::write(&file, "# two lines\n0 8 zero\n8 8 error\n").unwrap();
    served.told(&["dm", "create", "vol2", "--readonly", file.to_str().unwrap()]);
    assert!(
        served
            .told(&["dm", "info", "vol2"])
            .contains("State:             ACTIVE (READ-ONLY)\n")
    );
    let empty = served.refused(&["dm", "load", "vol2"], 2);
    assert!(empty.contains("the table is empty"), "{empty}");
    let wrong = served.refused(&["dm", "load", "vol2", "--table", "0 8 zero\n9 8 zero"], 1);
    assert!(wrong.starts_with("polldm: table line 2: a gap"), "{wrong}");

    let json: serde_json::Value =
        serde_json::from_str(&served.told(&["dm", "info", "--json"])).unwrap();
    assert_eq!(json["devices"][0]["name"], "vol0");
    assert!(served.told(&["bdev", "ls"]).contains("null0  null"));
    assert!(served.told(&["stats"]).contains("REACTOR"));
}

/// A disk is added, pulled and plugged in again from the command line.
#[test]
fn a_backing_devices_life_from_the_command_line() {
    let served = Served::start("");
    // A relative path counts from where the command is given, not from where the server was started.
    let add = |size: &str| {
        Command::new(POLLDM)
            .arg("--socket")
            .arg(served.socket())
            .args(["bdev", "add", "file", "name=disk", "path=disk.img", size])
            .current_dir(served.directory.path())
            .output()
            .unwrap()
    };
    let wrong = add("size=4M");
    assert_eq!(wrong.status.code(), Some(2));
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(said.contains("1 | file: { name: disk,"), "{said}");
    assert!(add("size=4MiB").status.success());
    assert!(served.directory.path().join("disk.img").exists());
    served.told(&["dm", "create", "vol1", "--table", "0 8192 linear disk 0"]);

    for (words, says) in [
        (
            &["bdev", "add", "malloc", "name=disk", "size=1MiB"][..],
            "exists already; names are unique (EBUSY)",
        ),
        (
            &["bdev", "add", "malloc", "name=vol1", "size=1MiB"],
            "'vol1' is the name of a mapped device",
        ),
        (
            &["dm", "create", "--notable", "disk"],
            "'disk' is the name of a bdev",
        ),
        (
            &["bdev", "remove", "disk"],
            "bdev 'disk' is in use by vol1: 1 table",
        ),
        (
            &["bdev", "remove", "disc"],
            "there is no bdev named \"disc\" (ENXIO)",
        ),
    ] {
        let said = served.refused(words, 1);
        assert!(said.contains(says), "{words:?}: {said}");
    }

    served.told(&["bdev", "remove", "--force", "disk"]);
    let row = |what: &str| {
        let rows = served.told(&["bdev", "ls"]);
        let mut words = rows
            .lines()
            .map(|row| row.split_whitespace().collect::<Vec<_>>().join(" "));
        let found = words.find(|row| row.starts_with("disk") && row.contains(what));
        assert!(found.is_some(), "{what}: {rows}");
        rows.lines().count()
    };
    assert_eq!(row("removed 1 vol1"), 4);
    // The old table is live still, and the file is not locked.
    assert!(add("size=4MiB").status.success());
    assert_eq!(row("flush"), 5);
    let table = served.told(&["dm", "table", "vol1"]);
    served.told(&["dm", "load", "vol1", "--table", table.trim_end()]);
    // What cannot be flushed is not suspended as if it had been.
    let told = served.refused(&["dm", "resume", "vol1"], 1);
    assert!(told.contains("could not be flushed"), "{told}");
    served.told(&["dm", "resume", "--nolockfs", "vol1"]);
    assert_eq!(row("flush"), 4);
    served.told(&["dm", "remove", "vol1"]);
    served.told(&["bdev", "remove", "disk"]);
    assert!(!served.told(&["bdev", "ls"]).contains("disk"));
}

/// Mapped devices on mapped devices, from the command line: who holds whom, what is refused, and a stack as one.
#[test]
fn a_stacks_life_from_the_command_line() {
    let served = Served::start("");
    let create = |name, table| served.told(&["dm", "create", name, "--table", table]);
    create("middle", "0 65536 striped 2 128 vol0 0 vol0 32768");
    create("top", "0 1024 linear middle 0\n1024 8 linear null0 0");
    assert_eq!(
        served.told(&["dm", "deps"]),
        "middle: 1 dependencies\t: (vol0)\ntop: 2 dependencies\t: (middle) (null0)\nvol0: 1 dependencies\t: (ram0)\n"
    );
    let columns = ["dm", "info", "-c", "--noheadings", "--separator", ":", "-o"];
    let columns = |fields| served.told(&[&columns[..], &[fields]].concat());
    assert_eq!(
        columns("name,open,blkdevs_used"),
        "middle:1:vol0\ntop:0:middle,null0\nvol0:1:ram0\n"
    );
    assert_eq!(
        served.told(&["dm", "table", "middle"]),
        "0 65536 striped 2 128 vol0 0 vol0 32768\n"
    );
    served.told(&["dm", "create", "empty", "--notable"]);
    for (words, says) in [
        (
            &["dm", "remove", "vol0"][..],
            "polldm: device 'vol0' is in use: tables of middle name it (EBUSY)\n",
        ),
        (
            &["dm", "rename", "middle", "new"],
            "polldm: device 'middle' has to keep its name while tables name it: those of top (EBUSY)\n",
        ),
        (
            &["dm", "load", "vol0", "--table", "0 8 linear top 0"],
            "a mapped device cannot be beneath itself: vol0 on top on middle on vol0 (EINVAL)\n",
        ),
        (
            &["dm", "load", "top", "--table", "0 8 linear empty 0"],
            "the mapped device 'empty' has no live table; load one and resume it first (EINVAL)\n",
        ),
        (
            &["dm", "load", "vol0", "--table", "0 8192 zero"],
            "polldm: the new table has 8192 sectors, and a table of 'middle' uses 'vol0' up to sector 65536; give 'middle' a table that uses less of it first (EINVAL)\n",
        ),
    ] {
        let said = served.refused(words, 1);
        assert!(said.ends_with(says), "{words:?}: {said}");
    }
    served.told(&["dm", "remove", "empty"]);

    let suspended = || columns("name,suspended");
    served.told(&["dm", "suspend", "--stack", "--timeout", "60", "top"]);
    let all = "middle:Suspended\ntop:Suspended\nvol0:Suspended\n";
    assert_eq!(suspended(), all);
    served.told(&["dm", "load", "top", "--table", "0 2048 linear middle 0"]);
    served.told(&["dm", "resume", "--stack", "top"]);
    assert_eq!(suspended(), "middle:Active\ntop:Active\nvol0:Active\n");
    let table = served.told(&["dm", "table", "top"]);
    assert_eq!(table, "0 2048 linear middle 0\n");
    let refused = served.refused(&["dm", "suspend", "--stack", "nix"], 1);
    assert!(refused.ends_with("(ENXIO)\n"), "{refused}");

    served.told(&["dm", "remove", "--deferred", "vol0"]);
    served.told(&["dm", "remove", "top"]);
    assert_eq!(served.told(&["dm", "ls"]), "middle\t(0:1)\nvol0\t(0:0)\n");
    served.told(&["dm", "remove", "middle"]);
    assert_eq!(served.told(&["dm", "ls"]), "No devices found\n");
}

/// The verbs that go beyond a device's plain life; nothing else waits for the one that waits, and the end of the server ends it.
#[test]
fn swap_messages_waits_and_removals_from_the_command_line() {
    let served = Served::start("");
    served.told(&["dm", "load", "vol0", "--table", "0 8 zero"]);
    let swap = ["dm", "swap", "vol0", "--timeout", "60", "--table"];
    served.told(&[&swap[..], &["0 131072 zero"]].concat());
    assert_eq!(served.told(&["dm", "table"]), "vol0: 0 131072 zero\n");
    assert_eq!(served.told(&["dm", "table", "--inactive"]), "vol0:\n");
    let refused = served.refused(&[&swap[..], &["0 8 lineal"]].concat(), 1);
    assert!(refused.starts_with("polldm: table line 1"), "{refused}");
    assert_eq!(served.told(&["dm", "table"]), "vol0: 0 131072 zero\n");

    served.told(&["dm", "suspend", "--noflush", "--timeout", "60", "vol0"]);
    assert_eq!(served.told(&["dm", "fail-parked", "vol0"]), "0 failed\n");
    let refused = served.refused(&["dm", "cancel", "vol0"], 1);
    assert!(refused.ends_with("(EINVAL)\n"), "{refused}");
    served.told(&["dm", "resume", "vol0"]);
    let refused = served.refused(&["dm", "message", "vol0", "0", "fail_path", "x"], 1);
    assert!(refused.ends_with("(EINVAL)\n"), "{refused}");
    served.told(&["dm", "message", "vol0", "0", "@cancel_deferred_remove"]);

    let wait = |words: &[&str]| {
        Command::new(POLLDM)
            .arg("--socket")
            .arg(served.socket())
            .args(["dm", "wait", "vol0"])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let waiter = wait(&["0", "-v"]);
    served.told(&["dm", "rename", "vol0", "--setuuid", "my-uuid"]);
    let text = String::from_utf8(waiter.wait_with_output().unwrap().stdout).unwrap();
    assert!(text.contains("Event number:      1\n"), "{text}");
    assert!(text.contains("UUID:              my-uuid\n"), "{text}");
    let info = served.told(&["dm", "info", "--json"]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    // Made and given a table when it started, swapped, given a uuid.
    assert_eq!(info["global_event_nr"], 4);

    let create = [
        "dm",
        "create",
        "vol1",
        "--notable",
        "--parked-limit",
        "2min",
    ];
    served.told(&create);
    let info = served.told(&["dm", "info", "vol1", "--json"]);
    assert!(info.contains("\"parked_limit_ms\": 120000"), "{info}");
    served.told(&["dm", "remove", "--deferred", "vol1"]);
    assert_eq!(served.told(&["dm", "ls"]), "vol0\t(0:0)\n");

    let waiter = wait(&["1"]);
    served.signal(libc::SIGTERM);
    assert!(!waiter.wait_with_output().unwrap().status.success());
    assert_eq!(served.end().0, Some(0));
}

#[test]
fn sigterm_ends_it_with_0_even_while_somebody_asks() {
    for (name, signal) in [("TERM", libc::SIGTERM), ("INT", libc::SIGINT)] {
        let served = Served::start("");
        let mut idle = UnixStream::connect(served.socket()).unwrap();
        idle.write_all(b"{\"jsonrpc\":\"2.0\",").unwrap();
        served.signal(signal);
        let (code, complaints) = served.end();
        assert_eq!(code, Some(0), "{complaints}");
        assert_eq!(complaints, format!("polldm: SIG{name}: stopping\n"));
    }
}

#[test]
fn kill_9_leaves_nothing_in_the_way_of_the_next_start() {
    let mut served = Served::start("");
    served.child.kill().unwrap();
    served.child.wait().unwrap();
    assert!(served.socket().exists());
    let directory = std::mem::replace(&mut served.directory, tempfile::tempdir().unwrap());
    let again = Served::start_in(directory);
    assert_eq!(again.told(&["dm", "ls"]), "vol0\t(0:0)\n");
}

#[test]
fn what_is_in_use_is_told_with_its_place_and_nothing_is_started() {
    let served = Served::start("");
    let again = Command::new(POLLDM)
        .arg("serve")
        .arg(served.directory.path().join("polldm.yaml"))
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(2));
    let complaint = String::from_utf8(again.stderr).unwrap();
    assert!(
        complaint.starts_with("error: the control socket") && complaint.contains("in use"),
        "{complaint}"
    );
    assert_eq!(
        served.told(&["dm", "ls"]),
        "vol0\t(0:0)\n",
        "the first one serves on"
    );

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let more = format!("metrics: {{ listen: \"{}\" }}", taken.local_addr().unwrap());
    let file = configuration(directory.path(), &more);
    let refused = Command::new(POLLDM)
        .arg("serve")
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let complaint = String::from_utf8(refused.stderr).unwrap();
    assert!(
        complaint.contains("for metrics: Address already in use"),
        "{complaint}"
    );
    assert!(complaint.contains("polldm.yaml:3:20"), "{complaint}");
    assert!(!directory.path().join("control.sock").exists());
}

/// LC-14: how large a file is shows when it is opened; what is wrong with a table then is still shown at its words.
#[test]
fn a_file_that_is_too_small_is_told_at_the_words_of_the_table() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("disk.img"), vec![0; 1 << 20]).unwrap();
    let file = configuration(directory.path(), "");
    let text = fs::read_to_string(&file)
        .unwrap()
        .replace(
            "devices:",
            "  - file: { name: disk, path: disk.img }\ndevices:",
        )
        .replace("65536 65536 zero", "65536 65536 linear disk 0");
    fs::write(&file, text).unwrap();
    let told = |command| {
        let command = Command::new(POLLDM).arg(command).arg(&file).output();
        command.unwrap()
    };
    assert!(told("check").status.success());
    let served = told("serve");
    assert_eq!(served.status.code(), Some(2));
    let complaint = String::from_utf8(served.stderr).unwrap();
    for part in [
        "sectors 0 to 65536 do not fit on 'disk', which has 2048",
        "polldm.yaml:12:26",
        "\n   |                          ^^^^^^\n",
        "there is room for 2048 sectors",
    ] {
        assert!(complaint.contains(part), "{part:?} in {complaint}");
    }
}

#[test]
fn check_says_what_serve_would_say_and_opens_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = configuration(directory.path(), "");
    let good = Command::new(POLLDM)
        .arg("check")
        .arg(&file)
        .output()
        .unwrap();
    assert!(good.status.success());
    assert!(!directory.path().join("control.sock").exists());
    let text = fs::read_to_string(&file)
        .unwrap()
        .replace("linear ram0", "linear rum0");
    fs::write(&file, text).unwrap();
    let complaints = ["check", "serve"].map(|command| {
        let output = Command::new(POLLDM)
            .arg(command)
            .arg(&file)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{command}");
        String::from_utf8(output.stderr).unwrap()
    });
    assert_eq!(complaints[0], complaints[1]);
    assert!(
        complaints[0].contains("rum0") && complaints[0].contains("did you mean 'ram0'?"),
        "{}",
        complaints[0]
    );
}

#[test]
fn metrics_are_there_only_when_asked_for() {
    let served = Served::start("metrics: { listen: \"127.0.0.1:0\" }");
    let address = served.announced[1]
        .strip_prefix("metrics: http://")
        .unwrap()
        .strip_suffix("/metrics")
        .unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("polldm_device_size_bytes{device=\"vol0\"} 67108864\n"),
        "{answer}"
    );
    assert!(
        answer.contains("polldm_reactor_busy_seconds_total{reactor=\"0\"}"),
        "{answer}"
    );
    served.signal(libc::SIGTERM);
    assert_eq!(served.end().0, Some(0));
    assert_eq!(Served::start("").announced.len(), 2, "control and ready");
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    let served = Served::start("");
    let mut child = Command::new(POLLDM)
        .arg("--socket")
        .arg(served.socket())
        .args(["schema", "--control"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

const NQN: &str = "nqn.2026-11.io.polldm:test";

/// An export of `vol0` on `address`.
fn export(address: &str) -> String {
    format!(
        "exports: {{ nvmf: {{ listeners: [ \"{address}\" ], subsystems: [ {{ nqn: \"{NQN}\", hosts: any, namespaces: [ {{ nsid: 1, device: vol0 }} ] }} ] }} }}"
    )
}

#[test]
fn a_host_is_seen_while_it_is_connected_and_counted_when_it_is_gone() {
    let served = Served::start(&export("127.0.0.1:0"));
    let address = served.announced[1]
        .strip_prefix("nvme-tcp: ")
        .unwrap()
        .to_owned();
    let target = format!("nvme-tcp://{address}/{NQN}");
    let bench = [
        "bench", &target, "--qd", "4", "--time", "100ms", "--warmup", "0ms", "--json",
    ];
    let report: serde_json::Value = serde_json::from_str(&served.told(&bench)).unwrap();
    assert!(report.is_object());
    let stats = || -> serde_json::Value {
        serde_json::from_str(&served.told(&["stats", "--json"])).unwrap()
    };
    let stats = stats();
    let read = &stats["namespaces"][0]["operations"][0];
    assert_eq!(
        (&read["operation"], &stats["namespaces"][0]["nsid"]),
        (&"read".into(), &1.into())
    );
    assert!(
        read["ios"].as_u64().unwrap() > 0 && read["errors"] == 0,
        "{read}"
    );
    assert!(
        stats["nvmf"]["events"]["accepted"].as_u64().unwrap() >= 2,
        "{stats}"
    );

    served.told(&[
        "dm",
        "create",
        "vol1",
        "--table",
        "0 2048 linear ram0 65536",
    ]);
    let nobody = served.refused(
        &[
            "export",
            "add-ns",
            "nqn.2026-11.io.polldm:other",
            "--nsid",
            "2",
            "--device",
            "vol1",
        ],
        1,
    );
    assert!(
        nobody.contains("there is no subsystem") && nobody.contains("(ENXIO)"),
        "{nobody}"
    );
    let add = ["export", "add-ns", NQN, "--nsid", "2", "--device", "vol1"];
    served.told(&add);
    assert!(served.refused(&add, 1).contains("(EBUSY)"));
    assert!(
        served
            .refused(&["dm", "remove", "vol1"], 1)
            .contains("(EBUSY)")
    );
    let listed = served.told(&["export", "ls"]);
    assert!(
        listed.contains("  namespace 1: vol0") && listed.contains("  namespace 2: vol1"),
        "{listed}"
    );
    // A namespace that is taken away and added again is the disk it was; two at once are two.
    let uuid = |listed: &str, nsid: u32| -> String {
        let start = format!("  namespace {nsid}: ");
        let line = listed.lines().find(|line| line.starts_with(&start));
        let line = line.unwrap_or_else(|| panic!("no namespace {nsid} in {listed}"));
        line.split_whitespace().last().unwrap().to_owned()
    };
    served.told(&["export", "add-ns", NQN, "--nsid", "3", "--device", "vol0"]);
    let both = served.told(&["export", "ls"]);
    assert_ne!(uuid(&both, 1), uuid(&both, 3), "{both}");
    served.told(&["export", "remove-ns", NQN, "--nsid", "3"]);
    served.told(&["export", "remove-ns", NQN, "--nsid", "1"]);
    served.told(&["export", "add-ns", NQN, "--nsid", "1", "--device", "vol0"]);
    let again = served.told(&["export", "ls"]);
    assert_eq!(uuid(&again, 1), uuid(&listed, 1), "{again}");
    served.told(&["export", "remove-ns", NQN, "--nsid", "2"]);
    served.told(&["dm", "remove", "vol1"]);
    served.signal(libc::SIGTERM);
    assert_eq!(served.end().0, Some(0));
}

#[test]
fn an_ana_state_is_configured_shown_and_changed() {
    let served = Served::start(&export("127.0.0.1:0").replace("any,", "any, ana: inaccessible,"));
    let address = served.announced[1].strip_prefix("nvme-tcp: ").unwrap();
    let target = format!("nvme-tcp://{address}/{NQN}");
    let bench = [
        "bench", &target, "--qd", "4", "--time", "100ms", "--warmup", "0ms", "--json",
    ];
    let listed = |state: &str| {
        let text = served.told(&["export", "ls"]);
        assert!(text.contains(&format!("\n  ana: {state}\n")), "{text}");
        let json = served.told(&["export", "ls", "--json"]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["nvmf"]["subsystems"][0]["ana"], state);
    };
    listed("inaccessible");
    let refused = served.ask(&bench);
    assert!(!refused.status.success());
    let report = String::from_utf8_lossy(&refused.stdout);
    assert!(
        report.contains("asymmetric access inaccessible"),
        "{report}"
    );
    for state in ["non-optimized", "optimized"] {
        served.told(&["export", "ana", NQN, state]);
        listed(state);
        assert!(served.ask(&bench).status.success());
    }
    let other = "nqn.2026-11.io.polldm:other";
    let nobody = served.refused(&["export", "ana", other, "change"], 1);
    assert!(nobody.contains("there is no subsystem") && nobody.contains("(ENXIO)"));
    let unknown = served.refused(&["export", "ana", NQN, "lost"], 2);
    assert!(unknown.contains("persistent-loss"), "{unknown}");
    listed("optimized");
    served.signal(libc::SIGTERM);
    assert_eq!(served.end().0, Some(0));
}

#[test]
fn a_listener_that_is_taken_is_told_with_its_place() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = configuration(
        directory.path(),
        &export(&taken.local_addr().unwrap().to_string()),
    );
    let refused = Command::new(POLLDM)
        .arg("serve")
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let complaint = String::from_utf8(refused.stderr).unwrap();
    assert!(
        complaint.contains("cannot listen on 127.0.0.1:"),
        "{complaint}"
    );
    assert!(complaint.contains("polldm.yaml:3:"), "{complaint}");
    assert!(!directory.path().join("control.sock").exists());
}
