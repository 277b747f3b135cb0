//! What a host stores must come back: file systems, verified writes, discards and write-zeroes.

use super::Context;
use crate::initiator::{start_file_system, start_verified_writes};
use crate::target::{Backing, Volume};

/// ext4 on 512-byte blocks and xfs on 4096-byte blocks, filled, remounted, compared and checked at the same time.
pub fn file_systems(context: &Context<'_>) -> Result<(), String> {
    let mut target = context.target(
        "file-systems",
        &[
            Volume::new("small", Backing::Malloc, 512, 256),
            Volume::new("big", Backing::File, 4096, 512),
        ],
    )?;
    let connection = context.connect(&target, "")?;
    let ext4 = start_file_system(context.guest, "ext4", &connection.device(1)?)?;
    let xfs = start_file_system(context.guest, "xfs", &connection.device(2)?)?;
    ext4.succeed()?;
    xfs.succeed()?;
    connection.close()?;
    target.terminate()
}

/// fio writes at queue depth 16 with flushes among them and compares every block, on memory and on a file.
pub fn verified_writes(context: &Context<'_>) -> Result<(), String> {
    let mut target = context.target(
        "verified-writes",
        &[
            Volume::new("memory", Backing::Malloc, 512, 128),
            Volume::new("file", Backing::File, 4096, 128),
        ],
    )?;
    let connection = context.connect(&target, "")?;
    let memory = start_verified_writes(context.guest, &connection.device(1)?, 512)?;
    let file = start_verified_writes(context.guest, &connection.device(2)?, 4096)?;
    memory.succeed()?;
    file.succeed()?;
    connection.close()?;
    target.terminate()
}

/// The same on memory with header and data digests, which the kernel's initiator insists on once asked for (it refuses a
/// connection whose ICResp does not have them), and with queues of their own for writes.
pub fn verified_writes_with_digests(context: &Context<'_>) -> Result<(), String> {
    let volume = Volume::new("memory", Backing::Malloc, 512, 128);
    let mut target = context.target("digests", &[volume])?;
    let connection = context.connect(&target, "--hdr-digest --data-digest --nr-write-queues=2")?;
    start_verified_writes(context.guest, &connection.device(1)?, 512)?.succeed()?;
    connection.close()?;
    target.terminate()
}

/// A discarded and a zeroed range read as zeroes, and their neighbours are untouched.
pub fn discard_and_write_zeroes(context: &Context<'_>) -> Result<(), String> {
    let mut target = context.target(
        "zeroes",
        &[
            Volume::new("memory", Backing::Malloc, 512, 64),
            Volume::new("file", Backing::File, 4096, 64),
        ],
    )?;
    let connection = context.connect(&target, "")?;
    for nsid in [1, 2] {
        let device = connection.device(nsid)?;
        context.guest.run(&format!(
            r"
            set -e
            queue=/sys/block/{name}/queue
            [ $(cat $queue/discard_max_bytes) -gt 0 ] || fail 'the host may not discard'
            [ $(cat $queue/write_zeroes_max_bytes) -gt 0 ] || fail 'the host may not write zeroes'
            dd if=/dev/urandom of=/tmp/pattern bs=1M count=16 status=none
            for option in '' --zeroout; do
                dd if=/tmp/pattern of={device} bs=1M oflag=direct status=none
                # In the middle of the pattern, and not aligned to it.
                blkdiscard -f $option --offset 3149824 --length 6299648 {device}
                dd if={device} of=/tmp/read bs=1M count=16 iflag=direct status=none
                cp /tmp/pattern /tmp/expected
                dd if=/dev/zero of=/tmp/expected bs=4096 seek=769 count=1538 conv=notrunc status=none
                cmp /tmp/expected /tmp/read || fail blkdiscard $option: wrong contents
            done
            nvme flush {device}
            # As the commands themselves, past the block layer: two blocks zeroed, one compared.
            nvme write-zeroes {device} --start-block=8 --block-count=1
            size=$(blockdev --getss {device})
            head -c $size /dev/zero >/tmp/zero
            nvme compare {device} --start-block=9 --block-count=0 --data-size=$size --data=/tmp/zero
            rm /tmp/pattern /tmp/read /tmp/expected /tmp/zero
            ",
            name = device.trim_start_matches("/dev/"),
        ))?;
    }
    connection.close()?;
    target.terminate()
}
