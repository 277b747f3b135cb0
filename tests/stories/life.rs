//! The life of a mapped device as its hosts and its operator see it: first and other tables, suspends that nothing but a resume ends, removal. (AT-53 to AT-55, AT-58,
//! AT-59, AT-74.)

use polldm::host::Payload;
use polldm::nvme::Status;
use polldm::nvme::command::Command;
use polldm::nvme::opcode::io;

use crate::load::Load;
use crate::lost_paths::SECTORS;
use crate::node::{Host, Node};
use crate::suspends::{EACH, demand, finish, start_write, start_writes};
use crate::{BLOCK, BLOCK_SECTORS};

/// Bdevs of one size in memory, one of them with other blocks.
pub const DISKS: &str =
    "  - malloc: { name: a, size: 8MiB, block_size: 4096, volatile_cache: true }
  - malloc: { name: b, size: 8MiB, block_size: 4096 }
  - malloc: { name: small, size: 8MiB, block_size: 512 }
";

/// The whole of a bdev.
pub fn whole(bdev: &str) -> String {
    format!("0 {SECTORS} linear {bdev} 0")
}

/// What a write of one block ends with.
pub fn write(host: &mut Host, nsid: u32, lba: u64, value: u8) -> Status {
    write_block(host, nsid, lba, value, BLOCK)
}

/// The same, of a device with blocks of so many bytes.
pub fn write_block(host: &mut Host, nsid: u32, lba: u64, value: u8, bytes: usize) -> Status {
    let command = Command::block_io(io::WRITE, nsid, lba, 1);
    let data = vec![value; bytes];
    let outcome = host.queue.run(command, Payload::Write(&data));
    outcome.expect("an answer").completion.status
}

/// What a read of so many blocks ends with.
fn read(host: &mut Host, nsid: u32, lba: u64, count: u32) -> Status {
    let command = Command::block_io(io::READ, nsid, lba, count);
    let outcome = host.queue.run(command, Payload::Read(count * BLOCK as u32));
    outcome.expect("an answer").completion.status
}

/// A byte of a block that has only such.
pub fn byte(host: &mut Host, nsid: u32, lba: u64) -> u8 {
    byte_of_block(host, nsid, lba, BLOCK)
}

/// The same, of a device with blocks of so many bytes.
pub fn byte_of_block(host: &mut Host, nsid: u32, lba: u64, bytes: usize) -> u8 {
    let read = host.queue.read(nsid, lba, 1, bytes as u32).expect("read");
    assert!(read.iter().all(|byte| *byte == read[0]), "block {lba}");
    read[0]
}

/// Hosts keep the block size that they know: a swap to another is refused and costs no I/O; what was loaded is refused by the resume, which leaves the device suspended
/// on the table it had; a device that a table names is not even loaded with it. A device that nobody holds takes it.
#[test]
fn at_53_hosts_keep_their_block_size() {
    let node = Node::start(DISKS, &whole("a"));
    let load = Load::start(&node);
    load.after(300);
    let other = whole("small");
    let refused = node.refused(&["dm", "swap", "vol", "--table", &other]);
    assert!(refused.contains("(EINVAL)"), "{refused}");
    assert_eq!(node.info("vol", "suspended"), "Active");
    load.after(300);
    for is_suspended in [false, true] {
        if is_suspended {
            node.dm("suspend", &["--noflush"]);
        }
        node.dm("load", &["--table", &other]);
        let refused = node.refused(&["dm", "resume", "--noflush", "vol"]);
        assert!(refused.contains("(EINVAL)"), "{refused}");
        assert_eq!(
            node.info("vol", "suspended,tables_loaded"),
            "Suspended Live"
        );
        assert_eq!(node.dm("table", &[]).trim(), whole("a"));
        node.until("vol", |now| now.parked == load.outstanding());
        node.dm("resume", &[]);
        load.after(300);
    }
    load.demand_flawless();
    load.stop();

    node.told(&["dm", "create", "lower", "--table", &whole("b")]);
    node.told(&["dm", "create", "upper", "--table", &whole("lower")]);
    let refused = node.refused(&["dm", "load", "lower", "--table", &other]);
    assert!(refused.contains("'upper'"), "{refused}");
    assert_eq!(node.info("lower", "tables_loaded"), "Live");
    node.told(&["dm", "remove", "upper"]);
    node.told(&["dm", "swap", "lower", "--table", &other]);
    node.export(2, "lower");
    let mut host = node.host();
    let sector = vec![7; 512];
    host.queue.write(2, 1, &sector, 512).expect("written");
    assert!(host.queue.read(2, 1, 1, 512).expect("read") == sector);
    drop(host);
    node.end();
}

