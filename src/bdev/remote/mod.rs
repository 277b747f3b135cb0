//! A namespace behind an NVMe/TCP connection, as a backing device.
//!
//! ```text
//! control plane     Remote ──orders, bell──▶ keeper: a thread for each remote
//!                                            admin queue: Keep Alive, events, identify; connects and reconnects
//!                                              │ Mail: a connected I/O queue, "down", "given up"
//! a reactor         Channel ─▶ Link ◀──────────┘ its own connection; submits, receives, watches times
//! ```
//!
//! | file | what is in it |
//! |---|---|
//! | `attach` | connecting to a controller, what it and the namespace say of themselves, what is wrong with them |
//! | `life` | when to try again, when to give up: a state machine without clock or socket |
//! | `keeper` | the thread: admin queue, connecting; runs what `life` decides |
//! | `hub` | how reactors and the keeper speak to each other |
//! | `link`, `links` | one reactor's connection to one remote; all of a reactor's |
//! | `request` | one I/O, and its data; as commands it is in [`super::namespace`] |
//! | `standing` | state and counts, for `bdev ls` |
//!
//! To connect blocks (name resolution, TCP, a dozen commands in turn), so a thread does it, never a reactor; and since that thread is there, the
//! admin queue is its as well. *Turned down:* the admin queue on a reactor. It would save a thread that sleeps, and cost a second, non-blocking
//! way through the set-up.
//!
//! # When a connection is lost
//!
//! Any error on any queue, admin or I/O, ends the association as a whole: every reactor closes its connection, so that nothing of what was in flight can
//! still be sent, and only then ends or keeps what was in flight. What came from a table that has other ways to go (multipath) ends
//! with [`crate::dm::Status::Transport`]; its retries are multipath's (OQ-11). Anything else is kept and submitted again when the remote
//! is back: its host sees latency, not an error. That ends after `fast_io_fail_timeout`, and for good after `ctrl_loss_timeout`.

mod attach;
mod bell;
mod hub;
mod keeper;
mod life;
mod link;
mod links;
mod request;
mod standing;

pub(super) use hub::Remote;
pub(super) use link::{Link, Parts};
pub(super) use links::Links;
pub(super) use standing::Standing;
pub use standing::{RemoteReport, RemoteState};

use std::time::Duration;

use crate::host::Address;

/// I/O queues that one remote is asked for: one for each reactor that uses it.
const QUEUES_MAX: u16 = 128;

/// Commands under way on one connection; beyond, I/O waits in the link. What Linux's initiator takes.
const QUEUE_DEPTH: usize = 128;

/// How long each step of connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an attempt to connect may take as a whole: no order is taken meanwhile.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// A remote namespace, and how its connections are treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteSpec {
    /// The subsystem, and where it is; its namespace is `nsid`.
    pub address: Address,
    /// Namespace identifier, from 1.
    pub nsid: u32,
    /// Who connects; without one, the name that nvme-cli gave the machine, or one that lasts as long as the process.
    pub host_nqn: Option<String>,
    /// Digests over PDU headers.
    pub header_digest: bool,
    /// Digests over data.
    pub data_digest: bool,
    /// KATO: after this long without a sign of the other side, each gives the other up.
    pub keep_alive: Duration,
    /// The longest pause between two attempts to connect again.
    pub reconnect_delay: Duration,
    /// After this long without a connection the remote is given up.
    pub ctrl_loss_timeout: Duration,
    /// After this long without a connection I/O fails that was kept until then; `None`: when the remote is given up.
    pub fast_io_fail_timeout: Option<Duration>,
    /// A command that is not answered for so long ends its connection.
    pub io_timeout: Duration,
}

#[cfg(test)]
mod tests;
