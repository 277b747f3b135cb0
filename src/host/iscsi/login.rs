//! From a connected socket to a session (RFC 7143, 6.3, 11.12): who this initiator is, its proof, and what is negotiated.

use super::address::Address;
use super::error::Error;
use super::receive::SEGMENT_BYTES_MAX;
use super::session::{Sequence, Session};
use crate::host::connection::Connection;
use crate::iscsi::NAME_BYTES_MAX;
use crate::iscsi::chap::{Algorithm, binary, hexadecimal};
use crate::iscsi::login::Status;
use crate::iscsi::pdu::{
    CONTINUES, HEADER_BYTES, Header, IMMEDIATE, LOGIN_BYTES_MAX, NO_TAG, TRANSIT, opcode, padding,
};
use crate::iscsi::secrets::{Secret, Secrets};
use crate::iscsi::text::{NUMBER_MAX, Parameters, pairs, parse_flag, parse_number, say};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The name of this initiator where nothing else is said.
pub const INITIATOR: &str = "iqn.2026-11.io.polldm:initiator";

/// Most requests of a login: a target that has not come to an end by then never does.
const REQUESTS_MAX: u32 = 16;

/// Most text of one answer, in however many PDUs.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Most addresses that a login is sent on to, one after the other; more are taken for a circle.
pub(super) const REDIRECTIONS_MAX: u32 = 4;

/// R2Ts of a command that may be outstanding: the next burst is asked for while one is on its way, which matters where bursts are short.
const OUTSTANDING_READY: u32 = 8;

/// Bytes of a challenge to the target, more than any digest has.
const CHALLENGE_BYTES: usize = 32;

/// What the initiator proves itself with, and what the target has to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The initiator's CHAP name and secret.
    own: (String, Secret),
    /// The target's; `None` when it need not prove itself.
    target: Option<(String, Secret)>,
}

impl Proof {
    /// Reads a file of secrets: the target's form of one, with one `initiator` line. With a `target` line the target has to prove itself as well.
    ///
    /// # Errors
    ///
    /// A sentence: a file that cannot be read, that others can read, or that is not right.
    pub fn read(path: &Path) -> Result<Self, String> {
        Self::of(&Secrets::read(path)?).ok_or_else(|| {
            format!(
                "`{}` has more than one `initiator` line; this initiator has one name and secret",
                path.display()
            )
        })
    }

    /// The proof that secrets of one initiator are for; `None` of several.
    pub fn of(secrets: &Secrets) -> Option<Self> {
        let mut users = secrets.users();
        let (name, user) = users.next()?;
        if users.next().is_some() {
            return None;
        }
        let target = secrets.own();
        Some(Self {
            own: (name.to_owned(), user.secret.clone()),
            target: target.map(|(name, secret)| (name.to_owned(), secret.clone())),
        })
    }
}

/// How a session is set up.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// The name of this initiator.
    pub initiator: String,
    /// Tells this session from others of this initiator (ISID; RFC 7143, 11.12.5).
    pub isid: [u8; 6],
    /// What it proves itself with; `None` without a proof.
    pub proof: Option<Arc<Proof>>,
    /// Asks for header digests; a target that refuses them is refused.
    pub header_digest: bool,
    /// Asks for data digests; a target that refuses them is refused.
    pub data_digest: bool,
    /// What is offered besides: the fastest transfers, where a test wants nothing else.
    pub offer: Offer,
    /// Most commands outstanding.
    pub depth: usize,
    /// How long each step (connect, login, a blocking command) may take.
    pub timeout: Duration,
}

/// What is offered of how data goes (RFC 7143, 13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// InitialR2T.
    pub initial_ready: bool,
    /// ImmediateData.
    pub immediate_data: bool,
    /// MaxBurstLength.
    pub burst_bytes: u32,
    /// FirstBurstLength.
    pub first_burst_bytes: u32,
    /// MaxOutstandingR2T.
    pub outstanding_ready: u32,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            initial_ready: false,
            immediate_data: true,
            burst_bytes: NUMBER_MAX,
            first_burst_bytes: NUMBER_MAX,
            outstanding_ready: OUTSTANDING_READY,
        }
    }
}

impl SessionOptions {
    /// No digests, no proof, and an ISID that no other session has.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] when the operating system has no random numbers.
    pub fn new() -> Result<Self, Error> {
        // Format 10b: the other bytes are random.
        let mut isid = [0; 6];
        make_up(&mut isid)?;
        isid[0] = 0x80;
        Ok(Self {
            initiator: INITIATOR.into(),
            isid,
            proof: None,
            header_digest: false,
            data_digest: false,
            offer: Offer::default(),
            depth: 32,
            timeout: Duration::from_secs(5),
        })
    }

