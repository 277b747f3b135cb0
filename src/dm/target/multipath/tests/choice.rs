//! The choice of a path (5.2), errors (5.4, 5.6), and the messages that change paths and groups (5.5).

use super::*;

#[test]
fn a_group_is_not_left_while_it_has_a_usable_path() {
    let mut live = live(TWO_GROUPS);
    assert_eq!([live.run(), live.run(), live.run()], ["a", "b", "a"]);
    assert_eq!(live.run_into_error("b"), GOES_AROUND);
    assert_eq!([live.run(), live.run()], ["a", "a"]);
    assert_eq!(live.run_into_error("a"), GOES_AROUND);
    assert_eq!([live.run(), live.run()], ["c", "c"]);
    assert!(
        live.info()
            .starts_with("2 0 0 0 2 2 E 0 2 0 a F 1 b F 1 A 0 1 0 c A 0")
    );
    // Reinstated paths of another group are not gone back to.
    assert!(live.say("reinstate_path a"));
    assert_eq!(live.run(), "c");
    assert_eq!(live.run_into_error("c"), GOES_AROUND);
    assert_eq!(live.run(), "a");
}

#[test]
fn the_initial_group_is_the_first_used() {
    let mut live = live("0 0 2 2 round-robin 0 1 0 a round-robin 0 1 0 b");
    assert!(live.info().starts_with("2 0 0 0 2 2 E "));
    assert_eq!(live.run(), "b");
}

#[test]
fn bypassed_groups_are_the_last_resort() {
    let mut live = live("0 0 3 1 round-robin 0 1 0 a round-robin 0 1 0 b round-robin 0 1 0 c");
    assert!(live.say("disable_group 1"));
    assert_eq!(live.run(), "b");
    assert!(live.info().contains(" 3 2 D 0 1 0 a A 0 A 0 1 0 b A 0 E "));
    assert!(live.say("disable_group 2"));
    assert_eq!(live.run(), "c");
    assert!(live.say("fail_path c"));
    assert_eq!(live.run(), "a");
    // Bypass does not outlast a better group's return, for it is chosen anew.
    assert!(live.say("enable_group 2"));
    assert_eq!(live.run(), "b");
}

#[test]
fn switch_group_clears_every_bypass() {
    let mut live = live("0 0 3 1 round-robin 0 1 0 a round-robin 0 1 0 b round-robin 0 1 0 c");
    live.say("disable_group 1");
    live.say("disable_group 2");
    assert!(live.say("switch_group 3"));
    assert!(
        live.info()
            .starts_with("2 0 0 0 3 3 E 0 1 0 a A 0 E 0 1 0 b A 0 E ")
    );
    assert_eq!(live.run(), "c");
    // A group without a path is not switched to; the scan starts at the first.
    live.say("fail_path b");
    live.say("switch_group 2");
    assert_eq!(live.run(), "a");
    // With no path at all the wish is kept for the first that comes.
    live.say("fail_path a");
    live.say("fail_path c");
    live.say("switch_group 2");
    assert!(live.info().starts_with("2 0 0 0 3 2 E "));
    live.say("reinstate_path b");
    live.say("reinstate_path a");
    assert_eq!(live.run(), "b");
}

#[test]
fn at_84_messages_that_are_wrong_are_einval() {
    let mut live = live(TWO_GROUPS);
    for text in [
        "",
        "fail",
        "queue_if_no_path now",
        "fail_if_no_path 1",
        "fail_path",
        "fail_path x",
        "fail_path d",
        "fail_path a b",
        "reinstate_path",
        "reinstate_path x",
        "switch_group",
        "switch_group 0",
        "switch_group 3",
        "switch_group one",
        "switch_group +1",
        "switch_group 1 2",
        "disable_group 3",
        "enable_group 99999999999999999999",
        "queue_if_no_path_timeout_secs",
        "queue_if_no_path_timeout_secs 1000001",
    ] {
        let before = live.target.clone();
        assert_eq!(live.message(text), Err(Errno::Einval), "{text}");
        assert_eq!(live.target, before, "{text}");
    }
    let mut live = super::live("0 0 0 0");
    for text in [
        "switch_group 1",
        "disable_group 1",
        "enable_group 1",
        "fail_path a",
    ] {
        assert_eq!(live.message(text), Err(Errno::Einval), "{text}");
    }
}

