//! What the parts of the target on different cores tell each other.

use std::os::fd::OwnedFd;

use crossbeam_channel::Sender;

use super::target::{SessionKey, SubsystemId};
use crate::dm::DeviceId;
use crate::export::stats::CommandStats;
use crate::nvme::log::AnaState;

/// A message from one core's part of the target to another's.
pub enum Message {
    /// A connection for this core.
    Accepted(OwnedFd),
    /// End this connection: its controller was reset or is gone, or the operator took away its right to be here.
    Close(SessionKey),
    /// Find a command of an I/O queue and abort it.
    Abort {
        /// The queue.
        queue: SessionKey,
        /// The command.
        command_id: u16,
        /// The admin queue that asks.
        admin: SessionKey,
        /// Its Abort command.
        slot: u16,
    },
    /// The answer to [`Message::Abort`].
    Aborted {
        /// The admin queue that asked.
        admin: SessionKey,
        /// Its Abort command.
        slot: u16,
        /// Whether the command was found and will be aborted.
        found: bool,
    },
    /// Publish the totals of this core now: a SMART log was asked for.
    Publish {
        /// The admin queue that asks.
        admin: SessionKey,
        /// Its Get Log Page.
        slot: u16,
    },
    /// The answer to [`Message::Publish`].
    Published {
        /// The admin queue that asked.
        admin: SessionKey,
        /// Its Get Log Page.
        slot: u16,
    },
    /// The namespaces of a subsystem changed.
    Namespaces {
        /// The subsystem.
        subsystem: SubsystemId,
        /// The device that was taken away.
        removed: Option<DeviceId>,
        /// Dropped when this core serves what there is now.
        served: Sender<()>,
        /// Dropped when this core has no commands at the device that was taken away.
        left: Sender<()>,
    },
    /// Every core serves a subsystem's new namespaces: hosts are told.
    NamespacesReported {
        /// The subsystem.
        subsystem: SubsystemId,
    },
    /// I/O commands that arrive from now on are judged by this ANA state. The sender of the answer is dropped at once.
    AnaEnforced {
        /// The subsystem.
        subsystem: SubsystemId,
        /// Its new state.
        state: AnaState,
        /// Dropped when done.
        done: Sender<()>,
    },
    /// Every core enforces this ANA state: hosts are told.
    AnaReported {
        /// The subsystem.
        subsystem: SubsystemId,
        /// Its new state.
        state: AnaState,
    },
    /// The discovery log page changed.
    DiscoveryChanged,
    /// Report counters.
    Report(Sender<Vec<NamespaceReport>>),
    /// Report connections.
    Connections(Sender<Vec<ConnectionReport>>),
}

/// Counters of one namespace on one core.
#[derive(Clone, Debug)]
pub struct NamespaceReport {
    /// Subsystem NQN.
    pub subsystem_nqn: String,
    /// NSID.
    pub nsid: u32,
    /// The device's name.
    pub device_name: String,
    /// Counters.
    pub stats: CommandStats,
}

/// One connection, as `polldm export ls` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionReport {
    /// The core it lives on.
    pub core: u16,
    /// The host's address; empty when the socket no longer knows.
    pub peer: String,
    /// The subsystem; empty before Connect.
    pub subsystem_nqn: String,
    /// CNTLID; 0 before Connect.
    pub controller_id: u16,
    /// Queue: 0 is the admin queue. `None` before Connect.
    pub queue_id: Option<u16>,
    /// Entries of the queue.
    pub queue_size: u32,
    /// Commands that have not been answered.
    pub outstanding: usize,
    /// Header and data digests in use.
    pub digests: (bool, bool),
}
