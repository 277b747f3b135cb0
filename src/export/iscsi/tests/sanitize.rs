//! SANITIZE: it outlives its command, and begins when what came before has ended.

use super::super::harness::{Harness, IQN, management};
use crate::dm::{Op, Status};
use crate::iscsi::pdu::opcode;
use crate::scsi::cdb::opcode as op;

const PATTERN: u8 = 0xA5;

/// OVERWRITE of a one-byte pattern, with IMMED or without: its CDB and parameter list.
fn overwrite(immediately: bool) -> ([u8; 10], [u8; 8]) {
    let mut cdb = [op::SANITIZE, 0x21, 0, 0, 0, 0, 0, 0, 5, 0];
    cdb[1] |= u8::from(immediately) << 7;
    (cdb, [1, 0, 0, 1, PATTERN, 0, 0, 0])
}

fn session() -> Harness {
    let mut harness = Harness::new();
    harness.login("HeaderDigest=None");
    harness.attend();
    harness
}

/// Begins an overwrite that the device keeps.
fn held(immediately: bool) -> Harness {
    let mut harness = session();
    harness.backend.hold = true;
    let (cdb, list) = overwrite(immediately);
    harness.command(10, &cdb, 0, &list);
    assert!(harness.backend.held() > 0);
    harness
}

/// Sense key, code and qualifier of the answer to TEST UNIT READY; `None` when it is ready.
fn ready(harness: &mut Harness) -> Option<[u8; 3]> {
    harness.command(99, &[0; 6], 0, &[]);
    let sent = harness.take();
    let answer = sent.last().expect("an answer");
    (answer.header.0[3] != 0).then(|| [answer.data[4], answer.data[14], answer.data[15]])
}

/// Lets the device finish everything.
fn finish(harness: &mut Harness) {
    harness.backend.hold = false;
    harness.finish();
    assert!(harness.local.background.is_empty());
}

fn is_overwritten(harness: &Harness) -> bool {
    harness.backend.bytes.iter().all(|&byte| byte == PATTERN)
}

const IN_PROGRESS: Option<[u8; 3]> = Some([2, 0x04, 0x1B]);
const FAILED: Option<[u8; 3]> = Some([3, 0x31, 0x03]);

#[test]
fn a_command_is_answered_when_all_is_overwritten() {
    let mut harness = held(false);
    assert_eq!(ready(&mut harness), IN_PROGRESS);
    finish(&mut harness);
    let sent = harness.take();
    assert_eq!((sent.len(), sent[0].header.task_tag()), (1, 10));
    assert_eq!(sent[0].header.0[3], 0);
    assert!(is_overwritten(&harness));
    let last = harness.backend.requests.last().map(|request| request.op);
    assert_eq!(last, Some(Op::Flush));
    assert_eq!(ready(&mut harness), None);
    harness.close();
}

/// IMMED: the answer comes when the parameter list was understood, not before.
#[test]
fn a_command_may_be_answered_at_once() {
    let mut harness = session();
    let (cdb, mut list) = overwrite(true);
    list[0] = 0;
    harness.command(10, &cdb, 0, &list);
    assert_eq!(harness.take()[0].data[14], 0x26);
    assert_eq!(ready(&mut harness), None);
    let mut harness = held(true);
    assert_eq!(harness.take()[0].header.0[3], 0);
    assert_eq!(ready(&mut harness), IN_PROGRESS);
    finish(&mut harness);
    assert!(is_overwritten(&harness));
    harness.close();
}

/// SBC-3, 4.11.2: neither an abort, nor a reset, nor the end of the session ends it.
#[test]
fn it_outlives_its_command() {
    for function in [1, 2, 5, 6] {
        let mut harness = held(false);
        let request = management(function, 50, 10, harness.command_sn);
        let bytes = harness.pdu(request, &[]);
        harness.feed(&bytes, usize::MAX);
        let sent = harness.take();
        assert_eq!(sent.len(), 1, "function {function}");
        assert_eq!(sent[0].header.opcode(), opcode::TASK_MANAGEMENT_RESPONSE);
        assert_eq!(harness.session.outstanding(), 0);
        finish(&mut harness);
        assert!(is_overwritten(&harness));
        harness.close();
    }
    let mut harness = held(false);
    harness.with(|session, cx| session.kill(cx));
    assert!(harness.session.is_finished());
    finish(&mut harness);
    assert!(is_overwritten(&harness));
    harness.close();
}

/// A write that was accepted before is written over, also when its data comes later.
#[test]
fn what_came_before_is_waited_for() {
    let mut harness = session();
    let write = [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    let bytes = harness.command_bytes(9, &write, 0, 512, &[], true);
    harness.feed(&bytes, usize::MAX);
    let ready_to_transfer = harness.take().remove(0).header;
    assert_eq!(ready_to_transfer.opcode(), opcode::READY);
    let (cdb, list) = overwrite(true);
    harness.command(10, &cdb, 0, &list);
    assert!(harness.backend.requests.is_empty());
    let tag = ready_to_transfer.u32(20);
    let data = super::super::harness::data_out(9, tag, 0, 0, true);
    let bytes = harness.pdu(data, &[0x11; 512]);
    harness.feed(&bytes, usize::MAX);
    assert!(is_overwritten(&harness));
    harness.close();
}

/// A device that fails leaves a unit that says so; one that is removed ends it.
#[test]
fn what_fails_says_so() {
    let mut harness = held(false);
    harness.backend.status = Status::Medium;
    finish(&mut harness);
    let sent = harness.take();
    assert_eq!((sent[0].data[4], sent[0].data[14]), (3, 0x31));
    assert_eq!(ready(&mut harness), FAILED);
    harness.close();
    let mut harness = held(false);
    let (id, _) = harness.target.remove_unit(IQN, 0).expect("it is there");
    harness.changed(id);
    let told = harness.take();
    let answer = told
        .iter()
        .find(|told| told.header.opcode() == opcode::RESPONSE)
        .expect("an answer");
    assert_eq!(
        (answer.header.0[3], answer.data[14]),
        (2, 0x25),
        "what was not done is not said to be"
    );
    let writes = harness.backend.requests.len();
    finish(&mut harness);
    assert_eq!(harness.backend.requests.len(), writes);
    assert!(harness.take().is_empty(), "answered once");
    harness.close();
}

/// A target that stops does not wait until all is overwritten.
#[test]
fn it_ends_with_the_target() {
    let mut harness = held(false);
    harness.local.background.stop();
    finish(&mut harness);
    let mut requests = harness.backend.requests.iter();
    assert!(!requests.any(|request| request.op == Op::Flush));
    assert_eq!(harness.take()[0].data[14], 0x31);
    assert_eq!(ready(&mut harness), FAILED);
    harness.close();
}
