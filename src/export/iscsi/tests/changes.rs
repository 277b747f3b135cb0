//! Who sees what, by which way, and what changes while initiators are logged in.

use super::super::ChangeError;
use super::super::config::{LunConfig, PortalGroup, Redirect, TargetChange};
use super::super::harness::{Harness, INITIATOR, IQN, Sent, login_request};
use super::super::initiators::Initiators;
use crate::dm::{DeviceId, Status};
use crate::iscsi::pdu::{FINAL, Header, NO_TAG, opcode};
use crate::scsi::{Access, Lun};

const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const WRITE: [u8; 10] = [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const TEST_UNIT_READY: [u8; 6] = [0; 6];
const REPORT_LUNS: [u8; 12] = [0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];

fn unit(lun: u16, initiators: Initiators) -> LunConfig {
    LunConfig {
        lun,
        device: DeviceId(0),
        device_name: "vol0".into(),
        uuid: [lun as u8; 16],
        initiators,
    }
}

/// A command to a unit; what came of it.
fn to(harness: &mut Harness, lun: u16, tag: u32, cdb: &[u8], length: u32) -> Vec<Sent> {
    let mut bytes = harness.command_bytes(tag, cdb, length, 0, &[], true);
    bytes[8..16].copy_from_slice(&Lun::encode(lun));
    harness.feed(&bytes, usize::MAX);
    harness.take()
}

/// Sense key, ASC and ASCQ of a response.
fn sense(sent: &[Sent]) -> (u8, u8, u8) {
    let last = sent.last().expect("an answer");
    assert_eq!(last.header.opcode(), opcode::RESPONSE);
    assert_eq!(last.header.0[3], 2, "CHECK CONDITION");
    (last.data[4] & 0x0F, last.data[14], last.data[15])
}

fn is_good(sent: &[Sent]) -> bool {
    let last = sent.last().expect("an answer");
    last.header.opcode() == opcode::RESPONSE && last.header.0[3] == 0
        || last.header.opcode() == opcode::DATA_IN && last.header.flags() & 1 != 0
}

fn luns(harness: &mut Harness) -> Vec<u8> {
    let sent = to(harness, 0, 90, &REPORT_LUNS, 256);
    sent[0].data[8..].chunks(8).map(|lun| lun[1]).collect()
}

/// An initiator sees the units that are for it, and no others.
#[test]
fn units_of_others_are_not_there() {
    let mut harness = Harness::serving(|config| {
        let rule = |text: &str| Initiators::parse(&[text]).expect("right");
        let units = &mut config.targets[0].luns;
        units.push(unit(1, rule("iqn.2026-11.io.polldm:other")));
        units.push(unit(2, rule("iqn.2026-11.*:INIT*")));
        units.push(unit(3, rule("192.0.2.0/24")));
    });
    harness.login("HeaderDigest=None");
    assert_eq!(luns(&mut harness), [0, 2]);
    for lun in [0, 2] {
        assert_eq!(
            sense(&to(&mut harness, lun, 1, &TEST_UNIT_READY, 0)),
            (6, 0x29, 0)
        );
        assert!(is_good(&to(&mut harness, lun, 1, &READ, 512)));
    }
    for lun in [1, 3, 4] {
        assert_eq!(sense(&to(&mut harness, lun, 1, &READ, 512)), (5, 0x25, 0));
    }
    harness.close();
}

fn at(harness: &mut Harness, address: &str) {
    harness.session.local = Some(address.parse().expect("an address"));
}

fn login(harness: &mut Harness) -> Sent {
    let keys = format!("InitiatorName={INITIATOR}\0TargetName={IQN}\0");
    harness.feed(&login_request(0x87, 1, &keys), usize::MAX);
    harness.take().remove(0)
}

/// RFC 7143, 11.13.5: an initiator is sent elsewhere, and let in there.
#[test]
fn a_login_is_sent_elsewhere() {
    for (is_permanent, status) in [(false, 0x0101), (true, 0x0102)] {
        let serving = || {
            Harness::serving(|config| {
                let address = ([127, 0, 0, 1], 3261).into();
                config.targets[0].redirect = Some(Redirect {
                    address,
                    is_permanent,
                });
            })
        };
        let mut harness = serving();
        at(&mut harness, "127.0.0.1:3260");
        let answer = login(&mut harness);
        assert_eq!(answer.header.u16(36), status);
        assert_eq!(answer.data, b"TargetAddress=127.0.0.1:3261\0");
        assert!(harness.session.is_farewell_sent());
        harness.close();
        let mut harness = serving();
        at(&mut harness, "127.0.0.1:3261");
        assert_eq!(login(&mut harness).header.u16(36), 0);
        harness.close();
    }
}

/// RFC 7143, 4.1.1.1 and appendix C: a target is there through its portal groups, each with its tag.
#[test]
fn portal_groups_are_ways_of_their_own() {
    let serving = |groups: &[u16]| {
        Harness::serving(|config| {
            config.groups.push(PortalGroup {
                tag: 7,
                portals: vec![([0, 0, 0, 0], 3261).into()],
            });
            let groups = groups.iter().map(|&tag| (tag, Access::Optimized));
            config.targets[0].groups = groups.collect();
        })
    };
    for (groups, address, status, expected) in [
        (&[1, 7][..], "127.0.0.1:3260", 0, "1"),
        (&[1, 7], "192.0.2.1:3261", 0, "7"),
        (&[7], "192.0.2.1:3261", 0, "7"),
        (&[7], "127.0.0.1:3260", 0x0203, ""),
    ] {
        let mut harness = serving(groups);
        at(&mut harness, address);
        let answer = login(&mut harness);
        assert_eq!(answer.header.u16(36), status);
        let text = String::from_utf8(answer.data).expect("text");
        let tag = format!("TargetPortalGroupTag={expected}\0");
        assert_eq!(text.contains(&tag), status == 0, "{text}");
        harness.close();
    }
    let mut harness = serving(&[7]);
    at(&mut harness, "192.0.2.1:3260");
    let keys = format!("InitiatorName={INITIATOR}\0SessionType=Discovery\0");
    harness.feed(&login_request(0x87, 1, &keys), usize::MAX);
    harness.take();
    let mut request = Header::new(opcode::TEXT | 0x40, FINAL);
    request.put(16, 9);
    request.put(20, NO_TAG);
    request.put(24, 1);
    let bytes = harness.pdu(request, b"SendTargets=All\0");
    harness.feed(&bytes, usize::MAX);
    let expected = format!("TargetName={IQN}\0TargetAddress=192.0.2.1:3261,7\0");
    assert_eq!(harness.take()[0].data, expected.as_bytes());
    harness.close();
}

/// RFC 7143, 11.9 and SPC-4, 6.33: a new unit is told of by a message and a unit attention, and is there.
#[test]
fn a_unit_comes_and_goes() {
    let mut harness = Harness::new();
    harness.login("HeaderDigest=None");
    harness.attend();
    let mut added = unit(5, Initiators::Any);
    added.device = DeviceId(1);
    let id = harness.target.add_unit(IQN, &added).expect("it is new");
    harness.changed(id);
    let told = harness.take().remove(0);
    assert_eq!(told.header.opcode(), opcode::ASYNC);
    assert_eq!((told.header.task_tag(), told.header.0[36]), (NO_TAG, 0));
    assert_eq!(told.data[..2], [0, 18]);
    assert_eq!(
        (told.data[4], told.data[14], told.data[15]),
        (6, 0x3F, 0x0E)
    );
    // Nothing is said twice.
    harness.changed(id);
    assert!(harness.take().is_empty());
    // Who asks is not told any more; what else waits stays.
    assert_eq!(luns(&mut harness), [0, 5]);
    assert!(is_good(&to(&mut harness, 0, 1, &READ, 512)));
    assert_eq!(
        sense(&to(&mut harness, 5, 1, &TEST_UNIT_READY, 0)),
        (6, 0x29, 0)
    );
    assert!(is_good(&to(&mut harness, 5, 1, &READ, 512)));

    // Taken away with one command at the device and one whose data is still to come: nobody has asked for their end, so both are answered.
    harness.backend.hold = true;
    assert!(to(&mut harness, 5, 2, &READ, 512).is_empty());
    let mut bytes = harness.command_bytes(3, &WRITE, 0, 512, &[], true);
    bytes[8..16].copy_from_slice(&Lun::encode(5));
    harness.feed(&bytes, usize::MAX);
    let asked = harness.take();
    assert_eq!(asked[0].header.opcode(), opcode::READY);
    harness.target.remove_unit(IQN, 5).expect("it is there");
    harness.changed(id);
    let told = harness.take();
    assert_eq!((told.len(), told[1].header.opcode()), (2, opcode::ASYNC));
    assert_eq!(
        (told[0].header.task_tag(), sense(&told[..1])),
        (3, (5, 0x25, 0))
    );
    harness.backend.status = Status::Aborted;
    harness.finish();
    let ended = harness.take();
    assert_eq!((ended[0].header.task_tag(), sense(&ended).0), (2, 0x0B));
    harness.backend.hold = false;
    harness.backend.status = Status::Ok;
    assert_eq!(sense(&to(&mut harness, 5, 1, &READ, 512)), (5, 0x25, 0));
    assert_eq!(sense(&to(&mut harness, 0, 1, &READ, 512)), (6, 0x3F, 0x0E));
    assert_eq!(luns(&mut harness), [0]);

    // Another unit of that number is another: what was known of the old one is not believed.
    harness.target.add_unit(IQN, &added).expect("it is new");
    harness.changed(id);
    harness.take();
    assert_eq!(sense(&to(&mut harness, 5, 1, &READ, 512)), (6, 0x29, 0));
    harness.close();
}

/// SPC-4, 5.15.2: what an initiator may do depends on the state of the way it came; it is told when that changes.
#[test]
fn a_way_that_is_standing_by() {
    let mut harness = Harness::new();
    harness.login("HeaderDigest=None");
    harness.attend();
    for (access, code) in [(Access::Standby, 0x0B), (Access::Unavailable, 0x0C)] {
        let id = harness
            .target
            .set_access(IQN, 1, access)
            .expect("it is there");
        harness.changed(id.expect("another state"));
        assert_eq!(sense(&to(&mut harness, 0, 1, &READ, 512)), (6, 0x2A, 0x06));
        assert_eq!(sense(&to(&mut harness, 0, 1, &READ, 512)), (2, 0x04, code));
        let report = [0xA3, 0x0A, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
        let sent = to(&mut harness, 0, 1, &report, 256);
        assert_eq!(sent[0].data[4..8], [access as u8, 0x0F, 0, 1]);
    }
    assert_eq!(
        harness.target.set_access(IQN, 1, Access::Unavailable),
        Ok(None)
    );
    assert!(harness.target.set_access(IQN, 2, Access::Standby).is_err());
    let id = harness.target.set_access(IQN, 1, Access::NonOptimized);
    harness.changed(id.expect("it is there").expect("another state"));
    assert_eq!(sense(&to(&mut harness, 0, 1, &READ, 512)), (6, 0x2A, 0x06));
    assert!(is_good(&to(&mut harness, 0, 1, &READ, 512)));
    harness.close();
}

/// A target that is removed ends its sessions, which are told, and what they have at devices.
#[test]
fn a_removed_target_ends_its_sessions() {
    let mut harness = Harness::new();
    harness.login("HeaderDigest=None");
    harness.attend();
    harness.backend.hold = true;
    assert!(to(&mut harness, 0, 2, &READ, 512).is_empty());
    let (id, _) = harness.target.remove_target(IQN).expect("it is there");
    harness.changed(id);
    let told = harness.take();
    assert_eq!((told.len(), told[0].header.opcode()), (1, opcode::ASYNC));
    assert!(harness.session.is_farewell_sent());
    harness.backend.status = Status::Aborted;
    harness.finish();
    assert!(harness.take().is_empty());
    harness.close();
}

/// A unit that is masked goes from the initiators that no longer see it, with their commands, and is new to them when they see it again.
#[test]
fn a_unit_is_hidden_and_shown() {
    let mut harness = Harness::new();
    harness.login("HeaderDigest=None");
    harness.attend();
    let rule = |text: &str| Initiators::parse(&[text]).expect("right");
    let mine = |harness: &mut Harness| {
        let id = harness.target.set_unit(IQN, 0, rule(INITIATOR));
        harness.changed(id.expect("it is there"));
    };
    mine(&mut harness);
    assert!(harness.take().is_empty(), "it is seen as before");

    harness.backend.hold = true;
    assert!(to(&mut harness, 0, 2, &READ, 512).is_empty());
    let other = rule("iqn.2026-11.io.polldm:other");
    let id = harness.target.set_unit(IQN, 0, other).expect("it is there");
    harness.changed(id);
    let told = harness.take();
    assert_eq!((told.len(), told[0].header.opcode()), (1, opcode::ASYNC));
    harness.backend.status = Status::Aborted;
    harness.finish();
    assert_eq!(sense(&harness.take()).0, 0x0B);
    harness.backend.hold = false;
    harness.backend.status = Status::Ok;
    assert_eq!(sense(&to(&mut harness, 0, 1, &READ, 512)), (5, 0x25, 0));
    let nexuses = harness.target.nexuses_of(id);
    let served = harness.target.get(id).expect("it is there");
    assert!(!served.units[0].unit.knows(nexuses[0].0));

    mine(&mut harness);
    assert_eq!(harness.take()[0].header.opcode(), opcode::ASYNC);
    assert_eq!(sense(&to(&mut harness, 0, 1, &READ, 512)), (6, 0x29, 0));
    assert_eq!(sense(&to(&mut harness, 0, 1, &READ, 512)), (6, 0x3F, 0x0E));
    assert!(is_good(&to(&mut harness, 0, 1, &READ, 512)));
    harness.close();
}

/// Who may no longer log in goes, with its commands; who may stays, whatever it would have to prove now and wherever others are sent.
#[test]
fn a_target_is_for_others() {
    let mut harness = Harness::new();
    harness.login("HeaderDigest=None");
    harness.attend();
    let rule = |text: &str| Initiators::parse(&[text]).expect("right");
    let stays = TargetChange {
        initiators: Some(rule(INITIATOR)),
        redirect: Some(Some(Redirect {
            address: ([127, 0, 0, 1], 3261).into(),
            is_permanent: false,
        })),
        ..TargetChange::default()
    };
    let id = harness.target.set_target(IQN, &stays).expect("it is there");
    harness.changed(id);
    assert!(harness.take().is_empty());
    assert!(is_good(&to(&mut harness, 0, 1, &READ, 512)));

    harness.backend.hold = true;
    assert!(to(&mut harness, 0, 2, &READ, 512).is_empty());
    let goes = TargetChange {
        initiators: Some(rule("192.0.2.0/24")),
        ..TargetChange::default()
    };
    harness.target.set_target(IQN, &goes).expect("it is there");
    let served = harness.target.get(id).expect("it is there");
    assert!(served.redirect.is_some(), "what is not said stays");
    harness.changed(id);
    let told = harness.take();
    assert_eq!((told.len(), told[0].header.opcode()), (1, opcode::ASYNC));
    assert!(harness.session.is_farewell_sent());
    harness.backend.status = Status::Aborted;
    harness.finish();
    assert!(harness.take().is_empty());
    harness.close();
}

fn ways(groups: &[u16]) -> TargetChange {
    TargetChange {
        groups: Some(groups.to_vec()),
        ..TargetChange::default()
    }
}

/// Tags and states of REPORT TARGET PORT GROUPS.
fn reported(harness: &mut Harness) -> Vec<(u8, u8)> {
    let report = [0xA3, 0x0A, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    let data = to(harness, 0, 1, &report, 256).remove(0).data;
    let groups = data[4..].chunks(12);
    groups.map(|group| (group[3], group[0])).collect()
}

/// A portal group that was not there at the start: a target is reached through it when it is told so, initiators are told of the new way, and
/// those that came by one that goes go with it.
#[test]
fn a_way_comes_and_goes() {
    let mut harness = Harness::new();
    harness.login("HeaderDigest=None");
    harness.attend();
    assert_eq!(
        harness.target.set_target(IQN, &ways(&[1, 2])),
        Err(ChangeError::NoGroup(2))
    );
    let second = "127.0.0.1:3261".parse().expect("an address");
    harness.target.listens(second, 2);
    assert_eq!(harness.target.groups(), [1, 2]);
    assert_eq!(reported(&mut harness), [(1, 0)], "nobody has said so");
    let standby = harness.target.set_access(IQN, 1, Access::Standby);
    harness.changed(standby.expect("it is there").expect("another state"));
    assert_eq!(
        sense(&to(&mut harness, 0, 1, &TEST_UNIT_READY, 0)),
        (6, 0x2A, 6)
    );
    let change = TargetChange {
        explicit_alua: Some(true),
        ..ways(&[1, 2])
    };
    let id = harness.target.set_target(IQN, &change).expect("a group");
    harness.changed(id);
    assert_eq!(
        sense(&to(&mut harness, 0, 1, &TEST_UNIT_READY, 0)),
        (6, 0x2A, 6)
    );
    assert_eq!(
        sense(&to(&mut harness, 0, 1, &TEST_UNIT_READY, 0)),
        (6, 0x3F, 3)
    );
    assert_eq!(
        reported(&mut harness),
        [(1, 2), (2, 0)],
        "what was there stays"
    );
    // A way goes that nobody came by; then the one that the session came by, with its command.
    harness
        .target
        .set_target(IQN, &ways(&[1]))
        .expect("a group");
    harness.changed(id);
    assert_eq!(
        sense(&to(&mut harness, 0, 1, &TEST_UNIT_READY, 0)),
        (6, 0x2A, 6)
    );
    assert_eq!(reported(&mut harness), [(1, 2)]);
    let optimized = harness.target.set_access(IQN, 1, Access::Optimized);
    harness.changed(optimized.expect("it is there").expect("another state"));
    sense(&to(&mut harness, 0, 1, &TEST_UNIT_READY, 0));
    harness.backend.hold = true;
    assert!(to(&mut harness, 0, 2, &READ, 512).is_empty());
    harness
        .target
        .set_target(IQN, &ways(&[2]))
        .expect("a group");
    harness.changed(id);
    let told = harness.take();
    assert_eq!((told.len(), told[0].header.opcode()), (1, opcode::ASYNC));
    assert!(harness.session.is_farewell_sent());
    harness.backend.status = Status::Aborted;
    harness.finish();
    // Without its last portal the group is no more; who is reached through it can stay so, and nobody else can come to be.
    harness.target.close_portal(second).expect("it listens");
    assert_eq!(harness.target.groups(), [1]);
    harness
        .target
        .set_target(IQN, &ways(&[2, 1]))
        .expect("it has been");
    harness
        .target
        .set_target(IQN, &ways(&[1]))
        .expect("a group");
    assert_eq!(
        harness.target.set_target(IQN, &ways(&[2])),
        Err(ChangeError::NoGroup(2))
    );
    harness.close();
}

/// Whoever comes by a way is let in there or not, as it is now; also who was half way in.
#[test]
fn a_login_by_a_way_that_is_new() {
    for (groups, half_way, status) in [
        (&[1, 2][..], None, 0),
        (&[1], None, 0x0203),
        (&[1, 2], Some(&[1][..]), 0x0203),
    ] {
        let mut harness = Harness::new();
        let second = "127.0.0.1:3261";
        harness
            .target
            .listens(second.parse().expect("an address"), 2);
        let change = |harness: &mut Harness, groups: &[u16]| {
            let id = harness.target.set_target(IQN, &ways(groups));
            harness.changed(id.expect("a group"));
        };
        change(&mut harness, groups);
        at(&mut harness, second);
        let mut answer = if let Some(then) = half_way {
            let keys = format!("InitiatorName={INITIATOR}\0TargetName={IQN}\0");
            harness.feed(&login_request(0x04, 1, &keys), usize::MAX);
            assert_eq!(harness.take().remove(0).header.u16(36), 0);
            change(&mut harness, then);
            harness.feed(&login_request(0x87, 1, ""), usize::MAX);
            harness.take()
        } else {
            vec![login(&mut harness)]
        };
        assert_eq!(answer.remove(0).header.u16(36), status);
        harness.close();
    }
}

/// An initiator that loses its right while it logs in is not let in.
#[test]
fn a_login_is_overtaken() {
    let mut harness = Harness::new();
    let keys = format!("InitiatorName={INITIATOR}\0TargetName={IQN}\0");
    // Operational negotiation, without the transit bit: it goes on.
    harness.feed(&login_request(0x04, 1, &keys), usize::MAX);
    assert_eq!(harness.take().remove(0).header.u16(36), 0);
    let change = TargetChange {
        initiators: Some(Initiators::parse(&["192.0.2.0/24"]).expect("right")),
        ..TargetChange::default()
    };
    let id = harness
        .target
        .set_target(IQN, &change)
        .expect("it is there");
    harness.changed(id);
    harness.feed(&login_request(0x87, 1, ""), usize::MAX);
    assert_eq!(harness.take().remove(0).header.u16(36), 0x0202);
    harness.close();
}

/// A target that stops says that its initiators may come again.
#[test]
fn a_stop_is_announced() {
    let mut harness = Harness::new();
    harness.session.announce_end();
    assert!(
        harness.take().is_empty(),
        "before the login there is nobody to be told"
    );
    harness.login("HeaderDigest=None");
    harness.session.announce_end();
    harness.drain();
    let told = harness.take().remove(0);
    assert_eq!(
        (told.header.opcode(), told.header.0[36]),
        (opcode::ASYNC, 3)
    );
    assert_eq!((told.header.u16(40), told.header.u16(42)), (2, 0));
    harness.close();
}

/// What cannot be is refused, and nothing has changed then.
#[test]
fn changes_that_cannot_be() {
    let harness = Harness::new();
    let target = &harness.target;
    let added = unit(0, Initiators::Any);
    assert!(target.add_unit(IQN, &added).is_err(), "the number");
    assert!(
        target.add_unit(IQN, &unit(1, Initiators::Any)).is_err(),
        "the device"
    );
    assert!(target.add_unit("iqn.x", &added).is_err());
    assert!(target.remove_unit(IQN, 1).is_err());
    assert!(target.set_unit(IQN, 1, Initiators::Any).is_err());
    assert!(
        target
            .set_target("iqn.x", &TargetChange::default())
            .is_err()
    );
    let nowhere = ([127, 0, 0, 1], 9).into();
    assert_eq!(
        target.close_portal(nowhere),
        Err(ChangeError::UnknownPortal(nowhere))
    );
    assert!(target.remove_target("iqn.x").is_err());
    let (_, devices) = target
        .remove_target(&IQN.to_uppercase())
        .expect("it is there");
    assert_eq!(devices, [DeviceId(0)]);
    assert!(target.targets().is_empty());
    harness.close();
}
