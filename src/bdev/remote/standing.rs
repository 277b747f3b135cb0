//! How a remote is doing: written by its keeper and its links, read by operators.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::RemoteSpec;

/// Whether a remote can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteState {
    /// It is connected.
    Live,
    /// The connection was lost, and is tried again.
    Connecting,
    /// It was given up, after `ctrl_loss_timeout`.
    Lost,
}

/// A remote as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteReport {
    /// Where it is: `nvme-tcp://host:port/nqn?nsid=1`.
    pub address: String,
    /// Whether it can be reached.
    pub state: RemoteState,
    /// Reactors that use it: each has, or is to get, a connection.
    pub queues: u32,
    /// Times that it was connected, the first included.
    pub connects: u64,
    /// Times that a connection was lost.
    pub losses: u64,
    /// Attempts to connect again that failed.
    pub failed_attempts: u64,
    /// Losses because a command was not answered within `io_timeout`.
    pub timeouts: u64,
    /// Why the connection was lost, or could not be made, last.
    pub last_error: Option<String>,
}

/// The same, as it is kept. Nothing here is written per I/O.
pub struct Standing {
    address: String,
    state: AtomicU8,
    pub(super) queues: AtomicU32,
    pub(super) connects: AtomicU64,
    pub(super) losses: AtomicU64,
    pub(super) failed_attempts: AtomicU64,
    pub(super) timeouts: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl Standing {
    /// Of a remote that is connected for the first time.
    pub(super) fn new(spec: &RemoteSpec) -> Standing {
        let mut address = spec.address.clone();
        address.nsid = Some(spec.nsid);
        Standing {
            address: address.to_string(),
            state: AtomicU8::new(RemoteState::Live as u8),
            queues: AtomicU32::new(0),
            connects: AtomicU64::new(1),
            losses: AtomicU64::new(0),
            failed_attempts: AtomicU64::new(0),
            timeouts: AtomicU64::new(0),
            last_error: Mutex::new(None),
        }
    }

    pub(super) fn set_state(&self, state: RemoteState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    pub(super) fn set_error(&self, error: String) {
        *self
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// As of now.
    pub fn report(&self) -> RemoteReport {
        let states = [
            RemoteState::Live,
            RemoteState::Connecting,
            RemoteState::Lost,
        ];
        let state = self.state.load(Ordering::Relaxed);
        let last_error = self
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        RemoteReport {
            address: self.address.clone(),
            state: states[usize::from(state)],
            queues: self.queues.load(Ordering::Relaxed),
            connects: self.connects.load(Ordering::Relaxed),
            losses: self.losses.load(Ordering::Relaxed),
            failed_attempts: self.failed_attempts.load(Ordering::Relaxed),
            timeouts: self.timeouts.load(Ordering::Relaxed),
            last_error: last_error.clone(),
        }
    }
}
