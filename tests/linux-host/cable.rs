//! A way between the guest and one port of a target that can be cut while other ways stay whole.

use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

/// Passes on connections to a port. Dropping it ends them.
pub struct Cable {
    /// The TCP port of its near end, on the loopback address.
    pub port: u16,
    /// That of its far end.
    far: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    is_cut: bool,
    has_ended: bool,
    /// Both ends of each connection, also of those that have ended.
    ends: Vec<TcpStream>,
    /// Near ends of connections that began while it was cut.
    waiting: Vec<TcpStream>,
}

impl State {
    fn disconnect(&mut self) {
        for end in self.ends.drain(..) {
            // Whose connection has ended already needs nothing.
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Passes on one connection. When the target is away it ends, as it would without a cable.
    fn join(&mut self, near: TcpStream, far: u16) {
        if let Ok(ends) = join(near, far) {
            self.ends.extend(ends);
        }
    }
}

impl Cable {
    /// A cable that leads to this port of the loopback address.
    pub fn to(port: u16) -> io::Result<Cable> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let cable = Cable {
            port: listener.local_addr()?.port(),
            far: port,
            state: Arc::default(),
        };
        let state = Arc::clone(&cable.state);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let mut state = lock(&state);
                if state.has_ended {
                    break;
                }
                match state.is_cut {
                    true => state.waiting.push(near),
                    false => state.join(near, port),
                }
            }
        });
        Ok(cable)
    }

    /// Ends all connections. Those that begin then wait, so that nobody is kept from a mended cable by a pause between attempts.
    pub fn cut(&self) {
        let mut state = lock(&self.state);
        state.is_cut = true;
        state.disconnect();
    }

    /// Passes on connections again.
    pub fn mend(&self) {
        let mut state = lock(&self.state);
        state.is_cut = false;
        for near in std::mem::take(&mut state.waiting) {
            state.join(near, self.far);
        }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.has_ended = true;
        state.disconnect();
        drop(state);
        // Wakes the thread, which then finds that it has ended.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("nobody panics while holding it")
}

/// Connects to the far end, and copies both ways until one of them ends: both ends.
fn join(near: TcpStream, port: u16) -> io::Result<[TcpStream; 2]> {
    let far = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    let ends = [near.try_clone()?, far.try_clone()?];
    for end in &ends {
        end.set_nodelay(true)?;
    }
    for (mut from, mut to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
        std::thread::spawn(move || {
            // However it ends, the other side is told.
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
    Ok(ends)
}
