//! How long hosts wait when a table is swapped: the longest time without an answer around each swap, and around as many moments
//! in which nothing is done.
//!
//! A *window* is a span of time in which something is done: from when a swap is asked for until whoever asked has the answer. The
//! gap of a queue is the longest time between two answers of that queue, of those times that overlap the window; so it may begin
//! before the window or end after it. A queue that got no answer at all in the window has a gap longer than the window.
//! The gap of a swap is the longest of its queues'.
//!
//! After each swap follows a window of the same length in which nothing is done. What is seen there is the machine's: its
//! scheduler, its interrupts, and the batches in which queues are served.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::job::latency_histogram;
use super::report::Latency;

/// How long queues may take to get an answer after a window. Beyond that the target hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// How often whoever opened a window looks whether all queues have told. It sleeps in between, because a queue may need its
/// processor.
const LOOK_EVERY: Duration = Duration::from_micros(50);

/// The windows of a run, as its queues see them.
#[derive(Debug)]
pub struct Windows {
    /// Of the window that is open, which is odd, or the number after the last one.
    number: AtomicU64,
    queues: Box<[Told]>,
}

/// The window of a queue that is over.
const GONE: u64 = u64::MAX;

/// What a queue has told, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Told {
    /// The longest gap of the window.
    gap_ns: AtomicU64,
    /// Which window that was; [`GONE`] when the queue is over.
    window: AtomicU64,
}

impl Windows {
    /// No window yet, for so many queues.
    pub fn new(queues: usize) -> Arc<Windows> {
        Arc::new(Windows {
            number: AtomicU64::new(0),
            queues: (0..queues).map(|_| Told::default()).collect(),
        })
    }

