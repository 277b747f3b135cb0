//! EXTENDED COPY between two disks of one target, and what RECEIVE COPY RESULTS tells of it.

use super::*;

const COPY: u8 = 0x83;
const RESULTS: u8 = 0x84;

/// Two units of a target and their blocks, as one initiator has them.
struct Pair {
    units: [Arc<Unit>; 2],
    geometries: [Geometry; 2],
    bytes: [Vec<u8>; 2],
    nexus: Nexus,
    port: Port,
    /// How the next write ends.
    write_status: Status,
    steps: Vec<Step>,
}

impl Directory for Pair {
    fn luns(&self) -> Vec<u16> {
        vec![0, 1]
    }

    fn unit(&self, lun: u16) -> Option<(Arc<Unit>, Geometry)> {
        let lun = usize::from(lun);
        Some((Arc::clone(self.units.get(lun)?), self.geometries[lun]))
    }

    fn groups(&self) -> Vec<PortGroup> {
        Vec::new()
    }

    fn is_explicit(&self) -> bool {
        false
    }

    fn ports(&self) -> Vec<Port> {
        Vec::new()
    }
}

/// Segment descriptor 02h.
fn segment(ends: (u16, u16), blocks: u16, from: u64, to: u64) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0x18];
    bytes.extend_from_slice(&ends.0.to_be_bytes());
    bytes.extend_from_slice(&ends.1.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&blocks.to_be_bytes());
    bytes.extend_from_slice(&from.to_be_bytes());
    bytes.extend_from_slice(&to.to_be_bytes());
    bytes
}

impl Pair {
    fn new(block_bytes: [u32; 2]) -> Self {
        let disks = block_bytes.map(Disk::new);
        let nexus = disks[0].nexuses[0].clone();
        let geometries = [disks[0].geometry, disks[1].geometry];
        let mut number = 0;
        let units = [(); 2].map(|()| {
            let unit = Unit::new(Identity {
                target: "iqn.2026-11.io.polldm:disks".into(),
                lun: number,
                uuid: [number as u8; 16],
                vendor: "POLLDM".into(),
                product: "mapped device".into(),
                serial: format!("{number:032}"),
            });
            number += 1;
            unit.join(&nexus, Code::POWER_ON);
            unit.take_attention(nexus.id);
            Arc::new(unit)
        });
        let pattern = |size: usize, seed: usize| (0..size).map(move |at| (at / 512 + seed) as u8);
        let bytes = [0, 100].map(|seed| {
            let disk = usize::from(seed > 0);
            pattern(geometries[disk].sectors as usize * 512, seed).collect()
        });
        Self {
            units,
            geometries,
            bytes,
            port: disks[0].port.clone(),
            nexus,
            write_status: Status::Ok,
            steps: Vec::new(),
        }
    }

