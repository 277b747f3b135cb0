//! The demo's node: one multipath device over one of two disks of memory, on a port that the system chooses.

use std::sync::Arc;

use super::load::{Queue, Shared};
use super::{DEPTH, QUEUES};
use crate::bench::options::{Options, Pattern, TargetAddress};
use crate::bench::pattern::VerifyData;
use crate::bench::{Data as _, Kind, NvmeTcpTarget, Request, Target as _};
use crate::config;
use crate::dm::{Stats, SuspendOptions};
use crate::host::{Address, Controller, HostIdentity, HostOptions};
use crate::node::Node;

/// The disk beneath the device's only path.
pub const PULLED: &str = "diskA";

/// The disk that holds the same, and replaces it.
pub const REPAIRED: &str = "diskB";

/// The device.
pub const DEVICE: &str = "vol0";

const NQN: &str = "nqn.2026-11.io.polldm:demo";

/// The namespace of the device, and the one by which the other disk gets the same data.
const NSID: u32 = 1;
const NSID_OTHER: u32 = 2;

/// Bytes of a block, and of each of the host's I/Os.
const BLOCK_BYTES: u32 = 4096;

/// Blocks of each disk: 64 MiB.
const BLOCKS: u32 = 16 << 10;

/// Bytes that are written at once before the demo begins.
const PREPARED_BYTES: u32 = 128 << 10;

/// Percentage of reads.
const READ_PERCENT: u8 = 70;

/// Seed of places and patterns.
const SEED: u64 = 1;

/// With fewer processors the host's threads and more than one reactor would be in each other's way.
const CPUS_FOR_TWO_REACTORS: usize = 4;

/// What the host's I/O is like.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Bytes of an I/O.
    pub io_bytes: u32,
    /// Percentage of reads.
    pub read_percent: u8,
    /// I/O-sized places on the device.
    pub places: u64,
}

/// A running node, and what the demo does to it.
pub struct Demo {
    node: Node,
    reactors: usize,
}

