//! The device server by itself: tables that must agree, and jobs against a device of a few blocks.

use std::sync::Arc;

use super::catalog::CATALOG;
use super::sense::{Code, Key};
use super::unit::Identity;
use super::*;
use crate::dm::{AtomicWrites, Geometry, Op, Status};

mod atomic;
mod copy;
mod persistent;
mod rights;
mod sanitize;

const BLOCKS: u64 = 64;

struct Alone;

impl Directory for Alone {
    fn luns(&self) -> Vec<u16> {
        vec![0, 3]
    }

    fn unit(&self, _lun: u16) -> Option<(Arc<Unit>, Geometry)> {
        None
    }

    fn groups(&self) -> Vec<PortGroup> {
        vec![PortGroup {
            tag: 1,
            access: Access::Optimized,
            altered: Altered::Never,
            ports: vec![1],
        }]
    }

    fn is_explicit(&self) -> bool {
        true
    }

    fn ports(&self) -> Vec<Port> {
        let port = |number: u16| Port {
            number,
            group: number,
            name: format!("iqn.2026-11.io.polldm:disks,t,0x{number:04x}"),
        };
        vec![port(1), port(7)]
    }
}

/// A unit, two initiators, and its blocks.
struct Disk {
    unit: Unit,
    nexuses: [Nexus; 2],
    port: Port,
    geometry: Geometry,
    bytes: Vec<u8>,
    steps: Vec<Step>,
}

impl Disk {
    fn new(block_bytes: u32) -> Self {
        let nexus = |number: u64| Nexus {
            id: NexusId(number),
            initiator: Arc::new(InitiatorPort {
                name: format!("iqn.2026-11.io.polldm:host{number}"),
                port: [0, 0, 0, 0, 0, number as u8],
            }),
            port: 1,
        };
        let unit = Unit::new(Identity {
            target: "iqn.2026-11.io.polldm:disks".into(),
            lun: 0,
            uuid: [7; 16],
            vendor: "POLLDM".into(),
            product: "mapped device".into(),
            serial: "07".repeat(16),
        });
        let nexuses = [nexus(1), nexus(2)];
        for nexus in &nexuses {
            unit.join(nexus, Code::POWER_ON);
            unit.take_attention(nexus.id);
        }
        let sectors = BLOCKS * u64::from(block_bytes / 512);
        Self {
            unit,
            nexuses,
            port: Port {
                number: 1,
                group: 1,
                name: "iqn.2026-11.io.polldm:disks,t,0x0001".into(),
            },
            geometry: Geometry {
                sectors,
                block_bytes,
                physical_bytes: block_bytes,
                volatile_cache: true,
                discard: true,
                discard_zeroes: true,
                write_zeroes: false,
                optimal_write_bytes: block_bytes,
                atomic_writes: AtomicWrites::NONE,
                read_only: false,
            },
            bytes: vec![0xEE; sectors as usize * 512],
            steps: Vec::new(),
        }
    }

