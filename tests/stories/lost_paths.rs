//! Several ways to one disk: two relays, processes that have their device from a third. The third has one reactor, so that it does what it was told in
//! the order in which it hears it, whichever relay was killed meanwhile. (The first list of section 7: AT-01 to AT-10.) `nvmf_tgt` tells some of it again.

use std::any::Any;

use polldm::host::Payload;
use polldm::nvme::command::Command;
use polldm::nvme::opcode::io;
use polldm::nvme::status::TYPE_PATH;

use crate::flushes::disks;
use crate::load::Load;
use crate::node::{Host, Node};
use crate::processes::Remote;
use crate::ways::{NvmfTgt, Transport, Way, until_connected};
use crate::{BLOCK, BLOCK_SECTORS};

/// Sectors of a device that is on a remote.
pub const SECTORS: u64 = 16384;

/// The disk, and two ways to it.
pub struct Paths<W = Remote> {
    /// There as long as the ways are.
    _disk: Box<dyn Any>,
    pub ways: [W; 2],
}

impl Paths {
    pub fn start() -> Paths {
        let disk = Remote::with_memory();
        let ways = [Remote::relay(&disk), Remote::relay(&disk)];
        Paths {
            _disk: Box::new(disk),
            ways,
        }
    }
}

impl Paths<NvmfTgt> {
    /// Two of SPDK's targets over one file; `None` where there is no such program.
    pub fn of_nvmf_tgt(transport: Transport) -> Option<Paths<NvmfTgt>> {
        let disk = tempfile::NamedTempFile::new().expect("a file");
        disk.as_file()
            .set_len(SECTORS * 512)
            .expect("room for a disk");
        let start = || NvmfTgt::start(transport, disk.path());
        let ways = [start()?, start()?];
        Some(Paths {
            _disk: Box::new(disk),
            ways,
        })
    }
}

impl<W: Way> Paths<W> {
    /// A polldm that knows both ways, as `r0` and `r1`, and has `vol` with this table.
    pub fn node(&self, table: &str) -> Node {
        let bdevs = self.ways[0].bdev("r0") + &self.ways[1].bdev("r1");
        Node::start(&bdevs, table)
    }
}

/// A table over these paths, which waits for want of one if it `queues`.
pub fn multipath(queues: bool, paths: &[&str]) -> String {
    let feature = if queues { "1 queue_if_no_path" } else { "0" };
    let list: Vec<String> = paths.iter().map(|path| format!("{path} 1")).collect();
    let count = paths.len();
    format!(
        "0 {SECTORS} multipath {feature} 0 1 1 round-robin 0 {count} 1 {}",
        list.join(" ")
    )
}

/// A way is lost under I/O, and the other one carries on; it comes back, is reinstated, and the other one is lost. The host sees no error.
#[test]
fn at_01_a_host_is_served_by_the_other_way() {
    served_by_the_other_way(Paths::start());
}

pub fn served_by_the_other_way(mut paths: Paths<impl Way>) {
    let node = paths.node(&multipath(false, &["r0", "r1"]));
    let load = Load::start(&node);
    for (lost, name) in [(0, "r0"), (1, "r1"), (0, "r0")] {
        load.after(300);
        paths.ways[lost].kill();
        node.until_failed(name);
        load.after(300);
        paths.ways[lost].restart();
        until_connected(&paths.ways[lost]);
        node.bring_back(name, &load);
    }
    load.demand_flawless();
    load.stop();
    node.end();
}

/// Without queueing the host asked for errors (OQ-3), and gets them when the last way is lost: IOERR, not the path's own error.
#[test]
fn at_02_a_host_sees_errors_without_a_way_left() {
    let mut paths = Paths::start();
    let node = paths.node(&multipath(false, &["r0"]));
    let load = Load::start(&node);
    load.after(300);
    load.demand_flawless();
    paths.ways[0].kill();
    load.until_failed(load.outstanding());
    paths.ways[0].restart();
    until_connected(&paths.ways[0]);
    node.bring_back("r0", &load);
    load.demand_right();
    load.stop();
    node.end();
}

