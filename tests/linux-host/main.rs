//! A real Linux host against polldm: Debian's own kernel, under emulation, is the initiator.
//!
//! One guest runs every scenario; after a failed one a fresh guest is booted, so that one failure does not make
//! others. The output is in the form of cargo's own test harness.
//!
//! ```text
//! cargo test --test linux-host [-- FILTER...]
//! ```
//!
//! Environment: `POLLDM_REQUIRE_LINUX_HOST=1` makes missing prerequisites a failure (otherwise the test says why it is
//! skipped); `POLLDM_SKIP_LINUX_HOST=1` leaves it out; `POLLDM_BINARY` names the polldm to test instead of the
//! one that cargo has just built.

mod cable;
mod counts;
mod front;
mod guest;
mod image;
mod initiator;
mod inside;
mod iscsi;
mod scenarios;
mod target;
mod wait;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use guest::Guest;
use image::Image;
use scenarios::{Context, SCENARIOS, Scenario};

/// A command that the target has not answered in the host's time.
const UNANSWERED: &str = ": timeout request";

/// Parts of lines of the kernel's log that no scenario may cause: an error that reached the block layer, a file system that
/// complains, the kernel's own alarm.
const ALARMS: [&str; 10] = [
    " error, dev ",
    "I/O error",
    "Buffer I/O",
    "EXT4-fs error",
    "metadata corruption",
    "WARNING:",
    "BUG:",
    "blocked for more than",
    "nvme_tcp: error",
    UNANSWERED,
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        SCENARIOS
            .iter()
            .for_each(|scenario| println!("{}: test", scenario.name));
        return ExitCode::SUCCESS;
    }
    if arguments
        .iter()
        .any(|argument| argument == "--missing-packages")
    {
        println!("{}", image::missing_packages().join(" "));
        return ExitCode::SUCCESS;
    }
    if is_set("POLLDM_SKIP_LINUX_HOST") {
        println!("linux-host: left out: POLLDM_SKIP_LINUX_HOST is set");
        return ExitCode::SUCCESS;
    }
    // cargo's options for its own harness (--nocapture, ...) mean nothing here.
    let filters: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let chosen: Vec<&Scenario> = SCENARIOS
        .iter()
        .filter(|scenario| {
            filters.is_empty()
                || filters
                    .iter()
                    .any(|filter| scenario.name.contains(filter.as_str()))
        })
        .collect();
    let filtered_out = SCENARIOS.len() - chosen.len();
    println!("\nrunning {} tests", chosen.len());
    let (ignored, chosen): (Vec<&Scenario>, Vec<&Scenario>) = chosen
        .into_iter()
        .partition(|scenario| scenario.left_out().is_some());
    for scenario in &ignored {
        let reason = scenario.left_out().unwrap_or_default();
        println!("test {} ... ignored, {reason}", scenario.name);
    }

    let image = match prepare() {
        Ok(image) => image,
        Err(reason) if is_set("POLLDM_REQUIRE_LINUX_HOST") => {
            println!("linux-host: it is required and cannot run: {reason}");
            return ExitCode::FAILURE;
        }
        Err(reason) => {
            println!("linux-host: skipped: {reason}");
            println!(
                "\ntest result: ok. 0 passed; 0 failed; {} ignored; 0 measured; {filtered_out} filtered out\n",
                chosen.len() + ignored.len()
            );
            return ExitCode::SUCCESS;
        }
    };

    let started = Instant::now();
    let failures = match run(&image, &chosen) {
        Ok(failures) => failures,
        Err(reason) => {
            println!("linux-host: the guest cannot be started: {reason}");
            chosen.len()
        }
    };
    let passed = chosen.len() - failures;
    let verdict = if failures == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {failures} failed; {} ignored; 0 measured; {filtered_out} filtered out; \
         finished in {:.2}s\n",
        ignored.len(),
        started.elapsed().as_secs_f64()
    );
    println!("linux-host: {passed} passed, {failures} failed");
    if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Builds the guest's image; an error says what this machine lacks.
fn prepare() -> Result<Image, String> {
    let missing = image::missing_packages();
    if !missing.is_empty() {
        let packages = missing.join(", ");
        return Err(format!(
            "it needs these Debian packages: {packages} (tests/run as root installs them)"
        ));
    }
    // Beside target/tmp, so that it lives as long as the rest of the build.
    image::build(&Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("linux-host"))
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| value != "0" && !value.is_empty())
}

/// Runs the scenarios; how many failed.
fn run(image: &Image, chosen: &[&Scenario]) -> Result<usize, String> {
    let binary = std::env::var_os("POLLDM_BINARY")
        .map_or_else(|| env!("CARGO_BIN_EXE_polldm").into(), PathBuf::from);
    let directory =
        tempfile::tempdir().map_err(|e| format!("cannot make a temporary directory: {e}"))?;

    let mut guest = None;
    let mut failures = Vec::new();
    for scenario in chosen {
        let running = match guest.take() {
            Some(guest) => guest,
            None => {
                let guest = Guest::boot(image, directory.path())?;
                println!(
                    "linux-host: the guest is up after {:.1} s",
                    guest.boot_time.as_secs_f64()
                );
                // What the kernel said while booting is nobody's fault.
                guest.run("dmesg -c >/dev/null")?;
                guest
            }
        };
        let started = Instant::now();
        let outcome = run_one(
            scenario,
            &Context {
                guest: &running,
                binary: &binary,
            },
        );
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                println!("test {} ... ok", scenario.name);
                guest = Some(running);
            }
            Err(reason) => {
                println!("test {} ... FAILED", scenario.name);
                let console = running.console_tail();
                failures.push(format!(
                    "---- {} ----\n{reason}\n--- the guest's console ends\n{console}",
                    scenario.name
                ));
            }
        }
        println!("linux-host: {} took {seconds:.1} s", scenario.name);
    }
    if !failures.is_empty() {
        println!("\nfailures:\n\n{}", failures.join("\n\n"));
    }
    Ok(failures.len())
}

/// One scenario, then a look at what the guest's kernel has logged meanwhile.
fn run_one(scenario: &Scenario, context: &Context<'_>) -> Result<(), String> {
    let outcome = (scenario.run)(context);
    let log = context.guest.run("dmesg -c");
    let alarms = alarms(log.as_deref().unwrap_or_default());
    match (outcome, alarms.is_empty()) {
        (Ok(()), true) => log.map(drop),
        (Ok(()), false) => Err(format!(
            "the guest's kernel complained:\n{}",
            alarms.join("\n")
        )),
        (Err(reason), _) => Err(format!(
            "{reason}\n--- the guest's kernel log\n{}",
            log.unwrap_or_else(|e| e)
        )),
    }
}

/// The lines of a kernel log that a scenario must not cause, unless that is what it is for.
fn alarms(log: &str) -> Vec<&str> {
    log.lines()
        .filter(|line| ALARMS.iter().any(|alarm| line.contains(alarm)))
        .collect()
}
