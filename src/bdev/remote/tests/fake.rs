//! A controller that a test can look into and make misbehave: it keeps a memory, notes every I/O command, and answers or does not. What has been
//! flushed, or was written with FUA, is in a second memory, which is what a power cut leaves.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use crate::host::peer::{DATA_SIZE_MAX, Peer};
use crate::nvme::command::{Command, Completion, DatasetRange};
use crate::nvme::fabrics::{
    Capabilities, Configuration, Connect, ConnectData, ControllerStatus, PropertyAccess, property,
};
use crate::nvme::feature::{self, AsyncEvent};
use crate::nvme::identify::{
    self, NamespaceIdentity, NvmLimits, optional_io, sgl_support, structure,
};
use crate::nvme::opcode::{self, admin, io};
use crate::nvme::pdu::{self, FLAG_LAST, Kind, Layout, Transfer};
use crate::nvme::status::Status;

pub const BLOCK: usize = 4096;

/// NVMe 1.4, as the property VS has it.
const VERSION: u32 = 1 << 16 | 4 << 8;

/// An I/O command as the controller has seen it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The I/O connection it came on, counted from 0 over all times.
    pub connection: usize,
    pub opcode: u8,
    pub fua: bool,
    pub lba: u64,
    pub blocks: u32,
}

/// One of the addresses of a controller, counted from 0.
pub type Way = usize;

/// What a test may change at any time.
pub struct State {
    /// What is read: the medium as its volatile cache shows it.
    pub memory: Vec<u8>,
    /// What a power cut leaves.
    pub durable: Vec<u8>,
    pub seen: Vec<Seen>,
    /// I/O commands are noted and done, but not answered.
    pub mute: bool,
    /// Writes and flushes for which this is so are noted and done, and answered when they are let go.
    pub withholds: fn(&Seen) -> bool,
    withheld: Vec<(Seen, TcpStream, Completion)>,
    /// Connections are closed as soon as they are made.
    pub closed: bool,
    /// Answers every read and write so, without doing it.
    pub fails: Option<Status>,
    /// Answers every command of an opcode so, without doing it.
    pub refuses: Option<(u8, Status)>,
    /// Answers flushes that come this way so, without doing them.
    pub fails_flushes: Option<(Way, Status)>,
    /// The NQN that is let in; `None`: any.
    pub host: Option<String>,
    pub blocks: u64,
    pub identity: NamespaceIdentity,
    /// Data of reads does not fit its digest.
    pub corrupt: bool,
    /// I/O commands succeed before any data has come or gone, and are not done.
    pub skips: bool,
    pub volatile_cache: bool,
    /// AWUPF.
    pub atomic_write_power_fail: u16,
    pub metadata_bytes: u16,
    /// SGLS, which no controller over fabrics may leave at 0.
    pub sgl_support: u32,
    pub block_shift: u8,
    pub limits: NvmLimits,
    pub queues: u32,
    pub keep_alives: usize,
    /// I/O connections so far.
    connections: usize,
    /// Connections, and the numbers of those that were made, by which they are told apart.
    streams: Vec<(Way, u64, TcpStream)>,
    accepted: u64,
    /// Where an event can be told: the admin connection, and the command that waits for one.
    event: Option<(TcpStream, u16)>,
    ended: bool,
}

/// The controller, at an address or several. Ends when it is dropped.
pub struct Fake {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    listening: Vec<(SocketAddr, JoinHandle<()>)>,
}

impl Fake {
    /// With a namespace of 1 MiB, in blocks of [`BLOCK`] bytes.
    pub fn start() -> Fake {
        let state = State {
            memory: vec![0; 1 << 20],
            durable: vec![0; 1 << 20],
            seen: Vec::new(),
            mute: false,
            withholds: |_| false,
            withheld: Vec::new(),
            closed: false,
            fails: None,
            refuses: None,
            fails_flushes: None,
            host: None,
            blocks: (1 << 20) / BLOCK as u64,
            identity: NamespaceIdentity {
                uuid: Some([7; 16]),
                ..NamespaceIdentity::default()
            },
            corrupt: false,
            skips: false,
            volatile_cache: true,
            atomic_write_power_fail: 1,
            metadata_bytes: 0,
            sgl_support: sgl_support::SUPPORTED | sgl_support::OFFSET | sgl_support::TRANSPORT,
            block_shift: 12,
            limits: NvmLimits::default(),
            queues: 4,
            keep_alives: 0,
            connections: 0,
            streams: Vec::new(),
            accepted: 0,
            event: None,
            ended: false,
        };
        let mut fake = Fake {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            state: Arc::new(Mutex::new(state)),
            listening: Vec::new(),
        };
        fake.address = fake.another_way();
        fake
    }

