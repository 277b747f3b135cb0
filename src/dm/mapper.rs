//! The mapper of one core: admits, maps, clones and completes the I/O that this core's front ends submit.
//!
//! Everything here belongs to one core and is touched by no other, so the path of a read or write has no lock, no shared
//! atomic, no allocation and no system call (AT-90). The most frequent I/O is in `whole.rs`.
//!
//! Orders from a device's home core change gates and tables here ([`Mapper::message`]); the home core's own side of it is
//! in `dm/device.rs`.

use std::collections::VecDeque;

use super::bound::Bound;
use super::defect::Defect;
use super::device::Home;
use super::env::{Env, Submit};
use super::io::{CloneId, CoreId, DeviceId, Io, LowerIo, Op};
use super::message::{Epoch, Event, Gate, Message, Steps};
use super::parked::{Parked, Parking};
use super::private::Private;
use super::slab::Slab;
use super::stats::Stats;
use super::status::Status;
use super::table::Limits;
use super::target::{ChannelIndex, Note};
use super::timers::Timers;
use super::whole::Flow;

/// The client number of what the mapper submits for itself: the flush steps of a sequence.
pub(super) const INTERNAL: u32 = u32::MAX;
/// The same for the flush of a suspend with lockfs.
pub(super) const FREEZE: u32 = u32::MAX - 1;
/// The same for what a device sends to one beneath it; the first of these.
pub(super) const STACKED: u32 = u32::MAX - 2;

/// The mapper of one core.
pub struct Mapper<E: Env> {
    pub(super) core: CoreId,
    pub(super) devices: Vec<Option<Box<Device<E::Channel>>>>,
    /// The state machines of the devices whose home this core is.
    pub(super) homes: Vec<Option<Box<Home>>>,
    pub(super) originals: Slab<Original<E::Payload>>,
    pub(super) pieces: Slab<PieceClone>,
    pub(super) private: Slab<Private<E::Payload>>,
    busy: VecDeque<Busy<E::Payload>>,
    /// Devices that have more parked than they have submitted since their gate was opened, and how much is next.
    pub(super) backlogs: VecDeque<(DeviceId, u32)>,
    pub(super) timers: Timers,
    /// Clones that mapped devices beneath have ended; dealt with in the next poll.
    pub(super) ended_below: VecDeque<(CloneId, Status)>,
}

/// A device as one core knows it.
pub(super) struct Device<C> {
    /// Bits of [`Gate`]; 0 is open.
    pub gate: u8,
    pub live: Option<Bound<C>>,
    pub inactive: Option<Bound<C>>,
    pub staged: Option<Bound<C>>,
    /// The table before the last swap, until the gate opens on the new one.
    pub retired: Option<Bound<C>>,
    /// The noflush flag: targets may push back (4.1 step 1). This core's own copy (PM-5).
    pub noflush: bool,
    /// The push-back ring: originals that were handed back while the flag was up, in the order they were.
    pub pushed_back: Parked,
    /// What was pushed back, once the flag is down: before anything deferred, in the order it came (IO-20).
    pub older: Parked,
    /// Originals that arrived while the gate was closed, in order.
    pub deferred: Parked,
    /// Clones that targets hold.
    pub held: u32,
    /// Originals that wait for their sequence at the home core.
    pub sequenced: u32,
    /// The flush policy.
    pub ordered: bool,
    /// How long I/O may stay parked while the device is suspended.
    pub parked_limit_ns: Option<u64>,
    /// The moment for which a timer is armed to see to that.
    pub parked_due_ns: Option<u64>,
    pub flow: Flow,
}

