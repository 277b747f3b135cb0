//! Values that may be written in more than one way: sizes, lists of CPUs, lists of hosts.
//!
//! Reading them from YAML only tells the ways apart; what they mean is decided by the functions here, so that an error
//! can say what would be right and the caller can say where. That holds for a list or a map in the wrong place too: it is read
//! as a text that is refused later, because serde would report it at the place of the value before.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::source::{At, shown};

/// The largest size of a device: `off_t` ends there, and with it every file.
pub(super) const SIZE_BYTES_MAX: u64 = i64::MAX as u64;

/// What a message calls a list and a map that stand where neither can.
const LIST_SHOWN: &str = "[…]";
const MAP_SHOWN: &str = "{…}";

/// Units of a size, in bytes. Bare letters (`1G`) are refused: half the world means 2^30 by them.
const UNITS: [(&str, u64); 11] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("PiB", 1 << 50),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
];

/// A size as written: a number of bytes, or a number with a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SizeText(pub String);

impl SizeText {
    /// The size in bytes, at least 1 and at most [`SIZE_BYTES_MAX`]; or what is wrong and what would be right.
    pub fn bytes(&self) -> Result<u64, (String, String)> {
        let text = self.0.trim();
        let refuse = |why: String| {
            Err((
                why,
                "write a whole number of bytes (1073741824) or a number with a unit (1GiB, 512MiB, 10GB)"
                    .to_owned(),
            ))
        };
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim_start();
        if text.is_empty() {
            return refuse("the size is missing".to_owned());
        }
        if number.is_empty() {
            return refuse(format!("`{}` is not a size", shown(text)));
        }
        if unit.starts_with(['.', ',']) {
            return refuse(format!("the size `{}` is not a whole number", shown(text)));
        }
        let Some(factor) = unit_factor(unit) else {
            let mut refused = (
                format!(
                    "`{}` is no unit of size in `{}`",
                    shown(unit),
                    shown(text)
                ),
                "the units are KiB, MiB, GiB, TiB, PiB (powers of 1024) and kB, MB, GB, TB, PB (powers of 1000)".to_owned(),
            );
            if let Some(letter @ ('K' | 'M' | 'G' | 'T' | 'P')) =
                unit.chars().next().map(|c| c.to_ascii_uppercase())
                && unit.len() == 1
            {
                let thousand = if letter == 'K' { 'k' } else { letter };
                refused.1 = format!(
                    "write {number}{letter}iB (powers of 1024) or {number}{thousand}B (powers of 1000)"
                );
            }
            return Err(refused);
        };
        let bytes = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(factor))
            .filter(|bytes| *bytes <= SIZE_BYTES_MAX);
        match bytes {
            None => Err((
                format!("the size `{}` is too large", shown(text)),
                format!("a size is at most {SIZE_BYTES_MAX} bytes"),
            )),
            Some(0) => refuse("a size of 0 is of no use".to_owned()),
            Some(bytes) => Ok(bytes),
        }
    }
}

/// Units are told apart without regard to case: no two differ by it alone.
fn unit_factor(unit: &str) -> Option<u64> {
    if unit.is_empty() {
        return Some(1);
    }
    UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .map(|(_, factor)| *factor)
}

/// A number of bytes the way a person would write it: the largest binary unit that divides it.
pub(super) fn size_shown(bytes: u64) -> String {
    UNITS[1..=5]
        .iter()
        .rev()
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor))
        .map_or_else(
            || format!("{bytes} bytes"),
            |(name, factor)| format!("{}{name}", bytes / factor),
        )
}

