//! A plan carried out, with a look after every step at whether all is as it must be. What is not, panics; [`super::attempt`] catches
//! that and tells the reason.

use std::sync::Arc;

use super::acts::Wanted;
use super::explore::Lines;
use super::operators::{Model, Pending};
use super::oracle::{Oracle, SECTOR};
use super::plan::{Action, DEVICE_SECTORS, HOST_SECTORS, HOSTS, Operation, Plan};
use super::state::{Device, Underway};
use super::trace;
use super::watch::Watch;
use super::{Choice, Cluster, Random};
use crate::dm::message::{Message, Order};
use crate::dm::{Defect, Errno, Op, Status};

/// Steps after which a run that has not come to rest is taken to be in a loop.
const STEPS_MAX: u64 = 400_000;

/// Timers one after another, with nothing but polls between them, after which a plan that is done is taken to its end: what waits for a disk that
/// stands still may ask again for ever (`ebs`).
const TIMERS_IN_ROW_MAX: u32 = 1000;

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

/// A plan being carried out.
pub(super) struct Run<'a> {
    pub plan: &'a Plan,
    conduct: &'a Conduct,
    pub cluster: Cluster,
    pub cores: u16,
    pub devices: Vec<Device>,
    pub random: Random,
    choices: Vec<Choice>,
    steps: u64,
    pub originals: u64,
}

impl<'a> Run<'a> {
    /// A run that is about to begin; what happens is added to `lines`.
    pub(super) fn new(plan: &'a Plan, conduct: &'a Conduct, lines: Option<Lines>) -> Run<'a> {
        let cores = conduct.cores.unwrap_or(plan.cores);
        let schedule = conduct.schedule.unwrap_or(plan.seed);
        let mut cluster = Cluster::new(cores, schedule);
        cluster.passes = plan.passes;
        let mut disks = plan.disks.iter().map(|disk| disk.build()).collect();
        cluster.shared().disks.append(&mut disks);
        {
            let disks = &mut cluster.shared().disks;
            for (disk, plan) in plan.disks.iter().enumerate() {
                if let Some(first) = plan.shares {
                    let (before, after) = disks.split_at_mut(disk);
                    after[0].share(&before[first]);
                }
            }
        }
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
        let kept = |index: &usize| only.is_none_or(|only| only.binary_search(index).is_ok());
        let mut actions = plan.actions.iter().enumerate();
        let mut action = actions.next();
        let mut timers_in_row = 0;
        loop {
            match (self.choose(action.is_some()), action) {
                (Next::Event(choice), _) => {
                    if !matches!(choice, Choice::Poll { .. }) {
                        timers_in_row = 0;
                    }
                    self.step(choice);
                }
                (Next::Time, None) if timers_in_row == TIMERS_IN_ROW_MAX => break,
                (Next::Time, _) => {
                    timers_in_row += 1;
                    self.pass_time();
                }
                // An action that is left out still takes its turn, so that leaving it out shifts the others less.
                (Next::Action, Some((index, _))) if !kept(&index) => action = actions.next(),
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

    pub(super) fn watch<R>(&self, act: impl FnOnce(&mut Watch) -> R) -> R {
        act(self
            .cluster
            .shared()
            .watch
            .as_mut()
            .expect("a run is watched"))
    }

    pub(super) fn line(&self, text: impl FnOnce() -> String) {
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

    pub(super) fn count_step(&mut self) {
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
            Exchange(u32),
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
                Order::Exchange(_) => Moves::Exchange(epoch.0),
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
                let table = state.inactive.take();
                self.swap(device, table);
            }
            Moves::Exchange(epoch) if state.swapped_in != Some(epoch) => {
                state.swapped_in = Some(epoch);
                let table = state.staged.take();
                self.swap(device, table);
            }
            Moves::Swap(_) | Moves::Exchange(_) => {}
            Moves::Detach => {
                (state.inactive, state.live, state.before, state.swapped_in) =
                    (None, None, None, None)
            }
        }
    }

    /// The first core is about to swap tables: what an operator would have copied while the device was suspended is
    /// copied now.
    fn swap(&mut self, device: usize, table: Option<usize>) {
        self.watch(|watch| watch.assert_drained(device, "a table is swapped"));
        let state = &mut self.devices[device];
        state.before = state.live;
        let Some(live) = table else {
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
        for (place, shelf) in state.places.iter().zip(&mut state.shelf) {
            if let Some((disk, sector)) = *place {
                *shelf = shared.disks[disk].sector(sector);
            }
        }
        for (at, (place, shelf)) in state.places.iter_mut().zip(&state.shelf).enumerate() {
            let to = places.get(at).copied();
            // What stays where it is, is no more durable than before.
            if let Some((disk, sector)) = to.filter(|to| Some(*to) != *place) {
                shared.disks[disk].put(sector, shelf);
            }
            *place = to;
        }
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
                // What an `error` table has flushed is flushed in name only (FL-10).
                if io.excuse.error_table {
                    continue;
                }
                let mut before = device.oracle.clone();
                before.promise(0, io.snapshot.iter().copied());
                device.check_durable(&self.cluster, &before);
            }
        }
    }