/// With queueing, I/O whose way is lost waits in the target; a suspend with flush fails it, once.
#[test]
fn at_03_04_a_flush_suspend_fails_what_waits_for_a_lost_way() {
    let mut paths = Paths::start();
    let node = paths.node(&multipath(true, &["r0"]));
    let load = Load::start(&node);
    load.after(300);
    paths.ways[0].kill();
    node.until_held(&load);
    load.demand_flawless();
    // A flush without a path would fail, and the suspend with it (AT-11).
    node.dm("suspend", &["--nolockfs"]);
    load.until_failed(load.outstanding());
    assert_eq!(load.failed(), load.outstanding());
    paths.ways[0].restart();
    until_connected(&paths.ways[0]);
    node.say(&["reinstate_path", "r0"]);
    node.dm("resume", &[]);
    node.bring_back("r0", &load);
    assert_eq!(load.failed(), load.outstanding(), "each failed once");
    load.demand_right();
    load.stop();
    node.end();
}

/// One write of a host that lies on two multipath devices, half on each, whose ways are both lost: it fails once, or succeeds once, as a whole.
#[test]
fn at_05_10_one_write_waits_for_two_ways() {
    let mut paths = Paths::start();
    let node = paths.node(&format!("0 {SECTORS} zero"));
    let half = SECTORS / 2;
    let upper = |path: &str| {
        format!("0 {SECTORS} multipath 1 queue_if_no_path 0 1 1 round-robin 0 1 0 {path}")
    };
    for (name, path) in [("left", "r0"), ("right", "r1")] {
        node.told(&["dm", "create", name, "--table", &upper(path)]);
    }
    let table = format!("0 {half} linear left 0\n{half} {half} linear right {half}");
    node.create(2, "both", &table);
    let mut host = node.host();
    let lba = half / BLOCK_SECTORS - 1;
    let data: Vec<u8> = (0..2 * BLOCK).map(|index| (index / 7) as u8).collect();
    let start = |host: &mut Host| {
        let command = Command::block_io(io::WRITE, 2, lba, 2);
        host.start(command, Payload::Write(&data))
    };
    // In use, so that each way is noticed to be lost.
    let before = start(&mut host);
    let outcome = host.queue.finish(before).expect("an answer");
    assert!(outcome.completion.status.is_success());

    // AT-05
    let before = node.counts("both");
    paths.ways.iter_mut().for_each(Remote::kill);
    let write = start(&mut host);
    let both_wait = |host: &mut Host| {
        while !["left", "right"]
            .iter()
            .all(|name| node.counts(name).held == 1)
        {
            // The target asks for what does not fit a capsule.
            host.queue.poll().expect("the connection lasts");
        }
    };
    both_wait(&mut host);
    node.told(&["dm", "suspend", "--nolockfs", "left"]);
    node.until("left", |now| now.in_flight == 0);
    let between = node.counts("both");
    assert_eq!((between.in_flight, between.errors), (1, before.errors));
    node.told(&["dm", "suspend", "--nolockfs", "right"]);
    let outcome = host.queue.finish(write).expect("an answer");
    assert!(!outcome.completion.status.is_success());
    let after = node.counts("both");
    assert_eq!((after.in_flight, after.errors), (0, before.errors + 1));
    node.told(&["dm", "resume", "left", "right"]);

    // AT-10: the ways come back, and with them new tables, one after the other.
    let write = start(&mut host);
    both_wait(&mut host);
    let before = node.counts("both");
    for (remote, (name, path)) in paths.ways.iter_mut().zip([("left", "r0"), ("right", "r1")]) {
        assert_eq!(node.counts("both").completed, before.completed);
        remote.restart();
        until_connected(remote);
        node.told(&["dm", "load", name, "--table", &upper(path)]);
        node.told(&["dm", "resume", "--noflush", name]);
    }
    let outcome = loop {
        let soon = std::time::Duration::from_millis(200);
        if let Some(outcome) = host.queue.finish_within(write, soon).expect("a queue") {
            break outcome;
        }
        // A path that was used before its queue was there has failed again.
        for (name, path) in [("left", "r0"), ("right", "r1")] {
            node.told(&["dm", "message", name, "0", "reinstate_path", path]);
        }
    };
    assert!(outcome.completion.status.is_success());
    let after = node.counts("both");
    assert_eq!(after.completed, before.completed + 1, "once");
    let read = host.queue.read(2, lba, 2, BLOCK as u32).expect("read");
    assert!(read == data);
    drop(host);
    node.end();
}

