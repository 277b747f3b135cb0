//! A controller, as its admin queue keeps it: properties, keep alive, events, features, error log (NVMe Base 2.0, 3.1).
//!
//! It belongs to the connection of the admin queue and ends with it (dynamic controller model). What I/O queues on other cores have to know
//! of it is in [`super::target`].

use std::collections::{BTreeSet, VecDeque};

use crate::nvme::Status;
use crate::nvme::fabrics::{Capabilities, Configuration, ControllerStatus};
use crate::nvme::feature::AsyncEvent;
use crate::nvme::log::ErrorEntry;

use super::session::QUEUE_ENTRIES_MAX;
use super::target::DISCOVERY;
use super::target::SubsystemId;

/// Asynchronous event requests that may be outstanding (AERL is this minus one).
pub const ASYNC_EVENTS_MAX: usize = 4;

/// Aborts that may wait for another core at a time (ACL is this minus one).
pub const ABORTS_MAX: usize = 4;

/// Entries of the error log (ELPE is this minus one).
pub const ERROR_ENTRIES_MAX: usize = 64;

/// How long a discovery controller without a keep alive timer may be silent, in milliseconds (NVMe Base 2.0, 3.1.2.3.1 allows two minutes).
const DISCOVERY_IDLE_MS: u32 = 120_000;

/// What is added to the keep alive timeout before it counts as expired: the granularity of the timers on either side.
const KEEP_ALIVE_GRACE_MS: u32 = 1_000;

/// The longest that a change of CC.EN takes: it takes effect at once, but its I/O queues end on other cores.
const READY_TIMEOUT_HALF_SECONDS: u8 = 20;

/// The property CAP (NVMe Base 2.0, 3.1.3.1).
pub const CAPABILITIES: Capabilities = Capabilities {
    queue_entries_max: QUEUE_ENTRIES_MAX,
    contiguous_queues: true,
    timeout_half_seconds: READY_TIMEOUT_HALF_SECONDS,
    command_sets: Capabilities::COMMAND_SET_NVM | Capabilities::COMMAND_SET_BY_IDENTIFY,
    page_size_min: 0,
    page_size_max: 0,
    ready_modes: 1,
};

/// Events that can be reported, as bits of [`Events`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A namespace came, went or changed.
    Namespace,
    /// The ANA state changed.
    Ana,
    /// The discovery log page changed.
    Discovery,
}

impl Event {
    const ALL: [Event; 3] = [Event::Namespace, Event::Ana, Event::Discovery];

    fn bit(self) -> u8 {
        1 << self as u8
    }

    /// Its bit in the asynchronous event configuration.
    fn enable(self) -> u32 {
        match self {
            Event::Namespace => crate::nvme::feature::EVENT_NAMESPACE_ATTRIBUTE,
            Event::Ana => crate::nvme::feature::EVENT_ANA_CHANGE,
            Event::Discovery => crate::nvme::feature::EVENT_DISCOVERY_CHANGE,
        }
    }

    /// What the host is told.
    pub fn notice(self) -> AsyncEvent {
        match self {
            Event::Namespace => AsyncEvent::NAMESPACE_ATTRIBUTE,
            Event::Ana => AsyncEvent::ANA_CHANGE,
            Event::Discovery => AsyncEvent::DISCOVERY_CHANGE,
        }
    }
}

/// Asynchronous events (NVMe Base 2.0, 5.2).
#[derive(Debug, Default)]
pub struct Events {
    /// Asynchronous event configuration (feature 0Bh).
    pub configuration: u32,
    /// Requests without an event, by slot.
    pub requests: VecDeque<u16>,
    pending: u8,
    /// Reported, and not reported again until the host has read the log page.
    masked: u8,
}

impl Events {
    /// Something happened. It is reported when the host wants to know and has read of the last one.
    pub fn raise(&mut self, event: Event) {
        if self.configuration & event.enable() != 0 {
            self.pending |= event.bit();
        }
    }

