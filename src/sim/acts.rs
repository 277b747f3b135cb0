//! What hosts, operators and faults do in a run.

use super::operators::Pending;
use super::oracle::{Content, SECTOR};
use super::plan::{
    Action, DEVICE_SECTORS, DevicePlan, HOST_SECTORS, Kind, OUTSTANDING_MAX, Operation,
};
use super::run::Run;
use super::state::{Device, Underway};
use super::{Ask, DISCARDED};
use crate::dm::{DeviceId, LowerId, Op, Request, Status};

/// What a host wants to submit, in sectors of the device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub device: usize,
    pub host: u64,
    pub op: Op,
    pub fua: bool,
    pub sector: u64,
    pub sectors: u64,
}

impl Wanted {
    /// It changes sectors.
    fn writes(&self) -> bool {
        !matches!(self.op, Op::Read | Op::Flush)
    }

    /// It is for the sector that all hosts share.
    fn is_shared(&self) -> bool {
        self.sector == 0 && self.op == Op::CompareAndWrite
    }
}

impl Run<'_> {
    pub(super) fn core_of(&self, host: u64) -> u16 {
        (host % u64::from(self.cores)) as u16
    }

    /// Does an action of the plan, if it makes sense now.
    pub(super) fn act(&mut self, index: usize, action: &Action) {
        self.count_step();
        match *action {
            Action::Submit {
                device,
                host,
                op,
                fua,
                sector,
                sectors,
            } => {
                let sector = 1 + host * HOST_SECTORS + sector;
                let wanted = Wanted {
                    device,
                    host,
                    op,
                    fua,
                    sector,
                    sectors,
                };
                self.submit(index, wanted);
            }
            Action::Shared { device, host, fua } => {
                let wanted = Wanted {
                    device,
                    host,
                    op: Op::CompareAndWrite,
                    fua,
                    sector: 0,
                    sectors: 1,
                };
                self.submit(index, wanted);
            }
            Action::Abort {
                device,
                host,
                which,
            } => self.abort(index, device, host, which),
            Action::Operate {
                device, operation, ..
            } => self.operate(Some(index), device, operation),
            Action::Question { device, which } => {
                let (what, request) = match which {
                    0 => ("how device", Request::Info),
                    1 => ("for the status of device", Request::Status),
                    _ => (
                        "for the table of device",
                        Request::Table { inactive: false },
                    ),
                };
                self.line(|| format!("[{index}] an operator asks {what} {device}"));
                self.watch(|watch| watch.request(device, false));
                let ticket = self.cluster.request(DeviceId(device as u32), request);
                self.devices[device].model.questions.push(ticket);
            }
            Action::GiveUp { device, which } => self.give_up(index, device, which),
            Action::Tell { device, ref words } => {
                self.line(|| format!("[{index}] an operator tells device {device}: {words}"));
                self.watch(|watch| watch.request(device, false));
                let request = Request::Message {
                    sector: 0,
                    words: words.split(' ').map(str::to_owned).collect(),
                };
                let ticket = self.cluster.request(DeviceId(device as u32), request);
                self.devices[device].model.messages.push(ticket);
            }
            Action::Freeze { disk, frozen } => {
                self.line(|| {
                    format!(
                        "[{index}] d{disk} {}",
                        if frozen { "stands still" } else { "goes on" }
                    )
                });
                self.cluster.disk(disk).frozen = frozen;
            }
            Action::Plug { disk, present } => self.plug(index, disk, present),
            Action::PowerCut => unreachable!("ends the run"),
        }
        self.cluster
            .mappers
            .iter()
            .for_each(|mapper| mapper.assert_invariants());
    }

    fn plug(&mut self, index: usize, disk: usize, present: bool) {
        let how = if present { "put back" } else { "taken out" };
        self.line(|| format!("[{index}] d{disk} is {how}"));
        {
            let shared = &mut *self.cluster.shared();
            shared.disks[disk].plug(present, &mut self.random);
        }
        let device = self.plan.disks[disk].device;
        let pending = &mut self.devices[device].model.pending;
        pending
            .iter_mut()
            .for_each(|pending| pending.excused |= !present);
        // The engine notices now and then, and tells every core; paths do not come back from that.
        if !present && self.random.percent(50) {
            self.line(|| format!("        the cores are told that d{disk} is gone"));
            self.watch(|watch| watch.news(device));
            self.cluster.take_away(LowerId(disk as u32));
        }
    }

    /// A host submits something, unless it has enough under way, or a write there already.
    pub(super) fn submit(&mut self, index: usize, wanted: Wanted) {
        let Wanted {
            device,
            host,
            op,
            fua,
            sector,
            sectors,
        } = wanted;
        let state = &mut self.devices[device];
        if !state.admits(&wanted) {
            return;
        }
        let shared = wanted.is_shared();
        let number = if wanted.writes() {
            state.oracle.next_number()
        } else {
            0
        };
        let (bytes, certain) = state.bytes_of(&wanted, number);
        let snapshot = match op {
            Op::Flush => state.oracle.snapshot(0, DEVICE_SECTORS),
            _ if state.ordered && fua => state.oracle.snapshot(0, DEVICE_SECTORS),
            Op::Read => state.oracle.snapshot(sector, sectors),
            _ => Vec::new(),
        };
        if wanted.writes() && !shared {
            let content = match op {
                Op::Discard => Content::Discarded,
                Op::WriteZeroes => Content::Zero,
                _ => Content::Write(number),
            };
            state.oracle.sent(sector, sectors, number, content);
        }
        let expects = shared.then(|| state.believed[host as usize]);
        let excuse = state.excuse_now(&self.plan.devices[device]);
        let submitted_ns = self.cluster.shared().now_ns;
        self.originals += 1;
        self.line(|| format!("[{index}] host {host} submits"));
        let ask = Ask {
            op,
            fua,
            sector: if op == Op::Flush { 0 } else { sector },
            sectors: if op == Op::Flush { 0 } else { sectors as u32 },
            bytes,
        };
        let core = self.core_of(host);
        let command = self.cluster.submit(core, DeviceId(device as u32), ask);
        self.devices[device].underway.push(Underway {
            command,
            host,
            op,
            fua,
            sector,
            sectors,
            number,
            snapshot,
            certain,
            expects,
            excuse,
            submitted_ns,
        });
    }

    pub(super) fn abort(&mut self, index: usize, device: usize, host: u64, which: usize) {
        let core = self.core_of(host);
        let own: Vec<u32> = self.devices[device]
            .underway
            .iter()
            .filter(|io| io.host == host)
            .map(|io| io.command)
            .collect();
        if own.is_empty() {
            return;
        }
        let command = own[which % own.len()];
        self.line(|| format!("[{index}] host {host} gives up #{command}"));
        if self.cluster.abort(core, DeviceId(device as u32), command) {
            let ended = self.cluster.status(command);
            // What a target held may have other clones below.
            let DevicePlan {
                paths,
                late,
                pieces,
                ..
            } = self.plan.devices[device];
            let waits = ended.is_none() && (paths || late);
            // Another piece had failed before: then that error counts (IO-15).
            let in_pieces = pieces || late;
            let failed = ended.filter(|status| in_pieces && !status.is_ok());
            let failed =
                failed.is_some_and(|status| self.watch(|watch| watch.explains(command, status)));
            assert!(
                waits || failed || ended == Some(Status::Aborted),
                "#{command} was given up while it was parked (AT-78)"
            );
            let mut underway = self.devices[device].underway.iter_mut();
            let io = underway
                .find(|io| io.command == command)
                .expect("it is under way");
            io.excuse.aborted = true;
        }
    }

    /// Whoever asked for something that has not been answered does not want it any more.
    fn give_up(&mut self, index: usize, device: usize, which: usize) {
        let pending = &mut self.devices[device].model.pending;
        if pending.is_empty() {
            return;
        }
        let which = which % pending.len();
        let Pending {
            ticket,
            operation,
            ref mut given_up,
            ..
        } = pending[which];
        *given_up = true;
        self.line(|| format!("[{index}] an operator gives up: {operation} of device {device}"));
        self.watch(|watch| watch.request(device, false));
        let request = Request::GiveUp(ticket);
        let ticket = self.cluster.request(DeviceId(device as u32), request);
        self.devices[device].model.give_ups.push(ticket);
    }

    /// An operator asks for something; without an index it is not the plan's.
    pub(super) fn operate(&mut self, index: Option<usize>, device: usize, operation: Operation) {
        let state = &mut self.devices[device];
        let tables = &self.plan.devices[device].tables;
        let model = &state.model;
        let kind = operation.table().map(|table| tables[table].kind);
        // Numbers of devices are given away again when the removal was answered. Hosts keep to the block size that they
        // know, so the first table has theirs.
        let sensible = match operation {
            Operation::Create => model.pending.is_empty() && !model.exists,
            _ if kind == Some(Kind::OtherBlock) => {
                model.live && !model.is_pending(|op| op == Operation::Remove)
            }
            Operation::Remove => !model.is_pending(|op| op == Operation::Create),
            _ => true,
        };
        if !sensible || (index.is_some() && model.pending.len() >= 3) {
            return;
        }
        let request = match operation {
            Operation::Create => Request::Create {
                ordered: state.ordered,
                parked_limit_ns: self.plan.devices[device].parked_limit_ns,
            },
            Operation::Load(table) => Request::Load(state.tables[table].clone()),
            Operation::Clear => Request::Clear,
            Operation::Suspend(options) => Request::Suspend(options),
            Operation::Resume(suspend) => Request::Resume {
                open: true,
                suspend,
            },
            Operation::Swap(table, suspend) => Request::Swap {
                table: state.tables[table].clone(),
                open: true,
                suspend,
            },
            Operation::Cancel => Request::Cancel,
            Operation::FailParked => Request::FailParked,
            Operation::Remove => Request::Remove,
        };
        for io in &mut state.underway {
            io.excuse.removed |= operation == Operation::Remove;
            io.excuse.failed_parked |= operation == Operation::FailParked;
            io.excuse.given_up |= self.plan.devices[device].pieces && operation.suspends();
        }
        let (excused, flushes_fail) = {
            let disks = &self.cluster.shared().disks;
            let mut own = self.plan.devices[device]
                .disks
                .iter()
                .map(|disk| &disks[*disk]);
            (
                own.clone().any(|disk| disk.gone),
                own.any(|disk| disk.flushes_failing > 0) || self.plan.devices[device].paths,
            )
        };
        self.line(|| {
            let index = index.map_or_else(|| "[the end]".into(), |index| format!("[{index}]"));
            let text = operation.table().map_or_else(String::new, |table| {
                format!("\n{}", tables[table].layout.text.trim_end()).replace('\n', "\n          ")
            });
            format!("{index} an operator asks: {operation} of device {device}{text}")
        });
        self.watch(|watch| watch.request(device, operation.stirs()));
        let ticket = self.cluster.request(DeviceId(device as u32), request);
        let model = &mut self.devices[device].model;
        if operation == Operation::Cancel {
            return model.cancels.push(ticket);
        }
        model.pending.push_back(Pending {
            ticket,
            operation,
            kind,
            excused,
            flushes_fail,
            given_up: false,
        });
    }
}

