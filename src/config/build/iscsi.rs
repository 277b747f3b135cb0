//! The iSCSI target.

use super::exports::{Known, listeners};
use super::{Surroundings, Unique};
use crate::config::names::{Uuid, check_iscsi_name};
use crate::config::plan::{
    BdevPlan, ChapPlan, DevicePlan, HostsPlan, IscsiPlan, LunPlan, TargetPlan,
};
use crate::config::raw::{Chap, Iscsi, Lun, Target};
use crate::config::scalar::Hosts;
use crate::config::source::{At, Problem, shown};
use crate::config::{LUN_MAX, TARGETS_MAX};

pub(super) fn iscsi(
    written: Iscsi,
    devices: &[DevicePlan],
    bdevs: &[BdevPlan],
    surroundings: &Surroundings<'_>,
) -> Result<IscsiPlan, Problem> {
    let portals = listeners(&written.portals.value, 3260)?;
    let known = Known::new(devices, bdevs);
    let mut names = Unique::default();
    let mut targets = Vec::with_capacity(written.targets.len());
    for (index, target) in written.targets.into_iter().enumerate() {
        if index == TARGETS_MAX {
            return Err(Problem::at(target.span, "too many targets")
                .help(format!("there can be {TARGETS_MAX}")));
        }
        let target = target_plan(target.value, &known, surroundings)?;
        // Names that differ in case only are one name (RFC 3722).
        if let Err(first) = names.insert(target.iqn.value.to_ascii_lowercase(), target.iqn.span) {
            return Err(Problem::at(target.iqn.span, "a second target of this name")
                .related(first, "the first")
                .help(
                    "every target needs a name of its own; units of one target go into one entry",
                ));
        }
        targets.push(target);
    }
    if portals.is_empty() {
        return Err(
            Problem::at(written.portals.span, "no initiator could reach this target")
                .help("name at least one address, such as \"127.0.0.1:3260\""),
        );
    }
    let discovery = written.discovery.and_then(|discovery| discovery.chap);
    Ok(IscsiPlan {
        portals,
        discovery: chap(discovery.as_ref(), surroundings)?,
        targets,
    })
}

fn target_plan(
    written: Target,
    known: &Known<'_>,
    surroundings: &Surroundings<'_>,
) -> Result<TargetPlan, Problem> {
    checked_name(&written.iqn)?;
    let initiators = initiators(&written.initiators)?;
    let mut luns: Vec<LunPlan> = luns(&written.luns, &written.iqn.value, known)?;
    luns.sort_by_key(|lun| lun.lun);
    Ok(TargetPlan {
        iqn: written.iqn,
        initiators,
        chap: chap(written.chap.as_ref(), surroundings)?,
        luns,
    })
}

fn chap(
    written: Option<&Chap>,
    surroundings: &Surroundings<'_>,
) -> Result<Option<ChapPlan>, Problem> {
    let plan = |chap: &Chap| {
        Ok(ChapPlan {
            secrets: surroundings.path(&chap.secrets)?,
            mutual: chap.mutual.as_ref().is_some_and(|mutual| mutual.value),
        })
    };
    written.map(plan).transpose()
}

fn checked_name(name: &At<String>) -> Result<(), Problem> {
    check_iscsi_name(&name.value).map_err(|message| {
        Problem::at(name.span, message).help(
            "a name is `iqn.YYYY-MM.reverse.domain:identifier`, such as iqn.2026-11.com.example:disks, or `eui.` and 16 hexadecimal digits, or `naa.` and 16 or 32",
        )
    })
}

fn initiators(written: &At<Hosts>) -> Result<HostsPlan, Problem> {
    const FORM: &str = "write `initiators: any`, or a list of names (with open-iscsi: /etc/iscsi/initiatorname.iscsi)";
    let list = match &written.value {
        Hosts::Word(word) if word == "any" => return Ok(HostsPlan::Any),
        Hosts::Word(word) => {
            return Err(Problem::at(
                written.span,
                format!(
                    "`{}` is neither `any` nor a list of initiators",
                    shown(word)
                ),
            )
            .help(FORM));
        }
        Hosts::List(list) => list,
    };
    if list.is_empty() {
        return Err(Problem::at(written.span, "an empty list lets no initiator in").help(FORM));
    }
    let mut seen = Unique::default();
    for name in list {
        if name.value == "any" {
            return Err(Problem::at(name.span, "`any` stands alone, not in a list")
                .help("write `initiators: any`, without brackets"));
        }
        checked_name(name)?;
        if let Err(first) = seen.insert(name.value.as_str(), name.span) {
            return Err(Problem::at(name.span, "this initiator is listed twice")
                .related(first, "the first")
                .help("remove one of them"));
        }
    }
    Ok(HostsPlan::List(
        list.iter().map(|name| name.value.clone()).collect(),
    ))
}

fn luns(written: &[At<Lun>], iqn: &str, known: &Known<'_>) -> Result<Vec<LunPlan>, Problem> {
    let mut numbers = Unique::default();
    let mut devices = Unique::default();
    let mut plans = Vec::with_capacity(written.len());
    for unit in written {
        let Lun { lun, device } = &unit.value;
        let number = u16::try_from(lun.value).ok().filter(|&lun| lun <= LUN_MAX);
        let Some(number) = number else {
            return Err(Problem::at(
                lun.span,
                format!("{} is not a logical unit number", lun.value),
            )
            .help(format!("logical unit numbers go from 0 to {LUN_MAX}")));
        };
        if let Err(first) = numbers.insert(number, lun.span) {
            return Err(
                Problem::at(lun.span, format!("a second unit {number} in this target"))
                    .related(first, "the first")
                    .help("every unit of a target needs a number of its own"),
            );
        }
        let index = known.index(device)?;
        if let Err(first) = devices.insert(index, device.span) {
            return Err(Problem::at(
                device.span,
                format!(
                    "`{}` is already a unit of this target",
                    shown(&device.value)
                ),
            )
            .related(first, "the first")
            .help("an initiator would take the two for different disks"));
        }
        plans.push(LunPlan {
            lun: number,
            device: index,
            uuid: Uuid::derived(iqn, &device.value),
            span: device.span,
        });
    }
    Ok(plans)
}
