//! A TCP connection to a target; with a controller up to ICResp, and raw bytes over it, for tests of bad input.

use super::error::Error;
use crate::nvme::bytes::get_u32;
use crate::nvme::pdu::{
    ALIGNMENT_MAX, COMMON_HEADER_SIZE, Digests, INITIALIZE_SIZE, InitializeRequest,
    InitializeResponse, Kind, Receiver, Rules, TERMINATE_HEADER_SIZE, TERMINATE_SIZE_MAX,
    TermReason, Terminate, decode_header,
};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Offset of the digest options in ICResp.
const OFFSET_DIGESTS: u32 = 11;

/// How a connection is set up.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionOptions {
    /// Digests to ask for; a controller that refuses one is refused.
    pub digests: Digests,
    /// HPDA: alignment of incoming data, 0 to 31.
    pub alignment: u8,
    /// How long each step (connect, ICResp, a blocking command) may take.
    pub timeout: Duration,
    /// When all steps together must be done; `None`: whenever each of them is.
    pub deadline: Option<Instant>,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            digests: Digests::default(),
            alignment: 0,
            timeout: Duration::from_secs(5),
            deadline: None,
        }
    }
}

/// A TCP connection. Blocking until [`Connection::initialize`] hands it on.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    timeout: Duration,
    deadline: Option<Instant>,
}

/// What ICReq and ICResp agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Digests in use.
    pub digests: Digests,
    /// CPDA: alignment of data this host sends.
    pub controller_alignment: u8,
    /// HPDA: alignment of data this host receives.
    pub host_alignment: u8,
    /// MAXH2CDATA in bytes.
    pub data_size_max: u32,
}

impl Connection {
    /// Connects to the first of `addresses` that answers.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] for the last address that was tried.
    pub fn open(addresses: &[SocketAddr], timeout: Duration) -> Result<Self, Error> {
        Self::open_by(addresses, timeout, None)
    }

