//! The initiator against a scripted target: what goes over the wire in good order and in bad.
//!
//! Logins are in `logins`. A listener on an ephemeral port and a thread that says exactly what a test wants said. Everything it waits for is bounded by [`PATIENCE`].

mod logins;

use super::blocking::BlockingSession;
use super::login::login;
use super::session::LOGOUT_TAG;
use super::{Address, CommandStatus, Error, Payload, SessionOptions, command};
use crate::host::peer::PATIENCE;
use crate::iscsi::pdu::{
    FINAL, HEADER_BYTES, Header, Layout, NO_TAG, OVERFLOW, READS, STATUS, TRANSIT, UNDERFLOW,
    WRITES, digest, opcode, padding,
};
use crate::iscsi::text::pairs;
use crate::scsi::Sense;
use crate::scsi::sense::{Code, Key, SENSE_BYTES_MAX};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

/// What the target says of itself at the end of a login, where a test says nothing else.
const PLAIN: &str = "HeaderDigest=None DataDigest=None InitialR2T=No ImmediateData=Yes \
                     MaxRecvDataSegmentLength=4096 MaxBurstLength=16384 FirstBurstLength=8192";

const DIGESTS: &str = "HeaderDigest=CRC32C DataDigest=CRC32C InitialR2T=No ImmediateData=Yes \
                       MaxRecvDataSegmentLength=4096 MaxBurstLength=16384 FirstBurstLength=8192";

/// One accepted connection.
struct Peer {
    stream: TcpStream,
    digests: bool,
    /// StatSN of the next response.
    status_sn: u32,
    /// ExpCmdSN, as if each command were taken as it comes.
    command_sn: u32,
    /// How many commands beyond ExpCmdSN are taken.
    window: u32,
}

/// Runs `script` on the first connection; the address to log in to, and the script's thread.
fn listen<T: Send + 'static>(
    script: impl FnOnce(&mut Peer) -> T + Send + 'static,
) -> (Address, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket: SocketAddr = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        script(&mut Peer::new(stream))
    });
    (
        Address::new(socket, "iqn.2026-11.io.polldm:scripted", 0),
        thread,
    )
}

fn options(digests: bool) -> SessionOptions {
    let mut options = SessionOptions::new().unwrap();
    options.header_digest = digests;
    options.data_digest = digests;
    options.depth = 4;
    options.timeout = PATIENCE;
    options
}

fn open(address: &Address, digests: bool) -> BlockingSession {
    BlockingSession::new(login(address, &options(digests)).unwrap(), PATIENCE)
}

