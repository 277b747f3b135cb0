//! polldm, over memory; the program that opens a device is a host that it is exported to.

use super::super::Context;
use super::story::Story;
use super::{LOWER_MIB, LOWERS};
use crate::guest::{Guest, Job};
use crate::initiator::Connection;
use crate::target::{Backing, Target, Volume};
use crate::wait::wait_until;
use std::time::Duration;

/// Where devices under test are exported; the first namespace is of a device that no story knows.
const NSID: u32 = 2;

/// How long an I/O may take to end or to be seen waiting.
const IO_LIMIT: Duration = Duration::from_secs(60);

/// Tells the story to polldm: what each step brought.
pub fn tell(context: &Context<'_>, story: &Story) -> Result<Vec<String>, String> {
    let mut polldm = Polldm::start(context)?;
    let mut outcomes = Vec::new();
    for step in &story.steps {
        let outcome = match step.words[0].as_str() {
            "open" => polldm.open(&step.words[1]),
            "close" => polldm.close(),
            "read" | "write" | "flush" => polldm.io(&step.words),
            "settle" => polldm.settle(),
            _ => polldm.verb(&step.words),
        };
        let outcome = outcome.map_err(|e| format!("{}: {e}", step.place))?;
        outcomes.push(step.shown(&outcome));
    }
    polldm.end()?;
    Ok(outcomes)
}

/// `polldm dm`, and a host over NVMe/TCP.
struct Polldm<'a> {
    guest: &'a Guest,
    target: Target,
    connection: Connection<'a>,
    name: String,
    block_device: String,
    waiting: Vec<Job<'a>>,
}

impl<'a> Polldm<'a> {
    /// Starts a target with the lower devices.
    fn start(context: &Context<'a>) -> Result<Polldm<'a>, String> {
        let target = context.target(
            "story",
            &[Volume::new("unused", Backing::Malloc, 512, LOWER_MIB)],
        )?;
        let size = format!("size={LOWER_MIB}MiB");
        for lower in LOWERS {
            let name = format!("name={lower}");
            target.command(&["bdev", "add", "malloc", &name, &size, "block_size=512"])?;
        }
        Ok(Polldm {
            guest: context.guest,
            connection: context.connect(&target, "")?,
            target,
            name: String::new(),
            block_device: String::new(),
            waiting: Vec::new(),
        })
    }

    /// How many I/Os of the device wait, wherever that is.
    fn waiting(&self) -> Result<u64, String> {
        let counts = self.target.counts(&self.name)?;
        Ok(counts.held + counts.parked)
    }

    /// A verb of dmsetup's with its words: what it prints, or the name of the error.
    fn verb(&mut self, words: &[String]) -> Result<String, String> {
        let words: Vec<String> = words
            .iter()
            .map(|word| {
                LOWERS.iter().fold(word.clone(), |word, lower| {
                    word.replace(&format!("{{{lower}}}"), lower)
                })
            })
            .collect();
        let command: Vec<&str> = ["dm"]
            .into_iter()
            .chain(words.iter().map(String::as_str))
            .collect();
        let refusal = match self.target.command(&command) {
            Ok(output) => {
                if words[0] == "rename" && words[1] == self.name {
                    self.name = words[2].clone();
                }
                return Ok(output);
            }
            Err(refusal) => refusal,
        };
        // `… (EINVAL)`; what has no number is shown as it is.
        let errno = refusal
            .rsplit_once('(')
            .and_then(|(_, end)| end.trim().strip_suffix(')'))
            .filter(|name| {
                name.starts_with('E') && name.chars().all(|letter| letter.is_ascii_uppercase())
            });
        Ok(errno.unwrap_or(&refusal).to_owned())
    }

    /// A host finds the device, and has it open.
    fn open(&mut self, device: &str) -> Result<String, String> {
        device.clone_into(&mut self.name);
        let nsid = NSID.to_string();
        let nqn = self.target.nqn.clone();
        self.target.command(&[
            "export", "add-ns", &nqn, "--nsid", &nsid, "--device", device,
        ])?;
        self.block_device = self.connection.device(NSID)?;
        Ok(String::new())
    }

    /// It is taken away from the host.
    fn close(&mut self) -> Result<String, String> {
        let nsid = NSID.to_string();
        let nqn = self.target.nqn.clone();
        self.target
            .command(&["export", "remove-ns", &nqn, "--nsid", &nsid])?;
        self.guest
            .run(&format!(
                "gone() {{ ! find_device {nqn} {NSID}; }}\nawait 60 gone >/dev/null"
            ))
            .map(|_| String::new())
    }

    /// One I/O of a program: how it ended, or `waits`. The words are read, write or flush, and the block of 4 KiB.
    fn io(&mut self, words: &[String]) -> Result<String, String> {
        let before = self.waiting()?;
        let block = words.get(1).map_or("0", String::as_str);
        let mut job = self.guest.start(&format!(
            "start_probe polldm.$job {} {} {block}\ntell $(probe_end polldm.$job)",
            words[0], self.block_device
        ))?;
        let mut outcome = None;
        wait_until(IO_LIMIT, || {
            outcome = job.events_so_far()?.pop();
            Ok(outcome.is_some() || self.waiting()? > before)
        })?;
        Ok(outcome.unwrap_or_else(|| {
            self.waiting.push(job);
            "waits".into()
        }))
    }

    /// Waits for the end of I/O that waited: how each ended, in the order it was started.
    fn settle(&mut self) -> Result<String, String> {
        let mut outcomes = Vec::new();
        for mut job in std::mem::take(&mut self.waiting) {
            outcomes.push(job.event()?);
        }
        Ok(outcomes.join("\n"))
    }

    /// Stops it; nothing may be left of the story.
    fn end(mut self) -> Result<(), String> {
        let left = self
            .target
            .command(&["dm", "info", "-c", "--noheadings", "-o", "name"])?;
        if left.trim() != "unused" {
            return Err(format!("the story leaves devices behind: {left}"));
        }
        self.connection.close()?;
        self.target.terminate()
    }
}
