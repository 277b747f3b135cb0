//! Target multipath in the mapper, on several cores. Each path is a disk of its own here, so a test looks at the disk it expects
//! data on. AT-05 and AT-10 want an original that spans two multipath targets: a table has only one (MP-2), so these originals
//! are cut into pieces by what the disks take at once, which are held and handed back just as independently.

mod acceptance;
mod agreement;
mod errors;
mod push_back;
mod queueing;
mod replacement;

use super::super::io::DeviceId;
use super::super::message::{Answer, Reply, Request, SuspendOptions};
use super::super::status::Status;
use super::super::target::AnyTarget;
use crate::sim::{Ask, Cluster};

const DEVICE: DeviceId = DeviceId(0);

/// Two paths in one group, waiting for a path.
const QUEUEING: &str = "0 64 multipath 1 queue_if_no_path 0 1 1 queue-length 0 2 0 d0 d1";
/// The same, failing without a path.
const FAILING: &str = "0 64 multipath 0 0 1 1 queue-length 0 2 0 d0 d1";
/// Another path, to a disk of its own.
const OTHER: &str = "0 64 multipath 1 queue_if_no_path 0 1 1 queue-length 0 1 0 d2";

const NOFLUSH: SuspendOptions = SuspendOptions {
    noflush: true,
    lockfs: false,
    timeout_ns: None,
};

const SUSPEND_NOFLUSH: Request = Request::Suspend(NOFLUSH);

/// A device with this table, over four disks of 64 sectors that take 16 at once.
fn running(cores: u16, seed: u64, table: &str) -> Cluster {
    running_with(cores, seed, false, table)
}

fn running_with(cores: u16, seed: u64, ordered: bool, table: &str) -> Cluster {
    let mut cluster = Cluster::new(cores, seed);
    for _ in 0..4 {
        cluster.add_disk(64, |lower| lower.transfer_sectors_max = 16);
    }
    cluster.device(0, ordered, table);
    cluster.seen();
    cluster
}

/// A device of which every path has failed.
fn pathless(cores: u16, seed: u64, table: &str) -> Cluster {
    let mut cluster = running(cores, seed, table);
    say(&mut cluster, "fail_path d0");
    say(&mut cluster, "fail_path d1");
    cluster
}

fn tell(cluster: &mut Cluster, text: &str) -> Answer {
    let words = text.split(' ').map(Into::into).collect();
    cluster.ask(DEVICE, Request::Message { sector: 0, words })
}

/// A message that succeeds, and has reached every core.
fn say(cluster: &mut Cluster, text: &str) {
    assert_eq!(tell(cluster, text), Ok(Reply::Text(None)), "{text}");
    deliver_all(cluster);
}

/// Delivers all messages that are on their way, and does nothing else: no I/O ends, no time passes.
fn deliver_all(cluster: &mut Cluster) {
    let cores = cluster.mappers.len();
    let mut any = true;
    while std::mem::take(&mut any) {
        for to in 0..cores {
            (0..=cores).for_each(|from| any |= cluster.deliver(from, to));
        }
    }
}

/// Writes one sector of `core + 1` per core, and reads.
fn submit_all(cluster: &mut Cluster, each: u64) -> Vec<u32> {
    let mut commands = Vec::new();
    for core in 0..cluster.mappers.len() as u16 {
        for n in 0..each {
            let sector = u64::from(core) * 8 + n % 8;
            let ask = match n % 2 {
                0 => Ask::fill(sector, 1, core as u8 + 1),
                _ => Ask::read(sector, 1),
            };
            commands.push(cluster.submit(core, DEVICE, ask));
        }
    }
    commands
}

/// How many of these originals ended so.
fn ended(cluster: &Cluster, commands: &[u32], status: Status) -> usize {
    let so = |command: &&u32| cluster.status(**command) == Some(status);
    commands.iter().filter(so).count()
}

fn none_ended(cluster: &Cluster, commands: &[u32]) -> bool {
    commands
        .iter()
        .all(|command| cluster.status(*command).is_none())
}

/// All cores together: (in flight, held by the target, parked by the core, pushed back so far).
fn counts(cluster: &Cluster) -> (u64, u64, u64, u64) {
    let mut all = (0, 0, 0, 0);
    for mapper in &cluster.mappers {
        let stats = mapper.stats(DEVICE).expect("the device is there");
        all.0 += stats.in_flight;
        all.1 += stats.held;
        all.2 += stats.parked;
        all.3 += stats.pushed_back;
    }
    all
}

fn line(cluster: &mut Cluster, request: Request) -> String {
    match cluster.ask(DEVICE, request) {
        Ok(Reply::Lines(lines)) => lines[0].text.clone(),
        other => panic!("{other:?}"),
    }
}

/// The INFO text.
fn info(cluster: &mut Cluster) -> String {
    line(cluster, Request::Status)
}

/// The TABLE text of the live table.
fn table(cluster: &mut Cluster) -> String {
    line(cluster, Request::Table { inactive: false })
}

/// The INFO text of one core's copy.
fn info_on(cluster: &Cluster, core: usize) -> String {
    let device = cluster.mappers[core].device(DEVICE);
    let live = device.and_then(|device| device.live.as_ref());
    let live = live.expect("a live table");
    let segment = live.segments().next().expect("one target");
    AnyTarget::status(&segment.target, &live.table.lowers)
}

/// Every core's selectors count nothing (AT-45).
fn demand_zero_counters(cluster: &Cluster) {
    for core in 0..cluster.mappers.len() {
        let text = info_on(cluster, core);
        let words: Vec<_> = text.split(' ').collect();
        let paths: Vec<_> = words
            .iter()
            .enumerate()
            .filter(|(_, w)| w.starts_with('d'))
            .collect();
        assert!(!paths.is_empty());
        for (at, path) in paths {
            assert_eq!(words[at + 3], "0", "{path} on core {core}: {text}");
        }
    }
}
