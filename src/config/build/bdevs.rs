//! Backing devices.

use std::path::PathBuf;
use std::time::Duration;

use super::{Surroundings, Unique, block_size, size, span, spdk};
use crate::config::names::{check_name, check_nqn};
use crate::config::plan::{BdevKind, BdevPlan, FilePlan, NvmeTcpPlan};
use crate::config::raw::{Bdev, Direct, FileBdev, NvmeBdev, NvmeTcpBdev};
use crate::config::source::{At, Problem, shown};
use crate::host::split_authority;
use crate::nvme::NSID_ALL;

/// What Linux's initiator takes for each.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const RECONNECT_DELAY: Duration = Duration::from_secs(10);
const CTRL_LOSS_TIMEOUT: Duration = Duration::from_secs(600);
const IO_TIMEOUT: Duration = Duration::from_secs(30);

/// A keep alive that is longer finds out nothing.
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(3600);

pub(super) fn bdevs(
    written: Vec<At<Bdev>>,
    surroundings: &Surroundings<'_>,
) -> Result<Vec<BdevPlan>, Problem> {
    let mut names = Unique::default();
    let mut paths: Vec<(PathBuf, bool, crate::config::source::Span)> = Vec::new();
    let mut plans = Vec::with_capacity(written.len());
    for bdev in written {
        let plan = bdev_plan(bdev.value, surroundings)?;
        let name = &plan.name;
        if let Err(first) = names.insert(name.value.clone(), name.span) {
            return Err(Problem::at(
                name.span,
                format!("a second bdev named `{}`", shown(&name.value)),
            )
            .related(first, "the first")
            .help("every bdev needs a name of its own"));
        }
        let place = match &plan.kind {
            BdevKind::File(file) => Some((&file.path, file.read_only)),
            BdevKind::Nvme(device) => Some((device, false)),
            _ => None,
        };
        if let Some((place, read_only)) = place {
            let taken = paths
                .iter()
                .find(|(path, reads, _)| *path == place.value && !(*reads && read_only));
            if let Some((_, _, first)) = taken {
                return Err(Problem::at(place.span, "this file already belongs to another bdev")
                    .related(*first, "the first")
                    .help("two bdevs may share a file only when both are `read_only: true`; a table can use one bdev many times"));
            }
            paths.push((place.value.clone(), read_only, place.span));
        }
        plans.push(plan);
    }
    Ok(plans)
}

/// One backing device, by itself.
pub(super) fn bdev_plan(bdev: Bdev, surroundings: &Surroundings<'_>) -> Result<BdevPlan, Problem> {
    let plan = match bdev {
        Bdev::Malloc(bdev) => BdevPlan {
            name: bdev.name,
            block_size: block_size(bdev.block_size.as_ref())?,
            size: Some(size(&bdev.size)?),
            kind: BdevKind::Malloc {
                volatile_cache: bdev.volatile_cache.is_some_and(|flag| flag.value),
                atomic_writes: bdev.atomic_writes.is_some_and(|flag| flag.value),
            },
        },
        Bdev::Null(bdev) => BdevPlan {
            name: bdev.name,
            block_size: block_size(bdev.block_size.as_ref())?,
            size: Some(size(&bdev.size)?),
            kind: BdevKind::Null,
        },
        Bdev::File(bdev) => file(bdev, surroundings)?,
        Bdev::NvmeTcp(bdev) => nvme_tcp(*bdev)?,
        Bdev::Nvme(bdev) => nvme(bdev, surroundings)?,
        Bdev::SpdkJson(bdev) => spdk::json(bdev, surroundings)?,
    };
    let name = &plan.name;
    check_name(&name.value).map_err(|message| Problem::at(name.span, message))?;
    if let Some(size) = &plan.size
        && !size.value.is_multiple_of(plan.block_size.into())
    {
        let block_size = u64::from(plan.block_size);
        let below = size.value - size.value % block_size;
        let message = format!(
            "{} bytes are not whole blocks of {block_size} bytes",
            size.value
        );
        let near = if below == 0 { block_size } else { below };
        return Err(Problem::at(size.span, message)
            .help(format!("the nearest size that fits is {near} bytes")));
    }
    Ok(plan)
}

