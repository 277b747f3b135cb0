//! Mapped devices beneath mapped devices: a table line may name one like any lower device.
//!
//! A clone that goes to a mapped device is submitted to this core's mapper again, as an original of that device. What ends at once
//! ends on the spot, as deep as the stack is; what ends later waits on a list until [`Mapper::poll`], so that ends never nest (PM-8).
//! Every level has slots of its own from slabs that grow, so no level waits for another's (IO-11).

use super::env::{Env, Submit};
use super::io::{CloneId, DeviceId, Io, LowerIo, Tag};
use super::limits::LowerId;
use super::mapper::{Mapper, PieceClone, STACKED};
use super::status::Status;
use super::table::Table;
use super::target::ChannelIndex;

/// Most mapped devices one above the other, the topmost and the lowest counted. An I/O goes down through all of them on one call
/// stack; that takes a few kilobytes per level, of the 2 MiB that a thread has.
pub const LEVELS_MAX: usize = 16;

/// Numbers of lower devices from here on are mapped devices.
const MAPPED: u32 = 1 << 31;

impl LowerId {
    /// A mapped device as a lower device.
    pub fn of_device(device: DeviceId) -> LowerId {
        assert!(device.0 < MAPPED, "a device number has 31 bits");
        LowerId(MAPPED | device.0)
    }

    /// The mapped device that this is, if it is one.
    pub fn device(self) -> Option<DeviceId> {
        (self.0 & MAPPED != 0).then_some(DeviceId(self.0 & !MAPPED))
    }
}

impl Table {
    /// How much of a lower device the table uses: the sector after the last that any of its targets may reach there.
    pub fn reach(&self, lower: LowerId) -> u64 {
        let areas = self
            .segments
            .iter()
            .flat_map(|segment| segment.target.areas(segment.sectors));
        areas
            .filter(|(channel, ..)| self.lowers[channel.0 as usize].id == lower)
            .map(|(_, start, sectors)| start + sectors)
            .max()
            .unwrap_or(0)
    }
}

/// What a table's lower device is on one core.
pub(super) enum Channel<C> {
    /// A channel of the engine.
    Lower(C),
    /// A mapped device of this core.
    Device(DeviceId),
}

impl<C> Channel<C> {
    /// Opens a lower device on this core; as one of several ways if the table `fails_over`.
    pub fn open<E: Env<Channel = C>>(
        lower: LowerId,
        fails_over: bool,
        env: &mut E,
    ) -> Result<Channel<C>, String> {
        match (lower.device(), fails_over) {
            (Some(device), _) => Ok(Channel::Device(device)),
            (None, true) => env.open_path(lower).map(Channel::Lower),
            (None, false) => env.open(lower).map(Channel::Lower),
        }
    }

    /// Closes it.
    pub fn close<E: Env<Channel = C>>(self, env: &mut E) {
        if let Channel::Lower(channel) = self {
            env.close(channel);
        }
    }
}

impl<E: Env> Mapper<E> {
    /// Submits a clone to what is beneath.
    #[inline(always)]
    pub(super) fn submit_below(
        &mut self,
        env: &mut E,
        id: DeviceId,
        channel: ChannelIndex,
        clone: CloneId,
        io: &LowerIo<E::Payload>,
    ) -> Submit {
        match &mut self.live(id).channels[channel.0 as usize] {
            Channel::Lower(channel) => env.submit(channel, io, clone),
            Channel::Device(device) => {
                let device = *device;
                self.descend(env, device, clone, io)
            }
        }
    }

    /// Submits a clone to a mapped device beneath, as an original of that.
    #[inline(never)]
    fn descend(
        &mut self,
        env: &mut E,
        device: DeviceId,
        clone: CloneId,
        io: &LowerIo<E::Payload>,
    ) -> Submit {
        let original = Io {
            tag: tag(clone),
            op: io.op,
            fua: io.fua,
            sector: io.sector,
            sectors: io.sectors,
            payload: io.payload,
        };
        match self.submit(env, device, original) {
            Some(status) => Submit::Done(status),
            None => Submit::Pending,
        }
    }

    /// Tells whoever submitted an original how it ended: a front end, or the device above.
    #[inline(always)]
    pub(super) fn answer(&mut self, env: &mut E, tag: Tag, status: Status) {
        if tag.client == STACKED {
            self.ended_below.push_back((CloneId(tag.command), status));
        } else {
            env.complete(tag, status);
        }
    }

    /// Takes note of what has ended in the devices beneath.
    pub(super) fn complete_stacked(&mut self, env: &mut E) {
        while let Some((clone, status)) = self.ended_below.pop_front() {
            self.complete_clone(env, clone, status);
        }
    }

    /// Aborts what an original has parked in mapped devices beneath; whether there was any.
    pub(super) fn abort_stacked(&mut self, env: &mut E, slot: u32) -> bool {
        let id = self.originals[slot].device;
        let below = |piece: &PieceClone| piece.original == slot && piece.held_until_ns.is_none();
        let clones: Vec<(u32, ChannelIndex)> = self
            .pieces
            .iter()
            .filter_map(|(clone, piece)| below(piece).then_some((clone, piece.channel)))
            .collect();
        let mut any = false;
        for (clone, channel) in clones {
            if let Channel::Device(device) = self.live(id).channels[channel.0 as usize] {
                any |= self.abort(env, device, tag(CloneId(clone)));
            }
        }
        any
    }
}

fn tag(clone: CloneId) -> Tag {
    Tag {
        client: STACKED,
        command: clone.0,
    }
}
