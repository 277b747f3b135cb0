//! Reservations that outlive the target (APTPL; SPC-4, 5.13.5).

use std::fs;
use std::path::Path;

use super::super::harness::{Harness, IQN, Sent, login_request};
use super::super::store::Store;
use crate::iscsi::pdu::opcode;

const WRITE: [u8; 10] = [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const REGISTER_AND_IGNORE: u8 = 6;

/// Where the record of the harness's one unit is.
const FILE: &str = "30313233343536373839616263646566.reservations";

fn target(directory: &Path) -> Result<Harness, String> {
    Harness::keeping(Store::open(directory)?)
}

/// A fresh start of the target, with an initiator of this name logged in.
fn start(directory: &Path, name: &str) -> Harness {
    let mut harness = target(directory).expect("started");
    let text = format!(
        "InitiatorName=iqn.2026-11.io.polldm:{name}\0TargetName={IQN}\0SessionType=Normal\0InitialR2T=No\0"
    );
    harness.feed(&login_request(0x87, 1, &text), usize::MAX);
    assert_eq!(harness.take()[0].header.u16(36), 0, "logged in");
    harness.attend();
    harness
}

/// A PERSISTENT RESERVE OUT, Write Exclusive; what came of it.
fn out(harness: &mut Harness, service: u8, key: u64, new_key: u64, keep: bool) -> Vec<Sent> {
    let mut list = key.to_be_bytes().to_vec();
    list.extend_from_slice(&new_key.to_be_bytes());
    list.extend_from_slice(&[0, 0, 0, 0, u8::from(keep), 0, 0, 0]);
    let cdb = [0x5F, service, 1, 0, 0, 0, 0, 0, 24, 0];
    harness.command(50, &cdb, 0, &list);
    harness.take()
}

fn status(sent: &[Sent]) -> u8 {
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].header.opcode(), opcode::RESPONSE);
    sent[0].header.0[3]
}

fn write(harness: &mut Harness) -> u8 {
    harness.command(60, &WRITE, 0, &[7; 512]);
    status(&harness.take())
}

/// PTPL_C and PTPL_A.
fn capabilities(harness: &mut Harness) -> (bool, bool) {
    let cdb = [0x5E, 2, 0, 0, 0, 0, 0, 0, 8, 0];
    harness.command(70, &cdb, 8, &[]);
    let data = harness.take().remove(0).data;
    (data[2] & 1 != 0, data[3] & 1 != 0)
}

const GOOD: u8 = 0;
const CHECK_CONDITION: u8 = 2;
const CONFLICT: u8 = 0x18;

/// A reservation is there after a restart, for whom it was made and against all others; a new one takes its place in the file.
#[test]
fn a_reservation_outlives_the_target() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut harness = start(directory.path(), "one");
    assert_eq!(capabilities(&mut harness), (true, false));
    assert_eq!(status(&out(&mut harness, REGISTER, 0, 7, true)), GOOD);
    assert_eq!(status(&out(&mut harness, RESERVE, 7, 0, false)), GOOD);
    assert_eq!(capabilities(&mut harness), (true, true));
    harness.close();
    let mut other = start(directory.path(), "other");
    assert_eq!(capabilities(&mut other), (true, true));
    assert_eq!(write(&mut other), CONFLICT);
    // It may register, and hears at the next start that it is.
    assert_eq!(status(&out(&mut other, REGISTER, 0, 8, true)), GOOD);
    other.close();
    let mut holder = start(directory.path(), "one");
    assert_eq!(write(&mut holder), GOOD);
    assert_eq!(status(&out(&mut holder, RELEASE, 7, 0, false)), GOOD);
    holder.close();
    let mut other = start(directory.path(), "other");
    assert_eq!(write(&mut other), GOOD);
    assert_eq!(status(&out(&mut other, RESERVE, 8, 0, false)), GOOD);
    assert_eq!(status(&out(&mut other, CLEAR, 8, 0, false)), GOOD);
    assert!(!directory.path().join(FILE).exists(), "nothing to keep");
    other.close();
}

/// Without APTPL registrations are gone with the target, and the last that was said about it holds for all.
#[test]
fn what_is_not_to_be_kept_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut harness = start(directory.path(), "one");
    assert_eq!(status(&out(&mut harness, REGISTER, 0, 7, false)), GOOD);
    assert_eq!(status(&out(&mut harness, RESERVE, 7, 0, true)), GOOD);
    assert!(!directory.path().join(FILE).exists(), "APTPL is REGISTER's");
    harness.close();
    let mut other = start(directory.path(), "other");
    assert_eq!(write(&mut other), GOOD);
    assert_eq!(status(&out(&mut other, REGISTER, 0, 8, true)), GOOD);
    assert!(directory.path().join(FILE).exists());
    let again = out(&mut other, REGISTER_AND_IGNORE, 0, 8, false);
    assert_eq!(status(&again), GOOD);
    assert!(!directory.path().join(FILE).exists());
    assert_eq!(capabilities(&mut other), (true, false));
    other.close();
}

