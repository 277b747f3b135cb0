//! What the parts of the target on different cores tell each other, and the node.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use crossbeam_channel::Sender;

use super::keeper::Kept;
use super::session::Waits;
use super::target::TargetId;
use super::unit::LunSet;
use crate::dm::CoreId;
use crate::export::frame::SessionKey;
use crate::export::stats::CommandStats;
use crate::scsi::{NexusId, Outcome};

/// Which commands are to be aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// All of them.
    Everybodys,
    /// Those of this nexus.
    Of(NexusId),
}

/// A message from one core's part of the target to another's.
pub enum Message {
    /// A connection for this core.
    Accepted(OwnedFd),
    /// Another listener, for the core that accepts.
    Listen(TcpListener),
    /// One less.
    CloseListener {
        /// Its address.
        address: SocketAddr,
        /// Dropped when it is closed.
        done: Sender<()>,
    },
    /// End this connection: its session was taken over, or its initiator has lost its right to be here.
    Close(SessionKey),
    /// A session that this login waited for has ended.
    Retry(SessionKey),
    /// Abort commands; answered when none of them is at a device any more.
    Abort {
        /// The target.
        target: TargetId,
        /// One unit of it, or all.
        lun: Option<u16>,
        /// Whose commands.
        whose: Whose,
        /// The units whose commands are answered when they are not those of the session that asks (TAS).
        tells: LunSet,
        /// Who asks, and its number for this.
        from: Option<(SessionKey, u32)>,
    },
    /// A target is another, or gone: look again. Who waits is told, or let go of, when no command to a unit that is gone is at a device
    /// any more.
    Changed(TargetId, Waits),
    /// The answer to [`Message::Abort`], and to [`Message::Changed`].
    Aborted(SessionKey, u32),
    /// Answer when no command to a unit that was accepted before is at a device any more: the core that asks, and its number for this.
    Drain {
        /// The target.
        target: TargetId,
        /// The unit.
        lun: u16,
        /// Who asks.
        from: (CoreId, u32),
    },
    /// The answer to [`Message::Drain`].
    Drained(u32),
    /// What a command has left to go on by itself has ended: its session and slot, its number, and how.
    Left(SessionKey, u16, u32, Outcome),
    /// A command that changes reservations has been carried out, or has not: its session, its slot, and how it ended.
    Kept(SessionKey, u16, Kept),
    /// Report counters.
    Report(Sender<Vec<UnitReport>>),
    /// Report connections.
    Connections(Sender<Vec<ConnectionReport>>),
}

/// Counters of one logical unit on one core.
#[derive(Clone, Debug)]
pub struct UnitReport {
    /// The target's name.
    pub iqn: String,
    /// Logical unit number.
    pub lun: u16,
    /// The device's name.
    pub device_name: String,
    /// Counters.
    pub stats: CommandStats,
}

/// One connection, as `polldm export ls` shows it.
#[derive(Clone, Debug)]
pub struct ConnectionReport {
    /// The core it lives on.
    pub core: u16,
    /// The initiator's address; empty when the socket no longer knows.
    pub peer: String,
    /// The target's name; empty in discovery, and before the login is done.
    pub iqn: String,
    /// The initiator's name; empty before it has said it.
    pub initiator: String,
    /// TSIH; 0 before the login is done.
    pub session: u16,
    /// Commands that have not been answered.
    pub outstanding: usize,
    /// Counters of what was carried out.
    pub stats: CommandStats,
    /// Header and data digests in use.
    pub digests: (bool, bool),
}
