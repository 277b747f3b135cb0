//! Each selector against its row of the table in 5.9.

use super::super::super::super::table::lines;
use super::*;

/// A selector with its group arguments and the arguments of each path.
fn selector(name: &str, group: &str, paths: &[&str]) -> Result<Selector, String> {
    let count = |words: &str| words.split_whitespace().count() as u64;
    let text = format!("{name} {} {group} {}", count(group), paths.join(" "));
    let lines = lines(&text).unwrap();
    let mut arguments = Arguments::new(&lines[0].words);
    let mut read = || {
        let mut selector = Selector::build(&mut arguments)?;
        for path in paths {
            arguments.part("argument", count(path), |words| selector.add(words))?;
        }
        Ok(selector)
    };
    read().map_err(|refusal: Refusal| refusal.reason)
}

fn built(name: &str, paths: &[&str]) -> Selector {
    selector(name, "", paths).unwrap()
}

/// Starts I/Os of these sizes at time 0; the paths they go to.
fn start(selector: &mut Selector, sizes: &[u64]) -> Vec<u16> {
    let mut one = |bytes: &u64| selector.start(*bytes, 0).expect("a usable path").0;
    sizes.iter().map(&mut one).collect()
}

fn info(selector: &Selector, slot: u16) -> String {
    let mut text = String::new();
    selector.info(Slot(slot), &mut text);
    text.trim_start().to_string()
}

fn table(selector: &Selector, slot: u16) -> String {
    let mut text = String::new();
    selector.table(Slot(slot), &mut text);
    text.trim_start().to_string()
}

#[test]
fn arguments_that_are_wrong_are_named() {
    for (name, group, path, reason) in [
        (
            "fastest",
            "",
            "",
            "unknown path selector 'fastest'; there are round-robin, queue-length, service-time, historical-service-time, io-affinity",
        ),
        (
            "round-robin",
            "1",
            "",
            "selector round-robin: '1' is one word too many",
        ),
        (
            "round-robin",
            "",
            "x",
            "the repeat count 'x' is not a decimal number",
        ),
        ("round-robin", "", "1 1", "'1' is one word too many"),
        ("queue-length", "", "1 1", "'1' is one word too many"),
        (
            "service-time",
            "",
            "1 101",
            "the relative throughput '101' is too large: at most 100",
        ),
        ("service-time", "", "1 1 1", "'1' is one word too many"),
        (
            "historical-service-time",
            "1024",
            "",
            "the base weight '1024' is too large: at most 1023",
        ),
        (
            "historical-service-time",
            "1 1 1",
            "",
            "'1' is one word too many",
        ),
        ("io-affinity", "", "", "the core mask is missing"),
        ("io-affinity", "", "g", "core mask 'g' is not hexadecimal"),
        ("io-affinity", "", "+1", "core mask '+1' is not hexadecimal"),
        ("io-affinity", "", "123456789", "groups of at most 8 digits"),
        (
            "io-affinity",
            "",
            "0",
            "core mask '0' leaves the path without a core",
        ),
    ] {
        let error = selector(name, group, &[path]).expect_err(reason);
        assert!(error.contains(reason), "{error:?} does not say {reason:?}");
    }
    let past = format!("1{}", ",00000000".repeat(32));
    assert!(
        selector("io-affinity", "", &[&past])
            .unwrap_err()
            .contains("past 1023")
    );
}

#[test]
fn round_robin_takes_turns_and_puts_a_reinstated_path_first() {
    let mut selector = built("round-robin", &["", "1000", "1"]);
    assert_eq!(start(&mut selector, &[1; 5]), [0, 1, 2, 0, 1]);
    selector.fail(Slot(1));
    assert_eq!(start(&mut selector, &[1; 3]), [2, 0, 2]);
    selector.reinstate(Slot(1));
    assert_eq!(start(&mut selector, &[1; 4]), [1, 0, 2, 1]);
    assert_eq!(
        (table(&selector, 1).as_str(), info(&selector, 1).as_str()),
        ("1", "")
    );
}