/// What waits for a lost way is pushed back by a suspend with noflush, waits again when resumed without a way, and succeeds when the way comes back,
/// reinstated while suspended or after the resume.
#[test]
fn at_06_07_08a_what_waits_outlives_the_loss() {
    waiting_outlives_the_loss(Paths::start());
}

pub fn waiting_outlives_the_loss(mut paths: Paths<impl Way>) {
    let node = paths.node(&multipath(true, &["r0"]));
    let load = Load::start(&node);
    let all = load.outstanding();
    for reinstated_while_suspended in [false, true] {
        load.after(300);
        paths.ways[0].kill();
        let held = node.until_held(&load);
        for round in 1..=2 {
            node.dm("suspend", &["--noflush"]);
            let now = node.counts("vol");
            assert_eq!((now.held, now.in_flight, now.parked), (0, 0, all));
            assert_eq!(now.pushed_back, held.pushed_back + round * all);
            assert_eq!(now.completed, held.completed);
            node.dm("resume", &["--noflush"]);
            node.until_held(&load);
        }
        paths.ways[0].restart();
        until_connected(&paths.ways[0]);
        if reinstated_while_suspended {
            node.dm("suspend", &["--noflush"]);
            node.say(&["reinstate_path", "r0"]);
            assert_eq!(node.counts("vol").parked, all);
            node.dm("resume", &[]);
        }
        node.bring_back("r0", &load);
        load.demand_flawless();
    }
    load.stop();
    node.end();
}

/// The lost way is replaced by another: by a table that is loaded while suspended, by one that is loaded before, with the suspend that a resume implies,
/// and by a swap. A table without any path parks as well (AT-69).
#[test]
fn at_08b_09_69_a_new_table_brings_a_way() {
    a_table_brings_a_way(Paths::start());
}

pub fn a_table_brings_a_way(mut paths: Paths<impl Way>) {
    let node = paths.node(&multipath(true, &["r0"]));
    let load = Load::start(&node);
    load.after(300);

    paths.ways[0].kill();
    node.until_held(&load);
    node.dm("suspend", &["--noflush"]);
    node.dm("load", &["--table", &multipath(true, &["r1"])]);
    node.dm("resume", &[]);
    load.after(300);
    paths.ways[0].restart();
    until_connected(&paths.ways[0]);
    node.until_live("r0");

    paths.ways[1].kill();
    node.until_held(&load);
    node.dm("load", &["--table", &multipath(true, &["r0"])]);
    node.dm("resume", &["--noflush"]);
    load.after(300);
    paths.ways[1].restart();
    until_connected(&paths.ways[1]);
    node.until_live("r1");

    let nothing = format!("0 {SECTORS} multipath 1 queue_if_no_path 0 0 0");
    node.dm("swap", &["--table", &nothing]);
    node.until_held(&load);
    node.dm("swap", &["--table", &multipath(true, &["r1"])]);
    load.after(300);
    load.demand_flawless();
    load.stop();
    node.end();
}

/// What is parked for want of a way fails when an operator says so, and what comes after waits again when he says so; the device keeps what it was told
/// through suspends of each kind (AT-67).
#[test]
fn at_66_67_an_operator_ends_the_wait() {
    let mut paths = Paths::start();
    let node = paths.node(&multipath(true, &["r0"]));
    let load = Load::start(&node);
    let all = load.outstanding();
    load.after(300);
    paths.ways[0].kill();
    node.until_held(&load);
    load.demand_flawless();
    node.say(&["fail_if_no_path"]);
    load.until_failed(all);
    node.say(&["queue_if_no_path"]);
    node.until_held(&load);
    for options in [&["--noflush"][..], &["--nolockfs"]] {
        node.dm("suspend", options);
        node.dm("resume", &[]);
        node.until_held(&load);
        assert!(node.dm("table", &[]).contains("1 queue_if_no_path"));
    }
    paths.ways[0].restart();
    until_connected(&paths.ways[0]);
    node.bring_back("r0", &load);
    load.demand_right();
    load.stop();
    node.end();
}

