//! A logical unit: what all its initiators share, and how one nexus sees it.
//!
//! The state is behind a lock. Reads and writes do not take it: every change of what a nexus may do, or has to be told, makes
//! [`Unit::epoch`] another number, and a [`View`] that was made at the present epoch answers without a look at the state. So in steady
//! state a command costs one load of a number that nobody writes (AT-90). *Turned down:* a message to every core for each change, which a
//! PERSISTENT RESERVE OUT would have to wait for before it may be answered.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::copy::Ledger;
use super::mode::Modes;
use super::persistent::{Persistent, record};
use super::sense::{Code, Sense};
use crate::dm::Geometry;

/// Unit attentions that wait for one initiator; of more than that the oldest are lost, as SAM-5 5.14.3 allows.
const ATTENTIONS_MAX: usize = 16;

/// One I_T nexus, for as long as its session lasts. Numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NexusId(pub u64);

/// An initiator port by name: what persistent reservations belong to, beyond a session's end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InitiatorPort {
    /// The name of the initiator.
    pub name: String,
    /// What tells its ports apart.
    pub port: [u8; 6],
}

/// Both ends of a nexus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nexus {
    /// Its number.
    pub id: NexusId,
    /// The initiator port.
    pub initiator: Arc<InitiatorPort>,
    /// The relative target port identifier.
    pub port: u16,
}

/// What a unit is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The name of the target device that it belongs to.
    pub target: String,
    /// Number of the unit.
    pub lun: u16,
    /// What tells it from every other disk.
    pub uuid: [u8; 16],
    /// Vendor, 8 characters at most.
    pub vendor: String,
    /// Product, 16 characters at most.
    pub product: String,
    /// Serial number.
    pub serial: String,
}

/// How a unit is reached through one target port group (SPC-4, 5.15).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Access {
    /// The best way there is.
    #[default]
    Optimized = 0x0,
    /// Works; another way is better.
    NonOptimized = 0x1,
    /// Refuses commands for the medium.
    Standby = 0x2,
    /// Refuses nearly everything.
    Unavailable = 0x3,
}

/// What is kept of a nexus.
#[derive(Debug)]
pub(super) struct NexusState {
    pub(super) nexus: Nexus,
    pub(super) attentions: VecDeque<Code>,
    pub(super) prevents_removal: bool,
    /// Its copies that RECEIVE COPY RESULTS knows, by list identifier.
    pub(super) copies: BTreeMap<u8, Arc<Ledger>>,
}

/// How far SANITIZE is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sanitize {
    /// Running; how far, in 65,536ths.
    Running(u16),
    /// It has failed: the medium may hold anything.
    Failed {
        /// Whether EXIT FAILURE MODE may end this.
        unrestricted: bool,
    },
}

/// Whether the medium can be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Power {
    /// Ready.
    #[default]
    Active,
    /// Stopped by START STOP UNIT.
    Stopped,
}

/// What all nexuses share.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) nexuses: BTreeMap<NexusId, NexusState>,
    /// RESERVE(6) and RESERVE(10).
    pub(super) reserved_by: Option<NexusId>,
    pub(super) persistent: Persistent,
    pub(super) modes: Modes,
    pub(super) power: Power,
    pub(super) sanitize: Option<Sanitize>,
}

/// A logical unit.
#[derive(Debug)]
pub struct Unit {
    /// What it is known by.
    pub identity: Identity,
    keeps: bool,
    epoch: AtomicU64,
    state: Mutex<State>,
}

/// What a nexus may do with a unit, as of one epoch.
#[derive(Clone, Copy, Debug, Default)]
pub struct View {
    /// 0 before the first look.
    epoch: u64,
    /// Nothing is in the way of reads.
    pub(super) may_read: bool,
    /// Nothing is in the way of writes.
    pub(super) may_write: bool,
    /// Writes are through to the medium: the write cache was switched off.
    pub(super) write_through: bool,
    /// Sense data in descriptor format.
    pub descriptor_sense: bool,
}

impl State {
    /// Tells every nexus but one.
    pub(super) fn attend_others(&mut self, but: Option<NexusId>, code: Code) {
        for (&id, nexus) in &mut self.nexuses {
            if Some(id) != but {
                nexus.attend(code);
            }
        }
    }
}

impl NexusState {
    /// Keeps a unit attention for it; one that waits already is not doubled.
    pub(super) fn attend(&mut self, code: Code) {
        if self.attentions.contains(&code) {
            return;
        }
        if self.attentions.len() == ATTENTIONS_MAX {
            self.attentions.pop_front();
        }
        self.attentions.push_back(code);
    }
}

