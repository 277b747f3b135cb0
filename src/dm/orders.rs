//! What a core does when its device's home core orders it: gates, tables, and the re-issue of what was parked.

use std::sync::Arc;

use super::bound::Bound;
use super::defect::Defect;
use super::device::Home;
use super::env::Env;
use super::error::{Errno, Error};
use super::io::{DeviceId, Io, Op, Payload, Tag};
use super::limits::Lower;
use super::mapper::{
    Device, FREEZE, INTERNAL, Mapper, Original, Stage, acknowledge, home, send_home,
};
use super::message::{
    Answer, Epoch, Event, Gate, Message, Order, Reply, Request, Seen, StepEnd, Steps, TargetLine,
    Ticket, Waiting,
};
use super::status::Status;
use super::table::Limits;
use super::target::AnyTarget;

/// How many parked originals a core submits at once when its gate opens; more of them later.
const FIRST_PORTION: u32 = 4;

impl<E: Env> Mapper<E> {
    /// Takes in a message from another core, from this one, or from the control plane.
    pub fn message(&mut self, env: &mut E, message: Message) {
        match message {
            Message::Order {
                device,
                epoch,
                order,
            } => self.order(env, device, epoch, order),
            Message::Event { device, event } => self.event(env, device, event),
        }
    }

    fn event(&mut self, env: &mut E, id: DeviceId, event: Event) {
        let index = id.0 as usize;
        if self.homes.len() <= index {
            self.homes.resize_with(index + 1, || None);
        }
        if let (
            None,
            Event::Request(
                Request::Create {
                    ordered,
                    parked_limit_ns,
                },
                _,
            ),
        ) = (&self.homes[index], &event)
        {
            self.homes[index] = Some(Box::new(Home::new(id, *ordered, *parked_limit_ns)));
        }
        match &event {
            Event::Request(Request::Status, ticket) if self.homes[index].is_some() => {
                return env.reply(*ticket, self.lines(id, AnyTarget::status));
            }
            Event::Request(Request::Table { inactive: false }, ticket)
                if self.homes[index].is_some() =>
            {
                return env.reply(*ticket, self.lines(id, AnyTarget::table));
            }
            _ => {}
        }
        if let Some(home) = &mut self.homes[index] {
            if !home.event(env, event) {
                self.homes[index] = None;
            }
            self.arm_home(env, id);
        } else {
            refuse(env, event);
        }
    }

    fn order(&mut self, env: &mut E, id: DeviceId, epoch: Epoch, order: Order) {
        let mut result = Ok(());
        match order {
            Order::Attach {
                ordered,
                parked_limit_ns,
            } => self.attach(env, id, ordered, parked_limit_ns),
            Order::Stage(table) => match Bound::open(table, epoch, self.core, env) {
                Ok(bound) => self.known(id).staged = Some(bound),
                Err(reason) => result = Err(reason),
            },
            Order::Commit => {
                let device = self.known(id);
                let earlier = std::mem::replace(&mut device.inactive, device.staged.take());
                close(env, earlier);
            }
            Order::Unstage => close(env, self.known(id).staged.take()),
            Order::Clear => close(env, self.known(id).inactive.take()),
            Order::Close(gate) => {
                // What is still to be submitted came before what the sequence is for, and is drained with the rest.
                if gate == Gate::Sequence && self.known(id).gate & Gate::Backlog as u8 != 0 {
                    self.reissue_portion(env, id, u32::MAX);
                }
                let device = self.known(id);
                match env.planted(Defect::WayKept) {
                    false => device.close(gate),
                    true => device.gate |= gate as u8,
                }
                if device.flow.under_way() > 0 && !env.planted(Defect::NotDrained) {
                    let earlier = device.flow.lane.drain(Some(epoch));
                    assert!(earlier.is_none(), "one drain at a time");
                }
                let drains = device.flow.under_way() > 0;
                self.limit_parked(id);
                if drains {
                    return;
                }
            }
            Order::Presuspend { noflush } => return self.presuspend(env, id, noflush),
            Order::Postsuspend => {
                self.lower_flag(env, id);
                if let Some(live) = &mut self.known(id).live {
                    live.postsuspend();
                }
            }
            Order::Undo => self.undo(env, id),
            Order::Swap(limits) => {
                let table = self.known(id).inactive.take();
                result = self.swap(env, id, table, limits);
            }
            Order::Exchange(limits) => {
                let table = self.known(id).staged.take();
                result = self.swap(env, id, table, limits);
            }
            Order::Revert => self.revert(env, id),
            Order::Preresume => result = self.preresume(id),
            Order::Retire => close(env, self.known(id).retired.take()),
            Order::Resume => {
                let device = self.known(id);
                let retired = device.retired.take();
                if let Some(live) = &mut device.live {
                    live.resume();
                    self.kick_all(env, id);
                }
                close(
                    env,
                    retired.filter(|_| !env.planted(Defect::ChannelsLeaked)),
                );
                self.open(env, id, Gate::Suspend);
            }
            Order::Open(gate) => self.open(env, id, gate),
            Order::FailParked => self.fail_parked(env, id),
            Order::Message {
                sector,
                words,
                suspended,
                ticket,
            } => return self.message_to_target(env, id, sector, &words, suspended, ticket),
            Order::Notice(seen) => return self.notice(env, id, seen),
            Order::Flush => return self.flush_step(env, id, INTERNAL, epoch),
            Order::Freeze => return self.flush_step(env, id, FREEZE, epoch),
            Order::RunData { original } => return self.run_data(env, id, original),
            Order::Finish { original, status } => {
                return self.finish_sequenced(env, id, original, status);
            }
            Order::Detach => self.detach(env, id),
        }
        acknowledge(env, self.core, id, epoch, result);
    }

