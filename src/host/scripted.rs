//! The queue against a scripted controller: what goes over the wire in good order and in bad.

use super::blocking::{BlockingQueue, Payload, Submitting};
use super::connection::wait;
use super::controller::Controller;
use super::error::Error;
use super::identity::{HostIdentity, HostOptions};
use super::peer::{self, DATA_SIZE_MAX, PATIENCE, Peer};
use super::queue::Submission;
use crate::nvme::command::DataPointer;
use crate::nvme::command::{Command, Completion};
use crate::nvme::opcode::io;
use crate::nvme::pdu::{
    self, Digests, FLAG_LAST, FLAG_SUCCESS, InitializeResponse, Receiver, TermReason, Terminate,
    Transfer,
};
use crate::nvme::status::Status;
use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

const PLAIN: Digests = Digests {
    header: false,
    data: false,
};
const BOTH: Digests = Digests {
    header: true,
    data: true,
};

fn queue(address: std::net::SocketAddr, digests: Digests) -> BlockingQueue {
    BlockingQueue::new(peer::open_queue(address, digests, 4), PATIENCE)
}

fn bytes(size: usize) -> Vec<u8> {
    (0..size)
        .map(|index| (index * 7 + index / 256) as u8)
        .collect()
}

/// A write that fits goes in its capsule, with digests and at the controller's alignment.
#[test]
fn a_small_write_goes_in_its_capsule() {
    for digests in [PLAIN, BOTH] {
        for alignment in [0, 15] {
            let (address, script) = peer::listen(move |mut peer| {
                peer.alignment = alignment;
                peer.initialize();
                let (command, data) = peer.receive_command();
                assert_eq!(command.data_pointer(), DataPointer::in_capsule(0, 512));
                peer.respond(&Completion::new(command.command_id(), Status::SUCCESS));
                data
            });
            queue(address, digests)
                .write(1, 8, &bytes(512), 512)
                .unwrap();
            assert_eq!(script.join().unwrap(), bytes(512));
        }
    }
}

/// A command that has ended keeps its identifier until it is awaited: the next gets another, and its answer is not taken for the first one's.
#[test]
fn an_identifier_is_free_when_its_command_was_awaited() {
    let (address, script) = peer::listen(|mut peer| {
        peer.initialize();
        for _ in 0..5 {
            let (command, _) = peer.receive_command();
            peer.respond(&Completion::new(command.command_id(), Status::SUCCESS));
        }
        peer
    });
    let mut queue = queue(address, PLAIN);
    let flush = Command::new(io::FLUSH, 1);
    let mut started = Vec::new();
    for _ in 0..4 {
        started.push(queue.start(flush, Payload::None).unwrap());
        while queue.queue_mut().outstanding() > 0 {
            queue.poll().unwrap();
        }
    }
    let full = queue.start(flush, Payload::None);
    assert!(matches!(full, Err(Error::QueueFull)), "{full:?}");
    for command_id in started {
        queue.finish(command_id).unwrap();
    }
    queue.flush(1).unwrap();
    drop(script.join().unwrap());
}

/// A larger one is asked for in pieces, each answered by PDUs within MAXH2CDATA, the last one marked.
#[test]
fn a_large_write_answers_requests() {
    for digests in [PLAIN, BOTH] {
        let (address, script) = peer::listen(|mut peer| {
            peer.initialize();
            let (command, data) = peer.receive_command();
            assert!(data.is_empty());
            assert_eq!(command.data_pointer(), DataPointer::transport(16384));
            let command_id = command.command_id();
            let mut stored = Vec::new();
            for (tag, offset, size) in [(7, 0, 10_000), (9, 10_000, 6_384)] {
                peer.request(&Transfer {
                    command_id,
                    tag,
                    offset,
                    size,
                });
                let end = offset + size;
                while (stored.len() as u32) < end {
                    let (transfer, flags, data) = peer.receive_data();
                    assert_eq!((transfer.command_id, transfer.tag), (command_id, tag));
                    assert_eq!(transfer.offset, stored.len() as u32);
                    assert!(transfer.size <= DATA_SIZE_MAX);
                    stored.extend(data);
                    assert_eq!(flags & FLAG_LAST != 0, stored.len() as u32 == end);
                }
            }
            peer.respond(&Completion::new(command_id, Status::SUCCESS));
            stored
        });
        queue(address, digests)
            .write(1, 0, &bytes(16384), 512)
            .unwrap();
        assert_eq!(script.join().unwrap(), bytes(16384));
    }
}

