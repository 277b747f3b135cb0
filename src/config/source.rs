//! Where something stands in a configuration, and the one way of saying what is wrong there.
//!
//! Everything the configuration refuses becomes a [`Problem`] (what, where, what would be right) and is
//! rendered once, here, against the [`Source`] text. Errors of the YAML parser take the same road, so the operator
//! sees one form whether a bracket or a bdev is missing. The renderer is the one the YAML parser itself uses: it
//! knows about wide characters, tabs and lines too long for a terminal.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer};

use crate::dm::TableError;

/// Longest piece of the operator's own text that a message repeats; the snippet below it shows the rest.
const QUOTED_CHARS_MAX: usize = 64;

/// A stretch of one line of the configuration, counted in characters as editors do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// Line, from 1. Zero: somewhere in the file, not known where.
    pub line: u32,
    /// Column of the first character, from 1.
    pub column: u32,
    /// Number of characters; what reaches past the end of the line is not shown.
    pub chars: u32,
}

impl Span {
    /// From the YAML parser's location.
    pub(super) fn from_parser(location: serde_yaml::Location) -> Self {
        let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Self {
            line: narrow(location.line()),
            column: narrow(location.column()),
            chars: narrow(location.span().len()),
        }
    }

    /// The same place, at most `chars` characters long.
    fn starting_with(self, chars: usize) -> Self {
        Self {
            chars: u32::try_from(chars).unwrap_or(u32::MAX),
            ..self
        }
    }
}

/// A value of the configuration together with the place it was written at.
///
/// A value that comes through a YAML alias stands where the alias is; see [`At::defined`] for where its text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it is used.
    pub span: Span,
    /// Where its text is written; differs from `span` only when a YAML alias or merge key brought it here.
    pub defined: Span,
}

impl<T> At<T> {
    /// The same place, another value.
    pub fn with<U>(&self, value: U) -> At<U> {
        At {
            value,
            span: self.span,
            defined: self.defined,
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = serde_yaml::Spanned::<T>::deserialize(deserializer)?;
        Ok(Self {
            value: spanned.value,
            span: Span::from_parser(spanned.referenced),
            defined: Span::from_parser(spanned.defined),
        })
    }
}

/// In the schema a place is invisible.
impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// The text of a configuration and the name it goes by in messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    name: String,
    text: String,
}

impl Source {
    /// `name` is what messages call it, usually the path; `text` is the whole of it.
    pub fn new(name: &str, text: &str) -> Self {
        // A byte order mark is no part of the text: with it, every column of line 1 would be off by one.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self {
            name: without_control_characters(name).collect(),
            text: text.to_owned(),
        }
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole text, without a byte order mark.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// One line, counted from 1, without its line end.
    pub(super) fn line(&self, line: u32) -> Option<&str> {
        let index = usize::try_from(line).ok()?.checked_sub(1)?;
        self.text.lines().nth(index)
    }

    /// The span, or the end of the last line that is not blank when it lies behind that: where the parser says something is
    /// missing at the end, the operator wants to see what it is missing after.
    pub(super) fn inside(&self, span: Span) -> Span {
        let last = self
            .text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
            .last();
        match last.map(|(index, line)| (u32::try_from(index + 1), line.trim_end().chars().count()))
        {
            Some((Ok(line), chars)) if span.line > line => Span {
                line,
                column: u32::try_from(chars).unwrap_or(u32::MAX),
                chars: 1,
            },
            _ => span,
        }
    }

    /// The text at a span, up to the end of its line.
    pub(super) fn text_at(&self, span: Span) -> Option<&str> {
        let range = self.byte_range(span)?;
        self.text.get(range)
    }

    /// What the device mapper has against a table, at its place in the file.
    pub(super) fn table_problem(&self, table: &At<String>, error: TableError) -> Problem {
        let line_index = error.line.saturating_sub(1);
        let problem = Problem::at(
            self.span_in_scalar(table, line_index, error.bytes),
            error.reason,
        );
        match error.help {
            Some(help) => problem.help(help),
            None => problem,
        }
    }

