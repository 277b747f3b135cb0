//! A connection without a socket over a few kilobytes of memory: what unit tests, property tests and the fuzzer drive.
//!
//! Bytes are fed in pieces of any size and what the target says is gathered. Nothing here is used by a running target.

use super::background::Background;
use super::chap::Chap;
use super::config::{Config, LunConfig, PortalGroup, TargetConfig};
use super::initiators::Initiators;
use super::keeper::{Keeper, Records};
use super::message::Message;
use super::session::{Context, Local, Session, Waiter, Waits};
use super::store::Store;
use super::target::{Target, TargetId};
use super::unit::LocalUnits;
use crate::dm::{CoreId, DeviceId};
use crate::export::backend::Backend;
use crate::export::chunk::ChunkPool;
use crate::export::frame::{SessionKey, split_tag};
pub use crate::export::memory::{BLOCKS, MemoryBackend, Pieces};
use crate::iscsi::pdu::{
    DIGEST_BYTES, FINAL, HEADER_BYTES, Header, Layout, NO_TAG, digest, opcode,
};
use crate::iscsi::secrets::Secrets;
use crate::scsi::{Access, Lun};

/// The target of the harness.
pub const IQN: &str = "iqn.2026-11.io.polldm:harness";
/// The initiator of the harness.
pub const INITIATOR: &str = "iqn.2026-11.io.polldm:initiator";

/// A PDU that the target has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its header.
    pub header: Header,
    /// Its data.
    pub data: Vec<u8>,
}

/// A connection, and what it needs around it.
pub struct Harness {
    /// The connection.
    pub session: Session<Pieces>,
    /// The device.
    pub backend: MemoryBackend,
    /// The core.
    pub local: Local,
    /// The target.
    pub target: Target,
    /// What the target has said.
    pub output: Vec<u8>,
    /// CmdSN of the next command.
    pub command_sn: u32,
    /// Who keeps reservations, unless a test has taken him away.
    pub keeper: Option<Keeper>,
    /// Messages to other cores, of which there are none.
    pub elsewhere: Vec<(CoreId, Message)>,
}

impl Default for Harness {
    fn default() -> Self {
        Self::new()
    }
}

impl Harness {
    /// A fresh connection to a target with one unit, LUN 0.
    pub fn new() -> Self {
        Self::serving(|_| {})
    }

    /// The same, to a target that is otherwise.
    pub fn serving(change: impl FnOnce(&mut Config)) -> Self {
        Self::with_records(change, 1, None)
            .expect("without records there is nothing wrong with them")
    }

    /// The same, on the first of several cores; what is on the others is a test's own affair.
    pub fn on_first_of(cores: u16) -> Self {
        Self::with_records(|_| {}, cores, None)
            .expect("without records there is nothing wrong with them")
    }

    /// The same, to a target whose reservations outlive it.
    ///
    /// # Errors
    /// What is wrong with the records.
    pub fn keeping(store: Store) -> Result<Self, String> {
        Self::with_records(|_| {}, 1, Some(store))
    }

    fn with_records(
        change: impl FnOnce(&mut Config),
        cores: u16,
        store: Option<Store>,
    ) -> Result<Self, String> {
        let lun = LunConfig {
            lun: 0,
            device: DeviceId(0),
            device_name: "vol0".into(),
            uuid: *b"0123456789abcdef",
            initiators: Initiators::Any,
        };
        let mut config = Config {
            groups: vec![PortalGroup {
                tag: 1,
                portals: vec![([127, 0, 0, 1], 3260).into()],
            }],
            keep_alive: std::time::Duration::from_secs(15),
            discovery: None,
            targets: vec![TargetConfig {
                iqn: IQN.into(),
                initiators: Initiators::Any,
                chap: None,
                groups: vec![(1, Access::Optimized)],
                explicit_alua: false,
                redirect: None,
                luns: vec![lun],
            }],
        };
        change(&mut config);
        let (records, keeper) = store.map(Records::new).unzip();
        let target = Target::new(&config, cores, records)?;
        for group in &config.groups {
            for &portal in &group.portals {
                target.listens(portal, group.tag);
            }
        }
        target.choose_core();
        let backend = MemoryBackend::new();
        let units = LocalUnits::new(&target, |device| backend.geometry(device));
        let local = Local {
            core: CoreId(0),
            chunks: ChunkPool::default(),
            units,
            outbox: Vec::new(),
            waiters: Vec::new(),
            background: Background::default(),
        };
        let key = SessionKey {
            core: CoreId(0),
            index: 0,
            generation: 0,
        };
        Ok(Self {
            session: Session::new(key),
            backend,
            local,
            target,
            output: Vec::new(),
            command_sn: 1,
            keeper,
            elsewhere: Vec::new(),
        })
    }

