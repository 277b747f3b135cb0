//! Why an operation on a mapped device was refused: the errno the semantics name, and a sentence a person understands.

use std::fmt;

/// The errno names of table 1.2 of the semantics. Numbers are Linux's, for a control client that shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Errno {
    /// No such device, or it is being removed.
    Enxio = 6,
    /// Out of memory or of slots.
    Enomem = 12,
    /// In use, or the name is taken.
    Ebusy = 16,
    /// The request makes no sense in this state or at all.
    Einval = 22,
    /// More targets than a table may have.
    Eoverflow = 75,
    /// Given up before it was done, by a cancel (ERESTARTSYS in the kernel).
    Eintr = 4,
    /// Given up before it was done, because its time was up.
    Etimedout = 110,
    /// A flush that the operation needs has failed.
    Eio = 5,
    /// A target cannot be resumed yet (its preresume hook says why).
    Eagain = 11,
}

impl Errno {
    /// The symbolic name, as in `errno(3)`.
    pub fn name(self) -> &'static str {
        match self {
            Errno::Enxio => "ENXIO",
            Errno::Enomem => "ENOMEM",
            Errno::Ebusy => "EBUSY",
            Errno::Einval => "EINVAL",
            Errno::Eoverflow => "EOVERFLOW",
            Errno::Eintr => "EINTR",
            Errno::Etimedout => "ETIMEDOUT",
            Errno::Eio => "EIO",
            Errno::Eagain => "EAGAIN",
        }
    }
}

/// A refused operation. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The class of the refusal.
    pub errno: Errno,
    /// What was wrong and what would be right.
    pub reason: String,
}

impl Error {
    /// An error of class `errno` with its sentence.
    pub fn new(errno: Errno, reason: impl Into<String>) -> Error {
        Error {
            errno,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason, self.errno.name())
    }
}

impl std::error::Error for Error {}
