//! Operators' verbs that suspend, wait, or speak to a target.
//!
//! Each blocks the calling thread until it is done; those that may wait for I/O or for an event look now and then whether whoever
//! asked still wants to know.

use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, TryRecvError};

use super::{DeviceInfo, Engine, patience, stopping};
use crate::dm::{self, DeviceId, Errno, Error, Reply, Request, SuspendOptions, TargetLine};

/// How often a verb that waits looks whether it is given up. A person who ends a command and starts the next takes longer.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The word that takes a deferred remove back (LC-19).
const CANCEL_DEFERRED_REMOVE: &str = "@cancel_deferred_remove";

/// Says whether whoever asked for a verb has given it up.
pub type GivenUp<'a> = &'a dyn Fn() -> bool;

/// For a verb that is waited for however long it takes.
pub fn never() -> bool {
    false
}

/// What a wait for an event ended with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Names and state of the device, as of now.
    pub device: DeviceInfo,
    /// What its targets say of themselves.
    pub status: Vec<TargetLine>,
}

impl Engine {
    /// Suspends a device: parks what comes, waits for what is in flight.
    ///
    /// # Errors
    /// ENXIO without such a device; EIO, ETIMEDOUT, EINTR when the suspend was given up and the device runs on.
    pub fn suspend(&self, name: &str, options: SuspendOptions) -> Result<(), Error> {
        self.suspend_unless(name, options, &never)
    }

    /// The same, until `given_up`: then the suspend is cancelled and the device runs on.
    ///
    /// # Errors
    /// As [`Engine::suspend`].
    pub fn suspend_unless(
        &self,
        name: &str,
        options: SuspendOptions,
        given_up: GivenUp<'_>,
    ) -> Result<(), Error> {
        let id = self.names().find(name)?.id;
        self.request_unless(id, Request::Suspend(options), given_up)
            .map(drop)
    }

    /// Resumes a device, on its inactive table if it has one; `suspend` is for the suspension that this implies on a running device.
    ///
    /// # Errors
    /// ENXIO without such a device; EINVAL without a table, or when hosts could not follow the new one (LC-16); EAGAIN when a
    /// target cannot be resumed; as [`Engine::suspend`].
    pub fn resume(&self, name: &str, suspend: SuspendOptions) -> Result<(), Error> {
        self.resume_unless(name, suspend, &never)
    }

    /// The same, until `given_up`: then the suspension that it implies is cancelled, the inactive table stays in its slot and
    /// the device runs on (AT-52).
    ///
    /// # Errors
    /// As [`Engine::resume`].
    pub fn resume_unless(
        &self,
        name: &str,
        suspend: SuspendOptions,
        given_up: GivenUp<'_>,
    ) -> Result<(), Error> {
        let (id, open) = self.find_open(name)?;
        let resumed = self.request_unless(id, Request::Resume { open, suspend }, given_up);
        self.remove_released();
        resumed.map(drop)
    }

    /// Makes a table live in one step: load, suspend, swap, resume. When any of that fails, or is given up, all of it is undone: the
    /// live table and what was loaded before are what they were. When it succeeds, the inactive slot is empty.
    ///
    /// # Errors
    /// As [`Engine::load`] and [`Engine::resume`].
    pub fn swap(
        &self,
        name: &str,
        table: &str,
        read_only: bool,
        suspend: SuspendOptions,
        given_up: GivenUp<'_>,
    ) -> Result<(), Error> {
        let (id, open) = self.find_open(name)?;
        let table = self.table_from(name, table, read_only)?;
        let request = Request::Swap {
            table,
            open,
            suspend,
        };
        let swapped = self.request_unless(id, request, given_up);
        self.remove_released();
        swapped.map(drop)
    }

    /// Gives up the suspend of a device that is under way, alone or as part of a resume or swap: whoever asked for it gets
    /// EINTR.
    ///
    /// # Errors
    /// ENXIO without such a device, EINVAL when there is no suspend under way.
    pub fn cancel(&self, name: &str) -> Result<(), Error> {
        self.request_by_name(name, Request::Cancel).map(drop)
    }

    /// Completes what is parked on a suspended device with an I/O error; how many I/Os those were.
    ///
    /// # Errors
    /// ENXIO without such a device, EINVAL when it is not suspended.
    pub fn fail_parked(&self, name: &str) -> Result<u64, Error> {
        match self.request_by_name(name, Request::FailParked)? {
            Reply::Count(count) => Ok(count),
            other => unreachable!("{other:?} does not answer how many"),
        }
    }

