//! Hugepages: whether there are enough before SPDK is started, so that a machine without hears so in one sentence; and that they are given back.

use std::path::PathBuf;
use std::{fs, process};

/// What SPDK takes at the least with its own defaults: its pools of I/O buffers (200 MiB), of I/Os (100 MiB), of messages (50 MiB) and, in 24.09, of events
/// (50 MiB), the queues of the NVMe-oF target, and room for a malloc bdev of a test.
pub(super) const MEMORY_MIB_MIN: u64 = 576;

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Refuses when there are not enough free hugepages of 2 MiB for `mib`, or when nothing is mounted to get them from.
///
/// # Errors
/// What is missing, and the command that would give it.
pub(super) fn check_hugepages(mib: u64) -> Result<(), String> {
    let off = "or run without hugepages by `spdk: { hugepages: off }`";
    let read = |name: &str| -> u64 {
        let text = fs::read_to_string(format!("{POOL}/{name}")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    let (total, free) = (read("nr_hugepages"), read("free_hugepages"));
    let wanted = mib.div_ceil(2);
    if free < wanted {
        return Err(format!(
            "SPDK needs {mib} MiB of hugepages and {} MiB are free; `echo {} > /proc/sys/vm/nr_hugepages` as root gives them, {off}",
            free * 2,
            total + wanted - free,
        ));
    }
    if mounted().is_empty() {
        return Err(format!(
            "no hugetlbfs is mounted, out of which SPDK takes its hugepages; `mkdir -p /dev/hugepages && mount -t hugetlbfs none /dev/hugepages` as root \
             mounts one, {off}"
        ));
    }
    Ok(())
}

/// Gives back the hugepages of this process, in which SPDK has ended. DPDK leaves those that were shared until its next program starts.
pub(super) fn give_back_hugepages() {
    let own = format!("spdk_pid{}map_", process::id());
    let entries = mounted().into_iter().filter_map(|at| fs::read_dir(at).ok());
    for entry in entries.flatten().flatten() {
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(own.as_bytes())
        {
            // One that is gone already is what this is for.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Where hugepages are mounted.
fn mounted() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let hugetlbfs = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let at = words.next()?;
        (words.next() == Some("hugetlbfs")).then(|| at.into())
    });
    hugetlbfs.collect()
}
