//! A node of the SPDK engine.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::{ExportError, Exports, Node, build};
use crate::bdev::{NvmeAddress, SpdkSpec};
use crate::config::{
    AnaState, BdevKind, BdevPlan, ChapPlan, Error, HostsPlan, IscsiPlan, NvmfPlan, Plan, Span, Uuid,
};
use crate::engine::Engine;
use crate::export::listener;
use crate::export::nvmf::target::{format_uuid, uuid_of_namespace};
use crate::iscsi::secrets::{Secret, Secrets};
use crate::spdk::{
    Chap, Export, IscsiExport, Listener, Namespace, Options, Subsystem, Target, World,
};

/// Builds and starts everything a plan asks for.
pub(super) fn start(plan: &Plan) -> Result<(Node, Arc<World>), Error> {
    let options = Options {
        cpus: plan.reactors.cpus.clone(),
        hugepages: plan.spdk.hugepages,
        memory_mib: plan.spdk.memory_mib,
        pci: plan.bdevs.iter().any(may_use_pci),
        shared_memory: plan.bdevs.iter().any(is_emulated),
        rpc: plan.spdk.rpc.clone(),
        iscsi: plan
            .iscsi
            .as_ref()
            .map(|iscsi| iscsi.keep_alive.as_secs().max(1)),
    };
    check_pci(plan)?;
    check_ports(plan)?;
    let (world, planes) = World::start(&options).map_err(|reason| plan.error_of_whole(&reason))?;
    let engine = world.engine(planes);
    if let Err(error) = build::open_bdevs(plan, engine.bdevs()) {
        // Nothing was exported yet, so nothing is in flight.
        let _ = engine.stop(super::STOP_WITHIN);
        return Err(error);
    }
    let node = Node::finish(plan, engine, |engine| {
        let nvmf = plan.nvmf.as_ref();
        let iscsi = plan.iscsi.as_ref();
        Ok(Exports::Spdk {
            nvmf: nvmf
                .map(|nvmf| start_nvmf(plan, nvmf, engine, &world))
                .transpose()?,
            iscsi: iscsi
                .map(|iscsi| start_iscsi(plan, iscsi, engine, &world))
                .transpose()?,
        })
    })?;
    Ok((node, world))
}

/// Whether a bdev is on the PCI bus, or may be, as what a configuration of SPDK's own makes.
fn may_use_pci(bdev: &BdevPlan) -> bool {
    matches!(
        &bdev.kind,
        BdevKind::Spdk(
            SpdkSpec::Json { .. }
                | SpdkSpec::Nvme {
                    at: NvmeAddress::Pcie(_),
                    ..
                }
        )
    )
}

/// Whether a bdev is a controller that another process emulates.
fn is_emulated(bdev: &BdevPlan) -> bool {
    let at_directory = |at: &NvmeAddress| matches!(at, NvmeAddress::VfioUser(_));
    matches!(&bdev.kind, BdevKind::Spdk(SpdkSpec::Nvme { at, .. }) if at_directory(at))
}

/// Refuses a controller on PCIe that SPDK cannot have, before anything is started.
fn check_pci(plan: &Plan) -> Result<(), Error> {
    for bdev in &plan.bdevs {
        let BdevKind::Spdk(SpdkSpec::Nvme {
            at: NvmeAddress::Pcie(address),
            ..
        }) = &bdev.kind
        else {
            continue;
        };
        if let Err((reason, help)) = crate::spdk::check_pci(address) {
            return Err(plan.error_at(bdev.name.span, &reason, Some(&help)));
        }
    }
    Ok(())
}

/// Refuses an address that cannot be listened on, before anything is started: of iSCSI's SPDK does not say which it was.
fn check_ports(plan: &Plan) -> Result<(), Error> {
    let nvmf = plan.nvmf.iter().map(|nvmf| &nvmf.listeners);
    let iscsi = plan.iscsi.iter().map(|iscsi| &iscsi.portals);
    for listeners in nvmf.chain(iscsi) {
        let addresses: Vec<SocketAddr> = listeners.iter().map(|at| at.value).collect();
        listener::bind(&addresses).map_err(|error| build::bind_error(plan, listeners, &error))?;
    }
    Ok(())
}