    fn attach(&mut self, env: &mut E, id: DeviceId, ordered: bool, parked_limit_ns: Option<u64>) {
        let index = id.0 as usize;
        if self.devices.len() <= index {
            self.devices.resize_with(index + 1, || None);
        }
        assert!(
            self.devices[index].is_none(),
            "a device number is free before it is given away again"
        );
        self.devices[index] = Some(Box::new(Device::new(ordered, parked_limit_ns)));
        env.changed(id);
    }

    /// The flag goes up before the hooks run, so that targets find it up while they let go (4.1 step 1).
    fn presuspend(&mut self, env: &mut E, id: DeviceId, noflush: bool) {
        let device = self.known(id);
        device.noflush = noflush;
        if let Some(live) = &mut device.live {
            live.presuspend(noflush);
            self.kick_all(env, id);
        }
    }

    /// The noflush flag falls, and in the same step what was pushed back is taken over: on this core nobody can push back in
    /// between (PM-5).
    fn lower_flag(&mut self, env: &E, id: DeviceId) {
        let originals = &mut self.originals;
        let device = self.devices[id.0 as usize]
            .as_deref_mut()
            .expect("ordered for a device that is there");
        device.noflush &= env.planted(Defect::FlagStaysUp);
        let mut pushed_back = Vec::with_capacity(device.pushed_back.len() as usize);
        while let Some(slot) = device.pushed_back.pop(originals) {
            pushed_back.push(slot);
        }
        // Clones end in any order; originals go on in the order they came (IO-20, SU-13).
        pushed_back.sort_unstable_by_key(|slot| originals[*slot].arrival);
        if env.planted(Defect::PushBackReversed) {
            pushed_back.reverse();
        }
        while let Some(slot) = device.older.pop(originals) {
            pushed_back.push(slot);
        }
        for slot in pushed_back {
            device.older.push(originals, slot);
        }
    }

    /// The targets get their state back before anything reaches them again (SU-8).
    fn undo(&mut self, env: &mut E, id: DeviceId) {
        let device = self.known(id);
        // Without the suspend's gate the drain is that of a sequence, which goes on.
        if device.gate & Gate::Suspend as u8 != 0 {
            device.flow.lane.drain(None);
        }
        if env.planted(Defect::UndoneLate) {
            self.lower_flag(env, id);
            self.open(env, id, Gate::Suspend);
        }
        if let Some(live) = &mut self.known(id).live {
            live.presuspend_undo();
        }
        self.lower_flag(env, id);
        self.kick_all(env, id);
        self.open(env, id, Gate::Suspend);
    }

    fn swap(
        &mut self,
        env: &mut E,
        id: DeviceId,
        table: Option<Bound<E::Channel>>,
        limits: Arc<Limits>,
    ) -> Result<(), String> {
        let device = self.known(id);
        assert_eq!(
            device.flow.under_way(),
            0,
            "a table is swapped only when nothing is in flight on it"
        );
        if home(id, env.cores()) != self.core && env.planted(Defect::OldTableKept) {
            return Ok(());
        }
        let device = self.known(id);
        let same = device.live.as_ref().is_some_and(|old| old.limits == limits);
        device.retired = std::mem::replace(&mut device.live, table);
        if let Some(live) = &mut device.live {
            live.limits = limits;
        }
        if !same {
            // Before anything parked is re-issued, so that hosts learn of a new size first (LC-16).
            env.changed(id);
        }
        self.preresume(id)
    }

    /// Puts the table before the last swap back, as it was: suspended. It kept its own limits.
    fn revert(&mut self, env: &mut E, id: DeviceId) {
        let device = self.known(id);
        let earlier = device.retired.take();
        let refused = std::mem::replace(&mut device.live, earlier);
        let limits = |bound: &Option<Bound<E::Channel>>| bound.as_ref().map(|b| b.limits.clone());
        let same = limits(&refused) == limits(&device.live);
        close(env, refused);
        if !same {
            env.changed(id);
        }
    }

