//! Asymmetric namespace access: what commands end with, what hosts are told, and when (NVMe Base 2.0, 8.1).

use super::super::config::{ConfigError, NAMESPACES_MAX};
use super::super::harness::{Harness, NQN, capsule};
use super::super::target::SubsystemId;
use super::host::{Answer, answers, completion, run};
use super::live::{Client, Node};
use crate::dm;
use crate::nvme::command::Fuse;
use crate::nvme::fabrics::{PropertyAccess, PropertySize, property};
use crate::nvme::feature::{self, AsyncEvent};
use crate::nvme::identify::{self, structure};
use crate::nvme::log::{AnaState, page};
use crate::nvme::opcode::{admin, io};
use crate::nvme::pdu::{Digests, FLAG_LAST, Kind, Transfer};
use crate::nvme::{Command, DataPointer, NSID_ALL, Status};

const ALL: [(AnaState, Option<Status>); 5] = [
    (AnaState::Optimized, None),
    (AnaState::NonOptimized, None),
    (AnaState::Inaccessible, Some(Status::ANA_INACCESSIBLE)),
    (AnaState::PersistentLoss, Some(Status::ANA_PERSISTENT_LOSS)),
    (AnaState::Change, Some(Status::ANA_TRANSITION)),
];

/// Every core of a harness, which is one, takes over a state.
fn set(harness: &mut Harness, state: AnaState) {
    let namespaces = harness.local.namespaces(SubsystemId(1));
    namespaces.enforce_ana(state);
    if namespaces.report_ana(state) && state.is_notified() {
        harness.with(|session, cx| session.ana_changed(cx));
        harness.drain();
    }
}

fn command(mut command: Command, id: u16, pointer: DataPointer) -> Command {
    command.set_command_id(id);
    command.set_data_pointer(pointer);
    command
}

fn read(lba: u64) -> Command {
    let read = Command::block_io(io::READ, 1, lba, 8);
    command(read, 7, DataPointer::transport(4096))
}

fn ana_log(flags: u32) -> Command {
    let mut log = Command::get_log_page(NSID_ALL, page::ANA, 1024, 0);
    log.set_dword(10, log.dword(10) | flags);
    command(log, 7, DataPointer::transport(1024))
}

/// Get Log Page: retain asynchronous event.
const RETAIN: u32 = 1 << 15;
/// Get Log Page: groups only (RGO).
const GROUPS_ONLY: u32 = 1 << 8;

/// What an ANA log page says: its change count, and of each group state, change count and namespaces.
fn decode(bytes: &[u8]) -> (u64, Vec<(u8, u64, Vec<u32>)>) {
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let count = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let groups = bytes[8];
    assert!(groups <= 1 && bytes[9..16].iter().all(|&byte| byte == 0));
    let group = |_| {
        assert_eq!(number(16), 1, "group identifier");
        let nsids = (0..number(20) as usize).map(|index| number(48 + index * 4));
        (bytes[32], count(24), nsids.collect())
    };
    (count(0), (0..groups).map(group).collect())
}

