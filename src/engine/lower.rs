//! The world beneath a mapper on one core of the native engine: [`Env`] over backing devices and mailboxes.

use std::ptr::NonNull;
use std::sync::Arc;

use crate::bdev::{self, Channel, Patience, Payload};
use crate::dm::{
    self, Answer, BufferId, CloneId, CoreId, DeviceId, Env, Limits, LowerId, LowerIo, Status,
    Submit, Tag, Tamper, Ticket,
};
use crate::reactor::PoolBuffer;

use super::world::Planes;

/// What [`Env`] needs on one core. Messages and completions are gathered here while the mapper runs, and delivered when it has
/// returned (IO-27).
pub struct Lower {
    /// The backing devices' side of this core.
    pub(super) bdevs: bdev::Core,
    pub(super) planes: Planes,
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
    /// Private buffers, by number; as many as were ever out at once, which the pool bounds.
    pub(super) private: Vec<Option<PoolBuffer>>,
}

impl Lower {
    /// The lower side of a core, with no front end and nothing open.
    pub(super) fn new(planes: Planes, cores: u16, buffer_bytes_max: usize) -> Lower {
        Lower {
            bdevs: bdev::Core::new(buffer_bytes_max),
            planes,
            cores,
            now_ns: 0,
            outbox: Vec::new(),
            completed: Vec::new(),
            reserved: Vec::new(),
            changed: Vec::new(),
            answers: Vec::new(),
            private: Vec::new(),
        }
    }

    fn channel(&mut self, lower: LowerId, patience: Patience) -> Result<Channel, String> {
        let bdev = self
            .planes
            .bdevs()
            .by_id(lower)
            .ok_or("the bdev was removed")?;
        bdev.channel_with(&mut self.bdevs, patience)
            .map_err(|error| error.to_string())
    }

    /// Gives operators their answers.
    pub(super) fn answer(&mut self) {
        for (ticket, answer) in self.answers.drain(..) {
            self.planes.answer(ticket, answer);
        }
    }
}

impl Env for Lower {
    type Payload = Payload;
    type Channel = Channel;

    fn open(&mut self, lower: LowerId) -> Result<Channel, String> {
        self.channel(lower, Patience::Holds)
    }

    fn open_path(&mut self, lower: LowerId) -> Result<Channel, String> {
        self.channel(lower, Patience::FailsFast)
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

    fn take_buffer(&mut self, sectors: u32, _: Payload) -> Option<(BufferId, Payload)> {
        let length = sectors * 512;
        let buffer = self.bdevs.bounce().take(length as usize)?;
        let bytes = NonNull::new(buffer.as_mut_ptr()).expect("a buffer has an address");
        let free = self.private.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.private.push(None);
            self.private.len() - 1
        });
        self.private[index] = Some(buffer);
        // SAFETY: the buffer stays where it is and is left to the mapper until it is given back, when nothing below uses it.
        let payload = unsafe { Payload::new(bytes, length) };
        Some((BufferId(index as u32), payload))
    }

    fn give_back(&mut self, buffer: BufferId) {
        let taken = self.private[buffer.0 as usize].take();
        assert!(taken.is_some(), "{buffer:?} is given back once");
    }

    fn fill_read(&mut self, read: Payload, from: Payload) -> bool {
        read.fill(from, self.bdevs.buffers())
    }

    #[cold]
    fn tamper(&mut self, payload: Payload, tamper: Tamper) -> bool {
        payload.tamper(tamper.offset, tamper.value, self.bdevs.buffers())
    }

    fn happened(&mut self) {
        self.planes.happened();
    }

    fn limits_may_become(&mut self, device: DeviceId, limits: &Limits) -> Result<(), String> {
        self.planes.limits_may_become(device, limits)
    }

    fn limits_are(&mut self, device: DeviceId, limits: &Arc<Limits>) {
        self.planes.limits_are(device, limits);
    }

    fn cores(&self) -> u16 {
        self.cores
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        self.now_ns
    }
}
