//! Logins with CHAP, from the initiator's side.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::chap::Chap;
use super::super::harness::{Harness, INITIATOR, IQN, Sent, login_request};
use crate::iscsi::chap::Algorithm;
use crate::iscsi::secrets::{Secret, Secrets};

const SECRETS: &str = "initiator host secret-of-the-host\ninitiator bound secret-of-the-host iqn.2026-11.io.polldm:Initiator\ninitiator other secret-of-the-host iqn.2026-11.io.polldm:other\ntarget polldm secret-of-the-target";

fn chap(mutual: bool) -> Option<Chap> {
    Some(Chap {
        secrets: Arc::new(Secrets::parse(SECRETS).expect("right")),
        mutual,
    })
}

/// A target that asks for proof, as its discovery does.
fn proving(chap: Option<Chap>) -> Harness {
    Harness::serving(|config| {
        config.discovery = chap.clone();
        config.targets[0].chap = chap;
    })
}

fn keys(sent: &Sent) -> HashMap<String, String> {
    let text = String::from_utf8(sent.data.clone()).expect("text");
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn bytes(text: &str) -> Vec<u8> {
    let digits = text.strip_prefix("0x").expect("hexadecimal");
    (0..digits.len() / 2)
        .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).expect("a digit"))
        .collect()
}

fn shown(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("0x{digits}")
}

fn secret_of(name: &str) -> Secret {
    let secrets = Secrets::parse(SECRETS).expect("right");
    match secrets.user(name) {
        Some(user) => user.secret.clone(),
        None => secrets.own().expect("the target's").1.clone(),
    }
}

/// One request of the security stage; its answer.
fn say(harness: &mut Harness, flags: u8, text: &str) -> Sent {
    harness.feed(
        &login_request(flags, 1, &text.replace(' ', "\0")),
        usize::MAX,
    );
    let mut sent = harness.take();
    assert_eq!(sent.len(), 1, "{text}");
    sent.remove(0)
}

fn names() -> String {
    format!("InitiatorName={INITIATOR} TargetName={IQN} AuthMethod=CHAP,None ")
}

/// The first two requests; what the target asks.
fn asked(harness: &mut Harness, algorithms: &str) -> (u8, Vec<u8>, HashMap<String, String>) {
    let chosen = say(harness, 0x81, &names());
    // T was set, but there is more to be said.
    assert_eq!((chosen.header.flags(), chosen.header.u16(36)), (0, 0));
    assert_eq!(keys(&chosen)["AuthMethod"], "CHAP");
    assert_eq!(keys(&chosen)["TargetPortalGroupTag"], "1");
    let asked = say(harness, 0x00, &format!("CHAP_A={algorithms} "));
    assert_eq!((asked.header.flags(), asked.header.u16(36)), (0, 0));
    let keys = keys(&asked);
    let identifier = keys["CHAP_I"].parse().expect("a number");
    (identifier, bytes(&keys["CHAP_C"]), keys)
}

/// Every algorithm, one way: the first that both know is taken, and the session is there at the end.
#[test]
fn an_initiator_proves_itself() {
    for (offered, chosen, algorithm, name) in [
        ("5", "5", Algorithm::Md5, "host"),
        ("6,5", "6", Algorithm::Sha1, "host"),
        ("9,7,5", "7", Algorithm::Sha256, "host"),
        ("8", "8", Algorithm::Sha3, "bound"),
    ] {
        let mut harness = proving(chap(false));
        let (identifier, challenge, keys) = asked(&mut harness, offered);
        assert_eq!(keys["CHAP_A"], chosen);
        let response = algorithm.response(identifier, &secret_of("host"), &challenge);
        let text = format!("CHAP_N={name} CHAP_R={} ", shown(&response));
        let proven = say(&mut harness, 0x81, &text);
        assert_eq!((proven.header.flags(), proven.header.u16(36)), (0x81, 0));
        assert!(proven.data.is_empty());
        let done = say(&mut harness, 0x87, "HeaderDigest=None ");
        assert_eq!((done.header.flags(), done.header.u16(36)), (0x87, 0));
        assert!(harness.session.member.is_some());
        harness.close();
    }
}

/// The target proves itself with its own secret, over the initiator's challenge; straight to the full feature phase.
#[test]
fn both_prove_themselves() {
    for mutual in [false, true] {
        let mut harness = proving(chap(mutual));
        let (identifier, challenge, _) = asked(&mut harness, "7");
        let response = Algorithm::Sha256.response(identifier, &secret_of("host"), &challenge);
        let text = format!(
            "CHAP_N=host CHAP_R={} CHAP_I=200 CHAP_C=0bAAECAwQFBgcICQ== ",
            shown(&response)
        );
        let proven = say(&mut harness, 0x83, &text);
        assert_eq!((proven.header.flags(), proven.header.u16(36)), (0x83, 0));
        let keys = keys(&proven);
        assert_eq!(keys["CHAP_N"], "polldm");
        let own: Vec<u8> = (0..10).collect();
        let expected = Algorithm::Sha256.response(200, &secret_of("polldm"), &own);
        assert_eq!(keys["CHAP_R"], shown(&expected));
        assert!(harness.session.member.is_some());
        harness.close();
    }
}