#[test]
fn every_command_for_a_namespace_ends_as_the_state_says() {
    for (state, refusal) in ALL {
        let mut harness = Harness::new();
        harness.connect_io(Digests::default(), true);
        set(&mut harness, state);
        let expected = refusal.unwrap_or(Status::SUCCESS);
        let in_capsule = DataPointer::in_capsule(0, 4096);
        let block = |code| Command::block_io(code, 1, 0, 8);
        let nothing = DataPointer::transport(0);
        let commands = [
            (read(0), false),
            (command(block(io::WRITE), 7, in_capsule), true),
            (command(block(io::COMPARE), 7, in_capsule), true),
            (command(block(io::VERIFY), 7, nothing), false),
            (command(block(io::WRITE_ZEROES), 7, nothing), false),
            (
                command(Command::new(io::DATASET_MANAGEMENT, 1), 7, in_capsule),
                true,
            ),
            (command(Command::new(io::FLUSH, 1), 7, nothing), false),
            (
                command(Command::new(io::FLUSH, NSID_ALL), 7, nothing),
                false,
            ),
        ];
        for (command, has_data) in commands {
            let data: &[u8] = if has_data { &[0; 4096] } else { &[] };
            let status = run(&mut harness, &command, data).0;
            assert_eq!(status, expected, "{state:?}, {:X}", command.opcode());
        }
        assert_eq!(harness.backend.requests.is_empty(), refusal.is_some());
        // What is wrong with a command whatever the state is said as ever.
        let mut nowhere = read(0);
        nowhere.set_nsid(NAMESPACES_MAX + 1);
        let invalid = Status::INVALID_NAMESPACE.do_not_retry();
        assert_eq!(run(&mut harness, &nowhere, &[]).0, invalid);
        harness.disconnect_admin();
        harness.close();
    }
}

/// A read at the device, a write that waits for its data, zeroes that are written piece by piece: all began before the change.
#[test]
fn what_has_begun_ends_as_it_would_have() {
    let mut harness = Harness::new();
    harness.connect_io(Digests::default(), true);
    harness.backend.geometry.as_mut().unwrap().write_zeroes = false;
    let geometry = harness.backend.geometry;
    let namespaces = harness.local.namespaces(SubsystemId(1));
    namespaces.device_changed(dm::DeviceId(0), geometry);
    harness.backend.hold = true;
    harness.feed(&capsule(&read(0), &[]), usize::MAX);
    let zeroes = Command::block_io(io::WRITE_ZEROES, 1, 0, 256);
    let zeroes = command(zeroes, 8, DataPointer::transport(0));
    harness.feed(&capsule(&zeroes, &[]), usize::MAX);
    let write = Command::block_io(io::WRITE, 1, 0, 8);
    let write = command(write, 9, DataPointer::transport(4096));
    harness.feed(&capsule(&write, &[]), usize::MAX);
    let Some(Answer::Ready(ready)) = answers(&mut harness).pop() else {
        panic!("no R2T")
    };
    set(&mut harness, AnaState::Inaccessible);
    let mut header = [0; 24];
    let transfer = Transfer {
        size: 4096,
        ..ready
    };
    transfer.encode_data(
        &mut header,
        Kind::HostData,
        FLAG_LAST,
        Digests::default(),
        0,
    );
    harness.feed(&header, usize::MAX);
    harness.feed(&[0xA5; 4096], usize::MAX);
    while harness.backend.held() > 0 {
        harness.finish();
    }
    let mut ended: Vec<(u16, Status)> = answers(&mut harness)
        .into_iter()
        .filter_map(|answer| match answer {
            Answer::Response(completion) => Some((completion.command_id, completion.status)),
            _ => None,
        })
        .collect();
    ended.sort_by_key(|(id, _)| *id);
    assert_eq!(ended, [7, 8, 9].map(|id| (id, Status::SUCCESS)));
    assert_eq!(run(&mut harness, &read(0), &[]).0, Status::ANA_INACCESSIBLE);
    harness.disconnect_admin();
    harness.close();
}

/// The second half of a Compare and Write is a command that arrives: both fail, and nothing is written.
#[test]
fn a_change_between_the_halves_of_a_fused_pair_fails_both() {
    let mut harness = Harness::new();
    harness.connect_io(Digests::default(), true);
    let half = |code, id, fuse| {
        let mut half = Command::block_io(code, 1, 0, 1);
        half.set_fuse(fuse);
        command(half, id, DataPointer::in_capsule(0, 512))
    };
    let first = half(io::COMPARE, 20, Fuse::First);
    harness.feed(&capsule(&first, &[0; 512]), usize::MAX);
    set(&mut harness, AnaState::Change);
    let second = half(io::WRITE, 21, Fuse::Second);
    harness.feed(&capsule(&second, &[1; 512]), usize::MAX);
    let got = answers(&mut harness);
    let [Answer::Response(compare), Answer::Response(write)] = &got[..] else {
        panic!("{got:?}")
    };
    assert_eq!(
        (compare.status, write.status),
        (Status::ABORTED_FAILED_FUSED, Status::ANA_TRANSITION)
    );
    assert!(harness.backend.requests.is_empty());
    harness.disconnect_admin();
    harness.close();
}

