//! Starting reactors, their loop, and stopping them.

use super::clock::monotonic_ns;
use super::context::Context;
use super::cpus::pin_current_thread;
use super::epoll::Ready;
use super::mailbox::{Directory, Mailbox, Remote};
use super::{ReactorStats, Service};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::fmt;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Messages handled in one turn from the mailbox, and as many from the reactor itself: enough to work off a burst, few enough that
/// sockets are not left waiting for more than some microseconds.
const MESSAGES_PER_TURN: usize = 128;

/// Timers handled in one turn, for the same reason.
const TIMERS_PER_TURN: usize = 64;

/// Turns between two looks at epoll while spinning. A look is a system call and costs several idle turns.
const TURNS_PER_LOOK: u32 = 16;

/// A look at epoll is never put off for longer than this, however long the turns are.
const LOOK_INTERVAL_NS: u64 = 20_000;

/// How much longer than the deadline of a stop its caller waits for the threads: one turn of any service is shorter by
/// far, and so is the time for which a busy machine sets a thread aside; one that is not back by then is stuck.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// How a reactor waits for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollMode {
    /// Never sleeps: lowest latency, one CPU at 100 %.
    Busy,
    /// Sleeps in the kernel when nothing was done for `spin`.
    Adaptive {
        /// How long to go on polling after the last thing that was done.
        spin: Duration,
    },
}

/// What reactors there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// One reactor per entry, pinned to that CPU. A CPU may be named more than once.
    pub cpus: Vec<usize>,
    /// How they wait.
    pub poll: PollMode,
}

/// Why reactors could not be started. None is left running.
#[derive(Debug)]
pub enum StartError {
    /// The list of CPUs is empty.
    NoCpus,
    /// The process may not run on this CPU.
    Pin {
        /// The reactor.
        core: usize,
        /// The CPU it was to run on.
        cpu: usize,
        /// What the kernel said.
        error: io::Error,
    },
    /// No thread, eventfd or epoll to be had.
    System {
        /// What was wanted.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// The service of a reactor could not be made; the reason is its own.
    Service {
        /// The reactor.
        core: usize,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::NoCpus => write!(
                f,
                "no reactors: the list of CPUs is empty; name at least one"
            ),
            StartError::Pin { core, cpu, error } => write!(
                f,
                "reactor {core} cannot be pinned to CPU {cpu}: {error}; choose from this process's affinity mask"
            ),
            StartError::System { what, error } => write!(f, "no {what} for a reactor: {error}"),
            StartError::Service { core, reason } => write!(f, "reactor {core}: {reason}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Reactors that were still not done at the deadline of a stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotStopped {
    /// Left their loop at the deadline, with their service unfinished.
    pub unfinished: Vec<usize>,
    /// Are still somewhere in their service and do not turn; their threads are left behind.
    pub stuck: Vec<usize>,
}

impl fmt::Display for NotStopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "not stopped in time: reactors {:?} had work left, reactors {:?} do not respond",
            self.unfinished, self.stuck
        )
    }
}

impl std::error::Error for NotStopped {}

/// What all the reactors of a set agree on when they stop.
#[derive(Default)]
struct Shutdown {
    requested: AtomicBool,
    /// Valid once `requested`.
    deadline_ns: AtomicU64,
    /// Services that said they are stopped.
    stopped: AtomicUsize,
}

impl Shutdown {
    #[inline]
    fn deadline_ns(&self) -> Option<u64> {
        if self.requested.load(Ordering::Acquire) {
            Some(self.deadline_ns.load(Ordering::Relaxed))
        } else {
            None
        }
    }
}

/// Starts reactors.
pub struct Reactors;

