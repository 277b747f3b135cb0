//! What a unit carries out, by the state of the way that a command came, by its own, and by what it is protected from.

use super::*;

const MODE_SENSE: [u8; 6] = [0x1A, 8, 0x0A, 0, 255, 0];
const MODE_SELECT: [u8; 6] = [0x15, 0x10, 0, 0, 0, 0];
const READ_CAPACITY_10: [u8; 10] = [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const START: [u8; 6] = [0x1B, 0, 0, 0, 1, 0];
const STOP: [u8; 6] = [0x1B, 0, 0, 0, 0, 0];

fn read_capacity_16() -> [u8; 16] {
    let mut cdb = cdb_16(0x9E, 0x10, 0, 32);
    cdb[2..10].fill(0);
    cdb
}

/// A command that comes by a way in this state: `None` when it is carried out.
fn refusal(disk: &Disk, access: Access, cdb: &[u8]) -> Option<(Key, Code)> {
    let seat = Seat {
        access,
        ..disk.seat(0, 0)
    };
    let full = Cdb(std::array::from_fn(|at| cdb.get(at).copied().unwrap_or(0)));
    match serve(&seat, &mut View::default(), full) {
        Plan::End(outcome) if !outcome.is_good() => Some(reason(outcome)),
        _ => None,
    }
}

/// SPC-4, 5.15.2.4.4: what needs no medium is carried out in standby, and a host learns the size of the unit there.
#[test]
fn a_standby_way_answers_what_needs_no_medium() {
    let disk = Disk::new(512);
    let standby = Some((Key::NotReady, Code::ASYMMETRIC_STANDBY));
    let unavailable = Some((Key::NotReady, Code::ASYMMETRIC_UNAVAILABLE));
    for cdb in [
        &MODE_SENSE[..],
        &[0x5A, 8, 0x0A, 0, 0, 0, 0, 0, 255, 0],
        &MODE_SELECT,
        &[0x55, 0x10, 0, 0, 0, 0, 0, 0, 0, 0],
        &READ_CAPACITY_10,
        &read_capacity_16(),
    ] {
        assert_eq!(refusal(&disk, Access::Standby, cdb), None, "{cdb:02x?}");
        assert_eq!(
            refusal(&disk, Access::Unavailable, cdb),
            unavailable,
            "{cdb:02x?}"
        );
    }
    for cdb in [
        &[0; 6][..],
        &START,
        &cdb_16(0x88, 0, 0, 1),
        &cdb_16(0x8A, 0, 0, 0),
        &cdb_16(0x91, 0, 0, 0),
        &cdb_16(0x9E, 0x12, 0, 24),
        &cdb_16(0x83, 0, 0, 0),
    ] {
        assert_eq!(refusal(&disk, Access::Standby, cdb), standby, "{cdb:02x?}");
    }
}

/// SBC-3, 5.25: a stopped unit has its mode pages and its size still.
#[test]
fn a_stopped_unit_answers_what_needs_no_medium() {
    let mut disk = Disk::new(512);
    assert!(disk.run(0, &STOP, &[]).0.is_good());
    for cdb in [
        &MODE_SENSE[..],
        &MODE_SELECT,
        &READ_CAPACITY_10,
        &read_capacity_16(),
    ] {
        assert!(disk.run(0, cdb, &[]).0.is_good(), "{cdb:02x?}");
    }
    for cdb in [
        &[0; 6][..],
        &cdb_16(0x88, 0, 0, 1),
        &cdb_16(0x91, 0, 0, 0),
        &cdb_16(0x9E, 0x12, 0, 24),
    ] {
        assert_eq!(
            reason(disk.run(0, cdb, &[]).0),
            (Key::NotReady, Code::INITIALIZING_COMMAND_REQUIRED),
            "{cdb:02x?}"
        );
    }
    assert!(disk.run(0, &START, &[]).0.is_good());
    assert!(disk.run(0, &cdb_16(0x88, 0, 0, 1), &[]).0.is_good());
}

/// Protection is from writes: what is in the cache is written all the same, unless somebody else has reserved the unit.
#[test]
fn a_protected_unit_is_flushed() {
    let flushes = [
        &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
        &cdb_16(0x91, 0, 0, 0),
    ];
    let write = cdb_16(0x8A, 0, 0, 1);
    for (is_read_only, code) in [
        (true, Code::WRITE_PROTECTED),
        (false, Code::SOFTWARE_WRITE_PROTECTED),
    ] {
        let mut disk = Disk::new(512);
        disk.geometry.read_only = is_read_only;
        if !is_read_only {
            let (_, mut control) = disk.run(0, &MODE_SENSE, &[]);
            control[..4].fill(0);
            control[8] |= 8;
            let select = [0x15, 0x10, 0, 0, 16, 0];
            assert!(disk.run(0, &select, &control).0.is_good());
            disk.unit.take_attention(disk.nexuses[1].id);
        }
        for cdb in flushes {
            disk.steps.clear();
            assert!(disk.run(0, cdb, &[]).0.is_good(), "{cdb:02x?}");
            assert_eq!(disk.steps.last().map(|step| step.op), Some(Op::Flush));
        }
        let (outcome, _) = disk.run(0, &write, &[0; 512]);
        assert_eq!(reason(outcome), (Key::DataProtect, code));
        assert!(disk.run(1, &[0x16, 0, 0, 0, 0, 0], &[]).0.is_good());
        for cdb in flushes {
            assert_eq!(disk.run(0, cdb, &[]).0, Outcome::ReservationConflict);
        }
    }
}
