//! The table line of a multipath target (5.1).

use super::super::super::limits::Lower;
use super::super::{Arguments, Builder, Refusal, refuse};
use super::Multipath;
use super::paths::{Group, Path, Paths};
use super::queueing::Queueing;
use super::selector::{Selector, Slot, WORDS_MAX};

/// Most words of features: each of them once.
const FEATURE_WORDS_MAX: u64 = 10;
/// Most groups.
const GROUPS_MAX: u64 = 1024;
/// Most paths of all groups together.
const PATHS_MAX: u64 = 1024;
/// Longest time of the no-path timer: eleven days.
pub(super) const TIMEOUT_SECS_MAX: u64 = 1_000_000;
/// What the time of the no-path timer is called, in a table line as in a message.
pub(super) const TIMEOUT_SECS: &str = "queue_if_no_path_timeout_secs";

/// Features that are kept for the table text, and change nothing here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    pub retain_attached_hw_handler: bool,
    pub pg_init_retries: Option<u64>,
    pub pg_init_delay_msecs: Option<u64>,
    pub queue_mode: Option<QueueMode>,
}

/// How the kernel would queue; here every multipath is bio-based.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueMode {
    Bio,
    Rq,
    Mq,
}

impl QueueMode {
    /// All of them.
    const ALL: [QueueMode; 3] = [QueueMode::Bio, QueueMode::Rq, QueueMode::Mq];

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            QueueMode::Bio => "bio",
            QueueMode::Rq => "rq",
            QueueMode::Mq => "mq",
        }
    }
}

/// Builds the target from its table line.
pub fn multipath(
    arguments: &mut Arguments<'_>,
    builder: &mut Builder<'_>,
) -> Result<Multipath, Refusal> {
    let (settings, queueing) = features(arguments)?;
    let handler_words = arguments.number("the number of hardware handler words", 1024)?;
    if handler_words > 0 {
        return refuse(format!(
            "there are no hardware handlers here, and {handler_words} words of one follow: write 0"
        ));
    }
    let count = arguments.number("the number of path groups", GROUPS_MAX)?;
    let initial = arguments.number("the number of the initial group", GROUPS_MAX)?;
    if (initial == 0) != (count == 0) || initial > count {
        return refuse(match count {
            0 => format!("the initial group is {initial}, but there are no groups: write 0"),
            _ => format!(
                "the initial group is {initial}: of {count} groups it is one of 1 to {count}"
            ),
        });
    }
    let mut paths = Vec::new();
    let mut groups = Vec::new();
    for number in 1..=count {
        let group = group(arguments, builder, &mut paths, number as u16 - 1)
            .map_err(|refusal| refusal.within(format_args!("group {number}")))?;
        groups.push(group);
    }
    arguments.end()?;
    Ok(Multipath {
        settings,
        queueing,
        paths: Paths::new(paths, groups, initial as u16),
    })
}

fn features(arguments: &mut Arguments<'_>) -> Result<(Settings, Queueing), Refusal> {
    let count = arguments.number("the number of feature words", FEATURE_WORDS_MAX)?;
    arguments.part("feature", count, feature_words)
}

fn feature_words(arguments: &mut Arguments<'_>) -> Result<(Settings, Queueing), Refusal> {
    let mut settings = Settings::default();
    let mut queue_if_no_path = false;
    let mut timeout_secs = 0;
    while arguments.left() > 0 {
        let word = arguments.word("a feature")?;
        let name = word.to_ascii_lowercase();
        let mut number = |min: u64, max: u64| {
            let number = arguments.number(&format!("the number of '{name}'"), max)?;
            match number < min {
                true => refuse(format!("'{name}' is {number}: at least {min}")),
                false => Ok(number),
            }
        };
        match name.as_str() {
            "queue_if_no_path" => queue_if_no_path = true,
            "retain_attached_hw_handler" => settings.retain_attached_hw_handler = true,
            "pg_init_retries" => settings.pg_init_retries = Some(number(1, 50)?),
            "pg_init_delay_msecs" => settings.pg_init_delay_msecs = Some(number(0, 60_000)?),
            TIMEOUT_SECS => timeout_secs = number(0, TIMEOUT_SECS_MAX)?,
            "queue_mode" => {
                let mode = arguments.word("the queue mode")?;
                let known = |known: &QueueMode| known.name().eq_ignore_ascii_case(mode);
                settings.queue_mode = QueueMode::ALL.into_iter().find(known);
                if settings.queue_mode.is_none() {
                    return refuse(format!("queue mode '{mode}' is none of bio, rq, mq"));
                }
            }
            _ => {
                return refuse(format!(
                    "unknown feature '{word}'; there are queue_if_no_path, {TIMEOUT_SECS}, pg_init_retries, pg_init_delay_msecs, retain_attached_hw_handler, queue_mode"
                ));
            }
        }
    }
    Ok((
        settings,
        Queueing::new(queue_if_no_path, timeout_secs as u32),
    ))
}

fn group(
    arguments: &mut Arguments<'_>,
    builder: &mut Builder<'_>,
    paths: &mut Vec<Path>,
    number: u16,
) -> Result<Group, Refusal> {
    let mut selector = Selector::build(arguments)?;
    let left = PATHS_MAX - paths.len() as u64;
    let count = arguments.number("the number of paths", left)?;
    if count == 0 {
        return refuse("it has no paths: at least 1");
    }
    let each = arguments.number("the number of selector arguments of a path", WORDS_MAX)?;
    let first = paths.len() as u16;
    for slot in 0..count as u16 {
        let (channel, lower) = builder.device(arguments)?;
        demand_fit(builder, &lower)?;
        let name = selector.name();
        arguments
            .part("selector argument of a path", each, |words| {
                selector.add(words)
            })
            .map_err(|refusal| {
                refusal.within(format_args!("path '{}': selector {name}", lower.name))
            })?;
        paths.push(Path::new(channel, number, Slot(slot)));
    }
    Ok(Group::new(first, count as u16, selector))
}

/// Sector s of the target is sector s of each path: all must be there, in blocks of one size.
fn demand_fit(builder: &Builder<'_>, lower: &Lower) -> Result<(), Refusal> {
    if lower.sectors < builder.sectors {
        return refuse(format!(
            "path '{}' has {} sectors, and the target {}: each path is the whole of it",
            lower.name, lower.sectors, builder.sectors
        ));
    }
    let other = builder
        .lowers()
        .iter()
        .find(|other| other.block_bytes != lower.block_bytes);
    match other {
        None => Ok(()),
        Some(other) => refuse(format!(
            "path '{}' has blocks of {} bytes and path '{}' of {}: they are not paths to one device",
            lower.name, lower.block_bytes, other.name, other.block_bytes
        )),
    }
}