/// A device is suspended before it has a table, and while it is given its first: it stays suspended, with the table inactive, and only a resume with a table lets it run.
#[test]
fn at_54_a_device_is_suspended_before_its_first_table() {
    let node = Node::start(DISKS, &whole("a"));
    let state = || node.info("new", "suspended,tables_loaded");
    let table = whole("b");
    for round in 0..10 {
        node.told(&["dm", "create", "new", "--notable"]);
        node.told(&["dm", "resume", "new"]);
        assert_eq!(state(), "Active None");
        node.told(&["dm", "suspend", "new"]);
        let refused = node.refused(&["dm", "resume", "new"]);
        assert!(refused.contains("(EINVAL)"), "{refused}");
        assert_eq!(state(), "Suspended None");
        node.told(&["dm", "load", "new", "--table", &table]);
        node.told(&["dm", "clear", "new"]);
        let refused = node.refused(&["dm", "resume", "new"]);
        assert!(refused.contains("(EINVAL)"), "{refused}");
        node.told(&["dm", "suspend", "new"]);
        node.told(&["dm", "remove", "new"]);

        // Whichever comes first.
        node.told(&["dm", "create", "new", "--notable"]);
        let verbs: [&[&str]; 2] = [
            &["dm", "load", "new", "--table", &table],
            &["dm", "suspend", "new"],
        ];
        let both = [verbs[round % 2], verbs[1 - round % 2]].map(|verb| node.start_command(verb));
        for verb in both {
            let ended = verb.wait_with_output().expect("it was started here");
            assert!(ended.status.success());
        }
        assert_eq!(state(), "Suspended Inactive");
        node.told(&["dm", "resume", "new"]);
        assert_eq!(state(), "Active Live");
        node.export(2, "new");
        let mut host = node.host();
        assert!(write(&mut host, 2, 0, round as u8 + 1).is_success());
        assert_eq!(byte(&mut host, 2, 0), round as u8 + 1);
        drop(host);
        node.unexport(2);
        node.told(&["dm", "remove", "new"]);
    }
    node.end();
}

/// Nothing but its resume restarts a suspended device: not what it is told or asked, not what happens to others, not another host. Another device on the same
/// disk shows that nothing of what is parked has been written meanwhile.
#[test]
fn at_55_a_suspended_device_waits_for_its_resume() {
    let table = format!("0 {SECTORS} multipath 1 queue_if_no_path 0 1 1 round-robin 0 1 0 a");
    let node = Node::start(DISKS, &table);
    node.create(2, "beside", &whole("a"));
    let mut host = node.host();
    let written = start_writes(&mut host, 0, 1);
    finish(&mut host, written, true);
    // Some was pushed back, some came later.
    node.say(&["fail_path", "a"]);
    let mut waiting = start_writes(&mut host, 0, 2);
    node.until("vol", |now| now.held == EACH);
    node.dm("suspend", &["--noflush"]);
    waiting.extend(start_writes(&mut host, EACH, 2));
    let parked = node.until("vol", |now| now.parked == 2 * EACH);
    let mut other = node.host();
    let mut demand_untouched = |after: &[&str]| {
        assert_eq!(node.info("vol", "suspended"), "Suspended", "{after:?}");
        assert_eq!(node.counts("vol"), parked, "{after:?}");
        assert_eq!(byte(&mut other, 2, 0), 1, "{after:?}");
        assert_eq!(byte(&mut other, 2, EACH), 0, "{after:?}");
    };
    for words in [
        &["dm", "message", "vol", "0", "reinstate_path", "a"][..],
        &["dm", "load", "vol", "--table", &table],
        &["dm", "clear", "vol"],
        &["dm", "suspend", "vol"],
        &["dm", "suspend", "--noflush", "vol"],
        &["dm", "suspend", "--stack", "vol"],
        &["dm", "table", "vol"],
        &["dm", "status", "vol"],
        &["dm", "deps", "vol"],
        &["dm", "wait", "vol", "0"],
        &["dm", "rename", "vol", "--setuuid", "mine"],
        &["dm", "remove", "--deferred", "vol"],
        &["dm", "message", "vol", "0", "@cancel_deferred_remove"],
        &["dm", "create", "third", "--table", &whole("a")],
        &["dm", "suspend", "third"],
        &["dm", "fail-parked", "third"],
        &["dm", "resume", "third"],
        &["dm", "swap", "third", "--table", &table],
        &["dm", "remove_all"],
        &["bdev", "remove", "--force", "b"],
        &["bdev", "add", "malloc", "name=b", "size=8MiB"],
    ] {
        node.told(words);
        demand_untouched(words);
    }
    for words in [
        &["dm", "message", "vol", "0", "queue_if_no_path"][..],
        &["dm", "load", "vol", "--table", "0 8 nosuch"],
        &["dm", "swap", "vol", "--table", &whole("b")],
        &["dm", "cancel", "vol"],
        &["dm", "remove", "vol"],
    ] {
        node.refused(words);
        demand_untouched(words);
    }
    node.create(3, "third", &whole("b"));
    node.unexport(3);
    demand_untouched(&["export"]);
    node.dm("resume", &[]);
    finish(&mut host, waiting, true);
    demand(&mut host, 0, 2);
    demand(&mut host, EACH, 2);
    drop((host, other));
    node.end();
}