fn bytes(size: usize) -> Vec<u8> {
    (0..size)
        .map(|index| (index * 7 + index / 256) as u8)
        .collect()
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            digests: false,
            status_sn: 100,
            command_sn: 1,
            window: 8,
        }
    }

    /// A PDU, checked against its digests.
    fn receive(&mut self) -> (Header, Vec<u8>) {
        self.receive_or_end().expect("a PDU")
    }

    /// The same; `None` when the connection ends.
    fn receive_or_end(&mut self) -> Option<(Header, Vec<u8>)> {
        let mut header = Header([0; HEADER_BYTES]);
        self.stream.read_exact(&mut header.0).ok()?;
        let layout = Layout::of(&header, self.digests, self.digests);
        let mut rest = vec![0; layout.total() - HEADER_BYTES];
        self.stream.read_exact(&mut rest).ok()?;
        let (head, mut data) = match self.digests {
            true => {
                let data = rest.split_off(4);
                (rest, data)
            }
            false => (Vec::new(), rest),
        };
        if self.digests {
            assert_eq!(head, digest(&[&header.0]));
        }
        if layout.data_digest {
            let said = data.split_off(data.len() - 4);
            assert_eq!(said, digest(&[&data]));
        }
        data.truncate(layout.data);
        if header.opcode() == opcode::COMMAND {
            assert_eq!(header.u32(24), self.command_sn, "CmdSN");
            self.command_sn += 1;
        }
        Some((header, data))
    }

    /// A login request of a stage and its keys.
    fn receive_login(&mut self, stage: u8) -> (Header, HashMap<String, String>) {
        let (header, data) = self.receive();
        assert_eq!(header.0[0], 0x43, "an immediate login request");
        assert_eq!(header.flags() >> 2 & 3, stage);
        let pairs = pairs(&data).unwrap();
        let owned = pairs
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        (header, owned.collect())
    }

    /// Answers a login; `keys` are parted by blanks.
    fn answer_login(&mut self, flags: u8, status: u16, keys: &str) {
        let mut header = Header::new(opcode::LOGIN_RESPONSE, flags);
        header.put_u16(36, status);
        let text: Vec<u8> = keys
            .split_whitespace()
            .flat_map(|pair| format!("{pair}\0").into_bytes())
            .collect();
        self.put(header, &text, true);
    }

    /// A login without a proof, that comes to `keys`.
    fn log_in(&mut self, keys: &str) -> HashMap<String, String> {
        let (_, said) = self.receive_login(0);
        assert_eq!(said["AuthMethod"], "None");
        assert_eq!(said["SessionType"], "Normal");
        self.answer_login(TRANSIT | 1, 0, "AuthMethod=None TargetPortalGroupTag=1");
        let (_, said) = self.receive_login(1);
        self.answer_login(TRANSIT | 1 << 2 | 3, 0, keys);
        self.digests = keys.contains("CRC32C");
        said
    }

    /// Sends a PDU with its sequence numbers; one that `counts` takes a status number.
    fn put(&mut self, header: Header, data: &[u8], counts: bool) {
        let stream = self.pdu(header, data, counts);
        self.say(&stream);
    }

    fn pdu(&mut self, mut header: Header, data: &[u8], counts: bool) -> Vec<u8> {
        header.put_data_bytes(data.len());
        header.put(24, self.status_sn);
        header.put(28, self.command_sn);
        header.put(32, self.command_sn + self.window - 1);
        self.status_sn += u32::from(counts);
        let mut stream = header.0.to_vec();
        if self.digests {
            stream.extend(digest(&[&header.0]));
        }
        let mut data = data.to_vec();
        data.resize(data.len() + padding(data.len()), 0);
        stream.extend(&data);
        if self.digests && !data.is_empty() {
            stream.extend(digest(&[&data]));
        }
        stream
    }

    /// Says these bytes. An initiator that is gone is not an error: some tests make it go.
    fn say(&mut self, stream: &[u8]) {
        let _ = self.stream.write_all(stream);
    }

    fn respond(&mut self, tag: u32, status: u8, sense: &[u8]) {
        let mut header = Header::new(opcode::RESPONSE, FINAL);
        header.0[3] = status;
        header.put(16, tag);
        let mut data = Vec::new();
        if !sense.is_empty() {
            data.extend((sense.len() as u16).to_be_bytes());
            data.extend(sense);
        }
        self.put(header, &data, true);
    }

    /// One Data-In; with `flags` that may have S.
    fn data_in(&mut self, tag: u32, data_sn: u32, offset: u32, data: &[u8], flags: u8) -> Vec<u8> {
        let mut header = Header::new(opcode::DATA_IN, flags);
        header.put(16, tag);
        header.put(20, NO_TAG);
        header.put(36, data_sn);
        header.put(40, offset);
        self.pdu(header, data, flags & STATUS != 0)
    }

    fn ready(&mut self, tag: u32, number: u32, offset: u32, size: u32) {
        let mut header = Header::new(opcode::READY, FINAL);
        header.put(16, tag);
        header.put(20, 0x700 + number);
        header.put(36, number);
        header.put(40, offset);
        header.put(44, size);
        self.put(header, &[], false);
    }

    /// Data-Out PDUs until one is the last, checked against where they have to begin.
    fn receive_burst(&mut self, tag: u32, transfer_tag: u32, offset: u32) -> Vec<u8> {
        let mut stored = Vec::new();
        for data_sn in 0.. {
            let (header, data) = self.receive();
            assert_eq!(header.opcode(), opcode::DATA_OUT);
            assert_eq!(
                (header.task_tag(), header.transfer_tag()),
                (tag, transfer_tag)
            );
            assert_eq!(header.u32(36), data_sn);
            assert_eq!(header.u32(40), offset + stored.len() as u32);
            assert!(data.len() <= 4096);
            stored.extend(data);
            if header.is_final() {
                break;
            }
        }
        stored
    }
}

