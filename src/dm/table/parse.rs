//! Table text: one target a line, `start length type words…`, as dmsetup reads it.

use super::TableError;

/// One line of a table, cut into words (LC-9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number in the text, from 1.
    pub number: usize,
    /// First sector of the target.
    pub start: u64,
    /// Sectors of the target.
    pub sectors: u64,
    /// The target's type.
    pub target: String,
    /// The words after it.
    pub words: Vec<String>,
}

/// Cuts a table's text into lines and words. Blank lines and lines that start with `#` are passed over.
///
/// # Errors
/// Names the line and what is wrong with its first three words; the rest is the target's affair.
pub fn lines(text: &str) -> Result<Vec<Line>, TableError> {
    let mut lines = Vec::new();
    for (index, raw) in text.lines().enumerate() {
        let number = index + 1;
        let wrong = |reason: String| TableError {
            line: number,
            reason,
        };
        let mut words = words(raw).into_iter();
        let Some(start) = words.next() else { continue };
        if start.starts_with('#') {
            continue;
        }
        let start = sector(&start, "the start sector").map_err(wrong)?;
        let length = words
            .next()
            .ok_or_else(|| wrong("the length is missing".into()))?;
        let sectors = sector(&length, "the length in sectors").map_err(wrong)?;
        let target = words
            .next()
            .ok_or_else(|| wrong("the target type is missing".into()))?;
        lines.push(Line {
            number,
            start,
            sectors,
            target,
            words: words.collect(),
        });
    }
    Ok(lines)
}

fn sector(word: &str, what: &str) -> Result<u64, String> {
    match word.parse::<u64>() {
        Ok(sector) if word.bytes().all(|byte| byte.is_ascii_digit()) => Ok(sector),
        _ => Err(format!("{what} '{word}' is not a decimal number")),
    }
}

/// Splits at white space; a back-slash takes the next character as it is (LC-9).
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                let quoted = characters.next().unwrap_or('\\');
                word.get_or_insert_default().push(quoted);
            }
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
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

    #[test]
    fn lc_9_backslash_quotes_the_next_character() {
        assert_eq!(words(r"a\ b  c\\d	e\"), ["a b", r"c\d", r"e\"]);
    }

    #[test]
    fn comments_and_blank_lines_are_counted_but_passed_over() {
        let lines = lines("# a stripe\n\n 0 8 zero \n").unwrap();
        assert_eq!(lines.len(), 1);
        assert_eq!(
            (lines[0].number, lines[0].sectors, lines[0].target.as_str()),
            (3, 8, "zero")
        );
    }

    #[test]
    fn a_line_that_is_wrong_is_named() {
        for (text, reason) in [
            ("x 8 zero", "the start sector 'x' is not a decimal number"),
            (
                "0 +8 zero",
                "the length in sectors '+8' is not a decimal number",
            ),
            ("0", "the length is missing"),
            ("0 8", "the target type is missing"),
            (
                "0 99999999999999999999 zero",
                "the length in sectors '99999999999999999999' is not a decimal number",
            ),
        ] {
            assert_eq!(
                lines(text).unwrap_err(),
                TableError {
                    line: 1,
                    reason: reason.into()
                }
            );
        }
    }

    proptest! {
        #[test]
        fn quoted_words_read_back(list in proptest::collection::vec("[^\\n\\r]{1,8}", 0..6)) {
            let text = list.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
            prop_assert_eq!(words(&text), list);
        }
    }
}
