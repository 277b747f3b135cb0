//! Task attributes (SAM-5, 8.6): who waits for whom.

use super::super::harness::{Harness, Sent, UNSOLICITED, data_out, management};
use crate::dm::{Op, Status};
use crate::iscsi::pdu::opcode;
use crate::scsi::Lun;

pub(super) const SIMPLE: u8 = 1;
pub(super) const ORDERED: u8 = 2;
pub(super) const HEAD_OF_QUEUE: u8 = 3;
pub(super) const ACA: u8 = 4;
pub(super) const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
pub(super) const WRITE: [u8; 10] = [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0];
pub(super) const TEST_UNIT_READY: [u8; 6] = [0; 6];

pub(super) fn start() -> Harness {
    let mut harness = Harness::new();
    harness.login("InitialR2T=No iSCSIProtocolLevel=2");
    harness.attend();
    harness.backend.hold = true;
    harness.backend.requests.clear();
    harness
}

pub(super) fn send(harness: &mut Harness, tag: u32, attribute: u8, cdb: &[u8], data: &[u8]) {
    let length = if cdb[0] == READ[0] { 512 } else { 0 };
    let mut bytes = harness.command_bytes(tag, cdb, length, data.len() as u32, data, true);
    bytes[1] |= attribute;
    harness.feed(&bytes, usize::MAX);
}

pub(super) fn manage(harness: &mut Harness, function: u8, referenced: u32) -> Sent {
    let request = management(function, 90, referenced, harness.command_sn);
    let bytes = harness.pdu(request, &[]);
    harness.feed(&bytes, usize::MAX);
    let mut sent = harness.take();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].header.opcode(), opcode::TASK_MANAGEMENT_RESPONSE);
    sent.remove(0)
}

/// The tags of what was answered since the last look, in order, each with its status.
pub(super) fn answered(harness: &mut Harness) -> Vec<(u32, u8)> {
    let ends = |sent: &Sent| {
        sent.header.opcode() == opcode::RESPONSE
            || sent.header.opcode() == opcode::DATA_IN && sent.header.flags() & 1 != 0
    };
    let sent = harness.take();
    let ended = sent.iter().filter(|sent| ends(sent));
    ended
        .map(|sent| (sent.header.task_tag(), sent.header.0[3]))
        .collect()
}

/// What has reached the device since the last look.
pub(super) fn begun(harness: &mut Harness) -> Vec<Op> {
    let requests = harness.backend.requests.drain(..);
    requests.map(|request| request.op).collect()
}

/// An ORDERED command waits for all that came before it, and all that come after it wait for it; commands without data do as well.
#[test]
fn an_ordered_command_is_a_fence() {
    let mut harness = start();
    send(&mut harness, 1, SIMPLE, &READ, &[]);
    send(&mut harness, 2, SIMPLE, &READ, &[]);
    send(&mut harness, 3, ORDERED, &WRITE, &[7; 512]);
    send(&mut harness, 4, SIMPLE, &READ, &[]);
    send(&mut harness, 5, SIMPLE, &TEST_UNIT_READY, &[]);
    send(&mut harness, 6, ORDERED, &READ, &[]);
    send(&mut harness, 7, SIMPLE, &READ, &[]);
    assert_eq!(begun(&mut harness), [Op::Read, Op::Read]);
    harness.finish();
    assert_eq!(answered(&mut harness), [(1, 0), (2, 0)]);
    assert_eq!(begun(&mut harness), [Op::Write]);
    harness.finish();
    assert_eq!(answered(&mut harness), [(3, 0), (5, 0)]);
    assert_eq!(begun(&mut harness), [Op::Read]);
    harness.finish();
    assert_eq!(answered(&mut harness), [(4, 0)]);
    assert_eq!(begun(&mut harness), [Op::Read]);
    harness.finish();
    assert_eq!(answered(&mut harness), [(6, 0)]);
    assert_eq!(begun(&mut harness), [Op::Read]);
    // Nothing is ORDERED any more: nothing waits.
    send(&mut harness, 8, SIMPLE, &READ, &[]);
    assert_eq!(begun(&mut harness), [Op::Read]);
    harness.finish();
    assert_eq!(answered(&mut harness), [(7, 0), (8, 0)]);
    harness.close();
}

