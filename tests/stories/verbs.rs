//! What an operator's words do, and what is refused, with a host at the device: AT-81 to AT-84.

use std::process::Child;

use crate::BLOCK;
use crate::life::{DISKS, byte, byte_of_block, whole, write, write_block};
use crate::load::Load;
use crate::lost_paths::SECTORS;
use crate::node::Node;
use crate::suspends::{EACH, demand, finish, start_writes};

/// A multipath whose paths are groups of their own.
const TWO_GROUPS: &str =
    "0 16384 multipath 1 queue_if_no_path 0 2 1 round-robin 0 1 0 a round-robin 0 1 0 b";

/// What a target makes of a host's write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Keeps,
    Forgets,
    Refuses,
}

/// Every target, and each selector.
const TARGETS: [(Kind, &str); 15] = [
    (Kind::Keeps, "linear a 8"),
    (Kind::Keeps, "striped 2 64 a 0 b 4096"),
    (
        Kind::Keeps,
        "multipath 0 0 1 1 round-robin 0 2 1 a 1 a 1000",
    ),
    (
        Kind::Keeps,
        "multipath 7 queue_if_no_path queue_mode mq pg_init_retries 3 pg_init_delay_msecs 5 0 \
         2 2 service-time 0 1 2 a 1 7 queue-length 0 1 1 a 9",
    ),
    (
        Kind::Keeps,
        "multipath 2 queue_if_no_path_timeout_secs 60 0 \
         2 1 historical-service-time 2 500 1 1 1 a 2 io-affinity 0 1 1 b ff",
    ),
    (Kind::Keeps, "delay a 0 0"),
    (Kind::Keeps, "delay a 0 0 a 0 0 b 0 0"),
    (Kind::Keeps, "ebs a 0 1"),
    (Kind::Keeps, "ebs a 16 1 16"),
    (Kind::Keeps, "flakey a 0 60 0 1 error_writes"),
    (Kind::Refuses, "flakey a 0 0 60"),
    (Kind::Forgets, "flakey a 0 0 1 1 drop_writes"),
    (
        Kind::Keeps,
        "flakey a 0 0 1 7 corrupt_bio_byte 4097 r 7 0 random_write_corrupt 0",
    ),
    (Kind::Refuses, "error"),
    (Kind::Forgets, "zero"),
];

/// What `dm table` says loads an equal table, of every target: into the device itself, and into another, which then leads to the same data.
#[test]
fn at_81_the_text_of_every_target_loads_an_equal_table() {
    let node = Node::start(DISKS, &whole("a"));
    let mut host = node.host();
    let half = SECTORS / 2;
    for (value, (kind, arguments)) in (1..).zip(TARGETS) {
        let table = format!("0 {half} {arguments}");
        // Without a device beneath, whose blocks it would have, a target has the smallest; or it makes them.
        let bytes = match arguments.split(' ').next() {
            Some("error" | "zero" | "ebs") => 512,
            _ => BLOCK,
        };
        node.create(2, "first", &table);
        let status = write_block(&mut host, 2, 100, value, bytes);
        assert_eq!(
            status.is_success(),
            kind != Kind::Refuses,
            "{table}: {status}"
        );
        if arguments.starts_with("multipath 7") {
            // A text is of the moment.
            node.told(&["dm", "message", "first", "0", "switch_group", "1"]);
            node.told(&["dm", "message", "first", "0", "fail_if_no_path"]);
        }
        let text = node.told(&["dm", "table", "first"]);
        node.create(3, "second", text.trim_end());
        assert_eq!(node.told(&["dm", "table", "second"]), text);
        node.told(&["dm", "load", "first", "--table", text.trim_end()]);
        assert_eq!(node.told(&["dm", "table", "--inactive", "first"]), text);
        // Some fail the flush that comes with a suspend.
        node.told(&["dm", "resume", "--nolockfs", "first"]);
        assert_eq!(node.told(&["dm", "table", "first"]), text);
        assert_eq!(
            node.info("first", "blkdevs_used"),
            node.info("second", "blkdevs_used")
        );
        for nsid in [2, 3] {
            let status = write_block(&mut host, nsid, 101, value, bytes);
            assert_eq!(
                status.is_success(),
                kind != Kind::Refuses,
                "{table}: {status}"
            );
            match kind {
                Kind::Keeps => {
                    assert_eq!(byte_of_block(&mut host, nsid, 100, bytes), value, "{table}")
                }
                Kind::Forgets => {
                    assert_ne!(byte_of_block(&mut host, nsid, 101, bytes), value, "{table}")
                }
                Kind::Refuses => {}
            }
            node.unexport(nsid);
        }
        node.told(&["dm", "remove", "first", "second"]);
    }
    drop(host);
    node.end();
}

