//! The NVMe/TCP target.

use std::path::PathBuf;

use super::exports::{Known, listeners};
use super::{Surroundings, Unique};
use crate::config::names::{DISCOVERY_NQN, Uuid, check_ascii_field, check_nqn, derived_serial};
use crate::config::plan::{
    BdevPlan, DevicePlan, HostsPlan, NamespacePlan, NvmfPlan, SubsystemPlan,
};
use crate::config::raw::{Namespace, Nvmf, Subsystem};
use crate::config::scalar::Hosts;
use crate::config::source::{At, Problem, Span, shown};
use crate::config::{AnaState, NSID_MAX, SOCKET_PATH_BYTES_MAX, SUBSYSTEMS_MAX, VFIO_USER_SOCKET};

/// Bytes of the serial number in Identify Controller (NVMe Base 2.0, section 5.17.2.1).
const SERIAL_BYTES_MAX: usize = 20;
/// Bytes of the model number there.
const MODEL_BYTES_MAX: usize = 40;
/// Model number when none is given.
const MODEL_DEFAULT: &str = "polldm";
/// What must be unique over all subsystems.
#[derive(Default)]
struct Taken {
    nqns: Unique<String>,
    uuids: Unique<Uuid>,
    directories: Unique<PathBuf>,
}

pub(super) fn nvmf(
    written: Nvmf,
    devices: &[DevicePlan],
    bdevs: &[BdevPlan],
    surroundings: &Surroundings<'_>,
) -> Result<NvmfPlan, Problem> {
    let rdma = listeners(&written.rdma.unwrap_or_default(), 4420)?;
    let listeners = listeners(&written.listeners.value, 4420)?;
    let known = Known::new(devices, bdevs);
    let mut taken = Taken::default();
    let mut subsystems = Vec::with_capacity(written.subsystems.len());
    for (index, subsystem) in written.subsystems.into_iter().enumerate() {
        if index == SUBSYSTEMS_MAX {
            return Err(Problem::at(subsystem.span, "too many subsystems")
                .help(format!("there can be {SUBSYSTEMS_MAX}")));
        }
        subsystems.push(subsystem_plan(
            subsystem.value,
            &known,
            &mut taken,
            surroundings,
        )?);
    }
    // Last, because what is wrong with a subsystem says more.
    let is_unreachable = |subsystem: &SubsystemPlan| subsystem.vfio_user.is_none();
    if listeners.is_empty()
        && rdma.is_empty()
        && (subsystems.is_empty() || subsystems.iter().any(is_unreachable))
    {
        return Err(
            Problem::at(written.listeners.span, "no host could reach this target")
                .help("name at least one address, such as \"127.0.0.1:4420\""),
        );
    }
    Ok(NvmfPlan {
        listeners,
        rdma,
        subsystems,
    })
}

fn subsystem_plan(
    written: Subsystem,
    known: &Known<'_>,
    taken: &mut Taken,
    surroundings: &Surroundings<'_>,
) -> Result<SubsystemPlan, Problem> {
    let nqn = written.nqn;
    checked_nqn(&nqn)?;
    if nqn.value == DISCOVERY_NQN {
        return Err(
            Problem::at(nqn.span, "the discovery subsystem cannot be defined")
                .help("it is always there and needs no entry"),
        );
    }
    if let Err(first) = taken.nqns.insert(nqn.value.clone(), nqn.span) {
        return Err(Problem::at(nqn.span, "a second subsystem with this NQN")
            .related(first, "the first")
            .help("every subsystem needs an NQN of its own; namespaces of one subsystem go into one entry"));
    }
    let field = |written: Option<At<String>>, what: &str, bytes_max: usize| {
        written
            .map(
                |text| match check_ascii_field(what, &text.value, bytes_max) {
                    Ok(()) => Ok(text.value),
                    Err(message) => Err(Problem::at(text.span, message)),
                },
            )
            .transpose()
    };
    let serial = field(written.serial, "serial", SERIAL_BYTES_MAX)?;
    let model = field(written.model, "model", MODEL_BYTES_MAX)?;
    let hosts = hosts(&written.hosts)?;
    let vfio_user = written
        .vfio_user
        .map(|directory| controller_directory(&directory, surroundings, taken))
        .transpose()?;
    let namespaces = namespaces(&written.namespaces, &nqn.value, known, &mut taken.uuids)?;
    Ok(SubsystemPlan {
        serial: serial.unwrap_or_else(|| derived_serial(&nqn.value)),
        model: model.unwrap_or_else(|| MODEL_DEFAULT.to_owned()),
        nqn,
        hosts,
        ana: written.ana.map_or(AnaState::Optimized, |ana| ana.value),
        vfio_user,
        namespaces,
    })
}

