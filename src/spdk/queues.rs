//! I/O queues of an NVMe controller: how many it has granted, and whose they are.
//!
//! Each `spdk_thread` with a channel to a namespace has a queue of the controller's, one for all its namespaces. SPDK also makes a channel when the
//! controller has none left; what is submitted there waits until there is one, which may be never. So one for each mapper is kept back, and who else
//! submits gets one as long as there are more; without, its I/O goes in the name of the mapper's thread (`passing.rs`).

use std::sync::{Mutex, MutexGuard};

use super::thread::Thread;

/// The I/O queues of one controller.
pub(super) struct Queues {
    granted: usize,
    /// Threads beside the mappers' that have one, and for how many channels.
    guests: Mutex<Vec<(Thread, usize)>>,
}

impl Queues {
    pub fn new(granted: usize) -> Queues {
        Queues {
            granted,
            guests: Mutex::default(),
        }
    }

    pub fn granted(&self) -> usize {
        self.granted
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Thread, usize)>> {
        self.guests
            .lock()
            .expect("no holder of this lock can panic")
    }

    /// Whether a thread that is no mapper's may have a channel, next to `mappers` of them. It is to be told when it has none any more: [`Queues::leaves`].
    pub fn admits(&self, guest: Thread, mappers: usize) -> bool {
        let mut guests = self.lock();
        if let Some((_, channels)) = guests.iter_mut().find(|(thread, _)| *thread == guest) {
            *channels += 1;
            return true;
        }
        let is_left = mappers + guests.len() < self.granted;
        if is_left {
            guests.push((guest, 1));
        }
        is_left
    }

    /// A guest has given a channel back.
    pub fn leaves(&self, guest: Thread) {
        let mut guests = self.lock();
        let known = guests.iter().position(|(thread, _)| *thread == guest);
        let index = known.expect("it was admitted");
        guests[index].1 -= 1;
        if guests[index].1 == 0 {
            guests.swap_remove(index);
        }
    }
}
