//! NVMe/TCP target: NVMe Base 2.0, NVM Command Set 1.0, NVMe/TCP Transport 1.0.
//!
//! By file; all but `worker` and `export` know nothing of sockets:
//!
//! | file | what is in it |
//! |---|---|
//! | [`session`] | one connection: states, bounds, its end |
//! | `receive` | bytes in: PDUs, in-capsule data and H2CData |
//! | `respond` | bytes out: responses, C2HData, R2T |
//! | `queue`, `command` | what every command goes through; slots |
//! | `io` | I/O commands |
//! | `admin`, `fabrics`, `features`, `identify`, `log`, `controller` | the controller at its admin queue |
//! | [`target`], `registry`, `changes`, [`namespace`], [`message`] | what cores know together, and tell each other |

//! | `worker` | the same on a reactor |
//! | `export` | the target as the node starts, changes and asks it |
//! | [`harness`] | a connection over memory, for tests and the fuzzer |

mod admin;
mod changes;
mod command;
pub mod config;
mod controller;
mod export;
mod fabrics;
mod features;
pub mod harness;
mod identify;
mod io;
mod log;
pub mod message;
pub mod namespace;
mod queue;
mod receive;
mod registry;
mod respond;
pub mod session;
pub mod target;
mod worker;

pub use config::{Config, ConfigError, Hosts, NamespaceConfig, SubsystemConfig};
pub use export::{Export, Snapshot, StartError};
pub use message::{ConnectionReport, NamespaceReport};
pub use target::{ControllerSnapshot, SubsystemSnapshot};

#[cfg(test)]
mod tests;
