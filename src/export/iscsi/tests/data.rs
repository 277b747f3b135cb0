//! Reads and writes, however their data comes.

use super::super::harness::{BLOCKS, Harness, Sent, UNSOLICITED, data_out};
use super::super::session::READ_BYTES_MAX;
use crate::dm::Op;
use crate::iscsi::pdu::{FINAL, Header, NO_TAG, opcode};

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8).collect()
}

fn write_10(lba: u32, blocks: u16) -> [u8; 10] {
    let mut cdb = [0; 10];
    cdb[0] = 0x2A;
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

fn read_10(lba: u32, blocks: u16) -> [u8; 10] {
    let mut cdb = write_10(lba, blocks);
    cdb[0] = 0x28;
    cdb
}

fn status(sent: &Sent) -> u8 {
    assert_eq!(sent.header.opcode(), opcode::RESPONSE);
    sent.header.0[3]
}

/// Sends `data` as an initiator does that keeps to what was agreed on; answers every R2T.
fn write(harness: &mut Harness, data: &[u8], immediate: usize, unsolicited: usize) {
    let blocks = (data.len() / 512) as u16;
    let is_final = unsolicited == 0;
    let (size, first) = (data.len() as u32, &data[..immediate]);
    let bytes = harness.command_bytes(3, &write_10(8, blocks), 0, size, first, is_final);
    harness.feed(&bytes, 1000);
    if !is_final {
        let header = data_out(3, UNSOLICITED, 0, immediate as u32, true);
        let bytes = harness.pdu(header, &data[immediate..immediate + unsolicited]);
        harness.feed(&bytes, 1000);
    }
    let mut sent = harness.take();
    let mut expected = immediate + unsolicited;
    while sent[0].header.opcode() == opcode::READY {
        let ready = sent.remove(0).header;
        let (offset, size) = (ready.u32(40) as usize, ready.u32(44) as usize);
        assert_eq!(offset, expected, "bursts follow one another");
        let half = (size / 1024 * 512).max(512).min(size);
        let parts = [(0, half), (half, size)];
        let parts = parts.into_iter().filter(|(from, to)| from < to);
        for (data_sn, (from, to)) in parts.enumerate() {
            let at = (offset + from) as u32;
            let is_last = to == size;
            let header = data_out(3, ready.u32(20), data_sn as u32, at, is_last);
            let bytes = harness.pdu(header, &data[offset + from..offset + to]);
            harness.feed(&bytes, 3000);
        }
        expected += size;
        sent.extend(harness.take());
    }
    assert_eq!((sent.len(), status(&sent[0])), (1, 0));
    assert_eq!(sent[0].header.u32(44), 0, "no residual");
    assert_eq!(harness.backend.bytes[4096..4096 + data.len()], *data);
}

/// RFC 7143, 13.10, 13.11: all four combinations, with and without digests, bursts longer and shorter than the write.
#[test]
fn data_of_a_write_comes_in_every_way() {
    for digests in ["None", "CRC32C"] {
        for burst in [2048, 65536] {
            for (ready, immediate_data, immediate, unsolicited) in [
                ("Yes", "No", 0, 0),
                ("Yes", "Yes", 1024, 0),
                ("Yes", "Yes", 24 * 1024, 0),
                ("No", "No", 0, 1024),
                ("No", "Yes", 512, 1024),
            ] {
                let mut harness = Harness::new();
                let first = if immediate > 2048 { 65536 } else { 2048 };
                let burst = burst.max(first);
                harness.login(&format!(
                    "InitialR2T={ready} ImmediateData={immediate_data} MaxBurstLength={burst} FirstBurstLength={first} HeaderDigest={digests} DataDigest={digests}"
                ));
                harness.attend();
                write(&mut harness, &pattern(48 * 1024), immediate, unsolicited);
                harness.close();
            }
        }
    }
}

/// RFC 7143, 11.7: Data-In PDUs are as long as the initiator takes, sequences as long as a burst; the last one carries the status.
#[test]
fn data_of_a_read_is_cut_as_agreed() {
    for digests in ["None", "CRC32C"] {
        let mut harness = Harness::new();
        harness.login(&format!(
            "MaxRecvDataSegmentLength=1024 MaxBurstLength=2560 DataDigest={digests}"
        ));
        harness.attend();
        let data = pattern(4096);
        harness.backend.bytes[..4096].copy_from_slice(&data);
        harness.command(3, &read_10(0, 8), 4096, &[]);
        let sent = harness.take();
        let sizes: Vec<usize> = sent.iter().map(|pdu| pdu.data.len()).collect();
        assert_eq!(sizes, [1024, 1024, 512, 1024, 512]);
        let finals: Vec<bool> = sent.iter().map(|pdu| pdu.header.is_final()).collect();
        assert_eq!(finals, [false, false, true, false, true]);
        for (index, pdu) in sent.iter().enumerate() {
            assert_eq!(pdu.header.u32(36), index as u32, "DataSN");
        }
        let all: Vec<u8> = sent.iter().flat_map(|pdu| pdu.data.clone()).collect();
        assert_eq!(all, data);
        assert_eq!(sent[4].header.flags() & 0x01, 1, "status");
        harness.close();
    }
}

/// SAM-5, 5.14: the first command of a nexus tells of the power on, once.
#[test]
fn a_unit_attention_comes_first_and_once() {
    let mut harness = Harness::new();
    harness.login("HeaderDigest=None");
    harness.command(1, &[0; 6], 0, &[]);
    let sent = harness.take();
    assert_eq!(status(&sent[0]), 2);
    assert_eq!(
        (sent[0].data[4] & 0x0F, sent[0].data[14], sent[0].data[15]),
        (6, 0x29, 0)
    );
    harness.command(2, &[0; 6], 0, &[]);
    assert_eq!(status(&harness.take()[0]), 0);
    harness.close();
}

/// What an initiator offers, or takes, is never exceeded: residuals say how far off it was (RFC 7143, 11.4.5).
#[test]
fn residuals_both_ways() {
    let mut harness = Harness::new();
    harness.login("HeaderDigest=None");
    harness.attend();
    harness.command(3, &read_10(0, 2), 512, &[]);
    let sent = harness.take();
    assert_eq!(sent[0].data.len(), 512);
    assert_eq!(
        (sent[0].header.flags() & 0x06, sent[0].header.u32(44)),
        (0x04, 512)
    );
    // One block and a half of two: the rest of the second stays.
    harness.backend.bytes.fill(0xEE);
    harness.command(4, &write_10(0, 2), 0, &[0x11; 768]);
    let sent = harness.take();
    assert_eq!((status(&sent[0]), sent[0].header.u32(44)), (0, 256));
    assert!(
        harness.backend.bytes[..768]
            .iter()
            .all(|&byte| byte == 0x11)
    );
    assert!(
        harness.backend.bytes[768..]
            .iter()
            .all(|&byte| byte == 0xEE)
    );
    // More than the command takes.
    harness.command(5, &write_10(4, 1), 0, &[0x22; 1024]);
    let sent = harness.take();
    assert_eq!(
        (sent[0].header.flags() & 0x06, sent[0].header.u32(44)),
        (0x02, 512)
    );
    assert_eq!(harness.backend.bytes[2560..2561], [0xEE]);
    harness.close();
}

/// Data out of order, for another R2T, or beyond it ends the command, and nothing of it is written.
#[test]
fn wrong_data_ends_the_command() {
    for (data_sn, offset, size, wrong_tag) in [
        (1, 0, 1024, 0),
        (0, 512, 512, 0),
        (0, 0, 512, 0),
        (0, 0, 1536, 0),
        (0, 0, 1024, 1),
    ] {
        let mut harness = Harness::new();
        harness.login("ImmediateData=No");
        harness.attend();
        let bytes = harness.command_bytes(3, &write_10(0, 2), 0, 1024, &[], true);
        harness.feed(&bytes, usize::MAX);
        let ready = harness.take().remove(0).header;
        assert_eq!(ready.opcode(), opcode::READY);
        let tag = ready.u32(20) ^ wrong_tag;
        let bytes = harness.pdu(data_out(3, tag, data_sn, offset, true), &pattern(size));
        harness.feed(&bytes, usize::MAX);
        let sent = harness.take();
        assert_eq!(status(&sent[0]), 2);
        assert_eq!(sent[0].data[4] & 0x0F, 0x0B, "ABORTED COMMAND");
        // What still comes for it is nobody's.
        let bytes = harness.pdu(data_out(3, ready.u32(20), 0, 0, true), &pattern(1024));
        harness.feed(&bytes, usize::MAX);
        assert!(harness.take().is_empty());
        assert!(harness.backend.bytes.iter().all(|&byte| byte == 0));
        harness.command(4, &[0; 6], 0, &[]);
        assert_eq!(status(&harness.take()[0]), 0, "the connection goes on");
        harness.close();
    }
}

/// A digest of data that does not match: Reject, and the command fails (RFC 7143, 7.7).
#[test]
fn damaged_data_is_not_written() {
    let mut harness = Harness::new();
    harness.login("DataDigest=CRC32C");
    harness.attend();
    for immediate in [512, 24 * 1024] {
        let data = pattern(immediate);
        let cdb = write_10(0, (immediate / 512) as u16);
        let mut bytes = harness.command_bytes(3, &cdb, 0, immediate as u32, &data, true);
        bytes[100] ^= 1;
        harness.feed(&bytes, 4096);
        let sent = harness.take();
        assert_eq!(sent[0].header.opcode(), opcode::REJECT);
        assert_eq!(sent[0].header.0[2], 0x02);
        assert_eq!(status(&sent[1]), 2);
        assert!(harness.backend.bytes.iter().all(|&byte| byte == 0));
    }
    harness.close();
}

#[test]
fn blocks_beyond_the_end_are_refused() {
    let mut harness = Harness::new();
    harness.login("HeaderDigest=None");
    harness.attend();
    harness.command(3, &read_10(BLOCKS as u32, 1), 512, &[]);
    let sent = harness.take();
    assert_eq!(status(&sent[0]), 2);
    assert_eq!((sent[0].data[4] & 0x0F, sent[0].data[14]), (5, 0x21));
    harness.close();
}

/// A command number that is out of the window, or came before, is ignored without a word (RFC 7143, 4.2.2.1).
#[test]
fn commands_out_of_turn_are_ignored() {
    let mut harness = Harness::new();
    harness.command_sn = 0xFFFF_FFFE;
    harness.login("HeaderDigest=None");
    harness.attend();
    for command_sn in [0xFFFF_FFFE, 0x200, 0xFFFF_FF00] {
        harness.command_sn = command_sn;
        harness.command(3, &[0; 6], 0, &[]);
        assert!(harness.take().is_empty());
    }
    harness.command_sn = 0xFFFF_FFFF;
    for tag in [4, 5] {
        harness.command(tag, &[0; 6], 0, &[]);
        assert_eq!(status(&harness.take()[0]), 0, "past the wrap");
    }
    harness.close();
}

/// Bytes of a Data-Out PDU.
const PIECE: usize = 32 << 10;

/// Answers every R2T with blocks of this byte, as often as it takes; how the commands ended, by their tags.
fn deliver(harness: &mut Harness, byte: impl Fn(u32) -> u8) -> Vec<(u32, u8)> {
    let mut ended = Vec::new();
    loop {
        let sent = harness.take();
        if sent.is_empty() {
            return ended;
        }
        for sent in sent {
            let (header, tag) = (sent.header, sent.header.task_tag());
            if header.opcode() == opcode::READY {
                let (from, size) = (header.u32(40), header.u32(44));
                for (data_sn, at) in (0..size).step_by(PIECE).enumerate() {
                    let piece = (size - at).min(PIECE as u32);
                    let is_last = at + piece == size;
                    let data_sn = data_sn as u32;
                    let data = data_out(tag, header.u32(20), data_sn, from + at, is_last);
                    let bytes = harness.pdu(data, &vec![byte(tag); piece as usize]);
                    harness.feed(&bytes, usize::MAX);
                }
            } else {
                ended.push((tag, status(&sent)));
            }
        }
    }
}

/// Commands that need a buffer for their data and another to work with get both or none: more of them than there are buffers all end.
#[test]
fn nobody_has_one_buffer_and_waits_for_another() {
    let mut harness = Harness::new();
    harness.login("InitialR2T=Yes");
    harness.attend();
    let mut verify = [0; 10];
    // WRITE AND VERIFY of all blocks, with a comparison.
    verify[0] = 0x2E;
    verify[1] = 0x02;
    verify[7..9].copy_from_slice(&(BLOCKS as u16).to_be_bytes());
    let size = BLOCKS as u32 * 512;
    for tag in 0..100 {
        let bytes = harness.command_bytes(100 + tag, &verify, 0, size, &[], true);
        harness.feed(&bytes, usize::MAX);
    }
    let mut ended = deliver(&mut harness, |tag| tag as u8);
    ended.sort_unstable();
    let expected: Vec<(u32, u8)> = (100..200).map(|tag| (tag, 0)).collect();
    assert_eq!(ended, expected);
    harness.close();
}

/// Writes whose data comes unasked while there is no buffer for it: what has come is kept until there is one for all, and nothing is mixed up.
#[test]
fn unasked_data_waits_for_its_buffer() {
    let mut harness = Harness::new();
    harness.login("InitialR2T=No\0FirstBurstLength=8192");
    harness.attend();
    let size = BLOCKS as u32 * 512;
    let all = write_10(0, BLOCKS as u16);
    for tag in 100..200 {
        // Two blocks with the command, fourteen more unasked, the rest asked for.
        let first = [tag as u8; 1024];
        let bytes = harness.command_bytes(tag, &all, 0, size, &first, false);
        harness.feed(&bytes, usize::MAX);
        let rest = data_out(tag, UNSOLICITED, 0, 1024, true);
        let bytes = harness.pdu(rest, &[tag as u8; 7168]);
        harness.feed(&bytes, 5000);
    }
    let ended = deliver(&mut harness, |tag| tag as u8);
    assert_eq!(ended.len(), 100);
    assert!(ended.iter().all(|(_, status)| *status == 0));
    let last = ended.last().expect("a hundred").0 as u8;
    assert!(harness.backend.bytes.iter().all(|byte| *byte == last));
    harness.close();
}

/// Reads of more than may be under way wait for their turn; what comes after them is heard, and other writes go on.
#[test]
fn reads_that_wait_stop_nobody_else() {
    for keys in ["HeaderDigest=None", "DataDigest=CRC32C"] {
        let mut harness = Harness::new();
        harness.login(keys);
        harness.attend();
        harness.backend.hold = true;
        let size = BLOCKS as u32 * 512;
        let reads = 2 * READ_BYTES_MAX as u32 / size;
        for tag in 0..reads {
            let read = read_10(0, BLOCKS as u16);
            let bytes = harness.command_bytes(100 + tag, &read, size, 0, &[], true);
            harness.feed(&bytes, usize::MAX);
        }
        assert!(harness.take().is_empty());
        assert!(harness.backend.requests.len() < reads as usize, "some wait");
        let mut ping = Header::new(opcode::NOP_OUT | 0x40, FINAL);
        ping.put(16, 9);
        ping.put(20, NO_TAG);
        ping.put(24, harness.command_sn);
        let bytes = harness.pdu(ping, b"here");
        harness.feed(&bytes, usize::MAX);
        let pong = harness.take();
        assert_eq!((pong.len(), pong[0].header.opcode()), (1, opcode::NOP_IN));
        let bytes = harness.command_bytes(10, &write_10(0, 1), 0, 512, &[7; 512], true);
        harness.feed(&bytes, usize::MAX);
        assert_eq!(
            harness.backend.requests.last().map(|last| last.op),
            Some(Op::Write)
        );
        let mut ended = 0;
        while ended < reads as usize + 1 {
            harness.finish();
            let sent = harness.take();
            assert!(!sent.is_empty());
            let is_end = |sent: &&Sent| {
                sent.header.opcode() == opcode::RESPONSE || sent.header.flags() & 1 != 0
            };
            ended += sent.iter().filter(is_end).count();
        }
        harness.close();
    }
}

/// RFC 7143, 11.4.8: ExpDataSN counts what came from the target: R2Ts of a write, however its data came.
#[test]
fn a_response_counts_what_was_sent() {
    let mut harness = Harness::new();
    harness.login("InitialR2T=Yes");
    harness.attend();
    let bytes = harness.command_bytes(3, &write_10(0, 4), 0, 2048, &[], true);
    harness.feed(&bytes, usize::MAX);
    let ready = harness.take().remove(0).header;
    for part in 0..4 {
        let header = data_out(3, ready.u32(20), part, part * 512, part == 3);
        let bytes = harness.pdu(header, &[1; 512]);
        harness.feed(&bytes, usize::MAX);
    }
    let response = harness.take().remove(0).header;
    assert_eq!((response.opcode(), response.u32(36)), (opcode::RESPONSE, 1));
    harness.close();
}