    fn seat(&self, offered: usize) -> Seat<'_> {
        Seat {
            unit: &self.units[0],
            nexus: &self.nexus,
            port: &self.port,
            geometry: self.geometries[0],
            access: Access::Optimized,
            offered: offered as u32,
            directory: self,
        }
    }

    /// The identification descriptor of a unit, from its own VPD page 83h.
    fn cscd(&self, lun: usize) -> Vec<u8> {
        let names = inquiry::names(&self.units[lun].identity);
        let mut bytes = vec![0xE4, 0, 0, 0];
        bytes.extend_from_slice(&names[0]);
        bytes.resize(28, 0);
        bytes.extend_from_slice(&self.geometries[lun].block_bytes.to_be_bytes());
        bytes
    }

    /// A parameter list with both units.
    fn list(&self, identifier: u8, segments: &[Vec<u8>]) -> Vec<u8> {
        let cscds = [self.cscd(0), self.cscd(1)].concat();
        list(identifier, &cscds, &segments.concat())
    }

    /// Begins a command.
    fn plan(&self, cdb: &[u8], offered: usize) -> (Cdb, Plan) {
        let mut full = Cdb::default();
        full.0[..cdb.len()].copy_from_slice(cdb);
        let plan = serve(&self.seat(offered), &mut View::default(), full);
        (full, plan)
    }

    /// Carries out a copy.
    fn copy(&mut self, list: &[u8]) -> Outcome {
        self.copy_in_pieces(list, 256 * 1024)
    }

    /// Carries out a copy with so much work memory.
    fn copy_in_pieces(&mut self, list: &[u8], piece: usize) -> Outcome {
        let cdb = cdb_16(COPY, 0, 0, list.len() as u32);
        let (cdb, plan) = self.plan(&cdb, list.len());
        let mut job = match plan {
            Plan::Job(job) => job,
            Plan::End(outcome) => return outcome,
            other => panic!("{other:?}"),
        };
        assert_eq!(job.scratch_bytes, 256 * 1024);
        let mut scratch = vec![0; piece];
        let mut status = Status::Ok;
        loop {
            match self.step(&mut job, cdb, list, &mut scratch, status) {
                Action::End(outcome) => return outcome,
                Action::Submit(steps) => {
                    assert_eq!(steps.len(), 1, "one piece at a time");
                    status = self.submit(&steps[0], &mut scratch);
                }
                other => panic!("{other:?} makes no sense"),
            }
        }
    }

    fn step(
        &self,
        job: &mut Job,
        cdb: Cdb,
        list: &[u8],
        scratch: &mut [u8],
        status: Status,
    ) -> Action {
        let mut work = Work {
            seat: self.seat(list.len()),
            data: list,
            scratch,
            status,
        };
        job.step(cdb, &mut work)
    }

    fn submit(&mut self, step: &Step, scratch: &mut [u8]) -> Status {
        self.steps.push(*step);
        let from = step.extent.sector as usize * 512;
        let size = step.extent.sectors as usize * 512;
        let lun = usize::from(step.lun.expect("a copy names its units"));
        let blocks = &mut self.bytes[lun][from..from + size];
        match step.op {
            Op::Read => scratch[..size].copy_from_slice(blocks),
            Op::Write if self.write_status.is_ok() => blocks.copy_from_slice(&scratch[..size]),
            Op::Write => return self.write_status,
            other => panic!("{other:?}"),
        }
        Status::Ok
    }

    /// RECEIVE COPY RESULTS.
    fn results(&self, action: u8, identifier: u8) -> Result<Vec<u8>, (Key, Code)> {
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[2], cdb[12]) = (RESULTS, action, identifier, 4);
        match self.plan(&cdb, 0).1 {
            Plan::Answer(data) => Ok(data),
            Plan::End(outcome) => Err(reason(outcome)),
            other => panic!("{other:?}"),
        }
    }
}

fn list(identifier: u8, cscds: &[u8], segments: &[u8]) -> Vec<u8> {
    let mut list = vec![0; 16];
    list[0] = identifier;
    list[2..4].copy_from_slice(&(cscds.len() as u16).to_be_bytes());
    list[8..12].copy_from_slice(&(segments.len() as u32).to_be_bytes());
    list.extend_from_slice(cscds);
    list.extend_from_slice(segments);
    list
}

fn sense(outcome: Outcome) -> Sense {
    match outcome {
        Outcome::Check(sense) => sense,
        other => panic!("{other:?}"),
    }
}

#[test]
fn blocks_are_copied_between_units_and_within_one() {
    let mut pair = Pair::new([512, 512]);
    let segments = [segment((0, 1), 8, 4, 16), segment((1, 1), 2, 16, 0)];
    assert_eq!(pair.copy(&pair.list(7, &segments)), Outcome::Good);
    assert_eq!(
        pair.bytes[1][16 * 512..24 * 512],
        pair.bytes[0][4 * 512..12 * 512]
    );
    assert_eq!(pair.bytes[1][..1024], pair.bytes[0][4 * 512..6 * 512]);
    // COPY STATUS: two segments, 5,120 bytes.
    assert_eq!(
        pair.results(0, 7),
        Ok(vec![0, 0, 0, 8, 1, 0, 2, 0, 0, 0, 0x14, 0])
    );
    assert_eq!(
        pair.results(4, 7),
        Ok(vec![0; 4]),
        "no segment of it failed"
    );
}

