//! One backing device, as the control plane holds it.

use std::any::Any;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::dm::limits::Keep;
use crate::dm::{AtomicWrites, DeviceId, Lower, LowerId};

use super::channel::{Channel, Handle};
use super::core::Core;
use super::error::Error;
use super::file::TRANSFER_BYTES_MAX;
use super::foreign::Opened;
use super::handle::Shared;
use super::open::OpenFile;
use super::passthrough::{Namespace, NvmeReport};
use super::region::Region;
use super::remote::{Remote, Standing};
use super::uses::Uses;
use crate::reactor::BUFFER_BYTES_MAX;

use super::{Patience, RemoteSpec, SECTOR_BYTES, Spec};

/// A backing device.
pub struct Bdev {
    facts: Arc<Facts>,
    body: Body,
}

/// What is known of a device for as long as anybody asks, even when it was taken away; shared with its channels.
pub(super) struct Facts {
    pub(super) id: LowerId,
    pub(super) block_bytes: u32,
    pub(super) read_only: bool,
    /// Changed by [`Bdev::resize`], read by every submission.
    pub(super) sectors: AtomicU64,
    /// Open channels, over all reactors.
    pub(super) channels: AtomicU32,
    pub(super) kind: &'static str,
    /// As it was when it was opened; only `sectors` may be others now.
    declared: Lower,
    pub(super) uses: Arc<Uses>,
    /// Of a remote.
    pub(super) standing: Option<Arc<Standing>>,
    /// Of a namespace of the kernel's.
    pub(super) nvme: Option<NvmeReport>,
}

impl Facts {
    fn new(kind: &'static str, declared: Lower) -> Facts {
        Facts {
            id: declared.id,
            block_bytes: declared.block_bytes,
            read_only: declared.read_only,
            sectors: AtomicU64::new(declared.sectors),
            channels: AtomicU32::new(0),
            kind,
            declared,
            uses: Arc::default(),
            standing: None,
            nvme: None,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.declared.name
    }

    /// Whether some of its writes are atomic.
    pub(super) fn writes_atomically(&self) -> bool {
        self.declared.atomic_writes != AtomicWrites::NONE
    }

    /// What it can do, as of now; nothing is kept by it.
    pub(super) fn declare(&self) -> Lower {
        Lower {
            sectors: self.sectors.load(Ordering::Relaxed),
            ..self.declared.clone()
        }
    }

    /// What it can do, for a table of `device`, which counts as a user until it is gone.
    pub(super) fn declare_to(&self, device: Option<DeviceId>) -> Lower {
        Lower {
            keep: Keep(Some(Arc::new(self.uses.begin(device)))),
            ..self.declare()
        }
    }

    /// Whether neither a table nor a reactor has anything to do with it.
    pub(super) fn is_free(&self) -> bool {
        self.channels.load(Ordering::Relaxed) == 0 && self.uses.devices().is_empty()
    }
}

enum Body {
    Null,
    Malloc(Shared<Region>),
    File(Shared<OpenFile>),
    Nvme(Shared<Namespace>),
    Remote(Remote),
    /// Another engine's.
    Foreign(Box<dyn Any + Send + Sync>),
}

impl Bdev {
    pub(super) fn open(id: LowerId, name: &str, spec: &Spec) -> Result<Bdev, Error> {
        let (block_bytes, bytes, read_only, body) = match spec {
            Spec::Nvme { device } => return Bdev::open_namespace(id, name, device),
            Spec::NvmeTcp(spec) => return Bdev::open_remote(id, name, spec),
            Spec::Null { bytes, block_bytes } => {
                check_size(*bytes, *block_bytes)?;
                (*block_bytes, *bytes, false, Body::Null)
            }
            Spec::Malloc {
                bytes, block_bytes, ..
            } => {
                check_size(*bytes, *block_bytes)?;
                let region = Shared::new(Region::new(*bytes)?);
                (*block_bytes, *bytes, false, Body::Malloc(region))
            }
            Spec::File {
                path,
                bytes,
                block_bytes,
                direct,
                read_only,
            } => {
                check_block(*block_bytes)?;
                if let Some(bytes) = bytes {
                    check_size(*bytes, *block_bytes)?;
                }
                let file = OpenFile::open(path, *bytes, *block_bytes, *direct, *read_only)?;
                let bytes = file.bytes();
                check_size(bytes, *block_bytes)?;
                (
                    *block_bytes,
                    bytes,
                    *read_only,
                    Body::File(Shared::new(file)),
                )
            }
            Spec::Spdk(_) => return Err(Error::Engine {
                reason:
                    "this kind of bdev is the SPDK engine's; this node runs on the native engine"
                        .into(),
            }),
        };
        let kind = match body {
            Body::Null => "null",
            Body::Malloc(_) => "malloc",
            Body::File(_) => "file",
            Body::Nvme(_) | Body::Remote(_) | Body::Foreign(_) => {
                unreachable!("opened elsewhere")
            }
        };
        let lower = Lower {
            sectors: bytes / SECTOR_BYTES,
            block_bytes,
            physical_bytes: block_bytes,
            read_only,
            ..able(id, name)
        };
        let declared = match (&body, spec) {
            (
                Body::Malloc(_),
                Spec::Malloc {
                    volatile_cache,
                    atomic_writes,
                    ..
                },
            ) => {
                let lower = Lower {
                    volatile_cache: *volatile_cache,
                    ..lower
                };
                match atomic_writes {
                    false => lower,
                    // A power cut takes all of it, so it leaves no part of a write. Reads are copied into buffers of the pool.
                    true => Lower {
                        atomic_writes: AtomicWrites::ALL,
                        transfer_sectors_max: (BUFFER_BYTES_MAX as u64 / SECTOR_BYTES) as u32,
                        ..lower
                    },
                }
            }
            // Of a write it keeps no part. Reads into memory of the reader's leave that as it is, discarded or not.
            (Body::Null, _) => Lower {
                atomic_writes: AtomicWrites::ALL,
                discard_zeroes: false,
                ..lower
            },
            (Body::File(file), _) => Lower {
                volatile_cache: true,
                discard: file.can_discard(),
                transfer_sectors_max: (TRANSFER_BYTES_MAX as u64 / SECTOR_BYTES) as u32,
                ..lower
            },
            _ => unreachable!("opened elsewhere"),
        };
        Ok(Bdev {
            facts: Arc::new(Facts::new(kind, declared)),
            body,
        })
    }

