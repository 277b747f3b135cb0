//! I/O that is several pieces below, what becomes of each, and of the whole: AT-41, AT-42, AT-73, AT-76, AT-80.

use polldm::host::{Error, Payload};
use polldm::nvme::Status;
use polldm::nvme::command::Command;
use polldm::nvme::opcode::io;

use crate::BLOCK;
use crate::durability::Random;
use crate::fake::{Fake, Seen};
use crate::flushes::disks;
use crate::node::{Host, Node};
#[cfg(feature = "spdk")]
use crate::statuses::NQN;
use crate::statuses::{FIRST_WAY, two_ways};

/// Bytes of a large write: each block is of its own.
fn content(blocks: usize, value: u8) -> Vec<u8> {
    let block = |number: usize| vec![value.wrapping_add(number as u8); BLOCK];
    (0..blocks).flat_map(block).collect()
}

/// A write that is two commands for a remote disk (its largest transfer is 32 KiB), of which the disk does one, or the other, before its only path is lost, or gets neither. A
/// suspend with noflush takes the write back as one; after the resume, by another table's path, each of its blocks is written once, and then it has ended, once.
#[test]
fn at_41_42_a_write_with_a_piece_without_a_path_is_repeated_whole() {
    const FIRST: u64 = 8;
    const BLOCKS: u64 = 16;
    // Where SPDK's bdev layer cuts, it is one piece for the mapper.
    const PIECES: u64 = if cfg!(feature = "spdk") { 1 } else { 2 };
    let by =
        |path: &str| format!("0 2048 multipath 1 queue_if_no_path 0 1 1 round-robin 0 1 0 {path}");
    let (node, fakes) = disks::<2>(&by("r0"));
    let mut host = node.host();
    for (value, done) in [Some(FIRST), Some(FIRST + BLOCKS / 2), None]
        .into_iter()
        .enumerate()
    {
        let data = content(BLOCKS as usize, 1 + value as u8);
        match done {
            Some(_) => fakes[0].state().withholds = |seen| seen.opcode == io::WRITE,
            None => node.say(&["fail_path", "r0"]),
        }
        let command = Command::block_io(io::WRITE, 1, FIRST, BLOCKS as u32);
        let write = host.start(command, Payload::Write(&data));
        let is_there = || match done {
            Some(_) => fakes[0].state().withheld().len() == 2,
            None => node.counts("vol").held == PIECES,
        };
        while !is_there() {
            // The target asks for what does not fit a capsule.
            host.queue.poll().expect("the connection lasts");
        }
        let suspend = node.start_command(&["dm", "suspend", "--noflush", "vol"]);
        {
            let mut state = fakes[0].state();
            state.withholds = |_| false;
            state.let_go(|one| Some(one.lba) == done, Status::SUCCESS);
            state.let_go(|_| true, Status::INTERNAL_PATH_ERROR.do_not_retry());
        }
        let suspended = suspend.wait_with_output().expect("it was started here");
        assert!(suspended.status.success());
        let now = node.counts("vol");
        assert_eq!((now.in_flight, now.held, now.parked), (0, 0, 1));
        assert_eq!(now.pushed_back, 1 + value as u64);
        assert_eq!(now.completed, value as u64);

        fakes.iter().for_each(|fake| drop(fake.state().take_seen()));
        node.dm("load", &["--table", &by("r1")]);
        node.dm("resume", &[]);
        let outcome = host.queue.finish(write).expect("an answer");
        assert!(outcome.completion.status.is_success());
        assert!(fakes[0].state().take_seen().is_empty());
        let seen = fakes[1].state().take_seen();
        assert!(seen.iter().all(|one| one.opcode == io::WRITE), "{seen:?}");
        let blocks = |one: &Seen| one.lba..one.lba + u64::from(one.blocks);
        let mut written: Vec<u64> = seen.iter().flat_map(blocks).collect();
        written.sort_unstable();
        assert!(
            written.iter().copied().eq(FIRST..FIRST + BLOCKS),
            "{seen:?}"
        );
        assert!(fakes[1].state().memory[FIRST as usize * BLOCK..][..data.len()] == data);
        let now = node.until("vol", |now| now.in_flight == 0);
        assert_eq!((now.completed, now.errors), (1 + value as u64, 0));
        node.dm("swap", &["--table", &by("r0")]);
    }
    drop(host);
    node.end();
}

