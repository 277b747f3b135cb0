//! The login phase (RFC 7143, 6.3, 11.12, 11.13): who is who, what is negotiated, and whether there may be a session.

use std::net::SocketAddr;
use std::sync::Arc;

use super::chap::Exchange;
use super::keys::{Negotiation, Stage};
use super::message::Message;
use super::session::{Context, Member, Session, State};
use super::target::{Admission, Served, TargetId};
use super::unit::LunSet;
use crate::export::backend::{Backend, Lend};
use crate::iscsi::NAME_BYTES_MAX;
use crate::iscsi::chap::Keys;
use crate::iscsi::login::Status;
use crate::iscsi::pdu::{CONTINUES, Header, LOGIN_BYTES_MAX, NO_TAG, TRANSIT, opcode};
use crate::iscsi::text::{Violation, pairs, say};
use crate::scsi::sense::Code;
use crate::scsi::{InitiatorPort, Nexus};

/// Most text of one login request, in however many PDUs.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Most requests of one login: an initiator that has not come to an end by then never does.
const REQUESTS_MAX: u32 = 64;

/// A login that is under way.
#[derive(Debug, Default)]
pub struct Login {
    negotiation: Negotiation,
    /// The stage; `None` before the first request.
    stage: Option<Stage>,
    isid: [u8; 6],
    tsih: u16,
    cid: u16,
    requests: u32,
    text: Vec<u8>,
    /// The last request, whose answer waits for an older session to go.
    waiting: Option<Header>,
    was_waiting: bool,
    /// Resolved after the first request.
    is_discovery: bool,
    target: Option<TargetId>,
    /// The portal group that it has come through.
    group: u16,
    /// Where the initiator is sent instead.
    redirect: Option<SocketAddr>,
    initiator: String,
    identified: bool,
    /// A proof that is under way.
    exchange: Option<Exchange>,
    /// Nothing more is asked of the initiator.
    is_proven: bool,
}

impl Login {
    /// Whether it waits for an older session to go.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }
}

fn stage_of(bits: u8) -> Option<Stage> {
    match bits & 3 {
        0 => Some(Stage::Security),
        1 => Some(Stage::Operational),
        3 => Some(Stage::Full),
        _ => None,
    }
}

fn bits_of(stage: Stage) -> u8 {
    match stage {
        Stage::Security => 0,
        Stage::Operational => 1,
        Stage::Full => 3,
    }
}

impl<L: Lend> Session<L> {
    /// A PDU of the login phase.
    pub(super) fn login_pdu<B: Backend<Lend = L>>(
        &mut self,
        header: &Header,
        bytes: &[u8],
        cx: &mut Context<'_, B>,
    ) {
        if header.opcode() != opcode::LOGIN {
            // Nothing else may come before the login is done (RFC 7143, 6.3.1, 7.8).
            self.refuse(header, Status::InvalidDuringLogin, cx);
            return;
        }
        let State::Login(login) = &mut self.state else {
            return;
        };
        match login.take(header, bytes) {
            Ok(None) => {
                // More of the text is to come (C).
                let flags = bits_of(login.stage.unwrap_or(Stage::Security)) << 2;
                self.login_response(header, Status::Success, flags, String::new());
            }
            Ok(Some(text)) => {
                if let Err(status) = self.negotiate(header, &text, cx) {
                    self.refuse(header, status, cx);
                }
            }
            Err(status) => self.refuse(header, status, cx),
        }
    }

