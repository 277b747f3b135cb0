//! Operation codes. The two low bits of a code tell the direction of its data: 01b host to controller,
//! 10b controller to host (NVMe Base 2.0, 3.3.3.1).

/// Which way a command's data goes, as bits 01:00 of its operation code tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// No data.
    None,
    /// Data goes from the host to the controller.
    HostToController,
    /// Data goes from the controller to the host.
    ControllerToHost,
    /// Both ways; no command of the standard that polldm knows does.
    Bidirectional,
}

/// The data direction that an operation code (or, for fabrics commands, the command type) declares.
#[inline]
pub const fn direction(code: u8) -> Direction {
    match code & 3 {
        0 => Direction::None,
        1 => Direction::HostToController,
        2 => Direction::ControllerToHost,
        _ => Direction::Bidirectional,
    }
}

/// The operation code of every fabrics command, on admin and I/O queues (NVMe Base 2.0, 6).
pub const FABRICS: u8 = 0x7F;

/// Admin commands (NVMe Base 2.0, 5).
pub mod admin {
    /// Delete I/O Submission Queue: not for fabrics.
    pub const DELETE_SUBMISSION_QUEUE: u8 = 0x00;
    /// Create I/O Submission Queue: not for fabrics.
    pub const CREATE_SUBMISSION_QUEUE: u8 = 0x01;
    /// Get Log Page.
    pub const GET_LOG_PAGE: u8 = 0x02;
    /// Delete I/O Completion Queue: not for fabrics.
    pub const DELETE_COMPLETION_QUEUE: u8 = 0x04;
    /// Create I/O Completion Queue: not for fabrics.
    pub const CREATE_COMPLETION_QUEUE: u8 = 0x05;
    /// Identify.
    pub const IDENTIFY: u8 = 0x06;
    /// Abort.
    pub const ABORT: u8 = 0x08;
    /// Set Features.
    pub const SET_FEATURES: u8 = 0x09;
    /// Get Features.
    pub const GET_FEATURES: u8 = 0x0A;
    /// Asynchronous Event Request.
    pub const ASYNC_EVENT_REQUEST: u8 = 0x0C;
    /// Namespace Management.
    pub const NAMESPACE_MANAGEMENT: u8 = 0x0D;
    /// Firmware Commit.
    pub const FIRMWARE_COMMIT: u8 = 0x10;
    /// Firmware Image Download.
    pub const FIRMWARE_DOWNLOAD: u8 = 0x11;
    /// Device Self-test.
    pub const DEVICE_SELF_TEST: u8 = 0x14;
    /// Namespace Attachment.
    pub const NAMESPACE_ATTACHMENT: u8 = 0x15;
    /// Keep Alive.
    pub const KEEP_ALIVE: u8 = 0x18;
    /// Directive Send.
    pub const DIRECTIVE_SEND: u8 = 0x19;
    /// Directive Receive.
    pub const DIRECTIVE_RECEIVE: u8 = 0x1A;
    /// Format NVM.
    pub const FORMAT_NVM: u8 = 0x80;
    /// Security Send.
    pub const SECURITY_SEND: u8 = 0x81;
    /// Security Receive.
    pub const SECURITY_RECEIVE: u8 = 0x82;
    /// Sanitize.
    pub const SANITIZE: u8 = 0x84;
    /// Get LBA Status.
    pub const GET_LBA_STATUS: u8 = 0x86;
}

/// I/O commands of the NVM command set (NVM Command Set 1.0, 3; NVMe Base 2.0, 7).
pub mod io {
    /// Flush.
    pub const FLUSH: u8 = 0x00;
    /// Write.
    pub const WRITE: u8 = 0x01;
    /// Read.
    pub const READ: u8 = 0x02;
    /// Write Uncorrectable.
    pub const WRITE_UNCORRECTABLE: u8 = 0x04;
    /// Compare.
    pub const COMPARE: u8 = 0x05;
    /// Write Zeroes.
    pub const WRITE_ZEROES: u8 = 0x08;
    /// Dataset Management.
    pub const DATASET_MANAGEMENT: u8 = 0x09;
    /// Verify.
    pub const VERIFY: u8 = 0x0C;
    /// Reservation Register.
    pub const RESERVATION_REGISTER: u8 = 0x0D;
    /// Reservation Report.
    pub const RESERVATION_REPORT: u8 = 0x0E;
    /// Reservation Acquire.
    pub const RESERVATION_ACQUIRE: u8 = 0x11;
    /// Reservation Release.
    pub const RESERVATION_RELEASE: u8 = 0x15;
    /// Copy.
    pub const COPY: u8 = 0x19;
}

/// Fabrics command types, byte 4 of a command whose operation code is [`FABRICS`]
/// (NVMe Base 2.0, 6).
pub mod fabrics {
    /// Property Set.
    pub const PROPERTY_SET: u8 = 0x00;
    /// Connect.
    pub const CONNECT: u8 = 0x01;
    /// Property Get.
    pub const PROPERTY_GET: u8 = 0x04;
    /// Authentication Send.
    pub const AUTHENTICATION_SEND: u8 = 0x05;
    /// Authentication Receive.
    pub const AUTHENTICATION_RECEIVE: u8 = 0x06;
    /// Disconnect.
    pub const DISCONNECT: u8 = 0x08;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_low_bits_tell_the_direction() {
        assert_eq!(direction(io::READ), Direction::ControllerToHost);
        assert_eq!(direction(io::WRITE), Direction::HostToController);
        assert_eq!(direction(io::COMPARE), Direction::HostToController);
        assert_eq!(
            direction(io::DATASET_MANAGEMENT),
            Direction::HostToController
        );
        assert_eq!(direction(io::FLUSH), Direction::None);
        assert_eq!(direction(io::WRITE_ZEROES), Direction::None);
        assert_eq!(direction(admin::IDENTIFY), Direction::ControllerToHost);
        assert_eq!(direction(fabrics::CONNECT), Direction::HostToController);
        assert_eq!(direction(fabrics::PROPERTY_GET), Direction::None);
        assert_eq!(direction(FABRICS), Direction::Bidirectional);
    }
}
