//! Multipath without a path beneath a host that writes: noflush suspends, swaps and pulled disks (dm-semantics, 7.1).
//!
//! The lower device is one bdev; its path fails by an operator's `fail_path`, or for good when the bdev is taken away. fio has a known number of
//! I/Os outstanding, so where all of them are is known at every step.

use super::Context;
use crate::counts::Counts;
use crate::guest::Setting;
use crate::initiator::{
    ENDLESS_WRITERS, await_progress, is_io_error, start_endless_writes, start_probes,
};
use crate::iscsi::{Portal, Session};
use crate::target::{Backing, Front, Target, Volume};

/// The features of a table whose I/O waits for a path.
const QUEUE: &str = "1 queue_if_no_path";

/// The device under test: the host's I/O to it, and what an operator does to it.
struct Disk<'a> {
    target: &'a Target,
    volume: Volume,
}

impl Disk<'_> {
    fn message(&self, words: &[&str]) -> Result<(), String> {
        let name = self.volume.name;
        let command = ["dm", "message", name, "0"];
        self.target
            .command(&[&command[..], words].concat())
            .map(drop)
    }

    fn fail_path(&self) -> Result<(), String> {
        self.message(&["fail_path", &self.bdev()])
    }

    fn reinstate_path(&self) -> Result<(), String> {
        self.message(&["reinstate_path", &self.bdev()])
    }

    fn bdev(&self) -> String {
        format!("{}-bdev", self.volume.name)
    }

    /// A command on the device, with the words after the verb and the name.
    fn command(&self, verb: &str, more: &[&str]) -> Result<(), String> {
        let command = [&["dm", verb, self.volume.name][..], more].concat();
        self.target.command(&command).map(drop)
    }

    /// Loads the table that the device began with: a new multipath whose path has not failed.
    fn load(&self) -> Result<(), String> {
        let table = self.volume.multipath_table(QUEUE);
        self.command("load", &["--table", &table])
    }

    /// AT-01: the host's I/O runs.
    fn await_progress(&self) -> Result<(), String> {
        await_progress(self.target, self.volume.name)
    }

    /// AT-03: all of the host's I/O waits in the target, and none in the core.
    fn await_held(&self) -> Result<Counts, String> {
        self.target
            .await_counts(self.volume.name, "I/O to wait for a path", |now| {
                now.held == ENDLESS_WRITERS && now.in_flight == ENDLESS_WRITERS && now.parked == 0
            })
    }

    /// The state of AT-03, by an operator's word.
    fn lose_path(&self) -> Result<Counts, String> {
        self.fail_path()?;
        self.await_held()
    }

    /// AT-06: what has waited in the target is in the core now, and nothing was completed.
    fn expect_pushed_back(&self, before: &Counts) -> Result<(), String> {
        self.expect(Counts {
            in_flight: 0,
            held: 0,
            parked: ENDLESS_WRITERS,
            pushed_back: before.pushed_back + ENDLESS_WRITERS,
            ..*before
        })
    }

    fn expect(&self, right: Counts) -> Result<(), String> {
        let found = self.target.counts(self.volume.name)?;
        match found == right {
            true => Ok(()),
            false => Err(format!("there is {found:?}; right would be {right:?}")),
        }
    }

    /// AT-67: whatever happens to the device, what has been asked for at its creation stays.
    fn expect_queueing(&self) -> Result<(), String> {
        let table = self.target.command(&["dm", "table", self.volume.name])?;
        match table.contains(QUEUE) {
            true => Ok(()),
            false => Err(format!("queue_if_no_path was lost: {table}")),
        }
    }

    /// The end of a scenario in which no I/O may fail.
    fn expect_no_error(&self) -> Result<(), String> {
        match self.target.counts(self.volume.name)?.errors {
            0 => Ok(()),
            errors => Err(format!("{errors} I/Os failed")),
        }
    }
}

