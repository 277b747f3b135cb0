//! What a node is built from: the configuration with every default applied and every reference checked.
//!
//! A plan is still only words: nothing was opened. What can only be found out by opening (a file that is missing, a port
//! in use) the node reports with [`Plan::error_at`], at the place the plan kept for it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::alua::AluaState;
use super::ana::AnaState;
pub use super::names::Uuid;
pub use super::raw::{Direct, Engine, FlushPolicy};
use super::source::{At, Error, Problem, Source, Span};
use crate::bdev::SpdkSpec;
use crate::dm::TableError;

/// A configuration that was found to be whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The text it was read from.
    pub source: Source,
    /// Which engine polls the devices.
    pub engine: Engine,
    /// What only the SPDK engine has.
    pub spdk: SpdkPlan,
    /// The threads that do all I/O.
    pub reactors: ReactorsPlan,
    /// Path of the control socket; at most [`super::SOCKET_PATH_BYTES_MAX`] bytes.
    pub control_socket: PathBuf,
    /// Where Prometheus finds the counters; `None`: nowhere.
    pub metrics: Option<At<SocketAddr>>,
    /// Backing devices, in the order written; names are unique among bdevs and devices together.
    pub bdevs: Vec<BdevPlan>,
    /// Mapped devices, in the order written, but each after those that its table names.
    pub devices: Vec<DevicePlan>,
    /// The NVMe/TCP target; `None`: no such export.
    pub nvmf: Option<NvmfPlan>,
    /// The iSCSI target; `None`: no such export.
    pub iscsi: Option<IscsiPlan>,
}

/// What only the SPDK engine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpdkPlan {
    /// Whether SPDK's memory is hugepages.
    pub hugepages: bool,
    /// How much memory, in mebibytes; `None` for SPDK's own choice.
    pub memory_mib: Option<u32>,
    /// Path of SPDK's JSON-RPC socket, at most [`super::SOCKET_PATH_BYTES_MAX`] bytes; `None` for one that nobody else finds.
    pub rpc: Option<PathBuf>,
}

/// The threads that do all I/O.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReactorsPlan {
    /// One entry per reactor: the CPU it is pinned to, from the process's affinity mask. A CPU appears more than once when
    /// more reactors than CPUs were asked for. Never empty, at most [`super::REACTORS_MAX`].
    pub cpus: Vec<usize>,
    /// What a reactor does when there is nothing to do.
    pub poll: PollPlan,
}

/// What a reactor does when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollPlan {
    /// Poll without end.
    Busy,
    /// Poll for `spin` after the last work, then sleep.
    Adaptive {
        /// How long to keep polling.
        spin: Duration,
    },
}

/// A backing device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BdevPlan {
    /// Its name.
    pub name: At<String>,
    /// Logical block size in bytes: 512 or 4096; 512, the smallest that it may turn out to be, for a remote.
    pub block_size: u32,
    /// Size in bytes, a multiple of the block size; `None` for a file or a remote that is to be taken as it is.
    pub size: Option<At<u64>>,
    /// Where the bytes are.
    pub kind: BdevKind,
}

impl BdevPlan {
    /// Size in 512-byte sectors, where the plan knows it.
    pub fn sectors(&self) -> Option<u64> {
        self.size
            .as_ref()
            .map(|size| size.value / super::SECTOR_BYTES)
    }

    /// Whether it can only be read.
    pub fn read_only(&self) -> bool {
        matches!(
            self.kind,
            BdevKind::File(FilePlan {
                read_only: true,
                ..
            })
        )
    }
}

/// Where the bytes of a backing device are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BdevKind {
    /// In memory.
    Malloc {
        /// Behave as a disk with a volatile write cache.
        volatile_cache: bool,
        /// Offer atomic writes.
        atomic_writes: bool,
    },
    /// Nowhere.
    Null,
    /// In a file or block device.
    File(FilePlan),
    /// In a namespace that the kernel's NVMe driver has: its generic character device.
    Nvme(At<PathBuf>),
    /// In a namespace behind an NVMe/TCP connection.
    NvmeTcp(Box<NvmeTcpPlan>),
    /// Where only SPDK reaches them. The block size of the plan is 512 until the device is open.
    Spdk(SpdkSpec),
}

/// A namespace behind an NVMe/TCP connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvmeTcpPlan {
    /// Host name or address, and port, of the target.
    pub address: At<(String, u16)>,
    /// NQN of the subsystem.
    pub nqn: String,
    /// Namespace identifier, from 1.
    pub nsid: u32,
    /// Who connects; `None`: whoever this machine is.
    pub host_nqn: Option<String>,
    /// Digests over headers.
    pub header_digest: bool,
    /// Digests over data.
    pub data_digest: bool,
    /// Keep alive timeout, at most an hour.
    pub keep_alive: Duration,
    /// The longest pause between two attempts to connect again.
    pub reconnect_delay: Duration,
    /// How long a lost remote is tried for.
    pub ctrl_loss_timeout: Duration,
    /// How long I/O waits for a lost remote; `None`: as long as it is tried for.
    pub fast_io_fail_timeout: Option<Duration>,
    /// How long a command may take.
    pub io_timeout: Duration,
}

/// A file or block device. The size the file is to be created with or grown to is [`BdevPlan::size`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePlan {
    /// Its path; a relative one was joined to the configuration's directory.
    pub path: At<PathBuf>,
    /// Whether I/O bypasses the page cache.
    pub direct: Direct,
    /// Open for reading only.
    pub read_only: bool,
}

