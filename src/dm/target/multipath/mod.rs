//! `multipath`: several ways to one device (section 5).
//!
//! Paths form groups; one group at a time takes I/O, and its selector deals it out. A path that fails is taken out, and the I/O goes
//! another way, or waits (`queue_if_no_path`), or fails. A path is a lower device as a whole: sector s of the target is sector s of it.
//!
//! | file | |
//! |---|---|
//! | `parse`, `text` | the table line, and the texts that show it |
//! | `paths` | paths and groups: states, and the choice |
//! | `selector/` | which path of a group |
//! | `queueing` | I/O without a path: waiting, suspends, the timer |
//! | `message` | what an operator may say |
//!
//! The semantics are those of the kernel's bio-based multipath, whatever `queue_mode` says. What differs, on purpose, is in
//! `docs/targets.md`.

mod message;
mod parse;
mod paths;
mod queueing;
mod selector;
mod text;

use super::super::io::Op;
use super::super::limits::Lower;
use super::super::{Error, Status};
use super::{
    Arguments, Ask, Builder, ChannelIndex, Class, End, Ended, Map, Note, Notice, Refusal, Site,
    Target, Told,
};

use parse::Settings;
use paths::{Paths, Suspicion};
use queueing::{Fate, Queueing};

/// Notices of this type: a path met an error. `index` is its place, `value` what [`Suspicion`] holds.
const SUSPECT: u32 = 1;
/// A lower device was taken away. `index` is its channel.
const GONE: u32 = 2;
/// The no-path timer has come. `value` is its round.
const EXPIRED: u32 = 3;
/// The current group has taken its first I/O. `index` is its place. Never news: it only concerns what INFO shows.
const USED: u32 = 4;

/// One table's multipath, as one core has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Multipath {
    settings: Settings,
    queueing: Queueing,
    paths: Paths,
}

/// Whether another path may help (MP-12). Not so for what the device itself said about the I/O, nor for what a host gave up (MP-14).
fn is_path_error(status: Status) -> bool {
    match status {
        Status::Timeout | Status::Transport | Status::IoError => true,
        Status::Ok
        | Status::NotSupported
        | Status::NoSpace
        | Status::Target
        | Status::ReservationConflict
        | Status::Medium
        | Status::Protection
        | Status::Miscompare
        | Status::Aborted => false,
    }
}

/// What is written on a clone: the path's place, so that it is not [`Note::NONE`] counted from 1, below 16 bits of its generation.
fn note(path: u16, generation: u32) -> Note {
    Note((generation << 16) | u32::from(path + 1))
}

/// The path and the lower 16 bits of its generation.
fn read_note(note: Note) -> (u16, u32) {
    let number = note.0 as u16;
    (number.checked_sub(1).expect("noted by map"), note.0 >> 16)
}

/// What a selector counts.
fn bytes(sectors: u32) -> u64 {
    u64::from(sectors) * 512
}

impl Multipath {
    /// What becomes of an I/O that has no path now.
    fn fate(&self) -> Fate {
        self.queueing.fate(self.paths.any_resting())
    }

    /// An I/O came back with a path error: it goes around, or ends (5.4).
    fn after_error(&self) -> End {
        if self.paths.any_usable() {
            return End::Hold { for_ns: 0 };
        }
        match self.fate() {
            Fate::Wait => End::Hold { for_ns: u64::MAX },
            Fate::PushBack => End::PushBack,
            Fate::Fail => End::Done(Status::IoError),
        }
    }
}

impl Target for Multipath {
    const NAME: &'static str = "multipath";
    const FORM: &'static str = "<#features> feature… 0 <#groups> <initial group> {<selector> <#args> arg… <#paths> <#args> {<device> arg…}…}…";
    const VERSION: [u32; 3] = [1, 0, 0];
    const CLASS: Class = Class {
        singleton: true,
        immutable: true,
        fails_over: true,
        ..Class::NONE
    };

    fn build(
        arguments: &mut Arguments<'_>,
        builder: &mut Builder<'_>,
    ) -> Result<Multipath, Refusal> {
        parse::multipath(arguments, builder)
    }

    fn bind(&mut self, site: Site) {
        self.paths.bind(site.core);
    }