/// An original in its slot.
pub(super) struct Original<P> {
    pub io: Io<P>,
    pub device: DeviceId,
    pub started_ns: u64,
    /// Since when it waits: from its arrival, from when it was pushed back, or from when it asked for its sequence.
    pub parked_ns: u64,
    /// Its number among the device's originals on this core.
    pub arrival: u64,
    /// Link of the list it is parked on.
    pub next: u32,
    pub stage: Stage,
    /// The first error of a clone (IO-15); of a flush step, by the precedence of FL-6.
    pub status: Status,
    /// Clones not finished, and one more while clones are still being issued.
    pub outstanding: u32,
    /// Runs past the gate for the home core, which is told its end instead of a front end: the data step of a sequence, or a
    /// flush of the mapper's own.
    pub for_home: bool,
    /// Some clone was handed back: so is the whole, which outranks any error (IO-15).
    pub handed_back: bool,
    /// The flush step is to be repeated, after this many nanoseconds.
    pub repeat_ns: u64,
    /// The compare of a compare-and-write has succeeded, and is not done again (IO-21).
    pub compared: bool,
    /// The host gave it up while it waited for its sequence, and has been answered: the slot only waits for the home core,
    /// which will name it once more.
    pub aborted: bool,
    /// Where the single clone of a whole original went.
    pub place: u32,
    pub channel: ChannelIndex,
    pub note: Note,
}

/// What an original's clones are doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Parked: no clone.
    Parked,
    /// Waits for its turn at the home core: no clone.
    Sequenced,
    /// Reads or writes the payload.
    Data,
    /// Reads what a compare-and-write compares.
    Compare,
    /// Flushes what a write left in caches that take no FUA (FL-28).
    PostFlush,
    /// A fan-out of flushes, discards or write-zeroes.
    FanOut,
}

/// A clone of an original that has several, or whose target does more than remap it.
#[derive(Clone, Copy)]
pub(super) struct PieceClone {
    pub original: u32,
    /// Its target; [`super::slab::NONE`] for a flush that passes all targets by (FL-20).
    pub place: u32,
    /// First sector, from the target's start.
    pub sector: u64,
    pub sectors: u32,
    /// Which duplicate of a discard, write-zeroes or flush.
    pub number: u32,
    /// Where it went.
    pub channel: ChannelIndex,
    /// What the target wrote on it.
    pub note: Note,
    /// When it went there.
    pub started_ns: u64,
    /// The target holds it, until then or until something changes.
    pub held_until_ns: Option<u64>,
    /// Since when the target has kept it, whatever it was asked meanwhile.
    pub held_since_ns: Option<u64>,
    /// The private buffer that it goes through, while it does; [`super::slab::NONE`] for none.
    pub private: u32,
    /// Link of the list of what the target holds.
    pub next: u32,
}

/// A clone that its lower device had no room for.
struct Busy<P> {
    device: DeviceId,
    channel: ChannelIndex,
    clone: CloneId,
    io: LowerIo<P>,
}

impl<E: Env> Mapper<E> {
    /// The mapper of `core`, without devices, with room for `outstanding` originals before it has to grow.
    pub fn new(core: CoreId, outstanding: usize) -> Mapper<E> {
        Mapper {
            core,
            devices: Vec::new(),
            homes: Vec::new(),
            originals: Slab::new(outstanding),
            pieces: Slab::new(outstanding),
            private: Slab::new(1),
            busy: VecDeque::with_capacity(outstanding),
            backlogs: VecDeque::new(),
            timers: Timers::new(outstanding),
            ended_below: VecDeque::new(),
        }
    }

    /// Makes room for `outstanding` originals in all: front ends announce their queues when they are made, so that the
    /// I/O path never has to.
    pub fn reserve(&mut self, outstanding: usize) {
        self.originals.reserve(outstanding);
        self.pieces.reserve(outstanding);
        self.busy
            .reserve(outstanding.saturating_sub(self.busy.len()));
        self.timers.reserve(outstanding);
        self.ended_below
            .reserve(outstanding.saturating_sub(self.ended_below.len()));
    }

    /// Whether [`Mapper::poll`] has something to do now.
    #[inline(always)]
    pub fn wants_poll(&self, now_ns: u64) -> bool {
        !self.busy.is_empty()
            || !self.ended_below.is_empty()
            || !self.backlogs.is_empty()
            || self.timers.due_ns().is_some_and(|due_ns| due_ns <= now_ns)
    }

