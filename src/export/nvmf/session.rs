//! One connection as a state machine without a socket: bytes in, bytes out, I/O to a [`Backend`].
//!
//! A connection carries one queue. It begins with ICReq, becomes a queue with Connect (`fabrics`), and ends by either
//! side's TermReq, a Disconnect, a lost socket, or a message that its controller is gone. `receive` cuts the bytes into PDUs, `io` and
//! `admin` carry out commands, `respond` queues what is to be sent. Everything here belongs to one core.
//!
//! ```text
//! Initialize --ICReq--> Open --TermReq queued--> Terminating --all sent--> Dead
//!      |                  |                                                 ^
//!      +------------------+---- socket lost, H2CTermReq, Close ------------+
//! ```
//!
//! A dead session stays until its last I/O has come back from the device: the memory of those I/Os is its own.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use super::command::{Phase, Slots};
use super::controller::AdminState;
use super::message::Message;
use super::namespace::LocalNamespaces;
use super::receive::Receive;
use super::target::{Identity, SessionKey, SubsystemId, Target};
use crate::dm::CoreId;
use crate::export::backend::{Backend, Lend};
use crate::export::chunk::ChunkPool;
use crate::export::frame::{self, TAG_SLOT_BITS};
use crate::export::transmit::Transmit;
use crate::nvme::pdu::{Digests, Receiver, Rules};

/// Entries of the largest queue (MQES), so commands outstanding on a connection.
pub const QUEUE_ENTRIES_MAX: u32 = 1024;

/// Bytes of in-capsule data on I/O queues: a 16 KiB write needs no R2T round trip.
pub const IN_CAPSULE_BYTES: u32 = 16 * 1024;

/// Bytes of in-capsule data on the admin queue, and before Connect (NVMe/TCP Transport 1.0, 3.3.2: at least 8,192).
pub const IN_CAPSULE_BYTES_ADMIN: u32 = 8 * 1024;

/// Largest data transfer of one command, as a power of two of 4 KiB pages (MDTS): 256 KiB, which is one size of pool buffer.
pub const TRANSFER_PAGES_LOG2: u8 = 6;

/// Largest data transfer of one command in bytes.
pub const TRANSFER_BYTES_MAX: u32 = 4096 << TRANSFER_PAGES_LOG2;

/// Most data of one H2CData PDU (MAXH2CDATA): a whole transfer, since data goes to the command's own buffer piece by piece.
pub const HOST_DATA_BYTES_MAX: u32 = TRANSFER_BYTES_MAX;

/// Slots of a connection that has not become a queue: Connect, and room for a host that does not wait for its answer.
const SLOTS_BEFORE_CONNECT: u16 = 4;

/// While this much waits to be sent, no further command is taken from the host: a host that does not read is stopped by TCP's
/// window. What is in flight already adds at most a queue's worth of reads, and those of a device that lends cost no memory.
pub const OUTPUT_BYTES_MAX: u64 = 4 << 20;

/// Bytes of reads that one connection may have between device and socket, further reads wait: a device that fills buffers instead of lending its own memory
/// takes that much of the core's for it, and keeps it for as long as the host does not read.
pub const READ_BYTES_MAX: u64 = 4 << 20;

/// Bytes of pool buffers that one connection may hold, so that a slow host cannot take all of a core's. At least two transfers.
pub const BUFFER_BYTES_MAX: usize = 8 << 20;

/// Most header bytes that one command has queued at a time: an R2T (24 + 4 digest) and a response (C2HData header 24 + 4, data
/// digest 4, CapsuleResp 24 + 4), which is 88, plus up to 128 bytes of padding before the data if the host asks for alignment.
const HEADER_BYTES_PER_COMMAND: usize = 256;

/// What every session of one core works with.
pub struct Local {
    /// This core.
    pub core: CoreId,
    /// Receive chunks.
    pub chunks: ChunkPool,
    /// Namespaces by subsystem.
    pub namespaces: Vec<LocalNamespaces>,
    /// Messages to other cores; the worker sends them after each turn.
    pub outbox: Vec<(CoreId, Message)>,
}

impl Local {
    /// An empty core.
    pub fn new(core: CoreId) -> Self {
        Self {
            core,
            chunks: ChunkPool::default(),
            namespaces: Vec::new(),
            outbox: Vec::new(),
        }
    }

    /// The namespaces of a subsystem.
    #[inline]
    pub fn namespaces(&mut self, subsystem: SubsystemId) -> &mut LocalNamespaces {
        let index = subsystem.0 as usize;
        if index >= self.namespaces.len() {
            self.namespaces
                .resize_with(index + 1, LocalNamespaces::default);
        }
        &mut self.namespaces[index]
    }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Waits for ICReq.
    Initialize,
    /// In use.
    Open,
    /// A TermReq is queued, or the last response before an orderly end; nothing is read any more.
    Terminating,
    /// Over; only I/O at the devices keeps it.
    Dead,
}

