//! What operators must be told: a model of table 1.2, beside the state machine that it checks.

use std::collections::VecDeque;

use super::plan::{Kind, Operation};
use crate::dm::{Answer, Errno, Info, Reply, Ticket};

/// An operation that was sent and not answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub ticket: Ticket,
    pub operation: Operation,
    /// What the table that it loads is for.
    pub kind: Option<Kind>,
    /// A disk was out at some moment since it was sent: a load, or the flush before a suspend, may have failed for that.
    pub excused: bool,
    /// Flushes fail now and then.
    pub flushes_fail: bool,
    /// Whoever asked has given it up.
    pub given_up: bool,
}

/// A device as operators know it.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub exists: bool,
    pub suspended: bool,
    pub live: bool,
    pub inactive: Option<Kind>,
    /// In the order in which they were sent, which is that in which they are answered (LC-6).
    pub pending: VecDeque<Pending>,
    pub questions: Vec<Ticket>,
    /// Messages that were sent.
    pub messages: Vec<Ticket>,
    /// Cancels that were sent.
    pub cancels: Vec<Ticket>,
    /// Requests to forget another one.
    pub give_ups: Vec<Ticket>,
    /// Cancels that were granted, and whose suspend has not been answered.
    pub granted: u32,
}

impl Model {
    /// Whether one of these is under way.
    pub fn is_pending(&self, wanted: impl Fn(Operation) -> bool) -> bool {
        self.pending.iter().any(|pending| wanted(pending.operation))
    }

    /// Takes in the answer to the oldest operation. Panics if it is not the one that table 1.2 demands.
    pub fn answered(
        &mut self,
        pending: Pending,
        core_count: u16,
        closed_to: Option<u16>,
        answer: &Answer,
    ) {
        let answer = answer.as_ref().map_err(|error| error.errno);
        let Pending {
            operation,
            kind,
            excused,
            flushes_fail,
            given_up,
            ..
        } = pending;
        if self.exists && excused && answer == Err(Errno::Enxio) {
            return;
        }
        // A suspend that was given up has changed nothing; nor has the resume that implied it (AT-52).
        if let Operation::Suspend(options)
        | Operation::Resume(options)
        | Operation::Swap(_, options) = operation
        {
            match answer {
                Err(Errno::Eintr) if self.granted > 0 => {
                    self.granted -= 1;
                    return;
                }
                Err(Errno::Etimedout) if options.timeout_ns.is_some() => return,
                Err(Errno::Eio)
                    if options.lockfs && !options.noflush && (excused || flushes_fail) =>
                {
                    return;
                }
                _ => {}
            }
        }
        if given_up && answer == Err(Errno::Eintr) {
            return;
        }
        // A table that a core cannot open is refused only if there is that core.
        let opens = kind != Some(Kind::Closed) || closed_to.is_none_or(|core| core >= core_count);
        let expected = match opens || !self.exists {
            true => self.apply(operation, kind),
            false => Err(Errno::Enxio),
        };
        let told = answer.map(|reply| match (operation, reply) {
            // How many that were: what is told of them is checked as they complete.
            (Operation::FailParked, Reply::Count(_)) => {}
            _ => assert_eq!(*reply, Reply::Done, "the answer to {operation}"),
        });
        assert_eq!(told, expected, "the answer to {operation} (table 1.2)");
    }

    fn apply(&mut self, operation: Operation, kind: Option<Kind>) -> Result<(), Errno> {
        if operation == Operation::Create {
            if self.exists {
                return Err(Errno::Ebusy);
            }
            self.exists = true;
            return Ok(());
        }
        if !self.exists {
            return Err(Errno::Enxio);
        }
        match operation {
            Operation::Create => unreachable!("above"),
            Operation::Load(_) => self.inactive = kind,
            // Refused before anything was touched (LC-16); or done, and the slot is empty (LC-13).
            Operation::Swap(..) if kind == Some(Kind::OtherBlock) && self.live => {
                return Err(Errno::Einval);
            }
            Operation::Swap(..) => {
                (self.live, self.suspended, self.inactive) = (true, false, None);
            }
            Operation::Clear => self.inactive = None,
            Operation::Suspend(_) => self.suspended = true,
            Operation::FailParked if !self.suspended => return Err(Errno::Einval),
            Operation::FailParked => {}
            Operation::Cancel => unreachable!("answered past the others"),
            Operation::Resume(_) => match self.inactive.take() {
                // 1.4, step 3: the new table is destroyed, the old one stays, suspended (AT-53).
                Some(Kind::OtherBlock) if self.live => {
                    self.suspended = true;
                    return Err(Errno::Einval);
                }
                Some(_) => (self.live, self.suspended) = (true, false),
                None if self.suspended && !self.live => return Err(Errno::Einval),
                None => self.suspended = false,
            },
            Operation::Remove => {
                (self.exists, self.suspended, self.live, self.inactive) =
                    (false, false, false, None);
            }
        }
        Ok(())
    }

    /// Panics unless a message may be answered so: it may come when the device is suspended, has another table, or none.
    pub fn heard(&self, answer: &Answer) {
        if let Err(error) = answer {
            let possible = matches!(error.errno, Errno::Einval | Errno::Ebusy | Errno::Enxio);
            assert!(possible, "the answer to a message: {error}");
        }
    }

    /// Takes in the answer to a cancel, which does not wait behind what it cancels.
    pub fn cancelled(&mut self, answer: &Answer) {
        match answer {
            Ok(reply) => {
                assert_eq!(*reply, Reply::Done, "the answer to a cancel");
                let suspends = self.is_pending(Operation::suspends);
                assert!(
                    suspends,
                    "a cancel was granted, and nothing suspends the device (PM-11)"
                );
                self.granted += 1;
            }
            Err(error) => {
                let possible = matches!(error.errno, Errno::Einval | Errno::Enxio);
                assert!(possible, "the answer to a cancel: {error}");
            }
        }
    }

    /// Panics unless a request to forget another one may be answered so.
    pub fn forgotten(&self, answer: &Answer) {
        match answer {
            Ok(reply) => assert_eq!(*reply, Reply::Done, "the answer to a give-up"),
            Err(error) => assert_eq!(error.errno, Errno::Enxio, "the answer to a give-up"),
        }
    }

    /// Panics unless an answer to a question agrees with what has been answered; what is under way may have begun to show.
    pub fn told(&self, answer: &Answer) {
        match answer {
            Ok(Reply::Info(info)) if self.pending.is_empty() => {
                let Info {
                    suspended,
                    live,
                    inactive,
                    ..
                } = info;
                assert_eq!(
                    (*suspended, *live, *inactive),
                    (self.suspended, self.live, self.inactive.is_some()),
                    "(suspended, live, inactive) as info tells (LC-22)"
                );
            }
            Ok(Reply::Lines(lines)) if self.pending.is_empty() => {
                assert_eq!(
                    !lines.is_empty(),
                    self.live,
                    "lines of a live table (LC-22)"
                );
            }
            Ok(_) => {}
            Err(error) => assert_eq!(error.errno, Errno::Enxio, "the answer to a question"),
        }
    }
}
