//! Table lines, and the texts of 5.8.

use proptest::prelude::*;

use super::*;

#[test]
fn mp_1_what_is_wrong_in_a_table_line_is_named() {
    for (text, reason) in [
        ("", "the number of feature words is missing"),
        (
            "x",
            "the number of feature words 'x' is not a decimal number",
        ),
        (
            "11",
            "the number of feature words '11' is too large: at most 10",
        ),
        (
            "2 queue_if_no_path",
            "2 words are announced, each a feature, and 1 follow",
        ),
        (
            "1 queue_always 0 0 0",
            "unknown feature 'queue_always'; there are queue_if_no_path, ",
        ),
        (
            "1 pg_init_retries 0 0 0",
            "the number of 'pg_init_retries' is missing",
        ),
        (
            "2 pg_init_retries 0 0 0 0",
            "'pg_init_retries' is 0: at least 1",
        ),
        (
            "2 pg_init_retries 51 0 0 0",
            "'51' is too large: at most 50",
        ),
        (
            "2 pg_init_delay_msecs 60001 0 0 0",
            "'60001' is too large: at most 60000",
        ),
        (
            "2 queue_if_no_path_timeout_secs 1000001 0 0 0",
            "at most 1000000",
        ),
        (
            "2 queue_mode fast 0 0 0",
            "queue mode 'fast' is none of bio, rq, mq",
        ),
        ("1 queue_mode 0 0 0", "the queue mode is missing"),
        ("0", "the number of hardware handler words is missing"),
        ("0 1 emc 0 0", "there are no hardware handlers here"),
        ("0 0", "the number of path groups is missing"),
        ("0 0 0", "the number of the initial group is missing"),
        (
            "0 0 0 1",
            "the initial group is 1, but there are no groups: write 0",
        ),
        (
            "0 0 1 0 round-robin 0 1 0 a",
            "the initial group is 0: of 1 groups it is one of 1 to 1",
        ),
        ("0 0 1 2 round-robin 0 1 0 a", "the initial group is 2"),
        ("0 0 1 1", "group 1: the path selector is missing"),
        (
            "0 0 1 1 fastest 0 1 0 a",
            "group 1: unknown path selector 'fastest'",
        ),
        (
            "0 0 1 1 round-robin 1 1 1 0 a",
            "group 1: selector round-robin: '1' is one word too many",
        ),
        (
            "0 0 1 1 round-robin 0 0 0",
            "group 1: it has no paths: at least 1",
        ),
        (
            "0 0 1 1 round-robin 0 1025 0",
            "the number of paths '1025' is too large: at most 1024",
        ),
        (
            "0 0 1 1 round-robin 0 1",
            "the number of selector arguments of a path is missing",
        ),
        (
            "0 0 1 1 round-robin 0 2 0 a",
            "group 1: the device is missing",
        ),
        (
            "0 0 1 1 round-robin 0 1 0 x",
            "group 1: there is no bdev 'x'",
        ),
        (
            "0 0 1 1 round-robin 0 1 1 a",
            "1 words are announced, each a selector argument of a path, and 0 follow",
        ),
        (
            "0 0 1 1 round-robin 0 1 2 a 1 1",
            "path 'a': selector round-robin: '1' is one word too many",
        ),
        (
            "0 0 2 1 round-robin 0 1 0 a",
            "group 2: the path selector is missing",
        ),
        ("0 0 1 1 round-robin 0 1 0 a b", "'b' is one word too many"),
        (
            "0 0 1 1 round-robin 0 1 0 small",
            "path 'small' has 32 sectors, and the target 64",
        ),
        (
            "0 0 1 1 round-robin 0 2 0 a big",
            "path 'big' has blocks of 4096 bytes and path 'a' of 512",
        ),
    ] {
        let error = build(text)
            .err()
            .unwrap_or_else(|| panic!("{text:?} was taken"));
        assert!(
            error.contains(reason),
            "{text:?}: {error:?} does not say {reason:?}"
        );
    }
}

/// The example of the kernel's documentation; the repeat counts of 128 mean 1.
#[test]
fn service_time_example_of_the_documentation() {
    let text = "0 0 1 1 service-time 0 2 2 8:0 128 1 8:16 128 4";
    let live = live(text);
    assert_eq!(live.info(), "2 0 0 0 1 1 E 0 2 2 8:0 A 0 0 1 8:16 A 0 0 4");
    assert_eq!(live.table(), "0 0 1 1 service-time 0 2 2 8:0 1 1 8:16 1 4");
}

#[test]
fn features_are_shown_in_their_order_whatever_their_case() {
    let given = "10 QUEUE_MODE Mq retain_attached_hw_handler pg_init_delay_msecs 0 Queue_If_No_Path pg_init_retries 50 queue_if_no_path_timeout_secs 30 0 0 0";
    let shown = "10 queue_if_no_path pg_init_retries 50 pg_init_delay_msecs 0 retain_attached_hw_handler queue_mode mq queue_if_no_path_timeout_secs 30 0 0 0";
    assert_eq!(live(given).table(), shown);
    assert_eq!(live(shown).table(), shown);
}

#[test]
fn mp_1_a_table_without_paths_is_a_table() {
    let live = live("1 queue_if_no_path 0 0 0");
    assert_eq!(live.info(), "2 0 0 0 0 0");
    assert_eq!(live.table(), "1 queue_if_no_path 0 0 0");
    assert!(live.lowers.is_empty() && live.target.areas(64).is_empty());
}

