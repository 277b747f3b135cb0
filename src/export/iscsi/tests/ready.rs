//! Several R2Ts of a command at once (RFC 7143, 11.8, 13.17).

use super::super::harness::{BLOCKS, Harness, Sent, UNSOLICITED, data_out, management};
use super::super::keys::OUTSTANDING_READY_MAX;
use crate::iscsi::pdu::{Header, opcode};
use crate::scsi::sense::Code;

/// All blocks of the device, in eight bursts.
const SIZE: usize = BLOCKS as usize * 512;
const BURST: usize = SIZE / 8;

fn pattern() -> Vec<u8> {
    (0..SIZE).map(|at| (at / 509 + at) as u8).collect()
}

/// WRITE (10) of the first `size` bytes.
fn write(size: usize) -> [u8; 10] {
    let blocks = (size / 512) as u16;
    let [high, low] = blocks.to_be_bytes();
    [0x2A, 0, 0, 0, 0, 0, 0, high, low, 0]
}

fn start(outstanding: u32, keys: &str) -> Harness {
    let mut harness = Harness::new();
    harness.login(&format!(
        "MaxBurstLength={BURST} FirstBurstLength={BURST} MaxOutstandingR2T={outstanding} {keys}"
    ));
    harness.attend();
    harness
}

/// Begins a write of all blocks, none of whose data comes unasked; the R2Ts to it.
fn begin(harness: &mut Harness, tag: u32) -> Vec<Header> {
    let bytes = harness.command_bytes(tag, &write(SIZE), 0, SIZE as u32, &[], true);
    harness.feed(&bytes, usize::MAX);
    let sent = harness.take();
    assert!(
        sent.iter()
            .all(|sent| sent.header.opcode() == opcode::READY)
    );
    sent.iter().map(|sent| sent.header).collect()
}

/// Answers an R2T in two PDUs.
fn answer(harness: &mut Harness, ready: &Header) {
    let (offset, size) = (ready.u32(40), ready.u32(44));
    let half = size / 1024 * 512;
    for (data_sn, (from, to)) in [(0, half), (half, size)].into_iter().enumerate() {
        let (tag, at) = (ready.task_tag(), offset + from);
        let header = data_out(tag, ready.u32(20), data_sn as u32, at, to == size);
        let data = &pattern()[at as usize..(offset + to) as usize];
        let bytes = harness.pdu(header, data);
        harness.feed(&bytes, 5000);
    }
}

/// Status, and the additional sense code where there is one.
fn ending(sent: &Sent) -> (u8, Option<Code>) {
    assert_eq!(sent.header.opcode(), opcode::RESPONSE);
    let sense = (!sent.data.is_empty()).then(|| Code(sent.data[14], sent.data[15]));
    (sent.header.0[3], sense)
}

fn is_untouched(harness: &Harness) -> bool {
    harness.backend.bytes.iter().all(|&byte| byte == 0)
}

/// R2Ts follow one another in number and place and never share a tag; for each that has been answered there is another, while data is left.
#[test]
fn as_many_are_outstanding_as_was_agreed_on() {
    for (offered, agreed) in [(1, 1), (4, 4), (100, OUTSTANDING_READY_MAX as usize)] {
        for (keys, immediate, unsolicited) in [
            ("InitialR2T=Yes ImmediateData=No", 0, 0),
            ("InitialR2T=Yes ImmediateData=Yes", 1024, 0),
            ("InitialR2T=No ImmediateData=No", 0, BURST),
            ("InitialR2T=No DataDigest=CRC32C", 512, BURST - 512),
        ] {
            let mut harness = start(offered, keys);
            let data = pattern();
            let (first, is_final) = (&data[..immediate], unsolicited == 0);
            let bytes = harness.command_bytes(3, &write(SIZE), 0, SIZE as u32, first, is_final);
            harness.feed(&bytes, usize::MAX);
            let mut at = immediate + unsolicited;
            if !is_final {
                assert!(
                    harness.take().is_empty(),
                    "nothing is asked for before that is here"
                );
                let header = data_out(3, UNSOLICITED, 0, immediate as u32, true);
                let bytes = harness.pdu(header, &data[immediate..at]);
                harness.feed(&bytes, 5000);
            }
            let bursts = (SIZE - at).div_ceil(BURST);
            let mut sent = harness.take();
            let mut outstanding = Vec::new();
            let mut tags = Vec::new();
            let mut number = 0;
            while sent[0].header.opcode() == opcode::READY {
                for ready in sent.iter().map(|sent| sent.header) {
                    assert_eq!(ready.u32(36), number, "R2TSN");
                    assert_eq!(ready.u32(40) as usize, at);
                    let size = BURST.min(SIZE - at);
                    assert_eq!(ready.u32(44) as usize, size);
                    assert!(!tags.contains(&ready.u32(20)));
                    tags.push(ready.u32(20));
                    outstanding.push(ready);
                    number += 1;
                    at += size;
                }
                let rest = bursts - number as usize + outstanding.len();
                assert_eq!(outstanding.len(), agreed.min(rest));
                answer(&mut harness, &outstanding.remove(0));
                sent = harness.take();
                while sent.is_empty() {
                    answer(&mut harness, &outstanding.remove(0));
                    sent = harness.take();
                }
            }
            assert!(outstanding.is_empty());
            assert_eq!((sent.len(), ending(&sent[0])), (1, (0, None)));
            assert_eq!(sent[0].header.u32(36), number, "ExpDataSN");
            assert_eq!(*harness.backend.bytes, *data);
            harness.close();
        }
    }
}

