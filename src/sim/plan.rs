//! What a seed stands for: the world, and what hosts, operators and faults will do in it. The order in which it all happens is not
//! part of the plan: that is the scheduler's, which has a seed of its own.

use std::fmt;

use super::layout::Layout;
use super::{Disk, Random};
use crate::dm::target::TYPES;
use crate::dm::{AtomicWrites, Lower, LowerId, Op, Status, SuspendOptions};

/// Hosts; host h submits on core h modulo the number of cores. More than the cores, so that several share one.
pub const HOSTS: u64 = 6;
/// Sectors of a device that each host has to itself.
pub const HOST_SECTORS: u64 = 8;
/// Sectors of a device: one that all hosts compare and write, and each host's own.
pub const DEVICE_SECTORS: u64 = 1 + HOSTS * HOST_SECTORS;
/// Sectors of a disk: what [`Layout::random`] asks for.
const DISK_SECTORS: u64 = 3 * DEVICE_SECTORS;
/// The most originals that one host has under way on one device.
pub const OUTSTANDING_MAX: usize = 5;

/// What the disks of some devices take at once.
pub const PIECE_SECTORS: u32 = 5;

/// How long I/O may stay parked, where that is bounded: some steps, many.
const PARKED_LIMITS_NS: [u64; 3] = [2_000, 20_000, 200_000];

/// Time-outs of suspends, in nanoseconds: a few steps, many, more than any suspend takes.
const TIMEOUTS_NS: [u64; 3] = [700, 4_000, 1_000_000];

/// One thing that somebody does, when the scheduler lets it happen. What makes no sense at that moment is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A host submits an original to its own sectors.
    Submit {
        /// The device.
        device: usize,
        /// The host.
        host: u64,
        /// What to do.
        op: Op,
        /// Force-unit-access.
        fua: bool,
        /// First sector, counted from the host's own.
        sector: u64,
        /// Sectors.
        sectors: u64,
    },
    /// A host compares and writes the sector that all hosts share.
    Shared {
        /// The device.
        device: usize,
        /// The host.
        host: u64,
        /// Force-unit-access.
        fua: bool,
    },
    /// A host gives up one of its originals.
    Abort {
        /// The device.
        device: usize,
        /// The host.
        host: u64,
        /// Which one, modulo how many there are.
        which: usize,
    },
    /// An operator asks for a change.
    Operate {
        /// The device.
        device: usize,
        /// The change.
        operation: Operation,
    },
    /// An operator asks a question.
    Question {
        /// The device.
        device: usize,
        /// Which of them: how it is, what its targets say, its table.
        which: u64,
    },
    /// Whoever asked for a change does not want it any more.
    GiveUp {
        /// The device.
        device: usize,
        /// Which one that was not answered, modulo how many there are.
        which: usize,
    },
    /// An operator tells a device's target something.
    Tell {
        /// The device.
        device: usize,
        /// The words.
        words: String,
    },
    /// A disk completes nothing for a while.
    Freeze {
        /// The disk.
        disk: usize,
        /// Whether it stops, or goes on.
        frozen: bool,
    },
    /// A disk is taken out, or put back.
    Plug {
        /// The disk.
        disk: usize,
        /// Whether it is there afterwards.
        present: bool,
    },
    /// The power fails everywhere: nothing happens after that.
    PowerCut,
}

