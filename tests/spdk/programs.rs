//! SPDK's own programs.
//!
//! They are looked for in the directories of `POLLDM_SPDK_TOOLS`, which have colons between them, then below `SPDK_DIR`, then where pkg-config finds
//! SPDK: it installs some of them and leaves others where it was built. What is missing is said in one line.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use polldm::reactor::available_cpus;

/// Where below the directory of a build its programs are.
const BELOW_A_BUILD: [&str; 4] = ["bin", "build/bin", "build/examples", "test/bdev/bdevio"];

/// Memory for a program, in mebibytes, without hugepages.
pub const MEMORY_MIB: &str = "512";

/// Where SPDK's libraries are, as pkg-config knows it.
fn libraries() -> Option<PathBuf> {
    let output = Command::new("pkg-config")
        .args(["--libs-only-L", "--keep-system-libs", "spdk_event"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut directories = text
        .split_whitespace()
        .filter_map(|flag| flag.strip_prefix("-L"));
    directories.next().map(PathBuf::from)
}

/// The directories in which programs are looked for.
fn directories() -> Vec<PathBuf> {
    let named = env::var_os("POLLDM_SPDK_TOOLS").unwrap_or_default();
    let prefix = libraries().and_then(|directory| directory.parent().map(PathBuf::from));
    let builds = [env::var_os("SPDK_DIR").map(PathBuf::from), prefix];
    let below = |build: PathBuf| BELOW_A_BUILD.map(|part| build.join(part));
    env::split_paths(&named)
        .chain(builds.into_iter().flatten().flat_map(below))
        .collect()
}

/// A program of SPDK's; `None`, and one line about it, when it is not here.
pub fn program(name: &str) -> Option<Command> {
    let directories = directories();
    let is_program = |path: &PathBuf| path.is_file();
    let mut places = directories.iter().map(|directory| directory.join(name));
    let Some(path) = places.find(is_program) else {
        println!(
            "skipped: there is no {name} here; POLLDM_SPDK_TOOLS names the directories of SPDK's programs"
        );
        return None;
    };
    let mut command = Command::new(path);
    command.stdin(Stdio::null());
    // Programs that were not installed do not find them by themselves.
    if let Some(libraries) = libraries() {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    Some(command)
}

/// The CPU that polldm has not taken, if there are two.
pub fn cpu() -> usize {
    *available_cpus()
        .expect("CPUs")
        .last()
        .expect("one at least")
}