/// What waits for a path fails when the timer fires, and nothing waits after that; a path that comes back first stops the timer, and I/O waits again when it is lost
/// again. That the timer would have fired is seen by one of another device, which was started later.
#[test]
fn at_68_the_timer_ends_a_hosts_wait() {
    let queues = |node: &Node, device: &str| {
        let table = node.told(&["dm", "table", device]);
        table.contains(" queue_if_no_path ")
    };
    let message = |node: &Node, device: &str, words: &[&str]| {
        node.told(&[&["dm", "message", device, "0"], words].concat());
    };
    const TIMER: &str = "queue_if_no_path_timeout_secs";
    let table =
        |path| format!("0 2048 multipath 1 queue_if_no_path 0 1 1 round-robin 0 1 0 {path}");
    let (node, _fakes) = disks::<2>(&table("r0"));
    node.told(&["dm", "create", "other", "--table", &table("r1")]);
    let mut host = node.host();
    let start = |host: &mut Host| -> [u16; 4] {
        std::array::from_fn(|lba| {
            let command = Command::block_io(io::WRITE, 1, lba as u64, 1);
            host.start(command, Payload::Write(&[1; BLOCK]))
        })
    };
    let succeed = |host: &mut Host, writes: [u16; 4]| -> [bool; 4] {
        writes.map(|write| {
            let status = host
                .queue
                .finish(write)
                .expect("an answer")
                .completion
                .status;
            assert_ne!(status.code_type(), TYPE_PATH, "{status}");
            status.is_success()
        })
    };
    node.say(&["fail_path", "r0"]);
    let writes = start(&mut host);
    node.until("vol", |now| now.held == 4);
    node.say(&[TIMER, "1"]);
    assert_eq!(succeed(&mut host, writes), [false; 4]);
    assert!(!queues(&node, "vol"));
    let writes = start(&mut host);
    assert_eq!(succeed(&mut host, writes), [false; 4]);
    node.say(&["reinstate_path", "r0"]);
    let writes = start(&mut host);
    assert_eq!(succeed(&mut host, writes), [true; 4]);

    // A machine that is too slow to bring the path back in time tries again with more of it.
    let in_time = ["2", "8", "32", "128"].into_iter().find(|seconds| {
        node.say(&[TIMER, seconds]);
        node.say(&["queue_if_no_path"]);
        node.say(&["fail_path", "r0"]);
        let writes = start(&mut host);
        node.say(&["reinstate_path", "r0"]);
        succeed(&mut host, writes) == [true; 4]
    });
    message(&node, "other", &[TIMER, in_time.expect("time enough")]);
    message(&node, "other", &["fail_path", "r1"]);
    while queues(&node, "other") {}
    assert!(queues(&node, "vol"));
    node.say(&[TIMER, "0"]);
    node.say(&["fail_path", "r0"]);
    let writes = start(&mut host);
    node.until("vol", |now| now.held == 4);
    node.say(&["reinstate_path", "r0"]);
    assert_eq!(succeed(&mut host, writes), [true; 4]);
    drop(host);
    node.end();
}

/// A path's bdev is taken away under I/O, with commands under way that nobody answers: they end, what cannot go on waits, a suspend that waited for them ends, and the
/// disk comes back under its name.
#[test]
fn at_79_a_path_is_pulled_with_io_in_flight() {
    pulled_with_io_in_flight(Paths::start());
}

pub fn pulled_with_io_in_flight(paths: Paths<impl Way>) {
    let node = paths.node(&multipath(true, &["r0"]));
    let load = Load::start(&node);
    load.after(300);
    paths.ways[0].freeze();
    let suspend = node.start_command(&["dm", "suspend", "--noflush", "vol"]);
    node.told(&["bdev", "remove", "--force", "r0"]);
    let suspended = suspend.wait_with_output().expect("it was started here");
    assert!(suspended.status.success());
    let now = node.counts("vol");
    assert_eq!((now.parked, now.in_flight), (load.outstanding(), 0));
    let refused = node.refused(&["dm", "message", "vol", "0", "reinstate_path", "r0"]);
    assert!(refused.contains("EINVAL"), "{refused}");
    paths.ways[0].thaw();
    let words = paths.ways[0].bdev_words("r0");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    node.told(&[&["bdev", "add"], &words[..]].concat());
    node.dm("load", &["--table", &multipath(true, &["r0"])]);
    node.dm("resume", &[]);
    load.after(300);
    load.demand_flawless();
    load.stop();
    node.end();
}