/// Discovery asks for proof by itself.
#[test]
fn discovery_has_a_proof_of_its_own() {
    let mut harness = proving(chap(false));
    let names = format!("InitiatorName={INITIATOR} SessionType=Discovery AuthMethod=CHAP ");
    assert_eq!(say(&mut harness, 0x00, &names).header.u16(36), 0);
    let asked = keys(&say(&mut harness, 0x00, "CHAP_A=5 "));
    let identifier = asked["CHAP_I"].parse().expect("a number");
    let challenge = bytes(&asked["CHAP_C"]);
    let response = Algorithm::Md5.response(identifier, &secret_of("host"), &challenge);
    let text = format!("CHAP_N=host CHAP_R={} ", shown(&response));
    // Without T, the stage goes on until the initiator wants to leave it.
    assert_eq!(say(&mut harness, 0x00, &text).header.flags(), 0);
    let done = say(&mut harness, 0x83, "");
    assert_eq!((done.header.flags(), done.header.u16(36)), (0x83, 0));
    harness.close();
}

/// What discovery asks for can change: it holds for the next login.
#[test]
fn discovery_asks_for_another_proof() {
    let names = |method: &str| {
        format!("InitiatorName={INITIATOR} SessionType=Discovery AuthMethod={method} ")
    };
    for (before, now) in [(chap(false), None), (None, chap(false))] {
        let mut harness = proving(before);
        harness.target.set_discovery(now.clone());
        assert_eq!(harness.target.discovery(), now);
        let (offered, refused) = match now {
            Some(_) => ("CHAP", "None"),
            None => ("None", "CHAP"),
        };
        let answer = say(&mut harness, 0x00, &names(offered));
        assert_eq!(keys(&answer)["AuthMethod"], offered);
        harness.close();
        let mut harness = proving(None);
        harness.target.set_discovery(now);
        let answer = say(&mut harness, 0x00, &names(refused));
        assert_eq!(answer.header.u16(36), 0x0201);
        harness.close();
    }
}

/// RFC 7143, 12.1.3: whatever is wrong with a proof is an authentication failure, and the connection ends.
#[test]
fn a_proof_that_is_none() {
    type Wrong = fn(u8, &[u8]) -> String;
    let right = |identifier: u8, challenge: &[u8]| {
        shown(&Algorithm::Md5.response(identifier, &secret_of("host"), challenge))
    };
    let wrong: [(&str, u16, Wrong); 18] = [
        ("another name", 0x0201, |i, c| {
            format!("CHAP_N=nobody CHAP_R={} ", proof(i, c))
        }),
        ("another case", 0x0201, |i, c| {
            format!("CHAP_N=HOST CHAP_R={} ", proof(i, c))
        }),
        ("the target's name", 0x0201, |i, c| {
            let own = Algorithm::Md5.response(i, &secret_of("polldm"), c);
            format!("CHAP_N=polldm CHAP_R={} ", shown(&own))
        }),
        ("another initiator's name", 0x0202, |i, c| {
            format!("CHAP_N=other CHAP_R={} ", proof(i, c))
        }),
        ("another secret", 0x0201, |i, c| {
            let own = Algorithm::Md5.response(i, &secret_of("polldm"), c);
            format!("CHAP_N=host CHAP_R={} ", shown(&own))
        }),
        ("another algorithm", 0x0201, |i, c| {
            let other = Algorithm::Sha256.response(i, &secret_of("host"), c);
            format!("CHAP_N=host CHAP_R={} ", shown(&other))
        }),
        ("another identifier", 0x0201, |i, c| {
            format!("CHAP_N=host CHAP_R={} ", proof(i.wrapping_add(1), c))
        }),
        ("cut off", 0x0201, |i, c| {
            format!("CHAP_N=host CHAP_R={} ", &proof(i, c)[..32])
        }),
        ("half a byte", 0x0201, |i, c| {
            format!("CHAP_N=host CHAP_R={} ", &proof(i, c)[..33])
        }),
        ("more than it is", 0x0201, |i, c| {
            format!("CHAP_N=host CHAP_R={}00 ", proof(i, c))
        }),
        ("much more", 0x0201, |_, _| {
            format!("CHAP_N=host CHAP_R=0x{} ", "00".repeat(3000))
        }),
        ("no digits", 0x0201, |_, _| {
            "CHAP_N=host CHAP_R=0xzz ".into()
        }),
        ("bad base64", 0x0201, |_, _| {
            "CHAP_N=host CHAP_R=0b=AAA ".into()
        }),
        ("nothing", 0x0201, |_, _| "CHAP_N=host CHAP_R= ".into()),
        ("no response", 0x0201, |_, _| "CHAP_N=host ".into()),
        ("no name", 0x0201, |i, c| format!("CHAP_R={} ", proof(i, c))),
        ("no challenge", 0x0201, |i, c| {
            format!("CHAP_N=host CHAP_R={} CHAP_I=1 ", proof(i, c))
        }),
        ("the algorithms again", 0x0200, |_, _| "CHAP_A=5 ".into()),
    ];
    for (what, status, wrong) in wrong {
        let mut harness = proving(chap(false));
        let (identifier, challenge, _) = asked(&mut harness, "5");
        assert_eq!(right(identifier, &challenge), proof(identifier, &challenge));
        let answer = say(&mut harness, 0x81, &wrong(identifier, &challenge));
        assert_eq!(answer.header.u16(36), status, "{what}");
        assert!(answer.data.is_empty(), "{what}");
        assert!(harness.session.is_farewell_sent(), "{what}");
        assert_eq!(
            harness
                .target
                .counters
                .logins_refused
                .load(std::sync::atomic::Ordering::Relaxed),
            1
        );
        harness.close();
    }
}