/// The path fails again and again under a host that writes and verifies, and comes back in every way there is. Between the steps all I/O is where
/// it should be; the host has no error, and reads what it wrote.
pub fn waits_for_its_path(context: &Context<'_>, front: Front) -> Result<(), String> {
    let volume = || Volume::new("disk", Backing::Malloc, 4096, 64).with_one_path(QUEUE);
    let mut target = context.target_by(front, "no-path", &[volume()])?;
    let attached = front.attach(context.guest, &target)?;
    let writes = start_endless_writes(context.guest, &attached.disk(0)?)?;
    let disk = Disk {
        target: &target,
        volume: volume(),
    };

    // AT-01; AT-03; back at once.
    disk.await_progress()?;
    disk.lose_path()?;
    disk.reinstate_path()?;
    disk.await_progress()?;

    // AT-06; AT-07: the resume puts it where it was.
    let before = disk.lose_path()?;
    disk.command("suspend", &["--noflush"])?;
    disk.expect_pushed_back(&before)?;
    disk.expect_queueing()?;
    disk.command("resume", &[])?;
    let after = disk.await_held()?;
    if after.completed != before.completed {
        return Err(format!(
            "I/O was completed without a path: {before:?}, then {after:?}"
        ));
    }
    disk.reinstate_path()?;
    disk.await_progress()?;

    // AT-08a: the path comes back while suspended.
    let before = disk.lose_path()?;
    disk.command("suspend", &["--noflush"])?;
    disk.expect_pushed_back(&before)?;
    disk.reinstate_path()?;
    disk.expect_pushed_back(&before)?;
    disk.command("resume", &[])?;
    disk.await_progress()?;

    // AT-08b: another table, with a path that works.
    let before = disk.lose_path()?;
    disk.command("suspend", &["--noflush"])?;
    disk.load()?;
    disk.expect_pushed_back(&before)?;
    disk.command("resume", &[])?;
    disk.await_progress()?;

    // AT-09: the resume suspends, and so does the swap.
    disk.lose_path()?;
    disk.load()?;
    disk.command("resume", &["--noflush"])?;
    disk.await_progress()?;
    disk.lose_path()?;
    let table = disk.volume.multipath_table(QUEUE);
    disk.command("swap", &["--table", &table])?;
    disk.await_progress()?;

    // AT-69: a table without any path parks as well, and a table with one lets it run.
    disk.command(
        "swap",
        &["--table", "0 131072 multipath 1 queue_if_no_path 0 0 0"],
    )?;
    disk.await_held()?;
    disk.command("swap", &["--table", &table])?;
    disk.await_progress()?;

    disk.expect_queueing()?;
    disk.expect_no_error()?;
    writes.stop()?;
    attached.close()?;
    target.terminate()
}

/// The disk is pulled while the host writes: its path fails by the errors that this makes, and the I/O that met them waits with the rest. The same
/// disk is put in again, and a table that finds it made live in each of the three ways.
pub fn survives_a_pulled_disk(context: &Context<'_>, front: Front) -> Result<(), String> {
    let volume = || Volume::new("disk", Backing::File, 4096, 64).with_one_path(QUEUE);
    let mut target = context.target_by(front, "pulled", &[volume()])?;
    let attached = front.attach(context.guest, &target)?;
    let writes = start_endless_writes(context.guest, &attached.disk(0)?)?;
    let disk = Disk {
        target: &target,
        volume: volume(),
    };
    let bdev = disk.bdev();
    let path = format!("path={}", target.backing_file("disk").display());
    let table = disk.volume.multipath_table(QUEUE);
    let ways: [&[&[&str]]; 3] = [
        &[&["swap", "--table", &table]],
        &[&["load", "--table", &table], &["resume", "--noflush"]],
        &[
            &["suspend", "--noflush"],
            &["load", "--table", &table],
            &["resume"],
        ],
    ];
    for way in ways {
        disk.await_progress()?;
        target.command(&["bdev", "remove", "--force", &bdev])?;
        disk.await_held()?;
        let status = target.command(&["dm", "status", "disk"])?;
        if !status.contains(" F 1") {
            return Err(format!("the path should have failed once: {status}"));
        }
        // What was taken away comes back with a table only (PM-14).
        let refusal = target.refusal(&["dm", "message", "disk", "0", "reinstate_path", &bdev])?;
        if !refusal.contains("EINVAL") {
            return Err(format!("the refusal should be EINVAL: {refusal}"));
        }
        let name = format!("name={bdev}");
        target.command(&[
            "bdev",
            "add",
            "file",
            &name,
            &path,
            "size=64MiB",
            "block_size=4096",
        ])?;
        for words in way {
            disk.command(words[0], &words[1..])?;
        }
    }
    disk.await_progress()?;
    disk.expect_no_error()?;
    writes.stop()?;
    attached.close()?;
    target.terminate()
}

