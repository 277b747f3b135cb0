//! EXTENDED COPY: a command that works on two units, and what happens to it when something happens to the other one.

use super::super::harness::{Harness, IQN, Sent, management};
use crate::dm::{DeviceId, Op, Status};
use crate::iscsi::pdu::opcode;
use crate::scsi::Lun;

/// A session with two units, 0 and 1.
fn two_units() -> Harness {
    let mut harness = Harness::serving(|config| {
        let mut second = config.targets[0].luns[0].clone();
        (second.lun, second.device, second.uuid) = (1, DeviceId(1), [1; 16]);
        config.targets[0].luns.push(second);
    });
    harness.login("HeaderDigest=None");
    harness.attend();
    harness
}

/// A copy of so many segments of one block each, from unit 0 to unit 1: its CDB and parameter list.
fn copy(segments: u8) -> ([u8; 16], Vec<u8>) {
    let mut list = vec![0; 16];
    (list[0], list[3]) = (1, 64);
    let size = u32::from(segments) * 28;
    list[8..12].copy_from_slice(&size.to_be_bytes());
    for uuid in [*b"01234567", [1; 8]] {
        list.extend_from_slice(&[0xE4, 0, 0, 0, 1, 3, 0, 8]);
        list.extend_from_slice(&[uuid[0] & 0x0F | 0x30]);
        list.extend_from_slice(&uuid[1..]);
        list.extend_from_slice(&[0; 14]);
        list.extend_from_slice(&512u16.to_be_bytes());
    }
    for segment in 0..segments {
        let mut descriptor = [0; 28];
        (descriptor[0], descriptor[3], descriptor[7], descriptor[11]) = (2, 0x18, 1, 1);
        (descriptor[19], descriptor[27]) = (segment, 100 + segment);
        list.extend_from_slice(&descriptor);
    }
    let mut cdb = [0; 16];
    cdb[0] = 0x83;
    cdb[10..14].copy_from_slice(&(list.len() as u32).to_be_bytes());
    (cdb, list)
}

/// Begins a copy that the devices keep.
fn held() -> Harness {
    let mut harness = two_units();
    harness.backend.hold = true;
    let (cdb, list) = copy(1);
    harness.command(10, &cdb, 0, &list);
    assert!(harness.take().is_empty());
    harness
}

/// The sense key and code of a response.
fn reason(sent: &Sent) -> (u8, u8, u8) {
    assert_eq!(sent.header.opcode(), opcode::RESPONSE);
    (sent.data[4], sent.data[14], sent.data[15])
}

fn manage(harness: &mut Harness, function: u8, lun: u16) {
    let mut request = management(function, 50, 0xFFFF_FFFF, harness.command_sn);
    request.put_lun(Lun::encode(lun));
    let bytes = harness.pdu(request, &[]);
    harness.feed(&bytes, usize::MAX);
}

/// A copy of many pieces lets others have their turn, and ends.
#[test]
fn a_long_copy_takes_turns() {
    let mut harness = two_units();
    harness.backend.bytes[..64 * 512].fill(0x5A);
    let (cdb, list) = copy(64);
    harness.command(10, &cdb, 0, &list);
    let sent = harness.take();
    assert_eq!((sent.len(), sent[0].header.0[3]), (1, 0));
    assert!(
        harness.backend.bytes[100 * 512..164 * 512]
            .iter()
            .all(|&byte| byte == 0x5A)
    );
    let of = |op: Op| {
        let requests = harness.backend.requests.iter();
        let mut devices: Vec<u32> = requests
            .filter(|request| request.op == op)
            .map(|request| request.device.0)
            .collect();
        devices.dedup();
        devices
    };
    assert_eq!((of(Op::Read), of(Op::Write)), (vec![0], vec![1]));
    harness.close();
}

/// ABORT TASK finds a copy that has let others have their turn; nothing of it follows, and it has no response.
#[test]
fn a_copy_is_aborted_between_two_pieces() {
    let mut harness = two_units();
    let (cdb, list) = copy(64);
    let size = list.len() as u32;
    let mut bytes = harness.command_bytes(10, &cdb, 0, size, &list, true);
    let abort = management(1, 50, 10, harness.command_sn);
    bytes.extend(harness.pdu(abort, &[]));
    harness.feed(&bytes, usize::MAX);
    let sent = harness.take();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].header.opcode(), opcode::TASK_MANAGEMENT_RESPONSE);
    assert_eq!(sent[0].header.0[2], 0);
    assert!(harness.backend.requests.len() < 100);
    harness.close();
}

/// LOGICAL UNIT RESET and CLEAR TASK SET of either unit end the copy. Its initiator is told when it was the other unit, and the function is
/// answered when nothing of the copy is at a device.
#[test]
fn a_reset_of_the_other_unit_ends_a_copy() {
    for function in [4, 5] {
        let mut harness = held();
        manage(&mut harness, function, 1);
        assert!(harness.take().is_empty());
        harness.backend.hold = false;
        harness.finish();
        let sent = harness.take();
        assert_eq!(sent.len(), 2);
        assert_eq!(reason(&sent[0]), (0xA, 0x0D, 0x01));
        assert_eq!(sent[1].header.opcode(), opcode::TASK_MANAGEMENT_RESPONSE);
        let writes = |request: &crate::export::backend::Request| request.op == Op::Write;
        assert!(!harness.backend.requests.iter().any(writes));
        harness.close();
    }
    let mut harness = held();
    manage(&mut harness, 5, 0);
    harness.backend.hold = false;
    harness.finish();
    let sent = harness.take();
    assert_eq!(sent.len(), 1, "a command that was reset has no response");
    harness.close();
}

/// A unit that is removed takes the copies to it along, once its device has done with them.
#[test]
fn a_copy_ends_with_its_units() {
    let mut harness = held();
    let (target, _) = harness.target.remove_unit(IQN, 1).expect("it is there");
    harness.changed(target);
    assert_eq!(harness.session.outstanding(), 1);
    harness.backend.hold = false;
    harness.finish();
    let sent = harness.take();
    let responses = sent
        .iter()
        .filter(|pdu| pdu.header.opcode() == opcode::RESPONSE);
    let reasons: Vec<_> = responses.map(reason).collect();
    assert_eq!(reasons, [(0xA, 0x0D, 0x01)]);
    harness.close();
}

/// What a device says of the destination is what the initiator is told.
#[test]
fn a_device_that_fails_ends_a_copy() {
    let mut harness = held();
    harness.backend.status = Status::Medium;
    harness.backend.hold = false;
    harness.finish();
    let sent = harness.take();
    assert_eq!(reason(&sent[0]), (0xA, 0x0D, 0x01));
    // The source (byte 8) has status CHECK CONDITION and MEDIUM ERROR.
    let sense = &sent[0].data[2..];
    assert_eq!((sense[8], sense[18], sense[21]), (18, 2, 3));
    harness.close();
}