/// A mapped device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePlan {
    /// Its name.
    pub name: At<String>,
    /// Its identifier in the device mapper's sense: free text, at most 128 bytes.
    pub uuid: Option<String>,
    /// What a flush promises.
    pub flush: FlushPolicy,
    /// Refuse writes.
    pub read_only: bool,
    /// How long I/O may wait for the suspended device to be resumed before it fails; `None` for ever.
    pub parked_limit: Option<Duration>,
    /// The table as written: lines of `start length target arguments…`, blank lines and lines that begin with `#` among them.
    pub table: At<String>,
    /// Size in 512-byte sectors: where the table's last line ends. Not 0.
    pub sectors: u64,
    /// Logical block size in bytes: the largest among the devices of the table, 512 without any.
    pub block_size: u32,
}

/// The NVMe/TCP target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvmfPlan {
    /// Addresses to listen on, all different (but for port 0, which asks the kernel for any port). Every subsystem is
    /// reachable through each. At least one, unless all hosts come over RDMA or vfio-user.
    pub listeners: Vec<At<SocketAddr>>,
    /// Addresses of RDMA devices to listen on, as those.
    pub rdma: Vec<At<SocketAddr>>,
    /// Subsystems, in the order written.
    pub subsystems: Vec<SubsystemPlan>,
}

/// A subsystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubsystemPlan {
    /// Its NQN, unique.
    pub nqn: At<String>,
    /// Serial number, 1 to 20 bytes of printable ASCII.
    pub serial: String,
    /// Model number, 1 to 40 bytes of printable ASCII.
    pub model: String,
    /// Who may connect.
    pub hosts: HostsPlan,
    /// The ANA state to start in.
    pub ana: AnaState,
    /// The directory of a vfio-user controller.
    pub vfio_user: Option<At<PathBuf>>,
    /// Namespaces, in the order written; NSIDs are unique and from 1 to [`super::NSID_MAX`].
    pub namespaces: Vec<NamespacePlan>,
}

/// Who may connect to a subsystem, log in to a target, or see a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostsPlan {
    /// Every host.
    Any,
    /// Hosts with these names, or initiators that these rules fit ([`crate::export::iscsi::initiators::Rule`]); at least one.
    List(Vec<String>),
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespacePlan {
    /// Namespace identifier.
    pub nsid: u32,
    /// Index into [`Plan::devices`].
    pub device: usize,
    /// What hosts know it by; unique over all subsystems.
    pub uuid: Uuid,
    /// Where the namespace's device is named.
    pub span: Span,
}

/// The iSCSI target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IscsiPlan {
    /// Addresses to listen on, as those of [`NvmfPlan`].
    pub portals: Vec<At<SocketAddr>>,
    /// The tag of each portal's group; those of a group follow each other.
    pub tags: Vec<u16>,
    /// How long an initiator may be silent before it is asked whether it is there, and then before it is gone.
    pub keep_alive: Duration,
    /// What discovery asks of initiators.
    pub discovery: Option<ChapPlan>,
    /// Where what outlives polldm is kept; a relative path was joined to the configuration's directory.
    pub state: Option<At<PathBuf>>,
    /// Targets, in the order written.
    pub targets: Vec<TargetPlan>,
}

/// CHAP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChapPlan {
    /// The file of names and secrets; a relative path was joined to the configuration's directory.
    pub secrets: At<PathBuf>,
    /// Initiators have to ask for the target's proof as well.
    pub mutual: bool,
}

/// An iSCSI target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetPlan {
    /// Its name, unique.
    pub iqn: At<String>,
    /// Who may log in.
    pub initiators: HostsPlan,
    /// How they prove who they are.
    pub chap: Option<ChapPlan>,
    /// The portal groups that it is reached through, at least one, each once, and how well.
    pub groups: Vec<(u16, AluaState)>,
    /// Initiators may change how it is reached.
    pub explicit_alua: bool,
    /// Where initiators are sent instead, and whether for good.
    pub redirect: Option<(SocketAddr, bool)>,
    /// Logical units, by number; numbers are unique and at most [`super::LUN_MAX`].
    pub luns: Vec<LunPlan>,
}

/// A logical unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LunPlan {
    /// Logical unit number.
    pub lun: u16,
    /// Index into [`Plan::devices`].
    pub device: usize,
    /// What initiators know it by.
    pub uuid: Uuid,
    /// The initiators that see it.
    pub initiators: HostsPlan,
    /// Where the unit's device is named.
    pub span: Span,
}

impl Plan {
    /// An error found while building, in the form of every configuration error: at the place `span`, with what would be
    /// right in `help`.
    pub fn error_at(&self, span: Span, message: &str, help: Option<&str>) -> Error {
        let problem = Problem::at(span, message);
        self.source.error(match help {
            Some(help) => problem.help(help),
            None => problem,
        })
    }

    /// An error found while building that belongs to no place of the file.
    pub fn error_of_whole(&self, message: &str) -> Error {
        self.source.error(Problem::whole(message))
    }

    /// What the device mapper has against a device's table, at its place in it.
    pub fn table_error(&self, device: &DevicePlan, error: TableError) -> Error {
        let problem = self.source.table_problem(&device.table, error);
        self.source.error(problem)
    }

    /// The backing device of that name.
    pub fn bdev(&self, name: &str) -> Option<&BdevPlan> {
        self.bdevs.iter().find(|bdev| bdev.name.value == name)
    }
}
