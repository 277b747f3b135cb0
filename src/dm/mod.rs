//! The device mapper: no I/O, no clock, no threads, no sockets; generic over [`Env`].

pub mod env;
pub mod error;
pub mod io;
pub mod limits;
pub mod message;
pub mod status;
pub mod table;
pub mod target;

pub use env::{Env, Submit};
pub use io::{CloneId, CoreId, DeviceId, Io, LowerIo, Op, Payload, Tag};
pub use limits::{Lower, LowerId};
pub use message::Message;
pub use status::Status;