    fn map(&mut self, ask: &Ask) -> Map {
        let Some((path, generation)) = self.paths.start(bytes(ask.sectors), ask.now_ns) else {
            return match self.fate() {
                Fate::Wait => Map::Hold { for_ns: u64::MAX },
                Fate::PushBack => Map::PushBack,
                Fate::Fail => Map::Kill,
            };
        };
        Map::Remapped {
            channel: self.paths.all()[usize::from(path)].channel,
            sector: ask.sector,
            note: note(path, generation),
        }
    }

    fn flushes(&self) -> u32 {
        1
    }

    /// One path is enough: all lead to the same device.
    fn flush(&mut self, ask: &Ask) -> Map {
        self.map(ask)
    }

    fn duplicates(&self, _op: Op) -> u32 {
        1
    }

    fn areas(&self, sectors: u64) -> Vec<(ChannelIndex, u64, u64)> {
        let mut channels: Vec<_> = self.paths.all().iter().map(|path| path.channel).collect();
        channels.sort_unstable_by_key(|channel| channel.0);
        channels.dedup();
        channels
            .iter()
            .map(|channel| (*channel, 0, sectors))
            .collect()
    }

    #[inline]
    fn end(&mut self, ended: &Ended, notice: &mut Option<Notice>) -> End {
        let (path, generation) = read_note(ended.note);
        let bytes = bytes(ended.sectors);
        self.paths.end(path, bytes, ended.started_ns, ended.now_ns);
        if !is_path_error(ended.status) {
            if let Some(group) = self.paths.works(path) {
                *notice = Some(Notice {
                    code: USED,
                    index: u32::from(group),
                    value: 0,
                });
            }
            return End::Done(ended.status);
        }
        if let Some(suspicion) = self.paths.suspect(path, generation) {
            *notice = Some(Notice {
                code: SUSPECT,
                index: u32::from(path),
                value: u64::from(suspicion.generation) << 1 | u64::from(suspicion.unproven),
            });
        }
        self.after_error()
    }

    fn notice(&mut self, notice: Notice) -> bool {
        let news = match notice.code {
            SUSPECT => {
                let suspicion = Suspicion {
                    generation: (notice.value >> 1) as u32,
                    unproven: notice.value & 1 == 1,
                };
                self.paths.confirm(notice.index as u16, suspicion)
            }
            GONE => self.paths.confirm_gone(ChannelIndex(notice.index)),
            EXPIRED => self.queueing.expired(notice.value),
            USED => {
                self.paths.announced(notice.index as u16);
                false
            }
            code => unreachable!("no notice of a multipath has the code {code}"),
        };
        self.queueing.look(self.paths.none_valid());
        news
    }

    fn lower_gone(&mut self, channel: ChannelIndex, notice: &mut Option<Notice>) {
        if self.paths.take_away(channel) {
            *notice = Some(Notice {
                code: GONE,
                index: channel.0,
                value: 0,
            });
        }
    }

    fn due_ns(&self) -> u64 {
        self.queueing.due_ns().min(self.paths.due_ns())
    }

    fn timer(&mut self, now_ns: u64, notice: &mut Option<Notice>) {
        self.paths.timer(now_ns);
        if let Some(round) = self.queueing.timer(now_ns) {
            *notice = Some(Notice {
                code: EXPIRED,
                index: 0,
                value: round,
            });
        }
    }

    fn presuspend(&mut self, noflush: bool) {
        self.queueing.presuspend(noflush);
    }

    fn presuspend_undo(&mut self) {
        self.queueing.run(self.paths.none_valid());
    }

    fn postsuspend(&mut self) {
        self.queueing.postsuspend();
    }

    fn resume(&mut self) {
        self.queueing.run(self.paths.none_valid());
    }

    fn message(
        &mut self,
        words: &[String],
        suspended: bool,
        now_ns: u64,
        lowers: &[Lower],
    ) -> Result<Told, Error> {
        message::message(self, words, suspended, now_ns, lowers)
    }

    fn status(&self, lowers: &[Lower]) -> String {
        text::info(self, lowers)
    }

    fn table(&self, lowers: &[Lower]) -> String {
        text::table(self, lowers)
    }
}

#[cfg(test)]
mod tests;
