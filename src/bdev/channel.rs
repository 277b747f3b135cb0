//! A backing device as one reactor holds it.

use super::core::Core;
use super::malloc::Malloc;
use super::null;
use super::payload::Payload;
use crate::dm::{CloneId, LowerIo, Submit};

/// A channel: one kind of device each, dispatched without a `dyn` call.
#[derive(Debug)]
pub enum Channel {
    /// `null`.
    Null,
    /// `malloc`.
    Malloc(Malloc),
}

impl Channel {
    /// Submits an I/O that lies inside the device. Never blocks.
    #[inline(always)]
    pub fn submit(&mut self, core: &mut Core, io: &LowerIo<Payload>, clone: CloneId) -> Submit {
        match self {
            Channel::Malloc(malloc) => malloc.submit(io),
            Channel::Null => null::submit(core, io, clone),
        }
    }
}
