//! Connecting to a controller: what it and the namespace say of themselves, and what is wrong with them, in an operator's words.

use std::time::Duration;

use crate::host::{self, Controller, HostIdentity, HostOptions};
use crate::nvme::bytes::get_u16;
use crate::nvme::identify::{
    CACHE_PRESENT, NAMESPACE_WRITE_PROTECTED, NamespaceIdentity, NvmLimits, namespace_feature,
    optional_io, structure,
};
use crate::nvme::pdu::Digests;
use crate::nvme::status::Status;
use crate::nvme::{feature, identify};
use crate::reactor::BUFFER_BYTES_MAX;

use super::{CONNECT_TIMEOUT, QUEUE_DEPTH, QUEUES_MAX, RemoteSpec};
use crate::bdev::SECTOR_BYTES;

/// The most blocks of a Read, Write or Write Zeroes: NLB has 16 bits.
const COMMAND_BLOCKS_MAX: u64 = 1 << 16;

/// What a link must know to make commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) nsid: u32,
    /// A sector number shifted right by this is a block number: 0 or 3.
    pub(super) block_shift: u32,
    /// The largest Write Zeroes, in sectors; whole blocks.
    pub(super) zeroes_sectors_max: u32,
    /// The largest range of a Dataset Management, in sectors; whole blocks.
    pub(super) discard_sectors_max: u32,
}

/// What was found at the other end.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) geometry: Geometry,
    pub(super) sectors: u64,
    pub(super) identity: NamespaceIdentity,
    pub(super) volatile_cache: bool,
    pub(super) discard: bool,
    pub(super) write_zeroes: bool,
    pub(super) read_only: bool,
    /// The largest read or write, in sectors.
    pub(super) transfer_sectors_max: u32,
    /// What writes should be multiples of, in bytes.
    pub(super) optimal_write_bytes: u32,
    /// I/O queues that the controller grants.
    pub(super) queues_max: u16,
    /// Commands on one of them.
    pub(super) depth: usize,
}

impl Found {
    pub(super) fn block_bytes(&self) -> u32 {
        (SECTOR_BYTES as u32) << self.geometry.block_shift
    }

    /// Whether hosts that were told of `before` can go on with this.
    ///
    /// # Errors
    /// What has changed that they would have to know.
    pub(super) fn check_same(&self, before: &Found) -> Result<(), String> {
        let changed = |what: &str| {
            Err(format!(
                "the namespace is not what it was: {what}; remove the bdev and add it again"
            ))
        };
        if self.identity != before.identity {
            return changed("its identifiers are others, so it is another disk");
        }
        if self.geometry.block_shift != before.geometry.block_shift {
            return changed("its block size is another");
        }
        if self.volatile_cache && !before.volatile_cache {
            return changed("it has a volatile cache now, and hosts were told that there is none");
        }
        if self.transfer_sectors_max < before.transfer_sectors_max {
            return changed("its largest transfer is smaller");
        }
        let less = |now: bool, before: bool| before && !now;
        if less(self.discard, before.discard) || less(self.write_zeroes, before.write_zeroes) {
            return changed("it takes no discards, or no write-zeroes, any more");
        }
        Ok(())
    }
}

/// Connects the admin queue and looks at everything. Blocks; each step for at most [`CONNECT_TIMEOUT`] and `room`.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn attach(spec: &RemoteSpec, room: Duration) -> Result<(Controller, Found), String> {
    let options = options(spec, room).map_err(|error| error.to_string())?;
    let mut controller = Controller::connect(&spec.address, &options)
        .map_err(|error| explain_connect(spec, &options, &error))?;
    let found = look(spec, &mut controller)?;
    Ok((controller, found))
}