#[test]
fn the_log_page_tells_state_and_counts_since_the_reset() {
    let mut harness = Harness::new();
    harness.connect_admin();
    let log = |harness: &mut Harness, flags| {
        let (status, _, data) = run(harness, &ana_log(flags), &[]);
        assert_eq!(status, Status::SUCCESS);
        decode(&data)
    };
    assert_eq!(log(&mut harness, 0), (0, vec![(1, 1, vec![1])]));
    for (changes, (state, _)) in (1..).zip(ALL.into_iter().skip(1)) {
        set(&mut harness, state);
        // The same again is no change.
        set(&mut harness, state);
        let group = |nsids| vec![(state as u8, changes + 1, nsids)];
        assert_eq!(log(&mut harness, 0), (changes, group(vec![1])));
        assert_eq!(log(&mut harness, GROUPS_ONLY), (changes, group(vec![])));
    }
    // A namespace that goes leaves the page, and with the last one its group does; when it is back, all counts have moved on.
    let device = dm::DeviceId(0);
    let geometry = harness.backend.geometry;
    let namespaces = |harness: &mut Harness, geometry| {
        let namespaces = harness.local.namespaces(SubsystemId(1));
        namespaces.device_changed(device, geometry)
    };
    assert_eq!(namespaces(&mut harness, None), [1]);
    assert_eq!(log(&mut harness, 0), (5, vec![]));
    assert_eq!(namespaces(&mut harness, geometry), [1]);
    assert_eq!(log(&mut harness, 0), (6, vec![(0xF, 7, vec![1])]));
    for value in [0, 0x46_0001] {
        let configure = PropertyAccess::set(property::CONFIGURATION, PropertySize::Four, value);
        let configure = command(configure, 7, DataPointer::transport(0));
        assert_eq!(run(&mut harness, &configure, &[]).0, Status::SUCCESS);
    }
    assert_eq!(log(&mut harness, 0), (0, vec![(0xF, 1, vec![1])]));
    harness.close();
}

#[test]
fn identify_claims_what_there_is_and_hides_what_cannot_be_known() {
    let mut harness = Harness::new();
    harness.connect_admin();
    let identify = |harness: &mut Harness, kind, nsid| {
        let identify = Command::identify(kind, nsid);
        let identify = command(identify, 7, DataPointer::transport(4096));
        let (status, _, data) = run(harness, &identify, &[]);
        assert_eq!(status, Status::SUCCESS);
        Box::<identify::Page>::new(data.try_into().unwrap())
    };
    let page = identify(&mut harness, structure::CONTROLLER, 0);
    let controller = identify::Controller::decode(&page);
    assert_eq!(controller.ana_capabilities, 0x5F);
    assert_ne!(controller.ana_transition_seconds, 0);
    assert_ne!(controller.async_events & feature::EVENT_ANA_CHANGE, 0);
    assert_ne!(controller.sharing & identify::sharing::ANA, 0);
    assert_eq!(
        (controller.ana_group_max, controller.ana_group_count),
        (1, 1)
    );
    for (state, _) in ALL {
        set(&mut harness, state);
        let page = identify(&mut harness, structure::NAMESPACE, 1);
        let namespace = identify::Namespace::decode(&page);
        assert_eq!(namespace.ana_group, 1);
        assert_eq!((namespace.size, namespace.capacity), (256, 256));
        let hidden = matches!(state, AnaState::Inaccessible | AnaState::PersistentLoss);
        let used = if hidden { (0, 0) } else { (256, 256 * 512) };
        assert_eq!(
            (namespace.used, namespace.capacity_bytes),
            used,
            "{state:?}"
        );
    }
    harness.close();
}

