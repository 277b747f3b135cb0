//! What the mapper costs: the same loop over a lower device that does nothing, without and with a mapper in between.
//!
//! 128 I/Os are submitted, the device is polled, and all complete: queue depth 128 on one core. The lower device keeps
//! the clone's number until it is polled, as a real one would. `direct` is the floor; aims are `linear` at most 15 ns above it,
//! `striped` at most 20 ns.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use polldm::dm::{
    Answer, AtomicWrites, BufferId, CloneId, CoreId, DeviceId, Env, Event, Io, Lower, LowerId,
    LowerIo, Mapper, Message, Op, Payload, Request, Status, Submit, Table, Tag, Tamper, Ticket,
};

/// Originals under way at once.
const DEPTH: u32 = 128;
const DEVICE: DeviceId = DeviceId(0);

/// As large as a real one: where the bytes are and how many.
#[derive(Clone, Copy)]
struct Extent {
    address: u64,
    length: u64,
}

impl Payload for Extent {
    fn empty() -> Extent {
        Extent {
            address: 0,
            length: 0,
        }
    }
    fn slice(self, offset: u32, length: u32) -> Extent {
        Extent {
            address: self.address + u64::from(offset),
            length: u64::from(length),
        }
    }
    fn fill_zero(self) {
        black_box(self.address);
    }
    fn copy_from(self, _written: Extent) {
        unreachable!("no target here needs a private buffer")
    }
    fn equals(self, other: Extent) -> bool {
        (self.address, self.length) == (other.address, other.length)
    }
}

/// A lower device that does nothing, on its one core.
struct Null {
    pending: Vec<CloneId>,
    messages: Vec<Message>,
    completed: u64,
    now_ns: u64,
}

impl Null {
    fn new() -> Null {
        Null {
            pending: Vec::with_capacity(4096),
            messages: Vec::new(),
            completed: 0,
            now_ns: 0,
        }
    }

    #[inline(always)]
    fn take(&mut self, io: &LowerIo<Extent>, clone: CloneId) {
        black_box(io);
        self.pending.push(clone);
    }
}

impl Env for Null {
    type Payload = Extent;
    type Channel = u32;

    fn open(&mut self, lower: LowerId) -> Result<u32, String> {
        Ok(lower.0)
    }
    fn close(&mut self, _channel: u32) {}
    #[inline(always)]
    fn submit(&mut self, _channel: &mut u32, io: &LowerIo<Extent>, clone: CloneId) -> Submit {
        self.take(io, clone);
        Submit::Pending
    }
    #[inline(always)]
    fn complete(&mut self, tag: Tag, status: Status) {
        black_box((tag, status));
        self.completed += 1;
    }
    fn send(&mut self, _core: CoreId, message: Message) {
        self.messages.push(message);
    }
    fn reply(&mut self, _ticket: Ticket, answer: Answer) {
        answer.expect("set-up succeeds");
    }
    fn changed(&mut self, _device: DeviceId) {}
    fn take_buffer(&mut self, _: u32, _: Extent) -> Option<(BufferId, Extent)> {
        unreachable!("no target here needs a private buffer")
    }
    fn give_back(&mut self, _buffer: BufferId) {
        unreachable!("no target here needs a private buffer")
    }
    fn fill_read(&mut self, _read: Extent, _from: Extent) -> bool {
        unreachable!("no target here needs a private buffer")
    }
    fn tamper(&mut self, _payload: Extent, _tamper: Tamper) -> bool {
        unreachable!("no target here tampers with anything")
    }
    fn cores(&self) -> u16 {
        1
    }
    #[inline(always)]
    fn now_ns(&self) -> u64 {
        self.now_ns
    }
}

fn lower(name: &str) -> Option<Lower> {
    Some(Lower {
        id: LowerId(name.strip_prefix('d')?.parse().ok()?),
        name: name.into(),
        sectors: 1 << 30,
        block_bytes: 512,
        physical_bytes: 512,
        volatile_cache: true,
        flush: true,
        fua: false,
        discard: true,
        discard_zeroes: false,
        write_zeroes: true,
        transfer_sectors_max: 0,
        optimal_write_bytes: 4096,
        atomic_writes: AtomicWrites::NONE,
        read_only: false,
        keep: Default::default(),
    })
}