/// I/Os at once where I/O fails.
const PROBES: u64 = 8;

/// What a host sees of I/O that has no path and may not wait: EIO, once for each, and only then.
pub fn fails_when_it_must(context: &Context<'_>, front: Front) -> Result<(), String> {
    let guest = context.guest;
    let volume = || Volume::new("disk", Backing::File, 4096, 64).with_one_path("0");
    let mut target = context.target_by(front, "fails", &[volume()])?;
    let attached = front.attach(guest, &target)?;
    let device = attached.disk(0)?;
    let retries = front.without_retries(guest, &device)?;
    let disk = Disk {
        target: &target,
        volume: volume(),
    };
    let probes = || start_probes(guest, &device, PROBES);
    let mut failed = target.counts("disk")?.errors;
    // All that was outstanding has failed, and nothing is left.
    let mut expect_failed = |count: u64| -> Result<(), String> {
        failed += count;
        let found = target.counts("disk")?;
        let rest = [found.in_flight, found.held, found.parked];
        match found.errors == failed && rest == [0; 3] {
            true => Ok(()),
            false => Err(format!(
                "there is {found:?}; right would be {failed} errors in all"
            )),
        }
    };
    let waiting = || -> Result<_, String> {
        let probes = probes()?;
        target.await_counts("disk", "I/O to wait for a path", |now| {
            now.held == PROBES && now.in_flight == PROBES && now.parked == 0
        })?;
        Ok(probes)
    };
    probes()?.succeed()?;

    // AT-02: without queue_if_no_path it fails at once, a flush as well.
    disk.fail_path()?;
    probes()?.fail()?;
    expect_failed(PROBES)?;
    let flush = format!("dd if=/dev/null of={device} conv=notrunc,fsync status=none");
    let (_, output) = guest.start(&flush)?.finish()?;
    if !is_io_error(&output) {
        return Err(format!("a flush without a path should fail: {output}"));
    }
    expect_failed(1)?;
    disk.reinstate_path()?;
    probes()?.succeed()?;

    // AT-04: a suspend with flush fails what waits. AT-67: it will wait again.
    disk.message(&["queue_if_no_path"])?;
    disk.fail_path()?;
    let held = waiting()?;
    disk.command("suspend", &["--nolockfs"])?;
    held.fail()?;
    expect_failed(PROBES)?;
    disk.expect_queueing()?;
    disk.command("resume", &[])?;

    // AT-66: by message, and the other way round.
    let held = waiting()?;
    disk.message(&["fail_if_no_path"])?;
    held.fail()?;
    expect_failed(PROBES)?;
    probes()?.fail()?;
    expect_failed(PROBES)?;
    disk.message(&["queue_if_no_path"])?;

    // AT-11: without a path the device cannot be flushed, so a suspend that is to do so is undone: the device runs, and I/O waits again.
    let held = waiting()?;
    let refusal = target.refusal(&["dm", "suspend", "disk"])?;
    if !refusal.contains("(EIO)") {
        return Err(format!("the refusal should be EIO: {refusal}"));
    }
    held.fail()?;
    let state = target.command(&[
        "dm",
        "info",
        "-c",
        "--noheadings",
        "-o",
        "suspended",
        "disk",
    ])?;
    if state.trim() != "Active" {
        return Err(format!(
            "a suspend that was undone has left the device {state}"
        ));
    }
    disk.expect_queueing()?;
    expect_failed(PROBES)?;

    // An operator's way out for what is parked (OQ-9).
    let held = waiting()?;
    disk.command("suspend", &["--noflush"])?;
    disk.command("fail-parked", &[])?;
    held.fail()?;
    expect_failed(PROBES)?;
    disk.command("resume", &[])?;

    let held = waiting()?;
    disk.reinstate_path()?;
    held.succeed()?;
    expect_failed(0)?;
    context.expect_io_errors(front.disk_prefix())?;
    retries.restore()?;
    attached.close()?;
    target.terminate()
}

