//! `service-time`: the path that would be done with the I/O first, if each moved bytes as fast as the table says.

use std::fmt::Write;

use super::super::super::{Arguments, Refusal};
use super::turns::Turns;
use super::{Policy, REPEAT_COUNT, Slot, repeat_count};

/// Largest relative throughput, and the unit that all of one group are in.
const THROUGHPUT_MAX: u64 = 100;

/// Minimises (bytes in flight + bytes of the I/O) / relative throughput. A path of throughput 0 is chosen only when no other can be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceTime {
    turns: Turns,
    paths: Vec<Path>,
}

#[derive(Clone, Debug, PartialEq)]
struct Path {
    in_flight_bytes: u64,
    throughput: u32,
}

impl Path {
    /// Whether an I/O of `bytes` is better off here than on `other`.
    fn better(&self, other: &Path, bytes: u64) -> bool {
        if self.throughput == other.throughput {
            return self.in_flight_bytes < other.in_flight_bytes;
        }
        let faster = self.throughput > other.throughput;
        let same_load = self.in_flight_bytes == other.in_flight_bytes;
        if same_load || self.throughput == 0 || other.throughput == 0 {
            return faster;
        }
        // a / ta < b / tb  <=>  a * tb < b * ta. In 128 bits nothing overflows, so nothing has to be rounded away.
        let time = |path: &Path, by: &Path| {
            u128::from(path.in_flight_bytes + bytes) * u128::from(by.throughput)
        };
        let (mine, others) = (time(self, other), time(other, self));
        mine < others || mine == others && faster
    }
}

impl Policy for ServiceTime {
    const NAME: &'static str = "service-time";
    const INFO_WORDS: usize = 2;
    const TABLE_WORDS: usize = 2;

    fn build(_arguments: &mut Arguments<'_>) -> Result<ServiceTime, Refusal> {
        Ok(ServiceTime::default())
    }

    fn add(&mut self, arguments: &mut Arguments<'_>) -> Result<(), Refusal> {
        repeat_count(arguments)?;
        let throughput = match arguments.left() {
            0 => 1,
            _ => arguments.number("the relative throughput", THROUGHPUT_MAX)?,
        };
        self.turns.add_last(Slot(self.paths.len() as u16));
        self.paths.push(Path {
            in_flight_bytes: 0,
            throughput: throughput as u32,
        });
        Ok(())
    }

    #[inline]
    fn select(&mut self, bytes: u64, _now_ns: u64) -> Option<Slot> {
        let paths = &self.paths;
        self.turns
            .choose_best(|a, b| paths[usize::from(a.0)].better(&paths[usize::from(b.0)], bytes))
    }

    #[inline]
    fn start(&mut self, slot: Slot, bytes: u64) {
        self.paths[usize::from(slot.0)].in_flight_bytes += bytes;
    }

    #[inline]
    fn end(&mut self, slot: Slot, bytes: u64, _started_ns: u64, _now_ns: u64) {
        let in_flight = &mut self.paths[usize::from(slot.0)].in_flight_bytes;
        *in_flight = in_flight
            .checked_sub(bytes)
            .expect("started with the same length (MP-6)");
    }

    fn fail(&mut self, slot: Slot) {
        self.turns.remove(slot);
    }

    fn reinstate(&mut self, slot: Slot) {
        self.turns.add_last(slot);
    }

    fn info(&self, slot: Slot, text: &mut String) {
        let path = &self.paths[usize::from(slot.0)];
        let _ = write!(text, " {} {}", path.in_flight_bytes, path.throughput);
    }

    fn table(&self, slot: Slot, text: &mut String) {
        let throughput = self.paths[usize::from(slot.0)].throughput;
        let _ = write!(text, "{REPEAT_COUNT} {throughput}");
    }
}
