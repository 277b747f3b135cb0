//! What can go wrong between this host and a controller.

use crate::nvme::Status;
use crate::nvme::pdu::{FatalError, TermReason, Terminate};
use std::fmt;
use std::time::Duration;

/// An error of the initiator. All but [`Error::Status`] and [`Error::QueueFull`] end the connection.
#[derive(Debug)]
pub enum Error {
    /// An address, a name or an option that cannot be used; the text says why and what would be right.
    Address(String),
    /// The operating system refused something.
    Io {
        /// What was attempted.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Nothing came in time.
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
    },
    /// The controller closed the connection.
    Closed,
    /// The controller sent C2HTermReq.
    Terminated(Terminate),
    /// The controller broke the protocol; H2CTermReq was sent.
    Protocol(TermReason),
    /// A command that had to succeed did not.
    Status {
        /// The command.
        what: String,
        /// How it ended.
        status: Status,
        /// Its result dwords.
        result: u64,
    },
    /// As many commands are outstanding as the queue takes, or its send buffer is full: poll, then try again.
    QueueFull,
    /// The controller cannot do what was asked for.
    Unsupported(String),
}

impl Error {
    /// An [`Error::Io`] for `map_err`.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(text) | Self::Unsupported(text) => f.write_str(text),
            Self::Io { what, source } => write!(f, "{what}: {source}"),
            Self::Timeout { what, after } => {
                write!(f, "{what}: no answer within {} ms", after.as_millis())
            }
            Self::Closed => f.write_str("the controller closed the connection"),
            Self::Terminated(terminate) => match FatalError::decode(terminate.fes) {
                Some(fes) => {
                    let reason = TermReason {
                        fes,
                        fei: terminate.fei,
                    };
                    write!(f, "the controller terminated the connection: {reason}")
                }
                None => write!(
                    f,
                    "the controller terminated the connection with the reserved status {:04X}h",
                    terminate.fes
                ),
            },
            Self::Protocol(reason) => write!(f, "the controller broke the protocol: {reason}"),
            Self::Status {
                what,
                status,
                result,
            } => {
                write!(f, "{what}: {status}")?;
                if *result != 0 {
                    write!(f, ", result {result:X}h")?;
                }
                Ok(())
            }
            Self::QueueFull => f.write_str("the queue is full"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