    /// The same for another session beside this one.
    pub fn beside(&self, index: u16) -> Self {
        let [.., high, low] = self.isid;
        let qualifier = u16::from_be_bytes([high, low]).wrapping_add(index);
        let mut options = self.clone();
        options.isid[4..].copy_from_slice(&qualifier.to_be_bytes());
        options
    }
}

/// Connects and logs in to the target of an address, or where that sends initiators (RFC 7143, 11.13.5). Whoever is there has to prove as much as
/// the one that was asked.
///
/// # Errors
///
/// What the socket says, [`Error::Refused`], [`Error::Unproven`], [`Error::Protocol`], [`Error::Unsupported`] when the target refuses a
/// digest.
pub fn login(address: &Address, options: &SessionOptions) -> Result<Session, Error> {
    let mut address = address.clone();
    for _ in 0..=REDIRECTIONS_MAX {
        match login_at(&address, options) {
            Err(Error::Refused {
                status,
                address: Some(elsewhere),
            }) if is_redirection(status) => address = address.moved(&elsewhere)?,
            other => return other,
        }
    }
    Err(Error::Unsupported(format!(
        "the target sends initiators from one address to the next; the last after {REDIRECTIONS_MAX} of them was {}:{}",
        address.host, address.port
    )))
}

fn is_redirection(status: u16) -> bool {
    status == Status::MovedTemporarily as u16 || status == Status::MovedPermanently as u16
}

fn login_at(address: &Address, options: &SessionOptions) -> Result<Session, Error> {
    if options.initiator.is_empty() || options.initiator.len() > NAME_BYTES_MAX {
        return Err(Error::Address(format!(
            "the name of an initiator has 1 to {NAME_BYTES_MAX} bytes"
        )));
    }
    let connection = Connection::open(&address.resolve()?, options.timeout)?;
    let mut login = Login {
        connection,
        options,
        requests: 0,
        sequence: Sequence {
            command: 1,
            command_max: 1,
            status: 0,
        },
    };
    login.prove(address)?;
    let parameters = login.negotiate()?;
    let Login {
        connection,
        sequence,
        ..
    } = login;
    let stream = connection.into_polled()?;
    Ok(Session::new(stream, parameters, sequence, options.depth))
}

/// Stages of a login (RFC 7143, 11.12.3).
const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL: u8 = 3;

/// What a target answers in one go: the stage that it is in afterwards, and its keys.
struct Answer {
    stage: u8,
    text: Vec<u8>,
}

impl Answer {
    fn pairs(&self) -> Result<Vec<(&str, &str)>, Error> {
        pairs(&self.text).map_err(|_| Error::Protocol("its text is no list of keys"))
    }

    /// The value of a key.
    fn value(&self, name: &str) -> Result<Option<&str>, Error> {
        let pairs = self.pairs()?;
        let found = pairs.iter().find(|(known, _)| *known == name);
        Ok(found.map(|(_, value)| *value))
    }
}

struct Login<'a> {
    connection: Connection,
    options: &'a SessionOptions,
    requests: u32,
    sequence: Sequence,
}

