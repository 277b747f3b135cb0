//! Target types: one file each, one small trait, one place to register.
//!
//! To add one: write `src/dm/target/NAME.rs` with a type that implements [`Target`], and add a line to the `targets!` list below. Nothing
//! else knows targets by name.

mod arguments;
mod chunks;
mod delay;
mod ebs;
mod error;
mod flakey;
mod linear;
mod multipath;
mod refusal;
mod striped;
mod zero;

pub use arguments::{Arguments, Builder, Resolve};
pub use chunks::Chunks;
pub use refusal::{Refusal, refuse};

use super::Status;
use super::io::{CoreId, Op};
use super::limits::Lower;

/// A lower device of a table: its place in the table's list of distinct lower devices, and so in a core's channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ChannelIndex(pub u32);

/// What a target is asked to place: one clone. Sectors are counted from the target's start.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// What the clone is to do.
    pub op: Op,
    /// First sector; 0 for a flush.
    pub sector: u64,
    /// Sectors; 0 for a flush.
    pub sectors: u32,
    /// Which of the duplicates of a discard, write-zeroes or flush this is, from 0 (IO-9, FL-16).
    pub number: u32,
    /// The core's clock, as of this poll.
    pub now_ns: u64,
    /// Force-unit-access, of a write.
    pub fua: bool,
    /// The target held this clone for a time, and the time is over.
    pub expired: bool,
    /// Since when the target has kept this clone, on the core's clock, however often it has been asked about it since; `None` when
    /// it is asked for the first time.
    pub held_since_ns: Option<u64>,
}

impl Ask {
    /// For the only clone of a range, asked for the first time.
    #[inline(always)]
    pub fn of(op: Op, sector: u64, sectors: u32, now_ns: u64) -> Ask {
        Ask {
            op,
            sector,
            sectors,
            number: 0,
            now_ns,
            fua: false,
            expired: false,
            held_since_ns: None,
        }
    }
}

/// What a target writes on a clone that it remaps, and reads again in [`Target::end`] (multipath: which path).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Note(pub u32);

impl Note {
    /// Nothing: the end hook is called only if the clone fails.
    pub const NONE: Note = Note(0);
}

/// A byte that a target changes in what a clone carries (flakey): on a private copy of what is written, or in what has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tamper {
    /// Which byte of the clone's data, from 0; always one of them.
    pub offset: u32,
    /// What it becomes.
    pub value: u8,
}

/// Where a target wants a clone to go (2.3). A closed set: nothing else can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    /// To this lower device, from this sector of it.
    Remapped {
        /// Which of the table's lower devices.
        channel: ChannelIndex,
        /// First sector there.
        sector: u64,
        /// For the end hook.
        note: Note,
    },
    /// As `Remapped`, of a write, with one byte changed: on a private copy, since the host's memory is not the target's to change. When
    /// there is no memory for a copy now, the clone is asked again as after [`Map::Retry`].
    Tampered {
        /// Which of the table's lower devices.
        channel: ChannelIndex,
        /// First sector there.
        sector: u64,
        /// Which byte, and what it becomes.
        tamper: Tamper,
    },
    /// A read or write of a part of a block that is larger below: through a private buffer. When there is no memory for one now,
    /// [`Target::unsent`] is called, and the clone is asked again as after [`Map::Retry`].
    Part(Part),
    /// Only these sectors of a discard or write-zeroes: the duplicate's share (IO-9).
    Share(Share),
    /// A read finds zeroes; anything else is done without a trace. Also a duplicate whose share is empty.
    Zero,
    /// The clone ends with an I/O error; the end hook is not called.
    Kill,
    /// The target keeps the clone. It is asked again, in the order of arrival, when anything of its state has changed (a message, a
    /// notice, a suspend hook, a timer), or after `for_ns`; `u64::MAX` sets no time.
    Hold {
        /// Nanoseconds.
        for_ns: u64,
    },
    /// Ask again after a while: a lack of resources below. Always legal (OQ-1); in a noflush suspend it is a push-back. Of a
    /// flush clone in a sequence it repeats the whole step (FL-12).
    Retry {
        /// Nanoseconds.
        delay_ns: u64,
    },
    /// Hand the original back to the core: legal during a noflush suspend, an I/O error otherwise (OQ-1, IO-16). The end
    /// hook is not called.
    PushBack,
}

