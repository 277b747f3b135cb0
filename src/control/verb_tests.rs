//! Verbs that suspend, wait, speak to targets, or take devices away.

use super::*;

fn info(client: &mut Client, name: &str) -> DeviceInfo {
    let params = InfoParams {
        name: Some(name.into()),
    };
    client.call::<DmInfo>(&params).unwrap().devices.remove(0)
}

fn message(client: &mut Client, words: &[&str]) -> Result<Option<String>, ClientError> {
    let params = MessageParams {
        name: "vol0".into(),
        sector: 0,
        words: words.iter().map(|word| word.to_string()).collect(),
    };
    client.call::<DmMessage>(&params).map(|result| result.text)
}

fn errno<T: std::fmt::Debug>(result: Result<T, ClientError>) -> String {
    let text = result.unwrap_err().to_string();
    let (_, errno) = text.rsplit_once('(').unwrap();
    errno.trim_end_matches(')').to_owned()
}

#[test]
fn swap_fail_parked_and_uuid() {
    let world = World::new(LIMITS);
    let mut client = world.client();
    let swap = |table: &str| SwapParams {
        name: "vol0".into(),
        table: table.into(),
        ..SwapParams::default()
    };
    client.call::<DmSwap>(&swap("0 16 zero")).unwrap();
    assert_eq!(info(&mut client, "vol0").sectors, 16);
    assert_eq!(errno(client.call::<DmSwap>(&swap("0 16 zero x"))), "EINVAL");

    assert_eq!(errno(client.call::<DmFailParked>(&name("vol0"))), "EINVAL");
    client.call::<DmSuspend>(&suspend("vol0")).unwrap();
    let failed = client.call::<DmFailParked>(&name("vol0")).unwrap().failed;
    assert_eq!(failed, 1);

    let uuid = |name: &str, uuid: &str| SetUuidParams {
        name: name.into(),
        uuid: uuid.into(),
    };
    client.call::<DmSetUuid>(&uuid("vol0", "u")).unwrap();
    assert_eq!(info(&mut client, "vol0").uuid, "u");
    assert_eq!(
        errno(client.call::<DmSetUuid>(&uuid("vol0", "v"))),
        "EINVAL"
    );
}

#[test]
fn a_suspend_that_waits_is_cancelled_from_another_connection() {
    let world = World::new(LIMITS);
    world.fake.set_busy(true);
    let mut waiting = world.client();
    let waiter = thread::spawn(move || errno(waiting.call::<DmSuspend>(&suspend("vol0"))));
    let mut client = world.client();
    while client.call::<DmCancel>(&name("vol0")).is_err() {
        thread::yield_now();
    }
    assert_eq!(waiter.join().unwrap(), "EINTR");
    assert!(!info(&mut client, "vol0").suspended);
}

#[test]
fn deferred_remove_and_remove_all() {
    let world = World::new(LIMITS);
    let mut client = world.client();
    let all = |client: &mut Client, deferred| {
        client
            .call::<DmRemoveAll>(&RemoveAllParams { deferred })
            .unwrap()
    };
    let kept = all(&mut client, false);
    assert_eq!(kept.removed, ["vol1"]);
    assert_eq!((kept.deferred.len(), kept.kept), (0, vec!["vol0".into()]));
    assert!(!info(&mut client, "vol0").deferred_remove);
    assert_eq!(all(&mut client, true).deferred, ["vol0"]);
    assert!(info(&mut client, "vol0").deferred_remove);
    let deferred = RemoveParams {
        name: "vol0".into(),
        deferred: true,
    };
    client.call::<DmRemove>(&deferred).unwrap();
    assert_eq!(errno(client.call::<DmRemove>(&remove("vol0"))), "EBUSY");
}

#[test]
fn messages_and_their_answers() {
    let world = World::new(LIMITS);
    let mut client = world.client();
    let said = message(&mut client, &["echo", "a", "b c"]).unwrap();
    assert_eq!(said.as_deref(), Some("a b c"));
    assert_eq!(message(&mut client, &["raise"]).unwrap(), None);
    assert_eq!(errno(message(&mut client, &["dance"])), "EINVAL");
}

/// AT-82: at once when the number is another already; else with the next event, and nobody else waits meanwhile.
#[test]
fn at_82_a_wait_ends_with_the_event() {
    let world = World::new(LIMITS);
    let mut client = world.client();
    let wait = |event_nr| WaitParams {
        name: "vol0".into(),
        event_nr,
    };
    let at_once = client.call::<DmWait>(&wait(Some(7))).unwrap();
    assert_eq!((at_once.device.event_nr, at_once.status.len()), (0, 2));
    let mut waiting = world.client();
    let waiter = thread::spawn(move || waiting.call::<DmWait>(&wait(Some(0))).unwrap());
    let before = client.call::<DmLs>(&LsParams::default()).unwrap();
    assert!(!waiter.is_finished());
    message(&mut client, &["raise"]).unwrap();
    assert_eq!(waiter.join().unwrap().device.event_nr, 1);
    let after = client.call::<DmLs>(&LsParams::default()).unwrap();
    assert_eq!(after.global_event_nr, before.global_event_nr + 1);
}

/// A wait may last for ever: neither the end of the server nor a place for a connection waits for it.
#[test]
fn a_wait_ends_with_the_server_and_with_its_client() {
    let mut world = World::new(LIMITS);
    let request =
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"dm.wait\",\"params\":{\"name\":\"vol0\"}}\n";
    for _ in 0..2 * CONNECTIONS_MAX {
        // Each is made once there is room for it, and dropped while it waits.
        let mut raw = world.raw();
        raw.send(request);
        while world.client().call::<Version>(&NoParams {}).is_err() {
            thread::yield_now();
        }
    }
    let mut raw = world.raw();
    raw.send(request);
    // Nothing tells that a wait has begun, and it does not matter: either way the server ends.
    let server = world.server.take().unwrap();
    assert!(server.stop(STOP_WITHIN));
}