    /// Runs `f` with everything a session needs.
    pub fn with<R>(
        &mut self,
        f: impl FnOnce(&mut Session<Pieces>, &mut Context<'_, MemoryBackend>) -> R,
    ) -> R {
        let mut cx = Context {
            backend: &mut self.backend,
            local: &mut self.local,
            target: &self.target,
        };
        f(&mut self.session, &mut cx)
    }

    /// The initiator sends `bytes`, in pieces of at most `piece` bytes. What the connection does not take is lost, as on a connection that
    /// was closed.
    pub fn feed(&mut self, bytes: &[u8], piece: usize) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = rest.len().min(piece.max(1));
            let taken = self.give(&rest[..count]);
            self.drain();
            if taken == 0 {
                break;
            }
            rest = &rest[taken..];
        }
    }

    /// The connection takes what it has room for of `bytes`, once; nothing of what it says is read.
    pub fn give(&mut self, bytes: &[u8]) -> usize {
        self.with(|session, cx| {
            let Some(room) = session.input(cx) else {
                return 0;
            };
            let mut given = 0;
            for space in room {
                let size = space.iov_len.min(bytes.len() - given);
                // SAFETY: `input` says that so much may be written there.
                unsafe {
                    std::ptr::copy_nonoverlapping(
                        bytes[given..].as_ptr(),
                        space.iov_base.cast::<u8>(),
                        size,
                    );
                }
                given += size;
            }
            session.received(given, cx);
            given
        })
    }

    /// Takes all that the target has to say, and lets it go on.
    pub fn drain(&mut self) {
        loop {
            let mut worked = false;
            while self.session.has_output() {
                let mut count = 0;
                for piece in self.session.output() {
                    // SAFETY: what is queued stays readable until `sent`.
                    let bytes = unsafe {
                        std::slice::from_raw_parts(piece.iov_base.cast::<u8>(), piece.iov_len)
                    };
                    self.output.extend_from_slice(bytes);
                    count += piece.iov_len;
                }
                if count == 0 {
                    break;
                }
                worked = true;
                self.with(|session, cx| session.sent(count, cx));
            }
            worked |= self.with(|session, cx| session.poll(cx));
            worked |= self.deliver();
            let Local {
                units,
                background,
                outbox,
                ..
            } = &mut self.local;
            worked |= background.poll(units, &mut self.backend, outbox);
            if !worked {
                break;
            }
        }
    }

    /// Carries out messages to the one core there is.
    fn deliver(&mut self) -> bool {
        let outbox = &mut self.local.outbox;
        self.local.waiters.retain(|waiter| {
            let waits = std::rc::Rc::strong_count(&waiter.token) > 1;
            if !waits {
                outbox.extend(waiter.answer());
            }
            waits
        });
        let messages = std::mem::take(&mut self.local.outbox).into_iter();
        let (own, others): (Vec<_>, Vec<_>) =
            messages.partition(|(core, _)| *core == self.local.core);
        self.elsewhere.extend(others);
        let messages = own.into_iter().map(|(_, message)| message);
        let kept = self.keeper.iter_mut().flat_map(Keeper::run);
        let messages: Vec<Message> = messages.chain(kept).collect();
        let worked = !messages.is_empty();
        for message in messages {
            match message {
                Message::Abort {
                    lun,
                    whose,
                    tells,
                    from,
                    ..
                } => {
                    let token = std::rc::Rc::new(());
                    let asks = from.map(|(key, _)| key);
                    self.with(|session, cx| {
                        session.ended_by(asks, lun, whose, &tells, &token, cx);
                    });
                    if let Some((who, number)) = from {
                        let who = Waits::Session(who, number);
                        self.local.waiters.push(Waiter { token, who });
                    }
                }
                Message::Aborted(_, number) => {
                    self.with(|session, cx| session.abort_answered(number, cx));
                }
                Message::Drain { lun, from, .. } => {
                    let token = std::rc::Rc::new(());
                    self.session.share_with(lun, &token);
                    let who = Waits::Background(from.0, from.1);
                    self.local.waiters.push(Waiter { token, who });
                }
                Message::Drained(number) => self.local.background.drained(number),
                Message::Left(_, slot, number, outcome) => self.with(|session, cx| {
                    session.left_ended(slot, number, outcome, cx);
                }),
                Message::Changed(id, who) => {
                    self.change(id);
                    let token = std::rc::Rc::new(());
                    self.local.waiters.push(Waiter { token, who });
                }
                Message::Kept(_, slot, answer) => {
                    self.with(|session, cx| session.kept(slot, answer, cx));
                }
                Message::Retry(_) => self.with(|session, cx| session.login_again(cx)),
                _ => {}
            }
        }
        worked
    }

    /// A target has been changed: what a core does then.
    pub fn changed(&mut self, id: TargetId) {
        self.change(id);
        self.drain();
    }

    fn change(&mut self, id: TargetId) {
        let now = self.target.get(id);
        let gone = self.local.units.gone(id, now.as_deref());
        let token = std::rc::Rc::new(());
        let gone = gone.into_iter().collect();
        self.with(|session, cx| session.give_up_units(&gone, now.as_deref(), &token, cx));
        let backend = &self.backend;
        let units = &mut self.local.units;
        let before = units.served(id).cloned();
        units.replace(id, now.clone(), |device| backend.geometry(device));
        match now {
            Some(served) => self.session.target_changed(before.as_deref(), &served),
            None => self.session.target_removed(),
        }
    }

    /// Finishes what the backend holds.
    pub fn finish(&mut self) {
        for (command, status) in self.backend.finish() {
            self.local.background.completed(command, status);
            let (place, slot) = split_tag(command);
            if place != 0 {
                continue;
            }
            self.with(|session, cx| session.completed(slot, status, cx));
        }
        self.drain();
    }

    /// The connection breaks. Everything it held must be back afterwards.
    ///
    /// # Panics
    /// If anything leaks.
    pub fn close(mut self) {
        self.with(|session, cx| session.kill(cx));
        self.drain();
        while self.backend.held() > 0 {
            self.finish();
        }
        assert!(self.local.background.is_empty());
        assert!(
            self.session.is_finished(),
            "{} commands are left",
            self.session.running()
        );
        assert_eq!(self.session.outstanding(), 0);
        assert_eq!(self.local.chunks.in_use(), 0);
        assert_eq!(self.backend.pool.bytes_taken(), 0);
    }

    /// Takes what the target has said so far, PDU by PDU.
    ///
    /// # Panics
    /// When a PDU is cut off, or a digest does not match.
    pub fn take(&mut self) -> Vec<Sent> {
        let (header_digest, data_digest) = self.session.digests();
        let bytes = std::mem::take(&mut self.output);
        let mut rest = &bytes[..];
        let mut all = Vec::new();
        while !rest.is_empty() {
            let header = Header(*rest.first_chunk::<HEADER_BYTES>().expect("a whole header"));
            let in_login = header.opcode() == opcode::LOGIN_RESPONSE;
            let layout = Layout::of(
                &header,
                header_digest && !in_login,
                data_digest && !in_login,
            );
            let (pdu, more) = rest.split_at(layout.total());
            if header_digest && !in_login {
                assert_eq!(
                    pdu[HEADER_BYTES..layout.head],
                    digest(&[&pdu[..HEADER_BYTES]])
                );
            }
            if layout.data_digest {
                let end = pdu.len() - DIGEST_BYTES;
                assert_eq!(pdu[end..], digest(&[&pdu[layout.head..end]]));
            }
            let data = pdu[layout.head..layout.head + layout.data].to_vec();
            all.push(Sent { header, data });
            rest = more;
        }
        all
    }

    /// Logs in to a normal session with these keys besides the names, in one request.
    ///
    /// # Panics
    /// If the target refused its own harness.
    pub fn login(&mut self, keys: &str) -> Sent {
        let text = format!(
            "InitiatorName={INITIATOR}\0TargetName={IQN}\0SessionType=Normal\0{}\0",
            keys.replace(' ', "\0")
        );
        self.feed(&login_request(0x87, self.command_sn, &text), usize::MAX);
        let mut sent = self.take();
        assert_eq!(sent.len(), 1);
        let response = sent.remove(0);
        assert_eq!(response.header.u16(36), 0, "logged in");
        response
    }

    /// Takes the unit attention of a new nexus.
    pub fn attend(&mut self) {
        self.command(1, &[0; 6], 0, &[]);
        self.take();
    }

    /// Sends a SCSI command with all of its data as immediate data; `length` is what the initiator expects to receive.
    pub fn command(&mut self, tag: u32, cdb: &[u8], length: u32, data: &[u8]) {
        let bytes = self.command_bytes(tag, cdb, length, data.len() as u32, data, true);
        self.feed(&bytes, usize::MAX);
    }

    /// A SCSI command: it reads `length` bytes, or writes `offered` of which `data` comes with it.
    pub fn command_bytes(
        &mut self,
        tag: u32,
        cdb: &[u8],
        length: u32,
        offered: u32,
        data: &[u8],
        is_final: bool,
    ) -> Vec<u8> {
        let mut flags = if is_final { FINAL } else { 0 };
        if length > 0 {
            flags |= 0x40;
        }
        if offered > 0 {
            flags |= 0x20;
        }
        let mut header = Header::new(opcode::COMMAND, flags);
        header.put_lun(Lun::encode(0));
        header.put(16, tag);
        header.put(20, length.max(offered));
        header.put(24, self.command_sn);
        header.0[32..32 + cdb.len()].copy_from_slice(cdb);
        self.command_sn = self.command_sn.wrapping_add(1);
        self.pdu(header, data)
    }

    /// A PDU with its digests, as they were agreed on.
    pub fn pdu(&self, mut header: Header, data: &[u8]) -> Vec<u8> {
        header.put_data_bytes(data.len());
        let digests = self.session.digests();
        encode(&header, data, digests)
    }
}