/// Where a read or write goes, as far as a target can tell without being asked about it in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remap {
    /// As [`Map::Remapped`], without a note.
    To(ChannelIndex, u64),
    /// As [`Map::Zero`].
    Zero,
    /// [`Target::map`] is to be asked.
    Ask,
}

/// A clone that has ended below.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// What it did.
    pub op: Op,
    /// First sector, from the target's start.
    pub sector: u64,
    /// Sectors.
    pub sectors: u32,
    /// Where it went.
    pub channel: ChannelIndex,
    /// What the target wrote on it.
    pub note: Note,
    /// How it ended.
    pub status: Status,
    /// When it was submitted.
    pub started_ns: u64,
    /// The core's clock, as of this poll.
    pub now_ns: u64,
}

/// What a target makes of a clone that has ended below (2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It ends with this status, which the target may have changed.
    Done(Status),
    /// A read ends well, with one byte of what was read changed. When there is no memory for that now, it is read again, as after
    /// [`Map::Retry`].
    Tampered(Tamper),
    /// The target takes it back: as [`Map::Hold`]. With 0 nanoseconds it is asked again in the next poll.
    Hold {
        /// Nanoseconds.
        for_ns: u64,
    },
    /// As [`Map::Retry`].
    Retry {
        /// Nanoseconds.
        delay_ns: u64,
    },
    /// As [`Map::PushBack`].
    PushBack,
}

/// A change that one core's copy of a target has seen and the others must learn of (a path has failed). Goes to the home core, and from
/// there to every copy ([`Target::notice`]), in the same place among messages and suspends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What has changed; the target's own number.
    pub code: u32,
    /// Where; the target's own number (a path).
    pub index: u32,
    /// More; the target's own (a generation, to tell a stale notice).
    pub value: u64,
}

/// What a message has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// It counts as an event (LC-24).
    pub event: bool,
    /// What the sender is answered, if anything.
    pub text: Option<String>,
}

/// Where a copy of a target finds itself.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// The copy's core.
    pub core: CoreId,
    /// How many cores there are.
    pub cores: u16,
    /// The core's clock.
    pub now_ns: u64,
}

/// A share of a duplicated operation: discard, write-zeroes (IO-9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which of the table's lower devices.
    pub channel: ChannelIndex,
    /// First sector there.
    pub sector: u64,
    /// Sectors; never 0.
    pub sectors: u32,
}

/// A part of one block of a lower device. To read it, the block is read into a private buffer and the part copied from there; to write it, the
/// block is read, the part changed, and the block written, with the original's force-unit-access. The clone ends with the error of the
/// step that fails, or with the end of the last one: nothing is kept here that is not below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which of the table's lower devices.
    pub channel: ChannelIndex,
    /// The block's first sector there.
    pub sector: u64,
    /// The block's sectors, at most [`super::env::PRIVATE_SECTORS_MAX`].
    pub sectors: u32,
    /// How many of them are before the part, which is as long as the clone.
    pub before: u32,
    /// For the end hook.
    pub note: Note,
}

/// Blocks of a target's own, smaller than those of the device beneath (ebs).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emulation {
    /// The logical block offered above, in sectors.
    pub block_sectors: u32,
    /// The block beneath, in sectors: a power of two, and a multiple of the one above. Every read and write is cut into pieces
    /// that are a part of one of these each, or whole ones only.
    pub underlying_sectors: u32,
}

impl Emulation {
    /// Whether both blocks are the same, so that nothing is emulated.
    pub fn is_nominal(self) -> bool {
        self.block_sectors == self.underlying_sectors
    }
}

/// What holds for every target of a type (LC-8, LC-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// The only target of its table (LC-8).
    pub singleton: bool,
    /// Its table can only be replaced by one of the same type, or by one with a wildcard (LC-12).
    pub immutable: bool,
    /// May stand in for any other type when a table is replaced (`error`).
    pub wildcard: bool,
    /// Flushes need not pass through the target: one per distinct lower device of the table does (FL-20).
    pub flush_bypasses_map: bool,
    /// Handles discards itself, whatever the devices beneath can do (`ds` in section 6).
    pub discards_itself: bool,
    /// Has other ways to go when a device beneath is lost, so it wants to hear of that at once (OQ-11).
    pub fails_over: bool,
}

impl Class {
    /// Nothing special.
    pub const NONE: Class = Class {
        singleton: false,
        immutable: false,
        wildcard: false,
        flush_bypasses_map: false,
        discards_itself: false,
        fails_over: false,
    };
}

