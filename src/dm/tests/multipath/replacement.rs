//! Which tables may take the place of which (1.3), and multipath beneath other devices (AT-70).

use super::super::super::error::Errno;
use super::super::super::limits::Lower;
use super::super::super::table::Table;
use super::super::{RESUME, for_seeds};
use super::*;
use crate::sim::{Answers, Random};

/// AT-83, LC-8, LC-12: `multipath` has its table to itself, and its place is taken only by its like or by a wildcard, whichever way the new table
/// comes; `error` gives its own place to any.
#[test]
fn at_83_singletons_and_replacements() {
    let mut cluster = running(2, 1, QUEUEING);
    {
        let disks = &cluster.shared().disks;
        let resolve = |name: &str| {
            disks
                .iter()
                .map(|d| &d.lower)
                .find(|l| l.name == name)
                .cloned()
        };
        let mixed = QUEUEING.replace("0 64", "8 56");
        for text in [
            format!("0 8 zero\n{mixed}"),
            format!("{QUEUEING}\n64 8 zero"),
        ] {
            let error = Table::parse(&text, &resolve).expect_err(&text).to_string();
            assert!(error.contains("the only one of its table"), "{error}");
        }
    }
    let linear = "0 64 linear d2 0";
    for text in [linear, "0 64 zero", "0 32 linear d2 0\n32 32 zero"] {
        let table = cluster.table(text);
        let load = cluster.ask(DEVICE, Request::Load(table.clone()));
        let swap = Request::Swap {
            table,
            open: true,
            suspend: NOFLUSH,
        };
        for answer in [load, cluster.ask(DEVICE, swap)] {
            let error = answer.expect_err(text);
            assert_eq!(error.errno, Errno::Einval);
            assert!(error.reason.contains("'multipath'"), "{error}");
        }
        assert!(!cluster.info(DEVICE).inactive);
    }
    for text in [
        OTHER,
        QUEUEING,
        "0 64 error",
        linear,
        QUEUEING,
        "0 32 error\n32 32 linear d2 0",
    ] {
        cluster.switch_to(DEVICE, text);
        assert_eq!(cluster.info(DEVICE).sectors, 64, "{text}");
    }
}

/// AT-70: `linear` over `linear` over `multipath`. Paths fail and come back while each level is suspended with noflush, in every order: nothing
/// fails, nothing is lost, nothing waits for ever; I/O without a path waits at the bottom, whoever is suspended above it.
#[test]
fn at_70_linear_over_multipath_suspends_in_any_order() {
    const TOP: DeviceId = DeviceId(2);
    const MIDDLE: DeviceId = DeviceId(1);
    let orders = [
        [TOP, MIDDLE, DEVICE],
        [TOP, DEVICE, MIDDLE],
        [MIDDLE, TOP, DEVICE],
        [MIDDLE, DEVICE, TOP],
        [DEVICE, TOP, MIDDLE],
        [DEVICE, MIDDLE, TOP],
    ];
    for_seeds(60, |seed| {
        let mut random = Random::new(seed);
        let mut cluster = running_with(3, seed, seed % 2 == 0, QUEUEING);
        {
            let disks = &mut cluster.shared().disks;
            let (first, second) = disks.split_at_mut(1);
            second[0].share(&first[0]);
        }
        for (device, below, name) in [(MIDDLE, DEVICE, "bottom"), (TOP, MIDDLE, "middle")] {
            let limits = cluster.mappers[0].limits(below).expect("a table").clone();
            cluster.add_lower(Lower::of_device(below, name, &limits));
            cluster.device(device.0, seed % 3 == 0, &format!("0 64 linear {name} 0"));
        }
        (0..2).for_each(|disk| {
            cluster.disk(disk).answers = Answers::Mixed {
                inline: 30,
                busy: 20,
            }
        });
        let mut commands = Vec::new();
        let mut submit = |cluster: &mut Cluster| {
            for core in 0..3u16 {
                let at = u64::from(core) * 20;
                let write = Ask::fill(at, 20, core as u8 + 1);
                for ask in [write.clone(), Ask::read(at, 20), Ask::flush(), write.fua()] {
                    commands.push(cluster.submit(core, TOP, ask));
                }
            }
        };
        submit(&mut cluster);
        cluster.steps(random.below(30));
        if seed % 4 > 0 {
            fail_paths(&mut cluster);
            submit(&mut cluster);
        }
        let order = random.pick(&orders);
        let mut tickets = Vec::new();
        for device in order {
            tickets.push(cluster.request(*device, SUSPEND_NOFLUSH));
            submit(&mut cluster);
            cluster.steps(random.below(30));
        }
        cluster.settle();
        for device in random.pick(&orders) {
            tickets.push(cluster.request(*device, RESUME));
            cluster.steps(random.below(30));
        }
        say(&mut cluster, "reinstate_path d1");
        cluster.settle();
        for ticket in tickets {
            assert_eq!(cluster.answer(ticket), Some(Ok(Reply::Done)));
        }
        assert_eq!(ended(&cluster, &commands, Status::Ok), commands.len());
        for at in 0..60 {
            assert_eq!(cluster.disk(0).sector(at)[0], at as u8 / 20 + 1);
        }
        cluster.demand_idle();
    });
}

/// Both paths fail, without waiting for what is on its way.
fn fail_paths(cluster: &mut Cluster) {
    for disk in ["d0", "d1"] {
        let words = vec!["fail_path".into(), disk.into()];
        cluster.request(DEVICE, Request::Message { sector: 0, words });
    }
}