/// HEAD OF QUEUE passes what waits; ACA without a fault, and what is no attribute, is refused.
#[test]
fn head_of_queue_passes() {
    let mut harness = start();
    send(&mut harness, 1, SIMPLE, &READ, &[]);
    send(&mut harness, 2, ORDERED, &READ, &[]);
    send(&mut harness, 3, SIMPLE, &READ, &[]);
    send(&mut harness, 4, HEAD_OF_QUEUE, &WRITE, &[7; 512]);
    assert_eq!(begun(&mut harness), [Op::Read, Op::Write]);
    for attribute in ACA..=7 {
        send(&mut harness, 9, attribute, &READ, &[]);
        let refused = harness.take().remove(0);
        assert_eq!(refused.data[14], 0x49, "INVALID MESSAGE");
    }
    for _ in 0..3 {
        harness.finish();
    }
    let tags = [(1, 0), (4, 0), (2, 0), (3, 0)];
    assert_eq!(answered(&mut harness), tags);
    harness.close();
}

/// A write in line takes its data from wherever it comes, and is looked at again when its turn has come: what it found may have changed.
#[test]
fn a_write_in_line_keeps_its_data() {
    let mut harness = start();
    send(&mut harness, 1, ORDERED, &READ, &[]);
    // All of it immediate; half of it unasked for; all of it asked for.
    send(&mut harness, 2, SIMPLE, &WRITE, &[1; 512]);
    let two: [u8; 10] = [0x2A, 0, 0, 0, 0, 1, 0, 0, 2, 0];
    let bytes = harness.command_bytes(3, &two, 0, 1024, &[2; 512], false);
    harness.feed(&bytes, usize::MAX);
    let rest = data_out(3, UNSOLICITED, 0, 512, true);
    let bytes = harness.pdu(rest, &[3; 512]);
    harness.feed(&bytes, 100);
    let four: [u8; 10] = [0x2A, 0, 0, 0, 0, 3, 0, 0, 1, 0];
    let bytes = harness.command_bytes(4, &four, 0, 512, &[], true);
    harness.feed(&bytes, usize::MAX);
    assert_eq!(begun(&mut harness), [Op::Read]);
    assert!(harness.take().is_empty(), "nothing is asked for yet");
    harness.finish();
    assert_eq!(begun(&mut harness), [Op::Write, Op::Write]);
    let sent = harness.take();
    let ready = sent.last().expect("an R2T").header;
    assert_eq!(ready.opcode(), opcode::READY);
    let header = data_out(4, ready.u32(20), 0, 0, true);
    let bytes = harness.pdu(header, &[4; 512]);
    harness.feed(&bytes, usize::MAX);
    assert_eq!(begun(&mut harness), [Op::Write]);
    harness.finish();
    assert_eq!(answered(&mut harness), [(2, 0), (3, 0), (4, 0)]);
    let written: Vec<u8> = (0..4)
        .map(|block| harness.backend.bytes[block * 512])
        .collect();
    assert_eq!(written, [1, 2, 3, 4]);
    // The unit becomes write-protected while a write waits whose data is there.
    let protect = [0x15, 0x10, 0, 0, 16, 0];
    let mut page = vec![0; 16];
    page[4..8].copy_from_slice(&[0x0A, 10, 0x20, 0x10]);
    page[8] = 0x08;
    page[12..14].fill(0xFF);
    send(&mut harness, 5, SIMPLE, &READ, &[]);
    send(&mut harness, 6, ORDERED, &protect, &page);
    let bytes = harness.command_bytes(7, &two, 0, 1024, &[2; 512], false);
    harness.feed(&bytes, usize::MAX);
    let rest = data_out(7, UNSOLICITED, 0, 512, true);
    let bytes = harness.pdu(rest, &[3; 512]);
    harness.feed(&bytes, usize::MAX);
    harness.finish();
    assert_eq!(answered(&mut harness), [(5, 0), (6, 0), (7, 2)]);
    // And the other way round: what forbids a write goes before its turn, while the rest of its data is on its way.
    page[8] = 0;
    send(&mut harness, 8, SIMPLE, &READ, &[]);
    send(&mut harness, 9, ORDERED, &protect, &page);
    let bytes = harness.command_bytes(10, &two, 0, 1024, &[5; 512], false);
    harness.feed(&bytes, usize::MAX);
    assert!(harness.take().is_empty(), "it is not its turn");
    harness.finish();
    assert_eq!(answered(&mut harness), [(8, 0), (9, 0)]);
    let rest = data_out(10, UNSOLICITED, 0, 512, true);
    let bytes = harness.pdu(rest, &[6; 512]);
    harness.feed(&bytes, 100);
    harness.finish();
    assert_eq!(answered(&mut harness), [(10, 0)]);
    assert_eq!(
        (harness.backend.bytes[512], harness.backend.bytes[1024]),
        (5, 6)
    );
    harness.close();
}

