//! Several cores and what is beneath them, stepped one event at a time.

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use super::world::{Channel, Seen, Shared, World};
use super::{Ask, Bytes, Disk, Random};
use crate::dm::mapper::home;
use crate::dm::{
    Answer, AtomicWrites, CloneId, CoreId, DeviceId, Env as _, Errno, Event, Info, Io, Lane, Lower,
    LowerId, LowerIo, Mapper, Message, Op, Passing, Reply, Request, Status, Submit, SuspendOptions,
    Table, Tag, Ticket, Way,
};

/// Steps after which a world that is still busy is taken to be in a loop; no run comes near it.
const STEPS_MAX: u64 = 20_000_000;
/// What a step takes, if nothing is said of time.
const STEP_NS: u64 = 100;

/// Marks the names of clones that the mapper has no slot for, below the mark that it has for itself.
const PASSING: u32 = 1 << 30;

/// An original that was let through.
struct Passed {
    device: DeviceId,
    io: Io<Bytes>,
    lane: Rc<Lane>,
    passing: Passing,
}

/// Several cores, their mappers, and what is beneath them.
pub struct Cluster {
    /// One per core.
    pub mappers: Vec<Mapper<World>>,
    worlds: Vec<World>,
    shared: Rc<RefCell<Shared>>,
    /// Payloads of originals, by command, until their results are taken.
    payloads: BTreeMap<u32, Bytes>,
    commands: u32,
    tickets: u64,
    /// Mapped devices that tables may name.
    mapped: Vec<Lower>,
    /// Originals go through without a slot where they may, as with an engine that has a record of its own of each.
    pub passes: bool,
    /// That record, of those that are below: by the name that their clones have there.
    passing: BTreeMap<u32, Passed>,
    /// The ways that were found last, of a core to a device.
    ways: BTreeMap<(usize, DeviceId), Way<Channel>>,
    random: Random,
    /// Room for what can happen next.
    choices: Vec<Choice>,
}

impl Cluster {
    /// A world of `cores` cores, scheduled by `seed`.
    pub fn new(cores: u16, seed: u64) -> Cluster {
        let links = (0..cores)
            .map(|_| (0..=cores).map(|_| VecDeque::new()).collect())
            .collect();
        let shared = Rc::new(RefCell::new(Shared {
            disks: Vec::new(),
            links,
            seen: Vec::new(),
            ended: BTreeMap::new(),
            answers: BTreeMap::new(),
            messages: 0,
            now_ns: 1,
            random: Random::new(!seed),
            watch: None,
            defect: None,
            buffers: BTreeMap::new(),
            buffers_max: usize::MAX,
            buffers_taken: 0,
            read_refusals: 0,
            limits: BTreeMap::new(),
            used_sectors: BTreeMap::new(),
        }));
        let worlds = (0..cores).map(|core| World {
            core: CoreId(core),
            shared: shared.clone(),
        });
        Cluster {
            mappers: (0..cores)
                .map(|core| Mapper::new(CoreId(core), 4))
                .collect(),
            worlds: worlds.collect(),
            shared,
            payloads: BTreeMap::new(),
            commands: 0,
            tickets: 0,
            mapped: Vec::new(),
            passes: false,
            passing: BTreeMap::new(),
            ways: BTreeMap::new(),
            random: Random::new(seed),
            choices: Vec::with_capacity(16),
        }
    }

