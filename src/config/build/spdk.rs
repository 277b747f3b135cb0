//! What only the SPDK engine has, and what each engine cannot do.

use std::net::SocketAddr;

use super::{Surroundings, address, size};
use crate::bdev::{NvmeAddress, SpdkSpec};
use crate::config::plan::{
    BdevKind, BdevPlan, Direct, Engine, HostsPlan, IscsiPlan, Plan, SpdkPlan,
};
use crate::config::raw::{Hugepages, NvmeBdev, Spdk, SpdkJsonBdev};
use crate::config::source::{At, Problem, Span, shown};
use crate::config::{AluaState, SOCKET_PATH_BYTES_MAX};

/// Bytes of a mebibyte, the unit in which SPDK is told how much memory to take.
const MIB: u64 = 1 << 20;

/// Units of a target that SPDK's `iscsi_create_target_node` takes at the most.
const ISCSI_LUNS_MAX: usize = 64;

/// Names in a group of initiators that SPDK's `iscsi_create_initiator_group` takes at the most.
const ISCSI_INITIATORS_MAX: usize = 256;

/// The part of a plan that is SPDK's.
pub(super) fn plan(
    written: Option<&Spdk>,
    surroundings: &Surroundings<'_>,
) -> Result<SpdkPlan, Problem> {
    let hugepages = written.and_then(|spdk| spdk.hugepages.as_ref());
    let rpc = written.and_then(|spdk| spdk.rpc.as_ref());
    let rpc = match rpc {
        None => None,
        Some(written) => {
            let path = surroundings.path(written)?.value;
            if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
                return Err(
                    Problem::at(written.span, "the path of the socket is too long").help(format!(
                        "Linux allows {SOCKET_PATH_BYTES_MAX} bytes for the path of a UNIX socket"
                    )),
                );
            }
            Some(path)
        }
    };
    let memory = written.and_then(|spdk| spdk.memory.as_ref());
    Ok(SpdkPlan {
        hugepages: hugepages.is_none_or(|written| written.value == Hugepages::On),
        memory_mib: memory
            .map(|written| {
                let bytes = size(written)?;
                match u32::try_from(bytes.value / MIB) {
                    Ok(mib @ 1..) if bytes.value.is_multiple_of(2 * MIB) => Ok(mib),
                    _ => Err(Problem::at(
                        written.span,
                        format!("{} bytes are not whole hugepages of 2 MiB", bytes.value),
                    )
                    .help("write a size such as 512MiB or 2GiB")),
                }
            })
            .transpose()?,
        rpc,
    })
}

/// A namespace of an NVMe controller.
pub(super) fn nvme(bdev: NvmeBdev, surroundings: &Surroundings<'_>) -> Result<BdevPlan, Problem> {
    let one = "write `device` for one that the kernel drives; one of `tcp` (with `nqn`), `pcie` and `vfio_user` for one that SPDK drives";
    let at = match (&bdev.tcp, &bdev.pcie, &bdev.vfio_user) {
        (Some(tcp), None, None) => {
            let nqn = bdev.nqn.as_ref().ok_or_else(|| {
                Problem::at(tcp.span, "the subsystem of this target is not named")
                    .help("write its name as `nqn`")
            })?;
            NvmeAddress::Tcp(remote(tcp)?, nqn.value.clone())
        }
        (None, Some(pcie), None) => NvmeAddress::Pcie(pci_address(pcie)?),
        (None, None, Some(directory)) => NvmeAddress::VfioUser(surroundings.path(directory)?.value),
        (None, None, None) => {
            return Err(
                Problem::at(bdev.name.span, "where the controller is, is not written").help(one),
            );
        }
        _ => {
            return Err(Problem::at(bdev.name.span, "a controller is in one place only").help(one));
        }
    };
    if let (Some(nqn), false) = (&bdev.nqn, matches!(at, NvmeAddress::Tcp(..))) {
        return Err(Problem::at(nqn.span, "`nqn` has a meaning with `tcp` only"));
    }
    let nsid = match &bdev.nsid {
        Some(nsid) if nsid.value == 0 => {
            return Err(Problem::at(nsid.span, "0 is no namespace").help("they count from 1"));
        }
        nsid => nsid.as_ref().map_or(1, |nsid| nsid.value),
    };
    Ok(of_spdk(bdev.name, SpdkSpec::Nvme { at, nsid }))
}