    fn seat(&self, who: usize, offered: usize) -> Seat<'_> {
        Seat {
            unit: &self.unit,
            nexus: &self.nexuses[who],
            port: &self.port,
            geometry: self.geometry,
            access: Access::Optimized,
            offered: offered as u32,
            directory: &Alone,
        }
    }

    /// Carries out a command with its data; answers how it ended, and with which data.
    fn run(&mut self, who: usize, cdb: &[u8], data: &[u8]) -> (Outcome, Vec<u8>) {
        let mut full = Cdb::default();
        full.0[..cdb.len()].copy_from_slice(cdb);
        match serve(&self.seat(who, data.len()), &mut View::default(), full) {
            Plan::End(outcome) => (outcome, Vec::new()),
            Plan::Answer(answer) => (Outcome::Good, answer),
            Plan::Read(extent) => {
                let from = extent.sector as usize * 512;
                let to = from + extent.sectors as usize * 512;
                (Outcome::Good, self.bytes[from..to].to_vec())
            }
            Plan::Write { extent, .. } => {
                let from = extent.sector as usize * 512;
                self.bytes[from..from + data.len()].copy_from_slice(data);
                (Outcome::Good, Vec::new())
            }
            Plan::Job(mut job) => {
                assert!(job.data_bytes as usize <= data.len(), "enough data");
                let mut scratch = vec![0; job.scratch_bytes as usize];
                let mut status = Status::Ok;
                loop {
                    let mut work = Work {
                        seat: self.seat(who, data.len()),
                        data: &data[..job.data_bytes as usize],
                        scratch: &mut scratch,
                        status,
                    };
                    match job.step(full, &mut work) {
                        Action::End(outcome) => return (outcome, Vec::new()),
                        Action::Leave(overwrite) => {
                            return (self.overwrite(*overwrite, &mut scratch), Vec::new());
                        }
                        Action::SetAccess(_) | Action::Preempt(_) => {
                            return (Outcome::Good, Vec::new());
                        }
                        Action::Keep(request) => {
                            let drafted = self.unit.draft(&request);
                            let ended = drafted.map(|draft| self.unit.adopt(draft));
                            let outcome = ended.err().unwrap_or(Outcome::Good);
                            return (outcome, Vec::new());
                        }
                        Action::Submit(steps) => {
                            status = Status::Ok;
                            for step in steps {
                                let ended = self.submit(&step, data, &mut scratch);
                                if status.is_ok() {
                                    status = ended;
                                }
                                self.steps.push(step);
                            }
                        }
                    }
                }
            }
        }
    }

    /// What goes on by itself goes on to its end.
    fn overwrite(&mut self, mut overwrite: Overwrite, scratch: &mut [u8]) -> Outcome {
        loop {
            let geometry = Some(&self.geometry);
            match overwrite.step(&self.unit, geometry, scratch, Status::Ok) {
                Action::Submit(steps) => {
                    for step in steps {
                        assert!(self.submit(&step, &[], scratch).is_ok());
                        self.steps.push(step);
                    }
                }
                Action::End(outcome) => return outcome,
                other => panic!("{other:?} makes no sense"),
            }
        }
    }

    fn submit(&mut self, step: &Step, data: &[u8], scratch: &mut [u8]) -> Status {
        let from = step.extent.sector as usize * 512;
        let size = step.extent.sectors as usize * 512;
        let blocks = &mut self.bytes[from..from + size];
        match (step.op, step.place) {
            (Op::Read, Place::Scratch(at)) => scratch[at..at + size].copy_from_slice(blocks),
            (Op::Write, Place::Scratch(at)) => blocks.copy_from_slice(&scratch[at..at + size]),
            (Op::Write | Op::WriteAtomic, Place::Data(at)) => {
                blocks.copy_from_slice(&data[at..at + size])
            }
            (Op::Discard | Op::WriteZeroes, Place::Nothing) => blocks.fill(0),
            (Op::Flush, Place::Nothing) => {}
            (Op::CompareAndWrite, Place::Scratch(at)) => {
                let (old, rest) = scratch[at..].split_at_mut(size);
                rest[size..2 * size].copy_from_slice(blocks);
                if blocks != old {
                    return Status::Miscompare;
                }
                blocks.copy_from_slice(&rest[..size]);
            }
            other => panic!("{other:?} makes no sense"),
        }
        Status::Ok
    }
}

fn cdb_16(code: u8, flags: u8, lba: u64, count: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = code;
    cdb[1] = flags;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&count.to_be_bytes());
    cdb
}

fn reason(outcome: Outcome) -> (Key, Code) {
    match outcome {
        Outcome::Check(sense) => (sense.key, sense.code),
        other => panic!("{other:?} has no sense data"),
    }
}

