//! What an errno of the kernel means to the mapper.

use crate::dm::Status;

/// The status for an errno: the inverse of the table in the semantics, section 0, and what file systems say besides.
pub(super) fn status_of(errno: i32) -> Status {
    match errno {
        libc::EOPNOTSUPP | libc::ENOSYS => Status::NotSupported,
        libc::ETIMEDOUT => Status::Timeout,
        // A file at its largest size, too: the host has to free space, not replace a disk.
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => Status::NoSpace,
        // The device, or its server, is gone; another path may still reach it.
        libc::ENOLINK | libc::ENODEV | libc::ENXIO | libc::ENOTCONN | libc::ESTALE => {
            Status::Transport
        }
        // The device is there and will not do it.
        libc::EREMOTEIO | libc::EROFS | libc::EPERM | libc::EACCES => Status::Target,
        libc::EBADE => Status::ReservationConflict,
        libc::ENODATA => Status::Medium,
        libc::EILSEQ => Status::Protection,
        libc::ECANCELED => Status::Aborted,
        _ => Status::IoError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_kernel() {
        for (errno, status) in [
            (libc::EOPNOTSUPP, Status::NotSupported),
            (libc::ETIMEDOUT, Status::Timeout),
            (libc::ENOSPC, Status::NoSpace),
            (libc::EDQUOT, Status::NoSpace),
            (libc::EFBIG, Status::NoSpace),
            (libc::ENOLINK, Status::Transport),
            (libc::ENODEV, Status::Transport),
            (libc::ENXIO, Status::Transport),
            (libc::EREMOTEIO, Status::Target),
            (libc::EROFS, Status::Target),
            (libc::EBADE, Status::ReservationConflict),
            (libc::ENODATA, Status::Medium),
            (libc::EILSEQ, Status::Protection),
            (libc::ECANCELED, Status::Aborted),
            (libc::EIO, Status::IoError),
            (libc::EINVAL, Status::IoError),
        ] {
            assert_eq!(status_of(errno), status, "{errno}");
        }
    }
}
