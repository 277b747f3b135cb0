//! Auto contingent allegiance (SAM-5, 5.9): what is blocked, what is carried out meanwhile, and what ends it.

use super::super::harness::{Harness, IQN, Sent, data_out, management};
use super::line::{ACA, HEAD_OF_QUEUE, ORDERED, READ, SIMPLE, TEST_UNIT_READY, WRITE};
use super::line::{answered, begun, manage, send, start};
use super::tas::{ended_by_another, sense};
use crate::dm::{Op, Status};
use crate::export::stats::Kind;
use crate::iscsi::pdu::opcode;
use crate::scsi::Lun;

const NACA: u8 = 0x04;
const ACA_ACTIVE: u8 = 0x30;
const CLEAR_ACA: u8 = 3;

/// A READ beyond the end.
const FAILS: [u8; 10] = [0x28, 0, 0xFF, 0, 0, 0, 0, 0, 1, 0];

fn with_naca<const SIZE: usize>(mut cdb: [u8; SIZE]) -> [u8; SIZE] {
    cdb[SIZE - 1] = NACA;
    cdb
}

/// Puts the task set at fault, past all that waits.
fn fault(harness: &mut Harness) {
    send(harness, 99, HEAD_OF_QUEUE, &with_naca(FAILS), &[]);
    assert_eq!(answered(harness), [(99, 2)]);
}

fn is_at_fault(harness: &mut Harness) -> bool {
    send(harness, 98, SIMPLE, &TEST_UNIT_READY, &[]);
    let (tag, status) = answered(harness)[0];
    assert_eq!(tag, 98);
    status == ACA_ACTIVE
}

fn clear(harness: &mut Harness) {
    assert_eq!(manage(harness, CLEAR_ACA, 0).header.0[2], 0);
}

fn to(harness: &mut Harness, lun: u16, cdb: &[u8]) -> Vec<Sent> {
    let mut bytes = harness.command_bytes(50, cdb, 36, 0, &[], true);
    bytes[8..16].copy_from_slice(&Lun::encode(lun));
    harness.feed(&bytes, usize::MAX);
    harness.take()
}

/// SAM-5, 5.9.2, 5.9.3: a command with NACA that fails puts its task set at fault, one without does not; new commands without the
/// attribute ACA end with ACA ACTIVE then, whatever they are and whatever else may be wrong with them. Other units know nothing of it.
#[test]
fn a_task_set_at_fault_takes_nothing_in() {
    let mut harness = start();
    harness.backend.hold = false;
    send(&mut harness, 1, SIMPLE, &FAILS, &[]);
    send(&mut harness, 2, SIMPLE, &with_naca(READ), &[]);
    assert_eq!(answered(&mut harness), [(1, 2), (2, 0)]);
    assert!(!is_at_fault(&mut harness));
    fault(&mut harness);
    for attribute in [0, SIMPLE, ORDERED, HEAD_OF_QUEUE, 5, 6, 7] {
        send(&mut harness, 3, attribute, &READ, &[]);
        send(&mut harness, 4, attribute, &with_naca(WRITE), &[7; 512]);
        send(&mut harness, 5, attribute, &[0x12, 0, 0, 0, 36, 0], &[]);
        let active = [3, 4, 5].map(|tag| (tag, ACA_ACTIVE));
        assert_eq!(answered(&mut harness), active);
    }
    // A CDB that goes on in an additional header segment would be refused.
    let mut longer = harness.command_bytes(6, &[0x7F], 0, 0, &[], true);
    longer[4] = 1;
    longer.extend_from_slice(&[0; 4]);
    harness.feed(&longer, usize::MAX);
    assert_eq!(answered(&mut harness), [(6, ACA_ACTIVE)]);
    assert_eq!(harness.backend.bytes[0], 0);
    let elsewhere = to(&mut harness, 5, &[0x12, 0, 0, 0, 36, 0]);
    assert_eq!(elsewhere.last().expect("an answer").header.0[3], 0);
    clear(&mut harness);
    send(&mut harness, 7, SIMPLE, &WRITE, &[7; 512]);
    assert_eq!(answered(&mut harness), [(7, 0)]);
    harness.close();
}

