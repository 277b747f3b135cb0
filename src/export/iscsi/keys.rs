//! Text keys (RFC 7143, 6 and 13): every key that is known, once, with how it is negotiated.

use crate::iscsi::chap;
use crate::iscsi::text::{NUMBER_MAX, Parameters, Violation, pairs, parse_flag, parse_number, say};

/// Most bytes of our data segments that we take (MaxRecvDataSegmentLength): a NOP-Out or text of that size fits a receive chunk.
pub const RECEIVE_BYTES_MAX: u32 = 64 * 1024;

/// The longest burst that is negotiated; an initiator that offers less gets that.
pub const BURST_BYTES_MAX: u32 = 1 << 20;

/// The most data that may come unasked for.
pub const FIRST_BURST_BYTES_MAX: u32 = 64 * 1024;

/// The most R2Ts of a command that are outstanding at once (MaxOutstandingR2T): an initiator with short bursts has the next ones to answer while
/// one is under way. Each asks for room in a buffer that is there already.
pub const OUTSTANDING_READY_MAX: u32 = 8;

/// How the answer to a key comes about (RFC 7143, 6.2).
#[derive(Clone, Copy)]
enum Rule {
    /// Of the values offered, in their order, the first that is here.
    List(&'static [&'static str]),
    /// Yes if both say so.
    And(bool),
    /// Yes if either does.
    Or(bool),
    /// The smaller of both, in a range.
    Minimum { low: u32, high: u32, ours: u32 },
    /// The larger of both, in a range.
    Maximum { low: u32, high: u32, ours: u32 },
    /// Said, not negotiated; a number in a range.
    Number { low: u32, high: u32 },
    /// Said, not negotiated; text.
    Text,
    /// Only a target says it.
    Ours,
}

/// When a key may be offered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// While who is who is settled, and only then.
    Security,
    /// In either stage of a login.
    Login,
    /// With the operational parameters.
    Operational,
    /// Also in the full feature phase.
    Always,
}

struct Key {
    name: &'static str,
    when: When,
    rule: Rule,
    /// Without a meaning in discovery sessions: answered with Irrelevant.
    normal_only: bool,
    apply: fn(&mut Parameters, &Value),
}

/// What a key has come to be.
enum Value {
    Flag(bool),
    Number(u32),
    Text(String),
}

impl Value {
    fn flag(&self) -> bool {
        matches!(self, Value::Flag(true))
    }

    fn number(&self) -> u32 {
        match self {
            Value::Number(number) => *number,
            _ => 0,
        }
    }

    fn is(&self, text: &str) -> bool {
        matches!(self, Value::Text(own) if own == text)
    }
}

const fn key(name: &'static str, when: When, rule: Rule) -> Key {
    Key {
        name,
        when,
        rule,
        normal_only: false,
        apply: |_, _| {},
    }
}

const fn normal(mut key: Key, apply: fn(&mut Parameters, &Value)) -> Key {
    key.normal_only = true;
    key.apply = apply;
    key
}

const fn with(mut key: Key, apply: fn(&mut Parameters, &Value)) -> Key {
    key.apply = apply;
    key
}

