//! The SPDK engine in the guest, over RDMA: soft-RoCE on the guest's own network device. The host is the guest's own kernel.

use std::path::Path;

use super::Context;
use crate::inside::{Inside, Plan};

#[cfg(feature = "spdk")]
use polldm::spdk::HAS_RDMA;
#[cfg(not(feature = "spdk"))]
const HAS_RDMA: bool = false;

/// Names the library of soft-RoCE to programs.
const DRIVER: &str = "/etc/libibverbs.d/rxe.driver";

/// What this machine or its SPDK lacks for the scenario.
pub fn lacks() -> Option<&'static str> {
    if !HAS_RDMA {
        return Some("the SPDK of this build has no RDMA");
    }
    let has_driver = Path::new(DRIVER).exists();
    (!has_driver).then_some("soft-RoCE's library is not here: Debian's ibverbs-providers")
}

/// Hugepages of 2 MiB: what SPDK takes at the least, buffers of the transport, and the disk.
const HUGEPAGES: u32 = 512;

/// The kernel's nvme-rdma writes, reads back and compares; writes that fit into their command and writes that SPDK fetches. Then the same namespace by TCP, which holds what
/// was written by RDMA.
pub fn serves_a_host(context: &Context<'_>) -> Result<(), String> {
    let guest = context.guest;
    guest.run(&format!(
        "hugepages {HUGEPAGES}; rdma link add rxe0 type rxe netdev eth0"
    ))?;
    let bdev = "malloc: { name: one, size: 64MiB }".to_owned();
    let plan = Plan::spdk("rdma", &[bdev], "0 131072 linear one 0").over_rdma();
    let inside = Inside::start(guest, context.binary, &plan)?;
    let connection = inside.connect_over_rdma()?;
    let device = connection.device(1)?;
    guest.run(&format!(
        "fio --eta=never --thread --ioengine=libaio --direct=1 --filename={device} --rw=randwrite --iodepth=16 \
         --verify=crc32c --verify_fatal=1 --fsync=32 --randseed=20261121 --name=mixed --bsrange=512-64k --blockalign=512 --size=4m"
    ))?;
    let sum = |device: &str| {
        guest.run(&format!(
            "dd if={device} bs=1M count=4 iflag=direct status=none | sha256sum"
        ))
    };
    let written = sum(&device)?;
    connection.close()?;

    let connection = inside.connect()?;
    let found = sum(&connection.device(1)?)?;
    if found != written {
        return Err(format!(
            "over RDMA the host reads {written}, and over TCP {found}"
        ));
    }
    connection.close()?;
    inside.terminate()?;
    guest.run("rdma link delete rxe0; hugepages 0").map(drop)
}
