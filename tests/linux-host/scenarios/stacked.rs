//! Multipath over mapped devices: what a path leads to can be made to fail, to hold I/O, and to be the same medium as another path.

use super::Context;
use crate::front::Attachment;
use crate::initiator::{await_progress, is_io_error, start_endless_writes, start_probes};
use crate::target::{Backing, Front, Target, Volume};

/// A table of 64 MiB.
fn table(target: &str) -> String {
    format!("0 131072 {target}")
}

/// A target with one volume of 64 MiB, which hosts find in the first place: the table of its device is the scenario's affair.
fn start(
    context: &Context<'_>,
    front: Front,
    name: &str,
    device: &'static str,
) -> Result<Target, String> {
    context.target_by(
        front,
        name,
        &[Volume::new(device, Backing::Malloc, 4096, 64)],
    )
}

/// Makes the device's table live and connects the host: its disk there.
fn attach<'a>(
    context: &Context<'a>,
    front: Front,
    target: &Target,
    device: &str,
    table: &str,
) -> Result<(Attachment<'a>, String), String> {
    target.command(&["dm", "swap", device, "--table", table])?;
    let attached = front.attach(context.guest, target)?;
    let disk = attached.disk(0)?;
    Ok((attached, disk))
}

/// Two paths to one medium, of which one or the other fails all I/O while a host writes and verifies: what fails on one goes to the other. A path is
/// reinstated when what it leads to works again. The host has no error, and reads what it wrote.
pub fn paths_fail_over(context: &Context<'_>, front: Front) -> Result<(), String> {
    let mut target = start(context, front, "fail-over", "disks")?;
    let works = table("linear disks-bdev 0");
    target.create("first", &works)?;
    target.create("second", &works)?;
    // Each with the paths that are to fail, which must be in use: of two idle paths service-time takes the faster one, always.
    let groups: [(&str, &[&str]); 4] = [
        ("1 1 round-robin 0 2 0 first second", &["first", "second"]),
        ("1 1 queue-length 0 2 0 first second", &["first", "second"]),
        (
            "1 1 service-time 0 2 2 first 1 1 second 1 3",
            &["second", "second"],
        ),
        (
            "2 1 round-robin 0 1 0 first round-robin 0 1 0 second",
            &["first", "second"],
        ),
    ];
    let multipath = |groups| table(&format!("multipath 0 0 {groups}"));
    let (attached, device) = attach(context, front, &target, "disks", &multipath(groups[0].0))?;
    let writes = start_endless_writes(context.guest, &device)?;
    let fails = [table("error"), table("flakey disks-bdev 0 0 1")];
    for (groups, paths) in groups {
        target.command(&["dm", "swap", "disks", "--table", &multipath(groups)])?;
        for (path, fails) in paths.iter().zip(&fails) {
            await_progress(&target, "disks")?;
            let event =
                target.command(&["dm", "info", "-c", "--noheadings", "-o", "events", "disks"])?;
            target.command(&["dm", "swap", path, "--table", fails])?;
            // The path has failed by an I/O: that is an event.
            target.command(&["dm", "wait", "disks", event.trim()])?;
            await_progress(&target, "disks")?;
            target.command(&["dm", "swap", path, "--table", &works])?;
            target.command(&["dm", "message", "disks", "0", "reinstate_path", path])?;
        }
    }
    if target.counts("disks")?.errors > 0 {
        return Err("I/O has failed".into());
    }
    writes.stop()?;
    attached.close()?;
    target.terminate()
}

