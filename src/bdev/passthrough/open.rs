//! Opening a namespace's generic device: everything that may block, and all that has to be found out about it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use crate::bdev::SECTOR_BYTES;
use crate::bdev::error::Error;
use crate::bdev::namespace::{Geometry, Limits, Traits};
use crate::bdev::open::lock;
use crate::bdev::ring::Completions;
use crate::nvme::command::Command;
use crate::nvme::identify::{self, COMMAND_SET_NVM, NamespaceIdentity, NvmLimits, structure};
use crate::nvme::opcode::io::READ;
use crate::reactor::{BUFFER_BYTES_MAX, BufferPool};

use super::NvmeReport;
use super::abi::{self, AdminError};
use super::queue::Queue;

/// Pages of a controller that Linux drives have 4 KiB, the unit of MDTS and its like: it refuses those whose smallest page is larger.
const PAGE_SHIFT: u32 = 12;

/// The first kernel in which several cores may poll for commands of one queue. Before, one that looks whether its command has been completed
/// reads what another, having completed it, has freed: the kernel stops, with a fault in `bio_poll` (seen with 6.1).
const POLLS_SINCE: (u32, u32) = (6, 5);

/// An open, claimed namespace; shared by all reactors.
pub(in crate::bdev) struct Namespace {
    device: File,
    /// The block device of the namespace, held so that nothing in the kernel mounts it or builds on it.
    _claim: Option<File>,
    path: PathBuf,
    traits: Traits,
    memory_alignment: usize,
    completions: Completions,
    multipath: bool,
    model: String,
    serial: String,
}

impl Namespace {
    /// # Errors
    /// [`Error::File`] and [`Error::Locked`], as for a file; [`Error::Held`]; [`Error::Nvme`] for what is no namespace, or none that polldm can use;
    /// [`Error::NoRing`].
    pub(in crate::bdev) fn open(path: &Path) -> Result<Namespace, Error> {
        let fail = |what| {
            move |error| Error::File {
                path: path.to_path_buf(),
                what,
                error,
            }
        };
        let refuse = |reason: String| Error::Nvme {
            path: path.to_path_buf(),
            reason,
        };
        let node = Node::find(path)?;
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(fail("open it"))?;
        lock(&device, path, false)?;
        let claim = node.claim(path)?;
        let nsid = abi::namespace_id(device.as_fd()).map_err(|_| refuse(NOT_GENERIC.into()))?;

        let queue = node.queue();
        if queue.zoned {
            return Err(refuse(ZONED.into()));
        }
        let ask = |structure, nsid| abi::identify(device.as_fd(), structure, nsid);
        let needed =
            |structure, nsid| ask(structure, nsid).map_err(|error| refuse(explain(&error)));
        let controller = needed(structure::CONTROLLER, 0)?;
        let controller = identify::Controller::decode(&controller);
        let page = needed(structure::NAMESPACE, nsid)?;
        // The kernel lets only root have these two, and not every controller has them.
        let descriptors = ask(structure::NAMESPACE_DESCRIPTORS, nsid).ok();
        let command_set = descriptors.and_then(|page| NamespaceIdentity::decode(&page).command_set);
        if command_set.is_some_and(|set| set != COMMAND_SET_NVM) {
            return Err(refuse(ZONED.into()));
        }
        let nvm = ask(structure::COMMAND_SET_CONTROLLER, 0).ok();
        let limits = Limits {
            transfer_bytes_max: transfer_bytes_max(controller.transfer_size_max, &queue),
            nvm: nvm.map(|page| NvmLimits::decode(&page)),
            page_shift: PAGE_SHIFT,
        };
        let traits = Traits::new(nsid, &page, &controller, &limits).map_err(refuse)?;
        if traits.sectors == 0 {
            return Err(refuse(format!("namespace {nsid} has no blocks")));
        }
        let mut namespace = Namespace {
            device,
            _claim: claim,
            path: path.to_path_buf(),
            traits,
            memory_alignment: queue.memory_alignment,
            completions: Completions::Interrupts,
            multipath: node.multipath,
            model: controller.model,
            serial: controller.serial,
        };
        let may_poll = queue.polls && release().is_some_and(|release| release >= POLLS_SINCE);
        if may_poll && namespace.read_first_block(Completions::Polled).is_ok() {
            namespace.completions = Completions::Polled;
        } else {
            namespace.read_first_block(Completions::Interrupts)?;
        }
        Ok(namespace)
    }