impl Reactors {
    /// Starts one reactor per entry of [`Config::cpus`]. `make` is called on each of their threads with the core's index; when this
    /// returns, every one of them has made its service and turns.
    ///
    /// A panic in a service ends the process: half a target would be worse than none. The message names the reactor.
    ///
    /// # Errors
    /// As [`StartError`] says; the reactors that did start are stopped again.
    pub fn start<S, F>(config: &Config, make: F) -> Result<Handle<S::Message>, StartError>
    where
        S: Service,
        F: Fn(usize, &mut Context<S::Message>) -> Result<S, String> + Send + Sync + 'static,
    {
        let cores = config.cpus.len();
        if cores == 0 {
            return Err(StartError::NoCpus);
        }
        let (directory, receivers) = Directory::new(cores).map_err(|error| StartError::System {
            what: "eventfd",
            error,
        })?;
        let make = Arc::new(make);
        let shutdown = Arc::new(Shutdown::default());
        let (started, starts) = bounded(cores);
        let (ended, ends) = bounded(cores);
        let mut handle = Handle {
            directory: Arc::clone(&directory),
            shutdown: Arc::clone(&shutdown),
            ends,
            running: 0,
        };
        let mut failure = None;
        for (core, (&cpu, receiver)) in config.cpus.iter().zip(receivers).enumerate() {
            let start = Start {
                core,
                cpu,
                poll: config.poll,
                make: Arc::clone(&make),
                directory: Arc::clone(&directory),
                receiver,
                shutdown: Arc::clone(&shutdown),
                started: started.clone(),
                ended: ended.clone(),
            };
            let spawned = thread::Builder::new()
                .name(format!("reactor-{core}"))
                .spawn(move || start.main());
            match spawned {
                Ok(_) => handle.running += 1,
                Err(error) => {
                    failure = Some(StartError::System {
                        what: "thread",
                        error,
                    });
                    break;
                }
            }
        }
        for _ in 0..handle.running {
            if let Ok(Err(error)) = starts.recv() {
                failure.get_or_insert(error);
            }
        }
        match failure {
            None => Ok(handle),
            Some(error) => {
                // What did start has had no work yet, so it has nothing to finish.
                let _ = handle.stop(Duration::ZERO);
                Err(error)
            }
        }
    }
}

/// Running reactors. Dropping it does not stop them.
pub struct Handle<M> {
    directory: Arc<Directory<M>>,
    shutdown: Arc<Shutdown>,
    ends: Receiver<End>,
    running: usize,
}

/// How a reactor left its loop.
struct End {
    core: usize,
    finished: bool,
}

impl<M> Handle<M> {
    /// Reaches the reactors from any thread.
    pub fn remote(&self) -> Remote<M> {
        Remote::new(Arc::clone(&self.directory))
    }

    /// The counters of every reactor, by core.
    pub fn stats(&self) -> Vec<ReactorStats> {
        self.remote().stats()
    }