fn mapper(env: &mut Null, table: &str) -> Mapper<Null> {
    let table = Arc::new(Table::parse(table, &lower).expect("a good table"));
    let mut mapper = Mapper::new(CoreId(0), 1024);
    let requests = [
        Request::Create {
            ordered: false,
            parked_limit_ns: None,
        },
        Request::Load(table),
        Request::Resume {
            open: false,
            suspend: Default::default(),
        },
    ];
    for request in requests {
        let event = Event::Request(request, Ticket(0));
        let device = DEVICE;
        env.messages.push(Message::Event { device, event });
        while !env.messages.is_empty() {
            let message = env.messages.remove(0);
            mapper.message(env, message);
        }
    }
    mapper
}

#[inline(always)]
fn original(op: Op, command: u32, sector: u64, sectors: u32) -> Io<Extent> {
    Io {
        tag: Tag { client: 0, command },
        op,
        fua: false,
        sector,
        sectors,
        payload: Extent {
            address: u64::from(command) << 12,
            length: u64::from(sectors) * 512,
        },
    }
}

/// The next of a sequence of positions without pattern, whole 4 KiB below `blocks` of them.
#[inline(always)]
fn next_sector(state: &mut u64, blocks: u64) -> u64 {
    *state = state
        .wrapping_mul(6364136223846793005)
        .wrapping_add(1442695040888963407);
    (((*state >> 33) * blocks) >> 31) * 8
}

/// One batch without a mapper.
#[inline(never)]
fn direct(env: &mut Null, state: &mut u64) {
    env.now_ns += 1000;
    for command in 0..DEPTH {
        let io = original(Op::Read, command, next_sector(state, 1 << 20), 8);
        let lower = LowerIo {
            op: io.op,
            fua: false,
            sector: io.sector,
            sectors: io.sectors,
            payload: io.payload,
        };
        env.take(&lower, CloneId(io.tag.command));
    }
    for index in 0..env.pending.len() {
        let clone = env.pending[index];
        let tag = Tag {
            client: 0,
            command: clone.0,
        };
        env.complete(tag, Status::Ok);
    }
    env.pending.clear();
}

/// One batch through a mapper.
#[inline(never)]
fn mapped(mapper: &mut Mapper<Null>, env: &mut Null, state: &mut u64, op: Op, sectors: u32) {
    env.now_ns += 1000;
    for command in 0..DEPTH {
        let io = original(op, command, next_sector(state, 1 << 20), sectors);
        if mapper.submit(env, DEVICE, io).is_some() {
            env.completed += 1;
        }
    }
    for index in 0..env.pending.len() {
        let clone = env.pending[index];
        mapper.complete_clone(env, clone, Status::Ok);
    }
    env.pending.clear();
}

/// Tables, operation, and sectors of each I/O.
const CASES: &[(&str, &str, Op, u32)] = &[
    ("linear", "0 16777216 linear d0 0", Op::Read, 8),
    ("linear, 16 targets", "", Op::Read, 8),
    (
        "striped 4 x 64 KiB",
        "0 16777216 striped 4 128 d0 0 d1 0 d2 0 d3 0",
        Op::Read,
        8,
    ),
    (
        "striped 3 x 60 KiB",
        "0 16777080 striped 3 120 d0 0 d1 0 d2 0",
        Op::Read,
        8,
    ),
    ("zero", "0 16777216 zero", Op::Read, 8),
    (
        "split in 4",
        "0 16777216 striped 4 8 d0 0 d1 0 d2 0 d3 0",
        Op::Read,
        32,
    ),
    (
        "flush of 4",
        "0 16777216 striped 4 8 d0 0 d1 0 d2 0 d3 0",
        Op::Flush,
        0,
    ),
];

/// A case's table; sixteen equal targets over two devices where it gives none.
fn table(text: &str) -> String {
    if !text.is_empty() {
        return text.into();
    }
    let line = |at: u64| format!("{} 1048576 linear d{} {}\n", at << 20, at % 2, at << 20);
    (0..16).map(line).collect()
}

fn mapping(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mapper, queue depth 128");
    group.throughput(Throughput::Elements(u64::from(DEPTH)));
    group.bench_function("direct", |bencher| {
        let (mut env, mut state) = (Null::new(), 1);
        bencher.iter(|| direct(&mut env, &mut state));
    });
    for (name, text, op, sectors) in CASES {
        group.bench_function(*name, |bencher| {
            let (mut env, mut state) = (Null::new(), 1);
            let mut mapper = mapper(&mut env, &table(text));
            bencher.iter(|| mapped(&mut mapper, &mut env, &mut state, *op, *sectors));
        });
    }
    group.finish();
}

criterion_group!(benches, mapping);
criterion_main!(benches);
