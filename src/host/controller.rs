//! A controller: its admin queue, what it says of itself, and the I/O queues made on it.

use super::address::Address;
use super::blocking::{BlockingQueue, Payload};
use super::error::Error;
use super::identity::HostOptions;
use super::queue::DEPTH_MAX;
use super::setup::{
    await_status, connect_queue, enable, property_get, property_set, succeed, succeed_fabrics,
};
use crate::nvme::command::Command;
use crate::nvme::fabrics::{
    CONTROLLER_ID_DYNAMIC, Capabilities, Configuration, Connect, ControllerStatus, PropertySize,
    fabrics_command, property,
};
use crate::nvme::feature::{self, AsyncEvent, QueueCounts};
use crate::nvme::identify::{self, Page, structure};
use crate::nvme::opcode;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// Commands outstanding on the admin queue: identify and the like one at a time, a keep alive, and a few
/// event requests.
const ADMIN_DEPTH: usize = 16;

/// The most log page that is read with one command, in bytes: below any limit a controller may set.
const LOG_CHUNK_SIZE: u32 = 4096;

/// A connected, enabled controller.
#[derive(Debug)]
pub struct Controller {
    admin: BlockingQueue,
    address: Address,
    options: HostOptions,
    controller_id: u16,
    capabilities: Capabilities,
    identity: identify::Controller,
    keep_alive_due: Option<Instant>,
    /// The Keep Alive under way, and when it was sent.
    keep_alive: Option<(u16, Instant)>,
    events: Vec<u16>,
}

impl Controller {
    /// Connects the admin queue, enables the controller and identifies it.
    ///
    /// # Errors
    ///
    /// Any [`Error`].
    pub fn connect(address: &Address, options: &HostOptions) -> Result<Self, Error> {
        let request = Connect {
            record_format: 0,
            queue_id: 0,
            // At least 32 entries on an admin queue of fabrics (NVMe Base 2.0, 6.3).
            queue_size: 31,
            attributes: 0,
            keep_alive_ms: options.keep_alive_ms,
        };
        let (mut admin, controller_id) = connect_queue(
            address,
            options,
            request,
            CONTROLLER_ID_DYNAMIC,
            ADMIN_DEPTH,
        )?;
        let capabilities = enable(&mut admin)?;
        let command = Command::identify(structure::CONTROLLER, 0);
        let page = identify_page(&mut admin, "Identify Controller", command)?;
        let mut controller = Self {
            admin,
            address: address.clone(),
            options: options.clone(),
            controller_id,
            capabilities,
            identity: identify::Controller::decode(&page),
            keep_alive_due: None,
            keep_alive: None,
            events: Vec::new(),
        };
        controller.schedule_keep_alive();
        Ok(controller)
    }

    /// CNTLID.
    pub fn controller_id(&self) -> u16 {
        self.controller_id
    }

    /// CAP.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// What Identify Controller said.
    pub fn identity(&self) -> &identify::Controller {
        &self.identity
    }

    /// The admin queue, for any command.
    pub fn admin(&mut self) -> &mut BlockingQueue {
        &mut self.admin
    }

    /// Largest transfer in bytes; `None` when there is no limit.
    pub fn transfer_size_max(&self) -> Option<u64> {
        let pages = self.identity.transfer_size_max;
        (pages != 0)
            .then(|| {
                1u64.checked_shl(12 + u32::from(self.capabilities.page_size_min) + u32::from(pages))
            })
            .flatten()
    }

