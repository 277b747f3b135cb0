//! Write zeroes: as a device does it, and written where it cannot.

use super::super::harness::capsule;
use super::host::{completion, run};
use super::io::{block_io, connected, end};
use crate::dm::{self, Op};
use crate::nvme::Status;
use crate::nvme::opcode::io;

/// DEAC deallocates where that reads as zeroes, and where the wish for durability does not stand against it.
#[test]
fn write_zeroes_deallocates_where_that_reads_as_zeroes() {
    let mut harness = connected();
    let mut wish = block_io(io::WRITE_ZEROES, 3, 4);
    wish.set_deallocate();
    let mut durable = wish;
    durable.set_force_unit_access();
    run(&mut harness, &wish, &[]);
    run(&mut harness, &durable, &[]);
    run(&mut harness, &block_io(io::WRITE_ZEROES, 3, 4), &[]);
    let mut geometry = harness.backend.geometry.unwrap();
    geometry.discard_zeroes = false;
    let subsystem = harness.session.queue.as_ref().unwrap().subsystem;
    let namespace = harness.local.namespaces(subsystem).get_mut(1).unwrap();
    namespace.set_geometry(Some(geometry));
    run(&mut harness, &wish, &[]);
    let ops: Vec<Op> = harness.backend.requests.iter().map(|one| one.op).collect();
    let zeroes = Op::WriteZeroes;
    assert_eq!(ops, [Op::Discard, zeroes, zeroes, zeroes]);
    end(harness);
}

#[test]
fn zeroes_are_written_where_the_device_cannot() {
    let mut harness = connected();
    let mut geometry = harness.backend.geometry.unwrap();
    geometry.write_zeroes = false;
    let subsystem = harness.session.queue.as_ref().unwrap().subsystem;
    harness
        .local
        .namespaces(subsystem)
        .get_mut(1)
        .unwrap()
        .set_geometry(Some(geometry));
    for hold in [false, true] {
        harness.backend.bytes.fill(0xFF);
        harness.backend.requests.clear();
        harness.backend.hold = hold;
        harness.feed(
            &capsule(&block_io(io::WRITE_ZEROES, 1, 200), &[]),
            usize::MAX,
        );
        while harness.backend.held() > 0 {
            harness.finish();
        }
        assert_eq!(completion(&mut harness, 7).0, Status::SUCCESS);
        let writes: Vec<_> = harness
            .backend
            .requests
            .iter()
            .map(|one| (one.op, one.sector, one.sectors))
            .collect();
        assert_eq!(writes, [(Op::Write, 1, 128), (Op::Write, 129, 72)]);
        assert!(
            harness.backend.bytes[512..201 * 512]
                .iter()
                .all(|&byte| byte == 0)
        );
        assert_eq!(
            (harness.backend.bytes[511], harness.backend.bytes[201 * 512]),
            (0xFF, 0xFF)
        );
    }
    end(harness);
}

/// An abort cuts a write zeroes that is written in portions: the one under way is the last, and the command ends as aborted.
#[test]
fn an_abort_cuts_zeroes_that_are_written() {
    let mut harness = connected();
    harness.backend.hold = true;
    let zeroes = block_io(io::WRITE_ZEROES, 0, 256);
    harness.feed(&capsule(&zeroes, &[]), usize::MAX);
    // Refused as a whole, so it is written.
    harness.backend.status = dm::Status::NotSupported;
    harness.finish();
    harness.backend.status = dm::Status::Ok;
    assert_eq!(harness.backend.requests.len(), 2);
    assert_eq!(harness.backend.requests[1].sectors, 128);
    // A device says that it has aborted whatever it holds; this one is below it.
    harness.backend.parks = false;
    let id = zeroes.command_id();
    assert!(harness.with(|session, cx| session.abort_command(id, cx)));
    harness.finish();
    assert_eq!(completion(&mut harness, id).0, Status::ABORT_REQUESTED);
    assert_eq!(harness.backend.requests.len(), 2, "no further portion");
    end(harness);
}