    /// Opens a window, does something in it, closes it, and waits until every queue has told its gap: in nanoseconds, by queue;
    /// `None` when a queue is over.
    ///
    /// # Errors
    ///
    /// What `act` says, or that a queue got no answer since.
    pub fn during(
        &self,
        act: impl FnOnce() -> Result<(), String>,
    ) -> Result<Option<Vec<u64>>, String> {
        let window = self.number.load(Ordering::Relaxed) + 1;
        self.number.store(window, Ordering::Release);
        let done = act();
        self.number.store(window + 1, Ordering::Release);
        done?;
        let closed = Instant::now();
        let has_told = |queue: &Told| queue.window.load(Ordering::Acquire) == window;
        let is_gone = |queue: &Told| queue.window.load(Ordering::Acquire) == GONE;
        while !self.queues.iter().all(has_told) {
            if self.queues.iter().any(is_gone) {
                return Ok(None);
            }
            if closed.elapsed() > ANSWER_WITHIN {
                return Err(format!(
                    "a queue got no answer for {} s",
                    ANSWER_WITHIN.as_secs()
                ));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let gap = |queue: &Told| queue.gap_ns.load(Ordering::Relaxed);
        Ok(Some(self.queues.iter().map(gap).collect()))
    }
}

/// One queue's part.
#[derive(Debug)]
pub struct GapWatch {
    windows: Arc<Windows>,
    queue: usize,
    /// The number of the windows as of the last answer.
    seen: u64,
    /// When that was, in nanoseconds.
    last: u64,
    /// The longest gap of the window that is open.
    longest: u64,
}

impl GapWatch {
    /// The part of queue `queue`, from `now` on.
    pub fn new(windows: Arc<Windows>, queue: usize, now: u64) -> GapWatch {
        GapWatch {
            windows,
            queue,
            seen: 0,
            last: now,
            longest: 0,
        }
    }

    /// The queue has got an answer. One look at a line of memory that changes twice a window.
    #[inline]
    pub fn answered(&mut self, now: u64) {
        let gap = now.saturating_sub(self.last);
        self.last = now;
        let number = self.windows.number.load(Ordering::Acquire);
        if number == self.seen {
            if number % 2 == 1 {
                self.longest = self.longest.max(gap);
            }
            return;
        }
        self.changed(number, gap);
    }

    /// A window was opened, closed, or both since the last answer: in any case the gap since then overlaps it.
    #[cold]
    fn changed(&mut self, number: u64, gap: u64) {
        let was_open = self.seen % 2 == 1;
        let longest = if was_open { self.longest.max(gap) } else { gap };
        self.seen = number;
        self.longest = longest;
        if number.is_multiple_of(2) {
            let told = &self.windows.queues[self.queue];
            told.gap_ns.store(longest, Ordering::Relaxed);
            told.window.store(number - 1, Ordering::Release);
        }
    }
}

impl Drop for GapWatch {
    fn drop(&mut self) {
        self.windows.queues[self.queue]
            .window
            .store(GONE, Ordering::Release);
    }
}

/// The gaps of a run, as they come in.
#[derive(Debug)]
pub struct Gaps {
    swaps: Histogram<u64>,
    queues: Histogram<u64>,
    idle_swaps: Histogram<u64>,
    idle_queues: Histogram<u64>,
    verb: Histogram<u64>,
}

impl Default for Gaps {
    fn default() -> Gaps {
        Gaps {
            swaps: latency_histogram(),
            queues: latency_histogram(),
            idle_swaps: latency_histogram(),
            idle_queues: latency_histogram(),
            verb: latency_histogram(),
        }
    }
}

impl Gaps {
    /// A swap, and how long whoever asked for it waited.
    pub fn swap(&mut self, queues: &[u64], verb: Duration) {
        record(&mut self.swaps, &mut self.queues, queues);
        self.verb.saturating_record(verb.as_nanos() as u64);
    }

    /// A window in which nothing was done.
    pub fn idle(&mut self, queues: &[u64]) {
        record(&mut self.idle_swaps, &mut self.idle_queues, queues);
    }

    /// The figures.
    pub fn report(&self, every: Duration) -> SwapReport {
        SwapReport {
            count: self.swaps.len(),
            every_ms: every.as_secs_f64() * 1e3,
            gap_us: Latency::of(&self.swaps),
            idle_gap_us: Latency::of(&self.idle_swaps),
            queue_gap_us: Latency::of(&self.queues),
            idle_queue_gap_us: Latency::of(&self.idle_queues),
            verb_us: Latency::of(&self.verb),
        }
    }
}

fn record(longest: &mut Histogram<u64>, all: &mut Histogram<u64>, queues: &[u64]) {
    for &gap in queues {
        all.saturating_record(gap.max(1));
    }
    longest.saturating_record(queues.iter().copied().max().unwrap_or(0).max(1));
}

/// What swaps cost the hosts.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SwapReport {
    /// Swaps.
    pub count: u64,
    /// The time from one to the next, in milliseconds.
    pub every_ms: f64,
    /// The gap of a swap: the longest of its queues'.
    pub gap_us: Latency,
    /// The same in windows of the same length in which nothing was done.
    pub idle_gap_us: Latency,
    /// The gaps of all queues, one by one.
    pub queue_gap_us: Latency,
    /// The same in windows in which nothing was done.
    pub idle_queue_gap_us: Latency,
    /// How long whoever asked for a swap waited for it.
    pub verb_us: Latency,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers at 10, 20 and so on, except where a gap is; the gaps that end within a window, or with the first answer after it,
    /// are its own, whatever was before.
    #[test]
    fn a_windows_gap_is_the_longest_that_overlaps_it() {
        let windows = Windows::new(1);
        let mut watch = GapWatch::new(Arc::clone(&windows), 0, 0);
        // A long one before the window does not count.
        watch.answered(500);
        watch.answered(510);
        let gaps = windows.during(|| {
            watch.answered(550);
            watch.answered(560);
            watch.answered(570);
            // Closed between this answer and the next, which a thread of its own would see.
            windows.number.store(2, Ordering::Release);
            watch.answered(620);
            Ok(())
        });
        assert_eq!(gaps.unwrap(), Some(vec![50]));
        // One after it does not count either, nor does what the last window had.
        watch.answered(900);
        let gaps = windows.during(|| {
            watch.answered(910);
            windows.number.store(4, Ordering::Release);
            watch.answered(935);
            Ok(())
        });
        assert_eq!(gaps.unwrap(), Some(vec![25]));
    }

    /// A window that opens and closes between two answers is within the gap between them.
    #[test]
    fn a_window_may_pass_without_an_answer() {
        let windows = Windows::new(2);
        let mut first = GapWatch::new(Arc::clone(&windows), 0, 0);
        let mut second = GapWatch::new(Arc::clone(&windows), 1, 0);
        let gaps = windows.during(|| {
            first.answered(5);
            windows.number.store(2, Ordering::Release);
            first.answered(100);
            second.answered(80);
            Ok(())
        });
        assert_eq!(gaps.unwrap(), Some(vec![95, 80]));
    }

    #[test]
    fn a_queue_that_is_over_has_no_gap() {
        let windows = Windows::new(1);
        drop(GapWatch::new(Arc::clone(&windows), 0, 0));
        assert_eq!(windows.during(|| Ok(())), Ok(None));
    }

    #[test]
    fn a_swap_that_is_refused_ends_the_run() {
        let windows = Windows::new(1);
        assert_eq!(windows.during(|| Err("no".into())), Err("no".into()));
    }

    #[test]
    fn the_gap_of_a_swap_is_the_longest_of_its_queues() {
        let mut gaps = Gaps::default();
        gaps.swap(&[2_000, 9_000], Duration::from_micros(20));
        gaps.idle(&[1_000, 500]);
        let report = gaps.report(Duration::from_millis(10));
        assert_eq!((report.count, report.every_ms), (1, 10.0));
        let rounded = |latency: Latency| latency.max.round();
        assert_eq!(rounded(report.gap_us), 9.0);
        assert_eq!(report.queue_gap_us.p50.round(), 2.0);
        assert_eq!(rounded(report.idle_gap_us), 1.0);
        assert_eq!(rounded(report.verb_us), 20.0);
    }
}
