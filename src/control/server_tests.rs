//! The server over real sockets, against a node that is not there.

use std::io::{BufRead, BufReader, Write};
use std::sync::mpsc;

use serde_json::json;

use super::*;
use crate::control::Backend;
use crate::control::client::{Client, ClientError};
use crate::control::fake::Fake;
use crate::control::schema::*;

const LIMITS: Limits = Limits {
    bytes_max: 4096,
    line_time_max: Duration::from_secs(60),
    idle_time_max: Duration::from_secs(60),
};
const STOP_WITHIN: Duration = Duration::from_secs(60);

struct World {
    server: Option<Server>,
    fake: Arc<Fake>,
    directory: tempfile::TempDir,
}

impl World {
    fn new(limits: Limits) -> World {
        let directory = tempfile::tempdir().unwrap();
        let fake = Arc::new(Fake::with_devices());
        let socket = Socket::bind(&directory.path().join("control.sock")).unwrap();
        let server = Server::start_with(socket, Service::new(fake.clone()), limits).unwrap();
        World {
            server: Some(server),
            fake,
            directory,
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("control.sock")
    }

    fn client(&self) -> Client {
        Client::connect(&self.path()).unwrap()
    }

    fn raw(&self) -> Raw {
        Raw(BufReader::new(UnixStream::connect(self.path()).unwrap()))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            assert!(server.stop(STOP_WITHIN));
        }
    }
}

/// A client that writes what it is told.
struct Raw(BufReader<UnixStream>);