/// A PDU as bytes.
pub fn encode(header: &Header, data: &[u8], digests: (bool, bool)) -> Vec<u8> {
    let mut bytes = header.0.to_vec();
    if digests.0 {
        bytes.extend_from_slice(&digest(&[&header.0]));
    }
    let begin = bytes.len();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len() + crate::iscsi::pdu::padding(data.len()), 0);
    if digests.1 && !data.is_empty() {
        let sum = digest(&[&bytes[begin..]]);
        bytes.extend_from_slice(&sum);
    }
    bytes
}

/// A Login Request.
pub fn login_request(flags: u8, command_sn: u32, text: &str) -> Vec<u8> {
    let mut header = Header::new(opcode::LOGIN | 0x40, flags);
    header.0[8..14].copy_from_slice(&[0x40, 0, 1, 0x37, 0, 0]);
    header.put(16, 7);
    header.put(24, command_sn);
    header.put_data_bytes(text.len());
    encode(&header, text.as_bytes(), (false, false))
}

/// A task management request.
pub fn management(function: u8, tag: u32, referenced: u32, command_sn: u32) -> Header {
    let mut header = Header::new(opcode::TASK_MANAGEMENT | 0x40, FINAL | function);
    header.put_lun(Lun::encode(0));
    header.put(16, tag);
    header.put(20, referenced);
    header.put(24, command_sn);
    header.put(32, command_sn.wrapping_sub(1));
    header
}

