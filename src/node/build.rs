//! From a plan to what runs, part by part. Each failure is told at its place in the configuration.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::bdev;
use crate::config::{
    self, At, BdevKind, BdevPlan, ChapPlan, DevicePlan, Direct, Error, FlushPolicy, HostsPlan,
    NvmeTcpPlan, NvmfPlan, Plan, PollPlan,
};
use crate::dm::{Limits, Table};
use crate::engine::{Config, DeviceOptions, Engine, parse_table};
use crate::export::listener::BindError;
use crate::export::{iscsi, nvmf};
use crate::host::Address;
use crate::iscsi::secrets::Secrets;
use crate::reactor::{self, PollMode};

/// The most that the I/O buffers of one reactor may take: 1,024 commands of the largest transfer, 256 KiB. What is not used is
/// never mapped.
const BUFFER_BYTES_MAX: usize = 256 << 20;

/// Opens the backing devices of the native engine.
pub(super) fn bdevs(plan: &Plan) -> Result<Arc<bdev::Registry>, Error> {
    let registry = Arc::new(bdev::Registry::default());
    open_bdevs(plan, &registry)?;
    Ok(registry)
}

/// Opens the backing devices, in the way of the engine that the registry is of.
pub(super) fn open_bdevs(plan: &Plan, registry: &bdev::Registry) -> Result<(), Error> {
    for bdev in &plan.bdevs {
        registry
            .add(&bdev.name.value, spec(bdev))
            .map_err(|error| plan.error_at(span(bdev), &error.to_string(), None))?;
    }
    Ok(())
}

/// Refuses a plan of another engine, for what only the native one does.
pub(super) fn native_only(plan: &Plan) -> Result<(), Error> {
    match plan.engine {
        config::Engine::Native => Ok(()),
        config::Engine::Spdk => Err(plan.error_of_whole(
            "this measures the native engine only, and the configuration has `engine: spdk`; serve it and measure it through its export",
        )),
    }
}

/// Builds a device's table against open backing devices, whose sizes are known now, for no more than a plan of the device.
pub(super) fn table(
    plan: &Plan,
    device: &DevicePlan,
    bdevs: &bdev::Registry,
) -> Result<Arc<Table>, Error> {
    parse_table(bdevs, &device.table.value, device.read_only)
        .map_err(|error| plan.table_error(device, error))
}

/// Opens the backing devices and starts the reactors of the native engine.
pub(super) fn engine(plan: &Plan) -> Result<Engine, Error> {
    let bdevs = bdevs(plan)?;
    let poll = match plan.reactors.poll {
        PollPlan::Busy => PollMode::Busy,
        PollPlan::Adaptive { spin } => PollMode::Adaptive { spin },
    };
    let reactors = reactor::Config {
        cpus: plan.reactors.cpus.clone(),
        poll,
    };
    let config = Config {
        reactors,
        buffer_bytes_max: BUFFER_BYTES_MAX,
    };
    Engine::start(&config, bdevs).map_err(|error| plan.error_of_whole(&error.to_string()))
}

/// Creates the mapped devices, loads their tables and lets them run.
pub(super) fn devices(plan: &Plan, engine: &Engine) -> Result<(), Error> {
    for device in &plan.devices {
        let name = &device.name.value;
        let at_name =
            |error: crate::dm::Error| plan.error_at(device.name.span, &error.to_string(), None);
        let id = engine
            .create_with(
                name,
                device.uuid.as_deref().unwrap_or(""),
                DeviceOptions {
                    ordered: device.flush == FlushPolicy::Ordered,
                    parked_limit: device.parked_limit,
                },
            )
            .map_err(at_name)?;
        let table = engine
            .parse_table(id, &device.table.value, device.read_only)
            .map_err(|error| plan.table_error(device, error))?;
        engine.load_table(name, table).map_err(at_name)?;
        engine.resume(name, Default::default()).map_err(at_name)?;
    }
    Ok(())
}

/// What a device that runs can do.
pub(super) fn limits(
    plan: &Plan,
    device: &DevicePlan,
    engine: &Engine,
) -> Result<Arc<Limits>, Error> {
    let at_name =
        |error: crate::dm::Error| plan.error_at(device.name.span, &error.to_string(), None);
    let id = engine.info(&device.name.value).map_err(at_name)?.entry.id;
    let table = engine
        .parse_table(id, &device.table.value, device.read_only)
        .map_err(|error| plan.table_error(device, error))?;
    Ok(table.limits.clone())
}