/// A host that gives up on I/O that waits, in a target or in the core: it drops its connection and sends everything again over a new one. What was
/// given up is gone from polldm, what was sent again waits in its place, and in the end every block is right (AT-78).
pub fn host_gives_up_and_sends_again(context: &Context<'_>) -> Result<(), String> {
    let guest = context.guest;
    let volume = || Volume::new("disk", Backing::Malloc, 4096, 64).with_one_path(QUEUE);
    let mut target = context.target("gives-up", &[volume()])?;
    let limit = "/sys/module/nvme_core/parameters/io_timeout";
    let limit = Setting::change(guest, limit, "2")?;
    let connection = context.connect(&target, "")?;
    let writes = start_endless_writes(guest, &connection.device(1)?)?;
    let disk = Disk {
        target: &target,
        volume: volume(),
    };
    let await_reconnect = || -> Result<(), String> {
        connection.await_state("connecting")?;
        connection.await_state("live")
    };
    disk.await_progress()?;

    disk.lose_path()?;
    await_reconnect()?;
    disk.await_held()?;
    disk.reinstate_path()?;
    disk.await_progress()?;

    let before = disk.lose_path()?;
    disk.command("suspend", &["--noflush"])?;
    disk.expect_pushed_back(&before)?;
    await_reconnect()?;
    target.await_counts("disk", "I/O to be sent again", |now| {
        now.parked == ENDLESS_WRITERS && now.in_flight == 0
    })?;
    disk.reinstate_path()?;
    disk.command("resume", &[])?;
    disk.await_progress()?;

    writes.stop()?;
    context.expect_alarms(crate::UNANSWERED)?;
    connection.close()?;
    limit.restore()?;
    target.terminate()
}

/// An initiator that gives up on I/O that waits, in a target or in the core: it aborts each command after a second or two and sends it again, and an
/// administrator resets the unit. What was aborted is gone from polldm, what was sent again waits in its place, and in the end every block is
/// right (AT-78).
pub fn initiator_aborts_and_resets(context: &Context<'_>) -> Result<(), String> {
    let guest = context.guest;
    let volume = || Volume::new("disk", Backing::Malloc, 4096, 64).with_one_path(QUEUE);
    let mut target = context.target_by(Front::Iscsi, "aborts", &[volume()])?;
    let session = Session::open(guest, &Portal::of(&target), &[])?;
    let device = session.disk(0)?;
    // As long as it takes the host tries again, and does not wait for long. Both go with the disk.
    guest.run(&format!(
        r"
        cd /sys/block/{name}/device
        echo 1 >timeout
        cd scsi_disk/* && echo -1 >max_retries
        ",
        name = device.trim_start_matches("/dev/"),
    ))?;
    let writes = start_endless_writes(guest, &device)?;
    let disk = Disk {
        target: &target,
        volume: volume(),
    };
    for is_suspended in [false, true] {
        disk.await_progress()?;
        disk.lose_path()?;
        if is_suspended {
            disk.command("suspend", &["--noflush"])?;
        }
        let await_again = || {
            target.await_counts("disk", "I/O to be sent again", |now| {
                let waits = match is_suspended {
                    false => [now.held, now.in_flight],
                    true => [now.parked, now.parked + now.in_flight],
                };
                waits == [ENDLESS_WRITERS; 2]
            })
        };
        await_again()?;
        let asked = session.task_management()?;
        session.await_task_management(asked + ENDLESS_WRITERS)?;
        let before = await_again()?;
        guest.run(&format!("sg_reset --device --no-escalate {device}"))?;
        let after = await_again()?;
        if !is_suspended && after.errors < before.errors + ENDLESS_WRITERS {
            return Err(format!(
                "the reset has not ended every command: {before:?}, then {after:?}"
            ));
        }
        disk.reinstate_path()?;
        if is_suspended {
            disk.command("resume", &[])?;
        }
    }
    disk.await_progress()?;
    writes.stop()?;
    session.close()?;
    target.terminate()
}
