//! What the tests read the controller's answers with.

use crate::nvme::Completion;
use crate::nvme::Status;
use crate::nvme::command::Command;
use crate::nvme::pdu::{self, Kind, Receiver, Rules, Terminate, Transfer};

use super::super::harness::{Harness, capsule};

/// One PDU from the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Initialized,
    Response(Completion),
    Data {
        transfer: Transfer,
        flags: u8,
        data: Vec<u8>,
    },
    Ready(Transfer),
    Terminate {
        fes: u16,
        fei: u32,
        echoed: Vec<u8>,
    },
}

/// All PDUs that came since the last call. Panics on anything a host could not read.
pub fn answers(harness: &mut Harness) -> Vec<Answer> {
    let (header_digest, data_digest) = harness.session.digests();
    let bytes = std::mem::take(&mut harness.output);
    let mut rest = &bytes[..];
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (answer, size) = decode_one(rest, header_digest, data_digest);
        all.push(answer);
        rest = &rest[size..];
    }
    all
}

/// The PDU at the start of `bytes`, and its size.
pub fn decode_one(bytes: &[u8], header_digest: bool, data_digest: bool) -> (Answer, usize) {
    let is_initialize = bytes[0] == Kind::InitializeResponse as u8;
    let rules = Rules {
        receiver: Receiver::Host,
        header_digest: header_digest && !is_initialize,
        data_digest,
        alignment: 0,
        capsule_data_size_max: 0,
        data_size_max: u32::MAX / 2,
    };
    let layout = pdu::decode_header(bytes, &rules).expect("the controller sends well-formed PDUs");
    let head = &bytes[..layout.total_size as usize];
    if layout.header_digest {
        pdu::check_header_digest(head, layout.header_size as usize).expect("header digest");
    }
    let data = &head[layout.data_offset as usize..][..layout.data_size as usize];
    if layout.data_digest {
        assert_eq!(
            head[head.len() - 4..],
            pdu::digest(data).to_le_bytes(),
            "data digest"
        );
    }
    let answer = match layout.kind {
        Kind::InitializeResponse => Answer::Initialized,
        Kind::Response => Answer::Response(pdu::decode_response(head)),
        Kind::ControllerData => Answer::Data {
            transfer: Transfer::decode(head),
            flags: layout.flags,
            data: data.to_vec(),
        },
        Kind::ReadyToTransfer => Answer::Ready(Transfer::decode(head)),
        Kind::ControllerTerminate => {
            let reason = Terminate::decode(head);
            Answer::Terminate {
                fes: reason.fes,
                fei: reason.fei,
                echoed: data.to_vec(),
            }
        }
        other => panic!("{other:?} is nothing that a controller sends"),
    };
    (answer, layout.total_size as usize)
}

/// Sends a command, and answers how it completed and with what data.
pub fn run(harness: &mut Harness, command: &Command, data: &[u8]) -> (Status, u64, Vec<u8>) {
    harness.feed(&capsule(command, data), usize::MAX);
    completion(harness, command.command_id())
}

/// The completion of a command, which must have come, and its data.
pub fn completion(harness: &mut Harness, command_id: u16) -> (Status, u64, Vec<u8>) {
    let mut data = Vec::new();
    for answer in answers(harness) {
        match answer {
            Answer::Data {
                transfer,
                flags,
                data: bytes,
            } if transfer.command_id == command_id => {
                data.extend_from_slice(&bytes);
                if flags & pdu::FLAG_SUCCESS != 0 {
                    return (Status::SUCCESS, 0, data);
                }
            }
            Answer::Response(completion) if completion.command_id == command_id => {
                return (completion.status, completion.result, data);
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    panic!("command {command_id} was not completed");
}
