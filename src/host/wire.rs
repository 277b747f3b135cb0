//! What both initiators do with a socket: one buffer of whole PDUs out, one buffer in.

use super::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

/// PDUs that wait to be sent, one behind the other.
#[derive(Debug)]
pub(super) struct SendBuffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl SendBuffer {
    /// An empty buffer of `size` bytes.
    pub(super) fn new(size: usize) -> Self {
        Self {
            bytes: vec![0; size].into(),
            start: 0,
            end: 0,
        }
    }

    /// Whether nothing waits.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Makes room for `size` bytes; false when there is none before more was sent.
    #[inline]
    pub(super) fn reserve(&mut self, size: usize) -> bool {
        if self.bytes.len() - self.end >= size {
            return true;
        }
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        self.bytes.len() - self.end >= size
    }

    /// The room behind what waits.
    #[inline]
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    /// Appends the first `size` bytes of the room.
    #[inline]
    pub(super) fn extend(&mut self, size: usize) {
        self.end += size;
    }

    /// Appends these bytes, for which there is room.
    #[inline]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.room()[..bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Sends what waits, as far as the socket takes it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]. That the peer is gone is none: what it said before it closed is still to be received.
    #[inline]
    pub(super) fn flush(&mut self, stream: &TcpStream) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        let mut stream = stream;
        match stream.write(&self.bytes[self.start..self.end]) {
            Ok(size) => {
                self.start += size;
                if self.is_empty() {
                    self.clear();
                }
                Ok(())
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(()),
                _ if is_gone(&error) => {
                    self.clear();
                    Ok(())
                }
                _ => Err(Error::Io {
                    what: "sending".into(),
                    source: error,
                }),
            },
        }
    }

    fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }
}

/// Receives what is there; 0 when nothing is.
///
/// # Errors
///
/// [`Error::Closed`] at the end of the stream, [`Error::Io`].
#[inline]
pub(super) fn receive(stream: &TcpStream, space: &mut [u8]) -> Result<usize, Error> {
    let mut stream = stream;
    match stream.read(space) {
        Ok(0) => Err(Error::Closed),
        Ok(size) => Ok(size),
        Err(error) => match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(0),
            _ if is_gone(&error) => Err(Error::Closed),
            _ => Err(Error::Io {
                what: "receiving".into(),
                source: error,
            }),
        },
    }
}

/// Whether an error says that the peer is no longer there.
fn is_gone(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted
    )
}
