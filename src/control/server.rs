//! The server: one ordinary thread to accept, one per connection. Operators are few and their verbs may wait for I/O, so
//! a thread each is the plainest thing that cannot make one wait for another.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::backend::{Asker, Service};
use super::lines::{Limits, Line, Lines};
use super::rpc::{self, ErrorObject};
use super::socket::Socket;
use crate::reactor::hung_up;

/// Most connections at a time: operators, their scripts and a monitor or two.
pub const CONNECTIONS_MAX: usize = 32;
/// Longest request in bytes. A table line is some 40 bytes, so tables of 200,000 targets fit.
pub const REQUEST_BYTES_MAX: usize = 8 << 20;
/// From a request's first byte to its line feed.
pub const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);
/// For writing a response: a client that does not read is let go.
pub const RESPONSE_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a connection may be silent between requests.
pub const IDLE_TIME_MAX: Duration = Duration::from_secs(600);
/// When the system has no descriptor for one more connection, how long until the next attempt.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A running control server.
pub struct Server {
    shared: Arc<Shared>,
    socket: Arc<Socket>,
}

struct Shared {
    service: Service,
    limits: Limits,
    stopping: AtomicBool,
    connections: Mutex<Connections>,
    /// Told whenever a connection has ended.
    ended: Condvar,
}

#[derive(Default)]
struct Connections {
    /// A second handle of each, to end it with.
    streams: HashMap<u64, UnixStream>,
    next: u64,
}

impl Server {
    /// Begins to serve on `socket`.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(socket: Socket, service: Service) -> io::Result<Server> {
        let limits = Limits {
            bytes_max: REQUEST_BYTES_MAX,
            line_time_max: REQUEST_TIME_MAX,
            idle_time_max: IDLE_TIME_MAX,
        };
        Server::start_with(socket, service, limits)
    }

    fn start_with(socket: Socket, service: Service, limits: Limits) -> io::Result<Server> {
        let shared = Arc::new(Shared {
            service,
            limits,
            stopping: AtomicBool::new(false),
            connections: Mutex::default(),
            ended: Condvar::new(),
        });
        let socket = Arc::new(socket);
        let server = Server {
            shared: shared.clone(),
            socket: socket.clone(),
        };
        thread::Builder::new()
            .name("control".into())
            .spawn(move || accept(&socket, &shared))?;
        Ok(server)
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        self.socket.path()
    }

    /// Accepts no more, removes the socket's file, lets the verbs that run end and be answered. True if all had ended `within` the time.
    pub fn stop(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        self.shared.stopping.store(true, Ordering::Release);
        // Wakes the thread that accepts. A listener cannot be shut down in std, but as a stream it can.
        if let Ok(listener) = self.socket.listener().try_clone() {
            let _ = UnixStream::from(OwnedFd::from(listener)).shutdown(Shutdown::Both);
        }
        // Here, not when the last thread lets go of it: the process may end before that.
        self.socket.remove();
        let mut connections = self.shared.connections();
        for stream in connections.streams.values() {
            let _ = stream.shutdown(Shutdown::Read);
        }
        while !connections.streams.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            connections = match self.shared.ended.wait_timeout(connections, left) {
                Ok((connections, _)) => connections,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Connections> {
        // The map is whole after every step, so a panic elsewhere does not spoil it.
        self.connections
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes in a connection; its number. `None` when there are too many, or the server stops.
    fn admit(&self, stream: &UnixStream) -> Option<u64> {
        let mut connections = self.connections();
        if connections.streams.len() >= CONNECTIONS_MAX || self.stopping.load(Ordering::Acquire) {
            return None;
        }
        let handle = stream.try_clone().ok()?;
        let number = connections.next;
        connections.next += 1;
        connections.streams.insert(number, handle);
        Some(number)
    }

    fn forget(&self, number: u64) {
        self.connections().streams.remove(&number);
        self.ended.notify_all();
    }
}

/// Forgets a connection however its thread ends.
struct Ended<'a>(&'a Shared, u64);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.forget(self.1);
    }
}

fn accept(socket: &Socket, shared: &Arc<Shared>) {
    while !shared.stopping.load(Ordering::Acquire) {
        let stream = match socket.listener().accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) if shared.stopping.load(Ordering::Acquire) => return,
            Err(_) => {
                thread::sleep(ACCEPT_RETRY);
                continue;
            }
        };
        let Some(number) = shared.admit(&stream) else {
            let message = format!(
                "{CONNECTIONS_MAX} connections are open already: try again when one has ended"
            );
            let error = ErrorObject::new(rpc::TOO_MANY_CONNECTIONS, message);
            let _ = respond(&stream, &error.response(Value::Null));
            continue;
        };
        let serving = shared.clone();
        let thread = thread::Builder::new().name(format!("control-{number}"));
        let spawned = thread.spawn(move || {
            let _ended = Ended(&serving, number);
            // A connection that breaks is its client's affair only.
            let _ = serve(&stream, &serving);
        });
        if spawned.is_err() {
            shared.forget(number);
        }
    }
}

fn serve(stream: &UnixStream, shared: &Arc<Shared>) -> io::Result<()> {
    let (watched, server) = (stream.try_clone()?, shared.clone());
    let service = shared.service.to(Asker {
        gone: Arc::new(move || hung_up(&watched)),
        stopping: Arc::new(move || server.stopping.load(Ordering::Acquire)),
    });
    let mut lines = Lines::new(stream, shared.limits);
    loop {
        let line = match lines.next()? {
            Line::Whole(line) => line,
            Line::End | Line::Idle => return Ok(()),
            Line::TooLong => {
                let message = format!("a request has at most {} bytes", shared.limits.bytes_max);
                respond(stream, &invalid(message))?;
                continue;
            }
            Line::Unfinished => {
                let seconds = shared.limits.line_time_max.as_secs();
                let message =
                    format!("the request did not end within {seconds} s: a line feed ends it");
                return respond(stream, &invalid(message));
            }
        };
        if line.trim_ascii().is_empty() {
            continue;
        }
        if let Some(answer) = rpc::answer(&service, &line) {
            respond(stream, &answer)?;
        }
    }
}

/// The answer to what is no request.
fn invalid(message: String) -> Value {
    ErrorObject::new(rpc::INVALID_REQUEST, message).response(Value::Null)
}

/// Writes a response, within [`RESPONSE_TIME_MAX`].
fn respond(stream: &UnixStream, answer: &Value) -> io::Result<()> {
    let deadline = Instant::now() + RESPONSE_TIME_MAX;
    let mut text = serde_json::to_vec(answer)?;
    text.push(b'\n');
    let mut rest = text.as_slice();
    while !rest.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left))?;
        match (&*stream).write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