    /// Tells the target at a sector something; what it says. `@cancel_deferred_remove` is for the device itself.
    ///
    /// # Errors
    /// ENXIO without such a device, EINVAL for what no target understands or without a live table, EBUSY when it is not
    /// the time for it.
    pub fn message(
        &self,
        name: &str,
        sector: u64,
        words: Vec<String>,
    ) -> Result<Option<String>, Error> {
        if let Some(word) = words.first().filter(|word| word.starts_with('@')) {
            return match (word.as_str(), words.len()) {
                (CANCEL_DEFERRED_REMOVE, 1) => {
                    self.names().cancel_deferred_remove(name).map(|()| None)
                }
                (CANCEL_DEFERRED_REMOVE, _) => {
                    let reason = format!("'{CANCEL_DEFERRED_REMOVE}' takes no arguments");
                    Err(Error::new(Errno::Einval, reason))
                }
                _ => {
                    let reason = format!(
                        "a device does not understand '{word}'; it understands '{CANCEL_DEFERRED_REMOVE}'"
                    );
                    Err(Error::new(Errno::Einval, reason))
                }
            };
        }
        match self.request_by_name(name, Request::Message { sector, words })? {
            Reply::Text(text) => Ok(text),
            other => unreachable!("{other:?} is nothing a target says"),
        }
    }

    /// Waits until the event number of a device is another than `event_nr`, which is the present one when left out (LC-24).
    ///
    /// # Errors
    /// ENXIO without such a device, or when it is removed meanwhile; EINTR when given up.
    pub fn wait(
        &self,
        name: &str,
        event_nr: Option<u32>,
        given_up: GivenUp<'_>,
    ) -> Result<Event, Error> {
        let id = self.names().find(name)?.id;
        let event_nr = match event_nr {
            Some(event_nr) => event_nr,
            None => self.info_of(id)?.event_nr,
        };
        self.request_unless(id, Request::Wait { event_nr }, given_up)?;
        // By number: the event may have been another name.
        let gone = || Error::new(Errno::Enxio, "the device was removed meanwhile");
        let entry = self.names().by_id(id).cloned().ok_or_else(gone)?;
        let entry = self.counted(entry);
        let info = self.info_of(id)?;
        let status = match self.request(id, Request::Status)? {
            Reply::Lines(lines) => lines,
            other => unreachable!("{other:?} does not answer a question for lines"),
        };
        let device = DeviceInfo { entry, info };
        Ok(Event { device, status })
    }

    /// Events of all devices so far: those of their own, and that one was made, removed, renamed or given another table. Wraps
    /// (LC-24).
    pub fn events(&self) -> u32 {
        self.tickets.events()
    }

    /// Gives a device without a uuid one.
    ///
    /// # Errors
    /// ENXIO, EBUSY, EINVAL: [`dm::Registry::set_uuid`].
    pub fn set_uuid(&self, name: &str, uuid: &str) -> Result<(), Error> {
        let id = self.names().set_uuid(name, uuid)?;
        self.request(id, Request::Renamed).map(drop)
    }

    pub(super) fn find_open(&self, name: &str) -> Result<(DeviceId, bool), Error> {
        let names = self.names();
        let entry = names.find(name)?;
        Ok((entry.id, entry.open_count > 0))
    }

    /// Sends a request and waits for its answer, which comes soon once it is given up.
    pub(super) fn request_unless(
        &self,
        device: DeviceId,
        request: Request,
        given_up: GivenUp<'_>,
    ) -> dm::Answer {
        let (ticket, answer) = self.send_request(device, request)?;
        match patience::receive_soon(&answer) {
            Ok(answer) => return answer,
            Err(TryRecvError::Disconnected) => return Err(stopping()),
            Err(TryRecvError::Empty) => {}
        }
        loop {
            match answer.recv_timeout(LOOK_EVERY) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Disconnected) => return Err(stopping()),
                Err(RecvTimeoutError::Timeout) if given_up() => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        self.send_request(device, Request::GiveUp(ticket))?;
        patience::receive(&answer).unwrap_or_else(|| Err(stopping()))
    }
}