/// Which queue a connection is.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Queue identifier; 0 is the admin queue.
    pub id: u16,
    /// Entries.
    pub entries: u32,
    /// The next entry to be consumed (SQHD).
    pub head: u32,
    /// Whether the host has left flow control on; then every command is answered with a CapsuleResp, because only that
    /// carries SQHD (NVMe/TCP Transport 1.0, 3.3.2.2: SUCCESS flag).
    pub flow_control: bool,
    /// The controller's subsystem.
    pub subsystem: SubsystemId,
    /// CNTLID.
    pub controller_id: u16,
    /// What the subsystem is called.
    pub identity: Arc<Identity>,
}

/// One connection.
pub struct Session<L> {
    /// Where it is.
    pub key: SessionKey,
    /// How far it is.
    pub state: State,
    pub(super) rules: Rules,
    pub(super) digests: Digests,
    /// HPDA.
    pub(super) host_alignment: u8,
    /// The queue it has become.
    pub queue: Option<Queue>,
    /// The controller, at its admin queue.
    pub admin: Option<Box<AdminState>>,
    pub(super) slots: Slots<L>,
    pub(super) transmit: Transmit,
    pub(super) receive: Receive,
    /// Commands that wait for a buffer, in order.
    pub(super) waiting: VecDeque<u16>,
    /// Reads beyond [`READ_BYTES_MAX`], in order. They keep nothing else from being carried out: what comes behind them may be what frees the memory
    /// that others wait for.
    pub(super) waiting_reads: VecDeque<u16>,
    /// Pool buffers held, in bytes.
    pub(super) buffer_bytes: usize,
    /// Bytes of reads between device and socket.
    pub(super) read_bytes: u64,
    /// Slots whose data lies in a chunk while at a device.
    pub(super) pinned: usize,
    /// The first of a fused pair, when it was the last command.
    pub(super) fused_first: Option<u16>,
    /// Commands at devices.
    pub(super) running: usize,
    /// Whether it ended for a violation of the protocol.
    pub(super) violated: bool,
    /// Whether it waits for memory that others have: only another try can tell when there is some.
    pub(super) starved: bool,
    /// Where the host reached the target; for discovery on a listener that takes any address.
    pub local_ip: Option<IpAddr>,
}

const _: () = assert!(QUEUE_ENTRIES_MAX <= 1 << TAG_SLOT_BITS);

impl<L: Lend> Session<L> {
    /// A fresh connection in place `key.index` of its core.
    pub fn new(key: SessionKey) -> Self {
        Self {
            key,
            state: State::Initialize,
            rules: Rules {
                receiver: Receiver::Controller,
                header_digest: false,
                data_digest: false,
                alignment: 0,
                capsule_data_size_max: IN_CAPSULE_BYTES_ADMIN,
                data_size_max: HOST_DATA_BYTES_MAX,
            },
            digests: Digests::default(),
            host_alignment: 0,
            queue: None,
            admin: None,
            slots: Slots::new(SLOTS_BEFORE_CONNECT),
            transmit: Transmit::new(usize::from(SLOTS_BEFORE_CONNECT), HEADER_BYTES_PER_COMMAND),
            receive: Receive::default(),
            waiting: VecDeque::new(),
            waiting_reads: VecDeque::new(),
            buffer_bytes: 0,
            read_bytes: 0,
            pinned: 0,
            fused_first: None,
            running: 0,
            violated: false,
            starved: false,
            local_ip: None,
        }
    }

    /// What the device knows a command by.
    #[inline]
    pub(super) fn tag(&self, slot: u16) -> u32 {
        frame::tag(self.key.index, slot)
    }

    /// Whether more may be read from the host now. If not, it will be after something was sent or has completed.
    ///
    /// A connection without room for a command still reads until it has one that must wait: until then it may be data that is
    /// read, and the commands that it belongs to are what room is waiting for.
    #[inline]
    pub fn may_receive(&self) -> bool {
        matches!(self.state, State::Initialize | State::Open)
            && !(self.is_blocked() && self.receive.has_bytes())
    }

    /// Whether there is no room for another command now.
    #[inline]
    pub(super) fn is_blocked(&self) -> bool {
        self.slots.is_full() || self.transmit.pending_bytes() > OUTPUT_BYTES_MAX
    }

    /// Whether nothing may be said any more: the connection is over, or a TermReq was its last word.
    #[inline]
    pub(super) fn is_silent(&self) -> bool {
        self.violated || self.state == State::Dead
    }

    /// Whether the connection is over and nothing of it is at a device.
    pub fn is_finished(&self) -> bool {
        self.state == State::Dead && self.running == 0
    }

    /// Whether the connection ended for a violation of the protocol.
    pub fn is_violated(&self) -> bool {
        self.violated
    }

    /// Whether it can go on only when others have given back memory, which nothing announces.
    #[inline]
    pub fn is_starved(&self) -> bool {
        self.starved
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
        (self.digests.header, self.digests.data)
    }

    /// What waits to be sent.
    #[inline]
    pub fn output(&self) -> &[libc::iovec] {
        if self.state == State::Dead || self.transmit.is_overflow() {
            &[]
        } else {
            self.transmit.iovecs()
        }
    }

    /// Whether anything waits to be sent.
    #[inline]
    pub fn has_output(&self) -> bool {
        self.state != State::Dead && !self.transmit.is_empty()
    }