impl Raw {
    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn receive(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn ask(&mut self, text: &str) -> Value {
        self.send(&format!("{text}\n"));
        self.receive()
    }
}

fn name(name: &str) -> DeviceParams {
    DeviceParams { name: name.into() }
}

fn suspend(name: &str) -> SuspendParams {
    SuspendParams {
        name: name.into(),
        ..SuspendParams::default()
    }
}

fn remove(name: &str) -> RemoveParams {
    RemoveParams {
        name: name.into(),
        deferred: false,
    }
}

fn load(name: &str, table: &str) -> LoadParams {
    LoadParams {
        name: name.into(),
        table: table.into(),
        read_only: false,
    }
}

#[test]
fn the_verbs_of_a_devices_life() {
    let world = World::new(LIMITS);
    let mut client = world.client();
    let create = CreateParams {
        name: "a".into(),
        table: Some("0 8 zero".into()),
        ..CreateParams::default()
    };
    client.call::<DmCreate>(&create).unwrap();
    let info = |client: &mut Client, name: &str| {
        let params = InfoParams {
            name: Some(name.into()),
        };
        client
            .call::<DmInfo>(&params)
            .map(|result| result.devices[0].clone())
    };
    let a = info(&mut client, "a").unwrap();
    assert!(a.live_table && !a.inactive_table && a.sectors == 8 && a.flush == FlushPolicy::Relaxed);
    client.call::<DmLoad>(&load("a", "0 16 zero")).unwrap();
    assert!(info(&mut client, "a").unwrap().inactive_table);
    client.call::<DmSuspend>(&suspend("a")).unwrap();
    assert!(info(&mut client, "a").unwrap().suspended);
    client.call::<DmResume>(&suspend("a")).unwrap();
    assert_eq!(info(&mut client, "a").unwrap().sectors, 16);
    client.call::<DmLoad>(&load("a", "0 32 zero")).unwrap();
    client.call::<DmClear>(&name("a")).unwrap();
    client
        .call::<DmRename>(&RenameParams {
            name: "a".into(),
            new_name: "b".into(),
        })
        .unwrap();
    assert_eq!(info(&mut client, "b").unwrap().event_nr, 1);
    client.call::<DmRemove>(&remove("b")).unwrap();
    let gone = info(&mut client, "b").unwrap_err();
    assert_eq!(gone.to_string(), "there is no device 'b' (ENXIO)");
}

#[test]
fn a_create_whose_table_is_wrong_makes_nothing() {
    let world = World::new(LIMITS);
    let mut client = world.client();
    let create = CreateParams {
        name: "a".into(),
        table: Some("0 8 lineal x 0".into()),
        ..CreateParams::default()
    };
    let refused = client.call::<DmCreate>(&create).unwrap_err();
    assert!(
        refused.to_string().contains("line 1") && refused.to_string().ends_with("(EINVAL)"),
        "{refused}"
    );
    assert_eq!(
        client
            .call::<DmLs>(&LsParams::default())
            .unwrap()
            .devices
            .len(),
        2
    );
}

#[test]
fn questions_about_all_and_about_one() {
    let world = World::new(LIMITS);
    let mut client = world.client();
    let all = client
        .call::<DmTable>(&TableParams::default())
        .unwrap()
        .devices;
    assert_eq!(
        all.iter()
            .map(|d| (d.name.as_str(), d.targets.len()))
            .collect::<Vec<_>>(),
        [("vol0", 2), ("vol1", 0)]
    );
    let zero = StatusParams {
        target: Some("zero".into()),
        name: None,
    };
    let zero = client.call::<DmStatus>(&zero).unwrap().devices;
    assert_eq!((zero.len(), zero[0].targets[0].start), (1, 1_048_576));
    let ls = client
        .call::<DmLs>(&LsParams {
            target: Some("linear".into()),
        })
        .unwrap()
        .devices;
    assert_eq!((ls.len(), ls[0].name.as_str()), (1, "vol0"));
    let deps = client
        .call::<DmDeps>(&InfoParams {
            name: Some("vol0".into()),
        })
        .unwrap()
        .devices;
    assert_eq!(deps[0].bdevs, ["ram0"]);
    assert_eq!(
        client.call::<BdevLs>(&NoParams {}).unwrap().bdevs[0].devices,
        ["vol0"]
    );
    let targets = client.call::<DmTargets>(&NoParams {}).unwrap().targets;
    assert!(targets.iter().any(|target| target.name == "striped"));
    let stats = client
        .call::<Stats>(&StatsParams {
            device: Some("vol0".into()),
        })
        .unwrap();
    assert_eq!(
        (
            stats.devices.len(),
            stats.namespaces.len(),
            stats.units.len(),
            stats.nvmf.map(|nvmf| nvmf.connections),
            stats.iscsi.map(|iscsi| iscsi.connections)
        ),
        (1, 1, 1, Some(2), Some(1))
    );
    assert!(
        client
            .call::<Stats>(&StatsParams {
                device: Some("vol7".into())
            })
            .is_err()
    );
    assert_eq!(
        client.call::<Version>(&NoParams {}).unwrap().pid,
        std::process::id()
    );
}

#[test]
fn backing_devices_come_and_go() {
    let world = World::new(LIMITS);
    let mut client = world.client();
    let add = |client: &mut Client, bdev: Value| {
        let params = AddBdevParams {
            bdev: BdevEntry(bdev),
        };
        client.call::<BdevAdd>(&params).map_err(|e| e.to_string())
    };
    let remove = |client: &mut Client, name: &str, force: bool| {
        let params = RemoveBdevParams {
            name: name.into(),
            force,
        };
        client
            .call::<BdevRemove>(&params)
            .map_err(|e| e.to_string())
    };
    let ram1 = json!({"malloc": {"name": "ram1", "size": "1MiB", "block_size": 4096}});
    add(&mut client, ram1.clone()).unwrap();
    client
        .call::<DmLoad>(&load("vol1", "0 2048 linear ram1 0"))
        .unwrap();
    let bdevs = client.call::<BdevLs>(&NoParams {}).unwrap().bdevs;
    let ram1_now = &bdevs[1];
    assert_eq!((ram1_now.sectors, ram1_now.block_bytes), (2048, 4096));
    assert_eq!(
        (ram1_now.tables, ram1_now.devices.as_slice()),
        (1, &["vol1".to_owned()][..])
    );
    for (refused, ends) in [
        (add(&mut client, ram1), "(EBUSY)"),
        (remove(&mut client, "ram1", false), "(EBUSY)"),
        (remove(&mut client, "ram7", true), "(ENXIO)"),
        (
            add(&mut client, json!({"malloc": {"name": "a", "size": "1G"}})),
            "`G` is no unit of size in `1G`; write 1GiB (powers of 1024) or 1GB (powers of 1000) (EINVAL)",
        ),
        (
            add(&mut client, json!({"maloc": {"name": "a", "size": 512}})),
            "did you mean `malloc`? Possible are `malloc`, `null`, `file`, `nvme-tcp`, `nvme`, `spdk-json` (EINVAL)",
        ),
        (
            add(&mut client, json!({"file": {"name": "a", "path": "disk"}})),
            "give an absolute one (EINVAL)",
        ),
        (add(&mut client, json!([1])), "(EINVAL)"),
    ] {
        let refused = refused.unwrap_err();
        assert!(refused.ends_with(ends), "{refused}");
    }
    remove(&mut client, "ram1", true).unwrap();
    assert_eq!(client.call::<BdevLs>(&NoParams {}).unwrap().bdevs.len(), 1);
}

#[test]
fn errors_carry_the_errno() {
    let world = World::new(LIMITS);
    let mut raw = world.raw();
    let answer =
        raw.ask(r#"{"jsonrpc":"2.0","id":"x","method":"dm.remove","params":{"name":"vol0"}}"#);
    assert_eq!(answer["id"], "x");
    assert_eq!(answer["error"]["code"], rpc::REFUSED);
    assert_eq!(
        answer["error"]["data"],
        json!({ "errno": "EBUSY", "errno_number": 16 })
    );
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("in use"),
        "{answer}"
    );
}

#[test]
fn what_is_wrong_is_answered_and_the_connection_lives() {
    let world = World::new(LIMITS);
    let mut raw = world.raw();
    let long = format!("\"{}\"", "x".repeat(LIMITS.bytes_max));
    for (line, code, says) in [
        ("{", rpc::PARSE_ERROR, "not JSON"),
        ("\u{1}", rpc::PARSE_ERROR, "not JSON"),
        ("1", rpc::INVALID_REQUEST, "an object"),
        ("[]", rpc::INVALID_REQUEST, "batch"),
        ("{}", rpc::INVALID_REQUEST, "jsonrpc"),
        (
            r#"{"jsonrpc":2,"id":1,"method":"dm.ls"}"#,
            rpc::INVALID_REQUEST,
            "\"2.0\", not 2",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1}"#,
            rpc::INVALID_REQUEST,
            "'method' is missing",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":5}"#,
            rpc::INVALID_REQUEST,
            "'method' is a string",
        ),
        (
            r#"{"jsonrpc":"2.0","id":[],"method":"dm.ls"}"#,
            rpc::INVALID_REQUEST,
            "'id'",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"dm.sl"}"#,
            rpc::METHOD_NOT_FOUND,
            "did you mean 'dm.ls'",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"suspend"}"#,
            rpc::METHOD_NOT_FOUND,
            "did you mean 'dm.suspend'",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"launch"}"#,
            rpc::METHOD_NOT_FOUND,
            "'schema' describes all",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"dm.clear"}"#,
            rpc::INVALID_PARAMS,
            "missing parameter `name`",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"dm.clear","params":["vol0"]}"#,
            rpc::INVALID_PARAMS,
            "by name",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"dm.load","params":{"name":"vol0","table":7}}"#,
            rpc::INVALID_PARAMS,
            "parameter 'table': invalid type: integer `7`",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"dm.load","params":{"name":"a","table":"","nmae":1}}"#,
            rpc::INVALID_PARAMS,
            "unknown parameter `nmae`",
        ),
        (&long, rpc::INVALID_REQUEST, "at most 4096 bytes"),
    ] {
        let answer = raw.ask(line);
        assert_eq!(answer["error"]["code"], code, "{line}: {answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(says), "{line}: {message}");
        assert_eq!(
            (&answer["jsonrpc"], answer.get("result")),
            (&json!("2.0"), None)
        );
    }
    assert!(raw.ask(r#"{"jsonrpc":"2.0","id":1,"method":"dm.ls"}"#)["result"].is_object());
}

#[test]
fn notifications_batches_and_empty_lines() {
    let world = World::new(LIMITS);
    let mut raw = world.raw();
    // A notification is done but not answered; so is a batch of nothing else.
    raw.send(
        "\n  \n{\"jsonrpc\":\"2.0\",\"method\":\"dm.suspend\",\"params\":{\"name\":\"vol0\"}}\n",
    );
    raw.send("[{\"jsonrpc\":\"2.0\",\"method\":\"dm.clear\",\"params\":{\"name\":\"vol0\"}}]\n");
    let answer = raw.ask(
        r#"[{"jsonrpc":"2.0","id":1,"method":"dm.info","params":{"name":"vol0"}},{"jsonrpc":"2.0","method":"dm.ls"},7,{"jsonrpc":"2.0","id":null,"method":"x"}]"#,
    );
    let answers = answer.as_array().unwrap();
    assert_eq!(answers.len(), 3, "{answer}");
    assert_eq!(answers[0]["result"]["devices"][0]["suspended"], true);
    assert_eq!(answers[1]["error"]["code"], rpc::INVALID_REQUEST);
    assert_eq!(
        (&answers[2]["id"], &answers[2]["error"]["code"]),
        (&Value::Null, &json!(rpc::METHOD_NOT_FOUND))
    );
    let many = vec![json!({"jsonrpc": "2.0", "method": "version"}); rpc::BATCH_MAX + 1];
    assert_eq!(
        raw.ask(&Value::Array(many).to_string())["error"]["code"],
        rpc::INVALID_REQUEST
    );
}

/// It is as if its suspend had never been asked for (SU-8): nobody is left who would resume the device.
#[test]
fn a_client_that_dies_in_the_middle_of_its_suspend_gives_it_up() {
    let world = World::new(LIMITS);
    world.fake.set_busy(true);
    let mut raw = world.raw();
    raw.send(
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"dm.suspend\",\"params\":{\"name\":\"vol0\"}}\n",
    );
    let mut client = world.client();
    let suspended = |client: &mut Client| {
        client
            .call::<DmInfo>(&InfoParams {
                name: Some("vol0".into()),
            })
            .unwrap()
            .devices[0]
            .suspended
    };
    while !suspended(&mut client) {
        thread::yield_now();
    }
    drop(raw);
    // Half a request, and gone.
    world.raw().send("{\"jsonrpc\":");
    while suspended(&mut client) {
        thread::yield_now();
    }
    world.fake.set_busy(false);
}

#[test]
fn a_verb_that_waits_keeps_nobody_else_waiting() {
    let world = World::new(LIMITS);
    world.fake.set_busy(true);
    let mut waiting = world.client();
    let (sender, ended) = mpsc::channel();
    let waiter = thread::spawn(move || {
        sender
            .send(waiting.call::<DmSuspend>(&suspend("vol1")).is_ok())
            .unwrap()
    });
    let mut client = world.client();
    (0..10).for_each(|_| drop(client.call::<DmLs>(&LsParams::default()).unwrap()));
    assert!(ended.try_recv().is_err());
    world.fake.set_busy(false);
    assert!(ended.recv().unwrap());
    waiter.join().unwrap();
}

#[test]
fn one_connection_too_many_is_told_so() {
    let world = World::new(LIMITS);
    let mut open: Vec<_> = (0..CONNECTIONS_MAX).map(|_| world.client()).collect();
    open.iter_mut()
        .for_each(|client| drop(client.call::<Version>(&NoParams {}).unwrap()));
    match world.client().call::<Version>(&NoParams {}).unwrap_err() {
        ClientError::Refused { code, message, .. } => {
            assert_eq!(code, rpc::TOO_MANY_CONNECTIONS);
            assert!(message.contains("32 connections"), "{message}");
        }
        other => panic!("{other}"),
    }
    drop(open.pop());
    while world.client().call::<Version>(&NoParams {}).is_err() {
        thread::yield_now();
    }
}

#[test]
fn a_request_that_does_not_end_is_given_up() {
    let world = World::new(Limits {
        line_time_max: Duration::from_millis(20),
        ..LIMITS
    });
    let mut raw = world.raw();
    raw.send("{\"jsonrpc\"");
    assert!(
        raw.receive()["error"]["message"]
            .as_str()
            .unwrap()
            .contains("did not end")
    );
    assert_eq!(
        raw.0.read_line(&mut String::new()).unwrap(),
        0,
        "the connection is closed"
    );
}

#[test]
fn stop_ends_idle_connections_waits_for_running_verbs_and_removes_the_socket() {
    let mut world = World::new(LIMITS);
    let mut idle = world.client();
    idle.call::<Version>(&NoParams {}).unwrap();
    world.fake.set_busy(true);
    let mut raw = world.raw();
    raw.send(
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"dm.suspend\",\"params\":{\"name\":\"vol0\"}}\n",
    );
    while !world.fake.info("vol0").unwrap().1.suspended {
        thread::yield_now();
    }
    let server = world.server.take().unwrap();
    assert!(!server.stop(Duration::ZERO), "a verb still runs");
    world.fake.set_busy(false);
    assert!(server.stop(STOP_WITHIN));
    assert!(
        raw.receive()["result"].is_object(),
        "the running verb was answered"
    );
    assert!(matches!(
        idle.call::<Version>(&NoParams {}),
        Err(ClientError::HungUp | ClientError::Io(_))
    ));
    assert!(!world.path().exists());
    let refused = Client::connect(&world.path()).err().unwrap().to_string();
    assert!(refused.contains("no polldm serves on"), "{refused}");
}

#[path = "verb_tests.rs"]
mod verbs;
