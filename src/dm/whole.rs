//! Reads and writes that are one piece, which most are: submitted, sent and completed with as little as possible in between.
//!
//! A clone that its lower device finishes at once never even takes a slot:
//!
//! ```text
//! submit ─ gate open, table live? ─ piece() maps ─ env.submit ┬ Done    → answered in the return value
//!             │ no                     │ more than one piece  ├ Pending → slot; complete_clone() later
//!             └ deferred list          └ slow path: pieces    └ Busy    → slot, busy list; retry_busy() later
//! ```
//!
//! An engine that has a record of every I/O of its own, such as SPDK, asks first whether it may pass; then there is one record and not two:
//!
//! ```text
//! pass ┬ Some → the engine submits it ┬ went well → Lane::leave(), and the engine completes it
//!      │                              ├ failed    → stopped(): takes a slot now, and the target is asked
//!      └ None → submit                └ no room   → Lane::turn_back(), and submit
//! ```
//!
//! It need not ask for each: what it is told of one is good for others that go the same way (`lane.rs`).

use std::rc::Rc;

use super::bound::{Bound, Found, Piece};
use super::defect::Defect;
use super::env::{Env, Submit};
use super::io::{CloneId, DeviceId, Io, LowerIo, Op, Payload as _};
use super::lane::{Lane, Passing, Way};
use super::mapper::{Device, Mapper, Original, Stage};
use super::slab::Slab;
use super::stacked::Channel;
use super::stats::Stats;
use super::status::Status;
use super::target::{Ask, ChannelIndex, Map, Note, Remap};

/// Marks the clone id of an original that has exactly one clone: the number is the original's own slot.
const WHOLE: u32 = 1 << 31;

/// What one core counts of a device's I/O.
#[derive(Default)]
pub(super) struct Flow {
    /// Originals admitted and not completed that have a slot.
    pub in_flight: u32,
    /// Those that the engine keeps ([`Mapper::pass`]), and how originals are numbered.
    pub lane: Rc<Lane>,
    /// But for those of the lane.
    pub stats: Stats,
}

impl Drop for Flow {
    /// Ways may outlive the device.
    fn drop(&mut self) {
        self.lane.close();
    }
}

/// Where the only clone of a read or write goes.
#[derive(Clone, Copy)]
struct Route {
    place: u32,
    channel: ChannelIndex,
    sector: u64,
    note: Note,
}

/// How it was sent.
enum Sent<P> {
    /// It is done, and took no slot.
    Done,
    /// It will be completed.
    Pending,
    /// It has to be tried again.
    Busy(ChannelIndex, CloneId, LowerIo<P>),
    /// It took a slot, and has ended.
    Ended(CloneId, Status),
    /// It goes to a mapped device, and has not been sent.
    Deeper(Map),
}

/// The way through for a read or write that the engine keeps itself.
pub struct Passage<'a, C> {
    /// Where it goes.
    pub channel: &'a C,
    /// Its first sector there; it has as many as above.
    pub sector: u64,
    /// Where it is counted in and out.
    pub lane: &'a Rc<Lane>,
    live: &'a Bound<C>,
    place: u32,
}

impl<C> Passage<'_, C> {
    /// What is to be kept so that others may go the same way, each to what `to` is of its channel; `None` if they have to be looked up, or if `to` is for a channel
    /// on the way.
    pub fn way<L>(&self, to: impl Fn(&C) -> Option<L>) -> Option<Way<L>> {
        self.live.way(self.place, self.lane, to)
    }
}