    fn preresume(&mut self, id: DeviceId) -> Result<(), String> {
        match &mut self.known(id).live {
            Some(live) => live.preresume(),
            None => Ok(()),
        }
    }

    fn open(&mut self, env: &mut E, id: DeviceId, gate: Gate) {
        let device = self.known(id);
        // The sequence whose drain this was begins anew; that of a suspend goes on.
        if gate == Gate::Sequence && device.gate & Gate::Suspend as u8 == 0 {
            device.flow.lane.drain(None);
        }
        device.open(gate);
        if !env.planted(Defect::WakeUpLost) {
            self.reissue(env, id);
        }
    }

    /// Submits what is parked, oldest first, as long as the gate stays open; an original that asks for a sequence closes it
    /// again and what is behind stays, in order (SU-13, SU-15). It is mapped by the table of now (IO-22).
    ///
    /// What is parked goes in portions, and what one of them finishes is answered before the next: the first answer after a swap
    /// does not wait for all that is parked. The gate stays closed to newcomers until the last. Each portion is twice the one before, so
    /// that a host which sends the next I/O for each answer cannot keep the list from becoming empty.
    fn reissue(&mut self, env: &mut E, id: DeviceId) {
        if self.known(id).gate & Gate::Backlog as u8 == 0 {
            self.reissue_portion(env, id, FIRST_PORTION);
        }
    }

    /// The next portion of each device that has one.
    pub(super) fn reissue_more(&mut self, env: &mut E) {
        for _ in 0..self.backlogs.len() {
            if let Some((id, portion)) = self.backlogs.pop_front() {
                self.reissue_portion(env, id, portion);
            }
        }
    }

    /// Submits as many as `portion` of what is parked; the next poll submits the next portion if there is more that may go.
    fn reissue_portion(&mut self, env: &mut E, id: DeviceId, portion: u32) {
        if let Some(device) = self.device_mut(id) {
            device.open(Gate::Backlog);
        }
        let mut left = portion;
        while let Some(Some(device)) = self.devices.get_mut(id.0 as usize) {
            if left == 0 && device.may_reissue() {
                if !env.planted(Defect::BacklogOvertaken) {
                    device.close(Gate::Backlog);
                }
                return self.backlogs.push_back((id, portion.saturating_mul(2)));
            }
            let Some(slot) = device.next_parked(&mut self.originals) else {
                return;
            };
            left -= 1;
            match device.check(&self.originals[slot].io) {
                Err(status) if !env.planted(Defect::ShrunkUnchecked) => {
                    let original = self.originals.remove(slot);
                    self.answer(env, original.io.tag, status);
                }
                _ => {
                    self.start(env, slot);
                    if env.planted(Defect::ReissuedTwice) {
                        self.start(env, slot);
                    }
                }
            }
        }
    }

    /// Tells the target at a sector something. Every core does, in the same place among its orders, so that the copies
    /// stay alike; the home core's answers.
    fn message_to_target(
        &mut self,
        env: &mut E,
        id: DeviceId,
        sector: u64,
        words: &[String],
        suspended: bool,
        ticket: Ticket,
    ) {
        let now_ns = env.now_ns();
        // The message may have crossed the device's removal.
        let gone = self.device(id).is_none();
        let live = self.device_mut(id).and_then(|device| device.live.as_mut());
        let told = match live.and_then(|live| Some((live.place_at(sector)?, live))) {
            None if gone => Err(Error::new(Errno::Enxio, "the device was removed meanwhile")),
            None => Err(Error::new(
                Errno::Einval,
                "the table was replaced by a smaller one meanwhile",
            )),
            Some((place, live)) => {
                let table = live.table.clone();
                let target = &mut live.segment(place).target;
                let told = target.message(words, suspended, now_ns, &table.lowers);
                self.target_changed(env, id, place);
                told
            }
        };
        if home(id, env.cores()) != self.core {
            return;
        }
        if told.as_ref().is_ok_and(|told| told.event) {
            send_home(env, id, Event::Told);
        }
        env.reply(ticket, told.map(|told| Reply::Text(told.text)));
    }

    /// Tells this core's copy of a target what some core has seen; news to the home core's are an event. What a table that is not
    /// live has seen is of no interest (LC-25).
    fn notice(&mut self, env: &mut E, id: DeviceId, seen: Seen) {
        // The notice may have crossed the device's removal.
        let live = self.device_mut(id).and_then(|device| device.live.as_mut());
        let Some(live) = live.filter(|live| live.serial == seen.table) else {
            return;
        };
        let news = live.segment(seen.place).target.notice(seen.notice);
        self.target_changed(env, id, seen.place);
        if news && home(id, env.cores()) == self.core {
            send_home(env, id, Event::Told);
        }
    }