/// Commands are refused as a whole: what comes with them and after them is nobody's.
#[test]
fn data_of_refused_commands_is_discarded() {
    let mut harness = start();
    fault(&mut harness);
    let write = [0x2A, 0, 0, 0, 0, 0, 0, 0, 48, 0];
    let data = vec![7; 20 * 1024];
    let bytes = harness.command_bytes(1, &write, 0, 24 * 1024, &data, false);
    harness.feed(&bytes, 1000);
    let mut rest = data_out(1, u32::MAX, 0, data.len() as u32, true);
    rest.put_lun(Lun::encode(0));
    let bytes = harness.pdu(rest, &vec![7; 4096]);
    harness.feed(&bytes, 1000);
    assert_eq!(answered(&mut harness), [(1, ACA_ACTIVE)]);
    clear(&mut harness);
    assert!(!is_at_fault(&mut harness));
    harness.close();
}

/// The CONTROL byte is where each form of CDB has it.
#[test]
fn naca_is_found_in_every_cdb() {
    let mut harness = start();
    let mut variable = [0; 16];
    variable[..2].copy_from_slice(&[0x7F, NACA]);
    let mut long = [0; 16];
    (long[0], long[1], long[15]) = (0x9F, 0x1F, NACA);
    let mut middle = [0; 12];
    (middle[0], middle[11]) = (0xA5, NACA);
    let invalid: [&[u8]; 5] = [
        &[0x02, 0, 0, 0, 0, NACA],
        &with_naca(FAILS),
        &middle,
        &long,
        &variable,
    ];
    for cdb in invalid {
        send(&mut harness, 1, SIMPLE, cdb, &[]);
        assert_eq!(answered(&mut harness), [(1, 2)]);
        assert!(is_at_fault(&mut harness), "{:02x}", cdb[0]);
        clear(&mut harness);
        assert!(!is_at_fault(&mut harness));
    }
    // The unit that is not there has no task set.
    for _ in 0..2 {
        let sent = to(&mut harness, 5, &[0, 0, 0, 0, 0, NACA]);
        assert_eq!((sent[0].header.0[3], sent[0].data[14]), (2, 0x25));
    }
    let mut request = management(CLEAR_ACA, 90, 0, harness.command_sn);
    request.put_lun(Lun::encode(5));
    let bytes = harness.pdu(request, &[]);
    harness.feed(&bytes, usize::MAX);
    assert_eq!(harness.take()[0].header.0[2], 2, "no such unit");
    // And CLEAR ACA of one that is not at fault has nothing to do.
    clear(&mut harness);
    harness.close();
}

/// SAM-5, 5.9.2: what is there is blocked. I/O goes on to its end, nothing further begins, nothing is answered, until CLEAR ACA.
#[test]
fn what_was_there_is_blocked() {
    let mut harness = start();
    send(&mut harness, 1, SIMPLE, &READ, &[]);
    send(&mut harness, 2, SIMPLE, &WRITE, &[2; 512]);
    let mut ready = Vec::new();
    for (tag, lba) in [(3, 1), (4, 2)] {
        let mut write = WRITE;
        write[5] = lba;
        let bytes = harness.command_bytes(tag, &write, 0, 512, &[], true);
        harness.feed(&bytes, usize::MAX);
        ready.push(harness.take().remove(0).header.u32(20));
    }
    send(&mut harness, 5, ORDERED, &READ, &[]);
    send(&mut harness, 6, SIMPLE, &READ, &[]);
    fault(&mut harness);
    assert_eq!(begun(&mut harness), [Op::Read, Op::Write]);
    harness.finish();
    let bytes = harness.pdu(data_out(3, ready[0], 0, 0, true), &[3; 512]);
    harness.feed(&bytes, usize::MAX);
    // Data that is not where it has to be ends its command, which is not answered now either.
    let bytes = harness.pdu(data_out(4, ready[1], 0, 512, true), &[4; 512]);
    harness.feed(&bytes, usize::MAX);
    assert!(harness.take().is_empty());
    assert!(begun(&mut harness).is_empty());
    assert_eq!(harness.backend.bytes[0], 2, "it was at the device");
    send(&mut harness, 7, ACA, &TEST_UNIT_READY, &[]);
    assert_eq!(answered(&mut harness), [(7, 0)]);

    let request = management(CLEAR_ACA, 90, 0, harness.command_sn);
    let bytes = harness.pdu(request, &[]);
    harness.feed(&bytes, usize::MAX);
    assert_eq!(answered(&mut harness), [(2, 0), (4, 2)]);
    assert_eq!(begun(&mut harness), [Op::Read, Op::Write]);
    harness.finish();
    assert_eq!(answered(&mut harness), [(1, 0), (3, 0)]);
    assert_eq!(harness.backend.bytes[512], 3);
    assert_eq!(begun(&mut harness), [Op::Read]);
    harness.finish();
    assert_eq!(answered(&mut harness), [(5, 0)]);
    harness.finish();
    assert_eq!(answered(&mut harness), [(6, 0)]);
    assert_eq!(harness.session.stats.kind(Kind::Read).ios, 3, "each once");
    harness.close();
}

