//! A lower device in memory: what a read finds, what would survive a power cut, and how it answers what it is given.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Bytes, Random};
use crate::dm::{CloneId, CoreId, Lower, LowerIo, Op, Status};

/// What discarded sectors read as: not zero, so that a discard shows where it went.
pub const DISCARDED: u8 = 0xdd;

/// How a submission is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// Done at once.
    Inline,
    /// Pending, until the scheduler or the test completes it.
    Later,
    /// Busy.
    Busy,
    /// Fails at once.
    Fail(Status),
    /// Pending, then fails.
    FailLater(Status),
    /// One of the first three, by percentages of inline and busy.
    Mixed {
        /// Percentage done at once.
        inline: u64,
        /// Percentage refused for lack of room.
        busy: u64,
    },
}

/// A clone that a disk has taken and not completed.
#[derive(Debug)]
pub struct Held {
    /// Who waits for it.
    pub core: CoreId,
    /// Its name there.
    pub clone: CloneId,
    /// What it is to do.
    pub io: LowerIo<Bytes>,
    fails: Option<Status>,
    /// With a flush: what it will make durable, as of when it was submitted.
    covers: BTreeMap<u64, Version>,
}

/// A sector's content and when it was written.
#[derive(Clone, Debug)]
struct Version {
    number: u64,
    bytes: [u8; 512],
}

/// A lower device.
///
/// The cache is the worst one that FLUSH and FUA allow: nothing written is durable until a flush *submitted after the write
/// completed* has completed, or unless the write carried FUA, and then only what it wrote.
pub struct Disk {
    /// What it declares.
    pub lower: Lower,
    sectors: Vec<Version>,
    durable: Vec<Version>,
    dirty: BTreeSet<u64>,
    writes: u64,
    /// How submissions are answered.
    pub answers: Answers,
    /// Answers for the next submissions, before `answers` counts.
    pub script: VecDeque<Answers>,
    /// Sectors that fail whatever touches them with [`Status::Medium`].
    pub bad: BTreeSet<u64>,
    /// What it has taken and not completed, oldest first.
    pub held: Vec<Held>,
    /// The scheduler leaves what is held alone.
    pub frozen: bool,
    /// Flushes submitted (and not refused as busy).
    pub flushes: u64,
    /// Channels open on it, of all cores.
    pub channels: u32,
    /// Cores that cannot open it.
    pub closed_to: BTreeSet<u16>,
}

/// What became of a submission, in the disk's words.
pub enum Taken {
    /// Finished at once.
    Done(Status),
    /// Under way.
    Held,
    /// No room.
    Busy,
}

impl Disk {
    /// An empty disk: all zero, durable.
    pub fn new(lower: Lower) -> Disk {
        let zero = Version {
            number: 0,
            bytes: [0; 512],
        };
        Disk {
            sectors: vec![zero.clone(); lower.sectors as usize],
            durable: vec![zero; lower.sectors as usize],
            dirty: BTreeSet::new(),
            writes: 0,
            lower,
            answers: Answers::Inline,
            script: VecDeque::new(),
            bad: BTreeSet::new(),
            held: Vec::new(),
            frozen: false,
            flushes: 0,
            channels: 0,
            closed_to: BTreeSet::new(),
        }
    }

    /// What a read of a sector finds.
    pub fn sector(&self, sector: u64) -> &[u8; 512] {
        &self.sectors[sector as usize].bytes
    }

    /// What a read of a sector would find after a power cut now.
    pub fn durable(&self, sector: u64) -> &[u8; 512] {
        &self.durable[sector as usize].bytes
    }

    /// Loses what is not durable.
    pub fn power_cut(&mut self) {
        self.sectors = self.durable.clone();
        self.dirty.clear();
    }

    /// Takes a clone, after a look at whether the mapper kept to what the device declared.
    pub fn submit(
        &mut self,
        core: CoreId,
        clone: CloneId,
        io: LowerIo<Bytes>,
        random: &mut Random,
    ) -> Taken {
        self.demand_legal(&io);
        let mut answer = self.script.pop_front().unwrap_or(self.answers);
        if let Answers::Mixed { inline, busy } = answer {
            answer = match random.below(100) {
                n if n < inline => Answers::Inline,
                n if n < inline + busy => Answers::Busy,
                _ => Answers::Later,
            };
        }
        if answer == Answers::Busy {
            return Taken::Busy;
        }
        let mut covers = BTreeMap::new();
        if io.op == Op::Flush {
            self.flushes += 1;
            covers = self
                .dirty
                .iter()
                .map(|at| (*at, self.sectors[*at as usize].clone()))
                .collect();
        }
        let fails = match answer {
            Answers::Fail(status) => return Taken::Done(status),
            Answers::FailLater(status) => Some(status),
            _ => None,
        };
        let held = Held {
            core,
            clone,
            io,
            fails,
            covers,
        };
        if answer == Answers::Inline {
            return Taken::Done(self.execute(&held));
        }
        self.held.push(held);
        Taken::Held
    }

