//! Every kind of device against the same slow, obvious oracle; and what only a file can get wrong.

use super::*;
use crate::dm::{AtomicWrites, CloneId, LowerIo, Op, Payload as _, Status, Submit};
use proptest::prelude::*;
use std::collections::HashMap;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

pub(super) const POOL_BYTES: usize = 16 << 20;

/// One reactor's worth of it: polls until everything has ended.
pub(super) struct Bench {
    pub core: Core,
    pub channel: Channel,
    discards: bool,
    pub ended: HashMap<u32, Status>,
    gathered: Vec<(CloneId, Status)>,
    next: u32,
}

impl Bench {
    pub fn new(bdev: &Arc<Bdev>, core: Core) -> Bench {
        let mut core = core;
        let channel = bdev.channel(&mut core).expect("channel");
        Bench {
            core,
            channel,
            discards: bdev.declare().discard,
            ended: HashMap::new(),
            gathered: Vec::new(),
            next: 0,
        }
    }

    pub fn poll(&mut self) {
        self.core.poll(&mut self.gathered);
        for (clone, status) in self.gathered.drain(..) {
            let before = self.ended.insert(clone.0, status);
            assert_eq!(before, None, "completes once");
        }
        self.core.submit_gathered();
    }

    /// Submits, again and again while there is no room. The clone's number.
    pub fn start(&mut self, op: Op, fua: bool, sector: u64, sectors: u32, payload: Payload) -> u32 {
        let clone = self.next;
        self.next += 1;
        let io = LowerIo {
            op,
            fua,
            sector,
            sectors,
            payload,
        };
        loop {
            match self.channel.submit(&mut self.core, &io, CloneId(clone)) {
                Submit::Done(status) => {
                    self.ended.insert(clone, status);
                    return clone;
                }
                Submit::Pending => return clone,
                Submit::Busy => self.poll(),
            }
        }
    }

    pub fn wait(&mut self, clone: u32) -> Status {
        loop {
            if let Some(status) = self.ended.remove(&clone) {
                return status;
            }
            self.poll();
        }
    }

    pub fn run(
        &mut self,
        op: Op,
        fua: bool,
        sector: u64,
        sectors: u32,
        payload: Payload,
    ) -> Status {
        let clone = self.start(op, fua, sector, sectors, payload);
        self.wait(clone)
    }

    /// What the range reads as, by memory that lies `misaligned` bytes off a page.
    pub fn read(&mut self, sector: u64, sectors: u32, misaligned: usize) -> Vec<u8> {
        let length = sectors as usize * 512;
        let mut memory = vec![0xAA; length + 2 * 4096];
        let start = memory.as_ptr().align_offset(4096) + misaligned;
        // SAFETY: within `memory`, which outlives the I/O.
        let payload =
            unsafe { Payload::new(NonNull::from(&mut memory[start..]).cast(), length as u32) };
        assert_eq!(
            self.run(Op::Read, false, sector, sectors, payload),
            Status::Ok
        );
        memory[start..start + length].to_vec()
    }

    pub fn read_lent(&mut self, sector: u64, sectors: u32) -> Vec<u8> {
        let mut list = LendList::default();
        // SAFETY: `list` outlives the I/O, and is not touched until it has ended.
        let payload = unsafe { Payload::lent(NonNull::from(&mut list), sectors * 512) };
        assert_eq!(
            self.run(Op::Read, false, sector, sectors, payload),
            Status::Ok
        );
        list.sort();
        assert!(list.covers(sectors * 512));
        let mut bytes = Vec::new();
        for segment in list.segments() {
            // SAFETY: valid until the segment is dropped, and nobody writes to the device now.
            bytes.extend_from_slice(unsafe {
                std::slice::from_raw_parts(segment.as_ptr(), segment.length as usize)
            });
        }
        bytes
    }

