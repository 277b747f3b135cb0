//! What reactors tell the control plane: the answers that its threads wait for, each blocked on its own request, and how many
//! events there were.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::dm::{Answer, Ticket};

/// Requests under way, and the count of events. Touched once per request and answer, never by I/O.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    next: AtomicU64,
    waiting: Mutex<HashMap<Ticket, Sender<Answer>>>,
    /// Events of all devices so far (LC-24).
    events: AtomicU32,
}

impl Tickets {
    /// A new ticket, and where its answer will arrive.
    pub fn issue(&self) -> (Ticket, Receiver<Answer>) {
        let ticket = Ticket(self.next.fetch_add(1, Ordering::Relaxed));
        let (sender, receiver) = bounded(1);
        self.lock().insert(ticket, sender);
        (ticket, receiver)
    }

    /// Delivers an answer. Whoever asked may have given up; the request has been carried out all the same.
    pub fn answer(&self, ticket: Ticket, answer: Answer) {
        if let Some(sender) = self.lock().remove(&ticket) {
            let _ = sender.send(answer);
        }
    }

    /// Counts an event.
    pub fn happened(&self) {
        // Wraps, as the semantics have it.
        self.events.fetch_add(1, Ordering::Release);
    }

    /// How many there were.
    pub fn events(&self) -> u32 {
        self.events.load(Ordering::Acquire)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Ticket, Sender<Answer>>> {
        self.waiting
            .lock()
            .expect("no holder of this lock can panic")
    }
}