    /// The same; everything on the connection must be done by `deadline`, if there is one.
    ///
    /// # Errors
    ///
    /// As [`Connection::open`], and [`Error::Timeout`] when there is no time left.
    pub(super) fn open_by(
        addresses: &[SocketAddr],
        timeout: Duration,
        deadline: Option<Instant>,
    ) -> Result<Self, Error> {
        let mut last = Error::Address("the host name stands for no address".into());
        for address in addresses {
            let left = due(timeout, deadline).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Timeout {
                    what: format!("connecting to {address}"),
                    after: timeout,
                });
            }
            match TcpStream::connect_timeout(address, left) {
                Ok(stream) => {
                    return Ok(Self {
                        deadline,
                        ..Self::from_stream(stream, timeout)?
                    });
                }
                Err(source) => {
                    last = Error::Io {
                        what: format!("connecting to {address}"),
                        source,
                    }
                }
            }
        }
        Err(last)
    }

    /// Takes a connected socket.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when its options cannot be set.
    pub fn from_stream(stream: TcpStream, timeout: Duration) -> Result<Self, Error> {
        // Capsules are sent in one piece per poll; holding back the last segment would only add latency.
        stream
            .set_nodelay(true)
            .map_err(Error::io("setting TCP_NODELAY"))?;
        stream
            .set_write_timeout(Some(timeout))
            .map_err(Error::io("setting the send timeout"))?;
        Ok(Self {
            stream,
            timeout,
            deadline: None,
        })
    }

    /// Sends these bytes, whatever they are.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when the peer is gone, [`Error::Timeout`] when it does not read.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let timeout = self.timeout;
        self.stream
            .write_all(bytes)
            .map_err(|error| classify(error, "sending", timeout))
    }

    /// Says that nothing more will be sent, and keeps receiving.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn finish_sending(&mut self) -> Result<(), Error> {
        self.stream
            .shutdown(std::net::Shutdown::Write)
            .map_err(Error::io("half-closing"))
    }

    /// The next whole PDU, taking PLEN at its word (at most 16 MiB).
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] at the end of the stream, [`Error::Timeout`] when nothing comes.
    pub fn receive_pdu(&mut self) -> Result<Vec<u8>, Error> {
        /// Far above any PDU a controller has reason to send; keeps a bad PLEN from taking all memory.
        const SIZE_MAX: usize = 16 << 20;
        let mut bytes = vec![0; COMMON_HEADER_SIZE];
        self.receive_exact(&mut bytes)?;
        let size = get_u32(&bytes, 4) as usize;
        if !(COMMON_HEADER_SIZE..=SIZE_MAX).contains(&size) {
            return Err(Error::Protocol(TermReason::field(4)));
        }
        bytes.resize(size, 0);
        self.receive_exact(&mut bytes[COMMON_HEADER_SIZE..])?;
        Ok(bytes)
    }

    /// Whether the peer ends the stream, whatever it still sends before, within the timeout.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when the connection stays open.
    pub fn expect_end(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + self.timeout;
        let mut bytes = [0; 4096];
        while Instant::now() < deadline {
            match self.receive_exact(&mut bytes[..1]) {
                Ok(()) => {}
                Err(Error::Closed) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Err(Error::Timeout {
            what: "waiting for the end of the connection".into(),
            after: self.timeout,
        })
    }

    pub(super) fn receive_exact(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        const WHAT: &str = "receiving a PDU";
        let timeout = self.timeout;
        // The time is for all of it: a peer that sends a byte now and then would never meet the socket's own timeout.
        let due = due(timeout, self.deadline);
        let mut received = 0;
        while received < bytes.len() {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Timeout {
                    what: WHAT.into(),
                    after: timeout,
                });
            }
            self.stream
                .set_read_timeout(Some(left))
                .map_err(Error::io("setting the receive timeout"))?;
            match self.stream.read(&mut bytes[received..]) {
                Ok(0) => return Err(Error::Closed),
                Ok(size) => received += size,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(classify(error, WHAT, timeout)),
            }
        }
        Ok(())
    }

    /// The socket, non-blocking from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub(super) fn into_polled(self) -> Result<TcpStream, Error> {
        self.stream
            .set_nonblocking(true)
            .map_err(Error::io("making the socket non-blocking"))?;
        Ok(self.stream)
    }

    /// Sends ICReq, receives ICResp and checks it (NVMe/TCP Transport 1.0, 3.1); the socket is
    /// non-blocking from then on.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] (H2CTermReq was sent), [`Error::Terminated`], [`Error::Unsupported`] when the
    /// controller refuses a digest.
    pub fn initialize(
        mut self,
        options: &ConnectionOptions,
    ) -> Result<(TcpStream, Negotiated), Error> {
        let request = InitializeRequest {
            format_version: 0,
            host_alignment: options.alignment.min(ALIGNMENT_MAX),
            digests: options.digests,
            ready_to_transfer_max: 1,
        };
        self.send(&request.encode())?;
        let mut bytes = [0; INITIALIZE_SIZE];
        let head = &mut bytes[..COMMON_HEADER_SIZE];
        self.receive_exact(head)?;
        let rules = Rules {
            receiver: Receiver::Host,
            header_digest: false,
            data_digest: false,
            alignment: 0,
            capsule_data_size_max: 0,
            data_size_max: 0,
        };
        let layout = match decode_header(head, &rules) {
            Ok(layout) => layout,
            Err(reason) => return Err(self.terminate(reason, &bytes[..COMMON_HEADER_SIZE])),
        };
        match layout.kind {
            Kind::InitializeResponse => self.receive_exact(&mut bytes[COMMON_HEADER_SIZE..])?,
            Kind::ControllerTerminate => {
                self.receive_exact(&mut bytes[COMMON_HEADER_SIZE..TERMINATE_HEADER_SIZE])?;
                return Err(Error::Terminated(Terminate::decode(&bytes)));
            }
            _ => return Err(self.terminate(TermReason::sequence(), &bytes[..COMMON_HEADER_SIZE])),
        }
        let response = InitializeResponse::decode(&bytes);
        if let Err(reason) = check_response(&response, options.digests) {
            return Err(self.terminate(reason, &bytes));
        }
        if response.digests != options.digests {
            return Err(Error::Unsupported(
                "the controller does not use the header or data digests that were asked for".into(),
            ));
        }
        let negotiated = Negotiated {
            digests: response.digests,
            controller_alignment: response.controller_alignment,
            host_alignment: request.host_alignment,
            data_size_max: response.data_size_max,
        };
        Ok((self.into_polled()?, negotiated))
    }

    /// Sends H2CTermReq as far as the peer still listens.
    fn terminate(&mut self, reason: TermReason, offending: &[u8]) -> Error {
        let mut bytes = [0; TERMINATE_SIZE_MAX];
        let size = Terminate::encode(&mut bytes, Receiver::Host, reason, offending);
        // The connection is lost anyway; what matters to the caller is why.
        let _ = self.send(&bytes[..size]);
        Error::Protocol(reason)
    }
}

