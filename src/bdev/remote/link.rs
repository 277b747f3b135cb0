//! One reactor's connection to one remote.
//!
//! | phase | connection | I/O |
//! |---|---|---|
//! | coming up | not yet | waits |
//! | up | yes | is submitted; waits when the queue is full |
//! | down | lost | waits, or fails if its table has other ways to go |
//! | given up | lost | fails |
//!
//! What waits is bounded by what front ends have outstanding: each entry is a clone of one of their I/Os. *Turned down:* to answer `Busy`, which
//! the mapper tries again each turn; a reactor would spin for as long as a remote is away.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use crate::dm::{CloneId, LowerId, LowerIo, Status, Submit};
use crate::host::{Client, Error};
use crate::nvme::command::Completion;
use crate::reactor::{BufferPool, Epoll, Interest};

use super::hub::{Connected, Hub, Mail, Mailbox, Order, Seat};
use super::request::{Next, Request};
use super::standing::Standing;
use crate::bdev::Patience;
use crate::bdev::namespace::Geometry;
use crate::bdev::payload::Payload;

/// In one part of this many of `io_timeout`, commands are looked through once.
const LOOKS_PER_TIMEOUT: u64 = 8;

/// What has ended.
pub(super) type Ended = Vec<(CloneId, Status)>;

/// What an I/O needs of its reactor.
pub struct Parts<'a> {
    /// For reads that are to be lent their data.
    pub buffers: &'a BufferPool,
    /// The clock, as of the last poll.
    pub now_ns: u64,
    /// For what ends meanwhile.
    pub ended: &'a mut Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    ComingUp,
    Up,
    Down,
    GivenUp,
    /// The device was taken away.
    Gone,
}

/// One reactor's side of a remote; all channels of that reactor to it share this.
pub struct Link {
    id: LowerId,
    hub: Arc<Hub>,
    seat: Seat,
    mail: Receiver<Mail>,
    /// Of the reactor.
    epoll: Rc<RefCell<Epoll>>,
    io_timeout_ns: u64,
    inner: RefCell<Inner>,
}

struct Inner {
    phase: Phase,
    connected: Option<Box<Connected>>,
    /// By command identifier.
    requests: Vec<Option<Request>>,
    waiting: VecDeque<Request>,
    serial: u64,
    /// When commands are to be looked through for one that is not answered.
    look_ns: u64,
}

/// The data of the request that is being submitted, whose identifier is not known before.
struct Submitting<'a> {
    request: &'a Request,
    geometry: &'a Geometry,
}

impl Client for Submitting<'_> {
    #[inline]
    fn outgoing(&mut self, _: u16, offset: u32, buffer: &mut [u8]) {
        self.request.outgoing(self.geometry, offset, buffer);
    }

    fn incoming(&mut self, _: u16, _: u32, _: &[u8]) {
        unreachable!("submitting receives nothing");
    }

    fn complete(&mut self, _: &Completion, _: u32) {
        unreachable!("submitting completes nothing");
    }
}

/// The requests of commands that have been submitted.
struct UnderWay<'a> {
    requests: &'a mut [Option<Request>],
    geometry: &'a Geometry,
    again: &'a mut VecDeque<Request>,
    ended: &'a mut Ended,
}

impl UnderWay<'_> {
    #[inline]
    fn request(&mut self, command_id: u16) -> &mut Request {
        let request = self.requests[usize::from(command_id)].as_mut();
        request.expect("the queue names commands that are under way")
    }
}

impl Client for UnderWay<'_> {
    #[inline]
    fn outgoing(&mut self, command_id: u16, offset: u32, buffer: &mut [u8]) {
        let geometry = self.geometry;
        self.request(command_id).outgoing(geometry, offset, buffer);
    }

    #[inline]
    fn incoming(&mut self, command_id: u16, offset: u32, data: &[u8]) {
        self.request(command_id).incoming(offset, data);
    }

    #[inline]
    fn complete(&mut self, completion: &Completion, transferred: u32) {
        let request = self.requests[usize::from(completion.command_id)].take();
        let request = request.expect("the queue names commands that are under way");
        match request.answered(completion, transferred) {
            Next::Ended(clone, status) => self.ended.push((clone, status)),
            Next::Again(request) => self.again.push_front(request),
        }
    }
}

impl Link {
    /// A link in `seat`, which asks the keeper for a connection.
    pub(super) fn new(
        id: LowerId,
        hub: &Arc<Hub>,
        (seat, mailbox): (Seat, Mailbox),
        mail: Receiver<Mail>,
        epoll: &Rc<RefCell<Epoll>>,
    ) -> Rc<Link> {
        hub.send(Order::Take(seat, mailbox));
        Rc::new(Link {
            id,
            hub: Arc::clone(hub),
            seat,
            mail,
            epoll: Rc::clone(epoll),
            io_timeout_ns: u64::try_from(hub.io_timeout.as_nanos()).unwrap_or(u64::MAX),
            inner: RefCell::new(Inner {
                phase: Phase::ComingUp,
                connected: None,
                requests: Vec::new(),
                waiting: VecDeque::new(),
                serial: 0,
                look_ns: 0,
            }),
        })
    }

