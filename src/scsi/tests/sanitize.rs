//! SANITIZE: what an overwrite leaves on the medium, and what the unit says meanwhile and when it has failed.

use super::*;

const READY: [u8; 6] = [0; 6];

/// OVERWRITE with IMMED or AUSE in `flags`.
fn overwrite(flags: u8, length: usize) -> [u8; 10] {
    [
        0x48,
        1 | flags,
        0,
        0,
        0,
        0,
        0,
        (length >> 8) as u8,
        length as u8,
        0,
    ]
}

/// Its parameter list: INVERT and OVERWRITE COUNT in one byte, and the pattern.
fn list(count: u8, pattern: &[u8]) -> Vec<u8> {
    let mut list = vec![count, 0, (pattern.len() >> 8) as u8, pattern.len() as u8];
    list.extend_from_slice(pattern);
    list
}

/// Begins an overwrite with AUSE, or without.
fn begin(disk: &Disk, flags: u8, list: &[u8]) -> Box<Overwrite> {
    let cdb = overwrite(flags, list.len());
    let full = Cdb(std::array::from_fn(|at| cdb.get(at).copied().unwrap_or(0)));
    let Plan::Job(mut job) = serve(&disk.seat(0, list.len()), &mut View::default(), full) else {
        panic!("a job");
    };
    let mut work = Work {
        seat: disk.seat(0, list.len()),
        data: list,
        scratch: &mut [],
        status: Status::Ok,
    };
    match job.step(full, &mut work) {
        Action::Leave(overwrite) => overwrite,
        other => panic!("{other:?}"),
    }
}

/// The pattern begins anew in every block; every pass is flushed; INVERT writes its complement in every second one.
#[test]
fn every_block_is_overwritten() {
    let mut disk = Disk::new(4096);
    let pattern = [1, 2, 3];
    let one = list(1, &pattern);
    assert!(disk.run(0, &overwrite(0, one.len()), &one).0.is_good());
    let block: Vec<u8> = pattern.into_iter().cycle().take(4096).collect();
    assert!(disk.bytes.chunks(4096).all(|found| found == block));
    assert_eq!(disk.steps.last().map(|step| step.op), Some(Op::Flush));
    disk.steps.clear();
    let two = list(0x82, &pattern);
    assert!(disk.run(0, &overwrite(0, two.len()), &two).0.is_good());
    assert!(disk.bytes.chunks(4096).all(|found| {
        let mut both = found.iter().zip(&block);
        both.all(|(&found, &first)| found == !first)
    }));
    let written = |op: Op| disk.steps.iter().filter(move |step| step.op == op);
    assert_eq!(written(Op::Flush).count(), 2);
    let sectors: u32 = written(Op::Write).map(|step| step.extent.sectors).sum();
    assert_eq!(u64::from(sectors), 2 * disk.geometry.sectors);
    assert!(disk.run(0, &READY, &[]).0.is_good());
}