/// Checks what ICResp says (3.1, 3.3.1.1, 3.6.2.3).
fn check_response(response: &InitializeResponse, asked: Digests) -> Result<(), TermReason> {
    if response.format_version != 0 {
        return Err(TermReason::unsupported(
            InitializeRequest::OFFSET_FORMAT_VERSION,
        ));
    }
    if response.controller_alignment > ALIGNMENT_MAX {
        return Err(TermReason::field(InitializeRequest::OFFSET_ALIGNMENT));
    }
    let unasked =
        (response.digests.header && !asked.header) || (response.digests.data && !asked.data);
    if unasked {
        return Err(TermReason::field(OFFSET_DIGESTS));
    }
    if response.data_size_max == 0 || !response.data_size_max.is_multiple_of(4) {
        return Err(TermReason::field(12));
    }
    Ok(())
}

/// When a step that begins now must be done.
pub(super) fn due(timeout: Duration, deadline: Option<Instant>) -> Instant {
    let step = Instant::now() + timeout;
    deadline.map_or(step, |deadline| deadline.min(step))
}

/// Names what a socket error means.
fn classify(error: std::io::Error, what: &str, timeout: Duration) -> Error {
    match error.kind() {
        ErrorKind::UnexpectedEof
        | ErrorKind::ConnectionReset
        | ErrorKind::BrokenPipe
        | ErrorKind::ConnectionAborted => Error::Closed,
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::Timeout {
            what: what.to_owned(),
            after: timeout,
        },
        _ => Error::Io {
            what: what.to_owned(),
            source: error,
        },
    }
}

/// Makes the kernel forget what it has not sent when the socket is closed, and tell the peer by a reset.
pub(super) fn discard_unsent(stream: &TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the option's value is one `linger` that lives through the call, and its size is given. Its result does not matter: it
    // cannot fail for an open TCP socket.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
}

/// Sleeps until the socket can be read (or, where `sending`, written), or until `deadline`.
pub(super) fn wait(stream: &TcpStream, sending: bool, deadline: Instant) {
    wait_either(stream, sending, None, deadline);
}

/// As [`wait`], and until `other` can be read.
pub(super) fn wait_either(
    stream: &TcpStream,
    sending: bool,
    other: Option<BorrowedFd<'_>>,
    deadline: Instant,
) {
    let left = deadline.saturating_duration_since(Instant::now());
    // Rounded up, so that the last millisecond is slept and not spun through.
    let milliseconds = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
    let events = if sending {
        libc::POLLIN | libc::POLLOUT
    } else {
        libc::POLLIN
    };
    let entry = |fd, events| libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    // The kernel passes over an entry whose descriptor is negative.
    let other = other.map_or(-1, |other| other.as_raw_fd());
    let mut entries = [
        entry(stream.as_raw_fd(), events),
        entry(other, libc::POLLIN),
    ];
    // SAFETY: two valid entries, as the count says, that live through the call.
    // Its result does not matter: whatever ends the sleep, the caller polls the queue and sees.
    unsafe { libc::poll(entries.as_mut_ptr(), 2, milliseconds) };
}