/// Every entry is as long as its operation code says, no two are the same, and the flags that commands look at are told.
#[test]
fn the_catalog_is_what_it_says() {
    for (index, entry) in CATALOG.iter().enumerate() {
        assert_eq!(
            entry.usage.len(),
            Cdb::length(entry.opcode),
            "{:02x}",
            entry.opcode
        );
        assert_eq!(entry.usage[0], entry.opcode);
        let same =
            |other: &catalog::Entry| other.opcode == entry.opcode && other.service == entry.service;
        assert!(
            !CATALOG[..index].iter().any(same),
            "{:02x} twice",
            entry.opcode
        );
    }
    let mut disk = Disk::new(512);
    disk.geometry.atomic_writes = AtomicWrites::ALL;
    let (outcome, all) = disk.run(0, &[0xA3, 0x0C, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0], &[]);
    assert!(outcome.is_good());
    assert_eq!(all.len(), 4 + CATALOG.len() * 8);
}

#[test]
fn blocks_are_compared_and_written_together() {
    for block in [512usize, 4096] {
        let mut disk = Disk::new(block as u32);
        let mut cdb = cdb_16(0x89, 0, 3, 0);
        cdb[13] = 1;
        let mut data = vec![0xEE; block];
        data.extend(vec![0x11; block]);
        assert!(disk.run(0, &cdb, &data).0.is_good());
        assert!(
            disk.bytes[3 * block..4 * block]
                .iter()
                .all(|&byte| byte == 0x11)
        );
        data[..block].fill(0x11);
        data[7] = 0x12;
        let (outcome, _) = disk.run(0, &cdb, &data);
        let Outcome::Check(sense) = outcome else {
            panic!()
        };
        assert_eq!((sense.key, sense.information), (Key::Miscompare, Some(7)));
        // Data for more blocks than are named.
        data.extend(vec![0x22; 2 * block]);
        assert_eq!(
            reason(disk.run(0, &cdb, &data).0).1,
            Code::INVALID_FIELD_IN_INFORMATION_UNIT
        );
        data.truncate(2 * block);
        // 256 blocks are none in a byte.
        cdb[13] = 0;
        assert_eq!(
            reason(disk.run(0, &cdb, &data).0).1,
            Code::INVALID_FIELD_IN_CDB
        );
        assert!(disk.run(0, &cdb, &[]).0.is_good());
    }
}

#[test]
fn or_write_and_write_same_and_unmap() {
    let mut disk = Disk::new(512);
    assert!(
        disk.run(0, &cdb_16(0x8B, 0, 1, 1), &[0x11; 512])
            .0
            .is_good()
    );
    assert!(disk.bytes[512..1024].iter().all(|&byte| byte == 0xFF));
    assert!(
        disk.run(0, &cdb_16(0x93, 0, 0, 60), &[0x33; 512])
            .0
            .is_good()
    );
    assert!(disk.bytes[..60 * 512].iter().all(|&byte| byte == 0x33));
    assert!(disk.bytes[60 * 512..].iter().all(|&byte| byte == 0xEE));
    // NDOB; and UNMAP of what reads as zeroes.
    assert!(disk.run(0, &cdb_16(0x93, 1, 0, 2), &[]).0.is_good());
    assert!(disk.run(0, &cdb_16(0x93, 8, 2, 2), &[0; 512]).0.is_good());
    assert_eq!(disk.steps.last().unwrap().op, Op::Discard);
    assert!(disk.bytes[..4 * 512].iter().all(|&byte| byte == 0));
    let mut list = vec![0; 8 + 32];
    list[3] = 32;
    list[15] = 10;
    list[19] = 2;
    list[31] = BLOCKS as u8;
    list[35] = 1;
    let unmap = [0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0];
    let before = disk.bytes.clone();
    assert_eq!(
        reason(disk.run(0, &unmap, &list).0).1,
        Code::LBA_OUT_OF_RANGE
    );
    assert_eq!(disk.bytes, before, "all ranges hold, or none is unmapped");
    list[31] = 20;
    assert!(disk.run(0, &unmap, &list).0.is_good());
    assert!(disk.bytes[10 * 512..12 * 512].iter().all(|&byte| byte == 0));
    assert!(disk.bytes[20 * 512..21 * 512].iter().all(|&byte| byte == 0));
}

