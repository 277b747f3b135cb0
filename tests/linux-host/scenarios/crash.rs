//! A target that goes away, politely or not, while a host is writing.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::Context;
use crate::guest::Job;
use crate::target::{Backing, Front, Target, Volume};

/// Files that the writer finishes before, and after, the target is away.
const FILES_EACH_TIME: usize = 15;

/// ext4 stays mounted, and a writer keeps writing, while the target is stopped with SIGTERM and started again. The
/// host reconnects; every file is there after a remount, and the file system is clean.
pub fn restart_under_mount(context: &Context<'_>) -> Result<(), String> {
    let guest = context.guest;
    let mut target = context.target("restart", &[Volume::new("disk", Backing::File, 4096, 128)])?;
    let connection = context.connect(&target, "")?;
    let device = connection.device(1)?;
    guest.run(&format!("make_file_system ext4 {device} /mnt/restart"))?;
    let mut writer = guest.start(
        r"
        rm -f /run/stop
        i=0
        cd /mnt/restart || fail 'not mounted'
        until [ -e /run/stop ]; do
            i=$((i + 1))
            dd if=/dev/urandom of=file.$i bs=16384 count=3 conv=fsync status=none || fail writing $i failed
            sha256sum file.$i >>/tmp/sums.restart
            tell $i
        done
        ",
    )?;
    for _ in 0..2 {
        await_events(&mut writer, FILES_EACH_TIME)?;
        target.terminate()?;
        connection.await_state("connecting")?;
        target.serve()?;
        connection.await_state("live")?;
    }
    await_events(&mut writer, FILES_EACH_TIME)?;
    guest.run("touch /run/stop")?;
    writer.succeed()?;
    guest.run(&format!(
        r"
        set -e
        umount /mnt/restart
        check_file_system ext4 {device}
        mount -t ext4 {device} /mnt/restart
        cd /mnt/restart
        sha256sum -c -s /tmp/sums.restart || fail 'files have changed'
        cd /
        umount /mnt/restart
        rm /tmp/sums.restart
        "
    ))?;
    connection.close()?;
    target.terminate()
}

/// How often the target is killed.
const KILLS: usize = 3;
/// Records that are acknowledged, by each writer, before the target is killed.
const RECORDS_BEFORE_A_KILL: usize = 10;
/// Writers, each on an area of its own, so that several flushes are under way at the moment of the kill.
const WRITERS: u64 = 3;
/// Blocks of one writer's area: more than it writes.
const AREA_BLOCKS: u64 = 4096;
/// Bytes of a record: one logical block.
const RECORD_BYTES: u64 = 4096;

/// Writers put records on the raw device, one block each with FUA or with a flush behind it, and say so. kill -9; then, before
/// anything is started again, every record that was acknowledged must be in the backing file. The host reconnects to the
/// new process and goes on; at the end all records are read back.
pub fn kill_while_writing(context: &Context<'_>, front: Front) -> Result<(), String> {
    let guest = context.guest;
    let mut target = context.target_by(
        front,
        "kill",
        &[Volume::new("disk", Backing::File, 4096, 128)],
    )?;
    let attached = front.attach(guest, &target)?;
    let device = attached.disk(0)?;
    guest.run("rm -f /run/stop")?;
    let mut writers: Vec<(Job<'_>, u64)> = Vec::new();
    for writer in 0..WRITERS {
        let durably = match writer {
            0 => "oflag=direct,dsync conv=sync,notrunc",
            _ => "oflag=direct conv=sync,notrunc,fsync",
        };
        let script = format!(
            r"
            i=0
            until [ -e /run/stop ]; do
                i=$((i + 1))
                printf 'writer {writer} record %06d.' $i |
                    dd of={device} bs={RECORD_BYTES} seek=$(({area} + i)) {durably} status=none ||
                    fail record $i failed
                tell $i
            done
            ",
            area = writer * AREA_BLOCKS,
        );
        writers.push((guest.start(&script)?, 0));
    }
    // Beside them, deep queues of writes that nobody checks: the kill finds all queues full.
    // fio leaves with 128 when it is interrupted; an I/O error would be in the kernel's log.
    let noise = guest.start(&format!(
        "fio --eta=never --thread --ioengine=libaio --direct=1 --filename={device} --rw=randwrite --bs=4k --iodepth=32 \
         --offset=64m --size=32m --time_based --runtime=3600 --fsync=64 --name=noise &\n\
         until [ -e /run/stop ]; do usleep 50000; done\n\
         kill -INT $!\n\
         wait $!\n\
         status=$?\n\
         [ $status = 128 ] || fail \"fio ended with status $status\""
    ))?;

    for kill in 1..=KILLS {
        for (writer, acknowledged) in &mut writers {
            for _ in 0..RECORDS_BEFORE_A_KILL {
                *acknowledged = record_number(&writer.event()?)?;
            }
        }
        target.kill()?;
        for (index, (writer, acknowledged)) in (0..).zip(&mut writers) {
            // What the guest was told in the last moment counts as well.
            for event in writer.events_so_far()? {
                *acknowledged = record_number(&event)?;
            }
            check_records(&target, index, *acknowledged)
                .map_err(|e| format!("kill {kill}: {e}"))?;
        }
        target.serve()?;
    }

    guest.run("touch /run/stop")?;
    for (index, (mut writer, mut acknowledged)) in (0..).zip(writers) {
        for event in writer.events_so_far()? {
            acknowledged = record_number(&event)?;
        }
        writer.succeed()?;
        let output = guest.run(&format!(
            "dd if={device} bs={RECORD_BYTES} skip={} count={acknowledged} iflag=direct status=none | tr -d '\\000' | \
             tr . '\\n' | grep -c 'writer {index} record'",
            index * AREA_BLOCKS + 1
        ))?;
        if output.trim() != acknowledged.to_string() {
            return Err(format!(
                "the host reads {} of writer {index}'s {acknowledged} records",
                output.trim()
            ));
        }
    }
    noise.succeed()?;
    attached.close()?;
    target.terminate()
}

fn record_number(event: &str) -> Result<u64, String> {
    event
        .parse()
        .map_err(|e| format!("the writer told {event:?}: {e}"))
}

/// Reads a writer's records 1 to `last` from the file behind the device.
fn check_records(target: &Target, writer: u64, last: u64) -> Result<(), String> {
    let path = target.backing_file("disk");
    let file = File::open(&path).map_err(|e| format!("cannot open {}: {e}", path.display()))?;
    for record in 1..=last {
        let right = format!("writer {writer} record {record:06}.");
        let mut found = vec![0; right.len()];
        file.read_exact_at(&mut found, (writer * AREA_BLOCKS + record) * RECORD_BYTES)
            .map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        if found != right.as_bytes() {
            return Err(format!(
                "writer {writer}'s record {record} of {last} was flushed but is not in the file; there is {:?}",
                String::from_utf8_lossy(&found)
            ));
        }
    }
    Ok(())
}

/// Waits until the job has told `count` more things.
fn await_events(job: &mut Job<'_>, count: usize) -> Result<(), String> {
    (0..count).try_for_each(|_| job.event().map(drop))
}
