//! The iSCSI initiator and the load generator against our own target, over loopback sockets: each checks the other.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use polldm::bdev::{Registry, Spec};
use polldm::bench::{self, IscsiTarget, Options};
use polldm::engine::{self, Engine};
use polldm::export::iscsi::{
    Chap, Config, Export, Initiators, LunConfig, PortalGroup, TargetConfig,
};
use polldm::host::iscsi::login::{Offer, Proof};
use polldm::host::iscsi::{Address, BlockingSession, Payload, SessionOptions, command, login};
use polldm::iscsi::secrets::Secrets;
use polldm::reactor::{self, PollMode, available_cpus};
use polldm::scsi::sense::{Code, Key};
use polldm::scsi::{Access, Cdb};

const IQN: &str = "iqn.2026-11.io.polldm:initiator";

/// Longer than anything takes on a loaded machine; a test that gets here has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A target on two cores with three units of 8 MiB: 0 in blocks of 512 bytes, 1 in blocks of 4,096, which can be written atomically, and
/// 2 in blocks of 512 bytes over a disk of such blocks of 4,096.
struct Node {
    export: Export,
    engine: Engine,
}

impl Node {
    fn start(chap: Option<Chap>) -> Self {
        let bdevs = Arc::new(Registry::default());
        let cpus = available_cpus().unwrap();
        let reactors = reactor::Config {
            cpus: vec![cpus[0], cpus[cpus.len() - 1]],
            poll: PollMode::Adaptive {
                spin: Duration::from_micros(20),
            },
        };
        let config = engine::Config {
            reactors,
            buffer_bytes_max: 16 << 20,
        };
        let engine = Engine::start(&config, Arc::clone(&bdevs)).unwrap();
        let mut luns = Vec::new();
        for (lun, block_bytes, target) in [
            (0, 512, "linear ram0 0"),
            (1, 4096, "linear ram1 0"),
            (2, 4096, "ebs ram2 0 1"),
        ] {
            let (bdev, device_name) = (format!("ram{lun}"), format!("vol{lun}"));
            let spec = Spec::Malloc {
                bytes: 8 << 20,
                block_bytes,
                volatile_cache: true,
                atomic_writes: lun > 0,
            };
            bdevs.add(&bdev, spec).unwrap();
            let device = engine.create(&device_name, "", false).unwrap();
            let table = format!("0 16384 {target}");
            engine.load(&device_name, &table, false).unwrap();
            engine.resume(&device_name, Default::default()).unwrap();
            luns.push(LunConfig {
                lun,
                device,
                device_name,
                uuid: [lun as u8; 16],
                initiators: Initiators::Any,
            });
        }
        let config = Config {
            groups: vec![PortalGroup {
                tag: 1,
                portals: vec!["127.0.0.1:0".parse().unwrap()],
            }],
            keep_alive: Duration::from_secs(3600),
            discovery: None,
            targets: vec![TargetConfig {
                iqn: IQN.into(),
                initiators: Initiators::Any,
                chap,
                groups: vec![(1, Access::Optimized)],
                redirect: None,
                explicit_alua: false,
                luns,
            }],
        };
        let export = Export::start(&engine, &config, None).unwrap();
        Self { export, engine }
    }

    fn address(&self, lun: u16) -> Address {
        Address::new(self.export.addresses()[0].0, IQN, lun)
    }
}

fn session(address: &Address, change: impl FnOnce(&mut SessionOptions)) -> BlockingSession {
    let mut options = SessionOptions::new().unwrap();
    options.timeout = PATIENCE;
    change(&mut options);
    let mut session = BlockingSession::new(login(address, &options).unwrap(), PATIENCE);
    session.settle(address.lun).unwrap();
    session
}

