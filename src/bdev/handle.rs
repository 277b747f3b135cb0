//! What a device is made of, held by the device and by reactors, and closed by neither a reactor nor before the last of them has let go.
//!
//! To close a file writes back what a block device has in its page cache, and to give back a malloc device's memory takes some hundred
//! milliseconds a gigabyte: no reactor may be the last to let go. When a device goes while reactors still hold it (hot-remove, data that
//! was lent), a thread of the control plane waits for them and closes it. *Turned down:* to close it at the next request of
//! an operator, which leaves the file locked until there is one.

use std::cell::Cell;
use std::convert::Infallible;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

/// The device's side.
pub(super) struct Shared<T: Send + Sync + 'static> {
    value: Arc<T>,
    /// Cloned into every handle; nothing is ever sent. When the last is gone, `ended` says so.
    held: Option<Sender<Infallible>>,
    ended: Receiver<Infallible>,
}

impl<T: Send + Sync + 'static> Shared<T> {
    pub(super) fn new(value: T) -> Shared<T> {
        let (held, ended) = bounded(0);
        Shared {
            value: Arc::new(value),
            held: Some(held),
            ended,
        }
    }

    /// One reactor's hold on it.
    pub(super) fn handle(&self) -> Handle<T> {
        Handle {
            value: Arc::clone(&self.value),
            gone: Cell::new(false),
            _held: self.held.clone(),
        }
    }
}

impl<T: Send + Sync + 'static> std::ops::Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Send + Sync + 'static> Drop for Shared<T> {
    fn drop(&mut self) {
        self.held = None;
        if self.ended.try_recv() == Err(TryRecvError::Disconnected) {
            return;
        }
        let (value, ended) = (Arc::clone(&self.value), self.ended.clone());
        // Without a thread to be had, the last reactor closes it after all: a pause is better than a file that stays locked.
        let _ = thread::Builder::new()
            .name("bdev close".to_owned())
            .spawn(move || {
                let _ = ended.recv();
                drop(value);
            });
    }
}

/// One reactor's hold on what a device is made of.
#[derive(Debug)]
pub struct Handle<T> {
    // Before `_held`, so that whoever waits for that finds it let go.
    value: Arc<T>,
    gone: Cell<bool>,
    _held: Option<Sender<Infallible>>,
}

impl<T> Handle<T> {
    /// The device was taken away: what is under way ends as it will, nothing more is begun.
    pub(super) fn set_gone(&self) {
        self.gone.set(true);
    }

    /// Whether the device was taken away.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.get()
    }
}

impl<T> std::ops::Deref for Handle<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::unbounded;
    use std::thread::ThreadId;

    /// Says on which thread it was closed.
    struct Told(Sender<ThreadId>);

    impl Drop for Told {
        fn drop(&mut self) {
            self.0.send(thread::current().id()).expect("somebody asks");
        }
    }

    #[test]
    fn whoever_is_last_a_reactor_never_closes() {
        let (closed, said) = unbounded();
        let shared = Shared::new(Told(closed));
        let (first, second) = (shared.handle(), shared.handle());
        drop(first);
        drop(shared);
        assert!(said.is_empty(), "a handle is left");
        drop(second);
        assert_ne!(said.recv(), Ok(thread::current().id()));
    }

    #[test]
    fn with_no_handle_left_it_is_closed_at_once() {
        let (closed, said) = unbounded();
        let shared = Shared::new(Told(closed));
        drop(shared.handle());
        drop(shared);
        assert_eq!(said.try_recv(), Ok(thread::current().id()));
    }
}
