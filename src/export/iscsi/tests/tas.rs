//! What becomes of commands that another initiator ends: TASK ABORTED with TAS, nothing without (SAM-5, 5.6).

use std::rc::Rc;

use super::super::harness::{Harness, data_out, management};
use super::super::message::{Message, Whose};
use super::super::unit::LunSet;
use super::line::{ORDERED, READ, SIMPLE, TEST_UNIT_READY, WRITE};
use super::line::{answered, begun, manage, send, start};
use crate::dm::{CoreId, Op};
use crate::export::frame::SessionKey;
use crate::iscsi::pdu::opcode;
use crate::scsi::Outcome;

const TASK_ABORTED: u8 = 0x40;

/// Sets TAS, or clears it.
fn set_tas(harness: &mut Harness, tas: bool) {
    let mut list = vec![0; 16];
    list[4..8].copy_from_slice(&[0x0A, 10, 0x20, 0x10]);
    list[9] = u8::from(tas) << 6;
    list[12..14].fill(0xFF);
    send(harness, 70, SIMPLE, &[0x15, 0x10, 0, 0, 16, 0], &list);
    assert_eq!(answered(harness), [(70, 0)]);
}

/// A session on another core has reset the unit, or sent a PREEMPT AND ABORT that concerns this session: what its core tells ours.
pub(super) fn ended_by_another(harness: &mut Harness, preempts: bool, tas: bool) {
    let (target, _) = harness.target.targets().remove(0);
    let member = harness.session.member.as_ref();
    let nexus = member.and_then(|member| member.nexus.as_ref());
    let own = nexus.expect("it is logged in").1.id;
    let other = SessionKey {
        core: CoreId(1),
        index: 0,
        generation: 0,
    };
    let message = Message::Abort {
        target,
        lun: Some(0),
        whose: if preempts {
            Whose::Of(own)
        } else {
            Whose::Everybodys
        },
        tells: tas.then_some(0).into_iter().collect(),
        from: Some((other, 7)),
    };
    harness.local.outbox.push((CoreId(0), message));
    harness.drain();
}

/// Sense key and code of what TEST UNIT READY says.
pub(super) fn sense(harness: &mut Harness) -> (u8, u8) {
    send(harness, 71, SIMPLE, &TEST_UNIT_READY, &[]);
    let sent = harness.take().remove(0);
    if sent.data.is_empty() {
        return (0, 0);
    }
    (sent.data[4] & 0x0F, sent.data[14])
}

/// Whether the other core has been told that the commands are gone.
fn is_answered(harness: &mut Harness) -> bool {
    let told = std::mem::take(&mut harness.elsewhere);
    let number = |(core, message): &(CoreId, Message)| match message {
        Message::Aborted(_, number) => (*core, *number) == (CoreId(1), 7),
        _ => false,
    };
    told.iter().any(number)
}

/// Commands in every state: one at the device, one whose data has not come, one in line.
fn in_every_state() -> (Harness, u32) {
    let mut harness = start();
    send(&mut harness, 1, SIMPLE, &WRITE, &[1; 512]);
    let bytes = harness.command_bytes(2, &WRITE, 0, 512, &[], true);
    harness.feed(&bytes, usize::MAX);
    let ready = harness.take().remove(0).header.u32(20);
    send(&mut harness, 3, ORDERED, &READ, &[]);
    assert_eq!(begun(&mut harness), [Op::Write]);
    (harness, ready)
}

/// With TAS each is answered with TASK ABORTED, the one at the device when it is back, and there is no unit attention for that.
#[test]
fn with_tas_each_is_answered() {
    let (mut harness, ready) = in_every_state();
    ended_by_another(&mut harness, true, true);
    let aborted = [2, 3].map(|tag| (tag, TASK_ABORTED));
    assert_eq!(answered(&mut harness), aborted);
    assert!(!is_answered(&mut harness), "one is at the device");
    // Its tag and its place in the window are its own until then.
    assert_eq!(harness.session.outstanding(), 1);
    harness.finish();
    assert_eq!(answered(&mut harness), [(1, TASK_ABORTED)]);
    assert!(is_answered(&mut harness));
    // What was asked for may still come, and is nobody's.
    let bytes = harness.pdu(data_out(2, ready, 0, 0, true), &[2; 512]);
    harness.feed(&bytes, usize::MAX);
    assert!(harness.take().is_empty());
    assert_eq!(sense(&mut harness), (0, 0));
    harness.close();
}