impl<'de> Deserialize<'de> for SizeText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;
        impl<'de> Visitor<'de> for SizeVisitor {
            type Value = SizeText;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a size such as 4096 or 1GiB")
            }
            fn visit_u64<E>(self, bytes: u64) -> Result<SizeText, E> {
                Ok(SizeText(bytes.to_string()))
            }
            fn visit_i64<E>(self, bytes: i64) -> Result<SizeText, E> {
                Ok(SizeText(bytes.to_string()))
            }
            fn visit_u128<E>(self, bytes: u128) -> Result<SizeText, E> {
                Ok(SizeText(bytes.to_string()))
            }
            fn visit_f64<E>(self, bytes: f64) -> Result<SizeText, E> {
                // Always with its point, so that it is refused as no whole number.
                Ok(SizeText(format!("{bytes:?}")))
            }
            fn visit_str<E>(self, text: &str) -> Result<SizeText, E> {
                Ok(SizeText(text.to_owned()))
            }
            fn visit_bool<E>(self, value: bool) -> Result<SizeText, E> {
                Ok(SizeText(value.to_string()))
            }
            fn visit_unit<E>(self) -> Result<SizeText, E> {
                Ok(SizeText(String::new()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<SizeText, A::Error> {
                skip_list(list)?;
                Ok(SizeText(LIST_SHOWN.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SizeText, A::Error> {
                skip_map(map)?;
                Ok(SizeText(MAP_SHOWN.to_owned()))
            }
        }
        deserializer.deserialize_any(SizeVisitor)
    }
}

impl JsonSchema for SizeText {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A size: a number of bytes, or a number with a unit: KiB, MiB, GiB, TiB, PiB, kB, MB, GB, TB, PB.",
            "anyOf": [
                { "type": "integer", "minimum": 1, "maximum": SIZE_BYTES_MAX },
                {
                    "type": "string",
                    "pattern": "^ *[0-9]+ *([bB]|[kKmMgGtTpP][iI]?[bB])? *$",
                },
            ],
        })
    }
}

/// The CPUs for reactors, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cores {
    /// `auto`, or a string of ranges.
    Text(String),
    /// A bare number, which could mean a CPU or a count and is therefore refused.
    Number(u64),
    /// A list of CPU numbers.
    List(Vec<At<u32>>),
}

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CoresVisitor;
        impl<'de> Visitor<'de> for CoresVisitor {
            type Value = Cores;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(
                    "`auto`, a list of CPU numbers, or a string of ranges such as \"0-3,6\"",
                )
            }
            fn visit_u64<E>(self, number: u64) -> Result<Cores, E> {
                Ok(Cores::Number(number))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Cores, E> {
                Ok(Cores::Text(number.to_string()))
            }
            fn visit_f64<E>(self, number: f64) -> Result<Cores, E> {
                Ok(Cores::Text(format!("{number:?}")))
            }
            fn visit_str<E>(self, text: &str) -> Result<Cores, E> {
                Ok(Cores::Text(text.to_owned()))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Cores, E> {
                Ok(Cores::Text(value.to_string()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Cores, A::Error> {
                skip_map(map)?;
                Ok(Cores::Text(MAP_SHOWN.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Cores, A::Error> {
                Ok(Cores::List(bounded_list(&mut list)?))
            }
        }
        deserializer.deserialize_any(CoresVisitor)
    }
}

impl JsonSchema for Cores {
    fn schema_name() -> Cow<'static, str> {
        "Cores".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The CPUs that reactors are pinned to.",
            "anyOf": [
                { "const": "auto" },
                { "type": "string", "pattern": "^ *[0-9]+ *(- *[0-9]+ *)?(, *[0-9]+ *(- *[0-9]+ *)?)*$" },
                { "type": "array", "minItems": 1, "uniqueItems": true, "items": { "type": "integer", "minimum": 0 } },
            ],
        })
    }
}

/// The CPU numbers of a string of ranges such as `0-3,6`, in the order written; or what is wrong with it.
pub(super) fn cpu_ranges(text: &str, cpu_count_max: usize) -> Result<Vec<usize>, String> {
    let number = |text: &str| {
        let text = text.trim();
        let all_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse::<usize>() {
            Ok(cpu) if all_digits && cpu < cpu_count_max => Ok(cpu),
            Ok(_) if all_digits => Err(format!("there is no CPU {}", shown(text))),
            _ => Err(format!("`{}` is not a CPU number", shown(text))),
        }
    };
    let mut cpus = Vec::new();
    for part in text.split(',') {
        match part.split_once('-') {
            None => cpus.push(number(part)?),
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return Err(format!("the range {first}-{last} runs backwards"));
                }
                cpus.extend(first..=last);
            }
        }
        // Overlapping ranges are refused later; this only keeps a hostile string from growing without end.
        if cpus.len() > cpu_count_max {
            return Err("it names more CPUs than there can be".to_owned());
        }
    }
    Ok(cpus)
}

/// CPU numbers as ranges, for messages: `0-3,6`.
pub(super) fn cpus_shown(cpus: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let parts: Vec<String> = ranges
        .into_iter()
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        })
        .collect();
    parts.join(",")
}

/// The hosts that may connect, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hosts {
    /// A word; only `any` means something.
    Word(String),
    /// Host NQNs.
    List(Vec<At<String>>),
}

