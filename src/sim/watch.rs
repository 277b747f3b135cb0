//! What is checked at every clone, message and completion; and their trace.
//!
//! A clone is known by its payload: a part of the buffer of the original it belongs to. The flush steps of a sequence have none.

use super::explore::Lines;
use super::plan::Plan;
use super::trace::{self, Range, Words};
use super::{Bytes, Taken};
use crate::dm::message::{Event, Message, Order};
use crate::dm::{Io, LowerIo, Op, Status};

/// Messages that one operator's request may cost per core: five rounds of an order and its acknowledgement, and as much again
/// for what a sequence that it holds up has to repeat.
const MESSAGES_PER_REQUEST: u64 = 20;
/// Messages that one sequence may cost per core: gates closed and opened, each acknowledged (AT-93).
const MESSAGES_PER_SEQUENCE: u64 = 4;
/// What comes on top of either, for the cores that take part by themselves.
const MESSAGES_BESIDES: u64 = 12;
/// Calls from the mapper into its environment within one step: far beyond what the few originals of a run could cause.
const CALLS_PER_STEP: u64 = 20_000;

/// An original, as the watch knows it.
#[derive(Clone, Copy, Debug)]
struct Command {
    device: usize,
    core: u16,
    op: Op,
    sectors: u32,
    /// It needs the device to itself: no other clone may be under way with one of its own.
    exclusive: bool,
    /// One of its clones has been submitted.
    started: bool,
    done: bool,
    /// What its clones' errors amount to (IO-15, FL-6).
    error: Option<Status>,
    /// Sectors of data written below.
    written: u32,
    /// A flush step has followed its data.
    flushed: bool,
}

/// A device, as the watch knows it.
#[derive(Clone, Debug, Default)]
struct Device {
    ordered: bool,
    /// Its targets try other paths, hold and hand back: an error of a path is no error of the original, clones of one
    /// may come twice, and what waits for a path starts when it can.
    paths: bool,
    /// Its targets keep I/O for a time, each for its own.
    late: bool,
    /// Some of its targets write no zeroes, whatever becomes of those that do.
    blocks: bool,
    /// What it parks while it is suspended fails after a time.
    limited: bool,
    /// Suspended, and nobody has asked for a change of that: nothing may reach its disks (SU-1).
    quiet: bool,
    /// Clones under way, by what they belong to.
    plain: u32,
    exclusive: u32,
    /// Whose the exclusive ones are.
    exclusive_of: u32,
    sequence_flushes: u32,
    /// Flushes before a suspend that have not ended (lockfs): they need nothing to themselves, and cannot be told from those of
    /// sequences.
    freezing: u32,
    /// What the errors of the running sequence's flush step amount to (FL-6).
    step_error: Option<Status>,
    /// Its sequence has ended.
    step_over: bool,
    /// A flush before a suspend ran beside it: whose clones failed cannot be told.
    step_blurred: bool,
    /// Originals that no clone has been seen of, by core, in order of arrival.
    waiting: Vec<Vec<u32>>,
    /// Errors that sequences have ended with.
    sequence_errors: Vec<Status>,
    /// Operations that a disk has refused: from then on the mapper may answer that they are not supported (IO-29).
    refused: Vec<Op>,
}

/// The checks and the trace of one run.
pub(super) struct Watch {
    /// Originals, by their number less one.
    commands: Vec<Command>,
    /// Which original's a buffer is, and whether it is a private one that a clone goes through.
    buffers: Vec<(u32, bool)>,
    /// Whose the disks are.
    owners: Vec<usize>,
    devices: Vec<Device>,
    messages: u64,
    messages_max: u64,
    cores: u64,
    calls: u64,
    /// Originals of ordered devices whose data step has begun since the last look.
    pub barriers: Vec<u32>,
    /// Lines, if they are wanted.
    pub trace: Option<Lines>,
    /// Steps so far.
    pub step: u64,
}

/// Whether an operation has the device to itself, whatever the flush policy.
fn is_one(op: Op) -> bool {
    matches!(op, Op::CompareAndWrite | Op::WriteAtomic)
}

