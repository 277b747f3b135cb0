//! The initiators: polled, non-blocking, without an allocation per I/O. NVMe/TCP is this room, iSCSI [`mod@iscsi`].
//!
//! | file | what is in it |
//! |---|---|
//! | [`address`] | `nvme-tcp://host:port/nqn?nsid=1` |
//! | [`connection`] | a TCP connection up to ICResp; raw bytes for tests of bad input |
//! | [`queue`] | one queue on one connection: submit, poll |
//! | [`receive`] | the receiving half: many PDUs per receive, data handed on in place |
//! | [`blocking`] | a queue that waits for its commands, with a deadline: set-up and tests |
//! | [`identity`] | who this host is, how it connects |
//! | [`controller`] | admin queue, identify, features, logs, events, I/O queues |
//! | [`discovery`] | what a discovery service offers |
//! | `wire` | what both initiators do with a socket |
//!
//! A [`Queue`] belongs to one thread. Its user hands it a [`Client`], which fills outgoing data into the
//! send buffer and sees incoming data in the receive buffer, so payload is copied by the kernel alone.

pub mod address;
pub mod blocking;
pub mod connection;
pub mod controller;
pub mod discovery;
pub mod error;
pub mod identity;
pub mod iscsi;
#[cfg(test)]
pub(crate) mod peer;
pub mod queue;
pub mod receive;
#[cfg(test)]
mod scripted;
mod setup;
mod wire;

pub use address::{Address, split_authority};
pub use blocking::{BlockingQueue, Outcome, Payload};
pub use connection::{Connection, ConnectionOptions};
pub use controller::{Controller, disconnect};
pub use discovery::discover;
pub use error::Error;
pub use identity::{HostIdentity, HostOptions};
pub use queue::{Client, Queue, Submission};
