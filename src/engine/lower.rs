//! The world beneath a mapper on one core of the native engine: [`Env`] over backing devices and mailboxes.

use std::sync::Arc;

use crate::bdev::{self, Channel, Payload};
use crate::dm::{
    self, Answer, CloneId, CoreId, DeviceId, Env, LowerId, LowerIo, Status, Submit, Tag, Ticket,
};

use super::tickets::Tickets;

/// What [`Env`] needs on one core. Messages and completions are gathered here while the mapper runs, and delivered when it has
/// returned (IO-27).
pub struct Lower {
    /// The backing devices' side of this core.
    pub(super) bdevs: bdev::Core,
    pub(super) registry: Arc<bdev::Registry>,
    pub(super) tickets: Arc<Tickets>,
    pub(super) cores: u16,
    pub(super) now_ns: u64,
    /// To other cores and to this one, in the order sent.
    pub(super) outbox: Vec<(CoreId, dm::Message)>,
    /// Per front end: what ended since it was told last.
    pub(super) completed: Vec<Vec<(u32, Status)>>,
    /// Per front end: what it has announced that it may have outstanding ([`super::Core::reserve`]).
    pub(super) reserved: Vec<usize>,
    /// Devices that front ends must look at again.
    pub(super) changed: Vec<DeviceId>,
    /// To operators: given when the mapper has returned, so that whoever hears that a device is gone finds free what it used.
    pub(super) answers: Vec<(Ticket, Answer)>,
}

impl Lower {
    /// The lower side of a core, with no front end and nothing open.
    pub(super) fn new(
        registry: Arc<bdev::Registry>,
        tickets: Arc<Tickets>,
        cores: u16,
        buffer_bytes_max: usize,
    ) -> Lower {
        Lower {
            bdevs: bdev::Core::new(buffer_bytes_max),
            registry,
            tickets,
            cores,
            now_ns: 0,
            outbox: Vec::new(),
            completed: Vec::new(),
            reserved: Vec::new(),
            changed: Vec::new(),
            answers: Vec::new(),
        }
    }

    /// Gives operators their answers.
    pub(super) fn answer(&mut self) {
        for (ticket, answer) in self.answers.drain(..) {
            self.tickets.answer(ticket, answer);
        }
    }
}

impl Env for Lower {
    type Payload = Payload;
    type Channel = Channel;

    fn open(&mut self, lower: LowerId) -> Result<Channel, String> {
        let bdev = self.registry.by_id(lower).ok_or("the bdev was removed")?;
        bdev.channel(&mut self.bdevs)
            .map_err(|error| error.to_string())
    }

    fn close(&mut self, channel: Channel) {
        drop(channel);
    }

    #[inline(always)]
    fn submit(&mut self, channel: &mut Channel, io: &LowerIo<Payload>, clone: CloneId) -> Submit {
        channel.submit(&mut self.bdevs, io, clone)
    }

    #[inline(always)]
    fn complete(&mut self, tag: Tag, status: Status) {
        self.completed[tag.client as usize].push((tag.command, status));
    }

    fn send(&mut self, core: CoreId, message: dm::Message) {
        self.outbox.push((core, message));
    }

    fn reply(&mut self, ticket: Ticket, answer: Answer) {
        self.answers.push((ticket, answer));
    }

    fn changed(&mut self, device: DeviceId) {
        self.changed.push(device);
    }

    fn happened(&mut self) {
        self.tickets.happened();
    }

    fn cores(&self) -> u16 {
        self.cores
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        self.now_ns
    }
}
