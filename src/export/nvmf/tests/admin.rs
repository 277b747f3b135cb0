//! Connect, properties, admin commands, events.

use super::super::controller::ASYNC_EVENTS_MAX;
use super::super::harness::{HOST, Harness, NQN, capsule, connect};
use super::super::target::{IO_QUEUES_MAX, Refusal, SubsystemId};
use super::host::{Answer, answers, run};
use crate::nvme::fabrics::{PropertyAccess, PropertySize, property};
use crate::nvme::feature::{self, AsyncEvent};
use crate::nvme::identify::{self, Page, structure};
use crate::nvme::log::page;
use crate::nvme::opcode::{admin, fabrics, io};
use crate::nvme::pdu::Digests;
use crate::nvme::{Command, DISCOVERY_NQN, DataPointer, NSID_ALL, Status};

fn connected() -> Harness {
    let mut harness = Harness::new();
    harness.connect_admin();
    harness
}

fn with_id(mut command: Command, size: u32) -> Command {
    command.set_command_id(7);
    command.set_data_pointer(DataPointer::transport(size));
    command
}

fn identify(harness: &mut Harness, kind: u8, nsid: u32) -> Result<Box<Page>, Status> {
    let command = with_id(Command::identify(kind, nsid), 4096);
    let (status, _, data) = run(harness, &command, &[]);
    if status.is_success() {
        Ok(Box::new(data.try_into().expect("a page")))
    } else {
        Err(status)
    }
}

fn log(harness: &mut Harness, id: u8, size: u32, offset: u64) -> Result<Vec<u8>, Status> {
    let command = with_id(Command::get_log_page(NSID_ALL, id, size, offset), size);
    let (status, _, data) = run(harness, &command, &[]);
    if status.is_success() {
        Ok(data)
    } else {
        Err(status)
    }
}

#[test]
fn connect_is_refused_for_the_right_reason() {
    let invalid = Status::CONNECT_INVALID_PARAMETERS.do_not_retry();
    let cases: [(Vec<u8>, Status, u64); 8] = [
        (
            connect("nqn.2026-11.io.polldm:other", 0, 0xFFFF, 31, 0),
            invalid,
            1 << 16 | 256,
        ),
        (connect(NQN, 0, 1, 31, 0), invalid, 1 << 16 | 16),
        (connect(NQN, 0, 0xFFFF, 0, 0), invalid, 44),
        (connect(NQN, 0, 0xFFFF, 1024, 0), invalid, 44),
        (connect(NQN, 1, 9, 31, 0), invalid, 1 << 16 | 16),
        (
            connect(DISCOVERY_NQN, 1, 0xFFFF, 31, 0),
            invalid,
            1 << 16 | 16,
        ),
        (
            {
                let mut bytes = connect(NQN, 0, 0xFFFF, 31, 0);
                bytes[8 + 40] = 1;
                bytes
            },
            Status::CONNECT_INCOMPATIBLE_FORMAT.do_not_retry(),
            0,
        ),
        (
            {
                let mut bytes = connect(NQN, 0, 0xFFFF, 31, 0);
                bytes[72..88].fill(0);
                bytes
            },
            invalid,
            1 << 16,
        ),
    ];
    for (bytes, status, result) in cases {
        let mut harness = Harness::new();
        harness.initialize(Digests::default());
        harness.output.clear();
        harness.feed(&bytes, usize::MAX);
        let Some(Answer::Response(completion)) = answers(&mut harness).pop() else {
            panic!()
        };
        assert_eq!((completion.status, completion.result), (status, result));
        // The connection can still be used.
        harness.feed(&connect(NQN, 0, 0xFFFF, 31, 0), usize::MAX);
        let Some(Answer::Response(completion)) = answers(&mut harness).pop() else {
            panic!()
        };
        assert!(completion.status.is_success());
        harness.close();
    }
}

