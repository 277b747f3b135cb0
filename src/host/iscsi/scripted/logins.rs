//! Logins: what comes of them, and where they lead.

use super::{PLAIN, Peer, listen, options};
use crate::host::iscsi::Address;
use crate::host::iscsi::login::{Proof, REDIRECTIONS_MAX, login};
use crate::iscsi::chap::{Algorithm, hexadecimal};
use crate::iscsi::login::Status;
use crate::iscsi::pdu::{FINAL, Header, TRANSIT, opcode};
use crate::iscsi::secrets::Secrets;
use std::net::TcpListener;
use std::sync::Arc;

/// Logins that come to nothing, each with its sentence.
#[test]
fn a_login_that_is_refused_says_why() {
    type Script = fn(&mut Peer);
    let cases: [(&str, Script); 10] = [
        ("no target of this name", |peer| {
            peer.answer_login(0, Status::NotFound as u16, "");
        }),
        ("--initiator says", |peer| {
            peer.answer_login(0, Status::AuthorizationFailed as u16, "");
        }),
        ("\"[::1:3260,1\", which is no address", |peer| {
            let status = Status::MovedTemporarily as u16;
            peer.answer_login(0, status, "TargetAddress=[::1:3260,1");
        }),
        ("the target has moved", |peer| {
            peer.answer_login(0, Status::MovedPermanently as u16, "");
        }),
        ("status 0317h", |peer| peer.answer_login(0, 0x0317, "")),
        ("another stage", |peer| peer.answer_login(1 << 2, 0, "")),
        ("stays in the security stage", |peer| {
            peer.answer_login(0, 0, "")
        }),
        ("with something else", |peer| {
            peer.put(Header::new(opcode::NOP_IN, FINAL), &[], true);
        }),
        ("longer than it may be", |peer| {
            peer.put(Header::new(opcode::LOGIN_RESPONSE, 0), &[0; 8193], true);
        }),
        ("closed the connection", |_| {}),
    ];
    for (part, script) in cases {
        let (address, script) = listen(move |peer| {
            peer.receive_login(0);
            script(peer);
        });
        let error = login(&address, &options(false)).unwrap_err().to_string();
        assert!(error.contains(part), "{part}: {error}");
        script.join().unwrap();
    }
}

/// Digests that are refused, numbers that cannot be, and a login that goes on for ever.
#[test]
fn a_negotiation_that_comes_to_nothing_says_why() {
    for (digests, keys, part) in [
        (true, PLAIN, "does not use the header or data digests"),
        (false, "MaxBurstLength=1", "a value that it cannot have"),
        (false, "DataPDUInOrder=No", "a value that it cannot have"),
        (false, "InitialR2T=Maybe", "a value that it cannot have"),
        (false, "nothing", "no list of keys"),
    ] {
        let (address, script) = listen(move |peer| {
            peer.log_in(keys);
        });
        let error = login(&address, &options(digests)).unwrap_err().to_string();
        assert!(error.contains(part), "{part}: {error}");
        script.join().unwrap();
    }
    let (address, script) = listen(|peer| {
        peer.receive_login(0);
        peer.answer_login(TRANSIT | 1, 0, "");
        while peer.receive_or_end().is_some() {
            // C: more text follows, for ever.
            peer.answer_login(0x40 | 1 << 2, 0, "");
        }
    });
    let error = login(&address, &options(false)).unwrap_err().to_string();
    assert!(error.contains("does not come to an end"), "{error}");
    script.join().unwrap();
}