/// An initiator that says nothing has one to answer at a time (13.17: the default).
#[test]
fn one_unless_more_are_offered() {
    let mut harness = Harness::new();
    harness.login(&format!("MaxBurstLength={BURST} ImmediateData=No"));
    harness.attend();
    assert_eq!(begin(&mut harness, 3).len(), 1);
    harness.close();
}

/// Each Data-Out has to be for the R2T whose turn it is, and within it: others end the command, and nothing of it is written. What still comes for
/// the other R2Ts is nobody's.
#[test]
fn what_comes_out_of_order_ends_the_command() {
    let burst = BURST as u32;
    // Which R2T's tag, DataSN, where, and bytes; after one burst was answered as it should be.
    for (of, data_sn, offset, size) in [
        (2, 0, 2 * burst, 512),
        (2, 0, burst, 512),
        (0, 0, burst, 512),
        (0, 1, burst, 512),
        (1, 0, 2 * burst, 512),
        (1, 1, burst, 512),
        (1, 0, burst, BURST + 512),
    ] {
        let mut harness = start(4, "ImmediateData=No");
        let ready = begin(&mut harness, 3);
        assert_eq!(ready.len(), 4);
        answer(&mut harness, &ready[0]);
        assert_eq!(harness.take().len(), 1, "one more is asked for");
        let header = data_out(3, ready[of].u32(20), data_sn, offset, false);
        let bytes = harness.pdu(header, &vec![9; size]);
        harness.feed(&bytes, 5000);
        let sent = harness.take();
        assert_eq!(sent.len(), 1);
        assert_eq!(ending(&sent[0]), (2, Some(Code::INCORRECT_AMOUNT_OF_DATA)));
        for late in &ready[1..] {
            answer(&mut harness, late);
        }
        assert!(harness.take().is_empty());
        assert!(is_untouched(&harness));
        // The same slot: the tags of then are not those of now.
        let again = begin(&mut harness, 4);
        for ready in &again {
            assert!((0..5).all(|late| ready.u32(20) != again[0].u32(20) - 1 - late));
        }
        harness.close();
    }
}

/// A burst that ends before its end is one that was not what was asked for.
#[test]
fn a_burst_that_is_too_short_ends_the_command() {
    let mut harness = start(4, "ImmediateData=No");
    let ready = begin(&mut harness, 3);
    let header = data_out(3, ready[0].u32(20), 0, 0, true);
    let bytes = harness.pdu(header, &vec![9; BURST - 512]);
    harness.feed(&bytes, 5000);
    let sent = harness.take();
    assert_eq!(ending(&sent[0]), (2, Some(Code::INCORRECT_AMOUNT_OF_DATA)));
    assert!(is_untouched(&harness));
    harness.close();
}

