//! One connection as a state machine without a socket: bytes in, bytes out, I/O to a [`Backend`].
//!
//! A session has one connection (MaxConnections is 1) and error recovery level 0: what is lost with a connection is sent again in another
//! session. Everything here belongs to one core.
//!
//! ```text
//! Login --final response--> Full --Logout Response, Reject queued--> Leaving --all sent--> Dead
//!   |  \--waits for an older session to go--/                                                ^
//!   +---------- refused: Leaving ----- socket lost, Close ----------------------------------+
//! ```
//!
//! A dead session stays until its last I/O has come back from the device: the memory of those I/Os is its own.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

use crossbeam_channel::Sender;

use super::background::Background;
use super::command::{Phase, Slots};
use super::held::Held;
use super::keys::Negotiation;
use super::line::Line;
use super::login::Login;
use super::manage::Management;
use super::message::Message;
use super::receive::Receive;
use super::request::Text;
use super::target::{Target, TargetId};
use super::unit::{LocalUnits, LunSet};
use super::watch::Watch;
use crate::dm::CoreId;
use crate::export::backend::{Backend, Lend};
use crate::export::chunk::ChunkPool;
use crate::export::frame::{self, SessionKey, TAG_SLOT_BITS};
use crate::export::stats::CommandStats;
use crate::export::transmit::Transmit;
use crate::iscsi::pdu::{self, Header};
use crate::iscsi::text::Parameters;
use crate::scsi::{Nexus, View};

/// Commands that an initiator may have outstanding: how far MaxCmdSN is ahead of ExpCmdSN.
pub const WINDOW: u32 = 256;

/// Slots of a connection: the window, as many answers that are still being sent, and immediate commands.
pub const SLOTS: u16 = 2 * WINDOW as u16 + 64;

const _: () = assert!(SLOTS as u32 <= 1 << TAG_SLOT_BITS);

/// Most header bytes that one command has queued at a time before it waits: an R2T, Data-In, SCSI Response with sense data, digests.
const HEADER_BYTES_PER_COMMAND: usize = 256;

/// Room for what is said in a login, where an answer may have a whole data segment.
const LOGIN_ANSWERS: usize = 2;

/// While this much waits to be sent, no further command is taken from the initiator.
pub const OUTPUT_BYTES_MAX: u64 = 4 << 20;

/// Bytes of reads that one connection may have between device and socket.
pub const READ_BYTES_MAX: u64 = 4 << 20;

/// Bytes of pool buffers that one connection may hold. At least a few of the largest transfers.
pub const BUFFER_BYTES_MAX: usize = 8 << 20;

/// PDUs of our own that may wait for room; an initiator that provokes more than that does not read.
const CONTROL_MAX: usize = 256;

/// Somebody waits until commands of this core are gone from the devices: nobody else has the token then.
pub struct Waiter {
    /// What the commands share with it.
    pub token: Rc<()>,
    /// Who waits.
    pub who: Waits,
}

/// Who waits for commands to be gone.
pub enum Waits {
    /// A session, by its number for this.
    Session(SessionKey, u32),
    /// What goes on by itself on a core, by its number.
    Background(CoreId, u32),
    /// An operator: disconnected, never sent to.
    Operator(Sender<()>),
}

impl Waiter {
    /// The answer to another core, when the commands are gone.
    pub fn answer(&self) -> Option<(CoreId, Message)> {
        match &self.who {
            Waits::Session(key, number) => Some((key.core, Message::Aborted(*key, *number))),
            Waits::Background(core, number) => Some((*core, Message::Drained(*number))),
            Waits::Operator(_) => None,
        }
    }
}

/// What every session of one core works with.
pub struct Local {
    /// This core.
    pub core: CoreId,
    /// Receive chunks.
    pub chunks: ChunkPool,
    /// Logical units.
    pub units: LocalUnits,
    /// Messages to other cores, and to this one; the worker sends them after each turn.
    pub outbox: Vec<(CoreId, Message)>,
    /// Who waits for commands to be gone.
    pub waiters: Vec<Waiter>,
    /// What goes on by itself.
    pub background: Background,
}