/// How many events a device has had.
fn events(node: &Node, device: &str) -> u32 {
    node.info(device, "events").parse().expect("a number")
}

/// A wait for another number of events than this one.
fn start_wait(node: &Node, device: &str, known: u32) -> Child {
    node.start_command(&["dm", "wait", "-v", device, &known.to_string()])
}

/// The number of events that a wait ends with.
fn waited(wait: Child) -> u32 {
    let ended = wait.wait_with_output().expect("it was started here");
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(ended.status.success(), "{said}");
    let mut lines = said.lines();
    let number = lines.find_map(|line| line.strip_prefix("Event number:"));
    let number = number.expect("it says the number");
    number.trim().parse().expect("a number")
}

/// A wait ends with the event, of whatever kind, or at once when that has been; whoever goes by the numbers misses none. The end of the device ends it as well.
#[test]
fn at_82_no_event_is_missed() {
    let node = Node::start(DISKS, TWO_GROUPS);
    let known = events(&node, "vol");
    node.say(&["fail_path", "a"]);
    assert_eq!(waited(start_wait(&node, "vol", known)), known + 1);
    assert_eq!(waited(start_wait(&node, "vol", u32::MAX)), known + 1);

    // However late each is with its question.
    let mut known = known + 1;
    for round in 0..10 {
        let waits = [(); 3].map(|()| start_wait(&node, "vol", known));
        let message = ["reinstate_path", "fail_path"][round % 2];
        node.say(&[message, "a"]);
        known += 1;
        for wait in waits {
            assert_eq!(waited(wait), known);
        }
    }
    const MORE: u32 = 30;
    std::thread::scope(|scope| {
        let follower = scope.spawn(|| {
            let mut seen = known;
            while seen != known + MORE {
                let next = waited(start_wait(&node, "vol", seen));
                assert!(seen < next && next <= known + MORE);
                seen = next;
            }
        });
        for round in 0..MORE {
            let message = ["reinstate_path", "fail_path"][round as usize % 2];
            node.say(&[message, "a"]);
        }
        follower.join().expect("it sees the last");
    });

    // One that a host's I/O raises.
    node.told(&["dm", "create", "bad", "--table", "0 8192 error"]);
    node.create(2, "pair", "0 16384 striped 2 64 a 0 bad 0");
    let mut host = node.host();
    let known = events(&node, "pair");
    let mut wait = start_wait(&node, "pair", known);
    assert!(write(&mut host, 2, 0, 1).is_success());
    assert!(wait.try_wait().expect("it was started here").is_none());
    assert!(!write(&mut host, 2, 8, 1).is_success());
    assert_eq!(waited(wait), known + 1);
    assert!(node.told(&["dm", "status", "pair"]).ends_with(" AD\n"));

    let wait = start_wait(&node, "pair", known + 1);
    node.unexport(2);
    node.told(&["dm", "remove", "pair"]);
    let ended = wait.wait_with_output().expect("it was started here");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("(ENXIO)"), "{said}");
    drop(host);
    node.end();
}

