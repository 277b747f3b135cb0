//! Opening the file of a file device: everything that may block, and all that has to be found out about it.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::reactor::{BUFFER_ALIGNMENT, BufferPool};

use super::Direct;
use super::error::Error;

/// `_IOR(0x12, 114, size_t)`: the size of a block device in bytes.
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272_u32 as libc::Ioctl;

/// How long a lock is waited for. The kernel ends the io_uring of a process that was killed after the process itself is gone, and
/// with it the last hold on the file: whoever starts polldm again at once meets the dead one's lock. To wait is also what is
/// right, since until then the writes that it had in flight may still reach the file.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(3);
/// Between two attempts at the lock.
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// An open, locked file or block device; shared by all reactors.
pub(super) struct OpenFile {
    file: File,
    path: PathBuf,
    /// As of opening.
    bytes: u64,
    regular: bool,
    direct: bool,
    /// What memory addresses must be multiples of; 1 through the page cache.
    memory_alignment: usize,
    discard: bool,
    /// Cleared when the file system says that it cannot.
    zero_ranges: AtomicBool,
    /// Writing back has failed: the kernel has dropped what it could not write, and would call the next sync a success.
    lost_writes: AtomicBool,
}

impl OpenFile {
    pub(super) fn open(
        path: &Path,
        wanted_bytes: Option<u64>,
        block_bytes: u32,
        direct: Direct,
        read_only: bool,
    ) -> Result<OpenFile, Error> {
        let fail = |what| {
            move |error| Error::File {
                path: path.to_path_buf(),
                what,
                error,
            }
        };
        let existing = match std::fs::metadata(path) {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(fail("open it")(error)),
        };
        let block_device = existing
            .as_ref()
            .is_some_and(|metadata| metadata.file_type().is_block_device());
        if existing
            .as_ref()
            .is_some_and(|metadata| !block_device && !metadata.is_file())
        {
            return Err(Error::NotAFile {
                path: path.to_path_buf(),
            });
        }
        let mut options = OpenOptions::new();
        options.read(true).write(!read_only).mode(0o600);
        if existing.is_none() {
            // Without a size there is nothing to create, and opening says so.
            options.create(wanted_bytes.is_some() && !read_only);
        }
        if block_device && !read_only {
            // Refused while the kernel has it mounted or in use.
            options.custom_flags(libc::O_EXCL);
        }
        let file = options.open(path).map_err(fail("open it"))?;
        lock(&file, path, read_only)?;

        let bytes = if block_device {
            block_device_bytes(&file, path, wanted_bytes, block_bytes)?
        } else {
            regular_bytes(&file, path, wanted_bytes, read_only)?
        };
        let memory_alignment = match direct {
            Direct::Off => None,
            Direct::Auto | Direct::On => {
                go_direct(&file, block_bytes).map_err(fail("set O_DIRECT"))?
            }
        };
        if direct == Direct::On && memory_alignment.is_none() {
            return Err(Error::NotDirect {
                path: path.to_path_buf(),
                block_bytes,
            });
        }
        let discard = !read_only
            && match block_device {
                true => block_device_discards(&file),
                false => punches_holes(&file, bytes),
            };
        Ok(OpenFile {
            file,
            path: path.to_path_buf(),
            bytes,
            regular: !block_device,
            direct: memory_alignment.is_some(),
            memory_alignment: memory_alignment.unwrap_or(1),
            discard,
            zero_ranges: AtomicBool::new(true),
            lost_writes: AtomicBool::new(false),
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(super) fn is_regular(&self) -> bool {
        self.regular
    }

    pub(super) fn is_direct(&self) -> bool {
        self.direct
    }

    pub(super) fn can_discard(&self) -> bool {
        self.discard
    }

    /// Whether the kernel can transfer to and from this address.
    #[inline]
    pub(super) fn takes_memory(&self, bytes: *const u8) -> bool {
        (bytes as usize).is_multiple_of(self.memory_alignment)
    }

    pub(super) fn zeroes_ranges(&self) -> bool {
        self.zero_ranges.load(Ordering::Relaxed)
    }

    pub(super) fn note_cannot_zero_ranges(&self) {
        self.zero_ranges.store(false, Ordering::Relaxed);
    }

    /// Whether a sync, or a write with FUA through the page cache, has failed since it was opened. From then on every flush fails: the kernel reports a failed write-back once and forgets
    /// it, but the data stays lost.
    pub(super) fn has_lost_writes(&self) -> bool {
        self.lost_writes.load(Ordering::Relaxed)
    }

    pub(super) fn note_lost_writes(&self) {
        self.lost_writes.store(true, Ordering::Relaxed);
    }

    /// Cuts or grows a regular file.
    pub(super) fn set_bytes(&self, bytes: u64) -> Result<(), Error> {
        self.file.set_len(bytes).map_err(|error| Error::File {
            path: self.path.clone(),
            what: "change its size",
            error,
        })
    }
}

/// Locks the whole file for as long as it is open: an "open file description" lock, which another opening of the file meets even within this
/// process, and which goes with the descriptor however the process ends.
pub(super) fn lock(file: &File, path: &Path, read_only: bool) -> Result<(), Error> {
    // SAFETY: a flock is plain numbers; all zeroes is "from the start to the end of the file", and pid must be 0.
    let mut lock: libc::flock = unsafe { zeroed() };
    lock.l_type = if read_only {
        libc::F_RDLCK
    } else {
        libc::F_WRLCK
    } as libc::c_short;
    let deadline = Instant::now() + LOCK_WAIT_MAX;
    loop {
        // SAFETY: `lock` is valid for the call, and the descriptor is open.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &mut lock) };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) if Instant::now() < deadline => {
                thread::sleep(LOCK_RETRY)
            }
            Some(libc::EAGAIN | libc::EACCES) => {
                return Err(Error::Locked {
                    path: path.to_path_buf(),
                });
            }
            _ => {
                return Err(Error::File {
                    path: path.to_path_buf(),
                    what: "lock it",
                    error,
                });
            }
        }
    }
}

fn regular_bytes(
    file: &File,
    path: &Path,
    wanted: Option<u64>,
    read_only: bool,
) -> Result<u64, Error> {
    let fail = |what| {
        move |error| Error::File {
            path: path.to_path_buf(),
            what,
            error,
        }
    };
    let has_bytes = file.metadata().map_err(fail("read its size"))?.len();
    let Some(wanted_bytes) = wanted else {
        return Ok(has_bytes);
    };
    let refuse = |advice| Error::FileSize {
        path: path.to_path_buf(),
        has_bytes,
        wanted_bytes,
        advice,
    };
    if has_bytes > wanted_bytes {
        return Err(refuse(
            "a file is never cut; leave the size out, or give the size it has",
        ));
    }
    if has_bytes < wanted_bytes {
        if read_only {
            return Err(refuse(
                "it is opened read-only, so it cannot grow; leave the size out",
            ));
        }
        file.set_len(wanted_bytes).map_err(fail("grow it"))?;
        // The size itself must survive a power cut before the first flush is answered.
        file.sync_all().map_err(fail("sync its size"))?;
    }
    Ok(wanted_bytes)
}

fn block_device_bytes(
    file: &File,
    path: &Path,
    wanted: Option<u64>,
    block_bytes: u32,
) -> Result<u64, Error> {
    let fail = |what| Error::File {
        path: path.to_path_buf(),
        what,
        error: io::Error::last_os_error(),
    };
    let mut has_bytes = 0u64;
    // SAFETY: BLKGETSIZE64 writes a u64.
    if unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &mut has_bytes) } != 0 {
        return Err(fail("ask for the device's size"));
    }
    let mut device_bytes: libc::c_int = 0;
    // SAFETY: BLKSSZGET writes an int.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::BLKSSZGET, &mut device_bytes) } != 0 {
        return Err(fail("ask for the device's block size"));
    }
    let device_bytes = device_bytes.unsigned_abs();
    if device_bytes > block_bytes {
        return Err(Error::DeviceBlock {
            path: path.to_path_buf(),
            device_bytes,
            block_bytes,
        });
    }
    match wanted {
        Some(wanted_bytes) if wanted_bytes > has_bytes => Err(Error::FileSize {
            path: path.to_path_buf(),
            has_bytes,
            wanted_bytes,
            advice: "a block device cannot grow; leave the size out, or ask for less",
        }),
        Some(wanted_bytes) => Ok(wanted_bytes),
        // A last partial block of ours is left alone.
        None => Ok(has_bytes - has_bytes % u64::from(block_bytes)),
    }
}