/// A change that an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Make the device.
    Create,
    /// Load the table of this number.
    Load(usize),
    /// Empty the inactive slot.
    Clear,
    /// Suspend.
    Suspend(SuspendOptions),
    /// Resume, with the inactive table if there is one; the options are for the suspend that this implies.
    Resume(SuspendOptions),
    /// Make the table of this number live in one step, with these options for the suspend that this implies.
    Swap(usize, SuspendOptions),
    /// Give up the suspend that is under way.
    Cancel,
    /// Fail what a suspended device has parked.
    FailParked,
    /// Take the device away.
    Remove,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = |options: &SuspendOptions| {
            let mut text = String::new();
            let marks = [(options.noflush, " noflush"), (options.lockfs, " lockfs")];
            marks
                .iter()
                .filter(|(set, _)| *set)
                .for_each(|(_, word)| text.push_str(word));
            if let Some(timeout_ns) = options.timeout_ns {
                text.push_str(&format!(" within {timeout_ns} ns"));
            }
            text
        };
        match self {
            Operation::Create => write!(f, "create"),
            Operation::Load(table) => write!(f, "load table {table}"),
            Operation::Clear => write!(f, "clear"),
            Operation::Suspend(how) => write!(f, "suspend{}", options(how)),
            Operation::Resume(how) => write!(f, "resume{}", options(how)),
            Operation::Swap(table, how) => write!(f, "swap in table {table}{}", options(how)),
            Operation::Cancel => write!(f, "cancel"),
            Operation::FailParked => write!(f, "fail-parked"),
            Operation::Remove => write!(f, "remove"),
        }
    }
}

impl Operation {
    /// It suspends the device, so it can be given up on the way.
    pub fn suspends(self) -> bool {
        matches!(
            self,
            Operation::Suspend(_) | Operation::Resume(_) | Operation::Swap(..)
        )
    }

    /// It may let a suspended device run, or end it.
    pub fn stirs(self) -> bool {
        matches!(
            self,
            Operation::Resume(_) | Operation::Swap(..) | Operation::Remove
        )
    }

    /// The number of the table that comes with it.
    pub fn table(self) -> Option<usize> {
        match self {
            Operation::Load(table) | Operation::Swap(table, _) => Some(table),
            _ => None,
        }
    }
}

/// What a table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Holds the data.
    Good,
    /// Holds the first part of the data only: I/O behind its end fails (LC-16).
    Short,
    /// Fails all I/O, and can stand in for any table (LC-12).
    Error,
    /// Names a disk that one core cannot open, if there is that core; holds the data otherwise.
    Closed,
    /// Has another block size, which an open device cannot take (AT-53).
    OtherBlock,
}

/// A table that operators may load.
#[derive(Clone, Debug)]
pub struct TablePlan {
    /// What it is for.
    pub kind: Kind,
    /// The table, and where its sectors lie; nowhere for tables that hold no data.
    pub layout: Layout,
}

/// A device.
#[derive(Clone, Debug)]
pub struct DevicePlan {
    /// The flush policy.
    pub ordered: bool,
    /// The disks that its tables name; no other device uses them.
    pub disks: Vec<usize>,
    /// What operators load. The first one is good.
    pub tables: Vec<TablePlan>,
    /// Its tables are of `multipath`, its disks paths to one medium.
    pub paths: bool,
    /// Of the others: some of its targets are `delay` or `ebs`, so that what came first may start last.
    pub late: bool,
    /// Some of its targets are `ebs`: of a discard they leave out what is no whole block, and they write no zeroes.
    pub blocks: bool,
    /// Of those of `multipath`: nothing ever tells it to fail what has no path, so hosts see no path error (SU-3).
    pub patient: bool,
    /// Of the same: reads and writes of more than [`PIECE_SECTORS`] are cut, so one piece may be pushed back without the others.
    pub pieces: bool,
    /// How long I/O may stay parked while the device is suspended.
    pub parked_limit_ns: Option<u64>,
}

/// A disk.
#[derive(Clone, Debug)]
pub struct DiskPlan {
    /// What it declares.
    pub lower: Lower,
    /// The device that uses it.
    pub device: usize,
    /// Percentage of I/O done at once.
    pub inline: u64,
    /// Percentage of submissions refused for lack of room.
    pub busy: u64,
    /// I/O that fails, per thousand.
    pub failing: u64,
    /// Flushes that fail, per thousand.
    pub flushes_failing: u64,
    /// A core that cannot open it.
    pub closed_to: Option<u16>,
    /// The disk whose medium this one is another path to.
    pub shares: Option<usize>,
}