    /// An Identify of any structure.
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::expect`].
    pub fn identify(&mut self, cns: u8, nsid: u32) -> Result<Box<Page>, Error> {
        let what = format!("Identify (CNS {cns:02X}h, NSID {nsid})");
        identify_page(&mut self.admin, &what, Command::identify(cns, nsid))
    }

    /// Identifiers of the active namespaces, at most 1,024.
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::expect`].
    pub fn namespaces(&mut self) -> Result<Vec<u32>, Error> {
        let page = self.identify(structure::ACTIVE_NAMESPACES, 0)?;
        Ok(identify::decode_namespace_list(&page).collect())
    }

    /// Identify Namespace.
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::expect`]; [`Error::Unsupported`] when the namespace is not active or its block
    /// size is none that a host can use.
    pub fn namespace(&mut self, nsid: u32) -> Result<identify::Namespace, Error> {
        let page = self.identify(structure::NAMESPACE, nsid)?;
        let namespace = identify::Namespace::decode(&page);
        if namespace.size == 0 {
            return Err(Error::Unsupported(format!(
                "namespace {nsid} is not active"
            )));
        }
        if !(9..=16).contains(&namespace.block_shift) {
            return Err(Error::Unsupported(format!(
                "namespace {nsid} has blocks of 2^{} bytes; 2^9 to 2^16 are supported",
                namespace.block_shift
            )));
        }
        Ok(namespace)
    }

    /// A log page of `size` bytes (a multiple of 4), read in pieces.
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::expect`].
    pub fn log_page(&mut self, log_id: u8, nsid: u32, size: u32) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::with_capacity(size as usize);
        while (bytes.len() as u32) < size {
            let offset = bytes.len() as u64;
            bytes.extend(self.log_piece(log_id, nsid, offset, size - offset as u32)?);
        }
        Ok(bytes)
    }

    /// At most [`LOG_CHUNK_SIZE`] bytes of a log page.
    fn log_piece(
        &mut self,
        log_id: u8,
        nsid: u32,
        offset: u64,
        size: u32,
    ) -> Result<Vec<u8>, Error> {
        let size = size.min(LOG_CHUNK_SIZE);
        let command = Command::get_log_page(nsid, log_id, size, offset);
        let what = format!("Get Log Page ({log_id:02X}h)");
        Ok(self.admin.expect(&what, command, Payload::Read(size))?.data)
    }

    /// Get Features (current value): completion dword 0.
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::expect`].
    pub fn get_feature(&mut self, feature: u8, nsid: u32) -> Result<u32, Error> {
        let mut command = Command::new(opcode::admin::GET_FEATURES, nsid);
        command.set_dword(10, u32::from(feature));
        let what = format!("Get Features ({feature:02X}h)");
        Ok(self
            .admin
            .expect(&what, command, Payload::None)?
            .completion
            .result as u32)
    }

    /// Set Features without data: completion dword 0.
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::expect`].
    pub fn set_feature(&mut self, feature: u8, nsid: u32, value: u32) -> Result<u32, Error> {
        let mut command = Command::new(opcode::admin::SET_FEATURES, nsid);
        command.set_dword(10, u32::from(feature));
        command.set_dword(11, value);
        let what = format!("Set Features ({feature:02X}h)");
        Ok(self
            .admin
            .expect(&what, command, Payload::None)?
            .completion
            .result as u32)
    }

    /// Asks for `count` I/O queues; how many there may be, which can be fewer.
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::expect`].
    pub fn set_queue_count(&mut self, count: u32) -> Result<u32, Error> {
        let counts = QueueCounts {
            submission: count,
            completion: count,
        };
        let granted = self.set_feature(feature::NUMBER_OF_QUEUES, 0, counts.encode())?;
        let granted = QueueCounts::decode(granted);
        Ok(granted.submission.min(granted.completion).min(count))
    }

    /// The deepest I/O queue that this controller and this host have: one command less than entries.
    pub fn depth_max(&self) -> usize {
        let entries = self.capabilities.queue_entries_max as usize - 1;
        let commands = match self.identity.outstanding_max {
            0 => entries,
            limit => usize::from(limit),
        };
        entries.min(commands).min(DEPTH_MAX)
    }

    /// Connects I/O queue `queue_id` (from 1), for `depth` commands.
    ///
    /// # Errors
    ///
    /// Any [`Error`]; [`Error::Unsupported`] when the controller has no queue that deep.
    pub fn connect_io_queue(&self, queue_id: u16, depth: usize) -> Result<BlockingQueue, Error> {
        let depth_max = self.depth_max();
        if !(1..=depth_max).contains(&depth) {
            return Err(Error::Unsupported(format!(
                "a queue depth of {depth}: this controller takes 1 to {depth_max}"
            )));
        }
        let no_flow_control = self.options.no_flow_control;
        let request = Connect {
            record_format: 0,
            queue_id,
            // 0's based, and one entry more than commands: a full ring could not be told from an empty one.
            queue_size: depth as u16,
            attributes: if no_flow_control {
                Connect::ATTRIBUTE_NO_FLOW_CONTROL
            } else {
                0
            },
            keep_alive_ms: 0,
        };
        let (mut queue, _) = connect_queue(
            &self.address,
            &self.options,
            request,
            self.controller_id,
            depth,
        )?;
        let capsule_data_size_max = self.identity.command_capsule_size.saturating_sub(64);
        queue
            .queue_mut()
            .set_capsule_data_size_max(capsule_data_size_max);
        Ok(queue)
    }

    /// Connects `count` I/O queues of `depth` commands.
    ///
    /// # Errors
    ///
    /// Any [`Error`]; [`Error::Unsupported`] when the controller grants fewer.
    pub fn connect_io_queues(
        &mut self,
        count: u16,
        depth: usize,
    ) -> Result<Vec<BlockingQueue>, Error> {
        let granted = self.set_queue_count(u32::from(count))?;
        if granted < u32::from(count) {
            return Err(Error::Unsupported(format!(
                "{count} I/O queues: the controller grants {granted}"
            )));
        }
        (1..=count)
            .map(|queue_id| self.connect_io_queue(queue_id, depth))
            .collect()
    }

    /// Starts an Asynchronous Event Request; see [`Controller::poll_event`].
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::start`].
    pub fn arm_event(&mut self) -> Result<(), Error> {
        let command = Command::new(opcode::admin::ASYNC_EVENT_REQUEST, 0);
        let command_id = self.admin.start(command, Payload::None)?;
        self.events.push(command_id);
        self.admin.poll()
    }

    /// The next event, waiting for at most `timeout`. Each armed request brings one event.
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::poll`]; [`Error::Status`] when a request failed.
    pub fn wait_event(&mut self, timeout: Duration) -> Result<Option<AsyncEvent>, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(event) = self.poll_event()? {
                return Ok(Some(event));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            let unsent = self.admin.queue_mut().has_unsent();
            super::connection::wait(self.admin.queue_mut().stream(), unsent, deadline);
        }
    }

    /// The next event, without waiting.
    ///
    /// # Errors
    ///
    /// As [`Controller::wait_event`].
    pub fn poll_event(&mut self) -> Result<Option<AsyncEvent>, Error> {
        self.admin.poll()?;
        for index in 0..self.events.len() {
            if let Some(outcome) = self.admin.take(self.events[index]) {
                self.events.swap_remove(index);
                let outcome = succeed("Asynchronous Event Request", outcome)?;
                return Ok(Some(AsyncEvent::decode(outcome.completion.result as u32)));
            }
        }
        Ok(None)
    }

    /// From now on each step has this long, and all of them no deadline: that of the options was for connecting.
    pub fn lift_deadline(&mut self, timeout: Duration) {
        self.options.connection.timeout = timeout;
        self.options.connection.deadline = None;
        self.admin.set_limits(timeout, None);
    }

    /// Sends a Keep Alive when it is due, without waiting for its answer. To be called now and then.
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::poll`]; [`Error::Status`] when the controller refused, [`Error::Timeout`] when it has not answered for as long as it
    /// would wait for one itself.
    pub fn tend(&mut self) -> Result<(), Error> {
        self.admin.poll()?;
        let timeout = Duration::from_millis(self.options.keep_alive_ms.into());
        if let Some((command_id, sent)) = self.keep_alive {
            match self.admin.take(command_id) {
                Some(outcome) => {
                    self.keep_alive = None;
                    succeed("Keep Alive", outcome)?;
                }
                None if sent.elapsed() >= timeout => {
                    return Err(Error::Timeout {
                        what: "Keep Alive".into(),
                        after: timeout,
                    });
                }
                None => return Ok(()),
            }
        }
        let now = Instant::now();
        if self.keep_alive_due.is_some_and(|due| now >= due) {
            let command = Command::new(opcode::admin::KEEP_ALIVE, 0);
            self.keep_alive = Some((self.admin.start(command, Payload::None)?, now));
            self.schedule_keep_alive();
            self.admin.poll()?;
        }
        Ok(())
    }

    /// Sleeps until the controller has said something, `other` can be read, `until` has come, or [`Controller::tend`] has something to do.
    pub fn sleep(&mut self, other: BorrowedFd<'_>, until: Instant) {
        let timeout = Duration::from_millis(self.options.keep_alive_ms.into());
        let due = match self.keep_alive {
            Some((_, sent)) => Some(sent + timeout),
            None => self.keep_alive_due,
        };
        let until = due.map_or(until, |due| due.min(until));
        let queue = self.admin.queue_mut();
        let unsent = queue.has_unsent();
        super::connection::wait_either(queue.stream(), unsent, Some(other), until);
    }

    /// A third of the timeout leaves room for two attempts.
    fn schedule_keep_alive(&mut self) {
        let period = Duration::from_millis(u64::from(self.options.keep_alive_ms / 3));
        self.keep_alive_due = (!period.is_zero()).then(|| Instant::now() + period);
    }

    /// Reads a property.
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::expect`].
    pub fn property(&mut self, offset: u32, size: PropertySize) -> Result<u64, Error> {
        property_get(&mut self.admin, offset, size)
    }

    /// Writes a property.
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::expect`].
    pub fn set_property(
        &mut self,
        offset: u32,
        size: PropertySize,
        value: u64,
    ) -> Result<(), Error> {
        property_set(&mut self.admin, offset, size, value)
    }

    /// Shuts the controller down (CC.SHN = 01b) and waits until it is.
    ///
    /// # Errors
    ///
    /// As [`BlockingQueue::expect`], and [`Error::Timeout`].
    pub fn shutdown(mut self) -> Result<(), Error> {
        let value = Configuration::ENABLE.with_shutdown(1).0;
        self.set_property(
            property::CONFIGURATION,
            PropertySize::Four,
            u64::from(value),
        )?;
        await_status(&mut self.admin, "shutting the controller down", |status| {
            status.shutdown == ControllerStatus::SHUTDOWN_COMPLETE
        })
    }
}

