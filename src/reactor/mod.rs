//! Reactors: pinned threads that poll. Knows nothing of storage.
//!
//! A reactor is one thread that runs one [`Service`] to completion, over and over: messages, timers, the service's own
//! pollers, ready file descriptors. State belongs to the thread that owns it; other threads send it a message
//! ([`Context::send`] from a reactor, [`Remote::send`] from anywhere else).
//!
//! | file | what is in it |
//! |---|---|
//! | `run` | start, the loop, stop |
//! | `context` | what a service may ask of its reactor |
//! | `mailbox` | messages between reactors, and who wakes whom |
//! | `timers`, `epoll`, `clock` | time and readiness |
//! | `buffers` | per-reactor pools of aligned buffers |
//! | `cpus`, `counters` | pinning; what a reactor spent its time on |
//!
//! # One turn
//!
//! ```text
//! refresh the clock
//! at most 128 messages         FIFO per pair of reactors
//! at most 64 timers            in order of time
//! service.poll()               rings, active sockets, retries
//! overflowed messages          to mailboxes that were full
//! epoll, without waiting       every 16 turns, or when the last look is 20 us old, whichever is first
//! nothing done for `spin`?     service.before_sleep(), then epoll with the next timer's timeout (adaptive only)
//! ```
//!
//! So [`Service::ready`] is at most 16 turns late, and never later than the first turn that ends 20 us after
//! the last look; a front end that wants to be faster polls its recently active sockets in [`Service::poll`]. A reactor
//! that watches nothing makes no system call while it spins.
//!
//! # Cost
//!
//! `cargo bench --bench mailbox` measures messages (on idle CPUs) and buffers.

mod buffers;
mod clock;
mod context;
mod counters;
mod cpus;
mod epoll;
mod hang_up;
mod mailbox;
mod run;
mod timers;

pub use buffers::{BUFFER_ALIGNMENT, BUFFER_BYTES_MAX, BufferPool, ChunkSource, PoolBuffer};
pub use clock::monotonic_ns;
pub use context::Context;
pub use counters::ReactorStats;
pub use cpus::{available_cpus, pin_current_thread};
pub(crate) use epoll::{Epoll, Ready};
pub use epoll::{Interest, Readiness};
pub use hang_up::hung_up;
pub use mailbox::{Remote, SendError};
pub use run::{Config, Handle, NotStopped, PollMode, Reactors, StartError};
pub use timers::TimerId;

/// What runs on a reactor. One value per reactor, made on its thread and never moved from it, so it need not be `Send`.
///
/// Every method must return soon: nothing here may block, and what takes long is cut into turns.
pub trait Service: Sized + 'static {
    /// What reactors (and [`Remote`] handles) send to each other.
    type Message: Send + 'static;

    /// A message arrived: in the order sent, for any one sender.
    fn message(&mut self, message: Self::Message, context: &mut Context<Self::Message>);

    /// One turn of the service's own pollers. True if anything was done; a reactor whose turns do nothing for the
    /// configured time goes to sleep ([`PollMode::Adaptive`]).
    fn poll(&mut self, context: &mut Context<Self::Message>) -> bool;

    /// A watched file descriptor is ready. `token` is what [`Context::watch`] was given.
    fn ready(&mut self, token: u64, readiness: Readiness, context: &mut Context<Self::Message>);

    /// A timer came due. Its [`TimerId`] is no longer valid.
    fn timer(&mut self, token: u64, context: &mut Context<Self::Message>);

    /// The reactor is about to sleep until a message, a watched file descriptor or a timer. True if it may; false if there is work
    /// after all that none of those would announce. Called once per sleep: the place to submit what was gathered,
    /// to look at rings a last time, and to arm what is only watched in sleep.
    fn before_sleep(&mut self, context: &mut Context<Self::Message>) -> bool {
        let _ = context;
        true
    }

    /// Begin shutdown: called once, on every reactor. The reactor goes on turning.
    fn stop(&mut self, context: &mut Context<Self::Message>);

    /// Whether shutdown is complete here. Once it said so, the reactor still handles messages until every other reactor's service has
    /// said so too (or the deadline passed), because they may need this one to finish.
    fn stopped(&self) -> bool;
}

#[cfg(test)]
mod tests;
