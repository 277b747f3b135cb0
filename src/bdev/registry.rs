//! Which backing devices there are.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::dm::{CloneId, Lower, LowerId, LowerIo, Op, Status, Submit};

use super::core::Core;
use super::error::Error;
use super::file::{FileHandle, TRANSFER_BYTES_MAX};
use super::open::OpenFile;
use super::payload::Payload;
use super::region::{Region, RegionHandle};
use super::{SECTOR_BYTES, Spec, file, malloc, null};

/// A backing device.
pub struct Bdev {
    id: LowerId,
    name: String,
    block_bytes: u32,
    read_only: bool,
    /// Changed by [`Bdev::resize`], read by every submission.
    sectors: AtomicU64,
    /// Open channels, over all reactors.
    channels: AtomicU32,
    body: Body,
}

enum Body {
    Null,
    Malloc {
        region: Arc<Region>,
        volatile_cache: bool,
    },
    File(Arc<OpenFile>),
}

impl Bdev {
    fn open(id: LowerId, name: &str, spec: &Spec) -> Result<Bdev, Error> {
        let (block_bytes, bytes, read_only, body) = match spec {
            Spec::Null { bytes, block_bytes } => {
                check_size(*bytes, *block_bytes)?;
                (*block_bytes, *bytes, false, Body::Null)
            }
            Spec::Malloc {
                bytes,
                block_bytes,
                volatile_cache,
            } => {
                check_size(*bytes, *block_bytes)?;
                let region = Arc::new(Region::new(*bytes)?);
                let volatile_cache = *volatile_cache;
                (
                    *block_bytes,
                    *bytes,
                    false,
                    Body::Malloc {
                        region,
                        volatile_cache,
                    },
                )
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
                (*block_bytes, bytes, *read_only, Body::File(Arc::new(file)))
            }
        };
        Ok(Bdev {
            id,
            name: name.to_string(),
            block_bytes,
            read_only,
            sectors: AtomicU64::new(bytes / SECTOR_BYTES),
            channels: AtomicU32::new(0),
            body,
        })
    }

    /// Its number, for the mapper. Never used again for another device.
    pub fn id(&self) -> LowerId {
        self.id
    }

