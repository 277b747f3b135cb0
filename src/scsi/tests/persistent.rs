//! PERSISTENT RESERVE OUT with the names of other initiators in its parameter list.

use super::*;

const SPEC_I_PT: u8 = 0x08;

/// A PERSISTENT RESERVE OUT of the first initiator.
fn out(disk: &mut Disk, service: u8, list: &[u8]) -> Outcome {
    let mut cdb = [0x5F, service, 1, 0, 0, 0, 0, 0, 0, 0];
    cdb[7..9].copy_from_slice(&(list.len() as u16).to_be_bytes());
    disk.run(0, &cdb, list).0
}

/// Keys and flags.
fn keys(key: u64, new: u64, flags: u8) -> Vec<u8> {
    let mut list = key.to_be_bytes().to_vec();
    list.extend_from_slice(&new.to_be_bytes());
    list.extend_from_slice(&[0, 0, 0, 0, flags, 0, 0, 0]);
    list
}

/// A TransportID (SPC-4, 7.6.4.6).
fn transport_id(port: &InitiatorPort) -> Vec<u8> {
    let session: String = port.port.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut text = format!("{},i,0x{session}\0", port.name).into_bytes();
    text.resize(text.len().next_multiple_of(4), 0);
    let mut bytes = vec![0x45, 0];
    bytes.extend_from_slice(&(text.len() as u16).to_be_bytes());
    bytes.extend_from_slice(&text);
    bytes
}

/// REGISTER for other initiator ports as well.
fn register_with(new: u64, others: &[&InitiatorPort]) -> Vec<u8> {
    let names: Vec<u8> = others.iter().flat_map(|port| transport_id(port)).collect();
    let mut list = keys(0, new, SPEC_I_PT);
    list.extend_from_slice(&(names.len() as u32).to_be_bytes());
    list.extend_from_slice(&names);
    list
}

/// REGISTER AND MOVE to an initiator port, at a port of the target.
fn move_to(key: u64, new: u64, port: u16, to: &InitiatorPort) -> Vec<u8> {
    let name = transport_id(to);
    let mut list = key.to_be_bytes().to_vec();
    list.extend_from_slice(&new.to_be_bytes());
    list.extend_from_slice(&[0, 0]);
    list.extend_from_slice(&port.to_be_bytes());
    list.extend_from_slice(&(name.len() as u32).to_be_bytes());
    list.extend_from_slice(&name);
    list
}

/// The keys that are registered, in their order.
fn registered(disk: &mut Disk) -> Vec<u64> {
    let (outcome, data) = disk.run(0, &[0x5E, 0, 0, 0, 0, 0, 0, 1, 0, 0], &[]);
    assert!(outcome.is_good());
    let keys = data[8..].chunks_exact(8);
    keys.map(|key| u64::from_be_bytes(key.try_into().expect("eight bytes")))
        .collect()
}

/// SPC-4, 5.13.7: SPEC_I_PT registers those who are not; whoever is has a key of his own.
#[test]
fn a_key_is_its_owners() {
    let mut disk = Disk::new(512);
    let other = Arc::clone(&disk.nexuses[1].initiator);
    let third = InitiatorPort {
        name: "iqn.2026-11.io.polldm:third".into(),
        port: [3; 6],
    };
    let own = [0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    assert!(disk.run(1, &own, &keys(0, 2, 0)).0.is_good());
    let list = register_with(1, &[&other, &third]);
    assert!(out(&mut disk, 0, &list).is_good());
    assert_eq!(registered(&mut disk), [2, 1, 1]);
    assert!(
        disk.run(1, &own, &keys(2, 3, 0)).0.is_good(),
        "its key is the one that it knows"
    );
}

/// SPC-4, 5.13.8: a reservation goes to a port that the target has.
#[test]
fn a_reservation_is_moved_to_a_port_that_is_there() {
    let mut disk = Disk::new(512);
    let other = Arc::clone(&disk.nexuses[1].initiator);
    assert!(out(&mut disk, 0, &keys(0, 1, 0)).is_good());
    assert!(out(&mut disk, 1, &keys(1, 0, 0)).is_good());
    assert_eq!(
        out(&mut disk, 7, &move_to(1, 2, 9, &other)),
        Sense::invalid_parameter(18).into()
    );
    assert_eq!(registered(&mut disk), [1]);
    assert!(out(&mut disk, 7, &move_to(1, 2, 1, &other)).is_good());
    assert_eq!(registered(&mut disk), [1, 2]);
    assert!(
        disk.run(1, &cdb_16(0x8A, 0, 0, 1), &[1; 512]).0.is_good(),
        "the other holds it"
    );
}

/// RFC 7143, 4.2.7.2: who has no name that an initiator can have is not registered, and gets no reservation.
#[test]
fn a_name_that_nobody_can_have_is_refused() {
    let mut disk = Disk::new(512);
    let named = |size: usize| InitiatorPort {
        name: "x".repeat(size),
        port: [3; 6],
    };
    let wrong = |at: u16| Outcome::from(Sense::invalid_parameter(at));
    for size in [0, 224, 4000] {
        let list = register_with(1, &[&named(size)]);
        assert_eq!(out(&mut disk, 0, &list), wrong(28), "{size} bytes");
    }
    assert!(out(&mut disk, 0, &register_with(1, &[&named(223)])).is_good());
    assert!(out(&mut disk, 1, &keys(1, 0, 0)).is_good());
    assert_eq!(out(&mut disk, 7, &move_to(1, 2, 1, &named(224))), wrong(24));
    assert_eq!(registered(&mut disk), [1, 1]);
}
