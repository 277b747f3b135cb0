//! The load generator: how fast is a target, and how late are its slowest answers?
//!
//! | file | what is in it |
//! |---|---|
//! | [`options`] | the command line, and what is wrong with it |
//! | [`backend`] | what is driven: one trait, a batch at a time |
//! | [`nvme_tcp`] | a namespace over NVMe/TCP, through [`crate::host`] |
//! | [`mod@iscsi`] | a logical unit over iSCSI, likewise |
//! | [`workload`] | which I/O comes next |
//! | [`pattern`] | places, and the contents that `--verify` checks |
//! | [`job`] | the measuring loop of one thread |
//! | [`mod@run`] | all jobs, the progress line, the files |
//! | [`report`] | text, JSON, histogram log |
//! | [`plot`] | percentile plot |
//! | [`against`] | two targets in turn, and how sure their difference is |
//! | [`gaps`] | how long hosts wait around swaps |
//! | [`cores`] | pinning, processor time |
//!
//! **Closed loop** (default): each job keeps its queue full; latency counts from submission. **Open loop**
//! (`--rate`): I/Os are due on a fixed schedule, and latency counts from when an I/O was due, so a stall is
//! charged to everything that had to wait for it (coordinated omission).
//!
//! Every run ends by itself: after warm-up and time, with ten seconds for what is still outstanding, and
//! with `--verify` a bounded time for reading everything back.

pub mod against;
pub mod backend;
pub mod cores;
pub mod gaps;
pub mod iscsi;
pub mod job;
pub mod nvme_tcp;
pub mod options;
pub mod pattern;
pub mod plot;
pub mod report;
pub mod run;
#[cfg(test)]
mod testing;
pub mod workload;

pub use against::{Comparison, compare};
pub use backend::{Backend, Data, Done, Geometry, Kind, NoData, Request, Target};
pub use iscsi::IscsiTarget;
pub use nvme_tcp::NvmeTcpTarget;
pub use options::{Options, TargetAddress};
pub use report::{Measured, Report};
pub use run::{execute, execute_in_turn, run};
