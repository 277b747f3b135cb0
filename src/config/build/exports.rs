//! What all exports are given: addresses, and the names of mapped devices.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::{address, collide};
use crate::config::plan::{BdevPlan, DevicePlan};
use crate::config::source::{At, Problem, shown};
use crate::config::{LISTENERS_MAX, some_of};
use crate::suggest::nearest;

/// Addresses to listen on; `port` is the protocol's own.
pub(super) fn listeners(written: &[At<String>], port: u16) -> Result<Vec<At<SocketAddr>>, Problem> {
    let mut listeners: Vec<At<SocketAddr>> = Vec::with_capacity(written.len());
    for text in written {
        let listener = address(text, port)?;
        if let Some(other) = listeners
            .iter()
            .find(|other| collide(other.value, listener.value))
        {
            let message = if other.value == listener.value {
                format!("`{}` is listed twice", listener.value)
            } else {
                format!(
                    "`{}` and `{}` cannot both be bound",
                    other.value, listener.value
                )
            };
            return Err(Problem::at(listener.span, message)
                .related(other.span, "the first")
                .help("0.0.0.0 and [::] already cover every address of their kind"));
        }
        if listeners.len() == LISTENERS_MAX {
            return Err(Problem::at(listener.span, "too many listeners")
                .help(format!("there can be {LISTENERS_MAX}")));
        }
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Names of devices, for exports to find.
pub(super) struct Known<'a> {
    devices: HashMap<&'a str, usize>,
    bdevs: &'a [BdevPlan],
}

impl<'a> Known<'a> {
    /// The devices of a configuration.
    pub(super) fn new(devices: &'a [DevicePlan], bdevs: &'a [BdevPlan]) -> Self {
        let named = devices.iter().enumerate();
        Self {
            devices: named
                .map(|(index, device)| (device.name.value.as_str(), index))
                .collect(),
            bdevs,
        }
    }

    /// The index of a device by its name.
    pub(super) fn index(&self, device: &At<String>) -> Result<usize, Problem> {
        let known = self;
        let name = device.value.as_str();
        if let Some(index) = known.devices.get(name) {
            return Ok(*index);
        }
        let problem = Problem::at(device.span, format!("there is no device `{}`", shown(name)));
        if let Some(bdev) = known.bdevs.iter().find(|bdev| bdev.name.value == name) {
            let sectors = bdev
                .sectors()
                .map_or("LENGTH".to_owned(), |sectors| sectors.to_string());
            return Err(problem.related(bdev.name.span, "a bdev").help(format!(
            "`{name}` is a bdev; map a device on it, with the table `0 {sectors} linear {name} 0`"
        )));
        }
        let mut names: Vec<&str> = known.devices.keys().copied().collect();
        names.sort_unstable();
        Err(match nearest(name, names.iter().copied()) {
            Some(near) => problem.help(format!("did you mean `{near}`?")),
            None if names.is_empty() => problem.help("`devices` defines none"),
            None => problem.help(format!("`devices` defines {}", some_of(&names))),
        })
    }
}
