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
        "malloc: { name: ram0, size: 1GiB, block_size: 4096, volatile_cache: true, atomic_writes: true }",
        "null: { name: n, size: 1TiB }",
        "file: { name: f, path: /srv/f, direct: on }",
        "file: { name: f, path: \"/srv/a b: {c}\", size: 1MiB, direct: off }",
        "file: { name: f, path: /srv/f, read_only: true }",
        "nvme: { name: n, device: /dev/ng0n1 }",
        "nvme-tcp: { name: r, address: \"192.0.2.7\", nqn: \"nqn.2026-11.io.polldm:a\" }",
        "nvme-tcp: { name: r, address: \"[2001:db8::7]:4421\", nqn: \"nqn.2026-11.io.polldm:a\", nsid: 7, host_nqn: \"nqn.2026-11.io.polldm:b\", header_digest: true, data_digest: true, keep_alive: 1s, reconnect_delay: 500ms, ctrl_loss_timeout: 2h, fast_io_fail_timeout: 3s, io_timeout: 5s }",
    ] {
        let alone = read(text).unwrap_or_else(|error| panic!("{error}"));
        let file = parse("t.yaml", &format!("bdevs:\n  - {text}\n"));
        let file = file.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(meaning(&alone), meaning(&file.bdevs[0]), "{text}");
        let again = read(&meaning(&alone)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(meaning(&again), meaning(&alone), "{text}");
    }
}

/// A namespace belongs to one engine or the other, and its device says all there is to say of it.
#[test]
fn a_generic_device_is_the_namespace() {
    for (keys, words) in [
        ("device: /dev/ng0n1, nsid: 1", "`nsid` has no meaning"),
        (
            "device: /dev/ng0n1, tcp: \"1.2.3.4\"",
            "`tcp` has no meaning",
        ),
        ("device: /dev/ng0n1, nqn: n", "`nqn` has no meaning"),
        (
            "pcie: \"0000:01:00.0\", device: /dev/ng0n1",
            "`pcie` has no meaning",
        ),
        (
            "device: /dev/ng0n1, vfio_user: /run",
            "`vfio_user` has no meaning",
        ),
        ("device: /dev/ng0n1, size: 1GiB", "size"),
    ] {
        let error = read(&format!("nvme: {{ name: n, {keys} }}")).unwrap_err();
        assert!(error.to_string().contains(words), "{keys}: {error}");
    }
    let twice = "bdevs:\n  - nvme: { name: a, device: /dev/ng0n1 }\n  - nvme: { name: b, device: /dev/ng0n1 }\n";
    let error = parse("t.yaml", twice).unwrap_err().to_string();
    assert!(error.contains("already belongs to another bdev"), "{error}");
}

#[test]
fn a_remote_has_what_linux_would_take() {
    let text = "nvme-tcp: { name: r, address: storage, nqn: \"nqn.2026-11.io.polldm:a\" }";
    let BdevKind::NvmeTcp(remote) = read(text).unwrap().kind else {
        panic!("it is a remote");
    };
    assert_eq!(remote.address.value, ("storage".to_owned(), 4420));
    assert_eq!((remote.nsid, remote.host_nqn), (1, None));
    assert!(!remote.header_digest && !remote.data_digest);
    let seconds = [
        remote.keep_alive,
        remote.reconnect_delay,
        remote.ctrl_loss_timeout,
        remote.io_timeout,
    ];
    assert_eq!(seconds.map(|span| span.as_secs()), [5, 10, 600, 30]);
    assert_eq!(remote.fast_io_fail_timeout, None);
}

#[test]
fn what_is_wrong_with_a_remote() {
    for (keys, words) in [
        (
            "address: \"1.2.3.4:0\", nqn: \"nqn.2026-11.io.polldm:a\"",
            "not the address of a target",
        ),
        (
            "address: \"::1:4420\", nqn: \"nqn.2026-11.io.polldm:a\"",
            "not the address of a target",
        ),
        ("address: h, nqn: \"disk\"", "an NQN begins with `nqn.`"),
        ("nqn: \"nqn.2026-11.io.polldm:a\"", "address"),
        (
            "address: h, nqn: \"nqn.2026-11.io.polldm:a\", nsid: 0",
            "0 is no namespace",
        ),
        (
            "address: h, nqn: \"nqn.2026-11.io.polldm:a\", nsid: 4294967295",
            "no namespace",
        ),
        (
            "address: h, nqn: \"nqn.2026-11.io.polldm:a\", host_nqn: me",
            "an NQN begins",
        ),
        (
            "address: h, nqn: \"nqn.2026-11.io.polldm:a\", keep_alive: 5",
            "no unit of time",
        ),
        (
            "address: h, nqn: \"nqn.2026-11.io.polldm:a\", keep_alive: 2h",
            "more than an hour",
        ),
        (
            "address: h, nqn: \"nqn.2026-11.io.polldm:a\", io_timeout: 0s",
            "no use",
        ),
        (
            "address: h, nqn: \"nqn.2026-11.io.polldm:a\", size: 1GiB",
            "size",
        ),
    ] {
        let text = format!("nvme-tcp: {{ name: r, {keys} }}");
        let error = read(&text).unwrap_err().to_string();
        assert!(error.contains(words), "{keys}: {error}");
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
