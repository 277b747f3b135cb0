//! What happened, as lines that a person reads.

use std::fmt::{self, Display};

use crate::dm::message::{Event, Gate, Message, Order};
use crate::dm::{Op, Request, Status};

/// An operation in a word.
pub(super) fn op(op: Op) -> &'static str {
    match op {
        Op::Read => "read",
        Op::Write => "write",
        Op::Flush => "flush",
        Op::Discard => "discard",
        Op::WriteZeroes => "write-zeroes",
        Op::CompareAndWrite => "compare-and-write",
        Op::WriteAtomic => "atomic write",
    }
}

/// A range of sectors, with what goes with it: `write 8..12 fua`.
pub(super) struct Range {
    pub op: Op,
    pub sector: u64,
    pub sectors: u64,
    pub fua: bool,
}

impl Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", op(self.op))?;
        if self.op != Op::Flush {
            write!(f, " {}..{}", self.sector, self.sector + self.sectors)?;
        }
        if self.fua { write!(f, " fua") } else { Ok(()) }
    }
}

/// How something ended: `ok`, or the error's name.
pub(super) fn status(status: Status) -> String {
    match status {
        Status::Ok => "ok".into(),
        other => format!("{other:?}"),
    }
}

/// A message in a few words.
pub(super) struct Words<'a>(pub &'a Message);

impl Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Message::Order {
                device,
                epoch,
                order,
            } => {
                write!(f, "device {} epoch {}: ", device.0, epoch.0)?;
                match order {
                    Order::Stage(_) => write!(f, "stage a table"),
                    Order::Swap(_) => write!(f, "swap"),
                    Order::Exchange(_) => write!(f, "exchange tables"),
                    Order::Close(gate) => write!(f, "close the {} gate", gate_name(*gate)),
                    Order::Open(gate) => write!(f, "open the {} gate", gate_name(*gate)),
                    other => write!(f, "{other:?}"),
                }
            }
            Message::Event { device, event } => {
                write!(f, "device {}: ", device.0)?;
                match event {
                    Event::Ack {
                        epoch,
                        result: Ok(()),
                        ..
                    } => {
                        write!(f, "acknowledged, epoch {}", epoch.0)
                    }
                    Event::Request(request, ticket) => {
                        write!(f, "request {}: {}", ticket.0, request_name(request))
                    }
                    other => write!(f, "{other:?}"),
                }
            }
        }
    }
}

fn gate_name(gate: Gate) -> &'static str {
    match gate {
        Gate::Suspend => "suspend",
        Gate::Sequence => "sequence",
        Gate::OwnSequence => "own-sequence",
        Gate::Backlog => "backlog",
    }
}

fn request_name(request: &Request) -> String {
    match request {
        Request::Load(table) => format!("load a table of {} targets", table.segments.len()),
        Request::Swap { table, .. } => {
            format!("swap in a table of {} targets", table.segments.len())
        }
        other => format!("{other:?}"),
    }
}
