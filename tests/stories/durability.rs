//! AT-64: what a host was promised is on the medium. A host writes, writes with FUA and flushes, many at once; at any moment, what a power cut would leave has
//! everything that it was promised until then.

use polldm::host::{BlockingQueue, Payload};
use polldm::nvme::command::Command;
use polldm::nvme::opcode::io;

use crate::BLOCK;
use crate::fake::Fake;
use crate::statuses::{SECTORS, two_ways};

/// Blocks that are written.
const BLOCKS: usize = 128;

/// Queues, on cores of their own where there are so many, and commands on each at the most.
const QUEUES: usize = 2;
const DEPTH: usize = 16;

/// Commands of a run, and those between two swaps.
const COMMANDS: usize = 1_500;
const SWAP_EVERY: usize = 150;

/// The tables that follow one another under the load, cut differently and by one way or the other.
const TABLES: [&str; 4] = [
    "0 2048 linear r0 0",
    "0 1000 linear r0 0\n1000 1048 linear r1 1000",
    "0 2048 striped 1 8 r1 0",
    "0 2048 delay r0 0 0 r1 0 1",
];

/// The tables that follow these: a way is lost now and then, and each has lost none yet.
pub const PATHS: [&str; 2] = [
    "0 2048 multipath 1 queue_if_no_path 0 1 1 round-robin 0 2 1 r0 1 r1 1",
    "0 2048 multipath 1 queue_if_no_path 0 2 1 round-robin 0 1 0 r1 round-robin 0 1 0 r0",
];

/// Numbers without a pattern, always the same ones: xorshift64*.
pub struct Random(u64);

impl Random {
    /// Each seed has its own; it is not 0.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }
}

/// What is under way.
enum What {
    /// Blocks from the first one, each of its next generation.
    Write {
        first: usize,
        count: usize,
        fua: bool,
    },
    /// What had been written when it was sent.
    Flush(Vec<u64>),
}

struct Under {
    queue: usize,
    command: u16,
    what: What,
}

/// A host and what it knows: generations of each block.
struct Witness {
    queues: Vec<BlockingQueue>,
    random: Random,
    sent: Vec<u64>,
    written: Vec<u64>,
    promised: Vec<u64>,
    under_way: Vec<Under>,
    failed: usize,
}

/// A block of a generation.
fn content(block: usize, generation: u64) -> Vec<u8> {
    let words = [block as u64, generation];
    let bytes = words.into_iter().flat_map(u64::to_le_bytes);
    bytes.cycle().take(BLOCK).collect()
}

/// The generation of a block; one that nobody has written is of generation 0.
fn generation(block: usize, bytes: &[u8]) -> u64 {
    let generation = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"));
    let right = match generation {
        0 => vec![0; BLOCK],
        _ => content(block, generation),
    };
    assert!(bytes == right, "block {block} is torn");
    generation
}

impl Witness {
    fn new(queues: Vec<BlockingQueue>) -> Witness {
        Witness {
            queues,
            random: Random::new(20_261_121),
            sent: vec![0; BLOCKS],
            written: vec![0; BLOCKS],
            promised: vec![0; BLOCKS],
            under_way: Vec::new(),
            failed: 0,
        }
    }

    /// Whether no command is under way to a block: then its generations have an order.
    fn is_idle(&self, block: usize) -> bool {
        self.sent[block] == self.written[block]
    }

    fn start(&mut self) {
        let queue = self.random.below(QUEUES);
        let (command, what, bytes) = match self.random.below(16) {
            0 => {
                let what = What::Flush(self.written.clone());
                (Command::new(io::FLUSH, 1), what, Vec::new())
            }
            kind => {
                let first = self.random.below(BLOCKS);
                let room = (first..BLOCKS).take_while(|block| self.is_idle(*block));
                let count = room.take(1 + self.random.0 as usize % 4).count();
                if count == 0 {
                    return;
                }
                let mut bytes = Vec::new();
                for block in first..first + count {
                    self.sent[block] += 1;
                    bytes.extend(content(block, self.sent[block]));
                }
                let fua = kind < 3;
                let mut command = Command::block_io(io::WRITE, 1, first as u64, count as u32);
                if fua {
                    command.set_force_unit_access();
                }
                (command, What::Write { first, count, fua }, bytes)
            }
        };
        let payload = match bytes.as_slice() {
            [] => Payload::None,
            bytes => Payload::Write(bytes),
        };
        let command = self.queues[queue].start(command, payload).expect("sent");
        self.under_way.push(Under {
            queue,
            command,
            what,
        });
    }

