//! I/O commands: data, statuses, fused pairs, R2T, digests.

use super::super::harness::{BLOCKS, Harness, capsule, capsule_with};
use super::super::session::TRANSFER_BYTES_MAX;
use super::host::{Answer, answers, completion, run};
use crate::dm::{self, Op};
use crate::nvme::command::{DatasetRange, Fuse};
use crate::nvme::opcode::io;
use crate::nvme::pdu::{Digests, FLAG_LAST, FLAG_SUCCESS, Kind, Transfer};
use crate::nvme::{Command, DataPointer, NSID_ALL, Status};

pub fn connected() -> Harness {
    let mut harness = Harness::new();
    harness.connect_io(Digests::default(), true);
    harness
}

pub fn end(mut harness: Harness) {
    harness.disconnect_admin();
    harness.close();
}

pub fn block_io(opcode: u8, lba: u64, count: u32) -> Command {
    let mut command = Command::block_io(opcode, 1, lba, count);
    command.set_command_id(7);
    command.set_data_pointer(DataPointer::transport(count * 512));
    command
}

fn in_capsule(opcode: u8, lba: u64, count: u32) -> Command {
    let mut command = block_io(opcode, lba, count);
    command.set_data_pointer(DataPointer::in_capsule(0, count * 512));
    command
}

/// H2CData for the whole of an R2T.
pub fn host_data(ready: &Transfer, data: &[u8], digests: Digests) -> Vec<u8> {
    let transfer = Transfer {
        size: data.len() as u32,
        ..*ready
    };
    let mut bytes = vec![0; 64];
    let offset = transfer.encode_data(&mut bytes, Kind::HostData, FLAG_LAST, digests, 0);
    bytes.truncate(offset);
    bytes.extend_from_slice(data);
    if digests.data {
        bytes.extend_from_slice(&crate::nvme::pdu::digest(data).to_le_bytes());
    }
    bytes
}

pub fn pattern(size: usize) -> Vec<u8> {
    (0..size)
        .map(|index| (index / 7) as u8 ^ index as u8)
        .collect()
}

#[test]
fn what_was_written_is_read_with_and_without_flow_control() {
    for flow_control in [true, false] {
        let mut harness = Harness::new();
        harness.connect_io(Digests::default(), flow_control);
        let data = pattern(4096);
        assert_eq!(
            run(&mut harness, &in_capsule(io::WRITE, 3, 8), &data).0,
            Status::SUCCESS
        );
        harness.feed(&capsule(&block_io(io::READ, 3, 8), &[]), usize::MAX);
        let got = answers(&mut harness);
        // With flow control SQHD has to be told, so a response follows; without, SUCCESS stands for it.
        assert_eq!(got.len(), if flow_control { 2 } else { 1 });
        let Answer::Data {
            transfer,
            flags,
            data: read,
        } = &got[0]
        else {
            panic!("{got:?}")
        };
        assert_eq!(
            (transfer.offset, transfer.size, &read[..]),
            (0, 4096, &data[..])
        );
        assert_eq!(flags & FLAG_SUCCESS != 0, !flow_control);
        end(harness);
    }
}

#[test]
fn the_queue_head_is_told_and_wraps() {
    let mut harness = connected();
    let mut heads = Vec::new();
    for _ in 0..70 {
        let mut flush = Command::new(io::FLUSH, 1);
        flush.set_command_id(1);
        harness.feed(&capsule(&flush, &[]), usize::MAX);
        let Some(Answer::Response(completion)) = answers(&mut harness).pop() else {
            panic!()
        };
        heads.push(completion.queue_head);
    }
    let expected: Vec<u16> = (2..72).map(|head| head % 64).collect();
    assert_eq!(heads, expected);
    end(harness);
}

