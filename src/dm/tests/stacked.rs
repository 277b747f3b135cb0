//! Mapped devices on mapped devices (AT-70).

use super::super::error::Errno;
use super::super::io::{DeviceId, Op};
use super::super::limits::{Lower, LowerId};
use super::super::message::{Reply, Request, SuspendOptions};
use super::super::status::Status;
use super::{RESUME, SUSPEND, clones, for_seeds};
use crate::sim::{Answers, Ask, Cluster};

const TOP: DeviceId = DeviceId(2);
const MIDDLE: DeviceId = DeviceId(1);
const BOTTOM: DeviceId = DeviceId(0);

/// Three levels: `linear` over a stripe over two areas of `linear`.
fn three_levels(cores: u16, seed: u64, ordered: bool) -> Cluster {
    let mut cluster = Cluster::new(cores, seed);
    cluster.add_disks(2);
    cluster.device(BOTTOM.0, ordered, "0 32 linear d0 0\n32 32 linear d1 0");
    stack(&mut cluster, BOTTOM, "bottom");
    cluster.device(MIDDLE.0, ordered, "0 64 striped 2 4 bottom 0 bottom 32");
    stack(&mut cluster, MIDDLE, "middle");
    cluster.device(TOP.0, ordered, "0 48 linear middle 8");
    cluster.seen();
    cluster
}

/// Lets tables name a device.
fn stack(cluster: &mut Cluster, device: DeviceId, name: &str) {
    let limits = cluster.mappers[0].limits(device).expect("it has a table");
    let lower = Lower::of_device(device, name, limits);
    assert_eq!(lower.id, LowerId::of_device(device));
    cluster.add_lower(lower);
}

/// AT-70: contents pass through three levels and back, whatever is split where.
#[test]
fn at_70_three_levels_keep_every_byte() {
    for_seeds(20, |seed| {
        let mut cluster = three_levels(2, seed, seed % 2 == 0);
        (0..2).for_each(|disk| {
            cluster.disk(disk).answers = Answers::Mixed {
                inline: 30,
                busy: 10,
            }
        });
        for round in 0..8u8 {
            let data: Vec<u8> = (0..48 * 512).map(|at| (at / 512) as u8 ^ round).collect();
            let core = u16::from(round % 2);
            assert_eq!(
                cluster.run(core, TOP, Ask::write(0, data.clone())).0,
                Status::Ok
            );
            let (status, read) = cluster.run(1 - core, TOP, Ask::read(0, 48));
            assert_eq!((status, read == data), (Status::Ok, true));
            assert_eq!(cluster.run(core, TOP, Ask::flush()).0, Status::Ok);
        }
        cluster.settle();
        cluster.demand_idle();
    });
}

/// FL-20 in a stack: one flush of the top is one flush of each disk, not one per line of every table.
#[test]
fn a_flush_reaches_every_disk_once() {
    let mut cluster = three_levels(1, 1, false);
    cluster.run(0, TOP, Ask::flush());
    let mut flushes = clones(&cluster);
    flushes.sort_by_key(|(disk, ..)| *disk);
    assert_eq!(flushes, [(0, Op::Flush, false), (1, Op::Flush, false)]);
}

/// AT-70: each level suspended and resumed in every order, under I/O: nothing is lost, nothing dead-locks.
#[test]
fn at_70_levels_suspend_in_any_order() {
    for_seeds(60, |seed| {
        let mut cluster = three_levels(2, seed, seed % 3 == 0);
        (0..2).for_each(|disk| {
            cluster.disk(disk).answers = Answers::Mixed {
                inline: 30,
                busy: 10,
            }
        });
        let orders = [
            [TOP, MIDDLE, BOTTOM],
            [BOTTOM, MIDDLE, TOP],
            [MIDDLE, TOP, BOTTOM],
            [MIDDLE, BOTTOM, TOP],
        ];
        let order = orders[seed as usize % orders.len()];
        let mut commands = Vec::new();
        let mut submit = |cluster: &mut Cluster, count: u8| {
            for n in 0..count {
                let at = u64::from(n) * 3 % 40;
                commands.push(cluster.submit(u16::from(n % 2), TOP, Ask::fill(at, 8, n)));
            }
        };
        submit(&mut cluster, 12);
        cluster.steps(seed);
        let suspended: Vec<_> = order
            .iter()
            .map(|device| {
                let ticket = cluster.request(*device, SUSPEND);
                submit(&mut cluster, 6);
                cluster.steps(seed % 17);
                ticket
            })
            .collect();
        cluster.settle();
        let resumed: Vec<_> = order
            .iter()
            .rev()
            .map(|device| {
                let ticket = cluster.request(*device, RESUME);
                cluster.steps(seed % 13);
                ticket
            })
            .collect();
        cluster.settle();
        for ticket in suspended.into_iter().chain(resumed) {
            assert_eq!(cluster.answer(ticket), Some(Ok(Reply::Done)));
        }
        for command in commands {
            assert_eq!(cluster.status(command), Some(Status::Ok));
        }
        cluster.demand_idle();
    });
}

