//! A counter that two queues of a host count up by compare-and-write: AT-77.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use polldm::host::BlockingQueue;
use polldm::nvme::Status;

use crate::BLOCK;
use crate::durability::PATHS;
use crate::fake::Fake;
use crate::node::Node;
use crate::statuses::two_ways;

/// The block that is the counter. SPDK's compare-and-write takes one, and no more.
const COUNTER: u64 = 77;

/// What the queues have done so far.
#[derive(Default)]
struct Done {
    counted: AtomicU64,
    enough: AtomicBool,
}

fn block(value: u64) -> Vec<u8> {
    value.to_le_bytes().repeat(BLOCK / 8)
}

fn read(queue: &mut BlockingQueue) -> u64 {
    let bytes = queue.read(1, COUNTER, 1, BLOCK as u32).expect("read");
    let value = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    assert!(bytes == block(value), "the block is torn");
    value
}

/// Writes the next value where `old` is stored; whether that was so.
fn count_from(queue: &mut BlockingQueue, old: u64) -> bool {
    let outcome = queue.compare_and_write(1, COUNTER, &block(old), &block(old + 1), BLOCK as u32);
    let (compare, write) = outcome.expect("the connection lasts");
    if compare.status.is_success() && write.status.is_success() {
        return true;
    }
    let status = compare.status;
    assert!(status.is(Status::COMPARE_FAILURE), "{status}");
    false
}

fn count(mut queue: BlockingQueue, done: &Done) {
    while !done.enough.load(Ordering::Relaxed) {
        let old = read(&mut queue);
        let counted = count_from(&mut queue, old);
        done.counted.fetch_add(counted.into(), Ordering::Relaxed);
    }
}

/// Waits until so many more have been counted. A way may have been used before it was there again: when none is left, both are tried anew.
fn until_counted(node: &Node, done: &Done, more: u64) {
    let enough = done.counted.load(Ordering::Relaxed) + more;
    while done.counted.load(Ordering::Relaxed) < enough {
        if node.dm("status", &[]).matches(" F ").count() == 2 {
            for path in ["r0", "r1"] {
                node.say(&["reinstate_path", path]);
            }
        }
    }
}

/// Two queues, on two cores where there are two, count up one block while its tables are swapped and its ways are lost: each success is counted once in the block, and
/// nothing else is.
#[test]
fn at_77_a_host_counts_exactly() {
    const SWAPS: usize = 16;
    let mut fake = Fake::start();
    let node = two_ways(&mut fake, PATHS[1]);
    let (_controller, mut queues) = node.queues(2, 4);
    let [first, second] = &mut queues[..] else {
        panic!("two were asked for");
    };
    let old = read(first);
    assert!(count_from(second, old));
    assert!(!count_from(first, old), "it is counted already");
    let done = Arc::new(Done::default());
    let threads = queues.into_iter().map(|queue| {
        let done = Arc::clone(&done);
        std::thread::spawn(move || count(queue, &done))
    });
    let threads: Vec<_> = threads.collect();
    for number in 0..SWAPS {
        until_counted(&node, &done, 20);
        if number % 4 == 3 {
            fake.state().cut_if(|way| way == number / 4 % 2);
            until_counted(&node, &done, 20);
        }
        node.dm("swap", &["--table", PATHS[number % 2]]);
    }
    done.enough.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("it was exact");
    }
    let mut host = node.host();
    let counted = done.counted.load(Ordering::Relaxed);
    assert_eq!(read(&mut host.queue), old + 1 + counted);
    drop(host);
    node.end();
}
