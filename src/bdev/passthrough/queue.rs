//! What sysfs says of the namespace's queue in the kernel: commands of ours are not cut there, so its limits are ours.

use std::path::Path;

use crate::reactor::BUFFER_ALIGNMENT;

/// The unit in which the kernel counts pieces of memory, when it finds nothing to merge.
const PAGE_BYTES: u64 = 4096;

/// What a queue takes when sysfs does not say: less than every driver has.
const SEGMENTS_UNKNOWN: u64 = 33;

/// What memory addresses are multiples of when sysfs does not say: data pointers have their lowest two bits zero (NVMe Base 2.0, 4.1.1).
const ALIGNMENT_UNKNOWN: usize = 4;

/// The queue behind a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queue {
    /// The largest read or write, in bytes, wherever its memory is.
    pub(super) transfer_bytes_max: u64,
    /// What memory addresses must be multiples of.
    pub(super) memory_alignment: usize,
    /// Whether the driver has queues to poll.
    pub(super) polls: bool,
    /// Whether its zones must be written in order.
    pub(super) zoned: bool,
}

impl Queue {
    /// From the `queue` directory of a block device in sysfs; what is not there is taken to be as little as can be.
    pub(super) fn read(directory: &Path) -> Queue {
        let text = |name: &str| {
            let text = std::fs::read_to_string(directory.join(name)).ok()?;
            Some(text.trim().to_owned())
        };
        let number = |name: &str| text(name)?.parse::<u64>().ok();
        let segments = number("max_segments").unwrap_or(SEGMENTS_UNKNOWN);
        // Memory that begins within a page has one piece more than it has pages.
        let by_segments = segments.saturating_sub(1).max(1).saturating_mul(PAGE_BYTES);
        let by_size = number("max_hw_sectors_kb").map_or(u64::MAX, |kib| kib.saturating_mul(1024));
        let alignment = number("dma_alignment")
            .and_then(|mask| usize::try_from(mask).ok()?.checked_add(1))
            .filter(|alignment| alignment.is_power_of_two() && *alignment <= BUFFER_ALIGNMENT);
        Queue {
            transfer_bytes_max: by_segments.min(by_size).max(PAGE_BYTES),
            memory_alignment: alignment.unwrap_or(ALIGNMENT_UNKNOWN),
            polls: number("io_poll") == Some(1),
            zoned: text("zoned").is_some_and(|zoned| zoned != "none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(files: &[(&str, &str)]) -> Queue {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).expect("written");
        }
        Queue::read(directory.path())
    }

    #[test]
    fn limits_hold_for_memory_of_scattered_pages() {
        let found = queue(&[
            ("max_segments", "127\n"),
            ("max_hw_sectors_kb", "2048\n"),
            ("dma_alignment", "3\n"),
            ("io_poll", "1\n"),
            ("zoned", "none\n"),
        ]);
        assert_eq!(
            found,
            Queue {
                transfer_bytes_max: 126 * 4096,
                memory_alignment: 4,
                polls: true,
                zoned: false
            }
        );
        let small = queue(&[("max_segments", "127\n"), ("max_hw_sectors_kb", "128\n")]);
        assert_eq!(small.transfer_bytes_max, 128 << 10);
    }

    #[test]
    fn what_is_not_told_is_little() {
        let unknown = Queue {
            transfer_bytes_max: 128 << 10,
            memory_alignment: 4,
            polls: false,
            zoned: false,
        };
        assert_eq!(queue(&[]), unknown);
        let nonsense = [
            ("max_segments", "x"),
            ("dma_alignment", "6"),
            ("io_poll", ""),
        ];
        assert_eq!(queue(&nonsense), unknown);
        assert_eq!(queue(&[("max_segments", "0")]).transfer_bytes_max, 4096);
        assert!(queue(&[("zoned", "host-managed\n")]).zoned);
    }
}
