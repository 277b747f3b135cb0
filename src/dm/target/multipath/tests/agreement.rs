//! Copies of a target on several cores, with messages and notices under way between them: in the end they agree.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const CORES: usize = 3;

/// What goes from the home core to another.
#[derive(Clone, Debug)]
enum Order {
    Message(Vec<String>),
    Notice(Notice),
    Presuspend(bool),
    Undo,
    Resume,
}

/// Core 0 is home; the queues are first in, first out, and everything else is up to the test.
struct Cores {
    copies: Vec<Live>,
    to_home: Vec<VecDeque<Notice>>,
    from_home: Vec<VecDeque<Order>>,
    suspending: bool,
}

impl Cores {
    fn new(text: &str) -> Cores {
        let copies = (0..CORES as u16).map(|core| {
            let mut live = live(text);
            live.target.bind(Site {
                core: CoreId(core),
                cores: CORES as u16,
                now_ns: 1,
            });
            live
        });
        Cores {
            copies: copies.collect(),
            to_home: vec![VecDeque::new(); CORES],
            from_home: vec![VecDeque::new(); CORES],
            suspending: false,
        }
    }

    fn order(&mut self, order: &Order) {
        self.from_home
            .iter_mut()
            .for_each(|queue| queue.push_back(order.clone()));
    }

    /// Delivers one message to or from a core.
    fn deliver(&mut self, core: usize, to_home: bool) {
        if to_home {
            if let Some(notice) = self.to_home[core].pop_front()
                && self.copies[0].target.notice(notice)
            {
                self.order(&Order::Notice(notice));
            }
            return;
        }
        let Some(order) = self.from_home[core].pop_front() else {
            return;
        };
        let live = &mut self.copies[core];
        match order {
            Order::Message(words) => {
                let told = live
                    .target
                    .message(&words, false, live.now_ns, &live.lowers);
                told.expect("the home core's copy took it");
            }
            Order::Notice(notice) => {
                live.target.notice(notice);
            }
            Order::Presuspend(noflush) => live.target.presuspend(noflush),
            Order::Undo => live.target.presuspend_undo(),
            Order::Resume => {
                live.target.postsuspend();
                live.target.resume();
            }
        }
    }

    fn settle(&mut self) {
        while self.to_home.iter().any(|q| !q.is_empty())
            || self.from_home.iter().any(|q| !q.is_empty())
        {
            for core in 0..CORES {
                self.deliver(core, true);
                self.deliver(core, false);
            }
        }
    }

    fn act(&mut self, kind: u8, core: usize, number: u64) {
        let live = &mut self.copies[core];
        let mut notice = None;
        match kind {
            0..=2 => {
                if let Map::Remapped {
                    channel,
                    sector,
                    note,
                } = live.map()
                {
                    let name = live.lowers[channel.0 as usize].name.clone();
                    let status = if kind == 0 {
                        Status::Ok
                    } else {
                        Status::Transport
                    };
                    let ended = Ended {
                        op: Op::Read,
                        sector,
                        sectors: 1,
                        channel,
                        note,
                        status,
                        started_ns: live.now_ns,
                        now_ns: live.now_ns,
                    };
                    live.held.push((name, ended));
                }
            }
            3..=5 if !live.held.is_empty() => {
                let at = number as usize % live.held.len();
                let (_, ended) = live.held.remove(at);
                live.target.end(&ended, &mut notice);
            }
            6..=8 => self.deliver(core, true),
            9..=11 => self.deliver(core, false),
            12 | 13 => {
                let device = ["a", "b", "c"][number as usize % 3];
                let group = number % 2 + 1;
                let text = match number % 8 {
                    0 => format!("fail_path {device}"),
                    1..=4 => format!("reinstate_path {device}"),
                    5 => format!("switch_group {group}"),
                    6 => format!("disable_group {group}"),
                    _ => {
                        ["queue_if_no_path", "fail_if_no_path"][number as usize / 8 % 2].to_string()
                    }
                };
                // As the mapper: the home core's copy first, and in line with what it has sent before.
                while !self.from_home[0].is_empty() {
                    self.deliver(0, false);
                }
                let home = &mut self.copies[0];
                if home
                    .target
                    .clone()
                    .message(&words(&text), false, 1, &home.lowers)
                    .is_ok()
                {
                    self.order(&Order::Message(words(&text)));
                }
                while !self.from_home[0].is_empty() {
                    self.deliver(0, false);
                }
            }
            14 => {
                live.now_ns += number * 100_000_000;
                let now_ns = live.now_ns;
                if live.target.due_ns() <= now_ns {
                    live.target.timer(now_ns, &mut notice);
                }
            }
            15 if number < 3 => {
                live.target
                    .lower_gone(ChannelIndex(number as u32), &mut notice);
            }
            16 => {
                let order = match (self.suspending, number % 2) {
                    (false, _) => Order::Presuspend(number.is_multiple_of(3)),
                    (true, 0) => Order::Undo,
                    _ => Order::Resume,
                };
                self.suspending = !self.suspending;
                self.order(&order);
                while !self.from_home[0].is_empty() {
                    self.deliver(0, false);
                }
            }
            _ => {}
        }
        self.to_home[core].extend(notice);
    }
}

