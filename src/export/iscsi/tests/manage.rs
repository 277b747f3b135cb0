//! Task management.

use std::sync::Arc;

use super::super::harness::{Harness, management};
use super::super::message::{Message, Whose};
use super::super::target::Admission;
use crate::dm::{CoreId, Status};
use crate::export::frame::SessionKey;
use crate::iscsi::pdu::{FINAL, Header, NO_TAG, opcode};
use crate::scsi::InitiatorPort;
use crate::scsi::sense::Code;

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

/// RFC 7143, 4.2.2.1: requests are carried out by their numbers, whatever order they come in; what is beyond the window is ignored.
#[test]
fn early_requests_wait_for_their_turn() {
    let mut harness = held(0);
    harness.backend.hold = false;
    let first = harness.command_sn;
    let pdus: Vec<Vec<u8>> = (0..4)
        .map(|tag| harness.command_bytes(10 + tag, &READ, 512, 0, &[], true))
        .collect();
    for index in [2, 1, 3, 1] {
        harness.feed(&pdus[index], usize::MAX);
        assert!(harness.take().is_empty());
    }
    // Far beyond the window; and the third is no longer wanted.
    harness.command_sn = first.wrapping_add(256);
    let beyond = harness.command_bytes(99, &READ, 512, 0, &[], true);
    harness.feed(&beyond, usize::MAX);
    let mut request = management(1, 50, 12, first);
    request.put(32, first.wrapping_add(2));
    let bytes = harness.pdu(request, &[]);
    harness.feed(&bytes, usize::MAX);
    assert_eq!(harness.take()[0].header.0[2], 0, "function complete");
    harness.feed(&pdus[0], usize::MAX);
    let sent = harness.take();
    let mut tags: Vec<u32> = sent.iter().map(|pdu| pdu.header.task_tag()).collect();
    tags.dedup();
    assert_eq!(tags, [10, 11, 13]);
    let last = sent.last().expect("answers");
    assert_eq!(last.header.u32(28), first.wrapping_add(4), "ExpCmdSN");
    harness.close();
}

/// A write that comes early has its data with it, however much that is.
#[test]
fn an_early_write_keeps_its_data() {
    let mut harness = held(0);
    harness.backend.hold = false;
    let write = [0x2A, 0, 0, 0, 0, 8, 0, 0, 64, 0];
    let data = vec![0xA5; 64 * 512];
    let read = harness.command_bytes(10, &READ, 512, 0, &[], true);
    let early = harness.command_bytes(11, &write, 0, data.len() as u32, &data, true);
    harness.feed(&early, 1000);
    assert!(harness.take().is_empty());
    harness.feed(&read, usize::MAX);
    let tags: Vec<u32> = harness
        .take()
        .iter()
        .map(|pdu| pdu.header.task_tag())
        .collect();
    assert_eq!(tags, [10, 11]);
    assert_eq!(harness.backend.bytes[8 * 512..72 * 512], data);
    harness.close();
}

/// RFC 7143, 11.19: a silent initiator is asked once, and is gone when it does not answer.
#[test]
fn a_silent_initiator_is_asked() {
    const SECOND: u64 = 1_000_000_000;
    const KEEP_ALIVE: u64 = 15 * SECOND;
    let mut harness = held(0);
    let look = |harness: &mut Harness, seconds: u64| {
        let lost = harness.session.is_lost(seconds * SECOND, KEEP_ALIVE);
        harness.drain();
        (lost, harness.take())
    };
    for second in 1..=15 {
        assert_eq!(look(&mut harness, second), (false, vec![]));
    }
    let (lost, sent) = look(&mut harness, 16);
    assert!(!lost);
    let ping = sent[0].header;
    assert_eq!((ping.opcode(), ping.task_tag()), (opcode::NOP_IN, NO_TAG));
    assert_ne!(ping.transfer_tag(), NO_TAG);
    assert_eq!(look(&mut harness, 30), (false, vec![]));
    // It answers.
    let mut pong = Header::new(opcode::NOP_OUT | 0x40, FINAL);
    pong.put(16, NO_TAG);
    pong.put(20, ping.transfer_tag());
    pong.put(24, harness.command_sn);
    let bytes = harness.pdu(pong, &[]);
    harness.feed(&bytes, usize::MAX);
    assert_eq!(look(&mut harness, 31), (false, vec![]));
    assert_eq!(look(&mut harness, 46).1.len(), 1);
    assert_eq!(look(&mut harness, 60), (false, vec![]));
    assert_eq!(look(&mut harness, 61), (true, vec![]));
    harness.close();
}

/// SPC-4, 5.13.11.2.6: when PREEMPT AND ABORT is answered, nothing of whom it fences off is on its way to the medium, on whichever core that is.
#[test]
fn a_preempted_initiator_is_out_before_the_answer() {
    const OTHER: &str = "iqn.2026-11.io.polldm:other";
    let mut harness = held(0);
    let (id, served) = harness.target.targets().remove(0);
    let port = Arc::new(InitiatorPort {
        name: OTHER.into(),
        port: [0x40, 0, 0, 0, 0, 1],
    });
    let key = SessionKey {
        core: CoreId(1),
        index: 0,
        generation: 0,
    };
    let Admission::Admitted { nexus, .. } = harness.target.admit(id, &port, 1, key, false) else {
        panic!("there is room")
    };
    served.units[0].unit.join(&nexus, Code::POWER_ON);

    // SPEC_I_PT registers both with one key; ours becomes another.
    let transport = format!("{OTHER},i,0x400000000001\0");
    let size = transport.len().next_multiple_of(4).max(20);
    let mut identifier = vec![0x45, 0, 0, size as u8];
    identifier.extend_from_slice(transport.as_bytes());
    identifier.resize(4 + size, 0);
    let list = |key: u64, new_key: u64, flags: u8, more: &[u8]| {
        let mut list = key.to_be_bytes().to_vec();
        list.extend_from_slice(&new_key.to_be_bytes());
        list.extend_from_slice(&[0, 0, 0, 0, flags, 0, 0, 0]);
        if !more.is_empty() {
            list.extend_from_slice(&(more.len() as u32).to_be_bytes());
            list.extend_from_slice(more);
        }
        list
    };
    for (service, list) in [
        (0, list(0, 7, 8, &identifier)),
        (0, list(7, 8, 0, &[])),
        (5, list(8, 7, 0, &[])),
    ] {
        assert!(harness.take().is_empty());
        let cdb = [0x5F, service, 5, 0, 0, 0, 0, 0, list.len() as u8, 0];
        harness.command(20, &cdb, 0, &list);
        if service == 0 {
            assert_eq!(harness.take().remove(0).header.0[3], 0);
        }
    }
    assert!(harness.take().is_empty(), "the other core has not answered");
    let (core, message) = harness.elsewhere.remove(0);
    let Message::Abort {
        lun: Some(0),
        whose,
        from: Some((_, number)),
        ..
    } = message
    else {
        panic!("its commands are to be aborted")
    };
    assert_eq!((core, whose), (CoreId(1), Whose::Of(nexus.id)));
    harness.with(|session, cx| session.abort_answered(number, cx));
    harness.drain();
    let sent = harness.take();
    assert_eq!(
        (sent.len(), sent[0].header.task_tag(), sent[0].header.0[3]),
        (1, 20, 0)
    );
    harness.close();
}