/// Disconnects an I/O queue (NVMe Base 2.0, 6.4).
///
/// # Errors
///
/// As [`BlockingQueue::expect`]; the controller closes the connection after its response.
pub fn disconnect(mut queue: BlockingQueue) -> Result<(), Error> {
    let outcome = queue.run(fabrics_command(opcode::fabrics::DISCONNECT), Payload::None)?;
    succeed_fabrics("Disconnect", outcome).map(|_| ())
}

fn identify_page(
    admin: &mut BlockingQueue,
    what: &str,
    command: Command,
) -> Result<Box<Page>, Error> {
    let outcome = admin.expect(what, command, Payload::Read(identify::PAGE_SIZE as u32))?;
    outcome
        .data
        .into_boxed_slice()
        .try_into()
        .map_err(|_| Error::Unsupported(format!("{what}: short page")))
}

#[cfg(test)]
mod tests {
    use super::super::discovery::discover;
    use super::super::identity::HostIdentity;
    use super::super::peer::{self, PATIENCE, Peer};
    use super::*;
    use crate::nvme::command::Completion;
    use crate::nvme::fabrics::{CONNECT_DATA_SIZE, ConnectData, PropertyAccess};
    use crate::nvme::log::{self, DISCOVERY_ENTRY_SIZE, DiscoveryEntry};
    use crate::nvme::pdu::FLAG_LAST;
    use crate::nvme::status::Status;

