//! What a core does when its device's home core orders it: gates, tables, and the re-issue of what was parked.

use std::sync::Arc;

use super::bound::Bound;
use super::device::Home;
use super::env::Env;
use super::error::{Errno, Error};
use super::io::{DeviceId, Io, Op, Payload, Tag};
use super::mapper::{Device, INTERNAL, Mapper, Original, Stage, acknowledge, send_home};
use super::message::{
    Answer, Epoch, Event, Gate, Message, Order, Reply, Request, Steps, TargetLine, Waiting,
};
use super::parked::Parked;
use super::stats::Stats;
use super::status::Status;
use super::table::Limits;

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
        if let (None, Event::Request(Request::Create { ordered }, _)) = (&self.homes[index], &event)
        {
            self.homes[index] = Some(Box::new(Home::new(id, *ordered)));
        }
        let device = self
            .devices
            .get_mut(index)
            .and_then(|device| device.as_deref_mut());
        match (&event, device.and_then(|device| device.live.as_mut())) {
            // This core's copies of the targets are told what the others' have seen, and asked for their status.
            (
                Event::TargetFailed {
                    segment,
                    channel,
                    status,
                },
                Some(live),
            ) if *segment < live.places() => {
                live.segment(*segment).target.failed(*channel, *status);
            }
            (Event::Request(Request::Status, ticket), live) if self.homes[index].is_some() => {
                return env.reply(*ticket, status(live));
            }
            _ => {}
        }
        if let Some(home) = &mut self.homes[index] {
            if !home.event(env, event) {
                self.homes[index] = None;
            }
        } else {
            refuse(env, event);
        }
    }

    fn order(&mut self, env: &mut E, id: DeviceId, epoch: Epoch, order: Order) {
        let mut result = Ok(());
        match order {
            Order::Attach { ordered } => self.attach(env, id, ordered),
            Order::Stage(table) => match Bound::open(table, env) {
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
                let device = self.known(id);
                device.close(gate);
                if device.in_flight > 0 {
                    assert!(device.draining.is_none(), "one drain at a time");
                    device.draining = Some(epoch);
                    return;
                }
            }
            Order::Swap(limits) => self.swap(env, id, limits),
            Order::Open(gate) => {
                let device = self.known(id);
                let retired = if gate == Gate::Suspend {
                    device.retired.take()
                } else {
                    None
                };
                device.open(gate);
                close(env, retired);
                self.reissue(env, id);
            }
            Order::Flush => return self.flush_step(env, id),
            Order::RunData { original } => return self.run_data(env, id, original),
            Order::Finish { original, status } => {
                return self.finish_sequenced(env, id, original, status);
            }
            Order::Detach => self.detach(env, id),
        }
        acknowledge(env, self.core, id, epoch, result);
    }

    fn attach(&mut self, env: &mut E, id: DeviceId, ordered: bool) {
        let index = id.0 as usize;
        if self.devices.len() <= index {
            self.devices.resize_with(index + 1, || None);
        }
        assert!(
            self.devices[index].is_none(),
            "a device number is free before it is given away again"
        );
        self.devices[index] = Some(Box::new(Device {
            gate: 0,
            live: None,
            inactive: None,
            staged: None,
            retired: None,
            in_flight: 0,
            draining: None,
            deferred: Parked::default(),
            sequenced: 0,
            ordered,
            stats: Stats::default(),
        }));
        env.changed(id);
    }

    fn swap(&mut self, env: &mut E, id: DeviceId, limits: Arc<Limits>) {
        let device = self.known(id);
        assert_eq!(
            device.in_flight, 0,
            "a table is swapped only when nothing is in flight on it"
        );
        let same = device.live.as_ref().is_some_and(|old| old.limits == limits);
        device.retired = std::mem::replace(&mut device.live, device.inactive.take());
        if let Some(live) = &mut device.live {
            live.limits = limits;
        }
        if !same {
            // Before anything parked is re-issued, so that hosts learn of a new size first (LC-16).
            env.changed(id);
        }
    }

    /// Submits what is parked, oldest first, as long as the gate stays open; an original that asks for a sequence closes it
    /// again and what is behind stays, in order (SU-13, SU-15). It is mapped by the table of now (IO-22).
    fn reissue(&mut self, env: &mut E, id: DeviceId) {
        while let Some(Some(device)) = self.devices.get_mut(id.0 as usize)
            && device.gate == 0
            && let Some(slot) = device.deferred.pop(&mut self.originals)
        {
            match device.check(&self.originals[slot].io) {
                Ok(()) => self.start(env, slot),
                Err(status) => {
                    let original = self.originals.remove(slot);
                    env.complete(original.io.tag, status);
                }
            }
        }
    }

    /// An original needs the device to itself: it waits here, and what comes after it waits behind it.
    pub(super) fn ask_for_sequence(&mut self, env: &mut E, slot: u32, steps: Steps) {
        let original = &mut self.originals[slot];
        original.stage = Stage::Sequenced;
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

    /// The flush clones of a step: an original of the mapper's own, whose end the home core is told.
    fn flush_step(&mut self, env: &mut E, id: DeviceId) {
        let tag = Tag {
            client: INTERNAL,
            command: id.0,
        };
        let io = Io {
            tag,
            op: Op::Flush,
            fua: false,
            sector: 0,
            sectors: 0,
            payload: E::Payload::empty(),
        };
        self.known(id).in_flight += 1;
        let slot = self
            .originals
            .insert(Original::new(id, io, env.now_ns(), Stage::FanOut));
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
            return send_home(env, id, Event::DataDone(status));
        }
        self.originals[slot].in_sequence = true;
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
                .stats
                .of(original.io.op)
                .done(original.io.sectors, status, latency_ns);
            env.complete(original.io.tag, status);
        }
        self.reissue(env, id);
    }

    /// Aborts what is parked, closes everything, forgets the device (LC-21).
    fn detach(&mut self, env: &mut E, id: DeviceId) {
        let device = self.devices[id.0 as usize]
            .take()
            .expect("a device is detached once");
        assert_eq!(
            device.in_flight, 0,
            "a device is detached when it has drained"
        );
        let parked: Vec<u32> = self
            .originals
            .iter()
            .filter(|(_, o)| o.device == id)
            .map(|(slot, _)| slot)
            .collect();
        for slot in parked {
            let original = self.originals.remove(slot);
            if !original.aborted {
                env.complete(original.io.tag, Status::Aborted);
            }
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

/// The INFO text of every target (LC-22).
fn status<C>(live: Option<&mut Bound<C>>) -> Answer {
    let lines = live.map_or_else(Vec::new, |live| {
        let lowers = &live.table.lowers;
        live.segments()
            .map(|segment| TargetLine::new(segment, segment.target.status(lowers)))
            .collect()
    });
    Ok(Reply::Lines(lines))
}
