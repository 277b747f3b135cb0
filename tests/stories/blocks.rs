//! Blocks of 512 bytes over a disk of 4 KiB blocks: the target `ebs`.

use polldm::host::Payload;
use polldm::nvme::command::Command;
use polldm::nvme::opcode::io;

use crate::durability::Random;
use crate::node::Node;

/// Blocks of the namespace that are written: few, so that writes meet in those of the disk.
const BLOCKS: usize = 96;
const DISK: &str = "  - malloc: { name: disk, size: 16MiB, block_size: 4096 }\n";
/// Twice the same blocks, over the disk's own and over larger ones.
const TABLES: [&str; 2] = ["0 16384 ebs disk 0 1", "0 16384 ebs disk 0 1 16"];

/// Reads and writes at any block, sixteen at once, no two of them to one block but many to one of the disk's; with the table swapped under
/// them for another with the same blocks. Each read finds what was written last, byte by byte.
#[test]
fn no_write_is_lost_to_a_part_of_a_block() {
    let node = Node::start(DISK, TABLES[0]);
    let mut host = node.host();
    let mut random = Random::new(512);
    let mut disk = vec![0; BLOCKS * 512];
    for round in 0..400 {
        let (mut reads, mut writes) = (Vec::new(), Vec::new());
        let mut taken = [false; BLOCKS];
        for _ in 0..16 {
            let first = random.below(BLOCKS);
            let count = (1 + random.below(20)).min(BLOCKS - first);
            let blocks = &mut taken[first..first + count];
            if blocks.contains(&true) {
                continue;
            }
            blocks.fill(true);
            let bytes = first * 512..(first + count) * 512;
            let command = |opcode| Command::block_io(opcode, 1, first as u64, count as u32);
            if random.below(3) == 0 {
                let payload = Payload::Read(bytes.len() as u32);
                reads.push((host.start(command(io::READ), payload), bytes));
            } else {
                let value = round + first;
                let content = disk[bytes.clone()].iter_mut().enumerate();
                content.for_each(|(at, byte)| *byte = (value + at / 7) as u8);
                let payload = Payload::Write(&disk[bytes]);
                writes.push(host.start(command(io::WRITE), payload));
            }
        }
        if round % 40 == 20 {
            node.dm("swap", &["--table", TABLES[round / 40 % 2]]);
        }
        for write in writes {
            let outcome = host.queue.finish(write).expect("an answer");
            assert!(outcome.completion.status.is_success());
        }
        for (read, bytes) in reads {
            let outcome = host.queue.finish(read).expect("an answer");
            assert!(outcome.completion.status.is_success());
            assert!(outcome.data == disk[bytes.clone()], "{bytes:?}, {round}");
        }
    }
    let status = node.told(&["dm", "status", "vol"]);
    assert!(status.contains(" ebs "), "{status}");
    drop(host);
    node.end();
}