/// A small write goes with its command, padded and with digests where they are in use; what is offered is the fastest there is.
#[test]
fn a_small_write_goes_with_its_command() {
    for (digests, keys) in [(false, PLAIN), (true, DIGESTS)] {
        let (address, script) = listen(move |peer| {
            let said = peer.log_in(keys);
            assert_eq!(said["InitialR2T"], "No");
            assert_eq!(said["ImmediateData"], "Yes");
            assert_eq!(said["MaxRecvDataSegmentLength"], "1048576");
            let (header, data) = peer.receive();
            assert_eq!(header.flags(), FINAL | WRITES | 1);
            assert_eq!(header.u32(20), 510);
            peer.respond(header.task_tag(), 0, &[]);
            data
        });
        let mut session = open(&address, digests);
        let cdb = command::write(0, 1, false);
        let outcome = session.run(0, &cdb, Payload::Write(&bytes(510))).unwrap();
        assert!(outcome.status.is_good());
        assert_eq!(outcome.transferred, 510);
        assert_eq!(script.join().unwrap(), bytes(510));
    }
}

/// A large write, with every combination of InitialR2T and ImmediateData: with its command, unasked behind it, and as it is asked for.
#[test]
fn a_large_write_goes_as_it_may() {
    for (ready, immediate, first, unasked) in [
        ("No", "Yes", 4096, 4096),
        ("No", "No", 0, 8192),
        ("Yes", "Yes", 4096, 0),
        ("Yes", "No", 0, 0),
    ] {
        let keys = PLAIN
            .replace("InitialR2T=No", &format!("InitialR2T={ready}"))
            .replace("ImmediateData=Yes", &format!("ImmediateData={immediate}"));
        let (address, script) = listen(move |peer| {
            peer.log_in(&keys);
            let (header, mut stored) = peer.receive();
            assert_eq!(stored.len(), first);
            assert_eq!(header.is_final(), unasked == 0);
            let tag = header.task_tag();
            if unasked > 0 {
                stored.extend(peer.receive_burst(tag, NO_TAG, first as u32));
                assert_eq!(stored.len(), first + unasked);
            }
            let mut number = 0;
            while stored.len() < 20_000 {
                let at = stored.len() as u32;
                let size = (20_000 - at).min(6_000);
                peer.ready(tag, number, at, size);
                let data = peer.receive_burst(tag, 0x700 + number, at);
                assert_eq!(data.len() as u32, size);
                stored.extend(data);
                number += 1;
            }
            peer.respond(tag, 0, &[]);
            stored
        });
        let mut session = open(&address, false);
        session.write(0, 0, &bytes(20_000), 32, false).unwrap();
        assert_eq!(script.join().unwrap(), bytes(20_000), "{ready} {immediate}");
    }
}