/// RFC 7143, 12.1: both proofs, and what is said of a target whose own is none.
#[test]
fn both_sides_prove_who_they_are() {
    const OWN: &str = "initiator host secret-of-the-host";
    const BOTH: &str = "initiator host secret-of-the-host\ntarget polldm secret-of-the-target";
    for (secrets, target_secret, refused) in [
        (OWN, "secret-of-the-target", None),
        (BOTH, "secret-of-the-target", None),
        (
            BOTH,
            "secret-of-another",
            Some("another than --secrets has"),
        ),
    ] {
        let (address, script) = listen(move |peer| {
            let all = format!("{OWN}\ntarget polldm {target_secret}");
            let all = Secrets::parse(&all).unwrap();
            let (header, said) = peer.receive_login(0);
            assert_eq!(
                (header.flags() & TRANSIT, &*said["AuthMethod"]),
                (0, "CHAP")
            );
            peer.answer_login(0, 0, "AuthMethod=CHAP");
            let (_, said) = peer.receive_login(0);
            assert_eq!(said["CHAP_A"], "7,8,6,5");
            peer.answer_login(0, 0, "CHAP_A=7 CHAP_I=9 CHAP_C=0x0102");
            let (_, said) = peer.receive_login(0);
            assert_eq!(said["CHAP_N"], "host");
            let secret = &all.user("host").unwrap().secret;
            let expected = Algorithm::Sha256.response(9, secret, &[1, 2]);
            assert_eq!(said["CHAP_R"], hexadecimal(&expected));
            let mut answer = String::new();
            if let Some(identifier) = said.get("CHAP_I") {
                let challenge = crate::iscsi::chap::binary(&said["CHAP_C"]).unwrap();
                let (name, secret) = all.own().unwrap();
                let identifier = identifier.parse().unwrap();
                let response = Algorithm::Sha256.response(identifier, secret, &challenge);
                answer = format!("CHAP_N={name} CHAP_R={}", hexadecimal(&response));
            }
            peer.answer_login(TRANSIT | 1, 0, &answer);
            if peer.receive_or_end().is_some() {
                peer.answer_login(TRANSIT | 1 << 2 | 3, 0, PLAIN);
            }
        });
        let mut options = options(false);
        let proof = Proof::of(&Secrets::parse(secrets).unwrap());
        options.proof = Some(Arc::new(proof.unwrap()));
        match (login(&address, &options), refused) {
            (Ok(_), None) => {}
            (Err(error), Some(part)) => {
                assert!(error.to_string().contains(part), "{error}");
            }
            (result, _) => panic!("{result:?}"),
        }
        script.join().unwrap();
    }
    let several = format!("{OWN}\ninitiator other secret-of-the-other");
    assert_eq!(Proof::of(&Secrets::parse(&several).unwrap()), None);
}

/// RFC 7143, 11.13.5: a login that is sent elsewhere goes there, for the same target.
#[test]
fn a_login_goes_where_it_is_sent() {
    for (status, tag) in [
        (Status::MovedTemporarily, ""),
        (Status::MovedPermanently, ",1"),
    ] {
        let (there, second) = listen(|peer| peer.receive_login(0).1["TargetName"].clone());
        let elsewhere = format!("TargetAddress={}:{}{tag}", there.host, there.port);
        let (address, first) = listen(move |peer| {
            let (_, said) = peer.receive_login(0);
            peer.answer_login(0, status as u16, &elsewhere);
            assert!(peer.receive_or_end().is_none());
            said["TargetName"].clone()
        });
        let error = login(&address, &options(false)).unwrap_err().to_string();
        assert!(error.contains("closed the connection"), "{error}");
        assert_eq!(first.join().unwrap(), address.iqn);
        assert_eq!(second.join().unwrap(), address.iqn);
    }
}

/// A target that sends everybody to itself is asked no more often than the bound says.
#[test]
fn a_circle_of_addresses_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = listener.local_addr().unwrap();
    let script = std::thread::spawn(move || {
        for _ in 0..=REDIRECTIONS_MAX {
            let mut peer = Peer::new(listener.accept().unwrap().0);
            peer.receive_login(0);
            let status = Status::MovedTemporarily as u16;
            peer.answer_login(0, status, &format!("TargetAddress={socket}"));
        }
    });
    let address = Address::new(socket, "iqn.2026-11.io.polldm:circle", 0);
    let error = login(&address, &options(false)).unwrap_err().to_string();
    assert!(error.contains("from one address to the next"), "{error}");
    script.join().unwrap();
}
