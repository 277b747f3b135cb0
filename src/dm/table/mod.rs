//! Tables: parsed, validated, with their limits computed, before anything is asked of a device (LC-7 … LC-15).

mod limits;
mod parse;

use std::fmt;
use std::sync::Arc;

use super::io::Op;
use super::limits::Lower;
use super::target::{AnyTarget, Arguments, Builder, TYPES};

pub use limits::Limits;
pub(super) use limits::supports;
pub use parse::{Line, lines, quote};

/// Most targets of one table; one more is EOVERFLOW (1.2).
pub const TARGETS_MAX: usize = 1_048_576;

/// Largest device, in sectors: positions in bytes must fit a signed 64-bit number, as every file system below has it.
pub const SECTORS_MAX: u64 = i64::MAX as u64 / 512;

/// Why a table was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableError {
    /// The line of the table's text, from 1; 0 when it is the table as a whole.
    pub line: usize,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "table: {}", self.reason),
            line => write!(f, "table line {line}: {}", self.reason),
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
    /// The line and the reason (LC-7, LC-8, LC-10, LC-14). Nothing is opened, so nothing has to be undone.
    pub fn parse(text: &str, resolve: &dyn Fn(&str) -> Option<Lower>) -> Result<Table, TableError> {
        let whole = |reason: &str| TableError {
            line: 0,
            reason: reason.into(),
        };
        let lines = parse::lines(text)?;
        if lines.is_empty() {
            return Err(whole(
                "no target: a table has at least one line, 'start length type …'",
            ));
        }
        if lines.len() > TARGETS_MAX {
            return Err(whole("more than 1048576 targets"));
        }
        let mut segments = Vec::with_capacity(lines.len());
        let mut lowers = Vec::new();
        let mut end = 0;
        for line in &lines {
            let segment =
                segment(line, end, resolve, &mut lowers).map_err(|reason| TableError {
                    line: line.number,
                    reason,
                })?;
            end = segment.end();
            segments.push(segment);
        }
        let singleton = segments.iter().position(|s| s.target.class().singleton);
        if let (Some(index), 2..) = (singleton, segments.len()) {
            return Err(TableError {
                line: lines[index].number,
                reason: format!(
                    "a '{}' target must be the only one of its table, and there are {}",
                    segments[index].target.name(),
                    segments.len()
                ),
            });
        }
        let limits = Limits::of(&segments, &lowers);
        for (line, segment) in lines.iter().zip(&segments) {
            limits
                .check_alignment(segment)
                .map_err(|reason| TableError {
                    line: line.number,
                    reason,
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
    line: &Line,
    end: u64,
    resolve: &dyn Fn(&str) -> Option<Lower>,
    lowers: &mut Vec<Lower>,
) -> Result<Segment, String> {
    if line.start != end {
        let what = if line.start > end {
            "a gap"
        } else {
            "an overlap"
        };
        return Err(format!(
            "{what} in the table: the target starts at sector {}, but must start at {end}, where the one before ends",
            line.start
        ));
    }
    if line.sectors == 0 {
        return Err("the target has a length of 0 sectors".into());
    }
    if line
        .start
        .checked_add(line.sectors)
        .is_none_or(|end| end > SECTORS_MAX)
    {
        return Err(format!(
            "the target ends past the largest device of {SECTORS_MAX} sectors"
        ));
    }
    let mut arguments = Arguments::new(&line.words);
    let mut builder = Builder::new(line.sectors, resolve, lowers);
    match AnyTarget::build(&line.target, &mut arguments, &mut builder) {
        None => {
            let names: Vec<_> = TYPES.iter().map(|(name, ..)| *name).collect();
            Err(format!(
                "unknown target type '{}'; there are {}",
                line.target,
                names.join(", ")
            ))
        }
        Some(Err(reason)) => Err(format!("{}: {reason}", line.target)),
        Some(Ok(target)) => Ok(Segment {
            start: line.start,
            sectors: line.sectors,
            target,
        }),
    }
}

#[cfg(test)]
mod tests;
