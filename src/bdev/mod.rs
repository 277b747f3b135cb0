//! Backing devices of the native engine.

mod channel;
mod core;
mod malloc;
mod null;
mod payload;
mod registry;

pub use channel::Channel;
pub use core::Core;
pub use payload::{Access, LendList, Owner, Payload, Segment};
pub use registry::{Bdev, OpenError, Registry, Spec};