/// A write that "succeeds" while data that was asked for is still here has failed.
#[test]
fn a_success_before_the_data_that_was_asked_for_is_none() {
    let (address, script) = peer::listen(|mut peer| {
        peer.initialize();
        let (command, _) = peer.receive_command();
        let command_id = command.command_id();
        let transfer = Transfer {
            command_id,
            tag: 1,
            offset: 0,
            size: 16384,
        };
        let mut stream = vec![0; 64];
        let size = transfer.encode_ready(&mut stream, false);
        let completion = Completion::new(command_id, Status::SUCCESS);
        let end = size + pdu::encode_response(&mut stream[size..], &completion, false);
        // In one piece, so that they come in one.
        peer.send(&stream[..end]);
        peer
    });
    let error = queue(address, PLAIN).write(1, 0, &bytes(16384), 512);
    let failed = Status::TRANSIENT_TRANSPORT_ERROR;
    assert!(
        matches!(error, Err(Error::Status { status, .. }) if status == failed),
        "{error:?}"
    );
    drop(script.join().unwrap());
}

/// Data in several PDUs, ended by a response or by the SUCCESS flag, however TCP cuts it up.
#[test]
fn a_read_takes_data_in_pieces() {
    for digests in [PLAIN, BOTH] {
        for success in [false, true] {
            let (address, script) = peer::listen(move |mut peer| {
                peer.initialize();
                let (command, _) = peer.receive_command();
                let command_id = command.command_id();
                let data = bytes(4096);
                let flags = if success {
                    FLAG_LAST | FLAG_SUCCESS
                } else {
                    FLAG_LAST
                };
                let mut stream = peer.data_pdu(command_id, 0, &data[..1000], 0);
                stream.extend(peer.data_pdu(command_id, 1000, &data[1000..], flags));
                for piece in stream.chunks(997) {
                    peer.send(piece);
                }
                if !success {
                    peer.respond(&Completion::new(command_id, Status::SUCCESS));
                }
                peer
            });
            let mut queue = queue(address, digests);
            assert_eq!(queue.read(1, 0, 1, 4096).unwrap(), bytes(4096));
            drop(script.join().unwrap());
        }
    }
}

/// 3.5: a wrong data digest fails the command as a transient error, and the connection goes on.
#[test]
fn a_data_digest_error_fails_one_command() {
    let (address, script) = peer::listen(|mut peer| {
        peer.initialize();
        for broken in [true, false] {
            let (command, _) = peer.receive_command();
            let flags = FLAG_LAST | FLAG_SUCCESS;
            let mut data = peer.data_pdu(command.command_id(), 0, &bytes(512), flags);
            let end = data.len() - 1;
            data[end] ^= u8::from(broken);
            peer.send(&data);
        }
        peer
    });
    let mut queue = queue(
        address,
        Digests {
            header: false,
            data: true,
        },
    );
    let error = queue.read(1, 0, 1, 512).unwrap_err();
    assert!(
        matches!(error, Error::Status { status, .. } if status == Status::TRANSIENT_TRANSPORT_ERROR)
    );
    assert_eq!(queue.read(1, 0, 1, 512).unwrap(), bytes(512));
    drop(script.join().unwrap());
}

/// Commands outstanding are bounded by the depth, and end in any order.
#[test]
fn commands_end_in_any_order() {
    let (address, script) = peer::listen(|mut peer| {
        peer.initialize();
        let ids: Vec<u16> = (0..4)
            .map(|_| peer.receive_command().0.command_id())
            .collect();
        for &command_id in ids.iter().rev() {
            let completion = Completion {
                result: 100 + u64::from(command_id),
                ..Completion::new(command_id, Status::SUCCESS)
            };
            peer.respond(&completion);
        }
        peer
    });
    let mut queue = queue(address, PLAIN);
    let flush = Command::new(io::FLUSH, 1);
    let ids: Vec<u16> = (0..4)
        .map(|_| queue.start(flush, Payload::None).unwrap())
        .collect();
    let full = queue
        .queue_mut()
        .submit(flush, Submission::None, &mut Submitting(&[]));
    assert!(matches!(full, Err(Error::QueueFull)));
    for command_id in ids {
        let outcome = queue.finish(command_id).unwrap();
        assert_eq!(outcome.completion.result, 100 + u64::from(command_id));
    }
    drop(script.join().unwrap());
}

