//! The device mapper: no I/O, no clock, no threads, no sockets.
//!
//! [`Mapper`] is one core's part. What it needs of the world is [`Env`]; cores speak to each other in [`Message`]s. The same code runs
//! on the native engine, and is meant to run on SPDK's reactors and in a simulator.
//!
//! | file | |
//! |---|---|
//! | `io`, `status`, `limits` | one I/O, its result, what a device can do |
//! | `geometry` | what of that front ends tell their hosts |
//! | `table`, `target/` | tables, and one file per target type |
//! | `mapper`, `whole`, `bound`, `clones`, `ending` | the I/O path of one core: admit, map, clone, complete |
//! | `lane` | what of it is left for reads and writes that an engine keeps itself |
//! | `given_up` | I/O that waits and is not wanted any more |
//! | `held`, `timers` | clones that targets keep or hand back, and what has to happen later |
//! | `private` | clones that go through a buffer of the mapper's own |
//! | `stacked` | mapped devices beneath mapped devices |
//! | `message`, `orders` | what cores tell each other, and what a core does when ordered |
//! | `device`, `suspend`, `exchange`, `sequence` | the home core's state machines: life-cycle, suspend and swap, flush sequences |
//! | `registry` | names |
//! | `invariants`, `defect` | what the simulator checks between calls, and what it plants to be found |

mod bound;
mod clones;
mod defect;
mod device;
mod ending;
pub mod env;
pub mod error;
mod exchange;
mod geometry;
mod given_up;
mod held;
mod invariants;
pub mod io;
mod lane;
pub mod limits;
pub mod mapper;
pub mod message;
mod orders;
mod parked;
mod private;
pub mod registry;
mod sequence;
mod slab;
mod stacked;
pub mod stats;
pub mod status;
mod suspend;
pub mod table;
pub mod target;
#[cfg(test)]
mod tests;
mod timers;
mod whole;

pub use defect::Defect;
pub use env::{BufferId, Env, PRIVATE_SECTORS_MAX, Submit};
pub use error::{Errno, Error};
pub use geometry::Geometry;
pub use io::{CloneId, CoreId, DeviceId, Io, LowerIo, Op, Payload, Tag};
pub use lane::{Lane, Passing, Way};
pub use limits::{AtomicWrites, Lower, LowerId};
pub use mapper::Mapper;
pub use message::{
    Answer, Event, Info, Message, Reply, Request, SuspendOptions, TargetLine, Ticket,
};
pub use registry::Registry;
pub use stacked::LEVELS_MAX;
pub use stats::{Histogram, Stats};
pub use status::Status;
pub use table::{Limits, Table, TableError};
pub use target::Tamper;
pub use whole::Passage;
