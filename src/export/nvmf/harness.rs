//! A connection without a socket over a few kilobytes of memory: what unit tests, property tests and the fuzzer drive.
//!
//! Bytes are fed in pieces of any size and what the controller says is gathered. Nothing here is used by a running target.

use std::net::SocketAddr;

use super::config::{Config, Hosts, NamespaceConfig, SubsystemConfig};
use super::message::Message;
use super::session::{Context, Local, Session, State};
use super::target::{SessionKey, SubsystemId, Target};
use crate::dm::{CoreId, DeviceId};
use crate::export::backend::Backend;
use crate::export::frame::split_tag;
pub use crate::export::memory::{BLOCKS, MemoryBackend, Pieces};
use crate::nvme::fabrics::{Connect, ConnectData, PropertyAccess, PropertySize, property};
use crate::nvme::log::AnaState;
use crate::nvme::pdu::{Digests, InitializeRequest, encode_command};
use crate::nvme::{Command, DataPointer};

/// The subsystem of the harness.
pub const NQN: &str = "nqn.2026-11.io.polldm:harness";
/// The host of the harness.
pub const HOST: &str = "nqn.2026-11.io.polldm:host";
/// Its identifier.
pub const HOST_ID: [u8; 16] = *b"0123456789abcdef";
/// A connection, and what it needs around it.
pub struct Harness {
    /// The connection.
    pub session: Session<Pieces>,
    /// The device.
    pub backend: MemoryBackend,
    /// The core.
    pub local: Local,
    /// The target.
    pub target: Target,
    /// What the controller has said.
    pub output: Vec<u8>,
}

impl Default for Harness {
    fn default() -> Self {
        Self::new()
    }
}

impl Harness {
    /// A fresh connection to a target with one subsystem and one namespace.
    ///
    /// # Panics
    /// If the configuration of the harness itself were wrong.
    pub fn new() -> Self {
        let namespace = NamespaceConfig {
            nsid: 1,
            device: DeviceId(0),
            device_name: "vol0".into(),
            uuid: None,
        };
        let subsystem = SubsystemConfig {
            nqn: NQN.into(),
            serial: None,
            model: None,
            hosts: Hosts::Any,
            ana: AnaState::Optimized,
            namespaces: vec![namespace],
        };
        let address = SocketAddr::from(([127, 0, 0, 1], 4420));
        let config = Config {
            listeners: vec![address],
            subsystems: vec![subsystem],
            discovery_nqn: None,
        };
        let target = Target::new(&config, 1).expect("the harness is configured well");
        target.set_addresses(vec![address]);
        target.choose_core();
        let backend = MemoryBackend::new();
        let mut local = Local::new(CoreId(0));
        let list = target.namespaces(SubsystemId(1));
        local
            .namespaces(SubsystemId(1))
            .replace(&list, |device| backend.geometry(device));
        let session = Session::new(key(0));
        Self {
            session,
            backend,
            local,
            target,
            output: Vec::new(),
        }
    }