/// How often the scheduler lets each kind of thing happen, relative to the others.
#[derive(Clone, Copy, Debug)]
pub struct Tempo {
    /// The next action of the plan.
    pub act: u64,
    /// A message arrives.
    pub deliver: u64,
    /// A disk completes something.
    pub finish: u64,
    /// A core tries again what was busy, or does what is due.
    pub poll: u64,
    /// Nothing happens until the next timer is due.
    pub time: u64,
    /// A core whose messages are late more often than others'.
    pub lazy: u64,
}

/// Everything a seed stands for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Cores, unless somebody asks for another number.
    pub cores: u16,
    /// The engine keeps a record of each I/O, and lets through what may pass ([`crate::dm::Mapper::pass`]), as SPDK's does.
    pub passes: bool,
    /// The disks.
    pub disks: Vec<DiskPlan>,
    /// The devices.
    pub devices: Vec<DevicePlan>,
    /// How often what happens.
    pub tempo: Tempo,
    /// What is done, in this order.
    pub actions: Vec<Action>,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64) -> Plan {
        let mut random = Random::new(seed);
        let cores = *random.pick(&[1, 2, 2, 2, 3, 3, 3, 4, 4]);
        let mut plan = Plan {
            seed,
            cores,
            passes: seed % 2 == 1,
            disks: Vec::new(),
            devices: Vec::new(),
            tempo: Tempo {
                act: *random.pick(&[2, 5, 10, 30]),
                deliver: *random.pick(&[3, 10, 30]),
                finish: *random.pick(&[3, 10, 30]),
                poll: *random.pick(&[2, 10]),
                time: *random.pick(&[0, 1, 5]),
                lazy: random.below(u64::from(cores)),
            },
            actions: Vec::new(),
        };
        // Half of all worlds are without faults, so that nothing excuses an error there.
        let faults = random.percent(50);
        for device in 0..1 + usize::from(random.percent(40)) {
            match has_paths() && random.percent(35) {
                true => plan.add_path_device(&mut random, device, faults),
                false => plan.add_device(&mut random, device, faults),
            }
        }
        plan.add_actions(&mut random, faults);
        plan
    }

    fn add_device(&mut self, random: &mut Random, device: usize, faults: bool) {
        let late = random.percent(25);
        let blocks = random.percent(25);
        let legs = 1 + random.below(4) as usize;
        let good: Vec<usize> = (0..legs)
            .map(|_| self.add_disk(random, device, faults))
            .collect();
        let closed = self.add_disk(random, device, false);
        self.disks[closed].closed_to = Some(random.below(4) as u16);
        let other = self.add_disk(random, device, false);
        self.disks[other].lower.block_bytes = 4096;
        let mut tables: Vec<TablePlan> = (0..3)
            .map(|_| TablePlan {
                kind: Kind::Good,
                layout: Layout::random(random, DEVICE_SECTORS, &good, late, blocks),
            })
            .collect();
        let short = DEVICE_SECTORS / 2 + random.below(DEVICE_SECTORS / 2);
        tables.push(TablePlan {
            kind: Kind::Short,
            layout: Layout::random(random, short, &good, late, blocks),
        });
        let linear = Layout {
            text: format!("0 {DEVICE_SECTORS} linear d{closed} 0"),
            places: (0..DEVICE_SECTORS).map(|at| (closed, at)).collect(),
        };
        tables.push(TablePlan {
            kind: Kind::Closed,
            layout: linear,
        });
        for (kind, text) in [
            (Kind::Error, format!("0 {DEVICE_SECTORS} error")),
            (Kind::OtherBlock, format!("0 48 linear d{other} 0")),
        ] {
            let places = Vec::new();
            tables.push(TablePlan {
                kind,
                layout: Layout { text, places },
            });
        }
        self.devices.push(DevicePlan {
            ordered: random.percent(50),
            disks: good.into_iter().chain([closed, other]).collect(),
            tables,
            paths: false,
            late: late || blocks,
            blocks,
            patient: false,
            pieces: false,
            parked_limit_ns: parked_limit_ns(random),
        });
    }

    /// A device of `multipath` tables, over one to three paths to a medium.
    fn add_path_device(&mut self, random: &mut Random, device: usize, faults: bool) {
        let patient = random.percent(60);
        let pieces = random.percent(60);
        let transfer_sectors_max = if pieces { PIECE_SECTORS } else { 0 };
        let first = self.add_disk(random, device, faults);
        self.disks[first].lower.transfer_sectors_max = transfer_sectors_max;
        let mut paths = vec![first];
        for _ in 0..random.below(3) {
            let path = self.add_disk(random, device, faults);
            self.disks[path].shares = Some(first);
            let Lower {
                volatile_cache,
                flush,
                fua,
                ..
            } = self.disks[first].lower;
            let lower = &mut self.disks[path].lower;
            (lower.volatile_cache, lower.flush, lower.fua) = (volatile_cache, flush, fua);
            lower.transfer_sectors_max = transfer_sectors_max;
            paths.push(path);
        }
        if pieces && faults {
            // One piece is to be without a path while another is below.
            for path in &paths {
                self.disks[*path].failing = *random.pick(&[50, 200]);
            }
        }
        let closed = self.add_disk(random, device, false);
        self.disks[closed].closed_to = Some(random.below(4) as u16);
        let other = self.add_disk(random, device, false);
        self.disks[other].lower.block_bytes = 4096;
        let places = |disk: usize, sectors: u64| (0..sectors).map(|at| (disk, at)).collect();
        let short = DEVICE_SECTORS / 2 + random.below(DEVICE_SECTORS / 2);
        let mut some = |queues: bool| match random.below(4) {
            0 => multipath(random, DEVICE_SECTORS, &[], queues),
            1 => multipath(random, DEVICE_SECTORS, &paths[..1], queues),
            _ => multipath(random, DEVICE_SECTORS, &paths, queues),
        };
        let tables = [
            (Kind::Good, some(true), places(first, DEVICE_SECTORS)),
            (Kind::Good, some(true), places(first, DEVICE_SECTORS)),
            (Kind::Good, some(patient), places(first, DEVICE_SECTORS)),
            (
                Kind::Short,
                multipath(random, short, &paths, true),
                places(first, short),
            ),
            (
                Kind::Closed,
                multipath(random, DEVICE_SECTORS, &[closed], true),
                places(closed, DEVICE_SECTORS),
            ),
            (Kind::Error, format!("0 {DEVICE_SECTORS} error"), Vec::new()),
            (
                Kind::OtherBlock,
                multipath(random, 48, &[other], true),
                Vec::new(),
            ),
        ];
        let mut tables: Vec<TablePlan> = tables
            .into_iter()
            .map(|(kind, text, places)| TablePlan {
                kind,
                layout: Layout { text, places },
            })
            .collect();
        // With the first one all I/O can end.
        tables[0].layout.text = multipath(random, DEVICE_SECTORS, &paths, true);
        self.devices.push(DevicePlan {
            ordered: random.percent(50),
            disks: paths.into_iter().chain([closed, other]).collect(),
            tables,
            paths: true,
            late: false,
            blocks: false,
            patient,
            pieces,
            parked_limit_ns: parked_limit_ns(random),
        });
    }

    fn add_disk(&mut self, random: &mut Random, device: usize, faults: bool) -> usize {
        let index = self.disks.len();
        let volatile_cache = random.percent(85);
        self.disks.push(DiskPlan {
            lower: Lower {
                id: LowerId(index as u32),
                name: format!("d{index}"),
                sectors: DISK_SECTORS,
                block_bytes: 512,
                physical_bytes: 512,
                volatile_cache,
                flush: volatile_cache,
                fua: random.percent(50),
                discard: true,
                discard_zeroes: false,
                write_zeroes: true,
                transfer_sectors_max: *random.pick(&[0, 0, 0, 5]),
                optimal_write_bytes: 512,
                atomic_writes: AtomicWrites::ALL,
                read_only: false,
                keep: Default::default(),
            },
            device,
            inline: *random.pick(&[0, 10, 50, 90]),
            busy: *random.pick(&[0, 0, 5, 30]),
            failing: if faults {
                *random.pick(&[0, 0, 10, 50])
            } else {
                0
            },
            flushes_failing: if faults {
                *random.pick(&[0, 50, 300, 600])
            } else {
                0
            },
            closed_to: None,
            shares: None,
        });
        index
    }

    fn add_actions(&mut self, random: &mut Random, faults: bool) {
        for device in 0..self.devices.len() {
            let resume = Operation::Resume(self.devices[device].rest());
            for operation in [Operation::Create, Operation::Load(0), resume] {
                self.actions.push(Action::Operate { device, operation });
            }
        }
        let count = *random.pick(&[20, 40, 80, 160]);
        let operators = *random.pick(&[2, 8, 20]);
        let mix = Mix {
            flushes: *random.pick(&[3, 10, 30]),
            shared: *random.pick(&[0, 3, 15]),
            aborts: *random.pick(&[0, 2, 6]),
            faults: if faults { 3 } else { 0 },
        };
        for _ in 0..count {
            let device = random.below(self.devices.len() as u64) as usize;
            let action = if random.percent(operators) {
                self.operation(random, device)
            } else {
                self.host_action(random, device, &mix)
            };
            self.actions.push(action);
        }
        if random.percent(25) {
            let at = random.below(self.actions.len() as u64 + 1) as usize;
            self.actions.truncate(at);
            self.actions.push(Action::PowerCut);
        }
    }

    fn operation(&self, random: &mut Random, device: usize) -> Action {
        let plan = &self.devices[device];
        let DevicePlan {
            tables,
            paths,
            patient,
            disks,
            ..
        } = plan;
        if *paths && random.percent(40) {
            let disk = *random.pick(disks);
            let words = match random.below(if *patient { 8 } else { 11 }) {
                0..2 => format!("fail_path d{disk}"),
                2..6 => format!("reinstate_path d{disk}"),
                6 => "switch_group 1".into(),
                7 | 8 => "queue_if_no_path".into(),
                9 => "fail_if_no_path".into(),
                _ => "queue_if_no_path_timeout_secs 1".into(),
            };
            return Action::Tell { device, words };
        }
        let odd = 3 + random.below(tables.len() as u64 - 3) as usize;
        let operation = match random.below(72) {
            // The last ones are the odd ones.
            0..14 => Operation::Load(random.below(3) as usize),
            14..18 => Operation::Load(odd),
            18..20 => Operation::Clear,
            20..33 => Operation::Suspend(Self::suspend_options(random, plan)),
            33..48 => Operation::Resume(Self::suspend_options(random, plan)),
            48..52 => Operation::Cancel,
            52 => Operation::FailParked,
            53 => Operation::Remove,
            54 | 55 => Operation::Create,
            56..64 => {
                let table = if random.percent(75) { odd % 3 } else { odd };
                Operation::Swap(table, Self::suspend_options(random, plan))
            }
            64..68 => {
                let which = random.below(3) as usize;
                return Action::GiveUp { device, which };
            }
            _ => {
                let which = random.below(3);
                return Action::Question { device, which };
            }
        };
        Action::Operate { device, operation }
    }

    fn suspend_options(random: &mut Random, device: &DevicePlan) -> SuspendOptions {
        // Of an original in pieces some may have been handed back when a suspend is given up.
        let timed = if device.pieces { 60 } else { 20 };
        SuspendOptions {
            noflush: device.patient || random.percent(40),
            lockfs: random.percent(20),
            timeout_ns: random.percent(timed).then(|| *random.pick(&TIMEOUTS_NS)),
        }
    }

    fn host_action(&self, random: &mut Random, device: usize, mix: &Mix) -> Action {
        let host = random.below(HOSTS);
        let pick = random.below(100);
        if pick < mix.faults {
            let disks = &self.devices[device].disks;
            let disk = *random.pick(disks);
            return match random.below(3) {
                0 => Action::Plug {
                    disk,
                    present: random.percent(70),
                },
                _ => Action::Freeze {
                    disk,
                    frozen: random.percent(50),
                },
            };
        }
        let pick = random.below(100);
        if pick < mix.aborts {
            let which = random.below(OUTSTANDING_MAX as u64) as usize;
            return Action::Abort {
                device,
                host,
                which,
            };
        }
        let fua = random.percent(30);
        if pick < mix.aborts + mix.shared {
            return Action::Shared { device, host, fua };
        }
        let (op, sectors_max) = if random.percent(mix.flushes) {
            (Op::Flush, 1)
        } else {
            match random.below(20) {
                0..6 => (Op::Read, HOST_SECTORS),
                6 => (Op::Discard, HOST_SECTORS),
                7 => (Op::WriteZeroes, HOST_SECTORS),
                8 => (Op::CompareAndWrite, 2),
                9 => (Op::WriteAtomic, 4),
                _ => (Op::Write, HOST_SECTORS),
            }
        };
        let sector = random.below(HOST_SECTORS);
        Action::Submit {
            device,
            host,
            op,
            fua: fua && !matches!(op, Op::Read | Op::Discard | Op::Flush),
            sector,
            sectors: 1 + random.below(sectors_max.min(HOST_SECTORS - sector)),
        }
    }
}