/// R2Ts that come together are answered in their order, also behind data that goes unasked; a command that ends before has nothing more to send.
#[test]
fn several_r2ts_are_answered_in_their_order() {
    for (ends_early, answered) in [(false, 20_000), (true, 8192 + 4000)] {
        let keys = format!("{PLAIN} MaxOutstandingR2T=3");
        let (address, script) = listen(move |peer| {
            let said = peer.log_in(&keys);
            assert_eq!(said["MaxOutstandingR2T"], "8");
            let (header, mut stored) = peer.receive();
            let tag = header.task_tag();
            // The first before the unasked data has come, as that goes on its way without it.
            for (number, size) in [(0, 4000), (1, 4000), (2, 3808)] {
                peer.ready(tag, number, 8192 + number * 4000, size);
            }
            stored.extend(peer.receive_burst(tag, NO_TAG, 4096));
            for number in 0..if ends_early { 1 } else { 3 } {
                let at = stored.len() as u32;
                stored.extend(peer.receive_burst(tag, 0x700 + number, at));
            }
            peer.respond(tag, if ends_early { 8 } else { 0 }, &[]);
            if ends_early {
                // What was on its way already, and then the next command.
                loop {
                    let (header, _) = peer.receive();
                    if header.opcode() == opcode::COMMAND {
                        peer.respond(header.task_tag(), 0, &[]);
                        break;
                    }
                }
            }
            stored
        });
        let mut session = open(&address, false);
        let cdb = command::write(0, 625, false);
        let data = bytes(20_000);
        let outcome = session.run(0, &cdb, Payload::Write(&data)).unwrap();
        assert_eq!(outcome.status.is_good(), !ends_early);
        if ends_early {
            session.flush(0).unwrap();
        }
        assert_eq!(script.join().unwrap(), data[..answered]);
    }
}

/// Data in several PDUs, ended with the last of them or by a response, however TCP cuts it up.
#[test]
fn a_read_takes_data_in_pieces() {
    for (digests, keys) in [(false, PLAIN), (true, DIGESTS)] {
        for with_status in [false, true] {
            let (address, script) = listen(move |peer| {
                peer.log_in(keys);
                let (header, _) = peer.receive();
                assert_eq!(header.flags(), FINAL | READS | 1);
                let tag = header.task_tag();
                let data = bytes(4096);
                let last = if with_status { FINAL | STATUS } else { FINAL };
                let mut stream = peer.data_in(tag, 0, 0, &data[..1001], 0);
                stream.extend(peer.data_in(tag, 1, 1001, &[], 0));
                stream.extend(peer.data_in(tag, 2, 1001, &data[1001..], last));
                for piece in stream.chunks(997) {
                    peer.say(piece);
                }
                if !with_status {
                    peer.respond(tag, 0, &[]);
                }
            });
            let mut session = open(&address, digests);
            assert_eq!(session.read(0, 0, 1, 4096).unwrap(), bytes(4096));
            script.join().unwrap();
        }
    }
}

/// Status, all of the sense data, and how much more or less there was than expected.
#[test]
fn an_answer_is_told_as_it_is() {
    let (address, script) = listen(|peer| {
        peer.log_in(PLAIN);
        let tag = peer.receive().0.task_tag();
        let mut sense = [0; SENSE_BYTES_MAX];
        let size = Sense::illegal(Code::INVALID_FIELD_IN_CDB).encode(&mut sense, false);
        peer.respond(tag, 2, &sense[..size]);
        for (flag, residual, size) in [(UNDERFLOW, 96, 160), (OVERFLOW, 44, 256)] {
            let tag = peer.receive().0.task_tag();
            let stream = peer.data_in(tag, 0, 0, &bytes(size), FINAL | STATUS | flag);
            let mut stream = stream;
            stream[44..48].copy_from_slice(&u32::to_be_bytes(residual));
            peer.say(&stream);
        }
        let tag = peer.receive().0.task_tag();
        let mut failure = Header::new(opcode::RESPONSE, FINAL);
        failure.0[2] = 1;
        failure.put(16, tag);
        peer.put(failure, &[], true);
    });
    let mut session = open(&address, false);
    let cdb = command::inquiry(None, 256);
    let outcome = session.run(0, &cdb, Payload::Read(256)).unwrap();
    assert!(
        outcome
            .status
            .is(Key::IllegalRequest, Code::INVALID_FIELD_IN_CDB)
    );
    assert_eq!((outcome.sense.len(), outcome.sense[12]), (18, 0x24));
    let outcome = session.run(0, &cdb, Payload::Read(256)).unwrap();
    assert_eq!((outcome.transferred, outcome.overflow), (160, 0));
    assert_eq!(outcome.data[..160], bytes(160));
    let outcome = session.run(0, &cdb, Payload::Read(256)).unwrap();
    assert_eq!((outcome.transferred, outcome.overflow), (256, 44));
    let outcome = session.run(0, &cdb, Payload::Read(256)).unwrap();
    assert_eq!(outcome.status, CommandStatus::TARGET_FAILURE);
    script.join().unwrap();
}