/// A range that is copied onto a part of itself arrives whole, whichever way it moves.
#[test]
fn ranges_may_overlap() {
    for (from, to) in [(0, 5), (5, 0)] {
        let mut pair = Pair::new([4096, 512]);
        let before = pair.bytes[0].clone();
        let list = pair.list(1, &[segment((0, 0), 58, from, to)]);
        assert_eq!(pair.copy_in_pieces(&list, 4 * 4096), Outcome::Good);
        assert_eq!(pair.steps.len(), 2 * 15, "58 blocks, four at a time");
        let range = |lba: u64| lba as usize * 4096..(lba as usize + 58) * 4096;
        assert_eq!(pair.bytes[0][range(to)], before[range(from)]);
    }
}

/// Blocks of 4 KiB hold eight of 512 bytes: DC says which of the two are counted, and what would cut a block is not begun.
#[test]
fn blocks_may_have_two_sizes() {
    let mut pair = Pair::new([4096, 512]);
    let list = pair.list(1, &[segment((0, 1), 1, 2, 8)]);
    assert_eq!(pair.copy(&list), Outcome::Good);
    assert_eq!(
        pair.bytes[1][8 * 512..16 * 512],
        pair.bytes[0][2 * 4096..3 * 4096]
    );
    let mut by_destination = segment((0, 1), 8, 5, 40);
    by_destination[1] = 2;
    let list = pair.list(1, &[by_destination.clone()]);
    assert_eq!(pair.copy(&list), Outcome::Good);
    assert_eq!(
        pair.bytes[1][40 * 512..48 * 512],
        pair.bytes[0][5 * 4096..6 * 4096]
    );
    by_destination[11] = 9;
    let steps = pair.steps.len();
    let list = pair.list(1, &[by_destination]);
    let stopped = sense(pair.copy(&list));
    assert_eq!(
        (stopped.key, stopped.code),
        (Key::CopyAborted, Code::UNEXPECTED_INEXACT_SEGMENT)
    );
    assert_eq!(pair.steps.len(), steps);
}

/// SPC-4, 6.4.3 and 6.4.4: what makes no sense is refused before anything is copied.
#[test]
fn a_list_that_makes_no_sense_copies_nothing() {
    let pair = Pair::new([512, 512]);
    let good = pair.list(1, &[segment((0, 1), 1, 0, 1)]);
    let spoilt = |at: usize, value: u8| {
        let mut list = good.clone();
        list[at] = value;
        list
    };
    let many = |cscds: usize, segments: usize| {
        let segment = segment((0, 1), 1, 0, 1);
        list(1, &pair.cscd(0).repeat(cscds), &segment.repeat(segments))
    };
    let length = Code::PARAMETER_LIST_LENGTH_ERROR;
    let field = Code::INVALID_FIELD_IN_PARAMETERS;
    let cases = [
        ("shorter than its header", good[..15].to_vec(), length),
        ("cut in a unit", good[..79].to_vec(), length),
        ("cut in a segment", good[..good.len() - 1].to_vec(), length),
        ("more than there may be", many(17, 70), length),
        ("units", many(17, 1), Code::TOO_MANY_TARGET_DESCRIPTORS),
        ("segments", many(1, 65), Code::TOO_MANY_SEGMENT_DESCRIPTORS),
        ("reserved usage", spoilt(1, 0x08), field),
        ("an identifier that is none", spoilt(1, 0x18), field),
        ("half a unit", spoilt(3, 63), field),
        ("half a segment", spoilt(11, 27), field),
        (
            "inline data",
            spoilt(15, 1),
            Code::INLINE_DATA_LENGTH_EXCEEDED,
        ),
        (
            "a port's name",
            spoilt(16, 0xE0),
            Code::UNSUPPORTED_TARGET_DESCRIPTOR,
        ),
        ("a name too long", spoilt(16 + 7, 21), field),
        ("another block size", spoilt(16 + 30, 4), field),
        (
            "to a stream",
            spoilt(80, 0),
            Code::UNSUPPORTED_SEGMENT_DESCRIPTOR,
        ),
        ("a segment too long", spoilt(83, 0x19), field),
    ];
    let mut pair = Pair::new([512, 512]);
    for (what, list, code) in cases {
        let outcome = pair.copy(&list);
        assert_eq!(reason(outcome), (Key::IllegalRequest, code), "{what}");
    }
    assert_eq!(pair.copy(&[]), Outcome::Good);
    assert!(pair.steps.is_empty());
    assert_eq!(
        pair.results(0, 1),
        Err((Key::IllegalRequest, Code::INVALID_FIELD_IN_CDB)),
        "no copy was begun"
    );
}

