//! Every PDU wrong in every field: the TermReq that the transport prescribes, and nothing after it.

use super::super::harness::{Harness, NQN, capsule, capsule_with, connect};
use super::super::session::{HOST_DATA_BYTES_MAX, IN_CAPSULE_BYTES_ADMIN, State};
use super::host::{Answer, answers};
use crate::nvme::opcode::{admin, io};
use crate::nvme::pdu::{
    Digests, FatalError, InitializeRequest, Kind, Receiver, TermReason, Terminate, Transfer,
};
use crate::nvme::{Command, DataPointer};

const FIELD: u16 = FatalError::InvalidHeaderField as u16;
const SEQUENCE: u16 = FatalError::SequenceError as u16;
const DIGEST: u16 = FatalError::HeaderDigestError as u16;
const RANGE: u16 = FatalError::DataOutOfRange as u16;
const LIMIT: u16 = FatalError::LimitExceeded as u16;
const UNSUPPORTED: u16 = FatalError::UnsupportedParameter as u16;

/// Feeds `bytes` and more after them, and expects a TermReq of this kind as the last thing ever said.
#[track_caller]
fn expect(mut harness: Harness, bytes: &[u8], fes: u16, fei: u32) {
    harness.feed(bytes, usize::MAX);
    let last = answers(&mut harness).pop();
    let Some(Answer::Terminate {
        fes: got,
        fei: at,
        echoed,
    }) = last
    else {
        panic!("{last:?}")
    };
    assert_eq!((got, at), (fes, fei));
    assert!(bytes.windows(echoed.len()).any(|window| window == echoed));
    assert_eq!(harness.session.state, State::Terminating);
    assert!(harness.session.is_violated() && harness.session.is_farewell_sent());
    let mut keep_alive = Command::new(admin::KEEP_ALIVE, 0);
    keep_alive.set_command_id(1);
    harness.feed(&capsule(&keep_alive, &[]), usize::MAX);
    assert!(harness.output.is_empty());
    harness.disconnect_admin();
    harness.close();
}

fn initialize() -> Vec<u8> {
    let digests = Digests::default();
    InitializeRequest {
        format_version: 0,
        host_alignment: 0,
        digests,
        ready_to_transfer_max: 1,
    }
    .encode()
    .to_vec()
}

fn admin_queue() -> Harness {
    let mut harness = Harness::new();
    harness.connect_admin();
    harness
}

fn io_queue(digests: Digests) -> Harness {
    let mut harness = Harness::new();
    harness.connect_io(digests, true);
    harness
}

fn changed(mut bytes: Vec<u8>, offset: usize, value: u8) -> Vec<u8> {
    bytes[offset] = value;
    bytes
}

/// An I/O queue with an R2T for 64 KiB outstanding.
fn asked() -> (Harness, Transfer) {
    let mut harness = io_queue(Digests::default());
    let mut write = Command::block_io(io::WRITE, 1, 0, 128);
    write.set_command_id(7);
    write.set_data_pointer(DataPointer::transport(64 * 1024));
    harness.feed(&capsule(&write, &[]), usize::MAX);
    let Some(Answer::Ready(ready)) = answers(&mut harness).pop() else {
        panic!("no R2T")
    };
    (harness, ready)
}

fn host_data(transfer: Transfer, size: usize, flags: u8) -> Vec<u8> {
    let mut bytes = vec![0; 24];
    Transfer {
        size: size as u32,
        ..transfer
    }
    .encode_data(&mut bytes, Kind::HostData, flags, Digests::default(), 0);
    bytes.extend(std::iter::repeat_n(0x55, size));
    bytes
}