/// Every key (RFC 7143, 13; RFC 7144, 3).
const KEYS: &[Key] = &[
    with(
        key(
            "HeaderDigest",
            When::Operational,
            Rule::List(&["CRC32C", "None"]),
        ),
        |parameters, value| parameters.header_digest = value.is("CRC32C"),
    ),
    with(
        key(
            "DataDigest",
            When::Operational,
            Rule::List(&["CRC32C", "None"]),
        ),
        |parameters, value| parameters.data_digest = value.is("CRC32C"),
    ),
    normal(
        key(
            "MaxConnections",
            When::Operational,
            Rule::Minimum {
                low: 1,
                high: 65_535,
                ours: 1,
            },
        ),
        |_, _| {},
    ),
    key("InitiatorName", When::Login, Rule::Text),
    key("InitiatorAlias", When::Always, Rule::Text),
    key("TargetName", When::Login, Rule::Text),
    key("SessionType", When::Login, Rule::Text),
    // What these come to depends on the target: `login` and `chap` answer them.
    key("AuthMethod", When::Security, Rule::Text),
    key("CHAP_A", When::Security, Rule::Text),
    key("CHAP_I", When::Security, Rule::Text),
    key("CHAP_C", When::Security, Rule::Text),
    key("CHAP_N", When::Security, Rule::Text),
    key("CHAP_R", When::Security, Rule::Text),
    key("TargetAlias", When::Always, Rule::Ours),
    key("TargetAddress", When::Always, Rule::Ours),
    key("TargetPortalGroupTag", When::Always, Rule::Ours),
    normal(
        key("InitialR2T", When::Operational, Rule::Or(false)),
        |parameters, value| {
            parameters.initial_ready = value.flag();
        },
    ),
    normal(
        key("ImmediateData", When::Operational, Rule::And(true)),
        |parameters, value| {
            parameters.immediate_data = value.flag();
        },
    ),
    with(
        key(
            "MaxRecvDataSegmentLength",
            When::Always,
            Rule::Number {
                low: 512,
                high: NUMBER_MAX,
            },
        ),
        |parameters, value| parameters.send_bytes_max = value.number(),
    ),
    normal(
        key(
            "MaxBurstLength",
            When::Operational,
            Rule::Minimum {
                low: 512,
                high: NUMBER_MAX,
                ours: BURST_BYTES_MAX,
            },
        ),
        |parameters, value| parameters.burst_bytes = value.number(),
    ),
    normal(
        key(
            "FirstBurstLength",
            When::Operational,
            Rule::Minimum {
                low: 512,
                high: NUMBER_MAX,
                ours: FIRST_BURST_BYTES_MAX,
            },
        ),
        |parameters, value| parameters.first_burst_bytes = value.number(),
    ),
    // No time has to pass: nothing is kept of a session that ended, so there is nothing to wait for.
    key(
        "DefaultTime2Wait",
        When::Operational,
        Rule::Maximum {
            low: 0,
            high: 3600,
            ours: 0,
        },
    ),
    key(
        "DefaultTime2Retain",
        When::Operational,
        Rule::Minimum {
            low: 0,
            high: 3600,
            ours: 0,
        },
    ),
    normal(
        key(
            "MaxOutstandingR2T",
            When::Operational,
            Rule::Minimum {
                low: 1,
                high: 65_535,
                ours: OUTSTANDING_READY_MAX,
            },
        ),
        |parameters, value| parameters.outstanding_ready = value.number(),
    ),
    normal(
        key("DataPDUInOrder", When::Operational, Rule::Or(true)),
        |_, _| {},
    ),
    normal(
        key("DataSequenceInOrder", When::Operational, Rule::Or(true)),
        |_, _| {},
    ),
    key(
        "ErrorRecoveryLevel",
        When::Operational,
        Rule::Minimum {
            low: 0,
            high: 2,
            ours: 0,
        },
    ),
    // Markers are obsolete (RFC 7143, 2.2).
    key("IFMarker", When::Operational, Rule::And(false)),
    key("OFMarker", When::Operational, Rule::And(false)),
    normal(
        key("TaskReporting", When::Operational, Rule::List(&["RFC3720"])),
        |_, _| {},
    ),
    normal(
        key(
            "iSCSIProtocolLevel",
            When::Operational,
            Rule::Minimum {
                low: 0,
                high: 31,
                ours: 2,
            },
        ),
        |parameters, value| parameters.protocol_level = value.number(),
    ),
];

/// What an initiator says of itself in a login.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// InitiatorName.
    pub initiator: Option<String>,
    /// InitiatorAlias.
    pub alias: Option<String>,
    /// TargetName.
    pub target: Option<String>,
    /// SessionType.
    pub session_type: Option<String>,
    /// AuthMethod: what it can prove itself by.
    pub methods: Option<String>,
    /// Keys of CHAP.
    pub chap: chap::Keys,
}

/// Where a negotiation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// SecurityNegotiation.
    Security,
    /// LoginOperationalNegotiation.
    Operational,
    /// Full feature phase.
    Full,
}

/// A negotiation from the first login request on.
#[derive(Clone, Debug, Default)]
pub struct Negotiation {
    /// What it has come to.
    pub parameters: Parameters,
    /// What the initiator has said of itself.
    pub declared: Declared,
    /// Keys that were offered, by their place in [`KEYS`]: none may be offered twice.
    seen: u64,
    is_discovery: bool,
    has_said_receive: bool,
}

const _: () = assert!(KEYS.len() <= 64);

impl Negotiation {
    /// The session is for discovery: keys of normal sessions mean nothing.
    pub fn set_discovery(&mut self) {
        self.is_discovery = true;
    }