    /// Stops every reactor: their services begin to shut down, and each leaves its loop when all services are
    /// [`Service::stopped`], or `within` has passed. Waits for that, and not much longer.
    ///
    /// # Errors
    /// The reactors that were not done in time.
    pub fn stop(self, within: Duration) -> Result<(), NotStopped> {
        let within_ns = u64::try_from(within.as_nanos()).unwrap_or(u64::MAX);
        let deadline_ns = monotonic_ns().saturating_add(within_ns);
        self.shutdown
            .deadline_ns
            .store(deadline_ns, Ordering::Relaxed);
        self.shutdown.requested.store(true, Ordering::Release);
        self.directory.ring_all();

        let mut answered = vec![false; self.directory.cores()];
        let mut result = NotStopped {
            unfinished: Vec::new(),
            stuck: Vec::new(),
        };
        for _ in 0..self.running {
            let left = deadline_ns.saturating_sub(monotonic_ns());
            let wait = Duration::from_nanos(left).saturating_add(STOP_GRACE);
            match self.ends.recv_timeout(wait) {
                Ok(end) => {
                    answered[end.core] = true;
                    if !end.finished {
                        result.unfinished.push(end.core);
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        result.stuck = (0..self.running).filter(|&core| !answered[core]).collect();
        if result.unfinished.is_empty() && result.stuck.is_empty() {
            return Ok(());
        }
        Err(result)
    }
}

/// All that a reactor's thread begins with.
struct Start<M, F> {
    core: usize,
    cpu: usize,
    poll: PollMode,
    make: Arc<F>,
    directory: Arc<Directory<M>>,
    receiver: Receiver<M>,
    shutdown: Arc<Shutdown>,
    started: Sender<Result<(), StartError>>,
    ended: Sender<End>,
}

impl<M: Send + 'static, F> Start<M, F> {
    fn main<S>(self)
    where
        S: Service<Message = M>,
        F: Fn(usize, &mut Context<M>) -> Result<S, String>,
    {
        let core = self.core;
        let ended = self.ended.clone();
        // With panic=abort (the release profile) this catches nothing and costs nothing; with unwinding it gives the same
        // effect. The panic itself has been printed by then.
        let finished = catch_unwind(AssertUnwindSafe(|| self.run())).unwrap_or_else(|_| {
            let _ = writeln!(
                io::stderr(),
                "reactor {core} panicked; the process ends here, because its devices and connections cannot go on"
            );
            std::process::abort()
        });
        // The other end may be gone; then nobody asks.
        let _ = ended.send(End { core, finished });
    }

    fn run<S>(self) -> bool
    where
        S: Service<Message = M>,
        F: Fn(usize, &mut Context<M>) -> Result<S, String>,
    {
        let started = self.started.clone();
        match self.prepare() {
            Ok(mut turner) => {
                let _ = started.send(Ok(()));
                turner.run()
            }
            Err(error) => {
                let _ = started.send(Err(error));
                true
            }
        }
    }

    fn prepare<S>(self) -> Result<Turner<S>, StartError>
    where
        S: Service<Message = M>,
        F: Fn(usize, &mut Context<M>) -> Result<S, String>,
    {
        let core = self.core;
        pin_current_thread(self.cpu).map_err(|error| StartError::Pin {
            core,
            cpu: self.cpu,
            error,
        })?;
        let mailbox = Mailbox::new(core, Arc::clone(&self.directory), self.receiver);
        let mut context = Context::new(core, mailbox).map_err(|error| StartError::System {
            what: "epoll",
            error,
        })?;
        let service = (self.make)(core, &mut context)
            .map_err(|reason| StartError::Service { core, reason })?;
        let now_ns = context.refresh_now_ns();
        self.directory.counters(core).started(now_ns);
        Ok(Turner {
            service,
            context,
            directory: self.directory,
            shutdown: self.shutdown,
            spin_ns: match self.poll {
                PollMode::Busy => None,
                PollMode::Adaptive { spin } => {
                    Some(u64::try_from(spin.as_nanos()).unwrap_or(u64::MAX))
                }
            },
            worked_ns: now_ns,
            looked_ns: now_ns,
            turns_since_look: 0,
            stop_begun: false,
            stop_counted: false,
        })
    }
}

/// One reactor.
struct Turner<S: Service> {
    service: S,
    context: Context<S::Message>,
    directory: Arc<Directory<S::Message>>,
    shutdown: Arc<Shutdown>,
    /// `None`: never sleeps.
    spin_ns: Option<u64>,
    /// When something was done last.
    worked_ns: u64,
    /// When epoll was looked at last.
    looked_ns: u64,
    turns_since_look: u32,
    stop_begun: bool,
    stop_counted: bool,
}

impl<S: Service> Turner<S> {
    /// Turns until stopped. True if the service was done by then.
    fn run(&mut self) -> bool {
        let mut began_ns = self.context.now_ns;
        let mut worked = false;
        loop {
            let now_ns = self.context.refresh_now_ns();
            let counters = self.directory.counters(self.context.core);
            counters.turn(worked, now_ns - began_ns);
            began_ns = now_ns;

            worked = self.turn();
            if let Some(deadline_ns) = self.shutdown.deadline_ns()
                && let Some(finished) = self.stopping(deadline_ns)
            {
                return finished;
            }
            if worked {
                self.worked_ns = now_ns;
            } else if self
                .spin_ns
                .is_some_and(|spin_ns| now_ns - self.worked_ns >= spin_ns)
            {
                let (slept_ns, woken) = self.sleep();
                began_ns += slept_ns;
                worked = woken;
            }
        }
    }

    #[inline]
    fn turn(&mut self) -> bool {
        let mut worked = self.messages();
        worked |= self.timers();
        worked |= self.service.poll(&mut self.context);
        worked |= self.context.mailbox.deliver();
        self.turns_since_look += 1;
        let since_look_ns = self.context.now_ns - self.looked_ns;
        if self.turns_since_look >= TURNS_PER_LOOK || since_look_ns >= LOOK_INTERVAL_NS {
            self.turns_since_look = 0;
            self.looked_ns = self.context.now_ns;
            // The bell is silent while we are up, so without a watch there is nothing to look for.
            if self.context.epoll.watched() > 0 {
                self.context.epoll.look(Some(Duration::ZERO));
                worked |= self.ready();
            }
        }
        worked
    }

    #[inline]
    fn messages(&mut self) -> bool {
        let mut handled = 0;
        while handled < MESSAGES_PER_TURN
            && let Some(message) = self.context.mailbox.take()
        {
            self.service.message(message, &mut self.context);
            handled += 1;
        }
        // Only those that are there now: an answer to oneself is for the next turn.
        for _ in 0..self.context.mailbox.own_len().min(MESSAGES_PER_TURN) {
            if let Some(message) = self.context.mailbox.take_own() {
                self.service.message(message, &mut self.context);
                handled += 1;
            }
        }
        if handled > 0 {
            self.directory
                .counters(self.context.core)
                .messages(handled as u64);
        }
        handled > 0
    }

    #[inline]
    fn timers(&mut self) -> bool {
        let mut handled = 0;
        while handled < TIMERS_PER_TURN
            && let Some(token) = self.context.timers.due(self.context.now_ns)
        {
            self.service.timer(token, &mut self.context);
            handled += 1;
        }
        handled > 0
    }

    /// Hands out what the last look found.
    fn ready(&mut self) -> bool {
        let mut handled = false;
        while let Some(ready) = self.context.epoll.next() {
            match ready {
                Ready::Bell => self.directory.bell(self.context.core).silence(),
                Ready::Watched(token, readiness) => {
                    handled = true;
                    self.service.ready(token, readiness, &mut self.context);
                }
            }
        }
        handled
    }

    /// The part of a turn after a stop was requested. `Some` if it was the last: whether the service is done.
    #[cold]
    fn stopping(&mut self, deadline_ns: u64) -> Option<bool> {
        if !self.stop_begun {
            self.stop_begun = true;
            self.service.stop(&mut self.context);
        }
        if !self.stop_counted && self.service.stopped() && self.context.mailbox.is_idle() {
            self.stop_counted = true;
            self.shutdown.stopped.fetch_add(1, Ordering::SeqCst);
            // Those who sleep until the last one is done.
            self.directory.ring_all();
        }
        if self.shutdown.stopped.load(Ordering::SeqCst) == self.directory.cores() {
            return Some(true);
        }
        (self.context.now_ns >= deadline_ns).then_some(self.stop_counted)
    }

    /// Sleeps until something happens, if nothing already has. Returns for how many nanoseconds, and whether a descriptor was
    /// ready then.
    #[cold]
    fn sleep(&mut self) -> (u64, bool) {
        if !self.service.before_sleep(&mut self.context) {
            return (0, false);
        }
        let directory = Arc::clone(&self.directory);
        let bell = directory.bell(self.context.core);
        bell.going_to_sleep();
        if !self.context.mailbox.is_idle() || self.must_stay_up() {
            bell.awake();
            return (0, false);
        }
        let before_ns = self.context.refresh_now_ns();
        let deadline_ns = self.shutdown.deadline_ns();
        let until_ns = match (self.context.timers.next_ns(), deadline_ns) {
            (Some(timer_ns), Some(deadline_ns)) => Some(timer_ns.min(deadline_ns)),
            (timer_ns, deadline_ns) => timer_ns.or(deadline_ns),
        };
        let timeout =
            until_ns.map(|until_ns| Duration::from_nanos(until_ns.saturating_sub(before_ns)));
        directory.counters(self.context.core).sleeps();
        self.context.epoll.look(timeout);
        bell.awake();
        let slept_ns = self.context.refresh_now_ns() - before_ns;
        directory.counters(self.context.core).slept(slept_ns);
        self.looked_ns = self.context.now_ns;
        // Woken up means that something is about to happen: spin for it, rather than sleep between a message and its answer.
        self.worked_ns = self.context.now_ns;
        (slept_ns, self.ready())
    }

    /// What a sleeper must not miss besides messages: a stop it has not begun or not counted itself for, and that all are done.
    fn must_stay_up(&self) -> bool {
        match self.shutdown.deadline_ns() {
            None => false,
            Some(_) => {
                !self.stop_begun
                    || (!self.stop_counted && self.service.stopped())
                    || self.shutdown.stopped.load(Ordering::SeqCst) == self.directory.cores()
            }
        }
    }
}