    /// The host has read the log page of this event, and with it all that has happened so far.
    pub fn acknowledge(&mut self, event: Event) {
        self.masked &= !event.bit();
        self.pending &= !event.bit();
    }

    /// The next event to report, and the request to report it by.
    pub fn next(&mut self) -> Option<(u16, Event)> {
        let ready = self.pending & !self.masked;
        let event = Event::ALL
            .into_iter()
            .find(|event| ready & event.bit() != 0)?;
        let slot = self.requests.pop_front()?;
        self.pending &= !event.bit();
        self.masked |= event.bit();
        Some((slot, event))
    }

    /// Forgets everything but the requests.
    pub fn reset(&mut self) {
        self.configuration = 0;
        self.pending = 0;
        self.masked = 0;
    }
}

/// Feature values that the host may change and that act on nothing in here, kept so that it can read them back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// Arbitration.
    pub arbitration: u32,
    /// Power management.
    pub power_management: u32,
    /// Temperature threshold (over, composite).
    pub temperature_threshold: u32,
    /// Error recovery.
    pub error_recovery: u32,
    /// Write atomicity normal.
    pub write_atomicity: u32,
    /// I/O queues granted, minus one, in both halves.
    pub queue_counts: u32,
    /// Host behavior support.
    pub host_behavior: Box<[u8; 512]>,
}

impl Default for Features {
    fn default() -> Self {
        let granted = u32::from(super::target::IO_QUEUES_MAX - 1);
        Self {
            // No burst limit (AB = 111b).
            arbitration: 7,
            power_management: 0,
            temperature_threshold: 0,
            error_recovery: 0,
            write_atomicity: 0,
            queue_counts: granted | granted << 16,
            host_behavior: Box::new([0; 512]),
        }
    }
}

/// The state of a controller.
pub struct AdminState {
    /// The host.
    pub host_nqn: String,
    /// Its identifier.
    pub host_id: [u8; 16],
    /// Whether this is a discovery controller.
    pub is_discovery: bool,
    /// CC.
    pub configuration: Configuration,
    /// Whether a shutdown was asked for since the controller was enabled.
    pub is_shutting_down: bool,
    /// Keep alive timeout in milliseconds; 0 for none.
    pub keep_alive_ms: u32,
    /// When the keep alive timer was last restarted.
    pub alive_at_ns: u64,
    /// Events.
    pub events: Events,
    /// NSIDs for the changed namespace list.
    pub changed_namespaces: BTreeSet<u32>,
    /// How often the ANA log page had changed when the controller was enabled: its own count starts there.
    pub ana_changes_before: u64,
    /// Features.
    pub features: Features,
    /// Newest first.
    pub errors: VecDeque<ErrorEntry>,
    /// Errors over the life of the controller.
    pub error_count: u64,
    /// Aborts that wait for another core.
    pub aborts: usize,
    /// When the controller was made.
    pub created_ns: u64,
}

impl AdminState {
    /// A controller that is not enabled yet.
    pub fn new(
        subsystem: SubsystemId,
        host_nqn: &str,
        host_id: [u8; 16],
        keep_alive_ms: u32,
        now_ns: u64,
    ) -> Self {
        Self {
            host_nqn: host_nqn.to_string(),
            host_id,
            is_discovery: subsystem == DISCOVERY,
            configuration: Configuration::default(),
            is_shutting_down: false,
            keep_alive_ms,
            alive_at_ns: now_ns,
            events: Events::default(),
            changed_namespaces: BTreeSet::new(),
            ana_changes_before: 0,
            features: Features::default(),
            errors: VecDeque::new(),
            error_count: 0,
            aborts: 0,
            created_ns: now_ns,
        }
    }

    /// CSTS.RDY, but for I/O queues that are still about to go.
    pub fn is_ready(&self) -> bool {
        self.configuration.is_enabled() && !self.is_shutting_down
    }

