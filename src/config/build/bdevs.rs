//! Backing devices.

use std::path::PathBuf;

use super::{Surroundings, Unique, block_size, size, spdk};
use crate::config::names::check_name;
use crate::config::plan::{BdevKind, BdevPlan, FilePlan};
use crate::config::raw::{Bdev, Direct, FileBdev};
use crate::config::source::{At, Problem, shown};

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
        if let BdevKind::File(file) = &plan.kind {
            let taken = paths.iter().find(|(path, read_only, _)| {
                *path == file.path.value && !(*read_only && file.read_only)
            });
            if let Some((_, _, first)) = taken {
                return Err(Problem::at(file.path.span, "this file already belongs to another bdev")
                    .related(*first, "the first")
                    .help("two bdevs may share a file only when both are `read_only: true`; a table can use one bdev many times"));
            }
            paths.push((file.path.value.clone(), file.read_only, file.path.span));
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
            },
        },
        Bdev::Null(bdev) => BdevPlan {
            name: bdev.name,
            block_size: block_size(bdev.block_size.as_ref())?,
            size: Some(size(&bdev.size)?),
            kind: BdevKind::Null,
        },
        Bdev::File(bdev) => file(bdev, surroundings)?,
        Bdev::Nvme(bdev) => spdk::nvme(bdev, surroundings)?,
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