#[test]
fn at_84_only_path_states_change_while_suspended() {
    let mut live = live(TWO_GROUPS);
    live.suspend(true);
    for text in [
        "queue_if_no_path",
        "fail_if_no_path",
        "switch_group 2",
        "disable_group 1",
        "enable_group 1",
        "what",
    ] {
        assert_eq!(live.message(text), Err(Errno::Ebusy), "{text}");
    }
    assert!(live.say("fail_path a"));
    assert!(live.say("FAIL_PATH b"));
    assert_eq!(live.message("reinstate_path x"), Err(Errno::Einval));
    live.resume();
    assert_eq!(live.run(), "c");
}

#[test]
fn mp_9_10_repeated_messages_change_nothing() {
    let mut live = live(TWO_GROUPS);
    assert!(!live.say("reinstate_path a"));
    assert!(live.say("fail_path a"));
    assert!(!live.say("fail_path a"));
    assert!(live.info().contains(" a F 1 "));
    assert!(live.say("reinstate_path a"));
    assert!(!live.say("reinstate_path a"));
    assert!(live.say("fail_path a"));
    assert!(live.info().contains(" a F 2 "));
}

#[test]
fn a_message_means_every_path_on_the_device() {
    let mut live = live("0 0 2 1 round-robin 0 2 0 a b round-robin 0 2 0 a c");
    live.say("fail_path a");
    assert!(
        live.info()
            .ends_with("E 0 2 0 a F 1 b A 0 E 0 2 0 a F 1 c A 0")
    );
    live.say("reinstate_path a");
    assert!(
        live.info()
            .ends_with("E 0 2 0 a A 1 b A 0 E 0 2 0 a A 1 c A 0")
    );
    // An error fails the path it was on, not the device's other one.
    assert_eq!(live.run_into_error("a"), GOES_AROUND);
    assert!(
        live.info()
            .ends_with("0 2 0 a F 2 b A 0 E 0 2 0 a A 1 c A 0")
    );
}

#[test]
fn mp_12_which_errors_are_path_errors() {
    use Status::*;
    for status in [
        NotSupported,
        NoSpace,
        Target,
        ReservationConflict,
        Medium,
        Protection,
        Miscompare,
        Aborted,
    ] {
        let mut live = live(TWO_GROUPS);
        assert_eq!(live.start(), "a");
        assert_eq!(
            live.end("a", status),
            End::Done(status),
            "no other path would help"
        );
        assert!(live.info().contains(" a A 0 "), "{status:?}");
    }
    for status in [IoError, Transport, Timeout] {
        let mut live = live(TWO_GROUPS);
        assert_eq!(live.start(), "a");
        assert_eq!(live.end("a", status), GOES_AROUND);
        assert!(live.info().contains(" a F 1 "), "{status:?}");
    }
}

#[test]
fn at_49_the_last_path_fails_without_queueing() {
    let mut live = live("0 0 1 1 round-robin 0 1 0 a");
    assert_eq!(live.start(), "a");
    assert_eq!(live.end("a", Status::Timeout), End::Done(Status::IoError));
    assert_eq!(live.map(), Map::Kill);
}

/// Errors of I/O from before a reinstatement do not fail the path again; the I/O is repeated.
#[test]
fn an_old_error_does_not_fail_a_path_reinstated_since() {
    let mut live = live("0 0 1 1 queue-length 0 1 0 a");
    live.starts(3);
    live.say("fail_path a");
    live.say("reinstate_path a");
    assert_eq!(live.end("a", Status::Transport), GOES_AROUND);
    assert!(live.info().ends_with(" a A 1 2"));
    live.start();
    assert_eq!(live.end("a", Status::Transport), GOES_AROUND);
    assert_eq!(live.end("a", Status::Ok), End::Done(Status::Ok));
    assert_eq!(live.end("a", Status::Transport), End::Done(Status::IoError));
    assert!(live.info().ends_with(" a F 2 0"));
}

