//! The words of a table line, and what a constructor may ask of the table around it.

use std::ops::Range;

use super::super::limits::Lower;
use super::super::table::Word;
use super::{ChannelIndex, Refusal, refuse};

/// The words of a table line, taken one by one; those after a target's name are its constructor's to take.
#[derive(Debug)]
pub struct Arguments<'a> {
    words: &'a [Word],
    taken: usize,
    /// Where the words end that may be taken: those of the line, or of a part of it.
    end: usize,
    /// The target whose words are taken, and the form that they have.
    target: Option<(&'static str, &'static str)>,
    /// Numbers of sectors that were taken, and from which words.
    sectors: Vec<(u64, Range<usize>)>,
}

impl<'a> Arguments<'a> {
    /// The word with the target's length.
    pub const LENGTH: Range<usize> = 1..2;
    /// The word with the target's name.
    pub const TYPE: Range<usize> = 2..3;

    /// All of a line's `words`, none taken yet.
    pub fn new(words: &'a [Word]) -> Arguments<'a> {
        Arguments {
            words,
            taken: 0,
            end: words.len(),
            target: None,
            sectors: Vec::new(),
        }
    }

    /// From here on the words are those of a target `name`, in the form that it has.
    pub(super) fn of_target(&mut self, name: &'static str, form: &'static str) {
        self.target = Some((name, form));
    }

    /// The target whose words are taken.
    pub(in crate::dm) fn target(&self) -> Option<&'static str> {
        self.target.map(|(name, _)| name)
    }

    /// How many words are left.
    pub fn left(&self) -> usize {
        self.end - self.taken
    }

    /// Which word was taken last.
    pub fn last(&self) -> Range<usize> {
        self.taken.saturating_sub(1)..self.taken.max(1)
    }

    /// The next word; `what` says what it is, for the error.
    ///
    /// # Errors
    /// When no word is left.
    pub fn word(&mut self, what: &str) -> Result<&'a str, Refusal> {
        if self.taken == self.end {
            let refusal = self.misshapen(format!("{what} is missing"));
            return Err(match self.end == self.words.len() {
                true => refusal.at(self.end..self.end),
                false => refusal,
            });
        }
        self.taken += 1;
        Ok(&self.words[self.taken - 1].text)
    }

    /// The next `count` words, which `read` takes, all of them; `what` says what each is, for the error (LC-9).
    ///
    /// # Errors
    /// When fewer are left, `read` leaves some, or has an error of its own.
    pub fn part<T>(
        &mut self,
        what: &str,
        count: u64,
        read: impl FnOnce(&mut Self) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let left = self.left();
        if count > left as u64 {
            let reason = format!("{count} words are announced, each a {what}, and {left} follow");
            return Err(self.misshapen(reason));
        }
        let end = std::mem::replace(&mut self.end, self.taken + count as usize);
        let value = read(self)?;
        self.end()?;
        self.end = end;
        Ok(value)
    }

    /// The next word as a decimal number of at most `max` (TG-2).
    ///
    /// # Errors
    /// When it is missing, not a plain decimal number, or too large.
    pub fn number(&mut self, what: &str, max: u64) -> Result<u64, Refusal> {
        let word = self.word(what)?;
        if !word.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(self.misshapen(format!("{what} '{word}' is not a decimal number")));
        }
        match word.parse() {
            Ok(number) if number <= max => Ok(number),
            _ => refuse(format!("{what} '{word}' is too large: at most {max}")),
        }
    }

    /// The same of a number of sectors that must be whole blocks of the device in the end (LC-14).
    ///
    /// # Errors
    /// As [`Arguments::number`].
    pub fn sectors(&mut self, what: &str, max: u64) -> Result<u64, Refusal> {
        let number = self.number(what, max)?;
        self.sectors.push((number, self.last()));
        Ok(number)
    }

    /// Asserts that no word is left.
    ///
    /// # Errors
    /// Names the first word too many.
    pub fn end(&self) -> Result<(), Refusal> {
        if self.taken == self.end {
            return Ok(());
        }
        let reason = format!("'{}' is one word too many", self.words[self.taken].text);
        Err(self.misshapen(reason).at(self.taken..self.taken + 1))
    }

    /// Which word this number of sectors was taken from; the whole line, if none.
    pub(in crate::dm) fn source_of(&self, sectors: u64) -> Range<usize> {
        let source = self.sectors.iter().find(|(number, _)| *number == sectors);
        source.map_or(0..self.words.len(), |(_, word)| word.clone())
    }

    /// Where words are in the text of the line; none of them stands for what is missing behind the last.
    pub(in crate::dm) fn bytes(&self, words: Range<usize>) -> Range<usize> {
        let end = self.words[words.end - 1].bytes.end;
        match words.is_empty() {
            true => end..end,
            false => self.words[words.start].bytes.start..end,
        }
    }

    fn misshapen(&self, reason: String) -> Refusal {
        let (name, form) = self.target.unwrap_or(("type", "…"));
        let line = format!("start length {name} {form}");
        Refusal::new(reason).help(format!("a line is '{}'", line.trim_end()))
    }
}

/// Finds what is beneath a table. Any function is one that answers with `None` for names it does not know.
pub trait Resolve {
    /// The lower device of that name.
    ///
    /// # Errors
    /// There is none, or it cannot be beneath this table.
    fn resolve(&self, name: &str) -> Result<Lower, Refusal>;
}

impl<F: Fn(&str) -> Option<Lower>> Resolve for F {
    fn resolve(&self, name: &str) -> Result<Lower, Refusal> {
        self(name).ok_or_else(|| Refusal::new(format!("there is no bdev '{name}'")))
    }
}

/// What a constructor sees of the table being built.
pub struct Builder<'a> {
    /// The target's own length in sectors.
    pub sectors: u64,
    resolve: &'a dyn Resolve,
    lowers: &'a mut Vec<Lower>,
}

impl<'a> Builder<'a> {
    /// A builder for a target of `sectors`, resolving names with `resolve`, collecting distinct lower devices in `lowers`.
    pub fn new(sectors: u64, resolve: &'a dyn Resolve, lowers: &'a mut Vec<Lower>) -> Builder<'a> {
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
    ) -> Result<(ChannelIndex, u64), Refusal> {
        let name = arguments.word("the device")?;
        let lower = self.resolve.resolve(name)?;
        let device = arguments.last();
        let start = arguments.sectors("the start sector on the device", u64::MAX / 512)?;
        let block_sectors = u64::from(lower.block_bytes) / 512;
        if start
            .checked_add(sectors)
            .is_none_or(|end| end > lower.sectors)
        {
            let room = lower.sectors.saturating_sub(start);
            let reason = format!(
                "sectors {start} to {} do not fit on '{name}', which has {}",
                start.saturating_add(sectors),
                lower.sectors
            );
            return Err(Refusal::new(reason)
                .at(device.start..arguments.last().end)
                .help(format!(
                    "from {start} on there is room for {} sectors",
                    room - room % block_sectors
                )));
        }
        if start % block_sectors != 0 {
            return refuse(format!(
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
    ) -> Result<(ChannelIndex, Lower), Refusal> {
        let name = arguments.word("the device")?;
        let lower = self.resolve.resolve(name)?;
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
