//! Target types: one file each, one small trait, one place to register.
//!
//! To add one: write `src/dm/target/NAME.rs` with a type that implements [`Target`], and add a line to the `targets!` list below.

mod arguments;
mod error;
mod linear;
mod striped;
mod zero;

pub use arguments::{Arguments, Builder};

use super::io::Op;
use super::limits::Lower;

/// A lower device of a table: its place in the table's list of distinct lower devices, and so in a core's channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChannelIndex(pub u32);

/// Where a target wants a clone to go (2.3). A closed set: nothing else can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    /// To this lower device, from this sector of it.
    Remapped {
        /// Which of the table's lower devices.
        channel: ChannelIndex,
        /// First sector there.
        sector: u64,
    },
    /// A read finds zeroes; anything else is done without a trace.
    Zero,
    /// The clone ends with an I/O error; the end hook is not called.
    Kill,
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

/// What holds for every target of a type (LC-8, LC-12).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// May stand in for any other type when a table is replaced (`error`).
    pub wildcard: bool,
    /// Flushes need not pass through the target: one per distinct lower device of the table does (FL-20).
    pub flush_bypasses_map: bool,
    /// Handles discards itself, whatever the devices beneath can do (`ds` in section 6).
    pub discards_itself: bool,
}

/// One type of target. Each core has its own copy of every target of a live table, so `&mut self` needs no lock; what
/// copies must agree on is told by message.
///
/// Sectors are relative to the target's start. Calls on the I/O path neither allocate nor block.
pub trait Target: Clone + Send + Sync + Sized {
    /// The name in a table line.
    const NAME: &'static str;
    /// Version of the table and status texts, as `dmsetup targets` shows it.
    const VERSION: [u32; 3];
    /// What holds for the type.
    const CLASS: Class;

    /// Builds the target from the words of its table line.
    ///
    /// # Errors
    /// A sentence that names the word that is wrong and what would be right (LC-8, LC-9, TG-2).
    fn build(arguments: &mut Arguments<'_>, builder: &mut Builder<'_>) -> Result<Self, String>;

    /// Where the read or write at `sector` goes. The piece does not cross [`Target::io_sectors_max`].
    fn map(&mut self, op: Op, sector: u64) -> Map;

    /// A piece never crosses a multiple of this many sectors, counted from the target's start; 0 for no such bound (IO-6).
    fn io_sectors_max(&self) -> u32 {
        0
    }

    /// How many flush clones the target needs: at least one per backing device that can hold data (FL-22).
    fn flushes(&self) -> u32;

    /// The lower device of flush clone `number`.
    fn flush(&self, number: u32) -> ChannelIndex;

    /// How many duplicates of a discard or write-zeroes the target takes; 0 if it cannot do it (IO-9, TG-1).
    fn duplicates(&self, op: Op) -> u32;

    /// The share of duplicate `number` of a discard or write-zeroes of a range; `None` when it is empty, which is a success.
    fn share(&self, number: u32, sector: u64, sectors: u32) -> Option<Share>;

    /// Every area of a lower device that the target uses, as (device, first sector, sectors).
    fn areas(&self, sectors: u64) -> Vec<(ChannelIndex, u64, u64)>;

    /// Optimal write size the target itself suggests, in bytes; 0 for none (striped: a whole stripe).
    fn optimal_write_bytes(&self) -> u64 {
        0
    }

    /// A clone of this target failed below. Called on the core of the clone, then, if that answers true (what
    /// [`Target::status`] tells has changed), on the device's home core, whose copy is the one that is asked for its status.
    fn failed(&mut self, _channel: ChannelIndex, _status: super::Status) -> bool {
        false
    }

    /// The INFO text (LC-22).
    fn status(&self, lowers: &[Lower]) -> String;

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
            pub fn build(name: &str, arguments: &mut Arguments<'_>, builder: &mut Builder<'_>) -> Option<Result<AnyTarget, String>> {
                $(if name == <$path>::NAME { return Some(<$path>::build(arguments, builder).map(AnyTarget::$variant)); })+
                None
            }
            /// The type's name.
            pub fn name(&self) -> &'static str { match self { $(AnyTarget::$variant(_) => <$path>::NAME),+ } }
            /// The type's class.
            pub fn class(&self) -> Class { match self { $(AnyTarget::$variant(_) => <$path>::CLASS),+ } }
            /// See [`Target::map`].
            #[inline(always)]
            pub fn map(&mut self, op: Op, sector: u64) -> Map { match self { $(AnyTarget::$variant(t) => t.map(op, sector)),+ } }
            /// See [`Target::io_sectors_max`].
            pub fn io_sectors_max(&self) -> u32 { match self { $(AnyTarget::$variant(t) => t.io_sectors_max()),+ } }
            /// See [`Target::flushes`].
            pub fn flushes(&self) -> u32 { match self { $(AnyTarget::$variant(t) => t.flushes()),+ } }
            /// See [`Target::flush`].
            pub fn flush(&self, number: u32) -> ChannelIndex { match self { $(AnyTarget::$variant(t) => t.flush(number)),+ } }
            /// See [`Target::duplicates`].
            pub fn duplicates(&self, op: Op) -> u32 { match self { $(AnyTarget::$variant(t) => t.duplicates(op)),+ } }
            /// See [`Target::share`].
            pub fn share(&self, number: u32, sector: u64, sectors: u32) -> Option<Share> { match self { $(AnyTarget::$variant(t) => t.share(number, sector, sectors)),+ } }
            /// See [`Target::areas`].
            pub fn areas(&self, sectors: u64) -> Vec<(ChannelIndex, u64, u64)> { match self { $(AnyTarget::$variant(t) => t.areas(sectors)),+ } }
            /// See [`Target::optimal_write_bytes`].
            pub fn optimal_write_bytes(&self) -> u64 { match self { $(AnyTarget::$variant(t) => t.optimal_write_bytes()),+ } }
            /// See [`Target::failed`].
            pub fn failed(&mut self, channel: ChannelIndex, status: super::Status) -> bool { match self { $(AnyTarget::$variant(t) => t.failed(channel, status)),+ } }
            /// See [`Target::status`].
            pub fn status(&self, lowers: &[Lower]) -> String { match self { $(AnyTarget::$variant(t) => t.status(lowers)),+ } }
            /// See [`Target::table`].
            pub fn table(&self, lowers: &[Lower]) -> String { match self { $(AnyTarget::$variant(t) => t.table(lowers)),+ } }
        }
    };
}

targets! {
    Linear = linear::Linear,
    Striped = striped::Striped,
    Error = error::Error,
    Zero = zero::Zero,
}
