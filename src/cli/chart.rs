//! A chart of one line: a column per slice of time, drawn anew as time goes on.

use std::time::Duration;

use crate::bench::report::thousands;

/// Heights of a column; the first is for nothing at all.
const BLOCKS: [char; 9] = ['_', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// I/Os per second over time.
pub(super) struct Chart {
    columns: u32,
    slice: Duration,
    /// I/Os of each slice so far.
    counts: Vec<u64>,
    completed: u64,
}

impl Chart {
    /// Takes a chart's line off the terminal, so that something else can be written there.
    pub const HIDE: &str = "\r\x1b[K";

    /// A chart of so many columns, each for a slice of time.
    pub fn new(columns: u32, slice: Duration) -> Chart {
        Chart {
            columns,
            slice,
            counts: Vec::new(),
            completed: 0,
        }
    }

    /// The slice `slice` has passed; `completed` I/Os have ended until then.
    pub fn add(&mut self, slice: u32, completed: u64) {
        self.counts.resize(slice as usize, 0);
        self.counts.push(completed - self.completed);
        self.completed = completed;
    }

    /// Whether there is anything to see.
    pub fn is_drawn(&self) -> bool {
        !self.counts.is_empty()
    }

    /// The line, without an end.
    pub fn line(&self) -> String {
        let Some(last) = self.counts.last() else {
            return String::new();
        };
        let most = self.counts.iter().copied().max().unwrap_or(0).max(1);
        let mut line: String = self
            .counts
            .iter()
            .map(|&count| BLOCKS[column(count, most)])
            .collect();
        let missing = self.columns.saturating_sub(self.counts.len() as u32);
        line.extend((0..missing).map(|_| ' '));
        let iops = *last as f64 / self.slice.as_secs_f64();
        format!("{line} {} IOPS", thousands(iops as u64))
    }
}

/// The height of a column: nothing only for nothing.
fn column(count: u64, most: u64) -> usize {
    let highest = BLOCKS.len() as u64 - 1;
    (count * highest).div_ceil(most) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_high_as_their_counts() {
        let mut chart = Chart::new(5, Duration::from_millis(100));
        assert_eq!((chart.is_drawn(), chart.line().as_str()), (false, ""));
        for (slice, completed) in [(0, 800), (1, 801), (2, 801), (3, 1_201)] {
            chart.add(slice, completed);
        }
        assert!(chart.is_drawn());
        assert_eq!(chart.line(), "█▁_▄  4,000 IOPS");
    }
}
