//! The ways hosts reach mapped devices.
//!
//! By file, what all of them share; the rooms are the protocols:
//!
//! | file | what is in it |
//! |---|---|
//! | [`backend`], `core_backend` | how a front end submits to a mapped device, over the engine or over memory |
//! | `chunk`, `inlet`, `transmit` | what is received into, and what waits to be sent |
//! | [`listener`], `connection` | sockets |
//! | [`memory`] | a device in memory, for tests |
//! | [`stats`] | counters and latency histograms of what hosts have asked for |
//! | `protocol`, [`frame`] | what a protocol is to its socket, and the poll loop of a core |

pub mod backend;
mod chunk;
mod connection;
mod core_backend;
pub mod frame;
mod inlet;
pub mod iscsi;
pub mod listener;
pub mod memory;
pub mod nvmf;
mod protocol;
pub mod stats;
mod transmit;