    /// Everything that is held will fail so.
    pub fn fail_held(&mut self, status: Status) {
        for held in &mut self.held {
            held.fails = Some(status);
        }
    }

    /// Completes one of the clones that are held: who waits for it, and how it ended.
    pub fn finish(&mut self, index: usize) -> (CoreId, CloneId, LowerIo<Bytes>, Status) {
        let held = self.held.remove(index);
        let status = match held.fails {
            Some(status) => status,
            None => self.execute(&held),
        };
        (held.core, held.clone, held.io, status)
    }

    fn demand_legal(&self, io: &LowerIo<Bytes>) {
        let lower = &self.lower;
        if io.op == Op::Flush {
            assert!(
                lower.flush && lower.volatile_cache,
                "a flush to '{}', which has none (FL-29)",
                lower.name
            );
            return;
        }
        let block = u64::from(lower.block_bytes / 512);
        assert!(io.sectors > 0, "an empty clone (IO-8): {io:?}");
        assert!(
            io.sector + u64::from(io.sectors) <= lower.sectors,
            "beyond the end of '{}': {io:?}",
            lower.name
        );
        assert!(
            io.sector.is_multiple_of(block) && u64::from(io.sectors).is_multiple_of(block),
            "not whole blocks of '{}' (LC-14): {io:?}",
            lower.name
        );
        assert!(!io.fua || lower.fua, "FUA to '{}': {io:?}", lower.name);
        match io.op {
            Op::Read | Op::Write => {
                let most = lower.transfer_sectors_max;
                assert!(
                    most == 0 || io.sectors <= most,
                    "more than {most} sectors: {io:?}"
                );
                assert_eq!(io.payload.len(), io.sectors as usize * 512);
            }
            Op::Discard => assert!(lower.discard, "a discard to '{}' (TG-1)", lower.name),
            Op::WriteZeroes => assert!(
                lower.write_zeroes,
                "write-zeroes to '{}' (TG-1)",
                lower.name
            ),
            Op::Flush | Op::CompareAndWrite => unreachable!("{:?} reached a lower device", io.op),
        }
    }

    fn execute(&mut self, held: &Held) -> Status {
        let LowerIo {
            op,
            fua,
            sector,
            sectors,
            payload,
        } = held.io;
        let range = sector..sector + u64::from(sectors);
        if self.bad.range(range.clone()).next().is_some() {
            return Status::Medium;
        }
        match op {
            Op::Read => payload.with(|bytes| {
                for (chunk, at) in bytes.chunks_mut(512).zip(range) {
                    chunk.copy_from_slice(&self.sectors[at as usize].bytes);
                }
            }),
            Op::Write => {
                for (chunk, at) in payload.get().chunks(512).zip(range) {
                    self.write(at, chunk.try_into().expect("512 bytes"), fua);
                }
            }
            Op::WriteZeroes => range.for_each(|at| self.write(at, [0; 512], fua)),
            Op::Discard => range.for_each(|at| self.write(at, [DISCARDED; 512], fua)),
            Op::Flush => {
                for (at, version) in &held.covers {
                    if version.number > self.durable[*at as usize].number {
                        self.durable[*at as usize] = version.clone();
                    }
                    if version.number == self.sectors[*at as usize].number {
                        self.dirty.remove(at);
                    }
                }
            }
            Op::CompareAndWrite => unreachable!("refused at submission"),
        }
        Status::Ok
    }

    fn write(&mut self, at: u64, bytes: [u8; 512], fua: bool) {
        self.writes += 1;
        let version = Version {
            number: self.writes,
            bytes,
        };
        if fua || !self.lower.volatile_cache {
            self.durable[at as usize] = version.clone();
            self.dirty.remove(&at);
        } else {
            self.dirty.insert(at);
        }
        self.sectors[at as usize] = version;
    }
}