fn options(spec: &RemoteSpec, room: Duration) -> Result<HostOptions, host::Error> {
    let identity = match &spec.host_nqn {
        Some(nqn) => HostIdentity::named(nqn),
        None => HostIdentity::of_machine()?,
    };
    let mut options = HostOptions::new(identity);
    options.connection.digests = Digests {
        header: spec.header_digest,
        data: spec.data_digest,
    };
    options.connection.timeout = CONNECT_TIMEOUT.min(room).max(Duration::from_millis(50));
    options.keep_alive_ms = u32::try_from(spec.keep_alive.as_millis()).unwrap_or(u32::MAX);
    Ok(options)
}

fn explain_connect(spec: &RemoteSpec, options: &HostOptions, error: &host::Error) -> String {
    /// Connect, invalid parameters: the data (not the command) has the wrong field, at the subsystem's NQN (NVMe Base 2.0, 6.3).
    const SUBSYSTEM_NQN_INVALID: u64 = 0x1_0100;
    let nqn = &spec.address.nqn;
    match error {
        host::Error::Status { status, .. } if status.is(Status::CONNECT_INVALID_HOST) => format!(
            "the subsystem \"{nqn}\" does not let the host \"{}\" in; allow that host there, or set `host_nqn` to one that is allowed",
            options.identity.nqn
        ),
        host::Error::Status { status, result, .. }
            if status.is(Status::CONNECT_INVALID_PARAMETERS)
                && result & 0x1_FFFF == SUBSYSTEM_NQN_INVALID =>
        {
            format!(
                "the target has no subsystem \"{nqn}\"; `polldm export ls` or `nvme discover` shows those it has"
            )
        }
        error => error.to_string(),
    }
}

fn look(spec: &RemoteSpec, controller: &mut Controller) -> Result<Found, String> {
    let told = |error: host::Error| error.to_string();
    let (sectors, block_shift, page) = namespace(spec.nsid, controller)?;
    let namespace = identify::Namespace::decode(&page);
    let identity = match controller.identify(structure::NAMESPACE_DESCRIPTORS, spec.nsid) {
        Ok(page) => NamespaceIdentity::decode(&page),
        // Not every controller has the descriptors; then the identifiers of the structure itself have to do.
        Err(host::Error::Status { .. }) => NamespaceIdentity {
            nguid: Some(namespace.nguid),
            eui64: Some(namespace.eui64),
            ..NamespaceIdentity::default()
        },
        Err(error) => return Err(error.to_string()),
    };
    let transfer_bytes_max = controller.transfer_size_max().unwrap_or(u64::MAX);
    let transfer_bytes_max = transfer_bytes_max.min(BUFFER_BYTES_MAX as u64);
    let limits = match controller.identify(structure::COMMAND_SET_CONTROLLER, 0) {
        Ok(page) => Some(NvmLimits::decode(&page)),
        Err(host::Error::Status { .. }) => None,
        Err(error) => return Err(error.to_string()),
    };
    let block_bytes = SECTOR_BYTES << block_shift;
    let whole_blocks = |bytes: u64| {
        let blocks = (bytes / block_bytes).clamp(1, COMMAND_BLOCKS_MAX);
        (blocks << block_shift) as u32
    };
    let page_shift = 12 + u32::from(controller.capabilities().page_size_min);
    let zeroes_bytes_max = match limits {
        Some(NvmLimits {
            write_zeroes: 0, ..
        }) => u64::MAX,
        Some(limits) => 1u64
            .checked_shl(page_shift + u32::from(limits.write_zeroes))
            .unwrap_or(u64::MAX),
        // Nothing is known: as with data.
        None => transfer_bytes_max,
    };
    let limits = limits.unwrap_or_default();
    let or_none = |limit: u64| if limit == 0 { u64::MAX } else { limit };
    let discard_blocks =
        or_none(limits.dataset_range_size.into()).min(or_none(limits.dataset_size));
    let discard_blocks_max = u64::from(u32::MAX) >> block_shift;
    let about = controller.identity();
    let can = |bit: u16| about.optional_io & bit != 0;
    let (discard, write_zeroes) = (
        can(optional_io::DATASET_MANAGEMENT),
        can(optional_io::WRITE_ZEROES),
    );
    let volatile_cache = about.write_cache & CACHE_PRESENT != 0;
    let announces = about.async_events & feature::EVENT_NAMESPACE_ATTRIBUTE != 0;
    let granularity = match namespace.features & namespace_feature::OPTIMAL_PERFORMANCE {
        0 => 1,
        _ => u64::from(namespace.write_granularity) + 1,
    };
    let queues_max = controller
        .set_queue_count(QUEUES_MAX.into())
        .map_err(told)?;
    if announces {
        let event = feature::EVENT_NAMESPACE_ATTRIBUTE;
        controller
            .set_feature(feature::ASYNC_EVENT_CONFIGURATION, 0, event)
            .map_err(told)?;
        controller.arm_event().map_err(told)?;
    }
    Ok(Found {
        geometry: Geometry {
            nsid: spec.nsid,
            block_shift,
            zeroes_sectors_max: whole_blocks(zeroes_bytes_max),
            discard_sectors_max: (discard_blocks.clamp(1, discard_blocks_max) << block_shift)
                as u32,
        },
        sectors,
        identity,
        volatile_cache,
        discard,
        write_zeroes,
        read_only: namespace.attributes & NAMESPACE_WRITE_PROTECTED != 0,
        transfer_sectors_max: whole_blocks(transfer_bytes_max),
        optimal_write_bytes: u32::try_from(granularity * block_bytes).unwrap_or(block_bytes as u32),
        queues_max: queues_max as u16,
        depth: QUEUE_DEPTH.min(controller.depth_max()),
    })
}