/// Nobody's turn comes in a task set at fault, though those that it was waiting for have gone.
#[test]
fn a_turn_waits_for_the_end_of_the_fault() {
    let mut harness = start();
    send(&mut harness, 1, SIMPLE, &READ, &[]);
    send(&mut harness, 2, ORDERED, &READ, &[]);
    fault(&mut harness);
    let bytes = harness.pdu(management(1, 90, 1, harness.command_sn), &[]);
    harness.feed(&bytes, usize::MAX);
    harness.finish();
    assert_eq!(harness.take().len(), 1, "ABORT TASK");
    assert_eq!(begun(&mut harness), [Op::Read]);
    clear(&mut harness);
    assert_eq!(begun(&mut harness), [Op::Read]);
    harness.finish();
    assert_eq!(answered(&mut harness), [(2, 0)]);
    harness.close();
}

/// A command behind its barrier goes no further when that is done, and one that is to be answered only is in nobody's way at the device.
#[test]
fn blocked_commands_at_the_device() {
    let mut harness = start();
    harness.backend.ordered = true;
    send(&mut harness, 1, ORDERED, &READ, &[]);
    fault(&mut harness);
    harness.finish();
    assert_eq!(begun(&mut harness), [Op::Flush]);
    clear(&mut harness);
    assert_eq!(begun(&mut harness), [Op::Read]);
    harness.finish();
    assert_eq!(answered(&mut harness), [(1, 0)]);
    send(&mut harness, 2, SIMPLE, &WRITE, &[2; 512]);
    fault(&mut harness);
    harness.finish();
    harness.backend.hold = false;
    let overwrite = [0x48, 0x21, 0, 0, 0, 0, 0, 0, 5, 0];
    send(&mut harness, 3, ACA, &overwrite, &[1, 0, 0, 1, 7, 0, 0, 0]);
    assert_eq!(answered(&mut harness), [(3, 0)]);
    assert_eq!(harness.backend.bytes[0], 7);
    harness.close();
}

/// SAM-5, 5.9.3: one command with the attribute ACA at a time. One that fails ends the fault, and with NACA begins another.
#[test]
fn one_command_is_carried_out_meanwhile() {
    let mut harness = start();
    send(&mut harness, 1, SIMPLE, &WRITE, &[1; 512]);
    fault(&mut harness);
    send(&mut harness, 2, ACA, &READ, &[]);
    send(&mut harness, 3, ACA, &READ, &[]);
    assert_eq!(answered(&mut harness), [(3, ACA_ACTIVE)]);
    assert_eq!(begun(&mut harness), [Op::Write, Op::Read]);
    harness.finish();
    assert_eq!(answered(&mut harness), [(2, 0)]);
    send(&mut harness, 4, ACA, &with_naca(FAILS), &[]);
    assert_eq!(answered(&mut harness), [(4, 2)]);
    assert!(is_at_fault(&mut harness), "again");
    send(&mut harness, 5, ACA, &FAILS, &[]);
    assert_eq!(answered(&mut harness), [(5, 2), (1, 0)]);
    assert!(!is_at_fault(&mut harness));
    // Without a fault there is nothing to see to.
    send(&mut harness, 6, ACA, &READ, &[]);
    assert_eq!(harness.take()[0].data[14], 0x49, "INVALID MESSAGE");
    send(&mut harness, 7, ACA, &with_naca(READ), &[]);
    assert_eq!(answered(&mut harness), [(7, 2)]);
    assert!(is_at_fault(&mut harness));
    harness.close();
}

