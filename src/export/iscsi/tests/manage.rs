//! Task management.

use super::super::harness::{Harness, management};
use super::super::pdu::opcode;
use crate::dm::Status;

const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];

fn held(commands: u32) -> Harness {
    let mut harness = Harness::new();
    harness.login("HeaderDigest=None");
    harness.attend();
    harness.backend.hold = true;
    for tag in 0..commands {
        harness.command(10 + tag, &READ, 512, &[]);
    }
    assert!(harness.take().is_empty());
    harness
}

/// The response comes when the command is gone from its device, and the command has none.
#[test]
fn an_aborted_command_is_waited_for() {
    let mut harness = held(2);
    let request = management(1, 50, 10, harness.command_sn);
    let bytes = harness.pdu(request, &[]);
    harness.feed(&bytes, usize::MAX);
    assert!(harness.take().is_empty());
    harness.backend.status = Status::Aborted;
    harness.finish();
    let sent = harness.take();
    let kinds: Vec<u8> = sent.iter().map(|pdu| pdu.header.opcode()).collect();
    assert_eq!(
        kinds,
        [opcode::RESPONSE, opcode::TASK_MANAGEMENT_RESPONSE],
        "the other command, then the function"
    );
    assert_eq!(sent[0].header.task_tag(), 11);
    assert_eq!(sent[1].header.0[2], 0);
    harness.close();
}

#[test]
fn a_task_that_is_not_there_is_said_to_be_so() {
    let mut harness = held(0);
    let request = management(1, 50, 99, harness.command_sn);
    let bytes = harness.pdu(request, &[]);
    harness.feed(&bytes, usize::MAX);
    assert_eq!(harness.take()[0].header.0[2], 1);
    harness.close();
}

/// LOGICAL UNIT RESET ends all commands of the unit, and the next one hears of it.
#[test]
fn a_reset_ends_what_runs() {
    let mut harness = held(3);
    let request = management(5, 50, 0xFFFF_FFFF, harness.command_sn);
    let bytes = harness.pdu(request, &[]);
    harness.feed(&bytes, usize::MAX);
    assert!(harness.take().is_empty());
    harness.backend.hold = false;
    harness.finish();
    let sent = harness.take();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].header.opcode(), opcode::TASK_MANAGEMENT_RESPONSE);
    harness.command(20, &READ, 512, &[]);
    let sent = harness.take();
    assert_eq!((sent[0].header.0[3], sent[0].data[14]), (2, 0x29));
    harness.close();
}

/// A connection that breaks takes its commands along, once the device has done with them.
#[test]
fn a_broken_connection_waits_for_its_device() {
    let mut harness = held(3);
    harness.with(|session, cx| session.kill(cx));
    assert!(!harness.session.is_finished());
    harness.close();
}