    /// A whole request.
    fn negotiate<B: Backend<Lend = L>>(
        &mut self,
        header: &Header,
        text: &[u8],
        cx: &mut Context<'_, B>,
    ) -> Result<(), Status> {
        let State::Login(login) = &mut self.state else {
            return Ok(());
        };
        let stage = login.stage.unwrap_or(Stage::Security);
        let mut answer = String::new();
        if !login.identified {
            // Whether the session is for discovery decides what its keys mean, wherever among them it stands.
            if pairs(text)
                .map_err(|Violation| Status::InitiatorError)?
                .contains(&("SessionType", "Discovery"))
            {
                login.negotiation.set_discovery();
            }
        }
        login
            .negotiation
            .exchange(text, stage, &mut answer, |_, _| None)
            .map_err(|Violation| Status::InitiatorError)?;
        if !login.identified {
            login.identify(self.local, self.peer, cx)?;
            if login.target.is_some() {
                say(
                    &mut answer,
                    "TargetPortalGroupTag",
                    &login.group.to_string(),
                );
            }
        }
        let asked = login.authenticate(stage, cx, &mut answer)?;
        let mut flags = bits_of(stage) << 2;
        let transits = header.flags() & TRANSIT != 0;
        if transits && !login.is_proven && !asked {
            // The initiator would go on without any proof.
            return Err(Status::AuthenticationFailed);
        }
        if !transits || !login.is_proven {
            self.login_response(header, Status::Success, flags, answer);
            return Ok(());
        }
        let next = stage_of(header.flags()).ok_or(Status::InitiatorError)?;
        if bits_of(next) <= bits_of(stage) {
            return Err(Status::InitiatorError);
        }
        if next != Stage::Security && stage == Stage::Operational || next == Stage::Full {
            login.negotiation.say_receive(&mut answer);
        }
        flags |= TRANSIT | bits_of(next);
        login.stage = Some(next);
        if next != Stage::Full {
            self.login_response(header, Status::Success, flags, answer);
            return Ok(());
        }
        login.text = answer.into_bytes();
        self.finish_login(*header, flags, cx)
    }

    /// The last step of a login: a session, if there may be one.
    fn finish_login<B: Backend<Lend = L>>(
        &mut self,
        header: Header,
        flags: u8,
        cx: &mut Context<'_, B>,
    ) -> Result<(), Status> {
        let key = self.key;
        let State::Login(login) = &mut self.state else {
            return Ok(());
        };
        let port = Arc::new(InitiatorPort {
            name: login.initiator.clone(),
            port: login.isid,
        });
        let mut member = Member {
            session: 1,
            initiator: login.initiator.clone(),
            connection: login.cid,
            nexus: None,
            luns: LunSet::default(),
        };
        if let Some(target) = login.target {
            // It may have been removed since the first request.
            let served = cx.local.units.served(target).ok_or(Status::Removed)?;
            let served = Arc::clone(served);
            let address = self.peer.map(|peer| peer.ip());
            // Or it is no longer for this initiator.
            if !served.initiators.allow(&login.initiator, address) {
                return Err(Status::AuthorizationFailed);
            }
            // Or no longer reached this way.
            let group = login.group;
            served.port(group).ok_or(Status::NotFound)?;
            match cx
                .target
                .admit(target, &port, group, key, login.was_waiting)
            {
                Admission::Admitted {
                    session,
                    nexus,
                    is_reinstated,
                } => {
                    member.luns = served.luns_for(&member.initiator, address);
                    join(&served, &member.luns, &nexus, is_reinstated);
                    member.session = session;
                    member.nexus = Some((target, nexus));
                }
                Admission::Wait(older) => {
                    login.waiting = Some(header);
                    login.was_waiting = true;
                    if let Some(older) = older {
                        cx.local.outbox.push((older.core, Message::Close(older)));
                    }
                    return Ok(());
                }
                Admission::Full => return Err(Status::OutOfResources),
            }
        }
        let answer = String::from_utf8(std::mem::take(&mut login.text)).unwrap_or_default();
        let mut negotiation = std::mem::take(&mut login.negotiation);
        negotiation.begin_again();
        let mut parameters = negotiation.parameters.clone();
        // FirstBurstLength is never more than MaxBurstLength (RFC 7143, 13.14).
        parameters.first_burst_bytes = parameters.first_burst_bytes.min(parameters.burst_bytes);
        login.tsih = member.session;
        self.login_response(&header, Status::Success, flags, answer);
        self.negotiation = negotiation;
        self.open(member);
        self.parameters = parameters;
        Ok(())
    }

