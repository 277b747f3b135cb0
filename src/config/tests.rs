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

#[test]
fn dump() {
    let base = "bdevs:\n  - malloc: { name: ram0, size: 1MiB, block_size: 4096 }\n  - malloc: { name: ram1, size: 1MiB }\n";
    let dev = |t: &str| format!("{base}devices:\n  - name: vol0\n    table: |\n{t}");
    let ok = dev("      0 2048 linear ram0 0\n");
    let exp = |s: &str| {
        format!(
            "{ok}exports:\n  nvmf:\n    listeners: [ \"127.0.0.1:4420\" ]\n    subsystems:\n{s}"
        )
    };
    let mut cases: Vec<(Vec<u8>,)> = vec![];
    for t in [
        "",
        "# only\n",
        "---\n...\n",
        "hello",
        "- a\n",
        "bdevs: 3\n",
        "bdevs: [\n",
        "a: b: c\n",
        "bdevs:\n\t- a\n",
        "bdev: []\n",
        "reactors: { pol: busy }\n",
        "reactors: { poll: bussy }\n",
        "reactors: { cores: 2 }\n",
        "reactors: { cores: [0, 7] }\n",
        "reactors: { cores: [0, 0] }\n",
        "reactors: { cores: \"0-9\" }\n",
        "reactors: { cores: {a: b} }\n",
        "reactors: { cores: [x] }\n",
        "reactors: { poll: busy, spin_us: 3 }\n",
        "reactors: { count: 0 }\n",
        "reactors: { count: -1 }\n",
        "engine: spdk\n",
        "engine: {native: 3}\n",
        "bdevs: []\nbdevs: []\n",
        "bdevs: []\n---\nbdevs: []\n",
        "bdevs:\n - malloc: {name: a, size: 1MiB}\n   null: {name: b, size: 1MiB}\n",
        "bdevs:\n - maloc: {name: a}\n",
        "bdevs:\n - malloc: {name: a}\n",
        "bdevs:\n - malloc:\n",
        "bdevs:\n - malloc\n",
        "bdevs:\n - 3\n",
        "bdevs:\n - null: {name: b, size: 1MiB}\n - malloc: { name: x, size: 1G }\n",
        "bdevs:\n - malloc: { name: x, size: 1.5GiB }\n",
        "bdevs:\n - malloc: { name: x, size: -3 }\n",
        "bdevs:\n - malloc: { name: x, size: 1000 }\n",
        "bdevs:\n - malloc: { name: x, size: 1MiB, block_size: 1024 }\n",
        "bdevs:\n - malloc: { name: x, size: [1] }\n",
        "bdevs:\n - malloc: { name: [x], size: 1 }\n",
        "bdevs:\n - malloc: { name: , size: 1 }\n",
        "bdevs:\n - file: { name: x, path: p, read_only: yes }\n",
        "bdevs:\n - file: { name: x, path: p, direct: on }\n - file: { name: y, path: p }\n",
        "bdevs:\n - malloc: &a {name: a, size: 1MiB}\n - malloc: *a\n",
        "bdevs: *x\n",
        "bdevs:\n - malloc: {name: \"abc}\n",
        "metrics: { listen: localhost:9090 }\n",
        "control: { socket: \"\" }\n",
    ] {
        cases.push((t.as_bytes().to_vec(),));
    }
    for t in [
        "      0 2048 linear ram2 0\n",
        "      0 8 linear ram0 0\n      16 8 linear ram0 8\n",
        "\n      # c\n      0 8 linear ram0 0\n\n      4 8 linear ram0 8\n",
        "      0 4096 linear ram0 0\n",
        "      0 2048 linear ram0 8\n",
        "      0 2047 linear ram0 0\n",
        "      0 2048 linear ram0\n",
        "      0 2048 linear ram0 0 9\n",
        "      0 2048 lineer ram0 0\n",
        "      0 2048 multipath 1 2\n",
        "      0 100 striped 2 16 ram0 0 ram1 0\n",
        "      0 128 striped 2 9 ram0 0 ram1 0\n",
        "      0 2048 striped 3 16 ram0 0 ram1 0\n",
        "      0 0 zero\n",
        "      x 1 zero\n",
        "      0\n",
        "\n",
        "      0 9 zero\n      9 8 linear ram0 0\n",
        "      0 8 linear ram0 0\n      8 1 zero\n",
        "      8 8 zero\n",
        "      0 8 linear vol0 0\n",
        "      0 18446744073709551615 zero\n",
    ] {
        cases.push((dev(t).into_bytes(),));
    }
    cases.push((format!("{base}devices:\n  - name: ram0\n    table: 0 1 zero\n").into_bytes(),));
    cases.push((format!(
        "{base}devices:\n  - name: a\n    table: 0 1 zero\n  - name: a\n    table: 0 1 zero\n"
    )
    .into_bytes(),));
    cases.push((
        format!("{base}devices:\n  - name: a\n    table: \"0 1 zero\\n1 1 zeroo\"\n").into_bytes(),
    ));
    cases.push((format!("{base}devices:\n  - name: a\n    table: 0 1 zeroo\n").into_bytes(),));
    cases.push((format!(
        "{base}devices:\n  - name: a\n    table: >\n     0 1 zero\n     1 1 zeroo\n"
    )
    .into_bytes(),));
    for s in [
        "      - nqn: nqn.2026-11.io:x\n        hosts: any\n        namespaces: [ { nsid: 0, device: vol0 } ]\n",
        "      - nqn: nqn.2026-11.io:x\n        hosts: any\n        namespaces: [ { nsid: 1, device: vol0 }, { nsid: 1, device: vol0 } ]\n",
        "      - nqn: nqn.2026-11.io:x\n        hosts: any\n        namespaces: [ { nsid: 1, device: vol0 }, { nsid: 2, device: vol0 } ]\n",
        "      - nqn: nqn.2026-11.io:x\n        hosts: any\n        namespaces: [ { nsid: 1, device: ram0 } ]\n",
        "      - nqn: nqn.2026-11.io\n        hosts: any\n        namespaces: []\n",
        "      - nqn: nqn.2026-11.io:x\n        hosts: [any]\n        namespaces: []\n",
        "      - nqn: nqn.2026-11.io:x\n        hosts: all\n        namespaces: []\n",
        "      - nqn: nqn.2026-11.io:x\n        namespaces: []\n",
        "      - nqn: nqn.2026-11.io:x\n        hosts: any\n        namespaces: []\n        listeners: [ \"127.0.0.1:4421\" ]\n",
        "      - nqn: nqn.2014-08.org.nvmexpress.discovery\n        hosts: any\n        namespaces: []\n",
        "      - nqn: nqn.2026-11.io:x\n        hosts: any\n        namespaces: []\n      - nqn: nqn.2026-11.io:x\n        hosts: any\n        namespaces: []\n",
    ] {
        cases.push((exp(s).into_bytes(),));
    }
    cases.push((b"bdevs:\n  - malloc: { name: \xff }\n".to_vec(),));
    cases.push((b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n".to_vec(),));
    let mut bomb = String::from("bdevs: &a0 [x]\n");
    let _ = &mut bomb;
    cases.push(("[".repeat(1000).into_bytes(),));
    cases.push((format!("bdevs: {}", "[".repeat(1000)).into_bytes(),));
    for (c,) in cases {
        let process = process();
        let s = Surroundings {
            process: &process,
            directory: None,
        };
        println!(
            "\n@@@ {:?}",
            String::from_utf8_lossy(&c[c.len().saturating_sub(110)..])
        );
        match parse_bytes("t.yaml", &c, &s) {
            Ok(_) => println!("OK"),
            Err(e) => println!("{e}"),
        }
    }
}
