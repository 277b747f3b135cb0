//! I/O without a path: queueing, suspends (5.7), push-back (MP-5), the timer (MP-4).

use super::*;

const QUEUEING: &str = "1 queue_if_no_path 0 1 1 queue-length 0 1 0 a";
const FAILING: &str = "0 0 1 1 queue-length 0 1 0 a";
const SECOND: u64 = 1_000_000_000;

#[test]
fn without_a_path_io_waits_or_fails() {
    for (text, without) in [
        (QUEUEING, WAITS),
        (FAILING, Map::Kill),
        ("1 queue_if_no_path 0 0 0", WAITS),
        ("0 0 0 0", Map::Kill),
    ] {
        let mut live = live(text);
        let _ = live.message("fail_path a");
        assert_eq!(live.map(), without, "{text}");
    }
    let mut live = live(FAILING);
    live.say("fail_path a");
    assert!(!live.say("queue_if_no_path"));
    assert_eq!(live.map(), WAITS);
    assert!(!live.say("fail_if_no_path"));
    assert_eq!(live.map(), Map::Kill);
}

#[test]
fn presuspend_with_flush_fails_what_waits() {
    let mut live = live(QUEUEING);
    live.starts(2);
    assert_eq!(
        live.end("a", Status::Transport),
        End::Hold { for_ns: u64::MAX }
    );
    live.target.presuspend(false);
    assert_eq!(live.map(), Map::Kill);
    assert_eq!(live.end("a", Status::Transport), End::Done(Status::IoError));
}

#[test]
fn presuspend_with_noflush_pushes_back_what_waits() {
    let mut live = live(QUEUEING);
    live.starts(2);
    live.end("a", Status::Transport);
    live.target.presuspend(true);
    assert_eq!(live.map(), Map::PushBack);
    assert_eq!(live.end("a", Status::Transport), End::PushBack);
    live.target.postsuspend();
    live.resume();
    assert_eq!(live.map(), WAITS);
}

/// OQ-3, MP-5: whoever did not ask for queueing gets errors, in a noflush suspend too.
#[test]
fn mp_5_without_queueing_a_noflush_suspend_fails_too() {
    let mut live = live(FAILING);
    live.starts(1);
    live.say("fail_path a");
    live.target.presuspend(true);
    assert_eq!(live.map(), Map::Kill);
    assert_eq!(live.end("a", Status::Transport), End::Done(Status::IoError));
}

/// SU-16: I/O that arrives after presuspend finds its path as ever.
#[test]
fn su_16_paths_are_used_after_presuspend() {
    for noflush in [false, true] {
        let mut live = live(QUEUEING);
        live.target.presuspend(noflush);
        assert_eq!(live.run(), "a");
    }
}

/// AT-67: queueing outlives every kind of suspend, and every table text says so.
#[test]
fn at_67_queueing_outlives_every_suspend() {
    for noflush in [false, true] {
        let mut live = live(QUEUEING);
        live.say("fail_path a");
        let shown = |live: &Live| live.table().starts_with("1 queue_if_no_path ");
        // Given up (SU-8).
        live.target.presuspend(noflush);
        assert!(shown(&live), "while being suspended");
        live.target.presuspend_undo();
        assert_eq!(live.map(), WAITS);
        // Completed, more than once.
        for _ in 0..2 {
            live.suspend(noflush);
            assert!(shown(&live), "while suspended");
            live.resume();
            assert_eq!(live.map(), WAITS);
        }
        // Torn down and never resumed between: two presuspends in a row.
        live.suspend(noflush);
        live.suspend(noflush);
        live.resume();
        assert_eq!(live.map(), WAITS);
        // What is off stays off.
        live.say("fail_if_no_path");
        live.suspend(noflush);
        assert!(!shown(&live));
        live.resume();
        assert_eq!(live.map(), Map::Kill);
    }
}

/// A message that comes while the suspend is under way counts from the resume on, and cannot keep the suspend from ending.
#[test]
fn queueing_can_be_changed_while_a_suspend_is_under_way() {
    let mut live = live(FAILING);
    live.say("fail_path a");
    live.target.presuspend(false);
    live.say("queue_if_no_path");
    assert_eq!(live.map(), Map::Kill);
    live.target.presuspend_undo();
    assert_eq!(live.map(), WAITS);
    live.target.presuspend(true);
    assert_eq!(live.map(), Map::PushBack);
    live.say("fail_if_no_path");
    assert_eq!(live.map(), Map::Kill);
    live.target.postsuspend();
    live.resume();
    assert_eq!(live.map(), Map::Kill);
}

#[test]
fn at_68_timer_ends_the_wait() {
    let mut live =
        live("3 queue_if_no_path queue_if_no_path_timeout_secs 5 0 1 1 queue-length 0 1 0 a");
    assert_eq!(live.target.due_ns(), u64::MAX, "there is a path");
    live.pass(100 * SECOND);
    live.run_into_error("a");
    assert!(!live.pass(5 * SECOND - 1));
    assert_eq!(live.map(), WAITS);
    assert!(live.pass(1), "an event");
    assert_eq!(live.map(), Map::Kill);
    assert!(
        live.table()
            .starts_with("2 queue_if_no_path_timeout_secs 5 "),
        "as after fail_if_no_path"
    );
}

#[test]
fn at_68_timer_stops_when_a_path_comes_back_or_queueing_goes() {
    let text = "3 queue_if_no_path queue_if_no_path_timeout_secs 5 0 1 1 queue-length 0 1 0 a";
    let mut live = live(text);
    live.say("fail_path a");
    live.pass(4 * SECOND);
    live.say("reinstate_path a");
    assert_eq!(live.target.due_ns(), u64::MAX);
    live.say("fail_path a");
    live.pass(4 * SECOND);
    assert_eq!(live.map(), WAITS, "a new wait, a new timer");
    live.say("queue_if_no_path");
    live.pass(4 * SECOND);
    assert_eq!(live.map(), WAITS, "armed anew by the message");
    live.suspend(true);
    assert!(!live.pass(100 * SECOND), "time of a suspend does not count");
    live.resume();
    live.pass(5 * SECOND - 1);
    assert_eq!(live.map(), WAITS);
    live.say("queue_if_no_path_timeout_secs 0");
    assert_eq!(live.target.due_ns(), u64::MAX);
    live.say("queue_if_no_path_timeout_secs 1");
    live.say("fail_if_no_path");
    assert_eq!(live.target.due_ns(), u64::MAX);
}

/// MP-4: also at construction, where there is no path to begin with; but not before the table is live.
#[test]
fn at_68_timer_runs_in_a_table_without_paths() {
    let text = "3 queue_if_no_path queue_if_no_path_timeout_secs 5 0 0 0";
    assert_eq!(build(text).unwrap().target.due_ns(), u64::MAX);
    let mut live = live(text);
    assert_eq!(live.map(), WAITS);
    assert!(live.pass(5 * SECOND));
    assert_eq!(live.map(), Map::Kill);
}