#[test]
fn verify_finds_what_differs() {
    let mut disk = Disk::new(512);
    assert!(
        disk.run(0, &cdb_16(0x8E, 2, 4, 2), &[0x44; 1024])
            .0
            .is_good()
    );
    assert!(
        disk.run(0, &cdb_16(0x8F, 2, 4, 2), &[0x44; 1024])
            .0
            .is_good()
    );
    assert!(
        disk.run(0, &cdb_16(0x8F, 6, 4, 2), &[0x44; 512])
            .0
            .is_good()
    );
    assert!(
        disk.run(0, &cdb_16(0x8F, 0, 0, BLOCKS as u32), &[])
            .0
            .is_good()
    );
    let (outcome, _) = disk.run(0, &cdb_16(0x8F, 6, 3, 2), &[0x44; 512]);
    assert_eq!(reason(outcome).0, Key::Miscompare);
    let (outcome, _) = disk.run(0, &cdb_16(0x8F, 4, 3, 2), &[0x44; 512]);
    assert_eq!(reason(outcome).1, Code::INVALID_FIELD_IN_CDB);
}

/// SPC-4, 5.13: who holds a reservation may write, who is registered is told when it goes.
#[test]
fn persistent_reservations() {
    let mut disk = Disk::new(512);
    let out = |service: u8, kind: u8| [0x5F, service, kind, 0, 0, 0, 0, 0, 24, 0];
    let keys = |key: u64, new: u64| {
        let mut list = key.to_be_bytes().to_vec();
        list.extend_from_slice(&new.to_be_bytes());
        list.extend_from_slice(&[0; 8]);
        list
    };
    let write = cdb_16(0x8A, 0, 0, 1);
    assert!(disk.run(0, &out(0, 0), &keys(0, 1)).0.is_good());
    assert!(disk.run(1, &out(0, 0), &keys(0, 2)).0.is_good());
    assert_eq!(
        disk.run(1, &out(0, 0), &keys(9, 3)).0,
        Outcome::ReservationConflict
    );
    // Write exclusive: everybody reads, the holder writes.
    assert!(disk.run(0, &out(1, 1), &keys(1, 0)).0.is_good());
    assert!(disk.run(0, &write, &[1; 512]).0.is_good());
    assert_eq!(
        disk.run(1, &write, &[2; 512]).0,
        Outcome::ReservationConflict
    );
    assert!(disk.run(1, &cdb_16(0x88, 0, 0, 1), &[]).0.is_good());
    // The other takes it over, and the first hears of it.
    assert!(disk.run(1, &out(4, 3), &keys(2, 1)).0.is_good());
    assert_eq!(
        reason(disk.run(0, &write, &[3; 512]).0).1,
        Code::REGISTRATIONS_PREEMPTED
    );
    assert_eq!(
        disk.run(0, &write, &[3; 512]).0,
        Outcome::ReservationConflict
    );
    assert!(disk.run(1, &write, &[4; 512]).0.is_good());
    let (_, status) = disk.run(0, &[0x5E, 3, 0, 0, 0, 0, 0, 1, 0, 0], &[]);
    assert_eq!(
        status[8..16],
        2u64.to_be_bytes(),
        "one registration is left"
    );
    assert_eq!(status[8 + 12..8 + 14], [1, 3], "which holds it");
    // It outlives its session, and CLEAR ends it.
    disk.unit.leave(NexusId(2));
    assert_eq!(
        disk.run(0, &write, &[3; 512]).0,
        Outcome::ReservationConflict
    );
    let nexus = disk.nexuses[1].clone();
    disk.unit.join(&nexus, Code::POWER_ON);
    disk.unit.take_attention(nexus.id);
    assert!(disk.run(1, &out(3, 0), &keys(2, 0)).0.is_good());
    assert!(disk.run(0, &write, &[3; 512]).0.is_good());
    // Nothing is kept over a restart, and nobody is told so.
    let mut list = keys(0, 5);
    list[20] = 1;
    assert_eq!(
        reason(disk.run(0, &out(0, 0), &list).0).1,
        Code::INVALID_FIELD_IN_PARAMETERS
    );
}