impl Unit {
    /// A unit that nobody has used.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            keeps: false,
            epoch: AtomicU64::new(1),
            state: Mutex::default(),
        }
    }

    /// A unit that nobody has used since it was last here, and whose reservations somebody keeps (APTPL; SPC-4, 5.13.5): `kept` is its
    /// record of then, if there is one.
    ///
    /// # Errors
    /// What is wrong with the record.
    pub fn keeping(identity: Identity, kept: Option<&str>) -> Result<Self, record::Damage> {
        let persistent = kept.map(|text| record::read(text, &identity.uuid));
        let state = State {
            persistent: persistent.transpose()?.unwrap_or_default(),
            ..State::default()
        };
        Ok(Self {
            keeps: true,
            state: Mutex::new(state),
            ..Self::new(identity)
        })
    }

    /// Whether somebody keeps records of its reservations.
    pub fn keeps(&self) -> bool {
        self.keeps
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic brings the process down, so a poisoned lock is only ever seen by tests; the state is valid between statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every view is out of date: called with the lock held, after the change.
    pub(super) fn changed(&self, _state: &mut State) {
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// Brings a view up to date, if it is not.
    #[inline]
    pub fn refresh(&self, view: &mut View, nexus: &Nexus) {
        if self.epoch.load(Ordering::Acquire) != view.epoch {
            *view = self.look(nexus);
        }
    }

    fn look(&self, nexus: &Nexus) -> View {
        let state = self.lock();
        // Changes happen under the lock, so state and epoch belong together.
        let epoch = self.epoch.load(Ordering::Acquire);
        let has_attention = state
            .nexuses
            .get(&nexus.id)
            .is_none_or(|state| !state.attentions.is_empty());
        let is_ready = state.power == Power::Active && state.sanitize.is_none();
        let is_free = state.reserved_by.is_none_or(|holder| holder == nexus.id);
        let clear = !has_attention && is_ready && is_free;
        let (reads, writes) = state.persistent.allows(nexus);
        View {
            epoch,
            may_read: clear && reads,
            may_write: clear && writes && !state.modes.software_write_protect,
            write_through: state.modes.write_cache_off,
            descriptor_sense: state.modes.descriptor_sense,
        }
    }

    /// A session has begun: its first command to the unit is answered with POWER ON, or with what else it must know (SAM-5, 5.14).
    pub fn join(&self, nexus: &Nexus, first: Code) {
        let mut state = self.lock();
        let joined = NexusState {
            nexus: nexus.clone(),
            attentions: VecDeque::from([first]),
            prevents_removal: false,
            copies: BTreeMap::new(),
        };
        state.nexuses.insert(nexus.id, joined);
        self.changed(&mut state);
    }

    /// A session has ended: what was its own is no more (SAM-5, 6.3.4), persistent reservations stay.
    pub fn leave(&self, nexus: NexusId) {
        let mut state = self.lock();
        state.nexuses.remove(&nexus);
        if state.reserved_by == Some(nexus) {
            state.reserved_by = None;
        }
        self.changed(&mut state);
    }

    /// LOGICAL UNIT RESET (SAM-5, 6.3.3): what is not persistent is as at power on, and all are told. Answers whether commands that end so
    /// are answered, as [`Unit::tells_aborted`] would have before.
    pub fn reset(&self) -> bool {
        let mut state = self.lock();
        state.reserved_by = None;
        let modes = std::mem::take(&mut state.modes);
        for nexus in state.nexuses.values_mut() {
            nexus.prevents_removal = false;
            nexus.copies.clear();
        }
        state.attend_others(None, Code::BUS_DEVICE_RESET);
        self.changed(&mut state);
        modes.tells_aborted
    }

    /// Whether commands that another nexus has aborted are answered with TASK ABORTED (TAS).
    pub fn tells_aborted(&self) -> bool {
        self.lock().modes.tells_aborted
    }

    /// Tells every nexus but one of something that has changed.
    pub fn attend(&self, but: Option<NexusId>, code: Code) {
        let mut state = self.lock();
        state.attend_others(but, code);
        self.changed(&mut state);
    }

    /// Tells one nexus of something that has changed.
    pub fn attend_one(&self, nexus: NexusId, code: Code) {
        let mut state = self.lock();
        if let Some(nexus) = state.nexuses.get_mut(&nexus) {
            nexus.attend(code);
        }
        self.changed(&mut state);
    }

    /// Whether a nexus has joined.
    pub fn knows(&self, nexus: NexusId) -> bool {
        self.lock().nexuses.contains_key(&nexus)
    }

    /// The oldest unit attention that waits for a nexus, and whether it is the only one.
    pub fn attention(&self, nexus: NexusId) -> Option<(Code, bool)> {
        let state = self.lock();
        let attentions = &state.nexuses.get(&nexus)?.attentions;
        attentions
            .front()
            .map(|&code| (code, attentions.len() == 1))
    }

    /// Takes the oldest unit attention of a nexus.
    pub(super) fn take_attention(&self, nexus: NexusId) -> Option<Sense> {
        let mut state = self.lock();
        let code = state.nexuses.get_mut(&nexus)?.attentions.pop_front()?;
        self.changed(&mut state);
        Some(Sense::attention(code))
    }

    /// A nexus has found out by itself what it was to be told.
    pub(super) fn forget_attention(&self, nexus: NexusId, code: Code) {
        let mut state = self.lock();
        if let Some(nexus) = state.nexuses.get_mut(&nexus) {
            nexus.attentions.retain(|&waiting| waiting != code);
        }
        self.changed(&mut state);
    }

    /// SANITIZE has come so far, or has ended.
    pub fn set_sanitize(&self, sanitize: Option<Sanitize>) {
        let mut state = self.lock();
        state.sanitize = sanitize;
        self.changed(&mut state);
    }

    /// How far SANITIZE is.
    pub fn sanitize(&self) -> Option<Sanitize> {
        self.lock().sanitize
    }

    /// Whether writes go through a volatile cache.
    pub fn write_cache(&self, geometry: &Geometry) -> bool {
        geometry.volatile_cache && !self.lock().modes.write_cache_off
    }
}