#[test]
fn connect_comes_first_and_once() {
    let mut harness = Harness::new();
    harness.initialize(Digests::default());
    harness.output.clear();
    let sequence = Status::COMMAND_SEQUENCE_ERROR.do_not_retry();
    let command = with_id(Command::identify(structure::CONTROLLER, 0), 4096);
    assert_eq!(run(&mut harness, &command, &[]).0, sequence);
    let command = with_id(PropertyAccess::get(property::STATUS, PropertySize::Four), 0);
    assert_eq!(run(&mut harness, &command, &[]).0, sequence);
    harness.feed(&connect(NQN, 0, 0xFFFF, 31, 0), usize::MAX);
    assert!(answers(&mut harness).len() == 1 && harness.session.queue.is_some());
    // Not enabled: nothing but fabrics commands.
    let command = with_id(Command::identify(structure::CONTROLLER, 0), 4096);
    assert_eq!(run(&mut harness, &command, &[]).0, sequence);
    harness.feed(&connect(NQN, 0, 0xFFFF, 31, 0), usize::MAX);
    let Some(Answer::Response(completion)) = answers(&mut harness).pop() else {
        panic!()
    };
    assert_eq!(completion.status, sequence);
    harness.close();
}

/// A host may send ICReq, Connect and more without waiting for an answer.
#[test]
fn a_host_that_does_not_wait_is_served() {
    use crate::nvme::pdu::InitializeRequest;
    let request = InitializeRequest {
        format_version: 0,
        host_alignment: 0,
        digests: Digests::default(),
        ready_to_transfer_max: 1,
    };
    let mut bytes = request.encode().to_vec();
    bytes.extend(connect(NQN, 0, 0xFFFF, 31, 0));
    let get = with_id(
        PropertyAccess::get(property::CAPABILITIES, PropertySize::Eight),
        0,
    );
    bytes.extend(capsule(&get, &[]));
    for piece in [1, 7, 100, usize::MAX] {
        let mut harness = Harness::new();
        harness.feed(&bytes, piece);
        let answers = answers(&mut harness);
        assert_eq!(answers.len(), 3, "{answers:?}");
        assert_eq!(answers[0], Answer::Initialized);
        harness.close();
    }
}

#[test]
fn properties() {
    let mut harness = connected();
    let mut get = |offset, size| {
        let (status, value, _) = run(
            &mut harness,
            &with_id(PropertyAccess::get(offset, size), 0),
            &[],
        );
        if status.is_success() {
            Ok(value)
        } else {
            Err(status)
        }
    };
    let invalid = Err(Status::INVALID_FIELD.do_not_retry());
    let capabilities = get(property::CAPABILITIES, PropertySize::Eight).unwrap();
    assert_eq!(
        (
            capabilities & 0xFFFF,
            capabilities >> 16 & 1,
            capabilities >> 37 & 0x41
        ),
        (1023, 1, 0x41)
    );
    assert_eq!(get(property::VERSION, PropertySize::Four), Ok(0x2_0000));
    assert_eq!(
        get(property::CONFIGURATION, PropertySize::Four),
        Ok(0x46_0001)
    );
    assert_eq!(get(property::STATUS, PropertySize::Four), Ok(1));
    assert_eq!(get(property::CAPABILITIES, PropertySize::Four), invalid);
    assert_eq!(get(property::STATUS, PropertySize::Eight), invalid);
    for offset in [property::SUBSYSTEM_RESET, 0x24, 0x38, 0x1000] {
        assert_eq!(get(offset, PropertySize::Four), invalid, "{offset:X}");
    }
    let mut set = |offset, value| {
        run(
            &mut harness,
            &with_id(PropertyAccess::set(offset, PropertySize::Four, value), 0),
            &[],
        )
        .0
    };
    assert_eq!(
        set(property::STATUS, 0),
        Status::INVALID_FIELD.do_not_retry()
    );
    assert_eq!(set(property::CONFIGURATION, 0), Status::SUCCESS);
    // Page size, arbitration and command set that CAP does not offer.
    for wrong in [1 | 1 << 7, 1 | 1 << 11, 1 | 1 << 4] {
        assert_eq!(
            set(property::CONFIGURATION, wrong),
            Status::INVALID_FIELD.do_not_retry()
        );
    }
    harness.close();
}

