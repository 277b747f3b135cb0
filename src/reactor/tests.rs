//! Whole reactors: messages, sleep, timers, readiness, stop, panic.

use super::*;
use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// For stops that are expected to succeed, and for events that are expected to come; long enough for any machine.
const LONG: Duration = Duration::from_secs(60);

/// Two reactors at least, on whatever CPUs there are.
fn config(cores: usize, poll: PollMode) -> Config {
    let available = available_cpus().expect("affinity mask");
    Config {
        cpus: available.into_iter().cycle().take(cores).collect(),
        poll,
    }
}

const ASLEEP_AT_ONCE: PollMode = PollMode::Adaptive {
    spin: Duration::ZERO,
};

type Job = Box<dyn FnOnce(&mut Closures, &mut Context<Job0>) + Send>;
struct Job0(Job);

/// Does what it is sent.
#[derive(Default)]
struct Closures {
    timers: VecDeque<(u64, u64)>,
    fired: Option<mpsc::Sender<u64>>,
    readied: Option<mpsc::Sender<(u64, Readiness)>>,
    refuses_to_stop: bool,
    stopping: bool,
}

impl Service for Closures {
    type Message = Job0;
    fn message(&mut self, message: Job0, context: &mut Context<Job0>) {
        (message.0)(self, context);
    }
    fn poll(&mut self, _: &mut Context<Job0>) -> bool {
        false
    }
    fn ready(&mut self, token: u64, readiness: Readiness, _: &mut Context<Job0>) {
        if let Some(readied) = &self.readied {
            let _ = readied.send((token, readiness));
        }
    }
    fn timer(&mut self, token: u64, context: &mut Context<Job0>) {
        self.timers.push_back((token, context.now_ns()));
        if let Some(fired) = &self.fired {
            let _ = fired.send(token);
        }
    }
    fn stop(&mut self, _: &mut Context<Job0>) {
        self.stopping = true;
    }
    fn stopped(&self) -> bool {
        self.stopping && !self.refuses_to_stop
    }
}

fn closures(cores: usize, poll: PollMode) -> Handle<Job0> {
    Reactors::start(&config(cores, poll), |_, _| Ok(Closures::default())).expect("reactors")
}

/// Runs a closure on a reactor and waits for its answer.
fn call<T: Send + 'static>(
    handle: &Handle<Job0>,
    core: usize,
    work: impl FnOnce(&mut Closures, &mut Context<Job0>) -> T + Send + 'static,
) -> T {
    let (answer, answers) = mpsc::channel();
    let job = Job0(Box::new(move |service, context| {
        let _ = answer.send(work(service, context));
    }));
    assert!(handle.remote().send(core, job).is_ok());
    answers.recv_timeout(LONG).expect("answer")
}

#[test]
fn closures_run_where_they_are_sent() {
    for poll in [PollMode::Busy, ASLEEP_AT_ONCE] {
        let handle = closures(3, poll);
        for core in 0..3 {
            let (index, cores, name) = call(&handle, core, |_, context| {
                let name = std::thread::current().name().map(str::to_owned);
                (context.core(), context.cores(), name)
            });
            assert_eq!((index, cores), (core, 3));
            assert_eq!(name, Some(format!("reactor-{core}")));
        }
        assert_eq!(handle.stop(LONG), Ok(()));
    }
}

/// An adaptive reactor with nothing to do makes no turn: after a message it goes to sleep and its counters come to rest, and the next
/// message moves them by some turns, not thousands.
#[test]
fn an_idle_adaptive_reactor_does_not_turn() {
    let handle = closures(1, ASLEEP_AT_ONCE);
    // Counters that stand still do not say that it sleeps, for the scheduler may have set it aside; a sleep that was counted since the
    // message was sent does. A bell that rings late wakes it once more, so they must stand still as well.
    let message_and_rest = || {
        let sent = handle.stats()[0];
        call(&handle, 0, |_, _| ());
        let deadline = Instant::now() + LONG;
        while Instant::now() < deadline {
            let before = handle.stats()[0];
            for _ in 0..100 {
                std::thread::yield_now();
            }
            let after = handle.stats()[0];
            if after.sleeps > sent.sleeps && before == after {
                return after;
            }
        }
        panic!("it never rests: {:?}", handle.stats())
    };
    let before = message_and_rest();
    let after = message_and_rest();
    // Some for the message, and one for each late bell: its own, and the first message's if that was not yet seen.
    assert!(after.turns - before.turns <= 8, "{before:?} {after:?}");
    assert_eq!(handle.stop(LONG), Ok(()));
}