/// One I/O of a host that lies on two multipath devices without a path, half on each: it fails once, or succeeds once, as a whole.
pub fn spans_two_multipaths(context: &Context<'_>, front: Front) -> Result<(), String> {
    let guest = context.guest;
    let mut target = start(context, front, "two-multipaths", "both")?;
    let half = |start| format!("0 65536 linear both-bdev {start}");
    let multipath =
        |path| format!("0 65536 multipath 1 queue_if_no_path 0 1 1 round-robin 0 1 0 {path}");
    for (upper, lower, start) in [("left", "leftPath", 0), ("right", "rightPath", 65536)] {
        target.create(lower, &half(start))?;
        target.create(upper, &multipath(lower))?;
    }
    let halves = "0 65536 linear left 0\n65536 65536 linear right 0";
    let (attached, device) = attach(context, front, &target, "both", halves)?;
    let retries = front.without_retries(guest, &device)?;

    // 64 KiB with the end of the left half in its middle.
    guest.run("dd if=/dev/urandom of=/tmp/span bs=65536 count=1 status=none")?;
    let write = || {
        guest.start(&format!(
            "dd if=/tmp/span of={device} bs=65536 count=1 seek=33521664 oflag=direct,seek_bytes conv=notrunc status=none"
        ))
    };
    let lose_paths = || -> Result<(), String> {
        for (upper, lower) in [("left", "leftPath"), ("right", "rightPath")] {
            target.command(&["dm", "message", upper, "0", "fail_path", lower])?;
        }
        Ok(())
    };
    let await_held = || -> Result<(), String> {
        for upper in ["left", "right"] {
            target.await_counts(upper, "half an I/O to wait", |now| now.held == 1)?;
        }
        Ok(())
    };

    // AT-05
    let before = target.counts("both")?;
    lose_paths()?;
    let mut one = write()?;
    await_held()?;
    target.command(&["dm", "suspend", "--nolockfs", "left"])?;
    target.await_counts("left", "its half to fail", |now| now.in_flight == 0)?;
    let between = target.counts("both")?;
    if one.is_finished()? || between.in_flight != 1 || between.errors != before.errors {
        return Err(format!(
            "half an I/O has failed, and it has ended: {between:?}"
        ));
    }
    target.command(&["dm", "suspend", "--nolockfs", "right"])?;
    let (status, output) = one.finish()?;
    if status == 0 || !is_io_error(&output) {
        return Err(format!(
            "an I/O whose halves have failed ended with: {status} {output}"
        ));
    }
    let after = target.counts("both")?;
    if after.errors != before.errors + 1 || after.in_flight != 0 {
        return Err(format!(
            "one I/O has failed once: {before:?}, then {after:?}"
        ));
    }
    target.command(&["dm", "resume", "left", "right"])?;

    // AT-10: the paths come with new tables, one after the other.
    let one = write()?;
    await_held()?;
    let before = target.counts("both")?;
    for (upper, lower) in [("left", "leftPath"), ("right", "rightPath")] {
        if target.counts("both")?.completed != before.completed {
            return Err("the I/O was completed with half of its paths".into());
        }
        target.command(&["dm", "load", upper, "--table", &multipath(lower)])?;
        target.command(&["dm", "resume", "--noflush", upper])?;
    }
    one.succeed()?;
    let after = target.counts("both")?;
    if after.completed != before.completed + 1 || after.errors != before.errors {
        return Err(format!(
            "one I/O was completed once: {before:?}, then {after:?}"
        ));
    }
    guest.run(&format!(
        "dd if={device} of=/tmp/read bs=65536 count=1 skip=33521664 iflag=direct,skip_bytes status=none\n\
         cmp /tmp/span /tmp/read || fail 'what was read is not what was written'\n\
         rm /tmp/span /tmp/read"
    ))?;
    context.expect_io_errors(front.disk_prefix())?;
    retries.restore()?;
    attached.close()?;
    target.terminate()
}

/// I/Os that a device beneath holds, and as many that have no path.
const EACH: u64 = 8;

/// A suspend with noflush that cannot end, because a device beneath holds I/O, is cancelled when other I/O is pushed back already: that
/// waits for a path again, the suspend is refused, and nothing fails.
pub fn cancelled_suspend(context: &Context<'_>, front: Front) -> Result<(), String> {
    let guest = context.guest;
    let mut target = start(context, front, "cancel", "disks")?;
    target.create("path", &table("linear disks-bdev 0"))?;
    let multipath = "multipath 1 queue_if_no_path 0 1 1 round-robin 0 1 0 path";
    let (attached, device) = attach(context, front, &target, "disks", &table(multipath))?;
    target.await_counts("disks", "the first I/O to end", |now| now.in_flight == 0)?;
    target.command(&[
        "dm",
        "swap",
        "path",
        "--table",
        &table("delay disks-bdev 0 3600000"),
    ])?;

    let beneath = start_probes(guest, &device, EACH)?;
    target.await_counts("path", "I/O to be delayed", |now| now.held == EACH)?;
    target.command(&["dm", "message", "disks", "0", "fail_path", "path"])?;
    let waiting = start_probes(guest, &device, EACH)?;
    let before = target.await_counts("disks", "I/O to wait for a path", |now| now.held == EACH)?;

    let suspend = target.start_command(&["dm", "suspend", "--noflush", "disks"])?;
    target.await_counts("disks", "I/O to be pushed back", |now| {
        now.held == 0 && now.parked == EACH && now.in_flight == EACH
    })?;
    target.command(&["dm", "cancel", "disks"])?;
    suspend.refusal()?;
    let after = target.await_counts("disks", "it to wait for a path again", |now| {
        now.held == EACH && now.parked == 0 && now.in_flight == 2 * EACH
    })?;
    if after.completed != before.completed {
        return Err(format!(
            "a cancelled suspend has ended I/O: {before:?}, then {after:?}"
        ));
    }
    let state = target.command(&[
        "dm",
        "info",
        "-c",
        "--noheadings",
        "-o",
        "suspended",
        "disks",
    ])?;
    let text = target.command(&["dm", "table", "disks"])?;
    if state.trim() != "Active" || !text.contains("queue_if_no_path") {
        return Err(format!(
            "a cancelled suspend has changed the device: {state} {text}"
        ));
    }

    target.command(&[
        "dm",
        "swap",
        "path",
        "--table",
        &table("linear disks-bdev 0"),
    ])?;
    beneath.succeed()?;
    target.command(&["dm", "message", "disks", "0", "reinstate_path", "path"])?;
    waiting.succeed()?;
    attached.close()?;
    target.terminate()
}