#[test]
fn every_range_error_has_its_status() {
    let mut harness = connected();
    let invalid_field = Status::INVALID_FIELD.do_not_retry();
    let out_of_range = Status::LBA_OUT_OF_RANGE.do_not_retry();
    let data = vec![0; 512];
    for code in [
        io::READ,
        io::WRITE,
        io::COMPARE,
        io::VERIFY,
        io::WRITE_ZEROES,
    ] {
        let make = |lba, count| {
            let mut command = block_io(code, lba, count);
            command.set_data_pointer(DataPointer::transport(u32::MAX));
            command
        };
        for (lba, count) in [
            (BLOCKS, 1),
            (BLOCKS - 1, 2),
            (u64::MAX, 1),
            (u64::MAX, 2),
            (u64::MAX - 7, 8),
        ] {
            assert_eq!(
                run(&mut harness, &make(lba, count), &[]).0,
                out_of_range,
                "{code} {lba} {count}"
            );
        }
        for (nsid, status) in [
            (0, Status::INVALID_NAMESPACE.do_not_retry()),
            (2, invalid_field),
            (1024, invalid_field),
            (1025, Status::INVALID_NAMESPACE.do_not_retry()),
            (NSID_ALL, Status::INVALID_NAMESPACE.do_not_retry()),
        ] {
            let mut command = make(0, 1);
            command.set_nsid(nsid);
            assert_eq!(run(&mut harness, &command, &[]).0, status, "{code} {nsid}");
        }
        if code != io::WRITE_ZEROES {
            let too_long = make(0, TRANSFER_BYTES_MAX / 512 + 1);
            assert_eq!(run(&mut harness, &too_long, &[]).0, invalid_field, "{code}");
        }
    }
    for opcode in [
        io::WRITE_UNCORRECTABLE,
        io::COPY,
        io::RESERVATION_REGISTER,
        0x80,
        0xFF,
    ] {
        let status = run(&mut harness, &block_io(opcode, 0, 1), &[]).0;
        assert_eq!(status, Status::INVALID_OPCODE.do_not_retry());
    }
    assert_eq!(
        run(&mut harness, &in_capsule(io::WRITE, 0, 1), &data).0,
        Status::SUCCESS
    );
    end(harness);
}

#[test]
fn every_wrong_data_pointer_has_its_status() {
    let mut harness = connected();
    let data = vec![0; 512];
    let mut try_pointer = |opcode, pointer: DataPointer| {
        let mut command = block_io(opcode, 0, 1);
        command.set_data_pointer(pointer);
        run(&mut harness, &command, &data).0
    };
    let length = Status::DATA_SGL_LENGTH_INVALID.do_not_retry();
    let kind = Status::SGL_TYPE_INVALID.do_not_retry();
    let offset = Status::SGL_OFFSET_INVALID.do_not_retry();
    assert_eq!(try_pointer(io::READ, DataPointer::transport(511)), length);
    assert_eq!(try_pointer(io::READ, DataPointer::in_capsule(0, 512)), kind);
    assert_eq!(
        try_pointer(io::WRITE, DataPointer::in_capsule(0, 0)),
        length
    );
    assert_eq!(
        try_pointer(io::WRITE, DataPointer::in_capsule(1, 512)),
        offset
    );
    assert_eq!(
        try_pointer(io::WRITE, DataPointer::in_capsule(u64::MAX, 512)),
        offset
    );
    assert_eq!(
        try_pointer(io::WRITE, DataPointer::in_capsule(0, 4096)),
        offset
    );
    for identifier in
        (0..=255).filter(|&id| id != DataPointer::IN_CAPSULE && id != DataPointer::TRANSPORT)
    {
        let pointer = DataPointer {
            address: 0,
            size: 512,
            identifier,
        };
        assert_eq!(try_pointer(io::WRITE, pointer), kind);
        assert_eq!(try_pointer(io::READ, pointer), kind);
    }
    for form in [0, 3] {
        let mut command = in_capsule(io::WRITE, 0, 1);
        command.set_data_transfer_form(form);
        assert_eq!(
            run(&mut harness, &command, &data).0,
            Status::INVALID_FIELD.do_not_retry()
        );
    }
    end(harness);
}