/// Opens the ports of the NVMe/TCP target, last of all: whoever connects finds everything there.
pub(super) fn nvmf(plan: &Plan, engine: &Engine) -> Result<Option<nvmf::Export>, Error> {
    let Some(export) = &plan.nvmf else {
        return Ok(None);
    };
    let mut subsystems = Vec::with_capacity(export.subsystems.len());
    for subsystem in &export.subsystems {
        let mut namespaces = Vec::with_capacity(subsystem.namespaces.len());
        for namespace in &subsystem.namespaces {
            let name = &plan.devices[namespace.device].name.value;
            let device = engine
                .open(name)
                .map_err(|error| plan.error_at(namespace.span, &error.to_string(), None))?;
            namespaces.push(nvmf::NamespaceConfig {
                nsid: namespace.nsid,
                device,
                device_name: name.clone(),
                uuid: Some(namespace.uuid.0),
            });
        }
        subsystems.push(nvmf::SubsystemConfig {
            nqn: subsystem.nqn.value.clone(),
            serial: Some(subsystem.serial.clone()),
            model: Some(subsystem.model.clone()),
            hosts: hosts(&subsystem.hosts),
            ana: subsystem.ana.into(),
            namespaces,
        });
    }
    let config = nvmf_config(export, subsystems);
    nvmf::Export::start(engine, &config)
        .map(Some)
        .map_err(|error| match &error {
            nvmf::StartError::Bind(bind) => bind_error(plan, &export.listeners, bind),
            nvmf::StartError::Config(_) => plan.error_of_whole(&error.to_string()),
        })
}

/// An address that cannot be had, where the configuration has it.
pub(super) fn bind_error(plan: &Plan, listeners: &[At<SocketAddr>], error: &BindError) -> Error {
    let mut listeners = listeners.iter();
    match listeners.find(|listener| listener.value == error.address) {
        Some(listener) => plan.error_at(
            listener.span,
            &error.to_string(),
            Some("`ss -ltnp` shows who listens where"),
        ),
        None => plan.error_of_whole(&error.to_string()),
    }
}

/// Takes the directory for what outlives the iSCSI target, first of all.
pub(super) fn iscsi_store(plan: &Plan) -> Result<Option<iscsi::Store>, Error> {
    let state = plan.iscsi.as_ref().and_then(|iscsi| iscsi.state.as_ref());
    let open = |state: &At<PathBuf>| {
        let help = "name a directory that polldm may write in, for its own use";
        iscsi::Store::open(&state.value).map_err(|why| plan.error_at(state.span, &why, Some(help)))
    };
    state.map(open).transpose()
}

/// Opens the ports of the iSCSI target, last of all as well.
pub(super) fn iscsi(
    plan: &Plan,
    engine: &Engine,
    store: Option<iscsi::Store>,
) -> Result<Option<iscsi::Export>, Error> {
    let Some(export) = &plan.iscsi else {
        return Ok(None);
    };
    let mut targets = Vec::with_capacity(export.targets.len());
    let mut known = HashMap::new();
    let discovery = chap(plan, export.discovery.as_ref(), &mut known)?;
    for target in &export.targets {
        let chap = chap(plan, target.chap.as_ref(), &mut known)?;
        let mut luns = Vec::with_capacity(target.luns.len());
        for lun in &target.luns {
            let name = &plan.devices[lun.device].name.value;
            let device = engine
                .open(name)
                .map_err(|error| plan.error_at(lun.span, &error.to_string(), None))?;
            luns.push(iscsi::LunConfig {
                lun: lun.lun,
                device,
                device_name: name.clone(),
                uuid: lun.uuid.0,
                initiators: initiators(plan, &lun.initiators)?,
            });
        }
        targets.push(iscsi::TargetConfig {
            iqn: target.iqn.value.clone(),
            initiators: initiators(plan, &target.initiators)?,
            groups: target
                .groups
                .iter()
                .map(|&(tag, state)| (tag, state.into()))
                .collect(),
            explicit_alua: target.explicit_alua,
            redirect: target
                .redirect
                .map(|(address, is_permanent)| iscsi::Redirect {
                    address,
                    is_permanent,
                }),
            chap,
            luns,
        });
    }
    let mut groups: Vec<iscsi::PortalGroup> = Vec::new();
    for (portal, &tag) in export.portals.iter().zip(&export.tags) {
        match groups.last_mut().filter(|group| group.tag == tag) {
            Some(group) => group.portals.push(portal.value),
            None => groups.push(iscsi::PortalGroup {
                tag,
                portals: vec![portal.value],
            }),
        }
    }
    let config = iscsi::Config {
        groups,
        keep_alive: export.keep_alive,
        discovery,
        targets,
    };
    iscsi::Export::start(engine, &config, store)
        .map(Some)
        .map_err(|error| match (&error, &export.state) {
            (iscsi::StartError::Bind(bind), _) => bind_error(plan, &export.portals, bind),
            (iscsi::StartError::Records(why), Some(state)) => plan.error_at(state.span, why, None),
            (iscsi::StartError::Records(why), None) => plan.error_of_whole(why),
        })
}