    pub fn write(&mut self, sector: u64, data: &[u8], misaligned: usize, fua: bool) -> Status {
        let mut memory = vec![0u8; data.len() + 2 * 4096];
        let start = memory.as_ptr().align_offset(4096) + misaligned;
        memory[start..start + data.len()].copy_from_slice(data);
        // SAFETY: within `memory`, which outlives the I/O.
        let payload = unsafe {
            Payload::new(
                NonNull::from(&mut memory[start..]).cast(),
                data.len() as u32,
            )
        };
        self.run(Op::Write, fua, sector, (data.len() / 512) as u32, payload)
    }
}

fn open(spec: Spec) -> Result<Arc<Bdev>, Error> {
    Registry::default().add("test", spec)
}

fn bench(spec: Spec) -> Bench {
    Bench::new(&open(spec).expect("open"), Core::new(POOL_BYTES))
}

pub(super) fn file_spec(path: &Path, bytes: u64, block_bytes: u32, direct: Direct) -> Spec {
    Spec::File {
        path: path.to_path_buf(),
        bytes: Some(bytes),
        block_bytes,
        direct,
        read_only: false,
    }
}

const DEVICE_BLOCKS: u64 = 512;

#[derive(Clone, Debug)]
enum Step {
    Read {
        lent: bool,
        misaligned: usize,
    },
    Write {
        fill: u8,
        misaligned: usize,
        fua: bool,
    },
    Zero {
        fua: bool,
    },
    Discard,
    Flush,
}

fn step() -> impl Strategy<Value = (Step, u64, u64)> {
    // Mostly multiples of 512, as guests' memory is; anything else too.
    let misaligned = || prop_oneof![Just(0usize), Just(512), Just(64), 0usize..4096];
    let step = prop_oneof![
        3 => (any::<bool>(), misaligned()).prop_map(|(lent, misaligned)| Step::Read { lent, misaligned }),
        4 => (any::<u8>(), misaligned(), any::<bool>())
            .prop_map(|(fill, misaligned, fua)| Step::Write { fill, misaligned, fua }),
        1 => any::<bool>().prop_map(|fua| Step::Zero { fua }),
        1 => Just(Step::Discard),
        1 => Just(Step::Flush),
    ];
    (step, 0..DEVICE_BLOCKS, 1u64..256)
}

