//! Whatever the bytes are, reading them ends in a plan or in an error that can be shown.

use proptest::prelude::*;

use super::{examples, read};
use crate::config::fuzz;

#[test]
fn texts_that_once_were_or_might_be_trouble() {
    for text in [
        "",
        "\u{feff}",
        "\0",
        "---\n---\n",
        "? - a\n: - b\n",
        "!!binary |\n  AAAA\n",
        "%YAML 1.2\n---\nbdevs: []\n",
        "<<: *a",
        "&a bdevs: *a",
        "bdevs: &a [ *a ]",
        "devices: [ { name: a, table: '\\' } ]",
        "devices: [ { name: a, table: \"\\n\\n0 1 zeroo\" } ]",
        "devices:\n- name: é\n  table: |4\n        0 1 zeroo\n",
        "devices:\n- name: a\n  table: >-\n    0 1 é\n\n    1 1 é\n",
        "reactors: { cores: 18446744073709551616 }",
        "reactors: { cores: [[]] }",
        "bdevs: [ { null: { name: a, size: 1e400 } } ]",
        "bdevs: [ { null: { name: a, size: .nan } } ]",
        "bdevs: [ { null: { name: \"\\e[2J\", size: 512 } } ]",
    ] {
        fuzz(text.as_bytes());
    }
    fuzz(b"\xef\xbb\xbf\xff");
    fuzz(b"bdevs:\r- null\r");
}

#[test]
fn a_bomb_is_put_out() {
    // 1000 namespaces of three values each in 1000 subsystems by alias: 25 kB that would become millions of values.
    let namespaces: String = (1..=1000)
        .map(|nsid| format!("{{ nsid: {nsid}, device: d }}, "))
        .collect();
    let subsystem =
        |namespaces: &str| format!("{{ nqn: n, hosts: any, namespaces: {namespaces} }}, ");
    let first = subsystem(&format!("&n [ {namespaces} ]"));
    let others = subsystem("*n").repeat(1000);
    let bomb =
        format!("exports: {{ nvmf: {{ listeners: [], subsystems: [ {first} {others} ] }} }}");
    let error = read(&bomb).expect_err("too much");
    assert_eq!(
        error.message(),
        "the YAML is too deep or expands to too much"
    );
    for nested in [
        "[".repeat(100_000),
        "{a: ".repeat(100_000),
        "- ".repeat(100_000),
    ] {
        let error = read(format!("bdevs:\n  {nested}")).expect_err("too deep");
        assert!(error.to_string().len() < 2_000, "{error}");
    }
}

/// An example with a few of its bytes changed, moved or gone.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let examples: Vec<Vec<u8>> = examples()
        .into_iter()
        .map(|(_, text)| text.into_bytes())
        .collect();
    let change = (
        any::<prop::sample::Index>(),
        any::<u8>(),
        0..5u8,
        any::<prop::sample::Index>(),
    );
    (
        prop::sample::select(examples),
        prop::collection::vec(change, 1..8),
    )
        .prop_map(|(mut text, changes)| {
            for (at, byte, kind, other) in changes {
                if text.is_empty() {
                    break;
                }
                let at = at.index(text.len());
                let other = other.index(text.len());
                match kind {
                    0 => text[at] = byte,
                    1 => text.insert(at, byte),
                    2 => drop(text.drain(
                        at.min(other)..(at.min(other) + usize::from(byte)).min(at.max(other)),
                    )),
                    3 => text.swap(at, other),
                    // A byte that means something to YAML or to a table.
                    _ => text[at] = b"{}[]:,-#&*!|>'\"%@`\n\t 0189"[usize::from(byte) % 25],
                }
            }
            text
        })
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(data in prop::collection::vec(any::<u8>(), 0..512)) {
        fuzz(&data);
    }

    #[test]
    fn arbitrary_yaml_like_text_never_panics(text in "[a-z0-9 \n:,\\[\\]{}&*!|>'\"#-]{0,200}") {
        fuzz(text.as_bytes());
    }

    #[test]
    fn arbitrary_tables_never_panic(table in "( *[0-9]{1,20} [0-9]{1,20} (linear|striped|zero|error|delay|ebs|flakey|multipath|\\PC{0,4})( [0-9a-bé]{1,4}){0,6}\n){1,4}") {
        let indented: String = table.lines().map(|line| format!("      {line}\n")).collect();
        let text = format!("bdevs: [ {{ null: {{ name: a, size: 1MiB, block_size: 4096 }} }} ]\ndevices:\n  - name: d\n    table: |\n{indented}");
        fuzz(text.as_bytes());
    }

    #[test]
    fn damaged_examples_never_panic(data in mutated()) {
        fuzz(&data);
    }
}