#[test]
fn initialize_request() {
    expect(Harness::new(), &changed(initialize(), 2, 127), FIELD, 2);
    expect(Harness::new(), &changed(initialize(), 4, 127), FIELD, 4);
    expect(Harness::new(), &changed(initialize(), 5, 1), FIELD, 4);
    expect(Harness::new(), &changed(initialize(), 7, 0xFF), FIELD, 4);
    expect(Harness::new(), &changed(initialize(), 8, 1), UNSUPPORTED, 8);
    expect(Harness::new(), &changed(initialize(), 9, 1), UNSUPPORTED, 8);
    expect(Harness::new(), &changed(initialize(), 10, 32), FIELD, 10);
    let mut initialized = Harness::new();
    initialized.initialize(Digests::default());
    expect(initialized, &initialize(), SEQUENCE, 0);
    expect(admin_queue(), &initialize(), SEQUENCE, 0);
}

#[test]
fn anything_but_initialize_first() {
    expect(Harness::new(), &connect(NQN, 0, 0xFFFF, 31, 0), SEQUENCE, 0);
    expect(
        Harness::new(),
        &host_data(
            Transfer {
                command_id: 0,
                tag: 0,
                offset: 0,
                size: 0,
            },
            8,
            0,
        ),
        SEQUENCE,
        0,
    );
    expect(
        Harness::new(),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        FIELD,
        0,
    );
    expect(Harness::new(), &[0xFF; 64], FIELD, 0);
}

