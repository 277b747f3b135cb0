//! What can go wrong between this initiator and a target.

use super::status::CommandStatus;
use crate::host;
use crate::iscsi::login::Status;
use std::fmt;
use std::time::Duration;

/// An error of the initiator. All but [`Error::Command`] and [`Error::QueueFull`] end the session.
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
    /// The target closed the connection.
    Closed,
    /// The target refused the login (RFC 7143, 11.13.5).
    Refused {
        /// Status class and detail.
        status: u16,
        /// Where it sends initiators instead.
        address: Option<String>,
    },
    /// The target did not prove who it is; the text says how.
    Unproven(&'static str),
    /// The target broke the protocol; the text says how.
    Protocol(&'static str),
    /// The target rejected a PDU (RFC 7143, 11.17).
    Rejected {
        /// Its reason.
        reason: u8,
        /// Operation code of what it rejected, where it says so.
        opcode: Option<u8>,
    },
    /// The target ends the session, or asks for that (RFC 7143, 11.9).
    Ended(&'static str),
    /// A command that had to succeed did not.
    Command {
        /// The command.
        what: &'static str,
        /// How it ended.
        status: CommandStatus,
    },
    /// As many commands are outstanding as the target or the session takes, or the send buffer is full: poll, then try again.
    QueueFull,
    /// The target, or its unit, cannot do what was asked for.
    Unsupported(String),
}

impl From<host::Error> for Error {
    /// What happens to a socket, whichever protocol it is for.
    fn from(error: host::Error) -> Self {
        match error {
            host::Error::Address(text) => Self::Address(text),
            host::Error::Io { what, source } => Self::Io { what, source },
            host::Error::Timeout { what, after } => Self::Timeout { what, after },
            host::Error::Closed => Self::Closed,
            other => Self::Unsupported(other.to_string()),
        }
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
            Self::Closed => f.write_str("the target closed the connection"),
            Self::Refused { status, .. } => {
                write!(f, "the login was refused: {}", refusal(*status))
            }
            Self::Unproven(how) => write!(f, "the target did not prove who it is: {how}"),
            Self::Protocol(how) => write!(f, "the target broke the protocol: {how}"),
            Self::Rejected { reason, opcode } => {
                write!(f, "the target rejected a PDU")?;
                if let Some(opcode) = opcode {
                    write!(f, " of operation code {opcode:02X}h")?;
                }
                write!(f, ": {}", rejection(*reason))
            }
            Self::Ended(how) => f.write_str(how),
            Self::Command { what, status } => write!(f, "{what}: {status}"),
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

/// What the status of a login says, and what would be right.
fn refusal(status: u16) -> String {
    const SAID: [(Status, &str); 14] = [
        (Status::MovedTemporarily, "the target has moved for now"),
        (Status::MovedPermanently, "the target has moved"),
        (
            Status::InitiatorError,
            "the target says that the request is wrong",
        ),
        (
            Status::AuthenticationFailed,
            "the target wants a proof that it did not get, or a proof was wrong; \
             --secrets names a file with the name and secret of this initiator",
        ),
        (
            Status::AuthorizationFailed,
            "this initiator may not use the target; --initiator says who it is",
        ),
        (Status::NotFound, "there is no target of this name"),
        (Status::Removed, "the target has been removed"),
        (
            Status::UnsupportedVersion,
            "the target wants another version of iSCSI",
        ),
        (Status::TooManyConnections, "too many connections"),
        (
            Status::MissingParameter,
            "the target says that a key is missing",
        ),
        (
            Status::SessionTypeNotSupported,
            "the target has no sessions of this type",
        ),
        (Status::NoSuchSession, "no such session"),
        (
            Status::InvalidDuringLogin,
            "the target did not expect this request",
        ),
        (
            Status::OutOfResources,
            "the target has no room for another session",
        ),
    ];
    let known = SAID.iter().find(|(known, _)| *known as u16 == status);
    match known {
        Some((_, said)) => (*said).to_owned(),
        None => format!("status {status:04X}h"),
    }
}

/// What the reason of a Reject says (RFC 7143, 11.17.1).
fn rejection(reason: u8) -> String {
    let known = match reason {
        0x02 => "its data digest is wrong",
        0x03 => "SNACK is not supported",
        0x04 => "it breaks the protocol",
        0x05 => "it is not supported",
        0x06 => "there are too many immediate commands",
        0x07 => "a task is under way",
        0x09 => "a field of it is wrong",
        0x0A => "it takes more than the target has",
        0x0C => "the target waits for a logout",
        _ => return format!("reason {reason:02X}h"),
    };
    known.to_owned()
}