/// Runs the steps on the device and on a vector. Discarded ranges may read as anything, so they are written to in the oracle's own way: not
/// compared until written again.
fn compare(spec: Spec, block_bytes: u32, steps: &[(Step, u64, u64)]) {
    let mut bench = bench(spec);
    let block = u64::from(block_bytes) / 512;
    let mut oracle: Vec<Option<u8>> = vec![Some(0); DEVICE_BLOCKS as usize * block_bytes as usize];
    let check = |seen: &[u8], from: usize, oracle: &[Option<u8>]| {
        for (index, byte) in seen.iter().enumerate() {
            if let Some(expected) = oracle[from + index] {
                assert_eq!(*byte, expected, "byte {}", from + index);
            }
        }
    };
    for (step, first, count) in steps {
        let count = (*count).min(DEVICE_BLOCKS - first);
        let (sector, sectors) = (first * block, (count * block) as u32);
        let from = sector as usize * 512;
        let range = from..from + sectors as usize * 512;
        match step {
            Step::Read { lent: true, .. } => {
                check(&bench.read_lent(sector, sectors), from, &oracle)
            }
            Step::Read { misaligned, .. } => {
                check(&bench.read(sector, sectors, *misaligned), from, &oracle)
            }
            Step::Write {
                fill,
                misaligned,
                fua,
            } => {
                // No two sectors alike, so that a shifted one is found.
                let data: Vec<u8> = range
                    .clone()
                    .map(|at| fill.wrapping_add((at / 512) as u8).wrapping_mul(31) ^ at as u8)
                    .collect();
                assert_eq!(bench.write(sector, &data, *misaligned, *fua), Status::Ok);
                for (target, byte) in oracle[range].iter_mut().zip(data) {
                    *target = Some(byte);
                }
            }
            Step::Zero { fua } => {
                let status = bench.run(Op::WriteZeroes, *fua, sector, sectors, Payload::empty());
                assert_eq!(status, Status::Ok);
                oracle[range].fill(Some(0));
            }
            Step::Discard => {
                let status = bench.run(Op::Discard, false, sector, sectors, Payload::empty());
                let expected = match bench.discards {
                    true => Status::Ok,
                    false => Status::NotSupported,
                };
                assert_eq!(status, expected);
                oracle[range].fill(None);
            }
            Step::Flush => {
                assert_eq!(
                    bench.run(Op::Flush, false, 0, 0, Payload::empty()),
                    Status::Ok
                );
            }
        }
    }
    for first in (0..DEVICE_BLOCKS * block).step_by(1024) {
        let sectors = (DEVICE_BLOCKS * block - first).min(1024) as u32;
        check(
            &bench.read(first, sectors, 0),
            first as usize * 512,
            &oracle,
        );
    }
    assert_eq!(
        bench.core.buffers().bytes_taken(),
        0,
        "every buffer came back"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn malloc_is_a_vector(steps in prop::collection::vec(step(), 1..60), small in any::<bool>()) {
        let block_bytes = if small { 512 } else { 4096 };
        let bytes = DEVICE_BLOCKS * u64::from(block_bytes);
        compare(Spec::Malloc { bytes, block_bytes, volatile_cache: false, atomic_writes: false }, block_bytes, &steps);
    }

    #[test]
    fn a_file_is_a_vector(steps in prop::collection::vec(step(), 1..40), small in any::<bool>(), through in any::<bool>()) {
        let block_bytes = if small { 512 } else { 4096 };
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("disk");
        let direct = if through { Direct::Off } else { Direct::Auto };
        let bytes = DEVICE_BLOCKS * u64::from(block_bytes);
        compare(file_spec(&path, bytes, block_bytes, direct), block_bytes, &steps);
    }
}

#[test]
fn null_completes_at_the_next_poll_and_lends_zeroes() {
    let mut bench = bench(Spec::Null {
        bytes: 1 << 40,
        block_bytes: 512,
    });
    let flush = bench.start(Op::Flush, false, 0, 0, Payload::empty());
    let discard = bench.start(Op::Discard, false, 0, 1 << 20, Payload::empty());
    assert!(bench.ended.is_empty() && !bench.core.before_sleep());
    bench.poll();
    assert_eq!(bench.ended.len(), 2);
    assert_eq!(
        (bench.wait(flush), bench.wait(discard)),
        (Status::Ok, Status::Ok)
    );
    assert!(bench.core.before_sleep());
    assert!(bench.read_lent(1 << 20, 2048).iter().all(|&byte| byte == 0));
}

/// What was lent stays readable after its device has been removed, and after its channel is closed.
#[test]
fn what_is_lent_outlives_the_device() {
    let registry = Registry::default();
    let spec = Spec::Malloc {
        bytes: 1 << 20,
        block_bytes: 512,
        volatile_cache: true,
        atomic_writes: false,
    };
    let bdev = registry.add("ram", spec.clone()).expect("open");
    assert!(matches!(
        registry.add("ram", spec),
        Err(Error::Exists { .. })
    ));
    assert!(bdev.declare().volatile_cache);
    let mut bench = Bench::new(&bdev, Core::new(POOL_BYTES));
    assert_eq!(bench.write(8, &[7; 512], 0, false), Status::Ok);
    let mut list = LendList::default();
    // SAFETY: `list` outlives the I/O.
    let payload = unsafe { Payload::lent(NonNull::from(&mut list), 512) };
    assert_eq!(bench.run(Op::Read, false, 8, 1, payload), Status::Ok);
    match registry.remove("ram") {
        Err(Error::InUse { channels: 1, .. }) => {}
        other => panic!("a channel is open: {other:?}"),
    }
    drop(bench);
    drop(bdev);
    registry.remove("ram").expect("not in use");
    assert!(registry.by_name("ram").is_none() && registry.list().is_empty());
    // SAFETY: the segment is still there.
    let bytes = unsafe { std::slice::from_raw_parts(list.segments()[0].as_ptr(), 512) };
    assert_eq!(bytes, &[7; 512]);
}

/// What a malloc device that writes atomically has lent is not changed by a later write: it is a copy, in a buffer of the pool.
#[test]
fn what_an_atomic_device_has_lent_holds_still() {
    for (atomic_writes, found) in [(false, 2), (true, 1)] {
        let spec = Spec::Malloc {
            bytes: 1 << 20,
            block_bytes: 512,
            volatile_cache: false,
            atomic_writes,
        };
        let bdev = open(spec).expect("open");
        let declared = bdev.declare().atomic_writes;
        assert_eq!(declared != AtomicWrites::NONE, atomic_writes);
        let mut bench = Bench::new(&bdev, Core::new(POOL_BYTES));
        assert_eq!(bench.write(8, &[1; 512], 0, false), Status::Ok);
        let mut list = LendList::default();
        // SAFETY: `list` outlives the I/O.
        let payload = unsafe { Payload::lent(NonNull::from(&mut list), 512) };
        assert_eq!(bench.run(Op::Read, false, 8, 1, payload), Status::Ok);
        assert_eq!(bench.core.buffers().bytes_taken() > 0, atomic_writes);
        assert_eq!(bench.write(8, &[2; 512], 0, false), Status::Ok);
        // SAFETY: the segment is still there.
        let bytes = unsafe { std::slice::from_raw_parts(list.segments()[0].as_ptr(), 512) };
        assert_eq!(bytes, &[found; 512]);
        list.clear();
        assert_eq!(bench.core.buffers().bytes_taken(), 0);
    }
}

/// A discard of a large range does not hold up the reactor: it takes many polls, and I/O goes on in between.
#[test]
fn large_zeroing_is_cut_into_turns() {
    let mut bench = bench(Spec::Malloc {
        bytes: 64 << 20,
        block_bytes: 512,
        volatile_cache: false,
        atomic_writes: false,
    });
    assert_eq!(bench.write(0, &[1; 512], 0, false), Status::Ok);
    assert_eq!(bench.write((64 << 11) - 1, &[1; 512], 0, false), Status::Ok);
    let zeroing = bench.start(Op::WriteZeroes, false, 0, 64 << 11, Payload::empty());
    assert!(!bench.core.before_sleep());
    let mut polls = 0;
    while !bench.ended.contains_key(&zeroing) {
        bench.poll();
        polls += 1;
    }
    assert!(polls > 8, "{polls} polls");
    assert_eq!(bench.read(0, 1, 0), vec![0; 512]);
    assert_eq!(bench.read((64 << 11) - 1, 1, 0), vec![0; 512]);
}

#[test]
fn io_beyond_the_device_or_off_its_blocks_fails() {
    let mut bench = bench(Spec::Malloc {
        bytes: 1 << 20,
        block_bytes: 4096,
        volatile_cache: false,
        atomic_writes: false,
    });
    for (sector, sectors) in [(2048, 8), (2040, 16), (u64::MAX - 7, 8), (1, 8), (0, 1)] {
        let status = bench.run(Op::WriteZeroes, false, sector, sectors, Payload::empty());
        assert_eq!(status, Status::IoError, "{sector} {sectors}");
    }
}

#[test]
fn a_device_can_grow_and_shrink() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("disk");
    for spec in [
        Spec::Malloc {
            bytes: 1 << 20,
            block_bytes: 512,
            volatile_cache: false,
            atomic_writes: false,
        },
        file_spec(&path, 1 << 20, 512, Direct::Auto),
    ] {
        let bdev = open(spec).expect("open");
        let mut bench = Bench::new(&bdev, Core::new(POOL_BYTES));
        assert_eq!(bench.write(2047, &[9; 512], 0, false), Status::Ok);
        bdev.resize(2 << 20).expect("grow");
        assert_eq!(bdev.declare().sectors, 4096);
        assert_eq!(bench.read(2047, 2, 0), [[9u8; 512], [0; 512]].concat());
        bdev.resize(512 << 10).expect("shrink");
        assert_eq!(
            bench.run(Op::WriteZeroes, false, 2047, 1, Payload::empty()),
            Status::IoError
        );
        bdev.resize(1 << 20).expect("grow");
        assert_eq!(bench.read(2047, 1, 0), vec![0; 512]);
        assert!(matches!(bdev.resize(1000), Err(Error::Size { .. })));
    }
}

