//! The configuration file as it is written: the types serde reads and the JSON Schema is made from.
//!
//! Nothing is checked here beyond shape. Doc comments of these types are the schema's descriptions, so they speak to
//! the operator. Everything optional is an `Option`, its default stands beside it and is applied where the plan is built;
//! a key without a value counts as left out.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::alua::AluaState;
use super::ana::AnaState;
use super::duration::DurationText;
use super::scalar::{Cores, Hosts, SizeText};
use super::source::At;

/// polldm: backing devices, the mapped devices built from them, and the hosts that may use them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "polldm configuration")]
pub(super) struct Config {
    /// Which engine polls the devices. Default: `native`. `spdk` needs a polldm that was built with SPDK.
    #[schemars(extend("default" = "native"))]
    pub engine: Option<At<Engine>>,
    /// What only the SPDK engine has. The native engine passes it by.
    pub spdk: Option<Spdk>,
    /// The threads that do all I/O.
    pub reactors: Option<Reactors>,
    /// The socket that `polldm dm`, `polldm stats` and the others talk to.
    pub control: Option<Control>,
    /// Counters and histograms for Prometheus. Off unless given.
    pub metrics: Option<Metrics>,
    /// Backing devices: where the bytes are in the end.
    pub bdevs: Option<Vec<At<Bdev>>>,
    /// Mapped devices: tables of targets over the backing devices.
    pub devices: Option<Vec<At<Device>>>,
    /// How hosts reach the mapped devices.
    pub exports: Option<Exports>,
}

/// What polls the devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// polldm's own reactors, backing devices and targets: any Linux machine, nothing to install.
    Native,
    /// SPDK, for machines that give whole NVMe devices and cores to storage. Needs a build with SPDK.
    Spdk,
}

/// What only the SPDK engine has.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Spdk {
    /// Whether SPDK's memory is hugepages. Default: `on`. Without them there is no NVMe device on PCIe.
    #[schemars(extend("default" = "on"))]
    pub hugepages: Option<At<Hugepages>>,
    /// How much memory SPDK takes, such as 2GiB; malloc bdevs and I/O buffers come out of it. Default: what SPDK asks for, or
    /// 512MiB without hugepages.
    pub memory: Option<At<SizeText>>,
    /// Path of SPDK's own JSON-RPC socket, for `rpc.py` and `spdk_top`. When left out, nobody else finds it. A relative path counts
    /// from the directory of this file.
    pub rpc: Option<At<PathBuf>>,
}

/// Whether SPDK's memory is hugepages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Hugepages {
    /// It is.
    On,
    /// It is ordinary memory.
    Off,
}

/// The threads that do all I/O: one reactor per CPU.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Reactors {
    /// The CPUs reactors are pinned to: `auto` (the default) for every CPU this process may use, a list of CPU numbers, or a string
    /// of ranges such as "0-3,6".
    #[schemars(extend("default" = "auto"))]
    pub cores: Option<At<Cores>>,
    /// How many reactors to start; one per CPU of `cores` when left out. More than that share the CPUs in turn.
    #[schemars(range(min = 1, max = 256))]
    pub count: Option<At<u32>>,
    /// What a reactor does when there is nothing to do. Default: `adaptive`.
    #[schemars(extend("default" = "adaptive"))]
    pub poll: Option<At<Poll>>,
    /// Microseconds an `adaptive` reactor keeps polling after the last work before it sleeps. Default: 100.
    #[schemars(range(min = 0, max = 1_000_000), extend("default" = 100))]
    pub spin_us: Option<At<u32>>,
}

/// What a reactor does when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Poll {
    /// Poll without end: lowest latency, each reactor takes a whole CPU.
    Busy,
    /// Poll for `spin_us` after the last work, then sleep in the kernel until something happens.
    Adaptive,
}

