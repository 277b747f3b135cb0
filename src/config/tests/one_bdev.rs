//! A backing device by itself reads as it would in a file, and is refused in the same words.

use std::path::Path;

use proptest::prelude::*;

use crate::config::{BdevKind, BdevPlan, parse, parse_bdev};

fn read(text: &str) -> Result<BdevPlan, crate::config::Error> {
    parse_bdev("bdev add", text, Some(Path::new("/srv")))
}

/// Without the places.
fn meaning(plan: &BdevPlan) -> String {
    plan.entry().expect("paths are UTF-8 here").to_string()
}

#[test]
fn an_entry_means_what_it_means_in_a_file() {
    for text in [
        "malloc: { name: ram0, size: 1GiB }",
        "malloc: { name: ram0, size: 1GiB, block_size: 4096, volatile_cache: true }",
        "null: { name: n, size: 1TiB }",
        "file: { name: f, path: /srv/f, direct: on }",
        "file: { name: f, path: \"/srv/a b: {c}\", size: 1MiB, direct: off }",
        "file: { name: f, path: /srv/f, read_only: true }",
    ] {
        let alone = read(text).unwrap_or_else(|error| panic!("{error}"));
        let file = parse("t.yaml", &format!("bdevs:\n  - {text}\n"));
        let file = file.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(meaning(&alone), meaning(&file.bdevs[0]), "{text}");
        let again = read(&meaning(&alone)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(meaning(&again), meaning(&alone), "{text}");
    }
}

#[test]
fn relative_paths_count_from_the_directory() {
    let text = "file: { name: f, path: disks/f }";
    let path = |plan: BdevPlan| match plan.kind {
        BdevKind::File(file) => file.path.value,
        other => panic!("{other:?}"),
    };
    assert_eq!(path(read(text).unwrap()), Path::new("/srv/disks/f"));
    let as_written = parse_bdev("t", text, None).unwrap();
    assert_eq!(path(as_written), Path::new("disks/f"));
}

#[test]
fn what_is_wrong_is_shown_where_it_stands() {
    let error = read("malloc: { name: ram0, size: 1G }").unwrap_err();
    assert_eq!(
        error.to_string(),
        "error: `G` is no unit of size in `1G`
 --> bdev add:1:29
  |
1 | malloc: { name: ram0, size: 1G }
  |                             ^^
  |
  = help: write 1GiB (powers of 1024) or 1GB (powers of 1000)"
    );
    for (text, message, help) in [
        ("", "there is no bdev in this", "such as `malloc:"),
        (
            "maloc: { name: a, size: 1MiB }",
            "`maloc` is not known",
            "did you mean `malloc`",
        ),
        (
            "malloc: { name: a }",
            "the key `size` is missing",
            "add `size",
        ),
        (
            "malloc: { name: a, szie: 1MiB }",
            "unknown key `szie`",
            "did you mean `size`",
        ),
        ("malloc: { name: a b, size: 1MiB }", "white space", ""),
        (
            "malloc: { name: a, size: 1MiB, block_size: 1024 }",
            "is not a block size",
            "512 and 4096",
        ),
        (
            "malloc: { name: a, size: 1000 }",
            "not whole blocks",
            "nearest size that fits is 512",
        ),
        (
            "file: { name: a, path: x, size: 1MiB, read_only: true }",
            "cannot be created or grown",
            "remove `size`",
        ),
        (
            "- malloc: { name: a, size: 1MiB }",
            "expected a map with one key",
            "",
        ),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.message().contains(message), "{text}: {error}");
        assert!(error.help().unwrap_or("").contains(help), "{text}: {error}");
    }
}

proptest! {
    /// Whatever the bytes are, there is a plan that reads as itself, or an error that can be shown.
    #[test]
    fn any_text_is_a_bdev_or_an_error(text in "(malloc|file|null|x)?[:{ \"]{0,4}(name: a|size: 1|path: b|[ -~]){0,12}[}\"]?") {
        match read(&text) {
            Ok(plan) => prop_assert_eq!(meaning(&read(&meaning(&plan)).unwrap()), meaning(&plan)),
            Err(error) => prop_assert!(error.to_string().starts_with("error: ")),
        }
    }
}