#[test]
fn features_of_namespaces_are_not_available_while_these_are_not() {
    let mut harness = Harness::new();
    harness.connect_admin();
    let ask = |harness: &mut Harness, code, id: u8, nsid| {
        let mut ask = command(Command::new(code, nsid), 7, DataPointer::transport(0));
        ask.set_dword(10, id.into());
        run(harness, &ask, &[]).0
    };
    let [recovery, arbitration] = [feature::ERROR_RECOVERY, feature::ARBITRATION];
    for (state, refusal) in ALL {
        set(&mut harness, state);
        let refused = refusal.unwrap_or(Status::SUCCESS);
        for code in [admin::GET_FEATURES, admin::SET_FEATURES] {
            assert_eq!(ask(&mut harness, code, recovery, 0), refused);
            assert_eq!(ask(&mut harness, code, arbitration, 0), Status::SUCCESS);
        }
        let all = ask(&mut harness, admin::SET_FEATURES, arbitration, NSID_ALL);
        assert_eq!(all, refused, "{state:?}");
    }
    harness.close();
}

#[test]
fn only_hosts_that_asked_for_it_are_told() {
    let mut harness = Harness::new();
    harness.connect_admin();
    let request = command(
        Command::new(admin::ASYNC_EVENT_REQUEST, 0),
        40,
        DataPointer::transport(0),
    );
    harness.feed(&capsule(&request, &[]), usize::MAX);
    configure_events(
        &mut |command| run(&mut harness, command, &[]).0,
        !feature::EVENT_ANA_CHANGE,
    );
    set(&mut harness, AnaState::Inaccessible);
    assert!(answers(&mut harness).is_empty());
    configure_events(
        &mut |command| run(&mut harness, command, &[]).0,
        feature::EVENT_ANA_CHANGE,
    );
    assert!(
        answers(&mut harness).is_empty(),
        "what was before is not told"
    );
    set(&mut harness, AnaState::Optimized);
    let (_, result, _) = completion(&mut harness, 40);
    assert_eq!(result, u64::from(AsyncEvent::ANA_CHANGE.encode()));
    harness.close();
}

fn configure_events(run: &mut dyn FnMut(&Command) -> Status, events: u32) {
    let configure = Command::new(admin::SET_FEATURES, 0);
    let mut configure = command(configure, 7, DataPointer::transport(0));
    configure.set_dword(10, feature::ASYNC_EVENT_CONFIGURATION.into());
    configure.set_dword(11, events);
    assert_eq!(run(&configure), Status::SUCCESS);
}

/// A target on two cores, a controller that wants to know, and I/O queues on both cores.
struct World {
    node: Node,
    admin: Client,
    queues: Vec<Client>,
}

impl World {
    fn start() -> Self {
        let node = Node::start();
        let (mut admin, id) = node.admin(0);
        let queues = (1..=4).map(|queue| node.io(id, queue)).collect();
        let run = &mut |command: &Command| admin.run(*command, &[]).0;
        configure_events(run, feature::EVENT_ANA_CHANGE);
        let connections = node.export.snapshot(&node.engine).connections;
        let io = connections.iter().filter(|one| one.queue_id != Some(0));
        let cores: std::collections::BTreeSet<u16> = io.map(|one| one.core).collect();
        assert_eq!(cores.len(), 2, "I/O queues on both cores");
        Self {
            node,
            admin,
            queues,
        }
    }

    fn set(&self, state: AnaState) {
        let Node { engine, export } = &self.node;
        export.set_ana(engine, NQN, state).unwrap();
        // Every core answers, so it has seen to all that came before.
        let subsystems = export.snapshot(engine).subsystems;
        assert_eq!(subsystems[0].ana, state);
    }

