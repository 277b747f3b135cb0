//! The backing devices of an engine, by name. Used when devices are opened and tables are loaded, never by I/O.

use std::fmt;
use std::sync::{Arc, RwLock};

use super::channel::Channel;
use super::core::Core;
use super::malloc::{Malloc, Memory};
use crate::dm::{Lower, LowerId};

/// What kind of device to open, and how. Sizes are in bytes, multiples of the block size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// Nothing is kept.
    Null {
        /// Size.
        bytes: u64,
        /// Logical block size: 512 or 4096.
        block_bytes: u32,
    },
    /// Kept in memory.
    Malloc {
        /// Size.
        bytes: u64,
        /// Logical block size: 512 or 4096.
        block_bytes: u32,
        /// Declare a volatile write cache, so that hosts send flushes.
        volatile_cache: bool,
    },
}

/// Why a device cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The name is taken.
    Exists(String),
    /// A size of zero, or no multiple of the block size, or a block size other than 512 and 4096.
    Shape(String),
    /// The system says no.
    System {
        /// What was tried.
        what: String,
        /// Its answer.
        source: std::io::Error,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Exists(name) => write!(f, "there is a bdev '{name}' already"),
            OpenError::Shape(reason) => f.write_str(reason),
            OpenError::System { what, source } => write!(f, "{what}: {source}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// An open backing device.
#[derive(Debug)]
pub struct Bdev {
    declared: Lower,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Null,
    Malloc(Arc<Memory>),
}

impl Bdev {
    /// Opens a device. The only place where anything may block: the control plane's threads do it, never a reactor.
    fn open(id: LowerId, name: &str, spec: Spec) -> Result<Bdev, OpenError> {
        let (bytes, block_bytes, volatile_cache, kind) = match spec {
            Spec::Null { bytes, block_bytes } => (bytes, block_bytes, false, Kind::Null),
            Spec::Malloc {
                bytes,
                block_bytes,
                volatile_cache,
            } => {
                check_shape(bytes, block_bytes)?;
                let memory = Memory::map(bytes).map_err(|source| OpenError::System {
                    what: format!("cannot map {bytes} bytes of memory"),
                    source,
                })?;
                (
                    bytes,
                    block_bytes,
                    volatile_cache,
                    Kind::Malloc(Arc::new(memory)),
                )
            }
        };
        check_shape(bytes, block_bytes)?;
        let declared = Lower {
            id,
            name: name.into(),
            sectors: bytes / 512,
            block_bytes,
            volatile_cache,
            flush: true,
            fua: true,
            discard: true,
            write_zeroes: true,
            transfer_sectors_max: 0,
            optimal_write_bytes: block_bytes,
            read_only: false,
        };
        Ok(Bdev { declared, kind })
    }

    /// What the device can do.
    pub fn declare(&self) -> Lower {
        self.declared.clone()
    }

    /// The kind, as in the configuration.
    pub fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Null => "null",
            Kind::Malloc(_) => "malloc",
        }
    }

    /// A channel to the device for one reactor.
    ///
    /// # Errors
    /// When the reactor lacks what the device needs there.
    pub fn channel(&self, _core: &mut Core) -> Result<Channel, OpenError> {
        Ok(match &self.kind {
            Kind::Null => Channel::Null,
            Kind::Malloc(memory) => Channel::Malloc(Malloc::new(memory.clone())),
        })
    }
}

fn check_shape(bytes: u64, block_bytes: u32) -> Result<(), OpenError> {
    if block_bytes != 512 && block_bytes != 4096 {
        return Err(OpenError::Shape(format!(
            "a block size of {block_bytes} bytes: 512 and 4096 are possible"
        )));
    }
    if bytes == 0 || !bytes.is_multiple_of(u64::from(block_bytes)) {
        return Err(OpenError::Shape(format!(
            "a size of {bytes} bytes is not a positive multiple of the block size {block_bytes}"
        )));
    }
    Ok(())
}

/// All backing devices.
#[derive(Debug, Default)]
pub struct Registry {
    bdevs: RwLock<Vec<Arc<Bdev>>>,
}

impl Registry {
    /// Opens a device and gives it a name.
    ///
    /// # Errors
    /// When the name is taken or the device cannot be opened.
    pub fn add(&self, name: &str, spec: Spec) -> Result<LowerId, OpenError> {
        let mut bdevs = self
            .bdevs
            .write()
            .expect("no holder of this lock can panic");
        if bdevs.iter().any(|bdev| bdev.declared.name == name) {
            return Err(OpenError::Exists(name.into()));
        }
        let id = LowerId(bdevs.len() as u32);
        bdevs.push(Arc::new(Bdev::open(id, name, spec)?));
        Ok(id)
    }

    /// The device of a name.
    pub fn by_name(&self, name: &str) -> Option<Arc<Bdev>> {
        self.list()
            .into_iter()
            .find(|bdev| bdev.declared.name == name)
    }

    /// The device of a number.
    pub fn by_id(&self, id: LowerId) -> Option<Arc<Bdev>> {
        self.list().into_iter().find(|bdev| bdev.declared.id == id)
    }

    /// All devices, in the order they were opened.
    pub fn list(&self) -> Vec<Arc<Bdev>> {
        self.bdevs
            .read()
            .expect("no holder of this lock can panic")
            .clone()
    }
}
