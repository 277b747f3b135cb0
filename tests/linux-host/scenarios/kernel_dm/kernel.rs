//! The guest kernel's device mapper, over loop devices: a story becomes one script, in which dmsetup carries out the verbs.

use super::super::Context;
use super::story::Story;
use super::{LOWER_MIB, LOWERS};
use crate::guest::Job;

/// What the C library, or dmsetup, calls the errors that there may be.
const ERRORS: [(&str, &str); 9] = [
    ("Device or resource busy", "EBUSY"),
    ("Invalid argument", "EINVAL"),
    ("No such device or address", "ENXIO"),
    ("Device does not exist", "ENXIO"),
    ("No such file or directory", "ENOENT"),
    ("Input/output error", "EIO"),
    ("Numerical result out of range", "ERANGE"),
    ("No such device", "ENODEV"),
    ("invalid. It contains", "EINVAL"),
];

/// Major number of loop devices; minors count from 0.
const LOOP_MAJOR: u32 = 7;

/// Begins the lines of the output that are not dmsetup's: `@begin STEP` and `@end STATUS`.
const MARK: char = '@';

/// A story that is being told to the kernel.
pub struct Telling<'a> {
    job: Job<'a>,
}

/// Begins to tell the story to the kernel.
pub fn start<'a>(context: &Context<'a>, story: &Story) -> Result<Telling<'a>, String> {
    let guest = context.guest;
    let mut script = String::from("set -e\n");
    for (index, name) in LOWERS.iter().enumerate() {
        script += &format!(
            "truncate -s {LOWER_MIB}M /tmp/lower.{name}\nlosetup /dev/loop{index} /tmp/lower.{name}\n"
        );
    }
    script += "set +e\n";
    for (number, step) in story.steps.iter().enumerate() {
        let commands = match step.words[0].as_str() {
            // Nobody makes names in /dev/mapper here; this one is the kernel's own, and stays through a rename.
            "open" => format!(
                "device=/dev/dm-$(dmsetup info -c --noheadings -o minor {}); sleep 3600 <$device & holder=$!",
                step.words[1]
            ),
            "close" => "kill $holder; wait $holder 2>/dev/null; true".to_owned(),
            way @ ("read" | "write" | "flush") => {
                let block = step.words.get(1).map_or("0", String::as_str);
                format!(
                    "start_probe {number} {way} $device {block}; outcome=$(probe_outcome {number}); echo $outcome
                    [ \"$outcome\" != waits ] || waiting=\"$waiting {number}\""
                )
            }
            "settle" => "for id in $waiting; do probe_end $id; done; waiting=".to_owned(),
            _ => dmsetup(&step.words),
        };
        script +=
            &format!("tell {number}\necho '{MARK}begin {number}'\n{commands}\necho {MARK}end $?\n");
    }
    script += "set -e\n";
    for (index, name) in LOWERS.iter().enumerate() {
        script += &format!("losetup -d /dev/loop{index}\nrm /tmp/lower.{name}\n");
    }
    script += "dmsetup ls | grep -q 'No devices found' || fail 'the story leaves devices behind'\n";

    Ok(Telling {
        job: guest.start(&script)?,
    })
}

impl Telling<'_> {
    /// Waits for the end: what each step brought.
    pub fn outcomes(mut self, story: &Story) -> Result<Vec<String>, String> {
        // A limit for each step, not for all of them.
        for _ in &story.steps {
            self.job.event()?;
        }
        outcomes(story, &self.job.succeed()?)
    }
}

/// The command for a verb. dmsetup takes tables of several lines by its standard input only.
fn dmsetup(words: &[String]) -> String {
    let mut command = "dmsetup".to_owned();
    let mut table = None;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--table" => table = words.next().map(|table| with_numbers(table)),
            word => command += &format!(" '{}'", with_numbers(word)),
        }
    }
    match table {
        Some(table) => format!("printf '%s\\n' '{table}' | {command}"),
        None => command,
    }
}

/// What is between the marks of each step, as it is compared.
fn outcomes(story: &Story, output: &str) -> Result<Vec<String>, String> {
    let mut outcomes = Vec::new();
    let mut text = String::new();
    let mut steps = story.steps.iter();
    for line in output.lines() {
        match line
            .strip_prefix(MARK)
            .and_then(|line| line.split_once(' '))
        {
            Some(("begin", _)) => text.clear(),
            Some(("end", status)) => {
                let step = steps.next().ok_or("there are more outcomes than steps")?;
                let error = ERRORS.iter().find(|error| text.contains(error.0));
                outcomes.push(match error.filter(|_| status != "0") {
                    Some(error) => error.1.to_owned(),
                    None => step.shown(&with_names(&text)),
                });
            }
            Some(_) => return Err(format!("a mark that is none: {line}")),
            None => {
                text += line;
                text.push('\n');
            }
        }
    }
    Ok(outcomes)
}

/// A word of a story as the kernel takes it: `{a}` is `7:0`.
fn with_numbers(word: &str) -> String {
    (0..)
        .zip(LOWERS)
        .fold(word.to_owned(), |word, (minor, lower): (u32, _)| {
            word.replace(&format!("{{{lower}}}"), &format!("{LOOP_MAJOR}:{minor}"))
        })
}

/// What dmsetup printed, with the lower devices' names.
fn with_names(text: &str) -> String {
    (0..)
        .zip(LOWERS)
        .fold(text.to_owned(), |text, (minor, lower): (u32, _)| {
            text.replace(&format!("{LOOP_MAJOR}:{minor}"), lower)
                .replace(&format!("{LOOP_MAJOR}, {minor}"), lower)
        })
}