/// PM-13: what is parked two levels down is found from the top.
#[test]
fn pm_13_an_abort_reaches_what_a_device_beneath_has_parked() {
    let mut cluster = three_levels(1, 1, false);
    cluster.done(BOTTOM, SUSPEND);
    let command = cluster.submit(0, TOP, Ask::fill(0, 16, 1));
    cluster.settle();
    assert_eq!(cluster.status(command), None);
    assert!(cluster.abort(0, TOP, command));
    cluster.settle();
    assert_eq!(cluster.status(command), Some(Status::Aborted));
    cluster.done(BOTTOM, RESUME);
    cluster.settle();
    cluster.demand_idle();
    assert_eq!(clones(&cluster), []);
}

/// FL-28 in a stack: a write with force-unit-access through three levels is durable on disks that take none.
#[test]
fn fl_28_fua_is_kept_through_a_stack() {
    let mut cluster = Cluster::new(1, 1);
    cluster.add_disk(64, |lower| lower.fua = false);
    cluster.device(BOTTOM.0, false, "0 64 linear d0 0");
    stack(&mut cluster, BOTTOM, "bottom");
    cluster.device(TOP.0, false, "0 64 linear bottom 0");
    assert_eq!(cluster.run(0, TOP, Ask::fill(5, 1, 7).fua()).0, Status::Ok);
    assert_eq!(cluster.disk(0).durable(5)[0], 7);
}

/// LC-16: a table smaller than what those above use is refused when it is loaded, when it is exchanged, and, when they have come to use
/// it meanwhile, when it is to become live; whatever way a change takes, and wherever it is given up, those above are told how it ended.
#[test]
fn lc_16_those_above_are_asked_and_told() {
    for_seeds(60, |seed| {
        let mut cluster = Cluster::new(2, seed);
        cluster.add_disks(2);
        cluster.device(BOTTOM.0, false, "0 64 linear d0 0");
        let used = |cluster: &Cluster, sectors| {
            cluster.shared().used_sectors.insert(BOTTOM.0, sectors);
        };
        let refused = |cluster: &mut Cluster, request| {
            let error = cluster.ask(BOTTOM, request).expect_err("refused");
            assert_eq!(error.errno, Errno::Einval);
            assert!(error.reason.starts_with("more of it is used"), "{error}");
            cluster.demand_settled();
        };
        let suspend = SuspendOptions::default();
        let exchange = |cluster: &Cluster, table: &str| Request::Swap {
            table: cluster.table(table),
            open: true,
            suspend,
        };
        used(&cluster, 40);
        let small = cluster.table("0 32 linear d1 0");
        refused(&mut cluster, Request::Load(small.clone()));
        let request = exchange(&cluster, "0 39 linear d1 0");
        refused(&mut cluster, request);
        assert!(!cluster.info(BOTTOM).suspended && !cluster.info(BOTTOM).inactive);

        used(&cluster, 32);
        cluster.done(BOTTOM, Request::Load(small));
        used(&cluster, 33);
        refused(&mut cluster, RESUME);
        assert!(cluster.info(BOTTOM).suspended && !cluster.info(BOTTOM).inactive);
        cluster.done(BOTTOM, RESUME);

        // Changes that end somehow, with a host's I/O on the way.
        cluster.disk(0).answers = Answers::Later;
        let command = cluster.submit(1, BOTTOM, Ask::fill(0, 8, 1));
        let request = match seed % 2 {
            0 => exchange(&cluster, "0 48 linear d1 0"),
            _ => {
                let other = cluster.table("0 48 linear d1 0");
                cluster.done(BOTTOM, Request::Load(other));
                RESUME
            }
        };
        let change = cluster.request(BOTTOM, request);
        cluster.steps(seed % 23);
        let cancel = cluster.request(BOTTOM, Request::Cancel);
        cluster.settle();
        let cancelled = cluster.answer(cancel).expect("answered").is_ok();
        let changed = cluster.answer(change).expect("answered").is_ok();
        assert_eq!(changed, !cancelled);
        assert_eq!(cluster.info(BOTTOM).sectors, if changed { 48 } else { 64 });
        assert_eq!(cluster.status(command), Some(Status::Ok));
        cluster.demand_idle();
    });
}
