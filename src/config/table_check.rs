//! Checks a table's lines while nothing is open: order, target names, bdevs, and areas as far as sizes are known.
//!
//! The device mapper's own parser has the last word when the node binds the table; this module is the only place that
//! knows the lines' form in `config`, so that it can be replaced by that parser in one place.

mod built;

use std::collections::HashMap;

use super::plan::BdevPlan;
use super::source::{Problem, Word, shown};
use super::suggest::nearest;
use super::{SECTOR_BYTES, scalar::size_shown};

/// The targets of this build.
const TARGETS: [&str; 7] = [
    "delay",
    "error",
    "flakey",
    "linear",
    "multipath",
    "striped",
    "zero",
];

/// Largest size of a device in sectors (LC-7): its bytes fit a signed 64-bit offset.
const DEVICE_SECTORS_MAX: u64 = i64::MAX as u64 / SECTOR_BYTES;

/// What the lines of a table say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TableSummary {
    /// Where the last line ends.
    pub sectors: u64,
    /// The largest logical block size of the bdevs, in bytes; 512 without any.
    pub block_size: u32,
}

/// A line that cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableProblem {
    /// Line of the table, from 0.
    pub line_index: usize,
    /// The word at fault; `None`: the line.
    pub word: Option<Word>,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
}

impl TableProblem {
    /// The problem at the place in the file that the caller found for it.
    pub fn at(self, span: super::source::Span) -> Problem {
        let problem = Problem::at(span, self.message);
        match self.help {
            Some(help) => problem.help(help),
            None => problem,
        }
    }
}

/// Names a table line may use, and what is known of them.
pub(super) struct Names<'a> {
    /// Backing devices by name.
    pub bdevs: &'a HashMap<&'a str, &'a BdevPlan>,
    /// Names of mapped devices: known, but no target of this build can sit on one.
    pub devices: &'a [&'a str],
    /// Whether the mapped device itself can only be read.
    pub read_only: bool,
}

/// One line, split at white space.
struct Line<'a> {
    index: usize,
    words: Vec<(Word, &'a str)>,
}

impl<'a> Line<'a> {
    fn new(index: usize, text: &'a str) -> Self {
        let words = text
            .split_whitespace()
            .map(|word| {
                let start = word.as_ptr() as usize - text.as_ptr() as usize;
                let end = start + word.len();
                (Word { start, end }, word)
            })
            .collect();
        Self { index, words }
    }

    fn problem(&self, word_index: Option<usize>, message: impl Into<String>) -> TableProblem {
        TableProblem {
            line_index: self.index,
            word: word_index.and_then(|index| Some(self.words.get(index)?.0)),
            message: message.into(),
            help: None,
        }
    }

    /// TG-2: decimal, nothing after the digits, in range.
    fn number(&self, word_index: usize, what: &str) -> Result<u64, TableProblem> {
        let text = self.words[word_index].1;
        let all_digits = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if all_digits => Ok(number),
            _ => {
                let message = format!("`{}` is not a {what}", shown(text));
                Err(self
                    .problem(Some(word_index), message)
                    .help("a number of 512-byte sectors, in decimal digits"))
            }
        }
    }
}

