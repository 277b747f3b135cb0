//! The words of a table line, and what a constructor may ask of the table around it.

use super::super::limits::Lower;
use super::ChannelIndex;

/// The words after a target's name, taken one by one.
#[derive(Debug)]
pub struct Arguments<'a> {
    words: &'a [String],
    taken: usize,
}

impl<'a> Arguments<'a> {
    /// All of `words`, none taken yet.
    pub fn new(words: &'a [String]) -> Arguments<'a> {
        Arguments { words, taken: 0 }
    }

    /// How many words are left.
    pub fn left(&self) -> usize {
        self.words.len() - self.taken
    }

    /// The next word; `what` says what it is, for the error.
    ///
    /// # Errors
    /// When no word is left.
    pub fn word(&mut self, what: &str) -> Result<&'a str, String> {
        let word = self
            .words
            .get(self.taken)
            .ok_or_else(|| format!("{what} is missing"))?;
        self.taken += 1;
        Ok(word)
    }

    /// The next `count` words at once; `what` says what each is, for the error (LC-9).
    ///
    /// # Errors
    /// When fewer are left.
    pub fn words(&mut self, what: &str, count: u64) -> Result<&'a [String], String> {
        if count > self.left() as u64 {
            return Err(format!(
                "{count} words are announced, each a {what}, and {} follow",
                self.left()
            ));
        }
        let first = self.taken;
        self.taken += count as usize;
        Ok(&self.words[first..self.taken])
    }

    /// The next word as a decimal number of at most `max` (TG-2).
    ///
    /// # Errors
    /// When it is missing, not a plain decimal number, or too large.
    pub fn number(&mut self, what: &str, max: u64) -> Result<u64, String> {
        let word = self.word(what)?;
        let plain = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        let number = if plain {
            word.parse::<u64>().ok()
        } else {
            None
        };
        match number {
            Some(number) if number <= max => Ok(number),
            Some(_) => Err(format!("{what} '{word}' is too large: at most {max}")),
            None if plain => Err(format!("{what} '{word}' is too large: at most {max}")),
            None => Err(format!("{what} '{word}' is not a decimal number")),
        }
    }

    /// Asserts that no word is left.
    ///
    /// # Errors
    /// Names the first word too many.
    pub fn end(&self) -> Result<(), String> {
        match self.words.get(self.taken) {
            None => Ok(()),
            Some(word) => Err(format!("'{word}' is one word too many")),
        }
    }
}

/// What a constructor sees of the table being built.
pub struct Builder<'a> {
    /// The target's own length in sectors.
    pub sectors: u64,
    resolve: &'a dyn Fn(&str) -> Option<Lower>,
    lowers: &'a mut Vec<Lower>,
}

impl<'a> Builder<'a> {
    /// A builder for a target of `sectors`, resolving names with `resolve`, collecting distinct lower devices in `lowers`.
    pub fn new(
        sectors: u64,
        resolve: &'a dyn Fn(&str) -> Option<Lower>,
        lowers: &'a mut Vec<Lower>,
    ) -> Builder<'a> {
        Builder {
            sectors,
            resolve,
            lowers,
        }
    }

    /// The words `<device> <start>`: a lower device and an area of `sectors` on it that must lie inside the device and be
    /// aligned to its blocks (LC-10, LC-14).
    ///
    /// # Errors
    /// When there is no such device, or the area does not fit.
    pub fn area(
        &mut self,
        arguments: &mut Arguments<'_>,
        sectors: u64,
    ) -> Result<(ChannelIndex, u64), String> {
        let name = arguments.word("the device")?;
        let lower = (self.resolve)(name).ok_or_else(|| format!("there is no bdev '{name}'"))?;
        let start = arguments.number("the start sector on the device", u64::MAX / 512)?;
        match start.checked_add(sectors) {
            Some(end) if end <= lower.sectors => {}
            _ => {
                return Err(format!(
                    "sectors {start} to {} do not fit on '{name}', which has {}",
                    start.saturating_add(sectors),
                    lower.sectors
                ));
            }
        }
        let block_sectors = u64::from(lower.block_bytes) / 512;
        if start % block_sectors != 0 {
            return Err(format!(
                "start {start} on '{name}' is not a multiple of its block of {block_sectors} sectors"
            ));
        }
        Ok((self.channel(lower), start))
    }

    /// The word `<device>`: a lower device of which the target uses what it finds fit.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn device(
        &mut self,
        arguments: &mut Arguments<'_>,
    ) -> Result<(ChannelIndex, Lower), String> {
        let name = arguments.word("the device")?;
        let lower = (self.resolve)(name).ok_or_else(|| format!("there is no bdev '{name}'"))?;
        Ok((self.channel(lower.clone()), lower))
    }

    /// The distinct lower devices of the table so far.
    pub fn lowers(&self) -> &[Lower] {
        self.lowers
    }

    /// The table's number for a lower device: opened once, however often it is named (LC-10).
    fn channel(&mut self, lower: Lower) -> ChannelIndex {
        let known = self.lowers.iter().position(|known| known.id == lower.id);
        let index = known.unwrap_or_else(|| {
            self.lowers.push(lower);
            self.lowers.len() - 1
        });
        ChannelIndex(index as u32)
    }
}
