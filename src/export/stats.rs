//! Counters and latency histograms of a namespace or unit, one set per core, merged when somebody asks.

use crate::dm::Status;
use crate::dm::stats::Counters;

/// What kind of command is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read, and Compare and Verify, which read.
    Read,
    /// Write, and Compare-and-Write.
    Write,
    /// Flush.
    Flush,
    /// Dataset Management deallocate.
    Discard,
    /// Write Zeroes.
    WriteZeroes,
}

impl Kind {
    /// All kinds, with the names that operators see.
    pub const ALL: [(Kind, &'static str); 5] = [
        (Kind::Read, "read"),
        (Kind::Write, "write"),
        (Kind::Flush, "flush"),
        (Kind::Discard, "discard"),
        (Kind::WriteZeroes, "write_zeroes"),
    ];
}

/// Counters of one namespace or unit on one core: commands from their arrival to their response.
#[derive(Clone, Debug, Default)]
pub struct CommandStats {
    kinds: [Counters; Kind::ALL.len()],
}

impl CommandStats {
    /// The counters of one kind.
    pub fn kind(&self, kind: Kind) -> &Counters {
        &self.kinds[kind as usize]
    }

    /// Counts a command that has been answered.
    #[inline]
    pub fn record(&mut self, kind: Kind, ok: bool, sectors: u32, latency_ns: u64) {
        let status = if ok { Status::Ok } else { Status::IoError };
        self.kinds[kind as usize].done(sectors, status, latency_ns);
    }

    /// How many commands of all kinds.
    pub fn commands(&self) -> u64 {
        self.kinds.iter().map(|counters| counters.ios).sum()
    }

    /// Adds another core's.
    pub fn merge(&mut self, other: &CommandStats) {
        self.kinds
            .iter_mut()
            .zip(&other.kinds)
            .for_each(|(sum, more)| sum.add(more));
    }
}
