//! The target by itself, called as the mapper calls it: tables and texts, the choice of a path, errors, messages, suspends.

mod agreement;
mod choice;
mod queueing;
mod texts;

use super::super::super::io::{CoreId, Op};
use super::super::super::limits::{AtomicWrites, Lower, LowerId};
use super::super::super::{Errno, Status, Table};
use super::super::*;
use super::Multipath;

/// Two paths in one group, and a third in another.
const TWO_GROUPS: &str = "0 0 2 1 round-robin 0 2 0 a b round-robin 0 1 0 c";

fn lower(id: u32, name: &str) -> Lower {
    Lower {
        id: LowerId(id),
        name: name.into(),
        sectors: if name == "small" { 32 } else { 64 },
        block_bytes: if name == "big" { 4096 } else { 512 },
        physical_bytes: 512,
        volatile_cache: true,
        flush: true,
        fua: true,
        discard: true,
        discard_zeroes: false,
        write_zeroes: true,
        transfer_sectors_max: 0,
        optimal_write_bytes: 512,
        atomic_writes: AtomicWrites::NONE,
        read_only: false,
        keep: Default::default(),
    }
}

fn resolve(name: &str) -> Option<Lower> {
    let known = ["a", "b", "c", "d", "small", "big", "8:0", "8:16"];
    let at = known.iter().position(|known| *known == name)?;
    Some(lower(at as u32, name))
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(Into::into).collect()
}

fn build(text: &str) -> Result<Live, String> {
    let line = format!("0 64 multipath {text}");
    let mut table = Table::parse(&line, &resolve).map_err(|error| error.to_string())?;
    match table.segments.remove(0).target {
        AnyTarget::Multipath(target) => Ok(Live {
            target,
            lowers: table.lowers,
            now_ns: 1,
            suspended: true,
            held: Vec::new(),
        }),
        other => unreachable!("{other:?}"),
    }
}

/// A target that runs, as the only copy.
fn live(text: &str) -> Live {
    let mut live = build(text).unwrap_or_else(|reason| panic!("{text}: {reason}"));
    let site = Site {
        core: CoreId(0),
        cores: 1,
        now_ns: 1,
    };
    live.target.bind(site);
    live.resume();
    live
}

/// One copy of a target, its devices and its clock.
#[derive(Debug)]
struct Live {
    target: Multipath,
    lowers: Vec<Lower>,
    now_ns: u64,
    suspended: bool,
    /// I/O in flight, by device.
    held: Vec<(String, Ended)>,
}

impl Live {
    /// Asks where an I/O of one sector goes.
    fn map(&mut self) -> Map {
        self.target.map(&ask(self.now_ns))
    }

    /// Starts an I/O that must find a path; the device it goes to.
    fn start(&mut self) -> String {
        let Map::Remapped {
            channel,
            sector,
            note,
        } = self.map()
        else {
            panic!("no path")
        };
        assert_eq!(sector, 7, "the same sector of each path");
        let name = self.lowers[channel.0 as usize].name.clone();
        let ended = Ended {
            op: Op::Read,
            sector,
            sectors: 1,
            channel,
            note,
            status: Status::Ok,
            started_ns: self.now_ns,
            now_ns: self.now_ns,
        };
        self.held.push((name.clone(), ended));
        name
    }

    /// Starts several.
    fn starts(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.start()).collect()
    }

    /// Ends the oldest I/O on a device; what it tells other cores comes back at once.
    fn end(&mut self, device: &str, status: Status) -> End {
        let at = self.held.iter().position(|(name, _)| name == device);
        let (_, ended) = self.held.remove(at.expect("in flight there"));
        let ended = Ended {
            status,
            now_ns: self.now_ns,
            ..ended
        };
        let mut notice = None;
        let end = self.target.end(&ended, &mut notice);
        self.tell(notice);
        end
    }

    /// Starts one and ends it well; the device.
    fn run(&mut self) -> String {
        let device = self.start();
        assert_eq!(self.end(&device, Status::Ok), End::Done(Status::Ok));
        device
    }

    /// Starts one, which must go to `device`, and fails it.
    fn run_into_error(&mut self, device: &str) -> End {
        assert_eq!(self.start(), device);
        self.end(device, Status::Transport)
    }

    /// A notice and its echo; whether it was news.
    fn tell(&mut self, notice: Option<Notice>) -> bool {
        let news = notice.is_some_and(|notice| self.target.notice(notice));
        if let (Some(notice), true) = (notice, news) {
            assert!(!self.target.notice(notice), "twice is no news");
        }
        news
    }

    fn message(&mut self, text: &str) -> Result<Told, Errno> {
        let (words, now_ns) = (words(text), self.now_ns);
        let told = self
            .target
            .message(&words, self.suspended, now_ns, &self.lowers);
        told.map_err(|error| {
            assert!(error.reason.len() > 20, "a sentence: {error}");
            error.errno
        })
    }

    /// A message that succeeds; whether it counts as an event.
    fn say(&mut self, text: &str) -> bool {
        self.message(text)
            .unwrap_or_else(|errno| panic!("{text}: {errno:?}"))
            .event
    }

    fn resume(&mut self) {
        self.target.preresume().unwrap();
        self.target.resume();
        self.suspended = false;
    }

    fn suspend(&mut self, noflush: bool) {
        self.target.presuspend(noflush);
        self.target.postsuspend();
        self.suspended = true;
    }

    /// Lets time pass and the timers run; whether another core would learn of it.
    fn pass(&mut self, ns: u64) -> bool {
        let until = self.now_ns + ns;
        let mut news = false;
        while self.target.due_ns() <= until {
            self.now_ns = self.now_ns.max(self.target.due_ns());
            let mut notice = None;
            self.target.timer(self.now_ns, &mut notice);
            news |= self.tell(notice);
        }
        self.now_ns = until;
        news
    }

    fn info(&self) -> String {
        self.target.status(&self.lowers)
    }

    fn table(&self) -> String {
        self.target.table(&self.lowers)
    }
}

fn ask(now_ns: u64) -> Ask {
    Ask {
        op: Op::Read,
        sector: 7,
        sectors: 1,
        number: 0,
        now_ns,
        expired: false,
        fua: false,
        held_since_ns: None,
    }
}

const WAITS: Map = Map::Hold { for_ns: u64::MAX };
const GOES_AROUND: End = End::Hold { for_ns: 0 };
