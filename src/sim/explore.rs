//! Many seeds, on all processors; the first that fails.
//!
//! A failure is a panic, of the mapper's own assertions or of the simulator's, on a thread made for simulating. Release builds
//! abort on a panic; so the panic hook, which runs before that, hands the reason over and lets the thread sleep for ever. The thread and
//! its world are lost, which a process that found a defect can afford.

use std::cell::RefCell;
use std::ops::Range;
use std::panic::{self, PanicHookInfo};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

use super::plan::Plan;
use super::run::{Conduct, Run, Tally};

/// How often somebody who watches is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// A simulation's stack: the mapper does not recurse (PM-8), so a small one shows if it does.
const STACK_BYTES: usize = 512 * 1024;

/// What a seed was found to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What was not as it must be, and where that was noticed.
    pub reason: String,
}

/// How far an exploration is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Seeds tried.
    pub schedules: u64,
    /// Time since it began.
    pub elapsed: Duration,
}

/// What an exploration amounts to.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Seeds tried without finding anything.
    pub schedules: u64,
    /// What they did, added up.
    pub tally: Tally,
    /// Time it took.
    pub elapsed: Duration,
    /// The lowest seed that failed.
    pub failure: Option<Failure>,
}

/// The lines of a run's trace, which outlive a run that fails.
pub(super) type Lines = Arc<Mutex<Vec<String>>>;

enum News {
    Failed(Failure),
    /// A thread has no more to do; if it ran but one seed, what that did.
    Ended(Tally),
}

thread_local! {
    /// On a thread that simulates: which seed, and whom to tell of its failure.
    static SIMULATING: RefCell<Option<(u64, Sender<News>)>> = const { RefCell::new(None) };
}

/// Tries the seeds of a range with `threads` threads, until all are done or one fails. `progress` is told now and then.
pub fn explore(
    seeds: Range<u64>,
    conduct: &Conduct,
    threads: usize,
    mut progress: impl FnMut(Progress),
) -> Summary {
    let began = Instant::now();
    let work = Arc::new(Work {
        next: AtomicU64::new(seeds.start),
        end: AtomicU64::new(seeds.end),
        schedules: AtomicU64::new(0),
        steps: AtomicU64::new(0),
        originals: AtomicU64::new(0),
        conduct: conduct.clone(),
    });
    let (sender, news) = channel();
    let mut running = 0;
    for _ in 0..threads.max(1) {
        let work = work.clone();
        simulate(&sender, move |sender| work.run(sender));
        running += 1;
    }
    let mut failure: Option<Failure> = None;
    while running > 0 {
        match news.recv_timeout(PROGRESS_EVERY) {
            Ok(News::Ended(_)) => running -= 1,
            Ok(News::Failed(failed)) => {
                running -= 1;
                // Lower seeds are still looked at, so that the same one is reported however threads took turns.
                work.end.fetch_min(failed.seed, Relaxed);
                if failure
                    .as_ref()
                    .is_none_or(|known| failed.seed < known.seed)
                {
                    failure = Some(failed);
                }
            }
            Err(_) => progress(Progress {
                schedules: work.schedules.load(Relaxed),
                elapsed: began.elapsed(),
            }),
        }
    }
    Summary {
        schedules: work.schedules.load(Relaxed),
        tally: Tally {
            steps: work.steps.load(Relaxed),
            originals: work.originals.load(Relaxed),
        },
        elapsed: began.elapsed(),
        failure,
    }
}

/// Carries out one plan: what it did, or what was found.
///
/// # Errors
/// What was not as it must be.
pub fn attempt(plan: &Arc<Plan>, conduct: &Conduct) -> Result<Tally, Failure> {
    wait(begin(plan, conduct, None))
}

/// Carries out the plan of a seed, and tells what happened line by line.
pub fn replay(seed: u64, conduct: &Conduct) -> (Result<Tally, Failure>, Vec<String>) {
    attempt_traced(&Arc::new(Plan::new(seed)), conduct)
}

/// As [`attempt`], with the lines of its trace.
pub(super) fn attempt_traced(
    plan: &Arc<Plan>,
    conduct: &Conduct,
) -> (Result<Tally, Failure>, Vec<String>) {
    let lines = Lines::default();
    let result = wait(begin(plan, conduct, Some(lines.clone())));
    let lines = std::mem::take(
        &mut *lines
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner()),
    );
    (result, lines)
}

fn begin(plan: &Arc<Plan>, conduct: &Conduct, lines: Option<Lines>) -> Receiver<News> {
    let (sender, news) = channel();
    let (plan, conduct) = (plan.clone(), conduct.clone());
    simulate(&sender, move |sender| {
        of_seed(plan.seed, sender);
        Run::new(&plan, &conduct, lines).finish()
    });
    news
}

fn wait(news: Receiver<News>) -> Result<Tally, Failure> {
    match news
        .recv()
        .expect("a thread that simulates always tells how that ended")
    {
        News::Ended(tally) => Ok(tally),
        News::Failed(failure) => Err(failure),
    }
}

/// What the threads of an exploration share.
struct Work {
    next: AtomicU64,
    end: AtomicU64,
    schedules: AtomicU64,
    steps: AtomicU64,
    originals: AtomicU64,
    conduct: Conduct,
}

impl Work {
    fn run(&self, sender: &Sender<News>) -> Tally {
        loop {
            let seed = self.next.fetch_add(1, Relaxed);
            if seed >= self.end.load(Relaxed) {
                return Tally::default();
            }
            of_seed(seed, sender);
            let plan = Plan::new(seed);
            let tally = Run::new(&plan, &self.conduct, None).finish();
            self.schedules.fetch_add(1, Relaxed);
            self.steps.fetch_add(tally.steps, Relaxed);
            self.originals.fetch_add(tally.originals, Relaxed);
        }
    }
}

/// Notes which seed this thread is about to try.
fn of_seed(seed: u64, sender: &Sender<News>) {
    SIMULATING.with_borrow_mut(|simulating| *simulating = Some((seed, sender.clone())));
}

/// Runs `job` on a thread of its own, which tells how it ended.
fn simulate(sender: &Sender<News>, job: impl FnOnce(&Sender<News>) -> Tally + Send + 'static) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| match tell(info) {
            // Whatever the build: nothing is left to unwind to.
            true if cfg!(panic = "abort") => loop {
                thread::park();
            },
            true => {}
            false => usual(info),
        }));
    });
    let sender = sender.clone();
    let thread = thread::Builder::new()
        .name("sim".into())
        .stack_size(STACK_BYTES);
    let begun = thread.spawn(move || {
        let tally = job(&sender);
        SIMULATING.with_borrow_mut(|simulating| *simulating = None);
        // Nobody may listen any more; then nobody wants to know.
        let _ = sender.send(News::Ended(tally));
    });
    begun.expect("a thread to simulate on");
}

/// Tells of a panic on a thread that simulates; whether it was one.
fn tell(info: &PanicHookInfo<'_>) -> bool {
    let simulating =
        SIMULATING.with(|simulating| simulating.try_borrow().ok().and_then(|known| known.clone()));
    let Some((seed, sender)) = simulating else {
        return false;
    };
    let text = info.payload();
    let text = text
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| text.downcast_ref::<&str>().copied());
    let place = info
        .location()
        .map_or_else(String::new, |at| format!(" ({}:{})", at.file(), at.line()));
    let reason = format!("{}{place}", text.unwrap_or("a panic without words"));
    sender.send(News::Failed(Failure { seed, reason })).is_ok()
}
