//! A namespace over NVMe/TCP as a target: one queue, that is one connection, per job.

use super::backend::{Backend, Data, Done, Geometry, Kind, Request, Target};
use super::cores;
use super::options::Options;
use crate::host::{
    Address, Client, Controller, Error, HostIdentity, HostOptions, Queue, Submission,
};
use crate::nvme::command::{Command, Completion};
use crate::nvme::opcode::io;
use crate::nvme::pdu::Digests;
use crate::nvme::status::Status;
use std::time::{Duration, Instant};

/// A connected controller and the namespace to be measured.
#[derive(Debug)]
pub struct NvmeTcpTarget {
    controller: Controller,
    nsid: u32,
    geometry: Geometry,
    /// The process that listens at the other end, when it is on this machine and this user may know.
    process: Option<u32>,
}

impl NvmeTcpTarget {
    /// Connects, and finds the namespace: the one of the address, or the only one there is.
    ///
    /// # Errors
    ///
    /// A sentence for the user.
    pub fn connect(address: &Address, options: &Options) -> Result<Self, String> {
        Self::connect_inner(address, options).map_err(|error| format!("{address}: {error}"))
    }

    fn connect_inner(address: &Address, options: &Options) -> Result<Self, Error> {
        let mut host = HostOptions::new(HostIdentity::random()?);
        host.connection.digests = Digests {
            header: options.header_digest,
            data: options.data_digest,
        };
        let mut controller = Controller::connect(address, &host)?;
        let nsid = match address.nsid {
            Some(nsid) => nsid,
            None => only_namespace(&controller.namespaces()?)?,
        };
        let namespace = controller.namespace(nsid)?;
        let granted = controller.set_queue_count(options.jobs as u32)?;
        let geometry = Geometry {
            block_size: 1 << namespace.block_shift,
            block_count: namespace.size,
            transfer_size_max: controller.transfer_size_max(),
            depth_max: controller.depth_max(),
            jobs_max: granted as usize,
        };
        let is_local = address
            .resolve()?
            .iter()
            .any(|socket| socket.ip().is_loopback());
        let process = if is_local {
            cores::listener_of(address.port)
        } else {
            None
        };
        Ok(Self {
            controller,
            nsid,
            geometry,
            process,
        })
    }
}

/// The only namespace of a subsystem.
fn only_namespace(nsids: &[u32]) -> Result<u32, Error> {
    match nsids {
        [nsid] => Ok(*nsid),
        [] => Err(Error::Unsupported(
            "the subsystem has no namespace for this host".into(),
        )),
        [first, ..] => Err(Error::Unsupported(format!(
            "the subsystem has {} namespaces; add ?nsid={first} or another of {nsids:?}",
            nsids.len()
        ))),
    }
}

impl Target for NvmeTcpTarget {
    type Backend = NvmeTcpBackend;

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn seat(&mut self, job: usize, depth: usize) -> Result<Seat, String> {
        let queue_id = job as u16 + 1;
        let queue = self
            .controller
            .connect_io_queue(queue_id, depth)
            .map_err(|error| format!("I/O queue {queue_id}: {error}"))?;
        Ok(Seat {
            queue: queue.into_queue(),
            nsid: self.nsid,
            block_size: self.geometry.block_size,
        })
    }

    fn tend(&mut self) -> Result<(), String> {
        self.controller
            .tend()
            .map_err(|error| format!("the admin queue: {error}"))
    }

    fn target_cpu(&mut self) -> Option<Duration> {
        cores::process_time(self.process?)
    }
}

/// A connected I/O queue on its way to its job.
#[derive(Debug)]
pub struct Seat {
    queue: Queue,
    nsid: u32,
    block_size: u32,
}

/// One job's queue.
#[derive(Debug)]
pub struct NvmeTcpBackend {
    queue: Queue,
    nsid: u32,
    block_size: u32,
    /// The request of each command identifier.
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

    fn complete(&mut self, _: &Completion, _: u32) {
        unreachable!("submitting completes nothing");
    }
}

/// A poll of the queue.
struct Polling<'a, D> {
    requests: &'a [Request],
    block_size: u32,
    data: &'a mut D,
    done: &'a mut [Done],
    count: usize,
}

impl<D: Data> Client for Polling<'_, D> {
    #[inline]
    fn outgoing(&mut self, command_id: u16, offset: u32, buffer: &mut [u8]) {
        self.data
            .fill(&self.requests[usize::from(command_id)], offset, buffer);
    }

    #[inline]
    fn incoming(&mut self, command_id: u16, offset: u32, data: &[u8]) {
        if D::NEEDED {
            self.data
                .check(&self.requests[usize::from(command_id)], offset, data);
        }
    }

    #[inline]
    fn complete(&mut self, completion: &Completion, transferred: u32) {
        let request = &self.requests[usize::from(completion.command_id)];
        let mut status = completion.status;
        // A read that "succeeds" without its data has failed.
        if status.is_success() && transferred != request.block_count * self.block_size {
            status = Status::DATA_TRANSFER_ERROR;
        }
        self.done[self.count] = Done {
            tag: request.tag,
            error: u32::from(status.bits()),
        };
        self.count += 1;
    }
}

impl Backend for NvmeTcpBackend {
    type Seat = Seat;

    fn open(seat: Seat) -> Result<Self, String> {
        let Seat {
            queue,
            nsid,
            block_size,
        } = seat;
        let unused = Request {
            lba: 0,
            block_count: 0,
            generation: 0,
            tag: 0,
            kind: Kind::Flush,
        };
        let requests = vec![unused; queue.depth()];
        Ok(Self {
            queue,
            nsid,
            block_size,
            requests,
            origin: Instant::now(),
        })
    }

    #[inline]
    fn submit<D: Data>(&mut self, requests: &[Request], data: &mut D) -> Result<usize, String> {
        for (index, request) in requests.iter().enumerate() {
            let size = request.block_count * self.block_size;
            let (command, submission) = match request.kind {
                Kind::Read => (
                    Command::block_io(io::READ, self.nsid, request.lba, request.block_count),
                    Submission::Incoming(size),
                ),
                Kind::Write => (
                    Command::block_io(io::WRITE, self.nsid, request.lba, request.block_count),
                    Submission::Outgoing(size),
                ),
                Kind::Flush => (Command::new(io::FLUSH, self.nsid), Submission::None),
            };
            match self
                .queue
                .submit(command, submission, &mut Submitting { request, data })
            {
                Ok(command_id) => self.requests[usize::from(command_id)] = *request,
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
        self.queue
            .poll(&mut polling)
            .map_err(|error| error.to_string())?;
        Ok(polling.count)
    }

    #[inline]
    fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    fn error_text(code: u32) -> String {
        Status::from_bits(code as u16).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_chosen_or_asked_for() {
        assert_eq!(only_namespace(&[7]).unwrap(), 7);
        assert!(
            only_namespace(&[])
                .unwrap_err()
                .to_string()
                .contains("no namespace")
        );
        assert!(
            only_namespace(&[2, 5])
                .unwrap_err()
                .to_string()
                .contains("add ?nsid=2")
        );
    }
}
