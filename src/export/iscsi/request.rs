//! Requests of the full feature phase that are no SCSI commands: NOP-Out, text, logout (RFC 7143, 11.10, 11.14, 11.18).

use std::net::IpAddr;

use super::command::Reply;
use super::keys::Stage;
use super::receive::Segment;
use super::session::{Context, Session, State};
use super::target::{Served, Target};
use crate::export::backend::{Backend, Lend};
use crate::iscsi::pdu::{CONTINUES, FINAL, Header, NO_TAG, RejectReason, opcode};
use crate::iscsi::text::say;

/// Most text of one request, in however many PDUs.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// A text exchange that takes several PDUs.
#[derive(Default)]
pub(super) struct Text {
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl<L: Lend> Session<L> {
    /// NOP-Out: what came with it goes back (RFC 7143, 11.18).
    pub(super) fn nop_out<B: Backend<Lend = L>>(
        &mut self,
        header: &Header,
        segment: &Segment<'_>,
        cx: &mut Context<'_, B>,
    ) {
        if header.task_tag() == NO_TAG {
            // An answer to a NOP-In of ours, or a sign of life: it asks for nothing, and is always immediate.
            return;
        }
        if !self.is_in_order(header) {
            self.hold(header, segment);
            return;
        }
        let Some(index) = self.slots.take(*header, cx.backend.now_ns()) else {
            self.reject(header, RejectReason::TooManyImmediate);
            return;
        };
        let size = segment
            .bytes
            .len()
            .min(self.parameters.send_bytes_max as usize);
        let slot = self.slots.get_mut(index);
        slot.reply = Reply::Nop;
        slot.wanted = size as u32;
        slot.data_in = size as u32;
        if size > 0 {
            slot.memory = segment.memory();
        }
        self.answer(index, cx);
    }

    /// Text Request (RFC 7143, 11.10): SendTargets, and keys that may change at any time.
    pub(super) fn text<B: Backend<Lend = L>>(
        &mut self,
        header: &Header,
        bytes: &[u8],
        cx: &mut Context<'_, B>,
    ) {
        let tag = header.transfer_tag();
        let is_first = tag == NO_TAG;
        if is_first {
            self.text = Text::default();
        }
        // Either the text goes on, or it is complete: not both (11.10.1, 11.10.2). Our tag comes back as we gave it.
        let continues = header.flags() & CONTINUES != 0;
        let is_ours = is_first || tag == header.task_tag() ^ TEXT_TAG;
        if continues && header.is_final()
            || !is_ours
            || self.text.request.len() + bytes.len() > TEXT_BYTES_MAX
        {
            self.reject(header, RejectReason::Protocol);
            return;
        }
        self.text.request.extend_from_slice(bytes);
        if continues {
            self.text_response(header, Vec::new(), false);
            return;
        }
        if self.text.answer.is_empty() {
            let request = std::mem::take(&mut self.text.request);
            match self.answer_text(&request, cx) {
                Some(answer) => self.text.answer = answer.into_bytes(),
                None => {
                    self.reject(header, RejectReason::Protocol);
                    return;
                }
            }
        }
        let size = self
            .text
            .answer
            .len()
            .min(self.parameters.send_bytes_max as usize);
        let rest = self.text.answer.split_off(size);
        let piece = std::mem::replace(&mut self.text.answer, rest);
        let is_complete = self.text.answer.is_empty();
        self.text_response(header, piece, is_complete && header.is_final());
    }

    fn text_response(&mut self, request: &Header, piece: Vec<u8>, is_final: bool) {
        let more = !self.text.answer.is_empty();
        let flags = if is_final { FINAL } else { 0 } | if more { CONTINUES } else { 0 };
        let mut header = Header::new(opcode::TEXT_RESPONSE, flags);
        header.put_lun(request.lun());
        header.put(16, request.task_tag());
        let tag = if is_final {
            NO_TAG
        } else {
            request.task_tag() ^ TEXT_TAG
        };
        header.put(20, tag);
        self.put_control(header, piece);
    }

    /// The answer to a whole text; `None` when it breaks the rules.
    fn answer_text<B>(&mut self, request: &[u8], cx: &Context<'_, B>) -> Option<String> {
        let mut answer = String::new();
        let member = self.member.as_ref()?;
        let (initiator, own) = (member.initiator.clone(), self.target());
        let local = self.local.map(|local| local.ip());
        let peer = self.peer.map(|peer| peer.ip());
        self.negotiation.begin_again();
        let negotiated =
            self.negotiation
                .exchange(request, Stage::Full, &mut answer, |name, value| {
                    (name == "SendTargets").then(|| {
                        let mut list = String::new();
                        for (id, served) in cx.local.units.targets() {
                            let wanted = match value {
                                // Everything is shown to discovery sessions only (RFC 7143, appendix C).
                                "All" if own.is_none() => true,
                                "All" => return Ok("SendTargets=Reject\0".to_owned()),
                                "" => own == Some(id),
                                iqn => served.iqn.eq_ignore_ascii_case(iqn),
                            };
                            let mine = own.is_none_or(|own| own == id);
                            if wanted && mine && served.initiators.allow(&initiator, peer) {
                                describe(&mut list, served, cx.target, local);
                            }
                        }
                        Ok(list)
                    })
                });
        negotiated.ok()?;
        self.parameters.send_bytes_max = self.negotiation.parameters.send_bytes_max;
        Some(answer)
    }

    /// Logout Request (RFC 7143, 11.14). Commands that have not been answered end with the connection.
    pub(super) fn logout(&mut self, request: &Header) {
        let reason = request.flags() & 0x7F;
        let is_own = self
            .member
            .as_ref()
            .is_some_and(|member| member.connection == request.u16(20));
        let response = match reason {
            0 => 0,
            1 if is_own => 0,
            // There is no such connection in the session.
            1 => 1,
            // Recovery of connections is of error recovery level 2.
            2 => 2,
            _ => {
                self.reject(request, RejectReason::InvalidField);
                return;
            }
        };
        let mut header = Header::new(opcode::LOGOUT_RESPONSE, FINAL);
        header.0[2] = response;
        header.put(16, request.task_tag());
        self.put_control(header, Vec::new());
        if response == 0 {
            self.state = State::Leaving;
        }
    }
}

/// Tells our tag of a text exchange from everybody else's.
const TEXT_TAG: u32 = 0x5A5A_5A5A;

/// A target and where it is reached: the portals of its groups, and for those that are any address the one that the initiator used.
fn describe(list: &mut String, served: &Served, target: &Target, local: Option<IpAddr>) {
    say(list, "TargetName", &served.iqn);
    for (mut address, group) in target.addresses() {
        if served.port(group).is_none() {
            continue;
        }
        if address.ip().is_unspecified() {
            match local {
                Some(ip) if ip.is_ipv4() == address.is_ipv4() => address.set_ip(ip),
                _ => continue,
            }
        }
        say(list, "TargetAddress", &format!("{address},{group}"));
    }
}
