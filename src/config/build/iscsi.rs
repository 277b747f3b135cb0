//! The iSCSI target.

use super::exports::{Known, listeners};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Surroundings, Unique, address};
use crate::config::duration::DurationText;
use crate::config::names::{Uuid, check_iscsi_name};
use crate::config::plan::{
    BdevPlan, ChapPlan, DevicePlan, HostsPlan, IscsiPlan, LunPlan, TargetPlan,
};
use crate::config::raw::{Chap, Iscsi, Lun, Redirect, Target, TargetGroup};
use crate::config::scalar::Hosts;
use crate::config::source::{At, Problem, shown};
use crate::config::{AluaState, KEEP_ALIVE_MAX, KEEP_ALIVE_MIN, LUN_MAX, TARGETS_MAX};
use crate::export::iscsi::initiators::Rule;

/// How long an initiator may be silent; open-iscsi asks its targets after 5 s.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) fn iscsi(
    written: Iscsi,
    devices: &[DevicePlan],
    bdevs: &[BdevPlan],
    surroundings: &Surroundings<'_>,
) -> Result<IscsiPlan, Problem> {
    let (portals, tags) = portals(&written)?;
    let known = Known::new(devices, bdevs);
    let mut names = Unique::default();
    let mut targets = Vec::with_capacity(written.targets.len());
    for (index, target) in written.targets.into_iter().enumerate() {
        if index == TARGETS_MAX {
            return Err(Problem::at(target.span, "too many targets")
                .help(format!("there can be {TARGETS_MAX}")));
        }
        let target = target_plan(target.value, &known, &tags, surroundings)?;
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
    let discovery = written.discovery.and_then(|discovery| discovery.chap);
    Ok(IscsiPlan {
        portals,
        tags,
        keep_alive: keep_alive(written.keep_alive.as_ref())?,
        discovery: chap(discovery.as_ref(), surroundings)?,
        state: match &written.state {
            Some(state) => Some(surroundings.path(state)?),
            None => None,
        },
        targets,
    })
}

fn keep_alive(written: Option<&At<DurationText>>) -> Result<Duration, Problem> {
    let Some(written) = written else {
        return Ok(KEEP_ALIVE);
    };
    let wrong = |why: String, help: String| Problem::at(written.span, why).help(help);
    let span = written
        .value
        .duration()
        .map_err(|(why, help)| wrong(why, help))?;
    if !(KEEP_ALIVE_MIN..=KEEP_ALIVE_MAX).contains(&span) {
        return Err(wrong(
            "initiators cannot be asked in such a rhythm".to_owned(),
            "write a span from 1s to 1h".to_owned(),
        ));
    }
    Ok(span)
}

fn target_plan(
    written: Target,
    known: &Known<'_>,
    tags: &[u16],
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
        groups: groups(written.portal_groups.as_ref(), tags)?,
        explicit_alua: (written.explicit_alua.as_ref()).is_some_and(|explicit| explicit.value),
        redirect: redirect(written.redirect.as_ref())?,
        luns,
    })
}

/// The addresses of all portal groups, and the tag of each.
fn portals(written: &Iscsi) -> Result<(Vec<At<SocketAddr>>, Vec<u16>), Problem> {
    const FORM: &str = "name at least one address, such as \"127.0.0.1:3260\"";
    let mut texts: Vec<At<String>> = Vec::new();
    let mut tags = Vec::new();
    if let Some(first) = &written.portals {
        texts.extend(first.value.iter().cloned());
        tags.resize(texts.len(), 1);
    }
    for group in written.portal_groups.iter().flatten() {
        let tag = tag(&group.value.tag)?;
        if tags.contains(&tag) {
            let message = format!("a second portal group {tag}");
            let problem = Problem::at(group.value.tag.span, message);
            return Err(problem.help("`portals` beside the groups is portal group 1"));
        }
        let portals = &group.value.portals;
        if portals.value.is_empty() {
            let problem = Problem::at(portals.span, "a portal group without an address");
            return Err(problem.help(FORM));
        }
        texts.extend(portals.value.iter().cloned());
        tags.resize(texts.len(), tag);
    }
    if texts.is_empty() {
        let message = "no initiator could reach this target";
        let problem = match &written.portals {
            Some(portals) => Problem::at(portals.span, message),
            None => Problem::whole("`iscsi` has neither `portals` nor `portal_groups`"),
        };
        return Err(problem.help(FORM));
    }
    Ok((listeners(&texts, 3260)?, tags))
}

fn tag(written: &At<u32>) -> Result<u16, Problem> {
    let tag = u16::try_from(written.value).ok().filter(|&tag| tag > 0);
    tag.ok_or_else(|| {
        let message = format!("{} is not the tag of a portal group", written.value);
        Problem::at(written.span, message).help("tags go from 1 to 65535")
    })
}

/// The portal groups that a target is reached through, of those that there are.
fn groups(
    written: Option<&At<Vec<At<TargetGroup>>>>,
    tags: &[u16],
) -> Result<Vec<(u16, AluaState)>, Problem> {
    let mut known = tags.to_vec();
    known.dedup();
    let Some(written) = written else {
        let all = known.into_iter().map(|tag| (tag, AluaState::default()));
        return Ok(all.collect());
    };
    if written.value.is_empty() {
        return Err(
            Problem::at(written.span, "no initiator could reach this target")
                .help("name a portal group, or leave `portal_groups` out for all"),
        );
    }
    let mut groups: Vec<(u16, AluaState)> = Vec::new();
    for group in &written.value {
        let tag = tag(&group.value.tag)?;
        if !known.contains(&tag) {
            let message = format!("there is no portal group {tag}");
            let known: Vec<String> = known.iter().map(u16::to_string).collect();
            return Err(Problem::at(group.value.tag.span, message)
                .help(format!("there are: {}", known.join(", "))));
        }
        if groups.iter().any(|(other, _)| *other == tag) {
            return Err(Problem::at(
                group.value.tag.span,
                format!("portal group {tag} is listed twice"),
            )
            .help("remove one of them"));
        }
        let state = group.value.alua.as_ref().map(|state| state.value);
        groups.push((tag, state.unwrap_or_default()));
    }
    Ok(groups)
}

fn redirect(written: Option<&Redirect>) -> Result<Option<(SocketAddr, bool)>, Problem> {
    let Some(written) = written else {
        return Ok(None);
    };
    let address = address(&written.address, 3260)?;
    if address.value.port() == 0 || address.value.ip().is_unspecified() {
        return Err(
            Problem::at(address.span, "initiators cannot connect to this")
                .help("write the address and port of a portal, such as \"192.0.2.8:3260\""),
        );
    }
    let permanent = written.permanent.as_ref();
    Ok(Some((
        address.value,
        permanent.is_some_and(|permanent| permanent.value),
    )))
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
    const ENTRY: &str = "an entry is a name, a pattern such as iqn.1993-08.org.debian:*, a network such as 192.0.2.0/24, or one of the former, @ and a network";
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
        let is_plain = !name.value.contains(['*', '@', '/']);
        if is_plain && name.value.parse::<IpAddr>().is_err() {
            checked_name(name)?;
        }
        Rule::parse(&name.value).map_err(|message| Problem::at(name.span, message).help(ENTRY))?;
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
        let Lun {
            lun,
            device,
            initiators: seen_by,
        } = &unit.value;
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
            initiators: seen_by.as_ref().map_or(Ok(HostsPlan::Any), initiators)?,
            span: device.span,
        });
    }
    Ok(plans)
}
