//! The steps between a TCP connection and a controller that is ready (NVMe Base 2.0, 3.5.2).

use super::address::Address;
use super::blocking::{BlockingQueue, Outcome, Payload};
use super::connection::Connection;
use super::error::Error;
use super::identity::HostOptions;
use super::queue::Queue;
use crate::nvme::fabrics::{
    Capabilities, Configuration, Connect, ConnectData, ControllerStatus, PropertyAccess,
    PropertySize, property,
};
use crate::nvme::status::fabrics_name;
use std::time::{Duration, Instant};

/// In-capsule data that every controller takes on its admin queue, in bytes (NVMe/TCP Transport 1.0, 3.3.1).
const ADMIN_CAPSULE_DATA_SIZE: u32 = 8192;

/// Opens a connection and connects a queue on it; the queue and the controller's identifier.
pub(super) fn connect_queue(
    address: &Address,
    options: &HostOptions,
    request: Connect,
    controller_id: u16,
    depth: usize,
) -> Result<(BlockingQueue, u16), Error> {
    let timeout = options.connection.timeout;
    let deadline = options.connection.deadline;
    let connection = Connection::open_by(&address.resolve()?, timeout, deadline)?;
    let (stream, negotiated) = connection.initialize(&options.connection)?;
    let queue = Queue::new(stream, negotiated, depth, ADMIN_CAPSULE_DATA_SIZE);
    let mut queue = BlockingQueue::new(queue, timeout);
    queue.set_limits(timeout, deadline);
    let data = ConnectData {
        host_id: options.identity.id,
        controller_id,
        subsystem_nqn: &address.nqn,
        host_nqn: &options.identity.nqn,
    }
    .encode();
    let outcome = queue.run(request.encode(), Payload::Write(&data))?;
    let what = format!(
        "Connect of queue {} to \"{}\"",
        request.queue_id, address.nqn
    );
    let outcome = succeed_fabrics(&what, outcome)?;
    if outcome.completion.result >> 16 & 0xFFFF != 0 {
        return Err(Error::Unsupported(format!(
            "\"{}\" requires authentication, which this host does not do",
            address.nqn
        )));
    }
    Ok((queue, outcome.completion.result as u16))
}

/// Enables the controller (NVMe Base 2.0, 3.5.2); its capabilities.
pub(super) fn enable(admin: &mut BlockingQueue) -> Result<Capabilities, Error> {
    let bits = property_get(admin, property::CAPABILITIES, PropertySize::Eight)?;
    let capabilities = Capabilities::decode(bits);
    if capabilities.queue_entries_max < 2 {
        return Err(Error::Unsupported(
            "the controller's queues have fewer than two entries".into(),
        ));
    }
    let value = u64::from(Configuration::ENABLE.0);
    property_set(admin, property::CONFIGURATION, PropertySize::Four, value)?;
    await_status(admin, "enabling the controller", |status| status.ready)?;
    Ok(capabilities)
}

/// Reads CSTS until it is as wanted.
pub(super) fn await_status(
    admin: &mut BlockingQueue,
    what: &str,
    wanted: impl Fn(ControllerStatus) -> bool,
) -> Result<(), Error> {
    let after = admin.timeout();
    let deadline = admin.due();
    loop {
        let bits = property_get(admin, property::STATUS, PropertySize::Four)?;
        let status = ControllerStatus::decode(bits as u32);
        if wanted(status) {
            return Ok(());
        }
        if status.fatal {
            return Err(Error::Unsupported(format!(
                "{what}: the controller reports a fatal status"
            )));
        }
        if Instant::now() >= deadline {
            return Err(Error::Timeout {
                what: what.to_owned(),
                after,
            });
        }
        // There is no event for this change; a millisecond keeps the wait from being a busy one.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Reads a property.
pub(super) fn property_get(
    admin: &mut BlockingQueue,
    offset: u32,
    size: PropertySize,
) -> Result<u64, Error> {
    let outcome = admin.run(PropertyAccess::get(offset, size), Payload::None)?;
    Ok(
        succeed_fabrics(&format!("Property Get ({offset:02X}h)"), outcome)?
            .completion
            .result,
    )
}

/// Writes a property.
pub(super) fn property_set(
    admin: &mut BlockingQueue,
    offset: u32,
    size: PropertySize,
    value: u64,
) -> Result<(), Error> {
    let outcome = admin.run(PropertyAccess::set(offset, size, value), Payload::None)?;
    succeed_fabrics(&format!("Property Set ({offset:02X}h)"), outcome).map(|_| ())
}

/// The outcome, or the error that a status other than success is.
pub(super) fn succeed(what: &str, outcome: Outcome) -> Result<Outcome, Error> {
    if outcome.completion.status.is_success() {
        return Ok(outcome);
    }
    let status = outcome.completion.status;
    Err(Error::Status {
        what: what.to_owned(),
        status,
        result: outcome.completion.result,
    })
}

/// As [`succeed`], with the names of fabrics statuses.
pub(super) fn succeed_fabrics(what: &str, outcome: Outcome) -> Result<Outcome, Error> {
    let status = outcome.completion.status;
    match fabrics_name(status) {
        Some(name) if !status.is_success() => succeed(&format!("{what} ({name})"), outcome),
        _ => succeed(what, outcome),
    }
}