/// Wrong data fails its command, and the session goes on.
#[test]
fn a_data_digest_error_fails_one_command() {
    let (address, script) = listen(|peer| {
        peer.log_in(DIGESTS);
        for broken in [true, false] {
            let tag = peer.receive().0.task_tag();
            let mut stream = peer.data_in(tag, 0, 0, &bytes(512), FINAL | STATUS);
            let end = stream.len() - 1;
            stream[end] ^= u8::from(broken);
            peer.say(&stream);
        }
    });
    let mut session = open(&address, true);
    let error = session.read(0, 0, 1, 512).unwrap_err();
    assert!(matches!(
        error,
        Error::Command {
            status: CommandStatus::DATA_DIGEST,
            ..
        }
    ));
    assert_eq!(session.read(0, 0, 1, 512).unwrap(), bytes(512));
    script.join().unwrap();
}

/// RFC 7143, 4.2.2.1: no command goes beyond MaxCmdSN, and commands end in any order.
#[test]
fn no_command_goes_beyond_the_window() {
    let (address, script) = listen(|peer| {
        peer.window = 2;
        peer.log_in(PLAIN);
        let first = peer.receive().0.task_tag();
        let second = peer.receive().0.task_tag();
        assert_ne!(first, second);
        peer.respond(second, 0, &[]);
        let third = peer.receive().0.task_tag();
        peer.respond(third, 0, &[]);
        peer.respond(first, 8, &[]);
    });
    let mut session = open(&address, false);
    assert_eq!(session.session().window(), 2);
    let flush = command::synchronize_cache();
    let first = session.start(0, &flush, Payload::None).unwrap();
    let second = session.start(0, &flush, Payload::None).unwrap();
    assert_eq!(session.session().window(), 0);
    // Waits until the second has ended.
    let third = session.start(0, &flush, Payload::None).unwrap();
    for (slot, status) in [(second, 0), (third, 0), (first, 8)] {
        assert_eq!(session.finish(slot).unwrap().status.status(), status);
    }
    script.join().unwrap();
}

/// A target that asks whether somebody is there gets its answer; what it says of the units of others changes nothing.
#[test]
fn a_ping_is_answered() {
    let (address, script) = listen(|peer| {
        peer.log_in(PLAIN);
        let tag = peer.receive().0.task_tag();
        let mut ping = Header::new(opcode::NOP_IN, FINAL);
        ping.put(16, NO_TAG);
        ping.put(20, 0x55);
        peer.put(ping, &[], false);
        let (pong, _) = peer.receive();
        assert_eq!(pong.0[0], 0x40, "an immediate NOP-Out");
        assert_eq!((pong.task_tag(), pong.transfer_tag()), (NO_TAG, 0x55));
        assert_eq!(pong.u32(24), peer.command_sn);
        let mut news = Header::new(opcode::ASYNC, FINAL);
        news.put(16, NO_TAG);
        peer.put(news, &[0, 0], true);
        peer.respond(tag, 0, &[]);
    });
    open(&address, false).flush(0).unwrap();
    script.join().unwrap();
}

