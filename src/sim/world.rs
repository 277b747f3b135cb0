//! One core's side of the world: the [`Env`] that the simulator gives to a mapper, and what all cores share.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use super::watch::Watch;
use super::{Bytes, Disk, Random, Taken};
use crate::dm::{
    Answer, BufferId, CloneId, CoreId, Defect, DeviceId, Env, Limits, LowerId, LowerIo, Message,
    Op, Payload as _, Status, Submit, Tag, Tamper, Ticket,
};

/// What happened, in the order it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A lower device took a clone.
    Submitted {
        /// From which core.
        core: u16,
        /// Which disk.
        disk: usize,
        /// What it is to do.
        op: Op,
        /// Force-unit-access.
        fua: bool,
        /// First sector of the disk.
        sector: u64,
        /// Sectors.
        sectors: u32,
    },
    /// A lower device finished one.
    Ended {
        /// Which disk.
        disk: usize,
        /// What it did.
        op: Op,
        /// How it ended.
        status: Status,
    },
    /// An original was completed.
    Completed {
        /// Its number.
        command: u32,
        /// How it ended.
        status: Status,
    },
    /// A core's front ends were told that a device has changed.
    Changed {
        /// The core.
        core: u16,
    },
}

/// What all cores share.
pub struct Shared {
    /// The lower devices.
    pub disks: Vec<Disk>,
    /// Message queues, by receiver, then sender; the last sender is the operator.
    pub(super) links: Vec<Vec<VecDeque<Message>>>,
    /// What happened since the last look.
    pub seen: Vec<Seen>,
    pub(super) ended: BTreeMap<u32, Status>,
    pub(super) answers: BTreeMap<u64, Answer>,
    /// Messages from core to core so far.
    pub messages: u64,
    /// The time, in nanoseconds; only the scheduler moves it.
    pub now_ns: u64,
    pub(super) random: Random,
    /// The checks and the trace of a simulation; tests of the mapper bring their own.
    pub(super) watch: Option<Watch>,
    /// The defect that is planted.
    pub defect: Option<Defect>,
    /// Private buffers that are out, by number.
    pub buffers: BTreeMap<u32, Bytes>,
    /// How many there may be at once.
    pub buffers_max: usize,
    /// How many there have been.
    pub buffers_taken: u32,
    /// There is no memory for what reads are to be answered with: so many times more.
    pub read_refusals: u32,
    /// What each device has said of its limits, by number.
    pub(super) limits: BTreeMap<u32, Said>,
    /// How many sectors of a device those above it are said to use, by number.
    pub used_sectors: BTreeMap<u32, u64>,
}

/// What a device has said of its limits to those above.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// What they are.
    pub are: Option<Arc<Limits>>,
    /// They may become others; how that ended is still to be said.
    pub open: bool,
}

/// One core's side of the world: the [`Env`] of its mapper.
pub struct World {
    pub(super) core: CoreId,
    pub(super) shared: Rc<RefCell<Shared>>,
}

/// A lower device as opened on a core.
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    disk: usize,
    core: CoreId,
}

impl Env for World {
    type Payload = Bytes;
    type Channel = Channel;

    fn open(&mut self, lower: LowerId) -> Result<Channel, String> {
        let disk = &mut self.shared.borrow_mut().disks[lower.0 as usize];
        if disk.gone || disk.closed_to.contains(&self.core.0) {
            return Err("no room for its ring".into());
        }
        disk.channels += 1;
        Ok(Channel {
            disk: lower.0 as usize,
            core: self.core,
        })
    }

    fn close(&mut self, channel: Channel) {
        assert_eq!(channel.core, self.core, "closed on the core that opened it");
        let mut shared = self.shared.borrow_mut();
        let disk = &mut shared.disks[channel.disk];
        disk.channels -= 1;
        let opened = disk.channels > 0 || disk.held.is_empty();
        assert!(opened, "the last channel is closed with I/O in flight");
    }

    fn submit(&mut self, channel: &mut Channel, io: &LowerIo<Bytes>, clone: CloneId) -> Submit {
        assert_eq!(channel.core, self.core, "used on the core that opened it");
        let shared = &mut *self.shared.borrow_mut();
        let disk = &mut shared.disks[channel.disk];
        let taken = disk.submit(self.core, clone, *io, &mut shared.random);
        if let Some(watch) = &mut shared.watch {
            watch.submitted(self.core.0, channel.disk, io, &taken);
        }
        let LowerIo {
            op,
            fua,
            sector,
            sectors,
            ..
        } = *io;
        if shared.watch.is_none() && !matches!(taken, Taken::Busy) {
            shared.seen.push(Seen::Submitted {
                core: self.core.0,
                disk: channel.disk,
                op,
                fua,
                sector,
                sectors,
            });
        }
        match taken {
            Taken::Busy => Submit::Busy,
            Taken::Held => Submit::Pending,
            Taken::Done(status) => {
                let disk = channel.disk;
                shared.saw(Seen::Ended { disk, op, status });
                Submit::Done(status)
            }
        }
    }

