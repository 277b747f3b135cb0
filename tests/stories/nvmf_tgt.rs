//! The stories of lost paths with SPDK's own `nvmf_tgt` as the ways, two of them over one file: nothing that polldm's own targets do is needed for them to
//! end well.

use crate::lost_paths::{self, Paths};
use crate::ways::Transport::Tcp;

#[test]
fn nvmf_tgt_the_other_way_serves() {
    if let Some(paths) = Paths::of_nvmf_tgt(Tcp) {
        lost_paths::served_by_the_other_way(paths);
    }
}

#[test]
fn nvmf_tgt_what_waits_outlives_the_loss() {
    if let Some(paths) = Paths::of_nvmf_tgt(Tcp) {
        lost_paths::waiting_outlives_the_loss(paths);
    }
}

#[test]
fn nvmf_tgt_a_new_table_brings_a_way() {
    if let Some(paths) = Paths::of_nvmf_tgt(Tcp) {
        lost_paths::a_table_brings_a_way(paths);
    }
}

#[test]
fn nvmf_tgt_is_pulled_with_io_in_flight() {
    if let Some(paths) = Paths::of_nvmf_tgt(Tcp) {
        lost_paths::pulled_with_io_in_flight(paths);
    }
}

/// Controllers that grant a host one I/O queue. One reactor gets it, and SPDK's target does without one of its own; two reactors cannot have the device,
/// which is said at once.
#[cfg(feature = "spdk")]
#[test]
fn nvmf_tgt_grants_one_queue() {
    use crate::load::Load;
    use crate::lost_paths::SECTORS;
    use crate::node::{self, Node};
    use crate::ways::{NvmfTgt, Way};

    let disk = tempfile::NamedTempFile::new().expect("a file");
    let made = disk.as_file().set_len(SECTORS * 512);
    made.expect("room for a disk");
    let Some(way) = NvmfTgt::granting(1, Tcp, disk.path()) else {
        return;
    };
    let table = format!("0 {SECTORS} linear r0 0");
    let node = Node::start(&way.bdev("r0"), &table);
    let load = Load::start(&node);
    load.after(300);
    node.dm("swap", &["--table", &table]);
    load.after(300);
    load.demand_flawless();
    load.stop();
    node.end();

    let said = node::refused_on_two_reactors(&way.bdev("r0"), &table);
    let reason = "its NVMe controller grants 1 I/O queue, and each of the 2 reactors needs one";
    assert!(said.contains(reason), "{said}");
}

/// A way over vfio-user is pulled, which SPDK notices by the time that its commands take, 30 s; the table is swapped for one of the other way, noflush. The
/// way does not come back by itself, but when its bdev is taken away and added again.
#[cfg(feature = "spdk")]
#[test]
fn nvmf_tgt_is_pulled_and_swapped_over_vfio_user() {
    use crate::load::Load;
    use crate::lost_paths::multipath;
    use crate::ways::{Transport, Way};

    if !polldm::spdk::HAS_VFIO_USER {
        println!("skipped: this SPDK was built without vfio-user");
        return;
    }
    let Some(mut paths) = Paths::of_nvmf_tgt(Transport::VfioUser) else {
        return;
    };
    let node = paths.node(&multipath(true, &["r0"]));
    let load = Load::start(&node);
    load.after(300);
    paths.ways[0].kill();
    node.until_held(&load);
    node.dm("swap", &["--table", &multipath(true, &["r1"])]);
    load.after(300);
    paths.ways[0].restart();
    node.told(&["bdev", "remove", "--force", "r0"]);
    let words = paths.ways[0].bdev_words("r0");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    node.told(&[&["bdev", "add"], &words[..]].concat());
    node.dm("swap", &["--table", &multipath(true, &["r0"])]);
    load.after(300);
    load.demand_flawless();
    load.stop();
    node.end();
}