impl Demo {
    /// Starts the node.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn start() -> Result<Demo, String> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let reactors = if cpus < CPUS_FOR_TWO_REACTORS { 1 } else { 2 };
        let plan = config::parse("demo", &configuration(reactors)).map_err(|e| e.to_string())?;
        let node = Node::start(&plan).map_err(|error| error.to_string())?;
        Ok(Demo { node, reactors })
    }

    /// How many reactors it has.
    pub fn reactors(&self) -> usize {
        self.reactors
    }

    /// Where the host connects.
    pub fn address(&self) -> Address {
        Address {
            nsid: Some(NSID),
            ..Address::new(self.node.addresses()[0], NQN)
        }
    }

    /// The table that is live at first.
    pub fn table(&self) -> String {
        table(PULLED)
    }

    /// Writes the same data to both disks, as a host.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn prepare(&self) -> Result<Geometry, String> {
        let address = self.address();
        self.write_all(&address)
            .map_err(|error| format!("preparing the disks: {error}"))?;
        Ok(Geometry {
            io_bytes: BLOCK_BYTES,
            read_percent: READ_PERCENT,
            places: u64::from(BLOCKS),
        })
    }

    fn write_all(&self, address: &Address) -> Result<(), crate::host::Error> {
        let mut controller =
            Controller::connect(address, &HostOptions::new(HostIdentity::random()?))?;
        let mut queues = controller.connect_io_queues(1, 1)?;
        let mut data = VerifyData::new(SEED, BLOCK_BYTES);
        let mut buffer = vec![0; PREPARED_BYTES as usize];
        let block_count = PREPARED_BYTES / BLOCK_BYTES;
        for nsid in [NSID, NSID_OTHER] {
            for lba in (0..BLOCKS).step_by(block_count as usize) {
                let request = Request {
                    lba: lba.into(),
                    block_count,
                    generation: 1,
                    tag: 0,
                    kind: Kind::Write,
                };
                data.fill(&request, 0, &mut buffer);
                queues[0].write(nsid, lba.into(), &buffer, BLOCK_BYTES)?;
                // On a slow machine all of it takes longer than the target waits for a sign of life.
                controller.tend()?;
            }
        }
        Ok(())
    }

    /// Connects the host that is measured.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn connect(&self) -> Result<Host, String> {
        let address = self.address();
        let options = Options {
            rw: Pattern::RandRw,
            rwmixread: Some(READ_PERCENT),
            bs: BLOCK_BYTES.into(),
            qd: DEPTH,
            jobs: QUEUES,
            verify: true,
            seed: SEED,
            ..Options::with_defaults(&TargetAddress::NvmeTcp(address.clone()))
        };
        let target = NvmeTcpTarget::connect(&address, &options)?;
        Ok(Host { target, options })
    }

    /// Takes the disk of the only path away, as one that is pulled.
    ///
    /// # Errors
    /// A sentence for the user; so for all that follow.
    pub fn pull(&self) -> Result<(), String> {
        let engine = self.node.engine();
        engine
            .remove_bdev(PULLED, true)
            .map_err(|error| format!("pulling {PULLED}: {error}"))
    }

    /// Suspends the device without flushing: what waits for a path goes back to the core.
    ///
    /// # Errors
    /// As [`Demo::pull`].
    pub fn suspend(&self) -> Result<(), String> {
        let options = SuspendOptions {
            noflush: true,
            ..SuspendOptions::default()
        };
        let engine = self.node.engine();
        engine
            .suspend(DEVICE, options)
            .map_err(|error| format!("suspending {DEVICE}: {error}"))
    }

    /// Loads the table on the other disk.
    ///
    /// # Errors
    /// As [`Demo::pull`].
    pub fn load(&self) -> Result<(), String> {
        let engine = self.node.engine();
        engine
            .load(DEVICE, &table(REPAIRED), false)
            .map_err(|error| format!("loading a table for {DEVICE}: {error}"))
    }

    /// Swaps that table in and lets I/O run.
    ///
    /// # Errors
    /// As [`Demo::pull`].
    pub fn resume(&self) -> Result<(), String> {
        let engine = self.node.engine();
        engine
            .resume(DEVICE, SuspendOptions::default())
            .map_err(|error| format!("resuming {DEVICE}: {error}"))
    }

    /// The device's counts.
    ///
    /// # Errors
    /// As [`Demo::pull`].
    pub fn stats(&self) -> Result<Stats, String> {
        let engine = self.node.engine();
        engine.stats(DEVICE).map_err(|error| error.to_string())
    }

    /// Stops the node.
    ///
    /// # Errors
    /// As [`Demo::pull`].
    pub fn stop(&self) -> Result<(), String> {
        // After a demo that went wrong on its way I/O may still wait for a path, and would keep the node from stopping. There is
        // nobody left to tell when this is refused, as it is on a suspended device.
        let engine = self.node.engine();
        let _ = engine.resume(DEVICE, SuspendOptions::default());
        let _ = engine.message(DEVICE, 0, vec!["fail_if_no_path".into()]);
        self.node.stop().map_err(|error| error.to_string())
    }
}

/// The host that is measured: its admin queue.
pub struct Host {
    target: NvmeTcpTarget,
    options: Options,
}

impl Host {
    /// Connects I/O queue `index`, from 0.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn queue(
        &mut self,
        index: usize,
        geometry: Geometry,
        shared: Arc<Shared>,
    ) -> Result<Queue, String> {
        let seat = self.target.seat(index, DEPTH)?;
        Queue::new(seat, &self.options, geometry, index, shared)
    }

    /// Keeps the connection alive; to be called a few times a second.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn tend(&mut self) -> Result<(), String> {
        self.target.tend()
    }
}

/// A table with one path.
fn table(disk: &str) -> String {
    let sectors = u64::from(BLOCKS) * u64::from(BLOCK_BYTES / 512);
    format!("0 {sectors} multipath 1 queue_if_no_path 0 1 1 round-robin 0 1 0 {disk}")
}

fn configuration(reactors: usize) -> String {
    let bytes = u64::from(BLOCKS) * u64::from(BLOCK_BYTES);
    let sectors = bytes / 512;
    let table = table(PULLED);
    format!(
        "\
reactors: {{ count: {reactors} }}
bdevs:
  - malloc: {{ name: {PULLED}, size: {bytes}, block_size: {BLOCK_BYTES} }}
  - malloc: {{ name: {REPAIRED}, size: {bytes}, block_size: {BLOCK_BYTES} }}
devices:
  - {{ name: {DEVICE}, table: \"{table}\" }}
  - {{ name: other, table: \"0 {sectors} linear {REPAIRED} 0\" }}
exports:
  nvmf:
    listeners: [ \"127.0.0.1:0\" ]
    subsystems:
      - nqn: {NQN}
        hosts: any
        namespaces:
          - {{ nsid: {NSID}, device: {DEVICE} }}
          - {{ nsid: {NSID_OTHER}, device: other }}
"
    )
}