    /// Keys may be offered once more: each exchange of the full feature phase is a negotiation of its own.
    pub fn begin_again(&mut self) {
        self.seen = 0;
    }

    /// Takes the keys of a request and answers them. `others` is asked about keys that are not parameters: it answers, or says that it
    /// does not know them either.
    ///
    /// # Errors
    /// Text that is no list of keys, a key that comes twice, or when it must not.
    pub fn exchange(
        &mut self,
        text: &[u8],
        stage: Stage,
        answer: &mut String,
        mut others: impl FnMut(&str, &str) -> Option<Result<String, Violation>>,
    ) -> Result<(), Violation> {
        for (name, value) in pairs(text)? {
            if let Some(own) = others(name, value) {
                answer.push_str(&own?);
                continue;
            }
            let Some(index) = KEYS.iter().position(|key| key.name == name) else {
                // 6.2: a key that is not understood.
                say(answer, name, "NotUnderstood");
                continue;
            };
            let key = &KEYS[index];
            let allowed = match stage {
                Stage::Security => key.when != When::Operational,
                Stage::Operational => key.when != When::Security,
                Stage::Full => key.when == When::Always,
            };
            if self.seen >> index & 1 != 0 || !allowed {
                return Err(Violation);
            }
            self.seen |= 1 << index;
            self.take(key, value, answer)?;
        }
        Ok(())
    }

    fn take(&mut self, key: &Key, value: &str, answer: &mut String) -> Result<(), Violation> {
        if key.normal_only && self.is_discovery {
            say(answer, key.name, "Irrelevant");
            return Ok(());
        }
        let number = |low: u32, high: u32| parse_number(value).filter(|n| (low..=high).contains(n));
        let taken = match key.rule {
            Rule::List(ours) => value
                .split(',')
                .find(|offered| ours.contains(offered))
                .map(|chosen| Value::Text(chosen.to_owned())),
            Rule::And(ours) => parse_flag(value).map(|theirs| Value::Flag(theirs && ours)),
            Rule::Or(ours) => parse_flag(value).map(|theirs| Value::Flag(theirs || ours)),
            Rule::Minimum { low, high, ours } => {
                number(low, high).map(|theirs| Value::Number(theirs.min(ours)))
            }
            Rule::Maximum { low, high, ours } => {
                number(low, high).map(|theirs| Value::Number(theirs.max(ours)))
            }
            Rule::Number { low, high } => number(low, high).map(Value::Number),
            Rule::Text => {
                self.declare(key.name, value);
                return Ok(());
            }
            Rule::Ours => return Err(Violation),
        };
        let Some(taken) = taken else {
            // 6.2: a value out of its range, or nothing in common. The default stays in force.
            say(answer, key.name, "Reject");
            return Ok(());
        };
        (key.apply)(&mut self.parameters, &taken);
        match (&key.rule, &taken) {
            (Rule::Number { .. }, _) => self.say_receive(answer),
            (_, Value::Flag(flag)) => say(answer, key.name, if *flag { "Yes" } else { "No" }),
            (_, Value::Number(number)) => say(answer, key.name, &number.to_string()),
            (_, Value::Text(text)) => say(answer, key.name, text),
        }
        Ok(())
    }

    fn declare(&mut self, name: &str, value: &str) {
        let declared = &mut self.declared;
        let place = match name {
            "InitiatorName" => &mut declared.initiator,
            "InitiatorAlias" => &mut declared.alias,
            "TargetName" => &mut declared.target,
            "AuthMethod" => &mut declared.methods,
            "CHAP_A" => &mut declared.chap.algorithms,
            "CHAP_I" => &mut declared.chap.identifier,
            "CHAP_C" => &mut declared.chap.challenge,
            "CHAP_N" => &mut declared.chap.name,
            "CHAP_R" => &mut declared.chap.response,
            _ => &mut declared.session_type,
        };
        *place = Some(value.to_owned());
    }

