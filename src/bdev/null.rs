//! The null device: accepts everything, keeps nothing.

use crate::dm::{LowerIo, Op, Payload as _};

use super::payload::Payload;

/// The data side of one I/O; it completes at the next poll, so that a queue depth means something.
///
/// A read that lends is answered with zeroes. One that brings memory finds it unchanged, as with SPDK's null: whoever puts a null device
/// before a host he does not trust uses front ends that lend.
#[inline(always)]
pub(super) fn submit(io: &LowerIo<Payload>) {
    if io.op == Op::Read && io.payload.as_memory().is_none() {
        io.payload.fill_zero();
    }
}