    /// When [`Mapper::poll`] will have something to do if nothing else happens, on this core's clock.
    pub fn due_ns(&self) -> Option<u64> {
        self.timers.due_ns()
    }

    /// Does what its time has come for, and submits again what lower devices had no room for. The engine calls it once per turn
    /// in which [`Mapper::wants_poll`].
    pub fn poll(&mut self, env: &mut E) {
        self.complete_stacked(env);
        self.reissue_more(env);
        self.expire(env);
        self.retry_busy(env);
    }

    /// Submits again what lower devices had no room for (PM-15), oldest first.
    fn retry_busy(&mut self, env: &mut E) {
        // Whoever is still refused goes to the back, so one full device does not hold up another.
        for _ in 0..self.busy.len() {
            let Some(Busy {
                device,
                channel,
                clone,
                io,
            }) = self.busy.pop_front()
            else {
                break;
            };
            match self.submit_below(env, device, channel, clone, &io) {
                Submit::Pending => {}
                Submit::Busy if env.planted(Defect::BusyForgotten) => {}
                Submit::Busy => self.busy.push_back(Busy {
                    device,
                    channel,
                    clone,
                    io,
                }),
                Submit::Done(status) => self.complete_clone(env, clone, status),
            }
        }
    }

    /// How many clones wait for room in a lower device.
    pub fn busy(&self) -> usize {
        self.busy.len()
    }

    /// How many originals are in flight or parked on this core, over all devices; those that pass ([`Mapper::pass`]) are not among them.
    pub fn outstanding(&self) -> u32 {
        self.originals.used()
    }

    /// The limits of a device, as bound on this core; `None` without a live table.
    pub fn limits(&self, id: DeviceId) -> Option<&std::sync::Arc<Limits>> {
        self.device(id)?.live.as_ref().map(|live| &live.limits)
    }

    /// Whether a device's flush policy is the ordered one: a flush, or a write with FUA, has the device to itself.
    pub fn is_ordered(&self, id: DeviceId) -> bool {
        self.device(id).is_some_and(|device| device.ordered)
    }

    /// This core's counts of a device; `None` when there is no such device.
    pub fn stats(&self, id: DeviceId) -> Option<Stats> {
        let device = self.device(id)?;
        let mut stats = device.flow.stats.clone();
        device.flow.lane.add_to(&mut stats);
        stats.in_flight = u64::from(device.flow.under_way());
        let lists = [&device.pushed_back, &device.older, &device.deferred];
        let parked: u32 = lists.iter().map(|list| list.len()).sum();
        stats.parked = u64::from(parked) + u64::from(device.sequenced);
        stats.held = u64::from(device.held);
        Some(stats)
    }

    pub(super) fn device(&self, id: DeviceId) -> Option<&Device<E::Channel>> {
        self.devices.get(id.0 as usize)?.as_deref()
    }

    pub(super) fn device_mut(&mut self, id: DeviceId) -> Option<&mut Device<E::Channel>> {
        self.devices.get_mut(id.0 as usize)?.as_deref_mut()
    }

    /// A device that is known to be there: one of its originals is.
    pub(super) fn known(&mut self, id: DeviceId) -> &mut Device<E::Channel> {
        self.devices[id.0 as usize]
            .as_deref_mut()
            .expect("a device outlives its originals")
    }

    /// Everything that is not a plain read or write through an open gate to one place.
    #[inline(never)]
    pub(super) fn submit_slowly(
        &mut self,
        env: &mut E,
        id: DeviceId,
        io: Io<E::Payload>,
    ) -> Option<Status> {
        let device = self.known(id);
        // IO-1: "no table" is tested before "suspended" (LC-1).
        if let Err(status) = device.check(&io) {
            return Some(status);
        }
        let parked = device.gate != 0;
        let slot = self.insert(env, id, io, Stage::Parked);
        if parked {
            let Some(Some(device)) = self.devices.get_mut(id.0 as usize) else {
                return None;
            };
            let list = match device.deferred.len() {
                1.. if env.planted(Defect::LaterOvertakes) => &mut device.older,
                _ => &mut device.deferred,
            };
            list.push(&mut self.originals, slot);
            if device.parked_limit_ns.is_some() {
                self.limit_parked(id);
            }
        } else {
            self.start(env, slot);
        }
        None
    }

