//! Flush and FUA under the relaxed policy (3.5): which clones, to whom, and what their errors come to.

use super::super::io::{DeviceId, Op};
use super::super::limits::Lower;
use super::super::status::Status;
use super::clones;
use crate::sim::{Answers, Ask, Cluster};

const DEVICE: DeviceId = DeviceId(0);
const FLUSH: (Op, bool) = (Op::Flush, false);

/// A relaxed device over disks of 128 sectors, each as `change` says.
fn over(disks: &[fn(&mut Lower)], table: &str) -> Cluster {
    let mut cluster = Cluster::new(2, 0);
    for change in disks {
        cluster.add_disk(128, change);
    }
    cluster.device(0, false, table);
    cluster.seen();
    cluster
}

fn plain(_: &mut Lower) {}
fn no_fua(lower: &mut Lower) {
    lower.fua = false;
}
fn no_cache(lower: &mut Lower) {
    (lower.volatile_cache, lower.fua) = (false, false);
}
fn no_flush(lower: &mut Lower) {
    (lower.flush, lower.fua) = (false, false);
}

/// The clones of an original that is to end in `status`: (device, operation, force-unit-access).
fn clones_of(cluster: &mut Cluster, ask: Ask, status: Status) -> Vec<(usize, Op, bool)> {
    cluster.seen();
    let what = format!("{ask:?}");
    assert_eq!(cluster.run(1, DEVICE, ask).0, status, "{what}");
    cluster.demand_idle();
    clones(cluster)
}

/// AT-61, FL-20: ten linear targets on one device are one flush; with a target that does not bypass, one each (FL-16).
#[test]
fn at_61_flush_bypass_is_one_flush_per_device() {
    let ten: String = (0..10)
        .map(|at| format!("{} 8 linear d0 {}\n", at * 8, at * 8))
        .collect();
    let mut cluster = over(&[plain], &ten);
    assert_eq!(clones_of(&mut cluster, Ask::flush(), Status::Ok).len(), 1);
    cluster.switch_to(DEVICE, &format!("{ten}80 8 zero\n"));
    assert_eq!(clones_of(&mut cluster, Ask::flush(), Status::Ok).len(), 10);
    assert_eq!(cluster.disk(0).flushes, 11);
}

/// AT-62, FL-22: each stripe's device, once, with and without the bypass.
#[test]
fn at_62_striped_flushes_every_device() {
    let stripe = "0 96 striped 3 8 d0 0 d1 0 d2 0";
    let mut cluster = over(&[plain, plain, plain], stripe);
    let all: Vec<_> = (0..3).map(|disk| (disk, FLUSH.0, FLUSH.1)).collect();
    assert_eq!(clones_of(&mut cluster, Ask::flush(), Status::Ok), all);
    cluster.switch_to(DEVICE, &format!("{stripe}\n96 8 error"));
    assert_eq!(clones_of(&mut cluster, Ask::flush(), Status::Ok), all);
}

/// FL-10, 6.1: nothing to flush is a success without any clone, also where every I/O fails.
#[test]
fn fl_10_a_flush_of_nothing_succeeds() {
    for table in ["0 8 zero", "0 8 error", "0 8 error\n8 8 zero"] {
        let mut cluster = over(&[], table);
        assert_eq!(clones_of(&mut cluster, Ask::flush(), Status::Ok), []);
    }
}

/// FL-29: no volatile cache, no lower I/O; a cache that cannot be flushed is "not supported", and outranks other errors.
#[test]
fn fl_29_devices_without_cache_or_without_flush() {
    let table = "0 8 linear d0 0\n8 8 linear d1 0";
    let mut cluster = over(&[no_cache, plain], table);
    let first = clones_of(&mut cluster, Ask::flush(), Status::Ok);
    assert_eq!(first, [(1, FLUSH.0, FLUSH.1)]);
    for can in [0, 1] {
        let mut disks = [no_flush as fn(&mut Lower); 2];
        disks[can] = plain;
        let mut cluster = over(&disks, table);
        let clones = clones_of(&mut cluster, Ask::flush(), Status::NotSupported);
        assert_eq!(clones.len(), 1, "the other device is flushed all the same");
        cluster.disk(can).answers = Answers::Fail(Status::Transport);
        clones_of(&mut cluster, Ask::flush(), Status::NotSupported);
    }
}