    /// Runs `f` with everything a session needs.
    pub fn with<R>(
        &mut self,
        f: impl FnOnce(&mut Session<Pieces>, &mut Context<'_, MemoryBackend>) -> R,
    ) -> R {
        let mut cx = Context {
            backend: &mut self.backend,
            local: &mut self.local,
            target: &self.target,
        };
        f(&mut self.session, &mut cx)
    }

    /// The host sends `bytes`, in pieces of at most `piece` bytes. What the connection does not take is lost, as on a
    /// connection that was closed.
    pub fn feed(&mut self, bytes: &[u8], piece: usize) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = rest.len().min(piece.max(1));
            let taken = self.with(|session, cx| {
                let Some(room) = session.input(cx) else {
                    return 0;
                };
                let mut given = 0;
                for space in room {
                    let size = space.iov_len.min(count - given);
                    // SAFETY: `input` says that so much may be written there.
                    unsafe {
                        std::ptr::copy_nonoverlapping(
                            rest[given..].as_ptr(),
                            space.iov_base.cast::<u8>(),
                            size,
                        );
                    }
                    given += size;
                }
                session.received(given, cx);
                given
            });
            self.drain();
            if taken == 0 {
                break;
            }
            rest = &rest[taken..];
        }
    }

    /// Takes all that the controller has to say, and lets it go on.
    pub fn drain(&mut self) {
        loop {
            while self.session.has_output() {
                let mut count = 0;
                for piece in self.session.output() {
                    // SAFETY: what is queued stays readable until `sent`.
                    let bytes = unsafe {
                        std::slice::from_raw_parts(piece.iov_base.cast::<u8>(), piece.iov_len)
                    };
                    self.output.extend_from_slice(bytes);
                    count += piece.iov_len;
                }
                if count == 0 {
                    break;
                }
                self.with(|session, cx| session.sent(count, cx));
            }
            let mut worked = self.with(|session, cx| session.poll(cx));
            // There is one core, which publishes nothing: its totals are those of nobody else.
            while let Some(slot) = self.take_publish() {
                self.with(|session, cx| session.totals_published(slot, cx));
                worked = true;
            }
            if !worked {
                break;
            }
        }
    }

    /// A request to publish totals, taken out of the messages to other cores.
    fn take_publish(&mut self) -> Option<u16> {
        let outbox = &mut self.local.outbox;
        let is_publish =
            |(_, message): &(CoreId, Message)| matches!(message, Message::Publish { .. });
        let position = outbox.iter().position(is_publish)?;
        match outbox.remove(position).1 {
            Message::Publish { slot, .. } => Some(slot),
            _ => None,
        }
    }

    /// Finishes what the backend holds.
    pub fn finish(&mut self) {
        for (command, status) in self.backend.finish() {
            let (_, slot) = split_tag(command);
            self.with(|session, cx| session.completed(slot, status, cx));
        }
        self.drain();
    }

    /// The connection breaks. Everything it held must be back afterwards.
    ///
    /// # Panics
    /// If anything leaks.
    pub fn close(mut self) {
        self.with(|session, cx| session.kill(cx));
        while self.backend.held() > 0 {
            self.finish();
        }
        assert!(
            self.session.is_finished(),
            "{} commands are left",
            self.session.running()
        );
        assert_eq!(self.session.outstanding(), 0);
        assert_eq!(self.local.chunks.in_use(), 0);
        assert_eq!(self.backend.pool.bytes_taken(), 0);
        assert!(self.target.snapshot().is_empty());
    }

    /// ICReq.
    pub fn initialize(&mut self, digests: Digests) {
        let request = InitializeRequest {
            format_version: 0,
            host_alignment: 0,
            digests,
            ready_to_transfer_max: 1,
        };
        self.feed(&request.encode(), usize::MAX);
    }

    /// ICReq, and Connect to the admin queue; the controller is enabled.
    pub fn connect_admin(&mut self) {
        self.initialize(Digests::default());
        self.feed(&connect(NQN, 0, 0xFFFF, 31, 0), usize::MAX);
        let mut enable =
            PropertyAccess::set(property::CONFIGURATION, PropertySize::Four, 0x0046_0001);
        enable.set_command_id(0xEEEE);
        self.feed(&capsule(&enable, &[]), usize::MAX);
        self.output.clear();
    }

    /// A controller whose admin queue is elsewhere, and this connection as its I/O queue 1 of 64 entries.
    ///
    /// # Panics
    /// If the target refused its own harness.
    pub fn connect_io(&mut self, digests: Digests, flow_control: bool) {
        self.connect_io_of(64, digests, flow_control);
    }

    /// The same, with a queue of so many entries.
    ///
    /// # Panics
    /// If the target refused its own harness.
    pub fn connect_io_of(&mut self, entries: u16, digests: Digests, flow_control: bool) {
        let admission = self
            .target
            .connect_admin(NQN, HOST, HOST_ID, key(1))
            .expect("the first controller");
        self.target
            .set_enabled(admission.subsystem, admission.controller_id, true);
        self.initialize(digests);
        let attributes = if flow_control {
            0
        } else {
            Connect::ATTRIBUTE_NO_FLOW_CONTROL
        };
        let request = connect_command(NQN, 1, entries - 1, attributes);
        let data = connect_data(NQN, admission.controller_id);
        self.feed(&capsule_with(&request, &data, digests), usize::MAX);
        assert!(self.session.queue.is_some(), "connected");
        self.output.clear();
    }

    /// The admin queue of the controller of [`Harness::connect_io`] goes.
    pub fn disconnect_admin(&mut self) {
        self.target.remove_controller(SubsystemId(1), 1, key(1));
    }
}

fn key(index: u32) -> SessionKey {
    SessionKey {
        core: CoreId(0),
        index,
        generation: 0,
    }
}

fn connect_command(_nqn: &str, queue_id: u16, queue_size: u16, attributes: u8) -> Command {
    let connect = Connect {
        record_format: 0,
        queue_id,
        queue_size,
        attributes,
        keep_alive_ms: 0,
    };
    let mut command = connect.encode();
    command.set_data_pointer(DataPointer::in_capsule(0, 1024));
    command
}

fn connect_data(nqn: &str, controller_id: u16) -> [u8; 1024] {
    ConnectData {
        host_id: HOST_ID,
        controller_id,
        subsystem_nqn: nqn,
        host_nqn: HOST,
    }
    .encode()
}

/// A Connect capsule without digests.
pub fn connect(
    nqn: &str,
    queue_id: u16,
    controller_id: u16,
    queue_size: u16,
    attributes: u8,
) -> Vec<u8> {
    let command = connect_command(nqn, queue_id, queue_size, attributes);
    capsule(&command, &connect_data(nqn, controller_id))
}

/// A command capsule without digests.
pub fn capsule(command: &Command, data: &[u8]) -> Vec<u8> {
    capsule_with(command, data, Digests::default())
}

/// A command capsule.
pub fn capsule_with(command: &Command, data: &[u8], digests: Digests) -> Vec<u8> {
    let mut bytes = vec![0; 256];
    let offset = encode_command(&mut bytes, command, digests, 0, data.len() as u32);
    bytes.truncate(offset);
    bytes.extend_from_slice(data);
    if digests.data && !data.is_empty() {
        bytes.extend_from_slice(&crate::nvme::pdu::digest(data).to_le_bytes());
    }
    bytes
}

/// The fuzzer's harness: the first byte chooses how far the connection is and how it is cut, the rest is what the host sends. Whatever that
/// is, nothing panics, nothing leaks, and the controller stays within its bounds.
pub fn fuzz_connection(data: &[u8]) {
    let Some((&mode, stream)) = data.split_first() else {
        return;
    };
    let mut harness = Harness::new();
    let digests = Digests {
        header: mode & 0x10 != 0,
        data: mode & 0x20 != 0,
    };
    match mode & 3 {
        0 => {}
        1 => harness.initialize(digests),
        2 => harness.connect_admin(),
        _ => harness.connect_io(digests, mode & 0x40 == 0),
    }
    harness.backend.hold = mode & 4 != 0;
    let piece = if mode & 8 != 0 { 13 } else { usize::MAX };
    harness.feed(stream, piece);
    if mode & 0x80 == 0 {
        harness.finish();
    }
    harness.disconnect_admin();
    assert!(matches!(
        harness.session.state,
        State::Initialize | State::Open | State::Terminating | State::Dead
    ));
    harness.close();
}
