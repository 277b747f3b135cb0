//! The world beneath a mapper on one core of the native engine: [`Env`] over backing devices and mailboxes.

use std::ptr::NonNull;
use std::sync::Arc;

use crate::bdev::{self, Channel, Patience, Payload};
use crate::dm::{
    self, Answer, CloneId, CopyId, CoreId, DeviceId, Env, Limits, LowerId, LowerIo, Status, Submit,
    Tag, Tamper, Ticket,
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
    /// Private copies of what is written, by number; as many as were ever out at once, which the pool bounds.
    pub(super) copies: Vec<Option<PoolBuffer>>,
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
            copies: Vec::new(),
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

    #[cold]
    fn tampered_copy(&mut self, payload: Payload, tamper: Tamper) -> Option<(CopyId, Payload)> {
        let source = payload.as_memory().expect("a write supplies its memory");
        let length = payload.length();
        let mut buffer = self.bdevs.bounce().take(length as usize)?;
        // SAFETY: the payload is valid for reads of its length until the write has completed; the buffer holds as much and is nobody
        // else's.
        unsafe {
            buffer
                .as_mut_ptr()
                .copy_from_nonoverlapping(source, length as usize);
        }
        buffer[tamper.offset as usize] = tamper.value;
        let bytes = NonNull::new(buffer.as_mut_ptr()).expect("a buffer has an address");
        let free = self.copies.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.copies.push(None);
            self.copies.len() - 1
        });
        self.copies[index] = Some(buffer);
        // SAFETY: the buffer stays where it is and is left alone until it is given back, when the write has ended below.
        let copy = unsafe { Payload::new(bytes, length) };
        Some((CopyId(index as u32), copy))
    }

    #[cold]
    fn give_back(&mut self, copy: CopyId) {
        let buffer = self.copies[copy.0 as usize].take();
        assert!(buffer.is_some(), "{copy:?} is given back once");
    }

    #[cold]
    fn tamper_read(&mut self, payload: Payload, tamper: Tamper) -> bool {
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