    fn complete(&mut self, tag: Tag, status: Status) {
        assert_eq!(
            tag.client,
            u32::from(self.core.0),
            "completed on the core that submitted it"
        );
        self.shared.borrow_mut().ended(tag.command, status);
    }

    fn send(&mut self, core: CoreId, message: Message) {
        let mut shared = self.shared.borrow_mut();
        shared.messages += 1;
        if let Some(watch) = &mut shared.watch {
            watch.sent(self.core.0, core.0, &message);
        }
        shared.links[core.0 as usize][self.core.0 as usize].push_back(message);
    }

    fn reply(&mut self, ticket: Ticket, answer: Answer) {
        let before = self.shared.borrow_mut().answers.insert(ticket.0, answer);
        assert!(before.is_none(), "{ticket:?} was answered twice");
    }

    fn changed(&mut self, _device: DeviceId) {
        let core = self.core.0;
        self.shared.borrow_mut().saw(Seen::Changed { core });
    }

    fn take_buffer(&mut self, sectors: u32, instead_of: Bytes) -> Option<(BufferId, Bytes)> {
        let shared = &mut *self.shared.borrow_mut();
        if shared.buffers.len() >= shared.buffers_max {
            return None;
        }
        // Nobody may take what is in it for data.
        let bytes = Bytes::new(vec![0xb5; sectors as usize * 512]);
        let number = shared.buffers_taken;
        shared.buffers_taken += 1;
        shared.buffers.insert(number, bytes);
        if let Some(watch) = &mut shared.watch {
            watch.private(bytes, instead_of);
        }
        Some((BufferId(number), bytes))
    }

    fn give_back(&mut self, buffer: BufferId) {
        let mut shared = self.shared.borrow_mut();
        let bytes = shared.buffers.remove(&buffer.0);
        bytes.expect("a buffer is given back once").take();
    }

    fn fill_read(&mut self, read: Bytes, from: Bytes) -> bool {
        if self.refuses() {
            return false;
        }
        read.copy_from(from);
        true
    }

    fn tamper(&mut self, payload: Bytes, tamper: Tamper) -> bool {
        let is_private = {
            let buffers = &self.shared.borrow().buffers;
            let mut buffers = buffers.values().map(|bytes| bytes.buffer());
            buffers.any(|buffer| buffer == payload.buffer())
        };
        if !is_private && self.refuses() {
            return false;
        }
        payload.with(|bytes| bytes[tamper.offset as usize] = tamper.value);
        true
    }

    fn limits_may_become(&mut self, device: DeviceId, limits: &Limits) -> Result<(), String> {
        let shared = &mut *self.shared.borrow_mut();
        let said = shared.limits.entry(device.0).or_default();
        assert!(said.are.is_some() && !said.open, "one change at a time");
        if shared.used_sectors.get(&device.0) > Some(&limits.sectors) {
            return Err("more of it is used".into());
        }
        said.open = true;
        Ok(())
    }

    fn limits_are(&mut self, device: DeviceId, limits: &Arc<Limits>) {
        let mut shared = self.shared.borrow_mut();
        let said = shared.limits.entry(device.0).or_default();
        (said.are, said.open) = (Some(limits.clone()), false);
    }

    fn cores(&self) -> u16 {
        self.shared.borrow().links.len() as u16
    }

    fn now_ns(&self) -> u64 {
        self.shared.borrow().now_ns
    }

    fn planted(&self, defect: Defect) -> bool {
        self.shared.borrow().defect == Some(defect)
    }
}

impl World {
    /// Whether there is no memory for what a read is to be answered with.
    fn refuses(&self) -> bool {
        let refusals = &mut self.shared.borrow_mut().read_refusals;
        let refused = *refusals > 0;
        *refusals = refusals.saturating_sub(1);
        refused
    }
}

impl Shared {
    /// The messages on their way between two cores, oldest first.
    pub(super) fn link(&self, from: usize, to: usize) -> &VecDeque<Message> {
        &self.links[to][from]
    }

    /// Takes in the end of an original.
    pub(super) fn ended(&mut self, command: u32, status: Status) {
        let before = self.ended.insert(command, status);
        assert!(before.is_none(), "command {command} was completed twice");
        if let Some(watch) = &mut self.watch {
            watch.completed(command, status);
        }
        self.saw(Seen::Completed { command, status });
    }

    /// Keeps what happened for a test to look at; a simulation has its watch.
    pub(super) fn saw(&mut self, seen: Seen) {
        if self.watch.is_none() {
            self.seen.push(seen);
        }
    }
}