/// One type of target. Each core has its own copy of every target of a live table, so `&mut self` needs no lock; what
/// copies must agree on is told by message.
///
/// Sectors are relative to the target's start. Calls on the I/O path neither allocate nor block.
pub trait Target: Clone + Send + Sync + Sized {
    /// The name in a table line.
    const NAME: &'static str;
    /// The words after it, as an error shows them: `<device> <start>`.
    const FORM: &'static str;
    /// Version of the table and status texts, as `dmsetup targets` shows it.
    const VERSION: [u32; 3];
    /// What holds for the type.
    const CLASS: Class;

    /// Builds the target from the words of its table line.
    ///
    /// # Errors
    /// A sentence that names the word that is wrong and what would be right (LC-8, LC-9, TG-2). The word that was taken last is shown
    /// with it, unless the refusal names another.
    fn build(arguments: &mut Arguments<'_>, builder: &mut Builder<'_>) -> Result<Self, Refusal>;

    /// Called once for the copy of each core, before anything else.
    fn bind(&mut self, _site: Site) {}

    /// For a target whose every sector s is sector `start + s` of one lower device, whatever the I/O: that device, and `start`.
    fn straight(&self) -> Option<(ChannelIndex, u64)> {
        None
    }

    /// How its areas ([`Target::areas`]) are dealt out, for a target whose every sector lies in one of them, whatever the I/O.
    fn chunks(&self) -> Option<Chunks> {
        None
    }

    /// The shortest way through the mapper, for a target that only computes where a read or write at a sector goes: what
    /// [`Target::map`] would answer whatever else the I/O is.
    #[inline(always)]
    fn remap(&self, sector: u64) -> Remap {
        match self.straight() {
            Some((channel, start)) => Remap::To(channel, start + sector),
            None => Remap::Ask,
        }
    }

    /// Where a read or write goes. It does not cross [`Target::io_sectors_max`].
    fn map(&mut self, ask: &Ask) -> Map;

    /// A piece never crosses a multiple of this many sectors, counted from the target's start; 0 for no such bound (IO-6).
    fn io_sectors_max(&self) -> u32 {
        0
    }

    /// If the target offers smaller blocks than its lower device has: which. `None` passes on what that has.
    fn emulation(&self) -> Option<Emulation> {
        None
    }

    /// How many flush clones the target needs: at least one per backing device that can hold data (FL-22).
    fn flushes(&self) -> u32;

    /// Where flush clone `ask.number` goes.
    fn flush(&mut self, ask: &Ask) -> Map {
        unreachable!(
            "'{}' takes no flush, and was given number {}",
            Self::NAME,
            ask.number
        )
    }

    /// How many duplicates of a discard or write-zeroes the target takes; 0 if it cannot do it (IO-9, TG-1).
    fn duplicates(&self, op: Op) -> u32;

    /// Where duplicate `ask.number` of a discard or write-zeroes goes. The range may be the whole target.
    fn range(&mut self, ask: &Ask) -> Map {
        self.map(ask)
    }

    /// Every area of a lower device that the target uses, as (device, first sector, sectors).
    fn areas(&self, _sectors: u64) -> Vec<(ChannelIndex, u64, u64)> {
        Vec::new()
    }

    /// Optimal write size the target itself suggests, in bytes; 0 for none (striped: a whole stripe).
    fn optimal_write_bytes(&self) -> u64 {
        0
    }

    /// A clone of this target has ended below: called if it failed, or if the target had written a [`Note`] on it.
    fn end(&mut self, ended: &Ended, _notice: &mut Option<Notice>) -> End {
        End::Done(ended.status)
    }

    /// There was no memory to send a clone with, of which the target has answered this: what it did for that is to be undone.
    fn unsent(&mut self, _part: &Part) {}

    /// A clone that the target keeps was taken from it, because its host has given it up (PM-13): it is not asked for again.
    fn given_up(&mut self, _op: Op) {}

    /// A copy on some core has seen this. Every copy is told, the one that saw it too, and in the same order of notices, messages
    /// and hooks, so that copies which decide by these alone stay alike. Whether it is news: to the home core's copy, an event (LC-24).
    fn notice(&mut self, _notice: Notice) -> bool {
        false
    }

    /// A lower device was taken away: nothing that goes there will succeed (PM-14).
    fn lower_gone(&mut self, _channel: ChannelIndex, _notice: &mut Option<Notice>) {}

