//! A logical unit over iSCSI as a target: one session, that is one connection, per job.

use super::backend::{Backend, Data, Done, Geometry, Kind, NoData, Request, Target};
use super::cores;
use super::options::{DEPTH_MAX, JOBS_MAX, Options};
use crate::host::iscsi::blocking::Capacity;
use crate::host::iscsi::login::Proof;
use crate::host::iscsi::{
    Address, BlockingSession, Client, CommandStatus, Ending, Error, Session, SessionOptions,
    Submission, command, login,
};
use crate::scsi::Lun;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A session of its own, beside those of the jobs, and the unit to be measured.
#[derive(Debug)]
pub struct IscsiTarget {
    address: Address,
    options: SessionOptions,
    session: BlockingSession,
    geometry: Geometry,
    /// The process that listens at the other end, when it is on this machine and this user may know.
    process: Option<u32>,
}

impl IscsiTarget {
    /// Logs in, and asks what the unit is like.
    ///
    /// # Errors
    ///
    /// A sentence for the user.
    pub fn connect(address: &Address, options: &Options) -> Result<Self, String> {
        let proof = match &options.secrets {
            Some(path) => {
                let read = Proof::read(path);
                Some(Arc::new(
                    read.map_err(|error| format!("--secrets: {error}"))?,
                ))
            }
            None => None,
        };
        Self::connect_inner(address, options, proof).map_err(|error| format!("{address}: {error}"))
    }

    fn connect_inner(
        address: &Address,
        options: &Options,
        proof: Option<Arc<Proof>>,
    ) -> Result<Self, Error> {
        let mut session_options = SessionOptions::new()?;
        session_options.header_digest = options.header_digest;
        session_options.data_digest = options.data_digest;
        session_options.proof = proof;
        if let Some(initiator) = &options.initiator {
            session_options.initiator.clone_from(initiator);
        }
        let mut session = open(address, &session_options)?;
        let Capacity {
            block_count,
            block_size,
        } = session.capacity(address.lun)?;
        let limit = session.transfer_blocks_max(address.lun)?;
        let geometry = Geometry {
            block_size,
            block_count,
            transfer_size_max: limit.map(|blocks| u64::from(blocks) * u64::from(block_size)),
            depth_max: (session.session().window() as usize).clamp(1, DEPTH_MAX),
            jobs_max: JOBS_MAX,
        };
        // Where it is, which may be elsewhere than it was looked for.
        let peer = session.session().stream().peer_addr().ok();
        let local = peer.filter(|peer| peer.ip().is_loopback());
        let process = local.and_then(|peer| cores::listener_of(peer.port()));
        Ok(Self {
            address: address.clone(),
            options: session_options,
            session,
            geometry,
            process,
        })
    }
}

/// A session whose unit has nothing to tell any more.
fn open(address: &Address, options: &SessionOptions) -> Result<BlockingSession, Error> {
    let session = login(address, options)?;
    let mut session = BlockingSession::new(session, options.timeout);
    session.settle(address.lun)?;
    Ok(session)
}

impl Target for IscsiTarget {
    type Backend = IscsiBackend;

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn seat(&mut self, job: usize, depth: usize) -> Result<Seat, String> {
        let mut options = self.options.beside(job as u16 + 1);
        options.depth = depth;
        let session = open(&self.address, &options)
            .map_err(|error| format!("{}: session {}: {error}", self.address, job + 1))?;
        Ok(Seat {
            session: session.into_session(),
            lun: Lun::encode(self.address.lun),
            block_size: self.geometry.block_size,
            timeout: options.timeout,
        })
    }

    fn end(&mut self) {
        // A target that does not answer closes the connection no less than this side does.
        let _ = self.session.log_out();
    }

    fn tend(&mut self) -> Result<(), String> {
        self.session
            .poll()
            .map_err(|error| format!("{}: {error}", self.address))
    }

    fn target_cpu(&mut self) -> Option<Duration> {
        cores::process_time(self.process?)
    }
}

/// A session on its way to its job.
#[derive(Debug)]
pub struct Seat {
    session: Session,
    lun: [u8; 8],
    block_size: u32,
    timeout: Duration,
}