impl Device {
    /// Whether a host may submit something now: reads may meet writes, but writes of one sector are one after another.
    fn admits(&self, wanted: &Wanted) -> bool {
        let meets = |io: &Underway| {
            wanted.writes()
                && !matches!(io.op, Op::Read | Op::Flush)
                && io.sector < wanted.sector + wanted.sectors
                && wanted.sector < io.sector + io.sectors
        };
        let own = || self.underway.iter().filter(|io| io.host == wanted.host);
        own().count() < OUTSTANDING_MAX && !own().any(meets)
    }

    /// The payload; and, of a compare-and-write, whether what it compares with must be there.
    fn bytes_of(&self, wanted: &Wanted, number: u64) -> (Vec<u8>, bool) {
        let (sector, length) = (wanted.sector, wanted.sectors as usize * SECTOR);
        match wanted.op {
            Op::Read => (vec![0xee; length], false),
            Op::Write | Op::WriteAtomic => {
                let mut bytes = vec![0; length];
                fill(&mut bytes, number, sector);
                (bytes, false)
            }
            Op::CompareAndWrite => {
                let mut bytes = vec![0; 3 * length];
                fill(&mut bytes[length..2 * length], number, sector);
                let compare = &mut bytes[..length];
                if wanted.is_shared() {
                    fill(compare, self.believed[wanted.host as usize], 0);
                    return (bytes, false);
                }
                let mut certain = true;
                for (at, bytes) in (sector..).zip(compare.chunks_mut(SECTOR)) {
                    match self.oracle.certain(at) {
                        Some(Content::Write(number)) => fill(bytes, number, at),
                        Some(Content::Discarded) => bytes.fill(DISCARDED),
                        Some(Content::Zero) => {}
                        None => certain = false,
                    }
                }
                (bytes, certain)
            }
            Op::Flush | Op::Discard | Op::WriteZeroes => (Vec::new(), false),
        }
    }
}

/// Fills sectors with what write `number` leaves there.
fn fill(bytes: &mut [u8], number: u64, sector: u64) {
    if number == 0 {
        return bytes.fill(0);
    }
    for (at, bytes) in bytes.chunks_mut(SECTOR).enumerate() {
        Content::fill(number, sector + at as u64, bytes);
    }
}