    /// Sends a command as reactors will: kernels differ in whether they carry commands, for whom, and whether they poll for them. What the
    /// controller answers does not matter: a bad first block is found out by whoever reads it.
    fn read_first_block(&self, completions: Completions) -> Result<(), Error> {
        let no_ring = |error: io::Error| match error.raw_os_error() {
            Some(libc::EINVAL) => self.refuse(TOO_OLD.into()),
            _ => Error::NoRing { error },
        };
        let mut builder = IoUring::<squeue::Entry128, cqueue::Entry32>::builder();
        if completions == Completions::Polled {
            builder.setup_iopoll();
        }
        let mut ring = builder.build(1).map_err(no_ring)?;
        let pool = BufferPool::new(BUFFER_BYTES_MAX);
        let length = self.traits.block_bytes();
        let Some(buffer) = pool.take(length as usize) else {
            return Err(no_ring(io::Error::from_raw_os_error(libc::ENOMEM)));
        };
        let command = Command::block_io(READ, self.traits.geometry.nsid, 0, 1);
        let encoded = abi::encode(&command, buffer.as_mut_ptr() as u64, length);
        let fd = types::Fd(self.device.as_raw_fd());
        let entry = opcode::UringCmd80::new(fd, abi::URING_CMD_IO)
            .cmd(encoded)
            .build();
        // SAFETY: the buffer and the descriptor outlive the loop below, which ends when the command has.
        let pushed = unsafe { ring.submission().push(&entry) };
        pushed.expect("an empty queue has room for one");
        let result = loop {
            let completion = ring.completion().next();
            if let Some(completion) = completion {
                break cqueue::Entry::from(completion).result();
            }
            match ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nothing was submitted: this is the first call that fails otherwise.
                Err(error) => return Err(no_ring(error)),
            }
        };
        match -result {
            ..=0 => Ok(()),
            libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS | libc::ENOTTY => {
                Err(self.refuse(TOO_OLD.into()))
            }
            libc::EACCES | libc::EPERM => Err(self.refuse(NOT_ALLOWED.into())),
            errno => Err(Error::File {
                path: self.path.clone(),
                what: "read its first block",
                error: io::Error::from_raw_os_error(errno),
            }),
        }
    }

    fn refuse(&self, reason: String) -> Error {
        Error::Nvme {
            path: self.path.clone(),
            reason,
        }
    }

    pub(in crate::bdev) fn traits(&self) -> &Traits {
        &self.traits
    }

    pub(super) fn geometry(&self) -> &Geometry {
        &self.traits.geometry
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// The largest read or write, in bytes.
    pub(super) fn transfer_bytes_max(&self) -> u64 {
        u64::from(self.traits.transfer_sectors_max) * SECTOR_BYTES
    }

    /// Whether the device can transfer to and from this address.
    #[inline]
    pub(super) fn takes_memory(&self, bytes: *const u8) -> bool {
        (bytes as usize).is_multiple_of(self.memory_alignment)
    }

    /// Which of a reactor's rings its commands go through.
    #[inline]
    pub(in crate::bdev) fn completions(&self) -> Completions {
        self.completions
    }

    /// Whether the kernel has it as a namespace of several controllers, among which it chooses itself.
    pub(super) fn is_multipath(&self) -> bool {
        self.multipath
    }

    pub(in crate::bdev) fn report(&self) -> NvmeReport {
        NvmeReport {
            device: self.path.clone(),
            nsid: self.traits.geometry.nsid,
            model: self.model.clone(),
            serial: self.serial.clone(),
            polled: self.completions == Completions::Polled,
            transfer_bytes_max: self.transfer_bytes_max(),
        }
    }
}

const NOT_GENERIC: &str = "it is not the generic device of an NVMe namespace, such as /dev/ng0n1; `nvme list -v` shows those there are";
const ZONED: &str = "its blocks are not written in any order one likes (a zoned or key-value namespace), which polldm does not support";
const TOO_OLD: &str = "this kernel carries no NVMe commands through io_uring, which needs Linux 5.19; use a `file` bdev on the block device instead";
const NOT_ALLOWED: &str = "the kernel lets nobody but root send NVMe commands (before Linux 6.2, whoever may open the device); run polldm as root";

fn explain(error: &AdminError) -> String {
    match error {
        AdminError::Status(status) => format!("the controller does not identify itself: {status}"),
        AdminError::Kernel(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            NOT_ALLOWED.to_owned()
        }
        AdminError::Kernel(error) => format!("the controller cannot be asked: {error}"),
    }
}

/// The kernel's version: 6.1 of "6.1.0-18-amd64".
fn release() -> Option<(u32, u32)> {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    version(&text)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let (major, rest) = release.split_once('.')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit());
    let minor = &rest[..digits.unwrap_or(rest.len())];
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// What the controller and the kernel's queue both take, and a buffer holds.
fn transfer_bytes_max(mdts: u8, queue: &Queue) -> u64 {
    let by_controller = match mdts {
        0 => u64::MAX,
        mdts => 1u64
            .checked_shl(PAGE_SHIFT + u32::from(mdts))
            .unwrap_or(u64::MAX),
    };
    by_controller
        .min(queue.transfer_bytes_max)
        .min(BUFFER_BYTES_MAX as u64)
}