/// One job's session.
#[derive(Debug)]
pub struct IscsiBackend {
    session: Session,
    lun: [u8; 8],
    block_size: u32,
    timeout: Duration,
    /// The request of each slot.
    requests: Vec<Request>,
    origin: Instant,
}

/// A command that is being submitted: the only one whose data can be asked for.
struct Submitting<'a, D> {
    request: &'a Request,
    data: &'a mut D,
}

impl<D: Data> Client for Submitting<'_, D> {
    #[inline]
    fn outgoing(&mut self, _: u16, offset: u32, buffer: &mut [u8]) {
        self.data.fill(self.request, offset, buffer);
    }

    fn incoming(&mut self, _: u16, _: u32, _: &[u8]) {
        unreachable!("submitting receives nothing");
    }

    fn complete(&mut self, _: &Ending<'_>) {
        unreachable!("submitting completes nothing");
    }
}

/// A poll of the session.
struct Polling<'a, D> {
    requests: &'a [Request],
    block_size: u32,
    data: &'a mut D,
    done: &'a mut [Done],
    count: usize,
}

impl<D: Data> Client for Polling<'_, D> {
    #[inline]
    fn outgoing(&mut self, slot: u16, offset: u32, buffer: &mut [u8]) {
        let request = &self.requests[usize::from(slot)];
        self.data.fill(request, offset, buffer);
    }

    #[inline]
    fn incoming(&mut self, slot: u16, offset: u32, data: &[u8]) {
        if D::NEEDED {
            let request = &self.requests[usize::from(slot)];
            self.data.check(request, offset, data);
        }
    }

    #[inline]
    fn complete(&mut self, ending: &Ending<'_>) {
        let request = &self.requests[usize::from(ending.slot)];
        let mut status = ending.status;
        // A read that "succeeds" without its data has failed.
        if status.is_good() && ending.transferred != request.block_count * self.block_size {
            status = CommandStatus::SHORT;
        }
        self.done[self.count] = Done {
            tag: request.tag,
            error: status.bits(),
        };
        self.count += 1;
    }
}

impl Backend for IscsiBackend {
    type Seat = Seat;

    fn open(seat: Seat) -> Result<Self, String> {
        let Seat {
            session,
            lun,
            block_size,
            timeout,
        } = seat;
        let unused = Request {
            lba: 0,
            block_count: 0,
            generation: 0,
            tag: 0,
            kind: Kind::Flush,
        };
        let requests = vec![unused; session.depth()];
        Ok(Self {
            session,
            lun,
            block_size,
            timeout,
            requests,
            origin: Instant::now(),
        })
    }

    #[inline]
    fn submit<D: Data>(&mut self, requests: &[Request], data: &mut D) -> Result<usize, String> {
        for (index, request) in requests.iter().enumerate() {
            let size = request.block_count * self.block_size;
            let (cdb, submission) = match request.kind {
                Kind::Read => (
                    command::read(request.lba, request.block_count),
                    Submission::Incoming(size),
                ),
                Kind::Write => (
                    command::write(request.lba, request.block_count, false),
                    Submission::Outgoing(size),
                ),
                Kind::Flush => (command::synchronize_cache(), Submission::None),
            };
            let client = &mut Submitting { request, data };
            match self.session.submit(self.lun, &cdb, submission, client) {
                Ok(slot) => self.requests[usize::from(slot)] = *request,
                Err(Error::QueueFull) => return Ok(index),
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(requests.len())
    }

    #[inline]
    fn poll<D: Data>(&mut self, done: &mut [Done], data: &mut D) -> Result<usize, String> {
        let mut polling = Polling {
            requests: &self.requests,
            block_size: self.block_size,
            data,
            done,
            count: 0,
        };
        self.session
            .poll(&mut polling)
            .map_err(|error| error.to_string())?;
        Ok(polling.count)
    }

    #[inline]
    fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    fn end(&mut self) {
        let mut polling = Polling {
            requests: &self.requests,
            block_size: self.block_size,
            data: &mut NoData,
            done: &mut [],
            count: 0,
        };
        // As for the session of the target's own.
        let _ = self.session.log_out(self.timeout, &mut polling);
    }

    fn error_text(code: u32) -> String {
        CommandStatus::from_bits(code).to_string()
    }
}
