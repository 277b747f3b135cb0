//! What one connection may take of its core, and that nothing waits for ever because of it.

use std::collections::BTreeSet;

use super::super::config::NamespaceConfig;
use super::super::harness::{Harness, NQN, capsule, capsule_with};
use super::super::target::SubsystemId;
use super::host::{Answer, answers, run};
use super::io::{block_io, connected, end, host_data, pattern, statuses};
use crate::dm::DeviceId;
use crate::export::backend::Backend;
use crate::nvme::opcode::io;
use crate::nvme::pdu::Digests;
use crate::nvme::{Command, DataPointer, Status};

/// Reads at a slow device are bounded in bytes, however many fit the queue.
#[test]
fn reads_of_a_connection_are_bounded() {
    let mut harness = connected();
    harness.backend.hold = true;
    let mut commands = Vec::new();
    for id in 0..63u16 {
        let mut read = block_io(io::READ, 0, 256);
        read.set_command_id(id);
        commands.extend(capsule(&read, &[]));
    }
    harness.feed(&commands, usize::MAX);
    // 33 times 128 KiB is the first sum above the bound.
    assert_eq!(harness.backend.held(), 33);
    harness.finish();
    assert_eq!(harness.backend.held(), 30);
    harness.finish();
    assert_eq!(answers(&mut harness).len(), 2 * 63);
    assert_eq!(harness.session.outstanding(), 0);
    end(harness);
}

/// `count` transfers of 128 KiB with identifiers from `first_id` on.
fn large(opcode: u8, first_id: u16, count: u16, digests: Digests) -> Vec<u8> {
    let capsules = (first_id..first_id + count).flat_map(|id| {
        let mut command = block_io(opcode, 0, 256);
        command.set_command_id(id);
        capsule_with(&command, &[], digests)
    });
    capsules.collect()
}

/// Reads that wait for buffers must not keep the data away that frees buffers.
#[test]
fn digest_reads_beyond_the_bound_let_the_data_of_writes_pass() {
    let digests = Digests {
        header: true,
        data: true,
    };
    let mut harness = Harness::new();
    harness.connect_io_of(128, digests, false);
    let mut flush = Command::new(io::FLUSH, 1);
    flush.set_command_id(97);
    let mut stream = large(io::WRITE, 0, 64, digests);
    stream.extend(large(io::READ, 64, 33, digests));
    stream.extend(capsule_with(&flush, &[], digests));
    harness.feed(&stream, usize::MAX);
    let mut ready = Vec::new();
    let mut ended = BTreeSet::new();
    for answer in answers(&mut harness) {
        match answer {
            Answer::Ready(one) => ready.push(one),
            Answer::Response(completion) => {
                assert!(completion.status.is_success(), "{completion:?}");
                ended.insert(completion.command_id);
            }
            other => panic!("nothing else can be answered yet: {other:?}"),
        }
    }
    assert!(ended.contains(&97), "the flush waits for nobody");
    // Each write that ends makes room for others, whose R2T comes then.
    let data = pattern(128 * 1024);
    while let Some(one) = ready.pop() {
        harness.feed(&host_data(&one, &data, digests), usize::MAX);
        for answer in answers(&mut harness) {
            match answer {
                Answer::Ready(one) => ready.push(one),
                Answer::Data { transfer, .. } => {
                    ended.insert(transfer.command_id);
                }
                Answer::Response(completion) => {
                    assert!(completion.status.is_success(), "{completion:?}");
                    ended.insert(completion.command_id);
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }
    assert_eq!(ended.len(), 98);
    assert_eq!(harness.session.outstanding(), 0);
    end(harness);
}

/// Reads of a device that is suspended, as many as the bound lets pass and more, do not stop the other namespaces of their queue.
#[test]
fn parked_reads_do_not_stop_other_namespaces() {
    let mut harness = connected();
    let namespace = NamespaceConfig {
        nsid: 2,
        device: DeviceId(1),
        device_name: "vol1".into(),
        uuid: None,
    };
    harness
        .target
        .add_namespace(NQN, &namespace)
        .expect("the number is free");
    let list = harness.target.namespaces(SubsystemId(1));
    let backend = &harness.backend;
    harness
        .local
        .namespaces(SubsystemId(1))
        .replace(&list, |device| backend.geometry(device));
    harness.backend.hold = true;
    harness.feed(&large(io::READ, 0, 34, Digests::default()), usize::MAX);
    assert_eq!(harness.backend.held(), 33);
    harness.backend.hold = false;
    // Data in the capsule, and data that has to be asked for.
    let mut write = Command::block_io(io::WRITE, 2, 0, 1);
    write.set_command_id(50);
    write.set_data_pointer(DataPointer::in_capsule(0, 512));
    assert_eq!(run(&mut harness, &write, &[1; 512]).0, Status::SUCCESS);
    write.set_data_pointer(DataPointer::transport(512));
    harness.feed(&capsule(&write, &[]), usize::MAX);
    let Some(Answer::Ready(ready)) = answers(&mut harness).pop() else {
        panic!("its data is asked for");
    };
    harness.feed(
        &host_data(&ready, &[2; 512], Digests::default()),
        usize::MAX,
    );
    assert_eq!(statuses(&mut harness), [(50, Status::SUCCESS)]);
    // The one that waits behind the bound can be aborted, and the rest end.
    assert!(harness.with(|session, cx| session.abort_command(33, cx)));
    harness.drain();
    assert_eq!(statuses(&mut harness), [(33, Status::ABORT_REQUESTED)]);
    harness.finish();
    assert_eq!(answers(&mut harness).len(), 2 * 33);
    end(harness);
}