/// FL-6, FL-16: all clones are issued at once, the flush ends after the last, and the first error is its status unless
/// "not supported" comes.
#[test]
fn fl_6_a_flush_ends_with_its_last_clone_and_the_right_error() {
    use Status::{IoError, NotSupported, Ok, Transport};
    let table = "0 96 striped 3 8 d0 0 d1 0 d2 0";
    for (ends, status) in [
        ([Ok, Ok, Ok], Ok),
        ([IoError, Transport, Ok], IoError),
        ([Ok, Transport, IoError], Transport),
        ([IoError, NotSupported, Transport], NotSupported),
        ([NotSupported, IoError, Transport], NotSupported),
    ] {
        let mut cluster = over(&[plain, plain, plain], table);
        for (disk, end) in ends.iter().enumerate() {
            cluster.disk(disk).answers = match end {
                Ok => Answers::Later,
                error => Answers::FailLater(*error),
            };
        }
        let command = cluster.submit(0, DEVICE, Ask::flush());
        assert_eq!(clones(&cluster).len(), 3, "none waits for another");
        for disk in 0..3 {
            assert_eq!(cluster.status(command), None);
            cluster.release(disk);
        }
        assert_eq!(cluster.status(command), Some(status), "{ends:?}");
    }
}

/// FL-28: FUA goes down with every piece where it can, and then no flush is needed.
#[test]
fn fl_28_fua_is_passed_to_devices_that_take_it() {
    let mut cluster = over(&[plain, plain], "0 64 striped 2 8 d0 0 d1 0");
    let ask = Ask::fill(4, 20, 1).fua();
    let clones = clones_of(&mut cluster, ask, Status::Ok);
    let expected = [
        (0, Op::Write, true),
        (1, Op::Write, true),
        (0, Op::Write, true),
    ];
    assert_eq!(clones, expected);
    assert_eq!(cluster.disk(0).durable(4)[0], 1);
}

/// FL-28: emulated by flushing, after the data, exactly the devices that were written and took no FUA.
#[test]
fn fl_28_fua_is_emulated_on_the_devices_written_only() {
    let table = "0 8 linear d0 0\n8 8 linear d1 0\n16 8 linear d2 0\n24 8 linear d3 0";
    let mut cluster = over(&[no_fua, plain, no_fua, no_cache], table);
    let write = |disk, fua| (disk, Op::Write, fua);
    let flush = |disk| (disk, Op::Flush, false);
    for (sector, sectors, expected) in [
        (0, 8, vec![write(0, false), flush(0)]),
        (4, 8, vec![write(0, false), write(1, true), flush(0)]),
        (8, 4, vec![write(1, true)]),
        (12, 8, vec![write(1, true), write(2, false), flush(2)]),
        (24, 8, vec![write(3, false)]),
        (
            0,
            32,
            vec![
                write(0, false),
                write(1, true),
                write(2, false),
                write(3, false),
                flush(0),
                flush(2),
            ],
        ),
    ] {
        let ask = Ask::fill(sector, sectors, 7).fua();
        assert_eq!(
            clones_of(&mut cluster, ask, Status::Ok),
            expected,
            "{sector}"
        );
        for disk in 0..4 {
            for at in 0..8 {
                let disk = cluster.disk(disk);
                assert_eq!(disk.sector(at), disk.durable(at));
            }
        }
    }
}