    /// What the cores share.
    pub fn shared(&self) -> RefMut<'_, Shared> {
        self.shared.borrow_mut()
    }

    /// A disk.
    pub fn disk(&self, index: usize) -> RefMut<'_, Disk> {
        RefMut::map(self.shared.borrow_mut(), |shared| &mut shared.disks[index])
    }

    /// Adds a disk called `d` and its number: 512-byte blocks, a volatile cache, and all a device can do; `change` says
    /// what is otherwise.
    pub fn add_disk(&mut self, sectors: u64, change: impl FnOnce(&mut Lower)) -> usize {
        let mut shared = self.shared.borrow_mut();
        let index = shared.disks.len();
        let mut lower = Lower {
            id: LowerId(index as u32),
            name: format!("d{index}"),
            sectors,
            block_bytes: 512,
            physical_bytes: 512,
            volatile_cache: true,
            flush: true,
            fua: true,
            discard: true,
            discard_zeroes: false,
            write_zeroes: true,
            transfer_sectors_max: 0,
            optimal_write_bytes: 512,
            atomic_writes: AtomicWrites::ALL,
            read_only: false,
            keep: Default::default(),
        };
        change(&mut lower);
        shared.disks.push(Disk::new(lower));
        index
    }

    /// Adds disks of 64 sectors.
    pub fn add_disks(&mut self, count: usize) {
        for _ in 0..count {
            self.add_disk(64, |_| {});
        }
    }

    /// Lets tables name a mapped device.
    pub fn add_lower(&mut self, lower: Lower) {
        self.mapped.push(lower);
    }

    /// A table over the disks and the mapped devices that may be named.
    pub fn table(&self, text: &str) -> Arc<Table> {
        let shared = self.shared.borrow();
        let resolve = |name: &str| {
            let disks = shared.disks.iter().map(|disk| &disk.lower);
            disks
                .chain(&self.mapped)
                .find(|lower| lower.name == name)
                .cloned()
        };
        Arc::new(Table::parse(text, &resolve).unwrap_or_else(|error| panic!("{text}: {error}")))
    }

    /// An operator asks; the answer comes later.
    pub fn request(&mut self, device: DeviceId, request: Request) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let event = Event::Request(request, ticket);
        let mut shared = self.shared.borrow_mut();
        let cores = shared.links.len();
        let home = home(device, cores as u16).0 as usize;
        shared.links[home][cores].push_back(Message::Event { device, event });
        ticket
    }

    /// The answer to a request, once.
    pub fn answer(&mut self, ticket: Ticket) -> Option<Answer> {
        self.shared.borrow_mut().answers.remove(&ticket.0)
    }

    /// Whether a request was refused so; its answer is left to be taken.
    pub fn is_refused(&self, ticket: Ticket, errno: Errno) -> bool {
        let shared = self.shared.borrow();
        let answer = shared.answers.get(&ticket.0);
        answer.is_some_and(|answer| answer.as_ref().is_err_and(|error| error.errno == errno))
    }

    /// An operator asks and waits for the answer.
    pub fn ask(&mut self, device: DeviceId, request: Request) -> Answer {
        let ticket = self.request(device, request);
        for _ in 0..STEPS_MAX {
            if let Some(answer) = self.answer(ticket) {
                return answer;
            }
            assert!(self.step(), "nothing can happen, and no answer has come");
        }
        panic!("no answer after {STEPS_MAX} steps");
    }

    /// As [`Cluster::ask`], of something that is to succeed.
    pub fn done(&mut self, device: DeviceId, request: Request) {
        let asked = format!("{request:?}");
        assert_eq!(self.ask(device, request), Ok(Reply::Done), "{asked}");
    }

    /// A device with a live table.
    pub fn device(&mut self, number: u32, ordered: bool, table: &str) -> DeviceId {
        let device = DeviceId(number);
        self.done(
            device,
            Request::Create {
                ordered,
                parked_limit_ns: None,
            },
        );
        self.switch_to(device, table);
        device
    }

    /// Loads a table and resumes with it.
    pub fn switch_to(&mut self, device: DeviceId, table: &str) {
        let table = self.table(table);
        self.done(device, Request::Load(table));
        self.done(
            device,
            Request::Resume {
                open: true,
                suspend: SuspendOptions::default(),
            },
        );
    }

    /// The device's state.
    pub fn info(&mut self, device: DeviceId) -> Info {
        match self.ask(device, Request::Info) {
            Ok(Reply::Info(info)) => info,
            other => panic!("{other:?}"),
        }
    }

    /// Submits an original on a core; its number.
    pub fn submit(&mut self, core: u16, device: DeviceId, ask: Ask) -> u32 {
        self.commands += 1;
        let command = self.commands;
        // Even no bytes have a buffer, by which clones can be told from those of others.
        let payload = Bytes::new(ask.bytes);
        self.payloads.insert(command, payload);
        let io = Io {
            tag: Tag {
                client: u32::from(core),
                command,
            },
            op: ask.op,
            fua: ask.fua,
            sector: ask.sector,
            sectors: ask.sectors,
            payload,
        };
        if let Some(watch) = &mut self.shared.borrow_mut().watch {
            watch.original(core, device.0 as usize, &io);
        }
        let at = core as usize;
        if self.passes && self.pass(at, device, io) {
            return command;
        }
        if let Some(status) = self.mappers[at].submit(&mut self.worlds[at], device, io) {
            self.shared().ended(command, status);
        }
        command
    }

    /// Lets an original through, if it may pass.
    fn pass(&mut self, at: usize, device: DeviceId, io: Io<Bytes>) -> bool {
        let plain = io.op == Op::Read || (io.op == Op::Write && !io.fua);
        if !plain {
            return false;
        }
        let (mapper, world) = (&mut self.mappers[at], &mut self.worlds[at]);
        let known = self.ways.get(&(at, device)).and_then(|way| {
            let (channel, sector) = way.leads(io.sector, u64::from(io.sectors))?;
            Some((way.lane().clone(), sector, *channel))
        });
        let found = known.or_else(|| {
            let passage = mapper.pass(world, device, io.op, io.sector, io.sectors)?;
            if let Some(way) = passage.way(|channel| Some(*channel)) {
                self.ways.insert((at, device), way);
            }
            Some((passage.lane.clone(), passage.sector, *passage.channel))
        });
        let Some((lane, sector, mut channel)) = found else {
            return false;
        };
        let below = LowerIo {
            op: io.op,
            fua: false,
            sector,
            sectors: io.sectors,
            payload: io.payload,
        };
        let passed = Passed {
            device,
            io,
            passing: lane.enter(world.now_ns()),
            lane,
        };
        let name = PASSING | io.tag.command;
        match world.submit(&mut channel, &below, CloneId(name)) {
            Submit::Pending => {
                self.passing.insert(name, passed);
            }
            Submit::Done(status) => self.passed(at, passed, status),
            Submit::Busy => {
                passed.lane.turn_back();
                return false;
            }
        }
        true
    }

    /// What was let through has ended below.
    fn passed(&mut self, at: usize, passed: Passed, status: Status) {
        let Passed {
            device,
            io,
            lane,
            passing,
        } = passed;
        let (mapper, world) = (&mut self.mappers[at], &mut self.worlds[at]);
        match status {
            Status::Ok => {
                lane.leave(io.op, io.sectors, &passing, world.now_ns());
                if lane.is_draining() {
                    mapper.left(world, device);
                }
                self.shared().ended(io.tag.command, status);
            }
            status => mapper.stopped(world, device, io, &passing, status),
        }
    }

    /// Whether an original has ended that nobody has taken.
    pub fn any_end(&self) -> bool {
        !self.shared.borrow().ended.is_empty()
    }

    /// Whether a request was answered whose answer nobody has taken.
    pub fn any_answer(&self) -> bool {
        !self.shared.borrow().answers.is_empty()
    }

    /// How an original ended, if it has.
    pub fn status(&self, command: u32) -> Option<Status> {
        self.shared.borrow().ended.get(&command).copied()
    }

    /// How an original ended, and its bytes; its number is forgotten.
    pub fn take(&mut self, command: u32) -> Option<(Status, Vec<u8>)> {
        let status = self.shared.borrow_mut().ended.remove(&command)?;
        let payload = self.payloads.remove(&command).expect("taken once");
        Some((status, payload.take()))
    }

    /// Submits and waits for the end.
    pub fn run(&mut self, core: u16, device: DeviceId, ask: Ask) -> (Status, Vec<u8>) {
        let command = self.submit(core, device, ask);
        for _ in 0..STEPS_MAX {
            if let Some(end) = self.take(command) {
                return end;
            }
            assert!(self.step(), "nothing can happen, and the I/O has not ended");
        }
        panic!("no end after {STEPS_MAX} steps");
    }

    /// A host gives up a command; whether it was found parked.
    pub fn abort(&mut self, core: u16, device: DeviceId, command: u32) -> bool {
        let tag = Tag {
            client: u32::from(core),
            command,
        };
        let at = core as usize;
        self.mappers[at].abort(&mut self.worlds[at], device, tag)
    }

    /// The hosts of a core give up everything that waits at a device; how many commands are left.
    #[cfg(test)]
    pub fn abort_all(&mut self, core: u16, device: DeviceId) -> usize {
        let at = core as usize;
        self.mappers[at].abort_all(&mut self.worlds[at], device)
    }

    /// Completes the clone that a disk has held longest. False when it holds none.
    pub fn release(&mut self, disk: usize) -> bool {
        let any = !self.disk(disk).held.is_empty();
        if any {
            self.finish(disk, 0);
        }
        any
    }

    /// Completes a clone that a disk holds.
    pub fn finish(&mut self, disk: usize, index: usize) {
        let core = {
            let shared = &mut *self.shared.borrow_mut();
            let (core, clone, io, status) = shared.disks[disk].finish(index);
            if let Some(watch) = &mut shared.watch {
                watch.ended(disk, &io, status);
            }
            shared.saw(Seen::Ended {
                disk,
                op: io.op,
                status,
            });
            (core.0 as usize, clone, status)
        };
        let (at, clone, status) = core;
        match self.passing.remove(&clone.0) {
            Some(passed) => self.passed(at, passed, status),
            None => self.mappers[at].complete_clone(&mut self.worlds[at], clone, status),
        }
    }

    /// Lets a core submit again what was busy, and do what has become due.
    pub fn poll(&mut self, core: usize) {
        self.mappers[core].poll(&mut self.worlds[core]);
    }

    /// Delivers the oldest message from `from` to `to`; the operator is the sender after the last core.
    pub fn deliver(&mut self, from: usize, to: usize) -> bool {
        let message = self.shared().links[to][from].pop_front();
        let any = message.is_some();
        if let Some(message) = message {
            self.mappers[to].message(&mut self.worlds[to], message);
        }
        any
    }

    /// Everything that can happen now: messages that arrive, clones that end, cores that have something to do, in this order.
    pub fn choices(&self, choices: &mut Vec<Choice>) {
        choices.clear();
        let shared = self.shared.borrow();
        for (to, links) in shared.links.iter().enumerate() {
            let full = links
                .iter()
                .enumerate()
                .filter(|(_, link)| !link.is_empty());
            choices.extend(full.map(|(from, _)| Choice::Deliver { from, to }));
        }
        for (disk, state) in shared.disks.iter().enumerate().filter(|(_, d)| !d.frozen) {
            choices.extend((0..state.held.len()).map(|index| Choice::Finish { disk, index }));
        }
        let wanting =
            (0..self.mappers.len()).filter(|core| self.mappers[*core].wants_poll(shared.now_ns));
        choices.extend(wanting.map(|core| Choice::Poll { core }));
    }

    /// Does one of the things that can happen.
    pub fn act(&mut self, choice: Choice) {
        self.shared().now_ns += STEP_NS;
        match choice {
            Choice::Deliver { from, to } => {
                self.deliver(from, to);
            }
            Choice::Finish { disk, index } => self.finish(disk, index),
            Choice::Poll { core } => self.poll(core),
        }
    }

    /// When the next timer of any core is due, if that is later than now.
    pub fn due_ns(&self) -> Option<u64> {
        let now_ns = self.shared.borrow().now_ns;
        let due = self.mappers.iter().filter_map(Mapper::due_ns).min();
        due.filter(|due_ns| *due_ns > now_ns)
    }

    /// Lets time pass until the next timer is due. False when there is none.
    pub fn pass_time(&mut self) -> bool {
        let due_ns = self.due_ns();
        if let Some(due_ns) = due_ns {
            self.shared().now_ns = due_ns;
        }
        due_ns.is_some()
    }

    /// Does one thing that can happen now, chosen by the seed. False when nothing can.
    pub fn step(&mut self) -> bool {
        let mut choices = std::mem::take(&mut self.choices);
        self.choices(&mut choices);
        let choice = (!choices.is_empty()).then(|| *self.random.pick(&choices));
        self.choices = choices;
        match choice {
            Some(choice) => {
                self.act(choice);
                true
            }
            // Time passes when nothing else can happen.
            None => self.pass_time(),
        }
    }

    /// Up to `count` steps.
    pub fn steps(&mut self, count: u64) {
        for _ in 0..count {
            self.step();
        }
    }

    /// Steps until nothing can happen any more.
    pub fn settle(&mut self) {
        for _ in 0..STEPS_MAX {
            if !self.step() {
                return;
            }
        }
        panic!("still busy after {STEPS_MAX} steps");
    }

    /// A disk is taken away: every core is told (PM-14). What the disk does with I/O from now on is up to whoever takes it away.
    pub fn take_away(&mut self, lower: LowerId) {
        for (mapper, world) in self.mappers.iter_mut().zip(&mut self.worlds) {
            mapper.lower_gone(world, lower);
        }
    }

    /// What was seen since the last call.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared().seen)
    }

    /// Demands that nothing is left behind: no original, clone, count or payload (after results were taken).
    pub fn demand_idle(&self) {
        self.mappers.iter().for_each(Mapper::assert_idle);
        let left: usize = self.shared().disks.iter().map(|disk| disk.held.len()).sum();
        assert_eq!(left, 0, "a lower device holds a clone");
        assert_eq!(self.shared().buffers.len(), 0, "a private buffer is out");
        self.demand_settled();
    }

    /// Demands that what each device has told those above is what every core goes by, with nothing still to be said. To be
    /// called when no operation is under way.
    pub fn demand_settled(&self) {
        for (device, said) in &self.shared().limits {
            assert!(!said.open, "device {device} has not said what came of it");
            for mapper in &self.mappers {
                if let Some(limits) = mapper.limits(DeviceId(*device)) {
                    assert_eq!(Some(limits), said.are.as_ref(), "device {device}");
                }
            }
        }
    }
}

/// One thing that can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The oldest message between two cores arrives.
    Deliver {
        /// The sender; the number after the last core's is the operators'.
        from: usize,
        /// The receiver.
        to: usize,
    },
    /// A disk completes a clone.
    Finish {
        /// The disk.
        disk: usize,
        /// Which one, of those it holds.
        index: usize,
    },
    /// A core does what is due, and submits again what was busy.
    Poll {
        /// The core.
        core: usize,
    },
}