/// Exports through SPDK's NVMe-oF target.
fn start_nvmf(
    plan: &Plan,
    nvmf: &NvmfPlan,
    engine: &Engine,
    world: &Arc<World>,
) -> Result<Export, Error> {
    let subsystems = subsystems(plan, nvmf, engine)?;
    let tcp = nvmf.listeners.iter();
    let tcp = tcp.map(|address| (Listener::Tcp(address.value), address.span));
    let rdma = nvmf.rdma.iter();
    let rdma = rdma.map(|address| (Listener::Rdma(address.value), address.span));
    let own = nvmf.subsystems.iter().filter_map(|subsystem| {
        let directory = subsystem.vfio_user.as_ref()?;
        Some((Listener::VfioUser(directory.value.clone()), directory.span))
    });
    let written: Vec<(Listener, Span)> = tcp.chain(rdma).chain(own).collect();
    let shared = written.iter().map(|(listener, _)| listener.clone());
    let shared: Vec<Listener> = shared
        .take(nvmf.listeners.len() + nvmf.rdma.len())
        .collect();
    Export::start(world.clone(), &shared, &subsystems).map_err(|(at, reason)| {
        let at = at.and_then(|at| written.iter().find(|(listener, _)| *listener == at));
        match at {
            Some((Listener::Tcp(_), span)) => {
                plan.error_at(*span, &reason, Some("`ss -ltnp` shows who listens where"))
            }
            Some((_, span)) => plan.error_at(*span, &reason, None),
            None => plan.error_of_whole(&reason),
        }
    })
}

/// Exports through SPDK's iSCSI target.
fn start_iscsi(
    plan: &Plan,
    iscsi: &IscsiPlan,
    engine: &Engine,
    world: &Arc<World>,
) -> Result<IscsiExport, Error> {
    let mut known = HashMap::new();
    let discovery = chap(plan, iscsi.discovery.as_ref(), &mut known)?;
    let mut targets = Vec::with_capacity(iscsi.targets.len());
    for target in &iscsi.targets {
        let mut luns = Vec::with_capacity(target.luns.len());
        for lun in &target.luns {
            let name = &plan.devices[lun.device].name.value;
            let device = engine
                .open(name)
                .map_err(|error| plan.error_at(lun.span, &error.to_string(), None))?;
            luns.push((lun.lun, device));
        }
        targets.push(Target {
            iqn: target.iqn.value.clone(),
            initiators: names(&target.initiators),
            chap: chap(plan, target.chap.as_ref(), &mut known)?,
            groups: target.groups.iter().map(|(tag, _)| *tag).collect(),
            luns,
        });
    }
    let addresses = iscsi.portals.iter().map(|portal| portal.value);
    let portals: Vec<(SocketAddr, u16)> = addresses.zip(iscsi.tags.iter().copied()).collect();
    IscsiExport::start(world.clone(), &portals, discovery.as_ref(), &targets)
        .map_err(|reason| plan.error_of_whole(&reason))
}

/// The secrets of a target in a form that SPDK can take.
fn chap(
    plan: &Plan,
    written: Option<&ChapPlan>,
    known: &mut HashMap<PathBuf, Arc<Secrets>>,
) -> Result<Option<Chap>, Error> {
    let (Some(written), Some(chap)) = (written, build::chap(plan, written, known)?) else {
        return Ok(None);
    };
    let refused = |what: &str| {
        let help = "other secrets can be in a file that only this configuration names";
        Err(plan.error_at(written.secrets.span, what, Some(help)))
    };
    let text = |secret: &Secret| String::from_utf8(secret.bytes().to_vec()).ok();
    let mut users = Vec::new();
    for (name, user) in chap.secrets.users() {
        if user.initiator.is_some() {
            return refused("SPDK's iSCSI target has no secrets for one initiator only");
        }
        match text(&user.secret) {
            Some(secret) => users.push((name.to_owned(), secret)),
            None => return refused("SPDK's iSCSI target has no secrets that are not text"),
        }
    }
    let own = match chap.secrets.own() {
        None => None,
        Some((name, secret)) => match text(secret) {
            Some(secret) => Some((name.to_owned(), secret)),
            None => return refused("SPDK's iSCSI target has no secrets that are not text"),
        },
    };
    Ok(Some(Chap {
        mutual: chap.mutual,
        users,
        own,
    }))
}