/// What a controller says that it must not say, and the H2CTermReq that each deserves.
#[test]
fn violations_are_answered_with_the_right_terminate() {
    type Violation = fn(&mut Peer, u16);
    let read_cases: [(&str, Violation, TermReason); 9] = [
        (
            "data of an unknown command",
            |p, id| p.send(&p.data_pdu(id + 1, 0, &[0; 4], 0)),
            TermReason::field(8),
        ),
        (
            "data beyond the queue",
            |p, _| p.send(&p.data_pdu(999, 0, &[0; 4], 0)),
            TermReason::field(8),
        ),
        (
            "SUCCESS without LAST",
            |p, id| p.send(&p.data_pdu(id, 0, &[0; 512], FLAG_SUCCESS)),
            TermReason::field(1),
        ),
        (
            "data past the end",
            |p, id| p.send(&p.data_pdu(id, 4, &[0; 512], 0)),
            TermReason::data_out_of_range(),
        ),
        (
            "a gap",
            |p, id| p.send(&p.data_pdu(id, 4, &[0; 4], 0)),
            TermReason::sequence(),
        ),
        (
            "a second last",
            |p, id| {
                p.send(&p.data_pdu(id, 0, &[0; 4], FLAG_LAST));
                p.send(&p.data_pdu(id, 4, &[0; 4], FLAG_LAST));
            },
            TermReason::sequence(),
        ),
        (
            "a request for a read",
            |p, command_id| {
                p.request(&Transfer {
                    command_id,
                    tag: 0,
                    offset: 0,
                    size: 4,
                });
            },
            TermReason::sequence(),
        ),
        (
            "a response to nothing",
            |p, id| p.respond(&Completion::new(id + 1, Status::SUCCESS)),
            TermReason::field(20),
        ),
        (
            "a second ICResp",
            |p, _| {
                let response = InitializeResponse {
                    format_version: 0,
                    controller_alignment: 0,
                    digests: PLAIN,
                    data_size_max: 4096,
                };
                p.send(&response.encode());
            },
            TermReason::sequence(),
        ),
    ];
    let write_cases: [(&str, Violation, TermReason); 4] = [
        (
            "two requests at once",
            |p, command_id| {
                let mut bytes = [0; 48];
                Transfer {
                    command_id,
                    tag: 0,
                    offset: 0,
                    size: 4,
                }
                .encode_ready(&mut bytes, false);
                Transfer {
                    command_id,
                    tag: 1,
                    offset: 4,
                    size: 4,
                }
                .encode_ready(&mut bytes[24..], false);
                p.send(&bytes);
            },
            TermReason::limit_exceeded(),
        ),
        (
            "a request out of order",
            |p, command_id| {
                p.request(&Transfer {
                    command_id,
                    tag: 0,
                    offset: 8,
                    size: 4,
                });
            },
            TermReason::sequence(),
        ),
        (
            "a request for too much",
            |p, command_id| {
                p.request(&Transfer {
                    command_id,
                    tag: 0,
                    offset: 0,
                    size: 8192,
                });
            },
            TermReason::field(16),
        ),
        (
            "a request for no whole dword",
            |p, command_id| {
                p.request(&Transfer {
                    command_id,
                    tag: 0,
                    offset: 0,
                    size: 2,
                });
            },
            TermReason::field(16),
        ),
    ];
    let cases = read_cases.map(|case| (false, case)).into_iter();
    for (is_write, (name, violate, expected)) in cases.chain(write_cases.map(|case| (true, case))) {
        let (address, script) = peer::listen(move |mut peer| {
            peer.initialize();
            let (command, _) = peer.receive_command();
            violate(&mut peer, command.command_id());
            peer.receive_terminate()
        });
        let mut queue = queue(address, PLAIN);
        let error = if is_write {
            queue.write(1, 0, &bytes(4096), 512).unwrap_err()
        } else {
            queue.read(1, 0, 1, 512).unwrap_err()
        };
        assert!(
            matches!(error, Error::Protocol(reason) if reason == expected),
            "{name}: {error}"
        );
        assert!(
            matches!(queue.poll(), Err(Error::Closed)),
            "{name}: the queue goes on"
        );
        drop(queue);
        let Terminate { fes, fei } = script.join().unwrap();
        assert_eq!((fes, fei), (expected.fes as u16, expected.fei), "{name}");
    }
}