fn proof(identifier: u8, challenge: &[u8]) -> String {
    shown(&Algorithm::Md5.response(identifier, &secret_of("host"), challenge))
}

/// RFC 7143, 12.1.4: a challenge that comes back is not answered; nor is an initiator that asks for nothing where it has to.
#[test]
fn a_mutual_proof_that_is_none() {
    for (what, keys) in [
        ("not asked for", ""),
        ("reflected", "CHAP_I=1 CHAP_C=mirror "),
        ("an empty challenge", "CHAP_I=1 CHAP_C=0x "),
        ("no challenge", "CHAP_I=1 CHAP_C=hello "),
        ("no identifier", "CHAP_C=0x00 "),
        ("an identifier out of range", "CHAP_I=256 CHAP_C=0x00 "),
    ] {
        let mut harness = proving(chap(true));
        let (identifier, challenge, _) = asked(&mut harness, "5");
        let keys = keys.replace("mirror", &shown(&challenge));
        let text = format!(
            "CHAP_N=host CHAP_R={} {keys}",
            proof(identifier, &challenge)
        );
        let answer = say(&mut harness, 0x81, &text);
        assert_eq!(answer.header.u16(36), 0x0201, "{what}");
        assert!(answer.data.is_empty(), "{what}");
        harness.close();
    }
    // A target without a secret of its own cannot prove anything.
    let secrets = Secrets::parse("initiator host secret-of-the-host").expect("right");
    let mut harness = proving(Some(Chap {
        secrets: Arc::new(secrets),
        mutual: false,
    }));
    let (identifier, challenge, _) = asked(&mut harness, "5");
    let text = format!(
        "CHAP_N=host CHAP_R={} CHAP_I=1 CHAP_C=0x00 ",
        proof(identifier, &challenge)
    );
    assert_eq!(say(&mut harness, 0x81, &text).header.u16(36), 0x0201);
    harness.close();
}

/// No way around it: another stage, another method, other keys, nothing.
#[test]
fn a_login_without_proof() {
    let plain = format!("InitiatorName={INITIATOR} TargetName={IQN} ");
    for (flags, text, status) in [
        (0x87, plain.clone(), 0x0201),
        (0x04, plain.clone(), 0x0201),
        (0x83, plain.clone(), 0x0201),
        (0x81, format!("{plain}AuthMethod=None "), 0x0201),
        (0x81, format!("{plain}AuthMethod=KRB5 "), 0x0201),
        (0x00, format!("{plain}AuthMethod=CHAP CHAP_A=5 "), 0x0201),
        (0x00, format!("{plain}CHAP_A=5 "), 0x0201),
    ] {
        let mut harness = proving(chap(false));
        assert_eq!(
            say(&mut harness, flags, &text).header.u16(36),
            status,
            "{text}"
        );
        assert!(harness.session.member.is_none());
        harness.close();
    }
    // After the choice: nothing said, an algorithm that is none, a proof of nothing.
    for text in [
        "",
        "CHAP_A=4,9 ",
        "CHAP_A= ",
        "CHAP_N=host CHAP_R=0x00 ",
        "HeaderDigest=None ",
    ] {
        let mut harness = proving(chap(false));
        say(&mut harness, 0x00, &names());
        let status = say(&mut harness, 0x81, text).header.u16(36);
        assert_eq!(status >> 8, 2, "{text}");
        assert!(harness.session.member.is_none());
        harness.close();
    }
    // The target does not ask: keys of CHAP are no way in either.
    let mut harness = Harness::new();
    let text = format!("{plain}CHAP_N=host ");
    assert_eq!(say(&mut harness, 0x81, &text).header.u16(36), 0x0201);
    harness.close();
}
