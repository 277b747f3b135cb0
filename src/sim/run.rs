//! A plan carried out, with a look after every step at whether all is as it must be. What is not, panics; [`super::attempt`] catches
//! that and tells the reason.

use std::sync::Arc;

use super::explore::Lines;
use super::operators::{Model, Pending};
use super::oracle::{Content, Oracle, SECTOR};
use super::plan::{
    Action, DEVICE_SECTORS, HOST_SECTORS, HOSTS, Kind, OUTSTANDING_MAX, Operation, Plan, TablePlan,
};
use super::trace;
use super::watch::Watch;
use super::{Ask, Choice, Cluster, Random};
use crate::dm::message::{Message, Order};
use crate::dm::{Defect, DeviceId, Op, Request, Status, SuspendOptions, Table};

/// Steps after which a run that has not come to rest is taken to be in a loop.
const STEPS_MAX: u64 = 400_000;

/// How a plan is carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conduct {
    /// Cores, if not as many as the plan says.
    pub cores: Option<u16>,
    /// Which of the plan's actions are done; `None` for all.
    pub only: Option<Vec<usize>>,
    /// The scheduler's seed, if not that of the plan.
    pub schedule: Option<u64>,
    /// A defect to plant into the mapper.
    pub defect: Option<Defect>,
}

/// What a run that found nothing amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Steps of the scheduler.
    pub steps: u64,
    /// Originals that hosts submitted.
    pub originals: u64,
}

/// What happens next.
enum Next {
    /// Something in the world.
    Event(Choice),
    /// The next action of the plan.
    Action,
    /// Time passes until a timer is due.
    Time,
    /// Nothing can.
    Nothing,
}

/// An original that has not ended.
struct Underway {
    command: u32,
    host: u64,
    op: Op,
    fua: bool,
    sector: u64,
    sectors: u64,
    /// The number of the write.
    number: u64,
    /// By sector, what had completed when it was sent: of its range for a read, of the device for a flush or a barrier.
    snapshot: Vec<u64>,
    /// A compare-and-write's expectation is known to be right.
    certain: bool,
    /// The value that the shared sector is to have.
    expects: Option<u64>,
    excuse: Excuse,
}

/// What may explain an error that no disk has given.
#[derive(Clone, Copy, Debug, Default)]
struct Excuse {
    /// There may have been no table, or no device.
    no_table: bool,
    /// A table that fails all I/O has been live.
    error_table: bool,
    /// The end of the shortest table that has been live.
    end: u64,
    /// The device has been on its way out.
    removed: bool,
    /// The host gave it up.
    aborted: bool,
    /// An operator has had everything failed that was parked.
    failed_parked: bool,
}

/// A device in the run.
struct Device {
    model: Model,
    oracle: Oracle,
    ordered: bool,
    tables: Vec<Arc<Table>>,
    /// By core: what is under way.
    underway: Vec<Underway>,
    /// The tables in the mapper's slots, followed through the orders that cores are given.
    staged: Option<usize>,
    inactive: Option<usize>,
    live: Option<usize>,
    /// The table before the last swap: some cores may still have it, until a resume was answered.
    before: Option<usize>,
    swapped_in: Option<u32>,
    /// No resume has been answered since the device was made.
    fresh: bool,
    /// Where the data is: `None` for a sector that no table of now covers, whose bytes are on the shelf.
    places: Vec<Option<(usize, u64)>>,
    shelf: Vec<[u8; SECTOR]>,
    /// By host: what it takes the shared sector to hold.
    believed: Vec<u64>,
    /// Values of the shared sector that a compare-and-write has replaced.
    replaced: Vec<u64>,
}

/// A plan being carried out.
pub(super) struct Run<'a> {
    plan: &'a Plan,
    conduct: &'a Conduct,
    cluster: Cluster,
    cores: u16,
    devices: Vec<Device>,
    random: Random,
    choices: Vec<Choice>,
    steps: u64,
    originals: u64,
}

