//! The iSCSI initiator (RFC 7143): polled, non-blocking, without an allocation per I/O.
//!
//! | file | what is in it |
//! |---|---|
//! | [`address`] | `iscsi://host:port/iqn/lun` |
//! | [`mod@login`] | from a connected socket to a session; CHAP |
//! | [`session`] | a session on one connection: submit, poll |
//! | [`receive`] | the receiving half: many PDUs per receive, data handed on in place |
//! | [`blocking`] | a session that waits for its commands, with a deadline: set-up and tests |
//! | [`command`] | command descriptor blocks of what is sent here |
//! | [`status`] | how a command ends |
//!
//! A [`Session`] belongs to one thread. Its user hands it a [`Client`], which fills outgoing data into the send buffer and sees incoming
//! data in the receive buffer, so payload is copied by the kernel alone. A session has one connection and error recovery level 0: what ends
//! the connection ends the session, with an [`Error`] that says why.

pub mod address;
pub mod blocking;
pub mod command;
pub mod error;
pub mod login;
pub mod receive;
#[cfg(test)]
mod scripted;
pub mod session;
pub mod status;

pub use super::blocking::Payload;
pub use super::queue::Submission;
pub use address::Address;
pub use blocking::{BlockingSession, Outcome};
pub use error::Error;
pub use login::{SessionOptions, login};
pub use receive::Ending;
pub use session::{Attribute, Client, Session};
pub use status::CommandStatus;
