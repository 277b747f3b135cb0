//! Keeps docs/acceptance.md honest: every item of the list is in it, every test that it names is in the sources and bears the item's number,
//! and every test that bears a number is named. And what AT-90 says about the mapper's sources is looked up in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The items of the list, as ranges of their numbers. AT-08 has two parts.
const ITEMS: [(u32, u32); 4] = [(1, 17), (20, 32), (40, 84), (90, 93)];

/// Every Rust file beneath a folder of the repository, with its text.
fn sources(folder: &str, found: &mut Vec<(String, String)>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for entry in fs::read_dir(root.join(folder)).expect("a folder of the repository") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a plain name");
        let path = format!("{folder}/{name}");
        if entry.file_type().expect("its type").is_dir() {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push((path, fs::read_to_string(entry.path()).expect("text")));
        }
    }
}

/// The names of all tests that bear a number, with how many there are: functions, and scenarios of a Linux host.
fn tests() -> BTreeMap<String, usize> {
    let mut files = Vec::new();
    sources("src", &mut files);
    sources("tests", &mut files);
    let mut names = BTreeMap::new();
    for (path, text) in files
        .iter()
        .filter(|(path, _)| path != "tests/acceptance.rs")
    {
        let mut is_test = false;
        for line in text.lines().map(str::trim_start) {
            if line == "#[test]" {
                is_test = true;
            } else if let Some(rest) = line.strip_prefix("fn ") {
                let name: &str = rest.split(['(', '<']).next().expect("the first");
                if !numbers(name).is_empty() {
                    assert!(is_test, "{path}: {name} is no test");
                    *names.entry(name.to_owned()).or_default() += 1;
                }
                is_test = false;
            } else if let Some(rest) = line.strip_prefix("name: \"") {
                let name = rest.split('"').next().expect("the first");
                if !numbers(name).is_empty() {
                    *names.entry(name.to_owned()).or_default() += 1;
                }
            }
        }
    }
    names
}

/// The numbers in a test's name: `at_03_06_07_…`, `at_08a_…`, `at_24_at_40_…`.
fn numbers(name: &str) -> BTreeSet<u32> {
    let mut numbers = BTreeSet::new();
    for word in name.split('_').take_while(|_| name.starts_with("at_")) {
        let digits = word.trim_end_matches(['a', 'b']);
        match digits.parse() {
            Ok(number) if digits.len() == 2 => numbers.insert(number),
            _ if word == "at" => continue,
            _ => break,
        };
    }
    numbers
}

/// The rows of the tables in docs/acceptance.md: number, cells.
fn rows() -> Vec<(u32, Vec<String>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/acceptance.md");
    let text = fs::read_to_string(path).expect("docs/acceptance.md");
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').map(|cell| cell.trim().to_owned()).collect();
        let number = cells.get(1)?.strip_prefix("AT-")?.parse().ok()?;
        Some((number, cells[2..cells.len() - 1].to_vec()))
    };
    text.lines().filter_map(row).collect()
}

#[test]
fn the_list_of_acceptance_tests_is_complete_and_true() {
    let tests = tests();
    let rows = rows();
    let listed: Vec<u32> = rows.iter().map(|(number, _)| *number).collect();
    let all: Vec<u32> = ITEMS
        .iter()
        .flat_map(|(first, last)| *first..=*last)
        .collect();
    let mut sorted = listed.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, all, "each item has one row, in one of the tables");
    let mut named = BTreeSet::new();
    for (number, cells) in &rows {
        let [what, how] = cells.as_slice() else {
            panic!("AT-{number:02} has {} cells", cells.len());
        };
        assert!(!what.is_empty() && !how.is_empty(), "AT-{number:02}");
        let names: Vec<&str> = how
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|word| word.starts_with("at_"))
            .collect();
        let reasoned = names.is_empty() && how.split(' ').count() > 4;
        assert!(
            !names.is_empty() || reasoned,
            "AT-{number:02}: no test, and no reason"
        );
        for name in names {
            assert!(
                tests.contains_key(name),
                "AT-{number:02}: there is no test {name}"
            );
            let its = numbers(name);
            assert!(its.contains(number), "AT-{number:02}: {name} is of {its:?}");
            named.insert((*number, name.to_owned()));
        }
    }
    let missing: Vec<String> = tests
        .keys()
        .flat_map(|name| numbers(name).into_iter().map(move |number| (number, name)))
        .filter(|(number, name)| !named.contains(&(*number, (*name).clone())))
        .map(|(number, name)| format!("{name} is not in the row of AT-{number:02}"))
        .collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// AT-90, as far as it can be read off the sources: the mapper has no lock, no atomic read-modify-write, no clock, no thread and no file of its own, so no
/// system call. (`Arc` counts tables when they are loaded and swapped; the registry of names is the control plane's; and writes through the target `ebs`
/// have to keep those of other cores from the same block, which is what `ebs/blocks.rs` is for.)
#[test]
fn the_mapper_has_no_lock_and_makes_no_system_call() {
    let mut files = Vec::new();
    sources("src/dm", &mut files);
    let own = files
        .iter()
        .filter(|(path, _)| !path.contains("tests") && !path.ends_with("registry.rs"))
        .filter(|(path, _)| !path.ends_with("ebs/blocks.rs"));
    let mut looked_at = 0;
    for (path, text) in own {
        looked_at += 1;
        let code = text.split("#[cfg(test)]\nmod ").next().expect("the first");
        for (at, line) in code.lines().enumerate() {
            let line = line.split("//").next().expect("the first");
            for word in [
                "Mutex",
                "RwLock",
                "fetch_",
                "compare_exchange",
                "Condvar",
                "std::time",
                "std::thread",
                "std::io",
                "std::fs",
                "std::net",
                "std::os",
                "libc",
                "unsafe",
            ] {
                assert!(!line.contains(word), "{path}:{}: {word}", at + 1);
            }
        }
    }
    assert!(looked_at > 30, "{looked_at} files");
}
