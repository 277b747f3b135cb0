//! A session's socket: what is received for it and what it has to say, with one system call for each per turn.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::protocol::{Protocol, Stage};
use crate::engine::Core;

/// How long a host may leave data unacknowledged, or its window shut, before its connection is given up: a host that has vanished
/// or stalled must not hold buffers for ever. A host that is merely slow acknowledges something within this time.
const USER_TIMEOUT_MS: libc::c_int = 30_000;

/// Socket options: a host that is gone without a word is noticed even if it had nothing outstanding and no keep alive timer, after 30
/// seconds of silence and three probes ten seconds apart.
const OPTIONS: [(libc::c_int, libc::c_int, libc::c_int); 5] = [
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, USER_TIMEOUT_MS),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 30),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 10),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3),
];

/// Receives per connection and turn: enough for a burst that fills a few chunks, few enough that others have their turn soon.
const RECEIVES_PER_TURN: usize = 2;

/// After this long without work a connection is left to epoll, in nanoseconds. While it is polled, its next command is found without
/// epoll, which looks only every few turns.
const HOT_NS: u64 = 200_000;

/// How long a host has to become more than a socket (ICReq and Connect, or a login), in nanoseconds.
const CONNECT_TIMEOUT_NS: u64 = 10_000_000_000;

/// How long a host has to close a connection after the last word to it (a TermReq, a Logout Response), in nanoseconds. NVMe/TCP allows up to
/// 30 seconds (Transport 1.0, 3.5); what is left then is only our side of the socket.
const FAREWELL_TIMEOUT_NS: u64 = 2_000_000_000;

/// One connection on its core.
pub struct Connection<P> {
    /// The protocol.
    pub session: P,
    socket: TcpStream,
    peer: Option<SocketAddr>,
    /// Whether the core polls it.
    pub is_active: bool,
    /// The socket had nothing more at the last look; epoll will say when it has.
    is_drained: bool,
    /// The socket took no more; epoll will say when it does.
    is_full: bool,
    worked_ns: u64,
    opened_ns: u64,
    /// When it must be closed, once it has been said farewell to.
    deadline_ns: Option<u64>,
    /// Whether its I/O has been reserved.
    pub is_announced: bool,
    /// Whether the target is stopping: nothing more is taken from the host.
    pub is_stopping: bool,
    /// Whether it is over, and only waits for its commands at devices.
    pub is_ended: bool,
}

/// What has become of a connection in its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Something was done.
    Worked,
    /// Nothing was there to be done.
    Idle,
    /// The socket is gone.
    Gone,
}

enum Received {
    Bytes(usize),
    Nothing,
    Gone,
}

impl<P: Protocol> Connection<P> {
    /// Takes over an accepted socket.
    ///
    /// # Errors
    /// When the socket cannot be set up.
    pub fn new(mut session: P, socket: OwnedFd, now_ns: u64) -> io::Result<Self> {
        let socket = TcpStream::from(socket);
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        for (level, option, value) in OPTIONS {
            set_option(socket.as_raw_fd(), level, option, value)?;
        }
        let peer = socket.peer_addr().ok();
        if let Ok(local) = socket.local_addr() {
            session.is_reached_at(plain(local), peer.map(plain));
        }
        Ok(Self {
            session,
            socket,
            peer,
            is_active: false,
            is_drained: false,
            is_full: false,
            worked_ns: now_ns,
            opened_ns: now_ns,
            deadline_ns: None,
            is_announced: false,
            is_stopping: false,
            is_ended: false,
        })
    }

    /// The socket, for epoll.
    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// The host's address.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Epoll has found the socket readable or writable.
    pub fn is_ready(&mut self, readable: bool, writable: bool) {
        if readable {
            self.is_drained = false;
        }
        if writable {
            self.is_full = false;
        }
    }

    /// Receives, carries out, sends.
    #[inline]
    pub fn turn(&mut self, shared: &mut P::Shared, core: &mut Core<'_>) -> Turn {
        let mut worked = self.session.poll(shared, core);
        if self.is_stopping {
            // What is in flight ends, and the connection with it.
        } else if self.session.stage() == Stage::Open {
            for _ in 0..RECEIVES_PER_TURN {
                let Some(space) = self.session.input(shared, core) else {
                    break;
                };
                let room = space[0].iov_len + space[1].iov_len;
                match receive(self.fd(), &space) {
                    Received::Bytes(count) => {
                        self.session.received(count, shared, core);
                        worked = true;
                        self.is_drained = false;
                        if count < room {
                            break;
                        }
                    }
                    Received::Nothing => {
                        self.is_drained = true;
                        break;
                    }
                    Received::Gone => return Turn::Gone,
                }
            }
        } else if self.discard_input() {
            return Turn::Gone;
        }
        if self.session.has_output() && !self.is_full {
            match self.flush(shared, core) {
                Ok(sent) => worked |= sent,
                Err(_) => return Turn::Gone,
            }
        }
        if self.session.stage() == Stage::Dead {
            return Turn::Gone;
        }
        if self.session.is_farewell_sent() && self.deadline_ns.is_none() {
            // The host has to read what was said last: a close with unread input would reset the connection under it.
            let _ = self.socket.shutdown(std::net::Shutdown::Write);
            self.deadline_ns = Some(core.now_ns() + FAREWELL_TIMEOUT_NS);
        }
        if worked {
            self.worked_ns = core.now_ns();
            return Turn::Worked;
        }
        Turn::Idle
    }

