//! Persistent reservations that outlive the target (APTPL; SPC-4, 5.13.5): a PERSISTENT RESERVE OUT to a unit that keeps them is carried
//! out by a thread of its own, because it is answered only when its record is on the medium, and no reactor waits for that.
//!
//! One thread for all units: commands are carried out in the order in which they come, so none is drafted on what another is about to
//! change. They are rare, and each costs two syncs of a small file.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::message::Message;
use super::session::{Context, Session};
use super::store::Store;
use crate::engine::Teller;
use crate::export::backend::{Backend, Lend};
use crate::export::frame::SessionKey;
use crate::scsi::persistent::Request;
use crate::scsi::sense::{Code, Key};
use crate::scsi::unit::Identity;
use crate::scsi::{NexusId, Outcome, Sense, Unit};

/// How a command has ended: whose commands are to be aborted for it, or why it was not carried out.
pub type Kept = Result<Vec<NexusId>, Outcome>;

/// A command that is to be carried out.
pub struct Errand {
    unit: Arc<Unit>,
    request: Request,
    session: SessionKey,
    slot: u16,
}

/// The records of all units, as the target reaches them.
pub struct Records {
    store: Arc<Store>,
    /// Each command of each session is there once at the most. `None` when the target is about to end.
    errands: Mutex<Option<Sender<Errand>>>,
}

/// Carries commands out, one after the other.
pub struct Keeper {
    store: Arc<Store>,
    errands: Receiver<Errand>,
    /// Units whose file may be another than it should be, because it could not be written.
    doubtful: HashSet<[u8; 16]>,
}

impl Records {
    /// Records in a directory, and who writes them.
    pub fn new(store: Store) -> (Self, Keeper) {
        let store = Arc::new(store);
        let (sender, errands) = unbounded();
        let keeper = Keeper {
            store: Arc::clone(&store),
            errands,
            doubtful: HashSet::new(),
        };
        let errands = Mutex::new(Some(sender));
        (Self { store, errands }, keeper)
    }

    /// A unit with the reservations that were kept of it.
    ///
    /// # Errors
    /// What is wrong with its record: file and line.
    pub fn unit(&self, identity: Identity) -> Result<Unit, String> {
        let file = self.store.file(&identity.uuid);
        let (target, lun) = (identity.target.clone(), identity.lun);
        let kept = self.store.read(&identity.uuid)?;
        Unit::keeping(identity, kept.as_deref()).map_err(|damage| {
            format!(
                "the reservations of unit {lun} of `{target}` were damaged: {}, {damage}; mend it, or remove it if no initiator relies on them",
                file.display()
            )
        })
    }

    /// Hands a command over; false when the target is about to end.
    fn send(&self, errand: Errand) -> bool {
        let errands = self.errands.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = errands.as_ref();
        sender.is_some_and(|sender| sender.send(errand).is_ok())
    }

    /// Takes no more commands: the keeper ends with those that it has.
    pub fn close(&self) {
        let mut errands = self.errands.lock().unwrap_or_else(PoisonError::into_inner);
        *errands = None;
    }
}

impl Keeper {
    /// Works on a thread of its own until [`Records::close`]; answers to the front end that comes by the channel, which is not there yet.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(mut self, teller: Receiver<Teller>) -> std::io::Result<JoinHandle<()>> {
        let run = move || {
            let Ok(teller) = teller.recv() else { return };
            while let Ok(errand) = self.errands.recv() {
                let answer = self.carry_out(&errand);
                teller.tell(errand.session.core, Box::new(answer));
            }
        };
        thread::Builder::new()
            .name("reservations".into())
            .spawn(run)
    }

    /// Carries out what has been handed over so far.
    pub fn run(&mut self) -> Vec<Message> {
        let mut answers = Vec::new();
        while let Ok(errand) = self.errands.try_recv() {
            answers.push(self.carry_out(&errand));
        }
        answers
    }

    fn carry_out(&mut self, errand: &Errand) -> Message {
        let answer = self.keep(&errand.unit, &errand.request);
        Message::Kept(errand.session, errand.slot, answer)
    }

    fn keep(&mut self, unit: &Unit, request: &Request) -> Kept {
        let uuid = &unit.identity.uuid;
        let draft = unit.draft(request)?;
        let (before, after) = (unit.record(), draft.record(unit));
        if before != after || self.doubtful.contains(uuid) {
            if self.store.write(uuid, after.as_deref()).is_err() {
                // It may be there all the same: what the initiator is told is that nothing has changed.
                self.doubtful.insert(*uuid);
                if self.store.write(uuid, before.as_deref()).is_ok() {
                    self.doubtful.remove(uuid);
                }
                return Err(not_kept());
            }
            self.doubtful.remove(uuid);
        }
        Ok(unit.adopt(draft))
    }
}

/// The record could not be written.
fn not_kept() -> Outcome {
    Sense::new(Key::HardwareError, Code::INTERNAL_TARGET_FAILURE).into()
}

impl<L: Lend> Session<L> {
    /// Hands a command to the keeper.
    pub(super) fn keep<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        request: Request,
        cx: &mut Context<'_, B>,
    ) {
        let slot = self.slots.get_mut(index);
        slot.pending = 1;
        let lun = slot.lun;
        let target = self.target();
        let unit = target.and_then(|target| cx.local.units.get(target, lun));
        let errand = unit.map(|unit| Errand {
            unit: Arc::clone(&unit.unit),
            request,
            session: self.key,
            slot: index,
        });
        let records = cx.target.records();
        let is_sent = errand
            .zip(records)
            .is_some_and(|(errand, records)| records.send(errand));
        if !is_sent {
            self.kept(index, Err(not_kept()), cx);
        }
    }

    /// What a command has waited for elsewhere has been carried out, or has not.
    pub fn kept<B: Backend<Lend = L>>(
        &mut self,
        index: u16,
        answer: Kept,
        cx: &mut Context<'_, B>,
    ) {
        let slot = self.slots.get_mut(index);
        debug_assert_eq!(slot.pending, 1);
        slot.pending = 0;
        let (outcome, ended) = match answer {
            Ok(ended) => (Outcome::Good, ended),
            Err(outcome) => (outcome, Vec::new()),
        };
        slot.outcome = outcome;
        if ended.is_empty() || !self.preempt(index, &ended, cx) {
            self.conclude(index, cx);
        }
    }
}