    /// What each target of the live table says of itself, in the home core's copy (LC-22).
    fn lines(&self, id: DeviceId, text: impl Fn(&AnyTarget, &[Lower]) -> String) -> Answer {
        let live = self.device(id).and_then(|device| device.live.as_ref());
        let lines = live.map_or_else(Vec::new, |live| {
            let line =
                |segment| TargetLine::new(segment, text(&segment.target, &live.table.lowers));
            live.segments().map(line).collect()
        });
        Ok(Reply::Lines(lines))
    }

    /// An original needs the device to itself: it waits here, and what comes after it waits behind it.
    pub(super) fn ask_for_sequence(&mut self, env: &mut E, slot: u32, steps: Steps) {
        let original = &mut self.originals[slot];
        original.stage = Stage::Sequenced;
        original.parked_ns = env.now_ns();
        let id = original.device;
        let core = self.core;
        let device = self.known(id);
        device.close(Gate::OwnSequence);
        device.sequenced += 1;
        send_home(
            env,
            id,
            Event::Sequence(Waiting {
                core,
                original: slot,
                steps,
            }),
        );
    }

    /// Flush clones for nobody's I/O: an original of the mapper's own, whose end the home core is told.
    fn flush_step(&mut self, env: &mut E, id: DeviceId, client: u32, epoch: Epoch) {
        let io = Io {
            tag: Tag {
                client,
                command: epoch.0,
            },
            op: Op::Flush,
            fua: false,
            sector: 0,
            sectors: 0,
            payload: E::Payload::empty(),
        };
        let device = self.known(id);
        if device.live.is_none() {
            unreachable!("a sequence or a freeze of a device without a table");
        }
        device.flow.in_flight += 1;
        let slot = self.insert(env, id, io, Stage::FanOut);
        self.originals[slot].for_home = true;
        self.fan_out_flush(env, slot);
    }

    fn run_data(&mut self, env: &mut E, id: DeviceId, slot: u32) {
        let Original {
            stage, aborted, io, ..
        } = self.originals[slot];
        assert_eq!(stage, Stage::Sequenced);
        let refused = match self.known(id).check(&io) {
            _ if aborted => Some(Status::Aborted),
            // The table may be another than when it was admitted.
            Err(status) => Some(status),
            Ok(()) => None,
        };
        if let Some(status) = refused {
            return send_home(env, id, Event::DataDone(StepEnd::Done(status)));
        }
        self.originals[slot].for_home = true;
        self.known(id).sequenced -= 1;
        self.start(env, slot);
    }

    fn finish_sequenced(&mut self, env: &mut E, id: DeviceId, slot: u32, status: Status) {
        let original = self.originals.remove(slot);
        assert_eq!(original.stage, Stage::Sequenced);
        let latency_ns = env.now_ns().saturating_sub(original.started_ns);
        let device = self.known(id);
        device.sequenced -= 1;
        device.open(Gate::OwnSequence);
        if !original.aborted {
            device
                .flow
                .stats
                .of(original.io.op)
                .done(original.io.sectors, status, latency_ns);
            self.answer(env, original.io.tag, status);
        }
        self.reissue(env, id);
    }

    /// Aborts what is parked, closes everything, forgets the device (LC-21).
    fn detach(&mut self, env: &mut E, id: DeviceId) {
        self.lower_flag(env, id);
        self.end_parked(env, id, Status::Aborted);
        let waiting: Vec<u32> = self
            .originals
            .iter()
            .filter_map(|(slot, original)| (original.device == id).then_some(slot))
            .collect();
        waiting
            .into_iter()
            .for_each(|slot| self.originals.discard(slot));
        let mut device = self.devices[id.0 as usize]
            .take()
            .expect("a device is detached once");
        assert_eq!(
            device.flow.under_way(),
            0,
            "a device is detached when it has drained"
        );
        if let Some(live) = &mut device.live {
            live.postsuspend_if_due();
        }
        let Device {
            live,
            inactive,
            staged,
            retired,
            ..
        } = *device;
        [live, inactive, staged, retired]
            .into_iter()
            .for_each(|bound| close(env, bound));
        env.changed(id);
    }
}

fn close<E: Env>(env: &mut E, bound: Option<Bound<E::Channel>>) {
    if let Some(bound) = bound {
        bound.close(env);
    }
}

/// An event for a device that is not there: only an operator expects an answer.
fn refuse<E: Env>(env: &mut E, event: Event) {
    if let Event::Request(_, ticket) = event {
        env.reply(
            ticket,
            Err(Error::new(Errno::Enxio, "there is no such device")),
        );
    }
}
