//! A SCSI device server for disks: SAM-5, SPC-4, SBC-3. CDBs in; status, sense data and parameter data out.
//!
//! It knows nothing of iSCSI, sockets or reactors, and does no I/O: a command becomes a [`Plan`], and what takes several I/Os is a
//! [`Job`] that says what to submit next. Whoever carries a command (an export) submits it, moves the data, and tells how it ended.
//!
//! What all initiators of a logical unit share (reservations, mode parameters, unit attentions) is a [`Unit`], behind a lock that
//! reads and writes do not take: they compare one number ([`View`]).
//!
//! | file | what is in it |
//! |---|---|
//! | [`cdb`] | command descriptor blocks |
//! | `catalog` | every command that is carried out, once: its CDB, what it needs, who does it |
//! | `serve` | what every command goes through before it is carried out |
//! | `block`, `job` | commands that move blocks, and those that take several steps |
//! | `atomic` | WRITE ATOMIC, and which writes it is offered for |
//! | `copy` | EXTENDED COPY between the units of a target, and RECEIVE COPY RESULTS |
//! | `sanitize` | SANITIZE |
//! | `inquiry`, `mode`, `report`, `opcodes` | commands that ask or set |
//! | `port_groups` | the ways to a target, and how well they are |
//! | [`persistent`], `reserve` | who may use a unit |
//! | [`mod@unit`] | a logical unit, and one nexus's view of it |
//! | [`sense`], [`lun`] | sense data; logical unit numbers |

mod atomic;
mod block;
mod catalog;
pub mod cdb;
mod copy;
mod inquiry;
mod job;
pub mod lun;
mod mode;
mod opcodes;
pub mod persistent;
mod port_groups;
mod report;
mod reserve;
mod sanitize;
pub mod sense;
mod serve;
pub mod unit;

pub use atomic::Atomic;
pub use cdb::Cdb;
pub use inquiry::Port;
pub use job::{Action, Job, Place, Step, Work};
pub use lun::Lun;
pub use port_groups::{Altered, PortGroup};
pub use sanitize::Overwrite;
pub use sense::{Outcome, Sense};
pub use serve::{Directory, Limits, Seat, TRANSFER_BYTES_MAX, serve, serve_nothing};
pub use unit::{Access, Identity, InitiatorPort, Nexus, NexusId, Unit, View};

/// A range of a unit in sectors of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first.
    pub sector: u64,
    /// How many; none is legal and moves nothing.
    pub sectors: u32,
}

/// What is to be done for a command.
#[derive(Debug)]
pub enum Plan {
    /// It has ended.
    End(Outcome),
    /// It has ended well, with this data, which is as long as the initiator asked for at most.
    Answer(Vec<u8>),
    /// The blocks go from the device to the initiator.
    Read(Extent),
    /// The blocks go from the initiator to the device.
    Write {
        /// Where to.
        extent: Extent,
        /// Durable when it ends.
        fua: bool,
    },
    /// More than that.
    Job(Box<Job>),
}

/// Parameter lists: what an initiator sends that is not for the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parameters {
    ModeSelect,
    PersistentReserveOut,
    SetTargetPortGroups,
}

impl Plan {
    /// Parameter data, cut to the allocation length.
    fn answer(mut data: Vec<u8>, length: u32) -> Self {
        data.truncate(length as usize);
        Plan::Answer(data)
    }

    /// A command that needs `length` bytes of parameters first.
    fn parameters(length: u32, parameters: Parameters) -> Self {
        Plan::Job(Box::new(Job::parameters(length, parameters)))
    }
}

/// Text in a field of a fixed size: cut, or followed by blanks.
fn padded<const SIZE: usize>(text: &str) -> [u8; SIZE] {
    let bytes = text.as_bytes();
    std::array::from_fn(|index| bytes.get(index).copied().unwrap_or(b' '))
}

#[cfg(test)]
mod tests;