/// AT-45, MP-6: whatever happened to the I/O, nothing is counted once it is over.
#[test]
fn at_45_counters_are_zero_at_idle() {
    for selector in ["queue-length 0", "service-time 0"] {
        let zero = if selector.starts_with("queue") {
            "0"
        } else {
            "0 1"
        };
        let mut live = live(&format!("1 queue_if_no_path 0 1 1 {selector} 2 0 a b"));
        live.starts(6);
        // Fails on both, waits, and goes around after a reinstatement.
        for device in ["a", "a", "b", "b", "b"] {
            live.end(device, Status::Transport);
        }
        assert_eq!(live.map(), WAITS);
        live.say("reinstate_path b");
        live.starts(2);
        // Failed while parked, and pushed back.
        live.say("fail_path b");
        live.target.presuspend(true);
        assert_eq!(live.map(), Map::PushBack);
        assert_eq!(live.end("b", Status::Transport), End::PushBack);
        assert_eq!(live.end("b", Status::Ok), End::Done(Status::Ok));
        assert_eq!(live.end("a", Status::Aborted), End::Done(Status::Aborted));
        let number = if selector.starts_with("queue") { 1 } else { 2 };
        assert!(live.held.is_empty());
        assert!(
            live.info()
                .ends_with(&format!(" 2 {number} a F 1 {zero} b F 2 {zero}")),
            "{}",
            live.info()
        );
    }
}

/// MP-7: a path that fails again and again right after its reinstatement is used ever more rarely, down to once a second.
#[test]
fn mp_7_a_path_that_flaps_is_given_pauses() {
    let mut live = live("0 0 1 1 round-robin 0 1 0 a");
    live.run();
    live.run_into_error("a");
    for _ in 0..3 {
        live.say("reinstate_path a");
        assert_eq!(live.run_into_error("a"), End::Done(Status::IoError));
    }
    for rest_ms in [10, 20, 40, 80, 160, 320, 640, 1000, 1000] {
        assert!(live.say("reinstate_path a"));
        assert!(
            live.info().contains(" a A "),
            "it is valid, and I/O waits for it"
        );
        assert_eq!(live.map(), WAITS);
        live.pass(rest_ms * 1_000_000 - 1);
        assert_eq!(live.map(), WAITS, "{rest_ms} ms");
        live.pass(1);
        live.run_into_error("a");
    }
    // In a noflush suspend such I/O goes back: it has a path, only not yet (SU-3).
    live.say("reinstate_path a");
    live.target.presuspend(true);
    assert_eq!(live.map(), Map::PushBack);
    live.target.presuspend_undo();
    // Once it works it is as good as any.
    live.pass(1_000_000_000);
    live.run();
    live.run_into_error("a");
    live.say("reinstate_path a");
    live.run();
    assert_eq!(live.target.due_ns(), u64::MAX);
}

#[test]
fn mp_7_other_paths_take_over_during_a_pause_and_an_operator_s_failures_do_not_count() {
    let mut live = live("0 0 2 1 round-robin 0 1 0 a round-robin 0 1 0 b");
    for _ in 0..20 {
        live.say("fail_path a");
        live.say("reinstate_path a");
    }
    assert_eq!(live.target.due_ns(), u64::MAX);
    live.say("switch_group 1");
    assert_eq!(live.run(), "a");
    for _ in 0..4 {
        assert_eq!(live.run_into_error("a"), GOES_AROUND);
        live.say("switch_group 2");
        live.say("reinstate_path a");
        live.say("switch_group 1");
    }
    assert_eq!(
        [live.run(), live.run()],
        ["b", "b"],
        "the group is current, but rests"
    );
    live.pass(10_000_000);
    assert_eq!(live.run(), "a");
}

/// PM-14: all paths on a device that was taken away fail, once, and stay so.
#[test]
fn pm_14_a_device_that_is_gone_fails_its_paths_for_good() {
    let mut live = live("0 0 2 1 round-robin 0 2 0 a b round-robin 0 1 0 a");
    assert_eq!(live.starts(2), ["a", "b"]);
    let mut notice = None;
    live.target.lower_gone(ChannelIndex(0), &mut notice);
    assert_eq!(live.starts(2), ["b", "b"], "before anybody was told");
    assert!(live.tell(notice));
    let mut again = None;
    live.target.lower_gone(ChannelIndex(0), &mut again);
    assert_eq!(again, None);
    assert!(
        live.info().ends_with("A 0 2 0 a F 1 b A 0 E 0 1 0 a F 1"),
        "{}",
        live.info()
    );
    assert_eq!(live.end("a", Status::Aborted), End::Done(Status::Aborted));
    assert_eq!(live.message("reinstate_path a"), Err(Errno::Einval));
    assert_eq!(live.run(), "b");
}