impl Watch {
    pub fn new(plan: &Plan, cores: u16, trace: Option<Lines>) -> Watch {
        let device = Device {
            waiting: vec![Vec::new(); usize::from(cores)],
            ..Device::default()
        };
        Watch {
            commands: Vec::with_capacity(plan.actions.len()),
            buffers: Vec::new(),
            owners: plan.disks.iter().map(|disk| disk.device).collect(),
            devices: plan
                .devices
                .iter()
                .map(|plan| Device {
                    paths: plan.paths,
                    late: plan.late,
                    blocks: plan.blocks,
                    limited: plan.parked_limit_ns.is_some(),
                    ..device.clone()
                })
                .collect(),
            messages: 0,
            messages_max: 0,
            cores: u64::from(cores),
            calls: 0,
            barriers: Vec::new(),
            trace,
            step: 0,
        }
    }

    /// Adds a line to the trace.
    pub fn line(&self, text: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            let line = format!("{:>6}  {}", self.step, text());
            trace.lock().expect("one thread adds lines").push(line);
        }
    }

    /// Another step begins.
    pub fn stepped(&mut self) {
        self.step += 1;
        self.calls = 0;
    }

    fn called(&mut self) {
        self.calls += 1;
        assert!(self.calls < CALLS_PER_STEP, "one step does not end");
    }

    /// A host is about to submit an original.
    pub fn original(&mut self, core: u16, device: usize, io: &Io<Bytes>) {
        self.line(|| {
            let range = Range {
                op: io.op,
                sector: io.sector,
                sectors: u64::from(io.sectors),
                fua: io.fua,
            };
            format!(
                "core {core}  device {device} is given #{}: {range}",
                io.tag.command
            )
        });
        let Io {
            op,
            fua,
            sectors,
            payload,
            ..
        } = *io;
        let state = &mut self.devices[device];
        let exclusive = is_one(op) || (state.ordered && fua);
        let sequenced = exclusive || (state.ordered && op == Op::Flush);
        if sequenced {
            self.messages_max += MESSAGES_PER_SEQUENCE * self.cores + MESSAGES_BESIDES;
        }
        self.commands.push(Command {
            device,
            core,
            op,
            sectors,
            exclusive,
            started: false,
            done: false,
            error: None,
            written: 0,
            flushed: false,
        });
        let command = self.commands.len() as u32;
        debug_assert_eq!(command, io.tag.command);
        // The sequence of an ordered flush flushes in its stead.
        if state.paths {
            self.messages_max += self.cores;
        }
        if !(state.ordered && op == Op::Flush) {
            state.waiting[usize::from(core)].push(command);
        }
        self.belongs(payload, command, false);
    }

    /// A clone goes through a private buffer.
    pub fn private(&mut self, private: Bytes, instead_of: Bytes) {
        let buffer = instead_of.buffer().expect("a part has bytes") as usize;
        self.belongs(private, self.buffers[buffer].0, true);
    }

    fn belongs(&mut self, bytes: Bytes, command: u32, is_private: bool) {
        let buffer = bytes.buffer().expect("every original has a buffer") as usize;
        if self.buffers.len() <= buffer {
            self.buffers.resize(buffer + 1, (0, false));
        }
        self.buffers[buffer] = (command, is_private);
    }

    /// Every core is about to be told something that its targets tell on.
    pub fn news(&mut self, device: usize) {
        if self.devices[device].paths {
            self.messages_max += self.cores * (1 + self.cores);
        }
    }

    /// An operator is about to ask for something.
    pub fn request(&mut self, device: usize, stirs: bool) {
        self.messages_max += MESSAGES_PER_REQUEST * self.cores + MESSAGES_BESIDES;
        if stirs {
            self.devices[device].quiet = false;
        }
    }

    /// An operator was told that a device is suspended, and nobody has asked for anything since.
    pub fn suspended(&mut self, device: usize) {
        self.assert_drained(device, "a device is suspended");
        self.devices[device].quiet = true;
    }

    /// Panics if a disk has a clone for the device under way.
    pub fn assert_drained(&self, device: usize, what: &str) {
        let state = &self.devices[device];
        let under_way = state.plain + state.exclusive + state.sequence_flushes;
        assert_eq!(
            under_way, 0,
            "{what} while its disks have clones under way (SU-1)"
        );
    }

    fn command(&self, io: &LowerIo<Bytes>) -> Option<u32> {
        Some(self.buffers[io.payload.buffer()? as usize].0)
    }

    fn is_private(&self, io: &LowerIo<Bytes>) -> bool {
        let buffer = io.payload.buffer();
        buffer.is_some_and(|buffer| self.buffers[buffer as usize].1)
    }

    /// A core has submitted a clone.
    pub fn submitted(&mut self, core: u16, disk: usize, io: &LowerIo<Bytes>, taken: &Taken) {
        self.called();
        let number = self.command(io);
        self.line(|| {
            let became = match taken {
                Taken::Done(status) => trace::status(*status),
                Taken::Held => "under way".into(),
                Taken::Busy => "no room".into(),
            };
            format!(
                "core {core}  d{disk} takes {} of {}: {became}",
                range(io),
                name(number)
            )
        });
        let device = self.owners[disk];
        assert!(
            !self.devices[device].quiet,
            "a clone reached a disk of a suspended device (SU-1)"
        );
        match number {
            Some(number) => self.submitted_for(number, device, io, taken),
            None => {
                let state = &self.devices[device];
                let others = state.plain + state.exclusive;
                assert!(
                    others == 0 || state.freezing > 0,
                    "a flush step began before the device had drained (3.1)"
                );
                let latest = self
                    .commands
                    .get_mut((state.exclusive_of as usize).wrapping_sub(1));
                if let Some(command) = latest.filter(|_| state.freezing == 0) {
                    command.flushed |= command.started && !command.done;
                }
            }
        }
        match taken {
            Taken::Held => *self.under_way(disk, number) += 1,
            Taken::Done(status) => self.clone_ended(device, number, io.op, *status),
            Taken::Busy => {}
        }
    }

    fn submitted_for(&mut self, number: u32, device: usize, io: &LowerIo<Bytes>, taken: &Taken) {
        // What is written through a private buffer is more than the original writes.
        let is_own = !self.is_private(io);
        let command = &mut self.commands[number as usize - 1];
        assert!(!command.done, "a clone of #{number}, which has completed");
        assert_eq!(
            command.device, device,
            "#{number} reached another device's disk"
        );
        let state = &mut self.devices[device];
        assert!(
            state.sequence_flushes == 0 || state.freezing > 0,
            "#{number} reached a disk during a flush step (AT-20)"
        );
        let alone = match command.exclusive {
            true => state.plain == 0 && (state.exclusive == 0 || state.exclusive_of == number),
            false => state.exclusive == 0,
        };
        assert!(
            alone,
            "#{number} shares the device with what needs it to itself (IO-21, AT-20)"
        );
        if command.exclusive {
            state.exclusive_of = number;
        }
        let again = command.flushed && command.exclusive && io.op != Op::Flush;
        assert!(
            !again,
            "the data of #{number} is written again after its flush (FL-12)"
        );
        if io.op == Op::Write && is_own && !matches!(taken, Taken::Busy) {
            command.written += io.sectors;
        }
        if command.started {
            return;
        }
        command.started = true;
        if command.exclusive && state.ordered && !is_one(command.op) {
            self.barriers.push(number);
        }
        // What a core was given, it starts in that order, whatever held it up (SU-13).
        let waiting = &mut state.waiting[usize::from(command.core)];
        let place = waiting
            .iter()
            .position(|waits| *waits == number)
            .expect("it waits");
        if state.late {
            waiting.remove(place);
            return;
        }
        let earlier: Vec<u32> = waiting.drain(..=place).collect();
        for before in &earlier[..place] {
            let done = self.commands[*before as usize - 1].done;
            assert!(
                done,
                "#{number} has overtaken #{before}, which came before it (SU-13)"
            );
        }
    }

    fn under_way(&mut self, disk: usize, number: Option<u32>) -> &mut u32 {
        let device = &mut self.devices[self.owners[disk]];
        match number.map(|number| self.commands[number as usize - 1].exclusive) {
            None => &mut device.sequence_flushes,
            Some(true) => &mut device.exclusive,
            Some(false) => &mut device.plain,
        }
    }

    /// A disk has completed a clone that it held.
    pub fn ended(&mut self, disk: usize, io: &LowerIo<Bytes>, status: Status) {
        let number = self.command(io);
        self.line(|| {
            let range = range(io);
            format!(
                "        d{disk} ends {range} of {}: {}",
                name(number),
                trace::status(status)
            )
        });
        *self.under_way(disk, number) -= 1;
        self.clone_ended(self.owners[disk], number, io.op, status);
    }

    fn clone_ended(&mut self, device: usize, number: Option<u32>, op: Op, status: Status) {
        if status.is_ok() {
            return;
        }
        if status == Status::NotSupported && matches!(op, Op::Discard | Op::WriteZeroes) {
            self.devices[device].refused.push(op);
        }
        // What a target is told of a failure may be told on, once per core.
        self.messages_max += self.cores;
        if self.devices[device].paths {
            self.messages_max += 1 + self.cores;
            // MP-12: another path may help.
            if matches!(
                status,
                Status::Timeout | Status::Transport | Status::IoError
            ) {
                return;
            }
        }
        let error = match number {
            None if self.devices[device].step_blurred => return,
            None => &mut self.devices[device].step_error,
            Some(number) => &mut self.commands[number as usize - 1].error,
        };
        if error.is_none() || (op == Op::Flush && status == Status::NotSupported) {
            *error = Some(status);
        }
    }

    /// An original is completed.
    pub fn completed(&mut self, number: u32, status: Status) {
        self.called();
        self.line(|| format!("        #{number} completes: {}", trace::status(status)));
        let command = &mut self.commands[number as usize - 1];
        assert!(!command.done, "#{number} was completed twice");
        command.done = true;
        if self.devices[command.device].paths {
            return;
        }
        let state = &self.devices[command.device];
        let refused =
            state.refused.contains(&command.op) || (state.blocks && command.op == Op::WriteZeroes);
        match (status, command.error) {
            (Status::NotSupported, _) if refused => {}
            (Status::Timeout, _) if self.devices[command.device].limited => {}
            (Status::Ok, Some(error)) => {
                panic!(
                    "#{number} completed without an error, but a clone of it failed: {error:?} (FL-27)"
                )
            }
            (status, Some(error)) if status != Status::Aborted => {
                assert_eq!(
                    status, error,
                    "#{number} completed with the wrong one of its errors (IO-15, FL-6)"
                );
            }
            _ => {}
        }
        let once = !is_one(command.op) || command.written <= command.sectors;
        assert!(once, "#{number} was executed twice (IO-21, AT-77)");
    }

    /// Whether the errors below explain how an original ended.
    pub fn explains(&self, number: u32, status: Status) -> bool {
        let command = &self.commands[number as usize - 1];
        let of_sequence = command.exclusive || command.op == Op::Flush;
        let refused = &self.devices[command.device].refused;
        command.error.is_some()
            || (status == Status::NotSupported && refused.contains(&command.op))
            || (of_sequence
                && self.devices[command.device]
                    .sequence_errors
                    .contains(&status))
    }

    /// A message is sent.
    pub fn sent(&mut self, from: u16, to: u16, message: &Message) {
        self.called();
        self.line(|| format!("core {from}  tells core {to}: {}", Words(message)));
        self.messages += 1;
        let most = self.messages_max;
        assert!(self.messages <= most, "more than {most} messages: a storm");
        match message {
            Message::Order { device, order, .. } => self.ordered(device.0 as usize, order),
            Message::Event {
                device,
                event: Event::FreezeDone { .. },
            } => self.devices[device.0 as usize].freezing -= 1,
            Message::Event { .. } => {}
        }
    }

    fn ordered(&mut self, device: usize, order: &Order) {
        let state = &mut self.devices[device];
        match order {
            Order::Attach { ordered, .. } => state.ordered = *ordered,
            Order::Freeze => {
                state.freezing += 1;
                state.step_blurred = true;
            }
            Order::Flush => {
                (state.step_error, state.step_over) = (None, false);
                state.step_blurred = state.freezing > 0;
            }
            Order::RunData { .. } => {
                let failed = state
                    .step_error
                    .take()
                    .filter(|_| !state.step_over && !state.step_blurred);
                assert_eq!(
                    failed, None,
                    "the data step follows a pre-flush that failed (FL-27)"
                );
            }
            Order::Finish { status, .. } => {
                state.step_over = true;
                if let Some(error) = state.step_error.filter(|_| !state.step_blurred) {
                    assert_eq!(
                        *status, error,
                        "a flush step failed, and its sequence ends otherwise (FL-6)"
                    );
                }
                if !status.is_ok() && !state.sequence_errors.contains(status) {
                    state.sequence_errors.push(*status);
                }
            }
            _ => {}
        }
    }
}

fn range(io: &LowerIo<Bytes>) -> Range {
    Range {
        op: io.op,
        sector: io.sector,
        sectors: u64::from(io.sectors),
        fua: io.fua,
    }
}

fn name(number: Option<u32>) -> String {
    number.map_or_else(|| "a flush step".into(), |number| format!("#{number}"))
}