    /// An older session that this login waited for has ended.
    pub fn login_again<B: Backend<Lend = L>>(&mut self, cx: &mut Context<'_, B>) {
        let State::Login(login) = &mut self.state else {
            return;
        };
        let Some(header) = login.waiting.take() else {
            return;
        };
        let flags = header.flags() & 0x8F;
        if let Err(status) = self.finish_login(header, flags, cx) {
            self.refuse(&header, status, cx);
        }
    }

    /// Login Response (RFC 7143, 11.13).
    fn login_response(&mut self, request: &Header, status: Status, flags: u8, answer: String) {
        let State::Login(login) = &self.state else {
            return;
        };
        let mut header = Header::new(opcode::LOGIN_RESPONSE, flags);
        header.0[8..14].copy_from_slice(&login.isid);
        header.put_u16(14, login.tsih);
        header.put(16, request.task_tag());
        header.put_u16(36, status as u16);
        if answer.len() > LOGIN_BYTES_MAX {
            // Cannot be: an answer is hardly longer than what asked for it.
            self.violate();
            return;
        }
        self.expected_sn = request.u32(24);
        self.put_control(header, answer.into_bytes());
    }

    /// Says why not, and ends.
    fn refuse<B>(&mut self, request: &Header, status: Status, cx: &Context<'_, B>) {
        let mut answer = String::new();
        if let State::Login(login) = &mut self.state
            && let Some(address) = login.redirect.take()
        {
            say(&mut answer, "TargetAddress", &address.to_string());
        } else {
            cx.target.counters.refuse_login();
        }
        self.login_response(request, status, 0, answer);
        self.state = State::Leaving;
    }
}

/// The units of a target learn of a new nexus: it is told of a power on, or that its predecessor is lost (SAM-5, 6.2, 6.3.4).
fn join(served: &Served, seen: &LunSet, nexus: &Nexus, is_reinstated: bool) {
    let first = if is_reinstated {
        Code::NEXUS_LOSS
    } else {
        Code::POWER_ON
    };
    for unit in served.units.iter().filter(|unit| seen.has(unit.lun)) {
        unit.unit.join(nexus, first);
    }
}

impl Login {
    /// Checks the header of a request and gathers its text; `None` when more of that is to come.
    fn take(&mut self, header: &Header, bytes: &[u8]) -> Result<Option<Vec<u8>>, Status> {
        let flags = header.flags();
        let stage = stage_of(flags >> 2).filter(|stage| *stage != Stage::Full);
        let stage = stage.ok_or(Status::InitiatorError)?;
        // Version-min; there is only version 0 (11.12.4, 11.12.5).
        if header.0[3] != 0 {
            return Err(Status::UnsupportedVersion);
        }
        self.requests += 1;
        let isid: [u8; 6] = std::array::from_fn(|index| header.0[8 + index]);
        match self.stage {
            None => {
                self.stage = Some(stage);
                self.isid = isid;
                self.tsih = header.u16(14);
                self.cid = header.u16(20);
            }
            Some(before) => {
                let same = isid == self.isid && header.u16(14) == self.tsih;
                if before != stage || !same || header.u16(20) != self.cid {
                    return Err(Status::InitiatorError);
                }
            }
        }
        let continues = flags & CONTINUES != 0;
        let too_much = self.text.len() + bytes.len() > TEXT_BYTES_MAX;
        if continues && flags & TRANSIT != 0
            || too_much
            || self.requests > REQUESTS_MAX
            || header.task_tag() == NO_TAG
        {
            return Err(Status::InitiatorError);
        }
        self.text.extend_from_slice(bytes);
        if continues {
            return Ok(None);
        }
        Ok(Some(std::mem::take(&mut self.text)))
    }

