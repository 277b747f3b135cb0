//! A device of a run: what its operators and hosts know of it, where its data is, and what may explain an error.

use std::sync::Arc;

use super::Cluster;
use super::operators::Model;
use super::oracle::{Content, Oracle, SECTOR};
use super::plan::{DEVICE_SECTORS, DevicePlan, Kind, Operation, PIECE_SECTORS, TablePlan};
use crate::dm::{Op, Status, Table};

/// An original that has not ended.
pub(super) struct Underway {
    pub command: u32,
    pub host: u64,
    pub op: Op,
    pub fua: bool,
    pub sector: u64,
    pub sectors: u64,
    /// The number of the write.
    pub number: u64,
    /// By sector, what had completed when it was sent: of its range for a read, of the device for a flush or a barrier.
    pub snapshot: Vec<u64>,
    /// A compare-and-write's expectation is known to be right.
    pub certain: bool,
    /// The value that the shared sector is to have.
    pub expects: Option<u64>,
    pub excuse: Excuse,
    /// When it was sent.
    pub submitted_ns: u64,
}

/// What may explain an error that no disk has given.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Excuse {
    /// There may have been no table, or no device.
    pub no_table: bool,
    /// A table that fails all I/O has been live.
    pub error_table: bool,
    /// The end of the shortest table that has been live.
    pub end: u64,
    /// The device has been on its way out.
    pub removed: bool,
    /// The host gave it up.
    pub aborted: bool,
    /// An operator has had everything failed that was parked.
    pub failed_parked: bool,
    /// It may be in several pieces, and a suspend may have been given up when one of them had been handed back (AT-12).
    pub given_up: bool,
}

/// A device in the run.
pub(super) struct Device {
    pub model: Model,
    pub oracle: Oracle,
    pub ordered: bool,
    pub tables: Vec<Arc<Table>>,
    /// By core: what is under way.
    pub underway: Vec<Underway>,
    /// The tables in the mapper's slots, followed through the orders that cores are given.
    pub staged: Option<usize>,
    pub inactive: Option<usize>,
    pub live: Option<usize>,
    /// The table before the last swap: some cores may still have it, until a resume was answered.
    pub before: Option<usize>,
    pub swapped_in: Option<u32>,
    /// No resume has been answered since the device was made.
    pub fresh: bool,
    /// Where the data is: `None` for a sector that no table of now covers, whose bytes are on the shelf.
    pub places: Vec<Option<(usize, u64)>>,
    pub shelf: Vec<[u8; SECTOR]>,
    /// By host: what it takes the shared sector to hold.
    pub believed: Vec<u64>,
    /// Values of the shared sector that a compare-and-write has replaced.
    pub replaced: Vec<u64>,
}

impl Device {
    pub fn excuse_now(&self, plan: &DevicePlan) -> Excuse {
        let mut excuse = Excuse {
            no_table: self.fresh || self.live.is_none(),
            error_table: false,
            end: DEVICE_SECTORS,
            removed: self.model.is_pending(|op| op == Operation::Remove),
            aborted: false,
            failed_parked: self.model.is_pending(|op| op == Operation::FailParked),
            given_up: plan.pieces && self.model.is_pending(Operation::suspends),
        };
        for table in self.live.iter().chain(&self.before) {
            excuse.meets(&plan.tables[*table]);
        }
        excuse
    }

    /// A compare-and-write of the shared sector has ended: no value of it may have been replaced twice.
    pub fn shared_ended(&mut self, io: &Underway, status: Status, bytes: &[u8]) {
        let expected = io.expects.expect("of the shared sector");
        match status {
            Status::Ok => {
                let again = self.replaced.contains(&expected);
                assert!(
                    !again,
                    "two compare-and-writes have replaced the same value {expected} (IO-21)"
                );
                self.replaced.push(expected);
                self.believed[io.host as usize] = io.number;
            }
            Status::Miscompare => {
                let found = Content::parse(0, &bytes[2 * SECTOR..]);
                let found = match found {
                    Some(Content::Zero) => 0,
                    Some(Content::Write(number)) => number,
                    other => panic!("the shared sector holds {other:?}"),
                };
                assert_ne!(found, expected, "what was compared is equal");
                self.believed[io.host as usize] = found;
            }
            _ => {}
        }
    }

    /// Panics if a power cut now would take away what `oracle` promises.
    pub fn check_durable(&self, cluster: &Cluster, oracle: &Oracle) {
        let shared = cluster.shared();
        for (at, place) in self.places.iter().enumerate().skip(1) {
            if let Some((disk, sector)) = place {
                oracle.check_durable(at as u64, &shared.disks[*disk].durable(*sector));
            }
        }
    }
}

impl Excuse {
    /// A table is, or may be, live while the original is under way.
    pub fn meets(&mut self, table: &TablePlan) {
        match table.kind {
            Kind::Error => self.error_table = true,
            _ => self.end = self.end.min(table.layout.places.len() as u64),
        }
    }
}

impl Underway {
    /// Whether an error that no disk has given is explained.
    pub fn excuses(&self, status: Status) -> bool {
        let Excuse {
            no_table,
            error_table,
            end,
            removed,
            aborted,
            failed_parked,
            given_up,
        } = self.excuse;
        let in_pieces = self.sectors > u64::from(PIECE_SECTORS);
        match status {
            Status::IoError => {
                no_table
                    || removed
                    || error_table
                    || failed_parked
                    || (given_up && in_pieces && matches!(self.op, Op::Read | Op::Write))
                    || (self.op != Op::Flush && self.sector + self.sectors > end)
            }
            Status::Aborted => removed || aborted,
            // Tables cut where they like.
            Status::NotSupported => error_table || self.op == Op::WriteAtomic,
            Status::Miscompare => self.op == Op::CompareAndWrite && !self.certain,
            _ => false,
        }
    }
}
