//! A stack of mapped devices suspended or resumed as one: from the top down, so that nothing waits for I/O that a device beneath has
//! parked; from the bottom up, so that nothing runs into a device that is still suspended. What fails on the way is undone.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Engine, GivenUp};
use crate::dm::{DeviceId, Errno, Error, LEVELS_MAX, Request, SuspendOptions};

/// A device of a stack and its name, for sentences.
type Member = (DeviceId, String);

/// For what is suspended again because a resume has failed: nothing but its own I/O in flight is waited for.
const AGAIN: SuspendOptions = SuspendOptions {
    noflush: true,
    lockfs: false,
    timeout_ns: None,
};

impl Engine {
    /// Suspends a device and every mapped device beneath its live table, from the top down. One that is suspended already stays so.
    /// The time that `options` gives is for all of them together. When one cannot be suspended, or `given_up`, those that this has
    /// suspended run again.
    ///
    /// # Errors
    /// As [`Engine::suspend`], with the device's name; EBUSY while one of them is in another such operation.
    pub fn suspend_stack(
        &self,
        name: &str,
        options: SuspendOptions,
        given_up: GivenUp<'_>,
    ) -> Result<(), Error> {
        let top = self.names().find(name)?.id;
        let stack = self.top_down(top, |id| self.beneath_live(id))?;
        let _operation = self.stack.begin(stack.iter().map(|(id, _)| *id))?;
        let begun = Instant::now();
        let mut suspended: Vec<&Member> = Vec::with_capacity(stack.len());
        for member in &stack {
            match self.suspend_member(member.0, options, begun, given_up) {
                Ok(true) => suspended.push(member),
                Ok(false) => {}
                Err(error) => {
                    let undo = |id| self.request(id, Request::Unsuspend).is_ok();
                    let undone = Undone::new(suspended, undo);
                    return Err(undone.explain(error, member, "suspended", "run again"));
                }
            }
        }
        Ok(())
    }

    /// Suspends one of a stack; whether it was running.
    fn suspend_member(
        &self,
        id: DeviceId,
        options: SuspendOptions,
        begun: Instant,
        given_up: GivenUp<'_>,
    ) -> Result<bool, Error> {
        if given_up() {
            let reason = "whoever asked has given it up";
            return Err(Error::new(Errno::Eintr, reason));
        }
        if self.info_of(id)?.suspended {
            return Ok(false);
        }
        let elapsed_ns = super::nanoseconds(begun.elapsed());
        let left = |all_ns: u64| all_ns.saturating_sub(elapsed_ns);
        let options = SuspendOptions {
            timeout_ns: options.timeout_ns.map(left),
            ..options
        };
        self.request_unless(id, Request::Suspend(options), given_up)?;
        Ok(true)
    }

    /// Resumes a device and every suspended mapped device beneath its live or inactive table, from the bottom up, each on its inactive
    /// table if it has one. A device beneath that runs is left as it is. `suspend` is for the suspension that another table implies if
    /// the device itself runs. When one cannot be resumed, those that this has resumed are suspended again.
    ///
    /// # Errors
    /// As [`Engine::resume`], with the device's name; EBUSY while one of them is in another such operation.
    pub fn resume_stack(
        &self,
        name: &str,
        suspend: SuspendOptions,
        given_up: GivenUp<'_>,
    ) -> Result<(), Error> {
        let top = self.names().find(name)?.id;
        let stack = self.top_down(top, |id| Ok(self.stack.beneath(id)))?;
        let _operation = self.stack.begin(stack.iter().map(|(id, _)| *id))?;
        let mut resumed: Vec<&Member> = Vec::with_capacity(stack.len());
        let mut failed = None;
        for member in stack.iter().rev() {
            match self.resume_member(member, member.0 == top, suspend, given_up) {
                Ok(true) => resumed.push(member),
                Ok(false) => {}
                Err(error) => {
                    failed = Some((error, member));
                    break;
                }
            }
        }
        let answer = match failed {
            None => Ok(()),
            Some((error, member)) => {
                let again = |id| {
                    let request = Request::Suspend(AGAIN);
                    self.request_unless(id, request, given_up).is_ok()
                };
                let undone = Undone::new(resumed, again);
                Err(undone.explain(error, member, "resumed", "are suspended again"))
            }
        };
        self.remove_released();
        answer
    }

