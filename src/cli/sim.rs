//! `polldm sim`: is there an order of events in which the mapper does something wrong?

use std::io::{self, IsTerminal as _, Write as _};
use std::num::NonZero;
use std::thread;

use clap::Args;

use super::{Failure, NoSocket, print};
use crate::dm::Defect;
use crate::sim::plan::Plan;
use crate::sim::plant::{SEEDS_MAX, look_for};
use crate::sim::run::Conduct;
use crate::sim::{Progress, Shrunk, Summary, explore, replay, shrink};

const EXAMPLES: &str = "\
Examples:
  polldm sim                             try 2000 seeds
  polldm sim --seeds 1000000 --first-seed 20000
  polldm sim --seed 17                   what happens in seed 17, line by line
  polldm sim --prove                     would it find the defects it should?
  polldm sim --plant wake-up-lost        what does that look like?

What is simulated is the mapper itself, as 'polldm serve' runs it, on several
cores with hosts, operators and failing disks around it; only time, messages
and disks are not real. The same seed does the same on every machine with the
same version of polldm. What fails is made as short as it can be and printed,
with the command that shows it again. docs/simulation.md says what is checked.";

/// Run the device mapper in a simulated world, and look for what it does wrong
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Sim {
    /// How many seeds to try, one after another
    #[arg(long, value_name = "N", default_value_t = 2000)]
    seeds: u64,
    /// The first of them
    #[arg(long, value_name = "S", default_value_t = 0)]
    first_seed: u64,
    /// Carry out this seed alone, and print all that happens
    #[arg(long, value_name = "S", conflicts_with_all = ["seeds", "first_seed", "prove"])]
    seed: Option<u64>,
    /// Simulate C cores, 1 to 16, whatever the seed says
    #[arg(long, value_name = "C", value_parser = clap::value_parser!(u16).range(1..=16))]
    cores: Option<u16>,
    /// Of the seed's actions do only these, as in 0-4,7
    #[arg(long, value_name = "LIST", requires = "seed", value_parser = parse_only)]
    only: Option<Only>,
    /// Let the scheduler take another way than the seed's own
    #[arg(long, value_name = "K", requires = "seed")]
    schedule: Option<u64>,
    /// Plant a defect into the mapper; an unknown name lists them all
    #[arg(long, value_name = "DEFECT", value_parser = parse_defect)]
    plant: Option<Defect>,
    /// Plant every known defect in turn, and look for it
    #[arg(long, conflicts_with_all = ["seeds", "first_seed", "plant", "cores"])]
    prove: bool,
    /// Simulate on T processors at once; all of them by default
    #[arg(long, value_name = "T")]
    threads: Option<NonZero<u16>>,
    #[command(flatten)]
    _no_socket: NoSocket,
}

/// Numbers of actions, in ascending order.
#[derive(Clone, Debug)]
struct Only(Vec<usize>);

/// Runs it; that nothing was found, or with `--prove` everything, is its success.
pub(super) fn run(sim: &Sim) -> Result<(), Failure> {
    let threads = sim.threads.map_or_else(
        || thread::available_parallelism().map_or(1, NonZero::get),
        |threads| usize::from(threads.get()),
    );
    if sim.prove {
        return prove(threads);
    }
    let conduct = Conduct {
        cores: sim.cores,
        only: sim.only.as_ref().map(|only| only.0.clone()),
        schedule: sim.schedule,
        defect: sim.plant,
    };
    match sim.seed {
        Some(seed) => show(seed, &conduct),
        None => try_seeds(sim, &conduct, threads),
    }
}