/// Switches to direct I/O if that works in blocks of this size: then the alignment that memory needs. Otherwise the descriptor is as before.
fn go_direct(file: &File, block_bytes: u32) -> io::Result<Option<usize>> {
    let fd = file.as_raw_fd();
    // SAFETY: reads and sets flags of an open descriptor.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    if unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_DIRECT) } != 0 {
        return match io::Error::last_os_error() {
            // The file system has no direct I/O.
            error if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
            error => Err(error),
        };
    }
    let declared = declared_alignment(fd);
    let fits = match declared {
        Some((memory, offset)) => {
            memory <= BUFFER_ALIGNMENT && offset != 0 && offset <= block_bytes as usize
        }
        None => true,
    };
    // Not every file system declares, and not every declaration is true: read one block and see.
    if fits && reads_one_block(fd, block_bytes)? {
        // Undeclared, memory is aligned as strictly as offsets, as all file systems did before they could say.
        let alignment = declared.map_or(block_bytes as usize, |(memory, _)| memory);
        return Ok(Some(alignment.max(1)));
    }
    // SAFETY: as above.
    if unsafe { libc::fcntl(fd, libc::F_SETFL, flags) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(None)
}

/// What the file system says memory and offsets of direct I/O must be aligned to (6.1 and later); offset 0: no direct I/O.
fn declared_alignment(fd: i32) -> Option<(usize, usize)> {
    let mut statx = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: an empty path with AT_EMPTY_PATH names the descriptor itself; `statx` has room for the answer.
    let result = unsafe {
        libc::statx(
            fd,
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            statx.as_mut_ptr(),
        )
    };
    if result != 0 {
        return None;
    }
    // SAFETY: plain numbers, zeroed before and filled by the kernel.
    let statx = unsafe { statx.assume_init() };
    if statx.stx_mask & libc::STATX_DIOALIGN == 0 {
        return None;
    }
    Some((
        statx.stx_dio_mem_align as usize,
        statx.stx_dio_offset_align as usize,
    ))
}