    /// Says once how much a data segment to us may have.
    pub fn say_receive(&mut self, answer: &mut String) {
        if !std::mem::replace(&mut self.has_said_receive, true) {
            say(
                answer,
                "MaxRecvDataSegmentLength",
                &RECEIVE_BYTES_MAX.to_string(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(
        negotiation: &mut Negotiation,
        stage: Stage,
        text: &str,
    ) -> Result<String, Violation> {
        let mut answer = String::new();
        let text = text.replace(' ', "\0");
        negotiation.exchange(text.as_bytes(), stage, &mut answer, |_, _| None)?;
        Ok(answer.replace('\0', " ").trim_end().to_owned())
    }

    /// RFC 7143, 13: what each key comes to.
    #[test]
    fn every_kind_of_key_has_its_result() {
        for (offered, expected) in [
            ("HeaderDigest=CRC32C,None", "HeaderDigest=CRC32C"),
            ("HeaderDigest=None,CRC32C", "HeaderDigest=None"),
            ("DataDigest=X-new,None", "DataDigest=None"),
            ("DataDigest=X-new", "DataDigest=Reject"),
            ("InitialR2T=No", "InitialR2T=No"),
            ("InitialR2T=Yes", "InitialR2T=Yes"),
            ("ImmediateData=No", "ImmediateData=No"),
            ("ImmediateData=Yes", "ImmediateData=Yes"),
            ("ImmediateData=maybe", "ImmediateData=Reject"),
            ("MaxBurstLength=16776192", "MaxBurstLength=1048576"),
            ("MaxBurstLength=0x200", "MaxBurstLength=512"),
            ("MaxBurstLength=511", "MaxBurstLength=Reject"),
            ("FirstBurstLength=262144", "FirstBurstLength=65536"),
            ("MaxConnections=8", "MaxConnections=1"),
            ("MaxOutstandingR2T=1", "MaxOutstandingR2T=1"),
            ("MaxOutstandingR2T=4", "MaxOutstandingR2T=4"),
            ("MaxOutstandingR2T=65535", "MaxOutstandingR2T=8"),
            ("MaxOutstandingR2T=0", "MaxOutstandingR2T=Reject"),
            ("DefaultTime2Wait=2", "DefaultTime2Wait=2"),
            ("DefaultTime2Retain=20", "DefaultTime2Retain=0"),
            ("DataPDUInOrder=No", "DataPDUInOrder=Yes"),
            ("ErrorRecoveryLevel=2", "ErrorRecoveryLevel=0"),
            (
                "MaxRecvDataSegmentLength=262144",
                "MaxRecvDataSegmentLength=65536",
            ),
            (
                "MaxRecvDataSegmentLength=1",
                "MaxRecvDataSegmentLength=Reject",
            ),
            ("OFMarker=Yes", "OFMarker=No"),
            ("TaskReporting=FastAbort,RFC3720", "TaskReporting=RFC3720"),
            ("iSCSIProtocolLevel=3", "iSCSIProtocolLevel=2"),
            ("X-com.example.key=1", "X-com.example.key=NotUnderstood"),
        ] {
            let mut negotiation = Negotiation::default();
            assert_eq!(
                answer(&mut negotiation, Stage::Operational, offered).as_deref(),
                Ok(expected)
            );
        }
    }

    /// RFC 7143, 6.3: nothing is offered twice, nor at another time than its own, and only by whom it belongs to.
    #[test]
    fn what_must_not_be_offered_is_a_violation() {
        let mut negotiation = Negotiation::default();
        assert!(answer(&mut negotiation, Stage::Operational, "InitialR2T=No").is_ok());
        assert_eq!(
            answer(&mut negotiation, Stage::Operational, "InitialR2T=No"),
            Err(Violation)
        );
        for (stage, text) in [
            (Stage::Security, "HeaderDigest=None"),
            (Stage::Operational, "AuthMethod=None"),
            (Stage::Full, "InitialR2T=No"),
            (Stage::Operational, "TargetPortalGroupTag=1"),
            (Stage::Operational, "NoValue"),
            (Stage::Operational, "=1"),
        ] {
            assert_eq!(
                answer(&mut Negotiation::default(), stage, text),
                Err(Violation),
                "{text}"
            );
        }
    }

    #[test]
    fn keys_of_normal_sessions_are_irrelevant_to_discovery() {
        let mut negotiation = Negotiation::default();
        negotiation.set_discovery();
        assert_eq!(
            answer(
                &mut negotiation,
                Stage::Operational,
                "MaxBurstLength=512 HeaderDigest=None"
            )
            .as_deref(),
            Ok("MaxBurstLength=Irrelevant HeaderDigest=None")
        );
        assert_eq!(negotiation.parameters.burst_bytes, 262_144);
    }
}