fn parked_limit_ns(random: &mut Random) -> Option<u64> {
    random.percent(15).then(|| *random.pick(&PARKED_LIMITS_NS))
}

/// Whether there is `multipath` among the target types.
fn has_paths() -> bool {
    TYPES.iter().any(|(name, ..)| *name == "multipath")
}

/// A table of one `multipath`, whose paths are in one group or in two.
fn multipath(random: &mut Random, sectors: u64, paths: &[usize], queues: bool) -> String {
    let features = if queues { "1 queue_if_no_path" } else { "0" };
    let mut text = format!("0 {sectors} multipath {features} 0");
    if paths.is_empty() {
        return text + " 0 0";
    }
    let cut = 1 + random.below(paths.len() as u64) as usize;
    let (first, second) = paths.split_at(cut);
    let groups = [first, second];
    let groups = groups.iter().filter(|group| !group.is_empty());
    text.push_str(&format!(" {} 1", groups.clone().count()));
    for group in groups {
        let selector = *random.pick(&["round-robin", "queue-length", "service-time"]);
        text.push_str(&format!(" {selector} 0 {} 0", group.len()));
        group
            .iter()
            .for_each(|path| text.push_str(&format!(" d{path}")));
    }
    text
}

impl DevicePlan {
    /// How the run suspends the device when it brings it to rest.
    pub fn rest(&self) -> SuspendOptions {
        SuspendOptions {
            noflush: self.paths,
            ..SuspendOptions::default()
        }
    }
}

/// Percentages of what hosts and faults do.
struct Mix {
    flushes: u64,
    shared: u64,
    aborts: u64,
    faults: u64,
}

impl DiskPlan {
    /// The disk, empty.
    pub fn build(&self) -> Disk {
        let mut disk = Disk::new(self.lower.clone());
        disk.answers = super::Answers::Mixed {
            inline: self.inline,
            busy: self.busy,
        };
        disk.failing = self.failing;
        disk.flushes_failing = self.flushes_failing;
        disk.closed_to.extend(self.closed_to);
        disk
    }
}

/// The errors that failing disks give.
pub const DISK_ERRORS: [Status; 5] = [
    Status::NotSupported,
    Status::Medium,
    Status::IoError,
    Status::Timeout,
    Status::Transport,
];