#[test]
fn a_file_belongs_to_one() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("disk");
    let spec = file_spec(&path, 1 << 20, 512, Direct::Auto);
    let first = open(spec.clone()).expect("open");
    match open(spec.clone()) {
        Err(error @ Error::Locked { .. }) => {
            assert!(
                error.to_string().contains(path.to_str().expect("path")),
                "{error}"
            );
        }
        _ => panic!("opened twice"),
    }
    drop(first);
    let reader = Spec::File {
        path: path.clone(),
        bytes: None,
        block_bytes: 512,
        direct: Direct::Auto,
        read_only: true,
    };
    let one = open(reader.clone()).expect("open");
    let _two = open(reader).expect("two readers are no harm");
    assert!(matches!(open(spec), Err(Error::Locked { .. })));
    let mut bench = Bench::new(&one, Core::new(POOL_BYTES));
    assert_eq!(bench.write(0, &[1; 512], 0, false), Status::Target);
    assert!(one.declare().read_only && !one.declare().discard);
}

#[test]
fn a_file_is_grown_but_never_cut() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("disk");
    std::fs::write(&path, [5u8; 1024]).expect("write");
    drop(open(file_spec(&path, 1 << 30, 512, Direct::Auto)).expect("grow"));
    let metadata = std::fs::metadata(&path).expect("metadata");
    assert_eq!(metadata.len(), 1 << 30);
    let blocks = std::os::unix::fs::MetadataExt::blocks(&metadata);
    assert!(blocks < 1000, "{blocks} blocks: not sparse");
    match open(file_spec(&path, 1 << 20, 512, Direct::Auto)) {
        Err(error @ Error::FileSize { .. }) => assert!(error.to_string().contains("never cut")),
        _ => panic!("cut"),
    }
    assert_eq!(std::fs::metadata(&path).expect("metadata").len(), 1 << 30);
}

