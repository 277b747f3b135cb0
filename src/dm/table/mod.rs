//! Tables: parsed, validated, with their limits computed, before anything is asked of a device (LC-7 … LC-15).

mod limits;
mod parse;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::io::Op;
use super::limits::Lower;
use super::target::{AnyTarget, Arguments, Builder, Refusal, Resolve, TYPES, refuse};
use crate::suggest::nearest;

pub use limits::Limits;
pub(super) use limits::supports;
pub use parse::{Line, Word, lines, quote};

/// Most targets of one table; one more is EOVERFLOW (1.2).
pub const TARGETS_MAX: usize = 1_048_576;

/// Largest device, in sectors: positions in bytes must fit a signed 64-bit number, as every file system below has it.
pub const SECTORS_MAX: u64 = i64::MAX as u64 / 512;

/// Why a table was refused. All is shown but the place in the line, because the reason names the words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableError {
    /// The line of the table's text, from 1; 0 when it is the table as a whole.
    pub line: usize,
    /// The target that refuses its words, if they got so far.
    pub target: Option<&'static str>,
    /// The words at fault, in bytes from the start of the line; empty, at its end, when one is missing there.
    pub bytes: Option<Range<usize>>,
    /// What is wrong.
    pub reason: String,
    /// What would be right, where the reason leaves that open.
    pub help: Option<String>,
}

impl TableError {
    /// `refusal` of the line `words`, as far as they were taken.
    fn of_line(line: usize, words: &Arguments<'_>, refusal: Refusal) -> TableError {
        TableError {
            line,
            target: words.target(),
            bytes: Some(words.bytes(refusal.words.unwrap_or_else(|| words.last()))),
            reason: refusal.reason,
            help: refusal.help,
        }
    }
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "table: ")?,
            line => write!(f, "table line {line}: ")?,
        }
        if let Some(target) = self.target {
            write!(f, "{target}: ")?;
        }
        f.write_str(&self.reason)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for TableError {}

/// One target in its place.
#[derive(Clone, Debug)]
pub struct Segment {
    /// First sector of the mapped device that it serves.
    pub start: u64,
    /// Sectors it serves.
    pub sectors: u64,
    /// The target.
    pub target: AnyTarget,
}

impl Segment {
    /// The sector after its last.
    #[inline(always)]
    pub fn end(&self) -> u64 {
        self.start + self.sectors
    }
}

/// A whole table: immutable, shared by every core; each core clones the targets when it binds it.
#[derive(Debug)]
pub struct Table {
    /// The targets in ascending order, without gaps (LC-7).
    pub segments: Vec<Segment>,
    /// The distinct lower devices, as declared when the table was loaded.
    pub lowers: Vec<Lower>,
    /// What the whole can do.
    pub limits: Arc<Limits>,
    /// Every target lets one flush per distinct lower device stand for its own (FL-20).
    pub flush_bypasses_map: bool,
}

impl Table {
    /// Builds a table from its text. `resolve` finds a lower device by name.
    ///
    /// # Errors
    /// The line, its words, and the reason (LC-7, LC-8, LC-10, LC-14). Nothing is opened, so nothing has to be undone.
    pub fn parse(text: &str, resolve: &dyn Resolve) -> Result<Table, TableError> {
        let lines = parse::lines(text)?;
        let whole = match lines.len() {
            0 => "no target: a table has at least one line, 'start length type …'",
            1..=TARGETS_MAX => "",
            _ => "more than 1048576 targets",
        };
        if !whole.is_empty() {
            return Err(TableError {
                reason: whole.into(),
                ..TableError::default()
            });
        }
        let mut segments = Vec::with_capacity(lines.len());
        let mut words = Vec::with_capacity(lines.len());
        let mut lowers = Vec::new();
        let mut end = 0;
        for line in &lines {
            let mut arguments = Arguments::new(&line.words);
            let segment = segment(&mut arguments, end, resolve, &mut lowers)
                .map_err(|refusal| TableError::of_line(line.number, &arguments, refusal))?;
            end = segment.end();
            segments.push(segment);
            words.push(arguments);
        }
        let limits = Limits::of(&segments, &lowers);
        for ((line, words), segment) in lines.iter().zip(&words).zip(&segments) {
            check_alone(segment, segments.len())
                .and_then(|()| limits.check_alignment(segment, words, &lowers))
                .map_err(|refusal| TableError {
                    target: None,
                    ..TableError::of_line(line.number, words, refusal)
                })?;
        }
        let flush_bypasses_map = segments.iter().all(|s| s.target.class().flush_bypasses_map);
        Ok(Table {
            segments,
            lowers,
            limits: Arc::new(limits),
            flush_bypasses_map,
        })
    }