fn bytes(size: usize, salt: u8) -> Vec<u8> {
    (0..size)
        .map(|index| (index * 31 + index / 512) as u8 ^ salt)
        .collect()
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn options(address: &Address, line: &str) -> Options {
    let address = address.to_string();
    let words = ["bench", &address, "--time", "200ms", "--warmup", "20ms"];
    Cli::parse_from(words.into_iter().chain(line.split_whitespace())).options
}

/// Every way in which data may go, with and without digests: what is written through one session is read through another.
#[test]
fn what_is_written_is_read() {
    let node = Node::start(None);
    let mut salt = 0;
    for digests in [false, true] {
        for (initial_ready, immediate_data) in
            [(false, true), (false, false), (true, true), (true, false)]
        {
            for (lun, block_size) in [(0, 512), (1, 4096), (2, 512)] {
                let address = node.address(lun);
                let mut one = session(&address, |options| {
                    options.header_digest = digests;
                    options.data_digest = digests;
                    options.offer = Offer {
                        initial_ready,
                        immediate_data,
                        ..Offer::default()
                    };
                });
                let mut other = session(&address, |_| {});
                for size in [4096, 64 << 10, 68 << 10, 1 << 20] {
                    salt += 1;
                    let data = bytes(size, salt);
                    one.write(lun, 67, &data, block_size, salt % 2 == 0)
                        .unwrap();
                    one.flush(lun).unwrap();
                    let block_count = size as u32 / block_size;
                    let read = other.read(lun, 67, block_count, block_size).unwrap();
                    assert!(
                        read == data,
                        "{size} bytes, {initial_ready} {immediate_data}"
                    );
                    let read = one.read(lun, 67, block_count, block_size).unwrap();
                    assert!(read == data, "{size} bytes back, digests {digests}");
                }
            }
        }
    }
}

/// Bursts far shorter than a write, several of them asked for at once (MaxOutstandingR2T), some of the data unasked before them.
#[test]
fn several_bursts_are_on_their_way_at_once() {
    let node = Node::start(None);
    let address = node.address(0);
    for (salt, (outstanding_ready, initial_ready)) in
        [(4, false), (4, true), (1, true), (65_535, false)]
            .into_iter()
            .enumerate()
    {
        let mut session = session(&address, |options| {
            options.data_digest = salt == 1;
            options.offer = Offer {
                initial_ready,
                burst_bytes: 64 << 10,
                outstanding_ready,
                ..Offer::default()
            };
        });
        let data: Vec<Vec<u8>> = (0..4)
            .map(|index| bytes(1 << 20, index + 16 * salt as u8))
            .collect();
        let begun: Vec<u16> = data
            .iter()
            .enumerate()
            .map(|(index, data)| {
                let cdb = command::write(2048 * index as u64, 2048, false);
                session.start(0, &cdb, Payload::Write(data)).unwrap()
            })
            .collect();
        for slot in begun {
            assert!(session.finish(slot).unwrap().status.is_good());
        }
        for (index, data) in data.iter().enumerate() {
            let read = session.read(0, 2048 * index as u64, 2048, 512).unwrap();
            assert!(read == *data, "{outstanding_ready} {initial_ready}");
        }
    }
}

/// A CDB goes as it is; status, sense data and lengths come back as they are.
#[test]
fn any_command_can_be_sent() {
    let node = Node::start(None);
    let mut session = session(&node.address(0), |_| {});
    let capacity = session.capacity(0).unwrap();
    assert_eq!((capacity.block_count, capacity.block_size), (16_384, 512));
    assert_eq!(
        session.capacity(1).err().map(|error| error.to_string()),
        Some("READ CAPACITY (16): CHECK CONDITION, UNIT ATTENTION, 29h/00h".into())
    );
    let limit = session.transfer_blocks_max(0).unwrap();
    assert_eq!(limit, Some(2048));

    let past = command::read(16_383, 2);
    let outcome = session.run(0, &past, Payload::Read(1024)).unwrap();
    assert!(
        outcome
            .status
            .is(Key::IllegalRequest, Code::LBA_OUT_OF_RANGE)
    );
    assert_eq!((outcome.sense.len(), outcome.transferred), (18, 0));

    // UNMAP of ten blocks, then what is left of them.
    session.write(0, 100, &bytes(5120, 1), 512, false).unwrap();
    let mut unmap = Cdb::default();
    unmap.0[0] = 0x42;
    unmap.0[8] = 24;
    let mut list = [0; 24];
    list[1] = 22;
    list[3] = 16;
    list[15] = 100;
    list[19] = 10;
    let outcome = session.run(0, &unmap, Payload::Write(&list)).unwrap();
    assert!(outcome.status.is_good(), "{}", outcome.status);
    assert_eq!(session.read(0, 100, 10, 512).unwrap(), vec![0; 5120]);

    // Less data than there is room for.
    let outcome = session
        .run(0, &command::inquiry(None, 255), Payload::Read(255))
        .unwrap();
    assert!(outcome.status.is_good());
    assert!(
        (36..255).contains(&outcome.transferred),
        "{}",
        outcome.transferred
    );

    // As many at once as the session has room for, awaited backwards.
    let mut slots = Vec::new();
    for index in 0..32 {
        slots.push(
            session
                .start(0, &command::read(index, 1), Payload::Read(512))
                .unwrap(),
        );
    }
    while let Some(slot) = slots.pop() {
        assert!(session.finish(slot).unwrap().status.is_good());
    }
}

/// A CDB of 16 bytes: operation, its byte 1, LBA, and blocks, which COMPARE AND WRITE has in a byte.
fn long(operation: u8, flags: u8, lba: u64, block_count: u32) -> Cdb {
    let mut cdb = Cdb::default();
    cdb.0[..2].copy_from_slice(&[operation, flags]);
    cdb.0[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb.0[10..14].copy_from_slice(&block_count.to_be_bytes());
    cdb
}

/// 512e: blocks of 512 bytes over blocks of 4,096, and the initiator is told so. Whatever writes does so to the blocks that it names, wherever they
/// lie in those of the disk, and to no others: every command, at every place of two blocks of the disk, against a copy kept here.
#[test]
fn small_blocks_over_larger_ones_are_told_and_written() {
    let node = Node::start(None);
    let mut session = session(&node.address(2), |_| {});
    let capacity = session.run(2, &command::read_capacity(32), Payload::Read(32));
    let capacity = capacity.unwrap().data;
    assert_eq!(capacity[..8], 16_383u64.to_be_bytes());
    assert_eq!(capacity[8..12], 512u32.to_be_bytes());
    assert_eq!(
        capacity[13], 3,
        "LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT"
    );
    assert_eq!(
        capacity[14] & 0x40,
        0,
        "LBPRZ: parts of a block are not unmapped"
    );
    let mut inquiry = Cdb::default();
    inquiry.0[..5].copy_from_slice(&[0x12, 1, 0xB0, 0, 64]);
    let page = session.run(2, &inquiry, Payload::Read(64)).unwrap().data;
    assert_eq!(page[6..8], [0, 8], "OPTIMAL TRANSFER LENGTH GRANULARITY");
    assert_eq!(page[28..32], [0, 0, 0, 8], "OPTIMAL UNMAP GRANULARITY");
    assert_eq!(atomic_limits(&mut session, 2), [8; 5]);

    let mut disk = bytes(64 * 512, 1);
    session.write(2, 0, &disk, 512, false).unwrap();
    let mut salt = 1;
    for lba in 0..16u64 {
        for block_count in [1, 2, 7, 8, 9, 17, 24] {
            salt += 1;
            let data = bytes(block_count * 512, salt);
            let range = lba as usize * 512..(lba as usize + block_count) * 512;
            let count = block_count as u32;
            let old = disk[range.clone()].to_vec();
            let mut run = |cdb: &Cdb, data: &[u8]| {
                let outcome = session.run(2, cdb, Payload::Write(data)).unwrap();
                let read = session.read(2, 0, 64, 512).unwrap();
                (outcome.status, read)
            };
            let mut writes = |cdb: &Cdb, sent: &[u8], leaves: &[u8]| {
                let (status, read) = run(cdb, sent);
                assert!(status.is_good(), "{:#x} at {lba}: {status}", cdb.0[0]);
                disk[range.clone()].copy_from_slice(leaves);
                assert!(read == disk, "{:#x}: {block_count} at {lba}", cdb.0[0]);
            };
            let or: Vec<u8> = old.iter().zip(&data).map(|(a, b)| a | b).collect();
            writes(&long(0x8B, 0, lba, count), &data, &or); // ORWRITE
            writes(&long(0x8A, 0x08, lba, count), &data, &data); // WRITE, FUA
            writes(&long(0x8F, 0x02, lba, count), &data, &data); // VERIFY, BYTCHK
            let block = &bytes(512, salt ^ 7);
            let same = block.repeat(block_count);
            writes(&long(0x93, 0, lba, count), block, &same); // WRITE SAME
            writes(&long(0x8E, 0, lba, count), &data, &data); // WRITE AND VERIFY
            // UNMAP and NDOB: zeroes, although the blocks at the ends are not unmapped as a whole.
            writes(&long(0x93, 0x09, lba, count), &[], &vec![0; range.len()]);
            let mut compare_and_write = long(0x89, 0, lba, 0);
            compare_and_write.0[13] = count as u8;
            let pair = [&vec![0; range.len()][..], &data].concat();
            writes(&compare_and_write, &pair, &data);
            let (status, read) = run(&compare_and_write, &pair);
            assert!(
                status.is(Key::Miscompare, Code::MISCOMPARE_DURING_VERIFY),
                "{status}"
            );
            assert!(read == disk);

            // UNMAP: whole blocks of the disk, which read as zeroes here; the others stay.
            let mut unmap = Cdb::default();
            (unmap.0[0], unmap.0[8]) = (0x42, 24);
            let mut list = [0; 24];
            (list[1], list[3]) = (22, 16);
            list[8..16].copy_from_slice(&lba.to_be_bytes());
            list[16..20].copy_from_slice(&count.to_be_bytes());
            let (status, read) = run(&unmap, &list);
            assert!(status.is_good(), "{status}");
            let first = lba.next_multiple_of(8) as usize;
            let end = (lba as usize + block_count) / 8 * 8;
            disk[first * 512..end.max(first) * 512].fill(0);
            assert!(read == disk, "UNMAP of {block_count} at {lba}");
        }
    }
    let data = bytes(8 * 512, 9);
    let outcome = session.run(2, &write_atomic(8, 8), Payload::Write(&data));
    assert!(outcome.unwrap().status.is_good());
    let outcome = session.run(2, &write_atomic(12, 8), Payload::Write(&data));
    let refused = outcome.unwrap().status;
    assert!(
        refused.is(Key::IllegalRequest, Code::INVALID_FIELD_IN_CDB),
        "{refused}"
    );
}

/// CHAP both ways; without a secret, with a wrong one, and with a target that cannot prove itself there is no session.
fn write_atomic(lba: u64, block_count: u16) -> Cdb {
    let mut cdb = Cdb::default();
    cdb.0[0] = 0x9C;
    cdb.0[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb.0[12..14].copy_from_slice(&block_count.to_be_bytes());
    cdb
}

/// MAXIMUM ATOMIC TRANSFER LENGTH, ATOMIC ALIGNMENT and what follows of the Block Limits page.
fn atomic_limits(session: &mut BlockingSession, lun: u16) -> [u32; 5] {
    let mut inquiry = Cdb::default();
    inquiry.0[..5].copy_from_slice(&[0x12, 1, 0xB0, 0, 64]);
    let page = session.run(lun, &inquiry, Payload::Read(64)).unwrap().data;
    std::array::from_fn(|index| {
        let at = 44 + 4 * index;
        u32::from_be_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
    })
}

/// Readers and a writer on two cores: whoever reads a megabyte, which takes many segments of TCP, finds all of an atomic write of it or
/// nothing. A unit whose device lends what it holds does not offer that, and another table takes it back.
#[test]
fn an_atomic_write_is_read_whole() {
    let node = Node::start(None);
    let address = node.address(1);
    let mut writer = session(&address, |_| {});
    assert_eq!(atomic_limits(&mut writer, 1), [256, 0, 0, 256, 256]);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| session(&address, |_| {}))
            .map(|mut reader| {
                scope.spawn(move || {
                    let (mut found, mut reads) = (BTreeSet::new(), 0);
                    while reads < 40 || found.len() < 5 {
                        let data = reader.read(1, 0, 256, 4096).unwrap();
                        let first = data[0];
                        assert!(data.iter().all(|byte| *byte == first), "torn");
                        found.insert(first);
                        reads += 1;
                    }
                })
            })
            .collect();
        let mut data = vec![0; 1 << 20];
        for round in (0..=u8::MAX).cycle() {
            if readers.iter().all(|reader| reader.is_finished()) {
                break;
            }
            data.fill(round);
            let cdb = write_atomic(0, 256);
            let outcome = writer.run(1, &cdb, Payload::Write(&data)).unwrap();
            assert!(outcome.status.is_good(), "{}", outcome.status);
        }
    });

    let data = bytes(8192, 3);
    node.engine
        .load("vol1", "0 8 zero\n8 16376 linear ram1 8", false)
        .unwrap();
    node.engine.resume("vol1", Default::default()).unwrap();
    let outcome = writer.run(1, &write_atomic(4, 2), Payload::Write(&data));
    let told = outcome.unwrap().status;
    assert!(told.is(Key::UnitAttention, Code::INQUIRY_DATA_CHANGED));
    let outcome = writer.run(1, &write_atomic(4, 2), Payload::Write(&data));
    let refused = outcome.unwrap().status;
    assert!(refused.is(Key::IllegalRequest, Code::INVALID_OPCODE));
    assert_eq!(atomic_limits(&mut writer, 1), [0; 5]);

    let mut other = session(&node.address(0), |_| {});
    assert_eq!(atomic_limits(&mut other, 0), [0; 5]);
    let outcome = other.run(0, &write_atomic(0, 2), Payload::Write(&data[..1024]));
    let refused = outcome.unwrap().status;
    assert!(refused.is(Key::IllegalRequest, Code::INVALID_OPCODE));
}