impl<'de> Deserialize<'de> for Hosts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HostsVisitor;
        impl<'de> Visitor<'de> for HostsVisitor {
            type Value = Hosts;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("`any` or a list of host NQNs")
            }
            fn visit_u64<E>(self, number: u64) -> Result<Hosts, E> {
                Ok(Hosts::Word(number.to_string()))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Hosts, E> {
                Ok(Hosts::Word(number.to_string()))
            }
            fn visit_str<E>(self, text: &str) -> Result<Hosts, E> {
                Ok(Hosts::Word(text.to_owned()))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Hosts, E> {
                Ok(Hosts::Word(value.to_string()))
            }
            fn visit_unit<E>(self) -> Result<Hosts, E> {
                Ok(Hosts::Word(String::new()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Hosts, A::Error> {
                skip_map(map)?;
                Ok(Hosts::Word(MAP_SHOWN.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Hosts, A::Error> {
                Ok(Hosts::List(bounded_list(&mut list)?))
            }
        }
        deserializer.deserialize_any(HostsVisitor)
    }
}

impl JsonSchema for Hosts {
    fn schema_name() -> Cow<'static, str> {
        "Hosts".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The hosts that may connect: `any`, or a list of host NQNs.",
            "anyOf": [
                { "const": "any" },
                { "type": "array", "minItems": 1, "uniqueItems": true, "items": { "type": "string", "maxLength": 223 } },
            ],
        })
    }
}

/// Longest list read by this module. The parser's own budget bounds the file; this bounds one value of it.
const LIST_LENGTH_MAX: usize = 4096;

fn bounded_list<'de, T, A>(list: &mut A) -> Result<Vec<At<T>>, A::Error>
where
    T: Deserialize<'de>,
    A: SeqAccess<'de>,
{
    let mut items = Vec::new();
    while let Some(item) = list.next_element()? {
        if items.len() == LIST_LENGTH_MAX {
            return Err(A::Error::custom(format!(
                "the list has more than {LIST_LENGTH_MAX} entries"
            )));
        }
        items.push(item);
    }
    Ok(items)
}

/// Reads over the rest of a list; the parser's budget bounds it.
fn skip_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<(), A::Error> {
    while list.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

/// Reads over the rest of a map.
fn skip_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Result<u64, String> {
        SizeText(text.to_owned())
            .bytes()
            .map_err(|(message, _)| message)
    }

    #[test]
    fn sizes_are_read_in_both_systems_of_units() {
        for (text, expected) in [
            ("4096", 4096),
            ("1B", 1),
            ("8KiB", 8192),
            ("512MiB", 512 << 20),
            ("1GiB", 1 << 30),
            ("1 gib", 1 << 30),
            ("10GB", 10_000_000_000),
            ("2kB", 2000),
            ("9223372036854775807", SIZE_BYTES_MAX),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_and_said_why() {
        for (text, part) in [
            ("", "is missing"),
            (LIST_SHOWN, "is not a size"),
            ("GiB", "is not a size"),
            ("-1", "is not a size"),
            ("1.5GiB", "not a whole number"),
            ("1G", "no unit of size"),
            ("1 GiB of RAM", "no unit of size"),
            ("0", "of no use"),
            ("0GiB", "of no use"),
            ("9223372036854775808", "too large"),
            ("99999999999999999999999", "too large"),
            ("8192PiB", "too large"),
        ] {
            let refused = bytes(text).expect_err(text);
            assert!(refused.contains(part), "{text}: {refused}");
        }
    }

    #[test]
    fn a_size_is_shown_in_its_largest_unit() {
        assert_eq!(size_shown(1 << 30), "1GiB");
        assert_eq!(size_shown(3 << 20), "3MiB");
        assert_eq!(size_shown(1000), "1000 bytes");
        assert_eq!(size_shown(0), "0 bytes");
    }

    #[test]
    fn ranges_of_cpus_are_read_and_shown() {
        assert_eq!(cpu_ranges("0-3,6", 64), Ok(vec![0, 1, 2, 3, 6]));
        assert_eq!(cpu_ranges(" 2 ", 64), Ok(vec![2]));
        assert_eq!(cpus_shown(&[0, 1, 2, 3, 6]), "0-3,6");
        for bad in [
            "",
            "a",
            "1-",
            "3-1",
            "1,,2",
            "+1",
            "0-64",
            "0-9999999999999",
        ] {
            assert!(cpu_ranges(bad, 64).is_err(), "{bad}");
        }
        let repeated = "0-63,".repeat(10_000);
        assert!(cpu_ranges(&repeated, 64).is_err());
    }
}