#[test]
fn a_large_write_is_asked_for_and_comes_in_pieces() {
    for digests in [
        Digests::default(),
        Digests {
            header: true,
            data: true,
        },
    ] {
        let mut harness = Harness::new();
        harness.connect_io(digests, true);
        let data = pattern(64 * 1024);
        harness.feed(
            &capsule_with(&block_io(io::WRITE, 0, 128), &[], digests),
            usize::MAX,
        );
        let Some(Answer::Ready(ready)) = answers(&mut harness).pop() else {
            panic!("no R2T")
        };
        assert_eq!((ready.offset, ready.size), (0, 64 * 1024));
        // Two PDUs, cut anywhere.
        let (first, second) = data.split_at(40_000);
        let mut bytes = host_data(&Transfer { offset: 0, ..ready }, first, digests);
        bytes[1] &= !FLAG_LAST;
        if digests.header {
            crate::nvme::pdu::put_header_digest(&mut bytes, 24);
        }
        bytes.extend(host_data(
            &Transfer {
                offset: 40_000,
                ..ready
            },
            second,
            digests,
        ));
        harness.feed(&bytes, 3001);
        assert_eq!(completion(&mut harness, 7).0, Status::SUCCESS);
        assert_eq!(harness.backend.bytes[..data.len()], data[..]);
        harness.feed(
            &capsule_with(&block_io(io::READ, 0, 128), &[], digests),
            usize::MAX,
        );
        assert_eq!(completion(&mut harness, 7), (Status::SUCCESS, 0, data));
        end(harness);
    }
}

#[test]
fn a_wrong_data_digest_fails_the_command_and_nothing_else() {
    let digests = Digests {
        header: false,
        data: true,
    };
    let mut harness = Harness::new();
    harness.connect_io(digests, true);
    let data = pattern(512);
    let mut bytes = capsule_with(&in_capsule(io::WRITE, 0, 1), &data, digests);
    *bytes.last_mut().unwrap() ^= 1;
    harness.feed(&bytes, usize::MAX);
    assert_eq!(
        completion(&mut harness, 7).0,
        Status::TRANSIENT_TRANSPORT_ERROR
    );
    harness.feed(
        &capsule_with(&block_io(io::WRITE, 0, 1), &[], digests),
        usize::MAX,
    );
    let Some(Answer::Ready(ready)) = answers(&mut harness).pop() else {
        panic!("no R2T")
    };
    let mut bytes = host_data(&ready, &data, digests);
    *bytes.last_mut().unwrap() ^= 1;
    harness.feed(&bytes, usize::MAX);
    assert_eq!(
        completion(&mut harness, 7).0,
        Status::TRANSIENT_TRANSPORT_ERROR
    );
    assert!(harness.backend.requests.is_empty());
    harness.feed(
        &capsule_with(&in_capsule(io::WRITE, 0, 1), &data, digests),
        usize::MAX,
    );
    assert_eq!(completion(&mut harness, 7).0, Status::SUCCESS);
    end(harness);
}

/// AT-63: what the host asks for in the command reaches the mapper, which sees to it whatever is beneath.
#[test]
fn at_63_force_unit_access_reaches_the_device() {
    let mut harness = connected();
    let mut command = in_capsule(io::WRITE, 0, 1);
    command.set_force_unit_access();
    run(&mut harness, &command, &[0; 512]);
    let mut zeroes = block_io(io::WRITE_ZEROES, 0, 256);
    zeroes.set_force_unit_access();
    run(&mut harness, &zeroes, &[]);
    run(&mut harness, &in_capsule(io::WRITE, 0, 1), &[0; 512]);
    let fua: Vec<bool> = harness
        .backend
        .requests
        .iter()
        .map(|request| request.fua)
        .collect();
    assert_eq!(fua, [true, true, false]);
    end(harness);
}