/// WCE is true, D_SENSE and SWP do what they say, and the others are told.
#[test]
fn mode_parameters_can_be_changed() {
    let mut disk = Disk::new(512);
    let sense = |page: u8| [0x1A, 8, page, 0, 255, 0];
    let select = [0x15, 0x10, 0, 0, 24, 0];
    let (_, page) = disk.run(0, &sense(8), &[]);
    assert_eq!(page[6] & 4, 4, "there is a cache");
    let mut list = page.clone();
    list[..4].fill(0);
    list[6] &= !4;
    assert!(disk.run(0, &select, &list).0.is_good());
    assert_eq!(disk.run(0, &sense(8), &[]).1[6] & 4, 0);
    let (outcome, _) = disk.run(1, &[0; 6], &[]);
    assert_eq!(reason(outcome).1, Code::MODE_PARAMETERS_CHANGED);
    let plan = serve(
        &disk.seat(0, 512),
        &mut View::default(),
        Cdb(cdb_16(0x8A, 0, 0, 1)),
    );
    assert!(
        matches!(plan, Plan::Write { fua: true, .. }),
        "writes are through"
    );
    list[8] ^= 1;
    assert_eq!(
        reason(disk.run(0, &select, &list).0).1,
        Code::INVALID_FIELD_IN_PARAMETERS
    );
    let (_, mut control) = disk.run(0, &sense(0x0A), &[]);
    control[..4].fill(0);
    // RAC, and then TAS and SWP.
    control[8] |= 0x40;
    assert_eq!(
        reason(disk.run(0, &[0x15, 0x10, 0, 0, 16, 0], &control).0).1,
        Code::INVALID_FIELD_IN_PARAMETERS
    );
    control[8] &= !0x40;
    control[9] |= 0x40;
    control[8] |= 8;
    assert!(
        disk.run(0, &[0x15, 0x10, 0, 0, 16, 0], &control)
            .0
            .is_good()
    );
    let (outcome, _) = disk.run(0, &cdb_16(0x8A, 0, 0, 1), &[0; 512]);
    assert_eq!(
        reason(outcome),
        (Key::DataProtect, Code::SOFTWARE_WRITE_PROTECTED)
    );
    let (_, again) = disk.run(0, &sense(0x0A), &[]);
    assert_eq!(again[4..], control[4..]);
    // A reset makes it as it was, and knows how it was.
    assert!(disk.unit.tells_aborted());
    assert!(disk.unit.reset());
    assert!(!disk.unit.reset());
}

/// NACA is known to every command (SPC-4, 6.35.3), NORMACA and CACAS say that a task set can be at fault; that of the well-known unit cannot.
#[test]
fn naca_is_claimed_where_it_is_known() {
    let mut disk = Disk::new(512);
    // Of all commands that there are.
    disk.geometry.atomic_writes = AtomicWrites::ALL;
    for entry in CATALOG {
        let mut ask = [0xA3, 0x0C, 3, entry.opcode, 0, 0, 0, 0, 1, 0, 0, 0];
        ask[5] = entry.service.unwrap_or(0);
        let (outcome, one) = disk.run(0, &ask, &[]);
        assert!(outcome.is_good());
        let usage = &one[4..];
        assert_eq!(usage.len(), entry.usage.len());
        assert_eq!(usage[usage.len() - 1], 0x04, "{:02x}", entry.opcode);
    }
    let (_, functions) = disk.run(0, &[0xA3, 0x0D, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0], &[]);
    assert_eq!(functions, [0xFE, 0x07, 0, 0]);
    let inquiry = [0x12, 0, 0, 0, 36, 0];
    assert_eq!(disk.run(0, &inquiry, &[]).1[3], 0x32);
    let mut cdb = Cdb::default();
    cdb.0[..6].copy_from_slice(&inquiry);
    let Plan::Answer(data) = serve_nothing(&Alone, true, cdb) else {
        panic!()
    };
    assert_eq!(data[3], 0x12);
    cdb.0[5] = 0x04;
    let Plan::End(outcome) = serve_nothing(&Alone, true, cdb) else {
        panic!()
    };
    assert_eq!(outcome, Sense::invalid_field(5, Some(2)).into());
}

