//! The command line: what it takes, what it refuses, and what it says.

use clap::CommandFactory;

use super::*;

fn parse(words: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(words.split_whitespace())
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn the_commands_of_the_manual_are_taken() {
    for words in [
        "polldm serve conf/quickstart.yaml",
        "polldm serve --engine native conf/quickstart.yaml",
        "polldm check a.yaml",
        "polldm schema",
        "polldm schema --control",
        "polldm dm ls",
        "polldm dm ls --target linear --json",
        "polldm --socket /s dm ls",
        "polldm --socket /s check a.yaml",
        "polldm dm --socket /s load vol0 --table x",
        "polldm dm load vol0 table.txt",
        "polldm dm load -r vol0",
        "polldm dm reload vol0 -",
        "polldm dm info",
        "polldm dm info vol0 vol1 -c -o name,uuid --noheadings --separator :",
        "polldm dm info -C",
        "polldm dm table --inactive vol0",
        "polldm dm status --target striped",
        "polldm dm create vol1 --notable -u uuid",
        "polldm dm create vol1 --flush ordered --readonly --table x",
        "polldm dm suspend vol0 vol1 --socket /s",
        "polldm dm resume vol0",
        "polldm dm clear vol0",
        "polldm dm rename vol0 vol1",
        "polldm dm create vol1 --notable --parked-limit 30s",
        "polldm dm suspend vol0 --noflush --nolockfs --timeout 10",
        "polldm dm suspend --stack vol0 --timeout 10",
        "polldm dm resume --stack vol0",
        "polldm dm resume --noflush --timeout 500ms vol0",
        "polldm dm swap vol0 table.txt --timeout 10",
        "polldm dm swap -r vol0 -",
        "polldm dm swap vol0 --table x",
        "polldm dm cancel vol0 vol1",
        "polldm dm fail-parked vol0",
        "polldm dm message vol0 0 fail_path ram0",
        "polldm dm message vol0 0 @cancel_deferred_remove",
        "polldm dm message vol0 8 set -1 --twice",
        "polldm dm wait vol0",
        "polldm dm wait -v vol0 7",
        "polldm dm wait vol0 7 --json",
        "polldm dm rename vol0 --setuuid my-uuid",
        "polldm dm remove vol0",
        "polldm dm remove --deferred vol0 vol1",
        "polldm dm remove_all",
        "polldm dm remove-all --deferred",
        "polldm dm deps",
        "polldm dm targets",
        "polldm bdev ls --json",
        "polldm bdev add malloc name=ram2 size=1GiB block_size=4096",
        "polldm bdev add file name=disk3 path=/dev/sdc --json",
        "polldm bdev remove disk3",
        "polldm bdev remove --force disk3",
        "polldm export ls",
        "polldm export add-ns nqn.x --nsid 2 --device vol1",
        "polldm export remove-ns nqn.x --nsid 2",
        "polldm export ana nqn.x optimized",
        "polldm export ana nqn.x non-optimized",
        "polldm export ana nqn.x inaccessible",
        "polldm export ana nqn.x persistent-loss",
        "polldm export ana nqn.x change --json",
        "polldm stats vol0 --json",
        "polldm bench nvme-tcp://127.0.0.1/nqn.2026-11.io.polldm:a --json --qd 4",
        "polldm bench dm:a.yaml#vol0 --swap-every 10ms",
        "polldm demo",
        "polldm demo --time 3 --json",
    ] {
        assert!(
            parse(words).is_ok(),
            "{words}: {}",
            parse(words).unwrap_err()
        );
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_exit_code_2() {
    for words in [
        "polldm",
        "polldm dm",
        "polldm dm lst",
        "polldm dm suspend",
        "polldm dm rename vol0",
        "polldm dm create vol0 --notable --table x",
        "polldm dm create vol0 --notable --readonly",
        "polldm dm load vol0 file --table x",
        "polldm dm create vol0 --flush never",
        "polldm bdev add malloc",
        "polldm bdev remove",
        "polldm dm create vol0 --parked-limit 30",
        "polldm dm suspend vol0 --timeout soon",
        "polldm dm suspend vol0 --timeout 0",
        "polldm dm swap",
        "polldm dm message vol0 0",
        "polldm dm message vol0 first word",
        "polldm dm wait",
        "polldm dm wait vol0 -1",
        "polldm dm rename vol0 --setuuid",
        "polldm export add-ns nqn.x --nsid minus --device d",
        "polldm export add-ns nqn.x --nsid 1",
        "polldm export ana nqn.x",
        "polldm export ana nqn.x lost",
        "polldm serve",
        "polldm serve --engine steam a.yaml",
    ] {
        let error = parse(words)
            .err()
            .unwrap_or_else(|| panic!("{words} is taken"));
        assert_eq!(error.exit_code(), 2, "{words}");
    }
}

#[test]
fn the_socket_is_found_wherever_it_stands() {
    for words in [
        "polldm --socket /s dm ls",
        "polldm dm --socket /s ls",
        "polldm dm ls --socket /s",
    ] {
        assert_eq!(
            parse(words).unwrap().connection.socket,
            Some(PathBuf::from("/s")),
            "{words}"
        );
    }
}

/// What would be without effect is refused before anything is opened.
#[test]
fn options_without_a_meaning_are_refused() {
    for words in [
        "polldm dm info --json -c",
        "polldm dm info --json --noheadings",
    ] {
        match run(parse(words).unwrap()) {
            Err(Failure::Usage(reason)) => assert!(reason.contains("leave"), "{words}: {reason}"),
            other => panic!("{words}: {other:?}"),
        }
    }
}

/// A bdev that cannot be is refused before anybody is asked, at its place in the words.
#[test]
fn a_bdev_that_cannot_be_is_not_asked_for() {
    for (words, says) in [
        (
            "polldm bdev add malloc name=a size=1MiB direct",
            "'direct' is no KEY=VALUE",
        ),
        (
            "polldm bdev add malloc name=a size=1G",
            "1 | malloc: { name: a, size: 1G }",
        ),
        (
            "polldm bdev add maloc name=a size=1MiB",
            "did you mean `malloc`?",
        ),
        ("polldm bdev add malloc name=a size=", "the size is missing"),
        (
            "polldm bdev add null name=a/b size=1MiB",
            "cannot contain `/`",
        ),
        (
            "polldm bdev add file name=a path=x read_only=yes",
            "neither true nor false",
        ),
    ] {
        let said = match run(parse(words).unwrap()) {
            Err(Failure::Usage(said)) => said,
            Err(Failure::Config(error)) => error.to_string(),
            other => panic!("{words}: {other:?}"),
        };
        assert!(said.contains(says), "{words}: {said}");
    }
}

#[test]
fn the_socket_is_in_the_help_of_commands_that_use_it() {
    let mut command = Cli::command();
    command.build();
    for (name, shown) in [
        ("check", false),
        ("bench", false),
        ("schema", false),
        ("stats", true),
    ] {
        let help = command.find_subcommand_mut(name).unwrap().render_help();
        assert_eq!(help.to_string().contains("--socket"), shown, "{name}");
    }
}

#[test]
fn every_command_and_option_has_a_help_text() {
    fn check(command: &clap::Command) {
        assert!(
            command.get_about().is_some(),
            "'{}' has no help",
            command.get_name()
        );
        let after = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        let wide = after.lines().find(|line| line.chars().count() > 79);
        assert_eq!(
            wide,
            None,
            "'{}' does not fit a terminal",
            command.get_name()
        );
        for argument in command
            .get_arguments()
            .filter(|argument| !argument.is_hide_set())
        {
            assert!(
                argument.get_help().is_some(),
                "'{}' of '{}' has no help",
                argument.get_id(),
                command.get_name()
            );
        }
        command
            .get_subcommands()
            .filter(|command| command.get_name() != "help")
            .for_each(check);
    }
    let mut command = Cli::command();
    command.build();
    check(&command);
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    let cli =
        Cli::try_parse_from(["polldm", "dm", "ls", "--socket", socket.to_str().unwrap()]).unwrap();
    match run(cli) {
        Err(Failure::Operation(reason)) => {
            assert!(reason.contains("no polldm serves on") && reason.contains("none.sock"))
        }
        other => panic!("{other:?}"),
    }
}