/// The control socket.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Control {
    /// Path of the UNIX socket. Default: /run/polldm.sock for root, $XDG_RUNTIME_DIR/polldm.sock for others, and
    /// /tmp/polldm-UID/control.sock where that is not set. A relative path counts from the directory of this file.
    pub socket: Option<At<PathBuf>>,
}

/// The Prometheus endpoint.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    /// Address and port to answer HTTP on, such as "127.0.0.1:9090".
    pub listen: At<String>,
}

/// A backing device: a map with one key, which is its kind.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Bdev {
    /// Memory: contents are gone when polldm ends.
    Malloc(MallocBdev),
    /// Nothing: writes vanish, reads return whatever was in the buffer. For measurements.
    Null(NullBdev),
    /// A regular file or a block device.
    File(FileBdev),
    /// A namespace of an NVMe/TCP target on another machine, or on this one.
    #[serde(rename = "nvme-tcp")]
    NvmeTcp(Box<NvmeTcpBdev>),
    /// A namespace of an NVMe controller of this machine's: by `device` one that the kernel drives, for the native engine; otherwise one that
    /// SPDK drives, for the SPDK engine.
    Nvme(NvmeBdev),
    /// Any bdev of SPDK's, and the methods that make it. For the SPDK engine.
    #[serde(rename = "spdk-json")]
    SpdkJson(SpdkJsonBdev),
}

/// A backing device in memory.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MallocBdev {
    /// The name table lines use.
    pub name: At<String>,
    /// Size, such as 1GiB. Memory is taken when it is first written.
    pub size: At<SizeText>,
    /// Logical block size in bytes, 512 (the default) or 4096.
    #[schemars(extend("default" = 512))]
    pub block_size: Option<At<SizeText>>,
    /// Behave as a disk with a volatile write cache: what was not flushed may be lost. Default: false. For tests.
    #[schemars(extend("default" = false))]
    pub volatile_cache: Option<At<bool>>,
    /// Offer atomic writes. Reads are copied then, instead of being sent from where they lie. Default: false.
    #[schemars(extend("default" = false))]
    pub atomic_writes: Option<At<bool>>,
}

/// A backing device that keeps nothing.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NullBdev {
    /// The name table lines use.
    pub name: At<String>,
    /// Size, such as 1TiB.
    pub size: At<SizeText>,
    /// Logical block size in bytes, 512 (the default) or 4096.
    #[schemars(extend("default" = 512))]
    pub block_size: Option<At<SizeText>>,
}

/// A backing device in a regular file or a block device.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FileBdev {
    /// The name table lines use.
    pub name: At<String>,
    /// Path of the file or block device. A relative path counts from the directory of this file.
    pub path: At<PathBuf>,
    /// Size of a regular file: it is created, or grown sparse, to this size when smaller. When left out, the file must exist
    /// and has the size it has.
    pub size: Option<At<SizeText>>,
    /// Logical block size in bytes, 512 (the default) or 4096.
    #[schemars(extend("default" = 512))]
    pub block_size: Option<At<SizeText>>,
    /// Whether I/O bypasses the page cache. Default: `auto`.
    #[schemars(extend("default" = "auto"))]
    pub direct: Option<At<Direct>>,
    /// Open for reading only. Default: false.
    #[schemars(extend("default" = false))]
    pub read_only: Option<At<bool>>,
}

