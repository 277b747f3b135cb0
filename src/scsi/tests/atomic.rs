//! WRITE ATOMIC: offered as far as the device beneath writes whole or not at all, and no further.

use super::*;

fn cdb(flags: u8, lba: u64, boundary: u16, count: u16) -> [u8; 16] {
    cdb_16(
        0x9C,
        flags,
        lba,
        u32::from(boundary) << 16 | u32::from(count),
    )
}

/// A disk of [`BLOCKS`] blocks over a device that writes so atomically, in sectors.
fn disk(block_bytes: u32, sectors_max: u32, boundary_sectors: u32) -> Disk {
    let mut disk = Disk::new(block_bytes);
    disk.geometry.atomic_writes = AtomicWrites {
        sectors_max,
        boundary_sectors,
    };
    disk
}

/// The last five fields of the Block Limits page.
fn told(disk: &mut Disk) -> [u32; 5] {
    let (outcome, page) = disk.run(0, &[0x12, 1, 0xB0, 1, 0, 0], &[]);
    assert!(outcome.is_good());
    assert_eq!((page.len(), page[3]), (64, 60));
    std::array::from_fn(|index| {
        let at = 44 + 4 * index;
        u32::from_be_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
    })
}

/// Which byte of the CDB is said to be wrong.
fn wrong_byte(outcome: Outcome) -> u16 {
    let Outcome::Check(sense) = outcome else {
        panic!("{outcome:?} has no sense data")
    };
    assert_eq!(sense.code, Code::INVALID_FIELD_IN_CDB);
    sense.field.expect("a field pointer").byte
}

/// The Block Limits page says what the device does: any write up to a length, or one length where there are boundaries.
#[test]
fn the_block_limits_are_those_of_the_device() {
    for (block_bytes, sectors_max, boundary_sectors, expected) in [
        (512, u32::MAX, 0, [2048, 0, 0, 2048, 2048]),
        (4096, u32::MAX, 0, [256, 0, 0, 256, 256]),
        (512, 24, 0, [24, 0, 0, 24, 24]),
        (512, 64, 128, [32; 5]),
        (512, 16, 16, [16; 5]),
        (4096, 64, 64, [4; 5]),
        (4096, 24, 64, [2; 5]),
        (4096, 8, 0, [0; 5]),
        (4096, 64, 8, [0; 5]),
        (512, 0, 0, [0; 5]),
    ] {
        let mut disk = disk(block_bytes, sectors_max, boundary_sectors);
        assert_eq!(
            told(&mut disk),
            expected,
            "{block_bytes} {sectors_max} {boundary_sectors}"
        );
    }
}

/// It is one write of what was sent, with FUA where that is asked for.
#[test]
fn blocks_are_written_as_one() {
    let mut disk = disk(512, u32::MAX, 0);
    for (flags, boundary, fua) in [(0, 0, false), (0x10, 2, false), (0x08, 60, true)] {
        disk.steps.clear();
        let data = vec![0x21 + flags; 3 * 512];
        assert!(disk.run(0, &cdb(flags, 5, boundary, 3), &data).0.is_good());
        let [step] = disk.steps[..] else {
            panic!("{:?}", disk.steps)
        };
        assert_eq!((step.op, step.fua), (Op::WriteAtomic, fua));
        assert_eq!((step.extent.sector, step.extent.sectors), (5, 3));
        assert!(disk.bytes[5 * 512..8 * 512] == data);
    }
    disk.steps.clear();
    assert!(disk.run(0, &cdb(0, BLOCKS, 0, 0), &[]).0.is_good());
    assert!(disk.steps.is_empty());
}

/// What would not be atomic is refused, and the sense data points at what is wrong.
#[test]
fn what_was_not_offered_is_refused() {
    let mut any = disk(512, 8, 0);
    let data = [1; 64 * 512];
    let mut ended = |cdb: [u8; 16], size: usize| any.run(0, &cdb, &data[..size * 512]).0;
    assert_eq!(wrong_byte(ended(cdb(0, 0, 0, 9), 9)), 12, "too long");
    assert_eq!(wrong_byte(ended(cdb(0, 0, 9, 8), 8)), 10, "too far apart");
    assert_eq!(wrong_byte(ended(cdb(0x20, 0, 0, 1), 1)), 1, "WRPROTECT");
    for (lba, count) in [(BLOCKS, 1), (BLOCKS - 1, 2), (u64::MAX, 0), (1 << 63, 1)] {
        let outcome = ended(cdb(0, lba, 0, count), count.into());
        assert_eq!(
            reason(outcome).1,
            Code::LBA_OUT_OF_RANGE,
            "{count} at {lba}"
        );
    }
    assert!(ended(cdb(0, 3, 8, 8), 8).is_good());

    let mut aligned = disk(512, 16, 16);
    let mut ended = |cdb: [u8; 16], size: usize| aligned.run(0, &cdb, &data[..size * 512]).0;
    assert_eq!(wrong_byte(ended(cdb(0, 8, 0, 16), 16)), 2, "misaligned");
    assert_eq!(wrong_byte(ended(cdb(0, 16, 0, 8), 8)), 12, "no whole unit");
    assert_eq!(wrong_byte(ended(cdb(0, 16, 0, 32), 32)), 12, "two of them");
    assert!(ended(cdb(0, 16, 0, 16), 16).is_good());
}

/// Without a device that does it, there is no such command, and REPORT SUPPORTED OPERATION CODES does not list it.
#[test]
fn it_is_there_where_the_device_does_it() {
    let support = [0xA3, 0x0C, 1, 0x9C, 0, 0, 0, 0, 1, 0, 0, 0];
    let mut without = disk(4096, 8, 0);
    let (outcome, _) = without.run(0, &cdb(0, 0, 0, 1), &[1; 4096]);
    assert_eq!(reason(outcome).1, Code::INVALID_OPCODE);
    assert_eq!(without.run(0, &support, &[]).1[1] & 7, 1);
    let mut with = disk(4096, 16, 0);
    let (_, told) = with.run(0, &support, &[]);
    assert_eq!(told[1] & 7, 3);
    assert_eq!(told[4..6], [0x9C, 0x18]);
    assert_eq!(told[14..20], [0xFF, 0xFF, 0xFF, 0xFF, 0, 4]);
}

/// It writes: a reservation or a write-protected medium is in its way.
#[test]
fn it_needs_the_right_to_write() {
    let mut disk = disk(512, u32::MAX, 0);
    let write = cdb(0, 0, 0, 2);
    assert!(disk.run(1, &[0x16, 0, 0, 0, 0, 0], &[]).0.is_good());
    let (outcome, _) = disk.run(0, &write, &[1; 1024]);
    assert_eq!(outcome, Outcome::ReservationConflict);
    assert!(disk.run(1, &[0x17, 0, 0, 0, 0, 0], &[]).0.is_good());
    disk.geometry.read_only = true;
    let (outcome, _) = disk.run(0, &write, &[1; 1024]);
    assert_eq!(reason(outcome), (Key::DataProtect, Code::WRITE_PROTECTED));
    assert!(disk.steps.is_empty());
}