#[test]
fn compare_and_verify() {
    let mut harness = connected();
    let data = pattern(2048);
    run(&mut harness, &in_capsule(io::WRITE, 5, 4), &data);
    assert_eq!(
        run(&mut harness, &in_capsule(io::COMPARE, 5, 4), &data).0,
        Status::SUCCESS
    );
    let mut other = data.clone();
    other[2047] ^= 1;
    let status = run(&mut harness, &in_capsule(io::COMPARE, 5, 4), &other).0;
    assert_eq!(status, Status::COMPARE_FAILURE.do_not_retry());
    assert_eq!(
        run(&mut harness, &block_io(io::VERIFY, 5, 4), &[]),
        (Status::SUCCESS, 0, vec![])
    );
    harness.backend.status = dm::Status::Medium;
    let status = run(&mut harness, &block_io(io::VERIFY, 5, 4), &[]).0;
    assert_eq!(status, Status::UNRECOVERED_READ_ERROR.do_not_retry());
    end(harness);
}

fn fused(first: &[u8], second: &[u8], ids: (u16, u16)) -> Vec<u8> {
    let count = (first.len() / 512) as u32;
    let mut compare = in_capsule(io::COMPARE, 5, count);
    compare.set_command_id(ids.0);
    compare.set_fuse(Fuse::First);
    let mut write = in_capsule(io::WRITE, 5, count);
    write.set_command_id(ids.1);
    write.set_fuse(Fuse::Second);
    [capsule(&compare, first), capsule(&write, second)].concat()
}

pub fn statuses(harness: &mut Harness) -> Vec<(u16, Status)> {
    let responses = answers(harness).into_iter().map(|answer| match answer {
        Answer::Response(completion) => (completion.command_id, completion.status),
        other => panic!("unexpected {other:?}"),
    });
    responses.collect()
}

#[test]
fn compare_and_write_is_one_operation() {
    let mut harness = connected();
    let new = pattern(1024);
    harness.feed(&fused(&[0; 1024], &new, (1, 2)), 100);
    assert_eq!(
        statuses(&mut harness),
        [(1, Status::SUCCESS), (2, Status::SUCCESS)]
    );
    assert_eq!(harness.backend.requests.len(), 1);
    assert_eq!(harness.backend.requests[0].op, Op::CompareAndWrite);
    assert_eq!(harness.backend.bytes[5 * 512..7 * 512], new[..]);
    harness.feed(&fused(&[0; 1024], &new, (1, 2)), usize::MAX);
    let failed = [
        (1, Status::COMPARE_FAILURE.do_not_retry()),
        (2, Status::ABORTED_FAILED_FUSED),
    ];
    assert_eq!(statuses(&mut harness), failed);
    end(harness);
}

/// The second half of a pair that is at the device is not "aborted" by itself: it ends as the write does.
#[test]
fn a_fused_pair_is_aborted_as_one() {
    let mut harness = connected();
    harness.backend.hold = true;
    let aborted = [
        (1, Status::ABORT_REQUESTED),
        (2, Status::ABORTED_FAILED_FUSED),
    ];
    let done = [(1, Status::SUCCESS), (2, Status::SUCCESS)];
    for (status, expected) in [(dm::Status::Aborted, aborted), (dm::Status::Ok, done)] {
        harness.backend.status = status;
        harness.feed(&fused(&[0; 512], &[1; 512], (1, 2)), usize::MAX);
        assert_eq!(harness.backend.held(), 1);
        assert!(harness.with(|session, cx| session.abort_command(2, cx)));
        harness.finish();
        assert_eq!(statuses(&mut harness), expected);
    }
    end(harness);
}

