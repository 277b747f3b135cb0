//! The SPDK engine: the same mapper on SPDK's reactors, over SPDK's bdevs; every mapped device is an SPDK bdev, which SPDK's own targets
//! export.
//!
//! ```text
//! SPDK's NVMe-oF target ─▶ bdev layer ─▶ module: submit_request ─▶ core: dm::Mapper ─▶ lower: bdev layer ─▶ SPDK's NVMe, malloc, aio …
//! ```
//!
//! | file | |
//! |---|---|
//! | `app`, `log`, `memory`, `pci`, `directory` | SPDK's application in this process: start, stop, what it says, the hugepages and devices that it needs, where its socket is |
//! | `leaving` | the end of the process while SPDK runs |
//! | `thread` | `spdk_thread`s, and work sent to them |
//! | `rpc` | what SPDK is asked by its own JSON-RPC: to make and delete bdevs, to export |
//! | `core` | one reactor: a mapper, who enters it, and what follows when it is left |
//! | `passing` | reads and writes that go through without a slot of the mapper's |
//! | `lower`, `payload` | what is beneath the mapper: [`crate::dm::Env`] over SPDK's channels |
//! | `private` | buffers that no host knows of |
//! | `device` | one backing device: an open bdev |
//! | `attach` | how NVMe controllers beneath are attached |
//! | `queues` | I/O queues of an NVMe controller beneath: how many there are, and whose |
//! | `module` | mapped devices as SPDK bdevs |
//! | `zeroes` | write zeroes that a table does not take |
//! | `compare` | a host's compare with one, where SPDK does not tell of a difference |
//! | `reset` | a host's reset of one |
//! | `world` | all of it, as the control plane reaches it |
//! | `host` | a user of one bdev: what a load generator needs |
//! | `export` | mapped devices as namespaces of SPDK's NVMe-oF target |
//! | `iscsi` | mapped devices as units of SPDK's iSCSI target |
//! | `hangup` | the end of hosts' connections |
//!
//! # Threads
//!
//! There is one mapper per *reactor*, on an `spdk_thread` of its own that never leaves its CPU. SPDK's targets submit from threads of theirs;
//! whichever of a reactor's threads that is, it runs on the same system thread as the mapper, so the mapper is entered at once. Most reads
//! and writes then go on in the name of the thread that they came from, on a channel of its own (`passing`); for all others the mapper
//! borrows SPDK's notion of the current thread (`core`). *Turned down:* a mapper for each `spdk_thread`, which would need cores that come
//! and go, and a message to the mapper's thread for each I/O.
//!
//! # Panics
//!
//! What SPDK calls is `extern "C"`, out of which no panic unwinds: the process ends, whatever the profile.

mod app;
mod attach;
mod compare;
mod core;
mod device;
mod directory;
mod export;
mod hangup;
mod host;
mod iscsi;
mod leaving;
mod log;
mod lower;
mod memory;
mod module;
mod passing;
mod payload;
mod pci;
mod private;
mod queues;
mod reset;
mod rpc;
mod thread;
mod world;
mod zeroes;

pub use app::Options;
pub use export::{Export, HAS_RDMA, HAS_VFIO_USER, Listener, Namespace, Subsystem};
pub use host::{Act, Host};
pub use iscsi::{Chap, HAS_ISCSI, IscsiExport, Target};
pub use pci::check_pci;
pub use world::World;
