//! How a login ends, as both sides say it.

/// Status class and detail (RFC 7143, 11.13.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[allow(missing_docs)]
pub enum Status {
    Success = 0x0000,
    MovedTemporarily = 0x0101,
    MovedPermanently = 0x0102,
    InitiatorError = 0x0200,
    AuthenticationFailed = 0x0201,
    AuthorizationFailed = 0x0202,
    NotFound = 0x0203,
    Removed = 0x0204,
    UnsupportedVersion = 0x0205,
    TooManyConnections = 0x0206,
    MissingParameter = 0x0207,
    SessionTypeNotSupported = 0x0209,
    NoSuchSession = 0x020A,
    InvalidDuringLogin = 0x020B,
    OutOfResources = 0x0302,
}