/// A backing device behind an NVMe/TCP connection. Its size and block size are the namespace's.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NvmeTcpBdev {
    /// The name table lines use.
    pub name: At<String>,
    /// Address and port of the target, such as "192.0.2.7:4420", "[2001:db8::7]:4420" or "storage:4420". Port 4420 when left out.
    pub address: At<String>,
    /// NQN of the subsystem.
    #[schemars(length(min = 11, max = 223))]
    pub nqn: At<String>,
    /// Namespace identifier. Default: 1.
    #[schemars(range(min = 1, max = 4_294_967_294_u32), extend("default" = 1))]
    pub nsid: Option<At<u32>>,
    /// Who connects, for targets that let certain hosts in. Default: what /etc/nvme/hostnqn has; without it, a name that lasts as long as the process.
    #[schemars(length(min = 11, max = 223))]
    pub host_nqn: Option<At<String>>,
    /// A checksum over the headers of what is sent and received. Default: false.
    #[schemars(extend("default" = false))]
    pub header_digest: Option<At<bool>>,
    /// A checksum over data. Default: false.
    #[schemars(extend("default" = false))]
    pub data_digest: Option<At<bool>>,
    /// When nothing was heard for so long, either side gives the other up; at most an hour. Default: 5s.
    #[schemars(extend("default" = "5s"))]
    pub keep_alive: Option<At<DurationText>>,
    /// The longest pause between two attempts to connect again. The first is made at once, the next after 100ms, then after twice as long
    /// each time. Default: 10s.
    #[schemars(extend("default" = "10s"))]
    pub reconnect_delay: Option<At<DurationText>>,
    /// After so long without a connection the remote is given up: its I/O fails, as that of a disk that was pulled, until it is removed
    /// and added again. Default: 600s.
    #[schemars(extend("default" = "600s"))]
    pub ctrl_loss_timeout: Option<At<DurationText>>,
    /// I/O that waits for the connection to come back fails after so long. (I/O from `multipath` does not wait at all.) Default: as
    /// ctrl_loss_timeout.
    pub fast_io_fail_timeout: Option<At<DurationText>>,
    /// A command that is not answered for so long ends its connection, and is treated as what was lost with it. Default: 30s.
    #[schemars(extend("default" = "30s"))]
    pub io_timeout: Option<At<DurationText>>,
}

/// A namespace of an NVMe controller: `device` is one that the kernel drives; of one that SPDK drives, one of `tcp`, `pcie` and `vfio_user` says where
/// the controller is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NvmeBdev {
    /// The name table lines use.
    pub name: At<String>,
    /// The namespace's generic character device, such as /dev/ng0n1. Size and block size are the namespace's. For the native engine.
    pub device: Option<At<PathBuf>>,
    /// Address and port of an NVMe/TCP target, such as "192.0.2.1:4420".
    pub tcp: Option<At<String>>,
    /// The subsystem's NQN, with `tcp`.
    pub nqn: Option<At<String>>,
    /// Address on the PCI bus, such as "0000:01:00.0", of a controller that is bound to vfio-pci or uio_pci_generic.
    pub pcie: Option<At<String>>,
    /// The directory of a vfio-user controller's socket.
    pub vfio_user: Option<At<PathBuf>>,
    /// Namespace identifier. Default: 1.
    #[schemars(range(min = 1), extend("default" = 1))]
    pub nsid: Option<At<u32>>,
}

/// Any bdev of SPDK's.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SpdkJsonBdev {
    /// The name table lines use.
    pub name: At<String>,
    /// The bdev's name in SPDK.
    pub bdev: At<String>,
    /// A file in the form of SPDK's own configuration (`rpc.py save_config` writes it); the methods that it lists are called before the bdev is
    /// looked for, once however many bdevs name it. A relative path counts from the directory of this file.
    pub config: Option<At<PathBuf>>,
    /// Whether writes can be in a volatile cache beneath when they have completed. Needed only for a bdev that takes no flush (a logical volume, `uring`): `false` lets
    /// flushes of it succeed, on your word; `true` refuses such a bdev. Left out, its flushes fail.
    pub volatile_cache: Option<At<bool>>,
}

/// Whether I/O to a file bypasses the page cache (O_DIRECT).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direct {
    /// Where the file system can.
    Auto,
    /// Always; refuse a file whose file system cannot.
    On,
    /// Never.
    Off,
}

