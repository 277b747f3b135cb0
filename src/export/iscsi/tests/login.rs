//! Logins and texts.

use super::super::harness::{Harness, INITIATOR, IQN, encode, login_request};
use crate::iscsi::pdu::{FINAL, Header, NO_TAG, opcode};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\0', " ")
}

/// RFC 7143, 11.13: a session has a number, a portal group, and a window of commands.
#[test]
fn a_login_in_one_request() {
    let mut harness = Harness::new();
    let response = harness.login("HeaderDigest=None MaxRecvDataSegmentLength=262144");
    assert_eq!(response.header.flags(), 0x87);
    assert_ne!(response.header.u16(14), 0, "TSIH");
    let (expected, most) = (response.header.u32(28), response.header.u32(32));
    assert_eq!((expected, most), (1, 256));
    let keys = text(&response.data);
    assert!(keys.contains("TargetPortalGroupTag=1 "), "{keys}");
    assert!(keys.contains("MaxRecvDataSegmentLength=65536 "), "{keys}");
    harness.close();
}

#[test]
fn a_login_in_two_stages_and_pieces() {
    let mut harness = Harness::new();
    let names = format!("InitiatorName={INITIATOR}\0Target");
    harness.feed(&login_request(0x40, 1, &names), 7);
    assert_eq!(harness.take()[0].header.u16(36), 0);
    let rest = format!("Name={IQN}\0AuthMethod=CHAP,None\0");
    harness.feed(&login_request(0x81, 1, &rest), 5);
    let answer = harness.take().remove(0);
    assert_eq!(answer.header.flags(), 0x81);
    assert!(text(&answer.data).contains("AuthMethod=None"));
    harness.feed(&login_request(0x87, 1, "InitialR2T=No\0"), 1);
    let answer = harness.take().remove(0);
    assert_eq!((answer.header.flags(), answer.header.u16(36)), (0x87, 0));
    assert!(harness.session.member.is_some());
    harness.close();
}

/// RFC 7143, 11.13.5: each reason has its status, and the connection ends.
#[test]
fn logins_that_are_refused() {
    let named = |keys: &str| format!("InitiatorName={INITIATOR}\0{}\0", keys.replace(' ', "\0"));
    let to = |keys: &str| named(&format!("TargetName={IQN} {keys}"));
    for (flags, keys, status) in [
        (0x87, "SessionType=Normal\0".to_owned(), 0x0207),
        (0x87, named("SessionType=Normal"), 0x0207),
        (
            0x87,
            named("TargetName=iqn.2026-11.io.polldm:other"),
            0x0203,
        ),
        (0x87, to("SessionType=Other"), 0x0209),
        (0x87, to("InitialR2T=No InitialR2T=No"), 0x0200),
        (0x83, to("AuthMethod=CHAP"), 0x0201),
        (0x80, to("AuthMethod=None"), 0x0200),
        (0xC7, to("AuthMethod=None"), 0x0200),
        (0x8B, to(""), 0x0200),
        (0x86, to(""), 0x0200),
    ] {
        let mut harness = Harness::new();
        harness.feed(&login_request(flags, 1, &keys), usize::MAX);
        let sent = harness.take();
        assert_eq!(sent.len(), 1, "{keys}");
        assert_eq!(sent[0].header.u16(36), status, "{keys}");
        assert!(harness.session.is_farewell_sent());
        harness.close();
    }
    let mut harness = Harness::new();
    let command = Header::new(opcode::COMMAND, FINAL);
    harness.feed(&encode(&command, &[], (false, false)), usize::MAX);
    assert_eq!(harness.take()[0].header.u16(36), 0x020B);
    harness.close();
}

/// RFC 7143, appendix C.
#[test]
fn discovery_shows_targets_and_their_portals() {
    let mut harness = Harness::new();
    let keys = format!("InitiatorName={INITIATOR}\0SessionType=Discovery\0");
    harness.feed(&login_request(0x87, 1, &keys), usize::MAX);
    assert_eq!(harness.take()[0].header.u16(36), 0);
    let mut request = Header::new(opcode::TEXT | 0x40, FINAL);
    request.put(16, 9);
    request.put(20, NO_TAG);
    request.put(24, 1);
    let bytes = harness.pdu(request, b"SendTargets=All\0");
    harness.feed(&bytes, usize::MAX);
    let answer = harness.take().remove(0);
    assert_eq!(answer.header.opcode(), opcode::TEXT_RESPONSE);
    let expected = format!("TargetName={IQN} TargetAddress=127.0.0.1:3260,1 ");
    assert_eq!(text(&answer.data), expected);
    // There are no commands in it.
    harness.command(1, &[0; 6], 0, &[]);
    assert_eq!(harness.take()[0].header.opcode(), opcode::REJECT);
    harness.close();
}

#[test]
fn a_ping_comes_back_and_a_logout_ends_the_session() {
    let mut harness = Harness::new();
    harness.login("DataDigest=CRC32C HeaderDigest=CRC32C");
    let mut ping = Header::new(opcode::NOP_OUT | 0x40, FINAL);
    ping.put(16, 5);
    ping.put(20, NO_TAG);
    ping.put(24, 1);
    let bytes = harness.pdu(ping, b"hello");
    harness.feed(&bytes, 3);
    let answer = harness.take().remove(0);
    assert_eq!(answer.header.opcode(), opcode::NOP_IN);
    assert_eq!(
        (answer.header.task_tag(), &answer.data[..]),
        (5, &b"hello"[..])
    );
    let mut logout = Header::new(opcode::LOGOUT | 0x40, FINAL);
    logout.put(16, 6);
    logout.put(24, 1);
    let bytes = harness.pdu(logout, &[]);
    harness.feed(&bytes, usize::MAX);
    let answer = harness.take().remove(0);
    assert_eq!(answer.header.opcode(), opcode::LOGOUT_RESPONSE);
    assert_eq!(answer.header.0[2], 0);
    assert!(harness.session.is_farewell_sent());
    harness.close();
}