/// SAM-5, 7.4: CLEAR ACA is to the command with the attribute ACA what ABORT TASK is.
#[test]
fn clear_aca_aborts_what_is_carried_out_meanwhile() {
    let mut harness = start();
    fault(&mut harness);
    send(&mut harness, 1, ACA, &READ, &[]);
    let request = management(CLEAR_ACA, 90, 0, harness.command_sn);
    let bytes = harness.pdu(request, &[]);
    harness.feed(&bytes, usize::MAX);
    assert!(!is_at_fault(&mut harness), "at once");
    assert!(harness.take().is_empty(), "its command is at the device");
    harness.finish();
    let sent = harness.take();
    let only = sent[0].header;
    assert_eq!(
        (sent.len(), only.opcode()),
        (1, opcode::TASK_MANAGEMENT_RESPONSE)
    );
    assert_eq!(only.0[2], 0);
    harness.close();
}

/// What was blocked may fail itself: with NACA the fault begins again, and what came after it stays blocked.
#[test]
fn what_was_blocked_may_fail() {
    let mut harness = start();
    send(&mut harness, 1, SIMPLE, &with_naca(WRITE), &[1; 512]);
    send(&mut harness, 2, SIMPLE, &WRITE, &[2; 512]);
    send(&mut harness, 3, SIMPLE, &READ, &[]);
    fault(&mut harness);
    harness.backend.status = Status::IoError;
    harness.finish();
    harness.backend.status = Status::Ok;
    begun(&mut harness);
    assert!(harness.take().is_empty());
    let request = management(CLEAR_ACA, 90, 0, harness.command_sn);
    let bytes = harness.pdu(request, &[]);
    harness.feed(&bytes, usize::MAX);
    assert_eq!(answered(&mut harness), [(1, 2)]);
    assert!(is_at_fault(&mut harness));
    assert!(begun(&mut harness).is_empty(), "the read is blocked");
    let bytes = harness.pdu(management(CLEAR_ACA, 90, 0, harness.command_sn), &[]);
    harness.feed(&bytes, usize::MAX);
    assert_eq!(answered(&mut harness), [(2, 2)]);
    assert!(!is_at_fault(&mut harness));
    assert_eq!(begun(&mut harness), [Op::Read]);
    harness.finish();
    assert_eq!(answered(&mut harness), [(3, 0)]);
    harness.close();
}

/// SAM-5, 5.9.5, 7.2, 7.3, 7.5: resets and the loss of the nexus end the fault with the commands; aborts end commands only.
#[test]
fn what_ends_a_fault() {
    const ABORTS: [u8; 3] = [1, 2, 4];
    const RESETS: [u8; 3] = [5, 6, 11];
    for function in ABORTS.into_iter().chain(RESETS) {
        let mut harness = start();
        send(&mut harness, 1, SIMPLE, &WRITE, &[1; 512]);
        fault(&mut harness);
        harness.finish();
        assert_eq!(manage(&mut harness, function, 1).header.0[2], 0);
        assert_eq!(is_at_fault(&mut harness), ABORTS.contains(&function));
        harness.attend();
        if ABORTS.contains(&function) {
            clear(&mut harness);
        }
        assert!(!is_at_fault(&mut harness), "and nothing of it is left");
        harness.close();
    }
    // PREEMPT AND ABORT by another initiator comes as a message from its core.
    let mut harness = start();
    send(&mut harness, 1, SIMPLE, &WRITE, &[1; 512]);
    fault(&mut harness);
    ended_by_another(&mut harness, true, false);
    harness.finish();
    assert!(harness.take().is_empty());
    let cleared = sense(&mut harness);
    assert_eq!(cleared, (6, 0x2F), "COMMANDS CLEARED BY ANOTHER INITIATOR");
    assert!(!is_at_fault(&mut harness));
    harness.close();
}

