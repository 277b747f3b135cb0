//! Which of a queue's I/Os came before, during and after the gap.
//!
//! The gap is the longest time in which the queue got no answer, of those that end between the pull and the first answer after the
//! resume. *Before* is what had ended when it began; *during* is what was outstanding in it, so what felt it; *after* is what was
//! submitted when it was over. Every I/O is one of these:
//!
//! ```text
//!   before ─────┤          gap          ├───── after
//!          during ├────────────────────────┤
//! ```

use hdrhistogram::Histogram;

use crate::bench::job::latency_histogram;

/// When an I/O was submitted and when it ended, in nanoseconds of its queue's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Submitted.
    pub start: u64,
    /// Ended.
    pub end: u64,
}

/// A queue's I/Os, by phase.
#[derive(Debug)]
pub struct Phases {
    /// Latencies in nanoseconds of what ended before the gap.
    pub before: Histogram<u64>,
    /// Of what was outstanding in it.
    pub during: Histogram<u64>,
    /// Of what was submitted after it and ended before the load was over.
    pub after: Histogram<u64>,
    /// The gap, once it is known.
    pub gap: Option<Span>,
    /// When the load ran.
    pub load: Span,
    /// What has ended since the disk was pulled, until it is known where the gap is.
    window: Option<Vec<Span>>,
    /// The last answer before that.
    last: u64,
    over: bool,
}

impl Default for Phases {
    fn default() -> Phases {
        Phases {
            before: latency_histogram(),
            during: latency_histogram(),
            after: latency_histogram(),
            gap: None,
            load: Span { start: 0, end: 0 },
            window: None,
            last: 0,
            over: false,
        }
    }
}

impl Phases {
    /// The load begins.
    pub fn begin(&mut self, now: u64) {
        self.load.start = now;
        self.last = now;
    }

    /// The load is over; what ends from now on does not count.
    pub fn end(&mut self, now: u64) {
        self.settle();
        self.load.end = now;
        self.over = true;
    }

    /// From now on there may be a gap. Does nothing for the second time.
    pub fn watch(&mut self) {
        if self.gap.is_none() && self.window.is_none() {
            self.window = Some(Vec::new());
        }
    }

    /// An I/O has ended well. Ends never go back in time.
    pub fn ended(&mut self, span: Span) {
        if self.over {
            return;
        }
        if let Some(window) = &mut self.window {
            return window.push(span);
        }
        self.last = span.end;
        let phase = match self.gap {
            None => &mut self.before,
            Some(gap) => phase(
                span,
                gap,
                [&mut self.before, &mut self.during, &mut self.after],
            ),
        };
        record(phase, span);
    }

    /// An answer has come since the resume: the gap is over. Does nothing without a window.
    pub fn settle(&mut self) {
        let Some(window) = self.window.take() else {
            return;
        };
        let Some(gap) = longest(self.last, &window) else {
            return;
        };
        self.gap = Some(gap);
        window.into_iter().for_each(|span| self.ended(span));
    }
}

/// The longest time without an answer, the answers before and after it being its ends.
fn longest(last: u64, window: &[Span]) -> Option<Span> {
    let ends = window.iter().map(|span| span.end);
    let before = std::iter::once(last).chain(ends.clone());
    before
        .zip(ends)
        .map(|(start, end)| Span { start, end })
        .max_by_key(|gap| gap.end - gap.start)
}

fn phase<T>(span: Span, gap: Span, [before, during, after]: [T; 3]) -> T {
    if span.end <= gap.start {
        before
    } else if span.start < gap.end {
        during
    } else {
        after
    }
}

fn record(histogram: &mut Histogram<u64>, span: Span) {
    histogram.saturating_record((span.end - span.start).max(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u64, end: u64) -> Span {
        Span { start, end }
    }

    fn counts(phases: &Phases) -> [u64; 3] {
        [&phases.before, &phases.during, &phases.after].map(Histogram::len)
    }

    /// Two of the window's four ended before the gap, one was caught by it, one came after.
    #[test]
    fn every_io_is_of_one_phase() {
        let mut phases = Phases::default();
        phases.begin(0);
        phases.ended(span(0, 10));
        phases.watch();
        for ended in [
            span(5, 12),
            span(10, 14),
            span(12, 1_000),
            span(1_000, 1_010),
        ] {
            phases.ended(ended);
        }
        assert_eq!(counts(&phases), [1, 0, 0], "nothing is decided yet");
        phases.settle();
        phases.ended(span(1_005, 1_020));
        assert_eq!(phases.gap, Some(span(14, 1_000)));
        assert_eq!(counts(&phases), [3, 1, 2]);
        assert!(phases.during.max() >= 987);
    }

    /// The gap may begin with the last answer before the pull, and it is no matter how often the window is opened or closed.
    #[test]
    fn the_gap_may_begin_before_the_pull() {
        let mut phases = Phases::default();
        phases.begin(0);
        phases.ended(span(0, 10));
        phases.watch();
        phases.watch();
        phases.ended(span(9, 500));
        phases.settle();
        phases.watch();
        phases.settle();
        assert_eq!(phases.gap, Some(span(10, 500)));
        assert_eq!(counts(&phases), [1, 1, 0]);
    }

    /// Without an answer after the pull there is no gap to be told; what ends after the load counts as nothing.
    #[test]
    fn a_load_that_ends_early_has_no_gap() {
        let mut phases = Phases::default();
        phases.begin(0);
        phases.watch();
        phases.end(20);
        phases.ended(span(0, 30));
        assert_eq!((phases.gap, phases.load), (None, span(0, 20)));
        assert_eq!(counts(&phases), [0, 0, 0]);
    }
}
