//! What the cores tell each other about a device. Every change of a device reaches a core as an [`Order`] from the device's
//! home core; every answer goes back as an [`Event`] (section 8).

use std::sync::Arc;

use super::error::Error;
use super::io::{CoreId, DeviceId};
use super::status::Status;
use super::table::{Limits, Segment, Table};
use super::target::Notice;

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
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
    /// The gate has been opened, and what this core has parked goes first, a portion after the other (SU-13).
    Backlog = 8,
}

/// What a core is to do. Acknowledged when done, unless it says otherwise or ends in an event of its own.
#[derive(Debug)]
pub enum Order {
    /// A new device: make room for it.
    Attach {
        /// The flush policy: the S1 sequence rather than the relaxed one (OQ-2).
        ordered: bool,
        /// How long I/O may stay parked while the device is suspended, in nanoseconds.
        parked_limit_ns: Option<u64>,
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
    /// Raise or leave down the noflush flag and tell the live targets (4.1 steps 1 and 2). Not acknowledged: what follows it is,
    /// and a core takes its orders in turn.
    Presuspend {
        /// Targets may push back what merely waits.
        noflush: bool,
    },
    /// Everything has drained: the noflush flag falls, what was pushed back goes before what was deferred, the live targets are told
    /// (4.1 steps 10 to 12a).
    Postsuspend,
    /// The suspend is given up: first the targets are told, then the flag falls and the gate opens (SU-8).
    Undo,
    /// The inactive table becomes the live one, with these limits; the old one is kept until the device has been resumed, or
    /// has failed to be (1.4).
    Swap(Arc<Limits>),
    /// As [`Order::Swap`], of the staged table: the inactive slot is left alone, so that all can be taken back.
    Exchange(Arc<Limits>),
    /// Takes an exchange back: the old table is live again, not resumed; the new one is closed.
    Revert,
    /// Ask the live targets whether they can be resumed (4.3 step 2).
    Preresume,
    /// Close the table before the last swap: the new one is live but could not be resumed (1.4 step 6).
    Retire,
    /// Resume the targets, open the gate of the suspend and re-issue what is parked (4.3 steps 3 and 4).
    Resume,
    /// Open the gate and re-issue what is parked, if no other reason keeps it closed.
    Open(Gate),
    /// Complete what the closed gate has parked with an I/O error, and say how many that were before acknowledging.
    FailParked,
    /// An operator's message to the target at a sector. The home core answers the ticket.
    Message {
        /// A sector of the target.
        sector: u64,
        /// The words.
        words: Arc<[String]>,
        /// The device is suspended.
        suspended: bool,
        /// Whom the home core answers.
        ticket: Ticket,
    },
    /// What one core's copy of a target has seen. Goes to all, that core included.
    Notice(Seen),
    /// Flush everything beneath the live table, past the gate, and report it to the sequence.
    Flush,
    /// The same for a suspend that wants everything durable before the gate closes (lockfs).
    Freeze,
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
    FlushDone(StepEnd),
    /// The data step of the running sequence ended.
    DataDone(StepEnd),
    /// The flush of [`Order::Freeze`] ended.
    FreezeDone {
        /// The round it was ordered with: a suspend that was given up does not wait for it.
        epoch: Epoch,
        /// How.
        status: Status,
    },
    /// One core's copy of a target has seen something that the others should know of.
    Notice(Seen),
    /// A message or notice has changed a target in a way that counts as an event.
    Told,
    /// So many originals were failed by [`Order::FailParked`] on one core.
    Failed(u32),
    /// An operator's request.
    Request(Request, Ticket),
}

/// How a step of a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepEnd {
    /// Done, with this status.
    Done(Status),
    /// A clone was handed back: the step is to be repeated as a whole (FL-12), after a while.
    Requeue {
        /// Nanoseconds.
        delay_ns: u64,
    },
}

/// What a target of a live table has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which table: what a table that is no longer live has seen is of no interest (LC-25).
    pub table: Epoch,
    /// The target's place in it.
    pub place: u32,
    /// What.
    pub notice: Notice,
}

/// How a suspend goes about what is in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SuspendOptions {
    /// Push back what merely waits rather than finish or fail it.
    pub noflush: bool,
    /// Flush the device before its gate closes, so that all that hosts were told is complete is durable: what freezing a file
    /// system would give. Overridden by `noflush` (4.1 step 3).
    pub lockfs: bool,
    /// Give up after this many nanoseconds.
    pub timeout_ns: Option<u64>,
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
        /// How long I/O may stay parked while the device is suspended, in nanoseconds; then it fails with [`Status::Timeout`].
        parked_limit_ns: Option<u64>,
    },
    /// Fill the inactive slot.
    Load(Arc<Table>),
    /// Empty the inactive slot.
    Clear,
    /// Park new I/O and wait for what is in flight.
    Suspend(SuspendOptions),
    /// Swap in the inactive table, if there is one, and let I/O run.
    Resume {
        /// Whether a front end holds the device, so that its block size must not change (LC-16).
        open: bool,
        /// For the suspend that a swap implies, if the device runs.
        suspend: SuspendOptions,
    },
    /// Let a suspended device run again on the live table, whatever is in the inactive slot: takes back a suspend that was part of
    /// something larger.
    Unsuspend,
    /// Make a table live in one step, whatever is in the inactive slot: suspend, swap, resume. When any of that fails, all
    /// of it is undone.
    Swap {
        /// The new table.
        table: Arc<Table>,
        /// As of [`Request::Resume`].
        open: bool,
        /// For the suspend, if the device runs.
        suspend: SuspendOptions,
    },
    /// Give up the suspend that is under way, alone or as part of a swap.
    Cancel,
    /// Whoever was given this ticket does not want it any more: what waits is not begun, a suspend under way is given up; what
    /// is past that ends as it would have. The ticket is answered in any case.
    GiveUp(Ticket),
    /// Suspend for the sake of something else than an operator: counted, always noflush (LC-26).
    SuspendInternally,
    /// Take back one of those.
    ResumeInternally,
    /// Complete what is parked on a suspended device with an I/O error.
    FailParked,
    /// Tell the target at a sector something.
    Message {
        /// A sector of the target.
        sector: u64,
        /// The words.
        words: Vec<String>,
    },
    /// Answered as soon as the device's event number is another one than this (LC-24).
    Wait {
        /// The number that is known.
        event_nr: u32,
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
    /// To [`Request::Message`]: what the target said, if anything.
    Text(Option<String>),
    /// To [`Request::FailParked`]: how many.
    Count(u64),
}

/// What [`Request`]s end in.
pub type Answer = Result<Reply, Error>;

/// The state of a device, as its home core knows it (LC-22).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// No I/O passes until it is resumed.
    pub suspended: bool,
    /// It is suspended for the sake of something else than an operator.
    pub suspended_internally: bool,
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
    /// How long I/O may stay parked while the device is suspended, in nanoseconds.
    pub parked_limit_ns: Option<u64>,
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
