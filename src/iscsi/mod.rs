//! iSCSI as bytes (RFC 7143): what target and initiator put on the wire and take from it.
//!
//! | file | what is in it |
//! |---|---|
//! | [`pdu`] | the basic header segment, how a PDU lies in the stream, digests, sequence numbers |
//! | [`text`] | text keys, and what a login comes to by them |
//! | [`login`] | how a login ends |
//! | [`chap`], [`secrets`] | proofs, and the file of what they are made with |

pub mod chap;
pub mod login;
pub mod pdu;
pub mod secrets;
pub mod text;

/// Most bytes of an iSCSI name (RFC 7143, 4.2.7.2).
pub const NAME_BYTES_MAX: usize = 223;
