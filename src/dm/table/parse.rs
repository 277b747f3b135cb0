//! Table text: one target a line, `start length type words…`, as dmsetup reads it.

use std::ops::Range;

use super::TableError;

/// Longest word in bytes: the core mask of a multipath path may have 287, and a name 127. What is longer would drown whatever is said of it.
const WORD_BYTES_MAX: usize = 512;

/// A word of a table line (LC-9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// What it says, without the back-slashes that quote.
    pub text: String,
    /// Where it is written, in bytes from the start of the line.
    pub bytes: Range<usize>,
}

/// One line of a table, neither blank nor a comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number in the text, from 1.
    pub number: usize,
    /// Its words, at least one.
    pub words: Vec<Word>,
}

/// Cuts a table's text into lines and words. Blank lines and lines that start with `#` are passed over.
///
/// # Errors
/// A word that no table has. So whoever takes words may show them as they are.
pub fn lines(text: &str) -> Result<Vec<Line>, TableError> {
    let mut lines = Vec::new();
    for (index, raw) in text.lines().enumerate() {
        let number = index + 1;
        if raw.trim_start().starts_with('#') {
            continue;
        }
        let words = words(raw);
        let unfit =
            |word: &&Word| word.text.len() > WORD_BYTES_MAX || word.text.contains(char::is_control);
        if let Some(word) = words.iter().find(unfit) {
            return Err(TableError {
                line: number,
                bytes: Some(word.bytes.clone()),
                reason: format!(
                    "a word of a table has at most {WORD_BYTES_MAX} bytes, and no control characters"
                ),
                ..TableError::default()
            });
        }
        if !words.is_empty() {
            lines.push(Line { number, words });
        }
    }
    Ok(lines)
}

/// Splits at white space; a back-slash takes the next character as it is (LC-9).
fn words(line: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut inside = false;
    let mut characters = line.char_indices();
    while let Some((at, character)) = characters.next() {
        let (taken, end) = match character {
            '\\' => match characters.next() {
                Some((next, quoted)) => (quoted, next + quoted.len_utf8()),
                None => ('\\', at + 1),
            },
            c if c.is_whitespace() => {
                inside = false;
                continue;
            }
            c => (c, at + c.len_utf8()),
        };
        if !inside {
            words.push(Word {
                text: String::new(),
                bytes: at..at,
            });
            inside = true;
        }
        let word = words.last_mut().expect("one was begun");
        word.text.push(taken);
        word.bytes.end = end;
    }
    words
}

/// A word as a table line would read it back: white space and back-slashes quoted.
pub fn quote(word: &str) -> String {
    let mut quoted = String::with_capacity(word.len());
    for character in word.chars() {
        if character.is_whitespace() || character == '\\' {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(line: &str) -> Vec<String> {
        words(line).into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn lc_9_backslash_quotes_the_next_character() {
        let line = r"a\ b  é\\d	e\";
        assert_eq!(texts(line), ["a b", r"é\d", r"e\"]);
        let written: Vec<_> = words(line).into_iter().map(|w| &line[w.bytes]).collect();
        assert_eq!(written, [r"a\ b", r"é\\d", r"e\"]);
    }

    #[test]
    fn comments_and_blank_lines_are_counted_but_passed_over() {
        let lines = lines("# a stripe\n\n  #\n 0 8 zero \n\\#").unwrap();
        let counted: Vec<_> = lines.iter().map(|l| (l.number, l.words.len())).collect();
        assert_eq!(counted, [(4, 3), (5, 1)]);
    }

    #[test]
    fn what_is_no_word_is_refused_before_anybody_repeats_it() {
        for word in ["x".repeat(WORD_BYTES_MAX + 1), "a\u{1b}[2J".into()] {
            let error = lines(&format!("0 8 zero\n8 8 {word} a")).unwrap_err();
            assert_eq!((error.line, error.bytes), (2, Some(4..4 + word.len())));
        }
        assert!(lines(&"x".repeat(WORD_BYTES_MAX)).is_ok());
    }

    proptest! {
        #[test]
        fn quoted_words_read_back(list in proptest::collection::vec("[^\\n\\r]{1,8}", 0..6)) {
            let text = list.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
            prop_assert_eq!(texts(&text), list);
        }
    }
}