/// What cores must agree on: all that INFO and TABLE say, but whether the current group is in use, and how old their news are.
fn agreed(live: &Live) -> (String, String, Vec<u32>) {
    let info = live
        .info()
        .replace(" A 0 2 0 a", " E 0 2 0 a")
        .replace(" A 0 1 1 c", " E 0 1 1 c");
    let generations = live.target.paths.all().iter().map(|path| path.generation);
    (live.table(), info, generations.collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn copies_agree_once_everything_has_arrived(
        acts in proptest::collection::vec((0u8..17, 0usize..CORES, 0u64..32), 1..300)
    ) {
        let text = "3 queue_if_no_path queue_if_no_path_timeout_secs 1 0 2 1 round-robin 0 2 0 a b queue-length 0 1 0 c";
        let mut cores = Cores::new(text);
        let mut gone = false;
        for (kind, core, number) in acts {
            gone |= kind == 15;
            cores.act(kind, core, number);
        }
        for core in 0..CORES {
            while !cores.copies[core].held.is_empty() {
                cores.act(3, core, 0);
            }
        }
        cores.settle();
        for core in 1..CORES {
            prop_assert_eq!(agreed(&cores.copies[core]), agreed(&cores.copies[0]));
        }
        for live in &mut cores.copies {
            prop_assert!(live.info().ends_with(" 0"), "counted at idle: {}", live.info());
            live.target.paths.timer(u64::MAX);
            for group in live.target.paths.groups() {
                prop_assert!(gone || group.usable == group.valid, "a path is given up for nothing: {live:?}");
            }
        }
    }
}

/// Two cores see the same path fail: one event, one failure counted.
#[test]
fn one_failure_seen_twice_is_counted_once() {
    let mut cores = Cores::new(TWO_GROUPS);
    let mut news = 0;
    for core in 0..CORES {
        cores.act(1, core, 0);
        cores.act(3, core, 0);
    }
    for core in 0..CORES {
        let notice = cores.to_home[core].pop_front().expect("each tells");
        if cores.copies[0].target.notice(notice) {
            news += 1;
            cores.order(&Order::Notice(notice));
        }
    }
    cores.settle();
    assert_eq!(news, 1);
    for live in &cores.copies {
        assert!(live.info().contains(" a F 1 b A 0 "), "{}", live.info());
    }
}

/// The home core shows the group in use when only another core has used it.
#[test]
fn the_home_core_learns_that_a_group_is_in_use() {
    let mut cores = Cores::new(TWO_GROUPS);
    assert!(cores.copies[0].info().contains(" 2 1 E "));
    assert_eq!(cores.copies[2].run_quietly(), 1);
    cores.act(0, 2, 0);
    cores.act(3, 2, 0);
    cores.settle();
    assert_eq!(cores.copies[2].run_quietly(), 0, "told once");
}

impl Live {
    /// Runs an I/O; how many notices it sends.
    fn run_quietly(&mut self) -> usize {
        self.start();
        let (_, ended) = self.held.pop().expect("just started");
        let mut notice = None;
        self.target.end(&ended, &mut notice);
        usize::from(notice.is_some())
    }
}

/// A notice that crosses a reinstatement: the path was good again when it was sent, and the core that sent it uses it again too.
#[test]
fn a_stale_notice_does_not_fail_a_path_reinstated_since() {
    let mut cores = Cores::new(TWO_GROUPS);
    cores.act(1, 1, 0);
    cores.act(3, 1, 0);
    assert_eq!(
        cores.copies[1].run_quietly(),
        1,
        "from b, while a is avoided"
    );
    cores.order(&Order::Message(words("reinstate_path a")));
    cores.deliver(0, false);
    let stale = cores.to_home[1].pop_front().expect("core 1 has told");
    assert!(!cores.copies[0].target.notice(stale));
    cores.settle();
    for live in &mut cores.copies {
        assert!(live.info().contains(" a A 0 b A 0 "), "{}", live.info());
        let devices = live.starts(2);
        assert!(devices.contains(&"a".to_string()), "{devices:?}");
    }
}
