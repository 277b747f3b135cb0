//! What a protocol is to the socket and the poll loop that carry it: bytes in, bytes out, and an end.

use std::net::SocketAddr;

use crate::engine::Core;

/// How far a connection is, as far as its socket needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// In use: it is read from.
    Open,
    /// The last word is queued; nothing is read any more.
    Leaving,
    /// Over; only I/O at devices keeps it.
    Dead,
}

/// One connection's protocol. Statically dispatched: the poll loop is compiled once for each.
pub trait Protocol: Sized {
    /// What all sessions of a core work with.
    type Shared;

    /// The connection's two ends, told once before anything else.
    fn is_reached_at(&mut self, local: SocketAddr, peer: Option<SocketAddr>);

    /// A turn without input; true if anything was done.
    fn poll(&mut self, shared: &mut Self::Shared, core: &mut Core<'_>) -> bool;

    /// Where the socket may put what it has: up to two pieces. `None` when nothing may be received now.
    fn input(&mut self, shared: &mut Self::Shared, core: &mut Core<'_>)
    -> Option<[libc::iovec; 2]>;

    /// The socket has put `count` bytes into what [`Protocol::input`] answered last.
    fn received(&mut self, count: usize, shared: &mut Self::Shared, core: &mut Core<'_>);

    /// What waits to be sent.
    fn output(&self) -> &[libc::iovec];

    /// Whether anything waits to be sent.
    fn has_output(&self) -> bool;

    /// The socket took `count` bytes of [`Protocol::output`].
    fn sent(&mut self, count: usize, shared: &mut Self::Shared, core: &mut Core<'_>);

    /// Ends it: no more is read or sent, what is parked at devices is aborted.
    fn kill(&mut self, shared: &mut Self::Shared, core: &mut Core<'_>);

    /// It has fallen silent: lets go of receive memory with nothing in it.
    fn rest(&mut self, shared: &mut Self::Shared);

    /// How far it is.
    fn stage(&self) -> Stage;

    /// Whether more may be read from the host now.
    fn may_receive(&self) -> bool;

    /// Whether it can go on only when others have given back memory, which nothing announces.
    fn is_starved(&self) -> bool;

    /// Whether it is leaving and has sent all it had to say.
    fn is_farewell_sent(&self) -> bool;

    /// Whether it is over and nothing of it is at a device.
    fn is_finished(&self) -> bool;

    /// Commands at devices.
    fn running(&self) -> usize;

    /// Commands that it may have at devices, once it is more than a socket.
    fn entries(&self) -> Option<usize>;

    /// A device has ended an I/O of the command in `slot`.
    fn completed(
        &mut self,
        slot: u16,
        status: crate::dm::Status,
        shared: &mut Self::Shared,
        core: &mut Core<'_>,
    );

    /// It has been killed; its socket goes.
    fn ended(&mut self, shared: &mut Self::Shared);

    /// It is gone, with all its commands.
    fn buried(&mut self, shared: &mut Self::Shared);
}
