//! Mapped devices.

use std::collections::HashMap;

use super::Unique;
use crate::config::names::{check_device_uuid, check_name};
use crate::config::plan::{BdevPlan, DevicePlan};
use crate::config::raw::{Device, FlushPolicy};
use crate::config::source::{At, Problem, Source, shown};
use crate::config::table_check::{self, Names};

pub(super) fn devices(
    written: Vec<At<Device>>,
    bdevs: &[BdevPlan],
    source: &Source,
) -> Result<Vec<DevicePlan>, Problem> {
    let bdevs: HashMap<&str, &BdevPlan> = bdevs
        .iter()
        .map(|bdev| (bdev.name.value.as_str(), bdev))
        .collect();
    let device_names: Vec<String> = written
        .iter()
        .map(|device| device.value.name.value.clone())
        .collect();
    let device_names: Vec<&str> = device_names.iter().map(String::as_str).collect();
    let mut names = Unique::default();
    let mut uuids = Unique::default();
    let mut plans = Vec::with_capacity(written.len());
    for device in written {
        let device = device.value;
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
        let read_only = device.read_only.is_some_and(|flag| flag.value);
        let known = Names {
            bdevs: &bdevs,
            devices: &device_names,
            read_only,
        };
        let summary = table_check::check(&device.table.value, &known).map_err(|problem| {
            let span = source.span_in_scalar(&device.table, problem.line_index, problem.word);
            problem.at(span)
        })?;
        let parked_limit = device.parked_limit.map(|limit| {
            let wrong = |(why, help)| Problem::at(limit.span, why).help(help);
            limit.value.duration().map_err(wrong)
        });
        plans.push(DevicePlan {
            name: device.name,
            uuid: device.uuid.map(|uuid| uuid.value),
            flush: device
                .flush
                .map_or(FlushPolicy::Relaxed, |flush| flush.value),
            read_only,
            parked_limit: parked_limit.transpose()?,
            table: device.table,
            sectors: summary.sectors,
            block_size: summary.block_size,
        });
    }
    Ok(plans)
}