impl<E: Env> Mapper<E> {
    /// Submits an original. `Some` when it ended at once; otherwise [`Env::complete`] is called with its tag, exactly once.
    ///
    /// A read or write within one target, to a device that finishes at once, costs a bounds check, a mapping and the
    /// lower submission: no slot, no list.
    #[inline(always)]
    pub fn submit(&mut self, env: &mut E, id: DeviceId, io: Io<E::Payload>) -> Option<Status> {
        let Some(Some(device)) = self.devices.get_mut(id.0 as usize) else {
            return Some(Status::IoError);
        };
        let plain = match io.op {
            Op::Read => true,
            Op::Write => !io.fua,
            _ => false,
        };
        if !plain || device.gate != 0 {
            return self.submit_slowly(env, id, io);
        }
        let Device {
            live: Some(live),
            flow,
            ..
        } = &mut **device
        else {
            return Some(Status::IoError);
        };
        let (piece, remap) = match live.find(io.op, io.sector, io.sectors) {
            Found::Whole(piece, remap) => (piece, remap),
            Found::Pieces => return self.submit_slowly(env, id, io),
            Found::Outside => return Some(Status::IoError),
        };
        match remap {
            Remap::To(channel, sector) => {
                let route = Route {
                    place: piece.place,
                    channel,
                    sector,
                    note: Note::NONE,
                };
                let sent = flow.send_whole(env, &mut self.originals, live, id, &io, route);
                self.whole_sent(env, id, io, piece, sent)
            }
            Remap::Zero => Some(self.zeroed(id, io)),
            Remap::Ask => self.ask_whole(env, id, io, piece),
        }
    }

    /// A lower device has finished a clone.
    #[inline]
    pub fn complete_clone(&mut self, env: &mut E, clone: CloneId, status: Status) {
        if clone.0 & WHOLE == 0 {
            return self.complete_piece(env, clone.0, status);
        }
        let slot = clone.0 & !WHOLE;
        if status != Status::Ok || self.originals[slot].note != Note::NONE {
            return self.whole_ended(env, slot, status);
        }
        self.conclude(env, slot, Status::Ok);
    }

    /// A read finds zeroes, a write leaves no trace.
    #[inline(always)]
    fn zeroed(&mut self, id: DeviceId, io: Io<E::Payload>) -> Status {
        if io.op == Op::Read {
            io.payload.fill_zero();
        }
        let counters = self.known(id).flow.stats.of(io.op);
        counters.done(io.sectors, Status::Ok, 0);
        Status::Ok
    }

    /// Asks the target of a read or write that is one piece where it goes.
    #[inline(never)]
    fn ask_whole(
        &mut self,
        env: &mut E,
        id: DeviceId,
        io: Io<E::Payload>,
        piece: Piece,
    ) -> Option<Status> {
        let ask = Ask::of(io.op, piece.within, piece.sectors, env.now_ns());
        let map = self.live(id).segment(piece.place).target.map(&ask);
        match map {
            Map::Remapped {
                channel,
                sector,
                note,
            } => {
                let route = Route {
                    place: piece.place,
                    channel,
                    sector,
                    note,
                };
                let Some(Some(device)) = self.devices.get_mut(id.0 as usize) else {
                    unreachable!("its target has just answered")
                };
                let (flow, live) = (&mut device.flow, device.live.as_mut());
                let live = live.expect("its target has just answered");
                let sent = flow.send_whole(env, &mut self.originals, live, id, &io, route);
                self.whole_sent(env, id, io, piece, sent)
            }
            Map::Zero => Some(self.zeroed(id, io)),
            Map::Kill => {
                let counters = self.known(id).flow.stats.of(io.op);
                counters.done(piece.sectors, Status::IoError, 0);
                Some(Status::IoError)
            }
            map => {
                self.keep_whole(env, id, io, piece, map);
                None
            }
        }
    }

    /// What follows from how the only clone of a read or write was sent.
    #[inline(always)]
    fn whole_sent(
        &mut self,
        env: &mut E,
        id: DeviceId,
        io: Io<E::Payload>,
        piece: Piece,
        sent: Sent<E::Payload>,
    ) -> Option<Status> {
        match sent {
            Sent::Done => return Some(Status::Ok),
            Sent::Pending => {}
            Sent::Busy(channel, clone, lower) => self.wait_for_room(id, channel, clone, lower),
            Sent::Ended(clone, status) => self.ended_at_once(env, clone, status),
            Sent::Deeper(map) => self.keep_whole(env, id, io, piece, map),
        }
        None
    }

    /// A clone ended while it was submitted, and there is more to that than success.
    #[inline(never)]
    fn ended_at_once(&mut self, env: &mut E, clone: CloneId, status: Status) {
        self.complete_clone(env, clone, status);
    }