/// Any bdev of SPDK's.
pub(super) fn json(
    bdev: SpdkJsonBdev,
    surroundings: &Surroundings<'_>,
) -> Result<BdevPlan, Problem> {
    let spec = SpdkSpec::Json {
        config: match &bdev.config {
            None => None,
            Some(path) => Some(surroundings.path(path)?.value),
        },
        bdev: bdev.bdev.value,
        volatile_cache: bdev.volatile_cache.map(|word| word.value),
    };
    Ok(of_spdk(bdev.name, spec))
}

fn of_spdk(name: At<String>, spec: SpdkSpec) -> BdevPlan {
    BdevPlan {
        name,
        block_size: 512,
        size: None,
        kind: BdevKind::Spdk(spec),
    }
}

/// The address of a target.
fn remote(text: &At<String>) -> Result<SocketAddr, Problem> {
    let address = address(text, 4420)?.value;
    match address.port() {
        0 => Err(Problem::at(text.span, "nobody listens on port 0")),
        _ => Ok(address),
    }
}

/// An address as `lspci -D` shows it.
fn pci_address(text: &At<String>) -> Result<String, Problem> {
    let parts: Vec<&str> = text.value.split([':', '.']).collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let separators: String = text
        .value
        .chars()
        .filter(|c| matches!(c, ':' | '.'))
        .collect();
    let digits = parts
        .iter()
        .all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if lengths != [4, 2, 2, 1] || separators != "::." || !digits {
        return Err(Problem::at(
            text.span,
            format!("`{}` is no address on the PCI bus", shown(&text.value)),
        )
        .help("write it as `lspci -D` shows it, such as \"0000:01:00.0\""));
    }
    Ok(text.value.to_ascii_lowercase())
}

/// Refuses what the engine of a plan cannot do. `count` is where the number of reactors is written.
pub(super) fn check_engine(plan: &Plan, count: Option<Span>) -> Result<(), Problem> {
    match plan.engine {
        Engine::Native => {
            let spdk = |bdev: &&BdevPlan| matches!(bdev.kind, BdevKind::Spdk(_));
            if let Some((span, what)) = other_transport(plan) {
                let message = format!("{what} is a transport that only SPDK has");
                return Err(
                    Problem::at(span, message).help("write `engine: spdk`, or use `listeners`")
                );
            }
            match plan.bdevs.iter().find(spdk) {
                None => Ok(()),
                Some(bdev) => Err(Problem::at(
                    bdev.name.span,
                    format!(
                        "bdev `{}` is of a kind that only SPDK has",
                        shown(&bdev.name.value)
                    ),
                )
                .help(
                    "write `engine: spdk`, or use `malloc`, `null`, `file`, `nvme-tcp`, or `nvme` with `device`",
                )),
            }
        }
        Engine::Spdk => {
            let cpus = &plan.reactors.cpus;
            let shared = (1..cpus.len()).find(|index| cpus[..*index].contains(&cpus[*index]));
            if shared.is_some() {
                let message = "SPDK has one reactor per CPU, and there are more reactors than CPUs";
                let problem = match count {
                    Some(span) => Problem::at(span, message),
                    None => Problem::whole(message),
                };
                return Err(problem.help("write at most as many as `cores` has"));
            }
            if let Some(iscsi) = &plan.iscsi {
                check_iscsi(iscsi)?;
                check_apart(plan, iscsi)?;
            }
            for bdev in &plan.bdevs {
                if let BdevKind::Nvme(device) = &bdev.kind {
                    return Err(Problem::at(
                        device.span,
                        "`device` of `nvme` is the native engine's: it is a namespace that the kernel drives",
                    )
                    .help("give SPDK the controller, and its address as `pcie`; or write `engine: native`"));
                }
                if let BdevKind::File(file) = &bdev.kind
                    && file.direct == Direct::Off
                {
                    return Err(Problem::at(
                        file.path.span,
                        "`direct: off` is the native engine's: SPDK's aio always goes past the page cache",
                    )
                    .help("leave `direct` out, or write `engine: native`"));
                }
            }
            check_transports(plan)?;
            let nvmf = plan.nvmf.iter();
            let listeners = nvmf.flat_map(|nvmf| nvmf.listeners.iter().chain(&nvmf.rdma));
            let portals = plan.iscsi.iter().flat_map(|iscsi| &iscsi.portals);
            let mut addresses = listeners.chain(portals);
            match addresses.find(|address| address.value.port() == 0) {
                None => Ok(()),
                Some(address) => Err(Problem::at(
                    address.span,
                    "SPDK does not say which port it was given for port 0",
                )
                .help("write the port: 4420 is NVMe/TCP's, 3260 iSCSI's")),
            }
        }
    }
}

