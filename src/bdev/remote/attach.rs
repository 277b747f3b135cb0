//! Connecting to a controller: what it and the namespace say of themselves, and what is wrong with them, in an operator's words.

use std::time::{Duration, Instant};

use crate::host::{self, Controller, HostIdentity, HostOptions};
use crate::nvme::identify::{NamespaceIdentity, NvmLimits, structure};
use crate::nvme::pdu::Digests;
use crate::nvme::status::Status;
use crate::nvme::{feature, identify};
use crate::reactor::BUFFER_BYTES_MAX;

use super::{ATTEMPT_TIMEOUT, CONNECT_TIMEOUT, QUEUE_DEPTH, QUEUES_MAX, RemoteSpec};
use crate::bdev::namespace::{Limits, Traits, size};

/// What was found at the other end.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) traits: Traits,
    pub(super) identity: NamespaceIdentity,
    /// I/O queues that the controller grants.
    pub(super) queues_max: u16,
    /// Commands on one of them.
    pub(super) depth: usize,
}

impl Found {
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
        let (now, before) = (&self.traits, &before.traits);
        if now.block_bytes() != before.block_bytes() {
            return changed("its block size is another");
        }
        if now.volatile_cache && !before.volatile_cache {
            return changed("it has a volatile cache now, and hosts were told that there is none");
        }
        if now.transfer_sectors_max < before.transfer_sectors_max {
            return changed("its largest transfer is smaller");
        }
        if now.atomic_writes.and(before.atomic_writes) != before.atomic_writes {
            return changed("it writes less atomically");
        }
        let less = |now: bool, before: bool| before && !now;
        if less(now.discard, before.discard) || less(now.write_zeroes, before.write_zeroes) {
            return changed("it takes no discards, or no write-zeroes, any more");
        }
        Ok(())
    }
}

/// Connects the admin queue and looks at everything. Blocks; each step for at most [`CONNECT_TIMEOUT`], and all of it, with the I/O
/// queues until [`Controller::lift_deadline`], for at most [`ATTEMPT_TIMEOUT`] and `room`.
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
    let room = room.min(ATTEMPT_TIMEOUT).max(Duration::from_millis(50));
    options.connection.timeout = CONNECT_TIMEOUT.min(room);
    options.connection.deadline = Some(Instant::now() + room);
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
    let page = namespace(spec.nsid, controller)?;
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
    let nvm = match controller.identify(structure::COMMAND_SET_CONTROLLER, 0) {
        Ok(page) => Some(NvmLimits::decode(&page)),
        Err(host::Error::Status { .. }) => None,
        Err(error) => return Err(error.to_string()),
    };
    let limits = Limits {
        transfer_bytes_max: transfer_bytes_max.min(BUFFER_BYTES_MAX as u64),
        nvm,
        page_shift: 12 + u32::from(controller.capabilities().page_size_min),
    };
    let about = controller.identity();
    let traits = Traits::new(spec.nsid, &page, about, &limits)?;
    let announces = about.async_events & feature::EVENT_NAMESPACE_ATTRIBUTE != 0;
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
        traits,
        identity,
        queues_max: queues_max as u16,
        depth: QUEUE_DEPTH.min(controller.depth_max()),
    })
}

/// The page of a namespace, which is there.
///
/// # Errors
/// A sentence for the operator.
fn namespace(nsid: u32, controller: &mut Controller) -> Result<Box<identify::Page>, String> {
    let page = match controller.identify(structure::NAMESPACE, nsid) {
        Ok(page) => page,
        Err(host::Error::Status { status, .. }) if status.is(Status::INVALID_NAMESPACE) => {
            return Err(no_such_namespace(nsid, controller));
        }
        Err(error) => return Err(error.to_string()),
    };
    match identify::Namespace::decode(&page).size {
        0 => Err(no_such_namespace(nsid, controller)),
        _ => Ok(page),
    }
}

/// The size of a namespace in sectors, and the shift from sectors to its blocks, as of now.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn size_now(nsid: u32, controller: &mut Controller) -> Result<(u64, u32), String> {
    size(nsid, &*namespace(nsid, controller)?)
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