    /// When the target wants its timer next, on the core's clock; `u64::MAX` for never. Looked at after every other call but `map`, and after
    /// one that holds a clone.
    fn due_ns(&self) -> u64 {
        u64::MAX
    }

    /// The timer has come.
    fn timer(&mut self, _now_ns: u64, _notice: &mut Option<Notice>) {}

    /// The device is being suspended; I/O may still arrive (SU-16). With `noflush` what merely waits may be pushed back until
    /// the drain ends, without it must finish or fail (4.1 step 2, SU-2, SU-3). Cannot fail.
    fn presuspend(&mut self, _noflush: bool) {}

    /// The suspend was given up: everything is as before [`Target::presuspend`] (SU-8, SU-9).
    fn presuspend_undo(&mut self) {}

    /// The device is suspended, nothing is in flight (4.1 step 12a).
    fn postsuspend(&mut self) {}

    /// The device is about to be resumed, or run for the first time.
    ///
    /// # Errors
    /// A sentence that says why it cannot; the device stays suspended (4.3 step 2).
    fn preresume(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// The device runs (again) from now on (4.3 step 3).
    fn resume(&mut self) {}

    /// An operator's message (5.5). Every copy gets it, and must make the same of it.
    ///
    /// # Errors
    /// EINVAL for words the target does not know, EBUSY when it cannot be done on a suspended device.
    fn message(
        &mut self,
        words: &[String],
        _suspended: bool,
        _now_ns: u64,
        _lowers: &[Lower],
    ) -> Result<Told, super::Error> {
        let reason = format!(
            "a '{}' target takes no messages, and so not '{}'",
            Self::NAME,
            words.join(" ")
        );
        Err(super::Error::new(super::Errno::Einval, reason))
    }

    /// The INFO text (LC-22).
    fn status(&self, _lowers: &[Lower]) -> String {
        String::new()
    }

    /// The TABLE text: re-loadable, in canonical order (LC-23).
    fn table(&self, lowers: &[Lower]) -> String;
}

/// Registers the target types: an enum over them, dispatched without a `dyn` call.
macro_rules! targets {
    ($($variant:ident = $path:path),+ $(,)?) => {
        /// A target of any type.
        #[derive(Clone, Debug)]
        pub enum AnyTarget { $(#[doc = concat!("`", stringify!($variant), "`")] $variant($path)),+ }

        /// Names, versions and classes of all types, for `polldm dm targets` and for error messages.
        pub const TYPES: &[(&str, [u32; 3], Class)] = &[$((<$path>::NAME, <$path>::VERSION, <$path>::CLASS)),+];

        impl AnyTarget {
            /// Builds a target of the type `name`; `None` when there is no such type.
            pub fn build(name: &str, arguments: &mut Arguments<'_>, builder: &mut Builder<'_>) -> Option<Result<AnyTarget, Refusal>> {
                $(if name == <$path>::NAME {
                    arguments.of_target(<$path>::NAME, <$path>::FORM);
                    return Some(<$path>::build(arguments, builder).map(AnyTarget::$variant));
                })+
                None
            }
            /// The type's name.
            pub fn name(&self) -> &'static str { match self { $(AnyTarget::$variant(_) => <$path>::NAME),+ } }
            /// The type's class.
            pub fn class(&self) -> Class { match self { $(AnyTarget::$variant(_) => <$path>::CLASS),+ } }
            /// See [`Target::bind`].
            pub fn bind(&mut self, site: Site) { match self { $(AnyTarget::$variant(t) => t.bind(site)),+ } }
            /// See [`Target::straight`].
            pub fn straight(&self) -> Option<(ChannelIndex, u64)> { match self { $(AnyTarget::$variant(t) => t.straight()),+ } }
            /// See [`Target::chunks`].
            pub fn chunks(&self) -> Option<Chunks> { match self { $(AnyTarget::$variant(t) => t.chunks()),+ } }
            /// See [`Target::remap`].
            #[inline(always)]
            pub fn remap(&self, sector: u64) -> Remap { match self { $(AnyTarget::$variant(t) => t.remap(sector)),+ } }
            /// See [`Target::map`].
            pub fn map(&mut self, ask: &Ask) -> Map { match self { $(AnyTarget::$variant(t) => t.map(ask)),+ } }
            /// See [`Target::io_sectors_max`].
            pub fn io_sectors_max(&self) -> u32 { match self { $(AnyTarget::$variant(t) => t.io_sectors_max()),+ } }
            /// See [`Target::emulation`].
            pub fn emulation(&self) -> Option<Emulation> { match self { $(AnyTarget::$variant(t) => t.emulation()),+ } }
            /// See [`Target::flushes`].
            pub fn flushes(&self) -> u32 { match self { $(AnyTarget::$variant(t) => t.flushes()),+ } }
            /// See [`Target::flush`].
            pub fn flush(&mut self, ask: &Ask) -> Map { match self { $(AnyTarget::$variant(t) => t.flush(ask)),+ } }
            /// See [`Target::duplicates`].
            pub fn duplicates(&self, op: Op) -> u32 { match self { $(AnyTarget::$variant(t) => t.duplicates(op)),+ } }
            /// See [`Target::range`].
            pub fn range(&mut self, ask: &Ask) -> Map { match self { $(AnyTarget::$variant(t) => t.range(ask)),+ } }
            /// See [`Target::areas`].
            pub fn areas(&self, sectors: u64) -> Vec<(ChannelIndex, u64, u64)> { match self { $(AnyTarget::$variant(t) => t.areas(sectors)),+ } }
            /// See [`Target::optimal_write_bytes`].
            pub fn optimal_write_bytes(&self) -> u64 { match self { $(AnyTarget::$variant(t) => t.optimal_write_bytes()),+ } }
            /// See [`Target::end`].
            pub fn end(&mut self, ended: &Ended, notice: &mut Option<Notice>) -> End { match self { $(AnyTarget::$variant(t) => t.end(ended, notice)),+ } }
            /// See [`Target::unsent`].
            pub fn unsent(&mut self, part: &Part) { match self { $(AnyTarget::$variant(t) => t.unsent(part)),+ } }
            /// See [`Target::given_up`].
            pub fn given_up(&mut self, op: Op) { match self { $(AnyTarget::$variant(t) => t.given_up(op)),+ } }
            /// See [`Target::notice`].
            pub fn notice(&mut self, notice: Notice) -> bool { match self { $(AnyTarget::$variant(t) => t.notice(notice)),+ } }
            /// See [`Target::lower_gone`].
            pub fn lower_gone(&mut self, channel: ChannelIndex, notice: &mut Option<Notice>) { match self { $(AnyTarget::$variant(t) => t.lower_gone(channel, notice)),+ } }
            /// See [`Target::due_ns`].
            pub fn due_ns(&self) -> u64 { match self { $(AnyTarget::$variant(t) => t.due_ns()),+ } }
            /// See [`Target::timer`].
            pub fn timer(&mut self, now_ns: u64, notice: &mut Option<Notice>) { match self { $(AnyTarget::$variant(t) => t.timer(now_ns, notice)),+ } }
            /// See [`Target::presuspend`].
            pub fn presuspend(&mut self, noflush: bool) { match self { $(AnyTarget::$variant(t) => t.presuspend(noflush)),+ } }
            /// See [`Target::presuspend_undo`].
            pub fn presuspend_undo(&mut self) { match self { $(AnyTarget::$variant(t) => t.presuspend_undo()),+ } }
            /// See [`Target::postsuspend`].
            pub fn postsuspend(&mut self) { match self { $(AnyTarget::$variant(t) => t.postsuspend()),+ } }
            /// See [`Target::preresume`].
            pub fn preresume(&mut self) -> Result<(), String> { match self { $(AnyTarget::$variant(t) => t.preresume()),+ } }
            /// See [`Target::resume`].
            pub fn resume(&mut self) { match self { $(AnyTarget::$variant(t) => t.resume()),+ } }
            /// See [`Target::message`].
            pub fn message(&mut self, words: &[String], suspended: bool, now_ns: u64, lowers: &[Lower]) -> Result<Told, super::Error> { match self { $(AnyTarget::$variant(t) => t.message(words, suspended, now_ns, lowers)),+ } }
            /// See [`Target::status`].
            pub fn status(&self, lowers: &[Lower]) -> String { match self { $(AnyTarget::$variant(t) => t.status(lowers)),+ } }
            /// See [`Target::table`].
            pub fn table(&self, lowers: &[Lower]) -> String { match self { $(AnyTarget::$variant(t) => t.table(lowers)),+ } }
        }
    };
}

targets! {
    Delay = delay::Delay,
    Ebs = ebs::Ebs,
    Error = error::Error,
    Flakey = flakey::Flakey,
    Linear = linear::Linear,
    Multipath = multipath::Multipath,
    Striped = striped::Striped,
    Zero = zero::Zero,
}