#[test]
fn who_cannot_prove_it_is_not_let_in() {
    const SECRETS: &str = "initiator host secret-of-the-host\ntarget polldm secret-of-the-target";
    let chap = Chap {
        secrets: Arc::new(Secrets::parse(SECRETS).unwrap()),
        mutual: true,
    };
    let node = Node::start(Some(chap));
    let address = node.address(0);
    let with = |secrets: Option<&str>| {
        let mut options = SessionOptions::new().unwrap();
        let proof = |text| Proof::of(&Secrets::parse(text).unwrap()).unwrap();
        options.proof = secrets.map(|text| Arc::new(proof(text)));
        login(&address, &options)
            .err()
            .map_or(String::new(), |error| error.to_string())
    };
    assert_eq!(with(Some(SECRETS)), "");
    assert!(with(None).contains("wants a proof"));
    assert!(with(Some(&SECRETS.replace("the-host", "another"))).contains("a proof was wrong"));
    let other = with(Some(&SECRETS.replace("the-target", "another")));
    assert!(
        other.contains("the target did not prove who it is"),
        "{other}"
    );
    // The target insists on being asked.
    assert!(with(Some("initiator host secret-of-the-host")).contains("a proof"));
}

/// The load generator runs every pattern, reads back all it wrote, and finds nothing wrong.
#[test]
fn the_load_generator_verifies_the_target() {
    let node = Node::start(None);
    for line in [
        "--rw randread --qd 32",
        "--rw randread --bs 4k --qd 1",
        "--rw read --bs 64k --qd 8",
        "--rw randrw --bs 4k --qd 128 --verify --flush-every 32 --header-digest",
        "--rw randrw --bs 4k --qd 16 --jobs 2 --verify --flush-every 32",
        "--rw write --bs 32k --qd 8 --verify --header-digest --data-digest",
        "--rw write --bs 1M --qd 4 --verify",
        "--rw randwrite --bs 4k --qd 4 --rate 2000 --verify --size 1MiB --data-digest",
    ] {
        for lun in [0, 1] {
            let address = node.address(lun);
            let options = options(&address, line);
            let mut target = IscsiTarget::connect(&address, &options).unwrap();
            let report = bench::run(&mut target, &options).unwrap().report;
            assert!(report.is_clean(), "{line}:\n{}", report.text());
            if options.verify {
                assert!(report.verify.unwrap().checked_bytes > 0, "{line}");
            }
        }
    }
}