#[test]
fn types_that_no_host_sends() {
    for kind in 0..=255u8 {
        if [0x00, 0x02, 0x04, 0x06].contains(&kind) {
            continue;
        }
        let pdu = [
            kind, 0, 24, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        expect(admin_queue(), &pdu, FIELD, 0);
        expect(Harness::new(), &pdu, FIELD, 0);
    }
}

#[test]
fn command_capsules() {
    let mut command = Command::new(admin::KEEP_ALIVE, 0);
    command.set_command_id(1);
    let plain = capsule(&command, &[]);
    let with_data = capsule(&command, &[0; 512]);
    expect(admin_queue(), &changed(plain.clone(), 1, 1), FIELD, 1);
    expect(admin_queue(), &changed(with_data.clone(), 1, 2), FIELD, 1);
    for size in [0, 8, 71, 73, 128, 255] {
        expect(admin_queue(), &changed(plain.clone(), 2, size), FIELD, 2);
    }
    expect(admin_queue(), &changed(with_data.clone(), 3, 71), FIELD, 3);
    expect(admin_queue(), &changed(with_data.clone(), 3, 73), FIELD, 3);
    for size in [0u32, 8, 71] {
        let mut bytes = plain.clone();
        bytes[4..8].copy_from_slice(&size.to_le_bytes());
        expect(admin_queue(), &bytes, FIELD, 4);
    }
    // A length that lies, or more data than a capsule may have.
    for size in [72 + IN_CAPSULE_BYTES_ADMIN + 1, 1 << 24, u32::MAX] {
        let mut bytes = with_data.clone();
        bytes[4..8].copy_from_slice(&size.to_le_bytes());
        expect(admin_queue(), &bytes, FIELD, 4);
    }
}

#[test]
fn header_digests() {
    let digests = Digests {
        header: true,
        data: true,
    };
    let mut flush = Command::new(io::FLUSH, 1);
    flush.set_command_id(1);
    let good = capsule_with(&flush, &[], digests);
    // Digest flags that were not agreed on, and the other way round.
    expect(io_queue(digests), &changed(good.clone(), 1, 0), FIELD, 1);
    expect(io_queue(Digests::default()), &good, FIELD, 1);
    for offset in 8..72 {
        let value = good[offset] ^ 0x10;
        let received = u32::from_le_bytes(good[72..76].try_into().unwrap());
        expect(
            io_queue(digests),
            &changed(good.clone(), offset, value),
            DIGEST,
            received,
        );
    }
}

#[test]
fn data_that_nobody_asked_for() {
    let (harness, ready) = asked();
    expect(
        harness,
        &host_data(
            Transfer {
                tag: ready.tag + 1,
                ..ready
            },
            4096,
            0,
        ),
        FIELD,
        10,
    );
    let (harness, ready) = asked();
    expect(
        harness,
        &host_data(
            Transfer {
                tag: u16::MAX,
                ..ready
            },
            4096,
            0,
        ),
        FIELD,
        10,
    );
    let (harness, ready) = asked();
    expect(
        harness,
        &host_data(
            Transfer {
                command_id: 8,
                ..ready
            },
            4096,
            0,
        ),
        FIELD,
        8,
    );
    expect(
        io_queue(Digests::default()),
        &host_data(ready, 4096, 0),
        FIELD,
        10,
    );
    expect(admin_queue(), &host_data(ready, 4096, 0), FIELD, 10);
}

#[test]
fn data_out_of_place() {
    let (harness, ready) = asked();
    expect(
        harness,
        &host_data(
            Transfer {
                offset: 4096,
                ..ready
            },
            4096,
            0,
        ),
        RANGE,
        0,
    );
    let (harness, ready) = asked();
    expect(harness, &host_data(ready, 64 * 1024 + 4, 0), RANGE, 0);
    let (harness, ready) = asked();
    expect(
        harness,
        &host_data(Transfer { offset: 2, ..ready }, 4096, 0),
        FIELD,
        12,
    );
    let (harness, ready) = asked();
    expect(
        harness,
        &host_data(ready, HOST_DATA_BYTES_MAX as usize + 4, 0),
        LIMIT,
        0,
    );
    // "Last" with data missing.
    let (harness, ready) = asked();
    expect(harness, &host_data(ready, 4096, 4), SEQUENCE, 0);
    // A second time the same piece.
    let (mut harness, ready) = asked();
    harness.feed(&host_data(ready, 4096, 0), usize::MAX);
    expect(harness, &host_data(ready, 4096, 0), RANGE, 0);
    // A size that is not that of the PDU.
    let (harness, ready) = asked();
    let mut bytes = host_data(ready, 4096, 0);
    bytes[16] = 4;
    expect(harness, &bytes, FIELD, 16);
    for (offset, value, fei) in [(1, 1, 1), (2, 25, 2), (3, 20, 3), (3, 25, 3), (4, 24, 3)] {
        let (harness, ready) = asked();
        let mut bytes = host_data(ready, 4096, 0);
        bytes[offset] = value;
        if offset == 4 {
            // No data at all.
            bytes[5] = 0;
            expect(harness, &bytes, FIELD, 4);
        } else {
            expect(harness, &bytes, FIELD, fei);
        }
    }
}

#[test]
fn a_hosts_own_complaint_ends_the_connection_without_an_answer() {
    for change in [None, Some((2, 23)), Some((4, 23)), Some((5, 1))] {
        let mut bytes = [0; 152];
        let size = Terminate::encode(&mut bytes, Receiver::Host, TermReason::sequence(), &[1; 72]);
        let mut pdu = bytes[..size].to_vec();
        pdu[0] = Kind::HostTerminate as u8;
        if let Some((offset, value)) = change {
            pdu[offset] = value;
        }
        let mut harness = admin_queue();
        harness.feed(&pdu, usize::MAX);
        assert!(harness.output.is_empty());
        assert_eq!(harness.session.state, State::Dead);
        harness.close();
    }
}

/// Garbage of any kind after any stage: one TermReq at most, and no panic.
#[test]
fn noise() {
    let mut seed = 1u64;
    for round in 0..3_000 {
        let mut bytes = vec![round as u8];
        for _ in 0..200 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            bytes.push((seed >> 56) as u8);
        }
        super::super::harness::fuzz_connection(&bytes);
        // The same with a type that exists, so that more of it is looked at.
        bytes[1] = [0, 2, 4, 6][round % 4];
        bytes[3] = [128, 24, 72, 24][round % 4];
        bytes[2] = 0;
        super::super::harness::fuzz_connection(&bytes);
    }
}