fn reads_one_block(fd: i32, block_bytes: u32) -> io::Result<bool> {
    let pool = BufferPool::new(crate::reactor::BUFFER_BYTES_MAX);
    let Some(buffer) = pool.take(block_bytes as usize) else {
        return Err(io::Error::from_raw_os_error(libc::ENOMEM));
    };
    // SAFETY: the buffer holds at least a block.
    let count = unsafe { libc::pread(fd, buffer.as_mut_ptr().cast(), block_bytes as usize, 0) };
    if count >= 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        // A bad first block is found out by whoever reads it.
        _ => Ok(true),
    }
}

/// Tries it where there is nothing: behind the end.
fn punches_holes(file: &File, bytes: u64) -> bool {
    let Ok(offset) = libc::off_t::try_from(bytes) else {
        return false;
    };
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: takes no pointers.
    unsafe {
        libc::fallocate(
            file.as_raw_fd(),
            mode,
            offset,
            BUFFER_ALIGNMENT as libc::off_t,
        ) == 0
    }
}

/// As the block layer says in sysfs; for a partition, of the disk it is on. To punch a hole in a block device is to have it zero the
/// range by itself: its limit for write-zeroes decides, and one that only discards refuses (EOPNOTSUPP).
fn block_device_discards(file: &File) -> bool {
    let Ok(metadata) = file.metadata() else {
        return false;
    };
    let device = metadata.rdev();
    let base = format!(
        "/sys/dev/block/{}:{}",
        libc::major(device),
        libc::minor(device)
    );
    ["queue", "../queue"].iter().any(|queue| {
        std::fs::read_to_string(format!("{base}/{queue}/write_zeroes_max_bytes"))
            .is_ok_and(|value| value.trim().parse::<u64>().is_ok_and(|bytes| bytes > 0))
    })
}