#[test]
fn what_cannot_be_opened_is_said_plainly() {
    let folder = tempfile::tempdir().expect("folder");
    let missing = Spec::File {
        path: folder.path().join("missing"),
        bytes: None,
        block_bytes: 512,
        direct: Direct::Auto,
        read_only: false,
    };
    assert!(matches!(
        open(missing),
        Err(Error::File {
            what: "open it",
            ..
        })
    ));
    let spec = file_spec(folder.path(), 1 << 20, 512, Direct::Auto);
    assert!(matches!(open(spec), Err(Error::NotAFile { .. })));
    let spec = file_spec(&folder.path().join("odd"), 1000, 512, Direct::Auto);
    assert!(matches!(open(spec), Err(Error::Size { bytes: 1000, .. })));
    let spec = file_spec(&folder.path().join("odd"), 1 << 20, 1024, Direct::Auto);
    assert!(matches!(
        open(spec),
        Err(Error::BlockSize { block_bytes: 1024 })
    ));
    assert!(!folder.path().join("odd").exists(), "nothing half-made");
}

/// Eight times as many I/Os as a tiny ring takes: the rest is told to come again, and all end well.
#[test]
fn a_full_ring_is_back_pressure() {
    let folder = tempfile::tempdir().expect("folder");
    let bdev = open(file_spec(
        &folder.path().join("disk"),
        1 << 20,
        4096,
        Direct::Auto,
    ))
    .expect("open");
    let mut bench = Bench::new(&bdev, Core::with_ring_entries(POOL_BYTES, 4));
    let mut lists: Vec<LendList> = (0..32).map(|_| LendList::default()).collect();
    let mut busy = 0;
    let mut waiting: Vec<u32> = (0..32).collect();
    while !waiting.is_empty() {
        waiting.retain(|&number| {
            // SAFETY: each list is used by one I/O, and outlives it.
            let payload =
                unsafe { Payload::lent(NonNull::from(&mut lists[number as usize]), 4096) };
            let io = LowerIo {
                op: Op::Read,
                fua: false,
                sector: u64::from(number) * 8,
                sectors: 8,
                payload,
            };
            let submit = bench.channel.submit(&mut bench.core, &io, CloneId(number));
            busy += usize::from(submit == Submit::Busy);
            submit == Submit::Busy
        });
        bench.poll();
    }
    for number in 0..32 {
        assert_eq!(bench.wait(number), Status::Ok);
        assert!(lists[number as usize].covers(4096));
    }
    assert!(busy >= 28, "{busy} refusals");
}

