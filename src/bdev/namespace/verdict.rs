//! What the status of an NVMe completion means to the mapper (MP-13).

use crate::dm::Status;
use crate::nvme::{self, status};

/// The status that hosts, and multipath, are told.
pub(crate) fn verdict(answer: nvme::Status) -> Status {
    use nvme::Status as N;
    if answer.is_success() {
        return Status::Ok;
    }
    let is = |statuses: &[N]| statuses.iter().any(|status| answer.is(*status));
    if answer.code_type() == status::TYPE_PATH
        || is(&[N::TRANSIENT_TRANSPORT_ERROR, N::ABORTED_QUEUE_DELETION])
    {
        Status::Transport
    } else if is(&[N::CAPACITY_EXCEEDED]) {
        Status::NoSpace
    } else if is(&[
        N::LBA_OUT_OF_RANGE,
        N::COMMAND_INTERRUPTED,
        N::NAMESPACE_NOT_READY,
        N::FORMAT_IN_PROGRESS,
    ]) {
        Status::Target
    } else if is(&[
        N::INVALID_OPCODE,
        N::INVALID_FIELD,
        N::INVALID_NAMESPACE,
        N::CONFLICTING_ATTRIBUTES,
        N::COMMAND_SIZE_LIMIT_EXCEEDED,
    ]) {
        Status::NotSupported
    } else if is(&[N::RESERVATION_CONFLICT]) {
        Status::ReservationConflict
    } else if is(&[
        N::GUARD_CHECK_ERROR,
        N::APPLICATION_TAG_CHECK_ERROR,
        N::REFERENCE_TAG_CHECK_ERROR,
        N::INVALID_PROTECTION_INFORMATION,
    ]) {
        Status::Protection
    } else if answer.code_type() == status::TYPE_MEDIA
        || is(&[N::WRITE_TO_READ_ONLY_RANGE, N::NAMESPACE_WRITE_PROTECTED])
    {
        Status::Medium
    } else {
        Status::IoError
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvme::Status as N;

    /// MP-13, line by line.
    #[test]
    fn mp_13_what_a_completion_means() {
        for (answer, expected) in [
            (N::SUCCESS, Status::Ok),
            (N::CAPACITY_EXCEEDED, Status::NoSpace),
            (N::LBA_OUT_OF_RANGE, Status::Target),
            (N::COMMAND_INTERRUPTED, Status::Target),
            (N::NAMESPACE_NOT_READY, Status::Target),
            (N::INVALID_OPCODE, Status::NotSupported),
            (N::INVALID_FIELD, Status::NotSupported),
            (N::INVALID_NAMESPACE, Status::NotSupported),
            (N::CONFLICTING_ATTRIBUTES, Status::NotSupported),
            (N::WRITE_FAULT, Status::Medium),
            (N::UNRECOVERED_READ_ERROR, Status::Medium),
            (N::DEALLOCATED_OR_UNWRITTEN, Status::Medium),
            (N::ACCESS_DENIED, Status::Medium),
            (N::WRITE_TO_READ_ONLY_RANGE, Status::Medium),
            (N::GUARD_CHECK_ERROR, Status::Protection),
            (N::INVALID_PROTECTION_INFORMATION, Status::Protection),
            (N::RESERVATION_CONFLICT, Status::ReservationConflict),
            (N::HOST_PATHING_ERROR, Status::Transport),
            (N::INTERNAL_PATH_ERROR, Status::Transport),
            (N::ANA_INACCESSIBLE, Status::Transport),
            (N::ANA_PERSISTENT_LOSS, Status::Transport),
            (N::ANA_TRANSITION, Status::Transport),
            (N::TRANSIENT_TRANSPORT_ERROR, Status::Transport),
            (N::INTERNAL_ERROR, Status::IoError),
            (N::DATA_TRANSFER_ERROR, Status::IoError),
        ] {
            assert_eq!(verdict(answer), expected, "{answer}");
            assert_eq!(verdict(answer.do_not_retry()), expected, "{answer}");
        }
    }
}