    /// Sends what waits. True if anything was sent.
    fn flush(&mut self, shared: &mut P::Shared, core: &mut Core<'_>) -> io::Result<bool> {
        let mut worked = false;
        loop {
            let pieces = self.session.output();
            if pieces.is_empty() {
                // Nothing, or a queue that ran over and is not to be trusted.
                return if self.session.has_output() {
                    Err(io::ErrorKind::OutOfMemory.into())
                } else {
                    Ok(worked)
                };
            }
            let total: usize = pieces.iter().map(|piece| piece.iov_len).sum();
            match send(self.socket.as_raw_fd(), pieces) {
                Ok(count) => {
                    self.session.sent(count, shared, core);
                    worked = true;
                    if count < total {
                        self.is_full = true;
                        return Ok(worked);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_full = true;
                    return Ok(worked);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Throws away what a host still sends that was told to go. True when it has closed its side.
    fn discard_input(&mut self) -> bool {
        let mut bytes = [0u8; 16 * 1024];
        for _ in 0..RECEIVES_PER_TURN {
            let space = [
                libc::iovec {
                    iov_base: std::ptr::null_mut(),
                    iov_len: 0,
                },
                libc::iovec {
                    iov_base: bytes.as_mut_ptr().cast(),
                    iov_len: bytes.len(),
                },
            ];
            match receive(self.fd(), &space) {
                Received::Bytes(_) => {}
                Received::Nothing => {
                    self.is_drained = true;
                    return false;
                }
                Received::Gone => return true,
            }
        }
        false
    }

    /// Whether epoll will tell of everything that could happen, so that the core need not look.
    #[inline]
    pub fn can_rest(&self) -> bool {
        (self.is_drained || !self.session.may_receive() && self.session.stage() == Stage::Open)
            && (self.is_full || !self.session.has_output())
            && !self.session.is_starved()
    }

    /// Whether it has had nothing to do for a while.
    #[inline]
    pub fn is_cold(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.worked_ns) > HOT_NS
    }

    /// Whether its time is up: it has not become more than a socket, or has not gone when told to.
    pub fn is_overdue(&self, now_ns: u64) -> bool {
        let is_new = self.session.entries().is_none() && self.session.stage() != Stage::Leaving;
        is_new && now_ns.saturating_sub(self.opened_ns) > CONNECT_TIMEOUT_NS
            || self
                .deadline_ns
                .is_some_and(|deadline_ns| now_ns >= deadline_ns)
    }

    /// Shuts the socket: the host notices at once, whatever is still at devices.
    pub fn shut(&self) {
        // It may be shut already.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

/// An address as its family writes it: a listener for both families tells IPv4 as a mapped address.
fn plain(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(ip) => SocketAddr::new(
            ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4),
            address.port(),
        ),
        IpAddr::V4(_) => address,
    }
}

fn set_option(
    fd: RawFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option's value is the integer pointed to, of the size given.
    let result = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), size) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// One `recv`, or `recvmsg` when there are two places.
#[inline]
fn receive(fd: RawFd, space: &[libc::iovec; 2]) -> Received {
    loop {
        let count = if space[0].iov_len == 0 {
            // SAFETY: the caller's iovec names writable memory of that length.
            unsafe { libc::recv(fd, space[1].iov_base, space[1].iov_len, libc::MSG_DONTWAIT) }
        } else {
            // SAFETY: an all-zero msghdr is valid; the iovecs name writable memory and outlive the call.
            unsafe {
                let mut header: libc::msghdr = std::mem::zeroed();
                header.msg_iov = space.as_ptr().cast_mut();
                header.msg_iovlen = 2;
                libc::recvmsg(fd, &mut header, libc::MSG_DONTWAIT)
            }
        };
        if count > 0 {
            return Received::Bytes(count as usize);
        }
        if count == 0 {
            return Received::Gone;
        }
        match io::Error::last_os_error().kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => return Received::Nothing,
            _ => return Received::Gone,
        }
    }
}

/// One `send`, or `sendmsg` when there are several pieces.
#[inline]
fn send(fd: RawFd, pieces: &[libc::iovec]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let count = if let [piece] = pieces {
        // SAFETY: what is queued stays readable until it is reported as sent.
        unsafe { libc::send(fd, piece.iov_base, piece.iov_len, flags) }
    } else {
        // SAFETY: an all-zero msghdr is valid; the iovecs name readable memory (as above) and outlive the call.
        unsafe {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_iov = pieces.as_ptr().cast_mut();
            header.msg_iovlen = pieces.len();
            libc::sendmsg(fd, &header, flags)
        }
    };
    if count < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(count as usize)
    }
}