fn try_seeds(sim: &Sim, conduct: &Conduct, threads: usize) -> Result<(), Failure> {
    let end = sim.first_seed.checked_add(sim.seeds).ok_or_else(|| {
        Failure::Usage(format!(
            "seeds end at {}: there are not {} of them from {}",
            u64::MAX,
            sim.seeds,
            sim.first_seed
        ))
    })?;
    let terminal = io::stderr().is_terminal();
    let tell = |progress: Progress| {
        if terminal {
            let (done, seconds) = (progress.schedules, progress.elapsed.as_secs());
            // Nobody is left to tell when that fails.
            let _ = write!(
                io::stderr(),
                "\r{done} of {} schedules, {seconds} s ",
                sim.seeds
            );
        }
    };
    let summary = explore(sim.first_seed..end, conduct, threads, tell);
    if terminal {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    let Some(failure) = &summary.failure else {
        return print(&format!(
            "{}: nothing found\n",
            in_words(&summary, sim.first_seed)
        ));
    };
    let shrunk = shrink(&Plan::new(failure.seed), conduct, failure);
    let text = format!(
        "{}\n\nseed {} fails: {}\n\nthe shortest way there that was found, in {} attempts:\n\n{}\n\nseen again by\n  {}\n",
        in_words(&summary, sim.first_seed),
        failure.seed,
        failure.reason,
        shrunk.attempts,
        story(&shrunk),
        command(failure.seed, &shrunk.conduct),
    );
    print(&text)?;
    Err(Failure::Operation(format!(
        "seed {} fails; its trace is above",
        failure.seed
    )))
}

fn in_words(summary: &Summary, first: u64) -> String {
    let Summary {
        schedules,
        tally,
        elapsed,
        ..
    } = summary;
    let seconds = elapsed.as_secs_f64();
    format!(
        "{schedules} schedules from seed {first} in {seconds:.1} s: {:.0} per second, with {} steps and {} I/Os",
        *schedules as f64 / seconds.max(f64::MIN_POSITIVE),
        tally.steps,
        tally.originals
    )
}

/// Carries out one seed.
fn show(seed: u64, conduct: &Conduct) -> Result<(), Failure> {
    let (result, lines) = replay(seed, conduct);
    print(&format!("{}\n", lines.join("\n")))?;
    match result {
        Ok(tally) => print(&format!(
            "seed {seed}: {} steps, {} I/Os: nothing found\n",
            tally.steps, tally.originals
        )),
        Err(failure) => Err(Failure::Operation(format!(
            "seed {seed} fails: {}",
            failure.reason
        ))),
    }
}

/// Looks for each of the known defects.
fn prove(threads: usize) -> Result<(), Failure> {
    let mut missed = Vec::new();
    for defect in Defect::ALL {
        let summary = look_for(*defect, threads);
        let name = defect.name();
        let found = match &summary.failure {
            Some(failure) => {
                let reason = failure.reason.lines().next().unwrap_or_default();
                format!("seed {:<4} {reason}", failure.seed)
            }
            None => {
                missed.push(name);
                format!("not found in {SEEDS_MAX} seeds: {}", defect.what())
            }
        };
        print(&format!("{name:<26} {found}\n"))?;
    }
    let count = Defect::ALL.len();
    if missed.is_empty() {
        return print(&format!("all {count} planted defects found\n"));
    }
    Err(Failure::Operation(format!(
        "{} of {count} planted defects were not found: {}",
        missed.len(),
        missed.join(", ")
    )))
}

fn story(shrunk: &Shrunk) -> String {
    format!("{}\n\n{}", shrunk.lines.join("\n"), shrunk.failure.reason)
}

/// The command that carries out a seed in the same way.
fn command(seed: u64, conduct: &Conduct) -> String {
    let Conduct {
        cores,
        only,
        schedule,
        defect,
    } = conduct;
    let mut text = format!("polldm sim --seed {seed}");
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!(" --{name} {value}"));
        }
    };
    add("cores", cores.map(|cores| cores.to_string()));
    add("only", only.as_deref().map(only_in_words));
    add("schedule", schedule.map(|schedule| schedule.to_string()));
    add("plant", defect.map(|defect| defect.name().into()));
    text
}

/// Numbers as `0-4,7`.
fn only_in_words(numbers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => runs.push((*number, *number)),
        }
    }
    let words = runs.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    words.collect::<Vec<_>>().join(",")
}

/// More actions than any plan has.
const ACTIONS_MAX: usize = 10_000;

fn parse_only(text: &str) -> Result<Only, String> {
    let number = |word: &str| match word.parse::<usize>() {
        Ok(number) if number < ACTIONS_MAX => Ok(number),
        _ => Err(format!(
            "'{word}' is not the number of an action: write 0-4,7"
        )),
    };
    let mut numbers = Vec::new();
    for word in text.split(',') {
        match word.split_once('-') {
            Some((first, last)) => numbers.extend(number(first)?..=number(last)?),
            None => numbers.push(number(word)?),
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(Only(numbers))
}

fn parse_defect(text: &str) -> Result<Defect, String> {
    let known = Defect::ALL.iter().find(|defect| defect.name() == text);
    known.copied().ok_or_else(|| {
        let lines = Defect::ALL.iter().map(|defect| {
            format!(
                "\n  {:<26} {} ({})",
                defect.name(),
                defect.what(),
                defect.id()
            )
        });
        format!("no such defect; there are{}", lines.collect::<String>())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_actions_are_read_as_they_are_written() {
        for text in ["0", "0-4,7", "3,5-6,9999"] {
            assert_eq!(only_in_words(&parse_only(text).unwrap().0), text);
        }
        assert_eq!(only_in_words(&parse_only("4,1-2,2-3").unwrap().0), "1-4");
        for text in ["", "a", "1-", "10000", "-3"] {
            assert!(parse_only(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_command_of_a_shortened_run_names_all_that_it_takes() {
        let conduct = Conduct {
            cores: Some(2),
            only: Some(vec![0, 1, 2, 9]),
            schedule: Some(5),
            defect: Some(Defect::WakeUpLost),
        };
        assert_eq!(
            command(7, &conduct),
            "polldm sim --seed 7 --cores 2 --only 0-2,9 --schedule 5 --plant wake-up-lost"
        );
        assert_eq!(command(7, &Conduct::default()), "polldm sim --seed 7");
    }
}