#[test]
fn reset_and_shutdown() {
    let mut harness = connected();
    let mut request = Command::new(admin::ASYNC_EVENT_REQUEST, 0);
    request.set_command_id(40);
    harness.feed(&capsule(&request, &[]), usize::MAX);
    let id = harness.session.queue.as_ref().unwrap().controller_id;
    let key = harness.session.key;
    let io_queue = |harness: &Harness| {
        harness
            .target
            .connect_io(NQN, HOST, super::super::harness::HOST_ID, id, 1, key)
    };
    assert!(io_queue(&harness).is_ok());
    let set = |harness: &mut Harness, value| {
        let command = with_id(
            PropertyAccess::set(property::CONFIGURATION, PropertySize::Four, value),
            0,
        );
        harness.feed(&capsule(&command, &[]), usize::MAX);
        answers(harness)
    };
    let status = |harness: &mut Harness| {
        run(
            harness,
            &with_id(PropertyAccess::get(property::STATUS, PropertySize::Four), 0),
            &[],
        )
        .1
    };
    // Shutdown: under way until the I/O queue is gone.
    let answers = set(&mut harness, 0x46_4001);
    let Answer::Response(aborted) = &answers[0] else {
        panic!("{answers:?}")
    };
    assert_eq!(
        (aborted.command_id, aborted.status),
        (40, Status::ABORTED_QUEUE_DELETION)
    );
    assert_eq!(harness.local.outbox.len(), 1);
    assert_eq!(status(&mut harness), 1 | 1 << 2);
    assert_eq!(io_queue(&harness).map(|_| ()), Err(Refusal::NotEnabled));
    harness.target.disconnect_io(SubsystemId(1), id, 1, key);
    assert_eq!(status(&mut harness), 1 | 2 << 2);
    // Reset, and back in service.
    set(&mut harness, 0);
    assert_eq!(status(&mut harness), 0);
    set(&mut harness, 0x46_0001);
    assert_eq!(status(&mut harness), 1);
    assert!(io_queue(&harness).is_ok());
    harness.close();
}

#[test]
fn identify_tells_the_truth() {
    let mut harness = connected();
    let page = identify(&mut harness, structure::CONTROLLER, 0).unwrap();
    let controller = identify::Controller::decode(&page);
    assert_eq!(controller.subsystem_nqn, NQN);
    assert_eq!(
        (controller.write_cache, controller.transfer_size_max),
        (7, 6)
    );
    assert_eq!(
        (controller.controller_id, controller.controller_type),
        (1, 1)
    );
    let page = identify(&mut harness, structure::NAMESPACE, 1).unwrap();
    let namespace = identify::Namespace::decode(&page);
    assert_eq!(
        (
            namespace.size,
            namespace.block_shift,
            namespace.write_granularity
        ),
        (256, 9, 7)
    );
    assert_eq!(
        (namespace.atomic_compare_write, namespace.optimal_write_size),
        (127, 7)
    );
    for list in [
        structure::ACTIVE_NAMESPACES,
        structure::COMMAND_SET_ACTIVE_NAMESPACES,
        structure::ALLOCATED_NAMESPACES,
    ] {
        let page = identify(&mut harness, list, 0).unwrap();
        assert_eq!(
            identify::decode_namespace_list(&page).collect::<Vec<_>>(),
            [1]
        );
        let page = identify(&mut harness, list, 1).unwrap();
        assert_eq!(identify::decode_namespace_list(&page).count(), 0);
        assert_eq!(
            identify(&mut harness, list, NSID_ALL),
            Err(Status::INVALID_NAMESPACE.do_not_retry())
        );
    }
    let page = identify(&mut harness, structure::NAMESPACE_DESCRIPTORS, 1).unwrap();
    let identity = identify::NamespaceIdentity::decode(&page);
    assert!(identity.uuid.is_some() && identity.command_set == Some(0));
    for kind in [
        structure::COMMAND_SET_NAMESPACE,
        structure::COMMAND_SET_CONTROLLER,
        structure::INDEPENDENT_NAMESPACE,
        structure::ALLOCATED_NAMESPACE,
        structure::ATTACHED_CONTROLLERS,
        structure::CONTROLLERS,
        structure::COMMAND_SET_ALLOCATED_NAMESPACES,
        structure::COMMAND_SET_ALLOCATED_NAMESPACE,
    ] {
        assert!(identify(&mut harness, kind, 1).is_ok(), "{kind:X}");
    }
    let mut command = with_id(Command::identify(structure::COMMAND_SETS, 0), 4096);
    command.set_dword(10, 0xFFFF_0000 | u32::from(structure::COMMAND_SETS));
    assert_eq!(run(&mut harness, &command, &[]).0, Status::SUCCESS);
    harness.close();
}