/// A bad table is refused with its line and what is wrong with it, by every verb that takes one, and changes nothing: neither the table that hosts use nor the one that
/// waits to replace it.
#[test]
fn at_83_a_bad_table_changes_nothing() {
    let node = Node::start(DISKS, &whole("a"));
    node.told(&["dm", "create", "paths", "--table", TWO_GROUPS]);
    let load = Load::start(&node);
    let waits = whole("b");
    node.dm("load", &["--table", &waits]);
    let before = node.info("vol", "suspended,tables_loaded,events,open");
    for (table, reason) in [
        ("8 16376 linear a 0", "table line 1: a gap"),
        (
            "0 8192 linear a 0\n8200 8 linear a 8200",
            "table line 2: a gap",
        ),
        (
            "0 8192 linear a 0\n8184 8 linear a 8184",
            "table line 2: an overlap",
        ),
        (
            "0 0 linear a 0",
            "table line 1: the target has a length of 0",
        ),
        (
            "0 8 zero\n8 18446744073709551615 zero",
            "past the largest device",
        ),
        (
            "0 16384 lineal a 0",
            "table line 1: unknown target type 'lineal'",
        ),
        ("0 16384 linear", "the device is missing"),
        (
            "0 16384 linear a",
            "the start sector on the device is missing",
        ),
        ("0 16384 linear a 0 0", "'0' is one word too many"),
        ("0 16384 linear a x", "'x' is not a decimal number"),
        ("0 16384 linear nobody 0", "'nobody'"),
        ("0 16384 linear a 8", "do not fit on 'a'"),
        ("0 12 linear a 0", "not a multiple"),
        ("0 8 linear a 4", "not a multiple"),
        ("0 16384 striped 2 3 a 0 b 0", "does not divide"),
        ("0 16384 linear vol 0", "beneath itself"),
        (
            "0 8 zero\n8 16376 multipath 0 0 1 1 round-robin 0 1 0 b",
            "the only one of its table",
        ),
        (
            "0 16384 multipath 0 0 1 2 round-robin 0 1 0 b",
            "table line 1: multipath",
        ),
        ("0 16384 flakey a 0 0 0", "table line 1: flakey"),
        ("0 16384 delay a 0", "table line 1: delay"),
        ("0 16384 error now", "table line 1: error"),
    ] {
        for verb in ["load", "swap"] {
            let refused = node.refused(&["dm", verb, "vol", "--table", table]);
            assert!(refused.contains(reason), "{table}: {refused}");
            assert!(refused.contains("(EINVAL)"), "{table}: {refused}");
        }
        if !table.contains("vol") {
            node.refused(&["dm", "create", "never", "--table", table]);
        }
        assert_eq!(node.told(&["dm", "ls"]).lines().count(), 2, "{table}");
    }
    // A multipath makes room for its like only, and for what has no data.
    for verb in ["load", "swap"] {
        let refused = node.refused(&["dm", verb, "paths", "--table", &waits]);
        assert!(refused.contains("'multipath'"), "{refused}");
    }
    assert_eq!(node.info("paths", "tables_loaded"), "Live");
    assert_eq!(
        node.info("vol", "suspended,tables_loaded,events,open"),
        before
    );
    assert_eq!(node.dm("table", &[]).trim_end(), whole("a"));
    assert_eq!(node.dm("table", &["--inactive"]).trim_end(), waits);
    node.dm("clear", &[]);
    load.after(300);
    load.demand_flawless();
    load.stop();
    node.end();
}

/// A suspended multipath takes only what its paths' states are told; all else has to wait for the resume. What names no path is refused at any time.
#[test]
fn at_84_a_suspended_multipath_takes_path_states_only() {
    let node = Node::start(DISKS, TWO_GROUPS);
    let mut host = node.host();
    let refused = |words: &str, errno: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        let said = node.refused(&[&["dm", "message", "vol", "0"], &words[..]].concat());
        assert!(said.contains(errno), "{words:?}: {said}");
    };
    let unknown = ["fail_path nobody", "reinstate_path small", "fail_path"];
    for words in unknown {
        refused(words, "(EINVAL)");
    }
    refused("switch_group 3", "(EINVAL)");
    refused("dance", "(EINVAL)");
    node.say(&["fail_path", "a"]);
    node.say(&["fail_path", "b"]);
    let mut waiting = start_writes(&mut host, 0, 1);
    node.until("vol", |now| now.held == EACH);
    node.dm("suspend", &["--noflush"]);
    waiting.extend(start_writes(&mut host, EACH, 1));
    let parked = node.until("vol", |now| now.parked == 2 * EACH);
    for words in [
        "queue_if_no_path",
        "fail_if_no_path",
        "queue_if_no_path_timeout_secs 1",
        "switch_group 2",
        "disable_group 1",
        "enable_group 1",
        "dance",
    ] {
        refused(words, "(EBUSY)");
    }
    for words in unknown {
        refused(words, "(EINVAL)");
    }
    node.say(&["reinstate_path", "a"]);
    assert!(node.dm("status", &[]).contains("a A"));
    node.say(&["fail_path", "a"]);
    assert!(node.dm("status", &[]).contains("a F"));
    node.say(&["reinstate_path", "b"]);
    assert!(node.dm("table", &[]).contains("queue_if_no_path"));
    assert_eq!(node.counts("vol"), parked);
    node.dm("resume", &[]);
    finish(&mut host, waiting, true);
    demand(&mut host, 0, 1);
    demand(&mut host, EACH, 1);
    // By the path that was reinstated while suspended.
    node.create(2, "beside", &whole("b"));
    assert_eq!(byte(&mut host, 2, 0), 1);
    node.say(&["switch_group", "2"]);
    drop(host);
    node.end();
}
