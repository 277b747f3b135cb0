//! The io_urings of one reactor, each made when it is first needed.
//!
//! *Turned down:* one ring for everything. NVMe commands need entries of twice the size, which files would pay for; and a ring that polls its
//! devices can take nothing else.

use std::io;
use std::os::fd::RawFd;

use crate::dm::{CloneId, Status};

use super::ring::{Completions, Request, Ring};
use super::{file, passthrough};

/// All of them.
pub(super) struct Rings {
    /// Of each; a power of two.
    entries: u32,
    files: Option<Ring<file::Request>>,
    commands: Option<Ring<passthrough::Request>>,
    polled_commands: Option<Ring<passthrough::Request>>,
}

impl Rings {
    pub(super) fn new(entries: u32) -> Rings {
        Rings {
            entries,
            files: None,
            commands: None,
            polled_commands: None,
        }
    }

    /// The ring of files.
    ///
    /// # Errors
    /// As [`Ring::new`].
    pub(super) fn make_files(&mut self) -> io::Result<()> {
        make(&mut self.files, self.entries, Completions::Interrupts)
    }

    /// The ring of NVMe commands that complete in this way.
    ///
    /// # Errors
    /// As [`Ring::new`].
    pub(super) fn make_commands(&mut self, completions: Completions) -> io::Result<()> {
        let entries = self.entries;
        make(self.slot(completions), entries, completions)
    }

    /// The ring of files, for a channel that had it made.
    #[inline]
    pub(super) fn files(&mut self) -> &mut Ring<file::Request> {
        let ring = self.files.as_mut();
        ring.expect("opening a channel to a file made the ring")
    }

    /// The ring of NVMe commands, for a channel that had it made.
    #[inline]
    pub(super) fn commands(&mut self, completions: Completions) -> &mut Ring<passthrough::Request> {
        let ring = self.slot(completions).as_mut();
        ring.expect("opening a channel to a namespace made the ring")
    }

    fn slot(&mut self, completions: Completions) -> &mut Option<Ring<passthrough::Request>> {
        match completions {
            Completions::Interrupts => &mut self.commands,
            Completions::Polled => &mut self.polled_commands,
        }
    }

    /// A descriptor that is readable when something has completed: each is given once, as soon as it is there.
    pub(super) fn unwatched_fd(&mut self) -> Option<RawFd> {
        let files = self.files.as_mut().and_then(Ring::unwatched_fd);
        files.or_else(|| self.commands.as_mut().and_then(Ring::unwatched_fd))
    }

    #[inline]
    pub(super) fn poll(&mut self, ended: &mut Vec<(CloneId, Status)>) {
        if let Some(ring) = &mut self.files {
            ring.poll(ended);
        }
        if let Some(ring) = &mut self.commands {
            ring.poll(ended);
        }
        if let Some(ring) = &mut self.polled_commands {
            ring.poll(ended);
        }
    }

    #[inline]
    pub(super) fn submit_gathered(&mut self) {
        if let Some(ring) = &mut self.files {
            ring.submit_gathered();
        }
        if let Some(ring) = &mut self.commands {
            ring.submit_gathered();
        }
        if let Some(ring) = &mut self.polled_commands {
            ring.submit_gathered();
        }
    }

    /// Whether each of them will say when there is something to look at.
    pub(super) fn may_sleep(&mut self) -> bool {
        self.files.as_mut().is_none_or(Ring::may_sleep)
            && self.commands.as_mut().is_none_or(Ring::may_sleep)
            && self.polled_commands.as_mut().is_none_or(Ring::may_sleep)
    }
}

fn make<R: Request>(
    slot: &mut Option<Ring<R>>,
    entries: u32,
    completions: Completions,
) -> io::Result<()> {
    if slot.is_none() {
        *slot = Some(Ring::new(entries, completions)?);
    }
    Ok(())
}