/// A header digest error ends the connection and tells the digest that came.
#[test]
fn a_header_digest_error_is_fatal() {
    let (address, script) = peer::listen(|mut peer| {
        peer.initialize();
        let (command, _) = peer.receive_command();
        let mut bytes = [0; 28];
        let completion = Completion::new(command.command_id(), Status::SUCCESS);
        crate::nvme::pdu::encode_response(&mut bytes, &completion, true);
        bytes[24..].copy_from_slice(&[1, 2, 3, 4]);
        peer.send(&bytes);
        peer.receive_terminate()
    });
    let mut queue = queue(address, BOTH);
    let error = queue.flush(1).unwrap_err();
    assert!(
        matches!(error, Error::Protocol(reason) if reason == TermReason::header_digest(0x0403_0201))
    );
    drop(queue);
    assert_eq!(
        script.join().unwrap(),
        Terminate {
            fes: 3,
            fei: 0x0403_0201
        }
    );
}

#[test]
fn the_controllers_terminate_and_its_silence_are_told() {
    let (address, script) = peer::listen(|mut peer| {
        peer.initialize();
        peer.receive_command();
        let mut bytes = [0; 152];
        let reason = TermReason::field(4);
        let size = Terminate::encode(&mut bytes, Receiver::Controller, reason, &[0; 72]);
        peer.send(&bytes[..size]);
        peer
    });
    let error = queue(address, PLAIN).flush(1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the controller terminated the connection: invalid PDU header field at byte 4"
    );
    drop(script.join().unwrap());

    let (address, script) = peer::listen(|mut peer| {
        peer.initialize();
        peer
    });
    let short = Duration::from_millis(20);
    let mut queue = BlockingQueue::new(peer::open_queue(address, PLAIN, 4), short);
    assert!(matches!(queue.flush(1), Err(Error::Timeout { .. })));
    drop(script.join().unwrap());
    // The end has come, so that there is time to find it.
    wait(queue.queue_mut().stream(), false, Instant::now() + PATIENCE);
    assert!(matches!(queue.flush(1), Err(Error::Closed)));
}

/// A poll that ends with its budget leaves data that the socket does not announce again, and says so.
#[test]
fn a_poll_tells_what_it_has_left() {
    const SIZE: usize = 32 << 10;
    let (address, script) = peer::listen(|mut peer| {
        peer.initialize();
        let (command, _) = peer.receive_command();
        let read = peer.data_pdu(
            command.command_id(),
            0,
            &bytes(SIZE),
            FLAG_LAST | FLAG_SUCCESS,
        );
        peer.send(&read);
        peer
    });
    let mut queue = queue(address, PLAIN);
    queue.queue_mut().set_receive_size(1024);
    let command = Command::block_io(io::READ, 1, 0, 64);
    let read = queue.start(command, Payload::Read(SIZE as u32)).unwrap();
    queue.queue_mut().send(&mut Submitting(&[])).unwrap();
    assert!(!queue.queue_mut().may_go_on());
    let deadline = Instant::now() + PATIENCE;
    while queue.queue_mut().stream().peek(&mut [0; SIZE]).unwrap_or(0) < SIZE {
        assert!(Instant::now() < deadline, "all of it comes");
        wait(queue.queue_mut().stream(), false, deadline);
    }
    queue.poll().unwrap();
    assert!(queue.queue_mut().may_go_on());
    while queue.queue_mut().may_go_on() {
        queue.poll().unwrap();
    }
    assert_eq!(queue.take(read).unwrap().data, bytes(SIZE));
    drop(script.join().unwrap());
}

/// What has ended has ended well, whatever becomes of the connection before it is awaited, or with the same bytes.
#[test]
fn an_outcome_that_is_there_is_not_lost_with_the_connection() {
    let (address, script) = peer::listen(|mut peer| {
        peer.initialize();
        let mut stream = vec![0; 256];
        let mut end = 0;
        for _ in 0..2 {
            let (command, _) = peer.receive_command();
            let completion = Completion::new(command.command_id(), Status::SUCCESS);
            end += pdu::encode_response(&mut stream[end..], &completion, false);
        }
        // No PDU has this type.
        stream[end] = 0xFF;
        peer.send(&stream[..end + 8]);
    });
    let mut queue = queue(address, PLAIN);
    let flush = Command::new(io::FLUSH, 1);
    let first = queue.start(flush, Payload::None).unwrap();
    let second = queue.start(flush, Payload::None).unwrap();
    assert!(queue.finish(first).is_ok());
    script.join().unwrap();
    assert!(queue.finish(second).is_ok());
    assert!(queue.flush(1).is_err());
}