/// A Data-Out.
pub fn data_out(tag: u32, transfer_tag: u32, data_sn: u32, offset: u32, is_final: bool) -> Header {
    let mut header = Header::new(opcode::DATA_OUT, if is_final { FINAL } else { 0 });
    header.put(16, tag);
    header.put(20, transfer_tag);
    header.put(36, data_sn);
    header.put(40, offset);
    header
}

/// The tag of unsolicited data.
pub const UNSOLICITED: u32 = NO_TAG;

/// The fuzzer's harness for PDUs: the first byte chooses how far the connection is and how its bytes are cut, the rest is what the initiator
/// sends. Whatever that is, nothing panics and nothing leaks.
pub fn fuzz_connection(data: &[u8]) {
    let Some((&mode, stream)) = data.split_first() else {
        return;
    };
    let mut harness = Harness::serving(|config| {
        if mode & 0x10 != 0 {
            let secrets =
                Secrets::parse("initiator a secret-of-the-one\ntarget t secret-of-the-other");
            config.discovery = secrets.ok().map(|secrets| Chap {
                secrets: secrets.into(),
                mutual: mode & 0x20 != 0,
            });
        }
    });
    match mode & 3 {
        // The security stage of a discovery session, with what was asked for if it is.
        0 => {}
        1 => {
            let names =
                format!("InitiatorName={INITIATOR}\0SessionType=Discovery\0AuthMethod=CHAP,None\0");
            harness.feed(&login_request(0, 1, &names), usize::MAX);
            harness.feed(&login_request(0, 1, "CHAP_A=8,7,6,5\0"), usize::MAX);
        }
        2 => {
            harness.login("InitialR2T=No");
        }
        _ => {
            harness.login("InitialR2T=No");
            harness.attend();
        }
    }
    harness.backend.hold = mode & 4 != 0;
    let piece = if mode & 8 != 0 { 13 } else { usize::MAX };
    harness.feed(stream, piece);
    if mode & 0x80 == 0 {
        harness.finish();
    }
    harness.close();
}

