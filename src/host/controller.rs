//! A controller: its admin queue, what it says of itself, and the I/O queues made on it.

use super::address::Address;
use super::blocking::{BlockingQueue, Outcome, Payload};
use super::connection::{Connection, ConnectionOptions};
use super::error::Error;
use super::queue::{DEPTH_MAX, Queue};
use crate::nvme::command::Command;
use crate::nvme::fabrics::{
    CONTROLLER_ID_DYNAMIC, Capabilities, Configuration, Connect, ConnectData, ControllerStatus,
    PropertyAccess, PropertySize, fabrics_command, property,
};
use crate::nvme::feature::{self, AsyncEvent, QueueCounts};
use crate::nvme::identify::{self, Page, structure};
use crate::nvme::log::{self, DISCOVERY_ENTRY_SIZE, DiscoveryEntry};
use crate::nvme::status::fabrics_name;
use crate::nvme::{DISCOVERY_NQN, opcode};
use std::time::{Duration, Instant};

/// Commands outstanding on the admin queue: identify and the like one at a time, a keep alive, and a few
/// event requests.
const ADMIN_DEPTH: usize = 16;

/// In-capsule data that every controller takes on its admin queue, in bytes (NVMe/TCP Transport 1.0, 3.3.1).
const ADMIN_CAPSULE_DATA_SIZE: u32 = 8192;

/// The most log page that is read with one command, in bytes: below any limit a controller may set.
const LOG_CHUNK_SIZE: u32 = 4096;

/// The most entries of a discovery log page that are read; a page that claims more is cut.
const DISCOVERY_ENTRIES_MAX: u64 = 1024;

/// How often a discovery log page is read anew because it changed while it was read.
const DISCOVERY_ATTEMPTS_MAX: usize = 5;

/// Who this host says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostIdentity {
    /// Host NQN.
    pub nqn: String,
    /// Host identifier; not zero.
    pub id: [u8; 16],
}

impl HostIdentity {
    /// An identity of this process alone.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the kernel gives no UUID.
    pub fn random() -> Result<Self, Error> {
        const SOURCE: &str = "/proc/sys/kernel/random/uuid";
        let text =
            std::fs::read_to_string(SOURCE).map_err(Error::io(format!("reading {SOURCE}")))?;
        let uuid = text.trim();
        let digits: String = uuid.chars().filter(|&c| c != '-').collect();
        let number = u128::from_str_radix(&digits, 16)
            .map_err(|_| Error::Address(format!("{SOURCE} holds no UUID: \"{uuid}\"")))?;
        Ok(Self {
            nqn: format!("nqn.2014-08.org.nvmexpress:uuid:{uuid}"),
            id: number.to_be_bytes(),
        })
    }
}

/// How to connect to a controller.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// Who connects.
    pub identity: HostIdentity,
    /// Digests, alignment, timeout.
    pub connection: ConnectionOptions,
    /// Keep alive timeout in milliseconds; 0 for none.
    pub keep_alive_ms: u32,
    /// Asks that submission queue flow control be off, which lets the controller spare the response to
    /// a read (NVMe/TCP Transport 1.0, 3.3.2.1).
    pub no_flow_control: bool,
}