    /// The first request is complete: it says who logs in to what (RFC 7143, 6.3.1).
    fn identify<B>(
        &mut self,
        local: Option<SocketAddr>,
        peer: Option<SocketAddr>,
        cx: &Context<'_, B>,
    ) -> Result<(), Status> {
        self.identified = true;
        let declared = &self.negotiation.declared;
        let initiator = declared.initiator.clone().ok_or(Status::MissingParameter)?;
        if initiator.is_empty() || initiator.len() > NAME_BYTES_MAX {
            return Err(Status::InitiatorError);
        }
        self.initiator = initiator;
        self.is_discovery = match declared.session_type.as_deref() {
            None | Some("Normal") => false,
            Some("Discovery") => true,
            Some(_) => return Err(Status::SessionTypeNotSupported),
        };
        if self.is_discovery {
            return if self.tsih == 0 {
                Ok(())
            } else {
                Err(Status::NoSuchSession)
            };
        }
        let name = declared.target.as_deref().ok_or(Status::MissingParameter)?;
        self.group = cx.target.group_at(local);
        let units = &cx.local.units;
        let target = units.find(name).ok_or(Status::NotFound)?;
        let served = units.served(target).ok_or(Status::NotFound)?;
        let address = peer.map(|peer| peer.ip());
        if !served.initiators.allow(&self.initiator, address) {
            return Err(Status::AuthorizationFailed);
        }
        if let Some(redirect) = &served.redirect
            && local != Some(redirect.address)
        {
            self.redirect = Some(redirect.address);
            return Err(if redirect.is_permanent {
                Status::MovedPermanently
            } else {
                Status::MovedTemporarily
            });
        }
        // A target is there only where it is reached (RFC 7143, 4.1.1.1).
        served.port(self.group).ok_or(Status::NotFound)?;
        if self.tsih != 0 {
            // Another connection of a session, of which there can be none, or one of a session that is not.
            let port = InitiatorPort {
                name: self.initiator.clone(),
                port: self.isid,
            };
            return Err(if cx.target.has_session(self.tsih, &port) {
                Status::TooManyConnections
            } else {
                Status::NoSuchSession
            });
        }
        self.target = Some(target);
        Ok(())
    }

    /// What a request has of the proof (RFC 7143, 6.3.2, 12): the method is chosen, then CHAP has two rounds. True when the initiator was
    /// asked for more; it stays in the stage then, whatever it wanted.
    fn authenticate<B>(
        &mut self,
        stage: Stage,
        cx: &Context<'_, B>,
        answer: &mut String,
    ) -> Result<bool, Status> {
        let required = match self.target {
            // One that was removed meanwhile asks for nothing, and lets nobody in.
            Some(target) => cx
                .local
                .units
                .served(target)
                .ok_or(Status::Removed)?
                .chap
                .clone(),
            None => cx.target.discovery(),
        };
        let methods = self.negotiation.declared.methods.take();
        let keys = std::mem::take(&mut self.negotiation.declared.chap);
        if let Some(offered) = methods {
            let ours = if required.is_some() { "CHAP" } else { "None" };
            if !offered.split(',').any(|offered| offered == ours) || keys != Keys::default() {
                return Err(Status::AuthenticationFailed);
            }
            say(answer, "AuthMethod", ours);
            self.is_proven = required.is_none();
            self.exchange = required.map(Exchange::new);
            return Ok(!self.is_proven);
        }
        if let Some(exchange) = &mut self.exchange
            && !self.is_proven
        {
            self.is_proven = exchange.step(&keys, &self.initiator, answer)?;
            return Ok(!self.is_proven);
        }
        if keys != Keys::default() {
            return Err(Status::AuthenticationFailed);
        }
        // Who says nothing of methods has none, which is enough where none is asked for.
        self.is_proven |= required.is_none();
        if stage != Stage::Security && !self.is_proven {
            return Err(Status::AuthenticationFailed);
        }
        Ok(false)
    }
}