/// The directory of a vfio-user controller, which is one subsystem's only.
fn controller_directory(
    written: &At<PathBuf>,
    surroundings: &Surroundings<'_>,
    taken: &mut Taken,
) -> Result<At<PathBuf>, Problem> {
    let directory = surroundings.path(written)?;
    if directory.value.join(VFIO_USER_SOCKET).as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        let message = "the path of the controller's socket in this directory is too long";
        return Err(Problem::at(written.span, message).help(format!(
            "Linux allows {SOCKET_PATH_BYTES_MAX} bytes for the path of a UNIX socket"
        )));
    }
    match taken
        .directories
        .insert(directory.value.clone(), written.span)
    {
        Ok(()) => Ok(directory),
        Err(first) => Err(
            Problem::at(written.span, "a second controller in this directory")
                .related(first, "the first")
                .help("every subsystem needs a directory of its own"),
        ),
    }
}

fn checked_nqn(nqn: &At<String>) -> Result<(), Problem> {
    // A name reserved for discovery has its own, better message.
    if nqn.value == DISCOVERY_NQN {
        return Ok(());
    }
    check_nqn(&nqn.value).map_err(|message| {
        Problem::at(nqn.span, message).help(
            "an NQN is `nqn.YYYY-MM.reverse.domain:identifier`, such as nqn.2026-11.com.example:disks, or `nqn.2014-08.org.nvmexpress:uuid:` and a UUID",
        )
    })
}

fn hosts(written: &At<Hosts>) -> Result<HostsPlan, Problem> {
    const FORM: &str =
        "write `hosts: any`, or a list of host NQNs (on a Linux host: /etc/nvme/hostnqn)";
    let list = match &written.value {
        Hosts::Word(word) if word == "any" => return Ok(HostsPlan::Any),
        Hosts::Word(word) => {
            return Err(Problem::at(
                written.span,
                format!("`{}` is neither `any` nor a list of hosts", shown(word)),
            )
            .help(FORM));
        }
        Hosts::List(list) => list,
    };
    if list.is_empty() {
        return Err(Problem::at(written.span, "an empty list lets no host in").help(FORM));
    }
    let mut seen = Unique::default();
    for host in list {
        if host.value == "any" {
            return Err(Problem::at(host.span, "`any` stands alone, not in a list")
                .help("write `hosts: any`, without brackets"));
        }
        checked_nqn(host)?;
        if let Err(first) = seen.insert(host.value.as_str(), host.span) {
            return Err(Problem::at(host.span, "this host is listed twice")
                .related(first, "the first")
                .help("remove one of them"));
        }
    }
    Ok(HostsPlan::List(
        list.iter().map(|host| host.value.clone()).collect(),
    ))
}

fn namespaces(
    written: &[At<Namespace>],
    nqn: &str,
    known: &Known<'_>,
    uuids: &mut Unique<Uuid>,
) -> Result<Vec<NamespacePlan>, Problem> {
    let mut nsids = Unique::default();
    let mut devices = Unique::default();
    let mut plans = Vec::with_capacity(written.len());
    for namespace in written {
        let Namespace { nsid, device, uuid } = &namespace.value;
        if !(1..=NSID_MAX).contains(&nsid.value) {
            return Err(Problem::at(
                nsid.span,
                format!("{} is not a namespace identifier", nsid.value),
            )
            .help(format!("namespace identifiers go from 1 to {NSID_MAX}")));
        }
        if let Err(first) = nsids.insert(nsid.value, nsid.span) {
            return Err(Problem::at(
                nsid.span,
                format!("a second namespace {} in this subsystem", nsid.value),
            )
            .related(first, "the first")
            .help("every namespace of a subsystem needs an identifier of its own"));
        }
        let index = known.index(device)?;
        if let Err(first) = devices.insert(index, device.span) {
            return Err(Problem::at(
                device.span,
                format!(
                    "`{}` is already a namespace of this subsystem",
                    shown(&device.value)
                ),
            )
            .related(first, "the first")
            .help("a host would take the two for different disks"));
        }
        let (uuid, span) = namespace_uuid(uuid.as_ref(), nqn, device)?;
        if let Err(first) = uuids.insert(uuid, span) {
            return Err(Problem::at(span, "a second namespace with this UUID")
                .related(first, "the first")
                .help(
                    "a host refuses two namespaces with one UUID; leave it out to have one derived",
                ));
        }
        plans.push(NamespacePlan {
            nsid: nsid.value,
            device: index,
            uuid,
            span: device.span,
        });
    }
    Ok(plans)
}

fn namespace_uuid(
    written: Option<&At<String>>,
    nqn: &str,
    device: &At<String>,
) -> Result<(Uuid, Span), Problem> {
    let Some(written) = written else {
        return Ok((Uuid::derived(nqn, &device.value), device.span));
    };
    match Uuid::parse(&written.value) {
        Some(uuid) => Ok((uuid, written.span)),
        None => Err(Problem::at(written.span, format!("`{}` is not a UUID", shown(&written.value)))
            .help("a UUID looks like f81d4fae-7dec-11d0-a765-00a0c91e6bf6 (uuidgen makes one) and is not all zeroes")),
    }
}