    /// CSTS, while the controller has `queues` I/O queues left.
    pub fn status(&self, queues: usize) -> ControllerStatus {
        let enabled = self.configuration.is_enabled();
        let shutdown = match (self.is_shutting_down, queues) {
            (false, _) => 0,
            (true, 0) => ControllerStatus::SHUTDOWN_COMPLETE,
            (true, _) => 1,
        };
        ControllerStatus {
            ready: enabled || queues > 0,
            fatal: false,
            shutdown,
        }
    }

    /// Whether the keep alive timer has expired (NVMe Base 2.0, 3.9).
    pub fn is_expired(&self, now_ns: u64) -> bool {
        let timeout_ms = match (self.keep_alive_ms, self.is_discovery) {
            (0, true) => DISCOVERY_IDLE_MS,
            (0, false) => return false,
            (timeout_ms, _) => timeout_ms.saturating_add(KEEP_ALIVE_GRACE_MS),
        };
        now_ns.saturating_sub(self.alive_at_ns) > u64::from(timeout_ms) * 1_000_000
    }

    /// Records a command that failed in the error log (NVMe Base 2.0, 5.16.1.2).
    pub fn record_error(&mut self, mut entry: ErrorEntry, status: Status) {
        self.error_count += 1;
        entry.error_count = self.error_count;
        entry.status = status;
        self.errors.push_front(entry);
        self.errors.truncate(ERROR_ENTRIES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(keep_alive_ms: u32) -> AdminState {
        AdminState::new(
            SubsystemId(1),
            "nqn.2026-11.io.polldm:host",
            [1; 16],
            keep_alive_ms,
            1_000,
        )
    }

    #[test]
    fn keep_alive_expires_only_when_asked_for() {
        let second = 1_000_000_000;
        assert!(!state(0).is_expired(u64::MAX));
        let mut controller = state(5_000);
        assert!(!controller.is_expired(6 * second));
        assert!(controller.is_expired(6 * second + 1_001));
        controller.alive_at_ns = 6 * second;
        assert!(!controller.is_expired(7 * second));
        let discovery = AdminState::new(DISCOVERY, "nqn.2026-11.io.polldm:host", [1; 16], 0, 0);
        assert!(!discovery.is_expired(120 * second) && discovery.is_expired(121 * second));
    }

    #[test]
    fn an_event_is_reported_once_until_its_log_page_was_read() {
        let mut events = Events::default();
        events.raise(Event::Namespace);
        events.requests.push_back(7);
        assert_eq!(events.next(), None);
        events.configuration = Event::Namespace.enable();
        events.raise(Event::Namespace);
        events.raise(Event::Namespace);
        assert_eq!(events.next(), Some((7, Event::Namespace)));
        events.requests.push_back(8);
        events.raise(Event::Namespace);
        assert_eq!(events.next(), None);
        events.acknowledge(Event::Namespace);
        assert_eq!(events.next(), None);
        events.raise(Event::Namespace);
        assert_eq!(events.next(), Some((8, Event::Namespace)));
        assert_eq!(events.next(), None);
    }

    #[test]
    fn status_follows_configuration_and_queues() {
        let mut controller = state(0);
        assert_eq!(controller.status(0).encode(), 0);
        controller.configuration = Configuration::ENABLE;
        assert!(controller.status(0).ready);
        controller.is_shutting_down = true;
        assert_eq!(
            (controller.status(2).shutdown, controller.status(0).shutdown),
            (1, 2)
        );
        controller.configuration = Configuration::default();
        assert!(controller.status(1).ready && !controller.status(0).ready);
    }

    #[test]
    fn the_error_log_keeps_the_newest() {
        let mut controller = state(0);
        for id in 0..100 {
            let entry = ErrorEntry {
                command_id: id,
                ..ErrorEntry::default()
            };
            controller.record_error(entry, Status::INVALID_FIELD);
        }
        assert_eq!(
            (controller.errors.len(), controller.errors[0].error_count),
            (ERROR_ENTRIES_MAX, 100)
        );
        assert_eq!(controller.errors[0].command_id, 99);
    }
}