/// SPDK's initiator cannot send such a write to a controller that announces no SGLs, and the write would wait for another path for ever: no such controller is taken.
#[cfg(feature = "spdk")]
#[test]
fn a_remote_without_sgls_is_refused() {
    let (node, _fakes) = disks::<1>("0 2048 linear r0 0");
    let fake = Fake::start();
    fake.state().sgl_support = 0;
    let [address, nqn] = [format!("address={}", fake.address), format!("nqn={NQN}")];
    let said = node.refused(&["bdev", "add", "nvme-tcp", "name=r1", &address, &nqn]);
    assert!(said.contains("takes no SGLs (SGLS 0)"), "{said}");
    node.end();
}

/// A line of a table: so many sectors, and what they are.
#[derive(Clone)]
struct Line(u64, What);

#[derive(Clone)]
enum What {
    Zero,
    /// Of a disk, from a sector on.
    Linear(usize, u64),
    /// Chunks of so many sectors, and the stripes.
    Striped(u64, Vec<(usize, u64)>),
}

/// Cuts at odd places, of every kind.
fn lines() -> Vec<Line> {
    vec![
        Line(37, What::Linear(0, 100)),
        Line(90, What::Striped(9, vec![(0, 1001), (1, 2003)])),
        Line(13, What::Zero),
        Line(61, What::Linear(1, 7)),
        Line(84, What::Striped(7, vec![(0, 1200), (1, 3001), (0, 1501)])),
        Line(1, What::Linear(1, 500)),
        Line(211, What::Linear(0, 2000)),
        Line(3, What::Zero),
    ]
}

/// The same places of the same disks, with twice as many lines.
fn cut_again(lines: Vec<Line>) -> Vec<Line> {
    let cut = |Line(sectors, what): Line| {
        let row = match &what {
            What::Striped(chunk, stripes) => chunk * stripes.len() as u64,
            _ => 1,
        };
        let first = sectors / 3 / row * row;
        let second = match what.clone() {
            What::Zero => What::Zero,
            What::Linear(disk, start) => What::Linear(disk, start + first),
            What::Striped(chunk, mut stripes) => {
                for (_, start) in &mut stripes {
                    *start += first / row * chunk;
                }
                What::Striped(chunk, stripes)
            }
        };
        [Line(first, what), Line(sectors - first, second)]
    };
    let halves = lines.into_iter().flat_map(cut);
    halves.filter(|Line(sectors, _)| *sectors > 0).collect()
}

fn table(lines: &[Line]) -> String {
    let mut start = 0;
    let line = |Line(sectors, what): &Line| {
        let text = match what {
            What::Zero => "zero".into(),
            What::Linear(disk, start) => format!("linear m{disk} {start}"),
            What::Striped(chunk, stripes) => {
                let areas = stripes
                    .iter()
                    .map(|(disk, start)| format!(" m{disk} {start}"));
                let areas: String = areas.collect();
                format!("striped {} {chunk}{areas}", stripes.len())
            }
        };
        let line = format!("{start} {sectors} {text}\n");
        start += sectors;
        line
    };
    lines.iter().map(line).collect()
}

/// Where a sector is: the disk and the sector of it, if any.
fn place(lines: &[Line], mut sector: u64) -> Option<(usize, u64)> {
    for Line(sectors, what) in lines {
        if sector >= *sectors {
            sector -= sectors;
            continue;
        }
        return match what {
            What::Zero => None,
            What::Linear(disk, start) => Some((*disk, start + sector)),
            What::Striped(chunk, stripes) => {
                let (number, count) = (sector / chunk, stripes.len() as u64);
                let (disk, start) = stripes[(number % count) as usize];
                Some((disk, start + number / count * chunk + sector % chunk))
            }
        };
    }
    panic!("beyond the end");
}