/// A mapped device.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Device {
    /// Its name, 1 to 127 bytes.
    pub name: At<String>,
    /// An identifier of your own, at most 128 bytes, that stays when the device is renamed.
    pub uuid: Option<At<String>>,
    /// What a flush promises. Default: `relaxed`.
    #[schemars(extend("default" = "relaxed"))]
    pub flush: Option<At<FlushPolicy>>,
    /// Refuse writes. Default: false.
    #[schemars(extend("default" = false))]
    pub read_only: Option<At<bool>>,
    /// How long I/O may wait for the suspended device to be resumed, such as 30s, before it fails. Default: for ever.
    pub parked_limit: Option<At<DurationText>>,
    /// The table in dmsetup's form: a line `start length target arguments…` for each target, in 512-byte sectors, without gaps.
    pub table: At<String>,
}

/// What a flush promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FlushPolicy {
    /// What had completed when the flush was issued is durable when the flush completes, as with a disk.
    Relaxed,
    /// A flush is also a barrier: what was issued before it completes before, what comes after it waits.
    Ordered,
}

/// How hosts reach the mapped devices.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Exports {
    /// NVMe over TCP.
    pub nvmf: Option<Nvmf>,
    /// iSCSI.
    pub iscsi: Option<Iscsi>,
}

/// The iSCSI target.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Iscsi {
    /// Addresses to listen on, such as "127.0.0.1:3260" or "[::1]:3260": portal group 1. May be left out when there are others.
    #[schemars(extend("maxItems" = 64))]
    pub portals: Option<At<Vec<At<String>>>>,
    /// More portal groups. To an initiator each is a way of its own to a target, with a state of its own.
    pub portal_groups: Option<Vec<At<PortalGroup>>>,
    /// An initiator that has said nothing for so long is asked whether it is there, and its connection ends when it has not answered for as
    /// long again; at most an hour. Default: 15s.
    #[schemars(extend("default" = "15s"))]
    pub keep_alive: Option<At<DurationText>>,
    /// What initiators are asked before they are shown which targets there are.
    pub discovery: Option<Discovery>,
    /// A directory for what outlives polldm: persistent reservations that initiators want kept (APTPL). It has to be there, and is for one
    /// polldm alone; a relative path counts from the directory of this file. When left out, nothing is kept and APTPL is refused.
    pub state: Option<At<PathBuf>>,
    /// The targets initiators log in to.
    pub targets: Vec<At<Target>>,
}

/// Portals that are one way to a target.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PortalGroup {
    /// Its tag, from 1.
    #[schemars(range(min = 1, max = 65_535))]
    pub tag: At<u32>,
    /// Addresses to listen on.
    #[schemars(extend("minItems" = 1, "maxItems" = 64))]
    pub portals: At<Vec<At<String>>>,
}

/// A portal group as a target uses it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TargetGroup {
    /// The group's tag.
    #[schemars(range(min = 1, max = 65_535))]
    pub tag: At<u32>,
    /// The ALUA state to start in; `polldm iscsi alua` changes it. Default: `optimized`.
    #[schemars(extend("default" = "optimized"))]
    pub alua: Option<At<AluaState>>,
}

/// Where initiators are sent instead.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Redirect {
    /// Address and port, such as "192.0.2.8:3260". Who comes there is let in, so it may be one of our own.
    pub address: At<String>,
    /// Initiators keep to it. Default: false, for this login.
    #[schemars(extend("default" = false))]
    pub permanent: Option<At<bool>>,
}

/// What initiators are asked before they are shown which targets there are.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Discovery {
    /// How initiators prove who they are. When left out, everyone is shown the targets it may log in to.
    pub chap: Option<Chap>,
}

/// CHAP: initiators prove that they know a secret.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Chap {
    /// File of names and secrets, which nobody else may read: lines `initiator NAME SECRET`, and one `target NAME SECRET` for what the
    /// target proves itself with. A relative path counts from the directory of this file.
    pub secrets: At<PathBuf>,
    /// Let in only initiators that have the target prove itself as well. Default: false; those who ask get a proof in any case, if the
    /// file has a `target` line.
    #[schemars(extend("default" = false))]
    pub mutual: Option<At<bool>>,
}

