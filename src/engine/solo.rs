//! One core of the engine without a reactor: whoever holds it turns it. For measuring what the mapper costs with nothing around it.

use std::sync::Arc;

use super::lower::Lower;
use super::world::Planes;
use crate::bdev::{self, Payload};
use crate::dm::{
    Answer, CloneId, CoreId, DeviceId, Error, Event, Io, Mapper, Message, Reply, Request, Status,
    SuspendOptions, Table, Tag,
};
use crate::reactor::monotonic_ns;

/// The only device of a [`Solo`].
const DEVICE: DeviceId = DeviceId(0);

/// A mapper with one device, over lower channels of its own, on the calling thread.
pub struct Solo {
    mapper: Mapper<Lower>,
    lower: Lower,
    ended: Vec<(CloneId, Status)>,
}

impl Solo {
    /// A device with `table`, running, with room for `outstanding` I/Os.
    ///
    /// # Errors
    /// When a lower device cannot be opened on this thread.
    pub fn new(
        bdevs: Arc<bdev::Registry>,
        table: Arc<Table>,
        ordered: bool,
        outstanding: usize,
        buffer_bytes_max: usize,
    ) -> Result<Solo, Error> {
        let mut lower = Lower::new(Planes::new(bdevs), 1, buffer_bytes_max);
        lower.completed.push(Vec::with_capacity(outstanding));
        let mut solo = Solo {
            mapper: Mapper::new(CoreId(0), outstanding),
            lower,
            ended: Vec::new(),
        };
        for request in [
            Request::Create {
                ordered,
                parked_limit_ns: None,
            },
            Request::Load(table),
            Request::Resume {
                open: true,
                suspend: SuspendOptions::default(),
            },
        ] {
            solo.request(request)?;
        }
        Ok(solo)
    }

    /// Submits an I/O to the device; `Some` when it ended at once.
    #[inline(always)]
    pub fn submit(&mut self, command: u32, io: impl FnOnce(Tag) -> Io<Payload>) -> Option<Status> {
        let tag = Tag { client: 0, command };
        self.mapper.submit(&mut self.lower, DEVICE, io(tag))
    }

    /// One turn: what lower devices have ended, what the mapper makes of it. The I/Os that have ended, by command number, are
    /// drained from the returned list by the caller.
    #[inline(always)]
    pub fn poll(&mut self) -> &mut Vec<(u32, Status)> {
        self.lower.now_ns = monotonic_ns();
        self.lower.bdevs.submit_gathered();
        self.lower.bdevs.poll(&mut self.ended);
        for (clone, status) in self.ended.drain(..) {
            self.mapper.complete_clone(&mut self.lower, clone, status);
        }
        if self.mapper.wants_poll(self.lower.now_ns) {
            self.mapper.poll(&mut self.lower);
        }
        self.deliver();
        &mut self.lower.completed[0]
    }

    /// Hands the mapper what it has sent itself, until it is silent.
    fn deliver(&mut self) {
        while !self.lower.outbox.is_empty() {
            for (_, message) in std::mem::take(&mut self.lower.outbox) {
                self.mapper.message(&mut self.lower, message);
            }
        }
        self.lower.answer();
    }

    fn request(&mut self, request: Request) -> Result<Reply, Error> {
        let (ticket, answer) = self.lower.planes.tickets.issue();
        let event = Event::Request(request, ticket);
        self.mapper.message(
            &mut self.lower,
            Message::Event {
                device: DEVICE,
                event,
            },
        );
        self.deliver();
        let answer: Answer = answer
            .try_recv()
            .expect("nothing but this thread has to answer");
        answer
    }
}
