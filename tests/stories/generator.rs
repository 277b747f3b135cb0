//! A generator within the engine: the end of an I/O is a call that submits the next one. AT-56.

use crate::life::DISKS;
use crate::node::bench;

/// 128 at a time, to devices that answer at once, later, either, and by a timer: nothing nests, nothing stands still, and what was written is read.
#[test]
fn at_56_the_end_of_an_io_submits_the_next() {
    for (table, options) in [
        ("0 16384 linear a 0", &["--verify"][..]),
        ("0 16384 striped 2 8 a 0 b 0", &["--verify"]),
        ("0 16384 delay a 0 1", &["--verify"]),
        ("0 1024 linear a 0\n      1024 15360 zero", &[]),
    ] {
        let report = bench(DISKS, table, options);
        assert!(report.contains("errors  0\n"), "{table}: {report}");
        let is_verified = report.contains(", 0 mismatches");
        assert_eq!(is_verified, !options.is_empty(), "{table}: {report}");
    }
}