/// Without TAS nothing is answered; PREEMPT AND ABORT leaves a unit attention with those who had commands, a reset has left its own.
#[test]
fn without_tas_nothing_is_answered() {
    for (preempts, attention) in [(true, (6, 0x2F)), (false, (0, 0))] {
        let (mut harness, _) = in_every_state();
        ended_by_another(&mut harness, preempts, false);
        harness.finish();
        assert!(harness.take().is_empty());
        assert!(is_answered(&mut harness));
        assert_eq!(sense(&mut harness), attention);
        // Nothing was there to be ended.
        ended_by_another(&mut harness, preempts, false);
        assert_eq!(sense(&mut harness), (0, 0));
        harness.close();
    }
}

/// What an initiator has aborted itself is not answered because another comes after it, and not the other way round either.
#[test]
fn the_initiators_own_abort_has_the_last_word() {
    for own_first in [true, false] {
        let mut harness = start();
        send(&mut harness, 1, SIMPLE, &READ, &[]);
        let abort = |harness: &mut Harness| {
            let request = management(2, 90, 0, harness.command_sn);
            let bytes = harness.pdu(request, &[]);
            harness.feed(&bytes, usize::MAX);
        };
        if own_first {
            abort(&mut harness);
        }
        ended_by_another(&mut harness, true, true);
        if !own_first {
            abort(&mut harness);
        }
        harness.finish();
        let sent = harness.take();
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].header.opcode(), opcode::TASK_MANAGEMENT_RESPONSE);
        assert!(is_answered(&mut harness));
        harness.close();
    }
}

/// TAS is about what others end. What the initiator resets itself is not answered; and the cores are told how TAS was before the reset.
#[test]
fn a_reset_tells_the_cores_of_tas() {
    for function in [5, 6, 7] {
        for tas in [false, true] {
            let mut harness = start();
            set_tas(&mut harness, tas);
            send(&mut harness, 1, SIMPLE, &READ, &[]);
            let request = management(function, 90, 0, harness.command_sn);
            let mut told = None;
            harness.with(|session, cx| session.manage(&request, cx));
            for (_, message) in &harness.local.outbox {
                if let Message::Abort { tells, .. } = message {
                    told = Some(tells.has(0));
                }
            }
            // The connections end with a cold reset.
            assert_eq!(told, Some(tas && function != 7), "{function}");
            harness.drain();
            harness.finish();
            let sent = harness.take();
            assert_eq!(sent.len(), 1, "the function, and no command");
            assert_eq!(sent[0].header.opcode(), opcode::TASK_MANAGEMENT_RESPONSE);
            harness.close();
        }
    }
    // A reset begins with TAS as at power on.
    let mut harness = start();
    set_tas(&mut harness, true);
    assert_eq!(manage(&mut harness, 5, 0).header.0[2], 0);
    assert_eq!(sense(&mut harness), (6, 0x29));
    let control = [0x1A, 8, 0x0A, 0, 64, 0];
    let bytes = harness.command_bytes(1, &control, 64, 0, &[], true);
    harness.feed(&bytes, usize::MAX);
    assert_eq!(harness.take()[0].data[9], 0);
    harness.close();
}

/// SANITIZE goes on when another has ended its command, and its end finds no command, though the answer may still wait for the socket.
#[test]
fn a_sanitize_that_goes_on_is_no_longer_its_commands() {
    let mut harness = start();
    let overwrite = [0x48, 0x21, 0, 0, 0, 0, 0, 0, 5, 0];
    send(
        &mut harness,
        1,
        SIMPLE,
        &overwrite,
        &[1, 0, 0, 1, 7, 0, 0, 0],
    );
    assert!(harness.backend.held() > 0 && harness.take().is_empty());
    let tells: LunSet = [0].into_iter().collect();
    let token = Rc::new(());
    let everybodys = Whose::Everybodys;
    harness.with(|session, cx| session.ended_by(None, Some(0), everybodys, &tells, &token, cx));
    assert_eq!(Rc::strong_count(&token), 1, "nothing of it is at a device");
    harness.with(|session, cx| session.left_ended(0, 1, Outcome::Good, cx));
    harness.drain();
    assert_eq!(answered(&mut harness), [(1, TASK_ABORTED)]);
    harness.backend.hold = false;
    harness.finish();
    assert!(harness.take().is_empty());
    assert_eq!(harness.backend.bytes[0], 7, "it has gone on");
    harness.close();
}
