//! The features of a `flakey` target: what goes wrong while it is down.

use super::super::{Arguments, Refusal, refuse};

/// Certainty, in the unit of the random features.
pub(super) const PROBABILITY_MAX: u32 = 1_000_000_000;

/// The flag of a write with force-unit-access in `corrupt_bio_byte`: the bit that it has in a Linux 6 bio. The only one that an I/O has here.
pub(super) const FLAG_FUA: u32 = 1 << 17;

/// Whether a feature is about reads or about writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    Write,
}

/// `corrupt_bio_byte`: one certain byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Byte {
    /// Which, from 1.
    pub nth: u32,
    pub direction: Direction,
    /// What it becomes.
    pub value: u8,
    /// Only of I/O that has all of these: none, or [`FLAG_FUA`].
    pub flags: u32,
}

/// What happens to writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writes {
    /// Nothing, or one byte is changed.
    Pass,
    /// They succeed and are not done.
    Drop,
    /// They fail.
    Fail,
}

/// All features of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Features {
    pub error_reads: bool,
    pub writes: Writes,
    pub byte: Option<Byte>,
    /// The probability that some byte of a read is changed, of [`PROBABILITY_MAX`].
    pub random_read: Option<u32>,
    /// The same of a write.
    pub random_write: Option<u32>,
}

/// Nothing named: all I/O fails.
const ALL_FAILS: Features = Features {
    error_reads: true,
    writes: Writes::Fail,
    ..NONE
};

const NONE: Features = Features {
    error_reads: false,
    writes: Writes::Pass,
    byte: None,
    random_read: None,
    random_write: None,
};

impl Features {
    /// Reads `[<#feat> feat…]`, to the end of the line.
    ///
    /// # Errors
    /// The word that is wrong, or the two features that exclude each other.
    pub fn parse(arguments: &mut Arguments<'_>) -> Result<Features, Refusal> {
        if arguments.left() == 0 {
            return Ok(ALL_FAILS);
        }
        let count = arguments.number("the number of feature words", u64::from(u32::MAX))?;
        if count != arguments.left() as u64 {
            return refuse(format!(
                "{count} feature words are announced, and {} follow",
                arguments.left()
            ));
        }
        let first = arguments.last();
        let mut features = NONE;
        while arguments.left() > 0 {
            features.take(arguments)?;
        }
        match features == NONE {
            true => Ok(ALL_FAILS),
            false => match features.agree() {
                Ok(()) => Ok(features),
                Err(refusal) => Err(refusal.at(first.start..arguments.last().end)),
            },
        }
    }

    fn take(&mut self, arguments: &mut Arguments<'_>) -> Result<(), Refusal> {
        let name = arguments.word("the feature")?;
        let twice = match name {
            "error_reads" => std::mem::replace(&mut self.error_reads, true),
            "drop_writes" => self.set_writes(Writes::Drop)?,
            "error_writes" => self.set_writes(Writes::Fail)?,
            "corrupt_bio_byte" => self.byte.replace(Byte::parse(arguments)?).is_some(),
            "random_read_corrupt" => self.random_read.replace(probability(arguments)?).is_some(),
            "random_write_corrupt" => self.random_write.replace(probability(arguments)?).is_some(),
            _ => {
                return refuse(format!(
                    "there is no feature '{name}'; there are error_reads, drop_writes, error_writes, corrupt_bio_byte, \
                     random_read_corrupt and random_write_corrupt"
                ));
            }
        };
        match twice {
            true => refuse(format!("the feature {name} is there twice")),
            false => Ok(()),
        }
    }

    fn set_writes(&mut self, writes: Writes) -> Result<bool, Refusal> {
        let before = std::mem::replace(&mut self.writes, writes);
        if before != Writes::Pass && before != writes {
            return refuse(
                "drop_writes and error_writes exclude each other: writes either vanish or fail",
            );
        }
        Ok(before == writes)
    }

    /// What fails or vanishes has no bytes to be changed, and of one I/O one byte is changed.
    fn agree(&self) -> Result<(), Refusal> {
        for direction in [Direction::Read, Direction::Write] {
            let certain = self.byte.is_some_and(|byte| byte.direction == direction);
            let (ended, random, letter) = match direction {
                Direction::Read => (
                    self.error_reads.then_some("error_reads"),
                    self.random_read.map(|_| "random_read_corrupt"),
                    'r',
                ),
                Direction::Write => (
                    self.writes.name(),
                    self.random_write.map(|_| "random_write_corrupt"),
                    'w',
                ),
            };
            let certain = certain.then(|| format!("corrupt_bio_byte … {letter}"));
            let random = random.map(str::to_string);
            let excluded = match (ended, &certain, &random) {
                (Some(ended), Some(changed), _) | (Some(ended), None, Some(changed)) => {
                    Some((ended, changed))
                }
                (None, Some(certain), Some(random)) => Some((certain.as_str(), random)),
                _ => None,
            };
            if let Some((one, other)) = excluded {
                return refuse(format!(
                    "{one} and {other} exclude each other: leave one out"
                ));
            }
        }
        Ok(())
    }

    /// The words, in canonical order, after their number.
    pub fn words(&self) -> String {
        let mut words: Vec<String> = Vec::with_capacity(11);
        if self.error_reads {
            words.push("error_reads".into());
        }
        words.extend(self.writes.name().map(String::from));
        if let Some(byte) = self.byte {
            let letter = match byte.direction {
                Direction::Read => "r",
                Direction::Write => "w",
            };
            words.push("corrupt_bio_byte".into());
            words.push(byte.nth.to_string());
            words.push(letter.into());
            words.push(byte.value.to_string());
            words.push(byte.flags.to_string());
        }
        let random = [
            ("random_read_corrupt", self.random_read),
            ("random_write_corrupt", self.random_write),
        ];
        for (name, probability) in random {
            if let Some(probability) = probability {
                words.extend([name.into(), probability.to_string()]);
            }
        }
        format!("{} {}", words.len(), words.join(" "))
    }
}

impl Writes {
    fn name(self) -> Option<&'static str> {
        match self {
            Writes::Pass => None,
            Writes::Drop => Some("drop_writes"),
            Writes::Fail => Some("error_writes"),
        }
    }
}

impl Byte {
    fn parse(arguments: &mut Arguments<'_>) -> Result<Byte, Refusal> {
        let nth = arguments.number("the byte to corrupt", u64::from(u32::MAX))? as u32;
        if nth == 0 {
            return refuse("the byte to corrupt is 0; the first is 1");
        }
        let direction = match arguments.word("the direction of what is corrupted")? {
            "r" => Direction::Read,
            "w" => Direction::Write,
            other => {
                return refuse(format!(
                    "the direction '{other}' is neither r (reads) nor w (writes)"
                ));
            }
        };
        let value = arguments.number("the value of the corrupted byte", u64::from(u8::MAX))? as u8;
        let flags = arguments.number("the flags", u64::from(u32::MAX))? as u32;
        if flags != 0 && (direction, flags) != (Direction::Write, FLAG_FUA) {
            return refuse(format!(
                "the flags {flags} are on no I/O here: 0 stands for any I/O, and with w {FLAG_FUA} for force-unit-access"
            ));
        }
        Ok(Byte {
            nth,
            direction,
            value,
            flags,
        })
    }
}

fn probability(arguments: &mut Arguments<'_>) -> Result<u32, Refusal> {
    let max = u64::from(PROBABILITY_MAX);
    Ok(arguments.number("the probability (of 1000000000)", max)? as u32)
}