/// SPC-4, 5.18.7.3: the segments before the one that fails stay copied, and the sense data say which one it is and why.
#[test]
fn a_segment_that_fails_ends_the_copy() {
    let first = segment((0, 1), 1, 0, 1);
    let aborted = |pair: &mut Pair, second: Vec<u8>| {
        let list = pair.list(3, &[first.clone(), second]);
        let stopped = sense(pair.copy(&list));
        assert_eq!(stopped.key, Key::CopyAborted);
        assert_eq!(stopped.stop.map(|stop| stop.segment), Some(1));
        assert_eq!(pair.bytes[1][512..1024], pair.bytes[0][..512]);
        stopped
    };
    let field = |sense: Sense| sense.field.map(|field| field.byte);
    let mut pair = Pair::new([512, 512]);
    let stopped = aborted(&mut pair, segment((0, 2), 1, 0, 1));
    assert_eq!(stopped.code, Code::UNREACHABLE_COPY_TARGET);
    let stopped = aborted(&mut pair, segment((0, 1), 2, 0, BLOCKS - 1));
    assert_eq!((stopped.code, field(stopped)), (Code::NONE, Some(20)));
    let stopped = aborted(&mut pair, segment((0, 1), 2, u64::MAX, 0));
    assert_eq!((stopped.code, field(stopped)), (Code::NONE, Some(12)));
    // FAILED SEGMENT DETAILS has it all again; COPY STATUS what came before.
    let details = pair.results(4, 3).unwrap();
    assert_eq!((details[3], details[56], details[59]), (56 + 18, 2, 18));
    assert_eq!(details[60..63], [0x70, 0, 0xA]);
    assert_eq!(pair.results(0, 3).unwrap()[4..7], [2, 0, 1]);
    // Neither a unit that is not there nor a tape.
    let mut list = pair.list(3, std::slice::from_ref(&first));
    list[16 + 8] ^= 1;
    assert_eq!(reason(pair.copy(&list)).1, Code::COPY_TARGET_NOT_REACHABLE);
    list[16 + 1] = 1;
    assert_eq!(reason(pair.copy(&list)).1, Code::INCORRECT_COPY_TARGET_TYPE);
}

/// What a WRITE of the same initiator to the destination would be refused for, the copy is refused for, also in its midst.
#[test]
fn a_unit_may_refuse() {
    let mut pair = Pair::new([512, 512]);
    let list = pair.list(1, &[segment((0, 1), 4, 0, 1)]);
    let refusal = |outcome: Outcome| {
        let stopped = sense(outcome);
        assert_eq!(stopped.code, Code::THIRD_PARTY_DEVICE_FAILURE);
        stopped.stop.unwrap().refusal.unwrap()
    };
    pair.geometries[1].read_only = true;
    let found = refusal(pair.copy(&list));
    assert!(found.by_destination);
    assert_eq!(found.sense, (Key::DataProtect, Code::WRITE_PROTECTED));
    pair.geometries[1].read_only = false;
    pair.units[1].lock().reserved_by = Some(NexusId(9));
    assert_eq!(refusal(pair.copy(&list)).status, 0x18);
    assert!(pair.steps.is_empty());
    pair.units[1].lock().reserved_by = None;
    pair.write_status = Status::NoSpace;
    let stopped = pair.copy(&list);
    assert_eq!(
        refusal(stopped).sense,
        (Key::DataProtect, Code::SPACE_ALLOCATION_FAILED)
    );
    assert_eq!(sense(stopped).information, Some(4), "blocks that are left");
    // The write cache of the destination is off.
    pair.write_status = Status::Ok;
    pair.units[1].lock().modes.write_cache_off = true;
    assert_eq!(pair.copy(&list), Outcome::Good);
    assert_eq!(
        pair.steps.last().map(|step| (step.op, step.fua)),
        Some((Op::Write, true))
    );
}