/// What a session is given with every call.
pub struct Context<'a, B> {
    /// The devices.
    pub backend: &'a mut B,
    /// The core.
    pub local: &'a mut Local,
    /// What all cores share.
    pub target: &'a Target,
}

/// How far a connection is.
#[derive(Debug)]
pub enum State {
    /// In the login phase.
    Login(Box<Login>),
    /// In the full feature phase.
    Full,
    /// The last word is queued; nothing is read any more.
    Leaving,
    /// Over; only I/O at the devices keeps it.
    Dead,
}

/// A session of the full feature phase.
pub struct Member {
    /// TSIH.
    pub session: u16,
    /// The initiator's name.
    pub initiator: String,
    /// CID.
    pub connection: u16,
    /// The target and the nexus with it; `None` in discovery.
    pub nexus: Option<(TargetId, Nexus)>,
    /// The units that it sees.
    pub luns: LunSet,
}

/// One connection.
pub struct Session<L> {
    /// Where it is.
    pub key: SessionKey,
    /// How far it is.
    pub state: State,
    pub(super) parameters: Parameters,
    /// What it has become.
    pub member: Option<Member>,
    /// What was last known of each unit, by LUN.
    pub(super) views: Vec<View>,
    pub(super) slots: Slots<L>,
    pub(super) transmit: Transmit,
    pub(super) receive: Receive,
    /// Answers that wait for their turn to be queued, in order.
    pub(super) answers: VecDeque<u16>,
    /// PDUs of our own that wait for room, without their sequence numbers.
    pub(super) control: VecDeque<(Header, Vec<u8>)>,
    /// Commands that wait for a buffer, in order.
    pub(super) waiting: VecDeque<u16>,
    /// Jobs that go on when others have had their turn.
    pub(super) yielded: VecDeque<u16>,
    /// Commands that wait for others of their task set.
    pub(super) line: Line,
    /// Task management functions that are not answered yet.
    pub(super) managements: Vec<Management>,
    pub(super) management_number: u32,
    /// Pool buffers held, in bytes.
    pub(super) buffer_bytes: usize,
    /// Bytes of reads between device and socket.
    pub(super) read_bytes: u64,
    /// Slots whose data lies in a chunk while at a device.
    pub(super) pinned: usize,
    /// Commands at devices.
    pub(super) running: usize,
    /// StatSN of the next response.
    pub(super) stat_sn: u32,
    /// ExpCmdSN.
    pub(super) expected_sn: u32,
    /// Commands of the window that have not been answered.
    pub(super) unanswered: u32,
    /// Whether it ended for a violation of the protocol.
    pub(super) violated: bool,
    /// Whether it waits for memory that others have.
    pub(super) starved: bool,
    /// What the login has come to; later texts go on from there.
    pub(super) negotiation: Negotiation,
    /// Counters of what it has had done.
    pub stats: Box<CommandStats>,
    /// Requests that wait for their turn, by CmdSN.
    pub(super) held: BTreeMap<u32, Held>,
    /// Whether the initiator is still there.
    pub(super) watch: Watch,
    /// A text exchange under way.
    pub(super) text: Text,
    /// The target's end of the connection.
    pub(super) local: Option<SocketAddr>,
    /// The initiator's end.
    pub(super) peer: Option<SocketAddr>,
}

impl<L: Lend> Session<L> {
    /// A fresh connection in place `key.index` of its core.
    pub fn new(key: SessionKey) -> Self {
        Self {
            key,
            state: State::Login(Box::default()),
            parameters: Parameters::default(),
            member: None,
            views: Vec::new(),
            slots: Slots::new(0),
            transmit: Transmit::new(LOGIN_ANSWERS, pdu::LOGIN_BYTES_MAX + 128),
            receive: Receive::default(),
            answers: VecDeque::new(),
            control: VecDeque::new(),
            waiting: VecDeque::new(),
            yielded: VecDeque::new(),
            line: Line::default(),
            managements: Vec::new(),
            management_number: 0,
            buffer_bytes: 0,
            read_bytes: 0,
            pinned: 0,
            running: 0,
            stat_sn: 1,
            expected_sn: 0,
            unanswered: 0,
            violated: false,
            starved: false,
            negotiation: Negotiation::default(),
            stats: Box::default(),
            held: BTreeMap::new(),
            watch: Watch::default(),
            text: Text::default(),
            local: None,
            peer: None,
        }
    }

