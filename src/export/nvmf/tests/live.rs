//! The target on the real engine, over sockets.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::harness::{NQN, capsule, connect};
use super::super::{Config, Export, Hosts, NamespaceConfig, SubsystemConfig};
use super::host::{Answer, decode_one};
use crate::bdev::{Registry, Spec};
use crate::engine::{self, Engine};
use crate::export::stats::Kind as Counted;
use crate::nvme::fabrics::{PropertyAccess, PropertySize, fabrics_command, property};
use crate::nvme::feature::{self, AsyncEvent};
use crate::nvme::identify::{self, structure};
use crate::nvme::log::AnaState;
use crate::nvme::opcode::{admin, fabrics, io};
use crate::nvme::pdu::{Digests, FLAG_LAST, InitializeRequest, Kind, Transfer};
use crate::nvme::{Command, DataPointer, NSID_ALL, Status};
use crate::reactor::{self, PollMode, available_cpus};

/// An engine with two reactors, a 64 MiB device, and a target over it.
pub(super) struct Node {
    pub(super) engine: Engine,
    pub(super) export: Export,
}

impl Node {
    pub(super) fn start() -> Self {
        let bdevs = Arc::new(Registry::default());
        let spec = Spec::Malloc {
            bytes: 64 << 20,
            block_bytes: 512,
            volatile_cache: false,
            atomic_writes: false,
        };
        bdevs.add("ram0", spec).unwrap();
        let cpus = available_cpus().unwrap();
        let reactors = reactor::Config {
            cpus: vec![cpus[0], cpus[cpus.len() - 1]],
            poll: PollMode::Adaptive {
                spin: Duration::from_micros(20),
            },
        };
        let engine = Engine::start(
            &engine::Config {
                reactors,
                buffer_bytes_max: 16 << 20,
            },
            bdevs,
        )
        .unwrap();
        let device = engine.create("vol0", "", false).unwrap();
        engine
            .load("vol0", "0 131072 linear ram0 0", false)
            .unwrap();
        engine.resume("vol0", Default::default()).unwrap();
        let namespace = NamespaceConfig {
            nsid: 1,
            device,
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
        let listeners = vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
        let config = Config {
            listeners,
            subsystems: vec![subsystem],
            discovery_nqn: None,
        };
        let export = Export::start(&engine, &config).unwrap();
        Self { engine, export }
    }

    pub(super) fn connect(&self) -> Client {
        Client::new(TcpStream::connect(self.export.addresses()[0]).unwrap())
    }

    /// A controller that is ready, and its identifier.
    pub(super) fn admin(&self, keep_alive_ms: u32) -> (Client, u16) {
        let mut client = self.connect();
        let mut bytes = connect(NQN, 0, 0xFFFF, 31, 0);
        bytes[8 + 48..8 + 52].copy_from_slice(&keep_alive_ms.to_le_bytes());
        client.send(&bytes);
        let Answer::Response(completion) = client.read() else {
            panic!()
        };
        assert!(completion.status.is_success());
        let enable = PropertyAccess::set(property::CONFIGURATION, PropertySize::Four, 0x0046_0001);
        assert!(client.run(enable, &[]).0.is_success());
        (client, completion.result as u16)
    }

    pub(super) fn io(&self, controller_id: u16, queue_id: u16) -> Client {
        let mut client = self.connect();
        client.send(&connect(NQN, queue_id, controller_id, 127, 0));
        let Answer::Response(completion) = client.read() else {
            panic!()
        };
        assert!(completion.status.is_success(), "{:?}", completion.status);
        client
    }

    pub(super) fn stop(self) {
        self.engine.stop(Duration::from_secs(60)).unwrap();
    }

    /// Waits until the target has this many connections: closing one is seen a moment later by its core.
    pub(super) fn await_connections(&self, count: usize) {
        while self.export.snapshot(&self.engine).connections.len() != count {
            std::thread::yield_now();
        }
    }
}

pub(super) struct Client {
    socket: TcpStream,
}

impl Client {
    pub(super) fn new(socket: TcpStream) -> Self {
        // Only so that a test that fails does not hang.
        socket
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let mut client = Self { socket };
        let digests = Digests::default();
        let request = InitializeRequest {
            format_version: 0,
            host_alignment: 0,
            digests,
            ready_to_transfer_max: 1,
        };
        client.send(&request.encode());
        assert_eq!(client.read(), Answer::Initialized);
        client
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    pub(super) fn read(&mut self) -> Answer {
        let mut header = [0; 8];
        self.socket.read_exact(&mut header).unwrap();
        let size = u32::from_le_bytes(header[4..].try_into().unwrap()) as usize;
        let mut bytes = header.to_vec();
        bytes.resize(size, 0);
        self.socket.read_exact(&mut bytes[8..]).unwrap();
        decode_one(&bytes, false, false).0
    }

    pub(super) fn submit(&mut self, mut command: Command, id: u16, data: &[u8]) {
        command.set_command_id(id);
        self.send(&capsule(&command, data));
    }

    pub(super) fn complete(&mut self, id: u16) -> (Status, u64, Vec<u8>) {
        let mut data = Vec::new();
        loop {
            match self.read() {
                Answer::Data {
                    transfer,
                    data: bytes,
                    ..
                } if transfer.command_id == id => data.extend(bytes),
                Answer::Response(completion) if completion.command_id == id => {
                    return (completion.status, completion.result, data);
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    pub(super) fn run(&mut self, command: Command, data: &[u8]) -> (Status, u64, Vec<u8>) {
        self.submit(command, 9, data);
        self.complete(9)
    }

    /// The far end has closed.
    pub(super) fn expect_end(&mut self) {
        let mut byte = [0];
        match self.socket.read(&mut byte) {
            Ok(0) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            other => panic!("expected the end of the connection, not {other:?}"),
        }
    }
}

fn block_io(opcode: u8, lba: u64, count: u32, pointer: DataPointer) -> Command {
    let mut command = Command::block_io(opcode, 1, lba, count);
    command.set_data_pointer(pointer);
    command
}

#[test]
fn data_written_on_one_core_is_read_on_another() {
    let node = Node::start();
    let (mut admin, id) = node.admin(0);
    let mut queues = [node.io(id, 1), node.io(id, 2), node.io(id, 3)];
    let data: Vec<u8> = (0..8192u32).map(|index| ((index * 7) >> 3) as u8).collect();
    let write = block_io(io::WRITE, 8, 16, DataPointer::in_capsule(0, 8192));
    assert_eq!(queues[0].run(write, &data).0, Status::SUCCESS);
    for queue in &mut queues {
        let read = block_io(io::READ, 8, 16, DataPointer::transport(8192));
        assert_eq!(queue.run(read, &[]), (Status::SUCCESS, 0, data.clone()));
    }
    // 256 KiB, which has to be asked for, and comes in two PDUs.
    let large: Vec<u8> = (0..256 * 1024u32)
        .map(|index| (index >> 5) as u8 ^ index as u8)
        .collect();
    queues[1].submit(
        block_io(io::WRITE, 1000, 512, DataPointer::transport(256 * 1024)),
        4,
        &[],
    );
    let Answer::Ready(ready) = queues[1].read() else {
        panic!("no R2T")
    };
    let mut header = [0; 24];
    let first = Transfer {
        size: 100_000,
        ..ready
    };
    first.encode_data(&mut header, Kind::HostData, 0, Digests::default(), 0);
    queues[1].send(&header);
    queues[1].send(&large[..100_000]);
    let second = Transfer {
        offset: 100_000,
        size: ready.size - 100_000,
        ..ready
    };
    second.encode_data(
        &mut header,
        Kind::HostData,
        FLAG_LAST,
        Digests::default(),
        0,
    );
    queues[1].send(&header);
    queues[1].send(&large[100_000..]);
    assert_eq!(queues[1].complete(4).0, Status::SUCCESS);
    let read = block_io(io::READ, 1000, 512, DataPointer::transport(256 * 1024));
    assert!(queues[2].run(read, &[]) == (Status::SUCCESS, 0, large));

    let snapshot = node.export.snapshot(&node.engine);
    assert_eq!(
        (snapshot.connections.len(), snapshot.controllers.len()),
        (4, 1)
    );
    assert_eq!(snapshot.controllers[0].queues.len(), 3);
    let mut cores: Vec<u16> = snapshot
        .connections
        .iter()
        .filter(|one| one.queue_id != Some(0))
        .map(|one| one.core)
        .collect();
    cores.sort_unstable();
    cores.dedup();
    assert_eq!(cores, [0, 1], "I/O queues spread over both cores");
    let stats = node.export.stats(&node.engine);
    let counted = |kind| {
        (
            stats[0].stats.kind(kind).ios,
            stats[0].stats.kind(kind).sectors * 512,
        )
    };
    assert_eq!(counted(Counted::Read), (4, 3 * 8192 + 256 * 1024));
    assert_eq!(counted(Counted::Write), (2, 8192 + 256 * 1024));

    let mut smart = Command::get_log_page(NSID_ALL, 2, 512, 0);
    smart.set_data_pointer(DataPointer::transport(512));
    let (_, _, page) = admin.run(smart, &[]);
    let smart = crate::nvme::log::Smart::decode(&page);
    assert_eq!(
        (smart.read_commands, smart.write_commands),
        (4, 2),
        "every core's, as of now"
    );

    // The admin queue goes, and its I/O queues are closed.
    let disconnect = fabrics_command(fabrics::DISCONNECT);
    assert!(queues[2].run(disconnect, &[]).0.is_success());
    queues[2].expect_end();
    admin.socket.shutdown(std::net::Shutdown::Both).unwrap();
    queues[0].expect_end();
    queues[1].expect_end();
    drop(queues);
    node.await_connections(0);
    assert!(node.export.snapshot(&node.engine).controllers.is_empty());
    node.stop();
}

/// Sockets at these ports that some process has open: other tests' descriptors come and go, but have other ports.
fn sockets_of(ports: &[u16]) -> usize {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(std::fs::read_to_string);
    let is_ours = |line: &&str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let port = columns[1].rsplit_once(':').map(|(_, port)| port);
        let port = port.and_then(|port| u16::from_str_radix(port, 16).ok());
        // One that only the kernel has any more has no inode.
        port.is_some_and(|port| ports.contains(&port)) && columns[9] != "0"
    };
    let count = |table: String| table.lines().filter(is_ours).count();
    tables.into_iter().flatten().map(count).sum()
}

#[test]
fn a_thousand_connections_leave_nothing_behind() {
    let node = Node::start();
    let ports: Vec<u16> = node
        .export
        .addresses()
        .iter()
        .map(|one| one.port())
        .collect();
    let (_admin, id) = node.admin(0);
    drop(node.io(id, 1));
    node.await_connections(1);
    for round in 0..1000 {
        match round % 4 {
            0 => drop(node.io(id, 1)),
            1 => drop(node.admin(0)),
            2 => drop(TcpStream::connect(node.export.addresses()[1]).unwrap()),
            _ => {
                let mut client = node.connect();
                client.send(&[0xFF; 64]);
                assert!(matches!(client.read(), Answer::Terminate { .. }));
            }
        }
        if round % 4 == 0 {
            // The queue identifier is free again once the target has seen the end.
            node.await_connections(1);
        }
    }
    node.await_connections(1);
    let snapshot = node.export.snapshot(&node.engine);
    assert_eq!((snapshot.violations, snapshot.controllers.len()), (250, 1));
    // The listeners, and the admin queue's connection; one that was closed before it was accepted goes when that has been.
    let deadline = Instant::now() + Duration::from_secs(60);
    while sockets_of(&ports) != 2 + 1 {
        assert!(Instant::now() < deadline, "connections are left behind");
        std::thread::yield_now();
    }
    node.stop();
}

#[test]
fn namespaces_come_go_and_grow_under_a_host() {
    let node = Node::start();
    let (mut admin, id) = node.admin(0);
    let mut queue = node.io(id, 1);
    let mut configure = Command::new(admin::SET_FEATURES, 0);
    configure.set_dword(10, feature::ASYNC_EVENT_CONFIGURATION.into());
    configure.set_dword(11, feature::EVENT_NAMESPACE_ATTRIBUTE);
    assert!(admin.run(configure, &[]).0.is_success());
    let mut expect_change = |nsid: u32, act: &dyn Fn()| {
        admin.submit(Command::new(admin::ASYNC_EVENT_REQUEST, 0), 50, &[]);
        act();
        let (status, result, _) = admin.complete(50);
        assert_eq!(
            (status, result),
            (
                Status::SUCCESS,
                u64::from(AsyncEvent::NAMESPACE_ATTRIBUTE.encode())
            )
        );
        let mut log = Command::get_log_page(NSID_ALL, 4, 4096, 0);
        log.set_data_pointer(DataPointer::transport(4096));
        let (_, _, list) = admin.run(log, &[]);
        assert_eq!(u32::from_le_bytes(list[..4].try_into().unwrap()), nsid);
        let mut active = Command::identify(structure::ACTIVE_NAMESPACES, 0);
        active.set_data_pointer(DataPointer::transport(4096));
        let (_, _, page) = admin.run(active, &[]);
        let active: Vec<u32> =
            identify::decode_namespace_list(page[..].try_into().unwrap()).collect();
        let mut identify = Command::identify(structure::NAMESPACE, nsid);
        identify.set_data_pointer(DataPointer::transport(4096));
        let (_, _, page) = admin.run(identify, &[]);
        (
            active,
            identify::Namespace::decode(page[..].try_into().unwrap()).size,
        )
    };
    let device = node.engine.create("vol1", "", false).unwrap();
    node.engine
        .load("vol1", "0 1024 linear ram0 0", false)
        .unwrap();
    node.engine.resume("vol1", Default::default()).unwrap();
    let config = NamespaceConfig {
        nsid: 5,
        device,
        device_name: "vol1".into(),
        uuid: None,
    };
    let added = expect_change(5, &|| {
        node.export
            .add_namespace(&node.engine, NQN, &config)
            .unwrap()
    });
    assert_eq!(added, (vec![1, 5], 1024));
    let grown = expect_change(5, &|| {
        node.engine
            .load("vol1", "0 2048 linear ram0 0", false)
            .unwrap();
        node.engine.resume("vol1", Default::default()).unwrap();
    });
    assert_eq!(grown, (vec![1, 5], 2048));
    let mut read = block_io(io::READ, 2047, 1, DataPointer::transport(512));
    read.set_nsid(5);
    assert_eq!(queue.run(read, &[]).0, Status::SUCCESS);
    let removed = expect_change(5, &|| {
        let (gone, done) = node.export.remove_namespace(&node.engine, NQN, 5).unwrap();
        assert_eq!(gone, device);
        assert!(done.recv().is_err());
        node.engine.remove("vol1").unwrap();
    });
    assert_eq!(removed, (vec![1], 0));
    assert_eq!(queue.run(read, &[]).0, Status::INVALID_FIELD.do_not_retry());
    node.stop();
}

#[test]
fn abort_finds_io_that_is_parked_on_another_core() {
    let node = Node::start();
    let (mut admin, id) = node.admin(0);
    let mut queues = [node.io(id, 1), node.io(id, 2)];
    node.engine.suspend("vol0", Default::default()).unwrap();
    for (index, queue) in queues.iter_mut().enumerate() {
        queue.submit(
            block_io(io::READ, 0, 8, DataPointer::transport(4096)),
            30,
            &[],
        );
        // The queue's own core has taken it in when it is outstanding.
        let is_outstanding = |one: &super::super::ConnectionReport| {
            one.queue_id == Some(index as u16 + 1) && one.outstanding == 1
        };
        while !node
            .export
            .snapshot(&node.engine)
            .connections
            .iter()
            .any(is_outstanding)
        {
            std::thread::yield_now();
        }
        let mut abort = Command::new(admin::ABORT, 0);
        abort.set_dword(10, (index as u32 + 1) | 30 << 16);
        assert_eq!(admin.run(abort, &[]), (Status::SUCCESS, 0, vec![]));
        assert_eq!(queue.complete(30).0, Status::ABORT_REQUESTED);
        assert_eq!(admin.run(abort, &[]).1, 1);
    }
    // What is not aborted is carried out on resume; a connection that breaks meanwhile leaves nothing behind.
    queues[0].submit(
        block_io(io::READ, 0, 8, DataPointer::transport(4096)),
        31,
        &[],
    );
    queues[1].submit(
        block_io(io::READ, 0, 8, DataPointer::transport(4096)),
        31,
        &[],
    );
    queues[1].socket.shutdown(std::net::Shutdown::Both).unwrap();
    node.await_connections(2);
    node.engine.resume("vol0", Default::default()).unwrap();
    assert_eq!(queues[0].complete(31).2.len(), 4096);
    node.stop();
}

#[test]
fn a_silent_host_is_given_up() {
    let node = Node::start();
    let (mut silent, id) = node.admin(0);
    let mut queue = node.io(id, 1);
    // From now on, not from Connect: the host may be set aside for longer before it has its queues.
    let mut keep_alive = Command::new(admin::SET_FEATURES, 0);
    keep_alive.set_dword(10, feature::KEEP_ALIVE_TIMER.into());
    keep_alive.set_dword(11, 100);
    assert!(silent.run(keep_alive, &[]).0.is_success());
    silent.expect_end();
    queue.expect_end();
    node.await_connections(0);
    assert_eq!(node.export.snapshot(&node.engine).keep_alive_expired, 1);
    node.stop();
}

#[test]
fn a_host_that_does_not_read_costs_only_itself() {
    let node = Node::start();
    let (_admin, id) = node.admin(0);
    let mut stalled = node.io(id, 1);
    let mut healthy = [node.io(id, 2), node.io(id, 3)];
    // 64 MiB of reads, of which nothing is read; the commands themselves stop fitting long before.
    stalled.socket.set_nonblocking(true).unwrap();
    let mut read = block_io(io::READ, 0, 512, DataPointer::transport(256 * 1024));
    'stall: for id in 0..2000u16 {
        read.set_command_id(id);
        let bytes = capsule(&read, &[]);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match stalled.socket.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(_) => break 'stall,
            }
        }
    }
    for queue in &mut healthy {
        for lba in 0..100 {
            let read = block_io(io::READ, lba * 8, 8, DataPointer::transport(4096));
            assert_eq!(queue.run(read, &[]).0, Status::SUCCESS);
        }
    }
    drop(stalled);
    node.await_connections(3);
    node.stop();
}
