//! The messages an operator may send (5.5).

use super::super::super::limits::Lower;
use super::super::super::{Errno, Error};
use super::super::{ChannelIndex, Told};
use super::Multipath;
use super::parse::{TIMEOUT_SECS, TIMEOUT_SECS_MAX};

/// A message, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    QueueIfNoPath,
    FailIfNoPath,
    Timeout(u32),
    FailPath(ChannelIndex),
    ReinstatePath(ChannelIndex),
    /// Groups are counted from 0 here.
    SwitchGroup(u16),
    BypassGroup(u16, bool),
}

/// Does what a message says.
pub fn message(
    target: &mut Multipath,
    words: &[String],
    suspended: bool,
    now_ns: u64,
    lowers: &[Lower],
) -> Result<Told, Error> {
    let name = words
        .first()
        .map_or("", String::as_str)
        .to_ascii_lowercase();
    // Pure changes of state, which a recovery while suspended needs (OQ-12).
    let always = ["fail_path", "reinstate_path"].contains(&name.as_str());
    if suspended && !always {
        let reason = format!("'{name}' cannot be done while the device is suspended");
        return Err(Error::new(Errno::Ebusy, reason));
    }
    let message = parse(target, &name, words.get(1..).unwrap_or(&[]), lowers)
        .map_err(|reason| Error::new(Errno::Einval, reason))?;
    let Multipath {
        paths, queueing, ..
    } = target;
    let event = match message {
        Message::QueueIfNoPath => {
            queueing.turn_on(paths.none_valid());
            false
        }
        Message::FailIfNoPath => {
            queueing.turn_off();
            false
        }
        Message::Timeout(seconds) => {
            queueing.set_timeout(seconds, paths.none_valid());
            false
        }
        Message::FailPath(channel) => paths.fail(channel),
        Message::ReinstatePath(channel) => paths.reinstate(channel, now_ns),
        Message::SwitchGroup(group) => {
            paths.switch(group);
            true
        }
        Message::BypassGroup(group, bypassed) => {
            paths.bypass(group, bypassed);
            true
        }
    };
    queueing.look(paths.none_valid());
    Ok(Told { event, text: None })
}

fn parse(
    target: &Multipath,
    name: &str,
    words: &[String],
    lowers: &[Lower],
) -> Result<Message, String> {
    let no_argument = |message| match words {
        [] => Ok(message),
        [word, ..] => Err(format!("'{name}' takes no argument, and '{word}' follows")),
    };
    let argument = |what: &str| match words {
        [word] => Ok(word.as_str()),
        _ => Err(format!(
            "'{name}' takes one argument, {what}, and {} follow",
            words.len()
        )),
    };
    let device = || channel(target, argument("a device")?, lowers);
    let group = || group(target, argument("the number of a group")?);
    Ok(match name {
        "queue_if_no_path" => no_argument(Message::QueueIfNoPath)?,
        "fail_if_no_path" => no_argument(Message::FailIfNoPath)?,
        TIMEOUT_SECS => Message::Timeout(seconds(argument("a number of seconds")?)?),
        "fail_path" => Message::FailPath(device()?),
        "reinstate_path" => Message::ReinstatePath(present(target, device()?, lowers)?),
        "switch_group" => Message::SwitchGroup(group()?),
        "disable_group" => Message::BypassGroup(group()?, true),
        "enable_group" => Message::BypassGroup(group()?, false),
        _ => {
            return Err(format!(
                "unknown message '{name}'; there are queue_if_no_path, fail_if_no_path, {TIMEOUT_SECS}, fail_path, reinstate_path, switch_group, disable_group, enable_group"
            ));
        }
    })
}

fn channel(target: &Multipath, name: &str, lowers: &[Lower]) -> Result<ChannelIndex, String> {
    let named = lowers.iter().position(|lower| lower.name == name);
    let channel = named.map(|at| ChannelIndex(at as u32));
    let has = |channel: &ChannelIndex| target.paths.all().iter().any(|p| p.channel == *channel);
    channel
        .filter(has)
        .ok_or_else(|| format!("there is no path on a device '{name}'"))
}

/// The device, if it was not taken away: such a path comes back only with a new table.
fn present(
    target: &Multipath,
    channel: ChannelIndex,
    lowers: &[Lower],
) -> Result<ChannelIndex, String> {
    match target.paths.is_gone(channel) {
        false => Ok(channel),
        true => Err(format!(
            "device '{}' was taken away: load a table to use it again",
            lowers[channel.0 as usize].name
        )),
    }
}

fn group(target: &Multipath, word: &str) -> Result<u16, String> {
    let groups = target.paths.groups().len();
    match number(word) {
        Some(number) if (1..=groups as u64).contains(&number) => Ok(number as u16 - 1),
        _ if groups == 0 => Err(format!("there is no group '{word}': there are no groups")),
        _ => Err(format!(
            "there is no group '{word}': they are 1 to {groups}"
        )),
    }
}

fn seconds(word: &str) -> Result<u32, String> {
    let fits = number(word).filter(|seconds| *seconds <= TIMEOUT_SECS_MAX);
    fits.map(|seconds| seconds as u32).ok_or_else(|| {
        format!("'{word}' is not a number of seconds: 0 for no timer, at most {TIMEOUT_SECS_MAX}")
    })
}

/// A plain decimal number (TG-2).
fn number(word: &str) -> Option<u64> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit());
    word.parse().ok().filter(|_| plain)
}