/// What the SPDK of this build has been built with; without SPDK there is no such engine, which has been said before.
#[cfg(feature = "spdk")]
use crate::spdk::{HAS_ISCSI, HAS_RDMA, HAS_VFIO_USER};
#[cfg(not(feature = "spdk"))]
const HAS_ISCSI: bool = false;
#[cfg(not(feature = "spdk"))]
const HAS_RDMA: bool = false;
#[cfg(not(feature = "spdk"))]
const HAS_VFIO_USER: bool = false;

/// Where an export wants a transport other than TCP, and which.
fn other_transport(plan: &Plan) -> Option<(Span, &'static str)> {
    let nvmf = plan.nvmf.as_ref()?;
    let rdma = nvmf.rdma.first().map(|address| (address.span, "RDMA"));
    let mut directories = nvmf
        .subsystems
        .iter()
        .filter_map(|one| one.vfio_user.as_ref());
    rdma.or_else(|| Some((directories.next()?.span, "vfio-user")))
}

/// Refuses transports that this SPDK was built without.
fn check_transports(plan: &Plan) -> Result<(), Problem> {
    let nvmf = plan.nvmf.iter();
    let rdma = nvmf.clone().flat_map(|nvmf| &nvmf.rdma).next();
    let subsystems = nvmf.flat_map(|nvmf| &nvmf.subsystems);
    let export = subsystems
        .filter_map(|subsystem| subsystem.vfio_user.as_ref())
        .next();
    let is_emulated = |bdev: &&BdevPlan| {
        let at_directory = |at: &NvmeAddress| matches!(at, NvmeAddress::VfioUser(_));
        matches!(&bdev.kind, BdevKind::Spdk(SpdkSpec::Nvme { at, .. }) if at_directory(at))
    };
    let bdev = plan
        .bdevs
        .iter()
        .find(is_emulated)
        .map(|bdev| bdev.name.span);
    let without = |span: Span, what: &str, option: &str| {
        Err(Problem::at(
            span,
            format!("the SPDK that this polldm was built with has no {what}"),
        )
        .help(format!(
            "build SPDK with `{option}`, and polldm with that; TCP is always there"
        )))
    };
    match (rdma, export.map(|at| at.span).or(bdev)) {
        (Some(address), _) if !HAS_RDMA => without(address.span, "RDMA", "--with-rdma"),
        (_, Some(span)) if !HAS_VFIO_USER => without(span, "vfio-user", "--with-vfio-user"),
        _ => Ok(()),
    }
}

