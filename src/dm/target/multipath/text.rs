//! The INFO and TABLE texts (5.8).

use std::fmt::Write;

use super::super::super::limits::Lower;
use super::parse::TIMEOUT_SECS;
use super::paths::{Group, Path};
use super::{Multipath, selector::Selector};

/// `2 <QUEUE_IO> <activations> 0 <#groups> <group> {…}`. The first two are of hardware handlers, and there are none: 0.
pub fn info(target: &Multipath, lowers: &[Lower]) -> String {
    let mut text = "2 0 0 0".to_string();
    count_and_group(target, &mut text);
    for (at, group) in target.paths.groups().iter().enumerate() {
        let _ = write!(text, " {}", target.paths.letter(at));
        let words = group.selector.info_words();
        group_text(target, group, words, lowers, &mut text, |path, text| {
            let letter = if path.failed { 'F' } else { 'A' };
            let _ = write!(text, " {letter} {}", path.fail_count);
            group.selector.info(path.slot, text);
        });
    }
    text
}

/// A line that would load the target as it is set up now, features first.
pub fn table(target: &Multipath, lowers: &[Lower]) -> String {
    let features = features(target);
    let mut text = features.len().to_string();
    for word in features {
        let _ = write!(text, " {word}");
    }
    text.push_str(" 0");
    count_and_group(target, &mut text);
    for group in target.paths.groups() {
        let _ = write!(text, " {}", group.selector.name());
        let words = group.selector.table_words();
        group_text(target, group, words, lowers, &mut text, |path, text| {
            group.selector.table(path.slot, text);
        });
    }
    text
}

fn features(target: &Multipath) -> Vec<String> {
    let settings = &target.settings;
    let mut words = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        words.push(name.to_string());
        words.extend(value);
    };
    if target.queueing.kept() {
        add("queue_if_no_path", None);
    }
    if let Some(retries) = settings.pg_init_retries {
        add("pg_init_retries", Some(retries.to_string()));
    }
    if let Some(delay) = settings.pg_init_delay_msecs {
        add("pg_init_delay_msecs", Some(delay.to_string()));
    }
    if settings.retain_attached_hw_handler {
        add("retain_attached_hw_handler", None);
    }
    if let Some(mode) = settings.queue_mode {
        add("queue_mode", Some(mode.name().to_string()));
    }
    let timeout_secs = target.queueing.timeout_secs();
    if timeout_secs > 0 {
        add(TIMEOUT_SECS, Some(timeout_secs.to_string()));
    }
    words
}

fn count_and_group(target: &Multipath, text: &mut String) {
    let count = target.paths.groups().len();
    let _ = write!(text, " {count} {}", target.paths.shown_group());
}

/// `<#selector args> [..] <#paths> <#words per path> { <device> … }*`
fn group_text(
    target: &Multipath,
    group: &Group,
    words: usize,
    lowers: &[Lower],
    text: &mut String,
    each: impl Fn(&Path, &mut String),
) {
    Selector::group(&group.selector, text);
    let _ = write!(text, " {} {words}", group.count);
    let first = usize::from(group.first);
    for path in &target.paths.all()[first..first + usize::from(group.count)] {
        let _ = write!(text, " {}", lowers[path.channel.0 as usize].name);
        each(path, text);
    }
}
