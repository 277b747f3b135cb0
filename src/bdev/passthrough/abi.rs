//! Commands as the kernel's NVMe driver takes them: `struct nvme_uring_cmd` and `struct nvme_passthru_cmd` of linux/nvme_ioctl.h, which
//! differ only in their last four bytes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::nvme;
use crate::nvme::command::Command;
use crate::nvme::identify::{PAGE_SIZE, Page};

/// Size of either structure.
const SIZE: usize = 72;

/// Size of what io_uring carries: the structure, and nothing.
pub(super) const ENTRY_SIZE: usize = 80;

/// `_IO('N', 0x40)`: which namespace it is.
const IOCTL_ID: libc::Ioctl = 0x4E40;

/// `_IOWR('N', 0x41, struct nvme_passthru_cmd)`: an admin command.
const IOCTL_ADMIN_CMD: libc::Ioctl = 0xC048_4E41_u32 as libc::Ioctl;

/// `_IOWR('N', 0x80, struct nvme_uring_cmd)`: an I/O command whose data is one piece of memory.
pub(super) const URING_CMD_IO: u32 = 0xC048_4E80;

const _: () = assert!(URING_CMD_IO == 3 << 30 | (SIZE as u32) << 16 | (b'N' as u32) << 8 | 0x80);

/// A command with `length` bytes of data at `address`. The driver makes data pointer and command identifier itself, and its own
/// time limit holds.
#[inline]
pub(super) fn encode(command: &Command, address: u64, length: u32) -> [u8; ENTRY_SIZE] {
    let mut bytes = [0; ENTRY_SIZE];
    bytes[0] = command.opcode();
    let mut put = |offset: usize, value: &[u8]| {
        bytes[offset..offset + value.len()].copy_from_slice(value);
    };
    put(4, &command.nsid().to_ne_bytes());
    put(24, &address.to_ne_bytes());
    put(36, &length.to_ne_bytes());
    for index in 10..16 {
        put(index * 4, &command.dword(index).to_ne_bytes());
    }
    bytes
}

/// The status of a completed command: what a driver that answers with more than 0 has of it is the field without its phase bit.
#[inline]
pub(super) fn status(result: i32) -> nvme::Status {
    nvme::Status::from_bits((result as u16) << 1)
}

/// Why an admin command brought nothing.
#[derive(Debug)]
pub(super) enum AdminError {
    /// The controller has answered so.
    Status(nvme::Status),
    /// The kernel has not let it through.
    Kernel(io::Error),
}

/// The namespace identifier of a generic device; an error for anything else.
pub(super) fn namespace_id(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: the ioctl takes no argument.
    match unsafe { libc::ioctl(fd.as_raw_fd(), IOCTL_ID) } {
        id if id > 0 => Ok(id as u32),
        0 => Err(io::Error::from_raw_os_error(libc::ENOTTY)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Identify: the structure's page.
pub(super) fn identify(
    fd: BorrowedFd<'_>,
    structure: u8,
    nsid: u32,
) -> Result<Box<Page>, AdminError> {
    #[repr(align(8))]
    struct Aligned([u8; ENTRY_SIZE]);

    let mut page: Box<Page> = Box::new([0; PAGE_SIZE]);
    let address = page.as_mut_ptr() as u64;
    let command = Command::identify(structure, nsid);
    let mut command = Aligned(encode(&command, address, PAGE_SIZE as u32));
    // SAFETY: the ioctl reads and writes `SIZE` bytes of the command, which are there and aligned, and writes a page at its address.
    match unsafe { libc::ioctl(fd.as_raw_fd(), IOCTL_ADMIN_CMD, command.0.as_mut_ptr()) } {
        0 => Ok(page),
        result if result > 0 => Err(AdminError::Status(status(result))),
        _ => Err(AdminError::Kernel(io::Error::last_os_error())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::opcode;

    /// Each field where linux/nvme_ioctl.h has it; those that are the driver's business are zero.
    #[test]
    fn fields_lie_where_the_driver_reads_them() {
        let mut command = Command::block_io(opcode::io::WRITE, 0x0102_0304, 0x1122_3344_5566, 256);
        command.set_force_unit_access();
        let bytes = encode(&command, 0xAABB_CCDD_EEFF, 131_072);
        let u32_at = |offset: usize| {
            u32::from_ne_bytes(bytes[offset..offset + 4].try_into().expect("4 bytes"))
        };
        assert_eq!(bytes[..4], [0x01, 0, 0, 0], "operation code, no flags");
        assert_eq!(u32_at(4), 0x0102_0304, "namespace");
        assert_eq!(bytes[8..24], [0; 16], "no metadata");
        assert_eq!(
            u64::from_ne_bytes(bytes[24..32].try_into().expect("8 bytes")),
            0xAABB_CCDD_EEFF
        );
        assert_eq!((u32_at(32), u32_at(36)), (0, 131_072));
        assert_eq!((u32_at(40), u32_at(44)), (0x3344_5566, 0x1122), "LBA");
        assert_eq!(u32_at(48), 1 << 30 | 255, "FUA, blocks minus one");
        assert_eq!(bytes[52..], [0; 28], "no more, and the driver's timeout");
    }

    #[test]
    fn the_status_of_a_completion() {
        assert!(status(0).is_success());
        // Status code type 2, code 81h, "do not retry" and "more".
        let answer = status(0x6281);
        assert!(answer.is(nvme::Status::UNRECOVERED_READ_ERROR));
        assert!(answer.is_do_not_retry() && answer.is_more());
    }

    #[test]
    fn what_is_no_namespace_has_no_identifier() {
        let file = std::fs::File::open("/dev/null").expect("opens");
        use std::os::fd::AsFd;
        namespace_id(file.as_fd()).expect_err("no namespace");
        assert!(matches!(
            identify(file.as_fd(), 1, 0),
            Err(AdminError::Kernel(_))
        ));
    }
}