const SECTOR: usize = 512;

/// I/O of a host that is under way.
struct Under {
    command: u16,
    first: u64,
    sectors: u64,
    /// What a read must find.
    expected: Option<Vec<u8>>,
}

/// Reads, writes and write-zeroes of any size at any place, several at once, of a table with cuts at odd sectors, which is swapped for the same places cut differently:
/// each byte is what a model says, in the device and, at the end, on the disks.
#[test]
fn at_73_io_across_cuts_at_odd_places_is_right() {
    const DISK: u64 = 8192;
    const COMMANDS: usize = 1_200;
    const AT_ONCE: usize = 8;
    const LONGEST: usize = 90;
    let tables = [lines(), cut_again(lines())];
    let all: u64 = lines().iter().map(|Line(sectors, _)| sectors).sum();
    for sector in 0..all {
        assert_eq!(place(&tables[0], sector), place(&tables[1], sector));
    }
    let malloc = |name| format!("  - malloc: {{ name: {name}, size: 4MiB, block_size: 512 }}\n");
    let node = Node::start(&(malloc("m0") + &malloc("m1")), "0 500 linear m0 0");
    for (nsid, disk) in [(2, "m0"), (3, "m1")] {
        node.create(
            nsid,
            &format!("raw-{disk}"),
            &format!("0 {DISK} linear {disk} 0"),
        );
    }
    let swap = |number: usize| {
        let text = table(&tables[number % 2]);
        node.dm("swap", &["--table", &text]);
    };
    swap(0);
    let mut host = node.host();
    let mut random = Random::new(73);
    let mut model = vec![0; all as usize * SECTOR];
    let mut under_way: Vec<Under> = Vec::new();
    let finish = |host: &mut Host, under: Under| {
        let outcome = host.queue.finish(under.command).expect("an answer");
        let status = outcome.completion.status;
        let (first, sectors) = (under.first, under.sectors);
        assert!(status.is_success(), "{first}+{sectors}: {status}");
        let is_right = under.expected.is_none_or(|bytes| bytes == outcome.data);
        assert!(is_right, "{first}+{sectors}");
    };
    for number in 0..COMMANDS {
        if number % 100 == 99 {
            swap(number / 100 + 1);
        }
        let first = random.below(all as usize) as u64;
        let sectors = (1 + random.below(LONGEST) as u64).min(all - first);
        // Of what overlaps, one comes first.
        let overlaps =
            |other: &Under| other.first < first + sectors && first < other.first + other.sectors;
        while under_way.len() == AT_ONCE || under_way.iter().any(overlaps) {
            finish(&mut host, under_way.remove(0));
        }
        let bytes = first as usize * SECTOR..(first + sectors) as usize * SECTOR;
        let io = |opcode| Command::block_io(opcode, 1, first, sectors as u32);
        let kind = random.below(8);
        let command = match kind {
            0 => {
                model[bytes.clone()].fill(0);
                host.start(io(io::WRITE_ZEROES), Payload::None)
            }
            1..4 => {
                for (at, chunk) in model[bytes.clone()].chunks_mut(SECTOR).enumerate() {
                    let words = [number as u64, first + at as u64].map(u64::to_le_bytes);
                    let pattern = words.as_flattened().iter().cycle();
                    chunk
                        .iter_mut()
                        .zip(pattern)
                        .for_each(|(to, from)| *to = *from);
                }
                let data = model[bytes.clone()].to_vec();
                for sector in
                    (first..first + sectors).filter(|one| place(&tables[0], *one).is_none())
                {
                    model[sector as usize * SECTOR..][..SECTOR].fill(0);
                }
                host.start(io(io::WRITE), Payload::Write(&data))
            }
            _ => host.start(io(io::READ), Payload::Read(bytes.len() as u32)),
        };
        under_way.push(Under {
            command,
            first,
            sectors,
            expected: (kind >= 4).then(|| model[bytes].to_vec()),
        });
    }
    under_way
        .drain(..)
        .for_each(|under| finish(&mut host, under));

    let mut disks = [0, 1].map(|_| vec![0; DISK as usize * SECTOR]);
    for (sector, bytes) in (0..).zip(model.chunks(SECTOR)) {
        if let Some((disk, at)) = place(&tables[0], sector) {
            disks[disk][at as usize * SECTOR..][..SECTOR].copy_from_slice(bytes);
        }
    }
    const AT_A_TIME: usize = 128;
    for (nsid, disk) in (2..).zip(&disks) {
        for (number, expected) in disk.chunks(AT_A_TIME * SECTOR).enumerate() {
            let lba = (number * AT_A_TIME) as u64;
            let read = host.queue.read(nsid, lba, AT_A_TIME as u32, SECTOR as u32);
            assert!(
                read.expect("read") == expected,
                "namespace {nsid}, from {lba}"
            );
        }
    }
    drop(host);
    node.end();
}

