//! The simulator: the mapper of several cores, unchanged, in a world where every choice is in the hands of a seed.
//!
//! [`Cluster`] holds one [`crate::dm::Mapper`] per core, the queues of messages between them (first in, first out per pair of
//! cores; which pair comes next is the scheduler's choice), lower devices in memory, and a clock that only the scheduler moves. One
//! call of [`Cluster::step`] does one thing that could happen next: deliver a message, complete a clone, let a core retry what was busy.

mod ask;
mod bytes;
mod cluster;
mod disk;
mod random;
mod world;

pub use ask::Ask;
pub use bytes::Bytes;
pub use cluster::Cluster;
pub use disk::{Answers, DISCARDED, Disk, Held, Taken};
pub use random::Random;
pub use world::{Channel, Seen, Shared, World};
