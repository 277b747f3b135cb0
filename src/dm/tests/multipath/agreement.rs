//! All at once: paths fail and come back, an operator speaks, devices are suspended, resumed, cancelled, while I/O runs on every
//! core. Nothing is lost, nothing stays counted, and in the end the cores agree.

use super::super::{RESUME, SUSPEND, for_seeds};
use super::*;
use crate::sim::{Answers, Random};

const TEXT: &str =
    "0 64 multipath 1 queue_if_no_path 0 2 1 queue-length 0 2 0 d0 d1 queue-length 0 1 0 d2";

const STATUSES: [Status; 3] = [Status::Transport, Status::Timeout, Status::IoError];

fn disturb(cluster: &mut Cluster, random: &mut Random) {
    let disk = random.below(3) as usize;
    match random.below(12) {
        0 => cluster.disk(disk).answers = Answers::Fail(*random.pick(&STATUSES)),
        1 => cluster.disk(disk).answers = Answers::FailLater(*random.pick(&STATUSES)),
        2 => cluster.disk(disk).fail_held(Status::Transport),
        3 => cluster.disk(disk).answers = Answers::Busy,
        4..=6 => {
            cluster.disk(disk).answers = Answers::Mixed {
                inline: 30,
                busy: 20,
            }
        }
        7 | 8 => {
            let text = match random.below(8) {
                0 => format!("fail_path d{disk}"),
                1..=4 => format!("reinstate_path d{disk}"),
                5 => format!("switch_group {}", disk % 2 + 1),
                6 => format!("disable_group {}", disk % 2 + 1),
                _ => format!("enable_group {}", disk % 2 + 1),
            };
            let words = text.split(' ').map(Into::into).collect();
            cluster.request(DEVICE, Request::Message { sector: 0, words });
        }
        9 => {
            cluster.request(DEVICE, SUSPEND_NOFLUSH);
        }
        10 => {
            cluster.request(DEVICE, RESUME);
        }
        _ => {
            cluster.request(DEVICE, Request::Cancel);
        }
    }
}

/// What all cores agree on: INFO without whether the group is in use.
fn agreed(cluster: &Cluster, core: usize) -> String {
    let text = info_on(cluster, core);
    text.replace(" A 0 2 1 d0", " E 0 2 1 d0")
        .replace(" A 0 1 1 d2", " E 0 1 1 d2")
}

#[test]
fn at_17_45_nothing_is_lost_and_cores_agree() {
    for_seeds(100, |seed| {
        let mut random = Random::new(seed);
        let mut cluster = running_with(3, seed, seed % 2 == 1, TEXT);
        let (mut commands, mut in_pieces) = (Vec::new(), Vec::new());
        for n in 0..150u64 {
            let core = random.below(3) as u16;
            let ask = match random.below(8) {
                0 => Ask::flush(),
                2 => Ask::fill(n % 64, 1, 1).fua(),
                3..=5 => Ask::read(n % 60, 4),
                _ => Ask::fill(n % 64, 1, 1),
            };
            commands.push(cluster.submit(core, DEVICE, ask));
            if n % 8 == 0 {
                in_pieces.push(cluster.submit(core, DEVICE, Ask::fill(0, 64, 1)));
            }
            disturb(&mut cluster, &mut random);
            for _ in 0..random.below(20) {
                cluster.step();
                cluster
                    .mappers
                    .iter()
                    .for_each(|mapper| mapper.assert_invariants());
            }
        }
        // Everything is mended.
        (0..3).for_each(|disk| cluster.disk(disk).answers = Answers::Inline);
        cluster.settle();
        let _ = cluster.ask(DEVICE, RESUME);
        (0..3).for_each(|disk| say(&mut cluster, &format!("reinstate_path d{disk}")));
        cluster.settle();
        assert_eq!(ended(&cluster, &commands, Status::Ok), commands.len());
        // One piece was pushed back, and another ended only after the suspend had been given up: an error, as IO-16 and AT-12 (b)
        // have it.
        let pieces_failed = ended(&cluster, &in_pieces, Status::IoError);
        let pieces_well = ended(&cluster, &in_pieces, Status::Ok);
        assert_eq!(pieces_well + pieces_failed, in_pieces.len());
        demand_zero_counters(&cluster);
        for core in 1..3 {
            assert_eq!(agreed(&cluster, core), agreed(&cluster, 0));
        }
        cluster.demand_idle();
    });
}

/// The same with suspends that fail what waits: an original may fail, but only once, and only as the kernel has it.
#[test]
fn with_flush_suspends_an_original_ends_well_or_as_an_io_error() {
    for_seeds(60, |seed| {
        let mut random = Random::new(!seed);
        let mut cluster = running_with(2, seed, seed % 2 == 1, TEXT);
        let mut commands = Vec::new();
        for n in 0..100u64 {
            commands.push(cluster.submit((n % 2) as u16, DEVICE, Ask::fill(n % 60, 2, 1)));
            disturb(&mut cluster, &mut random);
            if n % 10 == 0 {
                cluster.request(DEVICE, SUSPEND);
            }
            cluster.steps(random.below(20));
        }
        (0..3).for_each(|disk| cluster.disk(disk).answers = Answers::Inline);
        cluster.settle();
        let _ = cluster.ask(DEVICE, RESUME);
        (0..3).for_each(|disk| say(&mut cluster, &format!("reinstate_path d{disk}")));
        cluster.settle();
        let well = ended(&cluster, &commands, Status::Ok);
        let failed = ended(&cluster, &commands, Status::IoError);
        assert_eq!(well + failed, commands.len());
        demand_zero_counters(&cluster);
        cluster.demand_idle();
    });
}