#[test]
fn identify_refuses_what_is_not_there() {
    let mut harness = connected();
    let invalid_field = Some(Status::INVALID_FIELD.do_not_retry());
    let invalid_namespace = Some(Status::INVALID_NAMESPACE.do_not_retry());
    for kind in [structure::NVM_SETS, 0x09, 0x14, 0x1D, 0xFF] {
        assert_eq!(
            identify(&mut harness, kind, 1).err(),
            invalid_field,
            "{kind:X}"
        );
    }
    assert_eq!(
        identify(&mut harness, structure::NAMESPACE, 0).err(),
        invalid_namespace
    );
    assert_eq!(
        identify(&mut harness, structure::NAMESPACE, 1025).err(),
        invalid_namespace
    );
    assert_eq!(
        identify(&mut harness, structure::NAMESPACE, NSID_ALL).err(),
        invalid_namespace
    );
    assert_eq!(
        *identify(&mut harness, structure::NAMESPACE, 2).unwrap(),
        [0; 4096]
    );
    assert_eq!(
        identify(&mut harness, structure::NAMESPACE_DESCRIPTORS, 2).err(),
        invalid_namespace
    );
    let mut other_set = with_id(Command::identify(structure::COMMAND_SET_NAMESPACE, 1), 4096);
    other_set.set_dword(11, 2 << 24);
    assert_eq!(
        run(&mut harness, &other_set, &[]).0,
        Status::INVALID_COMMAND_SET.do_not_retry()
    );
    let short = with_id(Command::identify(structure::CONTROLLER, 0), 4095);
    assert_eq!(
        run(&mut harness, &short, &[]).0,
        Status::DATA_SGL_LENGTH_INVALID.do_not_retry()
    );
    harness.close();
}

#[test]
fn log_pages() {
    let mut harness = connected();
    let supported = log(&mut harness, page::SUPPORTED, 1024, 0).unwrap();
    for id in 0..=255u8 {
        let answer = log(&mut harness, id, 64, 0);
        let listed = supported[usize::from(id) * 4] & 1 != 0;
        assert_eq!(answer.is_ok(), listed, "{id:X}");
        if !listed {
            assert_eq!(answer, Err(Status::INVALID_LOG_PAGE.do_not_retry()));
        }
    }
    let invalid = Err(Status::INVALID_FIELD.do_not_retry());
    assert_eq!(log(&mut harness, page::SMART, 512, 516), invalid);
    assert_eq!(log(&mut harness, page::SMART, 512, 2), invalid);
    assert_eq!(log(&mut harness, page::SMART, 512 * 1024, 0), invalid);
    assert_eq!(log(&mut harness, page::SMART, 512, u64::MAX - 3), invalid);
    assert_eq!(log(&mut harness, page::SMART, 8, 508).unwrap().len(), 8);
    let effects = log(&mut harness, page::COMMAND_EFFECTS, 4096, 0).unwrap();
    assert_eq!(
        (effects[1024 + 4 * usize::from(io::WRITE)], effects[0]),
        (3, 0)
    );
    // The commands refused above are in the error log, newest first.
    let errors = log(&mut harness, page::ERROR, 64, 0).unwrap();
    assert!(errors[0] > 200 && errors[8..10] == [0, 0]);
    harness.close();
}