#[test]
fn a_lun_without_a_unit_says_so() {
    let inquiry = Cdb(std::array::from_fn(|at| {
        [0x12, 0, 0, 0, 96].get(at).copied().unwrap_or(0)
    }));
    let Plan::Answer(data) = serve_nothing(&Alone, false, inquiry) else {
        panic!()
    };
    assert_eq!(data[0], 0x7F);
    let Plan::End(outcome) = serve_nothing(&Alone, false, Cdb(cdb_16(0x88, 0, 0, 1))) else {
        panic!()
    };
    assert_eq!(reason(outcome).1, Code::LOGICAL_UNIT_NOT_SUPPORTED);
}

/// SBC-3, 5.16: blocks of 512 bytes on a device that writes 4 KiB best; a stripe is no physical block.
#[test]
fn physical_blocks_are_told() {
    for (block_bytes, physical, optimal, exponent) in [
        (512, 512, 512, 0),
        (512, 512, 4096, 3),
        (512, 512, 1 << 20, 3),
        (512, 4096, 4096, 3),
        (512, 16384, 1 << 20, 5),
        (4096, 4096, 1 << 20, 0),
    ] {
        let mut disk = Disk::new(block_bytes);
        disk.geometry.physical_bytes = physical;
        disk.geometry.optimal_write_bytes = optimal;
        let mut cdb = cdb_16(0x9E, 0x10, 0, 32);
        cdb[2..10].fill(0);
        let (outcome, data) = disk.run(0, &cdb, &[]);
        assert!(outcome.is_good());
        assert_eq!(data[13], exponent, "{block_bytes} of {optimal}");
        // OPTIMAL UNMAP GRANULARITY of the Block Limits page (SBC-3, 6.6.4): what is less than a physical block is not unmapped.
        let (_, page) = disk.run(0, &[0x12, 1, 0xB0, 0, 64, 0], &[]);
        let granularity = u32::from_be_bytes(page[28..32].try_into().unwrap());
        assert_eq!(granularity, physical / block_bytes);
    }
}

/// SPC-4, 7.8.10: every port of the target, whichever the command has come through.
#[test]
fn all_ports_are_listed() {
    let mut disk = Disk::new(512);
    let (outcome, data) = disk.run(0, &[0x12, 1, 0x88, 1, 0, 0], &[]);
    assert_eq!(outcome, Outcome::Good);
    let size = usize::from(u16::from_be_bytes([data[2], data[3]]));
    assert_eq!(data.len(), 4 + size);
    let mut rest = &data[4..];
    let mut numbers = Vec::new();
    while let [_, _, high, low, _, _, 0, 0, _, _, more, less, after @ ..] = rest {
        numbers.push(u16::from_be_bytes([*high, *low]));
        rest = &after[usize::from(u16::from_be_bytes([*more, *less]))..];
    }
    assert_eq!(numbers, [1, 7]);
    assert!(rest.is_empty());
}

/// What two initiators change at once, in two pages, is changed by both.
#[test]
fn pages_may_be_changed_at_the_same_time() {
    let mut disk = Disk::new(512);
    // WCE and D_SENSE.
    let lists = [(8, 6, 0x04), (0x0A, 6, 0x04)].map(|(page, at, bit)| {
        let (_, mut list) = disk.run(0, &[0x1A, 8, page, 0, 255, 0], &[]);
        list[..4].fill(0);
        let mut changed = list.clone();
        changed[at] ^= bit;
        [changed, list]
    });
    let disk = &disk;
    let cdb = Cdb(std::array::from_fn(|at| if at == 0 { 0x15 } else { 0 }));
    let change = |who: usize, is_changed: fn(mode::Modes) -> bool| {
        for turn in 0..4000 {
            let call = disk.seat(who, 0).call(cdb);
            assert_eq!(mode::selected(&call, &cdb, &lists[who][turn % 2]), Ok(()));
            let modes = disk.unit.lock().modes;
            assert_eq!(is_changed(modes), turn % 2 == 0, "turn {turn}");
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| change(0, |modes| modes.write_cache_off));
        scope.spawn(|| change(1, |modes| modes.descriptor_sense));
    });
}