    /// The same table, refusing writes (1.4, step 4).
    pub fn read_only(self) -> Table {
        let limits = Limits {
            read_only: true,
            ..(*self.limits).clone()
        };
        Table {
            limits: Arc::new(limits),
            ..self
        }
    }

    /// The index of the segment that holds `sector`, which must lie inside the table (IO-5).
    pub fn find(segments: &[Segment], sector: u64) -> usize {
        segments.partition_point(|segment| segment.end() <= sector)
    }

    /// How many clones one flush of the whole table takes: one per distinct lower device, or the sum over the targets.
    pub fn flush_clones(&self) -> u32 {
        if self.flush_bypasses_map {
            return self.lowers.len() as u32;
        }
        self.segments
            .iter()
            .map(|segment| segment.target.flushes())
            .sum()
    }

    /// Whether the table holds a target that may stand in for any other (LC-12).
    pub fn has_wildcard(&self) -> bool {
        self.segments
            .iter()
            .any(|segment| segment.target.class().wildcard)
    }

    /// Whether every target can do `op`, a discard or write-zeroes (TG-1).
    pub fn supports(&self, op: Op) -> bool {
        self.segments
            .iter()
            .all(|segment| limits::supports(segment, &self.lowers, op))
    }
}

fn segment(
    arguments: &mut Arguments<'_>,
    end: u64,
    resolve: &dyn Resolve,
    lowers: &mut Vec<Lower>,
) -> Result<Segment, Refusal> {
    let start = arguments.sectors("the start sector", u64::MAX)?;
    if start != end {
        let what = if start > end { "a gap" } else { "an overlap" };
        return refuse(format!(
            "{what} in the table: the target starts at sector {start}, but must start at {end}"
        ));
    }
    let sectors = arguments.sectors("the length in sectors", u64::MAX)?;
    if sectors == 0 {
        return refuse("the target has a length of 0 sectors");
    }
    if sectors > SECTORS_MAX - start {
        return refuse(format!(
            "the target ends past the largest device of {SECTORS_MAX} sectors"
        ));
    }
    let name = arguments.word("the target type")?;
    let mut builder = Builder::new(sectors, resolve, lowers);
    match AnyTarget::build(name, arguments, &mut builder) {
        Some(target) => Ok(Segment {
            start,
            sectors,
            target: target?,
        }),
        None => {
            let types = || TYPES.iter().map(|(name, ..)| *name);
            let known = types().collect::<Vec<_>>().join(", ");
            Err(Refusal::new(format!("unknown target type '{name}'")).help(
                match nearest(name, types()) {
                    Some(near) => format!("did you mean '{near}'? There are {known}"),
                    None => format!("there are {known}"),
                },
            ))
        }
    }
}

/// A target that must be the only one of its table is (LC-8).
fn check_alone(segment: &Segment, count: usize) -> Result<(), Refusal> {
    if count == 1 || !segment.target.class().singleton {
        return Ok(());
    }
    let reason = format!(
        "a '{}' target must be the only one of its table, and there are {count}",
        segment.target.name()
    );
    Err(Refusal::new(reason).at(Arguments::TYPE))
}

#[cfg(test)]
pub(super) mod tests;