impl<'a> Run<'a> {
    /// A run that is about to begin; what happens is added to `lines`.
    pub(super) fn new(plan: &'a Plan, conduct: &'a Conduct, lines: Option<Lines>) -> Run<'a> {
        let cores = conduct.cores.unwrap_or(plan.cores);
        let schedule = conduct.schedule.unwrap_or(plan.seed);
        let cluster = Cluster::new(cores, schedule);
        let mut disks = plan.disks.iter().map(|disk| disk.build()).collect();
        cluster.shared().disks.append(&mut disks);
        cluster.shared().watch = Some(Watch::new(plan, cores, lines));
        cluster.shared().defect = conduct.defect;
        let devices = plan.devices.iter().map(|device| Device {
            model: Model::default(),
            oracle: Oracle::new(DEVICE_SECTORS),
            ordered: device.ordered,
            tables: device
                .tables
                .iter()
                .map(|table| cluster.table(&table.layout.text))
                .collect(),
            underway: Vec::new(),
            staged: None,
            inactive: None,
            live: None,
            before: None,
            swapped_in: None,
            fresh: true,
            places: vec![None; DEVICE_SECTORS as usize],
            shelf: vec![[0; SECTOR]; DEVICE_SECTORS as usize],
            believed: vec![0; HOSTS as usize],
            replaced: Vec::new(),
        });
        Run {
            devices: devices.collect(),
            plan,
            conduct,
            cores,
            random: Random::new(schedule ^ 0x5ced),
            choices: Vec::with_capacity(64),
            steps: 0,
            originals: 0,
            cluster,
        }
    }

    /// Carries the plan out. Panics on whatever is not as it must be.
    pub(super) fn finish(&mut self) -> Tally {
        let only = self.conduct.only.as_deref();
        let plan = self.plan;
        let mut actions = plan
            .actions
            .iter()
            .enumerate()
            .filter(|(index, _)| only.is_none_or(|only| only.contains(index)));
        let mut action = actions.next();
        loop {
            match (self.choose(action.is_some()), action) {
                (Next::Event(choice), _) => self.step(choice),
                (Next::Time, _) => self.pass_time(),
                (Next::Action, Some((_, Action::PowerCut))) => {
                    self.power_cut();
                    return self.tally();
                }
                (Next::Action, Some((index, what))) => {
                    self.act(index, what);
                    action = actions.next();
                }
                (Next::Action | Next::Nothing, _) => break,
            }
            self.look();
        }
        self.come_to_rest();
        self.tally()
    }

    fn tally(&self) -> Tally {
        Tally {
            steps: self.steps,
            originals: self.originals,
        }
    }

    fn watch<R>(&self, act: impl FnOnce(&mut Watch) -> R) -> R {
        act(self
            .cluster
            .shared()
            .watch
            .as_mut()
            .expect("a run is watched"))
    }

    fn line(&self, text: impl FnOnce() -> String) {
        self.watch(|watch| watch.line(text));
    }

    /// What happens next; `acts` says whether an action of the plan may.
    fn choose(&mut self, acts: bool) -> Next {
        let mut choices = std::mem::take(&mut self.choices);
        self.cluster.choices(&mut choices);
        let next = self.choose_from(&choices, acts);
        self.choices = choices;
        next
    }

    fn choose_from(&mut self, choices: &[Choice], acts: bool) -> Next {
        let delivers = choices.partition_point(|choice| matches!(choice, Choice::Deliver { .. }));
        let finishes = choices.partition_point(|choice| !matches!(choice, Choice::Poll { .. }));
        let (deliver, rest) = choices.split_at(delivers);
        let (finish, poll) = rest.split_at(finishes - delivers);
        let tempo = &self.plan.tempo;
        let weight = |tempo: u64, any: bool| if any { tempo } else { 0 };
        let due = self.cluster.due_ns().is_some();
        let act = weight(tempo.act, acts);
        let delivered = act + weight(tempo.deliver, !deliver.is_empty());
        let finished = delivered + weight(tempo.finish, !finish.is_empty());
        let polled = finished + weight(tempo.poll, !poll.is_empty());
        let all = polled + weight(tempo.time, due);
        if all == 0 {
            return if due { Next::Time } else { Next::Nothing };
        }
        match self.random.below(all) {
            pick if pick < act => Next::Action,
            pick if pick < delivered => {
                let choice = *self.random.pick(deliver);
                let late = matches!(choice, Choice::Deliver { to, .. } if to as u64 == tempo.lazy);
                Next::Event(if late {
                    *self.random.pick(deliver)
                } else {
                    choice
                })
            }
            pick if pick < finished => Next::Event(*self.random.pick(finish)),
            pick if pick < polled => Next::Event(*self.random.pick(poll)),
            _ => Next::Time,
        }
    }

    /// Nothing happens until the next timer is due.
    fn pass_time(&mut self) {
        self.count_step();
        self.cluster.pass_time();
        self.line(|| "        time passes until a timer is due".into());
    }

    fn step(&mut self, choice: Choice) {
        self.count_step();
        let core = match choice {
            Choice::Deliver { from, to } => {
                self.follow(from, to);
                to
            }
            Choice::Finish { disk, index } => self.cluster.disk(disk).held[index].core.0 as usize,
            Choice::Poll { core } => core,
        };
        self.cluster.act(choice);
        self.cluster.mappers[core].assert_invariants();
    }

    fn count_step(&mut self) {
        self.steps += 1;
        assert!(self.steps < STEPS_MAX, "still busy after {STEPS_MAX} steps");
        self.watch(Watch::stepped);
    }

    /// Follows tables through the orders that reach cores: the data moves with them.
    fn follow(&mut self, from: usize, to: usize) {
        enum Moves {
            Stage(usize),
            Commit,
            Clear,
            Swap(u32),
            Detach,
        }
        let (device, moves) = {
            let shared = self.cluster.shared();
            let Some(Message::Order {
                device,
                epoch,
                order,
            }) = shared.link(from, to).front()
            else {
                return;
            };
            let device = device.0 as usize;
            let moves = match order {
                Order::Stage(table) => {
                    let tables = &self.devices[device].tables;
                    let index = tables.iter().position(|known| Arc::ptr_eq(known, table));
                    Moves::Stage(index.expect("a table of the plan"))
                }
                Order::Commit => Moves::Commit,
                Order::Clear => Moves::Clear,
                Order::Swap(_) => Moves::Swap(epoch.0),
                Order::Detach => Moves::Detach,
                _ => return,
            };
            (device, moves)
        };
        let state = &mut self.devices[device];
        match moves {
            Moves::Stage(index) => state.staged = Some(index),
            Moves::Commit => state.inactive = state.staged,
            Moves::Clear => state.inactive = None,
            Moves::Swap(epoch) if state.swapped_in != Some(epoch) => {
                state.swapped_in = Some(epoch);
                self.swap(device);
            }
            Moves::Swap(_) => {}
            Moves::Detach => {
                (state.inactive, state.live, state.before, state.swapped_in) =
                    (None, None, None, None)
            }
        }
    }

    /// The first core is about to swap tables: what an operator would have copied while the device was suspended is
    /// copied now.
    fn swap(&mut self, device: usize) {
        self.watch(|watch| watch.assert_drained(device, "a table is swapped"));
        let state = &mut self.devices[device];
        state.before = state.live;
        let Some(live) = state.inactive.take() else {
            panic!("a core was told to swap in a table that was not loaded");
        };
        state.live = Some(live);
        let table = &self.plan.devices[device].tables[live];
        for io in &mut state.underway {
            io.excuse.meets(table);
        }
        let places = &table.layout.places;
        if places.is_empty() {
            return;
        }
        let mut shared = self.cluster.shared();
        for (place, shelf) in state.places.iter_mut().zip(&mut state.shelf) {
            if let Some((disk, sector)) = place.take() {
                *shelf = *shared.disks[disk].sector(sector);
            }
        }
        for ((to, place), shelf) in places.iter().zip(&mut state.places).zip(&state.shelf) {
            shared.disks[to.0].put(to.1, shelf);
            *place = Some(*to);
        }
    }

    fn core_of(&self, host: u64) -> u16 {
        (host % u64::from(self.cores)) as u16
    }

    /// Does an action of the plan, if it makes sense now.
    fn act(&mut self, index: usize, action: &Action) {
        self.count_step();
        match *action {
            Action::Submit {
                device,
                host,
                op,
                fua,
                sector,
                sectors,
            } => self.submit(
                index,
                device,
                host,
                op,
                fua,
                1 + host * HOST_SECTORS + sector,
                sectors,
            ),
            Action::Shared { device, host, fua } => {
                self.submit(index, device, host, Op::CompareAndWrite, fua, 0, 1);
            }
            Action::Abort {
                device,
                host,
                which,
            } => self.abort(index, device, host, which),
            Action::Operate {
                device, operation, ..
            } => self.operate(Some(index), device, operation),
            Action::Question { device } => {
                self.line(|| format!("[{index}] an operator asks how device {device} is"));
                self.watch(|watch| watch.request(device, false));
                let ticket = self.cluster.request(DeviceId(device as u32), Request::Info);
                self.devices[device].model.questions.push(ticket);
            }
            Action::Freeze { disk, frozen } => {
                self.line(|| {
                    format!(
                        "[{index}] d{disk} {}",
                        if frozen { "stands still" } else { "goes on" }
                    )
                });
                self.cluster.disk(disk).frozen = frozen;
            }
            Action::Plug { disk, present } => {
                self.line(|| {
                    format!(
                        "[{index}] d{disk} is {}",
                        if present { "put back" } else { "taken out" }
                    )
                });
                let shared = &mut *self.cluster.shared();
                shared.disks[disk].plug(present, &mut self.random);
                let device = &mut self.devices[self.plan.disks[disk].device];
                device
                    .model
                    .pending
                    .iter_mut()
                    .for_each(|pending| pending.excused |= !present);
            }
            Action::PowerCut => unreachable!("ends the run"),
        }
        self.cluster
            .mappers
            .iter()
            .for_each(|mapper| mapper.assert_invariants());
    }

    #[allow(clippy::too_many_arguments)]
    fn submit(
        &mut self,
        index: usize,
        device: usize,
        host: u64,
        op: Op,
        fua: bool,
        sector: u64,
        sectors: u64,
    ) {
        let core = self.core_of(host);
        let state = &mut self.devices[device];
        let shared = sector == 0 && op != Op::Flush;
        let own = state.underway.iter().filter(|io| io.host == host);
        let writes = op != Op::Read && op != Op::Flush;
        let (mut count, mut overlaps) = (0, false);
        for io in own {
            count += 1;
            let touches = io.op != Op::Flush
                && io.sector < sector + sectors
                && sector < io.sector + io.sectors;
            // Reads may meet writes; writes of one sector are in order.
            overlaps |= touches && writes && io.op != Op::Read;
        }
        if count >= OUTSTANDING_MAX || overlaps {
            return;
        }
        let number = if writes {
            state.oracle.next_number()
        } else {
            0
        };
        let (mut certain, mut expects) = (false, None);
        let mut bytes = Vec::new();
        match op {
            Op::Read => bytes = vec![0xee; sectors as usize * SECTOR],
            Op::Write => {
                bytes = vec![0; sectors as usize * SECTOR];
                fill(&mut bytes, number, sector);
            }
            Op::CompareAndWrite => {
                let length = sectors as usize * SECTOR;
                bytes = vec![0; 3 * length];
                if shared {
                    let believed = state.believed[host as usize];
                    expects = Some(believed);
                    fill(&mut bytes[..length], believed, 0);
                } else {
                    certain = true;
                    for at in 0..sectors {
                        let found = state.oracle.certain(sector + at);
                        certain &= found.is_some();
                        let bytes = &mut bytes[at as usize * SECTOR..][..SECTOR];
                        match found {
                            Some(Content::Write(number)) => fill(bytes, number, sector + at),
                            Some(Content::Discarded) => bytes.fill(super::DISCARDED),
                            Some(Content::Zero) | None => {}
                        }
                    }
                }
                fill(&mut bytes[length..2 * length], number, sector);
            }
            Op::Flush | Op::Discard | Op::WriteZeroes => {}
        }
        let snapshot = match op {
            Op::Flush => state.oracle.snapshot(0, DEVICE_SECTORS),
            _ if state.ordered && fua => state.oracle.snapshot(0, DEVICE_SECTORS),
            Op::Read => state.oracle.snapshot(sector, sectors),
            _ => Vec::new(),
        };
        if writes && !shared {
            let content = match op {
                Op::Discard => Content::Discarded,
                Op::WriteZeroes => Content::Zero,
                _ => Content::Write(number),
            };
            state.oracle.sent(sector, sectors, number, content);
        }
        let excuse = state.excuse_now(&self.plan.devices[device].tables);
        self.originals += 1;
        self.line(|| format!("[{index}] host {host} submits"));
        let whole = op != Op::Flush;
        let ask = Ask {
            op,
            fua,
            sector: if whole { sector } else { 0 },
            sectors: if whole { sectors as u32 } else { 0 },
            bytes,
        };
        let command = self.cluster.submit(core, DeviceId(device as u32), ask);
        self.devices[device].underway.push(Underway {
            command,
            host,
            op,
            fua,
            sector,
            sectors,
            number,
            snapshot,
            certain,
            expects,
            excuse,
        });
    }

    fn abort(&mut self, index: usize, device: usize, host: u64, which: usize) {
        let core = self.core_of(host);
        let own: Vec<u32> = self.devices[device]
            .underway
            .iter()
            .filter(|io| io.host == host)
            .map(|io| io.command)
            .collect();
        if own.is_empty() {
            return;
        }
        let command = own[which % own.len()];
        self.line(|| format!("[{index}] host {host} gives up #{command}"));
        if self.cluster.abort(core, DeviceId(device as u32), command) {
            assert_eq!(
                self.cluster.status(command),
                Some(Status::Aborted),
                "#{command} was given up while it was parked (AT-78)"
            );
            let mut underway = self.devices[device].underway.iter_mut();
            let io = underway
                .find(|io| io.command == command)
                .expect("it is under way");
            io.excuse.aborted = true;
        }
    }

    /// An operator asks for something; without an index it is not the plan's.
    fn operate(&mut self, index: Option<usize>, device: usize, operation: Operation) {
        let state = &mut self.devices[device];
        let tables = &self.plan.devices[device].tables;
        let model = &state.model;
        let kind = match operation {
            Operation::Load(table) => Some(tables[table].kind),
            _ => None,
        };
        // Numbers of devices are given away again when the removal was answered. Hosts keep to the block size that they
        // know, so the first table has theirs.
        let sensible = match operation {
            Operation::Create => model.pending.is_empty() && !model.exists,
            _ if kind == Some(Kind::OtherBlock) => {
                model.live && !model.is_pending(|op| op == Operation::Remove)
            }
            Operation::Remove => !model.is_pending(|op| op == Operation::Create),
            _ => true,
        };
        if !sensible || (index.is_some() && model.pending.len() >= 3) {
            return;
        }
        let request = match operation {
            Operation::Create => Request::Create {
                ordered: state.ordered,
            },
            Operation::Load(table) => Request::Load(state.tables[table].clone()),
            Operation::Clear => Request::Clear,
            Operation::Suspend(options) => Request::Suspend(options),
            Operation::Resume(suspend) => Request::Resume {
                open: true,
                suspend,
            },
            Operation::Cancel => Request::Cancel,
            Operation::FailParked => Request::FailParked,
            Operation::Remove => Request::Remove,
        };
        for io in &mut state.underway {
            io.excuse.removed |= operation == Operation::Remove;
            io.excuse.failed_parked |= operation == Operation::FailParked;
        }
        let (excused, flushes_fail) = {
            let disks = &self.cluster.shared().disks;
            let mut own = self.plan.devices[device]
                .disks
                .iter()
                .map(|disk| &disks[*disk]);
            (
                own.clone().any(|disk| disk.gone),
                own.any(|disk| disk.flushes_failing > 0),
            )
        };
        self.line(|| {
            let index = index.map_or_else(|| "[the end]".into(), |index| format!("[{index}]"));
            let text = match operation {
                Operation::Load(table) => format!("\n{}", tables[table].layout.text.trim_end())
                    .replace('\n', "\n          "),
                _ => String::new(),
            };
            format!("{index} an operator asks for {operation:?} of device {device}{text}")
        });
        let stirs = matches!(operation, Operation::Resume(_) | Operation::Remove);
        self.watch(|watch| watch.request(device, stirs));
        let ticket = self.cluster.request(DeviceId(device as u32), request);
        let model = &mut self.devices[device].model;
        if operation == Operation::Cancel {
            return model.cancels.push(ticket);
        }
        model.pending.push_back(Pending {
            ticket,
            operation,
            kind,
            excused,
            flushes_fail,
        });
    }

    /// Takes in all that has ended since the last step.
    fn look(&mut self) {
        self.look_at_barriers();
        if self.cluster.any_answer() {
            self.look_at_answers();
        }
        if !self.cluster.any_end() {
            return;
        }
        for device in 0..self.devices.len() {
            let mut at = 0;
            while at < self.devices[device].underway.len() {
                let command = self.devices[device].underway[at].command;
                match self.cluster.take(command) {
                    None => at += 1,
                    Some((status, bytes)) => {
                        let io = self.devices[device].underway.swap_remove(at);
                        self.ended(device, &io, status, &bytes);
                    }
                }
            }
        }
    }

    /// A barrier's data may be written only when what completed before it was sent is durable.
    fn look_at_barriers(&mut self) {
        let barriers = self.watch(|watch| std::mem::take(&mut watch.barriers));
        for command in barriers {
            for device in &self.devices {
                let Some(io) = device.underway.iter().find(|io| io.command == command) else {
                    continue;
                };
                let mut before = device.oracle.clone();
                before.promise(0, io.snapshot.iter().copied());
                device.check_durable(&self.cluster, &before);
            }
        }
    }

    fn look_at_answers(&mut self) {
        for device in 0..self.devices.len() {
            let model = &mut self.devices[device].model;
            for ticket in std::mem::take(&mut model.cancels) {
                match self.cluster.answer(ticket) {
                    None => model.cancels.push(ticket),
                    Some(answer) => model.cancelled(&answer),
                }
            }
            while let Some(pending) = self.devices[device].model.pending.front().copied()
                && let Some(answer) = self.cluster.answer(pending.ticket)
            {
                self.line(|| {
                    let told = answer
                        .as_ref()
                        .map_or_else(|error| error.errno.name().into(), |_| "done".to_string());
                    format!(
                        "        the operator is told of {:?}: {told}",
                        pending.operation
                    )
                });
                let closed_to = self.plan.devices[device]
                    .disks
                    .iter()
                    .find_map(|disk| self.plan.disks[*disk].closed_to);
                let state = &mut self.devices[device];
                state.model.pending.pop_front();
                state
                    .model
                    .answered(pending, self.cores, closed_to, &answer);
                let fresh = match pending.operation {
                    Operation::Create | Operation::Remove => true,
                    Operation::Resume(_) if answer.is_ok() => {
                        state.before = None;
                        state.fresh && state.live.is_none()
                    }
                    _ => state.fresh,
                };
                state.fresh = fresh;
                let stirred = state
                    .model
                    .is_pending(|op| matches!(op, Operation::Resume(_) | Operation::Remove));
                if state.model.suspended && !stirred {
                    self.watch(|watch| watch.suspended(device));
                }
            }
            for pending in &self.devices[device].model.pending {
                let early = self.cluster.answer(pending.ticket);
                assert_eq!(
                    early, None,
                    "{:?} was answered before an earlier one (LC-6)",
                    pending.operation
                );
            }
            let model = &mut self.devices[device].model;
            let questions = std::mem::take(&mut model.questions);
            for ticket in questions {
                match self.cluster.answer(ticket) {
                    None => model.questions.push(ticket),
                    Some(answer) => model.told(&answer),
                }
            }
        }
    }

    /// An original has ended: may it have ended so, and what does that promise?
    fn ended(&mut self, device: usize, io: &Underway, status: Status, bytes: &[u8]) {
        let explained = self.watch(|watch| watch.explains(io.command, status));
        assert!(
            status.is_ok() || explained || io.excuses(status),
            "#{} completed with {}, and nothing explains that",
            io.command,
            trace::status(status)
        );
        let state = &mut self.devices[device];
        if io.expects.is_some() {
            state.shared_ended(io, status, bytes);
        }
        if !status.is_ok() {
            return;
        }
        match io.op {
            Op::Read => {
                for (at, bytes) in bytes.chunks(SECTOR).enumerate() {
                    state
                        .oracle
                        .check_read(io.sector + at as u64, io.snapshot[at], bytes);
                }
                return;
            }
            Op::Flush => {}
            _ if io.expects.is_some() => {}
            _ => state.oracle.completed(io.sector, io.sectors, io.number),
        }
        // A table without lower devices flushes nothing, and says that it has (FL-10): also for a write that was done before
        // it was swapped in, and flushed after.
        if io.excuse.error_table {
            return;
        }
        if io.fua && io.expects.is_none() {
            let written = (0..io.sectors).map(|_| io.number);
            state.oracle.promise(io.sector, written);
        }
        if io.op == Op::Flush || (state.ordered && io.fua) {
            state.oracle.promise(0, io.snapshot.iter().copied());
        }
        if io.op == Op::Flush || io.fua {
            state.check_durable(&self.cluster, &state.oracle);
        }
    }

    /// The power fails. What is on the disks afterwards must be what was promised.
    fn power_cut(&mut self) {
        self.line(|| "the power fails".into());
        {
            let shared = &mut *self.cluster.shared();
            for disk in &mut shared.disks {
                disk.power_cut_torn(&mut self.random);
            }
        }
        for device in &self.devices {
            for (at, place) in device.places.iter().enumerate().skip(1) {
                if let Some((disk, sector)) = place {
                    let disk = self.cluster.disk(*disk);
                    device.oracle.check_durable(at as u64, disk.sector(*sector));
                }
            }
        }
    }

    /// Steps until nothing can happen any more.
    fn settle(&mut self) {
        loop {
            match self.choose(false) {
                Next::Event(choice) => self.step(choice),
                Next::Time => self.pass_time(),
                Next::Action | Next::Nothing => return,
            }
            self.look();
        }
    }

    /// The plan is done. First nothing may be left waiting that has no reason to; then every device is brought to
    /// where all I/O must end, and looked at.
    fn come_to_rest(&mut self) {
        self.line(|| "the plan is done: disks go on, without faults".into());
        for disk in &mut self.cluster.shared().disks {
            (disk.frozen, disk.gone) = (false, false);
            (disk.failing, disk.flushes_failing) = (0, 0);
        }
        self.settle();
        for (index, device) in self.devices.iter().enumerate() {
            let model = &device.model;
            assert!(
                model.pending.is_empty(),
                "{:?} was never answered",
                model.pending[0].operation
            );
            assert!(model.questions.is_empty(), "a question was never answered");
            let waits = device.underway.first().map(|io| io.command);
            assert!(
                model.suspended || waits.is_none(),
                "#{} waits for ever on device {index}, which is not suspended (AT-43)",
                waits.unwrap_or_default()
            );
        }
        for device in 0..self.devices.len() {
            if !self.devices[device].model.exists {
                self.operate(None, device, Operation::Create);
            }
            self.operate(None, device, Operation::Load(0));
            self.operate(None, device, Operation::Resume(SuspendOptions::default()));
        }
        self.settle();
        for device in &self.devices {
            assert!(
                device.model.pending.is_empty(),
                "an operation was never answered"
            );
            let waits = device.underway.first().map(|io| io.command);
            assert_eq!(
                waits, None,
                "the number of an original that waits for ever (AT-43)"
            );
        }
        self.cluster.demand_idle();
        self.read_everything();
        for device in 0..self.devices.len() {
            self.operate(None, device, Operation::Remove);
        }
        self.settle();
        self.cluster.demand_idle();
        let shared = self.cluster.shared();
        for (index, disk) in shared.disks.iter().enumerate() {
            assert_eq!(
                disk.channels, 0,
                "channels of d{index} are left open (PM-12)"
            );
        }
    }

    /// Every host reads all that is its own, through the mapper, from the core that it is on.
    fn read_everything(&mut self) {
        for device in 0..self.devices.len() {
            for host in 0..HOSTS {
                self.submit(
                    0,
                    device,
                    host,
                    Op::Read,
                    false,
                    1 + host * HOST_SECTORS,
                    HOST_SECTORS,
                );
            }
        }
        self.look();
        self.settle();
        let left = self
            .devices
            .iter()
            .map(|device| device.underway.len())
            .sum::<usize>();
        assert_eq!(left, 0, "reads that do not end");
    }
}