/// On a device whose flush policy is ordered an ORDERED command is a barrier of the device: a write as with FUA, others behind a flush.
#[test]
fn oq_2_an_ordered_device_has_its_barrier() {
    let mut harness = start();
    harness.backend.ordered = true;
    send(&mut harness, 1, SIMPLE, &WRITE, &[1; 512]);
    harness.finish();
    let fua: Vec<bool> = harness
        .backend
        .requests
        .drain(..)
        .map(|io| io.fua)
        .collect();
    assert_eq!(fua, [false]);
    send(&mut harness, 2, ORDERED, &WRITE, &[2; 512]);
    harness.finish();
    let fua: Vec<bool> = harness
        .backend
        .requests
        .drain(..)
        .map(|io| io.fua)
        .collect();
    assert_eq!(fua, [true]);
    send(&mut harness, 3, ORDERED, &READ, &[]);
    assert_eq!(begun(&mut harness), [Op::Flush]);
    harness.finish();
    assert_eq!(begun(&mut harness), [Op::Read]);
    harness.finish();
    assert_eq!(answered(&mut harness), [(1, 0), (2, 0), (3, 0)]);
    // Nothing is done behind a barrier that failed.
    send(&mut harness, 4, ORDERED, &READ, &[]);
    harness.backend.status = Status::IoError;
    harness.finish();
    assert_eq!(begun(&mut harness), [Op::Flush]);
    assert_eq!(answered(&mut harness), [(4, 2)]);
    harness.close();
}

/// Other units' commands do not wait, and a command in line can be asked about, aborted, and taken along by its connection.
#[test]
fn a_command_in_line_is_managed_like_others() {
    let mut harness = start();
    send(&mut harness, 1, SIMPLE, &READ, &[]);
    send(&mut harness, 2, ORDERED, &WRITE, &[2; 512]);
    send(&mut harness, 3, SIMPLE, &READ, &[]);
    let mut elsewhere = harness.command_bytes(4, &[0x12, 0, 0, 0, 36, 0], 36, 0, &[], true);
    elsewhere[8..16].copy_from_slice(&Lun::encode(5));
    elsewhere[1] |= SIMPLE;
    harness.feed(&elsewhere, usize::MAX);
    assert_eq!(answered(&mut harness), [(4, 0)]);
    assert_eq!(manage(&mut harness, 9, 2).header.0[2], 7, "QUERY TASK");
    assert_eq!(manage(&mut harness, 9, 8).header.0[2], 0);
    assert_eq!(manage(&mut harness, 1, 2).header.0[2], 0, "ABORT TASK");
    assert_eq!(manage(&mut harness, 9, 2).header.0[2], 0);
    // What waited for it does not any more.
    assert_eq!(begun(&mut harness), [Op::Read, Op::Read]);
    harness.finish();
    assert_eq!(answered(&mut harness), [(1, 0), (3, 0)]);
    send(&mut harness, 5, SIMPLE, &READ, &[]);
    send(&mut harness, 6, ORDERED, &WRITE, &[2; 512]);
    send(&mut harness, 7, SIMPLE, &WRITE, &[2; 512]);
    harness.close();
}

/// The functions of RFC 7144, for those who have agreed on them.
#[test]
fn what_rfc_7144_adds() {
    let mut harness = start();
    assert_eq!(manage(&mut harness, 10, 0).header.0[2], 0, "no task");
    send(&mut harness, 1, SIMPLE, &READ, &[]);
    assert_eq!(manage(&mut harness, 10, 0).header.0[2], 7);
    assert_eq!(manage(&mut harness, 12, 0).header.0[2], 0, "no event");
    // The nexus is reset: its command is gone, and it is told so.
    let request = management(11, 91, 0, harness.command_sn);
    let bytes = harness.pdu(request, &[]);
    harness.feed(&bytes, usize::MAX);
    assert!(harness.take().is_empty(), "its command is at the device");
    harness.finish();
    let sent = harness.take();
    assert_eq!((sent.len(), sent[0].header.0[2]), (1, 0));
    let event = manage(&mut harness, 12, 0).header;
    assert_eq!(event.0[2], 7);
    assert_eq!(event.0[8..11], [0x16, 0x29, 0x07]);
    send(&mut harness, 2, SIMPLE, &READ, &[]);
    assert_eq!(answered(&mut harness), [(2, 2)]);
    harness.close();
    let mut harness = Harness::new();
    harness.login("InitialR2T=No iSCSIProtocolLevel=1");
    let request = management(10, 91, 0, harness.command_sn);
    let bytes = harness.pdu(request, &[]);
    harness.feed(&bytes, usize::MAX);
    assert_eq!(harness.take()[0].header.opcode(), opcode::REJECT);
    harness.close();
}
