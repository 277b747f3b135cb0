//! A node of the SPDK engine.

use std::sync::Arc;

use super::{ExportError, Exports, Node, build};
use crate::bdev::{NvmeAddress, SpdkSpec};
use crate::config::{AnaState, BdevKind, BdevPlan, Error, HostsPlan, NvmfPlan, Plan, Uuid};
use crate::engine::Engine;
use crate::export::nvmf::target::format_uuid;
use crate::spdk::{Export, Listener, Namespace, Options, Subsystem, World};

/// Builds and starts everything a plan asks for.
pub(super) fn start(plan: &Plan) -> Result<(Node, Arc<World>), Error> {
    let options = Options {
        cpus: plan.reactors.cpus.clone(),
        hugepages: plan.spdk.hugepages,
        memory_mib: plan.spdk.memory_mib,
        pci: plan.bdevs.iter().any(may_use_pci),
        rpc: plan.spdk.rpc.clone(),
    };
    check_pci(plan)?;
    let (world, planes) = World::start(&options).map_err(|reason| plan.error_of_whole(&reason))?;
    let engine = world.engine(planes);
    if let Err(error) = build::open_bdevs(plan, engine.bdevs()) {
        // Nothing was exported yet, so nothing is in flight.
        let _ = engine.stop(super::STOP_WITHIN);
        return Err(error);
    }
    let of_export = world.clone();
    let node = Node::finish(plan, engine, |engine| match &plan.nvmf {
        None => Ok(Exports::Native {
            nvmf: None,
            iscsi: None,
        }),
        Some(nvmf) => {
            let subsystems = subsystems(plan, nvmf, engine)?;
            let listeners: Vec<Listener> = nvmf
                .listeners
                .iter()
                .map(|listener| Listener(listener.value))
                .collect();
            Export::start(of_export, &listeners, &subsystems)
                .map(Exports::Spdk)
                .map_err(|(at, reason)| {
                    let at = at.and_then(|at| {
                        nvmf.listeners
                            .iter()
                            .find(|listener| listener.value == at.0)
                    });
                    match at {
                        Some(listener) => plan.error_at(
                            listener.span,
                            &reason,
                            Some("`ss -ltnp` shows who listens where"),
                        ),
                        None => plan.error_of_whole(&reason),
                    }
                })
        }
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

/// What is to be exported; takes hold of the devices.
fn subsystems(plan: &Plan, nvmf: &NvmfPlan, engine: &Engine) -> Result<Vec<Subsystem>, Error> {
    let mut subsystems = Vec::with_capacity(nvmf.subsystems.len());
    for subsystem in &nvmf.subsystems {
        let mut namespaces = Vec::with_capacity(subsystem.namespaces.len());
        for namespace in &subsystem.namespaces {
            let name = &plan.devices[namespace.device].name.value;
            engine
                .open(name)
                .map_err(|error| plan.error_at(namespace.span, &error.to_string(), None))?;
            namespaces.push(Namespace {
                nsid: namespace.nsid,
                device: name.clone(),
                uuid: Some(format_uuid(&namespace.uuid.0)),
            });
        }
        subsystems.push(Subsystem {
            nqn: subsystem.nqn.value.clone(),
            serial: subsystem.serial.clone(),
            model: subsystem.model.clone(),
            hosts: match &subsystem.hosts {
                HostsPlan::Any => None,
                HostsPlan::List(list) => Some(list.clone()),
            },
            ana: ana_of_spdk(subsystem.ana)
                .map_err(|reason| plan.error_at(subsystem.nqn.span, &reason, None))?,
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
    let id = engine.open(device).map_err(ExportError::Device)?;
    let namespace = Namespace {
        nsid,
        device: device.into(),
        uuid: Some(format_uuid(&Uuid::derived(nqn, device).0)),
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
    let entry = engine.info(&device).map_err(ExportError::Device)?.entry;
    engine.close(entry.id);
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