    fn options() -> HostOptions {
        let identity = HostIdentity {
            nqn: "nqn.2026-11.io.polldm:host".into(),
            id: [7; 16],
        };
        let mut options = HostOptions::new(identity);
        options.connection.timeout = PATIENCE;
        options
    }

    /// What a scripted controller remembers between commands.
    #[derive(Default)]
    struct State {
        configuration: u32,
        /// Generation counters that successive reads of the discovery log's header show.
        generations: Vec<u64>,
        keep_alives: usize,
    }

    /// Answers one command the way a small but correct controller would.
    fn answer(command: &Command, data: &[u8], state: &mut State) -> (Vec<u8>, Completion) {
        let mut completion = Completion::new(command.command_id(), Status::SUCCESS);
        let mut page = [0; identify::PAGE_SIZE];
        let mut output = Vec::new();
        match (command.opcode(), command.fabrics_type()) {
            (opcode::FABRICS, opcode::fabrics::CONNECT) => {
                assert_eq!(data.len(), CONNECT_DATA_SIZE);
                let connect = ConnectData::decode(data).unwrap();
                let queue_id = Connect::decode(command).queue_id;
                assert_eq!(connect.host_id, [7; 16]);
                assert_eq!(
                    connect.controller_id,
                    if queue_id == 0 {
                        CONTROLLER_ID_DYNAMIC
                    } else {
                        5
                    }
                );
                completion.result = 5;
                if connect.subsystem_nqn.ends_with("unknown") {
                    completion.status = Status::CONNECT_INVALID_PARAMETERS.do_not_retry();
                    completion.result = 0x1_0100;
                }
            }
            (opcode::FABRICS, opcode::fabrics::PROPERTY_GET) => {
                let capabilities = Capabilities {
                    queue_entries_max: 128,
                    contiguous_queues: true,
                    timeout_half_seconds: 10,
                    command_sets: 1,
                    page_size_min: 0,
                    page_size_max: 0,
                    ready_modes: 1,
                };
                let configuration = Configuration(state.configuration);
                let status = ControllerStatus {
                    ready: configuration.is_enabled(),
                    fatal: false,
                    shutdown: if configuration.shutdown() == 0 { 0 } else { 2 },
                };
                completion.result = match PropertyAccess::decode(command).offset {
                    property::CAPABILITIES => capabilities.encode(),
                    property::STATUS => u64::from(status.encode()),
                    other => panic!("property {other:X}h"),
                };
            }
            (opcode::FABRICS, opcode::fabrics::PROPERTY_SET) => {
                state.configuration = PropertyAccess::decode(command).value as u32;
            }
            (opcode::admin::IDENTIFY, _) => {
                match command.identify_structure() {
                    structure::CONTROLLER => identify::Controller {
                        transfer_size_max: 5,
                        command_capsule_size: 64 + 4096,
                        ..Default::default()
                    }
                    .encode(&mut page),
                    structure::ACTIVE_NAMESPACES => {
                        identify::encode_namespace_list(&mut page, [1, 3], command.nsid());
                    }
                    structure::NAMESPACE if command.nsid() == 1 => {
                        identify::Namespace {
                            size: 99,
                            block_shift: 12,
                            ..Default::default()
                        }
                        .encode(&mut page);
                    }
                    _ => {}
                }
                output = page.to_vec();
            }
            (opcode::admin::SET_FEATURES, _) => completion.result = 0x0003_0003,
            (opcode::admin::GET_LOG_PAGE, _) => {
                let mut log = vec![0; 3 * DISCOVERY_ENTRY_SIZE];
                if command.log_offset() == 0 && command.log_size() == 1024 {
                    log::encode_discovery_header(&mut log, state.generations.remove(0), 2);
                }
                for port in 0..2 {
                    DiscoveryEntry {
                        transport: log::TRANSPORT_TCP,
                        address_family: log::address_family::IPV4,
                        subtype: log::discovery_subtype::NVM,
                        requirements: 0,
                        port_id: port,
                        controller_id: 0xFFFF,
                        admin_queue_size: 32,
                        flags: 0,
                        service: "4420".into(),
                        subsystem_nqn: format!("nqn.{port}"),
                        address: "127.0.0.1".into(),
                    }
                    .encode(&mut log[(usize::from(port) + 1) * DISCOVERY_ENTRY_SIZE..]);
                }
                let start = command.log_offset() as usize;
                output = log[start..start + command.log_size() as usize].to_vec();
            }
            (opcode::admin::KEEP_ALIVE, _) => state.keep_alives += 1,
            other => panic!("{other:?}"),
        }
        (output, completion)
    }