#[test]
fn timers_come_due_in_order_while_asleep() {
    let handle = closures(1, ASLEEP_AT_ONCE);
    let (fired, fires) = mpsc::channel();
    let began_ns = call(&handle, 0, move |service, context| {
        service.fired = Some(fired);
        let now_ns = context.refresh_now_ns();
        context.set_timer(now_ns + 3_000_000, 3);
        context.set_timer(now_ns + 1_000_000, 1);
        let second = context.set_timer(now_ns + 2_000_000, 2);
        assert!(context.cancel_timer(second));
        assert!(!context.cancel_timer(second));
        now_ns
    });
    assert_eq!(fires.recv_timeout(LONG), Ok(1));
    assert_eq!(fires.recv_timeout(LONG), Ok(3));
    let timers = call(&handle, 0, |service, _| service.timers.clone());
    assert!(timers[0].1 >= began_ns + 1_000_000 && timers[1].1 >= began_ns + 3_000_000);
    assert_eq!(handle.stop(LONG), Ok(()));
}

#[test]
fn a_watched_descriptor_is_reported_asleep_and_spinning() {
    for poll in [PollMode::Busy, ASLEEP_AT_ONCE] {
        let handle = closures(1, poll);
        let (mut near, far) = UnixStream::pair().expect("pair");
        let (readied, readies) = mpsc::channel();
        call(&handle, 0, move |service, context| {
            service.readied = Some(readied);
            let interest = Interest::READ | Interest::EDGE;
            context.watch(far.as_raw_fd(), interest, 9).expect("watch");
            // Stays open as long as the process.
            std::mem::forget(far);
        });
        near.write_all(b"x").expect("write");
        let (token, readiness) = readies.recv_timeout(LONG).expect("ready");
        assert_eq!(token, 9);
        assert!(readiness.readable() && !readiness.failed());
        assert_eq!(handle.stop(LONG), Ok(()));
    }
}

#[test]
fn a_stop_is_bounded_and_says_who_was_not_done() {
    let handle = closures(2, ASLEEP_AT_ONCE);
    call(&handle, 1, |service, _| service.refuses_to_stop = true);
    let error = handle.stop(Duration::from_millis(20)).expect_err("refused");
    assert_eq!((error.unfinished, error.stuck), (vec![1], vec![]));
}

#[test]
fn a_reactor_that_does_not_turn_is_said_to_be_stuck() {
    let handle = closures(2, ASLEEP_AT_ONCE);
    let (_release, held) = mpsc::channel::<()>();
    let job = Job0(Box::new(move |_, _| {
        let _ = held.recv();
    }));
    assert!(handle.remote().send(0, job).is_ok());
    let error = handle.stop(Duration::ZERO).expect_err("stuck");
    assert_eq!(error.stuck, vec![0]);
}

#[test]
fn a_start_that_fails_leaves_nothing_running() {
    let none = Config {
        cpus: Vec::new(),
        poll: PollMode::Busy,
    };
    let made = |_: usize, _: &mut Context<Job0>| Ok(Closures::default());
    assert!(matches!(
        Reactors::start(&none, made),
        Err(StartError::NoCpus)
    ));

    let mut missing = config(2, PollMode::Busy);
    missing.cpus[1] = 1 << 20;
    match Reactors::start(&missing, made) {
        Err(StartError::Pin { core: 1, cpu, .. }) => assert_eq!(cpu, 1 << 20),
        _ => panic!("there is no such CPU"),
    }

    let refused = Reactors::start(&config(2, ASLEEP_AT_ONCE), |core, _: &mut Context<Job0>| {
        if core == 1 {
            return Err("no memory".to_string());
        }
        Ok(Closures::default())
    });
    match refused {
        Err(error) => assert_eq!(error.to_string(), "reactor 1: no memory"),
        Ok(_) => panic!("the service was refused"),
    }
}

/// Passes tokens around; each is worth a number of hops. Between hops it goes to sleep after a random number of empty turns, so that
/// messages hit every stage of falling asleep.
struct Relay {
    core: usize,
    random: u64,
    lazy_turns: u64,
    expected: Vec<u64>,
    finished: mpsc::Sender<()>,
    stopping: bool,
}

struct Hop {
    from: usize,
    number: u64,
    left: u64,
}

static HOPS: AtomicU64 = AtomicU64::new(0);

impl Relay {
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn hop(&mut self, left: u64, numbers: &mut [u64], context: &mut Context<Hop>) {
        let target = self.random() as usize % context.cores();
        let number = numbers[target];
        numbers[target] += 1;
        context.send(
            target,
            Hop {
                from: self.core,
                number,
                left,
            },
        );
    }
}

