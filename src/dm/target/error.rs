//! `error`: every I/O fails. Stands in for a device that is gone; may replace any table.

use super::super::io::Op;
use super::super::limits::Lower;
use super::{Arguments, Ask, Builder, Class, Map, Refusal, Target};

/// Fails everything but a flush, of which it takes none (6.1).
#[derive(Clone, Debug)]
pub struct Error;

impl Target for Error {
    const NAME: &'static str = "error";
    const FORM: &'static str = "";
    const VERSION: [u32; 3] = [1, 0, 0];
    const CLASS: Class = Class {
        wildcard: true,
        discards_itself: true,
        ..Class::NONE
    };

    fn build(arguments: &mut Arguments<'_>, _builder: &mut Builder<'_>) -> Result<Error, Refusal> {
        arguments.end()?;
        Ok(Error)
    }

    fn map(&mut self, _ask: &Ask) -> Map {
        Map::Kill
    }

    fn flushes(&self) -> u32 {
        0
    }

    fn duplicates(&self, op: Op) -> u32 {
        // A discard fails with an error rather than "not supported", so it does get a clone, which map() kills.
        u32::from(op == Op::Discard)
    }

    fn table(&self, _lowers: &[Lower]) -> String {
        String::new()
    }
}