/// A pool that is empty is back-pressure too, and ends when a buffer comes back.
#[test]
fn an_empty_pool_is_back_pressure() {
    let folder = tempfile::tempdir().expect("folder");
    let bdev = open(file_spec(
        &folder.path().join("disk"),
        4 << 20,
        4096,
        Direct::Auto,
    ))
    .expect("open");
    let mut bench = Bench::new(&bdev, Core::new(1 << 20));
    let held = bench.core.buffers().take(1 << 20).expect("the only one");
    let mut list = LendList::default();
    // SAFETY: `list` outlives the I/O.
    let payload = unsafe { Payload::lent(NonNull::from(&mut list), 1 << 20) };
    let io = LowerIo {
        op: Op::Read,
        fua: false,
        sector: 0,
        sectors: 2048,
        payload,
    };
    assert_eq!(
        bench.channel.submit(&mut bench.core, &io, CloneId(0)),
        Submit::Busy
    );
    drop(held);
    assert_eq!(
        bench.channel.submit(&mut bench.core, &io, CloneId(0)),
        Submit::Pending
    );
    assert_eq!(bench.wait(0), Status::Ok);
    assert!(list.covers(1 << 20));
}

/// A file that someone cuts under us gives errors, not an endless read.
#[test]
fn a_file_cut_by_others_fails() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("disk");
    let mut bench = bench(file_spec(&path, 1 << 20, 4096, Direct::Auto));
    let other = std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("open");
    other.set_len(4096).expect("cut");
    let mut memory = vec![0u8; 8192];
    // SAFETY: `memory` outlives the I/O.
    let payload = unsafe { Payload::new(NonNull::from(&mut memory[..]).cast(), 8192) };
    assert_eq!(bench.run(Op::Read, false, 8, 16, payload), Status::IoError);
}

/// Asleep on the ring's descriptor, a reactor is woken by a completion.
#[test]
fn the_descriptor_wakes_a_sleeper() {
    let folder = tempfile::tempdir().expect("folder");
    let mut bench = bench(file_spec(
        &folder.path().join("disk"),
        1 << 20,
        4096,
        Direct::Auto,
    ));
    let fd = bench.core.unwatched_fd().expect("there is a ring now");
    assert_eq!(bench.core.unwatched_fd(), None);
    for _ in 0..100 {
        let clone = bench.start(Op::Flush, false, 0, 0, Payload::empty());
        while bench.core.before_sleep() {
            let mut poll = libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one valid entry. Interrupted (EINTR) is woken, too.
            unsafe { libc::poll(&mut poll, 1, -1) };
            bench.poll();
            if bench.ended.contains_key(&clone) {
                break;
            }
        }
        assert_eq!(bench.wait(clone), Status::Ok);
    }
}