    /// Serves `count` commands on a connection.
    fn serve_commands(peer: &mut Peer, count: usize, state: &mut State) {
        for _ in 0..count {
            let (command, data) = peer.receive_command();
            let (output, completion) = answer(&command, &data, state);
            if !output.is_empty() {
                let bytes = peer.data_pdu(command.command_id(), 0, &output, FLAG_LAST);
                peer.send(&bytes);
            }
            peer.respond(&completion);
        }
    }

    /// Connect, CAP, CC, CSTS, Identify.
    const COMMANDS_OF_CONNECT: usize = 5;

    #[test]
    fn a_controller_is_enabled_identified_and_gets_queues() {
        let (address, script) = peer::serve(|listener| {
            let mut state = State::default();
            let mut admin = Peer::accept(listener);
            admin.initialize();
            serve_commands(&mut admin, COMMANDS_OF_CONNECT + 4, &mut state);
            for _ in 0..2 {
                let mut io = Peer::accept(listener);
                io.initialize();
                serve_commands(&mut io, 1, &mut state);
            }
            serve_commands(&mut admin, 2, &mut state);
            state
        });
        let mut controller = Controller::connect(&peer::subsystem(address), &options()).unwrap();
        assert_eq!(controller.controller_id(), 5);
        assert_eq!(controller.transfer_size_max(), Some(128 << 10));
        assert_eq!(controller.depth_max(), 127);
        assert_eq!(controller.namespaces().unwrap(), [1, 3]);
        let namespace = controller.namespace(1).unwrap();
        assert_eq!((namespace.size, namespace.block_shift), (99, 12));
        assert!(matches!(
            controller.namespace(2),
            Err(Error::Unsupported(_))
        ));
        let queues = controller.connect_io_queues(2, 64).unwrap();
        assert_eq!(queues.len(), 2);
        assert!(matches!(
            controller.connect_io_queue(3, 500),
            Err(Error::Unsupported(_))
        ));
        controller.shutdown().unwrap();
        assert_eq!(
            Configuration(script.join().unwrap().configuration).shutdown(),
            1
        );
    }