/// A generic device in sysfs, found before it is opened: to open some other character device can do things.
struct Node {
    /// The directory in sysfs of the namespace's block device, if there is one.
    block: Option<PathBuf>,
    /// The directory that the generic device is in.
    directory: PathBuf,
    multipath: bool,
}

impl Node {
    fn find(path: &Path) -> Result<Node, Error> {
        let refuse = |reason: String| Error::Nvme {
            path: path.to_path_buf(),
            reason,
        };
        let fail = |error| Error::File {
            path: path.to_path_buf(),
            what: "open it",
            error,
        };
        // What udev has made of a name may be elsewhere than the block device's node.
        let real_path = std::fs::canonicalize(path).map_err(fail)?;
        let metadata = std::fs::metadata(&real_path).map_err(fail)?;
        let in_sysfs = |kind: &str| {
            let (major, minor) = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
            std::fs::canonicalize(format!("/sys/dev/{kind}/{major}:{minor}")).ok()
        };
        if metadata.file_type().is_block_device() {
            let generic = in_sysfs("block").and_then(|block| counterpart(&block, "nvme", "ng"));
            let advice = match generic.as_deref().and_then(Path::file_name) {
                Some(name) => format!(
                    "its namespace's generic device is /dev/{}",
                    name.to_string_lossy()
                ),
                None => "a `file` bdev takes block devices".to_owned(),
            };
            return Err(refuse(format!("it is a block device; {advice}")));
        }
        if !metadata.file_type().is_char_device() {
            return Err(refuse(
                "it is not a device; give the generic device of an NVMe namespace, such as /dev/ng0n1"
                    .into(),
            ));
        }
        let device = in_sysfs("char").filter(|device| {
            let class = std::fs::read_link(device.join("subsystem"));
            class.is_ok_and(|class| class.ends_with("nvme-generic"))
        });
        let device = device.ok_or_else(|| refuse(NOT_GENERIC.into()))?;
        let parent = device.parent().and_then(Path::file_name);
        Ok(Node {
            block: counterpart(&device, "ng", "nvme"),
            directory: real_path.parent().unwrap_or(Path::new("/")).to_path_buf(),
            multipath: parent.is_some_and(|name| name.to_string_lossy().contains("subsys")),
        })
    }

    fn queue(&self) -> Queue {
        let block = self.block.as_deref().unwrap_or(Path::new(""));
        Queue::read(&block.join("queue"))
    }

    /// Takes the block device for itself, if there is one. What others have left in its page cache goes to the device first.
    fn claim(&self, path: &Path) -> Result<Option<File>, Error> {
        let refuse = |reason: String| Error::Nvme {
            path: path.to_path_buf(),
            reason,
        };
        let Some((block, name)) = self
            .block
            .as_ref()
            .and_then(|block| Some((block, block.file_name()?)))
        else {
            return Ok(None);
        };
        let number = std::fs::read_to_string(block.join("dev")).unwrap_or_default();
        let nodes = [self.directory.join(name), Path::new("/dev").join(name)];
        let is_it = |node: &&PathBuf| {
            std::fs::metadata(node).is_ok_and(|metadata| {
                let device = metadata.rdev();
                let found = format!("{}:{}", libc::major(device), libc::minor(device));
                metadata.file_type().is_block_device() && number.trim() == found
            })
        };
        let Some(node) = nodes.iter().find(is_it) else {
            return Ok(None);
        };
        let shown = node.display();
        let claim = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_EXCL)
            .open(node)
            .map_err(|error| match error.kind() {
                io::ErrorKind::ResourceBusy => Error::Held {
                    path: path.to_path_buf(),
                    block: node.clone(),
                },
                _ => refuse(format!(
                    "its block device {shown} cannot be claimed: {error}"
                )),
            })?;
        claim.sync_all().map_err(|error| {
            refuse(format!(
                "the page cache of {shown} cannot be written: {error}"
            ))
        })?;
        Ok(Some(claim))
    }
}

/// The directory in sysfs of the other device of the same namespace: the block device (`to` is "nvme") of a generic one ("ng"), or the other way round. Both are in one
/// directory, and end with one number. What they begin with may differ: the generic device has the number of the controller there, the
/// block device that of the subsystem.
fn counterpart(device: &Path, from: &str, to: &str) -> Option<PathBuf> {
    let namespace = namespace_number(device.file_name()?.to_str()?, from)?;
    let siblings = std::fs::read_dir(device.parent()?).ok()?;
    let paths = siblings.filter_map(|entry| Some(entry.ok()?.path()));
    paths
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.and_then(|name| namespace_number(name, to)) == Some(namespace)
        })
        .min()
}