    fn look_at_answers(&mut self) {
        for device in 0..self.devices.len() {
            let model = &mut self.devices[device].model;
            for ticket in std::mem::take(&mut model.messages) {
                match self.cluster.answer(ticket) {
                    None => model.messages.push(ticket),
                    Some(answer) => model.heard(&answer),
                }
            }
            for ticket in std::mem::take(&mut model.cancels) {
                match self.cluster.answer(ticket) {
                    None => model.cancels.push(ticket),
                    Some(answer) => model.cancelled(&answer),
                }
            }
            for ticket in std::mem::take(&mut model.give_ups) {
                match self.cluster.answer(ticket) {
                    None => model.give_ups.push(ticket),
                    Some(answer) => model.forgotten(&answer),
                }
            }
            // What was given up before its turn is answered before what came earlier.
            for at in (1..model.pending.len()).rev() {
                let Pending {
                    ticket, given_up, ..
                } = model.pending[at];
                if given_up && self.cluster.is_refused(ticket, Errno::Eintr) {
                    self.cluster.answer(ticket);
                    model.pending.remove(at);
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
                        "        the operator is told of {}: {told}",
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
                    Operation::Resume(_) | Operation::Swap(..) if answer.is_ok() => {
                        state.before = None;
                        state.fresh && state.live.is_none()
                    }
                    _ => state.fresh,
                };
                state.fresh = fresh;
                let stirred = state.model.is_pending(Operation::stirs);
                if state.model.suspended && !stirred {
                    self.watch(|watch| watch.suspended(device));
                }
            }
            for pending in &self.devices[device].model.pending {
                let early = self.cluster.answer(pending.ticket);
                assert_eq!(
                    early, None,
                    "{} was answered before an earlier one (LC-6)",
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
        // With nothing to wait for a path, there is none at any moment (AT-02).
        let impatient = self.plan.devices[device].paths && !self.plan.devices[device].patient;
        let blocks = self.plan.devices[device].blocks;
        let waited_ns = self.cluster.shared().now_ns - io.submitted_ns;
        let limit_ns = self.plan.devices[device].parked_limit_ns;
        let overdue =
            status == Status::Timeout && limit_ns.is_some_and(|limit_ns| waited_ns >= limit_ns);
        let explained = self.watch(|watch| watch.explains(io.command, status));
        assert!(
            status.is_ok()
                || explained
                || overdue
                || io.excuses(status)
                || (status == Status::NotSupported && io.op == Op::WriteZeroes && blocks)
                || (status == Status::IoError && impatient),
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
            // It may have left any of its sectors as they were.
            Op::Discard if blocks => {}
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
                    device
                        .oracle
                        .check_durable(at as u64, &disk.sector(*sector));
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
                "an operation was never answered: {}",
                model.pending[0].operation
            );
            assert!(model.questions.is_empty(), "a question was never answered");
            assert!(model.give_ups.is_empty(), "a give-up was never answered");
            assert!(model.messages.is_empty(), "a message was never answered");
            let waits = device.underway.first().map(|io| io.command);
            let limited = self.plan.devices[index].parked_limit_ns.is_some();
            assert!(
                !(model.suspended && limited) || waits.is_none(),
                "#{} is parked on device {index} for longer than it may be",
                waits.unwrap_or_default()
            );
            // Without a path I/O may wait as long as it takes.
            let waits = waits.filter(|_| !self.plan.devices[index].paths);
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
            self.operate(
                None,
                device,
                Operation::Resume(self.plan.devices[device].rest()),
            );
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
                let wanted = Wanted {
                    device,
                    host,
                    op: Op::Read,
                    fua: false,
                    sector: 1 + host * HOST_SECTORS,
                    sectors: HOST_SECTORS,
                };
                self.submit(0, wanted);
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
