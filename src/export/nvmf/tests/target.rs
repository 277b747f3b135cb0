//! What cores know together: Connect, identifiers, hosts, changes.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use super::super::config::{Config, ConfigError, Hosts, NamespaceConfig, SubsystemConfig};
use super::super::registry::CONTROLLER_ID_MAX;
use super::super::target::{
    CONTROLLERS_MAX, Discovered, IO_QUEUES_MAX, Refusal, SessionKey, Target,
};
use crate::dm::{CoreId, DeviceId};
use crate::nvme::DISCOVERY_NQN;
use crate::nvme::log::AnaState;

const NQN: &str = "nqn.2026-11.io.polldm:a";
const HOST: &str = "nqn.2026-11.io.polldm:host";

fn target(hosts: Hosts) -> Target {
    let namespace = NamespaceConfig {
        nsid: 1,
        device: DeviceId(7),
        device_name: "vol0".into(),
        uuid: None,
    };
    let subsystem = SubsystemConfig {
        nqn: NQN.into(),
        serial: None,
        model: None,
        hosts,
        ana: AnaState::Optimized,
        namespaces: vec![namespace],
    };
    let listeners = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    Target::new(
        &Config {
            listeners,
            subsystems: vec![subsystem],
            discovery_nqn: None,
        },
        2,
    )
    .unwrap()
}

fn key(index: u32) -> SessionKey {
    SessionKey {
        core: CoreId(0),
        index,
        generation: 0,
    }
}

#[test]
fn an_io_queue_needs_an_enabled_controller_of_the_same_host() {
    let target = target(Hosts::Any);
    let admission = target.connect_admin(NQN, HOST, [1; 16], key(0)).unwrap();
    let id = admission.controller_id;
    let connect = |host: &str, host_id, controller, queue, session| {
        target
            .connect_io(NQN, host, host_id, controller, queue, key(session))
            .map(|_| ())
    };
    assert_eq!(connect(HOST, [1; 16], id, 1, 1), Err(Refusal::NotEnabled));
    target.set_enabled(admission.subsystem, id, true);
    assert_eq!(connect(HOST, [2; 16], id, 1, 1), Err(Refusal::HostId));
    assert_eq!(
        connect("nqn.2026-11.io.polldm:b", [1; 16], id, 1, 1),
        Err(Refusal::HostNqn)
    );
    assert_eq!(
        connect(HOST, [1; 16], id + 1, 1, 1),
        Err(Refusal::ControllerId)
    );
    assert_eq!(
        connect(HOST, [1; 16], id, IO_QUEUES_MAX + 1, 1),
        Err(Refusal::QueueId)
    );
    assert_eq!(connect(HOST, [1; 16], id, 1, 1), Ok(()));
    assert_eq!(connect(HOST, [1; 16], id, 1, 2), Err(Refusal::QueueId));
    target.disconnect_io(admission.subsystem, id, 1, key(2));
    assert_eq!(target.queue_count(admission.subsystem, id), 1);
    target.disconnect_io(admission.subsystem, id, 1, key(1));
    assert_eq!(connect(HOST, [1; 16], id, 1, 2), Ok(()));
    assert_eq!(
        target.set_enabled(admission.subsystem, id, false),
        vec![key(2)]
    );
    assert_eq!(
        target.remove_controller(admission.subsystem, id, key(9)),
        vec![]
    );
    assert_eq!(
        target.remove_controller(admission.subsystem, id, key(0)),
        vec![key(2)]
    );
    assert!(target.snapshot().is_empty());
}

#[test]
fn controller_identifiers_are_unique_and_used_again() {
    let target = target(Hosts::Any);
    let first = target.connect_admin(NQN, HOST, [1; 16], key(0)).unwrap();
    for index in 1..CONTROLLERS_MAX as u32 {
        target
            .connect_admin(NQN, HOST, [1; 16], key(index))
            .unwrap();
    }
    let refused = target.connect_admin(NQN, HOST, [1; 16], key(0)).map(|_| ());
    assert_eq!(refused, Err(Refusal::Busy));
    target.remove_controller(first.subsystem, first.controller_id, key(0));
    for _ in 0..70_000 {
        let next = target.connect_admin(NQN, HOST, [1; 16], key(5000)).unwrap();
        assert!((1..=CONTROLLER_ID_MAX).contains(&next.controller_id));
        target.remove_controller(next.subsystem, next.controller_id, key(5000));
    }
    assert_eq!(
        target.controller_ids(first.subsystem, 0).len(),
        CONTROLLERS_MAX - 1
    );
}

#[test]
fn hosts_see_and_reach_only_what_they_may() {
    let target = target(Hosts::List(vec![HOST.into()]));
    assert_eq!(target.discover("nqn.2026-11.io.polldm:b").1.len(), 1);
    let (generation, seen) = target.discover(HOST);
    assert_eq!(
        seen[1],
        Discovered {
            nqn: NQN.into(),
            is_discovery: false
        }
    );
    let refused = target
        .connect_admin(NQN, "nqn.2026-11.io.polldm:b", [1; 16], key(0))
        .map(|_| ());
    assert_eq!(refused, Err(Refusal::Host));
    target.connect_admin(NQN, HOST, [1; 16], key(4)).unwrap();
    assert_eq!(target.set_hosts(NQN, Hosts::List(vec![])), Ok(vec![key(4)]));
    assert_eq!(
        target.discover(HOST),
        (generation + 1, vec![seen[0].clone()])
    );
}

#[test]
fn namespaces_come_and_go() {
    let target = target(Hosts::Any);
    let new = NamespaceConfig {
        nsid: 2,
        device: DeviceId(8),
        device_name: "vol1".into(),
        uuid: Some([9; 16]),
    };
    let subsystem = target.add_namespace(NQN, &new).unwrap();
    assert_eq!(target.namespaces(subsystem).len(), 2);
    assert!(matches!(
        target.add_namespace(NQN, &new),
        Err(ConfigError::DuplicateNsid { nsid: 2, .. })
    ));
    assert_eq!(
        target.remove_namespace(NQN, 1),
        Ok((subsystem, DeviceId(7)))
    );
    assert!(matches!(
        target.remove_namespace(NQN, 1),
        Err(ConfigError::UnknownNamespace { .. })
    ));
    assert!(matches!(
        target.add_namespace(DISCOVERY_NQN, &new),
        Err(ConfigError::UnknownSubsystem(_))
    ));
}

#[test]
fn connections_spread_and_admin_queues_weigh_little() {
    let target = target(Hosts::Any);
    let admin = target.choose_core().unwrap();
    target.is_admin(admin);
    let queues: Vec<CoreId> = (0..4).filter_map(|_| target.choose_core()).collect();
    assert_eq!(queues.iter().filter(|core| core.0 == 0).count(), 2);
    target.connection_ended(admin, true);
    queues
        .iter()
        .for_each(|core| target.connection_ended(*core, false));
    assert!(
        target
            .loads
            .iter()
            .all(|load| load.load(Ordering::Relaxed) == 0)
    );
}