impl Device {
    fn excuse_now(&self, tables: &[TablePlan]) -> Excuse {
        let mut excuse = Excuse {
            no_table: self.fresh || self.live.is_none(),
            error_table: false,
            end: DEVICE_SECTORS,
            removed: self.model.is_pending(|op| op == Operation::Remove),
            aborted: false,
            failed_parked: self.model.is_pending(|op| op == Operation::FailParked),
        };
        for table in self.live.iter().chain(&self.before) {
            excuse.meets(&tables[*table]);
        }
        excuse
    }

    /// A compare-and-write of the shared sector has ended: no value of it may have been replaced twice.
    fn shared_ended(&mut self, io: &Underway, status: Status, bytes: &[u8]) {
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
    fn check_durable(&self, cluster: &Cluster, oracle: &Oracle) {
        let shared = cluster.shared();
        for (at, place) in self.places.iter().enumerate().skip(1) {
            if let Some((disk, sector)) = place {
                oracle.check_durable(at as u64, shared.disks[*disk].durable(*sector));
            }
        }
    }
}

impl Excuse {
    /// A table is, or may be, live while the original is under way.
    fn meets(&mut self, table: &TablePlan) {
        match table.kind {
            Kind::Error => self.error_table = true,
            _ => self.end = self.end.min(table.layout.places.len() as u64),
        }
    }
}

impl Underway {
    /// Whether an error that no disk has given is explained.
    fn excuses(&self, status: Status) -> bool {
        let Excuse {
            no_table,
            error_table,
            end,
            removed,
            aborted,
            failed_parked,
        } = self.excuse;
        match status {
            Status::IoError => {
                no_table
                    || removed
                    || error_table
                    || failed_parked
                    || (self.op != Op::Flush && self.sector + self.sectors > end)
            }
            Status::Aborted => removed || aborted,
            Status::NotSupported => error_table,
            Status::Miscompare => self.op == Op::CompareAndWrite && !self.certain,
            _ => false,
        }
    }
}

/// Fills sectors with what write `number` leaves there.
fn fill(bytes: &mut [u8], number: u64, sector: u64) {
    if number == 0 {
        return bytes.fill(0);
    }
    for (at, bytes) in bytes.chunks_mut(SECTOR).enumerate() {
        Content::fill(number, sector + at as u64, bytes);
    }
}
