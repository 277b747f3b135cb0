//! Mapped devices.

use std::collections::HashMap;
use std::sync::Arc;

use super::tables::Tables;
use super::{Unique, span};
use crate::config::names::{check_device_uuid, check_name};
use crate::config::plan::{BdevPlan, DevicePlan};
use crate::config::raw::{Device, FlushPolicy};
use crate::config::source::{At, Problem, Source, shown};
use crate::dm::Limits;

pub(super) fn devices(
    written: Vec<At<Device>>,
    bdevs: &[BdevPlan],
    source: &Source,
) -> Result<Vec<DevicePlan>, Problem> {
    check_names(&written, bdevs)?;
    let devices: Vec<&Device> = written.iter().map(|device| &device.value).collect();
    let order = Tables::new(bdevs, &devices, source).check()?;
    let mut written: Vec<Option<Device>> = written.into_iter().map(|at| Some(at.value)).collect();
    let plan = |(index, limits): (usize, Arc<Limits>)| {
        let device = written[index]
            .take()
            .expect("a device has one place in the order");
        let parked_limit = span(device.parked_limit.as_ref())?;
        Ok(DevicePlan {
            name: device.name,
            uuid: device.uuid.map(|uuid| uuid.value),
            flush: device
                .flush
                .map_or(FlushPolicy::Relaxed, |flush| flush.value),
            read_only: device.read_only.is_some_and(|flag| flag.value),
            parked_limit,
            table: device.table,
            sectors: limits.sectors,
            block_size: limits.block_bytes,
        })
    };
    order.into_iter().map(plan).collect()
}

/// Every device has a name and an identifier that nothing else has.
fn check_names(written: &[At<Device>], bdevs: &[BdevPlan]) -> Result<(), Problem> {
    let bdevs: HashMap<&str, &BdevPlan> = bdevs
        .iter()
        .map(|bdev| (bdev.name.value.as_str(), bdev))
        .collect();
    let mut names = Unique::default();
    let mut uuids = Unique::default();
    for At { value: device, .. } in written {
        let name = &device.name;
        check_name(&name.value).map_err(|message| Problem::at(name.span, message))?;
        if let Err(first) = names.insert(name.value.clone(), name.span) {
            return Err(Problem::at(
                name.span,
                format!("a second device named `{}`", shown(&name.value)),
            )
            .related(first, "the first")
            .help("every device needs a name of its own"));
        }
        if let Some(bdev) = bdevs.get(name.value.as_str()) {
            return Err(Problem::at(
                name.span,
                format!("`{}` is the name of a bdev", shown(&name.value)),
            )
            .related(bdev.name.span, "the bdev")
            .help(
                "bdevs and devices share one space of names, because a table line names either",
            ));
        }
        if let Some(uuid) = &device.uuid {
            check_device_uuid(&uuid.value).map_err(|message| Problem::at(uuid.span, message))?;
            if let Err(first) = uuids.insert(uuid.value.clone(), uuid.span) {
                return Err(
                    Problem::at(uuid.span, "a second device with this identifier")
                        .related(first, "the first")
                        .help("every device needs an identifier of its own, or none"),
                );
            }
        }
    }
    Ok(())
}
