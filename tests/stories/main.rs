//! What a host sees of noflush suspends, swaps, lost paths and flushes (section 7 of the semantics): the same stories on either engine, which are
//! processes, to a host over NVMe/TCP, with NVMe/TCP beneath. A build with the feature `spdk` tells them of the SPDK engine, any other of the native one.
//!
//! SPDK polls on a CPU by itself and locks it, so there its stories are told one at a time.

// The fake controller's file and its peer's are of the library's own tests, and name what is around them as there.
#[cfg(not(feature = "spdk"))]
mod barriers;
mod blocks;
mod counters;
#[path = "../linux-host/counts.rs"]
mod counts;
mod durability;
#[path = "../../src/bdev/remote/tests/fake.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod fake;
mod flushes;
mod generator;
mod iscsi;
mod levels;
mod life;
mod load;
mod lost_paths;
mod node;
mod nvmf_tgt;
mod operators;
#[path = "../../src/host/peer.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod peer;
mod pieces;
#[path = "../spdk/process.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod process;
#[path = "../remote/processes.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod processes;
#[path = "../spdk/programs.rs"]
mod programs;
mod selectors;
mod sequences;
mod statuses;
mod suspends;
mod verbs;
mod ways;

use polldm::host::{address, connection, error, queue};
use polldm::nvme;

mod host {
    pub(crate) use super::peer;
}

/// Bytes of a block, of all devices.
const BLOCK: usize = 4096;

/// Sectors of a block.
const BLOCK_SECTORS: u64 = 8;
