//! Backing devices of the native engine: null, malloc, file, nvme, nvme-tcp.
//!
//! A [`Bdev`] is one device, known to the whole process through the [`Registry`]; a [`Channel`] is what one reactor
//! submits to; a [`Core`] is what all channels of one reactor share: the io_uring, the buffers, the list of what has ended.
//! Opening, resizing and removing happen on the control thread and may block; nothing a reactor calls ever does.
//!
//! | kind | completes | cost of submit and complete | reads |
//! |---|---|---|---|
//! | null | at the next poll | 4.4 ns; lent 13 ns | lend zeroes, or leave the memory as it is |
//! | malloc | at once | 4 KiB: lent 13 ns, copied 39 ns, written 83 ns | lend the device's own memory, or copy |
//! | file | when io_uring says so | the kernel's | lend pool buffers, or straight into the payload |
//! | nvme | when the kernel's driver says so, or polls | the kernel's | lend pool buffers, or straight into the payload |
//! | nvme-tcp | when the remote answers | a copy, and the kernel's | lend pool buffers, or straight into the payload |
//!
//! Measured with `cargo bench --bench mailbox` (CPU time, 128 I/Os per poll, without LTO, on a Xeon of 2023); a lent read includes giving the
//! data back.

mod channel;
mod core;
mod device;
mod errno;
mod error;
mod file;
mod foreign;
mod handle;
mod malloc;
mod namespace;
mod null;
mod open;
mod passthrough;
mod payload;
mod region;
mod registry;
mod remote;
mod ring;
mod rings;
mod uses;

pub use channel::Channel;
pub use core::Core;
pub use device::Bdev;
pub use error::Error;
pub use foreign::{Foreign, Opened};
pub use handle::Handle;
#[cfg(feature = "spdk")]
pub(crate) use namespace::verdict;
pub use passthrough::NvmeReport;
pub use payload::{LendList, Owner, Payload, Segment};
pub use region::{Region, RegionHandle};
pub use registry::{Registry, Report, Reserved};
pub use remote::{RemoteReport, RemoteSpec, RemoteState};

use std::path::PathBuf;

/// Bytes in a sector, the unit of every position and length in the mapper.
const SECTOR_BYTES: u64 = 512;

/// Whether a file is read and written past the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direct {
    /// Past it where the file system and the block size allow.
    #[default]
    Auto,
    /// Past it, or refuse to open.
    On,
    /// Through it.
    Off,
}

/// What is to become of I/O to a remote whose connection was lost, or that the kernel's NVMe driver has given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It is kept, and submitted again when the device is back.
    Holds,
    /// It fails at once with [`crate::dm::Status::Transport`], because whoever sent it has other ways to go.
    FailsFast,
}

/// What a backing device is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// Accepts everything, keeps nothing.
    Null {
        /// Size; a multiple of the block size.
        bytes: u64,
        /// Logical block size: 512 or 4096.
        block_bytes: u32,
    },
    /// Memory of this process.
    Malloc {
        /// Size; a multiple of the block size. Taken from the system as it is written.
        bytes: u64,
        /// Logical block size: 512 or 4096.
        block_bytes: u32,
        /// Whether to declare a volatile write cache, so that hosts send flushes (which do nothing here).
        volatile_cache: bool,
        /// Whether it writes atomically. What reads have found has to hold still then until it is sent, so it is copied and not lent.
        atomic_writes: bool,
    },
    /// A regular file or a block device.
    File {
        /// Where it is.
        path: PathBuf,
        /// Size; a multiple of the block size. A regular file is created if missing and grown (sparsely) if smaller, and never cut.
        /// `None`: the file must exist and has the size that it has.
        bytes: Option<u64>,
        /// Logical block size: 512 or 4096, at least that of the block device.
        block_bytes: u32,
        /// Whether to go past the page cache.
        direct: Direct,
        /// Opens for reading only, and refuses writes.
        read_only: bool,
    },
    /// A namespace through the kernel's NVMe driver, which has the size and block size that it has.
    Nvme {
        /// Its generic character device, such as /dev/ng0n1.
        device: PathBuf,
    },
    /// A namespace behind an NVMe/TCP connection, which has the size and block size that it has.
    NvmeTcp(Box<RemoteSpec>),
    /// What only SPDK has.
    Spdk(SpdkSpec),
}

/// A backing device that only the SPDK engine can open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpdkSpec {
    /// A namespace of an NVMe controller.
    Nvme {
        /// Where the controller is.
        at: NvmeAddress,
        /// Its namespace.
        nsid: u32,
    },
    /// A bdev that methods of SPDK's JSON-RPC make.
    Json {
        /// A configuration in SPDK's own form; its methods are called when it is first named. `None`: the bdev is there already.
        config: Option<PathBuf>,
        /// The bdev's name in SPDK.
        bdev: String,
        /// Whether there is a volatile cache beneath, in the operator's word; `None`: as far as the bdev tells.
        volatile_cache: Option<bool>,
    },
}

/// How SPDK reaches an NVMe controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NvmeAddress {
    /// Over TCP: address and port, and the subsystem's NQN.
    Tcp(std::net::SocketAddr, String),
    /// On the PCI bus, as `lspci -D` shows it, such as 0000:01:00.0.
    Pcie(String),
    /// A directory with a vfio-user socket.
    VfioUser(PathBuf),
}

#[cfg(test)]
mod removal_tests;
#[cfg(test)]
mod tests;