fn file(bdev: FileBdev, surroundings: &Surroundings<'_>) -> Result<BdevPlan, Problem> {
    let read_only = bdev.read_only.as_ref().is_some_and(|flag| flag.value);
    if let (true, Some(size)) = (read_only, &bdev.size) {
        return Err(
            Problem::at(size.span, "a read-only file cannot be created or grown")
                .help("remove `size`, or `read_only`"),
        );
    }
    Ok(BdevPlan {
        block_size: block_size(bdev.block_size.as_ref())?,
        size: bdev.size.as_ref().map(size).transpose()?,
        kind: BdevKind::File(FilePlan {
            path: surroundings.path(&bdev.path)?,
            direct: bdev.direct.map_or(Direct::Auto, |direct| direct.value),
            read_only,
        }),
        name: bdev.name,
    })
}

fn nvme(bdev: NvmeBdev, surroundings: &Surroundings<'_>) -> Result<BdevPlan, Problem> {
    let Some(device) = &bdev.device else {
        return spdk::nvme(bdev, surroundings);
    };
    let others = [
        ("tcp", bdev.tcp.as_ref().map(|at| at.span)),
        ("nqn", bdev.nqn.as_ref().map(|at| at.span)),
        ("pcie", bdev.pcie.as_ref().map(|at| at.span)),
        ("vfio_user", bdev.vfio_user.as_ref().map(|at| at.span)),
        ("nsid", bdev.nsid.as_ref().map(|at| at.span)),
    ];
    for (key, span) in others {
        if let Some(span) = span {
            let message = format!("`{key}` has no meaning with `device`, which is the namespace");
            return Err(Problem::at(span, message).help(
                "write `device` alone for a namespace that the kernel drives, or leave `device` out for one that SPDK drives",
            ));
        }
    }
    Ok(BdevPlan {
        block_size: 512,
        size: None,
        kind: BdevKind::Nvme(surroundings.path(device)?),
        name: bdev.name,
    })
}

fn nvme_tcp(bdev: NvmeTcpBdev) -> Result<BdevPlan, Problem> {
    let (host, port) = split_authority(&bdev.address.value).ok_or_else(|| {
        Problem::at(
            bdev.address.span,
            format!(
                "`{}` is not the address of a target",
                shown(&bdev.address.value)
            ),
        )
        .help("write \"192.0.2.7:4420\", \"[2001:db8::7]:4420\" or \"name:4420\"")
    })?;
    let nqn = |nqn: &At<String>| match check_nqn(&nqn.value) {
        Ok(()) => Ok(nqn.value.clone()),
        Err(message) => Err(Problem::at(nqn.span, message)),
    };
    let nsid = match &bdev.nsid {
        Some(nsid) if nsid.value == 0 || nsid.value == NSID_ALL => {
            let message = format!("{} is no namespace", nsid.value);
            return Err(Problem::at(nsid.span, message)
                .help("namespaces are numbered from 1; `nvme list-ns` shows a target's"));
        }
        nsid => nsid.as_ref().map_or(1, |nsid| nsid.value),
    };
    let keep_alive = span(bdev.keep_alive.as_ref())?.unwrap_or(KEEP_ALIVE);
    if let Some(written) = bdev
        .keep_alive
        .as_ref()
        .filter(|_| keep_alive > KEEP_ALIVE_MAX)
    {
        return Err(
            Problem::at(written.span, "a keep alive of more than an hour")
                .help("5s finds out soon; a longer one spares messages"),
        );
    }
    let is_set = |flag: &Option<At<bool>>| flag.as_ref().is_some_and(|flag| flag.value);
    let plan = NvmeTcpPlan {
        address: bdev.address.with((host.to_owned(), port)),
        nqn: nqn(&bdev.nqn)?,
        nsid,
        host_nqn: bdev.host_nqn.as_ref().map(nqn).transpose()?,
        header_digest: is_set(&bdev.header_digest),
        data_digest: is_set(&bdev.data_digest),
        keep_alive,
        reconnect_delay: span(bdev.reconnect_delay.as_ref())?.unwrap_or(RECONNECT_DELAY),
        ctrl_loss_timeout: span(bdev.ctrl_loss_timeout.as_ref())?.unwrap_or(CTRL_LOSS_TIMEOUT),
        fast_io_fail_timeout: span(bdev.fast_io_fail_timeout.as_ref())?,
        io_timeout: span(bdev.io_timeout.as_ref())?.unwrap_or(IO_TIMEOUT),
    };
    Ok(BdevPlan {
        name: bdev.name,
        block_size: 512,
        size: None,
        kind: BdevKind::NvmeTcp(Box::new(plan)),
    })
}
