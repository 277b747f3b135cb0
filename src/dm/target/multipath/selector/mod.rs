//! Path selectors: which path of a group takes the next I/O (5.9). One selector per group, in each core's copy of the target.
//!
//! Every core counts only its own I/O. With the same load on every core that is the kernel's choice; with different loads
//! each core still balances what it can see. Exact counts would cost a shared cache line per I/O, and INFO shows the home core's.

mod historical;
mod io_affinity;
mod queue_length;
mod round_robin;
mod service_time;
mod turns;

use std::fmt::Write;

use super::super::super::io::CoreId;
use super::super::{Arguments, Refusal, refuse};

use historical::Historical;
use io_affinity::IoAffinity;
use queue_length::QueueLength;
use round_robin::RoundRobin;
use service_time::ServiceTime;

/// A path's place in its group, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub u16);

/// What every selector can do. Paths are added once, when the table is built, in the order of the table; all are usable then.
trait Policy: Sized {
    /// The name in a table line.
    const NAME: &'static str;
    /// Words that [`Policy::info`] writes for each path.
    const INFO_WORDS: usize;
    /// Words that [`Policy::table`] writes for each path.
    const TABLE_WORDS: usize;

    /// Builds it from the group's selector arguments.
    fn build(arguments: &mut Arguments<'_>) -> Result<Self, Refusal>;

    /// Adds a path from its arguments.
    fn add(&mut self, arguments: &mut Arguments<'_>) -> Result<(), Refusal>;

    /// The copy of the target lives on this core from now on.
    fn bind(&mut self, _core: CoreId) {}

    /// The usable path that an I/O of `bytes` goes to; `None` when none is usable. Does not count the I/O yet.
    fn select(&mut self, bytes: u64, now_ns: u64) -> Option<Slot>;

    /// An I/O was given to the path. Always followed by one [`Policy::end`] (MP-6).
    fn start(&mut self, _slot: Slot, _bytes: u64) {}

    /// That I/O has ended, well or not, on a path that is usable or not.
    fn end(&mut self, _slot: Slot, _bytes: u64, _started_ns: u64, _now_ns: u64) {}

    /// A usable path is not to be chosen any more.
    fn fail(&mut self, slot: Slot);

    /// It may be chosen again.
    fn reinstate(&mut self, slot: Slot);

    /// What it shows of the group, in both texts: its arguments.
    fn group(&self) -> Vec<u64> {
        Vec::new()
    }

    /// What it shows of a path in INFO, each word after a space.
    fn info(&self, _slot: Slot, _text: &mut String) {}

    /// What it shows of a path in TABLE, each word after a space: arguments that would build it again.
    fn table(&self, slot: Slot, text: &mut String);
}

/// Most words of arguments, of a group or a path.
pub const WORDS_MAX: u64 = 1024;

/// Lists the selectors: an enum over them, dispatched without a `dyn` call.
macro_rules! selectors {
    ($($kind:ident),+ $(,)?) => {
        /// A selector of any kind.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Selector { $($kind($kind)),+ }

        impl Selector {
            /// Builds a selector from its name, the number of the group's selector arguments, and these.
            ///
            /// # Errors
            /// When there is no such selector, or what is wrong with its arguments.
            pub fn build(arguments: &mut Arguments<'_>) -> Result<Selector, Refusal> {
                let name = arguments.word("the path selector")?;
                let build = match name {
                    $(<$kind as Policy>::NAME => |arguments: &mut Arguments<'_>| $kind::build(arguments).map(Selector::$kind),)+
                    _ => {
                        let names = [$(<$kind as Policy>::NAME),+].join(", ");
                        return refuse(format!("unknown path selector '{name}'; there are {names}"));
                    }
                };
                let count = arguments.number("the number of selector arguments", WORDS_MAX)?;
                arguments
                    .part("selector argument", count, build)
                    .map_err(|refusal| refusal.within(format_args!("selector {name}")))
            }

            /// Adds the next path of the group, from its selector arguments.
            ///
            /// # Errors
            /// What is wrong with them.
            pub fn add(&mut self, arguments: &mut Arguments<'_>) -> Result<(), Refusal> {
                match self { $(Selector::$kind(policy) => policy.add(arguments)),+ }
            }

            /// The name in a table line.
            pub fn name(&self) -> &'static str {
                match self { $(Selector::$kind(_) => <$kind as Policy>::NAME),+ }
            }

            /// The copy of the target lives on this core from now on.
            pub fn bind(&mut self, core: CoreId) {
                match self { $(Selector::$kind(policy) => policy.bind(core)),+ }
            }

            /// The path that an I/O of `bytes` goes to, counted on it; `None` when none is usable.
            #[inline]
            pub fn start(&mut self, bytes: u64, now_ns: u64) -> Option<Slot> {
                match self { $(Selector::$kind(policy) => {
                    let slot = policy.select(bytes, now_ns)?;
                    policy.start(slot, bytes);
                    Some(slot)
                }),+ }
            }

            /// An I/O that [`Selector::start`] counted has ended.
            #[inline]
            pub fn end(&mut self, slot: Slot, bytes: u64, started_ns: u64, now_ns: u64) {
                match self { $(Selector::$kind(policy) => policy.end(slot, bytes, started_ns, now_ns)),+ }
            }

            /// A usable path is not to be chosen any more.
            pub fn fail(&mut self, slot: Slot) {
                match self { $(Selector::$kind(policy) => policy.fail(slot)),+ }
            }

            /// A path that was failed may be chosen again.
            pub fn reinstate(&mut self, slot: Slot) {
                match self { $(Selector::$kind(policy) => policy.reinstate(slot)),+ }
            }

            /// Words per path in INFO.
            pub fn info_words(&self) -> usize {
                match self { $(Selector::$kind(_) => <$kind as Policy>::INFO_WORDS),+ }
            }

            /// Words per path in TABLE.
            pub fn table_words(&self) -> usize {
                match self { $(Selector::$kind(_) => <$kind as Policy>::TABLE_WORDS),+ }
            }

            /// Writes the group's arguments, their count first, each word after a space.
            pub fn group(&self, text: &mut String) {
                let words = match self { $(Selector::$kind(policy) => policy.group()),+ };
                let _ = write!(text, " {}", words.len());
                for word in words {
                    let _ = write!(text, " {word}");
                }
            }

            /// Writes what INFO shows of a path.
            pub fn info(&self, slot: Slot, text: &mut String) {
                match self { $(Selector::$kind(policy) => policy.info(slot, text)),+ }
            }

            /// Writes what TABLE shows of a path.
            pub fn table(&self, slot: Slot, text: &mut String) {
                match self { $(Selector::$kind(policy) => policy.table(slot, text)),+ }
            }
        }
    };
}

selectors! {
    RoundRobin,
    QueueLength,
    ServiceTime,
    Historical,
    IoAffinity,
}

/// Reads the argument `repeat_count` if there is one. It once said how many I/Os a path gets in a row; the choice is made for every I/O,
/// so any count means 1, which is what TABLE shows (5.2).
fn repeat_count(arguments: &mut Arguments<'_>) -> Result<(), Refusal> {
    if arguments.left() > 0 {
        arguments.number("the repeat count", u64::from(u32::MAX))?;
    }
    Ok(())
}

/// What TABLE shows for every repeat count.
const REPEAT_COUNT: &str = " 1";

#[cfg(test)]
mod tests;
