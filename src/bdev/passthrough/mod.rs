//! A namespace through the kernel's NVMe driver, past its block layer: the generic character device `/dev/ngXnY`.
//!
//! Commands are polldm's own, so a flush is Flush and FUA is the bit of the write; the driver only carries them to the device. *Turned down:*
//! the block device through io_uring, which `file` does: the kernel decides there what becomes of a flush, a discard and a large write,
//! and polled completion is to be had for direct reads and writes only.
//!
//! | file | what is in it |
//! |---|---|
//! | `abi` | commands as the driver takes them, and the ioctls |
//! | `open` | opening: everything that may block, and all that has to be found out |
//! | `queue` | what sysfs says of the namespace's queue: limits, polled completion |
//! | `request` | one I/O on its way |

mod abi;
mod open;
mod queue;
mod request;

pub(super) use open::Namespace;
pub(super) use request::{NamespaceHandle, Request, submit};

/// What a namespace's generic device is, for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NvmeReport {
    /// The generic device.
    pub device: std::path::PathBuf,
    /// Namespace identifier.
    pub nsid: u32,
    /// The controller's model number.
    pub model: String,
    /// The controller's serial number.
    pub serial: String,
    /// Whether reactors poll for completions; otherwise the device interrupts.
    pub polled: bool,
    /// The largest read or write, in bytes.
    pub transfer_bytes_max: u64,
}
