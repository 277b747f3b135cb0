//! A device of a configuration as a target of the load generator, in this process: what the mapper and the backing devices cost, with no
//! network, no reactor and no message between.

use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use super::build;
use crate::bdev::{self, LendList, Payload};
use crate::bench::{Backend, Data, Done, Geometry, Kind, Request, Target};
use crate::config::{DevicePlan, Error, FlushPolicy, Plan};
use crate::dm::{Io, Limits, Op, Status, Table};
use crate::engine::Solo;
use crate::reactor::{BUFFER_BYTES_MAX, BufferPool, PoolBuffer, monotonic_ns};

/// Most I/Os outstanding per job: a bound on the slots, far above what any device gains from.
const DEPTH_MAX: usize = 4096;

/// Turns a poll takes at the most before it returns without a completion, so that the caller sees the clock.
const TURNS_PER_POLL_MAX: u32 = 16;

/// One device of a plan. Every job gets a mapper of its own over the same backing devices, as every reactor would.
pub struct DeviceTarget {
    bdevs: Arc<bdev::Registry>,
    table: Arc<Table>,
    ordered: bool,
}

impl DeviceTarget {
    /// Opens the backing devices of a plan and builds the table of the device called `name`.
    ///
    /// # Errors
    /// What could not be opened, at its place in the configuration; or that there is no such device.
    pub fn open(plan: &Plan, name: &str) -> Result<DeviceTarget, Error> {
        build::native_only(plan)?;
        let device = device_of(plan, name)?;
        let bdevs = build::bdevs(plan)?;
        let table = build::table(plan, device, &bdevs)?;
        Ok(DeviceTarget {
            bdevs,
            table,
            ordered: device.flush == FlushPolicy::Ordered,
        })
    }
}

/// The device of a plan that is called `name`.
pub(super) fn device_of<'a>(plan: &'a Plan, name: &str) -> Result<&'a DevicePlan, Error> {
    let mut devices = plan.devices.iter();
    devices
        .find(|device| device.name.value == name)
        .ok_or_else(|| {
            let names: Vec<_> = plan
                .devices
                .iter()
                .map(|device| device.name.value.as_str())
                .collect();
            plan.error_of_whole(&format!(
                "there is no device '{name}'; there are: {}",
                names.join(", ")
            ))
        })
}

/// What the load generator has to know of a device.
pub(super) fn geometry(limits: &Limits) -> Geometry {
    Geometry {
        block_size: limits.block_bytes,
        block_count: limits.sectors / u64::from(limits.block_sectors()),
        transfer_size_max: Some(BUFFER_BYTES_MAX as u64),
        depth_max: DEPTH_MAX,
        jobs_max: usize::from(u16::MAX),
    }
}

impl Target for DeviceTarget {
    type Backend = DeviceBackend;

    fn geometry(&self) -> Geometry {
        geometry(&self.table.limits)
    }

    fn seat(&mut self, _job: usize, depth: usize) -> Result<Seat, String> {
        Ok(Seat {
            bdevs: self.bdevs.clone(),
            table: self.table.clone(),
            ordered: self.ordered,
            depth,
        })
    }

    fn tend(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn target_cpu(&mut self) -> Option<Duration> {
        // The load and the mapper are one thread: what either used cannot be told apart.
        None
    }
}

/// What a job's thread needs to make its [`DeviceBackend`].
pub struct Seat {
    bdevs: Arc<bdev::Registry>,
    table: Arc<Table>,
    ordered: bool,
    depth: usize,
}

/// One job's mapper.
pub struct DeviceBackend {
    // Before the buffers and lists that its I/O points to, so that it is dropped first.
    solo: Solo,
    block_bytes: u32,
    buffers: BufferPool,
    commands: Vec<Command>,
    /// Those that ended within their submission, until the next poll.
    at_once: Vec<Done>,
}

/// A place for one I/O, by its tag.
pub(super) struct Command {
    pub(super) request: Request,
    buffer: Option<PoolBuffer>,
    lent: Box<LendList>,
}

impl Backend for DeviceBackend {
    type Seat = Seat;

    fn open(seat: Seat) -> Result<DeviceBackend, String> {
        let Seat {
            bdevs,
            table,
            ordered,
            depth,
        } = seat;
        let block_bytes = table.limits.block_bytes;
        let bytes_max = depth * BUFFER_BYTES_MAX;
        let solo = Solo::new(bdevs, table, ordered, depth, bytes_max)
            .map_err(|error| error.to_string())?;
        Ok(DeviceBackend {
            solo,
            block_bytes,
            buffers: BufferPool::new(bytes_max),
            commands: (0..depth).map(|_| Command::default()).collect(),
            at_once: Vec::with_capacity(depth),
        })
    }

