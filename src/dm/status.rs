//! How an I/O ended, and which errno the control plane shows for it.

/// The result of one I/O as a host may see it (semantics, section 0).
///
/// Push-back is not among them: it is a decision of the mapper, never a status, so a host
/// cannot be shown one by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok,
    /// The operation is not supported by this device (EOPNOTSUPP).
    NotSupported,
    /// The lower device did not answer in time (ETIMEDOUT).
    Timeout,
    /// Out of space (ENOSPC).
    NoSpace,
    /// The path or transport failed (ENOLINK); another path may help.
    Transport,
    /// The device rejected the command (EREMOTEIO); another path will not help.
    Target,
    /// Reservation conflict (EBADE).
    ReservationConflict,
    /// Media error (ENODATA).
    Medium,
    /// Integrity check failed (EILSEQ).
    Protection,
    /// The compare step of a compare-and-write found other data: a result for the host, not an error of any path.
    Miscompare,
    /// Aborted by the host or by removal of the device (ECANCELED).
    Aborted,
    /// Any other failure (EIO).
    IoError,
}

impl Status {
    /// Whether the I/O did what it was asked.
    #[inline(always)]
    pub fn is_ok(self) -> bool {
        self == Status::Ok
    }
}