impl Login<'_> {
    /// The security stage (RFC 7143, 6.3.2, 12.1), to its end.
    fn prove(&mut self, address: &Address) -> Result<(), Error> {
        let mut text = String::new();
        say(&mut text, "InitiatorName", &self.options.initiator);
        say(&mut text, "TargetName", &address.iqn);
        say(&mut text, "SessionType", "Normal");
        let Some(proof) = self.options.proof.clone() else {
            say(&mut text, "AuthMethod", "None");
            let answer = self.ask(SECURITY, OPERATIONAL, text)?;
            if answer.stage == SECURITY {
                return Err(Error::Protocol(
                    "it stays in the security stage, though there is nothing to prove",
                ));
            }
            return Ok(());
        };
        say(&mut text, "AuthMethod", "CHAP");
        let answer = self.ask(SECURITY, SECURITY, text)?;
        if answer.value("AuthMethod")? != Some("CHAP") {
            return Err(Error::Unproven(
                "it does not do CHAP, for which --secrets was given",
            ));
        }
        let mut text = String::new();
        say(&mut text, "CHAP_A", "7,8,6,5");
        let answer = self.ask(SECURITY, SECURITY, text)?;
        const UNASKED: Error = Error::Protocol("it does not ask for a proof as CHAP does");
        let algorithm = answer.value("CHAP_A")?.and_then(Algorithm::of);
        let identifier = answer.value("CHAP_I")?.and_then(|value| value.parse().ok());
        let challenge = answer.value("CHAP_C")?.and_then(binary);
        let (Some(algorithm), Some(identifier), Some(challenge)) =
            (algorithm, identifier, challenge)
        else {
            return Err(UNASKED);
        };
        let (name, secret) = &proof.own;
        let response = algorithm.response(identifier, secret, &challenge);
        let mut text = String::new();
        say(&mut text, "CHAP_N", name);
        say(&mut text, "CHAP_R", &hexadecimal(&response));
        let mut own = [0; 1 + CHALLENGE_BYTES];
        if proof.target.is_some() {
            make_up(&mut own)?;
            say(&mut text, "CHAP_I", &own[0].to_string());
            say(&mut text, "CHAP_C", &hexadecimal(&own[1..]));
        }
        let answer = self.ask(SECURITY, OPERATIONAL, text)?;
        if let Some((name, secret)) = &proof.target {
            let response = answer.value("CHAP_R")?.and_then(binary);
            let expected = algorithm.response(own[0], secret, &own[1..]);
            if answer.value("CHAP_N")? != Some(name) || response != Some(expected) {
                return Err(Error::Unproven(
                    "its name or its proof is another than --secrets has",
                ));
            }
        }
        if answer.stage == SECURITY {
            return Err(UNASKED);
        }
        Ok(())
    }

    /// The operational stage (RFC 7143, 6.3.3), to the full feature phase.
    fn negotiate(&mut self) -> Result<Parameters, Error> {
        let options = self.options;
        let digest = |wanted: bool| if wanted { "CRC32C" } else { "None" };
        let flag = |set: bool| if set { "Yes" } else { "No" };
        let mut text = String::new();
        for (name, value) in [
            ("HeaderDigest", digest(options.header_digest)),
            ("DataDigest", digest(options.data_digest)),
            ("InitialR2T", flag(options.offer.initial_ready)),
            ("ImmediateData", flag(options.offer.immediate_data)),
            ("MaxRecvDataSegmentLength", &SEGMENT_BYTES_MAX.to_string()),
            ("MaxBurstLength", &options.offer.burst_bytes.to_string()),
            (
                "FirstBurstLength",
                &options.offer.first_burst_bytes.to_string(),
            ),
            (
                "MaxOutstandingR2T",
                &options.offer.outstanding_ready.to_string(),
            ),
            ("MaxConnections", "1"),
            ("DataPDUInOrder", "Yes"),
            ("DataSequenceInOrder", "Yes"),
            ("DefaultTime2Wait", "0"),
            ("DefaultTime2Retain", "0"),
            ("ErrorRecoveryLevel", "0"),
        ] {
            say(&mut text, name, value);
        }
        let mut parameters = Parameters::default();
        loop {
            let answer = self.ask(OPERATIONAL, FULL, std::mem::take(&mut text))?;
            for (name, value) in answer.pairs()? {
                take(&mut parameters, name, value)?;
            }
            if answer.stage == FULL {
                break;
            }
        }
        // More than was offered is not for the target to say (RFC 7143, 13.17).
        parameters.outstanding_ready = parameters
            .outstanding_ready
            .min(options.offer.outstanding_ready);
        let refused = (options.header_digest && !parameters.header_digest)
            || (options.data_digest && !parameters.data_digest);
        if refused {
            return Err(Error::Unsupported(
                "the target does not use the header or data digests that were asked for".into(),
            ));
        }
        Ok(parameters)
    }

    /// A request, in stage `stage` and ready for `next`, and the whole answer to it.
    fn ask(&mut self, stage: u8, next: u8, text: String) -> Result<Answer, Error> {
        debug_assert!(text.len() <= LOGIN_BYTES_MAX);
        let mut answer = Vec::new();
        let mut text = text;
        loop {
            let flags = match stage == next {
                true => stage << 2,
                false => TRANSIT | stage << 2 | next,
            };
            self.send(flags, text.as_bytes())?;
            let (header, data) = self.receive(stage)?;
            answer.extend(data);
            if answer.len() > ANSWER_BYTES_MAX {
                return Err(Error::Protocol("its text does not end"));
            }
            if header.flags() & CONTINUES == 0 {
                let stage = match header.flags() & TRANSIT {
                    0 => stage,
                    _ => header.flags() & 3,
                };
                return Ok(Answer {
                    stage,
                    text: answer,
                });
            }
            // More of the answer is asked for by an empty request (RFC 7143, 11.12.2).
            text = String::new();
        }
    }

    /// Login Request (RFC 7143, 11.12).
    fn send(&mut self, flags: u8, text: &[u8]) -> Result<(), Error> {
        self.requests += 1;
        if self.requests > REQUESTS_MAX {
            return Err(Error::Protocol("the login does not come to an end"));
        }
        let mut header = Header::new(opcode::LOGIN | IMMEDIATE, flags);
        header.put_data_bytes(text.len());
        header.0[8..14].copy_from_slice(&self.options.isid);
        header.put(24, self.sequence.command);
        header.put(28, self.sequence.status);
        let mut bytes = header.0.to_vec();
        bytes.extend(text);
        bytes.resize(bytes.len() + padding(text.len()), 0);
        Ok(self.connection.send(&bytes)?)
    }

    /// Login Response (RFC 7143, 11.13), to a request of stage `stage`; its text.
    fn receive(&mut self, stage: u8) -> Result<(Header, Vec<u8>), Error> {
        let mut header = Header([0; HEADER_BYTES]);
        self.connection.receive_exact(&mut header.0)?;
        let size = header.data_bytes();
        if size > LOGIN_BYTES_MAX || header.additional_bytes() > 0 {
            return Err(Error::Protocol(
                "its answer to a login is longer than it may be",
            ));
        }
        let mut text = vec![0; size + padding(size)];
        self.connection.receive_exact(&mut text)?;
        text.truncate(size);
        if header.opcode() == opcode::REJECT {
            return Err(Error::Rejected {
                reason: header.0[2],
                opcode: text.first().map(|first| first & 0x3F),
            });
        }
        if header.opcode() != opcode::LOGIN_RESPONSE || header.task_tag() == NO_TAG {
            return Err(Error::Protocol("it answers a login with something else"));
        }
        let status = header.u16(36);
        if status != 0 {
            let address = pairs(&text).ok().and_then(|pairs| {
                let found = pairs.iter().find(|(name, _)| *name == "TargetAddress");
                found.map(|(_, value)| (*value).to_owned())
            });
            return Err(Error::Refused { status, address });
        }
        let flags = header.flags();
        let is_next = flags & TRANSIT == 0
            || flags & 3 == FULL
            || flags & 3 == OPERATIONAL && stage == SECURITY;
        if flags >> 2 & 3 != stage || !is_next {
            return Err(Error::Protocol("its login is in another stage"));
        }
        self.sequence.status = header.u32(24).wrapping_add(1);
        self.sequence.command_max = header.u32(32);
        Ok((header, text))
    }
}