/// Writes of many pieces are under way while tables for one disk and for another are swapped for each other: each write is whole on one of them and not at all on the
/// other, and on that of the live table if no swap is under way. No block is written twice.
#[test]
fn at_76_no_write_is_on_two_tables() {
    const BLOCKS: usize = 24;
    const SLOTS: usize = 8;
    const SWAPS: usize = 20;
    /// Sectors of a line.
    const LINE: u64 = 24;
    let lines = |disk: usize| -> String {
        let starts = (0..2048).step_by(LINE as usize);
        let line = |start: u64| {
            let sectors = LINE.min(2048 - start);
            format!("{start} {sectors} linear r{disk} {start}\n")
        };
        starts.map(line).collect()
    };
    let (node, fakes) = disks::<2>("0 2048 linear r0 0");
    node.dm("swap", &["--table", &lines(0)]);
    let mut host = node.host();
    let mut generations = [0u64; SLOTS];
    // The command of a slot, and how many swaps there had been when it was started, unless one was under way.
    let mut under_way: [Option<(u16, Option<usize>)>; SLOTS] = [None; SLOTS];
    let mut on_either = [0u64; 2];
    let mut step = |swaps: Option<usize>, starts: bool| -> usize {
        let mut ended = 0;
        host.queue.poll().expect("the connection lasts");
        for (slot, under) in under_way.iter_mut().enumerate() {
            let lba = slot * 32 + 1;
            if let Some((command, started)) = *under {
                let Some(outcome) = host.queue.take(command) else {
                    continue;
                };
                let status = outcome.completion.status;
                assert!(status.is_success(), "{status}");
                let written = fakes.each_ref().map(|fake| {
                    let state = fake.state();
                    let blocks = state.memory[lba * BLOCK..][..BLOCKS * BLOCK].chunks(BLOCK);
                    let is_new = |block: &&[u8]| {
                        block
                            .chunks(8)
                            .all(|one| one == generations[slot].to_le_bytes())
                    };
                    blocks.filter(is_new).count()
                });
                let on = usize::from(written[0] == 0);
                assert_eq!((written[on], written[1 - on]), (BLOCKS, 0), "slot {slot}");
                if let Some(swaps) = swaps.filter(|swaps| started == Some(*swaps)) {
                    assert_eq!(on, swaps % 2, "slot {slot}");
                }
                on_either[on] += 1;
                *under = None;
                ended += 1;
            }
            if starts {
                generations[slot] += 1;
                let data = generations[slot].to_le_bytes().repeat(BLOCKS * BLOCK / 8);
                let io = Command::block_io(io::WRITE, 1, lba as u64, BLOCKS as u32);
                *under = Some((host.start(io, Payload::Write(&data)), swaps));
            }
        }
        ended
    };
    for number in 0..SWAPS {
        let mut ended = 0;
        // So that as many have been started and have ended since the last swap.
        while ended < 2 * SLOTS {
            ended += step(Some(number), true);
        }
        let table = lines((number + 1) % 2);
        let mut swap = node.start_command(&["dm", "swap", "vol", "--table", &table]);
        let status = loop {
            if let Some(status) = swap.try_wait().expect("it was started here") {
                break status;
            }
            step(None, true);
        };
        assert!(status.success());
    }
    let mut ended = 0;
    while ended < SLOTS {
        ended += step(None, false);
    }
    assert!(
        on_either.iter().all(|count| *count >= SLOTS as u64),
        "{on_either:?}"
    );
    let seen = |fake: &Fake| -> u64 {
        let seen = fake.state().take_seen();
        seen.iter().map(|one| u64::from(one.blocks)).sum()
    };
    let written: u64 = fakes.iter().map(seen).sum();
    assert_eq!(written, (on_either[0] + on_either[1]) * BLOCKS as u64);
    drop(host);
    node.end();
}