    #[test]
    fn a_refused_connect_tells_the_name_of_its_status() {
        let (address, script) = peer::listen(|mut peer| {
            peer.initialize();
            serve_commands(&mut peer, 1, &mut State::default());
            peer
        });
        let address = Address::new(address, "nqn.unknown");
        let error = Controller::connect(&address, &options())
            .unwrap_err()
            .to_string();
        assert!(error.contains("connect invalid parameters"), "{error}");
        assert!(error.contains("result 10100h"), "{error}");
        drop(script.join().unwrap());
    }

    /// A log that changed between its two header reads is read again.
    #[test]
    fn discovery_waits_for_a_stable_generation() {
        let (address, script) = peer::listen(|mut peer| {
            let mut state = State {
                generations: vec![1, 2, 2, 2],
                ..State::default()
            };
            peer.initialize();
            serve_commands(&mut peer, COMMANDS_OF_CONNECT + 6, &mut state);
            state
        });
        let entries = discover(&peer::subsystem(address), &options()).unwrap();
        let nqns: Vec<&str> = entries
            .iter()
            .map(|entry| entry.subsystem_nqn.as_str())
            .collect();
        assert_eq!(nqns, ["nqn.0", "nqn.1"]);
        assert!(script.join().unwrap().generations.is_empty());
    }

    /// A Keep Alive is due when a third of the timeout has passed, goes out then, and not before its predecessor ended.
    #[test]
    fn keep_alive_is_sent_when_due() {
        let (address, script) = peer::listen(|mut peer| {
            let mut state = State::default();
            peer.initialize();
            serve_commands(&mut peer, COMMANDS_OF_CONNECT + 2, &mut state);
            state
        });
        const HOUR: Duration = Duration::from_secs(3600);
        let begun = Instant::now();
        let mut controller = Controller::connect(
            &peer::subsystem(address),
            &HostOptions {
                keep_alive_ms: 3 * HOUR.as_millis() as u32,
                ..options()
            },
        )
        .unwrap();
        for _ in 0..2 {
            let due = controller.keep_alive_due.unwrap();
            assert!(due >= begun + HOUR && due <= Instant::now() + HOUR);
            controller.tend().unwrap();
            assert!(controller.keep_alive.is_none(), "it is not due");
            // An hour passes.
            controller.keep_alive_due = Some(Instant::now());
            controller.tend().unwrap();
            assert!(controller.keep_alive.is_some());
            let deadline = Instant::now() + PATIENCE;
            // The script ends with its last answer; what fails after that is its absence.
            while controller.keep_alive.is_some() && controller.tend().is_ok() {
                assert!(Instant::now() < deadline, "it is answered");
            }
        }
        assert_eq!(script.join().unwrap().keep_alives, 2);
    }
}