    /// Where line `line_index` (from 0) of a multi-line scalar stands in the file; `bytes` narrows it to a part of that line.
    ///
    /// A literal block (`|`) has one line of the file for each of its own; in other styles lines are folded or escaped,
    /// so what cannot be found literally falls back to the start of the scalar.
    fn span_in_scalar(
        &self,
        scalar: &At<String>,
        line_index: usize,
        bytes: Option<Range<usize>>,
    ) -> Span {
        // The parser places a block scalar at its first line that is not blank.
        let blank_lines = scalar
            .value
            .split('\n')
            .take_while(|line| line.is_empty())
            .count();
        let found = || -> Option<Span> {
            let below = u32::try_from(line_index.checked_sub(blank_lines)?).ok()?;
            let content = scalar.value.split('\n').nth(line_index)?;
            let line = scalar.defined.line.checked_add(below)?;
            let written = self.line(line)?;
            // Only the first line of a plain or quoted scalar shares its line with other things.
            let from = match below {
                0 => char_to_byte(written, scalar.defined.column)?,
                _ => 0,
            };
            let at = from + written.get(from..)?.find(content.trim())?;
            let (start, text) = match bytes.clone() {
                None => (at, content.trim()),
                Some(bytes) => {
                    let indentation = content.len() - content.trim_start().len();
                    let start = bytes.start.checked_sub(indentation)?;
                    (at + start, content.get(bytes)?)
                }
            };
            let before = written.get(..start)?.chars().count();
            Some(Span {
                line,
                column: u32::try_from(before + 1).ok()?,
                chars: u32::try_from(text.chars().count()).ok()?,
            })
        };
        found().unwrap_or_else(|| scalar.defined.starting_with(1))
    }

    /// The span as bytes of the whole text, cut at the end of the line; `None` when there is no such place.
    fn byte_range(&self, span: Span) -> Option<Range<usize>> {
        let line = self.line(span.line)?;
        let line_start = line.as_ptr() as usize - self.text.as_ptr() as usize;
        let from = char_to_byte(line, span.column)?;
        let rest = &line[from..];
        let length = rest
            .char_indices()
            .nth(span.chars.max(1) as usize)
            .map_or(rest.len(), |(at, _)| at);
        Some(line_start + from..line_start + from + length)
    }

    /// Renders a problem in this text.
    pub(super) fn error(&self, problem: Problem) -> Error {
        let position = problem
            .span
            .filter(|span| span.line > 0)
            .map(|span| (span.line, span.column));
        let rendered = self.render(&problem);
        Error(Box::new(ErrorParts {
            source_name: self.name.clone(),
            position,
            message: problem.message,
            help: problem.help,
            rendered,
        }))
    }

    fn render(&self, problem: &Problem) -> String {
        let title = Level::ERROR.primary_title(problem.message.as_str());
        let primary = problem.span.and_then(|span| self.byte_range(span));
        let help = problem
            .help
            .as_deref()
            .map(|help| Level::HELP.message(help));
        let report = match primary {
            Some(primary) => {
                let mut snippet = Snippet::source(self.text.as_str())
                    .path(self.name.as_str())
                    .fold(true)
                    .annotation(AnnotationKind::Primary.span(primary));
                if let Some((span, label)) = &problem.related
                    && let Some(range) = self.byte_range(*span)
                {
                    snippet = snippet
                        .annotation(AnnotationKind::Context.span(range).label(label.as_str()));
                }
                title.element(snippet).elements(help)
            }
            None => {
                let position = match problem.span {
                    Some(span) if span.line > 0 => format!(":{}:{}", span.line, span.column),
                    _ => String::new(),
                };
                let origin = format!("{}{position}", self.name);
                title
                    .element(annotate_snippets::Origin::path(origin))
                    .elements(help)
            }
        };
        // Plain: the text goes to logs and tests as well as to terminals.
        Renderer::plain()
            .decor_style(DecorStyle::Ascii)
            .render(&[report])
            // The renderer makes the control characters of ASCII visible, but not those of Unicode (C1).
            .split('\n')
            .map(|line| without_control_characters(line).collect())
            .collect::<Vec<String>>()
            .join("\n")
    }
}

