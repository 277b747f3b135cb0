//! One reactor of the native engine: its mapper, its lower channels, its front ends, turned in that order.

use std::any::Any;

use super::core::Core;
use super::front_end::{ClientId, FrontEnd};
use super::lower::Lower;
use super::world::Planes;
use crate::dm::{self, CloneId, CoreId, DeviceId, LowerId, Mapper, Status};
use crate::reactor::{Context, Interest, Readiness, Service, TimerId};

/// The token of the lower devices' own descriptor; front ends' tokens have their number in the upper half.
const LOWER_TOKEN: u64 = (u32::MAX as u64) << 32;

/// Originals a core has room for before any front end has announced its queues.
const OUTSTANDING_AT_START: usize = 256;

/// Work for a reactor, from the control plane.
pub(super) type Call = Box<dyn FnOnce(&mut Reactor, &mut Context<Message>) + Send>;

/// What reactors of the engine are sent.
pub enum Message {
    /// From mapper to mapper.
    Dm(dm::Message),
    /// From a front end, or the control plane, to a front end.
    FrontEnd {
        /// Which.
        client: ClientId,
        /// What; its own affair.
        message: Box<dyn Any + Send>,
    },
    /// A backing device was taken away from under its users (PM-14).
    LowerGone(LowerId),
    /// Something to run on the reactor.
    Call(Call),
}

/// The service that a reactor runs.
pub struct Reactor {
    pub(super) mapper: Mapper<Lower>,
    pub(super) lower: Lower,
    front_ends: Vec<Option<Box<dyn FrontEnd>>>,
    /// Clones that ended in this turn; kept for its room.
    ended: Vec<(CloneId, Status)>,
    /// Completions being delivered; kept for its room.
    delivering: Vec<(u32, Status)>,
    /// The timer that ends a sleep when the mapper has something to do, and its moment.
    alarm: Option<(u64, TimerId)>,
    stopping: bool,
}

impl Reactor {
    /// A reactor's service, without devices or front ends.
    pub(super) fn new(
        context: &mut Context<Message>,
        planes: Planes,
        buffer_bytes_max: usize,
    ) -> Reactor {
        let core = CoreId(context.core() as u16);
        let lower = Lower::new(planes, context.cores() as u16, buffer_bytes_max);
        Reactor {
            mapper: Mapper::new(core, OUTSTANDING_AT_START),
            lower,
            front_ends: Vec::new(),
            ended: Vec::new(),
            delivering: Vec::new(),
            alarm: None,
            stopping: false,
        }
    }

    /// Adds a front end's part on this core. Its number is the same on every core.
    pub(super) fn add_front_end(&mut self, client: ClientId, front_end: Box<dyn FrontEnd>) {
        let index = client.0 as usize;
        if self.front_ends.len() <= index {
            self.front_ends.resize_with(index + 1, || None);
            self.lower.completed.resize_with(index + 1, Vec::new);
        }
        self.front_ends[index] = Some(front_end);
    }

    /// Runs `f` for a front end, with the core lent to it.
    fn with<R>(
        &mut self,
        index: usize,
        context: &mut Context<Message>,
        f: impl FnOnce(&mut dyn FrontEnd, &mut Core<'_>) -> R,
    ) -> Option<R> {
        let front_end = self.front_ends.get_mut(index)?.as_deref_mut()?;
        let client = ClientId(index as u32);
        let mut core = Core {
            mapper: &mut self.mapper,
            lower: &mut self.lower,
            context,
            client,
        };
        Some(f(front_end, &mut core))
    }

    /// Delivers what the mapper has gathered: changes first, so that a host hears of a new size before I/O that was parked
    /// for it ends (LC-16); then completions; then messages to other cores.
    fn deliver(&mut self, context: &mut Context<Message>) -> bool {
        let mut any = false;
        while let Some(device) = self.lower.changed.pop() {
            any = true;
            for index in 0..self.front_ends.len() {
                self.with(index, context, |front_end, core| {
                    front_end.device_changed(device, core)
                });
            }
        }
        for index in 0..self.front_ends.len() {
            if self.lower.completed[index].is_empty() {
                continue;
            }
            any = true;
            std::mem::swap(&mut self.delivering, &mut self.lower.completed[index]);
            let done = std::mem::take(&mut self.delivering);
            self.with(index, context, |front_end, core| {
                front_end.completed(&done, core)
            });
            self.delivering = done;
            self.delivering.clear();
        }
        self.lower.answer();
        for (core, message) in self.lower.outbox.drain(..) {
            any = true;
            context.send(usize::from(core.0), Message::Dm(message));
        }
        any
    }

    /// Sees to it that a sleep ends when the mapper has something to do.
    fn set_alarm(&mut self, context: &mut Context<Message>) {
        let lower_ns = Some(self.lower.bdevs.due_ns()).filter(|due_ns| *due_ns != u64::MAX);
        let due_ns = self.mapper.due_ns().into_iter().chain(lower_ns).min();
        if self.alarm.map(|(at_ns, _)| at_ns) == due_ns {
            return;
        }
        if let Some((_, timer)) = self.alarm.take() {
            context.cancel_timer(timer);
        }
        self.alarm = due_ns.map(|at_ns| (at_ns, context.set_timer(at_ns, LOWER_TOKEN)));
    }

    /// Watches the lower devices' descriptors once they are there, so that a completion ends a sleep.
    fn watch_lower(&mut self, context: &mut Context<Message>) {
        while let Some(fd) = self.lower.bdevs.unwatched_fd() {
            // Without the watch the reactor would sleep through completions: better to say so and stop.
            context
                .watch(fd, Interest::READ, LOWER_TOKEN)
                .expect("descriptors of io_uring and epoll can be watched");
        }
    }

    /// A backing device was taken away: whatever on this core has to do with it hears of it here, in this order. First its channels,
    /// so that nothing more is submitted to it; what it still has in flight ends as it will (PM-14).
    fn lower_gone(&mut self, lower: LowerId) {
        self.lower.bdevs.lower_gone(lower);
        self.mapper.lower_gone(&mut self.lower, lower);
    }

    /// Counts of a device on this core.
    pub(super) fn stats(&self, device: DeviceId) -> Option<dm::Stats> {
        self.mapper.stats(device)
    }
}

impl Service for Reactor {
    type Message = Message;

