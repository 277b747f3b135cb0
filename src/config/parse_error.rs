//! What the YAML parser and serde found wrong, in the operator's words.
//!
//! The parser's own messages speak to the developer ("set DuplicateKeyPolicy in Options"); its kinds of error and their places are what is used.

use serde_yaml::{Error as ParserError, UserMessageFormatter};

use super::source::{Problem, Source, Span, shown};
use crate::suggest::nearest;

/// Makes a problem of a parser's error.
pub(super) fn problem(error: &ParserError, source: &Source) -> Problem {
    let mut error = error;
    // An error inside what an alias stands for is shown where its text is.
    while let ParserError::WithSnippet { error: inner, .. }
    | ParserError::AliasError { error: inner, .. } = error
    {
        error = inner;
    }
    let span = error.location().map(Span::from_parser).unwrap_or_default();
    let span = source.inside(span);
    let written = || shown(source.text_at(span).unwrap_or_default().trim());
    let at = |message: String| Problem::at(span, message);
    match error {
        ParserError::SerdeUnknownField {
            field, expected, ..
        } => {
            let keys = backquoted(expected);
            at(format!("unknown key `{}`", shown(field))).help(
                match nearest(field, expected.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`? The keys here are {keys}"),
                    None => format!("the keys here are {keys}"),
                },
            )
        }
        ParserError::SerdeUnknownVariant {
            variant, expected, ..
        } => {
            let words = backquoted(expected);
            at(format!("`{}` is not known here", shown(variant))).help(
                match nearest(variant, expected.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`? Possible are {words}"),
                    None => format!("possible are {words}"),
                },
            )
        }
        ParserError::SerdeMissingField { field, .. } => {
            at(format!("the key `{field}` is missing here")).help(format!("add `{field}: …`"))
        }
        ParserError::DuplicateMappingKey { key, .. } => {
            let key = key.as_deref().map_or_else(written, shown);
            at(format!("the key `{key}` is given twice")).help("keep one of them")
        }
        ParserError::SerdeInvalidType { expected, .. }
        | ParserError::SerdeInvalidValue { expected, .. } => at(format!("expected {expected}")),
        ParserError::InvalidScalar { ty, .. } => match *ty {
            "u32" => at(format!("`{}` cannot stand here", written()))
                .help("a whole number that is not negative, in decimal digits"),
            _ => at(format!("`{}` cannot be read as {ty}", written())),
        },
        ParserError::InvalidBooleanStrict { .. } => {
            at(format!("`{}` is neither true nor false", written())).help("write true or false")
        }
        ParserError::NullIntoString { .. } => at("the value is missing here".to_owned()),
        ParserError::Unexpected { expected, .. } => at(format!("expected {}", in_words(expected))),
        ParserError::ExternallyTaggedEnumExpectedScalarOrMapping { .. }
        | ParserError::ExpectedStringKeyForExternallyTaggedEnum { .. } => {
            at("expected a map with one key, such as `malloc: {…}`".to_owned())
        }
        ParserError::ExpectedMappingEndAfterEnumVariantValue { .. } => {
            at("a second key in a map that has just one".to_owned())
                .help("begin each entry of the list with its own `-`")
        }
        ParserError::UnexpectedValueForUnitEnumVariant { .. } => {
            at("expected a single word here".to_owned())
        }
        ParserError::MultipleDocuments { .. } => {
            at("a second YAML document begins here".to_owned())
                .help("a configuration is one document: remove the `---`")
        }
        ParserError::Eof { .. } => at("the file ends too early".to_owned()),
        ParserError::UnknownAnchor { .. } => {
            at("this alias refers to an anchor that is not defined before it".to_owned())
        }
        ParserError::Budget { .. }
        | ParserError::AliasReplayLimitExceeded { .. }
        | ParserError::AliasExpansionLimitExceeded { .. }
        | ParserError::AliasReplayStackDepthExceeded { .. }
        | ParserError::AliasReplayCounterOverflow { .. } => too_much(span),
        // The scanner below the parser has a limit of its own, and only words for it.
        ParserError::ExternalMessage { msg, .. } if msg == "recursion limit exceeded" => {
            too_much(span)
        }
        other => at(first_line(
            &other.render_with_formatter(&UserMessageFormatter),
        )),
    }
}

fn too_much(span: Span) -> Problem {
    Problem::at(span, "the YAML is too deep or expands to too much")
        .help("no configuration needs so much nesting or so many aliases: write it out plainly")
}

/// The parser's words for a kind of node, in those of a person who writes YAML.
fn in_words(expected: &str) -> &str {
    match expected {
        "mapping start" => "a map (`key: value`) here",
        "sequence start" => "a list here",
        "string scalar" => "a single value here",
        other => other,
    }
}

/// The rendered message without the place, which is shown in our own way.
fn first_line(rendered: &str) -> String {
    let line = rendered.lines().next().unwrap_or("this is not valid YAML");
    line.rsplit_once(" at line ")
        .map_or(line, |(message, _)| message)
        .to_owned()
}

fn backquoted(words: &[&'static str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    words.join(", ")
}