/// Who is let in, or shown a unit; the plan has been checked.
fn initiators(plan: &Plan, initiators: &HostsPlan) -> Result<iscsi::Initiators, Error> {
    match initiators {
        HostsPlan::Any => Ok(iscsi::Initiators::Any),
        HostsPlan::List(list) => {
            iscsi::Initiators::parse(list).map_err(|message| plan.error_of_whole(&message))
        }
    }
}

/// Reads the secrets of a target; those that are `known` have been read for another.
pub(super) fn chap(
    plan: &Plan,
    chap: Option<&ChapPlan>,
    known: &mut HashMap<PathBuf, Arc<Secrets>>,
) -> Result<Option<iscsi::Chap>, Error> {
    let Some(ChapPlan {
        secrets: path,
        mutual,
    }) = chap
    else {
        return Ok(None);
    };
    let wrong = |message: &str, help| plan.error_at(path.span, message, help);
    let secrets = match known.get(&path.value) {
        Some(secrets) => Arc::clone(secrets),
        None => {
            let secrets = Secrets::read(&path.value).map_err(|message| wrong(&message, None))?;
            let secrets = Arc::new(secrets);
            known.insert(path.value.clone(), Arc::clone(&secrets));
            secrets
        }
    };
    if *mutual && secrets.own().is_none() {
        return Err(wrong(
            "the target has no secret to prove itself with",
            Some("`mutual: true` needs a line `target NAME SECRET` in the file"),
        ));
    }
    Ok(Some(iscsi::Chap {
        secrets,
        mutual: *mutual,
    }))
}

fn nvmf_config(export: &NvmfPlan, subsystems: Vec<nvmf::SubsystemConfig>) -> nvmf::Config {
    nvmf::Config {
        listeners: export
            .listeners
            .iter()
            .map(|listener| listener.value)
            .collect(),
        subsystems,
        discovery_nqn: None,
    }
}

fn hosts(hosts: &HostsPlan) -> nvmf::Hosts {
    match hosts {
        HostsPlan::Any => nvmf::Hosts::Any,
        HostsPlan::List(list) => nvmf::Hosts::List(list.clone()),
    }
}

pub(super) fn spec(bdev: &BdevPlan) -> bdev::Spec {
    let block_bytes = bdev.block_size;
    let size = bdev.size.as_ref().map(|size| size.value);
    match &bdev.kind {
        BdevKind::Malloc {
            volatile_cache,
            atomic_writes,
        } => bdev::Spec::Malloc {
            bytes: size.unwrap_or(0),
            block_bytes,
            volatile_cache: *volatile_cache,
            atomic_writes: *atomic_writes,
        },
        BdevKind::Null => bdev::Spec::Null {
            bytes: size.unwrap_or(0),
            block_bytes,
        },
        BdevKind::File(file) => bdev::Spec::File {
            path: file.path.value.clone(),
            bytes: size,
            block_bytes,
            direct: match file.direct {
                Direct::Auto => bdev::Direct::Auto,
                Direct::On => bdev::Direct::On,
                Direct::Off => bdev::Direct::Off,
            },
            read_only: file.read_only,
        },
        BdevKind::Nvme(device) => bdev::Spec::Nvme {
            device: device.value.clone(),
        },
        BdevKind::NvmeTcp(remote) => bdev::Spec::NvmeTcp(Box::new(remote_spec(remote))),
        BdevKind::Spdk(spec) => bdev::Spec::Spdk(spec.clone()),
    }
}

fn remote_spec(remote: &NvmeTcpPlan) -> bdev::RemoteSpec {
    let (host, port) = remote.address.value.clone();
    bdev::RemoteSpec {
        address: Address {
            host,
            port,
            nqn: remote.nqn.clone(),
            nsid: None,
        },
        nsid: remote.nsid,
        host_nqn: remote.host_nqn.clone(),
        header_digest: remote.header_digest,
        data_digest: remote.data_digest,
        keep_alive: remote.keep_alive,
        reconnect_delay: remote.reconnect_delay,
        ctrl_loss_timeout: remote.ctrl_loss_timeout,
        fast_io_fail_timeout: remote.fast_io_fail_timeout,
        io_timeout: remote.io_timeout,
    }
}

/// Where a failure to open a backing device is shown: at its path or address, if it has one.
fn span(bdev: &BdevPlan) -> crate::config::Span {
    match &bdev.kind {
        BdevKind::File(file) => file.path.span,
        BdevKind::Nvme(device) => device.span,
        BdevKind::NvmeTcp(remote) => remote.address.span,
        _ => bdev.name.span,
    }
}