    /// Gives an original that has just arrived a slot.
    pub(super) fn insert(
        &mut self,
        env: &mut E,
        id: DeviceId,
        io: Io<E::Payload>,
        stage: Stage,
    ) -> u32 {
        let device = self.known(id);
        let arrival = device.flow.lane.arrive();
        self.originals.insert(Original {
            arrival,
            ..Original::new(id, io, env.now_ns(), stage)
        })
    }

    /// Starts an original that holds a slot: the gate is open, or it is its turn.
    pub(super) fn start(&mut self, env: &mut E, slot: u32) {
        let Original {
            device: id,
            ref io,
            for_home,
            compared,
            ..
        } = self.originals[slot];
        let (op, fua) = (io.op, io.fua);
        let device = self.known(id);
        let steps = match op {
            _ if for_home => None,
            Op::Flush if device.ordered => Some(Steps::Flush),
            Op::Write | Op::WriteZeroes | Op::CompareAndWrite | Op::WriteAtomic
                if device.ordered && fua =>
            {
                Some(Steps::FlushDataFlush)
            }
            Op::CompareAndWrite if !env.planted(Defect::CompareWithoutSequence) => {
                Some(Steps::Data)
            }
            Op::WriteAtomic if !env.planted(Defect::AtomicWithoutSequence) => Some(Steps::Data),
            _ => None,
        };
        if let Some(steps) = steps {
            return self.ask_for_sequence(env, slot, steps);
        }
        device.flow.in_flight += 1;
        match op {
            Op::Read | Op::Write => self.issue_pieces(env, slot, Stage::Data),
            Op::CompareAndWrite if compared => self.issue_pieces(env, slot, Stage::Data),
            Op::CompareAndWrite => self.issue_pieces(env, slot, Stage::Compare),
            Op::WriteAtomic => self.issue_whole(env, slot),
            Op::Flush => self.fan_out_flush(env, slot),
            Op::Discard | Op::WriteZeroes => self.fan_out_range(env, slot),
        }
    }

    /// Submits a clone to a lower channel and deals with each of the three answers.
    #[inline(always)]
    pub(super) fn submit_clone(
        &mut self,
        env: &mut E,
        id: DeviceId,
        channel: ChannelIndex,
        clone: CloneId,
        io: LowerIo<E::Payload>,
    ) {
        match self.submit_below(env, id, channel, clone, &io) {
            Submit::Pending => {}
            Submit::Busy => self.wait_for_room(id, channel, clone, io),
            Submit::Done(status) => self.complete_clone(env, clone, status),
        }
    }

    #[cold]
    pub(super) fn wait_for_room(
        &mut self,
        device: DeviceId,
        channel: ChannelIndex,
        clone: CloneId,
        io: LowerIo<E::Payload>,
    ) {
        self.known(device).flow.stats.busy += 1;
        self.busy.push_back(Busy {
            device,
            channel,
            clone,
            io,
        });
    }
}

impl<C> Device<C> {
    /// A device without a table.
    pub fn new(ordered: bool, parked_limit_ns: Option<u64>) -> Device<C> {
        Device {
            gate: 0,
            live: None,
            inactive: None,
            staged: None,
            retired: None,
            noflush: false,
            pushed_back: Parked::default(),
            older: Parked::default(),
            deferred: Parked::default(),
            held: 0,
            sequenced: 0,
            ordered,
            parked_limit_ns,
            parked_due_ns: None,
            flow: Flow::default(),
        }
    }

    /// Counts one original that has a slot out; as [`Device::has_drained`].
    #[inline(always)]
    pub fn leave(&mut self, left: u32) -> bool {
        self.flow.in_flight -= 1;
        self.has_drained(left)
    }