/// Refuses what SPDK's iSCSI target cannot do.
fn check_iscsi(iscsi: &IscsiPlan) -> Result<(), Problem> {
    let native = "or write `engine: native`, whose iSCSI target can";
    if !HAS_ISCSI {
        return Err(Problem::at(
            iscsi.portals[0].span,
            "the SPDK that this polldm was built with has no iSCSI target",
        )
        .help(format!(
            "build polldm where SPDK's spdk_event_iscsi.pc is, export through `nvmf`, {native}"
        )));
    }
    if let Some(state) = &iscsi.state {
        let problem = Problem::at(
            state.span,
            "SPDK's iSCSI target keeps nothing over a restart",
        );
        return Err(problem.help(format!("leave `state` out, {native}")));
    }
    for target in &iscsi.targets {
        let refuse = |message: String, help: &str| {
            Err(Problem::at(target.iqn.span, message).help(format!("{help}, {native}")))
        };
        if target.luns.first().is_none_or(|lun| lun.lun != 0) {
            return refuse(
                "SPDK's iSCSI target has no targets without a unit 0".into(),
                "give one of its units the number 0",
            );
        }
        if target.luns.len() > ISCSI_LUNS_MAX {
            return refuse(
                format!("SPDK's iSCSI target has at most {ISCSI_LUNS_MAX} units in a target"),
                "spread them over several targets",
            );
        }
        if let HostsPlan::List(list) = &target.initiators {
            if list.len() > ISCSI_INITIATORS_MAX {
                return refuse(
                    format!(
                        "SPDK's iSCSI target takes at most {ISCSI_INITIATORS_MAX} names of initiators"
                    ),
                    "write `initiators: any`",
                );
            }
            if let Some(rule) = list.iter().find(|rule| !is_one_name(rule)) {
                return refuse(
                    format!("SPDK's iSCSI target has no rules such as `{rule}`"),
                    "list the names of the initiators",
                );
            }
        }
        if target.redirect.is_some() {
            return refuse(
                "polldm redirects no initiators on the SPDK engine".into(),
                "leave `redirect` out",
            );
        }
        if (target.groups.iter()).any(|(_, state)| *state != AluaState::Optimized) {
            return refuse(
                "SPDK's iSCSI target has one ALUA state, optimized".into(),
                "leave `alua` out",
            );
        }
        if target.explicit_alua {
            return refuse(
                "SPDK's iSCSI target has no SET TARGET PORT GROUPS".into(),
                "leave `explicit_alua` out",
            );
        }
        if (target.luns.iter()).any(|lun| lun.initiators != HostsPlan::Any) {
            return refuse(
                "SPDK's iSCSI target shows a target's units to all that may log in".into(),
                "put the unit into a target of its own",
            );
        }
    }
    Ok(())
}

/// Whether a rule for initiators is the name of one, not a pattern or a network.
fn is_one_name(rule: &str) -> bool {
    let starts = ["iqn.", "eui.", "naa."];
    let start = rule.get(..4).map(str::to_ascii_lowercase);
    start.is_some_and(|start| starts.contains(&start.as_str())) && !rule.contains(['*', '@'])
}

/// Refuses a device that is exported over NVMe-oF and over iSCSI: SPDK's NVMe-oF target wants it for itself.
fn check_apart(plan: &Plan, iscsi: &IscsiPlan) -> Result<(), Problem> {
    let subsystems = plan.nvmf.iter().flat_map(|nvmf| &nvmf.subsystems);
    let namespaces: Vec<_> = subsystems
        .flat_map(|subsystem| &subsystem.namespaces)
        .collect();
    let luns = iscsi.targets.iter().flat_map(|target| &target.luns);
    for lun in luns {
        let mut namespaces = namespaces.iter();
        if let Some(namespace) = namespaces.find(|namespace| namespace.device == lun.device) {
            return Err(Problem::at(
                lun.span,
                format!(
                    "SPDK cannot export `{}` over NVMe-oF and over iSCSI at once",
                    shown(&plan.devices[lun.device].name.value)
                ),
            )
            .related(namespace.span, "exported over NVMe-oF")
            .help("export it one way, or write `engine: native`, whose targets can share it"));
        }
    }
    Ok(())
}
