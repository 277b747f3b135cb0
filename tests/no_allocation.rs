//! AT-90: in steady state the I/O path allocates nothing.
//!
//! A counting allocator watches a warmed-up path; one allocation per thread of interest fails the test. [`steady`] takes any
//! path: a step that does some I/O and leaves nothing behind.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use polldm::dm::{
    Answer, AtomicWrites, BufferId, CloneId, CoreId, DeviceId, Env, Event, Io, Lower, LowerId,
    LowerIo, Mapper, Message, Op, Payload, Request, Status, Submit, Table, Tag, Tamper, Ticket,
};

thread_local! {
    /// Allocations of this thread; tests run on threads of their own.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

fn count() {
    // A thread that is being torn down has no counter any more, and no test.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is passed on to the system's allocator unchanged; counting touches no memory of its own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Rounds before counting begins: enough for every queue and slab to have grown to its size.
const WARM_UP_ROUNDS: u64 = 200;
/// Rounds that must not allocate.
const ROUNDS: u64 = 2_000;

/// Runs `step` until it is warm, then demands that it allocates nothing on this thread. This is where another path (a front
/// end, a transport) is put under guard: give it a step.
fn steady(what: &str, mut step: impl FnMut(u64)) {
    (0..WARM_UP_ROUNDS).for_each(&mut step);
    let before = ALLOCATIONS.get();
    (0..ROUNDS).for_each(&mut step);
    let allocations = ALLOCATIONS.get() - before;
    assert_eq!(
        allocations, 0,
        "{what}: {allocations} allocations in {ROUNDS} rounds"
    );
}

/// A payload of no bytes.
#[derive(Clone, Copy)]
struct Nothing;

impl Payload for Nothing {
    fn empty() -> Nothing {
        Nothing
    }
    fn slice(self, _offset: u32, _length: u32) -> Nothing {
        Nothing
    }
    fn fill_zero(self) {}
    fn copy_from(self, _written: Nothing) {
        unreachable!("no target here needs a private buffer")
    }
    fn equals(self, _other: Nothing) -> bool {
        true
    }
}

/// One core over devices that hold nothing.
#[derive(Default)]
struct Tiny {
    /// Clones are answered when they are polled, rather than at once.
    later: bool,
    /// Every so many submissions there is no room.
    busy_every: u64,
    submitted: u64,
    pending: VecDeque<CloneId>,
    messages: VecDeque<Message>,
    completed: u64,
}

impl Env for Tiny {
    type Payload = Nothing;
    type Channel = ();

    fn open(&mut self, _lower: LowerId) -> Result<(), String> {
        Ok(())
    }
    fn close(&mut self, _channel: ()) {}
    fn submit(&mut self, _channel: &mut (), _io: &LowerIo<Nothing>, clone: CloneId) -> Submit {
        self.submitted += 1;
        if self.busy_every != 0 && self.submitted.is_multiple_of(self.busy_every) {
            return Submit::Busy;
        }
        if !self.later {
            return Submit::Done(Status::Ok);
        }
        self.pending.push_back(clone);
        Submit::Pending
    }
    fn complete(&mut self, _tag: Tag, status: Status) {
        assert_eq!(status, Status::Ok);
        self.completed += 1;
    }
    fn send(&mut self, _core: CoreId, message: Message) {
        self.messages.push_back(message);
    }
    fn reply(&mut self, _ticket: Ticket, answer: Answer) {
        answer.expect("set-up succeeds");
    }
    fn changed(&mut self, _device: DeviceId) {}
    fn take_buffer(&mut self, _: u32, _: Nothing) -> Option<(BufferId, Nothing)> {
        unreachable!("no target here needs a private buffer")
    }
    fn give_back(&mut self, _buffer: BufferId) {
        unreachable!("no target here needs a private buffer")
    }
    fn fill_read(&mut self, _read: Nothing, _from: Nothing) -> bool {
        unreachable!("no target here needs a private buffer")
    }
    fn tamper(&mut self, _payload: Nothing, _tamper: Tamper) -> bool {
        unreachable!("no target here tampers with anything")
    }
    fn cores(&self) -> u16 {
        1
    }
    fn now_ns(&self) -> u64 {
        self.submitted
    }
}

const DEVICE: DeviceId = DeviceId(0);

/// A mapper with one device, as a front end with `outstanding` commands finds it.
fn mapper(env: &mut Tiny, ordered: bool, table: &str, outstanding: usize) -> Mapper<Tiny> {
    let mut mapper = Mapper::new(CoreId(0), 1);
    mapper.reserve(outstanding);
    add(&mut mapper, env, DEVICE, ordered, table);
    mapper
}

/// Adds a device with a live table over lower devices `d0`, `d1` and so on, and mapped devices that were added before: `m0` and so on.
fn add(mapper: &mut Mapper<Tiny>, env: &mut Tiny, device: DeviceId, ordered: bool, table: &str) {
    let resolve = |name: &str| {
        if let Some(number) = name.strip_prefix('m') {
            let lower = DeviceId(number.parse().ok()?);
            return Some(Lower::of_device(lower, name, mapper.limits(lower)?));
        }
        let id = name.strip_prefix('d')?.parse().ok()?;
        Some(Lower {
            id: LowerId(id),
            name: name.into(),
            sectors: 1 << 20,
            block_bytes: 512,
            physical_bytes: 512,
            volatile_cache: true,
            flush: true,
            fua: id == 0,
            discard: true,
            discard_zeroes: false,
            write_zeroes: true,
            transfer_sectors_max: 64,
            optimal_write_bytes: 4096,
            atomic_writes: AtomicWrites::NONE,
            read_only: false,
            keep: Default::default(),
        })
    };
    let table = Arc::new(Table::parse(table, &resolve).expect("a good table"));
    let requests = [
        Request::Create {
            ordered,
            parked_limit_ns: None,
        },
        Request::Load(table),
        Request::Resume {
            open: false,
            suspend: Default::default(),
        },
    ];
    for (ticket, request) in requests.into_iter().enumerate() {
        let event = Event::Request(request, Ticket(ticket as u64));
        env.messages.push_back(Message::Event { device, event });
    }
    poll(mapper, env);
}

/// Until nothing is left to do.
fn poll(mapper: &mut Mapper<Tiny>, env: &mut Tiny) {
    loop {
        mapper.poll(env);
        if let Some(message) = env.messages.pop_front() {
            mapper.message(env, message);
        } else if let Some(clone) = env.pending.pop_front() {
            mapper.complete_clone(env, clone, Status::Ok);
        } else if mapper.busy() == 0 {
            return;
        }
    }
}

/// Originals under way at once, as front ends announce them.
const OUTSTANDING: usize = 128;

/// A round of mixed I/O: whole, cut, flushes, FUA (passed and emulated), discards, write-zeroes, compare-and-write.
fn round(mapper: &mut Mapper<Tiny>, env: &mut Tiny, device: DeviceId, number: u64) {
    for n in 0..OUTSTANDING as u64 {
        let sector = (number * 37 + n * 8) % 3000;
        let (op, sectors, fua) = match n % 16 {
            0 => (Op::Flush, 0, false),
            1 => (Op::Write, 8, true),
            2 => (Op::Write, 60, true),
            3 => (Op::Discard, 100, false),
            4 => (Op::WriteZeroes, 100, true),
            5 => (Op::CompareAndWrite, 8, n % 32 == 5),
            6 => (Op::Read, 100, false),
            7 | 8 => (Op::Write, 20, false),
            _ => (Op::Read, 8, false),
        };
        let tag = Tag {
            client: 0,
            command: n as u32,
        };
        let io = Io {
            tag,
            op,
            fua,
            sector,
            sectors,
            payload: Nothing,
        };
        if mapper.submit(env, device, io).is_some() {
            env.completed += 1;
        }
    }
    poll(mapper, env);
    assert_eq!(env.completed, OUTSTANDING as u64 * (number + 1));
    assert_eq!(mapper.outstanding(), 0);
}

const LINEAR: &str = "0 2000 linear d0 0\n2000 2000 linear d1 0";
const STRIPED: &str = "0 4000 striped 2 8 d0 0 d1 0";
const STRIPED_ODD: &str = "0 4005 striped 3 5 d0 0 d1 0 d2 0";

const ROUND_ROBIN: &str = "0 4000 multipath 0 0 1 1 round-robin 0 3 0 d0 d1 d2";
const QUEUE_LENGTH: &str = "0 4000 multipath 0 0 1 1 queue-length 0 3 0 d0 d1 d2";
const SERVICE_TIME: &str = "0 4000 multipath 0 0 1 1 service-time 0 3 2 d0 1 1 d1 1 2 d2 1 0";
const HISTORICAL: &str = "0 4000 multipath 0 0 1 1 historical-service-time 0 3 0 d0 d1 d2";
const IO_AFFINITY: &str = "0 4000 multipath 0 0 1 1 io-affinity 0 1 1 d1 1";

fn guard(ordered: bool, later: bool, busy_every: u64) {
    for table in [
        LINEAR,
        STRIPED,
        STRIPED_ODD,
        ROUND_ROBIN,
        QUEUE_LENGTH,
        SERVICE_TIME,
        HISTORICAL,
        IO_AFFINITY,
    ] {
        let mut env = Tiny {
            later,
            busy_every,
            ..Tiny::default()
        };
        let mut mapper = mapper(&mut env, ordered, table, OUTSTANDING);
        // What `poll` counts begins anew with every `steady`.
        let mut rounds = 0;
        steady(table, |_| {
            round(&mut mapper, &mut env, DEVICE, rounds);
            rounds += 1;
        });
    }
}

#[test]
fn at_90_io_answered_at_once_allocates_nothing() {
    guard(false, false, 0);
}

#[test]
fn at_90_io_answered_later_allocates_nothing() {
    guard(false, true, 0);
}

#[test]
fn at_90_back_pressure_allocates_nothing() {
    guard(false, true, 7);
}

/// AT-70: nor does what passes three mapped devices, one above the other, of either flush policy.
#[test]
fn at_90_stacked_io_allocates_nothing() {
    for (ordered, later, busy_every) in [
        (false, false, 0),
        (false, true, 0),
        (false, true, 7),
        (true, true, 5),
    ] {
        let mut env = Tiny {
            later,
            busy_every,
            ..Tiny::default()
        };
        let mut mapper = mapper(&mut env, ordered, LINEAR, OUTSTANDING);
        let (middle, top) = (DeviceId(1), DeviceId(2));
        let stripes = "0 4000 striped 2 8 m0 0 m0 2000";
        add(&mut mapper, &mut env, middle, ordered, stripes);
        let paths = "0 4000 multipath 0 0 1 1 round-robin 0 2 0 m1 d0";
        let submitted = env.submitted;
        let tops = [(top, "0 4000 linear m1 0"), (DeviceId(3), paths)];
        // Sequences take long, and are the same whatever asks for them.
        let tops = if ordered { &tops[..1] } else { &tops };
        for (device, table) in tops.iter().copied() {
            add(&mut mapper, &mut env, device, ordered, table);
            env.completed = 0;
            let mut rounds = 0;
            steady(table, |_| {
                round(&mut mapper, &mut env, device, rounds);
                rounds += 1;
            });
        }
        assert!(env.submitted > submitted, "it went all the way down");
    }
}

/// AT-31: nor do the sequences of the ordered policy.
#[test]
fn at_31_barriers_allocate_nothing() {
    guard(true, false, 0);
    guard(true, true, 5);
}

/// A front end that announced its queue finds room for all of it at the first I/O: no warm-up needed.
#[test]
fn announced_io_allocates_nothing_from_the_first() {
    let mut env = Tiny {
        later: true,
        ..Tiny::default()
    };
    let mut mapper = mapper(&mut env, false, "0 4000 linear d0 0", OUTSTANDING);
    env.pending.reserve(OUTSTANDING);
    let before = ALLOCATIONS.get();
    for n in 0..OUTSTANDING as u32 {
        let tag = Tag {
            client: 0,
            command: n,
        };
        let io = Io {
            tag,
            op: Op::Write,
            fua: false,
            sector: 0,
            sectors: 8,
            payload: Nothing,
        };
        assert_eq!(mapper.submit(&mut env, DEVICE, io), None);
    }
    poll(&mut mapper, &mut env);
    assert_eq!(ALLOCATIONS.get(), before);
}

/// The guard sees what it is to see.
#[test]
#[should_panic(expected = "allocations in")]
fn an_allocation_is_noticed() {
    steady("a boxed number", |round| {
        drop(std::hint::black_box(Box::new(round)))
    });
}

/// A connection of the NVMe/TCP target, with every kind of transfer: reads, in-capsule writes and flushes in one burst, and a write whose
/// data is asked for.
#[test]
fn nvmf_connection() {
    use polldm::export::nvmf::harness::{Harness, capsule};
    use polldm::nvme::opcode::io;
    use polldm::nvme::pdu::{Digests, FLAG_LAST, Kind, Transfer};
    use polldm::nvme::{Command, DataPointer};

    let with_id = |mut command: Command, id: u16, pointer| {
        command.set_command_id(id);
        command.set_data_pointer(pointer);
        command
    };
    let mut burst = Vec::new();
    for id in 0..16u16 {
        let lba = u64::from(id) * 8;
        let read = Command::block_io(io::READ, 1, lba, 8);
        let write = Command::block_io(io::WRITE, 1, lba, 8);
        let flush = Command::new(io::FLUSH, 1);
        burst.extend(capsule(
            &with_id(read, id, DataPointer::transport(4096)),
            &[],
        ));
        let in_capsule = DataPointer::in_capsule(0, 4096);
        burst.extend(capsule(
            &with_id(write, 100 + id, in_capsule),
            &[id as u8; 4096],
        ));
        burst.extend(capsule(
            &with_id(flush, 200 + id, DataPointer::transport(0)),
            &[],
        ));
    }
    let large = Command::block_io(io::WRITE, 1, 0, 64);
    let large = capsule(&with_id(large, 300, DataPointer::transport(32768)), &[]);
    let mut data = vec![0; 24];

    for digests in [false, true] {
        let digests = Digests {
            header: false,
            data: digests,
        };
        if digests.data {
            // Digests change what the host sends; what is watched here is the controller, so the burst stays without data.
            burst = (0..16u16)
                .flat_map(|id| {
                    let read = Command::block_io(io::READ, 1, u64::from(id) * 8, 8);
                    capsule(&with_id(read, id, DataPointer::transport(4096)), &[])
                })
                .collect();
        }
        let mut harness = Harness::new();
        harness.connect_io(digests, true);
        steady("nvmf connection", |_| {
            harness.output.clear();
            harness.backend.requests.clear();
            harness.feed(&burst, 10_000);
            if digests.data {
                return;
            }
            harness.output.clear();
            harness.feed(&large, usize::MAX);
            let ready = Transfer::decode(&harness.output);
            assert_eq!((ready.command_id, ready.size), (300, 32768));
            data.resize(24, 0);
            ready.encode_data(&mut data, Kind::HostData, FLAG_LAST, digests, 0);
            data.resize(24 + 32768, 7);
            harness.feed(&data, 5_000);
        });
        harness.disconnect_admin();
        harness.close();
    }
}