/// Fills `bytes` with what nobody can foresee.
fn make_up(bytes: &mut [u8]) -> Result<(), Error> {
    getrandom::fill(bytes)
        .map_err(|_| Error::Unsupported("the operating system has no random numbers".into()))
}

/// Takes the target's word on a key. What has no bearing on the transfers here is not looked at.
fn take(parameters: &mut Parameters, name: &str, value: &str) -> Result<(), Error> {
    const WRONG: Error = Error::Protocol("a key of its login has a value that it cannot have");
    if value == "Reject" || value == "NotUnderstood" || value == "Irrelevant" {
        // The default stays in force (RFC 7143, 6.2).
        return Ok(());
    }
    let flag = || parse_flag(value).ok_or(WRONG);
    let number = |low: u32| {
        let number = parse_number(value);
        number
            .filter(|number| (low..=NUMBER_MAX).contains(number))
            .ok_or(WRONG)
    };
    match name {
        "HeaderDigest" => parameters.header_digest = value == "CRC32C",
        "DataDigest" => parameters.data_digest = value == "CRC32C",
        "InitialR2T" => parameters.initial_ready = flag()?,
        "ImmediateData" => parameters.immediate_data = flag()?,
        "MaxRecvDataSegmentLength" => parameters.send_bytes_max = number(512)?,
        "MaxBurstLength" => parameters.burst_bytes = number(512)?,
        "FirstBurstLength" => parameters.first_burst_bytes = number(512)?,
        "MaxOutstandingR2T" => parameters.outstanding_ready = number(1)?,
        "ErrorRecoveryLevel" if value != "0" => return Err(WRONG),
        "DataPDUInOrder" | "DataSequenceInOrder" if !flag()? => return Err(WRONG),
        _ => {}
    }
    Ok(())
}