/// A target without a place to keep them says so, and does not promise.
#[test]
fn a_target_that_cannot_keep_does_not_promise() {
    let mut harness = Harness::new();
    harness.login("InitialR2T=No");
    harness.attend();
    assert_eq!(capabilities(&mut harness), (false, false));
    let refused = out(&mut harness, REGISTER, 0, 7, true);
    assert_eq!(status(&refused), CHECK_CONDITION);
    assert_eq!(refused[0].data[14..16], [0x26, 0]);
    harness.close();
}

/// What cannot be written fails, changes nothing for anybody, and is no obstacle to the next that can.
#[test]
fn a_failed_write_changes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let in_the_way = directory.path().join(FILE).with_extension("new");
    let mut harness = start(directory.path(), "one");
    fs::create_dir(&in_the_way).expect("made");
    let failed = out(&mut harness, REGISTER, 0, 7, true);
    assert_eq!(status(&failed), CHECK_CONDITION);
    assert_eq!((failed[0].data[4], failed[0].data[14]), (4, 0x44));
    assert_eq!(capabilities(&mut harness), (true, false));
    fs::remove_dir(&in_the_way).expect("removed");
    // Had the first been carried out, this would be a conflict.
    assert_eq!(status(&out(&mut harness, REGISTER, 0, 7, true)), GOOD);
    harness.close();
}

/// The command is answered after its record is written, not before; a target that stops between the two starts with the record, whole.
#[test]
fn the_record_is_there_before_the_answer() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut harness = start(directory.path(), "one");
    assert_eq!(status(&out(&mut harness, REGISTER, 0, 7, true)), GOOD);
    let mut keeper = harness.keeper.take().expect("one who keeps");
    assert!(out(&mut harness, RESERVE, 7, 0, false).is_empty());
    // Reads and other commands go on meanwhile, on what is so as yet.
    assert_eq!(write(&mut harness), GOOD);
    let answers = keeper.run();
    assert_eq!(answers.len(), 1);
    // The answer is lost, as the whole target is.
    drop((harness, keeper, answers));
    let mut other = start(directory.path(), "other");
    assert_eq!(write(&mut other), CONFLICT);
    other.close();
}

/// A command that was aborted while its record was written is not answered, and leaves nothing behind.
#[test]
fn a_command_can_be_aborted_while_its_record_is_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut harness = start(directory.path(), "one");
    let keeper = harness.keeper.take();
    assert!(out(&mut harness, REGISTER, 0, 7, true).is_empty());
    let request = super::super::harness::management(1, 80, 50, harness.command_sn);
    let bytes = harness.pdu(request, &[]);
    harness.feed(&bytes, usize::MAX);
    assert!(harness.take().is_empty());
    harness.keeper = keeper;
    harness.drain();
    let sent = harness.take();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].header.opcode(), opcode::TASK_MANAGEMENT_RESPONSE);
    harness.close();
}

/// A damaged record keeps the target from starting, and says where: every byte of it counts.
#[test]
fn a_damaged_record_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut harness = start(directory.path(), "one");
    assert_eq!(status(&out(&mut harness, REGISTER, 0, 7, true)), GOOD);
    assert_eq!(status(&out(&mut harness, RESERVE, 7, 0, false)), GOOD);
    harness.close();
    let file = directory.path().join(FILE);
    let whole = fs::read(&file).expect("a record");
    for index in 0..whole.len() {
        let mut changed = whole.clone();
        changed[index] ^= 0x01;
        fs::write(&file, &changed).expect("written");
        assert!(target(directory.path()).is_err(), "byte {index}");
        fs::write(&file, &whole[..index]).expect("written");
        assert!(target(directory.path()).is_err(), "{index} bytes");
    }
    let text = String::from_utf8(whole).expect("text");
    let changed = text.replacen("0x0000000000000007 1", "0x0000000000000007 x", 1);
    fs::write(&file, changed).expect("written");
    let why = target(directory.path()).err().expect("refused");
    let place = format!("{FILE}, line 3: it is not a registration");
    assert!(why.contains(&place), "{why}");
}

/// A directory is for one target, and has to be there.
#[test]
fn a_directory_is_for_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = Store::open(directory.path()).expect("free");
    let why = Store::open(directory.path()).expect_err("taken");
    assert!(why.contains("another polldm"), "{why}");
    drop(first);
    Store::open(directory.path()).expect("free again");
    assert!(Store::open(&directory.path().join("absent")).is_err());
}