#[test]
fn halves_of_a_fused_pair_that_do_not_belong_together() {
    let mut harness = connected();
    let pair = fused(&[0; 512], &[0; 512], (1, 2));
    let (first, second) = pair.split_at(pair.len() / 2);
    // A second without a first.
    harness.feed(second, usize::MAX);
    assert_eq!(statuses(&mut harness), [(2, Status::ABORTED_MISSING_FUSED)]);
    // A first whose next command is another.
    harness.feed(first, usize::MAX);
    assert_eq!(statuses(&mut harness), []);
    harness.feed(
        &capsule(&in_capsule(io::WRITE, 0, 1), &[0; 512]),
        usize::MAX,
    );
    assert_eq!(
        statuses(&mut harness),
        [(1, Status::ABORTED_MISSING_FUSED), (7, Status::SUCCESS)]
    );
    // Another range.
    let mut wrong = pair.clone();
    wrong[first.len() + 8 + 40] = 6;
    harness.feed(&wrong, usize::MAX);
    let invalid = Status::INVALID_FIELD.do_not_retry();
    assert_eq!(statuses(&mut harness), [(1, invalid), (2, invalid)]);
    // Larger than ACWU.
    let (compare, write) = (block_io(io::COMPARE, 0, 129), block_io(io::WRITE, 0, 129));
    let mut pair = Vec::new();
    for (mut command, fuse, id) in [(compare, Fuse::First, 1), (write, Fuse::Second, 2)] {
        command.set_fuse(fuse);
        command.set_command_id(id);
        pair.extend(capsule(&command, &[]));
    }
    harness.feed(&pair, usize::MAX);
    let exceeded = Status::ATOMIC_WRITE_UNIT_EXCEEDED.do_not_retry();
    assert_eq!(statuses(&mut harness), [(1, exceeded), (2, exceeded)]);
    assert!(
        harness
            .backend
            .requests
            .iter()
            .all(|request| request.op != Op::CompareAndWrite)
    );
    end(harness);
}

#[test]
fn a_fused_pair_whose_data_is_asked_for() {
    let mut harness = connected();
    let new = pattern(32 * 1024);
    let mut pair = Vec::new();
    for (opcode, fuse, id) in [(io::COMPARE, Fuse::First, 1), (io::WRITE, Fuse::Second, 2)] {
        let mut command = block_io(opcode, 0, 64);
        command.set_fuse(fuse);
        command.set_command_id(id);
        pair.extend(capsule(&command, &[]));
    }
    harness.feed(&pair, usize::MAX);
    let ready: Vec<Transfer> = answers(&mut harness)
        .into_iter()
        .map(|answer| match answer {
            Answer::Ready(ready) => ready,
            other => panic!("unexpected {other:?}"),
        })
        .collect();
    assert_eq!((ready[0].command_id, ready[1].command_id), (1, 2));
    harness.feed(&host_data(&ready[1], &new, Digests::default()), usize::MAX);
    assert_eq!(statuses(&mut harness), []);
    harness.feed(
        &host_data(&ready[0], &vec![0; 32 * 1024], Digests::default()),
        usize::MAX,
    );
    assert_eq!(
        statuses(&mut harness),
        [(1, Status::SUCCESS), (2, Status::SUCCESS)]
    );
    assert_eq!(harness.backend.bytes[..new.len()], new[..]);
    end(harness);
}