impl HostOptions {
    /// Options for this identity: no digests, 5 s for everything, keep alive after 15 s, no flow control.
    pub fn new(identity: HostIdentity) -> Self {
        Self {
            identity,
            connection: ConnectionOptions::default(),
            keep_alive_ms: 15_000,
            no_flow_control: true,
        }
    }
}

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
    keep_alive: Option<u16>,
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
    /// As [`Queue::poll`]; [`Error::Status`] when a request failed.
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

    /// Sends a Keep Alive when it is due, without waiting for its answer. To be called now and then.
    ///
    /// # Errors
    ///
    /// As [`Queue::poll`]; [`Error::Status`] when the controller refused.
    pub fn tend(&mut self) -> Result<(), Error> {
        self.admin.poll()?;
        if let Some(command_id) = self.keep_alive {
            match self.admin.take(command_id) {
                Some(outcome) => {
                    self.keep_alive = None;
                    succeed("Keep Alive", outcome)?;
                }
                None => return Ok(()),
            }
        }
        if self.keep_alive_due.is_some_and(|due| Instant::now() >= due) {
            let command = Command::new(opcode::admin::KEEP_ALIVE, 0);
            self.keep_alive = Some(self.admin.start(command, Payload::None)?);
            self.schedule_keep_alive();
            self.admin.poll()?;
        }
        Ok(())
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

/// The entries of a discovery service, read until its generation counter holds still.
///
/// # Errors
///
/// Any [`Error`].
pub fn discover(address: &Address, options: &HostOptions) -> Result<Vec<DiscoveryEntry>, Error> {
    let address = Address {
        nqn: DISCOVERY_NQN.to_owned(),
        nsid: None,
        ..address.clone()
    };
    let options = HostOptions {
        keep_alive_ms: 0,
        ..options.clone()
    };
    let mut controller = Controller::connect(&address, &options)?;
    for _ in 0..DISCOVERY_ATTEMPTS_MAX {
        let header = controller.log_page(log::page::DISCOVERY, 0, DISCOVERY_ENTRY_SIZE as u32)?;
        let (generation, count) = log::decode_discovery_header(&header);
        let size = (count.min(DISCOVERY_ENTRIES_MAX) as u32 + 1) * DISCOVERY_ENTRY_SIZE as u32;
        let bytes = controller.log_page(log::page::DISCOVERY, 0, size)?;
        let header = controller.log_page(log::page::DISCOVERY, 0, DISCOVERY_ENTRY_SIZE as u32)?;
        if log::decode_discovery_header(&header).0 == generation {
            let entries = bytes[DISCOVERY_ENTRY_SIZE..].chunks_exact(DISCOVERY_ENTRY_SIZE);
            return Ok(entries.map(DiscoveryEntry::decode).collect());
        }
    }
    Err(Error::Unsupported(format!(
        "the discovery log page changed {DISCOVERY_ATTEMPTS_MAX} times while it was read"
    )))
}

/// Opens a connection and connects a queue on it; the queue and the controller's identifier.
fn connect_queue(
    address: &Address,
    options: &HostOptions,
    request: Connect,
    controller_id: u16,
    depth: usize,
) -> Result<(BlockingQueue, u16), Error> {
    let timeout = options.connection.timeout;
    let connection = Connection::open(&address.resolve()?, timeout)?;
    let (stream, negotiated) = connection.initialize(&options.connection)?;
    let queue = Queue::new(stream, negotiated, depth, ADMIN_CAPSULE_DATA_SIZE);
    let mut queue = BlockingQueue::new(queue, timeout);
    let data = ConnectData {
        host_id: options.identity.id,
        controller_id,
        subsystem_nqn: &address.nqn,
        host_nqn: &options.identity.nqn,
    }
    .encode();
    let outcome = queue.run(request.encode(), Payload::Write(&data))?;
    let what = format!(
        "Connect of queue {} to \"{}\"",
        request.queue_id, address.nqn
    );
    let outcome = succeed_fabrics(&what, outcome)?;
    if outcome.completion.result >> 16 & 0xFFFF != 0 {
        return Err(Error::Unsupported(format!(
            "\"{}\" requires authentication, which this host does not do",
            address.nqn
        )));
    }
    Ok((queue, outcome.completion.result as u16))
}

/// Enables the controller (NVMe Base 2.0, 3.5.2); its capabilities.
fn enable(admin: &mut BlockingQueue) -> Result<Capabilities, Error> {
    let bits = property_get(admin, property::CAPABILITIES, PropertySize::Eight)?;
    let capabilities = Capabilities::decode(bits);
    if capabilities.queue_entries_max < 2 {
        return Err(Error::Unsupported(
            "the controller's queues have fewer than two entries".into(),
        ));
    }
    let value = u64::from(Configuration::ENABLE.0);
    property_set(admin, property::CONFIGURATION, PropertySize::Four, value)?;
    await_status(admin, "enabling the controller", |status| status.ready)?;
    Ok(capabilities)
}

/// Reads CSTS until it is as wanted.
fn await_status(
    admin: &mut BlockingQueue,
    what: &str,
    wanted: impl Fn(ControllerStatus) -> bool,
) -> Result<(), Error> {
    let after = admin.timeout();
    let deadline = Instant::now() + after;
    loop {
        let bits = property_get(admin, property::STATUS, PropertySize::Four)?;
        let status = ControllerStatus::decode(bits as u32);
        if wanted(status) {
            return Ok(());
        }
        if status.fatal {
            return Err(Error::Unsupported(format!(
                "{what}: the controller reports a fatal status"
            )));
        }
        if Instant::now() >= deadline {
            return Err(Error::Timeout {
                what: what.to_owned(),
                after,
            });
        }
        // There is no event for this change; a millisecond keeps the wait from being a busy one.
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn property_get(admin: &mut BlockingQueue, offset: u32, size: PropertySize) -> Result<u64, Error> {
    let outcome = admin.run(PropertyAccess::get(offset, size), Payload::None)?;
    Ok(
        succeed_fabrics(&format!("Property Get ({offset:02X}h)"), outcome)?
            .completion
            .result,
    )
}

fn property_set(
    admin: &mut BlockingQueue,
    offset: u32,
    size: PropertySize,
    value: u64,
) -> Result<(), Error> {
    let outcome = admin.run(PropertyAccess::set(offset, size, value), Payload::None)?;
    succeed_fabrics(&format!("Property Set ({offset:02X}h)"), outcome).map(|_| ())
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

fn succeed(what: &str, outcome: Outcome) -> Result<Outcome, Error> {
    if outcome.completion.status.is_success() {
        return Ok(outcome);
    }
    let status = outcome.completion.status;
    Err(Error::Status {
        what: what.to_owned(),
        status,
        result: outcome.completion.result,
    })
}

/// As [`succeed`], with the names of fabrics statuses.
fn succeed_fabrics(what: &str, outcome: Outcome) -> Result<Outcome, Error> {
    let status = outcome.completion.status;
    match fabrics_name(status) {
        Some(name) if !status.is_success() => succeed(&format!("{what} ({name})"), outcome),
        _ => succeed(what, outcome),
    }
}