/// ABORT TASK within a burst, while others are outstanding: answered at once, and what still comes is dropped.
#[test]
fn a_command_is_aborted_between_its_bursts() {
    let mut harness = start(4, "ImmediateData=No");
    let ready = begin(&mut harness, 3);
    answer(&mut harness, &ready[0]);
    harness.take();
    let header = data_out(3, ready[1].u32(20), 0, BURST as u32, false);
    let part = harness.pdu(header, &[9; 4096]);
    harness.feed(&part[..2000], usize::MAX);
    // The PDU that is under way comes to its end before anything else can.
    harness.feed(&part[2000..], usize::MAX);
    let abort = management(1, 8, 3, harness.command_sn);
    let bytes = harness.pdu(abort, &[]);
    harness.feed(&bytes, usize::MAX);
    let sent = harness.take();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].header.opcode(), opcode::TASK_MANAGEMENT_RESPONSE);
    assert_eq!(sent[0].header.0[2], 0, "function complete");
    for late in &ready[2..] {
        answer(&mut harness, late);
    }
    assert!(harness.take().is_empty());
    assert!(is_untouched(&harness));
    harness.command(4, &[0; 6], 0, &[]);
    assert_eq!(ending(&harness.take()[0]), (0, None));
    harness.close();
}

/// Data that is not what was sent, in the middle: Reject, and the command fails (7.7); the R2Ts that are outstanding are over.
#[test]
fn damaged_data_between_bursts_fails_the_command() {
    let mut harness = start(4, "ImmediateData=No DataDigest=CRC32C");
    let ready = begin(&mut harness, 3);
    answer(&mut harness, &ready[0]);
    harness.take();
    let header = data_out(3, ready[1].u32(20), 0, BURST as u32, true);
    let mut bytes = harness.pdu(header, &vec![9; BURST]);
    bytes[1000] ^= 1;
    harness.feed(&bytes, 5000);
    let sent = harness.take();
    assert_eq!(sent[0].header.opcode(), opcode::REJECT);
    assert_eq!(ending(&sent[1]), (2, Some(Code::PROTOCOL_CRC_ERROR)));
    for late in &ready[2..] {
        answer(&mut harness, late);
    }
    assert!(harness.take().is_empty());
    assert!(is_untouched(&harness));
    harness.close();
}

/// More writes than there are buffers, each in its bursts: those that wait for a buffer are asked for nothing, and all end.
#[test]
fn writes_that_wait_for_a_buffer_are_asked_for_nothing() {
    let mut harness = start(8, "ImmediateData=No");
    let mut ready = std::collections::VecDeque::new();
    for tag in 100..200 {
        ready.extend(begin(&mut harness, tag));
    }
    let begun = ready.len();
    assert!(begun % 8 == 0 && begun < 800, "some wait");
    let mut ended = 0;
    while let Some(next) = ready.pop_front() {
        answer(&mut harness, &next);
        for sent in harness.take() {
            match sent.header.opcode() {
                opcode::READY => ready.push_back(sent.header),
                _ => {
                    assert_eq!(ending(&sent), (0, None));
                    ended += 1;
                }
            }
        }
    }
    assert_eq!(ended, 100);
    harness.close();
}

/// An initiator that does not read for a while is not taken for one that never does, however many R2Ts it could be sent: while there is no room for
/// more, each command has one.
#[test]
fn r2ts_wait_for_room() {
    let mut harness = Harness::new();
    harness.login("MaxBurstLength=512 FirstBurstLength=512 MaxOutstandingR2T=8 ImmediateData=No MaxRecvDataSegmentLength=512");
    harness.attend();
    let mut bytes = Vec::new();
    // The headers of so many small Data-Ins take all the room there is.
    let read = [0x28, 0, 0, 0, 0, 0, 0, 1, 0, 0];
    for tag in 0..32 {
        bytes.extend(harness.command_bytes(100 + tag, &read, SIZE as u32, 0, &[], true));
    }
    for tag in 0..200 {
        bytes.extend(harness.command_bytes(200 + tag, &write(4096), 0, 4096, &[], true));
    }
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let taken = harness.give(rest);
        assert!(taken > 0);
        rest = &rest[taken..];
    }
    harness.drain();
    assert!(!harness.session.is_violated());
    let sent = harness.take();
    let ready = sent
        .iter()
        .filter(|sent| sent.header.opcode() == opcode::READY);
    let count = ready.count();
    assert!((200..8 * 200).contains(&count), "{count}");
    harness.close();
}