#[test]
fn features_are_read_back_and_the_rest_refused() {
    let mut harness = connected();
    let feature_command = |opcode, dword10: u32, dword11| {
        let mut command = with_id(Command::new(opcode, 0), 4096);
        command.set_dword(10, dword10);
        command.set_dword(11, dword11);
        command
    };
    let mut set = |dword10: u32, value| {
        let (status, result, _) = run(
            &mut harness,
            &feature_command(admin::SET_FEATURES, dword10, value),
            &[],
        );
        (status, result)
    };
    let queues = u32::from(IO_QUEUES_MAX) - 1;
    assert_eq!(
        set(feature::NUMBER_OF_QUEUES.into(), 0x0003_0001),
        (Status::SUCCESS, 0x0001_0001)
    );
    assert_eq!(
        set(feature::NUMBER_OF_QUEUES.into(), 0xFFFE_FFFE).1,
        u64::from(queues | queues << 16)
    );
    assert_eq!(
        set(feature::NUMBER_OF_QUEUES.into(), 0xFFFF_0001).0,
        Status::INVALID_FIELD.do_not_retry()
    );
    assert_eq!(set(feature::ARBITRATION.into(), 3).0, Status::SUCCESS);
    assert_eq!(
        set(feature::POWER_MANAGEMENT.into(), 1).0,
        Status::INVALID_FIELD.do_not_retry()
    );
    assert_eq!(
        set(1 << 31 | u32::from(feature::ARBITRATION), 3).0,
        Status::FEATURE_NOT_SAVEABLE.do_not_retry()
    );
    assert_eq!(
        set(feature::VOLATILE_WRITE_CACHE.into(), 0).0,
        Status::FEATURE_NOT_CHANGEABLE.do_not_retry()
    );
    assert_eq!(
        set(feature::HOST_IDENTIFIER.into(), 1).0,
        Status::COMMAND_SEQUENCE_ERROR.do_not_retry()
    );
    assert_eq!(
        set(feature::KEEP_ALIVE_TIMER.into(), 9000).0,
        Status::SUCCESS
    );
    let mut get = |dword10: u32, value| {
        run(
            &mut harness,
            &feature_command(admin::GET_FEATURES, dword10, value),
            &[],
        )
    };
    assert_eq!(get(feature::ARBITRATION.into(), 0).1, 3);
    assert_eq!(get(1 << 8 | u32::from(feature::ARBITRATION), 0).1, 7);
    assert_eq!(get(3 << 8 | u32::from(feature::ARBITRATION), 0).1, 4);
    assert_eq!(get(feature::KEEP_ALIVE_TIMER.into(), 0).1, 9000);
    assert_eq!(get(feature::VOLATILE_WRITE_CACHE.into(), 0).1, 1);
    assert_eq!(
        get(feature::HOST_IDENTIFIER.into(), 1).2,
        super::super::harness::HOST_ID
    );
    assert_eq!(
        get(feature::HOST_IDENTIFIER.into(), 0).0,
        Status::INVALID_FIELD.do_not_retry()
    );
    assert_eq!(get(0xC0, 0).0, Status::INVALID_FIELD.do_not_retry());
    let mut behavior = feature_command(admin::SET_FEATURES, feature::HOST_BEHAVIOR.into(), 0);
    behavior.set_data_pointer(DataPointer::in_capsule(0, 512));
    let mut data = [0; 512];
    data[0] = 1;
    assert_eq!(run(&mut harness, &behavior, &data).0, Status::SUCCESS);
    let read = feature_command(admin::GET_FEATURES, feature::HOST_BEHAVIOR.into(), 0);
    assert_eq!(run(&mut harness, &read, &[]).2, data);
    harness.close();
}