    /// Looks what has ended, and remembers what that promises.
    fn look(&mut self) {
        for queue in &mut self.queues {
            queue.poll().expect("the connection lasts");
        }
        for under in std::mem::take(&mut self.under_way) {
            let Some(outcome) = self.queues[under.queue].take(under.command) else {
                self.under_way.push(under);
                continue;
            };
            let is_promised = outcome.completion.status.is_success();
            self.failed += usize::from(!is_promised);
            match under.what {
                What::Write { first, count, fua } => {
                    for block in first..first + count {
                        self.written[block] = self.sent[block];
                        if fua && is_promised {
                            self.promised[block] = self.sent[block];
                        }
                    }
                }
                What::Flush(written) if is_promised => {
                    for (promised, written) in self.promised.iter_mut().zip(written) {
                        *promised = written.max(*promised);
                    }
                }
                What::Flush(_) => {}
            }
        }
    }

    /// What a power cut would leave now has all that was promised, and nothing that was never sent.
    fn demand(&self, fake: &Fake) {
        let medium = fake.state().durable.clone();
        for (block, bytes) in medium.chunks(BLOCK).take(BLOCKS).enumerate() {
            let found = generation(block, bytes);
            let (promised, sent) = (self.promised[block], self.sent[block]);
            assert!(
                (promised..=sent).contains(&found),
                "block {block} has {found}; promised was {promised}, sent {sent}"
            );
        }
    }

    fn finish(&mut self) {
        while !self.under_way.is_empty() {
            self.look();
        }
    }
}

impl Witness {
    /// Does commands, between which `between` is told their number.
    fn run(&mut self, fake: &Fake, mut between: impl FnMut(usize)) {
        for number in 0..COMMANDS {
            while self.under_way.len() >= DEPTH {
                self.look();
            }
            self.start();
            self.look();
            if number % 25 == 0 {
                self.demand(fake);
            }
            between(number);
        }
        self.finish();
        self.demand(fake);
        assert_eq!(self.failed, 0);
    }
}

/// Nothing that was promised is lost at a power cut, whatever tables follow one another with I/O under way, and whichever way is lost meanwhile; and what was not promised
/// is.
#[test]
fn at_64_nothing_a_host_was_promised_is_lost() {
    assert!(BLOCKS as u64 * 8 <= SECTORS);
    let mut fake = Fake::start();
    let node = two_ways(&mut fake, TABLES[0]);
    let (_controller, queues) = node.queues(QUEUES as u16, DEPTH);
    let mut witness = Witness::new(queues);
    let swap = |tables: &[&str], number: usize| {
        if number.is_multiple_of(SWAP_EVERY) {
            let table = tables[number / SWAP_EVERY % tables.len()];
            node.dm("swap", &["--table", table]);
        }
    };
    witness.run(&fake, |number| swap(&TABLES, number));
    assert!(witness.promised.iter().all(|promised| *promised > 0));

    // The power fails, with writes that nobody has flushed: what is read then is what the medium had.
    node.dm("swap", &["--table", TABLES[0]]);
    for lba in 0..8 {
        witness.sent[lba] += 1;
        let bytes = content(lba, witness.sent[lba]);
        let written = witness.queues[0].write(1, lba as u64, &bytes, BLOCK as u32);
        written.expect("written");
    }
    {
        let mut state = fake.state();
        state.cut_if(|_| true);
        state.memory = state.durable.clone();
    }
    for block in 0..BLOCKS {
        let read = witness.queues[0].read(1, block as u64, 1, BLOCK as u32);
        let found = generation(block, &read.expect("the connection comes back"));
        assert!(found >= witness.promised[block], "block {block}");
        assert!(block >= 8 || found < witness.sent[block], "block {block}");
        (witness.sent[block], witness.written[block]) = (found, found);
    }

    let mut lost = 0;
    witness.run(&fake, |number| {
        swap(&PATHS, number);
        if number % 600 == 400 {
            fake.state().cut_if(|way| way == lost % 2);
            lost += 1;
        }
    });
    drop(witness);
    node.end();
}