/// Who may connect; `None` for everybody.
fn names(hosts: &HostsPlan) -> Option<Vec<String>> {
    match hosts {
        HostsPlan::Any => None,
        HostsPlan::List(list) => Some(list.clone()),
    }
}

/// What is to be exported; takes hold of the devices.
fn subsystems(plan: &Plan, nvmf: &NvmfPlan, engine: &Engine) -> Result<Vec<Subsystem>, Error> {
    let mut subsystems = Vec::with_capacity(nvmf.subsystems.len());
    for subsystem in &nvmf.subsystems {
        let mut namespaces = Vec::with_capacity(subsystem.namespaces.len());
        for namespace in &subsystem.namespaces {
            let name = &plan.devices[namespace.device].name.value;
            let device = engine
                .open(name)
                .map_err(|error| plan.error_at(namespace.span, &error.to_string(), None))?;
            namespaces.push(Namespace {
                nsid: namespace.nsid,
                device,
                uuid: Some(format_uuid(&namespace.uuid.0)),
            });
        }
        subsystems.push(Subsystem {
            nqn: subsystem.nqn.value.clone(),
            serial: subsystem.serial.clone(),
            model: subsystem.model.clone(),
            hosts: names(&subsystem.hosts),
            ana: ana_of_spdk(subsystem.ana)
                .map_err(|reason| plan.error_at(subsystem.nqn.span, &reason, None))?,
            vfio_user: subsystem.vfio_user.as_ref().map(|at| at.value.clone()),
            namespaces,
        });
    }
    Ok(subsystems)
}

/// Serves a device as one more namespace.
pub(super) fn add_namespace(
    engine: &Engine,
    export: &Export,
    nqn: &str,
    nsid: u32,
    device: &str,
) -> Result<(), ExportError> {
    let subsystems = export.subsystems().map_err(ExportError::Spdk)?;
    let namespaces = subsystems
        .iter()
        .filter_map(|subsystem| subsystem["namespaces"].as_array())
        .flatten();
    let taken = namespaces
        .filter_map(|namespace| Uuid::parse(namespace["uuid"].as_str()?))
        .map(|uuid| uuid.0);
    let uuid = super::uuid_if_free(nqn, device, taken)
        .unwrap_or_else(|| uuid_of_namespace(nqn, nsid, device));
    let id = engine.open(device).map_err(ExportError::Device)?;
    let namespace = Namespace {
        nsid,
        device: id,
        uuid: Some(format_uuid(&uuid)),
    };
    export.add_namespace(nqn, &namespace).map_err(|reason| {
        engine.close(id);
        ExportError::Spdk(reason)
    })
}

/// Takes a namespace away from its hosts and lets go of its device.
pub(super) fn remove_namespace(
    engine: &Engine,
    export: &Export,
    nqn: &str,
    nsid: u32,
) -> Result<(), ExportError> {
    let device = export
        .remove_namespace(nqn, nsid)
        .map_err(ExportError::Spdk)?;
    engine.close(device);
    Ok(())
}

/// Changes the ANA state of a subsystem.
pub(super) fn set_ana(export: &Export, nqn: &str, state: AnaState) -> Result<(), ExportError> {
    let state = ana_of_spdk(state).map_err(ExportError::Spdk)?;
    export.set_ana(nqn, state).map_err(ExportError::Spdk)
}

/// An ANA state in SPDK's words, which has three of them.
fn ana_of_spdk(state: AnaState) -> Result<&'static str, String> {
    match state {
        AnaState::Optimized => Ok("optimized"),
        AnaState::NonOptimized => Ok("non_optimized"),
        AnaState::Inaccessible => Ok("inaccessible"),
        AnaState::PersistentLoss | AnaState::Change => Err(format!(
            "SPDK's target has no ANA state `{}`; it has `optimized`, `non-optimized` and `inaccessible`",
            state.name()
        )),
    }
}
