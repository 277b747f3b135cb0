//! Operators who do anything, two at a time, while a host is at work, against a model of what each may be told: AT-60.

use std::collections::BTreeMap;
use std::process::Child;

use crate::durability::Random;
use crate::life::DISKS;
use crate::load::Load;
use crate::node::Node;

/// A host has the first one open; the other two come and go.
const DEVICES: [&str; 3] = ["vol", "x", "y"];

/// Tables that lead a host to the same data.
const TABLES: [&str; 4] = [
    "0 16384 linear a 0",
    "0 16384 striped 1 64 a 0",
    "0 16384 delay a 0 0",
    "0 16384 flakey a 0 60 0 2 error_reads error_writes",
];

/// How a suspend may be asked for, that of a resume included.
const OPTIONS: [&[&str]; 3] = [&["--noflush"], &["--nolockfs"], &[]];

#[derive(Clone, Copy, Debug)]
enum Verb {
    Create,
    Remove,
    /// One of [`TABLES`].
    Load(usize),
    Clear,
    /// One of [`OPTIONS`], as below.
    Suspend(usize),
    Resume(usize),
}

#[derive(Clone, Copy, Debug)]
struct Command {
    device: &'static str,
    verb: Verb,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Device {
    live: Option<usize>,
    inactive: Option<usize>,
    suspended: bool,
}

type Model = BTreeMap<&'static str, Device>;

impl Command {
    fn random(random: &mut Random) -> Command {
        let option = random.below(OPTIONS.len());
        let verb = match random.below(12) {
            0..2 => Verb::Create,
            2 => Verb::Remove,
            3..6 => Verb::Load(random.below(TABLES.len())),
            6 => Verb::Clear,
            7..9 => Verb::Suspend(option),
            _ => Verb::Resume(option),
        };
        let device = DEVICES[random.below(DEVICES.len())];
        Command { device, verb }
    }

    fn start(self, node: &Node) -> Child {
        let (verb, more): (&str, &[&str]) = match self.verb {
            Verb::Create => ("create", &["--notable"]),
            Verb::Remove => ("remove", &[]),
            Verb::Load(table) => ("load", &["--table", TABLES[table]]),
            Verb::Clear => ("clear", &[]),
            Verb::Suspend(option) => ("suspend", OPTIONS[option]),
            Verb::Resume(option) => ("resume", OPTIONS[option]),
        };
        node.start_command(&[&["dm", verb, self.device], more].concat())
    }

    /// What it does (table 1.2 of the semantics); the error that it is told, if any.
    fn apply(self, model: &mut Model) -> Option<&'static str> {
        if let Verb::Create = self.verb {
            if model.contains_key(self.device) {
                return Some("(EBUSY)");
            }
            model.insert(self.device, Device::default());
            return None;
        }
        let Some(device) = model.get_mut(self.device) else {
            return Some("(ENXIO)");
        };
        match self.verb {
            Verb::Remove if self.device == DEVICES[0] => return Some("(EBUSY)"),
            Verb::Remove => drop(model.remove(self.device)),
            Verb::Load(table) => device.inactive = Some(table),
            Verb::Clear => device.inactive = None,
            Verb::Suspend(_) => device.suspended = true,
            Verb::Resume(_) => {
                device.live = device.inactive.take().or(device.live);
                if device.suspended && device.live.is_none() {
                    return Some("(EINVAL)");
                }
                device.suspended = false;
            }
            Verb::Create => unreachable!("done above"),
        }
        None
    }
}

/// The error that a command was told, if any.
fn told(command: Child) -> Option<String> {
    let ended = command.wait_with_output().expect("it was started here");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    (!ended.status.success()).then_some(said)
}

/// What the node says of all devices.
fn state(node: &Node) -> [Vec<String>; 3] {
    let columns = "name,suspended,tables_loaded";
    let words = [
        "dm",
        "info",
        "-o",
        columns,
        "--noheadings",
        "--separator",
        " ",
    ];
    let asks: [&[&str]; 3] = [&words, &["dm", "table"], &["dm", "table", "--inactive"]];
    asks.map(|words| {
        let mut lines: Vec<String> = node.told(words).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    })
}

/// What it should say.
fn state_of(model: &Model) -> [Vec<String>; 3] {
    let table = |name: &str, table: Option<usize>| {
        let text = table.map_or(String::new(), |table| format!(" {}", TABLES[table]));
        format!("{name}:{text}")
    };
    let each = |line: &dyn Fn(&str, &Device) -> String| {
        model
            .iter()
            .map(|(name, device)| line(name, device))
            .collect()
    };
    [
        each(&|name, device| {
            let suspended = if device.suspended {
                "Suspended"
            } else {
                "Active"
            };
            let tables = match (device.live, device.inactive) {
                (None, None) => "None",
                (None, Some(_)) => "Inactive",
                (Some(_), None) => "Live",
                (Some(_), Some(_)) => "Both",
            };
            format!("{name} {suspended} {tables}")
        }),
        each(&|name, device| table(name, device.live)),
        each(&|name, device| table(name, device.inactive)),
    ]
}

/// Two commands at a time, of any kind, to any device: what they are told and what is then so is what the one after the other does, in either order. The host sees
/// nothing of it.
#[test]
fn at_60_two_operators_and_a_host() {
    const ROUNDS: usize = 60;
    let node = Node::start(DISKS, TABLES[0]);
    let load = Load::start(&node);
    let mut model = Model::new();
    let running = Device {
        live: Some(0),
        ..Device::default()
    };
    model.insert(DEVICES[0], running);
    let mut random = Random::new(60);
    for round in 0..ROUNDS {
        let both = [(); 2].map(|()| Command::random(&mut random));
        let told = both.map(|command| command.start(&node)).map(told);
        let found = state(&node);
        let after = [[0, 1], [1, 0]].into_iter().find_map(|order| {
            let mut after = model.clone();
            let is_so = order.into_iter().all(|number| {
                match (both[number].apply(&mut after), &told[number]) {
                    (None, None) => true,
                    (Some(errno), Some(told)) => told.contains(errno),
                    _ => false,
                }
            });
            (is_so && state_of(&after) == found).then_some(after)
        });
        model = after.unwrap_or_else(|| {
            panic!("round {round}: {both:?} of {model:?}: {told:?}, then {found:?}")
        });
    }
    node.dm("load", &["--table", TABLES[0]]);
    node.dm("resume", &[]);
    load.after(300);
    load.demand_flawless();
    load.stop();
    node.end();
}