/// The disk of a suspended device is taken away: what is parked stays so, and fails once when the device is resumed. With the disk's successor it runs again.
#[test]
fn at_58_what_is_parked_fails_once_without_its_disk() {
    let node = Node::start(DISKS, &whole("a"));
    let mut host = node.host();
    node.dm("suspend", &[]);
    let mut waiting = start_writes(&mut host, 0, 1);
    waiting.push(host.start(Command::new(io::FLUSH, 1), Payload::None));
    let all = waiting.len() as u64;
    let before = node.until("vol", |now| now.parked == all);
    node.told(&["bdev", "remove", "--force", "a"]);
    assert_eq!(node.counts("vol"), before);
    node.dm("resume", &[]);
    finish(&mut host, waiting, false);
    let after = node.counts("vol");
    assert_eq!((after.in_flight, after.parked), (0, 0));
    assert_eq!(after.completed, before.completed + all);
    assert_eq!(after.errors, before.errors + all);

    node.told(&[
        "bdev",
        "add",
        "malloc",
        "name=a",
        "size=8MiB",
        "block_size=4096",
    ]);
    node.dm("swap", &["--table", &whole("a")]);
    let written = start_writes(&mut host, 0, 2);
    finish(&mut host, written, true);
    demand(&mut host, 0, 2);
    drop(host);
    node.end();
}

/// A device is removed with I/O parked in it, of a host that is still there: each ends once, with an error, nothing of it is done, and the host's connection lasts.
#[test]
fn at_58_what_is_parked_fails_once_with_its_device() {
    let node = Node::start(DISKS, &whole("a"));
    node.create(2, "beside", &whole("a"));
    let mut host = node.host();
    let written = start_writes(&mut host, 0, 1);
    finish(&mut host, written, true);
    node.dm("suspend", &[]);
    let mut waiting = start_writes(&mut host, 0, 2);
    let read = Command::block_io(io::READ, 1, 0, 1);
    waiting.push(host.start(read, Payload::Read(BLOCK as u32)));
    waiting.push(host.start(Command::new(io::FLUSH, 1), Payload::None));
    let all = waiting.len() as u64;
    let before = node.until("vol", |now| now.parked == all);
    let refused = node.refused(&["dm", "remove", "vol"]);
    assert!(refused.contains("(EBUSY)"), "{refused}");
    assert_eq!(node.counts("vol"), before);

    node.dm("remove", &["--deferred"]);
    let unexport = node.start_unexport(1);
    // SPDK's engine aborts what is parked; the native one waits for it.
    if cfg!(not(feature = "spdk")) {
        node.until_export(|exports| !exports.contains("namespace 1"));
        assert_eq!(node.counts("vol"), before);
        assert_eq!(node.dm("fail-parked", &[]), format!("{all} failed\n"));
    }
    let unexported = unexport.wait_with_output().expect("it was started here");
    assert!(unexported.status.success());
    finish(&mut host, waiting, false);
    let refused = node.refused(&["dm", "info", "vol"]);
    assert!(refused.contains("(ENXIO)"), "{refused}");
    assert!(!write(&mut host, 1, 0, 3).is_success());
    for lba in 0..EACH {
        assert_eq!(byte(&mut host, 2, lba), 1);
    }
    drop(host);
    node.end();
}

