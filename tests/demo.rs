//! `polldm demo` as its users run it: a path fails, a table is swapped, and nothing but time is lost.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use serde_json::Value;

const POLLDM: &str = env!("CARGO_BIN_EXE_polldm");

/// No I/O fails and nothing differs; every phase has I/Os of its own, those that the gap caught took as long as the gap, and they are the
/// ones that waited.
#[test]
fn a_host_sees_a_gap_and_no_error() {
    let output = Command::new(POLLDM)
        .args(["demo", "--time", "600ms", "--json"])
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |path: &str| report.pointer(path).and_then(Value::as_f64).unwrap();

    assert_eq!(number("/errors/count"), 0.0);
    assert_eq!(number("/verify/mismatches"), 0.0);
    for phase in ["before", "during", "after"] {
        assert!(number(&format!("/phases/{phase}/ios")) > 0.0, "{phase}");
    }
    // What felt the gap took as long as it, and is what waited: at most the two queues of 32.
    let gap_us = number("/gap/longest_us");
    assert!(gap_us > 0.0, "{report}");
    assert!(number("/phases/during/latency_us/max") >= gap_us * 0.99);
    for waited in ["/waiting/for_path", "/waiting/parked", "/phases/during/ios"] {
        assert!(number(waited) <= 64.0, "{waited}: {report}");
    }
    let steps = report["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 4, "{report}");
    // All 64 MiB are read at the end.
    assert!(number("/verify/checked_bytes") >= f64::from(64 << 20));
}

/// Without a terminal there are plain lines; what is printed is what happened.
#[test]
fn without_a_terminal_there_are_plain_lines() {
    let output = Command::new(POLLDM)
        .args(["demo", "--time", "300ms"])
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains(['\x1b', '\r']), "{text}");
    for part in [
        "diskA is pulled",
        "suspended",
        "resumed",
        "errors    0",
        "gap ",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}

/// An interrupted demo ends in order, long before its time.
#[test]
fn an_interruption_ends_it_soon() {
    let mut child = Command::new(POLLDM)
        .args(["demo", "--time", "1h"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut first).unwrap();
    assert!(first.starts_with("target "), "{first}");
    // SAFETY: no memory is involved; the child has not been waited for, so the number is still its own.
    let sent = unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    assert_eq!(sent, 0);
    let mut complaints = String::new();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut complaints).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(complaints.contains("SIGINT"), "{complaints}");
    assert!(complaints.contains("ended early"), "{complaints}");
}

#[test]
fn a_time_that_makes_no_sense_is_refused() {
    let output = Command::new(POLLDM)
        .args(["demo", "--time", "1ms"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}