/// What cannot be measured is said in a sentence before anything is.
#[test]
fn what_cannot_be_measured_is_said() {
    let node = Node::start(None);
    let refused = |address: &Address, line: &str| {
        let options = options(address, line);
        let measured = IscsiTarget::connect(address, &options)
            .and_then(|mut target| bench::run(&mut target, &options));
        measured.map(|_| ()).unwrap_err()
    };
    let error = refused(&node.address(7), "");
    assert!(
        error.ends_with("the target has no unit 7 for this initiator"),
        "{error}"
    );
    let other = Address {
        iqn: "iqn.2026-11.io.polldm:none".into(),
        ..node.address(0)
    };
    let error = refused(&other, "");
    assert!(
        error.ends_with("there is no target of this name"),
        "{error}"
    );
    let error = refused(&node.address(0), "--qd 257");
    assert_eq!(error, "--qd 257: the target takes at most 256");
    let error = refused(&node.address(0), "--bs 2M");
    assert!(error.contains("at most 1048576 bytes"), "{error}");
    let error = refused(&node.address(0), "--secrets /none");
    assert!(
        error.starts_with("--secrets: `/none` cannot be read"),
        "{error}"
    );
    let address = node.address(0);
    node.engine.stop(PATIENCE).unwrap();
    let error = refused(&address, "");
    assert!(error.contains("connecting to 127.0.0.1"), "{error}");
}

/// A target that goes while it is measured ends the run with an error, and does not make it wait.
#[test]
fn a_target_that_goes_ends_the_run() {
    let node = Node::start(None);
    let address = node.address(0);
    let mut options = options(&address, "--rw randrw --jobs 2 --qd 16");
    options.time = Duration::from_secs(3600);
    let mut target = IscsiTarget::connect(&address, &options).unwrap();
    let run = std::thread::spawn(move || bench::run(&mut target, &options).map(|_| ()));
    // Until both jobs are at work.
    let is_loaded = |node: &Node| {
        let connections = node.export.snapshot(&node.engine).connections;
        connections
            .iter()
            .filter(|connection| connection.stats.commands() > 100)
            .count()
            == 2
    };
    while !is_loaded(&node) {
        assert!(!run.is_finished(), "{:?}", run.join());
        std::thread::yield_now();
    }
    node.engine.stop(PATIENCE).unwrap();
    let error = run.join().unwrap().unwrap_err();
    assert!(error.contains("the target"), "{error}");
}