    /// Bytes sent so far.
    pub fn sent_bytes(&self) -> u64 {
        self.transmit.sent_bytes()
    }

    /// Takes note that the socket took `count` bytes of [`Session::output`].
    pub fn sent<B: Backend<Lend = L>>(&mut self, count: usize, cx: &mut Context<'_, B>) {
        let (transmit, slots) = (&mut self.transmit, &mut self.slots);
        let (buffer_bytes, read_bytes) = (&mut self.buffer_bytes, &mut self.read_bytes);
        transmit.sent(count, |index| {
            let slot = slots.get_mut(index);
            if let super::command::Memory::Buffer(buffer) = &slot.memory {
                *buffer_bytes -= buffer.capacity();
            }
            slot.release_memory(&mut cx.local.chunks);
            slot.lend.release();
            *read_bytes -= u64::from(std::mem::take(&mut slot.read_bytes));
            slots.give(index);
        });
    }

    /// Whether a session that is terminating has sent all it had to say.
    pub fn is_farewell_sent(&self) -> bool {
        self.state == State::Terminating
            && (self.transmit.is_empty() || self.transmit.is_overflow())
    }

    /// A turn without input: hands buffers to commands that wait for them, and parses what waited for room.
    pub fn poll<B: Backend<Lend = L>>(&mut self, cx: &mut Context<'_, B>) -> bool {
        if self.state != State::Open {
            return false;
        }
        let mut worked = false;
        self.starved = false;
        if !self.waiting.is_empty() {
            worked |= self.serve_waiting(cx);
        }
        if !self.waiting_reads.is_empty() {
            worked |= self.serve_waiting_reads(cx);
        }
        if self.receive.has_bytes() && !self.is_blocked() {
            worked |= self.process(cx);
        }
        worked
    }

    /// Ends the connection: no more is read or sent. Parked I/O is aborted; the session is finished when all I/O is back.
    pub fn kill<B: Backend<Lend = L>>(&mut self, cx: &mut Context<'_, B>) {
        if self.state == State::Dead {
            return;
        }
        self.state = State::Dead;
        self.leave_controller(cx);
        self.receive.clear(&mut cx.local.chunks);
        self.waiting.clear();
        self.waiting_reads.clear();
        self.fused_first = None;
        let taken: Vec<u16> = self.slots.taken().collect();
        for index in taken {
            if self.slots.get(index).phase == Phase::Running {
                let device = self.slots.get(index).device;
                let tag = self.tag(index);
                cx.backend.abort(device, tag);
            } else {
                // Its partner, if at the device, ends alone.
                if let Some(partner) = self.slots.get(index).partner {
                    self.slots.get_mut(partner).partner = None;
                }
                self.discard(index, cx);
            }
        }
    }

    /// Frees a slot of a dead session.
    pub(super) fn discard<B: Backend<Lend = L>>(&mut self, index: u16, cx: &mut Context<'_, B>) {
        self.drop_memory(index, cx);
        let slot = self.slots.get_mut(index);
        slot.lend.release();
        self.read_bytes -= u64::from(std::mem::take(&mut slot.read_bytes));
        self.slots.give(index);
    }

    /// Gives up the queue: the controller, if this is its admin queue, and then its I/O queues on all cores.
    pub(super) fn leave_controller<B: Backend<Lend = L>>(&mut self, cx: &mut Context<'_, B>) {
        let Some(queue) = &self.queue else { return };
        if queue.id == 0 {
            let queues =
                cx.target
                    .remove_controller(queue.subsystem, queue.controller_id, self.key);
            for session in queues {
                cx.local
                    .outbox
                    .push((session.core, Message::Close(session)));
            }
        } else {
            cx.target
                .disconnect_io(queue.subsystem, queue.controller_id, queue.id, self.key);
        }
    }

    /// Makes room for a queue of this size. Of the commands that came before only the Connect itself, in slot `connect`, goes over to the
    /// new table; any others are a host's that did not wait for its answer, and are forgotten. Returns the Connect's new slot.
    pub(super) fn resize<B: Backend<Lend = L>>(
        &mut self,
        entries: u32,
        connect: u16,
        cx: &mut Context<'_, B>,
    ) -> u16 {
        let command = self.slots.get(connect).command;
        let started_ns = self.slots.get(connect).started_ns;
        let taken: Vec<u16> = self.slots.taken().collect();
        for index in taken {
            self.discard(index, cx);
        }
        self.waiting.clear();
        let mut slots = Slots::new(entries as u16);
        let index = slots
            .take(command, started_ns)
            .expect("a queue has at least two entries");
        self.slots = slots;
        // What waits to be sent is ICResp and perhaps a few responses: headers only, which are copied.
        let mut pending = Vec::new();
        self.transmit.copy_pending(&mut pending);
        self.transmit = Transmit::new(entries as usize, HEADER_BYTES_PER_COMMAND);
        if let Ok(bytes) = self.transmit.header(pending.len()) {
            bytes.copy_from_slice(&pending);
        }
        self.transmit.mark(None);
        index
    }
}