    /// Lets a read, or a write without force-unit-access, through without a slot, if it is one piece, its device runs, and its target only
    /// computes where it goes: for an engine that keeps what is in flight itself, and submits it by itself to [`Passage::channel`].
    ///
    /// The engine counts it in ([`Lane::enter`]).
    #[inline(always)]
    pub fn pass(
        &mut self,
        env: &E,
        id: DeviceId,
        op: Op,
        sector: u64,
        sectors: u32,
    ) -> Option<Passage<'_, E::Channel>> {
        debug_assert!(matches!(op, Op::Read | Op::Write));
        let device = self.devices.get_mut(id.0 as usize)?.as_deref_mut()?;
        if device.gate != 0 && !env.planted(Defect::GatePassed) {
            return None;
        }
        let live = device.live.as_mut()?;
        // Whoever asks had no way that leads there.
        let found = live.find_anew(op, sector, sectors);
        let Found::Whole(Piece { place, .. }, Remap::To(channel, sector)) = found else {
            return None;
        };
        let Channel::Lower(below) = &live.channels[channel.0 as usize] else {
            return None;
        };
        Some(Passage {
            channel: below,
            sector,
            lane: &device.flow.lane,
            live,
            place,
        })
    }

    /// No way to a device that was found so far is good any more: for an engine that lets nothing more through, or lets go of what ways lead to.
    pub fn close_ways(&self, id: DeviceId) {
        if let Some(device) = self.device(id) {
            device.flow.lane.close();
        }
    }

    /// One that was let through has left while a round waits for what is under way ([`Lane::leave`]).
    #[cold]
    pub fn left(&mut self, env: &mut E, id: DeviceId) {
        let left = u32::from(env.planted(Defect::DrainedEarly));
        if self.known(id).has_drained(left) {
            self.drained(env, id);
        }
    }

    /// What was let through has failed below: it takes a slot, as if it had had one from the start, and its target is asked what becomes of it.
    /// [`Env::complete`] is called when it has ended.
    #[cold]
    pub fn stopped(
        &mut self,
        env: &mut E,
        id: DeviceId,
        io: Io<E::Payload>,
        passing: &Passing,
        status: Status,
    ) {
        let flow = &mut self.known(id).flow;
        flow.lane.give_up();
        flow.in_flight += 1;
        // Its table is still the live one: what passes is drained like anything else.
        let (piece, place) = self.live(id).piece(io.sector, io.sectors);
        let Remap::To(channel, _) = place.remap(piece.within) else {
            unreachable!("it was let through by this target")
        };
        let slot = self.originals.insert(Original {
            arrival: passing.arrival,
            place: piece.place,
            channel,
            ..Original::new(id, io, passing.started_ns, Stage::Data)
        });
        self.whole_ended(env, slot, status);
    }
}

impl Flow {
    /// Originals admitted and not completed.
    #[inline(always)]
    pub fn under_way(&self) -> u32 {
        self.in_flight + self.lane.passing()
    }

    /// Submits a read or write that is one piece to where its target has sent it. It takes a slot unless it ends at once, well, and
    /// nobody wants to be told.
    #[inline(always)]
    fn send_whole<E: Env>(
        &mut self,
        env: &mut E,
        originals: &mut Slab<Original<E::Payload>>,
        live: &mut Bound<E::Channel>,
        id: DeviceId,
        io: &Io<E::Payload>,
        route: Route,
    ) -> Sent<E::Payload> {
        let Route {
            place,
            channel,
            sector,
            note,
        } = route;
        let Channel::Lower(below) = &mut live.channels[channel.0 as usize] else {
            return Sent::Deeper(Map::Remapped {
                channel,
                sector,
                note,
            });
        };
        let slot = originals.vacant();
        let lower = LowerIo {
            op: io.op,
            fua: false,
            sector,
            sectors: io.sectors,
            payload: io.payload,
        };
        let clone = CloneId(slot.index | WHOLE);
        let submit = env.submit(below, &lower, clone);
        if submit == Submit::Done(Status::Ok) && note == Note::NONE {
            self.stats.of(io.op).done(io.sectors, Status::Ok, 0);
            return Sent::Done;
        }
        self.in_flight += 1;
        slot.fill(Original {
            arrival: self.lane.arrive(),
            place,
            channel,
            note,
            ..Original::new(id, *io, env.now_ns(), Stage::Data)
        });
        match submit {
            Submit::Pending => Sent::Pending,
            Submit::Busy => Sent::Busy(channel, clone, lower),
            Submit::Done(status) => Sent::Ended(clone, status),
        }
    }
}