    /// Resumes one of a stack; whether it was suspended.
    fn resume_member(
        &self,
        (id, name): &Member,
        is_top: bool,
        suspend: SuspendOptions,
        given_up: GivenUp<'_>,
    ) -> Result<bool, Error> {
        let suspended = self.info_of(*id)?.suspended;
        if suspended || is_top {
            let (_, open) = self.find_open(name)?;
            self.request_unless(*id, Request::Resume { open, suspend }, given_up)?;
        }
        Ok(suspended)
    }

    /// The mapped devices that a device's live table names.
    fn beneath_live(&self, id: DeviceId) -> Result<Vec<DeviceId>, Error> {
        let lowers = self.info_of(id)?.lowers;
        let names = self.names();
        // A device that tables name keeps its name, so what is not found is a backing device.
        let ids = lowers.iter().filter_map(|name| names.find(name).ok());
        Ok(ids.map(|entry| entry.id).collect())
    }

    /// A device and what `beneath` finds beneath it, each device before all that it sits on.
    fn top_down(
        &self,
        top: DeviceId,
        beneath: impl Fn(DeviceId) -> Result<Vec<DeviceId>, Error>,
    ) -> Result<Vec<Member>, Error> {
        // The longest way down to each: longer than to any that sits on it. There are no loops (LC-10), and a bound to what
        // the tables can be made to show while they change.
        let mut depths = BTreeMap::new();
        let mut front = vec![top];
        for depth in 0..LEVELS_MAX {
            let mut next = Vec::new();
            for id in front {
                depths.insert(id, depth);
                next.extend(beneath(id)?);
            }
            if next.is_empty() {
                break;
            }
            next.sort_unstable();
            next.dedup();
            front = next;
        }
        let mut ids: Vec<(usize, DeviceId)> =
            depths.into_iter().map(|(id, depth)| (depth, id)).collect();
        ids.sort_unstable();
        let names = self.names();
        let member = |(_, id)| {
            let gone = || Error::new(Errno::Enxio, "a device of the stack was removed meanwhile");
            let entry = names.by_id(id).ok_or_else(gone)?;
            Ok((id, entry.name.clone()))
        };
        ids.into_iter().map(member).collect()
    }
}

/// What an operation on a stack had done when it failed, taken back.
struct Undone<'a> {
    /// Those that are what they were before.
    done: Vec<&'a str>,
    /// Those that could not be taken back.
    left: Vec<&'a str>,
}

impl<'a> Undone<'a> {
    /// Takes back what was done to `members`, the last first.
    fn new(members: Vec<&'a Member>, undo: impl Fn(DeviceId) -> bool) -> Undone<'a> {
        let (mut done, mut left) = (Vec::new(), Vec::new());
        for (id, name) in members.into_iter().rev() {
            match undo(*id) {
                true => done.push(name.as_str()),
                false => left.push(name.as_str()),
            }
        }
        Undone { done, left }
    }

    /// The error of the device at which it failed, and what became of the others.
    fn explain(&self, error: Error, (_, name): &Member, what: &str, again: &str) -> Error {
        let mut reason = format!("'{name}' could not be {what}: {}", error.reason);
        for (names, fate) in [
            (&self.done, again.to_owned()),
            (&self.left, format!("were {what} before, and stay so")),
        ] {
            if !names.is_empty() {
                reason.push_str(&format!("; {} {fate}", names.join(", ")));
            }
        }
        Error::new(error.errno, reason)
    }
}
