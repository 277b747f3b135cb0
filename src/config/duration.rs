//! Spans of time as people write them: 30s, 500ms, 2min.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use super::scalar::SizeText;
use super::source::shown;

/// The longest span, a year: what is meant to be longer is meant to be for ever.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// A span of time as written: a whole number with a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DurationText(String);

impl DurationText {
    /// The span; or what is wrong and what would be right.
    pub fn duration(&self) -> Result<Duration, (String, String)> {
        parse_duration(&self.0).map_err(|why| {
            let help = "write a whole number with a unit: ms, s, min or h (30s)";
            (why, help.to_owned())
        })
    }
}

/// Reads a span of time: a whole number with the unit ms, s, min or h, more than 0 and at most a year.
///
/// # Errors
/// What is wrong with it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit_ms: u64 = match unit.trim_start() {
        "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        "" if digits > 0 => return Err(format!("`{}` has no unit of time", shown(text))),
        _ => return Err(format!("`{}` is not a span of time", shown(text))),
    };
    if number.is_empty() {
        return Err(format!("`{}` is not a span of time", shown(text)));
    }
    let milliseconds = number.parse::<u64>().ok();
    match milliseconds.and_then(|number| number.checked_mul(unit_ms)) {
        Some(0) => Err("a span of 0 is of no use".into()),
        Some(ms) if Duration::from_millis(ms) <= DURATION_MAX => Ok(Duration::from_millis(ms)),
        _ => Err(format!("`{}` is more than a year", shown(text))),
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DurationText, D::Error> {
        // Whatever is there, as text: what is wrong with it is told by `duration`, with what would be right.
        SizeText::deserialize(deserializer).map(|text| DurationText(text.0))
    }
}

impl JsonSchema for DurationText {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A span of time: a whole number with a unit: ms, s, min, h.",
            "type": "string",
            "pattern": "^ *[0-9]+ *(ms|s|min|h) *$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_what_is_none_is_refused() {
        for (text, ms) in [
            ("1ms", 1),
            ("30s", 30_000),
            (" 2 min ", 120_000),
            ("1h", 3_600_000),
            ("8760h", 31_536_000_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for (text, part) in [
            ("", "not a span"),
            ("s", "not a span"),
            ("30", "no unit"),
            ("1.5s", "not a span"),
            ("-1s", "not a span"),
            ("30 seconds", "not a span"),
            ("0s", "no use"),
            ("8761h", "a year"),
            ("99999999999999999999s", "a year"),
        ] {
            let refused = parse_duration(text).expect_err(text);
            assert!(refused.contains(part), "{text}: {refused}");
        }
    }
}