/// SAM-5, 5.9.5 c): an initiator preempts itself: all its other commands end, and the fault.
#[test]
fn an_initiator_may_preempt_itself() {
    let mut harness = start();
    let list = |key: u8, new_key: u8| {
        let mut list = [0; 24];
        (list[7], list[15]) = (key, new_key);
        list
    };
    let register = [0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    send(&mut harness, 1, SIMPLE, &register, &list(0, 8));
    assert_eq!(answered(&mut harness), [(1, 0)]);
    send(&mut harness, 2, SIMPLE, &WRITE, &[1; 512]);
    fault(&mut harness);
    let preempt = [0x5F, 5, 5, 0, 0, 0, 0, 0, 24, 0];
    send(&mut harness, 3, ACA, &preempt, &list(8, 8));
    assert!(
        harness.take().is_empty(),
        "a command of it is at the device"
    );
    harness.finish();
    assert_eq!(answered(&mut harness), [(3, 0)]);
    assert!(!is_at_fault(&mut harness));
    harness.close();
}

/// A unit that is removed while its task set is at fault: every command is answered, and a unit of the same number is not at fault.
#[test]
fn a_unit_that_goes_takes_its_fault_along() {
    let mut harness = start();
    send(&mut harness, 1, SIMPLE, &WRITE, &[1; 512]);
    send(&mut harness, 2, SIMPLE, &with_naca(READ), &[]);
    let write = harness.command_bytes(3, &WRITE, 0, 512, &[], true);
    harness.feed(&write, usize::MAX);
    send(&mut harness, 4, ORDERED, &READ, &[]);
    harness.take();
    fault(&mut harness);
    harness.finish();
    assert!(harness.take().is_empty());
    let (id, _) = harness.target.remove_unit(IQN, 0).expect("it is there");
    harness.changed(id);
    let mut all = answered(&mut harness);
    all.sort_unstable();
    assert_eq!(all, [(1, 0), (2, 2), (3, 2), (4, 2)]);
    assert!(!is_at_fault(&mut harness), "it is not there");
    harness.close();
}

/// However much the blocked commands hold, the one that sees to the fault has its buffer, before commands to other units that wait for one;
/// and reads of other units are not held up.
#[test]
fn blocked_commands_leave_room() {
    let mut harness = Harness::serving(|config| {
        let mut second = config.targets[0].luns[0].clone();
        (second.lun, second.uuid) = (1, [1; 16]);
        config.targets[0].luns.push(second);
    });
    harness.login("InitialR2T=No");
    harness.attend();
    to(&mut harness, 1, &TEST_UNIT_READY);
    harness.backend.hold = true;
    let blocks = 256u16.to_be_bytes();
    let write = [0x2A, 0, 0, 0, 0, 0, 0, blocks[0], blocks[1], 0];
    let bytes = 256 * 512;
    // More writes than there are buffers: some wait for one.
    for tag in 0..70 {
        let pdu = harness.command_bytes(100 + tag, &write, 0, bytes, &[], true);
        harness.feed(&pdu, usize::MAX);
    }
    assert_eq!(harness.take().len(), 32, "each has 256 KiB of 8 MiB");
    fault(&mut harness);
    let mut pdu = harness.command_bytes(2, &write, 0, bytes, &[], true);
    pdu[8..16].copy_from_slice(&Lun::encode(1));
    harness.feed(&pdu, usize::MAX);
    assert!(harness.take().is_empty(), "it waits for a buffer");
    let mut pdu = harness.command_bytes(1, &write, 0, bytes, &[], true);
    pdu[1] |= ACA;
    harness.feed(&pdu, usize::MAX);
    let ready = harness.take().remove(0).header;
    assert_eq!((ready.opcode(), ready.task_tag()), (opcode::READY, 1));
    harness.close();

    // More reads than may be between device and socket.
    let mut harness = start();
    let read = [0x28, 0, 0, 0, 0, 0, 0, blocks[0], blocks[1], 0];
    let send_read = |harness: &mut Harness, tag: u32, attribute: u8| {
        let mut pdu = harness.command_bytes(tag, &read, bytes, 0, &[], true);
        pdu[1] |= attribute;
        harness.feed(&pdu, usize::MAX);
    };
    for tag in 0..40 {
        send_read(&mut harness, 100 + tag, SIMPLE);
    }
    assert_eq!(begun(&mut harness).len(), 33);
    fault(&mut harness);
    send_read(&mut harness, 1, ACA);
    harness.finish();
    assert_eq!(
        begun(&mut harness),
        [Op::Read],
        "they have given back what they read"
    );
    harness.finish();
    assert_eq!(answered(&mut harness), [(1, 0)]);
    clear(&mut harness);
    let mut tags = Vec::new();
    while harness.backend.held() > 0 {
        harness.finish();
        tags.extend(answered(&mut harness));
    }
    assert_eq!(tags, (100..140).map(|tag| (tag, 0)).collect::<Vec<_>>());
    harness.close();
}