/// A disk refuses a discard, or write-zeroes, that it said it takes. Of the discard the host is told; instead of write-zeroes, zeroes are written. No path has failed for it,
/// and whoever asks again is answered without asking the disk; everything else is done as before. A new table asks anew.
#[test]
fn at_80_what_a_disk_refuses_it_is_not_asked_again() {
    const FIRST: u64 = 16;
    const BLOCKS: u32 = 4;
    let bytes = FIRST as usize * BLOCK..(FIRST as usize + BLOCKS as usize) * BLOCK;
    let ask = |host: &mut Host, opcode: u8| match opcode {
        io::WRITE_ZEROES => host.queue.write_zeroes(1, FIRST, BLOCKS, false),
        _ => host.queue.deallocate(1, &[(FIRST, BLOCKS)]),
    };
    let (discard, zeroes) = (io::DATASET_MANAGEMENT, io::WRITE_ZEROES);
    let mut fake = Fake::start();
    let node = two_ways(&mut fake, "0 2048 linear r0 0");
    let mut host = node.host();
    for table in ["0 2048 linear r0 0", FIRST_WAY] {
        for (opcode, other) in [(discard, zeroes), (zeroes, discard)] {
            for below in [
                Status::INVALID_FIELD,
                Status::INVALID_OPCODE,
                Status::LBA_OUT_OF_RANGE,
            ] {
                let case = format!("{table}: {opcode:02X}h, {below}");
                node.dm("swap", &["--table", table]);
                let opcodes = || -> Vec<u8> {
                    let seen = fake.state().take_seen();
                    let opcodes = seen.iter().map(|one| one.opcode);
                    // On SPDK each write-zeroes is flushed.
                    opcodes.filter(|opcode| *opcode != io::FLUSH).collect()
                };
                let ask_in_vain = |host: &mut Host| {
                    fake.state().memory[bytes.clone()].fill(opcode);
                    let outcome = ask(host, opcode);
                    let (is_right, left) = match opcode {
                        io::WRITE_ZEROES => (outcome.is_ok(), 0),
                        _ => (matches!(outcome, Err(Error::Status { .. })), opcode),
                    };
                    assert!(is_right, "{case}: {outcome:?}");
                    let found = fake.state().memory[bytes.clone()].to_vec();
                    assert!(found.iter().all(|byte| *byte == left), "{case}");
                    opcodes()
                };
                let instead: &[u8] = if opcode == zeroes { &[io::WRITE] } else { &[] };
                opcodes();
                fake.state().refuses = Some((opcode, below.do_not_retry()));
                let seen = ask_in_vain(&mut host);
                assert_eq!(seen, [&[opcode], instead].concat(), "{case}");
                fake.state().refuses = None;
                for _ in 0..3 {
                    assert_eq!(ask_in_vain(&mut host), instead, "{case}");
                }
                ask(&mut host, other).expect("done");
                let data = [opcode; BLOCK];
                host.queue
                    .write(1, FIRST, &data, BLOCK as u32)
                    .expect("written");
                let read = host.queue.read(1, FIRST, 1, BLOCK as u32).expect("read");
                assert_eq!(read, data, "{case}");
                assert_eq!(opcodes(), [other, io::WRITE, io::READ], "{case}");
                assert!(!node.dm("status", &[]).contains(" F "), "{case}");
                node.dm("swap", &["--table", table]);
                ask(&mut host, opcode).expect("done");
                assert_eq!(opcodes(), [opcode], "{case}");
            }
        }
    }
    drop(host);
    node.end();
}