/// SPC-4, 5.18.4.3: an identifier names one copy at a time; what was aborted runs no longer.
#[test]
fn identifiers_name_copies() {
    let mut pair = Pair::new([512, 512]);
    let list = pair.list(5, &[segment((0, 1), 4, 0, 1)]);
    let (cdb, Plan::Job(mut job)) = pair.plan(&cdb_16(COPY, 0, 0, list.len() as u32), list.len())
    else {
        panic!("a job");
    };
    assert!(job.others().is_empty());
    let mut scratch = vec![0; 4096];
    let action = pair.step(&mut job, cdb, &list, &mut scratch, Status::Ok);
    assert!(matches!(action, Action::Submit(_)));
    assert_eq!(job.others(), [0, 1]);
    assert_eq!(pair.results(0, 5).unwrap()[4], 0, "in progress");
    assert_eq!(
        reason(pair.copy(&list)),
        (Key::IllegalRequest, Code::OPERATION_IN_PROGRESS)
    );
    drop(job);
    assert_eq!(pair.results(0, 5).unwrap()[4], 2, "ended with an error");
    assert_eq!(pair.copy(&list), Outcome::Good);
    // Usage 10b leaves nothing behind, 11b has no identifier.
    let mut other = list.clone();
    (other[0], other[1]) = (6, 0x10);
    assert_eq!(pair.copy(&other), Outcome::Good);
    (other[0], other[1]) = (0, 0x18);
    assert_eq!(pair.copy(&other), Outcome::Good);
    assert!(pair.results(0, 6).is_err() && pair.results(0, 0).is_err());
    pair.units[0].reset();
    pair.units[0].take_attention(pair.nexus.id);
    assert!(pair.results(0, 5).is_err());
}

/// What three places tell of the copy manager is the same: 3PC, operating parameters, VPD page 8Fh.
#[test]
fn the_copy_manager_is_described() {
    let pair = Pair::new([512, 512]);
    let inquiry = |evpd: u8, page: u8| match pair.plan(&[0x12, evpd, page, 1, 0, 0], 0).1 {
        Plan::Answer(data) => data,
        other => panic!("{other:?}"),
    };
    assert_eq!(inquiry(0, 0)[5] & 8, 8);
    let parameters = pair.results(3, 0).unwrap();
    assert_eq!(usize::from(parameters[3]), parameters.len() - 4);
    assert_eq!(parameters[8..16], [0, 16, 0, 64, 0, 0, 9, 0]);
    assert_eq!(parameters[43..], [2, 2, 0xE4]);
    let page = inquiry(1, 0x8F);
    let mut rest = &page[4..];
    let mut kinds = Vec::new();
    while let [high, low, 0, size, after @ ..] = rest {
        let (body, after) = after.split_at(usize::from(*size));
        match (*high, *low) {
            (0, 1) => assert_eq!(body[..9], [8, COPY, 1, 0, RESULTS, 3, 0, 3, 4]),
            (0, 4) => assert_eq!(body[4..12], parameters[8..16]),
            (0, 8) => assert_eq!(body[..3], parameters[43..]),
            _ => {}
        }
        assert!(size.is_multiple_of(4));
        kinds.push((*high, *low));
        rest = after;
    }
    assert_eq!(kinds, [(0, 1), (0, 4), (0, 8), (0, 12), (0x80, 1)]);
}