    /// Whether the round which closes the device has waited for the original that was just counted out.
    #[inline(always)]
    pub fn has_drained(&self, left: u32) -> bool {
        self.flow.lane.is_draining() && self.flow.under_way() <= left
    }

    /// Takes the next parked original that may go on. What was pushed back came before any original that waits for its sequence
    /// here, and does not wait behind it.
    pub fn next_parked<P>(&mut self, originals: &mut Slab<Original<P>>) -> Option<u32> {
        if self.gate & !(Gate::OwnSequence as u8) != 0 {
            return None;
        }
        let older = self.older.pop(originals);
        if older.is_some() || self.gate != 0 {
            return older;
        }
        self.deferred.pop(originals)
    }

    /// Whether there is one.
    pub fn may_reissue(&self) -> bool {
        match self.gate {
            0 => self.older.len() + self.deferred.len() > 0,
            gate => gate == Gate::OwnSequence as u8 && self.older.len() > 0,
        }
    }

    /// Whether an original may be admitted at all, now and by the live table (LC-1, IO-5).
    pub fn check<P>(&self, io: &Io<P>) -> Result<(), Status> {
        let live = self.live.as_ref().ok_or(Status::IoError)?;
        if io.op == Op::Flush {
            return Ok(());
        }
        if live.limits.read_only && io.op != Op::Read {
            return Err(Status::IoError);
        }
        let inside = io
            .sector
            .checked_add(u64::from(io.sectors))
            .is_some_and(|end| end <= live.limits.sectors);
        if !inside || io.sectors == 0 {
            return Err(Status::IoError);
        }
        // By the table itself: the device's limits may be those of the table before it.
        let whole = live.table.limits.atomic_writes;
        if io.op == Op::WriteAtomic && !whole.include(io.sector, io.sectors) {
            return Err(Status::NotSupported);
        }
        Ok(())
    }

    /// Closes the gate for one more reason.
    pub fn close(&mut self, gate: Gate) {
        self.gate |= gate as u8;
        self.flow.lane.close();
    }

    /// Takes one reason to be closed away; whether the gate is open now.
    pub fn open(&mut self, gate: Gate) -> bool {
        self.gate &= !(gate as u8);
        self.gate == 0
    }
}

impl<P> Original<P> {
    pub fn new(device: DeviceId, io: Io<P>, started_ns: u64, stage: Stage) -> Original<P> {
        Original {
            io,
            device,
            started_ns,
            parked_ns: started_ns,
            next: super::slab::NONE,
            stage,
            status: Status::Ok,
            arrival: 0,
            outstanding: 0,
            for_home: false,
            handed_back: false,
            repeat_ns: 0,
            compared: false,
            aborted: false,
            place: 0,
            channel: ChannelIndex(0),
            note: Note::NONE,
        }
    }

    /// Forgets how far it has come, as a new submission of the whole (IO-22).
    pub fn begin_again(&mut self, stage: Stage) {
        debug_assert_eq!(self.outstanding, 0);
        self.stage = stage;
        self.status = Status::Ok;
        self.handed_back = false;
        self.repeat_ns = 0;
    }
}

impl<P> Parking for Slab<Original<P>> {
    fn follower(&self, slot: u32) -> u32 {
        self[slot].next
    }
    fn link(&mut self, slot: u32, next: u32) {
        self[slot].next = next;
    }
}

/// The home core of a device: devices are dealt out to the cores in turn.
pub fn home(device: DeviceId, cores: u16) -> CoreId {
    CoreId((device.0 % u32::from(cores)) as u16)
}

pub(super) fn send_home<E: Env>(env: &mut E, device: DeviceId, event: Event) {
    let core = home(device, env.cores());
    env.send(core, Message::Event { device, event });
}

pub(super) fn acknowledge<E: Env>(
    env: &mut E,
    core: CoreId,
    device: DeviceId,
    epoch: Epoch,
    result: Result<(), String>,
) {
    send_home(
        env,
        device,
        Event::Ack {
            core,
            epoch,
            result,
        },
    );
}
