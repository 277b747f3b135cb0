//! What goes over the wire, and what is made of what comes back.

use super::*;
use crate::dm::AtomicWrites;
use crate::nvme::identify::NvmLimits;
use crate::nvme::opcode::io;
use crate::nvme::status::Status as Answer;

fn seen(opcode: u8, fua: bool, lba: u64, blocks: u32) -> Seen {
    Seen {
        connection: 0,
        opcode,
        fua,
        lba,
        blocks,
    }
}

/// Each operation is its NVMe command, in blocks; FUA and Flush are what they say.
#[test]
fn operations_are_commands_and_fua_is_a_bit() {
    let fake = Fake::start();
    let bdev = open(spec(fake.address)).expect("open");
    let mut bench = bench(&bdev, Patience::Holds);
    let ok = Status::Ok;
    assert_eq!(bench.write(8, &[1; BLOCK], 0, false), ok);
    assert_eq!(bench.write(16, &[2; BLOCK], 3, true), ok);
    assert_eq!(flush(&mut bench), ok);
    let empty = Payload::empty;
    assert_eq!(bench.run(Op::WriteZeroes, false, 8, 8, empty()), ok);
    assert_eq!(bench.run(Op::WriteZeroes, true, 24, 16, empty()), ok);
    assert_eq!(bench.run(Op::Discard, false, 40, 24, empty()), ok);
    assert_eq!(bench.read(8, 16, 1), [[0; BLOCK], [2; BLOCK]].concat());
    assert_eq!(bench.read_lent(16, 8), [2; BLOCK]);
    let expected = [
        seen(io::WRITE, false, 1, 1),
        seen(io::WRITE, true, 2, 1),
        seen(io::FLUSH, false, 0, 0),
        seen(io::WRITE_ZEROES, false, 1, 1),
        seen(io::WRITE_ZEROES, true, 3, 2),
        seen(io::DATASET_MANAGEMENT, false, 5, 3),
        seen(io::READ, false, 1, 2),
        seen(io::READ, false, 2, 1),
    ];
    assert_eq!(fake.state().take_seen(), expected);
}

/// What the controller says of itself is what the device declares.
#[test]
fn what_is_declared_is_what_was_found() {
    let fake = Fake::start();
    let lower = open(spec(fake.address)).expect("open").declare();
    assert_eq!((lower.sectors, lower.block_bytes), (2048, 4096));
    assert_eq!(lower.transfer_sectors_max, 64);
    assert!(lower.volatile_cache && lower.flush && lower.fua);
    assert!(lower.discard && lower.write_zeroes && !lower.discard_zeroes);
    assert_eq!(lower.atomic_writes, AtomicWrites::ALL.up_to(16));
    fake.state().volatile_cache = false;
    fake.state().block_shift = 9;
    let lower = open(spec(fake.address)).expect("open").declare();
    assert!(!lower.volatile_cache);
    assert_eq!((lower.sectors, lower.block_bytes), (256, 512));
}

/// Write-zeroes and discards above what the controller takes are cut, and end once.
#[test]
fn large_ranges_are_cut_where_the_controller_says() {
    let fake = Fake::start();
    fake.state().limits = NvmLimits {
        // 2^2 pages: 4 blocks.
        write_zeroes: 2,
        dataset_range_size: 100,
        ..NvmLimits::default()
    };
    let bdev = open(spec(fake.address)).expect("open");
    let mut bench = bench(&bdev, Patience::Holds);
    let zeroed = bench.run(Op::WriteZeroes, true, 8, 9 * 8, Payload::empty());
    assert_eq!(zeroed, Status::Ok);
    let discarded = bench.run(Op::Discard, false, 0, 250 * 8, Payload::empty());
    assert_eq!(discarded, Status::Ok);
    let expected = [
        seen(io::WRITE_ZEROES, true, 1, 4),
        seen(io::WRITE_ZEROES, true, 5, 4),
        seen(io::WRITE_ZEROES, true, 9, 1),
        seen(io::DATASET_MANAGEMENT, false, 0, 100),
        seen(io::DATASET_MANAGEMENT, false, 100, 100),
        seen(io::DATASET_MANAGEMENT, false, 200, 50),
    ];
    assert_eq!(fake.state().take_seen(), expected);
}

/// More I/O than the queue takes waits its turn; data that does not fit a capsule is asked for; digests fit.
#[test]
fn deep_and_large_io_with_digests() {
    let fake = Fake::start();
    let bdev = open(RemoteSpec {
        header_digest: true,
        data_digest: true,
        ..spec(fake.address)
    })
    .expect("open");
    let mut bench = bench(&bdev, Patience::Holds);
    // The controller's queues have 64 entries, so 63 commands.
    let writes: Vec<u32> = (0..200)
        .map(|block| start_write(&mut bench, block, block as u8))
        .collect();
    for write in writes {
        assert_eq!(bench.wait(write), Status::Ok);
    }
    let large = bench.write(200 * 8, &[9; 8 * BLOCK], 0, false);
    assert_eq!(large, Status::Ok);
    let state = fake.state();
    for block in 0..200 {
        assert_eq!(state.memory[block * BLOCK], block as u8);
    }
    assert!(
        state.memory[200 * BLOCK..208 * BLOCK]
            .iter()
            .all(|byte| *byte == 9)
    );
    drop(state);
    assert_eq!(bench.read_lent(199 * 8, 16)[..BLOCK], [199; BLOCK]);

    // A data digest that does not fit is an error of the way, not of the disk.
    fake.state().corrupt = true;
    let mut memory = vec![0u8; BLOCK];
    // SAFETY: `memory` outlives the I/O.
    let payload = unsafe { Payload::new(NonNull::from(&mut memory[..]).cast(), BLOCK as u32) };
    let read = bench.run(Op::Read, false, 0, 8, payload);
    assert_eq!(read, Status::Transport);
    assert_eq!(report(&bdev).losses, 0);
}

