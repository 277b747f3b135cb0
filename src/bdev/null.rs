//! `null`: reads find zeroes where they are lent memory, and nothing new where they bring their own; writes vanish. What the path
//! above costs, and nothing else.

use super::core::Core;
use super::payload::{Access, Payload, lend_zeroes};
use crate::dm::{CloneId, LowerIo, Op, Status, Submit};

/// Ends on the next poll, as a device would, so that a queue depth means something.
#[inline(always)]
pub(super) fn submit(core: &mut Core, io: &LowerIo<Payload>, clone: CloneId) -> Submit {
    if io.op == Op::Read && matches!(io.payload.access(), Access::Lend) {
        lend_zeroes(io.payload);
    }
    core.ended.push((clone, Status::Ok));
    Submit::Pending
}