#[test]
fn no_selector_chooses_a_failed_path() {
    for name in [
        "round-robin",
        "queue-length",
        "service-time",
        "historical-service-time",
        "io-affinity",
    ] {
        let paths = match name {
            "io-affinity" => ["1", "2"],
            _ => ["1", "1"],
        };
        let mut selector = built(name, &paths);
        selector.fail(Slot(0));
        assert_eq!(start(&mut selector, &[1; 3]), [1, 1, 1], "{name}");
        selector.fail(Slot(1));
        assert_eq!(selector.start(1, 0), None, "{name}");
        selector.reinstate(Slot(0));
        assert_eq!(start(&mut selector, &[1; 3]), [0, 0, 0], "{name}");
    }
}

#[test]
fn queue_length_takes_the_shortest_and_of_equals_the_least_recent() {
    let mut selector = built("queue-length", &["", "", ""]);
    assert_eq!(start(&mut selector, &[1; 4]), [0, 1, 2, 0]);
    assert_eq!(info(&selector, 0), "2");
    selector.end(Slot(2), 1, 0, 0);
    assert_eq!(start(&mut selector, &[1; 3]), [2, 1, 2]);
    selector.end(Slot(0), 1, 0, 0);
    selector.end(Slot(0), 1, 0, 0);
    assert_eq!(info(&selector, 0), "0");
    assert_eq!(start(&mut selector, &[1]), [0]);
}

#[test]
#[should_panic(expected = "MP-6")]
fn queue_length_notices_an_end_without_a_start() {
    built("queue-length", &[""]).end(Slot(0), 1, 0, 0);
}

#[test]
fn service_time_follows_bytes_and_throughput() {
    // Equal throughput: fewer bytes.
    let mut selector = built("service-time", &["", ""]);
    assert_eq!(start(&mut selector, &[100, 1, 1, 98, 1]), [0, 1, 1, 1, 0]);
    assert_eq!(info(&selector, 0), "101 1");
    // Four times as fast: four of five I/Os.
    let mut selector = built("service-time", &["1 4", "1 1"]);
    assert_eq!(start(&mut selector, &[1; 5]), [0, 0, 0, 0, 1]);
    // Equal load: the faster one, wherever it stands.
    let mut selector = built("service-time", &["1 1", "1 3"]);
    assert_eq!(start(&mut selector, &[7]), [1]);
    // (2 + 2) / 2 = (0 + 2) / 1: equal time, the faster one.
    let mut selector = built("service-time", &["1 1", "1 2"]);
    assert_eq!(start(&mut selector, &[2, 2]), [1, 1]);
    assert_eq!(table(&selector, 1), "1 2");
}

#[test]
fn service_time_leaves_a_path_without_throughput_for_the_worst_case() {
    let mut selector = built("service-time", &["1 0", "1 1", "1 0"]);
    assert_eq!(start(&mut selector, &[1 << 60; 4]), [1; 4]);
    selector.fail(Slot(1));
    // Two without any: fewer bytes.
    assert_eq!(start(&mut selector, &[5, 5]), [0, 2]);
}

#[test]
fn service_time_does_not_overflow() {
    let mut selector = built("service-time", &["1 100", "1 99"]);
    let half = 1 << 62;
    assert_eq!(start(&mut selector, &[half, half, half / 2]), [0, 1, 0]);
}

#[test]
fn historical_weights_are_powers_of_the_base() {
    let selector = selector("historical-service-time", "512 7", &[""]).unwrap();
    let Selector::Historical(historical) = &selector else {
        panic!()
    };
    assert_eq!(
        format!("{historical:?}")
            .matches("weights: [512, 256, 128, 64, 32, 16, 8, 4, 2, 1, ")
            .count(),
        1
    );
    let mut text = String::new();
    selector.group(&mut text);
    assert_eq!(text, " 2 512 7");
    assert_eq!(info(&selector, 0), "1024 0 0");
}

/// One path: average and staleness after I/Os whose service times are worked out by hand.
#[test]
fn historical_average_follows_service_times() {
    let mut selector = selector("historical-service-time", "512", &["", ""]).unwrap();
    assert_eq!(start(&mut selector, &[1, 1, 1]), [0, 1, 0]);
    // 1.0 and 1000 ns, half and half.
    selector.end(Slot(0), 1, 0, 1000);
    assert_eq!(
        info(&selector, 0),
        format!("{} 1 {}", 1001 * 512, 1000 + 2 * 500)
    );
    // Started at 0, but in service only since 1000: 200 ns.
    selector.end(Slot(0), 1, 0, 1200);
    let average = (1001 * 512 + 200 * 1024) / 2;
    assert_eq!(
        info(&selector, 0),
        format!("{average} 0 {}", 1200 + 2 * (average >> 10))
    );
    // So slow that the past does not count: 63 buckets.
    selector.end(Slot(1), 1, 0, 63 << 24);
    assert_eq!(
        info(&selector, 1).split(' ').next().unwrap(),
        (63u64 << 34).to_string()
    );
    // One bucket: the weight's square.
    assert_eq!(selector.start(1, 1200), Some(Slot(0)));
    selector.end(Slot(0), 1, 1200, 1200 + (1 << 24));
    let slower = (average * 256 + (1u64 << 34) * 768 + 512) >> 10;
    assert_eq!(
        info(&selector, 0).split(' ').next().unwrap(),
        slower.to_string()
    );
}