#[test]
fn info_shows_states_counts_and_selector_words() {
    let mut live = live(
        "0 0 3 1 queue-length 0 2 0 a b historical-service-time 2 512 3 1 0 c io-affinity 0 1 1 d ff",
    );
    assert_eq!(
        live.info(),
        "2 0 0 0 3 1 E 0 2 1 a A 0 0 b A 0 0 E 2 512 3 1 3 c A 0 1024 0 0 E 0 1 1 d A 0 0"
    );
    live.starts(2);
    live.say("fail_path b");
    live.say("disable_group 2");
    live.start();
    assert_eq!(
        live.info(),
        "2 0 0 0 3 1 A 0 2 1 a A 0 2 b F 1 1 D 2 512 3 1 3 c A 0 1024 0 0 E 0 1 1 d A 0 0"
    );
    assert_eq!(
        live.table(),
        "0 0 3 1 queue-length 0 2 1 a 1 b 1 historical-service-time 2 512 3 1 1 c 1 io-affinity 0 1 1 d ff"
    );
}

#[test]
fn mp_2_one_clone_of_each_kind() {
    let mut live = live(TWO_GROUPS);
    let class = Multipath::CLASS;
    assert!(class.singleton && class.immutable && !class.flush_bypasses_map && !class.wildcard);
    let target = &mut live.target;
    assert_eq!(
        (
            target.flushes(),
            target.duplicates(Op::Discard),
            target.duplicates(Op::WriteZeroes)
        ),
        (1, 1, 1)
    );
    let flush = Ask {
        op: Op::Flush,
        sector: 0,
        sectors: 0,
        ..ask(1)
    };
    assert!(matches!(
        target.flush(&flush),
        Map::Remapped {
            channel: ChannelIndex(0),
            sector: 0,
            ..
        }
    ));
    let discard = Ask {
        op: Op::Discard,
        sectors: 57,
        ..ask(1)
    };
    assert!(matches!(
        target.range(&discard),
        Map::Remapped {
            channel: ChannelIndex(1),
            sector: 7,
            ..
        }
    ));
    let areas: Vec<_> = (0..3).map(|at| (ChannelIndex(at), 0, 64)).collect();
    assert_eq!(target.areas(64), areas);
}

/// A table line of any shape, and canonical.
fn table() -> impl Strategy<Value = String> {
    let features = (
        any::<bool>(),
        0u32..3,
        proptest::option::of(1u32..50),
        proptest::option::of("(bio|rq|mq)"),
    );
    let group = (
        0usize..5,
        proptest::collection::vec((0usize..4, 0u32..=100), 1..5),
        0u32..1024,
    );
    (features, proptest::collection::vec(group, 0..4), 0usize..4).prop_map(
        |(features, groups, initial)| {
            let (queue, timeout, retries, mode) = features;
            let mut words = Vec::new();
            words.extend(queue.then(|| "queue_if_no_path".to_string()));
            words.extend(retries.map(|n| format!("pg_init_retries {n}")));
            words.extend(mode.map(|mode| format!("queue_mode {mode}")));
            words.extend((timeout > 0).then(|| format!("queue_if_no_path_timeout_secs {timeout}")));
            let features = words.join(" ");
            let initial = if groups.is_empty() {
                0
            } else {
                initial % groups.len() + 1
            };
            let mut text = format!(
                "{} {features} 0 {} {initial}",
                features.split_whitespace().count(),
                groups.len()
            );
            for (kind, paths, weight) in groups {
                let (selector, each) = [
                    ("round-robin 0".to_string(), 1),
                    ("queue-length 0".to_string(), 1),
                    ("service-time 0".to_string(), 2),
                    (format!("historical-service-time 2 {weight} 2"), 1),
                    ("io-affinity 0".to_string(), 1),
                ][kind]
                    .clone();
                text.push_str(&format!(" {selector} {} {each}", paths.len()));
                for (at, (device, number)) in paths.iter().enumerate() {
                    let device = ["a", "b", "c", "d"][*device];
                    let arguments = match kind {
                        2 => format!("1 {number}"),
                        4 => format!("{:x}", 1 << at),
                        _ => "1".into(),
                    };
                    text.push_str(&format!(" {device} {arguments}"));
                }
            }
            words_joined(&text)
        },
    )
}

fn words_joined(text: &str) -> String {
    words(text).join(" ")
}

proptest! {
    /// AT-81: the TABLE text is the line itself, where that is canonical, and loads an equal target.
    #[test]
    fn at_81_table_text_reloads(text in table()) {
        let built = build(&text).unwrap();
        prop_assert_eq!(built.table(), text.clone());
        prop_assert_eq!(built.target, build(&text).unwrap().target);
    }

    /// The same after the target was used: the features and the group of the moment are kept.
    #[test]
    fn at_81_table_text_of_a_used_target_reloads(
        text in table(),
        messages in proptest::collection::vec("(queue_if_no_path|fail_if_no_path|queue_if_no_path_timeout_secs 7|switch_group [1-3]|disable_group [1-3]|(fail|reinstate)_path [a-d])", 0..8),
        suspend in any::<bool>(),
    ) {
        let mut used = live(&text);
        for message in messages {
            let _ = used.message(&message);
        }
        if suspend {
            used.suspend(false);
        }
        let table = used.table();
        prop_assert_eq!(live(&table).table(), table);
    }

    #[test]
    fn no_table_line_panics(text in "((0|1|2|a|b|round-robin|io-affinity|service-time|queue_if_no_path|queue_mode|ff) ){0,20}") {
        let _ = build(&text);
    }
}