/// The fuzzer's harness for CDBs: records of a byte that says how much data there is, in multiples of 8 bytes, a CDB, and that data. Each
/// becomes a command that is right in its form.
pub fn fuzz_commands(data: &[u8]) {
    // A second unit, whose name is easy to find, for copies between the two.
    let mut harness = Harness::serving(|config| {
        let mut second = config.targets[0].luns[0].clone();
        (second.lun, second.device, second.uuid) = (1, DeviceId(1), [0; 16]);
        config.targets[0].luns.push(second);
    });
    harness.login("InitialR2T=No");
    harness.attend();
    let mut rest = data;
    let mut tag = 1;
    while let Some((&size, after)) = rest.split_first() {
        let Some((cdb, after)) = after.split_first_chunk::<16>() else {
            break;
        };
        let (offered, after) = after.split_at(after.len().min(usize::from(size) * 8));
        rest = after;
        tag += 1;
        let length = if offered.is_empty() { 4096 } else { 0 };
        harness.command(tag, cdb, length, offered);
        while harness.backend.held() > 0 {
            harness.finish();
        }
        // CLEAR ACA: the next command is carried out as well.
        let clear = management(3, 0, 0, harness.command_sn);
        let bytes = harness.pdu(clear, &[]);
        harness.feed(&bytes, usize::MAX);
        harness.take();
    }
    harness.close();
}