    /// Its name, as in the configuration and in table lines.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is made of, as the configuration calls it.
    pub fn kind(&self) -> &'static str {
        match self.body {
            Body::Null => "null",
            Body::Malloc { .. } => "malloc",
            Body::File(_) => "file",
        }
    }

    /// The file it is, for a file.
    pub fn path(&self) -> Option<&std::path::Path> {
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

    /// Channels that are open, over all reactors: whether tables use it.
    pub fn channels_open(&self) -> u32 {
        self.channels.load(Ordering::Relaxed)
    }

    /// What it can do, as of now: the size can change ([`Bdev::resize`]).
    pub fn declare(&self) -> Lower {
        let lower = Lower {
            id: self.id,
            name: self.name.clone(),
            sectors: self.sectors.load(Ordering::Relaxed),
            block_bytes: self.block_bytes,
            volatile_cache: false,
            flush: true,
            fua: true,
            discard: true,
            discard_zeroes: true,
            write_zeroes: true,
            transfer_sectors_max: 0,
            optimal_write_bytes: 4096,
            read_only: self.read_only,
        };
        match &self.body {
            // Reads into memory of the reader's leave it as it is, discarded or not.
            Body::Null => Lower {
                discard_zeroes: false,
                ..lower
            },
            Body::Malloc { volatile_cache, .. } => Lower {
                volatile_cache: *volatile_cache,
                ..lower
            },
            Body::File(file) => Lower {
                volatile_cache: true,
                discard: file.can_discard(),
                transfer_sectors_max: (TRANSFER_BYTES_MAX as u64 / SECTOR_BYTES) as u32,
                ..lower
            },
        }
    }

    /// Changes the size; the contents up to the smaller of the two stay, what is new reads as zeroes. Tables are loaded anew to use it; I/O beyond
    /// a smaller size fails.
    ///
    /// # Errors
    /// [`Error::Size`]; [`Error::CannotResize`] for a block device, or memory that has no room to grow; what the file system says.
    pub fn resize(&self, bytes: u64) -> Result<(), Error> {
        check_size(bytes, self.block_bytes)?;
        let sectors = bytes / SECTOR_BYTES;
        let before = self.sectors.load(Ordering::Relaxed);
        let cannot = |reason| Error::CannotResize {
            name: self.name.clone(),
            reason,
        };
        match &self.body {
            Body::Null => {}
            Body::Malloc { region, .. } => {
                if bytes > region.reserved_bytes() {
                    return Err(cannot(
                        "there is no address space left behind it; create a new one",
                    ));
                }
            }
            Body::File(file) => {
                if self.read_only {
                    return Err(cannot("it is read-only"));
                }
                if !file.is_regular() {
                    return Err(cannot("it is a block device, whose size is its own"));
                }
                if sectors > before {
                    file.set_bytes(bytes)?;
                }
            }
        }
        self.sectors.store(sectors, Ordering::Relaxed);
        if sectors < before {
            // Only now, when no new I/O goes there; so that growing again shows zeroes.
            let cut = (before - sectors) * SECTOR_BYTES;
            match &self.body {
                Body::Null => {}
                Body::Malloc { region, .. } => region.zero(bytes, cut as usize),
                Body::File(file) => file.set_bytes(bytes)?,
            }
        }
        Ok(())
    }

    /// Opens a channel for the reactor that `core` belongs to.
    ///
    /// # Errors
    /// [`Error::NoRing`], for the first channel to a file on a reactor.
    pub fn channel(self: &Arc<Self>, core: &mut Core) -> Result<Channel, Error> {
        let body = match &self.body {
            Body::Null => ChannelBody::Null,
            Body::Malloc { region, .. } => {
                ChannelBody::Malloc(Rc::new(RegionHandle(Arc::clone(region))))
            }
            Body::File(file) => {
                core.ring()?;
                ChannelBody::File(Rc::new(FileHandle(Arc::clone(file))))
            }
        };
        self.channels.fetch_add(1, Ordering::Relaxed);
        Ok(Channel {
            block_mask: u64::from(self.block_bytes) / SECTOR_BYTES - 1,
            bdev: Arc::clone(self),
            body,
        })
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

/// A device, opened on one reactor. To be dropped there, with nothing in flight.
pub struct Channel {
    bdev: Arc<Bdev>,
    /// Bits of a sector number that must be zero.
    block_mask: u64,
    body: ChannelBody,
}

enum ChannelBody {
    Null,
    Malloc(Rc<RegionHandle>),
    File(Rc<FileHandle>),
}

impl Channel {
    /// The device.
    pub fn bdev(&self) -> &Arc<Bdev> {
        &self.bdev
    }

    /// Submits one I/O. [`Submit::Pending`] ends with `clone` in what [`Core::poll`] gives, once, never from within this call.
    ///
    /// # Panics
    /// If the payload is not as long as the range: what follows would reach beyond somebody's memory.
    #[inline(always)]
    pub fn submit(&mut self, core: &mut Core, io: &LowerIo<Payload>, clone: CloneId) -> Submit {
        if io.op != Op::Flush
            && let Some(status) = self.refuses(io)
        {
            return Submit::Done(status);
        }
        match &self.body {
            ChannelBody::Null => {
                null::submit(io);
                core.complete_later(clone, Status::Ok);
                Submit::Pending
            }
            ChannelBody::Malloc(region) => malloc::submit(core, region, io, clone),
            ChannelBody::File(file) => file::submit(core, file, io, clone),
        }
    }

    /// The mapper has checked all of this against the table; but a device can have shrunk since.
    #[inline(always)]
    fn refuses(&self, io: &LowerIo<Payload>) -> Option<Status> {
        let sectors = u64::from(io.sectors);
        let end = io.sector.checked_add(sectors);
        let size = self.bdev.sectors.load(Ordering::Relaxed);
        if end.is_none_or(|end| end > size) || (io.sector | sectors) & self.block_mask != 0 {
            return Some(Status::IoError);
        }
        if matches!(io.op, Op::Read | Op::Write) {
            assert_eq!(
                u64::from(io.payload.length()),
                sectors * SECTOR_BYTES,
                "a payload is as long as its range"
            );
        }
        if io.op != Op::Read && self.bdev.read_only {
            return Some(Status::Target);
        }
        None
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.bdev.channels.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All backing devices of the process. Shared by the control thread and the reactors, which look here when a table is prepared, never
/// per I/O.
#[derive(Default)]
pub struct Registry {
    devices: Mutex<Devices>,
}

#[derive(Default)]
struct Devices {
    by_name: BTreeMap<String, Arc<Bdev>>,
    next_id: u32,
}

impl Registry {
    fn devices(&self) -> MutexGuard<'_, Devices> {
        self.devices
            .lock()
            .expect("no holder of this lock can panic")
    }

    /// Opens a device and makes it known. May block; for the control thread.
    ///
    /// # Errors
    /// [`Error::Exists`], and all that opening can run into.
    pub fn add(&self, name: &str, spec: Spec) -> Result<Arc<Bdev>, Error> {
        let exists = || Error::Exists {
            name: name.to_string(),
        };
        let id = {
            let mut devices = self.devices();
            if devices.by_name.contains_key(name) {
                return Err(exists());
            }
            devices.next_id += 1;
            LowerId(devices.next_id - 1)
        };
        // Without the lock: opening can take its time, and reactors look things up here.
        let bdev = Arc::new(Bdev::open(id, name, &spec)?);
        let mut devices = self.devices();
        if devices.by_name.contains_key(name) {
            return Err(exists());
        }
        devices.by_name.insert(name.to_string(), Arc::clone(&bdev));
        Ok(bdev)
    }

    /// Forgets a device; it is closed when the last that was lent of it has come back.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::InUse`] while channels are open.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let mut devices = self.devices();
        let bdev = devices.by_name.get(name).ok_or_else(|| Error::Missing {
            name: name.to_string(),
        })?;
        let channels = bdev.channels_open();
        if channels > 0 {
            return Err(Error::InUse {
                name: name.to_string(),
                channels,
            });
        }
        devices.by_name.remove(name);
        Ok(())
    }

    /// The device of that name.
    pub fn by_name(&self, name: &str) -> Option<Arc<Bdev>> {
        self.devices().by_name.get(name).cloned()
    }

    /// The device with that number.
    pub fn by_id(&self, id: LowerId) -> Option<Arc<Bdev>> {
        self.devices()
            .by_name
            .values()
            .find(|bdev| bdev.id == id)
            .cloned()
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<Arc<Bdev>> {
        self.devices().by_name.values().cloned().collect()
    }
}
