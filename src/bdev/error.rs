//! What can go wrong on the control side of a backing device.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::dm::DeviceId;

/// Why a backing device could not be opened, changed or removed. Nothing has changed then.
#[derive(Debug)]
pub enum Error {
    /// The name is taken.
    Exists {
        /// The name.
        name: String,
    },
    /// There is no such device.
    Missing {
        /// The name asked for.
        name: String,
    },
    /// Tables name it, or reactors have it open.
    InUse {
        /// The device.
        name: String,
        /// One entry for each table: the mapped device that it was made for, if it was for one.
        tables: Vec<Option<DeviceId>>,
        /// Open channels, over all reactors.
        channels: u32,
    },
    /// Neither 512 nor 4096.
    BlockSize {
        /// What was asked for.
        block_bytes: u32,
    },
    /// A size that is zero, no multiple of the block size, or beyond what can be addressed.
    Size {
        /// What was asked for, or what the file has.
        bytes: u64,
        /// What it must be a multiple of.
        block_bytes: u32,
    },
    /// The file is smaller or larger than it may be.
    FileSize {
        /// The file.
        path: PathBuf,
        /// What it has.
        has_bytes: u64,
        /// What was asked for.
        wanted_bytes: u64,
        /// What would be right.
        advice: &'static str,
    },
    /// The block device's own block size is larger than the one asked for.
    DeviceBlock {
        /// The device.
        path: PathBuf,
        /// Its logical block size.
        device_bytes: u32,
        /// What was asked for.
        block_bytes: u32,
    },
    /// Another process, or another backing device, has the file.
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read past the page cache in blocks of this size.
    NotDirect {
        /// The file.
        path: PathBuf,
        /// The block size asked for.
        block_bytes: u32,
    },
    /// Neither a regular file nor a block device.
    NotAFile {
        /// What it was.
        path: PathBuf,
    },
    /// The size of this kind of device cannot be changed so.
    CannotResize {
        /// The device.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// No memory to be had.
    Memory {
        /// How much was wanted.
        bytes: u64,
        /// What the kernel said.
        error: io::Error,
    },
    /// The kernel has no io_uring for us.
    NoRing {
        /// What the kernel said.
        error: io::Error,
    },
    /// A remote cannot be used.
    Remote {
        /// Where it was looked for.
        address: String,
        /// Why not, and what would be right.
        reason: String,
    },
    /// A device is no NVMe namespace, or none that can be used.
    Nvme {
        /// The device.
        path: PathBuf,
        /// Why not, and what would be right.
        reason: String,
    },
    /// The kernel uses the block device of the same namespace.
    Held {
        /// The generic device.
        path: PathBuf,
        /// The block device.
        block: PathBuf,
    },
    /// The engine that was to open it could not.
    Engine {
        /// Why not, and what would be right.
        reason: String,
    },
    /// Anything else that the kernel said of the file.
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Exists { name } => {
                write!(f, "a bdev named {name:?} exists already; names are unique")
            }
            Error::Missing { name } => write!(f, "there is no bdev named {name:?}"),
            Error::InUse {
                name,
                tables,
                channels,
            } => write!(
                f,
                "bdev {name:?} is in use: {} table(s) name it, {channels} channel(s) to it are open; load and resume other tables first",
                tables.len()
            ),
            Error::BlockSize { block_bytes } => {
                write!(
                    f,
                    "block size {block_bytes} is not supported; it must be 512 or 4096"
                )
            }
            Error::Size { bytes, block_bytes } => write!(
                f,
                "size {bytes} is not a positive multiple of the block size {block_bytes} that can be addressed"
            ),
            Error::FileSize {
                path,
                has_bytes,
                wanted_bytes,
                advice,
            } => write!(
                f,
                "{} has {has_bytes} bytes, but {wanted_bytes} are asked for; {advice}",
                path.display()
            ),
            Error::DeviceBlock {
                path,
                device_bytes,
                block_bytes,
            } => write!(
                f,
                "{} has blocks of {device_bytes} bytes, so it cannot have a block size of {block_bytes}; use {device_bytes}",
                path.display()
            ),
            Error::Locked { path } => write!(
                f,
                "{} is locked: another process or another bdev has it open; `lslocks` shows which",
                path.display()
            ),
            Error::NotDirect { path, block_bytes } => write!(
                f,
                "{} cannot be opened for direct I/O in blocks of {block_bytes} bytes on this file system; use direct: auto or off",
                path.display()
            ),
            Error::NotAFile { path } => {
                write!(
                    f,
                    "{} is neither a regular file nor a block device",
                    path.display()
                )
            }
            Error::CannotResize { name, reason } => {
                write!(f, "bdev {name:?} cannot be resized: {reason}")
            }
            Error::Memory { bytes, error } => {
                write!(f, "no address space for {bytes} bytes: {error}")
            }
            Error::NoRing { error } => write!(
                f,
                "io_uring is not available ({error}), and file and nvme bdevs need it; check /proc/sys/kernel/io_uring_disabled, the \
                 container's seccomp profile, and that the kernel is 5.6 or newer"
            ),
            Error::Remote { address, reason } => write!(f, "{address}: {reason}"),
            Error::Nvme { path, reason } => write!(f, "{}: {reason}", path.display()),
            Error::Held { path, block } => write!(
                f,
                "{}: its block device {} is mounted or in use; `lsblk {}` shows by what",
                path.display(),
                block.display(),
                block.display()
            ),
            Error::Engine { reason } => f.write_str(reason),
            Error::File { path, what, error } => {
                write!(f, "{}: cannot {what}: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Memory { error, .. } | Error::NoRing { error } | Error::File { error, .. } => {
                Some(error)
            }
            _ => None,
        }
    }
}
