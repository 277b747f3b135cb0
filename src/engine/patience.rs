//! How a thread of the control plane waits for a reactor's answer.
//!
//! A thread that blocks has to be woken by the reactor that answers. That is a system call on the reactor, and where a processor is
//! asleep it takes 20 to 40 µs (in a virtual machine) in which the reactor serves no I/O: several times what a whole swap takes. Most
//! answers come within a fraction of a millisecond; so for some milliseconds a thread sleeps by the clock and looks, and blocks only
//! when it takes longer than that.

use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, TryRecvError};

/// The first sleep, and the longest; each is twice as long as the one before.
const SLEEP_MIN: Duration = Duration::from_micros(20);
const SLEEP_MAX: Duration = Duration::from_millis(1);

/// All sleeps together, before it is better to block: 2 % of a processor's time for 20 ms is no burden, for hours it would be.
const SLEEPS_MAX: Duration = Duration::from_millis(20);

/// What is received within some milliseconds; [`TryRecvError::Empty`] when it takes longer.
pub(super) fn receive_soon<T>(receiver: &Receiver<T>) -> Result<T, TryRecvError> {
    let (mut sleep, mut slept) = (SLEEP_MIN, Duration::ZERO);
    loop {
        match receiver.try_recv() {
            Err(TryRecvError::Empty) if slept < SLEEPS_MAX => thread::sleep(sleep),
            received => return received,
        }
        slept += sleep;
        sleep = (sleep * 2).min(SLEEP_MAX);
    }
}

/// What is received, however long it takes; `None` when nobody is left to send it.
pub(super) fn receive<T>(receiver: &Receiver<T>) -> Option<T> {
    match receive_soon(receiver) {
        Ok(received) => Some(received),
        Err(TryRecvError::Disconnected) => None,
        Err(TryRecvError::Empty) => receiver.recv().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;

    #[test]
    fn soon_late_and_never() {
        let (sender, receiver) = bounded(1);
        sender.send(1).unwrap();
        assert_eq!(receive_soon(&receiver), Ok(1));
        assert_eq!(receive_soon(&receiver), Err(TryRecvError::Empty));
        thread::scope(|scope| {
            // Whether this comes soon or late, it comes.
            scope.spawn(|| sender.send(2));
            assert_eq!(receive(&receiver), Some(2));
        });
        drop(sender);
        assert_eq!(receive_soon(&receiver), Err(TryRecvError::Disconnected));
        assert_eq!(receive(&receiver), None);
    }
}
