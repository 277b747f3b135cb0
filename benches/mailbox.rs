//! What lies below the mapper costs: messages between reactors, buffers, and submitting to the null and malloc devices.
//!
//! `cargo bench --bench mailbox`. The message benchmarks want two idle CPUs; the others count the CPU time of their own thread, so that a
//! busy machine disturbs them little.

use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use polldm::bdev::{Core, LendList, Payload, Registry, Spec};
use polldm::dm::{CloneId, LowerIo, Op};
use polldm::reactor::{
    BufferPool, Config, Context, PollMode, Reactors, Readiness, Service, available_cpus,
};

/// Sent to and fro until it has made its hops, or from 0 to 1 in a burst.
enum Message {
    Hop { left: u64, done: mpsc::Sender<()> },
    Burst { count: u64, done: mpsc::Sender<()> },
    Item,
    Last(mpsc::Sender<()>),
}

#[derive(Default)]
struct Player {
    stopping: bool,
}

impl Service for Player {
    type Message = Message;

    fn message(&mut self, message: Message, context: &mut Context<Message>) {
        let other = 1 - context.core();
        match message {
            Message::Hop { left: 0, done } | Message::Last(done) => {
                let _ = done.send(());
            }
            Message::Hop { left, done } => {
                let left = left - 1;
                context.send(other, Message::Hop { left, done });
            }
            Message::Burst { count, done } => {
                for _ in 0..count {
                    context.send(other, Message::Item);
                }
                context.send(other, Message::Last(done));
            }
            Message::Item => {}
        }
    }

    fn poll(&mut self, _: &mut Context<Message>) -> bool {
        false
    }

    fn ready(&mut self, _: u64, _: Readiness, _: &mut Context<Message>) {}

    fn timer(&mut self, _: u64, _: &mut Context<Message>) {}

    fn stop(&mut self, _: &mut Context<Message>) {
        self.stopping = true;
    }

    fn stopped(&self) -> bool {
        self.stopping
    }
}

/// Sends a message to reactor 0 and waits until it has had its effect.
fn measure(poll: PollMode, message: impl FnOnce(mpsc::Sender<()>) -> Message) -> Duration {
    let cpus = available_cpus().expect("affinity mask");
    let cpus = cpus.into_iter().cycle().take(2).collect();
    let handle = Reactors::start(&Config { cpus, poll }, |_, _| Ok(Player::default()))
        .expect("reactors start");
    let (done, dones) = mpsc::channel();
    let began = Instant::now();
    assert!(handle.remote().send(0, message(done)).is_ok());
    dones.recv().expect("an answer");
    let took = began.elapsed();
    handle.stop(Duration::from_secs(10)).expect("reactors stop");
    took
}

fn messages(criterion: &mut Criterion) {
    let spinning = PollMode::Adaptive {
        spin: Duration::from_secs(1),
    };
    let sleeping = PollMode::Adaptive {
        spin: Duration::ZERO,
    };
    let mut group = criterion.benchmark_group("message");
    group.bench_function("hop to a spinning reactor", |bencher| {
        bencher.iter_custom(|left| measure(spinning, |done| Message::Hop { left, done }));
    });
    group.bench_function("hop to a sleeping reactor", |bencher| {
        bencher.iter_custom(|left| measure(sleeping, |done| Message::Hop { left, done }));
    });
    group.bench_function("one of a burst", |bencher| {
        // Below the outbox's limit, and long enough to hide the start.
        const BURST: u64 = 100_000;
        bencher.iter_custom(|rounds| {
            let bursts = rounds.div_ceil(BURST);
            let took: Duration = (0..bursts)
                .map(|_| measure(spinning, |done| Message::Burst { count: BURST, done }))
                .sum();
            took.mul_f64(rounds as f64 / (bursts * BURST) as f64)
        });
    });
    group.finish();
}

/// CPU time that `rounds` rounds of `work` take this thread.
fn cpu_time(rounds: u64, mut work: impl FnMut()) -> Duration {
    let now = || {
        let mut now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: `now` is a valid place for the answer.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    };
    let began = now();
    for _ in 0..rounds {
        work();
    }
    now() - began
}

fn buffers(criterion: &mut Criterion) {
    let pool = BufferPool::new(16 << 20);
    criterion.bench_function("buffer/take and return 4 KiB", |bencher| {
        bencher.iter_custom(|rounds| cpu_time(rounds, || drop(black_box(pool.take(4096)))));
    });
}

/// As many I/Os as a deep queue has, submitted and then polled for; the figure is for one.
fn devices(criterion: &mut Criterion) {
    const DEPTH: u32 = 128;
    let registry = Registry::default();
    let (bytes, block_bytes) = (64 << 20, 4096);
    registry
        .add("null", Spec::Null { bytes, block_bytes })
        .expect("null");
    let volatile_cache = false;
    let malloc = Spec::Malloc {
        bytes,
        block_bytes,
        volatile_cache,
        atomic_writes: false,
    };
    registry.add("malloc", malloc).expect("malloc");
    let mut core = Core::new(0);
    let mut memory = vec![0u8; 4096];
    let mut ended = Vec::new();
    let mut group = criterion.benchmark_group("bdev");
    group.throughput(Throughput::Elements(u64::from(DEPTH)));
    for (device, op, lent) in [
        ("null", Op::Read, false),
        ("null", Op::Read, true),
        ("malloc", Op::Read, true),
        ("malloc", Op::Read, false),
        ("malloc", Op::Write, false),
    ] {
        let bdev = registry.by_name(device).expect("just added");
        let mut channel = bdev.channel(&mut core).expect("channel");
        let mut lists: Vec<LendList> = (0..DEPTH).map(|_| LendList::default()).collect();
        let name = format!(
            "{device} {op:?}{} 4 KiB, 128 of them",
            if lent { " lent" } else { "" }
        );
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                cpu_time(rounds, || {
                    for index in 0..DEPTH {
                        let list = &mut lists[index as usize];
                        list.clear();
                        let bytes = NonNull::from(&mut memory[..]).cast();
                        // SAFETY: memory and lists stay where they are until the poll below, by which everything has ended.
                        let payload = unsafe {
                            match lent {
                                true => Payload::lent(NonNull::from(list), 4096),
                                false => Payload::new(bytes, 4096),
                            }
                        };
                        let io = LowerIo {
                            op,
                            fua: false,
                            sector: u64::from(index) * 8,
                            sectors: 8,
                            payload: black_box(payload),
                        };
                        black_box(channel.submit(&mut core, &io, CloneId(index)));
                    }
                    core.poll(&mut ended);
                    black_box(&ended);
                    ended.clear();
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, messages, buffers, devices);
criterion_main!(benches);