    fn request_event(&mut self) {
        let request = Command::new(admin::ASYNC_EVENT_REQUEST, 0);
        self.admin.submit(request, 50, &[]);
    }

    fn expect_event(&mut self) {
        let told = u64::from(AsyncEvent::ANA_CHANGE.encode());
        let (status, result, _) = self.admin.complete(50);
        assert_eq!((status, result), (Status::SUCCESS, told));
    }

    /// The state and the change count of the log page. Its answer is the next: no event comes before it.
    fn log(&mut self, flags: u32) -> (u8, u64) {
        let (status, _, data) = self.admin.run(ana_log(flags), &[]);
        assert_eq!(status, Status::SUCCESS);
        let (changes, groups) = decode(&data);
        (groups[0].0, changes)
    }

    fn expect_io(&mut self, expected: Status) {
        for queue in &mut self.queues {
            let (status, _, data) = queue.run(read(0), &[]);
            assert_eq!(status, expected);
            assert_eq!(data.is_empty(), !expected.is_success());
        }
    }
}

#[test]
fn io_on_every_core_follows_the_state_and_the_event_comes_once_per_look() {
    let mut world = World::start();
    world.expect_io(Status::SUCCESS);
    world.request_event();
    world.set(AnaState::Inaccessible);
    world.expect_io(Status::ANA_INACCESSIBLE);
    world.expect_event();
    assert_eq!(world.log(0), (3, 1));
    world.request_event();
    world.set(AnaState::Optimized);
    world.expect_io(Status::SUCCESS);
    world.expect_event();

    // Masked until the page is read without retaining the event.
    world.request_event();
    world.set(AnaState::NonOptimized);
    world.expect_io(Status::SUCCESS);
    assert_eq!(world.log(RETAIN), (2, 3));
    world.set(AnaState::PersistentLoss);
    world.expect_io(Status::ANA_PERSISTENT_LOSS);
    assert_eq!(world.log(0), (4, 4));
    // To the same state is no change.
    world.set(AnaState::PersistentLoss);
    assert_eq!(world.log(0), (4, 4));
    world.node.stop();
}

#[test]
fn the_passing_state_is_not_told_but_its_end_is() {
    let mut world = World::start();
    world.request_event();
    world.set(AnaState::Change);
    world.expect_io(Status::ANA_TRANSITION);
    assert_eq!(world.log(0), (0xF, 1));
    world.set(AnaState::Optimized);
    world.expect_event();
    world.expect_io(Status::SUCCESS);
    assert_eq!(world.log(0), (1, 2));
    world.node.stop();
}

/// "shall not transition to any other ANA state" (8.1.3.4): the controllers end, and new ones are in the new state.
#[test]
fn hosts_connect_anew_after_persistent_loss() {
    let mut world = World::start();
    world.set(AnaState::PersistentLoss);
    world.expect_io(Status::ANA_PERSISTENT_LOSS);
    world.set(AnaState::Optimized);
    world.admin.expect_end();
    world.queues.iter_mut().for_each(Client::expect_end);
    world.node.await_connections(0);
    let (admin, id) = world.node.admin(0);
    world.admin = admin;
    world.queues = vec![world.node.io(id, 1), world.node.io(id, 2)];
    world.expect_io(Status::SUCCESS);
    assert_eq!(world.log(0), (1, 0));
    world.node.stop();
}

#[test]
fn a_subsystem_that_is_not_there_has_no_state() {
    let node = Node::start();
    for nqn in ["nqn.2026-11.io.polldm:other", crate::nvme::DISCOVERY_NQN] {
        let refused = node.export.set_ana(&node.engine, nqn, AnaState::Change);
        assert_eq!(refused, Err(ConfigError::UnknownSubsystem(nqn.into())));
    }
    node.stop();
}
