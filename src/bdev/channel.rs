//! What one reactor submits to.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::dm::{CloneId, LowerIo, Op, Status, Submit};

use super::core::Core;
use super::device::Facts;
use super::file::FileHandle;
use super::passthrough::NamespaceHandle;
use super::payload::Payload;
use super::region::RegionHandle;
use super::remote::Link;
use super::{Patience, SECTOR_BYTES, file, malloc, null, passthrough};

/// A device, opened on one reactor. To be dropped there, with nothing in flight.
///
/// It holds what the device is made of through `hold`, which the reactor's [`Core`] can empty when the device is taken away: so a
/// file is closed as soon as what is in flight has ended, however long tables keep their channels (PM-14).
pub struct Channel {
    facts: Arc<Facts>,
    /// Bits of a sector number that must be zero.
    block_mask: u64,
    body: ChannelBody,
    _hold: Rc<Hold>,
}

/// Weak, because the hold may go first. To upgrade is what a file's I/O has to do anyway, to hold its file until it has ended.
pub(super) enum ChannelBody {
    Null(Rc<Cell<bool>>),
    Malloc(Weak<RegionHandle>),
    /// A malloc device that lends nothing of its own.
    MallocCopied(Weak<RegionHandle>),
    File(Weak<FileHandle>),
    Nvme(Weak<NamespaceHandle>, Patience),
    Remote(Weak<Link>, Patience),
}

/// What keeps a channel's device open on this reactor, until it is taken away.
pub(super) struct Hold(RefCell<Option<Handle>>);

/// What a device is made of, on one reactor.
pub(super) enum Handle {
    /// Nothing; true once it was taken away.
    Null(Rc<Cell<bool>>),
    Malloc(Rc<RegionHandle>),
    File(Rc<FileHandle>),
    Nvme(Rc<NamespaceHandle>),
    Remote(Rc<Link>),
}

impl Hold {
    /// The device was taken away: lets go of it, for good.
    pub(super) fn release(&self) {
        match self.0.borrow_mut().take() {
            Some(Handle::Null(gone)) => gone.set(true),
            Some(Handle::Malloc(region)) => region.set_gone(),
            Some(Handle::File(file)) => file.set_gone(),
            Some(Handle::Nvme(namespace)) => namespace.set_gone(),
            // Its core has told it, and has taken what ended then.
            Some(Handle::Remote(_)) | None => {}
        }
    }
}

impl Channel {
    /// A channel to a device, known to `core` so that it can be told when the device goes.
    pub(super) fn new(
        facts: &Arc<Facts>,
        handle: Handle,
        patience: Patience,
        core: &mut Core,
    ) -> Channel {
        let body = match &handle {
            Handle::Null(gone) => ChannelBody::Null(Rc::clone(gone)),
            Handle::Malloc(region) if facts.writes_atomically() => {
                ChannelBody::MallocCopied(Rc::downgrade(region))
            }
            Handle::Malloc(region) => ChannelBody::Malloc(Rc::downgrade(region)),
            Handle::File(file) => ChannelBody::File(Rc::downgrade(file)),
            Handle::Nvme(namespace) => ChannelBody::Nvme(Rc::downgrade(namespace), patience),
            Handle::Remote(link) => ChannelBody::Remote(Rc::downgrade(link), patience),
        };
        let hold = Rc::new(Hold(RefCell::new(Some(handle))));
        core.note_hold(facts.id, &hold);
        facts.channels.fetch_add(1, Ordering::Relaxed);
        Channel {
            block_mask: u64::from(facts.block_bytes) / SECTOR_BYTES - 1,
            facts: Arc::clone(facts),
            body,
            _hold: hold,
        }
    }

    /// Submits one I/O. [`Submit::Pending`] ends with `clone` in what [`Core::poll`] gives, once, never from within this call. When the
    /// device has been taken away ([`Core::lower_gone`]), everything ends at once with [`Status::Transport`].
    ///
    /// # Panics
    /// If the payload is not as long as the range: what follows would reach beyond somebody's memory.
    #[inline(always)]
    pub fn submit(&mut self, core: &mut Core, io: &LowerIo<Payload>, clone: CloneId) -> Submit {
        const GONE: Submit = Submit::Done(Status::Transport);
        match &self.body {
            ChannelBody::Null(gone) => {
                if gone.get() {
                    return GONE;
                }
                if let Some(status) = self.refuses(io) {
                    return Submit::Done(status);
                }
                null::submit(io);
                core.complete_later(clone, Status::Ok);
                Submit::Pending
            }
            ChannelBody::Malloc(region) => {
                // Lent data and I/O under way outlive the hold, so to be there is not enough.
                let Some(region) = region.upgrade().filter(|region| !region.is_gone()) else {
                    return GONE;
                };
                if let Some(status) = self.refuses(io) {
                    return Submit::Done(status);
                }
                malloc::submit(core, region, io, clone)
            }
            ChannelBody::MallocCopied(region) => {
                let Some(region) = region.upgrade().filter(|region| !region.is_gone()) else {
                    return GONE;
                };
                if let Some(status) = self.refuses(io) {
                    return Submit::Done(status);
                }
                malloc::submit_copied(core, region, io, clone)
            }
            ChannelBody::File(file) => {
                let Some(file) = file.upgrade().filter(|file| !file.is_gone()) else {
                    return GONE;
                };
                if let Some(status) = self.refuses(io) {
                    return Submit::Done(status);
                }
                file::submit(core, file, io, clone)
            }
            ChannelBody::Nvme(namespace, patience) => {
                let Some(namespace) = namespace.upgrade().filter(|one| !one.is_gone()) else {
                    return GONE;
                };
                if let Some(status) = self.refuses(io) {
                    return Submit::Done(status);
                }
                passthrough::submit(core, namespace, io, clone, *patience)
            }
            ChannelBody::Remote(link, patience) => {
                let Some(link) = link.upgrade() else {
                    return GONE;
                };
                if let Some(status) = self.refuses(io) {
                    return Submit::Done(status);
                }
                link.submit(io, clone, *patience, core.parts())
            }
        }
    }

    /// The mapper has checked all of this against the table; but a device can have shrunk since.
    #[inline(always)]
    fn refuses(&self, io: &LowerIo<Payload>) -> Option<Status> {
        if io.op == Op::Flush {
            return None;
        }
        let sectors = u64::from(io.sectors);
        let end = io.sector.checked_add(sectors);
        let size = self.facts.sectors.load(Ordering::Relaxed);
        if end.is_none_or(|end| end > size) || (io.sector | sectors) & self.block_mask != 0 {
            return Some(Status::IoError);
        }
        if matches!(io.op, Op::Read | Op::Write) {
            assert_eq!(
                u64::from(io.payload.length()),
                sectors * SECTOR_BYTES,
                "a payload is as long as its range"
            );
        }
        if io.op != Op::Read && self.facts.read_only {
            return Some(Status::Target);
        }
        None
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.facts.channels.fetch_sub(1, Ordering::Relaxed);
    }
}
