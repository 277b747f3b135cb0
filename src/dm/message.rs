//! What the cores tell each other about a device. Every change of a device reaches a core as an [`Order`] from the device's
//! home core; every answer goes back as an [`Event`] (section 8).

use std::sync::Arc;

use super::error::Error;
use super::io::{CoreId, DeviceId};
use super::status::Status;
use super::table::{Limits, Segment, Table};
use super::target::ChannelIndex;

/// A message between the mappers of two cores.
#[derive(Debug)]
pub enum Message {
    /// From the home core to a core that carries the device.
    Order {
        /// The device.
        device: DeviceId,
        /// Returned with the acknowledgement, so that a late one of an earlier round is told apart (PM-2).
        epoch: Epoch,
        /// What to do.
        order: Order,
    },
    /// From a core, or from the control plane, to the home core.
    Event {
        /// The device.
        device: DeviceId,
        /// What happened.
        event: Event,
    },
}

/// One round of orders and acknowledgements of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch(pub u32);

/// Why a gate is closed. A core admits I/O when no bit is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Gate {
    /// The device is suspended, or being suspended.
    Suspend = 1,
    /// A flush sequence or an exclusive I/O runs (3.1).
    Sequence = 2,
    /// This core's own original waits for its sequence; what came after it must not pass it (AT-20).
    OwnSequence = 4,
}

/// What a core is to do. All but the three of a sequence's steps are acknowledged.
#[derive(Debug)]
pub enum Order {
    /// A new device: make room for it.
    Attach {
        /// The flush policy: the S1 sequence rather than the relaxed one (OQ-2).
        ordered: bool,
    },
    /// Open the table's lower devices here and keep it ready beside the inactive slot (PM-12).
    Stage(Arc<Table>),
    /// What is staged becomes the inactive table; the earlier one is closed (LC-13).
    Commit,
    /// Close what is staged: some core could not open it (LC-15).
    Unstage,
    /// Close the inactive table.
    Clear,
    /// Close the gate; acknowledge when nothing is in flight here (PM-2).
    Close(Gate),
    /// The inactive table becomes the live one, with these limits; the old one is kept until the gate opens (1.4).
    Swap(Arc<Limits>),
    /// Open the gate and re-issue what is parked, if no other reason keeps it closed.
    Open(Gate),
    /// Flush everything beneath the live table, past the gate, and report it.
    Flush,
    /// It is this original's turn: do its data step, past the gate, and report it.
    RunData {
        /// The original's slot on this core.
        original: u32,
    },
    /// The sequence of this original is over: complete it.
    Finish {
        /// The original's slot on this core.
        original: u32,
        /// How it ended.
        status: Status,
    },
    /// The device is gone: complete what is parked with [`Status::Aborted`] and close everything (LC-21).
    Detach,
}

/// What the home core is told.
#[derive(Debug)]
pub enum Event {
    /// A core has done as ordered, or says why it cannot.
    Ack {
        /// The core.
        core: CoreId,
        /// The round.
        epoch: Epoch,
        /// Done, or why not.
        result: Result<(), String>,
    },
    /// An original that needs the device to itself.
    Sequence(Waiting),
    /// A flush step of the running sequence ended.
    FlushDone(Status),
    /// The data step of the running sequence ended.
    DataDone(Status),
    /// A target's clone failed on some core in a way that shows in its status text.
    TargetFailed {
        /// The target's place in the live table.
        segment: u32,
        /// The lower device.
        channel: ChannelIndex,
        /// The status.
        status: Status,
    },
    /// An operator's request.
    Request(Request, Ticket),
}

/// An original that waits for its sequence, on its own core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The core.
    pub core: CoreId,
    /// Its slot there.
    pub original: u32,
    /// Which steps it takes.
    pub steps: Steps,
}

/// Which steps a sequence has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steps {
    /// Drain and flush: an empty barrier (FL-2).
    Flush,
    /// Drain, flush, data, flush: a data barrier (3.1).
    FlushDataFlush,
    /// Drain and data: an I/O that must have the device to itself (compare-and-write).
    Data,
}

/// Names an operator's request, so that the engine can find whom to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// What an operator asks of one device (table 1.2). Names are not the mapper's affair: [`super::Registry`].
#[derive(Debug)]
pub enum Request {
    /// Make the device, empty.
    Create {
        /// The flush policy: ordered rather than relaxed.
        ordered: bool,
    },
    /// Fill the inactive slot.
    Load(Arc<Table>),
    /// Empty the inactive slot.
    Clear,
    /// Park new I/O and wait for what is in flight.
    Suspend,
    /// Swap in the inactive table, if there is one, and let I/O run.
    Resume {
        /// Whether a front end holds the device, so that its block size must not change (LC-16).
        open: bool,
    },
    /// Take the device away. The caller has seen to it that nobody holds it (LC-18).
    Remove,
    /// The registry gave it another name or uuid: an event (LC-24).
    Renamed,
    /// Flags and counters, at once.
    Info,
    /// One line per target of the live table: what it says of itself (INFO).
    Status,
    /// One line per target: the text that would load it (TABLE).
    Table {
        /// Of the inactive table rather than the live one.
        inactive: bool,
    },
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done.
    Done,
    /// To [`Request::Info`].
    Info(Info),
    /// To [`Request::Status`] and [`Request::Table`].
    Lines(Vec<TargetLine>),
}

/// What [`Request`]s end in.
pub type Answer = Result<Reply, Error>;

/// The state of a device, as its home core knows it (LC-22).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// No I/O passes until it is resumed.
    pub suspended: bool,
    /// There is a live table.
    pub live: bool,
    /// There is an inactive table.
    pub inactive: bool,
    /// Targets of the live table.
    pub targets: u32,
    /// Events so far.
    pub event_nr: u32,
    /// Size in sectors.
    pub sectors: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// The flush policy is the ordered one.
    pub ordered: bool,
    /// The distinct lower devices of the live table, by name.
    pub lowers: Vec<String>,
}

/// One target in a status or table answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetLine {
    /// First sector.
    pub start: u64,
    /// Sectors.
    pub sectors: u64,
    /// The type.
    pub target: &'static str,
    /// Its own text.
    pub text: String,
}

impl TargetLine {
    /// A line about a segment.
    pub fn new(segment: &Segment, text: String) -> TargetLine {
        TargetLine {
            start: segment.start,
            sectors: segment.sectors,
            target: segment.target.name(),
            text,
        }
    }
}