    fn token(&self) -> u64 {
        self.seat.0.into()
    }

    /// Ends the watch, before the connection is closed or becomes another link's.
    fn unwatch(&self, connected: Option<&Connected>) {
        if let Some(connected) = connected {
            let fd = connected.queue.stream().as_raw_fd();
            // It was not watched if there was no room for that, which is why it ends.
            let _ = self.epoll.borrow_mut().unwatch(fd, self.token());
        }
    }

    /// Closes the connection, so that nothing of it can still be sent; what was under way is before what has waited, in its order.
    fn close(&self, inner: &mut Inner) {
        self.unwatch(inner.connected.as_deref());
        if let Some(connected) = inner.connected.take() {
            connected.queue.abort();
        }
        let under_way = inner.requests.iter_mut().filter_map(Option::take);
        inner.waiting.extend(under_way);
        inner
            .waiting
            .make_contiguous()
            .sort_unstable_by_key(|request| request.serial);
    }

    /// The device that it is of.
    pub(super) fn id(&self) -> LowerId {
        self.id
    }

    /// Submits one I/O that lies within the device.
    #[inline]
    pub(in crate::bdev) fn submit(
        &self,
        io: &LowerIo<Payload>,
        clone: CloneId,
        patience: Patience,
        core: Parts<'_>,
    ) -> Submit {
        let down = matches!(self.inner.borrow().phase, Phase::Down | Phase::GivenUp);
        if down && !self.mail.is_empty() {
            // Whoever sends this may know already that the connection is back.
            self.take_mail(core.ended);
        }
        let (buffers, now_ns) = (core.buffers, core.now_ns);
        let inner = &mut *self.inner.borrow_mut();
        match inner.phase {
            Phase::Down if patience == Patience::FailsFast => {
                return Submit::Done(Status::Transport);
            }
            Phase::GivenUp | Phase::Gone => return Submit::Done(Status::Transport),
            Phase::ComingUp | Phase::Up | Phase::Down => {}
        }
        let Some(request) = Request::new(io, clone, patience, inner.serial, buffers) else {
            return Submit::Busy;
        };
        inner.serial += 1;
        match inner.waiting.is_empty() {
            true => {
                if let Err(request) = inner.start(request, now_ns) {
                    inner.waiting.push_back(request);
                }
            }
            false => inner.waiting.push_back(request),
        }
        Submit::Pending
    }

    /// Takes the keeper's mail, receives what is there, submits what has waited, looks at the time. `stirred`: something may have happened
    /// to the connection though nothing is under way on it.
    #[inline]
    pub(super) fn poll(&self, stirred: bool, now_ns: u64, ended: &mut Ended) {
        if !self.mail.is_empty() {
            self.take_mail(ended);
        }
        let inner = &mut *self.inner.borrow_mut();
        let Some(connected) = &inner.connected else {
            return;
        };
        let queue = &connected.queue;
        let under_way = queue.outstanding() > 0;
        let idle = !under_way && !queue.has_unsent() && !queue.has_unread();
        if idle && !stirred && inner.waiting.is_empty() {
            return;
        }
        if let Err(error) = inner.receive(ended) {
            self.lose(inner, error.to_string(), ended);
            return;
        }
        while let Some(request) = inner.waiting.pop_front() {
            if let Err(request) = inner.start(request, now_ns) {
                inner.waiting.push_front(request);
                break;
            }
        }
        if under_way && now_ns >= inner.look_ns {
            inner.look_ns = now_ns + self.io_timeout_ns / LOOKS_PER_TIMEOUT;
            if inner.has_overdue(now_ns, self.io_timeout_ns) {
                Standing::count(&self.hub.standing.timeouts);
                let timeout = self.hub.io_timeout;
                let reason = format!("a command was not answered within {timeout:?} (io_timeout)");
                self.lose(inner, reason, ended);
            }
        }
    }

    /// Hands what was submitted to the kernel.
    #[inline]
    pub(super) fn send(&self, ended: &mut Ended) {
        let inner = &mut *self.inner.borrow_mut();
        let unsent = |connected: &Connected| connected.queue.has_unsent();
        if inner.connected.as_deref().is_some_and(unsent)
            && let Err(error) = inner.send()
        {
            self.lose(inner, error.to_string(), ended);
        }
    }

    /// Whether another turn does something though nothing happens meanwhile.
    pub(super) fn may_go_on(&self) -> bool {
        let inner = self.inner.borrow();
        let connected = inner.connected.as_deref();
        connected.is_some_and(|connected| connected.queue.may_go_on())
    }

    /// When it wants to be polled though nothing has come; `u64::MAX` for never.
    pub(super) fn due_ns(&self) -> u64 {
        let inner = self.inner.borrow();
        let under_way = |connected: &Connected| connected.queue.outstanding() > 0;
        match inner.connected.as_deref().is_some_and(under_way) {
            true => inner.look_ns,
            false => u64::MAX,
        }
    }

