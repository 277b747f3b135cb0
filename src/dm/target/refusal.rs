//! Why a table line is refused: what is wrong, in which words, and what would be right.

use std::ops::Range;

/// Refuses a table line, for the word that was taken last.
///
/// # Errors
/// Always.
pub fn refuse<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(reason))
}

/// A table line that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong.
    pub reason: String,
    /// What would be right, where the reason leaves that open.
    pub help: Option<String>,
    /// The words at fault, by their number in the line; `None`: the one taken last.
    pub words: Option<Range<usize>>,
}

impl Refusal {
    /// For the word that was taken last.
    pub fn new(reason: impl Into<String>) -> Refusal {
        Refusal {
            reason: reason.into(),
            help: None,
            words: None,
        }
    }

    /// For these words.
    pub fn at(mut self, words: Range<usize>) -> Refusal {
        self.words = Some(words);
        self
    }

    /// Says what would be right.
    pub fn help(mut self, help: impl Into<String>) -> Refusal {
        self.help = Some(help.into());
        self
    }

    /// Says which part of the line is meant: "group 2".
    pub fn within(mut self, part: impl std::fmt::Display) -> Refusal {
        self.reason = format!("{part}: {}", self.reason);
        self
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Refusal {
        Refusal::new(reason)
    }
}