    /// A device that another engine has opened.
    pub(super) fn foreign(opened: Opened) -> Bdev {
        Bdev {
            facts: Arc::new(Facts::new(opened.kind, opened.declared)),
            body: Body::Foreign(opened.body),
        }
    }

    /// What a device of another engine is made of, for that engine.
    pub fn body_of_engine(&self) -> Option<&(dyn Any + Send + Sync)> {
        match &self.body {
            Body::Foreign(body) => Some(&**body),
            _ => None,
        }
    }

    /// The device has another size, by itself. Tables are loaded anew to use it.
    pub fn note_sectors(&self, sectors: u64) {
        self.facts.sectors.store(sectors, Ordering::Relaxed);
    }

    fn open_namespace(id: LowerId, name: &str, device: &Path) -> Result<Bdev, Error> {
        let namespace = Namespace::open(device)?;
        let declared = namespace.traits().declare(able(id, name));
        Ok(Bdev {
            facts: Arc::new(Facts {
                nvme: Some(namespace.report()),
                ..Facts::new("nvme", declared)
            }),
            body: Body::Nvme(Shared::new(namespace)),
        })
    }

    fn open_remote(id: LowerId, name: &str, spec: &RemoteSpec) -> Result<Bdev, Error> {
        let opened = Remote::open(spec)?;
        let standing = opened.standing();
        let declared = opened.declare(able(id, name));
        let facts = Arc::new(Facts {
            standing: Some(Arc::clone(&standing)),
            ..Facts::new("nvme-tcp", declared)
        });
        let body = Body::Remote(opened.keep(&facts, standing)?);
        Ok(Bdev { facts, body })
    }

    /// Its number, for the mapper. Never used again for another device.
    pub fn id(&self) -> LowerId {
        self.facts.id
    }

    /// Its name, as in the configuration and in table lines.
    pub fn name(&self) -> &str {
        self.facts.name()
    }

    /// What it is made of, as the configuration calls it.
    pub fn kind(&self) -> &'static str {
        self.facts.kind
    }

    /// The file it is, for a file.
    pub fn path(&self) -> Option<&Path> {
        match &self.body {
            Body::File(file) => Some(file.path()),
            _ => None,
        }
    }

    /// Whether it is read and written past the page cache; always, for what has none.
    pub fn is_direct(&self) -> bool {
        match &self.body {
            Body::File(file) => file.is_direct(),
            _ => true,
        }
    }

    /// What it can do, as of now: the size can change ([`Bdev::resize`]).
    pub fn declare(&self) -> Lower {
        self.facts.declare()
    }

    pub(super) fn facts(&self) -> &Arc<Facts> {
        &self.facts
    }

