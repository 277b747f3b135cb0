//! A lower device in memory: what a read finds, what would survive a power cut, and how it answers what it is given.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::rc::Rc;

use super::plan::DISK_ERRORS;
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
    /// If it fails: how many sectors it does before that.
    does: u32,
    /// With a flush: what it will make durable, as of when it was submitted.
    covers: Vec<(u64, Version)>,
}

/// A sector's content and when it was written.
#[derive(Clone, Debug)]
struct Version {
    number: u64,
    bytes: [u8; 512],
}

/// What is stored, and how safely.
struct Medium {
    sectors: Vec<Version>,
    durable: Vec<Version>,
    dirty: BTreeSet<u64>,
    writes: u64,
}

/// A lower device.
///
/// The cache is the worst one that FLUSH and FUA allow: nothing written is durable until a flush *submitted after the write
/// completed* has completed, or unless the write carried FUA, and then only what it wrote.
pub struct Disk {
    /// What it declares.
    pub lower: Lower,
    /// Shared by the disks that are paths to one and the same.
    medium: Rc<RefCell<Medium>>,
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
    /// It was taken out: whatever is asked of it fails, and nobody can open it.
    pub gone: bool,
    /// How many of a thousand submissions fail, beside flushes.
    pub failing: u64,
    /// How many of a thousand flushes fail.
    pub flushes_failing: u64,
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
        let medium = Medium {
            sectors: vec![zero.clone(); lower.sectors as usize],
            durable: vec![zero; lower.sectors as usize],
            dirty: BTreeSet::new(),
            writes: 0,
        };
        Disk {
            medium: Rc::new(RefCell::new(medium)),
            lower,
            answers: Answers::Inline,
            script: VecDeque::new(),
            bad: BTreeSet::new(),
            held: Vec::new(),
            frozen: false,
            flushes: 0,
            channels: 0,
            closed_to: BTreeSet::new(),
            gone: false,
            failing: 0,
            flushes_failing: 0,
        }
    }

    /// Makes this disk another path to what `other` stores.
    pub fn share(&mut self, other: &Disk) {
        self.medium = other.medium.clone();
    }

    /// What a read of a sector finds.
    pub fn sector(&self, sector: u64) -> [u8; 512] {
        self.medium.borrow().sectors[sector as usize].bytes
    }

    /// What a read of a sector would find after a power cut now.
    pub fn durable(&self, sector: u64) -> [u8; 512] {
        self.medium.borrow().durable[sector as usize].bytes
    }

    /// Loses what is not durable.
    pub fn power_cut(&mut self) {
        let medium = &mut *self.medium.borrow_mut();
        medium.sectors.clone_from(&medium.durable);
        medium.dirty.clear();
        self.held.clear();
    }

    /// Loses what is not durable, as a real cache does: writes under way are torn between sectors, and some of what
    /// nobody flushed happens to survive.
    pub fn power_cut_torn(&mut self, random: &mut Random) {
        for held in std::mem::take(&mut self.held) {
            if held.io.op == Op::Flush {
                continue;
            }
            let sectors = held.io.sectors;
            let from = random.below(u64::from(sectors)) as u32;
            let to = from + random.below(u64::from(sectors - from) + 1) as u32;
            self.execute(&held, from..to);
        }
        {
            let medium = &mut *self.medium.borrow_mut();
            for at in std::mem::take(&mut medium.dirty) {
                if random.percent(50) {
                    medium.durable[at as usize] = medium.sectors[at as usize].clone();
                }
            }
        }
        self.power_cut();
    }

    /// Takes the disk out, or puts it back. What is under way on a disk that is taken out fails, done in part or not at all.
    pub fn plug(&mut self, present: bool, random: &mut Random) {
        self.gone = !present;
        if self.gone {
            for held in &mut self.held {
                held.fails = Some(Status::Transport);
                held.does = random.below(u64::from(held.io.sectors) + 1) as u32;
            }
        }
    }

    /// Puts content in place, durably, past all commands: an operator's copy.
    pub fn put(&mut self, at: u64, bytes: &[u8; 512]) {
        self.medium.borrow_mut().write(at, *bytes, true);
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
        if self.gone {
            return Taken::Done(Status::Transport);
        }
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
        let mut covers = Vec::new();
        let mut failing = self.failing;
        if io.op == Op::Flush {
            self.flushes += 1;
            failing = self.flushes_failing;
            let medium = self.medium.borrow();
            let dirty = medium.dirty.iter();
            covers.extend(dirty.map(|at| (*at, medium.sectors[*at as usize].clone())));
        }
        let mut fails = match answer {
            Answers::Fail(status) => return Taken::Done(status),
            Answers::FailLater(status) => Some(status),
            _ => None,
        };
        let mut does = 0;
        if failing > 0 && random.below(1000) < failing {
            fails = Some(*random.pick(&DISK_ERRORS));
            does = random.below(u64::from(io.sectors) + 1) as u32;
        }
        let held = Held {
            core,
            clone,
            io,
            fails,
            does,
            covers,
        };
        if answer == Answers::Inline {
            return Taken::Done(self.end(&held));
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
        let status = self.end(&held);
        (held.core, held.clone, held.io, status)
    }

    fn end(&mut self, held: &Held) -> Status {
        match held.fails {
            Some(status) => {
                if held.io.op != Op::Flush && held.does > 0 {
                    self.execute(held, 0..held.does);
                }
                status
            }
            None => self.execute(held, 0..held.io.sectors),
        }
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
                assert_eq!(io.payload.count(), io.sectors as usize * 512);
            }
            Op::Discard => assert!(lower.discard, "a discard to '{}' (TG-1)", lower.name),
            Op::WriteZeroes => assert!(
                lower.write_zeroes,
                "write-zeroes to '{}' (TG-1)",
                lower.name
            ),
            Op::Flush | Op::CompareAndWrite | Op::WriteAtomic => {
                unreachable!("{:?} reached a lower device", io.op)
            }
        }
    }

    /// Does sectors `part` of what is asked.
    fn execute(&mut self, held: &Held, part: Range<u32>) -> Status {
        let LowerIo {
            op,
            fua,
            sector,
            payload,
            ..
        } = held.io;
        let range = sector + u64::from(part.start)..sector + u64::from(part.end);
        if !self.bad.is_empty() && self.bad.range(range.clone()).next().is_some() {
            return Status::Medium;
        }
        let bytes = part.start as usize * 512..part.end as usize * 512;
        let medium = &mut *self.medium.borrow_mut();
        let durably = fua || !self.lower.volatile_cache;
        match op {
            Op::Read => payload.with(|payload| {
                for (chunk, at) in payload[bytes].chunks_mut(512).zip(range) {
                    chunk.copy_from_slice(&medium.sectors[at as usize].bytes);
                }
            }),
            Op::Write => payload.with(|payload| {
                for (chunk, at) in payload[bytes].chunks(512).zip(range) {
                    medium.write(at, chunk.try_into().expect("512 bytes"), durably);
                }
            }),
            Op::WriteZeroes => range.for_each(|at| medium.write(at, [0; 512], durably)),
            Op::Discard => range.for_each(|at| medium.write(at, [DISCARDED; 512], durably)),
            Op::Flush => {
                for (at, version) in &held.covers {
                    if version.number > medium.durable[*at as usize].number {
                        medium.durable[*at as usize] = version.clone();
                    }
                    if version.number == medium.sectors[*at as usize].number {
                        medium.dirty.remove(at);
                    }
                }
            }
            Op::CompareAndWrite | Op::WriteAtomic => unreachable!("refused at submission"),
        }
        Status::Ok
    }
}

impl Medium {
    fn write(&mut self, at: u64, bytes: [u8; 512], durably: bool) {
        self.writes += 1;
        let version = Version {
            number: self.writes,
            bytes,
        };
        if durably {
            self.durable[at as usize] = version.clone();
            self.dirty.remove(&at);
        } else {
            self.dirty.insert(at);
        }
        self.sectors[at as usize] = version;
    }
}
