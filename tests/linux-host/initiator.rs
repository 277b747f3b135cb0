//! What a host does with a target: connect, find its devices, use them, disconnect. The same steps run against
//! polldm and, in the self-check, against the kernel's own target, which shows whose fault a failure is.

use crate::guest::{Guest, Job};
use crate::target::Target;

/// Where the guest finds the machine that it runs on (QEMU's user-mode network).
pub const HOST_AS_SEEN_BY_GUEST: &str = "10.0.2.2";

/// A subsystem at an address.
pub struct Endpoint {
    /// `tcp` or `rdma`.
    pub transport: &'static str,
    /// IPv4 address, as the guest sees it.
    pub address: &'static str,
    /// Port.
    pub port: u16,
    /// Name of the subsystem.
    pub nqn: String,
}

impl Endpoint {
    /// polldm on the machine that runs the test, at its first listener.
    pub fn of(target: &Target) -> Endpoint {
        Endpoint {
            transport: "tcp",
            address: HOST_AS_SEEN_BY_GUEST,
            port: target.ports[0],
            nqn: target.nqn.clone(),
        }
    }

    /// The options by which nvme-cli finds the target.
    pub fn transport(&self) -> String {
        format!(
            "--transport={} --traddr={} --trsvcid={}",
            self.transport, self.address, self.port
        )
    }
}

/// The guest's connection to a subsystem.
pub struct Connection<'a> {
    guest: &'a Guest,
    /// Name of the subsystem.
    pub nqn: String,
}

impl<'a> Connection<'a> {
    /// `nvme connect`. A lost connection is tried again every second for two minutes: longer than any scenario
    /// keeps a target away.
    pub fn open(
        guest: &'a Guest,
        endpoint: &Endpoint,
        options: &str,
    ) -> Result<Connection<'a>, String> {
        guest.run(&format!(
            "nvme connect {} --nqn={} --reconnect-delay=1 --ctrl-loss-tmo=120 --keep-alive-tmo=15 {options}",
            endpoint.transport(),
            endpoint.nqn
        ))?;
        Ok(Connection {
            guest,
            nqn: endpoint.nqn.clone(),
        })
    }

    /// The block device of a namespace, once the kernel has scanned it.
    pub fn device(&self, nsid: u32) -> Result<String, String> {
        let output = self
            .guest
            .run(&format!("device {} {nsid}", self.nqn))
            .map_err(|e| format!("namespace {nsid} of {} does not appear: {e}", self.nqn))?;
        Ok(output.trim().to_owned())
    }

    /// The character device of the (first) controller, for admin commands.
    pub fn controller(&self) -> Result<String, String> {
        let output = self
            .guest
            .run(&format!("basename $(controller {})", self.nqn))?;
        Ok(format!("/dev/{}", output.trim()))
    }

    /// Waits until the kernel says that the controller is in this state: `live`, `connecting`, ...
    pub fn await_state(&self, state: &str) -> Result<(), String> {
        self.guest
            .run(&format!("await 60 state_is {} {state}", self.nqn))
            .map(drop)
    }

    /// `nvme disconnect`; nothing of the subsystem may be left.
    pub fn close(self) -> Result<(), String> {
        let nqn = &self.nqn;
        let output = self.guest.run(&format!(
            "nvme disconnect --nqn={nqn} || fail 'disconnect failed'\n\
             gone() {{ ! controller {nqn} && ! find_device {nqn} 1; }}\n\
             await 60 gone >/dev/null"
        ))?;
        drop(output);
        Ok(())
    }
}

/// Starts: make a file system, fill it, read it back after a remount, trim, change it, and have it checked.
pub fn start_file_system<'a>(
    guest: &'a Guest,
    kind: &str,
    device: &str,
) -> Result<Job<'a>, String> {
    guest.start(&format!(
        r"
        set -e
        directory=/mnt/{kind}
        make_file_system {kind} {device} $directory
        mkdir -p $directory/small $directory/large
        for i in $(seq 100); do echo file $i of {kind} on {device} >$directory/small/$i; done
        for kib in 1 7 64 1000 8192; do
            dd if=/dev/urandom of=$directory/large/$kib bs=1024 count=$kib iflag=fullblock status=none
        done
        # A hole between two blocks of data.
        dd if=/dev/urandom of=$directory/large/sparse bs=4096 count=1 status=none
        dd if=/dev/urandom of=$directory/large/sparse bs=4096 count=1 seek=5000 conv=notrunc status=none
        sync
        cd $directory && find . -type f | sort | xargs sha256sum >/tmp/sums.{kind} && cd /
        umount $directory
        mount -t {kind} {device} $directory
        drop_caches
        (cd $directory && sha256sum -c -s /tmp/sums.{kind}) || fail 'the files have changed'

        # A second round over freed blocks, with a trim in between where the device can.
        rm $directory/large/8192 $directory/small/5*
        if [ $(cat /sys/block/{name}/queue/discard_max_bytes) -gt 0 ]; then fstrim $directory; fi
        dd if=/dev/urandom of=$directory/large/again bs=1024 count=4096 iflag=fullblock conv=fsync status=none
        mv $directory/small $directory/moved
        cd $directory && find . -type f | sort | xargs sha256sum >/tmp/sums.{kind} && cd /
        umount $directory
        check_file_system {kind} {device}
        mount -t {kind} {device} $directory
        (cd $directory && sha256sum -c -s /tmp/sums.{kind}) || fail 'the files have changed after the trim'
        umount $directory
        ",
        name = device.trim_start_matches("/dev/"),
    ))
}