    #[inline]
    fn submit<D: Data>(&mut self, requests: &[Request], data: &mut D) -> Result<usize, String> {
        for request in requests {
            let block_bytes = self.block_bytes;
            let length = request.block_count * block_bytes;
            let command = &mut self.commands[usize::from(request.tag)];
            command.request = *request;
            let payload = command.payload(length, &self.buffers, data)?;
            let op = op(request.kind);
            let sector = request.lba * u64::from(block_bytes / 512);
            let ended = self.solo.submit(u32::from(request.tag), |tag| Io {
                tag,
                op,
                fua: false,
                sector,
                sectors: length / 512,
                payload,
            });
            if let Some(status) = ended {
                self.at_once.push(done(u32::from(request.tag), status));
            }
        }
        Ok(requests.len())
    }

    #[inline]
    fn poll<D: Data>(&mut self, out: &mut [Done], data: &mut D) -> Result<usize, String> {
        let mut count = 0;
        for _ in 0..TURNS_PER_POLL_MAX {
            for (command, status) in self.solo.poll().drain(..) {
                out[count] = done(command, status);
                count += 1;
            }
            for ended in self.at_once.drain(..) {
                out[count] = ended;
                count += 1;
            }
            if count > 0 {
                break;
            }
        }
        for ended in &out[..count] {
            self.commands[usize::from(ended.tag)].ended(ended.error == 0, data);
        }
        Ok(count)
    }

    fn now(&self) -> u64 {
        monotonic_ns()
    }

    fn error_text(code: u32) -> String {
        error_text(code)
    }
}

/// What the mapper is asked for.
#[inline(always)]
pub(super) fn op(kind: Kind) -> Op {
    match kind {
        Kind::Read => Op::Read,
        Kind::Write => Op::Write,
        Kind::Flush => Op::Flush,
    }
}

/// The name of what an I/O ended in.
pub(super) fn error_text(code: u32) -> String {
    STATUSES
        .iter()
        .find(|status| **status as u32 == code)
        .map_or("unknown".into(), |status| format!("{status:?}"))
}

/// What an I/O can end in, for the names of errors.
const STATUSES: [Status; 12] = [
    Status::Ok,
    Status::NotSupported,
    Status::Timeout,
    Status::NoSpace,
    Status::Transport,
    Status::Target,
    Status::ReservationConflict,
    Status::Medium,
    Status::Protection,
    Status::Miscompare,
    Status::Aborted,
    Status::IoError,
];

pub(super) fn done(command: u32, status: Status) -> Done {
    Done {
        tag: command as u16,
        error: status as u32,
    }
}

impl Default for Command {
    fn default() -> Command {
        let request = Request {
            lba: 0,
            block_count: 0,
            generation: 0,
            tag: 0,
            kind: Kind::Flush,
        };
        Command {
            request,
            buffer: None,
            lent: Box::default(),
        }
    }
}

impl Command {
    /// The payload of this command's I/O: memory to be lent for a read, a buffer of its own for a write.
    #[inline(always)]
    pub(super) fn payload<D: Data>(
        &mut self,
        length: u32,
        buffers: &BufferPool,
        data: &mut D,
    ) -> Result<Payload, String> {
        if self.request.kind != Kind::Write {
            let list = NonNull::from(&mut *self.lent);
            // SAFETY: the list is boxed and stays this command's; nobody touches it until the I/O has completed, because the tag
            // is not used again before.
            return Ok(unsafe { Payload::lent(list, length) });
        }
        if self
            .buffer
            .as_ref()
            .is_none_or(|buffer| buffer.capacity() < length as usize)
        {
            self.buffer = None;
            self.buffer = buffers.take(length as usize);
        }
        let Some(buffer) = &mut self.buffer else {
            return Err(format!("no memory for a buffer of {length} bytes"));
        };
        if D::NEEDED {
            data.fill(&self.request, 0, &mut buffer[..length as usize]);
        }
        let bytes = NonNull::new(buffer.as_mut_ptr()).expect("a buffer has an address");
        // SAFETY: as above, for the buffer.
        Ok(unsafe { Payload::new(bytes, length) })
    }

    /// Looks at what was read and gives lent memory back.
    #[inline(always)]
    pub(super) fn ended<D: Data>(&mut self, ok: bool, data: &mut D) {
        if self.request.kind != Kind::Read {
            return;
        }
        if D::NEEDED && ok {
            for segment in self.lent.sort() {
                // SAFETY: lent, and not yet given back; other jobs write to other blocks.
                let bytes = unsafe {
                    std::slice::from_raw_parts(segment.as_ptr(), segment.length as usize)
                };
                data.check(&self.request, segment.offset, bytes);
            }
        }
        self.lent.clear();
    }
}
