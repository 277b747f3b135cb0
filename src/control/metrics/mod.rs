//! The Prometheus endpoint: `GET /metrics`, and nothing else.
//!
//! A scraper sends one GET every some seconds over a loopback or management network. What that takes of HTTP/1.1 is a request line
//! and a header to skip, so it is written out here over std's sockets: a framework would bring an async runtime, a parser for everything else HTTP
//! can be, and their attack surface, to a process that holds people's data.
//!
//! One thread serves one scraper after another. A header may have [`HEADER_BYTES_MAX`] bytes and all of a request [`REQUEST_TIME_MAX`], so
//! a slow scraper makes the next one wait that long at most. Every answer closes its connection.
//!
//! The endpoint asks nobody who they are: listen where only those who may see device names and host names can connect.

mod http;
mod text;

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::backend::Service;

pub use http::HEADER_BYTES_MAX;
pub use text::exposition;

/// From accepting a connection to having answered it.
pub const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);
/// When the system has no descriptor for one more connection, how long until the next attempt.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A running endpoint.
pub struct Metrics {
    listener: Arc<TcpListener>,
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Metrics {
    /// Begins to serve on `listener`.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(listener: TcpListener, service: Service) -> io::Result<Metrics> {
        let listener = Arc::new(listener);
        let stopping = Arc::new(AtomicBool::new(false));
        let thread = {
            let (listener, stopping) = (listener.clone(), stopping.clone());
            thread::Builder::new()
                .name("metrics".into())
                .spawn(move || accept(&listener, &stopping, &service))?
        };
        Ok(Metrics {
            listener,
            stopping,
            thread,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts no more and ends when the running scrape has; that takes at most [`REQUEST_TIME_MAX`].
    pub fn stop(self) {
        self.stopping.store(true, Ordering::Release);
        // Wakes the thread that accepts. A listener cannot be shut down in std, but as a stream it can.
        if let Ok(listener) = self.listener.try_clone() {
            let _ = TcpStream::from(OwnedFd::from(listener)).shutdown(Shutdown::Both);
        }
        let _ = self.thread.join();
    }
}

fn accept(listener: &TcpListener, stopping: &AtomicBool, service: &Service) {
    while !stopping.load(Ordering::Acquire) {
        match listener.accept() {
            // A scraper that goes away is its own affair.
            Ok((stream, _)) => drop(http::serve(&stream, REQUEST_TIME_MAX, || {
                service.metrics().map_err(|error| error.to_string())
            })),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if stopping.load(Ordering::Acquire) => return,
            Err(_) => thread::sleep(ACCEPT_RETRY),
        }
    }
}

impl Service {
    /// Everything that is counted, in Prometheus' text format.
    ///
    /// # Errors
    /// When the engine is stopping.
    pub fn metrics(&self) -> Result<String, crate::dm::Error> {
        Ok(exposition(&self.infos(None)?, &self.stats(None)?))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::control::fake::Fake;

    #[test]
    fn a_scrape_over_a_real_socket_and_a_stop() {
        // Where nobody else takes its port when it has ended.
        let listener = TcpListener::bind("127.77.0.2:0").unwrap();
        let service = Service::new(Arc::new(Fake::with_devices()));
        let metrics = Metrics::start(listener, service).unwrap();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(metrics.address().unwrap()).unwrap();
            stream
                .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                .unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let (header, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(header.starts_with("HTTP/1.1 200 OK\r\n"), "{header}");
            assert!(
                header.contains(&format!("Content-Length: {}", body.len())),
                "{header}"
            );
            assert!(
                body.contains("polldm_device_ios_total{device=\"vol0\",operation=\"read\"} 5\n"),
                "{body}"
            );
        }
        let address = metrics.address().unwrap();
        metrics.stop();
        assert!(TcpStream::connect(address).is_err());
    }
}
