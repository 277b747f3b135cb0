//! Requests as they come in: lines out of a stream, bounded in size and in time.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Bytes asked of the system at a time.
const READ_BYTES: usize = 64 << 10;

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line without its line feed.
    Whole(Vec<u8>),
    /// A line longer than allowed; it was skipped, the next one can be read.
    TooLong,
    /// The peer has closed its side.
    End,
    /// Nothing, for as long as a connection may be idle.
    Idle,
    /// A line has begun but did not end in time.
    Unfinished,
}

/// What a line may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Most bytes of a line.
    pub bytes_max: usize,
    /// From its first byte to its line feed.
    pub line_time_max: Duration,
    /// From the end of one line to the first byte of the next.
    pub idle_time_max: Duration,
}

/// Reads lines off a stream.
pub(super) struct Lines<'a> {
    stream: &'a UnixStream,
    limits: Limits,
    buffer: Vec<u8>,
    /// How much of the buffer is known to have no line feed.
    searched: usize,
}

impl<'a> Lines<'a> {
    pub fn new(stream: &'a UnixStream, limits: Limits) -> Lines<'a> {
        Lines {
            stream,
            limits,
            buffer: Vec::new(),
            searched: 0,
        }
    }

    /// The next line.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub fn next(&mut self) -> io::Result<Line> {
        let mut too_long = false;
        let mut begun = (!self.buffer.is_empty()).then(Instant::now);
        loop {
            if let Some(at) = self.buffer[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                let rest = self.buffer.split_off(self.searched + at + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                self.searched = 0;
                line.pop();
                let too_long = too_long || line.len() > self.limits.bytes_max;
                return Ok(if too_long {
                    Line::TooLong
                } else {
                    Line::Whole(line)
                });
            }
            if self.buffer.len() > self.limits.bytes_max {
                too_long = true;
                self.buffer = Vec::new();
            }
            self.searched = self.buffer.len();
            let left = match begun {
                Some(begun) => self.limits.line_time_max.saturating_sub(begun.elapsed()),
                None => self.limits.idle_time_max,
            };
            match self.read(left) {
                Ok(0) if too_long => return Ok(Line::TooLong),
                Ok(0) if self.buffer.is_empty() => return Ok(Line::End),
                // What asks by hand may forget the last line feed.
                Ok(0) => {
                    self.searched = 0;
                    return Ok(Line::Whole(std::mem::take(&mut self.buffer)));
                }
                Ok(_) => {
                    begun.get_or_insert_with(Instant::now);
                }
                Err(error) if timed_out(&error) && begun.is_some() => return Ok(Line::Unfinished),
                Err(error) if timed_out(&error) => return Ok(Line::Idle),
                Err(error) => return Err(error),
            }
        }
    }

    fn read(&mut self, within: Duration) -> io::Result<usize> {
        if within.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(within))?;
        let end = self.buffer.len();
        self.buffer.resize(end + READ_BYTES, 0);
        let read = loop {
            match (&*self.stream).read(&mut self.buffer[end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer
            .truncate(end + read.as_ref().copied().unwrap_or(0));
        read
    }
}

fn timed_out(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;
    use std::net::Shutdown;

    const LIMITS: Limits = Limits {
        bytes_max: 100,
        line_time_max: Duration::from_secs(60),
        idle_time_max: Duration::from_secs(60),
    };

    /// Everything that is read when `chunks` are written one after another.
    fn read_all(chunks: &[Vec<u8>], limits: Limits) -> Vec<Line> {
        let (mut near, far) = UnixStream::pair().unwrap();
        let chunks = chunks.to_vec();
        let writer = std::thread::spawn(move || {
            for chunk in chunks {
                near.write_all(&chunk).unwrap();
            }
            near.shutdown(Shutdown::Write).unwrap();
            near
        });
        let mut lines = Lines::new(&far, limits);
        let mut all = Vec::new();
        loop {
            match lines.next().unwrap() {
                Line::End => break,
                line => all.push(line),
            }
        }
        writer.join().unwrap();
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn lines_come_out_as_they_went_in(
            lines in prop::collection::vec(prop::collection::vec(any::<u8>().prop_filter("", |b| *b != b'\n'), 0..150), 0..20),
            cut in 1usize..40,
        ) {
            let text: Vec<u8> = lines.iter().flat_map(|line| line.iter().copied().chain([b'\n'])).collect();
            let chunks: Vec<_> = text.chunks(cut).map(<[u8]>::to_vec).collect();
            let expected: Vec<_> = lines
                .into_iter()
                .map(|line| if line.len() > 100 { Line::TooLong } else { Line::Whole(line) })
                .collect();
            prop_assert_eq!(read_all(&chunks, LIMITS), expected);
        }
    }

    #[test]
    fn a_last_line_without_a_line_feed_counts() {
        assert_eq!(
            read_all(&[b"one\ntwo".to_vec()], LIMITS),
            [Line::Whole(b"one".into()), Line::Whole(b"two".into())]
        );
    }

    #[test]
    fn what_is_too_long_takes_no_memory() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || {
            (0..100).for_each(|_| near.write_all(&[b'x'; 10_000]).unwrap());
            near.write_all(b"\nnext\n").unwrap();
        });
        let mut lines = Lines::new(&far, LIMITS);
        assert_eq!(lines.next().unwrap(), Line::TooLong);
        assert!(lines.buffer.capacity() <= LIMITS.bytes_max + 2 * READ_BYTES);
        assert_eq!(lines.next().unwrap(), Line::Whole(b"next".into()));
        assert_eq!(lines.next().unwrap(), Line::End);
        writer.join().unwrap();
    }

    #[test]
    fn neither_silence_nor_half_a_line_holds_a_thread() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let short = Duration::from_millis(1);
        let limits = Limits {
            line_time_max: short,
            idle_time_max: short,
            ..LIMITS
        };
        assert_eq!(Lines::new(&far, limits).next().unwrap(), Line::Idle);
        near.write_all(b"half").unwrap();
        assert_eq!(Lines::new(&far, limits).next().unwrap(), Line::Unfinished);
    }
}
