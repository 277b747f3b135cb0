//! NVMe and NVMe/TCP as bytes: what target and initiator put on the wire and take from it.
//!
//! Nothing here does I/O, reads a clock or allocates on the data path: every type is decoded from a
//! slice and encoded into one. All numbers on the wire are little endian (NVMe Base 2.0, 1.6.3).
//!
//! | file | what is in it |
//! |---|---|
//! | [`command`] | the 64-byte submission entry, its data pointer, the 16-byte completion entry |
//! | [`opcode`] | admin, I/O and fabrics operation codes |
//! | [`status`] | status codes and the do-not-retry bit |
//! | [`pdu`] | NVMe/TCP PDUs, their strict header decoder, digests |
//! | [`fabrics`] | Connect, Property Get/Set, Disconnect; controller properties |
//! | [`identify`] | Identify data structures |
//! | [`log`] | log pages |
//! | [`feature`] | feature identifiers and their values |
//! | [`fuzz()`] | the harness for hostile bytes |

pub mod bytes;
pub mod command;
pub mod fabrics;
pub mod feature;
mod fuzz;
mod header;
pub mod identify;
pub mod log;
pub mod opcode;
pub mod pdu;
pub mod status;

pub use command::{Command, Completion, DataPointer};
pub use fuzz::fuzz;
pub use status::Status;

/// The namespace identifier that stands for every namespace (NVMe Base 2.0, 3.2.1).
pub const NSID_ALL: u32 = 0xFFFF_FFFF;

/// The well-known NQN of every discovery service (NVMe Base 2.0, 4.5).
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// Longest NQN in bytes, without its terminating zero (NVMe Base 2.0, 4.5).
pub const NQN_SIZE_MAX: usize = 223;

/// The TCP port of NVMe/TCP I/O controllers (NVMe/TCP Transport 1.0, 3.1.2).
pub const PORT_IO: u16 = 4420;

/// The TCP port of NVMe/TCP discovery controllers (NVMe/TCP Transport 1.0, 3.1.2).
pub const PORT_DISCOVERY: u16 = 8009;

/// Version 2.0 as the VS property and the VER field spell it (NVMe Base 2.0, 3.1.3.2).
pub const VERSION_2_0: u32 = 0x0002_0000;