struct Runner {
    relay: Relay,
    numbers: Vec<u64>,
}

impl Service for Runner {
    type Message = Hop;
    fn message(&mut self, hop: Hop, context: &mut Context<Hop>) {
        // FIFO for each pair of reactors; `usize::MAX` is the test itself.
        if hop.from != usize::MAX {
            assert_eq!(hop.number, self.relay.expected[hop.from]);
            self.relay.expected[hop.from] += 1;
        }
        HOPS.fetch_add(1, Ordering::Relaxed);
        if hop.left == 0 {
            let _ = self.relay.finished.send(());
            return;
        }
        self.relay.lazy_turns = self.relay.random() % 4;
        let mut numbers = std::mem::take(&mut self.numbers);
        self.relay.hop(hop.left - 1, &mut numbers, context);
        self.numbers = numbers;
    }
    fn poll(&mut self, _: &mut Context<Hop>) -> bool {
        let busy = self.relay.lazy_turns > 0;
        self.relay.lazy_turns = self.relay.lazy_turns.saturating_sub(1);
        busy
    }
    fn ready(&mut self, _: u64, _: Readiness, _: &mut Context<Hop>) {
        unreachable!("nothing is watched")
    }
    fn timer(&mut self, _: u64, _: &mut Context<Hop>) {
        unreachable!("no timer was set: a lost wake-up must not be healed by one")
    }
    fn stop(&mut self, _: &mut Context<Hop>) {
        self.relay.stopping = true;
    }
    fn stopped(&self) -> bool {
        self.relay.stopping
    }
}

/// 120,000 hops between three reactors that sleep whenever they can. One lost wake-up, and the tokens never come home.
#[test]
fn no_wake_up_is_lost() {
    const CORES: usize = 3;
    const TOKENS: u64 = 2;
    const HOPS_PER_TOKEN: u64 = 60_000;
    const SLEEPS: u64 = 10_000;
    const ROUNDS_MAX: u64 = 100;
    let (finished, finishes) = mpsc::channel();
    let handle = Reactors::start(&config(CORES, ASLEEP_AT_ONCE), move |core, _| {
        Ok(Runner {
            relay: Relay {
                core,
                random: 0x9e37_79b9_7f4a_7c15 + core as u64,
                lazy_turns: 0,
                expected: vec![0; CORES],
                finished: finished.clone(),
                stopping: false,
            },
            numbers: vec![0; CORES],
        })
    })
    .expect("reactors");
    let mut sleeps = 0;
    // One round, as a rule: a scheduler that runs the reactors one after the other lets them find messages rather than sleep.
    for round in 1..=ROUNDS_MAX {
        for token in 0..TOKENS {
            let hop = Hop {
                from: usize::MAX,
                number: 0,
                left: HOPS_PER_TOKEN - 1,
            };
            assert!(handle.remote().send(token as usize % CORES, hop).is_ok());
        }
        let mut finished = 0;
        while finished < TOKENS {
            let hops = HOPS.load(Ordering::Relaxed);
            match finishes.recv_timeout(LONG) {
                Ok(()) => finished += 1,
                // A slow machine is no loss: there is one when the tokens stand still.
                Err(_) => assert_ne!(
                    HOPS.load(Ordering::Relaxed),
                    hops,
                    "a token was lost: a reactor sleeps on a full mailbox"
                ),
            }
        }
        assert_eq!(
            HOPS.load(Ordering::Relaxed),
            round * TOKENS * HOPS_PER_TOKEN
        );
        sleeps = handle.stats().iter().map(|stats| stats.sleeps).sum();
        if sleeps > SLEEPS {
            break;
        }
    }
    assert!(
        sleeps > SLEEPS,
        "only {sleeps} sleeps: this test tested nothing"
    );
    assert_eq!(handle.stop(LONG), Ok(()));
}

/// The child of the next test: a reactor panics.
#[test]
#[ignore = "run by a_panic_ends_the_process_and_names_the_reactor"]
fn panics() {
    let handle = closures(2, ASLEEP_AT_ONCE);
    let job = Job0(Box::new(|_, _| panic!("something is wrong")));
    assert!(handle.remote().send(1, job).is_ok());
    std::thread::sleep(LONG);
}

#[test]
fn a_panic_ends_the_process_and_names_the_reactor() {
    let output = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args([
            "--exact",
            "reactor::tests::panics",
            "--ignored",
            "--nocapture",
        ])
        .output()
        .expect("run the child");
    let printed = String::from_utf8_lossy(&output.stderr);
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{printed}");
    assert!(printed.contains("reactor-1"), "{printed}");
    assert!(printed.contains("something is wrong"), "{printed}");
}
