//! SET TARGET PORT GROUPS: an initiator changes how well a target is reached.

use super::super::config::PortalGroup;
use super::super::harness::{Harness, IQN, Sent};
use crate::iscsi::pdu::opcode;
use crate::scsi::Access;

const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];

fn start(is_explicit: bool) -> Harness {
    let mut harness = Harness::serving(|config| {
        config.groups.push(PortalGroup {
            tag: 2,
            portals: vec![([127, 0, 0, 1], 3261).into()],
        });
        config.targets[0].groups.push((2, Access::Optimized));
        config.targets[0].explicit_alua = is_explicit;
    });
    harness.login("InitialR2T=No");
    harness.attend();
    harness
}

fn ask(harness: &mut Harness, cdb: &[u8], length: u32) -> Vec<Sent> {
    harness.command(51, cdb, length, &[]);
    harness.take()
}

fn set_cdb(list: &[u8]) -> [u8; 12] {
    let mut cdb = [0xA4, 0x0A, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    cdb[9] = list.len() as u8;
    cdb
}

fn set(harness: &mut Harness, list: &[u8]) -> Vec<Sent> {
    harness.command(50, &set_cdb(list), 0, list);
    harness.take()
}

/// Sense key, ASC and ASCQ.
fn sense(sent: &[Sent]) -> (u8, u8, u8) {
    assert_eq!((sent.len(), sent[0].header.0[3]), (1, 2));
    (sent[0].data[4] & 0x0F, sent[0].data[14], sent[0].data[15])
}

fn is_good(sent: &[Sent]) -> bool {
    let ends = sent[0].header.opcode() == opcode::RESPONSE || sent[0].header.flags() & 1 != 0;
    sent.len() == 1 && ends && sent[0].header.0[3] == 0
}

/// Each group, its state, and who has changed it: nobody, an initiator, an operator.
fn report(harness: &mut Harness) -> Vec<(u8, u8, u8)> {
    let cdb = [0xA3, 0x0A, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0];
    let data = ask(harness, &cdb, 64).remove(0).data;
    let groups = data[4..].chunks(12);
    groups.map(|group| (group[3], group[0], group[5])).collect()
}

/// TPGS and 3PC, with all that is in their byte of the standard INQUIRY data.
fn mode(harness: &mut Harness) -> u8 {
    ask(harness, &[0x12, 0, 0, 0, 36, 0], 36).remove(0).data[5]
}

/// Whether REPORT SUPPORTED OPERATION CODES knows the command.
fn is_listed(harness: &mut Harness) -> bool {
    let cdb = [0xA3, 0x0C, 2, 0xA4, 0, 0x0A, 0, 0, 0, 64, 0, 0];
    ask(harness, &cdb, 64).remove(0).data[1] & 7 == 3
}

/// Where initiators may not, there is no such command.
#[test]
fn an_implicit_target_has_no_such_command() {
    let mut harness = start(false);
    let refused = set(&mut harness, &[0, 0, 0, 0, 2, 0, 0, 1]);
    assert_eq!(sense(&refused), (5, 0x20, 0));
    assert_eq!((mode(&mut harness), is_listed(&mut harness)), (0x18, false));
    harness.close();
}

/// A list holds as a whole or not at all; what it says is so when it is answered, and the others are told.
#[test]
fn an_initiator_sets_target_port_groups() {
    let mut harness = start(true);
    assert_eq!((mode(&mut harness), is_listed(&mut harness)), (0x38, true));
    assert_eq!(report(&mut harness), [(1, 0, 0), (2, 0, 0)]);
    // No such group, no such state, one of them twice.
    for wrong in [[1, 0, 0, 9], [0x0F, 0, 0, 2], [1, 0, 0, 1]] {
        let list = [&[0, 0, 0, 0, 2, 0, 0, 1][..], &wrong].concat();
        assert_eq!(sense(&set(&mut harness, &list)), (5, 0x26, 0));
    }
    assert_eq!(report(&mut harness), [(1, 0, 0), (2, 0, 0)]);
    let both = [0, 0, 0, 0, 2, 0, 0, 1, 1, 0, 0, 2];
    assert!(is_good(&set(&mut harness, &both)));
    assert_eq!(report(&mut harness), [(1, 2, 1), (2, 1, 1)]);
    // Who has made it so is not told what it knows, and can undo it by a way that stands by.
    assert_eq!(sense(&ask(&mut harness, &READ, 512)), (2, 0x04, 0x0B));
    assert!(is_good(&set(&mut harness, &[0, 0, 0, 0, 0, 0, 0, 1])));
    assert!(is_good(&ask(&mut harness, &READ, 512)));
    // What an operator changes it is told, and that it was him.
    let changed = harness.target.set_access(IQN, 2, Access::Standby);
    harness.changed(changed.expect("known").expect("another"));
    assert_eq!(sense(&ask(&mut harness, &READ, 512)), (6, 0x2A, 6));
    assert_eq!(report(&mut harness), [(1, 0, 1), (2, 2, 2)]);
    // So it is with what another initiator changes.
    let id = harness.session.target().expect("logged in");
    let other = crate::scsi::NexusId(77);
    assert!(
        harness
            .target
            .set_states(id, &[(2, Access::Optimized)], other)
    );
    harness.changed(id);
    assert_eq!(sense(&ask(&mut harness, &READ, 512)), (6, 0x2A, 6));
    harness.close();
}

/// A connection that breaks while cores have not answered is over when they have.
#[test]
fn a_broken_connection_waits_for_the_cores() {
    let mut harness = start(true);
    let list = [0, 0, 0, 0, 1, 0, 0, 1];
    let bytes = harness.command_bytes(56, &set_cdb(&list), 0, 8, &list, true);
    harness.with(|session, cx| {
        let room = session.input(cx).expect("room")[1];
        assert!(room.iov_len >= bytes.len());
        // SAFETY: `input` says that so much may be written there.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), room.iov_base.cast(), bytes.len()) };
        session.received(bytes.len(), cx);
        session.kill(cx);
        assert!(!session.is_finished());
    });
    harness.drain();
    harness.close();
}