/// Errors of the disk are the host's, and no reason to leave the connection.
#[test]
fn errors_of_the_disk_are_not_errors_of_the_way() {
    let fake = Fake::start();
    let bdev = open(spec(fake.address)).expect("open");
    let mut bench = bench(&bdev, Patience::FailsFast);
    for (answer, expected) in [
        (Answer::UNRECOVERED_READ_ERROR, Status::Medium),
        (Answer::RESERVATION_CONFLICT, Status::ReservationConflict),
        (Answer::CAPACITY_EXCEEDED, Status::NoSpace),
        (Answer::ANA_INACCESSIBLE, Status::Transport),
    ] {
        fake.state().fails = Some(answer.do_not_retry());
        assert_eq!(bench.write(0, &[1; BLOCK], 0, false), expected);
    }
    fake.state().fails = None;
    assert_eq!(bench.write(0, &[1; BLOCK], 0, false), Status::Ok);
    assert_eq!(report(&bdev).losses, 0);
}

/// A command that "succeeds" without its data has failed.
#[test]
fn a_success_without_the_data_is_an_error() {
    let fake = Fake::start();
    let bdev = open(spec(fake.address)).expect("open");
    let mut bench = bench(&bdev, Patience::FailsFast);
    // More than a capsule carries.
    let data = [1; 16 * BLOCK];
    fake.state().skips = true;
    assert_eq!(bench.write(0, &data, 0, false), Status::IoError);
    fake.state().skips = false;
    assert_eq!(bench.write(0, &data, 0, false), Status::Ok);
}

/// What cannot be used is refused with its reason, and leaves nothing behind.
#[test]
fn what_cannot_be_used_is_refused() {
    let fake = Fake::start();
    let refused = |spec: RemoteSpec| open(spec).err().expect("refused").to_string();
    let base = spec(fake.address);
    let mut other = base.clone();
    other.address.nqn = "nqn.2026-11.io.polldm:other".into();
    let said = refused(other);
    assert!(said.contains("the target has no subsystem"), "{said}");
    let said = refused(RemoteSpec {
        nsid: 2,
        ..base.clone()
    });
    assert!(
        said.contains("there is no namespace 2; the subsystem has 1, 3"),
        "{said}"
    );
    type Change = fn(&mut fake::State);
    let cases: [(Change, &str); 5] = [
        (
            |state| state.host = Some("nqn.x".into()),
            "does not let the host \"nqn.2026-11.io.polldm:host\" in",
        ),
        (|state| state.host = None, ""),
        (|state| state.metadata_bytes = 8, "8 bytes of metadata"),
        (
            |state| (state.metadata_bytes, state.block_shift) = (0, 13),
            "2^13 bytes; 512 and 4096",
        ),
        (
            |state| (state.blocks, state.block_shift) = (u64::MAX, 12),
            "larger than can be addressed",
        ),
    ];
    for (change, words) in cases {
        change(&mut fake.state());
        match words {
            "" => drop(open(base.clone()).expect("it is let in")),
            words => {
                let said = refused(base.clone());
                assert!(said.contains(words), "{said}");
            }
        }
    }
}

/// There are as many connections as there were ever reactors at once; a reactor more than the controller has queues for is refused, until another
/// leaves.
#[test]
fn connections_are_used_again_and_their_number_has_a_limit() {
    let fake = Fake::start();
    fake.state().queues = 2;
    let bdev = open(spec(fake.address)).expect("open");
    for _ in 0..5 {
        let mut bench = bench(&bdev, Patience::Holds);
        assert_eq!(flush(&mut bench), Status::Ok);
    }
    let mut one = bench(&bdev, Patience::Holds);
    let mut two = bench(&bdev, Patience::Holds);
    assert_eq!((flush(&mut one), flush(&mut two)), (Status::Ok, Status::Ok));
    let mut core = Core::new(POOL_BYTES);
    let Err(refused) = bdev.channel(&mut core) else {
        panic!("there is no third queue");
    };
    assert!(
        refused.to_string().contains("grants 2 I/O queues"),
        "{refused}"
    );
    drop(one);
    let mut three = bench(&bdev, Patience::Holds);
    assert_eq!(flush(&mut three), Status::Ok);
    let connections = fake.state().take_seen();
    let connections = connections.iter().map(|seen| seen.connection).max();
    assert!(connections <= Some(2), "{connections:?}");
}
