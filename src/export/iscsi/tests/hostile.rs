//! Whatever comes, nobody panics, nothing leaks, and nothing is written that was not asked for.

use proptest::prelude::*;

use super::super::harness::{Harness, data_out, fuzz_commands, fuzz_connection, management};
use super::super::store::Store;
use crate::iscsi::pdu::{Header, opcode};

/// A header that is right in its form more often than chance would have it.
fn any_header() -> impl Strategy<Value = Header> {
    let opcodes = prop_oneof![
        Just(opcode::NOP_OUT),
        Just(opcode::COMMAND),
        Just(opcode::TASK_MANAGEMENT),
        Just(opcode::LOGIN),
        Just(opcode::TEXT),
        Just(opcode::DATA_OUT),
        Just(opcode::SNACK),
        0u8..=0xFF,
    ];
    let small = prop_oneof![0u32..8, any::<u32>()];
    let numbers = proptest::collection::vec(small, 6);
    (opcodes, any::<u8>(), numbers, any::<[u8; 16]>()).prop_map(|(code, flags, numbers, cdb)| {
        let mut header = Header::new(code, flags);
        header.put(16, numbers[0]);
        header.put(20, numbers[1]);
        header.put(24, numbers[2]);
        header.0[32..48].copy_from_slice(&cdb);
        header.put(36, numbers[3]);
        if numbers[4] > 4 {
            header.put(40, numbers[5]);
        }
        header
    })
}

/// A target that has every command there is.
fn start() -> Harness {
    let mut harness = Harness::serving(|config| config.targets[0].explicit_alua = true);
    harness.login("ImmediateData=Yes");
    harness.attend();
    harness
}

/// The commands that the target says it has: operation codes, and service actions of those that have some.
fn commands() -> Vec<(u8, Option<u8>)> {
    let mut harness = start();
    let report = [0xA3, 0x0C, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0];
    harness.command(50, &report, 0x2000, &[]);
    let all = harness.take().remove(0).data;
    harness.close();
    let size = u32::from_be_bytes(all[..4].try_into().expect("four bytes"));
    assert_eq!(size as usize, all.len() - 4, "none is left out");
    let descriptors = all[4..].chunks_exact(8);
    descriptors
        .map(|command| (command[0], (command[5] & 1 != 0).then_some(command[3])))
        .collect()
}

/// A CDB of a command that is known; in one of eight of those with service actions, that is another.
fn any_cdb() -> impl Strategy<Value = [u8; 16]> {
    let commands = prop::sample::select(commands());
    let byte = prop_oneof![4 => Just(0u8), 2 => 0u8..8, 1 => any::<u8>()];
    let rest = proptest::collection::vec(byte, 15);
    (commands, rest, 0u8..8).prop_map(|((code, service), rest, stray)| {
        let mut cdb = [0; 16];
        cdb[0] = code;
        cdb[1..].copy_from_slice(&rest);
        if let Some(service) = service.filter(|_| stray > 0) {
            cdb[1] = cdb[1] & 0xE0 | service;
        }
        cdb
    })
}

/// Data that may be a parameter list: a beginning with small numbers, and as much of one byte as it takes.
fn any_data() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => Just(0u8), 2 => 0u8..64, 1 => any::<u8>()];
    let beginning = proptest::collection::vec(byte, 0..64);
    (beginning, 0usize..3000, any::<u8>()).prop_map(|(mut data, size, filler)| {
        data.resize(size, filler);
        data
    })
}

proptest! {
    /// What the fuzzers drive, with bytes that nobody has chosen.
    #[test]
    fn the_harnesses_of_the_fuzzers(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        fuzz_connection(&bytes);
        fuzz_commands(&bytes);
    }

    #[test]
    fn bytes_before_a_login(bytes in proptest::collection::vec(any::<u8>(), 0..4096), piece in 1usize..600) {
        let mut harness = Harness::new();
        harness.feed(&bytes, piece);
        harness.close();
    }

    #[test]
    fn pdus_of_any_kind(
        pdus in proptest::collection::vec((any_header(), 0usize..700), 1..12),
        digests in any::<bool>(),
        hold in any::<bool>(),
        piece in 1usize..900,
    ) {
        let mut harness = Harness::new();
        let digests = if digests { "HeaderDigest=CRC32C DataDigest=CRC32C" } else { "InitialR2T=No" };
        harness.login(digests);
        harness.attend();
        harness.backend.hold = hold;
        for (header, size) in pdus {
            let bytes = harness.pdu(header, &vec![0x5A; size]);
            harness.feed(&bytes, piece);
        }
        harness.finish();
        harness.close();
    }

    /// Every command, with fields near what they should be, however much data there is: it has one answer.
    #[test]
    fn every_command_is_answered_once(
        commands in proptest::collection::vec((any_cdb(), 0u32..3000, any_data()), 1..8),
        hold in any::<bool>(),
    ) {
        let mut harness = start();
        harness.backend.hold = hold;
        for (index, (cdb, length, data)) in commands.into_iter().enumerate() {
            let tag = 100 + index as u32;
            // Data goes one way.
            let length = if data.is_empty() { length } else { 0 };
            harness.command(tag, &cdb, length, &data);
            while harness.backend.held() > 0 {
                harness.finish();
            }
            let sent = harness.take();
            let answers = sent.iter().filter(|pdu| {
                let header = &pdu.header;
                let with_status = header.opcode() == opcode::DATA_IN && header.flags() & 1 != 0;
                header.task_tag() == tag && (header.opcode() == opcode::RESPONSE || with_status)
            });
            let asked = sent.iter().any(|pdu| pdu.header.opcode() == opcode::READY);
            prop_assert_eq!(answers.count(), usize::from(!asked), "{:02x?}", cdb);
        }
        harness.close();
    }

    /// A stream that is right but for one byte.
    #[test]
    fn damaged_streams(at in 0usize..2000, value in any::<u8>(), piece in 1usize..500) {
        let mut harness = Harness::new();
        harness.login("InitialR2T=No");
        harness.attend();
        let mut write = [0u8; 10];
        write[0] = 0x2A;
        write[8] = 3;
        let mut stream = harness.command_bytes(3, &write, 0, 1536, &[1; 512], false);
        let more = data_out(3, 0xFFFF_FFFF, 0, 512, true);
        stream.extend(harness.pdu(more, &[2; 1024]));
        let reset = management(5, 4, 0, harness.command_sn);
        stream.extend(harness.pdu(reset, &[]));
        let length = stream.len();
        stream[at % length] = value;
        harness.feed(&stream, piece);
        harness.finish();
        harness.close();
    }
}

