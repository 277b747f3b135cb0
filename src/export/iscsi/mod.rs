//! iSCSI target: RFC 7143, over the SCSI device server of [`crate::scsi`].
//!
//! By file; all but `worker` and `export` know nothing of sockets:
//!
//! | file | what is in it |
//! |---|---|
//! | [`session`] | one connection: states, bounds, sequence numbers, its end |
//! | [`pdu`] | PDUs as bytes |
//! | `receive` | bytes in: PDUs, immediate data and Data-Out |
//! | `respond` | bytes out: Data-In, R2T, responses |
//! | `login`, [`keys`] | who is who, and what is negotiated |
//! | [`chap`], [`secrets`] | the proof of who is who |
//! | `request` | what is neither login nor a SCSI command: NOP, text, logout |
//! | `task`, `command` | SCSI commands, and the slots that they have |
//! | `manage` | task management |
//! | [`target`], `unit`, [`message`] | what cores know together, and tell each other |
//! | `worker` | the same on a reactor |
//! | `export` | the target as the node starts and asks it |
//! | [`harness`] | a connection over memory, for tests |

pub mod chap;
mod command;
pub mod config;
mod export;
pub mod harness;
pub mod keys;
mod login;
mod manage;
pub mod message;
pub mod pdu;
mod receive;
mod request;
mod respond;
pub mod secrets;
pub mod session;
pub mod target;
mod task;
mod unit;
mod worker;

pub use chap::Chap;
pub use config::{Config, Initiators, LunConfig, TargetConfig};
pub use export::{Export, LunSnapshot, Snapshot, TargetSnapshot};
pub use message::{ConnectionReport, UnitReport};
pub use secrets::{Secret, Secrets};

#[cfg(test)]
mod tests;
