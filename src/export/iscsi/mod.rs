//! iSCSI target: RFC 7143 as bytes is [`crate::iscsi`], the SCSI device server [`crate::scsi`].
//!
//! By file; all but `worker` and `export` know nothing of sockets:
//!
//! | file | what is in it |
//! |---|---|
//! | [`session`] | one connection: states, bounds, sequence numbers, its end |
//! | `receive` | bytes in: PDUs, immediate data and Data-Out |
//! | `respond` | bytes out: Data-In, R2T, responses |
//! | `login`, [`keys`] | who is who, and what is negotiated |
//! | [`chap`] | the proof of who is who |
//! | `request` | what is neither login nor a SCSI command: NOP, text, logout |
//! | `task`, `guide`, `command`, `tags` | SCSI commands, the target as they see it, the slots that they have and how one is found |
//! | `buffers` | what commands hold their data in, and wait for |
//! | `line` | commands that wait for others: task attributes |
//! | `allegiance` | commands that wait until an initiator has seen to an error: ACA |
//! | `manage` | task management |
//! | `keeper`, [`Store`] | reservations that outlive the target |
//! | `announce`, `watch` | what the target says unasked, and asks |
//! | `held` | requests that have come before their turn |
//! | [`target`], `unit`, [`message`] | what cores know together, and tell each other |
//! | `background` | what goes on after its command: SANITIZE |
//! | `resize` | when initiators are told of a new size |
//! | `changes` | what an operator changes while all runs |
//! | [`initiators`] | who may log in, and who sees what |
//! | `worker` | the same on a reactor |
//! | `export` | the target as the node starts and asks it |
//! | [`harness`] | a connection over memory, for tests |

mod allegiance;
mod announce;
mod background;
mod buffers;
mod changes;
pub mod chap;
mod command;
pub mod config;
mod export;
mod guide;
pub mod harness;
mod held;
pub mod initiators;
pub mod keeper;
pub mod keys;
mod line;
mod login;
mod manage;
pub mod message;
mod receive;
mod request;
mod resize;
mod respond;
pub mod session;
mod store;
mod tags;
pub mod target;
mod task;
mod unit;
mod watch;
mod worker;

pub use changes::ChangeError;
pub use chap::Chap;
pub use config::{
    Config, LunConfig, PORTALS_MAX, PortalGroup, Redirect, TargetChange, TargetConfig,
};
pub use export::{Export, LunSnapshot, Snapshot, StartError, TargetSnapshot};
pub use initiators::Initiators;
pub use message::{ConnectionReport, UnitReport};
pub use store::Store;

#[cfg(test)]
mod tests;
