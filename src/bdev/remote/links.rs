//! All remotes of one reactor.

use std::cell::RefCell;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::unbounded;

use crate::dm::LowerId;
use crate::reactor::{Epoll, Ready, monotonic_ns};

use super::bell::Bell;
use super::hub::{Mailbox, Remote};
use super::link::{Ended, Link};
use crate::bdev::error::Error;

/// All links of one reactor; nothing at all without a remote.
#[derive(Default)]
pub struct Links {
    links: Vec<Weak<Link>>,
    /// The connections' sockets and the keepers' bell, as one descriptor for the reactor to watch in sleep.
    watch: Option<Watch>,
    /// Something happened on a descriptor since the last poll.
    stirred: bool,
    now_ns: u64,
    /// Whether the reactor has been given the descriptor.
    given: bool,
}

struct Watch {
    epoll: Rc<RefCell<Epoll>>,
    bell: Arc<Bell>,
}

impl Links {
    /// This reactor's link to a remote: the one there is, or a new one.
    ///
    /// # Errors
    /// [`Error::Remote`] when the controller grants no more queues, or the system no descriptors.
    pub fn link(&mut self, id: LowerId, name: &str, remote: &Remote) -> Result<Rc<Link>, Error> {
        let failed = |reason: String| Error::Remote {
            address: name.to_owned(),
            reason,
        };
        let mut present = self.links.iter().filter_map(Weak::upgrade);
        if let Some(link) = present.find(|link| link.id() == id) {
            return Ok(link);
        }
        let watch =
            match &mut self.watch {
                Some(watch) => watch,
                none => none.insert(Watch::new().map_err(|error| {
                    failed(format!("the system has no descriptors left: {error}"))
                })?),
            };
        let seat = remote.hub.take_seat().map_err(|granted| {
            failed(format!(
                "the controller grants {granted} I/O queues, and so many reactors use it already; start fewer reactors"
            ))
        })?;
        let (sender, mail) = unbounded();
        let mailbox = Mailbox {
            mail: sender,
            bell: Arc::clone(&watch.bell),
        };
        let link = Link::new(id, &remote.hub, (seat, mailbox), mail, &watch.epoll);
        self.links.retain(|link| link.strong_count() > 0);
        self.links.push(Rc::downgrade(&link));
        self.now_ns = monotonic_ns();
        Ok(link)
    }

    /// The clock, as of the last poll.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// One turn.
    #[inline]
    pub fn poll(&mut self, ended: &mut Ended) {
        if !self.links.is_empty() {
            self.poll_all(ended);
        }
    }

    fn poll_all(&mut self, ended: &mut Ended) {
        self.now_ns = monotonic_ns();
        let stirred = std::mem::take(&mut self.stirred);
        self.links.retain(|link| match link.upgrade() {
            Some(link) => {
                link.poll(stirred, self.now_ns, ended);
                true
            }
            None => false,
        });
    }

    /// Hands what was submitted to the kernel.
    #[inline]
    pub fn send(&mut self, ended: &mut Ended) {
        for link in self.links.iter().filter_map(Weak::upgrade) {
            link.send(ended);
        }
    }

    /// The reactor's look at [`Links::unwatched_fd`] has found something, or it wants to know whether there is anything. True if so.
    pub fn look(&mut self) -> bool {
        let Some(Watch { epoll, bell }) = &self.watch else {
            return false;
        };
        let mut epoll = epoll.borrow_mut();
        epoll.look(Some(Duration::ZERO));
        let mut any = false;
        while let Some(ready) = epoll.next() {
            any = true;
            if let Ready::Bell = ready {
                bell.silence();
            }
        }
        self.stirred |= any;
        any
    }

    /// Whether the reactor may sleep: everything was handed to the kernel as far as it takes it, and nothing has happened that is not
    /// known yet.
    pub fn may_sleep(&mut self, ended: &mut Ended) -> bool {
        if self.links.is_empty() {
            return true;
        }
        // A socket that took a part takes no more at the second attempt, and from then on says when it does again.
        self.send(ended);
        self.send(ended);
        let mut links = self.links.iter().filter_map(Weak::upgrade);
        !links.any(|link| link.may_go_on()) && !self.look()
    }

    /// When the first link wants to be polled; `u64::MAX` for never.
    pub fn due_ns(&self) -> u64 {
        let links = self.links.iter().filter_map(Weak::upgrade);
        links.map(|link| link.due_ns()).min().unwrap_or(u64::MAX)
    }

    /// A remote was taken away.
    pub fn gone(&mut self, id: LowerId, ended: &mut Ended) {
        let links = self.links.iter().filter_map(Weak::upgrade);
        for link in links.filter(|link| link.id() == id) {
            link.set_gone(ended);
        }
    }

    /// The descriptor to watch in sleep, once there is one: given once.
    pub fn unwatched_fd(&mut self) -> Option<RawFd> {
        let watch = self.watch.as_ref().filter(|_| !self.given)?;
        self.given = true;
        Some(watch.epoll.borrow().fd())
    }
}

impl Watch {
    fn new() -> std::io::Result<Watch> {
        let bell = Arc::new(Bell::new()?);
        Ok(Watch {
            epoll: Rc::new(RefCell::new(Epoll::new(bell.fd().as_raw_fd())?)),
            bell,
        })
    }
}