#[test]
fn historical_compares_the_expected_wait() {
    // Averages of 1000 and 3000 ns, the newest I/O alone counting.
    let mut selector = selector("historical-service-time", "0", &["", ""]).unwrap();
    assert_eq!(start(&mut selector, &[1, 1]), [0, 1]);
    selector.end(Slot(0), 1, 0, 1000);
    selector.end(Slot(1), 1, 0, 3000);
    let now = 3000;
    let mut next = || selector.start(1, now).unwrap().0;
    // Both idle: the one that is stale longest (3000 after path 0, 9000 after path 1).
    assert_eq!(next(), 0);
    // 2 * 1000 < 3000: an idle path that is not stale has no privilege. 3 * 1000 = 3000: the shorter queue.
    assert_eq!([next(), next()], [0, 1]);
    // 3, 4 and 5 * 1000 < 2 * 3000; 6 * 1000 = 2 * 3000.
    assert_eq!([next(), next(), next(), next()], [0, 0, 0, 1]);
}

#[test]
fn historical_tries_a_stale_idle_path_and_gives_a_stale_one_an_equal_share() {
    let mut selector = selector("historical-service-time", "0", &["", ""]).unwrap();
    assert_eq!(start(&mut selector, &[1, 1]), [0, 1]);
    selector.end(Slot(0), 1, 0, 1000);
    selector.end(Slot(1), 1, 0, 3000);
    let later = 1_000_000;
    let mut next = || selector.start(1, later).unwrap().0;
    // Path 1 is slower by far, but nobody knows that at this late time.
    assert_eq!([next(), next(), next(), next(), next()], [0, 1, 0, 1, 0]);
}

#[test]
fn historical_threshold_makes_near_averages_equal() {
    let mut selector = selector("historical-service-time", "0 4", &["", ""]).unwrap();
    assert_eq!(start(&mut selector, &[1, 1]), [0, 1]);
    selector.end(Slot(0), 1, 0, 1000);
    selector.end(Slot(1), 1, 0, 3000);
    let mut next = || selector.start(1, 3000).unwrap().0;
    assert_eq!([next(), next(), next(), next()], [0, 1, 0, 1]);
}

#[test]
fn io_affinity_gives_each_core_its_path() {
    let at = |core: u16| {
        let mut selector = built("io-affinity", &["5", "f", "1,00000000"]);
        selector.bind(CoreId(core));
        selector
    };
    // Core 0 and 2 are the first path's already.
    for (core, path) in [(0, 0), (1, 1), (2, 0), (3, 1), (32, 2)] {
        let mut selector = at(core);
        assert_eq!(start(&mut selector, &[1, 1]), [path, path], "core {core}");
        assert_eq!(info(&selector, path), "0");
    }
    for core in [4, 33, 2000] {
        let mut selector = at(core);
        assert_eq!(start(&mut selector, &[1, 1]), [0, 0], "core {core}");
        assert_eq!(info(&selector, 2), "2");
    }
    let mut selector = at(1);
    selector.fail(Slot(1));
    assert_eq!(start(&mut selector, &[1]), [0]);
    selector.reinstate(Slot(1));
    assert_eq!(start(&mut selector, &[1]), [1]);
    assert_eq!(info(&selector, 1), "1");
    assert_eq!(
        [0, 1, 2].map(|slot| table(&selector, slot)),
        ["5", "f", "1,00000000"]
    );
    assert!(selector_error(&["3", "2"]).contains("core mask '2' leaves the path without a core"));
}

fn selector_error(paths: &[&str]) -> String {
    selector("io-affinity", "", paths).unwrap_err()
}