    /// The device was taken away: everything ends, now.
    pub(super) fn set_gone(&self, ended: &mut Ended) {
        let inner = &mut *self.inner.borrow_mut();
        inner.phase = Phase::Gone;
        self.close(inner);
        inner.fail_waiting(|_| true, ended);
    }

    #[cold]
    fn take_mail(&self, ended: &mut Ended) {
        while let Ok(mail) = self.mail.try_recv() {
            self.take(mail, ended);
        }
    }

    fn take(&self, mail: Mail, ended: &mut Ended) {
        let inner = &mut *self.inner.borrow_mut();
        if inner.phase == Phase::Gone {
            return;
        }
        match mail {
            Mail::Up(connected) => {
                let depth = connected.queue.depth();
                inner.requests.resize_with(depth, || None);
                inner.phase = Phase::Up;
                // Polled while something is under way; the watch is for sleep, and for a connection that ends in silence.
                let interest = Interest::READ | Interest::WRITE | Interest::EDGE;
                let fd = connected.queue.stream().as_raw_fd();
                let watched = self.epoll.borrow_mut().watch(fd, interest, self.token());
                inner.connected = Some(connected);
                if let Err(error) = watched {
                    self.lose(
                        inner,
                        format!("the connection cannot be watched: {error}"),
                        ended,
                    );
                }
            }
            Mail::Down => {
                self.close(inner);
                inner.phase = Phase::Down;
                let impatient = |request: &Request| request.patience() == Patience::FailsFast;
                inner.fail_waiting(impatient, ended);
            }
            Mail::GiveUp => {
                self.close(inner);
                inner.phase = Phase::GivenUp;
                inner.fail_waiting(|_| true, ended);
            }
        }
    }

    /// The connection is of no more use: it is closed before anything else is done with what was on it.
    #[cold]
    fn lose(&self, inner: &mut Inner, reason: String, ended: &mut Ended) {
        let association = inner.connected.as_ref().map(|one| one.association);
        self.close(inner);
        inner.phase = Phase::Down;
        let impatient = |request: &Request| request.patience() == Patience::FailsFast;
        inner.fail_waiting(impatient, ended);
        if let Some(association) = association {
            self.hub.send(Order::Lost(association, reason));
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.unwatch(self.inner.borrow().connected.as_deref());
        let connected = self.inner.get_mut().connected.take();
        let unused = |connected: &Connected| {
            connected.queue.outstanding() == 0 && !connected.queue.has_unsent()
        };
        let connected = match connected {
            Some(connected) if unused(&connected) => Some(connected),
            Some(connected) => {
                connected.queue.abort();
                None
            }
            None => None,
        };
        self.hub.give_seat_back();
        self.hub.send(Order::Leave(self.seat, connected));
    }
}

impl Inner {
    /// Submits a request's next command, if there is a connection with room.
    #[inline]
    fn start(&mut self, mut request: Request, now_ns: u64) -> Result<(), Request> {
        let Some(connected) = &mut self.connected else {
            return Err(request);
        };
        let geometry = &connected.geometry;
        let (command, submission) = request.command(geometry);
        request.started_ns = now_ns;
        let mut client = Submitting {
            request: &request,
            geometry,
        };
        match connected.queue.submit(command, submission, &mut client) {
            Ok(command_id) => {
                let slot = &mut self.requests[usize::from(command_id)];
                assert!(slot.is_none(), "an identifier is given to one command");
                *slot = Some(request);
                Ok(())
            }
            // Full; or dead, which the next poll will be told.
            Err(_) => Err(request),
        }
    }

    fn receive(&mut self, ended: &mut Ended) -> Result<(), Error> {
        let connected = self.connected.as_mut().expect("the caller has looked");
        let mut client = UnderWay {
            requests: &mut self.requests,
            geometry: &connected.geometry,
            again: &mut self.waiting,
            ended,
        };
        connected.queue.poll(&mut client).map(drop)
    }

    fn send(&mut self) -> Result<(), Error> {
        let connected = self.connected.as_mut().expect("the caller has looked");
        let mut client = UnderWay {
            requests: &mut self.requests,
            geometry: &connected.geometry,
            again: &mut self.waiting,
            ended: &mut Ended::new(),
        };
        connected.queue.send(&mut client)
    }

    fn has_overdue(&self, now_ns: u64, timeout_ns: u64) -> bool {
        let overdue = |request: &Request| now_ns.saturating_sub(request.started_ns) >= timeout_ns;
        self.requests.iter().flatten().any(overdue)
    }

    /// Ends those among what waits.
    fn fail_waiting(&mut self, which: impl Fn(&Request) -> bool, ended: &mut Ended) {
        self.waiting.retain(|request| {
            let fails = which(request);
            if fails {
                ended.push((request.clone_id(), Status::Transport));
            }
            !fails
        });
    }
}
