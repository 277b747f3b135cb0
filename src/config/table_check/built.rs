//! Lines whose words only their target understands: it is built as the device mapper would build it, and thrown away.

use std::cell::RefCell;

use super::{DEVICE_SECTORS_MAX, Line, Names, TableProblem, TableSummary, unknown_bdev};
use crate::config::plan::BdevPlan;
use crate::config::source::shown;
use crate::dm::target::{AnyTarget, Arguments, Builder, TYPES};
use crate::dm::{Lower, LowerId};

/// Builds the target of a line.
pub(super) fn build(
    line: &Line<'_>,
    length: u64,
    names: &Names<'_>,
    summary: &mut TableSummary,
) -> Result<(), TableProblem> {
    let missing = RefCell::new(None);
    let seen = RefCell::new(Vec::new());
    let resolve = |name: &str| {
        let Some(bdev) = names.bdevs.get(name) else {
            *missing.borrow_mut() = Some(name.to_owned());
            return None;
        };
        // A device named twice is one device (LC-10).
        let mut seen = seen.borrow_mut();
        let known = seen.iter().position(|known| known == name);
        let id = known.unwrap_or(seen.len());
        if known.is_none() {
            seen.push(name.to_owned());
        }
        Some(lower(id, bdev))
    };
    let kind = line.words[2].1;
    let words: Vec<String> = line.words[3..]
        .iter()
        .map(|(_, word)| (*word).to_owned())
        .collect();
    let mut lowers = Vec::new();
    let mut builder = Builder::new(length, &resolve, &mut lowers);
    let built = AnyTarget::build(kind, &mut Arguments::new(&words), &mut builder);
    let place = |name: &str| line.words.iter().rposition(|(_, word)| *word == name);
    if let Some(name) = missing.into_inner() {
        let place = place(&name).expect("a name of this line");
        return Err(unknown_bdev(line, place, &name, names));
    }
    built
        .expect("only called for a target there is")
        .map_err(|reason| line.problem(None, format!("{kind}: {reason}")))?;
    for lower in &lowers {
        if lower.read_only && !names.read_only {
            let message = format!(
                "bdev `{}` is read-only, the device is not",
                shown(&lower.name)
            );
            return Err(line
                .problem(place(&lower.name), message)
                .help("set `read_only: true` on the device as well, or take it from the table"));
        }
        summary.block_size = summary.block_size.max(lower.block_bytes);
    }
    Ok(())
}

/// A bdev as far as the plan knows it; one of unknown size is as large as it must be.
fn lower(id: usize, bdev: &BdevPlan) -> Lower {
    Lower {
        id: LowerId(id as u32),
        name: bdev.name.value.clone(),
        sectors: bdev.sectors().unwrap_or(DEVICE_SECTORS_MAX),
        block_bytes: bdev.block_size,
        volatile_cache: false,
        flush: false,
        fua: false,
        discard: false,
        discard_zeroes: false,
        write_zeroes: false,
        transfer_sectors_max: 0,
        optimal_write_bytes: bdev.block_size,
        read_only: bdev.read_only(),
        keep: Default::default(),
    }
}

/// A target that must be the only one of its table is (LC-8).
pub(super) fn check_alone(lines: &[Line<'_>]) -> Result<(), TableProblem> {
    let singleton = |kind: &str| {
        TYPES
            .iter()
            .any(|(name, _, class)| *name == kind && class.singleton)
    };
    match lines.iter().find(|line| singleton(line.words[2].1)) {
        Some(line) if lines.len() > 1 => {
            let kind = line.words[2].1;
            let message = format!("`{kind}` is not the only line of its table");
            Err(line.problem(Some(2), message).help(format!(
                "a table with a target of type {kind} has no other line"
            )))
        }
        _ => Ok(()),
    }
}