/// A device that is to go is used on until the last that holds it lets go, a host's namespace or another device's table, unless that is taken back in time. Its name
/// and its namespace are free for another then.
#[test]
fn at_59_a_device_goes_with_the_last_that_holds_it() {
    let node = Node::start(DISKS, &whole("a"));
    node.told(&["dm", "create", "upper", "--table", &whole("vol")]);
    let mut host = node.host();
    let is_to_go = || node.info("vol", "deferred_remove");
    let refused = node.refused(&["dm", "remove", "vol"]);
    assert!(refused.contains("(EBUSY)"), "{refused}");
    node.dm("remove", &["--deferred"]);
    assert_eq!(is_to_go(), "yes");
    assert!(write(&mut host, 1, 0, 1).is_success());
    node.dm("message", &["0", "@cancel_deferred_remove"]);
    assert_eq!(is_to_go(), "no");
    node.told(&["dm", "remove", "upper"]);
    node.unexport(1);
    assert!(!write(&mut host, 1, 0, 2).is_success());
    node.export(1, "vol");
    assert_eq!(byte(&mut host, 1, 0), 1);

    node.told(&["dm", "create", "upper", "--table", &whole("vol")]);
    node.dm("remove", &["--deferred"]);
    node.unexport(1);
    assert_eq!(is_to_go(), "yes", "a table names it");
    node.told(&["dm", "remove", "upper"]);
    for words in [
        &["dm", "message", "vol", "0", "@cancel_deferred_remove"][..],
        &["dm", "resume", "vol"],
    ] {
        let refused = node.refused(words);
        assert!(refused.contains("(ENXIO)"), "{refused}");
    }
    node.create(1, "vol", &whole("b"));
    assert_eq!(byte(&mut host, 1, 0), 0);
    node.dm("remove", &["--deferred"]);
    node.unexport(1);
    assert_eq!(node.told(&["dm", "ls"]), "No devices found\n");
    drop(host);
    node.end();
}

/// I/O beyond the end of a device fails at once, in whole and in part, also while the device is suspended; and where it was, when the device has become smaller.
#[test]
fn at_74_io_beyond_the_end_is_not_parked() {
    let node = Node::start(DISKS, &whole("a"));
    let mut host = node.host();
    let end = SECTORS / BLOCK_SECTORS;
    for verb in ["resume", "suspend"] {
        node.dm(verb, &[]);
        for (lba, count) in [(end, 1), (end - 1, 2), (u64::MAX, 1), (u64::MAX - 1, 2)] {
            let status = read(&mut host, 1, lba, count);
            assert!(status.is(Status::LBA_OUT_OF_RANGE), "{status}");
        }
        let status = write(&mut host, 1, end, 1);
        assert!(status.is(Status::LBA_OUT_OF_RANGE), "{status}");
    }
    let inside = start_write(&mut host, end - 1, 1);
    node.until("vol", |now| now.parked == 1);
    node.dm("resume", &[]);
    finish(&mut host, vec![inside], true);

    let half = format!("0 {} linear a 0", SECTORS / 2);
    node.dm("swap", &["--table", &half]);
    for (lba, count) in [(end / 2, 1), (end / 2 - 1, 2), (end - 1, 1)] {
        assert!(!read(&mut host, 1, lba, count).is_success(), "{lba}");
    }
    assert!(!write(&mut host, 1, end - 1, 2).is_success());
    assert!(read(&mut host, 1, end / 2 - 1, 1).is_success());
    node.dm("swap", &["--table", &whole("a")]);
    assert_eq!(byte(&mut host, 1, end - 1), 1);
    drop(host);
    node.end();
}

/// A device without a table has no I/O, not even parked I/O. On SPDK's engine it has no bdev yet, and cannot be exported.
#[test]
fn at_74_io_without_a_table_is_not_parked() {
    let node = Node::start(DISKS, &whole("a"));
    node.told(&["dm", "create", "empty", "--notable"]);
    let mut host = node.host();
    if cfg!(feature = "spdk") {
        let refused = node.refuses_export(2, "empty");
        assert!(refused.contains("has no table yet"), "{refused}");
    } else {
        node.export(2, "empty");
    }
    let fails = |host: &mut Host| {
        assert!(!write(host, 2, 0, 1).is_success());
        assert!(!read(host, 2, 0, 1).is_success());
    };
    fails(&mut host);
    node.told(&["dm", "suspend", "empty"]);
    fails(&mut host);
    node.told(&["dm", "load", "empty", "--table", &whole("b")]);
    fails(&mut host);
    node.told(&["dm", "resume", "empty"]);
    if cfg!(feature = "spdk") {
        node.export(2, "empty");
    }
    assert!(write(&mut host, 2, 0, 1).is_success());
    assert_eq!(byte(&mut host, 2, 0), 1);
    drop(host);
    node.end();
}