    /// One more address of the same controller.
    pub fn another_way(&mut self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (shared, way) = (Arc::clone(&self.state), self.listening.len());
        let listening = thread::spawn(move || listen(&listener, &shared, way));
        self.listening.push((address, listening));
        address
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Closes every connection, as a target does that is killed.
    pub fn cut(&self) {
        self.state().cut();
    }

    /// Tells that something about the namespace has changed.
    pub fn announce_change(&self) {
        let (mut stream, command_id) = self.state().event.take().expect("an event is waited for");
        let mut completion = Completion::new(command_id, Status::SUCCESS);
        completion.result = u64::from(AsyncEvent::NAMESPACE_ATTRIBUTE.encode());
        say(&mut stream, &completion).unwrap();
    }
}

/// Answers from outside of the connection's own thread.
fn say(stream: &mut TcpStream, completion: &Completion) -> std::io::Result<()> {
    let mut bytes = [0; 28];
    let size = pdu::encode_response(&mut bytes, completion, false);
    stream.write_all(&bytes[..size])
}

impl State {
    fn cut(&mut self) {
        self.cut_if(|_| true);
    }

    /// Closes the connections of some ways. What was sent on them and is not done by now never is.
    pub fn cut_if(&mut self, is_meant: impl Fn(Way) -> bool) {
        for (.., stream) in self.streams.extract_if(.., |(way, ..)| is_meant(*way)) {
            // One that the host has closed meanwhile is closed.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Whether an event could be told now.
    pub fn waits_for_event(&self) -> bool {
        self.event.is_some()
    }

    /// What is withheld.
    pub fn withheld(&self) -> impl ExactSizeIterator<Item = &Seen> {
        self.withheld.iter().map(|(seen, ..)| seen)
    }

    /// The answer to what was seen last, unless that is withheld.
    fn unless_withheld(&mut self, peer: &Peer, answer: Answer) -> Answer {
        let (output, completion) = answer?;
        let seen = self.seen.last().expect("it was noted");
        if !(self.withholds)(seen) {
            return Some((output, completion));
        }
        assert!(output.is_empty(), "only an answer without data can wait");
        let waiting = (seen.clone(), peer.stream(), completion);
        self.withheld.push(waiting);
        None
    }

    /// Answers what is withheld and meant, with this status.
    pub fn let_go(&mut self, mut is_meant: impl FnMut(&Seen) -> bool, status: Status) {
        let is_meant = |(seen, ..): &mut (Seen, TcpStream, Completion)| is_meant(seen);
        for (_, mut stream, completion) in self.withheld.extract_if(.., is_meant) {
            // Nobody hears it who has closed the connection meanwhile.
            let _ = say(
                &mut stream,
                &Completion {
                    status,
                    ..completion
                },
            );
        }
    }

    /// What was seen since the last call.
    pub fn take_seen(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.seen)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        {
            let mut state = self.state();
            state.ended = true;
            state.cut();
        }
        for (address, listening) in self.listening.drain(..) {
            // Wakes the listener.
            let _ = TcpStream::connect(address);
            let ended = listening.join();
            assert!(ended.is_ok() || thread::panicking());
        }
    }
}

fn listen(listener: &TcpListener, state: &Arc<Mutex<State>>, way: Way) {
    let mut served = Vec::new();
    loop {
        let peer = Peer::accept_patiently(listener);
        let mut now = state.lock().unwrap();
        if now.ended {
            break;
        }
        if now.closed {
            continue;
        }
        now.accepted += 1;
        let number = now.accepted;
        now.streams.push((way, number, peer.stream()));
        drop(now);
        let state = Arc::clone(state);
        served.push(thread::spawn(move || serve(peer, &state, way, number)));
    }
    for thread in served {
        thread.join().unwrap();
    }
}

/// One connection, to its end.
fn serve(mut peer: Peer, state: &Mutex<State>, way: Way, number: u64) {
    if peer.initialize_or_end().is_err() {
        return;
    }
    let mut waiting = VecDeque::new();
    let mut connection = None;
    let mut configuration = Configuration(0);
    while let Some((layout, bytes)) = next(&mut peer, &mut waiting) {
        if layout.kind != Kind::Command {
            // A TermReq.
            return;
        }
        let command = pdu::decode_command(&bytes);
        if connection.is_some() && state.lock().unwrap().skips {
            peer.respond(&Completion::new(command.command_id(), Status::SUCCESS));
            continue;
        }
        let mut data = Peer::data(&layout, &bytes).to_vec();
        let wanted = match opcode::direction(command.opcode()) {
            opcode::Direction::HostToController => command.data_pointer().size as usize,
            _ => 0,
        };
        if !fetch(&mut peer, &mut waiting, &command, &mut data, wanted) {
            return;
        }
        let mut state = state.lock().unwrap();
        if state.streams.iter().all(|(_, open, _)| *open != number) {
            return;
        }
        let answer = match connection {
            None => {
                let answer = on_admin(&mut state, &peer, &mut configuration, &command, &data);
                if is_connect(&command) && Connect::decode(&command).queue_id > 0 {
                    connection = Some(state.connections);
                    state.connections += 1;
                }
                answer
            }
            Some(connection) => {
                let answer = on_io(&mut state, way, connection, &command, &data);
                state.unless_withheld(&peer, answer)
            }
        };
        let corrupt = state.corrupt && connection.is_some();
        drop(state);
        if let Some((output, completion)) = answer {
            if !output.is_empty() {
                let mut bytes = peer.data_pdu(command.command_id(), 0, &output, FLAG_LAST);
                if corrupt {
                    *bytes.last_mut().unwrap() ^= 1;
                }
                peer.send(&bytes);
            }
            peer.respond(&completion);
        }
    }
}

type Received = (Layout, Vec<u8>);

/// The next PDU: one that came while data was waited for, or a new one; `None` at the end of the connection.
fn next(peer: &mut Peer, waiting: &mut VecDeque<Received>) -> Option<Received> {
    waiting.pop_front().or_else(|| peer.receive_or_end().ok())
}

fn is_connect(command: &Command) -> bool {
    command.opcode() == opcode::FABRICS && command.fabrics_type() == opcode::fabrics::CONNECT
}

/// Asks for data that did not fit the capsule; whether all of it came.
fn fetch(
    peer: &mut Peer,
    waiting: &mut VecDeque<Received>,
    command: &Command,
    data: &mut Vec<u8>,
    wanted: usize,
) -> bool {
    while data.len() < wanted {
        let size = (wanted - data.len()).min(DATA_SIZE_MAX as usize);
        peer.request(&Transfer {
            command_id: command.command_id(),
            tag: 0,
            offset: data.len() as u32,
            size: size as u32,
        });
        loop {
            match peer.receive_or_end() {
                Ok((layout, bytes)) if layout.kind == Kind::HostData => {
                    data.extend_from_slice(Peer::data(&layout, &bytes));
                    break;
                }
                Ok(other) => waiting.push_back(other),
                Err(_) => return false,
            }
        }
    }
    true
}

type Answer = Option<(Vec<u8>, Completion)>;

fn on_admin(
    state: &mut State,
    peer: &Peer,
    configuration: &mut Configuration,
    command: &Command,
    data: &[u8],
) -> Answer {
    let mut completion = Completion::new(command.command_id(), Status::SUCCESS);
    let mut output = Vec::new();
    match (command.opcode(), command.fabrics_type()) {
        (opcode::FABRICS, opcode::fabrics::CONNECT) => {
            let connect = ConnectData::decode(data).unwrap();
            completion.result = 5;
            if !connect.subsystem_nqn.ends_with(":scripted") {
                completion.status = Status::CONNECT_INVALID_PARAMETERS.do_not_retry();
                completion.result = 0x1_0100;
            } else if state
                .host
                .as_deref()
                .is_some_and(|host| host != connect.host_nqn)
            {
                completion.status = Status::CONNECT_INVALID_HOST.do_not_retry();
            }
        }
        (opcode::FABRICS, opcode::fabrics::PROPERTY_GET) => {
            completion.result = match PropertyAccess::decode(command).offset {
                property::CAPABILITIES => Capabilities {
                    queue_entries_max: 64,
                    contiguous_queues: true,
                    timeout_half_seconds: 10,
                    command_sets: 1,
                    page_size_min: 0,
                    page_size_max: 0,
                    ready_modes: 1,
                }
                .encode(),
                property::CONFIGURATION => configuration.0.into(),
                property::VERSION => VERSION.into(),
                _ => u64::from(
                    ControllerStatus {
                        ready: configuration.is_enabled(),
                        fatal: false,
                        shutdown: match configuration.shutdown() {
                            0 => 0,
                            _ => ControllerStatus::SHUTDOWN_COMPLETE,
                        },
                    }
                    .encode(),
                ),
            };
        }
        (opcode::FABRICS, opcode::fabrics::PROPERTY_SET) => {
            let access = PropertyAccess::decode(command);
            if access.offset == property::CONFIGURATION {
                *configuration = Configuration(access.value as u32);
            }
        }
        (admin::IDENTIFY, _) => {
            let mut page = [0; identify::PAGE_SIZE];
            state.identify(command, &mut page);
            output = page.to_vec();
        }
        (admin::SET_FEATURES, _) if command.feature_id() == feature::NUMBER_OF_QUEUES => {
            let counts = feature::QueueCounts {
                submission: state.queues,
                completion: state.queues,
            };
            completion.result = counts.encode().into();
        }
        (admin::SET_FEATURES, _) => {}
        (admin::GET_LOG_PAGE, _) => output = vec![0; command.log_size() as usize],
        (admin::ASYNC_EVENT_REQUEST, _) => {
            state.event = Some((peer.stream(), command.command_id()));
            return None;
        }
        (admin::KEEP_ALIVE, _) => {
            state.keep_alives += 1;
            if state.mute {
                return None;
            }
        }
        _ => completion.status = Status::INVALID_OPCODE.do_not_retry(),
    }
    Some((output, completion))
}

impl State {
    fn identify(&self, command: &Command, page: &mut identify::Page) {
        match command.identify_structure() {
            structure::CONTROLLER => identify::Controller {
                // 2^3 pages: 32 KiB.
                transfer_size_max: 3,
                command_capsule_size: 64 + 8192,
                async_events: feature::EVENT_NAMESPACE_ATTRIBUTE,
                optional_io: optional_io::DATASET_MANAGEMENT | optional_io::WRITE_ZEROES,
                write_cache: u8::from(self.volatile_cache),
                atomic_write_power_fail: self.atomic_write_power_fail,
                namespace_max: 3,
                version: VERSION,
                sgl_support: self.sgl_support,
                ..Default::default()
            }
            .encode(page),
            structure::COMMAND_SET_CONTROLLER => self.limits.encode(page),
            structure::ACTIVE_NAMESPACES => {
                identify::encode_namespace_list(page, [1, 3], command.nsid());
            }
            structure::NAMESPACE_DESCRIPTORS => self.identity.encode(page),
            structure::NAMESPACE if command.nsid() == 1 => {
                identify::Namespace {
                    size: self.blocks,
                    capacity: self.blocks,
                    block_shift: self.block_shift,
                    ..Default::default()
                }
                .encode(page);
                page[128..130].copy_from_slice(&self.metadata_bytes.to_le_bytes());
            }
            _ => {}
        }
    }
}

fn on_io(state: &mut State, way: Way, connection: usize, command: &Command, data: &[u8]) -> Answer {
    let mut completion = Completion::new(command.command_id(), Status::SUCCESS);
    let (mut lba, mut blocks) = (command.lba(), command.block_count());
    match command.opcode() {
        io::FLUSH => (lba, blocks) = (0, 0),
        io::DATASET_MANAGEMENT => {
            assert!(command.range_count() == 1 && command.is_dataset_deallocate());
            let range = DatasetRange::decode(data);
            (lba, blocks) = (range.lba, range.block_count);
        }
        _ => {}
    }
    let fua = command.opcode() != io::DATASET_MANAGEMENT && command.is_force_unit_access();
    state.seen.push(Seen {
        connection,
        opcode: command.opcode(),
        fua,
        lba,
        blocks,
    });
    let start = lba as usize * BLOCK;
    let range = start..start + blocks as usize * BLOCK;
    let mut output = Vec::new();
    let fails_flush = state.fails_flushes.filter(|(of, _)| *of == way);
    let refuses = state.refuses.filter(|(of, _)| *of == command.opcode());
    let fails = match (command.opcode(), fails_flush, refuses) {
        (_, _, Some((_, status))) | (io::FLUSH, Some((_, status)), _) => Some(status),
        _ => state.fails,
    };
    if let Some(status) = fails {
        completion.status = status;
    } else {
        match command.opcode() {
            io::READ => output = state.memory[range.clone()].to_vec(),
            io::WRITE => state.memory[range.clone()].copy_from_slice(data),
            io::WRITE_ZEROES | io::DATASET_MANAGEMENT => state.memory[range.clone()].fill(0),
            io::FLUSH => state.durable = state.memory.clone(),
            other => panic!("opcode {other:02X}h"),
        }
        if fua {
            let State {
                memory, durable, ..
            } = &mut *state;
            durable[range.clone()].copy_from_slice(&memory[range]);
        }
    }
    (!state.mute).then_some((output, completion))
}