impl TableProblem {
    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Checks every line of a table.
pub(super) fn check(text: &str, names: &Names<'_>) -> Result<TableSummary, TableProblem> {
    let mut summary = TableSummary {
        sectors: 0,
        block_size: 512,
    };
    let mut lines = Vec::new();
    for (index, text) in text.split('\n').enumerate() {
        let line = Line::new(index, text);
        if line.words.is_empty() || line.words[0].1.starts_with('#') {
            continue;
        }
        check_line(&line, names, &mut summary)?;
        lines.push(line);
    }
    if lines.is_empty() {
        return Err(TableProblem {
            line_index: 0,
            word: None,
            message: "the table has no line".to_owned(),
            help: Some(
                "a table has at least one line `start length target arguments…`, such as `0 2048 linear ram0 0`".to_owned(),
            ),
        });
    }
    built::check_alone(&lines)?;
    // Only now the block size of the whole is known.
    for line in &lines {
        check_alignment(line, summary.block_size)?;
    }
    Ok(summary)
}

/// LC-14: an I/O of whole blocks of the device must never be cut into pieces that are not, so every number of sectors in the
/// table is whole blocks.
fn check_alignment(line: &Line<'_>, block_size: u32) -> Result<(), TableProblem> {
    let block = block_sectors(block_size);
    let words = line.words.len();
    let offsets = match line.words[2].1 {
        "striped" => {
            aligned(line, 4, "chunk", block)?;
            (6..words).step_by(2)
        }
        "delay" => (4..words).step_by(3),
        "flakey" => (4..5).step_by(1),
        "multipath" => (words..words).step_by(1),
        _ => (4..words).step_by(2),
    };
    aligned(line, 0, "start", block)?;
    aligned(line, 1, "length", block)?;
    for word_index in offsets {
        aligned(line, word_index, "offset", block)?;
    }
    Ok(())
}

fn aligned(line: &Line<'_>, word_index: usize, what: &str, block: u64) -> Result<(), TableProblem> {
    let number = line.number(word_index, what)?;
    if number.is_multiple_of(block) {
        return Ok(());
    }
    let message = format!(
        "the {what} {number} is inside a block of {} bytes",
        block * SECTOR_BYTES
    );
    Err(line.problem(Some(word_index), message).help(format!(
        "a bdev of this table has blocks of {} bytes, so every number of sectors in it must be a multiple of {block}",
        block * SECTOR_BYTES
    )))
}

fn block_sectors(block_size: u32) -> u64 {
    u64::from(block_size) / SECTOR_BYTES
}

fn check_line(
    line: &Line<'_>,
    names: &Names<'_>,
    summary: &mut TableSummary,
) -> Result<(), TableProblem> {
    if line.words.len() < 3 {
        return Err(line.problem(None, "this table line is incomplete").help(
            "a table line is `start length target arguments…`, such as `0 2048 linear ram0 0`",
        ));
    }
    let start = line.number(0, "start sector")?;
    let length = line.number(1, "length in sectors")?;
    let expected = summary.sectors;
    if start != expected {
        let message = match start {
            _ if expected == 0 => format!("the table starts at sector {start}, not at 0"),
            _ if start > expected => {
                format!(
                    "gap in the table: sectors {expected} to {} are in no line",
                    start - 1
                )
            }
            _ => format!("overlap in the table: the line before ends at sector {expected}"),
        };
        return Err(line
            .problem(Some(0), message)
            .help(format!("this line must start at {expected}")));
    }
    if length == 0 {
        return Err(line
            .problem(Some(1), "the length of a table line cannot be 0")
            .help("leave the line out, or give the number of 512-byte sectors"));
    }
    let end = start
        .checked_add(length)
        .filter(|end| *end <= DEVICE_SECTORS_MAX)
        .ok_or_else(|| {
            line.problem(Some(1), "this line ends past the largest size of a device")
                .help(format!("a device has at most {DEVICE_SECTORS_MAX} sectors"))
        })?;
    match line.words[2].1 {
        "linear" => linear(line, length, names, summary)?,
        "striped" => striped(line, length, names, summary)?,
        "zero" => arguments(line, &[0], "zero takes no arguments")?,
        "delay" | "flakey" | "multipath" => built::build(line, length, names, summary)?,
        "error" => {
            arguments(line, &[0, 2], "error takes no arguments, or `bdev offset`")?;
            if line.words.len() > 3 {
                linear(line, length, names, summary)?;
            }
        }
        other => {
            let problem = line.problem(Some(2), format!("unknown target `{}`", shown(other)));
            let known = TARGETS.join(", ");
            return Err(problem.help(match nearest(other, TARGETS) {
                Some(name) => {
                    format!("did you mean `{name}`? The targets of this build are {known}")
                }
                None => format!("the targets of this build are {known}"),
            }));
        }
    }
    summary.sectors = end;
    Ok(())
}

fn arguments(line: &Line<'_>, counts: &[usize], form: &str) -> Result<(), TableProblem> {
    let count = line.words.len() - 3;
    if counts.contains(&count) {
        return Ok(());
    }
    // The first argument too many is shown; what is missing has no place but the line.
    let extra = counts
        .iter()
        .max()
        .filter(|most| count > **most)
        .map(|most| 3 + most);
    let message = format!(
        "wrong number of arguments for target `{}`: {count}",
        line.words[2].1
    );
    Err(line.problem(extra, message).help(form))
}

/// `linear <bdev> <offset>`, and the optional arguments of `error`, which are the same.
fn linear(
    line: &Line<'_>,
    length: u64,
    names: &Names<'_>,
    summary: &mut TableSummary,
) -> Result<(), TableProblem> {
    arguments(line, &[2], "the form is `start length linear bdev offset`")?;
    area(line, 3, length, names, summary)
}

/// `striped <n> <chunk> (<bdev> <offset>)×n`.
fn striped(
    line: &Line<'_>,
    length: u64,
    names: &Names<'_>,
    summary: &mut TableSummary,
) -> Result<(), TableProblem> {
    const FORM: &str = "the form is `start length striped stripes chunk bdev offset …`, with one `bdev offset` for each stripe";
    if line.words.len() < 5 {
        return Err(line
            .problem(None, "this striped line is incomplete")
            .help(FORM));
    }
    let stripes = line.number(3, "number of stripes")?;
    if stripes == 0 {
        return Err(line
            .problem(Some(3), "a striped target needs at least one stripe")
            .help(FORM));
    }
    let chunk = line.number(4, "chunk size in sectors")?;
    if chunk == 0 {
        return Err(line.problem(Some(4), "the chunk size cannot be 0").help(
            "the number of 512-byte sectors that go to one stripe before the next: 128 is 64KiB",
        ));
    }
    let pairs = line.words.len() - 5;
    if stripes.checked_mul(2) != Some(pairs as u64) {
        let message = format!(
            "{stripes} stripes need {stripes} times `bdev offset`, but {pairs} arguments follow"
        );
        return Err(line.problem(Some(3), message).help(FORM));
    }
    let nearest_length = |unit: u64| length - length % unit;
    let row = stripes.checked_mul(chunk);
    let Some(row) = row.filter(|row| length.is_multiple_of(*row)) else {
        let message = format!(
            "the length {length} does not divide into {stripes} stripes of whole chunks of {chunk} sectors"
        );
        let problem = line.problem(Some(1), message);
        return Err(match row.map(nearest_length).filter(|length| *length > 0) {
            Some(length) => problem.help(format!("the length below that does is {length}")),
            None => problem.help("the length must be a multiple of stripes × chunk"),
        });
    };
    debug_assert!(row > 0);
    for stripe in 0..pairs / 2 {
        area(line, 5 + 2 * stripe, length / stripes, names, summary)?;
    }
    Ok(())
}

/// An area `bdev offset` of `sectors` sectors: the bdev exists and may be written, the area lies inside it (LC-14).
fn area(
    line: &Line<'_>,
    word_index: usize,
    sectors: u64,
    names: &Names<'_>,
    summary: &mut TableSummary,
) -> Result<(), TableProblem> {
    let name = line.words[word_index].1;
    let Some(bdev) = names.bdevs.get(name) else {
        return Err(unknown_bdev(line, word_index, name, names));
    };
    let offset = line.number(word_index + 1, "start sector on the bdev")?;
    if bdev.read_only() && !names.read_only {
        let message = format!("bdev `{}` is read-only, the device is not", shown(name));
        return Err(line
            .problem(Some(word_index), message)
            .help("set `read_only: true` on the device as well, or take it from the bdev"));
    }
    if let Some(bdev_sectors) = bdev.sectors() {
        let fits = offset
            .checked_add(sectors)
            .is_some_and(|end| end <= bdev_sectors);
        if !fits {
            let message = format!(
                "the area of {sectors} sectors at {offset} reaches past the end of `{}`",
                shown(name)
            );
            let room = bdev_sectors.saturating_sub(offset);
            let room = room - room % block_sectors(bdev.block_size);
            let size = size_shown(bdev_sectors * SECTOR_BYTES);
            let word_at_fault = if room == 0 {
                word_index + 1
            } else {
                word_index
            };
            return Err(line.problem(Some(word_at_fault), message).help(format!(
                "`{}` has {bdev_sectors} sectors ({size}); from {offset} on there is room for {room}",
                shown(name)
            )));
        }
    }
    summary.block_size = summary.block_size.max(bdev.block_size);
    Ok(())
}

fn unknown_bdev(line: &Line<'_>, word_index: usize, name: &str, names: &Names<'_>) -> TableProblem {
    let problem = line.problem(
        Some(word_index),
        format!("there is no bdev `{}`", shown(name)),
    );
    if names.devices.contains(&name) {
        return problem.help(format!(
            "`{}` is a mapped device; in this build a table line names a bdev",
            shown(name)
        ));
    }
    let known = || names.bdevs.keys().copied();
    match nearest(name, known()) {
        Some(near) => problem.help(format!("did you mean `{near}`?")),
        None if names.bdevs.is_empty() => problem.help("`bdevs` defines none"),
        None => {
            let mut known: Vec<&str> = known().collect();
            known.sort_unstable();
            problem.help(format!("`bdevs` defines {}", super::some_of(&known)))
        }
    }
}
