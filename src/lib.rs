//! polldm: a user-space device mapper and polled-mode storage target.
//!
//! The house, top down; a room imports only from rooms below it.
//!
//! | room | what is in it |
//! |---|---|
//! | [`cli`] | the commands |
//! | [`control`] | JSON-RPC on a UNIX socket: server, client, one schema |
//! | [`demo`] | a target and a host in one process, and a table that is swapped between them |
//! | [`node`] | a running node, built from a configuration |
//! | [`config`] | YAML into a validated, typed plan |
//! | [`export`] | the NVMe/TCP and iSCSI targets, and what they share |
//! | [`mod@bench`] | load generator and reports |
//! | [`host`] | the NVMe/TCP and iSCSI initiators |
//! | [`nvme`] | NVMe and NVMe/TCP as bytes: commands, status codes, PDUs; shared by target and initiator |
//! | [`mod@iscsi`] | iSCSI as bytes: PDUs, text keys, proofs; shared by target and initiator |
//! | [`sim`] | the simulator: the mapper of several cores under a seeded scheduler, and what checks it |
//! | `spdk` | the SPDK engine, in a build with the feature of that name |
//! | [`engine`] | what one reactor of the native engine holds, and the control plane of every engine |
//! | [`scsi`] | the SCSI device server for disks: CDBs in, status, sense and parameter data out |
//! | [`bdev`] | backing devices of the native engine |
//! | [`reactor`] | pinned threads that poll: mailbox, timers, sleep, buffers |
//! | [`dm`] | the device mapper: no I/O, no clock, no threads |
//! | `suggest` | the name that an operator may have meant |

pub mod bdev;
pub mod bench;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod dm;
pub mod engine;
pub mod export;
pub mod host;
pub mod iscsi;
pub mod node;
pub mod nvme;
pub mod reactor;
pub mod scsi;
pub mod sim;
#[cfg(feature = "spdk")]
pub mod spdk;
mod suggest;