/// FL-28: a device named by several targets is flushed once; the flush waits for the last piece of data.
#[test]
fn fl_28_the_flush_follows_all_the_data_and_comes_once() {
    let mut cluster = over(&[no_fua], "0 8 linear d0 0\n8 8 linear d0 8");
    cluster.disk(0).answers = Answers::Later;
    let command = cluster.submit(0, DEVICE, Ask::fill(0, 16, 1).fua());
    cluster.release(0);
    assert_eq!(
        clones(&cluster).len(),
        2,
        "no flush while data is under way"
    );
    cluster.release(0);
    assert_eq!(clones(&cluster), [(0, Op::Flush, false)]);
    assert_eq!(cluster.status(command), None);
    cluster.release(0);
    assert_eq!(cluster.status(command), Some(Status::Ok));
}

/// FL-27, FL-28: a write whose flush fails, or cannot be done, has failed; one whose data failed flushes nothing.
#[test]
fn fl_27_a_fua_write_fails_with_its_flush() {
    let table = "0 8 linear d0 0\n8 8 linear d1 0";
    let mut cluster = over(&[no_fua, no_flush], table);
    cluster.disk(0).script = [Answers::Inline, Answers::Fail(Status::Transport)].into();
    clones_of(&mut cluster, Ask::fill(0, 8, 1).fua(), Status::Transport);
    let clones = clones_of(&mut cluster, Ask::fill(8, 8, 1).fua(), Status::NotSupported);
    assert_eq!(clones, [(1, Op::Write, false)]);
    cluster.disk(0).script = [Answers::Fail(Status::Medium)].into();
    let clones = clones_of(&mut cluster, Ask::fill(0, 8, 1).fua(), Status::Medium);
    assert_eq!(clones, [(0, Op::Write, false)]);
}

/// FL-28 for write-zeroes, which has no FUA below: emulated on the devices whose share was zeroed.
#[test]
fn fl_28_write_zeroes_with_fua_flushes_what_it_zeroed() {
    let mut cluster = over(&[plain, no_cache, plain], "0 96 striped 3 8 d0 0 d1 0 d2 0");
    let ask = Ask::range(Op::WriteZeroes, 0, 16).fua();
    let expected = [
        (0, Op::WriteZeroes, false),
        (1, Op::WriteZeroes, false),
        (0, Op::Flush, false),
    ];
    assert_eq!(clones_of(&mut cluster, ask, Status::Ok), expected);
    assert_eq!(cluster.disk(2).flushes, 0);
}

/// The cost of finding what a huge write-zeroes left unflushed is by stripes, not by chunks: 2^31 sectors in chunks of 1
/// would otherwise hold the core for seconds.
#[test]
fn write_zeroes_with_fua_of_a_huge_range_is_cheap() {
    let mut cluster = Cluster::new(1, 0);
    cluster.add_disk(1, plain);
    cluster.disk(0).lower.sectors = 1 << 33;
    cluster.disk(0).answers = Answers::Fail(Status::Ok);
    cluster.device(0, false, "0 8589934592 striped 1 1 d0 0");
    let ask = Ask::range(Op::WriteZeroes, 0, u32::MAX).fua();
    let clones = clones_of_core_0(&mut cluster, ask);
    assert_eq!(clones, [(0, Op::WriteZeroes, false), (0, Op::Flush, false)]);
}

fn clones_of_core_0(cluster: &mut Cluster, ask: Ask) -> Vec<(usize, Op, bool)> {
    cluster.seen();
    assert_eq!(cluster.run(0, DEVICE, ask).0, Status::Ok);
    clones(cluster)
}

/// AT-92: a relaxed flush, FUA emulation and all, sends no message to another core.
#[test]
fn at_92_relaxed_flushes_send_no_message() {
    let mut cluster = over(&[no_fua, no_fua], "0 64 striped 2 8 d0 0 d1 0");
    let before = cluster.shared().messages;
    clones_of(&mut cluster, Ask::flush(), Status::Ok);
    clones_of(&mut cluster, Ask::fill(0, 64, 1).fua(), Status::Ok);
    assert_eq!(cluster.shared().messages, before);
}
