//! The simulator: the mapper of several cores, unchanged, in a world where every choice is in the hands of a seed.
//!
//! [`Cluster`] holds one [`crate::dm::Mapper`] per core, the queues of messages between them (first in, first out per pair of
//! cores; which pair comes next is the scheduler's choice), lower devices in memory, and a clock that only the scheduler moves. One
//! call of [`Cluster::step`] does one thing that could happen next: deliver a message, complete a clone, let a core retry what was busy.
//!
//! A seed becomes a [`plan::Plan`]: disks, tables, and what hosts, operators and faults will do. [`run::Run`] carries it out on a
//! cluster, looking after every step. [`explore()`] tries seeds, as many at once as the machine has processors, and [`shrink()`]
//! makes what failed short.
//!
//! | file | |
//! |---|---|
//! | `cluster`, `world`, `disk`, `bytes`, `ask`, `random` | the world; the mapper's own tests use it too |
//! | `plan`, `layout` | what a seed stands for |
//! | `run`, `acts`, `state` | a plan carried out: the scheduler, what is done, what is known of a device |
//! | `operators`, `oracle` | what operators must be told, what sectors may hold |
//! | `watch`, `trace` | what is checked at every clone and message; what happened, as lines |
//! | `explore`, `shrink`, `plant` | many seeds; a shorter failure; defects that must be found |

mod acts;
mod ask;
mod bytes;
mod cluster;
mod disk;
mod explore;
mod layout;
mod operators;
pub mod oracle;
pub mod plan;
pub mod plant;
mod random;
pub mod run;
mod shrink;
mod state;
#[cfg(test)]
mod tests;
mod trace;
mod watch;
mod world;

pub use ask::Ask;
pub use bytes::Bytes;
pub use cluster::{Choice, Cluster};
pub use disk::{Answers, DISCARDED, Disk, Held, Taken};
pub use explore::{Failure, Progress, Summary, attempt, explore, replay};
pub use random::Random;
pub use shrink::{Shrunk, shrink};
pub use world::{Channel, Seen, Shared, World};