/// The size of a namespace in sectors, the shift from sectors to its blocks, and its page.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn namespace(
    nsid: u32,
    controller: &mut Controller,
) -> Result<(u64, u32, Box<identify::Page>), String> {
    let page = match controller.identify(structure::NAMESPACE, nsid) {
        Ok(page) => page,
        Err(host::Error::Status { status, .. }) if status.is(Status::INVALID_NAMESPACE) => {
            return Err(no_such_namespace(nsid, controller));
        }
        Err(error) => return Err(error.to_string()),
    };
    let namespace = identify::Namespace::decode(&page);
    if namespace.size == 0 {
        return Err(no_such_namespace(nsid, controller));
    }
    let metadata_bytes = get_u16(&page[..], 128 + 4 * format_in_use(&page));
    if metadata_bytes != 0 {
        return Err(format!(
            "namespace {nsid} has {metadata_bytes} bytes of metadata for each block, which polldm does not support; format it without"
        ));
    }
    let block_shift = match namespace.block_shift {
        9 => 0,
        12 => 3,
        shift => {
            return Err(format!(
                "namespace {nsid} has blocks of 2^{shift} bytes; 512 and 4096 are supported"
            ));
        }
    };
    let sectors = namespace
        .size
        .checked_mul(1 << block_shift)
        .filter(|sectors| *sectors <= i64::MAX as u64 / SECTOR_BYTES);
    let sectors =
        sectors.ok_or_else(|| format!("namespace {nsid} is larger than can be addressed"))?;
    Ok((sectors, block_shift, page))
}

/// FLBAS: which of the LBA formats is in use (NVM Command Set 1.0, 4.1.5.1).
fn format_in_use(page: &identify::Page) -> usize {
    usize::from(page[26] & 0xF | page[26] >> 1 & 0x30)
}

fn no_such_namespace(nsid: u32, controller: &mut Controller) -> String {
    match controller.namespaces() {
        Ok(nsids) if nsids.is_empty() => {
            format!("there is no namespace {nsid}: the subsystem has none for this host")
        }
        Ok(nsids) => {
            let nsids: Vec<String> = nsids.iter().map(u32::to_string).collect();
            format!(
                "there is no namespace {nsid}; the subsystem has {}",
                nsids.join(", ")
            )
        }
        Err(error) => format!("there is no namespace {nsid} ({error})"),
    }
}