/// Byte offset of the character at `column` (from 1); the end of the line counts as a place.
fn char_to_byte(line: &str, column: u32) -> Option<usize> {
    let index = usize::try_from(column).ok()?.checked_sub(1)?;
    line.char_indices()
        .map(|(at, _)| at)
        .chain([line.len()])
        .nth(index)
}

/// What is wrong, where, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    message: String,
    span: Option<Span>,
    related: Option<(Span, String)>,
    help: Option<String>,
}

impl Problem {
    /// A problem with the configuration as a whole.
    pub fn whole(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            span: None,
            related: None,
            help: None,
        }
    }

    /// A problem at one place.
    pub fn at(span: Span, message: impl Into<String>) -> Self {
        Self {
            span: Some(span),
            ..Self::whole(message)
        }
    }

    /// What would be right.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// A second place that has to do with it.
    pub fn related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related = Some((span, label.into()));
        self
    }
}

/// Why a configuration was refused: one problem, rendered with the file, line, column, snippet, and what would be
/// right. Its `Display` is the whole text, several lines, without a line end at the end.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(Box<ErrorParts>);

/// Boxed, so that a `Result` of the configuration stays small.
#[derive(Clone, PartialEq, Eq)]
struct ErrorParts {
    source_name: String,
    position: Option<(u32, u32)>,
    message: String,
    help: Option<String>,
    rendered: String,
}

impl Error {
    /// The file, or the name given to [`super::parse`].
    pub fn source_name(&self) -> &str {
        &self.0.source_name
    }

    /// Line and column, both from 1; `None` when the problem is with the file as a whole.
    pub fn position(&self) -> Option<(u32, u32)> {
        self.0.position
    }

    /// What is wrong, one line.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What would be right, where there is something to say.
    pub fn help(&self) -> Option<&str> {
        self.0.help.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.rendered)
    }
}

/// As `Display`: whoever unwraps in a test wants to read it.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.rendered)
    }
}

impl std::error::Error for Error {}

/// Control characters could play tricks on the terminal the message is shown on.
fn without_control_characters(text: &str) -> impl Iterator<Item = char> {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
}

/// The operator's text inside a message: without control characters, and cut when long.
pub(super) fn shown(text: &str) -> String {
    let mut characters = without_control_characters(text);
    let mut quoted: String = characters.by_ref().take(QUOTED_CHARS_MAX).collect();
    if characters.next().is_some() {
        quoted.push('…');
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_shown_with_its_line_a_caret_and_help() {
        let source = Source::new("a.yaml", "one: 1\ntwo: éé\n");
        let span = Span {
            line: 2,
            column: 6,
            chars: 2,
        };
        let error = source.error(Problem::at(span, "too many accents").help("use none"));
        assert_eq!(
            error.to_string(),
            "error: too many accents\n --> a.yaml:2:6\n  |\n2 | two: éé\n  |      ^^\n  |\n  = help: use none"
        );
        assert_eq!(error.position(), Some((2, 6)));
    }

    #[test]
    fn a_place_that_does_not_exist_is_still_reported() {
        let source = Source::new("a.yaml", "one: 1\n");
        let span = Span {
            line: 99,
            column: 3,
            chars: 2,
        };
        let text = source.error(Problem::at(span, "lost")).to_string();
        assert!(
            text.contains("lost") && text.contains("a.yaml:99:3"),
            "{text}"
        );
    }

    #[test]
    fn terminal_escapes_in_the_text_are_not_passed_on() {
        let source = Source::new("a\u{1b}.yaml", "one: \u{1b}[31m\u{9b}31m\n");
        let span = Span {
            line: 1,
            column: 6,
            chars: 2,
        };
        let text = source
            .error(Problem::at(span, format!("`{}`", shown("\u{1b}[2J"))))
            .to_string();
        assert!(!text.contains(['\u{1b}', '\u{9b}']), "{text:?}");
    }

    #[test]
    fn a_very_long_line_is_cut() {
        let source = Source::new("a.yaml", &"x".repeat(100_000));
        let span = Span {
            line: 1,
            column: 50_000,
            chars: 3,
        };
        let text = source.error(Problem::at(span, "here")).to_string();
        assert!(text.len() < 1_000, "{} bytes", text.len());
    }
}
