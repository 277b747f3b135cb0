//! A device on a device on remote disks: AT-70.

use crate::fake::Fake;
use crate::load::Load;
use crate::node::Node;
use crate::statuses::two_ways;

/// The device in the middle.
const MIDDLE: &str = "mid";

fn multipath(paths: &[&str]) -> String {
    let count = paths.len();
    let paths = paths.join(" ");
    format!("0 2048 multipath 1 queue_if_no_path 0 1 1 round-robin 0 {count} 0 {paths}")
}

fn suspend(node: &Node, option: &str, device: &str) {
    node.told(&["dm", "suspend", option, device]);
}

fn resume(node: &Node, device: &str) {
    node.told(&["dm", "resume", device]);
}

/// A table of lines on a multipath on two ways to a disk: under a host's I/O the levels are suspended from above, from below and as a stack, resumed in either order,
/// and the one in the middle loses its ways and is given others. Nothing hangs, nothing fails, and every read finds what was written.
#[test]
fn at_70_a_host_sees_nothing_of_levels_beneath() {
    let mut fake = Fake::start();
    let node = two_ways(&mut fake, "0 2048 linear r0 0");
    let both = multipath(&["r0", "r1"]);
    node.told(&["dm", "create", MIDDLE, "--table", &both]);
    let lines = "0 72 linear mid 0\n72 1976 linear mid 72";
    node.dm("swap", &["--table", lines]);
    let load = Load::start(&node);
    let all = load.outstanding();
    let until_parked = |device: &str| {
        node.until(device, |now| now.parked == all);
    };
    load.after(300);
    for option in ["--noflush", "--nolockfs"] {
        // From below: what comes from above parks there, and the suspend above waits for it.
        suspend(&node, option, MIDDLE);
        until_parked(MIDDLE);
        let above = node.start_command(&["dm", "suspend", option, "vol"]);
        resume(&node, MIDDLE);
        let above = above.wait_with_output().expect("it was started here");
        assert!(above.status.success());
        until_parked("vol");
        assert_eq!(node.counts(MIDDLE).in_flight, 0);
        resume(&node, "vol");
        load.after(300);

        // From above, and resumed from below or from above.
        for upper_first in [false, true] {
            suspend(&node, option, "vol");
            until_parked("vol");
            suspend(&node, option, MIDDLE);
            let now = node.counts(MIDDLE);
            assert_eq!((now.in_flight, now.parked), (0, 0));
            if upper_first {
                resume(&node, "vol");
                until_parked(MIDDLE);
                resume(&node, MIDDLE);
            } else {
                resume(&node, MIDDLE);
                until_parked("vol");
                resume(&node, "vol");
            }
            load.after(300);
        }
    }
    node.told(&["dm", "suspend", "--stack", "vol"]);
    until_parked("vol");
    node.told(&["dm", "resume", "--stack", "vol"]);
    load.after(300);

    let swap = |paths: &[&str]| {
        let table = multipath(paths);
        node.told(&["dm", "swap", MIDDLE, "--table", &table]);
        load.after(300);
    };
    for paths in [&["r1"][..], &["r0"], &["r1", "r0"], &["r0"], &["r0", "r1"]] {
        swap(paths);
    }
    for path in ["r0", "r1"] {
        node.told(&["dm", "message", MIDDLE, "0", "fail_path", path]);
    }
    node.until(MIDDLE, |now| (now.held, now.in_flight) == (all, all));
    swap(&["r0", "r1"]);
    load.demand_flawless();
    load.stop();
    node.end();
}