/// SBC-3, 4.11.2: nothing uses the medium meanwhile, and how far it is can be asked.
#[test]
fn nothing_uses_the_medium_meanwhile() {
    let mut disk = Disk::new(512);
    let list = list(1, &[0]);
    let mut running = begin(&disk, 0, &list);
    let mut scratch = [0; 512];
    let mut halfway = None;
    for turn in 0..4 {
        let action = running.step(&disk.unit, Some(&disk.geometry), &mut scratch, Status::Ok);
        assert!(
            matches!(action, Action::Submit(steps) if steps.len() == 8),
            "turn {turn}"
        );
        halfway = disk.unit.sanitize();
    }
    assert_eq!(halfway, Some(unit::Sanitize::Running(0x6000)));
    for cdb in [
        &READY[..],
        &cdb_16(0x88, 0, 0, 1),
        &overwrite(0, 5),
        &[0x48, 0x1F, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        let (outcome, _) = disk.run(1, cdb, &list);
        assert_eq!(reason(outcome), (Key::NotReady, Code::SANITIZE_IN_PROGRESS));
    }
    let (outcome, sense) = disk.run(1, &[3, 0, 0, 0, 18, 0], &[]);
    assert!(outcome.is_good());
    assert_eq!(sense[2], 2);
    assert_eq!(sense[15..18], [0x80, 0x60, 0]);
    assert!(disk.run(1, &[0x12, 0, 0, 0, 36, 0], &[]).0.is_good());
    disk.unit.reset();
    assert!(disk.unit.sanitize().is_some(), "a reset does not end it");
}

/// A failure stays until a way out that its AUSE allows: another overwrite, or EXIT FAILURE MODE.
#[test]
fn a_failure_is_not_forgotten() {
    const EXIT: [u8; 10] = [0x48, 0x1F, 0, 0, 0, 0, 0, 0, 0, 0];
    const AUSE: u8 = 0x20;
    let mut disk = Disk::new(512);
    let list = list(1, &[0]);
    let fail = |disk: &Disk, flags: u8, geometry: Option<Geometry>, status: Status| {
        let mut running = begin(disk, flags, &list);
        let mut step = |geometry: Option<&Geometry>, status: Status| {
            running.step(&disk.unit, geometry, &mut [0; 4096], status)
        };
        assert!(matches!(
            step(Some(&disk.geometry), Status::Ok),
            Action::Submit(_)
        ));
        let Action::End(outcome) = step(geometry.as_ref(), status) else {
            panic!("it has failed");
        };
        assert_eq!(reason(outcome), (Key::MediumError, Code::SANITIZE_FAILED));
    };
    let same = Some(disk.geometry);
    fail(&disk, AUSE, same, Status::Medium);
    assert_eq!(
        reason(disk.run(1, &READY, &[]).0),
        (Key::MediumError, Code::SANITIZE_FAILED)
    );
    assert!(disk.run(1, &EXIT, &[]).0.is_good());
    assert!(disk.run(1, &READY, &[]).0.is_good());
    // A unit that has become another was not overwritten; nor was one that is gone.
    let mut larger = disk.geometry;
    larger.sectors += 8;
    fail(&disk, AUSE, Some(larger), Status::Ok);
    assert!(disk.run(1, &EXIT, &[]).0.is_good());
    fail(&disk, 0, None, Status::Ok);
    for cdb in [EXIT, overwrite(AUSE, list.len())] {
        let data = if cdb == EXIT { &[][..] } else { &list };
        let (outcome, _) = disk.run(0, &cdb, data);
        assert_eq!(
            reason(outcome),
            (Key::IllegalRequest, Code::INVALID_FIELD_IN_CDB)
        );
    }
    assert!(disk.run(0, &overwrite(0, list.len()), &list).0.is_good());
    assert!(disk.run(1, &READY, &[]).0.is_good());
}

/// A failure mode is not left by a command that was let in before another overwrite was begun.
#[test]
fn an_overwrite_that_was_begun_meanwhile_goes_on() {
    let disk = Disk::new(512);
    let cdb = Cdb(std::array::from_fn(|at| {
        [0x48, 0x1F].get(at).copied().unwrap_or(0)
    }));
    let entry = catalog::find(&cdb).expect("EXIT FAILURE MODE");
    let list = list(1, &[0]);
    begin(&disk, 0x20, &list).fail(&disk.unit);
    assert!(serve::may_use(&disk.seat(0, 0), entry, &cdb).is_ok());
    begin(&disk, 0x20, &list);
    let outcome = (entry.run)(&mut disk.seat(0, 0).call(cdb)).expect_err("it goes on");
    assert_eq!(reason(outcome), (Key::NotReady, Code::SANITIZE_IN_PROGRESS));
    let now = disk.unit.sanitize();
    assert_eq!(now, Some(crate::scsi::unit::Sanitize::Running(0)));
}

/// One that is not begun for want of room leaves the unit as it was: what had failed has failed still.
#[test]
fn one_that_is_given_up_changes_nothing() {
    let disk = Disk::new(512);
    let list = list(1, &[0]);
    begin(&disk, 0, &list).give_up(&disk.unit);
    assert_eq!(disk.unit.sanitize(), None);
    begin(&disk, 0, &list).fail(&disk.unit);
    let failed = disk.unit.sanitize();
    assert!(matches!(
        failed,
        Some(crate::scsi::unit::Sanitize::Failed { .. })
    ));
    begin(&disk, 0, &list).give_up(&disk.unit);
    assert_eq!(disk.unit.sanitize(), failed);
}

#[test]
fn a_sanitize_that_makes_no_sense_does_nothing() {
    let mut disk = Disk::new(512);
    let before = disk.bytes.clone();
    let good = list(1, &[7; 512]);
    let mut changed = overwrite(0, good.len());
    for at in 1..7 {
        changed[at] ^= 0x40;
        let (outcome, _) = disk.run(0, &changed, &good);
        assert_eq!(reason(outcome).1, Code::INVALID_FIELD_IN_CDB, "byte {at}");
        changed[at] ^= 0x40;
    }
    for length in [0, 4, 517] {
        let (outcome, _) = disk.run(0, &overwrite(0, length), &[0; 517]);
        assert_eq!(
            reason(outcome).1,
            Code::INVALID_FIELD_IN_CDB,
            "{length} bytes"
        );
    }
    let cut = list(1, &[7; 512])[..100].to_vec();
    for wrong in [list(0, &[7]), list(0x21, &[7]), list(1, &[]), cut] {
        let mut wrong = wrong;
        wrong.resize(wrong.len().max(5), 0);
        let (outcome, _) = disk.run(0, &overwrite(0, wrong.len()), &wrong);
        assert_eq!(reason(outcome).1, Code::INVALID_FIELD_IN_PARAMETERS);
    }
    // BLOCK ERASE and CRYPTOGRAPHIC ERASE are not among the service actions.
    for action in [2, 3] {
        let (outcome, _) = disk.run(0, &[0x48, action, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
        assert_eq!(reason(outcome).1, Code::INVALID_FIELD_IN_CDB);
    }
    disk.geometry.read_only = true;
    let (outcome, _) = disk.run(0, &overwrite(0, good.len()), &good);
    assert_eq!(reason(outcome), (Key::DataProtect, Code::WRITE_PROTECTED));
    assert_eq!(disk.bytes, before);
    assert!(disk.unit.sanitize().is_none());
}