#[test]
fn dataset_management_deallocates_all_ranges_or_none() {
    let mut harness = connected();
    harness.backend.bytes.fill(0xFF);
    let ranges = |list: &[(u64, u32)]| {
        let mut bytes = vec![0; 4096];
        for (index, &(lba, block_count)) in list.iter().enumerate() {
            DatasetRange {
                context: 0,
                block_count,
                lba,
            }
            .encode(&mut bytes[index * 16..]);
        }
        let mut command = Command::new(io::DATASET_MANAGEMENT, 1);
        command.set_command_id(7);
        command.set_dword(10, list.len() as u32 - 1);
        command.set_dword(11, 1 << 2);
        // Linux describes 4,096 bytes, however few ranges there are.
        command.set_data_pointer(DataPointer::in_capsule(0, 4096));
        (command, bytes)
    };
    let (command, bytes) = ranges(&[(1, 2), (0, 0), (BLOCKS - 1, 1)]);
    assert_eq!(run(&mut harness, &command, &bytes).0, Status::SUCCESS);
    let extents: Vec<_> = harness
        .backend
        .requests
        .iter()
        .map(|one| (one.op, one.sector, one.sectors))
        .collect();
    assert_eq!(extents, [(Op::Discard, 1, 2), (Op::Discard, BLOCKS - 1, 1)]);
    let (command, bytes) = ranges(&[(1, 2), (BLOCKS, 1)]);
    assert_eq!(
        run(&mut harness, &command, &bytes).0,
        Status::LBA_OUT_OF_RANGE.do_not_retry()
    );
    let (mut command, bytes) = ranges(&[(1, 2)]);
    command.set_dword(11, 1);
    assert_eq!(run(&mut harness, &command, &bytes).0, Status::SUCCESS);
    assert_eq!(harness.backend.requests.len(), 2);
    end(harness);
}

#[test]
fn flush_takes_a_namespace_or_all() {
    let mut harness = connected();
    for (nsid, status) in [
        (1, Status::SUCCESS),
        (NSID_ALL, Status::SUCCESS),
        (2, Status::INVALID_FIELD.do_not_retry()),
        (0, Status::INVALID_NAMESPACE.do_not_retry()),
    ] {
        let mut flush = Command::new(io::FLUSH, nsid);
        flush.set_command_id(3);
        assert_eq!(run(&mut harness, &flush, &[]).0, status, "{nsid}");
    }
    assert_eq!(harness.backend.requests.len(), 2);
    harness.backend.status = dm::Status::NotSupported;
    let mut flush = Command::new(io::FLUSH, NSID_ALL);
    flush.set_command_id(3);
    assert_eq!(
        run(&mut harness, &flush, &[]).0,
        Status::INVALID_OPCODE.do_not_retry()
    );
    end(harness);
}

#[test]
fn device_errors_become_the_status_that_tells_most() {
    let mut harness = connected();
    for (device, read, write) in [
        (
            dm::Status::Medium,
            Status::UNRECOVERED_READ_ERROR.do_not_retry(),
            Status::WRITE_FAULT.do_not_retry(),
        ),
        (
            dm::Status::NoSpace,
            Status::CAPACITY_EXCEEDED.do_not_retry(),
            Status::CAPACITY_EXCEEDED.do_not_retry(),
        ),
        (
            dm::Status::Transport,
            Status::INTERNAL_PATH_ERROR,
            Status::INTERNAL_PATH_ERROR,
        ),
        (
            dm::Status::IoError,
            Status::INTERNAL_ERROR,
            Status::INTERNAL_ERROR,
        ),
        (
            dm::Status::Target,
            Status::INTERNAL_ERROR.do_not_retry(),
            Status::INTERNAL_ERROR.do_not_retry(),
        ),
        (
            dm::Status::Aborted,
            Status::ABORT_REQUESTED,
            Status::ABORT_REQUESTED,
        ),
    ] {
        harness.backend.status = device;
        assert_eq!(
            run(&mut harness, &block_io(io::READ, 0, 1), &[]),
            (read, 0, vec![])
        );
        assert_eq!(
            run(&mut harness, &in_capsule(io::WRITE, 0, 1), &[0; 512]).0,
            write
        );
    }
    end(harness);
}

