//! Bindings to an installed SPDK, generated from its headers when this is built. Only what polldm's SPDK engine calls is in here; its safe
//! wrappers are in polldm's `src/spdk`.
//!
//! SPDK is found by pkg-config; see `build.rs` for where it looks and what it probes.

#![allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    missing_docs,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    unnecessary_transmutes
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

/// Whether this SPDK has its iSCSI target.
pub const HAS_ISCSI: bool = cfg!(spdk_iscsi);

/// Whether this SPDK has NVMe over vfio-user, as a host and as a target.
pub const HAS_VFIO_USER: bool = cfg!(spdk_vfio_user);

/// Whether this SPDK has NVMe over RDMA.
pub const HAS_RDMA: bool = cfg!(spdk_rdma);

/// Whether a subsystem of this SPDK has a bound on the blocks of a discard (DMRSL), which can be chosen.
pub const HAS_DMRSL: bool = cfg!(spdk_dmrsl);

/// Whether NVMe bdevs of this SPDK can be told to send flushes; they answer them by themselves otherwise.
pub const HAS_NVME_FLUSH: bool = cfg!(spdk_nvme_flush);

/// SPDK's own functions count bytes from the addresses of these fields; a header that does not match the library would show here first.
mod layout {
    use super::*;
    use core::mem::{offset_of, size_of};

    // The module's own context follows the structure without a gap, on a cache line of its own (bdev_module.h).
    const _: () = assert!(offset_of!(spdk_bdev_io, driver_ctx) == size_of::<spdk_bdev_io>());
    const _: () = assert!(offset_of!(spdk_bdev_io, driver_ctx) % 64 == 0);
    const _: () = assert!(offset_of!(spdk_bdev_io, bdev) == 0);
    const _: () = assert!(offset_of!(spdk_bdev_io, type_) == size_of::<usize>());
    const _: () = assert!(offset_of!(spdk_bdev, ctxt) == 0);
    const _: () = assert!(offset_of!(spdk_bdev, name) == size_of::<usize>());
    // A write's iovecs are handed on as the kernel's.
    const _: () = assert!(size_of::<iovec>() == 16);
    const _: () = assert!(offset_of!(iovec, iov_base) == 0 && offset_of!(iovec, iov_len) == 8);
}