    /// The full feature phase begins: makes room for commands.
    pub(super) fn open(&mut self, member: Member) {
        self.member = Some(member);
        self.state = State::Full;
        self.slots = Slots::new(SLOTS);
        // What waits to be sent are login responses, which are copied.
        let mut pending = Vec::new();
        self.transmit.copy_pending(&mut pending);
        self.transmit = Transmit::new(usize::from(SLOTS), HEADER_BYTES_PER_COMMAND);
        if let Ok(bytes) = self.transmit.header(pending.len()) {
            bytes.copy_from_slice(&pending);
        }
        self.transmit.mark(None);
    }

    /// The target that the session is with.
    #[inline]
    pub(super) fn target(&self) -> Option<TargetId> {
        let member = self.member.as_ref()?;
        member.nexus.as_ref().map(|(target, _)| *target)
    }

    /// Whether the initiator sees a unit.
    #[inline]
    pub(super) fn sees(&self, lun: u16) -> bool {
        self.member
            .as_ref()
            .is_some_and(|member| member.luns.has(lun))
    }

    /// What the device knows a command by.
    #[inline]
    pub(super) fn tag(&self, slot: u16) -> u32 {
        frame::tag(self.key.index, slot)
    }

    /// Whether it is read from.
    #[inline]
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Login(_) | State::Full)
    }

    /// Whether it is over.
    #[inline]
    pub fn is_dead(&self) -> bool {
        matches!(self.state, State::Dead)
    }

    /// Whether more may be read from the initiator now. If not, it will be after something was sent or has completed.
    #[inline]
    pub fn may_receive(&self) -> bool {
        match &self.state {
            State::Login(login) => !login.is_waiting(),
            State::Full => !(self.is_blocked() && self.receive.inlet.has_bytes()),
            _ => false,
        }
    }

    /// Whether there is no room for another command now.
    #[inline]
    pub(super) fn is_blocked(&self) -> bool {
        self.slots.is_full() || self.transmit.pending_bytes() > OUTPUT_BYTES_MAX
    }

    /// Whether nothing may be said any more.
    #[inline]
    pub(super) fn is_silent(&self) -> bool {
        !self.is_open()
    }

    /// Whether the connection is over and nothing of it is at a device.
    pub fn is_finished(&self) -> bool {
        self.is_dead() && self.running == 0
    }

    /// Whether the connection ended for a violation of the protocol.
    pub fn is_violated(&self) -> bool {
        self.violated
    }

    /// Whether it has to go on without being told: others give back memory, or have had their turn.
    #[inline]
    pub fn is_starved(&self) -> bool {
        self.starved || !self.yielded.is_empty()
    }

    /// Lets go of a receive chunk with nothing in it, when the connection falls silent.
    pub fn rest(&mut self, chunks: &mut ChunkPool) {
        self.receive.rest(chunks);
    }

    /// Commands that have not been answered.
    pub fn outstanding(&self) -> usize {
        self.slots.taken().count()
    }

    /// Commands at devices.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Header and data digests in use.
    pub fn digests(&self) -> (bool, bool) {
        (self.parameters.header_digest, self.parameters.data_digest)
    }

    /// What waits to be sent.
    #[inline]
    pub fn output(&self) -> &[libc::iovec] {
        if self.is_dead() || self.transmit.is_overflow() {
            &[]
        } else {
            self.transmit.iovecs()
        }
    }

    /// Whether anything waits to be sent.
    #[inline]
    pub fn has_output(&self) -> bool {
        !self.is_dead() && !self.transmit.is_empty()
    }

    /// Takes note that the socket took `count` bytes of [`Session::output`], and queues what waited for room.
    pub fn sent<B: Backend<Lend = L>>(&mut self, count: usize, cx: &mut Context<'_, B>) {
        let (transmit, slots) = (&mut self.transmit, &mut self.slots);
        let (buffer_bytes, read_bytes) = (&mut self.buffer_bytes, &mut self.read_bytes);
        transmit.sent(count, |index| {
            let slot = slots.get_mut(index);
            *buffer_bytes -= slot.release_memory(&mut cx.local.chunks);
            slot.lend.release();
            *read_bytes -= u64::from(std::mem::take(&mut slot.read_bytes));
            slots.give(index);
        });
        if !self.answers.is_empty() || !self.control.is_empty() {
            self.pump();
        }
    }

    /// Whether a session that is leaving has sent all it had to say.
    pub fn is_farewell_sent(&self) -> bool {
        matches!(self.state, State::Leaving)
            && (self.transmit.is_empty() || self.transmit.is_overflow())
    }

    /// A turn without input: hands buffers to commands that wait for them, and parses what waited for room.
    #[inline]
    pub fn poll<B: Backend<Lend = L>>(&mut self, cx: &mut Context<'_, B>) -> bool {
        let mut worked = self.run_yielded(cx);
        if !self.is_open() {
            return worked;
        }
        self.starved = false;
        if !self.waiting.is_empty() {
            worked |= self.serve_waiting(cx);
        }
        if self.line.barriers != 0 {
            worked |= self.advance(cx);
        }
        if self.control.len() > CONTROL_MAX {
            self.violate();
        }
        if !self.held.is_empty() && self.may_process() {
            worked |= self.run_held(cx);
        }
        if self.receive.inlet.has_bytes() && self.may_process() {
            worked |= self.process(cx);
        }
        worked
    }

    fn may_process(&self) -> bool {
        match &self.state {
            State::Login(login) => !login.is_waiting(),
            State::Full => !self.is_blocked(),
            _ => false,
        }
    }

    /// The initiator does not keep to the protocol: the connection ends when what is queued has been sent.
    pub(super) fn violate(&mut self) {
        self.violated = true;
        self.state = State::Leaving;
    }

    /// Ends the connection: no more is read or sent. Parked I/O is aborted; the session is finished when all I/O is back.
    pub fn kill<B: Backend<Lend = L>>(&mut self, cx: &mut Context<'_, B>) {
        if self.is_dead() {
            return;
        }
        self.state = State::Dead;
        self.receive.clear(&mut cx.local.chunks);
        self.drop_held(&mut cx.local.chunks);
        self.waiting.clear();
        self.answers.clear();
        self.line.clear();
        self.control.clear();
        // A command that waits for other cores is at none of our devices, and is over when they have answered.
        self.managements
            .retain(|management| management.command.is_some());
        let taken: Vec<u16> = self.slots.taken().collect();
        for index in taken {
            if matches!(
                self.slots.get(index).phase,
                Phase::Running | Phase::Background
            ) {
                self.abort_io(index, cx);
            } else {
                self.discard(index, cx);
            }
        }
        while self.run_yielded(cx) {}
    }

    /// The session is over, and nothing of it is at a device: gives up its place among the others.
    pub fn leave(&mut self, target: &Target, outbox: &mut Vec<(CoreId, Message)>) {
        target.stop_waiting(self.key);
        let Some(member) = self.member.take() else {
            return;
        };
        if let Some((id, nexus)) = &member.nexus {
            // A target that is gone has taken its units with it.
            for unit in target.get(*id).iter().flat_map(|served| &served.units) {
                unit.unit.leave(nexus.id);
            }
            for waiting in target.leave(member.session) {
                outbox.push((waiting.core, Message::Retry(waiting)));
            }
        }
    }

    /// Frees a slot, and what it holds.
    pub(super) fn discard<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        self.receive.forget(index);
        let slot = self.slots.get_mut(index);
        self.buffer_bytes -= slot.release_memory(&mut cx.local.chunks);
        slot.lend.release();
        self.read_bytes -= u64::from(std::mem::take(&mut slot.read_bytes));
        if std::mem::take(&mut slot.in_window) {
            self.unanswered -= 1;
        }
        self.slots.give(index);
    }
}