/// What a target says that it must not say, each to a read of 512 bytes or a write of 16,384: an error that says what it was.
#[test]
fn what_must_not_be_said_ends_the_session() {
    type Script = fn(&mut Peer, u32);
    let cases: [(bool, &str, Script); 19] = [
        (false, "no command", |peer, tag| {
            peer.respond(tag ^ 0x10000, 0, &[])
        }),
        (false, "no command", |peer, _| peer.respond(3, 0, &[])),
        (false, "StatSN", |peer, tag| {
            peer.status_sn += 1;
            peer.respond(tag, 0, &[]);
        }),
        (false, "more data came", |peer, tag| {
            let stream = peer.data_in(tag, 0, 0, &[0; 513], FINAL);
            peer.say(&stream);
        }),
        (false, "out of its order", |peer, tag| {
            let stream = peer.data_in(tag, 0, 4, &[0; 8], FINAL);
            peer.say(&stream);
        }),
        (false, "out of its order", |peer, tag| {
            let stream = peer.data_in(tag, 1, 0, &[0; 8], FINAL);
            peer.say(&stream);
        }),
        (false, "not the last", |peer, tag| {
            let stream = peer.data_in(tag, 0, 0, &[0; 8], STATUS);
            peer.say(&stream);
        }),
        (true, "reads nothing", |peer, tag| {
            let stream = peer.data_in(tag, 0, 0, &[0; 8], FINAL);
            peer.say(&stream);
        }),
        (false, "writes nothing", |peer, tag| {
            peer.ready(tag, 0, 0, 8)
        }),
        (true, "asks for more", |peer, tag| {
            peer.ready(tag, 0, 8192, 8193)
        }),
        (true, "asks for more", |peer, tag| {
            peer.ready(tag, 0, 8192, 0)
        }),
        (true, "R2T out of its order", |peer, tag| {
            peer.ready(tag, 0, 0, 8)
        }),
        (true, "more R2Ts wait", |peer, tag| {
            let both = [(0, 8192), (1, 8200)].map(|(number, offset)| {
                let mut header = Header::new(opcode::READY, FINAL);
                header.put(16, tag);
                header.put(20, number);
                header.put(36, number);
                header.put(40, offset);
                header.put(44, 8);
                peer.pdu(header, &[], false)
            });
            peer.say(&both.concat());
        }),
        (false, "nothing asked for", |peer, tag| {
            let mut header = Header::new(opcode::TEXT_RESPONSE, FINAL);
            header.put(16, tag);
            peer.put(header, &[], true);
        }),
        (false, "nothing asked for", |peer, _| {
            let mut header = Header::new(opcode::LOGOUT_RESPONSE, FINAL);
            header.put(16, LOGOUT_TAG);
            peer.put(header, &[], true);
        }),
        (false, "longer than its kind", |peer, tag| {
            let mut header = Header::new(opcode::RESPONSE, FINAL);
            header.put(16, tag);
            peer.put(header, &[0; 9000], true);
        }),
        (false, "longer than its PDU", |peer, tag| {
            let mut header = Header::new(opcode::RESPONSE, FINAL);
            header.put(16, tag);
            peer.put(header, &[0, 9, 0], true);
        }),
        (
            false,
            "rejected a PDU of operation code 01h: it breaks",
            |peer, _| {
                let mut header = Header::new(opcode::REJECT, FINAL);
                header.0[2] = 4;
                header.put(16, NO_TAG);
                peer.put(header, &[1; HEADER_BYTES], true);
            },
        ),
        (false, "asks for a logout", |peer, _| {
            let mut header = Header::new(opcode::ASYNC, FINAL);
            header.0[36] = 1;
            header.put(16, NO_TAG);
            peer.put(header, &[], true);
        }),
    ];
    for (writes, part, script) in cases {
        let (address, script) = listen(move |peer| {
            peer.log_in(PLAIN);
            let tag = peer.receive().0.task_tag();
            if writes {
                peer.receive_burst(tag, NO_TAG, 4096);
            }
            script(peer, tag);
            // Until the initiator is gone.
            while peer.receive_or_end().is_some() {}
        });
        let mut session = open(&address, false);
        let error = match writes {
            false => session.read(0, 0, 1, 512).unwrap_err(),
            true => session.write(0, 0, &bytes(16_384), 512, false).unwrap_err(),
        };
        assert!(error.to_string().contains(part), "{part}: {error}");
        assert!(matches!(session.flush(0), Err(Error::Closed)));
        drop(session);
        script.join().unwrap();
    }
}

/// With header digests a header that is not what was sent is not believed.
#[test]
fn a_wrong_header_digest_ends_the_session() {
    let (address, script) = listen(|peer| {
        peer.log_in(DIGESTS);
        let tag = peer.receive().0.task_tag();
        let mut stream = peer.data_in(tag, 0, 0, &bytes(512), FINAL | STATUS);
        stream[40] ^= 1;
        peer.say(&stream);
    });
    let error = open(&address, true).read(0, 0, 1, 512).unwrap_err();
    assert!(error.to_string().contains("header digest"), "{error}");
    script.join().unwrap();
}

