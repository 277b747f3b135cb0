//! The configuration as an operator meets it: the files in `conf/`, and what is said about bad ones.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;

/// A process that is the same on every machine.
fn process() -> Process {
    Process {
        cpus: vec![0, 1, 2, 3, 6],
        user_id: 1000,
        runtime_directory: Some(PathBuf::from("/run/user/1000")),
    }
}

fn read(text: &str) -> Result<Plan, Error> {
    let process = process();
    let surroundings = Surroundings {
        process: &process,
        directory: Some(Path::new("/etc/polldm")),
    };
    parse_bytes("t.yaml", text.as_bytes(), &surroundings)
}

fn example_files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .expect("conf/ is there")
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    files.sort();
    files
}

#[test]
fn every_example_is_a_valid_configuration() {
    let files = example_files();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        load(&file).unwrap_or_else(|error| panic!("{error}"));
    }
}