/// A target: what an initiator logs in to, by its iSCSI name.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    /// The name, `iqn.YYYY-MM.reverse.domain:identifier`, at most 223 bytes.
    #[schemars(length(min = 11, max = 223))]
    pub iqn: At<String>,
    /// The initiators that may log in: `any`, or a list. An entry is a name, a pattern such as iqn.1993-08.org.debian:*, a network such as
    /// 192.0.2.0/24, or a name or pattern and a network with @ between them.
    pub initiators: At<Hosts>,
    /// How initiators prove who they are. When left out, their names are believed.
    pub chap: Option<Chap>,
    /// The portal groups that the target is reached through. When left out, all.
    pub portal_groups: Option<At<Vec<At<TargetGroup>>>>,
    /// Initiators may change the ALUA states of the target's portal groups (SET TARGET PORT GROUPS). Default: false, because two hosts that
    /// prefer different ways would switch for ever.
    #[schemars(extend("default" = false))]
    pub explicit_alua: Option<At<bool>>,
    /// Send initiators to another address when they log in.
    pub redirect: Option<Redirect>,
    /// The logical units initiators see.
    pub luns: Vec<At<Lun>>,
}

/// A logical unit: a mapped device under a number.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Lun {
    /// Logical unit number, from 0.
    #[schemars(range(min = 0, max = 255))]
    pub lun: At<u32>,
    /// Name of the mapped device.
    pub device: At<String>,
    /// The initiators that see it, in the form of the target's. When left out, all that may log in.
    pub initiators: Option<At<Hosts>>,
}

/// The NVMe/TCP target.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nvmf {
    /// Addresses to listen on, such as "127.0.0.1:4420" or "[::1]:4420". Every subsystem is reachable through each. Empty only on the SPDK engine,
    /// where hosts can come by `rdma` or `vfio_user`.
    #[schemars(extend("maxItems" = 64))]
    pub listeners: At<Vec<At<String>>>,
    /// Addresses of RDMA devices to listen on, beside `listeners`. On the SPDK engine, where SPDK was built with RDMA.
    #[schemars(extend("maxItems" = 64))]
    pub rdma: Option<Vec<At<String>>>,
    /// The subsystems hosts connect to.
    pub subsystems: Vec<At<Subsystem>>,
}

/// A subsystem: what a host connects to, by its NVMe Qualified Name.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Subsystem {
    /// The name, `nqn.YYYY-MM.reverse.domain:identifier`, at most 223 bytes.
    #[schemars(length(min = 11, max = 223))]
    pub nqn: At<String>,
    /// Serial number, 1 to 20 printable ASCII characters. Derived from the NQN when left out.
    #[schemars(length(min = 1, max = 20))]
    pub serial: Option<At<String>>,
    /// Model number, 1 to 40 printable ASCII characters. Default: polldm.
    #[schemars(length(min = 1, max = 40), extend("default" = "polldm"))]
    pub model: Option<At<String>>,
    /// The hosts that may connect: `any`, or a list of host NQNs.
    pub hosts: At<Hosts>,
    /// The ANA state to start in; `polldm export ana` changes it. Default: `optimized`.
    #[schemars(extend("default" = "optimized"))]
    pub ana: Option<At<AnaState>>,
    /// A directory in which a host on this machine finds the subsystem as an emulated NVMe controller, by the socket `cntrl`; it is made if need be.
    /// On the SPDK engine, where SPDK was built with vfio-user.
    pub vfio_user: Option<At<PathBuf>>,
    /// The namespaces hosts see.
    pub namespaces: Vec<At<Namespace>>,
}

/// A namespace: a mapped device under a number.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Namespace {
    /// Namespace identifier, from 1.
    #[schemars(range(min = 1, max = 1024))]
    pub nsid: At<u32>,
    /// Name of the mapped device.
    pub device: At<String>,
    /// UUID that hosts know the namespace by. Derived from the NQN and the device's name when left out.
    pub uuid: Option<At<String>>,
}