/// The second number of a name such as ng0n1 or nvme0n1, after this prefix.
fn namespace_number(name: &str, prefix: &str) -> Option<u32> {
    let (first, second) = name.strip_prefix(prefix)?.split_once('n')?;
    first.parse::<u32>().ok()?;
    second.parse().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A namespace that answers nothing: its device is nobody's.
    pub(in crate::bdev::passthrough) fn namespace(multipath: bool) -> Namespace {
        let mut page = [0; identify::PAGE_SIZE];
        identify::Namespace {
            size: 1 << 20,
            block_shift: 9,
            ..Default::default()
        }
        .encode(&mut page);
        let limits = Limits {
            transfer_bytes_max: 128 << 10,
            nvm: Some(NvmLimits {
                dataset_range_size: 1000,
                ..Default::default()
            }),
            page_shift: PAGE_SHIFT,
        };
        let path = PathBuf::from("/dev/zero");
        Namespace {
            device: File::open(&path).expect("opens"),
            _claim: None,
            traits: Traits::new(1, &page, &Default::default(), &limits).expect("supported"),
            memory_alignment: 4,
            completions: Completions::Interrupts,
            multipath,
            model: String::new(),
            serial: String::new(),
            path,
        }
    }

    fn refusal(path: &Path) -> String {
        match Namespace::open(path) {
            Ok(_) => panic!("{} is no namespace", path.display()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_no_namespace_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let missing = directory.path().join("ng0n1");
        let said = refusal(&missing);
        assert!(said.contains("cannot open it: No such file"), "{said}");
        std::fs::write(&missing, "").expect("written");
        assert_eq!(
            refusal(&missing),
            format!(
                "{}: it is not a device; give the generic device of an NVMe namespace, such as /dev/ng0n1",
                missing.display()
            )
        );
        assert_eq!(
            refusal(Path::new("/dev/null")),
            format!("/dev/null: {NOT_GENERIC}")
        );
    }

    /// A disk that has come back while somebody had its former self: the controller is another, the subsystem is not.
    #[test]
    fn a_generic_device_is_beside_its_block_device() {
        let directory = tempfile::tempdir().expect("a directory");
        for name in [
            "ng3n1",
            "ng3n2",
            "nvme1n1",
            "nvme1n2",
            "nvme1c3n2",
            "power",
            "ng",
            "n2",
        ] {
            std::fs::create_dir(directory.path().join(name)).expect("made");
        }
        let of = |name: &str, from, to| {
            let found = counterpart(&directory.path().join(name), from, to)?;
            Some(found.file_name()?.to_str()?.to_owned())
        };
        assert_eq!(of("ng3n2", "ng", "nvme").as_deref(), Some("nvme1n2"));
        assert_eq!(of("nvme1n1", "nvme", "ng").as_deref(), Some("ng3n1"));
        for name in ["ng3n3", "nvme1n2", "power", "ng", "n2"] {
            assert_eq!(of(name, "ng", "nvme"), None, "{name}");
        }
    }

    /// The smallest of what the controller, the kernel's queue and a buffer take.
    #[test]
    fn a_transfer_fits_everywhere() {
        let queue = |transfer_bytes_max| Queue {
            transfer_bytes_max,
            memory_alignment: 4,
            polls: false,
            zoned: false,
        };
        assert_eq!(transfer_bytes_max(5, &queue(1 << 20)), 128 << 10);
        assert_eq!(transfer_bytes_max(0, &queue(504 << 10)), 504 << 10);
        assert_eq!(transfer_bytes_max(0, &queue(u64::MAX)), 1 << 20);
        assert_eq!(transfer_bytes_max(255, &queue(u64::MAX)), 1 << 20);
    }

    #[test]
    fn versions_of_kernels() {
        assert_eq!(version("6.1.0-18-amd64\n"), Some((6, 1)));
        assert_eq!(version("6.18.44-fc-v445"), Some((6, 18)));
        assert_eq!(version("7.0-rc1"), Some((7, 0)));
        assert_eq!(version("5"), None);
        assert!(release().is_some_and(|release| release > (2, 6)));
        assert!(version("6.12.1") > Some(POLLS_SINCE) && version("6.4.99") < Some(POLLS_SINCE));
    }

    /// A command that the kernel does not carry is told as that, and so is the ring that it has no room for.
    #[test]
    fn a_kernel_that_carries_no_commands_is_too_old() {
        let error = namespace(false)
            .read_first_block(Completions::Interrupts)
            .expect_err("there is no namespace behind it");
        assert!(error.to_string().contains("needs Linux 5.19"), "{error}");
    }
}