    fn message(&mut self, message: Message, context: &mut Context<Message>) {
        self.lower.now_ns = context.now_ns();
        match message {
            Message::Dm(message) => self.mapper.message(&mut self.lower, message),
            Message::FrontEnd { client, message } => {
                self.with(client.0 as usize, context, |front_end, core| {
                    front_end.message(message, core)
                });
            }
            Message::LowerGone(lower) => self.lower_gone(lower),
            Message::Call(call) => call(self, context),
        }
        self.watch_lower(context);
        self.deliver(context);
    }

    fn poll(&mut self, context: &mut Context<Message>) -> bool {
        self.lower.now_ns = context.now_ns();
        self.lower.bdevs.poll(&mut self.ended);
        let mut any = !self.ended.is_empty();
        for (clone, status) in self.ended.drain(..) {
            self.mapper.complete_clone(&mut self.lower, clone, status);
        }
        if self.mapper.wants_poll(self.lower.now_ns) {
            self.mapper.poll(&mut self.lower);
        }
        any |= self.deliver(context);
        for index in 0..self.front_ends.len() {
            any |= self
                .with(index, context, |front_end, core| front_end.poll(core))
                .unwrap_or(false);
        }
        self.lower.bdevs.submit_gathered();
        any |= self.deliver(context);
        any
    }

    fn ready(&mut self, token: u64, readiness: Readiness, context: &mut Context<Message>) {
        if token == LOWER_TOKEN {
            self.lower.bdevs.ready();
            return;
        }
        self.with((token >> 32) as usize, context, |front_end, core| {
            front_end.ready(token as u32, readiness, core)
        });
        self.deliver(context);
    }

    fn timer(&mut self, token: u64, context: &mut Context<Message>) {
        self.lower.now_ns = context.now_ns();
        if token == LOWER_TOKEN {
            // It has ended a sleep; the turn's poll does what is due.
            self.alarm = None;
            return;
        }
        self.with((token >> 32) as usize, context, |front_end, core| {
            front_end.timer(token as u32, core)
        });
        self.deliver(context);
    }

    fn before_sleep(&mut self, context: &mut Context<Message>) -> bool {
        let mut may = true;
        for index in 0..self.front_ends.len() {
            may &= self
                .with(index, context, |front_end, core| {
                    front_end.before_sleep(core)
                })
                .unwrap_or(true);
        }
        may &= !self.deliver(context);
        self.set_alarm(context);
        // Last: what front ends have just submitted must be with the kernel, or be tried again, before the reactor sleeps.
        self.lower.bdevs.before_sleep() && !self.mapper.wants_poll(self.lower.now_ns) && may
    }

    fn stop(&mut self, context: &mut Context<Message>) {
        self.stopping = true;
        for index in 0..self.front_ends.len() {
            self.with(index, context, |front_end, core| front_end.stop(core));
        }
        self.deliver(context);
    }

    fn stopped(&self) -> bool {
        self.stopping
            && self
                .front_ends
                .iter()
                .flatten()
                .all(|front_end| front_end.stopped())
    }
}