/// A connection that ends is told; so is a target that says nothing.
#[test]
fn a_target_that_is_gone_or_silent_is_told() {
    let (address, script) = listen(|peer| {
        peer.log_in(PLAIN);
        peer.receive();
    });
    assert!(matches!(open(&address, false).flush(0), Err(Error::Closed)));
    script.join().unwrap();

    let (address, script) = listen(|peer| {
        peer.log_in(PLAIN);
        while peer.receive_or_end().is_some() {}
    });
    let session = login(&address, &options(false)).unwrap();
    let mut session = BlockingSession::new(session, std::time::Duration::from_millis(20));
    let error = session.flush(0).unwrap_err().to_string();
    assert!(error.contains("no answer within 20 ms"), "{error}");
    drop(session);
    script.join().unwrap();
}

/// What has ended has ended well, whatever becomes of the session before it is awaited, or with the same bytes.
#[test]
fn an_outcome_that_is_there_is_not_lost_with_the_session() {
    let (address, script) = listen(|peer| {
        peer.log_in(PLAIN);
        let mut stream = Vec::new();
        for _ in 0..2 {
            let mut header = Header::new(opcode::RESPONSE, FINAL);
            header.put(16, peer.receive().0.task_tag());
            stream.extend(peer.pdu(header, &[], true));
        }
        // No PDU of a target has this operation code.
        stream.extend(peer.pdu(Header::new(0x3F, FINAL), &[], true));
        peer.say(&stream);
    });
    let mut session = open(&address, false);
    let flush = command::synchronize_cache();
    let first = session.start(0, &flush, Payload::None).unwrap();
    let second = session.start(0, &flush, Payload::None).unwrap();
    assert!(session.finish(first).is_ok());
    script.join().unwrap();
    assert!(session.finish(second).is_ok());
    assert!(session.flush(0).is_err());
}

/// RFC 7143, 11.14: when commands have ended the target is asked to close the session, and has a time to answer; nothing follows.
#[test]
fn a_session_is_ended_in_good_order() {
    for (response, part) in [
        (Some(0), None),
        (Some(2), Some("does not close a session")),
        (None, Some("a logout: no answer within 20 ms")),
    ] {
        let (address, script) = listen(move |peer| {
            peer.log_in(DIGESTS);
            if response.is_some() {
                let tag = peer.receive().0.task_tag();
                peer.respond(tag, 0, &[]);
            }
            let (header, data) = peer.receive();
            assert_eq!((header.0[0], header.flags()), (0x46, FINAL));
            assert_eq!(header.u32(24), peer.command_sn);
            assert!(data.is_empty());
            if let Some(response) = response {
                // It may come too late for an answer.
                let mut ping = Header::new(opcode::NOP_IN, FINAL);
                ping.put(16, NO_TAG);
                ping.put(20, 7);
                peer.put(ping, &[], false);
                let mut answer = Header::new(opcode::LOGOUT_RESPONSE, FINAL);
                answer.0[2] = response;
                answer.put(16, header.task_tag());
                peer.put(answer, &[], true);
            }
            assert!(peer.receive_or_end().is_none());
        });
        let timeout = match response {
            Some(_) => PATIENCE,
            None => Duration::from_millis(20),
        };
        let session = login(&address, &options(true)).unwrap();
        let mut session = BlockingSession::new(session, timeout);
        if response.is_some() {
            let flush = command::synchronize_cache();
            session.start(0, &flush, Payload::None).unwrap();
        }
        match (session.log_out(), part) {
            (Ok(()), None) => {}
            (Err(error), Some(part)) => assert!(error.to_string().contains(part), "{error}"),
            (result, _) => panic!("{result:?}"),
        }
        assert!(matches!(session.flush(0), Err(Error::Closed)));
        drop(session);
        script.join().unwrap();
    }
}