/// The time for an answer is for all of it: a controller that sends one byte at a time does not hold its host for as long as it likes.
#[test]
fn an_answer_that_drips_is_too_late() {
    let (address, script) = peer::listen(|mut peer| {
        let response = InitializeResponse {
            format_version: 0,
            controller_alignment: 0,
            digests: PLAIN,
            data_size_max: 4096,
        };
        let mut stream = peer.stream();
        let mut bytes = [0; 128];
        stream.read_exact(&mut bytes).unwrap();
        // The request has no answer to wait for between two bytes, so this is the pause; it ends early when the host goes. All pauses
        // together are far longer than the host's patience, however late it begins to count.
        stream
            .set_read_timeout(Some(Duration::from_millis(150)))
            .unwrap();
        for byte in response.encode() {
            peer.send(&[byte]);
            if stream.read(&mut bytes).is_ok() {
                return;
            }
        }
    });
    let short = Duration::from_millis(200);
    let connection = super::connection::Connection::open(&[address], short).unwrap();
    let error = connection.initialize(&peer::options(PLAIN)).unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    script.join().unwrap();
}

/// The time for connecting is for all of its steps.
#[test]
fn connecting_ends_with_its_deadline() {
    let (address, script) = peer::listen(|mut peer| {
        if peer.initialize_or_end().is_ok() {
            while peer.receive_or_end().is_ok() {}
        }
    });
    let mut options = HostOptions::new(HostIdentity::named("nqn.2026-11.io.polldm:host"));
    options.connection.timeout = PATIENCE;
    options.connection.deadline = Some(Instant::now() + Duration::from_millis(100));
    let subsystem = peer::subsystem(address);
    for _ in 0..2 {
        // At Connect; and then there is no time left to begin.
        let error = Controller::connect(&subsystem, &options).unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
    }
    // Set aside before it began, it has not connected; the script waits for somebody who does.
    drop(std::net::TcpStream::connect(address));
    script.join().unwrap();
}

/// ICResp is checked before anything else is said.
#[test]
fn bad_initialize_responses_are_refused() {
    let good = InitializeResponse {
        format_version: 0,
        controller_alignment: 0,
        digests: PLAIN,
        data_size_max: 4096,
    };
    for (response, expected) in [
        (
            InitializeResponse {
                format_version: 1,
                ..good
            },
            TermReason::unsupported(8),
        ),
        (
            InitializeResponse {
                controller_alignment: 32,
                ..good
            },
            TermReason::field(10),
        ),
        (
            InitializeResponse {
                digests: BOTH,
                ..good
            },
            TermReason::field(11),
        ),
        (
            InitializeResponse {
                data_size_max: 4098,
                ..good
            },
            TermReason::field(12),
        ),
    ] {
        let (address, script) = peer::listen(move |mut peer| {
            peer.send(&response.encode());
            peer
        });
        let connection = super::connection::Connection::open(&[address], PATIENCE).unwrap();
        let error = connection.initialize(&peer::options(PLAIN)).unwrap_err();
        assert!(
            matches!(error, Error::Protocol(reason) if reason == expected),
            "{error}"
        );
        drop(script.join().unwrap());
    }
    let (address, script) = peer::listen(move |mut peer| {
        peer.send(&good.encode());
        peer
    });
    let connection = super::connection::Connection::open(&[address], PATIENCE).unwrap();
    let error = connection.initialize(&peer::options(BOTH)).unwrap_err();
    assert!(matches!(error, Error::Unsupported(_)), "{error}");
    drop(script.join().unwrap());
}

/// A connection that is given up sends nothing more: the peer is told by a reset, where a mere close would first deliver what the kernel still has.
#[test]
fn an_aborted_connection_is_reset() {
    for aborted in [true, false] {
        let (address, script) = peer::listen(|mut peer| {
            peer.initialize();
            peer.receive_command();
            peer.stream()
        });
        let mut queue = queue(address, PLAIN);
        queue
            .start(Command::new(io::FLUSH, 1), Payload::None)
            .unwrap();
        queue.poll().unwrap();
        let mut stream = script.join().unwrap();
        match aborted {
            true => queue.into_queue().abort(),
            false => drop(queue),
        }
        let end = stream.read(&mut [0]).map_err(|error| error.kind());
        let expected = match aborted {
            true => Err(ErrorKind::ConnectionReset),
            false => Ok(0),
        };
        assert_eq!(end, expected);
    }
}