/// PERSISTENT RESERVE OUT; answers status, ASC and ASCQ.
fn reserve_out(harness: &mut Harness, service: u8, list: &[u8]) -> (u8, u8, u8) {
    let mut cdb = [0x5F, service, 1, 0, 0, 0, 0, 0, 0, 0];
    cdb[7..9].copy_from_slice(&(list.len() as u16).to_be_bytes());
    harness.command(50, &cdb, 0, list);
    let sent = harness.take();
    assert_eq!(sent.len(), 1);
    match sent[0].header.0[3] {
        0 => (0, 0, 0),
        status => (status, sent[0].data[14], sent[0].data[15]),
    }
}

/// A reservation key, a new one, and eight bytes more.
fn reserve_list(key: u64, new: u64, flags: [u8; 8]) -> Vec<u8> {
    [key.to_be_bytes(), new.to_be_bytes(), flags].concat()
}

/// The TransportID of an initiator port whose name is as long as can be, and takes three times that in a record.
fn transport_id(number: usize) -> Vec<u8> {
    let text = format!("{number:04}{},i,0x400000000000\0", "\x01".repeat(219));
    let mut bytes = vec![0x45, 0, 0, text.len().next_multiple_of(4) as u8];
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(4 + text.len().next_multiple_of(4), 0);
    bytes
}

/// However much an initiator registers: the target starts again with what it was told to keep.
#[test]
fn registrations_do_not_keep_a_target_from_starting() {
    const REGISTRATIONS_MAX: usize = 1024;
    const GOOD: (u8, u8, u8) = (0, 0, 0);
    const NO_ROOM: (u8, u8, u8) = (2, 0x55, 0x04);
    const APTPL: u8 = 0x01;
    const SPEC_I_PT: u8 = 0x08;
    let directory = tempfile::tempdir().expect("a directory");
    let open = || Store::open(directory.path()).expect("nobody else has it");
    let mut harness = Harness::keeping(open()).expect("nothing is kept yet");
    harness.login("ImmediateData=Yes");
    harness.attend();
    let register = |ids: std::ops::Range<usize>| {
        let mut list = reserve_list(0, 1, [0, 0, 0, 0, SPEC_I_PT, 0, 0, 0]);
        let ids: Vec<u8> = ids.flat_map(transport_id).collect();
        list.extend_from_slice(&(ids.len() as u32).to_be_bytes());
        list.extend_from_slice(&ids);
        list
    };
    let unregister = reserve_list(1, 0, [0; 8]);
    // Others can be named in a first registration only.
    for first in (0..992).step_by(31) {
        let list = register(first..first + 31);
        assert_eq!(reserve_out(&mut harness, 0, &list), GOOD);
        assert_eq!(reserve_out(&mut harness, 0, &unregister), GOOD);
    }
    assert_eq!(reserve_out(&mut harness, 0, &register(992..1024)), NO_ROOM);
    assert_eq!(reserve_out(&mut harness, 0, &register(992..1023)), GOOD);
    // Who is registered can still change its key, and has all of it kept.
    let keep = reserve_list(1, 1, [0, 0, 0, 0, APTPL, 0, 0, 0]);
    assert_eq!(reserve_out(&mut harness, 0, &keep), GOOD);
    let reserve = reserve_list(1, 0, [0; 8]);
    assert_eq!(reserve_out(&mut harness, 1, &reserve), GOOD);
    let id = transport_id(REGISTRATIONS_MAX);
    let mut list = reserve_list(1, 2, [0, APTPL, 0, 1, 0, 0, 0, id.len() as u8]);
    list.extend_from_slice(&id);
    assert_eq!(reserve_out(&mut harness, 7, &list), NO_ROOM);
    harness.close();
    let harness = Harness::keeping(open()).expect("what was kept can be read");
    harness.close();
}