/// The fio job file of `verified_writes`: random writes with flushes among them, read back and compared with their
/// checksums; small blocks at the front of the device and large ones, at the same time, behind them.
pub fn start_verified_writes<'a>(
    guest: &'a Guest,
    device: &str,
    block_size: u32,
) -> Result<Job<'a>, String> {
    guest.start(&format!(
        "fio --eta=never --thread --ioengine=libaio --direct=1 --filename={device} --rw=randwrite --iodepth=16 \
         --verify=crc32c --verify_fatal=1 --fsync=32 --randseed=20261121 \
         --name=small --bsrange={block_size}-16k --blockalign={block_size} --offset=0 --size=8m \
         --name=large --bsrange=64k-1m --blockalign=64k --offset=64m --size=64m"
    ))
}

/// I/Os that `start_endless_writes` has in flight whenever nothing completes: one per thread.
pub const ENDLESS_WRITERS: u64 = 16;

/// Waits until I/O to the device of a target runs: more is completed than [`start_endless_writes`] ever has outstanding.
pub fn await_progress(target: &Target, device: &str) -> Result<(), String> {
    let enough = target.counts(device)?.completed + 4 * ENDLESS_WRITERS;
    target
        .await_counts(device, "I/O to run", |now| now.completed >= enough)
        .map(drop)
}

/// Random writes that are read back and compared all the time, until [`EndlessWrites::stop`].
pub struct EndlessWrites<'a> {
    guest: &'a Guest,
    job: Job<'a>,
    stop_file: String,
}

/// Starts fio on a device, or a file of 64 MiB, with [`ENDLESS_WRITERS`] threads, each on 4 MiB of its own. Each has exactly one I/O outstanding at any time, so when the device completes nothing
/// any more, that is how many it has. One thread flushes after every fourth write; no more than one, or the kernel would merge flushes.
pub fn start_endless_writes<'a>(
    guest: &'a Guest,
    device: &str,
) -> Result<EndlessWrites<'a>, String> {
    let name = device.rsplit('/').next().unwrap_or(device);
    let stop_file = format!("/run/stop.{name}");
    let job = guest.start(&format!(
        r"
        rm -f {stop_file}
        fio --eta=never --thread --group_reporting --ioengine=psync --direct=1 --filename={device} --rw=randwrite \
            --verify=crc32c --verify_fatal=1 --verify_backlog=8 --loops=1000000 --randseed=20261121 \
            --bsrange=4k-64k --blockalign=4k --size=4m \
            --name=writers --numjobs={writers} --offset_increment=4m \
            --name=flusher --offset={writers_mib}m --fsync=4 >/tmp/fio.{name} 2>&1 &
        until [ -e {stop_file} ] || ! kill -0 $!; do usleep 20000; done
        kill -INT $!
        wait $!
        status=$?
        cat /tmp/fio.{name}
        # What fio leaves with when it is interrupted; after an error it would have left by itself.
        [ $status = 128 ] && grep -q 'err= 0:' /tmp/fio.{name}
        ",
        writers = ENDLESS_WRITERS - 1,
        writers_mib = (ENDLESS_WRITERS - 1) * 4,
    ))?;
    Ok(EndlessWrites {
        guest,
        job,
        stop_file,
    })
}

impl EndlessWrites<'_> {
    /// Ends the writes. An error if any I/O failed, or any block was read back as something else.
    pub fn stop(self) -> Result<(), String> {
        self.guest.run(&format!("touch {}", self.stop_file))?;
        self.job.succeed().map(drop)
    }
}

/// Whether a program says that its I/O has failed: EIO, or EREMOTEIO, which is how Linux hands on a HARDWARE ERROR of SCSI.
pub fn is_io_error(said: &str) -> bool {
    ["Input/output error", "Remote I/O error"]
        .iter()
        .any(|words| said.trim_end().ends_with(words))
}

/// Single I/Os of programs that want to know what becomes of them: half reads, half writes.
pub struct Probes<'a> {
    job: Job<'a>,
    count: u64,
}

/// Starts so many programs with one I/O of 4 KiB each, at places of their own.
pub fn start_probes<'a>(guest: &'a Guest, device: &str, count: u64) -> Result<Probes<'a>, String> {
    let job = guest.start(&format!(
        r"
        for i in $(seq {count}); do
            if [ $((i % 2)) = 0 ]; then
                way='if={device} of=/dev/null iflag=direct skip='
            else
                way='if=/dev/zero of={device} oflag=direct conv=notrunc seek='
            fi
            (
                if dd $way$i bs=4096 count=1 status=none 2>/tmp/probe.$i; then tell ok; else tell $(cat /tmp/probe.$i); fi
            ) &
        done
        wait
        ",
    ))?;
    Ok(Probes { job, count })
}

impl Probes<'_> {
    /// Waits for the end of all of them, which must be a success.
    pub fn succeed(self) -> Result<(), String> {
        self.end("success", |outcome| outcome == "ok")
    }

    /// Waits for the end of all of them, which must be an I/O error.
    pub fn fail(self) -> Result<(), String> {
        self.end("an I/O error", is_io_error)
    }

    fn end(mut self, what: &str, right: impl Fn(&str) -> bool) -> Result<(), String> {
        for _ in 0..self.count {
            let outcome = self.job.event()?;
            if !right(&outcome) {
                return Err(format!(
                    "an I/O that should end with {what} ended with: {outcome}"
                ));
            }
        }
        self.job.succeed().map(drop)
    }
}