/// More writes at a slow device than may stay in the receive chunks.
#[test]
fn slow_devices_keep_data_apart_from_what_comes_next() {
    let mut harness = connected();
    harness.backend.hold = true;
    let mut expected = vec![0; harness.backend.bytes.len()];
    for round in 0..60usize {
        let data: Vec<u8> = (0..2048).map(|index| (index + round * 31) as u8).collect();
        let mut command = in_capsule(io::WRITE, round as u64 * 4, 4);
        command.set_command_id(round as u16);
        expected[round * 2048..][..data.len()].copy_from_slice(&data);
        harness.feed(&capsule(&command, &data), 5000);
    }
    assert_eq!(harness.backend.held(), 60);
    harness.finish();
    assert_eq!(statuses(&mut harness).len(), 60);
    assert!(harness.backend.bytes[..] == expected[..]);
    end(harness);
}

#[test]
fn a_connection_that_breaks_gets_its_memory_back_when_the_device_is_done() {
    let mut harness = connected();
    harness.backend.hold = true;
    harness.feed(
        &capsule(&in_capsule(io::WRITE, 0, 1), &[1; 512]),
        usize::MAX,
    );
    let mut read = block_io(io::READ, 0, 1);
    read.set_command_id(8);
    harness.feed(&capsule(&read, &[]), usize::MAX);
    let mut large = block_io(io::WRITE, 0, 128);
    large.set_command_id(9);
    harness.feed(&capsule(&large, &[]), usize::MAX);
    harness.with(|session, cx| session.kill(cx));
    assert!(!harness.session.is_finished());
    end(harness);
}

#[test]
fn an_identifier_in_use_is_a_conflict() {
    let mut harness = connected();
    harness.backend.hold = true;
    harness.feed(&capsule(&block_io(io::READ, 0, 1), &[]), usize::MAX);
    harness.feed(&capsule(&block_io(io::READ, 1, 1), &[]), usize::MAX);
    assert_eq!(
        statuses(&mut harness),
        [(7, Status::COMMAND_ID_CONFLICT.do_not_retry())]
    );
    harness.finish();
    assert_eq!(completion(&mut harness, 7).2.len(), 512);
    end(harness);
}

#[test]
fn a_host_that_does_not_read_is_stopped() {
    let mut harness = connected();
    let mut fed = 0;
    // Nothing is drained: `input` must refuse long before the slots' worth of answers has grown without bound.
    for id in 0..10_000u16 {
        let mut command = block_io(io::READ, 0, 256);
        command.set_command_id(id);
        let bytes = capsule(&command, &[]);
        let taken = harness.with(|session, cx| match session.input(cx) {
            Some([_, room]) => {
                // SAFETY: `input` says that so much may be written there.
                unsafe {
                    std::ptr::copy_nonoverlapping(
                        bytes.as_ptr(),
                        room.iov_base.cast::<u8>(),
                        bytes.len(),
                    )
                };
                session.received(bytes.len(), cx);
                true
            }
            None => false,
        });
        if !taken {
            break;
        }
        fed += 1;
    }
    assert!((32..=64).contains(&fed), "{fed}");
    harness.drain();
    assert_eq!(answers(&mut harness).len(), 2 * fed);
    end(harness);
}

/// A host without flow control may fill every slot with writes whose data is still to come.
#[test]
fn a_queue_full_of_commands_still_takes_their_data() {
    let mut harness = Harness::new();
    harness.connect_io(Digests::default(), false);
    let mut commands = Vec::new();
    for id in 0..64u16 {
        let mut write = block_io(io::WRITE, u64::from(id), 1);
        write.set_command_id(id);
        commands.extend(capsule(&write, &[]));
    }
    harness.feed(&commands, usize::MAX);
    let ready: Vec<Transfer> = answers(&mut harness)
        .into_iter()
        .filter_map(|answer| match answer {
            Answer::Ready(ready) => Some(ready),
            _ => None,
        })
        .collect();
    assert_eq!(ready.len(), 64);
    for ready in ready.iter().rev() {
        let data = [ready.command_id as u8; 512];
        harness.feed(&host_data(ready, &data, Digests::default()), 100);
    }
    assert_eq!(statuses(&mut harness).len(), 64);
    assert!((0..64).all(|block| harness.backend.bytes[block * 512] == block as u8));
    end(harness);
}