    /// Changes the size; the contents up to the smaller of the two stay, what is new reads as zeroes. Tables are loaded anew to use it; I/O beyond
    /// a smaller size fails.
    ///
    /// # Errors
    /// [`Error::Size`]; [`Error::CannotResize`] for a block device, or memory that has no room to grow; what the file system says.
    pub fn resize(&self, bytes: u64) -> Result<(), Error> {
        check_size(bytes, self.facts.block_bytes)?;
        let sectors = bytes / SECTOR_BYTES;
        let before = self.facts.sectors.load(Ordering::Relaxed);
        let cannot = |reason| Error::CannotResize {
            name: self.name().to_string(),
            reason,
        };
        match &self.body {
            Body::Null => {}
            Body::Malloc(region) => {
                if bytes > region.reserved_bytes() {
                    return Err(cannot(
                        "there is no address space left behind it; create a new one",
                    ));
                }
            }
            Body::Nvme(_) => {
                return Err(cannot(
                    "its size is the namespace's; to use another, remove it and add it again",
                ));
            }
            Body::Remote(_) => {
                return Err(cannot("its size is the namespace's, and is followed"));
            }
            Body::File(file) => {
                if self.facts.read_only {
                    return Err(cannot("it is read-only"));
                }
                if !file.is_regular() {
                    return Err(cannot("it is a block device, whose size is its own"));
                }
                if sectors > before {
                    file.set_bytes(bytes)?;
                }
            }
            Body::Foreign(_) => return Err(cannot("its engine says what size it has")),
        }
        self.facts.sectors.store(sectors, Ordering::Relaxed);
        if sectors < before {
            // Only now, when no new I/O goes there; so that growing again shows zeroes.
            let cut = (before - sectors) * SECTOR_BYTES;
            match &self.body {
                Body::Null | Body::Nvme(_) | Body::Remote(_) | Body::Foreign(_) => {}
                Body::Malloc(region) => region.zero(bytes, cut as usize),
                Body::File(file) => file.set_bytes(bytes)?,
            }
        }
        Ok(())
    }

    /// Opens a channel for the reactor that `core` belongs to.
    ///
    /// # Errors
    /// [`Error::NoRing`], for the first channel to a file or a namespace on a reactor; [`Error::Remote`] when a remote has no queue left for it.
    pub fn channel(&self, core: &mut Core) -> Result<Channel, Error> {
        self.channel_with(core, Patience::Holds)
    }

    /// The same, for I/O of that patience. Makes no difference but with a remote, and a namespace whose controller is reset.
    ///
    /// # Errors
    /// As [`Bdev::channel`].
    pub fn channel_with(&self, core: &mut Core, patience: Patience) -> Result<Channel, Error> {
        let handle = match &self.body {
            Body::Null => Handle::Null(Rc::default()),
            Body::Malloc(region) => Handle::Malloc(Rc::new(region.handle())),
            Body::File(file) => {
                let made = core.rings().make_files();
                made.map_err(|error| Error::NoRing { error })?;
                Handle::File(Rc::new(file.handle()))
            }
            Body::Nvme(namespace) => {
                let made = core.rings().make_commands(namespace.completions());
                made.map_err(|error| Error::NoRing { error })?;
                Handle::Nvme(Rc::new(namespace.handle()))
            }
            Body::Remote(remote) => {
                let link = core.links().link(self.id(), self.name(), remote)?;
                Handle::Remote(link)
            }
            Body::Foreign(_) => {
                return Err(Error::Engine {
                    reason: format!("bdev '{}' is of another engine", self.name()),
                });
            }
        };
        Ok(Channel::new(&self.facts, handle, patience, core))
    }
}

/// A device that can do everything, without a size yet.
fn able(id: LowerId, name: &str) -> Lower {
    Lower {
        id,
        name: name.to_string(),
        sectors: 0,
        block_bytes: 512,
        physical_bytes: 512,
        volatile_cache: false,
        flush: true,
        fua: true,
        discard: true,
        discard_zeroes: true,
        write_zeroes: true,
        transfer_sectors_max: 0,
        optimal_write_bytes: 4096,
        atomic_writes: AtomicWrites::NONE,
        read_only: false,
        keep: Keep::default(),
    }
}

fn check_block(block_bytes: u32) -> Result<(), Error> {
    if block_bytes != 512 && block_bytes != 4096 {
        return Err(Error::BlockSize { block_bytes });
    }
    Ok(())
}

fn check_size(bytes: u64, block_bytes: u32) -> Result<(), Error> {
    check_block(block_bytes)?;
    if bytes == 0 || !bytes.is_multiple_of(u64::from(block_bytes)) || bytes > i64::MAX as u64 {
        return Err(Error::Size { bytes, block_bytes });
    }
    Ok(())
}