#[test]
fn events_tell_of_namespaces_once_per_look() {
    let mut harness = connected();
    let mut configure = with_id(Command::new(admin::SET_FEATURES, 0), 0);
    configure.set_dword(10, feature::ASYNC_EVENT_CONFIGURATION.into());
    configure.set_dword(11, feature::EVENT_NAMESPACE_ATTRIBUTE);
    assert_eq!(run(&mut harness, &configure, &[]).0, Status::SUCCESS);
    for id in 0..ASYNC_EVENTS_MAX as u16 {
        let mut request = Command::new(admin::ASYNC_EVENT_REQUEST, 0);
        request.set_command_id(100 + id);
        harness.feed(&capsule(&request, &[]), usize::MAX);
    }
    let mut request = Command::new(admin::ASYNC_EVENT_REQUEST, 0);
    request.set_command_id(200);
    assert_eq!(
        run(&mut harness, &request, &[]).0,
        Status::ASYNC_EVENT_LIMIT_EXCEEDED.do_not_retry()
    );
    harness.with(|session, cx| session.namespaces_changed(&[1], cx));
    harness.with(|session, cx| session.namespaces_changed(&[3], cx));
    harness.drain();
    let got = answers(&mut harness);
    let [Answer::Response(completion)] = &got[..] else {
        panic!("{got:?}")
    };
    assert_eq!(completion.command_id, 100);
    assert_eq!(
        completion.result,
        u64::from(AsyncEvent::NAMESPACE_ATTRIBUTE.encode())
    );
    let list = log(&mut harness, page::CHANGED_NAMESPACES, 4096, 0).unwrap();
    assert_eq!(list[..12], [1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    harness.with(|session, cx| session.namespaces_changed(&[2], cx));
    harness.drain();
    assert!(
        matches!(&answers(&mut harness)[..], [Answer::Response(completion)] if completion.command_id == 101)
    );
    harness.close();
}

#[test]
fn abort_finds_what_can_still_be_aborted() {
    let mut harness = connected();
    let mut request = Command::new(admin::ASYNC_EVENT_REQUEST, 0);
    request.set_command_id(100);
    harness.feed(&capsule(&request, &[]), usize::MAX);
    let abort = |queue: u32, id: u32| {
        let mut command = with_id(Command::new(admin::ABORT, 0), 0);
        command.set_dword(10, queue | id << 16);
        command
    };
    harness.feed(&capsule(&abort(0, 100), &[]), usize::MAX);
    let got = answers(&mut harness);
    let [Answer::Response(aborted), Answer::Response(done)] = &got[..] else {
        panic!("{got:?}")
    };
    assert_eq!(
        (aborted.command_id, aborted.status),
        (100, Status::ABORT_REQUESTED)
    );
    assert_eq!((done.status, done.result), (Status::SUCCESS, 0));
    assert_eq!(run(&mut harness, &abort(0, 100), &[]).1, 1);
    assert_eq!(run(&mut harness, &abort(5, 1), &[]).1, 1);
    // An I/O queue on another core: the answer comes with a message.
    let id = harness.session.queue.as_ref().unwrap().controller_id;
    let key = harness.session.key;
    harness
        .target
        .connect_io(NQN, HOST, super::super::harness::HOST_ID, id, 5, key)
        .unwrap();
    harness.feed(&capsule(&abort(5, 1), &[]), usize::MAX);
    assert!(answers(&mut harness).is_empty());
    let Some((_, super::super::message::Message::Abort { slot, .. })) = harness.local.outbox.pop()
    else {
        panic!("no message")
    };
    harness.with(|session, cx| session.abort_answered(slot, true, cx));
    harness.drain();
    assert!(matches!(&answers(&mut harness)[..], [Answer::Response(done)] if done.result == 0));
    harness.close();
}

#[test]
fn unsupported_commands_are_refused() {
    let mut harness = connected();
    let invalid = Status::INVALID_OPCODE.do_not_retry();
    for opcode in [
        admin::CREATE_SUBMISSION_QUEUE,
        admin::DELETE_COMPLETION_QUEUE,
        admin::NAMESPACE_MANAGEMENT,
        admin::FIRMWARE_COMMIT,
        admin::FORMAT_NVM,
        admin::SANITIZE,
        admin::SECURITY_SEND,
        0xC0,
        0xFF,
    ] {
        assert_eq!(
            run(&mut harness, &with_id(Command::new(opcode, 0), 0), &[]).0,
            invalid,
            "{opcode:X}"
        );
    }
    for kind in [
        fabrics::AUTHENTICATION_SEND,
        fabrics::AUTHENTICATION_RECEIVE,
        0x55,
    ] {
        let command = with_id(crate::nvme::fabrics::fabrics_command(kind), 0);
        assert_eq!(run(&mut harness, &command, &[]).0, invalid);
    }
    let disconnect = with_id(
        crate::nvme::fabrics::fabrics_command(fabrics::DISCONNECT),
        0,
    );
    assert_eq!(
        run(&mut harness, &disconnect, &[]).0,
        Status::DISCONNECT_INVALID_QUEUE_TYPE.do_not_retry()
    );
    assert_eq!(
        run(
            &mut harness,
            &with_id(Command::new(admin::KEEP_ALIVE, 0), 0),
            &[]
        )
        .0,
        Status::SUCCESS
    );
    harness.close();
}

#[test]
fn discovery_lists_the_subsystem_and_itself() {
    let mut harness = Harness::new();
    harness.initialize(Digests::default());
    harness.feed(&connect(DISCOVERY_NQN, 0, 0xFFFF, 31, 0), usize::MAX);
    let enable = with_id(
        PropertyAccess::set(property::CONFIGURATION, PropertySize::Four, 1),
        0,
    );
    harness.feed(&capsule(&enable, &[]), usize::MAX);
    harness.output.clear();
    let page = identify(&mut harness, structure::CONTROLLER, 0).unwrap();
    let controller = identify::Controller::decode(&page);
    assert_eq!(
        controller.controller_type,
        identify::controller_type::DISCOVERY
    );
    assert_ne!(controller.subsystem_nqn, NQN);
    let header = log(&mut harness, page::DISCOVERY, 1024, 0).unwrap();
    assert_eq!(crate::nvme::log::decode_discovery_header(&header), (1, 2));
    let entries = log(&mut harness, page::DISCOVERY, 2048, 1024).unwrap();
    let entry = crate::nvme::log::DiscoveryEntry::decode(&entries[1024..]);
    assert_eq!(
        (
            entry.subsystem_nqn.as_str(),
            entry.address.as_str(),
            entry.service.as_str()
        ),
        (NQN, "127.0.0.1", "4420")
    );
    assert_eq!(
        identify(&mut harness, structure::NAMESPACE, 1).err(),
        Some(Status::INVALID_FIELD.do_not_retry())
    );
    assert_eq!(
        log(&mut harness, page::SMART, 512, 0),
        Err(Status::INVALID_LOG_PAGE.do_not_retry())
    );
    let command = with_id(Command::new(admin::ABORT, 0), 0);
    assert_eq!(
        run(&mut harness, &command, &[]).0,
        Status::INVALID_OPCODE.do_not_retry()
    );
    harness.close();
}
